//! Upgrade in place: USR2.

use crate::harness::{
    DEADLINE, Directory, Figures, Holdings, Instance, Namespace, Over, Skd, Syslog, ask_udp,
    capabilities, children, connect, connect_unix, datagram_echo, descriptors, echo,
    idle_descriptors, ids, in_a_storm, poll_for, requires_command, requires_root, run_to_end,
    settled_descriptors, status_field, talk, threads, try_talk, udp_client, untimed, wait_asleep,
    wait_for_text, wait_out_throttle, wait_until, zombies,
};
use nix::sys::resource::Resource;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_skd");
const NOBODY: u32 = 65_534;

/// Installs a copy of `program` as `name`, as a package manager does: written elsewhere, and moved there.
fn install(directory: &Directory, name: &str, program: impl AsRef<Path>) -> PathBuf {
    let new = directory.join(format!(".{name}.new"));
    let mut install = Command::new("install");
    let install = install.args(["-m", "755", "--"]).arg(program.as_ref());
    assert!(install.arg(&new).status().unwrap().success());
    fs::rename(&new, directory.join(name)).unwrap();
    directory.join(name)
}

/// Installs a skd that reports another version.
fn install_version(directory: &Directory, name: &str, version: &[u8; 5]) -> PathBuf {
    let mut bytes = fs::read(BINARY).unwrap();
    let own = env!("CARGO_PKG_VERSION").as_bytes();
    assert_eq!(own.len(), version.len());
    for at in 0..bytes.len() - own.len() {
        if &bytes[at..at + own.len()] == own {
            bytes[at..at + own.len()].copy_from_slice(version);
        }
    }
    let text = directory.write(".bytes", bytes);
    install(directory, name, text)
}

/// The version of this build, as if it were of this one.
fn like(version: &str) -> String {
    env!("SKD_VERSION").replacen(env!("CARGO_PKG_VERSION"), version, 1)
}

fn own_version_to(version: &str) -> String {
    format!(
        "Upgraded from skd {} to skd {}",
        env!("SKD_VERSION"),
        like(version)
    )
}

/// Sends USR2, and waits for the report of the new or the old process in `log`.
fn attempt(skd: &Instance, log: impl Fn() -> Vec<String>) -> String {
    let told = || log().into_iter().filter(|line| line.contains("pgrade"));
    let before = told().count();
    skd.signal(Signal::SIGUSR2);
    // Longer than a preflight may take.
    let found = poll_for(3 * DEADLINE, || told().nth(before));
    found.unwrap_or_else(|| panic!("nothing was said of an upgrade: {:#?}", log()))
}

/// An upgrade that succeeds, of a skd that logs to its stderr.
#[track_caller]
fn upgrade(skd: &Instance) {
    let line = attempt(skd, || skd.log_lines());
    assert!(line.starts_with("Upgraded from skd "), "{line}");
}

/// An upgrade that must be refused with these words, and changes nothing. Needs [`Skd::throttle`] of zero, and after
/// another one [`wait_out_throttle`].
#[track_caller]
fn refused(skd: &Instance, why: &str) {
    let line = attempt(skd, || skd.log_lines());
    let sentence = line.starts_with("skd: no upgrade: ") && line.ends_with("; this skd goes on");
    assert!(sentence && line.contains(why), "{line}");
    assert_eq!(talk(skd.connect(), b"after"), b"after");
}

/// Skd with a port and `-v`, in a directory where it can be replaced.
fn replaceable(directory: &Directory) -> Skd {
    let binary = install(directory, "skd", BINARY);
    Skd::new(["-t", "127.0.0.1:0"])
        .binary(binary)
        .cwd(directory.path())
}

