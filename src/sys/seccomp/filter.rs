//! A filter that is ready to be loaded.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{BorrowedFd, RawFd};
use std::sync::Arc;

use libc::{c_ulong, sock_filter};
use nix::errno::Errno;

use super::compile::{Rules, compile};
use super::key;
use crate::sys::passing::send_descriptor_with;

/// The architecture as a filter sees it (`AUDIT_ARCH_*`), where its calls are known here.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

/// Whether calls can be filtered on this architecture.
pub const IS_SUPPORTED: bool = ARCHITECTURE.is_some();

/// Where the listener of a filter goes.
#[derive(Clone, Copy, Debug)]
pub struct Listening {
    /// The number of a unix socket that keeps messages apart.
    pub socket: RawFd,
    /// A number that goes with it.
    pub service: u32,
}

/// Instructions for the kernel, and the rules that they are made from. A clone shares them.
#[derive(Clone)]
pub struct Filter {
    program: Arc<[sock_filter]>,
    rules: Arc<Rules>,
    has_listener: bool,
}

impl Filter {
    /// Compiles rules. A filter with a listener asks that about calls that are logged or kill. Returns
    /// ENOSYS on an architecture whose calls aren't known here.
    pub fn new(rules: Rules, has_listener: bool) -> Result<Self, Errno> {
        let architecture = ARCHITECTURE.ok_or(Errno::ENOSYS)?;
        let program = compile(&rules, architecture, has_listener, None);
        // What the kernel takes, BPF_MAXINSNS.
        if program.len() > 4096 {
            return Err(Errno::E2BIG);
        }
        Ok(Self {
            program: program.into(),
            rules: rules.into(),
            has_listener,
        })
    }

    /// The same for a jailer, whose handlers have it from their clone on, if it can have it. Its own
    /// calls and those of its children have the [`key`](super::key()) from now on.
    pub fn of_jailer(&self) -> Result<Option<Self>, Errno> {
        if !self.rules.fits_jailer || self.rules.only_log {
            return Ok(None);
        }
        let architecture = ARCHITECTURE.ok_or(Errno::ENOSYS)?;
        let program = compile(&self.rules, architecture, false, Some(key::make()?));
        Ok(Some(Self {
            program: program.into(),
            ..self.clone()
        }))
    }

    /// What becomes of calls.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether it asks a listener.
    pub fn has_listener(&self) -> bool {
        self.has_listener
    }

    /// Filters the calls of this thread from now on, and those of its children: no exec takes that
    /// away. One system call; no allocation.
    ///
    /// New privileges must be forbidden, or the thread must have `CAP_SYS_ADMIN` in its user
    /// namespace.
    pub fn load(&self) -> Result<(), Errno> {
        let program = self.program();
        // Not seccomp(2), which a service manager's filter may refuse where this is allowed.
        // SAFETY: the program points to the instructions, which the kernel copies and doesn't change.
        let result = unsafe {
            libc::prctl(
                libc::PR_SET_SECCOMP,
                c_ulong::from(libc::SECCOMP_MODE_FILTER),
                &raw const program,
            )
        };
        Errno::result(result).map(drop)
    }

    /// The same, and sends the filter's listener to the thread that has the other end of a socket. The
    /// listener is close-on-exec.
    pub fn load_listened(&self, to: Listening) -> Result<(), Errno> {
        let program = self.program();
        // SAFETY: as in `load`.
        let listener = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        let listener = Errno::result(listener)? as RawFd;
        // SAFETY: the kernel has just opened the first for the caller, who closes it by its exec; the
        // second is open as long as the plan that has its number.
        let (listener, socket) = unsafe {
            (
                BorrowedFd::borrow_raw(listener),
                BorrowedFd::borrow_raw(to.socket),
            )
        };
        send_descriptor_with(socket, listener, &to.service.to_ne_bytes())
    }

    fn program(&self) -> libc::sock_fprog {
        libc::sock_fprog {
            // No more than 4096.
            len: self.program.len() as u16,
            filter: self.program.as_ptr().cast_mut(),
        }
    }
}

/// By a hash of the instructions, which stands for them where steps are compared.
impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hasher = DefaultHasher::new();
        for step in self.program.iter() {
            (step.code, step.jt, step.jf, step.k).hash(&mut hasher);
        }
        write!(f, "Filter({:x})", hasher.finish())
    }
}
