//! The system calls that are known here, with their names and what the default filter thinks of them.
//!
//! A call's number is its position. A letter behind a slash is its [`class`](KnownCall::class); a
//! call without one is plain. One text, and no array of texts: that takes a fifth of the space.

use libc::c_long;

/// A system call with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownCall {
    /// Its number on this architecture.
    pub number: u32,
    /// Its name, as in syscalls(2).
    pub name: &'static str,
    /// The letter of what it is for, if that is nothing plain.
    pub class: Option<char>,
}

/// The calls of an architecture: texts, each with the number of its first call.
pub type Calls = [(u32, &'static str); 2];

/// Those of 64-bit x86 (<asm/unistd_64.h>).
pub const X86_64: Calls = [(0, FIRST_OF_X86_64), (COMMON_FROM, COMMON)];

/// Those of 64-bit ARM (<asm-generic/unistd.h>).
pub const AARCH64: Calls = [(0, FIRST_OF_AARCH64), (COMMON_FROM, COMMON)];

/// Those of this architecture, if it is known here.
#[cfg(target_arch = "x86_64")]
const OWN: Option<Calls> = Some(X86_64);
#[cfg(target_arch = "aarch64")]
const OWN: Option<Calls> = Some(AARCH64);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OWN: Option<Calls> = None;

/// All calls in a table.
pub fn calls(table: Calls) -> impl Iterator<Item = KnownCall> {
    table.into_iter().flat_map(|(first, text)| {
        let words = text.split(' ').zip(first..);
        words
            .filter(|(word, _)| *word != "-")
            .map(|(word, number)| {
                let (name, class) = word.split_once('/').unwrap_or((word, ""));
                let class = class.chars().next();
                KnownCall {
                    number,
                    name,
                    class,
                }
            })
    })
}

/// All calls of this architecture; none where it isn't known here.
pub fn known_calls() -> impl Iterator<Item = KnownCall> {
    OWN.into_iter().flat_map(calls)
}

/// The name of a call, or its number if it is newer than this list.
pub fn call_name(number: c_long) -> String {
    let found = known_calls().find(|call| c_long::from(call.number) == number);
    found.map_or_else(|| format!("call {number}"), |call| call.name.into())
}

const FIRST_OF_X86_64: &str = "\
read write open/? close stat fstat lstat poll lseek mmap mprotect munmap brk rt_sigaction \
rt_sigprocmask rt_sigreturn ioctl/? pread64 pwrite64 readv writev access pipe select \
sched_yield mremap msync mincore madvise shmget/i shmat/i shmctl/i dup dup2 pause nanosleep \
getitimer alarm setitimer getpid sendfile socket/? connect/? accept sendto recvfrom sendmsg \
recvmsg shutdown bind listen/? getsockname getpeername socketpair/? setsockopt getsockopt clone/? \
fork vfork execve exit wait4 kill uname semget/i semop/i semctl/i shmdt/i msgget/i msgsnd/i \
msgrcv/i msgctl/i fcntl flock fsync fdatasync truncate ftruncate getdents getcwd chdir fchdir \
rename mkdir rmdir creat/? link unlink symlink readlink chmod/? fchmod/? chown fchown lchown \
umask gettimeofday getrlimit getrusage sysinfo times ptrace/t getuid syslog/a getgid setuid \
setgid geteuid getegid setpgid getppid getpgrp setsid setreuid setregid getgroups setgroups \
setresuid getresuid setresgid getresgid getpgid setfsuid setfsgid getsid capget capset \
rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_sigsuspend sigaltstack utime mknod/? uselib/o \
personality/? ustat/o statfs fstatfs sysfs/o getpriority setpriority sched_setparam \
sched_getparam sched_setscheduler sched_getscheduler sched_get_priority_max \
sched_get_priority_min sched_rr_get_interval mlock munlock mlockall munlockall vhangup/a \
modify_ldt/b pivot_root/m _sysctl/o prctl/? arch_prctl adjtimex/a setrlimit chroot/m sync \
acct/a settimeofday/a mount/m umount2/m swapon/a swapoff/a reboot/a sethostname/a \
setdomainname/a iopl/a ioperm/a create_module/o init_module/b delete_module/b \
get_kernel_syms/o query_module/o quotactl/a nfsservctl/o getpmsg/o putpmsg/o afs_syscall/o \
tuxcall/o security/o gettid readahead setxattr lsetxattr fsetxattr getxattr lgetxattr \
fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr tkill time \
futex sched_setaffinity sched_getaffinity set_thread_area/o io_setup io_destroy io_getevents \
io_submit io_cancel get_thread_area/o lookup_dcookie/o epoll_create epoll_ctl_old/o \
epoll_wait_old/o remap_file_pages/o getdents64 set_tid_address restart_syscall semtimedop/i \
fadvise64 timer_create timer_settime timer_gettime timer_getoverrun timer_delete \
clock_settime/a clock_gettime clock_getres clock_nanosleep exit_group epoll_wait epoll_ctl \
tgkill utimes vserver/o mbind/p set_mempolicy/p get_mempolicy/p mq_open/i mq_unlink/i \
mq_timedsend/i mq_timedreceive/i mq_notify/i mq_getsetattr/i kexec_load/b waitid add_key/k \
request_key/k keyctl/k ioprio_set ioprio_get inotify_init inotify_add_watch inotify_rm_watch \
migrate_pages/p openat/? mkdirat mknodat/? fchownat futimesat newfstatat unlinkat renameat \
linkat symlinkat readlinkat fchmodat/? faccessat pselect6 ppoll unshare/? set_robust_list \
get_robust_list splice tee sync_file_range vmsplice move_pages/p utimensat epoll_pwait \
signalfd timerfd_create eventfd fallocate timerfd_settime timerfd_gettime accept4 signalfd4 \
eventfd2 epoll_create1 dup3 pipe2 inotify_init1 preadv pwritev rt_tgsigqueueinfo \
perf_event_open/t recvmmsg fanotify_init/h fanotify_mark/h prlimit64 name_to_handle_at/h \
open_by_handle_at/h clock_adjtime/a syncfs sendmmsg setns/n getcpu process_vm_readv/t \
process_vm_writev/t kcmp/t finit_module/b sched_setattr sched_getattr renameat2 seccomp \
getrandom memfd_create kexec_file_load/b bpf/b execveat userfaultfd/b membarrier mlock2 \
copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free statx io_pgetevents rseq \
uretprobe uprobe";

const FIRST_OF_AARCH64: &str = "\
io_setup io_destroy io_submit io_cancel io_getevents setxattr lsetxattr fsetxattr getxattr \
lgetxattr fgetxattr listxattr llistxattr flistxattr removexattr lremovexattr fremovexattr \
getcwd lookup_dcookie/o eventfd2 epoll_create1 epoll_ctl epoll_pwait dup dup3 fcntl \
inotify_init1 inotify_add_watch inotify_rm_watch ioctl/? ioprio_set ioprio_get flock mknodat/? \
mkdirat unlinkat symlinkat linkat renameat umount2/m mount/m pivot_root/m nfsservctl/o statfs \
fstatfs truncate ftruncate fallocate faccessat chdir fchdir chroot/m fchmod/? fchmodat/? \
fchownat fchown openat/? close vhangup/a pipe2 quotactl/a getdents64 lseek read write readv \
writev pread64 pwrite64 preadv pwritev sendfile pselect6 ppoll signalfd4 vmsplice splice tee \
readlinkat newfstatat fstat sync fsync fdatasync sync_file_range timerfd_create \
timerfd_settime timerfd_gettime utimensat acct/a capget capset personality/? exit exit_group \
waitid set_tid_address unshare/? futex set_robust_list get_robust_list nanosleep getitimer \
setitimer kexec_load/b init_module/b delete_module/b timer_create timer_gettime \
timer_getoverrun timer_settime timer_delete clock_settime/a clock_gettime clock_getres \
clock_nanosleep syslog/a ptrace/t sched_setparam sched_setscheduler sched_getscheduler \
sched_getparam sched_setaffinity sched_getaffinity sched_yield sched_get_priority_max \
sched_get_priority_min sched_rr_get_interval restart_syscall kill tkill tgkill sigaltstack \
rt_sigsuspend rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigqueueinfo \
rt_sigreturn setpriority getpriority reboot/a setregid setgid setreuid setuid setresuid \
getresuid setresgid getresgid setfsuid setfsgid times setpgid getpgid getsid setsid getgroups \
setgroups uname sethostname/a setdomainname/a getrlimit setrlimit getrusage umask prctl/? \
getcpu gettimeofday settimeofday/a adjtimex/a getpid getppid getuid geteuid getgid getegid \
gettid sysinfo mq_open/i mq_unlink/i mq_timedsend/i mq_timedreceive/i mq_notify/i \
mq_getsetattr/i msgget/i msgctl/i msgrcv/i msgsnd/i semget/i semctl/i semtimedop/i semop/i \
shmget/i shmctl/i shmat/i shmdt/i socket/? socketpair/? bind listen/? accept connect/? getsockname \
getpeername sendto recvfrom setsockopt getsockopt shutdown sendmsg recvmsg readahead brk \
munmap mremap add_key/k request_key/k keyctl/k clone/? execve mmap fadvise64 swapon/a \
swapoff/a mprotect msync mlock munlock mlockall munlockall mincore madvise remap_file_pages/o \
mbind/p get_mempolicy/p set_mempolicy/p migrate_pages/p move_pages/p rt_tgsigqueueinfo \
perf_event_open/t accept4 recvmmsg - - - - - - - - - - - - - - - - wait4 prlimit64 \
fanotify_init/h fanotify_mark/h name_to_handle_at/h open_by_handle_at/h clock_adjtime/a syncfs \
setns/n sendmmsg process_vm_readv/t process_vm_writev/t kcmp/t finit_module/b sched_setattr \
sched_getattr renameat2 seccomp getrandom memfd_create bpf/b execveat userfaultfd/b membarrier \
mlock2 copy_file_range preadv2 pwritev2 pkey_mprotect pkey_alloc pkey_free statx io_pgetevents \
rseq kexec_file_load/b";

/// From here on the numbers are those of all architectures.
const COMMON_FROM: u32 = 424;

const COMMON: &str = "\
pidfd_send_signal io_uring_setup/b io_uring_enter/b io_uring_register/b open_tree/m \
move_mount/m fsopen/m fsconfig/m fsmount/m fspick/m pidfd_open clone3/f close_range openat2/f \
pidfd_getfd/t faccessat2 process_madvise/t epoll_pwait2 mount_setattr/m quotactl_fd/a \
landlock_create_ruleset landlock_add_rule landlock_restrict_self memfd_secret/f \
process_mrelease/t futex_waitv set_mempolicy_home_node/p cachestat/f fchmodat2/? \
map_shadow_stack futex_wake futex_wait futex_requeue statmount/f listmount/f \
lsm_get_self_attr/f lsm_set_self_attr/f lsm_list_modules/f mseal setxattrat/f getxattrat/f \
listxattrat/f removexattrat/f open_tree_attr/m file_getattr/f file_setattr/f";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_have_their_names() {
        for (number, expected) in [
            (libc::SYS_read, "read"),
            (libc::SYS_rseq, "rseq"),
            (libc::SYS_pidfd_send_signal, "pidfd_send_signal"),
            (libc::SYS_clone3, "clone3"),
            (libc::SYS_mseal, "mseal"),
            (469, "file_setattr"),
            (5000, "call 5000"),
            (-1, "call -1"),
        ] {
            assert_eq!(call_name(number), expected);
        }
    }

    #[test]
    fn a_name_means_the_same_on_all_architectures() {
        let others: std::collections::HashMap<_, _> =
            calls(AARCH64).map(|call| (call.name, call.class)).collect();
        assert_eq!(others.len(), calls(AARCH64).count());
        let mut shared = 0;
        for call in calls(X86_64) {
            if let Some(class) = others.get(call.name) {
                assert_eq!(*class, call.class, "{}", call.name);
                shared += 1;
            }
        }
        assert!(shared > 300, "{shared}");
    }
}
