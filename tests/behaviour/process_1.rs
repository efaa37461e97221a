//! skd as process 1 of a container.

use crate::harness::{
    Directory, Running, Skd, children, echo, exists, is_zombie, receive, requires_command,
    requires_root, talk, wait_until, zombies,
};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::Write;

/// skd as process 1 of a pid namespace of its own, with a /proc that shows it.
fn as_process_1(options: &[&str], prog: &str, args: &[&str]) -> Running {
    run_as_process_1(Skd::new(options), prog, args)
}

fn run_as_process_1(skd: Skd, prog: &str, args: &[&str]) -> Running {
    requires_root();
    requires_command("unshare");
    let skd = skd
        .wrapper(["unshare", "-p", "-f", "--mount-proc", "--kill-child"])
        .run_with(prog, args);
    let inside = crate::harness::status_field(skd.pid(), "NSpid").unwrap();
    assert_eq!(inside.split_whitespace().last(), Some("1"), "{inside}");
    skd
}

#[test]
fn process_1_reaps_what_it_inherits() {
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
    // Opened for writing, which waits for the orphan to have opened it for reading, and closed.
    drop(File::options().write(true).open(&fifo).unwrap());
    wait_until("the orphan is reaped", || children(skd.pid()).is_empty());
    assert!(!exists(orphan) && !is_zombie(orphan));
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn process_1_mistakes_no_handler_for_an_orphan_under_load() {
    const CLIENTS: usize = 4;
    const EACH: usize = 50;
    // Each leaves orphans that end at once, some sooner and some later than itself.
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
fn process_1_reaps_strangers_while_there_is_no_process_for_a_handler() {
    const USER: &str = "54324";
    const ORPHANS: usize = 6;
    // Those, a handler, and the two threads of skd.
    const LIMIT: u64 = 9;
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
        .env("PATH", "/bin:/usr/bin")
        .limit(Resource::RLIMIT_NPROC, LIMIT, LIMIT);
    let skd = run_as_process_1(skd, "sh", &["-c", script, fifo.to_str().unwrap()]);
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
    // A line for each of them; they end, and as long as they aren't reaped, they count.
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
        // From inside as well, where the kernel protects process 1 from signals that it doesn't expect.
        let skd = as_process_1(&["-t", "127.0.0.1:0"], "kill", &[&format!("-{name}"), "1"]);
        let _ = crate::harness::try_talk(skd.connect(), b"");
        assert_eq!(skd.wait().code(), Some(0), "{signal}");
    }
}
