//! Stream sockets: a program for each connection.

use crate::harness::{
    Directory, Program, Running, SignalMasks, Skd, Stream, assert_idle, connect, connect_unix,
    descriptors, each_program, echo, has_close_range, ids, limit, parent, process_group, receive,
    requires_command, requires_root, run_to_end, signal_masks, talk, try_talk, zombies,
};
use nix::sys::resource::Resource;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::thread;

#[test]
fn answers_a_tcp_connection() {
    each_program(|program| {
        let skd = program.skd(["-t", "127.0.0.1:0"]).run("cat");
        assert_eq!(talk(skd.connect(), b"hello\n"), b"hello\n");
    });
}

#[test]
fn answers_a_unix_connection() {
    each_program(|program| {
        let directory = Directory::new();
        let skd = program.skd(["-l", &directory.name("socket")]).run("cat");
        assert_eq!(talk(skd.connect_unix(), b"hello\n"), b"hello\n");
    });
}

#[test]
fn serves_several_listeners() {
    let directory = Directory::new();
    let skd = Skd::new(["-t", "127.0.0.1:0", "-t", "127.0.0.1:0", "-l"])
        .arg(directory.join("socket"))
        .run("cat");
    for address in skd.addresses() {
        assert_eq!(talk(skd.connect_to(address), b"tcp"), b"tcp");
    }
    assert_eq!(
        talk(connect_unix(directory.join("socket")), b"unix"),
        b"unix"
    );
}

#[test]
fn tells_the_handler_its_client() {
    each_program(|program| {
        let say = "echo $PROTO $TCPLOCALIP $TCPLOCALPORT $TCPREMOTEIP $TCPREMOTEPORT";
        let skd = program
            .skd(["-t", "127.0.0.1:0"])
            .run_with("sh", ["-c", say]);
        let stream = skd.connect();
        let (ours, theirs) = (stream.local_addr().unwrap(), skd.address());
        let expected = format!(
            "TCP 127.0.0.1 {} 127.0.0.1 {}\n",
            theirs.port(),
            ours.port()
        );
        assert_eq!(String::from_utf8_lossy(&talk(stream, b"")), expected);
    });
}

#[test]
fn reports_connections() {
    each_program(|program| {
        let skd = program.skd(["-vt", "127.0.0.1:0"]).run("cat");
        let stream = skd.connect();
        let caller = format!(
            "connection from [127.0.0.1]:{}",
            stream.local_addr().unwrap().port()
        );
        talk(stream, b"");
        skd.wait_for_log(&format!("Accepted {caller}"));
        if program.is_ours() {
            let line = skd.wait_for_log(&format!("Closed {caller}: pid "));
            assert!(line.contains(" exited with status 0 after "), "{line}");
        }
    });
}

#[test]
fn leaves_the_connection_to_the_handler() {
    each_program(|program| {
        let skd = program.skd(["-t", "127.0.0.1:0"]).run("cat");
        let mut stream = skd.connect();
        // Its answer shows that it has been executed.
        stream.write_all(b".").unwrap();
        receive(&mut stream, 1);
        let handler = skd.wait_for_children(1)[0];
        let open: Vec<i32> = descriptors(handler).into_keys().collect();
        match program {
            Program::Ours => assert_eq!(open, [0, 1, 2]),
            // 1.2 leaks the listening socket.
            Program::Original => assert_eq!(open, [0, 1, 2, 3]),
        }
    });
}

#[test]
fn keeps_to_the_maximum_number_of_clients() {
    each_program(|program| {
        let skd = program.skd(["-c", "1", "-t", "127.0.0.1:0"]).run("cat");
        let mut first = skd.connect();
        first.write_all(b"1").unwrap();
        assert_eq!(receive(&mut first, 1), b"1");
        let handler = skd.wait_for_children(1)[0];
        // Waits in the backlog until the first one has left.
        let mut second = skd.connect();
        second.write_all(b"2").unwrap();
        first.write_all(b"1").unwrap();
        assert_eq!(receive(&mut first, 1), b"1");
        assert_eq!(skd.children(), [handler]);
        talk(first, b"");
        assert_eq!(talk(second, b"2"), b"22");
    });
}

#[test]
fn refuses_a_limit_that_is_no_number() {
    run_to_end(["-t", "127.0.0.1:0", "-c", "many", "cat"])
        .expect_code(2)
        .expect_stderr(&["many"]);
}

