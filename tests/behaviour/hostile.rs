//! Misbehaving clients, signals at the worst moment, and SIGKILL at random moments. Clients that behave get their whole
//! answer, skd holds the same resources as before, and files and sockets of other programs stay.
//!
//! Moments are random. `SKD_SEED=NUMBER` repeats those of a run that has printed this number.

use crate::harness::{
    Conversation, DEADLINE, Directory, Holdings, Instance, Namespace, Over, Running, Skd, Syslog,
    Way, ask_unix_datagram, command, connect_unix, datagram_echo, echo, exists, ids, in_a_storm,
    parent, receive, requires_command, requires_descriptors, requires_root, send_unix_datagram,
    session, talk, threads, udp_client, unix_datagram_client, wait_for, wait_until, zombies,
};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Asserts that skd holds the same as before, and reports no trouble.
#[track_caller]
fn expect_as_before(skd: &Instance, before: &Holdings) {
    let after = Holdings::in_peace(skd);
    println!("{after:?}, before {before:?}");
    assert_eq!(zombies(skd.pid()), [0; 0]);
    after.expect_like(before);
}

/// Bytes in which no part looks like another, different for each number.
fn bytes(number: usize, length: usize) -> Vec<u8> {
    let mut dice = Dice(number as u64 + 1);
    (0..length).map(|_| dice.below(256) as u8).collect()
}

/// Pseudo-random numbers, the same for the same seed: xorshift64* (Vigna, 2016).
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = match std::env::var("SKD_SEED") {
            Ok(text) => text.parse().expect("a number in SKD_SEED"),
            Err(_) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                now.expect("a clock").as_micros() as u64
            }
        };
        println!("SKD_SEED={seed}");
        Self(seed.max(1))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) % limit
    }

    /// Sleeps for a random time below `limit`.
    fn pause(&mut self, limit: Duration) {
        let micros = limit.as_micros() as u64;
        thread::sleep(Duration::from_micros(self.below(micros.max(1))));
    }
}

// Clients.

/// An echo handler for a socket of either style that costs little more than its process.
const ECHO: &str = "
    #include <sys/socket.h>
    #include <unistd.h>
    int main(void) {
        static char bytes[65536];
        int style;
        socklen_t size = sizeof style;
        if (getsockopt(0, SOL_SOCKET, SO_TYPE, &style, &size)) return 1;
        if (style == SOCK_DGRAM) {
            struct sockaddr_storage from;
            size = sizeof from;
            ssize_t length = recvfrom(0, bytes, sizeof bytes, 0, (void *)&from, &size);
            return length < 0 || sendto(0, bytes, length, 0, (void *)&from, size) != length;
        }
        for (ssize_t length; (length = read(0, bytes, sizeof bytes)) > 0;)
            for (ssize_t sent = 0, more; sent < length; sent += more)
                if ((more = write(1, bytes + sent, length - sent)) <= 0) return 1;
        return 0;
    }";

/// A skd with `options` and an echo handler, on TCP, on a unix socket and, where nothing is prestarted, on
/// UDP.
fn echoing(directory: &Directory, way: Way, options: &[&str]) -> Running {
    let datagrams: &[_] = match way {
        Way::Exec => &["-u", "127.0.0.1:0"],
        // Prestarted handlers serve connections alone.
        _ => &[],
    };
    Skd::new(["-t", "127.0.0.1:0", "-l"])
        .arg(directory.join("socket"))
        .args(datagrams)
        .args(way.options())
        .args(options)
        .run(directory.compile("echo", ECHO))
}

/// Makes the close of a connection a reset.
fn reset(stream: impl AsFd) {
    let linger = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    linger.expect("SO_LINGER");
}

/// A client that leaves as soon as it has connected, in one of several ways.
fn vanish(skd: &Running, turn: usize) {
    match turn % 7 {
        0 => reset(skd.connect()),
        1 => {
            let mut stream = skd.connect();
            stream.write_all(b"what has no answer").unwrap();
            reset(stream);
        }
        2 => drop(skd.connect()),
        3 => {
            // Before connect(2) returns.
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&skd.address().into());
        }
        4 => skd.connect().shutdown(Shutdown::Both).unwrap(),
        5 => drop(skd.connect_unix()),
        _ => {
            let mut stream = skd.connect_unix();
            stream.write_all(b"what has no answer").unwrap();
        }
    }
}

