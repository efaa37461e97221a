//! Filters of system calls: `--seccomp`.

use crate::harness::{
    Directory, Instance, Skd, connect_unix, descriptors, echo, requires_command, requires_root,
    run_to_end, talk,
};
use nix::sys::signal::Signal;
use skd::config::seccomp::{Purpose, default_list};
use skd::sys::seccomp::{Action, known_calls};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::TcpStream;
use std::process::Command;

const TCP: [&str; 2] = ["-t", "127.0.0.1:0"];

/// What a handler under this filter prints.
fn output_of<A: AsRef<OsStr>>(
    filter: &str,
    program: impl AsRef<OsStr>,
    arguments: impl IntoIterator<Item = A>,
) -> String {
    let skd = Skd::new(["--seccomp", filter])
        .args(TCP)
        .run_with(program, arguments);
    String::from_utf8(talk(skd.connect(), b"")).unwrap()
}

/// A program that makes calls, and prints those that don't fail as expected. An error of 0 stands for any but
/// those of a filter.
fn calls(rows: &[(u32, [u64; 6], i32)]) -> String {
    let mut source = String::from(
        "#include <errno.h>\n#include <stdio.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         struct row { long number; long argument[6]; int error; } rows[] = {\n",
    );
    for (number, arguments, error) in rows {
        let arguments = arguments.map(|it| format!("{}", it as i64)).join(", ");
        writeln!(source, "  {{ {number}, {{ {arguments} }}, {error} }},").unwrap();
    }
    source.push_str(
        "};\nint main(void) {\n\
         for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {\n\
           long *a = rows[i].argument;\n\
           errno = 0;\n\
           syscall(rows[i].number, a[0], a[1], a[2], a[3], a[4], a[5]);\n\
           int wrong = rows[i].error ? errno != rows[i].error : errno == EPERM || errno == ENOSYS;\n\
           if (wrong) printf(\"row %u, call %ld: error %d, not %d\\n\", i, rows[i].number, errno, \
             rows[i].error);\n\
         }\n\
         puts(\"done\"); return 0; }\n",
    );
    source
}

fn number(name: &str) -> u32 {
    known_calls().find(|call| call.name == name).unwrap().number
}

#[test]
fn each_refused_call_fails_as_the_list_says() {
    let rules = default_list(Purpose::default());
    // Arguments with which none of them would do anything, should it be made.
    let nothing = [u64::MAX; 6];
    let refused = known_calls().filter(|call| !matches!(call.class, None | Some('?')));
    let mut rows = Vec::new();
    for call in refused {
        match rules.action(call.number, &nothing) {
            Action::Fail(errno) => rows.push((call.number, nothing, i32::from(errno))),
            other => panic!("{}: {other:?}", call.name),
        }
    }
    assert!(rows.len() > 80, "{}", rows.len());
    rows.push((480, nothing, libc::ENOSYS));
    let directory = Directory::new();
    let program = directory.compile("calls", &calls(&rows));
    assert_eq!(output_of("default", program, [""; 0]), "done\n");
}

