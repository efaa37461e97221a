//! `skdctl` beside a real skd. Its own package has the tests of what it says and shows.

use crate::harness::{
    Directory, built, controlled, copy_program, echo, requires_command, requires_root, slowness,
    wait_until,
};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// An id without an account.
const STRANGER: u32 = 61_253;

/// The program, built if need be.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built(&["--package", "skdctl"], "skdctl"))
}

/// skdctl with the socket in a directory.
fn ctl(directory: &Directory, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.arg("--socket").arg(directory.join("control"));
    command.args(words);
    command
}

/// Runs skdctl, and returns its output and what it complains about.
#[track_caller]
fn run(directory: &Directory, words: &[&str], status: i32) -> String {
    let output = ctl(directory, words).output().expect("skdctl");
    expect_status(&output, status)
}

#[track_caller]
fn expect_status(output: &Output, status: i32) -> String {
    assert_eq!(output.status.code(), Some(status), "{output:?}");
    let text = [output.stdout.clone(), output.stderr.clone()].concat();
    String::from_utf8(text).expect("text")
}

/// The answer as JSON.
#[track_caller]
fn json(directory: &Directory, words: &[&str]) -> Value {
    let line = run(directory, &[&["--json"], words].concat(), 0);
    serde_json::from_str(&line).expect("a line of JSON")
}

/// Whether the other side has closed a connection.
fn is_closed(mut stream: &TcpStream) -> bool {
    matches!(stream.read(&mut [0]), Ok(0) | Err(_))
}

#[test]
fn a_service_is_shown_and_its_handlers_are_ended() {
    let directory = Directory::new();
    let skd = controlled(&directory, ["-c", "5"]).run("cat");
    let mut clients = [skd.connect(), skd.connect()];
    for client in &mut clients {
        echo(client, b"here");
    }
    let status = run(&directory, &["status"], 0);
    assert!(status.contains("2, 2 of 5 slots used"), "{status}");
    let list = run(&directory, &["list"], 0);
    let row: Vec<_> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row[1..7], ["serving", "2", "2/5", "0", "2", "0"], "{list}");
    let handlers = json(&directory, &["handlers"]);
    assert_eq!(handlers["total"], 2, "{handlers}");
    let own = clients[0].local_addr().unwrap().to_string();
    let all = handlers["handlers"].as_array().unwrap();
    let port = own.rsplit(':').next().unwrap();
    let first = all.iter().find(|handler| {
        let client = handler["client"].as_str().unwrap();
        client.rsplit(':').next() == Some(port)
    });
    let pid = first.expect("the handler of the first client")["pid"].to_string();
    run(&directory, &["kill", &pid], 0);
    assert!(is_closed(&clients[0]));
    echo(&mut clients[1], b"still here");
    wait_until("the handler has ended", || {
        json(&directory, &["handlers"])["total"] == 1
    });
    run(&directory, &["kill", &pid], 5);
    run(&directory, &["kill", "--source", "127.0.0.0/8"], 0);
    assert!(is_closed(&clients[1]));
}

#[test]
fn all_services_are_drained_after_an_announcement_and_an_agent_check_tells_it() {
    let directory = Directory::new();
    let skd = controlled(&directory, ["--name", "web", "-c", "4"]).run("cat");
    let check = |words: &[&str]| run(&directory, &[&["agent-check"], words].concat(), 0);
    let mut client = skd.connect();
    echo(&mut client, b"here");
    assert_eq!(check(&["--weight", "web"]), "up ready 75%\n");
    assert_eq!(check(&[]), "up ready\n");
    assert_eq!(check(&["mail"]), "fail #there is no service mail\n");
    let announced = format!("{}s", 2 * slowness());
    let words = ["drain", "--all", "--announce", &announced];
    let mut drain = ctl(&directory, &words)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("it is announced", || check(&["web"]) == "up drain\n");
    echo(&mut skd.connect(), b"served");
    wait_until("it drains", || check(&["web"]) == "up maint\n");
    assert_eq!(drain.try_wait().unwrap(), None, "it waits for the handler");
    drop(client);
    assert_eq!(drain.wait().unwrap().code(), Some(0));
    run(&directory, &["enable", "--all"], 0);
    assert_eq!(check(&["web"]), "up ready\n");
    // A skd that hangs, and none.
    skd.signal(nix::sys::signal::Signal::SIGSTOP);
    let said = check(&["--timeout", "200ms"]);
    skd.signal(nix::sys::signal::Signal::SIGCONT);
    assert!(said.starts_with("fail #skd has not answered"), "{said}");
    drop(skd);
    let said = check(&[]);
    assert!(said.starts_with("fail #no skd answers at "), "{said}");
    run(&directory, &["agent-check", "--json"], 2);
    run(&directory, &["drain"], 2);
    run(&directory, &["drain", "web", "--all"], 2);
}