/// Clients that send byte by byte, with pauses.
fn drip(skd: &Running, count: usize, length: usize, pause: Duration) {
    let said = bytes(0, length);
    let mut streams: Vec<TcpStream> = (0..count).map(|_| skd.connect()).collect();
    for byte in said.chunks(1) {
        for stream in &mut streams {
            stream.write_all(byte).unwrap();
        }
        // This is how they behave.
        thread::sleep(pause);
    }
    for stream in streams {
        assert_eq!(talk(stream, b""), said);
    }
}

/// Sends datagrams of all sizes, empty ones too, of which most won't fit into the queue.
fn flood(address: SocketAddr) {
    let client = udp_client(address);
    for size in [0, 1, 9000, 0, 1400].into_iter().cycle().take(250) {
        let _ = client.send(&vec![b'x'; size]);
    }
}

/// Asks until an answer comes, since datagrams may be lost.
#[track_caller]
fn ask_again_and_again(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    let client = udp_client(address);
    let timeout = Some(Duration::from_millis(200));
    client.set_read_timeout(timeout).unwrap();
    let mut answer = vec![0; 65536];
    let length = wait_for("an answer to a datagram", || {
        client.send(request).unwrap();
        client.recv(&mut answer).ok()
    });
    answer.truncate(length);
    answer
}

/// A client that behaves, and must get its whole answer.
#[track_caller]
fn behave(skd: &Running, turn: usize) {
    let said = bytes(turn, turn * 7_919 % 100_000 + 1);
    let heard = if turn.is_multiple_of(2) {
        talk(skd.connect(), &said)
    } else {
        talk(skd.connect_unix(), &said)
    };
    assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
}

/// The number of clients of each kind.
struct HostileClients {
    /// Clients that send nothing and stay: that many by TCP, and half of that by the unix socket.
    silent: usize,
    /// Clients that close their sending side at once, and stay.
    half_open: usize,
    /// Clients that send as much as fits, and read nothing.
    deaf: usize,
    /// Clients that send a byte now and then: clients, bytes and the pause.
    dripping: (usize, usize, Duration),
    /// Clients that connect all together, and then reset all together.
    mob: usize,
    /// Clients that leave one after another: threads, and clients of each.
    vanishing: (usize, usize),
    /// The number of bursts of 250 datagrams.
    floods: usize,
    /// Clients that behave, one after another in each of three threads: at least that many, and as long as a hostile
    /// client is left.
    honest: usize,
}

