//! The pid file. It is locked as long as the daemon runs, so that there is only one daemon, which
//! removes the file at its end.

use std::ffi::OsString;
use std::fs::File;
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
use crate::sys::lock;

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
}

/// A pid file as it is saved for the next binary. The lock belongs to the open file.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPidFile {
    path: OsString,
    entry: SavedEntry,
    file: i32,
}

/// How often opening is tried if the file is removed between opening and locking.
const TRIES: u32 = 100;

impl PidFile {
    /// Opens and locks the file (flock(2)), without changing its content.
    pub fn lock(path: &Path) -> Result<Self, Error> {
        let failed = |reason: &dyn Reason| failed(path, reason);
        let entry = Entry::of(path).map_err(|errno| failed(&errno))?;
        for _ in 0..TRIES {
            // Nonblocking, since opening a FIFO could block.
            let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
            let (file, created) = match entry.open_or_create(flags, 0o644) {
                Ok(opened) => opened,
                Err(Errno::ELOOP) => return Err(not_a_file(path)),
                Err(errno) => return Err(failed(&errno)),
            };
            // No other process uses a file created here, or it would have locked it.
            let remove_created = || {
                if created {
                    let _ = entry.unlink();
                }
            };
            let id = FileId::of_open(&file).map_err(|errno| {
                remove_created();
                failed(&errno)
            })?;
            if !id.is_file() {
                return Err(not_a_file(path));
            }
            match lock::try_lock(&file) {
                Ok(true) => {}
                Ok(false) => return Err(taken(path, &file)),
                Err(errno) => {
                    remove_created();
                    return Err(failed(&errno));
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
                    });
                }
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(errno) => {
                    remove_created();
                    return Err(failed(&errno));
                }
            }
        }
        Err(Error::Start(format!(
            "--pidfile {}: another program replaces the file again and again",
            path.display()
        )))
    }

    /// Returns the error of [`Self::lock`], as far as it can be predicted without creating, opening
    /// or locking anything. A locked file is no error but a note: the daemon may be running.
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
                Some(format!("--pidfile {path} is locked by a running daemon"))
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

    /// Saves the pid file for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedPidFile, Errno> {
        Ok(SavedPidFile {
            path: self.path.clone().into(),
            entry: self.entry.save(to)?,
            file: to.pass(&self.file)?,
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
        })
    }

    /// Takes ownership of the file.
    pub fn own(&mut self) {
        self.borrowed = false;
    }

    /// Lets a program that this process execs inherit the descriptor, and with it the lock.
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
            // After a drop of privileges this may fail. Then at least empty the file, so that it
            // names no process.
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