#[test]
fn a_service_is_drained_and_enabled() {
    let directory = Directory::new();
    let skd = controlled(&directory, ["--name", "web"]).run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"here");
    let mut drain = ctl(&directory, &["drain", "web"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let state = || json(&directory, &["status"])["services"][0]["state"].clone();
    wait_until("it drains", || state() == "draining");
    assert_eq!(drain.try_wait().unwrap(), None, "it waits for the handler");
    drop(client);
    assert_eq!(drain.wait().unwrap().code(), Some(0));
    run(&directory, &["enable", "web"], 0);
    assert_eq!(state(), "serving");
    echo(&mut skd.connect(), b"here again");
    run(&directory, &["disable", "web", "--refuse"], 0);
    assert_eq!(state(), "refusing");
    assert!(is_closed(&skd.connect()));
    run(&directory, &["enable", "no-such"], 5);
}

#[test]
fn a_denied_source_is_explained_and_its_events_are_printed() {
    let directory = Directory::new();
    let skd = controlled(&directory, []).run("cat");
    let words = ["--json", "events", "--event", "rejected"];
    let mut events = ctl(&directory, &words)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(events.stdout.take().unwrap()).lines();
    run(&directory, &["deny", "127.0.0.1", "1h"], 0);
    let explained = run(&directory, &["explain", "127.0.0.1"], 0);
    assert!(explained.contains(": not admitted\n"), "{explained}");
    let status = run(&directory, &["status"], 0);
    assert!(status.contains("Denied for a time"), "{status}");
    // The events are watched from a time on that nothing tells.
    let first = std::thread::spawn(move || lines.next());
    wait_until("an event is printed", || {
        assert!(is_closed(&skd.connect()));
        first.is_finished()
    });
    let event = first.join().unwrap().expect("an event").unwrap();
    let event: Value = serde_json::from_str(&event).unwrap();
    assert_eq!(event["event"], "rejected", "{event}");
    events.kill().unwrap();
    events.wait().unwrap();
    run(&directory, &["allow", "127.0.0.1"], 0);
    let status = run(&directory, &["status"], 0);
    assert!(!status.contains("Denied for a time"), "{status}");
}

#[test]
fn an_upgrade_is_waited_for() {
    let directory = Directory::new();
    let skd = controlled(&directory, []).run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"before");
    run(&directory, &["upgrade"], 0);
    echo(&mut client, b"after");
    let status = json(&directory, &["status"]);
    assert_eq!(status["process"]["upgrades"]["succeeded"], 1, "{status}");
}

#[test]
fn users_without_permission_are_told_so() {
    requires_root();
    requires_command("setpriv");
    let directory = Directory::new();
    // Where the program was built, this user may not come.
    let program = directory.join("skdctl");
    copy_program(self::program(), &program);
    let as_stranger = |status| {
        let user = format!("--reuid={STRANGER}");
        let group = format!("--regid={STRANGER}");
        let mut command = Command::new("setpriv");
        command
            .args([&user, &group, "--clear-groups"])
            .arg(&program);
        command.arg("--socket").arg(directory.join("control"));
        let output = command.args(["reload"]).output().expect("setpriv");
        expect_status(&output, status)
    };
    let _skd = controlled(&directory, []).run("cat");
    let said = as_stranger(4);
    assert!(said.contains("this user may not ask skd"), "{said}");
    // Connecting is allowed then; acting isn't.
    fs::set_permissions(directory.join("control"), Permissions::from_mode(0o666)).unwrap();
    let said = as_stranger(4);
    assert!(!said.contains("this user may not ask skd"), "{said}");
}
