//! The processes of skd that start no handlers give up all rights that they don't need: a fault in
//! them is then worth less. The process that starts handlers can't, since handlers would inherit
//! that.

use std::os::fd::{AsFd, BorrowedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::sys::process;
use crate::sys::sandbox::{self, Access};
use crate::sys::seccomp::{Action, Case, Filter, Rules, Test, Verdict};

/// A process that is to be confined.
#[derive(Clone, Copy, Debug)]
pub enum Process<'fd> {
    /// The relay to syslog: it reads lines, and sends them to a unix socket.
    SyslogRelay,
    /// A relay that writes a log file, which it opens again in one of these directories.
    FileRelay(&'fd [BorrowedFd<'fd>]),
    /// The janitor, with the group that skd was started in: it ends what is in groups, and removes them.
    Janitor(BorrowedFd<'fd>),
    /// The launcher: it waits for the end of the start, and removes files if that has failed.
    Launcher,
}

/// Memory, time, the end, and what the C library and the standard library do by themselves: they
/// look at a descriptor before they close it, and at a file before they read it.
const COMMON: &[libc::c_long] = &[
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Connects to /dev/log, again after each restart of the syslog daemon, whatever leads there; and
/// receives requests. Besides, it makes unix sockets.
const SYSLOG: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_fchdir,
    libc::SYS_recvfrom,
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
];

/// Opens the file again, and receives requests for that.
const FILE: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_fstatfs,
    libc::SYS_fgetxattr,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_dup3,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
];

/// Removes what a failed start has made: sockets, the pid file and a new log file.
const LAUNCHER: &[libc::c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    libc::SYS_unlinkat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    libc::SYS_ftruncate,
    libc::SYS_flock,
];

/// Lists and removes groups, and writes to their files.
const JANITOR: &[libc::c_long] = &[libc::SYS_openat, libc::SYS_getdents64, libc::SYS_unlinkat];

/// A unix socket.
const UNIX: &[Case] = &[Case {
    tests: &[Test {
        argument: 0,
        mask: u32::MAX,
        value: libc::AF_UNIX as u32,
    }],
    action: Action::Allow,
}];

