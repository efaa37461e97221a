//! The entry of the program, and system calls without a safe wrapper.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// The entry, in place of that of the standard library. The latter makes calls for which each
/// connection would pay 10 µs, with glibc 80 µs: it looks for closed standard descriptors, reads
/// /proc/self/maps for the bounds of the stack, and maps another stack for a handler of SIGSEGV. The
/// first of these is on the client: prestarted handlers would wait there.
#[cfg(not(test))]
#[unsafe(no_mangle)]
extern "C" fn main(count: libc::c_int, words: *const *const libc::c_char) -> libc::c_int {
    use std::ffi::{CStr, OsStr};
    use std::os::unix::ffi::OsStrExt;

    let count = usize::try_from(count).unwrap_or(0);
    let words = (1..count).map(|index| {
        // SAFETY: the C library passes as many pointers as it says, to strings that end in NUL and stay
        // where they are until the process ends.
        let word = unsafe { CStr::from_ptr(*words.add(index)) };
        OsStr::from_bytes(word.to_bytes()).to_owned()
    });
    crate::run(words)
}

/// Ignores SIGPIPE: splice(2) has no flag like MSG_NOSIGNAL.
pub(crate) fn ignore_sigpipe() {
    // SAFETY: SIG_IGN runs no code, and the call can't fail for this signal.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Returns the number of bytes that a TCP peer hasn't acknowledged; 0 if the kernel doesn't say.
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> i32 {
    count(socket, libc::TIOCOUTQ)
}

/// Returns the number of bytes that wait to be read; 0 if the kernel doesn't say.
pub(crate) fn unread(socket: BorrowedFd<'_>) -> i32 {
    count(socket, libc::FIONREAD)
}

fn count(socket: BorrowedFd<'_>, request: libc::Ioctl) -> i32 {
    let mut count: libc::c_int = 0;
    // SAFETY: both requests write one int, to memory that outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), request, &raw mut count) };
    if result == 0 { count } else { 0 }
}

/// Standard input and output. They stay open until the program ends, or until the relay closes standard
/// output and doesn't use it again.
pub(crate) fn standard() -> [BorrowedFd<'static>; 2] {
    // SAFETY: see above; a closed descriptor makes calls fail with EBADF.
    [0, 1].map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}

/// Moves up to `length` bytes from or to a pipe, without waiting for the pipe (splice(2)).
pub(crate) fn splice(from: impl AsFd, to: impl AsFd, length: usize) -> Result<usize, Errno> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    let (none, flags) = (
        std::ptr::null_mut(),
        libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
    );
    // SAFETY: both descriptors are open, and the call takes null pointers for offsets.
    let moved = unsafe { libc::splice(from, none, to, none, length, flags) };
    usize::try_from(moved).map_err(|_| Errno::last())
}

/// Takes ownership of a descriptor that fcntl(2) has just made.
pub(crate) fn owned(number: i32) -> OwnedFd {
    // SAFETY: nothing else knows the number yet.
    unsafe { OwnedFd::from_raw_fd(number) }
}
