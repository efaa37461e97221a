//! The start of every handler: environment, process, entry in the table, log line; and what is done
//! in a shortage.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;

use super::births::{Birth, Births};
use super::context::Handlers;
use super::linger::{Connection, KeptConnection};
use super::table::{Handler, Work};
use crate::child::{PeerRefused, Plan, Source, SpawnError, Spawned, Spawner};
use crate::config::{Peer, ServiceId};
use crate::net::Listener;
use crate::report::{self, Client, Event, Start, StartFailure, Trouble};
use crate::serve::admission::{Admitted, Ready, SourceSlot, WaitModeLife};
use crate::serve::service::{Linger, Service};
use crate::serve::tls::TlsSession;
use crate::sys::aside::Aside;
use crate::sys::child::Stage;
use crate::sys::environment::Environment;

/// The thread that starts a handler, and what it needs for that.
#[derive(Debug)]
pub(in crate::serve) struct Starter<'a> {
    pub(in crate::serve) handlers: &'a Handlers,
    pub(in crate::serve) thread: usize,
    pub(in crate::serve) spawner: &'a mut Spawner,
    /// Where the environment is written.
    pub(in crate::serve) environment: &'a mut Environment,
}

/// What differs from one handler to the next.
#[derive(Debug)]
pub(in crate::serve) struct NewHandler<'a> {
    service: ServiceId,
    source: &'a Source,
    /// Where the client has arrived.
    listener: &'a Listener,
    /// When that was, if skd has seen it.
    arrived: Option<Instant>,
    peer: Peer,
    /// Its TLS session, if it has one: the handler gets the plain side.
    session: Option<TlsSession>,
    /// What the handler gets as 0 and 1.
    descriptor: Descriptor<'a>,
    work: Work,
    source_slot: Option<SourceSlot>,
    /// The rule that has allowed the client, if that sets more than that.
    rule: Option<Arc<Ready>>,
    /// Whether and how long input is drained after the handler's end.
    linger: Option<Linger>,
}

/// A client whose connection was accepted.
#[derive(Debug)]
pub(in crate::serve) struct Arrived {
    /// The plain side, if it has a TLS session.
    pub(in crate::serve) connection: OwnedFd,
    pub(in crate::serve) peer: Peer,
    /// When it was accepted.
    pub(in crate::serve) at: Instant,
    pub(in crate::serve) session: Option<TlsSession>,
}

/// What a handler gets as 0 and 1.
#[derive(Debug)]
enum Descriptor<'a> {
    /// Closed as soon as the handler has it, unless it is kept for a lingering close.
    Owned(OwnedFd),
    /// The same, but its client may have passed descriptors along: its last close could wait.
    Guarded(Aside),
    Borrowed(BorrowedFd<'a>),
}

impl AsFd for Descriptor<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Owned(fd) => fd.as_fd(),
            Self::Guarded(fd) => fd.as_fd(),
            Self::Borrowed(fd) => *fd,
        }
    }
}

impl<'a> NewHandler<'a> {
    /// A handler for a client that has come to this listener.
    pub(in crate::serve) fn for_connection(
        service: &'a Service,
        listener: &'a Listener,
        client: Arrived,
        admitted: Admitted,
    ) -> Self {
        let Arrived {
            connection,
            peer,
            at,
            session,
        } = client;
        // A plain side holds none: skd-tls passes no descriptors.
        let descriptor = match session.is_none() && listener.holds_descriptors() {
            true => Descriptor::Guarded(connection.into()),
            false => Descriptor::Owned(connection),
        };
        Self {
            service: service.id,
            source: &service.source,
            listener,
            arrived: Some(at),
            peer,
            session,
            descriptor,
            work: Work::Connection(admitted.slot),
            source_slot: admitted.source_slot,
            rule: admitted.rule,
            linger: service.linger,
        }
    }

    /// A handler for datagrams of which skd has received the first at this time, on its end of an
    /// exchange.
    pub(in crate::serve) fn for_datagrams(
        service: &'a Service,
        (listener, arrived): (&'a Listener, Instant),
        exchange: OwnedFd,
        peer: Peer,
        admitted: Admitted,
    ) -> Self {
        Self {
            service: service.id,
            source: &service.source,
            listener,
            arrived: Some(arrived),
            peer,
            session: None,
            descriptor: Descriptor::Owned(exchange),
            work: Work::Datagrams(admitted.slot),
            source_slot: admitted.source_slot,
            rule: admitted.rule,
            linger: None,
        }
    }

    /// A handler that gets the wait-mode socket with this index itself.
    pub(in crate::serve) fn for_wait_mode(
        service: ServiceId,
        source: &'a Source,
        listener: &'a Listener,
        peer: Peer,
        (index, life): (usize, WaitModeLife),
    ) -> Self {
        Self {
            service,
            source,
            listener,
            arrived: None,
            peer,
            session: None,
            descriptor: Descriptor::Borrowed(listener.as_fd()),
            work: Work::WaitMode(index, life),
            source_slot: None,
            rule: None,
            linger: None,
        }
    }

    /// The client that it is for.
    fn client(&self) -> Client<'_> {
        Client {
            service: self.service,
            listener: self.listener.id(),
            peer: &self.peer,
        }
    }

