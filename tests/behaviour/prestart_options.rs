//! `--warm` and `--fork-server`: allowed combinations, the environment of a handler, and everything that a daemon
//! without these options does as well.

use crate::harness::{
    DEADLINE, Directory, Instance, MARK, Skd, Way, connect_unix, echo, poll_for, receive,
    requires_command, requires_root, talk, try_talk, wait_out_throttle, wait_until, zombies,
};
use nix::sys::resource::Resource;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MODES: [&[&str]; 2] = [&["--warm", "2"], &["--fork-server"]];

/// Enough clients for some handlers to be prestarted, where that is possible, and some to be started on demand.
const CLIENTS: usize = 8;

/// Asserts that a start and `--check` refuse a command line alike.
#[track_caller]
fn refused(words: &[&str], texts: &[&str]) {
    let start = Skd::new(words).end();
    start.expect_refusal(2, texts);
    let check = Skd::new(["--check"]).args(words).end();
    check.expect_code(2);
    assert_eq!(check.stderr.lines().next(), start.stderr.lines().next());
}

#[test]
fn incompatible_options_are_refused_with_a_reason() {
    for mode in MODES {
        let option = mode[0];
        for (words, text) in [
            (&["cat"][..], "no use without a stream listener"),
            (&["-S", "cat"], "no use without a stream listener"),
            (
                &["-S", "-t", "0", "cat"],
                "no use without a stream listener",
            ),
            (
                &["--wait", "-t", "0", "cat"],
                "no use without a stream listener",
            ),
            (&["-u", "0", "cat"], "no use without a stream listener"),
            (
                &["-d", "-l", "@x", "cat"],
                "no use without a stream listener",
            ),
            (&["-t", "0", "-u", "0", "cat"], "can't be used with --udp 0"),
            (
                &["-t", "0", "-u", "0", "--datagram-mode", "per-packet", "cat"],
                "can't be used with --udp 0",
            ),
            (
                &["-t", "0", "-d", "-l", "@x", "cat"],
                "can't be used with --unix @x",
            ),
            (
                &["-t", "0", "--proxy-protocol", "--proxy-from=::1", "cat"],
                "can't be used with --proxy-protocol",
            ),
        ] {
            refused(&[mode, words].concat(), &[option, text]);
        }
    }
    refused(
        &["--warm=1", "--fork-server", "-t", "0", "cat"],
        &["--warm can't be used with --fork-server"],
    );
}

#[test]
fn values_out_of_range_are_refused() {
    for number in ["0", "4097", "-1", "1k", ""] {
        let option = format!("--warm={number}");
        let texts = ["--warm", "a decimal number from 1 to 4096"];
        refused(&[&option, "-t", "0", "cat"], &texts);
    }
    let age = "--fork-server-max-age";
    for (value, text) in [
        ("0s", "isn't zero"),
        ("5", "duration like"),
        ("", "duration like"),
    ] {
        let option = format!("{age}={value}");
        refused(&["--fork-server", &option, "-t", "0", "cat"], &[age, text]);
    }
    for mode in ["", "strictly", "Start", "start,shared"] {
        let option = format!("--fork-server={mode}");
        let texts = ["--fork-server", "it takes strict, start or shared"];
        refused(&[&option, "-t", "0", "cat"], &texts);
    }
    for more in [&["-t", "0"][..], &["--warm=2", "-t", "0"]] {
        let words = [&["--fork-server-max-age=1h"], more, &["cat"]].concat();
        refused(&words, &[age, "no use without --fork-server"]);
    }
    // The smallest and the largest value.
    for words in [
        &["--warm=1"][..],
        &["--warm=4096"],
        &["--fork-server", "--fork-server-max-age=1ms"],
        &["--fork-server=strict"],
        &["--fork-server=start"],
        &["--fork-server=shared", "--fork-server-max-age=1ms"],
    ] {
        let check = Skd::new(["--check"]).args(words).args(["-t0", "cat"]).end();
        check.expect_code(0);
    }
}

#[test]
fn a_mode_after_a_blank_is_told() {
    let directory = Directory::new();
    for mode in ["strict", "start", "shared"] {
        let text =
            format!("--fork-server takes its value after an equals sign: --fork-server={mode}");
        refused(&["-t", "0", "--fork-server", mode, "cat"], &[&text]);
        // A program of that name.
        let program = directory.script(mode, "#!/bin/sh\nread line; echo served\n");
        for option in ["--fork-server", "--fork-server=strict"] {
            let skd = Skd::new(["-t", "127.0.0.1:0", option]);
            let (skd, program) = match option {
                "--fork-server" => (skd, program.as_os_str()),
                _ => (skd.env("PATH", directory.path()), OsStr::new(mode)),
            };
            assert_eq!(talk(skd.run(program).connect(), b"\n"), b"served\n");
        }
    }
}

