//! Clients that attack TLS, as raw sockets can: each meets what it should, the next client is served, and nothing is
//! left of it in skd and skd-tls.

use crate::harness::{Instance, Pki, assert_idle, python, wait_for, wait_until};
use crate::tls_clients::secured;
use std::fmt::Write;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Says its first line again; or sends zeros without end; or reads nothing.
const HANDLER: &str = "read -r line; case $line in zeros) exec cat /dev/zero ;; \
    deaf) exec sleep 2 ;; *) echo \"$line\"; exec cat ;; esac";

/// What a client attempts, what it meets, its function in `tls_hostile.py`, and what that returns.
const ATTEMPTS: &[[&str; 4]] = &[
    [
        "garbage, zeros, SSH, a record of 65,535 bytes",
        "an alert at most, and the end",
        "garbage",
        "the end",
    ],
    [
        "beginnings of a ClientHello, and then a close, a reset, the end of input or nothing",
        "--tls-timeout ends them at the latest; others are served",
        "prefixes",
        "the end",
    ],
    [
        "a ClientHello that claims 16 MB, in records of 1, 100 and 16,384 bytes",
        "the end",
        "large",
        "the end",
    ],
    [
        "1,000 empty records of each kind, before the handshake and after it",
        "the end",
        "empty",
        "the end",
    ],
    [
        "10,000 ChangeCipherSpec before and in the handshake, 1,000 after it",
        "the end",
        "changes",
        "the end",
    ],
    [
        "alerts without encryption before, in and after the handshake, with TLS 1.2 and 1.3",
        "the end",
        "alerts",
        "the end",
    ],
    [
        "server names of 15,000 bytes, with lines, escapes, NUL, invalid UTF-8, .. and *, or empty",
        "an alert",
        "names",
        "an alert",
    ],
    [
        "renegotiation of TLS 1.2",
        "refused",
        "renegotiation",
        "refused",
    ],
    [
        "40 clients that never read what a handler sends without end",
        "the memory of skd-tls is bounded; others are served",
        "unread",
        "bounded",
    ],
    [
        "10 clients that send without end to handlers that read nothing",
        "the memory of skd-tls is bounded; others are served",
        "unheard",
        "bounded",
    ],
    [
        "resets at 60 moments of a transfer",
        "others are served",
        "resets",
        "served",
    ],
    [
        "1,000 clients that abort at once, before and in the handshake",
        "others are served; no descriptor is left",
        "aborts",
        "served",
    ],
];

/// The section of `docs/attacks.md` about them.
pub fn list() -> String {
    let mut text = "## A client with TLS\n\n\
        Of one skd and one skd-tls, which have no descriptor more and are idle at the end: see \
        `tests/behaviour/tls_hostile.rs`.\n\n| attempt | what it met |\n| --- | --- |\n"
        .to_owned();
    for [attempt, met, ..] in ATTEMPTS {
        let _ = writeln!(text, "| {attempt} | {met} |");
    }
    text
}

/// Runs functions of the clients, and returns what each has met.
fn met(skd: &Instance, pki: &Pki, skd_tls: i32, functions: &[&str]) -> String {
    let output = Command::new(python())
        .args(["-c", include_str!("tls_hostile.py")])
        .args([skd.port().to_string(), skd_tls.to_string()])
        .arg(pki.path("ca.pem"))
        .args(functions)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    String::from_utf8_lossy(&output.stdout).into_owned() + &errors
}

/// The pid of skd-tls.
fn skd_tls_of(skd: &Instance) -> i32 {
    wait_for("skd-tls", || {
        skd.children().into_iter().find(|pid| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm"));
            name.is_ok_and(|name| name.trim() == "skd-tls")
        })
    })
}

/// The user or group of a process.
fn id_of(pid: i32, field: &str) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let id = line.unwrap().split_whitespace().next();
    id.unwrap().parse().unwrap()
}

fn count_descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn none_harms_another_client_or_leaves_anything() {
    let pki = Pki::with_server();
    let skd = secured(&pki, "server", &["--tls-timeout", "2s"]).run_with("sh", ["-c", HANDLER]);
    let skd_tls = skd_tls_of(&skd);
    assert_eq!(met(&skd, &pki, skd_tls, &["honest"]), "hello");
    let pids = [skd.pid(), skd_tls];
    assert_idle(&pids);
    let before = pids.map(count_descriptors);
    let mut worked = Vec::new();
    for [attempt, _, function, answer] in ATTEMPTS {
        let found = met(&skd, &pki, skd_tls, &[function, "honest"]);
        if found != format!("{answer}, hello") {
            worked.push(format!("{attempt}: {found}"));
        }
    }
    assert_eq!(worked, [""; 0]);
    // Those that were left alone, lingering ones and the handlers that sleep.
    wait_until("they are gone", || pids.map(count_descriptors) == before);
    assert_idle(&pids);
    assert_eq!(skd.troubles(), [""; 0]);
}

#[test]
fn a_limit_lowered_by_another_ends_skd_tls_and_not_its_service() {
    let pki = Pki::with_server();
    let skd = secured(&pki, "server", &[]).run_with("sh", ["-c", HANDLER]);
    let skd_tls = skd_tls_of(&skd);
    assert_eq!(met(&skd, &pki, skd_tls, &["honest"]), "hello");
    // As a handler with its user can do it.
    let lowered = Command::new("prlimit")
        .args(["--nofile=5:5", "--pid", &skd_tls.to_string()])
        .uid(id_of(skd_tls, "Uid:"))
        .gid(id_of(skd_tls, "Gid:"))
        .status();
    assert!(lowered.unwrap().success());
    let _ = met(&skd, &pki, skd_tls, &["honest"]);
    skd.wait_for_log("has lowered its limit of open files");
    skd.wait_for_log("Started skd-tls again");
    assert_eq!(met(&skd, &pki, skd_tls, &["honest"]), "hello");
}
