//! `--connect` and `--listen`, with servers of rustls.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::LONG;
use crate::certificates::{Authority, read};
use crate::skd_side::PROGRAM;

type Session = StreamOwned<ServerConnection, TcpStream>;

/// What a server does with the session.
type Serve = fn(Session);

/// A server with this certificate, which does this with each session. Returns its address.
fn server(certificate: &Path, client_ca: Option<&Path>, serve: Serve) -> SocketAddr {
    let (chain, key) = read(certificate);
    let builder = ServerConfig::builder();
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let found = rustls::pki_types::CertificateDer::from_pem_file(path).unwrap();
            roots.add(found).unwrap();
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"echo".to_vec()];
    let config = Arc::new(config);
    plain_server(move |stream| {
        let session = ServerConnection::new(Arc::clone(&config)).unwrap();
        let mut session = StreamOwned::new(session, stream);
        // One without a session is none of its clients.
        while session.conn.is_handshaking() {
            if session.conn.complete_io(&mut session.sock).is_err() {
                return;
            }
        }
        serve(session);
    })
}

/// A server that does this with each connection.
fn plain_server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Sends back what comes, and ends when the client has.
fn echo(mut session: Session) {
    let mut buffer = [0; 16 << 10];
    loop {
        match session.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => session.write_all(&buffer[..count]).unwrap(),
            Err(_) => return,
        }
    }
    end(session);
}

/// Says that this was all.
fn end(mut session: Session) {
    session.conn.send_close_notify();
    while session.conn.wants_write() {
        if session.conn.write_tls(&mut session.sock).is_err() {
            return;
        }
    }
    // A close with unread bytes would reset the connection, and take back what the client hasn't read.
    let _ = session.sock.shutdown(std::net::Shutdown::Write);
    let mut rest = [0; 1000];
    while session.sock.read(&mut rest).is_ok_and(|count| count > 0) {}
}

/// Runs it with this input.
fn run(words: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    thread::scope(|scope| {
        // A program that has failed doesn't read it.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

/// Runs it, which fails with this status, and says this.
#[track_caller]
fn fails(words: &[&str], status: i32, part: &str) -> Output {
    let output = run(words, b"hello");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{said}");
    assert!(
        said.starts_with("skd-tls: ") && said.contains(part),
        "{said}"
    );
    output
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The words to connect to a server by the name in its certificate.
fn connect<'a>(address: &'a str, ca: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let words = ["--connect", address, "--ca", ca, "--name", "web.example"];
    words.into_iter().chain(more.iter().copied()).collect()
}

#[test]
fn bytes_go_both_ways_and_each_end_is_passed_on() {
    let authority = Authority::new();
    let address = server(&authority.sign("web.example"), None, echo).to_string();
    let ca = text(&authority.path("ca.pem"));
    // More than all buffers hold together.
    let input: Vec<u8> = (0..5_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    for more in [&[][..], &["--min", "1.3"], &["--alpn", "other,echo"]] {
        let output = run(&connect(&address, &ca, more), &input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{said}");
        assert!(output.stdout == input);
    }
}

#[test]
fn a_handler_has_one_socket() {
    let authority = Authority::new();
    let address = server(&authority.sign("web.example"), None, echo).to_string();
    let ca = text(&authority.path("ca.pem"));
    let (mut client, handler) = UnixStream::pair().unwrap();
    let mut child = Command::new(PROGRAM)
        .args(connect(&address, &ca, &[]))
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(
            handler.try_clone().unwrap(),
        )))
        .stdout(Stdio::from(std::os::fd::OwnedFd::from(handler)))
        .spawn()
        .unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    for _ in 0..3 {
        client.write_all(b"hello").unwrap();
        let mut said = [0; 5];
        client.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"hello");
    }
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_certificate_that_is_not_accepted_is_explained() {
    let authority = Authority::new();
    let good = authority.sign("web.example");
    let old = authority.sign_changed("old.example", |parameters| {
        parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let new = authority.sign_changed("new.example", |parameters| {
        parameters.not_before = rcgen::date_time_ymd(2999, 1, 1);
        parameters.not_after = rcgen::date_time_ymd(3000, 1, 1);
    });
    let ca = text(&authority.path("ca.pem"));
    let other = Authority::new();
    let other_ca = text(&other.path("ca.pem"));
    let address = server(&good, None, echo).to_string();
    let old = server(&old, None, echo).to_string();
    let new = server(&new, None, echo).to_string();
    let no_session = |address: &str, ca: &str, name: &str, part: &str| {
        let words = ["--connect", address, "--ca", ca, "--name", name];
        let output = fails(&words, 3, part);
        assert!(output.stdout.is_empty());
    };
    no_session(
        &address,
        &other_ca,
        "web.example",
        "no authority that is trusted has signed it",
    );
    no_session(
        &address,
        &ca,
        "other.example",
        "it is for web.example, and not for other.example",
    );
    no_session(&old, &ca, "old.example", "it has expired");
    no_session(
        &new,
        &ca,
        "new.example",
        "is the clock of this machine right?",
    );
    // The address is the name if no other is given.
    fails(
        &["--connect", &address, "--ca", &ca],
        3,
        "and not for 127.0.0.1",
    );
    let words = [
        "--connect",
        &address,
        "--insecure",
        "--name",
        "other.example",
    ];
    let output = run(&words, b"hello");
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"hello"[..])
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("any server is taken for the right one"),
        "{said}"
    );
}

#[test]
fn a_server_that_asks_for_a_certificate_gets_it() {
    let authority = Authority::new();
    let own = text(&authority.sign("client.example"));
    let ca = text(&authority.path("ca.pem"));
    let certificate = authority.sign("web.example");
    let address = server(&certificate, Some(Path::new(&ca)), echo).to_string();
    let output = run(&connect(&address, &ca, &["--cert", &own]), b"hello");
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"hello"[..])
    );
    fails(
        &connect(&address, &ca, &[]),
        3,
        "it wants a certificate of the client (--cert)",
    );
    let other = Authority::new();
    let own = text(&other.sign("client.example"));
    fails(
        &connect(&address, &ca, &["--cert", &own]),
        3,
        "client's certificate",
    );
}

#[test]
fn an_end_that_was_not_said_is_no_success() {
    let authority = Authority::new();
    let certificate = authority.sign("web.example");
    let ca = text(&authority.path("ca.pem"));
    let cut = server(&certificate, None, |mut session| {
        session.write_all(b"half").unwrap();
        session.flush().unwrap();
        let _ = session.sock.shutdown(std::net::Shutdown::Both);
    });
    let output = fails(
        &connect(&cut.to_string(), &ca, &[]),
        4,
        "without close_notify",
    );
    assert_eq!(output.stdout, b"half");
    let told = server(&certificate, None, |mut session| {
        session.write_all(b"whole").unwrap();
        end(session);
    });
    let output = run(&connect(&told.to_string(), &ca, &[]), b"");
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"whole"[..])
    );
}

