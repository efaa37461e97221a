//! Common datagram services with their own clients; and many senders and datagrams at once.
//!
//! `cargo test --release --test behaviour datagram_services:: -- --include-ignored --nocapture` runs the large tests,
//! and prints where each datagram of a burst has gone.

use crate::harness::{
    Directory, Namespace, Running, Skd, poll_for, requires_command, requires_descriptors,
    requires_root, udp_client, wait_until,
};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

fn service(mode: &str, options: &[&str]) -> Skd {
    Skd::new(["-v", "--datagram-mode", mode]).args(options)
}

/// Runs a client, which must succeed, and returns its output.
#[track_caller]
fn client(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("a client");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout);
    assert!(
        output.status.success(),
        "{command:?}: {}: {said}{}",
        output.status,
        text(&output.stderr)
    );
    said
}

// DNS.

/// A server for one small zone. It answers each datagram that it reads, and so works in both modes.
const DNS: &str = r#"
    use Socket qw(inet_aton inet_pton AF_INET6);
    my %zone = (
        "www.example.test 1" => [map { inet_aton($_) } "192.0.2.1", "192.0.2.2"],
        "www.example.test 28" => [inet_pton(AF_INET6, "2001:db8::1")],
        "long.example.test 16" => [map { pack("C/a", chr(96 + $_) x 250) } 1 .. 12],
        "who.example.test 16" => [pack("C/a", "$ENV{REMOTE_ADDR} $ENV{UDPLOCALIP}")],
    );
    my %names = map { ((split)[0] => 1) } keys %zone;
    $| = 1;
    while (sysread(STDIN, my $query, 65536)) {
        my ($id, $flags) = unpack("nn", $query);
        my ($labels, $type) = question($query);
        my $name = lc join(".", @$labels);
        my $records = $zone{"$name $type"} // [];
        my $code = $names{$name} ? 0 : 3;
        my $answer = pack("n6", $id, 0x8400 | $flags & 0x0100 | $code, 1, scalar @$records, 0, 0);
        $answer .= pack("C/a", $_) for @$labels, "";
        $answer .= pack("n n", $type, 1);
        $answer .= pack("n n n N n/a", 0xc00c, $type, 1, 60, $_) for @$records;
        syswrite(STDOUT, $answer);
    }
    sub question {
        my ($query) = @_;
        my ($at, @labels) = 12;
        while (my $length = ord(substr($query, $at++, 1))) {
            push @labels, substr($query, $at, $length);
            $at += $length;
        }
        return (\@labels, unpack("nn", substr($query, $at, 4)));
    }
"#;

fn dns(mode: &str) {
    requires_command("dig");
    requires_command("perl");
    let skd = service(mode, &["-u", "127.0.0.1:0"]).run_with("perl", ["-e", DNS]);
    let port = skd.port().to_string();
    let dig = |words: &[&str]| {
        let mut command = Command::new("dig");
        command.args(["@127.0.0.1", "-p", &port, "+tries=1", "+time=10"]);
        client(command.args(words))
    };
    let mut both: Vec<String> = dig(&["+short", "www.example.test", "A"])
        .lines()
        .map(str::to_owned)
        .collect();
    both.sort();
    assert_eq!(both, ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(
        dig(&["+short", "WWW.example.test", "AAAA"]),
        "2001:db8::1\n"
    );
    assert_eq!(
        dig(&["+short", "who.example.test", "TXT"]),
        "\"127.0.0.1 127.0.0.1\"\n"
    );
    // An answer of more than one Ethernet frame.
    let long = dig(&["+short", "+bufsize=4096", "long.example.test", "TXT"]);
    assert_eq!(long.lines().map(str::len).collect::<Vec<_>>(), [252; 12]);
    let nobody = dig(&["nobody.example.test", "A"]);
    assert!(nobody.contains("status: NXDOMAIN"), "{nobody}");

    // Many at once, each with its own answer.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let said = dig(&[
                    "+short",
                    "www.example.test",
                    "AAAA",
                    "who.example.test",
                    "TXT",
                ]);
                assert_eq!(said, "2001:db8::1\n\"127.0.0.1 127.0.0.1\"\n");
            });
        }
    });
    assert!(skd.logged("Dropped").is_empty(), "{:?}", skd.log_lines());
}

