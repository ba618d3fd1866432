//! Users and groups of this machine, as `/etc/passwd` and `/etc/group` have them, and those of the image on hosts whose system
//! is an image (`/usr/lib/passwd`).
//!
//! Not by the C library's look-up: it loads modules of the distribution (`nsswitch.conf`) into whoever asks, which programs
//! that are linked statically cannot do safely, and a privileged process should not. System users are always in the files;
//! those of a directory service are shown by number.

use std::fs;

const USERS: [&str; 2] = ["/etc/passwd", "/usr/lib/passwd"];
const GROUPS: [&str; 2] = ["/etc/group", "/usr/lib/group"];

/// A user: number and primary group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The number.
    pub uid: u32,
    /// Of the primary group.
    pub gid: u32,
}

/// The user of that name.
pub fn user(name: &str) -> Option<User> {
    user_in(&read(&USERS), name)
}

/// The name of the user with that number.
pub fn user_name(uid: u32) -> Option<String> {
    name_in(&read(&USERS), uid)
}

/// Primary group and further ones of the user with that number.
pub fn groups_of(uid: u32) -> Option<(u32, Vec<u32>)> {
    let users = read(&USERS);
    let name = name_in(&users, uid)?;
    Some((user_in(&users, &name)?.gid, groups_in(&read(&GROUPS), &name)))
}

/// The number of the group of that name.
pub fn group(name: &str) -> Option<u32> {
    number_in(&read(&GROUPS), name)
}

/// The name of the group with that number.
pub fn group_name(gid: u32) -> Option<String> {
    name_in(&read(&GROUPS), gid)
}

/// What cannot be read names nobody. The first file comes first, and wins.
fn read(paths: &[&str]) -> String {
    let texts = paths.iter().filter_map(|path| fs::read(path).ok());
    let texts: Vec<_> = texts.map(|text| String::from_utf8_lossy(&text).into_owned()).collect();
    texts.join("\n")
}

/// Fields of a line, see passwd(5) and group(5): name, password, number, then what differs.
fn lines(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let number = fields.nth(1)?.parse().ok()?;
        Some((name, number, fields.next().unwrap_or_default()))
    })
}

fn user_in(text: &str, name: &str) -> Option<User> {
    let (_, uid, group) = lines(text).find(|(is, ..)| *is == name)?;
    Some(User { uid, gid: group.parse().ok()? })
}

fn number_in(text: &str, name: &str) -> Option<u32> {
    lines(text).find(|(is, ..)| *is == name).map(|(_, number, _)| number)
}

/// Groups that name a user as a member.
fn groups_in(text: &str, user: &str) -> Vec<u32> {
    let members = lines(text).filter(|(.., members)| members.split(',').any(|it| it == user));
    members.map(|(_, number, _)| number).collect()
}

fn name_in(text: &str, number: u32) -> Option<String> {
    lines(text).find(|(_, is, _)| *is == number).map(|(name, ..)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "root:x:0:0:root:/root:/bin/bash\n\
        # a remark\n\
        broken:x\n\
        :x:5:5::/:\n\
        aisix-worker:x:998:997::/nonexistent:/usr/sbin/nologin\n\
        strange:x:many:1::/:\n\
        +@network::::::\n";

    #[test]
    fn users_are_found_by_name_and_by_number() {
        assert_eq!(user_in(TEXT, "aisix-worker"), Some(User { uid: 998, gid: 997 }));
        assert_eq!(name_in(TEXT, 0).as_deref(), Some("root"));
        assert_eq!((user_in(TEXT, "aisix"), name_in(TEXT, 5)), (None, None));
    }

    #[test]
    fn lines_that_are_none_name_nobody() {
        for name in ["broken", "strange", "", "# a remark", "+@network"] {
            assert_eq!(user_in(TEXT, name), None, "{name}");
        }
    }

    #[test]
    fn groups_have_the_number_in_the_same_place() {
        let text = "root:x:0:\naisix:x:996:alice,bob\n";
        assert_eq!(number_in(text, "aisix"), Some(996));
        assert_eq!(name_in(text, 996).as_deref(), Some("aisix"));
        assert_eq!(number_in(text, "alice"), None);
        assert_eq!((groups_in(text, "bob"), groups_in(text, "bo")), (vec![996], vec![]));
    }

    #[test]
    fn this_machine_has_a_root_and_no_user_without_a_name() {
        assert_eq!(user("root"), Some(User { uid: 0, gid: 0 }));
        assert_eq!((user_name(0).as_deref(), group("root")), (Some("root"), Some(0)));
        assert_eq!((user(""), group_name(u32::MAX)), (None, None));
    }
}
