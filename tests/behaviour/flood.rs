//! Floods: one client above its rate, and a very large number of clients. Clients within their limits lose no
//! connection, and the memory of skd stays bounded.
//!
//! `cargo test --release --test behaviour flood:: -- --include-ignored --nocapture` runs the large tests, and prints
//! how long honest clients waited.

use crate::harness::{
    Directory, Namespace, Running, Skd, connect_from, echo, requires_descriptors, requires_root,
    rss_anon, talk, try_talk,
};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// An echo handler that costs little more than its process.
const ECHO: &str = "
    #include <unistd.h>
    int main(void) {
        static char bytes[4096];
        for (ssize_t length; (length = read(0, bytes, sizeof bytes)) > 0;)
            if (write(1, bytes, length) != length) return 1;
        return 0;
    }";

/// The number of connections a second that a source may make.
const LIMIT: u64 = 20;

/// The number of handlers that a source may have.
const HANDLERS: usize = 4;

/// The number of honest clients, and of the connections a second of each.
const HONEST: u64 = 8;
const HONEST_RATE: u64 = LIMIT / 2;

/// A network in which every address of 10.0.0.0/8 and 2001:db8::/32 belongs to this machine.
fn network() -> Namespace {
    requires_root();
    let namespace = Namespace::new();
    namespace.run(["ip", "route", "add", "local", "10.0.0.0/8", "dev", "lo"]);
    let route = ["ip", "-6", "route", "add", "local", "2001:db8::/32"];
    namespace.run(route.into_iter().chain(["dev", "lo"]));
    namespace.sysctl("net.ipv6.ip_nonlocal_bind", "1");
    // Ended connections needn't be remembered.
    namespace.sysctl("net.ipv4.tcp_max_tw_buckets", "1000");
    namespace
}

fn service(namespace: &Namespace, address: SocketAddr, options: &[&str], echo: &Path) -> Running {
    let skd = Skd::new(["-t", &address.to_string()]).args(options);
    skd.inside(namespace).run(echo)
}

/// An address of the source with this number: in its /64, if that is what a source is.
fn address(v6: bool, source: u64, host: u64) -> IpAddr {
    if v6 {
        let bits = 0x2001_0db8_u128 << 96 | u128::from(source) << 64 | u128::from(host);
        Ipv6Addr::from_bits(bits).into()
    } else {
        Ipv4Addr::from_bits(10 << 24 | source as u32).into()
    }
}

/// Calls `act` `rate` times a second until `over` is set, without catching up after a delay.
fn pace(rate: u64, over: &AtomicBool, mut act: impl FnMut(u64)) {
    let interval = Duration::from_secs(1) / rate as u32;
    let mut next = Instant::now();
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        act(number);
        next = (next + interval).max(Instant::now() - interval);
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// Connects at twenty times the rate limit, and keeps each connection as long as possible.
fn attack(v6: bool, to: SocketAddr, over: &AtomicBool, came: &AtomicU64) {
    let mut held: VecDeque<TcpStream> = VecDeque::new();
    pace(20 * LIMIT / 2, over, |number| {
        let host = if v6 {
            number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        } else {
            0
        };
        let stream = connect_from(address(v6, 0xbad, host), to);
        came.fetch_add(1, Ordering::Relaxed);
        held.push_back(stream);
        if held.len() > 100 {
            held.pop_front();
        }
    });
}

/// Makes `count` connections of each honest client, all of which must be served. Returns how long each took, from
/// connect to the end of the answer.
fn honest(v6: bool, to: SocketAddr, count: u64) -> Vec<Duration> {
    let took = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for client in 1..=HONEST {
            let took = &took;
            scope.spawn(move || {
                let over = AtomicBool::new(false);
                pace(HONEST_RATE, &over, |number| {
                    let start = Instant::now();
                    let said = format!("{client} {number}");
                    let stream = connect_from(address(v6, client, number), to);
                    let answer = try_talk(stream, said.as_bytes());
                    let heard = answer.is_ok_and(|answer| answer == said.as_bytes());
                    assert!(heard, "the honest client {said}");
                    took.lock().unwrap().push(start.elapsed());
                    over.store(number + 1 == count, Ordering::Relaxed);
                });
            });
        }
    });
    took.into_inner().unwrap()
}

