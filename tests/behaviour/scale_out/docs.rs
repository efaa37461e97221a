//! What docs/scale-out.md prints is what the tests run.

use super::farm::{FILES, file};
use crate::harness::{Directory, Skd, requires_command, skd_tls};
use std::fs;
use std::process::Command;

const PAGE: &str = "docs/scale-out.md";

/// The blocks of the page in this language, without its fences.
fn blocks(language: &str) -> Vec<String> {
    let page = fs::read_to_string(PAGE).unwrap();
    let mut parts = page.split("\n```");
    parts.next();
    let blocks = parts.step_by(2).filter_map(|block| {
        let (name, text) = block.split_once('\n')?;
        (name == language).then(|| format!("{text}\n"))
    });
    blocks.collect()
}

/// The expressions for Prometheus on the page.
pub fn expressions() -> Vec<String> {
    let blocks = blocks("promql");
    let lines = blocks.iter().flat_map(|block| block.lines());
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let found: Vec<_> = lines.map(str::to_owned).collect();
    assert!(found.len() > 3, "{found:?}");
    found
}

#[test]
fn the_page_prints_the_files() {
    for (language, name) in [
        ("toml", "skd.toml"),
        ("haproxy", "haproxy.cfg"),
        ("bash", "rolling-restart"),
        ("yaml", "prometheus.yml"),
    ] {
        assert_eq!(blocks(language), [file(name)], "{name}");
    }
}

#[test]
fn the_scripts_have_nothing_to_complain_about() {
    requires_command("shellcheck");
    for name in ["rolling-restart", "nft-balance"] {
        let output = Command::new("shellcheck")
            .arg(format!("{FILES}/{name}"))
            .output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}

#[test]
fn a_rolling_restart_stops_at_the_first_machine_that_fails() {
    let directory = Directory::new();
    directory.script(
        "skdctl",
        "#!/bin/sh\n[ \"$1 $machine\" != \"$FAILS two\" ]\n",
    );
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let line = "#!/bin/sh\nexport machine=$1\nshift\nexec sh -c \"$*\"\n";
    let shell = directory.script("remote-shell", line);
    let restarts = |fails: &str, restart: &str| {
        let output = Command::new(format!("{FILES}/rolling-restart"))
            .args(["greeter", "one", "two", "three"])
            .env("RSH", &shell)
            .env("PATH", &path)
            .env("FAILS", fails)
            .env("RESTART", restart)
            .env("ANNOUNCE", "0")
            .output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        (output.status.success(), said)
    };
    let all = "one\nrestarted\ntwo\nrestarted\nthree\nrestarted\n";
    // Several commands, of which the last counts.
    let restart = "false; echo restarted";
    assert_eq!(restarts("nothing", restart), (true, all.into()));
    let said = "one\nrestarted\ntwo\n".into();
    assert_eq!(restarts("drain", restart), (false, said));
    let restart = "echo restarted; [ $machine = one ]";
    let said = "one\nrestarted\ntwo\nrestarted\n".into();
    assert_eq!(restarts("nothing", restart), (false, said));
}

#[test]
fn a_session_of_tls_is_resumed_on_its_own_machine_alone() {
    requires_command("openssl");
    skd_tls();
    let directory = Directory::new();
    let shell = |line: &str| {
        let mut command = Command::new("sh");
        command.args(["-ec", line]).current_dir(directory.path());
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    shell(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 9 -subj /CN=localhost \
         -keyout key -out certificate",
    );
    let start = || {
        let skd = Skd::new(["-t", "127.0.0.1:0", "--tls", "certificate:key"]);
        skd.cwd(directory.path()).run("cat")
    };
    let (one, two) = (start(), start());
    let client = |port: u16, option: &str| {
        shell(&format!(
            "echo | openssl s_client -tls1_2 -connect 127.0.0.1:{port} {option} session 2>&1"
        ))
    };
    let said = client(one.port(), "-sess_out");
    assert!(said.contains("\nNew, TLSv1.2"), "{said}");
    let said = client(one.port(), "-sess_in");
    assert!(said.contains("\nReused, TLSv1.2"), "{said}");
    let said = client(two.port(), "-sess_in");
    assert!(said.contains("\nNew, TLSv1.2"), "{said}");
}