impl HostileClients {
    /// Runs all of them at once.
    fn run(&self, way: Way) {
        requires_descriptors(2 * self.silent + self.half_open + self.dripping.0 + self.mob);
        let directory = Directory::new();
        let skd = echoing(&directory, way, &[]);
        let datagrams = skd.addresses().get(1).copied();
        for turn in 0..20 {
            behave(&skd, turn);
            vanish(&skd, turn);
        }
        if let Some(datagrams) = datagrams {
            assert_eq!(ask_again_and_again(datagrams, b"warm"), b"warm");
        }
        let before = Holdings::in_peace(&skd);
        let begin = Instant::now();

        let silent: Vec<TcpStream> = (0..self.silent).map(|_| skd.connect()).collect();
        let local = self.silent / 2;
        let local: Vec<UnixStream> = (0..local).map(|_| skd.connect_unix()).collect();
        let half_open: Vec<TcpStream> = (0..self.half_open).map(|_| skd.connect()).collect();
        for stream in &half_open {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        let mut deaf: Vec<TcpStream> = (0..self.deaf).map(|_| skd.connect()).collect();
        for stream in &mut deaf {
            stream.set_nonblocking(true).unwrap();
            while stream.write(&[b'x'; 65536]).is_ok() {}
        }
        let (mut most, answered) = (Holdings::of(&skd), AtomicUsize::new(0));
        let (threads, turns) = self.vanishing;
        // Counted down however a thread ends, so that no thread waits for a failed one.
        let hostile = AtomicUsize::new(threads + 3);
        thread::scope(|scope| {
            for first in 0..threads {
                let (skd, hostile) = (&skd, &hostile);
                scope.spawn(move || {
                    let _gone = Gone(hostile);
                    (0..turns).for_each(|turn| vanish(skd, first + turn));
                });
            }
            scope.spawn(|| {
                let _gone = Gone(&hostile);
                let (count, length, pause) = self.dripping;
                drip(&skd, count, length, pause);
            });
            scope.spawn(|| {
                let _gone = Gone(&hostile);
                let mob: Vec<TcpStream> = (0..self.mob).map(|_| skd.connect()).collect();
                mob.into_iter().for_each(reset);
            });
            scope.spawn(|| {
                let _gone = Gone(&hostile);
                let Some(datagrams) = datagrams else { return };
                for turn in 0..self.floods {
                    flood(datagrams);
                    let said = bytes(turn, 1_000 + turn);
                    assert!(ask_again_and_again(datagrams, &said) == said);
                }
            });
            for first in [0, 1_000, 2_000] {
                let (skd, hostile, answered) = (&skd, &hostile, &answered);
                scope.spawn(move || {
                    for turn in first.. {
                        behave(skd, turn);
                        answered.fetch_add(1, Ordering::Relaxed);
                        if turn >= first + self.honest && hostile.load(Ordering::Relaxed) == 0 {
                            break;
                        }
                    }
                });
            }
            while hostile.load(Ordering::Relaxed) > 0 {
                let now = Holdings::of(&skd);
                if now.descriptors > most.descriptors {
                    most = now;
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        for stream in half_open {
            assert_eq!(talk(stream, b""), b"");
        }
        drop((silent, local, deaf));
        println!(
            "{way:?}: {} vanished, {} in a mob, {} datagrams; {} honest answers, all in full; {:?}; before {before:?}, at most {most:?}",
            threads * turns,
            self.mob,
            datagrams.map_or(0, |_| 250 * self.floods),
            answered.load(Ordering::Relaxed),
            begin.elapsed(),
        );
        // skd may keep the memory that the largest number of clients needed.
        let kib = before.kib.max(most.kib);
        expect_as_before(&skd, &Holdings { kib, ..before });
        assert_eq!(skd.troubles(), [""; 0]);
        behave(&skd, 1);
        assert_eq!(skd.stop().code(), Some(0));
    }
}

/// Counts down on drop.
struct Gone<'a>(&'a AtomicUsize);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn clients_that_behave_are_answered_in_full_among_hostile_clients() {
    let clients = HostileClients {
        silent: 20,
        half_open: 20,
        deaf: 3,
        dripping: (8, 150, Duration::from_millis(2)),
        mob: 50,
        vanishing: (3, 140),
        floods: 5,
        honest: 20,
    };
    Way::KINDS.iter().for_each(|&way| clients.run(way));
}

#[test]
#[ignore = "takes a minute, and gigabytes"]
fn clients_that_behave_are_answered_in_full_among_thousands_of_hostile_clients() {
    let clients = HostileClients {
        silent: 2_000,
        half_open: 1_500,
        deaf: 20,
        dripping: (1_000, 20, Duration::from_secs(1)),
        mob: 1_500,
        vanishing: (16, 700),
        floods: 30,
        honest: 300,
    };
    Way::KINDS.iter().for_each(|&way| clients.run(way));
}

#[test]
fn clients_that_vanish_free_their_slots() {
    Way::KINDS.iter().for_each(|&way| slots_are_freed(way));
}

fn slots_are_freed(way: Way) {
    const SLOTS: usize = 3;
    let directory = Directory::new();
    let skd = echoing(&directory, way, &["-c", &SLOTS.to_string()]);
    let before = Holdings::in_peace(&skd);
    thread::scope(|scope| {
        for first in 0..2 {
            let skd = &skd;
            scope.spawn(move || (0..140).for_each(|turn| vanish(skd, first + turn)));
            scope.spawn(move || (0..30).for_each(|turn| behave(skd, 100 * first + turn)));
        }
    });
    let mut streams = [(); SLOTS].map(|()| skd.connect());
    for stream in &mut streams {
        echo(stream, b"all at once");
    }
    way.wait_serving(&skd, SLOTS);
    drop(streams);
    expect_as_before(&skd, &before);
}

#[test]
fn senders_of_unix_datagrams_that_vanish_prevent_no_answer() {
    let directory = Directory::new();
    let socket = directory.join("socket");
    let (prog, args) = datagram_echo();
    let skd = Skd::new(["-dl"]).arg(&socket).run_with(prog, args);
    let before = Holdings::in_peace(&skd);
    thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0..40 {
                let own = directory.join("gone");
                let client = unix_datagram_client(&own, &socket);
                client.send(&bytes(turn, turn % 3)).unwrap();
                drop(client);
                fs::remove_file(own).unwrap();
            }
        });
        scope.spawn(|| (0..40).for_each(|turn| send_unix_datagram(&socket, &bytes(1, turn % 2))));
        scope.spawn(|| {
            for turn in 0..30 {
                let (own, said) = (directory.join(turn.to_string()), bytes(turn, 100 * turn));
                assert!(ask_unix_datagram(own, &socket, &said) == said, "{turn}");
            }
        });
    });
    expect_as_before(&skd, &before);
    assert_eq!(skd.troubles(), [""; 0]);
}