#[test]
fn dig_is_answered_by_a_handler_for_each_datagram() {
    dns("per-packet");
}

#[test]
fn dig_is_answered_by_a_handler_for_each_sender() {
    dns("per-peer");
}

// TFTP.

#[test]
fn megabytes_are_read_and_written_by_tftp() {
    // The server drops root itself.
    requires_root();
    requires_command("curl");
    let directory = Directory::public();
    directory.chmod("", 0o777);
    let large: Vec<u8> = (0..6_000_001_u32)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    directory.write("large", &large);
    directory.chmod("large", 0o644);
    let root = directory.name("");
    // It waits a second for the next client, and then leaves that to skd.
    let skd = service("wait", &["-u", "127.0.0.1:0"]).run_with(
        "/usr/sbin/in.tftpd",
        ["--secure", "--create", "--timeout", "1", &root],
    );
    let url = |name: &str| format!("tftp://{}/{name}", skd.address());
    let own = Directory::new();
    let curl = |words: &[&str]| {
        let mut command = Command::new("curl");
        client(
            command
                .args(["--silent", "--show-error", "--max-time", "120"])
                .args(words),
        );
    };
    let fetch = |name: &str, to: &str, size: &str| {
        curl(&[
            "--tftp-blksize",
            size,
            "--output",
            &own.name(to),
            &url(name),
        ]);
        assert!(fs::read(own.join(to)).unwrap() == large, "{name} to {to}");
    };
    // Several transfers at once, of one handler: it has a child for each.
    thread::scope(|scope| {
        for (to, size) in [("a", "512"), ("b", "1428"), ("c", "8192")] {
            scope.spawn(move || fetch("large", to, size));
        }
    });
    curl(&["--upload-file", &own.name("a"), &url("new")]);
    wait_until("the file has come", || {
        fs::read(directory.join("new")).unwrap() == large
    });
    // The next client gets the next handler.
    skd.wait_until("the handler has ended", || skd.children().is_empty());
    fetch("new", "d", "8192");
    assert!(skd.logged("unread").is_empty(), "{:?}", skd.log_lines());
}

// Lines of statistics.

#[test]
fn a_shell_script_collects_lines_of_statistics() {
    const DATAGRAMS: u32 = 200;
    let directory = Directory::new();
    let line = "while IFS=':|' read -r name value kind || test -n \"$name\"; do \
                echo \"$name $kind $value $REMOTE_PORT\" >> \"$1\"; done";
    let skd = service("per-packet", &["-u", "127.0.0.1:0"])
        .run_with("sh", ["-c", line, "sh", &directory.name("lines")]);
    let client = udp_client(skd.address());
    for number in 0..DATAGRAMS {
        let bytes = format!("served:1|c\nbytes:{number}|c\nlast.{number}:{number}|g");
        client.send(bytes.as_bytes()).unwrap();
    }
    let lines = || directory.read("lines");
    wait_until("all lines have come", || {
        lines().lines().count() == 3 * DATAGRAMS as usize
    });
    let port = client.local_addr().unwrap().port().to_string();
    let mut sums = BTreeMap::new();
    for line in lines().lines() {
        let [name, kind, value, from] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        assert_eq!(from, port, "{line}");
        let sum = sums.entry(format!("{name} {kind}")).or_insert(0);
        *sum += value.parse::<u32>().unwrap();
    }
    assert_eq!(sums.remove("served c"), Some(DATAGRAMS));
    assert_eq!(sums.remove("bytes c"), Some((0..DATAGRAMS).sum()));
    for number in 0..DATAGRAMS {
        assert_eq!(sums.remove(&format!("last.{number} g")), Some(number));
    }
    assert!(sums.is_empty(), "{sums:?}");
    // No sender was answered.
    skd.wait_until("handlers are reaped", || skd.children().is_empty());
    client.set_nonblocking(true).unwrap();
    assert!(client.recv(&mut [0; 10]).is_err());
    assert!(skd.logged("Dropped").is_empty(), "{:?}", skd.log_lines());
}

