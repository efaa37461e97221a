//! `--check`: all faults, with the messages and the status of a start, and nothing changed.

use crate::harness::{
    Directory, Namespace, Output, Skd, close_unix, leave_stale, requires_command, requires_root,
    run_to_end,
};
use nix::sys::resource::Resource;
use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;

/// Ids without an account.
const UID: u32 = 61234;
const GID: u32 = 61235;

fn check<'a>(words: impl IntoIterator<Item = &'a str>) -> Skd {
    Skd::new(["--check"]).args(words)
}

/// Asserts that no fault is found and nothing is printed.
#[track_caller]
fn silent(output: &Output) {
    output.expect_code(0);
    let said = (output.stdout.as_str(), output.stderr.as_str());
    assert_eq!(said, ("", ""), "{output:#?}");
}

/// The lines on stderr, each of which must begin as usual.
#[track_caller]
fn lines(output: &Output) -> Vec<&str> {
    assert_eq!(output.stdout, "", "{output:#?}");
    let lines: Vec<_> = output.stderr.lines().collect();
    let marked = lines.iter().all(|line| line.starts_with("skd: "));
    assert!(marked && output.stderr.ends_with('\n'), "{output:#?}");
    lines
}

/// Asserts one note, status 0, and nothing else.
#[track_caller]
fn one_note(output: &Output, texts: &[&str]) {
    output.expect_code(0).expect_stderr(texts);
    let lines = lines(output);
    let one = lines.len() == 1 && lines[0].starts_with("skd: note: ");
    assert!(one, "{output:#?}");
}

// Agreement with the start.

/// Runs a command line that can't start, and checks it: status and first line must be the same.
#[track_caller]
fn agree(make: impl Fn(&[&str]) -> Skd) {
    let start = make(&[]).start_bare();
    let start = start.wait_with_output();
    let verdict = make(&["--check"]).end();
    let failed = start.code().is_some_and(|code| code != 0);
    assert!(failed && start.stderr.lines().count() == 1, "{start:#?}");
    assert_eq!(verdict.code(), start.code(), "{start:#?} {verdict:#?}");
    let mut faults = lines(&verdict)
        .into_iter()
        .filter(|it| !it.contains("note:"));
    assert_eq!(
        faults.next(),
        start.stderr.lines().next(),
        "{start:#?} {verdict:#?}"
    );
}

#[track_caller]
fn agree_on(words: &[&str]) {
    agree(|check| Skd::new(check).args(words));
}

#[test]
fn wrong_words_are_refused_as_at_the_start() {
    for words in [
        &["-t", "99999", "cat"][..],
        &["-t", "80x", "cat"],
        &["-t", "0"],
        &["--", ""],
        &["-t", "0", "-c", "0", "cat"],
        &["-d", "cat"],
        &["-dt", "0", "cat"],
        &["-S", "-c", "2", "-t", "0", "cat"],
        &["--wait", "-u", "0", "cat"],
        &["--on-demand", "-t", "0", "cat"],
        &["--idle-exit", "5s", "-t", "0", "cat"],
        &["--idle-timeout", "5s", "-l", "@x", "cat"],
        &["--timeout", "5s", "-u", "0", "cat"],
        &["--drain", "5", "-t", "0", "cat"],
        &["--drain", "5s", "cat"],
        &["--kill-after", "5s", "-t", "0", "cat"],
        &["--ready-fd", "3", "cat"],
        &["--listen-fd", "x", "cat"],
        &["--chroot", "/", "cat"],
        &["--user", "nobody", "-U", "cat"],
        &["--user", "root", "cat"],
        &["--unix-mode", "600", "cat"],
        &["--unix-mode", "600", "-l", "@x", "cat"],
        &["--threads", "2", "-u", "0", "cat"],
        &["-t", "80", "-t", "80", "cat"],
        &["--env", "PROTO=x", "-t", "0", "cat"],
        &["-L", "x:nowhere.info", "cat"],
        &["--no-such-option", "cat"],
        &["-t"],
    ] {
        agree_on(words);
    }
    for id in [None, Some("0"), Some("x")] {
        agree(|check| {
            let skd = Skd::new(check).args(["-U", "-t", "0", "cat"]);
            let skd = skd.env("GID", "1").env_remove("ROOT");
            match id {
                None => skd.env_remove("UID"),
                Some(id) => skd.env("UID", id),
            }
        });
    }
}

