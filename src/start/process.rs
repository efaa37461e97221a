//! Steps that concern the process as a whole: pid file, launcher, root directory and user, and the
//! last step before clients connect, listening.

use crate::child::environment::Variables;
use crate::config::{Daemon, Identity, Service};
use crate::error::Error;
use crate::net::Listener;
use crate::report;
use crate::setup::{Manager, PidFile, Ready, ReadyFd, Side, privileges};

pub(super) fn lock_pidfile(daemon: &Daemon) -> Result<Option<PidFile>, Error> {
    daemon.pidfile.as_deref().map(PidFile::lock).transpose()
}

pub(super) fn write_pidfile(pidfile: &mut Option<PidFile>) -> Result<(), Error> {
    match pidfile {
        Some(pidfile) => pidfile.write(std::process::id()),
        None => Ok(()),
    }
}

/// Forks a launcher where one is needed, while there is one thread. The service's side gets its
/// word to the launcher. The launcher of a success gets `None`; that of a failure has an error that
/// was told, and removes what it holds, with rights that the service may have given up.
pub(super) fn split(
    daemon: &Daemon,
    identity: Option<&Identity>,
    manager: Option<&mut Manager>,
    ready_fd: Option<ReadyFd>,
) -> Result<Option<Ready>, Error> {
    let drops = identity.is_some() || daemon.root.is_some();
    let side = match (daemon.background, drops) {
        (true, _) => Ready::in_background(manager),
        (false, true) => Ready::with_launcher(),
        (false, false) => Ready::alone(),
    };
    match side? {
        Side::Service(mut ready) => {
            ready.tell_descriptor(ready_fd);
            Ok(Some(ready))
        }
        Side::Launcher(0) => Ok(None),
        Side::Launcher(status) => Err(Error::Told(status)),
    }
}

/// Runs the rest of the start. If it fails, the caller is told when all that it made has been
/// removed, as far as that is still allowed.
pub(super) fn service_side(
    ready: Ready,
    rest: impl FnOnce(&mut Option<Ready>) -> Result<u8, Error>,
) -> Result<u8, Error> {
    let mut ready = Some(ready);
    match (rest(&mut ready), ready) {
        (Err(error), Some(ready)) => {
            ready.failed(&error);
            Err(match error {
                Error::Ended(_) => error,
                _ => Error::Told(error.status()),
            })
        }
        (result, _) => result,
    }
}

/// Leaves the root directory, then root: in this order, for the first needs rights that the second
/// takes away.
pub(super) fn give_up_rights(daemon: &Daemon, identity: Option<&Identity>) -> Result<(), Error> {
    if let Some(root) = &daemon.root {
        privileges::enter_root(root)?;
    }
    identity.map_or(Ok(()), privileges::drop_to)
}

/// Returns the user that the process becomes: that of all services. It can become one only.
pub(super) fn identity(services: &[Service]) -> Result<Option<Identity>, Error> {
    let mut all = services.iter();
    let Some(first) = all.next() else {
        return Ok(None);
    };
    match all.find(|service| service.identity != first.identity) {
        None => Ok(first.identity.clone()),
        Some(other) => Err(Error::Usage(format!(
            "services {} and {} have different users: skd becomes one user for all of them; give \
             both the same, or run another skd",
            first.name, other.name
        ))),
    }
}

/// The environment of a program, but for what skd sets for each client.
pub(super) fn inherited_variables(service: &Service) -> Variables {
    let account = service.identity.as_ref().map(|identity| &identity.account);
    Variables::inherited(account, &service.surroundings.environment)
}

/// Writes the pid file, by the process that has the id, and before any client can connect; then
/// listens. Returns the ports to be announced.
pub(super) fn publish<'a>(
    pidfile: &mut Option<PidFile>,
    listeners: impl Iterator<Item = &'a Listener> + Clone,
) -> Result<Vec<u16>, Error> {
    write_pidfile(pidfile)?;
    for listener in listeners.clone() {
        listener.listen()?;
    }
    Ok(listeners.filter_map(Listener::announced_port).collect())
}

/// Prints the ports that the kernel chose.
pub(super) fn announce(ports: &[u16]) -> Result<(), Error> {
    for port in ports {
        report::answer(&format!("{port}\n"))
            .map_err(|reason| Error::start("the port can't be printed", reason))?;
    }
    Ok(())
}
