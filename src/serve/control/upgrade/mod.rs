//! Upgrade in place: this process becomes a newer skd, and goes on as if nothing had been.
//!
//! Handlers stay its children, and listeners never close. The new image is first tried, by a
//! child, on what it would get; then the acceptors are parked, for a child between clone and
//! exec would be unknown to the new image, and the process becomes it. What it needs to know
//! travels in a memory file, descriptors under their numbers. An image that can't take over
//! becomes the old one again.

pub(in crate::serve) mod preflight;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Gid, Pid, Uid, getppid};
use serde::{Deserialize, Serialize};

use super::{Daemon, reload};
use crate::child::environment::Variables;
use crate::config::{Account, Identity, Service, ServiceId};
use crate::error::Error;
use crate::net::{Peer, SavedFile, SavedListener, SocketFile};
use crate::report::{self, Event, NoUpgrade, Trouble};
use crate::serve::admission::{Kind, PendingConnection, Rules};
use crate::serve::handlers::linger::KeptConnection;
use crate::serve::handlers::table::{Handler, Work};
use crate::serve::handlers::timeouts::{SavedWatch, Watch};
use crate::serve::wait_mode::WaitSocket;
use crate::serve::worker::Shared;
use crate::serve::worker::datagram::{ParkedExchange, SavedExchange};
use crate::setup::executable::{self, Executable, SavedExecutable};
use crate::setup::log::SavedLog;
use crate::setup::notify::SavedManager;
use crate::setup::pidfile::{PidFile, SavedPidFile};
use crate::setup::{Manager, RuleFiles};
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::process;
use crate::sys::reexec::{self, ExecArguments};

/// Names the memory file, whose it is, and what for: `FD:PID:preflight`, `restore` or `back`.
const VARIABLE: &str = "SKD_UPGRADE";

/// What the state looks like. Fields may be added; an image that needs one that is missing, or
/// that sees another number here, fails its trial.
const FORMAT: u32 = 1;

/// What is known from the start alone, and what ends with the process.
#[derive(Debug)]
pub struct Origin {
    /// Where this program came from, if that could be seen.
    pub executable: Option<Executable>,
    /// Whether HUP ends a daemon that has nothing to open again.
    pub hangup_ends: bool,
    /// The limit of open files that handlers get back.
    pub files: Option<libc::rlimit>,
    /// Whom it has become.
    pub identity: Option<Identity>,
    /// The last to go, so that whoever waits for it finds nothing else left.
    pub pidfile: Option<PidFile>,
}

/// All that the next image needs to know besides the command line.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    format: u32,
    /// What is open for the next image.
    descriptors: Vec<i32>,
    /// This file's own descriptor, those of the image that wrote it and of the next,
    /// and /dev/null.
    memory: i32,
    old: i32,
    new: i32,
    null: i32,
    version: String,
    hangup_ends: bool,
    /// How many acceptors there are: after chroot(2), what limits them can't be seen.
    pub threads: usize,
    /// How many receive datagrams.
    #[serde(default)]
    pub datagram_workers: usize,
    files: Option<(libc::rlim_t, libc::rlim_t)>,
    identity: Option<SavedIdentity>,
    /// Whether others of its user may look into it.
    dumpable: bool,
    executable: SavedExecutable,
    pidfile: Option<SavedPidFile>,
    /// To be taken by whoever resumes.
    pub log: SavedLog,
    /// To be taken by whoever resumes.
    pub listeners: Vec<SavedListener>,
    /// Those of the listeners.
    socket_files: Vec<SavedFile>,
    manager: Option<SavedManager>,
    /// Of each service; missing in what an image says that knew none.
    #[serde(default)]
    rules: Vec<Option<reload::Handed>>,
    /// All that live.
    handlers: Vec<SavedHandler>,
    /// All connections that are leaving.
    #[serde(default)]
    leaving: Vec<SavedLingering>,
    /// All who wait to be let through.
    #[serde(default)]
    visitors: Vec<SavedPending>,
    /// All exchanges of datagrams.
    #[serde(default)]
    exchanges: Vec<SavedExchange>,
    /// How many there have been.
    served: u64,
}

