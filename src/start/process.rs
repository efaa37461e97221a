//! Steps that concern the process as a whole: pid file, launcher, root directory and user, and the
//! last step before clients connect, listening.

use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::child::environment::Variables;
use crate::child::plan::Root;
use crate::config::{Account, Daemon, Service};
use crate::error::Error;
use crate::net::Listener;
use crate::report;
use crate::setup::{Manager, PidFile, Ready, ReadyFd, Side, privileges};
use crate::sys::capabilities::Capabilities;
use crate::sys::credentials::Credentials;
use crate::sys::descriptors;

/// Reports faults, if there are any, and returns the status of the first.
pub(super) fn refuse(faults: Vec<Error>) -> Result<(), Error> {
    let Some(status) = faults.first().map(Error::status) else {
        return Ok(());
    };
    faults.iter().for_each(report::failure);
    Err(Error::Told(status))
}

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
    services: &[Service],
    manager: Option<&mut Manager>,
    ready_fd: Option<ReadyFd>,
) -> Result<Option<Ready>, Error> {
    let drops = daemon.root.is_some() || changes_user(daemon, services);
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

/// Keeps handlers from reading what is typed at a terminal of the caller's, or says that they can.
/// A program that is supervised has standard output too.
pub(super) fn keep_from_reading_terminal(daemon: &Daemon, supervised: bool) {
    // Otherwise they are replaced before the first handler starts.
    let output = supervised && !daemon.background;
    let error = daemon.log.is_none() && !daemon.background;
    for (number, name, has) in [(1, "output", output), (2, "error", error)] {
        if !has {
            continue;
        }
        if let Err(errno) = descriptors::keep_from_reading_terminal(number) {
            report::note(format_args!(
                "handlers can read what is typed at the terminal of standard {name}: it can't be \
                 opened for writing alone ({}); use another",
                errno.desc()
            ));
        }
    }
}

/// Whether skd or handlers become another user.
fn changes_user(daemon: &Daemon, services: &[Service]) -> bool {
    let mut services = services.iter();
    daemon.identity.is_some()
        || services.any(|service| service.identity.is_some() || service.as_peer)
}

/// Leaves the caller's keyring and the root directory, then root: in this order, for each needs the
/// rights that the next takes away.
///
/// Where handlers have users of their own, skd stays root, with the few rights that this takes.
pub(super) fn give_up_rights(daemon: &Daemon, services: &[Service]) -> Result<(), Error> {
    if changes_user(daemon, services) {
        privileges::leave_keyring()?;
    }
    if let Some(root) = &daemon.root {
        privileges::enter_root(root)?;
    }
    match &daemon.identity {
        Some(identity) => privileges::drop_to(identity),
        None => privileges::keep_needed(services, Capabilities::NONE),
    }
}

/// The user and the root directory of a service's handlers, for their plan. `own` moves the
/// directory to a number that children have.
pub(super) fn user_and_root(
    service: &Service,
    own: impl FnOnce(OwnedFd) -> Result<OwnedFd, Errno>,
) -> Result<(Option<Credentials>, Option<Root>), Error> {
    let user = privileges::user_of_handlers(service);
    let own = |directory| {
        own(directory).map_err(|errno| Error::start("no descriptor for the root directory", errno))
    };
    let root = service.root.as_deref();
    let root = root.map(|path| Root::open_with(path, own));
    Ok((user, root.transpose()?))
}

/// The environment of a program, but for what skd sets for each client.
pub(super) fn inherited_variables(daemon: &Daemon, service: &Service) -> Variables {
    let identity = service.identity.as_ref().or(daemon.identity.as_ref());
    let account = match service.as_peer {
        true => Some(&Account::Unknown),
        false => identity.map(|identity| &identity.account),
    };
    let variables = Variables::for_program(account, &service.surroundings);
    match service.tls {
        Some(_) => variables.without_tls(),
        None => variables,
    }
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
