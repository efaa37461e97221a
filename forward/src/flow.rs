//! One direction: what is read at one end, held while the other doesn't take it, and written there.

use std::mem::take;
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::{pipe2, read, write};

use crate::end::{End, Kind};
use crate::sys::splice;

/// The capacity of a pipe, as the kernel makes it.
const PIPE: usize = 65_536;

/// How much may be written to a pipe that poll(2) reports as writable (POSIX: PIPE_BUF).
const PIPE_BUF: usize = 4_096;

/// After so many reads and writes it is the turn of the other direction.
const ROUNDS: u32 = 32;

/// What a direction waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The source has to be readable.
    Input,
    /// The destination has to be writable.
    Output,
    /// Nothing: this direction is over.
    Over,
}

/// The end at which a direction failed, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Reading.
    Input(Errno),
    /// Writing.
    Output(Errno),
}

/// One direction.
#[derive(Debug)]
pub(crate) struct Flow<'a> {
    /// Where it reads.
    pub(crate) from: End<'a>,
    /// Where it writes.
    pub(crate) to: End<'a>,
    /// What it waits for.
    pub(crate) wait: Wait,
    /// Whether the end of the source is the end of a reset connection, which isn't passed on as an end of file.
    pub(crate) is_cut: bool,
    /// How often it has written.
    pub(crate) writes: u64,
    buffer: &'a mut [u8],
    /// The bytes at the start of the buffer that come before each datagram.
    head: usize,
    /// What the buffer holds. An empty datagram is a range too.
    held: Option<Range<usize>>,
    pipe: Splicing,
    ended: bool,
    /// A dropped datagram has been reported.
    reported: bool,
}

/// Whether bytes move through a pipe, without being copied. A pipe is made when a read fills the buffer:
/// until then copying takes as many calls, and neither descriptors nor the kernel's memory for a pipe.
#[derive(Debug)]
enum Splicing {
    /// Not yet.
    NotYet,
    /// Through this pipe, which holds so many bytes.
    Through {
        input: OwnedFd,
        output: OwnedFd,
        holds: usize,
    },
    /// The kernel can't, or there is no pipe to be had.
    Never,
}

/// What a read brought.
enum Read {
    /// Something, and there may be more.
    Some,
    /// Something, and probably all that there is.
    All,
    /// Nothing now.
    Nothing,
    /// The end.
    End,
}

impl<'a> Flow<'a> {
    /// Returns a direction that first writes `header`: once to a stream, before each datagram otherwise.
    pub(crate) fn new(from: End<'a>, to: End<'a>, buffer: &'a mut [u8], header: &[u8]) -> Self {
        buffer[..header.len()].copy_from_slice(header);
        let each = to.kind == Kind::Datagram;
        let moves_bytes = from.kind == Kind::Stream && to.kind == Kind::Stream;
        Self {
            from,
            to,
            wait: Wait::Input,
            is_cut: false,
            writes: 0,
            buffer,
            head: if each { header.len() } else { 0 },
            held: (!each && !header.is_empty()).then_some(0..header.len()),
            pipe: if moves_bytes {
                Splicing::NotYet
            } else {
                Splicing::Never
            },
            ended: false,
            reported: false,
        }
    }

    /// Whether this direction is over.
    pub(crate) fn is_over(&self) -> bool {
        self.wait == Wait::Over
    }

    /// Moves what can be moved now. `polled` says that poll(2) found ready what this direction waits for.
    /// Files are touched only then, and once, since they block.
    pub(crate) fn advance(&mut self, polled: bool) -> Result<(), Fault> {
        let mut readable = polled && self.wait == Wait::Input;
        let mut may_read = self.from.kind != Kind::File || readable;
        let mut may_write = self.to.kind != Kind::File || polled && self.wait == Wait::Output;
        for _ in 0..ROUNDS {
            if self.holds() {
                self.wait = Wait::Output;
                if !may_write || !self.write().map_err(Fault::Output)? {
                    return Ok(());
                }
                may_write = self.to.kind != Kind::File;
                continue;
            }
            if self.ended {
                if !self.is_cut {
                    self.to.finish();
                }
                self.wait = Wait::Over;
                return Ok(());
            }
            self.wait = Wait::Input;
            if !may_read {
                return Ok(());
            }
            may_read = self.from.kind != Kind::File;
            match self.read(take(&mut readable)).map_err(Fault::Input)? {
                Read::Some => {}
                Read::All => may_read = false,
                Read::Nothing => return Ok(()),
                Read::End => self.ended = true,
            }
        }
        if self.holds() {
            self.wait = Wait::Output;
        }
        Ok(())
    }

    /// Whether something was read that isn't yet written.
    fn holds(&self) -> bool {
        let in_pipe = matches!(self.pipe, Splicing::Through { holds: 1.., .. });
        in_pipe || self.held.is_some()
    }