/// What the running daemon takes over from an earlier image.
#[derive(Debug, Default)]
pub struct Saved {
    /// The files of its listeners.
    pub socket_files: Vec<SocketFile>,
    /// Its handlers.
    pub handlers: Vec<SavedHandler>,
    /// Its connections that are leaving.
    pub leaving: Vec<SavedLingering>,
    /// Those who waited to be let through.
    pub visitors: Vec<SavedPending>,
    /// Its exchanges of datagrams.
    pub exchanges: Vec<SavedExchange>,
    /// How many it has had, those among them.
    pub served: u64,
    /// Whether there is one.
    pub restored: bool,
}

impl Saved {
    /// How many handlers had ended before.
    pub(in crate::serve) fn earlier(&self) -> u64 {
        self.served.saturating_sub(self.handlers.len() as u64)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedIdentity {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    account: Account,
}

/// A handler for another image of this process, whose child it stays.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedHandler {
    pid: i32,
    work: SavedWork,
    peer: Peer,
    /// Milliseconds of the system's clock that only goes on.
    started: u64,
    /// What it is held to.
    #[serde(default)]
    watch: Option<SavedWatch>,
    /// Its connection, if that is kept. A trial gets none: a client would wait for its end too.
    connection: Option<i32>,
}

/// A connection that is leaving.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLingering {
    connection: i32,
    /// Until when it may, on the same clock.
    until: u64,
}

/// Somebody who waits to be let through. What was got for the connection so far isn't handed over,
/// nor the time that has passed: all begins anew, but for a header that has been taken away.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPending {
    connection: i32,
    service: usize,
    listener: usize,
    peer: Peer,
    /// Whether it is known who it is.
    identified: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum SavedWork {
    /// A connection of the service with this index.
    Connection(usize),
    /// The lent listener with this index.
    WaitMode(usize),
    /// Datagrams that skd has received, for the service with this index.
    Datagrams(usize),
}

/// How this image came to run.
#[derive(Debug)]
pub enum Arrival {
    /// By somebody's command.
    Fresh,
    /// By an earlier image, to say whether it could take over from it.
    Preflight(Box<State>),
    /// By an earlier image, to take over.
    Upgrade(Box<State>),
    /// By a newer image that can't.
    Return(Box<State>),
}

impl Arrival {
    /// Finds out. A variable left over from somewhere else says nothing.
    pub fn find() -> Result<Self, Error> {
        let Some((memory, pid, word)) = said() else {
            return Ok(Self::Fresh);
        };
        let pid = Pid::from_raw(pid);
        if word == "trial" && pid != getppid() {
            // It must not become a daemon of its own, with the same listeners.
            let why = "it was to be tried by a skd that has ended meanwhile";
            return Err(Error::Start(why.into()));
        }
        if word != "trial" && pid != Pid::this() {
            return Ok(Self::Fresh);
        }
        let state = State::read(memory).map_err(|reason| {
            Error::start("the state of the running skd can't be understood", reason)
        })?;
        let state = Box::new(state);
        Ok(match word.as_str() {
            "trial" => Self::Preflight(state),
            "back" => Self::Return(state),
            _ => Self::Upgrade(state),
        })
    }
}

fn said() -> Option<(i32, i32, String)> {
    let value = std::env::var(VARIABLE).ok()?;
    let mut parts = value.split(':');
    let memory = parts.next()?.parse().ok()?;
    let pid = parts.next()?.parse().ok()?;
    Some((memory, pid, parts.next()?.to_owned()))
}

impl State {
    fn read(memory: i32) -> io::Result<Self> {
        let file = File::from(descriptors::claim(memory)?);
        let length = file.metadata()?.len();
        let mut text = vec![0; usize::try_from(length).unwrap_or_default()];
        // Not from where the last reader left off.
        file.read_exact_at(&mut text, 0)?;
        let state: Self = serde_json::from_slice(&text)?;
        if state.format != FORMAT {
            let text = format!("it is of format {}, and this is {FORMAT}", state.format);
            return Err(io::Error::other(text));
        }
        Ok(state)
    }

