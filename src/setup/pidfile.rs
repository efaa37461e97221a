//! The pid file: locked for as long as the daemon lives, so that there is one daemon, and
//! removed by nobody else.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::AccessFlags;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Reason};
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::directory::{Entry, FileId, SavedEntry};

/// A locked pid file. Dropping it removes the file, if it was made or written here and is
/// still the one at its path.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    entry: Entry,
    file: File,
    id: FileId,
    created: bool,
    written: bool,
    /// Whether it is another image's of this process until that has given it up.
    borrowed: bool,
}

/// The same for another image of this process, with the lock, which is the open file's.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPidFile {
    path: OsString,
    entry: SavedEntry,
    file: i32,
}

/// How often a file that was removed between opening and locking is opened anew.
const TRIES: u32 = 100;

impl PidFile {
    /// Opens and locks the file (flock(2)), without changing what is in it.
    pub fn lock(path: &Path) -> Result<Self, Error> {
        let failed = |reason: &dyn Reason| failed(path, reason);
        let entry = Entry::of(path).map_err(|errno| failed(&errno))?;
        for _ in 0..TRIES {
            // Non-blocking, for a FIFO of that name would wait for a reader.
            let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            let (file, created) = match entry.open_or_create(flags, 0o644) {
                Ok(opened) => opened,
                Err(Errno::ELOOP) => return Err(not_a_file(path)),
                Err(errno) => return Err(failed(&errno)),
            };
            // For a file made here that isn't anybody else's, who would have locked it.
            let forget = || {
                if created {
                    let _ = entry.unlink();
                }
            };
            let id = FileId::of_open(&file).map_err(|errno| {
                forget();
                failed(&errno)
            })?;
            if !id.is_file() {
                return Err(not_a_file(path));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(path, &file)),
                Err(TryLockError::Error(reason)) => {
                    forget();
                    return Err(failed(&reason));
                }
            }
            // The last owner may have removed it between our opening and our lock.
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
                    });
                }
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(errno) => {
                    forget();
                    return Err(failed(&errno));
                }
            }
        }
        Err(Error::Start(format!(
            "--pidfile {} is replaced again and again by somebody else",
            path.display()
        )))
    }

    /// Says what [`Self::lock`] would fail with, as far as that shows from outside: it makes,
    /// opens and locks nothing. Not for a lock that somebody has, which is no fault of the
    /// command line and given back as a note.
    pub fn check(path: &Path) -> Result<Option<String>, Error> {
        let entry = Entry::of(path).map_err(|errno| failed(path, &errno))?;
        let id = entry.id();
        let allowed = match id {
            Ok(id) if id.is_file() => entry.may_open(AccessFlags::R_OK | AccessFlags::W_OK),
            Ok(id) if id.is_directory() => Err(Errno::EISDIR),
            Ok(id) if id.is_socket() => Err(Errno::ENXIO),
            Ok(_) => return Err(not_a_file(path)),
            Err(Errno::ENOENT) => entry.may_create(),
            Err(errno) => Err(errno),
        };
        allowed.map_err(|errno| failed(path, &errno))?;
        Ok(match id {
            Ok(id) if id.is_locked() => {
                let path = path.display();
                Some(format!("--pidfile {path} is locked by a daemon that runs"))
            }
            _ => None,
        })
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

    /// Lets the next image of this process have it.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedPidFile, Errno> {
        Ok(SavedPidFile {
            path: self.path.clone().into(),
            entry: self.entry.save(to)?,
            file: to.pass(&self.file)?,
        })
    }

    /// What an earlier image had written. Until [`Self::own`], dropping it leaves the file.
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
        })
    }

    /// Takes it over for good.
    pub fn own(&mut self) {
        self.borrowed = false;
    }

    /// Lets a program that takes this process over inherit the descriptor, and with it the
    /// lock.
    pub fn bequeath(&self) -> io::Result<()> {
        Ok(descriptors::set_close_on_exec(&self.file, false)?)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.borrowed || !self.created && !self.written {
            return;
        }
        if self.entry.remove(self.id).is_err() && self.written {
            // After a drop of privileges the directory may be out of reach: then at least
            // it names no process any more.
            let _ = self.file.set_len(0);
        }
    }
}

fn failed(path: &Path, reason: &dyn Reason) -> Error {
    Error::Start(format!("--pidfile {}: {}", path.display(), reason.reason()))
}

fn not_a_file(path: &Path) -> Error {
    Error::Start(format!(
        "--pidfile {} isn't a regular file; it is left alone",
        path.display()
    ))
}

fn taken(path: &Path, mut file: &File) -> Error {
    let mut content = Vec::new();
    let _ = file.by_ref().take(32).read_to_end(&mut content);
    let owner = match owner(&content) {
        Some(pid) => format!("process {pid}, which is running"),
        None => "another process".into(),
    };
    Error::Start(format!("--pidfile {} is locked by {owner}", path.display()))
}

/// The process that a pid file names, if that is all it does.
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
    fn what_is_no_process_id_names_nobody() {
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
