//! Clients of the control socket.

use super::{Directory, Skd, connect_unix};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The number of requests, unless another is said.
const ID: u64 = 7;

/// The number of a request for events.
const EVENTS: u64 = 1;

/// skd with a port, a control socket in the directory, and these options.
pub fn controlled<const N: usize>(directory: &Directory, options: [&str; N]) -> Skd {
    Skd::new(["-t", "127.0.0.1:0", "--control"])
        .arg(directory.join("control"))
        .args(options)
        .cwd(directory.path())
}

/// A client of the control socket in a directory.
pub struct Control(BufReader<UnixStream>);

impl Control {
    #[track_caller]
    pub fn of(directory: &Directory) -> Self {
        Self::at(directory.join("control"))
    }

    /// A client of the control socket at this path.
    #[track_caller]
    pub fn at(path: impl AsRef<Path>) -> Self {
        let stream = connect_unix(path);
        // A reload or a drain takes its time.
        let limit = Some(Duration::from_secs(60));
        stream.set_read_timeout(limit).unwrap();
        Self(BufReader::new(stream))
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends no more.
    #[track_caller]
    pub fn shut_down(&self) {
        self.0.get_ref().shutdown(Shutdown::Write).unwrap();
    }

    /// Reads the next line; `None` if there is none any more.
    #[track_caller]
    pub fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("a line is JSON")),
            Err(why) if why.kind() == ErrorKind::ConnectionReset => None,
            Err(why) => panic!("reading an answer: {why}"),
        }
    }

    /// Sends a request of this number without waiting for its answer.
    #[track_caller]
    fn request(&mut self, id: u64, request: Value) {
        let mut line = json!({"version": 1, "id": id});
        let fields = request.as_object().cloned().unwrap();
        line.as_object_mut().unwrap().extend(fields);
        self.write(format!("{line}\n"));
    }

    /// Sends a request without waiting for its answer.
    #[track_caller]
    pub fn send(&mut self, request: Value) {
        self.request(ID, request);
    }

    /// Reads the answer to a request.
    #[track_caller]
    pub fn answer(&mut self) -> Value {
        let answer = self.next().expect("an answer");
        assert_eq!(answer["version"], 1, "{answer}");
        assert_eq!(answer["id"], ID, "{answer}");
        answer
    }

    /// Asks for something with these fields.
    #[track_caller]
    pub fn ask(&mut self, request: &str, fields: Value) -> Value {
        let mut all = fields;
        all["request"] = request.into();
        self.send(all);
        self.answer()
    }

    /// Asks for something that is done, and returns what is said of it.
    #[track_caller]
    pub fn done(&mut self, request: Value) -> String {
        self.send(request);
        self.expect_done()
    }

    #[track_caller]
    pub fn expect_done(&mut self) -> String {
        let answer = self.answer();
        assert_eq!(answer["answer"], "done", "{answer}");
        answer["message"].as_str().unwrap().into()
    }

    /// Asks for something that isn't done, for this kind of reason, of which it is said this.
    #[track_caller]
    pub fn failed(&mut self, request: Value, kind: &str, words: &str) {
        self.send(request);
        self.expect_failure(kind, words);
    }

    #[track_caller]
    pub fn expect_failure(&mut self, kind: &str, words: &str) {
        self.expect_failure_of(ID, kind, words);
    }

    /// Expects the failure of a request of this number.
    #[track_caller]
    pub fn expect_failure_of(&mut self, id: u64, kind: &str, words: &str) {
        let answer = self.next().expect("an answer");
        assert_eq!(answer["answer"], "failed", "{answer}");
        assert_eq!(answer["id"], id, "{answer}");
        assert_eq!(answer["kind"], kind, "{answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(message.contains(words), "{answer}");
    }

    /// The status of skd.
    #[track_caller]
    pub fn status(&mut self) -> Value {
        let answer = self.ask("status", json!({}));
        assert_eq!(answer["answer"], "status", "{answer}");
        answer
    }

    /// How a service is, by its status.
    #[track_caller]
    pub fn service(&mut self, name: &str) -> Value {
        let answer = self.ask("status", json!({"services": [name]}));
        assert_eq!(answer["answer"], "status", "{answer}");
        answer["services"][0].clone()
    }

    /// Whether a service is serving, or what else it is.
    #[track_caller]
    pub fn state(&mut self, service: &str) -> String {
        self.service(service)["state"].as_str().unwrap().into()
    }

    /// Watches the events that this selects, and returns when skd does so.
    #[track_caller]
    pub fn watch(&mut self, mut filter: Value) {
        filter["request"] = "events".into();
        self.request(EVENTS, filter);
        self.status();
    }
}
