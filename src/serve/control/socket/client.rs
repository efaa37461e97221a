//! A client: its connection, what it has written, and what it has yet to read.

use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use skd_control::{Answer, AnswerLine, EventLine, LONGEST_REQUEST, Level, VERSION};
use socket2::{SockRef, Socket};

use super::filter::Filter;
use super::permissions::Access;
use crate::config::Count;
use crate::sys::aside::Aside;
use crate::sys::events::Interest;
use crate::sys::sockets::{receive_bytes, refuses_descriptors};

/// How long a client may take to write a request.
const LATEST_END: Duration = Duration::from_secs(60);

/// How long an answer may wait that the client doesn't read, if it is long.
const LATEST_READ: Duration = Duration::from_secs(30);

/// So many bytes may wait for any time: an answer that isn't long, and events.
const SHORT: usize = 256 * 1024;

/// How many bytes are read or written before it is another client's turn.
const AT_ONCE: usize = 1024 * 1024;

/// A client.
#[derive(Debug)]
pub(super) struct Client {
    /// Its number, which no other client ever has.
    pub(super) connection: u64,
    /// Before Linux 6.16 a client can pass descriptors along, whose last close could wait.
    pub(super) socket: Aside,
    pub(super) access: Access,
    /// How its socket is watched.
    pub(super) interest: Interest,
    pub(super) state: State,
    /// When it has begun the request whose end is missing.
    begun: Option<Instant>,
    /// When it has read something last, while there is something to read.
    read: Option<Instant>,
}

/// What an upgrade keeps of a client.
#[derive(Debug, Default)]
pub(super) struct State {
    /// What it has written and nothing has answered.
    pub(super) input: Vec<u8>,
    /// What it has to read.
    pub(super) output: Vec<u8>,
    /// The number of the request that the main thread is to answer.
    pub(super) awaits: Option<u64>,
    /// The events that it watches.
    pub(super) watch: Option<Watch>,
    /// Whether it will write nothing more.
    pub(super) has_ended: bool,
    /// Whether it is closed once it has read what is there.
    pub(super) closes: bool,
}

/// The events that a client watches.
#[derive(Debug)]
pub(super) struct Watch {
    /// The number of the request.
    pub(super) id: u64,
    pub(super) filter: Filter,
    /// How many it has not got since it was told of missing ones.
    pub(super) lost: u64,
}

/// What a client has written.
pub(super) enum Line {
    Request(Vec<u8>),
    /// It has no end yet, and is too long already.
    TooLong,
    /// It has no end, and no more will come.
    Unfinished,
}

/// The client is gone, or its connection is of no use any more.
pub(super) struct Gone;

impl Client {
    pub(super) fn new(connection: u64, socket: Socket, access: Access, state: State) -> Self {
        let now = Instant::now();
        Self {
            connection,
            socket: OwnedFd::from(socket).into(),
            access,
            interest: Interest::Readable,
            begun: (!state.input.is_empty()).then_some(now),
            read: (!state.output.is_empty()).then_some(now),
            state,
        }
    }

    /// Closes the connection, in another thread if that could wait.
    pub(super) fn close(self) {
        match refuses_descriptors(&self.socket) {
            true => drop(self.socket.into_inner()),
            false => self.socket.close_promptly(),
        }
    }

    /// Reads what has come, if it may write now. A client that passes a descriptor along is of no use.
    pub(super) fn read(&mut self, now: Instant) -> Result<(), Gone> {
        let state = &mut self.state;
        let free = LONGEST_REQUEST.saturating_sub(state.input.len());
        let before = state.input.len();
        state.input.resize(before + free, 0);
        let result = receive_bytes(&self.socket, &mut state.input[before..]);
        state
            .input
            .truncate(before + *result.as_ref().unwrap_or(&0));
        match result {
            Ok(0) if free > 0 => state.has_ended = true,
            Ok(_) => drop(self.begun.get_or_insert(now)),
            Err(why) if passes(&why.into()) => {}
            Err(_) => return Err(Gone),
        }
        Ok(())
    }

    /// Whether it has written a line that can be answered now.
    pub(super) fn has_line(&self) -> bool {
        let state = &self.state;
        let is_due = state.has_ended || state.input.len() >= LONGEST_REQUEST;
        self.is_answered()
            && !state.closes
            && (state.input.contains(&b'\n') || is_due && !state.input.is_empty())
    }

