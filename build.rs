//! Sets SKD_VERSION, and leaves out of the program what only a debugger reads.

use std::path::Path;
use std::process::Command;
use std::{env, fs, io};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    set_version();
    if is_for_use() {
        leave_out_unwind_tables();
    }
}

/// Sets SKD_VERSION: the version of the package, and in a git checkout that isn't at the tag of that
/// version, how far from it and at which commit: `2.0.0-123-g0a1b2c3d4e5f`.
///
/// Without git, or from a tarball, it is the version of the package. The same commit always gives
/// the same text, if the tag is there.
fn set_version() {
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
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
    // Each commit and checkout adds a line to the first. The others have the tag. Where there are no such files, the
    // text may be old.
    for name in ["logs/HEAD", "refs/tags", "packed-refs"] {
        let path = git(&["rev-parse", "--git-path", name])?;
        if Path::new(&path).exists() {
            println!("cargo::rerun-if-changed={path}");
        }
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

/// Runs git in the checkout, which may belong to another user: what is built is code from there anyway.
fn git(arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*"]).args(arguments);
    let output = git.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// Whether this is a release build without debug information. A build with debug information keeps
/// all tables: a debugger needs them, and distributions move them to a package of their own.
fn is_for_use() -> bool {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|found| found == value);
    is("PROFILE", "release")
        && is("DEBUG", "false")
        && !rustflags().iter().any(|f| asks_for_debug(f))
}

fn asks_for_debug(flag: &str) -> bool {
    flag == "-g" || flag.contains("debuginfo=")
}

fn rustflags() -> Vec<String> {
    let flags = env::var("CARGO_ENCODED_RUSTFLAGS").unwrap_or_default();
    let flags = flags.split('\x1f').filter(|flag| !flag.is_empty());
    flags.map(str::to_owned).collect()
}

/// Nothing reads these sections in a release: a panic aborts, and a stripped program has no names for a
/// backtrace. The rest of the layout is the linker's own.
const WITHOUT_TABLES: &str = "SECTIONS
{
  /DISCARD/ : { *(.eh_frame .eh_frame.* .gcc_except_table .gcc_except_table.*) }
}
INSERT AFTER .text;
";

/// Links skd without the tables that unwind stacks, a twelfth of its size, if the linker can do that. GNU ld
/// and LLD can; gold and mold can't, and what begins a program for musl refers to them.
fn leave_out_unwind_tables() {
    let Ok(folder) = env::var("OUT_DIR") else {
        return;
    };
    let script = format!("{folder}/without-tables.ld");
    let arguments = ["-Wl,--no-eh-frame-hdr", "-T", &script];
    if fs::write(&script, WITHOUT_TABLES).is_ok() && links(&folder, &arguments).unwrap_or(false) {
        for argument in arguments {
            println!("cargo::rustc-link-arg-bin=skd={argument}");
        }
    }
}

/// Whether a small program can be linked with these arguments, and runs if it is for this machine.
fn links(folder: &str, arguments: &[&str]) -> io::Result<bool> {
    let (source, program) = (format!("{folder}/probe.rs"), format!("{folder}/probe"));
    fs::write(
        &source,
        "fn main() { std::thread::spawn(|| ()).join().unwrap(); }",
    )?;
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let (host, target) = (variable("HOST"), variable("TARGET"));
    let mut rustc = Command::new(variable("RUSTC"));
    rustc.args([
        &source,
        "-o",
        &program,
        "--target",
        &target,
        "-Cpanic=abort",
    ]);
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.arg(format!("-Clinker={linker}"));
    }
    rustc.args(rustflags());
    rustc.args(
        arguments
            .iter()
            .map(|argument| format!("-Clink-arg={argument}")),
    );
    Ok(rustc.output()?.status.success()
        && (host != target || Command::new(&program).output()?.status.success()))
}
