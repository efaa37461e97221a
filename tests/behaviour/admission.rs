//! Limits on the number of handlers and on their rate, in total and per source, and what refused clients receive.

use crate::harness::{
    Conversation, DEADLINE, Directory, Instance, Namespace, Running, Skd, assert_idle,
    connect_from, connect_unix, descriptors, echo, receive, requires_command, requires_root, talk,
    wait_until,
};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Reads a connection to its end: what a client that sends nothing receives.
fn read_answer(mut stream: impl Read) -> Result<String, ErrorKind> {
    let mut text = String::new();
    match stream.read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(error.kind()),
    }
}

/// Connects and reads to the end. A connection may be reset before connect(2) returns.
fn connect_and_read(address: SocketAddr) -> Result<String, ErrorKind> {
    let stream = TcpStream::connect(address).map_err(|error| error.kind())?;
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    read_answer(stream)
}

/// Starts an echo server with one thread on a TCP port.
fn echoing(options: &[&str]) -> Running {
    Skd::new(["-v", "--threads=1", "-t", "127.0.0.1:0"])
        .args(options)
        .run("cat")
}

/// A client with this source address.
#[track_caller]
fn client(skd: &Instance, from: &str) -> TcpStream {
    connect_from(from.parse().unwrap(), skd.address())
}

/// A client that has a handler.
#[track_caller]
fn served(skd: &Instance, from: &str) -> TcpStream {
    let mut stream = client(skd, from);
    echo(&mut stream, b"hello");
    stream
}

/// Asserts that a client is disconnected without a message.
#[track_caller]
fn refused(skd: &Instance, from: &str) {
    assert_eq!(read_answer(client(skd, from)), Ok(String::new()), "{from}");
}

/// Waits until all of these texts are in the log.
#[track_caller]
fn wait_for_lines(skd: &Instance, texts: &[&str]) {
    for text in texts {
        skd.wait_for_log(text);
    }
}

// Handlers per source.

#[test]
fn a_source_has_no_more_handlers_than_its_limit() {
    let skd = echoing(&["--max-per-source=2"]);
    let first = served(&skd, "127.0.0.1");
    let _second = served(&skd, "127.0.0.1");
    refused(&skd, "127.0.0.1");
    wait_for_lines(&skd, &["Refused connection from [127.0.0.1]:"]);
    // Other sources have limits of their own.
    let _third = served(&skd, "127.0.0.2");
    let _fourth = served(&skd, "127.0.0.2");
    refused(&skd, "127.0.0.2");
    assert_eq!(talk(first, b""), b"");
    skd.wait_for_children(3);
    wait_until("the slot is free again", || {
        let mut stream = client(&skd, "127.0.0.1");
        stream.write_all(b"x").is_ok() && byte_arrives(&mut stream)
    });
}

/// Whether a byte arrives.
fn byte_arrives(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(1))
}

#[test]
fn addresses_that_agree_in_the_prefix_are_one_source() {
    let skd = echoing(&["--max-per-source=1", "--source-prefix=24,64"]);
    let _first = served(&skd, "127.0.1.1");
    refused(&skd, "127.0.1.200");
    wait_for_lines(&skd, &["127.0.1.0/24 "]);
    let _other = served(&skd, "127.0.2.1");
    let skd = echoing(&["--max-per-source=1", "--source-prefix=0,0"]);
    let _all = served(&skd, "127.0.1.1");
    refused(&skd, "127.9.9.9");
}

