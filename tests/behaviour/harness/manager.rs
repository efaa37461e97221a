//! A stand-in for the service manager behind NOTIFY_SOCKET.

use super::{DEADLINE, Directory, poll_for};
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt,
};
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A message, and its sender as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    pub text: String,
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

impl Notice {
    /// The value of an assignment in it.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut assignments = self.text.lines().filter_map(|line| line.split_once('='));
        let (_, value) = assignments.find(|(found, _)| *found == name)?;
        Some(value)
    }
}

/// A datagram socket that collects its messages, as systemd does for sd_notify(3).
///
/// ```ignore
/// let manager = ServiceManager::new();
/// let skd = Skd::new(["-t", "127.0.0.1:0"]).env("NOTIFY_SOCKET", manager.address()).run("cat");
/// manager.wait_for("READY=1");
/// ```
#[derive(Debug)]
pub struct ServiceManager {
    address: String,
    shared: Arc<Mutex<Shared>>,
    thread: Option<JoinHandle<()>>,
    _directory: Option<Directory>,
}

#[derive(Debug)]
struct Shared {
    /// `None` once it is closed.
    socket: Option<UnixDatagram>,
    stuck: bool,
    ended: bool,
    notices: Vec<Notice>,
}

impl ServiceManager {
    /// At a path.
    #[track_caller]
    pub fn new() -> Self {
        let directory = Directory::public();
        let path = directory.name("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket at a path");
        // For root alone, unlike systemd's: skd must connect before it drops privileges.
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("chmod");
        Self::on(socket, path, Some(directory))
    }

    /// In the abstract namespace.
    #[track_caller]
    pub fn without_a_path() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("skd-test-{}-{count}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let socket = UnixDatagram::bind_addr(&address).expect("an abstract socket");
        Self::on(socket, format!("@{name}"), None)
    }

    fn on(socket: UnixDatagram, address: String, directory: Option<Directory>) -> Self {
        setsockopt(&socket, sockopt::PassCred, &true).expect("SO_PASSCRED");
        let shared = Arc::new(Mutex::new(Shared {
            socket: Some(socket),
            stuck: false,
            ended: false,
            notices: Vec::new(),
        }));
        let theirs = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            // It polls rather than blocks in the kernel, so that the lock alone is needed to stop it.
            while !locked(&theirs).read() {
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            address,
            shared,
            thread: Some(thread),
            _directory: directory,
        }
    }

    /// The value for NOTIFY_SOCKET.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// All messages, in order.
    pub fn notices(&self) -> Vec<Notice> {
        let mut shared = locked(&self.shared);
        shared.read();
        shared.notices.clone()
    }

    /// The messages that contain `text`.
    pub fn told(&self, text: &str) -> Vec<Notice> {
        let mut notices = self.notices();
        notices.retain(|notice| notice.text.contains(text));
        notices
    }

    /// The messages that don't contain `text`.
    pub fn told_but(&self, text: &str) -> Vec<Notice> {
        let mut notices = self.notices();
        notices.retain(|notice| !notice.text.contains(text));
        notices
    }

    /// Waits for a message that contains `text`, which may have come already, and returns the first.
    #[track_caller]
    pub fn wait_for(&self, text: &str) -> Notice {
        self.wait_for_more(text, 1).swap_remove(0)
    }

    /// Waits for `count` messages that contain `text`, and returns them.
    #[track_caller]
    pub fn wait_for_more(&self, text: &str, count: usize) -> Vec<Notice> {
        let find = || Some(self.told(text)).filter(|told| told.len() >= count);
        poll_for(DEADLINE, find)
            .unwrap_or_else(|| panic!("not {count} of {text:?} but {:#?}", self.notices()))
    }

    /// Stops reading, and fills the queue.
    pub fn stick(&self) {
        let mut shared = locked(&self.shared);
        shared.stuck = true;
        let socket = shared.socket.as_ref().expect("a socket");
        let to = socket.local_addr().expect("its address");
        let filler = UnixDatagram::unbound().expect("a socket");
        filler.set_nonblocking(true).expect("O_NONBLOCK");
        while filler.send_to_addr(b"FILLER=1", &to).is_ok() {}
    }

    /// Reads again.
    pub fn unstick(&self) {
        locked(&self.shared).stuck = false;
    }

    /// Closes its socket for good.
    pub fn leave(&self) {
        let mut shared = locked(&self.shared);
        let socket = shared.socket.take().expect("a socket");
        super::close_unix(socket, &self.address);
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        locked(&self.shared).ended = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Reads what is queued; returns whether this is the end.
    fn read(&mut self) -> bool {
        let socket = self.socket.as_ref().filter(|_| !self.stuck);
        self.notices
            .extend(std::iter::from_fn(|| socket.and_then(receive)));
        self.ended
    }
}

fn receive(socket: &UnixDatagram) -> Option<Notice> {
    let mut buffer = [0; 4096];
    let mut space = cmsg_space!(UnixCredentials);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags).ok()?;
    let credentials = message
        .cmsgs()
        .expect("control data")
        .find_map(|control| match control {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials),
            _ => None,
        });
    let credentials = credentials.expect("credentials");
    let length = message.bytes;
    Some(Notice {
        text: String::from_utf8_lossy(&buffer[..length]).into_owned(),
        pid: credentials.pid(),
        uid: credentials.uid(),
        gid: credentials.gid(),
    })
}

fn locked(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
