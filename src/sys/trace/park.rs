//! A tracee is parked: code is planted in it that waits for descriptors.

use std::ptr;

use nix::errno::Errno;

use super::breakpoint::Held;
use super::call::{Fault, Stop};
use super::parking::{PAGE, Parking};
use super::tracee::Tracee;
#[cfg(target_arch = "x86_64")]
use super::x86_64::{self as arch, Data, Registers};

impl Tracee {
    /// Parks it where it is held, as if a call that it is held at hadn't begun. From then on it isn't
    /// traced.
    ///
    /// Its descriptor 0 has messages waiting. The first has the socket on which it receives
    /// descriptors. For a process that is copied, the second has a file of a page: there the kernel
    /// writes the id of each copy, in the first word, before the copy runs.
    pub fn park(self, at: Held, parking: &Parking) -> Result<(), Fault> {
        if let Held::Breakpoint(breakpoint) = &at {
            self.enter_call(breakpoint)?;
        }
        let held = self.registers()?;
        let mut instruction = [0; 8];
        self.read(held.instruction(), &mut instruction)?;
        if instruction[..arch::INSTRUCTION.len()] != arch::INSTRUCTION {
            return Err(Fault::Foreign);
        }
        let mask = self.mask()?;
        self.set_mask(u64::MAX)?;
        if at != Held::Interrupted {
            // The kernel skips the call.
            self.set_registers(&held.without_call())?;
            self.go_to("skipped call", |stop| matches!(stop, Stop::Exit(_)))?;
        }
        let goes_on = held.again();
        let code_length = arch::code().len() as u64;
        let code = self.map(&goes_on, code_length, libc::PROT_READ | libc::PROT_EXEC)?;
        self.write(code, arch::code())?;
        if let Held::Breakpoint(breakpoint) = &at {
            self.restore(breakpoint)?;
        }
        // By an instruction of its own: the program's may be gone.
        let caller = goes_on.at(code + arch::call_in_code());
        let caller = &caller;
        let length = size_of::<Data>() as u64;
        let address = self.map(caller, length, libc::PROT_READ | libc::PROT_WRITE)?;
        let control = self.receive(caller, address)?;
        if let Some(processors) = &parking.processors {
            // The data isn't there yet.
            self.write(address, processors)?;
            let wanted = [0, processors.len() as u64, address, 0, 0, 0];
            let name = "sched_setaffinity(2)";
            self.call(caller, name, libc::SYS_sched_setaffinity, wanted)?;
        }
        let mut data = Data::new(&goes_on, address);
        data.control = control;
        data.mask = mask;
        data.error = u64::from(parking.error);
        if parking.session {
            data.lead = libc::SYS_setsid as u64;
        }
        if parking.copies {
            self.plan_copies(&held, &mut data, parking)?;
            data.copy_id = self.share(caller, address)?;
            data.set_files(address, &parking.files);
        }
        // From now on the end of the control socket ends it.
        if !parking.tied {
            let outlives = [libc::PR_SET_PDEATHSIG as u64, 0, 0, 0, 0, 0];
            self.call(caller, "prctl(2)", libc::SYS_prctl, outlives)?;
        }
        let dumpable = [libc::PR_GET_DUMPABLE as u64, 0, 0, 0, 0, 0];
        data.dumpable = self.call(caller, "prctl(2)", libc::SYS_prctl, dumpable)?;
        self.write_data(address, &data)?;
        // What would fail for each copy fails here.
        let directory = libc::AT_FDCWD as u64;
        for (path, flags) in data.openings() {
            let name = "opening a file again by /proc/self/fd";
            let opened = self.call(
                caller,
                name,
                libc::SYS_openat,
                [directory, path, flags, 0, 0, 0],
            )?;
            self.call(caller, "close(2)", libc::SYS_close, [opened, 0, 0, 0, 0, 0])?;
        }
        if data.dumpable == 1 {
            // Other processes of the same user could change it. From now on even this thread may
            // have no access to its memory.
            let hidden = [libc::PR_SET_DUMPABLE as u64, 0, 0, 0, 0, 0];
            self.call(caller, "prctl(2)", libc::SYS_prctl, hidden)?;
        }
        self.set_registers(&goes_on.planted(code, address))?;
        // It keeps all signals blocked. What a signal's handler does to its memory would be in all
        // later copies, and which signals come is up to other processes of its user. What is pending
        // isn't inherited; a process that goes on itself ends then.
        self.ask("PTRACE_DETACH", libc::PTRACE_DETACH as _, 0, 0)?;
        self.gone.set(true);
        Ok(())
    }

    /// Makes it receive the next descriptor that waits for it, with its data at `address`.
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

    /// Maps the file that waits for it, for itself and none of its copies, and returns the address.
    fn share(&self, goes_on: &Registers, address: u64) -> Result<u64, Fault> {
        let file = self.receive(goes_on, address)?;
        let protection = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        // Populated now: memory may be short at the first copy.
        let flags = (libc::MAP_SHARED | libc::MAP_POPULATE) as u64;
        let mapping = [0, PAGE, protection, flags, file, 0];
        let at = self.call(goes_on, "mmap(2)", libc::SYS_mmap, mapping)?;
        let advice = [at, PAGE, libc::MADV_DONTFORK as u64, 0, 0, 0];
        self.call(goes_on, "madvise(2)", libc::SYS_madvise, advice)?;
        self.call(goes_on, "close(2)", libc::SYS_close, [file, 0, 0, 0, 0, 0])?;
        Ok(at)
    }

    /// Notes what copies, and the kernel, need so that each copy knows its own id.
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
        let bits = parking.own_ids.iter().rev();
        data.own_ids = bits.fold(0, |bits, &own| bits << 1 | u64::from(own));
        Ok(())
    }

    /// Finds the address at which its C library keeps the thread's id. With glibc it is the address
    /// that the kernel clears; with musl it is near the thread pointer.
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
        // Two candidates are as bad as none.
        Ok(first.filter(|_| found.next().is_none()))
    }

    /// Makes it map memory, and returns the address.
    fn map(&self, goes_on: &Registers, length: u64, protection: i32) -> Result<u64, Fault> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let length = length.next_multiple_of(PAGE);
        let arguments = [0, length, protection as u64, flags as u64, u64::MAX, 0];
        self.call(goes_on, "mmap(2)", libc::SYS_mmap, arguments)
    }

    /// Makes it make a call from where it will go on, and returns the result.
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

    /// Lets it go on to such a stop; no signal arrives before.
    pub(super) fn go_to(&self, what: &'static str, is: impl Fn(Stop) -> bool) -> Result<(), Fault> {
        self.resume(0)?;
        loop {
            match self.wait()? {
                Some(Stop::Ended(ended)) => return Err(Fault::Ended(ended)),
                Some(stop) if is(stop) => return Ok(()),
                // The signal that interrupted it, or a signal that can't be blocked.
                Some(Stop::Signal(_)) => self.resume(0)?,
                Some(_) => return Err(Fault::Failed(what, Errno::EPROTO)),
                None => {}
            }
        }
    }

    fn write_data(&self, to: u64, data: &Data) -> Result<(), Fault> {
        // SAFETY: integers without gaps between them, for as long as the reference.
        let bytes = unsafe {
            std::slice::from_raw_parts(ptr::from_ref(data).cast::<u8>(), size_of::<Data>())
        };
        self.write(to, bytes)
    }
}
