//! A terminal without a user.

use super::poll_for;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;

/// A pseudo-terminal in raw mode: what a program writes to its end can be read here, and the other way.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    slave: OwnedFd,
}

impl Terminal {
    #[track_caller]
    pub fn new() -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).expect("a pseudo-terminal");
        let mut mode = tcgetattr(&slave).expect("a terminal's mode");
        cfmakeraw(&mut mode);
        // But let its keys send signals, as those of a terminal do.
        mode.local_flags |= nix::sys::termios::LocalFlags::ISIG;
        tcsetattr(&slave, SetArg::TCSANOW, &mode).expect("a terminal's mode");
        for end in [&master, &slave] {
            // openpty lets them be inherited, by programs of other tests too.
            let flag = nix::fcntl::FdFlag::FD_CLOEXEC;
            fcntl(end, FcntlArg::F_SETFD(flag)).expect("FD_CLOEXEC");
        }
        fcntl(&master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("O_NONBLOCK");
        Self {
            master: master.into(),
            slave,
        }
    }

    /// The program's end, for [`super::Skd::stdin`] and the like.
    pub fn end(&self) -> OwnedFd {
        self.slave.try_clone().expect("a second descriptor")
    }

    /// Types: `b"\x03"` is Ctrl-C, an INT for the foreground process group of the session that the terminal
    /// controls.
    #[track_caller]
    pub fn type_in(&mut self, keys: &[u8]) {
        self.master.write_all(keys).expect("typing");
    }

    /// All that is on the screen and wasn't read before.
    pub fn read(&mut self) -> String {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.master.read(&mut buffer) {
                Ok(length) if length > 0 => bytes.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                _ => return String::from_utf8_lossy(&bytes).into_owned(),
            }
        }
    }

    /// Waits until `text` is written to the terminal and returns all that was.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let mut seen = String::new();
        let found = poll_for(super::DEADLINE, || {
            seen += &self.read();
            seen.contains(text).then_some(())
        });
        assert!(found.is_some(), "no {text:?} on the terminal but {seen:?}");
        seen
    }

    /// Closes the window: HUP for the session that the terminal controls.
    pub fn hang_up(self) {
        drop(self);
    }
}
