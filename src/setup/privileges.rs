//! Dropping privileges, and verifying that they are dropped.

use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{
    Gid, Uid, chdir, chroot, getgroups, getresgid, getresuid, setgid, setgroups, setresgid,
    setresuid, setuid,
};

use crate::config::Identity;
use crate::error::Error;
use crate::sys::process;

/// Makes a directory the root directory and the working directory (chroot(2)).
pub fn enter_root(directory: &Path) -> Result<(), Error> {
    // In this order: after a chroot before the chdir, the old working directory could still be
    // reached.
    chdir(directory)
        .and_then(|()| chroot("."))
        .map_err(|errno| Error::start(format!("can't chroot to {}", directory.display()), errno))
}

/// Becomes this user irrevocably. The process must have one thread.
///
/// The groups are set first, while the user id still has the right to.
pub fn drop_to(identity: &Identity) -> Result<(), Error> {
    let Identity {
        uid, gid, groups, ..
    } = identity;
    let refused = |what: String| move |errno: Errno| Error::start(what, errno);
    match setgroups(groups) {
        // A process that may not set groups may already have these.
        Err(Errno::EPERM) if current_groups() == Ok(groups.clone()) => {}
        result => result.map_err(refused("can't set the supplementary groups".into()))?,
    }
    setresgid(*gid, *gid, *gid).map_err(refused(format!("can't become group {gid}")))?;
    setresuid(*uid, *uid, *uid).map_err(refused(format!("can't become user {uid}")))?;
    process::drop_capabilities().map_err(refused("can't give up the capabilities".into()))?;
    verify(identity)
}

/// Checks that no privilege is left and that none can be regained.
fn verify(identity: &Identity) -> Result<(), Error> {
    let Identity {
        uid, gid, groups, ..
    } = identity;
    let root = Gid::from_raw(0);
    let kept = if getresuid()
        .ok()
        .map(|ids| [ids.real, ids.effective, ids.saved])
        != Some([*uid; 3])
    {
        "a user id"
    } else if getresgid()
        .ok()
        .map(|ids| [ids.real, ids.effective, ids.saved])
        != Some([*gid; 3])
    {
        "a group id"
    } else if current_groups().as_ref() != Ok(groups) {
        "a supplementary group"
    } else if process::has_capabilities() != Ok(false) {
        "a capability"
    } else if setuid(Uid::from_raw(0)).is_ok() {
        "the right to become root again"
    } else if *gid != root && setgid(root).is_ok() {
        "the right to become group 0 again"
    } else {
        return Ok(());
    };
    Err(Error::Start(format!(
        "privileges were not dropped in full: {kept} was kept; skd doesn't run like this"
    )))
}

fn current_groups() -> Result<Vec<Gid>, Errno> {
    let mut groups = getgroups()?;
    groups.sort_unstable_by_key(|group| group.as_raw());
    groups.dedup();
    Ok(groups)
}
