//! Dropping privileges, and verifying that they are dropped.

use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, chdir, chroot, setgroups, setresgid, setresuid};

use crate::config::{Identity, Limit, Part, Service};
use crate::error::Error;
use crate::sys::capabilities::{self, Capabilities, Capability, Held};
use crate::sys::child::SUID_DUMPABLE;
use crate::sys::credentials::Credentials;
use crate::sys::keyring;
use crate::sys::names::kernel_parameter;
use crate::sys::process::{self, limit_of_this_process, own_nice};
use crate::sys::users::overflow_ids;

/// Makes a directory the root directory and the working directory (chroot(2)).
pub fn enter_root(directory: &Path) -> Result<(), Error> {
    // In this order: after a chroot before the chdir, the old working directory could still be
    // reached.
    chdir(directory)
        .and_then(|()| chroot("."))
        .map_err(|errno| Error::start(format!("can't chroot to {}", directory.display()), errno))
}

/// Leaves the session keyring that skd was started with: see [`keyring::leave_session`].
///
/// A start that can't have a keyring of its own fails. No other call takes the caller's from a
/// process: revoking or clearing it takes its keys from the caller's session too.
pub fn leave_keyring() -> Result<(), Error> {
    keyring::leave_session().map_err(|errno| {
        let what = "can't leave the session keyring of the caller, whose keys handlers would have";
        match errno {
            Errno::EDQUOT => Error::Start(format!("{what}: {}", quota_of_keys(Uid::effective()))),
            errno => Error::start(what, errno),
        }
    })
}

/// Says which limits a user has reached (keyrings(7), /proc files).
fn quota_of_keys(user: Uid) -> String {
    let root = if user.is_root() { "root_" } else { "" };
    format!(
        "user {user} has as many keys as the kernel allows, see /proc/key-users; raise \
         kernel.keys.{root}maxkeys or kernel.keys.{root}maxbytes (sysctl(8)), or remove keys"
    )
}

/// Becomes this user irrevocably. The process must have one thread.
///
/// The groups are set first, while the user id still has the right to.
pub fn drop_to(identity: &Identity) -> Result<(), Error> {
    let Identity {
        uid, gid, groups, ..
    } = identity;
    let user = credentials(identity);
    let refused = |what: String| move |errno: Errno| Error::start(what, errno);
    match setgroups(groups) {
        // A process that may not set groups may already have these.
        Err(Errno::EPERM) if user.has_groups() => {}
        result => result.map_err(refused("can't set the supplementary groups".into()))?,
    }
    setresgid(*gid, *gid, *gid).map_err(refused(format!("can't become group {gid}")))?;
    setresuid(*uid, *uid, *uid).map_err(refused(format!("can't become user {uid}")))?;
    capabilities::clear_securebits();
    capabilities::limit(Capabilities::NONE)
        .map_err(refused("can't give up the capabilities".into()))?;
    user.exceeded()
        .map_or(Ok(()), |kept| Err(not_in_full(kept)))
}

/// The user and groups of an identity.
fn credentials(identity: &Identity) -> Credentials {
    Credentials {
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups.clone(),
    }
}

/// Returns the user that handlers of a service become: in a sandbox with users of its own never root,
/// unless that is asked for. With `--as-peer`, the user of the proof at
/// the start, which stands for users that this process can't name, and whose clients are refused.
pub fn user_of_handlers(service: &Service) -> Option<Credentials> {
    if service.as_peer {
        let (uid, gid) = overflow_ids();
        let gid = Gid::from_raw(gid);
        return Some(Credentials {
            uid: Uid::from_raw(uid),
            gid,
            groups: vec![gid],
        });
    }
    let sandbox = service.isolation.sandbox.as_ref();
    let has_users = sandbox.is_some_and(|it| it.parts.has(Part::User));
    let nobody = (has_users && Uid::effective().is_root()).then(|| {
        let (uid, gid) = overflow_ids();
        Credentials {
            uid: Uid::from_raw(uid),
            gid: Gid::from_raw(gid),
            groups: Vec::new(),
        }
    });
    service.identity.as_ref().map(credentials).or(nobody)
}

