//! A child that is held at its system calls (ptrace(2)).

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::call::{Call, Fault, Stop};
#[cfg(target_arch = "x86_64")]
use super::x86_64::{self as arch, Registers};
use crate::sys::process::Ended;

/// Has this thread trace a child of the process from now on (`PTRACE_SEIZE`). It is held when it has
/// exec'd a program, and is then to be adopted.
pub fn seize(child: Pid) -> Result<(), Errno> {
    // SAFETY: the call takes integers.
    let seized = unsafe {
        let (child, none) = (child.as_raw(), 0_usize);
        libc::syscall(libc::SYS_ptrace, libc::PTRACE_SEIZE, child, none, OPTIONS)
    };
    Errno::result(seized).map(drop)
}

const OPTIONS: libc::c_int =
    libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_EXITKILL;

/// A child of this thread that it traces. The child is killed with it, or when this is dropped.
///
/// ptrace(2) knows one tracer of a process, which is a thread: so this stays in the thread that
/// made it.
#[derive(Debug)]
pub struct Tracee {
    pub(super) pid: Pid,
    /// Whether it was reaped, so that the id may be another's, or is parked.
    pub(super) gone: Cell<bool>,
    /// The address after the instruction of its last call.
    pub(super) next: Cell<u64>,
    /// Only the thread that made it may use it.
    bound: PhantomData<*mut ()>,
}

impl Tracee {
    /// Takes over a child of this thread that has asked to be traced (`PTRACE_TRACEME`), or that this thread
    /// has seized, and that has
    /// exec'd a program with all signals blocked. It is then held at the program's first
    /// instruction, with an empty mask.
    pub fn adopt(pid: Pid) -> Result<Self, Fault> {
        let tracee = Self {
            pid,
            gone: Cell::new(false),
            next: Cell::new(0),
            bound: PhantomData,
        };
        loop {
            match tracee.wait_raw() {
                Ok(Some(status)) if libc::WIFSTOPPED(status) => {
                    if libc::WSTOPSIG(status) == libc::SIGTRAP {
                        break;
                    }
                    tracee.resume(0)?;
                }
                Ok(Some(status)) => return Err(Fault::Ended(ended(status))),
                Ok(None) => {}
                Err(errno) => return Err(Fault::Failed("waitpid(2)", errno)),
            }
        }
        tracee.ask(
            "PTRACE_SETOPTIONS",
            libc::PTRACE_SETOPTIONS as _,
            0,
            OPTIONS as u64,
        )?;
        tracee.set_mask(0)?;
        Ok(tracee)
    }

    /// The address after the instruction of its last call.
    pub fn after_call(&self) -> u64 {
        self.next.get()
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Lets it go on to its next system call, or to the end of the present one. It gets `signal`,
    /// unless that is 0.
    pub fn resume(&self, signal: i32) -> Result<(), Fault> {
        self.ask(
            "PTRACE_SYSCALL",
            libc::PTRACE_SYSCALL as _,
            0,
            signal as u64,
        )
    }

    /// Waits until it is held; `None` if a [`Tick`](super::Tick) came first.
    pub fn wait(&self) -> Result<Option<Stop>, Fault> {
        let status = match self.wait_raw() {
            Ok(Some(status)) => status,
            Ok(None) => return Ok(None),
            Err(errno) => return Err(Fault::Failed("waitpid(2)", errno)),
        };
        if !libc::WIFSTOPPED(status) {
            return Ok(Some(Stop::Ended(ended(status))));
        }
        let signal = libc::WSTOPSIG(status);
        if signal == libc::SIGTRAP | 0x80 {
            return self.call_stop().map(Some);
        }
        if status >> 16 == libc::PTRACE_EVENT_EXEC {
            return Ok(Some(Stop::Exec));
        }
        Ok(Some(Stop::Signal(signal)))
    }

    /// Whether a signal that is about to arrive is a consequence of what it did itself, and wasn't
    /// sent by another process (sigaction(2), `si_code`).
    pub fn has_caused(&self, signal: i32) -> Result<bool, Fault> {
        let info = self.signal()?;
        Ok(match info.si_code {
            // Also of SIGPIPE and SIGXFSZ. Others can't pretend to be this process here.
            // SAFETY: the kernel sets the sender with this code.
            libc::SI_USER => unsafe { info.si_pid() == self.pid.as_raw() },
            libc::SI_KERNEL if signal == libc::SIGXCPU => true,
            code => code > 0 && FAULTS.contains(&signal),
        })
    }

    /// Whether SIGSYS, which is about to arrive, is that of a call that ends a run.
    pub fn ends_run(&self) -> Result<bool, Fault> {
        /// `SYS_USER_DISPATCH` (<asm-generic/siginfo.h>).
        const DISPATCH: i32 = 2;
        Ok(self.signal()?.si_code == DISPATCH)
    }

    /// What the kernel says of the signal that is about to arrive.
    fn signal(&self) -> Result<libc::siginfo_t, Fault> {
        // SAFETY: integers and addresses, for which zeroes are a value.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let to = &raw mut info;
        self.ask(
            "PTRACE_GETSIGINFO",
            libc::PTRACE_GETSIGINFO as _,
            0,
            to as u64,
        )?;
        Ok(info)
    }

    /// Interrupts the call that it is in. The exit of the call follows, then SIGSTOP, which the
    /// caller drops.
    pub fn interrupt(&self) {
        // Only this thread reaps it, and it hasn't.
        let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGSTOP);
    }