#[test]
fn files_out_of_reach_are_refused_as_at_the_start() {
    let directory = Directory::new();
    let name = |name: &str| directory.name(name);
    directory.write("file", "kept\n");
    std::os::unix::fs::symlink(name("file"), name("link")).unwrap();
    std::os::unix::fs::symlink(name("nowhere"), name("broken")).unwrap();
    let fifo = std::process::Command::new("mkfifo")
        .arg(name("fifo"))
        .status();
    assert!(fifo.unwrap().success());
    let _socket = UnixListener::bind(name("socket")).unwrap();
    for path in [
        "",
        "link",
        "broken",
        "fifo",
        "socket",
        "no/file",
        "file/file",
        "..",
    ] {
        agree_on(&["-P", &name(path), "cat"]);
        agree_on(&["-P", &name(path), "-t", "0", "cat"]);
    }
    for path in ["", "socket", "no/file", "file/file", ".."] {
        agree_on(&["-L", &format!(">{}", name(path)), "cat"]);
        agree_on(&["-L", &format!(">>{}", name(path)), "-t", "0", "cat"]);
    }
    for path in [
        "file",
        "fifo",
        "link",
        "broken",
        "no/file",
        "file/file",
        "..",
    ] {
        agree_on(&["-l", &name(path), "cat"]);
        agree_on(&["-dl", &name(path), "cat"]);
    }
    assert_eq!(directory.read("file"), "kept\n");
}

#[test]
fn what_a_user_may_not_do_is_refused_as_at_the_start() {
    requires_root();
    let directory = Directory::public();
    let name = |name: &str| directory.name(name);
    directory.write("file", "");
    let unreadable = directory.join("unreadable");
    fs::create_dir(&unreadable).unwrap();
    directory.chmod("unreadable", 0o733);
    leave_stale(directory.join("stale"));
    fs::create_dir(directory.join("sticky")).unwrap();
    directory.chmod("sticky", 0o1777);
    leave_stale(directory.join("sticky/stale"));
    let low = Namespace::new();
    low.sysctl("net.ipv4.ip_unprivileged_port_start", "1024");
    let refused: &[&[&str]] = &[
        &["-P", &name("new"), "cat"],
        &["-P", &name("file"), "cat"],
        &["-L", &format!(">{}", name("new")), "cat"],
        &["-L", &format!(">{}", name("file")), "cat"],
        &["-l", &name("new"), "cat"],
        &["-l", &name("stale"), "cat"],
        &["-l", &name("sticky/stale"), "cat"],
        &["-l", "socket", "--unix-owner", "0", "cat"],
        &["-l", "socket", "--unix-owner", &format!("{UID}:0"), "cat"],
        &["-t", "127.0.0.1:1023", "cat"],
        &["-u", "1023", "cat"],
        &["--user", "nobody", "cat"],
        &["--user", "nobody", "-t", "0", "cat"],
        &["--user", "nobody", "--chroot", "/", "cat"],
        &["--nice", "-5", "-t", "0", "cat"],
        &["--nice", "-5", "cat"],
        &["--limit", "nofile=99999999999", "-t", "0", "cat"],
    ];
    let own = Directory::public();
    own.chmod("", 0o777);
    for words in refused {
        agree(|check| {
            let skd = Skd::new(check).args(*words).inside(&low);
            skd.user(UID, GID, [GID]).cwd(own.path())
        });
    }
    // What the user may do is no fault.
    for words in [
        &["-t", "127.0.0.1:1024", "cat"][..],
        &[
            "-l",
            "socket",
            "--unix-owner",
            &format!("{UID}:{GID}"),
            "cat",
        ],
        &["-l", &name("sticky/new"), "cat"],
        &["-l", &name("unreadable/socket"), "cat"],
        &["-P", "pid", "-L", ">log", "cat"],
    ] {
        let skd = check(words.iter().copied()).inside(&low);
        silent(&skd.user(UID, GID, [GID]).cwd(own.path()).end());
    }
    assert_eq!(own.names(), [""; 0]);
}

