//! Newborn children while they are being made, and the thread that watches them.
//!
//! A child may have the user of handlers before it execs. Any process of that user can stop it
//! then, and with it the thread that has made it. So a watcher continues a child that is stopped
//! before its exec, and kills it if it is stopped again and again. A child that can't go on by
//! itself, such as on a dead file server, is left alone.

use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::sys::memory::Stack;
use crate::sys::process::{self, Change, Target, Wait};
use crate::sys::signals::kill;
use crate::sys::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use crate::sys::sync::{Instant, Mutex, MutexGuard, OnceLock, PoisonError, thread};
use crate::sys::thread::Thread;

/// The stack of a thread's newborn children, and what the watcher sees of them.
#[derive(Debug)]
pub struct ChildStack {
    pub(super) stack: Stack,
    pub(super) newborn: Arc<Newborn>,
}

impl ChildStack {
    /// Maps a stack.
    pub fn new() -> Result<Self, Errno> {
        Self::among(&BIRTHS)
    }

    pub(super) fn among(births: &'static Births) -> Result<Self, Errno> {
        let stack = Stack::new()?;
        let newborn = Arc::new(Newborn::new(births));
        births.lock().push(Arc::clone(&newborn));
        Ok(Self { stack, newborn })
    }
}

impl Drop for ChildStack {
    fn drop(&mut self) {
        let mut all = self.newborn.births.lock();
        all.retain(|newborn| !Arc::ptr_eq(newborn, &self.newborn));
    }
}

/// The newborn child of a thread.
#[derive(Debug)]
pub(super) struct Newborn {
    /// Where it is watched.
    births: &'static Births,
    /// How many births have begun and ended: an odd number during one.
    count: AtomicU32,
    /// The process id, once the child has run (`CLONE_CHILD_SETTID`).
    pid: AtomicI32,
    /// Whether the child has come to its exec, or to the end of a rehearsal.
    done: AtomicBool,
    /// The count that the watcher has seen, and how often it has continued that child.
    seen: AtomicU32,
    continued: AtomicU32,
}

/// The births of this process.
static BIRTHS: Births = Births::new();

/// All births, and the thread that watches them.
#[derive(Debug)]
pub(super) struct Births {
    /// One for each stack.
    all: Mutex<Vec<Arc<Newborn>>>,
    /// Whether the watcher looks by itself. If not, a birth wakes it: a daemon without clients isn't
    /// woken, and one with many wakes the watcher no more often than it looks.
    looks: AtomicBool,
    watcher: OnceLock<thread::Thread>,
    is_watched: Mutex<bool>,
}

impl Newborn {
    fn new(births: &'static Births) -> Self {
        Self {
            births,
            count: AtomicU32::new(0),
            pid: AtomicI32::new(0),
            done: AtomicBool::new(false),
            seen: AtomicU32::new(0),
            continued: AtomicU32::new(0),
        }
    }

    /// Begins a birth. Two stores and a locked addition; a system call (futex(2)) for the first
    /// birth after a look that has found none.
    pub(super) fn begin(&self) {
        self.pid.store(0, Ordering::Relaxed);
        self.done.store(false, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::SeqCst);
        self.births.wake();
    }

    /// Notes, in the child, that it has come to its exec. A store: no system call.
    pub(super) fn note_done(&self) {
        self.done.store(true, Ordering::SeqCst);
    }

    /// Ends a birth, before the child may be reaped. Returns whether the child has come to its
    /// exec.
    pub(super) fn end(&self) -> bool {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.done.load(Ordering::SeqCst)
    }

    /// Where the kernel writes the process id.
    pub(super) fn pid_address(&self) -> *mut i32 {
        self.pid.as_ptr()
    }

    fn is_under_way(&self) -> bool {
        self.count.load(Ordering::SeqCst) % 2 == 1
    }

    /// Looks at the child of a birth that is under way. Returns the signal that it was sent.
    fn look(&self, count: u32) -> Option<(Pid, Signal)> {
        // Its exec can't be stopped, and a stop after that holds up no thread: with a prestarted
        // handler it is its tracer's.
        if self.done.load(Ordering::SeqCst) {
            return None;
        }
        let pid = Pid::from_raw(self.pid.load(Ordering::SeqCst));
        let is_stopped = pid.as_raw() > 0
            && matches!(
                process::wait(Target::Process(pid), Wait::PEEK_STOPPED),
                Ok(Some((_, Change::Stopped)))
            );
        if !is_stopped {
            return None;
        }
        let pidfd = process::open_pidfd(pid);
        // A child is reaped after its birth. So if that goes on, the id was the child's.
        if self.count.load(Ordering::SeqCst) != count {
            return None;
        }
        let tries = self.continued.fetch_add(1, Ordering::Relaxed);
        let signal = if tries < CONTINUED {
            Signal::SIGCONT
        } else {
            Signal::SIGKILL
        };
        let sent = match pidfd {
            Ok(pidfd) => process::signal_by_pidfd(pidfd, signal),
            Err(_) => kill(pid, signal),
        };
        sent.is_ok().then_some((pid, signal))
    }
}