    fn call_stop(&self) -> Result<Stop, Fault> {
        let mut info = Info::default();
        let length = size_of::<Info>() as u64;
        let to = &raw mut info;
        self.ask(
            "PTRACE_GET_SYSCALL_INFO",
            GET_SYSCALL_INFO,
            length,
            to as u64,
        )?;
        if info.architecture != arch::ARCHITECTURE {
            return Err(Fault::Foreign);
        }
        match info.operation {
            ENTRY if Registers::is_native(info.rest[0]) => {
                self.next.set(info.instruction);
                let mut arguments = [0; 6];
                arguments.copy_from_slice(&info.rest[1..7]);
                Ok(Stop::Entry(arch::latest(Call {
                    number: info.rest[0] as libc::c_long,
                    arguments,
                })))
            }
            EXIT => Ok(Stop::Exit(info.rest[0] as i64)),
            _ => Err(Fault::Foreign),
        }
    }

    pub(super) fn registers(&self) -> Result<Registers, Fault> {
        let mut registers = Registers::empty();
        let to = &raw mut registers;
        self.ask("PTRACE_GETREGS", libc::PTRACE_GETREGS as _, 0, to as u64)?;
        Ok(registers)
    }

    pub(super) fn set_registers(&self, registers: &Registers) -> Result<(), Fault> {
        let from = ptr::from_ref(registers);
        self.ask("PTRACE_SETREGS", libc::PTRACE_SETREGS as _, 0, from as u64)
    }

    pub(super) fn mask(&self) -> Result<u64, Fault> {
        let mut mask = 0_u64;
        let to = &raw mut mask;
        self.ask(
            "PTRACE_GETSIGMASK",
            GETSIGMASK,
            size_of::<u64>() as u64,
            to as u64,
        )?;
        Ok(mask)
    }

    pub(super) fn set_mask(&self, mask: u64) -> Result<(), Fault> {
        let from = &raw const mask;
        self.ask(
            "PTRACE_SETSIGMASK",
            SETSIGMASK,
            size_of::<u64>() as u64,
            from as u64,
        )
    }

    /// Reads its memory, a number of whole words.
    pub fn read(&self, from: u64, to: &mut [u8]) -> Result<(), Fault> {
        for (word, from) in to.chunks_mut(WORD).zip((from..).step_by(WORD)) {
            let mut value = 0_u64;
            let there = &raw mut value;
            self.ask(
                "PTRACE_PEEKDATA",
                libc::PTRACE_PEEKDATA as _,
                from,
                there as u64,
            )?;
            word.copy_from_slice(&value.to_ne_bytes()[..word.len()]);
        }
        Ok(())
    }

    /// Writes its memory, a number of whole words, whether or not it may itself.
    pub fn write(&self, to: u64, from: &[u8]) -> Result<(), Fault> {
        for (word, to) in from.chunks(WORD).zip((to..).step_by(WORD)) {
            let mut value = [0; WORD];
            value[..word.len()].copy_from_slice(word);
            let value = u64::from_ne_bytes(value);
            self.ask("PTRACE_POKEDATA", libc::PTRACE_POKEDATA as _, to, value)?;
        }
        Ok(())
    }

    /// Makes a request of ptrace(2) without the C library's wrapper, which changes some results.
    pub(super) fn ask(
        &self,
        name: &'static str,
        request: libc::c_long,
        address: u64,
        data: u64,
    ) -> Result<(), Fault> {
        // SAFETY: where `data` is an address, it is one of a live local of the type, or the length
        // given, that the request reads or writes.
        let result =
            unsafe { libc::syscall(libc::SYS_ptrace, request, self.pid.as_raw(), address, data) };
        Errno::result(result).map_err(|errno| Fault::Failed(name, errno))?;
        Ok(())
    }

    fn wait_raw(&self) -> Result<Option<i32>, Errno> {
        let mut status = 0;
        // SAFETY: the status is a live local.
        let result = unsafe { libc::waitpid(self.pid.as_raw(), &raw mut status, libc::__WALL) };
        match crate::sys::result::check(result) {
            Ok(_) => {
                self.gone.set(!libc::WIFSTOPPED(status));
                Ok(Some(status))
            }
            Err(Errno::EINTR) => Ok(None),
            Err(errno) => {
                self.gone.set(true);
                Err(errno)
            }
        }
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if !self.gone.get() {
            // It hasn't been reaped, so the id is its own.
            let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
        }
        while !self.gone.get() {
            // Its end, if that hasn't come yet. A wait that fails is the last.
            let _ = self.wait_raw();
        }
    }
}

const WORD: usize = 8;

/// Signals of faults.
const FAULTS: [i32; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGSYS,
];

/// Requests without a name in some C libraries (<linux/ptrace.h>).
const GET_SYSCALL_INFO: libc::c_long = 0x420e;
const GETSIGMASK: libc::c_long = 0x420a;
const SETSIGMASK: libc::c_long = 0x420b;

/// `struct ptrace_syscall_info`, Linux 5.3.
#[repr(C)]
#[derive(Default)]
struct Info {
    operation: u8,
    padding: [u8; 3],
    architecture: u32,
    instruction: u64,
    stack: u64,
    /// Number and arguments at an entry, result at an exit.
    rest: [u64; 8],
}

const ENTRY: u8 = 1;
const EXIT: u8 = 2;

fn ended(status: i32) -> Ended {
    if libc::WIFEXITED(status) {
        Ended::Exited(libc::WEXITSTATUS(status) as u8)
    } else {
        Ended::Killed(libc::WTERMSIG(status))
    }
}
