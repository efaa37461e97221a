//! The life of prestarted handlers and of their copies: they are indistinguishable from handlers that are started for
//! their client, and nothing that happens to them costs a client its answer.

use crate::harness::{
    DEADLINE, Directory, Instance, Over, Running, Skd, Way, children, connect_from, connect_unix,
    descriptors, echo, exec_id, exists, in_a_storm, is_parked, parent, parked, poll_for,
    process_group, receive, requires_command, requires_descriptors, requires_root, session,
    settled_descriptors, signal_masks, slay_if_parked, stat_field, status_field, talk, threads,
    time_limit, tracing_takes_a_right, try_talk, wait_until, zombies,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// A verbose skd on a free port.
fn with(way: Way, options: &[&str]) -> Skd {
    Skd::new(["-v", "-t", "127.0.0.1:0"])
        .args(way.options())
        .args(options)
}

#[test]
fn children_that_handlers_make_skds_are_reaped() {
    requires_command("perl");
    // clone(2) with CLONE_PARENT.
    let script = format!(
        "use POSIX; <STDIN>; for (1..20) {{ POSIX::_exit(0) if syscall({}, 0x8000 | 17, 0, 0, 0, 0) == 0 }} \
         $| = 1; print 'made'; <STDIN>",
        libc::SYS_clone
    );
    for &way in Way::PRESTARTED {
        let skd = with(way, &["-vv"]).run_with("perl", ["-e", &script]);
        skd.wait_for_log(" awaits a client");
        let mut stream = skd.connect();
        stream.write_all(b"go\n").unwrap();
        assert_eq!(receive(&mut stream, 4), b"made");
        let other = skd.connect();
        wait_until("all are reaped", || zombies(skd.pid()).is_empty());
        // Not so the handler, which still lives, and those that await clients.
        stream.write_all(b"end\n").unwrap();
        assert_eq!(talk(stream, b""), b"");
        assert_eq!(talk(other, b"go\nend\n"), b"made");
        assert_eq!(skd.stop().code(), Some(0));
    }
}

// The properties of a handler.

/// What the kernel says of a process that is the same for each handler of a service.
fn kernel_properties(pid: i32) -> BTreeMap<String, String> {
    let read = |name: &str| {
        let text = fs::read_to_string(format!("/proc/{pid}/{name}"));
        text.unwrap_or_else(|error| panic!("{name} of {pid}: {error}"))
    };
    let link = |name: &str| {
        let target = fs::read_link(format!("/proc/{pid}/{name}")).unwrap();
        target.to_str().unwrap().to_owned()
    };
    let mut found = BTreeMap::new();
    let mut note = |name: &str, value: String| {
        found.insert(name.to_owned(), value);
    };
    for name in ["exe", "cwd", "root"] {
        note(name, link(name));
    }
    for name in [
        "cmdline",
        "comm",
        "limits",
        "cgroup",
        "oom_score_adj",
        "personality",
        "coredump_filter",
        "loginuid",
        "timerslack_ns",
        "timers",
        "uid_map",
    ] {
        note(name, read(name));
    }
    for line in read("status").lines() {
        let (name, value) = line.split_once(':').unwrap();
        let of_all = [
            "Umask",
            "TracerPid",
            "Uid",
            "Gid",
            "FDSize",
            "Groups",
            "Threads",
            "SigPnd",
            "ShdPnd",
            "SigBlk",
            "SigIgn",
            "SigCgt",
            "CapInh",
            "CapPrm",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
            "THP_enabled",
            "Cpus_allowed",
            "CoreDumping",
        ];
        if of_all.contains(&name) {
            note(name, value.trim().to_owned());
        }
    }
    // Terminal, signal at its end, nice value, scheduling policy, and the like.
    for (number, name) in [
        (7, "tty"),
        (18, "priority"),
        (19, "nice"),
        (38, "exit signal"),
        (41, "policy"),
    ] {
        note(name, stat_field(pid, number).unwrap());
    }
    note(
        "session",
        (session(pid) == session(parent(pid).unwrap())).to_string(),
    );
    note(
        "leads its group",
        (process_group(pid) == Some(pid)).to_string(),
    );
    // The client's address differs between handlers, and the port between instances of skd.
    let mut variables = crate::harness::environment(pid);
    let port = variables.remove("TCPLOCALPORT");
    assert!(port.is_some());
    variables.retain(|name, _| !name.contains("REMOTE") && name != crate::harness::MARK);
    note("environment", format!("{variables:?}"));
    let open = descriptors(pid);
    assert_eq!(open[&0], open[&1]);
    note("descriptors", format!("{:?}", open.keys()));
    for number in open.keys() {
        let info = read(&format!("fdinfo/{number}"));
        let flags = info.lines().find(|line| line.starts_with("flags:"));
        note(&format!("flags of {number}"), flags.unwrap().to_owned());
    }
    let maps = read("maps");
    assert!(!maps.contains("rwx"), "writable and executable: {maps}");
    found
}

#[test]
fn prestarted_handlers_have_the_properties_of_others() {
    let all: &[&[&str]] = &[
        &[],
        &[
            "--chdir=/usr",
            "--umask=27",
            "--nice=7",
            "--limit=nofile=50:60",
            "--limit=core=0",
            "--env=A=B",
            "--env=HOME",
            "--no-new-privs",
        ],
    ];
    for options in all {
        let mut expected: Option<BTreeMap<_, _>> = None;
        for &way in Way::ALL {
            let skd = with(way, options)
                .ignoring(Signal::SIGHUP)
                .blocking(Signal::SIGALRM);
            let skd = skd
                .env_remove("TCPREMOTEIP")
                .env_remove("TCPREMOTEPORT")
                .run("cat");
            for turn in 0..3 {
                let (mut client, handler) = way.connect(&skd);
                assert_eq!(parent(handler), Some(skd.pid()));
                // After its first read the handler no longer changes.
                echo(&mut client, b"served");
                let mut found = kernel_properties(handler);
                let masks = signal_masks(handler);
                assert_eq!(
                    [masks.pending, masks.blocked, masks.ignored, masks.caught],
                    [0; 4]
                );
                assert_eq!(
                    descriptors(handler).keys().collect::<Vec<_>>(),
                    [&0, &1, &2]
                );
                // The size of the descriptor table, which grows while a process starts.
                found.remove("FDSize");
                let expected = expected.get_or_insert_with(|| found.clone());
                for (name, value) in &found {
                    let expected = expected.get(name);
                    assert_eq!(expected, Some(value), "{name}, {way:?}, {turn}");
                }
                assert_eq!(found.len(), expected.len());
                drop(client);
                skd.wait_for_logs("exited with status 0", turn + 1);
            }
        }
    }
}

#[test]
fn a_handler_runs_as_the_user_of_the_service() {
    requires_root();
    for &way in Way::ALL {
        let skd = with(way, &["-U"]).env("UID", "61234").env("GID", "61235");
        let skd = skd.env_remove("ROOT").run("cat");
        if way != Way::Exec && tracing_takes_a_right() {
            skd.wait_for_log("'cat' can't be prestarted: ");
            assert_eq!(talk(skd.connect(), b"served"), b"served");
            continue;
        }
        let (client, handler) = way.connect(&skd);
        let (users, groups, more) = crate::harness::ids(handler);
        assert_eq!(
            (users, groups, more),
            (vec![61_234; 4], vec![61_235; 4], vec![61_235])
        );
        assert_eq!(crate::harness::capabilities(handler, "CapEff"), 0);
        assert_eq!(talk(client, b"served"), b"served");
        // Other processes of this user may inspect a handler, but not a prestarted one without a client.
        let owner = |pid: i32| fs::metadata(format!("/proc/{pid}/fd")).unwrap().uid();
        let (mut client, handler) = way.connect(&skd);
        echo(&mut client, b"served");
        assert_eq!(owner(handler), 61_234);
        assert!(way.ready(&skd).iter().all(|&pid| owner(pid) == 0));
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

/// Prints what the C library knows of its thread, and what the kernel does for that thread.
const THREADS: &str = r#"
    #define _GNU_SOURCE
    #include <errno.h>
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/syscall.h>
    #include <sys/wait.h>
    #include <time.h>
    #include <unistd.h>
    static volatile pid_t hit;
    static void take(int signal) { hit = syscall(SYS_gettid); }
    static void *kick(void *first) { return (void *)(long)pthread_kill(*(pthread_t *)first, SIGUSR1); }
    static void *own(void *its) { pthread_mutex_t *mutex = its; pthread_mutex_lock(mutex); return 0; }
    int main(void) {
        char said[100];
        ssize_t length = read(0, said, sizeof said);
        pid_t self = syscall(SYS_gettid);
        pthread_t first = pthread_self(), other;
        void *result = (void *)1;
        if (length < 0) return 1;
        printf("%d %d\n", getpid() == self, getppid() > 1 && getpgrp() == self);
        pthread_mutexattr_t kind;
        pthread_mutex_t mutex;
        pthread_mutexattr_init(&kind);
        pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_RECURSIVE);
        pthread_mutex_init(&mutex, &kind);
        pthread_mutex_lock(&mutex);
        printf("owner %d\n", mutex.__data.__owner == self);
        signal(SIGUSR1, take);
        raise(SIGUSR1);
        printf("raise %d\n", hit == self);
        hit = 0;
        pthread_create(&other, 0, kick, &first);
        pthread_join(other, &result);
        printf("pthread_kill %d %d\n", result == 0, hit == self);
        clockid_t clock;
        struct timespec time;
        printf("clock %d", pthread_getcpuclockid(first, &clock));
        printf(" %d\n", clock_gettime(clock, &time));
        int policy;
        struct sched_param parameters;
        printf("schedparam %d\n", pthread_getschedparam(first, &policy, &parameters));
        pthread_attr_t attributes;
        printf("attributes %d\n", pthread_getattr_np(first, &attributes));
        void *head = 0;
        size_t size = 0;
        printf("robust list %ld", syscall(SYS_get_robust_list, 0, &head, &size));
        printf(" %d\n", head != 0);
        pthread_mutexattr_init(&kind);
        pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
        pthread_mutexattr_setprotocol(&kind, PTHREAD_PRIO_INHERIT);
        pthread_mutex_t robust;
        pthread_mutex_init(&robust, &kind);
        pthread_create(&other, 0, own, &robust);
        pthread_join(other, 0);
        printf("robust %d\n", pthread_mutex_lock(&robust) == EOWNERDEAD);
        fflush(stdout);
        int status = -1;
        pid_t child = fork();
        if (!child) _exit(getpid() == syscall(SYS_gettid) && getppid() == self ? 7 : 8);
        int wrong = 0;
        cpu_set_t all, one;
        sched_getaffinity(0, sizeof all, &all);
        for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
            if (!CPU_ISSET(cpu, &all)) continue;
            CPU_ZERO(&one);
            CPU_SET(cpu, &one);
            wrong += sched_setaffinity(0, sizeof one, &one) || sched_getcpu() != cpu;
        }
        printf("processors %d\n", wrong);
        printf("fork %d", waitpid(child, &status, 0) == child);
        printf(" %d\n", WEXITSTATUS(status));
        return 0;
    }"#;

#[test]
fn the_c_library_knows_its_threads() {
    let expected = "1 1\nowner 1\nraise 1\npthread_kill 1 1\nclock 0 0\nschedparam 0\nattributes 0\n\
                    robust list 0 1\nrobust 1\nprocessors 0\nfork 1 7\n";
    let directory = Directory::new();
    let linked = [
        directory.compile("static", THREADS),
        directory.compile_shared("shared", THREADS),
    ];
    for (program, way) in linked
        .iter()
        .flat_map(|it| Way::ALL.iter().map(move |way| (it, *way)))
    {
        let skd = with(way, &[]).run(program);
        for _ in 0..5 {
            let heard = talk(way.connect(&skd).0, b"?");
            assert_eq!(String::from_utf8(heard).unwrap(), expected, "{way:?}");
        }
        skd.wait_for_logs("exited with status 0", 5);
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

/// Prints the number of the first thing that a system call has changed and should not have: registers, floating-point
/// registers, memory below the end of the stack, and the result of the call.
#[cfg(target_arch = "x86_64")]
const REGISTERS: &str = r#"
    #include <unistd.h>
    static char bytes[256];
    static long call(long number, long first, void *second, long third, int *wrong) {
        long result, changed;
        __asm__ volatile(
            "push %%rbp\n\t"
            "mov $0x5a5a5a01, %%rbx\n\t" "mov $0x5a5a5a02, %%rbp\n\t" "mov $0x5a5a5a03, %%r8\n\t"
            "mov $0x5a5a5a04, %%r9\n\t" "mov $0x5a5a5a05, %%r10\n\t" "mov $0x5a5a5a06, %%r12\n\t"
            "mov $0x5a5a5a07, %%r13\n\t" "mov $0x5a5a5a08, %%r14\n\t" "mov $0x5a5a5a09, %%r15\n\t"
            "movq %%rbx, %%xmm0\n\t" "movq %%rbp, %%xmm7\n\t" "movq %%r8, %%xmm15\n\t"
            "fldpi\n\t"
            "mov %%r9, -8(%%rsp)\n\t" "mov %%r10, -128(%%rsp)\n\t"
            "syscall\n\t"
            "mov $1, %%ecx\n\t"
            "cmp $0x5a5a5a01, %%rbx\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "cmp $0x5a5a5a02, %%rbp\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "cmp $0x5a5a5a03, %%r8\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "cmp $0x5a5a5a04, %%r9\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "cmp $0x5a5a5a05, %%r10\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "cmp $0x5a5a5a06, %%r12\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "cmp $0x5a5a5a07, %%r13\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "cmp $0x5a5a5a08, %%r14\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "cmp $0x5a5a5a09, %%r15\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "movq %%xmm0, %%r8\n\t" "cmp %%rbx, %%r8\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "movq %%xmm7, %%r8\n\t" "cmp %%rbp, %%r8\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "movq %%xmm15, %%r8\n\t" "cmp $0x5a5a5a03, %%r8\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "cmp %%r9, -8(%%rsp)\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "cmp %%r10, -128(%%rsp)\n\t" "jne 1f\n\t" "inc %%ecx\n\t"
            "fldpi\n\t" "fcomip %%st(1), %%st\n\t" "jne 1f\n\t" "xor %%ecx, %%ecx\n"
            "1: fstp %%st(0)\n\t"
            "pop %%rbp"
            : "=a"(result), "=&c"(changed), "+D"(first), "+S"(second), "+d"(third)
            : "a"(number)
            : "rbx", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc",
              "xmm0", "xmm7", "xmm15");
        *wrong = changed;
        return result;
    }
    int main(void) {
        int wrong;
        long length = call(0, 0, bytes, sizeof bytes, &wrong);
        if (wrong) return wrong;
        if (length < 0) return 100;
        return call(1, 1, bytes, length, &wrong) == length && !wrong ? 0 : 101;
    }"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn registers_are_preserved() {
    let directory = Directory::new();
    let program = directory.compile("registers", REGISTERS);
    for &way in Way::ALL {
        let skd = with(way, &[]).run(&program);
        for _ in 0..5 {
            assert_eq!(talk(way.connect(&skd).0, b"served"), b"served", "{way:?}");
        }
        skd.wait_for_logs("exited with status 0", 5);
    }
}

/// Counts a signal, and answers each line with the lengths of its reads, whatever signals come.
const COUNTING: &str = r#"
    #include <errno.h>
    #include <signal.h>
    #include <stdio.h>
    #include <string.h>
    #include <unistd.h>
    static volatile sig_atomic_t count;
    static char stack[65536];
    static void take(int signal) { count++; }
    int main(int arguments, char **words) {
        stack_t other = { .ss_sp = stack, .ss_size = sizeof stack };
        struct sigaction action = { .sa_handler = take };
        if (strstr(words[1], "restart")) action.sa_flags |= SA_RESTART;
        if (strstr(words[1], "stack")) { sigaltstack(&other, 0); action.sa_flags |= SA_ONSTACK; }
        sigaction(SIGUSR1, &action, 0);
        char said[1000];
        for (;;) {
            ssize_t length = read(0, said, sizeof said);
            if (length < 0 && errno == EINTR) continue;
            if (length <= 0) return length < 0;
            for (ssize_t sent = 0; sent < length;) {
                ssize_t more = write(1, said + sent, length - sent);
                if (more < 0 && errno == EINTR) continue;
                if (more < 0) return 2;
                sent += more;
            }
        }
    }"#;

#[test]
fn signals_to_a_waiting_prestarted_handler_do_no_harm() {
    let directory = Directory::new();
    let program = directory.compile_shared("counting", COUNTING);
    for &way in Way::PRESTARTED {
        for how in ["neither", "restart", "stack", "restart stack"] {
            let skd = with(way, &["-l", &directory.name("socket")]);
            let skd = skd.run_with(&program, [how]);
            let ready = way.ready(&skd);
            for _ in 0..20 {
                for &pid in &ready {
                    kill(Pid::from_raw(pid), Signal::SIGUSR1).unwrap();
                }
            }
            assert_eq!(way.ready(&skd), ready, "{way:?}, {how}");
            assert_eq!(talk(skd.connect(), b"served"), b"served");
            if way.copies() {
                assert_eq!(way.ready(&skd), ready, "{way:?}, {how}");
            } else {
                // Signals end them when a client comes.
                skd.wait_until("others wait", || {
                    let found = parked(skd.pid());
                    found.len() == ready.len() && found.iter().all(|pid| !ready.contains(pid))
                });
            }
            assert_eq!(talk(way.connect(&skd).0, b"served"), b"served");
            // Also while a client is passed on. A process that hasn't begun yet has no signal handler installed.
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        for pid in parked(skd.pid()) {
                            (0..20).for_each(|_| {
                                let _ = kill(Pid::from_raw(pid), Signal::SIGUSR1);
                            });
                        }
                    }
                });
                let _over = Over(&over);
                under_load(&skd, &directory.name("socket"), |answered| {
                    wait_for_answers(answered, 150);
                });
            });
            assert_eq!(skd.troubles(), [""; 0], "{way:?}, {how}");
        }
    }
}