#[test]
fn handlers_stay_and_their_end_is_logged_with_the_whole_duration() {
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"before");
    let begin = Instant::now();
    let handlers = skd.wait_for_children(1);
    upgrade(&skd);
    echo(&mut client, b"after");
    assert_eq!(skd.wait_for_children(1), handlers);
    let peer = client.local_addr().unwrap().port();
    let least = begin.elapsed();
    drop(client);
    let end = format!("{peer}: pid {} exited with status 0 after ", handlers[0]);
    let line = skd.wait_for_log(&end);
    let seconds = line.rsplit_once(' ').unwrap().1.trim_end_matches('s');
    let seconds: f64 = seconds.parse().unwrap();
    assert!(seconds + 0.002 >= least.as_secs_f64(), "{line}, {least:?}");
    skd.wait_until("it is reaped", || skd.children().is_empty());
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn slots_stay_in_use() {
    let skd = Skd::new(["-vv", "-c", "2", "-t", "127.0.0.1:0"]).run("cat");
    let mut clients = [skd.connect(), skd.connect()];
    clients
        .iter_mut()
        .for_each(|client| echo(client, b"served"));
    let mut third = skd.connect();
    third.write_all(b"third").unwrap();
    skd.wait_for_log("all 2 slots are taken");
    upgrade(&skd);
    skd.wait_for_logs("all 2 slots are taken", 2);
    skd.wait_for_children(2);
    let [first, mut second] = clients;
    drop(first);
    let mut answer = [0; 5];
    third.read_exact(&mut answer).unwrap();
    echo(&mut second, b"still");
    assert_eq!(&answer, b"third");
    drop((second, third));
    skd.wait_for_log("Running 0 of 2 handlers");
}

/// Makes `upgrades` upgrades while three clients of TCP and two of a unix socket connect as fast as they can.
fn under_load(upgrades: usize) {
    let directory = Directory::new();
    let (path, log) = (
        directory.name("socket"),
        format!(">{}", directory.name("log")),
    );
    let skd = Skd::new(["-v", "-L", &log, "-t", "127.0.0.1:0", "-l", &path]).run("cat");
    let (address, figures, over) = (skd.address(), Figures::default(), AtomicBool::new(false));
    let mut stayed = skd.connect();
    echo(&mut stayed, b"before");
    let begin = Instant::now();
    thread::scope(|scope| {
        let _over = Over(&over);
        for client in 0..5 {
            let (path, figures, over) = (&path, &figures, &over);
            scope.spawn(move || {
                for number in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let text = format!("{client} {number}").into_bytes();
                    let answer = if client < 3 {
                        let stream = TcpStream::connect_timeout(&address, DEADLINE);
                        stream.and_then(|stream| {
                            stream.set_read_timeout(Some(DEADLINE))?;
                            try_talk(stream, &text)
                        })
                    } else {
                        UnixStream::connect(path).and_then(|stream| {
                            stream.set_read_timeout(Some(DEADLINE))?;
                            try_talk(stream, &text)
                        })
                    };
                    figures.count(answer, &text);
                }
            });
        }
        // The log grows too fast to be read from the start each time.
        let (mut log, mut unread) = (
            fs::File::open(directory.join("log")).unwrap(),
            String::new(),
        );
        for done in 0..upgrades {
            let connections = figures.right.load(Ordering::Relaxed);
            skd.signal(Signal::SIGUSR2);
            let told = poll_for(3 * DEADLINE, || {
                log.read_to_string(&mut unread).unwrap();
                let whole = unread.rfind('\n').map_or(0, |end| end + 1);
                let rest = unread.split_off(whole);
                let lines = std::mem::replace(&mut unread, rest);
                let mut lines = lines.lines();
                lines
                    .find(|line| line.contains("pgrade"))
                    .map(str::to_owned)
            });
            let told = told.map(|line| untimed(&line, &[]).trim_end().to_owned());
            assert_eq!(
                told,
                Some(format!(
                    "Upgraded from skd {} to the same version",
                    env!("SKD_VERSION")
                )),
                "after {done}"
            );
            wait_until("there are connections between two upgrades", || {
                figures.right.load(Ordering::Relaxed) > connections + 10
            });
        }
    });
    println!("{upgrades} upgrades in {:?}: {figures:?}", begin.elapsed());
    for lost in [&figures.wrong, &figures.refused, &figures.reset] {
        assert_eq!(lost.load(Ordering::Relaxed), 0, "{figures:?}");
    }
    echo(&mut stayed, b"after");
    drop(stayed);
    skd.wait_until("all are reaped", || skd.children().is_empty());
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn twenty_upgrades_under_load_lose_no_connection() {
    under_load(20);
}

#[test]
#[ignore = "takes a minute"]
fn five_hundred_upgrades_under_load_lose_no_connection() {
    under_load(500);
}

