//! A file by its directory, which stays open. So the file can be examined, opened again and removed
//! after chroot(2), and after the directory was renamed.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::unistd::{AccessFlags, Uid, UnlinkatFlags, faccessat, unlinkat};
use serde::{Deserialize, Serialize};

use super::capabilities::{Capability, has_capability};
use super::descriptors::{self, SavedDescriptors};
use super::trusted::{Base, Chosen, Control, Purpose, Refusal, split};

/// A name in a directory.
#[derive(Debug)]
pub struct Entry {
    directory: Directory,
    name: OsString,
}

/// An [`Entry`] saved for an upgrade: the directory and the name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedEntry {
    directory: SavedDirectory,
    name: OsString,
}

impl Entry {
    /// Opens the directory of `path`, only to reach names in it.
    pub fn of(path: &Path) -> Result<Self, Refusal> {
        let (parent, name) = split(path.as_os_str().as_bytes())?;
        Ok(Self {
            directory: Directory::open(Path::new(OsStr::from_bytes(parent)))?,
            name: OsStr::from_bytes(name).to_owned(),
        })
    }

    /// The name with a suffix, in the same directory.
    pub fn with_suffix(&self, suffix: &str) -> Result<Self, Errno> {
        let mut name = self.name.clone();
        name.push(suffix);
        let directory = Directory(self.directory.0.copy()?);
        Ok(Self { directory, name })
    }

    /// Saves it for an upgrade.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedEntry, Errno> {
        Ok(SavedEntry {
            directory: self.directory.save(to)?,
            name: self.name.clone(),
        })
    }

    /// Restores it after an upgrade.
    pub fn restore(saved: SavedEntry) -> Result<Self, Errno> {
        Ok(Self {
            directory: Directory::restore(saved.directory)?,
            name: saved.name,
        })
    }

    /// Opens the file, or makes it, as the purpose says. Returns whether it was made. See
    /// [`Base::open_file`].
    pub fn open(&self, purpose: &Purpose) -> Result<(File, bool), Refusal> {
        let (file, made) = self.directory.0.open_file(Path::new(&self.name), purpose)?;
        Ok((file.into(), made))
    }

    /// Returns the error of [`Self::open`], as far as it can be predicted without opening or making
    /// the file.
    pub fn check(&self, purpose: &Purpose) -> Result<(), Refusal> {
        self.directory.0.check_file(Path::new(&self.name), purpose)
    }

    /// Opens the file only to name it (`O_PATH`), symbolic links not followed.
    pub fn named(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        openat(self, self.name.as_os_str(), flags, Mode::empty())
    }

    /// The file that the name refers to, symbolic links not followed.
    pub fn id(&self) -> Result<FileId, Errno> {
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        Ok(FileId::of(&fstatat(self, self.name.as_os_str(), flags)?))
    }

    /// Whether this process may remove the name (unlink(2)): it may make one, and a sticky
    /// directory doesn't forbid it.
    pub fn may_remove(&self) -> Result<(), Errno> {
        self.may_create()?;
        let directory = fstat(self)?;
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        let file = fstatat(self, self.name.as_os_str(), flags)?;
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
        faccessat(self, ".", access, AtFlags::AT_EACCESS)
    }

    /// Removes the name, if it refers to this file. On success it doesn't any more.
    pub fn remove(&self, file: FileId) -> Result<(), Errno> {
        match self.id() {
            Ok(id) if id == file => self.unlink(),
            Ok(_) | Err(Errno::ENOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Removes the name, if it refers to this file, even if other processes make and rename files at
    /// the same time. Returns whether it did.
    ///
    /// unlinkat(2) can't ask for a file, so the file is renamed first, and looked at where no other
    /// process looks for it. Another file gets its name back, unless that is taken again.
    pub fn take_away(&self, file: FileId) -> Result<bool, Errno> {
        if self.id()? != file {
            return Ok(false);
        }
        let mut aside = OsString::from(".");
        aside.push(&self.name);
        let random = RandomState::new().build_hasher().finish();
        aside.push(format!(".{random:016x}"));
        let aside = Self {
            directory: Directory(self.directory.0.copy()?),
            name: aside,
        };
        match self.rename(&aside) {
            Ok(()) => {}
            // This file system can't rename without replacing.
            Err(Errno::EINVAL | Errno::ENOSYS) => return self.unlink().map(|()| true),
            Err(errno) => return Err(errno),
        }
        if aside.id()? == file {
            return aside.unlink().map(|()| true);
        }
        aside.rename(self)?;
        Ok(false)
    }

    /// Gives a file another name in the same directory, unless a file has that (renameat2(2)).
    fn rename(&self, to: &Self) -> Result<(), Errno> {
        let name = |name: &OsStr| CString::new(name.as_bytes()).map_err(|_| Errno::EINVAL);
        let (from, new) = (name(&self.name)?, name(&to.name)?);
        // SAFETY: both names end with a NUL byte, and both directories are open.
        let result = unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                self.as_fd().as_raw_fd(),
                from.as_ptr(),
                to.as_fd().as_raw_fd(),
                new.as_ptr(),
                libc::RENAME_NOREPLACE,
            )
        };
        Errno::result(result).map(drop)
    }

    /// Whether only trusted users choose which file has the name.
    pub fn is_trusted(&self) -> Result<bool, Errno> {
        let stat = fstatat(self, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        self.directory.0.is_entry_trusted(&stat)
    }

    /// Removes the name, whichever file it refers to (unlinkat(2)).
    pub fn unlink(&self) -> Result<(), Errno> {
        unlinkat(self, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)
    }
}

impl AsFd for Entry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.0.as_fd()
    }
}

