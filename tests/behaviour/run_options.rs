//! Options of programs for every way of running: variables from files and the inherited ones, the program's own name,
//! the service's name, and a total of handlers.

use crate::harness::{
    DEADLINE, Directory, Running, Skd, ask, assert_idle, datagram_echo, echo, exists, poll_for,
    receive, requires_command, run_to_end, send_unix_datagram, sockets, talk, try_talk, udp_client,
    wait_for, wait_for_text,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Each way of running a program, by its options, and what has it run.
const WAYS: [Way; 9] = [
    (&[], |_| {}),
    (&["-S"], |_| {}),
    (&["-S", "-t", "127.0.0.1:0"], |_| {}),
    (&["-t", "127.0.0.1:0"], connect),
    (&["-t", "127.0.0.1:0", "--wait"], arrive),
    (&["-t", "127.0.0.1:0", "--warm", "2"], connect),
    (&["-t", "127.0.0.1:0", "--fork-server"], connect),
    (&["-u", "127.0.0.1:0", "--datagram-mode", "per-peer"], send),
    (
        &["-u", "127.0.0.1:0", "--datagram-mode", "per-packet"],
        send,
    ),
];

type Way = (&'static [&'static str], fn(&Running));

fn connect(skd: &Running) {
    let _ = try_talk(skd.connect(), b"");
}

/// For a handler that doesn't accept.
fn arrive(skd: &Running) {
    drop(skd.connect());
}

fn send(skd: &Running) {
    udp_client(skd.address()).send(b"?").unwrap();
}

/// Runs a line of shell in each way, with the words that `prog` makes of it, and returns what it has written to FILE.
fn in_each_way(
    options: &[&str],
    line: &str,
    prog: impl Fn(&Directory, String) -> Vec<String>,
    set: impl Fn(Skd) -> Skd,
    check: impl Fn(&[&str], &str),
) {
    for (way, trigger) in WAYS {
        let directory = Directory::new();
        let out = directory.name("out");
        // Once, although -S and wait mode run it again.
        let line = line.replace("FILE", &format!("{out}.new"));
        let line =
            format!("[ -e {out} ] || {{ {line}; echo end >>{out}.new; mv {out}.new {out}; }}");
        let words = prog(&directory, line);
        let skd = set(Skd::new(way).args(options));
        let skd = match way.iter().any(|word| word.contains(":0")) {
            true => skd.run_with(&words[0], &words[1..]),
            false => skd.start_with(&words[0], &words[1..]),
        };
        trigger(&skd);
        let text = wait_for_text(&out, "end\n");
        check(way, text.strip_suffix("end\n").unwrap());
    }
}

fn shell(_: &Directory, line: String) -> Vec<String> {
    vec!["sh".into(), "-c".into(), line]
}

/// The variables that a program has got from skd's caller, and by options.
fn variables(text: &str) -> BTreeMap<&str, &str> {
    let of_skd = ["PROTO", "TCP", "UDP", "REMOTE_", "LISTEN_", "SKD_TEST"];
    let all = text.lines().filter_map(|line| line.split_once('='));
    all.filter(|(name, _)| !of_skd.iter().any(|of_skd| name.starts_with(of_skd)))
        .collect()
}

const SHOW: &str = "tr '\\0' '\\n' </proc/$$/environ >FILE";

#[test]
fn variables_of_files_come_before_those_of_options() {
    let directory = Directory::new();
    directory.write("one", "# Two.\nA=1\nB='2 2'\nC=\"3\"\n");
    directory.write("two", "B=two\nD=4");
    let (one, two) = (directory.name("one"), directory.name("two"));
    let missing = format!("--env-file=-{}", directory.name("missing"));
    let options = [
        "--env",
        "C=option",
        "--env-file",
        &one,
        &missing,
        "--env-file",
        &two,
        "--env",
        "A",
        "--clear-env",
        "--pass-env",
        "PASSED",
        "--pass-env",
        "MISSING",
    ];
    let set = |skd: Skd| skd.env("PASSED", "p").env("OTHER", "o").env("D", "d");
    in_each_way(&options, SHOW, shell, set, |way, text| {
        let expected = [("B", "two"), ("C", "option"), ("D", "4"), ("PASSED", "p")];
        assert_eq!(variables(text), BTreeMap::from(expected), "{way:?}");
    });
}

