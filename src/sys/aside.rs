//! Closing descriptors without waiting, whatever other processes have prepared.
//!
//! close(2) waits if it is the last one of a TCP socket with unsent data and `SO_LINGER` (socket(7)).
//! A handler can set that on its connection. A client of a unix socket can send a descriptor of such
//! a socket along (unix(7), `SCM_RIGHTS`): then the last close of the connection is also the last of
//! that socket. The kernel doesn't wait in a thread that exits (`PF_EXITING`). So these descriptors
//! go to a thread that has another one copy them and exit:
//!
//! ```text
//!  a thread that serves    the closer               a brief thread
//!  drop(Aside) ─ queue ──▶ takes all that wait ───▶ copies them into a table of its own
//!                          closes them, none last ◀──
//!                          ─────────────────────────▶ exits: the kernel closes the copies
//! ```
//!
//! What can't be copied the brief thread closes itself, and may wait.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{Pid, gettid};

use super::descriptors::{unshare_with, unshare_with_all};
use super::signals::thread_exists;
use super::thread::Thread;

/// The time between two batches where no client waits, so that many closes share the cost of a thread.
const PAUSE: Duration = Duration::from_millis(10);

/// How many brief threads may exist. More than one does only if a close waits all the same, for a
/// file server or a device.
const MOST: usize = 32;

/// How long the closer waits for a shortage to pass.
const SHORTAGE: Duration = Duration::from_millis(100);

/// A descriptor that is closed by another thread when this is dropped. Dropping takes a lock that
/// no thread holds for long, and at most one system call.
#[derive(Debug)]
pub struct Aside(ManuallyDrop<OwnedFd>);

impl Aside {
    /// Closes it as soon as it can be: a client waits for the end. Dropping waits for others first, so
    /// that many share the cost.
    pub fn close_promptly(self) {
        close(self.into_inner(), true);
    }

    /// The descriptor, for a caller whose close of it doesn't wait.
    pub fn into_inner(mut self) -> OwnedFd {
        // SAFETY: taken once, since this value isn't dropped.
        let fd = unsafe { ManuallyDrop::take(&mut self.0) };
        std::mem::forget(self);
        fd
    }
}

impl From<OwnedFd> for Aside {
    fn from(fd: OwnedFd) -> Self {
        Self(ManuallyDrop::new(fd))
    }
}

impl AsFd for Aside {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // SAFETY: taken once, since this value is used no more.
        close(unsafe { ManuallyDrop::take(&mut self.0) }, false);
    }
}

/// Waits until all descriptors are closed, but not for longer than this time. Before an exec, which
/// would close them in a thread that doesn't exit.
pub fn settle(limit: Duration) {
    let deadline = Instant::now() + limit;
    while !lock(&QUEUE).is_idle() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

struct Queue {
    waiting: Vec<OwnedFd>,
    /// Whether a client waits for one of them.
    prompt: bool,
    /// Whether the closer exists, whether it sleeps until it is woken, and whether it has taken
    /// descriptors that aren't closed yet.
    started: bool,
    asleep: bool,
    busy: bool,
}

impl Queue {
    fn start(&mut self) -> Result<(), Errno> {
        if !self.started {
            Thread::start(c"closer".into(), 64 * 1024, run)?;
            self.started = true;
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && !self.busy
    }
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    waiting: Vec::new(),
    prompt: false,
    started: false,
    asleep: false,
    busy: false,
});
static ARRIVED: Condvar = Condvar::new();

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the closer now, so that a start which can't have it fails.
pub fn start() -> Result<(), Errno> {
    lock(&QUEUE).start()
}

fn close(fd: OwnedFd, prompt: bool) {
    let mut queue = lock(&QUEUE);
    if queue.waiting.try_reserve(1).is_err() {
        // Closed here: there is no memory to remember it.
        drop(queue);
        return drop(fd);
    }
    queue.waiting.push(fd);
    // If there can't be a thread now, the next close tries again.
    let _ = queue.start();
    queue.prompt |= prompt;
    if std::mem::take(&mut queue.asleep) || prompt {
        ARRIVED.notify_one();
    }
}

/// How a brief thread closes descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It copies them into an empty table.
    Copy,
    /// It copies the whole table, which takes longer the more is open.
    CopyAll,
    /// It closes them itself, and may wait.
    Close,
}

impl Way {
    fn next(self) -> Self {
        match self {
            Self::Copy => Self::CopyAll,
            Self::CopyAll | Self::Close => Self::Close,
        }
    }

    /// What follows this failure of a way.
    fn after(self, errno: Errno) -> After {
        match (self, errno) {
            // The kernel lacks a call, or a filter refuses it.
            (_, Errno::ENOSYS | Errno::EPERM | Errno::EINVAL) => After::NextFromNowOn,
            // The next way would wait.
            (Self::CopyAll, Errno::ENOMEM) => After::Again,
            // It may be a shortage, or about one descriptor.
            _ => After::NextOnce,
        }
    }
}

/// What follows the failure of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// The next way, for this batch and all later ones.
    NextFromNowOn,
    /// The next way, for this batch alone.
    NextOnce,
    /// The first way, when the shortage may have passed.
    Again,
}

