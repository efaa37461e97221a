//! A child that is held at its system calls (ptrace(2)), and parked at one of them: from then on
//! nobody traces it, and it waits for a descriptor to go on with, or has copies of itself go on
//! with one each.
//!
//! ptrace(2) knows one tracer of a process: the thread that made it. So a [`Tracee`] stays where
//! it was made.

mod tick;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::process::Ended;
pub use x86_64::MOST_FILES;
use x86_64::{Data, Registers};

pub use tick::Tick;

/// A child of this thread that is traced by it, and killed with it, or when this is dropped.
#[derive(Debug)]
pub struct Tracee {
    pid: Pid,
    /// Whether it isn't this one's any more: it was reaped, and the id may be another's; or it is
    /// parked.
    gone: Cell<bool>,
    /// Only the thread that made it may ask for anything.
    bound: PhantomData<*mut ()>,
}

/// What a tracee has been held at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The entry of a system call.
    Entry(Call),
    /// The exit of one, with what it comes back with: an errno below 0.
    Exit(i64),
    /// The first instruction of another program.
    Exec,
    /// A signal that is about to arrive. It does if the tracee goes on with it.
    Signal(i32),
    /// It has ended, and was reaped.
    Ended(Ended),
}

/// A system call: its number and arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// As in <sys/syscall.h>.
    pub number: libc::c_long,
    /// As far as it has that many.
    pub arguments: [u64; 6],
}

/// Why there is nothing more to be had from a tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has ended, and was reaped.
    Ended(Ended),
    /// A request of ptrace(2), or a call that it was made to make, failed.
    Failed(&'static str, Errno),
    /// It is of another architecture than this program.
    Foreign,
}

/// What goes on in a parked process, once it does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parking {
    /// Whether copies go on, one for each descriptor, or itself, with the first.
    pub copies: bool,
    /// Where it had its id written at its end (set_tid_address(2)), if it had.
    pub clear_id: Option<u64>,
    /// Its list of robust futexes and its length (set_robust_list(2)), if it has one.
    pub robust: Option<[u64; 2]>,
    /// The files, at most [`MOST_FILES`], that a copy opens anew: a position in a file is shared
    /// by all who have inherited the descriptor.
    pub files: Vec<OpenFile>,
}

/// A regular file or directory that a process has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// Its descriptor.
    pub number: u32,
    /// The earlier descriptor that this is another one of: it isn't opened anew, but copied.
    pub like: Option<u32>,
    /// The flags of open(2) to open it with.
    pub flags: i32,
    /// The position in it.
    pub offset: u64,
    /// Whether it is closed at an exec.
    pub close_on_exec: bool,
}

const PAGE: u64 = 4096;

