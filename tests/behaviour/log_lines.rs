//! The lines of the log, word for word: scripts parse them.

use crate::harness::{
    DEADLINE, Directory, Running, Skd, ask_udp, command, connect_unix, datagram_echo, each_program,
    echo, send_unix_datagram, talk, try_talk, udp_client,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

/// Parses the number between two parts of a line; also of a time, without its point.
#[track_caller]
fn between<'a>(line: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = line
        .split_once(before)
        .unwrap_or_else(|| panic!("no {before:?} in {line:?}"));
    let (number, _) = rest
        .split_once(after)
        .unwrap_or_else(|| panic!("no {after:?} in {line:?}"));
    assert!(
        number
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.'),
        "{line}"
    );
    number
}

/// Asserts that a line ends with a duration: seconds and milliseconds.
#[track_caller]
fn ends_with_a_duration(line: &str, before: &str) {
    let (_, duration) = line
        .split_once(before)
        .unwrap_or_else(|| panic!("no {before:?} in {line:?}"));
    let figures = duration.strip_suffix('s').expect("seconds");
    let (seconds, thousandths) = figures.split_once('.').expect("a point");
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    assert!(
        digits(seconds) && digits(thousandths) && thousandths.len() == 3,
        "{line}"
    );
}

/// The handler, after its exec: a newborn that is killed before is replaced.
fn handler_of(skd: &Running) -> i32 {
    let handler = skd.wait_for_children(1)[0];
    skd.wait_until("it has executed its program", || {
        command(handler) != command(skd.pid())
    });
    handler
}

#[test]
fn a_tcp_connection_is_reported_from_begin_to_end() {
    for (listener, ip) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1")] {
        let skd = Skd::new(["-vt", listener]).run("cat");
        let mut stream = skd.connect();
        let port = stream.local_addr().unwrap().port();
        echo(&mut stream, b".");
        let handler = handler_of(&skd);
        assert_eq!(
            skd.log_lines(),
            [format!("Accepted connection from [{ip}]:{port}")]
        );
        talk(stream, b"");
        let line = skd.wait_for_log("Closed");
        let expected = format!(
            "Closed connection from [{ip}]:{port}: pid {handler} exited with status 0 after "
        );
        ends_with_a_duration(&line, &expected);
        assert!(line.starts_with(&expected));
        assert_eq!(skd.log_lines().len(), 2);
    }
}

#[test]
fn an_ipv4_client_of_a_bare_port_is_plain_ipv4() {
    each_program(|program| {
        let skd = program.skd(["-v", "-t", "0"]).run("cat");
        let stream = skd.connect();
        let port = stream.local_addr().unwrap().port();
        talk(stream, b"");
        skd.wait_for_log("Accepted");
        assert_eq!(
            skd.log_lines()[0],
            format!("Accepted connection from [127.0.0.1]:{port}")
        );
    });
}

#[test]
fn a_unix_connection_is_reported_from_begin_to_end() {
    each_program(|program| {
        let directory = Directory::new();
        let skd = program
            .skd(["-v", "-l", &directory.name("socket")])
            .run("cat");
        let mut stream = skd.connect_unix();
        echo(&mut stream, b".");
        let handler = handler_of(&skd);
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let caller = format!(
            "local connection from pid {} (uid = {uid}, gid = {gid})",
            std::process::id()
        );
        assert_eq!(skd.log_lines(), [format!("Accepted {caller}")]);
        talk(stream, b"");
        if program.is_ours() {
            let line = skd.wait_for_log("Closed");
            let expected = format!("Closed {caller}: pid {handler} exited with status 0 after ");
            assert!(line.starts_with(&expected), "{line}");
            ends_with_a_duration(&line, &expected);
        }
    });
}

#[test]
fn a_status_and_a_signal_are_logged() {
    let skd = Skd::new(["-vt", "127.0.0.1:0"]).run_with("sh", ["-c", "read status; exit $status"]);
    for status in ["3", "255"] {
        let _ = try_talk(skd.connect(), format!("{status}\n").as_bytes());
        skd.wait_for_log(&format!(" exited with status {status} after "));
    }
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let stream = skd.connect();
        let port = stream.local_addr().unwrap().port();
        let handler = handler_of(&skd);
        kill(Pid::from_raw(handler), signal).unwrap();
        let _ = try_talk(stream, b"");
        let line = skd.wait_for_log(&format!("[127.0.0.1]:{port}: pid"));
        let number = signal as i32;
        let expected = format!(
            "Closed connection from [127.0.0.1]:{port}: pid {handler} was terminated by signal {number} after "
        );
        assert!(line.starts_with(&expected), "{line}");
        ends_with_a_duration(&line, &expected);
    }
}

