//! What of holding and planting depends on the processor: x86-64 with the system calls of
//! 64-bit Linux (System V ABI, AMD64 supplement, A.2.1).

use std::arch::global_asm;
use std::mem::offset_of;

use libc::user_regs_struct;

use super::OpenFile;

/// Of which architecture calls must be (`AUDIT_ARCH_X86_64`).
pub(super) const ARCHITECTURE: u32 = 0xc000_003e;

/// The instruction that makes a call: `syscall`.
pub(super) const INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// What a copy ends with that can't go on: as a shell says that a program can't be run.
const CANNOT: i32 = 126;

/// What is below the stack pointer and in use (3.2.2).
const RED_ZONE: u64 = 128;

/// What the number of a call of the x32 ABI has in it (`__X32_SYSCALL_BIT`).
const X32: u64 = 0x4000_0000;

/// What a held process goes on with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers(user_regs_struct);

impl Registers {
    /// Of a process with nothing in them: to be filled in (ptrace(2), `PTRACE_GETREGS`).
    pub(super) fn empty() -> Self {
        // SAFETY: integers all of them, for which zeroes are a value.
        Self(unsafe { std::mem::zeroed() })
    }

    /// Whether the call that the process is at is one of this ABI.
    pub(super) fn is_native(number: u64) -> bool {
        number & X32 == 0
    }

    /// Where the instruction is that made the call which the process is in.
    pub(super) fn instruction(&self) -> u64 {
        self.0.rip.wrapping_sub(INSTRUCTION.len() as u64)
    }

    /// With nothing to do for the kernel when the process goes on: neither the call that it is
    /// at the entry of, nor one that was interrupted once more.
    pub(super) fn without_call(mut self) -> Self {
        self.0.orig_rax = u64::MAX;
        self
    }

    /// About to make the call once more that these were seen at the entry of, or interrupted in.
    pub(super) fn again(mut self) -> Self {
        self.0.rip = self.instruction();
        self.0.rax = self.0.orig_rax;
        self.without_call()
    }

    /// About to make another call, by the same instruction.
    pub(super) fn with_call(mut self, number: libc::c_long, arguments: [u64; 6]) -> Self {
        self.0.rax = number as u64;
        [
            self.0.rdi, self.0.rsi, self.0.rdx, self.0.r10, self.0.r8, self.0.r9,
        ] = arguments;
        self
    }

    /// What a call has come back with: a value, or an errno below 0.
    pub(super) fn result(&self) -> i64 {
        self.0.rax as i64
    }

    /// The number of the call that the process is, or was, in.
    pub(super) fn number(&self) -> i64 {
        self.0.orig_rax as i64
    }

    /// Where thread-local storage begins.
    pub(super) fn thread_pointer(&self) -> u64 {
        self.0.fs_base
    }

    /// About to run what is planted at `code` with its data at `data`.
    pub(super) fn planted(mut self, code: u64, data: u64) -> Self {
        self.0.rip = code;
        self.0.rbp = data;
        // On the program's own stack, where a signal's handler finds room too; below what a
        // function may use without saying so.
        self.0.rsp = self.0.rsp.wrapping_sub(RED_ZONE) & !15;
        // DF and TF clear, as code expects.
        self.0.eflags = 0x202;
        self
    }
}

/// What the planted code works with, at the beginning of a page of its own. `rbp` points to it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Data {
    /// What was in the registers, but for rcx and r11, which a call leaves undefined.
    saved: Saved,
    /// The flags of clone(2), or 0 if there is to be no copy.
    pub(super) flags: u64,
    /// Where the C library keeps the thread's id (`CLONE_CHILD_SETTID`).
    pub(super) thread_id: u64,
    /// Where the kernel writes a copy's id before it lets it run (`CLONE_PARENT_SETTID`).
    pub(super) copy_id: u64,
    /// For set_tid_address(2) in a copy, if that is another place; else 0.
    pub(super) clear_id: u64,
    /// For set_robust_list(2) in a copy: list and length; or 0.
    pub(super) robust: [u64; 2],
    /// Whether the process could be traced by others before it was parked
    /// (prctl(2), `PR_SET_DUMPABLE`).
    pub(super) dumpable: u64,
    /// The control socket.
    pub(super) control: u64,
    /// A message to be received, msghdr of recvmsg(2), and its parts.
    message: Message,
    /// What is received, and isn't looked at.
    byte: u64,
    /// What is said: the id of the process that goes on, or an errno below 0.
    answer: u64,
    /// How long to wait until a file is opened anew: seconds and nanoseconds.
    pause: [u64; 2],
    /// cmsghdr of cmsg(3) and a descriptor.
    ancillary: Ancillary,
    /// How many files are opened anew in a copy.
    pub(super) file_count: u64,
    files: [File; MOST_FILES],
}