/// A connection whose handler is `cat`, and that handler.
fn with_handler(skd: &Running) -> (TcpStream, i32) {
    let before = skd.children();
    let mut stream = skd.connect();
    echo(&mut stream, b".");
    let mut after = skd.children();
    after.retain(|pid| !before.contains(pid));
    assert_eq!(after.len(), 1);
    (stream, after[0])
}

fn open(pid: i32) -> Vec<i32> {
    descriptors(pid).into_keys().collect()
}

// The descriptors that a handler starts with.

#[test]
fn a_handler_has_one_socket_as_input_and_output() {
    let skd = Skd::new(["-t", "127.0.0.1:0", "--linger=0s"]).run("cat");
    let (_stream, handler) = with_handler(&skd);
    let (its, skd_s) = (descriptors(handler), descriptors(skd.pid()));
    assert!(its[&0].starts_with("socket:"), "{its:?}");
    assert_eq!(its[&0], its[&1]);
    assert_eq!(its[&2], skd_s[&2]);
    // The connection is open nowhere else: on a busy machine the handler may have answered before
    // skd has closed it.
    skd.wait_until("skd hasn't got it", || {
        descriptors(skd.pid()).values().all(|open| *open != its[&0])
    });
}

#[test]
fn a_handler_gets_no_descriptor_that_skd_inherited() {
    let (reader, writer) = std::io::pipe().unwrap();
    let file = || fs::File::open("/dev/null").unwrap();
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .descriptor(3, reader)
        .descriptor(4, writer)
        .descriptor(31, file())
        .descriptor(32, file())
        .descriptor(33, file())
        .descriptor(900, file())
        .run("cat");
    let (_stream, handler) = with_handler(&skd);
    assert_eq!(open(handler), [0, 1, 2]);
    // Nor does skd keep them: otherwise the reader of a pipe would never see its end. Without close_range(2) it does.
    assert!(
        !has_close_range()
            || !descriptors(skd.pid())
                .values()
                .any(|open| open.starts_with("pipe:") && !open_as_log(&skd, open))
    );
}

/// Whether this is where skd writes its log, or the port.
fn open_as_log(skd: &Running, open: &str) -> bool {
    let all = descriptors(skd.pid());
    [1, 2].iter().any(|number| all[number] == open)
}

#[test]
fn standard_descriptors_that_were_closed_do_not_become_others() {
    for closed in [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 1, 2]] {
        let mut skd = Skd::new(["-t", "127.0.0.1:0"]);
        for number in closed {
            skd = match number {
                0 => skd.stdin(Stream::Closed),
                1 => skd.stdout(Stream::Closed),
                _ => skd.stderr(Stream::Closed),
            };
        }
        let skd = skd.run("cat");
        let (stream, handler) = with_handler(&skd);
        assert_eq!(open(handler), [0, 1, 2], "{closed:?}");
        let of_skd = descriptors(skd.pid());
        for number in closed {
            assert_eq!(of_skd[number], "/dev/null", "{closed:?}");
        }
        assert_eq!(talk(stream, b"works"), b"works");
    }
}

#[test]
fn a_handler_starts_with_no_signal_blocked_or_ignored() {
    let mut skd = Skd::new(["-t", "127.0.0.1:0"]);
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGPIPE,
        Signal::SIGCHLD,
        Signal::SIGUSR1,
    ] {
        skd = skd.ignoring(signal);
    }
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGCHLD,
        Signal::SIGALRM,
    ] {
        skd = skd.blocking(signal);
    }
    let skd = skd.run("cat");
    let (_stream, handler) = with_handler(&skd);
    let masks = signal_masks(handler);
    assert_eq!(
        masks,
        SignalMasks {
            pending: 0,
            blocked: 0,
            ignored: 0,
            caught: 0
        }
    );
    // Its end is seen, although CHLD was ignored.
    kill(Pid::from_raw(handler), Signal::SIGTERM).unwrap();
    skd.wait_until("the handler is gone", || skd.children().is_empty());
}

#[test]
fn a_handler_starts_with_signals_that_the_c_library_hides_not_ignored() {
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .ignoring_number(32)
        .ignoring_number(33)
        .run("cat");
    let (_stream, handler) = with_handler(&skd);
    assert_eq!(signal_masks(handler).ignored, 0);
}