impl Tracee {
    /// A child that this thread has made, that has asked to be traced (`PTRACE_TRACEME`) and
    /// executed a program, all signals blocked. It is held at the first instruction of that, with
    /// an empty mask.
    pub fn adopt(pid: Pid) -> Result<Self, Fault> {
        let tracee = Self {
            pid,
            gone: Cell::new(false),
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
        let options =
            libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACEEXEC | libc::PTRACE_O_EXITKILL;
        tracee.ask(
            "PTRACE_SETOPTIONS",
            libc::PTRACE_SETOPTIONS as _,
            0,
            options as u64,
        )?;
        tracee.set_mask(0)?;
        Ok(tracee)
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Has it go on until its next system call, or the end of the one that it is in. At a signal
    /// it goes on with that; with 0 the signal is forgotten.
    pub fn resume(&self, signal: i32) -> Result<(), Fault> {
        self.ask(
            "PTRACE_SYSCALL",
            libc::PTRACE_SYSCALL as _,
            0,
            signal as u64,
        )
    }

    /// Waits until it is held; `None` if a [`Tick`] came first.
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

    /// Interrupts what it is waiting for: the exit of the call that it is in follows, then
    /// SIGSTOP, which is to be forgotten.
    pub fn interrupt(&self) {
        // It hasn't been reaped: this thread alone does that.
        let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGSTOP);
    }

    /// Parks it at the call whose entry, or whose interrupted exit, it is held at, as if it hadn't
    /// begun to make it. In messages on its descriptor 0 there wait for it the socket that it is to
    /// receive descriptors on, and for one that is copied a file of a page, in whose first word the
    /// kernel will write the id of each copy before that runs.
    ///
    /// From then on it goes on by itself, and isn't traced.
    pub fn park(self, entry: bool, parking: &Parking) -> Result<(), Fault> {
        let held = self.registers()?;
        let mut instruction = [0; 8];
        self.read(held.instruction(), &mut instruction)?;
        if instruction[..x86_64::INSTRUCTION.len()] != x86_64::INSTRUCTION {
            return Err(Fault::Foreign);
        }
        let mask = self.mask()?;
        self.set_mask(u64::MAX)?;
        if entry {
            // The kernel skips the call.
            self.set_registers(&held.without_call())?;
            self.go_to("skipped call", |stop| matches!(stop, Stop::Exit(_)))?;
        }
        let goes_on = held.again();
        let code_length = x86_64::code().len() as u64;
        let code = self.map(&goes_on, code_length, libc::PROT_READ | libc::PROT_EXEC)?;
        self.write(code, x86_64::code())?;
        let length = size_of::<Data>() as u64;
        let address = self.map(&goes_on, length, libc::PROT_READ | libc::PROT_WRITE)?;
        let control = self.receive(&goes_on, address)?;
        let mut data = Data::new(&goes_on, address);
        data.control = control;
        if parking.copies {
            self.plan_copies(&held, &mut data, parking)?;
            data.copy_id = self.share(&goes_on, address)?;
            data.set_files(address, &parking.files);
        }
        // From now on it sees the end by itself, on the control socket.
        let outlives = [libc::PR_SET_PDEATHSIG as u64, 0, 0, 0, 0, 0];
        self.call(&goes_on, "prctl(2)", libc::SYS_prctl, outlives)?;
        let dumpable = [libc::PR_GET_DUMPABLE as u64, 0, 0, 0, 0, 0];
        data.dumpable = self.call(&goes_on, "prctl(2)", libc::SYS_prctl, dumpable)?;
        self.write_data(address, &data)?;
        // What fails for each copy fails here.
        for (path, flags) in data.openings() {
            let name = "opening a file anew by /proc/self/fd";
            let opened = self.call(&goes_on, name, libc::SYS_open, [path, flags, 0, 0, 0, 0])?;
            self.call(
                &goes_on,
                "close(2)",
                libc::SYS_close,
                [opened, 0, 0, 0, 0, 0],
            )?;
        }
        if data.dumpable == 1 {
            // Others of the same user could change what it is. From now on even this thread may
            // have no access to its memory.
            let hidden = [libc::PR_SET_DUMPABLE as u64, 0, 0, 0, 0, 0];
            self.call(&goes_on, "prctl(2)", libc::SYS_prctl, hidden)?;
        }
        self.set_registers(&goes_on.planted(code, address))?;
        self.set_mask(mask)?;
        self.ask("PTRACE_DETACH", libc::PTRACE_DETACH as _, 0, 0)?;
        self.gone.set(true);
        Ok(())
    }

    /// Has it receive the next descriptor that waits for it, with its data at `address`.
    fn receive(&self, goes_on: &Registers, address: u64) -> Result<u64, Fault> {
        self.write_data(address, &Data::new(goes_on, address))?;
        let flags = (libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) as u64;
        let arguments = [0, Data::message(address), flags, 0, 0, 0];
        self.call(goes_on, "recvmsg(2)", libc::SYS_recvmsg, arguments)?;
        let mut received = [0; 8];
        self.read(Data::descriptor(address), &mut received)?;
        let [a, b, c, d, ..] = received;
        u64::try_from(i32::from_ne_bytes([a, b, c, d]))
            .map_err(|_| Fault::Failed("receiving a descriptor", Errno::EMFILE))
    }

    /// Maps the file that it is sent, for itself and none of its copies, and says where.
    fn share(&self, goes_on: &Registers, address: u64) -> Result<u64, Fault> {
        let file = self.receive(goes_on, address)?;
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        // There from the first copy on, whatever else is short then.
        let flags = (libc::MAP_SHARED | libc::MAP_POPULATE) as u64;
        let mapping = [0, PAGE, protection, flags, file, 0];
        let at = self.call(goes_on, "mmap(2)", libc::SYS_mmap, mapping)?;
        let advice = [at, PAGE, libc::MADV_DONTFORK as u64, 0, 0, 0];
        self.call(goes_on, "madvise(2)", libc::SYS_madvise, advice)?;
        self.call(goes_on, "close(2)", libc::SYS_close, [file, 0, 0, 0, 0, 0])?;
        Ok(at)
    }

    /// What the kernel and copies need for these to know their own ids.
    fn plan_copies(
        &self,
        held: &Registers,
        data: &mut Data,
        parking: &Parking,
    ) -> Result<(), Fault> {
        let mut flags = libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID | libc::SIGCHLD;
        if let Some(clear) = parking.clear_id {
            let (at, elsewhere) = match self.thread_id_at(clear, held)? {
                Some(at) => (at, at != clear),
                None => return Err(Fault::Failed("finding its thread id", Errno::ENOENT)),
            };
            flags |= libc::CLONE_CHILD_SETTID;
            data.thread_id = at;
            if elsewhere {
                data.clear_id = clear;
            } else {
                flags |= libc::CLONE_CHILD_CLEARTID;
            }
        }
        data.flags = flags as u64;
        data.robust = parking.robust.unwrap_or_default();
        Ok(())
    }

    /// Where its C library keeps its thread's id: glibc in the place where the kernel clears it,
    /// musl elsewhere in what the thread pointer points to.
    fn thread_id_at(&self, clear: u64, held: &Registers) -> Result<Option<u64>, Fault> {
        const NEAR: u64 = 128;
        let id = self.pid.as_raw() as u32;
        let word = |at: u64| -> Result<u32, Fault> {
            let mut bytes = [0; 8];
            let start = at & !7;
            self.read(start, &mut bytes)?;
            let word = u64::from_ne_bytes(bytes) >> ((at - start) * 8);
            Ok(word as u32)
        };
        if word(clear)? == id {
            return Ok(Some(clear));
        }
        let base = held.thread_pointer();
        let mut found = (base..base + NEAR)
            .step_by(4)
            .filter_map(|at| match word(at) {
                Ok(value) => (value == id).then_some(Ok(at)),
                Err(fault) => Some(Err(fault)),
            });
        let first = found.next().transpose()?;
        // Not one of two.
        Ok(first.filter(|_| found.next().is_none()))
    }

    /// Maps memory of its own.
    fn map(&self, goes_on: &Registers, length: u64, protection: i32) -> Result<u64, Fault> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let length = length.next_multiple_of(PAGE);
        let arguments = [0, length, protection as u64, flags as u64, u64::MAX, 0];
        self.call(goes_on, "mmap(2)", libc::SYS_mmap, arguments)
    }