    /// Writes the environment: who has connected where.
    fn write_environment(&self, environment: &mut Environment) {
        let rule = self.rule.as_deref();
        if self.source.pool.is_some() {
            rebase(environment, &self.source.plan, rule);
            let variables = &self.source.pool_variables;
            // As prestarted handlers have it, which are started before a client is known.
            return variables.iter().for_each(|line| environment.line(line));
        }
        let client = (self.listener, &self.peer, self.session.as_ref());
        write_environment(environment, &self.source.plan, client, rule);
    }
}

/// Begins an environment with the variables of a plan, as this rule has them.
fn rebase(environment: &mut Environment, plan: &Plan, rule: Option<&Ready>) {
    environment.clear();
    let changed = rule.and_then(|rule| rule.variables.as_ref());
    environment.rebase(changed.unwrap_or(plan.variables()));
}

/// Writes the environment of a process for a client.
pub(super) fn write_environment(
    environment: &mut Environment,
    plan: &Plan,
    (listener, peer, session): (&Listener, &Peer, Option<&TlsSession>),
    rule: Option<&Ready>,
) {
    rebase(environment, plan, rule);
    for variable in listener.variables(peer) {
        environment.line(variable);
    }
    let mut set = |name: &str, value: std::fmt::Arguments<'_>| environment.set(name, value);
    peer.variables(&mut set);
    if let Some(session) = session {
        session.variables(set);
    }
}

/// What a thread does when a handler can't be started for now.
pub(in crate::serve) trait OnShortage {
    /// Closes something of little worth, since there is no free descriptor. Returns whether it
    /// did.
    fn free_descriptor(&mut self) -> bool;

    /// Lets some time pass. Returns whether to try again.
    fn pause(&mut self) -> bool;
}

/// Gives up at once.
#[derive(Debug)]
pub(in crate::serve) struct GiveUp;

impl OnShortage for GiveUp {
    fn free_descriptor(&mut self) -> bool {
        false
    }

    fn pause(&mut self) -> bool {
        false
    }
}

/// Reserves an entry for the next handler of this thread, which is of this service, before its
/// client is accepted: a handler that runs must be entered. Allocates only when more handlers live
/// than ever before. Returns whether there is an entry.
pub(in crate::serve) fn reserve(handlers: &Handlers, thread: usize, service: ServiceId) -> bool {
    let reserved = handlers.table.reserve(thread, 1);
    if let Err(error) = &reserved {
        report::event(Event::Trouble(Trouble::NoMemory(service, error)));
    }
    reserved.is_ok()
}

/// Starts a handler, for which an entry is reserved. Why it can't be started is reported here;
/// `shortage` decides what is done about a shortage. Returns whether there is an entry for another
/// handler.
pub(in crate::serve) fn start(
    by: Starter<'_>,
    new: NewHandler<'_>,
    shortage: &mut impl OnShortage,
) -> Result<bool, SpawnError> {
    let service = new.service;
    start_one(by, new, shortage).map_err(|(why, counted)| {
        report::event(Event::HandlerNotStarted(service, counted));
        why
    })
}

