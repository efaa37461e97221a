//! What a program does before its client comes leaves no trace that one client could tell another by: a table of
//! programs, each run in every way, with the same answers to its clients.
//!
//! A row is a program in two parts. The first runs before the program looks at its client: it makes something. The
//! second has the client's word: it prints what it finds there, and leaves the word for the next client. A program that
//! is started for each client never finds any. Another row asks whether something is still as the program made it.

use crate::harness::{Directory, Instance, Skd, Way, requires_command, requires_root, talk};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

mod calls;
mod programs;

/// A way of starting handlers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Mode {
    Exec,
    Warm,
    Strict,
    Start,
    Shared,
}

impl Mode {
    /// As the harness names it.
    fn way(self) -> Way {
        match self {
            Self::Exec => Way::Exec,
            Self::Warm => Way::Warm(1),
            Self::Strict | Self::Start | Self::Shared => Way::Fork,
        }
    }

    /// A skd that starts handlers so.
    fn skd(self) -> Skd {
        let option: &[&str] = match self {
            Self::Exec => &[],
            Self::Warm => &["--warm=1"],
            Self::Strict => &["--fork-server=strict"],
            Self::Start => &["--fork-server=start"],
            Self::Shared => &["--fork-server=shared"],
        };
        Skd::new(["-vv", "-t", "127.0.0.1:0"]).args(option)
    }

    /// Where the program is parked, as skd says, and what the program calls itself there.
    fn parked_at(self, skd: &Instance) -> (String, String) {
        let mut line = None;
        skd.wait_until("it is parked, or refused", || {
            line = skd.logged(" is parked at ").pop();
            line.is_some() || !skd.logged("can't be prestarted").is_empty()
        });
        let line = line.expect("it can't be prestarted");
        let at = line.split(" is parked at ").nth(1).unwrap_or_default();
        let at = at.split(',').next().unwrap_or_default().to_owned();
        let pid = self.way().ready(skd)[0];
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        (at, name.trim().to_owned())
    }
}

fn requires_tools() {
    requires_root();
    requires_command("cc");
}

/// Where a program is parked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum At {
    /// Where it reads from its client: the first part is over.
    Client,
    /// At a call of the first part.
    Call,
    /// At the program's entry.
    Entry,
    /// Nowhere: one line says why, and it is started for each client.
    Nowhere,
}

use At::{Call, Client, Entry, Nowhere};

struct Row {
    name: &'static str,
    /// With `--warm`, `--fork-server` and `--fork-server=shared`.
    at: [At; 3],
    /// What a copy answers that goes on there, if that is documented to differ.
    copy: Option<&'static str>,
    /// In C, both.
    before: &'static str,
    then: &'static str,
}

const fn row(name: &'static str, at: [At; 3], before: &'static str, then: &'static str) -> Row {
    let copy = None;
    Row {
        name,
        at,
        copy,
        before,
        then,
    }
}

/// What all programs have. `LEAVES(memory)` prints what a client left there.
const COMMON: &str = r#"
    #define _GNU_SOURCE
    #include <dirent.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <mqueue.h>
    #include <pthread.h>
    #include <sched.h>
    #include <semaphore.h>
    #include <signal.h>
    #include <stddef.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <linux/bpf.h>
    #include <linux/filter.h>
    #include <linux/seccomp.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/file.h>
    #include <sys/inotify.h>
    #include <sys/ioctl.h>
    #include <sys/ipc.h>
    #include <sys/mman.h>
    #include <sys/msg.h>
    #include <sys/personality.h>
    #include <sys/prctl.h>
    #include <sys/resource.h>
    #include <sys/rseq.h>
    #include <sys/sem.h>
    #include <sys/shm.h>
    #include <sys/signalfd.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/time.h>
    #include <sys/timerfd.h>
    #include <sys/un.h>
    #include <sys/wait.h>
    #include <netinet/in.h>
    #include <arpa/inet.h>
    #include <time.h>
    #include <unistd.h>
    static int fd = -1, other = -1, ends[2] = { -1, -1 };
    static long id = -1, more;
    static char *memory, name[200], bytes[200];
    static const char *directory;
    static FILE *file;
    static DIR *entries;
    static pthread_t thread;
    static timer_t timer;
    static mqd_t queue;
    static struct { long type; char text[100]; } message;
    #define FAILS(what) do { if (what) { dprintf(1, "failed: %s: %m\n", #what); _exit(9); } } while (0)
    #define MAPS(flags, its) FAILS((memory = mmap(0, 4096, PROT_READ | PROT_WRITE, flags, its, 0)) == MAP_FAILED)
    #define LEAVES(where) do { printf("[%s]\n", where); strcpy(where, said); } while (0)
    static void path(const char *what) { snprintf(name, sizeof name, "%s/%s%d", directory, what, (int)getpid()); }
    static void *waits(void *its) { for (;;) pause(); return its; }
    static volatile sig_atomic_t taken;
    static void notes(int number) { taken += !!number; }
    static void leaves_in(int descriptor) {
        ssize_t length = read(descriptor, bytes, sizeof bytes - 1);
        printf("[%.*s]\n", length < 0 ? 0 : (int)length, bytes);
    }
    static long field(const char *file, const char *key) {
        char line[500]; long value = -1;
        FILE *status = fopen(file, "r");
        while (status && fgets(line, sizeof line, status))
            if (!strncmp(line, key, strlen(key))) value = strtol(line + strlen(key), 0, 0);
        if (status) fclose(status);
        return value;
    }
"#;