/// An IPv4 packet with a UDP datagram (RFC 791, RFC 768) and any source address. The kernel fills in the packet's
/// length and checksum; a datagram needs none.
fn forged(from: SocketAddrV4, to: SocketAddrV4, bytes: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend((8 + bytes.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(bytes);
    packet
}

#[test]
fn datagrams_with_forged_senders_are_logged_and_prevent_no_answer() {
    requires_root();
    requires_command("perl");
    let namespace = Namespace::new();
    let own = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7007);
    // It answers every address but its own, which it knows from skd's variables.
    let script = "my $from = recv(STDIN, my $bytes, 9000, 0); \
                  my ($port, $address) = @ENV{'UDPREMOTEPORT', 'UDPREMOTEIP'}; \
                  print STDERR \"took from $address $port\\n\"; \
                  send(STDOUT, $bytes, 0, $from) if $port ne $ENV{UDPLOCALPORT}";
    let skd = Skd::new(["-v", "-u", &own.to_string()])
        .inside(&namespace)
        .run_with("perl", ["-e", script]);
    let before = Holdings::in_peace(&skd);
    let senders = [
        // Its own address, services that would answer an answer, and addresses that no host can have.
        own,
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7),
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0),
        SocketAddrV4::new(Ipv4Addr::BROADCAST, 19),
        SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 1), 53),
        SocketAddrV4::new(Ipv4Addr::new(240, 0, 0, 1), 65535),
        SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 53),
        SocketAddrV4::new(Ipv4Addr::new(0, 0, 0, 1), 1),
    ];
    namespace.enter(|| {
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let raw = Socket::new(Domain::IPV4, Type::RAW, Some(raw)).unwrap();
        for (number, sender) in senders.into_iter().enumerate() {
            for said in [&b""[..], b"forged"] {
                let packet = forged(sender, own, said);
                raw.send_to(&packet, &SocketAddr::from(own).into()).unwrap();
            }
            let said = bytes(number, 100);
            assert!(ask_again_and_again(own.into(), &said) == said, "{sender}");
        }
    });
    for sender in senders {
        let (ip, port) = (sender.ip(), sender.port());
        skd.wait_for_logs(&format!("took from {ip} {port}"), 2);
        skd.wait_for_logs(&format!("Received initial datagram from [{ip}]:{port}"), 2);
    }
    expect_as_before(&skd, &before);
    assert_eq!(skd.troubles(), [""; 0]);
}

// Signals.

/// The ids of skd after the start.
const NOBODY: &str = "61234:61235";

/// A skd with a pid file, a socket and a log in a directory that [`NOBODY`] may write to.
fn within(directory: &Directory, options: &[&str]) -> Skd {
    directory.chmod("", 0o777);
    Skd::new([
        "-P",
        &directory.name("pid"),
        "-l",
        &directory.name("socket"),
    ])
    .args(options)
}

/// The ways of starting that involve different processes.
const STARTS: [&[&str]; 6] = [
    &["-v"],
    &["-B"],
    &["--user", NOBODY],
    &["-B", "--user", NOBODY],
    &["--daemon-user", NOBODY],
    &["-B", "--daemon-user", NOBODY],
];