/// The same. If it fails, also returns what that is counted as.
fn start_one(
    by: Starter<'_>,
    new: NewHandler<'_>,
    shortage: &mut impl OnShortage,
) -> Result<bool, (SpawnError, StartFailure)> {
    let counted = |why: SpawnError| (why, why.failure());
    let Starter {
        handlers,
        thread,
        spawner,
        environment,
    } = by;
    let timeouts = match new.work {
        Work::Connection(_) | Work::Datagrams(_) => {
            report::event(Event::Accepted(new.client()));
            handlers.timeouts[new.service.index()].as_ref()
        }
        Work::WaitMode(..) => {
            report::event(Event::WaitModeStart(new.client()));
            None
        }
    };
    let socket = match new.work {
        // The last that is seen of the connection.
        Work::Connection(_) if new.session.is_none() => {
            timeouts.and_then(|it| it.identify(new.listener, &new.descriptor))
        }
        // Of a TLS session, skd-tls sees that it is idle.
        Work::Connection(_) | Work::Datagrams(_) | Work::WaitMode(..) => None,
    };
    let program = (new.service, &*new.source.plan);
    become_peer(spawner, program, &new.peer, &new.descriptor)
        .map_err(|why| (why, StartFailure::AsPeer))?;
    hold(spawner, &new, shortage).map_err(counted)?;
    new.write_environment(environment);
    let number = new.descriptor.as_fd().as_raw_fd();
    let linger = new.linger.filter(|linger| {
        number < linger.below && (!linger.if_unread || handlers.lingering.is_worth_it(new.service))
    });
    let unix = new.session.is_some() || new.listener.is_unix();
    let keep =
        |fd: Aside,
         Linger {
             time, if_unread, ..
         }| { KeptConnection::new(Connection::new(fd, unix), time, if_unread) };
    let mut aside = None;
    let kept = match (new.descriptor, linger) {
        (Descriptor::Owned(fd), Some(linger)) => Some(keep(fd.into(), linger)),
        (Descriptor::Guarded(fd), Some(linger)) => Some(keep(fd, linger)),
        (Descriptor::Guarded(fd), None) => {
            aside = Some(fd);
            None
        }
        // Closed here.
        (Descriptor::Owned(_) | Descriptor::Borrowed(_), _) => None,
    };
    let births = handlers.births.get(thread);
    let service = new.service;
    let program = (service, new.source);
    let arrived = new.arrived;
    let spawned = spawn(spawner, births, program, environment, shortage);
    // First of all: until then the client can't see the end, should the handler be quick.
    spawner.release();
    drop(aside);
    let (
        Spawned {
            pid,
            pidfd,
            way,
            cgroup,
            is_init,
        },
        birth,
    ) = spawned.map_err(counted)?;
    let started = Instant::now();
    report::event(Event::HandlerStarted(
        service,
        Start {
            pid: pid.as_raw(),
            way,
            latency: arrived.map(|arrived| started.saturating_duration_since(arrived)),
        },
    ));
    let work = match new.work {
        Work::Connection(slot) => Work::Connection(slot.in_use()),
        Work::Datagrams(slot) => Work::Datagrams(slot.in_use()),
        Work::WaitMode(index, life) => Work::WaitMode(index, life),
    };
    let (usage, was_last) = match &work {
        Work::Connection(slot) | Work::Datagrams(slot) => (Some(slot.usage()), slot.was_last()),
        Work::WaitMode(..) => (None, false),
    };
    let handler = Handler {
        service,
        listener: new.listener.id(),
        pid,
        pidfd,
        work,
        source_slot: new.source_slot,
        peer: new.peer,
        has_tls: new.session.is_some(),
        started,
        told: None,
        kept,
        cgroup,
        is_init,
        left: None,
    };
    let watch = timeouts.map(|timeouts| timeouts.watch(started, socket));
    // This takes a lock that hardly any other thread ever takes.
    let has_entry = handlers.enter(thread, handler, watch);
    drop(birth);
    if was_last {
        // It closes the service.
        handlers.main.wake();
    }
    if let Some((used, limit)) = usage {
        report::event(Event::Slots(service, used, limit));
    }
    Ok(has_entry)
}

/// Has a process become its client's user, where that is asked for.
pub(super) fn become_peer(
    spawner: &mut Spawner,
    (service, plan): (ServiceId, &Plan),
    peer: &Peer,
    connection: impl AsFd,
) -> Result<(), SpawnError> {
    let credentials = match peer {
        Peer::UnixStream(credentials) => *credentials,
        _ => None,
    };
    let result = spawner.become_peer(plan, credentials, connection);
    result.map_err(|why| {
        let why = match why {
            PeerRefused::Root => "it is root",
            PeerRefused::Unknown => "its user or a group of it is unknown here",
            PeerRefused::Untold(errno) => errno.desc(),
        };
        report::event(Event::Trouble(Trouble::NotAsPeer { service, peer, why }));
        // Told already.
        SpawnError::Failed(Stage::Descriptors, Errno::EACCES)
    })
}

/// Puts the descriptor where a new process finds it.
fn hold(
    spawner: &mut Spawner,
    new: &NewHandler<'_>,
    shortage: &mut impl OnShortage,
) -> Result<(), SpawnError> {
    while let Err(errno) = spawner.hold(&new.descriptor) {
        report::event(Event::Trouble(match new.work {
            Work::Connection(_) => Trouble::ConnectionNotHeld(new.service, errno),
            Work::Datagrams(_) => Trouble::DatagramNotHeld(new.service, errno),
            Work::WaitMode(..) => {
                let why = SpawnError::Shortage(errno);
                Trouble::Spawn(new.service, why.explain(&new.source.plan))
            }
        }));
        if !shortage.pause() {
            return Err(SpawnError::Shortage(errno));
        }
    }
    Ok(())
}

/// Starts a process on what the spawner holds, or hands that to a prestarted handler.
fn spawn<'b>(
    spawner: &mut Spawner,
    births: Option<&'b Births>,
    (service, source): (ServiceId, &Source),
    environment: &mut Environment,
    shortage: &mut impl OnShortage,
) -> Result<(Spawned, Option<Birth<'b>>), SpawnError> {
    loop {
        // So that the new child isn't taken for an orphan. Two atomic additions.
        let birth = births.map(Births::begin);
        let why = match spawner.spawn(source, environment) {
            Ok(spawned) => return Ok((spawned, birth)),
            Err(why) => why,
        };
        drop(birth);
        if matches!(why, SpawnError::Shortage(Errno::EMFILE)) && shortage.free_descriptor() {
            continue;
        }
        report::event(Event::Trouble(Trouble::Spawn(
            service,
            why.explain(&source.plan),
        )));
        if !matches!(why, SpawnError::Shortage(_)) || !shortage.pause() {
            return Err(why);
        }
    }
}
