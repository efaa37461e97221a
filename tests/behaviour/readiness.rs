//! Notices that skd is ready, and of its state: to the service manager behind NOTIFY_SOCKET, and to the reader of the
//! descriptor of `--ready-fd`.

use crate::harness::{
    Directory, Notice, Running, ServiceManager, Skd, ask_udp, children, close_unix, datagram_echo,
    descriptors, echo, environment, poll_for, requires_command, requires_root, run_to_end,
    switches, talk, wait_asleep, wait_for, wait_for_text,
};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write, pipe};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Ids without an account.
const UID: u32 = 61234;
const GID: u32 = 61235;

/// A skd with this service manager.
fn managed<const N: usize>(manager: &ServiceManager, options: [&str; N]) -> Skd {
    Skd::new(options).env("NOTIFY_SOCKET", manager.address())
}

/// The text of the READY=1 notice.
fn ready(pid: i32, status: &str) -> String {
    format!("READY=1\nMAINPID={pid}\nSTATUS={status}")
}

#[track_caller]
fn texts(notices: &[Notice]) -> Vec<&str> {
    notices.iter().map(|notice| notice.text.as_str()).collect()
}

// The service manager.

#[test]
fn the_service_manager_is_notified_by_path_and_by_abstract_name() {
    for manager in [ServiceManager::new(), ServiceManager::without_a_path()] {
        let directory = Directory::new();
        let pidfile = directory.name("pid");
        let socket = directory.name("socket");
        let skd = managed(&manager, ["-c", "40", "-P", &pidfile, "-l", &socket]).start("cat");
        let told = manager.wait_for("READY=1");
        // Everything is ready at once.
        let mut client = skd.connect_unix();
        assert_eq!(directory.read("pid"), format!("{}\n", skd.pid()));
        echo(&mut client, b"there");
        assert_eq!(told.text, ready(skd.pid(), "0 of 40 handlers, 0 served"));
        assert_eq!(told.pid, skd.pid());
        assert_eq!(skd.stop().code(), Some(0));
        let last = manager.wait_for("STOPPING=1");
        assert_eq!((last.text.as_str(), last.pid), ("STOPPING=1", skd.pid()));
        assert_eq!(skd.log_lines(), [""; 0]);
        let told = manager.notices();
        assert_eq!(told.last(), Some(&last), "{told:#?}");
    }
}

#[test]
fn the_notices_come_from_the_main_process_after_chroot_and_drop() {
    requires_root();
    let root = Directory::public();
    root.install(&["/bin/cat"]);
    for background in [false, true] {
        let manager = ServiceManager::new();
        let log = Directory::public();
        let skd = managed(&manager, ["-U", "-t", "127.0.0.1:0"])
            .env("UID", UID.to_string())
            .env("GID", GID.to_string())
            .env("ROOT", root.path())
            .env("WATCHDOG_USEC", "200000")
            .args(["-L", &format!(">>{}", log.name("log"))]);
        let (_daemon, _running);
        let instance = if background {
            _daemon = skd.daemon("/bin/cat");
            &*_daemon
        } else {
            _running = skd.run("/bin/cat");
            &*_running
        };
        let before = manager.wait_for("READY=1");
        let mut client = instance.connect();
        echo(&mut client, b"there");
        manager.wait_for("STATUS=1 handler, 1 served");
        instance.signal(Signal::SIGHUP);
        manager.wait_for_more("READY=1", 2);
        manager.wait_for_more("WATCHDOG=1", 3);
        instance.signal(Signal::SIGTERM);
        manager.wait_for("STOPPING=1");
        let told = manager.notices();
        let mut told = told.iter().skip_while(|notice| **notice != before);
        let from = (instance.pid(), UID, GID);
        assert!(
            told.all(|notice| (notice.pid, notice.uid, notice.gid) == from),
            "{from:?} {:#?}",
            manager.notices()
        );
    }
}

