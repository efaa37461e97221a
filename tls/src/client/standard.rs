//! Standard input and output: one socket as for a handler, or two files such as pipes or a terminal.

use std::io::{IsTerminal, Stdin, Stdout};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, Shutdown, SockType, getsockopt, recv, send, setsockopt, shutdown, sockopt,
};
use nix::unistd::{close, read, write};
use skd::sys::sockets::unsent;

/// How much may be written to a pipe that poll(2) reports as writable (POSIX: PIPE_BUF).
const PIPE_BUF: usize = 4_096;

/// How long a reset waits for the other side to acknowledge what it was sent before.
const BEFORE_RESET: Duration = Duration::from_secs(1);

/// Both standard descriptors. They may be shared with other processes, so they stay blocking: a file is touched
/// only after poll(2), and once.
pub(super) struct Standard {
    input: Stdin,
    output: Stdout,
    input_is_socket: bool,
    output_is_socket: bool,
}

impl Standard {
    /// Looks at the standard descriptors. An error is a sentence.
    pub(super) fn find() -> Result<Self, String> {
        let (input, output) = (std::io::stdin(), std::io::stdout());
        Ok(Self {
            input_is_socket: is_socket(input.as_fd())
                .map_err(|why| format!("standard input {why}"))?,
            output_is_socket: is_socket(output.as_fd())
                .map_err(|why| format!("standard output {why}"))?,
            input,
            output,
        })
    }

    /// What is read from.
    pub(super) fn input(&self) -> BorrowedFd<'_> {
        self.input.as_fd()
    }

    /// What is written to.
    pub(super) fn output(&self) -> BorrowedFd<'_> {
        self.output.as_fd()
    }

    /// Whether the input is typed at a terminal.
    pub(super) fn is_typed(&self) -> bool {
        self.input.is_terminal()
    }

    /// Reads some of the input, after poll(2). 0 is the end.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        match self.input_is_socket {
            true => recv(self.input.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT),
            false => read(&self.input, buffer),
        }
    }

    /// Writes some of the output, after poll(2).
    pub(super) fn write(&self, bytes: &[u8]) -> Result<usize, Errno> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match self.output_is_socket {
            true => send(self.output.as_raw_fd(), bytes, flags),
            false => write(&self.output, &bytes[..bytes.len().min(PIPE_BUF)]),
        }
    }

    /// Tells the reader of the output that nothing more comes.
    pub(super) fn end_output(&self) {
        // It fails if the reader is gone. Standard output isn't used again.
        let number = self.output.as_raw_fd();
        let _ = match self.output_is_socket {
            true => shutdown(number, Shutdown::Write),
            false => close(number),
        };
    }

    /// Has the connection reset when this process ends, as that of the server was. What has arrived of an answer
    /// isn't taken back: a close with a reset discards what the peer hasn't acknowledged.
    pub(super) fn reset(&self) {
        if !self.output_is_socket {
            return;
        }
        let until = Instant::now() + BEFORE_RESET;
        while unsent(&self.output) > 0 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        let _ = setsockopt(&self.output, sockopt::Linger, &linger);
    }
}

fn is_socket(descriptor: BorrowedFd<'_>) -> Result<bool, String> {
    match getsockopt(&descriptor, sockopt::SockType) {
        Ok(SockType::Stream) => Ok(true),
        Ok(_) => Err("is a socket for packets, and TLS is for streams of bytes".to_owned()),
        Err(Errno::ENOTSOCK) => Ok(false),
        Err(errno) => Err(format!("can't be used: {}", errno.desc())),
    }
}