#[test]
fn an_open_file_is_read_by_each_handler_from_its_own_offset() {
    let directory = Directory::new();
    let file = directory.write("file", "first\nsecond\nthird\n");
    let script = "exec 3< \"$0\"; read -r a <&3; exec 4< \"$0\"; read -r b; \
                  read -r c <&3; read -r d <&4; echo \"$a $b $c $d\"; cat <&3";
    for shell in ["bash", "sh"] {
        requires_command(shell);
        for &way in Way::ALL {
            let skd = with(way, &[]);
            let skd = skd.run_with(shell, ["-c", script, file.to_str().unwrap()]);
            way.ready(&skd);
            let mut clients: Vec<_> = (0..6).map(|_| skd.connect()).collect();
            for client in &mut clients {
                client.write_all(b"said\n").unwrap();
            }
            for client in clients {
                let heard = String::from_utf8(talk(client, b"")).unwrap();
                assert_eq!(
                    heard, "first said second first\nthird\n",
                    "{shell}, {way:?}"
                );
            }
            let heard = talk(way.connect(&skd).0, b"said\n");
            assert_eq!(
                heard, b"first said second first\nthird\n",
                "{shell}, {way:?}"
            );
            assert_eq!(skd.troubles(), [""; 0]);
        }
    }
}

