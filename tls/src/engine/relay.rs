//! The relay of an established connection, each way on its own: what one side doesn't take isn't asked of the
//! other, and the end of one way leaves the other as it is.

use rustls::Error;

use super::buffers::{LARGE, SMALL, Scratches};
use super::link::{Link, Took};
use super::socket::{Received, Sent};

/// How many times each way is gone before other connections have their turn.
const ROUNDS: usize = 4;

/// Where a relay is.
#[derive(Debug, Default)]
pub(super) struct Relay {
    /// From the plain side to the peer.
    out: Way,
    /// From the peer to the plain side.
    inward: Way,
    /// Whether the peer's end, or an error, was read: nothing comes from there again.
    has_peers_end: bool,
    /// Whether no process reads at the plain side anymore.
    lacks_reader: bool,
    /// Whether what is said at the plain side from now on doesn't count.
    is_last: bool,
}

/// One way of a relay.
#[derive(Debug, Default)]
struct Way {
    end: End,
    /// Whether all that was received the last time was sent at once.
    is_fast: bool,
}

/// How far a way's end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum End {
    /// There is none.
    #[default]
    Open,
    /// The side that speaks has ended. What it has said may still have to be sent.
    Heard,
    /// The side that listens was told.
    Told,
}

/// What a turn has come to.
#[derive(Debug, Default)]
pub(super) struct Turn {
    /// How many bytes the peer has sent, without TLS.
    pub(super) received: u64,
    /// How many bytes were sent to it, without TLS.
    pub(super) sent: u64,
    /// Whether the peer has taken anything.
    pub(super) went_out: bool,
    /// Whether the plain side has taken anything, or the peer's end was found.
    pub(super) went_in: bool,
    /// Whether the peer's end has come without `close_notify`, and the plain side had still to hear of it.
    pub(super) is_truncated: bool,
    /// What comes next.
    pub(super) next: Next,
}

/// What comes after a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Next {
    /// Another turn, when others have had theirs.
    Turn,
    /// An event.
    #[default]
    Event,
    /// Both ways have ended, but the peer hasn't closed the connection yet.
    Linger,
    /// Everything has ended.
    Over,
}

impl Way {
    fn chunk(&self) -> usize {
        if self.is_fast { LARGE } else { SMALL }
    }
}

impl Relay {
    /// Goes on, as far as possible without waiting, and not for too long. The scratch buffers are empty.
    pub(super) fn turn(&mut self, link: &mut Link, scratches: &mut Scratches) -> Turn {
        let mut turn = Turn::default();
        for _ in 0..ROUNDS {
            let went_out = self.go_out(link, scratches, &mut turn);
            let went_in = self.go_in(link, scratches, &mut turn);
            turn.went_out |= went_out;
            turn.went_in |= went_in && !self.lacks_reader;
            let is_in_over = self.inward.end == End::Told || self.lacks_reader;
            if self.out.end == End::Told && is_in_over {
                turn.next = match self.has_peers_end {
                    true => Next::Over,
                    false => Next::Linger,
                };
                return turn;
            }
            if !went_out && !went_in {
                return turn;
            }
        }
        turn.next = Next::Turn;
        turn
    }

    /// What the plain side hasn't said yet doesn't count anymore.
    pub(super) fn finish(&mut self) {
        self.is_last = true;
    }

    /// Sends what is said at the plain side to the peer. Returns whether anything went on.
    fn go_out(&mut self, link: &mut Link, scratches: &mut Scratches, turn: &mut Turn) -> bool {
        let mut went = false;
        if !link.to_tcp.is_empty() {
            if !link.tcp.is_writable() {
                return false;
            }
            match link.to_tcp.flush(&mut link.tcp) {
                Sent::All => went = true,
                Sent::Some => return true,
                Sent::Broken => {
                    self.cut_out(link);
                    return true;
                }
            }
        }
        if self.out.end == End::Open {
            went |= self.hear_plain(link, scratches, turn);
        }
        if self.out.end == End::Heard && link.to_tcp.is_empty() {
            link.tcp.end();
            self.out.end = End::Told;
            went = true;
        }
        went
    }

