//! The surroundings of a handler: directory, umask, nice value, limits, privileges.

use crate::harness::{
    Directory, Running, Skd, Stream, ask_udp, connect, copy_program, echo, limit, requires_command,
    requires_root, stat_field, status_field, talk,
};
use nix::sys::resource::Resource;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;

/// A connection and its handler, which is `cat`.
fn handler(skd: &Running) -> (TcpStream, i32) {
    let mut stream = skd.connect();
    echo(&mut stream, b".");
    let handler = skd.wait_for_children(1)[0];
    (stream, handler)
}

fn cwd(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/cwd")).unwrap()
}

fn nice(pid: i32) -> i32 {
    stat_field(pid, 19).unwrap().parse().unwrap()
}

/// The nice value of the tests, which may have been started with another than 0.
fn own_nice() -> i32 {
    nice(i32::try_from(std::process::id()).unwrap())
}

/// All at once, as options.
const ALL: [&str; 11] = [
    "--chdir",
    "/usr",
    "--umask",
    "0027",
    "--nice",
    "7",
    "--limit",
    "core=5120:10240",
    "--env",
    "A=b",
    "--no-new-privs",
];

/// A line of shell that prints all of them, and its output.
const SHOW: &str =
    "pwd; umask; nice; ulimit -Sc; ulimit -Hc; echo $A; grep NoNewPrivs /proc/self/status";
const SHOWN: &str = "/usr\n0027\n7\n10\n20\nb\nNoNewPrivs:\t1\n";

#[test]
fn all_options_apply_to_connections_datagrams_and_programs_without_a_socket() {
    requires_command("perl");
    let directory = Directory::new();
    let skd = Skd::new(ALL)
        .args(["-t", "127.0.0.1:0", "-l", &directory.name("s")])
        .run_with("sh", ["-c", SHOW]);
    assert_eq!(String::from_utf8(talk(skd.connect(), b"")).unwrap(), SHOWN);
    assert_eq!(
        String::from_utf8(talk(skd.connect_unix(), b"")).unwrap(),
        SHOWN
    );

    let script = "my $from = recv(STDIN, my $bytes, 9, 0); send(STDOUT, `$ARGV[0]`, 0, $from)";
    let line = format!("true; {SHOW}");
    let skd = Skd::new(ALL)
        .args(["-u", "127.0.0.1:0"])
        .run_with("perl", ["-e", script, &line]);
    assert_eq!(
        String::from_utf8(ask_udp(skd.address(), b"?")).unwrap(),
        SHOWN
    );

    let output = Skd::new(ALL).args(["sh", "-c", SHOW]).end();
    assert_eq!(output.stdout, SHOWN);

    let skd = Skd::new(ALL)
        .arg("-S")
        .start_with("sh", ["-c", &format!("{SHOW}; exec sleep 1000")]);
    skd.wait_for_line("the last line", |line| line.text.starts_with("NoNewPrivs"));
    assert_eq!(skd.stdout_lines().join("\n") + "\n", SHOWN);
}

#[test]
fn no_option_applies_to_skd_itself() {
    let skd = Skd::new(ALL)
        .args(["-t", "127.0.0.1:0"])
        .umask(0o22)
        .run("cat");
    let (_stream, handler) = handler(&skd);
    assert_eq!(cwd(handler), PathBuf::from("/usr"));
    assert_ne!(cwd(skd.pid()), cwd(handler));
    assert_eq!((nice(skd.pid()), nice(handler)), (own_nice(), 7));
    assert_eq!(status_field(skd.pid(), "Umask").as_deref(), Some("0022"));
    assert_eq!(status_field(skd.pid(), "NoNewPrivs").as_deref(), Some("0"));
    assert_ne!(
        limit(skd.pid(), "Max core file size"),
        limit(handler, "Max core file size")
    );
}

#[test]
fn without_options_a_handler_inherits_from_skd() {
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .umask(0o13)
        .limit(Resource::RLIMIT_CORE, 1234, 5678)
        .wrapper(["nice", "-n", "3"])
        .run("cat");
    let (_stream, handler) = handler(&skd);
    assert_eq!(cwd(handler), cwd(skd.pid()));
    assert_eq!(nice(handler), (own_nice() + 3).min(19));
    assert_eq!(status_field(handler, "Umask").as_deref(), Some("0013"));
    assert_eq!(
        limit(handler, "Max core file size"),
        Some(("1234".into(), "5678".into()))
    );
    assert_eq!(status_field(handler, "NoNewPrivs").as_deref(), Some("0"));
}

