//! `--gate`: a program that has the connection before the handler does, and lets it through or not.

use crate::harness::{
    Control, Conversation, Directory, Instance, Skd, assert_idle, children, connect_unix,
    controlled, echo, exists, limit_processes, poll_for, python, receive, requires_root,
    run_to_end, talk, wait_for, wait_until, zombies,
};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;
use std::time::Duration;

/// Lets a client through that says `ok`.
const PASSWORD: &str = "read -r word; test \"$word\" = ok";

/// The same, and says so when it begins.
const GREETING: &str = "echo gate; read -r word; test \"$word\" = ok";

/// A command line whose gate is a script, with a port and the directory that the script is in.
fn gated(directory: &Directory, gate: &str, options: &[&str]) -> Skd {
    let gate = directory.script("gate", &format!("#!/bin/sh\n{gate}\n"));
    Skd::new(["-v", "-t", "127.0.0.1:0", "--gate"])
        .arg(gate)
        .args(options)
        .cwd(directory.path())
        .throttle(Duration::ZERO)
}

fn is_closed(client: &mut TcpStream) -> bool {
    match client.read(&mut [0]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Asserts that skd has no child left, dead or alive.
#[track_caller]
fn expect_no_child(skd: &Instance) {
    skd.wait_until("no child is left", || {
        skd.children().is_empty() && zombies(skd.pid()).is_empty()
    });
}

fn upgrade(skd: &Instance) {
    let before = skd.logged("Upgraded from").len();
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_logs("Upgraded from", before + 1);
}

#[test]
fn a_client_that_passes_gets_a_handler_and_what_the_gate_has_not_read_is_the_handlers() {
    let directory = Directory::new();
    let skd = gated(&directory, PASSWORD, &[]).run("cat");
    assert_eq!(talk(skd.connect(), b"ok\nand the rest"), b"and the rest");
    let passed = skd.wait_for_log("Gate passed connection from [127.0.0.1]:");
    assert!(passed.ends_with(" ms"), "{passed}");
    skd.wait_for_log("Accepted connection from");
    assert_eq!(talk(skd.connect(), b"no\nand the rest"), b"");
    skd.wait_for_log(": its gate exited with status 1 after ");
    assert_eq!(skd.logged("Accepted").len(), 1);
    // The client has gone, as the gate sees.
    drop(skd.connect());
    skd.wait_for_logs(": its gate exited with status 1 after ", 2);
    expect_no_child(&skd);
    assert!(skd.troubles().is_empty());
}

#[test]
fn what_a_gate_has_said_arrives_although_it_has_read_nothing() {
    let directory = Directory::new();
    let gate = "head -c 100000 /dev/zero; echo 'go away'; exit 3";
    let skd = gated(&directory, gate, &[]).run("cat");
    for _ in 0..20 {
        let mut client = skd.connect();
        // More than a buffer takes: it would be reset if the connection were closed.
        let _ = client.write(&[b'x'; 1 << 20]);
        let _ = client.shutdown(Shutdown::Write);
        let mut said = Vec::new();
        client.read_to_end(&mut said).unwrap();
        assert_eq!(said.len(), 100_008);
        assert!(said.ends_with(b"go away\n"));
    }
    skd.wait_for_logs(": its gate exited with status 3 after ", 20);
}

#[test]
fn a_gate_has_the_surroundings_of_a_handler_and_the_log_as_standard_error() {
    let directory = Directory::new();
    let show = "env | grep -E '^(REMOTE_ADDR|PROTO|OWN|MORE)=' | sort; umask; pwd; basename \"$0\"";
    let gate = format!("{show}; echo said >&2");
    directory.write("rules", "allow 127.0.0.1 env MORE=ruled\n");
    std::fs::create_dir(directory.join("here")).unwrap();
    let rules = directory.name("rules");
    let skd = gated(
        &directory,
        &gate,
        &["--env", "OWN=value", "--umask", "027", "--rules", &rules],
    );
    let skd = skd
        .args(["--chdir", "here", "--argv0", "other", "--stderr=client"])
        .run_with("sh", ["-c", show]);
    let answer = talk(skd.connect(), b"");
    let answer = String::from_utf8(answer).unwrap();
    let lines: Vec<_> = answer.lines().collect();
    let (gate, handler) = lines.split_at(lines.len() / 2);
    assert_eq!(gate[..6], handler[..6], "{answer}");
    let expected = [
        "MORE=ruled",
        "OWN=value",
        "PROTO=TCP",
        "REMOTE_ADDR=127.0.0.1",
        "0027",
    ];
    assert_eq!(gate[..5], expected);
    assert!(gate[5].ends_with("/here"));
    assert_eq!((gate[6], handler[6]), ("gate", "other"));
    skd.wait_for_log("said");
}

#[test]
fn a_gate_runs_as_the_user_of_the_handlers() {
    requires_root();
    let directory = Directory::public();
    let skd = gated(&directory, "id -u; id -G", &["--user", "nobody"]).run_with("id", ["-u"]);
    assert_eq!(talk(skd.connect(), b""), b"65534\n65534\n65534\n");
    drop(skd);
    let skd =
        gated(&directory, "id -u; id -G", &["--daemon-user", "nobody"]).run_with("id", ["-u"]);
    assert_eq!(talk(skd.connect(), b""), b"65534\n65534\n65534\n");
}

#[test]
fn a_gate_that_cannot_run_is_found_at_the_start_and_by_a_check() {
    let directory = Directory::new();
    directory.write("plain", "no program\n");
    let plain = directory.name("plain");
    for (gate, status, words) in [
        ("/no/such/gate -x", 127, "--gate: '/no/such/gate'"),
        ("no-such-gate", 127, "--gate: 'no-such-gate'"),
        (&plain, 126, "--gate: '"),
    ] {
        for check in [&["--check"][..], &[]] {
            let options = ["-t", "127.0.0.1:0", "--gate", gate];
            let output = run_to_end(options.iter().chain(check).chain(&["cat"]));
            output.expect_code(status).expect_stderr(&[words]);
        }
    }
    let output = run_to_end(["--check", "-t", "127.0.0.1:0", "--gate", "cat", "cat"]);
    output.expect_code(0);
}

#[test]
fn a_gate_that_is_killed_lets_nobody_through() {
    let directory = Directory::new();
    let skd = gated(&directory, GREETING, &[]).run("cat");
    let mut client = skd.connect();
    receive(&mut client, 5);
    let gate = skd.wait_for_children(1)[0];
    kill(Pid::from_raw(gate), Signal::SIGKILL).unwrap();
    assert!(is_closed(&mut client));
    skd.wait_for_log(": its gate was terminated by signal 9 after ");
    expect_no_child(&skd);
}

#[test]
fn processes_that_a_gate_leaves_in_its_group_end_with_it() {
    let directory = Directory::new();
    let gate = "sleep 1000 & echo $!; read -r status; exit $status";
    let skd = gated(&directory, gate, &[]).run("cat");
    let line = |client: &mut TcpStream| {
        let mut line = String::new();
        while !line.ends_with('\n') {
            line.push(receive(client, 1)[0] as char);
        }
        line.trim().parse::<i32>().unwrap()
    };
    let mut client = skd.connect();
    let left = line(&mut client);
    client.write_all(b"1\n").unwrap();
    assert!(is_closed(&mut client));
    wait_until("what the first gate has left ends", || !exists(left));
    let mut client = skd.connect();
    let left = line(&mut client);
    client.write_all(b"0\n").unwrap();
    echo(&mut client, b"through");
    wait_until("what the second gate has left ends", || !exists(left));
    client.shutdown(Shutdown::Write).unwrap();
    // The handler was the last that had the connection.
    assert!(is_closed(&mut client));
}

#[test]
fn a_gate_that_takes_too_long_is_told_to_end_and_then_killed() {
    let directory = Directory::new();
    let gate = "trap 'echo late; exit 0' TERM; echo gate; while :; do sleep 0.01; done";
    let skd = gated(&directory, gate, &["--gate-timeout=500ms"]).run("cat");
    assert_eq!(talk(skd.connect(), b"ok\n"), b"gate\nlate\n");
    skd.wait_for_log(": its gate took too long, ");
    assert!(skd.logged("KILL").is_empty() && skd.logged("Accepted").is_empty());
    drop(skd);

    let gate = "trap '' TERM; sleep 1000 & echo gate; while :; do sleep 1000; done";
    let limits = ["--gate-timeout=500ms", "--kill-after=100ms"];
    let skd = gated(&directory, gate, &limits).run("cat");
    let mut client = skd.connect();
    receive(&mut client, 5);
    let gate = skd.wait_for_children(1)[0];
    let child = wait_for("the child of the gate", || children(gate).pop());
    assert!(is_closed(&mut client));
    let killed = skd.wait_for_log(": KILL is sent to it");
    assert!(killed.starts_with(&format!("skd: gate {gate} of connection from")));
    skd.wait_for_log(": its gate took too long, ");
    wait_until("both end", || !exists(gate) && !exists(child));
    expect_no_child(&skd);
    assert_idle(&[skd.pid()]);
}

#[test]
fn clients_over_the_limit_of_the_gate_are_refused_and_counted() {
    let directory = Directory::new();
    let gate = directory.script("gate", &format!("#!/bin/sh\n{GREETING}\n"));
    let options = [
        "-v",
        "--gate-max=2",
        "--at-max",
        "message:full\n",
        "--max-clients=9",
    ];
    let skd = controlled(&directory, options);
    let skd = skd.arg("--gate").arg(gate).run("cat");
    let mut control = Control::of(&directory);
    let mut inside = [skd.connect(), skd.connect()];
    for client in &mut inside {
        assert_eq!(receive(client, 5), b"gate\n");
    }
    for _ in 0..3 {
        assert_eq!(talk(skd.connect(), b""), b"full\n");
    }
    skd.wait_for_log(": 2 clients are in the gate, and no more may be");
    let service = control.service("cat");
    assert_eq!(service["gate"], json!({"live": 2, "limit": 2, "passed": 0}));
    assert_eq!(service["listeners"][0]["rejected"]["gate-max"], 3);
    assert_eq!(
        (&service["pending"], &service["running"]),
        (&json!(2), &json!(0))
    );
    let [mut first, second] = inside;
    first.write_all(b"ok\n").unwrap();
    echo(&mut first, b"through");
    drop(second);
    wait_until("the gate is empty", || {
        control.service("cat")["gate"]["live"] == 0
    });
    let service = control.service("cat");
    assert_eq!(service["gate"]["passed"], 1);
    assert_eq!(service["listeners"][0]["rejected"]["gate"], 1);
    let mut client = skd.connect();
    assert_eq!(receive(&mut client, 5), b"gate\n");
}

#[test]
fn hundreds_of_clients_are_in_the_gate_at_once_and_pass_to_few_slots() {
    const CLIENTS: usize = 500;
    let directory = Directory::new();
    let most = CLIENTS.to_string();
    let options = ["--gate-max", &most, "-c", "3", "--threads", "2"];
    let skd = gated(&directory, GREETING, &options).run("cat");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| skd.connect()).collect();
    for client in &mut clients {
        assert_eq!(receive(client, 5), b"gate\n");
    }
    assert!(is_closed(&mut skd.connect()));
    skd.wait_for_log(": 500 clients are in the gate, and no more may be");
    assert_idle(&[skd.pid()]);
    for client in &mut clients {
        client.write_all(b"ok\nhello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    for client in &mut clients {
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, b"hello");
    }
    assert_eq!(
        skd.wait_for_logs("exited with status 0", CLIENTS).len(),
        CLIENTS
    );
    assert_eq!(skd.logged("Gate passed").len(), CLIENTS);
    expect_no_child(&skd);
}

#[test]
fn a_client_that_has_passed_waits_for_a_slot_and_may_leave() {
    let directory = Directory::new();
    let skd = gated(&directory, GREETING, &["-c", "1"]).run("cat");
    let pass = || {
        let mut client = skd.connect();
        assert_eq!(receive(&mut client, 5), b"gate\n");
        client.write_all(b"ok\n").unwrap();
        client
    };
    let mut first = pass();
    echo(&mut first, b"first");
    let mut second = pass();
    skd.wait_for_logs("Gate passed", 2);
    let third = pass_or_wait(&skd);
    drop(third);
    second.write_all(b"second").unwrap();
    assert_idle(&[skd.pid()]);
    assert_eq!(skd.logged("Accepted").len(), 1);
    drop(first);
    assert_eq!(receive(&mut second, 6), b"second");
    drop(second);
    let mut last = pass();
    echo(&mut last, b"last");
    drop(last);
    expect_no_child(&skd);
}

/// A client that goes away while another, which has passed, waits for a slot: it may be in the backlog, or in the gate of
/// another worker.
fn pass_or_wait(skd: &Instance) -> TcpStream {
    let mut client = skd.connect();
    client.write_all(b"ok\n").unwrap();
    client
}

#[test]
fn a_full_service_that_refuses_does_so_before_the_gate() {
    let directory = Directory::new();
    let options = ["-c", "1", "--at-max", "message:full\n"];
    let skd = gated(&directory, GREETING, &options).run("cat");
    let mut client = skd.connect();
    receive(&mut client, 5);
    client.write_all(b"ok\n").unwrap();
    echo(&mut client, b"first");
    assert_eq!(talk(skd.connect(), b""), b"full\n");
    drop(client);
    let again = poll_for(Duration::from_secs(20), || {
        let answer = talk(skd.connect(), b"ok\nagain");
        (answer == b"gate\nagain").then_some(())
    });
    again.expect("the slot is free again");
}

#[test]
fn a_client_in_the_gate_counts_for_its_source() {
    let directory = Directory::new();
    let skd = gated(&directory, GREETING, &["--max-per-source", "1"]).run("cat");
    let mut client = skd.connect();
    receive(&mut client, 5);
    assert!(is_closed(&mut skd.connect()));
    skd.wait_for_log("has as many handlers as it may, 1");
    client.write_all(b"no\n").unwrap();
    assert!(is_closed(&mut client));
    let mut client = skd.connect();
    assert_eq!(receive(&mut client, 5), b"gate\n");
}

#[test]
fn a_gate_knows_the_client_of_a_proxy() {
    let directory = Directory::new();
    let gate = "echo $REMOTE_ADDR; read -r word; test \"$word\" = ok";
    let options = ["--proxy-protocol", "--proxy-from", "127.0.0.1"];
    let skd = gated(&directory, gate, &options).run("cat");
    let sent = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 80\r\nok\nrest";
    assert_eq!(talk(skd.connect(), sent), b"192.0.2.7\nrest");
    skd.wait_for_log("Gate passed connection from [192.0.2.7]:4000 ");
}

#[test]
fn clients_of_unix_sockets_pass_a_gate() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let gate = format!("echo $PROTO; {PASSWORD} || {{ echo no; exit 1; }}");
    let skd = gated(&directory, &gate, &["-l", &path]).run("cat");
    assert_eq!(talk(connect_unix(&path), b"ok\nrest"), b"UNIX-STREAM\nrest");
    assert_eq!(
        talk(connect_unix(&path), b"what?\nrest"),
        b"UNIX-STREAM\nno\n"
    );
    skd.wait_for_log("Refused local connection");
}