    /// Has it make a call from where it will go on.
    fn call(
        &self,
        goes_on: &Registers,
        name: &'static str,
        number: libc::c_long,
        arguments: [u64; 6],
    ) -> Result<u64, Fault> {
        self.set_registers(&goes_on.with_call(number, arguments))?;
        self.go_to(name, |stop| matches!(stop, Stop::Entry(_)))?;
        self.go_to(name, |stop| matches!(stop, Stop::Exit(_)))?;
        let result = self.registers()?.result();
        u64::try_from(result).map_err(|_| Fault::Failed(name, Errno::from_raw(-result as i32)))
    }

    /// Has it go on to such a stop; no signal arrives on the way.
    fn go_to(&self, what: &'static str, is: impl Fn(Stop) -> bool) -> Result<(), Fault> {
        self.resume(0)?;
        loop {
            match self.wait()? {
                Some(Stop::Ended(ended)) => return Err(Fault::Ended(ended)),
                Some(stop) if is(stop) => return Ok(()),
                // The one that interrupted it, or one that can't be blocked.
                Some(Stop::Signal(_)) => self.resume(0)?,
                Some(_) => return Err(Fault::Failed(what, Errno::EPROTO)),
                None => {}
            }
        }
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
        if info.architecture != x86_64::ARCHITECTURE {
            return Err(Fault::Foreign);
        }
        match info.operation {
            ENTRY if Registers::is_native(info.rest[0]) => {
                let mut arguments = [0; 6];
                arguments.copy_from_slice(&info.rest[1..7]);
                Ok(Stop::Entry(Call {
                    number: info.rest[0] as libc::c_long,
                    arguments,
                }))
            }
            EXIT => Ok(Stop::Exit(info.rest[0] as i64)),
            _ => Err(Fault::Foreign),
        }
    }

    /// The number of the call that it is held in.
    pub fn call_number(&self) -> Result<i64, Fault> {
        Ok(self.registers()?.number())
    }

    fn registers(&self) -> Result<Registers, Fault> {
        let mut registers = Registers::empty();
        let to = &raw mut registers;
        self.ask("PTRACE_GETREGS", libc::PTRACE_GETREGS as _, 0, to as u64)?;
        Ok(registers)
    }

    fn set_registers(&self, registers: &Registers) -> Result<(), Fault> {
        let from = ptr::from_ref(registers);
        self.ask("PTRACE_SETREGS", libc::PTRACE_SETREGS as _, 0, from as u64)
    }

    fn mask(&self) -> Result<u64, Fault> {
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

    fn set_mask(&self, mask: u64) -> Result<(), Fault> {
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

    /// Writes its memory, whether or not it may itself.
    fn write(&self, to: u64, from: &[u8]) -> Result<(), Fault> {
        for (word, to) in from.chunks(WORD).zip((to..).step_by(WORD)) {
            let mut value = [0; WORD];
            value[..word.len()].copy_from_slice(word);
            let value = u64::from_ne_bytes(value);
            self.ask("PTRACE_POKEDATA", libc::PTRACE_POKEDATA as _, to, value)?;
        }
        Ok(())
    }

    fn write_data(&self, to: u64, data: &Data) -> Result<(), Fault> {
        // SAFETY: integers without gaps between them, for as long as the reference.
        let bytes = unsafe {
            std::slice::from_raw_parts(ptr::from_ref(data).cast::<u8>(), size_of::<Data>())
        };
        self.write(to, bytes)
    }

    /// A request of ptrace(2) itself: the C library's wrapper has other results for some.
    fn ask(
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
            // It hasn't been reaped, so that the id is its own.
            let _ = nix::sys::signal::kill(self.pid, nix::sys::signal::Signal::SIGKILL);
        }
        while !self.gone.get() {
            // Its end, if that hasn't come yet. A wait that fails is the last.
            let _ = self.wait_raw();
        }
    }
}

const WORD: usize = 8;

/// Requests that not every C library names (<linux/ptrace.h>).
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

/// Whether a call that was interrupted has come back with this, to be made once more or to
/// fail (<linux/errno.h>).
pub fn is_interruption(result: i64) -> bool {
    const RESTARTS: [i64; 4] = [512, 513, 514, 516];
    RESTARTS.contains(&-result) || result == -i64::from(libc::EINTR)
}
