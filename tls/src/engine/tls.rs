//! One session of TLS, of either side: bytes in, bytes out.
//!
//! rustls's unbuffered interface is used. Its other one takes input in pieces of 4 KiB, and keeps its buffers: 36 KB
//! for a connection that has carried something and is idle, of 4,500 that were measured. Here input is decrypted where
//! it was received, a connection keeps nothing but what is left over, and all of an idle one takes 4 KB.

use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
    WriteTraffic,
};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use super::buffers::Scratch;

/// A session.
pub(super) struct Tls {
    side: Side,
    /// Whether the peer has sent `close_notify`.
    pub(super) peer_has_closed: bool,
    /// Whether it has failed: rustls isn't asked again then, since what was left over of the input is gone.
    has_failed: bool,
}

enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// What is done as soon as the session allows it.
#[derive(Clone, Copy)]
enum Task<'a> {
    Nothing,
    Encrypt(&'a [u8]),
    Close,
}

/// What comes after a state.
enum Next {
    /// Another state.
    State,
    /// There is no more input from the peer.
    Closed,
    /// More input is needed for the next one, or the task is done.
    Wait,
}

/// What was made of input: how many of its bytes aren't needed anymore, and why the session is over, if it is.
/// An alert that says so to the peer is in the output then.
pub(super) type Taken = (usize, Result<(), Error>);

impl Tls {
    pub(super) fn server(config: Arc<ServerConfig>) -> Result<Self, Error> {
        let side = UnbufferedServerConnection::new(config)?;
        Ok(Self::new(Side::Server(Box::new(side))))
    }

    pub(super) fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<Self, Error> {
        let side = UnbufferedClientConnection::new(config, name)?;
        Ok(Self::new(Side::Client(Box::new(side))))
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            peer_has_closed: false,
            has_failed: false,
        }
    }

    /// What is known of the session.
    pub(super) fn state(&self) -> &CommonState {
        match &self.side {
            Side::Server(connection) => connection,
            Side::Client(connection) => connection,
        }
    }

    /// Takes all complete records of the input. Adds what they say to `plain`, and what has to be sent to
    /// `output`. What is left over must be the beginning of the next input.
    pub(super) fn take(
        &mut self,
        input: &mut [u8],
        plain: &mut Scratch,
        output: &mut Scratch,
    ) -> Taken {
        self.run(input, plain, output, Task::Nothing)
    }

    /// Adds data to `output`, encrypted. `input` is what was left over, which stays.
    pub(super) fn encrypt(
        &mut self,
        data: &[u8],
        input: &mut [u8],
        output: &mut Scratch,
    ) -> Result<(), Error> {
        let mut plain = Scratch::default();
        let (taken, result) = self.run(input, &mut plain, output, Task::Encrypt(data));
        debug_assert!(taken == 0 && plain.is_empty());
        result
    }

    /// Adds `close_notify` to `output`. `input` is what was left over, which stays. Nothing is added in a handshake.
    pub(super) fn close(&mut self, input: &mut [u8], output: &mut Scratch) -> Result<(), Error> {
        self.run(input, &mut Scratch::default(), output, Task::Close)
            .1
    }

    fn run(
        &mut self,
        input: &mut [u8],
        plain: &mut Scratch,
        output: &mut Scratch,
        task: Task<'_>,
    ) -> Taken {
        if self.has_failed {
            return (0, Err(Error::General("a session that has failed".into())));
        }
        let mut taken = 0;
        loop {
            let rest = input.get_mut(taken..).unwrap_or_default();
            let (discard, next) = self.state_of(rest, plain, output, task);
            taken = input.len().min(taken + discard);
            match next {
                Ok(Next::State) => {}
                Ok(Next::Closed) => self.peer_has_closed = true,
                Ok(Next::Wait) => return (taken, Ok(())),
                Err(error) => {
                    self.has_failed = true;
                    // Alerts come before anything else. Without one, the input would be looked at once more.
                    while self.state().wants_write() {
                        let rest = input.get_mut(taken..).unwrap_or_default();
                        let _ = self.state_of(rest, plain, output, Task::Nothing);
                    }
                    return (taken, Err(error));
                }
            }
        }
    }

    fn state_of(
        &mut self,
        input: &mut [u8],
        plain: &mut Scratch,
        output: &mut Scratch,
        task: Task<'_>,
    ) -> (usize, Result<Next, Error>) {
        match &mut self.side {
            Side::Server(connection) => {
                answer(connection.process_tls_records(input), plain, output, task)
            }
            Side::Client(connection) => {
                answer(connection.process_tls_records(input), plain, output, task)
            }
        }
    }
}

/// Does what a state asks for. Returns how many bytes of input are done with.
fn answer<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut Scratch,
    output: &mut Scratch,
    task: Task<'_>,
) -> (usize, Result<Next, Error>) {
    let mut discard = status.discard;
    let next = match status.state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Next::State),
                Some(Err(error)) => break Err(error),
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.push(record.payload);
                }
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let fit = |to: &mut [u8]| match data.encode(to) {
                Ok(length) => Ok(Ok(length)),
                Err(EncodeError::InsufficientSize(needed)) => Err(needed),
                Err(EncodeError::AlreadyEncoded) => Ok(Ok(0)),
            };
            fill(output, fit).map(|()| Next::State)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It is in the output, which is sent in any case.
            data.done();
            Ok(Next::State)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Next::Closed),
        Ok(ConnectionState::Closed | ConnectionState::BlockedHandshake) => Ok(Next::Wait),
        Ok(ConnectionState::WriteTraffic(traffic)) => perform(traffic, output, task),
        // Early data is never allowed: an eavesdropper could send it again.
        Ok(_) => Err(Error::General("a state that skd-tls doesn't know".into())),
    };
    (discard, next)
}

/// Does the task, now that it can be done.
fn perform<Data>(
    mut traffic: WriteTraffic<'_, Data>,
    output: &mut Scratch,
    task: Task<'_>,
) -> Result<Next, Error> {
    let fit = |to: &mut [u8]| {
        let done = match task {
            Task::Nothing => Ok(0),
            Task::Encrypt(data) => traffic.encrypt(data, to),
            Task::Close => traffic.queue_close_notify(to),
        };
        match done {
            Ok(length) => Ok(Ok(length)),
            Err(EncryptError::InsufficientSize(needed)) => Err(needed),
            Err(EncryptError::EncryptExhausted) => Ok(Err(Error::EncryptError)),
        }
    };
    fill(output, fit).map(|()| Next::Wait)
}

/// Has something written to the output, which gets as much room as that needs.
fn fill(
    output: &mut Scratch,
    mut write: impl FnMut(&mut [u8]) -> Result<Result<usize, Error>, InsufficientSizeError>,
) -> Result<(), Error> {
    let mut room = 0;
    loop {
        match write(output.room(room)) {
            Ok(length) => {
                output.add(length?);
                return Ok(());
            }
            Err(InsufficientSizeError { required_size }) if required_size > room => {
                room = required_size;
            }
            Err(_) => return Err(Error::General("a size that changes".into())),
        }
    }
}
