//! Attacks of a local user.

use super::scene::{Attacker, HANDLERS, PATH, STRANGER, Scene, directory};
use super::{Attack, Group};
use crate::harness::{Directory, Running, Skd, Stranger, connect_unix, talk, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::time::Duration;

pub(super) const GROUPS: &[&Group] = &[&RUNNING, &READING, &WITHOUT_RIGHTS, &WAITING, &STARTING];

const RUNNING: Group = Group {
    scene: running,
    attacks: &[
        Attack::py("any signal to skd or the relay, with any sender (kill, sigqueue, forged si_code, threads)", "EPERM", "signals", "refused"),
        Attack::py("TERM from the kernel, by F_SETOWN, F_SETSIG and SIOCSPGRP on sockets of its own", "the kernel sends nothing: the owner has another user", "owner_signal", "served"),
        Attack::py("trace, read, limit, slow down, move or watch skd and the relay (ptrace, process_vm_readv, pidfd_getfd, prlimit, perf, …)", "EPERM for all 19 calls", "by_number", "refused"),
        Attack::py("34 files of skd and the relay in /proc: mem, environ, fd, maps, root, oom_score_adj, …", "EACCES", "by_proc", "refused"),
        Attack::py("the same as root of a user namespace", "EPERM: no capability holds outside the namespace", "as_root_of_namespace", "refused"),
        Attack::py("pass for root as process 1 and user 0 of namespaces", "PEERUID is that of the user, PEERPID skd's number for it", "namespace_of_processes", "as it is"),
        Attack::py("forged SCM_CREDENTIALS", "EPERM, by the kernel", "forged_credentials", "EPERM"),
        Attack::py("a connection that another process of the user uses", "the credentials are those of the connect", "connection_of_another", "as it is"),
        Attack::py("lock or open what the pid file is protected by", "EACCES: the lock is on a file that only root opens", "pidfile_lock", "refused"),
        Attack::py("remove, rename, replace, link or truncate socket, log, pid file and lock in a sticky directory", "EPERM: all are root's", "names", "refused").after(no_line_is_lost),
        Attack::py("share the TCP and UDP port (SO_REUSEADDR, SO_REUSEPORT, other families)", "EADDRINUSE", "port", "refused"),
        Attack::py("take an abstract name in use", "EADDRINUSE", "abstract_name", "EADDRINUSE"),
        Attack::py("pass 15 kinds of descriptors along, SO_LINGER sockets among them, in 50 stream connections", "the kernel refuses them, or their close is another thread's; others are served", "many_descriptors", "served"),
        Attack::py("the same on a datagram socket", "as before", "descriptors_on_datagrams", "served"),
        Attack::py("the same on a seqpacket socket, with --accept-descriptors", "they go to the handler; skd closes none that waits", "descriptors_on_packets", "served"),
        Attack::py("a client socket whose name has a line of a log and escapes", "a line of skd names no such path", "odd_names", "served").after(no_forged_line),
        Attack::py("600 connections to the unix socket that send nothing", "others are served on TCP", "flood", "served"),
        Attack::py("skd's session keyring", "EACCES: it is skd's alone", "keys", "refused"),
        Attack::py("move skd to another cgroup, freeze or kill its own", "EACCES", "cgroup", "refused"),
        Attack::py("fanotify permission events, a lease on the log", "EPERM, EACCES", "watches", "refused"),
    ],
};

/// The attacker is a member of `--control-read`.
const READING: Group = Group {
    scene: reading,
    attacks: &[
        Attack::py(
            "whatever changes something, through the control socket, as a member of --control-read",
            "all 10 requests are refused",
            "control_acts",
            "refused",
        ),
        Attack::py(
            "16 kinds of what is no request: deep nesting, NUL, invalid UTF-8, huge numbers, names twice, escapes",
            "each is answered with what is wrong, and so is the next request",
            "control_junk",
            "refused",
        ),
        Attack::py(
            "40 watchers of 7,000 events each",
            "others are served, and root is answered",
            "control_names",
            "served",
        )
        .after(root_is_answered),
        Attack::py(
            "300 clients of the control socket with half requests, megabytes of requests and events that they never read",
            "others are served, and root is answered",
            "control_flood",
            "served",
        )
        .after(root_is_answered),
        Attack::py(
            "pass 15 kinds of descriptors along to the control socket",
            "the kernel refuses them, or the client is closed by another thread; root is answered",
            "control_descriptors",
            "served",
        )
        .after(root_is_answered),
        Attack::py(
            "remove, rename, replace, link or open to all the control socket in a sticky directory",
            "EPERM: it is root's",
            "control_file",
            "refused",
        )
        .after(root_is_answered),
    ],
};

/// The attacker may connect to the control socket, and no more.
const WITHOUT_RIGHTS: Group = Group {
    scene: without_rights,
    attacks: &[
        Attack::py(
            "300 such clients of a user without rights, whom the mode of the file lets connect",
            "others are served, and root is answered",
            "control_flood",
            "served",
        )
        .after(root_is_answered),
        Attack::py(
            "15 kinds of descriptors of such a user",
            "the kernel refuses them, or the client is closed by another thread; root is answered",
            "control_descriptors",
            "served",
        )
        .after(root_is_answered),
    ],
};

fn reading() -> Scene {
    controlled(&["--control-read=1"])
}

fn without_rights() -> Scene {
    controlled(&[])
}

fn controlled(options: &[&str]) -> Scene {
    let directory = directory();
    let control = directory.name("sticky/control");
    directory.write("sticky/file", "");
    let path = directory.join("sticky/file");
    chown(path, Some(STRANGER), Some(STRANGER)).unwrap();
    let of_control = [
        "--user",
        HANDLERS,
        "--control",
        &control,
        "--control-mode=666",
    ];
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).args(of_control);
    let file = directory.name("sticky/file");
    Scene::of(Attacker::Local(STRANGER), directory, skd.args(options))
        .with("control", &control)
        .with("sticky_file", &file)
}