#[test]
fn the_new_program_runs() {
    let directory = Directory::new();
    let skd = replaceable(&directory).arg("-v").run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"before");
    let inode = || {
        fs::metadata(format!("/proc/{}/exe", skd.pid()))
            .unwrap()
            .ino()
    };
    for (version, line) in [
        (b"2.0.1", own_version_to("2.0.1")),
        (
            b"2.0.2",
            format!(
                "Upgraded from skd {} to skd {}",
                like("2.0.1"),
                like("2.0.2")
            ),
        ),
    ] {
        let new = install_version(&directory, "skd", version);
        assert_eq!(attempt(&skd, || skd.log_lines()), line);
        assert_eq!(inode(), fs::metadata(new).unwrap().ino());
        let name = fs::read_to_string(format!("/proc/{}/comm", skd.pid()));
        assert_eq!(name.unwrap(), "skd\n");
        echo(&mut client, b"after");
    }
}

#[test]
fn a_link_with_a_new_target_is_followed() {
    let directory = Directory::new();
    install(&directory, "old", BINARY);
    install_version(&directory, "new", b"2.0.1");
    let link = directory.join("skd");
    symlink("old", &link).unwrap();
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"])
        .binary(&link)
        .run("cat");
    symlink("new", directory.join("link")).unwrap();
    fs::rename(directory.join("link"), &link).unwrap();
    let line = attempt(&skd, || skd.log_lines());
    assert_eq!(line, own_version_to("2.0.1"));
    fs::remove_file(&link).unwrap();
    refused(&skd, "No such file");
}

/// Installs this perl(1) script as a skd; its arguments are the words after `-t 127.0.0.1:0`.
fn install_perl(directory: &Directory, script: &str) {
    requires_command("perl");
    let script = directory.write(".script", script);
    let source = r#"
        #include <string.h>
        #include <unistd.h>
        int main(int count, char **words) {
            int first = count > 1 && !strcmp(words[1], "--check") ? 4 : 3;
            char *perl[count + 2];
            perl[0] = "perl";
            perl[1] = "SCRIPT";
            memcpy(perl + 2, words + first, (count - first + 1) * sizeof *words);
            execvp("perl", perl);
            return 99;
        }
    "#;
    let stub = directory.compile(".stub", &source.replace("SCRIPT", script.to_str().unwrap()));
    install(directory, "skd", stub);
}