#[test]
fn a_missing_program_is_refused_as_at_the_start() {
    let directory = Directory::new();
    directory.write("text", "not executable");
    directory.script("lost", "#!/no/such/interpreter\n");
    for program in [
        "no-such-program",
        "/no/such/program",
        "/etc/passwd/x",
        "/",
        &directory.name("text"),
        &directory.name("lost"),
    ] {
        for options in [&["-t", "0"][..], &["-S"], &[], &["-B", "-u", "0"]] {
            agree(|check| Skd::new(check).args(options).arg(program));
        }
    }
    for options in [
        &["--chdir", "/no/such/directory"][..],
        &["--chdir", "/etc/passwd"],
        // Relative programs are looked up where they will run.
        &["--chdir", "/usr"],
        &["--env", "PATH=/no/such/directory"],
    ] {
        let program = if options[1] == "/usr" { "./sh" } else { "cat" };
        agree(|check| Skd::new(check).args(options).args(["-t", "0", program]));
        agree(|check| Skd::new(check).args(options).arg(program));
    }
}

#[test]
fn a_program_is_looked_up_as_the_user_and_in_its_root_directory() {
    requires_root();
    let directory = Directory::public();
    directory.script("closed", "#!/bin/sh\n");
    directory.chmod("closed", 0o700);
    fs::create_dir(directory.join("hidden")).unwrap();
    let program = directory.script("program", "#!/bin/sh\n");
    fs::rename(program, directory.join("hidden/program")).unwrap();
    directory.chmod("hidden", 0o700);
    let root = Directory::public();
    let cat = Path::new("/bin/cat").canonicalize().unwrap();
    root.install(&[cat.to_str().unwrap()]);
    for words in [
        &["--user", "nobody", "-t", "0", &directory.name("closed")][..],
        &["--user", "nobody", &directory.name("hidden/program")],
        &[
            "--user",
            "nobody",
            "--chdir",
            &directory.name("hidden"),
            "cat",
        ],
        &[
            "--user",
            "nobody",
            "--chroot",
            &root.name(""),
            "/bin/no-cat",
        ],
        &[
            "--user",
            "nobody",
            "--chroot",
            &root.name(""),
            "-t",
            "0",
            "sh",
        ],
        &["--user", "nobody", "--chroot", "/no/such/directory", "cat"],
        &["--daemon-user", "nobody", "--nice", "-5", "-t", "0", "cat"],
    ] {
        agree_on(words);
    }
    // Only root may run it, and root will.
    silent(&check([directory.name("closed").as_str()]).end());
    let inside = check(["--user", "nobody", "--chroot", &root.name("")]);
    silent(&inside.arg(&cat).end());
    // By an access control list alone, for example, which only a check as that user can know.
    let owned = directory.join("closed");
    std::os::unix::fs::chown(owned, Some(UID), Some(GID)).unwrap();
    let user = format!("{UID}:{GID}");
    silent(&check(["--user", &user, &directory.name("closed")]).end());
}

#[test]
fn unknown_names_and_interfaces_are_refused_as_at_the_start() {
    requires_root();
    let namespace = Namespace::new();
    namespace.replace_file("/etc/nsswitch.conf", "hosts: files\n");
    for words in [
        ["-t", "no-such-host:80", "cat"],
        ["-u", "no-such-host:80", "cat"],
        ["-t", "[fe80::1%no-such0]:80", "cat"],
    ] {
        agree(|check| Skd::new(check).args(words).inside(&namespace));
    }
}