#[test]
fn a_server_without_tls_or_without_an_answer_is_named() {
    let ssh = plain_server(|mut stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH\r\n");
        let _ = stream.read(&mut [0; 1000]);
    });
    fails(
        &["--connect", &ssh.to_string(), "--insecure"],
        3,
        "it doesn't speak TLS",
    );
    let closing = plain_server(drop);
    fails(
        &["--connect", &closing.to_string(), "--insecure"],
        3,
        "the handshake",
    );
    let silent = plain_server(|stream| {
        thread::sleep(LONG);
        drop(stream);
    });
    let begin = Instant::now();
    let words = [
        "--connect",
        &silent.to_string(),
        "--insecure",
        "--timeout",
        "300ms",
    ];
    fails(&words, 3, "hasn't answered within 300ms");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap().to_string();
    drop(nobody);
    fails(&["--connect", &address], 1, "no program listens there");
    fails(
        &["--connect", "no-such.invalid:443"],
        1,
        "can't resolve 'no-such.invalid'",
    );
    fails(
        &["--connect", "/no/such", "--name", "x"],
        1,
        "there is no such socket",
    );
}

#[test]
fn the_next_address_is_tried() {
    let authority = Authority::new();
    let address = server(&authority.sign("web.example"), None, echo).to_string();
    let ca = text(&authority.path("ca.pem"));
    let words = connect("127.0.0.1:1", &ca, &["--connect", &address]);
    let output = run(&words, b"hello");
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(0), &b"hello"[..])
    );
    assert!(output.stderr.is_empty());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let ca = text(&authority.path("ca.pem"));
    let empty = text(&authority.path("empty"));
    std::fs::write(&empty, "").unwrap();
    fails(
        &["--connect", "a:1", "--ca", "/no/such"],
        1,
        "--ca /no/such can't be read",
    );
    fails(
        &["--connect", "a:1", "--ca", &empty],
        1,
        &format!("--ca {empty}"),
    );
    fails(
        &["--connect", "a:1", "--cert", &ca],
        1,
        "there is no private key in it",
    );
    let crossed = format!("{ca}:{}", text(&authority.sign("web.example")));
    fails(
        &["--connect", "a:1", "--cert", &crossed],
        1,
        "that of another certificate",
    );
}