#[test]
fn a_handler_waits_for_input_whatever_the_gate_has_made_of_the_connection() {
    let directory = Directory::new();
    let gate = directory.script(
        "gate.py",
        "#!/usr/bin/env python3\nimport os\nos.set_blocking(0, False)\nos.write(1, b'.')\n",
    );
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--gate"]).arg(gate);
    let skd = skd.run_with("sh", ["-c", "head -c 5; echo; echo end"]);
    let mut client = skd.connect();
    receive(&mut client, 1);
    skd.wait_for_log("Accepted");
    assert_idle(&[skd.pid()]);
    assert_eq!(talk(client, b"hello"), b"hello\nend\n");
}

#[test]
fn gates_stay_over_upgrades_and_pass_or_refuse_after_them() {
    let directory = Directory::new();
    let skd = gated(&directory, GREETING, &["-c", "1", "--gate-timeout=60s"]).run("cat");
    let greeted = || {
        let mut client = skd.connect();
        assert_eq!(receive(&mut client, 5), b"gate\n");
        client
    };
    let mut first = greeted();
    first.write_all(b"ok\n").unwrap();
    echo(&mut first, b"first");
    // One waits for a slot, and the others are in the gate.
    let mut waiting = greeted();
    waiting.write_all(b"ok\n").unwrap();
    skd.wait_for_logs("Gate passed", 2);
    upgrade(&skd);
    drop(first);
    echo(&mut waiting, b"waited");
    let (mut good, mut bad, silent) = (greeted(), greeted(), greeted());
    for _ in 0..2 {
        upgrade(&skd);
    }
    assert_eq!(skd.wait_for_children(4).len(), 4);
    bad.write_all(b"no\n").unwrap();
    assert!(is_closed(&mut bad));
    good.write_all(b"ok\n").unwrap();
    skd.wait_for_logs("Gate passed", 3);
    upgrade(&skd);
    drop(waiting);
    echo(&mut good, b"good");
    drop(silent);
    skd.wait_for_logs(": its gate exited with status 1 after ", 2);
    assert_eq!(skd.logged("Gate passed").len(), 3);
    drop(good);
    expect_no_child(&skd);
    let slot = |line: &String| line.contains("the only slot is taken");
    assert!(skd.troubles().iter().all(slot), "{:?}", skd.troubles());
}

