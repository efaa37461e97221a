//! Measures the engine, or any server of TLS: handshakes per second, and bytes per second.
//!
//! `load serve ecdsa|rsa THREADS PORT` serves on 127.0.0.1 with the engine: a client that sends bytes gets none, and
//! a client that sends `s` first gets bytes until it closes. `load idle COUNT` says what an idle connection costs.
//! `load handshakes PORT SECONDS CLIENTS`, `load upload PORT SECONDS`, `load download PORT SECONDS` measure.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic
)]
#![allow(missing_docs)]

use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    StreamOwned,
};
use skd_tls::engine::Engine;
use skd_tls::load::{Service, Services};
use skd_tls_protocol::{Found, MAX_REQUEST, Request};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    match words[..] {
        ["serve", key, threads, port] => serve(key, threads.parse().unwrap(), port),
        ["idle", count] => idle(count.parse().unwrap()),
        ["handshakes", port, seconds, clients] => {
            handshakes(port, seconds.parse().unwrap(), clients.parse().unwrap());
        }
        ["upload", port, seconds] => transfer(port, seconds.parse().unwrap(), true),
        ["download", port, seconds] => transfer(port, seconds.parse().unwrap(), false),
        _ => panic!("see the comment at the top"),
    }
}

/// An engine, and skd's end of its request channel.
fn engine(key: &str, threads: usize) -> (Arc<Engine>, std::os::fd::OwnedFd) {
    let algorithm = match key {
        "rsa" => &rcgen::PKCS_RSA_SHA256,
        _ => &rcgen::PKCS_ECDSA_P256_SHA256,
    };
    let key = match key {
        "rsa" => rcgen::KeyPair::generate_rsa_for(algorithm, rcgen::RsaKeySize::_2048).unwrap(),
        _ => rcgen::KeyPair::generate_for(algorithm).unwrap(),
    };
    let parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = CertificateDer::from(parameters.self_signed(&key).unwrap());
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], private)
        .unwrap();
    let kind = SockType::SeqPacket;
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
    let service = Service::new("load", config, None);
    let engine = Engine::start(theirs, threads, &Services::new([service]), |_| {}).unwrap();
    (engine, ours)
}

fn pass(requests: &impl AsRawFd, tcp: TcpStream) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let request = Request {
        service: "load",
        token: b"",
    };
    let mut packet = [0; MAX_REQUEST];
    let length = request.write(&mut packet).unwrap();
    let fds = [tcp.as_raw_fd(), theirs.as_raw_fd()];
    let parts = [IoSlice::new(&packet[..length])];
    let rights = [ControlMessage::ScmRights(&fds)];
    let flags = MsgFlags::empty();
    sendmsg::<()>(requests.as_raw_fd(), &parts, &rights, flags, None).unwrap();
    ours
}

fn serve(key: &str, threads: usize, port: &str) {
    let (_engine, requests) = engine(key, threads);
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    for tcp in listener.incoming() {
        let plain = pass(&requests, tcp.unwrap());
        std::thread::Builder::new()
            .stack_size(256 * 1024)
            .spawn(move || handle(plain))
            .unwrap();
    }
}

/// What a handler does.
fn handle(mut plain: UnixStream) {
    let mut bytes = vec![0; 128 * 1024];
    let mut answer = 0;
    let first = loop {
        match plain.read(&mut bytes[answer..]) {
            Ok(0) | Err(_) => return,
            Ok(length) => answer += length,
        }
        if let Ok(Found::Answer(_, length)) = Found::read(&bytes[..answer]) {
            break match answer > length {
                true => bytes[length],
                false => {
                    let mut byte = [0];
                    match plain.read(&mut byte) {
                        Ok(1) => byte[0],
                        _ => return,
                    }
                }
            };
        }
    };
    match first {
        b's' => while plain.write_all(&bytes).is_ok() {},
        _ => while plain.read(&mut bytes).is_ok_and(|length| length > 0) {},
    }
}

/// Accepts any certificate.
#[derive(Debug)]
struct Any;

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PKCS1_SHA256,
        ]
    }
}

fn config() -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any))
        .with_no_client_auth();
    // Full handshakes only.
    config.resumption = rustls::client::Resumption::disabled();
    Arc::new(config)
}

fn connect(
    config: &Arc<ClientConfig>,
    tcp: TcpStream,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    tcp.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, tcp);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut stream.sock)?;
    }
    Ok(stream)
}

fn handshakes(port: &str, seconds: u64, clients: usize) {
    let count = AtomicU64::new(0);
    let end = Instant::now() + Duration::from_secs(seconds);
    let config = config();
    let cpu = cpu();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                while Instant::now() < end {
                    let tcp = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
                    connect(&config, tcp).unwrap();
                    count.fetch_add(1, Relaxed);
                }
            });
        }
    });
    let count = count.load(Relaxed);
    println!(
        "{} handshakes/s, {:.0} us of CPU for each here",
        count / seconds,
        (self::cpu() - cpu) * 1e6 / count as f64
    );
}

fn cpu() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF).unwrap();
    [usage.user_time(), usage.system_time()]
        .iter()
        .map(|it| it.tv_sec() as f64 + it.tv_usec() as f64 / 1e6)
        .sum()
}

fn transfer(port: &str, seconds: u64, up: bool) {
    let tcp = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    let mut stream = connect(&config(), tcp).unwrap();
    let mut bytes = vec![0; 256 * 1024];
    let begin = Instant::now();
    let cpu = cpu();
    let mut total = 0;
    if !up {
        stream.write_all(b"s").unwrap();
    }
    while begin.elapsed() < Duration::from_secs(seconds) {
        total += match up {
            true => stream.write(&bytes).unwrap(),
            false => stream.read(&mut bytes).unwrap(),
        };
    }
    println!(
        "{:.0} MB/s, {:.3} s of CPU for each GB here",
        total as f64 / 1e6 / begin.elapsed().as_secs_f64(),
        (self::cpu() - cpu) / (total as f64 / 1e9)
    );
}

/// How much memory of its own the process has, in bytes.
fn memory() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|it| it.starts_with("RssAnon"));
    let kilobytes = line.and_then(|it| it.split_whitespace().nth(1)).unwrap();
    kilobytes.parse::<usize>().unwrap() * 1024
}

/// The clients are raw: only their sockets are kept after the handshake.
fn idle(count: usize) {
    let (_engine, requests) = engine("ecdsa", 2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let config = config();
    let mut kept = Vec::with_capacity(count);
    let open = |kept: &mut Vec<(TcpStream, UnixStream)>, trip: bool| {
        let tcp = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let mut plain = pass(&requests, accepted);
        let mut client = connect(&config, tcp).unwrap();
        if trip {
            let mut bytes = vec![1; 50_000];
            client.write_all(&bytes).unwrap();
            let mut all = Vec::new();
            while !all.ends_with(&[1; 1000]) || all.len() < 50_000 {
                let length = plain.read(&mut bytes).unwrap();
                all.extend_from_slice(&bytes[..length]);
            }
            plain.write_all(&[2; 50_000]).unwrap();
            client.read_exact(&mut vec![0; 50_000]).unwrap();
        }
        let StreamOwned { conn, sock } = client;
        drop(conn);
        kept.push((sock, plain));
    };
    for _ in 0..50 {
        open(&mut kept, true);
    }
    let before = memory();
    for index in 0..count {
        open(&mut kept, index % 2 == 0);
    }
    let after = memory();
    println!(
        "{} bytes for each of {count} idle connections",
        (after - before) / count
    );
}
