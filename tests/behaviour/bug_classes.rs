//! Faults of other daemons of this kind: a test for each class, under its name, with the daemons that have it. The
//! files of the topics go further; these tests are short.

use crate::harness::{
    Directory, Instance, Running, SignalMasks, Skd, ask, ask_udp, assert_idle, close_unix, connect,
    connect_from, connect_unix, datagram_echo, descriptors, echo, idle_descriptors, ids,
    in_a_storm, limit_processes, requires_command, requires_root, signal_masks, sockets, talk,
    try_talk, udp_client, wait_until, zombies,
};
use nix::errno::Errno;
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use socket2::SockRef;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

/// User and group without an account.
const NOBODY: [&str; 2] = ["--user", "61234:61235"];

// skd 1.2, ncat 7.93 (nmap/nmap#2843), socat 1.7; xinetd: CVE-2002-0871.
#[test]
fn listener_or_other_clients_fd_in_handler() {
    const EACH: usize = 8;
    let directory = Directory::new();
    let socket = directory.join("socket");
    // All descriptors that could leak, and clients that connect at the same time.
    let skd = Skd::new(["-t", "127.0.0.1:0", "-u", "127.0.0.1:0", "-l"])
        .arg(&socket)
        .args(["-P", &directory.name("pid")])
        .args(["-L", &format!(">{}", directory.name("log"))])
        .run("cat");
    let bound = sockets(skd.pid());
    let clients = || {
        let serve = |_| {
            let (mut tcp, mut unix) = (skd.connect(), connect_unix(&socket));
            echo(&mut tcp, b"tcp");
            echo(&mut unix, b"unix");
            (tcp, unix)
        };
        (0..EACH).map(serve).collect::<Vec<_>>()
    };
    let _streams = thread::scope(|scope| {
        [scope.spawn(clients), scope.spawn(clients)].map(|thread| thread.join().unwrap())
    });
    let log = &descriptors(skd.pid())[&2];
    let mut connections = BTreeSet::new();
    for handler in skd.wait_for_children(4 * EACH) {
        let open = descriptors(handler);
        assert_eq!(open.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((&open[&0], &open[&2]), (&open[&1], log));
        let listens = |name: &str| {
            let is = |inode| name == format!("socket:[{inode}]");
            bound.iter().any(|socket| is(socket.inode))
        };
        assert!(!listens(&open[&0]), "{open:?}");
        assert!(connections.insert(open[&0].clone()), "another client's");
    }
}

// busybox, arachsys, tcpserver -u; xinetd's TCPMUX services kept user and groups: CVE-2013-4342.
#[test]
fn groups_kept_after_drop() {
    requires_root();
    for options in [&["-U"][..], &NOBODY] {
        let skd = Skd::new(options)
            .args(["-t", "127.0.0.1:0"])
            .user(0, 0, [0, 4, 27, 61299])
            .env("UID", "61234")
            .env("GID", "61235")
            .env_remove("ROOT")
            .run_with("id", ["-G"]);
        assert_eq!(talk(skd.connect(), b""), b"61235\n", "{options:?}");
    }
}

// inetutils: CVE-2023-40303.
#[test]
fn unchecked_setid() {
    requires_root();
    // A user id that no other test uses, and that has a process already.
    const USER: [&str; 2] = ["--user", "54332:54332"];
    let crowd = Skd::new(USER).start_with("sleep", ["1000"]);
    wait_until("the process has that user id", || {
        ids(crowd.pid()).0 == [54332; 4]
    });
    let directory = Directory::public();
    directory.chmod("", 0o777);
    let ran = directory.name("ran");
    for listener in [&[][..], &["-t", "127.0.0.1:0"]] {
        let skd = || Skd::new(USER).args(listener);
        for call in [
            libc::SYS_setgroups,
            libc::SYS_setresgid,
            libc::SYS_setresuid,
        ] {
            for errno in [Errno::EPERM, Errno::EAGAIN] {
                let start = skd().refusing(call, errno).start_with("touch", [&ran]);
                start.expect_refusal(1, &["can't", errno.desc()]);
            }
        }
        // Since Linux 3.1 it isn't setuid that fails for a user with too many processes, but what comes next.
        let start = skd().limit(Resource::RLIMIT_NPROC, 0, 0);
        if !listener.is_empty() {
            let skd = start.run_with("touch", [&ran]);
            let _client = skd.connect();
            skd.wait_for_log("no process for 'touch': as many run as may");
            continue;
        }
        let output = start.start_with("touch", [&ran]).wait_with_output();
        assert!(!output.status.success(), "{output:#?}");
        output.expect_stderr(&["skd: ", Errno::EAGAIN.desc()]);
        assert_eq!(output.stderr.lines().count(), 1, "{output:#?}");
    }
    assert_eq!(directory.names(), [""; 0]);
}

// skd 1.2, ipsvd, inetds, rlinetd.
#[test]
fn udp_respawn() {
    let directory = Directory::new();
    let (prog, [option, script]) = datagram_echo();
    let line = "echo started >&2; test -e \"$0\" || exit 0; exec \"$@\"";
    let go = directory.name("go");
    let skd = Skd::new(["-u", "127.0.0.1:0"])
        .run_with("sh", ["-c", line, go.as_str(), prog, option, script]);
    let client = udp_client(skd.address());
    client.send(b"1234").unwrap();
    skd.wait_for_log("unread, 4 bytes");
    let starts = || {
        let lines = skd.log_lines();
        lines.iter().filter(|line| *line == "started").count()
    };
    assert_eq!(starts(), 8);
    directory.write("go", "");
    assert_eq!(ask(&client, b"next"), b"next");
    assert_eq!(starts(), 9);
}

// tcpserver, s6, arachsys, ucspi-tcp6, systemd; socat, where refused clients used descriptors up: CVE-2013-3571.
#[test]
fn accept_error_spin_or_exit() {
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .limit(Resource::RLIMIT_NOFILE, 64, 64)
        .run("cat");
    let mut streams: Vec<TcpStream> = (0..64).map(|_| skd.connect()).collect();
    skd.wait_for_log("Too many open files");
    assert_idle(&[skd.pid()]);
    let last = streams.pop().unwrap();
    drop(streams);
    assert_eq!(talk(last, b"waited"), b"waited");
    assert_eq!(talk(skd.connect(), b"recovered"), b"recovered");
}

// ucspi-tcp6, socat, ncat.
#[test]
fn fork_failure_ends_the_server() {
    requires_root();
    // A user id that no other test uses.
    let skd = Skd::new(["--threads", "1", "-t", "127.0.0.1:0"])
        .user(54_331, 54_331, [])
        .run("cat");
    assert_eq!(talk(skd.connect(), b"first"), b"first");
    skd.wait_for_children(0);
    limit_processes(skd.pid(), 3);
    let mut streams: Vec<TcpStream> = (0..3).map(|_| skd.connect()).collect();
    for stream in &mut streams {
        echo(stream, b"served");
    }
    let waiting = skd.connect();
    skd.wait_for_log("skd: no process for 'cat'");
    echo(&mut streams[0], b"still served");
    drop(streams);
    assert_eq!(talk(waiting, b"waited"), b"waited");
    assert_eq!(talk(skd.connect(), b"recovered"), b"recovered");
}

// NetBSD's inetd.
#[test]
fn peer_gone_between_accept_and_getpeername() {
    const CLIENTS: usize = 300;
    let directory = Directory::new();
    let line = "echo \"$TCPREMOTEIP $TCPREMOTEPORT $TCPLOCALIP $TCPLOCALPORT\" >> \"$0\"";
    let told = directory.name("told");
    let skd = Skd::new(["-t", "0.0.0.0:0"]).run_with("sh", ["-c", line, &told]);
    let port = skd.port();
    let mut expected = BTreeSet::new();
    for _ in 0..CLIENTS {
        let client = connect((Ipv4Addr::LOCALHOST, port).into());
        let its = client.local_addr().unwrap().port();
        expected.insert(format!("127.0.0.1 {its} 127.0.0.1 {port}"));
        SockRef::from(&client)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    }
    // The clients had left, and their addresses were known nevertheless.
    skd.wait_until("each client had a handler", || {
        directory.read("told").lines().count() == CLIENTS
    });
    let told: BTreeSet<String> = directory.read("told").lines().map(str::to_owned).collect();
    assert_eq!(told, expected);
    assert_eq!(skd.log_lines(), [""; 0]);
}

// skd 1.2, ncat (nmap/nmap#2245); socat: CVE-2015-1379.
#[test]
fn signal_handler_races_and_errno() {
    const EACH: usize = 60;
    let directory = Directory::new();
    let log = format!(">{}", directory.name("log"));
    let skd =
        Skd::new(["-v", "-L", &log, "-t", "127.0.0.1:0"]).run_with("sh", ["-c", "cat; exit 3"]);
    let signals = [Signal::SIGUSR1, Signal::SIGCHLD, Signal::SIGUSR2];
    let caught = signal_masks(skd.pid()).caught;
    for signal in signals.into_iter().chain([Signal::SIGTERM, Signal::SIGHUP]) {
        assert!(!SignalMasks::has(caught, signal), "{signal}");
    }
    in_a_storm(&skd, &signals, || {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        assert_eq!(talk(skd.connect(), b"served"), b"served");
                    }
                });
            }
        });
    });
    let ends = || directory.read("log").matches("with status 3 after").count();
    skd.wait_until("each end was seen", || ends() >= 4 * EACH);
    assert_eq!(ends(), 4 * EACH);
    assert_eq!(skd.stop().code(), Some(0));
}

