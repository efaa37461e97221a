//! A process of skd-tls: how it is started, what it is told, and what it says.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use serde::{Deserialize, Serialize};
use skd_tls_protocol::{Certificate, Command, Report};

use super::channel::{Channel, TlsUser};
use super::program::OpenProgram;
use crate::serve::handlers::saved::SavedClock;
use crate::setup::TlsFiles;
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::events::{Interest, Poller};
use crate::sys::packets;
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};
use crate::sys::reexec;
use crate::sys::signals::{self, SigSet, Signal, kill};
use crate::sys::sockets::peek_bytes;

/// How long a process may take to end after it has closed its channel.
const CLOSED: Duration = Duration::from_secs(1);

/// How long a process that was killed is waited for. A process that hangs in a dead file server takes for ever.
const DEAD: Duration = Duration::from_secs(1);

/// How often a process is looked at that is about to end.
const PAUSE: Duration = Duration::from_millis(20);

/// How soon a packet is sent again that wasn't taken.
const SEND_AGAIN: Duration = Duration::from_millis(10);

/// What a process is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// To be the running one, once it has loaded its settings.
    Next,
    /// To serve all clients.
    Running,
    /// To be the running one again, if its replacement can't be; else to retire.
    Replaced,
    /// To serve its last connections, and end.
    Old,
}

/// Settings that a process is loading.
#[derive(Debug)]
pub(super) struct Loading {
    pub(super) files: Arc<TlsFiles>,
    /// When its answer is overdue; none once that was said.
    pub(super) due: Option<Instant>,
}

/// A process of skd-tls.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    /// Tells of its end, where the kernel has such. The end of the control channel tells of it too.
    pidfd: Option<OwnedFd>,
    control: OwnedFd,
    /// What is to be sent yet.
    outgoing: VecDeque<Packet>,
    pub(super) role: Role,
    pub(super) started: Instant,
    /// Whether it has said that it has given up its rights.
    pub(super) is_started: bool,
    pub(super) loading: Option<Loading>,
    /// How many answers are to come yet to loads before that one: it was late with them.
    earlier: usize,
    /// The certificates of what is loading.
    pub(super) certificates: Vec<Certificate>,
    /// Why it can't serve, as far as it is known.
    pub(super) why: Option<String>,
    /// Whether it was reported that it says what isn't understood.
    pub(super) is_odd: bool,
    /// When it is killed, having closed its channel.
    kill_at: Option<Instant>,
    is_watched: bool,
    /// Whether it ends with this value. Not, if it is another binary's as long as that may go on.
    pub(super) is_own: bool,
}

/// A packet, and what is beside it.
#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    beside: Beside,
}

#[derive(Debug)]
enum Beside {
    Nothing,
    Channel,
    File(Arc<TlsFiles>, usize),
    Memory(File),
}

/// What was found on the control channel.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Report(Report),
    /// What is no report, or none that this skd knows.
    Other,
    /// The program wasn't executed.
    NotExecuted(Errno),
    /// Descriptors, for which it has no reason.
    Descriptors,
    End,
}

/// A process in the state of an upgrade: it stays a child of the process that becomes the next binary.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedChild {
    pid: i32,
    control: i32,
    /// In milliseconds of the monotonic clock.
    started: u64,
}

impl Child {
    /// Starts a process, whose standard error is this. It gets neither signals of a terminal nor those that
    /// a service manager sends to all processes to end them: it ends when skd tells it, or has ended.
    pub(super) fn start(program: &OpenProgram, error: BorrowedFd<'_>) -> Result<Self, Errno> {
        let (control, theirs) = packets::pair()?;
        descriptors::set_blocking(&control, false)?;
        let arguments = program.arguments();
        match process::fork()? {
            Fork::Child => {
                let errno = become_program(program, &theirs, error, &arguments);
                // No packet of skd-tls is so short.
                let number = (errno as i32).to_ne_bytes();
                let _ = packets::send(&theirs, [&number, b""], [None, None]);
                process::exit_now(1)
            }
            Fork::Parent(pid) => {
                let mut child = Self::new(pid, control, Role::Next, Instant::now());
                child.is_own = true;
                Ok(child)
            }
        }
    }

