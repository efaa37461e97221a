//! A file by its directory, which stays open. So the file can be examined, opened again and removed
//! after chroot(2), and after the directory was renamed.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{AccessFlags, Uid, UnlinkatFlags, faccessat, unlinkat};
use serde::{Deserialize, Serialize};

use super::descriptors::{self, SavedDescriptors};
use super::process::{Capability, has_capability};

/// A name in a directory.
#[derive(Debug)]
pub struct Entry {
    directory: OwnedFd,
    name: OsString,
}

/// An [`Entry`] saved for an upgrade: the directory's descriptor and the name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedEntry {
    directory: i32,
    name: OsString,
}

/// How often to try while another process makes and removes the same file.
const TRIES: u32 = 100;

impl Entry {
    /// Opens the directory of `path`, only to reach names in it.
    pub fn of(path: &Path) -> Result<Self, Errno> {
        let (parent, name) = split(path)?;
        Ok(Self {
            directory: open_directory(parent)?,
            name: name.to_owned(),
        })
    }

    /// Saves it for an upgrade.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedEntry, Errno> {
        Ok(SavedEntry {
            directory: to.pass(&self.directory)?,
            name: self.name.clone(),
        })
    }

    /// Restores it after an upgrade.
    pub fn restore(saved: SavedEntry) -> Result<Self, Errno> {
        Ok(Self {
            directory: descriptors::claim(saved.directory)?,
            name: saved.name,
        })
    }

    /// Opens the file, close-on-exec, never as a controlling terminal (openat(2)).
    pub fn open(&self, flags: OFlag, mode: u32) -> Result<File, Errno> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let mode = Mode::from_bits_truncate(mode);
        openat(&self.directory, self.name.as_os_str(), flags, mode).map(File::from)
    }

    /// Opens the file or makes it, and returns whether it was made.
    pub fn open_or_create(&self, flags: OFlag, mode: u32) -> Result<(File, bool), Errno> {
        for _ in 0..TRIES {
            match self.open(flags, mode) {
                Err(Errno::ENOENT) => {}
                found => return found.map(|file| (file, false)),
            }
            match self.open(flags | OFlag::O_CREAT | OFlag::O_EXCL, mode) {
                // Made by another process in between; or a dangling symbolic link, which only
                // O_CREAT without O_EXCL follows.
                Err(Errno::EEXIST) => match self.open(flags | OFlag::O_CREAT, mode) {
                    Err(Errno::ENOENT) => {}
                    found => return found.map(|file| (file, false)),
                },
                made => return made.map(|file| (file, true)),
            }
        }
        Err(Errno::ENOENT)
    }

    /// The file that the name refers to, symbolic links not followed.
    pub fn id(&self) -> Result<FileId, Errno> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        Ok(FileId::of(&fstatat(
            &self.directory,
            self.name.as_os_str(),
            flags,
        )?))
    }

    /// The file that the name refers to, symbolic links followed.
    pub fn target(&self) -> Result<FileId, Errno> {
        let name = self.name.as_os_str();
        Ok(FileId::of(&fstatat(
            &self.directory,
            name,
            AtFlags::empty(),
        )?))
    }

    /// Whether this process may open the file, with its effective ids (faccessat(2)). Opens
    /// nothing.
    pub fn may_open(&self, access: AccessFlags) -> Result<(), Errno> {
        let name = self.name.as_os_str();
        faccessat(&self.directory, name, access, AtFlags::AT_EACCESS)
    }

    /// Whether this process may remove the name (unlink(2)): it may make one, and a sticky
    /// directory doesn't forbid it.
    pub fn may_remove(&self) -> Result<(), Errno> {
        self.may_create()?;
        let directory = fstat(&self.directory)?;
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let file = fstatat(&self.directory, self.name.as_os_str(), flags)?;
        let me = Uid::effective().as_raw();
        let sticky = directory.st_mode & libc::S_ISVTX != 0;
        let owns = directory.st_uid == me || file.st_uid == me;
        if sticky && !owns && !has_capability(Capability::Owner) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Whether this process may make files in the directory. Makes none.
    pub fn may_create(&self) -> Result<(), Errno> {
        let access = AccessFlags::W_OK | AccessFlags::X_OK;
        faccessat(&self.directory, ".", access, AtFlags::AT_EACCESS)
    }

    /// Removes the name, if it refers to this file. On success it doesn't any more.
    pub fn remove(&self, file: FileId) -> Result<(), Errno> {
        match self.id() {
            Ok(id) if id == file => self.unlink(),
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Removes the name, whichever file it refers to (unlinkat(2)).
    pub fn unlink(&self) -> Result<(), Errno> {
        unlinkat(
            &self.directory,
            self.name.as_os_str(),
            UnlinkatFlags::NoRemoveDir,
        )
    }
}

/// The directory of a file, and its name there.
fn split(path: &Path) -> Result<(&Path, &OsStr), Errno> {
    let bytes = path.as_os_str().as_bytes();
    let (parent, name) = match bytes.iter().rposition(|&byte| byte == b'/') {
        None => (b".".as_slice(), bytes),
        Some(0) => (b"/".as_slice(), &bytes[1..]),
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
    };
    if matches!(name, b"" | b"." | b"..") {
        return Err(Errno::EISDIR);
    }
    Ok((
        Path::new(OsStr::from_bytes(parent)),
        OsStr::from_bytes(name),
    ))
}

fn open_directory(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty())
}

/// A directory in which paths begin.
#[derive(Debug)]
pub struct Directory(OwnedFd);

/// A [`Directory`] saved for an upgrade: its descriptor.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedDirectory(i32);

impl Directory {
    /// Opens it, only to reach what is in it.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        open_directory(path).map(Self)
    }

    /// Opens the directory of a file.
    pub fn of(path: &Path) -> Result<Self, Errno> {
        let (parent, _) = split(path)?;
        Self::open(parent)
    }

    /// Saves it for an upgrade.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedDirectory, Errno> {
        to.pass(&self.0).map(SavedDirectory)
    }

    /// Restores it after an upgrade.
    pub fn restore(SavedDirectory(number): SavedDirectory) -> Result<Self, Errno> {
        descriptors::claim(number).map(Self)
    }

    /// Opens a regular file for reading, by a path that begins here. Never waits.
    pub fn open_file(&self, path: &Path) -> Result<File, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let file = openat(&self.0, path, flags, Mode::empty())?;
        let id = FileId::of_open(&file)?;
        match id.is_file() {
            true => Ok(file.into()),
            false if id.is_directory() => Err(Errno::EISDIR),
            // A pipe or a device can't be read twice.
            false => Err(Errno::ESPIPE),
        }
    }
}