#[test]
fn in_the_background_the_launcher_names_the_daemon_and_the_daemon_sends_the_rest() {
    let manager = ServiceManager::new();
    let directory = Directory::new();
    // As systemd sets it, for the process that it starts.
    let shell = "export WATCHDOG_PID=$$; exec \"$@\"";
    let launcher = managed(&manager, ["-B", "-t", "127.0.0.1:0", "-P"])
        .arg(directory.join("pid"))
        .env("WATCHDOG_USEC", "100000")
        .wrapper(["sh", "-c", shell, "sh"])
        .start("cat");
    assert_eq!(launcher.wait().code(), Some(0));
    let daemon: i32 = directory.read("pid").trim().parse().unwrap();
    manager.wait_for_more("WATCHDOG=1", 2);
    let told = manager.notices();
    // The wrapper has become the launcher, which may have ended before the harness looked for it.
    assert_ne!(daemon, launcher.first_pid());
    assert_eq!(told[0].text, format!("MAINPID={daemon}"));
    assert_eq!(told[0].pid, launcher.first_pid());
    assert_eq!(told[1].text, ready(daemon, "0 handlers, 0 served"));
    assert!(told[1..].iter().all(|notice| notice.pid == daemon));
    kill(Pid::from_raw(daemon), Signal::SIGTERM).unwrap();
    manager.wait_for("STOPPING=1");
}

#[test]
fn a_failed_start_is_never_ready() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (options, prog, code) in [
        (vec!["-t", &address], "cat", 1),
        (vec!["-t", "127.0.0.1:0"], "no-such-program", 127),
        (vec!["-t", "127.0.0.1:0", "--chdir", "/no/such"], "cat", 1),
    ] {
        for background in [None, Some("-B")] {
            let manager = ServiceManager::new();
            let (mut reader, writer) = pipe().unwrap();
            let skd = managed(&manager, ["--ready-fd", "3"])
                .descriptor(3, writer)
                .args(background)
                .args(&options)
                .start(prog);
            assert_eq!(skd.wait().code(), Some(code));
            drop(skd);
            let mut read = Vec::new();
            reader.read_to_end(&mut read).unwrap();
            assert_eq!(read, b"");
            let told = manager.told_but("MAINPID");
            assert!(told.is_empty(), "{options:?} {told:?}");
        }
    }
}

#[test]
fn an_unreachable_service_manager_fails_the_start() {
    let directory = Directory::new();
    let nobody = directory.name("nobody");
    close_unix(
        std::os::unix::net::UnixDatagram::bind(&nobody).unwrap(),
        &nobody,
    );
    let long = format!("/{}", "x".repeat(200));
    let file = directory.write("file", "").display().to_string();
    let missing = directory.name("missing");
    let before = directory.names();
    for (address, why) in [
        (missing.as_str(), "No such file or directory"),
        (&nobody, "Connection refused"),
        (&file, "Connection refused"),
        ("@skd-test-nobody", "Connection refused"),
        (&long, "can't be reached"),
        ("vsock:2:1234", "unix socket"),
        ("vsock-dgram:2:1234", "unix socket"),
        ("run/notify", "absolute path"),
    ] {
        for background in [None, Some("-B")] {
            Skd::new([
                "-l",
                &directory.name("socket"),
                "-P",
                &directory.name("pid"),
            ])
            .args(["-L", &format!(">{}", directory.name("log"))])
            .args(background)
            .env("NOTIFY_SOCKET", address)
            .start("cat")
            .expect_refusal(1, &[&format!("NOTIFY_SOCKET={address}: "), why]);
            assert_eq!(directory.names(), before);
        }
    }
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .env("NOTIFY_SOCKET", "")
        .env("WATCHDOG_USEC", "")
        .run("cat");
    assert_eq!(talk(skd.connect(), b"there"), b"there");
}

