//! The package for rpm: installed, upgraded and removed by rpm(8), in a root directory of Debian. Its database there
//! knows no other package, so dependencies are looked at, and not resolved.

use super::root_directory::RootDirectory;
use super::{packages, run};
use crate::harness::{Directory, connect, echo, requires_command, requires_root, talk, wait_until};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: [&str; 4] = ["skd", "skd-forward", "skd-tls", "skdctl"];
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version of a package that is newer. As long, since it is put into the program.
const NEWER: &str = "9.0.0";
/// Where the service of these tests listens, in a network of its own.
const PORT: u16 = 7;
const SERVICE: &str =
    "[service.echo]\ntcp = \"127.0.0.1:7\"\nuser = \"nobody\"\ncommand = [\"cat\"]\n";

/// The path of a package as `make rpm` names it.
fn name(version: &str, release: &str) -> String {
    format!("skd-{version}-{release}.{}.rpm", std::env::consts::ARCH)
}

/// The package that `make rpm` has made.
#[track_caller]
fn package() -> PathBuf {
    let path = packages().join(name(VERSION, "1"));
    assert!(path.is_file(), "no {}: make rpm", path.display());
    path
}

/// Asks rpm(8) about a package.
#[track_caller]
fn query(package: &Path, words: &[&str]) -> String {
    requires_command("rpm");
    run(Command::new("rpm")
        .args(["--query", "--package"])
        .args(words)
        .arg(package))
}

/// Unpacks the programs of the package.
fn programs() -> Directory {
    let directory = Directory::public();
    let line = r#"rpm2cpio "$1" | cpio --quiet --extract --make-directories './usr/bin/*' && mv usr/bin/* ."#;
    // The size of the archive isn't in the package, so rpm2cpio says that it is another.
    let mut unpack = Command::new("bash");
    unpack.args(["-ec", line, "bash"]).arg(package());
    run(unpack.current_dir(directory.path()));
    directory
}

/// Makes a package of these programs from the sources in a directory, with options of cargo-generate-rpm.
#[track_caller]
fn make(source: &Path, programs: &Directory, output: &Directory, options: &[&str]) {
    // The tool is built already.
    let tools = output.join("tools");
    if !tools.exists() {
        std::os::unix::fs::symlink(super::tools(), tools).unwrap();
    }
    let mut make = Command::new(source.join("packaging/rpm/make"));
    make.env("SKD_PROGRAMS", programs.path());
    make.env("CARGO_TARGET_DIR", output.path());
    make.env("SOURCE_DATE_EPOCH", "1700000000");
    run(make.args(options));
}

/// A package whose skd says that it is [`NEWER`].
fn newer() -> (Directory, PathBuf) {
    let programs = programs();
    let path = programs.join("skd");
    let mut bytes = fs::read(&path).unwrap();
    let old = VERSION.as_bytes();
    let ends = bytes.len() - old.len();
    for at in 0..=ends {
        if &bytes[at..at + old.len()] == old {
            bytes[at..at + old.len()].copy_from_slice(NEWER.as_bytes());
        }
    }
    fs::write(path, bytes).unwrap();
    let output = Directory::public();
    let version = format!("version = \"{NEWER}\"");
    make(
        Path::new("."),
        &programs,
        &output,
        &["--set-metadata", &version],
    );
    let path = output.join("packages").join(name(NEWER, "1"));
    (output, path)
}

/// Has rpm(8) do something with a package inside. Returns what it and its scriptlets say.
#[track_caller]
fn rpm(debian: &RootDirectory, words: &str) -> String {
    // Debian's rpm wants to be told that it is meant.
    debian.shell(&format!("cd /; rpm --nodeps --force-debian {words} 2>&1"))
}

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

#[track_caller]
fn main_pid(debian: &RootDirectory) -> String {
    debian
        .shell("systemctl show --property=MainPID --value skd")
        .trim()
        .to_owned()
}

