//! A /proc that hides the processes of other users: `hidepid` in proc(5).

use crate::harness::{
    DEADLINE, Directory, Instance, Namespace, Skd, Syslog, echo, exists, ids, poll_for, relays,
    requires_root, talk, wait_until,
};
use nix::sys::signal::Signal;

const NOBODY: u32 = 65_534;

/// Other processes are there without their contents, they aren't there, and only those are that may be traced.
const WAYS: [&str; 3] = ["1", "2", "4"];

/// A namespace with such a /proc, in which root without CAP_SYS_PTRACE is no exception. Tests that look from outside see everything.
pub fn hiding(way: &str) -> Namespace {
    requires_root();
    let namespace = Namespace::new();
    namespace.private_dev();
    let option = format!("hidepid={way},gid=60999");
    namespace.run(["mount", "-t", "proc", "-o", &option, "proc", "/proc"]);
    // No test of nothing: process 1, which is root's, is hidden from another user.
    let line =
        "! setpriv --reuid=65534 --regid=65534 --clear-groups cat /proc/1/status 2>/dev/null";
    namespace.shell(line);
    namespace
}

/// As root, with handlers of another user, and as another user.
fn each_user(test: impl Fn(&Namespace, &str, &dyn Fn(Skd) -> Skd)) {
    for way in WAYS {
        let namespace = hiding(way);
        for user in ["root", "handlers of another user", "another user"] {
            // Printed only if the test fails here.
            println!("hidepid={way}, {user}");
            let apply = |skd: Skd| match user {
                "root" => skd,
                "another user" => skd.user(NOBODY, NOBODY, []),
                _ => skd.args(["--user", "65534:65534"]),
            };
            test(&namespace, user, &apply);
        }
    }
}

#[track_caller]
fn upgrade(skd: &Instance, told: impl Fn() -> Vec<String>) {
    let told = || told().into_iter().find(|line| line.contains("pgrade"));
    skd.signal(Signal::SIGUSR2);
    let line = poll_for(3 * DEADLINE, told).expect("words of an upgrade");
    assert!(line.contains("Upgraded from skd "), "{line}");
}

#[test]
fn clients_are_served_before_and_after_an_upgrade() {
    each_user(|namespace, user, apply| {
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).inside(namespace);
        let skd = apply(skd).run("cat");
        let mut client = skd.connect();
        echo(&mut client, b"before");
        upgrade(&skd, || skd.log_lines());
        echo(&mut client, b"after");
        assert_eq!(talk(skd.connect(), b"new"), b"new");
        let handler = skd.wait_for_children(1)[0];
        let expected = if user == "root" { 0 } else { NOBODY };
        assert_eq!(ids(handler).0, [expected; 4]);
        drop(client);
        skd.wait_until("none is left", || skd.children().is_empty());
        assert_eq!(skd.troubles(), [""; 0]);
        assert_eq!(skd.stop().code(), Some(0));
    });
}

#[test]
fn a_daemon_has_its_pid_file_and_its_lock() {
    each_user(|namespace, user, apply| {
        let directory = Directory::public();
        directory.chmod("", 0o777);
        let (pidfile, log) = (directory.name("pid"), directory.name("log"));
        let options = ["-B", "-v", "-P", &pidfile, "-L", &format!(">>{log}"), "-t"];
        let line = || Skd::new(options).arg("127.0.0.1:0").inside(namespace);
        let skd = apply(line()).daemon("cat");
        assert_eq!(talk(skd.connect(), b"served"), b"served");
        // Its holder is found, although /proc may not show it.
        let output = apply(line()).arg("cat").end();
        assert_ne!(output.status.code(), Some(0), "{user}");
        upgrade(&skd, || {
            let log = std::fs::read_to_string(&log).unwrap_or_default();
            log.lines().map(str::to_owned).collect()
        });
        assert_eq!(talk(skd.connect(), b"after"), b"after");
        skd.stop();
        wait_until("the pid file is gone", || {
            !std::path::Path::new(&pidfile).exists()
        });
    });
}

#[test]
fn the_relay_to_syslog_works() {
    each_user(|namespace, _, apply| {
        let syslog = Syslog::bind(namespace.path("/dev/log"));
        namespace.shell("chmod 666 /dev/log");
        let options = ["-v", "-L", "tag", "-t", "127.0.0.1:0"];
        let skd = apply(Skd::new(options).inside(namespace));
        let skd = skd.run_with("sh", ["-c", "echo said >&2; exec cat"]);
        assert_eq!(talk(skd.connect(), b"served"), b"served");
        syslog.wait_for("said");
        // A relay that ends is missed and replaced.
        let relay = relays(&skd)[0];
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(relay), Signal::SIGKILL).unwrap();
        skd.wait_until("there is another", || {
            relays(&skd).iter().any(|&pid| pid != relay) && !exists(relay)
        });
        assert_eq!(talk(skd.connect(), b"again"), b"again");
        skd.wait_until("its handler's words arrive too", || {
            syslog
                .messages()
                .iter()
                .filter(|it| it.text.contains("said"))
                .count()
                == 2
        });
        assert_eq!(skd.stop().code(), Some(0));
        drop(syslog);
        namespace.shell("rm -f /dev/log");
    });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn handlers_are_prestarted() {
    use crate::harness::{Way, tracing_takes_a_right};
    each_user(|namespace, user, apply| {
        for way in Way::PRESTARTED {
            let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).args(way.options());
            let skd = apply(skd.inside(namespace)).run("cat");
            if user == "another user" && tracing_takes_a_right() {
                skd.wait_for_log("'cat' can't be prestarted: ");
                assert_eq!(talk(skd.connect(), b"served"), b"served");
                continue;
            }
            for _ in 0..3 {
                let (mut client, _) = way.connect(&skd);
                echo(&mut client, b"served");
            }
            way.wait_idle(&skd);
            upgrade(&skd, || skd.log_lines());
            let (mut client, _) = way.connect(&skd);
            echo(&mut client, b"served");
            assert_eq!(skd.troubles(), [""; 0]);
            assert_eq!(skd.stop().code(), Some(0));
        }
    });
}
