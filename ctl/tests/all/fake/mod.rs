//! A skd of which nothing is there but a control socket with prepared answers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;

use skd_control::{
    Answer, AnswerLine, Done, HandlerStatus, Handlers, ListenerStatus, ProcessStatus, Request,
    RequestLine, ServiceStatus, Status, VERSION,
};

type Answering = dyn Fn(&Request) -> Vec<Answer> + Send + Sync;

/// The socket, and what it was asked.
pub(crate) struct FakeSkd {
    directory: tempfile::TempDir,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl FakeSkd {
    /// Starts to answer. Each request may have several answers, as events do.
    pub(crate) fn start(answers: impl Fn(&Request) -> Vec<Answer> + Send + Sync + 'static) -> Self {
        let fake = Self {
            directory: tempfile::tempdir().unwrap(),
            requests: Arc::default(),
        };
        let listener = UnixListener::bind(fake.path()).unwrap();
        let (requests, answers): (_, Arc<Answering>) = (fake.requests.clone(), Arc::new(answers));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (requests, answers) = (requests.clone(), answers.clone());
                thread::spawn(move || serve(&stream.unwrap(), &requests, &*answers));
            }
        });
        fake
    }

    /// The path of the socket.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// What was asked for that changes something.
    pub(crate) fn acts(&self) -> Vec<Request> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .filter(|request| request.acts())
            .cloned()
            .collect()
    }

    /// All that was asked for.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

/// Answers one client until it has asked for events, or is gone.
fn serve(stream: &UnixStream, requests: &Mutex<Vec<Request>>, answers: &Answering) {
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let line: RequestLine = serde_json::from_str(&line).unwrap();
        assert_eq!(line.version, VERSION);
        let all = answers(&line.request);
        // A test that sees what follows finds the request.
        requests.lock().unwrap().push(line.request.clone());
        for answer in all {
            let answer = AnswerLine {
                version: VERSION,
                id: line.id,
                answer,
            };
            let text = serde_json::to_string(&answer).unwrap() + "\n";
            if (&*stream).write_all(text.as_bytes()).is_err() {
                return;
            }
        }
        if matches!(line.request, Request::Events(_)) {
            return;
        }
    }
}

/// Answers like a skd with two services and three handlers.
pub(crate) fn prepared(request: &Request) -> Vec<Answer> {
    vec![match request {
        Request::Status { .. } => Answer::Status(Box::new(status())),
        Request::Handlers(query) => {
            let mut handlers: Vec<_> = (0..3).map(handler).collect();
            handlers.truncate(query.limit.unwrap());
            Answer::Handlers(Handlers { total: 3, handlers })
        }
        _ => Answer::Done(Done {
            message: "it was done".into(),
            handlers: None,
        }),
    }]
}

fn status() -> Status {
    let service = |name: &str, port: u16| ServiceStatus {
        name: name.into(),
        listeners: vec![ListenerStatus {
            kind: "tcp".into(),
            address: format!("127.0.0.1:{port}"),
            ..ListenerStatus::default()
        }],
        ..ServiceStatus::default()
    };
    Status {
        skd: "9.8.7".into(),
        pid: 77,
        process: ProcessStatus {
            threads: 2,
            ..ProcessStatus::default()
        },
        services: vec![service("web", 80), service("mail", 25)],
        ..Status::default()
    }
}

fn handler(number: i32) -> HandlerStatus {
    HandlerStatus {
        pid: 5000 + number,
        service: "web".into(),
        client: format!("192.0.2.{number}:4000"),
        ..HandlerStatus::default()
    }
}

/// The program under test.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_skdctl"))
}
