//! `--sandbox`: handlers are made by a process in the sandbox, the jailer, and are skd's children as
//! any others.

use crate::harness::{
    DEADLINE, Directory, Instance, Running, Skd, capabilities, children, connect, descriptors,
    echo, exists, ids, poll_for, process_group, receive, requires_root, session, sockets,
    status_field, talk, wait_until, zombies,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::Duration;

/// Ids without an account.
const UID: u32 = 61246;
const GID: u32 = 61247;

/// A skd on a free TCP port whose handlers are in a sandbox, with these options.
fn sandboxed<const N: usize>(options: [&str; N]) -> Skd {
    quiet(["-v"]).args(options)
}

fn quiet<const N: usize>(options: [&str; N]) -> Skd {
    Skd::new(["-t", "127.0.0.1:0", "--sandbox"])
        .args(options)
        .env("PATH", "/usr/bin:/bin")
        .cwd("/")
        .throttle(Duration::ZERO)
}

fn is_jailer(pid: i32) -> bool {
    status_field(pid, "Name").as_deref() == Some("skd-jailer")
}

/// The jailers of skd, that of each service first.
fn jailers(skd: i32) -> Vec<i32> {
    let mut found = children(skd);
    found.retain(|pid| is_jailer(*pid) && exists(*pid));
    found
}

/// The handlers of skd.
fn handlers(skd: i32) -> Vec<i32> {
    let mut found = children(skd);
    found.retain(|pid| !is_jailer(*pid) && exists(*pid));
    found
}

/// A client whose handler has said that it is ready, and that handler.
#[track_caller]
fn ready(skd: &Running) -> (TcpStream, i32) {
    ready_at(skd, skd.address())
}

#[track_caller]
fn ready_at(skd: &Running, address: SocketAddr) -> (TcpStream, i32) {
    let before = handlers(skd.pid());
    let mut client = connect(address);
    assert_eq!(receive(&mut client, 6), b"ready\n");
    let mut after = handlers(skd.pid());
    after.retain(|pid| !before.contains(pid));
    assert_eq!(after.len(), 1, "{after:?}");
    (client, after[0])
}

/// What the client gets.
fn said(mut client: TcpStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

fn kill_process(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// Starts as root, and as a user with no rights.
fn as_both(test: impl Fn(Skd, u32)) {
    requires_root();
    test(sandboxed([]), 65534);
    test(sandboxed([]).user(UID, GID, []), UID);
}

#[test]
fn a_handler_is_process_1_and_a_child_of_skd_without_rights() {
    as_both(|skd, uid| {
        let skd = skd.start_with(
            "sh",
            ["-c", "echo ready; read line; echo $$ $line; id -u; exit 7"],
        );
        let (mut client, handler) = ready(&skd);
        assert_eq!(ids(handler).0, [uid; 4]);
        assert_eq!(
            status_field(handler, "NSpid")
                .unwrap()
                .split_whitespace()
                .last(),
            Some("1")
        );
        assert_eq!(status_field(handler, "NoNewPrivs").as_deref(), Some("1"));
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(capabilities(handler, set), 0, "{set}");
        }
        assert_eq!(process_group(handler), Some(handler));
        assert_eq!(
            descriptors(handler).into_keys().collect::<Vec<_>>(),
            [0, 1, 2]
        );
        client.write_all(b"hello\n").unwrap();
        assert_eq!(said(client), format!("1 hello\n{uid}\n"));
        skd.wait_for_log(&format!("pid {handler} exited with status 7"));
        assert!(zombies(skd.pid()).is_empty());
    });
}

#[test]
fn a_handler_can_be_root_inside_without_its_rights() {
    as_both(|skd, uid| {
        let script = "echo ready; read line; id -u; id -g; id -G; cat /etc/shadow; : >/tmp/own";
        let skd = skd
            .args(["--sandbox-user", "0", "--stderr", "client"])
            .start_with("sh", ["-c", script]);
        let (mut client, handler) = ready(&skd);
        assert_eq!(ids(handler).0, [uid; 4]);
        assert_eq!(ids(handler).1.len(), 4);
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(capabilities(handler, set), 0, "{set}");
        }
        client.write_all(b"\n").unwrap();
        let text = said(client);
        assert!(text.starts_with("0\n0\n0"), "{text}");
        assert!(text.contains("/etc/shadow: No such file"), "{text}");
    });
}

#[test]
fn jailers_hold_nothing_of_skd_s() {
    as_both(|skd, _| {
        let skd = skd.start_with("sh", ["-c", "echo ready; read line"]);
        let (_client, _) = ready(&skd);
        let jailers = jailers(skd.pid());
        assert_eq!(jailers.len(), 2);
        for jailer in jailers {
            assert!(sockets(jailer).is_empty());
            let held = descriptors(jailer)
                .into_iter()
                .filter(|(number, _)| *number > 2);
            let held: Vec<_> = held.map(|(_, what)| what).collect();
            let is_own = |what: &String| what.starts_with("socket:") || what.contains("landlock");
            assert!(held.iter().all(is_own) && held.len() <= 2, "{held:?}");
            assert_ne!(session(jailer), session(skd.pid()));
        }
    });
}

#[test]
fn the_surroundings_are_those_of_other_handlers() {
    requires_root();
    let directory = Directory::public();
    let rules = directory.write(
        "rules",
        "allow 127.0.0.1 env A=\"a  b\" env C= env D=\"x\ty\"",
    );
    let rules = rules.to_str().unwrap();
    let user = format!("{UID}:{GID}");
    let script = "env | grep -v REMOTE_PORT | grep -v LOCAL_PORT | grep -v TCPLOCALPORT | \
                  grep -v TCPREMOTEPORT | sort; umask; pwd; ulimit -n; ulimit -u; ulimit -Hu; nice; echo $0 $1";
    for options in [
        &["--env", "A=common", "--env", "B=1"][..],
        &["--rules", rules],
        &[
            "--umask",
            "027",
            "--chdir",
            "/usr/bin",
            "--limit",
            "nofile=77",
            "--nice",
            "5",
        ],
        &[
            "--limit",
            "nproc=4000:5000",
            "--clear-env",
            "--argv0",
            "other",
        ],
        &["--user", &user],
    ] {
        let told = [&[][..], &["--sandbox", "--sandbox-user", "77"]].map(|more| {
            let skd = Skd::new(["-t", "127.0.0.1:0"])
                .args(options)
                .args(more)
                .env_clear()
                .env("PATH", "/usr/bin:/bin")
                .cwd("/")
                .unmarked()
                .limit(nix::sys::resource::Resource::RLIMIT_NOFILE, 333, 4444)
                .run_with("bash", ["--norc", "-c", script, "zero", "one"]);
            let mut text = said(skd.connect());
            text.push_str(&skd.log_lines().concat());
            text
        });
        assert_eq!(told[0], told[1], "{options:?}");
        assert!(told[0].contains("PROTO=TCP"), "{}", told[0]);
    }
}

#[test]
fn a_program_that_is_not_inside_is_a_sentence() {
    let directory = Directory::public();
    let there = directory.script("there", "#!/bin/sh\necho there");
    let missing = directory.name("missing");
    as_both(|skd, _| {
        let skd = skd.start(&there);
        assert_eq!(said(skd.connect()), "there\n");
    });
    let texts = [&*missing, "No such file or directory"];
    let as_user = quiet([]).user(UID, GID, []);
    for skd in [quiet([]), as_user] {
        skd.arg(&missing).end().expect_refusal(127, &texts);
    }
    quiet([])
        .arg("no-such-program")
        .end()
        .expect_refusal(127, &["no such program in PATH"]);
    quiet(["--chdir", "/no/such"])
        .arg("cat")
        .end()
        .expect_refusal(1, &["--chdir /no/such can't be entered: No such file"]);
}

#[test]
fn a_jailer_that_is_killed_is_replaced_and_no_client_is_lost() {
    as_both(|skd, _| {
        let skd = skd.start("cat");
        let me = skd.pid();
        // One from each thread that may have a jailer.
        let mut live: Vec<_> = (0..8).map(|_| skd.connect()).collect();
        live.iter_mut().for_each(|client| echo(client, b"live"));
        assert_eq!(talk(skd.connect(), b"one"), b"one");
        let first = jailers(me)[0];
        // A jailer that serves a thread.
        for jailer in jailers(me) {
            if jailer != first {
                kill_process(jailer);
            }
        }
        assert_eq!(talk(skd.connect(), b"two"), b"two");
        // The jailer that makes others.
        kill_process(first);
        assert_eq!(talk(skd.connect(), b"three"), b"three");
        live.iter_mut().for_each(|client| echo(client, b"still"));
        for jailer in jailers(me) {
            kill_process(jailer);
        }
        let mut client = skd.connect();
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
        skd.wait_for_log("'cat': the processes of skd in its sandbox (skd-jailer) were killed");
        // They are made again.
        upgrade(&skd);
        assert_eq!(talk(skd.connect(), b"four"), b"four");
    });
}

#[test]
fn a_jailer_that_is_silent_is_replaced() {
    requires_root();
    let skd = sandboxed([]).start("cat");
    assert_eq!(talk(skd.connect(), b"one"), b"one");
    let silent = jailers(skd.pid());
    for jailer in &silent[1..] {
        kill(Pid::from_raw(*jailer), Signal::SIGSTOP).unwrap();
    }
    // Not each thread has a client each time.
    skd.wait_until("they are replaced", || {
        assert_eq!(talk(skd.connect(), b"two"), b"two");
        let now = jailers(skd.pid());
        silent[1..].iter().all(|jailer| !now.contains(jailer))
    });
}

/// An upgrade that succeeds.
#[track_caller]
fn upgrade(skd: &Instance) {
    let told = || skd.logged("pgrade");
    let before = told().len();
    skd.signal(Signal::SIGUSR2);
    let line = poll_for(3 * DEADLINE, || told().into_iter().nth(before));
    let line = line.unwrap_or_else(|| panic!("nothing was said: {:#?}", skd.log_lines()));
    assert!(line.starts_with("Upgraded from skd "), "{line}");
}

#[test]
fn handlers_live_on_over_upgrades_and_old_jailers_end() {
    as_both(|skd, _| {
        let script = "echo ready; while read line; do echo $line; done; exit 3";
        let skd = skd.start_with("sh", ["-c", script]);
        let (mut client, handler) = ready(&skd);
        let before = jailers(skd.pid());
        upgrade(&skd);
        upgrade(&skd);
        client.write_all(b"still\n").unwrap();
        assert_eq!(receive(&mut client, 6), b"still\n");
        let (other, _) = ready(&skd);
        drop(other);
        wait_until("old jailers have ended", || {
            before.iter().all(|pid| !exists(*pid))
        });
        drop(client);
        skd.wait_for_log(&format!("pid {handler} exited with status 3"));
        wait_until("none is left", || handlers(skd.pid()).is_empty());
        wait_until("no zombie", || zombies(skd.pid()).is_empty());
    });
}

#[test]
fn a_reload_changes_the_sandbox_with_the_rights_that_skd_has_kept() {
    requires_root();
    let directory = Directory::new();
    let user = format!("{UID}:{GID}");
    let configure = |parts: &str| {
        let text = format!(
            "[service.one]\ntcp = \"127.0.0.1:0\"\nuser = \"{user}\"\nsandbox = \"{parts}\"\n\
             command = [\"sh\", \"-c\", \"echo ready; read line; hostname; id -u\"]\n"
        );
        directory.write("skd.toml", text);
    };
    configure("strict");
    let file = directory.name("skd.toml");
    let skd = Skd::new(["-vv", "--config", &file])
        .throttle(Duration::ZERO)
        .start_bare();
    skd.wait_for_log("Listening on ");
    let port = skd.stdout_line().parse().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let (mut client, old) = ready_at(&skd, address);
    configure("user,pid,net");
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("Reloaded: ");
    let (mut other, new) = ready_at(&skd, address);
    let root = |pid| fs::metadata(format!("/proc/{pid}/root/")).unwrap().dev();
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let own = fs::metadata("/").unwrap().dev();
    assert_ne!(root(old), own);
    assert_eq!(root(new), own);
    other.write_all(b"\n").unwrap();
    assert_eq!(said(other), format!("{name}{UID}\n"));
    client.write_all(b"\n").unwrap();
    assert_eq!(said(client), format!("sandbox\n{UID}\n"));
}

#[test]
fn a_handler_that_does_not_catch_term_is_killed_at_once() {
    requires_root();
    let deaf = "echo ready; sleep 1000 & wait";
    let telling = "trap 'echo told; exit 4' TERM; echo ready; while :; do sleep 0.01; done";
    for (script, told, end) in [
        (deaf, "", "was terminated by signal 9"),
        (telling, "told\n", "exited with status 4"),
    ] {
        // The time limit, the drain, and process 1 of a handler that was there before an upgrade.
        let skd = sandboxed(["--timeout", "1s", "--kill-after", "1h"]);
        let skd = skd.run_with("sh", ["-c", script]);
        let (client, handler) = ready(&skd);
        assert_eq!(said(client), told);
        let line = skd.wait_for_log(&format!("pid {handler} "));
        assert!(
            line.contains(end) || line.contains("KILL") || line.contains("killed"),
            "{line}"
        );

        let skd = sandboxed(["--drain", "0s", "--kill-after", "1h"]);
        let skd = skd.run_with("sh", ["-c", script]);
        let (client, _) = ready(&skd);
        upgrade(&skd);
        skd.signal(Signal::SIGTERM);
        assert_eq!(said(client), told);
        assert!(skd.try_wait(DEADLINE).is_some());
    }
}

#[test]
fn nothing_is_left_of_skd_that_is_killed() {
    as_both(|skd, _| {
        let script =
            "trap '' TERM HUP; setsid sleep 1000 & echo ready; while :; do sleep 0.01; done";
        let skd = skd.start_with("sh", ["-c", script]);
        let (client, handler) = ready(&skd);
        let all = skd.processes();
        assert!(all.contains(&handler) && all.len() >= 5, "{all:?}");
        kill_process(skd.pid());
        let left = || all.iter().copied().filter(|pid| exists(*pid));
        wait_until("all have ended", || left().next().is_none());
        assert_eq!(said(client), "");
    });
}

#[test]
fn many_clients_at_once_have_a_handler_each() {
    const CLIENTS: usize = 120;
    as_both(|skd, _| {
        let skd = skd.start_with("sh", ["-c", "echo ready; read line; echo $line"]);
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let address = skd.address();
                thread::spawn(move || {
                    let clients = (0..CLIENTS / 8).map(|_| {
                        let mut client = connect(address);
                        assert_eq!(receive(&mut client, 6), b"ready\n");
                        client
                    });
                    clients.collect::<Vec<_>>()
                })
            })
            .collect();
        let clients: Vec<_> = clients
            .into_iter()
            .flat_map(|it| it.join().unwrap())
            .collect();
        assert_eq!(handlers(skd.pid()).len(), CLIENTS);
        for (number, mut client) in clients.into_iter().enumerate() {
            client.write_all(format!("{number}\n").as_bytes()).unwrap();
            assert_eq!(said(client), format!("{number}\n"));
        }
        wait_until("all have ended", || handlers(skd.pid()).is_empty());
        wait_until("all are reaped", || zombies(skd.pid()).is_empty());
        assert!(
            jailers(skd.pid()).len() <= 1 + 3,
            "{:?}",
            jailers(skd.pid())
        );
    });
}