#[test]
fn gates_are_looked_at_where_there_are_no_pidfds() {
    let directory = Directory::new();
    let skd = gated(&directory, GREETING, &["--gate-timeout=60s"])
        .refusing(libc::SYS_pidfd_open, Errno::ENOSYS)
        .refusing(libc::SYS_clone3, Errno::ENOSYS)
        .refusing_bits(libc::SYS_clone, 0, libc::CLONE_PIDFD as u32, Errno::EINVAL)
        .run("cat");
    for upgraded in [false, true] {
        let (mut good, mut bad) = (skd.connect(), skd.connect());
        for client in [&mut good, &mut bad] {
            assert_eq!(receive(client, 5), b"gate\n");
        }
        if upgraded {
            upgrade(&skd);
        }
        good.write_all(b"ok\n").unwrap();
        echo(&mut good, b"good");
        bad.write_all(b"no\n").unwrap();
        assert!(is_closed(&mut bad));
    }
    skd.wait_until("no child is left", || skd.children().is_empty());
}

#[test]
fn a_gate_that_cannot_be_started_for_now_is_started_later() {
    requires_root();
    let directory = Directory::public();
    let skd = gated(&directory, GREETING, &["--daemon-user", "4711:4711"]).run("cat");
    limit_processes(skd.pid(), 1);
    let mut first = skd.connect();
    assert_eq!(receive(&mut first, 5), b"gate\n");
    let mut second = skd.connect();
    second.write_all(b"ok\nhello").unwrap();
    skd.wait_for_log("skd: no process for '");
    first.write_all(b"no\n").unwrap();
    assert!(is_closed(&mut first));
    assert_eq!(receive(&mut second, 10), b"gate\nhello");
    assert_eq!(skd.logged("Gate passed").len(), 1);
}

