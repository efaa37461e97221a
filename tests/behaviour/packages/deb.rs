//! The package for Debian: installed, upgraded, removed and purged.

use super::packages;
use super::root_directory::RootDirectory;
use crate::harness::{
    DEADLINE, Figures, Over, connect, echo, requires_command, talk, try_talk, wait_until,
};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// What a container has in place of systemd.
const SYSUSERS: &str = "systemd-standalone-sysusers";

const INSTALL: &str = "apt-get install --quiet --yes /root/skd.deb 2>&1";
const UPGRADE: &str = "apt-get install --quiet --yes /root/later.deb 2>&1";

/// A service for /etc/skd/services, and its port.
const ECHO: &str =
    "[service.echo]\ntcp = \"127.0.0.1:7\"\nuser = \"nobody\"\ncommand = [\"cat\"]\n";
const PORT: u16 = 7;

/// What may differ after a purge, each with the reason.
const STAYS: [(&str, &str); 8] = [
    ("/var/lib/dpkg/", "dpkg's own books"),
    ("/var/lib/apt/", "those of apt"),
    ("/var/cache/", "the same"),
    ("/var/log/", "what has happened"),
    (
        "/etc/passwd",
        "users stay, so that no other gets their number",
    ),
    ("/etc/group", "the same"),
    ("/etc/shadow", "the same"),
    ("/etc/gshadow", "the same"),
];

/// The package that `make deb` has made.
#[track_caller]
fn package() -> PathBuf {
    let packages = packages();
    let entries = fs::read_dir(&packages).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    let found = paths.find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("skd_") && name.ends_with(".deb")
    });
    found.unwrap_or_else(|| panic!("no skd_*.deb in {}: run \"make deb\"", packages.display()))
}

/// Adds the package, and another with the same files and a higher version.
#[track_caller]
fn add_packages(debian: &RootDirectory) {
    debian.add(package(), "/root/skd.deb");
    debian.shell(
        "dpkg-deb --raw-extract /root/skd.deb /root/later
         sed -i 's/^Version: .*/&+later/' /root/later/DEBIAN/control
         dpkg-deb -Znone --root-owner-group --build /root/later /root/later.deb
         rm -r /root/later",
    );
}

/// A container without a service manager, with the packages.
#[track_caller]
fn container() -> RootDirectory {
    let debian = RootDirectory::new(&[SYSUSERS]);
    add_packages(&debian);
    debian
}

/// A machine with System V init, whose process 1 does nothing else here, with the packages.
#[track_caller]
fn sysvinit() -> RootDirectory {
    let debian = RootDirectory::new(&[SYSUSERS, "sysvinit-core"]);
    // The record that init makes of its runlevel (utmp(5)): invoke-rc.d(8) asks runlevel(8).
    let record = r#"pack("s x2 l a32 a4 a32 x308", 1, ord("2"), "~", "~~", "runlevel")"#;
    debian.shell(&format!("perl -e 'print {record}' > /run/utmp"));
    assert_eq!(debian.shell("runlevel"), "N 2\n");
    add_packages(&debian);
    debian
}

