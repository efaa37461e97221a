//! Clients that break rules, or go away.

use std::io::{IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};
use rustls::ConnectionTrafficSecrets;
use skd_tls_protocol::{Answer, Failure, FailureKind};

use crate::rig::{Client, LONG, Rig, answer, client, wait_for};

fn failure(plain: &UnixStream) -> Failure<'static> {
    match answer(plain) {
        Answer::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// Reads what a client gets, to its end: no reset takes it away.
fn all_of(tcp: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    tcp.read_to_end(&mut all).unwrap();
    all
}

fn hello(rig: &Rig) -> (Client, UnixStream, Vec<u8>) {
    let (tcp, plain) = rig.connect();
    let mut client = client(&Arc::new(rig.client_config()), tcp);
    let mut hello = Vec::new();
    client.conn.write_tls(&mut hello).unwrap();
    (client, plain, hello)
}

fn reset(tcp: TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&tcp, sockopt::Linger, &linger).unwrap();
}

#[test]
fn garbage_is_answered_with_an_alert_and_both_ends_hear_of_it() {
    let rig = Rig::new();
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.9\r\n",
        &[0; 100],
        &[255; 70_000],
    ] {
        let (mut tcp, mut plain) = rig.connect();
        tcp.write_all(garbage).unwrap();
        let failure = failure(&plain);
        assert_ne!(failure.kind, FailureKind::Closed, "{failure:?}");
        assert_eq!(plain.read(&mut [0]).unwrap(), 0);
        let all = all_of(&mut tcp);
        assert_eq!((all[0], all.len()), (21, 7), "{all:?}");
    }
    rig.assert_none_truncated();
}

#[test]
fn a_handshake_one_byte_at_a_time_is_one() {
    let rig = Rig::new();
    let (mut client, plain, hello) = hello(&rig);
    client.sock.set_nodelay(true).unwrap();
    let mut bytes = hello;
    loop {
        for byte in &bytes {
            client.sock.write_all(&[*byte]).unwrap();
            sleep(Duration::from_micros(200));
        }
        if !client.conn.is_handshaking() {
            break;
        }
        client.conn.read_tls(&mut client.sock).unwrap();
        client.conn.process_new_packets().unwrap();
        bytes = Vec::new();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut bytes).unwrap();
        }
    }
    assert!(matches!(answer(&plain), Answer::Established(_)));
}

#[test]
fn a_hello_in_many_records_is_one() {
    let rig = Rig::new();
    let (mut client, plain, hello) = hello(&rig);
    let mut records = Vec::new();
    for part in hello[5..].chunks(7) {
        records.extend([22, 3, 1, 0, part.len() as u8]);
        records.extend(part);
    }
    client.sock.write_all(&records).unwrap();
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock).unwrap();
    }
    assert!(matches!(answer(&plain), Answer::Established(_)));
}

#[test]
fn a_hello_that_is_too_long_is_refused() {
    let rig = Rig::new();
    // Its header says 16 megabytes.
    let (mut tcp, plain) = rig.connect();
    let mut record = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
    record.resize(5 + 0x4000, 0);
    tcp.write_all(&record).unwrap();
    assert_ne!(failure(&plain).kind, FailureKind::Closed);
    let _ = tcp.read_to_end(&mut Vec::new());
    // It says less than what is allowed, in records of a byte, which are more.
    let (mut tcp, plain) = rig.connect();
    let message = [1, 0, 0xff, 0x00].into_iter().chain(std::iter::repeat(0));
    let records = message.take(0xff00).flat_map(|byte| [22, 3, 1, 0, 1, byte]);
    let records: Vec<u8> = records.collect();
    // It needn't take them all.
    let _ = tcp.write_all(&records);
    assert_ne!(failure(&plain).kind, FailureKind::Closed);
    rig.end();
}

