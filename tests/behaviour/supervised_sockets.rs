//! `-S` with listeners: a supervised program with the sockets that skd has bound.

use crate::harness::{
    Directory, Running, Skd, assert_idle, connect_unix, descriptors, environment, exists, ids,
    process_group, requires_command, requires_root, sockets, talk, wait_for, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::thread;

/// A server in perl on descriptor 3, which runs `body` for each connection, $c.
fn server(options: Skd, body: &str) -> Running {
    requires_command("perl");
    let script = format!(
        "open(my $s, '+<&=', 3) or die $!; print STDERR \"serving\\n\"; \
         for (my $n = 1; accept(my $c, $s); $n++) {{ select $c; $| = 1; {body}; close $c }} die $!"
    );
    options.run_with("perl", ["-e", &script])
}

/// The files and inode numbers of the descriptors from 3 up.
fn inherited(pid: i32) -> Vec<String> {
    let open = descriptors(pid);
    open.range(3..).map(|(_, what)| what.clone()).collect()
}

#[test]
fn a_program_finds_the_sockets_and_nothing_else() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let given = TcpListener::bind("127.0.0.1:0").unwrap();
    given.set_nonblocking(true).unwrap();
    let options = ["-S", "--listen-fd", "7", "-u", "127.0.0.1:0", "-l", &path];
    let manager = UnixDatagram::bind(directory.join("manager")).unwrap();
    // With other descriptors, which the program must not get.
    let stray = std::fs::File::open("/dev/null").unwrap();
    let skd = Skd::new(options)
        .descriptor(7, given)
        .descriptor(9, stray)
        .env("PROTO", "old")
        .env("LISTEN_PID", "1")
        .env("NOTIFY_SOCKET", directory.name("manager"))
        .run_with("sleep", ["1000"]);
    let program = skd.wait_for_children(1)[0];
    skd.wait_until("it has been executed", || {
        environment(program).contains_key("LISTEN_FDS") && descriptors(program).len() == 6
    });
    let variables = environment(program);
    assert_eq!(variables["LISTEN_PID"], program.to_string());
    assert_eq!(variables["LISTEN_FDS"], "3");
    assert_eq!(variables["LISTEN_FDNAMES"], "tcp:udp:unix-stream");
    for name in ["PROTO", "NOTIFY_SOCKET"] {
        assert!(!variables.contains_key(name), "{name}");
    }
    let mut message = [0; 256];
    let length = manager.recv(&mut message).unwrap();
    let ready = format!("READY=1\nMAINPID={}\n", skd.pid());
    assert!(message[..length].starts_with(ready.as_bytes()));
    let open = descriptors(program);
    assert_eq!(open.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(open[&0], open[&3]);
    let bound = sockets(program);
    let kinds: Vec<_> = (3..6)
        .map(|number| {
            let inode =
                |it: &&crate::harness::Socket| open[&number] == format!("socket:[{}]", it.inode);
            bound.iter().find(inode).unwrap().kind
        })
        .collect();
    use crate::harness::Kind;
    assert_eq!(kinds, [Kind::Tcp, Kind::Udp, Kind::UnixStream]);
    for number in 3..6 {
        let info = std::fs::read_to_string(format!("/proc/{program}/fdinfo/{number}")).unwrap();
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        assert_eq!(flags & libc::O_NONBLOCK, 0, "{number} blocks");
    }
    assert_eq!(process_group(program), Some(program));
}

#[test]
fn names_of_sockets_are_passed_on() {
    let line = "LISTEN_FDS=2 LISTEN_FDNAMES=web:admin LISTEN_PID=$$ exec \"$@\"";
    let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
    let skd = Skd::new(["-S", "-u", "127.0.0.1:0", "--systemd"])
        .wrapper(["sh", "-c", line, "sh"])
        .descriptor(3, bind())
        .descriptor(4, bind())
        .start_with(
            "sh",
            [
                "-c",
                "echo \"$$ $LISTEN_PID $LISTEN_FDS $LISTEN_FDNAMES\" >&2; sleep 1000",
            ],
        );
    let said = skd.wait_for_log("udp:");
    let program = skd.wait_for_children(1)[0];
    assert_eq!(said, format!("{program} {program} 3 udp:web:admin"));
}

#[test]
fn a_hundred_sockets_are_passed_on() {
    let mut options = vec!["-S"];
    options.extend(["-u", "127.0.0.1:0"].repeat(100));
    let skd = Skd::new(options).run_with("sleep", ["1000"]);
    let program = skd.wait_for_children(1)[0];
    skd.wait_until("all are there", || inherited(program).len() == 100);
    let mut found = inherited(program);
    assert!(
        found.iter().all(|what| what.starts_with("socket:")),
        "{found:?}"
    );
    found.sort_unstable();
    found.dedup();
    assert_eq!(found.len(), 100);
}

#[test]
fn no_client_is_refused_during_a_restart() {
    let directory = Directory::new();
    let path = directory.name("socket");
    // Each run serves a few and fails; three restarts, the last of which comes after 0.4 s.
    let body = "print \"$$\\n\"; if ($n == 15) { close $c; exit 3 }";
    for options in [["-t", "127.0.0.1:0"], ["-l", &path]] {
        let skd = server(Skd::new(["-vS"]).args(options), body);
        let (sender, answers) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..5 {
                let sender = sender.clone();
                let skd = &skd;
                scope.spawn(move || {
                    for _ in 0..10 {
                        let answer = match options[0] {
                            "-t" => talk(skd.connect(), b""),
                            _ => talk(skd.connect_unix(), b""),
                        };
                        sender.send(answer).unwrap();
                    }
                });
            }
        });
        drop(sender);
        let mut served: Vec<_> = answers.iter().collect();
        assert_eq!(served.len(), 50);
        assert!(
            served.iter().all(|pid| pid.ends_with(b"\n")),
            "all clients had an answer"
        );
        served.sort();
        served.dedup();
        assert_eq!(served.len(), 4, "so many runs");
        assert_eq!(skd.logged("perl exited abnormally with status 3").len(), 3);
        assert_eq!(skd.logged("Restarting perl in ").len(), 3);
    }
}

