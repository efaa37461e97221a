//! Sets SKD_VERSION: the version of the package, and in a git checkout that isn't at the tag of that
//! version, how far from it and at which commit: `2.0.0-123-g0a1b2c3d4e5f`.
//!
//! Without git, or from a tarball, it is the version of the package. The same commit always gives
//! the same text.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let version = commit(&version).map_or(version.clone(), |commit| format!("{version}-{commit}"));
    println!("cargo::rustc-env=SKD_VERSION={version}");
}

/// Returns the commit, and the number of commits since the tag of the version if there is one; none
/// at the tag itself.
fn commit(version: &str) -> Option<String> {
    // The package may lie unpacked inside the checkout of something else.
    if !Path::new(".git").exists() {
        return None;
    }
    // Each commit and checkout adds a line there. Where there is no such file, the text may be old.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    let tag = format!("v{version}");
    let described = git(&[
        "describe",
        "--tags",
        "--long",
        "--always",
        "--abbrev=12",
        "--match",
        &tag,
    ])?;
    match described.strip_prefix(&format!("{tag}-")) {
        Some(rest) if rest.starts_with("0-") => None,
        Some(rest) => Some(rest.to_owned()),
        None => Some(format!("g{described}")),
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
