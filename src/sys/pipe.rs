//! Pipes.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

/// Creates a pipe with close-on-exec set (pipe2(2)). Returns the read end and the write end.
pub fn pipe() -> Result<(File, File), Errno> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((reader.into(), writer.into()))
}