#[test]
fn a_prestarted_handler_gets_a_client_that_has_passed() {
    let directory = Directory::new();
    let skd = gated(&directory, GREETING, &["--warm", "2"]).run("cat");
    let ready = skd.wait_for_children(2);
    assert_eq!(talk(skd.connect(), b"ok\nhello"), b"gate\nhello");
    assert_eq!(talk(skd.connect(), b"no\nhello"), b"gate\n");
    let closed = skd.wait_for_log("Closed connection from");
    let is_its = |pid: &i32| closed.contains(&format!(": pid {pid} exited"));
    assert!(ready.iter().any(is_its), "{closed}");
}

#[test]
fn a_gate_is_outside_of_the_sandbox() {
    requires_root();
    let directory = Directory::public();
    let gate = "readlink /proc/self/ns/pid; hostname >&2; read -r word; test \"$word\" = ok";
    let options = ["--user", "nobody", "--sandbox"];
    let skd = gated(&directory, gate, &options);
    let skd = skd.run_with("sh", ["-c", "readlink /proc/self/ns/pid; cat"]);
    let own = std::fs::read_link("/proc/self/ns/pid").unwrap();
    let answer = String::from_utf8(talk(skd.connect(), b"ok\nhello")).unwrap();
    let lines: Vec<_> = answer.lines().collect();
    assert_eq!(lines.len(), 3, "{answer}");
    assert_eq!(lines[0], own.to_str().unwrap());
    assert_ne!(lines[1], lines[0]);
    assert_eq!(lines[2], "hello");
}