#[test]
fn an_ipv6_source_is_a_network_unless_said_otherwise() {
    requires_root();
    let namespace = Namespace::new();
    let (one, neighbour, other) = ("2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:2::1");
    for address in [one, neighbour, other] {
        namespace.add_address(&format!("{address}/128"));
    }
    for (prefix, alike) in [("32,64", true), ("32,128", false), ("0,63", true)] {
        let options = ["-v", "--threads=1", "--max-per-source=1", "-t", "[::]:4242"];
        let skd = Skd::new(options).args(["--source-prefix", prefix]);
        let skd = skd.inside(&namespace).run("cat");
        let address: SocketAddr = "[2001:db8:0:1::1]:4242".parse().unwrap();
        namespace.enter(|| {
            let from = |text: &str| connect_from(text.parse().unwrap(), address);
            let mut first = from(one);
            echo(&mut first, b"first");
            let mut third = from(other);
            echo(&mut third, b"third");
            let mut second = from(neighbour);
            if alike {
                assert_eq!(read_answer(second), Ok(String::new()), "{prefix}");
            } else {
                echo(&mut second, b"second");
            }
        });
        if alike {
            skd.wait_for_log(&format!("Refused connection from [{neighbour}]:"));
        }
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn an_ipv4_client_is_the_same_source_on_a_socket_for_both() {
    requires_root();
    let namespace = Namespace::new();
    namespace.sysctl("net.ipv6.bindv6only", "0");
    // An inherited socket, since those that skd binds are for IPv6 alone.
    let both = namespace.enter(|| {
        let listener = std::net::TcpListener::bind("[::]:0").unwrap();
        (listener.local_addr().unwrap().port(), listener)
    });
    let skd = Skd::new(["-v", "--threads=1", "--max-per-source=1", "--listen-fd=3"])
        .args(["-t", "127.0.0.1:4242"])
        .descriptor(3, both.1)
        .inside(&namespace)
        .run("cat");
    namespace.enter(|| {
        let to = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let from = |text: &str, port| connect_from(text.parse().unwrap(), to(port));
        let mut first = from("127.0.0.1", both.0);
        echo(&mut first, b"first");
        assert_eq!(read_answer(from("127.0.0.1", 4242)), Ok(String::new()));
        let mut other = from("127.0.0.2", both.0);
        echo(&mut other, b"other");
        assert_eq!(read_answer(from("127.0.0.2", both.0)), Ok(String::new()));
    });
    wait_for_lines(&skd, &["from [127.0.0.2]:"]);
}

#[test]
fn on_unix_sockets_each_user_is_a_source() {
    requires_root();
    requires_command("setpriv");
    requires_command("socat");
    let directory = Directory::public();
    let path = directory.name("socket");
    let skd = Skd::new([
        "-v",
        "--threads=1",
        "--max-per-source=1",
        "--unix-mode=666",
        "-l",
    ])
    .arg(&path)
    .run("cat");
    let mut root = connect_unix(&path);
    echo(&mut root, b"root");
    assert_eq!(read_answer(connect_unix(&path)), Ok(String::new()));
    wait_for_lines(&skd, &["Refused local connection from pid ", "uid 0 has "]);
    let ask = Command::new("setpriv")
        .args(["--reuid=61234", "--clear-groups", "socat", "-t5", "-"])
        .arg(format!("UNIX-CONNECT:{path}"))
        .stdin(Stdio::from(std::fs::File::open("/etc/hostname").unwrap()))
        .output()
        .unwrap();
    assert_eq!(ask.stdout, std::fs::read("/etc/hostname").unwrap());
}

#[test]
fn handlers_from_before_an_upgrade_count() {
    let skd = echoing(&["--max-per-source=1"]);
    let first = served(&skd, "127.0.0.1");
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from skd ");
    refused(&skd, "127.0.0.1");
    let _other = served(&skd, "127.0.0.2");
    talk(first, b"");
    wait_until("the slot is free again", || {
        let mut stream = client(&skd, "127.0.0.1");
        stream.write_all(b"x").is_ok() && byte_arrives(&mut stream)
    });
}

// Rates.

#[test]
fn a_burst_is_accepted_and_no_more() {
    let skd = echoing(&["--rate=1/h:3", "--at-rate=close"]);
    for last in 1..=3 {
        assert_eq!(talk(client(&skd, &format!("127.0.0.{last}")), b"x"), b"x");
    }
    refused(&skd, "127.0.0.4");
    wait_for_lines(&skd, &["Refused connection from [127.0.0.4]:"]);
}

#[test]
fn a_source_above_its_rate_is_refused_and_others_are_not() {
    let skd = echoing(&["--rate-per-source=1/h:2"]);
    for from in ["127.0.0.1", "127.0.0.2"] {
        for _ in 0..2 {
            assert_eq!(talk(client(&skd, from), b"x"), b"x");
        }
        refused(&skd, from);
    }
    wait_for_lines(&skd, &["127.0.0.1 comes faster than it may"]);
}

#[test]
fn tokens_come_back() {
    // Each connection but the first has to wait for its token, which comes after 50 ms.
    for option in ["--rate=20/s:1", "--rate-per-source=20/s:1"] {
        let at = match option.starts_with("--rate=") {
            true => "--at-rate=queue",
            false => "--at-rate=queue:10s",
        };
        let skd = echoing(&[option, at]);
        let start = Instant::now();
        for _ in 0..6 {
            assert_eq!(talk(client(&skd, "127.0.0.1"), b"x"), b"x");
        }
        assert!(start.elapsed() >= Duration::from_millis(250), "{option}");
        assert_eq!(skd.logged("Refused"), [""; 0]);
    }
}

#[test]
fn a_connection_refused_for_another_reason_costs_no_token() {
    let options = ["--max-per-source=1", "--rate=1/h:2", "--at-rate=close"];
    let skd = echoing(&options);
    let _first = served(&skd, "127.0.0.1");
    for _ in 0..5 {
        refused(&skd, "127.0.0.1");
    }
    let _second = served(&skd, "127.0.0.2");
    refused(&skd, "127.0.0.3");
    // The reverse: connections refused by the total limit cost their source no token.
    let options = ["-c1", "--at-max=close", "--rate-per-source=1/h:1"];
    let skd = echoing(&options);
    let first = served(&skd, "127.0.0.1");
    for _ in 0..5 {
        refused(&skd, "127.0.0.2");
    }
    talk(first, b"");
    skd.wait_for_children(0);
    // The slot is free shortly after the handler has ended.
    wait_until("the second has its token", || {
        let mut stream = client(&skd, "127.0.0.2");
        stream.write_all(b"x").is_ok() && byte_arrives(&mut stream)
    });
}

// What refused clients receive.

/// Options under which one client is accepted for a long time, and the option that says what the second receives.
const LIMITS: [(&[&str], &str); 4] = [
    (&["-c1"], "--at-max"),
    (&["--max-per-source=1"], "--at-source-max"),
    (&["--rate=1/h:1"], "--at-rate"),
    (&["--rate-per-source=1/h:1"], "--at-rate"),
];

/// Values of that option, and what a TCP client receives: for a queue, the end after some time.
const ANSWERS: [(&str, Result<&str, ErrorKind>); 4] = [
    ("close", Ok("")),
    ("reset", Err(ErrorKind::ConnectionReset)),
    (r"message:not \x6eow\r\n", Ok("not now\r\n")),
    ("queue:30ms", Ok("")),
];

#[test]
fn a_client_over_a_limit_gets_the_configured_answer() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let start = |listener: [&str; 2], options: &[&str], at: [&str; 2]| {
        let skd = Skd::new(["-v", "--threads=1"]).args(listener);
        skd.args(options).args(at).run("cat")
    };
    for (options, at) in LIMITS {
        for (answer, heard) in ANSWERS {
            let what = format!("{options:?} {at}={answer}");
            let heard = heard.map(str::to_owned);
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let skd = start(["-t", address], options, [at, answer]);
                let mut first = skd.connect();
                echo(&mut first, b"first");
                assert_eq!(connect_and_read(skd.address()), heard, "{what} {address}");
                wait_for_lines(&skd, &["Refused connection from ["]);
            }
            let skd = start(["-l", path.to_str().unwrap()], options, [at, answer]);
            let mut first = skd.connect_unix();
            echo(&mut first, b"first");
            // On a unix socket a reset counts as an end.
            let heard = heard.or(Ok(String::new()));
            assert_eq!(read_answer(skd.connect_unix()), heard, "{what}");
            wait_for_lines(&skd, &["Refused local connection from pid "]);
        }
    }
}