// socat, ncat.
#[test]
fn zombie_or_lost_child() {
    const EACH: usize = 500;
    let directory = Directory::new();
    let socket = directory.join("socket");
    let log = format!(">{}", directory.name("log"));
    let skd = Skd::new(["-v", "-L", &log, "-l"]).arg(&socket).run("true");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let mut rest = Vec::new();
                    assert_eq!(connect_unix(&socket).read_to_end(&mut rest).unwrap(), 0);
                }
            });
        }
    });
    let count = |text: &str| directory.read("log").matches(text).count();
    skd.wait_until("each end was seen", || {
        count(" exited with status 0 after ") >= 4 * EACH
    });
    assert_eq!(count(" exited with status 0 after "), 4 * EACH);
    // One pid each.
    let log = directory.read("log");
    let mut ends: BTreeMap<&str, u32> = BTreeMap::new();
    for line in log.lines().filter(|line| line.starts_with("Closed ")) {
        *ends.entry(line).or_default() += 1;
    }
    assert!(ends.values().all(|times| *times == 1), "told twice");
    assert_eq!(zombies(skd.pid()), [0; 0]);
    skd.wait_until("none is left", || skd.children().is_empty());
}

// skd 1.2; daemonize gives the file to the user that it becomes (thesharp/daemonize#15: tells of the lock too late).
#[test]
fn pidfile_race_or_hijack() {
    requires_root();
    let directory = Directory::public();
    directory.chmod("", 0o777);
    let pidfile = directory.join("pid");
    let start = || {
        Skd::new(NOBODY)
            .args(["-t", "127.0.0.1:0", "-P"])
            .arg(&pidfile)
            .umask(0)
            .start("cat")
    };
    let starts = [start(), start(), start(), start()];
    let has_ended = |skd: &Running| skd.try_wait(Duration::ZERO).is_some();
    wait_until("all but one have ended", || {
        starts.iter().filter(|skd| has_ended(skd)).count() >= 3
    });
    let (losers, winners): (Vec<_>, Vec<_>) = starts.into_iter().partition(has_ended);
    for loser in losers {
        loser.expect_refusal(1, &["--pidfile", "locked"]);
    }
    let winner = &winners[0];
    winner.wait_ready();
    assert_eq!(directory.read("pid"), format!("{}\n", winner.pid()));
    // The user that skd has become can't make root kill another process.
    let file = fs::metadata(&pidfile).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777),
        (0, 0, 0o644)
    );
    let lock = File::open(&pidfile).unwrap().try_lock();
    assert!(
        matches!(lock, Err(fs::TryLockError::WouldBlock)),
        "{lock:?}"
    );
    directory.write("new", "another program's\n");
    fs::rename(directory.join("new"), &pidfile).unwrap();
    assert_eq!(winner.stop().code(), Some(0));
    assert_eq!(directory.read("pid"), "another program's\n");
}

