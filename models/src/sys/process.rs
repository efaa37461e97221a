//! Processes, in the place of the kernel's.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use shuttle::rand::Rng;

use crate::kernel::{self, Kernel};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Runs,
    Stopped,
    Ended,
    Reaped,
}

/// What a prestarted process does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It, or a copy of it, goes on, and its id is sent.
    Id,
    /// It ends without an answer.
    None,
    /// It is stopped before it receives.
    Late,
    /// A copy goes on, and no answer is sent.
    Lost,
}

#[derive(Debug)]
pub struct Process {
    pub pid: i32,
    pub state: State,
    /// Whether skd may signal it.
    pub is_skds: bool,
    /// How often it will be stopped by another process.
    pub stops: usize,
    /// What it was sent.
    pub signals: Vec<Signal>,
    /// The connection that it goes on with.
    pub client: Option<RawFd>,
    /// Its end of the control socket.
    pub control: Option<OwnedFd>,
    /// Where the kernel notes its copies.
    pub note: Option<File>,
    /// The version of the program that it runs.
    pub version: u32,
}

impl Process {
    pub fn new(pid: i32, version: u32) -> Self {
        Self {
            pid,
            state: State::Runs,
            is_skds: true,
            stops: 0,
            signals: Vec::new(),
            client: None,
            control: None,
            note: None,
            version,
        }
    }

    /// Ends it: its descriptors are closed.
    pub fn end(&mut self) {
        if self.state != State::Reaped {
            self.state = State::Ended;
        }
        self.control = None;
    }
}

impl Kernel {
    /// Makes a process, and returns its index.
    pub fn make(&mut self, process: Process) -> usize {
        self.processes.push(process);
        self.processes.len() - 1
    }

    /// Opens a descriptor that belongs to a process.
    pub fn open(&mut self, index: usize) -> OwnedFd {
        let pidfd = OwnedFd::from(File::open("/dev/null").unwrap());
        self.owners.insert(pidfd.as_raw_fd(), index);
        pidfd
    }

    fn find(&self, pid: Pid) -> Option<usize> {
        let mut all = self.processes.iter();
        all.position(|other| other.pid == pid.as_raw() && other.state != State::Reaped)
    }

    fn signal(&mut self, index: usize, signal: Signal) -> Result<(), Errno> {
        let process = &mut self.processes[index];
        if process.state == State::Reaped {
            return Err(Errno::ESRCH);
        }
        assert!(process.is_skds, "{signal} for {process:?}");
        assert_eq!(process.client, None, "{signal} for {process:?}");
        process.signals.push(signal);
        match signal {
            Signal::SIGCONT if process.state == State::Stopped => process.state = State::Runs,
            Signal::SIGCONT => {}
            _ => process.end(),
        }
        Ok(())
    }

    /// Hands a connection to a process.
    pub fn hand(&mut self, index: usize, connection: RawFd) -> Result<(), Errno> {
        let process = &self.processes[index];
        if process.state != State::Runs {
            return Err(Errno::EPIPE);
        }
        assert_eq!(process.client, None, "a second client for {process:?}");
        let (answer, version) = (self.pick_answer(index), process.version);
        match answer {
            Answer::None => self.processes[index].end(),
            Answer::Late => self.processes[index].state = State::Stopped,
            Answer::Id | Answer::Lost => {
                assert!(!self.served.contains(&connection), "{connection} twice");
                self.served.push(connection);
                let mut successor = index;
                if self.processes[index].note.is_some() {
                    let pid = self.new_pid();
                    successor = self.make(Process::new(pid, version));
                }
                self.processes[successor].client = Some(connection);
                let pid = self.processes[successor].pid;
                let process = &self.processes[index];
                if let Some(note) = &process.note {
                    note.write_all_at(&pid.to_ne_bytes(), 0).unwrap();
                }
                if answer == Answer::Id {
                    let control = process.control.as_ref().unwrap();
                    nix::unistd::write(control, &i64::from(pid).to_ne_bytes()).unwrap();
                }
            }
        }
        Ok(())
    }

    fn pick_answer(&self, index: usize) -> Answer {
        let answers: &[Answer] = match (self.trouble, &self.processes[index].note) {
            (false, _) => &[Answer::Id],
            (true, None) => &[Answer::Id, Answer::None, Answer::Late],
            (true, Some(_)) => &[Answer::Id, Answer::None, Answer::Late, Answer::Lost],
        };
        answers[shuttle::rand::thread_rng().gen_range(0..answers.len())]
    }

    /// An id that no process has had.
    pub fn new_pid(&self) -> i32 {
        100 + i32::try_from(self.processes.len()).unwrap()
    }
}

/// Runs a process up to its next step. Returns whether it lives.
pub fn step(index: usize) -> bool {
    kernel::with(|kernel| stop(&mut kernel.processes[index]));
    kernel::until(|kernel| match kernel.processes[index].state {
        State::Runs => Some(true),
        State::Stopped => None,
        State::Ended | State::Reaped => Some(false),
    })
}

/// Another process stops it, if it still does.
fn stop(process: &mut Process) {
    if process.state == State::Runs && process.stops > 0 {
        process.stops -= 1;
        process.state = State::Stopped;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Ended,
    Stopped,
}

#[derive(Clone, Copy, Debug)]
pub enum Target<'fd> {
    Descriptor(BorrowedFd<'fd>),
    Process(Pid),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(bool);

impl Wait {
    pub const UNTIL_END: Self = Self(true);
    pub const PEEK_STOPPED: Self = Self(false);
    /// Asked only of processes that may not be children.
    pub const PEEK: Self = Self::PEEK_STOPPED;
}

pub fn wait(target: Target<'_>, how: Wait) -> Result<Option<(Pid, Change)>, Errno> {
    let index = kernel::read(|kernel| match target {
        Target::Descriptor(pidfd) => Some(kernel.owners[&pidfd.as_raw_fd()]),
        Target::Process(pid) => kernel.find(pid),
    });
    let index = index.ok_or(Errno::ECHILD)?;
    kernel::until(|kernel| {
        let process = &mut kernel.processes[index];
        let pid = Pid::from_raw(process.pid);
        match process.state {
            State::Reaped => Some(Err(Errno::ECHILD)),
            State::Stopped if how == Wait::PEEK_STOPPED => Some(Ok(Some((pid, Change::Stopped)))),
            _ if how == Wait::PEEK_STOPPED => Some(Ok(None)),
            State::Ended => {
                process.state = State::Reaped;
                Some(Ok(Some((pid, Change::Ended))))
            }
            State::Runs | State::Stopped => None,
        }
    })
}

pub fn open_pidfd(pid: Pid) -> Result<OwnedFd, Errno> {
    kernel::with(|kernel| {
        let index = kernel.find(pid).ok_or(Errno::ESRCH)?;
        Ok(kernel.open(index))
    })
}

pub fn signal_by_pidfd(pidfd: impl AsFd, signal: Signal) -> Result<(), Errno> {
    let fd = pidfd.as_fd().as_raw_fd();
    kernel::with(|kernel| kernel.signal(kernel.owners[&fd], signal))
}

pub fn kill(pid: Pid, signal: Signal) -> Result<(), Errno> {
    kernel::with(|kernel| {
        let index = kernel.find(pid).ok_or(Errno::ESRCH)?;
        kernel.signal(index, signal)
    })
}