#[test]
fn a_program_inherits_all_variables_or_none() {
    let set = |skd: Skd| skd.env("OTHER", "o");
    in_each_way(&[], SHOW, shell, set, |way, text| {
        let found = variables(text);
        assert_eq!(found["OTHER"], "o", "{way:?}");
        assert!(found.contains_key("PATH"), "{way:?}");
    });
    in_each_way(&["--clear-env"], SHOW, shell, set, |way, text| {
        assert_eq!(variables(text), BTreeMap::new(), "{way:?}");
        // What skd itself says of the client stays.
        if way.first() == Some(&"-t") {
            assert!(text.contains("PROTO=TCP\n"), "{way:?} {text}");
        }
    });
}

#[test]
fn without_path_the_program_is_looked_for_where_the_system_has_it() {
    let directory = Directory::new();
    directory.script("own-program", "#!/bin/sh\necho own\n");
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let cleared = Skd::new(["--clear-env", "own-program"]).env("PATH", &path);
    cleared
        .end()
        .expect_refusal(127, &["no such program in PATH (/bin:/usr/bin)"]);
    for option in [["--pass-env", "PATH"], ["--env", &format!("PATH={path}")]] {
        let skd = Skd::new(["--clear-env"]).args(option);
        let output = skd.arg("own-program").env("PATH", &path).end();
        assert_eq!(output.stdout, "own\n");
    }
}

#[test]
fn files_that_cannot_be_read_are_refused_with_file_and_line() {
    let directory = Directory::new();
    let file = |name: &str, text: &[u8]| {
        directory.write(name, text);
        directory.name(name)
    };
    let fifo = directory.name("fifo");
    mkfifo(Path::new(&fifo), Mode::from_bits_truncate(0o600)).unwrap();
    let large = file("large", &b"#".repeat((1 << 20) + 1));
    let missing = directory.name("missing");
    let below = format!("{}/x", file("plain", b""));
    for (option, line, why) in [
        (&missing, 0, "there is no such file; write --env-file -/"),
        (&below, 0, "there is no such file"),
        (&directory.name(""), 0, "it isn't a regular file"),
        (&fifo, 0, "it isn't a regular file"),
        (&format!("-{fifo}"), 0, "it isn't a regular file"),
        (&"/dev/zero".into(), 0, "it isn't a regular file"),
        (&large, 0, "it is larger than 1 MiB"),
        (
            &file("export", b"A=1\n\nexport B=1\n"),
            3,
            "leave out export",
        ),
        (
            &file("digit", b"1A=1\n"),
            1,
            "\"1A\" isn't the name of a variable",
        ),
        (&file("odd", b"\x1b[2J\xff=1\n"), 1, "\"\\x1b[2J"),
        (&file("nul", b"A='\n\0'\n"), 1, "contains a NUL byte"),
        (&file("latin", b"\nA=\xe9\n"), 2, "isn't UTF-8"),
        (
            &file("own", b"A=1\nTCPREMOTEIP=1\n"),
            2,
            "skd sets or removes",
        ),
    ] {
        let path = option.trim_start_matches('-');
        let location = match line {
            0 => format!("--env-file {path}: "),
            line => format!("--env-file {path}:{line}: "),
        };
        let output = run_to_end(["-t", "0", "--env-file", option, "cat"]);
        output.expect_refusal(2, &[&location, why]);
    }
    let public = file("public", b"A=1\n");
    directory.chmod("public", 0o666);
    run_to_end(["--env-file", &public, "cat"]).expect_refusal(2, &["every user can write to it"]);
    run_to_end(["--env-file", "", "cat"]).expect_refusal(2, &["the path is empty"]);
    run_to_end(["--env-file", "-", "cat"]).expect_refusal(2, &["the path is empty"]);
    // Without a listener skd sets no variables.
    let own = directory.name("own");
    let output = run_to_end(["--env-file", &own, "sh", "-c", "echo $TCPREMOTEIP"]);
    assert_eq!(output.stdout, "1\n");
    // All of them.
    let both = file("both", b"1=\nA=\n2=\n");
    let output = run_to_end(["--check", "--env-file", &both, "cat"]);
    output
        .expect_code(2)
        .expect_stderr(&["both:1: \"1\" isn't", "both:3: \"2\" isn't"]);
    let many = file("many", &b"1=\n".repeat(1000));
    let output = run_to_end(["--check", "--env-file", &many, "cat"]);
    assert_eq!(output.expect_code(2).stderr.lines().count(), 10);
}