/// Asserts that a queued client is served once `free` has freed what it waits for.
fn is_served_after(skd: &Instance, mut free: impl FnMut()) {
    let mut second = client(skd, "127.0.0.1");
    second.write_all(b"second").unwrap();
    free();
    assert_eq!(receive(&mut second, 6), b"second");
    assert_eq!(skd.logged("Refused"), [""; 0]);
}

#[test]
fn a_queued_client_is_served_when_a_slot_is_free() {
    for threads in ["--threads=1", "--threads=3"] {
        for options in [
            &["-c1"][..],
            &["-c1", "--at-max=queue"],
            &["-c1", "--at-max=queue:1h"],
            &["--max-per-source=1", "--at-source-max=queue:1h"],
            &["-c1", "--max-per-source=1", "--at-source-max=queue:1h"],
            &[
                "-c1",
                "--max-per-source=1",
                "--at-max=queue:1h",
                "--at-source-max=queue:1h",
            ],
        ] {
            let skd = Skd::new(["-v", threads, "-t", "127.0.0.1:0"]);
            let skd = skd.args(options).run("cat");
            let mut first = served(&skd, "127.0.0.1");
            is_served_after(&skd, || {
                echo(&mut first, b"still the first");
                assert_eq!(skd.children().len(), 1, "{options:?}");
                first.finish().unwrap();
            });
        }
    }
}