#[test]
fn a_binary_that_cannot_take_over_is_refused_with_a_reason() {
    let directory = Directory::new();
    let skd = replaceable(&directory).throttle(Duration::ZERO).run("cat");
    let before = idle_descriptors(skd.pid()) + 1;
    let mut client = skd.connect();
    echo(&mut client, b"before");
    let count = || descriptors(skd.pid()).len();
    skd.wait_until("it has a handler and no connection", || count() == before);
    let path = directory.join("skd");
    fs::remove_file(&path).unwrap();
    refused(&skd, "skd can't be opened: No such file");
    wait_out_throttle();
    directory.write("skd", "no program");
    refused(&skd, "can't be executed: Permission denied");
    wait_out_throttle();
    install(&directory, "skd", directory.write(".bytes", "no program"));
    refused(&skd, "can't be executed: Exec format error");
    wait_out_throttle();
    directory.script("skd", "#!/bin/sh\nexit 0\n");
    refused(&skd, "is a script");
    wait_out_throttle();
    directory.script("skd", "#!/no/such/interpreter\n");
    refused(&skd, "interpreter /no/such/interpreter isn't there");
    wait_out_throttle();
    install(&directory, "skd", "/bin/true");
    refused(&skd, "doesn't know how to take over");
    for (script, why) in [
        ("exit 3", "refuses (status 3)"),
        ("kill 11, $$", "signal 11 ended the new program"),
        // The state of the same skd in another format.
        (
            "open(my $state, '+<', '/dev/fd/' . ($ENV{SKD_UPGRADE} =~ /(\\d+)/)[0]) or die; \
             my $text = <$state>; $text =~ s/\"format\":\\d+/\"format\":99/; seek($state, 0, 0); \
             print $state $text; close $state; exec $ENV{REAL}, '-t', '127.0.0.1:0', 'cat';",
            "refuses (status 1)",
        ),
    ] {
        wait_out_throttle();
        let script = script.replace("$ENV{REAL}", &format!("'{BINARY}'"));
        install_perl(&directory, &script);
        refused(&skd, why);
    }
    skd.wait_for_log("it is of format 99, and this skd reads ");

    echo(&mut client, b"after");
    skd.wait_until("no descriptor is lost", || count() == before);
    skd.wait_for_children(1);
    install(&directory, "skd", BINARY);
    // Not logged at this verbosity; the next line says so.
    skd.signal(Signal::SIGUSR2);
    echo(&mut client, b"still");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_preflight_that_hangs_is_ended() {
    let directory = Directory::new();
    let skd = replaceable(&directory).run("cat");
    install_perl(&directory, "sleep 1000");
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_children(1);
    let line = attempt(&skd, || skd.log_lines());
    assert!(line.contains("one is being tried already"), "{line}");
    assert_eq!(talk(skd.connect(), b"meanwhile"), b"meanwhile");
    let late = || Some(skd.logged("hasn't said within 10 s")).filter(|lines| lines.len() == 1);
    poll_for(3 * DEADLINE, late).expect("the end of a preflight");
    skd.wait_until("it is gone", || skd.children().is_empty());

    // Nor does it outlive the skd that started it.
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_children(1);
    assert_eq!(skd.stop().code(), Some(0));
    wait_until("nothing is left", || skd.processes().is_empty());
}

#[test]
fn a_preflight_does_not_outlive_the_listeners() {
    let directory = Directory::new();
    let skd = replaceable(&directory).args(["--drain", "1h"]).run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"there");
    let handler = skd.wait_for_children(1);
    install_perl(&directory, "sleep 1000");
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_children(2);
    skd.signal(Signal::SIGTERM);
    // While the drain waits for the handler, no process has the listeners open.
    skd.wait_until("the preflight is over", || skd.children() == handler);
    wait_until("clients are refused", || {
        let refused = TcpStream::connect(skd.address()).map_err(|error| error.kind());
        refused.is_err_and(|kind| kind == ErrorKind::ConnectionRefused)
    });
    echo(&mut client, b"still there");
    drop(client);
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn a_preflight_whose_skd_has_ended_is_no_daemon() {
    // The parent of this test is no skd.
    Skd::new(["-t", "127.0.0.1:0", "cat"])
        .env("SKD_UPGRADE", "64:1:preflight")
        .end()
        .expect_refusal(1, &["has ended meanwhile"]);
    // A variable that isn't understood may be a newer skd's.
    for unknown in ["64:1:resume", "", "x", "-1:1", "64:1", "-1:1:upgrade"] {
        Skd::new(["-t", "127.0.0.1:0", "cat"])
            .env("SKD_UPGRADE", unknown)
            .end()
            .expect_refusal(1, &["which this skd doesn't understand"]);
    }
    // A variable for another process is ignored.
    for stray in ["64:1:upgrade", "64:1:return"] {
        let skd = Skd::new(["-t", "127.0.0.1:0"])
            .env("SKD_UPGRADE", stray)
            .run("env");
        let seen = talk(skd.connect(), b"");
        assert!(!String::from_utf8_lossy(&seen).contains("SKD_UPGRADE"));
    }
}

#[test]
fn a_process_that_fails_after_its_preflight_goes_back_to_the_old_binary() {
    requires_root();
    let directory = Directory::public();
    let real = install(&directory, "real", BINARY);
    requires_command("setpriv");
    let skd = replaceable(&directory)
        .args(["-v", "--user", "65534:65534", "--limit", "core=unlimited"])
        // Otherwise the number of descriptors is one less after some seconds.
        .arg("--linger=0s")
        // With CAP_SYS_RESOURCE it would raise the limit again.
        .wrapper(["setpriv", "--bounding-set", "-sys_resource"])
        .limit(
            Resource::RLIMIT_CORE,
            libc::RLIM_INFINITY,
            libc::RLIM_INFINITY,
        )
        .run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"before");
    let before = settled_descriptors(skd.pid());
    let handlers = skd.wait_for_children(1);
    let old = fs::metadata(format!("/proc/{}/exe", skd.pid()))
        .unwrap()
        .ino();
    // This worked in the preflight, and fails now.
    let script = r#"
        my @words = ("-t", "127.0.0.1:0", @ARGV);
        my $limit = $ENV{SKD_UPGRADE} =~ /upgrade/ ? "ulimit -c 0;" : "";
        exec "/bin/sh", "-c", "$limit exec REAL \"\$@\"", "sh", @words;
    "#;
    install_perl(&directory, &script.replace("REAL", real.to_str().unwrap()));
    let line = attempt(&skd, || skd.log_lines());
    assert_eq!(
        line,
        "skd: no upgrade: the new program couldn't take over; this skd goes on"
    );
    let now = fs::metadata(format!("/proc/{}/exe", skd.pid()))
        .unwrap()
        .ino();
    assert_eq!(now, old);
    echo(&mut client, b"after");
    assert_eq!(skd.wait_for_children(1), handlers);
    skd.wait_until("no descriptor is lost", || {
        descriptors(skd.pid()).len() == before.len()
    });
    drop(client);
    skd.wait_for_log(&format!("pid {} exited with status 0 after", handlers[0]));
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn files_stay_and_are_removed_by_the_last_process() {
    let directory = Directory::new();
    let (path, pidfile) = (directory.name("socket"), directory.name("pid"));
    let log = format!(">{}", directory.name("log"));
    let options = ["-v", "-l", &path, "-P", &pidfile, "-L", &log];
    let daemon = Skd::new(options).daemon("cat");
    let (pid, inode) = (daemon.pid(), fs::metadata(&path).unwrap().ino());
    let lines = |name: &str| {
        let log = untimed(&directory.read(name), &[]);
        log.lines().map(str::to_owned).collect()
    };
    let mut client = connect_unix(&path);
    echo(&mut client, b"before");
    for _ in 0..2 {
        assert!(attempt(&daemon, || lines("log")).starts_with("Upgraded"));
        assert_eq!(directory.read("pid"), format!("{pid}\n"));
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        run_to_end(["-t", "127.0.0.1:0", "-P", &pidfile, "cat"])
            .expect_refusal(1, &["--pidfile", "locked"]);
        echo(&mut client, b"after");
    }
    fs::rename(directory.join("log"), directory.join("old")).unwrap();
    daemon.signal(Signal::SIGHUP);
    wait_until("there is a new log", || directory.join("log").exists());
    assert_eq!(talk(connect_unix(&path), b"new"), b"new");
    wait_for_text(directory.join("log"), "Closed local connection");
    assert!(attempt(&daemon, || lines("log")).starts_with("Upgraded"));
    echo(&mut client, b"after");
    daemon.stop();
    assert_eq!(directory.names(), ["log", "old"]);
}

#[test]
fn the_relay_to_syslog_stays_and_can_be_restarted() {
    let namespace = Namespace::new();
    namespace.private_dev();
    let syslog = Syslog::bind(namespace.path("/dev/log"));
    let skd = Skd::new(["-vL", "tag", "-t", "127.0.0.1:0"])
        .inside(&namespace)
        .run("cat");
    let lines = || {
        syslog
            .messages()
            .into_iter()
            .map(|message| message.text)
            .collect()
    };
    for turn in 1..=2 {
        assert!(attempt(&skd, lines).contains("Upgraded from"));
        talk(skd.connect(), b"");
        skd.wait_until("its end is logged", || {
            syslog.logged("Closed connection").len() == turn
        });
    }
    let relay = skd
        .processes()
        .into_iter()
        .find(|&pid| pid != skd.pid() && crate::harness::parent(pid) != Some(skd.pid()));
    kill(Pid::from_raw(relay.expect("the relay")), Signal::SIGKILL).unwrap();
    syslog.wait_for("was started again");
    assert!(attempt(&skd, lines).contains("Upgraded from"));
}

/// The ids and capabilities of a process.
fn rights(pid: i32) -> impl PartialEq + std::fmt::Debug {
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    let sets = sets.map(|set| capabilities(pid, set));
    // Files in /proc belong to root if other processes of the user may not inspect the process.
    let owner = fs::metadata(format!("/proc/{pid}/environ")).unwrap().uid();
    (ids(pid), sets, status_field(pid, "NoNewPrivs"), owner)
}

#[test]
fn dropped_privileges_are_not_regained() {
    requires_root();
    for option in ["--user", "--daemon-user"] {
        keeps_its_rights(option);
    }
}

fn keeps_its_rights(option: &str) {
    let directory = Directory::public();
    let skd = replaceable(&directory)
        .args(["-v", option, "nobody"])
        .env("PATH", "/bin:/usr/bin")
        .run("cat");
    let before = rights(skd.pid());
    let user = if option == "--user" { 0 } else { NOBODY };
    assert_eq!(ids(skd.pid()).0, [user; 4]);
    upgrade(&skd);
    assert_eq!(rights(skd.pid()), before);
    // A set-user-ID binary, which the kernel runs as root for every user.
    install(&directory, "skd", BINARY);
    directory.chmod("skd", 0o6755);
    for _ in 0..2 {
        upgrade(&skd);
        assert_eq!(rights(skd.pid()), before);
    }
    let mut client = skd.connect();
    echo(&mut client, b"after");
    let handler = skd.wait_for_children(1)[0];
    assert_eq!(ids(handler).0, [NOBODY; 4]);
}

#[test]
fn a_user_from_the_environment_stays_too() {
    requires_root();
    let directory = Directory::public();
    let skd = replaceable(&directory)
        .args(["-v", "-U"])
        .env("UID", "65534")
        .env("GID", "65534")
        .env("GIDLIST", "65534,7,8")
        .env("PATH", "/bin:/usr/bin")
        .run("cat");
    let before = rights(skd.pid());
    upgrade(&skd);
    upgrade(&skd);
    assert_eq!(rights(skd.pid()), before);
}

#[test]
fn after_a_chroot_the_program_is_found_at_its_old_path_if_it_can_run_there() {
    requires_root();
    let (root, outside) = (Directory::public(), Directory::public());
    root.install(&["/bin/cat"]);
    let skd = replaceable(&outside)
        .args(["-v", "--daemon-user", "nobody", "--chroot"])
        .arg(root.path())
        .run("/bin/cat");
    let is_static = fs::read(BINARY)
        .map(|bytes| !contains(&bytes, b"/ld-linux"))
        .unwrap();
    if !is_static {
        // The libraries of cat(1) are there, so they have to be removed first.
        let lib = root.join("lib64");
        fs::rename(&lib, root.join("away")).unwrap();
        refused_silently(&skd, "isn't there");
        fs::rename(root.join("away"), &lib).unwrap();
        root.install(&[BINARY]);
    }
    let mut client = skd.connect();
    echo(&mut client, b"before");
    install_version(&outside, "skd", b"2.0.1");
    assert_eq!(attempt(&skd, || skd.log_lines()), own_version_to("2.0.1"));
    echo(&mut client, b"after");
    assert_eq!(talk(skd.connect(), b"new"), b"new");
    upgrade(&skd);
    let inode = fs::metadata(format!("/proc/{}/root/.", skd.pid()))
        .unwrap()
        .ino();
    assert_eq!(inode, fs::metadata(root.path()).unwrap().ino());
}

/// The same without a client: no handler could run.
#[track_caller]
fn refused_silently(skd: &Instance, why: &str) {
    let line = attempt(skd, || skd.log_lines());
    assert!(
        line.starts_with("skd: no upgrade: ") && line.contains(why),
        "{line}"
    );
}

fn contains(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|window| window == text)
}