/// A directory in which paths begin.
#[derive(Debug)]
pub struct Directory(Base);

/// A [`Directory`] saved for an upgrade: its descriptor, and how it was chosen.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedDirectory(i32, Chosen);

impl Directory {
    /// Opens it, only to reach what is in it.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        Base::open(path).map(Self)
    }

    /// Opens the directory of a file.
    pub fn of(path: &Path) -> Result<Self, Refusal> {
        let (parent, _) = split(path.as_os_str().as_bytes())?;
        Self::open(Path::new(OsStr::from_bytes(parent)))
    }

    /// Saves it for an upgrade.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedDirectory, Errno> {
        let number = to.pass(&self.0)?;
        Ok(SavedDirectory(number, self.0.chosen()))
    }

    /// Restores it after an upgrade.
    pub fn restore(saved: SavedDirectory) -> Result<Self, Errno> {
        let SavedDirectory(number, chosen) = saved;
        Ok(Self(Base::of(descriptors::claim(number)?, chosen)))
    }

    /// The same directory for paths that are written in a file with these writers. Other users can't
    /// have files opened that they can't read.
    pub fn for_paths_by(&self, writers: Control) -> Result<Self, Errno> {
        self.0.for_paths_by(writers).map(Self)
    }

    /// Opens a regular file for reading, by a path that begins here. Never waits.
    pub fn open_file(&self, path: &Path) -> Result<File, Refusal> {
        let (file, _) = self.0.open_file(path, &Purpose::RULES)?;
        Ok(file.into())
    }

    /// Opens a file that secrets are appended to, or makes it, by a path that begins here.
    pub fn open_secrets(&self, path: &Path) -> Result<File, Refusal> {
        let (file, _) = self.0.open_file(path, &Purpose::SECRETS)?;
        Ok(file.into())
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

    /// The identity of a regular file, as another process told it.
    pub fn of_regular(device: u64, inode: u64) -> Self {
        Self {
            device,
            inode,
            kind: SFlag::S_IFREG,
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

    /// Whether it is a symbolic link.
    pub fn is_link(self) -> bool {
        self.kind == SFlag::S_IFLNK
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