    fn new(pid: Pid, control: OwnedFd, role: Role, started: Instant) -> Self {
        Self {
            pid,
            // A child that wasn't reaped, so the id is its own; but a preflight has another's children.
            pidfd: process::open_pidfd(pid).ok(),
            control,
            outgoing: VecDeque::new(),
            role,
            started,
            is_started: false,
            loading: None,
            earlier: 0,
            certificates: Vec::new(),
            why: None,
            is_odd: false,
            kill_at: None,
            is_watched: false,
            is_own: false,
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Has it give up its rights and get ready.
    pub(super) fn prepare(&mut self, user: Option<TlsUser>, threads: usize) {
        let version = skd_tls_protocol::VERSION;
        let start = Command::Start {
            version,
            user,
            threads,
        };
        self.put(&start, Beside::Channel);
    }

    /// Has it load settings, whose answer is due at this time.
    pub(super) fn load(&mut self, files: &Arc<TlsFiles>, due: Instant) -> io::Result<()> {
        let mut memory = descriptors::memory_file()?;
        memory.write_all(&serde_json::to_vec(&files.settings)?)?;
        for index in 0..files.files.len() {
            self.put(&Command::File, Beside::File(Arc::clone(files), index));
        }
        self.put(&Command::Load, Beside::Memory(memory));
        self.certificates.clear();
        let loading = Loading {
            files: Arc::clone(files),
            due: Some(due),
        };
        self.earlier += usize::from(self.loading.replace(loading).is_some());
        Ok(())
    }

    /// Notes an answer to a load. Returns whether it is one to the last load.
    pub(super) fn answers_last(&mut self) -> bool {
        if self.earlier == 0 {
            return true;
        }
        self.earlier -= 1;
        self.certificates.clear();
        false
    }

    /// Has it serve its last connections and end.
    pub(super) fn retire(&mut self) {
        self.role = Role::Old;
        self.put(&Command::Retire, Beside::Nothing);
    }

    /// Has it end all connections within this time, and itself.
    pub(super) fn stop(&mut self, within: Duration) {
        let within = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.put(&Command::Stop { within }, Beside::Nothing);
    }

    fn put(&mut self, command: &Command, beside: Beside) {
        // None of these can't be written as JSON.
        let bytes = serde_json::to_vec(command).unwrap_or_default();
        self.outgoing.push_back(Packet { bytes, beside });
    }

    /// Sends what it takes now.
    pub(super) fn send(&mut self, channel: &Channel) {
        while let Some(Packet { bytes, beside }) = self.outgoing.front() {
            let descriptors = match beside {
                Beside::Nothing => [None, None],
                Beside::Channel => channel.parts().map(Some),
                Beside::File(files, index) => [files.files.get(*index).map(AsFd::as_fd), None],
                Beside::Memory(file) => [Some(file.as_fd()), None],
            };
            match packets::send(&self.control, [bytes, b""], descriptors) {
                Ok(()) => drop(self.outgoing.pop_front()),
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS) => return,
                // It ends, or has ended; and the end of the channel is about to be found.
                Err(Errno::EPIPE | Errno::ECONNRESET) => self.outgoing.clear(),
                Err(errno) => {
                    self.why = Some(format!("skd-tls can't be told: {}", errno.desc()));
                    self.kill(Instant::now());
                }
            }
        }
    }

    /// Takes one packet that it has sent.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Found {
        if self.kill_at.is_some() {
            return Found::Nothing;
        }
        // What this thread received it would close, which may wait. Another error is found again.
        if peek_bytes(&self.control, &mut [0]) == Err(Errno::EPROTO) {
            return Found::Descriptors;
        }
        match packets::receive(&self.control, buffer) {
            Ok((0, _)) => Found::End,
            Ok((length, _)) => {
                let packet = buffer.get(..length).unwrap_or_default();
                match (<[u8; 4]>::try_from(packet), self.is_started) {
                    (Ok(number), false) => {
                        let number = i32::from_ne_bytes(number);
                        Found::NotExecuted(Errno::from_raw(number))
                    }
                    _ => serde_json::from_slice(packet).map_or(Found::Other, Found::Report),
                }
            }
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => Found::Nothing,
            Err(Errno::EMSGSIZE) => Found::Other,
            Err(_) => Found::End,
        }
    }

    /// Notes that it has closed its channel: it ends, or is killed in a moment.
    pub(super) fn note_end(&mut self, now: Instant) {
        self.kill_at.get_or_insert(now + CLOSED);
        self.outgoing.clear();
    }

