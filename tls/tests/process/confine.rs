//! What an attacker who has broken into the process that skd starts tries in vain.

// The calls are made by their numbers: that is what an attacker does.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use libc::{c_int, c_long};
use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use skd::sys::process::{self, Change, Ended, Fork, Target, Wait};
use skd_tls::confine::{confine, prepare};

/// A user without rights.
const NOBODY: u32 = 65534;

/// How a test begins.
#[derive(Clone, Copy, Debug)]
enum Begin {
    /// As root, which gives a user to become.
    Root,
    /// As a user without rights.
    User,
}

/// Runs this in a confined process, and returns how that has ended.
fn confined(begin: Begin, attempt: impl FnOnce() -> u8) -> Ended {
    match process::fork().unwrap() {
        Fork::Child => {
            let user = match begin {
                Begin::Root => Some((NOBODY, NOBODY)),
                Begin::User => {
                    setgroups(&[]).unwrap();
                    let (uid, gid) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
                    setresgid(gid, gid, gid).unwrap();
                    setresuid(uid, uid, uid).unwrap();
                    None
                }
            };
            // Not `prepare`: it closes what this process needs.
            let lacks = confine(user);
            if !lacks.is_ok_and(|lacks| lacks.is_empty()) {
                process::exit_now(101);
            }
            process::exit_now(attempt());
        }
        Fork::Parent(pid) => match process::wait(Target::Process(pid), Wait::UNTIL_END).unwrap() {
            Some((_, Change::Ended(ended))) => ended,
            other => panic!("{other:?}"),
        },
    }
}

fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Makes a call with these arguments.
fn call(number: c_long, arguments: [usize; 6]) -> Result<c_long, Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: none of the calls that are tried changes memory of this process, if it can be made at all; and it
    // is a process that was made for the attempt.
    Errno::result(unsafe { libc::syscall(number, a, b, c, d, e, f) })
}

fn path(text: &'static std::ffi::CStr) -> usize {
    text.as_ptr() as usize
}

const KILLED: Ended = Ended::Killed(libc::SIGSYS);