#[test]
fn records_without_data_are_passed_over_if_they_are_few() {
    let rig = Rig::new();
    let mut config = rig.client_config();
    config.enable_secret_extraction = true;
    let (client, mut plain, _) = rig.establish_with(&Arc::new(config));
    let mut tcp = client.sock;
    let secrets = client.conn.dangerous_extract_secrets().unwrap();
    let (mut number, secret) = secrets.tx;
    let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secret else {
        panic!("another cipher");
    };
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
    let mut record = |data: &[u8]| {
        let mut nonce = [0; 12];
        nonce.copy_from_slice(iv.as_ref());
        for (byte, of_number) in nonce[4..].iter_mut().zip(u64::to_be_bytes(number)) {
            *byte ^= of_number;
        }
        number += 1;
        let mut inner = [data, &[23]].concat();
        let header = [23, 3, 3, 0, (inner.len() + 16) as u8];
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner)
            .unwrap();
        [&header[..], &inner].concat()
    };
    for _ in 0..3 {
        for _ in 0..5 {
            tcp.write_all(&record(b"")).unwrap();
        }
        tcp.write_all(&record(b"data")).unwrap();
        let mut got = [0; 4];
        plain.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"data");
    }
    for _ in 0..100 {
        // It closes the connection at some time.
        let _ = tcp.write_all(&record(b""));
    }
    assert_eq!(plain.read(&mut [0]).unwrap(), 0);
    rig.truncated();
    drop(tcp);
    rig.end();
}

#[test]
fn a_changed_record_ends_a_session() {
    let rig = Rig::new();
    let (mut client, mut plain) = rig.establish();
    client.write_all(b"good").unwrap();
    client.conn.writer().write_all(b"bad").unwrap();
    let mut record = Vec::new();
    client.conn.write_tls(&mut record).unwrap();
    *record.last_mut().unwrap() ^= 1;
    client.sock.write_all(&record).unwrap();
    let mut all = String::new();
    plain.read_to_string(&mut all).unwrap();
    assert_eq!(all, "good");
    rig.truncated();
    wait_for("an error", || plain.write_all(b"x").is_err());
    // The client learns why.
    let error = client.read(&mut [0]).unwrap_err();
    assert!(error.to_string().contains("BadRecordMac"), "{error}");
}

#[test]
fn clients_may_go_away_at_any_time() {
    let rig = Rig::new();
    for is_reset in [false, true] {
        let end = |tcp: TcpStream| if is_reset { reset(tcp) } else { drop(tcp) };
        // Before anything.
        let (tcp, plain) = rig.connect();
        end(tcp);
        let first = failure(&plain);
        assert_eq!(first.kind, FailureKind::Closed);
        assert!(first.why.contains("before it sent anything"), "{first:?}");
        // In the middle of its first message.
        let (mut client, plain, hello) = hello(&rig);
        client.sock.write_all(&hello[..hello.len() / 2]).unwrap();
        // Such that it is there before a reset takes it away.
        sleep(Duration::from_millis(50));
        end(client.sock);
        let second = failure(&plain);
        assert_eq!(second.kind, FailureKind::Closed);
        assert!(second.why.contains("in the handshake"), "{second:?}");
        // After it.
        let (mut client, plain, hello) = self::hello(&rig);
        client.sock.write_all(&hello).unwrap();
        client.sock.peek(&mut [0]).unwrap();
        end(client.sock);
        assert_eq!(failure(&plain).kind, FailureKind::Closed);
        // With a session, in the middle of a transfer, either way.
        for handler_writes in [false, true] {
            let (mut client, mut plain) = rig.establish();
            match handler_writes {
                true => plain.write_all(&[1; 50_000]).unwrap(),
                false => client.write_all(&[1; 50_000]).unwrap(),
            }
            end(client.sock);
            rig.truncated();
            wait_for("an error", || plain.write_all(b"x").is_err());
        }
    }
    rig.end();
}

#[test]
fn an_abandoned_handshake_ends_at_once() {
    let rig = Rig::new();
    let (mut tcp, plain) = rig.connect();
    let (mut client, half_plain, hello) = hello(&rig);
    client.sock.write_all(&hello[..10]).unwrap();
    sleep(Duration::from_millis(50));
    drop((plain, half_plain));
    assert_eq!(tcp.read(&mut [0]).unwrap(), 0);
    // Its input was read, so there is no reset; but either is an end.
    let ended = client.sock.read(&mut [0]);
    assert!(matches!(ended, Ok(0)) || ended.is_err());
    rig.end();
}