fn root_is_answered(scene: &Scene) {
    let mut control = connect_unix(scene.directory.join("sticky/control"));
    control
        .write_all(b"{\"version\":1,\"id\":5,\"request\":\"status\"}\n")
        .unwrap();
    let mut answer = String::new();
    BufReader::new(control).read_line(&mut answer).unwrap();
    assert!(answer.contains("\"answer\":\"status\""), "{answer}");
}

/// A skd of root's with all kinds of listeners, as far as one can have them; files in a directory where all write.
fn running() -> Scene {
    let directory = directory();
    let unix = directory.name("sticky/socket");
    let name = format!("attacks-{}", std::process::id());
    let log = format!(">>{}", directory.name("sticky/log"));
    let pid = directory.name("sticky/pid");
    let options = [
        "-l",
        &unix,
        "--unix-mode=666",
        "--user",
        HANDLERS,
        "-L",
        &log,
        "-P",
        &pid,
    ];
    let udp = echo_datagrams(&["-u", "127.0.0.1:0", "--datagram-mode=per-packet"]);
    let dgram = directory.name("dgram");
    let dgrams = echo_datagrams(&["-d", "-l", &dgram, "--unix-mode=666"]);
    let seqpacket = directory.name("seqpacket");
    let packets = Skd::new([
        "--seqpacket",
        "-l",
        &seqpacket,
        "--unix-mode=666",
        "--accept-descriptors",
    ])
    .run("cat");
    let port = udp.port();
    let named = Skd::new(["-l", &format!("@{name}")]).run("cat");
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).args(options);
    Scene::of(Attacker::Local(STRANGER), directory, skd)
        .with("unix", &unix)
        .with("abstract", &name)
        .with("sticky_log", log.trim_start_matches('>'))
        .with("sticky_pid", &pid)
        .with("pidfile", &pid)
        .with("dgram", &dgram)
        .with("seqpacket", &seqpacket)
        .with_number("udp", port)
        .and(udp)
        .and(dgrams)
        .and(packets)
        .and(named)
}

fn echo_datagrams(options: &[&str]) -> Running {
    Skd::new(options).run("cat")
}

fn no_line_is_lost(scene: &Scene) {
    let log = scene.directory.join("sticky/log");
    let before = fs::read_to_string(&log).unwrap().matches("Closed").count();
    scene.assert_served();
    wait_until("a line", || {
        fs::read_to_string(&log).unwrap().matches("Closed").count() > before
    });
}

fn no_forged_line(scene: &Scene) {
    let log = fs::read_to_string(scene.directory.join("sticky/log")).unwrap();
    assert!(
        !log.lines().any(|line| line.starts_with("skd: Upgraded")) && !log.contains('\x1b'),
        "{log:?}"
    );
}

