//! Clients of TLS as people have them, against skd with skd-tls.

use crate::harness::{
    Directory, Leaf, Pki, Running, Skd, python, requires_commands, skd_tls, talk, wait_until,
};
use nix::sys::signal::Signal;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A command line with TLS, with a certificate of this authority.
pub fn secured(pki: &Pki, certificate: &str, options: &[&str]) -> Skd {
    skd_tls();
    Skd::new(["-vt", "127.0.0.1:0", "--tls", &pki.option(certificate)]).args(options)
}

/// A handler that answers a request of HTTP with what it knows of the session.
const WEB: &str = "#!/bin/sh
while read -r line && [ \"$line\" != \"$(printf '\\r')\" ]; do :; done
body=$(env | grep -E '^(SSL_|HTTPS=|TCPREMOTEIP=)' | sort)
printf 'HTTP/1.1 200 OK\\r\\nContent-Length: %s\\r\\nConnection: close\\r\\n\\r\\n%s' ${#body} \"$body\"
";

/// What a client of a machine's own has written, and its exit code.
struct Said {
    code: Option<i32>,
    output: String,
    errors: String,
}

impl Said {
    #[track_caller]
    fn well(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.output, self.errors);
        self.output
    }
}

/// Runs a client in the directory of the authority, with this input.
#[track_caller]
fn run(pki: &Pki, words: &[impl AsRef<OsStr>], input: &str) -> Said {
    let mut client = Command::new("timeout");
    client.arg("60").args(words).current_dir(pki.directory());
    client
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut client = client.spawn().expect("timeout(1)");
    // A client that is refused doesn't read it.
    let _ = client.stdin.take().unwrap().write_all(input.as_bytes());
    let output = client.wait_with_output().unwrap();
    Said {
        code: output.status.code(),
        output: String::from_utf8_lossy(&output.stdout).into_owned(),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `openssl s_client` with these words more.
#[track_caller]
fn s_client(pki: &Pki, skd: &Running, words: &[&str], input: &str) -> Said {
    let to = format!("127.0.0.1:{}", skd.port());
    let all = [
        "openssl",
        "s_client",
        "-connect",
        &to,
        "-CAfile",
        "ca.pem",
        "-verify_return_error",
    ];
    run(pki, &[&all[..], words].concat(), input)
}

/// Runs lines of Python that have a context for TLS `c` and a connection `s`.
#[track_caller]
fn in_python(pki: &Pki, skd: &Running, before: &str, then: &str) -> Said {
    let lines = format!(
        "import socket, ssl, sys, time\n\
         c = ssl.create_default_context(cafile='ca.pem')\n{before}\n\
         t = socket.create_connection(('127.0.0.1', {}))\n\
         s = c.wrap_socket(t, server_hostname='localhost', suppress_ragged_eofs=False)\n{then}\n",
        skd.port(),
    );
    run(pki, &[&python(), "-c", &lines], "")
}

fn web() -> (Pki, Directory, PathBuf) {
    let directory = Directory::new();
    let handler = directory.script("web", WEB);
    (Pki::with_server(), directory, handler)
}

#[test]
fn clients_of_all_kinds_are_served() {
    requires_commands(&["curl", "wget", "gnutls-cli", "python3"]);
    let (pki, _directory, handler) = web();
    let skd = secured(&pki, "server", &[]).run(&handler);
    let url = format!("https://localhost:{}/", skd.port());
    let port = skd.port().to_string();
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (version, openssl, curl, gnutls) in [
        ("TLSv1.2", "-tls1_2", "1.2", "NORMAL:-VERS-ALL:+VERS-TLS1.2"),
        ("TLSv1.3", "-tls1_3", "1.3", "NORMAL:-VERS-ALL:+VERS-TLS1.3"),
    ] {
        let expected = format!("SSL_PROTOCOL={version}");
        let min = format!("--tlsv{curl}");
        let priority = format!("--priority={gnutls}");
        let python = format!(
            "c.minimum_version = c.maximum_version = ssl.TLSVersion.{}",
            version.replace('.', "_"),
        );
        let answers = [
            run(
                &pki,
                &[
                    "curl",
                    "-sS",
                    "-4",
                    "--cacert",
                    "ca.pem",
                    &min,
                    "--tls-max",
                    curl,
                    &url,
                ],
                "",
            ),
            run(
                &pki,
                &[
                    "gnutls-cli",
                    "--x509cafile=ca.pem",
                    &priority,
                    "-p",
                    &port,
                    "--logfile=/dev/null",
                    "localhost",
                ],
                request,
            ),
            s_client(
                &pki,
                &skd,
                &["-quiet", "-servername", "localhost", openssl],
                request,
            ),
            in_python(
                &pki,
                &skd,
                &python,
                &format!(
                    "s.sendall({request:?}.encode())\n\
                data = b''\nwhile part := s.recv(9999): data += part\nprint(data.decode())"
                ),
            ),
        ];
        for answer in answers {
            let answer = answer.well();
            for line in [
                &expected[..],
                "HTTPS=on",
                "SSL_TLS_SNI_SERVERNAME=localhost",
                "TCPREMOTEIP=127.0.0.1",
                "SSL_CLIENT_VERIFY=NONE",
            ] {
                assert!(answer.lines().any(|it| it == line), "{line}: {answer}");
            }
        }
    }
    let wget = ["wget", "-4", "-qO-", "--ca-certificate=ca.pem", &url];
    let answer = run(&pki, &wget, "").well();
    assert!(answer.contains("HTTPS=on"), "{answer}");
    assert_eq!(skd.troubles(), [""; 0]);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn certificates_of_clients_are_verified() {
    let (pki, _directory, handler) = web();
    let (foreign, impostor) = (Pki::called("Foreign"), Pki::new());
    pki.sign(
        "good",
        Leaf {
            subject: "/CN=good/O=Club",
            ..Leaf::default()
        },
    );
    pki.sign(
        "old",
        Leaf {
            is_expired: true,
            ..Leaf::default()
        },
    );
    pki.sign("revoked", Leaf::default());
    pki.revoke(&["revoked"]);
    foreign.sign("foreign", Leaf::default());
    impostor.sign("foreign", Leaf::default());
    let ca = pki.name("ca.pem");
    let crl = pki.name("crl.pem");
    let request = "GET / HTTP/1.1\r\n\r\n";
    for (mode, none_is_served) in [("required", false), ("optional", true)] {
        let options = [
            "--tls-client",
            mode,
            "--tls-client-ca",
            &ca,
            "--tls-crl",
            &crl,
        ];
        let skd = secured(&pki, "server", &options)
            .throttle(Duration::ZERO)
            .run(&handler);
        for version in ["-tls1_2", "-tls1_3"] {
            let ask = |from: &Pki, name: &str| {
                let (cert, key) = (
                    from.name(&format!("{name}.pem")),
                    from.name(&format!("{name}.key")),
                );
                s_client(
                    &pki,
                    &skd,
                    &["-quiet", version, "-cert", &cert, "-key", &key],
                    request,
                )
            };
            let good = ask(&pki, "good").well();
            for line in ["SSL_CLIENT_VERIFY=SUCCESS", "SSL_PEER_CERT_CN=good"] {
                assert!(good.lines().any(|it| it == line), "{line}: {good}");
            }
            assert!(good.contains("SSL_PEER_CERT_HASH=SHA256:"), "{good}");
            for (from, name, alert, why) in [
                (&pki, "old", "expired", "has ended on"),
                (&pki, "revoked", "revoked", "revoked"),
                (&foreign, "foreign", "unknown ca", "from an authority"),
                // Of an authority with the same name.
                (&impostor, "foreign", "decrypt error", "its certificate"),
            ] {
                let count = skd.logged(why).len();
                let refused = ask(from, name);
                assert!(!refused.output.contains("200 OK"), "{}", refused.output);
                assert!(
                    refused.errors.contains(alert),
                    "{alert}: {}",
                    refused.errors
                );
                skd.wait_for_logs(why, count + 1);
            }
            let none = s_client(&pki, &skd, &["-quiet", version], request);
            assert_eq!(
                none.output.contains("200 OK"),
                none_is_served,
                "{}{}",
                none.output,
                none.errors
            );
            if none_is_served {
                assert!(
                    none.output.contains("SSL_CLIENT_VERIFY=NONE"),
                    "{}",
                    none.output
                );
            }
        }
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn sessions_are_resumed() {
    let pki = Pki::with_server();
    let skd = secured(&pki, "server", &[]).run_with("sh", ["-c", "echo \"$SSL_PROTOCOL\""]);
    for version in ["-tls1_2", "-tls1_3"] {
        let first = s_client(
            &pki,
            &skd,
            &[version, "-ign_eof", "-sess_out", "session"],
            "",
        )
        .well();
        assert!(first.contains("New, TLSv1."), "{first}");
        let second = s_client(
            &pki,
            &skd,
            &[version, "-ign_eof", "-sess_in", "session"],
            "",
        )
        .well();
        assert!(second.contains("Reused, TLSv1."), "{second}");
    }
    assert_eq!(skd.troubles(), [""; 0]);
}

#[test]
fn the_name_chooses_the_certificate() {
    let pki = Pki::new();
    for (name, names) in [
        ("first", "DNS:first.test"),
        ("exact", "DNS:a.wild.test"),
        ("wild", "DNS:*.wild.test"),
    ] {
        pki.sign(
            name,
            Leaf {
                names,
                ..Leaf::default()
            },
        );
    }
    let more = ["--tls", &pki.option("wild"), "--tls", &pki.option("exact")];
    let asked = |skd: &Running, name: &str| {
        let name: &[&str] = if name.is_empty() {
            &["-noservername"]
        } else {
            &["-servername", name]
        };
        let said = s_client(&pki, skd, &[&["-ign_eof"], name].concat(), "");
        let line = said
            .output
            .lines()
            .find_map(|line| line.strip_prefix("subject=CN = "));
        line.map(str::to_owned).ok_or(said.errors)
    };
    let skd = secured(&pki, "first", &more).run("true");
    for (name, certificate) in [
        ("a.wild.test", "exact"),
        ("A.Wild.TEST", "exact"),
        ("b.wild.test", "wild"),
        ("first.test", "first"),
        ("c.b.wild.test", "first"),
        ("wild.test", "first"),
        ("", "first"),
    ] {
        assert_eq!(asked(&skd, name).as_deref(), Ok(certificate), "{name}");
    }
    let strict = secured(&pki, "first", &[&more[..], &["--tls-strict-sni"]].concat())
        .throttle(Duration::ZERO)
        .run("true");
    assert_eq!(asked(&strict, "b.wild.test").as_deref(), Ok("wild"));
    for name in ["other.test", ""] {
        let count = strict.logged("Refused connection").len();
        let refused = asked(&strict, name).unwrap_err();
        assert!(refused.contains("alert"), "{refused}");
        strict.wait_for_logs("Refused connection", count + 1);
    }
}

#[test]
fn one_protocol_of_several_is_chosen() {
    let pki = Pki::with_server();
    let skd = secured(&pki, "server", &["--tls-alpn", "h2,http/1.1"]).run("true");
    for (offer, chosen) in [
        ("http/1.1,h2", "ALPN protocol: h2"),
        ("http/1.1", "ALPN protocol: http/1.1"),
    ] {
        let said = s_client(&pki, &skd, &["-ign_eof", "-alpn", offer], "").well();
        assert!(said.contains(chosen), "{said}");
    }
    let said = s_client(&pki, &skd, &["-alpn", "other"], "");
    assert!(
        said.errors.contains("no application protocol"),
        "{}",
        said.errors
    );
}

#[test]
fn what_is_too_old_is_refused() {
    let pki = Pki::with_server();
    let skd = secured(&pki, "server", &["--tls-min", "1.3"]).run("true");
    s_client(&pki, &skd, &["-ign_eof", "-tls1_3"], "").well();
    assert_ne!(
        s_client(&pki, &skd, &["-ign_eof", "-tls1_2"], "").code,
        Some(0)
    );
    skd.wait_for_log("Refused connection");
    let skd = secured(&pki, "server", &[]).run("true");
    let old = ["-ign_eof", "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"];
    assert_ne!(s_client(&pki, &skd, &old, "").code, Some(0));
    skd.wait_for_log("Refused connection");
}

/// Sends much through `cat`, both ways at once, with pauses of the reader.
const MUCH: &str = "
import hashlib, threading
block = bytes(range(256)) * 256
count = 160
sent, got = hashlib.sha256(), hashlib.sha256()
def send():
    for i in range(count):
        part = block[i:] + block[:i]
        sent.update(part)
        s.sendall(part)
import select
s.setblocking(False)
out, left, total = b'', count, 0
i = 0
while total < count * len(block):
    if not out and left:
        part = block[i:] + block[:i]
        i += 1; left -= 1
        sent.update(part)
        out = part
    moved = False
    if out:
        try:
            out = out[s.send(out):]; moved = True
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError): pass
    try:
        part = s.recv(16384)
        if not part: break
        got.update(part); total += len(part); moved = True
        if total % 97 == 0: time.sleep(0.01)
    except (ssl.SSLWantReadError, ssl.SSLWantWriteError): pass
    if not moved: select.select([s], [s] if out else [], [], 1)
s.setblocking(True)
assert total == count * len(block), total
assert got.digest() == sent.digest()
s.unwrap()
print('all')
";

#[test]
fn what_goes_through_is_what_was_sent() {
    let pki = Pki::with_server();
    let ways: [&[&str]; 5] = [
        &[],
        &["--warm", "2"],
        &["--fork-server"],
        &["--sandbox"],
        &["--gate", "true"],
    ];
    for options in ways {
        let skd = secured(&pki, "server", options).run("cat");
        for version in ["1_2", "1_3"] {
            let before =
                format!("c.minimum_version = c.maximum_version = ssl.TLSVersion.TLSv{version}");
            let said = in_python(&pki, &skd, &before, MUCH);
            assert_eq!(said.well(), "all\n", "{options:?}");
        }
        let mut troubles = skd.troubles();
        troubles.retain(|line| !line.starts_with("skd: note: "));
        assert_eq!(troubles, [""; 0], "{options:?}");
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn the_end_is_told_both_ways() {
    let pki = Pki::with_server();
    // The handler's end is told by close_notify: without it Python would raise an error.
    let skd = secured(&pki, "server", &[]).run_with("sh", ["-c", "echo hello"]);
    let said = in_python(&pki, &skd, "", "print(s.recv(99)); print(s.recv(99))");
    assert_eq!(said.well(), "b'hello\\n'\nb''\n");
    // The client's is, too: what a handler reads then ends, and its answer still arrives.
    let skd = secured(&pki, "server", &[]).run_with("sh", ["-c", "wc -c"]);
    let half = "s.sendall(b'12345')\n\
        import threading\n\
        answer = []\n\
        def read():\n    answer.append(s.recv(99))\n\
        raw = s.unwrap()\n\
        print('unwrapped')";
    let half = in_python(&pki, &skd, "", half);
    assert!(
        half.output.contains("unwrapped")
            || half.errors.contains("APPLICATION_DATA_AFTER_CLOSE_NOTIFY"),
        "{}",
        half.errors
    );
    skd.wait_for_log("exited with status 0");
    assert_eq!(skd.logged("without close_notify"), [""; 0]);
    // A connection that is cut off isn't an end.
    let cut = in_python(
        &pki,
        &skd,
        "",
        "s.sendall(b'12345'); t = s.detach(); import os; os.close(t)",
    );
    cut.well();
    skd.wait_for_log("close_notify");
}

#[test]
fn new_certificates_lose_no_client() {
    change_certificates(300, 3);
}

#[test]
#[ignore = "takes minutes"]
fn five_thousand_handshakes_survive_new_certificates() {
    change_certificates(5000, 20);
}

/// Has so many clients come while the certificate is replaced so many times.
fn change_certificates(clients: usize, changes: usize) {
    let pki = Pki::with_server();
    let skd = secured(&pki, "server", &[]).run_with("sh", ["-c", "read -r word; echo \"$word\""]);
    let lines = format!(
        "import socket, ssl, threading\n\
         seen, wrong = set(), []\n\
         def work(first):\n\
         \x20   for i in range(first, {clients}, 4):\n\
         \x20       c = ssl.create_default_context(cafile='ca.pem')\n\
         \x20       try:\n\
         \x20           t = socket.create_connection(('127.0.0.1', {}), 30)\n\
         \x20           s = c.wrap_socket(t, server_hostname='localhost', suppress_ragged_eofs=False)\n\
         \x20           seen.add(s.getpeercert()['serialNumber'])\n\
         \x20           s.sendall(b'%d\\n' % i)\n\
         \x20           got = b''\n\
         \x20           while part := s.recv(99): got += part\n\
         \x20           if got != b'%d\\n' % i: wrong.append(got)\n\
         \x20       except Exception as e: wrong.append(e)\n\
         threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]\n\
         [t.start() for t in threads]; [t.join() for t in threads]\n\
         print(len(seen), wrong)\n",
        skd.port(),
    );
    let mut client = Command::new(python());
    client
        .args(["-c", &lines])
        .current_dir(pki.directory())
        .stdout(Stdio::piped());
    let client = client.spawn().unwrap();
    for number in 0..changes {
        let next = format!("next{number}");
        pki.sign(
            &next,
            Leaf {
                names: "DNS:localhost",
                ..Leaf::default()
            },
        );
        for end in ["key", "pem"] {
            let from = pki.path(&format!("{next}.{end}"));
            fs::rename(from, pki.path(&format!("server.{end}"))).unwrap();
        }
        let before = skd.logged("of TLS again").len();
        skd.signal(Signal::SIGHUP);
        wait_until("they are read", || {
            skd.logged("of TLS again").len() > before
        });
    }
    let output = client.wait_with_output().unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    let (seen, wrong) = output.trim().split_once(' ').unwrap();
    assert_eq!(wrong, "[]");
    assert!(seen.parse::<usize>().unwrap() > 1, "{output}");
    assert_eq!(skd.troubles(), [""; 0]);
}

#[test]
fn clients_that_stop_in_their_handshake_keep_no_other_out() {
    let pki = Pki::with_server();
    let skd = secured(&pki, "server", &["--tls-timeout", "60s"]).run_with("echo", ["served"]);
    let hello = [22, 3, 1, 2, 0, 1, 0];
    let mut stuck: Vec<TcpStream> = Vec::new();
    for number in 0..2000 {
        let mut client = skd.connect();
        // Nothing, and the beginning of a ClientHello, in turn.
        if number % 2 == 0 {
            let _ = client.write_all(&hello);
        }
        stuck.push(client);
    }
    let said = in_python(&pki, &skd, "", "print(s.recv(99))");
    assert_eq!(said.well(), "b'served\\n'\n");
    drop(stuck);
    let said = in_python(&pki, &skd, "", "print(s.recv(99))");
    assert_eq!(said.well(), "b'served\\n'\n");
}

#[test]
fn what_is_no_tls_is_told_and_harms_nobody() {
    let pki = Pki::with_server();
    let skd = secured(&pki, "server", &[])
        .throttle(Duration::ZERO)
        .run_with("echo", ["served"]);
    let request = b"GET / HTTP/1.0\r\n\r\n";
    let _ = talk(skd.connect(), request);
    skd.wait_for_log("HTTP");
    for garbage in [
        &[0; 5][..],
        &[0xff; 4096],
        &[22, 3, 1, 0xff, 0xff],
        &[21, 3, 3, 0, 2, 2, 40],
        &[22, 3, 3, 0, 0],
        b"SSH-2.0-x\r\n",
    ] {
        let count = skd.logged("Refused connection").len();
        let mut client = skd.connect();
        client.write_all(garbage).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        skd.wait_for_logs("Refused connection", count + 1);
    }
    let said = in_python(&pki, &skd, "", "print(s.recv(99))");
    assert_eq!(said.well(), "b'served\\n'\n");
    assert_eq!(skd.troubles(), [""; 0]);
}