    /// Takes out the next line.
    pub(super) fn take_line(&mut self, now: Instant) -> Line {
        let input = &mut self.state.input;
        let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
            let line = match input.len() >= LONGEST_REQUEST {
                true => Line::TooLong,
                false => Line::Unfinished,
            };
            *input = Vec::new();
            self.begun = None;
            return line;
        };
        let rest = input.split_off(end + 1);
        let line = std::mem::replace(input, rest);
        self.begun = (!input.is_empty()).then_some(now);
        Line::Request(line)
    }

    /// Whether nothing is left to be read by it, or to be answered.
    fn is_answered(&self) -> bool {
        self.state.output.is_empty() && self.state.awaits.is_none()
    }

    /// Adds an answer.
    pub(super) fn answer(&mut self, id: u64, answer: Answer, now: Instant) {
        self.state.answer(id, answer);
        self.read.get_or_insert(now);
    }

    /// Adds an event that it watches, or counts it as lost where too much waits already. Returns how
    /// many were lost.
    pub(super) fn event(&mut self, event: &EventLine<'static>, now: Instant) -> u64 {
        let state = &mut self.state;
        let waits = state.output.len();
        let Some(watch) = &mut state.watch else {
            return 0;
        };
        if !watch.filter.matches(event) {
            return 0;
        }
        if waits > SHORT {
            watch.lost += 1;
            return 1;
        }
        let id = watch.id;
        if let Some(missing) = watch.missing(event) {
            state.answer(id, missing);
        }
        self.answer(id, Answer::Event(Box::new(event.clone())), now);
        0
    }

    /// Writes what it has to read, as far as the kernel takes it.
    pub(super) fn write(&mut self, now: Instant) -> Result<(), Gone> {
        let output = &mut self.state.output;
        let mut written = 0;
        while written < output.len().min(AT_ONCE) {
            match SockRef::from(&self.socket).send(&output[written..]) {
                Ok(0) => break,
                Ok(length) => written += length,
                Err(why) if why.kind() == ErrorKind::Interrupted => {}
                Err(why) if passes(&why) => break,
                Err(_) => return Err(Gone),
            }
        }
        match written == output.len() {
            // What was long isn't kept.
            true if written > 0 => *output = Vec::new(),
            _ => drop(output.drain(..written)),
        }
        self.read = match (self.state.output.is_empty(), self.read) {
            (true, _) => None,
            (false, Some(read)) if written == 0 => Some(read),
            (false, _) => Some(now),
        };
        Ok(())
    }

    /// Whether it has got all that it asked for and will ask for nothing more.
    pub(super) fn is_over(&self) -> bool {
        let state = &self.state;
        let is_served = state.input.is_empty() && state.awaits.is_none() && state.watch.is_none();
        state.output.is_empty() && (state.closes || state.has_ended && is_served)
    }

    /// Returns how its socket is to be watched now.
    pub(super) fn wants(&self) -> Interest {
        let state = &self.state;
        match () {
            () if !state.output.is_empty() => Interest::Writable,
            // Its end is told all the same.
            () if state.has_ended || state.closes || !self.is_answered() => Interest::Paused,
            () if state.input.len() >= LONGEST_REQUEST || self.has_line() => Interest::Paused,
            () => Interest::Readable,
        }
    }

    /// When it is closed if it doesn't end its request, or doesn't read a long answer.
    pub(super) fn due(&self) -> Option<Instant> {
        let is_long = self.state.output.len() > SHORT + AT_ONCE;
        let unread = self.read.filter(|_| is_long);
        let unread = unread.map(|since| since + LATEST_READ);
        let unfinished = self
            .begun
            .filter(|_| self.is_answered() && !self.has_line());
        let unfinished = unfinished.map(|since| since + LATEST_END);
        unread.into_iter().chain(unfinished).min()
    }
}

impl State {
    /// Adds an answer.
    fn answer(&mut self, id: u64, answer: Answer) {
        let line = AnswerLine {
            version: VERSION,
            id,
            answer,
        };
        let before = self.output.len();
        if serde_json::to_writer(&mut self.output, &line).is_err() {
            // Nothing that is answered has what JSON can't say.
            self.output.truncate(before);
            self.closes = true;
            return;
        }
        self.output.push(b'\n');
    }
}

impl Watch {
    /// Returns the event that says that some are missing before this one, if so.
    fn missing(&mut self, before: &EventLine<'static>) -> Option<Answer> {
        let lost = std::mem::take(&mut self.lost);
        let message = || Count(lost as usize, "event is missing", "events are missing").to_string();
        (lost > 0).then(|| {
            Answer::Event(Box::new(EventLine {
                time: before.time.clone(),
                level: Level::Warning,
                event: "events-lost".into(),
                message: message().into(),
                count: Some(lost),
                ..EventLine::default()
            }))
        })
    }
}

