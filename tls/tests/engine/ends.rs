//! How connections end.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rustls::ProtocolVersion;
use skd_tls::engine::Truncated;

use crate::rig::{LONG, Options, Pace, Rig, read_pattern, wait_for, write_pattern};

fn token() -> Truncated {
    Truncated {
        service: "web".into(),
        token: (*b"token").into(),
    }
}

#[test]
fn an_end_without_close_notify_is_told() {
    let rig = Rig::new();
    let (mut client, mut plain) = rig.establish();
    client.write_all(b"half a que").unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    let mut all = String::new();
    plain.read_to_string(&mut all).unwrap();
    assert_eq!(all, "half a que");
    assert_eq!(rig.truncated(), token());
    // The other way is there still.
    plain.write_all(b"answer").unwrap();
    drop(plain);
    all.clear();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all, "answer");
    rig.end();
    let figures = rig.engine.figures();
    assert_eq!(figures[0].truncated, 1);
    assert_eq!((figures[0].received, figures[0].sent), (10, 6));
    assert_eq!(figures[0].live, 0);
}

#[test]
fn half_a_record_is_not_given_to_a_handler() {
    let rig = Rig::new();
    let (mut client, mut plain) = rig.establish();
    client.write_all(b"whole").unwrap();
    client.conn.writer().write_all(&[1; 1000]).unwrap();
    let mut record = Vec::new();
    while client.conn.wants_write() {
        client.conn.write_tls(&mut record).unwrap();
    }
    client.sock.write_all(&record[..500]).unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    let mut all = String::new();
    plain.read_to_string(&mut all).unwrap();
    assert_eq!(all, "whole");
    assert_eq!(rig.truncated(), token());
}

#[test]
fn a_reset_ends_a_handlers_side() {
    let rig = Rig::new();
    let (mut client, mut plain) = rig.establish();
    client.write_all(b"question").unwrap();
    let mut got = [0; 8];
    plain.read_exact(&mut got).unwrap();
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&client.sock, sockopt::Linger, &linger).unwrap();
    drop(client);
    assert_eq!(rig.truncated(), token());
    // It reads the end, or that the other side is gone; and it can't write.
    let _ = plain.read(&mut [0]);
    wait_for("an error", || plain.write_all(b"x").is_err());
    rig.end();
}

#[test]
fn the_answer_arrives_though_input_is_unread() {
    let rig = Rig::new();
    let (mut client, mut plain) = rig.establish();
    // More than what a handler reads, and it ends.
    client.write_all(&vec![1; 100_000]).unwrap();
    plain.read_exact(&mut [0; 10]).unwrap();
    write_pattern(&mut plain, 3, 100_000, Pace::FAST);
    drop(plain);
    client.write_all(&vec![1; 100_000]).unwrap();
    sleep(Duration::from_millis(50));
    read_pattern(&mut client, 3, 100_000, Pace::FAST);
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    drop(client);
    rig.assert_none_truncated();
}

#[test]
fn a_client_that_only_sends_is_let_go_when_its_handler_has_ended() {
    let rig = Rig::new();
    let (mut client, plain) = rig.establish();
    drop(plain);
    let begin = Instant::now();
    let bytes = vec![1; 10_000];
    while client.write_all(&bytes).is_ok() {
        assert!(begin.elapsed() < LONG);
        sleep(Duration::from_millis(5));
    }
    rig.end();
}

#[test]
fn what_is_sent_last_arrives_at_a_client_that_is_slow() {
    let rig = Rig::new();
    let (mut client, mut plain) = rig.establish();
    let total = 3 << 20;
    let writer = std::thread::spawn(move || write_pattern(&mut plain, 4, total, Pace::FAST));
    read_pattern(&mut client, 4, total, Pace::slow(20_000));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    writer.join().unwrap();
}

#[test]
fn idle_connections_are_closed_and_busy_ones_are_not() {
    let idle = Duration::from_millis(800);
    let rig = Rig::with(Options {
        idle: Some(idle),
        ..Options::default()
    });
    let (mut client, mut plain) = rig.establish();
    let begin = Instant::now();
    while begin.elapsed() < idle * 2 {
        client.write_all(b"?").unwrap();
        plain.read_exact(&mut [0]).unwrap();
        sleep(idle / 20);
    }
    let begin = Instant::now();
    // With `close_notify`, or this would be an error.
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    assert!(begin.elapsed() >= idle * 8 / 10, "{:?}", begin.elapsed());
    assert_eq!(plain.read(&mut [0]).unwrap(), 0);
    drop(client);
    rig.assert_none_truncated();
}

#[test]
fn a_retired_engine_keeps_its_connections_and_takes_no_others() {
    let rig = Rig::with(Options {
        threads: 2,
        ..Options::default()
    });
    let (mut client, mut plain) = rig.establish();
    rig.engine.retire();
    sleep(Duration::from_millis(100));
    let (_late, late_plain) = rig.connect();
    assert!(!rig.engine.is_done());
    client.write_all(b"?").unwrap();
    plain.read_exact(&mut [0]).unwrap();
    drop((client, plain));
    wait_for("the end", || rig.engine.is_done());
    // Its request is there still, for the next one.
    late_plain.set_nonblocking(true).unwrap();
    let error = (&late_plain).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_stopped_engine_sends_what_there_is_and_the_end() {
    let rig = Rig::new();
    let (mut client, mut plain) = rig.establish();
    let (mut silent, _silent_plain) = rig.establish();
    let (_stuck, _stuck_plain) = rig.connect();
    plain.write_all(b"final bytes").unwrap();
    rig.engine.stop(Duration::from_secs(3));
    let mut all = String::new();
    client.read_to_string(&mut all).unwrap();
    assert_eq!(all, "final bytes");
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
    let begin = Instant::now();
    // The clients don't close, and have to be left.
    wait_for("the end", || rig.engine.is_done());
    assert!(begin.elapsed() < LONG / 2);
}

#[test]
fn a_client_that_takes_nothing_does_not_hold_a_stop_up() {
    let rig = Rig::new();
    let (client, mut plain) = rig.establish();
    plain.set_nonblocking(true).unwrap();
    wait_for("a full pipe", || {
        let is_full = plain.write(&[0; 100_000]).is_err();
        sleep(Duration::from_millis(10));
        is_full && plain.write(&[0; 100_000]).is_err()
    });
    rig.engine.stop(Duration::from_millis(300));
    wait_for("the end", || rig.engine.is_done());
    assert_eq!(
        client.conn.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
}

#[test]
fn an_engine_that_retires_takes_what_it_was_woken_for() {
    let rig = Rig::new();
    for threads in [1, 2] {
        let mut last = rig.next(threads);
        rig.engine.retire();
        for _ in 0..300 {
            let next = rig.next(threads);
            let (mut tcp, plain) = rig.connect();
            // Both are told at the same time. If a thread takes only this, the kernel has no other to wake.
            last.retire();
            last = next;
            tcp.write_all(b"no TLS").unwrap();
            plain
                .set_read_timeout(Some(Duration::from_secs(10)))
                .unwrap();
            assert!((&plain).read(&mut [0]).is_ok(), "no thread has taken it");
        }
    }
}
