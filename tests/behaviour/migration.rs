//! The examples of docs/migration.md: what is printed for them, and that clients are answered as before.

use crate::forward;
use crate::harness::{
    DEADLINE, Directory, Namespace, Program, Running, Skd, poll_for, requires_command,
    requires_root, run_to_end, skd_tls, talk, udp_client,
};
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};

/// Returns the block of the page that begins with these words after its backquotes.
#[track_caller]
fn block(words: &str) -> String {
    let page = fs::read_to_string("docs/migration.md").unwrap();
    let (_, rest) = page.split_once(&format!("\n```{words}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// Asserts what `--print-config` prints for a file, and that clients of both are answered alike.
#[track_caller]
fn prints_and_serves(option: &str, name: &str, kind: &str, ask: impl Fn() -> Vec<String> + Sync) {
    requires_root();
    let directory = Directory::public();
    let original = block(&format!("conf {kind}"));
    directory.write(name, original);
    let print = Skd::new([option, name, "--print-config"]);
    let printed = print.cwd(directory.path()).end();
    printed.expect_code(0);
    let written = block(&format!("toml {kind}"));
    assert_eq!(printed.stdout, written);
    directory.write("skd.toml", written);
    let answers: Vec<_> = [(option, name), ("--config", "skd.toml")]
        .into_iter()
        .map(|(option, file)| {
            let namespace = Namespace::new();
            let skd = Skd::new([option, file]).cwd(directory.path());
            let skd = skd.inside(&namespace).start_bare();
            served(&namespace, &skd, &ask)
        })
        .collect();
    assert_eq!(answers[0], answers[1]);
    assert!(
        answers[0].iter().any(|answer| !answer.is_empty()),
        "{answers:?}"
    );
}

/// Waits for the port 7001, and asks.
#[track_caller]
fn served(
    namespace: &Namespace,
    skd: &Running,
    ask: &(impl Fn() -> Vec<String> + Sync),
) -> Vec<String> {
    namespace.enter(|| {
        let ready = poll_for(DEADLINE, || {
            assert_eq!(skd.try_wait(std::time::Duration::ZERO), None);
            TcpStream::connect(address(7001)).ok()
        });
        assert!(ready.is_some(), "skd doesn't serve");
        ask()
    })
}

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn answer(bytes: &str) -> String {
    let stream = poll_for(DEADLINE, || TcpStream::connect(address(7001)).ok());
    let stream = stream.expect("a server");
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    String::from_utf8(talk(stream, bytes.as_bytes())).unwrap()
}

fn answer_udp(bytes: &str) -> String {
    let found = crate::harness::ask(&udp_client(address(7002)), bytes.as_bytes());
    String::from_utf8(found).unwrap()
}

#[test]
fn from_xinetd() {
    prints_and_serves("--xinetd", "xinetd.conf", "xinetd", || {
        vec![answer(""), answer_udp("a datagram")]
    });
}

#[test]
fn from_inetd() {
    requires_command("perl");
    prints_and_serves("--inetd-conf", "inetd.conf", "inetd", || {
        vec![answer(""), answer_udp("a datagram")]
    });
}

#[test]
fn from_systemd() {
    requires_root();
    let directory = Directory::new();
    directory.write("skd.toml", block("toml systemd"));
    let namespace = Namespace::new();
    let skd = Skd::new(["--config", "skd.toml"]).cwd(directory.path());
    let skd = skd.inside(&namespace).start_bare();
    let found = served(&namespace, &skd, &|| vec![answer("")]);
    assert_eq!(found, [fs::read_to_string("/etc/hostname").unwrap()]);
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Asserts that the commands of the page give the same answer.
#[track_caller]
fn answers_alike(kind: &str, request: &str, expected: &str) {
    requires_root();
    requires_command(kind);
    let directory = Directory::public();
    std::os::unix::fs::symlink(Program::Ours.path(), directory.join("skd")).unwrap();
    for words in [format!("sh {kind}"), format!("sh skd {kind}")] {
        let namespace = Namespace::new();
        let path = std::env::var("PATH").unwrap();
        let mut server = namespace.command("sh");
        server.args(["-c", &format!("exec {}", block(&words))]);
        server.env("PATH", format!("{}:{path}", directory.path().display()));
        server
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Server(server.spawn().unwrap());
        assert_eq!(namespace.enter(|| answer(request)), expected, "{words}");
        drop(server);
    }
}

#[test]
fn from_tcpserver() {
    answers_alike("tcpserver", "a line\n", "TCP 127.0.0.1\n65534\na line\n");
}

#[test]
fn from_socat() {
    answers_alike("socat", "a line\n", "A LINE\n");
}

/// Runs a shell command in the namespace, with the programs under test in its path.
fn start(namespace: &Namespace, directory: &Directory, command: &str) -> Server {
    let path = std::env::var("PATH").unwrap();
    let mut server = namespace.command("sh");
    let directory = directory.path().display();
    server.args(["-c", &format!("cd {directory} && exec {command}")]);
    server.env("PATH", format!("{directory}:{path}"));
    server
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Server(server.spawn().unwrap())
}

/// A directory with the programs under test, a certificate for localhost, and a configuration of stunnel.
fn for_stunnel(configuration: &str) -> Directory {
    requires_root();
    requires_command("stunnel4");
    requires_command("openssl");
    let directory = Directory::public();
    for (name, program) in [
        ("skd", &*Program::Ours.path()),
        ("skd-forward", forward::program()),
        ("skd-tls", skd_tls()),
    ] {
        std::os::unix::fs::symlink(program, directory.join(name)).unwrap();
    }
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
        ])
        .args(["-nodes", "-days", "100", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    directory.write("stunnel.conf", block(&format!("ini {configuration}")));
    directory
}

#[test]
fn from_stunnel() {
    let directory = for_stunnel("stunnel");
    let ours = block("sh skd stunnel").replace("\\\n", "");
    for command in ["stunnel4 stunnel.conf", &ours] {
        let namespace = Namespace::new();
        let _echo = start(&namespace, &directory, "skd -t 127.0.0.1:7002 cat");
        let _server = start(&namespace, &directory, command);
        let said = poll_for(DEADLINE, || {
            let mut client = namespace.command("sh");
            let there = directory.path().display();
            let line = "sleep 0.2; echo a line; sleep 1";
            let ask = "openssl s_client -connect 127.0.0.1:7001 -CAfile cert.pem -quiet -no_ign_eof \
                       -verify_return_error -servername localhost";
            let output = client
                .args(["-c", &format!("cd {there} && ({line}) | {ask}")])
                .output();
            let said = String::from_utf8(output.unwrap().stdout).unwrap();
            (!said.is_empty()).then_some(said)
        });
        assert_eq!(said.as_deref(), Some("a line\n"), "{command}");
    }
}

#[test]
fn from_stunnel_as_a_client() {
    let directory = for_stunnel("stunnel-client");
    let ours = block("sh skd stunnel-client");
    for command in ["stunnel4 stunnel.conf", &ours] {
        let namespace = Namespace::new();
        let echo = "skd -t 127.0.0.1:7003 --tls cert.pem:key.pem cat";
        let _echo = start(&namespace, &directory, echo);
        let _client = start(&namespace, &directory, command);
        let said = namespace.enter(|| {
            poll_for(DEADLINE, || {
                let stream = TcpStream::connect(address(7001)).ok()?;
                stream.set_read_timeout(Some(DEADLINE)).unwrap();
                // Not before its server is there.
                let said = std::panic::catch_unwind(|| talk(stream, b"a line\n")).ok()?;
                (!said.is_empty()).then_some(said)
            })
        });
        assert_eq!(said.as_deref(), Some(&b"a line\n"[..]), "{command}");
    }
}

#[test]
fn the_page_names_only_options_that_exist() {
    let page = fs::read_to_string("docs/migration.md").unwrap();
    let mut help = run_to_end(["--help=all"]).stdout;
    for other in ["man/skd-forward.1", "man/skd-tls.1"] {
        help += &fs::read_to_string(other).unwrap().replace("\\-", "-");
    }
    let words = page.split(|it: char| !(it.is_ascii_alphanumeric() || "-".contains(it)));
    let options =
        words.filter(|word| word.starts_with("--") && word.ends_with(char::is_alphabetic));
    let unknown: Vec<_> = options.filter(|option| !help.contains(option)).collect();
    assert_eq!(unknown, [""; 0]);
}
