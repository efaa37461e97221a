//! Locks on files.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::descriptors::{self, SavedDescriptors};
use super::directory::{Entry, FileId, SavedEntry};
use super::trusted::{Purpose, Refusal};

/// A locked file that no other user can open, and so none can lock. Dropping it removes the file, and
/// unlocks it then. A file that is left behind by a killed process does no harm.
#[derive(Debug)]
pub struct LockFile {
    entry: Entry,
    file: File,
    id: FileId,
    /// Whether the previous binary still owns the file.
    borrowed: bool,
}

/// A [`LockFile`] saved for an upgrade. The lock belongs to the open file.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedLockFile {
    entry: SavedEntry,
    file: i32,
}

/// What is added to the path of a file, to have that of its lock.
pub const SUFFIX: &str = ".lock";

/// How often opening is tried if the file is removed between opening and locking.
const TRIES: u32 = 100;

impl LockFile {
    /// Locks the file beside this one. Returns `None` if another process has locked it.
    pub fn take(beside: &Entry) -> Result<Option<Self>, Refusal> {
        let entry = beside.with_suffix(SUFFIX)?;
        for _ in 0..TRIES {
            let (file, made) = entry.open(&Purpose::LOCK)?;
            let locked = try_lock(&file).and_then(|is_free| match is_free {
                true => FileId::of_open(&file).map(Some),
                false => Ok(None),
            });
            let id = match locked {
                Ok(Some(id)) => id,
                Ok(None) => return Ok(None),
                Err(errno) => {
                    if made {
                        let _ = entry.unlink();
                    }
                    return Err(errno.into());
                }
            };
            // The previous owner may have removed it between opening and locking.
            match entry.id() {
                Ok(found) if found == id => {
                    return Ok(Some(Self {
                        entry,
                        file,
                        id,
                        borrowed: false,
                    }));
                }
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(errno) => {
                    let _ = entry.unlink();
                    return Err(errno.into());
                }
            }
        }
        Err(Refusal::Untrusted(
            "another program replaces the file again and again".into(),
        ))
    }

    /// Returns the error of [`Self::take`], as far as it can be predicted without opening or making
    /// anything, or whether the file is locked.
    pub fn check(beside: &Entry) -> Result<bool, Refusal> {
        let entry = beside.with_suffix(SUFFIX)?;
        entry.check(&Purpose::LOCK)?;
        Ok(entry.id().is_ok_and(FileId::is_locked))
    }

    /// Saves it for an upgrade.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedLockFile, Errno> {
        Ok(SavedLockFile {
            entry: self.entry.save(to)?,
            file: to.pass(&self.file)?,
        })
    }

    /// Restores it after an upgrade. Until [`Self::own`], dropping it doesn't remove the file.
    pub fn restore(saved: SavedLockFile) -> Result<Self, Errno> {
        let file = File::from(descriptors::claim(saved.file)?);
        Ok(Self {
            entry: Entry::restore(saved.entry)?,
            id: FileId::of_open(&file)?,
            file,
            borrowed: true,
        })
    }

    /// Takes ownership of the file.
    pub fn own(&mut self) {
        self.borrowed = false;
    }
}

impl AsFd for LockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if !self.borrowed {
            // After a drop of privileges this may fail. The next start takes the file over.
            let _ = self.entry.remove(self.id);
        }
    }
}

/// Locks a file exclusively without blocking (flock(2)). Returns whether it was free. The lock
/// belongs to the open file and ends with its last descriptor.
pub fn try_lock(file: &File) -> Result<bool, Errno> {
    // SAFETY: flock(2) accesses no memory, and the descriptor is open.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    match Errno::result(result) {
        Ok(_) => Ok(true),
        Err(Errno::EWOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}