/// How often a child is continued before it is killed.
const CONTINUED: u32 = 4;

/// The time between two looks. A birth takes far less than a millisecond, so that hardly any is
/// seen twice.
const CALM: Duration = Duration::from_millis(100);

/// The same for some time after a child was stopped, and how long that is: an attacker goes on.
const ALARMED: Duration = Duration::from_millis(2);
const ALARM: Duration = Duration::from_secs(10);

/// The longest time between two looks at a child that neither goes on nor is stopped.
const LONGEST: Duration = Duration::from_secs(1);

/// What a look at all births has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// Births that weren't under way at the last look.
    New,
    /// A birth that was under way at the last look.
    Old,
    /// A child that was stopped.
    Stopped,
}

/// Starts the thread that watches births, unless there is one. `report` is told of each child that
/// was stopped, and of the signal that it was sent.
pub fn watch(report: fn(Pid, Signal)) -> Result<(), Errno> {
    BIRTHS.watch(report)
}

impl Births {
    pub(super) const fn new() -> Self {
        Self {
            all: Mutex::new(Vec::new()),
            looks: AtomicBool::new(false),
            watcher: OnceLock::new(),
            is_watched: Mutex::new(false),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Arc<Newborn>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the watcher look, if it doesn't by itself.
    fn wake(&self) {
        if !self.looks.load(Ordering::SeqCst) {
            self.looks.store(true, Ordering::SeqCst);
            if let Some(watcher) = self.watcher.get() {
                watcher.unpark();
            }
        }
    }

    pub(super) fn watch(&'static self, report: fn(Pid, Signal)) -> Result<(), Errno> {
        let is_watched = self.is_watched.lock();
        let mut is_watched = is_watched.unwrap_or_else(PoisonError::into_inner);
        if !*is_watched {
            Thread::start(c"births".into(), 128 * 1024, move || self.run(report))?;
            *is_watched = true;
        }
        Ok(())
    }

    fn run(&self, report: fn(Pid, Signal)) {
        let _ = self.watcher.set(thread::current());
        let mut alarmed_until: Option<Instant> = None;
        let mut pause = CALM;
        loop {
            while !self.looks.load(Ordering::SeqCst) {
                thread::park();
            }
            let is_alarmed = alarmed_until.is_some_and(|until| Instant::now() < until);
            thread::sleep(if is_alarmed { ALARMED } else { pause });
            pause = match self.look(report) {
                Found::Nothing => {
                    self.rest();
                    CALM
                }
                Found::New => CALM,
                Found::Old => (2 * pause).min(LONGEST),
                Found::Stopped => {
                    alarmed_until = Some(Instant::now() + ALARM);
                    CALM
                }
            };
        }
    }

    /// Lets the next birth wake the watcher, unless one is under way already.
    fn rest(&self) {
        self.looks.store(false, Ordering::SeqCst);
        // A birth has either seen that, or is seen here.
        if self.lock().iter().any(|newborn| newborn.is_under_way()) {
            self.looks.store(true, Ordering::SeqCst);
        }
    }

    fn look(&self, report: fn(Pid, Signal)) -> Found {
        let mut found = Found::Nothing;
        let mut worse = |other| {
            if found as u8 <= other as u8 {
                found = other;
            }
        };
        // Not locked while anything waits: only threads that come and go wait for this lock.
        for newborn in self.lock().iter() {
            let count = newborn.count.load(Ordering::SeqCst);
            if count % 2 == 0 {
                continue;
            }
            if newborn.seen.swap(count, Ordering::Relaxed) != count {
                newborn.continued.store(0, Ordering::Relaxed);
                worse(Found::New);
            } else if let Some((pid, signal)) = newborn.look(count) {
                report(pid, signal);
                worse(Found::Stopped);
            } else {
                worse(Found::Old);
            }
        }
        found
    }
}
