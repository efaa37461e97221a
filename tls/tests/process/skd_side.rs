//! What skd is to the process: its end of the control channel.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use skd::sys::{descriptors, packets};
use skd_tls_protocol::{Command as Say, Report, Settings, VERSION};

use crate::LONG;

/// The program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_skd-tls");

/// A process with a control channel.
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) control: Option<OwnedFd>,
    /// Where requests are sent, and received.
    pub(crate) requests: (OwnedFd, OwnedFd),
}

impl Started {
    /// Starts it, and says nothing.
    pub(crate) fn silent(mode: &str) -> Self {
        let (control, theirs) = packets::pair().unwrap();
        packets::limit_wait(&control, LONG).unwrap();
        let child = Command::new(PROGRAM)
            .arg(mode)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            child,
            control: Some(control),
            requests: packets::pair().unwrap(),
        }
    }

    /// Starts it, and has it give up its rights: as root it becomes another user.
    pub(crate) fn new(mode: &str) -> Self {
        let mut started = Self::silent(mode);
        let user = nix::unistd::Uid::effective()
            .is_root()
            .then_some((65534, 65534));
        started.start(VERSION, user);
        assert_eq!(started.next(), Report::Started { lacks: Vec::new() });
        started
    }

    pub(crate) fn start(&mut self, version: u8, user: Option<(u32, u32)>) {
        let tickets = descriptors::memory_file().unwrap();
        let start = Say::Start {
            version,
            user,
            threads: 2,
        };
        let receiving = self.requests.1.try_clone().unwrap();
        self.say(&start, [Some(receiving.as_fd()), Some(tickets.as_fd())]);
    }

    pub(crate) fn say(&mut self, command: &Say, beside: [Option<BorrowedFd<'_>>; 2]) {
        let packet = serde_json::to_vec(command).unwrap();
        self.say_bytes(&packet, beside).unwrap();
    }

    pub(crate) fn say_bytes(
        &mut self,
        bytes: &[u8],
        beside: [Option<BorrowedFd<'_>>; 2],
    ) -> Result<(), Errno> {
        packets::send(self.control.as_ref().unwrap(), [bytes, b""], beside)
    }

    /// Sends files and settings.
    pub(crate) fn load(&mut self, files: &[&Path], settings: &Settings) {
        for file in files {
            let file = File::open(file).unwrap();
            self.say(&Say::File, [Some(file.as_fd()), None]);
        }
        let mut memory = descriptors::memory_file().unwrap();
        memory
            .write_all(&serde_json::to_vec(settings).unwrap())
            .unwrap();
        self.say(&Say::Load, [Some(memory.as_fd()), None]);
    }

    /// Returns the next report; none at the end.
    pub(crate) fn try_next(&mut self) -> Option<Report> {
        let mut buffer = vec![0; 1 << 16];
        match packets::receive(self.control.as_ref().unwrap(), &mut buffer) {
            Ok((0, _)) | Err(Errno::ECONNRESET) => None,
            Ok((length, _)) => Some(serde_json::from_slice(&buffer[..length]).unwrap()),
            Err(errno) => panic!("{errno}"),
        }
    }

    #[track_caller]
    pub(crate) fn next(&mut self) -> Report {
        self.try_next().expect("a report")
    }

    /// Waits for its end, and returns its status and what it has said.
    pub(crate) fn end(self) -> (std::process::ExitStatus, String) {
        let Self { child, control, .. } = self;
        let output = child.wait_with_output().unwrap();
        drop(control);
        (output.status, String::from_utf8(output.stderr).unwrap())
    }

    /// A field of its status in /proc.
    pub(crate) fn status(&self, name: &str) -> String {
        let path = format!("/proc/{}/status", self.child.id());
        let text = std::fs::read_to_string(path).unwrap();
        let mut lines = text.lines();
        let line = lines.find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }
}