#[test]
fn a_gate_of_a_sandbox_stays_in_the_directory_of_skd_and_has_the_user_of_handlers() {
    requires_root();
    let directory = Directory::public();
    let gate = "pwd; id -u; read -r word";
    let options = ["--sandbox", "--tmpfs", "/inside", "--chdir", "/inside"];
    let skd = gated(&directory, gate, &options);
    let skd = skd.run_with("sh", ["-c", "pwd; id -u; cat"]);
    let answer = String::from_utf8(talk(skd.connect(), b"ok\nhello")).unwrap();
    let lines: Vec<_> = answer.lines().collect();
    let own = std::fs::read_link(format!("/proc/{}/cwd", skd.pid())).unwrap();
    assert_eq!(lines[0], own.to_str().unwrap(), "{answer}");
    assert_eq!(&lines[1..], ["65534", "/inside", "65534", "hello"]);
}

#[test]
fn contained_handlers_and_gates_know_of_each_other_over_upgrades() {
    let directory = Directory::new();
    let skd = gated(&directory, GREETING, &["--contain", "--gate-timeout=60s"]).run("cat");
    let mut inside = skd.connect();
    assert_eq!(receive(&mut inside, 5), b"gate\n");
    let gate = skd.wait_for_children(1);
    upgrade(&skd);
    let mut other = skd.connect();
    assert_eq!(receive(&mut other, 5), b"gate\n");
    other.write_all(b"ok\n").unwrap();
    echo(&mut other, b"other");
    drop(other);
    skd.wait_for_log("Closed connection from");
    assert!(exists(gate[0]));
    inside.write_all(b"ok\n").unwrap();
    echo(&mut inside, b"inside");
}

