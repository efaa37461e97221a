//! The effects of signals on a daemon that serves.

use crate::harness::{
    Directory, HeldStart, Program, Running, SignalMasks, Skd, Terminal, children, connect_unix,
    each_program, exists, leave_stale, receive, requires_command, requires_root,
    send_unix_datagram, signal_masks, talk, wait_for_text, wait_until,
};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixListener;

/// A connection whose handler is known to run.
fn served(skd: &Running) -> TcpStream {
    let mut stream = skd.connect();
    stream.write_all(b".").unwrap();
    assert_eq!(receive(&mut stream, 1), b".");
    stream
}

#[test]
fn term_ends_skd_and_leaves_handlers_to_finish() {
    each_program(|program| {
        let skd = program.skd(["-t", "127.0.0.1:0"]).run("cat");
        let mut streams = [served(&skd), served(&skd)];
        let handlers = skd.wait_for_children(2);
        skd.signal(Signal::SIGTERM);
        let status = skd.wait();
        match program {
            Program::Ours => assert_eq!(status.code(), Some(0)),
            Program::Original => assert_eq!(status.code(), None),
        }
        for stream in &mut streams {
            stream.write_all(b"more").unwrap();
            assert_eq!(receive(stream, 4), b"more");
        }
        if program.is_ours() {
            TcpStream::connect(skd.address()).expect_err("no listener any more");
        }
        for stream in streams {
            talk(stream, b"");
        }
        for handler in handlers {
            wait_until("the handler finishes", || !exists(handler));
        }
    });
}

#[test]
fn int_and_quit_end_handlers_and_all_of_their_groups() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        // With a child that stays in its group.
        let script = "sleep 1000 & echo started; wait";
        let skd = Skd::new(["-t", "127.0.0.1:0"]).run_with("sh", ["-c", script]);
        let mut streams = [skd.connect(), skd.connect()];
        for stream in &mut streams {
            assert_eq!(receive(stream, 8), b"started\n");
        }
        let handlers = skd.wait_for_children(2);
        let mut all = handlers.clone();
        for &handler in &handlers {
            all.extend(children(handler));
        }
        assert_eq!(all.len(), 4);
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(0), "{signal}");
        for pid in all {
            wait_until("all processes end", || !exists(pid));
        }
    }
}

#[test]
fn handlers_get_term_whatever_signal_ended_skd() {
    let directory = Directory::new();
    let script = "trap 'echo TERM > \"$0\"; exit' TERM; trap 'echo INT > \"$0\"; exit' INT QUIT; \
                  echo ready; while :; do sleep 0.01; done";
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let told = directory.name(signal.as_str());
        let skd = Skd::new(["-t", "127.0.0.1:0"]).run_with("sh", ["-c", script, &told]);
        assert_eq!(receive(&mut skd.connect(), 6), b"ready\n");
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(0));
        wait_for_text(told, "TERM\n");
    }
}

#[test]
fn a_datagram_handler_gets_term_since_it_holds_the_socket() {
    let directory = Directory::new();
    let socket = directory.name("socket");
    let skd = Skd::new(["-d", "-l", &socket]).run_with("sleep", ["1000"]);
    send_unix_datagram(&socket, b"unread");
    let handler = skd.wait_for_children(1)[0];
    assert_eq!(skd.stop().code(), Some(0));
    wait_until("the handler ends", || !exists(handler));
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn stream_and_datagram_handlers_are_told_apart() {
    let directory = Directory::new();
    let skd = Skd::new(["-t", "127.0.0.1:0", "-u", "127.0.0.1:0"]).run_with(
        "sh",
        [
            "-c",
            "echo \"$PROTO $$\" >> \"$0\"; exec sleep 1000",
            &directory.name("log"),
        ],
    );
    let _stream = skd.connect_to(skd.addresses()[0]);
    let client = crate::harness::udp_client(skd.addresses()[1]);
    client.send(b"unread").unwrap();
    wait_until("both handlers", || {
        directory.read("log").lines().count() == 2
    });
    let pid_of = |protocol: &str| -> i32 {
        let log = directory.read("log");
        let line = log.lines().find_map(|line| line.strip_prefix(protocol));
        line.unwrap().trim().parse().unwrap()
    };
    let (stream, datagram) = (pid_of("TCP"), pid_of("UDP"));
    assert_eq!(skd.stop().code(), Some(0));
    wait_until("the datagram handler ends", || !exists(datagram));
    assert!(exists(stream));
}

#[test]
fn the_socket_file_is_removed() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
    ] {
        let directory = Directory::new();
        let (first, second) = (directory.name("first"), directory.name("second"));
        let skd = Skd::new(["-l", &first, "-l", &second]).run("cat");
        assert_eq!(directory.names(), ["first", "second"]);
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(0));
        assert_eq!(directory.names(), [""; 0], "{signal}");
    }
}

