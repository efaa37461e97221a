//! Kernels and containers without the newer system calls: the service must not differ.

use crate::harness::{
    DEADLINE, Directory, Program, Running, SignalMasks, Skd, Tampering, ask_udp, assert_idle,
    connect_unix, datagram_echo, descriptors, echo, process_group, requires_command, requires_root,
    settled_descriptors, signal_masks, sockets, talk, tampering, threads, wait_for, wait_until,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// `CLONE_PIDFD` of clone(2), among its flags.
const PIDFD: u32 = libc::CLONE_PIDFD as u32;

/// Other errnos of a filter would keep the C library from making threads too.
fn without_clone3(skd: Skd) -> Skd {
    skd.refusing(libc::SYS_clone3, Errno::ENOSYS)
}

/// Makes a skd run on another machine.
type Machine = fn(Skd) -> Skd;

/// This machine and others: which call each lacks, and how.
fn machines() -> Vec<(&'static str, Machine)> {
    vec![
        ("nothing", |skd| skd),
        ("close_range: ENOSYS", |skd| {
            skd.refusing(libc::SYS_close_range, Errno::ENOSYS)
        }),
        ("close_range: EPERM", |skd| {
            skd.refusing(libc::SYS_close_range, Errno::EPERM)
        }),
        // The call without its flag, as under a filter.
        ("CLOSE_RANGE_UNSHARE: EINVAL", |skd| {
            skd.refusing_bits(
                libc::SYS_close_range,
                2,
                libc::CLOSE_RANGE_UNSHARE,
                Errno::EINVAL,
            )
        }),
        // clone3(2) is newer than this flag.
        ("CLONE_PIDFD: EPERM", |skd| {
            without_clone3(skd).refusing_bits(libc::SYS_clone, 0, PIDFD, Errno::EPERM)
        }),
        ("CLONE_PIDFD: EINVAL", |skd| {
            without_clone3(skd).refusing_bits(libc::SYS_clone, 0, PIDFD, Errno::EINVAL)
        }),
        ("pidfds", |skd| {
            without_clone3(skd)
                .refusing_bits(libc::SYS_clone, 0, PIDFD, Errno::EINVAL)
                .refusing(libc::SYS_pidfd_open, Errno::ENOSYS)
        }),
        ("pidfds: EPERM", |skd| {
            without_clone3(skd)
                .refusing_bits(libc::SYS_clone, 0, PIDFD, Errno::EPERM)
                .refusing(libc::SYS_pidfd_open, Errno::EPERM)
        }),
        ("P_PIDFD of waitid", |skd| {
            // Of P_ALL, P_PID, P_PGID and P_PIDFD, from 0 up, the last two: skd waits for no group.
            skd.refusing_bits(libc::SYS_waitid, 0, 2, Errno::EINVAL)
        }),
        ("clone3", without_clone3),
        ("all of them", |skd| {
            skd.refusing(libc::SYS_close_range, Errno::ENOSYS)
                .refusing_bits(libc::SYS_clone, 0, PIDFD, Errno::EINVAL)
                .refusing(libc::SYS_pidfd_open, Errno::ENOSYS)
                .refusing(libc::SYS_clone3, Errno::ENOSYS)
                .refusing(libc::SYS_faccessat2, Errno::ENOSYS)
        }),
    ]
}

fn on_each_machine(test: impl Fn(Machine)) {
    for (missing, machine) in machines() {
        // Printed only if the test fails here.
        println!("without {missing}");
        test(machine);
    }
}

fn handlers_with(skd: &Running, count: usize) -> Vec<TcpStream> {
    let mut streams: Vec<TcpStream> = (0..count).map(|_| skd.connect()).collect();
    for stream in &mut streams {
        echo(stream, b".");
    }
    streams
}

#[test]
fn connections_are_served_and_handlers_reaped() {
    on_each_machine(|machine| {
        let skd = machine(Skd::new(["-vt", "127.0.0.1:0"])).run("cat");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        assert_eq!(talk(skd.connect(), b"served"), b"served");
                    }
                });
            }
        });
        // Every end is seen and logged, and nothing is left behind.
        skd.wait_for_logs("exited with status 0 after", 40);
        skd.wait_until("none is left", || skd.children().is_empty());
        assert!(skd.logged("skd: ").is_empty(), "{:?}", skd.log_lines());
        assert_eq!(skd.stop().code(), Some(0));
    });
}

