//! Sandboxes: a process for each service, its *jailer*, has entered the namespaces of the service's
//! sandbox, and makes its handlers.
//!
//! What is expensive is done once, at the start: namespaces, mounts, filter. A handler costs its clone
//! in the jailer, which takes the place of a clone in skd, and a request and an answer. Each thread
//! that starts handlers has a jailer of its own, a copy of the first one, so that they don't wait for
//! each other.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

mod error_output;
mod etc;
mod files;
mod jailer;
mod landlock;
mod message;
mod own;
mod refusal;
mod tree;
mod wanted;

use super::cgroups::Cgroup;
use super::plan::Plan;
use super::spawn::{SpawnError, Spawned, Spawner};
use crate::config::Part;
use crate::error::Error;
use crate::report::Way;
use crate::sys::child::Stage;
use crate::sys::environment::Environment;
use crate::sys::namespaces::{self, UserMap};
use crate::sys::process::{self, Fork, Target, Wait};
use crate::sys::signals::{Signal, kill};
#[cfg(target_arch = "x86_64")]
use crate::sys::trace::seize;
use crate::sys::{memory, packets, process_stat};

pub use refusal::of_chroot as sandbox_below_chroot;

use message::{Answer, Report, Request};
use wanted::MOST_JAILERS;

pub use wanted::Wanted;

/// The index of the first jailer, which makes others. No thread has this number.
const FIRST: usize = 0;

/// How long a jailer's answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How many children are made for a client, if each is killed before its exec.
const TRIES: usize = 16;

/// How many jailers are tried for a client, if each is gone.
const MOST_LOST: usize = 3;

/// The sandbox of a service's handlers, and its jailers.
#[derive(Debug)]
pub struct Jail {
    /// The first one makes the others, each for the thread whose descriptor has its number.
    jailers: Vec<Mutex<Option<Jailer>>>,
    /// The child that each makes.
    pids: &'static [AtomicI32; MOST_JAILERS],
    /// The session of all jailers, and of the process that copies what handlers write to stderr.
    session: Pid,
    /// Whether handlers are process 1 of a namespace.
    is_init: bool,
}

/// A jailer, as skd has it.
#[derive(Debug)]
struct Jailer {
    pid: Pid,
    pidfd: Option<OwnedFd>,
    socket: OwnedFd,
    /// Where an environment is written that isn't the common one, so that memory is taken once.
    text: Vec<u8>,
}

/// What became of a request.
enum Asked {
    Answered(Answer),
    /// The jailer is gone, or doesn't answer.
    Lost,
    Refused(SpawnError),
}

impl Jail {
    /// Makes a sandbox, by a process that stays in it. While this process has one thread. The plan
    /// is told how handlers are made there.
    pub fn start(wanted: &Wanted<'_>, plan: &mut Plan) -> Result<Self, Error> {
        let failed = |errno| Error::start("no process for the sandbox", errno);
        wanted.check()?;
        let map = wanted.map();
        let pids = memory::shared().map_err(failed)?;
        let (socket, its) = packets::pair().map_err(failed)?;
        let pid = match process::fork().map_err(failed)? {
            Fork::Child => {
                drop(socket);
                jailer::run(wanted, map.as_ref(), its, pids)
            }
            Fork::Parent(pid) => pid,
        };
        drop(its);
        let first = Jailer::new(pid, socket);
        let words = match first.begin(map.as_ref()) {
            Ok(words) => words,
            Err(error) => {
                first.end();
                return Err(error);
            }
        };
        let mut words = words.into_iter();
        let path = CString::new(words.next().unwrap_or_default());
        plan.made_elsewhere(path.unwrap_or_default(), words.collect());
        packets::limit_wait(&first.socket, TIMEOUT).map_err(failed)?;
        let others = (1..MOST_JAILERS).map(|_| None);
        let jailers = [Some(first)].into_iter().chain(others);
        Ok(Self {
            jailers: jailers.map(Mutex::new).collect(),
            pids,
            session: pid,
            is_init: wanted.sandbox.parts.has(Part::Pid),
        })
    }