#[test]
fn a_wrong_command_line_is_explained() {
    for (words, part) in [
        (&["--connect"][..], "--connect needs a value"),
        (&["--fast"], "unknown option '--fast'"),
        (&["--serve", "--connect", "a:1"], "unknown option '--serve'"),
    ] {
        let output = fails(words, 2, part);
        assert!(output.stderr.ends_with(b"\nTry 'skd-tls --help'.\n"));
    }
    let version = run(&["--version"], b"").stdout;
    assert_eq!(
        version,
        concat!("skd-tls ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()
    );
    let help = String::from_utf8(run(&["--help"], b"").stdout).unwrap();
    let page = std::fs::read_to_string("../man/skd-tls.1")
        .unwrap()
        .replace("\\-", "-");
    let options = help.lines().filter_map(|line| {
        let line = line.trim_start();
        let is_option = line.starts_with('-');
        let mut words = line.split_whitespace();
        words.find(|word| is_option && word.starts_with("--"))
    });
    for option in options {
        assert!(page.contains(option), "{option} isn't in the manual");
    }
}

/// A process that listens.
struct Listening {
    child: Child,
    directory: tempfile::TempDir,
}

impl Listening {
    /// Starts it at a unix socket, so that there is no port to be found out.
    fn start(words: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let child = Command::new(PROGRAM)
            .arg("--listen")
            .arg(directory.path().join("socket"))
            .args(words)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self { child, directory }
    }

    fn connect(&self) -> UnixStream {
        let begin = Instant::now();
        loop {
            match UnixStream::connect(self.directory.path().join("socket")) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(LONG)).unwrap();
                    return stream;
                }
                Err(error) => assert!(begin.elapsed() < LONG, "{error}"),
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it, and returns what it has said.
    fn end(mut self, signal: Signal) -> String {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        assert!(!self.directory.path().join("socket").exists());
        said
    }
}

fn exchange(stream: &mut UnixStream, bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    let mut said = vec![0; bytes.len()];
    stream.read_exact(&mut said).unwrap();
    assert_eq!(said, bytes);
}

#[test]
fn a_listener_connects_many_at_once() {
    let authority = Authority::new();
    let address = server(&authority.sign("web.example"), None, echo).to_string();
    let ca = text(&authority.path("ca.pem"));
    let listening = Listening::start(&["--to", &address, "--ca", &ca, "--name", "web.example"]);
    let mut streams: Vec<UnixStream> = (0..100).map(|_| listening.connect()).collect();
    for _ in 0..3 {
        for (index, stream) in streams.iter_mut().enumerate() {
            exchange(stream, format!("hello from {index}").as_bytes());
        }
    }
    for stream in &mut streams {
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
    assert_eq!(listening.end(Signal::SIGTERM), "");
}

#[test]
fn a_listener_says_why_a_client_was_not_connected() {
    let authority = Authority::new();
    let address = server(&authority.sign("web.example"), None, echo).to_string();
    let ca = text(&authority.path("ca.pem"));
    for (to, part) in [
        ("127.0.0.1:1", "no program listens there"),
        (&address, "and not for other.example"),
    ] {
        let listening = Listening::start(&["--to", to, "--ca", &ca, "--name", "other.example"]);
        let mut client = listening.connect();
        // The end, or a reset.
        let _ = client.write_all(b"hello");
        assert!(!client.read(&mut [0; 1]).is_ok_and(|count| count > 0));
        let said = listening.end(Signal::SIGINT);
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn a_listener_reads_its_files_again_at_hup() {
    let authority = Authority::new();
    let address = server(&authority.sign("web.example"), None, echo).to_string();
    let ca = authority.path("ca.pem");
    let good = std::fs::read(&ca).unwrap();
    let words = [
        "--to",
        &address,
        "--ca",
        ca.to_str().unwrap(),
        "--name",
        "web.example",
    ];
    let mut listening = Listening::start(&words);
    exchange(&mut listening.connect(), b"before");
    let mut stderr = std::io::BufReader::new(listening.child.stderr.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut stderr, &mut line).unwrap();
        line
    };
    let pid = Pid::from_raw(listening.child.id() as i32);
    std::fs::write(&ca, "damaged").unwrap();
    kill(pid, Signal::SIGHUP).unwrap();
    let said = line();
    assert!(
        said.contains("the earlier certificates stay: --ca"),
        "{said}"
    );
    exchange(&mut listening.connect(), b"still");
    std::fs::write(&ca, good).unwrap();
    kill(pid, Signal::SIGHUP).unwrap();
    assert!(line().contains("read the certificates again"));
    exchange(&mut listening.connect(), b"after");
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(listening.child.wait().unwrap().success());
}
