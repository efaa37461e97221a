//! The cost of serving, and behaviour under shortages. Figures are printed: run with
//! `--nocapture` to see them.

use crate::harness::{
    DEADLINE, Directory, Holdings, Running, Skd, Way, assert_idle, connect_unix, cpu_ticks,
    descriptors, echo, idle_descriptors, limit_processes, poll_for, receive, requires_command,
    requires_descriptors, requires_root, rss_anon, status_field, talk, tampering, threads,
    wait_for, zombies,
};
use nix::sys::resource::Resource;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Serves `count` connections, some by TCP and some by a unix socket, in ten parts. Asserts that nothing is left, and
/// that the last part took no longer than the first.
fn short_connections(count: usize, way: Way) {
    let directory = Directory::new();
    // Little work for the kernel, so that much of it is skd's.
    let handler = directory.compile(
        "answer",
        "#include <unistd.h>\nint main(void) { return write(1, \"ok\\n\", 3) != 3; }",
    );
    let skd = Skd::new(["-t", "0.0.0.0:0", "-l", &directory.name("socket")])
        .args(way.options())
        .run(handler);
    let serve = |count: usize| {
        let answered = |client: u8, turn: usize| {
            let mut answer = Vec::new();
            let result = if client < 4 {
                // To many addresses: each has its own ports.
                let last = u8::try_from(turn % 200).unwrap() + 1;
                let host = Ipv4Addr::new(127, 0, client, last);
                crate::harness::connect((host, skd.port()).into()).read_to_end(&mut answer)
            } else {
                connect_unix(directory.join("socket")).read_to_end(&mut answer)
            };
            result.expect("the end of the connection");
            assert_eq!(answer, b"ok\n", "client {client}, turn {turn}");
        };
        let (begin, ticks) = (Instant::now(), cpu_ticks(skd.pid()));
        thread::scope(|scope| {
            for client in 0..8 {
                scope.spawn(move || (0..count / 8).for_each(|turn| answered(client, turn)));
            }
        });
        let time = begin.elapsed();
        way.wait_idle(&skd);
        (time, cpu_ticks(skd.pid()) - ticks)
    };
    serve(400);
    let before = Holdings::in_peace(&skd);
    let parts: Vec<(Duration, u64)> = (0..10).map(|_| serve(count / 10)).collect();
    let after = Holdings::in_peace(&skd);
    for (number, (time, ticks)) in parts.iter().enumerate() {
        let rate = (count / 10) as f64 / time.as_secs_f64();
        println!("part {number}: {time:?}, {rate:.0} a second, {ticks} ticks of skd's own");
    }
    println!("{count} answers: {after:?}, before {before:?}");
    after.expect_like(&before);
    assert_eq!(zombies(skd.pid()), [0; 0]);
    assert!(skd.log_lines().is_empty(), "{:?}", skd.log_lines());
    // A slowdown with the number of connections would exceed what other load on the machine causes.
    let ((first, little), (last, much)) = (parts[0], parts[9]);
    assert!(last <= first * 3 + Duration::from_secs(3), "{parts:?}");
    assert!(much <= little * 2 + 30, "{parts:?}");
}

#[test]
fn nothing_is_left_of_ten_thousand_connections() {
    short_connections(10_000, Way::Exec);
}

#[test]
fn nothing_is_left_of_connections_with_prestarted_handlers() {
    for &way in Way::PRESTARTED_KINDS {
        short_connections(5_000, way);
    }
}

#[test]
#[ignore = "takes minutes"]
fn nothing_is_left_of_a_million_connections() {
    short_connections(1_000_000, Way::Exec);
    short_connections(1_000_000, Way::Fork);
}