// skd 1.2 takes live sockets, arachsys removes files; joewalnes/websocketd#474.
#[test]
fn stale_versus_live_unix_socket() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let refused = |why: &str| {
        let start = Skd::new(["-l"]).arg(&path).start("cat");
        start.expect_refusal(1, &["--unix", why]);
    };
    let live = UnixListener::bind(&path).unwrap();
    refused("another program has a socket there");
    connect_unix(&path);
    close_unix(live, &path);
    let skd = Skd::new(["-l"]).arg(&path).run("cat");
    assert_eq!(talk(connect_unix(&path), b"replaced"), b"replaced");
    assert_eq!(skd.stop().code(), Some(0));
    directory.write("socket", "precious");
    refused("isn't a socket");
    assert_eq!(directory.read("socket"), "precious");
}

// xinetd#20 (listens everywhere instead), busybox (options without effect), skd 1.2 (port 99999).
#[test]
fn silent_fallback_on_bad_config() {
    let directory = Directory::new();
    let start = |option: &str, value: &str| {
        Skd::new(["-P", "pid", "-l", "socket", option, value])
            .cwd(directory.path())
            .start("cat")
    };
    for (option, value) in [
        ("-t", "99999"),
        ("-t", "22222222"),
        ("-t", "0x50"),
        ("-t", "80x"),
        ("-t", "[::1:80"),
        ("-t", "127.0.0.1:"),
        ("-t", "127.0.0.1:no-such-service"),
        ("-u", "-1"),
        ("-c", "0"),
        ("-c", "many"),
        ("-b", "0"),
        ("-L", "tag:nowhere.info"),
        ("--user", "61234:"),
        ("--unix-mode", "rw"),
        ("--umask", "8"),
        ("--nice", "99"),
        ("--limit", "nofile=lots"),
        ("--threads", "0"),
    ] {
        start(option, value).expect_refusal(2, &[value]);
        assert_eq!(directory.names(), [""; 0], "{option} {value}");
    }
    // An address that this machine lacks (RFC 5737) isn't replaced by a local one.
    start("-t", "192.0.2.1:0").expect_refusal(1, &["192.0.2.1"]);
    assert_eq!(directory.names(), [""; 0]);
}

