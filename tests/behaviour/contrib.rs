//! The files of contrib/: their programs accept them, and skd accepts their command lines.

use crate::harness::{
    Directory, Namespace, Skd, descriptors, requires_command, requires_root, run_to_end,
    settled_descriptors,
};
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The path of skd in these files.
const INSTALLED: &str = "/usr/local/bin/skd";

/// Options that can't be checked without a service manager, and those that are checked instead: sockets from systemd,
/// and a descriptor of s6.
const INHERITED: [(&str, &str); 2] = [("--systemd ", "-t 17 "), ("--ready-fd 3 ", "")];

#[track_caller]
fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {output:?} {said}");
    output
}

fn text(path: impl AsRef<Path>) -> String {
    let path = Path::new("contrib").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Copies of the units that run the skd under test.
fn units(directory: &Directory) -> Vec<PathBuf> {
    let units = fs::read_dir("contrib/systemd").unwrap();
    let mut units: Vec<_> = units.map(|entry| entry.unwrap().file_name()).collect();
    units.sort();
    let copy = |name: &std::ffi::OsString| {
        let unit = text(Path::new("systemd").join(name));
        let unit = unit.replace(INSTALLED, env!("CARGO_BIN_EXE_skd"));
        directory.write(name.to_str().unwrap(), unit)
    };
    units.iter().map(copy).collect()
}

/// Every command line of skd in contrib/, with its file.
fn command_lines() -> Vec<(&'static str, String)> {
    let after = |file: &'static str, mark: &str| {
        let text = text(file);
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(mark));
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("no {mark} in {file}"));
        (file, line.to_owned())
    };
    let openrc = "command_args=\"";
    let (_, openrc) = after("openrc/motd", openrc);
    let openrc = openrc.trim_end_matches('"');
    let openrc = openrc
        .replace("$pidfile", "/run/motd.pid")
        .replace("$RC_SVCNAME", "motd");
    let exec = "ExecStart=/usr/local/bin/skd ";
    vec![
        after("systemd/motd.service", exec),
        after("systemd/motd-activated.service", exec),
        after("s6/motd/run", "exec skd "),
        ("openrc/motd", openrc),
    ]
}

#[test]
fn command_lines_pass_the_check() {
    requires_root();
    let help = run_to_end(["--help=all"]).stdout;
    for (file, line) in command_lines() {
        for option in line.split(' ').filter(|word| word.starts_with("--")) {
            let known = help.contains(&format!("{option} "));
            let by_hand = INHERITED.iter().any(|(it, _)| it.starts_with(option));
            assert!(known || by_hand, "{file}: {option}");
        }
        let line = INHERITED
            .iter()
            .fold(line, |line, (words, instead)| line.replace(words, instead));
        // /etc/motd needn't exist, but cat must.
        let output = Skd::new(["--check"]).args(line.split(' ')).end();
        output.expect_code(0);
        assert!(
            !output.stderr.contains("skd: "),
            "{file}: {line}: {output:#?}"
        );
    }
}

#[test]
fn service_files_pass_the_check() {
    requires_root();
    let files = [
        "--config",
        "contrib/etc/skd.toml",
        "--config",
        "contrib/etc/services",
    ];
    for enabled in [false, true] {
        let directory = Directory::new();
        let copied = ["skd.toml", "services/motd.toml", "services/daytime.toml"];
        fs::create_dir(directory.join("services")).unwrap();
        for file in copied {
            let text = text(Path::new("etc").join(file));
            let text = text.replace(
                "enabled = false\n",
                if enabled { "" } else { "enabled = false\n" },
            );
            directory.write(file, text);
        }
        let found = fs::read_dir("contrib/etc/services").unwrap().count();
        assert_eq!(found, copied.len() - 1);
        let words = files.map(|word| word.replace("contrib/etc", directory.name(".").as_str()));
        let output = Skd::new(["--check"]).args(words).end();
        // As shipped nothing is enabled.
        output.expect_code(if enabled { 0 } else { 1 });
        let listens = output.stderr.matches("Would listen").count();
        assert_eq!(listens > 0, enabled, "{output:#?}");
    }
    // The units name the paths that the files say they have.
    for unit in ["skd.service", "skd@.service"] {
        let unit = text(Path::new("systemd").join(unit));
        let commands = unit.lines().filter(|line| line.contains(INSTALLED));
        let options: BTreeSet<_> = commands
            .map(|line| line.split_once("--config").unwrap().1)
            .collect();
        assert_eq!(options.len(), 1, "{options:?}");
    }
}

#[test]
fn units_pass_systemd_analyze() {
    requires_command("systemd-analyze");
    let directory = Directory::new();
    let units = units(&directory);
    assert_eq!(units.len(), 6, "{units:?}");
    let output = run(Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&units));
    // systemd-analyze only warns of unknown settings.
    let said = String::from_utf8_lossy(&output.stderr);
    for line in said.lines() {
        let ours = units.iter().any(|unit| {
            let name = unit.file_name().unwrap().to_str().unwrap();
            line.contains(name)
        });
        assert!(!ours, "{line}");
    }
}

