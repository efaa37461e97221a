//! TLS to a server: here that is the engine's other side.

use std::io::Read;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use skd_tls::engine::{Ended, Engine, Fault, Outgoing};

use crate::rig::{LONG, NAME, Pace, Rig, answer, read_pattern, write_pattern};

fn connect(engine: &Engine, config: ClientConfig, tcp: TcpStream) -> (UnixStream, Receiver<Ended>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (sender, receiver) = channel();
    engine.connect(Outgoing {
        config: Arc::new(config),
        name: ServerName::try_from(NAME).unwrap(),
        tcp: tcp.into(),
        plain: theirs.into(),
        within: Duration::from_secs(2),
        idle: None,
        ended: Box::new(move |end| drop(sender.send(end))),
    });
    (ours, receiver)
}

#[test]
fn a_relay_to_a_server_is_whole_both_ways() {
    let rig = Rig::new();
    let engine = Engine::client(1).unwrap();
    let (tcp, mut server) = rig.connect();
    let (mut local, ended) = connect(&engine, rig.client_config(), tcp);
    answer(&server);
    write_pattern(&mut local, 1, 100_000, Pace::FAST);
    local.shutdown(Shutdown::Write).unwrap();
    read_pattern(&mut server, 1, 100_000, Pace::FAST);
    assert_eq!(server.read(&mut [0]).unwrap(), 0);
    write_pattern(&mut server, 2, 100_000, Pace::FAST);
    drop(server);
    read_pattern(&mut local, 2, 100_000, Pace::FAST);
    assert_eq!(local.read(&mut [0]).unwrap(), 0);
    assert!(matches!(ended.recv_timeout(LONG), Ok(Ended::Complete)));
    rig.assert_none_truncated();
    engine.retire();
    crate::rig::wait_for("the end", || engine.is_done());
}

#[test]
fn why_there_is_no_session_is_told() {
    let rig = Rig::new();
    let engine = Engine::client(1).unwrap();
    // A server whose certificate isn't trusted.
    let (tcp, server) = rig.connect();
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let (mut local, ended) = connect(&engine, config, tcp);
    let end = ended.recv_timeout(LONG).unwrap();
    let refused = matches!(
        end,
        Ended::NoSession(Fault::Refused(rustls::Error::InvalidCertificate(_)))
    );
    assert!(refused, "{end:?}");
    assert_eq!(local.read(&mut [0]).unwrap(), 0);
    // The server has got an alert, not only the end.
    let skd_tls_protocol::Answer::Failed(failure) = answer(&server) else {
        panic!("a session");
    };
    assert_ne!(failure.kind, skd_tls_protocol::FailureKind::Closed);
    // A server that says nothing.
    let (tcp, silent) = rig.tcp();
    let (_local, ended) = connect(&engine, rig.client_config(), tcp);
    let end = ended.recv_timeout(LONG).unwrap();
    assert!(matches!(end, Ended::Late), "{end:?}");
    drop(silent);
    // None at all.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    drop(listener);
    let (_local, ended) = connect(&engine, rig.client_config(), tcp);
    let end = ended.recv_timeout(LONG).unwrap();
    let closed = matches!(end, Ended::NoSession(Fault::Closed { .. }));
    assert!(closed, "{end:?}");
    // An engine that has ended.
    engine.retire();
    crate::rig::wait_for("the end", || engine.is_done());
    let (tcp, _silent) = rig.tcp();
    let (mut local, ended) = connect(&engine, rig.client_config(), tcp);
    let end = ended.recv_timeout(LONG).unwrap();
    assert!(matches!(end, Ended::NotTaken), "{end:?}");
    assert_eq!(local.read(&mut [0]).unwrap(), 0);
}