#[test]
fn a_file_as_large_as_allowed_is_read() {
    let directory = Directory::new();
    let mut text = b"A=1\n#".to_vec();
    text.resize(1 << 20, b'x');
    directory.write("file", text);
    let file = directory.name("file");
    let output = run_to_end(["--env-file", &file, "sh", "-c", "echo $A"]);
    assert_eq!(output.stdout, "1\n");
}

#[test]
fn a_variable_is_no_longer_than_a_program_can_have() {
    let directory = Directory::new();
    // With the name, the sign and the byte at the end: what execve(2) takes at most.
    for (length, code) in [(131_069, 0), (131_070, 2)] {
        directory.write("file", format!("A={}\n", "x".repeat(length)));
        let output = run_to_end(["--env-file", &directory.name("file"), "true"]);
        assert_eq!(output.code(), Some(code), "{}", output.stderr);
        if code > 0 {
            output.expect_stderr(&["file:1: A and its value are longer than the 128 KiB"]);
        }
    }
}

/// Upgrades to the same binary.
fn upgrade(skd: &Running) {
    let told = || skd.logged("pgrade");
    let before = told().len();
    skd.signal(Signal::SIGUSR2);
    let line = poll_for(3 * DEADLINE, || told().into_iter().nth(before));
    let line = line.unwrap_or_else(|| panic!("{:#?}", skd.log_lines()));
    assert!(line.starts_with("Upgraded from"), "{line}");
}

#[test]
fn an_upgrade_keeps_what_was_read() {
    let directory = Directory::new();
    let path = directory.write("file", "A=old\n");
    let skd = Skd::new(["-vt", "127.0.0.1:0", "--name", "a-name", "--env-file"])
        .arg(&path)
        .args(["--argv0=-other"])
        .run_with("sh", ["-c", "echo $A $0"]);
    fs::write(&path, "A=new\n").unwrap();
    assert_eq!(talk(skd.connect(), b""), b"old -other\n");
    upgrade(&skd);
    assert_eq!(talk(skd.connect(), b""), b"old -other\n");
    fs::remove_file(&path).unwrap();
    upgrade(&skd);
    assert_eq!(talk(skd.connect(), b""), b"old -other\n");
}

#[test]
fn a_program_runs_under_another_name() {
    let set = |skd: Skd| skd;
    in_each_way(
        &["--argv0", "-sh"],
        "echo $0 >FILE",
        shell,
        set,
        |way, text| {
            assert_eq!(text, "-sh\n", "{way:?}");
        },
    );
    // A script has its own path, as execve(2) says.
    let script = |directory: &Directory, line: String| {
        directory.script("script", &format!("#!/bin/sh\n{line}\n"));
        vec![directory.name("script")]
    };
    in_each_way(
        &["--argv0", "x"],
        "echo $0 >FILE",
        script,
        set,
        |way, text| {
            assert!(text.ends_with("/script\n"), "{way:?}: {text}");
        },
    );
    // So has a file that the kernel leaves to the shell.
    let plain = |directory: &Directory, line: String| {
        directory.script("plain", &line);
        vec![directory.name("plain"), "one".into()]
    };
    in_each_way(
        &["--argv0", "x"],
        "echo $0 $1 >FILE",
        plain,
        set,
        |way, text| {
            assert!(text.ends_with("/plain one\n"), "{way:?}: {text}");
        },
    );
}

#[test]
fn a_shell_with_a_hyphen_is_a_login_shell() {
    let directory = Directory::new();
    directory.write(".profile", "echo profile\n");
    let skd = Skd::new(["--argv0", "-sh", "-t", "127.0.0.1:0"])
        .env("HOME", directory.path())
        .run("sh");
    assert_eq!(
        talk(skd.connect(), b"echo command\n"),
        b"profile\ncommand\n"
    );
}