#[test]
fn a_foreign_socket_at_the_path_is_not_removed() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let skd = Skd::new(["-l"]).arg(&path).run("cat");
    fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    assert_eq!(skd.stop().code(), Some(0));
    connect_unix(&path);
}

#[test]
fn a_file_at_the_path_of_the_socket_is_not_removed() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let skd = Skd::new(["-l"]).arg(&path).run("cat");
    directory.write("new", "precious");
    fs::rename(directory.join("new"), &path).unwrap();
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.read("socket"), "precious");
}

#[test]
fn a_socket_whose_directory_was_renamed_is_removed() {
    let directory = Directory::new();
    fs::create_dir(directory.join("before")).unwrap();
    let skd = Skd::new(["-l", "before/socket"])
        .cwd(directory.path())
        .run("cat");
    fs::rename(directory.join("before"), directory.join("after")).unwrap();
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(fs::read_dir(directory.join("after")).unwrap().count(), 0);
}

#[test]
fn hup_ends_a_skd_in_the_foreground_with_nothing_to_reopen() {
    each_program(|program| {
        let skd = program.skd(["-t", "127.0.0.1:0"]).run("cat");
        let mut stream = served(&skd);
        skd.signal(Signal::SIGHUP);
        let status = skd.wait();
        match program {
            Program::Ours => assert_eq!(status.code(), Some(0)),
            Program::Original => assert_eq!(status.code(), None),
        }
        stream.write_all(b"1").unwrap();
        assert_eq!(receive(&mut stream, 1), b"1");
    });
}

#[test]
fn a_closed_terminal_ends_a_skd_in_the_foreground() {
    each_program(|program| {
        let terminal = Terminal::new();
        let skd = program
            .skd(["-t", "127.0.0.1:0"])
            .controlled_by(&terminal)
            .stdin(terminal.end())
            .run("cat");
        terminal.hang_up();
        skd.wait();
    });
}

/// Sends a signal that must not end skd, and waits until it was handled.
#[track_caller]
fn survives(skd: &crate::harness::Instance, signal: Signal) {
    skd.signal(signal);
    wait_until("the signal has arrived", || {
        !SignalMasks::has(signal_masks(skd.pid()).pending, signal)
            && !shared_pending(skd.pid(), signal)
    });
    for _ in 0..3 {
        assert_eq!(
            talk(skd.connect(), b"still here"),
            b"still here",
            "{signal}"
        );
    }
}

/// Whether a signal is pending for the process as a whole (ShdPnd of proc(5)).
fn shared_pending(pid: i32, signal: Signal) -> bool {
    let set = crate::harness::status_field(pid, "ShdPnd").unwrap();
    SignalMasks::has(u64::from_str_radix(&set, 16).unwrap(), signal)
}

#[test]
fn hup_that_was_ignored_at_the_start_ends_nothing() {
    each_program(|program| {
        let skd = program
            .skd(["-t", "127.0.0.1:0"])
            .ignoring(Signal::SIGHUP)
            .run("cat");
        survives(&skd, Signal::SIGHUP);
    });
}

