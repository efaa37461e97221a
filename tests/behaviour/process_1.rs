//! skd as process 1 of a container, also with no other file in it.

use crate::harness::{
    DEADLINE, Directory, HeldStart, Running, Skd, Stream, children, connect_unix, echo, exists,
    is_zombie, limit_processes, receive, requires_command, requires_root, talk, wait_for_text,
    wait_until, zombies,
};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// skd as process 1 of a pid namespace of its own, with a /proc that shows it.
fn as_process_1(options: &[&str], prog: &str, args: &[&str]) -> Running {
    run_as_process_1(Skd::new(options), prog, args)
}

fn run_as_process_1(skd: Skd, prog: &str, args: &[&str]) -> Running {
    let skd = start_as_process_1(skd, prog, args);
    skd.wait_ready();
    let inside = crate::harness::status_field(skd.pid(), "NSpid").unwrap();
    assert_eq!(inside.split_whitespace().last(), Some("1"), "{inside}");
    skd
}

fn start_as_process_1(skd: Skd, prog: &str, args: &[&str]) -> Running {
    requires_root();
    requires_command("unshare");
    skd.wrapper(["unshare", "-p", "-f", "--mount-proc", "--kill-child"])
        .start_with(prog, args)
}

#[test]
fn process_1_reaps_orphans() {
    let directory = Directory::new();
    let fifo = directory.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let orphan = "read line < \"$0\"";
    let script = format!("sh -c '{orphan}' \"$0\" > /dev/null & exit 7");
    let skd = as_process_1(
        &["-vt", "127.0.0.1:0"],
        "sh",
        &["-c", &script, fifo.to_str().unwrap()],
    );
    talk(skd.connect(), b"");
    skd.wait_for_log("exited with status 7");
    let orphan = skd.wait_for_children(1)[0];
    // An open for writing waits until the orphan has opened it for reading.
    drop(File::options().write(true).open(&fifo).unwrap());
    wait_until("the orphan is reaped", || children(skd.pid()).is_empty());
    assert!(!exists(orphan) && !is_zombie(orphan));
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn process_1_takes_no_handler_for_an_orphan_under_load() {
    const CLIENTS: usize = 4;
    const EACH: usize = 50;
    // Each handler leaves orphans that end at once, some sooner and some later than the handler.
    let script = "(true & true & true &); exit 5";
    let skd = as_process_1(&["-vt", "127.0.0.1:0"], "sh", &["-c", script]);
    let address = skd.address();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    talk(crate::harness::connect(address), b"");
                }
            });
        }
    });
    skd.wait_for_logs(" exited with status 5 ", CLIENTS * EACH);
    assert_eq!(skd.logged("Closed connection").len(), CLIENTS * EACH);
    wait_until("all are reaped", || children(skd.pid()).is_empty());
    assert_eq!(zombies(skd.pid()), [0; 0]);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn process_1_reaps_strangers_while_it_cannot_start_handlers() {
    const USER: &str = "54324";
    const ORPHANS: usize = 6;
    let directory = Directory::public();
    let fifo = directory.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    directory.chmod("fifo", 0o666);
    let script = "read what; test $what = cat && echo cat && exec cat; \
                  for orphan in 1 2 3 4 5 6; do { read line < \"$0\"; } > /dev/null & done";
    let skd = Skd::new(["-U", "--threads", "1", "-t", "127.0.0.1:0"])
        .env("UID", USER)
        .env("GID", USER)
        .env_remove("ROOT")
        .env("PATH", "/bin:/usr/bin");
    let skd = run_as_process_1(skd, "sh", &["-c", script, fifo.to_str().unwrap()]);
    assert_eq!(talk(skd.connect(), b"cat\n"), b"cat\n");
    skd.wait_for_children(0);
    // The orphans, and a handler.
    limit_processes(skd.pid(), ORPHANS + 1);
    let _ = crate::harness::try_talk(skd.connect(), b"orphans\n");
    wait_until("the orphans are left", || {
        let children = children(skd.pid());
        children.len() == ORPHANS && children.into_iter().all(exists)
    });
    let call = || {
        let mut stream = skd.connect();
        stream.write_all(b"cat\n").unwrap();
        stream
    };
    let mut last = call();
    assert_eq!(receive(&mut last, 4), b"cat\n");
    let mut waiting = call();
    skd.wait_for_log("skd: no process for 'sh'");
    // A line for each of them. They end, and count until they are reaped.
    let mut lines = File::options().read(true).write(true).open(&fifo).unwrap();
    lines.write_all(&[b'\n'; ORPHANS]).unwrap();
    assert_eq!(receive(&mut waiting, 4), b"cat\n");
    wait_until("all strangers are reaped", || {
        children(skd.pid()).len() == 2
    });
    assert_eq!(zombies(skd.pid()), [0; 0]);
    assert_eq!(talk(call(), b""), b"cat\n");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn process_1_obeys_signals() {
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGHUP, "HUP"),
    ] {
        let skd = as_process_1(&["-t", "127.0.0.1:0"], "cat", &[]);
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(0), "{signal}");
        // From inside as well, where the kernel protects process 1 from signals without a handler.
        let skd = as_process_1(&["-t", "127.0.0.1:0"], "kill", &[&format!("-{name}"), "1"]);
        let _ = crate::harness::try_talk(skd.connect(), b"");
        assert_eq!(skd.wait().code(), Some(0), "{signal}");
    }
}