#[test]
fn messages_have_the_name_by_which_the_program_was_looked_for() {
    let output = run_to_end(["--argv0", "other", "no-such-program"]);
    output.expect_refusal(127, &["'no-such-program' can't be run"]);
    run_to_end(["--argv0", "", "cat"]).expect_refusal(2, &["for --argv0: it is empty"]);
}

#[test]
fn a_name_is_one_word() {
    let long = "x".repeat(65);
    for name in ["", "a b", "a\tb", "a\nb", "a\u{a0}b", "\x1b", &long] {
        let output = run_to_end(["--name", name, "cat"]);
        let why = "for --name: it takes 1 to 64 bytes of UTF-8, without blanks and control";
        assert_eq!(output.code(), Some(2), "{name:?}");
        output.expect_stderr(&[why]);
    }
    run_to_end(["--check", "--name", &long[1..], "true"]).expect_code(0);
}

#[test]
fn options_without_use_are_refused() {
    for (words, why) in [
        (
            &["--once", "cat"][..],
            "--once has no use without a listener",
        ),
        (
            &["--max-total", "2", "cat"],
            "--max-total has no use without a listener",
        ),
        (
            &["-S", "--once", "cat"],
            "--once can't be used with --supervise",
        ),
        (
            &["-S", "-t", "0", "--max-total", "2", "cat"],
            "--max-total can't be used with --supervise",
        ),
        (
            &["-t", "0", "--once", "--max-total", "1", "cat"],
            "--once can't be used with --max-total",
        ),
        (
            &["-t", "0", "--max-total", "0", "cat"],
            "a decimal number from 1",
        ),
        (
            &["-t", "0", "--max-total", "x", "cat"],
            "a decimal number from 1",
        ),
        (
            &["--pass-env", "A", "cat"],
            "--pass-env has no use without --clear-env",
        ),
        (
            &["--clear-env", "--pass-env", "A=1", "cat"],
            "for --pass-env: it takes the NAME of a variable",
        ),
        (
            &["--clear-env", "--pass-env", "", "cat"],
            "for --pass-env: it takes the NAME of a variable",
        ),
        (
            &["-t", "0", "--clear-env", "--pass-env", "PROTO", "cat"],
            "skd sets or removes",
        ),
    ] {
        run_to_end(words).expect_refusal(2, &[why]);
    }
}

fn is_refused(connected: Result<TcpStream, std::io::Error>) -> bool {
    connected.is_err_and(|reason| reason.kind() == ErrorKind::ConnectionRefused)
}

fn listens(skd: &Running) -> bool {
    sockets(skd.pid()).iter().any(|socket| socket.is_open())
}

/// Waits until skd has closed its listeners.
fn wait_closed(skd: &Running) {
    skd.wait_until("the listeners are closed", || !listens(skd));
}

#[test]
fn skd_ends_when_the_only_client_has_gone() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let pidfile = directory.name("pid");
    let skd = Skd::new([
        "--once",
        "-v",
        "-t",
        "127.0.0.1:0",
        "-l",
        &path,
        "-P",
        &pidfile,
    ])
    .run_with("sh", ["-c", "cat; exit 7"]);
    let mut client = skd.connect();
    echo(&mut client, b"served");
    wait_closed(&skd);
    assert!(is_refused(TcpStream::connect(skd.address())));
    assert!(!Path::new(&path).exists());
    echo(&mut client, b"still served");
    assert_idle(&[skd.pid()]);
    assert_eq!(talk(client, b"the end"), b"the end");
    assert_eq!(skd.wait().code(), Some(0));
    assert_eq!(skd.logged("exited with status 7").len(), 1);
    assert!(!Path::new(&pidfile).exists());
}

