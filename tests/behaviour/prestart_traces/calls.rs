//! Every system call of the kernel's table, made before there is a client.
//!
//! A program is parked at the call, or passes it. Where it passes, its clients see the same of the process as with
//! exec, whatever another client did to its own.

use super::programs::programs;
use super::{Mode, OVER, requires_tools};
use crate::harness::{Directory, talk};
use skd::child::harmless_calls;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::os::unix::fs::symlink;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Where a program is parked that makes a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum At {
    /// Where it reads from its client.
    Passed,
    /// The same with `--warm`; at the call with `--fork-server`.
    Alone,
    /// At the call.
    Parked,
}

/// A program that makes a call before it has a client.
#[derive(Clone, Debug)]
pub(super) struct Program {
    /// The call, as in <asm/unistd.h>.
    call: &'static str,
    /// In C.
    code: String,
    at: At,
}

impl Program {
    pub(super) fn new(call: &'static str, code: &str, at: At) -> Self {
        Self {
            call,
            code: code.to_owned(),
            at,
        }
    }

    /// Whether it passes the call.
    fn passes(&self, mode: Mode) -> bool {
        match self.at {
            At::Passed => mode != Mode::Start,
            At::Alone => mode == Mode::Warm,
            At::Parked => false,
        }
    }
}