/// As process 1 with this drain, a shell as its handler, and a client that has read from it.
fn draining(options: &[&str], script: &str) -> (Running, TcpStream) {
    let options = [&["-vt", "127.0.0.1:0"], options].concat();
    let skd = as_process_1(&options, "sh", &["-c", script]);
    let mut client = skd.connect();
    assert_eq!(receive(&mut client, 6), b"ready\n");
    (skd, client)
}

#[test]
fn process_1_drains() {
    let (skd, mut client) = draining(&["--drain=1h"], "echo ready; exec cat");
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("Draining: 1 handler has 1h to end");
    echo(&mut client, b"served");
    assert_eq!(talk(client, b"bye"), b"bye");
    assert_eq!(skd.wait().code(), Some(0));

    let (skd, _client) = draining(&["--drain=100ms"], "echo ready; exec cat");
    assert_eq!(skd.stop().code(), Some(3));

    let stubborn = "trap '' TERM; echo ready; while :; do sleep 1000; done";
    let (skd, _client) = draining(&["--drain=0s", "--kill-after=100ms"], stubborn);
    assert_eq!(skd.stop().code(), Some(4));
}

#[test]
fn processes_that_handlers_leave_end_with_process_1_and_are_not_waited_for() {
    let script = "sh -c \"trap '' TERM; echo ready; exec sleep 1000\" & read line";
    let (skd, mut client) = draining(&["--drain=1h"], script);
    let handler = skd.wait_for_children(1)[0];
    let left = children(handler)[0];
    client.write_all(b"\n").unwrap();
    skd.wait_for_log("exited with status 0");
    // It is an orphan now, with process 1 as its parent.
    assert_eq!(skd.wait_for_children(1), [left]);
    assert_eq!(skd.stop().code(), Some(0));
    wait_until("it has ended too", || !exists(left));
    assert_eq!(skd.logged("have not ended"), [""; 0]);
}

#[test]
fn orphans_that_end_during_the_drain_are_reaped() {
    let directory = Directory::new();
    let fifo = directory.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let path = fifo.to_str().unwrap();
    let script = format!("(sh -c 'read line < {path}' > /dev/null &); echo ready; exec cat");
    let (skd, mut client) = draining(&["--drain=1h"], &script);
    let before = skd.wait_for_children(2);
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("Draining: 1 handler");
    drop(File::options().write(true).open(&fifo).unwrap());
    wait_until("the orphan is reaped", || children(skd.pid()).len() == 1);
    assert!(before.contains(&children(skd.pid())[0]));
    echo(&mut client, b"still served");
    drop(client);
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn process_1_that_supervises_obeys_signals() {
    let script = "trap 'echo told; exit 5' TERM INT; echo ready; while :; do sleep 0.01; done";
    for (signal, name) in [(Signal::SIGTERM, "TERM"), (Signal::SIGINT, "INT")] {
        let skd = start_as_process_1(Skd::new(["-S"]), "sh", &["-c", script]);
        assert_eq!(skd.stdout_line(), "ready");
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(5), "{signal}");
        // From inside.
        let kills = format!("trap 'exit 6' {name}; kill -{name} 1; while :; do sleep 0.01; done");
        let skd = start_as_process_1(Skd::new(["-S"]), "sh", &["-c", &kills]);
        assert_eq!(skd.wait().code(), Some(6), "{signal}");
    }
    let deaf = "trap '' TERM; echo ready; while :; do sleep 1000; done";
    let skd = Skd::new(["-S", "--kill-after=100ms"]);
    let skd = start_as_process_1(skd, "sh", &["-c", deaf]);
    assert_eq!(skd.stdout_line(), "ready");
    assert_eq!(skd.stop().code(), Some(128 + 9));
}

#[test]
fn process_1_executes_a_program_with_the_original_signal_dispositions() {
    // skd leaves no disposition behind: signals that the program catches reach it.
    let script = "trap 'exit 7' TERM; echo $$; while :; do sleep 0.01; done";
    // skd itself can't be found any more, nor need it be.
    let skd = Skd::new([""; 0]).deadline(Duration::from_secs(1));
    let skd = start_as_process_1(skd, "sh", &["-c", script]);
    assert_eq!(skd.stdout_line(), "1");
    let inside = |pid: &i32| crate::harness::status_field(*pid, "NSpid").unwrap_or_default();
    let mut all = skd.processes();
    all.retain(|pid| inside(pid).split_whitespace().skip(1).eq(["1"]));
    let [program] = all[..] else {
        panic!("no process 1: {all:?}")
    };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(program), Signal::SIGTERM).unwrap();
    let status = skd.try_wait(DEADLINE).expect("its end");
    assert_eq!(status.code(), Some(7));
}