#[test]
fn a_stuck_service_manager_delays_nothing_and_is_notified_in_the_end() {
    let manager = ServiceManager::new();
    manager.stick();
    let skd = managed(&manager, ["-t", "127.0.0.1:0"])
        .env("WATCHDOG_USEC", "100000")
        .run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"there");
    let line = skd.wait_for_log("skd: the service manager on NOTIFY_SOCKET=");
    assert!(line.ends_with("can't be told: it reads nothing"), "{line}");
    skd.signal(Signal::SIGHUP);
    echo(&mut client, b"still there");
    manager.unstick();
    // Notices that were due before the reload are obsolete.
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    let owed = manager.told_but("FILLER");
    let owed: Vec<_> = owed
        .iter()
        .filter(|notice| !notice.text.starts_with("WATCHDOG"))
        .collect();
    assert!(owed[0].text.starts_with("RELOADING=1"), "{owed:?}");
    // The handler may have answered before it was counted.
    assert!(owed[1].text.starts_with("READY=1\nMAINPID="), "{owed:?}");
    // Once, however often the manager took nothing.
    assert_eq!(skd.log_lines().len(), 1);
    manager.stick();
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn skd_outlives_its_service_manager() {
    let manager = ServiceManager::new();
    let skd = managed(&manager, ["-t", "127.0.0.1:0"])
        .env("WATCHDOG_USEC", "20000")
        .run("cat");
    manager.wait_for("READY=1");
    manager.leave();
    let line = skd.wait_for_log("skd: the service manager on NOTIFY_SOCKET=");
    assert!(
        line.ends_with("can't be told: Connection refused"),
        "{line}"
    );
    assert_eq!(talk(skd.connect(), b"there"), b"there");
    skd.signal(Signal::SIGHUP);
    assert_eq!(talk(skd.connect(), b"there"), b"there");
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(skd.log_lines().len(), 1);
}

// Reloading and stopping.

fn monotonic() -> u128 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_micros()
}

#[test]
fn hup_is_a_reload_under_a_service_manager() {
    for (with_log, background) in [(false, false), (true, false), (false, true), (true, true)] {
        let manager = ServiceManager::new();
        let directory = Directory::new();
        let log = format!(">>{}", directory.name("log"));
        let skd = managed(&manager, ["-t", "127.0.0.1:0"])
            .args(with_log.then_some("-L"))
            .args(with_log.then_some(&log));
        let (_daemon, _running);
        let instance = if background {
            _daemon = skd.daemon("cat");
            &*_daemon
        } else {
            _running = skd.run("cat");
            &*_running
        };
        manager.wait_for("READY=1");
        for round in 1..=3 {
            let before = monotonic();
            if with_log {
                fs::rename(directory.join("log"), directory.join("old")).unwrap();
            }
            instance.signal(Signal::SIGHUP);
            manager.wait_for_more("READY=1", round + 1);
            let after = monotonic();
            // It has been done by then.
            assert_eq!(directory.join("log").exists(), with_log);
            let told = manager.notices();
            let told = &told[told.len() - 2..];
            assert!(told[0].text.starts_with("RELOADING=1\n"), "{told:?}");
            let at: u128 = told[0].get("MONOTONIC_USEC").unwrap().parse().unwrap();
            assert!((before..=after).contains(&at), "{before} {at} {after}");
            assert_eq!(told[1].text, ready(instance.pid(), "0 handlers, 0 served"));
        }
        assert_eq!(manager.told("RELOADING=1").len(), 3);
        assert_eq!(talk(instance.connect(), b"there"), b"there");
    }
}

#[test]
fn a_failed_reload_ends_as_well() {
    let manager = ServiceManager::new();
    let directory = Directory::new();
    let log = directory.join("log");
    let skd = managed(&manager, ["-t", "127.0.0.1:0", "-L"])
        .arg(format!(">>{}", log.display()))
        .run("cat");
    manager.wait_for("READY=1");
    fs::rename(&log, directory.join("old")).unwrap();
    fs::create_dir(&log).unwrap();
    skd.signal(Signal::SIGHUP);
    manager.wait_for("RELOADING=1");
    manager.wait_for_more("READY=1", 2);
    wait_for_text(directory.join("old"), "can't be opened again");
}

#[test]
fn every_signal_that_ends_skd_is_notified() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let manager = ServiceManager::new();
        let skd = managed(&manager, ["-t", "127.0.0.1:0"]).run("cat");
        let mut client = skd.connect();
        echo(&mut client, b"there");
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(0));
        let told = manager.told("STOPPING=1");
        assert_eq!(texts(&told), ["STOPPING=1"], "{signal}");
        assert_eq!(told[0].pid, skd.pid());
    }
}