    /// A sandbox that can't be made any more: there are no handlers in it.
    pub fn lost() -> Self {
        static NONE: [AtomicI32; MOST_JAILERS] = [const { AtomicI32::new(0) }; MOST_JAILERS];
        let none = (0..MOST_JAILERS).map(|_| Mutex::new(None));
        Self {
            jailers: none.collect(),
            pids: &NONE,
            session: Pid::from_raw(0),
            is_init: false,
        }
    }

    /// Whether handlers are process 1 of a PID namespace of their own.
    pub fn is_init(&self) -> bool {
        self.is_init
    }

    /// Has a handler started on what is held, in this control group.
    pub(super) fn launch(
        &self,
        spawner: &Spawner,
        plan: &Plan,
        cgroup: Option<Cgroup>,
        environment: &mut Environment,
    ) -> Result<Spawned, SpawnError> {
        let group = cgroup.as_ref().map(AsFd::as_fd);
        let is_common = Arc::ptr_eq(environment.common(), plan.variables());
        let request = match is_common {
            true => Request::Handler,
            false => Request::HandlerWithout,
        };
        let pid = self.ask(spawner, true, |jailer| {
            match jailer.send(request, spawner, group, environment) {
                Ok(()) => jailer.answer(),
                Err(errno) => Asked::of(errno),
            }
        })?;
        Ok(self.spawned(spawner, pid, cgroup))
    }