#[test]
fn a_handler_leads_a_process_group_of_its_own() {
    let skd = Skd::new(["-t", "127.0.0.1:0"]).run("cat");
    let (_first, one) = with_handler(&skd);
    let (_second, two) = with_handler(&skd);
    assert_eq!(
        (process_group(one), process_group(two)),
        (Some(one), Some(two))
    );
    assert_eq!(parent(one), Some(skd.pid()));
}

#[test]
fn a_handler_gets_the_old_limit_of_open_files() {
    for (soft, hard) in [(333, 444), (444, 444)] {
        let skd = Skd::new(["-t", "127.0.0.1:0"])
            .limit(Resource::RLIMIT_NOFILE, soft, hard)
            .run("cat");
        let files = |pid| limit(pid, "Max open files").unwrap();
        let (_stream, handler) = with_handler(&skd);
        assert_eq!(files(handler), (soft.to_string(), hard.to_string()));
        // skd itself raises its limit.
        assert_eq!(files(skd.pid()), (hard.to_string(), hard.to_string()));
    }
}

#[test]
fn a_handler_inherits_everything_else_from_skd() {
    let directory = Directory::new();
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .cwd(directory.path())
        .umask(0o31)
        .run("cat");
    let (_stream, handler) = with_handler(&skd);
    let here = fs::read_link(format!("/proc/{handler}/cwd")).unwrap();
    assert_eq!(here, fs::canonicalize(directory.path()).unwrap());
    let mask = crate::harness::status_field(handler, "Umask");
    assert_eq!(mask.as_deref(), Some("0031"));
    assert_eq!(ids(handler), ids(skd.pid()));
}

#[test]
fn a_handler_gets_its_arguments_unchanged() {
    let skd = Skd::new(["-t", "127.0.0.1:0"]).run_with(
        "sh",
        [
            "-c",
            "printf '<%s>' \"$@\"",
            "sh",
            "",
            "a b",
            "-v",
            "--",
            "*",
            "$x",
            "\n",
        ],
    );
    assert_eq!(talk(skd.connect(), b""), b"<><a b><-v><--><*><$x><\n>");
}

// Serving.

#[test]
fn no_client_waits_for_another() {
    each_program(|program| {
        let skd = program.skd(["-t", "127.0.0.1:0"]).run("cat");
        let mut streams: Vec<TcpStream> = (0..40).map(|_| skd.connect()).collect();
        for stream in streams.iter_mut().rev() {
            echo(stream, b"at once");
        }
        assert_eq!(skd.wait_for_children(40).len(), 40);
    });
}

#[test]
fn every_number_of_threads_serves() {
    for threads in ["1", "2", "16"] {
        let skd = Skd::new(["--threads", threads, "-t", "127.0.0.1:0"]).run("cat");
        let mut streams: Vec<TcpStream> = (0..20).map(|_| skd.connect()).collect();
        for stream in &mut streams {
            echo(stream, threads.as_bytes());
        }
        // A thread names itself, which may be later than clients are served by others.
        skd.wait_until("so many threads accept", || {
            let all = crate::harness::threads(skd.pid()).into_iter();
            let acceptors = all.filter(|(_, name)| name.starts_with("accept-"));
            acceptors.count().to_string() == threads
        });
        for stream in streams {
            talk(stream, b"");
        }
        skd.wait_until("all are reaped", || skd.children().is_empty());
    }
}

#[test]
fn megabytes_are_sent_both_ways() {
    each_program(|program| {
        let directory = Directory::new();
        let bytes: Vec<u8> = (0..10_000_000_u32)
            .map(|number| (number >> 4) as u8)
            .collect();
        let skd = program.skd(["-t", "127.0.0.1:0"]).run("cat");
        assert!(talk(skd.connect(), &bytes) == bytes);
        drop(skd);
        let skd = program.skd(["-l", &directory.name("socket")]).run("cat");
        assert!(talk(skd.connect_unix(), &bytes) == bytes);
    });
}

#[test]
fn a_half_closed_client_is_still_answered() {
    each_program(|program| {
        let skd = program
            .skd(["-t", "127.0.0.1:0"])
            .run_with("sh", ["-c", "wc -c; echo end"]);
        let answer = talk(skd.connect(), b"12345");
        assert_eq!(
            String::from_utf8_lossy(&answer)
                .split_whitespace()
                .collect::<Vec<_>>(),
            ["5", "end"]
        );
    });
}

