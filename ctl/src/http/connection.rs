//! Bytes from and to the client, each before a deadline.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use nix::unistd::{read, write};

/// How much is read from a client that is to close its side.
const LONGEST_REST: usize = 1024 * 1024;

/// What is written at once where writing can't be told not to wait: a pipe that is ready takes this.
const PIECE: usize = 4096;

/// What reading has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Bytes.
    Some,
    /// The end, be it by a reset.
    End,
    /// Nothing in time.
    TimedOut,
}

/// A connection to a client. It never waits without a deadline, and leaves the flags of the
/// descriptors alone: other processes may have them, a shell for example.
#[derive(Debug)]
pub(super) struct Connection<'a> {
    input: BorrowedFd<'a>,
    output: BorrowedFd<'a>,
    received: Vec<u8>,
}

impl<'a> Connection<'a> {
    /// Returns a connection of two descriptors.
    pub(super) fn new(input: BorrowedFd<'a>, output: BorrowedFd<'a>) -> Self {
        Self {
            input,
            output,
            received: Vec::new(),
        }
    }

    /// Returns what was received and is not consumed.
    pub(super) fn received(&self) -> &[u8] {
        &self.received
    }

    /// Forgets bytes at the start of what was received.
    pub(super) fn consume(&mut self, length: usize) {
        self.received.drain(..length.min(self.received.len()));
    }

    /// Reads once, up to this much in all.
    pub(super) fn read(&mut self, most: usize, deadline: Instant) -> io::Result<Read> {
        if !ready(self.input, PollFlags::POLLIN, deadline)? {
            return Ok(Read::TimedOut);
        }
        let old = self.received.len();
        self.received.resize(most.max(old), 0);
        let result = retried(|| read(self.input, &mut self.received[old..]));
        self.received.truncate(old + result.unwrap_or(0));
        match result {
            Ok(0) => Ok(Read::End),
            Ok(_) => Ok(Read::Some),
            Err(error) if is_gone(error) => Ok(Read::End),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes all, and returns whether the client has taken it in time.
    pub(super) fn write(&self, bytes: &[u8], deadline: Instant) -> io::Result<bool> {
        let mut rest = bytes;
        while !rest.is_empty() {
            if !ready(self.output, PollFlags::POLLOUT, deadline)? {
                return Ok(false);
            }
            match retried(|| self.write_some(rest)) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::EAGAIN) => {}
                Err(error) if is_gone(error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    fn write_some(&self, bytes: &[u8]) -> nix::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match send(self.output.as_raw_fd(), bytes, flags) {
            Err(Errno::ENOTSOCK) => write(self.output, &bytes[..bytes.len().min(PIECE)]),
            result => result,
        }
    }

    /// Ends the output, and reads until the client has closed its side: a connection that is closed
    /// with bytes unread is reset, and that may destroy the response on its way.
    pub(super) fn close(&mut self, deadline: Instant) {
        if shutdown(self.output.as_raw_fd(), Shutdown::Write).is_err() {
            return;
        }
        let mut length = 0;
        while length < LONGEST_REST {
            self.received.clear();
            match self.read(PIECE, deadline) {
                Ok(Read::Some) => length += self.received.len(),
                Ok(Read::End | Read::TimedOut) | Err(_) => return,
            }
        }
    }
}

/// Waits until a descriptor is ready, or has an error to tell. Returns false at the deadline.
fn ready(descriptor: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> io::Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up: no busy loop in the last millisecond.
        let left = i32::try_from(left.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(descriptor, events)], timeout) {
            Ok(0) if Instant::now() >= deadline => return Ok(false),
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
}

fn retried(mut call: impl FnMut() -> nix::Result<usize>) -> nix::Result<usize> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Whether an error says that the client, or the network to it, is gone.
fn is_gone(error: Errno) -> bool {
    matches!(
        error,
        Errno::ECONNRESET
            | Errno::EPIPE
            | Errno::ETIMEDOUT
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::ENETDOWN
            | Errno::ENOTCONN
    )
}