    /// Whom the process has become, if anybody.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.as_ref().map(|identity| Identity {
            uid: Uid::from_raw(identity.uid),
            gid: Gid::from_raw(identity.gid),
            groups: identity.groups.iter().copied().map(Gid::from_raw).collect(),
            account: identity.account.clone(),
        })
    }

    /// What only the start knew. The image that runs is the new one, or has `returned`.
    pub fn origin(&mut self, returned: bool) -> Result<Origin, Errno> {
        if !self.dumpable {
            process::forbid_dumping()?;
        }
        let mut pidfile = self.pidfile.take().map(PidFile::restore).transpose()?;
        if returned {
            // There is nobody else to remove it, should even this fail.
            pidfile.iter_mut().for_each(PidFile::own);
        }
        let running = if returned { self.old } else { self.new };
        let executable = Executable::restore(self.executable.clone(), running)?;
        reexec::set_name(executable.path().as_os_str());
        Ok(Origin {
            executable: Some(executable),
            hangup_ends: self.hangup_ends,
            files: self
                .files
                .map(|(rlim_cur, rlim_max)| libc::rlimit { rlim_cur, rlim_max }),
            identity: self.identity(),
            pidfile,
        })
    }

    /// The descriptors themselves, which are to stay open until there is no way back. What
    /// resumes works on copies.
    pub fn originals(&self) -> Result<Vec<OwnedFd>, Errno> {
        let numbers = self.descriptors.iter().copied();
        numbers.map(descriptors::adopt).collect()
    }

    /// /dev/null among those.
    pub fn null<'fd>(&self, originals: &'fd [OwnedFd]) -> Option<&'fd OwnedFd> {
        find(originals, self.null)
    }

    /// What goes on to be served.
    pub fn saved(&mut self, returned: bool) -> Result<Saved, Errno> {
        let files = self.socket_files.drain(..);
        let mut socket_files: Vec<_> = files.map(SocketFile::restore).collect::<Result<_, _>>()?;
        if returned {
            // As the pid file.
            socket_files.iter_mut().for_each(SocketFile::own);
        }
        Ok(Saved {
            socket_files,
            handlers: std::mem::take(&mut self.handlers),
            leaving: std::mem::take(&mut self.leaving),
            visitors: std::mem::take(&mut self.visitors),
            exchanges: std::mem::take(&mut self.exchanges),
            served: self.served,
            restored: true,
        })
    }

    /// The service manager, if there is one.
    pub fn manager(&mut self) -> Result<Option<Manager>, Errno> {
        self.manager.take().map(Manager::restore).transpose()
    }

    /// Who may come in to its service, whose handlers have these variables in common; with files
    /// that may be read again. `asks` says whether names can be looked up.
    pub fn rules(
        &mut self,
        wanted: &Service,
        common: &[CString],
        asks: bool,
    ) -> Result<Option<(Rules, RuleFiles)>, Errno> {
        let saved = self.rules.drain(..).next().flatten();
        match saved
            .map(|saved| saved.restore(common, wanted.prestart, asks))
            .transpose()?
        {
            // Another command line than that of the earlier image.
            None if wanted.admission.has_rules() => Err(Errno::EINVAL),
            rules => Ok(rules),
        }
    }

    /// Says that another image goes on.
    pub fn tell(&self, returned: bool) {
        if returned {
            refuse(NoUpgrade::GivenBack);
        } else {
            report::event(Event::Upgraded(&self.version));
        }
    }

    /// Lets the image that tries this one know that it could take over: any program can end
    /// with 0, but this one has read the state, and adds a blank to it.
    pub fn accept(&self) -> io::Result<()> {
        let file = File::from(descriptors::claim(self.memory)?);
        file.write_all_at(b"\n", file.metadata()?.len())
    }

    /// Becomes the image that handed over again, whose descriptors are all there; comes back
    /// only with the reason why not.
    pub fn go_back(&self, originals: &[OwnedFd]) -> Errno {
        match find(originals, self.old) {
            Some(old) => reexec::exec_file(old, &words(self.memory, "back", &[])),
            None => Errno::EBADF,
        }
    }
}

fn find(originals: &[OwnedFd], number: i32) -> Option<&OwnedFd> {
    originals.iter().find(|fd| fd.as_raw_fd() == number)
}

/// The command line and the environment for the next image, with `more` options before all.
pub(in crate::serve) fn words(memory: i32, word: &str, more: &[&str]) -> ExecArguments {
    let mut arguments = executable::arguments();
    let more = more.iter().filter_map(|option| CString::new(*option).ok());
    let at = arguments.len().min(1);
    arguments.splice(at..at, more);
    let what = format!("{memory}:{}:{word}", Pid::this());
    let changes = [(VARIABLE.into(), Some(what.into()))];
    let environment = Variables::inherited(None, &changes).lines();
    ExecArguments::new(arguments, environment.to_vec())
}