#[test]
fn a_datagram_handler_keeps_the_socket_until_it_ends() {
    requires_command("perl");
    const HELD: &str = "defined(recv(STDIN, my $bytes, 65536, 0)) or die $!; sleep 1000;";
    let skd = Skd::new(["-v", "-u", "127.0.0.1:0"]).run_with("perl", ["-e", HELD]);
    let client = udp_client(skd.address());
    client.send(b"one").unwrap();
    let handlers = skd.wait_for_children(1);
    wait_until("it has read that", || {
        let calls = [
            libc::SYS_clock_nanosleep,
            libc::SYS_nanosleep,
            libc::SYS_pselect6,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_select,
        ];
        let mut calls = calls.into_iter();
        calls.any(|call| crate::harness::is_in_call(handlers[0], call))
    });
    upgrade(&skd);
    client.send(b"two").unwrap();
    upgrade(&skd);
    assert_eq!(skd.wait_for_children(1), handlers);
    kill(Pid::from_raw(handlers[0]), Signal::SIGKILL).unwrap();
    skd.wait_until("the next has the socket", || {
        !matches!(skd.children()[..], [] | [_, _, ..]) && skd.children() != handlers
    });
    skd.wait_for_log(&format!("pid {}", handlers[0]));
    assert_eq!(skd.stop().code(), Some(0));

    let (prog, args) = datagram_echo();
    let skd = Skd::new(["-v", "-u", "127.0.0.1:0"]).run_with(prog, args);
    for text in [b"before", b"after."] {
        assert_eq!(ask_udp(skd.address(), text), text);
        upgrade(&skd);
    }
}

