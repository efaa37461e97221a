//! A program that is ready to be exec'd.

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use nix::errno::Errno;

use crate::sys::environment::Finished;

/// A program ready to be exec'd: pointers that execve(2) takes as they are.
#[derive(Debug)]
pub struct ExecTarget {
    path: CString,
    arguments: Vec<CString>,
    argv: Vec<*const c_char>,
    /// `/bin/sh PATH ARGS`, for a file that the kernel can't execute by itself.
    shell_argv: Vec<*const c_char>,
}

const SHELL: &CStr = c"/bin/sh";

impl ExecTarget {
    /// The program at `path`; `arguments` begin with its name.
    pub fn new(path: CString, arguments: Vec<CString>) -> Self {
        let end = [ptr::null()];
        let argv = pointers(&arguments).chain(end).collect();
        let shell_argv = [SHELL.as_ptr(), path.as_ptr()]
            .into_iter()
            .chain(pointers(arguments.get(1..).unwrap_or_default()))
            .chain(end)
            .collect();
        Self {
            path,
            arguments,
            argv,
            shell_argv,
        }
    }

    /// The path of the program.
    pub fn path(&self) -> &CStr {
        &self.path
    }

    /// The arguments, the program's name first.
    pub fn arguments(&self) -> &[CString] {
        &self.arguments
    }

    /// Becomes the program (execve(2)), in a child or in this process. Returns only if that
    /// fails, with the reason.
    ///
    /// A file without a format that the kernel knows is run by the shell, as execvp(3) does.
    pub fn exec(&self, environment: Finished<'_>) -> Errno {
        // SAFETY: path, argv and environment end in NUL or null, and their owners outlive
        // the call: this value, and the value that the environment is borrowed from.
        unsafe {
            libc::execve(self.path.as_ptr(), self.argv.as_ptr(), environment.as_ptr());
            if Errno::last() == Errno::ENOEXEC {
                libc::execve(
                    SHELL.as_ptr(),
                    self.shell_argv.as_ptr(),
                    environment.as_ptr(),
                );
            }
        }
        Errno::last()
    }
}

fn pointers(strings: &[CString]) -> impl Iterator<Item = *const c_char> {
    strings.iter().map(|string| string.as_ptr())
}

// SAFETY: the pointers point into CStrings of the same value, on the heap, which nothing
// changes; threads only read them.
unsafe impl Send for ExecTarget {}
// SAFETY: as for Send.
unsafe impl Sync for ExecTarget {}
