//! Deliberate differences between skd and version 1.2. Each is asserted of both, so that neither a difference nor a
//! likeness is an accident.

use crate::harness::Program::{Original, Ours};
use crate::harness::{
    Directory, Kind, Namespace, Skd, Syslog, Terminal, connect, descriptors, each_program, echo,
    requires_command, requires_root, sockets, talk, try_talk, udp_client,
};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// The addresses at which `pid` has sockets of this kind, open for clients.
fn bound(pid: i32, kind: Kind) -> Vec<String> {
    let found = sockets(pid).into_iter();
    let mut found: Vec<String> = found
        .filter(|socket| socket.kind == kind && socket.is_open())
        .filter_map(|socket| socket.address.map(|it| it.to_string()).or(socket.path))
        .collect();
    found.sort();
    found
}

#[test]
fn the_listening_socket_is_not_leaked_into_handlers() {
    each_program(|program| {
        let skd = program.skd(["-t", "127.0.0.1:0"]).run("cat");
        let mut stream = skd.connect();
        echo(&mut stream, b".");
        let handler = skd.wait_for_children(1)[0];
        let listening = sockets(skd.pid())
            .into_iter()
            .find(|it| it.listening)
            .unwrap();
        let listening = format!("socket:[{}]", listening.inode);
        let leaked = descriptors(handler).values().any(|open| *open == listening);
        assert_eq!(leaked, program == Original);
    });
}

#[test]
fn a_bare_port_is_ipv6_too() {
    each_program(|program| {
        let skd = program.skd(["-t", "0"]).run("cat");
        let port = skd.port();
        let expected = match program {
            Ours => vec![format!("0.0.0.0:{port}"), format!("[::]:{port}")],
            Original => vec![format!("0.0.0.0:{port}")],
        };
        assert_eq!(bound(skd.pid(), Kind::Tcp), expected);
    });
}

#[test]
fn nodelay_is_set_before_the_first_connection() {
    requires_command("perl");
    each_program(|program| {
        let script = "print unpack 'i', getsockopt(STDIN, IPPROTO_TCP, TCP_NODELAY)";
        let skd = program
            .skd(["-n", "-t", "127.0.0.1:0"])
            .run_with("perl", ["-MSocket=:all", "-e", script]);
        let shown = [(), ()].map(|()| talk(skd.connect(), b""));
        let first = match program {
            Ours => b"1",
            Original => b"0",
        };
        assert_eq!(shown, [first.to_vec(), b"1".to_vec()]);
    });
}

#[test]
fn a_daemon_that_does_not_start_reports_failure() {
    each_program(|program| {
        let directory = Directory::new();
        let file = directory.write("file", "");
        let output = program.skd(["-B", "-l"]).arg(file).arg("cat").end();
        let code = match program {
            Ours => 1,
            Original => 0,
        };
        output.expect_code(code).expect_stderr(&["skd"]);
    });
}

#[test]
fn a_daemon_that_logs_to_syslog_does_not_block_its_launcher() {
    requires_root();
    each_program(|program| {
        let namespace = Namespace::new();
        namespace.private_dev();
        let _syslog = Syslog::bind(namespace.path("/dev/log"));
        let directory = Directory::new();
        let path = directory.name("socket");
        let skd = program
            .skd(["-B", "-L", "tag", "-P", &directory.name("pid"), "-l", &path])
            .inside(&namespace)
            .start("cat");
        skd.wait_until("the daemon serves", || UnixStream::connect(&path).is_ok());
        match program {
            Ours => assert_eq!(skd.wait().code(), Some(0)),
            // It serves, and still doesn't report it.
            Original => {
                let stream = UnixStream::connect(&path).unwrap();
                assert_eq!(talk(stream, b"served"), b"served");
                assert_eq!(skd.try_wait(Duration::from_millis(300)), None);
            }
        }
    });
}