#[test]
fn calls_that_it_has_no_use_for_kill_it() {
    if !is_root() {
        return;
    }
    let at = libc::AT_FDCWD as usize;
    let parent = std::process::id() as usize;
    let (left, _right) = UnixStream::pair().unwrap();
    let socket = left.as_raw_fd() as usize;
    let none = [0; 6];
    let stack = usize::MAX;
    let attempts: Vec<(&str, c_long, [usize; 6])> = vec![
        (
            "socket",
            libc::SYS_socket,
            [libc::AF_INET as usize, 1, 0, 0, 0, 0],
        ),
        (
            "socket unix",
            libc::SYS_socket,
            [libc::AF_UNIX as usize, 1, 0, 0, 0, 0],
        ),
        (
            "socket netlink",
            libc::SYS_socket,
            [libc::AF_NETLINK as usize, 3, 0, 0, 0, 0],
        ),
        (
            "socketpair",
            libc::SYS_socketpair,
            [libc::AF_UNIX as usize, 1, 0, 0, 0, 0],
        ),
        ("connect", libc::SYS_connect, [socket, 0, 0, 0, 0, 0]),
        ("bind", libc::SYS_bind, [socket, 0, 0, 0, 0, 0]),
        ("listen", libc::SYS_listen, [socket, 1, 0, 0, 0, 0]),
        ("accept4", libc::SYS_accept4, [socket, 0, 0, 0, 0, 0]),
        (
            "execve",
            libc::SYS_execve,
            [path(c"/bin/true"), 0, 0, 0, 0, 0],
        ),
        (
            "execveat",
            libc::SYS_execveat,
            [at, path(c"/bin/true"), 0, 0, 0, 0],
        ),
        (
            "clone",
            libc::SYS_clone,
            [libc::SIGCHLD as usize, 0, 0, 0, 0, 0],
        ),
        (
            "clone with a namespace",
            libc::SYS_clone,
            [
                (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD | libc::CLONE_NEWNET)
                    as usize,
                stack,
                0,
                0,
                0,
                0,
            ],
        ),
        (
            "ptrace",
            libc::SYS_ptrace,
            [libc::PTRACE_ATTACH as usize, parent, 0, 0, 0, 0],
        ),
        ("ptrace me", libc::SYS_ptrace, none),
        (
            "process_vm_readv",
            libc::SYS_process_vm_readv,
            [parent, 0, 0, 0, 0, 0],
        ),
        (
            "process_vm_writev",
            libc::SYS_process_vm_writev,
            [parent, 0, 0, 0, 0, 0],
        ),
        ("pidfd_open", libc::SYS_pidfd_open, [parent, 0, 0, 0, 0, 0]),
        ("pidfd_getfd", libc::SYS_pidfd_getfd, none),
        ("kill", libc::SYS_kill, [parent, 0, 0, 0, 0, 0]),
        (
            "tkill",
            libc::SYS_tkill,
            [parent, libc::SIGABRT as usize, 0, 0, 0, 0],
        ),
        (
            "tgkill another",
            libc::SYS_tgkill,
            [parent, parent, libc::SIGABRT as usize, 0, 0, 0],
        ),
        (
            "rt_sigqueueinfo",
            libc::SYS_rt_sigqueueinfo,
            [parent, 0, 0, 0, 0, 0],
        ),
        ("setuid", libc::SYS_setuid, none),
        ("setresuid", libc::SYS_setresuid, none),
        ("setgid", libc::SYS_setgid, none),
        ("setgroups", libc::SYS_setgroups, none),
        ("capset", libc::SYS_capset, none),
        (
            "prctl dumpable",
            libc::SYS_prctl,
            [libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0, 0],
        ),
        (
            "prctl ptracer",
            libc::SYS_prctl,
            [libc::PR_SET_PTRACER as usize, usize::MAX, 0, 0, 0, 0],
        ),
        (
            "prctl seccomp",
            libc::SYS_prctl,
            [libc::PR_SET_SECCOMP as usize, 0, 0, 0, 0, 0],
        ),
        ("seccomp", libc::SYS_seccomp, none),
        (
            "mmap",
            libc::SYS_mmap,
            [
                0,
                4096,
                (libc::PROT_READ | libc::PROT_EXEC) as usize,
                0x22,
                usize::MAX,
                0,
            ],
        ),
        (
            "mprotect",
            libc::SYS_mprotect,
            [
                0,
                4096,
                (libc::PROT_READ | libc::PROT_EXEC) as usize,
                0,
                0,
                0,
            ],
        ),
        ("pkey_mprotect", libc::SYS_pkey_mprotect, none),
        (
            "memfd_create",
            libc::SYS_memfd_create,
            [path(c"x"), 0, 0, 0, 0, 0],
        ),
        ("shmget", libc::SYS_shmget, none),
        ("shmat", libc::SYS_shmat, none),
        (
            "unshare",
            libc::SYS_unshare,
            [libc::CLONE_NEWUSER as usize, 0, 0, 0, 0, 0],
        ),
        ("setns", libc::SYS_setns, none),
        ("mount", libc::SYS_mount, none),
        ("umount2", libc::SYS_umount2, none),
        ("pivot_root", libc::SYS_pivot_root, none),
        ("chroot", libc::SYS_chroot, [path(c"."), 0, 0, 0, 0, 0]),
        ("chdir", libc::SYS_chdir, [path(c".."), 0, 0, 0, 0, 0]),
        ("fsopen", libc::SYS_fsopen, none),
        ("open_tree", libc::SYS_open_tree, none),
        (
            "mkdirat",
            libc::SYS_mkdirat,
            [at, path(c"/x"), 0o700, 0, 0, 0],
        ),
        (
            "mknodat",
            libc::SYS_mknodat,
            [at, path(c"/x"), 0o600, 0, 0, 0],
        ),
        (
            "symlinkat",
            libc::SYS_symlinkat,
            [path(c"/"), at, path(c"/x"), 0, 0, 0],
        ),
        ("linkat", libc::SYS_linkat, none),
        (
            "unlinkat",
            libc::SYS_unlinkat,
            [at, path(c"/x"), 0, 0, 0, 0],
        ),
        ("renameat2", libc::SYS_renameat2, none),
        (
            "fchmodat",
            libc::SYS_fchmodat,
            [at, path(c"/"), 0o777, 0, 0, 0],
        ),
        ("fchownat", libc::SYS_fchownat, none),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, none),
        (
            "io_uring_setup",
            libc::SYS_io_uring_setup,
            [8, 0, 0, 0, 0, 0],
        ),
        ("io_setup", libc::SYS_io_setup, none),
        ("bpf", libc::SYS_bpf, none),
        ("perf_event_open", libc::SYS_perf_event_open, none),
        ("userfaultfd", libc::SYS_userfaultfd, none),
        ("add_key", libc::SYS_add_key, none),
        ("keyctl", libc::SYS_keyctl, none),
        ("personality", libc::SYS_personality, [0, 0, 0, 0, 0, 0]),
        ("init_module", libc::SYS_init_module, none),
        ("reboot", libc::SYS_reboot, none),
        ("sethostname", libc::SYS_sethostname, none),
        (
            "fcntl owner",
            libc::SYS_fcntl,
            [socket, libc::F_SETOWN as usize, parent, 0, 0, 0],
        ),
        (
            "fcntl signal",
            libc::SYS_fcntl,
            [socket, 10, libc::SIGKILL as usize, 0, 0, 0],
        ),
        (
            "ioctl terminal",
            libc::SYS_ioctl,
            [2, libc::TIOCSTI as usize, path(c"x"), 0, 0, 0],
        ),
        (
            "setsockopt filter",
            libc::SYS_setsockopt,
            [
                socket,
                libc::SOL_SOCKET as usize,
                libc::SO_ATTACH_FILTER as usize,
                0,
                0,
                0,
            ],
        ),
        (
            "setsockopt ulp",
            libc::SYS_setsockopt,
            [socket, libc::IPPROTO_TCP as usize, 31, path(c"tls"), 3, 0],
        ),
        (
            "prlimit of another",
            libc::SYS_prlimit64,
            [parent, libc::RLIMIT_NOFILE as usize, 0, 0, 0, 0],
        ),
        ("dup3", libc::SYS_dup3, [socket, 1, 0, 0, 0, 0]),
        ("close_range", libc::SYS_close_range, none),
        #[cfg(target_arch = "x86_64")]
        ("fork", libc::SYS_fork, none),
        #[cfg(target_arch = "x86_64")]
        ("vfork", libc::SYS_vfork, none),
        #[cfg(target_arch = "x86_64")]
        ("arch_prctl", libc::SYS_arch_prctl, none),
        // The same calls by the numbers of x32.
        #[cfg(target_arch = "x86_64")]
        (
            "socket of x32",
            libc::SYS_socket | 0x4000_0000,
            [libc::AF_INET as usize, 1, 0, 0, 0, 0],
        ),
    ];
    for (name, number, arguments) in attempts {
        let ended = confined(Begin::Root, || match call(number, arguments) {
            Ok(_) => 1,
            Err(_) => 2,
        });
        assert_eq!(ended, KILLED, "{name}");
    }
}