/// What all programs have, and the questions that each asks for its client.
const COMMON: &str = r#"
    #define _GNU_SOURCE
    #include <dirent.h>
    #include <errno.h>
    #include <fcntl.h>
    #include <sched.h>
    #include <signal.h>
    #include <stddef.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <linux/close_range.h>
    #include <linux/fs.h>
    #include <linux/futex.h>
    #include <linux/openat2.h>
    #include <linux/sched.h>
    #include <sys/epoll.h>
    #include <sys/eventfd.h>
    #include <sys/file.h>
    #include <sys/inotify.h>
    #include <sys/ioctl.h>
    #include <sys/ipc.h>
    #include <sys/mman.h>
    #include <sys/personality.h>
    #include <sys/prctl.h>
    #include <sys/ptrace.h>
    #include <sys/random.h>
    #include <sys/resource.h>
    #include <sys/sem.h>
    #include <sys/shm.h>
    #include <sys/socket.h>
    #include <sys/stat.h>
    #include <sys/syscall.h>
    #include <sys/time.h>
    #include <sys/timerfd.h>
    #include <sys/uio.h>
    #include <sys/wait.h>
    #include <netinet/in.h>
    #include <time.h>
    #include <ucontext.h>
    #include <unistd.h>
    #include <asm/unistd.h>
    static int fd = -1, ends[2] = { -1, -1 };
    static long answer = -1, number, failure;
    static const char *directory;
    static char *memory, path[200], link_path[200];
    static _Alignas(4096) char page[4096], bytes[64];
    static char *again[] = { "calls", "0", 0, 0 };
    static struct timespec moment;
    static struct iovec vector = { bytes, 3 };
    static sigset_t signals;
    static uint32_t capabilities[2] = { 0x20080522, 0 };
    static uint64_t half[2] = { 500, 1000 };
    #define CALL(...) (prctl(PR_SET_NAME, "call"), errno = 0, answer = syscall(number, ##__VA_ARGS__), failure = errno)
    static inline void opens(void) { fd = open(path, O_RDONLY); }
    static inline void opens_directory(void) { fd = open(directory, O_RDONLY | O_DIRECTORY); }
    static inline char *its_own(void) {
        return mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    static void skips(int signal, siginfo_t *why, void *context) {
        ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
        answer = signal * !!why;
    }
    static int compare(const void *one, const void *other) { return strcmp(*(char **)one, *(char **)other); }
    /* Prints a file of /proc; of each line only those that begin with one of these words, if there are any. */
    static void shows(const char *name, const char *const *words) {
        char line[1000];
        FILE *file = fopen(name, "re");
        printf("%s:\n", name);
        while (file && fgets(line, sizeof line, file)) {
            int wanted = !words;
            for (int at = 0; words && words[at]; at++) wanted |= !strncmp(line, words[at], strlen(words[at]));
            if (wanted) fputs(line, stdout);
        }
        if (file) fclose(file);
    }
    static void counts(const char *name, const char *word) {
        char line[1000];
        int count = 0;
        FILE *file = fopen(name, "re");
        while (file && fgets(line, sizeof line, file)) count += !!strstr(line, word);
        if (file) fclose(file);
        printf("%s: %d\n", name, count);
    }
    static void shows_descriptors(void) {
        static const char *const of_file[] = { "pos:", "eventfd-count:", "tfd:", "clockid:", "ticks:", "sigmask:", "inotify", 0 };
        for (int at = 0; at < 40; at++) {
            char name[60], target[500] = "";
            snprintf(name, sizeof name, "/proc/self/fd/%d", at);
            if (readlink(name, target, sizeof target - 1) < 0) continue;
            char *end = strchr(target, '[');
            if (end) *end = 0;
            /* Copies open files anew, by other names. */
            int flags = fcntl(at, F_GETFL) & ~O_NOFOLLOW;
            printf("%d %s %x %x\n", at, target, fcntl(at, F_GETFD), flags);
            snprintf(name, sizeof name, "/proc/self/fdinfo/%d", at);
            shows(name, of_file);
        }
    }
    /* Permissions, flags and name of each mapping. */
    static void shows_memory(void) {
        static char *lines[500];
        char line[1000], mapping[1000] = "", both[2100];
        int count = 0;
        FILE *file = fopen("/proc/self/smaps", "re");
        while (file && fgets(line, sizeof line, file)) {
            line[strcspn(line, "\n")] = 0;
            if (!strncmp(line, "VmFlags:", 8)) {
                snprintf(both, sizeof both, "%s %s", mapping, line + 8);
                if (count < 500) lines[count++] = strdup(both);
            } else if (strchr("0123456789abcdef", *line) && strchr(line, '-')) {
                char permissions[8] = "", name[500] = "";
                sscanf(line, "%*s %7s %*s %*s %*s %499[^\n]", permissions, name);
                snprintf(mapping, sizeof mapping, "%s %s", permissions, name);
            }
        }
        if (file) fclose(file);
        qsort(lines, count, sizeof *lines, compare);
        /* A prestarted handler keeps the code that waited for its client, and no data. */
        for (int at = 0; at < count; at++)
            if ((!at || strcmp(lines[at], lines[at - 1])) && strncmp(lines[at], "r-xp   ", 7)) puts(lines[at]);
    }
    static void looks(void) {
        static const char *const of_status[] = { "Umask", "Uid", "Gid", "Groups", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn",
            "SigCgt", "Cap", "NoNewPrivs", "Seccomp", "VmLck", "HugetlbPages", "THP_enabled", "CoreDumping", "TracerPid", "Cpus", 0 };
        char here[500] = "", its_name[20] = "";
        shows_descriptors();
        shows_memory();
        shows("/proc/self/status", of_status);
        shows("/proc/self/limits", 0);
        shows("/proc/self/timers", 0);
        shows("/proc/self/timerslack_ns", 0);
        shows("/proc/self/personality", 0);
        shows("/proc/self/oom_score_adj", 0);
        shows("/proc/self/coredump_filter", 0);
        shows("/proc/self/autogroup", (const char *const[]){ "no", 0 });
        snprintf(here, sizeof here, " %d ", (int)getpid());
        counts("/proc/locks", here);
        counts("/proc/self/mountinfo", "");
        prctl(PR_GET_NAME, its_name);
        printf("%s %s %s\n", getcwd(here, sizeof here), its_name, fd > 2 && lseek(fd, 0, SEEK_CUR) < 0 ? "no position" : "");
        printf("%d %d %d %d %d %d\n", getpid() == gettid(), getpgrp() == getpid(), getsid(0) == getpid(), getppid() > 1,
            syscall(SYS_set_tid_address, bytes) == getpid(), kill(getpid(), 0));
        int signal_of_parent = -1, reaper = -1, counter = -1;
        prctl(PR_GET_PDEATHSIG, &signal_of_parent); prctl(PR_GET_CHILD_SUBREAPER, &reaper); prctl(PR_GET_TSC, &counter);
        printf("%d %d %d %d %d %d %d\n", signal_of_parent, reaper, counter, prctl(PR_GET_DUMPABLE), prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0),
            prctl(PR_GET_SECUREBITS), prctl(PR_GET_KEEPCAPS));
        struct itimerval timer = { 0 };
        for (int at = 0; at < 3; at++) { getitimer(at, &timer); printf("%ld ", timer.it_value.tv_sec); }
        stack_t stack; sigaltstack(0, &stack);
        printf("%d %zu %d %d\n", stack.ss_flags, stack.ss_size, sched_getscheduler(0), getpriority(PRIO_PROCESS, 0));
        prctl(PR_SET_TIMERSLACK, 0);
        printf("%d\n", prctl(PR_GET_TIMERSLACK));
    }
    /* Leaves in the process all that another client might find. */
    static void leaves(void) {
        signal(SIGPIPE, SIG_IGN);
        for (int at = 3; at < 40; at++) {
            lseek(at, 1, SEEK_CUR); fcntl(at, F_SETFL, O_NONBLOCK); fcntl(at, F_SETFD, FD_CLOEXEC); write(at, bytes, 8);
            struct itimerspec its = { .it_value = { 1000, 0 } };
            timerfd_settime(at, 0, &its, 0); inotify_add_watch(at, "/", IN_DELETE_SELF); ftruncate(at, 77);
        }
        if (memory) { mprotect(memory, 4096, PROT_READ | PROT_WRITE); strcpy(memory, "left"); }
        if ((char *)answer > page && answer != (long)memory) mprotect((void *)answer, 4096, PROT_READ | PROT_EXEC);
        chdir("/usr"); umask(0777); setpriority(PRIO_PROCESS, 0, 7); alarm(1000); sigprocmask(SIG_BLOCK, &signals, 0);
        signal(SIGUSR2, SIG_IGN); raise(SIGUSR1); prctl(PR_SET_NAME, "left"); prctl(PR_SET_TIMERSLACK, 88888);
        personality(ADDR_COMPAT_LAYOUT); half[0] = 33; setrlimit(RLIMIT_CORE, (void *)half);
        memset(bytes, 7, sizeof bytes); memset(page, 7, sizeof page);
    }