const WAITING: Group = Group {
    scene: waiting,
    attacks: &[
        Attack::py(
            "a byte out of band and no other, on a unix socket with --first-byte",
            "it isn't a first byte, and no thread spins",
            "out_of_band",
            "calm",
        ),
        Attack::py(
            "a lease on a list of rules, so that the open at HUP waits",
            "the open doesn't wait; the rules stay as they were",
            "leases",
            "done",
        )
        .beside(hang_up),
    ],
};

fn waiting() -> Scene {
    let directory = directory();
    let unix = directory.name("socket");
    let list = directory.name("list");
    fs::write(&list, "192.0.2.1\n").unwrap();
    chown(&list, Some(STRANGER), Some(STRANGER)).unwrap();
    let rules = directory.write("rules", format!("deny file={list}\nallow all\n"));
    let rules = rules.to_str().unwrap();
    let options = [
        "-l",
        &unix,
        "--unix-mode=666",
        "--first-byte=30s",
        "--rules",
        rules,
    ];
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).args(options);
    Scene::of(Attacker::Local(STRANGER), directory, skd)
        .with("unix", &unix)
        .with("list", &list)
}

/// HUP, a moment after the attack has begun.
fn hang_up(scene: &Scene) {
    scene.skd.signal(Signal::SIGHUP);
    scene.assert_served();
}

const STARTING: Group = Group {
    scene: waiting,
    attacks: &[
        Attack::start(
            "hold flock(2) on the pid file and on the directory of the socket, as root restarts skd",
            "skd starts: it locks neither",
            locks_of_others,
        ),
        Attack::start(
            "a symbolic link of the user's at the path of the pid file",
            "refused; the target is untouched",
            || link_at("-P"),
        ),
        Attack::start(
            "a symbolic link of the user's at the path of the log",
            "refused; the target is untouched",
            || link_at("-L"),
        ),
        Attack::start(
            "a hard link to a file of root's at the path of the pid file",
            "refused; the file is untouched",
            || hard_link_at("-P"),
        ),
        Attack::start(
            "a hard link to a file of root's at the path of the log",
            "refused; the file is untouched",
            || hard_link_at("-L"),
        ),
        Attack::start(
            "a FIFO at the path of the pid file, of the log and of the rules",
            "refused at once: no open waits",
            fifos,
        ),
        Attack::start(
            "a directory, a FIFO and a locked file of the user's at the name of the pid file's lock",
            "refused at once, with the path",
            names_of_locks,
        ),
        Attack::start(
            "a link to /etc/shadow at the path of a list of rules",
            "refused; no line of the file is in a message",
            shadow_as_rules,
        ),
        Attack::start(
            "a file, a link, a FIFO and a live socket at the path of a unix socket",
            "refused; all stay as they are",
            paths_of_sockets,
        ),
        Attack::start(
            "swap file and link at the path of the socket while starts with --unix-owner go on",
            "no file changes its owner",
            owner_race,
        ),
        Attack::start(
            "swap file, link and FIFO at the path of the log while starts go on",
            "root's file is never opened",
            log_race,
        ),
        Attack::start(
            "SKD_UPGRADE, LISTEN_FDS, WATCHDOG_USEC and NOTIFY_SOCKET with made-up values",
            "the first is refused, the others start as without them; handlers see none",
            variables,
        ),
        Attack::start(
            "occupy the port or the abstract name before a start",
            "the start fails with the address, and has left nothing",
            occupied,
        ),
    ],
};

/// Starts this program of the stranger's.
#[track_caller]
fn stranger(directory: &Directory, line: &str) -> Stranger {
    let line = format!("import os, fcntl, socket, time\n{line}");
    Stranger::start(STRANGER, directory, ["/usr/bin/python3", "-SEc", &line])
}

const SECRET: &str = "root:secret:0:0\n";

/// `secret` is root's, and `theirs` a directory of the stranger's.
fn ground() -> Directory {
    let directory = directory();
    directory.write("secret", SECRET);
    directory.chmod("secret", 0o600);
    fs::create_dir(directory.join("theirs")).unwrap();
    chown(directory.join("theirs"), Some(STRANGER), Some(STRANGER)).unwrap();
    directory
}

#[track_caller]
fn assert_untouched(directory: &Directory) {
    assert_eq!(directory.read("secret"), SECRET);
    let found = fs::metadata(directory.join("secret")).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (0, 0o600));
}

