//! Exec of an open file: a path may lead to another file by then, or to none after chroot(2).

use std::ffi::{CString, OsStr, c_char};
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;

use nix::errno::Errno;

/// Arguments and environment as execveat(2) takes them; the exec allocates nothing.
#[derive(Debug)]
pub struct ExecArguments {
    /// The pointers point into these.
    _strings: Vec<CString>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
}

impl ExecArguments {
    /// `arguments` begin with the program's name; each variable is `NAME=VALUE`.
    pub fn new(arguments: Vec<CString>, environment: Vec<CString>) -> Self {
        let count = arguments.len();
        // From here on the strings aren't moved.
        let strings: Vec<CString> = arguments.into_iter().chain(environment).collect();
        let pointers = |strings: &[CString]| {
            let pointers = strings.iter().map(|string| string.as_ptr());
            pointers.chain([ptr::null()]).collect()
        };
        Self {
            arguments: pointers(&strings[..count]),
            environment: pointers(&strings[count..]),
            _strings: strings,
        }
    }
}

/// Becomes the program in an open file (execveat(2), `AT_EMPTY_PATH`). Returns only if that fails,
/// with the reason.
pub fn exec_file(file: impl AsFd, arguments: &ExecArguments) -> Errno {
    // SAFETY: both arrays end in null, and the strings that they point to live in `arguments`.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_fd().as_raw_fd(),
            c"".as_ptr(),
            arguments.arguments.as_ptr(),
            arguments.environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    Errno::last()
}

/// Names the process by the last part of this path (prctl(2), `PR_SET_NAME`). After an exec by
/// descriptor the kernel has the descriptor's number as the name.
pub fn set_name(path: &OsStr) {
    let name = std::path::Path::new(path).file_name().unwrap_or(path);
    if let Ok(name) = CString::new(name.as_encoded_bytes()) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}
