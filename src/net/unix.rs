//! Binding a unix-domain socket to a path. A stale socket is replaced. A socket in use and any
//! other file are left alone.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{FchmodatFlags, Mode, fchmod, fchmodat, umask};
use nix::unistd::{Gid, Uid, fchownat, getgroups};
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::error::{At, Error, Reason};
use crate::sys::capabilities::{Capability, has_capability};
use crate::sys::descriptors::SavedDescriptors;
use crate::sys::diagnosis::Diagnosis;
use crate::sys::directory::{Entry, FileId, SavedEntry};
use crate::sys::lock::{self, LockFile};
use crate::sys::sockets::bound_file;
use crate::sys::trusted::Refusal;

/// The file of a bound socket. Dropping this removes the file, unless another has replaced it.
#[derive(Debug)]
pub struct SocketFile {
    /// The path that the socket is bound to.
    path: OsString,
    entry: Entry,
    id: FileId,
    /// Whether the previous binary still owns the file.
    borrowed: bool,
}

/// A socket file as it is saved for the next binary.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedFile {
    /// The path that the socket is bound to, unless an older skd has saved it.
    #[serde(default)]
    path: Option<OsString>,
    entry: SavedEntry,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Saves the file for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedFile, Errno> {
        let (device, inode) = self.id.numbers();
        Ok(SavedFile {
            path: Some(self.path.clone()),
            entry: self.entry.save(to)?,
            device,
            inode,
        })
    }

    /// Restores a file of the previous binary. Until [`Self::own`], dropping this doesn't
    /// remove the file.
    pub fn restore(saved: SavedFile) -> Result<Self, Errno> {
        Ok(Self {
            path: saved.path.unwrap_or_default(),
            entry: Entry::restore(saved.entry)?,
            id: FileId::of_socket(saved.device, saved.inode),
            borrowed: true,
        })
    }

    /// Takes ownership of the file.
    pub fn own(&mut self) {
        self.borrowed = false;
    }

    /// Returns the error of a change of its owner and mode, as far as it can be predicted.
    pub(super) fn check_change(
        &self,
        option: &str,
        owner: Option<(Uid, Option<Gid>)>,
    ) -> Result<(), Error> {
        match owner.is_some_and(|owner| !may_change_owner(owner)) {
            true => Err(cannot_change_owner(option, Errno::EPERM)),
            false => Ok(()),
        }
    }

    /// Changes the owner of the file, if it is still the socket's.
    pub(super) fn change_owner(&self, (uid, gid): (Uid, Option<Gid>)) -> Result<(), Errno> {
        let file = self.entry.named()?;
        if FileId::of_open(&file)? != self.id {
            return Err(Errno::ESTALE);
        }
        fchownat(&file, "", Some(uid), gid, AtFlags::AT_EMPTY_PATH)
    }

    /// Changes the mode of the file, if it is still the socket's. Without one, it is what the umask
    /// leaves of 0777.
    pub(super) fn change_mode(&self, mode: Option<u32>) -> Result<(), Errno> {
        let file = self.entry.named()?;
        if FileId::of_open(&file)? != self.id {
            return Err(Errno::ESTALE);
        }
        let mode = mode.map_or_else(
            || {
                let mask = umask(Mode::empty());
                umask(mask);
                Mode::from_bits_truncate(0o777) & !mask
            },
            Mode::from_bits_truncate,
        );
        // fchmod(2) takes no descriptor that only names a file, and fchmodat(2) no empty path.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        fchmodat(AT_FDCWD, link.as_str(), mode, FchmodatFlags::FollowSymlink)
    }
}

