//! The packages of packaging/, in root directories of their own. They are ignored unless requested, since the packages
//! must have been made: `make deb rpm tarball image`, then `make -C packaging check`.

mod alpine_and_nix;
mod deb;
pub mod image;
mod release;
pub mod root_directory;
mod rpm;
mod tarball;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of all that is built.
pub fn target() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_skd"));
    built.ancestors().nth(2).expect("target/debug").to_owned()
}

/// The folder of the packages.
pub fn packages() -> PathBuf {
    target().join("packages")
}

/// The folder of the tools that packaging/check installs.
pub fn tools() -> PathBuf {
    std::env::var_os("SKD_TOOLS").map_or_else(|| target().join("tools"), PathBuf::from)
}

/// Runs a command, which must succeed, and returns what it has written.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {stdout}{stderr}");
    stdout
}
