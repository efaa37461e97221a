//! Whether this process may become the user, and enter the root directory, that its options name.
//! Asked first, so that the message has the option and what it takes.

use std::path::Path;

use nix::unistd::{Uid, getgroups, getresgid, getresuid};

use crate::config::{Account, Config, Identity, Service};
use crate::error::Error;
use crate::sys::capabilities::{Capability, has_capability};

/// Returns an error for each option that asks for what this process may not do.
pub fn faults(config: &Config) -> impl Iterator<Item = Error> + '_ {
    let daemon = &config.daemon;
    let own = daemon.identity.iter().map(|identity| {
        let option = match identity.account {
            Account::Inherited => "--drop-privileges (-U)",
            Account::Unknown | Account::Known { .. } => "--daemon-user",
        };
        (String::new(), option, identity)
    });
    let tls = daemon.tls.user.iter();
    let own = own.chain(tls.map(|identity| (String::new(), "--tls-user", identity)));
    let services = config.services.iter();
    let users = services.filter_map(|it| Some((it.label(), "--user", it.identity.as_ref()?)));
    let users = own.chain(users).filter(|(.., user)| !may_become(user));
    let users = users.map(|(label, option, identity)| {
        let user = match &identity.account {
            Account::Known { name, .. } => format!("{}", Path::new(name).display()),
            Account::Unknown | Account::Inherited => format!("user id {}", identity.uid),
        };
        refused(option, &user).about(&label)
    });
    let mut services = config.services.iter();
    let peers = services.find(|it| it.as_peer && !may_become_any());
    let peers = peers.map(|it| refused("--as-peer", "the users of clients").about(&it.label()));
    let roots = config.services.iter().filter_map(|it| it.root.as_ref());
    let root = daemon.root.iter().chain(roots).next().is_some() && !may_change_root();
    let root = root.then(|| {
        Error::Start(format!(
            "can't chroot: Operation not permitted; that needs root, or the capability \
             CAP_SYS_CHROOT, and skd runs as user id {} without it",
            Uid::effective()
        ))
    });
    users.chain(peers).chain(root)
}

fn refused(option: &str, user: &str) -> Error {
    Error::Start(format!(
        "{option}: can't become {user}: Operation not permitted; that needs root, or the capabilities \
         CAP_SETUID and CAP_SETGID, and skd runs as user id {} without them",
        Uid::effective()
    ))
}

/// Whether handlers of a service may have the users and the root directory that it names.
pub fn may_confine(service: &Service) -> bool {
    service.identity.as_ref().is_none_or(may_become)
        && (!service.as_peer || may_become_any())
        && (service.root.is_none() || may_change_root())
}

/// Whether this process may become a user, or is that user already.
pub fn may_become(identity: &Identity) -> bool {
    let same_user =
        getresuid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [identity.uid; 3]);
    let same_group =
        getresgid().is_ok_and(|ids| [ids.real, ids.effective, ids.saved] == [identity.gid; 3]);
    let same_groups = getgroups().is_ok_and(|groups| {
        let all = groups.iter().all(|group| identity.groups.contains(group));
        all && identity.groups.iter().all(|group| groups.contains(group))
    });
    let may = |same, capability| same || has_capability(capability);
    may(same_user, Capability::SetUser) && may(same_group && same_groups, Capability::SetGroup)
}

fn may_become_any() -> bool {
    has_capability(Capability::SetUser) && has_capability(Capability::SetGroup)
}

/// Whether the root directory can be changed.
pub fn may_change_root() -> bool {
    has_capability(Capability::ChangeRoot)
}
