//! Many clients at a time.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::rig::{Options, Rig};

/// Lets the process have as many files as it may.
fn raise_files() -> u64 {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    most
}

#[test]
fn stuck_handshakes_do_not_keep_an_honest_client_waiting() {
    // Each has four descriptors here, since this process is client and handler, too.
    let count = (raise_files() / 4).saturating_sub(500).min(2_000);
    assert!(count >= 100, "too few open files for this test");
    let rig = Rig::with(Options {
        threads: 2,
        ..Options::default()
    });
    let stuck: Vec<_> = (0..count)
        .map(|index| {
            let (mut tcp, plain) = rig.connect();
            // Some say nothing, and some begin.
            if index % 2 == 0 {
                tcp.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
            }
            (tcp, plain)
        })
        .collect();
    let begin = Instant::now();
    let (mut client, mut plain) = rig.establish();
    client.write_all(b"?").unwrap();
    plain.read_exact(&mut [0]).unwrap();
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    let live: u64 = rig.engine.figures().iter().map(|it| it.live).sum();
    assert_eq!(live, count + 1);
    drop((stuck, client, plain));
    rig.end();
}
