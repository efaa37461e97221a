//! The pid file: locked for as long as the daemon lives, so that there is one daemon, and
//! removed by nobody else.

use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::error::{Error, Reason};
use crate::sys::descriptors;
use crate::sys::directory::{Entry, FileId};

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
}

/// How often a file that was removed between opening and locking is opened anew.
const TRIES: u32 = 100;

impl PidFile {
    /// Opens and locks the file (flock(2)), without changing what is in it.
    pub fn lock(path: &Path) -> Result<Self, Error> {
        let failed = |reason: &dyn Reason| {
            Error::Start(format!("--pidfile {}: {}", path.display(), reason.reason()))
        };
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
            if entry.id() == Ok(id) {
                return Ok(Self {
                    path: path.to_owned(),
                    entry,
                    file,
                    id,
                    created,
                    written: false,
                });
            }
        }
        Err(Error::Start(format!(
            "--pidfile {} is replaced again and again by somebody else",
            path.display()
        )))
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

    /// Lets a program that takes this process over inherit the descriptor, and with it the
    /// lock.
    pub fn bequeath(&self) -> io::Result<()> {
        Ok(descriptors::set_close_on_exec(&self.file, false)?)
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if !self.created && !self.written {
            return;
        }
        if self.entry.remove(self.id).is_err() && self.written {
            // After a drop of privileges the directory may be out of reach: then at least
            // it names no process any more.
            let _ = self.file.set_len(0);
        }
    }
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