#[test]
fn the_client_is_standard_error_where_that_is_asked_for() {
    requires_command("perl");
    for &way in Way::ALL {
        for (program, args) in [
            ("sh", ["-c", "read line; echo out; echo err >&2; exec cat"]),
            (
                "perl",
                [
                    "-e",
                    "$| = 1; <STDIN>; print qq(out\n); warn qq(err\n); exec 'cat'",
                ],
            ),
            // Before it has read from its client.
            (
                "perl",
                [
                    "-e",
                    "$| = 1; print qq(out\n); print STDERR qq(err\n); sysread STDIN, my $in, 1; exec 'cat'",
                ],
            ),
            (
                "perl",
                [
                    "-e",
                    "$| = 1; select undef, undef, undef, 0.01; my $in = ''; vec($in, 2, 1) = 1; \
                             select $in, undef, undef, undef; <STDIN>; print qq(out\nerr\n); exec 'cat'",
                ],
            ),
        ] {
            let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--stderr=client"]).args(way.options());
            let skd = skd.run_with(program, args);
            let mut clients = Vec::new();
            for _ in 0..3 {
                let (mut client, handler) = way.connect(&skd);
                client.write_all(b"\n").unwrap();
                assert_eq!(receive(&mut client, 8), b"out\nerr\n", "{way:?} {args:?}");
                echo(&mut client, b"its own");
                // One open file under three numbers, and no other.
                let link =
                    |number: &str| fs::read_link(format!("/proc/{handler}/fd/{number}")).unwrap();
                assert_eq!(
                    [link("0"), link("0")],
                    [link("1"), link("2")],
                    "{way:?} {args:?}"
                );
                assert_eq!(
                    fs::read_dir(format!("/proc/{handler}/fd")).unwrap().count(),
                    3
                );
                clients.push(client);
            }
            for mut client in clients {
                echo(&mut client, b"still its own");
            }
            assert_eq!(skd.logged("err"), [""; 0]);
        }
    }
}