#[test]
fn conflicting_listeners_are_refused_as_at_the_start() {
    requires_root();
    let namespace = Namespace::new();
    for words in [
        &["-t", "80", "-t", "127.0.0.1:80"][..],
        &["-t", "[::1]:80", "-t", "80"],
        &["-t", "localhost:80", "-t", "127.0.0.1:80"],
        &["-u", "80", "-u", "127.0.0.1:80"],
        &["-u", "localhost:80", "-u", "127.0.0.1:80"],
    ] {
        agree(|check| {
            let skd = Skd::new(check).args(words).arg("cat");
            skd.inside(&namespace)
        });
    }
    for words in [
        &["-t", "80", "-u", "80"][..],
        &["-t", "127.0.0.1:80", "-t", "127.0.0.2:80"],
        &["-t", "0.0.0.0:80", "-t", "[::]:80"],
        &["-t", "127.0.0.1:0", "-t", "127.0.0.1:0"],
    ] {
        let skd = Skd::new(["--check"]).args(words).arg("cat");
        silent(&skd.inside(&namespace).end());
        let skd = Skd::new(words).inside(&namespace).run("cat");
        assert_eq!(skd.stop().code(), Some(0));
    }
}

// Several faults at once.

#[test]
fn all_faults_are_reported_one_per_line_in_the_order_of_a_start() {
    let directory = Directory::new();
    let output = check([
        "-t",
        "99999",
        "-c",
        "x",
        "--user",
        "no-such-user",
        "-b",
        "0",
    ])
    .args(["-t", "mail:", "--unix-mode", "9", "--limit", "x", "-d"])
    .args(["-P", &directory.name("no/pid"), "no-such-program"])
    .end();
    output.expect_code(2);
    let expected = [
        "invalid value '0' for --backlog: ",
        "invalid value '9' for --unix-mode: ",
        "invalid value '99999' for --tcp: ",
        "invalid value 'mail:' for --tcp: ",
        "--datagram sets ",
        "--unix-mode has no use without --unix",
        "invalid value 'no-such-user' for --user: ",
        "invalid value 'x' for --limit: ",
        "invalid value 'x' for --max-clients: ",
        "--pidfile ",
    ];
    let lines = lines(&output);
    assert_eq!(lines.len(), expected.len(), "{output:#?}");
    for (line, text) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("skd: {text}")), "{line} {text}");
    }

    let output = check(["-P", &directory.name("no/pid"), "-l", "/etc/passwd"])
        .args(["-l", &directory.name("no/socket"), "-L"])
        .arg(format!(">{}", directory.name("no/log")))
        .args(["--chdir", "/no/such/directory", "no-such-program"])
        .end();
    // Not that of the program, which a start wouldn't have reached.
    output.expect_code(1);
    let expected = [
        "--pidfile",
        "--unix /etc/passwd:",
        "--unix",
        "--log",
        "'no-such-program' can't be run: there is no such program",
        "'no-such-program' can't be run: --chdir",
    ];
    let lines = self::lines(&output);
    assert_eq!(lines.len(), expected.len(), "{output:#?}");
    for (line, text) in lines.iter().zip(expected) {
        assert!(line.starts_with(&format!("skd: {text}")), "{line} {text}");
    }
    let output = check(["-t", "0", "--limit", "x=1", "no-such-program"]).end();
    // The working directory isn't known in full.
    output.expect_refusal(2, &["--limit"]);
}

