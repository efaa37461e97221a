//! How often threads wake, and what they do without free descriptors: alone in its process, which both are of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[allow(dead_code)]
#[path = "engine/rig.rs"]
mod rig;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use skd_tls_protocol::Answer;

/// How often each thread of an engine has gone to sleep so far.
fn waits() -> BTreeMap<String, u64> {
    let mut waits = BTreeMap::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        let task = task.unwrap();
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let value = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.unwrap()[name.len()..].trim().to_owned()
        };
        if value("Name:").starts_with("relay-") {
            let count = value("voluntary_ctxt_switches:").parse().unwrap();
            waits.insert(value("Pid:"), count);
        }
    }
    waits
}

/// Asserts that the engine does next to nothing for a second.
fn assert_idle(what: &str) {
    let before: u64 = waits().values().sum();
    sleep(Duration::from_secs(1));
    let count = waits().values().sum::<u64>() - before;
    assert!(count <= 25, "{what}: it woke {count} times in a second");
}

#[test]
fn what_only_a_process_of_its_own_can_show() {
    connections_are_spread_over_threads();
    a_connection_without_free_numbers_is_closed_and_later_ones_are_served();
}

/// One after the other, each when all threads have time.
fn connections_are_spread_over_threads() {
    let rig = rig::Rig::with(rig::Options {
        threads: 4,
        ..rig::Options::default()
    });
    let mut all: Vec<_> = (0..20).map(|_| rig.establish()).collect();
    sleep(Duration::from_millis(200));
    let before = waits();
    assert_eq!(before.len(), 4);
    for (client, plain) in &mut all {
        client.write_all(b"?").unwrap();
        plain.read_exact(&mut [0]).unwrap();
    }
    let after = waits();
    for (thread, count) in &before {
        let turns = after[thread] - count;
        assert!(turns >= 2, "{before:?} {after:?}");
    }
    drop(all);
    rig.end();
}

fn a_connection_without_free_numbers_is_closed_and_later_ones_are_served() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // Before the engine begins: one whose limit is lowered later ends.
    setrlimit(Resource::RLIMIT_NOFILE, 256, hard).unwrap();
    let rig = rig::Rig::new();
    let (mut client, mut plain) = rig.establish();
    assert_idle("a connection without traffic");
    // One way has ended.
    client.conn.send_close_notify();
    client.flush().unwrap();
    assert_eq!(plain.read(&mut [0]).unwrap(), 0);
    assert_idle("half of a connection");

    let (mut lost, accepted) = rig.tcp();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let others: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    rig.send(
        b"\x01\x03web\x00",
        &[accepted.as_raw_fd(), theirs.as_raw_fd()],
    );
    sleep(Duration::from_millis(50));
    drop((accepted, theirs));
    assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
    assert!(matches!(lost.read(&mut [0]), Ok(0) | Err(_)));
    assert_idle("an engine without numbers");
    drop(others);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let (mut later, mut later_plain) = rig.establish();
    later.write_all(b"?").unwrap();
    later_plain.read_exact(&mut [0]).unwrap();

    // The connections that there may be are less than what the limit at the start allows; the others wait.
    setrlimit(Resource::RLIMIT_NOFILE, 64 + 16 + 2 * 2, hard).unwrap();
    let few = rig::Rig::new();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let first = few.establish();
    let second = few.establish();
    let (_waiting, waiting_plain) = few.connect();
    sleep(Duration::from_millis(300));
    waiting_plain.set_nonblocking(true).unwrap();
    let error = (&waiting_plain).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    waiting_plain.set_nonblocking(false).unwrap();
    drop(first);
    (&_waiting).write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(matches!(rig::answer(&waiting_plain), Answer::Failed(_)));
    drop(second);
}