/// A file that a copy opens anew, so that it has a position of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct File {
    /// Where its name is, or 0 for what is a copy of another descriptor.
    path: u64,
    /// The flags of open(2), or the other descriptor.
    flags: u64,
    /// The position.
    offset: u64,
    /// The descriptor.
    number: u64,
    /// `O_CLOEXEC`, or 0.
    close_on_exec: u64,
    /// /proc/self/fd/NUMBER
    name: [u8; 24],
}

/// How many files a copy can open anew.
pub const MOST_FILES: usize = 32;

const _: () = assert!(size_of::<Data>() <= super::PAGE as usize);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Saved {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    rbp: u64,
    rbx: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rax: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    rsp: u64,
    rip: u64,
    eflags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Message {
    name: u64,
    name_length: u64,
    parts: u64,
    part_count: u64,
    ancillary: u64,
    ancillary_length: u64,
    flags: u64,
    part: u64,
    part_length: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Ancillary {
    length: u64,
    level: i32,
    kind: i32,
    descriptor: i32,
    padding: i32,
}

impl Data {
    /// For a process that goes on with these registers, once it does; `address` is where this
    /// will be in it.
    pub(super) fn new(registers: &Registers, address: u64) -> Self {
        let registers = &registers.0;
        let at = |offset: usize| address + offset as u64;
        Self {
            saved: Saved {
                r15: registers.r15,
                r14: registers.r14,
                r13: registers.r13,
                r12: registers.r12,
                rbp: registers.rbp,
                rbx: registers.rbx,
                r10: registers.r10,
                r9: registers.r9,
                r8: registers.r8,
                rax: registers.rax,
                rdx: registers.rdx,
                rsi: registers.rsi,
                rdi: registers.rdi,
                rsp: registers.rsp,
                rip: registers.rip,
                eflags: registers.eflags,
            },
            flags: 0,
            thread_id: 0,
            copy_id: 0,
            clear_id: 0,
            robust: [0; 2],
            dumpable: 0,
            control: 0,
            message: Message {
                name: 0,
                name_length: 0,
                parts: at(offset_of!(Self, message) + offset_of!(Message, part)),
                part_count: 1,
                ancillary: at(offset_of!(Self, ancillary)),
                ancillary_length: ANCILLARY as u64,
                flags: 0,
                part: at(offset_of!(Self, byte)),
                part_length: 1,
            },
            byte: 0,
            ancillary: Ancillary {
                length: 0,
                level: 0,
                kind: 0,
                descriptor: -1,
                padding: 0,
            },
            answer: 0,
            pause: [0, 100_000_000],
            file_count: 0,
            files: [File::default(); MOST_FILES],
        }
    }

    /// Has copies open these files anew; as many as there is room for.
    pub(super) fn set_files(&mut self, address: u64, files: &[OpenFile]) {
        let first = address + offset_of!(Self, files) as u64;
        let places = (first..).step_by(size_of::<File>());
        let room = self.files.iter_mut().zip(places);
        for ((file, place), open) in room.zip(files) {
            let mut name = [0; 24];
            let text = format!("/proc/self/fd/{}", open.number);
            // No descriptor has more than nine digits, hence the NUL.
            let length = text.len().min(name.len() - 1);
            name[..length].copy_from_slice(&text.as_bytes()[..length]);
            let opening = (place + offset_of!(File, name) as u64, open.flags as u64);
            let (path, flags) = open.like.map_or(opening, |like| (0, u64::from(like)));
            *file = File {
                path,
                flags,
                offset: open.offset,
                number: u64::from(open.number),
                close_on_exec: if open.close_on_exec {
                    libc::O_CLOEXEC as u64
                } else {
                    0
                },
                name,
            };
            self.file_count += 1;
        }
    }

    /// Path and flags of the files to be opened anew.
    pub(super) fn openings(&self) -> impl Iterator<Item = (u64, u64)> {
        let files = self.files.iter().take(self.file_count as usize);
        files
            .map(|file| (file.path, file.flags))
            .filter(|(path, _)| *path != 0)
    }

    /// Where the message to be received is.
    pub(super) fn message(address: u64) -> u64 {
        address + offset_of!(Self, message) as u64
    }

    /// Where the descriptor is that came with it.
    pub(super) fn descriptor(address: u64) -> u64 {
        address + DESCRIPTOR as u64
    }
}

/// As much as one descriptor needs (`CMSG_SPACE`).
const ANCILLARY: usize = size_of::<Ancillary>();
const DESCRIPTOR: usize = offset_of!(Data, ancillary) + offset_of!(Ancillary, descriptor);

// Receives connections on the control socket, one after the other. For each it makes a copy of
// the process, says its id or an errno, and the copy goes on; or there is to be no copy, and it says
// its own id and goes on itself. To go on is to have the connection on 0 and 1 and all registers as
// they were, where the process was parked. At the end of the control socket, or if nobody hears that
// it would go on itself, it ends.
//
// A copy that can't open a file anew, for want of memory or of places in the system's table, tries
// again until it can.
//
// `rbp` points to the data; besides it uses a word or two of stack. It is never writable.
global_asm!(
    ".pushsection .text.skd_planted,\"ax\",@progbits",
    ".balign 16",
    ".globl skd_planted",
    ".hidden skd_planted",
    "skd_planted:",
    "20:",
    "mov qword ptr [rbp + {ancillary_length}], {space}",
    "mov dword ptr [rbp + {descriptor}], -1",
    "mov edi, dword ptr [rbp + {control}]",
    "lea rsi, [rbp + {message}]",
    "mov edx, {cloexec}",
    "mov eax, {recvmsg}",
    "syscall",
    "cmp rax, -{eintr}",
    "je 20b",
    "test rax, rax",
    "jle 90f",
    "mov r12d, dword ptr [rbp + {descriptor}]",
    // The table was full.
    "mov rax, -{emfile}",
    "test r12d, r12d",
    "js 30f",
    "mov rdi, qword ptr [rbp + {flags}]",
    "test rdi, rdi",
    "jz 40f",
    "xor esi, esi",
    "mov rdx, qword ptr [rbp + {copy_id}]",
    "mov r10, qword ptr [rbp + {thread_id}]",
    "xor r8d, r8d",
    "mov eax, {clone}",
    "syscall",
    "test rax, rax",
    "jz 40f",
    // Here is the one that was copied, or couldn't be. It lets go first: a client sees the end when
    // nobody has the connection any more.
    "mov r13, rax",
    "mov edi, r12d",
    "mov eax, {close}",
    "syscall",
    "mov rax, r13",
    "30:",
    "mov qword ptr [rbp + {answer}], rax",
    "call 80f",
    "jmp 20b",
    // Here is the one that goes on.
    "40:",
    "xor edi, edi",
    "xor esi, esi",
    "mov eax, {setpgid}",
    "syscall",
    "mov rdi, qword ptr [rbp + {clear_id}]",
    "test rdi, rdi",
    "jz 41f",
    "mov eax, {set_tid_address}",
    "syscall",
    "41:",
    "mov rdi, qword ptr [rbp + {robust}]",
    "test rdi, rdi",
    "jz 42f",
    "mov rsi, qword ptr [rbp + {robust} + 8]",
    "mov eax, {set_robust_list}",
    "syscall",
    "42:",
    "cmp qword ptr [rbp + {dumpable}], 1",
    "jne 43f",
    "mov edi, {set_dumpable}",
    "mov esi, 1",
    "xor edx, edx",
    "xor r10d, r10d",
    "xor r8d, r8d",
    "mov eax, {prctl}",
    "syscall",
    "43:",
    "cmp qword ptr [rbp + {flags}], 0",
    "je 60f",
    // Before files are opened: then there is place for one if there was when it was parked.
    "mov edi, dword ptr [rbp + {control}]",
    "mov eax, {close}",
    "syscall",
    "lea r13, [rbp + {files}]",
    "mov r14, qword ptr [rbp + {file_count}]",
    "50:",
    "test r14, r14",
    "jz 60f",
    "51:",
    "mov rdi, qword ptr [r13 + {file_path}]",
    "mov rsi, qword ptr [r13 + {file_flags}]",
    "xor edx, edx",
    "mov eax, {open}",
    "test rdi, rdi",
    "jnz 53f",
    "mov rdi, rsi",
    "mov eax, {dup}",
    "53:",
    "syscall",
    "cmp rax, -{enfile}",
    "je 52f",
    "cmp rax, -{enomem}",
    "je 52f",
    "test rax, rax",
    "js 91f",
    "mov r15, rax",
    "mov rdi, r15",
    "mov rsi, qword ptr [r13 + {file_offset}]",
    "xor edx, edx",
    "mov eax, {lseek}",
    "syscall",
    "mov rdi, r15",
    "mov rsi, qword ptr [r13 + {file_number}]",
    "mov rdx, qword ptr [r13 + {file_close_on_exec}]",
    "mov eax, {dup3}",
    "syscall",
    "test rax, rax",
    "js 91f",
    "mov rdi, r15",
    "mov eax, {close}",
    "syscall",
    "add r13, {file_size}",
    "dec r14",
    "jmp 50b",
    "52:",
    "lea rdi, [rbp + {pause}]",
    "xor esi, esi",
    "mov eax, {nanosleep}",
    "syscall",
    "jmp 51b",
    "60:",
    "mov edi, r12d",
    "xor esi, esi",
    "mov eax, {dup2}",
    "syscall",
    "test rax, rax",
    "js 91f",
    "mov edi, r12d",
    "mov esi, 1",
    "mov eax, {dup2}",
    "syscall",
    "test rax, rax",
    "js 91f",
    "mov edi, r12d",
    "mov eax, {close}",
    "syscall",
    "cmp qword ptr [rbp + {flags}], 0",
    "jne 70f",
    "mov eax, {getpid}",
    "syscall",
    "mov qword ptr [rbp + {answer}], rax",
    "call 80f",
    // Whoever isn't heard mustn't go on: the connection is given to another.
    "cmp rax, {answer_size}",
    "jne 90f",
    "mov edi, dword ptr [rbp + {control}]",
    "mov eax, {close}",
    "syscall",
    "70:",
    "push qword ptr [rbp + {eflags}]",
    "popfq",
    "mov rcx, rbp",
    "mov r15, qword ptr [rcx + {r15}]",
    "mov r14, qword ptr [rcx + {r14}]",
    "mov r13, qword ptr [rcx + {r13}]",
    "mov r12, qword ptr [rcx + {r12}]",
    "mov rbp, qword ptr [rcx + {saved_rbp}]",
    "mov rbx, qword ptr [rcx + {rbx}]",
    "mov r10, qword ptr [rcx + {r10}]",
    "mov r9, qword ptr [rcx + {r9}]",
    "mov r8, qword ptr [rcx + {r8}]",
    "mov rax, qword ptr [rcx + {rax}]",
    "mov rdx, qword ptr [rcx + {rdx}]",
    "mov rsi, qword ptr [rcx + {rsi}]",
    "mov rdi, qword ptr [rcx + {rdi}]",
    "mov rsp, qword ptr [rcx + {rsp}]",
    "jmp qword ptr [rcx + {rip}]",
    // Says what is in `answer`.
    "80:",
    "mov edi, dword ptr [rbp + {control}]",
    "lea rsi, [rbp + {answer}]",
    "mov edx, {answer_size}",
    "mov r10d, {nosignal}",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "mov eax, {sendto}",
    "syscall",
    "cmp rax, -{eintr}",
    "je 80b",
    "ret",
    "90:",
    "xor edi, edi",
    "jmp 92f",
    "91:",
    "mov edi, {cannot}",
    "92:",
    "mov eax, {exit_group}",
    "syscall",
    ".globl skd_planted_end",
    ".hidden skd_planted_end",
    "skd_planted_end:",
    ".popsection",
    ancillary_length = const offset_of!(Data, message) + offset_of!(Message, ancillary_length),
    space = const ANCILLARY,
    descriptor = const DESCRIPTOR,
    control = const offset_of!(Data, control),
    message = const offset_of!(Data, message),
    cloexec = const libc::MSG_CMSG_CLOEXEC,
    recvmsg = const libc::SYS_recvmsg,
    eintr = const libc::EINTR,
    emfile = const libc::EMFILE,
    flags = const offset_of!(Data, flags),
    thread_id = const offset_of!(Data, thread_id),
    clone = const libc::SYS_clone,
    close = const libc::SYS_close,
    answer = const offset_of!(Data, answer),
    answer_size = const size_of::<i64>(),
    copy_id = const offset_of!(Data, copy_id),
    pause = const offset_of!(Data, pause),
    enfile = const libc::ENFILE,
    enomem = const libc::ENOMEM,
    nanosleep = const libc::SYS_nanosleep,
    cannot = const CANNOT,
    files = const offset_of!(Data, files),
    file_count = const offset_of!(Data, file_count),
    file_path = const offset_of!(File, path),
    file_flags = const offset_of!(File, flags),
    file_offset = const offset_of!(File, offset),
    file_number = const offset_of!(File, number),
    file_close_on_exec = const offset_of!(File, close_on_exec),
    file_size = const size_of::<File>(),
    open = const libc::SYS_open,
    dup = const libc::SYS_dup,
    lseek = const libc::SYS_lseek,
    dup3 = const libc::SYS_dup3,
    setpgid = const libc::SYS_setpgid,
    clear_id = const offset_of!(Data, clear_id),
    set_tid_address = const libc::SYS_set_tid_address,
    robust = const offset_of!(Data, robust),
    set_robust_list = const libc::SYS_set_robust_list,
    dumpable = const offset_of!(Data, dumpable),
    set_dumpable = const libc::PR_SET_DUMPABLE,
    prctl = const libc::SYS_prctl,
    dup2 = const libc::SYS_dup2,
    getpid = const libc::SYS_getpid,
    eflags = const offset_of!(Data, saved) + offset_of!(Saved, eflags),
    r15 = const offset_of!(Data, saved) + offset_of!(Saved, r15),
    r14 = const offset_of!(Data, saved) + offset_of!(Saved, r14),
    r13 = const offset_of!(Data, saved) + offset_of!(Saved, r13),
    r12 = const offset_of!(Data, saved) + offset_of!(Saved, r12),
    saved_rbp = const offset_of!(Data, saved) + offset_of!(Saved, rbp),
    rbx = const offset_of!(Data, saved) + offset_of!(Saved, rbx),
    r10 = const offset_of!(Data, saved) + offset_of!(Saved, r10),
    r9 = const offset_of!(Data, saved) + offset_of!(Saved, r9),
    r8 = const offset_of!(Data, saved) + offset_of!(Saved, r8),
    rax = const offset_of!(Data, saved) + offset_of!(Saved, rax),
    rdx = const offset_of!(Data, saved) + offset_of!(Saved, rdx),
    rsi = const offset_of!(Data, saved) + offset_of!(Saved, rsi),
    rdi = const offset_of!(Data, saved) + offset_of!(Saved, rdi),
    rsp = const offset_of!(Data, saved) + offset_of!(Saved, rsp),
    rip = const offset_of!(Data, saved) + offset_of!(Saved, rip),
    nosignal = const libc::MSG_NOSIGNAL,
    sendto = const libc::SYS_sendto,
    exit_group = const libc::SYS_exit_group,
);

unsafe extern "C" {
    static skd_planted: u8;
    static skd_planted_end: u8;
}

/// The code to be planted, wherever it is.
pub(super) fn code() -> &'static [u8] {
    let (start, end) = (&raw const skd_planted, &raw const skd_planted_end);
    // SAFETY: both are labels of one section of this program, in this order, and what is between
    // them is never written.
    unsafe { std::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}