const ROWS: &[Row] = &[
    // Memory.
    row(
        "private memory",
        [Client, Client, Client],
        "memory = bytes;",
        "LEAVES(memory);",
    ),
    row(
        "the heap",
        [Client, Client, Client],
        "memory = calloc(1, 100000); id = (long)sbrk(4096);",
        "LEAVES(memory);",
    ),
    row(
        "a memfd that is mapped and closed",
        [Call, Call, Call],
        "fd = memfd_create(\"a\", 0); FAILS(ftruncate(fd, 4096)); MAPS(MAP_SHARED, fd); close(fd);",
        "LEAVES(memory);",
    ),
    row(
        "a memfd that is open",
        [Client, Call, Call],
        "fd = memfd_create(\"a\", 0);",
        "pread(fd, bytes, 100, 0); printf(\"[%s]\\n\", bytes); pwrite(fd, said, 100, 0);",
    ),
    row(
        "a memfd that is closed again",
        [Call, Call, Client],
        "fd = memfd_create(\"a\", 0); write(fd, \"a\", 1); close(fd);",
        "printf(\"%d\\n\", fd);",
    ),
    row(
        "a memfd that is mapped to be read, and made writable later",
        [Call, Call, Call],
        "fd = memfd_create(\"a\", 0); FAILS(ftruncate(fd, 4096)); \
         memory = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0); close(fd);",
        "FAILS(mprotect(memory, 4096, PROT_READ | PROT_WRITE)); LEAVES(memory);",
    ),
    row(
        "shared memory with a name that is removed",
        [Call, Call, Call],
        "path(\"\"); *strrchr(name, '/') = '-'; char *last = strrchr(name, '-'); *last = '/'; \
         fd = shm_open(last, O_RDWR | O_CREAT | O_EXCL, 0600); FAILS(fd < 0); shm_unlink(last); \
         FAILS(ftruncate(fd, 4096)); MAPS(MAP_SHARED, fd); close(fd);",
        "LEAVES(memory);",
    ),
    row(
        "shared memory with a name of its own",
        [Call, Call, Call],
        "snprintf(name, sizeof name, \"/skd-test-%d\", (int)getpid()); \
         fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600); \
         FAILS(fd < 0); FAILS(ftruncate(fd, 4096)); MAPS(MAP_SHARED, fd); close(fd);",
        "LEAVES(memory); printf(\"%d\\n\", shm_unlink(name));",
    ),
    row(
        "/dev/zero",
        [Call, Call, Call],
        "fd = open(\"/dev/zero\", O_RDWR); MAPS(MAP_SHARED, fd); close(fd);",
        "LEAVES(memory);",
    ),
    row(
        "anonymous shared memory",
        [Call, Call, Call],
        "MAPS(MAP_SHARED | MAP_ANONYMOUS, -1);",
        "LEAVES(memory);",
    ),
    row(
        "shared memory whose flags are checked",
        [Call, Call, Call],
        "fd = memfd_create(\"a\", 0); FAILS(ftruncate(fd, 4096)); MAPS(MAP_SHARED_VALIDATE, fd); close(fd);",
        "LEAVES(memory);",
    ),
    row(
        "a semaphore in shared memory",
        [Call, Call, Call],
        "MAPS(MAP_SHARED | MAP_ANONYMOUS, -1); sem_init((sem_t *)memory, 1, 1);",
        "printf(\"%d\\n\", sem_trywait((sem_t *)memory));",
    ),
    row(
        "a temporary file that is mapped, closed and removed",
        [Call, Call, Call],
        "path(\"XXXXXX\"); strcpy(strrchr(name, '/'), \"/aXXXXXX\"); fd = mkstemp(name); FAILS(fd < 0); unlink(name); \
         FAILS(ftruncate(fd, 4096)); MAPS(MAP_SHARED, fd); close(fd);",
        "LEAVES(memory);",
    ),
    row(
        "a temporary file that is mapped, and removed at the end",
        [Call, Call, Call],
        "path(\"\"); strcpy(strrchr(name, '/'), \"/aXXXXXX\"); fd = mkstemp(name); FAILS(fd < 0); \
         FAILS(ftruncate(fd, 4096)); MAPS(MAP_SHARED, fd); close(fd);",
        "LEAVES(memory); printf(\"%d\\n\", unlink(name));",
    ),
    row(
        "a file without a name that is mapped",
        [Call, Call, Call],
        "fd = open(directory, O_TMPFILE | O_RDWR, 0600); FAILS(fd < 0); \
         FAILS(ftruncate(fd, 4096)); MAPS(MAP_SHARED, fd); close(fd);",
        "LEAVES(memory);",
    ),
    row(
        "a mapping that is doubled",
        [Call, Call, Call],
        "MAPS(MAP_SHARED | MAP_ANONYMOUS, -1); memory = mremap(memory, 0, 4096, MREMAP_MAYMOVE);",
        "FAILS(memory == MAP_FAILED); LEAVES(memory);",
    ),
    row(
        "a file that is mapped to be read",
        [Client, Client, Client],
        "snprintf(name, sizeof name, \"%s/file\", directory); fd = open(name, O_RDONLY); \
         memory = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0); FAILS(memory == MAP_FAILED); close(fd);",
        "printf(\"%.5s %d\\n\", memory, mprotect(memory, 4096, PROT_READ | PROT_WRITE));",
    ),
    row(
        "a private mapping of a file",
        [Call, Call, Client],
        "snprintf(name, sizeof name, \"%s/file\", directory); fd = open(name, O_RDWR); MAPS(MAP_PRIVATE, fd); close(fd);",
        "LEAVES(memory);",
    ),
    row(
        "memory that isn't copied",
        [Call, Call, Call],
        "MAPS(MAP_PRIVATE | MAP_ANONYMOUS, -1); madvise(memory, 4096, MADV_DONTFORK); strcpy(memory, \"own\");",
        "LEAVES(memory);",
    ),
    row(
        "memory that is wiped in copies",
        [Call, Call, Call],
        "MAPS(MAP_PRIVATE | MAP_ANONYMOUS, -1); madvise(memory, 4096, MADV_WIPEONFORK); strcpy(memory, \"own\");",
        "LEAVES(memory);",
    ),
    row(
        "locked memory",
        [Call, Call, Call],
        "MAPS(MAP_PRIVATE | MAP_ANONYMOUS, -1); FAILS(mlock(memory, 4096));",
        "printf(\"%ld\\n\", field(\"/proc/self/status\", \"VmLck:\"));",
    ),
    row(
        "memory that is locked when it is mapped",
        [Call, Call, Call],
        "MAPS(MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1);",
        "printf(\"%ld\\n\", field(\"/proc/self/status\", \"VmLck:\"));",
    ),
    // System V and POSIX IPC, and what else has no descriptor or memory behind one.
    row(
        "a System V segment",
        [Call, Call, Call],
        "id = shmget(IPC_PRIVATE, 4096, 0600); FAILS(id < 0); memory = shmat(id, 0, 0); shmctl(id, IPC_RMID, 0);",
        "LEAVES(memory);",
    ),
    row(
        "a System V segment with a key",
        [Call, Call, Call],
        "id = shmget(0x5c000000 + (getpid() & 0xffffff), 4096, IPC_CREAT | 0600); FAILS(id < 0); memory = shmat(id, 0, 0);",
        "LEAVES(memory); printf(\"%d\\n\", shmctl(id, IPC_RMID, 0));",
    ),
    row(
        "a System V queue",
        [Call, Call, Call],
        "id = msgget(IPC_PRIVATE, 0600); FAILS(id < 0);",
        "int length = msgrcv(id, &message, 100, 0, IPC_NOWAIT); printf(\"%d [%s]\\n\", length, message.text); \
         message.type = 1; strcpy(message.text, said); printf(\"%d\\n\", msgsnd(id, &message, 100, IPC_NOWAIT)); \
         msgctl(id, IPC_RMID, 0);",
    ),
    row(
        "a System V semaphore",
        [Call, Call, Call],
        "id = semget(IPC_PRIVATE, 1, 0600); FAILS(id < 0);",
        "struct sembuf up = { 0, 1, 0 }; FAILS(semop(id, &up, 1)); printf(\"%d\\n\", semctl(id, 0, GETVAL)); \
         semctl(id, 0, IPC_RMID);",
    ),
    row(
        "a semaphore that is taken",
        [Call, Call, Call],
        "id = semget(IPC_PRIVATE, 1, 0600); FAILS(id < 0); \
         struct sembuf up = { 0, 1, IPC_NOWAIT | SEM_UNDO }; FAILS(semop(id, &up, 1));",
        "printf(\"%d\\n\", semctl(id, 0, GETVAL)); semctl(id, 0, IPC_RMID);",
    ),
    row(
        "a POSIX queue",
        [Call, Call, Call],
        "struct mq_attr its = { .mq_maxmsg = 4, .mq_msgsize = 100 }; \
         snprintf(name, sizeof name, \"/skd-test-%d\", (int)getpid()); \
         queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL | O_NONBLOCK, 0600, &its); \
         FAILS(queue == (mqd_t)-1); mq_unlink(name);",
        "printf(\"%d [%s]\\n\", (int)mq_receive(queue, bytes, 100, 0), bytes); mq_send(queue, said, 100, 0);",
    ),
    row(
        "a POSIX semaphore",
        [Call, Call, Call],
        "snprintf(name, sizeof name, \"/skd-test-%d\", (int)getpid()); \
         memory = (char *)sem_open(name, O_CREAT | O_EXCL, 0600, 1); FAILS(memory == (char *)SEM_FAILED); sem_unlink(name);",
        "printf(\"%d\\n\", sem_trywait((sem_t *)memory));",
    ),
    row(
        "a ring of io_uring",
        [Call, Call, Call],
        "unsigned its[30] = { 0 }; fd = syscall(SYS_io_uring_setup, 4, its); more = errno; \
         if (fd >= 0) MAPS(MAP_SHARED, fd);",
        "if (fd < 0) printf(\"not here: %ld\\n\", more); else LEAVES((memory + 2048));",
    ),
    row(
        "asynchronous input and output",
        [Call, Call, Call],
        "id = 0; FAILS(syscall(SYS_io_setup, 4, &id));",
        "printf(\"%ld\\n\", syscall(SYS_io_destroy, id));",
    ),
    row(
        "a map for programs in the kernel",
        [Call, Call, Call],
        "union bpf_attr its = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1 }; \
         fd = syscall(SYS_bpf, BPF_MAP_CREATE, &its, sizeof its); more = errno;",
        "uint32_t key = 0; uint64_t value = 0; union bpf_attr its = { .map_fd = fd }; \
         its.key = (uintptr_t)&key; its.value = (uintptr_t)&value; \
         if (fd < 0) printf(\"not here: %ld\\n\", more); else { \
         syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &its, sizeof its); printf(\"%d\\n\", (int)value); value = 7; \
         syscall(SYS_bpf, BPF_MAP_UPDATE_ELEM, &its, sizeof its); }",
    ),
    row(
        "a key of the process",
        [Call, Call, Call],
        "id = syscall(SYS_add_key, \"user\", \"skd\", \"own\", 3, -2); more = errno;",
        "if (id < 0) printf(\"not here: %ld\\n\", more); \
         else { id = syscall(SYS_keyctl, 10, -2, \"user\", \"skd\", 0); \
         printf(\"%d\\n\", (int)syscall(SYS_keyctl, 11, id, bytes, 100)); }",
    ),
    // Descriptors.
    row(
        "a pipe",
        [Client, Call, Call],
        "FAILS(pipe2(ends, O_NONBLOCK));",
        "leaves_in(ends[0]); write(ends[1], said, strlen(said));",
    ),
    row(
        "a pipe that is closed again",
        [Client, Client, Client],
        "FAILS(pipe(ends)); close(ends[0]); close(ends[1]);",
        "printf(\"%d %d\\n\", ends[0], ends[1]);",
    ),
    row(
        "a pipe as standard error",
        [Client, Call, Call],
        "FAILS(pipe2(ends, O_NONBLOCK)); FAILS(dup2(ends[1], 2) != 2);",
        "leaves_in(ends[0]); write(2, said, strlen(said));",
    ),
    row(
        "memory as standard error alone",
        [Client, Call, Call],
        "fd = memfd_create(\"a\", 0); FAILS(dup2(fd, 2) != 2); close(fd);",
        "pread(2, bytes, 100, 0); printf(\"[%s]\\n\", bytes); pwrite(2, said, 100, 0);",
    ),
    row(
        "standard error elsewhere",
        [Client, Client, Client],
        "other = dup(2); fd = open(\"/dev/null\", O_RDWR); FAILS(dup2(fd, 2) != 2);",
        "printf(\"%d\\n\", fcntl(other, F_GETFD));",
    ),
    row(
        "a pair of sockets",
        [Client, Call, Call],
        "FAILS(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, ends));",
        "leaves_in(ends[0]); write(ends[1], said, strlen(said));",
    ),
    row(
        "a pair of sockets that is closed again",
        [Client, Client, Client],
        "FAILS(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends)); close(ends[0]); close(ends[1]);",
        "printf(\"%d\\n\", ends[0]);",
    ),
    row(
        "a UDP socket connected to itself",
        [Call, Call, Call],
        "struct sockaddr_in own = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } }; socklen_t size = sizeof own; \
         fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0); FAILS(bind(fd, (void *)&own, size)); \
         getsockname(fd, (void *)&own, &size); FAILS(connect(fd, (void *)&own, size));",
        "leaves_in(fd); send(fd, said, strlen(said), 0);",
    ),
    row(
        "two ends of a connection",
        [Call, Call, Call],
        "struct sockaddr_un own = { AF_UNIX }; socklen_t size = sizeof own; fd = socket(AF_UNIX, SOCK_STREAM, 0); \
         FAILS(bind(fd, (void *)&own, 2)); FAILS(listen(fd, 1)); getsockname(fd, (void *)&own, &size); \
         ends[1] = socket(AF_UNIX, SOCK_STREAM, 0); FAILS(connect(ends[1], (void *)&own, size)); \
         ends[0] = accept4(fd, 0, 0, SOCK_NONBLOCK); FAILS(ends[0] < 0); close(fd);",
        "leaves_in(ends[0]); send(ends[1], said, strlen(said), 0);",
    ),
    row(
        "a socket that listens",
        [Call, Call, Call],
        "struct sockaddr_in own = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } }; socklen_t size = sizeof own; \
         fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0); FAILS(bind(fd, (void *)&own, size)); FAILS(listen(fd, 9));",
        "struct sockaddr_in own; socklen_t size = sizeof own; printf(\"%d\\n\", accept(fd, 0, 0)); \
         getsockname(fd, (void *)&own, &size); other = socket(AF_INET, SOCK_STREAM, 0); \
         FAILS(connect(other, (void *)&own, size));",
    ),
    row(
        "a port",
        [Call, Call, Call],
        "struct sockaddr_in own = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } }; socklen_t size = sizeof own; \
         fd = socket(AF_INET, SOCK_DGRAM, 0); FAILS(bind(fd, (void *)&own, size)); FAILS(getsockname(fd, (void *)&own, &size)); close(fd); \
         fd = socket(AF_INET, SOCK_DGRAM, 0); FAILS(bind(fd, (void *)&own, size));",
        "printf(\"%d\\n\", fd);",
    ),
    row(
        "a socket that is closed again",
        [Client, Client, Client],
        "struct sockaddr_un own = { AF_UNIX, \"/no/such/socket\" }; fd = socket(AF_UNIX, SOCK_STREAM, 0); \
         connect(fd, (void *)&own, sizeof own); close(fd);",
        "printf(\"%d\\n\", fd);",
    ),
    row(
        "an eventfd",
        [Client, Call, Call],
        "fd = eventfd(0, EFD_NONBLOCK);",
        "uint64_t count = 0; read(fd, &count, 8); printf(\"%d\\n\", (int)count); count = 3; write(fd, &count, 8);",
    ),
    row(
        "an eventfd that is closed again",
        [Client, Client, Client],
        "fd = eventfd(0, 0); close(fd);",
        "printf(\"%d\\n\", fd);",
    ),
    row(
        "a timerfd",
        [Client, Call, Call],
        "fd = timerfd_create(CLOCK_MONOTONIC, 0);",
        "struct itimerspec its; timerfd_gettime(fd, &its); printf(\"%d\\n\", its.it_value.tv_sec > 0); \
         its = (struct itimerspec){ .it_value = { 1000, 0 } }; timerfd_settime(fd, 0, &its, 0);",
    ),
    row(
        "a timerfd that is closed again",
        [Client, Client, Client],
        "fd = timerfd_create(CLOCK_MONOTONIC, 0); close(fd);",
        "printf(\"%d\\n\", fd);",
    ),
    row(
        "a signalfd",
        [Call, Call, Call],
        "sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR1); fd = signalfd(-1, &set, 0);",
        "snprintf(name, sizeof name, \"/proc/self/fdinfo/%d\", fd); printf(\"%ld\\n\", field(name, \"sigmask:\\t\")); \
         file = fopen(name, \"r\"); while (fgets(bytes, 100, file)) if (*bytes == 's') fputs(bytes, stdout); \
         sigset_t set; sigfillset(&set); signalfd(fd, &set, 0);",
    ),
    row(
        "an inotify",
        [Client, Call, Call],
        "fd = inotify_init1(IN_NONBLOCK);",
        "printf(\"%d\\n\", inotify_add_watch(fd, !strcmp(said, \"first\") ? \"/\" : directory, IN_DELETE_SELF));",
    ),
    row(
        "an epoll set",
        [Client, Call, Call],
        "fd = epoll_create1(0);",
        "struct epoll_event its = { .events = EPOLLOUT }, found[9]; FAILS(epoll_ctl(fd, EPOLL_CTL_ADD, 1, &its)); \
         printf(\"%d\\n\", epoll_wait(fd, found, 9, 0));",
    ),
    row(
        "an epoll set that is closed again",
        [Client, Client, Client],
        "fd = epoll_create1(0); close(fd);",
        "printf(\"%d\\n\", fd);",
    ),
    row(
        "a descriptor for the process itself",
        [Call, Call, Call],
        "fd = syscall(SYS_pidfd_open, getpid(), 0);",
        "snprintf(name, sizeof name, \"/proc/self/fdinfo/%d\", fd); printf(\"%d\\n\", field(name, \"Pid:\") == getpid());",
    ),
    row(
        "a pseudo-terminal",
        [Call, Call, Call],
        "fd = posix_openpt(O_RDWR | O_NOCTTY); FAILS(fd < 0);",
        "struct winsize size = { 0 }; ioctl(fd, TIOCGWINSZ, &size); printf(\"%d\\n\", size.ws_row); \
         size.ws_row = 77; ioctl(fd, TIOCSWINSZ, &size);",
    ),
    row(
        "a pseudo-terminal by a relative name",
        [Call, Call, Nowhere],
        "chdir(\"/dev\"); fd = open(\"ptmx\", O_RDWR | O_NOCTTY); FAILS(fd < 0);",
        "struct winsize size = { 0 }; ioctl(fd, TIOCGWINSZ, &size); printf(\"%d\\n\", size.ws_row); \
         size.ws_row = 77; ioctl(fd, TIOCSWINSZ, &size);",
    ),
    row(
        "devices without state",
        [Client, Client, Client],
        "fd = open(\"/dev/null\", O_RDWR); other = open(\"/dev/urandom\", O_RDONLY); ends[0] = open(\"/dev/zero\", O_RDONLY);",
        "printf(\"%d %d %d\\n\", fd, other, (int)read(ends[0], bytes, 9));",
    ),
    row(
        "the flags, owner and locks of a device",
        [Client, Client, Client],
        "fd = open(\"/dev/null\", O_RDONLY); other = dup(fd);",
        "printf(\"%x %d %d\\n\", fcntl(other, F_GETFL), fcntl(fd, F_GETOWN), flock(fd, LOCK_SH | LOCK_NB)); \
         fcntl(fd, F_SETFL, O_NONBLOCK | O_APPEND); fcntl(fd, F_SETOWN, getpid()); printf(\"%x\\n\", fcntl(other, F_GETFL));",
    ),
    row(
        "a file of /proc about the process",
        [Call, Call, Call],
        "fd = open(\"/proc/self/stat\", O_RDONLY);",
        "pread(fd, bytes, 100, 0); printf(\"%d\\n\", atoi(bytes) == getpid());",
    ),
    row(
        "a file of /proc that is closed again",
        [Call, Call, Client],
        "id = field(\"/proc/self/status\", \"Threads:\");",
        "printf(\"%ld\\n\", id);",
    ),
    // Files.
    row(
        "the position in a file",
        [Client, Client, Client],
        "snprintf(name, sizeof name, \"%s/file\", directory); fd = open(name, O_RDONLY); read(fd, bytes, 3);",
        "bytes[read(fd, bytes, 4)] = 0; printf(\"[%s]\\n\", bytes);",
    ),
    row(
        "the position that two descriptors share",
        [Client, Client, Client],
        "snprintf(name, sizeof name, \"%s/file\", directory); fd = open(name, O_RDONLY); other = dup(fd);",
        "lseek(fd, 2, SEEK_CUR); printf(\"%d\\n\", (int)lseek(other, 0, SEEK_CUR));",
    ),
    row(
        "the position in a file that is standard error",
        [Client, Client, Client],
        "snprintf(name, sizeof name, \"%s/file\", directory); fd = open(name, O_RDONLY); dup2(fd, 2); close(fd);",
        "bytes[read(2, bytes, 4)] = 0; printf(\"[%s]\\n\", bytes);",
    ),
    row(
        "a file that is read through a buffer",
        [Client, Client, Client],
        "snprintf(name, sizeof name, \"%s/file\", directory); file = fopen(name, \"r\"); setvbuf(file, 0, _IOFBF, 4); getc(file);",
        "for (int at = 0; at < 9; at++) putchar(getc(file)); puts(\"\");",
    ),
    row(
        "the position in a directory",
        [Call, Call, Client],
        "entries = opendir(\"/proc/sys/kernel/..\"); closedir(entries); entries = opendir(\"/\"); readdir(entries);",
        "int count = 0; while (readdir(entries)) count++; printf(\"%d\\n\", count);",
    ),
    row(
        "a place in the file system",
        [Client, Client, Client],
        "fd = open(directory, O_PATH | O_DIRECTORY); other = open(\"/\", O_RDONLY | O_DIRECTORY);",
        "printf(\"%d %d\\n\", fchdir(fd), faccessat(fd, \"file\", R_OK, 0));",
    ),
    row(
        "a temporary file",
        [Call, Call, Call],
        "strcpy(name, directory); strcat(name, \"/aXXXXXX\"); fd = mkstemp(name); FAILS(fd < 0);",
        "pread(fd, bytes, 100, 0); printf(\"[%s]\\n\", bytes); pwrite(fd, said, 100, 0); printf(\"%d\\n\", unlink(name));",
    ),
    row(
        "a temporary file without a name",
        [Call, Call, Call],
        "file = tmpfile(); FAILS(!file);",
        "pread(fileno(file), bytes, 100, 0); printf(\"[%s]\\n\", bytes); pwrite(fileno(file), said, 100, 0);",
    ),
    row(
        "a temporary directory",
        [Call, Call, Call],
        "strcpy(name, directory); strcat(name, \"/aXXXXXX\"); FAILS(!mkdtemp(name));",
        "printf(\"%d\\n\", rmdir(name));",
    ),
    row(
        "a temporary file that is removed again",
        [Call, Call, Call],
        "strcpy(name, directory); strcat(name, \"/aXXXXXX\"); fd = mkstemp(name); close(fd); unlink(name);",
        "printf(\"%d\\n\", access(name, F_OK));",
    ),
    row(
        "a symbolic link",
        [Call, Call, Call],
        "path(\"link\"); FAILS(symlink(\"a\", name));",
        "printf(\"%d\\n\", unlink(name));",
    ),
    row(
        "a named pipe that is removed",
        [Call, Call, Call],
        "path(\"fifo\"); FAILS(mkfifo(name, 0600)); fd = open(name, O_RDWR | O_NONBLOCK); FAILS(fd < 0); unlink(name);",
        "leaves_in(fd); write(fd, said, strlen(said));",
    ),
    row(
        "a socket with a name, closed again",
        [Call, Call, Call],
        "path(\"bound\"); struct sockaddr_un own = { AF_UNIX }; strcpy(own.sun_path, name); \
         fd = socket(AF_UNIX, SOCK_DGRAM, 0); FAILS(bind(fd, (void *)&own, sizeof own)); close(fd);",
        "printf(\"%d\\n\", unlink(name));",
    ),
    row(
        "a file that can't be made",
        [Call, Call, Call],
        "fd = open(\"/no/such/directory/file\", O_RDWR | O_CREAT | O_EXCL, 0600); mkdir(\"/\", 0700);",
        "printf(\"%d\\n\", fd);",
    ),
    row(
        "a file that is emptied",
        [Call, Call, Call],
        "snprintf(name, sizeof name, \"%s/file\", directory); file = fopen(name, \"w+\"); FAILS(!file);",
        "if (fgets(bytes, 100, file)) fputs(bytes, stdout); rewind(file); fputs(said, file); puts(\".\");",
    ),
    row(
        "a file that is written, closed and opened again",
        [Call, Call, Call],
        "path(\"a\"); fd = open(name, O_WRONLY | O_CREAT | O_APPEND, 0600); close(fd);",
        "fd = open(name, O_RDWR); leaves_in(fd); write(fd, said, strlen(said)); printf(\"%d\\n\", unlink(name));",
    ),
    row(
        "the files of /proc about the process",
        [Call, Call, Nowhere],
        "chdir(\"/proc\"); fd = open(\"self\", O_PATH | O_DIRECTORY);",
        "other = openat(fd, \"stat\", O_RDONLY); read(other, bytes, 100); printf(\"%d\\n\", atoi(bytes) == getpid());",
    ),
    row(
        "a log that all append to",
        [Call, Call, Call],
        "snprintf(name, sizeof name, \"%s/log\", directory); fd = open(name, O_WRONLY | O_CREAT | O_APPEND, 0600); FAILS(fd < 0);",
        "printf(\"%d\\n\", (int)write(fd, said, strlen(said)) > 0);",
    ),
    // Locks, leases and notices: a warm handler mustn't hold any while it waits.
    row(
        "a lock of flock(2)",
        [Call, Call, Call],
        "snprintf(name, sizeof name, \"%s/file\", directory); fd = open(name, O_RDWR); FAILS(flock(fd, LOCK_EX));",
        "other = open(name, O_RDWR); printf(\"%d\\n\", flock(other, LOCK_EX | LOCK_NB));",
    ),
    row(
        "a lock of fcntl(2)",
        [Call, Call, Call],
        "snprintf(name, sizeof name, \"%s/file\", directory); fd = open(name, O_RDWR); \
         struct flock its = { .l_type = F_WRLCK }; FAILS(fcntl(fd, F_SETLKW, &its));",
        "printf(\"%d\\n\", (int)field(\"/proc/locks\", \"no such\")); struct flock its = { .l_type = F_WRLCK }; \
         id = getpid(); if (!fork()) { fcntl(fd, F_GETLK, &its); printf(\"%d\\n\", its.l_pid == id); fflush(stdout); _exit(0); } \
         wait(0);",
    ),
    row(
        "a lock of an open file",
        [Call, Call, Call],
        "snprintf(name, sizeof name, \"%s/file\", directory); fd = open(name, O_RDWR); \
         struct flock its = { .l_type = F_WRLCK }; FAILS(fcntl(fd, F_OFD_SETLKW, &its));",
        "other = open(name, O_RDWR); struct flock its = { .l_type = F_WRLCK }; printf(\"%d\\n\", fcntl(other, F_OFD_SETLK, &its));",
    ),
    row(
        "a lease",
        [Call, Call, Call],
        "strcpy(name, directory); strcat(name, \"/file\"); fd = open(name, O_RDONLY); id = fcntl(fd, F_SETLEASE, F_RDLCK);",
        "printf(\"%ld %d\\n\", id, fcntl(fd, F_GETLEASE) == F_RDLCK);",
    ),
    row(
        "the process that is told of input",
        [Call, Call, Call],
        "fd = open(directory, O_RDONLY); FAILS(fcntl(fd, F_SETOWN, getpid()));",
        "printf(\"%d\\n\", fcntl(fd, F_GETOWN) == getpid());",
    ),
    // The process.
    row(
        "its ids, asked for again",
        [Client, Client, Client],
        "id = getppid();",
        "printf(\"%d %d %d %d\\n\", getpid() == gettid(), getppid() == id, kill(getpid(), 0), getpgrp() == getpid());",
    ),
    Row {
        name: "its ids, remembered",
        at: [Client, Call, Client],
        copy: Some("0 0\n"),
        before: "id = getpid(); more = syscall(SYS_gettid);",
        then: "printf(\"%d %d\\n\", id == getpid(), more == syscall(SYS_gettid));",
    },
    Row {
        name: "the processor time of its start",
        at: [Call, Call, Client],
        copy: Some("0\n"),
        before: "struct timespec spent; do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent); while (spent.tv_nsec < 60000000 && !spent.tv_sec);",
        then: "struct timespec spent; clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent); printf(\"%d\\n\", spent.tv_nsec >= 60000000 || spent.tv_sec);",
    },
    row(
        "a thread",
        [Call, Call, Call],
        "FAILS(pthread_create(&thread, 0, waits, 0));",
        "printf(\"%ld\\n\", field(\"/proc/self/status\", \"Threads:\"));",
    ),
    row(
        "a child",
        [Call, Call, Call],
        "id = fork(); if (!id) _exit(7);",
        "int status = 0; printf(\"%d\", waitpid(id, &status, 0) == id); printf(\" %d\\n\", WEXITSTATUS(status));",
    ),
    row(
        "a session",
        [Call, Call, Call],
        "id = setsid();",
        "printf(\"%d\\n\", getsid(0) == getpid() || id < 0);",
    ),
    row(
        "a process group",
        [Call, Call, Call],
        "setpgid(0, 0);",
        "printf(\"%d\\n\", getpgrp() == getpid());",
    ),
    row(
        "where the kernel keeps what it needs of a thread",
        [Call, Call, Client],
        "void *head; size_t size; syscall(SYS_get_robust_list, 0, &head, &size); id = (long)head; \
         int *at = 0; prctl(PR_GET_TID_ADDRESS, &at); more = (long)at;",
        "void *head; size_t size; syscall(SYS_get_robust_list, 0, &head, &size); int *at = 0; prctl(PR_GET_TID_ADDRESS, &at); \
         printf(\"%d %d\\n\", id == (long)head, more == (long)at);",
    ),
    row(
        "restartable sequences",
        [Client, Client, Client],
        "id = __rseq_size;",
        "struct rseq *its = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset); cpu_set_t set, one; \
         printf(\"%d\\n\", id == __rseq_size); sched_getaffinity(0, sizeof set, &set); \
         for (int cpu = 0; cpu < CPU_SETSIZE && id; cpu++) if (CPU_ISSET(cpu, &set)) { \
         CPU_ZERO(&one); CPU_SET(cpu, &one); sched_setaffinity(0, sizeof one, &one); printf(\"%d\\n\", (int)its->cpu_id == cpu); }",
    ),
    row(
        "a lock that knows its thread",
        [Client, Client, Client],
        "static pthread_mutex_t lock = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP; FAILS(pthread_mutex_lock(&lock)); \
         FAILS(pthread_mutex_unlock(&lock)); memory = (char *)&lock;",
        "printf(\"%d\", pthread_mutex_lock((void *)memory)); printf(\" %d\\n\", pthread_mutex_unlock((void *)memory));",
    ),
    Row {
        name: "a lock that its thread holds and that knows it",
        at: [Client, Entry, Entry],
        copy: None,
        before: "static pthread_mutex_t lock = PTHREAD_ERRORCHECK_MUTEX_INITIALIZER_NP; pthread_mutex_lock(&lock); memory = (char *)&lock;",
        then: "printf(\"%d\\n\", pthread_mutex_unlock((void *)memory));",
    },
    // Signals and timers.
    row(
        "the mask and dispositions of signals",
        [Client, Client, Client],
        "sigset_t set; sigemptyset(&set); sigaddset(&set, SIGHUP); sigprocmask(SIG_BLOCK, &set, 0); \
         signal(SIGUSR1, notes); signal(SIGUSR2, SIG_IGN);",
        "file = fopen(\"/proc/self/status\", \"r\"); while (fgets(bytes, 199, file)) if (!strncmp(bytes, \"Sig\", 3) && bytes[3] != 'Q') fputs(bytes, stdout);",
    ),
    row(
        "a signal that is pending",
        [Call, Call, Call],
        "sigset_t set; sigemptyset(&set); sigaddset(&set, SIGUSR1); sigprocmask(SIG_BLOCK, &set, 0); raise(SIGUSR1);",
        "sigset_t set; sigpending(&set); printf(\"%d\\n\", sigismember(&set, SIGUSR1));",
    ),
    row(
        "a signal that it sends itself",
        [Call, Call, Call],
        "signal(SIGUSR1, notes); raise(SIGUSR1); id += taken; FAILS(kill(getpid(), SIGUSR1)); id += taken;",
        "printf(\"%ld %d\\n\", id, taken);",
    ),
    row(
        "a stack for signals",
        [Client, Client, Client],
        "static char stack[65536]; stack_t its = { .ss_sp = stack, .ss_size = sizeof stack }; FAILS(sigaltstack(&its, 0));",
        "stack_t its; sigaltstack(0, &its); printf(\"%d %d\\n\", (int)its.ss_size, its.ss_flags);",
    ),
    row(
        "an alarm",
        [Call, Call, Call],
        "alarm(1000);",
        "printf(\"%d\\n\", alarm(0) > 900);",
    ),
    row(
        "a timer of processor time",
        [Call, Call, Call],
        "struct itimerval its = { .it_value = { 1000, 0 } }; setitimer(ITIMER_VIRTUAL, &its, 0);",
        "struct itimerval its; getitimer(ITIMER_VIRTUAL, &its); printf(\"%d\\n\", its.it_value.tv_sec > 900);",
    ),
    row(
        "a POSIX timer",
        [Call, Call, Call],
        "FAILS(timer_create(CLOCK_MONOTONIC, 0, &timer)); struct itimerspec its = { .it_value = { 1000, 0 } }; timer_settime(timer, 0, &its, 0);",
        "struct itimerspec its; printf(\"%d\", timer_gettime(timer, &its)); printf(\" %d\\n\", its.it_value.tv_sec > 900);",
    ),
    // What a process inherits.
    row(
        "umask and directory",
        [Client, Client, Client],
        "umask(0123); FAILS(chdir(directory));",
        "printf(\"%o %d\\n\", umask(0777), access(\"file\", R_OK)); chdir(\"/\");",
    ),
    row(
        "limits, nice value and processors",
        [Call, Call, Client],
        "struct rlimit its = { 50, 60 }; setrlimit(RLIMIT_NOFILE, &its); setpriority(PRIO_PROCESS, 0, 3);",
        "struct rlimit its; getrlimit(RLIMIT_NOFILE, &its); printf(\"%d %d\\n\", (int)its.rlim_cur, getpriority(PRIO_PROCESS, 0)); \
         its.rlim_cur = 40; setrlimit(RLIMIT_NOFILE, &its); setpriority(PRIO_PROCESS, 0, 7);",
    ),
    row(
        "a scheduling policy",
        [Call, Call, Call],
        "struct sched_param its = { 0 }; sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &its);",
        "printf(\"%d\\n\", sched_getscheduler(0));",
    ),
    row(
        "its name",
        [Client, Client, Client],
        "",
        "prctl(PR_GET_NAME, bytes); printf(\"%s\\n\", bytes); prctl(PR_SET_NAME, said);",
    ),
    row(
        "rights that it gave up",
        [Call, Call, Client],
        "prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); prctl(PR_CAPBSET_DROP, 13, 0, 0, 0); prctl(PR_SET_TIMERSLACK, 77777, 0, 0, 0);",
        "printf(\"%d %d %d\\n\", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_CAPBSET_READ, 13, 0, 0, 0), prctl(PR_GET_TIMERSLACK));",
    ),
    row(
        "its personality",
        [Call, Call, Client],
        "personality(ADDR_COMPAT_LAYOUT);",
        "printf(\"%x\\n\", personality(0xffffffff));",
    ),
    row(
        "the signal at its parent's end",
        [Call, Call, Call],
        "prctl(PR_SET_PDEATHSIG, SIGUSR1);",
        "int its; prctl(PR_GET_PDEATHSIG, &its); printf(\"%d\\n\", its);",
    ),
    row(
        "whether it can be traced",
        [Call, Call, Call],
        "prctl(PR_SET_DUMPABLE, 0);",
        "printf(\"%d\\n\", prctl(PR_GET_DUMPABLE));",
    ),
    row(
        "who may trace it",
        [Call, Call, Call],
        "id = prctl(PR_SET_PTRACER, getppid(), 0, 0, 0);",
        "printf(\"%d\\n\", (int)id);",
    ),
    row(
        "the children of its children",
        [Call, Call, Call],
        "prctl(PR_SET_CHILD_SUBREAPER, 1);",
        "int its; prctl(PR_GET_CHILD_SUBREAPER, &its); printf(\"%d\\n\", its);",
    ),
    row(
        "a filter of system calls",
        [Call, Call, Call],
        "struct sock_filter all = { BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW }; struct sock_fprog filter = { 1, &all }; \
         prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); FAILS(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter));",
        "printf(\"%d\\n\", prctl(PR_GET_SECCOMP));",
    ),
];

