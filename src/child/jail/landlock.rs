//! What handlers are left by landlock(7): the paths of a sandbox where a mount namespace can't be had,
//! and nothing of the sockets and processes of other handlers.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::etc;
use super::tree::{DEVICES, Named, OF_USR};
use crate::config::{MountKind, Part, Sandbox};
use crate::error::{At, Error};
use crate::sys::sandbox::{self, Access, Rules, scopes_abstract_sockets};

/// The rules that each handler of a sandbox takes, if there are some. `program` is the path of PROG.
pub(super) fn rules(sandbox: &Sandbox, program: &Path) -> Result<Option<OwnedFd>, Error> {
    let parts = sandbox.parts;
    let rules = if parts.has(Part::Landlock) {
        sandbox::has_all_of_landlock().map_err(lacking)?;
        // A root directory of its own shows only what may be used; and of a file system that a handler
        // mounts there can be no rule before.
        let has_files = !parts.has(Part::Mount);
        let rules = Rules::new(has_files, !sandbox.shares_net).map_err(failed)?;
        if has_files {
            allow_paths(&rules, sandbox, program)?;
        }
        rules
    } else if (parts.has(Part::Net) || sandbox.shares_net) && scopes_abstract_sockets() {
        // Handlers share the network namespace, and so its abstract addresses: with one another, or
        // with the host, whose network they may use, but not its processes.
        Rules::new(false, false).map_err(failed)?
    } else {
        return Ok(None);
    };
    sandbox::forbid_new_privileges().map_err(failed)?;
    Ok(Some(rules.into_descriptor()))
}

/// What a root directory of its own would show.
fn allow_paths(rules: &Rules, sandbox: &Sandbox, program: &Path) -> Result<(), Error> {
    // What isn't there has no rights.
    let allow_if_there = |path: &Path, access| match allow(rules, path, access) {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::ELOOP) => Ok(()),
        result => result.map_err(failed),
    };
    let root = Path::new("/");
    for name in ["usr"].into_iter().chain(OF_USR) {
        allow_if_there(&root.join(name), Access::READ)?;
    }
    for path in etc::paths() {
        allow_if_there(&path, Access::LOOK)?;
    }
    for name in DEVICES.into_iter().chain(["random"]) {
        allow_if_there(&root.join("dev").join(name), Access::DEVICE)?;
    }
    allow_if_there(Path::new("/proc"), Access::LOOK)?;
    allow_if_there(program, Access::READ)?;
    for mount in &sandbox.mounts {
        let (from, access) = match &mount.kind {
            MountKind::ReadOnly(from) => (from, Access::READ),
            MountKind::ReadWrite(from) => (from, Access::EVERYTHING),
            MountKind::Memory(_) => continue,
        };
        allow(rules, from, access).map_err(|errno| {
            Error::start(format!("{} can't be shown", Named(mount)), At(errno, from))
        })?;
    }
    Ok(())
}

fn allow(rules: &Rules, path: &Path, access: Access) -> Result<(), Errno> {
    // Not by OpenOptions: to the C library of static builds O_PATH is an access mode, and those it drops.
    let named = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    rules.allow(named.as_fd(), access)
}

fn failed(errno: Errno) -> Error {
    Error::start("can't make the Landlock rules of the sandbox", errno)
}

fn lacking(errno: Errno) -> Error {
    let why = match errno {
        Errno::EOPNOTSUPP => "it isn't enabled in this kernel (lsm= of its command line)",
        Errno::EPERM => "a system call filter refuses it",
        _ => "it needs Linux 6.12 or later",
    };
    Error::Start(format!(
        "can't have the part landlock of the sandbox: {why}; choose others"
    ))
}