// tcpserver, and every daemon that passes the connection on.
#[test]
fn rst_eats_the_answer() {
    // If a handler leaves input unread, the kernel resets the connection; its answer must arrive nevertheless.
    let line = "dd bs=1 count=1 of=/dev/null status=none; echo answer";
    for lingers in [true, false] {
        let options: &[&str] = if lingers { &[] } else { &["--linger=0s"] };
        let skd = Skd::new(["-t", "127.0.0.1:0"])
            .args(options)
            .run_with("sh", ["-c", line]);
        for _ in 0..10 {
            let mut stream = skd.connect();
            stream.write_all(&[b'x'; 1000]).unwrap();
            let mut answer = Vec::new();
            let end = stream.read_to_end(&mut answer);
            assert_eq!(end.map_err(|end| end.kind()).is_ok(), lingers);
            assert_eq!(answer, b"answer\n");
        }
    }
    // If the handler reads the input that it doesn't need, all of a long answer arrives.
    let line = "head -c 300000 /dev/zero; exec cat > /dev/null";
    let skd = Skd::new(["-t", "127.0.0.1:0"]).run_with("sh", ["-c", line]);
    assert!(talk(skd.connect(), &[b'x'; 300_000]) == [0; 300_000]);
    // It also arrives if skd reads that input.
    let line = "head -c 300000 /dev/zero";
    let skd = Skd::new(["-t", "127.0.0.1:0", "--linger", "1h"]).run_with("sh", ["-c", line]);
    assert!(talk(skd.connect(), &[b'x'; 300_000]) == [0; 300_000]);
}