/// The time that `percent` of a hundred were shorter than.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// Measures `count` connections of each honest client, alternately without a flood and with it.
fn flood(v6: bool, rounds: usize, count: u64) {
    let directory = Directory::public();
    let echo = directory.compile("echo", ECHO);
    let namespace = network();
    let to = SocketAddr::new(address(v6, 0, 1), 4242);
    let rate = format!("{LIMIT}/s");
    let handlers = HANDLERS.to_string();
    let options = [
        "-v",
        "--rate-per-source",
        &rate,
        "--max-per-source",
        &handlers,
        "-c32",
    ];
    let skd = service(&namespace, to, &options, &echo);
    let before = rss_anon(skd.pid());
    let mut times = [Vec::new(), Vec::new()];
    let came = AtomicU64::new(0);
    namespace.enter(|| {
        for _ in 0..rounds {
            times[0].extend(honest(v6, to, count));
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| attack(v6, to, &over, &came));
                }
                // So that the attackers stop if a client panics.
                let _over = crate::harness::Over(&over);
                times[1].extend(honest(v6, to, count));
            });
        }
    });
    for (what, times) in ["calm", "flood"].into_iter().zip(&mut times) {
        let of = |percent| percentile(&mut times.clone(), percent);
        let (half, most, all) = (of(50), of(99), of(100));
        println!(
            "IPv{}, {what}: {} connections, median {half:?}, 99 % {most:?}, longest {all:?}",
            if v6 { 6 } else { 4 },
            times.len()
        );
    }
    let (came, after) = (came.into_inner(), rss_anon(skd.pid()));
    println!("the attacker came {came} times; RssAnon {before} KiB before, {after} KiB after");
    assert!(came > 0);
    // The flood was handled: most of its connections were refused, and few lines say so.
    let lines = skd.logged("Refused ");
    assert!(
        lines
            .iter()
            .any(|line| line.contains("more connections from"))
            || came < 200
    );
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn no_client_loses_a_connection_to_one_ipv4_address_that_floods() {
    flood(false, 1, 20);
}

#[test]
fn no_client_loses_a_connection_to_one_ipv6_network_that_floods() {
    flood(true, 1, 20);
}

#[test]
#[ignore = "takes four minutes"]
fn honest_clients_wait_no_longer_in_a_flood() {
    for v6 in [false, true] {
        flood(v6, 3, 200);
    }
}

/// Makes `count` connections, each from another address and so another source. Returns the anonymous memory before and
/// after, in KiB.
fn crowd(count: u64) -> (u64, u64) {
    const CLIENTS: u64 = 4;
    let directory = Directory::public();
    let echo = directory.compile("echo", ECHO);
    let namespace = network();
    let to = SocketAddr::new(address(true, 0, 1), 4242);
    let options = [
        "--source-prefix=32,128",
        "--rate-per-source=1/h:1",
        "--max-per-source=1",
    ];
    let skd = service(&namespace, to, &options, &echo);
    let before = rss_anon(skd.pid());
    namespace.enter(|| {
        let from = |host| connect_from(address(true, 1, host), to);
        thread::scope(|scope| {
            for client in 0..CLIENTS {
                scope.spawn(move || {
                    for number in 0..count / CLIENTS {
                        let host = number * CLIENTS + client;
                        assert_eq!(talk(from(host), b"once"), b"once", "{host}");
                    }
                });
            }
        });
        // A source that came last is known.
        let mut nothing = Vec::new();
        let heard = from(count / CLIENTS * CLIENTS - 1).read_to_end(&mut nothing);
        assert_eq!((heard.unwrap(), nothing.len()), (0, 0));
    });
    let after = rss_anon(skd.pid());
    assert_eq!(skd.stop().code(), Some(0));
    (before, after)
}

#[test]
fn a_thousand_sources_are_served_each_by_itself() {
    crowd(1000);
}

#[test]
#[ignore = "takes minutes"]
fn a_million_sources_cost_a_bounded_table() {
    let (before, after) = crowd(1_000_000);
    println!("RssAnon {before} KiB before, {after} KiB after");
    // 65,536 entries of 48 bytes are 3 MiB.
    assert!(
        after < before + 6 * 1024,
        "{before} KiB before, {after} after"
    );
}

/// Connects `silent` clients that send nothing, each from another address, and then clients that send, against `slots`
/// slots. A client that sends gets a slot at once. Returns how long each of
/// these, `slots` and one, waited for its answer.
fn silence(silent: u32, slots: usize) -> Vec<Duration> {
    requires_descriptors(silent as usize + 2 * slots + 100);
    let limit = slots.to_string();
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--first-byte=1h", "-c", &limit]).run("cat");
    let others = |number| IpAddr::from(Ipv4Addr::from_bits(0x7f01_0000 + number));
    let silent: Vec<_> = (0..silent)
        .map(|number| connect_from(others(number), skd.address()))
        .collect();
    // All are accepted, since this client came last; and none of them has a handler.
    let mut took = Vec::new();
    let mut honest: VecDeque<TcpStream> = VecDeque::new();
    for number in 0..=slots {
        if number == slots {
            // Its slot is free when its handler has ended.
            drop(honest.pop_front());
            skd.wait_for_children(slots - 1);
        }
        let start = Instant::now();
        let mut stream = skd.connect();
        echo(&mut stream, b"hello");
        took.push(start.elapsed());
        honest.push_back(stream);
    }
    assert_eq!(skd.children().len(), slots);
    // None of them was disconnected to free resources.
    assert_eq!(skd.logged("Refused"), [""; 0]);
    for mut stream in silent {
        stream.set_nonblocking(true).unwrap();
        let end = stream.read(&mut [0]).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::WouldBlock);
    }
    took
}

#[test]
fn silent_clients_hold_no_slot() {
    silence(120, 5);
}

#[test]
#[ignore = "thousands of connections"]
fn two_thousand_silent_clients_hold_no_slot() {
    let mut took = silence(2_000, 50);
    let last = took[50];
    let (half, all) = (percentile(&mut took, 50), percentile(&mut took, 100));
    println!(
        "the 51st was answered after {last:?}; of all, the median took {half:?}, the longest {all:?}"
    );
}