#[test]
fn skd_ends_with_its_program_and_then_removes_its_files() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let pidfile = directory.name("pid");
    // The program checks the path when it is told to end.
    let script = "$SIG{TERM} = sub { print STDERR -S $ARGV[0] ? \"there\\n\" : \"gone\\n\"; exit 7 }; \
                  print STDERR \"ready\\n\"; sleep 1000 while 1";
    let skd = Skd::new(["-SP", &pidfile, "-l", &path]).run_with("perl", ["-e", script, &path]);
    skd.wait_for_log("ready");
    let program = skd.wait_for_children(1)[0];
    assert_eq!(skd.stop().code(), Some(7));
    assert!(!exists(program));
    assert_eq!(skd.logged("there").len(), 1);
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn an_on_demand_program_is_started_when_a_client_comes() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let body = "print \"$$\\n\"; close $c; exit 0";
    let options = ["-vS", "--on-demand", "-t", "127.0.0.1:0", "-l", &path];
    let skd = server(Skd::new(options), body);
    assert!(skd.children().is_empty(), "before a client came");
    let mut pids = Vec::new();
    for _ in 0..3 {
        pids.push(talk(skd.connect(), b""));
        skd.wait_for_logs("perl exited", pids.len());
        assert!(skd.children().is_empty(), "no client is waiting");
    }
    pids.dedup();
    assert_eq!(pids.len(), 3);
    // After a success skd doesn't restart it, but waits for a client.
    assert_eq!(skd.logged("Restarting"), [""; 0]);
    // A client of any of the sockets starts it.
    let _client = connect_unix(&path);
    skd.wait_for_logs("Started perl", 4);
    assert_eq!(skd.stop().code(), Some(128 + 15));
    // Also without a program running.
    let skd = Skd::new(["-vS", "--on-demand", "-l", &path]).run("cat");
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(skd.log_lines(), [""; 0]);
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn a_program_that_leaves_its_client_waiting_causes_no_storm() {
    for program in ["true", "false"] {
        let skd = Skd::new(["-vS", "--on-demand", "-t", "127.0.0.1:0"]).run(program);
        let _client = skd.connect();
        let lines = skd.wait_for_logs(&format!("Restarting {program} in "), 4);
        let expected = ["0.1s", "0.2s", "0.4s", "0.8s"];
        let expected = expected.map(|delay| format!("Restarting {program} in {delay}"));
        assert_eq!(lines[..4], expected);
    }
}

#[test]
fn a_program_without_clients_is_told_to_end() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let options = ["-vS", "--on-demand", "--idle-exit", "200ms"];
    // Other services, one after another, serve as a clock.
    let clock = || {
        let skd = Skd::new(options).args(["-t", "127.0.0.1:0"]);
        let skd = server(skd, "print \"$$\\n\"");
        talk(skd.connect(), b"");
        skd.wait_for_log("Stopping perl: no client for 0.2s");
    };
    for listener in [["-t", "127.0.0.1:0"], ["-l", &path]] {
        let skd = Skd::new(options).args(listener);
        let skd = server(skd, "print \"$$\\n\"; 1 while <$c>");
        let mut client: Box<dyn Read> = match listener[0] {
            "-t" => Box::new(skd.connect()),
            _ => Box::new(skd.connect_unix()),
        };
        let mut first = [0; 1];
        client.read_exact(&mut first).unwrap();
        let program = skd.wait_for_children(1);
        clock();
        clock();
        assert_eq!(skd.children(), program, "its client is still there");
        assert_eq!(skd.logged("Stopping"), [""; 0]);
        drop(client);
        skd.wait_for_log("Stopping perl: no client for 0.2s");
        skd.wait_until("it has ended", || skd.children().is_empty());
        // As often as clients come, and without the delay after a failure.
        for _ in 0..3 {
            match listener[0] {
                "-t" => talk(skd.connect(), b""),
                _ => talk(skd.connect_unix(), b""),
            };
        }
        assert_eq!(skd.logged(" in "), [""; 0]);
    }
}

