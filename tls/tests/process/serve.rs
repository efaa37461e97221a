//! The process that skd starts: what it has given up, and what it says.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use skd::sys::packets;
use skd_tls_protocol::{
    Answer, CertificateFiles, Command as Say, FailureKind, FileIndex, Found, MAX_REQUEST, Report,
    Request, Service, Settings, VERSION,
};

use crate::LONG;
use crate::certificates::Authority;
use crate::skd_side::{PROGRAM, Started};

fn settings(name: &str) -> Settings {
    let index = FileIndex(0);
    Settings {
        files: vec!["web.pem".to_owned()],
        services: vec![Service {
            name: name.to_owned(),
            certificates: vec![CertificateFiles {
                chain: index,
                key: index,
            }],
            ..Service::default()
        }],
        keylog: None,
    }
}

/// Loads settings that are in order.
fn load(started: &mut Started, authority: &Authority, name: &str) {
    started.load(&[&authority.path("web.example.pem")], &settings(name));
    let Report::Certificate(certificate) = started.next() else {
        panic!("no certificate");
    };
    assert_eq!(certificate.service, name);
    assert_eq!(certificate.names, ["web.example"]);
    assert_eq!(started.next(), Report::Loaded);
}

fn authority() -> Authority {
    let authority = Authority::new();
    authority.sign("web.example");
    authority
}

/// Sends a connection whose client says this, and returns the answer.
fn answer(started: &Started, service: &str, says: &[u8]) -> Vec<u8> {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (connection, _) = listener.accept().unwrap();
    let (mut plain, theirs) = UnixStream::pair().unwrap();
    let mut buffer = [0; MAX_REQUEST];
    let request = Request {
        service,
        token: b"t",
    };
    let length = request.write(&mut buffer).unwrap();
    let beside = [Some(connection.as_fd()), Some(theirs.as_fd())];
    packets::send(&started.requests.0, [&buffer[..length], b""], beside).unwrap();
    drop((connection, theirs));
    client.write_all(says).unwrap();
    plain.set_read_timeout(Some(LONG)).unwrap();
    let mut said = Vec::new();
    plain.read_to_end(&mut said).unwrap();
    said
}

#[test]
fn as_root_it_has_given_up_everything() {
    if !Uid::effective().is_root() {
        return;
    }
    let mut started = Started::new("--serve");
    load(&mut started, &authority(), "web");
    for (name, value) in [
        ("Uid", "65534 65534 65534 65534"),
        ("Gid", "65534 65534 65534 65534"),
        ("Groups", ""),
        ("CapInh", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        // The main thread and two others: all of them are filtered.
        ("Threads", "3"),
    ] {
        assert_eq!(started.status(name), value, "{name}");
    }
    let proc = format!("/proc/{}", started.child.id());
    for task in std::fs::read_dir(format!("{proc}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2\n") && status.contains("NoNewPrivs:\t1\n"));
    }
    for directory in ["root", "cwd"] {
        let mut entries = std::fs::read_dir(format!("{proc}/{directory}/")).unwrap();
        assert!(entries.next().is_none(), "{directory} isn't empty");
    }
    // The only mount is the empty one.
    let mounts = std::fs::read_to_string(format!("{proc}/mountinfo")).unwrap();
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    assert!(mounts.contains("ro,nosuid,nodev,noexec"), "{mounts}");
    for namespace in ["mnt", "net", "ipc", "uts"] {
        let link = |process: &str| std::fs::read_link(format!("{process}/ns/{namespace}")).unwrap();
        assert_ne!(link(&proc), link("/proc/self"), "{namespace}");
    }
    // No file but the memory of the keys of tickets, which it was sent.
    for entry in std::fs::read_dir(format!("{proc}/fd")).unwrap().flatten() {
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = std::fs::read_link(entry.path()).unwrap();
        let target = target.to_str().unwrap();
        let is_file = target.starts_with('/') && !target.starts_with("/memfd:skd");
        assert!(number < 3 || !is_file, "{number} {target}");
    }
    let limits = std::fs::read_to_string(format!("{proc}/limits")).unwrap();
    let line = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let words: Vec<String> = line[26..].split_whitespace().map(str::to_owned).collect();
        (words[0].clone(), words[1].clone())
    };
    assert_eq!(line("Max core file size"), ("0".to_owned(), "0".to_owned()));
    let (soft, hard) = line("Max open files");
    assert_eq!(soft, hard);
    // Another process of the user can't trace it, nor read its memory.
    let read = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"])
        .arg(format!("{proc}/environ"))
        .output()
        .unwrap();
    assert!(!read.status.success() && read.stdout.is_empty());
    started.say(&Say::Stop { within: 0 }, [None, None]);
    assert!(started.end().0.success());
}