#[test]
fn a_hup_during_a_drain_sends_no_ready_notice() {
    let manager = ServiceManager::new();
    let directory = Directory::new();
    let log = directory.join("log");
    let skd = managed(&manager, ["-t", "127.0.0.1:0", "--drain", "1h", "-L"])
        .arg(format!(">>{}", log.display()))
        .run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"there");
    // A notice that is still due isn't forgotten either.
    manager.stick();
    skd.signal(Signal::SIGTERM);
    wait_for_text(&log, "can't be told");
    fs::rename(&log, directory.join("old")).unwrap();
    skd.signal(Signal::SIGHUP);
    wait_for("the log is opened again", || log.exists().then_some(()));
    manager.unstick();
    manager.wait_for("STOPPING=1");
    drop(client);
    assert_eq!(skd.wait().code(), Some(0));
    assert_eq!(manager.told("RELOADING=1"), []);
    assert_eq!(manager.told("READY=1").len(), 1);
}

// The numbers.

#[test]
fn the_status_has_the_numbers_of_present_and_of_all_handlers() {
    let manager = ServiceManager::new();
    let (prog, args) = datagram_echo();
    let skd = managed(&manager, ["-c", "3", "-u", "127.0.0.1:0"])
        .args(["-t", "127.0.0.1:0"])
        .run_with(prog, args);
    // One for the datagrams, beside those of the connections.
    let first = manager.wait_for("READY=1");
    assert_eq!(first.get("STATUS"), Some("0 of 4 handlers, 0 served"));
    ask_udp(skd.addresses()[0], b"hello");
    manager.wait_for("STATUS=0 of 4 handlers, 1 served");

    let manager = ServiceManager::new();
    let skd = managed(&manager, ["-t", "127.0.0.1:0"]).run("cat");
    let mut clients: Vec<TcpStream> = (0..12).map(|_| skd.connect()).collect();
    for client in &mut clients {
        echo(client, b"there");
    }
    manager.wait_for("STATUS=12 handlers, 12 served");
    clients.truncate(1);
    manager.wait_for("STATUS=1 handler, 12 served");
    drop(clients);
    manager.wait_for("STATUS=0 handlers, 12 served");
}

#[test]
fn a_killed_handler_is_counted_and_a_program_that_cannot_be_run_is_not() {
    let manager = ServiceManager::new();
    let directory = Directory::new();
    let prog = directory.script("prog", "#!/bin/sh\nexec cat\n");
    let skd = managed(&manager, ["-t", "127.0.0.1:0"]).run(&prog);
    let mut client = skd.connect();
    echo(&mut client, b"there");
    kill(Pid::from_raw(skd.wait_for_children(1)[0]), Signal::SIGKILL).unwrap();
    fs::remove_file(&prog).unwrap();
    assert_eq!(talk(skd.connect(), b""), b"");
    skd.wait_for_log("No such file or directory");
    manager.wait_for("STATUS=0 handlers, 1 served");
    directory.script("prog", "#!/bin/sh\nexec cat\n");
    assert_eq!(talk(skd.connect(), b"again"), b"again");
    manager.wait_for("STATUS=0 handlers, 2 served");
}

#[test]
fn the_status_is_sent_at_most_once_a_second_and_ends_with_the_last_number() {
    let manager = ServiceManager::new();
    let begun = Instant::now();
    let skd = managed(&manager, ["-t", "127.0.0.1:0"]).run("true");
    let mut count: u64 = 0;
    while begun.elapsed() < Duration::from_millis(2500) {
        talk(skd.connect(), b"");
        count += 1;
    }
    // More than a thousand may be sent so.
    let served = |notice: &Notice| {
        let numbers = notice.get("STATUS")?.strip_prefix("0 handlers, ")?;
        numbers
            .strip_suffix(" served")?
            .replace(',', "")
            .parse()
            .ok()
    };
    wait_for("the last number", || {
        let told = manager.told("STATUS=");
        (told.last().and_then(served) == Some(count)).then_some(())
    });
    let most = begun.elapsed().as_secs() + 1;
    let told = manager.told("STATUS=");
    assert!(told.len() as u64 <= most, "{} s: {told:#?}", most - 1);
    assert!(told.len() > 1);
}