#[test]
fn a_duration_is_that_of_the_handler() {
    let skd = Skd::new(["-vt", "127.0.0.1:0"]).run_with("sh", ["-c", "sleep 0.2"]);
    let _ = try_talk(skd.connect(), b"");
    let line = skd.wait_for_log("Closed");
    let seconds: f64 = between(&line, " after ", "s").parse().unwrap();
    // Never less than its sleep, and more only as far as the machine is slow.
    assert!(seconds >= 0.2, "{line}");
}

#[test]
fn a_datagram_is_reported() {
    each_program(|program| {
        let (prog, args) = datagram_echo();
        let directory = Directory::new();
        let skd = program
            .skd(["-v", "-u", "127.0.0.1:0"])
            .run_with(prog, args);
        let client = udp_client(skd.address());
        crate::harness::ask(&client, b"1");
        let port = client.local_addr().unwrap().port();
        let expected = format!("Received initial datagram from [127.0.0.1]:{port}");
        assert_eq!(skd.wait_for_log("Received"), expected);
        drop(skd);
        let path = directory.name("socket");
        let skd = program
            .skd(["-vdl", &path])
            .run_with("sh", ["-c", "dd bs=9 count=1 >&2 2>/dev/null"]);
        send_unix_datagram(&path, b"text\n");
        assert_eq!(
            skd.wait_for_log("Received"),
            "Received initial local datagram"
        );
        assert_eq!(skd.wait_for_log("text"), "text");
        drop(skd);
    });
}

#[test]
fn a_datagram_of_ipv6_has_its_address_in_brackets() {
    let (prog, args) = datagram_echo();
    let skd = Skd::new(["-vu", "0"]).run_with(prog, args);
    let client = udp_client(SocketAddr::from((Ipv6Addr::LOCALHOST, skd.port())));
    crate::harness::ask(&client, b"1");
    let port = client.local_addr().unwrap().port();
    skd.wait_for_log(&format!("Received initial datagram from [::1]:{port}"));
}

#[test]
fn without_v_successful_connections_are_not_logged() {
    each_program(|program| {
        let directory = Directory::new();
        let skd = program
            .skd(["-t", "127.0.0.1:0"])
            .run_with("sh", ["-c", "cat; exit 3"]);
        assert_eq!(talk(skd.connect(), b"1"), b"1");
        skd.wait_until("it is reaped", || skd.children().is_empty());
        if program.is_ours() {
            skd.stop();
        }
        assert!(skd.log_lines().is_empty());
        drop(skd);
        let (prog, args) = datagram_echo();
        let skd = program.skd(["-u", "127.0.0.1:0"]).run_with(prog, args);
        assert_eq!(ask_udp(skd.address(), b"1"), b"1");
        skd.wait_until("it is reaped", || skd.children().is_empty());
        assert!(skd.log_lines().is_empty());
        drop(directory);
    });
}

#[test]
fn vv_logs_slots_and_listeners() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = Skd::new([
        "-vvc",
        "5",
        "-t",
        "127.0.0.1:0",
        "-l",
        &path,
        "-u",
        "127.0.0.1:0",
    ])
    .run("cat");
    let [tcp, udp] = skd.addresses()[..] else {
        panic!("two addresses")
    };
    let listeners = [
        format!("TCP [127.0.0.1]:{}", tcp.port()),
        format!("unix stream {path}"),
        format!("UDP [127.0.0.1]:{}", udp.port()),
    ];
    let listening = listeners
        .clone()
        .map(|listener| format!("Listening on {listener}"));
    // After the ports.
    skd.wait_for_log(&listening[2]);
    assert_eq!(skd.log_lines(), listening);
    let (mut one, mut two) = (skd.connect(), connect_unix(&path));
    echo(&mut one, b"1");
    skd.wait_for_log("Running 1 of 5 handlers");
    echo(&mut two, b"2");
    skd.wait_for_log("Running 2 of 5 handlers");
    talk(two, b"");
    skd.wait_for_logs("Running 1 of 5 handlers", 2);
    assert_eq!(skd.stop().code(), Some(0));
    let mut closed: Vec<String> = skd
        .logged("Closed ")
        .into_iter()
        .filter(|line| !line.contains("connection"))
        .collect();
    closed.sort();
    let mut expected = listeners
        .map(|listener| format!("Closed {listener}"))
        .to_vec();
    expected.sort();
    assert_eq!(closed, expected);
}