#[test]
fn limits_that_prevent_prestarting_still_let_clients_be_served() {
    // skd itself needs no more.
    let directory = Directory::new();
    let program = directory.compile("counting", COUNTING);
    for &way in Way::ALL {
        for limit in ["nofile=3", "nofile=4", "nofile=5", "nofile=6"] {
            let skd = with(way, &["--limit", limit]).run_with(&program, [""]);
            for _ in 0..12 {
                assert_eq!(
                    talk(skd.connect(), b"served"),
                    b"served",
                    "{way:?}, {limit}"
                );
            }
            skd.wait_for_logs("exited with status 0", 12);
            let said = skd.troubles();
            assert!(said.len() <= 1, "{way:?}, {limit}: {said:#?}");
        }
    }
}

#[test]
fn traps_of_a_shell_work() {
    requires_command("bash");
    let script = "trap 'echo told; exit 9' TERM; while read -r line; do echo \"$line\"; done";
    for shell in ["sh", "bash"] {
        for &way in Way::ALL {
            let skd = with(way, &[]).run_with(shell, ["-c", script]);
            let (mut client, handler) = way.connect(&skd);
            echo(&mut client, b"served\n");
            // A shell that gets a signal just before it reads continues to read.
            skd.wait_until("it reads the next line", || {
                let call = fs::read_to_string(format!("/proc/{handler}/syscall"));
                call.is_ok_and(|call| call.starts_with("0 0x0 "))
            });
            kill(Pid::from_raw(handler), Signal::SIGTERM).unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).unwrap();
            assert_eq!(heard.trim(), "told", "{shell}, {way:?}");
            skd.wait_for_log("exited with status 9");
            // No other handler got the signal.
            assert_eq!(talk(skd.connect(), b"next\n"), b"next\n");
        }
    }
}

