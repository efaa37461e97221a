//! `--datagram-mode per-packet`: a handler for each datagram.

use crate::harness::{
    Directory, Namespace, Skd, ask, ask_udp, ask_unix_datagram, assert_idle, idle_descriptors,
    requires_command, rss_anon, run_to_end, send_unix_datagram, tampering, udp_client,
    unix_datagram_client, wait_until,
};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

fn per_packet<'a>(options: impl IntoIterator<Item = &'a str>) -> Skd {
    Skd::new(["-v", "--datagram-mode", "per-packet"]).args(options)
}

fn udp(options: &[&str]) -> Skd {
    per_packet(["-u", "127.0.0.1:0"]).args(options)
}

/// Whether an unanswered client receives nothing; called only after something else was answered.
fn is_silent(client: &UdpSocket) -> bool {
    client
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    client.recv(&mut [0; 10]).is_err()
}

#[test]
fn a_filter_serves_udp() {
    let skd = udp(&[]).run_with("tr", ["a-z", "A-Z"]);
    assert_eq!(ask_udp(skd.address(), b"hello"), b"HELLO");
    skd.wait_until("handlers are reaped", || skd.children().is_empty());
}

#[test]
fn a_shell_script_knows_its_client() {
    let line = "read -r line; echo \"$PROTO $line $UDPLOCALIP $UDPLOCALPORT \
                $UDPREMOTEIP:$UDPREMOTEPORT $REMOTE_ADDR:$REMOTE_PORT\"";
    let skd = udp(&[]).run_with("sh", ["-c", line]);
    let client = udp_client(skd.address());
    let own = client.local_addr().unwrap();
    let (port, own) = (skd.port(), format!("127.0.0.1:{}", own.port()));
    let expected = format!("UDP hello 127.0.0.1 {port} {own} {own}\n");
    assert_eq!(ask(&client, b"hello\n"), expected.as_bytes());
}

#[test]
fn an_empty_datagram_is_a_datagram() {
    let skd = udp(&[]).run_with("sh", ["-c", "printf '%s bytes' \"$(wc -c)\""]);
    assert_eq!(ask_udp(skd.address(), b""), b"0 bytes");
    assert_eq!(ask_udp(skd.address(), b"123"), b"3 bytes");
}

#[test]
fn the_largest_datagram_goes_both_ways_and_no_larger_one_comes_back() {
    let skd = udp(&[]).run_with("sh", ["-c", "cat; test -z \"$MORE\" || echo"]);
    let largest: Vec<u8> = (0..65_507_u32).map(|index| (index % 251) as u8).collect();
    assert!(ask_udp(skd.address(), &largest) == largest);
    drop(skd);

    let skd = udp(&["--env", "MORE=1"]).run_with("sh", ["-c", "cat; test -z \"$MORE\" || echo"]);
    let client = udp_client(skd.address());
    client.send(&largest).unwrap();
    let line = skd.wait_for_log("is longer than 65507 bytes");
    let own = client.local_addr().unwrap().port();
    assert_eq!(
        line,
        format!(
            "skd: the answer to the datagram from [127.0.0.1]:{own} is longer than 65507 bytes: \
             nothing is sent"
        )
    );
    // The handler wasn't killed for it.
    skd.wait_for_log("exited with status 0");
    assert!(is_silent(&client));
}

#[test]
fn output_written_in_pieces_is_one_answer() {
    let line = "cat; for i in 1 2 3 4 5 6 7 8 9; do printf %s $i; done; exec 1>&-; cat";
    let skd = udp(&[]).run_with("sh", ["-c", line]);
    assert_eq!(ask_udp(skd.address(), b"0"), b"0123456789");
}

#[test]
fn a_handler_that_reads_nothing_may_answer_or_not() {
    let skd = udp(&[]).run_with("echo", ["answer"]);
    assert_eq!(ask_udp(skd.address(), &[b'x'; 60_000]), b"answer\n");
    drop(skd);
    let skd = udp(&[]).run_with("sh", ["-c", "grep x"]);
    let client = udp_client(skd.address());
    client.send(b"nothing").unwrap();
    skd.wait_for_log("exited with status 1");
    assert_eq!(ask(&client, b"x\n"), b"x\n");
    assert!(is_silent(&client));
}