"#;

/// One program for all: its first argument is a number from 1; 0 makes no call.
fn source(programs: &[Program]) -> String {
    let mut text = COMMON.to_owned();
    let mut cases = String::new();
    for (number, program) in programs.iter().enumerate() {
        let number = number + 1;
        let (call, code) = (program.call, &program.code);
        // The compiler may not know the calls of later kernels' headers.
        let _ = writeln!(
            text,
            "static void before{number}(void) {{ number = __NR_{call}; {code} }}"
        );
        let _ = writeln!(cases, "case {number}: before{number}(); break;");
    }
    let _ = writeln!(
        text,
        r#"
        int main(int count, char **words) {{
            static char said[100];
            directory = again[2] = words[2];
            strcpy(stpcpy(path, directory), "/file");
            strcpy(stpcpy(link_path, directory), "/link");
            sigaddset(&signals, SIGUSR1);
            switch (atoi(words[1])) {{ {cases} }}
            prctl(PR_SET_NAME, "{OVER}");
            said[read(0, said, sizeof said - 1) > 0 && count > 2] = 0;
            static char buffer[1 << 16];
            setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
            if (answer == getpid() || answer == getppid()) answer = -7;
            printf("%ld %ld\n", answer > 4096 ? 4096 : answer, failure);
            struct stat its;
            if (fd > 2 && !fstat(fd, &its) && S_ISREG(its.st_mode)) printf("%.3s\n", bytes);
            looks();
            leaves();
            return 0;
        }}"#
    );
    text
}

struct Compiled {
    directory: Directory,
    program: PathBuf,
}

impl Compiled {
    fn new(programs: &[Program]) -> Self {
        let directory = Directory::public();
        directory.write("file", "one two three four");
        symlink("a", directory.path().join("link")).unwrap();
        let program = directory.compile("calls", &source(programs));
        Self { directory, program }
    }

    fn skd(&self, mode: Mode, number: usize) -> crate::harness::Running {
        let path = self.directory.path().to_str().unwrap();
        mode.skd()
            .run_with(&self.program, [&number.to_string(), path])
    }

