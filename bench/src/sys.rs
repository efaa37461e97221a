//! Running programs without a server. All unsafe code of the benchmark is here.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// Runs one program repeatedly by vfork-style clone, exec and wait: a launcher without sockets and
/// accounting.
///
/// Used by one thread at a time. CLONE_VFORK stops only that thread.
pub(crate) struct BareLauncher {
    plan: Plan,
    stack: Vec<u128>,
    // The memory that the pointers of the plan refer to.
    _strings: Vec<CString>,
    _null: File,
}

/// The data that the child reads. It shares our memory, so nothing may move until its exec.
struct Plan {
    null: c_int,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
}

const STACK_WORDS: usize = 64 * 1024 / size_of::<u128>();

impl BareLauncher {
    /// `words` are the path of the program and its arguments.
    pub(crate) fn new(words: &[String]) -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let mut strings = Vec::new();
        for word in words {
            strings.push(CString::new(word.as_str())?);
        }
        for (name, value) in crate::peers::environment() {
            let mut variable = name.as_bytes().to_vec();
            variable.push(b'=');
            variable.extend(value.into_bytes());
            strings.push(CString::new(variable)?);
        }
        // Moving a CString does not move its bytes: the pointers stay valid while `strings` lives.
        let pointers = |strings: &[CString]| {
            strings
                .iter()
                .map(|s| s.as_ptr())
                .chain([ptr::null()])
                .collect::<Vec<_>>()
        };
        let (arguments, environment) = strings.split_at(words.len());
        let plan = Plan {
            null: null.as_raw_fd(),
            arguments: pointers(arguments),
            environment: pointers(environment),
        };
        Ok(Self {
            plan,
            stack: vec![0; STACK_WORDS],
            _strings: strings,
            _null: null,
        })
    }

    /// Runs the program until it ends. Any other end than `exit(0)` is an error.
    pub(crate) fn run_once(&mut self) -> io::Result<()> {
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: the stack is ours, aligned to 16 as u128 is, and its end is one past the
        // allocation, from where it grows down. CLONE_VFORK keeps this thread, and with it the
        // stack and the plan, still until the child has called exec or _exit. `child` takes what
        // we pass: a pointer to a Plan. No other thread can reach either through `&mut self`.
        let pid = unsafe {
            let top = self
                .stack
                .as_mut_ptr()
                .add(self.stack.len())
                .cast::<c_void>();
            libc::clone(child, top, flags, (&raw mut self.plan).cast::<c_void>())
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut status = 0;
        loop {
            // SAFETY: waits for a child of this process into a local that outlives the call.
            let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
            if waited == pid {
                break;
            }
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
        }
        if status == 0 {
            Ok(())
        } else {
            Err(io::Error::other(format!(
                "the program ended with wait status {status:#x}"
            )))
        }
    }
}

/// Runs in the child. Does not allocate, panic or return.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: `plan` is the launcher's Plan, which lives and stays where it is until exec. All
    // calls are async-signal-safe system calls; the arrays end in null pointers and their
    // strings live as long as the launcher. _exit never returns.
    unsafe {
        let plan = &*plan.cast::<Plan>();
        if libc::dup2(plan.null, 0) == 0 && libc::dup2(plan.null, 1) == 1 {
            let program = *plan.arguments.as_ptr();
            libc::execve(program, plan.arguments.as_ptr(), plan.environment.as_ptr());
        }
        libc::_exit(127)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn success_and_failure_differ() -> io::Result<()> {
        let run = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            BareLauncher::new(&words)?.run_once()
        };
        run(&["/bin/true"])?;
        assert!(run(&["/bin/false"]).is_err());
        assert!(run(&["/nonexistent"]).is_err());
        run(&["/bin/sh", "-c", "exit 0"])
    }
}