#[test]
fn a_connection_ends_with_its_handler_while_other_handlers_run() {
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .run_with("sh", ["-c", "read line; test $line = end || exec cat"]);
    // Long-lived handlers start while others end: a copy of a connection in one of them
    // would keep the other's client waiting.
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut living = Vec::new();
                for _ in 0..20 {
                    let (mut ending, mut lasting) = (skd.connect(), skd.connect());
                    lasting.write_all(b"last\n.").unwrap();
                    ending.write_all(b"end\n").unwrap();
                    let mut rest = Vec::new();
                    ending
                        .read_to_end(&mut rest)
                        .expect("the end of the connection");
                    assert!(rest.is_empty());
                    assert_eq!(receive(&mut lasting, 1), b".");
                    living.push(lasting);
                }
            });
        }
    });
}

#[test]
fn a_killed_handler_ends_its_connection() {
    let skd = Skd::new(["-t", "127.0.0.1:0"]).run("cat");
    let (stream, handler) = with_handler(&skd);
    let (mut other, _) = with_handler(&skd);
    kill(Pid::from_raw(handler), Signal::SIGKILL).unwrap();
    assert_eq!(talk(stream, b""), b"");
    echo(&mut other, b"untouched");
}

#[test]
fn a_client_that_has_left_costs_nothing() {
    let skd = Skd::new(["-c", "1", "-t", "127.0.0.1:0"]).run("cat");
    let (first, _) = with_handler(&skd);
    for number in 0..20 {
        let gone = skd.connect();
        if number % 2 == 0 {
            // A reset instead of an end.
            nix::sys::socket::setsockopt(
                &gone,
                nix::sys::socket::sockopt::Linger,
                &libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                },
            )
            .unwrap();
        }
    }
    talk(first, b"");
    assert_eq!(talk(skd.connect(), b"next"), b"next");
    skd.wait_until("all are reaped", || skd.children().is_empty());
}

#[test]
fn handlers_are_reaped() {
    each_program(|program| {
        let skd = program
            .skd(["-t", "127.0.0.1:0"])
            .run_with("sh", ["-c", "exit 3"]);
        for _ in 0..50 {
            let _ = try_talk(skd.connect(), b"");
        }
        skd.wait_until("none is left", || skd.children().is_empty());
    });
}

// Slots.

/// A handler that echoes one byte. For a `t` it starts a child first, which traces it and lives until the FIFO in the
/// argument is opened; the handler ends with 7.
fn traced_handler() -> String {
    requires_command("perl");
    // PR_SET_PTRACER_ANY, for where only parents may trace; PTRACE_SEIZE.
    format!(
        "sysread STDIN, my $byte, 1;
         if ($byte ne 't') {{ syswrite STDOUT, $byte; exit }}
         syscall {}, 0x59616d61, -1, 0, 0, 0;
         pipe my $reader, my $writer;
         my $handler = $$;
         if (!(fork // die)) {{
             close STDIN;
             close STDOUT;
             syscall({}, 0x4206, $handler, 0, 0) == 0 or die $!;
             close $writer;
             open my $fifo, '<', $ARGV[0];
             exit;
         }}
         close $writer;
         sysread $reader, my $nothing, 1;
         syswrite STDOUT, $byte;
         exit 7;",
        libc::SYS_prctl,
        libc::SYS_ptrace
    )
}

