//! The ends between which bytes move: the client on standard input and output, and the target.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    Shutdown, SockType, SockaddrStorage, getpeername, getsockopt, setsockopt, shutdown, sockopt,
};
use nix::sys::stat::fstat;
use std::os::fd::AsRawFd;

use crate::sys;

/// What an end is, and so how it is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A connection that carries bytes.
    Stream,
    /// A connection that carries messages.
    Seqpacket,
    /// Messages without a connection, so without an end of file.
    Datagram,
    /// A pipe, a terminal, a file. It may be shared with other processes, so it blocks.
    File,
}

impl Kind {
    /// Whether what is read or written at once belongs together.
    pub(crate) fn has_messages(self) -> bool {
        matches!(self, Self::Seqpacket | Self::Datagram)
    }
}

/// The client, on standard input and output.
#[derive(Debug)]
pub(crate) struct Client {
    /// What comes from the client.
    pub(crate) input: BorrowedFd<'static>,
    /// The kind of `input`.
    pub(crate) kind: Kind,
    /// What goes to the client.
    pub(crate) output: BorrowedFd<'static>,
    /// The kind of `output`.
    pub(crate) output_kind: Kind,
    /// Whether both are one socket, as for a handler.
    pub(crate) is_one: bool,
}

impl Client {
    /// Looks at the standard descriptors.
    pub(crate) fn find() -> Result<Self, String> {
        let [input, output] = sys::standard();
        let kind = kind(input).map_err(|why| format!("standard input {why}"))?;
        let same = fstat(input).and_then(|one| {
            let other = fstat(output)?;
            Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
        });
        let is_one = same == Ok(true) && kind != Kind::File;
        let output_kind = match is_one {
            true => kind,
            false => self::kind(output).map_err(|why| format!("standard output {why}"))?,
        };
        Ok(Self {
            input,
            kind,
            output,
            output_kind,
            is_one,
        })
    }
}

/// Returns the kind of a descriptor. An error is the rest of a sentence.
fn kind(descriptor: BorrowedFd<'_>) -> Result<Kind, String> {
    match getsockopt(&descriptor, sockopt::SockType) {
        Ok(SockType::Stream) => Ok(Kind::Stream),
        Ok(SockType::SeqPacket) => Ok(Kind::Seqpacket),
        Ok(SockType::Datagram) => match getpeername::<SockaddrStorage>(descriptor.as_raw_fd()) {
            Ok(_) => Ok(Kind::Datagram),
            Err(_) => Err(
                "is a datagram socket of many senders: run skd with --datagram-mode per-peer"
                    .to_owned(),
            ),
        },
        Ok(_) => Err("is a socket of an unknown type".to_owned()),
        Err(Errno::ENOTSOCK) => Ok(Kind::File),
        Err(Errno::EBADF) => Err("is closed".to_owned()),
        Err(errno) => Err(format!("can't be used: {}", errno.desc())),
    }
}

/// The target: a connected socket.
#[derive(Debug)]
pub(crate) struct Target {
    /// The socket.
    pub(crate) socket: OwnedFd,
    /// Its kind.
    pub(crate) kind: Kind,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    /// The descriptor.
    pub(crate) descriptor: BorrowedFd<'a>,
    /// Its kind.
    pub(crate) kind: Kind,
}

impl End<'_> {
    /// Whether nothing more comes, after a read of nothing. That may have been an empty message: after one
    /// the other side still writes, or what it wrote before its end is there to be read.
    pub(crate) fn has_ended(&self) -> bool {
        match self.kind {
            Kind::Stream | Kind::File => true,
            Kind::Datagram => false,
            Kind::Seqpacket => {
                let mut end = [PollFd::new(
                    self.descriptor,
                    PollFlags::from_bits_retain(libc::POLLRDHUP),
                )];
                poll(&mut end, 0_u8) != Ok(0) && sys::unread(self.descriptor) == 0
            }
        }
    }

    /// Tells the other side that nothing more comes.
    pub(crate) fn finish(&self) {
        match self.kind {
            // It fails if the other side is gone.
            Kind::Stream | Kind::Seqpacket => {
                let _ = shutdown(self.descriptor.as_raw_fd(), Shutdown::Write);
            }
            // Standard output; it isn't used again. An error of writing has been reported before.
            Kind::File => {
                let _ = nix::unistd::close(self.descriptor.as_raw_fd());
            }
            Kind::Datagram => {}
        }
    }

    /// Lets tiny writes leave at once. Sockets other than TCP never wait.
    pub(crate) fn set_nodelay(&self) {
        let _ = setsockopt(&self.descriptor, sockopt::TcpNoDelay, &true);
    }

    /// Has the next close reset the connection.
    pub(crate) fn reset_at_close(&self) {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        let _ = setsockopt(&self.descriptor, sockopt::Linger, &linger);
    }
}

impl Target {
    /// The target as an end of a flow.
    pub(crate) fn end(&self) -> End<'_> {
        End {
            descriptor: self.socket.as_fd(),
            kind: self.kind,
        }
    }
}