#[test]
fn there_are_no_files() {
    if !is_root() {
        return;
    }
    let at = libc::AT_FDCWD as usize;
    for begin in [Begin::Root, Begin::User] {
        let ended = confined(begin, || {
            let paths = [
                c"/",
                c"/etc/passwd",
                c"/proc/self/mem",
                c"..",
                c"/dev/null",
                c"x",
            ];
            for (index, name) in paths.into_iter().enumerate() {
                for flags in [libc::O_RDONLY, libc::O_PATH, libc::O_CREAT | libc::O_WRONLY] {
                    if call(
                        libc::SYS_openat,
                        [at, path(name), flags as usize, 0o600, 0, 0],
                    ) != Err(Errno::ENOENT)
                    {
                        return index as u8 + 1;
                    }
                }
            }
            // These aren't filtered, since a descriptor's size is asked for by them: there is nothing to find.
            for (index, name) in [c"/etc", c"/proc", c"/tmp", c"/usr"]
                .into_iter()
                .enumerate()
            {
                let mut found = std::mem::MaybeUninit::<libc::stat>::zeroed();
                let memory = found.as_mut_ptr() as usize;
                let arguments = [at, path(name), memory, 0, 0, 0];
                if call(libc::SYS_newfstatat, arguments) != Err(Errno::ENOENT) {
                    return index as u8 + 50;
                }
            }
            0
        });
        assert_eq!(ended, Ended::Exited(0), "{begin:?}");
    }
}

