//! A stand-in for the syslog daemon.

use super::{DEADLINE, Instance, Namespace, poll_for};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

/// One datagram as received, such as `<29>Jan  1 00:00:00 tag: text`.
#[derive(Clone, Debug)]
pub struct Message {
    pub text: String,
    pub at: SystemTime,
}

impl Message {
    /// The number between `<` and `>`: facility × 8 + severity (RFC 3164).
    pub fn priority(&self) -> Option<u32> {
        self.text.strip_prefix('<')?.split_once('>')?.0.parse().ok()
    }
}

/// A datagram socket at a path, whose messages are collected until it is dropped.
///
/// ```ignore
/// let namespace = Namespace::new();
/// namespace.private_dev();
/// let syslog = Syslog::bind(namespace.path("/dev/log"));
/// let skd = Skd::new(["-vL", "tag", "-t", "127.0.0.1:0"]).inside(&namespace).run("cat");
/// talk(skd.connect(), b"");
/// syslog.wait_for("Accepted connection");
/// ```
#[derive(Debug)]
pub struct Syslog {
    path: PathBuf,
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// `None` while the daemon is down.
    socket: Option<UnixDatagram>,
    stuck: bool,
    ended: bool,
    messages: Vec<Message>,
}

impl Syslog {
    #[track_caller]
    pub fn bind(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let socket = Some(open(&path));
        let shared = Arc::new(Mutex::new(Shared {
            socket,
            ..Shared::default()
        }));
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            // It polls rather than blocks in the kernel, so that the lock alone is needed to stop it.
            while !locked(&theirs).read() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            path,
            shared,
            thread: Some(thread),
        }
    }

    /// All messages so far, including those from before a restart.
    pub fn messages(&self) -> Vec<Message> {
        let mut shared = locked(&self.shared);
        shared.read();
        shared.messages.clone()
    }

    /// The texts that contain `text`.
    pub fn logged(&self, text: &str) -> Vec<String> {
        let messages = self.messages().into_iter().map(|message| message.text);
        messages.filter(|message| message.contains(text)).collect()
    }

    /// Waits for a message that contains `text`, which may have come already, and returns the first.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> Message {
        let find = || {
            self.messages()
                .into_iter()
                .find(|message| message.text.contains(text))
        };
        poll_for(DEADLINE, find)
            .unwrap_or_else(|| panic!("no {text:?} in syslog but {:#?}", self.messages()))
    }

    /// Stops reading, as a daemon that hangs: the queue of the socket (net.unix.max_dgram_qlen) fills up.
    pub fn stick(&self) {
        locked(&self.shared).stuck = true;
    }

    /// Reads again.
    pub fn unstick(&self) {
        locked(&self.shared).stuck = false;
    }

    /// Closes the socket, as a daemon that died: its file stays, what was queued is lost.
    pub fn crash(&self) {
        self.close(&mut locked(&self.shared));
    }

    /// Reads what is queued, closes the socket and removes its file, as a daemon that is stopped.
    pub fn stop(&self) {
        let mut shared = locked(&self.shared);
        shared.read();
        self.close(&mut shared);
        let _ = std::fs::remove_file(&self.path);
    }

    fn close(&self, shared: &mut Shared) {
        shared.socket = None;
        // A fork of another test can keep the socket open until its exec.
        super::wait_until("no process has the log socket open", || {
            UnixDatagram::unbound()
                .expect("a socket")
                .connect(&self.path)
                .is_err()
        });
    }

    /// Binds anew and reads, whatever happened before.
    #[track_caller]
    pub fn restart(&self) {
        self.stop();
        let mut shared = locked(&self.shared);
        shared.socket = Some(open(&self.path));
        shared.stuck = false;
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        locked(&self.shared).ended = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Shared {
    /// Reads what is queued; returns whether this is the end.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 65536];
        // Not for ever, if a process sends as fast as this reads.
        let end = Instant::now() + Duration::from_millis(100);
        while !self.stuck && Instant::now() < end {
            let Some(socket) = &self.socket else { break };
            match socket.recv(&mut buffer) {
                Ok(length) => self.messages.push(Message {
                    text: String::from_utf8_lossy(&buffer[..length]).into_owned(),
                    at: SystemTime::now(),
                }),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.ended
    }
}

/// A machine on which /dev/log is this socket.
#[track_caller]
pub fn machine() -> (Namespace, Syslog) {
    let namespace = Namespace::new();
    namespace.private_dev();
    let syslog = Syslog::bind(namespace.path("/dev/log"));
    (namespace, syslog)
}

/// The relays of a running skd: processes of the same program, and no children of this run.
pub fn relays(skd: &Instance) -> Vec<i32> {
    let program = |pid: i32| {
        let file = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let mut found = skd.processes();
    let handlers = skd.children();
    found.retain(|&pid| {
        pid != skd.pid() && !handlers.contains(&pid) && program(pid) == program(skd.pid())
    });
    found
}

fn open(path: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path)
        .unwrap_or_else(|error| panic!("binding {}: {error}", path.display()));
    socket.set_nonblocking(true).expect("O_NONBLOCK");
    // Every user may log.
    let writable = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(path, writable).expect("chmod");
    socket
}

fn locked(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