#[test]
fn vv_logs_handlers_without_a_limit_too() {
    let skd = Skd::new(["-vvt", "127.0.0.1:0"]).run("cat");
    talk(skd.connect(), b"");
    skd.wait_for_log("Closed connection");
    skd.wait_for_log("Running 0 handlers");
    let said = skd.log_lines();
    assert!(
        said.iter().any(|line| line == "Running 1 handler"),
        "{said:?}"
    );
    // No other number, since there was one connection.
    assert_eq!(
        said.iter()
            .filter(|line| line.starts_with("Running"))
            .count(),
        2
    );
}

#[test]
fn vv_counts_no_handlers_of_datagrams() {
    let line = "test $PROTO = TCP && exec cat; exec cat > /dev/null";
    let skd =
        Skd::new(["-vvc5", "-u", "127.0.0.1:0", "-t", "127.0.0.1:0"]).run_with("sh", ["-c", line]);
    udp_client(skd.addresses()[0]).send(b"1").unwrap();
    let datagrams = handler_of(&skd);
    let mut stream = skd.connect();
    echo(&mut stream, b"2");
    skd.wait_for_log("Running 1 of 5 handlers");
    kill(Pid::from_raw(datagrams), Signal::SIGKILL).unwrap();
    skd.wait_for_log("Finished datagram");
    talk(stream, b"");
    skd.wait_for_log("Running 0 of 5 handlers");
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(skd.logged("Running").len(), 2, "{:?}", skd.log_lines());
}

#[test]
fn v_given_more_than_twice_is_like_vv() {
    for option in [["-vvv", "-v"], ["--verbose", "--verbose"]] {
        let skd = Skd::new(option).args(["-t", "127.0.0.1:0"]).run("cat");
        skd.wait_for_log("Listening on TCP [127.0.0.1]:");
    }
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).run("cat");
    talk(skd.connect(), b"");
    skd.wait_for_log("Closed connection");
    assert!(skd.logged("Listening").is_empty() && skd.logged("Running").is_empty());
}

#[test]
fn repeated_trouble_is_logged_at_most_once_a_second() {
    let directory = Directory::new();
    let prog = directory.script("handler", "#!/bin/sh\nexec cat\n");
    let skd = Skd::new(["-t", "127.0.0.1:0"]).run(&prog);
    fs::remove_file(&prog).unwrap();
    let begin = std::time::Instant::now();
    for _ in 0..200 {
        let _ = try_talk(skd.connect(), b"");
    }
    let most = begin.elapsed().as_secs() + 1;
    let lines = skd.logged("skd: ");
    assert!(
        (1..=most).contains(&(lines.len() as u64)),
        "{most}: {lines:?}"
    );
    assert_eq!(skd.log_lines(), lines);
}

#[test]
fn repeated_trouble_is_logged_after_the_interval_that_a_test_sets() {
    // Release builds have no such interval.
    if !cfg!(debug_assertions) {
        return;
    }
    for (interval, lines) in [(Duration::from_secs(3600), 1), (Duration::ZERO, 20)] {
        let directory = Directory::new();
        let prog = directory.script("handler", "#!/bin/sh\nexec cat\n");
        let skd = Skd::new(["-t", "127.0.0.1:0"])
            .throttle(interval)
            .run(&prog);
        fs::remove_file(&prog).unwrap();
        for _ in 0..20 {
            let _ = try_talk(skd.connect(), b"");
        }
        assert_eq!(skd.stop().code(), Some(0));
        assert_eq!(skd.logged("can't be run").len(), lines);
    }
}