#[test]
fn handlers_are_prestarted_in_the_sandbox() {
    as_both(|skd, uid| {
        let script = "read line; echo $$ $line; id -u; ls /home";
        let skd = skd
            .args(["-v", "--warm", "2", "--timeout", "1h"])
            .start_with("sh", ["-c", script]);
        skd.wait_for_logs("awaits a client", 2);
        let mut parked = handlers(skd.pid());
        assert_eq!(parked.len(), 2);
        assert_eq!(ids(parked[0]).0, [uid; 4]);
        for line in ["one", "two", "three"] {
            let text = talk(skd.connect(), format!("{line}\n").as_bytes());
            assert_eq!(String::from_utf8_lossy(&text), format!("1 {line}\n{uid}\n"));
        }
        for pid in parked.drain(..) {
            skd.wait_for_log(&format!("pid {pid} exited with status 0"));
        }
        // Those of an old sandbox end with it.
        skd.wait_until("two are parked", || handlers(skd.pid()).len() == 2);
        let before = handlers(skd.pid());
        upgrade(&skd);
        wait_until("they have ended", || before.iter().all(|pid| !exists(*pid)));
        assert_eq!(
            talk(skd.connect(), b"four\n"),
            format!("1 four\n{uid}\n").as_bytes()
        );
        let mut troubles = skd.troubles();
        troubles.retain(|line| !line.starts_with("skd: note: "));
        assert!(troubles.is_empty(), "{troubles:?}");
        let all = skd.processes();
        kill_process(skd.pid());
        wait_until("all have ended", || all.iter().all(|pid| !exists(*pid)));
    });
}
