//! Files of inetd(8) and xinetd(8), and what clients of their services are answered: by skd, and by the real daemons.

use crate::harness::{
    DEADLINE, Directory, Namespace, Skd, connect, connect_unix, datagram_echo, poll_for, receive,
    requires_root, talk, try_talk,
};
use crate::{inetd_conf, xinetd_conf};
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

/// A file, in which DIR is a directory with some programs, and requests with their answers.
pub struct Case {
    pub what: &'static str,
    pub file: &'static str,
    pub asks: &'static [Ask],
}

/// A request: an address, what is sent, and the answer.
///
/// The address is like `tcp 127.0.0.1:7000`, `udp …` or `unix PATH`; ` from ADDRESS` and the client's own may come
/// after it. With `hold` before it, the connection stays open for the next ones. An answer that begins with `shape: `
/// has 0 for any digit, and `a` for any letter.
pub type Ask = (&'static str, &'static str, &'static str);

/// A file of which skd makes something else on purpose: docs/migration.md lists all of them. The case has its answers,
/// and these are those of the real daemon.
pub type Difference = (Case, &'static [&'static str]);

/// The daemon that a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Inetd,
    Xinetd,
}

/// The port on which a service of each file shows that the daemon serves.
const READY: &str = "127.0.0.1:6999";

/// Asserts that skd gives the answers.
#[track_caller]
pub fn skd_answers<'a>(kind: Kind, cases: impl IntoIterator<Item = &'a Case>) {
    requires_root();
    for case in cases {
        let ground = Ground::new(kind, case);
        let option = match kind {
            Kind::Inetd => "--inetd-conf",
            Kind::Xinetd => "--xinetd",
        };
        let skd = Skd::new([option, &ground.file]).env("PASSED", "passed");
        let skd = skd.inside(&ground.namespace).start_bare();
        let ended = || skd.try_wait(Duration::ZERO).is_some();
        ground.check("skd", case, &answers(case), ended);
    }
}

/// Asserts that the real daemon gives the same answers, and others where skd differs on purpose.
#[track_caller]
fn real_answers(kind: Kind, binary: &str, cases: &[Case], differences: &[Difference]) {
    requires_root();
    let same = cases.iter().map(|case| (case, answers(case)));
    let different = differences.iter().map(|(case, real)| (case, real.to_vec()));
    for (case, answers) in same.chain(different) {
        let ground = Ground::new(kind, case);
        let mut command = ground.namespace.command(binary);
        match kind {
            Kind::Inetd => command.args(["-i", "-R", "10000", &ground.file]),
            Kind::Xinetd => {
                let log = ground.directory.name("xinetd.log");
                let pidfile = ground.directory.name("xinetd.pid");
                let log = ["-dontfork", "-filelog", &log, "-pidfile", &pidfile];
                command.args(log).args(["-f", &ground.file])
            }
        };
        command.env("PASSED", "passed");
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut daemon = Daemon(
            command
                .spawn()
                .unwrap_or_else(|why| panic!("{binary}: {why}")),
        );
        let ended = || daemon.0.try_wait().unwrap().is_some();
        ground.check(binary, case, &answers, ended);
    }
}

fn answers(case: &Case) -> Vec<&'static str> {
    case.asks.iter().map(|(_, _, answer)| *answer).collect()
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a daemon runs: a network of its own, and a directory for its file.
struct Ground {
    namespace: Namespace,
    directory: Directory,
    file: String,
}

impl Ground {
    fn new(kind: Kind, case: &Case) -> Self {
        let directory = Directory::public();
        directory.script(
            "show",
            "#!/bin/sh\nid -u; id -g; id -G; umask; nice; ulimit -t; ulimit -v; echo \"$A-$B\"\n\
             for it in 0 1 2; do test -S /dev/fd/$it && echo socket; done\n",
        );
        directory.script(
            "variables",
            "#!/bin/sh\necho ${PASSED-none} ${A-none} ${HOME-none}\n",
        );
        let (_, [_, echo_one]) = datagram_echo();
        directory.script("datagram", &format!("#!/usr/bin/perl\n{echo_one}"));
        directory.script(
            "accept",
            "#!/usr/bin/perl\nuse Socket;\nopen my $listener, '+<&=', 0;\naccept my $client, $listener;\n\
             syswrite $client, 'accepted';\n",
        );
        directory.write("busy", "busy\n");
        directory.write("welcome", "welcome\n");
        std::fs::create_dir(directory.join("more")).unwrap();
        let here = |text: &str| text.replace("DIR", directory.path().to_str().unwrap());
        let (ready, name) = match kind {
            Kind::Inetd => (
                format!("{READY} stream tcp nowait root /bin/cat cat\n"),
                "inetd.conf",
            ),
            Kind::Xinetd => (
                "service ready\n{\n type = UNLISTED\n socket_type = stream\n wait = no\n user = root\n bind = \
                 127.0.0.1\n port = 6999\n server = /bin/cat\n no_access =\n only_from = 127.0.0.1\n \
                 id = ready\n}\n"
                    .to_owned(),
                "xinetd.conf",
            ),
        };
        // What is after a line FILE NAME is the file of that name.
        let mut files = case.file.split("\nFILE ");
        let main = files.next().unwrap();
        for file in files {
            let (name, text) = file.split_once('\n').unwrap();
            match text.starts_with("#!") {
                true => directory.script(name, text),
                false => directory.write(name, here(text)),
            };
        }
        let file = directory.write(name, format!("{}\n{ready}", here(main)));
        Self {
            namespace: Namespace::new(),
            file: file.to_str().unwrap().to_owned(),
            directory,
        }
    }