/// A state that is written down, and what goes with it.
pub(in crate::serve) struct Written {
    pub(in crate::serve) memory: i32,
    pub(in crate::serve) carried: SavedDescriptors,
    pub(in crate::serve) file: File,
    pub(in crate::serve) length: u64,
}

impl Written {
    /// Becomes the program in an open file, with all that is carried; comes back only with the
    /// reason why not.
    pub(in crate::serve) fn exec_file(&self, next: &OwnedFd, words: &ExecArguments) -> Errno {
        match self.carried.survive(true) {
            Ok(()) => reexec::exec_file(next, words),
            Err(errno) => errno,
        }
    }
}

impl Daemon {
    /// Writes down what the next image needs to know; and has it get the connections that are kept,
    /// if it's to go on with them.
    pub(in crate::serve) fn write_state(
        &self,
        next: &OwnedFd,
        connections: bool,
    ) -> io::Result<Written> {
        let mut file = descriptors::memory_file()?;
        let mut to = SavedDescriptors::default();
        let memory = to.pass(&file)?;
        let Some(executable) = &self.origin.executable else {
            return Err(Errno::ENOENT.into());
        };
        let pass_files = |file: &SocketFile| file.save(&mut to);
        let socket_files = self
            .files
            .iter()
            .map(pass_files)
            .collect::<Result<_, _>>()?;
        let streams = self
            .shared
            .services
            .iter()
            .flat_map(|served| &served.listeners);
        let lent = self.lent.iter().map(WaitSocket::listener);
        let datagrams = self.shared.datagrams();
        let listeners = streams
            .chain(lent)
            .chain(datagrams)
            .map(|listener| listener.save(&mut to));
        let listeners = listeners.collect::<Result<_, _>>()?;
        let pidfile = self.origin.pidfile.as_ref();
        let state = State {
            format: FORMAT,
            memory,
            old: to.pass(executable.running())?,
            // An interpreter couldn't open one that is closed at its exec: so no script gets far.
            new: to.pass_copy(next)?,
            null: to.pass(self.spawner.null())?,
            version: env!("CARGO_PKG_VERSION").into(),
            hangup_ends: self.origin.hangup_ends,
            threads: self.acceptors.len() - self.datagram_workers,
            datagram_workers: self.datagram_workers,
            files: self
                .origin
                .files
                .map(|limit| (limit.rlim_cur, limit.rlim_max)),
            identity: self.origin.identity.as_ref().map(|identity| SavedIdentity {
                uid: identity.uid.as_raw(),
                gid: identity.gid.as_raw(),
                groups: identity.groups.iter().map(|gid| gid.as_raw()).collect(),
                account: identity.account.clone(),
            }),
            dumpable: process::is_dumpable(),
            executable: executable.save(&mut to)?,
            pidfile: pidfile.map(|pidfile| pidfile.save(&mut to)).transpose()?,
            log: self.log.save(&mut to)?,
            listeners,
            socket_files,
            manager: self.status.save(&mut to)?,
            rules: self.save_rules(&mut to)?,
            handlers: self.shared.save_handlers(connections, &mut to),
            leaving: self.shared.save_leaving(connections, &mut to),
            visitors: self.shared.save_visitors(connections, &mut to),
            exchanges: self.shared.save_exchanges(connections, &mut to),
            served: self.shared.handlers.table.counts().1,
            descriptors: to.numbers().to_vec(),
        };
        let text = serde_json::to_vec(&state)?;
        file.write_all(&text)?;
        Ok(Written {
            memory,
            carried: to,
            file,
            length: text.len() as u64,
        })
    }

    /// Makes room for the handlers of an earlier image.
    pub(in crate::serve) fn reserve_handlers(&self, saved: &[SavedHandler]) -> Result<(), Error> {
        for thread in 0..=self.shared.handlers.main_index() {
            let its = saved
                .iter()
                .filter(|handler| self.shared.thread_for(handler) == thread);
            let reserved = self.shared.handlers.table.reserve(thread, its.count());
            reserved.map_err(|reason| Error::Start(format!("no memory for handlers: {reason}")))?;
        }
        Ok(())
    }