#[test]
fn an_idle_skd_does_not_wake_up() {
    let manager = ServiceManager::new();
    let skd = managed(&manager, ["-t", "127.0.0.1:0"]).run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"there");
    manager.wait_for("STATUS=1 handler, 1 served");
    // It may not have gone back to sleep yet.
    wait_asleep(skd.pid());
    let before = switches(skd.pid());
    let woken = || (switches(skd.pid()) != before).then_some(());
    assert_eq!(poll_for(Duration::from_millis(2500), woken), None);
    assert_eq!(manager.notices().len(), 2, "{:#?}", manager.notices());
}

// The watchdog.

#[test]
fn the_watchdog_is_notified_without_clients_without_slots_and_without_connections() {
    let manager = ServiceManager::new();
    let more = || manager.wait_for_more("WATCHDOG=1", manager.told("WATCHDOG=1").len() + 4);
    let skd = managed(&manager, ["-c", "1", "-t", "127.0.0.1:0"])
        .env("WATCHDOG_USEC", "100000")
        .run("cat");
    more();
    let mut client = skd.connect();
    echo(&mut client, b"there");
    let _waiting = skd.connect();
    more();
    drop(client);
    more();
    drop(skd);
    let (prog, args) = datagram_echo();
    let _skd = managed(&manager, ["-u", "127.0.0.1:0"])
        .env("WATCHDOG_USEC", "100000")
        .run_with(prog, args);
    more();
}

#[test]
fn the_watchdog_of_another_process_is_not_notified() {
    let manager = ServiceManager::new();
    let skd = managed(&manager, ["-t", "127.0.0.1:0"])
        .env("WATCHDOG_USEC", "2000")
        .env("WATCHDOG_PID", "1")
        .run("cat");
    assert_eq!(talk(skd.connect(), b"there"), b"there");
    // This takes a second.
    manager.wait_for("STATUS=0 handlers, 1 served");
    assert!(manager.told("WATCHDOG").is_empty());
}

#[test]
fn a_malformed_watchdog_time_fails_the_start() {
    let manager = ServiceManager::new();
    for (name, value) in [
        ("WATCHDOG_USEC", "0"),
        ("WATCHDOG_USEC", "soon"),
        ("WATCHDOG_USEC", "+1"),
        ("WATCHDOG_USEC", "18446744073709551615"),
        ("WATCHDOG_USEC", "18446744073709551616"),
        ("WATCHDOG_PID", "me"),
    ] {
        managed(&manager, ["-t", "127.0.0.1:0"])
            .env("WATCHDOG_USEC", "1000000")
            .env(name, value)
            .start("cat")
            .expect_refusal(1, &[&format!("{name}={value}: ")]);
    }
    // Practically never.
    let skd = managed(&manager, ["-t", "127.0.0.1:0"])
        .env("WATCHDOG_USEC", "18446744073709551614")
        .run("cat");
    assert_eq!(talk(skd.connect(), b"there"), b"there");
    manager.wait_for("WATCHDOG=1");
}

/// A lease on a file (fcntl(2)): until it is released, no process can open or execute the file, as on a file server
/// that is down. The kernel breaks it after 45 seconds.
struct Lease(Child);

