//! Binding a unix-domain socket to a path without harming anybody: a stale socket is
//! replaced, a live one and everything else is left alone.

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
use crate::sys::process::{Capability, has_capability};

/// The file of a bound socket. Dropping it removes the file, if it is still the one that
/// was made.
#[derive(Debug)]
pub struct SocketFile {
    entry: Entry,
    id: FileId,
    /// Whether it is another image's of this process until that has given it up.
    borrowed: bool,
}

/// The same for another image of this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedFile {
    entry: SavedEntry,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Lets the next image of this process have it.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedFile, Errno> {
        let (device, inode) = self.id.numbers();
        Ok(SavedFile {
            entry: self.entry.save(to)?,
            device,
            inode,
        })
    }

    /// What an earlier image had. Until [`Self::own`], dropping it leaves the file.
    pub fn restore(saved: SavedFile) -> Result<Self, Errno> {
        Ok(Self {
            entry: Entry::restore(saved.entry)?,
            id: FileId::of_socket(saved.device, saved.inode),
            borrowed: true,
        })
    }

    /// Takes it over for good.
    pub fn own(&mut self) {
        self.borrowed = false;
    }

    /// Changes the owner: of the file that was made, whatever its name may stand for by now.
    fn give(&self, uid: Uid, gid: Option<Gid>) -> Result<(), Errno> {
        let file = self.entry.open(OFlag::O_PATH | OFlag::O_NOFOLLOW, 0)?;
        if FileId::of_open(&file)? != self.id {
            return Err(Errno::ESTALE);
        }
        fchownat(&file, "", Some(uid), gid, AtFlags::AT_EMPTY_PATH)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The socket is still open, so its inode number can't be another's. After a drop of
        // privileges removing it may not be allowed; then it is stale to the next start.
        if !self.borrowed {
            let _ = self.entry.remove(self.id);
        }
    }
}

/// How long to wait for another start in the same directory.
const PATIENCE: Duration = Duration::from_secs(5);

/// Binds `socket` to `path`, with this mode and owner if given.
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
            // One that was just ending has removed it itself.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failed(&errno)),
        },
        Found::Live => {
            return Err(Error::Start(format!(
                "{option}: another program has a socket there; stop it first, or choose \
                 another path"
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
        file.give(uid, gid)
            .map_err(|errno| cannot_give(option, errno))?;
    }
    drop(lock);
    Ok(file)
}

/// Says what [`bind`] would fail with, as far as that shows without binding. Not for a
/// socket that a program has: it may be the very daemon that the next is to follow. That is
/// given back as a note.
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
    if owner.is_some_and(|owner| !may_give(owner)) {
        return Err(cannot_give(option, Errno::EPERM));
    }
    Ok(match found {
        Found::Live => Some(format!("{option}: a program has a socket there")),
        _ => None,
    })
}

/// Whether this process may give a file of its own to that user and group (chown(2)).
fn may_give((uid, gid): (Uid, Option<Gid>)) -> bool {
    let mine = |gid| gid == Gid::effective() || getgroups().is_ok_and(|all| all.contains(&gid));
    has_capability(Capability::ChangeOwner) || uid == Uid::effective() && gid.is_none_or(mine)
}

fn cannot_bind(option: &str, reason: &dyn Reason) -> Error {
    Error::Start(format!("{option}: can't be bound: {}", reason.reason()))
}

fn cannot_give(option: &str, errno: Errno) -> Error {
    Error::start(format!("{option}: the socket's owner can't be set"), errno)
}

fn entry(option: &str, path: &Path) -> Result<Entry, Error> {
    Entry::of(path).map_err(|errno| {
        let what = format!("{option}: the directory can't be reached");
        Error::start(what, errno)
    })
}

/// What stands at a path where a socket is to be, if a start can cope with it at all.
enum Found {
    Nothing,
    /// A socket that nobody has.
    Stale,
    /// A socket that somebody has.
    Live,
}

fn found(option: &str, path: &Path, entry: &Entry) -> Result<Found, Error> {
    match entry.id() {
        Err(Errno::ENOENT) => Ok(Found::Nothing),
        Err(errno) => Err(cannot_bind(option, &errno)),
        Ok(found) if !found.is_socket() => Err(Error::Start(format!(
            "{option}: the path exists and isn't a socket; it is left alone"
        ))),
        Ok(_) => match holder(path).map_err(|reason| cannot_bind(option, &reason))? {
            Holder::Nobody => Ok(Found::Stale),
            Holder::Somebody => Ok(Found::Live),
            Holder::Unknown(errno) => Err(Error::Start(format!(
                "{option}: there is a socket, and whether a program has it can't be found \
                 out: {}; it is left alone",
                errno.desc()
            ))),
        },
    }
}

/// Locks the directory, so that of two starts only one can find a stale socket and replace
/// it. Closing what is returned unlocks it.
fn lock(option: &str, path: &Path) -> Result<File, Error> {
    let (path, directory) = open_directory(option, path)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(directory),
            Err(std::fs::TryLockError::Error(reason)) => {
                let what = format!("{option}: the directory {} can't be locked", path.display());
                return Err(Error::start(what, reason));
            }
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(Error::Start(format!(
                    "{option}: the directory {} has been locked by another program for {} s; \
                     find it with lsof, or use another directory",
                    path.display(),
                    PATIENCE.as_secs()
                )));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Opens the directory of a path, as it has to be for a lock.
fn open_directory<'a>(option: &str, path: &'a Path) -> Result<(&'a Path, File), Error> {
    let path = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let directory = File::open(path).map_err(|reason| {
        let what = format!("{option}: the directory {} can't be opened", path.display());
        Error::start(what, reason)
    })?;
    Ok((path, directory))
}

/// Who has the socket of a path.
enum Holder {
    Nobody,
    Somebody,
    /// The kernel doesn't say.
    Unknown(Errno),
}

/// Finds out whether anybody holds the socket at `path`.
///
/// A datagram socket is connected to it. That starts nothing there, whatever it is: to a
/// stream or seqpacket socket it is the wrong type, and a datagram socket doesn't notice.
/// (A connection of the same type would run a handler, and couldn't tell a full backlog,
/// or a socket that doesn't listen yet, from a stale one.)
fn holder(path: &Path) -> io::Result<Holder> {
    let probe = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)?;
    let Err(reason) = probe.connect(&SockAddr::unix(path)?) else {
        return Ok(Holder::Somebody);
    };
    Ok(match reason.raw_os_error().map(Errno::from_raw) {
        // It is stale, or it is gone since it was looked at.
        Some(Errno::ECONNREFUSED | Errno::ENOENT) => Holder::Nobody,
        // Of another type; or connected to somebody else.
        Some(Errno::EPROTOTYPE | Errno::EPERM) => Holder::Somebody,
        errno => Holder::Unknown(errno.unwrap_or(Errno::EIO)),
    })
}

/// Binds so that the file has its mode from the first moment: the kernel takes it from the
/// socket, less the umask.
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