#[test]
fn a_failing_supervised_program_is_restarted_with_a_delay() {
    each_program(|program| {
        let skd = program.skd(["-vS"]).start_with("sh", ["-c", "exit 1"]);
        match program {
            // The delay grows: two restarts within the second in which 1.2 does hundreds.
            Ours => {
                skd.wait_for_log("Restarting sh in 0.1s");
                skd.wait_for_log("Restarting sh in 0.2s");
                skd.wait_for_log("Restarting sh in 0.4s");
            }
            Original => {
                skd.wait_for_logs("Started sh", 200);
                assert!(skd.logged("Restarting").is_empty());
            }
        }
    });
}

#[test]
fn an_unread_datagram_causes_no_storm() {
    each_program(|program| {
        let skd = program
            .skd(["-u", "127.0.0.1:0"])
            .run_with("sh", ["-c", "echo started >&2"]);
        udp_client(skd.address()).send(b"unread").unwrap();
        match program {
            Ours => {
                skd.wait_for_log("unread, 6 bytes");
                assert_eq!(
                    skd.log_lines()
                        .iter()
                        .filter(|line| *line == "started")
                        .count(),
                    8
                );
            }
            Original => drop(skd.wait_for_logs("started", 200)),
        }
    });
}

#[test]
fn a_port_is_not_taken_modulo_65536() {
    each_program(|program| {
        let namespace = Namespace::new();
        match program {
            Ours => {
                let output = program
                    .skd(["-t", "127.0.0.1:99999", "cat"])
                    .inside(&namespace)
                    .end();
                output.expect_refusal(2, &["99999", "65535"]);
            }
            Original => {
                let skd = program
                    .skd(["-t", "127.0.0.1:99999"])
                    .inside(&namespace)
                    .start("cat");
                skd.wait_until("it listens on another port", || {
                    bound(skd.pid(), Kind::Tcp) == ["127.0.0.1:34463"]
                });
            }
        }
    });
}

#[test]
fn a_live_unix_socket_is_not_stolen() {
    each_program(|program| {
        let directory = Directory::new();
        let path = directory.join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        match program {
            Ours => {
                let output = program.skd(["-l"]).arg(&path).arg("cat").end();
                output.expect_refusal(1, &["another program has a socket there"]);
                UnixStream::connect(&path).unwrap();
                listener.accept().expect("its client");
            }
            Original => {
                let skd = program.skd(["-l"]).arg(&path).run("cat");
                assert_eq!(talk(skd.connect_unix(), b"stolen"), b"stolen");
            }
        }
    });
}

#[test]
fn socket_and_pid_file_are_not_left_behind() {
    each_program(|program| {
        let directory = Directory::new();
        let (socket, pidfile) = (directory.name("socket"), directory.name("pid"));
        let skd = program.skd(["-P", &pidfile, "-l", &socket]).run("cat");
        skd.wait_until("the pid file", || !directory.read("pid").is_empty());
        skd.stop();
        for path in [socket, pidfile] {
            assert_eq!(Path::new(&path).exists(), program == Original, "{path}");
        }
    });
}

#[test]
fn the_port_is_printed_when_it_can_be_connected() {
    each_program(|program| {
        let path = program.path();
        match program {
            Ours => {
                let skd = program.skd(["-t", "127.0.0.1:0"]).start("cat");
                let port = skd.stdout_line().parse().unwrap();
                assert_eq!(
                    talk(connect((Ipv4Addr::LOCALHOST, port).into()), b"1"),
                    b"1"
                );
            }
            Original => {
                // Behind a shell, so that the harness leaves the port 0 alone.
                let line = "exec \"$0\" -t 127.0.0.1:0 -- cat";
                let skd = Skd::new(["-c", line]).binary("/bin/sh").start(path);
                skd.wait_until("it listens", || !bound(skd.pid(), Kind::Tcp).is_empty());
                let address: SocketAddr = bound(skd.pid(), Kind::Tcp)[0].parse().unwrap();
                assert_eq!(talk(connect(address), b"1"), b"1");
                // Into a pipe, the number isn't written before the end.
                assert!(skd.stdout_lines().is_empty());
            }
        }
    });
}

