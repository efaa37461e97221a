//! The handshake of a connection.

use nix::errno::Errno;
use rustls::Error;

use super::buffers::{SMALL, Scratches};
use super::link::{Link, Took};
use super::server_name;
use super::socket::Sent;
use crate::session;

/// How much of a connection's beginning is kept: it may show that the client doesn't speak TLS.
const FIRST: usize = 16;

/// A handshake that isn't over.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    has_begun: bool,
    first: [u8; FIRST],
    first_length: usize,
    /// The name that the client has asked for.
    pub(super) server_name: Option<Box<str>>,
}

/// What comes next.
pub(super) enum Shaken {
    /// The peer has to say or to take something.
    Waits,
    /// There is a session. What the peer has said already is in the scratch buffer `plain`.
    Established,
    /// There is none. What the peer is told about it may still have to be sent.
    Failed(Fault),
    /// The process at the plain side has given up.
    Abandoned,
}

/// Why there is no session.
#[derive(Debug)]
pub enum Fault {
    /// One side doesn't accept what the other says.
    Refused(Error),
    /// The peer has closed the connection, or it is broken.
    Closed {
        /// What is wrong with the connection, if anything.
        errno: Option<Errno>,
        /// Whether the peer had said anything.
        has_begun: bool,
    },
}

impl Handshake {
    /// Goes on as far as possible without waiting. The scratch buffers are empty.
    pub(super) fn advance(&mut self, link: &mut Link, scratches: &mut Scratches) -> Shaken {
        if link.plain.is_gone() {
            return Shaken::Abandoned;
        }
        if !self.has_begun {
            self.has_begun = true;
            // A client speaks first: with no input there already is output.
            if let Err(error) = link.take_records(scratches) {
                return Shaken::Failed(Fault::Refused(error));
            }
        }
        loop {
            let sent = link.send_output(scratches);
            match (link.tls.state().is_handshaking(), sent) {
                // If nothing can be sent anymore, something may have arrived all the same.
                (false, _) => return Shaken::Established,
                (true, Sent::All) => {}
                (true, Sent::Some) => return Shaken::Waits,
                (true, Sent::Broken) => return Shaken::Failed(self.closed(None)),
            }
            let had = link.incomplete.len();
            server_name::clear();
            let took = link.take(SMALL, scratches);
            if let Some(name) = server_name::take() {
                self.server_name = Some(name);
            }
            match took {
                Took::Bytes(length) => self.note(had, length, scratches),
                Took::Nothing => return Shaken::Waits,
                Took::Failed(error) => {
                    let length = scratches.input.filled().len().saturating_sub(had);
                    self.note(had, length, scratches);
                    if let Some(alert) = session::alert(&error, self.first()) {
                        scratches.output.clear();
                        scratches.output.push(&alert);
                    }
                    let _ = link.send_output(scratches);
                    return Shaken::Failed(Fault::Refused(error));
                }
                Took::End => return Shaken::Failed(self.closed(None)),
                Took::Broken(errno) => return Shaken::Failed(self.closed(Some(errno))),
            }
        }
    }

    /// Notes what has come first. The first bytes are never decrypted, so they are still what was sent.
    fn note(&mut self, begin: usize, length: usize, scratches: &Scratches) {
        let arrived = scratches.input.filled().get(begin..).unwrap_or_default();
        let free = &mut self.first[self.first_length..];
        let count = free.len().min(length).min(arrived.len());
        free[..count].copy_from_slice(&arrived[..count]);
        self.first_length += count;
    }

    /// What the peer has sent first, as far as it is kept.
    pub(super) fn first(&self) -> &[u8] {
        &self.first[..self.first_length]
    }

    fn closed(&self, errno: Option<Errno>) -> Fault {
        Fault::Closed {
            errno,
            has_begun: self.first_length > 0,
        }
    }
}
