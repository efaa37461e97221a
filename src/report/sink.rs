//! The sink of lines. Standard error is shared with every handler, so it can't be made
//! non-blocking, but skd's own lines must not wait.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{SFlag, fstat};
use serde::{Deserialize, Serialize};

use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::events::is_writable;

/// The bits of a mode that are the file type.
const S_IFMT: u32 = SFlag::S_IFMT.bits();

/// A way to write a line without waiting.
#[derive(Debug)]
pub enum Sink {
    /// Standard error that is a file: no writer waits for a reader.
    Plain,
    /// Standard error that is a socket: each send(2) can be non-blocking.
    Socket,
    /// The pipe or terminal of standard error, through a non-blocking open file of skd's own.
    Own(File),
    /// Standard error, if it has room for a line. Another writer can take the room in between, so
    /// this is only for systems without /proc.
    WhenWritable,
}

/// A saved [`Sink`].
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum SavedSink {
    /// [`Sink::Plain`].
    Plain,
    /// [`Sink::Socket`].
    Socket,
    /// [`Sink::Own`], by its descriptor.
    Own(i32),
    /// [`Sink::WhenWritable`].
    WhenWritable,
}

impl Sink {
    /// Saves the sink for the next binary of this process, which may not see /proc.
    pub(super) fn save(&self, to: &mut SavedDescriptors) -> Result<SavedSink, Errno> {
        Ok(match self {
            Self::Plain => SavedSink::Plain,
            Self::Socket => SavedSink::Socket,
            Self::Own(file) => SavedSink::Own(to.pass(file)?),
            Self::WhenWritable => SavedSink::WhenWritable,
        })
    }

    /// Restores the sink of an earlier binary.
    pub fn restore(saved: SavedSink) -> Result<Self, Errno> {
        Ok(match saved {
            SavedSink::Plain => Self::Plain,
            SavedSink::Socket => Self::Socket,
            SavedSink::Own(number) => Self::Own(descriptors::claim(number)?.into()),
            SavedSink::WhenWritable => Self::WhenWritable,
        })
    }

    /// Returns the sink for `output`, which is standard error or will be.
    ///
    /// Call it before chroot(2), since it needs /proc.
    pub fn to(output: impl AsFd) -> Self {
        let kind = fstat(&output).map(|stat| SFlag::from_bits_truncate(stat.st_mode & S_IFMT));
        match kind {
            Ok(SFlag::S_IFSOCK) => Self::Socket,
            Ok(SFlag::S_IFIFO | SFlag::S_IFCHR) => {
                let path = format!("/proc/self/fd/{}", output.as_fd().as_raw_fd());
                File::options()
                    .write(true)
                    .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                    .open(path)
                    .map_or(Self::WhenWritable, Self::Own)
            }
            _ => Self::Plain,
        }
    }

    /// Writes a line, in one piece if there is room for it. Returns what was taken.
    pub(super) fn write(&self, line: &[u8]) -> Taken {
        let mut rest = line;
        while !rest.is_empty() {
            match self.write_some(rest) {
                Ok(0) => break,
                Ok(length) => rest = &rest[length..],
                Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        match rest.len() {
            0 => Taken::All,
            length if length == line.len() => Taken::Nothing,
            _ => Taken::Part,
        }
    }

    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        let error = io::stderr();
        match self {
            Self::Plain => error.lock().write(bytes),
            Self::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                Ok(send(error.as_raw_fd(), bytes, flags)?)
            }
            Self::Own(file) => (&mut &*file).write(bytes),
            Self::WhenWritable if !is_writable(error.as_fd()) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            Self::WhenWritable => error.lock().write(bytes),
        }
    }
}

/// How much of a line the sink took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    All,
    /// Its beginning: the disk or buffer was full then.
    Part,
    Nothing,
}