#[test]
fn a_right_command_line_is_passed_silently_or_with_its_listeners_under_v() {
    let directory = Directory::new();
    for words in [
        &["cat"][..],
        &["-S", "cat"],
        &["-t", "0", "-u", "0", "cat", "--no-such-option"],
        &[
            "-B",
            "-P",
            &directory.name("pid"),
            "-L",
            "tag",
            "-t",
            "0",
            "cat",
        ],
    ] {
        silent(&check(words.iter().copied()).end());
    }
    let path = directory.name("socket");
    let output = check([
        "-vt",
        "8080",
        "-u127.0.0.1:5353",
        "-l",
        &path,
        "-x@x",
        "cat",
    ])
    .end();
    output.expect_code(0);
    let expected = format!(
        "Would listen on TCP [0.0.0.0]:8080\nWould listen on TCP [::]:8080\n\
         Would listen on UDP [127.0.0.1]:5353\nWould listen on unix stream {path}\n\
         Would listen on unix stream @x\n"
    );
    assert_eq!((output.stdout.as_str(), output.stderr), ("", expected));
    let version = run_to_end(["--check", "--version"]).stdout;
    assert!(version.starts_with("skd "), "{version}");
}

#[test]
fn a_limit_for_the_program_does_not_limit_the_check() {
    requires_root();
    let own = Directory::public();
    let file = fs::File::create(own.join("said")).unwrap();
    let words = [
        "--limit", "as=1", "--limit", "fsize=0", "--limit", "cpu=0", "--nice", "19",
    ];
    let wrong = [
        "--limit",
        "nofile=99999999999",
        "--limit",
        "nproc=0",
        "no-such-program",
    ];
    let skd = check(words).args(wrong).user(UID, GID, [GID]).stderr(file);
    skd.end().expect_code(127);
    let said = own.read("said");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].contains("no such program"), "{said}");
    assert!(lines[1].contains("nofile=99999999999"), "{said}");
    silent(&check(words).arg("cat").end());
}

// Faults of the moment.

#[test]
fn what_the_running_daemon_holds_is_no_fault() {
    let directory = Directory::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ports = [tcp.local_addr(), udp.local_addr()].map(|it| it.unwrap().to_string());
    silent(&check(["-t", &ports[0], "-u", &ports[1], "cat"]).end());

    let (path, pid) = (directory.name("socket"), directory.name("pid"));
    let words = ["-l", &path, "-P", &pid];
    let skd = Skd::new(words).run("cat");
    let output = check(words).arg("cat").end();
    output.expect_code(0);
    let lines = lines(&output);
    assert_eq!(lines.len(), 2, "{output:#?}");
    assert!(lines[0].starts_with(&format!("skd: note: --pidfile {pid} ")));
    assert!(lines[1].starts_with(&format!("skd: note: --unix {path}: ")));
    // The daemon has noticed nothing.
    assert_eq!(crate::harness::talk(skd.connect_unix(), b"1"), b"1");
    assert!(skd.log_lines().is_empty(), "{:?}", skd.log_lines());
    assert_eq!(skd.stop().code(), Some(0));

    let datagram = UnixDatagram::bind(&path).unwrap();
    one_note(&check(["-dl", &path, "cat"]).end(), &[&path]);
    close_unix(datagram, &path);
    // A stale socket: a start replaces it, and a check leaves it.
    silent(&check(["-dl", &path, "cat"]).end());
    assert_eq!(directory.names(), ["socket"]);
    // An unlocked file, whatever is in it.
    fs::write(&pid, "1\n").unwrap();
    silent(&check(["-P", &pid, "cat"]).end());
}

#[test]
fn an_address_of_no_interface_is_noted() {
    requires_root();
    let namespace = Namespace::new();
    let words = ["-t", "10.9.8.7:80", "cat"];
    one_note(
        &check(words).inside(&namespace).end(),
        &["--tcp 10.9.8.7:80", "have the address 10.9.8.7"],
    );
    namespace.add_address("10.9.8.7/8");
    silent(&check(words).inside(&namespace).end());
    for address in [
        "10.255.255.255:80",
        "127.1.2.3:80",
        "[::1]:80",
        "224.0.0.1:80",
    ] {
        silent(&check(["-u", address, "cat"]).inside(&namespace).end());
        let skd = Skd::new(["-u", address, "-vv"])
            .inside(&namespace)
            .start("cat");
        skd.wait_for_log("Listening on");
    }
}

