//! Why a sandbox can't be had here, and what to do.

use std::ffi::c_int;

use nix::errno::Errno;

use crate::config::{Part, Parts};
use crate::error::Error;
use crate::sys::child::Step;
use crate::sys::mounts::FileSystem;
use crate::sys::names::kernel_parameter;
use crate::sys::namespaces::root_is_no_mount;

/// What is left to do where user namespaces are forbidden.
const INSTEAD: &str = "allow it, or choose parts that need none, such as \
                       --sandbox=caps,seccomp,landlock";

/// Returns why there is no sandbox where skd itself has another root directory.
pub fn of_chroot() -> Error {
    Error::Usage(
        "--sandbox can't be used with --chroot of skd itself: there the kernel makes no user \
         namespaces"
            .into(),
    )
}

/// Returns why root has no sandbox of these parts.
pub(super) fn of_root() -> Error {
    Error::Start(
        "handlers would be root, whom these parts of --sandbox don't hold: add the part user, or \
         give them a --user"
            .into(),
    )
}

/// Returns why the handlers of a skd that isn't root have no other user in a sandbox.
pub(super) fn of_user() -> Error {
    Error::Start(
        "with the part user of --sandbox handlers have the user of skd, unless skd is root: leave \
         --user out, or the part user"
            .into(),
    )
}

/// Returns why there is no user namespace.
pub(super) fn of_users(errno: Errno) -> Error {
    let refused = |why: &str| {
        Error::Start(format!(
            "can't make the user namespace of the sandbox: {why}; {INSTEAD}"
        ))
    };
    let is = |path, value| kernel_parameter(path) == Some(value);
    match errno {
        Errno::ENOSPC | Errno::EUSERS if is("user/max_user_namespaces", 0) => {
            refused("user.max_user_namespaces is 0")
        }
        Errno::ENOSPC | Errno::EUSERS => {
            refused("there are as many as user.max_user_namespaces allows, or 32 in each other")
        }
        Errno::EINVAL => refused("the kernel has none (CONFIG_USER_NS)"),
        Errno::EPERM if root_is_no_mount() => refused(
            "skd's root directory was changed by chroot(2), and the kernel makes none under that",
        ),
        Errno::EPERM if is("kernel/unprivileged_userns_clone", 0) => {
            refused("kernel.unprivileged_userns_clone is 0, so only root may")
        }
        Errno::EPERM | Errno::EACCES if is("kernel/apparmor_restrict_unprivileged_userns", 1) => {
            refused(
                "kernel.apparmor_restrict_unprivileged_userns is 1, so only root may, and programs \
                 with an AppArmor profile that allows it",
            )
        }
        Errno::EPERM | Errno::ENOSYS => refused(
            "a system call filter refuses it, such as that of a container (for Docker, \
             --security-opt seccomp=FILE), or a security module, or skd runs under chroot(2)",
        ),
        errno => refused(errno.desc()),
    }
}

/// Returns why the ids of a user namespace can't be written.
pub(super) fn of_map(errno: Errno) -> Error {
    match errno {
        Errno::EPERM | Errno::EACCES => Error::start(
            "can't set the ids of the user namespace of the sandbox: as root this needs CAP_SETUID, \
             CAP_SETGID and CAP_SETFCAP, and in a container that --user, or nobody without it, is \
             among its users; otherwise that no security module takes the rights of new user \
             namespaces away (kernel.apparmor_restrict_unprivileged_userns)",
            errno,
        ),
        Errno::ENOENT => Error::Start(
            "can't set the ids of the user namespace of the sandbox: /proc isn't mounted".into(),
        ),
        errno => Error::start(
            "can't set the ids of the user namespace of the sandbox",
            errno,
        ),
    }
}