#[test]
fn a_slow_handler_delays_no_other() {
    let directory = Directory::new();
    let go = directory.name("go");
    let line =
        "read -r line; while test $line = slow -a ! -e \"$1\"; do sleep 0.01; done; echo $line";
    let skd = udp(&[]).run_with("sh", ["-c", line, "sh", &go]);
    let slow = udp_client(skd.address());
    slow.send(b"slow\n").unwrap();
    for turn in 0..20 {
        let request = format!("{turn}\n");
        assert_eq!(
            ask_udp(skd.address(), request.as_bytes()),
            request.as_bytes()
        );
    }
    std::fs::write(&go, "").unwrap();
    let mut answer = [0; 10];
    let length = slow.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"slow\n");
}

#[test]
fn hundreds_at_once_have_their_own_answers() {
    many(300);
}

#[test]
#[ignore = "takes long"]
fn thousands_at_once_have_their_own_answers() {
    many(5_000);
}

fn many(count: usize) {
    // As many as the smallest buffer holds wait in the socket.
    let skd = udp(&["-c", "50", "--receive-buffer", "16M"]).run("cat");
    let request = |turn: usize| {
        let text = format!("{turn} ").repeat(1 + turn % 40);
        text.into_bytes()
    };
    for chunk in (0..count).collect::<Vec<_>>().chunks(100) {
        let clients: Vec<_> = chunk.iter().map(|_| udp_client(skd.address())).collect();
        for (client, turn) in clients.iter().zip(chunk) {
            client.send(&request(*turn)).unwrap();
        }
        let mut answer = vec![0; 65_536];
        for (client, turn) in clients.iter().zip(chunk) {
            let length = client.recv(&mut answer).unwrap();
            assert!(answer[..length] == request(*turn), "{turn}");
        }
    }
    skd.wait_until("handlers are reaped", || skd.children().is_empty());
}

#[test]
fn a_burst_of_long_answers_costs_its_memory_only_while_it_lasts() {
    let directory = Directory::new();
    let go = directory.name("go");
    // In two parts, so that skd has to keep the first.
    let line = "read -r line; test \"$line\" = long || exec echo short; \
                head -c 60000 /dev/zero; while test ! -e \"$1\"; do sleep 0.1; done; echo end";
    let skd = udp(&["--threads", "1"]).run_with("sh", ["-c", line, "sh", &go]);
    assert_eq!(ask_udp(skd.address(), b"one\n"), b"short\n");
    let before = rss_anon(skd.pid());
    let clients: Vec<UdpSocket> = (0..100).map(|_| udp_client(skd.address())).collect();
    for client in &clients {
        client.send(b"long\n").unwrap();
    }
    skd.wait_until("skd has the first parts of all", || {
        rss_anon(skd.pid()) > before + 100 * 50
    });
    directory.write("go", "");
    for client in &clients {
        assert_eq!(client.recv(&mut [0; 65_536]).unwrap(), 60_004);
    }
    skd.wait_until("it is given back", || rss_anon(skd.pid()) < before + 2048);
    assert_eq!(ask_udp(skd.address(), b"one\n"), b"short\n");
}

#[test]
fn an_answer_comes_from_the_address_that_was_asked() {
    let namespace = Namespace::new();
    for address in ["10.1.0.1/24", "10.1.0.2/24", "fd00::1/64", "fd00::2/64"] {
        namespace.add_address(address);
    }
    let _skd = per_packet(["-u", "7000"])
        .inside(&namespace)
        .run_with("sh", ["-c", "cat; echo $UDPLOCALIP"]);
    namespace.enter(|| {
        for address in [
            "10.1.0.1",
            "10.1.0.2",
            "127.0.0.1",
            "fd00::1",
            "fd00::2",
            "::1",
        ] {
            let to = SocketAddr::new(address.parse().unwrap(), 7000);
            // Connected: nothing arrives from another address.
            assert_eq!(ask_udp(to, b"at "), format!("at {address}\n").as_bytes());
        }
    });
}

