//! A connection to the control socket of skd.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, socket};
use serde_json::Value;
use skd_control::{
    Answer, AnswerLine, EventFilter, EventLine, LONGEST_REQUEST, Request, RequestLine, Status,
    VERSION,
};

use crate::error::Error;

/// How long skd may take for what it does at once.
const PROMPT: Duration = Duration::from_secs(10);

/// The longest answer that is read. 9,000 handlers take 2 MB.
const LONGEST_ANSWER: u64 = 64 * 1024 * 1024;

/// A connection to skd.
#[derive(Debug)]
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    /// The number of the last request.
    id: u64,
    timeout: Duration,
}

impl Client {
    /// Connects to the skd that listens at this path.
    pub(crate) fn connect(path: &Path) -> Result<Self, Error> {
        Self::connect_with(path, PROMPT)
    }

    /// Connects to the skd that listens at this path. An answer that is prompt may take this long.
    pub(crate) fn connect_with(path: &Path, timeout: Duration) -> Result<Self, Error> {
        let stream = connect(path, timeout).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => Error::Silent(timeout),
            _ => refused(path, error),
        })?;
        Ok(Self {
            stream: BufReader::new(stream),
            id: 0,
            timeout,
        })
    }

    /// Asks, and returns the answer. An [`Answer::Failed`] is returned as an error.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Answer, Error> {
        let patient = waits(&request);
        self.send(request)?;
        let timeout = (!patient).then_some(self.timeout);
        match self.receive(timeout)? {
            Answer::Failed(failure) => Err(Error::Failure(failure)),
            answer => Ok(answer),
        }
    }

    /// Asks how skd is.
    pub(crate) fn status(&mut self) -> Result<Status, Error> {
        match self.ask(Request::Status { services: vec![] })? {
            Answer::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for events, which come until one side ends.
    pub(crate) fn events(mut self, filter: EventFilter) -> Result<Events, Error> {
        self.send(Request::Events(filter))?;
        Ok(Events { client: self })
    }

    fn send(&mut self, request: Request) -> Result<(), Error> {
        self.id += 1;
        let line = RequestLine {
            version: VERSION,
            id: self.id,
            request,
        };
        let mut bytes = serde_json::to_vec(&line)
            .map_err(|error| Error::Local(format!("the request can't be written: {error}")))?;
        bytes.push(b'\n');
        if bytes.len() > LONGEST_REQUEST {
            return Err(Error::Usage(format!(
                "the request has {} bytes; skd takes {LONGEST_REQUEST}",
                bytes.len()
            )));
        }
        // What skd has said already, the reason for its end perhaps, tells more than a broken pipe.
        match self.stream.get_mut().write_all(&bytes) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(self.broken(error)),
            _ => Ok(()),
        }
    }

    /// Reads the answer to the last request.
    fn receive(&mut self, timeout: Option<Duration>) -> Result<Answer, Error> {
        self.stream
            .get_ref()
            .set_read_timeout(timeout)
            .map_err(Error::Broken)?;
        let mut bytes = Vec::new();
        let read = (&mut self.stream)
            .take(LONGEST_ANSWER)
            .read_until(b'\n', &mut bytes)
            .map_err(|error| self.broken(error))?;
        if read as u64 == LONGEST_ANSWER {
            return Err(Error::Garbled(format!(
                "it has more than {LONGEST_ANSWER} bytes"
            )));
        }
        if bytes.last() != Some(&b'\n') {
            return Err(Error::Ended);
        }
        parse(&bytes, self.id)
    }

    fn broken(&self, error: io::Error) -> Error {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Error::Silent(self.timeout),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Error::Ended,
            _ => Error::Broken(error),
        }
    }
}

/// Events of skd, one after the other.
#[derive(Debug)]
pub(crate) struct Events {
    client: Client,
}

impl Iterator for Events {
    type Item = Result<EventLine<'static>, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(match self.client.receive(None) {
            Ok(Answer::Event(event)) => Ok(*event),
            Ok(Answer::Failed(failure)) => Err(Error::Failure(failure)),
            Ok(answer) => Err(unexpected(&answer)),
            Err(error) => Err(error),
        })
    }
}

/// Connects. The timeout is for this, too, and for all that is written: an skd that hangs may have
/// a full backlog.
fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let family = AddressFamily::Unix;
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let address = UnixAddr::new(path)?;
    let stream = UnixStream::from(socket);
    stream.set_write_timeout(Some(timeout))?;
    socket::connect(stream.as_raw_fd(), &address)?;
    Ok(stream)
}

/// The error for an answer to something else.
pub(crate) fn unexpected(answer: &Answer) -> Error {
    let name = match answer {
        Answer::Status(_) => "a status",
        Answer::Handlers(_) => "handlers",
        Answer::Sources(_) => "sources",
        Answer::Explanation(_) => "an explanation",
        Answer::Event(_) => "an event",
        Answer::Done(_) => "that it was done",
        Answer::Failed(_) => "a failure",
    };
    Error::Garbled(format!("it is {name}, which wasn't asked for"))
}