#[test]
fn a_gate_that_an_upgrade_has_left_times_out() {
    let directory = Directory::new();
    let gate = "trap '' TERM; echo gate; while :; do sleep 1000; done";
    let options = ["--gate-timeout=2s", "--kill-after=100ms"];
    let skd = gated(&directory, gate, &options).run("cat");
    let mut client = skd.connect();
    receive(&mut client, 5);
    upgrade(&skd);
    assert!(is_closed(&mut client));
    skd.wait_for_log(": its gate took too long, ");
    expect_no_child(&skd);
}

#[test]
fn gates_are_told_to_end_when_skd_does() {
    let directory = Directory::new();
    let gate = "trap 'echo told; exit 0' TERM; echo gate; while :; do sleep 0.01; done";
    for options in [&["--drain=60s"][..], &[]] {
        let skd = gated(&directory, gate, options).run("cat");
        let mut client = skd.connect();
        receive(&mut client, 5);
        let gate = skd.wait_for_children(1)[0];
        assert_eq!(skd.stop().code(), Some(0));
        let mut said = Vec::new();
        let _ = client.read_to_end(&mut said);
        match options.is_empty() {
            true => assert!(said.is_empty()),
            false => assert_eq!(said, b"told\n"),
        }
        assert!(!exists(gate));
        assert!(skd.logged("Accepted").is_empty());
        skd.wait_for_log(": skd ends");
    }
    // What doesn't listen is killed, and holds nothing up.
    let gate = "trap '' TERM; echo gate; while :; do sleep 1000; done";
    let skd = gated(&directory, gate, &["--drain=60s"]).run("cat");
    let mut client = skd.connect();
    receive(&mut client, 5);
    let gate = skd.wait_for_children(1)[0];
    assert_eq!(skd.stop().code(), Some(0));
    wait_until("the gate is killed", || !exists(gate));
    assert!(is_closed(&mut client));
}