#[test]
fn the_port_is_not_printed_before_a_start_that_fails() {
    each_program(|program| {
        let directory = Directory::new();
        let pidfile = directory.name("absent/pid");
        let output = match program {
            Ours => program
                .skd(["-t", "127.0.0.1:0", "-P", &pidfile, "cat"])
                .end(),
            // Behind a shell, so that the harness leaves the port 0 alone.
            Original => Skd::new(["-c", "exec \"$0\" -t 127.0.0.1:0 -P \"$1\" -- cat"])
                .arg(program.path())
                .arg(pidfile)
                .binary("/bin/sh")
                .end(),
        };
        output.expect_code(1);
        match program {
            Ours => assert_eq!(output.stdout, ""),
            Original => assert!(output.stdout.trim().parse::<u16>().is_ok(), "{output:?}"),
        }
    });
}

#[test]
fn options_after_the_program_are_its_own() {
    each_program(|program| {
        let output = program.skd(["echo", "-v"]).end();
        let written = match program {
            Ours => "-v\n",
            Original => "\n",
        };
        output.expect_code(0);
        assert_eq!(output.stdout, written);
    });
}

#[test]
fn tcp_does_not_become_udp_by_a_style_option() {
    each_program(|program| {
        let namespace = Namespace::new();
        match program {
            Ours => {
                let output = program
                    .skd(["-t", "127.0.0.1:7000", "-d", "cat"])
                    .inside(&namespace)
                    .end();
                output.expect_refusal(2, &["-i", "-u"]);
            }
            Original => {
                let skd = program
                    .skd(["-t", "127.0.0.1:7000", "-d"])
                    .inside(&namespace)
                    .start("cat");
                skd.wait_until("UDP", || bound(skd.pid(), Kind::Udp) == ["127.0.0.1:7000"]);
                assert!(bound(skd.pid(), Kind::Tcp).is_empty());
            }
        }
    });
}

#[test]
fn nothing_starts_without_its_program() {
    each_program(|program| {
        let prog = "/nonexistent/program";
        match program {
            Ours => drop(
                program
                    .skd(["-t", "127.0.0.1:0", prog])
                    .end()
                    .expect_refusal(127, &[prog]),
            ),
            Original => {
                let skd = program.skd(["-t", "127.0.0.1:0"]).run(prog);
                let _ = try_talk(skd.connect(), b"");
                skd.wait_for_log("Exec failed: No such file or directory");
            }
        }
    });
}

#[test]
fn numbers_are_decimal() {
    each_program(|program| {
        for (option, number) in [("-c", "0x2"), ("-b", "0x10")] {
            match program {
                Ours => {
                    let output = program
                        .skd(["-t", "127.0.0.1:0", option, number, "cat"])
                        .end();
                    output.expect_refusal(2, &[number, "decimal"]);
                }
                Original => {
                    let skd = program
                        .skd(["-t", "127.0.0.1:0", option, number])
                        .run("cat");
                    assert_eq!(talk(skd.connect(), b"1"), b"1");
                }
            }
        }
        // A leading zero makes no octal number.
        let skd = program.skd(["-b", "010", "-t", "127.0.0.1:0"]).run("cat");
        let expected = match program {
            Ours => 10,
            Original => 8,
        };
        assert_eq!(backlog(skd.pid()), expected);
    });
}

/// The backlog of the one socket that `pid` listens on, which ss(8) has in the column "Send-Q".
fn backlog(pid: i32) -> u32 {
    requires_command("ss");
    let list = Command::new("ss")
        .args(["-Hltnp"])
        .output()
        .expect("ss(8)")
        .stdout;
    let list = String::from_utf8(list).unwrap();
    let line = list
        .lines()
        .find(|line| line.contains(&format!("pid={pid},")));
    let queue = line.and_then(|line| line.split_whitespace().nth(2));
    queue.expect("a socket that listens").parse().unwrap()
}

#[test]
fn the_backlog_is_as_long_as_the_kernel_allows() {
    each_program(|program| {
        let skd = program.skd(["-t", "127.0.0.1:0"]).run("cat");
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        let expected = match program {
            Ours => most.trim().parse().unwrap(),
            Original => 10,
        };
        assert_eq!(backlog(skd.pid()), expected);
    });
}

