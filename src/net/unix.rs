//! Binding a unix-domain socket to a path. A stale socket is replaced. A socket in use and any
//! other file are left alone.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, fchmod, umask};
use nix::unistd::{Gid, Uid, fchownat, getgroups};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::error::{Error, Reason};
use crate::sys::descriptors::SavedDescriptors;
use crate::sys::directory::{Entry, FileId, SavedEntry};
use crate::sys::lock::try_lock;
use crate::sys::process::{Capability, has_capability};

/// The file of a bound socket. Dropping this removes the file, unless another has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    entry: Entry,
    id: FileId,
    /// Whether the previous binary still owns the file.
    borrowed: bool,
}

/// A socket file as it is saved for the next binary.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedFile {
    entry: SavedEntry,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Saves the file for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedFile, Errno> {
        let (device, inode) = self.id.numbers();
        Ok(SavedFile {
            entry: self.entry.save(to)?,
            device,
            inode,
        })
    }

    /// Restores a file of the previous binary. Until [`Self::own`], dropping this doesn't
    /// remove the file.
    pub fn restore(saved: SavedFile) -> Result<Self, Errno> {
        Ok(Self {
            entry: Entry::restore(saved.entry)?,
            id: FileId::of_socket(saved.device, saved.inode),
            borrowed: true,
        })
    }

    /// Takes ownership of the file.
    pub fn own(&mut self) {
        self.borrowed = false;
    }

    /// Changes the owner of the file, unless another file has replaced it.
    fn change_owner(&self, uid: Uid, gid: Option<Gid>) -> Result<(), Errno> {
        let file = self.entry.open(OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)?;
        if FileId::of_open(&file)? != self.id {
            return Err(Errno::ESTALE);
        }
        fchownat(&file, "", Some(uid), gid, AtFlags::AT_EMPTY_PATH)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The socket is still open, so its inode number isn't reused. After a drop of privileges
        // this may fail. Then the file is stale, and the next start replaces it.
        if !self.borrowed {
            let _ = self.entry.remove(self.id);
        }
    }
}

/// How long to wait for another start in the same directory.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Binds `socket` to `path`, with this mode and owner if they are set.
pub(super) fn bind(
    option: &str,
    socket: &Socket,
    path: &Path,
    mode: Option<u32>,
    owner: Option<(Uid, Option<Gid>)>,
) -> Result<SocketFile, Error> {
    let failed = |reason: &dyn Reason| cannot_bind(option, reason);
    let entry = entry(option, path)?;
    let lock = lock(option, path)?;
    match found(option, path, &entry)? {
        Found::Nothing => {}
        Found::Stale => match entry.unlink() {
            // A daemon that just ended has removed it.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed(&errno)),
        },
        Found::Live => {
            return Err(Error::Start(format!(
                "{option}: another program has a socket there; stop it first, or choose another \
                 path"
            )));
        }
    }

    bind_with_mode(socket, path, mode).map_err(|reason| failed(&reason))?;
    let id = match entry.id() {
        Ok(id) => id,
        Err(errno) => {
            let _ = entry.unlink();
            return Err(failed(&errno));
        }
    };
    let file = SocketFile {
        entry,
        id,
        borrowed: false,
    };
    if let Some((uid, gid)) = owner {
        file.change_owner(uid, gid)
            .map_err(|errno| cannot_change_owner(option, errno))?;
    }
    drop(lock);
    Ok(file)
}

/// Returns the error of [`bind`], as far as it can be predicted without binding. A socket in use
/// is no error but a note: the daemon may be running while its next command line is checked.
pub(super) fn check(
    option: &str,
    path: &Path,
    owner: Option<(Uid, Option<Gid>)>,
) -> Result<Option<String>, Error> {
    let entry = entry(option, path)?;
    drop(open_directory(option, path)?);
    let found = found(option, path, &entry)?;
    let allowed = match found {
        Found::Stale => entry.may_remove(),
        Found::Nothing | Found::Live => entry.may_create(),
    };
    allowed.map_err(|errno| cannot_bind(option, &errno))?;
    if owner.is_some_and(|owner| !may_change_owner(owner)) {
        return Err(cannot_change_owner(option, Errno::EPERM));
    }
    Ok(match found {
        Found::Live => Some(format!("{option}: a program has a socket there")),
        _ => None,
    })
}

/// Whether this process may change the owner of its files to this user and group (chown(2)).
fn may_change_owner((uid, gid): (Uid, Option<Gid>)) -> bool {
    let mine = |gid| gid == Gid::effective() || getgroups().is_ok_and(|all| all.contains(&gid));
    has_capability(Capability::ChangeOwner) || uid == Uid::effective() && gid.is_none_or(mine)
}