#[test]
fn the_gate_of_a_denied_client_is_killed() {
    let directory = Directory::new();
    let gate = "trap '' TERM; echo gate; while :; do sleep 1000; done";
    let gate = directory.script("gate", &format!("#!/bin/sh\n{gate}\n"));
    let skd = controlled(&directory, ["-v", "--gate"])
        .arg(gate)
        .run("cat");
    let mut control = Control::of(&directory);
    let mut client = skd.connect();
    receive(&mut client, 5);
    control.done(json!({"request": "deny", "source": "127.0.0.0/8", "seconds": 60}));
    assert!(is_closed(&mut client));
    skd.wait_for_log(": it is denied for a time");
    expect_no_child(&skd);
    assert_eq!(control.service("cat")["gate"]["live"], 0);
    assert_idle(&[skd.pid()]);
}

#[test]
fn clients_in_the_gate_of_a_disabled_service_pass_and_a_drain_waits_for_them() {
    let directory = Directory::new();
    let gate = directory.script("gate", &format!("#!/bin/sh\n{GREETING}\n"));
    let skd = controlled(&directory, ["-v", "--gate"])
        .arg(gate)
        .run("cat");
    let mut control = Control::of(&directory);
    let mut client = skd.connect();
    receive(&mut client, 5);
    control.done(json!({"request": "disable", "service": "cat"}));
    client.write_all(b"ok\n").unwrap();
    echo(&mut client, b"through");
    control.done(json!({"request": "enable", "service": "cat"}));
    let mut other = skd.connect();
    receive(&mut other, 5);
    control.send(json!({"request": "drain", "service": "cat"}));
    drop(client);
    other.write_all(b"ok\n").unwrap();
    echo(&mut other, b"through");
    drop(other);
    control.expect_done();
    expect_no_child(&skd);
}

#[test]
fn a_reload_changes_the_gate_for_later_clients_and_no_client_gets_past_it() {
    let directory = Directory::new();
    let gate = directory.script("gate", &format!("#!/bin/sh\n{GREETING}\n"));
    let gate = format!("gate = \"{}\"\n", gate.display());
    let configure = |more: &str| {
        let path = directory.name("socket");
        let text = format!("[service.cat]\nunix = \"{path}\"\ncommand = [\"cat\"]\n{more}");
        directory.write("skd.toml", text);
    };
    configure(&gate);
    let file = directory.name("skd.toml");
    let skd = Skd::new(["-vv", "--config", &file]).throttle(Duration::ZERO);
    let skd = skd.start_bare();
    skd.wait_for_log("Listening on ");
    let greeted = || {
        let mut client = connect_unix(directory.join("socket"));
        assert_eq!(receive(&mut client, 5), b"gate\n");
        client
    };
    let reload = |count: usize| {
        skd.signal(Signal::SIGHUP);
        skd.wait_for_logs("Reloaded: ", count);
    };
    let (mut good, mut bad) = (greeted(), greeted());
    configure("");
    reload(1);
    // No gate for new clients, and the old one for those that are in it.
    assert_eq!(talk(connect_unix(directory.join("socket")), b"new"), b"new");
    bad.write_all(b"no\n").unwrap();
    assert_eq!(bad.read(&mut [0]).unwrap(), 0);
    good.write_all(b"ok\n").unwrap();
    echo(&mut good, b"good");
    configure(&gate);
    reload(2);
    let mut other = greeted();
    configure("gate = \"/no/such/gate\"\n");
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("--gate: '/no/such/gate'");
    other.write_all(b"ok\n").unwrap();
    echo(&mut other, b"other");
    drop(greeted());
    // The service is gone, and with it the clients in its gate.
    let last = greeted();
    directory.write(
        "skd.toml",
        "[service.other]\ntcp = \"127.0.0.1:0\"\ncommand = [\"cat\"]\n",
    );
    reload(3);
    let mut last = last;
    last.write_all(b"ok\n").unwrap();
    echo(&mut last, b"last");
    drop((good, other, last));
    expect_no_child(&skd);
    assert!(skd.troubles().len() <= 2, "{:?}", skd.troubles());
}

/// Takes the roots that a challenge asks for: the solver that players have, in a few lines.
const SOLVER: &str = "
import base64, sys
version, difficulty, x = sys.argv[1].split('.')
difficulty = int.from_bytes(base64.b64decode(difficulty), 'big')
x = int.from_bytes(base64.b64decode(x), 'big')
prime = 2**1279 - 1
for _ in range(difficulty):
    # The root of X is X to the power of (prime + 1) / 4 = 2^1277.
    for _ in range(1277):
        x *= x
        x = (x & prime) + (x >> 1279)
        x -= prime if x >= prime else 0
    x ^= 1