/// Whether a call that failed is to be made again later.
fn passes(why: &io::Error) -> bool {
    matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use skd_control::EventFilter;

    use super::*;

    fn client() -> (Client, UnixStream) {
        let (own, other) = UnixStream::pair().unwrap();
        own.set_nonblocking(true).unwrap();
        let socket = Socket::from(OwnedFd::from(own));
        (Client::new(7, socket, Access::Act, State::default()), other)
    }

    fn read(client: &mut Client, now: Instant) {
        assert!(client.read(now).is_ok());
    }

    fn done(client: &mut Client, length: usize, now: Instant) {
        let message = "x".repeat(length);
        let done = skd_control::Done {
            message,
            handlers: None,
        };
        client.answer(1, Answer::Done(done), now);
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn lines_are_taken_one_by_one_and_only_when_the_last_is_answered() {
        let (mut client, mut other) = client();
        let now = Instant::now();
        assert_eq!(client.wants(), Interest::Readable);
        other.write_all(b"one\ntwo\nthr").unwrap();
        read(&mut client, now);
        assert!(matches!(client.take_line(now), Line::Request(line) if line == b"one\n"));
        assert!(client.has_line());
        client.state.awaits = Some(1);
        assert!(!client.has_line());
        assert_eq!(client.wants(), Interest::Paused);
        client.state.awaits = None;
        done(&mut client, 1, now);
        assert!(!client.has_line());
        assert_eq!(client.wants(), Interest::Writable);
        assert!(client.write(now).is_ok());
        assert!(matches!(client.take_line(now), Line::Request(line) if line == b"two\n"));
        assert!(!client.has_line());
        assert_eq!(client.wants(), Interest::Readable);
        other.shutdown(std::net::Shutdown::Write).unwrap();
        read(&mut client, now);
        assert!(matches!(client.take_line(now), Line::Unfinished));
        assert!(client.is_over());
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn descriptors_that_a_client_passes_are_not_read_away() {
        let (mut client, mut other) = client();
        let now = Instant::now();
        other.write_all(b"{").unwrap();
        let (passed, own) = UnixStream::pair().unwrap();
        crate::sys::passing::send_descriptor(&other, &passed).unwrap();
        drop(passed);
        assert!(client.read(now).is_err());
        // It would be closed by now.
        own.set_nonblocking(true).unwrap();
        let read = (&own).read(&mut [0]);
        assert!(read.is_err_and(|why| passes(&why)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn a_request_has_to_end_in_time() {
        let (mut client, mut other) = client();
        let now = Instant::now();
        assert_eq!(client.due(), None);
        other.write_all(b"{").unwrap();
        read(&mut client, now);
        assert_eq!(client.due(), Some(now + LATEST_END));
        // More of it gains nothing.
        other.write_all(b"\"").unwrap();
        read(&mut client, now + LATEST_END / 2);
        assert_eq!(client.due(), Some(now + LATEST_END));
        other.write_all(b"\n{").unwrap();
        read(&mut client, now + LATEST_END / 2);
        assert!(matches!(
            client.take_line(now + LATEST_END),
            Line::Request(_)
        ));
        assert_eq!(client.due(), Some(now + 2 * LATEST_END));
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn a_long_answer_has_to_be_read_in_time_and_a_short_one_not() {
        let now = Instant::now();
        let (mut short, _other) = client();
        done(&mut short, SHORT, now);
        assert_eq!(short.due(), None);
        let (mut long, other) = client();
        done(&mut long, 2 * AT_ONCE, now);
        assert!(long.write(now).is_ok());
        assert_eq!(long.due(), Some(now + LATEST_READ));
        // It reads on.
        let mut buffer = vec![0; AT_ONCE];
        let later = now + LATEST_READ / 2;
        assert!((&other).read(&mut buffer).unwrap() > 0);
        assert!(long.write(later).is_ok());
        assert_eq!(long.due(), Some(later + LATEST_READ));
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn events_that_are_not_read_are_lost_and_counted() {
        let (mut client, other) = client();
        let now = Instant::now();
        let event = EventLine {
            event: "accepted".into(),
            ..EventLine::default()
        };
        assert_eq!(client.event(&event, now), 0);
        assert!(client.state.output.is_empty());
        client.state.watch = Some(Watch {
            id: 3,
            filter: Filter::read(EventFilter::default()).unwrap(),
            lost: 0,
        });
        let lost: u64 = (0..10_000).map(|_| client.event(&event, now)).sum();
        assert!((1..10_000).contains(&lost), "{lost}");
        assert!(client.state.output.len() < SHORT + 1024);
        client.state.output = Vec::new();
        assert_eq!(client.event(&event, now), 0);
        let text = String::from_utf8(client.state.output.clone()).unwrap();
        assert!(text.contains(&format!("\"count\":{lost}")), "{text}");
        assert_eq!(text.lines().count(), 2);
        drop(other);
        assert!(client.write(now).is_err());
    }
}
