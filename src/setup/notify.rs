//! Messages to the service manager about the state of skd: the protocol of sd_notify(3), with
//! datagrams to the socket that NOTIFY_SOCKET names.
//!
//! Nothing here blocks. Required messages that the socket has no space for are pending and sent
//! again. Other messages are dropped, since a newer one follows.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
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

/// The minimum time between two status messages, or two tries to send pending messages.
pub const PAUSE: Duration = Duration::from_secs(1);

/// Returns the time until the next message to a watchdog with this timeout: half of the timeout, or
/// less if the last message wasn't sent.
pub fn watchdog_pause(timeout: Duration, sent: bool) -> Duration {
    // A very short timeout must not keep skd busy.
    (timeout / if sent { 2 } else { 16 }).max(Duration::from_millis(1))
}

/// The service manager, on a socket that stays connected after chroot(2) and the drop of
/// privileges.
#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    /// The value of NOTIFY_SOCKET.
    address: OsString,
    /// Required messages that weren't sent yet, in order. There are never more than two.
    pending: Vec<String>,
    /// Whether sending the last message failed, which has been reported.
    failing: bool,
    watchdog: Option<Duration>,
}

/// The connection as it is saved for the next binary.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedManager {
    socket: i32,
    address: OsString,
    pending: Vec<String>,
    /// In microseconds.
    watchdog: Option<u64>,
}

impl Manager {
    /// Saves the connection for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedManager, Errno> {
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Ok(SavedManager {
            socket: to.pass(&self.socket)?,
            address: self.address.clone(),
            pending: self.pending.clone(),
            watchdog: self.watchdog.map(microseconds),
        })
    }

    /// Restores the connection of the previous binary.
    pub fn restore(saved: SavedManager) -> Result<Self, Errno> {
        Ok(Self {
            socket: descriptors::claim(saved.socket)?.into(),
            address: saved.address,
            pending: saved.pending,
            failing: false,
            watchdog: saved.watchdog.map(Duration::from_micros),
        })
    }

    /// Connects to the service manager, if there is one. Call this before the change of root
    /// directory and user.
    pub fn connect() -> Result<Option<Self>, Error> {
        let Some(address) = variable("NOTIFY_SOCKET") else {
            return Ok(None);
        };
        let failed = |reason| {
            let address = Path::new(&address).display();
            let what = format!("NOTIFY_SOCKET={address}: the service manager can't be reached");
            Error::start(what, reason)
        };
        let socket = UnixDatagram::unbound().map_err(failed)?;
        let bytes = address.as_bytes();
        let to = match bytes.first() {
            Some(b'@') => SocketAddr::from_abstract_name(&bytes[1..]),
            Some(b'/') => SocketAddr::from_pathname(&address),
            _ => {
                return Err(Error::Start(format!(
                    "NOTIFY_SOCKET={}: the service manager must be a unix socket with an absolute \
                     path or an abstract @NAME; unset the variable to start without it",
                    Path::new(&address).display()
                )));
            }
        };
        to.and_then(|to| socket.connect_addr(&to)).map_err(failed)?;
        Ok(Some(Self {
            socket,
            watchdog: watchdog()?,
            address,
            pending: Vec::new(),
            failing: false,
        }))
    }

    /// Returns the timeout of the watchdog, if there is one.
    pub fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// Tells that another process is the main process from now on. Only the old one may tell this,
    /// since the service manager may ignore other processes.
    pub fn name_main_process(&mut self, to: Pid) {
        self.tell(format!("MAINPID={to}"));
    }

    /// Tells that this process serves, for the first time or again.
    pub fn ready(&mut self, status: &str) {
        let pid = Pid::this();
        self.tell(format!("READY=1\nMAINPID={pid}\nSTATUS={status}"));
    }

    /// Tells that skd reloads its configuration, until [`Self::ready`].
    pub fn reloading(&mut self) {
        // The next messages supersede pending ones.
        self.pending.clear();
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        let now = now.as_micros();
        self.tell(format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// Tells that skd ends.
    pub fn stopping(&mut self, status: Option<&str>) {
        self.pending.clear();
        let status = status.map(|status| format!("\nSTATUS={status}"));
        self.tell(format!("STOPPING=1{}", status.unwrap_or_default()));
    }

    /// Tells the status. Returns false if it should be tried again.
    pub fn status(&mut self, status: &str) -> bool {
        self.settle() && self.send(&format!("STATUS={status}"))
    }

    /// Tells the watchdog that skd is alive. Returns false if it should be tried again.
    pub fn alive(&mut self) -> bool {
        self.send("WATCHDOG=1")
    }

    /// Whether there are pending messages.
    pub fn is_owed(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Sends pending messages. Returns whether all were sent.
    pub fn settle(&mut self) -> bool {
        while let Some(message) = self.pending.first().cloned() {
            if !self.send(&message) {
                return false;
            }
            self.pending.remove(0);
        }
        true
    }

    fn tell(&mut self, message: String) {
        self.pending.push(message);
        self.settle();
    }

    /// Sends a message without blocking. Returns false if it should be tried again. If the manager
    /// has closed the socket, this returns true, since another try would fail too.
    fn send(&mut self, message: &str) -> bool {
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let result = send(self.socket.as_raw_fd(), message.as_bytes(), flags);
        let failing = std::mem::replace(&mut self.failing, result.is_err());
        let Err(errno) = result else {
            return true;
        };
        let again = matches!(errno, Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR);
        if !failing {
            report::event(Event::Trouble(Trouble::Manager {
                address: &self.address,
                errno,
            }));
        }
        !again
    }
}

/// Returns the timeout of the watchdog, as sd_watchdog_enabled(3) does.
fn watchdog() -> Result<Option<Duration>, Error> {
    let Some(time) = variable("WATCHDOG_USEC") else {
        return Ok(None);
    };
    let refused = |name: &str, value: &OsStr, what: &str| {
        let value = Path::new(value).display();
        Error::Start(format!("{name}={value}: it takes a decimal number, {what}"))
    };
    if let Some(pid) = variable("WATCHDOG_PID") {
        match decimal::<u64>(&pid) {
            // In the background, this still runs in the process that was started.
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

/// Returns the value of a variable that isn't empty.
fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}
