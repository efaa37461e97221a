//! `--datagram-mode per-peer`: a handler for each sender.

use crate::harness::{
    Directory, Namespace, Running, Skd, ask, ask_udp, is_zombie, requires_command, run_to_end,
    stat_field, time_limit, udp_client, wait_until,
};
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::time::Duration;

fn per_peer(options: &[&str]) -> Skd {
    Skd::new(["-v", "--datagram-mode", "per-peer"]).args(options)
}

fn udp(options: &[&str]) -> Skd {
    per_peer(&["-u", "127.0.0.1:0"]).args(options)
}

/// A handler that reads datagrams as `$_` and runs this for each.
fn perl(options: Skd, each: &str) -> Running {
    requires_command("perl");
    let script = format!("$| = 1; while (sysread(STDIN, $_, 65536)) {{ {each} }}");
    options.run_with("perl", ["-e", &script])
}

const COUNT: &str = "syswrite(STDOUT, ++$n . \" $_\")";

#[test]
fn a_sender_has_a_handler_for_all_its_datagrams() {
    let skd = perl(udp(&[]), COUNT);
    let (one, other) = (udp_client(skd.address()), udp_client(skd.address()));
    assert_eq!(ask(&one, b"a"), b"1 a");
    assert_eq!(ask(&other, b"b"), b"1 b");
    for turn in 2..20 {
        assert_eq!(ask(&one, b"a"), format!("{turn} a").as_bytes());
        assert_eq!(ask(&other, b"b"), format!("{turn} b").as_bytes());
    }
    assert_eq!(skd.children().len(), 2);
}

#[test]
fn datagrams_that_arrive_before_the_handler_reads_are_not_lost() {
    let skd = perl(udp(&[]), COUNT);
    let client = udp_client(skd.address());
    for _ in 0..50 {
        client.send(b"x").unwrap();
    }
    let mut answer = [0; 10];
    for turn in 1..=50 {
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], format!("{turn} x").as_bytes());
    }
    assert_eq!(skd.children().len(), 1);
}

#[test]
fn hundreds_of_senders_have_their_own_answers() {
    many(200);
}

#[test]
#[ignore = "takes long, and thousands of processes"]
fn thousands_of_senders_have_their_own_answers() {
    many(5_000);
}

fn many(count: usize) {
    crate::harness::requires_descriptors(count + 100);
    // A handler that needs little memory.
    let line = "exec dd bs=65536 2>/dev/null";
    let skd =
        udp(&["--receive-buffer", "16M", "--idle-timeout", "1h"]).run_with("sh", ["-c", line]);
    let clients: Vec<_> = (0..count).map(|_| udp_client(skd.address())).collect();
    let request = |client: usize, turn: usize| {
        let text = format!("{client}:{turn} ").repeat(1 + client % 90);
        text.into_bytes()
    };
    let mut answer = vec![0; 65_536];
    for turn in 0..4 {
        for (start, chunk) in clients.chunks(100).enumerate() {
            let numbers = start * 100..;
            for (client, number) in chunk.iter().zip(numbers.clone()) {
                client.send(&request(number, turn)).unwrap();
            }
            for (client, number) in chunk.iter().zip(numbers) {
                let length = client.recv(&mut answer).unwrap();
                assert!(answer[..length] == request(number, turn), "{number}:{turn}");
            }
        }
    }
    assert_eq!(skd.logged("Accepted").len(), count);
    assert!(skd.logged("Dropped").is_empty());
}

#[test]
fn the_largest_datagram_goes_both_ways() {
    let skd = udp(&[]).run_with("sh", ["-c", "exec dd bs=65536 2>/dev/null"]);
    let largest: Vec<u8> = (0..65_507_u32).map(|index| (index % 251) as u8).collect();
    assert!(ask_udp(skd.address(), &largest) == largest);
}

#[test]
fn an_answer_that_is_too_long_is_dropped_and_the_next_one_is_sent() {
    let each = "syswrite(STDOUT, 'x' x 65508); syswrite(STDOUT, $_)";
    let skd = perl(udp(&[]), each);
    assert_eq!(ask_udp(skd.address(), b"short"), b"short");
    skd.wait_for_log("is longer than 65507 bytes: it is not sent");
}

#[test]
fn an_empty_answer_is_sent_and_an_empty_datagram_is_dropped() {
    let skd = perl(udp(&[]), "syswrite(STDOUT, ''); syswrite(STDOUT, $_)");
    let client = udp_client(skd.address());
    client.send(b"").unwrap();
    client.send(b"a").unwrap();
    let mut answer = [1; 10];
    assert_eq!(client.recv(&mut answer).unwrap(), 0);
    assert_eq!(client.recv(&mut answer).unwrap(), 1);
    skd.wait_for_log("Dropped 1 datagram: it is empty");
}