/// One program for all rows: its first argument is the number of the row.
fn source() -> String {
    let mut text = COMMON.to_owned();
    for (number, row) in ROWS.iter().enumerate() {
        let (before, then) = (row.before, row.then);
        let _ = writeln!(text, "static void before{number}(void) {{ {before} }}");
        let _ = writeln!(text, "static void then{number}(char *said) {{ {then} }}");
    }
    let names = |what: &str| -> String {
        let mut text = String::new();
        for number in 0..ROWS.len() {
            let _ = write!(text, "{what}{number}, ");
        }
        text
    };
    let (before, then) = (names("before"), names("then"));
    let _ = writeln!(
        text,
        r#"
        static void (*const befores[])(void) = {{ {before} }};
        static void (*const thens[])(char *) = {{ {then} }};
        int main(int count, char **words) {{
            int number = atoi(words[1]);
            char said[100] = "";
            directory = words[2];
            befores[number]();
            prctl(PR_SET_NAME, "{OVER}");
            ssize_t length = read(0, said, sizeof said - 1);
            said[length < 0 ? 0 : length] = 0;
            thens[number](said);
            return 0;
        }}"#
    );
    text
}

/// What the program calls itself when its first part is over.
const OVER: &str = "over";

/// Queues, semaphores and shared memory of their own, gone at the end: a program that was found to go too far was killed
/// with what it had made.
const APART: [&str; 6] = [
    "unshare",
    "--mount",
    "--ipc",
    "sh",
    "-ec",
    "mount -t tmpfs none /dev/shm; exec \"$0\" \"$@\"",
];

