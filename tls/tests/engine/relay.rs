//! What is said arrives, each way, whole and in order.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{scope, sleep};
use std::time::Duration;

use crate::rig::{Client, LONG, Pace, Rig, answer, client, read_pattern, write_pattern};

/// How much each way carries. `SKD_TLS_BULK` asks for more.
fn bulk() -> usize {
    let megabytes = std::env::var("SKD_TLS_BULK").map(|it| it.parse().unwrap());
    megabytes.unwrap_or(8) << 20
}

/// Both ways at once: the client's connection is in one thread, so it writes and reads in turns.
fn both_ways(mut client: Client, plain: UnixStream, total: usize, handler: Pace, peer: Pace) {
    let handler_end = plain.try_clone().unwrap();
    scope(|scope| {
        scope.spawn(|| write_pattern(&mut &handler_end, 1, total, handler));
        scope.spawn(|| read_pattern(&mut &plain, 2, total, handler));
        let step = 64 * 1024;
        assert_eq!(total % step, 0);
        let mut out = crate::rig::Pattern::new(2);
        let mut into = crate::rig::Pattern::new(1);
        let (mut bytes, mut got, mut expected) = (vec![0; step], vec![0; step], vec![0; step]);
        for _ in 0..total / step {
            out.fill(&mut bytes);
            for part in bytes.chunks(peer.chunk) {
                client.write_all(part).unwrap();
                sleep(peer.pause);
            }
            for part in got.chunks_mut(peer.chunk) {
                client.read_exact(part).unwrap();
                sleep(peer.pause);
            }
            into.fill(&mut expected);
            assert!(got == expected);
        }
    });
}

#[test]
fn each_byte_arrives_both_ways_at_once() {
    let rig = Rig::new();
    let (client, plain) = rig.establish();
    both_ways(client, plain, bulk(), Pace::FAST, Pace::FAST);
}

#[test]
fn a_slow_handler_holds_a_client_up_and_nothing_is_lost() {
    let rig = Rig::new();
    let (client, plain) = rig.establish();
    both_ways(client, plain, 1 << 20, Pace::slow(3_333), Pace::FAST);
}

#[test]
fn a_slow_client_holds_a_handler_up_and_nothing_is_lost() {
    let rig = Rig::new();
    let (client, plain) = rig.establish();
    both_ways(client, plain, 1 << 20, Pace::FAST, Pace::slow(4_321));
}

#[test]
fn a_handler_is_held_up_by_a_client_that_does_not_read() {
    let rig = Rig::new();
    let (mut client, plain) = rig.establish();
    plain.set_nonblocking(true).unwrap();
    let mut sent = 0;
    // Until nothing is taken for a while: buffers of the kernel are what there is.
    let mut quiet = 0;
    let bytes = vec![7; 100_000];
    while quiet < 20 {
        match (&plain).write(&bytes) {
            Ok(length) => (sent, quiet) = (sent + length, 0),
            Err(_) => {
                quiet += 1;
                sleep(Duration::from_millis(10));
            }
        }
        assert!(sent < 64 << 20, "something takes everything");
    }
    drop(plain);
    let mut all = Vec::new();
    client.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), sent);
}

#[test]
fn what_is_said_with_the_end_of_the_handshake_arrives() {
    let rig = Rig::new();
    let (tcp, mut plain) = rig.connect();
    let mut client = client(&Arc::new(rig.client_config()), tcp);
    client.conn.writer().write_all(b"hello").unwrap();
    while client.conn.is_handshaking() {
        client.conn.write_tls(&mut client.sock).unwrap();
        client.conn.read_tls(&mut client.sock).unwrap();
        client.conn.process_new_packets().unwrap();
    }
    // All of it follows the client's last message of the handshake, in one write.
    client.conn.send_close_notify();
    let mut last = Vec::new();
    while client.conn.wants_write() {
        client.conn.write_tls(&mut last).unwrap();
    }
    client.sock.write_all(&last).unwrap();
    answer(&plain);
    let mut all = String::new();
    plain.read_to_string(&mut all).unwrap();
    assert_eq!(all, "hello");
}

#[test]
fn each_end_is_heard_and_the_other_way_stays() {
    let rig = Rig::new();
    let (mut client, mut plain) = rig.establish();
    // The handler's first.
    plain.write_all(b"greeting").unwrap();
    plain.shutdown(Shutdown::Write).unwrap();
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all, "greeting");
    client.write_all(b"late question").unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    all.clear();
    plain.read_to_string(&mut all).unwrap();
    assert_eq!(all, "late question");
    // The client's first.
    let (mut client, mut plain) = rig.establish();
    client.write_all(b"question").unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    all.clear();
    plain.read_to_string(&mut all).unwrap();
    assert_eq!(all, "question");
    write_pattern(&mut plain, 5, 1 << 20, Pace::FAST);
    drop(plain);
    read_pattern(&mut client, 5, 1 << 20, Pace::FAST);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    rig.assert_none_truncated();
}

#[test]
fn the_same_with_tls_1_2() {
    let rig = Rig::new();
    let config = rustls::ClientConfig::builder_with_protocol_versions(&[&rustls::version::TLS12])
        .with_root_certificates(rig.roots.clone())
        .with_no_client_auth();
    let config = Arc::new(config);
    let (client, plain, session) = rig.establish_with(&config);
    assert!(!session.resumed);
    both_ways(client, plain, 1 << 20, Pace::FAST, Pace::FAST);
    let (mut client, mut plain, _) = rig.establish_with(&config);
    client.write_all(b"question").unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    let mut all = String::new();
    plain.read_to_string(&mut all).unwrap();
    assert_eq!(all, "question");
    plain.write_all(b"answer").unwrap();
    drop(plain);
    all.clear();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all, "answer");
}

#[test]
fn keys_are_changed_on_the_way() {
    let rig = Rig::new();
    let (mut client, mut plain) = rig.establish();
    for round in 0..50_u8 {
        client.conn.refresh_traffic_keys().unwrap();
        client.write_all(&[round]).unwrap();
        let mut got = [0];
        plain.read_exact(&mut got).unwrap();
        assert_eq!(got, [round]);
        plain.write_all(&[round, round]).unwrap();
        let mut got = [0; 2];
        client.read_exact(&mut got).unwrap();
        assert_eq!(got, [round; 2]);
    }
}

#[test]
fn one_connection_does_not_keep_others_waiting() {
    let rig = Rig::new();
    let (mut busy, busy_plain) = rig.establish();
    let (mut client, mut plain) = rig.establish();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let over = || is_over.load(std::sync::atomic::Ordering::Relaxed);
    scope(|scope| {
        scope.spawn(|| {
            let bytes = vec![1; 1 << 16];
            while !over() {
                (&busy_plain).write_all(&bytes).unwrap();
            }
            busy_plain.shutdown(Shutdown::Both).unwrap();
        });
        let reader = scope.spawn(|| std::io::copy(&mut busy, &mut std::io::sink()).unwrap());
        for _ in 0..100 {
            client.write_all(b"?").unwrap();
            plain.set_read_timeout(Some(LONG)).unwrap();
            plain.read_exact(&mut [0]).unwrap();
            plain.write_all(b"!").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}