    /// Asks, and asserts the answers.
    #[track_caller]
    fn check(
        &self,
        daemon: &str,
        case: &Case,
        expected: &[&str],
        mut has_ended: impl FnMut() -> bool + Send,
    ) {
        assert_eq!(expected.len(), case.asks.len());
        let here = |text: &str| text.replace("DIR", self.directory.path().to_str().unwrap());
        let found: Vec<_> = self.namespace.enter(|| {
            let address: SocketAddr = READY.parse().unwrap();
            let ready = poll_for(DEADLINE, || {
                assert!(!has_ended(), "{daemon} has ended: {}", case.what);
                TcpStream::connect(address).ok()
            });
            assert!(ready.is_some(), "{daemon} doesn't serve: {}", case.what);
            let mut held = Vec::new();
            let mut answers = Vec::new();
            for ((address, bytes, _), expected) in case.asks.iter().zip(expected) {
                let answer = answer(&here(address), bytes, &mut held);
                let answer = match expected.starts_with("shape: ") {
                    true => shape(&answer),
                    false => answer,
                };
                answers.push((*address, *bytes, answer));
            }
            answers
        });
        let asked = case.asks.iter().zip(expected);
        let expected: Vec<_> = asked
            .map(|((address, bytes, _), answer)| (*address, *bytes, here(answer)))
            .collect();
        assert_eq!(found, expected, "{daemon}: {}", case.what);
    }
}

/// Letters as `a` and digits as `0`. The first days of a month have one digit behind a space (ctime(3)): as two.
fn shape(answer: &str) -> String {
    let kind = |letter: char| match letter {
        letter if letter.is_ascii_digit() => '0',
        letter if letter.is_ascii_alphabetic() => 'a',
        other => other,
    };
    let shape: String = answer.chars().map(kind).collect();
    format!("shape: {}", shape.replace("  0 ", " 00 "))
}

fn answer(address: &str, bytes: &str, held: &mut Vec<TcpStream>) -> String {
    let (address, own) = match address.split_once(" from ") {
        Some((address, own)) => (address, Some(own.parse::<IpAddr>().unwrap())),
        None => (address, None),
    };
    let words: Vec<_> = address.split(' ').collect();
    match words[..] {
        ["tcp", address] => {
            let address = address.parse().unwrap();
            match stream(own, address) {
                // A refused client may be reset, if it has sent something.
                Some(stream) => text(&try_talk(stream, bytes.as_bytes()).unwrap_or_default()),
                None => "connection refused".to_owned(),
            }
        }
        ["hold", "tcp", address] => {
            let mut stream = connect(address.parse().unwrap());
            stream.write_all(bytes.as_bytes()).unwrap();
            let answer = receive(&mut stream, bytes.len());
            held.push(stream);
            text(&answer)
        }
        ["udp", address] => {
            let own = own.unwrap_or_else(|| "127.0.0.1".parse().unwrap());
            let socket = UdpSocket::bind((own, 0)).unwrap();
            socket.connect(address).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.send(bytes.as_bytes()).unwrap();
            let mut buffer = [0; 1000];
            match socket.recv(&mut buffer) {
                Ok(length) => text(&buffer[..length]),
                Err(_) => "no answer".to_owned(),
            }
        }
        ["unix", path] => text(&talk(connect_unix(path), bytes.as_bytes())),
        _ => panic!("{address}"),
    }
}

fn stream(own: Option<IpAddr>, address: SocketAddr) -> Option<TcpStream> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).unwrap();
    if let Some(own) = own {
        socket.bind(&SocketAddr::new(own, 0).into()).unwrap();
    }
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    match socket.connect_timeout(&address.into(), DEADLINE) {
        Ok(()) => Some(socket.into()),
        Err(why) if why.kind() == std::io::ErrorKind::ConnectionRefused => None,
        Err(why) => panic!("{address}: {why}"),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

/// Returns a real daemon: the value of a variable.
fn real(variable: &str) -> String {
    let path = std::env::var(variable);
    let path = path.unwrap_or_else(|_| panic!("set {variable} to the path of the daemon"));
    assert!(PathBuf::from(&path).is_file(), "{path} is no file");
    path
}

#[test]
#[ignore = "needs xinetd: SKD_XINETD=/path/to/xinetd"]
fn real_xinetd_answers_alike() {
    let (cases, differences) = (xinetd_conf::CASES, xinetd_conf::DIFFERENCES);
    real_answers(Kind::Xinetd, &real("SKD_XINETD"), cases, differences);
}

#[test]
#[ignore = "needs openbsd-inetd: SKD_INETD=/path/to/inetd"]
fn real_inetd_answers_alike() {
    let (cases, differences) = (inetd_conf::CASES, inetd_conf::DIFFERENCES);
    real_answers(Kind::Inetd, &real("SKD_INETD"), cases, differences);
}