#[test]
fn every_limit_has_its_name_and_units() {
    let gib: u64 = 1 << 30;
    let of = |number: u64| number.to_string();
    for (value, name, soft, hard) in [
        ("as=8G:16G", "Max address space", of(8 * gib), of(16 * gib)),
        (
            "core=0:unlimited",
            "Max core file size",
            of(0),
            "unlimited".into(),
        ),
        ("cpu=100:200", "Max cpu time", of(100), of(200)),
        ("data=2G:3G", "Max data size", of(2 * gib), of(3 * gib)),
        ("fsize=5M", "Max file size", of(5 << 20), of(5 << 20)),
        ("locks=11:12", "Max file locks", of(11), of(12)),
        ("memlock=16K:32K", "Max locked memory", of(16384), of(32768)),
        ("msgqueue=1000", "Max msgqueue size", of(1000), of(1000)),
        ("nofile=50:60", "Max open files", of(50), of(60)),
        ("nproc=5000:6000", "Max processes", of(5000), of(6000)),
        ("rss=1T", "Max resident set", of(1 << 40), of(1 << 40)),
        (
            "rttime=1000000:unlimited",
            "Max realtime timeout",
            of(1_000_000),
            "unlimited".into(),
        ),
        (
            "sigpending=100:200",
            "Max pending signals",
            of(100),
            of(200),
        ),
        (
            "stack=1M:unlimited",
            "Max stack size",
            of(1 << 20),
            "unlimited".into(),
        ),
    ] {
        let skd = Skd::new(["--limit", value, "-t", "127.0.0.1:0"]).run("cat");
        let (_stream, handler) = handler(&skd);
        assert_eq!(limit(handler, name), Some((soft, hard)), "{value}");
    }
}

#[test]
fn a_limit_that_only_root_may_raise_is_named() {
    requires_root();
    for limit in ["nice=3:5", "rtprio=1:2"] {
        let skd = Skd::new(["--limit", limit, "-t", "127.0.0.1:0", "cat"]);
        let skd = skd
            .limit(Resource::RLIMIT_NICE, 0, 0)
            .limit(Resource::RLIMIT_RTPRIO, 0, 0);
        let output = skd.user(65534, 65534, []).end();
        let text = format!("the limit {limit} can't be set: Operation not permitted");
        output.expect_refusal(1, &[&text]);
    }
}

#[test]
fn a_limit_of_open_files_overrides_that_of_skd() {
    let skd = Skd::new(["--limit", "nofile=40:50", "-t", "127.0.0.1:0"])
        .limit(Resource::RLIMIT_NOFILE, 300, 400)
        .run("cat");
    let (_stream, handler) = handler(&skd);
    assert_eq!(
        limit(handler, "Max open files"),
        Some(("40".into(), "50".into()))
    );
    assert_eq!(
        limit(skd.pid(), "Max open files"),
        Some(("400".into(), "400".into()))
    );
}

#[test]
fn a_limit_applies_to_the_handler() {
    // A program with no more than this many descriptors, its three among them.
    let skd = Skd::new(["--limit", "nofile=4", "-t", "127.0.0.1:0"]).run_with(
        "bash",
        [
            "-c",
            "exec 3</dev/null && echo three; exec 4</dev/null && echo four",
        ],
    );
    assert_eq!(talk(skd.connect(), b""), b"three\n");
}

#[test]
fn a_nice_value_is_absolute() {
    requires_root();
    for (option, expected) in [("--nice=5", 5), ("--nice=-5", -5), ("--nice=0", 0)] {
        let skd = Skd::new([option, "-t", "127.0.0.1:0"])
            .wrapper(["nice", "-n", "3"])
            .run("cat");
        let (_stream, handler) = handler(&skd);
        let of_skd = (own_nice() + 3).min(19);
        assert_eq!((nice(skd.pid()), nice(handler)), (of_skd, expected));
    }
}

#[test]
fn a_relative_program_is_looked_up_where_it_will_run() {
    let directory = Directory::new();
    directory.script("handler", "#!/bin/sh\necho $0 in $PWD\n");
    let there = fs::canonicalize(directory.path()).unwrap();
    let expected = format!("./handler in {}\n", there.display());
    let skd = Skd::new(["--chdir"])
        .arg(directory.path())
        .args(["-t", "127.0.0.1:0"])
        .cwd("/")
        .run("./handler");
    assert_eq!(
        String::from_utf8(talk(skd.connect(), b"")).unwrap(),
        expected
    );
    // And not in the directory of skd.
    Skd::new(["--chdir", "/", "-t", "127.0.0.1:0", "./handler"])
        .cwd(directory.path())
        .end()
        .expect_refusal(127, &["'./handler'"]);
    // A relative directory in PATH is another matter, but is relative to the same directory.
    let skd = Skd::new(["--chdir"])
        .arg(directory.path())
        .args(["--env", "PATH=.", "-t", "127.0.0.1:0"])
        .cwd("/")
        .run("handler");
    assert_eq!(
        String::from_utf8(talk(skd.connect(), b"")).unwrap(),
        expected
    );
}