/// Returns why there are no other namespaces of these kinds.
pub(super) fn of_namespaces(parts: Parts, kinds: c_int, errno: Errno) -> Error {
    let limits = [
        (libc::CLONE_NEWNS, "mnt"),
        (libc::CLONE_NEWNET, "net"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWCGROUP, "cgroup"),
    ];
    let mut asked = limits.iter().filter(|(kind, _)| kinds & kind != 0);
    let what = "can't make the namespaces of the sandbox";
    match errno {
        Errno::ENOSPC => {
            let is_none =
                |name| kernel_parameter(&format!("user/max_{name}_namespaces")) == Some(0);
            let name = asked
                .find(|(_, name)| is_none(name))
                .map_or("*", |(_, name)| name);
            Error::Start(format!("{what}: user.max_{name}_namespaces allows no more"))
        }
        Errno::EINVAL => Error::Start(format!(
            "{what}: the kernel lacks one of the kinds that the parts of --sandbox ask for"
        )),
        Errno::EPERM if !parts.has(Part::User) => Error::Start(format!(
            "{what}: without the part user that needs CAP_SYS_ADMIN, which skd hasn't; add user to \
             the parts of --sandbox"
        )),
        // AppArmor lets a user namespace be made, but leaves it no capability.
        Errno::EPERM => Error::Start(format!(
            "{what}: a security module leaves user namespaces no rights \
             (kernel.apparmor_restrict_unprivileged_userns), or a system call filter refuses it; \
             {INSTEAD}"
        )),
        errno => Error::start(what, errno),
    }
}

/// Returns why user namespaces inside can't be forbidden.
pub(super) fn of_limit(errno: Errno) -> Error {
    match errno {
        Errno::EROFS | Errno::EACCES | Errno::EPERM | Errno::ENOENT => Error::start(
            "can't forbid user namespaces in the sandbox: /proc/sys/user/max_user_namespaces can't \
             be written; /proc must be mounted whole and writable (a container may mask it; for \
             Docker, --security-opt systempaths=unconfined)",
            errno,
        ),
        errno => Error::start("can't forbid user namespaces in the sandbox", errno),
    }
}

/// Returns why /proc isn't shown.
pub(super) fn of_proc(errno: Errno) -> Error {
    Error::start("can't show /proc in the sandbox: it must be mounted", errno)
}

/// Returns why there is no file system in memory.
pub(super) fn of_memory(errno: Errno) -> Error {
    let what = "can't mount a file system in memory for the sandbox";
    match errno {
        Errno::EPERM | Errno::EACCES => Error::Start(format!(
            "{what}: a security module leaves user namespaces no rights, or a system call filter \
             refuses it; {INSTEAD}"
        )),
        errno => Error::start(what, errno),
    }
}

/// Returns why the root directory can't be changed.
pub(super) fn of_pivot(errno: Errno) -> Error {
    let what = "can't change the root directory to that of the sandbox";
    match errno {
        Errno::EINVAL => Error::Start(format!(
            "{what}: skd's own isn't that of a mount, or is the kernel's initial file system \
             (change it by switch_root(8))"
        )),
        errno => Error::start(what, errno),
    }
}

/// Returns why a handler's first step fails, if there is more to say than what it is.
pub(super) fn of_step(step: Option<&Step>, errno: Errno) -> Option<Error> {
    match (step, errno) {
        (Some(Step::Mount(FileSystem { kind, .. })), Errno::EPERM) if *kind == c"proc" => {
            Some(Error::Start(format!(
                "can't mount the /proc of the sandbox: the kernel allows none in a user namespace \
                 where parts of /proc are hidden or read-only, as in a container (for Docker, \
                 --security-opt systempaths=unconfined); {INSTEAD}"
            )))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "system calls that Miri doesn't know")]
    fn a_refusal_says_what_forbids_it_and_what_to_do() {
        let text = |error: Error| error.to_string();
        let none = text(of_users(Errno::EINVAL));
        assert!(
            none.contains("CONFIG_USER_NS") && none.ends_with(INSTEAD),
            "{none}"
        );
        let many = text(of_users(Errno::ENOSPC));
        assert!(many.contains("user.max_user_namespaces"), "{many}");
        let parts = Parts::STRICT;
        let kinds = libc::CLONE_NEWNET;
        let text_of = |parts, errno| text(of_namespaces(parts, kinds, errno));
        assert!(text_of(parts, Errno::EPERM).contains("apparmor"));
        assert!(text_of(parts.without(Part::User), Errno::EPERM).contains("add user to"));
        assert!(text_of(parts, Errno::ENOSPC).contains("user.max_"));
        assert!(of_step(Some(&Step::ChangeRoot), Errno::EPERM).is_none());
    }
}