    /// Has a handler started on what is held, which this thread traces from its exec on.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn launch_traced(
        &self,
        spawner: &Spawner,
        environment: &mut Environment,
    ) -> Result<Spawned, SpawnError> {
        let pid = self.ask(spawner, false, |jailer| {
            let traced = packets::pair().and_then(|(waiting, its)| {
                jailer.send(Request::Traced, spawner, Some(its.as_fd()), environment)?;
                drop(its);
                // Else the child has failed before.
                if packets::wait_for_either(&waiting, &jailer.socket, TIMEOUT)? {
                    packets::receive(&waiting, &mut [0])?;
                    let child = &self.pids[spawner.number() % MOST_JAILERS];
                    let child = Pid::from_raw(child.load(Ordering::SeqCst));
                    let errno = seize(child).err().map_or(0, |errno| errno as i32 as u8);
                    packets::send(&waiting, [&[errno], b""], [None, None])?;
                }
                Ok(())
            });
            match traced {
                Ok(()) => jailer.answer(),
                Err(Errno::ETIMEDOUT) => Asked::Lost,
                Err(errno) => Asked::of(errno),
            }
        })?;
        Ok(self.spawned(spawner, pid, None))
    }

    /// Has a jailer asked for a handler, again where that is gone. Returns the handler. If a
    /// jailer has made one for a client, `has_client`, and not told of it, that handler may serve the
    /// client, and no other is made.
    fn ask(
        &self,
        spawner: &Spawner,
        has_client: bool,
        mut ask: impl FnMut(&mut Jailer) -> Asked,
    ) -> Result<Pid, SpawnError> {
        let index = spawner.number() % MOST_JAILERS;
        let mut lost = 0;
        for _ in 0..TRIES {
            let asked = {
                // For others only where all other jailers are gone.
                let mut jailer = self.lock(index);
                let asked = ask(match &mut *jailer {
                    Some(jailer) => jailer,
                    none => none.insert(self.another(index)?),
                });
                if let Asked::Answered(_) = asked {
                    // It is known: should this jailer be gone next time, it isn't to be ended.
                    self.pids[index].store(0, Ordering::SeqCst);
                }
                asked
            };
            let Answer { pid, result } = match asked {
                Asked::Answered(answer) => answer,
                Asked::Refused(why) => return Err(why),
                Asked::Lost => {
                    if let Some(child) = self.end(index) {
                        if has_client && becomes_program(child) {
                            return Ok(child);
                        }
                        let _ = kill(child, Signal::SIGKILL);
                        reap(child);
                    }
                    lost += 1;
                    match lost {
                        MOST_LOST => return Err(SpawnError::NoJailer),
                        _ => continue,
                    }
                }
            };
            let pid = Pid::from_raw(pid);
            match result {
                Ok(()) => return Ok(pid),
                Err(SpawnError::Killed) => reap(pid),
                Err(why) => {
                    reap(pid);
                    return Err(why);
                }
            }
        }
        Err(SpawnError::Killed)
    }

    fn spawned(&self, spawner: &Spawner, pid: Pid, cgroup: Option<Cgroup>) -> Spawned {
        Spawned {
            pid,
            // It can't have been reaped yet: only this process would.
            pidfd: spawner.pidfd_of(pid),
            way: Way::Exec,
            cgroup,
            is_init: self.is_init,
        }
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Option<Jailer>> {
        let locked = self.jailers[index].lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a jailer for an index. That is the first one's work, and if that is gone, the work of any
    /// other, which then makes the first one again.
    fn another(&self, index: usize) -> Result<Jailer, SpawnError> {
        // The lock of this index is held, so no other is waited for but that of the first.
        let mut first = self.lock(FIRST);
        if let Some(its) = &*first {
            match its.copy(index)? {
                Some(jailer) => return Ok(jailer),
                None => first.take().into_iter().for_each(Jailer::end),
            }
        }
        let others = (1..MOST_JAILERS).filter(|other| *other != index);
        let jailers = others.filter_map(|other| self.jailers[other].try_lock().ok());
        for mut other in jailers {
            if let Some(its) = &*other {
                match its.copy(FIRST)? {
                    Some(made) => {
                        let jailer = made.copy(index)?;
                        *first = Some(made);
                        return jailer.ok_or(SpawnError::NoJailer);
                    }
                    None => other.take().into_iter().for_each(Jailer::end),
                }
            }
        }
        Err(SpawnError::NoJailer)
    }

    /// Whether a child of this process may be one of the jailers, or a handler that one of them is just
    /// making. This doesn't wait: while a thread asks one, any may be.
    pub fn may_have(&self, pid: Pid) -> bool {
        self.jailers.iter().any(|jailer| match jailer.try_lock() {
            Ok(jailer) => jailer.as_ref().is_some_and(|jailer| jailer.pid == pid),
            Err(_) => true,
        })
    }

    /// The session of the jailers, and of what stays of them as long as handlers do.
    pub fn session(&self) -> Pid {
        self.session
    }

    /// Ends the jailer of an index. Returns the child that it has made and not told of, if there is one.
    fn end(&self, index: usize) -> Option<Pid> {
        self.lock(index).take().into_iter().for_each(Jailer::end);
        let child = Pid::from_raw(self.pids[index].swap(0, Ordering::SeqCst));
        let is_child = || process::wait(Target::Process(child), Wait::PEEK).is_ok();
        (child.as_raw() > 0 && is_child()).then_some(child)
    }
}

/// Whether a child has become its program, which takes a moment, or may have. It goes on without the
/// jailer that has made it. Without /proc that is unknown.
fn becomes_program(child: Pid) -> bool {
    let deadline = Instant::now() + TIMEOUT;
    // The answer about a child that has ended is the last.
    while is_child(child) && Instant::now() < deadline {
        if process_stat::has_executed(child) != Some(false) {
            return true;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    process_stat::has_executed(child) != Some(false)
}

/// Whether a process with this id is a child that hasn't ended.
fn is_child(pid: Pid) -> bool {
    matches!(process::wait(Target::Process(pid), Wait::PEEK), Ok(None))
}

/// Reaps a child that has ended or was killed, if there is one. Where a file server keeps it from
/// ending, the main thread reaps it later.
fn reap(child: Pid) {
    if child.as_raw() <= 0 {
        return;
    }
    let deadline = Instant::now() + Duration::from_millis(100);
    while let Ok(None) = process::wait(Target::Process(child), Wait::NOW) {
        if Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

impl Jailer {
    fn new(pid: Pid, socket: OwnedFd) -> Self {
        Self {
            pid,
            pidfd: process::open_pidfd(pid).ok(),
            socket,
            text: Vec::new(),
        }
    }

    /// Waits until a new one serves. Returns the path of the program, and its steps in words.
    fn begin(&self, map: Option<&UserMap>) -> Result<Vec<String>, Error> {
        let failed = |errno| Error::start("the sandbox's process doesn't tell", errno);
        let mut buffer = vec![0; message::LONGEST];
        loop {
            let (length, _) = packets::receive(&self.socket, &mut buffer).map_err(failed)?;
            match (Report::read(&buffer[..length]), map) {
                (Report::Ready(words), _) => return Ok(words),
                (Report::Failed(error), _) => return Err(error),
                (Report::NeedsMaps, Some(map)) => {
                    namespaces::write_maps(self.pid, map).map_err(refusal::of_map)?;
                    packets::send(&self.socket, [b"m", b""], [None, None]).map_err(failed)?;
                }
                (Report::NeedsMaps, None) => return Err(failed(Errno::EPROTO)),
            }
        }
    }

    /// Asks for a handler on what is held.
    fn send(
        &mut self,
        request: Request,
        spawner: &Spawner,
        with: Option<BorrowedFd<'_>>,
        environment: &mut Environment,
    ) -> Result<(), Errno> {
        let lines = match request {
            Request::Handler => environment.others(),
            _ => {
                self.text.clear();
                let lines = environment.finish().lines();
                lines.for_each(|line| self.text.extend_from_slice(line.to_bytes_with_nul()));
                &self.text
            }
        };
        let bytes = [&request.bytes()[..], lines];
        packets::send(&self.socket, bytes, [Some(spawner.held()), with])
    }

    fn answer(&self) -> Asked {
        let mut bytes = [0; Answer::LENGTH];
        match packets::receive(&self.socket, &mut bytes) {
            Ok((length, _)) => match Answer::read(&bytes[..length]) {
                Some(answer) => Asked::Answered(answer),
                None => Asked::Lost,
            },
            Err(_) => Asked::Lost,
        }
    }

    /// Has it make a copy of itself for an index. Returns none if it is gone.
    fn copy(&self, index: usize) -> Result<Option<Self>, SpawnError> {
        let (socket, its) = packets::pair().map_err(SpawnError::Shortage)?;
        packets::limit_wait(&socket, TIMEOUT).map_err(SpawnError::Shortage)?;
        // Jailers are few.
        let request = Request::Jailer(index as u8).bytes();
        let sent = packets::send(&self.socket, [&request, b""], [Some(its.as_fd()), None]);
        let asked = match sent {
            Ok(()) => self.answer(),
            Err(errno) => Asked::of(errno),
        };
        match asked {
            Asked::Answered(Answer { pid, result }) => {
                result.map(|()| Some(Self::new(Pid::from_raw(pid), socket)))
            }
            Asked::Refused(why) => Err(why),
            Asked::Lost => Ok(None),
        }
    }

    /// Ends it, and waits for that.
    fn end(self) {
        match &self.pidfd {
            Some(pidfd) => {
                let _ = process::signal_by_pidfd(pidfd, Signal::SIGKILL);
            }
            None if is_child(self.pid) => {
                let _ = kill(self.pid, Signal::SIGKILL);
            }
            None => return,
        }
        reap(self.pid);
    }
}

impl Asked {
    /// What became of a request that couldn't be sent.
    fn of(errno: Errno) -> Self {
        match errno {
            Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN => Self::Lost,
            Errno::EMSGSIZE => Self::Refused(SpawnError::Failed(Stage::Exec, Errno::E2BIG)),
            errno => Self::Refused(SpawnError::Shortage(errno)),
        }
    }
}
