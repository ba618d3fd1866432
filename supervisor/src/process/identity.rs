//! Which user each role runs as: the system user of the role, else a number that nobody else has.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::unistd::{Gid, Uid};
use shared::id::Role;

use super::own::may_switch_user;
use crate::accounts;

/// User and group of each role. Empty if we may not change user: then every process runs as our own.
#[derive(Clone, Debug, Default)]
pub struct Users {
    roles: HashMap<Role, (Uid, Gid)>,
    /// Roles whose user the system knows by name.
    named: BTreeSet<Role>,
}

impl Users {
    /// Chooses a user per role. Where the system has none of that name, numbers from `base` are taken, without those that
    /// have an entry in the user database or a running process.
    /// `ours` have processes, and those are workers of ours.
    pub fn choose(base: u32, ours: &[u32]) -> Self {
        if !may_switch_user() || !has_room(base) {
            return Self::default();
        }
        let busy = running_users();
        let is_free = |uid: u32| {
            (!busy.contains(&uid) || ours.contains(&uid)) && accounts::user_name(uid).is_none()
        };
        let roles = assign(base, named, is_free);
        let named = Role::ALL.into_iter().filter(|role| named(*role).is_some()).collect();
        Self { roles, named }
    }

    /// The name of the user that a process of that role has, if it is the system's user for it.
    pub fn name(&self, role: Role, uid: u32) -> Option<&'static str> {
        let (is, _) = self.of(role)?;
        (is.as_raw() == uid && self.named.contains(&role)).then(|| role.user())
    }

    /// Our own user, if it is that of every process.
    pub fn single(&self) -> Option<u32> {
        self.roles.is_empty().then(|| nix::unistd::geteuid().as_raw())
    }

    /// User and group of a role, if we may choose.
    pub fn of(&self, role: Role) -> Option<(Uid, Gid)> {
        self.roles.get(&role).copied()
    }
}

/// Whether the user namespace that we are in knows the numbers from `base`, and lets groups be given up. One that knows a
/// single user, as `unshare --map-root-user` makes it, has nobody else to be.
fn has_room(base: u32) -> bool {
    let read = |name: &str| fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let last = base.saturating_add(Role::ALL.len() as u32);
    let knows = |map: &str| is_mapped(map, base) && is_mapped(map, last);
    read("setgroups").trim() != "deny" && knows(&read("uid_map")) && knows(&read("gid_map"))
}

/// Lines of `inside outside count`, see user_namespaces(7).
fn is_mapped(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(inside)), Some(Ok(_)), Some(Ok(count))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        (inside..inside.saturating_add(count)).contains(&u64::from(id))
    })
}

fn named(role: Role) -> Option<(Uid, Gid)> {
    let user = accounts::user(role.user())?;
    Some((Uid::from_raw(user.uid), Gid::from_raw(user.gid)))
}

fn assign(
    base: u32,
    named: impl Fn(Role) -> Option<(Uid, Gid)>,
    is_free: impl Fn(u32) -> bool,
) -> HashMap<Role, (Uid, Gid)> {
    let mut free = (base..u32::MAX).filter(|uid| is_free(*uid));
    Role::ALL
        .into_iter()
        .filter_map(|role| {
            let user = named(role).or_else(|| {
                let number = free.next()?;
                Some((Uid::from_raw(number), Gid::from_raw(number)))
            });
            Some((role, user?))
        })
        .collect()
}

/// Owners of the processes there are.
fn running_users() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
        .filter_map(|entry| Some(entry.metadata().ok()?.uid()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_knows_the_numbers_of_its_map_and_no_others() {
        let whole = "         0          0 4294967295\n";
        assert!(is_mapped(whole, 0) && is_mapped(whole, 61_000));
        let parts = "0 1000 1\n1 100000 65536\n";
        assert!(is_mapped(parts, 65_536) && !is_mapped(parts, 65_537));
        assert!(!is_mapped("0 1000 1\n", 61_000) && !is_mapped("", 0) && !is_mapped("x y z", 0));
    }

    #[test]
    fn every_role_has_a_user_of_its_own_that_nobody_else_has() {
        let users = assign(61_000, |_| None, |uid| uid != 61_000 && uid != 61_002);
        let mut numbers: Vec<_> = users.values().map(|(uid, _)| uid.as_raw()).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [61_001, 61_003, 61_004, 61_005, 61_006, 61_007]);
    }

    #[test]
    fn the_named_user_of_a_role_is_preferred() {
        let named =
            |role| (role == Role::Proxy).then_some((Uid::from_raw(998), Gid::from_raw(997)));
        let users = assign(61_000, named, |_| true);
        assert_eq!(users[&Role::Proxy], (Uid::from_raw(998), Gid::from_raw(997)));
        assert_eq!(users[&Role::Status], (Uid::from_raw(61_000), Gid::from_raw(61_000)));
    }
}