#[test]
fn a_queued_client_holds_up_no_other_source() {
    let skd = echoing(&["--max-per-source=1", "--at-source-max=queue:1h"]);
    let first = served(&skd, "127.0.0.1");
    let mut waiting: Vec<_> = (0..5).map(|_| client(&skd, "127.0.0.1")).collect();
    for last in 2..20 {
        drop(served(&skd, &format!("127.0.0.{last}")));
    }
    talk(first, b"");
    // One after the other, each after the previous client has left.
    for stream in &mut waiting {
        stream.write_all(b"x").unwrap();
    }
    for stream in waiting {
        assert_eq!(talk(stream, b"y"), b"xy");
    }
}

#[test]
fn all_queued_clients_are_served_in_turn() {
    let max = ["--max-per-source=1", "--at-source-max=queue:1h"];
    let rate = ["--rate-per-source=50/s:1", "--at-rate=queue:1h"];
    for threads in ["--threads=1", "--threads=3"] {
        for options in [&max[..], &rate, &[max, rate].concat()] {
            let skd = Skd::new(["-v", threads, "-t", "127.0.0.1:0"]);
            let skd = skd.args(options).run("cat");
            let first = served(&skd, "127.0.0.1");
            let line: Vec<_> = (0..20)
                .map(|_| {
                    let mut stream = client(&skd, "127.0.0.1");
                    stream.write_all(b"x").unwrap();
                    stream.finish().unwrap();
                    stream
                })
                .collect();
            drop(first);
            for stream in line {
                assert_eq!(read_answer(stream), Ok("x".into()), "{options:?}");
            }
            assert_eq!(skd.logged("Refused"), [""; 0]);
        }
    }
}

#[test]
fn queued_clients_of_one_source_leave_queue_space_for_others() {
    for (option, at) in [
        ("--max-per-source=1", "--at-source-max=queue:1h"),
        ("--rate-per-source=1/h:1", "--at-rate=queue:1h"),
    ] {
        // A pending queue of 32 entries.
        let skd = Skd::new(["-v", "--threads=1", "-t", "127.0.0.1:0"])
            .args(["--first-byte=1h", option, at])
            .limit(Resource::RLIMIT_NOFILE, 64, 64)
            .run("cat");
        let _first = served(&skd, "127.0.0.1");
        let greedy: Vec<_> = (0..50)
            .map(|_| {
                let mut stream = client(&skd, "127.0.0.1");
                stream.write_all(b"x").unwrap();
                stream
            })
            .collect();
        skd.wait_for_log("Refused connection from [127.0.0.1]:");
        for last in 2..10 {
            let mut silent = client(&skd, &format!("127.0.0.{last}"));
            // It stays queued while others come and go.
            drop(served(&skd, &format!("127.0.1.{last}")));
            echo(&mut silent, b"at last");
        }
        assert_eq!(skd.logged("Refused connection from [127.0.0.2]"), [""; 0]);
        drop(greedy);
    }
}

#[test]
fn a_queued_client_that_has_left_takes_no_slot() {
    for options in [
        &["-c1", "--at-max=queue:1h"][..],
        &["--max-per-source=1", "--at-source-max=queue:1h"],
    ] {
        let skd = echoing(options);
        let first = served(&skd, "127.0.0.1");
        for _ in 0..5 {
            drop(client(&skd, "127.0.0.1"));
        }
        let mut last = client(&skd, "127.0.0.1");
        last.write_all(b"x").unwrap();
        talk(first, b"");
        assert_eq!(talk(last, b"y"), b"xy", "{options:?}");
    }
}

