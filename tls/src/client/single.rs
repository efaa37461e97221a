//! One connection to a server, for standard input and output.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};
use rustls::{ClientConfig, ClientConnection};
use std::os::fd::AsRawFd;

use super::options::Options;
use super::standard::Standard;
use super::{End, connect, failure};

/// How much is read at once.
const BUFFER: usize = 16 << 10;

/// What connects to the server, and what is on its way.
struct Single<'a> {
    standard: &'a Standard,
    socket: OwnedFd,
    session: ClientConnection,
    buffer: Vec<u8>,
    /// What the server has said that isn't yet written.
    said: Vec<u8>,
    /// How much of that is written.
    written: usize,
    /// Whether the input has ended.
    input_ended: bool,
    /// Whether the server has ended, and how.
    server_ended: Option<ServerEnd>,
    /// Whether the reader of the output knows.
    output_ended: bool,
}

/// How what the server says has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerEnd {
    /// It has said so.
    Told,
    /// The connection has ended, and it hasn't said so.
    Cut,
    /// The connection was reset.
    Reset,
}

/// Connects, and relays until both directions have ended.
pub(super) fn run(options: &Options, config: Arc<ClientConfig>) -> Result<(), End> {
    let standard = Standard::find().map_err(End::NotConnected)?;
    let deadline = Instant::now() + options.timeout;
    let socket = connect::first(&options.targets, options.timeout).map_err(End::NotConnected)?;
    let session = ClientConnection::new(config, options.name.clone())
        .map_err(|error| End::NoSession(failure::why(&error)))?;
    let mut single = Single {
        standard: &standard,
        socket,
        session,
        buffer: vec![0; BUFFER],
        said: Vec::new(),
        written: 0,
        input_ended: false,
        server_ended: None,
        output_ended: false,
    };
    single.shake_hands(deadline, options.timeout)?;
    single.relay()
}

/// What a read or write of the connection came to.
enum Io {
    /// So many bytes.
    Some(usize),
    /// It would have to wait.
    Later,
    /// The end, or a reset.
    Over(ServerEnd),
    /// Another error.
    Failed(Errno),
}

fn outcome(result: Result<usize, Errno>) -> Io {
    match result {
        Ok(0) => Io::Over(ServerEnd::Cut),
        Ok(count) => Io::Some(count),
        Err(Errno::EAGAIN | Errno::EINTR) => Io::Later,
        Err(Errno::ECONNRESET | Errno::EPIPE) => Io::Over(ServerEnd::Reset),
        Err(errno) => Io::Failed(errno),
    }
}