    /// Takes over the handlers of an earlier image: for good, for they will be reaped.
    pub(in crate::serve) fn enter_handlers(&mut self) {
        let (now, clock) = (Instant::now(), clock());
        let time = |time: u64| now + Duration::from_millis(time.saturating_sub(clock));
        for saved in std::mem::take(&mut self.saved) {
            let thread = self.shared.thread_for(&saved);
            let pid = Pid::from_raw(saved.pid);
            let age = clock.saturating_sub(saved.started);
            let mut source_slot = None;
            let service = match saved.work {
                SavedWork::Connection(service) | SavedWork::Datagrams(service) => service,
                SavedWork::WaitMode(_) => 0,
            };
            let service = ServiceId::new(service);
            let watch = saved.watch;
            let watch = watch.map(|watch| Watch::restore(watch, time));
            let connection = saved.connection;
            let connection = connection.and_then(|number| self.handed_connection(number));
            let mut kept = None;
            let handler = Handler {
                service,
                pid,
                // Its own child that wasn't reaped: the id is nobody else's.
                pidfd: self.method.pidfd_of(pid),
                work: match saved.work {
                    SavedWork::Connection(service) => {
                        let served = self.shared.services.get(service);
                        let Some(served) = served.or(self.shared.services.first()) else {
                            continue;
                        };
                        let policy = served.policy.as_ref();
                        source_slot = policy.and_then(|policy| policy.occupy(&saved.peer));
                        kept = connection
                            .zip(served.linger)
                            .map(|(fd, time)| KeptConnection::new(fd, time));
                        Work::Connection(served.slots.occupy())
                    }
                    SavedWork::Datagrams(service) => {
                        let served = self.shared.services.get(service);
                        let Some(served) = served.or(self.shared.services.first()) else {
                            continue;
                        };
                        let policy = served.policy.as_ref();
                        source_slot = policy.and_then(|policy| policy.occupy(&saved.peer));
                        Work::Datagrams(served.slots.occupy())
                    }
                    SavedWork::WaitMode(index) => Work::WaitMode(index),
                },
                source_slot,
                peer: saved.peer,
                started: now.checked_sub(Duration::from_millis(age)).unwrap_or(now),
                kept,
            };
            self.shared.handlers.enter(thread, handler, watch);
        }
        for (index, saved) in std::mem::take(&mut self.handed_leaving).iter().enumerate() {
            if let Some(connection) = self.handed_connection(saved.connection) {
                let thread = index % self.shared.handlers.pollers.len();
                let poller = &self.shared.handlers.pollers[thread];
                let leaving = &self.shared.handlers.lingering;
                leaving.add(thread, poller, connection, time(saved.until));
            }
        }
        let visitors = std::mem::take(&mut self.handed_visitors);
        let visitors = visitors.into_iter().filter_map(|saved| {
            let connection = self.handed_connection(saved.connection)?;
            let served = self.shared.services.get(saved.service)?;
            served.listeners.get(saved.listener)?;
            let mut client = served.policy.as_ref()?.begin(saved.peer, Kind::Connection);
            if saved.identified {
                client.set_identified();
            }
            Some(PendingConnection {
                client,
                connection: connection.into(),
                service: ServiceId::new(saved.service),
                listener: saved.listener,
            })
        });
        let visitors: Vec<_> = visitors.collect();
        // Listeners have threads; and each has a part of everybody, for each has room for no more.
        let acceptors = self.acceptors.len() - self.datagram_workers;
        for (visitor, thread) in visitors.into_iter().zip((0..acceptors).cycle()) {
            self.shared.pending(thread).push(visitor);
        }
        for saved in std::mem::take(&mut self.handed_exchanges) {
            let socket = self.handed_connection(saved.socket);
            let left = socket.and_then(|socket| ParkedExchange::restore(saved, socket));
            self.shared.parked_exchanges().extend(left);
        }
        self.handed_connections.clear();
    }

    /// Keeps the connections that an earlier image has left, under their own numbers: copies of
    /// all would take twice as many. There is no way back any more.
    pub fn keep_connections(&mut self, originals: Vec<OwnedFd>) {
        let handlers = self.saved.iter().filter_map(|handler| handler.connection);
        let leaving = self.handed_leaving.iter().map(|leaving| leaving.connection);
        let visitors = self.handed_visitors.iter();
        let visitors = visitors.map(|visitor| visitor.connection);
        let exchanges = self.handed_exchanges.iter().map(|exchange| exchange.socket);
        let kept = handlers.chain(leaving).chain(visitors).chain(exchanges);
        let connections: BTreeSet<i32> = kept.collect();
        let kept = originals.into_iter().map(|fd| (fd.as_raw_fd(), fd));
        let kept = kept.filter(|(number, _)| connections.contains(number));
        self.handed_connections = kept.collect();
    }

