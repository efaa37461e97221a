//! A tracee isn't held in a run of equal calls.
//!
//! Being held at its entry and its exit makes a short call fifty times as long. So a program that
//! closes all numbers that a descriptor may have takes very long, call by call.

use nix::errno::Errno;

use super::call::Fault;
use super::tracee::Tracee;
#[cfg(target_arch = "x86_64")]
use super::x86_64::{self as arch};

/// `struct ptrace_sud_config` (<linux/ptrace.h>, Linux 6.4).
#[repr(C)]
struct Dispatch {
    mode: u64,
    selector: u64,
    /// Calls whose next instruction is here, in so many bytes, are made; others are SIGSYS.
    offset: u64,
    length: u64,
}

/// `PR_SYS_DISPATCH_ON` and `PR_SYS_DISPATCH_OFF` (<linux/prctl.h>).
const ON: u64 = 1;
const OFF: u64 = 0;

/// `PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG`.
const SET_DISPATCH: libc::c_long = 0x4210;

impl Tracee {
    /// Lets it make calls with the instruction of its last call, without being held, until it makes
    /// another (Documentation/admin-guide/syscall-user-dispatch.rst). Returns false, and does nothing,
    /// if that instruction may make calls with other numbers, or if the kernel can't do it.
    ///
    /// It is held at the exit of that call. SIGSYS must be neither blocked nor ignored in it: the
    /// kernel would change that.
    pub fn begin_run(&self, number: libc::c_long) -> Result<bool, Fault> {
        let next = self.next.get();
        let mut before = [0; 8];
        let beginning = next.wrapping_sub(arch::CALL_WITH_NUMBER as u64);
        self.read(beginning, &mut before)?;
        if !arch::makes_call(&before, number) {
            return Ok(false);
        }
        let only = Dispatch {
            mode: ON,
            selector: 0,
            offset: next,
            length: 1,
        };
        match self.set_dispatch(&only) {
            // Older kernels don't know the request, and a filter may forbid it.
            Err(Fault::Failed(_, errno)) if errno != Errno::ESRCH => return Ok(false),
            set => set?,
        }
        self.ask("PTRACE_CONT", libc::PTRACE_CONT as _, 0, 0)?;
        Ok(true)
    }

    /// Has it held at each call again. `at_other` says whether it is held at SIGSYS: then it enters
    /// the call once more, which it hasn't made.
    pub fn end_run(&self, at_other: bool) -> Result<(), Fault> {
        let off = Dispatch {
            mode: OFF,
            selector: 0,
            offset: 0,
            length: 0,
        };
        self.set_dispatch(&off)?;
        if at_other {
            self.set_registers(&self.registers()?.again())?;
        }
        Ok(())
    }

    fn set_dispatch(&self, dispatch: &Dispatch) -> Result<(), Fault> {
        let length = size_of::<Dispatch>() as u64;
        let from = std::ptr::from_ref(dispatch);
        let name = "PTRACE_SET_SYSCALL_USER_DISPATCH_CONFIG";
        self.ask(name, SET_DISPATCH, length, from as u64)
    }
}