#[test]
fn signals_during_an_upgrade_are_not_lost() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        for turn in 0..8 {
            let directory = Directory::new();
            let path = directory.name("socket");
            let skd = Skd::new(["-t", "127.0.0.1:0", "-l", &path]).run("cat");
            let mut client = skd.connect();
            echo(&mut client, b"before");
            // In a preflight, around an exec, or after all of it: at random.
            for _ in 0..=turn {
                skd.signal(Signal::SIGUSR2);
                thread::sleep(Duration::from_millis(5));
            }
            skd.signal(signal);
            assert_eq!(skd.wait().code(), Some(0), "{signal} {turn}");
            assert_eq!(directory.names(), [""; 0], "{signal} {turn}");
            if signal != Signal::SIGINT {
                echo(&mut client, b"after");
            }
        }
    }
}

#[test]
fn hup_reopens_the_log_at_any_moment() {
    let directory = Directory::new();
    let log = format!(">{}", directory.name("log"));
    let skd = Skd::new(["-L", &log, "-t", "127.0.0.1:0"]).run("cat");
    for turn in 0..16 {
        fs::rename(directory.join("log"), directory.join("old")).unwrap();
        skd.signal(Signal::SIGUSR2);
        thread::sleep(Duration::from_millis(3 * turn));
        skd.signal(Signal::SIGHUP);
        wait_until("there is a new log", || directory.join("log").exists());
    }
    assert_eq!(talk(skd.connect(), b"served"), b"served");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_storm_of_upgrades_and_reopenings_does_no_harm() {
    let directory = Directory::new();
    let log = format!(">>{}", directory.name("log"));
    let skd = Skd::new(["-v", "-L", &log, "-t", "127.0.0.1:0"]).run("cat");
    let signals = [
        Signal::SIGUSR2,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGCHLD,
    ];
    in_a_storm(&skd, &signals, || {
        for _ in 0..100 {
            assert_eq!(talk(skd.connect(), b"served"), b"served");
        }
    });
    wait_for_text(directory.join("log"), "Upgraded from skd");
    skd.wait_until("all are reaped", || skd.children().is_empty());
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_handler_that_cannot_be_prepared_postpones_the_upgrade() {
    requires_root();
    requires_command("strace");
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).run("cat");
    let mut earlier = skd.connect();
    echo(&mut earlier, b"before");
    // Longer than skd waits for acceptors.
    let inject = "inject=execve:delay_enter=12000000";
    let mut strace = Command::new("strace");
    strace.args([
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=execve",
        "-e",
        inject,
    ]);
    let mut strace = strace.args(["-p", &skd.pid().to_string()]).spawn().unwrap();
    wait_until("strace holds all threads", || {
        let tracer = |(thread, _)| status_field(thread, "TracerPid");
        let mut tracers = threads(skd.pid()).into_iter().map(tracer);
        tracers.all(|pid| pid.is_some_and(|pid| pid != "0"))
    });
    let mut stuck = skd.connect();
    stuck.write_all(b"stuck").unwrap();
    skd.wait_for_children(2);
    let line = attempt(&skd, || skd.log_lines());
    assert!(
        line.contains("hangs before its exec; try again later"),
        "{line}"
    );
    echo(&mut earlier, b"after");
    stuck.set_read_timeout(Some(3 * DEADLINE)).unwrap();
    let mut answer = [0; 5];
    stuck.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"stuck");
    kill(
        Pid::from_raw(i32::try_from(strace.id()).unwrap()),
        Signal::SIGTERM,
    )
    .unwrap();
    strace.wait().unwrap();
    upgrade(&skd);
    echo(&mut earlier, b"at last");
    assert_eq!(talk(skd.connect(), b"new"), b"new");
}

