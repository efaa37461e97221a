//! Shortages of the machine: disk space for the log and the pid file, a syslog daemon that reads, memory for
//! handlers. Descriptors and processes are in `resources.rs`.

use crate::harness::{
    Cgroup, Directory, Holdings, Instance, Namespace, Skd, Syslog, assert_idle, cpu_ticks, receive,
    relays, requires_command, talk, wait_until,
};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

/// The number of lost lines that a line reports.
fn lost_lines(line: &str) -> Option<usize> {
    let (_, line) = line.split_once("skd: ")?;
    let (number, _) = line.split_once(" lost here: ")?;
    let number = number.split(' ').next()?;
    Some(number.parse().expect("a number of lines"))
}

/// Asserts that `count` clients are served normally.
#[track_caller]
fn serve(skd: &Instance, count: usize) {
    for turn in 0..count {
        let said = format!("client {turn}");
        assert_eq!(talk(skd.connect(), said.as_bytes()), said.as_bytes());
    }
}

// The disk.

/// A disk of a few pages, mounted at /mnt.
struct Disk(Namespace);

impl Disk {
    fn new() -> Self {
        let namespace = Namespace::new();
        namespace.shell("mount -t tmpfs -o size=16k,mode=777 tmpfs /mnt");
        Self(namespace)
    }

    /// Uses all space that is left.
    fn fill(&self) {
        // dd(1) fails when the disk is full, and that is the point.
        self.0
            .shell("! dd if=/dev/zero of=/mnt/ballast bs=1024 2> /dev/null");
    }