/// The words of clients that come one after the other.
const CLIENTS: [&str; 3] = ["first", "second", "last"];

/// Runs a row in one way; returns what its clients heard, and where it was parked. Where the machine stops for so long
/// that a prestarted handler is taken for silent, it is run again.
fn run(program: &Path, number: usize, mode: Mode) -> (Vec<String>, Option<At>) {
    let mut runs = (0..5).map(|_| run_once(program, number, mode));
    runs.find_map(|it| it).expect("answers in time")
}

fn run_once(program: &Path, number: usize, mode: Mode) -> Option<(Vec<String>, Option<At>)> {
    let directory = Directory::public();
    directory.write("file", "one two three four");
    let path = directory.path().to_str().unwrap();
    let skd = mode
        .skd()
        .wrapper(APART)
        .run_with(program, [&number.to_string(), path]);
    let (way, refused) = (mode.way(), || !skd.logged("can't be prestarted").is_empty());
    let mut at = None;
    if mode != Mode::Exec {
        skd.wait_until("it is parked, or refused", || {
            refused() || crate::harness::parked(skd.pid()).len() == way.pool_size()
        });
        at = Some(if refused() {
            Nowhere
        } else {
            match mode.parked_at(&skd) {
                (call, _) if call == "its entry" => Entry,
                (_, name) if name == OVER => Client,
                _ => Call,
            }
        });
    }
    let heard = CLIENTS.map(|word| {
        if at.is_some_and(|at| at != Nowhere) {
            way.ready(&skd);
        }
        let heard = talk(skd.connect(), word.as_bytes());
        let heard = String::from_utf8_lossy(&heard).into_owned();
        if at != Some(Nowhere) {
            way.wait_idle(&skd);
        }
        heard
    });
    let lines = skd.troubles();
    if lines.iter().any(|it| it.contains("didn't answer within")) {
        return None;
    }
    assert_eq!(lines.len(), usize::from(at == Some(Nowhere)), "{lines:?}");
    Some((heard.to_vec(), at))
}