#[test]
fn a_datagram_that_arrives_during_the_start_has_its_destination_address() {
    // Between bind(2) and its next call.
    let wrapper = tampering("bind", "delay_exit=1000000");
    for mode in ["per-packet", "per-peer"] {
        let namespace = Namespace::new();
        let line = "echo \"$(dd bs=100 count=1 2> /dev/null) to $UDPLOCALIP\"";
        let skd = Skd::new(["-u", "0.0.0.0:7000", "--datagram-mode", mode])
            .wrapper(&wrapper)
            .inside(&namespace)
            .start_with("sh", ["-c", line]);
        namespace.enter(|| {
            // A datagram that came too early would leave an error for a later call of the client, at any time.
            skd.wait_until("the socket is bound", || {
                let sockets = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
                sockets.contains(" 00000000:1B58 ")
            });
            let client = udp_client("127.0.0.1:7000".parse().unwrap());
            client.send(b"early\n").unwrap();
            let mut answer = [0; 100];
            let length = client.recv(&mut answer).unwrap();
            assert_eq!(&answer[..length], b"early to 127.0.0.1\n", "{mode}");
        });
    }
}

#[test]
fn low_ports_are_answered_only_if_allowed() {
    let namespace = Namespace::new();
    let run = |options: &[&str], port: u16| {
        let skd = per_packet(["-u", "127.0.0.1:7000"])
            .args(options)
            .inside(&namespace)
            .run("cat");
        namespace.enter(|| {
            let low = UdpSocket::bind(("127.0.0.1", port)).unwrap();
            low.connect("127.0.0.1:7000").unwrap();
            low.send(b"low").unwrap();
            assert_eq!(ask_udp("127.0.0.1:7000".parse().unwrap(), b"high"), b"high");
            low.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            match skd.logged("Refused").as_slice() {
                [] => assert_eq!(low.recv(&mut [0; 10]).unwrap(), 3),
                lines => {
                    let why = format!("port {port} is below --min-source-port");
                    let line = format!("Refused datagram from [127.0.0.1]:{port}: {why}");
                    assert_eq!(lines, [line]);
                    assert!(is_silent(&low));
                }
            }
            skd.logged("Refused").len()
        })
    };
    assert_eq!(run(&[], 1023), 1);
    assert_eq!(run(&[], 1024), 0);
    assert_eq!(run(&["--min-source-port", "0"], 19), 0);
    assert_eq!(run(&["--min-source-port", "5000"], 4999), 1);
}

#[test]
fn bound_clients_of_a_unix_socket_are_answered() {
    let directory = Directory::new();
    let (path, own) = (directory.name("socket"), directory.name("own"));
    let line = "tr a-z A-Z; printf \" $PROTO $UNIXLOCALPATH\"";
    let skd = per_packet(["-d", "-l", &path]).run_with("sh", ["-c", line]);
    let expected = format!("HELLO UNIX-DGRAM {path}");
    assert_eq!(
        ask_unix_datagram(&own, &path, b"hello"),
        expected.as_bytes()
    );
    send_unix_datagram(&path, b"from nobody");
    skd.wait_for_log("Dropped 1 datagram: it answers a sender that has no address");
}

#[test]
fn descriptors_that_a_client_sends_are_not_kept() {
    let directory = Directory::new();
    let (path, own) = (directory.name("socket"), directory.name("own"));
    // As before Linux 6.16: SO_PASSRIGHTS is unknown. No other option that skd sets has bit 6.
    let skd = per_packet(["-d", "-l", &path])
        .refusing_bits(libc::SYS_setsockopt, 2, 64, Errno::ENOPROTOOPT)
        .run("cat");
    let before = idle_descriptors(skd.pid());
    let client = unix_datagram_client(&own, &path);
    let sent = [client.as_raw_fd(); 10];
    let mut answer = [0; 10];
    for _ in 0..5 {
        let control = [ControlMessage::ScmRights(&sent)];
        let payload = [IoSlice::new(b"dropped")];
        let flags = MsgFlags::empty();
        sendmsg::<()>(client.as_raw_fd(), &payload, &control, flags, None).unwrap();
        client.send(b"hello").unwrap();
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"hello");
    }
    assert_eq!(idle_descriptors(skd.pid()), before);
}