#[test]
fn concurrent_clients_never_exceed_the_limit() {
    let directory = Directory::new();
    // Each handler counts the handlers of its source: one file each, while it runs.
    let script = "mkdir \"$0/$TCPREMOTEIP.$$\" && ls \"$0\" | grep -c \"^$TCPREMOTEIP\\.\"
                  rmdir \"$0/$TCPREMOTEIP.$$\"";
    let skd = Skd::new([
        "-v",
        "--threads=3",
        "--max-per-source=2",
        "-t",
        "127.0.0.1:0",
    ])
    .arg("--at-source-max=queue:1h")
    .run_with("sh", ["-c", script, &directory.name("")]);
    std::thread::scope(|scope| {
        for last in 1..=4 {
            for _ in 0..3 {
                let skd = &skd;
                scope.spawn(move || {
                    for _ in 0..10 {
                        let answer = read_answer(client(skd, &format!("127.0.0.{last}"))).unwrap();
                        assert!(["1\n", "2\n"].contains(&answer.as_str()), "{answer:?}");
                    }
                });
            }
        }
    });
    assert_eq!(skd.logged("Refused"), [""; 0]);
}

// The cost of queued clients.

#[test]
fn a_rate_that_is_unusable_without_a_free_slot_keeps_no_thread_busy() {
    let skd = echoing(&["-c2", "--rate=2/s:1", "--first-byte=1h"]);
    let mut both: Vec<_> = (1..=2).map(|_| client(&skd, "127.0.0.1")).collect();
    let silent = client(&skd, "127.0.0.1");
    skd.wait_until("all clients are queued", || descriptors_of_tcp(&skd) == 4);
    // The second waits for its token, and then takes the last slot.
    for stream in &mut both {
        stream.write_all(b"x").unwrap();
    }
    for stream in &mut both {
        assert_eq!(receive(stream, 1), b"x");
    }
    // The next token is added during the measurement, and the one after.
    assert_idle(&[skd.pid()]);
    drop(silent);
}

/// The number of sockets that skd has, its listener included.
fn descriptors_of_tcp(skd: &Instance) -> usize {
    let sockets = descriptors(skd.pid()).into_values();
    sockets.filter(|what| what.starts_with("socket:")).count()
}

#[test]
fn silent_queued_clients_are_dropped_when_descriptors_are_short() {
    // Pending queues of 32, which with as many handlers exceed the limit of open files.
    let skd = Skd::new(["-v", "--threads=1", "--first-byte=1h", "-t", "127.0.0.1:0"])
        .limit(Resource::RLIMIT_NOFILE, 64, 64)
        .run("cat");
    let silent: Vec<_> = (1..=31)
        .map(|last| client(&skd, &format!("127.0.1.{last}")))
        .collect();
    let handlers: Vec<_> = (1..=31)
        .map(|last| served(&skd, &format!("127.0.2.{last}")))
        .collect();
    skd.wait_for_log("Refused connection from [127.0.1.1]:");
    assert_eq!(skd.logged("Refused connection from [127.0.2."), [""; 0]);
    drop((silent, handlers));
}

#[test]
fn the_pending_queue_fits_all_clients_after_an_upgrade() {
    // Three queues of 21 entries each, and five entries of each for one source.
    let skd = Skd::new(["-v", "--threads=3", "-t", "127.0.0.1:0"])
        .args(["-c1", "--at-max=queue:1h"])
        .limit(Resource::RLIMIT_NOFILE, 128, 128)
        .run("cat");
    let mut first = served(&skd, "127.0.0.1");
    // Every thread accepts a client if all clients connect before any thread polls.
    skd.signal(Signal::SIGSTOP);
    let mut waiting: Vec<_> = (1..=50)
        .map(|last| client(&skd, &format!("127.0.1.{last}")))
        .collect();
    skd.signal(Signal::SIGCONT);
    skd.wait_until("all wait or are refused", || {
        descriptors_of_tcp(&skd) + refusals(&skd) > 50
    });
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from skd ");
    echo(&mut first, b"still the first");
    first.finish().unwrap();
    for stream in &mut waiting {
        // Some of the clients leave.
        let _ = stream.write_all(b"x").and_then(|()| stream.finish());
    }
    let heard = waiting.into_iter().map(read_answer);
    let served = heard.filter(|heard| heard.as_deref() == Ok("x")).count();
    skd.wait_until("all were served or refused", || {
        served + refusals(&skd) == 50
    });
    let lines = skd.log_lines();
    let mut lines = lines.iter().map(String::as_str);
    assert!(lines.any(|line| line.starts_with("Upgraded from skd ")));
    assert_eq!(lines.find(|line| line.starts_with("Refused")), None);
}

// Log lines.