fn skd(options: &[&str]) -> Skd {
    Skd::new(["-t", "127.0.0.1:0", "--user", HANDLERS])
        .args(options)
        .env("PATH", PATH)
}

/// A start that fails, soon and with the path, and has said nothing of the file.
#[track_caller]
fn refuses(directory: &Directory, options: &[&str]) {
    let mut words = vec!["-t", "127.0.0.1:0"];
    words.extend(options);
    words.push("cat");
    let start = Skd::new(&words).env("PATH", PATH);
    let Ok(output) = start.end_within(Duration::from_secs(10)) else {
        panic!("it serves, or waits: {words:?}");
    };
    assert_ne!(output.code(), Some(0), "{words:?}");
    assert!(!output.stderr.contains("root:"), "{}", output.stderr);
    assert_untouched(directory);
}

#[track_caller]
fn served(skd: &Running) {
    assert_eq!(talk(skd.connect(), b"hello"), b"hello");
}

fn locks_of_others() {
    let directory = ground();
    let pid = directory.name("pid");
    let socket = directory.name("theirs/socket");
    let options = ["-P", &pid, "-l", &socket];
    let first = skd(&options).run("cat");
    // skd's own lock may be there.
    let line = r"for name in ('../pid', '.', '..'):
 try: fcntl.flock(os.open(name, os.O_RDONLY), fcntl.LOCK_SH | fcntl.LOCK_NB)
 except BlockingIOError: pass
print('locked', flush=True)
time.sleep(60)";
    let _stranger = stranger(&directory, line);
    assert_eq!(first.stop().code(), Some(0));
    // The file stays if it can't be removed, with the lock on it.
    directory.write("pid", "");
    let line = "fcntl.flock(os.open('../pid', os.O_RDONLY), fcntl.LOCK_EX)\nprint('locked', flush=True)\ntime.sleep(60)";
    let _another = stranger(&directory, line);
    served(&skd(&options).run("cat"));
}

fn with(option: &str, path: &str) -> [String; 2] {
    let path = if option == "-L" {
        format!(">>{path}")
    } else {
        path.to_owned()
    };
    [option.to_owned(), path]
}

fn link_at(option: &str) {
    let directory = ground();
    let path = directory.name("theirs/name");
    symlink(directory.join("secret"), &path).unwrap();
    lchown(&path, Some(STRANGER), Some(STRANGER)).unwrap();
    let [option, path] = with(option, &path);
    refuses(&directory, &[&option, &path]);
}

fn hard_link_at(option: &str) {
    let directory = ground();
    let path = directory.name("theirs/name");
    fs::hard_link(directory.join("secret"), &path).unwrap();
    let [option, path] = with(option, &path);
    refuses(&directory, &[&option, &path]);
}

fn fifos() {
    let directory = ground();
    let _stranger = stranger(
        &directory,
        "os.mkfifo('name', 0o666)\nprint('made', flush=True)\ntime.sleep(60)",
    );
    let path = directory.name("theirs/name");
    for option in ["-P", "-L", "--rules"] {
        let [option, path] = with(option, &path);
        refuses(&directory, &[&option, &path]);
    }
}

fn names_of_locks() {
    for line in [
        "os.mkdir(name)",
        "os.mkfifo(name)",
        "fcntl.flock(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)",
        "os.symlink('../secret', name)",
    ] {
        let directory = ground();
        let line = format!(
            "name = '../sticky/pid.lock'\n{line}\nprint('made', flush=True)\ntime.sleep(60)"
        );
        let _stranger = stranger(&directory, &line);
        refuses(&directory, &["-P", &directory.name("sticky/pid")]);
    }
}

fn shadow_as_rules() {
    let directory = ground();
    let list = directory.name("theirs/list");
    symlink(directory.join("secret"), &list).unwrap();
    lchown(&list, Some(STRANGER), Some(STRANGER)).unwrap();
    refuses(&directory, &["--rules", &list]);
    let rules = directory.write("rules", format!("deny file={list}\nallow all\n"));
    refuses(&directory, &["--rules", rules.to_str().unwrap()]);
}