#[test]
fn what_it_needs_works() {
    if !is_root() {
        return;
    }
    let file = tempfile::tempfile().unwrap();
    (&file).write_all(b"a key").unwrap();
    let (mut left, mut right) = UnixStream::pair().unwrap();
    for begin in [Begin::Root, Begin::User] {
        let ended = confined(begin, || {
            let mut text = String::new();
            let mut again = file.try_clone().unwrap();
            std::io::Seek::rewind(&mut again).unwrap();
            again.read_to_string(&mut text).unwrap();
            let length = again.metadata().unwrap().len();
            left.write_all(b"x").unwrap();
            let mut byte = [0];
            right.read_exact(&mut byte).unwrap();
            let thread = std::thread::Builder::new().name("thread".to_owned());
            let sum: u64 = thread
                .spawn(|| (0..4_000_000_u64).collect::<Vec<_>>().iter().sum())
                .unwrap()
                .join()
                .unwrap();
            std::thread::sleep(std::time::Duration::from_millis(1));
            let mut random = [0; 32];
            aws_lc_rs::rand::fill(&mut random).unwrap();
            let worked = text == "a key"
                && length == 5
                && byte == *b"x"
                && sum == 7_999_998_000_000
                && random != [0; 32];
            u8::from(!worked)
        });
        assert_eq!(ended, Ended::Exited(0), "{begin:?}");
    }
}

#[test]
fn a_panic_ends_it_as_a_panic_does() {
    if !is_root() {
        return;
    }
    let ended = confined(Begin::Root, || std::process::abort());
    assert_eq!(ended, Ended::Killed(libc::SIGABRT));
}

#[test]
fn a_user_that_it_cannot_become_is_an_error() {
    if !is_root() {
        return;
    }
    let ended = match process::fork().unwrap() {
        Fork::Child => {
            let uid = Uid::from_raw(NOBODY);
            setresuid(uid, uid, uid).unwrap();
            let said = confine(Some((1, 1))).unwrap_err();
            let wanted = "can't become user 1 and group 1: Operation not permitted; it needs the capabilities \
                          CAP_SETUID and CAP_SETGID for that";
            process::exit_now(u8::from(said != wanted))
        }
        Fork::Parent(pid) => process::wait(Target::Process(pid), Wait::UNTIL_END).unwrap(),
    };
    let ended = ended.map(|(_, change)| change);
    assert_eq!(ended, Some(Change::Ended(Ended::Exited(0))));
}

#[test]
fn nothing_that_was_inherited_is_kept() {
    let file = File::open("/dev/null").unwrap();
    let number = file.as_raw_fd();
    let ended = match process::fork().unwrap() {
        Fork::Child => {
            prepare().unwrap();
            // SAFETY: the call takes integers and changes nothing.
            let flags: c_int = unsafe { libc::fcntl(number, libc::F_GETFD) };
            process::exit_now(u8::from(flags != -1))
        }
        Fork::Parent(pid) => process::wait(Target::Process(pid), Wait::UNTIL_END).unwrap(),
    };
    let ended = ended.map(|(_, change)| change);
    assert_eq!(ended, Some(Change::Ended(Ended::Exited(0))));
}