#[test]
fn hup_that_was_ignored_at_the_start_does_not_end_the_start_either() {
    requires_root();
    let held = HeldStart::new();
    let skd = Skd::new(["-t", "held.example:0"])
        .inside(&held.namespace)
        .ignoring(Signal::SIGHUP)
        .start("cat");
    held.during(|| skd.signal(Signal::SIGHUP));
    let port = skd.stdout_line().parse().unwrap();
    let stream = skd.connect_to(([127, 0, 0, 1], port).into());
    assert_eq!(talk(stream, b"still here"), b"still here");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn nohup_keeps_skd_through_the_end_of_a_terminal() {
    requires_command("nohup");
    let terminal = Terminal::new();
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .wrapper(["nohup"])
        .controlled_by(&terminal)
        .stdin(terminal.end())
        .run("cat");
    terminal.hang_up();
    assert_eq!(talk(skd.connect(), b"still here"), b"still here");
    survives(&skd, Signal::SIGHUP);
}

#[test]
fn hup_ends_no_skd_with_a_log_file_or_in_the_background() {
    let directory = Directory::new();
    let log = format!(">>{}", directory.name("log"));
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", &log]).run("cat");
    survives(&skd, Signal::SIGHUP);
    let daemon = Skd::new(["-t", "127.0.0.1:0"]).daemon("cat");
    survives(&daemon, Signal::SIGHUP);
    let daemon = Skd::new(["-t", "127.0.0.1:0", "-L", &log]).daemon("cat");
    survives(&daemon, Signal::SIGHUP);
}

#[test]
fn user_signals_and_terminal_signals_are_ignored() {
    for signal in [
        Signal::SIGUSR1,
        Signal::SIGPIPE,
        Signal::SIGCHLD,
        Signal::SIGWINCH,
        Signal::SIGURG,
        Signal::SIGCONT,
    ] {
        let skd = Skd::new(["-t", "127.0.0.1:0"]).run("cat");
        skd.signal(signal);
        for _ in 0..3 {
            assert_eq!(talk(skd.connect(), b"here"), b"here", "{signal}");
        }
        // The signal has arrived: another one comes through after it.
        assert_eq!(skd.stop().code(), Some(0), "{signal}");
    }
}

#[test]
fn inherited_ignored_signals_do_not_matter() {
    let ignored = [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGPIPE,
        Signal::SIGUSR1,
        Signal::SIGALRM,
    ];
    for ending in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let mut skd = Skd::new(["-vt", "127.0.0.1:0"]);
        for signal in ignored {
            skd = skd.ignoring(signal);
        }
        serves_and_ends(skd, ending);
    }
}

/// Asserts that a handler has no signal ignored or blocked, that its status is seen, and that the signal ends skd.
fn serves_and_ends(skd: Skd, ending: Signal) {
    let skd = skd.run_with("sh", ["-c", "cat; exit 3"]);
    let stream = served(&skd);
    let handler = skd.wait_for_children(1)[0];
    // The shell itself blocks signals now and then, but not for long.
    wait_until("nothing is ignored or blocked", || {
        let masks = signal_masks(handler);
        (masks.ignored, masks.blocked) == (0, 0)
    });
    talk(stream, b"");
    // If CHLD were still ignored, the kernel would have discarded the status.
    skd.wait_for_log("exited with status 3");
    skd.signal(ending);
    assert_eq!(skd.wait().code(), Some(0), "{ending}");
}

#[test]
fn inherited_blocked_signals_do_not_matter() {
    let blocked = [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGPROF,
    ];
    for ending in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut skd = Skd::new(["-vt", "127.0.0.1:0"]);
        for signal in blocked {
            skd = skd.blocking(signal);
        }
        serves_and_ends(skd, ending);
    }
}

#[test]
fn a_signal_during_the_start_is_not_lost_and_leaves_nothing() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let directory = Directory::new();
        // Held up in its start by the lock of another start on the same stale socket.
        leave_stale(directory.join("socket"));
        let lock = directory.write("socket.lock", "");
        directory.chmod("socket.lock", 0o600);
        let held = File::open(lock).unwrap();
        held.lock().unwrap();
        let skd = Skd::new([
            "-P",
            &directory.name("pid"),
            "-l",
            &directory.name("socket"),
        ])
        .start("cat");
        wait_until("it waits for the lock", || {
            directory.names() == ["pid", "pid.lock", "socket", "socket.lock"]
        });
        skd.signal(signal);
        drop(held);
        // It may end before it serves or just after, but it ends and leaves nothing.
        assert_eq!(skd.wait().code(), Some(0), "{signal}");
        assert_eq!(directory.names(), [""; 0], "{signal}");
    }
}

#[test]
fn a_storm_of_signals_during_starts_leaves_nothing() {
    let directory = Directory::new();
    for round in 0..40 {
        let skd = Skd::new([
            "-P",
            &directory.name("pid"),
            "-l",
            &directory.name("socket"),
        ])
        .start("cat");
        // Sooner or later in its start: the rounds differ.
        for _ in 0..round * 20 {
            std::thread::yield_now();
        }
        skd.signal(Signal::SIGTERM);
        skd.wait();
        skd.wait_until("nothing is left", || skd.processes().is_empty());
        assert_eq!(directory.names(), [""; 0], "round {round}");
    }
}