#[test]
fn a_filter_may_refuse_clone3_in_any_way() {
    for errno in [Errno::ENOSYS, Errno::EPERM, Errno::EINVAL] {
        // With some C libraries threads can't be made then; in these modes there are none.
        let options = ["-v", "--wait", "-t", "127.0.0.1:0"];
        let skd = Skd::new(options).refusing(libc::SYS_clone3, errno);
        let script = "use Socket; accept(my $c, STDIN) or die $!; syswrite $c, 'served'";
        requires_command("perl");
        let skd = skd.run_with("perl", ["-e", script]);
        for _ in 0..3 {
            assert_eq!(talk(skd.connect(), b""), b"served", "{errno}");
        }
        assert_eq!(skd.stop().code(), Some(0));
        let skd = Skd::new(["-vS"]).refusing(libc::SYS_clone3, errno);
        let skd = skd.start_with("sh", ["-c", "exit 3"]);
        skd.wait_for_logs("Started sh", 2);
        skd.stop();
    }
}

#[test]
fn a_sandbox_may_have_clone3_without_its_flags() {
    // It refuses all calls with arguments: a filter can't see the flags, which are in memory.
    let any_address = u32::MAX;
    for flags in [0, PIDFD] {
        let skd = Skd::new(["-vt", "127.0.0.1:0"])
            .refusing_bits(libc::SYS_clone3, 0, any_address, Errno::ENOSYS)
            .refusing_bits(libc::SYS_clone, 0, flags, Errno::EINVAL)
            .run("cat");
        assert_eq!(talk(skd.connect(), b"served"), b"served");
        skd.wait_for_log("exited with status 0 after");
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn handlers_are_drained() {
    on_each_machine(|machine| {
        let options = ["-t", "127.0.0.1:0", "--drain=1h"];
        let skd = machine(Skd::new(options)).run("cat");
        let mut streams = handlers_with(&skd, 8);
        skd.signal(Signal::SIGTERM);
        wait_until("no client is accepted", || {
            TcpStream::connect(skd.address()).is_err()
        });
        streams.truncate(4);
        skd.wait_for_children(4);
        assert_eq!(skd.try_wait(Duration::ZERO), None);
        drop(streams);
        assert_eq!(skd.wait().code(), Some(0));

        let skd = machine(Skd::new(options)).run("cat");
        let _streams = handlers_with(&skd, 8);
        skd.signal(Signal::SIGINT);
        assert_eq!(skd.wait().code(), Some(3));
    });
}

#[test]
fn a_handler_starts_with_its_own_descriptors_only() {
    on_each_machine(|machine| {
        let file = || fs::File::open("/dev/null").unwrap();
        let skd = Skd::new(["-t", "127.0.0.1:0"])
            .descriptor(3, file())
            .descriptor(20, file())
            .descriptor(40, file())
            .descriptor(800, file())
            .ignoring(Signal::SIGINT)
            .blocking(Signal::SIGTERM);
        let skd = machine(skd).run("cat");
        // Several live handlers, so that there is something to leak.
        let streams = handlers_with(&skd, 8);
        for handler in skd.wait_for_children(8) {
            let open: Vec<i32> = descriptors(handler).into_keys().collect();
            assert_eq!(open, [0, 1, 2]);
            let none = SignalMasks {
                pending: 0,
                blocked: 0,
                ignored: 0,
                caught: 0,
            };
            assert_eq!(signal_masks(handler), none);
            assert_eq!(process_group(handler), Some(handler));
        }
        drop(streams);
    });
}

#[test]
fn a_connection_ends_with_its_handler() {
    on_each_machine(|machine| {
        let skd = machine(Skd::new(["-t", "127.0.0.1:0"])).run("cat");
        let mut streams = handlers_with(&skd, 6);
        let mut handlers = skd.wait_for_children(6);
        for left in (0..6).rev() {
            // If it were open in another handler, its client would see no end.
            assert_eq!(talk(streams.pop().unwrap(), b"last"), b"last");
            handlers = skd.wait_for_children(left);
        }
        assert!(handlers.is_empty());
    });
}

#[test]
fn input_of_clients_is_drained() {
    on_each_machine(|machine| {
        let options = ["-vvt", "127.0.0.1:0", "--linger=1h", "--drain=1h"];
        let script = "read line; head -c 300000 /dev/zero";
        let skd = machine(Skd::new(options)).run_with("sh", ["-c", script]);
        let before = settled_descriptors(skd.pid()).len();
        let answer = |ended| {
            let mut stream = skd.connect();
            stream.write_all(b"\nmore than a line").unwrap();
            skd.wait_for_logs("Closed connection from", ended);
            stream
        };
        let read = |mut stream: TcpStream| {
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer.len(), 300_000);
            stream
        };
        let streams: Vec<_> = (1..=4).map(answer).collect();
        streams.into_iter().map(read).for_each(drop);
        skd.wait_until("all are closed", || descriptors(skd.pid()).len() == before);
        // A lingering connection, and one whose handler ends while skd drains.
        let gone = answer(5);
        let mut talking = skd.connect();
        talking.write_all(b"more than").unwrap();
        skd.wait_for_children(1);
        skd.signal(Signal::SIGTERM);
        talking.write_all(b" a line\nand more").unwrap();
        skd.wait_for_logs("Closed connection from", 6);
        let left = [gone, talking].map(read);
        assert_eq!(skd.try_wait(Duration::ZERO), None);
        drop(left);
        assert_eq!(skd.wait().code(), Some(0));
    });
}

#[test]
fn the_number_of_handlers_never_exceeds_the_limit() {
    on_each_machine(|machine| {
        expect_two_at_once(&machine(Skd::new(["-c", "2", "-t", "127.0.0.1:0"])).run("cat"));
    });
}

/// Makes more clients than the two that may be served at once, with handlers that end in several ways.
fn expect_two_at_once(skd: &Running) {
    let mut served = handlers_with(skd, 2);
    let mut waiting: Vec<TcpStream> = (0..5).map(|_| skd.connect()).collect();
    for stream in &mut waiting {
        stream.write_all(b"w").unwrap();
    }
    for turn in 0..4 {
        let before = skd.wait_for_children(2);
        echo(&mut served[1], b"still");
        assert_eq!(skd.children(), before);
        if turn % 2 == 0 {
            talk(served.remove(0), b"");
        } else {
            kill(Pid::from_raw(before[0]), Signal::SIGKILL).unwrap();
            kill(Pid::from_raw(before[1]), Signal::SIGKILL).unwrap();
            served.clear();
            served.push(next(&mut waiting));
        }
        if waiting.is_empty() {
            return;
        }
        served.push(next(&mut waiting));
    }
}

/// Returns the next waiting client that is served.
fn next(waiting: &mut Vec<TcpStream>) -> TcpStream {
    let mut stream = waiting.remove(0);
    assert_eq!(crate::harness::receive(&mut stream, 1), b"w");
    stream
}

#[test]
fn datagrams_are_served() {
    on_each_machine(|machine| {
        let (prog, args) = datagram_echo();
        let skd = machine(Skd::new(["-u", "127.0.0.1:0"])).run_with(prog, args);
        for request in [b"one", b"two", b"six"] {
            assert_eq!(ask_udp(skd.address(), request), request);
        }
        skd.wait_until("none is left", || skd.children().is_empty());
    });
}

#[test]
fn surroundings_are_as_asked_for() {
    on_each_machine(|machine| {
        let options = [
            "--chdir",
            "/",
            "--umask",
            "31",
            "--nice",
            "3",
            "-t",
            "127.0.0.1:0",
        ];
        let skd = machine(Skd::new(options)).run_with("sh", ["-c", "pwd; umask; nice"]);
        assert_eq!(talk(skd.connect(), b""), b"/\n0031\n3\n");
        machine(Skd::new([
            "-t",
            "127.0.0.1:0",
            "--chdir",
            "/nonexistent",
            "/bin/cat",
        ]))
        .end()
        .expect_stderr(&["/nonexistent"]);
    });
}

#[test]
fn a_missing_program_is_reported() {
    on_each_machine(|machine| {
        let directory = Directory::new();
        let prog = directory.script("handler", "#!/bin/sh\nexec cat\n");
        let skd = machine(Skd::new(["-c1", "-t", "127.0.0.1:0"])).run(&prog);
        fs::rename(&prog, directory.join("away")).unwrap();
        for _ in 0..3 {
            assert_eq!(talk(skd.connect(), b""), b"");
        }
        skd.wait_for_log("can't be run: No such file or directory");
        fs::rename(directory.join("away"), &prog).unwrap();
        assert_eq!(talk(skd.connect(), b"back"), b"back");
    });
}

#[test]
fn a_signal_ends_skd_and_its_handlers() {
    on_each_machine(|machine| {
        let skd = machine(Skd::new(["-t", "127.0.0.1:0"])).run("cat");
        let streams = handlers_with(&skd, 3);
        skd.signal(Signal::SIGINT);
        assert_eq!(skd.wait().code(), Some(0));
        for stream in streams {
            assert_eq!(talk(stream, b""), b"");
        }
    });
}

#[test]
fn a_supervised_program_is_restarted() {
    on_each_machine(|machine| {
        let skd = machine(Skd::new(["-vS"])).start_with("sh", ["-c", "exit 3"]);
        skd.wait_for_logs("Started sh", 2);
        let first = &skd.log_lines()[..2];
        assert_eq!(first, ["Started sh", "sh exited abnormally with status 3"]);
        // 0 between two runs; in the middle of one, the status of the last.
        let code = skd.stop().code();
        assert!(
            [Some(0), Some(3), Some(128 + 15)].contains(&code),
            "{code:?}"
        );
    });
}

#[test]
fn a_daemon_in_the_background_serves() {
    on_each_machine(|machine| {
        let directory = Directory::new();
        let skd = machine(Skd::new([
            "-vL",
            &format!(">{}", directory.name("log")),
            "-t",
            "127.0.0.1:0",
        ]))
        .daemon("cat");
        assert_eq!(talk(skd.connect(), b"served"), b"served");
        crate::harness::wait_for_text(directory.join("log"), "Closed connection");
        skd.stop();
    });
}

#[test]
fn without_ipv6_a_bare_port_is_ipv4_alone() {
    // AF_INET6 is 10, and no other family in use here has that bit.
    let machine = |skd: Skd| skd.refusing_bits(libc::SYS_socket, 0, 8, Errno::EAFNOSUPPORT);
    for option in ["-vt0", "-vu0"] {
        let skd = machine(Skd::new([option])).start("cat");
        let port = skd.stdout_line();
        let bound = sockets(skd.pid());
        let bound: Vec<String> = bound
            .iter()
            .filter_map(|socket| socket.address)
            .map(|it| it.to_string())
            .collect();
        assert_eq!(bound, [format!("0.0.0.0:{port}")]);
        let line = skd.wait_for_log("[::]");
        assert!(line.contains("Address family not supported"), "{line}");
    }
    let skd = machine(Skd::new(["-t0"])).start("cat");
    let port: u16 = skd.stdout_line().parse().unwrap();
    assert_eq!(
        talk(crate::harness::connect(([127, 0, 0, 1], port).into()), b"4"),
        b"4"
    );
    // An address that was requested by name isn't replaced by another.
    machine(Skd::new(["-t", "[::]:0", "cat"]))
        .end()
        .expect_refusal(1, &["[::]", "not supported"]);
}

/// A full pipe, which takes nothing more until it is read.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'\n'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer)
}

