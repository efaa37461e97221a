//! What a handler is told of a session, and sessions that are resumed.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::version::{TLS12, TLS13};

use crate::rig::{NAME, Options, Rig};

#[test]
fn sessions_are_resumed_and_the_name_is_known_all_the_same() {
    let rig = Rig::with(Options {
        change: Some(|config| {
            config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        }),
        threads: 2,
        ..Options::default()
    });
    for version in [&TLS12, &TLS13] {
        let config = ClientConfig::builder_with_protocol_versions(&[version])
            .with_root_certificates(rig.roots.clone())
            .with_no_client_auth();
        let config = Arc::new(config);
        for is_second in [false, true] {
            let (mut client, mut plain, session) = rig.establish_with(&config);
            assert_eq!(session.server_name, NAME);
            let resumed = client.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            assert_eq!(resumed, is_second, "{version:?}");
            // The client reads its tickets here.
            plain.write_all(b"!").unwrap();
            client.read_exact(&mut [0]).unwrap();
            client.write_all(b"?").unwrap();
            plain.read_exact(&mut [0]).unwrap();
        }
    }
}

#[test]
fn without_a_name_there_is_none() {
    let rig = Rig::new();
    // One after the other in the same thread: no name is another's.
    drop(rig.establish());
    let mut config = rig.client_config();
    config.enable_sni = false;
    let (_client, _plain, session) = rig.establish_with(&Arc::new(config));
    assert_eq!(session.server_name, "");
}