impl Lease {
    fn on(path: &Path) -> Self {
        requires_command("python3");
        let script = "import fcntl, os, sys\n\
                      file = os.open(sys.argv[1], os.O_RDONLY)\n\
                      fcntl.fcntl(file, fcntl.F_SETSIG, 23)  # SIGURG, which harms nobody\n\
                      fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n\
                      print(flush=True)\n\
                      sys.stdin.read()\n";
        let mut holder = Command::new("python3")
            .args(["-c", script])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(holder.stdout.take().unwrap());
        assert_eq!(
            output.read_line(&mut line).unwrap(),
            1,
            "no lease on {path:?}"
        );
        Self(holder)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_watchdog_is_not_notified_while_a_thread_is_stuck() {
    let manager = ServiceManager::new();
    let directory = Directory::new();
    let prog = directory.script("prog", "#!/bin/sh\nexec cat\n");
    let skd = managed(&manager, ["--threads", "2", "-t", "127.0.0.1:0"])
        .env("WATCHDOG_USEC", "100000")
        .run(&prog);
    manager.wait_for("WATCHDOG=1");
    let lease = Lease::on(&prog);
    let stuck = skd.connect();
    // A vfork child that can't execute PROG.
    skd.wait_for_children(1);
    // One notice may have been on its way, and one more depends on which thread answered before.
    let last = || manager.told("WATCHDOG=1").len();
    let mut before = last();
    wait_for("it is silent", || {
        let heard = poll_for(Duration::from_secs(1), || (last() != before).then_some(()));
        before = last();
        heard.is_none().then_some(())
    });
    // The main thread still works.
    skd.signal(Signal::SIGHUP);
    manager.wait_for("RELOADING=1");
    assert_eq!(last(), before);
    drop(lease);
    assert_eq!(talk(stuck, b"after all"), b"after all");
    manager.wait_for_more("WATCHDOG=1", before + 3);
}

// What a handler sees.

#[test]
fn handlers_do_not_see_the_variables() {
    let manager = ServiceManager::new();
    let (_reader, writer) = pipe().unwrap();
    let skd = managed(&manager, ["-t", "127.0.0.1:0", "--ready-fd", "7"])
        .env("WATCHDOG_USEC", "1000000")
        .env("WATCHDOG_PID", "1")
        .descriptor(7, writer)
        .run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"there");
    let handler = skd.wait_for_children(1)[0];
    let open: Vec<i32> = descriptors(handler).into_keys().collect();
    assert_eq!(open, [0, 1, 2]);
    let variables = environment(handler);
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert_eq!(variables.get(name), None, "{name}");
    }
}

// Without a listener.

/// A PROG that prints its variables, and notifies the manager itself.
const SELF: (&str, [&str; 2]) = (
    "perl",
    [
        "-e",
        "use Socket; socket my $s, PF_UNIX, SOCK_DGRAM, 0; \
         send $s, \"READY=1\\nPROG=$$\", 0, pack_sockaddr_un($ENV{NOTIFY_SOCKET}) or die $!; \
         $| = 1; print \"$ENV{WATCHDOG_USEC} $ENV{WATCHDOG_PID}\\n\"; sleep 1000",
    ],
);

#[test]
fn a_program_run_in_place_notifies_for_itself() {
    requires_command("perl");
    let shell = "export WATCHDOG_PID=$$; exec \"$@\"";
    for background in [None, Some("-B")] {
        let manager = ServiceManager::new();
        let (mut lines, output) = pipe().map(|(out, to)| (BufReader::new(out), to)).unwrap();
        let skd = managed(&manager, ["-v"])
            .args(background)
            .env("WATCHDOG_USEC", "4000000")
            .stdout(output)
            .wrapper(["sh", "-c", shell, "sh"])
            .start_with(SELF.0, SELF.1);
        let told = manager.wait_for("READY=1");
        assert_eq!(told.text, format!("READY=1\nPROG={}", told.pid));
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        // The process whose notices the manager expects, as with -B the launcher had to tell it.
        assert_eq!(line, format!("4000000 {}\n", told.pid));
        let rest = manager.told_but("READY=1");
        match background {
            None => {
                assert_eq!(told.pid, skd.pid());
                assert!(rest.is_empty(), "{rest:?}");
            }
            Some(_) => {
                assert_ne!(told.pid, skd.pid());
                assert_eq!(texts(&rest), [format!("MAINPID={}", told.pid)]);
                assert_eq!(rest[0].pid, skd.pid());
            }
        }
    }
}

#[test]
fn a_supervised_program_notifies_for_itself() {
    requires_command("perl");
    for (pid, left) in [("$$", ""), ("1", "1")] {
        let manager = ServiceManager::new();
        let shell = format!("export WATCHDOG_PID={pid}; exec \"$@\"");
        let skd = managed(&manager, ["-S"])
            .env("WATCHDOG_USEC", "4000000")
            .wrapper(["sh", "-c", &shell, "sh"])
            .start_with(SELF.0, SELF.1);
        let told = manager.wait_for("READY=1");
        assert_eq!(skd.wait_for_children(1), [told.pid]);
        // Without a pid: for any process. A pid of another process stays.
        assert_eq!(skd.stdout_line(), format!("4000000 {left}"));
        skd.signal(Signal::SIGTERM);
        skd.wait();
        assert_eq!(manager.notices().len(), 1, "{:?}", manager.notices());
    }
}

