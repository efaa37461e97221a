//! A client of TLS: Python's, so that another library than skd-tls's is at the other end.

use super::{Pki, requires_command};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A process with any number of connections, each with a name, that trusts an authority. Its commands are in
/// `tls_client.py`.
#[derive(Debug)]
pub struct TlsClient {
    child: Child,
    ends: RefCell<(ChildStdin, BufReader<ChildStdout>)>,
}

impl TlsClient {
    pub fn new(pki: &Pki) -> Self {
        requires_command("python3");
        let mut client = Command::new("python3");
        client.args(["-c", include_str!("tls_client.py")]);
        let client = client.arg(pki.path("ca.pem"));
        let client = client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = client.spawn().unwrap();
        let ends = child.stdin.take().zip(child.stdout.take()).unwrap();
        Self {
            child,
            ends: RefCell::new((ends.0, BufReader::new(ends.1))),
        }
    }

    /// Has it execute a command, and returns its answer.
    #[track_caller]
    pub fn ask(&self, command: &str) -> String {
        self.begin(command);
        self.answer()
    }

    /// Sends a command.
    #[track_caller]
    pub fn begin(&self, command: &str) {
        writeln!(self.ends.borrow_mut().0, "{command}").unwrap();
    }

    /// Waits for the answer to a command.
    #[track_caller]
    pub fn answer(&self) -> String {
        let mut line = String::new();
        self.ends.borrow_mut().1.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "the client has ended");
        line.trim_end().to_owned()
    }

    /// Makes a connection, and returns the serial number of the server's certificate.
    #[track_caller]
    pub fn connect(&self, name: &str, port: u16) -> String {
        let answer = self.ask(&format!("connect {name} {port}"));
        match answer.split(' ').collect::<Vec<_>>()[..] {
            ["ok", serial, "new"] => serial.to_owned(),
            _ => panic!("{name}: {answer}"),
        }
    }

    /// Makes sure that what it sends comes back.
    #[track_caller]
    pub fn echo(&self, name: &str) {
        assert_eq!(self.ask(&format!("echo {name} hello-{name}")), "ok");
    }
}

impl Drop for TlsClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
