//! Reading a file as a whole, in one version of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::error::Reason;
use crate::sys::directory::Directory;
use crate::sys::trusted::Refusal;

/// The maximum size of a file in bytes: as many services as a daemon can have, with ten lines each.
const LARGEST: u64 = 16 << 20;

/// How often a file is read that changes meanwhile.
const TRIES: u32 = 5;

/// Reads a regular file. The error is the end of a sentence that begins with its path.
pub(super) fn file(path: &Path) -> Result<Vec<u8>, String> {
    for _ in 0..TRIES {
        let file = open(path)?;
        let stat = || file.metadata().map_err(|reason| failed(&reason));
        let before = stat()?;
        if before.mode() & 0o002 != 0 {
            return Err("can be written by every user, who could have anything run".into());
        }
        let mut text = Vec::new();
        let read = (&file).take(LARGEST + 1).read_to_end(&mut text);
        read.map_err(|reason| failed(&reason))?;
        if text.len() as u64 > LARGEST {
            return Err(format!("has more than {} MiB", LARGEST >> 20));
        }
        if version(&before) == version(&stat()?) {
            return Ok(text);
        }
    }
    Err("changes again and again while it is read".into())
}

/// Returns the paths of the files in a directory whose names `fit`, in the order of their names.
/// Hidden files aren't among them. The error is the end of a sentence.
pub(super) fn directory(path: &Path, fit: impl Fn(&OsStr) -> bool) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).map_err(|reason| failed(&reason))? {
        let name = entry.map_err(|reason| failed(&reason))?.file_name();
        let is_hidden = name.as_encoded_bytes().starts_with(b".");
        if !is_hidden && fit(&name) {
            found.push(path.join(name));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Opens a regular file for reading, without waiting for the writer of a FIFO. Only trusted users
/// have chosen which file it is.
fn open(path: &Path) -> Result<File, String> {
    let name = path.file_name().ok_or("is no file")?;
    let opened = Directory::of(path).and_then(|directory| directory.open_file(Path::new(name)));
    opened.map_err(|why| match why {
        Refusal::Failed(Errno::ESPIPE | Errno::ENXIO) => "is no regular file".into(),
        Refusal::Failed(Errno::EISDIR) => "is a directory".into(),
        Refusal::Failed(Errno::ENOENT) if path.is_symlink() => {
            "is a symbolic link to a file that doesn't exist".into()
        }
        why => format!("can't be opened: {why}"),
    })
}

fn failed(reason: &std::io::Error) -> String {
    format!("can't be read: {}", reason.reason())
}

/// What differs between two versions of an open file.
fn version(stat: &fs::Metadata) -> (u64, [i64; 4]) {
    let times = [
        stat.mtime(),
        stat.mtime_nsec(),
        stat.ctime(),
        stat.ctime_nsec(),
    ];
    (stat.size(), times)
}