#[test]
fn an_inherited_datagram_socket_is_refused() {
    for mode in MODES {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let skd = Skd::new(mode).args(["--listen-fd=3", "cat"]);
        let texts = [mode[0], "can't be used with", "datagrams"];
        skd.descriptor(3, socket).end().expect_refusal(2, &texts);

        let directory = Directory::new();
        let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        let address = socket2::SockAddr::unix(directory.join("socket")).unwrap();
        packets.bind(&address).unwrap();
        let skd = Skd::new(mode).args(["-vv", "--listen-fd=3"]);
        let skd = skd.descriptor(3, OwnedFd::from(packets)).start("cat");
        skd.wait_for_log("Listening on unix seqpacket");
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn a_rule_that_sets_environment_is_refused_at_the_start_and_at_hup() {
    let directory = Directory::new();
    let path = directory.name("rules");
    for mode in MODES {
        let with = |more: &[&str]| {
            let skd = Skd::new(more).args(mode).args(["--rules", &path]);
            skd.args(["-v", "-t", "127.0.0.1:0"])
        };
        directory.write("rules", "allow all max=9\nallow ::1 env A=1");
        let sentence = format!(
            "rules file {path}, line 2: env can't be used with {}",
            mode[0]
        );
        with(&[]).arg("cat").end().expect_refusal(2, &[&sentence]);
        let check = with(&["--check"]).arg("cat").end();
        check.expect_code(2).expect_stderr(&[&sentence]);
        let explain = with(&["--explain=::1"]).arg("cat").end();
        explain.expect_code(2).expect_stderr(&[&sentence]);

        directory.write("rules", "allow 127.0.0.1");
        let binary = directory.join("skd");
        install(env!("CARGO_BIN_EXE_skd"), &binary);
        let skd = with(&[])
            .throttle(Duration::ZERO)
            .binary(&binary)
            .run("cat");
        echo(&mut skd.connect(), b"allowed");
        // The new binary gets them from the old one.
        for upgraded in [false, true] {
            if upgraded {
                upgrade(&skd);
            }
            directory.write("rules", "deny all\nallow all env A=1");
            let stay = format!(
                "{sentence}: handlers run before their client is known; the old rules stay"
            );
            let before = skd.logged(&stay).len();
            wait_out_throttle();
            skd.signal(Signal::SIGHUP);
            skd.wait_for_logs(&stay, before + 1);
            echo(&mut skd.connect(), b"still allowed");
        }
        directory.write("rules", "deny all");
        skd.signal(Signal::SIGHUP);
        skd.wait_for_log("Read 1 rule again");
        assert_eq!(try_talk(skd.connect(), b"").unwrap_or_default(), b"");
        assert_eq!(skd.stop().code(), Some(0));
    }
}

/// Copies a program with a child process: while this process has the file open for writing, a process that another
/// test forks would make an exec of it fail.
fn install(program: &str, to: &Path) {
    let mut install = Command::new("install");
    assert!(install.arg(program).arg(to).status().unwrap().success());
}

/// Sends USR2, and waits for the upgrade.
#[track_caller]
fn upgrade(skd: &Instance) {
    let told = || skd.logged("Upgraded from skd ").len();
    let before = told();
    skd.signal(Signal::SIGUSR2);
    skd.wait_until("it is upgraded", || told() > before);
}

type Variables = BTreeMap<String, String>;

/// A skd whose handlers print their environment. Its own has PATH, the mark, and false values of variables that it
/// must not pass on.
fn showing(mode: &[&str], listeners: &[&str]) -> Skd {
    let skd = Skd::new(mode).arg("-vv").args(listeners).env_clear();
    let skd = skd.env("PATH", "/usr/local/bin:/usr/bin:/bin");
    let lies = [
        "REMOTE_ADDR",
        "TCPREMOTEIP",
        "PEERUID",
        "TCPLOCALIP",
        "PROTO",
    ];
    lies.into_iter()
        .fold(skd, |skd, name| skd.env(name, "a lie"))
}

fn read(bytes: &[u8]) -> Variables {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    let lines = text.split_terminator('\0');
    let pairs = lines.map(|line| line.split_once('=').expect("NAME=VALUE"));
    let mut seen: Variables = pairs.map(|(a, b)| (a.into(), b.into())).collect();
    assert!(seen.remove("PATH").is_some() && seen.remove(MARK).is_some());
    seen
}

fn expected<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Variables {
    let pairs = pairs.into_iter();
    pairs.map(|(a, b)| (a.into(), b.into())).collect()
}

#[test]
fn the_environment_has_what_all_listeners_share_and_nothing_about_a_client() {
    for mode in MODES {
        for (listeners, local_ip) in [
            (&["-t", "127.0.0.1:0"][..], Some("127.0.0.1")),
            (&["-t", "0"], None),
            (&["-t", "0.0.0.0:0"], None),
        ] {
            let skd = showing(mode, listeners).run_with("env", ["-0"]);
            let port = skd.port().to_string();
            let mut all = expected([("PROTO", "TCP"), ("TCPLOCALPORT", &port)]);
            all.extend(local_ip.map(|ip| ("TCPLOCALIP".into(), ip.into())));
            for _ in 0..CLIENTS {
                let address = SocketAddr::from(([127, 0, 0, 1], skd.port()));
                assert_eq!(
                    read(&talk(skd.connect_to(address), b"")),
                    all,
                    "{listeners:?}"
                );
            }
        }
        // The same address, and two ports.
        let two = ["-t", "127.0.0.1:0", "-t", "127.0.0.1:0"];
        let skd = showing(mode, &two).run_with("env", ["-0"]);
        let all = expected([("PROTO", "TCP"), ("TCPLOCALIP", "127.0.0.1")]);
        for address in skd.addresses().into_iter().cycle().take(CLIENTS) {
            assert_eq!(read(&talk(skd.connect_to(address), b"")), all);
        }
    }
}

#[test]
fn the_environment_on_unix_sockets_has_their_path_if_they_share_one() {
    let directory = Directory::new();
    let (one, other) = (directory.name("one"), directory.name("other"));
    for mode in MODES {
        for (listeners, all) in [
            (
                &["-l", &one][..],
                expected([("PROTO", "UNIX-STREAM"), ("UNIXLOCALPATH", &one)]),
            ),
            (
                &["-l", &one, "-l", &other],
                expected([("PROTO", "UNIX-STREAM")]),
            ),
            (&["-l", &one, "-t", "127.0.0.1:0"], expected([])),
        ] {
            let skd = showing(mode, listeners).start_with("env", ["-0"]);
            skd.wait_for_log(&format!("Listening on unix stream {one}"));
            for _ in 0..CLIENTS {
                assert_eq!(read(&talk(connect_unix(&one), b"")), all, "{listeners:?}");
            }
            assert_eq!(skd.stop().code(), Some(0));
        }
    }
}

#[test]
fn the_environment_without_these_options_is_unchanged() {
    let skd = showing(&[], &["-t", "127.0.0.1:0"]).run_with("env", ["-0"]);
    let seen = read(&talk(skd.connect(), b""));
    assert_eq!(seen["REMOTE_ADDR"], "127.0.0.1");
    assert_eq!(seen["TCPLOCALIP"], "127.0.0.1");
}

#[test]
fn hup_renews_prestarted_handlers_and_does_not_end_a_daemon_in_the_foreground() {
    for mode in MODES {
        let directory = Directory::new();
        let script = directory.script("handler", "#!/bin/sh\necho old\n");
        let skd = Skd::new(mode).args(["-v", "-t", "127.0.0.1:0"]);
        let skd = skd.run(&script);
        assert_eq!(talk(skd.connect(), b""), b"old\n");
        // Renamed, as a package manager does: running processes keep the old file open.
        let next = directory.script("next", "#!/bin/sh\necho new\n");
        fs::rename(next, &script).unwrap();
        skd.signal(Signal::SIGHUP);
        skd.wait_until("handlers are of the new kind", || {
            talk(skd.connect(), b"") == b"new\n"
        });
        for _ in 0..CLIENTS {
            assert_eq!(talk(skd.connect(), b""), b"new\n");
        }
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn an_upgrade_succeeds_and_a_refused_upgrade_changes_nothing() {
    for mode in MODES {
        let directory = Directory::new();
        let binary = directory.join("skd");
        install(env!("CARGO_BIN_EXE_skd"), &binary);
        let skd = Skd::new(mode).args(["-v", "-t", "127.0.0.1:0"]);
        let skd = skd.binary(&binary).run("cat");
        let mut clients = Vec::new();
        for turn in 0..4 {
            let mut client = skd.connect();
            echo(&mut client, b"before");
            clients.push(client);
            upgrade(&skd);
            for client in &mut clients {
                echo(client, b"after");
            }
            assert_eq!(talk(skd.connect(), b"anew"), b"anew", "{turn}");
        }
        install("/bin/false", &binary);
        skd.signal(Signal::SIGUSR2);
        skd.wait_for_log("skd: no upgrade: the new program refuses");
        for client in &mut clients {
            echo(client, b"still");
        }
        assert_eq!(talk(skd.connect(), b"anew"), b"anew");
        // Handlers stay, and nothing else is left.
        let stopped = skd.stop();
        assert_eq!(stopped.code(), Some(0));
        for client in &mut clients {
            echo(client, b"left");
        }
        wait_until("only handlers are left", || {
            skd.processes().len() == clients.len()
        });
        drop(clients);
        wait_until("nothing is left", || skd.processes().is_empty());
    }
}

#[test]
fn no_prestarted_handler_is_left_at_the_end() {
    for mode in MODES {
        for (signal, drain) in [
            (Signal::SIGTERM, None),
            (Signal::SIGINT, None),
            (Signal::SIGQUIT, None),
            (Signal::SIGTERM, Some("--drain=60s")),
            (Signal::SIGINT, Some("--drain=60s")),
        ] {
            let skd = Skd::new(mode).args(drain).args(["-v", "-t", "127.0.0.1:0"]);
            let skd = skd.run("cat");
            assert_eq!(talk(skd.connect(), b"served"), b"served");
            // A handler that gets TERM changes the status.
            skd.wait_for_log("Closed connection");
            skd.signal(signal);
            assert_eq!(skd.wait().code(), Some(0), "{mode:?} {signal} {drain:?}");
            wait_until("nothing is left", || skd.processes().is_empty());
        }
    }
}

#[test]
fn a_drain_serves_its_clients_to_their_end() {
    for mode in MODES {
        let skd = Skd::new(mode).args(["-v", "--drain=60s", "-t", "127.0.0.1:0"]);
        let skd = skd.run("cat");
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| skd.connect()).collect();
        clients
            .iter_mut()
            .for_each(|client| echo(client, b"served"));
        skd.signal(Signal::SIGTERM);
        skd.wait_for_log(&format!("Draining: {CLIENTS} handlers"));
        // HUP starts no new handlers now.
        skd.signal(Signal::SIGHUP);
        for mut client in clients {
            echo(&mut client, b"to the end");
        }
        assert_eq!(skd.wait().code(), Some(0));
        wait_until("nothing is left", || skd.processes().is_empty());
    }
}

#[test]
fn all_threads_have_low_descriptors_under_a_small_limit() {
    for mode in MODES {
        let skd = Skd::new(mode).args(["--threads=16", "-t", "127.0.0.1:0"]);
        let skd = skd.limit(Resource::RLIMIT_NOFILE, 150, 150).run("cat");
        for _ in 0..CLIENTS {
            assert_eq!(talk(skd.connect(), b"served"), b"served");
        }
        assert_eq!(skd.stop().code(), Some(0));
    }
}

/// Process 1 reaps all children: prestarted handlers are neither its serving handlers nor strangers.
#[test]
fn process_1_counts_only_its_handlers() {
    requires_root();
    requires_command("unshare");
    for mode in MODES {
        let skd = Skd::new(mode).args(["-vv", "-c9", "-t", "127.0.0.1:0"]);
        let skd = skd
            .wrapper(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
            .run_with("sh", ["-c", "(sleep 0.01 &) ; cat"]);
        for _ in 0..CLIENTS {
            assert_eq!(talk(skd.connect(), b"served"), b"served");
        }
        let ended = poll_for(DEADLINE, || {
            (skd.logged(" exited with status 0 after").len() == CLIENTS).then_some(())
        });
        assert!(ended.is_some(), "{:#?}", skd.log_lines());
        skd.wait_for_log("Running 0 of 9 handlers");
        let told = skd.logged("handler").into_iter();
        let troubles = told.filter(|line| line.starts_with("skd: "));
        assert_eq!(troubles.collect::<Vec<_>>(), [""; 0]);
    }
}

/// A killed prestarted handler is reaped and replaced, and no client notices.
#[test]
fn process_1_replaces_killed_prestarted_handlers() {
    requires_root();
    requires_command("unshare");
    for mode in MODES {
        let skd = Skd::new(mode).args(["-vv", "-t", "127.0.0.1:0"]);
        let skd = skd
            .wrapper(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
            .run("cat");
        for round in 1..=3 {
            let ready = || skd.logged("Ready: pid ").len();
            skd.wait_until("a prestarted handler waits", || ready() >= round);
            let before = ready();
            for pid in skd.processes() {
                if name_of(pid).as_deref() == Some("cat") {
                    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
                }
            }
            for _ in 0..CLIENTS {
                assert_eq!(talk(skd.connect(), b"served"), b"served");
            }
            skd.wait_until("the killed handlers are replaced", || ready() > before);
        }
        let mut all = skd.processes().into_iter();
        let daemon = all.find(|&pid| name_of(pid).as_deref() == Some("skd"));
        let daemon = daemon.expect("process 1");
        wait_until("all are reaped", || zombies(daemon).is_empty());
    }
}

fn name_of(pid: i32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

#[test]
fn a_pool_larger_than_the_limits_allow_is_a_note() {
    let skd = Skd::new(["--check", "--warm=400", "-t0"]).args(["cat"]);
    let check = skd.limit(Resource::RLIMIT_NOFILE, 200, 200).end();
    check.expect_code(0);
    let note = "skd: note: --warm 400: there is room for ";
    check.expect_stderr(&[note, "200 open files"]);
}

/// The manual's examples of asking for the client's address, as printed.
#[test]
fn the_manual_s_ways_to_find_the_client_s_address_work() {
    requires_command("perl");
    requires_command("python3");
    let page = fs::read_to_string("man/skd.8").unwrap();
    let section = page.split(".SS Who the client is").nth(1).unwrap();
    let section = section.split("\n.SS ").next().unwrap();
    let examples = section.split(".nf\n").skip(1);
    let examples = examples.map(|rest| rest.split(".fi\n").next().unwrap());
    let typed = |text: &str| {
        let text = text.replace("\\-", "-").replace("\\(aq", "'");
        text.replace("\\e", "\\")
    };
    let examples: Vec<_> = examples.map(typed).collect();
    let interpreters = ["perl", "/usr/bin/python3", "sh"];
    assert_eq!(examples.len(), interpreters.len(), "{examples:#?}");
    let directory = Directory::new();
    for way in Way::PRESTARTED {
        for (interpreter, example) in interpreters.iter().zip(&examples) {
            let script = directory.write("script", example);
            let skd = Skd::new(["-vv", "-t", "0"]).args(way.options());
            let skd = skd.run_with(interpreter, [&script]);
            for ip in ["127.0.0.1", "::1"].into_iter().cycle().take(CLIENTS) {
                let stream = skd.connect_to(SocketAddr::new(ip.parse().unwrap(), skd.port()));
                let port = stream.local_addr().unwrap().port();
                let hello = String::from_utf8(talk(stream, b"")).unwrap();
                assert_eq!(hello, format!("Hello, {ip} port {port}.\n"), "{example}");
            }
        }
    }
}
