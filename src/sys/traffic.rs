//! What has passed over a connection, which shows whether a process uses it.

use std::os::fd::AsFd;

use super::sockets::{tcp_info, unread, unsent};

/// What processes have read from a connection and written to it. What the client does changes neither.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Of TCP the number of bytes that were read, of others of those that wait to be.
    input: u64,
    /// Of TCP the number of bytes that were written, of others of those that the client hasn't read.
    output: u64,
    counted: bool,
}

impl Traffic {
    /// What has passed up to now.
    pub fn of(connection: impl AsFd) -> Self {
        /// How often numbers are read that change meanwhile.
        const ATTEMPTS: usize = 8;
        let mut counts = Counts::of(&connection);
        let mut traffic = Self::between(counts, &connection);
        for _ in 0..ATTEMPTS {
            let after = Counts::of(&connection);
            if after == counts {
                break;
            }
            counts = after;
            traffic = Self::between(counts, &connection);
        }
        traffic
    }

    fn between(counts: Option<Counts>, connection: impl AsFd) -> Self {
        let (unread, unsent) = (unread(&connection) as u64, unsent(&connection) as u64);
        let (input, output) = match counts {
            Some(counts) => (
                counts.received.saturating_sub(unread),
                counts.acknowledged + unsent,
            ),
            None => (unread, unsent),
        };
        Self {
            input,
            output,
            counted: counts.is_some(),
        }
    }

    /// Returns whether nothing was ever written, as far as that is counted.
    pub fn is_without_output(&self) -> bool {
        self.counted && self.output == 0
    }

    /// Returns whether a process has used the connection since an earlier moment, as far as that shows.
    /// Where nothing is counted, new input counts as use, and output shows only until it is read.
    pub fn shows_use_since(&self, earlier: &Self) -> bool {
        self.input != earlier.input
            || self.output > earlier.output
            || self.counted != earlier.counted
    }
}

/// What TCP counts (struct tcp_info).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that the client has sent, without its end.
    pub received: u64,
    /// Bytes of this side that the client has acknowledged, without the end.
    pub acknowledged: u64,
}

/// Where they are: eight bytes, of which the first is the state; 24 words; two long numbers; these
/// two.
const ACKNOWLEDGED: usize = 8 + 24 * 4 + 2 * 8;
const RECEIVED: usize = ACKNOWLEDGED + 8;
const END: usize = RECEIVED + 8;

impl Counts {
    /// Returns how many bytes went either way.
    pub fn sum(self) -> u64 {
        self.received.saturating_add(self.acknowledged)
    }

    fn of(connection: impl AsFd) -> Option<Self> {
        let info = tcp_info::<{ END / 4 }>(connection)?;
        Self::read(info.map(u32::to_ne_bytes).as_flattened())
    }

    /// Reads them from the kernel's struct.
    pub(super) fn read(info: &[u8]) -> Option<Self> {
        /// The states in which the client's end has come: CLOSE_WAIT, LAST_ACK and CLOSING.
        const ENDED: [u8; 3] = [8, 9, 11];
        /// The state in which this side's end is acknowledged: FIN_WAIT2.
        const END_ACKNOWLEDGED: u8 = 5;
        let long = |at: usize| {
            let bytes = info.get(at..)?.first_chunk().copied()?;
            Some(u64::from_ne_bytes(bytes))
        };
        let state = *info.first()?;
        // An end counts as a byte here, but not in what is unread or unsent.
        let [received, acknowledged] =
            [ENDED.contains(&state), state == END_ACKNOWLEDGED].map(u64::from);
        Some(Self {
            received: long(RECEIVED)?.saturating_sub(received),
            acknowledged: long(ACKNOWLEDGED)?.saturating_sub(acknowledged),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    fn tcp() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn what_the_client_does_is_no_use() {
        let (mut client, mut server) = tcp();
        client.write_all(b"unread").unwrap();
        server.write_all(&[7; 100_000]).unwrap();
        while unread(&server) < 6 {}
        let begin = Traffic::of(&server);
        client.write_all(&[7; 30_000]).unwrap();
        assert!(!Traffic::of(&server).shows_use_since(&begin));
        client.read_exact(&mut [0; 100_000]).unwrap();
        assert!(!Traffic::of(&server).shows_use_since(&begin));
        while unread(&server) < 30_006 {}
        client.shutdown(Shutdown::Write).unwrap();
        while !super::super::sockets::is_shut_down(&server) {}
        assert!(!Traffic::of(&server).shows_use_since(&begin));
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn a_byte_that_is_read_or_written_shows() {
        let (mut client, mut server) = tcp();
        client.write_all(b"unread").unwrap();
        while unread(&server) < 6 {}
        let begin = Traffic::of(&server);
        server.read_exact(&mut [0]).unwrap();
        client.write_all(b"x").unwrap();
        let read = Traffic::of(&server);
        assert!(read.shows_use_since(&begin));
        assert!(read.is_without_output());
        server.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
        let written = Traffic::of(&server);
        assert!(written.shows_use_since(&read) && !written.is_without_output());
        server.shutdown(Shutdown::Write).unwrap();
        assert!(Traffic::of(&server).shows_use_since(&written));
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn of_a_unix_connection_it_shows_as_far_as_bytes_wait() {
        let (mut client, mut server) = UnixStream::pair().unwrap();
        client.write_all(b"unread").unwrap();
        server.write_all(b"answer").unwrap();
        let begin = Traffic::of(&server);
        client.read_exact(&mut [0; 6]).unwrap();
        assert!(!Traffic::of(&server).shows_use_since(&begin));
        let begin = Traffic::of(&server);
        server.write_all(b"more").unwrap();
        assert!(Traffic::of(&server).shows_use_since(&begin));
        let begin = Traffic::of(&server);
        server.read_exact(&mut [0]).unwrap();
        assert!(Traffic::of(&server).shows_use_since(&begin));
    }
}