#[test]
fn listeners_that_cannot_be_watched_are_served() {
    requires_root();
    let directory = Directory::new();
    let socket = directory.join("socket");
    let (mut reader, writer) = full_pipe();
    // The threads are started before the port is printed, which here takes as long as the test likes; they
    // watch the listeners after that. By a shell, so that the harness doesn't expect that port.
    let line = "exec \"$0\" --threads 1 -t 127.0.0.1:0 -l \"$1\" cat";
    let skd = Skd::new(["-c", line])
        .arg(Program::Ours.path())
        .arg(&socket)
        .binary("/bin/sh")
        .stdout(writer)
        .throttle(Duration::from_millis(100))
        .start_bare();
    let (thread, _) = wait_for("the thread", || {
        let mut threads = threads(skd.pid()).into_iter();
        threads.find(|(_, name)| name == "accept-0")
    });
    let tampering = Tampering::with(thread, "epoll_ctl", "error=ENOSPC");
    thread::spawn(move || reader.read_to_end(&mut Vec::new()));
    skd.wait_for_log("skd: a listener can't be watched: No space left on device");
    let begin = Instant::now();
    // Listeners and handlers share their log lines.
    let lines = || skd.logged("can't be watched").len();
    while lines() < 3 {
        assert_eq!(talk(connect_unix(&socket), b"served"), b"served");
        assert!(begin.elapsed() < DEADLINE, "{:?}", skd.log_lines());
    }
    assert_idle(&[skd.pid()]);
    drop(tampering);
    for _ in 0..50 {
        assert_eq!(talk(connect_unix(&socket), b"served"), b"served");
    }
    skd.signal(Signal::SIGTERM);
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn handlers_that_cannot_be_watched_are_reaped_all_the_same() {
    let skd = Skd::new(["-vc2", "--threads", "1", "-t", "127.0.0.1:0"])
        // The start takes four calls of the main thread. The other thread watches the listener and a handler, stops
        // watching it when it has ended and watches the next before its fifth.
        .wrapper(tampering("epoll_ctl", "error=ENOSPC:when=5+"))
        .run("cat");
    for count in 1..=8 {
        assert_eq!(talk(skd.connect(), b"served"), b"served");
        skd.wait_for_logs("exited with status 0 after", count);
    }
    skd.wait_for_log("skd: a handler can't be watched: No space left on device");
    skd.wait_until("none is left", || skd.children().is_empty());
    expect_two_at_once(&skd);
    skd.wait_until("none is left", || skd.children().is_empty());
    // Nor does it poll all the time.
    let streams = handlers_with(&skd, 2);
    assert_idle(&[skd.pid()]);
    assert_eq!(skd.children().len(), 2);
    drop(streams);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn handlers_that_cannot_be_watched_are_drained_all_the_same() {
    let skd = Skd::new(["--threads", "1", "-t", "127.0.0.1:0", "--drain=1h"])
        // After the four of the start, all calls of the main thread.
        .wrapper(tampering("epoll_ctl", "error=ENOSPC:when=5+"))
        .run("cat");
    let mut streams = handlers_with(&skd, 2);
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("skd: handlers can't be watched: No space left on device");
    streams.pop();
    skd.wait_for_children(1);
    assert_idle(&[skd.pid()]);
    drop(streams);
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn skd_continues_if_one_call_fails_now_and_then() {
    // By strace(1), which can make a call fail once and then not again, in each thread.
    requires_command("strace");
    for injection in [
        // The main thread makes fewer of them: a start that can't have a thread is refused.
        "clone3:error=EAGAIN:when=10",
        "clone3:error=ENOMEM:when=10+3",
        "accept4:error=ENFILE:when=2",
        "accept4:error=ECONNABORTED:when=1",
        "accept4:error=EPROTO:when=2",
        "dup3:error=EBUSY:when=3",
    ] {
        let directory = Directory::new();
        let inject = format!("inject={injection}");
        let skd = Skd::new(["--threads", "1", "-t", "127.0.0.1:0"])
            .wrapper([
                "strace",
                "-f",
                "-q",
                "-o",
                &directory.name("trace"),
                "-e",
                &inject,
            ])
            .run("cat");
        for _ in 0..15 {
            assert_eq!(talk(skd.connect(), b"served"), b"served", "{injection}");
        }
        skd.wait_until("none is left", || skd.children().is_empty());
        let trace = directory.read("trace");
        assert!(trace.contains("(INJECTED)"), "{injection}: {trace}");
    }
}
