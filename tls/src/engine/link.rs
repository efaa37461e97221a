//! Both ends of a connection, the session between them, and what is left over there.

use rustls::Error;
use rustls::InvalidMessage;

use super::buffers::{MAX_INCOMPLETE, Rest, Scratch, Scratches};
use super::socket::{Received, Sent, Socket};
use super::tls::Tls;

/// A connection as data: what is done with it is elsewhere.
pub(super) struct Link {
    /// The peer that speaks TLS.
    pub(super) tcp: Socket,
    /// The other end.
    pub(super) plain: Socket,
    /// The session.
    pub(super) tls: Tls,
    /// What the peer has sent of a record, or of a message of a handshake, that isn't complete.
    pub(super) incomplete: Vec<u8>,
    /// What wasn't sent yet to the peer.
    pub(super) to_tcp: Rest,
    /// What wasn't sent yet to the plain side.
    pub(super) to_plain: Rest,
}

/// What became of bytes that the peer has sent.
pub(super) enum Took {
    /// So many bytes were there. What they say is in the scratch buffer `plain`, and what has to be sent in
    /// `output`.
    Bytes(usize),
    /// The same, and the session is over for this reason.
    Failed(Error),
    /// Nothing is there.
    Nothing,
    /// The end.
    End,
    /// The connection is broken.
    Broken(nix::errno::Errno),
}

impl Link {
    pub(super) fn new(tcp: Socket, plain: Socket, tls: Tls) -> Self {
        Self {
            tcp,
            plain,
            tls,
            incomplete: Vec::new(),
            to_tcp: Rest::default(),
            to_plain: Rest::default(),
        }
    }

    /// Receives so many bytes of the peer at most, and takes the records that are complete. Here they are all
    /// taken at once, so that what is left over is never more than the beginning of one.
    pub(super) fn take(&mut self, most: usize, scratches: &mut Scratches) -> Took {
        let input = &mut scratches.input;
        input.clear();
        input.push(&self.incomplete);
        let room = input.room(most);
        let length = match self.tcp.receive(&mut room[..most]) {
            Received::Bytes(length) => length,
            Received::Nothing => return Took::Nothing,
            Received::End => return Took::End,
            Received::Broken(errno) => return Took::Broken(errno),
        };
        input.add(length);
        let result = self.take_records(scratches);
        match result {
            Ok(()) => Took::Bytes(length),
            Err(error) => Took::Failed(error),
        }
    }

    /// Takes the records of the scratch buffer `input`, and keeps what is left over there.
    pub(super) fn take_records(&mut self, scratches: &mut Scratches) -> Result<(), Error> {
        let Scratches {
            input,
            plain,
            output,
        } = scratches;
        let input = input.filled_mut();
        let (taken, mut result) = self.tls.take(input, plain, output);
        let rest = input.get(taken..).unwrap_or_default();
        // What follows `close_notify` doesn't count (RFC 8446, 6.1).
        let is_over = result.is_err() || self.tls.peer_has_closed;
        if is_over || rest.is_empty() {
            self.incomplete = Vec::new();
        } else if rest.len() > MAX_INCOMPLETE {
            result = Err(InvalidMessage::HandshakePayloadTooLarge.into());
            self.incomplete = Vec::new();
        } else {
            self.incomplete.clear();
            self.incomplete.reserve_exact(rest.len());
            self.incomplete.extend_from_slice(rest);
        }
        result
    }

    /// Encrypts data, and adds it to the output.
    pub(super) fn encrypt(&mut self, data: &[u8], output: &mut Scratch) -> Result<(), Error> {
        self.tls.encrypt(data, &mut self.incomplete, output)
    }

    /// Adds `close_notify` to the output, unless the handshake isn't over.
    pub(super) fn close(&mut self, output: &mut Scratch) {
        // Without it the peer sees that the end is missing, as it should if this fails.
        let _ = self.tls.close(&mut self.incomplete, output);
    }

    /// Sends what is in the scratch buffer `output` to the peer, after what is left over.
    pub(super) fn send_output(&mut self, scratches: &mut Scratches) -> Sent {
        let sent = self.to_tcp.send(&mut self.tcp, scratches.output.filled());
        scratches.output.clear();
        sent
    }

    /// The same with `plain`, for the plain side.
    pub(super) fn send_plain(&mut self, scratches: &mut Scratches) -> Sent {
        let sent = self
            .to_plain
            .send(&mut self.plain, scratches.plain.filled());
        scratches.plain.clear();
        sent
    }
}