#[test]
fn a_traced_handler_delays_nothing() {
    for let_go in [true, false] {
        let directory = Directory::new();
        let fifo = directory.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let args = ["-e".into(), traced_handler(), fifo.display().to_string()];
        // Its client sees the end only with the handler's if that waits for it.
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--linger=0s"]).run_with("perl", args);
        assert_eq!(talk(skd.connect(), b"t"), b"t");
        // It stays a zombie: its tracer is told of its end first, and doesn't wait for it.
        skd.wait_until("it has ended", || zombies(skd.pid()).len() == 1);
        for count in 1..=3 {
            assert_eq!(talk(skd.connect(), b"o"), b"o");
            skd.wait_for_logs("exited with status 0 after", count);
        }
        assert_idle(&[skd.pid()]);
        assert_eq!(skd.logged("exited with status 7"), [""; 0]);
        if let_go {
            fs::File::options().write(true).open(&fifo).unwrap();
            skd.wait_for_log("exited with status 7 after");
            skd.wait_until("all are reaped", || skd.children().is_empty());
        }
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn clients_above_the_limit_are_served_as_slots_become_free() {
    each_program(|program| {
        let skd = program.skd(["-c3", "-t", "127.0.0.1:0"]).run("cat");
        let mut served: Vec<TcpStream> = (0..3).map(|_| skd.connect()).collect();
        for stream in &mut served {
            echo(stream, b".");
        }
        let mut waiting: Vec<TcpStream> = (0..6).map(|_| skd.connect()).collect();
        for stream in &mut waiting {
            stream.write_all(b"w").unwrap();
        }
        for _ in 0..6 {
            let before = skd.wait_for_children(3);
            // As long as none ends, none is added.
            echo(&mut served[0], b"still");
            assert_eq!(skd.children(), before);
            talk(served.remove(0), b"");
            let mut next = waiting.remove(0);
            assert_eq!(receive(&mut next, 1), b"w");
            served.push(next);
        }
    });
}

#[test]
fn the_limit_applies_to_all_stream_listeners_together() {
    let directory = Directory::new();
    let skd = Skd::new([
        "-c",
        "2",
        "-t",
        "127.0.0.1:0",
        "-t",
        "127.0.0.1:0",
        "-l",
        &directory.name("s"),
    ])
    .run("cat");
    let [first, second] = skd.addresses()[..] else {
        panic!("two addresses")
    };
    let (mut one, mut two, mut three) = (connect(first), connect(second), skd.connect_unix());
    echo(&mut one, b"1");
    echo(&mut two, b"2");
    three.write_all(b"3").unwrap();
    let before = skd.children();
    assert_eq!(before.len(), 2);
    echo(&mut two, b"22");
    assert_eq!(skd.children(), before);
    talk(one, b"");
    assert_eq!(receive(&mut three, 1), b"3");
}

#[test]
fn the_number_of_handlers_never_exceeds_the_limit() {
    let directory = Directory::new();
    fs::create_dir(directory.join("running")).unwrap();
    // Each handler reports how many run beside it.
    let script = "cd \"$1\" && : > $$ && set -- * && echo $# && rm $$";
    let running = directory.name("running");
    let skd = Skd::new(["-c", "3", "--threads", "4", "-t", "127.0.0.1:0"])
        .run_with("sh", ["-c", script, "sh", &running]);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let answer = String::from_utf8(talk(skd.connect(), b"")).unwrap();
                    let count: u32 = answer.trim().parse().unwrap();
                    assert!((1..=3).contains(&count), "{count} at once");
                }
            });
        }
    });
}

#[test]
fn waiting_clients_are_logged_once() {
    let skd = Skd::new(["-c", "2", "-t", "127.0.0.1:0"]).run("cat");
    let (first, second) = (with_handler(&skd).0, with_handler(&skd).0);
    // No client waits so far: a full service is no trouble by itself.
    assert!(skd.log_lines().is_empty());
    let mut waiting: Vec<TcpStream> = (0..3).map(|_| skd.connect()).collect();
    let line = skd.wait_for_log("slots");
    assert_eq!(line, "skd: all 2 slots are taken; clients wait");
    for stream in [first, second] {
        talk(stream, b"");
    }
    echo(&mut waiting[0], b"0");
    echo(&mut waiting[1], b"1");
    // Full again, and a client waits; but a minute hasn't passed.
    talk(waiting.remove(0), b"");
    echo(&mut waiting[1], b"2");
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(skd.log_lines(), [line]);
}

#[test]
fn a_slot_is_free_again_when_its_handler_was_killed_or_never_ran() {
    let directory = Directory::new();
    let prog = directory.script("handler", "#!/bin/sh\nexec cat\n");
    let skd = Skd::new(["-c", "1", "-t", "127.0.0.1:0"]).run(&prog);
    let (stream, handler) = with_handler(&skd);
    kill(Pid::from_raw(handler), Signal::SIGKILL).unwrap();
    talk(stream, b"");
    fs::rename(&prog, directory.join("away")).unwrap();
    for _ in 0..5 {
        let _ = try_talk(skd.connect(), b"");
    }
    fs::rename(directory.join("away"), &prog).unwrap();
    assert_eq!(talk(skd.connect(), b"served"), b"served");
}

