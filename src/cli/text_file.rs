//! Reading the files that options name: of variables, and of system calls.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;

use crate::error::{At, Reason};
use crate::sys::directory::Directory;
use crate::sys::trusted::Refusal;

/// The maximum size of a file in bytes. All variables of a program together can't have as much by
/// default (execve(2), a quarter of the limit of the stack).
const LARGEST: u64 = 1 << 20;

/// Reads a file, even if another process writes to it meanwhile. Returns `None` if there is none. `harm`
/// says what a user could do that writes to it.
pub(super) fn read(path: &Path, harm: &str) -> Result<Option<Vec<u8>>, String> {
    let Some(name) = path.file_name() else {
        return Err("it isn't a regular file".into());
    };
    // Only trusted users choose the file.
    let opened = Directory::of(path).and_then(|directory| directory.open_file(Path::new(name)));
    let file = match opened {
        Ok(file) => file,
        Err(Refusal::Failed(Errno::ENOENT | Errno::ENOTDIR)) => return Ok(None),
        Err(Refusal::Failed(Errno::ESPIPE | Errno::ENXIO | Errno::EISDIR)) => {
            return Err("it isn't a regular file".into());
        }
        Err(Refusal::Failed(errno)) => {
            return Err(format!("it can't be opened: {}", At(errno, path).reason()));
        }
        Err(why) => return Err(format!("it can't be opened: {why}")),
    };
    let failed = |reason: std::io::Error| format!("it can't be read: {}", reason.reason());
    if file.metadata().map_err(failed)?.mode() & 0o002 != 0 {
        return Err(format!("every user can write to it, and so {harm}"));
    }
    let mut text = Vec::new();
    let length = file.take(LARGEST + 1).read_to_end(&mut text);
    if length.map_err(failed)? as u64 > LARGEST {
        return Err("it is larger than 1 MiB; is it the right file?".into());
    }
    Ok(Some(text))
}