#[test]
fn settings_hold_as_a_whole_or_the_earlier_ones_stay() {
    let authority = authority();
    let mut started = Started::new("--serve");
    load(&mut started, &authority, "web");
    let failed = |bytes: Vec<u8>| match Found::read(&bytes) {
        Ok(Found::Answer(Answer::Failed(failure), _)) => (failure.kind, failure.why.into_owned()),
        other => panic!("{other:?}"),
    };
    let (kind, _) = failed(answer(&started, "web", b"GET / HTTP/1.0\r\n\r\n"));
    assert_eq!(kind, FailureKind::NotTls);
    // A key is missing in this one.
    started.load(&[&authority.path("ca.pem")], &settings("other"));
    let Report::Refused { why } = started.next() else {
        panic!("it was taken");
    };
    assert!(why.contains("other") && why.contains("web.pem"), "{why}");
    let (kind, _) = failed(answer(&started, "web", b"GET / HTTP/1.0\r\n\r\n"));
    assert_eq!(kind, FailureKind::NotTls);
    // This one replaces the first.
    load(&mut started, &authority, "other");
    let (_, why) = failed(answer(&started, "web", b"GET / HTTP/1.0\r\n\r\n"));
    assert!(why.contains("no service web"), "{why}");
}

#[test]
fn connections_wait_until_the_first_settings_hold() {
    let authority = authority();
    let mut started = Started::new("--serve");
    std::thread::scope(|scope| {
        let requests = (
            started.requests.0.try_clone().unwrap(),
            started.requests.1.try_clone().unwrap(),
        );
        let early = Started {
            child: Command::new("true").spawn().unwrap(),
            control: None,
            requests,
        };
        let answered = scope.spawn(move || {
            let bytes = answer(&early, "web", b"no TLS at all, to be sure");
            early.end();
            bytes
        });
        // Settings that don't hold don't begin it either.
        started.load(&[&authority.path("ca.pem")], &settings("web"));
        assert!(matches!(started.next(), Report::Refused { .. }));
        assert!(!answered.is_finished());
        load(&mut started, &authority, "web");
        let bytes = answered.join().unwrap();
        let Ok(Found::Answer(Answer::Failed(failure), _)) = Found::read(&bytes) else {
            panic!("{bytes:?}");
        };
        assert_eq!(failure.kind, FailureKind::NotTls);
    });
}

#[test]
fn signals_do_not_end_it_and_the_end_of_skd_does() {
    let mut started = Started::new("--serve");
    load(&mut started, &authority(), "web");
    let pid = Pid::from_raw(started.child.id() as i32);
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        kill(pid, signal).unwrap();
    }
    load(&mut started, &authority(), "web");
    started.control = None;
    let (status, said) = started.end();
    assert!(status.success() && said.is_empty(), "{status} {said}");
}

#[test]
fn one_that_retires_ends_by_itself() {
    for is_loaded in [true, false] {
        let mut started = Started::new("--serve");
        if is_loaded {
            load(&mut started, &authority(), "web");
        }
        started.say(&Say::Retire, [None, None]);
        assert_eq!(started.try_next(), None);
        assert!(started.end().0.success());
    }
}

#[test]
fn a_check_says_what_a_start_would_and_ends() {
    let authority = authority();
    let mut started = Started::new("--check");
    load(&mut started, &authority, "web");
    assert_eq!(started.try_next(), None);
    assert!(started.end().0.success());
    let mut started = Started::new("--check");
    started.load(&[&authority.path("ca.pem")], &settings("web"));
    assert!(matches!(started.next(), Report::Refused { .. }));
    assert_eq!(started.try_next(), None);
    assert!(started.end().0.success());
}