    /// Receives from the plain side, encrypts and sends.
    fn hear_plain(&mut self, link: &mut Link, scratches: &mut Scratches, turn: &mut Turn) -> bool {
        let Scratches { plain, output, .. } = scratches;
        let chunk = self.out.chunk();
        plain.clear();
        let is_end = loop {
            let room = plain.room(0);
            let most = room.len().min(chunk - plain.filled().len());
            match link.plain.receive(&mut plain.room(0)[..most]) {
                Received::Bytes(length) => plain.add(length),
                Received::Nothing => break self.is_last,
                Received::End | Received::Broken(_) => break true,
            }
            // With the end at hand, `close_notify` goes with the last data: one call, and one segment.
            if plain.filled().len() == chunk || !link.plain.has_end() {
                break false;
            }
        };
        let data = plain.filled();
        let length = data.len();
        if length > 0 {
            if let Err(error) = link.encrypt(data, output) {
                plain.clear();
                self.fail(link, scratches, turn, &error);
                return true;
            }
        }
        plain.clear();
        if is_end {
            self.out.end = End::Heard;
            link.close(output);
        }
        if length == 0 && !is_end {
            return false;
        }
        turn.sent += length as u64;
        match link.send_output(scratches) {
            Sent::All => self.out.is_fast = true,
            Sent::Some => self.out.is_fast = false,
            Sent::Broken => self.cut_out(link),
        }
        true
    }

    /// Nothing can be sent to the peer anymore. Something that it has sent may still be there.
    fn cut_out(&mut self, link: &mut Link) {
        link.to_tcp.clear();
        self.out.end = End::Told;
        // A process that writes at the plain side shall know that it is in vain.
        link.plain.refuse();
    }

    /// Sends what the peer says to the plain side. Returns whether anything went on.
    fn go_in(&mut self, link: &mut Link, scratches: &mut Scratches, turn: &mut Turn) -> bool {
        if self.inward.end == End::Told {
            return false;
        }
        if link.plain.is_gone() {
            self.lose_reader(link);
        }
        let mut went = false;
        if !link.to_plain.is_empty() {
            if !link.plain.is_writable() {
                return false;
            }
            match link.to_plain.flush(&mut link.plain) {
                Sent::All => went = true,
                Sent::Some => return true,
                Sent::Broken => self.lose_reader(link),
            }
        }
        if self.inward.end == End::Open {
            went |= self.hear_peer(link, scratches, turn);
        }
        if self.inward.end == End::Heard && link.to_plain.is_empty() {
            link.plain.end();
            self.inward.end = End::Told;
            went = true;
        }
        went
    }

    /// Receives from the peer, decrypts and sends.
    fn hear_peer(&mut self, link: &mut Link, scratches: &mut Scratches, turn: &mut Turn) -> bool {
        let took = match link.tls.peer_has_closed {
            // It has been said with the end of the handshake.
            true => Took::Bytes(0),
            false => link.take(self.inward.chunk(), scratches),
        };
        match took {
            Took::Nothing => return false,
            Took::Bytes(_) => self.deliver(link, scratches, turn),
            Took::Failed(error) => {
                self.deliver(link, scratches, turn);
                self.fail(link, scratches, turn, &error);
            }
            Took::End => self.miss_close(turn),
            Took::Broken(_) => {
                self.miss_close(turn);
                self.cut_out(link);
            }
        }
        if link.tls.peer_has_closed {
            self.inward.end = End::Heard;
        }
        true
    }

    /// Sends what was decrypted, and what rustls has to say to it.
    fn deliver(&mut self, link: &mut Link, scratches: &mut Scratches, turn: &mut Turn) {
        turn.received += scratches.plain.filled().len() as u64;
        if self.lacks_reader {
            scratches.plain.clear();
        }
        if !scratches.plain.is_empty() {
            match link.send_plain(scratches) {
                Sent::All => self.inward.is_fast = true,
                Sent::Some => self.inward.is_fast = false,
                Sent::Broken => self.lose_reader(link),
            }
        }
        if !scratches.output.is_empty() && link.send_output(scratches) == Sent::Broken {
            self.cut_out(link);
        }
    }

    /// The peer's connection has ended, and `close_notify` wasn't there.
    fn miss_close(&mut self, turn: &mut Turn) {
        self.has_peers_end = true;
        self.inward.end = End::Heard;
        turn.is_truncated |= !self.lacks_reader;
    }

    /// The session has failed: bytes were changed on their way, or the peer breaks the rules, or rustls's limit of
    /// records with a key is reached. The peer gets the alert, and the plain side the end.
    fn fail(
        &mut self,
        link: &mut Link,
        scratches: &mut Scratches,
        turn: &mut Turn,
        _error: &Error,
    ) {
        if self.inward.end == End::Open {
            self.inward.end = End::Heard;
            turn.is_truncated |= !self.lacks_reader;
        }
        if self.out.end == End::Open {
            self.out.end = End::Heard;
            link.plain.refuse();
        }
        if link.send_output(scratches) == Sent::Broken {
            self.cut_out(link);
        }
    }

    /// No process reads at the plain side anymore. What the peer sends is taken all the same: it may read only after it
    /// has sent all.
    fn lose_reader(&mut self, link: &mut Link) {
        self.lacks_reader = true;
        link.to_plain.clear();
    }
}
