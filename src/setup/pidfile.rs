//! The pid file, and the lock beside it. The lock is held as long as the daemon runs, so that there is
//! only one daemon, which removes both files at its end.
//!
//! flock(2) takes no more than a descriptor, and any user can read the pid file. So what is locked is
//! a file that no other user can open. It is no sign of a daemon by itself: only its lock is.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::error::{At, Error, Reason};
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::directory::{Entry, FileId, SavedEntry};
use crate::sys::lock::{self, LockFile, SavedLockFile};
use crate::sys::trusted::{Purpose, Refusal};

/// A locked pid file. Dropping it removes the file if this process has created or written it,
/// unless another file has replaced it.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    entry: Entry,
    file: File,
    id: FileId,
    created: bool,
    written: bool,
    /// Whether the previous binary still owns the file.
    borrowed: bool,
    /// Dropped last. `None` where no file can be made: then the lock is on the pid file.
    lock: Option<LockFile>,
}

/// A pid file as it is saved for the next binary. The lock belongs to the open file.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPidFile {
    path: OsString,
    entry: SavedEntry,
    file: i32,
    lock: Option<SavedLockFile>,
}

/// How often opening is tried if the file is removed between opening and locking.
const TRIES: u32 = 100;

impl PidFile {
    /// Takes the lock (flock(2)) and opens the file, without changing its content.
    pub fn lock(path: &Path) -> Result<Self, Error> {
        let failed = |reason: &dyn Reason| failed(path, reason);
        let entry = Entry::of(path).map_err(|why| failed(&At(io::Error::from(why), path)))?;
        // Before a lock file is made.
        let judged = entry.check(&Purpose::PIDFILE);
        judged.map_err(|why| not_opened(path, why))?;
        let lock = lock_beside(path, &entry)?;
        for _ in 0..TRIES {
            let opened = entry.open(&Purpose::PIDFILE);
            let (file, created) = opened.map_err(|why| not_opened(path, why))?;
            // No other process uses a file created here, or it would have locked it.
            let remove_created = || {
                if created {
                    let _ = entry.unlink();
                }
            };
            let id = FileId::of_open(&file).map_err(|errno| {
                remove_created();
                failed(&At(errno, path))
            })?;
            match lock::try_lock(&file) {
                Ok(true) => {}
                // Any user that can read the file may have locked it. A daemon of an older version,
                // or without a lock file, has it open for writing.
                Ok(false) if lock.is_some() && !is_written(&file, id) => {}
                Ok(false) => return Err(taken(path, &entry)),
                Err(errno) => {
                    remove_created();
                    return Err(failed(&At(errno, path)));
                }
            }
            // The previous owner may have removed it between opening and locking.
            match entry.id() {
                Ok(found) if found == id => {
                    return Ok(Self {
                        path: path.to_owned(),
                        entry,
                        file,
                        id,
                        created,
                        written: false,
                        borrowed: false,
                        lock,
                    });
                }
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(errno) => {
                    remove_created();
                    return Err(failed(&At(errno, path)));
                }
            }
        }
        Err(replaced(path))
    }

    /// Returns the error of [`Self::lock`], as far as it can be predicted without creating, opening
    /// or locking anything. A locked file is no error but a note: the daemon may be running.
    pub fn check(path: &Path) -> Result<Option<String>, Error> {
        let entry = Entry::of(path).map_err(|why| not_opened(path, why))?;
        let judged = entry.check(&Purpose::PIDFILE);
        judged.map_err(|why| not_opened(path, why))?;
        let is_locked = match LockFile::check(&entry) {
            Err(why) if !is_no_way(&why) => return Err(not_locked(path, why)),
            result => result.unwrap_or_default(),
        };
        // A file that any user can lock is locked by a daemon only if that has it open as well.
        let is_locked = is_locked
            || entry.id().is_ok_and(|id| {
                let file = entry.open(&Purpose::FOREIGN_PIDFILE);
                id.is_locked() && file.is_ok_and(|(file, _)| is_written(&file, id))
            });
        Ok(is_locked.then(|| {
            let path = path.display();
            format!("--pidfile {path} is locked by a running daemon")
        }))
    }

    /// Writes the process id and a newline.
    pub fn write(&mut self, pid: u32) -> Result<(), Error> {
        self.written = true;
        self.file
            .set_len(0)
            .and_then(|()| self.file.write_all_at(format!("{pid}\n").as_bytes(), 0))
            .map_err(|reason| {
                let what = format!("--pidfile {} can't be written", self.path.display());
                Error::start(what, reason)
            })
    }

