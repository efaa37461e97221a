//! `--tls` on the way to a handler: when the handshake comes, what a handler knows of it, and what becomes of clients
//! that it keeps waiting.

use crate::harness::{
    Control, Directory, Instance, Pki, Running, Skd, assert_idle, python, skd_tls, wait_for,
};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A client: it sends something before TLS, waits for a file if there is to be one, has its handshake, says
/// something, and prints all that it is told.
const CLIENT: &str = "
import os, socket, ssl, sys, time
port, ca, before, file, said = sys.argv[1:]
raw = socket.create_connection(('127.0.0.1', int(port)), 30)
raw.sendall(before.encode())
while file and not os.path.exists(file):
    time.sleep(0.01)
context = ssl.create_default_context(cafile=ca or None)
try:
    client = context.wrap_socket(raw, server_hostname='localhost')
    client.sendall(said.encode())
    told = b''
    while True:
        part = client.recv(65536)
        if not part:
            break
        told += part
    sys.stdout.buffer.write(told)
except ssl.SSLCertVerificationError:
    print('not verified')
except (ssl.SSLError, OSError) as error:
    print('failed', error)
";

/// The beginning of what a client sends first.
const HALF: &[u8] = &[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

/// A service with TLS on TCP, with a control socket in the directory.
fn secured(pki: &Pki, options: &[&str]) -> Skd {
    Skd::new(["-vv", "-t", "127.0.0.1:0", "--tls"])
        .arg(pki.option("server"))
        .arg("--tls-program")
        .arg(skd_tls())
        .arg("--control")
        .arg(pki.path("control"))
        .args(options)
        .cwd(pki.directory())
        .throttle(Duration::ZERO)
}

/// A client that sends this before TLS, and that after it, once there is the file.
fn client(skd: &Instance, pki: &Pki, [before, file, said]: [&str; 3]) -> Child {
    let mut client = Command::new(python());
    client.args(["-c", CLIENT]).arg(skd.port().to_string());
    client.arg(pki.path("ca.pem")).args([before, file, said]);
    client.stdout(Stdio::piped()).spawn().unwrap()
}

/// What it prints.
fn told(client: Child) -> String {
    let output = client.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn talk(skd: &Instance, pki: &Pki, said: &str) -> String {
    told(client(skd, pki, ["", "", said]))
}

/// A client that stops in the middle of its handshake.
fn silent(skd: &Instance) -> TcpStream {
    let mut client = skd.connect();
    client.write_all(HALF).unwrap();
    client
}

/// Waits until the peer has closed the connection.
#[track_caller]
fn expect_closed(mut client: TcpStream) {
    // An alert may come first; a reset is an end as well.
    let _ = client.read_to_end(&mut Vec::new());
}

fn control(pki: &Pki) -> Control {
    Control::at(pki.path("control"))
}

fn of_listener(service: &Value) -> &Value {
    &service["listeners"][0]
}

/// Asserts that nothing went wrong. The authority of these tests isn't in the file of the server's certificate, which
/// skd says.
#[track_caller]
fn expect_no_trouble(skd: &Instance) {
    let mut troubles = skd.troubles();
    troubles.retain(|line| !line.contains("the certificate of its issuer"));
    assert!(troubles.is_empty(), "{troubles:?}");
}

/// Waits until a service has counted this rejection so many times.
fn wait_for_rejections(pki: &Pki, service: &str, reason: &str, count: u64) {
    wait_for("rejections are counted", || {
        let status = control(pki).service(service);
        let found = &of_listener(&status)["rejected"][reason];
        (*found == count).then_some(())
    });
}

#[test]
fn a_handler_knows_its_clients_session_and_nothing_that_was_inherited() {
    let pki = Pki::with_server();
    let skd = secured(&pki, &[])
        .env("HTTPS", "perhaps")
        .env("SSL_CLIENT_VERIFY", "SUCCESS")
        .env("SSL_PEER_CERT_CN", "root")
        .env("SSL_CLIENT_S_DN", "CN=root")
        .env("SSL_CERT_DIR", "/kept")
        .run_with(
            "sh",
            [
                "-c",
                "read -r said; env | grep -E '^(SSL_|HTTPS|PROTO|REMOTE_ADDR)' | LC_ALL=C sort; echo \"$said\"",
            ],
        );
    let answer = talk(&skd, &pki, "hello\nnever read");
    let lines: Vec<_> = answer
        .lines()
        .filter(|line| !line.starts_with("SSL_CERT_FILE"))
        .collect();
    let expected = [
        "HTTPS=on",
        "PROTO=TCP",
        "REMOTE_ADDR=127.0.0.1",
        "SSL_CERT_DIR=/kept",
        "SSL_CIPHER=TLS_AES_256_GCM_SHA384",
        "SSL_CLIENT_VERIFY=NONE",
        "SSL_PROTOCOL=TLSv1.3",
        "SSL_SESSION_RESUMED=Initial",
        "SSL_TLS_SNI_SERVERNAME=localhost",
        "hello",
    ];
    assert_eq!(lines, expected, "{answer}");
    let line = skd.wait_for_log("TLS session of connection from [127.0.0.1]:");
    let words = ": TLSv1.3, TLS_AES_256_GCM_SHA384, name localhost";
    assert!(line.ends_with(words), "{line}");
    skd.wait_for_log("Closed connection from");
    let service = control(&pki).service("sh");
    assert_eq!(
        service["tls"]["established"],
        json!({"full": 1, "resumed": 0})
    );
    let handshakes = service["tls"]["handshakes"]["counts"].as_array().unwrap();
    let count: u64 = handshakes.iter().filter_map(Value::as_u64).sum();
    assert_eq!(count, 1);
    assert_eq!(of_listener(&service)["accepted"], 1);
    expect_no_trouble(&skd);
}

#[test]
fn prestarted_handlers_have_no_variables_of_a_session() {
    let pki = Pki::with_server();
    let show =
        "read -r said; env | grep -cE '^(SSL_(CIPHER|PROTOCOL|CLIENT)|HTTPS)'; echo \"$said\"";
    let skd = secured(&pki, &["--warm", "1"])
        .env("HTTPS", "perhaps")
        .run_with("sh", ["-c", show]);
    assert_eq!(talk(&skd, &pki, "hello\n"), "0\nhello\n");
}

#[test]
fn the_gate_has_plain_bytes_too() {
    let pki = Pki::with_server();
    let gate = pki.directory().join("gate");
    std::fs::write(
        &gate,
        "#!/bin/sh\nread -r word; echo \"$SSL_PROTOCOL\"; test \"$word\" = ok\n",
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&gate, mode).unwrap();
    let gate = gate.to_str().unwrap();
    let skd =
        secured(&pki, &["--gate", gate]).run_with("sh", ["-c", "read -r said; echo \"got $said\""]);
    assert_eq!(talk(&skd, &pki, "ok\nhello\n"), "TLSv1.3\ngot hello\n");
    assert_eq!(talk(&skd, &pki, "no\nhello\n"), "TLSv1.3\n");
    skd.wait_for_log(": its gate exited with status 1 after ");
}

#[test]
fn a_proxy_header_comes_before_the_handshake_and_the_first_byte_after_it() {
    let pki = Pki::with_server();
    let options = [
        "--proxy-protocol",
        "--proxy-from",
        "127.0.0.1",
        "--first-byte",
        "400ms",
    ];
    let skd =
        secured(&pki, &options).run_with("sh", ["-c", "read -r said; echo \"$REMOTE_ADDR $said\""]);
    let header = "PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\r\n";
    let answer = told(client(&skd, &pki, [header, "", "hello\n"]));
    assert_eq!(answer, "192.0.2.7 hello\n");
    skd.wait_for_log("TLS session of connection from [192.0.2.7]:50000: ");
    // All of the handshake is no first byte.
    assert_eq!(told(client(&skd, &pki, [header, "", ""])), "");
    skd.wait_for_log("Refused connection from [192.0.2.7]:50000: it sent nothing in time");
    wait_for_rejections(&pki, "sh", "first-byte", 1);
}

#[test]
fn limits_of_a_source_count_after_the_handshake_and_their_messages_arrive() {
    let pki = Pki::with_server();
    let options = [
        "--max-per-source=1",
        "--at-source-max=message:one at a time",
    ];
    let skd = secured(&pki, &options).run_with("sh", ["-c", "echo in; read -r said"]);
    let silent: Vec<_> = (0..5).map(|_| silent(&skd)).collect();
    let mut first = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect"])
        .arg(skd.address().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut word = [0; 3];
    let stdout = first.stdout.as_mut().unwrap();
    stdout.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"in\n");
    assert_eq!(talk(&skd, &pki, "hello\n"), "one at a time");
    first.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    drop(first.stdin.take());
    skd.wait_for_log("Closed connection");
    let _ = first.kill();
    first.wait().unwrap();
    drop(silent);
    wait_for_rejections(&pki, "sh", "tls-closed", 5);
    wait_for_rejections(&pki, "sh", "source-max", 1);
}

#[test]
fn rules_deny_before_the_handshake_unless_they_have_a_message() {
    let pki = Pki::with_server();
    std::fs::write(pki.path("rules"), "deny 127.0.0.1\n").unwrap();
    let rules = pki.name("rules");
    let skd = secured(&pki, &["--rules", &rules]).run("cat");
    expect_closed(skd.connect());
    wait_for_rejections(&pki, "cat", "rule", 1);
    std::fs::write(&rules, "deny 127.0.0.1 message=\"not you\\n\"\n").unwrap();
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("Read 1 rule again");
    assert_eq!(talk(&skd, &pki, ""), "not you\n");
    wait_for_rejections(&pki, "cat", "rule", 2);
    assert!(skd.logged("Accepted").is_empty());
}

#[test]
fn handshakes_that_fail_are_logged_and_counted_by_their_kind() {
    let pki = Pki::with_server();
    let skd = secured(&pki, &["--tls-timeout=500ms"]).run("cat");
    let mut plain = skd.connect();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    expect_closed(plain);
    skd.wait_for_log("its TLS handshake has failed: it has sent a request of HTTP");
    drop(silent(&skd));
    wait_for_rejections(&pki, "cat", "tls-closed", 1);
    let begun = Instant::now();
    expect_closed(silent(&skd));
    assert!(begun.elapsed() > Duration::from_millis(400));
    skd.wait_for_log(": its TLS handshake has not ended in time");
    let mut stranger = Command::new(python());
    stranger.args(["-c", CLIENT]).arg(skd.port().to_string());
    let output = stranger.args(["", "", "", "hello"]).output().unwrap();
    assert_eq!(output.stdout, b"not verified\n");
    wait_for_rejections(&pki, "cat", "tls-alert", 1);
    for reason in ["tls-plain", "tls-closed", "tls-timeout"] {
        wait_for_rejections(&pki, "cat", reason, 1);
    }
    let service = control(&pki).service("cat");
    assert_eq!(service["pending"], 0);
    assert_eq!(service["tls"]["established"]["full"], 0);
    assert!(skd.logged("Accepted").is_empty());
}

#[test]
fn a_handshake_that_takes_its_time_costs_skd_nothing() {
    let pki = Pki::with_server();
    let skd = secured(&pki, &[]).run("cat");
    let mut silent: Vec<_> = (0..10).map(|_| silent(&skd)).collect();
    skd.wait_until("all are pending", || {
        control(&pki).service("cat")["pending"] == 10
    });
    assert_idle(&[skd.pid()]);
    // What belongs to the handshake doesn't wake skd.
    for client in &mut silent {
        client.write_all(&[0; 32]).unwrap();
    }
    assert_idle(&[skd.pid()]);
}

/// Fewer than half of what the silent clients would take.
const FILES: u64 = 700;

#[test]
fn clients_that_stop_in_their_handshakes_keep_no_other_out() {
    let pki = Pki::with_server();
    let skd = secured(&pki, &[])
        .limit(Resource::RLIMIT_NOFILE, FILES, FILES)
        .run_with("sh", ["-c", "read -r said; echo \"got $said\""]);
    let mut all = Vec::new();
    for _ in 0..2_000 {
        all.push(silent(&skd));
    }
    assert_eq!(talk(&skd, &pki, "hello\n"), "got hello\n");
    let service = control(&pki).service("sh");
    assert_eq!(of_listener(&service)["accepted"], 1);
    assert!(service["pending"].as_u64().unwrap() > 50, "{service}");
}

#[test]
fn a_crowd_that_comes_at_once_is_served_in_full() {
    let pki = Pki::with_server();
    let skd = secured(&pki, &["--tls-timeout=60s"])
        .run_with("sh", ["-c", "read -r said; echo \"got $said\""]);
    // More than the request channel holds, while nothing takes them.
    let tls: Vec<_> = skd.children();
    assert_eq!(tls.len(), 1);
    let stop = |signal| nix::sys::signal::kill(nix::unistd::Pid::from_raw(tls[0]), signal).unwrap();
    stop(Signal::SIGSTOP);
    let crowd: Vec<_> = (0..600).map(|_| silent(&skd)).collect();
    let pending = || control(&pki).service("sh")["pending"].as_u64().unwrap();
    skd.wait_until("the channel is full", || {
        let count = pending();
        std::thread::sleep(Duration::from_millis(300));
        count > 50 && pending() == count
    });
    // The others stay in the backlog: accepted, they would fill the pending queue.
    assert!(pending() < 590, "{}", pending());
    // The first of each thread wait in line, and are tried now and then.
    let before = cpu_time(skd.pid());
    std::thread::sleep(Duration::from_secs(1));
    let spent = cpu_time(skd.pid()) - before;
    assert!(spent < 15, "{spent} hundredths of a second");
    stop(Signal::SIGCONT);
    assert_eq!(talk(&skd, &pki, "hello\n"), "got hello\n");
    drop(crowd);
    wait_for_rejections(&pki, "sh", "tls-closed", 600);
    expect_no_trouble(&skd);
}

/// The CPU time of a process, in ticks.
fn cpu_time(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<_> = fields.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn an_upgrade_in_the_middle_of_a_handshake_hands_nothing_over_twice() {
    let pki = Pki::with_server();
    let (begin, options) = (pki.name("begin"), ["--first-byte", "30s"]);
    let skd: Running = secured(&pki, &options).run_with(
        "sh",
        ["-c", "read -r said; echo \"got $said $SSL_PROTOCOL\""],
    );
    let clients: Vec<_> = (0..3)
        .map(|_| client(&skd, &pki, ["", &begin, "hello\n"]))
        .collect();
    skd.wait_until("all are pending", || {
        control(&pki).service("sh")["pending"] == 3
    });
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from");
    std::fs::write(&begin, "").unwrap();
    for client in clients {
        assert_eq!(told(client), "got hello TLSv1.3\n");
    }
    assert_eq!(skd.wait_for_logs("TLS session of", 3).len(), 3);
    // Sessions that are established are saved as well.
    let directory = Directory::new();
    let flag = directory.name("flag");
    let late = format!(
        "{}\n",
        CLIENT.replace(
            "    client.sendall(said.encode())",
            "    while not os.path.exists(said): time.sleep(0.01)\n    client.sendall(b'late\\n')"
        )
    );
    let mut late_client = Command::new(python());
    late_client.args(["-c", &late]).arg(skd.port().to_string());
    late_client.arg(pki.path("ca.pem")).args(["", "", &flag]);
    let late_client = late_client.stdout(Stdio::piped()).spawn().unwrap();
    skd.wait_for_logs("TLS session of", 4);
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_logs("Upgraded from", 2);
    std::fs::write(&flag, "").unwrap();
    assert_eq!(told(late_client), "got late TLSv1.3\n");
    assert_eq!(skd.logged("TLS session of").len(), 4);
    expect_no_trouble(&skd);
}
