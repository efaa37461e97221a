//! Installation: of skd by `make install`, and of the tests' requirements by `.ci/packages`.

use crate::harness::{Directory, requires_command};
use crate::{ctl, forward};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

/// Commands of packages that every Debian system has.
const ESSENTIAL: [&str; 2] = ["nohup", "sed"];

#[test]
fn installs_and_uninstalls_under_a_prefix() {
    let stage = Directory::new();
    make(&stage, "install", &["PREFIX=/usr"]);
    let expected = [
        ("usr/bin/skd", 0o755),
        ("usr/bin/skd-forward", 0o755),
        ("usr/bin/skd-tls", 0o755),
        ("usr/bin/skdctl", 0o755),
        ("usr/share/man/man1/skd-forward.1", 0o644),
        ("usr/share/man/man1/skd-tls.1", 0o644),
        ("usr/share/man/man1/skdctl.1", 0o644),
        ("usr/share/man/man8/skd.8", 0o644),
        ("usr/share/bash-completion/completions/skd", 0o644),
        ("usr/share/fish/vendor_completions.d/skd.fish", 0o644),
        ("usr/share/zsh/site-functions/_skd", 0o644),
        ("usr/share/bash-completion/completions/skdctl", 0o644),
        ("usr/share/fish/vendor_completions.d/skdctl.fish", 0o644),
        ("usr/share/zsh/site-functions/_skdctl", 0o644),
    ];
    let expected = expected.map(|(path, mode)| (path.to_owned(), mode));
    assert_eq!(files(stage.path()), BTreeMap::from(expected));
    for (source, installed) in [
        (env!("CARGO_BIN_EXE_skd"), "usr/bin/skd"),
        ("man/skd-forward.1", "usr/share/man/man1/skd-forward.1"),
        ("man/skd-tls.1", "usr/share/man/man1/skd-tls.1"),
        ("man/skd.8", "usr/share/man/man8/skd.8"),
        ("completions/_skd", "usr/share/zsh/site-functions/_skd"),
    ] {
        let same = fs::read(source).unwrap() == fs::read(stage.join(installed)).unwrap();
        assert!(same, "{installed}");
    }
    make(&stage, "uninstall", &["PREFIX=/usr"]);
    assert_eq!(files(stage.path()), BTreeMap::new());
}

#[test]
fn installs_under_usr_local_and_under_other_prefixes() {
    let stage = Directory::new();
    make(
        &stage,
        "install",
        &["BINDIR=/usr/local/sbin", "MANDIR=/man"],
    );
    let files = files(stage.path());
    for path in [
        "usr/local/sbin/skd",
        "man/man8/skd.8",
        "usr/local/share/zsh/site-functions/_skd",
    ] {
        assert!(files.contains_key(path), "{path}: {files:?}");
    }
}

#[test]
fn an_install_builds_only_if_a_source_is_newer() {
    let target = Directory::new();
    fs::create_dir(target.join("release")).unwrap();
    let variable = format!("CARGO_TARGET_DIR={}", target.path().display());
    let builds = |more: &[&str]| {
        let lines = would_run(&[&[variable.as_str()], more].concat());
        let count = |text: &str| lines.lines().filter(|line| line.contains(text)).count();
        assert_eq!(count("/bin/skd"), 4, "{lines}");
        count("no-cargo build --release")
    };
    assert_eq!(builds(&[]), 3, "there is no binary");
    let [skd, forward, tls, ctl] = ["skd", "skd-forward", "skd-tls", "skdctl"]
        .map(|name| fs::File::create(target.join("release").join(name)).unwrap());
    assert_eq!(builds(&[]), 0, "the binaries are new");
    for binary in [&skd, &forward, &tls, &ctl] {
        binary.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(builds(&[]), 1, "the sources are newer");
        binary.set_modified(SystemTime::now()).unwrap();
    }
    for binary in [&skd, &forward, &tls, &ctl] {
        binary.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
    // Binaries that SKD, FORWARD, TLS and CTL name are installed as they are.
    let other = target.write("other", "");
    let other = fs::File::options().append(true).open(other).unwrap();
    other.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let named =
        ["SKD", "FORWARD", "TLS", "CTL"].map(|name| format!("{name}={}", target.name("other")));
    let named = named.each_ref().map(String::as_str);
    assert_eq!(builds(&named), 0, "others were named");
}

#[test]
fn every_command_that_a_test_needs_is_among_the_packages() {
    let script = fs::read_to_string(".ci/packages").unwrap();
    // That of all tests, and that of the tests of packages.
    let tables: Vec<_> = script
        .split("<<'END'\n")
        .skip(1)
        .map(|rest| rest.split_once("\nEND\n").unwrap().0)
        .collect();
    assert_eq!(tables.len(), 2);
    let tables = tables.join("\n");
    // Some packages have more commands than the first of their line.
    let listed = |command: &str| {
        let words = tables.split([' ', '\n', ',', ';']);
        words.into_iter().any(|word| word == command)
    };
    let mut directories = vec![Path::new("tests").to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            if entry.path().is_dir() {
                directories.push(entry.path());
                continue;
            }
            let text = fs::read_to_string(entry.path()).unwrap();
            let single = text.split("requires_command(\"").skip(1);
            let single = single.filter_map(|rest| rest.split('"').next());
            // Not spelled as it is in the tests: this file is one of them.
            let lists = text.split("requires_commands(&\u{5b}").skip(1);
            let lists = lists.filter_map(|rest| rest.split(']').next());
            let several = lists.flat_map(|list| list.split('"').skip(1).step_by(2));
            for command in single.chain(several) {
                assert!(
                    ESSENTIAL.contains(&command) || listed(command),
                    "{command}, which {} needs",
                    entry.path().display()
                );
            }
        }
    }
}

/// Runs make with the binary under test.
#[track_caller]
fn make(stage: &Directory, target: &str, variables: &[&str]) {
    let destination = format!("DESTDIR={}", stage.path().display());
    let skd = concat!("SKD=", env!("CARGO_BIN_EXE_skd"));
    let forward = format!("FORWARD={}", forward::program().display());
    // What it is doesn't matter here, and it takes long to build.
    let tls = concat!("TLS=", env!("CARGO_BIN_EXE_skd"));
    let ctl = format!("CTL={}", ctl::program().display());
    run_make(
        &["--silent", target, &destination, skd, &forward, tls, &ctl],
        variables,
    );
}

/// Returns the commands that `make install` would run.
#[track_caller]
fn would_run(variables: &[&str]) -> String {
    // If make runs something after all, it isn't cargo.
    run_make(&["--dry-run", "install", "CARGO=no-cargo"], variables)
}

/// Runs make, and returns its output.
#[track_caller]
fn run_make(words: &[&str], variables: &[&str]) -> String {
    requires_command("make");
    let output = Command::new("make")
        .args(words)
        .args(variables)
        // The tests may be run by make themselves.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .expect("make");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    String::from_utf8(output.stdout).unwrap()
}

/// All files under a directory, with their modes.
fn files(directory: &Path) -> BTreeMap<String, u32> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).unwrap().flatten() {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            if metadata.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(directory).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), metadata.permissions().mode() & 0o7777);
            }
        }
    }
    found
}