    /// Saves the pid file for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedPidFile, Errno> {
        Ok(SavedPidFile {
            path: self.path.clone().into(),
            entry: self.entry.save(to)?,
            file: to.pass(&self.file)?,
            lock: self.lock.as_ref().map(|lock| lock.save(to)).transpose()?,
        })
    }

    /// Restores the pid file of the previous binary. Until [`Self::own`], dropping it doesn't
    /// remove the file.
    pub fn restore(saved: SavedPidFile) -> Result<Self, Errno> {
        let file = File::from(descriptors::claim(saved.file)?);
        Ok(Self {
            path: saved.path.into(),
            entry: Entry::restore(saved.entry)?,
            id: FileId::of_open(&file)?,
            file,
            created: true,
            written: true,
            borrowed: true,
            lock: saved.lock.map(LockFile::restore).transpose()?,
        })
    }

    /// Takes ownership of the file.
    pub fn own(&mut self) {
        self.borrowed = false;
        self.lock.iter_mut().for_each(LockFile::own);
    }

    /// Lets a program that this process execs inherit a descriptor, and with it the lock.
    pub fn bequeath(&self) -> io::Result<()> {
        let locked = self.lock.as_ref().map_or(self.file.as_fd(), AsFd::as_fd);
        Ok(descriptors::set_close_on_exec(locked, false)?)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.borrowed || !self.created && !self.written {
            return;
        }
        if self.entry.remove(self.id).is_err() && self.written {
            // After a drop of privileges this may fail. Then at least empty the file, so that it
            // names no process.
            let _ = self.file.set_len(0);
        }
    }
}

/// Locks the file beside the pid file. Returns `None` if there is no way to make one.
fn lock_beside(path: &Path, entry: &Entry) -> Result<Option<LockFile>, Error> {
    match LockFile::take(entry) {
        Ok(None) => Err(taken(path, entry)),
        Ok(lock) => Ok(lock),
        Err(why) if is_no_way(&why) => Ok(None),
        Err(why) => Err(not_locked(path, why)),
    }
}

/// Whether a lock file can't be made, or is another user's, so that only the pid file can be locked.
fn is_no_way(why: &Refusal) -> bool {
    matches!(
        why,
        Refusal::Failed(Errno::EACCES | Errno::EPERM | Errno::EROFS)
    )
}

/// Whether the process that a pid file names has the file open for writing (proc(5)).
fn is_written(file: &File, id: FileId) -> bool {
    let Some(pid) = content(file) else {
        return false;
    };
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"));
    descriptors.into_iter().flatten().flatten().any(|entry| {
        let found = fs::metadata(entry.path());
        let number = entry.file_name();
        let is_it = found.is_ok_and(|found| (found.dev(), found.ino()) == id.numbers());
        is_it && is_open_for_writing(pid, Path::new(&number))
    })
}

fn is_open_for_writing(pid: i32, number: &Path) -> bool {
    let path = Path::new("/proc").join(pid.to_string()).join("fdinfo");
    let text = fs::read_to_string(path.join(number)).unwrap_or_default();
    let flags = text.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    let access = flags.map(|flags| OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE);
    access.is_some_and(|access| access != OFlag::O_RDONLY)
}

fn failed(path: &Path, reason: &dyn Reason) -> Error {
    Error::Start(format!("--pidfile {}: {}", path.display(), reason.reason()))
}

fn not_opened(path: &Path, why: Refusal) -> Error {
    match why {
        Refusal::Failed(Errno::ELOOP | Errno::ENODEV) => Error::Start(format!(
            "--pidfile {} isn't a regular file; it is left alone",
            path.display()
        )),
        why => failed(path, &At(io::Error::from(why), path)),
    }
}

fn not_locked(path: &Path, why: Refusal) -> Error {
    let path = path.display();
    Error::start(
        format!(
            "--pidfile {path}: the lock file {path}{} can't be used",
            lock::SUFFIX
        ),
        io::Error::from(why),
    )
}

fn replaced(path: &Path) -> Error {
    Error::Start(format!(
        "--pidfile {}: another program replaces the file again and again",
        path.display()
    ))
}

fn taken(path: &Path, entry: &Entry) -> Error {
    let file = entry.open(&Purpose::FOREIGN_PIDFILE);
    let owner = match file.ok().and_then(|(file, _)| content(&file)) {
        Some(pid) => format!("process {pid}, which is running"),
        None => "another process".into(),
    };
    Error::Start(format!("--pidfile {} is locked by {owner}", path.display()))
}

/// The process id in a pid file.
fn content(file: &File) -> Option<i32> {
    let mut content = [0; 32];
    let length = file.read_at(&mut content, 0).ok()?;
    owner(content.get(..length)?)
}

/// Returns the process id in a pid file, if the file has nothing else.
pub fn owner(content: &[u8]) -> Option<i32> {
    let digits = content.trim_ascii();
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let pid = std::str::from_utf8(digits).ok()?.parse().ok();
    pid.filter(|pid| *pid > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_process_id_is_ignored() {
        for content in [
            "",
            "\n",
            "0\n",
            "-1\n",
            "+1\n",
            "12 13\n",
            "4294967295\n",
            "x\n",
        ] {
            assert_eq!(owner(content.as_bytes()), None, "{content:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_names_its_process(pid in 1..i32::MAX) {
            prop_assert_eq!(owner(format!("{pid}\n").as_bytes()), Some(pid));
        }

        #[test]
        fn any_content_is_read_without_a_panic(content in prop::collection::vec(any::<u8>(), 0..32)) {
            prop_assert!(owner(&content).is_none_or(|pid| pid > 0));
        }
    }
}