#[test]
fn facility_numbers_are_those_of_rfc_5424() {
    requires_root();
    each_program(|program| {
        let namespace = Namespace::new();
        namespace.private_dev();
        let syslog = Syslog::bind(namespace.path("/dev/log"));
        let directory = Directory::new();
        let start = |spec: &str| {
            let skd = program.skd(["-vL", spec, "-l", &directory.name("socket")]);
            let skd = skd.inside(&namespace).run("cat");
            talk(skd.connect_unix(), b"");
            skd
        };
        // 3 is daemon, and 5 notice. In the C library's own numbers, 3 × 8 is daemon, and 3 no facility but error.
        let _skd = start("three:3.5");
        let priority = syslog.wait_for("three: Accepted").priority();
        match program {
            Ours => {
                assert_eq!(priority, Some(3 * 8 + 5));
                let output = program
                    .skd(["-L", "raw:24.5", "-t0", "cat"])
                    .inside(&namespace)
                    .end();
                output.expect_refusal(2, &["raw:24.5"]);
            }
            Original => {
                assert_ne!(priority, Some(3 * 8 + 5));
                let _skd = start("raw:24.5");
                assert_eq!(syslog.wait_for("raw: Accepted").priority(), Some(3 * 8 + 5));
            }
        }
    });
}

#[test]
fn a_name_after_an_at_sign_is_abstract() {
    each_program(|program| {
        let directory = Directory::new();
        let name = format!(
            "@{}",
            directory.path().file_name().unwrap().to_str().unwrap()
        );
        let skd = program.skd(["-l", &name]).cwd(directory.path()).run("cat");
        assert_eq!(directory.join(&name).exists(), program == Original);
        if program == Ours {
            assert_eq!(talk(skd.connect_unix(), b"1"), b"1");
        }
    });
}

#[test]
fn becoming_root_is_no_drop_of_privileges() {
    requires_root();
    each_program(|program| {
        let output = program
            .skd(["-U", "--", "id", "-u"])
            .env("UID", "0")
            .env("GID", "0")
            .env_remove("ROOT")
            .end();
        match program {
            Ours => drop(output.expect_refusal(2, &["$UID", "'0'"])),
            Original => {
                output.expect_code(0);
                assert_eq!(output.stdout, "0\n");
            }
        }
    });
}

#[test]
fn a_daemon_does_not_keep_the_terminal() {
    each_program(|program| {
        let directory = Directory::new();
        let terminal = Terminal::new();
        let daemon = program
            .skd(["-B", "-l", &directory.name("socket")])
            .stdout(terminal.end())
            .stderr(terminal.end())
            .daemon("cat");
        daemon.wait_until("it serves", || {
            UnixStream::connect(directory.join("socket")).is_ok()
        });
        let error = descriptors(daemon.pid())[&2].clone();
        match program {
            Ours => assert_eq!(error, "/dev/null"),
            Original => assert!(error.starts_with("/dev/pts/"), "{error}"),
        }
    });
}

#[test]
fn several_listeners_are_served() {
    each_program(|program| {
        let skd = program
            .skd(["-t", "127.0.0.1:0", "-t", "127.0.0.2:0"])
            .start("cat");
        let [first, last] = skd.addresses()[..] else {
            panic!("two addresses")
        };
        let expected = match program {
            Ours => vec![first.to_string(), last.to_string()],
            Original => vec![last.to_string()],
        };
        skd.wait_until("it listens", || bound(skd.pid(), Kind::Tcp) == expected);
    });
}

#[test]
fn the_version_is_on_stdout() {
    each_program(|program| {
        let output = program.skd(["-V"]).end();
        output.expect_code(0);
        let (stdout, stderr) = (!output.stdout.is_empty(), !output.stderr.is_empty());
        assert_eq!(
            (stdout, stderr),
            (program == Ours, program == Original),
            "{output:?}"
        );
    });
}

#[test]
fn bad_usage_has_a_status_of_its_own() {
    each_program(|program| {
        for words in [
            &["-Z", "cat"][..],
            &["-t", "0"],
            &["-c", "none", "-t", "0", "cat"],
            &[],
        ] {
            let code = match program {
                Ours => 2,
                Original => 1,
            };
            program.skd(words).end().expect_code(code);
        }
    });
}