#[test]
fn a_start_that_is_wrong_is_refused_in_a_sentence() {
    let refused = |mut started: Started, part: &str| {
        let Report::Refused { why } = started.next() else {
            panic!("it has started");
        };
        assert!(why.contains(part), "{why}");
        let (status, said) = started.end();
        assert!(!status.success() && said.is_empty(), "{status} {said}");
    };
    let mut started = Started::silent("--serve");
    started.start(VERSION + 1, None);
    refused(started, "both have to be of the same release");
    // A later one may have other fields, too.
    let mut started = Started::silent("--serve");
    let later = br#"{"do":"start","version":9,"something":1}"#;
    started.say_bytes(later, [None, None]).unwrap();
    refused(started, "version 9 of the protocol");
    let mut started = Started::silent("--serve");
    started.say(&Say::Retire, [None, None]);
    refused(started, "isn't the one to start");
    let mut started = Started::silent("--serve");
    started.say(
        &Say::Start {
            version: VERSION,
            user: None,
            threads: 1,
        },
        [None, None],
    );
    refused(started, "no request channel");
}

#[test]
fn what_is_not_known_is_said_and_passed_over() {
    let mut started = Started::new("--serve");
    started
        .say_bytes(br#"{"do":"dance"}"#, [None, None])
        .unwrap();
    started.say_bytes(b"\xff", [None, None]).unwrap();
    started.say_bytes(&[b' '; 5000], [None, None]).unwrap();
    started.say(&Say::File, [None, None]);
    load(&mut started, &authority(), "web");
    started.say(&Say::Stop { within: 0 }, [None, None]);
    let (status, said) = started.end();
    assert!(status.success());
    assert_eq!(said.lines().count(), 4, "{said}");
    assert!(
        said.contains("`dance`") && said.contains("too long"),
        "{said}"
    );
}

#[test]
fn it_goes_on_while_skd_reads_nothing() {
    let authority = authority();
    let mut started = Started::new("--serve");
    load(&mut started, &authority, "web");
    // Far more reports than the channel holds.
    for _ in 0..2000 {
        started.load(&[&authority.path("web.example.pem")], &settings("web"));
    }
    let begin = Instant::now();
    let said = answer(&started, "web", b"GET / HTTP/1.0\r\n\r\n");
    assert!(matches!(Found::read(&said), Ok(Found::Answer(..))));
    assert!(begin.elapsed() < LONG);
    let mut loaded = 0;
    while loaded < 2000 {
        match started.next() {
            Report::Loaded => loaded += 1,
            Report::Certificate(_) | Report::Figures(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn figures_come_when_they_have_changed() {
    let mut started = Started::new("--serve");
    load(&mut started, &authority(), "web");
    // A client that waits: it is counted.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (connection, _) = listener.accept().unwrap();
    let (plain, theirs) = UnixStream::pair().unwrap();
    let mut buffer = [0; MAX_REQUEST];
    let request = Request {
        service: "web",
        token: b"t",
    };
    let length = request.write(&mut buffer).unwrap();
    let beside = [Some(connection.as_fd()), Some(theirs.as_fd())];
    packets::send(&started.requests.0, [&buffer[..length], b""], beside).unwrap();
    drop((connection, theirs));
    let live = |report: Report| match report {
        Report::Figures(figures) => (figures.service, figures.live),
        other => panic!("{other:?}"),
    };
    assert_eq!(live(started.next()), ("web".to_owned(), 1));
    drop((client, plain));
    assert_eq!(live(started.next()), ("web".to_owned(), 0));
    packets::limit_wait(started.control.as_ref().unwrap(), Duration::from_secs(2)).unwrap();
    let mut buffer = [0; 100];
    let nothing = packets::receive(started.control.as_ref().unwrap(), &mut buffer);
    assert_eq!(nothing.unwrap_err(), nix::errno::Errno::EAGAIN);
}

#[test]
fn by_hand_it_says_who_starts_it() {
    for mode in ["--serve", "--check"] {
        let output = Command::new(PROGRAM)
            .arg(mode)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(said.contains("skd starts this program by itself"), "{said}");
    }
}