/// The identity of a file, as long as it is open: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    device: u64,
    inode: u64,
    kind: SFlag,
}

impl FileId {
    fn of(stat: &FileStat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            kind: SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT,
        }
    }

    /// The identity of a socket, as it was saved for an upgrade.
    pub fn of_socket(device: u64, inode: u64) -> Self {
        Self {
            device,
            inode,
            kind: SFlag::S_IFSOCK,
        }
    }

    /// Device and inode.
    pub fn numbers(self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// The identity of an open file.
    pub fn of_open(file: impl AsFd) -> Result<Self, Errno> {
        Ok(Self::of(&fstat(file)?))
    }

    /// Whether it is a socket.
    pub fn is_socket(self) -> bool {
        self.kind == SFlag::S_IFSOCK
    }

    /// Whether it is a regular file.
    pub fn is_file(self) -> bool {
        self.kind == SFlag::S_IFREG
    }

    /// Whether it is a directory.
    pub fn is_directory(self) -> bool {
        self.kind == SFlag::S_IFDIR
    }

    /// Whether it is locked as a whole (flock(2)), according to /proc/locks.
    pub fn is_locked(self) -> bool {
        let (major, minor) = (
            nix::sys::stat::major(self.device),
            nix::sys::stat::minor(self.device),
        );
        let file = format!("{major:02x}:{minor:02x}:{}", self.inode);
        let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
        locks.lines().any(|line| {
            let mut words = line.split_ascii_whitespace();
            words.any(|word| word == "FLOCK") && words.any(|word| word == file)
        })
    }
}