// redpwn/jail#6 (nsjail), socat -t.
#[test]
fn half_close() {
    let directory = Directory::new();
    // The handler answers after the client's last byte, at length.
    let line = "cat; head -c 300000 /dev/zero";
    let expected = [b"x".to_vec(), vec![0; 300_000]].concat();
    let skd = Skd::new(["-t", "127.0.0.1:0", "-l", &directory.name("socket")])
        .run_with("sh", ["-c", line]);
    assert!(talk(skd.connect(), b"x") == expected);
    assert!(talk(skd.connect_unix(), b"x") == expected);
}

// socat.
#[test]
fn sigpipe_mask_or_dispositions_inherited() {
    let mut skd = Skd::new(["-t", "127.0.0.1:0"]);
    for signal in [Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGCHLD] {
        skd = skd.ignoring(signal);
    }
    for signal in [Signal::SIGPIPE, Signal::SIGTERM, Signal::SIGCHLD] {
        skd = skd.blocking(signal);
    }
    let skd = skd.run_with("grep", ["^Sig[BI]", "/proc/self/status"]);
    let none = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
    assert_eq!(talk(skd.connect(), b""), none.as_bytes());
}

// xinetd#15 and #11, busybox, socat, ncat.
#[test]
fn v4_mapped_text() {
    requires_command("perl");
    // Sockets of both families.
    let line = "echo $TCPLOCALIP $TCPREMOTEIP $REMOTE_ADDR";
    let tcp = Skd::new(["-vt", "0"]).run_with("sh", ["-c", line]);
    let answer = talk(connect((Ipv4Addr::LOCALHOST, tcp.port()).into()), b"");
    assert_eq!(answer, b"127.0.0.1 127.0.0.1 127.0.0.1\n");
    tcp.wait_for_log("Accepted connection from [127.0.0.1]:");

    let script = "my $from = recv(STDIN, my $bytes, 9, 0); \
                  send(STDOUT, \"$ENV{UDPREMOTEIP} $ENV{REMOTE_ADDR}\", 0, $from)";
    let udp = Skd::new(["-vu", "0"]).run_with("perl", ["-e", script]);
    let answer = ask_udp((Ipv4Addr::LOCALHOST, udp.port()).into(), b"?");
    assert_eq!(answer, b"127.0.0.1 127.0.0.1");
    udp.wait_for_log("Received initial datagram from [127.0.0.1]:");
    for skd in [tcp, udp] {
        assert_eq!(skd.logged("ffff"), [""; 0]);
    }
}

/// Sends `bytes` and returns the answer; a reset, for bytes that weren't read, counts as none.
fn answer(stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    match try_talk(stream, bytes) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Vec::new(),
        result => result.unwrap(),
    }
}

// go-proxyproto accepts a header from any peer, and a missing one, unless told otherwise.
#[test]
fn proxy_header_forged_or_left_out() {
    let proxies = |from| {
        Skd::new([
            "-vt",
            "127.0.0.1:0",
            "--proxy-protocol",
            "--proxy-from",
            from,
        ])
        .run_with("sh", ["-c", "echo $REMOTE_ADDR"])
    };
    let forged = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
    let skd = proxies("192.0.2.0/24");
    assert_eq!(answer(skd.connect(), forged), b"", "from nobody's proxy");
    assert_eq!(answer(skd.connect(), b"hello\n"), b"");
    skd.wait_for_logs("Refused connection from [127.0.0.1]:", 2);
    let skd = proxies("127.0.0.1");
    assert_eq!(answer(skd.connect(), forged), b"192.0.2.1\n");
    assert_eq!(answer(skd.connect(), b"hello\n"), b"", "without a header");
    assert_eq!(answer(skd.connect(), b""), b"");
    skd.wait_for_logs("Refused connection from [127.0.0.1]:", 2);
}

