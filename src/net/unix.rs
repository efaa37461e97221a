//! Binding a unix-domain socket to a path without harming anybody: a stale socket is
//! replaced, a live one and everything else is left alone.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, fstatat, umask};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::error::{Error, Reason};

/// The file of a bound socket. Dropping it removes the file, if it is still the one that
/// was made.
#[derive(Debug)]
pub struct SocketFile {
    /// Open from the start, so that the file can be removed after chroot(2).
    directory: File,
    name: OsString,
    identity: (u64, u64),
}

impl SocketFile {
    fn stat(directory: impl AsFd, name: &OsString) -> Result<FileStat, Errno> {
        fstatat(directory, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Changes the owner: of the file that was made, whatever its name may stand for by now.
    fn give(&self, uid: Uid, gid: Option<Gid>) -> Result<(), Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, self.name.as_os_str(), flags, Mode::empty())?;
        let found = fstat(&file)?;
        if (found.st_dev, found.st_ino) != self.identity {
            return Err(Errno::ESTALE);
        }
        fchownat(&file, "", Some(uid), gid, AtFlags::AT_EMPTY_PATH)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // The socket is still open, so its inode number can't be another's.
        let unchanged = Self::stat(&self.directory, &self.name)
            .is_ok_and(|now| (now.st_dev, now.st_ino) == self.identity);
        if unchanged {
            // After a drop of privileges this may not be allowed; then the socket is stale
            // to the next start.
            let flags = UnlinkatFlags::NoRemoveDir;
            let _ = unlinkat(&self.directory, self.name.as_os_str(), flags);
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
    let failed = |reason: &dyn Reason| {
        Error::Start(format!("{option}: can't be bound: {}", reason.reason()))
    };
    let (directory_path, name) = split(path);
    let directory = File::open(&directory_path).map_err(|reason| {
        let what = format!("{option}: the directory {}", directory_path.display());
        Error::start(format!("{what} can't be opened"), reason)
    })?;
    lock(option, &directory_path, &directory)?;

    match SocketFile::stat(&directory, &name) {
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(failed(&errno)),
        Ok(found) if !is_socket(&found) => {
            return Err(Error::Start(format!(
                "{option}: the path exists and isn't a socket; it is left alone"
            )));
        }
        Ok(_) => {
            if is_live(path).map_err(|reason| failed(&reason))? {
                return Err(Error::Start(format!(
                    "{option}: another program has a socket there; stop it first, or choose \
                     another path"
                )));
            }
            unlinkat(&directory, name.as_os_str(), UnlinkatFlags::NoRemoveDir)
                .map_err(|errno| failed(&errno))?;
        }
    }

    bind_with_mode(socket, path, mode).map_err(|reason| failed(&reason))?;
    let made = SocketFile::stat(&directory, &name).map_err(|errno| failed(&errno))?;
    let file = SocketFile {
        directory,
        name,
        identity: (made.st_dev, made.st_ino),
    };
    if let Some((uid, gid)) = owner {
        file.give(uid, gid).map_err(|errno| {
            Error::start(format!("{option}: the socket's owner can't be set"), errno)
        })?;
    }
    // Only the bind had to be alone. The directory stays open for as long as the file lives.
    let _ = file.directory.unlock();
    Ok(file)
}

fn split(path: &Path) -> (PathBuf, OsString) {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // Path::file_name would skip a final "." or "..", which are directories and must fail.
    let bytes = path.as_os_str().as_bytes();
    let start = bytes
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |at| at + 1);
    let name = std::ffi::OsStr::from_bytes(&bytes[start..]).to_owned();
    (directory, name)
}

/// Locks the directory, so that of two starts only one can find a stale socket and replace
/// it.
fn lock(option: &str, path: &Path, directory: &File) -> Result<(), Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match directory.try_lock() {
            Ok(()) => return Ok(()),
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

fn is_socket(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK
}

/// Whether anybody holds the socket at `path`.
///
/// A datagram socket is connected to it. That starts nothing there, whatever it is: to a
/// stream or seqpacket socket it is the wrong type, and a datagram socket doesn't notice.
/// (A connection of the same type would run a handler, and couldn't tell a full backlog,
/// or a socket that doesn't listen yet, from a stale one.)
fn is_live(path: &Path) -> io::Result<bool> {
    let probe = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(reason) if reason.raw_os_error() == Some(Errno::ECONNREFUSED as i32) => Ok(false),
        _ => Ok(true),
    }
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