print(version + '.' + base64.b64encode(x.to_bytes(160, 'big')).decode())
";

/// Solves the challenge of the gate in contrib/, and sends the solution. Returns the connection, and the challenge.
pub fn solve<C: Conversation>(mut client: C) -> (C, String) {
    let challenge = challenge(&mut client);
    let solution = solution(&challenge);
    client.write_all(solution.as_bytes()).unwrap();
    (client, challenge)
}

/// Reads what the gate asks.
fn challenge(client: &mut impl Read) -> String {
    let mut asked = String::new();
    while !asked.ends_with("solution: ") {
        asked.push(receive(client, 1)[0] as char);
    }
    let lines: Vec<_> = asked.lines().collect();
    let [first, command, _] = lines[..] else {
        panic!("{asked}");
    };
    assert_eq!(first, "proof of work:");
    let challenge = command.strip_prefix("curl -sSfL https://pwn.red/pow | sh -s ");
    challenge.expect(command).to_owned()
}

/// Returns the line that solves a challenge.
fn solution(challenge: &str) -> String {
    let solved = Command::new(python())
        .args(["-c", SOLVER, challenge])
        .output();
    String::from_utf8(solved.unwrap().stdout).unwrap()
}

fn proof_of_work(difficulty: &str) -> Skd {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/contrib/proof-of-work/proof-of-work"
    );
    let gate = format!("{} {script} {difficulty}", python());
    Skd::new(["-v", "-t", "127.0.0.1:0", "--gate", &gate]).throttle(Duration::ZERO)
}

#[test]
fn a_proof_of_work_lets_in_who_has_done_it() {
    let skd = proof_of_work("30").run("cat");
    let (mut client, first) = solve(skd.connect());
    echo(&mut client, b"in");
    assert!(first.starts_with("s.AAAAHg==."), "{first}");
    // What comes with the answer is the handler's, and a line may end as on a terminal.
    let mut client = skd.connect();
    let second = challenge(&mut client);
    assert_ne!(second, first);
    let answer = format!("{}\r\nand more", solution(&second).trim());
    client.write_all(answer.as_bytes()).unwrap();
    assert_eq!(receive(&mut client, 8), b"and more");
}

#[test]
fn a_proof_of_work_is_for_one_challenge_and_faults_are_no_proof() {
    let skd = proof_of_work("3").run("cat");
    let (mut client, first) = solve(skd.connect());
    echo(&mut client, b"in");
    let old = solution(&first);
    let long = "A".repeat(10_000);
    let huge = format!("s.{}\n", "/".repeat(220));
    for answer in [
        &*old,
        "\n",
        "s.\n",
        "s\n",
        "s.AA\n",
        "s.ÿÿÿÿ\n",
        "t.AAAA\n",
        &first,
        &huge,
        &long,
        "",
    ] {
        let mut client = skd.connect();
        challenge(&mut client);
        let _ = client.write_all(answer.as_bytes());
        let _ = client.shutdown(Shutdown::Write);
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!(said, "that is no solution\n", "{answer}");
    }
    // The other root is one, too: the square of both is the same.
    let mut client = skd.connect();
    let other = challenge(&mut client);
    let negative = SOLVER.replace("x ^= 1", "x = (prime - x) ^ 1");
    let solved = Command::new(python())
        .args(["-c", &negative, &other])
        .output();
    client.write_all(&solved.unwrap().stdout).unwrap();
    echo(&mut client, b"in");
    assert_eq!(skd.logged("Accepted").len(), 2);
    let faults: Vec<_> = skd
        .log_lines()
        .into_iter()
        .filter(|line| line.contains("Error"))
        .collect();
    assert_eq!(faults, [""; 0]);
}

#[test]
fn a_proof_of_work_has_a_difficulty_that_is_a_number() {
    for difficulty in ["0", "4294967296", "much"] {
        let skd = proof_of_work(difficulty).run("cat");
        assert!(is_closed(&mut skd.connect()));
        skd.wait_for_log(": its gate exited with status 1 after ");
    }
}