// Many senders.

/// Echoes each datagram, at little more cost than its process.
const ECHO: &str = "
    #include <unistd.h>
    int main(void) {
        static char bytes[65536];
        for (ssize_t length; (length = read(0, bytes, sizeof bytes)) > 0;)
            if (write(1, bytes, length) != length) return 1;
        return 0;
    }";

/// Has `count` senders with a handler each, all at the same time, half of them at either address of the server.
/// Each datagram has other bytes; each answer must have the same, and come from the address that was asked.
fn crowd(count: usize) {
    const TURNS: usize = 4;
    /// The number of datagrams sent before the first answer is read.
    const AT_ONCE: usize = 1000;
    const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
    requires_root();
    requires_descriptors(count + 100);
    let directory = Directory::public();
    let echo = directory.compile("echo", ECHO);
    let namespace = Namespace::new();
    for address in SERVERS {
        namespace.add_address(&format!("{address}/24"));
    }
    let most = (count + 100).to_string();
    let options = [
        "-u",
        "0.0.0.0:7000",
        "--receive-buffer=16M",
        "--idle-timeout=1h",
    ];
    let mut skd = service("per-peer", &options).args(["-c", &most]);
    // skd has two descriptors for each, its end of the pair and the pidfd. A limit that is too low for both, and
    // that not every root may raise, leaves room for the first alone.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if hard < 2 * count as u64 + 500 {
        skd = skd
            .refusing(libc::SYS_clone3, Errno::ENOSYS)
            .refusing_bits(libc::SYS_clone, 0, libc::CLONE_PIDFD as u32, Errno::EINVAL)
            .refusing(libc::SYS_pidfd_open, Errno::ENOSYS);
    }
    let skd = skd.inside(&namespace).run(&echo);
    let began = Instant::now();
    let mut bytes = 0;
    namespace.enter(|| {
        let sockets: Vec<UdpSocket> = (0..count)
            .map(|_| {
                // Not connected: an answer from any address is received.
                let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                let timeout = Some(Duration::from_secs(30));
                socket.set_read_timeout(timeout).unwrap();
                socket
            })
            .collect();
        let mut answer = vec![0; 65_536];
        for turn in 0..TURNS {
            for first in (0..count).step_by(AT_ONCE) {
                let numbers = first..count.min(first + AT_ONCE);
                for number in numbers.clone() {
                    let to = (SERVERS[number % 2], 7000);
                    let request = request(number, turn);
                    bytes += request.len();
                    sockets[number].send_to(&request, to).unwrap();
                }
                for number in numbers {
                    let (length, from) = sockets[number]
                        .recv_from(&mut answer)
                        .unwrap_or_else(|error| panic!("{number} in turn {turn}: {error}"));
                    assert_eq!(from, SocketAddr::from((SERVERS[number % 2], 7000)));
                    assert!(answer[..length] == request(number, turn), "{number} {turn}");
                }
            }
            assert_eq!(skd.children().len(), count, "turn {turn}");
        }
        // No other datagrams arrive.
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv_from(&mut answer).is_err());
        }
    });
    println!(
        "{count} senders, {TURNS} datagrams each, {bytes} bytes each way: {:?}; {}",
        began.elapsed(),
        snmp(&namespace)
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect::<Vec<_>>()
            .join(", ")
    );
    assert_eq!(skd.logged("Accepted").len(), count);
    assert!(
        skd.logged("Dropped").is_empty(),
        "{:?}",
        skd.logged("Dropped")
    );
}

/// Different lengths and bytes for each sender and turn.
fn request(number: usize, turn: usize) -> Vec<u8> {
    let length = 8 + (number * 37 + turn * 11) % 1400;
    let mut state = (number * 1_000_003 + turn) as u64;
    let mut bytes = (number as u64).to_le_bytes().to_vec();
    bytes.resize_with(length, || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 56) as u8
    });
    bytes
}