#[test]
fn requests_that_cannot_be_served_are_refused_and_others_are_served() {
    let rig = Rig::new();
    let (mut tcp, plain) = rig.connect_to("other");
    let refused = failure(&plain);
    assert_eq!(refused.kind, FailureKind::Other);
    assert!(refused.why.contains("no service other"), "{refused:?}");
    assert_eq!(tcp.read(&mut [0]).unwrap(), 0);
    let (client, accepted) = rig.tcp();
    let one = accepted.as_raw_fd();
    rig.send(b"\x01\x03web\x00", &[]);
    rig.send(b"\x01\x03web\x00", &[one]);
    let refused = |packet: &[u8], is_doubled: bool| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fds = [one, theirs.as_raw_fd(), one];
        rig.send(packet, &fds[..2 + usize::from(is_doubled)]);
        drop(theirs);
        let why = failure(&ours).why;
        ours.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!((&ours).read(&mut [0]).unwrap(), 0);
        why
    };
    for (packet, is_doubled, why) in [
        (&b"\x01\x03web\x00"[..], true, "malformed"),
        (b"\x01", false, "malformed"),
        (b"\x63\x03web\x00", false, "version 99"),
        (&[1; 5000], false, "malformed"),
    ] {
        let told = refused(packet, is_doubled);
        assert!(told.contains(why), "{told}");
    }
    drop(accepted);
    drop(client);
    // No sockets, or not of streams.
    let file = std::fs::File::open("/dev/null").unwrap();
    rig.send(b"\x01\x03web\x00", &[file.as_raw_fd(), file.as_raw_fd()]);
    let (mut client, mut plain) = rig.establish();
    client.write_all(b"?").unwrap();
    plain.read_exact(&mut [0]).unwrap();
    drop((client, plain));
    rig.end();
}

#[test]
fn a_handler_that_has_ended_is_no_reason_to_lose_the_client() {
    let rig = Rig::new();
    let (mut client, plain) = rig.establish();
    // The handler has its input unread, and is gone.
    client.write_all(&[1; 300_000]).unwrap();
    plain.shutdown(Shutdown::Read).unwrap();
    drop(plain);
    client.write_all(&[1; 300_000]).unwrap();
    match client.read(&mut [0]) {
        Ok(0) => {}
        other => panic!("{other:?}"),
    }
    drop(client);
    rig.end();
}

/// A connection whose last close takes this long, unless the thread ends that closes it.
fn lingering(rig: &Rig, seconds: i32) -> (TcpStream, TcpStream) {
    let (mut tcp, other) = rig.tcp();
    tcp.set_nonblocking(true).unwrap();
    while tcp.write(&[0; 65_536]).is_ok() {}
    tcp.set_nonblocking(false).unwrap();
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: seconds,
    };
    setsockopt(&tcp, sockopt::Linger, &linger).unwrap();
    (tcp, other)
}

fn pass(plain: &UnixStream, passed: TcpStream) {
    let fds = [passed.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&fds)];
    let parts = [IoSlice::new(b"hello")];
    sendmsg::<()>(plain.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
    // If the receiver was quicker, this close is the last, and lingers.
    std::thread::spawn(move || drop(passed));
}

#[test]
fn descriptors_that_a_handler_sends_hold_nobody_up() {
    const LINGER: i32 = 30;
    let rig = Rig::new();
    let begin = Instant::now();
    // That are received.
    let (mut client, plain) = rig.establish();
    let (tcp, _other) = lingering(&rig, LINGER);
    pass(&plain, tcp);
    let mut hello = [0; 5];
    client.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    // The connection goes on, without them.
    client.write_all(b"x").unwrap();
    (&plain).read_exact(&mut [0]).unwrap();
    // That nobody receives: the client takes nothing more, and goes away.
    let (client, plain) = rig.establish();
    plain.set_nonblocking(true).unwrap();
    wait_for("a full pipe", || {
        let is_full = (&plain).write(&[0; 100_000]).is_err();
        sleep(Duration::from_millis(10));
        is_full && (&plain).write(&[0; 1]).is_err()
    });
    let (tcp, _other) = lingering(&rig, LINGER);
    setsockopt(&plain, sockopt::SndBuf, &4_000_000).unwrap();
    pass(&plain, tcp);
    reset(client.sock.try_clone().unwrap());
    drop(client);
    sleep(Duration::from_millis(300));
    drop(rig.establish());
    assert!(begin.elapsed() < Duration::from_secs(LINGER as u64 / 2));
}