    fn handed_connection(&mut self, number: i32) -> Option<OwnedFd> {
        let connection = self.handed_connections.remove(&number)?;
        // No handler may get it; and what fails here is closed.
        descriptors::set_close_on_exec(&connection, true).ok()?;
        Some(connection)
    }
}

/// Milliseconds of the clock behind [`Instant`], whose own values no other image understands.
fn clock() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or_default())
}

/// What a time to come is on that clock.
fn on_clock() -> impl Fn(Instant) -> u64 {
    let (now, clock) = (Instant::now(), clock());
    move |time| {
        let left = time.saturating_duration_since(now).as_millis();
        clock.saturating_add(u64::try_from(left).unwrap_or(u64::MAX))
    }
}

/// Says why there is no upgrade.
pub(in crate::serve) fn refuse(why: NoUpgrade<'_>) {
    report::event(Event::Trouble(Trouble::NoUpgrade(why)));
}

impl SavedHandler {
    /// Which lent listener it has, if any.
    pub(in crate::serve) fn lent(&self) -> Option<usize> {
        match self.work {
            SavedWork::WaitMode(index) => Some(index),
            SavedWork::Connection(_) | SavedWork::Datagrams(_) => None,
        }
    }
}

impl Shared {
    /// The part of the table for a handler that no thread of this image has started.
    fn thread_for(&self, handler: &SavedHandler) -> usize {
        match handler.work {
            SavedWork::Connection(_) | SavedWork::Datagrams(_)
                if self.handlers.main_index() > 0 =>
            {
                handler.pid.unsigned_abs() as usize % self.handlers.main_index()
            }
            _ => self.handlers.main_index(),
        }
    }

    fn save_handlers(&self, connections: bool, to: &mut SavedDescriptors) -> Vec<SavedHandler> {
        let mut saved = Vec::new();
        let clock = clock();
        let time = on_clock();
        self.handlers.table.each(|handler, watch| {
            let work = match &handler.work {
                Work::Connection(_) => SavedWork::Connection(handler.service.index()),
                Work::Datagrams(_) => SavedWork::Datagrams(handler.service.index()),
                Work::WaitMode(index) => SavedWork::WaitMode(*index),
            };
            let age = u64::try_from(handler.started.elapsed().as_millis());
            let kept = handler.kept.as_ref().filter(|_| connections);
            saved.push(SavedHandler {
                pid: handler.pid.as_raw(),
                work,
                peer: handler.peer,
                started: clock.saturating_sub(age.unwrap_or_default()),
                watch: watch.map(|watch| watch.save(&time)),
                // One that can't be passed on is closed at the exec.
                connection: kept.and_then(|kept| to.pass(kept.connection()).ok()),
            });
        });
        saved
    }

    fn save_exchanges(&self, connections: bool, to: &mut SavedDescriptors) -> Vec<SavedExchange> {
        let left = self.parked_exchanges();
        let save = |left: &ParkedExchange| left.save(to);
        match connections {
            true => left.iter().filter_map(save).collect(),
            false => Vec::new(),
        }
    }

    fn save_visitors(&self, connections: bool, to: &mut SavedDescriptors) -> Vec<SavedPending> {
        let mut save = |visitor: &PendingConnection| {
            Some(SavedPending {
                // One that can't be passed on is closed at the exec.
                connection: to.pass(&visitor.connection).ok()?,
                service: visitor.service.index(),
                listener: visitor.listener,
                peer: visitor.client.peer,
                identified: visitor.client.is_identified(),
            })
        };
        let mut saved = Vec::new();
        if connections {
            for thread in 0..self.pending.len() {
                saved.extend(self.pending(thread).iter().filter_map(&mut save));
            }
        }
        saved
    }

    fn save_leaving(&self, connections: bool, to: &mut SavedDescriptors) -> Vec<SavedLingering> {
        let mut saved = Vec::new();
        let time = on_clock();
        if connections {
            self.handlers.lingering.each(|connection, until| {
                if let Ok(connection) = to.pass(connection) {
                    let until = time(until);
                    saved.push(SavedLingering { connection, until });
                }
            });
        }
        saved
    }
}