// Limits.

#[test]
fn as_many_handlers_as_pass_without_a_note_can_run() {
    // With a soft limit that a start raises.
    let limited = |options: &[&str]| {
        let skd = Skd::new(["-t", "127.0.0.1:0", "--threads", "1"]).args(options);
        skd.limit(Resource::RLIMIT_NOFILE, 50, 100)
    };
    let note = limited(&["--check", "-c", "100", "cat"]).end();
    one_note(&note, &["--max-clients 100", "100 open files"]);
    let room = note.stderr.split("room for ").nth(1).unwrap();
    let room = room.split(' ').next().unwrap().to_owned();
    silent(&limited(&["--check", "-c", &room, "cat"]).end());
    let number: usize = room.parse().unwrap();
    assert!((60..100).contains(&number), "{number}");
    let skd = limited(&["-c", &room]).run("cat");
    let clients: Vec<_> = (0..number).map(|_| skd.connect()).collect();
    skd.wait_for_children(number);
    assert!(skd.log_lines().is_empty(), "{:?}", skd.log_lines());
    drop(clients);
    // Two descriptors each, and a quarter of all for lingering connections.
    let lingering = ["--check", "--linger", "1s", "-c", &room, "cat"];
    let note = limited(&lingering).end();
    let half = note.stderr.split("room for ").nth(1).unwrap();
    let half: usize = half.split(' ').next().unwrap().parse().unwrap();
    assert!((15..number / 2).contains(&half), "{half}");
    let room = half.to_string();
    let skd = limited(&["--linger", "1s", "-c", &room]).run("cat");
    let clients: Vec<_> = (0..half).map(|_| skd.connect()).collect();
    skd.wait_for_children(half);
    assert!(skd.log_lines().is_empty(), "{:?}", skd.log_lines());
    drop(clients);
}

#[test]
fn limits_of_the_user_and_of_the_kernel_are_noted() {
    requires_root();
    let output = check(["-t", "0", "-c", "2147483647", "cat"]).end();
    output.expect_code(0).expect_stderr(&[
        "open files (ulimit -Hn)",
        "process ids (kernel.pid_max)",
        "(kernel.threads-max)",
    ]);
    // The processes of root are not limited.
    assert!(!output.stderr.contains("ulimit -u"), "{output:#?}");
    for (options, user) in [(&["--user", "nobody"][..], 0), (&[], UID)] {
        let skd = check(["-t", "0", "--threads", "1", "-c", "400"]).args(options);
        let skd = skd.limit(Resource::RLIMIT_NPROC, 400, 500);
        let skd = if user == 0 {
            skd
        } else {
            skd.user(user, GID, [GID])
        };
        one_note(&skd.arg("cat").end(), &["400 processes of that user"]);
    }
    let namespace = Namespace::new();
    namespace.sysctl("net.core.somaxconn", "100");
    let checked = |backlog| check(["-t0", "-b", backlog, "-u0", "cat"]).inside(&namespace);
    one_note(&checked("101").end(), &["--backlog 101", "makes it 100"]);
    silent(&checked("100").end());
}

#[test]
fn a_log_is_checked_with_the_rights_of_its_writer() {
    requires_root();
    let directory = Directory::public();
    directory.write("log", "");
    let log = format!(">>{}", directory.name("log"));
    let checked = |user: &str| check(["--user", user, "-t", "0", "-L", &log, "cat"]).end();
    // Root's and that user's.
    silent(&checked("nobody"));
    std::os::unix::fs::chown(directory.join("log"), Some(UID), Some(GID)).unwrap();
    directory.chmod("log", 0o600);
    silent(&checked(&format!("{UID}:{GID}")));
    // Root could open it in spite of its mode; skd doesn't.
    let output = checked("nobody");
    output
        .expect_code(1)
        .expect_stderr(&["--log", "Permission denied"]);
}

