//! The user and groups of a process (credentials(7)), and the proof that it has no other rights.

use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgid, setuid};

use super::capabilities;

/// The call that takes ids of 32 bits, for the calling thread alone. The C library's function of the
/// name sets the groups of all threads together.
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
pub(super) const SETGROUPS: libc::c_long = libc::SYS_setgroups32;
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
pub(super) const SETGROUPS: libc::c_long = libc::SYS_setgroups;

/// User, group and supplementary groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: Uid,
    /// Group id.
    pub gid: Gid,
    /// All supplementary groups, sorted.
    pub groups: Vec<Gid>,
}

impl Credentials {
    /// What the calling process has kept beyond these, if it has; or the right to regain it. It has
    /// one thread, and is to be root no more.
    pub fn exceeded(&self) -> Option<&'static str> {
        let root = Gid::from_raw(0);
        let users = getresuid().ok();
        let groups = getresgid().ok();
        if users.map(|ids| [ids.real, ids.effective, ids.saved]) != Some([self.uid; 3]) {
            Some("a user id")
        } else if groups.map(|ids| [ids.real, ids.effective, ids.saved]) != Some([self.gid; 3]) {
            Some("a group id")
        } else if !self.has_groups() {
            Some("a supplementary group")
        } else if !capabilities::held().is_ok_and(|held| held.is_empty()) {
            Some("a capability")
        } else if capabilities::odd_securebits() != Ok(0) {
            Some("a securebit")
        } else if !self.uid.is_root() && setuid(Uid::from_raw(0)).is_ok() {
            Some("the right to become root again")
        } else if self.gid != root && setgid(root).is_ok() {
            Some("the right to become group 0 again")
        } else {
            None
        }
    }

    /// Whether the supplementary groups of the calling process are these.
    pub fn has_groups(&self) -> bool {
        let Ok(mut groups) = getgroups() else {
            return false;
        };
        in_order(&mut groups);
        groups == self.groups
    }
}

/// Sorts groups, and leaves each once.
pub fn in_order(groups: &mut Vec<Gid>) {
    groups.sort_unstable_by_key(|group| group.as_raw());
    groups.dedup();
}