/// Has many clients connect at once to a skd that may have 20 handlers, each of which prints a line. As many clients
/// get one, and as many handlers note that they run.
fn flood(options: &[&str], set: impl Fn(Skd) -> Skd) {
    const TOTAL: usize = 20;
    const CLIENTS: usize = 200;
    let directory = Directory::new();
    let log = directory.name("handlers");
    let line = format!("echo $$ >>{log}; echo served; read -r end");
    let skd = set(Skd::new([
        "-t",
        "127.0.0.1:0",
        "--threads",
        "8",
        "--max-total",
        "20",
    ]))
    .args(options)
    .run_with("sh", ["-c", &line]);
    let served = AtomicUsize::new(0);
    let address = skd.address();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                // Others are refused, reset, or closed.
                let Ok(mut client) = TcpStream::connect(address) else {
                    return;
                };
                client.set_read_timeout(Some(DEADLINE)).unwrap();
                let _ = client.write_all(b"\n");
                let mut answer = Vec::new();
                let _ = client.read_to_end(&mut answer);
                if answer == b"served\n" {
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        assert_eq!(skd.wait().code(), Some(0), "{options:?}");
    });
    assert_eq!(served.into_inner(), TOTAL, "{options:?}");
    assert_eq!(
        fs::read_to_string(&log).unwrap().lines().count(),
        TOTAL,
        "{options:?}"
    );
    let faults = skd.troubles().into_iter();
    let faults: Vec<_> = faults.filter(|line| !line.contains("wait")).collect();
    assert_eq!(faults, Vec::<String>::new(), "{options:?}");
}

#[test]
fn exactly_as_many_are_served_under_a_flood() {
    let same = |skd: Skd| skd;
    flood(&[], same);
    flood(&["-c", "3"], same);
    flood(&["-c", "20"], same);
    flood(&["--warm", "4"], same);
    flood(&["--fork-server"], same);
}

#[test]
fn exactly_as_many_are_served_under_a_flood_with_limits() {
    let same = |skd: Skd| skd;
    flood(&["--first-byte", "1m"], same);
    flood(&["--first-byte", "1m", "-c", "3"], same);
    flood(
        &["--max-per-source", "2", "--at-source-max", "queue:1m"],
        same,
    );
    flood(&["--rate", "100/s", "--at-rate", "queue:1m"], same);
}

#[test]
fn those_that_wait_when_the_last_handler_starts_are_closed() {
    let skd = Skd::new(["--once", "-v", "-t", "127.0.0.1:0", "--first-byte", "1h"]).run("cat");
    let silent = [(); 5].map(|()| skd.connect());
    let mut client = skd.connect();
    echo(&mut client, b"served");
    for mut client in silent {
        // They are closed, or reset.
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
    }
    wait_closed(&skd);
    drop(client);
    assert_eq!(skd.wait().code(), Some(0));
    skd.wait_for_log("skd ends");
}