#[test]
fn output_between_an_empty_answer_and_the_end_is_sent() {
    requires_command("perl");
    let script = "sysread(STDIN, $_, 65536); syswrite(STDOUT, ''); syswrite(STDOUT, $_)";
    let skd = udp(&[]).run_with("perl", ["-e", script]);
    for _ in 0..20 {
        let client = udp_client(skd.address());
        client.send(b"a").unwrap();
        let mut answer = [1; 10];
        assert_eq!(client.recv(&mut answer).unwrap(), 0);
        assert_eq!(client.recv(&mut answer).unwrap(), 1);
    }
}

#[test]
fn no_empty_answer_is_taken_for_the_end() {
    let directory = Directory::new();
    requires_command("perl");
    // As many as skd reads at once.
    let script = "sysread(STDIN, $_, 65536); syswrite(STDOUT, 'ready');
        until (-e $ARGV[0]) { select(undef, undef, undef, 0.01) }
        for (1..31) { syswrite(STDOUT, 'x') }
        syswrite(STDOUT, ''); syswrite(STDOUT, 'last')";
    let go = directory.name("go");
    let skd = udp(&[]).run_with("perl", ["-e", script, &go]);
    let client = udp_client(skd.address());
    assert_eq!(ask(&client, b"a"), b"ready");
    let handler = skd.wait_for_children(1)[0];
    // It reads all of it when the handler has ended.
    skd.signal(Signal::SIGSTOP);
    wait_until("skd is stopped", || {
        stat_field(skd.pid(), 3).as_deref() == Some("T")
    });
    directory.write("go", "");
    wait_until("the handler has ended", || is_zombie(handler));
    skd.signal(Signal::SIGCONT);
    let mut answer = [1; 10];
    for _ in 0..31 {
        assert_eq!(client.recv(&mut answer).unwrap(), 1);
    }
    assert_eq!(client.recv(&mut answer).unwrap(), 0);
    assert_eq!(client.recv(&mut answer).unwrap(), 4);
}

#[test]
fn answers_come_from_the_address_that_was_asked() {
    let namespace = Namespace::new();
    for address in ["10.1.0.1/24", "10.1.0.2/24", "fd00::1/64", "fd00::2/64"] {
        namespace.add_address(address);
    }
    let _skd = perl(
        per_peer(&["-u", "7000"]).inside(&namespace),
        "syswrite(STDOUT, \"$_ $ENV{UDPLOCALIP} $ENV{REMOTE_PORT}\")",
    );
    namespace.enter(|| {
        for address in ["10.1.0.1", "10.1.0.2", "fd00::1", "fd00::2"] {
            let to = SocketAddr::new(address.parse().unwrap(), 7000);
            let client = udp_client(to);
            let port = client.local_addr().unwrap().port();
            for _ in 0..3 {
                let expected = format!("at {address} {port}");
                assert_eq!(ask(&client, b"at"), expected.as_bytes());
            }
        }
    });
}

#[test]
fn one_client_with_two_addresses_is_two_senders() {
    let namespace = Namespace::new();
    namespace.add_address("10.1.0.1/24");
    namespace.add_address("10.1.0.2/24");
    let _skd = perl(per_peer(&["-u", "7000"]).inside(&namespace), COUNT);
    namespace.enter(|| {
        let client = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut answer = [0; 10];
        for turn in 1..4 {
            for to in ["10.1.0.1:7000", "10.1.0.2:7000"] {
                client.send_to(b"x", to).unwrap();
                let (length, from) = client.recv_from(&mut answer).unwrap();
                assert_eq!(from, to.parse().unwrap());
                assert_eq!(&answer[..length], format!("{turn} x").as_bytes());
            }
        }
    });
}

#[test]
fn a_handler_that_does_not_read_delays_no_other_and_overflow_is_counted() {
    let directory = Directory::new();
    let go = directory.name("go");
    requires_command("perl");
    let script = "select undef, undef, undef, 0.01 while $ENV{REMOTE_PORT} == $ARGV[1] && ! -e $ARGV[0]; \
                  while (sysread(STDIN, $_, 65536)) { syswrite(STDOUT, $_) }";
    let slow = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = slow.local_addr().unwrap().port().to_string();
    let skd = udp(&[]).run_with("perl", ["-e", script, &go, &port]);
    slow.connect(skd.address()).unwrap();
    for turn in 0..100 {
        slow.send(&[b'x'; 8000]).unwrap();
        if turn % 10 == 0 {
            assert_eq!(ask_udp(skd.address(), b"quick"), b"quick");
        }
    }
    let line = skd.wait_for_log("Dropped");
    assert!(
        line.ends_with(": their handlers have not read those before"),
        "{line}"
    );
    std::fs::write(&go, "").unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(slow.recv(&mut [0; 9000]).unwrap(), 8000);
}