#[test]
#[ignore = "make rpm first"]
fn the_rpm_is_installed_upgraded_under_a_connection_and_removed() {
    let package = package();
    let (_output, newer) = newer();
    let debian = RootDirectory::boot(&["rpm"]);
    debian.add(&package, "/root/skd.rpm");
    debian.add(&newer, "/root/newer.rpm");
    let said = rpm(&debian, "--install /root/skd.rpm");
    assert!(said.contains("Creating user 'skd-tls'"), "{said}");
    assert!(!said.contains("rror") && !said.contains("arning"), "{said}");
    debian.shell("getent passwd skd-tls; skd --version; test -e /usr/share/man/man8/skd.8.gz");
    // Nothing is served yet, and that is no failure.
    debian.shell("systemctl start skd && systemctl is-failed skd | grep -vx failed");

    debian.write("/etc/skd/services/echo.toml", SERVICE);
    debian.shell("echo '# A change of the administrator.' >> /etc/skd/skd.toml");
    debian.shell("systemctl start skd");
    let pid = main_pid(&debian);
    let mut client = debian.enter(|| connect(address()));
    echo(&mut client, b"before");

    assert_eq!(rpm(&debian, "--upgrade /root/newer.rpm"), "");
    assert_eq!(main_pid(&debian), pid);
    echo(&mut client, b"after");
    let journal = debian.shell("journalctl --unit skd --output cat");
    let line = format!("Upgraded from skd {VERSION}");
    assert!(
        journal.contains(&line) && journal.contains(&format!("to skd {NEWER}")),
        "{journal}"
    );
    assert_eq!(debian.enter(|| talk(connect(address()), b"new")), b"new");
    assert!(debian.read("/etc/skd/skd.toml").contains("administrator"));
    assert_eq!(
        debian.shell("rpm --query skd").trim(),
        format!("skd-{NEWER}-1.{}", std::env::consts::ARCH)
    );

    let said = rpm(&debian, "--erase skd");
    assert!(said.contains("/etc/skd/skd.toml.rpmsave"), "{said}");
    let unit = debian.try_shell("systemctl cat skd");
    assert!(!unit.status.success(), "{unit:?}");
    assert!(!Path::new(&debian.path(&format!("/proc/{pid}"))).exists());
    let left = debian.shell("find /etc/skd /usr -path '*skd*' ! -type d | sort");
    assert_eq!(
        left,
        "/etc/skd/services/echo.toml\n/etc/skd/skd.toml.rpmsave\n"
    );
    assert_eq!(debian.shell("find /etc/systemd -name '*skd*'"), "");
}

#[test]
#[ignore = "make rpm first"]
fn services_live_on_if_the_new_program_of_the_rpm_cannot_take_them_over() {
    let package = package();
    let (_output, newer) = newer();
    let debian = RootDirectory::boot(&["rpm"]);
    debian.add(&package, "/root/skd.rpm");
    debian.add(&newer, "/root/newer.rpm");
    rpm(&debian, "--install /root/skd.rpm");
    debian.write("/etc/skd/services/echo.toml", SERVICE);
    debian.shell("systemctl start skd");
    let pid = main_pid(&debian);
    let mut client = debian.enter(|| connect(address()));
    echo(&mut client, b"before");
    debian.write(
        "/etc/skd/services/wrong.toml",
        "[service.wrong]\ntcp = 99999\n",
    );
    let said = rpm(&debian, "--upgrade /root/newer.rpm");
    assert!(
        said.contains("goes on with the old program") && said.contains("the new program refuses"),
        "{said}"
    );
    assert_eq!(main_pid(&debian), pid);
    echo(&mut client, b"after");
    debian.shell(&format!("rm /etc/skd/services/wrong.toml && /usr/lib/skd/upgrade && test /usr/bin/skd -ef /proc/{pid}/exe"));
    echo(&mut client, b"at last");
}

#[test]
#[ignore = "make rpm first"]
fn the_rpm_is_installed_and_removed_without_a_service_manager() {
    let debian = RootDirectory::new(&["rpm"]);
    debian.add(package(), "/root/skd.rpm");
    assert_eq!(rpm(&debian, "--install /root/skd.rpm"), "");
    debian.write("/etc/skd/services/echo.toml", SERVICE);
    debian.shell("skd -B -P /run/skd.pid --config /etc/skd/skd.toml --config /etc/skd/services");
    assert_eq!(
        debian.enter(|| talk(connect(address()), b"hello")),
        b"hello"
    );
    let pid = debian.read("/run/skd.pid");
    debian.shell("kill $(cat /run/skd.pid)");
    wait_until("skd ends", || {
        !debian.path(&format!("/proc/{}", pid.trim())).exists()
    });
    assert_eq!(rpm(&debian, "--verify skd"), "");
    assert_eq!(rpm(&debian, "--erase skd"), "");
    assert_eq!(
        debian.shell("find /etc/skd ! -type d"),
        "/etc/skd/services/echo.toml\n"
    );
}