/// Whether the answer comes only when something is over that may take any time.
fn waits(request: &Request) -> bool {
    matches!(
        request,
        Request::Reload | Request::Upgrade | Request::Drain { .. } | Request::Events(_)
    )
}

fn refused(path: &Path, error: io::Error) -> Error {
    let path = PathBuf::from(path);
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::NotADirectory => {
            Error::Absent(path)
        }
        ErrorKind::PermissionDenied => Error::Forbidden(path),
        _ => Error::Connect(path, error),
    }
}

fn parse(line: &[u8], id: u64) -> Result<Answer, Error> {
    match serde_json::from_slice::<AnswerLine>(line) {
        Ok(line) if line.version != VERSION => Err(Error::Version(line.version)),
        // A failure without a number is about the connection, or about a line that wasn't understood.
        Ok(AnswerLine {
            id: other,
            answer: answer @ Answer::Failed(_),
            ..
        }) if other == id || other == 0 => Ok(answer),
        Ok(line) if line.id == id => Ok(line.answer),
        Ok(line) => Err(Error::Garbled(format!(
            "it has the number {}, and {id} was asked",
            line.id
        ))),
        Err(error) => Err(other_version(line).unwrap_or(Error::Garbled(error.to_string()))),
    }
}

/// An answer of another version may look different in all but this.
fn other_version(line: &[u8]) -> Option<Error> {
    let value = serde_json::from_slice::<Value>(line).ok()?;
    let version = u32::try_from(value.get("version")?.as_u64()?).ok()?;
    (version != VERSION).then_some(Error::Version(version))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// What is reported when a server answers each request with this.
    fn asked(answer: &'static str) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut stream = BufReader::new(stream);
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            stream.get_mut().write_all(answer.as_bytes()).unwrap();
            line
        });
        let mut client = Client::connect(&path).unwrap();
        let answer = client.ask(Request::Enable {
            services: vec!["web".into()],
        });
        let line = server.join().unwrap();
        assert_eq!(
            line,
            "{\"version\":1,\"id\":1,\"request\":\"enable\",\"services\":[\"web\"]}\n"
        );
        match answer {
            Ok(answer) => format!("{answer:?}"),
            Err(error) => format!("{}: {error}", error.status() as u8),
        }
    }

    #[test]
    fn answers_are_checked() {
        assert_eq!(
            asked(
                "{\"version\":1,\"id\":1,\"answer\":\"done\",\"message\":\"web is enabled\",\"new\":[]}\n"
            ),
            "Done(Done { message: \"web is enabled\", handlers: None })"
        );
        assert_eq!(
            asked(
                "{\"version\":1,\"id\":1,\"answer\":\"failed\",\"kind\":\"busy\",\"message\":\"skd ends\"}\n"
            ),
            "6: skd ends"
        );
        assert_eq!(
            asked(
                "{\"version\":1,\"id\":0,\"answer\":\"failed\",\"kind\":\"busy\",\"message\":\"64 clients\"}\n"
            ),
            "6: 64 clients"
        );
        assert_eq!(
            asked("{\"version\":2,\"answers\":[]}\n"),
            "7: skd speaks version 2 of the control protocol, and this skdctl version 1: use the \
             skdctl that came with that skd"
        );
        assert_eq!(
            asked("{\"version\":1,\"id\":1,\"ans"),
            "7: skd closed the connection before its answer was complete"
        );
        assert_eq!(
            asked("{\"version\":1,\"id\":3,\"answer\":\"done\",\"message\":\"\"}\n"),
            "7: the answer of skd isn't understood: it has the number 3, and 1 was asked"
        );
        assert!(asked("HTTP/1.1 400\r\n").starts_with("7: the answer of skd isn't understood: "));
    }

    #[test]
    fn a_missing_skd_is_named() {
        let error = Client::connect(Path::new("/nonexistent/skd.sock")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no skd answers at /nonexistent/skd.sock: is it started with --control \
             /nonexistent/skd.sock?"
        );
        assert_eq!(error.status() as u8, 3);
    }

    #[test]
    fn a_silent_skd_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let _listener = UnixListener::bind(&path).unwrap();
        let timeout = Duration::from_millis(50);
        let mut client = Client::connect_with(&path, timeout).unwrap();
        let error = client
            .ask(Request::Status { services: vec![] })
            .unwrap_err();
        assert!(matches!(error, Error::Silent(_)), "{error}");
    }

    #[test]
    fn a_full_backlog_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control");
        let listener = UnixListener::bind(&path).unwrap();
        socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
        let timeout = Duration::from_millis(50);
        let mut clients = Vec::new();
        let error = loop {
            match Client::connect_with(&path, timeout) {
                Ok(client) => clients.push(client),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Silent(_)), "{error}");
        assert!(clients.len() < 3);
    }
}