#[test]
fn a_silent_sender_times_out_and_its_handler_sends_last() {
    let skd = {
        requires_command("perl");
        let script =
            "while (sysread(STDIN, $_, 65536)) { syswrite(STDOUT, $_) } syswrite(STDOUT, 'end')";
        udp(&["--idle-timeout", &time_limit(1)]).run_with("perl", ["-e", script])
    };
    let client = udp_client(skd.address());
    for _ in 0..2 {
        assert_eq!(ask(&client, b"a"), b"a");
        let mut answer = [0; 10];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"end");
        skd.wait_until("it has ended", || skd.children().is_empty());
    }
    skd.wait_for_logs("Finished", 2);
}

#[test]
fn a_datagram_after_a_handlers_end_starts_another() {
    let skd = perl(udp(&[]), "syswrite(STDOUT, \"$$\"); exit");
    let client = udp_client(skd.address());
    let first = ask(&client, b"1");
    skd.wait_until("it has ended", || skd.children().is_empty());
    let second = ask(&client, b"2");
    assert_ne!(first, second);
}

#[test]
fn a_sender_above_the_limit_is_dropped_and_the_others_go_on() {
    let skd = perl(udp(&["-c", "2"]), COUNT);
    let clients: Vec<_> = (0..3).map(|_| udp_client(skd.address())).collect();
    assert_eq!(ask(&clients[0], b"a"), b"1 a");
    assert_eq!(ask(&clients[1], b"a"), b"1 a");
    clients[2].send(b"a").unwrap();
    let line = skd.wait_for_log("Refused");
    assert!(line.ends_with(": all 2 slots are taken"), "{line}");
    assert_eq!(ask(&clients[0], b"a"), b"2 a");
}

#[test]
fn rules_rates_and_limits_hold() {
    let denied = perl(udp(&["--deny", "127.0.0.1"]), COUNT);
    denied.wait_ready();
    udp_client(denied.address()).send(b"1").unwrap();
    assert!(denied.wait_for_log("Refused").contains(": denied by "));
    drop(denied);

    let limited = perl(udp(&["--max-per-source", "1"]), COUNT);
    let client = udp_client(limited.address());
    assert_eq!(ask(&client, b"a"), b"1 a");
    udp_client(limited.address()).send(b"1").unwrap();
    let line = limited.wait_for_log("Refused");
    assert!(
        line.ends_with("127.0.0.1 has as many handlers as it may, 1"),
        "{line}"
    );
    assert_eq!(ask(&client, b"a"), b"2 a");
    drop(limited);

    let ports = perl(udp(&["--min-source-port", "65535"]), COUNT);
    ports.wait_ready();
    let client = udp_client(ports.address());
    if client.local_addr().unwrap().port() != 65535 {
        client.send(b"1").unwrap();
        assert!(
            ports
                .wait_for_log("Refused")
                .ends_with(" is below --min-source-port")
        );
    }
    drop(ports);

    let limit = time_limit(1);
    let late = perl(udp(&["--timeout", &limit]), COUNT);
    let client = udp_client(late.address());
    assert_eq!(ask(&client, b"a"), b"1 a");
    late.wait_for_log(&format!("has run for {limit}: TERM is sent to it"));
    late.wait_until("it has ended", || late.children().is_empty());
    assert_eq!(ask(&client, b"a"), b"1 a");
}

#[test]
fn a_drain_keeps_serving_known_senders() {
    let skd = perl(udp(&["--drain", "60s"]), &format!("{COUNT}; exit if /end/"));
    let client = udp_client(skd.address());
    assert_eq!(ask(&client, b"a"), b"1 a");
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("Draining: 1 handler");
    assert_eq!(ask(&client, b"a"), b"2 a");
    udp_client(skd.address()).send(b"new").unwrap();
    skd.wait_for_log("Dropped 1 datagram: no new sender is served");
    assert_eq!(ask(&client, b"end"), b"3 end");
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn at_the_end_of_skd_handlers_read_the_end() {
    let directory = Directory::new();
    let said = directory.name("said");
    requires_command("perl");
    let script =
        "while (sysread(STDIN, $_, 65536)) { syswrite(STDOUT, $_) } open(F, '>', $ARGV[0])";
    let skd = udp(&[]).run_with("perl", ["-e", script, &said]);
    assert_eq!(ask_udp(skd.address(), b"a"), b"a");
    skd.stop();
    wait_until("it has read the end", || std::fs::exists(&said).unwrap());
}

#[test]
fn an_upgrade_keeps_serving() {
    let skd = perl(udp(&["-c", "3"]), COUNT);
    let client = udp_client(skd.address());
    assert_eq!(ask(&client, b"a"), b"1 a");
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded");
    assert_eq!(ask(&client, b"a"), b"2 a");
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_logs("Upgraded", 2);
    assert_eq!(ask(&client, b"a"), b"3 a");
    skd.wait_for_children(1);
}

#[test]
fn a_unix_socket_is_refused() {
    let words = [
        "--datagram-mode",
        "per-peer",
        "-d",
        "-l",
        "@skd-per-peer",
        "cat",
    ];
    let text = "--datagram-mode per-peer can't be used with --unix @skd-per-peer: clients of unix";
    run_to_end(words).expect_refusal(2, &[text]);
}
