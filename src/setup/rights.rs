//! Whether this process may become the user, and enter the root directory, that its options name.
//! Asked first, so that the message has the option and what it takes.

use std::path::Path;

use nix::unistd::{getgroups, getresgid, getresuid};

use crate::config::{Account, Identity};
use crate::error::Error;
use crate::sys::capabilities::{Capability, has_capability};

/// Fails if the user can't become another one as it must.
pub fn check_user(identity: &Identity) -> Result<(), Error> {
    let same_user =
        getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [identity.uid; 3]);
    let same_group =
        getresgid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [identity.gid; 3]);
    let same_groups = getgroups().is_ok_and(|groups| {
        let all = groups.iter().all(|group| identity.groups.contains(group));
        all && identity.groups.iter().all(|group| groups.contains(group))
    });
    let may = |same, capability| same || has_capability(capability);
    if may(same_user, Capability::SetUser) && may(same_group && same_groups, Capability::SetGroup) {
        return Ok(());
    }
    let option = match identity.account {
        Account::Inherited => "--drop-privileges (-U)",
        Account::Unknown | Account::Known { .. } => "--user",
    };
    let user = match &identity.account {
        Account::Known { name, .. } => format!("{}", Path::new(name).display()),
        Account::Unknown | Account::Inherited => format!("user id {}", identity.uid),
    };
    Err(Error::Start(format!(
        "{option}: can't become {user}: Operation not permitted; that needs root, or the capabilities \
         CAP_SETUID and CAP_SETGID, and skd runs as user id {} without them",
        nix::unistd::Uid::effective()
    )))
}

/// Fails if the root directory can't be changed.
pub fn check_root() -> Result<(), Error> {
    if has_capability(Capability::ChangeRoot) {
        return Ok(());
    }
    Err(Error::Start(format!(
        "can't chroot: Operation not permitted; that needs root, or the capability CAP_SYS_CHROOT, \
         and skd runs as user id {} without it",
        nix::unistd::Uid::effective()
    )))
}