#[test]
fn clients_without_a_handler_do_not_count() {
    let directory = Directory::new();
    let program = directory.script("program", "#!/bin/sh\necho served\n");
    let skd = Skd::new(["--once", "-t", "127.0.0.1:0", "--deny", "127.0.0.2", "-vv"]).run(&program);
    let from = std::net::IpAddr::from([127, 0, 0, 2]);
    let denied = crate::harness::connect_from(from, skd.address());
    assert_eq!(try_talk(denied, b"").unwrap_or_default(), b"");
    fs::rename(&program, directory.join("moved")).unwrap();
    assert_eq!(try_talk(skd.connect(), b"").unwrap_or_default(), b"");
    fs::rename(directory.join("moved"), &program).unwrap();
    assert_eq!(talk(skd.connect(), b""), b"served\n");
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn a_signal_ends_the_wait_for_the_last_handlers() {
    let stubborn = "trap 'echo told' TERM; echo ready; while :; do sleep 0.01; done";
    for (options, status, killed) in [
        (&[][..], 0, false),
        (&["--drain", "0s", "--kill-after", "0s"], 4, true),
    ] {
        let skd = Skd::new(["--once", "-t", "127.0.0.1:0"])
            .args(options)
            .run_with("sh", ["-c", stubborn]);
        let mut client = skd.connect();
        assert_eq!(receive(&mut client, 6), b"ready\n");
        wait_closed(&skd);
        let handler = skd.wait_for_children(1)[0];
        skd.signal(Signal::SIGTERM);
        assert_eq!(skd.wait().code(), Some(status), "{options:?}");
        assert_eq!(exists(handler), !killed, "{options:?}");
        if !killed {
            kill(Pid::from_raw(handler), Signal::SIGKILL).unwrap();
        }
    }
    // The drain has its whole time, although skd was already ending by itself.
    let skd = Skd::new(["-v", "--once", "-t", "127.0.0.1:0", "--drain", "1h"]).run("cat");
    let mut client = skd.connect();
    echo(&mut client, b".");
    wait_closed(&skd);
    skd.signal(Signal::SIGTERM);
    echo(&mut client, b"still served");
    drop(client);
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn the_count_survives_an_upgrade() {
    let skd = Skd::new(["-v", "--max-total", "3", "-t", "127.0.0.1:0"]).run("cat");
    assert_eq!(talk(skd.connect(), b"one"), b"one");
    let mut second = skd.connect();
    echo(&mut second, b"two");
    upgrade(&skd);
    echo(&mut second, b"two");
    upgrade(&skd);
    let mut third = skd.connect();
    echo(&mut third, b"three");
    wait_closed(&skd);
    drop(third);
    echo(&mut second, b"two");
    drop(second);
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn the_count_of_handlers_in_wait_mode_survives_an_upgrade() {
    requires_command("perl");
    let (perl, [e, script]) = datagram_echo();
    let skd = Skd::new(["-v", "--max-total", "2", "-u", "127.0.0.1:0"]).run_with(perl, [e, script]);
    let client = udp_client(skd.address());
    assert_eq!(ask(&client, b"one"), b"one");
    upgrade(&skd);
    assert_eq!(ask(&client, b"two"), b"two");
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn datagrams_have_as_many_handlers() {
    let skd = Skd::new(["--max-total", "5", "-u", "127.0.0.1:0", "--threads", "4"])
        .args(["--datagram-mode", "per-packet"])
        .run_with("tr", ["a-z", "A-Z"]);
    let client = udp_client(skd.address());
    for _ in 0..50 {
        client.send(b"flood").unwrap();
    }
    for _ in 0..5 {
        let mut answer = [0; 9];
        assert_eq!(client.recv(&mut answer).unwrap(), 5);
        assert_eq!(&answer[..5], b"FLOOD");
    }
    assert_eq!(skd.wait().code(), Some(0));
    // A sixth answer would be there by now.
    client.set_nonblocking(true).unwrap();
    let nothing = client.recv(&mut [0; 9]).unwrap_err().kind();
    assert!(matches!(
        nothing,
        ErrorKind::WouldBlock | ErrorKind::ConnectionRefused
    ));
}

#[test]
fn senders_of_datagrams_have_as_many_handlers() {
    let skd = Skd::new(["--max-total", "2", "-u", "127.0.0.1:0"])
        .args(["--datagram-mode", "per-peer"])
        .run("cat");
    let [first, second, third] = [(); 3].map(|()| udp_client(skd.address()));
    assert_eq!(ask(&first, b"first"), b"first");
    assert_eq!(ask(&second, b"second"), b"second");
    third.send(b"third").unwrap();
    assert_eq!(ask(&first, b"again"), b"again");
    let handlers = skd.wait_for_children(2);
    assert_idle(&[skd.pid()]);
    for handler in handlers {
        kill(Pid::from_raw(handler), Signal::SIGTERM).unwrap();
    }
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn a_handler_in_wait_mode_keeps_the_listener() {
    requires_command("perl");
    let take = "accept($c, STDIN) or die $!; syswrite $c, 'served'; close $c;";
    let script = format!("for (1..3) {{ {take} }}");
    let skd = Skd::new(["--once", "--wait", "-t", "127.0.0.1:0"]).run_with("perl", ["-e", &script]);
    assert_eq!(talk(skd.connect(), b""), b"served");
    let handler = skd.wait_for_children(1)[0];
    wait_closed(&skd);
    assert_idle(&[skd.pid()]);
    assert!(exists(handler));
    for _ in 0..2 {
        assert_eq!(talk(skd.connect(), b""), b"served");
    }
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn a_datagram_in_wait_mode_is_served_once() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = Skd::new(["--once", "-d", "-x", &path]).run_with("sh", ["-c", "dd bs=9 count=1"]);
    send_unix_datagram(&path, b"one");
    assert_eq!(skd.wait().code(), Some(0));
    assert_eq!(skd.stdout_lines(), Vec::<String>::new());
    assert!(!Path::new(&path).exists());
}

/// The example with several services, built by the tests of these.
fn several(directory: &Directory, text: &str) -> Running {
    directory.write(
        "services",
        text.replace("DIR", directory.path().to_str().unwrap()),
    );
    let skd = Skd::new([directory.name("services")])
        .binary(crate::services::program())
        .start_bare();
    skd.wait_for_logs("Listening on ", text.lines().count());
    skd
}

#[test]
fn each_service_counts_for_itself() {
    let directory = Directory::new();
    let connect = |name: &str| UnixStream::connect(directory.join(name));
    let served = |name: &str| talk(connect(name).unwrap(), b"served") == b"served";
    let skd = several(
        &directory,
        "first -vv -x DIR/first --once cat\n\
         second -x DIR/second --max-total 4 --first-byte 1m cat\n\
         third -x DIR/third --max-total 3 --warm 2 cat\n",
    );
    let mut client = connect("first").unwrap();
    echo(&mut client, b"first");
    wait_for("the first service is closed", || connect("first").err());
    assert!(served("second") && served("third"));
    upgrade(&skd);
    echo(&mut client, b"first");
    assert!(connect("first").is_err());
    assert!(served("second") && served("third"));
    upgrade(&skd);
    assert!(served("second") && served("third"));
    wait_for("the third service is closed", || connect("third").err());
    skd.wait_for_children(1);
    assert_idle(&[skd.pid()]);
    upgrade(&skd);
    assert!(connect("first").is_err() && connect("third").is_err());
    assert!(served("second"));
    echo(&mut client, b"first");
    drop(client);
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn a_service_that_may_have_more_handlers_by_now_listens_again() {
    let directory = Directory::new();
    let connect = |name: &str| UnixStream::connect(directory.join(name));
    let other = "other -vv -x DIR/other cat\n";
    let skd = several(&directory, &format!("{other}one -x DIR/one --once cat\n"));
    assert_eq!(talk(connect("one").unwrap(), b"one"), b"one");
    wait_for("the service is closed", || connect("one").err());
    let text = format!("{other}one -x DIR/one --max-total 2 cat\n");
    directory.write(
        "services",
        text.replace("DIR", directory.path().to_str().unwrap()),
    );
    upgrade(&skd);
    assert_eq!(talk(connect("one").unwrap(), b"two"), b"two");
    wait_for("the service is closed", || connect("one").err());
    assert_eq!(talk(connect("other").unwrap(), b"other"), b"other");
}

#[test]
fn a_service_of_datagrams_closes_when_its_last_exchange_has_ended() {
    for mode in ["per-peer cat", "per-packet tr a-z A-Z"] {
        let directory = Directory::new();
        let skd = several(
            &directory,
            &format!(
                "datagrams -vv -u 127.0.0.1:0 --once --datagram-mode {mode}\n\
                 other -x DIR/other cat\n"
            ),
        );
        let line = skd.logged("Listening on UDP").remove(0);
        let port = line.rsplit(':').next().unwrap().parse::<u16>().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let client = udp_client(address);
        assert_eq!(ask(&client, b"once").to_ascii_lowercase(), b"once");
        if mode.starts_with("per-peer") {
            assert_eq!(ask(&client, b"again"), b"again");
            assert!(UdpSocket::bind(address).is_err());
            kill(Pid::from_raw(skd.wait_for_children(1)[0]), Signal::SIGTERM).unwrap();
        }
        wait_for("the port is free", || UdpSocket::bind(address).ok());
        assert_idle(&[skd.pid()]);
        let other = || UnixStream::connect(directory.join("other")).unwrap();
        assert_eq!(talk(other(), b"other"), b"other");
        upgrade(&skd);
        assert_eq!(talk(other(), b"other"), b"other");
        assert!(UdpSocket::bind(address).is_ok());
    }
}
