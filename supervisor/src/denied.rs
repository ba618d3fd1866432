//! Why a file is closed to us: which part of its path, whose that is, and what opens it to us and to nobody else.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{getegid, geteuid, getgroups};

use crate::accounts;

/// Whom a file must be open to.
#[derive(Debug)]
struct Us {
    who: &'static str,
    user: u32,
    group: u32,
    groups: Vec<u32>,
}

/// Owner, group and mode of a part of a path.
#[derive(Clone, Copy, Debug)]
struct Part {
    user: u32,
    group: u32,
    mode: u32,
    is_folder: bool,
}

/// What to add to "permission denied" for a file that we wanted to read.
pub fn reason(path: &Path) -> String {
    let groups = getgroups().unwrap_or_default().into_iter().map(|group| group.as_raw()).collect();
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let us = Us { who: "this process", user, group, groups };
    us.closed(path).unwrap_or_else(|| {
        "its owner, group and mode would let this process; a security module forbids it (SELinux: mount the folder with `:z`)"
            .to_owned()
    })
}

/// Why a file is closed to the user of a gateway that does not run, as root sees it; `None` where it is not, or that user has
/// no entry in the files of users.
pub fn to_gateway(path: &Path, user: u32) -> Option<String> {
    let (group, groups) = accounts::groups_of(user)?;
    Us { who: "the gateway", user, group, groups }.closed(path)
}

impl Us {
    fn closed(&self, path: &Path) -> Option<String> {
        let mut parts: Vec<_> = path.ancestors().filter(|it| !it.as_os_str().is_empty()).collect();
        parts.reverse();
        for part in parts {
            // What cannot be looked at is in a folder that was found closed just before.
            let found = fs::metadata(part).map(|it| Part::from(&it)).ok()?;
            if !self.may(&found) {
                return Some(self.tell(part, &found, path));
            }
        }
        None
    }
}

impl From<&Metadata> for Part {
    fn from(it: &Metadata) -> Self {
        Self { user: it.uid(), group: it.gid(), mode: it.mode() & 0o7777, is_folder: it.is_dir() }
    }
}

impl Us {
    /// Whether we may read the file, or get through the folder.
    fn may(&self, part: &Part) -> bool {
        let wanted = if part.is_folder { 0o1 } else { 0o4 };
        let granted = if part.user == self.user {
            part.mode >> 6
        } else if part.group == self.group || self.groups.contains(&part.group) {
            part.mode >> 3
        } else {
            part.mode
        };
        granted & wanted != 0
    }

    fn tell(&self, at: &Path, part: &Part, file: &Path) -> String {
        let (Self { who, user, group, .. }, shown) = (self, at.display());
        // A folder of which we may read nothing holds files that nobody has opened to us either.
        let all = if file.parent() == Some(at) { "-R " } else { "" };
        let remedy = if part.user == self.user {
            format!("`chmod {all}u+rX {shown}`")
        } else if part.group == self.group {
            format!("`chmod {all}g+rX {shown}`")
        } else {
            format!("`chgrp {all}{group} {shown} && chmod {all}g+rX {shown}`")
        };
        format!(
            "{shown} is of user {} and group {} with mode {:04o}, and {who} of user {user} and group {group}: {remedy} opens it; what is mounted into a container is opened outside, by its path there",
            part.user, part.group, part.mode
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: Us = Us { who: "this process", user: 10_001, group: 0, groups: Vec::new() };

    fn part(user: u32, group: u32, mode: u32, is_folder: bool) -> Part {
        Part { user, group, mode, is_folder }
    }

    #[test]
    fn a_folder_must_let_us_through_and_a_file_be_readable_by_the_first_class_that_we_are_in() {
        assert!(US.may(&part(0, 0, 0o710, true)) && !US.may(&part(0, 0, 0o700, true)));
        assert!(US.may(&part(0, 0, 0o640, false)) && !US.may(&part(0, 0, 0o600, false)));
        assert!(US.may(&part(7, 7, 0o604, false)) && !US.may(&part(7, 7, 0o660, false)));
        assert!(!US.may(&part(10_001, 0, 0o044, false)), "an owner is nobody else");
        let member = Us { groups: vec![7], ..US };
        assert!(member.may(&part(7, 7, 0o640, false)));
    }

    #[test]
    fn the_remedy_is_the_least_that_opens_what_is_closed() {
        let (folder, key) = (Path::new("/etc/aisix/mtls"), Path::new("/etc/aisix/mtls/client.key"));
        let told = US.tell(folder, &part(0, 0, 0o700, true), key);
        assert!(told.contains("`chmod -R g+rX /etc/aisix/mtls`"), "{told}");
        assert!(told.contains("user 0 and group 0 with mode 0700"), "{told}");
        let told = US.tell(key, &part(1000, 1000, 0o600, false), key);
        assert!(told.contains("`chgrp 0 /etc/aisix/mtls/client.key && chmod g+rX"), "{told}");
        let told = US.tell(Path::new("/etc"), &part(0, 0, 0o700, true), key);
        assert!(told.contains("`chmod g+rX /etc`"), "{told}");
    }
}