/// Returns the capabilities that starting handlers takes after the sockets are bound, if skd can do
/// without the others: if each service has a user.
///
/// To change users and to signal their processes; more only for what a service asks for. None of
/// them opens files of others.
fn needed(services: &[Service]) -> Option<Capabilities> {
    let changes = [Capability::SetUser, Capability::SetGroup, Capability::Kill];
    let mut needed: Capabilities = changes.into_iter().collect();
    for service in services {
        let user = user_of_handlers(service)?;
        let surroundings = &service.surroundings;
        let raises = |limit: &Limit| {
            let own = limit_of_this_process(limit.resource);
            own.is_none_or(|(_, hard)| limit.hard > hard)
        };
        let sandbox = service.isolation.sandbox.as_ref();
        let more = [
            (Capability::ChangeRoot, service.root.is_some()),
            (Capability::Resource, surroundings.limits.iter().any(raises)),
            (
                Capability::Nice,
                surroundings.nice.is_some_and(|nice| nice < own_nice()),
            ),
            // The users of a sandbox are skd's to set, and root is among them.
            (
                Capability::FileCapabilities,
                sandbox.map_or(service.isolation.contains, |it| it.parts.has(Part::User)),
            ),
            (
                Capability::Administrator,
                sandbox.is_some_and(|it| !it.parts.has(Part::User)),
            ),
            (
                Capability::Trace,
                service.prestart.is_some() && user.uid != Uid::effective(),
            ),
        ];
        let more = more.into_iter().filter(|(_, needs)| *needs);
        needed = more.fold(needed, |all, (capability, _)| all.with(capability));
    }
    Some(needed)
}

/// Gives up the rights that starting handlers doesn't take, but for `more`, if skd can do without.
pub fn keep_needed(services: &[Service], more: Capabilities) -> Result<(), Error> {
    let Some(needed) = needed(services) else {
        return Ok(());
    };
    // What replaces skd has no memory in common with it, and isn't ended by it.
    let replaces =
        |service: &Service| service.listeners.is_empty() && service.mode.supervised().is_none();
    if !services.iter().all(replaces) {
        check_handlers()?;
    }
    let mut services = services.iter();
    let forever = services.all(|service| service.surroundings.no_new_privileges);
    keep_only(needed.union(more), forever)
}

/// Fails where handlers of other users could reach skd, or skd couldn't reach them.
fn check_handlers() -> Result<(), Error> {
    if kernel_parameter(SUID_DUMPABLE) == Some(1) {
        return Err(Error::Start(format!(
            "--user can't be used while fs.suid_dumpable is 1: other processes of the user could \
             read and change skd's memory when a handler starts; set it to 0 or 2 (sysctl {}=0)",
            SUID_DUMPABLE.replace('/', ".")
        )));
    }
    let held = capabilities::held().map_err(not_given_up)?;
    if held.permitted.has(Capability::SetUser) && !held.permitted.has(Capability::Kill) {
        return Err(Error::Start(
            "--user needs the capability CAP_KILL too: skd couldn't end its handlers".into(),
        ));
    }
    Ok(())
}

fn not_given_up(errno: Errno) -> Error {
    Error::start("can't give up the capabilities", errno)
}

/// What binding the sockets of a new service may take besides.
pub fn binding() -> Capabilities {
    let all = [
        Capability::BindService,
        Capability::AdministerNetwork,
        Capability::RawSocket,
        Capability::ChangeOwner,
        Capability::Owner,
    ];
    all.into_iter().collect()
}

/// Gives up all capabilities but these, and proves it. The user stays. The process must have one
/// thread.
///
/// The bounding set stays, since handlers' set-user-id programs need it, unless `forever`: then an
/// exec as root gives back no others either.
fn keep_only(kept: Capabilities, forever: bool) -> Result<(), Error> {
    capabilities::clear_securebits();
    let held = capabilities::held().map_err(not_given_up)?;
    if forever && held.effective.has(Capability::SetCapabilities) {
        capabilities::bound(kept).map_err(not_given_up)?;
    }
    capabilities::limit(kept).map_err(not_given_up)?;
    // No other process without capabilities of its own reads skd's memory, not even of root.
    process::forbid_dumping().map_err(not_given_up)?;
    let left = capabilities::held().map_err(not_given_up)?;
    let allowed = kept.intersection(held.permitted);
    let expected = Held {
        effective: allowed,
        permitted: allowed,
        ..Held::default()
    };
    if left != expected {
        Err(not_in_full("a capability"))
    } else if capabilities::odd_securebits() != Ok(0) {
        Err(not_in_full("a securebit"))
    } else {
        Ok(())
    }
}

fn not_in_full(kept: &str) -> Error {
    Error::Start(format!(
        "privileges were not dropped in full: {kept} was kept; skd doesn't run like this"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_of_keys_are_those_of_the_user() {
        assert!(quota_of_keys(Uid::from_raw(0)).contains(" kernel.keys.root_maxkeys "));
        assert!(quota_of_keys(Uid::from_raw(1)).contains(" kernel.keys.maxkeys "));
    }
}