/// Takes from this process what it doesn't need, and keeps others from tracing it. Whatever the
/// kernel, or a container's filter, doesn't offer is left out. Allocates.
pub fn confine(process: Process<'_>) {
    let calls = match process {
        Process::SyslogRelay => SYSLOG,
        Process::FileRelay(_) => FILE,
        Process::Janitor(_) => JANITOR,
        Process::Launcher => LAUNCHER,
    };
    let _ = process::forbid_dumping();
    if sandbox::forbid_new_privileges().is_err() {
        return;
    }
    let _ = match process {
        // A name is looked up for connect(2), which is no access to a file.
        Process::SyslogRelay => sandbox::allow_files(&[]),
        Process::FileRelay(directories) => {
            let allowed: Vec<_> = directories
                .iter()
                .map(|directory| (*directory, Access::WRITE))
                .collect();
            sandbox::allow_files(&allowed)
        }
        Process::Janitor(group) => sandbox::allow_files(&[(group, Access::GROUPS)]),
        Process::Launcher => {
            // The files can be anywhere; nothing can be made or executed.
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            open("/", flags, Mode::empty())
                .and_then(|root| sandbox::allow_files(&[(root.as_fd(), Access::CLEAN_UP)]))
        }
    };
    // A C library then takes the older call that it was written for first.
    let refused = Action::Fail(libc::ENOSYS as u16);
    let allowed = COMMON.iter().chain(calls);
    let allowed = allowed.map(|number| (*number as u32, Action::Allow.into()));
    let mut rules = Rules {
        calls: allowed.collect(),
        others: refused,
        only_log: false,
        fits_jailer: false,
    };
    if matches!(process, Process::SyslogRelay) {
        let verdict = Verdict {
            cases: UNIX,
            otherwise: refused,
        };
        rules.calls.insert(libc::SYS_socket as u32, verdict);
    }
    let _ = Filter::new(rules, false).and_then(|filter| filter.load());
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixDatagram;

    use nix::errno::Errno;
    use nix::sys::signal::kill;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use nix::unistd::{Pid, unlink};

    use super::*;
    use crate::sys::pipe::pipe;
    use crate::sys::process::{Change, Ended, Fork, Target, Wait};

    /// The status with which a confined process ends: the number of the first attempt that had
    /// another outcome than expected.
    fn in_confinement(process: Process<'_>, attempts: impl FnOnce() -> u8) -> u8 {
        match process::fork().unwrap() {
            Fork::Child => {
                confine(process);
                process::exit_now(attempts());
            }
            Fork::Parent(pid) => {
                match process::wait(Target::Process(pid), Wait::UNTIL_END).unwrap() {
                    Some((_, Change::Ended(Ended::Exited(status)))) => status,
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    /// Whether this kernel has files' rights.
    fn has_landlock() -> bool {
        match process::fork().unwrap() {
            Fork::Child => {
                let _ = sandbox::forbid_new_privileges();
                process::exit_now(u8::from(sandbox::allow_files(&[]).is_ok()))
            }
            Fork::Parent(pid) => {
                let end = process::wait(Target::Process(pid), Wait::UNTIL_END).unwrap();
                end.map(|(_, change)| change) == Some(Change::Ended(Ended::Exited(1)))
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a filter of system calls")]
    fn a_relay_to_syslog_can_do_its_work_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let syslog = UnixDatagram::bind(&path).unwrap();
        let (mut output, mut input) = pipe().unwrap();
        input.write_all(b"a line").unwrap();
        let status = in_confinement(Process::SyslogRelay, || {
            let mut line = [0; 6];
            let sent = output.read_exact(&mut line).is_ok()
                && UnixDatagram::unbound().is_ok_and(|it| it.send_to(&line, &path).is_ok());
            let inet = |family| socket(family, SockType::Stream, SockFlag::empty(), None);
            let outcomes = [
                sent,
                File::open("/dev/null").is_err(),
                inet(AddressFamily::Inet).err() == Some(Errno::ENOSYS),
                inet(AddressFamily::Netlink).err() == Some(Errno::ENOSYS),
                kill(Pid::this(), None) == Err(Errno::ENOSYS),
                unlink(&path) == Err(Errno::ENOSYS),
                matches!(process::fork(), Err(Errno::ENOSYS)),
            ];
            let wrong = outcomes.iter().position(|as_expected| !as_expected);
            wrong.map_or(0, |index| index as u8 + 1)
        });
        assert_eq!(status, 0);
        let mut line = [0; 9];
        assert_eq!(syslog.recv(&mut line).unwrap(), 6);
    }

    #[test]
    #[cfg_attr(miri, ignore = "a filter of system calls")]
    fn a_relay_to_a_file_opens_files_in_its_directory_alone() {
        let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let opened = File::open(own.path()).unwrap();
        let directories = [opened.as_fd()];
        let inside = own.path().join("log");
        let outside = other.path().join("log");
        let landlock = has_landlock();
        let status = in_confinement(Process::FileRelay(&directories), || {
            let append = |path| File::options().append(true).create(true).open(path);
            let written = append(&inside).is_ok_and(|mut log| log.write_all(b"line\n").is_ok());
            let outcomes = [
                written,
                !landlock || append(&outside).is_err(),
                !landlock || File::open("/etc/passwd").is_err(),
                UnixDatagram::unbound().is_err(),
                matches!(process::fork(), Err(Errno::ENOSYS)),
            ];
            let wrong = outcomes.iter().position(|as_expected| !as_expected);
            wrong.map_or(0, |index| index as u8 + 1)
        });
        assert_eq!(status, 0);
        assert_eq!(std::fs::read(inside).unwrap(), b"line\n");
    }

    #[test]
    #[cfg_attr(miri, ignore = "a filter of system calls")]
    fn a_launcher_removes_files_and_makes_none() {
        let directory = tempfile::tempdir().unwrap();
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        File::create(&old).unwrap();
        let landlock = has_landlock();
        let status = in_confinement(Process::Launcher, || {
            let outcomes = [
                unlink(&old).is_ok(),
                !landlock || File::create(&new).is_err(),
                UnixDatagram::unbound().is_err(),
                kill(Pid::this(), None) == Err(Errno::ENOSYS),
                matches!(process::fork(), Err(Errno::ENOSYS)),
            ];
            let wrong = outcomes.iter().position(|as_expected| !as_expected);
            wrong.map_or(0, |index| index as u8 + 1)
        });
        assert_eq!(status, 0);
        assert!(!old.exists());
    }
}