/// A machine that runs systemd, with the packages.
#[track_caller]
fn machine() -> RootDirectory {
    let debian = RootDirectory::boot(&[]);
    add_packages(&debian);
    debian
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A client of a service that is `cat`.
#[track_caller]
fn assert_answers(debian: &RootDirectory, port: u16) {
    let answer = debian.enter(|| talk(connect(address(port)), b"hello"));
    assert_eq!(answer, b"hello", "port {port}");
}

/// Whether no process listens there.
fn is_closed(debian: &RootDirectory, port: u16) -> bool {
    debian.enter(|| TcpStream::connect(address(port)).is_err())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The process id of the skd that the init script has started.
fn pid(debian: &RootDirectory) -> String {
    debian.read("/run/skd.pid").trim().to_owned()
}

/// The process id of the skd of a unit.
fn main_pid(debian: &RootDirectory, unit: &str) -> String {
    let line = format!("systemctl show --property=MainPID --value {unit}");
    debian.shell(&line).trim().to_owned()
}

/// Whether a process runs the program that is installed now.
fn runs_installed(debian: &RootDirectory, pid: &str) -> bool {
    let line = format!("[ /proc/{pid}/exe -ef /usr/bin/skd ]");
    debian.try_shell(&line).status.success()
}

/// Runs a line of shell while clients connect to these ports as fast as they can, and one connection to each stays.
/// All of them are answered. Returns what the line has printed.
#[track_caller]
fn under_load(debian: &RootDirectory, ports: &[u16], line: &str) -> String {
    let (figures, over) = (Figures::default(), AtomicBool::new(false));
    let mut stay = debian.enter(|| {
        ports
            .iter()
            .map(|&it| connect(address(it)))
            .collect::<Vec<_>>()
    });
    stay.iter_mut().for_each(|stream| echo(stream, b"before"));
    let said = thread::scope(|scope| {
        let _over = Over(&over);
        for &port in ports {
            let (figures, over) = (&figures, &over);
            scope.spawn(move || {
                debian.enter(|| {
                    while !over.load(Ordering::Relaxed) {
                        let stream = TcpStream::connect_timeout(&address(port), DEADLINE);
                        let answer = stream.and_then(|stream| {
                            stream.set_read_timeout(Some(DEADLINE))?;
                            try_talk(stream, b"meanwhile")
                        });
                        figures.count(answer, b"meanwhile");
                    }
                });
            });
        }
        wait_until("clients come", || figures.right.load(Ordering::Relaxed) > 0);
        let said = debian.shell(line);
        let so_far = figures.right.load(Ordering::Relaxed);
        wait_until("clients come afterwards", || {
            figures.right.load(Ordering::Relaxed) > so_far + ports.len()
        });
        said
    });
    stay.iter_mut().for_each(|stream| echo(stream, b"after"));
    let lost = [&figures.wrong, &figures.refused, &figures.reset];
    let lost = lost.map(|count| count.load(Ordering::Relaxed));
    assert_eq!(
        lost, [0; 3],
        "wrong, refused and reset beside {figures:?}; {said}"
    );
    println!(
        "{} clients answered during: {line}",
        figures.right.load(Ordering::Relaxed)
    );
    said
}

/// All files with type, mode, owner and target of a link. Contents and times are left out.
#[track_caller]
fn tree(debian: &RootDirectory) -> BTreeMap<String, String> {
    let format = r"%p\t%y %m %U:%G %l\n";
    let pruned = "'(' -path /root -o -path /tmp -o -path /proc ')' -prune -o";
    // In /run, systemd has much of its own.
    let listing = debian.shell(&format!(
        "find / -xdev {pruned} -printf '{format}'; find /run -maxdepth 1 -name 'skd*' -printf '{format}'"
    ));
    let entries = listing.lines().filter_map(|line| line.split_once('\t'));
    entries
        .map(|(path, what)| (path.to_owned(), what.to_owned()))
        .collect()
}

/// Asserts that nothing differs but what may.
#[track_caller]
fn assert_nothing_left(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    let may = |path: &str| STAYS.iter().any(|(prefix, _)| path.starts_with(prefix));
    let left: Vec<_> = after
        .iter()
        .filter(|(path, what)| before.get(*path) != Some(what) && !may(path))
        .collect();
    let gone: Vec<_> = before
        .keys()
        .filter(|path| !after.contains_key(*path) && !may(path))
        .collect();
    assert!(
        left.is_empty() && gone.is_empty(),
        "left or changed: {left:#?}, gone: {gone:#?}"
    );
}

#[test]
#[ignore = "needs the package: make -C packaging check"]
fn lintian_has_nothing_to_say() {
    requires_command("lintian");
    let output = Command::new("lintian")
        .args(["--allow-root", "--pedantic", "--tag-display-limit", "0"])
        .args(["--fail-on", "error,warning"])
        .arg(package())
        .output()
        .unwrap();
    let said = text(&output.stdout);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
#[ignore = "needs root, debootstrap and the package: make -C packaging check"]
fn a_container_has_the_programs_and_users() {
    let debian = container();
    debian.shell(INSTALL);
    for program in ["skd", "skdctl", "skd-tls", "skd-forward"] {
        let version = debian.shell(&format!("{program} --version"));
        let expected = env!("CARGO_PKG_VERSION");
        assert!(version.contains(expected), "{program}: {version}");
    }
    // Any user may run it.
    let path = debian.shell("setpriv --reuid nobody --clear-groups sh -c 'command -v skd'");
    assert_eq!(path, "/usr/bin/skd\n");
    let users = debian.shell("getent passwd skd-tls; getent group skd-status");
    let expected = users.contains(":/usr/sbin/nologin\n") && users.contains("skd-status:x:");
    assert!(expected, "{users}");
    // The pages, and what they call contrib/.
    debian.shell("zcat /usr/share/doc/skd/changelog.gz /usr/share/man/man8/skd.8.gz > /dev/null");
    debian
        .shell("cd /usr/share/doc/skd && cat docs/tls.md contrib/etc/services/motd.toml copyright");
}

#[test]
#[ignore = "needs root, debootstrap and the package: make -C packaging check"]
fn with_an_init_script_its_service_answers() {
    let debian = sysvinit();
    let said = debian.shell(INSTALL);
    // There is no service yet, which is no failure.
    assert!(said.contains("/etc/skd has no service"), "{said}");
    assert!(is_closed(&debian, PORT));
    debian.write("/etc/skd/services/echo.toml", ECHO);
    debian.shell("service skd start");
    assert_answers(&debian, PORT);
    debian.shell("service skd status && service skd start");
    // Files with a fault change nothing, neither at a reload nor at a restart.
    let before = pid(&debian);
    let fault = "/etc/skd/services/fault.toml";
    debian.write(fault, "[service.fault]\ntpc = 8\n");
    for action in ["reload", "restart"] {
        let output = debian.try_shell(&format!("service skd {action} 2>&1"));
        let said = text(&output.stdout);
        let expected = !output.status.success() && said.contains(&format!("{fault}:2:1"));
        assert!(expected, "{action}: {said}");
        assert_answers(&debian, PORT);
        assert_eq!(pid(&debian), before);
    }
    debian.write(fault, &ECHO.replace("echo", "other").replace(":7", ":8"));
    debian.shell("service skd reload");
    wait_until("the other service is there", || !is_closed(&debian, 8));
    assert_answers(&debian, 8);
    assert_eq!(pid(&debian), before);
    debian.shell("service skd stop");
    assert!(is_closed(&debian, PORT) && pid(&debian).is_empty());
}

#[test]
#[ignore = "needs root, debootstrap and the package: make -C packaging check"]
fn an_upgrade_in_a_container_keeps_connections_and_the_process() {
    let debian = container();
    debian.shell(INSTALL);
    debian.write("/etc/skd/services/echo.toml", ECHO);
    debian.shell("service skd start");
    let before = pid(&debian);
    for upgrade in [UPGRADE, "dpkg --install /root/later.deb 2>&1"] {
        under_load(&debian, &[PORT], upgrade);
        assert_eq!(pid(&debian), before);
        assert!(runs_installed(&debian, &before), "{upgrade}");
    }
    let version = debian.shell("dpkg-query --show --showformat='${Version}' skd");
    assert!(version.ends_with("+later"), "{version}");
}

#[test]
#[ignore = "needs root, debootstrap and the package: make -C packaging check"]
fn an_upgrade_with_a_fault_in_the_configuration_says_so_and_services_live_on() {
    let debian = container();
    debian.shell(INSTALL);
    debian.write("/etc/skd/services/echo.toml", ECHO);
    debian.shell("service skd start");
    let before = pid(&debian);
    debian.write("/etc/skd/services/fault.toml", "[service.fault]\ntpc = 8\n");
    let said = under_load(&debian, &[PORT], UPGRADE);
    assert!(
        said.contains("/etc/init.d/skd goes on with the old program"),
        "{said}"
    );
    assert!(!runs_installed(&debian, &before));
    // As it says.
    let (_, todo) = said.split_once("type: ").unwrap();
    fs::remove_file(debian.path("/etc/skd/services/fault.toml")).unwrap();
    debian.shell(todo.lines().next().unwrap());
    wait_until("it is upgraded", || runs_installed(&debian, &before));
    assert_eq!(pid(&debian), before);
    assert_answers(&debian, PORT);
}

#[test]
#[ignore = "needs root, debootstrap and the package: make -C packaging check"]
fn removal_keeps_the_configuration_and_a_purge_leaves_nothing() {
    let debian = sysvinit();
    let empty = tree(&debian);
    debian.shell(INSTALL);
    debian.write("/etc/skd/services/echo.toml", ECHO);
    debian.shell("echo '# ours' >> /etc/skd/skd.toml; service skd start");
    assert_answers(&debian, PORT);
    debian.shell("apt-get remove --quiet --yes skd");
    assert!(is_closed(&debian, PORT));
    assert!(debian.read("/etc/skd/skd.toml").ends_with("# ours\n"));
    assert_eq!(debian.read("/etc/skd/services/echo.toml"), ECHO);
    // It is started, since there is a service.
    debian.shell(INSTALL);
    assert_answers(&debian, PORT);
    assert!(debian.read("/etc/skd/skd.toml").ends_with("# ours\n"));
    debian.shell("apt-get purge --quiet --yes skd");
    assert!(is_closed(&debian, PORT));
    // What the package hasn't made stays.
    assert_eq!(debian.read("/etc/skd/services/echo.toml"), ECHO);
    debian.shell("rm -r /etc/skd");
    assert_nothing_left(&empty, &tree(&debian));
    // Without files of an administrator, its directory goes too.
    debian.shell(&format!("{INSTALL}; apt-get purge --quiet --yes skd"));
    assert_nothing_left(&empty, &tree(&debian));
}

#[test]
#[ignore = "needs root, debootstrap and the package: make -C packaging check"]
fn a_configuration_file_of_the_administrator_survives_an_upgrade_with_another() {
    let debian = container();
    debian.shell(
        "dpkg-deb --raw-extract /root/later.deb /root/later
         echo '# theirs' >> /root/later/etc/skd/skd.toml
         echo '# theirs' >> /root/later/etc/skd/services/README
         dpkg-deb -Znone --root-owner-group --build /root/later /root/later.deb",
    );
    debian.shell(INSTALL);
    debian.shell("echo '# ours' >> /etc/skd/skd.toml");
    // Without a terminal, apt-get keeps what an administrator has changed.
    debian
        .shell("apt-get install --quiet --yes -o Dpkg::Options::=--force-confold /root/later.deb");
    assert!(debian.read("/etc/skd/skd.toml").ends_with("# ours\n"));
    assert!(
        debian
            .read("/etc/skd/skd.toml.dpkg-dist")
            .ends_with("# theirs\n")
    );
    // What is as it was in the old package is the new one.
    assert!(
        debian
            .read("/etc/skd/services/README")
            .ends_with("# theirs\n")
    );
}

#[test]
#[ignore = "needs root, debootstrap and the package: make -C packaging check"]
fn under_systemd_it_is_enabled_and_upgraded_in_place_with_its_instances() {
    let debian = machine();
    let empty = tree(&debian);
    debian.shell(INSTALL);
    // Enabled as Debian's policy has it; without a service it isn't started, and hasn't failed.
    let state = |what: &str| text(&debian.try_shell(&format!("systemctl {what} skd")).stdout);
    assert_eq!(state("is-enabled"), "enabled\n");
    assert_eq!(state("is-active"), "inactive\n");
    assert_eq!(debian.shell("systemctl is-system-running"), "running\n");
    debian.write("/etc/skd/services/echo.toml", ECHO);
    debian.write("/etc/skd/games.toml", &ECHO.replace(":7", ":8"));
    let sandboxed = format!("{}contain = true\n", ECHO.replace(":7", ":9"));
    debian.write("/etc/skd/ctf.toml", &sandboxed);
    let units = [
        "skd.service",
        "skd@games.service",
        "skd-sandbox@ctf.service",
    ];
    debian.shell(&format!("systemctl enable --now {}", units.join(" ")));
    let ports = [7, 8, 9];
    ports.iter().for_each(|&port| assert_answers(&debian, port));
    let status = debian.shell("systemctl status skd");
    assert!(status.contains("Active: active (running)"), "{status}");
    let pids = units.map(|unit| main_pid(&debian, unit));
    let said = under_load(&debian, &ports, UPGRADE);
    assert!(!said.contains("goes on with the old program"), "{said}");
    for (unit, pid) in units.iter().zip(&pids) {
        assert_eq!(main_pid(&debian, unit), *pid);
        assert!(runs_installed(&debian, pid), "{unit}");
        assert_eq!(
            debian.shell(&format!("systemctl is-active {unit}")),
            "active\n"
        );
        assert_eq!(
            debian.shell(&format!(
                "systemctl show --property=NRestarts --value {unit}"
            )),
            "0\n"
        );
    }
    // Only that one is to report more than faults.
    let log = debian.shell("journalctl --quiet --output=cat --unit=skd");
    assert!(log.contains("Upgraded from skd "), "{log}");
    debian.shell("systemctl reload skd");
    debian.shell("apt-get remove --quiet --yes skd");
    for (unit, port) in units.iter().zip(ports) {
        assert!(is_closed(&debian, port), "{unit}");
    }
    assert_eq!(debian.shell("systemctl is-system-running"), "running\n");
    debian.shell("rm /etc/skd/services/echo.toml /etc/skd/games.toml /etc/skd/ctf.toml");
    debian.shell("apt-get purge --quiet --yes skd");
    assert_nothing_left(&empty, &tree(&debian));
}

#[test]
#[ignore = "needs root, debootstrap and the package: make -C packaging check"]
fn under_systemd_a_refused_upgrade_is_reported_with_its_reason() {
    let debian = machine();
    debian.shell(INSTALL);
    debian.write("/etc/skd/services/echo.toml", ECHO);
    debian.shell("systemctl start skd");
    let before = main_pid(&debian, "skd");
    debian.write("/etc/skd/services/fault.toml", "[service.fault]\ntpc = 8\n");
    let said = under_load(&debian, &[PORT], UPGRADE);
    let reason = "skd.service goes on with the old program, and its services live on: no upgrade: ";
    assert!(said.contains(reason), "{said}");
    assert_eq!(main_pid(&debian, "skd"), before);
    assert!(!runs_installed(&debian, &before));
    // The package is installed all the same.
    debian.shell("[ -z \"$(dpkg --audit)\" ]");
}

#[test]
#[ignore = "needs root, debootstrap and the package: make -C packaging check"]
fn under_systemd_it_stays_as_the_administrator_has_it() {
    let debian = machine();
    debian.write("/root/policy", "#!/bin/sh\nexit 101\n");
    // An administrator who forbids starts.
    debian.shell("install -m 755 /root/policy /usr/sbin/policy-rc.d; install -d /etc/skd/services");
    debian.write("/etc/skd/services/echo.toml", ECHO);
    debian.shell(INSTALL);
    assert!(is_closed(&debian, PORT));
    debian.shell("rm /usr/sbin/policy-rc.d");
    // With the next boot it would be started.
    debian.shell("systemctl start multi-user.target");
    wait_until("it is started with the others", || {
        !is_closed(&debian, PORT)
    });
    assert_answers(&debian, PORT);
    debian.shell("systemctl disable --now skd");
    debian.shell(UPGRADE);
    let state = debian.try_shell("systemctl is-enabled skd");
    assert_eq!(text(&state.stdout), "disabled\n");
    assert!(is_closed(&debian, PORT));
    debian.shell("systemctl mask skd");
    debian.shell("dpkg --install /root/skd.deb 2>&1");
    let state = debian.try_shell("systemctl is-enabled skd");
    assert_eq!(text(&state.stdout), "masked\n");
}

#[test]
#[ignore = "needs root, debootstrap and the package: make -C packaging check"]
fn the_next_release_of_debian_runs_it() {
    let debian = RootDirectory::boot_of("trixie", &[]);
    add_packages(&debian);
    debian.write("/root/echo.toml", ECHO);
    debian.shell("install -D /root/echo.toml /etc/skd/services/echo.toml");
    debian.shell(INSTALL);
    assert_answers(&debian, PORT);
    let before = main_pid(&debian, "skd");
    under_load(&debian, &[PORT], UPGRADE);
    assert_eq!(main_pid(&debian, "skd"), before);
    assert!(runs_installed(&debian, &before));
    debian.shell("apt-get purge --quiet --yes skd");
    assert!(is_closed(&debian, PORT));
}