#[test]
fn a_drain_waits_for_no_token() {
    let directory = Directory::new();
    let go = directory.name("go");
    let line = "cat; while test ! -e \"$1\"; do sleep 0.1; done";
    let skd = udp(&["--rate", "20/s:1", "--threads", "1", "--drain", "1m"])
        .run_with("sh", ["-c", line, "sh", &go]);
    let client = udp_client(skd.address());
    client.send(b"first").unwrap();
    skd.wait_until("there is a handler", || skd.children().len() == 1);
    // The last of these arrive long before their tokens.
    for _ in 0..60 {
        client.send(b"more").unwrap();
    }
    skd.wait_until("another had its token", || skd.children().len() > 1);
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("Draining");
    assert_idle(&[skd.pid()]);
    std::fs::write(&go, "").unwrap();
}

#[test]
fn datagrams_above_the_limit_wait_in_the_socket() {
    let directory = Directory::new();
    let go = directory.name("go");
    let line = "cat; while test ! -e \"$1\"; do sleep 0.01; done";
    let skd = udp(&["-c", "2"]).run_with("sh", ["-c", line, "sh", &go]);
    let clients: Vec<_> = (0..6).map(|_| udp_client(skd.address())).collect();
    for client in &clients {
        client.send(b"1").unwrap();
    }
    skd.wait_for_log("skd: all 2 slots are taken; clients wait");
    assert_eq!(skd.wait_for_logs("Accepted datagram", 2).len(), 2);
    std::fs::write(&go, "").unwrap();
    for client in &clients {
        assert_eq!(client.recv(&mut [0; 10]).unwrap(), 1);
    }
}

#[test]
fn a_datagram_above_the_limit_is_dropped_if_requested() {
    let directory = Directory::new();
    let go = directory.name("go");
    let line = "cat; while test ! -e \"$1\"; do sleep 0.01; done";
    let skd = udp(&["-c", "1", "--at-max", "close"]).run_with("sh", ["-c", line, "sh", &go]);
    let (first, second) = (udp_client(skd.address()), udp_client(skd.address()));
    first.send(b"1").unwrap();
    skd.wait_for_log("Accepted");
    second.send(b"2").unwrap();
    let line = skd.wait_for_log("Refused");
    assert!(line.ends_with(": the only slot is taken"), "{line}");
    std::fs::write(&go, "").unwrap();
    assert_eq!(first.recv(&mut [0; 10]).unwrap(), 1);
    assert!(is_silent(&second));
}

#[test]
fn rules_rates_and_limits_hold() {
    let denied = udp(&["--deny", "127.0.0.1"]).run("cat");
    denied.wait_ready();
    udp_client(denied.address()).send(b"1").unwrap();
    let line = denied.wait_for_log("Refused");
    assert!(line.contains(": denied by "), "{line}");
    assert!(denied.logged("Accepted").is_empty());
    drop(denied);

    let slow = udp(&["--rate-per-source", "2/h"]).run("cat");
    let client = udp_client(slow.address());
    for _ in 0..2 {
        ask(&client, b"1");
    }
    client.send(b"1").unwrap();
    let line = slow.wait_for_log("Refused");
    assert!(
        line.ends_with("127.0.0.1 comes faster than it may"),
        "{line}"
    );
    assert_eq!(slow.logged("Accepted").len(), 2);
    drop(slow);

    let late = udp(&["--timeout", "1s"]).run_with("sleep", ["1000"]);
    udp_client(late.address()).send(b"1").unwrap();
    late.wait_for_log("has run for 1s: TERM is sent to it");
    late.wait_until("it has ended", || late.children().is_empty());
}

#[test]
fn a_total_rate_keeps_datagrams_in_the_socket() {
    let skd = udp(&["--rate", "10/s:1"]).run("cat");
    let clients: Vec<_> = (0..5).map(|_| udp_client(skd.address())).collect();
    for client in &clients {
        client.send(b"1").unwrap();
    }
    for client in &clients {
        assert_eq!(client.recv(&mut [0; 10]).unwrap(), 1);
    }
    assert!(skd.logged("Refused").is_empty());
}

#[test]
fn streams_are_served_beside_datagrams() {
    let skd = udp(&["-t", "127.0.0.1:0", "-c", "3"]).run("cat");
    for _ in 0..5 {
        let mut addresses = skd.addresses().into_iter();
        let (udp, tcp) = (addresses.next().unwrap(), addresses.next().unwrap());
        assert_eq!(ask_udp(udp, b"datagram"), b"datagram");
        let mut stream = crate::harness::connect(tcp);
        crate::harness::echo(&mut stream, b"stream");
    }
}