// PROG.

#[test]
fn a_program_that_cannot_be_found_is_refused() {
    let directory = Directory::new();
    let path = format!("PATH={}", directory.path().display());
    for listener in [&["-t", "127.0.0.1:0"][..], &["-u", "127.0.0.1:0"], &[]] {
        for prog in [
            "no-such-program",
            "/no/such/program",
            "./no-such-program",
            "/dev/null/x",
        ] {
            let words = listener.iter().chain([&prog]);
            run_to_end(words).expect_refusal(127, &[&format!("'{prog}'")]);
        }
        let env = ["--env", &path, "cat"];
        let output = run_to_end(listener.iter().chain(&env));
        output.expect_refusal(127, &["'cat'", "PATH", directory.path().to_str().unwrap()]);
    }
}

#[test]
fn a_program_that_cannot_be_run_is_refused() {
    let directory = Directory::new();
    let plain = directory.write("plain", "#!/bin/sh\n");
    let lost = directory.script("lost", "#!/no/such/interpreter -x\n");
    fs::create_dir(directory.join("directory")).unwrap();
    let named = |name: &str| directory.name(name);
    for listener in [&["-t", "127.0.0.1:0"][..], &["-u", "127.0.0.1:0"], &[]] {
        for (prog, why) in [
            (named("plain"), "isn't executable"),
            (named("directory"), "it is a directory"),
            ("/dev/null".to_owned(), "it isn't a file"),
            (
                named("lost"),
                "its interpreter /no/such/interpreter doesn't exist",
            ),
        ] {
            let words = listener.iter().copied().chain([prog.as_str()]);
            run_to_end(words).expect_refusal(126, &[&format!("'{prog}'"), why]);
        }
    }
    drop((plain, lost));
}

#[test]
fn a_program_is_looked_up_in_path_by_the_user_that_runs_it() {
    requires_root();
    let [first, second] = ["first", "second"].map(|name| {
        let directory = Directory::public();
        directory.script("program", &format!("#!/bin/sh\necho {name}\n"));
        directory
    });
    let path = format!(
        "/nonexistent:{}:{}:/usr/bin:/bin",
        first.name(""),
        second.name("")
    );
    let serve = || {
        Skd::new(["-t", "127.0.0.1:0"])
            .env("PATH", &path)
            .user(65534, 65534, [])
            .run("program")
    };
    assert_eq!(talk(serve().connect(), b""), b"first\n");
    // A file that this user can't run doesn't hide the next.
    first.chmod("program", 0o700);
    let skd = serve();
    assert_eq!(talk(skd.connect(), b""), b"second\n");
    // Looked up once, and not again for each connection.
    first.chmod("program", 0o755);
    assert_eq!(talk(skd.connect(), b""), b"second\n");
    first.chmod("program", 0o700);
    second.chmod("program", 0o700);
    let output = Skd::new(["-t", "127.0.0.1:0", "program"])
        .env("PATH", &path)
        .user(65534, 65534, [])
        .end();
    output.expect_refusal(126, &["'program'", "Permission denied"]);
}

#[test]
fn a_program_in_no_directory_is_missing_even_if_some_are_closed() {
    requires_root();
    let closed = Directory::public();
    closed.chmod("", 0o700);
    for listener in [&["-t", "127.0.0.1:0"][..], &["-u", "127.0.0.1:0"], &[]] {
        let output = Skd::new(listener)
            .arg("no-such-program")
            .env("PATH", format!("{}:/usr/bin:/bin", closed.name("")))
            .user(65534, 65534, [])
            .end();
        output.expect_refusal(127, &["'no-such-program'", "PATH"]);
    }
}

#[test]
fn a_script_without_an_interpreter_is_run_by_the_shell() {
    each_program(|program| {
        let directory = Directory::new();
        let script = directory.script("bare", "echo \"$0\" \"$@\"\n");
        let skd = program
            .skd(["-t", "127.0.0.1:0"])
            .run_with(&script, ["a b", "c"]);
        let expected = format!("{} a b c\n", script.display());
        assert_eq!(String::from_utf8_lossy(&talk(skd.connect(), b"")), expected);
    });
}