#[test]
fn units_have_a_low_exposure_level() {
    requires_command("systemd-analyze");
    let directory = Directory::new();
    // Exposure levels in tenths: of the unit that may change its user, and of the unit without any capability.
    for (unit, most) in [("motd.service", "26"), ("motd-activated.service", "10")] {
        units(&directory);
        run(Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--threshold", most])
            .arg(directory.join(unit)));
    }
}

/// Adds the system calls of a set, and of the sets that it contains.
fn system_calls(set: &str, found: &mut BTreeSet<String>) {
    let output = run(Command::new("systemd-analyze").args(["syscall-filter", set]));
    let text = String::from_utf8(output.stdout).unwrap();
    for name in text.lines().skip(1).map(str::trim) {
        if name.starts_with('@') {
            system_calls(name, found);
        } else if !name.starts_with('#') {
            found.insert(name.to_owned());
        }
    }
}

/// The system calls that skd and its handlers make with these options, from start to end.
fn traced(options: &[&str]) -> BTreeSet<String> {
    let directory = Directory::new();
    let trace = directory.name("trace");
    let skd = Skd::new(["-vvt", "127.0.0.1:0", "-c", "3", "--drain", "30s"])
        .args(options)
        .wrapper(["strace", "-f", "-qq", "-o", &trace])
        .run("cat");
    assert_eq!(crate::harness::talk(skd.connect(), b"1"), b"1");
    skd.wait_for_log("exited with status 0");
    skd.stop();
    let calls = directory.read("trace");
    let call = |line: &str| {
        let (_, call) = line.split_once(' ')?;
        let call = call.trim().trim_start_matches("<... ");
        let end = call.find(|it: char| !it.is_ascii_alphanumeric() && it != '_')?;
        Some(call[..end].to_owned()).filter(|name| !name.is_empty())
    };
    calls.lines().filter_map(call).collect()
}

/// The system calls that a unit allows by their names.
fn added(unit: &str) -> BTreeSet<String> {
    let text = text(Path::new("systemd").join(unit));
    let lines = text.lines();
    let filters = lines.filter_map(|line| line.strip_prefix("SystemCallFilter="));
    let words = filters.flat_map(|filter| filter.split(' '));
    let names = words.filter(|word| !word.starts_with(['@', '~']));
    names.map(str::to_owned).collect()
}

/// Calls that skd does without if a filter refuses them. pidfd_getfd(2) would let handlers that run as the user of skd
/// take its descriptors.
const ATTEMPTED: [(&str, libc::c_long); 1] = [("pidfd_getfd", libc::SYS_pidfd_getfd)];

