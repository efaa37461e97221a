//! Clients with TLS, the same for all servers: version 1.3, AES-128-GCM, and the group of keys that the server
//! takes at once.
//!
//! The load doesn't verify signatures, so that more of the CPU is left to the server. The first connection to
//! each server does.

use std::io::{self, BufReader, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, RootCertStore,
    SignatureScheme,
};
use socket2::Socket;

use super::alone::counter;
use super::bulk::{BulkOutcome, CHUNK, FILL};
use super::{Failures, connect, thread_cpu_time};
use crate::handlers::{ANSWER, Reply};
use crate::peers::{Endpoint, HOST};
use crate::stats::Latencies;

/// The clients of one server.
#[derive(Clone, Debug)]
pub(crate) struct TlsClients<'a> {
    pub endpoint: &'a Endpoint,
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// Offer keys on P-256 instead of X25519.
    pub p256: bool,
    pub timeout: Duration,
}

/// Short connections, each as fast as it is answered.
#[derive(Clone, Copy)]
pub(crate) struct TlsLoad<'a> {
    pub clients: usize,
    /// Each client resumes its sessions if the server lets it.
    pub resume: bool,
    pub warm_up: Duration,
    pub window: Duration,
    pub interrupted: &'a AtomicBool,
}

#[derive(Debug)]
pub(crate) struct TlsOutcome {
    /// Right answers within the window, which the rate counts.
    pub in_window: u64,
    /// Right answers, including those before and after the window.
    pub completed: u64,
    /// Those of them in a session that was resumed.
    pub resumed: u64,
    /// Those of them that ended without close_notify, so that they could have been cut off.
    pub unclean: u64,
    pub failures: Failures,
    /// From the call of connect to the first byte of the answer, within the window.
    pub first: Latencies,
    /// CPU time of the clients.
    pub cpu: Duration,
}

/// A thread stops after this many failures.
const MAX_FAILURES: u64 = 50;

impl TlsClients<'_> {
    /// Makes one connection to check that a server works and has its certificate.
    pub(crate) fn probe(&self, reply: Reply) -> io::Result<()> {
        let config = self.config(false, true).map_err(io::Error::other)?;
        let mut session = Session::open(self, &config)?;
        let expected: &[u8] = match reply {
            Reply::Sink => {
                session.write_all(b"\n")?;
                &1_u64.to_le_bytes()
            }
            Reply::Gate => {
                session.write_all(b"x")?;
                ANSWER
            }
            Reply::Send(_) => &[0],
            _ => ANSWER,
        };
        let mut received = vec![0; expected.len()];
        session.read_exact(&mut received)?;
        session.end();
        if received == expected {
            Ok(())
        } else {
            Err(io::Error::other(format!("received {received:?}")))
        }
    }

    /// Connects and reads answers until the window closes.
    pub(crate) fn run(&self, load: TlsLoad<'_>) -> Result<TlsOutcome> {
        // Tickets aren't shared: a server may have given one client none.
        let configs = (0..load.clients).map(|_| self.config(load.resume, false));
        let configs = configs.collect::<Result<Vec<_>>>()?;
        let opens = Instant::now() + load.warm_up;
        std::thread::scope(|scope| {
            let running: Vec<_> = configs
                .iter()
                .map(|config| scope.spawn(move || self.run_one(config, load, opens)))
                .collect();
            let mut total = TlsOutcome::new();
            for thread in running {
                let outcome = thread.join();
                total.merge(&outcome.map_err(|_| io::Error::other("a load thread panicked"))?);
            }
            Ok(total)
        })
    }

    fn run_one(&self, config: &Arc<ClientConfig>, load: TlsLoad<'_>, opens: Instant) -> TlsOutcome {
        let mut outcome = TlsOutcome::new();
        let closes = opens + load.window;
        while Instant::now() < closes
            && outcome.failures.total() < MAX_FAILURES
            && !load.interrupted.load(Ordering::Relaxed)
        {
            match self.exchange(config) {
                Ok(Some(exchange)) => {
                    outcome.completed += 1;
                    outcome.resumed += u64::from(exchange.resumed);
                    outcome.unclean += u64::from(exchange.unclean);
                    if (opens..closes).contains(&Instant::now()) {
                        outcome.in_window += 1;
                        outcome.first.record(exchange.first);
                    }
                }
                Ok(None) => outcome.failures.wrong += 1,
                Err(error) => *counter(&mut outcome.failures, &error) += 1,
            }
        }
        outcome.cpu = thread_cpu_time();
        outcome
    }

    /// Reads an answer. Returns `None` if it is wrong.
    fn exchange(&self, config: &Arc<ClientConfig>) -> io::Result<Option<Exchange>> {
        let began = Instant::now();
        let mut session = Session::open(self, config)?;
        // One byte more than the answer, to detect an answer that is too long.
        let mut received = [0; ANSWER.len() + 1];
        let mut length = session.read(&mut received)?;
        let first = began.elapsed();
        let mut unclean = false;
        while length > 0 && length < received.len() {
            match session.read(&mut received[length..]) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    unclean = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        let resumed = session.connection.handshake_kind() == Some(HandshakeKind::Resumed);
        session.end();
        Ok((received[..length] == *ANSWER).then_some(Exchange {
            first,
            resumed,
            unclean,
        }))
    }

    /// Receives `expected` zero bytes from the handler.
    pub(crate) fn receive(&self, expected: u64) -> Result<BulkOutcome> {
        let config = self.config(false, false)?;
        let began = Instant::now();
        let mut session = Session::open(self, &config)?;
        let mut buffer = vec![0; CHUNK];
        let (mut received, mut clean) = (0, true);
        while received < expected {
            let length = session.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            received += length as u64;
            clean &= buffer[..length].iter().all(|byte| *byte == 0);
        }
        let took = began.elapsed();
        session.end();
        Ok(BulkOutcome {
            received,
            complete: clean && received == expected,
            took,
        })
    }

    /// Sends `count` bytes to a handler, which says how many it has got.
    pub(crate) fn send(&self, count: u64) -> Result<BulkOutcome> {
        let config = self.config(false, false)?;
        let began = Instant::now();
        let mut session = Session::open(self, &config)?;
        let mut chunk = vec![FILL; CHUNK];
        let mut left = count;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            if left == length as u64 {
                chunk[length - 1] = b'\n';
            }
            session.write_all(&chunk[..length])?;
            left -= length as u64;
        }
        let mut answer = [0; size_of::<u64>()];
        session.read_exact(&mut answer)?;
        let took = began.elapsed();
        session.end();
        let received = u64::from_le_bytes(answer);
        Ok(BulkOutcome {
            received,
            complete: received == count,
            took,
        })
    }

    /// Opens up to `count` connections, each with a live handler that has answered. They close when dropped.
    pub(crate) fn hold(
        &self,
        count: usize,
        deadline: Duration,
        interrupted: &AtomicBool,
    ) -> Result<Vec<Socket>> {
        const THREADS: usize = 8;
        let config = self.config(false, false)?;
        let began = Instant::now();
        let held = Mutex::new(Vec::with_capacity(count));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let share = (count + thread) / THREADS;
                let (held, config) = (&held, &config);
                scope.spawn(move || {
                    for _ in 0..share {
                        if began.elapsed() > deadline || interrupted.load(Ordering::Relaxed) {
                            return;
                        }
                        let Ok(socket) = self.open_and_read(config) else {
                            return;
                        };
                        if let Ok(mut held) = held.lock() {
                            held.push(socket);
                        }
                    }
                });
            }
        });
        Ok(held.into_inner().unwrap_or_default())
    }

    /// Returns the connection without its session, whose memory would be a client's alone.
    fn open_and_read(&self, config: &Arc<ClientConfig>) -> io::Result<Socket> {
        let mut session = Session::open(self, config)?;
        let mut answer = [0; ANSWER.len()];
        session.read_exact(&mut answer)?;
        Ok(session.socket.into_inner())
    }

    fn config(&self, resumes: bool, verifies: bool) -> Result<Arc<ClientConfig>> {
        let group = match self.p256 {
            true => aws_lc_rs::kx_group::SECP256R1,
            false => aws_lc_rs::kx_group::X25519,
        };
        let provider = Arc::new(CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![group],
            ..aws_lc_rs::default_provider()
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .context("this rustls lacks TLS 1.3")?;
        let mut config = if verifies {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.clone())?;
            builder.with_root_certificates(roots).with_no_client_auth()
        } else {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified))
                .with_no_client_auth()
        };
        config.resumption = match resumes {
            true => Resumption::in_memory_sessions(32),
            false => Resumption::disabled(),
        };
        Ok(Arc::new(config))
    }
}