#[test]
fn a_missing_program_is_noted_without_the_rights_to_become_a_user() {
    requires_root();
    let words = ["--user", "nobody", "-t", "0", "no-such-program"];
    let output = check(words).user(UID, GID, [GID]).end();
    output.expect_code(1);
    let lines = lines(&output);
    assert_eq!(lines.len(), 2, "{output:#?}");
    assert!(lines[0].contains("CAP_SETUID"), "{output:#?}");
    let note = lines[1].starts_with("skd: note: ") && lines[1].contains("no-such-program");
    assert!(note, "{output:#?}");
}

// Nothing is changed.

/// The metadata of all files in a directory.
fn state(directory: &Directory) -> BTreeMap<String, Vec<i64>> {
    let of = |name: &String| {
        let it = fs::symlink_metadata(directory.join(name)).unwrap();
        let times = [it.mtime_nsec(), it.ctime(), it.ctime_nsec(), it.mtime()];
        let ids = [
            it.ino() as i64,
            it.mode().into(),
            it.size() as i64,
            it.uid().into(),
        ];
        [times, ids].concat()
    };
    let names = directory.names().into_iter().chain([String::new()]);
    names.map(|name| (name.clone(), of(&name))).collect()
}

#[test]
fn nothing_is_changed_and_nothing_bound() {
    requires_root();
    requires_command("strace");
    let directory = Directory::public();
    let name = |name: &str| directory.name(name);
    directory.write("pid", "1\n");
    directory.write("log", "kept\n");
    leave_stale(name("stale"));
    let _live = UnixListener::bind(name("live")).unwrap();
    let own = Directory::new();
    let trace = own.name("trace");
    let before = state(&directory);
    let calls = "trace=%file,bind,listen,flock,fchmod,fchown,ftruncate,umask,kill,symlink,write";
    for (words, code) in [
        (
            &["-P", &name("pid"), "-L", &format!(">{}", name("log"))][..],
            0,
        ),
        (
            &["-P", &name("new"), "-L", &format!(">{}", name("other"))],
            0,
        ),
        (
            &[
                "-l",
                &name("stale"),
                "-l",
                &name("live"),
                "-l",
                &name("third"),
            ],
            0,
        ),
        (
            &[
                "-l",
                "@abstract",
                "-t",
                "0",
                "-u",
                "0",
                "--unix-mode",
                "600",
            ],
            2,
        ),
        (&["-B", "-t", "0", "-U", "-L", "tag", "-P", &name("new")], 0),
    ] {
        let skd = check(words.iter().copied()).arg("cat");
        let skd = skd.env("UID", UID.to_string()).env("GID", GID.to_string());
        let skd = skd.env_remove("ROOT");
        let skd = skd.wrapper(["strace", "-f", "-qq", "-o", &trace, "-e", calls]);
        skd.end().expect_code(code);
        assert_eq!(state(&directory), before, "{words:?}");
        let calls = own.read("trace");
        assert!(calls.contains("faccessat"), "{calls}");
        for call in calls.lines() {
            let call = call.split_once(' ').unwrap().1.trim();
            let harmless = !["O_CREAT", "O_TRUNC", "O_RDWR", "O_WRONLY"]
                .iter()
                .any(|flag| call.contains(flag))
                // To ask for interfaces.
                || call.contains("AF_NETLINK");
            let kind = call.split('(').next().unwrap();
            let asks = [
                "access",
                "faccessat",
                "faccessat2",
                "stat",
                "lstat",
                "newfstatat",
                "statx",
                "readlink",
                "readlinkat",
                "open",
                "openat",
                "execve",
                "getcwd",
                "chdir",
                "statfs",
            ];
            let says = kind == "write" && call.starts_with("write(2,");
            let netlink = kind == "bind" && call.contains("AF_NETLINK");
            let ended = call.starts_with("+++") || call.starts_with("---");
            assert!(
                harmless && asks.contains(&kind) || says || netlink || ended,
                "{words:?}: {call}"
            );
        }
    }
}