fn paths_of_sockets() {
    let directory = ground();
    let line = "open('file', 'w').write('x')\nos.symlink('../secret', 'link')\nos.symlink('nothing', 'dangling')\n\
        os.mkfifo('fifo')\ns = socket.socket(socket.AF_UNIX)\ns.bind('live')\ns.listen()\nprint('made', flush=True)\ntime.sleep(60)";
    let _stranger = stranger(&directory, line);
    let names = ["file", "link", "dangling", "fifo", "live"];
    let inodes = || {
        names.map(|name| {
            fs::symlink_metadata(directory.join("theirs").join(name))
                .map(|it| it.ino())
                .ok()
        })
    };
    let before = inodes();
    for name in names {
        refuses(
            &directory,
            &[
                "-l",
                &directory.name(&format!("theirs/{name}")),
                "--unix-owner=1",
            ],
        );
    }
    assert_eq!(inodes(), before);
}

fn owner_race() {
    let directory = ground();
    let line = "print('begins', flush=True)\nos.chdir('../theirs')\nwhile True:\n for name in ('socket',):\n  try:\n   os.rename(name, 'other')\n   os.link('../secret', name) if os.access('../secret', 4) else os.symlink('../secret', name)\n   os.unlink(name)\n  except OSError: pass";
    let _stranger = stranger(&directory, line);
    let path = directory.name("theirs/socket");
    for _ in 0..12 {
        let words = ["-l", &path, "--unix-owner=1", "cat"];
        if let Err(running) = Skd::new(words).end_within(Duration::from_millis(120)) {
            drop(running);
        }
        assert_untouched(&directory);
    }
}

fn log_race() {
    let directory = ground();
    let line = "print('begins', flush=True)\nwhile True:\n for make in (lambda: open('log', 'w').close(), lambda: os.symlink('../secret', 'log'), lambda: os.mkfifo('log')):\n  try:\n   make()\n   os.unlink('log')\n  except OSError: pass";
    let _stranger = stranger(&directory, line);
    let log = format!(">{}", directory.name("theirs/log"));
    for _ in 0..12 {
        let words = ["-t", "127.0.0.1:0", "-v", "-L", &log, "cat"];
        if let Err(running) = Skd::new(words).end_within(Duration::from_millis(120)) {
            drop(running);
        }
        assert_untouched(&directory);
    }
}

fn variables() {
    let directory = ground();
    let socket = directory.name("theirs/notify");
    let _manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    for value in ["1:3", "x", "-1:-1"] {
        let start = skd(&[]).env("SKD_UPGRADE", value).start("cat");
        start.expect_refusal(1, &["SKD_UPGRADE"]);
    }
    for (name, value) in [
        ("LISTEN_FDS", "70000"),
        ("LISTEN_PID", "1"),
        ("WATCHDOG_USEC", "1"),
        ("WATCHDOG_USEC", "99999999999999999999"),
        ("NOTIFY_SOCKET", socket.as_str()),
    ] {
        let skd = skd(&[]).env(name, value).run_with(
            "sh",
            [
                "-c",
                "echo \"$SKD_UPGRADE$LISTEN_FDS$WATCHDOG_USEC$NOTIFY_SOCKET\"; cat",
            ],
        );
        assert_eq!(talk(skd.connect(), b"hello"), b"\nhello", "{name}");
        assert_eq!(skd.stop().code(), Some(0), "{name}");
    }
}

fn occupied() {
    let directory = ground();
    let name = format!("attacked-{}", std::process::id());
    let line = format!(
        "a = socket.socket(socket.AF_UNIX)\na.bind('\\0{name}')\nb = socket.create_server(('127.0.0.1', 0))\n\
         open('port', 'w').write(str(b.getsockname()[1]))\nprint('bound', flush=True)\ntime.sleep(60)"
    );
    let _stranger = stranger(&directory, &line);
    let port = format!("127.0.0.1:{}", directory.read("theirs/port"));
    let files = [
        "-P",
        &directory.name("pid"),
        "-l",
        &directory.name("socket"),
    ];
    refuses(&directory, &[&files[..], &["-t", &port]].concat());
    refuses(
        &directory,
        &[&files[..], &["-l", &format!("@{name}")]].concat(),
    );
    assert!(!directory.join("pid").exists() && !directory.join("socket").exists());
}

#[test]
fn on_a_skd_that_runs() {
    super::run(&RUNNING);
}

#[test]
fn on_a_control_socket() {
    super::run(&READING);
    super::run(&WITHOUT_RIGHTS);
}

#[test]
fn on_a_skd_that_waits_for_input() {
    super::run(&WAITING);
}

#[test]
fn on_starts() {
    super::run(&STARTING);
}