#[test]
fn handlers_do_not_see_the_upgrade() {
    let show =
        "env; ls -l /proc/$$/fd; grep -E '^(SigBlk|SigIgn|Groups)' /proc/self/status; ulimit -a";
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).run_with("sh", ["-c", show]);
    let seen = || {
        let text = String::from_utf8(talk(skd.connect(), b"")).unwrap();
        // The variables that differ between connections.
        let common = text
            .lines()
            .filter(|line| !line.contains("PORT") && !line.contains("socket:"));
        let mut common: Vec<_> = common.filter(|line| !line.contains(" -> ")).collect();
        common.sort_unstable();
        (text.matches(" -> ").count(), common.join("\n"))
    };
    let before = seen();
    upgrade(&skd);
    assert_eq!(seen(), before);
    assert!(!before.1.contains("UPGRADE"));
}

#[test]
fn nothing_grows_over_fifty_upgrades() {
    // By default the connection would be kept for some seconds, and so for some of the upgrades.
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--linger=0s"]).run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"before");
    let mut environment = 0;
    let mut before = None;
    for turn in 0..53 {
        upgrade(&skd);
        if turn == 2 {
            environment = fs::read(format!("/proc/{}/environ", skd.pid()))
                .unwrap()
                .len();
            skd.wait_until("no preflight is left", || skd.children().len() == 1);
            wait_asleep(skd.pid());
            before = Some(Holdings::of(&skd));
        }
    }
    skd.wait_until("no preflight is left", || skd.children().len() == 1);
    Holdings::wait_like(&skd, &before.unwrap());
    let now = fs::read(format!("/proc/{}/environ", skd.pid()))
        .unwrap()
        .len();
    assert!(now <= environment + 2, "{environment}, {now}");
    skd.wait_until("no zombie is left", || zombies(skd.pid()).is_empty());
    echo(&mut client, b"after");
}