    /// Kills it.
    pub(super) fn kill(&mut self, now: Instant) {
        self.kill_at = Some(now);
        self.outgoing.clear();
        // It wasn't reaped, so its id is no other's.
        let _ = kill(self.pid, Signal::SIGKILL);
    }

    /// Whether it ends, or has ended.
    pub(super) fn ends(&self) -> bool {
        self.kill_at.is_some()
    }

    /// Reaps it, if it has ended.
    pub(super) fn reap(&mut self, now: Instant) -> Option<Ended> {
        match process::wait(Target::Process(self.pid), Wait::NOW) {
            Ok(Some((_, Change::Ended(ended)))) => {
                self.is_own = false;
                return Some(ended);
            }
            // Another has reaped it, and nothing is known of its end.
            Err(Errno::ECHILD) => {
                self.is_own = false;
                return Some(Ended::Exited(1));
            }
            _ => {}
        }
        if self.kill_at.is_some_and(|at| at <= now) {
            let _ = kill(self.pid, Signal::SIGKILL);
        }
        None
    }

    /// When to look at it, should nothing tell of anything before.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let ends = self.kill_at.map(|_| now + PAUSE);
        let sends = (!self.outgoing.is_empty()).then(|| now + SEND_AGAIN);
        let answers = self.loading.as_ref().and_then(|it| it.due);
        [ends, sends, answers].into_iter().flatten().min()
    }

    /// Has the poller tell of what it says, and of its end. What has ended is looked at from time to time.
    pub(super) fn watch(&mut self, poller: &Poller, key: u64) -> Result<(), Errno> {
        let pidfd = self.pidfd.as_ref().map(AsFd::as_fd);
        let both = [Some(self.control.as_fd()), pidfd];
        match (self.is_watched, self.ends()) {
            (false, false) => {
                self.is_watched = true;
                for fd in both.into_iter().flatten() {
                    poller.add(fd, Interest::Readable, key)?;
                }
            }
            (true, true) => self.unwatch(poller),
            _ => {}
        }
        Ok(())
    }

    /// Has the poller tell nothing more of it. Before it is dropped: see `sys::child`.
    pub(super) fn unwatch(&mut self, poller: &Poller) {
        if std::mem::take(&mut self.is_watched) {
            let pidfd = self.pidfd.as_ref().map(AsFd::as_fd);
            for fd in [Some(self.control.as_fd()), pidfd].into_iter().flatten() {
                let _ = poller.remove(fd);
            }
        }
    }

    pub(super) fn save(
        &self,
        clock: &SavedClock,
        to: &mut SavedDescriptors,
    ) -> Result<SavedChild, Errno> {
        Ok(SavedChild {
            pid: self.pid.as_raw(),
            control: to.pass(&self.control)?,
            started: clock.save(self.started),
        })
    }

    /// Restores a process. It is the other binary's until this one has taken possession of it.
    pub(super) fn restore(
        saved: &SavedChild,
        role: Role,
        clock: &SavedClock,
    ) -> Result<Self, Errno> {
        let pid = Pid::from_raw(saved.pid);
        let control = descriptors::claim(saved.control)?;
        let mut child = Self::new(pid, control, role, clock.restore(saved.started));
        child.is_started = true;
        Ok(child)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.is_own {
            return;
        }
        self.kill(Instant::now());
        let deadline = Instant::now() + DEAD;
        while self.reap(deadline).is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Becomes the program, in a process that was forked for that. Returns why not.
fn become_program(
    program: &OpenProgram,
    control: &OwnedFd,
    error: BorrowedFd<'_>,
    arguments: &reexec::ExecArguments,
) -> Errno {
    let become_it = || {
        setsid()?;
        signals::ignore(&signals::ENDING);
        dup2_stdin(control)?;
        dup2_stdout(control)?;
        // What is standard error already is inherited as it is.
        if error.as_raw_fd() != libc::STDERR_FILENO {
            dup2_stderr(error)?;
        }
        chdir("/")?;
        let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
        let kept = [
            input.as_fd(),
            output.as_fd(),
            error.as_fd(),
            program.as_fd(),
            control.as_fd(),
        ];
        descriptors::keep_only(&kept);
        SigSet::empty().thread_set_mask()
    };
    match become_it() {
        Ok(()) => reexec::exec_file(program, arguments),
        Err(errno) => errno,
    }
}