#[test]
fn a_relative_program_whose_interpreter_disappears_names_it() {
    let directory = Directory::new();
    let interpreter = directory.script("interpreter", "#!/bin/sh\nexec cat\n");
    directory.script("handler", &format!("#!{}\n", interpreter.display()));
    let skd = Skd::new(["--chdir"])
        .arg(directory.path())
        .args(["-t", "127.0.0.1:0"])
        .cwd("/")
        .run("./handler");
    assert_eq!(talk(skd.connect(), b"1"), b"1");
    fs::remove_file(&interpreter).unwrap();
    assert_eq!(talk(skd.connect(), b""), b"");
    let expected = format!(
        "skd: './handler' can't be run: its interpreter {} doesn't exist",
        interpreter.display()
    );
    assert_eq!(skd.wait_for_log("skd: "), expected);
}

#[test]
fn a_relative_directory_is_relative_to_that_of_skd() {
    let directory = Directory::new();
    fs::create_dir(directory.join("inside")).unwrap();
    let skd = Skd::new(["--chdir", "inside", "-l", "socket"])
        .cwd(directory.path())
        .start_with("sh", ["-c", "pwd"]);
    skd.wait_until("it serves", || {
        directory.join("socket").exists()
            && crate::harness::sockets(skd.pid())
                .iter()
                .any(|it| it.listening)
    });
    let there = fs::canonicalize(directory.join("inside")).unwrap();
    let shown = talk(crate::harness::connect_unix(directory.join("socket")), b"");
    assert_eq!(
        String::from_utf8(shown).unwrap(),
        format!("{}\n", there.display())
    );
    assert!(!directory.join("inside/socket").exists());
}

#[test]
fn no_new_privileges_takes_effect() {
    requires_root();
    let directory = Directory::public();
    // A copy of id(1) that belongs to root and is set-user-ID.
    let id = directory.script("id", "");
    copy_program("/usr/bin/id", &id);
    directory.chmod("id", 0o4755);
    for (option, expected) in [("-v", "0\n"), ("--no-new-privs", "65534\n")] {
        let skd = Skd::new([option, "-t", "127.0.0.1:0"])
            .user(65534, 65534, [])
            .run_with(&id, ["-u"]);
        assert_eq!(
            String::from_utf8(talk(skd.connect(), b"")).unwrap(),
            expected,
            "{option}"
        );
    }
}

#[test]
fn surroundings_that_cannot_be_set_fail_the_start_and_name_the_step() {
    requires_root();
    let directory = Directory::public();
    let file = directory.write("file", "");
    fs::create_dir(directory.join("closed")).unwrap();
    directory.chmod("closed", 0o700);
    let (closed, file) = (directory.name("closed"), file.to_str().unwrap().to_owned());
    let socket = "127.0.0.1:0";
    for listener in [&["-t", socket][..], &["-u", socket], &[]] {
        for (options, parts) in [
            (
                ["--chdir", "/nonexistent"],
                ["--chdir /nonexistent", "No such file or directory"],
            ),
            (["--chdir", &file], ["--chdir", "Not a directory"]),
            (["--chdir", &closed], ["--chdir", "Permission denied"]),
            (["--nice", "-5"], ["--nice -5", "Permission denied"]),
            (
                ["--limit", "nofile=10:1000"],
                ["limit nofile=10:1000", "Operation not permitted"],
            ),
        ] {
            let output = Skd::new(listener)
                .args(options)
                .arg("/bin/cat")
                .user(65534, 65534, [])
                .limit(Resource::RLIMIT_NOFILE, 400, 500)
                .end();
            // Without a listener, skd has become the program by then.
            output.expect_refusal(1, &["'/bin/cat' can't be run", parts[0], parts[1]]);
        }
    }
}

#[test]
fn surroundings_that_cannot_be_set_later_close_the_connection_and_are_logged() {
    let directory = Directory::new();
    fs::create_dir(directory.join("home")).unwrap();
    let skd = Skd::new(["--chdir", &directory.name("home"), "-t", "127.0.0.1:0"]).run("cat");
    assert_eq!(talk(skd.connect(), b"1"), b"1");
    fs::rename(directory.join("home"), directory.join("away")).unwrap();
    assert_eq!(talk(skd.connect(), b""), b"");
    let line = skd.wait_for_log("skd: ");
    let expected = format!(
        "skd: 'cat' can't be run: --chdir {} can't be entered: No such file or directory",
        directory.name("home")
    );
    assert_eq!(line, expected);
    fs::rename(directory.join("away"), directory.join("home")).unwrap();
    assert_eq!(talk(connect(skd.address()), b"2"), b"2");
}

#[test]
fn the_rehearsal_of_the_steps_leaves_no_trace() {
    // The attempt before the first connection is no handler.
    let directory = Directory::new();
    let script = directory.script("handler", "#!/bin/sh\necho ran >&2\nexec cat\n");
    let skd = Skd::new(["--chdir", "/", "-t", "127.0.0.1:0"])
        .stdin(Stream::Null)
        .run(&script);
    assert_eq!(talk(skd.connect(), b"1"), b"1");
    assert_eq!(skd.logged("ran").len(), 1);
    assert!(skd.children().is_empty() || skd.wait_for_children(0).is_empty());
}