#[test]
fn a_missing_program_closes_connections_until_it_is_back() {
    let directory = Directory::new();
    let prog = directory.script("handler", "#!/bin/sh\nexec cat\n");
    let skd = Skd::new(["-vt", "127.0.0.1:0"]).run(&prog);
    assert_eq!(talk(skd.connect(), b"before"), b"before");
    fs::rename(&prog, directory.join("away")).unwrap();
    assert_eq!(talk(skd.connect(), b""), b"");
    let line = skd.wait_for_log("skd: ");
    assert_eq!(
        line,
        format!(
            "skd: '{}' can't be run: No such file or directory",
            prog.display()
        )
    );
    // For a client that sends first, the connection ends too.
    let _ = try_talk(skd.connect(), b"unread");
    fs::rename(directory.join("away"), &prog).unwrap();
    assert_eq!(talk(skd.connect(), b"after"), b"after");
    skd.wait_until("all are reaped", || skd.children().is_empty());
}

#[test]
fn a_program_that_can_no_longer_be_run_is_reported() {
    let directory = Directory::new();
    let interpreter = directory.script("interpreter", "#!/bin/sh\nexec cat\n");
    let prog = directory.script("handler", &format!("#!{}\n", interpreter.display()));
    let skd = Skd::new(["-t", "127.0.0.1:0"]).run(&prog);
    assert_eq!(talk(skd.connect(), b"1"), b"1");
    fs::remove_file(&interpreter).unwrap();
    assert_eq!(talk(skd.connect(), b""), b"");
    let why = format!(
        "skd: '{}' can't be run: its interpreter {} doesn't exist",
        prog.display(),
        interpreter.display()
    );
    assert_eq!(skd.wait_for_log("skd: "), why);
}

#[test]
fn a_replaced_program_is_run_in_its_new_version() {
    let directory = Directory::new();
    let prog = directory.script("handler", "#!/bin/sh\necho old\n");
    let skd = Skd::new(["-t", "127.0.0.1:0"]).run(&prog);
    assert_eq!(talk(skd.connect(), b""), b"old\n");
    let new = directory.script("new", "#!/bin/sh\necho new\n");
    fs::rename(new, &prog).unwrap();
    assert_eq!(talk(skd.connect(), b""), b"new\n");
}

// Real programs.

#[test]
fn a_shell_script_serves() {
    each_program(|program| {
        let directory = Directory::new();
        let script = directory.script(
            "handler",
            "#!/bin/sh\nwhile read -r a b; do [ \"$a\" = add ] && set -- $b && echo $(($1 + $2)); done\n",
        );
        let skd = program.skd(["-t", "127.0.0.1:0"]).run(script);
        assert_eq!(talk(skd.connect(), b"add 1 2\nadd 20 22\n"), b"3\n42\n");
    });
}

#[test]
fn a_python_script_serves() {
    requires_command("python3");
    each_program(|program| {
        let directory = Directory::new();
        let script = directory.script(
            "handler",
            "#!/usr/bin/env python3\nimport sys\nfor line in sys.stdin:\n    print(line.strip()[::-1], flush=True)\n",
        );
        let skd = program.skd(["-t", "127.0.0.1:0"]).run(script);
        let mut stream = skd.connect();
        stream.write_all(b"abc\n").unwrap();
        assert_eq!(receive(&mut stream, 4), b"cba\n");
        stream.write_all(b"de\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(receive(&mut stream, 3), b"ed\n");
        assert_eq!(talk(stream, b""), b"");
    });
}

#[test]
fn a_web_server_of_inetd_serves() {
    requires_command("busybox");
    requires_command("curl");
    each_program(|program| {
        let directory = Directory::new();
        let page: String = (0..50_000).map(|number| format!("{number}\n")).collect();
        directory.write("page.txt", &page);
        let home = directory.name("");
        let skd = program
            .skd(["-t", "127.0.0.1:0"])
            .run_with("busybox", ["httpd", "-i", "-h", &home]);
        let url = |path: &str| format!("http://{}/{path}", skd.address());
        let curl = |path: &str| {
            let output = Command::new("curl")
                .args(["-sS", "--noproxy", "*", "-w", "%{http_code}", &url(path)])
                .output();
            let output = output.unwrap();
            // Printed only if the test fails here.
            println!(
                "{path}: {} bytes, {}",
                output.stdout.len(),
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap()
        };
        assert!(curl("page.txt") == page.clone() + "200");
        assert!(curl("nothing").ends_with("404"));
    });
}