#[test]
fn ended_handlers_are_reaped_while_clients_keep_coming() {
    // One thread, which always has another client to serve.
    let skd = Skd::new(["--threads", "1", "-t", "127.0.0.1:0"]).run("true");
    let served = AtomicUsize::new(0);
    let over = AtomicBool::new(false);
    let mut most = 0;
    thread::scope(|scope| {
        for client in 0..40 {
            let (skd, served, over) = (&skd, &served, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let mut rest = Vec::new();
                    let ended = skd.connect().read_to_end(&mut rest);
                    assert_eq!(ended.expect("the end of the connection"), 0, "{client}");
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        skd.wait_until("a thousand are served", || {
            most = most.max(zombies(skd.pid()).len());
            served.load(Ordering::Relaxed) >= 1_000
        });
        over.store(true, Ordering::Relaxed);
    });
    // One for each client, and those of a batch of connections; without reaping it would be nearly all.
    assert!(
        most <= 40 + 16,
        "{most} handlers had ended and were not seen to"
    );
}

#[test]
fn few_descriptors_are_low() {
    // The kernel copies descriptors below 64 for each handler.
    let skd = Skd::new(["--threads", "3", "-t", "127.0.0.1:0"]).run("cat");
    let low: Vec<i32> = descriptors(skd.pid())
        .into_keys()
        .filter(|number| *number < 64)
        .collect();
    assert_eq!(low, (0..3 + 3 + 1).collect::<Vec<_>>());
    let mut stream = skd.connect();
    echo(&mut stream, b"served");
    skd.wait_until("the handler alone has the connection", || {
        let all = descriptors(skd.pid());
        (3..7).all(|slot| all[&slot] == "/dev/null")
    });
}

#[test]
fn there_are_three_threads_for_two_cores() {
    let cores = thread::available_parallelism().unwrap().get();
    let skd = Skd::new(["-t", "127.0.0.1:0"]).run("cat");
    // And the main thread, the thread that watches births, and the closer.
    let threads = threads(skd.pid()).len();
    assert_eq!(threads, (cores * 3).div_ceil(2).min(16) + 3);
}

/// Has `count` handlers at once, twice: the second time takes no more resources than the first.
fn live_handlers(count: usize) {
    requires_descriptors(count);
    let directory = Directory::new();
    let path = directory.join("socket");
    let skd = Skd::new(["-l"]).arg(&path).run("cat");
    let empty = Holdings::in_peace(&skd);
    let hold = || {
        let begin = Instant::now();
        let mut streams: Vec<UnixStream> = Vec::new();
        for _ in 0..count {
            let mut stream = connect_unix(&path);
            stream.write_all(b".").unwrap();
            streams.push(stream);
        }
        for stream in &mut streams {
            assert_eq!(receive(stream, 1), b".");
        }
        assert_eq!(skd.children().len(), count);
        let full = Holdings::of(&skd);
        println!(
            "{count} live handlers after {:?}: {full:?}",
            begin.elapsed()
        );
        // Of each, one descriptor for its end, and no thread. At most 256 connections are kept.
        assert!(
            full.descriptors <= empty.descriptors + count + 256,
            "{full:?}, {empty:?}"
        );
        assert_eq!(full.threads, empty.threads);
        // The oldest, the newest, and those between are all alive, and the next client is served as well.
        for stream in &mut streams {
            echo(stream, b"still there");
        }
        assert_eq!(talk(connect_unix(&path), b"next"), b"next");
        drop(streams);
        let after = Holdings::in_peace(&skd);
        println!("all reaped after {:?}: {after:?}", begin.elapsed());
        assert_eq!(zombies(skd.pid()), [0; 0]);
        assert_eq!(talk(connect_unix(&path), b"after"), b"after");
        after
    };
    let first = hold();
    assert_eq!(
        (first.descriptors, first.threads),
        (empty.descriptors, empty.threads)
    );
    hold().expect_like(&first);
}

#[test]
fn a_thousand_handlers_live_and_are_reaped() {
    live_handlers(1_000);
}

#[test]
#[ignore = "takes gigabytes"]
fn ten_thousand_handlers_live_and_are_reaped() {
    live_handlers(10_000);
}

/// The interval of throttled lines in tests of shortages.
const THROTTLE: Duration = Duration::from_millis(200);

/// Waits until a shortage has been logged several times, and asserts that this floods neither log nor processor.
/// Needs [`Skd::throttle`] of [`THROTTLE`].
#[track_caller]
fn expect_calm(skd: &Running, text: &str) {
    skd.wait_for_log(text);
    let (begin, said) = (Instant::now(), skd.logged("skd: ").len());
    skd.wait_for_logs(text, said + 2);
    assert_idle(&[skd.pid()]);
    let lines = skd.logged("skd: ").len() - said;
    let most = begin.elapsed().as_millis() / THROTTLE.as_millis() + 1;
    // One for accepting and one for starting.
    assert!(lines as u128 <= 2 * most, "{:?}", skd.log_lines());
}

/// Makes `count` connections, each with one byte sent.
fn knock(skd: &Running, count: usize) -> Vec<TcpStream> {
    let address: SocketAddr = skd.address();
    let connect = |_| {
        let mut stream = crate::harness::connect(address);
        stream.write_all(b"k").unwrap();
        stream
    };
    (0..count).map(connect).collect()
}

/// Waits until all waiting clients are served, in any order, as the handlers before them end.
fn expect_all_served(skd: &Running, mut streams: Vec<TcpStream>) {
    for stream in &mut streams {
        stream
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
    }
    wait_for("every client is served", || {
        // An answered client leaves, and frees its resources.
        streams.retain_mut(|stream| stream.read(&mut [0]).is_err());
        streams.is_empty().then_some(())
    });
    assert_eq!(talk(skd.connect(), b"recovered"), b"recovered");
    skd.wait_until("all are reaped", || skd.children().is_empty());
}

#[test]
fn a_shortage_of_descriptors_is_waited_out() {
    let skd = Skd::new(["--threads", "2", "-t", "127.0.0.1:0"])
        .limit(Resource::RLIMIT_NOFILE, 70, 70)
        .throttle(THROTTLE)
        .run("cat");
    let streams = knock(&skd, 60);
    expect_calm(&skd, "Too many open files");
    let served = skd.children().len();
    assert!((5..60).contains(&served), "{served} handlers");
    expect_all_served(&skd, streams);
}

#[test]
fn a_shortage_of_processes_is_waited_out() {
    requires_root();
    // A user id that no other test uses, since the limit counts all of its processes and threads.
    let skd = Skd::new(["--threads", "1", "-t", "127.0.0.1:0"])
        .user(54_321, 54_321, [])
        .throttle(THROTTLE)
        .run("cat");
    assert_eq!(talk(skd.connect(), b"first"), b"first");
    skd.wait_for_children(0);
    limit_processes(skd.pid(), 6);
    let streams = knock(&skd, 12);
    expect_calm(&skd, "skd: no process for 'cat'");
    assert!((2..=6).contains(&skd.children().len()));
    expect_all_served(&skd, streams);
}

#[test]
fn a_shortage_does_not_prevent_the_end_of_skd() {
    requires_root();
    let skd = Skd::new(["--threads", "1", "-t", "127.0.0.1:0"])
        .user(54_323, 54_323, [])
        .run("cat");
    assert_eq!(talk(skd.connect(), b"first"), b"first");
    skd.wait_for_children(0);
    limit_processes(skd.pid(), 2);
    let _streams = knock(&skd, 5);
    skd.wait_for_log("skd: no process for 'cat'");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_start_with_too_few_descriptors_is_refused() {
    for limit in [10, 20, 22, 24] {
        let skd =
            Skd::new(["-t", "127.0.0.1:0", "cat"]).limit(Resource::RLIMIT_NOFILE, limit, limit);
        let output = skd.end();
        output
            .expect_code(1)
            .expect_stderr(&["skd: ", "Too many open files"]);
        assert_eq!(output.stderr.lines().count(), 1, "{output:#?}");
    }
}

#[test]
fn a_start_with_too_few_descriptors_prints_no_port() {
    // From too few for the steps after binding, which takes the 21st, to enough.
    let mut refused = 0;
    for limit in 22.. {
        let skd = Skd::new(["--threads", "2", "-t", "127.0.0.1:0", "cat"])
            .limit(Resource::RLIMIT_NOFILE, limit, limit)
            .start_bare();
        let end = poll_for(DEADLINE, || {
            let ended = skd.try_wait(Duration::ZERO);
            let printed = !skd.stdout_lines().is_empty();
            (ended.is_some() || printed).then_some(ended)
        });
        match end.expect("an end or a port") {
            Some(status) => {
                assert_eq!(status.code(), Some(1), "{limit}");
                assert_eq!(skd.stdout_lines(), [""; 0], "{limit}");
                refused += 1;
            }
            None => {
                // The printed port works.
                assert_eq!(skd.stop().code(), Some(0), "{limit}");
                break;
            }
        }
    }
    assert!(refused > 3, "{refused}");
}

#[test]
fn a_shortage_of_processes_is_waited_out_for_datagrams_too() {
    requires_root();
    let skd = Skd::new(["-v", "--threads", "1", "-t", "127.0.0.1:0", "-u", "127.0.0.1:0"])
        .user(54_322, 54_322, [])
        .run_with("sh", ["-c", "test $PROTO = TCP && exec cat; exec perl -e 'print STDERR \"took it\\n\" if recv(STDIN, my $x, 9, 0)'"]);
    assert_eq!(talk(skd.connect(), b"first"), b"first");
    skd.wait_for_children(0);
    limit_processes(skd.pid(), 2);
    let mut streams = knock(&skd, 2);
    for stream in &mut streams {
        assert_eq!(receive(stream, 1), b"k");
    }
    // Now there is no process left for this one.
    crate::harness::udp_client(skd.addresses()[1])
        .send(b"wait")
        .unwrap();
    skd.wait_for_logs("skd: no process for 'sh'", 2);
    assert!(skd.logged("unread").is_empty() && skd.logged("took it").is_empty());
    drop(streams);
    skd.wait_for_log("took it");
    // However many attempts there were.
    assert_eq!(skd.logged("Received initial datagram").len(), 1);
}

#[test]
fn a_shortage_of_memory_is_waited_out() {
    requires_command("prlimit");
    // For skd alone: its handlers have no limit.
    let skd = Skd::new([
        "--threads",
        "1",
        "--limit",
        "as=unlimited",
        "-t",
        "127.0.0.1:0",
    ])
    .throttle(THROTTLE)
    .run("cat");
    let size = status_field(skd.pid(), "VmSize").unwrap();
    let kib: u64 = size.trim_end_matches(" kB").parse().unwrap();
    let limited = Command::new("prlimit")
        .args(["--pid", &skd.pid().to_string()])
        .arg(format!("--as={}:", kib * 1024))
        .status();
    assert!(limited.unwrap().success());
    // Some memory is left, for a hundred handlers or several.
    let mut streams = Vec::new();
    while skd.logged("skd: ").is_empty() {
        assert!(streams.len() < 3000, "memory is never short");
        streams.append(&mut knock(&skd, 1));
        skd.wait_until("it is served, or that is refused", || {
            !skd.logged("skd: ").is_empty() || skd.children().len() == streams.len()
        });
    }
    println!("{} handlers", streams.len());
    streams.append(&mut knock(&skd, 3));
    expect_calm(&skd, "skd: memory allocation failed");
    expect_all_served(&skd, streams);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_start_that_runs_out_of_memory_anywhere_leaves_nothing() {
    requires_command("prlimit");
    let directory = Directory::new();
    let start = || {
        let (pid, socket) = (directory.name("pid"), directory.name("socket"));
        Skd::new(["--threads", "2", "-P", &pid, "-l", &socket])
    };
    let whole = start().run("cat");
    let peak = status_field(whole.pid(), "VmPeak").unwrap();
    let peak: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    whole.stop();
    let (mut served, mut refused) = (0, 0);
    for step in 0..48 {
        // The peak of one start may be some hundred kB below or above that of the next.
        let limit = format!("--as={}:", (peak + 576 - 24 * step) * 1024);
        let skd = start().wrapper(["prlimit", &limit]).start("cat");
        skd.wait_until("it serves, or has ended", || {
            !directory.read("pid").is_empty() || skd.try_wait(Duration::ZERO).is_some()
        });
        match skd.try_wait(Duration::ZERO) {
            None => {
                skd.stop();
                served += 1;
            }
            Some(_) => refused += 1,
        }
        assert_eq!(directory.names(), [""; 0], "{limit}");
    }
    println!("{served} served, {refused} did not");
    assert!(served > 0 && refused > 0, "{served}, {refused}");
}

#[test]
fn a_filter_that_forbids_accept_is_waited_out() {
    let skd = Skd::new(["--threads", "1", "-t", "127.0.0.1:0"])
        // Each of these costs a tenth of a second at least.
        .wrapper(tampering("accept4", "error=EPERM:when=1..30"))
        .throttle(THROTTLE)
        .run("cat");
    let mut streams = knock(&skd, 3);
    expect_calm(&skd, "wasn't accepted: Operation not permitted");
    for stream in &mut streams {
        assert_eq!(receive(stream, 1), b"k");
    }
}

#[test]
fn memory_is_not_reserved_for_more_threads_than_there_are() {
    let skd = Skd::new(["--threads", "16", "-t", "127.0.0.1:0"]).run("cat");
    assert_eq!(talk(skd.connect(), b"1"), b"1");
    let peak = status_field(skd.pid(), "VmHWM");
    println!(
        "16 threads: {} KiB of its own, {peak:?} in all",
        rss_anon(skd.pid())
    );
    skd.wait_until("it holds little memory", || rss_anon(skd.pid()) < 4096);
}

#[test]
fn an_idle_skd_holds_little_memory() {
    let skd = Skd::new(["--threads", "2", "-t", "127.0.0.1:0"]).run("cat");
    // Not before the last step of the start, which frees what only the start needed.
    idle_descriptors(skd.pid());
    let kib = rss_anon(skd.pid());
    println!("idle: {kib} KiB of its own");
    // Most of a debug build's are relocated addresses.
    let limit = if cfg!(debug_assertions) { 1280 } else { 352 };
    assert!((1..limit).contains(&kib), "{kib} KiB");
}

/// The system calls that one connection may cost, in skd and in its handler before the exec: as in ARCHITECTURE.md.
/// With one client at a time an acceptor tries once more before it waits.
const CALLS: &[(&str, usize)] = &[
    ("accept4", 3),
    ("dup3", 2),
    ("close", 2),
    ("clone3", 1),
    ("epoll_wait", 2),
    ("epoll_ctl", 2),
    ("waitid", 1),
    ("close_range", 2),
    ("dup2", 2),
    ("setpgid", 1),
    ("rt_sigprocmask", 1),
    // The limit of open files, restored.
    ("prlimit64", 1),
    // Before every close, in builds with assertions.
    ("fcntl", 4),
];

#[test]
fn a_connection_costs_no_more_calls_than_documented() {
    const CONNECTIONS: usize = 300;
    requires_command("strace");
    let directory = Directory::new();
    // Without the start of a C library: it makes only the calls of its task.
    let handler = directory.compile_bare(
        "handler",
        "#include <unistd.h>\nvoid _start(void) { _exit(0); }",
    );
    let trace = directory.name("trace");
    let wrapper = ["strace", "-f", "-qq", "-c", "-o", &trace];
    // Those of a lingering close are others.
    let skd = Skd::new(["--threads", "1", "-t", "127.0.0.1:0", "--linger=0s"])
        .wrapper(wrapper)
        .run(&handler);
    for _ in 0..CONNECTIONS {
        assert_eq!(talk(skd.connect(), b""), b"");
    }
    assert_eq!(skd.stop().code(), Some(0));
    let table = directory.read("trace");
    let mut seen = 0;
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (Some(Ok(count)), Some(&call)) = (words.get(3).map(|n| n.parse()), words.last()) else {
            continue;
        };
        let count: usize = count;
        let known = CALLS.iter().find(|(name, _)| *name == call);
        let each = known.map_or(usize::from(call == "execve"), |(_, each)| *each);
        if call != "total" {
            seen += 1;
            // The start has its own.
            assert!(
                count <= each * CONNECTIONS + 150,
                "{call}: {count}\n{table}"
            );
        }
    }
    assert!(seen > CALLS.len(), "{table}");
}