#[test]
fn skd_notifies_for_a_program_with_sockets() {
    for demand in [None, Some("--on-demand")] {
        let manager = ServiceManager::new();
        manager.stick();
        let skd = managed(&manager, ["-S", "-t", "127.0.0.1:0"])
            .args(demand)
            .env("WATCHDOG_USEC", "200000")
            .run_with("sleep", ["1000"]);
        let started = demand.is_none();
        skd.wait_for_log("skd: the service manager on NOTIFY_SOCKET=");
        manager.unstick();
        let status = "the sockets are open";
        assert_eq!(manager.wait_for("READY=1").text, ready(skd.pid(), status));
        manager.wait_for_more("WATCHDOG=1", 4);
        skd.wait_for_children(usize::from(started));
        skd.signal(Signal::SIGTERM);
        manager.wait_for("STOPPING=1");
        skd.wait();
        let others = manager.told_but("FILLER");
        assert!(others.iter().all(|notice| notice.pid == skd.pid()));
    }
}

// --ready-fd.

/// Everything that is written to a pipe until its end, read in a thread of its own.
fn all_of(mut reader: PipeReader) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    })
}

#[test]
fn a_descriptor_gets_a_newline_and_is_closed() {
    for number in [3, 7, 40, 64, 70, 200] {
        for background in [None, Some("-B")] {
            let directory = Directory::new();
            let socket = directory.name("socket");
            let (reader, writer) = pipe().unwrap();
            let skd = Skd::new(["-l", &socket, "--ready-fd", &number.to_string()])
                .args(background)
                .descriptor(number, writer)
                .start("cat");
            // To its end, while skd lives.
            assert_eq!(all_of(reader).join().unwrap(), "\n");
            assert_eq!(talk(skd.connect_unix(), b"there"), b"there");
        }
    }
}

#[test]
fn standard_output_can_be_that_descriptor() {
    for background in [None, Some("-B")] {
        let directory = Directory::new();
        let socket = directory.name("socket");
        let (reader, writer) = pipe().unwrap();
        let skd = Skd::new(["-l", &socket, "--ready-fd", "1"])
            .args(background)
            .stdout(writer)
            .start("cat");
        assert_eq!(all_of(reader).join().unwrap(), "\n");
        assert_eq!(talk(skd.connect_unix(), b"there"), b"there");
        if background.is_none() {
            assert_eq!(descriptors(skd.pid())[&1], "/dev/null");
            assert_eq!(skd.stop().code(), Some(0));
        }
    }
    // After the port, where one is printed.
    let skd = Skd::new(["-t", "127.0.0.1:0", "--ready-fd", "1"]).run("cat");
    assert_eq!(talk(skd.connect(), b"there"), b"there");
    skd.wait_until("the newline", || skd.stdout_lines().len() == 2);
    assert_eq!(skd.stdout_lines()[1], "");
}

#[test]
fn the_descriptor_is_kept_after_chroot_and_drop() {
    requires_root();
    let root = Directory::public();
    root.install(&["/bin/cat"]);
    for number in ["1", "5"] {
        let directory = Directory::new();
        let socket = directory.name("socket");
        let (reader, writer) = pipe().unwrap();
        let skd = Skd::new(["-U", "-l", &socket, "--ready-fd", number])
            .env("UID", UID.to_string())
            .env("GID", GID.to_string())
            .env("ROOT", root.path());
        let skd = match number {
            "1" => skd.stdout(writer),
            _ => skd.descriptor(5, writer),
        };
        let skd = skd.start("/bin/cat");
        assert_eq!(all_of(reader).join().unwrap(), "\n");
        assert_eq!(talk(skd.connect_unix(), b"there"), b"there");
    }
}