struct Exchange {
    first: Duration,
    resumed: bool,
    unclean: bool,
}

impl TlsOutcome {
    fn new() -> Self {
        Self {
            in_window: 0,
            completed: 0,
            resumed: 0,
            unclean: 0,
            failures: Failures::default(),
            first: Latencies::new(),
            cpu: Duration::ZERO,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.in_window += other.in_window;
        self.completed += other.completed;
        self.resumed += other.resumed;
        self.unclean += other.unclean;
        self.failures.add(&other.failures);
        self.first.merge(&other.first);
        self.cpu += other.cpu;
    }
}

/// A connection with TLS. rustls reads 4 KiB at a time; the buffer saves system calls.
struct Session {
    connection: ClientConnection,
    socket: BufReader<Socket>,
}

impl Session {
    fn open(clients: &TlsClients<'_>, config: &Arc<ClientConfig>) -> io::Result<Self> {
        let host = ServerName::try_from(HOST).map_err(io::Error::other)?;
        let connection =
            ClientConnection::new(Arc::clone(config), host).map_err(io::Error::other)?;
        let socket = connect(clients.endpoint, clients.timeout)?;
        socket.set_tcp_nodelay(true)?;
        Ok(Self {
            connection,
            socket: BufReader::with_capacity(64 * 1024, socket),
        })
    }

    /// Ends the session as it should, and waits for the end of the connection. What isn't read is the
    /// server's loss, and a failure to end no client's.
    fn end(mut self) {
        self.connection.send_close_notify();
        let mut rest = [0; 4096];
        if self.connection.write_tls(self.socket.get_mut()).is_ok()
            && self.socket.get_ref().shutdown(Shutdown::Write).is_ok()
        {
            while matches!(self.socket.read(&mut rest), Ok(1..)) {}
        }
    }
}

impl Read for Session {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut transport = Transport(&mut self.socket);
        rustls::Stream::new(&mut self.connection, &mut transport).read(buffer)
    }
}

impl Write for Session {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut transport = Transport(&mut self.socket);
        rustls::Stream::new(&mut self.connection, &mut transport).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut transport = Transport(&mut self.socket);
        rustls::Stream::new(&mut self.connection, &mut transport).flush()
    }
}

/// Reads through the buffer, and writes past it.
struct Transport<'a>(&'a mut BufReader<Socket>);

impl Read for Transport<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Transport<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_mut().write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes every certificate and signature for good.
#[derive(Debug)]
struct Unverified;

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