#[test]
fn hundreds_of_senders_at_two_addresses_have_their_own_answers() {
    crowd(300);
}

#[test]
#[ignore = "takes long, and ten thousand processes"]
fn ten_thousand_senders_at_two_addresses_have_their_own_answers() {
    crowd(10_000);
}

// Many datagrams.

/// The kernel's UDP counters of this network namespace.
fn snmp(namespace: &Namespace) -> BTreeMap<String, u64> {
    let text = namespace.run(["cat", "/proc/thread-self/net/snmp"]);
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("Udp: "))
        .map(|line| line.split(' ').collect())
        .collect();
    let [names, values] = &rows[..] else {
        panic!("{text}");
    };
    names
        .iter()
        .zip(values)
        .map(|(name, value)| ((*name).to_owned(), value.parse().unwrap()))
        .collect()
}

/// Appends its datagram to the file that it names.
const APPEND: &str = "
    #include <fcntl.h>
    #include <unistd.h>
    int main(int count, char **words) {
        char bytes[100];
        ssize_t length = read(0, bytes, sizeof bytes);
        int file = open(words[1], O_WRONLY | O_APPEND);
        return count != 2 || length < 1 || write(file, bytes, length) != length;
    }";

/// Sends `count` datagrams at full speed. Each datagram that the kernel queued must come to one handler; the
/// kernel must have counted each of the others.
fn burst(count: usize, options: &[&str]) {
    const SENDERS: usize = 4;
    requires_root();
    let directory = Directory::public();
    let append = directory.compile("append", APPEND);
    directory.write("heard", "");
    let namespace = Namespace::new();
    let skd: Running = service("per-packet", &["-u", "127.0.0.1:7000"])
        .args(options)
        .inside(&namespace)
        .run_with(&append, [directory.name("heard")]);
    let before = snmp(&namespace);
    let since = |name: &str| (snmp(&namespace)[name] - before[name]) as usize;
    let began = Instant::now();
    namespace.enter(|| {
        thread::scope(|scope| {
            for sender in 0..SENDERS {
                scope.spawn(move || {
                    let socket = udp_client(SocketAddr::from(([127, 0, 0, 1], 7000)));
                    for number in (sender..count).step_by(SENDERS) {
                        socket.send(format!("{number:>7}\n").as_bytes()).unwrap();
                    }
                });
            }
        });
    });
    let sent = began.elapsed();
    let heard = || fs::metadata(directory.join("heard")).unwrap().len() as usize / 8;
    poll_for(Duration::from_secs(120), || {
        (heard() + since("RcvbufErrors") >= count).then_some(())
    });
    skd.wait_until("handlers are reaped", || skd.children().is_empty());
    let (taken, lost) = (since("InDatagrams"), since("RcvbufErrors"));
    println!(
        "{count} datagrams {options:?}, sent in {sent:?}, served in {:?}: {} heard, \
         InDatagrams {taken}, RcvbufErrors {lost}, InErrors {}, NoPorts {}, dropped by skd: {:?}",
        began.elapsed(),
        heard(),
        since("InErrors"),
        since("NoPorts"),
        skd.logged("Dropped")
    );
    let text = directory.read("heard");
    let mut numbers: Vec<usize> = text
        .lines()
        .map(|line| line.trim_start().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), heard(), "some were heard twice");
    assert_eq!(taken, heard());
    assert_eq!(taken + lost, count);
    assert_eq!(since("InErrors"), lost);
    assert!(skd.logged("Dropped").is_empty());
}

#[test]
fn no_queued_datagram_of_a_burst_is_lost() {
    burst(2000, &[]);
}

#[test]
#[ignore = "takes a minute, and a hundred thousand processes"]
fn no_queued_datagram_of_a_large_burst_is_lost() {
    burst(100_000, &[]);
    // With buffer space for all of them.
    burst(100_000, &["--receive-buffer=256M"]);
}