/// The duration of a start in the background on this machine.
fn time_of(skd: Skd) -> Duration {
    let begin = Instant::now();
    let daemon = skd.daemon("cat");
    let time = begin.elapsed();
    daemon.stop();
    time
}

/// Sends a signal repeatedly until skd has ended.
fn storm(skd: &Running, signal: Signal) -> ExitStatus {
    let end = Instant::now() + DEADLINE;
    while Instant::now() < end {
        if let Some(status) = skd.try_wait(Duration::ZERO) {
            return status;
        }
        skd.signal(signal);
    }
    panic!("still running after storms of {signal}");
}

/// Sends a signal to all processes of a run until none is left.
#[track_caller]
fn end_all(skd: &Running, signal: Signal) {
    skd.wait_until("nothing is left", || {
        let left = skd.processes();
        for &pid in &left {
            let _ = kill(Pid::from_raw(pid), signal);
        }
        left.is_empty()
    });
}

#[test]
fn a_storm_of_signals_during_a_start_leaves_nothing() {
    requires_root();
    let mut dice = Dice::new();
    let directory = Directory::public();
    let start = time_of(within(&directory, STARTS[3]));
    for round in 0..6 {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            for options in STARTS {
                let skd = within(&directory, options).start("cat");
                dice.pause(start);
                let status = storm(&skd, signal);
                // The daemon, if it exists already or still.
                end_all(&skd, Signal::SIGTERM);
                let names = directory.names();
                assert!(
                    names.is_empty(),
                    "round {round}, {signal}, {options:?}: {status}, {names:?}"
                );
            }
        }
    }
}

#[test]
fn a_storm_of_sigchld_without_an_ended_child_changes_no_start() {
    requires_root();
    for options in STARTS {
        let directory = Directory::public();
        let skd = within(&directory, options).start("cat");
        let mut stream = None;
        wait_until("it serves", || {
            // The launcher may have ended already.
            if skd.try_wait(Duration::ZERO).is_none() {
                (0..50).for_each(|_| skd.signal(Signal::SIGCHLD));
            }
            stream = UnixStream::connect(directory.join("socket")).ok();
            stream.is_some()
        });
        assert_eq!(talk(stream.unwrap(), b"served"), b"served");
        let pid = directory.read("pid").trim().parse().unwrap();
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        assert_eq!(skd.wait().code(), Some(0), "{options:?}");
        skd.wait_until("nothing is left", || skd.processes().is_empty());
        assert_eq!(directory.names(), [""; 0], "{options:?}");
    }
}

#[test]
fn a_signal_during_the_drop_of_privileges_is_handled_after_it() {
    requires_root();
    requires_command("strace");
    let slow_drop = "strace -f -qq -o /dev/null -e trace=setresuid \
                     -e inject=setresuid:delay_enter=400000:when=1";
    for (signal, background, ends) in [
        (Signal::SIGTERM, false, true),
        (Signal::SIGINT, false, true),
        (Signal::SIGHUP, false, true),
        (Signal::SIGCHLD, false, false),
        (Signal::SIGTERM, true, true),
        (Signal::SIGINT, true, true),
        (Signal::SIGHUP, true, false),
        (Signal::SIGCHLD, true, false),
    ] {
        let directory = Directory::public();
        let skd = within(&directory, if background { STARTS[5] } else { STARTS[4] })
            .wrapper(slow_drop.split_whitespace())
            .start("cat");
        let drops = |pid: &i32| {
            let call = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
            call.split(' ').next() == Some(&libc::SYS_setresuid.to_string())
        };
        let service = wait_for("the drop", || skd.processes().into_iter().find(drops));
        let service = Pid::from_raw(service);
        for _ in 0..100 {
            kill(service, signal).unwrap();
        }
        if !ends {
            let stream = wait_for("a service", || {
                UnixStream::connect(directory.join("socket")).ok()
            });
            assert_eq!(talk(stream, b"served"), b"served", "{signal}");
            assert_eq!(ids(service.as_raw()).0, [61234; 4]);
            kill(service, Signal::SIGTERM).unwrap();
        }
        assert_eq!(skd.wait().code(), Some(0), "{signal} {background}");
        skd.wait_until("nothing is left", || skd.processes().is_empty());
        assert_eq!(directory.names(), [""; 0], "{signal} {background}");
    }
}