#[test]
fn a_program_that_was_told_to_end_is_not_told_again_for_want_of_clients() {
    let options = [
        "-vS",
        "--on-demand",
        "--idle-exit",
        "50ms",
        "-t",
        "127.0.0.1:0",
    ];
    let skd = server(
        Skd::new(options),
        "$SIG{TERM} = sub { $told++ }; $SIG{USR1} = sub { exit 42 + $told }; print \"$$\\n\"; \
         sleep 1 until $told; close $c; sleep 1 while 1",
    );
    let mut client = skd.connect();
    client.read_exact(&mut [0; 1]).unwrap();
    let program = skd.wait_for_children(1)[0];
    skd.signal(Signal::SIGTERM);
    // The client leaves after the program was told to end.
    client.read_to_end(&mut Vec::new()).unwrap();
    assert_idle(&[skd.pid()]);
    kill(Pid::from_raw(program), Signal::SIGUSR1).unwrap();
    assert_eq!(skd.wait().code(), Some(43));
    assert_eq!(skd.logged("Stopping"), [""; 0]);
}

#[test]
fn a_program_that_ignores_term_is_killed() {
    let options = [
        "-vS",
        "--on-demand",
        "--idle-exit=50ms",
        "--kill-after=100ms",
    ];
    let skd = Skd::new(options).args(["-t", "127.0.0.1:0"]);
    let skd = server(skd, "$SIG{TERM} = 'IGNORE'; print \"$$\\n\"");
    let first = talk(skd.connect(), b"");
    skd.wait_for_log("perl was terminated by signal 9");
    assert_ne!(talk(skd.connect(), b""), first);
}

#[test]
fn sockets_whose_clients_cannot_be_counted_are_refused() {
    let options = [
        "-S",
        "--on-demand",
        "--idle-exit",
        "1s",
        "--listen-fd",
        "3",
        "cat",
    ];
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let refusal = Skd::new(options).descriptor(3, udp).end();
    refusal.expect_refusal(1, &["--idle-exit", "UDP", "has no connections"]);
    // The kernel lists no sockets at all.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let refusal = Skd::new(options)
        .descriptor(3, listener)
        .refusing(libc::SYS_sendto, nix::errno::Errno::EPERM)
        .end();
    refusal.expect_refusal(1, &["--idle-exit", "TCP", "the kernel"]);
}

#[test]
fn a_program_without_privileges_has_sockets_bound_by_root() {
    requires_root();
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = Skd::new([
        "-US",
        "--unix-mode",
        "666",
        "-t",
        "127.0.0.1:0",
        "-l",
        &path,
    ])
    .env("UID", "61234")
    .env("GID", "61235")
    .env_remove("ROOT");
    let skd = server(skd, "print \"hello\\n\"");
    assert_eq!(talk(skd.connect(), b""), b"hello\n");
    let program = skd.wait_for_children(1)[0];
    assert_eq!(ids(program).0, [61234; 4]);
    assert_eq!(inherited(program).len(), 2);
}

#[test]
fn a_daemon_serves_when_its_caller_continues() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let daemon = Skd::new(["-S", "-l", &path]).daemon_with("sleep", ["1000"]);
    let _client = UnixStream::connect(&path).expect("a socket that listens");
    let program = daemon.wait_for_children(1)[0];
    // The caller of $(skd -B -S -t 0 PROG) isn't kept waiting.
    daemon.wait_until("it has been executed", || {
        environment(program).contains_key("LISTEN_FDS")
    });
    assert_eq!(descriptors(program)[&1], "/dev/null");
    let variables = environment(program);
    assert_eq!(variables["LISTEN_PID"], program.to_string());
    daemon.stop();
    assert_eq!(directory.names(), [""; 0]);
    assert!(!exists(program));

    let daemon =
        Skd::new(["-S", "--on-demand", "-t", "127.0.0.1:0"]).daemon_with("sleep", ["1000"]);
    assert!(daemon.children().is_empty());
    let _client = daemon.connect();
    daemon.wait_for_children(1);
    daemon.stop();
}

#[test]
fn a_killed_program_leaves_the_sockets_open() {
    let skd = server(Skd::new(["-S", "-t", "127.0.0.1:0"]), "print \"$$\\n\"");
    let first = talk(skd.connect(), b"");
    let program = skd.wait_for_children(1)[0];
    kill(Pid::from_raw(program), Signal::SIGKILL).unwrap();
    // In the middle of a connection, too.
    let _second = TcpStream::connect(skd.address()).expect("no refusal");
    let answer = wait_for("an answer of the next", || Some(talk(skd.connect(), b"")));
    assert_ne!(answer, first);
    wait_until("one program runs", || skd.children().len() == 1);
}

#[test]
fn a_program_that_cannot_be_run_fails_the_start() {
    let directory = Directory::new();
    let path = directory.name("socket");
    Skd::new(["-S", "-l", &path, "nonesuch"])
        .end()
        .expect_refusal(127, &["nonesuch"]);
    let words = ["-S", "--chdir", "/nonexistent", "-l", &path, "/bin/true"];
    Skd::new(words)
        .end()
        .expect_refusal(1, &["--chdir /nonexistent"]);
    assert_eq!(directory.names(), [""; 0]);
}