/// What is wrong with a row.
fn wrong(program: &Path, number: usize) -> Vec<String> {
    let row = &ROWS[number];
    let mut wrong = Vec::new();
    let mut expected = Vec::new();
    let [warm, strict, shared] = row.at;
    let mut modes = vec![
        (Mode::Exec, None),
        (Mode::Warm, Some(warm)),
        (Mode::Strict, Some(strict)),
        (Mode::Start, Some(Entry)),
    ];
    // Where it gets no further, a template is parked at the same call.
    if shared != strict {
        modes.push((Mode::Shared, Some(shared)));
    }
    for (mode, at) in modes {
        let mut note = |what: String| wrong.push(format!("{}, {mode:?}: {what}", row.name));
        // The other rows are run too if this one waits in vain.
        let ran = catch_unwind(AssertUnwindSafe(|| run(program, number, mode)));
        let Ok((heard, parked)) = ran else {
            note("see above".to_owned());
            continue;
        };
        if mode == Mode::Exec {
            expected.clone_from(&heard);
        }
        let is_copy = matches!(mode, Mode::Strict | Mode::Shared) && at == Some(Client);
        let expected = match row.copy.filter(|_| is_copy) {
            Some(copy) => vec![copy.to_owned(); CLIENTS.len()],
            None => expected.clone(),
        };
        if heard != expected
            || heard
                .iter()
                .any(|heard| heard.is_empty() || heard.contains("failed"))
        {
            note(format!("{heard:?}, not {expected:?}"));
        }
        if parked != at {
            note(format!("parked at {parked:?}, not {at:?}"));
        }
    }
    wrong
}

