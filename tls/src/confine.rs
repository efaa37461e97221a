//! How the process that skd starts gives up its rights, before it reads anything that a stranger has a say in.
//!
//! It is left with memory, time, and the descriptors that it is sent. It has no files: its root directory is
//! empty, Landlock allows no path, and no call opens one. It has no network: it can't make a socket. It
//! becomes another user, without capabilities, and no process of that user may trace it.

use std::os::fd::AsFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, chdir, chroot, mkdtemp, setgroups, setresgid, setresuid};
use skd::sys::capabilities::{self, Capabilities, Capability};
use skd::sys::credentials::Credentials;
use skd::sys::mounts::{self, Attributes, Detached};
use skd::sys::namespaces::{self, UserMap};
use skd::sys::{descriptors, process, sandbox, seccomp};

use crate::calls;

/// Directories in one of which a directory can be made, to be the root directory and to be removed.
const WRITABLE: [&str; 4] = ["/run", "/tmp", "/dev/shm", "/var/tmp"];

/// Keeps what this process will have in memory from others: it leaves no core, and no process of its user may
/// read it. Raises the limit of open files to what is allowed. Closes what was inherited besides the standard
/// descriptors.
pub fn prepare() -> Result<(), String> {
    process::forbid_dumping()
        .map_err(|errno| format!("can't keep others from tracing it: {}", errno.desc()))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
        .map_err(|errno| format!("can't keep it from leaving a core: {}", errno.desc()))?;
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With fewer it serves fewer.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let (input, output, errors) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    descriptors::keep_only(&[input.as_fd(), output.as_fd(), errors.as_fd()]);
    Ok(())
}

/// Gives up all rights, and becomes this user and group if they are given. The process has one thread.
///
/// Returns what this kernel, or what surrounds the process, doesn't let it give up. What matters most is an
/// error: another user, no capabilities, no new privileges.
pub fn confine(user: Option<(u32, u32)>) -> Result<Vec<String>, String> {
    let mut lacks = Vec::new();
    // Both take the right to do it, which only root has. Without, there is nothing that they would take away.
    let _ = capabilities::bound(Capabilities::NONE);
    capabilities::clear_securebits();
    let mut is_empty = false;
    if capabilities::has_capability(Capability::Administrator) {
        is_empty = enter_empty_namespaces().is_ok();
    }
    if !is_empty && capabilities::has_capability(Capability::ChangeRoot) {
        is_empty = enter_removed_directory().is_ok();
    }
    match user {
        Some((uid, gid)) => become_user(Uid::from_raw(uid), Gid::from_raw(gid))?,
        None if Uid::effective().is_root() => {
            lacks.push("it runs as root, since no other user was given".to_owned());
        }
        None => {}
    }
    if !is_empty {
        let entered = enter_own_users().and_then(|()| enter_empty_namespaces());
        if let Err(errno) = entered {
            lacks.push(format!(
                "it has no empty root directory: as another user than root that takes a user namespace ({})",
                errno.desc()
            ));
        }
        let _ = capabilities::bound(Capabilities::NONE);
    }
    let _ = capabilities::lock_securebits();
    capabilities::limit(Capabilities::NONE)
        .map_err(|errno| format!("can't give up its capabilities: {}", errno.desc()))?;
    verify(user)?;
    // A change of ids sets it as fs.suid_dumpable says.
    process::forbid_dumping()
        .map_err(|errno| format!("can't keep others from tracing it: {}", errno.desc()))?;
    sandbox::forbid_new_privileges()
        .map_err(|errno| format!("can't forbid itself new privileges: {}", errno.desc()))?;
    if let Err(errno) = sandbox::allow_files(&[]) {
        lacks.push(format!("Landlock doesn't confine it: {}", errno.desc()));
    }
    match seccomp::Filter::new(calls::rules(), false).and_then(|filter| filter.load()) {
        Ok(()) => {}
        Err(Errno::ENOSYS) if !seccomp::IS_SUPPORTED => {
            lacks.push("its system calls aren't filtered on this architecture".to_owned());
        }
        Err(errno) => lacks.push(format!(
            "its system calls aren't filtered: {}",
            errno.desc()
        )),
    }
    Ok(lacks)
}

/// Enters namespaces in which there is no file, no network and nothing to share.
fn enter_empty_namespaces() -> Result<(), Errno> {
    let kinds = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    namespaces::enter(kinds)?;
    mounts::separate(false)?;
    let nothing = Attributes::READ_ONLY
        .and(Attributes::NO_SUID)
        .and(Attributes::NO_DEVICES)
        .and(Attributes::NO_EXEC);
    let parameters = [(c"mode", c"0555"), (c"size", c"4k"), (c"nr_inodes", c"1")];
    let empty = Detached::in_memory(&parameters, nothing)?;
    let top = std::fs::File::open("/").map_err(|error| errno_of(&error))?;
    let root = empty.attach(top.as_fd())?;
    mounts::become_root(root.as_fd())
}

/// Makes a directory the root directory that is removed, so that nothing can be made in it.
fn enter_removed_directory() -> Result<(), Errno> {
    let mut made = Err(Errno::ENOENT);
    for parent in WRITABLE {
        let template = PathBuf::from(parent).join("skd-tls-XXXXXX");
        made = mkdtemp(&template);
        if made.is_ok() {
            break;
        }
    }
    let path = made?;
    let entered = chdir(&path);
    std::fs::remove_dir(&path).map_err(|error| errno_of(&error))?;
    entered?;
    chroot(".")
}

/// Enters a user namespace, where this user may make other namespaces.
fn enter_own_users() -> Result<(), Errno> {
    let ids = (Uid::effective().as_raw(), Gid::effective().as_raw());
    namespaces::enter_user(&UserMap {
        inside: ids,
        outside: ids,
        root: false,
        spare: None,
    })
}

fn become_user(uid: Uid, gid: Gid) -> Result<(), String> {
    let become_it = || {
        setgroups(&[])?;
        setresgid(gid, gid, gid)?;
        setresuid(uid, uid, uid)
    };
    become_it().map_err(|errno| {
        let more = match errno {
            Errno::EPERM => "; it needs the capabilities CAP_SETUID and CAP_SETGID for that",
            Errno::EINVAL => "; this user namespace doesn't have these ids",
            _ => "",
        };
        format!(
            "can't become user {uid} and group {gid}: {}{more}",
            errno.desc()
        )
    })
}

/// Asks the kernel whether it did what it was told to.
fn verify(user: Option<(u32, u32)>) -> Result<(), String> {
    let kept = match user {
        Some((uid, gid)) => Credentials {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            groups: Vec::new(),
        }
        .exceeded(),
        None => {
            let has_some = capabilities::held().is_ok_and(|held| !held.is_empty());
            has_some.then_some("a capability")
        }
    };
    match kept {
        Some(kept) => Err(format!("it still has {kept}")),
        None => Ok(()),
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}
