//! An engine with what skd is to it, and clients.

use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};
use skd_tls::engine::{Engine, Truncated};
use skd_tls::load::{Service, Services};
use skd_tls_protocol::{Answer, Found, MAX_REQUEST, Request, Session};

/// Longer than anything takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// What the only certificate is for.
pub(crate) const NAME: &str = "example.org";

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

/// An engine, and skd's ends.
pub(crate) struct Rig {
    pub(crate) engine: Arc<Engine>,
    pub(crate) requests: OwnedFd,
    receiving: OwnedFd,
    services: Services,
    pub(crate) roots: RootCertStore,
    truncated: Mutex<Receiver<Truncated>>,
    listener: TcpListener,
}

/// What may be different.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) threads: usize,
    pub(crate) idle: Option<Duration>,
    pub(crate) change: Option<fn(&mut ServerConfig)>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        let key = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let certificate = CertificateDer::from(key.cert);
        let private = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], PrivateKeyDer::Pkcs8(private))
            .unwrap();
        if let Some(change) = options.change {
            change(&mut config);
        }
        let (requests, other) = pair(SockType::SeqPacket);
        let (sender, truncated) = channel();
        let threads = options.threads.max(1);
        let told = move |one| drop(sender.send(one));
        let service = Service::new("web", config, options.idle);
        let services = Services::new([service]);
        let receiving = other.try_clone().unwrap();
        let engine = Engine::start(other, threads, &services, told).unwrap();
        Self {
            engine,
            requests,
            receiving,
            services,
            roots,
            truncated: Mutex::new(truncated),
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
        }
    }

    /// Starts another engine with the same request channel, as the next process has it.
    pub(crate) fn next(&self, threads: usize) -> Arc<Engine> {
        let requests = self.receiving.try_clone().unwrap();
        Engine::start(requests, threads, &self.services, |_| {}).unwrap()
    }

    /// Connects, and hands the connection to the engine. Returns both ends that are left.
    pub(crate) fn connect(&self) -> (TcpStream, UnixStream) {
        self.connect_to("web")
    }

    pub(crate) fn connect_to(&self, service: &str) -> (TcpStream, UnixStream) {
        let (client, accepted) = self.tcp();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let request = Request {
            service,
            token: b"token",
        };
        let mut packet = [0; MAX_REQUEST];
        let length = request.write(&mut packet).unwrap();
        let fds = [accepted.as_raw_fd(), theirs.as_raw_fd()];
        self.send(&packet[..length], &fds);
        (client, ours)
    }

    pub(crate) fn tcp(&self) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = self.listener.accept().unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        (client, accepted)
    }

    pub(crate) fn send(&self, packet: &[u8], fds: &[i32]) {
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &[][..] } else { &rights };
        let parts = [IoSlice::new(packet)];
        sendmsg::<()>(
            self.requests.as_raw_fd(),
            &parts,
            rights,
            MsgFlags::empty(),
            None,
        )
        .unwrap();
    }

    pub(crate) fn client_config(&self) -> ClientConfig {
        ClientConfig::builder()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth()
    }

    /// Returns a client and its handler's end, with a session between them.
    pub(crate) fn establish(&self) -> (Client, UnixStream) {
        let (client, plain, _) = self.establish_with(&Arc::new(self.client_config()));
        (client, plain)
    }

    pub(crate) fn establish_with(
        &self,
        config: &Arc<ClientConfig>,
    ) -> (Client, UnixStream, Session<'static>) {
        let (tcp, plain) = self.connect();
        let mut client = client(config, tcp);
        while client.conn.is_handshaking() {
            client.conn.complete_io(&mut client.sock).unwrap();
        }
        let Answer::Established(session) = answer(&plain) else {
            panic!("no session");
        };
        (client, plain, session)
    }

    /// Returns what was told to be truncated.
    pub(crate) fn truncated(&self) -> Truncated {
        let truncated = self.truncated.lock().unwrap();
        truncated.recv_timeout(LONG).expect("nothing is truncated")
    }

    /// Asserts that nothing was truncated so far, and all is over.
    pub(crate) fn assert_none_truncated(&self) {
        self.end();
        let truncated = self.truncated.lock().unwrap();
        assert_eq!(truncated.try_recv().ok(), None);
    }

    /// Waits until all connections are over.
    pub(crate) fn end(&self) {
        self.engine.retire();
        wait_for("the end", || self.engine.is_done());
    }
}

pub(crate) fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

pub(crate) fn client(config: &Arc<ClientConfig>, tcp: TcpStream) -> Client {
    let name = ServerName::try_from(NAME).unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    StreamOwned::new(connection, tcp)
}

/// Takes the answer at a plain side, and not one byte more: as skd does.
pub(crate) fn answer(plain: &UnixStream) -> Answer<'static> {
    plain.set_read_timeout(Some(LONG)).unwrap();
    let mut bytes = [0; 8192];
    let begin = Instant::now();
    loop {
        let length = recv(plain.as_raw_fd(), &mut bytes, MsgFlags::MSG_PEEK).unwrap();
        assert!(length > 0, "the end instead of an answer");
        match Found::read(&bytes[..length]).unwrap() {
            Found::Answer(answer, length) => {
                let answer = owned(&answer);
                let mut plain = plain;
                plain.read_exact(&mut bytes[..length]).unwrap();
                return answer;
            }
            Found::Incomplete => assert!(begin.elapsed() < LONG),
        }
    }
}

fn owned(answer: &Answer<'_>) -> Answer<'static> {
    let bytes: &'static [u8] = answer.bytes().leak();
    match Found::read(bytes) {
        Ok(Found::Answer(answer, _)) => answer,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < LONG, "{what} doesn't come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes that don't repeat, so that any that are lost, doubled or exchanged show.
#[derive(Clone)]
pub(crate) struct Pattern(u64);

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            // A multiplier and an increment of Knuth's MMIX.
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 56) as u8;
        }
    }
}

/// Writes so many bytes of a pattern, so many at a time, and waits in between.
pub(crate) fn write_pattern(to: &mut impl Write, seed: u64, total: usize, pace: Pace) {
    let mut pattern = Pattern::new(seed);
    let mut bytes = vec![0; pace.chunk];
    let mut left = total;
    while left > 0 {
        let bytes = &mut bytes[..pace.chunk.min(left)];
        pattern.fill(bytes);
        to.write_all(bytes).unwrap();
        left -= bytes.len();
        pace.wait();
    }
    to.flush().unwrap();
}

/// Reads so many bytes of a pattern and compares them.
pub(crate) fn read_pattern(from: &mut impl Read, seed: u64, total: usize, pace: Pace) {
    let mut pattern = Pattern::new(seed);
    let mut bytes = vec![0; pace.chunk];
    let mut expected = bytes.clone();
    let mut done = 0;
    while done < total {
        let most = pace.chunk.min(total - done);
        let length = from.read(&mut bytes[..most]).unwrap();
        assert!(length > 0, "the end after {done} of {total} bytes");
        pattern.fill(&mut expected[..length]);
        assert!(bytes[..length] == expected[..length], "after {done} bytes");
        done += length;
        pace.wait();
    }
}

/// How fast something is read or written.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) chunk: usize,
    pub(crate) pause: Duration,
}

impl Pace {
    pub(crate) const FAST: Self = Self {
        chunk: 100_000,
        pause: Duration::ZERO,
    };

    pub(crate) fn slow(chunk: usize) -> Self {
        Self {
            chunk,
            pause: Duration::from_millis(1),
        }
    }

    fn wait(self) {
        if !self.pause.is_zero() {
            std::thread::sleep(self.pause);
        }
    }
}