#[test]
fn no_client_can_tell_what_another_left() {
    requires_root();
    requires_command("unshare");
    let directory = Directory::public();
    let program = directory.compile("rows", &source());
    let (next, wrongs) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= ROWS.len() {
                        break;
                    }
                    let wrong = wrong(&program, number);
                    wrongs.lock().unwrap().extend(wrong);
                }
            });
        }
    });
    let wrongs = wrongs.into_inner().unwrap();
    assert!(
        wrongs.is_empty(),
        "{} faults:\n{}",
        wrongs.len(),
        wrongs.join("\n")
    );
}

/// Counts a signal, and prints the count to its client.
const COUNTING: &str = r#"
    #include <signal.h>
    #include <stdio.h>
    #include <unistd.h>
    static volatile sig_atomic_t count;
    static void notes(int signal) { count += !!signal; }
    int main(void) {
        char said[100];
        sigset_t set;
        signal(SIGUSR1, notes);
        while (read(0, said, sizeof said) < 0);
        sigprocmask(SIG_BLOCK, 0, &set);
        printf("%d %d", (int)count, sigismember(&set, SIGUSR1));
        fflush(stdout);
        raise(SIGUSR1);
        printf(" %d\n", (int)count);
        return 0;
    }"#;

#[test]
fn a_signal_to_the_template_reaches_no_copy() {
    requires_root();
    let directory = Directory::public();
    let program = directory.compile("counting", COUNTING);
    let skd = Skd::new(["-vv", "-t", "127.0.0.1:0", "--fork-server"]).run(&program);
    let template = Way::Fork.ready(&skd);
    let signal = |signal| kill(Pid::from_raw(template[0]), signal).unwrap();
    for _ in 0..3 {
        signal(Signal::SIGUSR1);
        signal(Signal::SIGTERM);
        let heard = talk(Way::Fork.connect(&skd).0, b".");
        assert_eq!(String::from_utf8_lossy(&heard), "0 0 1\n");
        assert_eq!(Way::Fork.ready(&skd), template);
    }
    assert_eq!(skd.troubles(), [""; 0]);
}