impl SavedFile {
    /// Returns the path that the socket is bound to, if it is known.
    pub(super) fn path(&self) -> Option<&OsStr> {
        self.path.as_deref()
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

/// How long a start waits for another at the same path.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often to try while other processes make and remove sockets at the same path.
const TRIES: u32 = 100;

/// Binds `socket` to `path`, with this mode and owner if they are set. Waits for another start at the
/// same path for so long.
pub(super) fn bind(
    option: &str,
    socket: &Socket,
    path: &Path,
    mode: Option<u32>,
    owner: Option<(Uid, Option<Gid>)>,
    lock_timeout: Duration,
) -> Result<SocketFile, Error> {
    let failed = |reason: &dyn Reason| cannot_bind(option, reason);
    let entry = entry(option, path)?;
    // Only one start at a time replaces a socket. Where there is none, bind(2) succeeds only once.
    let mut lock = None;
    for _ in 0..TRIES {
        match bind_with_mode(socket, path, mode) {
            Ok(()) => {
                let (file, id) = bound(option, socket, &entry).inspect_err(|_| {
                    // Elsewhere the name may be another file's by now.
                    if entry.is_trusted() == Ok(true) {
                        let _ = entry.unlink();
                    }
                })?;
                // Removes the file if the rest fails.
                let bound = SocketFile {
                    path: path.into(),
                    entry,
                    id,
                    borrowed: false,
                };
                if let Some((uid, gid)) = owner {
                    fchownat(&file, "", Some(uid), gid, AtFlags::AT_EMPTY_PATH)
                        .map_err(|errno| cannot_change_owner(option, errno))?;
                }
                return Ok(bound);
            }
            Err(reason) if reason.kind() == io::ErrorKind::AddrInUse => {}
            Err(reason) => return Err(failed(&At(reason, path))),
        }
        match found(option, path, &entry)? {
            // A daemon that just ended has removed it.
            Found::Nothing => {}
            Found::Live => {
                return Err(Error::Start(format!(
                    "{option}: another program has a socket there; stop it first, or choose \
                     another path"
                )));
            }
            // Looked at once more under the lock.
            Found::Stale(_) if lock.is_none() => {
                lock = Some(take_lock(option, path, &entry, lock_timeout)?)
            }
            Found::Stale(id) => match entry.take_away(id) {
                Ok(_) | Err(Errno::ENOENT | Errno::EEXIST) => {}
                Err(errno) => return Err(cannot_replace(option, errno)),
            },
        }
    }
    Err(Error::Start(format!(
        "{option}: other programs make and remove sockets there again and again"
    )))
}

/// Finds the file that a socket is bound to, and its identity.
///
/// Where only trusted users write, that is the file with its name. Elsewhere another file can have the
/// name by now, or the path has led elsewhere, and only the kernel knows.
fn bound(option: &str, socket: &Socket, entry: &Entry) -> Result<(OwnedFd, FileId), Error> {
    let failed = |errno: Errno| cannot_bind(option, &errno);
    let swapped = || {
        Error::Start(format!(
            "{option}: another user moves files or directories of that path while skd binds; use \
             a directory where only root or skd's user can write"
        ))
    };
    let file = match entry.named() {
        Err(Errno::ENOENT) => return Err(swapped()),
        file => file.map_err(failed)?,
    };
    let id = FileId::of_open(&file).map_err(failed)?;
    let is_same = match entry.is_trusted() {
        Ok(true) => true,
        _ => match bound_file(socket) {
            Ok(bound) => FileId::of_open(&bound).map_err(failed)? == id,
            // It takes a capability.
            Err(_) => Diagnosis::new()
                .and_then(|mut kernel| kernel.is_unix_file(socket, id.numbers()))
                .map_err(|errno| {
                    Error::start(
                        format!(
                            "{option}: other users can write to the directory, and the kernel \
                             doesn't say which file the socket has; use another directory"
                        ),
                        errno,
                    )
                })?,
        },
    };
    match is_same && id.is_socket() {
        true => Ok((file, id)),
        false => Err(swapped()),
    }
}

/// Returns the error of [`bind`], as far as it can be predicted without binding. A socket in use
/// is no error but a note: the daemon may be running while its next command line is checked.
pub(super) fn check(
    option: &str,
    path: &Path,
    owner: Option<(Uid, Option<Gid>)>,
) -> Result<Option<String>, Error> {
    let entry = entry(option, path)?;
    let found = found(option, path, &entry)?;
    match found {
        Found::Stale(_) => {
            entry
                .may_remove()
                .map_err(|errno| cannot_replace(option, errno))?;
            LockFile::check(&entry).map_err(|why| cannot_lock(option, path, why))?;
        }
        Found::Nothing | Found::Live => entry
            .may_create()
            .map_err(|errno| cannot_bind(option, &At(errno, path)))?,
    }
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

fn cannot_replace(option: &str, errno: Errno) -> Error {
    let what = format!("{option}: there is a stale socket that can't be removed");
    Error::start(what, errno)
}

fn cannot_lock(option: &str, path: &Path, why: Refusal) -> Error {
    let path = path.display();
    let what = format!(
        "{option}: the lock file {path}{} can't be used",
        lock::SUFFIX
    );
    Error::start(what, io::Error::from(why))
}

pub(super) fn cannot_change_owner(option: &str, errno: Errno) -> Error {
    Error::start(
        format!("{option}: can't change the owner of the socket"),
        errno,
    )
}

fn entry(option: &str, path: &Path) -> Result<Entry, Error> {
    Entry::of(path).map_err(|why| {
        let what = format!("{option}: can't open the directory");
        Error::start(what, At(io::Error::from(why), path))
    })
}

/// What is at the path of a socket to be bound.
enum Found {
    Nothing,
    /// A socket that no process has open.
    Stale(FileId),
    /// A socket in use.
    Live,
}

fn found(option: &str, path: &Path, entry: &Entry) -> Result<Found, Error> {
    let failed = |errno: Errno| cannot_bind(option, &errno);
    let file = match entry.named() {
        Err(Errno::ENOENT) => return Ok(Found::Nothing),
        file => file.map_err(failed)?,
    };
    let id = FileId::of_open(&file).map_err(failed)?;
    if !id.is_socket() {
        return Err(Error::Start(format!(
            "{option}: the file exists and isn't a socket; skd leaves it alone, so remove it or choose another path"
        )));
    }
    // This socket, whatever is at the path by now. Without /proc only the path is left.
    let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let path = if link.exists() { &link } else { path };
    match usage(path).map_err(|reason| cannot_bind(option, &reason))? {
        Usage::Unused => Ok(Found::Stale(id)),
        Usage::Used => Ok(Found::Live),
        Usage::Unknown(errno) => Err(Error::Start(format!(
            "{option}: there is a socket, and skd can't find out whether a program uses it: \
             {}; it is left alone",
            errno.desc()
        ))),
    }
}

/// Waits for the lock beside the path, so that of two concurrent starts only one replaces a stale
/// socket.
fn take_lock(
    option: &str,
    path: &Path,
    entry: &Entry,
    timeout: Duration,
) -> Result<LockFile, Error> {
    let deadline = Instant::now() + timeout;
    loop {
        match LockFile::take(entry) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if Instant::now() >= deadline => {
                let since = match timeout.as_secs() {
                    0 => "is locked by another program".into(),
                    seconds => format!("has been locked by another program for {seconds} s"),
                };
                return Err(Error::Start(format!(
                    "{option}: {}{} {since}; find it with lsof, or use another directory",
                    path.display(),
                    lock::SUFFIX,
                )));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Err(why) => return Err(cannot_lock(option, path, why)),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn a_locked_stale_socket_is_waited_for_no_longer_than_asked() {
        let directory = std::env::temp_dir().join(format!("skd-lock-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("socket");
        // Stale, since it is closed at once.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let lock = LockFile::take(&Entry::of(&path).unwrap()).unwrap();
        let socket = || Socket::new(Domain::UNIX, Type::STREAM.cloexec(), None).unwrap();
        let bound = bind("-l", &socket(), &path, None, None, Duration::ZERO);
        let why = bound.unwrap_err().to_string();
        assert!(why.contains("is locked by another program; find"), "{why}");
        drop(lock);
        bind("-l", &socket(), &path, None, None, Duration::ZERO).unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