#[test]
fn arguments_decide_about_some_calls() {
    let (eperm, family) = (libc::EPERM, libc::EAFNOSUPPORT);
    let here = libc::AT_FDCWD as u64;
    let path = 1; // An address without memory: EFAULT where the call is made.
    let set_uid = 0o4755;
    let make = (libc::O_CREAT | libc::O_WRONLY) as u64;
    let mut rows = vec![
        ("clone", vec![libc::CLONE_NEWUSER as u64], eperm),
        (
            "clone",
            vec![(libc::CLONE_NEWNET | libc::SIGCHLD) as u64],
            eperm,
        ),
        ("unshare", vec![libc::CLONE_NEWUSER as u64], eperm),
        ("unshare", vec![0x80], eperm),
        ("unshare", vec![libc::CLONE_FS as u64], 0),
        ("socket", vec![1, 1, 0], 0),
        ("socket", vec![2, 1, 6], 0),
        ("socket", vec![10, 2, 17], 0),
        // The upper half of the register means nothing to the kernel.
        ("socket", vec![16 | 1 << 32, 3, 0], family),
        ("socket", vec![16, 3, 0], family),
        ("socket", vec![17, 3, 0], family),
        ("socket", vec![38, 5, 0], family),
        ("socket", vec![2, 1, 132], family),
        ("socket", vec![2, 5, 0], family),
        ("socketpair", vec![30, 1, 0, path], family),
        ("ioctl", vec![0, 0x5412, path], eperm),
        ("ioctl", vec![0, 0x5412 | 1 << 32, path], eperm),
        ("ioctl", vec![0, 0x541c, path], eperm),
        ("ioctl", vec![0, 0x5423, path], eperm),
        ("ioctl", vec![0, 0x541b, path], libc::EFAULT),
        ("ioctl", vec![0, 0xae00, path], libc::ENOTTY),
        ("prctl", vec![35], eperm),
        ("prctl", vec![62], eperm),
        ("prctl", vec![67, 1], libc::EINVAL),
        ("prctl", vec![15, path], libc::EFAULT),
        ("personality", vec![0xffff_ffff], 0),
        ("personality", vec![0x004_0000], eperm),
        ("mknodat", vec![here, path, 0o20666, 0x103], eperm),
        ("mknodat", vec![here, path, 0o60666, 0x800], eperm),
        ("mknodat", vec![here, path, 0o10666], libc::EFAULT),
        ("fchmod", vec![99, set_uid], eperm),
        ("fchmod", vec![99, 0o755], libc::EBADF),
        ("fchmodat", vec![here, path, 0o2755], eperm),
        ("openat", vec![here, path, make, set_uid], eperm),
        ("openat", vec![here, path, make, 0o644], libc::EFAULT),
        ("openat", vec![here, path, 0, set_uid], libc::EFAULT),
        ("openat", vec![here, path, 0o20_200_001, set_uid], eperm),
    ];
    if cfg!(target_arch = "x86_64") {
        rows.extend([
            ("chmod", vec![path, set_uid], eperm),
            ("mknod", vec![path, 0o20666, 0x103], eperm),
            ("open", vec![path, make, set_uid], eperm),
            ("creat", vec![path, set_uid], eperm),
            ("creat", vec![path, 0o644], libc::EFAULT),
        ]);
    }
    let rows = rows.into_iter().map(|(name, mut arguments, error)| {
        arguments.resize(6, 0);
        (number(name), arguments.try_into().unwrap(), error)
    });
    let directory = Directory::new();
    let program = directory.compile("calls", &calls(&rows.collect::<Vec<_>>()));
    assert_eq!(output_of("default", program, [""; 0]), "done\n");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_other_architectures_kill() {
    let directory = Directory::new();
    for (name, call) in [
        // getpid of 32-bit x86, and of x32.
        (
            "i386",
            "int r; __asm__ volatile (\"int $0x80\" : \"=a\"(r) : \"a\"(20)); return r;",
        ),
        ("x32", "return syscall(0x40000000 + 39);"),
    ] {
        let source = format!("#include <unistd.h>\nint main(void) {{ {call} }}\n");
        let program = directory.compile(name, &source);
        let skd = Skd::new(["-v", "--seccomp", "default"])
            .args(TCP)
            .run(program);
        assert_eq!(talk(skd.connect(), b""), b"");
        skd.wait_for_log(" was terminated by signal 31 ");
    }
}

#[test]
fn usual_programs_run() {
    let directory = Directory::new();
    requires_command("python3");
    let script = "import socket, subprocess, threading, tempfile, multiprocessing.pool, sqlite3\n\
        t = threading.Thread(target=print, args=('thread',)); t.start(); t.join()\n\
        print(subprocess.run(['echo', 'process'], capture_output=True, text=True).stdout, end='')\n\
        print(multiprocessing.pool.ThreadPool(2).map(len, ['ab']), end='')\n\
        s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n\
        c = socket.create_connection(s.getsockname()); print('tcp')\n\
        print(tempfile.TemporaryFile().write(b'x'))";
    let hello = "#include <stdio.h>\n#include <pthread.h>\nvoid *t(void *a) { puts(a); return 0; }\n\
        int main(void) { pthread_t p; pthread_create(&p, 0, t, \"hello\"); return pthread_join(p, 0); }\n";
    let fixed = directory.compile("static", hello);
    let shared = directory.compile_shared("shared", hello);
    for (program, arguments, expected) in [
        (
            OsStr::new("bash"),
            vec![
                "-c",
                "echo a | cat; (echo b); x=$(echo c); echo $x; sleep 0 & wait",
            ],
            "a\nb\nc\n",
        ),
        (
            OsStr::new("python3"),
            vec!["-c", script],
            "thread\nprocess\n[2]tcp\n1\n",
        ),
        (
            OsStr::new("perl"),
            vec![
                "-e",
                "print `echo a`; my $p = fork; exit unless $p; wait; print \"b\\n\"",
            ],
            "a\nb\n",
        ),
        (
            OsStr::new("sqlite3"),
            vec![":memory:", "select 6*7"],
            "42\n",
        ),
        (fixed.as_os_str(), vec![], "hello\n"),
        (shared.as_os_str(), vec![], "hello\n"),
    ] {
        if let Some(name) = program.to_str().filter(|name| !name.contains('/')) {
            requires_command(name);
        }
        assert_eq!(
            output_of("default", program, arguments),
            expected,
            "{program:?}"
        );
    }
}

#[test]
fn usual_servers_run() {
    requires_command("git");
    requires_command("busybox");
    let directory = Directory::new();
    let shell = format!(
        "cd {} && git init -q --bare r.git && git init -q w && cd w && git -c user.name=n -c \
         user.email=e commit -q --allow-empty -m first && git push -q ../r.git HEAD:refs/heads/main",
        directory.name("")
    );
    let made = Command::new("sh").args(["-c", &shell]).status().unwrap();
    assert!(made.success());
    let base = format!("--base-path={}", directory.name(""));
    let skd = Skd::new(["--seccomp", "default"]).args(TCP).run_with(
        "git",
        [
            "daemon",
            "--inetd",
            "--export-all",
            &base,
            &directory.name(""),
        ],
    );
    let url = format!("git://127.0.0.1:{}/r.git", skd.port());
    let listed = Command::new("git")
        .args(["ls-remote", &url])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("refs/heads/main"), "{listed}");

    directory.write("page", "a page");
    let skd = Skd::new(["--seccomp", "default"])
        .args(TCP)
        .run_with("busybox", ["httpd", "-i", "-h", &directory.name("")]);
    let page = talk(skd.connect(), b"GET /page HTTP/1.0\r\n\r\n");
    assert!(page.ends_with(b"a page"), "{page:?}");
}