/// Makes a file unless it is there, as programs do that keep what they have computed.
const ONCE: &str = r#"
    #include <fcntl.h>
    #include <sys/prctl.h>
    #include <unistd.h>
    int main(int count, char **words) {
        char said[100];
        if (access(words[1], F_OK)) close(open(words[1], O_WRONLY | O_CREAT | O_EXCL, 0600));
        prctl(PR_SET_NAME, "over");
        ssize_t length = read(0, said, sizeof said);
        return write(1, said, length < 0 ? 0 : length) != length;
    }"#;

#[test]
fn a_template_that_was_parked_before_it_made_a_file_is_replaced() {
    requires_root();
    let directory = Directory::public();
    let program = directory.compile("once", ONCE);
    let skd = Skd::new(["-vv", "-t", "127.0.0.1:0", "--fork-server"])
        .run_with(&program, [directory.name("file")]);
    let name = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let first = Way::Fork.ready(&skd)[0];
    assert_eq!(name(first).trim(), "once");
    assert_eq!(talk(Way::Fork.connect(&skd).0, b"served"), b"served");
    skd.wait_until("another start gets further", || {
        let parked = crate::harness::parked(skd.pid());
        parked
            .iter()
            .any(|&pid| pid != first && name(pid).trim() == OVER)
    });
    assert_eq!(talk(Way::Fork.connect(&skd).0, b"served"), b"served");
    assert_eq!(skd.troubles(), [""; 0]);
}