/// Keeps its input in each kind of memory, and says whether that memory was used before.
const KEEPING: &str = r#"
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>
    static char kept[100000];
    int main(void) {
        char local[1000];
        char *heap = calloc(1, 100000);
        memset(local, 0, sizeof local);
        for (int turn = 0; ; turn++) {
            char said[64];
            ssize_t length = read(0, said, sizeof said);
            if (length <= 0) return 0;
            int had = 0;
            for (int at = 0; at < 100000; at++) had += kept[at] != 0 || heap[at] != 0;
            for (int at = 0; at < 1000; at++) had += local[at] != 0;
            char line[100];
            int size = snprintf(line, sizeof line, "%d %d\n", turn, had != 0);
            for (int at = 0; at + length < 100000; at += length) {
                memcpy(kept + at, said, length);
                memcpy(heap + at, said, length);
            }
            memset(local, 'x', sizeof local);
            if (write(1, line, size) != size) return 1;
        }
    }"#;

/// Makes `connections` connections, and asserts that none sees data of another.
fn secrets(connections: usize) {
    let directory = Directory::new();
    let program = directory.compile("keeping", KEEPING);
    for &way in Way::KINDS {
        let skd = with(way, &["-l", &directory.name("socket")]).run(&program);
        way.ready(&skd);
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for client in 0..4 {
                let (next, skd, directory) = (&next, &skd, &directory);
                scope.spawn(move || {
                    while next.fetch_add(1, Ordering::Relaxed) < connections {
                        let hear = |stream: &mut dyn ReadWrite| {
                            for expected in [b"0 0\n", b"1 1\n"] {
                                stream.write_all(b"a secret of one client's").unwrap();
                                let mut heard = vec![0; expected.len()];
                                stream.read_exact(&mut heard).unwrap();
                                assert_eq!(heard, expected, "{way:?}");
                            }
                        };
                        if client < 2 {
                            hear(&mut skd.connect());
                        } else {
                            hear(&mut connect_unix(directory.join("socket")));
                        }
                    }
                });
            }
        });
        way.wait_idle(&skd);
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

trait ReadWrite: Read + Write {}
impl<S: Read + Write> ReadWrite for S {}

#[test]
fn no_connection_sees_data_of_another() {
    secrets(500);
}

#[test]
#[ignore = "takes minutes"]
fn none_of_ten_thousand_connections_sees_data_of_another() {
    secrets(10_000);
}

#[test]
fn each_warm_handler_has_an_exec_of_its_own_and_all_forks_share_one() {
    let random = fs::read_to_string("/proc/sys/kernel/randomize_va_space").unwrap();
    assert_ne!(random.trim(), "0", "this test needs random addresses");
    for &way in Way::PRESTARTED {
        let skd = with(way, &[]).run("cat");
        let mut exec_ids = BTreeSet::new();
        let held: Vec<_> = (0..6)
            .map(|_| {
                let (client, handler) = way.connect(&skd);
                exec_ids.insert(exec_id(handler).unwrap());
                client
            })
            .collect();
        let expected = if way.copies() { 1 } else { 6 };
        assert_eq!(exec_ids.len(), expected, "{way:?}");
        drop(held);
    }
}