    /// Where it is parked: the name that it gave itself.
    fn parked_at(&self, mode: Mode, number: usize) -> String {
        let skd = self.skd(mode, number);
        mode.parked_at(&skd).1
    }

    /// What its clients see of the process.
    fn heard(&self, mode: Mode, number: usize) -> Vec<String> {
        let skd = self.skd(mode, number);
        if mode != Mode::Exec {
            mode.parked_at(&skd);
        }
        let heard = (0..3).map(|_| {
            if mode != Mode::Exec {
                mode.way().ready(&skd);
            }
            let heard = talk(skd.connect(), b"seen");
            if mode != Mode::Exec {
                mode.way().wait_idle(&skd);
            }
            String::from_utf8_lossy(&heard).into_owned()
        });
        heard.collect()
    }
}

/// Runs a check for each number below a count, and returns what was wrong.
fn each(count: usize, check: impl Fn(usize) -> Option<String> + Sync) -> Vec<String> {
    let (next, wrongs) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        break;
                    }
                    let wrong = catch_unwind(AssertUnwindSafe(|| check(at)));
                    let wrong = wrong.unwrap_or_else(|_| Some(format!("{at}: see above")));
                    wrongs.lock().unwrap().extend(wrong);
                }
            });
        }
    });
    wrongs.into_inner().unwrap()
}

fn assert_none(wrongs: &[String]) {
    let text = wrongs.join("\n");
    assert!(wrongs.is_empty(), "{} faults:\n{text}", wrongs.len());
}

/// Which modes tell where all programs are parked: a template gets no further than a warm handler.
fn telling(program: &Program) -> &'static [Mode] {
    match program.at {
        At::Passed => &[Mode::Strict],
        At::Alone => &[Mode::Warm, Mode::Strict],
        At::Parked => &[Mode::Warm],
    }
}

#[test]
fn each_call_is_passed_or_parked_at_as_listed() {
    check_listed(telling);
}

#[test]
#[ignore = "takes twice as long, to find what follows from the others"]
fn each_call_is_passed_or_parked_at_as_listed_in_both_modes() {
    check_listed(|_| &[Mode::Warm, Mode::Strict]);
}

fn check_listed(modes: fn(&Program) -> &'static [Mode]) {
    requires_tools();
    let programs = programs();
    let compiled = Compiled::new(&programs);
    let mut tasks = Vec::new();
    for (at, program) in programs.iter().enumerate() {
        tasks.extend(modes(program).iter().map(|mode| (at, *mode)));
    }
    let wrongs = each(tasks.len(), |at| {
        let (at, mode) = tasks[at];
        let program = &programs[at];
        let expected = if program.passes(mode) { OVER } else { "call" };
        let Program { call, code, .. } = program;
        let found = catch_unwind(AssertUnwindSafe(|| compiled.parked_at(mode, at + 1)));
        let found = found.unwrap_or_else(|_| "see above".to_owned());
        (found != expected).then(|| format!("{call} {code} {mode:?}: {found}, not {expected}"))
    });
    assert_none(&wrongs);
}

#[test]
fn clients_see_the_same_after_each_call_that_is_passed() {
    requires_tools();
    let programs = programs();
    let compiled = Compiled::new(&programs);
    let passing: Vec<_> = (0..programs.len())
        .filter(|&at| programs[at].at != At::Parked)
        .collect();
    let wrongs = each(passing.len(), |at| {
        let at = passing[at];
        let Program { call, code, .. } = &programs[at];
        let mut wrong = String::new();
        let mut expected = Vec::new();
        for mode in [Mode::Exec, Mode::Warm, Mode::Strict] {
            let heard = compiled.heard(mode, at + 1);
            if mode == Mode::Exec {
                expected.clone_from(&heard);
            }
            for (client, heard) in heard.iter().enumerate() {
                if let Some(found) = difference(&expected[0], heard) {
                    let _ = writeln!(wrong, "{call} {code} {mode:?}, client {client}: {found}");
                }
            }
        }
        (!wrong.is_empty()).then_some(wrong)
    });
    assert_none(&wrongs);
}

