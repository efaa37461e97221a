//! Receiving the PROXY protocol header of a connection.

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;
use socket2::Socket;

use super::parse::parse;
use super::v2;
use crate::config::proxy_header::{Fault, Header};
use crate::sys::sockets::{is_shut_down, peek_bytes, receive_now};

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A header, which has been removed from the connection.
    Header(Header),
    /// A part of a header, or nothing yet.
    Incomplete {
        /// Whether at least one byte has come.
        begun: bool,
    },
    /// No header. None will come.
    Fault(Fault),
}

/// The buffer size in bytes that is enough for almost all headers. The protocol requires that a
/// header fits into the smallest segment that every host accepts.
const USUAL: usize = 536;

/// Removes the header from the beginning of a connection if it is complete.
///
/// Call this when the connection may have become readable. All received data causes one edge
/// (epoll(7), `EPOLLET`), although it stays in the buffer. The end causes one too.
pub fn receive(connection: &Socket) -> Received {
    let result = match take::<USUAL>(connection) {
        Ok(Taken::Short) => take::<{ v2::LONGEST }>(connection),
        result => result,
    };
    match result {
        Ok(Taken::Header(header)) => Received::Header(header),
        Ok(Taken::Incomplete { begun }) => Received::Incomplete { begun },
        // This can't happen: the parser refuses a longer header.
        Ok(Taken::Short) => Received::Fault(Fault::Failed(Errno::EMSGSIZE)),
        Err(fault) => Received::Fault(fault),
    }
}

enum Taken {
    Header(Header),
    Incomplete {
        begun: bool,
    },
    /// The buffer was too small for the header.
    Short,
}

/// Not inlined, so that the buffer is on the stack only while it is needed.
#[inline(never)]
fn take<const SIZE: usize>(connection: &Socket) -> Result<Taken, Fault> {
    let mut buffer = [0; SIZE];
    let mut ended = false;
    loop {
        let seen = match peek_bytes(connection, &mut buffer) {
            Ok(0) => return Err(Fault::Ended),
            Ok(seen) => seen,
            Err(Errno::EAGAIN) => return Ok(Taken::Incomplete { begun: false }),
            Err(errno) => return Err(Fault::Failed(errno)),
        };
        if let Some((header, length)) = parse(&buffer[..seen])? {
            consume(connection, &mut buffer[..length])?;
            return Ok(Taken::Header(header));
        }
        if seen == SIZE {
            return Ok(Taken::Short);
        }
        // A peek returns the same for a part of a header whether the connection has ended or not.
        // If it has, another peek sees everything that will ever come.
        if ended {
            return Err(Fault::Ended);
        }
        ended = is_shut_down(connection);
        if !ended {
            return Ok(Taken::Incomplete { begun: true });
        }
    }
}

/// Removes a header that is known to be in the receive buffer.
fn consume(connection: &Socket, mut header: &mut [u8]) -> Result<(), Fault> {
    while !header.is_empty() {
        let taken = receive_now(connection, header, MsgFlags::empty()).map_err(Fault::Failed)?;
        if taken == 0 {
            return Err(Fault::Ended);
        }
        header = &mut header[taken..];
    }
    Ok(())
}