#[test]
fn the_newline_comes_after_the_exec_of_a_supervised_program_which_does_not_have_the_descriptor() {
    for background in [None, Some("-B")] {
        let directory = Directory::new();
        let (reader, writer) = pipe().unwrap();
        let pidfile = directory.name("pid");
        let _skd = Skd::new(["-S", "--ready-fd", "9", "-P", &pidfile])
            .args(background)
            .descriptor(9, writer)
            .start_with("sleep", ["1000"]);
        assert_eq!(all_of(reader).join().unwrap(), "\n");
        let skd: i32 = directory.read("pid").trim().parse().unwrap();
        let program = children(skd);
        assert_eq!(program.len(), 1);
        let command = fs::read(format!("/proc/{}/cmdline", program[0])).unwrap();
        assert_eq!(command, b"sleep\x001000\0");
        assert!(!descriptors(program[0]).contains_key(&9));
    }
}

#[test]
fn a_supervised_program_that_cannot_be_executed_is_not_ready() {
    let (reader, writer) = pipe().unwrap();
    let skd = Skd::new(["-S", "--ready-fd", "3"])
        .descriptor(3, writer)
        .start("no-such-program");
    assert_eq!(skd.wait().code(), Some(127));
    assert_eq!(all_of(reader).join().unwrap(), "");
}

/// A full pipe.
fn full() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    let mut filler = writer.try_clone().unwrap();
    let size = nix::fcntl::fcntl(&filler, nix::fcntl::FcntlArg::F_GETPIPE_SZ).unwrap();
    filler.write_all(&vec![b'x'; size as usize]).unwrap();
    (reader, writer)
}

#[test]
fn a_descriptor_without_a_reader_is_logged_and_does_not_end_skd() {
    let told = |skd: Running, why: &str| {
        let line = skd.wait_for_log("skd: --ready-fd 3: the newline can't be written: ");
        assert!(line.ends_with(why), "{line}");
        assert_eq!(talk(skd.connect(), b"there"), b"there");
    };
    let skd = || Skd::new(["-t", "127.0.0.1:0", "--ready-fd", "3"]);
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    told(skd().descriptor(3, writer).run("cat"), "Broken pipe");
    let (_reader, writer) = full();
    told(
        skd().descriptor(3, writer).run("cat"),
        "its reader is stuck",
    );
}

#[test]
fn a_closed_or_unwritable_descriptor_is_refused() {
    let directory = Directory::new();
    let socket = directory.name("socket");
    for options in [&["-l", &socket][..], &["-S"]] {
        for background in [None, Some("-B")] {
            let skd = || Skd::new(["--ready-fd", "5"]).args(options).args(background);
            skd().start("cat").expect_refusal(1, &["--ready-fd 5: "]);
            let (reader, _writer) = pipe().unwrap();
            skd()
                .descriptor(5, reader)
                .start("cat")
                .expect_refusal(1, &["--ready-fd 5: ", "isn't open for writing"]);
            assert_eq!(directory.names(), [""; 0]);
        }
    }
}

#[test]
fn wrong_descriptors_are_refused() {
    for value in ["0", "2", "-1", "", "x", "+3", "3 ", "0x3", "4294967299"] {
        run_to_end(["-t", "127.0.0.1:0", "--ready-fd", value, "cat"])
            .expect_refusal(2, &[&format!("'{value}'"), "--ready-fd", "1 or from 3 up"]);
    }
    run_to_end(["--ready-fd", "3", "cat"])
        .expect_refusal(2, &["--ready-fd 3", "PROG", "--supervise"]);
    run_to_end(["-S", "--ready-fd", "1", "cat"]).expect_refusal(2, &["--ready-fd 1", "PROG"]);
}

#[test]
fn in_place_the_descriptor_is_passed_on() {
    let (reader, writer) = pipe().unwrap();
    let skd = Skd::new(["-v"])
        .descriptor(3, writer)
        .start_with("sh", ["-c", "echo >&3; exec sleep 1000 3>&-"]);
    assert_eq!(all_of(reader).join().unwrap(), "\n");
    drop(skd);
}

#[test]
fn all_kinds_of_notices_work_in_one_start() {
    let manager = ServiceManager::new();
    let (reader, writer) = pipe().unwrap();
    let daemon = managed(&manager, ["-B", "-t", "127.0.0.1:0", "--ready-fd", "4"])
        .descriptor(4, writer)
        .daemon("cat");
    assert_eq!(all_of(reader).join().unwrap(), "\n");
    manager.wait_for("READY=1");
    assert_eq!(talk(daemon.connect(), b"there"), b"there");
}
