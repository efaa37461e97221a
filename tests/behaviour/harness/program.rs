//! The program under test.

use super::Skd;
use std::ffi::OsStr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The skd of this project, or version 1.2, whose promises it keeps. A test of both asserts a deliberate
/// difference by `match`ing on this.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    Ours,
    Original,
}

impl Program {
    /// A builder for this program: [`Skd::new`] with the program chosen.
    pub fn skd<A: AsRef<OsStr>>(self, options: impl IntoIterator<Item = A>) -> Skd {
        Skd::new(options).program(self)
    }

    pub fn is_ours(self) -> bool {
        self == Self::Ours
    }

    /// The binary. Panics for the original where `SKD_ORIGINAL` isn't set.
    pub fn path(self) -> PathBuf {
        match self {
            Self::Ours => PathBuf::from(env!("CARGO_BIN_EXE_skd")),
            Self::Original => original().expect("SKD_ORIGINAL names a binary of skd 1.2"),
        }
    }
}

/// The binary of skd 1.2 that `SKD_ORIGINAL` names. Unset or empty means that there is none; the name of a missing
/// file is a failure, so that a mistyped one doesn't pass for "the same as the original".
pub fn original() -> Option<PathBuf> {
    let path = std::env::var_os("SKD_ORIGINAL").filter(|path| !path.is_empty())?;
    let path = std::path::absolute(path).expect("an absolute path");
    assert!(path.is_file(), "SKD_ORIGINAL={} is no file", path.display());
    Some(path)
}

/// Runs `test` with our program and, where there is one, with the original: for behaviour that 1.2
/// promised, and for the listed differences.
pub fn each_program(test: impl Fn(Program)) {
    test(Program::Ours);
    if original().is_some() {
        // The same assertions fail for either; the message must say for which.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| test(Program::Original))) {
            eprintln!("(that was with the original; ours had passed)");
            resume_unwind(panic);
        }
    }
}

/// skd-tls, built if need be. It is beside the skd under test, which finds it there.
#[track_caller]
pub fn skd_tls() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built(&["--package", "skd-tls"], "skd-tls"))
}

/// Builds another program of the workspace if need be, by these words for `cargo build`, and returns its path, which is
/// `name` beside the skd under test. In the guest of `tests/guest/run` it is there already.
#[track_caller]
pub fn built(words: &[&str], name: &str) -> PathBuf {
    let profile = Path::new(env!("CARGO_BIN_EXE_skd")).parent().unwrap();
    let path = profile.join(name);
    if std::env::var_os("SKD_TEST_GUEST").is_some() && path.exists() {
        return path;
    }
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--locked"]).args(words);
    build.arg("--target-dir").arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let output = build.current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let output = output.expect("cargo");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    path
}
