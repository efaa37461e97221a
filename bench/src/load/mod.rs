//! The clients of the benchmark.

mod alone;
mod bulk;
mod datagram;
mod held;
mod stream;
mod tls;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};
use socket2::{Domain, SockAddr, Socket, Type};

pub(crate) use alone::{AloneLoad, AloneOutcome};
pub(crate) use bulk::{BulkOutcome, echo, receive};
pub(crate) use datagram::{DatagramLoad, DatagramOutcome};
pub(crate) use held::{Held, hold, hold_silent};
pub(crate) use stream::{StreamLoad, StreamOutcome};
pub(crate) use tls::{TlsClients, TlsLoad};

use crate::handlers::{ANSWER, Reply};
use crate::peers::Endpoint;

/// Counts of failed connections, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Failures {
    /// Not connected.
    pub refused: u64,
    /// Connected, then reset.
    pub reset: u64,
    /// A wrong or incomplete answer.
    pub wrong: u64,
    /// Not finished within the time limit.
    pub late: u64,
}

impl Failures {
    pub(crate) const fn total(&self) -> u64 {
        self.refused + self.reset + self.wrong + self.late
    }

    pub(crate) const fn add(&mut self, other: &Self) {
        self.refused += other.refused;
        self.reset += other.reset;
        self.wrong += other.wrong;
        self.late += other.late;
    }
}

/// Returns one of 64 loopback addresses in turn. A single address would run out of its 28,000
/// ports. The kernel chooses the port at the connect, among those free for that destination.
fn source_address() -> SocketAddrV4 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed) % 64;
    let first = u32::from(Ipv4Addr::new(127, 77, 0, 1));
    SocketAddrV4::new(Ipv4Addr::from(first + n), 0)
}

/// Returns a stream socket for one connection, and the address to connect to.
fn socket_for(endpoint: &Endpoint) -> io::Result<(Socket, SockAddr)> {
    match endpoint {
        Endpoint::Unix(path) => Ok((
            Socket::new(Domain::UNIX, Type::STREAM, None)?,
            SockAddr::unix(path)?,
        )),
        Endpoint::Tcp(address) | Endpoint::Udp(address) => {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(&source_address().into())?;
            // The client closes last, by a reset. No socket stays in TIME_WAIT or FIN_WAIT, where
            // it would slow down the next measurement.
            socket.set_linger(Some(Duration::ZERO))?;
            Ok((socket, (*address).into()))
        }
    }
}

/// Returns a connected blocking socket with a timeout for reads and writes.
fn connect(endpoint: &Endpoint, timeout: Duration) -> io::Result<Socket> {
    let (socket, address) = socket_for(endpoint)?;
    // SO_SNDTIMEO also limits the connect, see socket(7).
    socket.set_write_timeout(Some(timeout))?;
    socket.set_read_timeout(Some(timeout))?;
    socket.connect(&address)?;
    Ok(socket)
}

/// Returns an address that refuses connections as long as the socket lives. The port of a listener that was closed
/// could be another test's by then.
#[cfg(test)]
fn refusing() -> io::Result<(Socket, Endpoint)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0).into())?;
    let bound = socket.local_addr()?.as_socket_ipv4();
    let bound = bound.ok_or_else(|| io::Error::other("not IPv4"))?;
    Ok((socket, Endpoint::Tcp(bound)))
}

const LINE: usize = 17;

/// Returns a line that no other connection of this run sends. The answer to another client is
/// therefore detected.
fn next_line() -> [u8; LINE] {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut line = [b'\n'; LINE];
    for (digit, index) in line[..LINE - 1].iter_mut().rev().zip(0_u32..) {
        *digit = b"0123456789abcdef"[(number >> (4 * index) & 15) as usize];
    }
    line
}

/// The longest answer to a line.
const LONGEST_ANSWER: usize = 64;

/// The answer that a handler owes to a client that has sent a line.
#[derive(Clone, Copy)]
struct Expected {
    bytes: [u8; LONGEST_ANSWER],
    length: usize,
}

impl Expected {
    /// Returns the answer to this line; `None` if handlers of this kind read none.
    fn of(reply: Reply, line: &[u8; LINE]) -> Option<Self> {
        let mut expected = Self {
            bytes: [0; LONGEST_ANSWER],
            length: 0,
        };
        match reply {
            Reply::Line => expected.add(line),
            Reply::Json => {
                expected.add(br#"{"length":16,"line":""#);
                expected.add(&line[..LINE - 1]);
                expected.add(b"\"}\n");
            }
            _ => return None,
        }
        Some(expected)
    }

    fn add(&mut self, piece: &[u8]) {
        let end = self.length + piece.len();
        self.bytes[self.length..end].copy_from_slice(piece);
        self.length = end;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Makes one connection, or sends one datagram, to check that a server works.
pub(crate) fn probe(endpoint: &Endpoint, reply: Reply, timeout: Duration) -> io::Result<()> {
    if let Endpoint::Udp(address) = endpoint {
        return datagram::probe(*address, timeout);
    }
    let mut socket = connect(endpoint, timeout)?;
    let mut received = Vec::new();
    let mut expected = ANSWER.to_vec();
    match reply {
        Reply::Send(_) => {
            let mut one = [0];
            return socket.read_exact(&mut one);
        }
        Reply::Gate => socket.write_all(b"x")?,
        Reply::Sink => {
            socket.write_all(b"\n")?;
            expected = 1_u64.to_le_bytes().to_vec();
        }
        Reply::Echo => {
            socket.write_all(ANSWER)?;
            socket.shutdown(Shutdown::Write)?;
        }
        Reply::Line | Reply::Json => {
            let line = next_line();
            expected =
                Expected::of(reply, &line).map_or(expected, |answer| answer.bytes().to_vec());
            socket.write_all(&line)?;
            received.resize(expected.len(), 0);
            socket.read_exact(&mut received)?;
            close_sending_side(&socket);
        }
        Reply::Answer | Reply::Datagram => {}
    }
    socket.take(64).read_to_end(&mut received)?;
    if received == expected {
        Ok(())
    } else {
        Err(io::Error::other(format!(
            "received {:?}",
            String::from_utf8_lossy(&received)
        )))
    }
}

/// Closes the sending side, so that a handler that reads on finds the end of file. Fails without
/// harm if the handler has ended.
fn close_sending_side(socket: &Socket) {
    let _ = socket.shutdown(Shutdown::Write);
}

/// CPU time that this thread has used so far.
fn thread_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_answer_has_the_line_and_its_length() -> io::Result<()> {
        let line = next_line();
        let answer = Expected::of(Reply::Json, &line);
        let answer = answer.ok_or_else(|| io::Error::other("no answer"))?;
        let value: serde_json::Value = serde_json::from_slice(answer.bytes())?;
        assert_eq!(value["length"], LINE - 1);
        let text = value["line"].as_str().map(str::as_bytes);
        assert_eq!(text, Some(&line[..LINE - 1]));
        assert!(Expected::of(Reply::Gate, &line).is_none());
        Ok(())
    }

    #[test]
    fn no_line_comes_twice() {
        let (one, other) = (next_line(), next_line());
        assert_ne!(one, other);
        for line in [one, other] {
            assert!(line[..LINE - 1].iter().all(u8::is_ascii_hexdigit));
            assert_eq!(line[LINE - 1], b'\n');
        }
    }
}
