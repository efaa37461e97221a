//! Buffers: those that a thread uses for one connection after the other, and what is left over in a connection.

use super::socket::{Sent, Socket};

/// How much is received at once: several records, since each system call costs as much as to encrypt kilobytes.
pub(super) const LARGE: usize = 64 * 1024;

/// How much it is while the other side is slower. What it doesn't take has to be kept, in each connection: that
/// is the most memory that a client who doesn't read can have.
pub(super) const SMALL: usize = 16 * 1024;

/// The most that is kept of input that isn't complete: so long are messages of a handshake at most, and so much
/// of them does rustls take. A record is a quarter of it.
pub(super) const MAX_INCOMPLETE: usize = 64 * 1024;

/// Bytes in a buffer that a thread uses again and again.
#[derive(Default)]
pub(super) struct Scratch {
    bytes: Vec<u8>,
    filled: usize,
}

impl Scratch {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            bytes: vec![0; capacity],
            filled: 0,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    pub(super) fn filled_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.filled]
    }

    /// All the room there is, but at least so many bytes.
    pub(super) fn room(&mut self, least: usize) -> &mut [u8] {
        if self.bytes.len() - self.filled < least {
            self.bytes.resize(self.filled + least, 0);
        }
        &mut self.bytes[self.filled..]
    }

    /// So many bytes of the room are filled now.
    pub(super) fn add(&mut self, length: usize) {
        self.filled = self.bytes.len().min(self.filled + length);
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.filled += bytes.len();
    }

    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }
}

/// The buffers of a thread.
pub(super) struct Scratches {
    /// What a client sends, after what was left over of it.
    pub(super) input: Scratch,
    /// What it says.
    pub(super) plain: Scratch,
    /// What is sent to it.
    pub(super) output: Scratch,
}

impl Scratches {
    pub(super) fn new() -> Self {
        Self {
            input: Scratch::new(MAX_INCOMPLETE + LARGE),
            plain: Scratch::new(MAX_INCOMPLETE + LARGE),
            // The data, what its records need, and a flight of a handshake.
            output: Scratch::new(LARGE + SMALL),
        }
    }

    pub(super) fn clear(&mut self) {
        self.input.clear();
        self.plain.clear();
        self.output.clear();
    }
}

/// Bytes that a socket hasn't taken. Without any, there is no memory.
#[derive(Debug, Default)]
pub(super) struct Rest {
    bytes: Vec<u8>,
    begin: usize,
}

impl Rest {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Sends these bytes after those that are left over, and keeps what isn't taken. If the socket takes nothing
    /// more ever, nothing is kept.
    pub(super) fn send(&mut self, socket: &mut Socket, bytes: &[u8]) -> Sent {
        match self.flush(socket) {
            Sent::All => {}
            Sent::Some => {
                self.bytes.extend_from_slice(bytes);
                return Sent::Some;
            }
            Sent::Broken => return Sent::Broken,
        }
        let mut rest = bytes;
        let sent = socket.send(&mut rest);
        if sent == Sent::Some {
            self.bytes = rest.to_vec();
        }
        sent
    }

    /// Sends what is left over.
    pub(super) fn flush(&mut self, socket: &mut Socket) -> Sent {
        if self.is_empty() {
            return Sent::All;
        }
        let mut rest = &self.bytes[self.begin..];
        let sent = socket.send(&mut rest);
        match sent {
            Sent::Some => self.begin = self.bytes.len() - rest.len(),
            Sent::All | Sent::Broken => self.clear(),
        }
        sent
    }
}