/// How two texts differ; also if there is none.
fn difference(expected: &str, found: &str) -> Option<String> {
    if expected.is_empty() {
        return Some("nothing was heard".to_owned());
    }
    if expected == found {
        return None;
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (one, other) = (lines(expected), lines(found));
    let only = |these: &[String], others: &[String]| -> Vec<String> {
        let only = these.iter().filter(|line| !others.contains(line));
        only.cloned().collect()
    };
    Some(format!(
        "{:?}, not {:?}",
        only(&other, &one),
        only(&one, &other)
    ))
}

#[test]
fn each_call_of_the_kernel_has_a_program() {
    requires_tools();
    let programs = programs();
    let have: BTreeSet<_> = programs.iter().map(|program| program.call).collect();
    let missing: Vec<_> = kernel_calls()
        .into_iter()
        .filter(|(number, name)| {
            *number <= LAST_KNOWN && !have.contains(&**name) && name != "rt_sigreturn"
        })
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}

/// The last call in the headers that the table was made for.
const LAST_KNOWN: u32 = 450;

/// The calls of the kernel whose headers are installed.
fn kernel_calls() -> BTreeMap<u32, String> {
    let output = Command::new("cc")
        .args([
            "-E",
            "-dM",
            "-include",
            "asm/unistd.h",
            "-x",
            "c",
            "/dev/null",
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let calls = text.lines().filter_map(|line| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((number.parse().ok()?, name.to_owned()))
    });
    let calls: BTreeMap<_, _> = calls.collect();
    assert!(calls.len() > 300, "{calls:?}");
    calls
}

#[test]
fn the_manual_and_these_programs_agree() {
    let programs = programs();
    let of = |call: &str, at: &[At]| {
        programs
            .iter()
            .any(|program| latest(program.call) == call && at.contains(&program.at))
    };
    for row in harmless_calls() {
        let when = row.when();
        for call in row.calls() {
            assert!(of(&call, &[At::Passed, At::Alone]), "{call}: never passed");
            let parked = match when {
                "" => !of(&call, &[At::Alone, At::Parked]),
                "with --warm" => !of(&call, &[At::Passed, At::Parked]),
                _ => of(&call, &[At::Alone, At::Parked]),
            };
            assert!(parked, "{call}: {when}");
        }
    }
    let listed: BTreeSet<_> = harmless_calls()
        .iter()
        .flat_map(|row| row.calls())
        .collect();
    for program in programs.iter().filter(|program| program.at != At::Parked) {
        assert!(listed.contains(latest(program.call)), "{}", program.call);
    }
}

/// The name under which a call is listed.
fn latest(call: &str) -> &str {
    match call {
        "open" | "creat" => "openat",
        "pipe" => "pipe2",
        "epoll_create" => "epoll_create1",
        "eventfd" => "eventfd2",
        "inotify_init" => "inotify_init1",
        "dup2" => "dup3",
        "stat" | "lstat" => "newfstatat",
        "access" => "faccessat",
        "readlink" => "readlinkat",
        "getdents" => "getdents64",
        "getrlimit" | "setrlimit" => "prlimit64",
        "getpgrp" => "getpgid",
        "time" | "gettimeofday" => "clock_gettime",
        call => call,
    }
}

/// A later kernel's calls park a program, whatever they do.
#[test]
fn calls_that_nobody_knows_yet_park_a_program() {
    requires_tools();
    let mut programs: Vec<_> = kernel_calls()
        .range(LAST_KNOWN + 1..)
        .map(|(number, _)| format!("number = {number}; CALL(-1, 0, 0, 0, 0, 0);"))
        .collect();
    programs.extend(
        [335, 423, 500, 547, 1000, 0x3000_0000]
            .map(|number| format!("number = {number}; CALL(-1, 0, 0, 0, 0, 0);")),
    );
    let programs: Vec<_> = programs
        .iter()
        // The number is set anew.
        .map(|code| Program::new("restart_syscall", code, At::Parked))
        .collect();
    let compiled = Compiled::new(&programs);
    let wrongs = each(programs.len(), |at| {
        let found = [Mode::Warm, Mode::Strict].map(|mode| compiled.parked_at(mode, at + 1));
        (found != ["call", "call"]).then(|| format!("{}: {found:?}", programs[at].code))
    });
    assert_none(&wrongs);
}