/// Prints how many filters it has, and whether it can gain privileges.
const SHOW: &str = "grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status";
const SHOWN: &str = "NoNewPrivs:\t1\nSeccomp:\t2\n";

#[test]
fn all_that_skd_runs_has_the_filter() {
    assert_eq!(output_of("default", "sh", ["-c", SHOW]), SHOWN);
    assert_eq!(
        output_of("none", "sh", ["-c", SHOW]),
        "NoNewPrivs:\t0\nSeccomp:\t0\n"
    );
    let here = Skd::new(["--seccomp", "default", "sh", "-c", SHOW]).end();
    assert_eq!(here.stdout, SHOWN);
    let supervised = Skd::new(["--seccomp", "default", "-S", "sh", "-c"])
        .arg(format!("{SHOW}; kill $PPID; sleep 9"))
        .end();
    assert_eq!(supervised.stdout, SHOWN);
    let wait = Skd::new(["--seccomp", "default", "--wait"])
        .args(TCP)
        .run_with("sh", ["-c", &format!("{SHOW} >&2; exec sleep 1")]);
    drop(wait.connect());
    wait.wait_for_log("Seccomp:\t2");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn prestarted_handlers_have_the_filter() {
    let python = crate::harness::python();
    let script = "import sys, ctypes\nsys.stdin.readline()\nprint(open('/proc/self/status').read()\
        .count('Seccomp:\\t2'), ctypes.CDLL(None, use_errno=True).unshare(0x10000000), flush=True)";
    for way in [&["--warm", "1"][..], &["--fork-server"]] {
        let skd = Skd::new(["-v", "--seccomp", "default"])
            .args(way)
            .args(TCP)
            .run_with(&python, ["-c", script]);
        skd.wait_for_log(" is parked at ");
        for _ in 0..3 {
            assert_eq!(talk(skd.connect(), b"\n"), b"1 -1\n");
        }
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

#[test]
fn a_file_decides_by_name() {
    let directory = Directory::new();
    let list = directory.write(
        "list",
        "include default # the rest\nrefuse getppid =EACCES\nallow ptrace\nkill chroot\n",
    );
    let rows = [
        (number("getppid"), [0; 6], libc::EACCES),
        // Of a process that there isn't.
        (number("ptrace"), [u64::MAX; 6], libc::ESRCH),
        (number("mount"), [u64::MAX; 6], libc::EPERM),
        (number("chroot"), [u64::MAX; 6], 0),
    ];
    let program = directory.compile("calls", &calls(&rows));
    let skd = Skd::new(["-v", "--seccomp"])
        .arg(list)
        .args(TCP)
        .run(program);
    // It is killed before it prints anything.
    assert_eq!(talk(skd.connect(), b""), b"");
    let end = skd.wait_for_log(" was terminated by signal 9 ");
    let pid = end.split("pid ").nth(1).unwrap().split(' ').next().unwrap();
    let line = skd.wait_for_log("Killed at system call chroot(");
    assert!(line.ends_with(&format!(" of pid {pid}")), "{line}");
    let kept = directory.compile("kept", &calls(&rows[..3]));
    let list = directory.name("list");
    assert_eq!(output_of(&list, kept, [""; 0]), "done\n");
}

#[test]
fn a_wrong_file_keeps_skd_from_starting() {
    let directory = Directory::new();
    let list = directory.name("list");
    let refused = |text: &str, faults: &[&str]| {
        directory.write("list", text);
        let output = run_to_end(["-t", "127.0.0.1:0", "--seccomp", &list, "cat"]);
        let faults: Vec<_> = faults
            .iter()
            .map(|it| format!("--seccomp {list}{it}"))
            .collect();
        let faults: Vec<_> = faults.iter().map(String::as_str).collect();
        output.expect_refusal(2, &faults);
    };
    refused(
        "include default\nallow opne\n",
        &[":2: there is no system call \"opne\"; did you mean open?"],
    );
    refused(
        "default kill\n",
        &[": skd itself starts PROG by execve exit exit_group rt_sigprocmask sendmsg"],
    );
    fs::remove_file(&list).unwrap();
    run_to_end(["-t", "127.0.0.1:0", "--seccomp", &list, "cat"])
        .expect_refusal(2, &[&format!("--seccomp {list}: there is no such file")]);
    directory.write("list", "include default\n");
    directory.chmod("list", 0o666);
    run_to_end(["-t", "127.0.0.1:0", "--seccomp", &list, "cat"]).expect_refusal(
        2,
        &["every user can write to it, and so choose what handlers may do"],
    );
    run_to_end(["--seccomp", "log", "cat"])
        .expect_refusal(2, &["--seccomp log is for the handlers of clients"]);
}

#[test]
fn a_reload_reads_files_again() {
    let directory = Directory::new();
    let list = directory.write("list", "include default\n");
    let socket = directory.name("socket");
    directory.write(
        "skd.toml",
        format!(
            "[service.one]\nunix = [{socket:?}]\nseccomp = {list:?}\n\
             command = [\"sh\", \"-c\", \"chroot / true 2>&1; unshare -m true 2>&1; read a\"]\n"
        ),
    );
    let skd = Skd::new(["-vv", "--config", &directory.name("skd.toml")]).start_bare();
    skd.wait_for_log("Listening on ");
    let first = || {
        let mut stream = connect_unix(&socket);
        let mut byte = [0];
        let mut line = String::new();
        while !line.ends_with('\n') && stream.read(&mut byte).unwrap() == 1 {
            line.push(byte[0].into());
        }
        line
    };
    assert!(first().contains("Operation not permitted"));
    fs::write(&list, "include default\nrefuse chroot =ENOSPC\n").unwrap();
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("Reloaded: ");
    assert!(first().contains("No space left"));
}

/// A program that makes a refused call for each byte of its client, and sends the byte back.
const ASKS: &str = "#include <unistd.h>\n#include <sys/syscall.h>\n#include <errno.h>\n\
    int main(void) { char c; while (read(0, &c, 1) == 1) { \
    if (syscall(SYS_add_key, 0, 0, 0, 0, 0) != -1 || errno == EPERM || errno == ENOSYS) c = '!'; \
    write(1, &c, 1); } return 0; }\n";

#[test]
fn the_log_names_what_would_be_refused_and_the_call_is_made() {
    let directory = Directory::new();
    let program = directory.compile("asks", ASKS);
    let skd = Skd::new(["-v", "--seccomp", "log"]).args(TCP).run(program);
    let mut stream = skd.connect();
    echo(&mut stream, b"abc");
    let handler = skd.wait_for_children(1)[0];
    let line = skd.wait_for_log("Allowed system call add_key(0x0, 0x0, 0x0, 0x0)");
    assert!(line.ends_with(&format!(" of pid {handler}")), "{line}");
    // A line for each call and service, not for each time.
    let mut other = skd.connect();
    echo(&mut other, b"abc");
    assert_eq!(skd.logged("Allowed system call").len(), 1);
}

/// How many listeners of filters skd has.
fn listeners(skd: &Instance) -> usize {
    let open = descriptors(skd.pid()).into_values();
    open.filter(|name| name.contains("seccomp notify")).count()
}

#[test]
fn listeners_go_with_their_handlers_and_not_before() {
    let directory = Directory::new();
    let program = directory.compile("asks", ASKS);
    let skd = Skd::new(["--seccomp", "log"]).args(TCP).run(program);
    let mut clients: Vec<TcpStream> = (0..200).map(|_| skd.connect()).collect();
    for client in &mut clients {
        echo(client, b"a");
    }
    assert_eq!(listeners(&skd), 200);
    // Some flood, and are killed in the middle of a call.
    for client in &mut clients {
        echo(client, &[b'x'; 64]);
    }
    for pid in skd.children().into_iter().take(50) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    skd.wait_until("those of killed handlers are closed", || {
        listeners(&skd) == 150
    });
    drop(clients);
    skd.wait_until("all are closed", || listeners(&skd) == 0);
    let mut last = skd.connect();
    echo(&mut last, b"last");
}

#[test]
fn the_next_binary_decides_for_live_handlers() {
    let directory = Directory::new();
    let program = directory.compile("asks", ASKS);
    let list = directory.write("list", "include default\nlog add_key\n");
    let skd = Skd::new(["-v", "--seccomp"])
        .arg(list)
        .args(TCP)
        .run(program);
    let mut stream = skd.connect();
    echo(&mut stream, b"before");
    for count in 1..=2 {
        skd.signal(Signal::SIGUSR2);
        skd.wait_for_logs("Upgraded from skd ", count);
        echo(&mut stream, b"after");
        skd.wait_until("there is one for it", || listeners(&skd) == 1);
        let mut new = skd.connect();
        echo(&mut new, b"new");
        drop(new);
        skd.wait_until("its listener is closed", || listeners(&skd) == 1);
    }
    skd.wait_for_logs("Allowed system call add_key(", 3);
    drop(stream);
    skd.wait_until("all are closed", || listeners(&skd) == 0);
}

#[test]
fn a_kill_holds_after_an_upgrade_and_for_threads() {
    let directory = Directory::new();
    let source = "#include <pthread.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
        void *t(void *a) { syscall(SYS_add_key, 0, 0, 0, 0, 0); write(1, \"alive\", 5); return a; }\n\
        int main(void) { char c; pthread_t p; write(1, \"?\", 1); read(0, &c, 1); \
        pthread_create(&p, 0, t, 0); return pthread_join(p, 0); }\n";
    let program = directory.compile("thread", source);
    let list = directory.write("list", "include default\nkill add_key\n");
    let skd = Skd::new(["-v", "--seccomp"])
        .arg(list)
        .args(TCP)
        .run(program);
    let mut stream = skd.connect();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from skd ");
    assert_eq!(talk(stream, b"x"), b"");
    skd.wait_for_log("Killed at system call add_key(");
    skd.wait_for_log(" was terminated by signal 9 ");
}

#[test]
fn a_listener_hears_handlers_in_a_sandbox() {
    requires_root();
    let directory = Directory::public();
    let program = directory.compile("asks", ASKS);
    let skd = Skd::new(["-v", "--sandbox", "--seccomp", "log"])
        .args(TCP)
        .run(program);
    let mut stream = skd.connect();
    echo(&mut stream, b"abc");
    skd.wait_for_log("Allowed system call add_key(0x0, 0x0, 0x0, 0x0)");
    assert_eq!(listeners(&skd), 1);
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from skd ");
    echo(&mut stream, b"after");

    let list = directory.write("list", "include default\nkill add_key\n");
    let skd = Skd::new(["-v", "--sandbox", "--seccomp"])
        .arg(list)
        .args(TCP)
        .run(directory.join("asks"));
    assert_eq!(talk(skd.connect(), b"a"), b"");
    skd.wait_for_log("Killed at system call add_key(");
    skd.wait_for_log(" was terminated by signal 9 ");
}