fn cannot_bind(option: &str, reason: &dyn Reason) -> Error {
    Error::Start(format!("{option}: can't bind: {}", reason.reason()))
}

fn cannot_change_owner(option: &str, errno: Errno) -> Error {
    Error::start(
        format!("{option}: can't change the owner of the socket"),
        errno,
    )
}

fn entry(option: &str, path: &Path) -> Result<Entry, Error> {
    Entry::of(path).map_err(|errno| {
        let what = format!("{option}: can't open the directory");
        Error::start(what, errno)
    })
}

/// What is at the path of a socket to be bound.
enum Found {
    Nothing,
    /// A socket that no process has open.
    Stale,
    /// A socket in use.
    Live,
}

fn found(option: &str, path: &Path, entry: &Entry) -> Result<Found, Error> {
    match entry.id() {
        Err(Errno::ENOENT) => Ok(Found::Nothing),
        Err(errno) => Err(cannot_bind(option, &errno)),
        Ok(found) if !found.is_socket() => Err(Error::Start(format!(
            "{option}: the file exists and isn't a socket; skd leaves it alone, so remove it or choose another path"
        ))),
        Ok(_) => match usage(path).map_err(|reason| cannot_bind(option, &reason))? {
            Usage::Unused => Ok(Found::Stale),
            Usage::Used => Ok(Found::Live),
            Usage::Unknown(errno) => Err(Error::Start(format!(
                "{option}: there is a socket, and skd can't find out whether a program uses it: \
                 {}; it is left alone",
                errno.desc()
            ))),
        },
    }
}

/// Locks the directory, so that of two concurrent starts only one replaces a stale socket. Closing
/// the file unlocks it.
fn lock(option: &str, path: &Path) -> Result<File, Error> {
    let (path, directory) = open_directory(option, path)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match try_lock(&directory) {
            Ok(true) => return Ok(directory),
            Ok(false) if Instant::now() >= deadline => {
                return Err(Error::Start(format!(
                    "{option}: the directory {} has been locked by another program for {} s; \
                     find it with lsof, or use another directory",
                    path.display(),
                    LOCK_TIMEOUT.as_secs()
                )));
            }
            Ok(false) => std::thread::sleep(Duration::from_millis(10)),
            Err(errno) => {
                let what = format!("{option}: can't lock the directory {}", path.display());
                return Err(Error::start(what, errno));
            }
        }
    }
}

/// Opens the directory of a path, to lock it.
fn open_directory<'a>(option: &str, path: &'a Path) -> Result<(&'a Path, File), Error> {
    let path = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(path).map_err(|reason| {
        let what = format!("{option}: can't open the directory {}", path.display());
        Error::start(what, reason)
    })?;
    Ok((path, directory))
}

/// Whether a process has a socket open.
enum Usage {
    Unused,
    Used,
    /// The kernel doesn't say.
    Unknown(Errno),
}

/// Finds out whether a process has the socket at `path` open.
///
/// This connects a datagram socket to it, which has no effect there: a stream or seqpacket socket
/// is of another type, and a datagram socket doesn't notice. A connection of the same type would
/// run a handler. It also couldn't distinguish a stale socket from a socket with a full backlog or
/// doesn't listen yet.
fn usage(path: &Path) -> io::Result<Usage> {
    let probe = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)?;
    let Err(reason) = probe.connect(&SockAddr::unix(path)?) else {
        return Ok(Usage::Used);
    };
    Ok(match reason.raw_os_error().map(Errno::from_raw) {
        // It is stale, or was removed a moment ago.
        Some(Errno::ECONNREFUSED | Errno::ENOENT) => Usage::Unused,
        // It is of another type, or connected to another socket.
        Some(Errno::EPROTOTYPE | Errno::EPERM) => Usage::Used,
        errno => Usage::Unknown(errno.unwrap_or(Errno::EIO)),
    })
}

/// Binds so that the file has its mode from the beginning: the kernel takes the socket's mode, less
/// the umask.
fn bind_with_mode(socket: &Socket, path: &Path, mode: Option<u32>) -> io::Result<()> {
    let address = SockAddr::unix(path)?;
    let Some(mode) = mode else {
        return socket.bind(&address);
    };
    fchmod(socket, Mode::from_bits_truncate(mode))?;
    let before = umask(Mode::empty());
    let result = socket.bind(&address);
    umask(before);
    result
}