#[test]
fn control_characters_in_names_are_escaped() {
    let directory = Directory::new();
    // Bytes that end a line, change the colour of the next, and ring the bell.
    let name = "new\nline\x1b[31m\x07é";
    let prog = directory.script("handler", "#!/bin/sh\nexec cat\n");
    let odd = directory.join(name);
    fs::rename(&prog, &odd).unwrap();
    let escaped = directory.name("new\\x0aline\\x1b[31m\\x07é");
    let skd = Skd::new(["-t", "127.0.0.1:0"]).run(&odd);
    fs::remove_file(&odd).unwrap();
    let _ = try_talk(skd.connect(), b"");
    let line = skd.wait_for_log("skd: ");
    assert_eq!(
        line,
        format!("skd: '{escaped}' can't be run: No such file or directory")
    );
    assert_eq!(skd.log_lines().len(), 1);
    Skd::new(["-t", "127.0.0.1:0"])
        .arg(&odd)
        .end()
        .expect_refusal(127, &[&escaped]);

    let listener = format!("@{}", odd.to_str().unwrap());
    // Not even /proc/net/unix shows this name in one line.
    let skd = Skd::new(["-vvl", &listener]).start("cat");
    let expected = format!("Listening on unix stream @{escaped}");
    assert_eq!(skd.wait_for_log("Listening"), expected);
    Skd::new(["-l", &listener, "cat"])
        .end()
        .expect_refusal(1, &[&escaped]);
    assert_eq!(skd.stop().code(), Some(0));
    let closed = format!("Closed unix stream @{escaped}");
    assert_eq!(skd.log_lines(), [expected, closed]);
}

#[test]
fn a_line_that_is_too_long_is_cut_and_stays_one() {
    let directory = Directory::new();
    let long = format!("/{}", "x/".repeat(1500));
    let output = Skd::new(["-t", "127.0.0.1:0", &long])
        .cwd(directory.path())
        .end();
    output.expect_refusal(127, &["skd: '/x/x/x", "…\n"]);
    assert!(output.stderr.len() <= 1024);
}

#[test]
fn lines_of_many_connections_do_not_mix() {
    let skd = Skd::new(["-v", "--threads", "4", "-t", "127.0.0.1:0"]).run("cat");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    talk(skd.connect(), b".");
                }
            });
        }
    });
    skd.wait_for_logs("Closed connection", 100);
    let lines = skd.log_lines();
    assert_eq!(lines.len(), 200);
    for line in lines {
        match line.strip_prefix("Accepted connection from [127.0.0.1]:") {
            Some(port) => assert!(port.parse::<u16>().is_ok(), "{line}"),
            None => {
                between(&line, "Closed connection from [127.0.0.1]:", ": pid ");
                ends_with_a_duration(&line, " exited with status 0 after ");
            }
        }
    }
}

#[test]
fn an_unread_log_delays_no_connection() {
    // A full pipe: 1.2 would block here, with all its clients.
    let (reader, writer) = std::io::pipe().unwrap();
    let skd = Skd::new(["-vt", "127.0.0.1:0"])
        .stderr(writer.try_clone().unwrap())
        .run("cat");
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    for _ in 0..200 {
        assert_eq!(talk(skd.connect(), b"served"), b"served");
    }
    // The number of lost lines is logged when there is room again.
    drop(writer);
    let mut reader = BufReader::new(reader);
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < 400 {
        // Each connection adds two lines, as soon as there is room for them.
        talk(skd.connect(), b"");
        if reader.buffer().is_empty() {
            let mut wanted = [PollFd::new(reader.get_ref().as_fd(), PollFlags::POLLIN)];
            let limit = PollTimeout::try_from(DEADLINE).unwrap();
            assert_eq!(
                poll(&mut wanted, limit),
                Ok(1),
                "no line of {seen} and {lost}"
            );
        }
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.contains(" lost here") {
            lost += between(&line, "skd: ", " line").parse::<u32>().unwrap();
        } else {
            seen += 1;
        }
    }
    assert!(lost > 0);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn starts_and_ends_of_a_supervised_program_are_logged() {
    each_program(|program| {
        let skd = program.skd(["-vS"]).start_with("sh", ["-c", "exit 3"]);
        skd.wait_for_log("sh exited abnormally with status 3");
        assert_eq!(
            skd.log_lines()[..2],
            ["Started sh", "sh exited abnormally with status 3"]
        );
        drop(skd);
        let skd = program.skd(["-vS"]).start_with("sh", ["-c", "kill -9 $$"]);
        skd.wait_for_log("sh was terminated by signal 9");
    });
}