#[test]
fn process_1_of_a_container_is_upgraded_too() {
    requires_root();
    requires_command("unshare");
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"])
        .wrapper(["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"])
        .run_with("sh", ["-c", "(sleep 0.1 &) ; cat"]);
    let mut client = skd.connect();
    echo(&mut client, b"before");
    for _ in 0..3 {
        upgrade(&skd);
        echo(&mut client, b"after");
    }
    drop(client);
    skd.wait_until("all are reaped, strangers too", || {
        skd.children().is_empty()
    });
}

#[test]
fn an_upgrade_with_few_descriptors_succeeds_or_is_refused() {
    let mut told = Vec::new();
    for limit in (20..=60).step_by(2) {
        let skd = Skd::new(["-v", "--threads", "2", "-t", "127.0.0.1:0"])
            .limit(Resource::RLIMIT_NOFILE, limit, limit)
            .start("cat");
        let ready = poll_for(DEADLINE, || {
            let over = skd.try_wait(Duration::ZERO).map(|_| false);
            over.or_else(|| (!skd.stdout_lines().is_empty()).then_some(true))
        });
        if ready != Some(true) {
            continue;
        }
        let mut client = skd.connect();
        echo(&mut client, b"before");
        let line = attempt(&skd, || skd.log_lines());
        echo(&mut client, b"after");
        drop(client);
        skd.wait_until("it is reaped", || children(skd.pid()).is_empty());
        assert_eq!(talk(skd.connect(), b"new"), b"new");
        told.push((limit, line.starts_with("Upgraded")));
        assert_eq!(skd.stop().code(), Some(0));
    }
    println!("{told:?}");
    assert!(
        told.last().is_some_and(|(_, upgraded)| *upgraded),
        "{told:?}"
    );
}

#[test]
fn handlers_are_found_without_pidfds() {
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"])
        .refusing(libc::SYS_pidfd_open, nix::errno::Errno::ENOSYS)
        .refusing(libc::SYS_clone3, nix::errno::Errno::ENOSYS)
        .refusing_bits(
            libc::SYS_clone,
            0,
            libc::CLONE_PIDFD as u32,
            nix::errno::Errno::EINVAL,
        )
        .run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"before");
    let handler = skd.wait_for_children(1)[0];
    upgrade(&skd);
    echo(&mut client, b"after");
    drop(client);
    skd.wait_for_log(&format!("pid {handler} exited with status 0 after"));
    skd.wait_until("it is reaped", || skd.children().is_empty());
}

#[test]
#[ignore = "starts 2,000 handlers"]
fn two_thousand_handlers_stay() {
    const COUNT: usize = 2_000;
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).run("cat");
    let mut clients: Vec<TcpStream> = (0..COUNT)
        .map(|_| {
            let mut client = connect(skd.address());
            echo(&mut client, b"before");
            client
        })
        .collect();
    let begin = Instant::now();
    upgrade(&skd);
    println!("{COUNT} handlers: {:?}", begin.elapsed());
    skd.wait_for_children(COUNT);
    clients.iter_mut().for_each(|client| echo(client, b"after"));
    drop(clients);
    let ends = || (skd.logged("exited with status 0 after").len() == COUNT).then_some(());
    poll_for(6 * DEADLINE, ends).expect("the ends of all");
    skd.wait_until("no zombie is left", || zombies(skd.pid()).is_empty());
}