#[test]
fn skd_serves_without_calls_that_the_units_refuse() {
    for unit in ["systemd/motd.service", "systemd/motd-activated.service"] {
        assert!(text(unit).contains("\nSystemCallErrorNumber=EPERM\n"));
    }
    let skd = ATTEMPTED.iter().fold(
        Skd::new(["-vvt", "127.0.0.1:0", "--drain", "30s"]),
        |skd, (_, call)| skd.refusing(*call, Errno::EPERM),
    );
    let skd = skd.run("cat");
    let before = settled_descriptors(skd.pid()).len();
    for _ in 0..20 {
        assert_eq!(crate::harness::talk(skd.connect(), b"1"), b"1");
    }
    skd.wait_for_logs("exited with status 0", 20);
    skd.wait_until("all are closed", || descriptors(skd.pid()).len() == before);
    assert!(skd.logged("skd: ").is_empty(), "{:?}", skd.log_lines());
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn skd_runs_under_the_filters_of_the_units() {
    requires_root();
    requires_command("systemd-analyze");
    requires_command("strace");
    let mut service = BTreeSet::new();
    system_calls("@system-service", &mut service);
    let mut privileged = BTreeSet::new();
    system_calls("@privileged", &mut privileged);
    assert!(service.contains("accept4") && privileged.contains("chroot"));
    // docs/service-managers.md says so.
    assert!(!service.contains("chroot"));
    // Refused with EPERM, it is replaced by a slower way.
    assert!(!service.contains("pidfd_getfd"));
    for unit in ["motd", "motd-activated"] {
        let unit = text(format!("systemd/{unit}.service"));
        assert!(unit.contains("\nSystemCallErrorNumber=EPERM\n"));
    }
    service.insert("pidfd_getfd".into());
    // strace's name for it; systemd has another.
    service.insert("umount2".into());
    service.extend(ATTEMPTED.map(|(call, _)| call.to_owned()));
    service.extend(added("motd.service"));
    assert!(added("motd-activated.service").is_subset(&service));

    let calls = traced(&["--user", "nobody"]);
    assert!(calls.contains("close_range") && calls.contains("setgroups"));
    let refused: Vec<_> = calls.difference(&service).collect();
    assert!(refused.is_empty(), "motd.service: {refused:?}");

    let calls = traced(&[]);
    let allowed: BTreeSet<_> = service.difference(&privileged).cloned().collect();
    let refused: Vec<_> = calls.difference(&allowed).collect();
    assert!(refused.is_empty(), "motd-activated.service: {refused:?}");
}

#[test]
fn the_capabilities_of_the_unit_are_enough() {
    requires_root();
    requires_command("setpriv");
    let unit = text("systemd/motd.service");
    let set = |line: &str| Some(line.strip_prefix("CapabilityBoundingSet=")?.to_lowercase());
    let set = unit.lines().find_map(set).unwrap();
    let set = set.replace(" cap_", ",+").replace("cap_", "+");
    let namespace = Namespace::new();
    namespace.sysctl("net.ipv4.ip_unprivileged_port_start", "1024");
    let (_, line) = &command_lines()[0];
    let start = |set: &str| {
        let words = line.split(' ').take_while(|word| *word != "cat");
        let bounding = format!("--bounding-set=-all,{set}");
        let skd = Skd::new(words).wrapper(["setpriv", "--no-new-privs", &bounding]);
        skd.inside(&namespace).start("cat")
    };
    let skd = start(&set);
    skd.wait_ready();
    assert_eq!(crate::harness::talk(skd.connect(), b"1"), b"1");
    assert_eq!(skd.stop().code(), Some(0));
    // All of them are needed.
    for capability in set.split(',') {
        let fewer: Vec<_> = set.split(',').filter(|it| *it != capability).collect();
        start(&fewer.join(",")).expect_refusal(1, &[]);
    }
}

#[test]
fn shell_scripts_are_valid() {
    for script in [
        "s6/motd/run",
        "s6/motd/finish",
        "s6/motd/log/run",
        "openrc/motd",
    ] {
        let path = Path::new("contrib").join(script);
        run(Command::new("sh").arg("-n").arg(&path));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{script} isn't executable");
    }
    for (status, again) in [
        ("0", true),
        ("1", true),
        ("2", false),
        ("127", false),
        ("256", true),
    ] {
        let mut finish = Command::new("contrib/s6/motd/finish");
        let status = finish.args([status, "0"]).status().unwrap();
        assert_eq!(status.code(), Some(if again { 0 } else { 125 }));
    }
    assert_eq!(text("s6/motd/notification-fd"), "3\n");
}

#[test]
fn a_service_of_openrc_is_checked_before_it_is_started_or_restarted() {
    requires_root();
    // Like openrc-run(8), a shell that reads the file and calls its functions.
    let call = |function: &str, wrong: bool| {
        let line = r#"
            RC_SVCNAME=motd; RC_CMD=restart
            . contrib/openrc/motd
            command=$1; command_args="$command_args"
            if [ -n "$2" ]; then command_args="$2 $command_args"; fi
            "$3"
        "#;
        let mut shell = Command::new("sh");
        shell.args(["-c", line, "sh", env!("CARGO_BIN_EXE_skd")]);
        shell.args([if wrong { "-t 99999" } else { "" }, function]);
        shell.output().unwrap().status.code()
    };
    for function in ["checkconfig", "start_pre", "stop_pre"] {
        assert_eq!(call(function, false), Some(0), "{function}");
        assert_eq!(call(function, true), Some(2), "{function}");
    }
}

#[test]
fn the_container_is_built_from_this_source() {
    let text = text("container/Containerfile");
    let manifest = fs::read_to_string("Cargo.toml").unwrap();
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "));
    let minor = |version: &str| -> u32 { version.strip_prefix("1.").unwrap().parse().unwrap() };
    let needed = minor(version.unwrap().trim_matches('"'));
    let tag = text.split("/rust:").nth(1).unwrap();
    let used = minor(tag.split("-alpine ").next().unwrap());
    assert!(used >= needed, "{used} {needed}");
    let mut copied = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let words: Vec<_> = line.split(' ').collect();
        let (_, sources) = words.split_last().unwrap();
        for source in sources.iter().filter(|_| !line.starts_with("--from")) {
            assert!(Path::new(source).exists(), "{source}");
            copied += 1;
        }
    }
    assert!(copied > 4, "{text}");
    // Cargo refuses a workspace without one of its members, and skd is built with its version.
    let members = manifest
        .lines()
        .find_map(|line| line.strip_prefix("members = "));
    let members = members.unwrap().split('"').skip(1).step_by(2);
    for needed in members.chain(["build.rs"]) {
        let copies =
            |line: &str| line.starts_with("COPY ") && line.split(' ').any(|it| it == needed);
        assert!(text.lines().any(copies), "{needed}");
    }
}
