//! The output of a run on stdout and stderr.

use super::{DEADLINE, poll_for};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fmt;
use std::io::{ErrorKind, PipeReader, Read};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

/// Where a line was written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    Stdout,
    Stderr,
}

/// One line, without its newline; bytes that aren't UTF-8 are replaced.
#[derive(Clone, Debug)]
pub struct Line {
    pub source: Source,
    pub text: String,
    /// When it was read, which is a little later than when it was written.
    pub at: Instant,
}

/// Collects what comes out of pipes, in the order of arrival. Clones share one collection.
#[derive(Clone, Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    start: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Vec<Line>>,
    pumps: Mutex<Vec<Arc<Mutex<Pump>>>>,
}

/// One pipe. The holder of the lock reads all that is available: the thread that waits for more, or
/// a test that needs everything that was written so far.
#[derive(Debug)]
struct Pump {
    source: Source,
    pipe: PipeReader,
    bytes: Vec<u8>,
    lines_end: usize,
    ended: bool,
}

impl Capture {
    pub(super) fn new() -> Self {
        Self {
            shared: Arc::default(),
            start: Instant::now(),
        }
    }

    /// Reads `pipe` until its end, in a thread that lives as long as a process can write.
    pub(super) fn read(&self, source: Source, pipe: PipeReader) {
        // Only our end: the writers' is another open file, and stays blocking.
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("O_NONBLOCK");
        let waiting = pipe.try_clone().expect("a second descriptor");
        let pump = Arc::new(Mutex::new(Pump {
            source,
            pipe,
            bytes: Vec::new(),
            lines_end: 0,
            ended: false,
        }));
        locked(&self.shared.pumps).push(Arc::clone(&pump));
        let shared = Arc::clone(&self.shared);
        thread::spawn(move || {
            while !locked(&pump).ended {
                let mut wanted = [PollFd::new(waiting.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut wanted, PollTimeout::NONE);
                locked(&pump).read_on(&shared.lines);
            }
        });
    }

    /// Everything written so far. What a process wrote before it was seen to exit is in it.
    pub fn lines(&self) -> Vec<Line> {
        self.catch_up();
        locked(&self.shared.lines).clone()
    }

    /// The lines of one source.
    pub fn lines_of(&self, source: Source) -> Vec<String> {
        let lines = self.lines();
        let wanted = lines.into_iter().filter(|line| line.source == source);
        wanted.map(|line| line.text).collect()
    }

    /// The bytes of one source as they were written, an unfinished last line included.
    pub fn bytes_of(&self, source: Source) -> Vec<u8> {
        self.catch_up();
        let pumps = locked(&self.shared.pumps);
        let mut bytes = Vec::new();
        for pump in pumps.iter() {
            let pump = locked(pump);
            if pump.source == source {
                bytes.extend_from_slice(&pump.bytes);
            }
        }
        bytes
    }

    /// Waits for a line that `wanted` accepts, earlier lines included, and returns the first.
    pub(super) fn find(&self, wanted: impl Fn(&Line) -> bool) -> Option<Line> {
        poll_for(DEADLINE, || self.lines().into_iter().find(&wanted))
    }

    fn catch_up(&self) {
        for pump in locked(&self.shared.pumps).iter() {
            locked(pump).read_on(&self.shared.lines);
        }
    }
}

impl Pump {
    fn read_on(&mut self, lines: &Mutex<Vec<Line>>) {
        let mut buffer = [0; 16 * 1024];
        while !self.ended {
            match self.pipe.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(length) => self.bytes.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.ended = true,
            }
        }
        let mut lines = locked(lines);
        while let Some(length) = self.next_line() {
            let line = &self.bytes[self.lines_end..self.lines_end + length];
            lines.push(Line {
                source: self.source,
                text: String::from_utf8_lossy(line).into_owned(),
                at: Instant::now(),
            });
            self.lines_end = (self.lines_end + length + 1).min(self.bytes.len());
        }
    }

    /// The length of the line that begins at `lines_end`: a finished one, or the last one of all.
    fn next_line(&self) -> Option<usize> {
        let rest = &self.bytes[self.lines_end..];
        let newline = rest.iter().position(|&byte| byte == b'\n');
        newline.or_else(|| (self.ended && !rest.is_empty()).then_some(rest.len()))
    }
}

/// For failures: every line with its source and its time, and the unfinished line.
impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.lines() {
            let after = line.at.saturating_duration_since(self.start).as_secs_f64();
            writeln!(f, "  {after:8.3} {:?}: {}", line.source, line.text)?;
        }
        for pump in locked(&self.shared.pumps).iter() {
            let pump = locked(pump);
            let rest = &pump.bytes[pump.lines_end..];
            if !rest.is_empty() {
                let text = String::from_utf8_lossy(rest);
                writeln!(f, "           {:?}, unfinished: {text}", pump.source)?;
            }
        }
        Ok(())
    }
}

/// Locks a mutex, also after a failed test held it: the failure still has to be printed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