#[test]
fn a_storm_of_signals_while_connections_are_served_does_no_harm() {
    const EACH: usize = 40;
    // Not USR1: each writes into the log, which then loses lines.
    let harmless = [
        Signal::SIGCHLD,
        Signal::SIGHUP,
        Signal::SIGUSR2,
        Signal::SIGPIPE,
        Signal::SIGCONT,
    ];
    let machines: [fn(Skd) -> Skd; 2] = [
        |skd| skd,
        // Machines where skd learns of the end of a handler by SIGCHLD.
        |skd| {
            let pidfd = libc::CLONE_PIDFD as u32;
            skd.refusing(libc::SYS_clone3, Errno::ENOSYS)
                .refusing_bits(libc::SYS_clone, 0, pidfd, Errno::EINVAL)
                .refusing(libc::SYS_pidfd_open, Errno::ENOSYS)
        },
    ];
    let plain = machines.map(|machine| (machine, Way::Exec));
    let prestarted = Way::PRESTARTED_KINDS.iter().map(|&way| (machines[0], way));
    for (machine, way) in plain.into_iter().chain(prestarted) {
        let directory = Directory::new();
        let log = format!(">>{}", directory.name("log"));
        let skd = machine(Skd::new([
            "-v",
            "-c",
            "3",
            "-L",
            &log,
            "-t",
            "127.0.0.1:0",
            "-l",
        ]))
        .arg(directory.join("socket"))
        .args(way.options())
        .run("cat");
        let before = Holdings::in_peace(&skd);
        in_a_storm(&skd, &harmless, || {
            thread::scope(|scope| {
                for client in 0..4 {
                    let skd = &skd;
                    scope.spawn(move || {
                        (0..EACH).for_each(|turn| behave(skd, client * EACH + turn));
                    });
                }
            });
        });
        let ends = || directory.read("log").matches("status 0 after").count();
        wait_until("each end is told", || ends() >= 4 * EACH);
        assert_eq!(ends(), 4 * EACH);
        expect_as_before(&skd, &before);
        assert_eq!(skd.stop().code(), Some(0));
    }
}

/// Sends bytes and returns what comes until the connection ends, well or by a reset; but it must end.
#[track_caller]
fn exchange(mut stream: impl Conversation + AsFd, said: &[u8]) -> Vec<u8> {
    let limit = SockRef::from(&stream).set_read_timeout(Some(DEADLINE));
    limit.expect("SO_RCVTIMEO");
    let _ = stream.write_all(said);
    let _ = stream.finish();
    let mut heard = Vec::new();
    if let Err(error) = stream.read_to_end(&mut heard) {
        assert_ne!(error.kind(), ErrorKind::WouldBlock, "no end");
    }
    heard
}

#[test]
fn clients_accepted_before_the_end_are_answered_in_full() {
    let mut dice = Dice::new();
    for round in 0..6 {
        for signal in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
            let way = Way::KINDS[round % Way::KINDS.len()];
            if way != Way::Exec && signal == Signal::SIGHUP {
                // With prestarted handlers HUP doesn't end skd.
                continue;
            }
            let directory = Directory::new();
            let skd = Skd::new(["-vt", "127.0.0.1:0", "-P", &directory.name("pid"), "-l"])
                .arg(directory.join("socket"))
                .args(way.options())
                .run("cat");
            let (address, answered) = (skd.address(), AtomicUsize::new(0));
            let over = AtomicBool::new(false);
            let client = |number: usize| {
                let said = bytes(number, 8_000);
                while !over.load(Ordering::Relaxed) {
                    let heard = if number.is_multiple_of(2) {
                        TcpStream::connect(address).map(|stream| exchange(stream, &said))
                    } else {
                        let path = directory.join("socket");
                        UnixStream::connect(path).map(|stream| exchange(stream, &said))
                    };
                    // No listener any more.
                    let Ok(heard) = heard else { break };
                    answered.fetch_add(usize::from(heard == said), Ordering::Relaxed);
                }
            };
            thread::scope(|scope| {
                for number in 0..4 {
                    scope.spawn(move || client(number));
                }
                let _over = Over(&over);
                skd.wait_until("clients are answered", || {
                    answered.load(Ordering::Relaxed) > 10
                });
                dice.pause(Duration::from_millis(10));
                // Repeatedly, also while skd ends.
                let status = storm(&skd, signal);
                assert_eq!(status.code(), Some(0), "round {round}, {signal}");
            });
            skd.wait_until("nothing is left", || skd.processes().is_empty());
            assert_eq!(directory.names(), [""; 0], "round {round}, {signal}");
            assert_eq!(skd.troubles(), [""; 0], "round {round}, {signal}");
            // INT ends handlers too. TERM and HUP leave only clients in the backlog unanswered.
            if signal != Signal::SIGINT {
                let accepted = skd.logged("Accepted").len();
                assert_eq!(answered.into_inner(), accepted, "round {round}, {signal}");
            }
        }
    }
}