#[test]
#[ignore = "make rpm first"]
fn files_of_the_rpm_have_the_modes_owners_and_flags_of_a_distribution() {
    let package = package();
    let format =
        "[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEFLAGS:fflags} %{FILENAMES}\n]";
    let text = query(&package, &["--queryformat", format]);
    let mut files = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<_> = line.split(' ').collect();
        let [mode, owner, flags, name] = words[..] else {
            panic!("{line}");
        };
        assert_eq!(owner, "root:root", "{line}");
        let executed = mode.starts_with('d') || mode.contains('x');
        assert!(["rwxr-xr-x", "rw-r--r--"].contains(&&mode[1..]), "{line}");
        let program = name.starts_with("/usr/bin/") || name.starts_with("/usr/lib/skd/");
        if program {
            assert!(executed, "{line}");
        }
        let directory = mode.starts_with('d');
        let wanted = match name {
            _ if directory => "",
            _ if name.starts_with("/etc/") => "cn",
            _ if name.starts_with("/usr/share/doc/") || name.starts_with("/usr/share/man/") => "d",
            _ => "",
        };
        assert_eq!(flags, wanted, "{line}");
        files.insert(name.to_owned(), mode.to_owned());
    }
    for name in PROGRAMS {
        assert!(files.contains_key(&format!("/usr/bin/{name}")), "{name}");
    }
    for name in [
        "/etc/skd/skd.toml",
        "/etc/skd/services/README",
        "/usr/lib/skd/upgrade",
        "/usr/lib/systemd/system/skd.service",
        "/usr/lib/systemd/system/skd@.service",
        "/usr/lib/sysusers.d/skd.conf",
        "/usr/share/man/man8/skd.8.gz",
        "/usr/share/bash-completion/completions/skd",
        "/usr/share/licenses/skd/LICENSE",
        "/usr/share/licenses/skd/copyright",
        "/usr/share/doc/skd/README.md",
    ] {
        assert!(files.contains_key(name), "{name}: {files:#?}");
    }
    // What programs need is found by their libraries.
    let requires = query(&package, &["--requires"]);
    assert!(
        requires.contains("libc.so.6(GLIBC_") && requires.contains("rtld(GNU_HASH)"),
        "{requires}"
    );
    assert!(
        !requires.contains("/target/") && !requires.contains("/home"),
        "{requires}"
    );
    assert!(query(&package, &["--recommends"]).contains("ca-certificates"));
}

#[test]
#[ignore = "make rpm first"]
fn rpmlint_finds_nothing_in_the_rpm_that_is_not_argued() {
    requires_command("rpmlint");
    let mut rpmlint = Command::new("rpmlint");
    rpmlint.args(["--strict", "--config", "packaging/rpm/rpmlint.toml"]);
    let said = run(rpmlint.arg(package()));
    assert!(said.contains(" 0 errors, 0 warnings"), "{said}");
}

#[test]
#[ignore = "make rpm first"]
fn the_same_programs_make_the_same_rpm() {
    let programs = programs();
    let made = |_| {
        let output = Directory::new();
        make(Path::new("."), &programs, &output, &[]);
        fs::read(output.join("packages").join(name(VERSION, "1"))).unwrap()
    };
    let [one, other] = [0, 1].map(made);
    assert!(
        one == other,
        "{} bytes and {} bytes",
        one.len(),
        other.len()
    );
}

#[test]
#[ignore = "make rpm first"]
fn an_rpm_of_a_candidate_sorts_before_its_release() {
    requires_root();
    let source = Directory::public();
    let line = r#"
        git ls-files -z | xargs -0 cp --parents --target-directory "$1"
        cd "$1"
        sed -i "s/^version = \"$2\"/version = \"$2-rc.1\"/" Cargo.toml */Cargo.toml
        sed -i "s/\(path = .*version = \"$2\)\"/\1-rc.1\"/" Cargo.toml */Cargo.toml
        sed -i "/^name = \"skd/{n;s/$2/$2-rc.1/}" Cargo.lock
    "#;
    let mut copy = Command::new("sh");
    run(copy
        .args(["-ec", line, "sh"])
        .arg(source.path())
        .arg(VERSION));
    let output = Directory::public();
    make(source.path(), &programs(), &output, &[]);
    let candidate = output
        .join("packages")
        .join(name(&format!("{VERSION}~rc.1"), "1"));
    let version = query(&candidate, &["--queryformat", "%{VERSION}"]);
    assert_eq!(version, format!("{VERSION}~rc.1"));
    let compare = format!("%{{lua: print(rpm.vercmp(\"{version}\", \"{VERSION}\"))}}");
    assert_eq!(
        run(Command::new("rpm").args(["--eval", &compare])).trim(),
        "-1"
    );
}