// go-proxyproto: CVE-2021-23409.
#[test]
fn proxy_header_that_never_comes() {
    let options = [
        "--proxy-protocol",
        "--proxy-from",
        "127.0.0.1",
        "--proxy-timeout",
        "300ms",
    ];
    let skd = Skd::new(["-vt", "127.0.0.1:0", "--threads", "1"])
        .args(options)
        .run("cat");
    let before = idle_descriptors(skd.pid());
    let silent: Vec<TcpStream> = (0..50).map(|_| skd.connect()).collect();
    let mut stream = skd.connect();
    stream.write_all(b"PROXY UNKNOWN\r\n").unwrap();
    echo(&mut stream, b"no client waits here");
    drop(stream);
    // Nor are they kept.
    for mut stream in silent {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
    wait_until("nothing is left of them", || {
        zombies(skd.pid()).is_empty() && idle_descriptors(skd.pid()) == before
    });
}

// haproxy 1.6 to 2.1 went on reading entries behind the end of a header.
#[test]
fn proxy_header_and_what_follows() {
    let skd = Skd::new([
        "-t",
        "127.0.0.1:0",
        "--proxy-protocol",
        "--proxy-from",
        "127.0.0.1",
    ])
    .run("cat");
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x01\0\x02";
    for header in [&b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"[..], v2] {
        for follows in [
            &b"\x03\0\x04abcd"[..],
            b"\x02\xff\xff",
            b"\r\n",
            &header.repeat(2),
        ] {
            assert_eq!(talk(skd.connect(), &[header, follows].concat()), follows);
        }
    }
}

// inetds: off for ten minutes; xinetd (cps): for a while; systemd: until a manual restart (systemd/systemd#15633).
#[test]
fn rate_limit_as_denial_of_service() {
    const FLOOD: usize = 300;
    let flood = |skd: &Instance, from: &str| {
        let answered =
            |_: &usize| try_talk(from_address(skd, from), b"x").is_ok_and(|it| it == b"x");
        (0..FLOOD).filter(answered).count()
    };
    // Only the source above its rate is affected, during the flood and after it.
    let limited = ["-t", "127.0.0.1:0", "--rate-per-source=1/h:3"];
    let skd = Skd::new(limited).run("cat");
    assert_eq!(flood(&skd, "127.0.0.1"), 3);
    for other in 2..20 {
        let stream = from_address(&skd, &format!("127.0.0.{other}"));
        assert_eq!(talk(stream, b"as ever"), b"as ever");
    }
    // A total limit accepts its number of connections, whatever came before, and doesn't switch the service off.
    let limited = ["-t", "127.0.0.1:0", "--rate=50/s:1", "--at-rate=close"];
    let skd = Skd::new(limited).run("cat");
    let answered = flood(&skd, "127.0.0.1");
    assert!((1..FLOOD).contains(&answered), "{answered}");
    wait_until("there is a token again", || {
        try_talk(skd.connect(), b"x").is_ok_and(|it| it == b"x")
    });
}

fn from_address(skd: &Instance, address: &str) -> TcpStream {
    connect_from(address.parse().unwrap(), skd.address())
}

// All with a limit of handlers and without a timeout: tcpserver, s6, ipsvd, busybox, inetds.
#[test]
fn slots_held_by_idle_clients() {
    const SLOTS: &str = "-c3";
    let silent = |skd: &Instance| (0..3).map(|_| skd.connect()).collect::<Vec<_>>();
    for limit in ["--idle-timeout=2s", "--timeout=2s"] {
        let skd = Skd::new([SLOTS, "-t", "127.0.0.1:0", limit]).run("cat");
        let streams = silent(&skd);
        skd.wait_for_children(3);
        // The first one waits for a slot; on a slow machine a handler may be late itself.
        wait_until("there is a slot again", || {
            try_talk(skd.connect(), b"x").is_ok_and(|it| it == b"x")
        });
        for mut stream in streams {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "{limit}");
        }
    }
    // Or idle clients take no slots at all.
    let skd = Skd::new([SLOTS, "-t", "127.0.0.1:0", "--first-byte=1h"]).run("cat");
    let _streams = silent(&skd);
    assert_eq!(talk(skd.connect(), b"at once"), b"at once");
}