#[test]
fn a_drain_sends_the_last_answer() {
    let directory = Directory::new();
    let go = directory.name("go");
    let line = "cat; while test ! -e \"$1\"; do sleep 0.01; done; echo end";
    let skd = udp(&["--drain", "60s"]).run_with("sh", ["-c", line, "sh", &go]);
    let client = udp_client(skd.address());
    client.send(b"the ").unwrap();
    skd.wait_for_log("Accepted");
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("Draining: 1 handler");
    std::fs::write(&go, "").unwrap();
    let mut answer = [0; 20];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"the end\n");
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn an_upgrade_keeps_serving_and_sends_the_answers_of_running_handlers() {
    let directory = Directory::new();
    let go = directory.name("go");
    let line =
        "read -r line; while test $line = slow -a ! -e \"$1\"; do sleep 0.01; done; echo $line";
    let skd = udp(&["-c", "2"]).run_with("sh", ["-c", line, "sh", &go]);
    let slow = udp_client(skd.address());
    slow.send(b"slow\n").unwrap();
    skd.wait_for_log("Accepted");
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded");
    skd.wait_for_children(1);
    for _ in 0..5 {
        assert_eq!(ask_udp(skd.address(), b"fast\n"), b"fast\n");
    }
    std::fs::write(&go, "").unwrap();
    let mut answer = [0; 10];
    let length = slow.recv(&mut answer).unwrap();
    assert_eq!(&answer[..length], b"slow\n");
    wait_until("the old handler has ended", || skd.children().is_empty());
}

#[test]
fn a_script_answers_dig() {
    requires_command("dig");
    requires_command("perl");
    let functions = "sub answer { my $q = shift; my $end = index($q, \"\\0\", 12) + 5; \
         pack('a2n5', $q, 0x8580, 1, 1, 0, 0) . substr($q, 12, $end - 12) \
         . pack('n3NnC4', 0xc00c, 1, 1, 60, 4, 192, 0, 2, 7) } binmode STDIN; binmode STDOUT; ";
    for (mode, script) in [
        ("per-packet", "local $/; print answer(<STDIN>)"),
        (
            "per-peer",
            "while (sysread(STDIN, $q, 65536)) { syswrite(STDOUT, answer($q)) }",
        ),
    ] {
        let script = format!("{functions}{script}");
        let skd = Skd::new(["-v", "-u", "127.0.0.1:0", "--datagram-mode", mode])
            .run_with("perl", ["-e", &script]);
        let port = skd.port().to_string();
        let query = ["+short", "+time=20", "@127.0.0.1", "-p", &port];
        let output = Command::new("dig")
            .args(query)
            .args(["example.test", "A", "www.example.test", "A"])
            .output()
            .unwrap();
        let answers = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(answers, "192.0.2.7\n192.0.2.7\n", "{mode}: {output:?}");
    }
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let refused = |options: &[&str], text: &str| {
        let words = options.iter().chain(&["cat"]);
        run_to_end(words).expect_refusal(2, &[text]);
    };
    let mode = ["--datagram-mode", "per-packet"];
    let with = |more: &[&'static str]| [&mode[..], more].concat();
    refused(
        &with(&["-t", "0"]),
        "--datagram-mode has no use without a datagram listener",
    );
    refused(
        &with(&["-u", "0", "-S"]),
        "--datagram-mode can't be used with --supervise (-S)",
    );
    refused(
        &with(&["-u", "0", "--first-byte", "1s"]),
        "--first-byte has no use without a stream listener",
    );
    refused(
        &with(&["-u", "0", "-c", "1", "--at-max", "reset"]),
        "--at-max can only be queue or close for datagrams",
    );
    refused(
        &with(&["-u", "0", "--idle-timeout", "1s"]),
        "--idle-timeout has no use without a TCP listener",
    );
    refused(
        &["--datagram-mode", "each", "-u", "0"],
        "it takes wait, per-peer or per-packet",
    );
    refused(
        &["--min-source-port", "1", "-u", "0"],
        "--min-source-port has no use without --datagram-mode",
    );
    refused(
        &with(&["--min-source-port", "65536", "-u", "0"]),
        "it takes a decimal number from 0 to 65535",
    );
}
