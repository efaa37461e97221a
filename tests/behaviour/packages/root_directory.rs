//! A Debian in a directory, made once by debootstrap, of which each test has a copy.
//!
//! ```ignore
//! let debian = RootDirectory::new(&["rpm"]);                     // this machine's release, with a package more
//! debian.add("target/packages/skd.rpm", "/root/skd.rpm");        // a file from outside
//! debian.shell("rpm --install --nodeps /root/skd.rpm");          // must end with 0; its output is returned
//! debian.write("/etc/skd/services/echo.toml", "…");
//! debian.shell("skd -B -P /run/skd.pid --config /etc/skd/services");
//! let answer = debian.enter(|| talk(connect(address), b"hello")); // a client, in its network
//!
//! let debian = RootDirectory::boot(&[]);                         // the same with systemd as process 1
//! debian.shell("systemctl start skd");
//! ```
//!
//! What is changed in a copy is in memory, and gone with the value, with all processes in there. A copy has mounts,
//! processes, a network with a loopback interface alone, and a host name of its own. So nothing can be downloaded in
//! there: name the packages that a test needs.
//!
//! The directories that are copied stay in `target/root-directories/`, one for each set of packages. Remove that folder
//! to have them made anew. What is downloaded comes from the mirror that apt uses on this machine.

// Not every package needs everything.
#![allow(dead_code)]

use crate::harness::{
    Directory, Namespace, children, exists, poll_for, requires_command, requires_root,
};
use nix::fcntl::{Flock, FlockArg};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long systemd may take from its start until all its units are started.
const BOOT: Duration = Duration::from_secs(120);

