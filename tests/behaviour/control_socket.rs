//! The control socket: who may ask and act, what is asked badly, and that no client holds skd up.

use crate::harness::{
    Control, Directory, Instance, Skd, assert_idle, connect_unix, controlled, copy_program,
    descriptors, echo, leave_stale, limit, requires_command, requires_root, rss_anon, run_to_end,
    talk, threads, wait_for, wait_until,
};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

/// Ids without an account.
const STRANGER: u32 = 61_250;
const MEMBER: u32 = 61_251;
const READERS: u32 = 61_252;

/// Asserts that skd answers at its control socket.
#[track_caller]
fn expect_asks(directory: &Directory) {
    Control::of(directory).status();
}

/// Asserts that skd answers at its control socket and serves a client of its port.
#[track_caller]
fn expect_well(directory: &Directory, skd: &Instance) {
    expect_asks(directory);
    assert_eq!(talk(skd.connect(), b"served"), b"served");
}

// Who may ask and act.

/// Sends requests as another user, with these groups, and returns what is answered.
#[track_caller]
fn as_user(user: u32, groups: &[u32], directory: &Directory, requests: &[&str]) -> Vec<Value> {
    requires_root();
    requires_command("setpriv");
    requires_command("perl");
    const ASK: &str = "use Socket; $SIG{PIPE} = 'IGNORE'; socket(S, AF_UNIX, SOCK_STREAM, 0) or die; \
                       connect(S, sockaddr_un(shift)) or die qq(connect: $!\\n); \
                       syswrite S, qq($_\\n) for @ARGV; shutdown(S, 1); print while <S>";
    let id = user.to_string();
    let groups: Vec<_> = groups.iter().map(u32::to_string).collect();
    let groups = match groups.is_empty() {
        true => "--clear-groups".into(),
        false => format!("--groups={}", groups.join(",")),
    };
    let output = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, &groups, "perl", "-e", ASK])
        .arg(directory.join("control"))
        .args(requests)
        .output()
        .expect("setpriv");
    let error = String::from_utf8_lossy(&output.stderr);
    if error.starts_with("connect: ") {
        return vec![json!(error.trim_end())];
    }
    assert!(output.status.success(), "{error}");
    let output = String::from_utf8(output.stdout).unwrap();
    output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

const STATUS: &str = r#"{"version":1,"id":1,"request":"status"}"#;
const QUIET: &str = r#"{"version":1,"id":2,"request":"set-verbosity","level":0}"#;

/// What is answered to an ask and an act: each the answer, or the kind of failure.
#[track_caller]
fn rights(user: u32, groups: &[u32], directory: &Directory) -> Vec<String> {
    let answers = as_user(user, groups, directory, &[STATUS, QUIET]);
    let word = |answer: &Value| {
        let word = match answer["answer"].as_str() {
            Some("failed") => &answer["kind"],
            Some(_) => &answer["answer"],
            None => answer,
        };
        word.as_str().unwrap().to_owned()
    };
    answers.iter().map(word).collect()
}

#[test]
fn without_options_only_root_can_connect_to_the_socket_of_root() {
    let directory = Directory::public();
    let _skd = controlled(&directory, []).run("cat");
    let file = fs::metadata(directory.join("control")).unwrap();
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    assert_eq!(rights(0, &[], &directory), ["status", "done"]);
    assert_eq!(
        rights(STRANGER, &[], &directory),
        ["connect: Permission denied"]
    );
}

#[test]
fn the_user_decides_whatever_the_mode_is() {
    let directory = Directory::public();
    let _skd = controlled(&directory, ["--control-mode", "666"]).run("cat");
    assert_eq!(rights(STRANGER, &[], &directory), ["not-permitted"]);
    assert_eq!(rights(STRANGER, &[0], &directory), ["not-permitted"]);
    assert_eq!(rights(0, &[], &directory), ["status", "done"]);
}

#[test]
fn an_owner_acts_and_members_of_a_group_ask() {
    requires_root();
    let directory = Directory::public();
    let owner = STRANGER.to_string();
    let readers = READERS.to_string();
    let options = ["--control-owner", &owner, "--control-read", &readers];
    let _skd = controlled(&directory, options).run("cat");
    let file = fs::metadata(directory.join("control")).unwrap();
    assert_eq!((file.uid(), file.gid()), (STRANGER, READERS));
    assert_eq!(file.permissions().mode() & 0o777, 0o660);
    assert_eq!(rights(STRANGER, &[], &directory), ["status", "done"]);
    assert_eq!(
        rights(MEMBER, &[READERS], &directory),
        ["status", "not-permitted"]
    );
    assert_eq!(
        rights(READERS, &[], &directory),
        ["status", "not-permitted"]
    );
    assert_eq!(
        rights(MEMBER, &[], &directory),
        ["connect: Permission denied"]
    );
}