// SIGKILL.

/// The relay to syslog, which leads a session of its own. A handler before its exec does so too, as a child of skd.
fn relay(skd: &Instance) -> Option<i32> {
    let mut others = skd.processes().into_iter();
    others.find(|&pid| {
        pid != skd.pid()
            && parent(pid) != Some(skd.pid())
            && session(pid) == Some(pid)
            && command(pid) == command(skd.pid())
    })
}

fn slay(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).expect("a process to kill");
}

/// A connection to a handler that sends its own process id first.
fn introduced(path: &Path) -> (BufReader<UnixStream>, i32) {
    let mut stream = BufReader::new(connect_unix(path));
    let mut line = String::new();
    stream.read_line(&mut line).expect("a process id");
    (stream, line.trim().parse().expect("a process id"))
}

#[test]
fn killed_handlers_and_relays_affect_no_others() {
    const SLOTS: usize = 5;
    const KILLED: usize = 60;
    requires_root();
    let namespace = Namespace::new();
    namespace.private_dev();
    let syslog = Syslog::bind(namespace.path("/dev/log"));
    let directory = Directory::new();
    let socket = directory.join("socket");
    let skd = Skd::new(["-v", "-c", &SLOTS.to_string(), "-L", "tag", "-l"])
        .arg(&socket)
        .inside(&namespace)
        .run_with("sh", ["-c", "echo $$; exec cat"]);
    wait_until("there is a relay", || relay(&skd).is_some());
    let before = Holdings::in_peace(&skd);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for number in 0..2 {
            let (socket, over) = (&socket, &over);
            scope.spawn(move || {
                for turn in (number..).step_by(2) {
                    let (mut stream, _) = introduced(socket);
                    let said = bytes(turn, 20_000);
                    let mut heard = Vec::new();
                    thread::scope(|scope| {
                        let mut sending = stream.get_ref().another().unwrap();
                        scope.spawn(move || {
                            sending.write_all(&said).unwrap();
                            sending.finish().unwrap();
                        });
                        stream.read_to_end(&mut heard).unwrap();
                    });
                    assert!(heard == bytes(turn, 20_000), "{} bytes", heard.len());
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            scope.spawn(move || {
                for _ in 0..KILLED / 2 {
                    let (mut stream, handler) = introduced(socket);
                    slay(handler);
                    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
                }
            });
        }
        let _over = Over(&over);
        for _ in 0..3 {
            let killed = relay(&skd).expect("a relay");
            slay(killed);
            wait_until("there is another relay", || {
                relay(&skd).is_some_and(|relay| relay != killed && !exists(killed))
            });
        }
    });
    // No slot is lost, and log lines arrive.
    let mut streams = [(); SLOTS].map(|()| introduced(&socket));
    for (stream, _) in &mut streams {
        stream.get_mut().write_all(b"at once").unwrap();
        assert_eq!(receive(stream, 7), b"at once");
    }
    let handlers = streams.map(|(_, handler)| handler);
    for handler in handlers {
        syslog.wait_for(&format!(": pid {handler} exited with status 0 after "));
    }
    expect_as_before(&skd, &before);
    assert_eq!(skd.stop().code(), Some(0));
}

/// Kills all processes of a run, of which `known` are known, and waits until all that they held is free: for a moment a
/// dying process can't be recognised by its environment any more, and still has its descriptors.
#[track_caller]
fn slay_all(skd: Running, mut known: Vec<i32>) {
    skd.wait_until("all are killed", || {
        let living = skd.processes();
        for &pid in &living {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        known.extend(&living);
        living.is_empty()
    });
    drop(skd);
    let is_dead = |pid: &i32| threads(*pid).iter().all(|(thread, _)| !exists(*thread));
    wait_until("all are dead", || known.iter().all(is_dead));
}

/// Kills skd `kills` times, at random moments of its start, of its service and of its end, and starts it again on what
/// is left.
fn killed_at_random(kills: usize) {
    requires_root();
    let mut dice = Dice::new();
    // A network in which a port is always free.
    let namespace = Namespace::new();
    let directory = Directory::public();
    let (socket, pidfile) = (directory.name("socket"), directory.name("pid"));
    let (their_socket, their_pidfile) =
        (directory.name("their-socket"), directory.name("their-pid"));
    let other = Skd::new(["-P", &their_pidfile, "-l", &their_socket]).run("cat");
    let theirs = || {
        [&their_socket, &their_pidfile].map(|path| {
            let file = fs::symlink_metadata(path).expect("a file of the other daemon's");
            (file.dev(), file.ino())
        })
    };
    let before = theirs();
    let ours = |options: &[&str]| {
        within(&directory, options)
            .args(["-t", "127.0.0.1:7007"])
            .inside(&namespace)
    };
    let start = time_of(ours(STARTS[3]));

    let said = bytes(0, 8_000);
    let (over, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = || {
        while !over.load(Ordering::Relaxed) {
            let Ok(stream) = UnixStream::connect(&socket) else {
                thread::sleep(Duration::from_millis(1));
                continue;
            };
            let heard = exchange(stream, &said);
            assert!(heard == said || heard.is_empty(), "{} bytes", heard.len());
            answered.fetch_add(heard.len() / said.len(), Ordering::Relaxed);
        }
    };
    thread::scope(|scope| {
        scope.spawn(client);
        scope.spawn(client);
        let _over = Over(&over);
        for _ in 0..kills / 2 {
            // During its start or just after; now and then while it deals with files of another daemon.
            let options = STARTS[dice.below(6) as usize];
            let skd = match dice.below(6) {
                0 => Skd::new(["-P", &pidfile, "-l", &their_socket]).args(options),
                1 => Skd::new(["-P", &their_pidfile, "-l", &socket]).args(options),
                _ => ours(options),
            };
            let skd = skd.start("cat");
            dice.pause(start * 3 / 2);
            let known = skd.processes();
            if skd.try_wait(Duration::ZERO).is_none() {
                skd.signal(Signal::SIGKILL);
            }
            // Other processes of the run clean up, or are about to.
            dice.pause(start / 8);
            slay_all(skd, known);

            let skd = ours(STARTS[2 * dice.below(3) as usize]).run("cat");
            assert_eq!(directory.read("pid"), format!("{}\n", skd.pid()));
            let stream = skd.connect_to((Ipv4Addr::LOCALHOST, 7007).into());
            assert_eq!(talk(stream, b"back"), b"back");
            assert_eq!(talk(connect_unix(&socket), b"back"), b"back");
            dice.pause(Duration::from_millis(5));
            if dice.below(3) == 0 {
                skd.signal(Signal::SIGTERM);
                dice.pause(Duration::from_millis(2));
            }
            let known = skd.processes();
            slay_all(skd, known);
            assert_eq!(theirs(), before);
        }
    });
    println!("{} clients were answered", answered.load(Ordering::Relaxed));
    assert_eq!(ours(&["-v"]).run("cat").stop().code(), Some(0));
    assert_eq!(
        directory.names(),
        ["their-pid", "their-pid.lock", "their-socket"]
    );
    assert_eq!(
        talk(connect_unix(&their_socket), b"untouched"),
        b"untouched"
    );
    let lock = File::open(&their_pidfile).unwrap().try_lock();
    assert!(
        matches!(lock, Err(fs::TryLockError::WouldBlock)),
        "{lock:?}"
    );
    assert_eq!(directory.read("their-pid"), format!("{}\n", other.pid()));
    assert_eq!(other.stop().code(), Some(0));
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn whenever_skd_is_killed_the_next_start_works_and_other_daemons_lose_nothing() {
    killed_at_random(40);
}

#[test]
#[ignore = "takes a minute"]
fn whenever_skd_is_killed_five_hundred_times_the_next_start_works() {
    killed_at_random(500);
}