/// Makes the copy, from its lower directory, a directory for the mounts, and the command line of process 1.
///
/// What root could change outside through /proc and /sys is read-only, and process 1 may neither load modules nor set the
/// clock, as in other containers.
const ENTER: &str = r#"
    lower=$1 space=$2 cgroup=$3
    shift 3
    mount -t tmpfs -o mode=755 tmpfs "$space"
    mkdir "$space/upper" "$space/work" "$space/root"
    mount -t overlay -o "lowerdir=$lower,upperdir=$space/upper,workdir=$space/work" overlay "$space/root"
    cd "$space/root"
    mount -t proc proc proc
    mount --bind proc/sys proc/sys
    mount -o remount,bind,ro proc/sys
    mount -t sysfs -o ro sysfs sys
    if [ -n "$cgroup" ]; then mount -t cgroup2 cgroup2 sys/fs/cgroup; fi
    mount -t tmpfs -o mode=755 tmpfs dev
    for node in null zero full random urandom tty; do
        : > "dev/$node"
        mount --bind "/dev/$node" "dev/$node"
    done
    mkdir dev/pts dev/shm
    mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts dev/pts
    mount -t tmpfs -o mode=1777 tmpfs dev/shm
    ln -s pts/ptmx dev/ptmx
    ln -s /proc/self/fd dev/fd
    for number in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${number%:*}" "dev/${number#*:}"; done
    hostname debian
    pivot_root . mnt
    cd /
    exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /bin/sh -ec '
        umount -l /mnt
        echo ready
        exec setpriv --bounding-set=-sys_module,-sys_time "$@" > /dev/null 2>&1 < /dev/null
    ' sh "$@"
"#;

/// Process 1 without systemd. It reaps the daemons that end, as the kernel expects.
const REAPER: [&str; 3] = ["/bin/sh", "-c", "sleep infinity & wait"];

/// A copy of a root directory, and the processes in it.
#[derive(Debug)]
pub struct RootDirectory {
    namespace: Namespace,
    /// unshare(1), with process 1 as its only child.
    unshare: Child,
    /// Process 1, as it is known outside.
    init: i32,
    /// Where the control groups of systemd are.
    cgroup: Option<PathBuf>,
    /// Only the directory for the mounts, which are not seen here.
    _space: Directory,
}

impl RootDirectory {
    /// A copy of this machine's release of Debian: the essential packages and `packages`, without a service manager.
    /// No service runs.
    #[track_caller]
    pub fn new(packages: &[&str]) -> Self {
        Self::of(&release(), packages)
    }

    /// The same of another release, as in `trixie`.
    #[track_caller]
    pub fn of(release: &str, packages: &[&str]) -> Self {
        Self::start(&made(release, packages), None, &REAPER)
    }

    /// The same with systemd as process 1; it has started all its units.
    #[track_caller]
    pub fn boot(packages: &[&str]) -> Self {
        Self::boot_of(&release(), packages)
    }

    /// The same of another release.
    #[track_caller]
    pub fn boot_of(release: &str, packages: &[&str]) -> Self {
        let packages = [&["dbus", "systemd-sysv"], packages].concat();
        let directory = made(release, &packages);
        let debian = Self::start(&directory, Some(new_cgroup()), &["/sbin/init"]);
        let state = poll_for(BOOT, || {
            let output = debian.try_shell("systemctl is-system-running");
            let state = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            ["running", "degraded"]
                .contains(&state.as_str())
                .then_some(state)
        });
        if state.as_deref() != Some("running") {
            let said = debian.try_shell("systemctl --failed; systemctl list-jobs; journalctl -b");
            panic!(
                "systemd didn't start all of its units within {BOOT:?}: {state:?}\n{}",
                String::from_utf8_lossy(&said.stdout)
            );
        }
        debian
    }

    #[track_caller]
    fn start(lower: &Path, cgroup: Option<PathBuf>, first: &[&str]) -> Self {
        let namespace = Namespace::new();
        let space = Directory::public();
        let line = r#"if [ -n "$1" ]; then echo $$ > "$1/cgroup.procs"; fi; shift; exec "$@""#;
        let mut unshare = namespace.command("sh");
        unshare.args(["-ec", line, "sh"]).arg(text(&cgroup));
        // Without the tests it ends.
        unshare.args(["setpriv", "--pdeathsig", "KILL", "unshare"]);
        unshare.args(["--mount", "--propagation", "private", "--pid", "--uts"]);
        unshare.args(["--ipc", "--cgroup", "--fork", "--kill-child"]);
        unshare.args(["sh", "-ec", ENTER, "sh"]);
        unshare.args([lower, space.path()]).arg(text(&cgroup));
        unshare.args(first).stdin(Stdio::null());
        let mut unshare = unshare.stdout(Stdio::piped()).spawn().expect("sh");
        let mut line = String::new();
        let output = unshare.stdout.take().expect("a pipe");
        let read = BufReader::new(output).read_line(&mut line);
        assert!(
            read.is_ok() && line == "ready\n",
            "a copy of {} can't be made: see the output of mount(8)",
            lower.display()
        );
        let init = children(i32::try_from(unshare.id()).expect("a process id"));
        Self {
            namespace,
            unshare,
            init: *init.first().expect("process 1"),
            cgroup,
            _space: space,
        }
    }

    /// A command that will run inside as root, in `/` and with an environment of its own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.to_string()]);
        command.args(["--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup"]);
        command.args(["--root", "--wd", "--", "env", "-i"]);
        command.args([
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "LC_ALL=C.UTF-8",
            "DEBIAN_FRONTEND=noninteractive",
        ]);
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a line of shell inside, and returns its stdout; panics with all that it said unless it ends with 0.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        let output = self.try_shell(line);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(
            output.status.success(),
            "{line}: {}\n{stdout}{stderr}",
            output.status
        );
        stdout
    }

    /// The same for a line that may fail.
    pub fn try_shell(&self, line: &str) -> Output {
        let output = self.command("sh").args(["-ec", line]).output();
        output.expect("nsenter(1)")
    }

    /// The path of an inside file from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        let inside = inside.strip_prefix('/').expect("an absolute path");
        Path::new(&format!("/proc/{}/root", self.init)).join(inside)
    }

    /// Copies a file into it.
    #[track_caller]
    pub fn add(&self, from: impl AsRef<Path>, inside: &str) {
        let from = from.as_ref();
        fs::copy(from, self.path(inside))
            .unwrap_or_else(|error| panic!("{} to {inside}: {error}", from.display()));
    }

    /// Writes a file inside.
    #[track_caller]
    pub fn write(&self, inside: &str, contents: &str) {
        fs::write(self.path(inside), contents).unwrap_or_else(|error| panic!("{inside}: {error}"));
    }

    /// Reads a file inside as text; an absent one is empty.
    pub fn read(&self, inside: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.path(inside)).unwrap_or_default()).into_owned()
    }

    /// Runs `body` in a thread in its network: for clients. Files are those outside.
    #[track_caller]
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.namespace.enter(body)
    }
}

impl Drop for RootDirectory {
    fn drop(&mut self) {
        // Process 1 is killed with its parent, and all others with process 1.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        poll_for(Duration::from_secs(10), || {
            (!exists(self.init)).then_some(())
        });
        if let Some(cgroup) = &self.cgroup {
            poll_for(Duration::from_secs(10), || {
                remove_cgroup(cgroup);
                (!cgroup.exists()).then_some(())
            });
        }
    }
}

fn text(path: &Option<PathBuf>) -> &OsStr {
    path.as_ref().map_or(OsStr::new(""), |it| it.as_os_str())
}

/// The codename of this machine's release of Debian.
#[track_caller]
fn release() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let mut lines = text.lines();
    let name = lines.find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.expect("VERSION_CODENAME in /etc/os-release")
        .to_owned()
}

/// The mirror of Debian from which apt gets packages on this machine.
#[track_caller]
fn mirror() -> String {
    requires_command("apt-get");
    let format = "$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI)";
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", format, "Created-By: Packages"])
        .output();
    let text = String::from_utf8(output.expect("apt-get").stdout).expect("UTF-8");
    let mut lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    // Updates and security have other folders, and names with a hyphen.
    let found = lines.find_map(|words| match words[..] {
        ["Debian", "main", codename, uri] if !codename.contains('-') => Some(uri.to_owned()),
        _ => None,
    });
    found.expect(
        "apt knows no mirror of Debian here: see sources.list(5), and run \"apt-get update\"",
    )
}