    /// Frees the space.
    fn clear(&self) {
        fs::remove_file(self.path("ballast")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path(Path::new("/mnt").join(name))
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("")).unwrap().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Asserts that a log, which ended with `full` while the disk was full, has two whole lines for each of `connections`
/// connections, or says how many it lacks.
#[track_caller]
fn expect_every_line(log: &str, full: &str, connections: usize) {
    let rest = log.strip_prefix(full).expect("an end of the log");
    let mut arrived = log.lines().count();
    // There may have been space for the beginning of a line. No other line is appended to that.
    if !full.is_empty() && !full.ends_with('\n') {
        arrived -= 1;
        assert!(rest.starts_with('\n'), "{log}");
    }
    // Then the number of missing lines comes first.
    let next = rest.trim_start_matches('\n').lines().next();
    assert!(next.and_then(lost_lines).is_some(), "{log}");
    let lost: Vec<usize> = log.lines().filter_map(lost_lines).collect();
    println!("{lost:?} lost");
    assert_eq!(
        arrived - lost.len() + lost.iter().sum::<usize>(),
        2 * connections,
        "{log}"
    );
    for line in log.lines() {
        let starts = ["Accepted connection", "Closed connection", "skd: "];
        let text = line.split_once(' ').map_or(line, |(_, text)| text);
        let known = starts.iter().any(|start| text.starts_with(start));
        assert!(known || full.ends_with(line), "{line:?}");
    }
}

#[test]
fn a_log_on_a_full_disk_goes_on_when_there_is_room_and_says_how_many_lines_it_lacks() {
    const EACH: usize = 60;
    let disk = Disk::new();
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", ">>/mnt/log"])
        .inside(&disk.0)
        .run("cat");
    serve(&skd, 1);
    let before = Holdings::in_peace(&skd);
    let mut served = 1;
    for round in 1..=3 {
        // So much that the disk is full in the middle of a line.
        serve(&skd, 5 * round);
        disk.fill();
        let ticks = cpu_ticks(skd.pid());
        serve(&skd, EACH);
        let ticks = cpu_ticks(skd.pid()) - ticks;
        println!("{ticks} ticks for {EACH} connections without a log");
        assert!(ticks < 2 * EACH as u64, "{ticks} ticks");
        // Idle, too.
        Holdings::in_peace(&skd).expect_like(&before);
        let full = disk.read("log");
        disk.clear();
        serve(&skd, 1);
        served += 5 * round + EACH + 1;
        Holdings::in_peace(&skd);
        expect_every_line(&disk.read("log"), &full, served);
        fs::write(disk.path("log"), "").unwrap();
        served = 0;
    }
    assert_eq!(skd.log_lines(), [""; 0]);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_daemon_starts_with_a_log_on_a_full_disk() {
    let disk = Disk::new();
    disk.fill();
    let daemon = Skd::new(["-vt", "127.0.0.1:0", "-L", ">>/mnt/log"])
        .inside(&disk.0)
        .daemon("cat");
    serve(&daemon, 3);
    Holdings::in_peace(&daemon);
    assert_eq!(disk.read("log"), "");
    disk.clear();
    serve(&daemon, 1);
    Holdings::in_peace(&daemon);
    expect_every_line(&disk.read("log"), "", 4);
    daemon.stop();
}

#[test]
fn a_pid_file_on_a_full_disk_fails_the_start_and_leaves_nothing() {
    let disk = Disk::new();
    disk.fill();
    for background in ["-v", "-B"] {
        let output = Skd::new([background, "-P", "/mnt/pid", "-l", "/mnt/socket"])
            .args(["-t", "127.0.0.1:7007", "cat"])
            .inside(&disk.0)
            .end();
        output.expect_refusal(1, &["--pidfile /mnt/pid", "No space left"]);
        assert_eq!(disk.names(), ["ballast"], "{background}");
    }
    // The next start takes it over.
    disk.clear();
    let skd = Skd::new(["-P", "/mnt/pid", "-t", "127.0.0.1:7007"])
        .inside(&disk.0)
        .run("cat");
    assert_eq!(disk.read("pid"), format!("{}\n", skd.pid()));
    serve(&skd, 1);
}

// Syslog.

/// For each line of input, prints as many lines on standard error as it says, all of them different.
const CHATTER: &str = "$| = 1; $0 = 0; while (<STDIN>) { \
    for my $line (1..$_) { printf STDERR qq(said %06d %s\\n), ++$said, q(.) x 80 } print qq(done\\n) }";

#[test]
fn a_syslog_that_does_not_read_or_is_not_there_holds_up_no_handler_for_good() {
    // Far more than its queue and the pipe hold.
    const MANY: usize = 5_000;
    requires_command("perl");
    for (stop, start) in [
        (Syslog::stick as fn(&Syslog), Syslog::unstick as fn(&Syslog)),
        (Syslog::stop, Syslog::restart),
    ] {
        let namespace = Namespace::new();
        namespace.private_dev();
        let syslog = Syslog::bind(namespace.path("/dev/log"));
        let skd = Skd::new(["-t", "127.0.0.1:0", "-L", "tag", "--linger=0s"])
            .inside(&namespace)
            .run_with("perl", ["-e", CHATTER]);
        let mut said = 0;
        let mut chatter = skd.connect();
        let mut say = |lines: usize| {
            writeln!(chatter, "{lines}").unwrap();
            assert_eq!(receive(&mut chatter, 5), b"done\n");
            said += lines;
            said
        };
        say(1);
        syslog.wait_for("said 000001");
        let before = Holdings::of(&skd);
        for _ in 0..2 {
            stop(&syslog);
            // A writer waits once for a second, in case the daemon is being restarted, and then no more.
            say(MANY);
            // Others don't wait at all, since none of their lines are pending.
            for _ in 0..20 {
                let mut client = skd.connect();
                writeln!(client, "0").unwrap();
                assert_eq!(receive(&mut client, 5), b"done\n");
            }
            // Neither skd nor the relay is busy while waiting.
            assert_idle(&[vec![skd.pid()], relays(&skd)].concat());
            start(&syslog);
            let total = say(1);
            // Every line arrived or is counted as lost.
            wait_until("every line is accounted for", || {
                let messages = syslog.messages();
                let lost = messages.iter().filter_map(|it| lost_lines(&it.text));
                let arrived = messages.iter().filter(|it| it.text.contains(": said "));
                arrived.count() + lost.sum::<usize>() == total
            });
            let total = say(1);
            syslog.wait_for(&format!("said {total:06} "));
        }
        println!(
            "{} messages of {said} lines",
            syslog.logged(": said ").len()
        );
        drop(chatter);
        Holdings::in_peace(&skd).expect_like(&Holdings {
            descriptors: before.descriptors - 1,
            ..before
        });
        assert_eq!(skd.stop().code(), Some(0));
    }
}

// Memory.

/// Echoes its input, and allocates memory without end if told so.
const EATER: &str = "
    #include <stdlib.h>
    #include <unistd.h>
    int main(void) {
        char said[64];
        for (ssize_t length; (length = read(0, said, sizeof said)) > 0;) {
            if (write(1, said, length) != length) return 1;
            while (said[0] == 'e') *(volatile char *)malloc(1024) = 1;
        }
        return 0;
    }";

#[test]
#[ignore = "needs a cgroup in which to make others: SKD_CGROUP"]
fn handlers_that_are_killed_for_their_memory_are_reported_and_others_served() {
    const EATERS: usize = 5;
    const ROUNDS: usize = 3;
    const MIB: u64 = 1024 * 1024;
    let directory = Directory::new();
    let cgroup = Cgroup::new(32 * MIB);
    let socket = directory.name("socket");
    let eater = directory.compile("eater", EATER);
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "-l", &socket])
        .wrapper(cgroup.prefix())
        .run(eater);
    assert!(cgroup.processes().contains(&skd.pid()));
    let idle = Holdings::of(&skd).descriptors;
    assert_eq!(talk(skd.connect(), b"warm\n"), b"warm\n");
    let held = || {
        skd.wait_until("all are reaped", || skd.children().is_empty());
        // Handlers are reaped first, and their descriptors closed then.
        let mut held = Holdings::of(&skd);
        skd.wait_until("their descriptors are closed", || {
            held = Holdings::of(&skd);
            held.descriptors <= idle
        });
        held
    };
    let before = held();
    for round in 1..=ROUNDS {
        thread::scope(|scope| {
            for _ in 0..EATERS {
                scope.spawn(|| assert_eq!(talk(skd.connect(), b"eat\n"), b"eat\n"));
            }
            // The process that allocates is killed before others.
            for _ in 0..2 {
                scope.spawn(|| {
                    for turn in 0..20 {
                        let said = format!("honest {turn}\n");
                        let heard = talk(crate::harness::connect_unix(&socket), said.as_bytes());
                        assert_eq!(heard, said.as_bytes());
                    }
                });
            }
        });
        skd.wait_for_logs("was terminated by signal 9 after", EATERS * round);
        held().expect_like(&before);
        println!(
            "round {round}: {} were killed for their memory",
            cgroup.kills()
        );
        assert_eq!(cgroup.kills(), EATERS * round);
    }
    let ends = skd.logged("Closed connection from ");
    let killed = skd.logged("was terminated by signal 9 after");
    assert_eq!(
        (ends.len(), killed.len()),
        (1 + ROUNDS * EATERS, ROUNDS * EATERS)
    );
    assert_eq!(
        skd.logged("exited with status 0 after ").len(),
        1 + ROUNDS * 2 * 20
    );
    assert_eq!(talk(skd.connect(), b"after\n"), b"after\n");
    assert_eq!(skd.stop().code(), Some(0));
}
