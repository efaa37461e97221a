//! The packages for Alpine and Nix, as far as a Debian can tell: none is built.

use super::run;
use crate::harness::{Directory, built, copy_program, requires_command};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
#[ignore = "for packages"]
fn the_package_for_alpine_has_a_source_sums_and_files() {
    requires_command("make");
    let target = Directory::new();
    let mut make = Command::new("packaging/alpine/make");
    run(make.env("CARGO_TARGET_DIR", target.path()));
    let folder = target.join("packages/alpine");
    let programs = Directory::new();
    copy_program(env!("CARGO_BIN_EXE_skd"), programs.join("skd"));
    for name in ["skd-forward", "skdctl"] {
        copy_program(built(&["--package", name], name), programs.join(name));
    }
    // What it is doesn't matter here, and it takes long to build.
    copy_program(env!("CARGO_BIN_EXE_skd"), programs.join("skd-tls"));
    // As abuild does it, apart from the build.
    let line = r#"
        . ./APKBUILD
        test "$pkgver" = "$2"
        printf '%s\n' "$sha512sums" | grep . | sha512sum --check --quiet
        srcdir=$PWD/src pkgdir=$PWD/pkg
        mkdir src pkg
        tar xf "$pkgname-$pkgver.tar.gz" -C src
        cp "$pkgname.initd" src
        cd "$srcdir/$pkgname-$pkgver"
        mkdir -p target/release
        cp "$1"/* target/release
        check >/dev/null 2>&1
        package >/dev/null
        cd "$pkgdir"
        find . ! -type d -printf '%m %P\n' | sort
    "#;
    let mut shell = Command::new("sh");
    shell.args(["-euc", line, "sh"]).arg(programs.path());
    shell.arg(env!("CARGO_PKG_VERSION")).current_dir(&folder);
    let files = run(shell.env_remove("MAKEFLAGS").env_remove("MAKELEVEL"));
    for file in [
        "755 usr/bin/skd",
        "755 usr/bin/skd-tls",
        "755 etc/init.d/skd",
        "644 etc/skd/skd.toml",
        "644 etc/skd/services/motd.toml",
        "644 usr/share/man/man8/skd.8",
        "644 usr/share/bash-completion/completions/skdctl",
        "644 usr/share/licenses/skd/LICENSE",
    ] {
        assert!(files.lines().any(|line| line == file), "{file}: {files}");
    }
    for script in ["skd.initd", "skd.pre-install", "skd.post-upgrade"] {
        run(Command::new("sh").arg("-n").arg(folder.join(script)));
    }
}

#[test]
#[ignore = "for packages"]
fn the_module_for_nix_has_the_settings_of_the_unit() {
    requires_command("nix-instantiate");
    let store = Directory::new();
    let mut nix = Command::new("nix-instantiate");
    nix.args(["--eval", "--strict", "--json", "packaging/nix/check.nix"]);
    // Nothing is written to the system's own store.
    for (variable, name) in [
        ("NIX_STORE_DIR", "store"),
        ("NIX_STATE_DIR", "state"),
        ("HOME", "home"),
    ] {
        nix.env(variable, store.join(name));
    }
    let result: Value = serde_json::from_str(&run(&mut nix)).unwrap();
    assert_eq!(result["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(result["lock"], true);
    let unit = fs::read_to_string("contrib/systemd/skd.service").unwrap();
    let (_, service) = unit.split_once("[Service]\n").unwrap();
    let (service, _) = service.split_once("[Install]").unwrap();
    let mut compared = 0;
    for (key, value) in service
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
    {
        if key.starts_with("Exec") {
            continue;
        }
        let ours = match &result["unit"][key] {
            Value::Bool(value) => if *value { "yes" } else { "no" }.to_owned(),
            Value::Number(value) => value.to_string(),
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        assert_eq!(ours, value, "{key}");
        compared += 1;
    }
    assert!(compared > 10, "{compared}");
    // The settings of the example are keys that skd knows.
    let directory = Directory::new();
    let service = &result["settings"]["service"]["echo"];
    let mut toml = String::from("[service.echo]\n");
    for (key, value) in service.as_object().unwrap() {
        toml += &format!("{key} = {value}\n");
    }
    // NixOS has its programs elsewhere.
    let toml = toml.replace("/run/current-system/sw/bin/", "/bin/");
    let file = directory.write("skd.toml", toml);
    run(Command::new(env!("CARGO_BIN_EXE_skd")).args([
        Path::new("--check"),
        Path::new("--config"),
        &file,
    ]));
}