/// Returns the directory of a release with these packages. It is made if it isn't there.
#[track_caller]
fn made(release: &str, packages: &[&str]) -> PathBuf {
    requires_root();
    requires_command("debootstrap");
    requires_command("setpriv");
    let built = Path::new(env!("CARGO_BIN_EXE_skd"));
    let target = built.ancestors().nth(2).expect("target/debug");
    let all = target.join("root-directories");
    fs::create_dir_all(&all).expect("target/root-directories");
    let lock = File::create(all.join(".lock")).expect("a lock file");
    // Others wait, in this process and in others.
    let lock = Flock::lock(lock, FlockArg::LockExclusive);
    let _lock = lock.unwrap_or_else(|(_, errno)| panic!("flock: {errno}"));
    let base = all.join(release);
    make(&base, |new| {
        // debootstrap copies the name of this machine.
        let line = r#"
            debootstrap --variant=minbase "$1" "$2" "$3"
            echo debian > "$2/etc/hostname"
        "#;
        let mut debootstrap = Command::new("sh");
        debootstrap.args(["-ec", line, "sh", release]);
        debootstrap.arg(new).arg(mirror());
        debootstrap
    });
    if packages.is_empty() {
        return base;
    }
    let name = [&[release], packages].concat().join("+");
    let directory = all.join(name);
    make(&directory, |new| {
        // Services of the packages aren't started: no policy-rc.d(8) is left behind.
        let line = r#"
            base=$1 new=$2; shift 2
            cp -a "$base" "$new"
            cd "$new"
            mount -t proc proc proc
            printf '#!/bin/sh\nexit 101\n' > usr/sbin/policy-rc.d
            chmod 755 usr/sbin/policy-rc.d
            export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
            chroot . apt-get update --quiet --quiet
            chroot . apt-get install --quiet --yes --no-install-recommends "$@"
            chroot . apt-get clean
            rm usr/sbin/policy-rc.d
        "#;
        let mut install = Command::new("sh");
        install.args(["-ec", line, "sh"]);
        install.args([&base, new]).args(packages);
        install
    });
    directory
}

/// Makes a directory by a command, which makes it under another name first. The command has mounts of its own.
#[track_caller]
fn make(directory: &Path, command: impl FnOnce(&Path) -> Command) {
    if directory.is_dir() {
        return;
    }
    let new = directory.with_extension("new");
    if new.exists() {
        fs::remove_dir_all(&new).expect("what an interrupted test has left");
    }
    let command = command(&new);
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null())
        .output()
        .expect("unshare(1)");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    fs::rename(&new, directory).expect("the directory has its name");
}

/// Makes a control group of the second version below that of the tests, for systemd to make its own in.
#[track_caller]
fn new_cgroup() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let mut mounts = mounts.lines().filter(|line| line.contains(" - cgroup2 "));
    let mount = mounts.find_map(|line| line.split(' ').nth(4));
    let mount = mount.expect("a mount of cgroup2, without which systemd can't be tried");
    let groups = fs::read_to_string("/proc/self/cgroup").expect("cgroup");
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"));
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("skd-tests-{}-{number}", std::process::id());
    let path = Path::new(mount).join(own.unwrap_or_default()).join(name);
    fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    path
}

/// Removes a control group with those in it, as far as no process is left in them.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(path);
}

#[test]
#[ignore = "needs root and debootstrap: make -C packaging check"]
fn copies_are_thrown_away_and_reap_daemons() {
    let debian = RootDirectory::new(&[]);
    debian.write("/etc/mark", "here");
    assert_eq!(debian.shell("cat /etc/mark; echo $$ > /run/shell"), "here");
    assert!(!RootDirectory::new(&[]).path("/etc/mark").exists());
    // A daemon that has ended is no process any more: start-stop-daemon(8) waits for that.
    let daemon = "start-stop-daemon --background --make-pidfile --pidfile /run/it --start --exec /bin/sleep -- 1000";
    debian.shell(daemon);
    debian.shell("start-stop-daemon --stop --pidfile /run/it --retry 20");
    let init = debian.init;
    drop(debian);
    assert!(!exists(init));
}

#[test]
#[ignore = "needs root and debootstrap: make -C packaging check"]
fn systemd_boots_in_a_copy() {
    let debian = RootDirectory::boot(&[]);
    assert_eq!(
        debian.shell("cat /proc/1/comm; hostname"),
        "systemd\ndebian\n"
    );
    let cgroup = debian.cgroup.clone().unwrap();
    assert!(cgroup.join("system.slice").exists());
    drop(debian);
    assert!(!cgroup.exists());
}