/// The closer.
fn run() {
    let mut brief: Vec<Pid> = Vec::with_capacity(MOST);
    let mut first = Way::Copy;
    loop {
        let batch = Arc::new(Batch {
            progress: Mutex::new(Progress {
                stage: Stage::Begun,
                thread: None,
                descriptors: take(),
            }),
            changed: Condvar::new(),
        });
        while !close_all(&batch, &mut first, &mut brief) {
            std::thread::sleep(SHORTAGE);
        }
        let mut queue = lock(&QUEUE);
        queue.busy = false;
        let paused = ARRIVED.wait_timeout_while(queue, PAUSE, |queue| !queue.prompt);
        drop(paused.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Waits for descriptors, and takes all that wait.
fn take() -> Vec<OwnedFd> {
    let mut queue = lock(&QUEUE);
    while queue.waiting.is_empty() {
        queue.asleep = true;
        let woken = ARRIVED.wait(queue);
        queue = woken.unwrap_or_else(PoisonError::into_inner);
    }
    (queue.asleep, queue.prompt) = (false, false);
    queue.busy = true;
    std::mem::take(&mut queue.waiting)
}

/// Descriptors that are closed together.
struct Batch {
    progress: Mutex<Progress>,
    changed: Condvar,
}

struct Progress {
    stage: Stage,
    /// The brief thread.
    thread: Option<Pid>,
    descriptors: Vec<OwnedFd>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begun,
    /// The brief thread can't copy them.
    Failed(Errno),
    /// It has copies of them all.
    Copied,
    /// They are closed, but for the copies; or the brief thread closes them.
    Done,
}

impl Batch {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        lock(&self.progress)
    }

    fn enter(&self, stage: Stage) {
        self.lock().stage = stage;
        self.changed.notify_one();
    }

    fn wait_while(&self, stage: Stage) -> MutexGuard<'_, Progress> {
        let waiting = |progress: &mut Progress| progress.stage == stage;
        let progress = self.changed.wait_while(self.lock(), waiting);
        progress.unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a batch. `first` is the first way that the kernel offers. Returns whether that could be done.
fn close_all(batch: &Arc<Batch>, first: &mut Way, brief: &mut Vec<Pid>) -> bool {
    let mut way = *first;
    loop {
        brief.retain(|thread| thread_exists(*thread));
        if brief.len() >= MOST {
            return false;
        }
        let work = {
            let batch = Arc::clone(batch);
            move || close_briefly(&batch, way)
        };
        batch.enter(Stage::Begun);
        if Thread::start_brief(c"closing".into(), 64 * 1024, work).is_err() {
            return false;
        }
        let mut progress = batch.wait_while(Stage::Begun);
        brief.extend(progress.thread);
        match progress.stage {
            Stage::Failed(errno) => {
                let after = way.after(errno);
                if after == After::Again {
                    return false;
                }
                way = way.next();
                if after == After::NextFromNowOn {
                    *first = way;
                }
            }
            Stage::Copied => {
                let descriptors = std::mem::take(&mut progress.descriptors);
                drop(progress);
                // None is the last.
                drop(descriptors);
                batch.enter(Stage::Done);
                return true;
            }
            Stage::Begun | Stage::Done => return true,
        }
    }
}

/// The brief thread. When it exits, the kernel closes what is in its own table.
fn close_briefly(batch: &Batch, way: Way) {
    let mut progress = batch.lock();
    progress.thread = Some(gettid());
    let copied = match way {
        Way::Copy => unshare_with(&progress.descriptors),
        Way::CopyAll => unshare_with_all(),
        Way::Close => {
            let descriptors = std::mem::take(&mut progress.descriptors);
            drop(progress);
            batch.enter(Stage::Done);
            return drop(descriptors);
        }
    };
    drop(progress);
    match copied {
        Ok(()) => {
            batch.enter(Stage::Copied);
            drop(batch.wait_while(Stage::Copied));
        }
        Err(errno) => batch.enter(Stage::Failed(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn only_what_the_kernel_lacks_is_given_up_for_good() {
        for way in [Way::Copy, Way::CopyAll] {
            for errno in [Errno::ENOSYS, Errno::EPERM, Errno::EINVAL] {
                assert_eq!(way.after(errno), After::NextFromNowOn);
            }
            for errno in [Errno::EMFILE, Errno::ENFILE, Errno::EAGAIN, Errno::EACCES] {
                assert_eq!(way.after(errno), After::NextOnce);
            }
        }
        assert_eq!(Way::Copy.after(Errno::ENOMEM), After::NextOnce);
        assert_eq!(Way::CopyAll.after(Errno::ENOMEM), After::Again);
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn no_close_waits_and_all_that_was_written_arrives() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(count) = (&server).write(&[7; 65_536]) {
            written += count;
        }
        let far = Some(Duration::from_secs(3_600));
        socket2::SockRef::from(&server).set_linger(far).unwrap();
        drop(Aside::from(OwnedFd::from(server)));
        settle(Duration::from_secs(60));
        // The next isn't behind it.
        let (mut reader, writer) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(Aside::from(OwnedFd::from(writer)));
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        let mut read = Vec::new();
        client.read_to_end(&mut read).unwrap();
        assert_eq!(read.len(), written);
    }
}