#[test]
fn refusals_are_logged_a_few_times_and_then_counted() {
    let skd = Skd::new(["-v", "--threads=1", "-t", "127.0.0.1:0"])
        .args(["--rate-per-source=1/h:1", "--source-prefix=24,64"])
        .throttle(Duration::from_secs(3600))
        .run("cat");
    let _first = served(&skd, "127.0.1.1");
    let _other = served(&skd, "127.0.2.1");
    for last in 1..=200 {
        refused(&skd, &format!("127.0.1.{last}"));
    }
    refused(&skd, "127.0.2.1");
    // A client that comes rarely is always logged.
    wait_for_lines(&skd, &["Refused connection from [127.0.2.1]:"]);
    // The count is logged at the end.
    skd.signal(Signal::SIGTERM);
    skd.wait_until("all refusals are logged or counted", || {
        refusals(&skd) == 201
    });
    // A line per interval, of which there can't have been more than lines.
    let more = skd.logged(" more connections from ").len();
    let single = skd.logged("Refused connection from [127.0.1.").len();
    assert!(single <= 3 * (more + 1), "{:#?}", skd.log_lines());
    if cfg!(debug_assertions) {
        assert_eq!((more, single), (1, 3), "{:#?}", skd.log_lines());
    }
}

/// The number of refusals that were logged or counted.
fn refusals(skd: &Instance) -> usize {
    let more = skd.logged(" more connections from ");
    let counted = more.iter().map(|line| {
        let number = line.split(' ').nth(1).unwrap();
        number.parse::<usize>().unwrap()
    });
    skd.logged("Refused connection from ").len() + counted.sum::<usize>()
}

#[test]
fn counted_refusals_are_logged_before_the_end_and_before_an_upgrade() {
    let skd = echoing(&["--drain=10s", "--rate-per-source=1/h:1"]);
    let first = served(&skd, "127.0.0.1");
    for _ in 0..50 {
        refused(&skd, "127.0.0.1");
    }
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from skd ");
    assert_eq!(refusals(&skd), 50, "{:#?}", skd.log_lines());
    // Token buckets survive the upgrade.
    for _ in 0..50 {
        refused(&skd, "127.0.0.1");
    }
    drop(first);
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(refusals(&skd), 100, "{:#?}", skd.log_lines());
}

#[test]
fn only_queued_clients_are_logged_as_queued() {
    let full = "skd: the only slot is taken; clients wait";
    let fast = "skd: connections come faster than --rate; clients wait";
    let limits = [("-c1", "--at-max"), ("--rate=1/h:1", "--at-rate")];
    for (limit, at) in limits {
        for answer in ["close", "reset", "message:no"] {
            let skd = echoing(&[limit, at, answer]);
            let mut first = served(&skd, "127.0.0.1");
            for _ in 0..20 {
                let _ = connect_and_read(skd.address());
            }
            // The main thread, which would log queued clients, has run by then.
            skd.signal(Signal::SIGUSR2);
            skd.wait_for_log("Upgraded from skd ");
            echo(&mut first, b"still");
            assert_eq!(skd.logged("clients wait"), [""; 0], "{at} {answer}");
        }
    }
    for (options, line) in [
        (&["-c1"][..], full),
        (&["-c1", "--at-max=queue:1h"], full),
        (&["-c1", "--first-byte=1h"], full),
        (&["--rate=1/h:1"], fast),
        (&["--rate=1/h:1", "--at-rate=queue:1h"], fast),
        (&["--rate=1/h:1", "--first-byte=1h"], fast),
    ] {
        let skd = echoing(options);
        let _first = served(&skd, "127.0.0.1");
        // No client is queued yet.
        assert_eq!(skd.logged("clients wait"), [""; 0], "{options:?}");
        let mut second = client(&skd, "127.0.0.1");
        second.write_all(b"x").unwrap();
        skd.wait_for_log(line);
    }
}

#[test]
fn clients_queued_at_the_end_are_disconnected_and_logged() {
    for options in [&["--first-byte=1h"][..], &["--first-byte=1h", "--drain=1h"]] {
        let skd = echoing(options);
        let silent = client(&skd, "127.0.0.1");
        // With one thread, a client that is served later proves that this one was accepted.
        talk(client(&skd, "127.0.0.2"), b"x");
        assert_eq!(skd.stop().code(), Some(0));
        assert_eq!(read_answer(silent), Ok(String::new()));
        let lines = skd.logged("Refused connection from [127.0.0.1]:");
        assert!(
            lines.len() == 1 && lines[0].ends_with(": skd ends"),
            "{lines:?}"
        );
    }
}