#[test]
fn a_stop_during_the_start_of_process_1_is_not_lost() {
    requires_root();
    let held = HeldStart::new();
    let skd = Skd::new(["-t", "held.example:0"]).inside(&held.namespace);
    let skd = start_as_process_1(skd, "cat", &[]);
    held.during(|| skd.signal(Signal::SIGTERM));
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn process_1_refuses_to_go_into_the_background() {
    for options in [&["-Bt", "127.0.0.1:0"][..], &["-BS"], &["-B"]] {
        let skd = start_as_process_1(Skd::new(options), "cat", &[]);
        skd.expect_refusal(2, &["--background", "process 1"]);
    }
}

/// A skd without shared libraries, built as the README says.
fn static_skd() -> PathBuf {
    let triple = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let target = Path::new(env!("CARGO_BIN_EXE_skd")).ancestors().nth(2);
    let target = target.expect("the directory of all that is built");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--bin", "skd", "--target"])
        .args([
            OsStr::new(&triple),
            "--target-dir".as_ref(),
            target.as_ref(),
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "rustup target add {triple} may be missing:\n{said}"
    );
    target.join(triple).join("debug/skd")
}

/// A root directory with only a static skd and a static handler, which prints its environment and echoes
/// its input.
fn empty_root() -> Directory {
    requires_command("cc");
    let directory = Directory::public();
    let source = directory.write(
        "handler.c",
        "#include <fcntl.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <unistd.h>\n\
         int main(void) {\n\
         int open = 0;\n\
         char line[256];\n\
         for (int fd = 0; fd < 1024; fd++) open += fcntl(fd, F_GETFD) >= 0;\n\
         long length = sprintf(line, \"%d open, %s\\n\", open, getenv(\"PROTO\"));\n\
         do write(1, line, length); while ((length = read(0, line, sizeof line)) > 0);\n\
         return 0; }\n",
    );
    let run = |command: &mut Command| assert!(command.status().unwrap().success(), "{command:?}");
    run(Command::new("cc")
        .args(["-static", "-w", "-o", &directory.name("handler")])
        .arg(&source));
    run(Command::new("install")
        .arg(static_skd())
        .arg(directory.join("skd")));
    std::fs::remove_file(source).unwrap();
    assert_eq!(directory.names(), ["handler", "skd"]);
    directory
}

/// A skd as process 1 with this root directory.
fn in_root(root: &Directory, options: &[&str]) -> Skd {
    let script = "shift; exec unshare -p -f --kill-child chroot \"$0\" /skd \"$@\"";
    Skd::new(options).binary(root.join("skd")).wrapper([
        "sh",
        "-c",
        script,
        root.path().to_str().unwrap(),
    ])
}

#[test]
fn a_static_skd_serves_in_a_root_with_no_other_file() {
    requires_root();
    let root = empty_root();
    let greeting = b"3 open, TCP\n";
    let skd = in_root(&root, &["-vvt", "127.0.0.1:0", "--drain=1h"]).run("/handler");
    assert_eq!(
        talk(skd.connect(), b"hello\n"),
        [&greeting[..], b"hello\n"].concat()
    );
    skd.wait_for_log("exited with status 0 after ");
    let mut client = skd.connect();
    assert_eq!(receive(&mut client, greeting.len()), greeting);
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("Draining: 1 handler");
    echo(&mut client, b"served");
    drop(client);
    assert_eq!(skd.wait().code(), Some(0));
    assert_eq!(skd.logged("skd: "), [""; 0]);
    let skd = in_root(&root, &["-vvt", "127.0.0.1:0", "--drain=1h"]).run("/handler");
    let mut client = skd.connect();
    receive(&mut client, greeting.len());
    skd.signal(Signal::SIGINT);
    assert_eq!(skd.wait().code(), Some(3));
}

#[test]
fn numeric_names_work_in_such_a_root() {
    requires_root();
    let root = empty_root();
    let options = [
        "-v",
        "-t",
        "127.0.0.1:0",
        "-l",
        "/socket",
        "-P",
        "/pid",
        "-L",
        ">>/log",
    ];
    let user = [
        "--user",
        "65534:65534",
        "--unix-owner",
        "65534:65534",
        "--drain=1h",
    ];
    // Nor is anything open on 0.
    let skd = in_root(&root, &[&options[..], &user[..]].concat()).stdin(Stream::Closed);
    let skd = skd.run("/handler");
    let greeting = b"3 open, TCP\n";
    assert_eq!(
        talk(skd.connect(), b"hello\n"),
        [&greeting[..], b"hello\n"].concat()
    );
    let local = connect_unix(root.join("socket"));
    assert_eq!(talk(local, b""), b"3 open, UNIX-STREAM\n");
    assert_eq!(root.read("pid"), "1\n");
    wait_for_text(root.join("log"), "Closed local connection");
    assert_eq!(skd.stop().code(), Some(0));

    let skd = in_root(&root, &["--user", "nobody", "-t", "127.0.0.1:0"]);
    skd.start("/handler")
        .expect_refusal(2, &["no user 'nobody'"]);
    let skd = in_root(&root, &["-t", "127.0.0.1:0"]).start("handler");
    skd.expect_refusal(127, &["'handler'"]);
}