#[test]
fn a_user_that_skd_becomes_may_not_act() {
    requires_root();
    let directory = Directory::public();
    let user = STRANGER.to_string();
    let skd = controlled(&directory, ["--control-mode", "666"])
        .args(["--daemon-user", &format!("{user}:{user}")])
        .run("cat");
    // Handlers run as this user.
    assert_eq!(rights(STRANGER, &[], &directory), ["not-permitted"]);
    assert_eq!(rights(0, &[], &directory), ["status", "done"]);
    assert_eq!(skd.stop().code(), Some(0));
}

// Bad requests.

#[test]
fn bad_requests_are_answered_and_the_next_one_is_read() {
    let directory = Directory::new();
    let skd = controlled(&directory, []).run("cat");
    let mut client = Control::of(&directory);
    for (line, id, words) in [
        ("", 0, "this is no JSON"),
        ("GET / HTTP/1.1\r", 0, "this is no JSON"),
        ("\0\0\0", 0, "this is no JSON"),
        ("\u{fe}\u{ff}", 0, "this is no JSON"),
        ("[]", 0, "a request is an object"),
        (
            r#"{"version":2,"id":3,"request":"status"}"#,
            3,
            "speaks version 1",
        ),
        (
            r#"{"version":1,"id":3,"request":"halt"}"#,
            3,
            "unknown variant `halt`",
        ),
        (
            r#"{"version":1,"id":3,"request":"kill","pid":"1"}"#,
            3,
            "pid: invalid type",
        ),
        (
            r#"{"version":1,"id":3,"request":"events","source":"x"}"#,
            3,
            "source: ",
        ),
        (
            r#"{"version":1,"id":3,"request":"events","events":["closed","rejectd"]}"#,
            3,
            "there is no event \"rejectd\": did you mean rejected?",
        ),
    ] {
        client.write(format!("{line}\n"));
        client.expect_failure_of(id, "bad-request", words);
    }
    client.write(format!("{}\n", "[".repeat(60_000)));
    client.expect_failure_of(0, "bad-request", "recursion limit");
    client.status();
    // Two at once, in pieces.
    client.write(r#"{"version":1,"id":8,"request":"status"}"#);
    client.write("\n{\"version\":1,\"id\":9,");
    client.write("\"request\":\"status\"}\n");
    assert_eq!(client.next().unwrap()["id"], 8);
    assert_eq!(client.next().unwrap()["id"], 9);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_request_without_an_end_is_refused() {
    let directory = Directory::new();
    let skd = controlled(&directory, []).run("cat");
    let mut long = Control::of(&directory);
    long.write("x".repeat(64 * 1024));
    long.expect_failure_of(0, "bad-request", "65536 bytes at most");
    assert_eq!(long.next(), None);

    let mut half = Control::of(&directory);
    half.write(STATUS);
    half.shut_down();
    half.expect_failure_of(0, "bad-request", "no newline");
    assert_eq!(half.next(), None);

    // A client that closes its end gets its answers all the same.
    let answers = talk(connect_unix(directory.join("control")), b"{}\n{}\n");
    assert_eq!(answers.iter().filter(|byte| **byte == b'\n').count(), 2);
    expect_well(&directory, &skd);
}

// What clients hold.

#[test]
fn there_are_64_clients_at_most_and_they_hold_up_nobody() {
    let directory = Directory::new();
    let skd = controlled(&directory, []).run("cat");
    let mut clients: Vec<_> = (0..64).map(|_| Control::of(&directory)).collect();
    for client in &mut clients {
        // Half a request of each.
        client.write("{\"version\":1,");
    }
    let mut one_more = Control::of(&directory);
    one_more.expect_failure_of(0, "busy", "64 such clients");
    assert_eq!(one_more.next(), None);
    assert_eq!(talk(skd.connect(), b"served"), b"served");
    assert_idle(&[skd.pid()]);
    // Each is served still.
    for client in &mut clients {
        client.write("\"id\":7,\"request\":\"status\"}\n");
        assert_eq!(client.next().unwrap()["answer"], "status");
    }
    clients.pop();
    wait_until("a client fewer is served", || {
        let mut client = Control::of(&directory);
        client.write(format!("{STATUS}\n"));
        client
            .next()
            .is_some_and(|answer| answer["answer"] == "status")
    });
    drop(clients);
    wait_until("all are closed", || {
        let open = descriptors(skd.pid());
        open.values().filter(|it| it.starts_with("socket:")).count() < 64
    });
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn readers_leave_connections_to_clients_that_act() {
    requires_root();
    let directory = Directory::public();
    let readers = READERS.to_string();
    let skd = controlled(&directory, ["--control-read", &readers]).run("cat");
    // 60 connections of a reader, of which 48 are served.
    requires_command("perl");
    const HOLD: &str = "use Socket; $| = 1; my @all; for (1..60) { socket(my $s, AF_UNIX, SOCK_STREAM, 0); \
                        connect($s, sockaddr_un($ARGV[0])) or die; push @all, $s; } \
                        my $busy = 0; for (@all[48..59]) { $busy++ if <$_> =~ /busy/; } \
                        print qq($busy\\n); sleep 60";
    let path = directory.join("control");
    let id = READERS.to_string();
    let mut holder = Command::new("setpriv")
        .args([
            "--reuid",
            &id,
            "--regid",
            &id,
            "--clear-groups",
            "perl",
            "-e",
            HOLD,
        ])
        .arg(&path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut busy = String::new();
    BufReader::new(holder.stdout.as_mut().unwrap())
        .read_line(&mut busy)
        .unwrap();
    assert_eq!(busy, "12\n");
    expect_well(&directory, &skd);
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_client_that_never_reads_loses_events_and_delays_nothing() {
    let directory = Directory::new();
    let skd = controlled(&directory, []).run("true");
    let mut idle = Control::of(&directory);
    idle.watch(json!({}));
    let mut reader = Control::of(&directory);
    reader.watch(json!({"events": ["accepted"]}));
    let before = rss_anon(skd.pid());
    const CONNECTIONS: usize = 2000;
    let mut seen = 0;
    for _ in 0..CONNECTIONS {
        assert_eq!(talk(skd.connect(), b""), b"");
        let event = reader.next().expect("an event");
        assert_eq!(event["answer"], "event", "{event}");
        assert_eq!(event["event"], "accepted", "{event}");
        assert_eq!(event["id"], 1, "{event}");
        seen += 1;
    }
    assert_eq!(seen, CONNECTIONS);
    reader.status();
    let grown = rss_anon(skd.pid()).saturating_sub(before);
    assert!(grown < 4 * 1024 * 1024, "{grown} bytes more");
    // It is told how many it has missed, once it reads.
    let mut lines = 0;
    let lost = loop {
        let event = idle.next().expect("an event");
        lines += 1;
        if lines % 50 == 0 {
            // Makes an event, after which it is told.
            let _ = talk(skd.connect(), b"");
        }
        if event["event"] == "events-lost" {
            break event["count"].as_u64().unwrap();
        }
    };
    assert!(lost > 0 && lines > 100, "{lost} lost, {lines} read");
    drop((idle, reader));
    expect_asks(&directory);
    assert_idle(&[skd.pid()]);
}

#[test]
fn each_client_gets_the_events_that_it_asked_for() {
    let directory = Directory::new();
    let skd = controlled(&directory, []).run("true");
    let mut closed = Control::of(&directory);
    closed.watch(json!({"events": ["closed"], "source": "127.0.0.0/8"}));
    let mut none = Control::of(&directory);
    none.watch(json!({"source": "192.0.2.0/24"}));
    let mut other = Control::of(&directory);
    other.send(json!({"request": "events", "services": ["other"]}));
    other.expect_failure("not-found", "there is no service \"other\"");
    for _ in 0..3 {
        assert_eq!(talk(skd.connect(), b""), b"");
        let event = closed.next().unwrap();
        assert_eq!(event["event"], "closed", "{event}");
        assert_eq!(event["client"]["address"], "127.0.0.1", "{event}");
    }
    for client in [&mut none, &mut other] {
        // The next line is this answer.
        client.status();
    }
}

#[test]
fn a_full_table_of_descriptors_is_waited_out() {
    let directory = Directory::new();
    let skd = controlled(&directory, [])
        .limit(Resource::RLIMIT_NOFILE, 256, 256)
        .run("cat");
    assert!(limit(skd.pid(), "Max open files").is_some());
    let free = Control::of(&directory);
    drop(free);
    let open = descriptors(skd.pid()).len() as u64;
    let set = |most: u64| {
        let most = format!("--nofile={most}:256");
        let status = Command::new("prlimit")
            .args(["--pid", &skd.pid().to_string(), &most])
            .status();
        assert!(status.unwrap().success());
    };
    requires_command("prlimit");
    set(open.min(70));
    let mut client = Control::of(&directory);
    client.write(format!("{STATUS}\n"));
    assert_idle(&[skd.pid()]);
    set(256);
    assert_eq!(client.next().expect("an answer")["answer"], "status");
}

// The file.

#[test]
fn a_stale_socket_is_replaced_and_one_in_use_is_not() {
    let directory = Directory::new();
    leave_stale(directory.join("control"));
    let skd = controlled(&directory, []).run("cat");
    expect_well(&directory, &skd);
    let path = directory.name("control");
    let second = run_to_end(["-t", "127.0.0.1:0", "--control", &path, "cat"]);
    second.expect_refusal(1, &["--control", "another program has a socket there"]);
    expect_well(&directory, &skd);
    assert_eq!(skd.stop().code(), Some(0));
    assert!(!Path::new(&path).exists(), "the file is removed at the end");
    directory.write("control", "a file");
    let third = run_to_end(["-t", "127.0.0.1:0", "--control", &path, "cat"]);
    third.expect_refusal(1, &["--control", "isn't a socket"]);
    assert_eq!(directory.read("control"), "a file");
}

#[test]
fn a_drain_answers_until_its_end() {
    let directory = Directory::new();
    let skd = controlled(&directory, ["--drain", "60s"]).run("cat");
    let mut held = skd.connect();
    echo(&mut held, b"held");
    let mut client = Control::of(&directory);
    assert_eq!(client.status()["draining"], false);
    skd.signal(Signal::SIGTERM);
    wait_until("skd drains", || client.status()["draining"] == true);
    expect_asks(&directory);
    drop(held);
    assert_eq!(client.next(), None);
    assert_eq!(skd.wait().code(), Some(0));
    assert!(!directory.join("control").exists());
}

#[test]
fn a_file_that_someone_removes_is_no_reason_to_end() {
    let directory = Directory::new();
    let skd = controlled(&directory, []).run("cat");
    let mut client = Control::of(&directory);
    fs::remove_file(directory.join("control")).unwrap();
    directory.write("control", "another's");
    client.status();
    assert_eq!(talk(skd.connect(), b"served"), b"served");
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.read("control"), "another's");
}

#[test]
fn handlers_get_nothing_of_it() {
    let directory = Directory::new();
    let skd = controlled(&directory, []).run("cat");
    let _client = Control::of(&directory);
    let mut held = skd.connect();
    echo(&mut held, b"held");
    let handler = skd.wait_for_children(1)[0];
    assert_eq!(
        descriptors(handler).into_keys().collect::<Vec<_>>(),
        [0, 1, 2]
    );
    let names: Vec<_> = threads(skd.pid())
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    assert!(names.iter().any(|name| name == "control"), "{names:?}");
    let plain = Skd::new(["-t", "127.0.0.1:0"]).run("cat");
    let names: Vec<_> = threads(plain.pid())
        .into_iter()
        .map(|(_, name)| name)
        .collect();
    assert!(names.iter().all(|name| name != "control"), "{names:?}");
}

#[test]
fn prestarted_handlers_get_nothing_of_it_either_before_or_after_an_upgrade() {
    for mode in ["--verbose", "--warm=2", "--fork-server"] {
        let directory = Directory::new();
        let skd = controlled(&directory, ["-v", mode]).run("cat");
        let mut client = Control::of(&directory);
        for _ in 0..2 {
            assert_eq!(client.ask("status", json!({}))["answer"], "status");
            let mut held = skd.connect();
            echo(&mut held, b"held");
            // A prestarted handler has its client a moment before it is listed.
            let pid = wait_for("the handler is listed", || {
                client.ask("handlers", json!({}))["handlers"][0]["pid"].as_i64()
            });
            let open = descriptors(i32::try_from(pid).unwrap());
            assert_eq!(
                open.keys().collect::<Vec<_>>(),
                [&0, &1, &2],
                "{mode}: {open:?}"
            );
            drop(held);
            wait_until("the handler has ended", || {
                client.ask("handlers", json!({}))["total"] == 0
            });
            assert_eq!(client.ask("upgrade", json!({}))["answer"], "done");
        }
    }
}

// Upgrade and reload.

#[test]
fn clients_stay_connected_over_an_upgrade() {
    let directory = Directory::new();
    let skd = controlled(&directory, ["-v"]).run("true");
    let mut half = Control::of(&directory);
    half.write("{\"version\":1,\"id\":5,");
    let mut watcher = Control::of(&directory);
    watcher.watch(json!({"events": ["closed"]}));
    let mut idle = Control::of(&directory);
    idle.status();
    let inode = fs::metadata(directory.join("control")).unwrap().ino();
    for upgrades in 1..=2 {
        skd.signal(Signal::SIGUSR2);
        skd.wait_for_logs("Upgraded from skd ", upgrades);
        assert_eq!(talk(skd.connect(), b""), b"");
        assert_eq!(watcher.next().unwrap()["event"], "closed");
        idle.status();
        expect_asks(&directory);
    }
    half.write("\"request\":\"status\"}\n");
    assert_eq!(half.next().unwrap()["id"], 5);
    assert_eq!(
        fs::metadata(directory.join("control")).unwrap().ino(),
        inode
    );
    // No descriptor is left over.
    drop((half, watcher, idle));
    assert_eq!(skd.stop().code(), Some(0));
    assert!(!directory.join("control").exists());
}

#[test]
fn an_upgrade_that_is_asked_for_is_answered_by_the_next_process() {
    let directory = Directory::new();
    let skd = controlled(&directory, ["-v"]).run("cat");
    let mut client = Control::of(&directory);
    let answer = client.ask("upgrade", json!({}));
    assert_eq!(answer["answer"], "done", "{answer}");
    skd.wait_for_log("Upgraded from skd ");
    client.status();
}

#[test]
fn an_upgrade_that_fails_leaves_the_socket_as_it_is() {
    let directory = Directory::new();
    let binary = directory.join("skd");
    copy_program(env!("CARGO_BIN_EXE_skd"), &binary);
    let skd = controlled(&directory, ["-v"]).binary(&binary).run("cat");
    let mut client = Control::of(&directory);
    fs::remove_file(&binary).unwrap();
    copy_program("/bin/true", &binary);
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("no upgrade");
    client.status();
    expect_well(&directory, &skd);
}

#[test]
fn a_reload_keeps_it_and_cannot_change_it() {
    let directory = Directory::new();
    let file = |control: &str| {
        directory.write(
            "skd.toml",
            format!("[daemon]\nverbose = 2\n{control}\n[service.echo]\ntcp = \"127.0.0.1:0\"\ncommand = [\"cat\"]\n"),
        )
    };
    let path = file("control = \"control\"");
    let skd = Skd::new(["--config"]).arg(&path).start_bare();
    skd.wait_for_log("Listening on");
    let mut client = Control::of(&directory);
    client.status();
    file("control = \"control\"\n# Nothing has changed.");
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("Reloaded");
    client.status();
    file("control = \"other\"");
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("another control socket");
    file("control = \"control\"\ncontrol-mode = \"660\"");
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("another mode of its control socket");
    file("");
    skd.signal(Signal::SIGHUP);
    skd.wait_for_logs("another control socket", 2);
    client.status();
    assert_eq!(skd.stop().code(), Some(0));
    assert!(!directory.join("control").exists());
    // One line said all, and named no option that was never written.
    assert_eq!(skd.logged("of its control socket").len(), 1);
}

// Options.

#[test]
fn options_that_make_no_sense_are_refused() {
    for (words, why) in [
        (
            &["--control", "x", "true"][..],
            "--control has no use without a listener",
        ),
        (
            &["-t", "127.0.0.1:0", "-S", "--control", "x", "true"],
            "--control can't be used with --supervise",
        ),
        (
            &["-t", "127.0.0.1:0", "--control-mode", "600", "true"],
            "--control-mode has no use without --control",
        ),
        (
            &["-t", "127.0.0.1:0", "--control", "@x", "true"],
            "write ./ before it",
        ),
        (
            &[
                "-t",
                "127.0.0.1:0",
                "--control",
                "x",
                "--control-mode",
                "9",
                "true",
            ],
            "octal number",
        ),
    ] {
        run_to_end(words).expect_refusal(2, &[why]);
    }
}

#[test]
fn a_check_predicts_whether_it_can_be_bound() {
    let directory = Directory::new();
    let path = directory.name("missing/control");
    let output = run_to_end(["--check", "-t", "127.0.0.1:0", "--control", &path, "cat"]);
    output.expect_refusal(1, &["--control", "can't open the directory"]);
    let path = directory.name("control");
    let output = run_to_end(["--check", "-t", "127.0.0.1:0", "--control", &path, "cat"]);
    output.expect_code(0);
    assert!(!directory.join("control").exists());
}
