//! What each command asks, what it prints, and its exit status.

use std::io::Read;
use std::process::{Command, Output, Stdio};

use skd_control::{Answer, EventLine, Failure, FailureKind, Request};

use crate::fake::{FakeSkd, prepared, program};

fn run(fake: &FakeSkd, words: &[&str]) -> Output {
    Command::new(program())
        .arg("--socket")
        .arg(fake.path())
        .args(words)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn each_command_asks_for_what_it_says() {
    let fake = FakeSkd::start(prepared);
    for (words, request) in [
        ("reload", r#"{"request":"reload"}"#),
        ("upgrade", r#"{"request":"upgrade"}"#),
        ("drain web", r#"{"request":"drain","services":["web"]}"#),
        (
            "drain web mail --announce 5s",
            r#"{"request":"drain","services":["web","mail"],"announce_seconds":5.0}"#,
        ),
        (
            "drain --all",
            r#"{"request":"drain","services":["web","mail"]}"#,
        ),
        (
            "drain web --timeout 1m500ms",
            r#"{"request":"drain","services":["web"],"timeout_seconds":60.5}"#,
        ),
        ("enable web", r#"{"request":"enable","services":["web"]}"#),
        (
            "enable --all",
            r#"{"request":"enable","services":["web","mail"]}"#,
        ),
        (
            "disable web",
            r#"{"request":"disable","service":"web","refuse":false}"#,
        ),
        (
            "disable web --refuse",
            r#"{"request":"disable","service":"web","refuse":true}"#,
        ),
        ("kill 12", r#"{"request":"kill","pid":12}"#),
        (
            "kill --source 192.0.2.0/24 --service web",
            r#"{"request":"kill","source":"192.0.2.0/24","service":"web"}"#,
        ),
        (
            "deny uid:7 1h --service web",
            r#"{"request":"deny","source":"uid:7","seconds":3600.0,"service":"web"}"#,
        ),
        ("allow uid:7", r#"{"request":"allow","source":"uid:7"}"#),
        ("verbosity 2", r#"{"request":"set-verbosity","level":2}"#),
    ] {
        let output = run(&fake, &words.split(' ').collect::<Vec<_>>());
        assert_eq!(text(&output.stdout), "it was done\n", "{words}: {output:?}");
        assert!(output.status.success());
        let asked = fake.requests().pop().unwrap();
        assert_eq!(serde_json::to_string(&asked).unwrap(), request, "{words}");
    }
    for (words, request) in [
        (
            "status web mail",
            r#"{"request":"status","services":["web","mail"]}"#,
        ),
        ("list", r#"{"request":"status"}"#),
        ("metrics", r#"{"request":"status"}"#),
        (
            "handlers",
            r#"{"request":"handlers","order":"oldest","limit":1000}"#,
        ),
        (
            "handlers --service web --source ::1 --sort cpu -n 2",
            r#"{"request":"handlers","service":"web","source":"::1","order":"cpu","limit":2}"#,
        ),
    ] {
        let output = run(&fake, &words.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{words}: {output:?}");
        let asked = fake.requests().pop().unwrap();
        assert_eq!(serde_json::to_string(&asked).unwrap(), request, "{words}");
    }
}

#[test]
fn answers_are_tables_or_a_line_of_json() {
    let fake = FakeSkd::start(prepared);
    let list = run(&fake, &["list"]);
    let table = "\
SERVICE  STATE    RUNNING  SLOTS  PENDING  ACCEPTED  REJECTED  LISTENERS
web      serving        0      0        0         0         0  tcp 127.0.0.1:80
mail     serving        0      0        0         0         0  tcp 127.0.0.1:25
";
    assert_eq!(text(&list.stdout), table);
    for words in [["--json", "list"], ["status", "--json"]] {
        let output = run(&fake, &words);
        let answer: Answer = serde_json::from_slice(&output.stdout).unwrap();
        assert!(matches!(answer, Answer::Status(status) if status.skd == "9.8.7"));
        assert_eq!(text(&output.stdout).lines().count(), 1);
    }
}

#[test]
fn a_failure_has_a_sentence_and_an_exit_status() {
    for (kind, status) in [
        (FailureKind::Failed, 1),
        (FailureKind::BadRequest, 2),
        (FailureKind::NotPermitted, 4),
        (FailureKind::NotFound, 5),
        (FailureKind::Busy, 6),
    ] {
        let failed = Answer::Failed(Failure {
            kind,
            message: "no \x1b[2Jway".into(),
        });
        let answer = failed.clone();
        let fake = FakeSkd::start(move |_| vec![answer.clone()]);
        let output = run(&fake, &["enable", "web"]);
        assert_eq!(output.status.code(), Some(status));
        assert_eq!(text(&output.stderr), "skdctl: no \\u{1b}[2Jway\n");
        assert_eq!(text(&output.stdout), "");
        let output = run(&fake, &["--json", "enable", "web"]);
        assert_eq!(output.status.code(), Some(status));
        assert_eq!(
            serde_json::from_slice::<Answer>(&output.stdout).unwrap(),
            failed
        );
    }
}

#[test]
fn other_failures_have_exit_statuses_too() {
    let silent = FakeSkd::start(|_| vec![]);
    let missing = Command::new(program())
        .env("SKD_CONTROL", silent.path().with_file_name("other"))
        .arg("list")
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(3));
    assert!(text(&missing.stderr).starts_with("skdctl: no skd answers at "));
    for words in [
        &["nothing"][..],
        &["drain"],
        &["deny", "::1", "0s"],
        &["top", "--json"],
        &["top"],
    ] {
        assert_eq!(run(&silent, words).status.code(), Some(2), "{words:?}");
    }
    let needed = [
        ("--help", "Usage: skdctl"),
        ("--version", "skdctl "),
        ("completions bash", "complete -F _skdctl"),
        ("completions zsh", "#compdef skdctl"),
        ("completions fish", "complete -c skdctl"),
    ];
    for (words, expected) in needed {
        let output = run(&silent, &words.split(' ').collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(0), "{words}");
        assert!(text(&output.stdout).contains(expected), "{words}");
    }
}

/// Two events, and the end of the connection.
fn events(request: &Request) -> Vec<Answer> {
    assert!(matches!(request, Request::Events(filter)
        if filter.services == ["web"] && filter.events == ["accepted", "rejected"]));
    let event = |message: &'static str| {
        Answer::Event(Box::new(EventLine {
            time: "2026-11-29T12:00:00.000000Z".into(),
            event: "accepted".into(),
            message: message.into(),
            service: Some("web".into()),
            ..EventLine::default()
        }))
    };
    vec![event("one"), event("two")]
}

#[test]
fn events_are_printed_as_they_come() {
    let fake = FakeSkd::start(events);
    let words = [
        "events",
        "--service",
        "web",
        "--event",
        "accepted",
        "--event",
        "rejected",
    ];
    let output = run(&fake, &words);
    assert_eq!(
        text(&output.stdout),
        "2026-11-29T12:00:00.000000Z web: one\n2026-11-29T12:00:00.000000Z web: two\n"
    );
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        text(&output.stderr),
        "skdctl: skd closed the connection before its answer was complete\n"
    );
    let output = run(&fake, &[&words[..], &["--json"]].concat());
    let lines = text(&output.stdout).lines();
    let read: Vec<EventLine<'_>> = lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(read[1].message, "two");
    assert_eq!(read.len(), 2);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let fake = FakeSkd::start(prepared);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = Command::new(program())
        .arg("--socket")
        .arg(fake.path())
        .arg("status")
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert_eq!(said, "");
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
