//! Continuing as the successor of another binary of this process, with what that has left.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;

use crate::child::Method;
use crate::config::{Config, Service};
use crate::error::Error;
use crate::net::{self, Listener};
use crate::report;
use crate::serve::upgrade::{SavedService, State};
use crate::serve::{Daemon, Prepared, Resources, Rules};
use crate::setup::{RuleFiles, privileges};
use crate::sys::capabilities::Capabilities;
use crate::sys::{memory, process};

use super::prepare::{Ground, Threads, confinements, reserve};

/// Says whether this binary could go on with the state, and ends.
pub(super) fn try_out(
    mut state: Box<State>,
    configure: impl FnOnce() -> Result<Config, Error>,
) -> Result<u8, Error> {
    let mut originals = originals(&state)?;
    originals.extend(state.take_spare().map_err(|errno| {
        Error::start(
            "there are too few descriptors for the open connections",
            errno,
        )
    })?);
    // The running skd serves meanwhile.
    let lock_timeout = net::LOCK_TIMEOUT;
    let mut running = take_over(&mut state, &originals, configure()?, false, lock_timeout)?;
    let accepted = state.accept();
    accepted.map_err(|reason| Error::start("the running skd can't be told", reason))?;
    // What a new service has bound is bound again by the next binary.
    running.remove_files();
    // At once: threads run, and what it has is the running skd's.
    process::exit_now(0)
}

/// Goes on with the state of another binary of this process, or becomes that again.
pub(super) fn go_on(
    mut state: Box<State>,
    configure: impl FnOnce() -> Result<Config, Error>,
    returned: bool,
) -> Result<u8, Error> {
    let originals = originals(&state)?;
    // Clients wait meanwhile. A moment ago the preflight had the lock.
    let lock_timeout = Duration::ZERO;
    let running = configure()
        .and_then(|config| take_over(&mut state, &originals, config, returned, lock_timeout));
    let mut running = match running {
        Ok(running) => running,
        Err(error) if returned => return Err(error),
        Err(error) => {
            report::failure(&error);
            let errno = state.go_back(&originals);
            return Err(Error::start("the old skd can't go on", errno));
        }
    };
    memory::return_freed();
    // There is no further way back.
    running.keep_descriptors(originals);
    state.tell(returned);
    drop(state);
    Ok(running.run())
}

/// The descriptors that another binary has left. What goes on works on copies.
fn originals(state: &State) -> Result<Vec<OwnedFd>, Error> {
    state.originals().map_err(not_left)
}

fn not_left(errno: Errno) -> Error {
    Error::start("what the running skd left can't be had", errno)
}

/// Makes ready all that another binary has left. Whether or not that succeeds, nothing is closed,
/// removed, reaped or changed that the other needs to go on: it may be a preflight.
fn take_over(
    state: &mut State,
    originals: &[OwnedFd],
    config: Config,
    returned: bool,
    lock_timeout: Duration,
) -> Result<Daemon, Error> {
    let Config { daemon, services } = config;
    let kept: Vec<_> = originals.iter().map(AsFd::as_fd).collect();
    let mut reserved = reserve(&services, &kept, state.null(originals))?;
    report::set_verbosity(daemon.verbosity);
    let mut origin = state.origin(returned).map_err(not_left)?;
    let confinements = confinements(&services, &mut reserved)?;
    let log = state.log(daemon.log.as_ref()).map_err(not_left)?;
    // Executing a file gives back what was given up, if skd is root, or if the file is set-user-id
    // or has capabilities by now. The configuration may be another one, but the user that the
    // process has become can't change.
    if origin.identity.is_none() {
        origin.identity.clone_from(&daemon.identity);
    }
    match &origin.identity {
        Some(identity) => privileges::drop_to(identity)?,
        None => {
            let binds = services.iter().any(|it| !state.has_service(&it.name));
            let more = binds.then(privileges::binding).unwrap_or_default();
            privileges::keep_needed(&services, more)?;
        }
    }
    let users = services.iter().filter_map(|it| it.identity.clone());
    origin.users = users.collect();
    let mut restored = Vec::new();
    let mut listeners = Vec::new();
    for service in &services {
        let mut saved = state.take_service(&service.name);
        listeners.push(match &mut saved {
            Some(saved) => saved.listeners().map_err(not_left)?,
            None => bind(service, lock_timeout)?,
        });
        restored.push(saved);
    }
    if origin.identity.is_none() {
        // New sockets are bound.
        privileges::keep_needed(&services, Capabilities::NONE)?;
    }
    let threads = threads(
        state,
        Threads::new(&daemon, &services, &listeners),
        &restored,
    );
    let ground = Ground {
        daemon: &daemon,
        files: origin.files,
        low: threads.low(&services, &reserved)?,
        // What has come back goes on, if its handlers can't be prepared any more.
        probe: if returned {
            Method::probe_without_steps
        } else {
            Method::probe
        },
    };
    let (plans, method) = ground.plans(&services, confinements)?;
    let asks = daemon.root.is_none();
    let mut prepared = Vec::new();
    let parts = plans.into_iter().zip(listeners).zip(restored);
    for ((config, workers), ((plan, listeners), saved)) in services
        .into_iter()
        .zip(threads.datagram_workers)
        .zip(parts)
    {
        let (rules, restored) = match saved {
            Some(mut saved) => {
                let rules = saved.rules(&config, plan.variables(), asks);
                (
                    rules.map_err(not_left)?,
                    Some(saved.restore(returned).map_err(not_left)?),
                )
            }
            None => {
                let rules = RuleFiles::open_and_read(&config)?;
                let rules = rules.map(|(files, list)| (Rules::new(&list, plan.variables()), files));
                (rules, None)
            }
        };
        prepared.push(Prepared {
            config,
            plan,
            listeners,
            rules,
            datagram_workers: workers,
            restored,
        });
    }
    let resources = Resources {
        method,
        stream_workers: threads.stream_workers,
        reserved,
        log,
        manager: state.manager().map_err(not_left)?,
        origin,
        restored: state.rest(returned).map_err(not_left)?,
    };
    Daemon::new(prepared, resources)
}

/// Binds the sockets of a service that the other binary didn't have, and listens.
fn bind(service: &Service, lock_timeout: Duration) -> Result<Vec<Listener>, Error> {
    let wanted = net::resolve_all(&service.listeners)?;
    let listeners = net::bind_all(&wanted, Vec::new(), service.datagrams, lock_timeout)?;
    for listener in &listeners {
        listener.listen()?;
    }
    Ok(listeners)
}

/// As many threads as there were, and for what is new, as many as it needs.
fn threads(state: &State, needed: Threads, restored: &[Option<SavedService>]) -> Threads {
    let stream_workers = match state.stream_workers() {
        0 => needed.stream_workers,
        stream_workers => stream_workers,
    };
    let workers = needed.datagram_workers.into_iter().zip(restored);
    let workers = workers.map(|(needed, saved)| match saved {
        Some(saved) => saved.datagram_workers(),
        None => needed,
    });
    Threads {
        stream_workers,
        datagram_workers: workers.collect(),
    }
}
