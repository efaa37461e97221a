//! The service manager, which is told by datagrams what becomes of skd: the protocol of
//! sd_notify(3), over the socket that NOTIFY_SOCKET names.
//!
//! Nothing here ever waits for it. What it has to know and has no room for is owed, and
//! tried again; the rest is dropped, since something newer follows.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::config::decimal;
use crate::error::Error;
use crate::report::{self, Event, Trouble};
use crate::sys::descriptors::{self, SavedDescriptors};

/// The least time between two messages about the numbers, or two tries to tell what is owed.
pub const PAUSE: Duration = Duration::from_secs(1);

/// How long until a watchdog that has to hear of skd within such a time is told again: half of
/// that; if it hasn't `heard`, well before its patience ends.
pub fn watchdog_pause(time: Duration, heard: bool) -> Duration {
    // No watchdog is in such a hurry, and none may keep skd busy.
    (time / if heard { 2 } else { 16 }).max(Duration::from_millis(1))
}

/// The service manager, on a socket that stays connected after chroot(2) and the drop of
/// privileges.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    /// As in NOTIFY_SOCKET.
    address: OsString,
    /// Messages that it must still get, in this order; never more than two.
    owed: Vec<String>,
    /// Whether the last message wasn't taken, which has been reported.
    deaf: bool,
    watchdog: Option<Duration>,
}

/// The same for another image of this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedManager {
    socket: i32,
    address: OsString,
    owed: Vec<String>,
    /// In microseconds.
    watchdog: Option<u64>,
}

impl Manager {
    /// Lets the next image of this process have it.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedManager, Errno> {
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Ok(SavedManager {
            socket: to.pass(&self.socket)?,
            address: self.address.clone(),
            owed: self.owed.clone(),
            watchdog: self.watchdog.map(microseconds),
        })
    }

    /// What an earlier image had.
    pub fn restore(saved: SavedManager) -> Result<Self, Errno> {
        Ok(Self {
            socket: descriptors::claim(saved.socket)?.into(),
            address: saved.address,
            owed: saved.owed,
            deaf: false,
            watchdog: saved.watchdog.map(Duration::from_micros),
        })
    }

    /// Connects to the service manager, if there is one: while the old root directory is in
    /// sight, and with the rights that may be needed.
    pub fn connect() -> Result<Option<Self>, Error> {
        let Some(address) = variable("NOTIFY_SOCKET") else {
            return Ok(None);
        };
        let failed = |reason| {
            let address = address.display();
            let what =
                format!("NOTIFY_SOCKET={address}: the service manager can't be reached there");
            Error::start(what, reason)
        };
        let socket = UnixDatagram::unbound().map_err(failed)?;
        let bytes = address.as_bytes();
        let to = match bytes.first() {
            Some(b'@') => SocketAddr::from_abstract_name(&bytes[1..]),
            Some(b'/') => SocketAddr::from_pathname(&address),
            _ => {
                return Err(Error::Start(format!(
                    "NOTIFY_SOCKET={}: skd reaches a service manager only on a unix socket, by an \
                     absolute path or an abstract @NAME; unset the variable to start without",
                    address.display()
                )));
            }
        };
        to.and_then(|to| socket.connect_addr(&to)).map_err(failed)?;
        Ok(Some(Self {
            socket,
            watchdog: watchdog()?,
            address,
            owed: Vec::new(),
            deaf: false,
        }))
    }

    /// Within what time it wants to hear that skd lives, if it does.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Says that another process is the service's main one from now on: it may take messages
    /// from that one alone, so the old one must say it.
    pub fn name_main_process(&mut self, to: Pid) {
        self.tell(format!("MAINPID={to}"));
    }

    /// Says that this process serves, for the first time or again.
    pub fn ready(&mut self, status: &str) {
        let pid = Pid::this();
        self.tell(format!("READY=1\nMAINPID={pid}\nSTATUS={status}"));
    }

    /// Says that the configuration is read anew, from now on until [`Self::ready`].
    pub fn reloading(&mut self) {
        // Whatever is owed will be outdated by what follows.
        self.owed.clear();
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        let now = now.as_micros();
        self.tell(format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// Says that skd ends.
    pub fn stopping(&mut self, status: Option<&str>) {
        self.owed.clear();
        let status = status.map(|status| format!("\nSTATUS={status}"));
        self.tell(format!("STOPPING=1{}", status.unwrap_or_default()));
    }

    /// Says how things are; whether that has been dealt with, or should be tried again.
    pub fn status(&mut self, status: &str) -> bool {
        self.settle() && self.send(&format!("STATUS={status}"))
    }

    /// Says that skd lives; whether that has been dealt with, or should be tried again.
    pub fn alive(&mut self) -> bool {
        self.send("WATCHDOG=1")
    }

    /// Whether it still has to be told something.
    pub fn is_owed(&self) -> bool {
        !self.owed.is_empty()
    }

    /// Tells it what is owed, and says whether that was all.
    pub fn settle(&mut self) -> bool {
        while let Some(message) = self.owed.first().cloned() {
            if !self.send(&message) {
                return false;
            }
            self.owed.remove(0);
        }
        true
    }

    fn tell(&mut self, message: String) {
        self.owed.push(message);
        self.settle();
    }

    /// Sends a message without waiting; false if it should be tried again. One to a manager
    /// that is gone is dealt with: it doesn't come back on this socket.
    fn send(&mut self, message: &str) -> bool {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let result = send(self.socket.as_raw_fd(), message.as_bytes(), flags);
        let deaf = std::mem::replace(&mut self.deaf, result.is_err());
        let Err(errno) = result else {
            return true;
        };
        let again = matches!(errno, Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR);
        if !deaf {
            report::event(Event::Trouble(Trouble::Manager {
                address: &self.address,
                errno,
            }));
        }
        !again
    }
}

/// Within what time the watchdog wants to hear of skd: that of sd_watchdog_enabled(3).
fn watchdog() -> Result<Option<Duration>, Error> {
    let Some(time) = variable("WATCHDOG_USEC") else {
        return Ok(None);
    };
    let refused = |name: &str, value: &OsStr, what: &str| {
        let value = value.display();
        Error::Start(format!("{name}={value}: it takes a decimal number, {what}"))
    };
    if let Some(pid) = variable("WATCHDOG_PID") {
        match decimal::<u64>(&pid) {
            // In the background still that of the process that was started: the daemon goes on
            // for it.
            Some(pid) if pid == u64::from(std::process::id()) => {}
            Some(_) => return Ok(None),
            None => return Err(refused("WATCHDOG_PID", &pid, "a process id")),
        }
    }
    let microseconds = decimal(&time).filter(|number| (1..u64::MAX).contains(number));
    let microseconds =
        microseconds.ok_or_else(|| refused("WATCHDOG_USEC", &time, "1 microsecond or more"))?;
    Ok(Some(Duration::from_micros(microseconds)))
}

/// A variable that is set to something.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}