impl Single<'_> {
    fn shake_hands(&mut self, deadline: Instant, timeout: Duration) -> Result<(), End> {
        while self.session.is_handshaking() {
            self.send()?;
            let mut events = PollFlags::POLLIN;
            events.set(PollFlags::POLLOUT, self.session.wants_write());
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(End::NoSession(format!(
                    "the server hasn't answered within {timeout:?}"
                )));
            }
            let mut fds = [PollFd::new(self.socket.as_fd(), events)];
            wait(&mut fds, Some(left))?;
            if self.receive()? {
                self.take()?;
            }
            match self.server_ended {
                None => {}
                Some(ServerEnd::Reset) => {
                    return Err(End::NoSession(
                        "the server has reset the connection in the handshake".to_owned(),
                    ));
                }
                Some(_) => {
                    return Err(End::NoSession(
                        "the server has ended the connection in the handshake: does it speak TLS?"
                            .to_owned(),
                    ));
                }
            }
        }
        Ok(())
    }

    /// Both directions, until both are over.
    fn relay(&mut self) -> Result<(), End> {
        loop {
            self.send()?;
            self.note_end_of_output();
            if self.is_over() {
                return self.end();
            }
            let (mut connection, mut input, mut output) =
                (PollFlags::empty(), PollFlags::empty(), PollFlags::empty());
            let has_said = self.written < self.said.len();
            connection.set(PollFlags::POLLIN, !has_said && self.server_ended.is_none());
            connection.set(PollFlags::POLLOUT, self.session.wants_write());
            input.set(
                PollFlags::POLLIN,
                !self.input_ended && !self.session.wants_write(),
            );
            output.set(PollFlags::POLLOUT, has_said);
            let ready = self.wait_for([connection, input, output])?;
            // What is hung up is read and written all the same: that says why.
            if ready[0] && !has_said && self.server_ended.is_none() && self.receive()? {
                self.take()?;
            }
            if ready[1] {
                self.read_input()?;
            }
            if ready[2] && !self.write_output()? {
                return self.lose_reader();
            }
        }
    }

    /// Waits until one of the connection, the input and the output is ready for what it is asked for. A descriptor
    /// that isn't asked for anything isn't looked at: its end would be reported again and again.
    fn wait_for(&self, wanted: [PollFlags; 3]) -> Result<[bool; 3], End> {
        let all: [BorrowedFd<'_>; 3] = [
            self.socket.as_fd(),
            self.standard.input(),
            self.standard.output(),
        ];
        let mut fds = Vec::with_capacity(3);
        let asked: Vec<usize> = (0..3).filter(|index| !wanted[*index].is_empty()).collect();
        for index in &asked {
            fds.push(PollFd::new(all[*index], wanted[*index]));
        }
        wait(&mut fds, None)?;
        let mut ready = [false; 3];
        for (fd, index) in fds.iter().zip(asked) {
            ready[index] = fd.any().unwrap_or(false);
        }
        Ok(ready)
    }

    /// Sends what the session has to send, as far as the connection takes it.
    fn send(&mut self) -> Result<(), End> {
        while self.session.wants_write() {
            let mut failed = None;
            let mut to = Sender {
                socket: self.socket.as_fd(),
                failed: &mut failed,
            };
            let sent = self.session.write_tls(&mut to);
            match failed {
                None if sent.is_ok() => {}
                Some(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Some(Errno::ECONNRESET | Errno::EPIPE) => {
                    // What it has said before is still there to be read, and so is its reason.
                    self.input_ended = true;
                    if self.server_ended.is_none() && self.receive()? {
                        self.take()?;
                    }
                    self.server_ended.get_or_insert(ServerEnd::Reset);
                    self.discard_output();
                    return Ok(());
                }
                Some(errno) => return Err(broken(errno)),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Drops what the session has to send: the server takes nothing.
    fn discard_output(&mut self) {
        while self.session.wants_write() {
            if self.session.write_tls(&mut std::io::sink()).is_err() {
                return;
            }
        }
    }

    /// Receives from the connection. Returns whether there is something to be taken.
    fn receive(&mut self) -> Result<bool, End> {
        let flags = MsgFlags::MSG_DONTWAIT;
        match outcome(recv(self.socket.as_raw_fd(), &mut self.buffer, flags)) {
            Io::Some(count) => {
                let mut rest = &self.buffer[..count];
                while !rest.is_empty() {
                    match self.session.read_tls(&mut rest) {
                        // It has room for more than is read at once, if what it has is taken each time.
                        Ok(0) | Err(_) => break,
                        Ok(_) => {
                            if let Err(error) = self.session.process_new_packets() {
                                return Err(self.fail(&error));
                            }
                        }
                    }
                }
                Ok(true)
            }
            Io::Later => Ok(false),
            Io::Over(how) => {
                self.server_ended.get_or_insert(how);
                Ok(false)
            }
            Io::Failed(errno) => Err(broken(errno)),
        }
    }

    /// Takes what the session has understood.
    fn take(&mut self) -> Result<(), End> {
        let state = match self.session.process_new_packets() {
            Ok(state) => state,
            Err(error) => return Err(self.fail(&error)),
        };
        let length = state.plaintext_bytes_to_read();
        if length > 0 {
            let begin = self.said.len();
            self.said.resize(begin + length, 0);
            // So many bytes are there.
            let _ = self.session.reader().read_exact(&mut self.said[begin..]);
        }
        if state.peer_has_closed() {
            self.server_ended = Some(ServerEnd::Told);
        }
        Ok(())
    }

    /// Sends the alert that the session has for the server.
    fn fail(&mut self, error: &rustls::Error) -> End {
        let mut ignored = None;
        let mut to = Sender {
            socket: self.socket.as_fd(),
            failed: &mut ignored,
        };
        let _ = self.session.write_tls(&mut to);
        let why = failure::why(error);
        match self.session.is_handshaking() || self.said.is_empty() {
            true => End::NoSession(format!("no session with the server: {why}")),
            false => {
                self.standard.reset();
                End::Cut(format!("the session with the server has failed: {why}"))
            }
        }
    }

    fn read_input(&mut self) -> Result<(), End> {
        match self.standard.read(&mut self.buffer) {
            Ok(0) => self.end_input(),
            Ok(count) => {
                // The session takes all of it: what it had was sent before.
                let written = self.session.writer().write_all(&self.buffer[..count]);
                written.map_err(|error| End::NotConnected(format!("can't encrypt: {error}")))?;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // The client has reset the connection: what it hasn't read is of no use to it.
            Err(Errno::ECONNRESET) => self.end_input(),
            Err(errno) => {
                return Err(End::NotConnected(format!(
                    "can't read standard input: {}",
                    errno.desc()
                )));
            }
        }
        Ok(())
    }

    fn end_input(&mut self) {
        self.input_ended = true;
        self.session.send_close_notify();
    }

    /// Writes what the server has said. Returns whether a reader is there.
    fn write_output(&mut self) -> Result<bool, End> {
        match self.standard.write(&self.said[self.written..]) {
            Ok(count) => {
                self.written += count;
                if self.written == self.said.len() {
                    self.said.clear();
                    self.written = 0;
                }
                Ok(true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(true),
            Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(false),
            Err(errno) => Err(End::NotConnected(format!(
                "can't write standard output: {}",
                errno.desc()
            ))),
        }
    }

    /// The reader of the output is gone. The server is told, and there is nothing to be said about it.
    fn lose_reader(&mut self) -> Result<(), End> {
        self.session.send_close_notify();
        self.send()
    }

    /// Passes the end of what the server says on, after all of it.
    fn note_end_of_output(&mut self) {
        let is_all_written = self.written == self.said.len();
        if self.output_ended || !is_all_written {
            return;
        }
        match self.server_ended {
            None => return,
            Some(ServerEnd::Reset) => self.standard.reset(),
            Some(ServerEnd::Told | ServerEnd::Cut) => self.standard.end_output(),
        }
        self.output_ended = true;
        // Nobody types on for a server that has ended; and a connection that was reset takes nothing.
        if self.standard.is_typed() || self.server_ended == Some(ServerEnd::Reset) {
            self.input_ended = true;
        }
    }

    fn is_over(&self) -> bool {
        self.output_ended && self.input_ended && !self.session.wants_write()
    }

    fn end(&self) -> Result<(), End> {
        match self.server_ended {
            Some(ServerEnd::Cut) => Err(End::Cut(
                "the server has ended the connection without close_notify: what it has sent may not be all"
                    .to_owned(),
            )),
            Some(ServerEnd::Reset) => {
                Err(End::Cut("the server has reset the connection".to_owned()))
            }
            _ => Ok(()),
        }
    }
}

fn broken(errno: Errno) -> End {
    End::Cut(format!(
        "the connection to the server failed: {}",
        errno.desc()
    ))
}

/// Waits until a descriptor is ready, or for so long.
fn wait(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> Result<(), End> {
    let timeout = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(PollTimeout::MAX)
    });
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(End::NotConnected(format!("can't wait: {}", errno.desc()))),
    }
}

/// Sends without waiting, and keeps the error number.
struct Sender<'a> {
    socket: BorrowedFd<'a>,
    failed: &'a mut Option<Errno>,
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        send(self.socket.as_raw_fd(), bytes, flags).map_err(|errno| {
            *self.failed = Some(errno);
            errno.into()
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