/// Has `count` handlers at once, each a process of its own that is skd's child.
fn live(count: usize) {
    requires_descriptors(count);
    let directory = Directory::new();
    for &way in Way::KINDS {
        let socket = directory.join("socket");
        let skd = Skd::new(["-l"]).arg(&socket).args(way.options()).run("cat");
        let before = way.ready(&skd);
        let zero = settled_descriptors(skd.pid()).len();
        let hold = |_| {
            let mut stream = connect_unix(&socket);
            stream.write_all(b".").unwrap();
            stream
        };
        let mut streams: Vec<UnixStream> = (0..count).map(hold).collect();
        for stream in &mut streams {
            assert_eq!(receive(stream, 1), b".");
        }
        let serving = way.wait_serving(&skd, count);
        let pool = way.ready(&skd);
        assert!(serving.iter().all(|pid| !pool.contains(pid)));
        for &handler in &serving {
            assert_eq!(process_group(handler), Some(handler));
            assert_eq!(threads(handler).len(), 1);
        }
        if way.copies() {
            assert_eq!(pool, before);
            let exec_ids: BTreeSet<_> = serving.iter().filter_map(|pid| exec_id(*pid)).collect();
            let own = exec_id(pool[0]).unwrap();
            assert!(exec_ids.contains(&own));
        }
        for stream in &mut streams {
            echo(stream, b"still there");
        }
        drop(streams);
        way.wait_idle(&skd);
        skd.wait_until("all descriptors are closed", || {
            descriptors(skd.pid()).len() == zero
        });
        assert_eq!(zombies(skd.pid()), [0; 0]);
        assert_eq!(talk(connect_unix(&socket), b"after"), b"after");
        assert_eq!(skd.troubles(), [""; 0]);
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn three_hundred_handlers_live_at_once() {
    live(300);
}

#[test]
#[ignore = "takes gigabytes"]
fn five_thousand_handlers_live_at_once() {
    live(5_000);
}

// Behaviour of clients.

#[test]
fn a_client_gets_its_answer_however_it_connects() {
    let text = vec![b'x'; 300_000];
    for &way in Way::ALL {
        let skd = with(way, &[]).run("cat");
        for turn in 0..5 {
            // Its data arrives before its handler.
            way.ready(&skd);
            let mut early = skd.connect();
            early.write_all(b"early").unwrap();
            early.shutdown(Shutdown::Write).unwrap();
            let mut heard = Vec::new();
            early.read_to_end(&mut heard).unwrap();
            assert_eq!(heard, b"early", "{way:?}, {turn}");
            // It sends nothing.
            way.ready(&skd);
            assert_eq!(talk(skd.connect(), b""), b"");
            // It sends when it has a handler, and reads on after closing its sending side.
            let (client, _) = way.connect(&skd);
            assert!(talk(client, &text) == text);
        }
        skd.wait_for_logs("exited with status 0", 15);
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

#[test]
fn data_that_a_handler_has_not_read_costs_no_answer() {
    for &way in Way::ALL {
        let skd = with(way, &["--linger=1h"]);
        let skd = skd.run_with(
            "sh",
            ["-c", "head -c 1 > /dev/null; head -c 300000 /dev/zero"],
        );
        for _ in 0..3 {
            way.ready(&skd);
            let mut client = skd.connect();
            client.write_all(&[b'x'; 50_000]).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            assert_eq!(answer.len(), 300_000, "{way:?}");
        }
        skd.wait_for_logs("exited with status 0", 3);
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

#[test]
fn clients_that_leave_before_they_have_a_handler_affect_no_others() {
    for &way in Way::KINDS {
        let directory = Directory::new();
        let socket = directory.name("socket");
        let skd = with(way, &["-l", &socket]).run("cat");
        way.ready(&skd);
        let count = 150;
        thread::scope(|scope| {
            scope.spawn(|| {
                for turn in 0..count {
                    let client = skd.connect();
                    if turn % 2 == 0 {
                        let linger = SockRef::from(&client).set_linger(Some(Duration::ZERO));
                        linger.unwrap();
                    }
                    drop(client);
                }
            });
            scope.spawn(|| (0..count).for_each(|_| drop(connect_unix(&socket))));
            for turn in 0..count {
                let said = turn.to_string().into_bytes();
                assert_eq!(talk(skd.connect(), &said), said, "{way:?}");
            }
        });
        skd.wait_for_logs("Closed", 3 * count);
        way.wait_idle(&skd);
        assert_eq!(skd.troubles(), [""; 0]);
        assert_eq!(talk(way.connect(&skd).0, b"after"), b"after");
    }
}

#[test]
fn seqpacket_packets_stay_whole() {
    for &way in Way::ALL {
        let directory = Directory::new();
        let path = directory.name("socket");
        let skd = Skd::new(["-v", "--seqpacket", "-l", &path]).args(way.options());
        let skd = skd.run("cat");
        way.ready(&skd);
        for _ in 0..6 {
            let client = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
            client.set_read_timeout(Some(DEADLINE)).unwrap();
            client.connect(&SockAddr::unix(&path).unwrap()).unwrap();
            for packet in [&b"one"[..], b"two", b"three"] {
                client.send(packet).unwrap();
            }
            for packet in [&b"one"[..], b"two", b"three"] {
                let mut room = [0; 100];
                let length = (&client).read(&mut room).unwrap();
                assert_eq!(&room[..length], packet, "{way:?}");
            }
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!((&client).read(&mut [0; 100]).unwrap(), 0);
        }
        skd.wait_for_logs("exited with status 0", 6);
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

// Failures and changes of prestarted handlers.

/// Runs clients one after another, as fast as they can, while `body` runs. Each must get its whole answer. Returns
/// how many did.
#[track_caller]
fn under_load(skd: &Running, socket: &str, body: impl FnOnce(&AtomicUsize)) -> usize {
    under_load_of(Duration::ZERO, skd, socket, body)
}

/// The same with a pause between two clients.
#[track_caller]
fn under_load_of(
    pause: Duration,
    skd: &Running,
    socket: &str,
    body: impl FnOnce(&AtomicUsize),
) -> usize {
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for client in 0..4_usize {
            let (over, answered) = (&over, &answered);
            scope.spawn(move || {
                for turn in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let said = format!("{client} {turn} ").repeat(client * 500 + 1);
                    let heard = if client.is_multiple_of(2) {
                        try_talk(skd.connect(), said.as_bytes())
                    } else {
                        try_talk(connect_unix(socket), said.as_bytes())
                    };
                    let heard = heard.unwrap_or_else(|error| panic!("{client} {turn}: {error}"));
                    let (length, whole) = (heard.len(), said.len());
                    assert!(
                        heard == said.as_bytes(),
                        "{client} {turn}: {length} of {whole}"
                    );
                    answered.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(pause);
                }
            });
        }
        let _over = Over(&over);
        body(&answered);
    });
    answered.into_inner()
}

/// Waits until `more` further clients are answered.
#[track_caller]
fn wait_for_answers(answered: &AtomicUsize, more: usize) {
    let before = answered.load(Ordering::Relaxed);
    wait_until("clients are answered", || {
        answered.load(Ordering::Relaxed) >= before + more
    });
}

#[test]
fn prestarted_handlers_may_be_killed_at_any_time() {
    for &way in Way::PRESTARTED_KINDS {
        let directory = Directory::new();
        let socket = directory.name("socket");
        let log = format!(">{}", directory.name("log"));
        let skd = with(way, &["-l", &socket, "-L", &log]).run("cat");
        way.ready(&skd);
        let mut killed = 0;
        // So that a prestarted handler is waiting now and then.
        let pause = Duration::from_millis(20);
        let answered = under_load_of(pause, &skd, &socket, |answered| {
            for _ in 0..12 {
                // Again and again, at least one each time.
                let before = killed;
                wait_until("some prestarted handlers are killed", || {
                    for pid in parked(skd.pid()) {
                        killed += usize::from(slay_if_parked(pid));
                    }
                    killed > before
                });
                wait_for_answers(answered, 5);
                // Otherwise the delay before the next start grows.
                skd.signal(Signal::SIGHUP);
            }
        });
        println!("{way:?}: {killed} killed, {answered} answered");
        // Without load too; replacements start by themselves.
        let ready = way.ready(&skd);
        assert!(ready.iter().all(|&pid| slay_if_parked(pid)));
        assert_eq!(talk(skd.connect(), b"at once"), b"at once");
        let others = || {
            let found = parked(skd.pid());
            found.len() == way.pool_size() && found.iter().all(|pid| !ready.contains(pid))
        };
        skd.wait_until("there are replacements", others);
        assert_eq!(talk(way.connect(&skd).0, b"again"), b"again");
        way.wait_idle(&skd);
        assert_eq!(zombies(skd.pid()), [0; 0]);
        assert_eq!(complaints(&directory.read("log")), [""; 0]);
        assert_eq!(skd.stop().code(), Some(0));
    }
}

/// What the log says of lines that it didn't take.
const LOST: &str = " lost here: ";

/// The lines of the log that report trouble, except those about prestarted handlers that were killed before use, and
/// about lines that the log didn't take.
fn complaints(log: &str) -> Vec<&str> {
    let killed = |line: &&str| {
        line.contains("ended without a client")
            || line.contains("didn't answer within")
            || line.contains("before it came to its client")
            || line.contains(LOST)
    };
    let reported = |line: &&str| line.contains("skd: ") && !line.contains("' is parked at ");
    let lines = log.lines().filter(reported);
    lines.filter(|line| !killed(line)).collect()
}

/// Kills the template `times` times, at random moments: while it waits, and while it makes a copy.
fn template_is_killed(times: usize) {
    let way = Way::Fork;
    let directory = Directory::new();
    let (socket, log) = (directory.name("socket"), directory.name("log"));
    let skd = with(way, &["-l", &socket, "-L", &format!(">{log}")]).run("cat");
    let answered = under_load(&skd, &socket, |answered| {
        for turn in 0..times {
            let mut template = None;
            skd.wait_until("a template", || {
                template = parked(skd.pid()).pop();
                template.is_some()
            });
            let before = answered.load(Ordering::Relaxed);
            // This makes the moment random.
            thread::sleep(Duration::from_micros(turn as u64 * 37 % 1_000));
            // The template serves no client itself, so killing it ends no handler.
            let _ = kill(Pid::from_raw(template.unwrap()), Signal::SIGKILL);
            wait_until("clients are answered", || {
                answered.load(Ordering::Relaxed) > before
            });
            // Otherwise the delay before the next start grows.
            skd.signal(Signal::SIGHUP);
        }
    });
    way.wait_idle(&skd);
    assert_eq!(zombies(skd.pid()), [0; 0]);
    // No client was served twice, and none by a process that skd doesn't know.
    let told = |text: &str| directory.read("log").matches(text).count();
    // On a busy machine the log may take no more for a moment; how many lines were lost is told.
    let lost = || {
        let log = directory.read("log");
        let notes = log.lines().filter(|line| line.contains(LOST));
        let words = notes.map(|line| line.split("skd: ").nth(1)?.split(' ').next());
        words
            .map(|word| word.unwrap().parse::<usize>().unwrap())
            .sum::<usize>()
    };
    for each in ["exited with status 0", "Accepted"] {
        skd.wait_until("each is told", || told(each) + lost() >= answered);
        assert!(told(each) <= answered);
    }
    let log = directory.read("log");
    println!("{times} templates killed, {answered} clients answered");
    assert_eq!(complaints(&log), [""; 0]);
}

#[test]
fn the_template_may_be_killed_at_any_moment() {
    template_is_killed(60);
}

#[test]
#[ignore = "takes minutes"]
fn the_template_may_be_killed_ten_thousand_times_at_any_moment() {
    template_is_killed(10_000);
}

#[test]
fn a_stopped_prestarted_handler_keeps_no_client_waiting_for_ever() {
    for &way in Way::PRESTARTED {
        let skd = with(way, &[]).run("cat");
        let ready = way.ready(&skd);
        for &pid in &ready {
            kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
        }
        assert_eq!(talk(skd.connect(), b"served"), b"served", "{way:?}");
        assert_eq!(talk(skd.connect(), b"and again"), b"and again");
        // Stopped handlers hold up no client, and serve none after they continue.
        for &pid in &ready {
            let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
        }
        way.ready(&skd);
        assert_eq!(talk(way.connect(&skd).0, b"once more"), b"once more");
        skd.wait_for_logs("exited with status 0", 3);
        assert_eq!(skd.logged("Accepted").len(), 3);
        way.wait_idle(&skd);
    }
}

/// Delays each answer of a template, after it has made the copy, until the returned process ends.
#[track_caller]
fn delay_answers(template: i32, delay: Duration) -> Child {
    let tracer = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-e", "trace=sendto", "-e"])
        .arg(format!("inject=sendto:delay_enter={}", delay.as_micros()))
        .args(["-p", &template.to_string()])
        .spawn();
    let traced = || status_field(template, "TracerPid").as_deref() != Some("0");
    wait_until("it is traced", traced);
    tracer.unwrap()
}

#[test]
fn a_template_that_answers_too_late_is_replaced_at_once() {
    requires_command("strace");
    for &way in Way::PRESTARTED {
        if !way.copies() {
            continue;
        }
        let skd = with(way, &[]).run("cat");
        let template = way.ready(&skd)[0];
        // It makes the copy, and is held before it answers.
        let mut tracer = delay_answers(template, Duration::from_secs(2));
        let mut client = skd.connect();
        echo(&mut client, b"served by the copy");
        tracer.wait().unwrap();
        let line = format!(
            "skd: prestarted pid {template} of 'cat' didn't answer within 0.5s and was ended; the next is"
        );
        skd.wait_for_log(&line);
        // The next has its place, and the copy lives on.
        assert_ne!(way.ready(&skd), [template], "{way:?}");
        let (mut other, _) = way.connect(&skd);
        echo(&mut other, b"served by the next");
        echo(&mut client, b"still served");
        assert_eq!(skd.logged(&line).len(), 1);
        assert_eq!(skd.logged("ended without a client"), [""; 0]);
        drop((client, other));
        skd.wait_for_logs("exited with status 0", 2);
        way.wait_idle(&skd);
    }
}

/// Has connections wait for the template, which is slow to answer, until there are more.
#[track_caller]
fn crowd(skd: &Instance) {
    let template = poll_for(DEADLINE, || parked(skd.pid()).pop()).expect("a template");
    let mut tracer = delay_answers(template, Duration::from_millis(20));
    let more = poll_for(DEADLINE, || {
        let mut found = parked(skd.pid());
        found.retain(|&pid| pid != template);
        (!found.is_empty()).then_some(())
    });
    // It detaches.
    kill(Pid::from_raw(tracer.id() as i32), Signal::SIGTERM).unwrap();
    tracer.wait().unwrap();
    assert!(more.is_some(), "there is only one template");
}

#[test]
fn a_crowd_gets_more_templates_until_it_is_over() {
    requires_command("strace");
    let way = Way::Fork;
    let directory = Directory::new();
    let (socket, log) = (directory.name("socket"), directory.name("log"));
    let options = ["--threads", "4", "-l", &socket, "-L", &format!(">{log}")];
    let skd = with(way, &options).run("cat");
    let first = way.ready(&skd);
    under_load(&skd, &socket, |answered| {
        crowd(&skd);
        wait_for_answers(answered, 20);
        // The next binary has one of them.
        skd.signal(Signal::SIGUSR2);
        wait_until("it is upgraded", || {
            directory.read("log").contains("Upgraded from")
        });
        wait_for_answers(answered, 20);
    });
    way.ready(&skd);
    under_load(&skd, &socket, |answered| {
        crowd(&skd);
        for pid in parked(skd.pid()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        wait_for_answers(answered, 20);
        skd.signal(Signal::SIGHUP);
        wait_for_answers(answered, 20);
        crowd(&skd);
        skd.signal(Signal::SIGHUP);
        wait_for_answers(answered, 20);
        crowd(&skd);
    });
    assert!(parked(skd.pid()).len() > 1);
    // Those that no client has come to for a while are ended.
    assert_ne!(way.ready(&skd), first);
    way.wait_idle(&skd);
    assert_eq!(zombies(skd.pid()), [0; 0]);
    assert_eq!(complaints(&directory.read("log")), [""; 0]);
    assert_eq!(skd.stop().code(), Some(0));
    wait_until("nothing is left", || skd.processes().is_empty());
}

#[test]
fn hup_under_load_costs_no_answer() {
    for &way in Way::KINDS {
        let directory = Directory::new();
        let (socket, log) = (directory.name("socket"), directory.name("log"));
        let skd = with(way, &["-l", &socket, "-L", &format!(">>{log}")]).run("cat");
        let before = way.ready(&skd);
        under_load(&skd, &socket, |answered| {
            for _ in 0..20 {
                skd.signal(Signal::SIGHUP);
                wait_for_answers(answered, 10);
            }
            in_a_storm(&skd, &[Signal::SIGHUP], || wait_for_answers(answered, 30));
        });
        skd.wait_until("there are replacements", || {
            let found = parked(skd.pid());
            found.len() == way.pool_size() && found.iter().all(|pid| !before.contains(pid))
        });
        way.wait_idle(&skd);
        assert_eq!(talk(way.connect(&skd).0, b"after"), b"after");
        way.wait_idle(&skd);
        assert_eq!(zombies(skd.pid()), [0; 0]);
        assert_eq!(complaints(&directory.read("log")), [""; 0]);
    }
}

#[test]
fn upgrades_under_load_cost_no_answer() {
    for &way in Way::KINDS {
        let directory = Directory::new();
        let socket = directory.name("socket");
        let log = format!(">{}", directory.name("log"));
        let skd = with(way, &["-l", &socket, "-L", &log]).run("cat");
        let (mut stayed, handler) = way.connect(&skd);
        echo(&mut stayed, b"before");
        let before = way.ready(&skd);
        under_load(&skd, &socket, |answered| {
            for number in 1..=10 {
                skd.signal(Signal::SIGUSR2);
                let told = || directory.read("log").matches("Upgraded from").count();
                let told = poll_for(3 * DEADLINE, || (told() == number).then_some(()));
                assert!(told.is_some(), "{way:?}: upgrade {number}");
                wait_for_answers(answered, 10);
            }
        });
        // The new binary has the template of the first, and the handler still serves.
        echo(&mut stayed, b"after");
        assert_eq!(parent(handler), Some(skd.pid()));
        let ready = way.ready(&skd);
        assert!(!way.copies() || ready == before);
        assert_eq!(way.wait_serving(&skd, 1), [handler], "{way:?}");
        assert_eq!(talk(way.connect(&skd).0, b"after"), b"after");
        drop(stayed);
        way.wait_idle(&skd);
        assert_eq!(complaints(&directory.read("log")), [""; 0]);
        assert_eq!(skd.stop().code(), Some(0));
        wait_until("nothing is left", || skd.processes().is_empty());
    }
}

#[test]
fn the_pool_is_refilled_after_a_rush() {
    for &way in Way::PRESTARTED {
        let skd = with(way, &[]).run("cat");
        for _ in 0..2 {
            way.ready(&skd);
            let mut clients: Vec<TcpStream> = (0..40).map(|_| skd.connect()).collect();
            for client in &mut clients {
                echo(client, b"served");
            }
            let serving = way.wait_serving(&skd, 40);
            let pool = way.ready(&skd);
            assert!(serving.iter().all(|pid| !pool.contains(pid)));
            let (_client, _) = way.connect(&skd);
        }
    }
}

/// Waits until answers come from this version, and asserts that no other version answers after that.
#[track_caller]
fn turns_into(skd: &Instance, way: Way, version: &str) {
    let ask = || String::from_utf8(talk(skd.connect(), b"\n")).unwrap();
    let expected = format!("{version}\n");
    let mut row = 0;
    skd.wait_until(version, || {
        row = if ask() == expected { row + 1 } else { 0 };
        row > 2 * way.pool_size() + 2
    });
}

#[test]
fn a_changed_script_is_read_again() {
    let text = |version: &str| format!("read line; echo {version}\n");
    for &way in Way::ALL {
        let directory = Directory::new();
        let path = directory.name("script");
        let replaced = |version: &str| {
            let new = directory.script("new", &format!("#!/bin/sh\n{}", text(version)));
            fs::rename(new, &path).unwrap();
        };
        replaced("first");
        // The program itself, and the argument of an interpreter.
        for command in [&[&path[..]][..], &["sh", &path]] {
            let skd = with(way, &[]).run_with(command[0], &command[1..]);
            for version in ["second", "third"] {
                way.ready(&skd);
                assert_eq!(skd.troubles(), [""; 0]);
                replaced(version);
                turns_into(&skd, way, version);
            }
            // Changed in place, as an editor may write it.
            let ready = way.ready(&skd);
            fs::write(&path, format!("#!/bin/sh\n{}", text("written"))).unwrap();
            turns_into(&skd, way, "written");
            if way.copies() {
                // Files are looked at when a client comes.
                skd.wait_until("another template", || {
                    talk(skd.connect(), b"\n");
                    way.ready(&skd) != ready
                });
            }
            replaced("first");
        }
    }
}

#[test]
fn a_changed_program_is_executed_anew() {
    let text = |version: &str| {
        format!(
            "#include <unistd.h>\nint main(void) {{ char said; \
             return read(0, &said, 1) != 1 || write(1, \"{version}\\n\", {}) < 0; }}",
            version.len() + 1
        )
    };
    for &way in Way::ALL {
        let directory = Directory::new();
        let replaced = |version: &str| {
            let new = directory.compile("new", &text(version));
            fs::rename(new, directory.join("program")).unwrap();
        };
        replaced("first");
        let skd = with(way, &[]).run(directory.join("program"));
        turns_into(&skd, way, "first");
        way.ready(&skd);
        replaced("second");
        turns_into(&skd, way, "second");
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

#[test]
fn a_program_that_was_missing_is_run_when_it_is_back() {
    for &way in Way::ALL {
        let directory = Directory::new();
        let program = directory.script("program", "#!/bin/sh\nexec cat\n");
        let skd = with(way, &[]).run(&program);
        way.ready(&skd);
        fs::rename(&program, directory.join("elsewhere")).unwrap();
        let ask = || try_talk(skd.connect(), b"served").unwrap_or_default();
        // Prestarted handlers may still serve.
        skd.wait_until("no client is served", || ask().is_empty());
        // A shell that was prestarted doesn't find it; skd looks for it once a second.
        skd.wait_until("skd doesn't find it either", || {
            ask();
            !skd.logged("No such file or directory").is_empty()
        });
        fs::rename(directory.join("elsewhere"), &program).unwrap();
        skd.wait_until("a client is served", || ask() == b"served");
        skd.wait_until("a prestarted handler waits again", || {
            ask();
            way == Way::Exec || !parked(skd.pid()).is_empty()
        });
        assert_eq!(talk(way.connect(&skd).0, b"served"), b"served");
    }
}

#[test]
fn a_template_is_renewed_at_its_maximum_age() {
    if !Way::PRESTARTED.contains(&Way::Fork) {
        return;
    }
    let skd = with(Way::Fork, &["--fork-server-max-age=1s"]).run("cat");
    let mut seen = BTreeSet::new();
    let mut held = Vec::new();
    skd.wait_until("three templates", || {
        let [template] = parked(skd.pid())[..] else {
            return false;
        };
        if seen.insert(template) {
            let mut client = skd.connect();
            echo(&mut client, b"served");
            held.push(client);
        }
        seen.len() == 3
    });
    // Copies of former templates continue to serve.
    for client in &mut held {
        echo(client, b"still there");
    }
    drop(held);
    Way::Fork.wait_idle(&skd);
    assert_eq!(skd.troubles(), [""; 0]);
}

// The end of skd.

#[test]
fn no_prestarted_handler_outlives_skd() {
    for &way in Way::ALL {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
            let skd = with(way, &[]).run("cat");
            way.ready(&skd);
            assert_eq!(talk(skd.connect(), b"served"), b"served");
            skd.signal(signal);
            assert_eq!(skd.wait().code(), Some(0), "{way:?}, {signal}");
            assert_eq!(skd.processes(), [0; 0], "{way:?}, {signal}");
        }
        // Handlers with a client may finish.
        let skd = with(way, &[]).run("cat");
        let (mut client, handler) = way.connect(&skd);
        assert_eq!(skd.stop().code(), Some(0));
        assert_eq!(skd.processes(), [handler], "{way:?}");
        echo(&mut client, b"served");
        drop(client);
        wait_until("it ends", || skd.processes().is_empty());
        // Also when skd had no time to tell them.
        let skd = with(way, &[]).run("cat");
        let (mut client, handler) = way.connect(&skd);
        way.ready(&skd);
        skd.signal(Signal::SIGKILL);
        skd.wait();
        wait_until("the others have gone", || skd.processes() == [handler]);
        echo(&mut client, b"served");
        drop(client);
        wait_until("it ends", || skd.processes().is_empty());
    }
}

#[test]
fn a_start_in_progress_ends_with_skd() {
    requires_command("perl");
    // The program answers no client, and blocks.
    for &way in Way::PRESTARTED {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let skd = with(way, &[]).run_with("perl", ["-e", "1 while 1"]);
            skd.wait_until("a start is under way", || !skd.children().is_empty());
            skd.signal(signal);
            skd.wait();
            wait_until("nothing is left", || skd.processes().is_empty());
        }
    }
}

#[test]
fn a_drain_waits_only_for_handlers_with_a_client() {
    for &way in Way::ALL {
        let skd = with(way, &["--drain=1h"]).run("cat");
        let (mut client, handler) = way.connect(&skd);
        way.ready(&skd);
        skd.signal(Signal::SIGTERM);
        skd.wait_for_log("Draining: 1 handler has 1h to end");
        skd.wait_until("no prestarted handler is left", || {
            skd.children() == [handler]
        });
        echo(&mut client, b"served");
        drop(client);
        assert_eq!(skd.wait().code(), Some(0));
        assert_eq!(skd.processes(), [0; 0]);
    }
}

// Limits and timeouts.

#[test]
fn only_handlers_with_a_client_take_slots() {
    for &way in Way::ALL {
        let skd = with(way, &["-v", "-c2"]).run("cat");
        way.ready(&skd);
        let mut clients = [skd.connect(), skd.connect()];
        for client in &mut clients {
            echo(client, b"served");
        }
        let mut third = skd.connect();
        third.write_all(b"third").unwrap();
        skd.wait_for_log("all 2 slots are taken");
        way.wait_serving(&skd, 2);
        let pool = way.ready(&skd);
        let [first, second] = clients;
        drop(first);
        assert_eq!(receive(&mut third, 5), b"third");
        assert_eq!(way.ready(&skd).len(), pool.len());
        drop((second, third));
        skd.wait_for_log("Running 0 of 2 handlers");
    }
}

#[test]
fn a_source_has_no_more_handlers_than_its_limit() {
    for &way in Way::ALL {
        let skd = with(way, &["--max-per-source=2"]).run("cat");
        way.ready(&skd);
        let mut first = [skd.connect(), skd.connect()];
        for client in &mut first {
            echo(client, b"served");
        }
        assert_eq!(talk(skd.connect(), b""), b"");
        skd.wait_for_log("Refused connection from");
        let other = connect_from([127, 0, 0, 2].into(), skd.address());
        assert_eq!(talk(other, b"served"), b"served", "{way:?}");
        drop(first);
        skd.wait_for_logs("Closed", 3);
        assert_eq!(talk(skd.connect(), b"again"), b"again");
    }
}

/// Waits until the connection is closed, or reset.
#[track_caller]
fn ends(client: &mut TcpStream) {
    let mut rest = Vec::new();
    match client.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
}

/// The duration of a handler, from the end of its log line.
#[track_caller]
fn seconds(line: &str) -> f64 {
    let (_, last) = line.rsplit_once(' ').unwrap();
    last.trim_end_matches('s').parse().unwrap()
}

#[test]
fn the_timeout_counts_from_the_connection() {
    let script = "read line; sleep 1000 & echo ready; wait";
    for &way in Way::ALL {
        let limit = time_limit(2);
        let skd = with(way, &["--timeout", &limit]).run_with("sh", ["-c", script]);
        // The second time with a handler that was prestarted longer ago than that.
        let before = way.ready(&skd);
        for turn in 1..=2 {
            let (mut client, handler) = way.connect(&skd);
            client.write_all(b"\n").unwrap();
            assert_eq!(receive(&mut client, 6), b"ready\n");
            let child = children(handler)[0];
            ends(&mut client);
            let why = format!("skd: handler {handler} of connection from ");
            skd.wait_for_log(&why);
            let end = format!("pid {handler} was terminated by signal 15 after ");
            assert!(seconds(&skd.wait_for_log(&end)) >= 2.0);
            wait_until("both end", || !exists(handler) && !exists(child));
            let why = format!("has run for {limit}");
            assert_eq!(skd.logged(&why).len(), turn, "{way:?}");
        }
        let stayed = |pid: &&i32| is_parked(**pid);
        let least = if way.copies() {
            1
        } else {
            way.pool_size().saturating_sub(2)
        };
        assert!(before.iter().filter(stayed).count() >= least, "{way:?}");
    }
}

#[test]
fn the_idle_timeout_is_that_of_the_connection() {
    for &way in Way::ALL {
        let skd = with(way, &["--idle-timeout", &time_limit(2)]).run("cat");
        let (mut client, handler) = way.connect(&skd);
        ends(&mut client);
        skd.wait_for_log(&format!("skd: handler {handler} of connection from "));
        let end = format!("pid {handler} was terminated by signal 15 after ");
        assert!(seconds(&skd.wait_for_log(&end)) >= 2.0);
        way.wait_idle(&skd);
        assert_eq!(skd.troubles().len(), 1);
    }
}

#[test]
fn each_connection_has_its_log_lines() {
    // In shared mode the process id that a shell knows is that of the template.
    let script = "read line; case $line in \
                  kill) kill -9 $(cut -d ' ' -f 4 /proc/self/stat);; esac; exit $line";
    for &way in Way::ALL {
        let skd = with(way, &[]).run_with("sh", ["-c", script]);
        for (said, end) in [
            (&b"0\n"[..], "exited with status 0"),
            (b"7\n", "exited with status 7"),
            (b"kill\n", "was terminated by signal 9"),
        ] {
            let (client, handler) = way.connect(&skd);
            let port = client.local_addr().unwrap().port();
            assert_eq!(talk(client, said), b"", "{way:?}");
            let peer = format!("connection from [127.0.0.1]:{port}");
            let line = format!("Closed {peer}: pid {handler} {end} after ");
            skd.wait_for_log(&line);
            assert_eq!(skd.logged(&format!("Accepted {peer}")).len(), 1);
            assert_eq!(skd.logged(&peer).len(), 2);
        }
        way.wait_idle(&skd);
        let of_pool = skd.logged("' is parked at ").len();
        assert_eq!(skd.log_lines().len(), 2 * 3 + of_pool);
    }
}

#[test]
fn process_1_of_a_container_has_a_pool_too() {
    requires_root();
    requires_command("unshare");
    for &way in Way::ALL {
        // Each handler leaves orphans, which become children of process 1.
        let script = "read line; (true & true &); echo \"$line\"; exec cat";
        let skd = with(way, &[]).wrapper(["unshare", "-p", "-f", "--mount-proc", "--kill-child"]);
        let skd = skd.run_with("sh", ["-c", script]);
        let inside = status_field(skd.pid(), "NSpid").unwrap();
        assert_eq!(inside.split_whitespace().last(), Some("1"));
        for _ in 0..5 {
            assert_eq!(talk(way.connect(&skd).0, b"one\ntwo\n"), b"one\ntwo\n");
        }
        let address = skd.address();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20 {
                        let heard = talk(crate::harness::connect(address), b"one\ntwo\n");
                        assert_eq!(heard, b"one\ntwo\n");
                    }
                });
            }
        });
        skd.wait_for_logs("exited with status 0", 85);
        way.wait_idle(&skd);
        assert_eq!(zombies(skd.pid()), [0; 0]);
        assert_eq!(skd.troubles(), [""; 0]);
        assert_eq!(skd.stop().code(), Some(0));
        wait_until("nothing is left", || skd.processes().is_empty());
    }
}

#[test]
fn a_daemon_has_a_pool_and_renews_it() {
    for &way in Way::ALL {
        let skd = Skd::new(["-t", "127.0.0.1:0"])
            .args(way.options())
            .daemon("cat");
        let before = way.ready(&skd);
        skd.signal(Signal::SIGHUP);
        skd.wait_until("there are replacements", || {
            let found = parked(skd.pid());
            found.len() == way.pool_size() && found.iter().all(|pid| !before.contains(pid))
        });
        assert_eq!(talk(way.connect(&skd).0, b"served"), b"served");
        skd.stop();
        assert_eq!(skd.processes(), [0; 0]);
    }
}