    /// `readable` says that poll(2) has just said so.
    fn read(&mut self, readable: bool) -> Result<Read, Errno> {
        if let Splicing::Through { input, holds, .. } = &mut self.pipe {
            match splice(self.from.descriptor, input, PIPE) {
                // At an urgent byte, splice(2) takes nothing and says that there is nothing, or the end, while
                // poll(2) reports what follows. recv(2) skips the byte.
                Ok(0) => {}
                Err(Errno::EAGAIN) if readable => {}
                Ok(count) => {
                    *holds = count;
                    return Ok(Read::Some);
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Read::Nothing),
                Err(Errno::EINVAL) => self.pipe = Splicing::Never,
                Err(errno) => return Err(errno),
            }
        }
        let space = &mut self.buffer[self.head..];
        let length = space.len();
        let source = self.from.descriptor.as_raw_fd();
        let flags = match self.from.kind {
            // The length of a message that doesn't fit is its own length.
            kind if kind.has_messages() => MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC,
            _ => MsgFlags::MSG_DONTWAIT,
        };
        let result = match self.from.kind {
            Kind::File => read(self.from.descriptor, space),
            _ => recv(source, space, flags),
        };
        let count = match result {
            Ok(0) if self.from.has_ended() => return Ok(Read::End),
            Ok(count) if count > length => {
                self.dropped(Errno::EMSGSIZE)?;
                return Ok(Read::Some);
            }
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Read::Nothing),
            Err(errno) if self.from.kind == Kind::Datagram => {
                // What the network says of a datagram that was sent before.
                self.dropped(errno)?;
                return Ok(Read::Some);
            }
            Err(errno) => return Err(errno),
        };
        self.held = Some(0..self.head + count);
        if self.from.kind.has_messages() {
            return Ok(Read::Some);
        }
        if count < length {
            return Ok(Read::All);
        }
        if matches!(self.pipe, Splicing::NotYet) {
            self.pipe = self.make_pipe().unwrap_or(Splicing::Never);
        }
        Ok(Read::Some)
    }

    /// Writes some of what is held, and returns whether the destination took any.
    fn write(&mut self) -> Result<bool, Errno> {
        self.writes += 1;
        if self.writes == 2 && self.to.kind == Kind::Stream {
            // Until now no write could wait for another one's acknowledgement.
            self.to.set_nodelay();
        }
        // The buffer's bytes are older than those of the pipe.
        let Some(range) = self.held.clone() else {
            return self.write_pipe();
        };
        let bytes = &self.buffer[range.clone()];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let result = match self.to.kind {
            Kind::File => write(self.to.descriptor, &bytes[..bytes.len().min(PIPE_BUF)]),
            _ => send(self.to.descriptor.as_raw_fd(), bytes, flags),
        };
        match result {
            Ok(count) if range.start + count < range.end && !self.to.kind.has_messages() => {
                self.held = Some(range.start + count..range.end);
            }
            Ok(_) => self.held = None,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(errno) if self.to.kind == Kind::Datagram || errno == Errno::EMSGSIZE => {
                self.dropped(errno)?;
                self.held = None;
            }
            Err(errno) => return Err(errno),
        }
        Ok(true)
    }

    fn write_pipe(&mut self) -> Result<bool, Errno> {
        let Splicing::Through { output, holds, .. } = &mut self.pipe else {
            return Ok(true);
        };
        match splice(&*output, self.to.descriptor, *holds) {
            Ok(count) => *holds = holds.saturating_sub(count),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            // The destination can't be spliced to.
            Err(Errno::EINVAL) => {
                let count = read(&*output, self.buffer)?;
                *holds = holds.saturating_sub(count);
                self.held = Some(0..count);
                if *holds == 0 {
                    self.pipe = Splicing::Never;
                }
            }
            Err(errno) => return Err(errno),
        }
        Ok(true)
    }

    /// Reports the first datagram that was lost. Fails if more than a datagram is: then reading and writing
    /// would fail again.
    fn dropped(&mut self, errno: Errno) -> Result<(), Errno> {
        const OF_ONE: [Errno; 11] = [
            Errno::EMSGSIZE,
            Errno::ECONNREFUSED,
            Errno::EHOSTUNREACH,
            Errno::EHOSTDOWN,
            Errno::ENETUNREACH,
            Errno::ENETDOWN,
            Errno::ENOBUFS,
            Errno::EACCES,
            Errno::EPERM,
            Errno::EPROTO,
            Errno::ENOPROTOOPT,
        ];
        // A connection may lose no message.
        let lossy = [self.from.kind, self.to.kind].contains(&Kind::Datagram);
        if !lossy || !OF_ONE.contains(&errno) {
            return Err(errno);
        }
        if !self.reported {
            self.reported = true;
            crate::complain(&format!("a datagram was lost: {}", errno.desc()));
        }
        Ok(())
    }

    /// Makes a pipe, and both sockets nonblocking: splice(2) has no flag for sockets.
    fn make_pipe(&self) -> Result<Splicing, Errno> {
        for end in [self.from, self.to] {
            let flags = OFlag::from_bits_retain(fcntl(end.descriptor, FcntlArg::F_GETFL)?);
            fcntl(end.descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        }
        let (output, input) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Splicing::Through {
            input,
            output,
            holds: 0,
        })
    }
}
