//! Mounts and networks of a test's own; see namespaces(7).

use super::Directory;
use super::prepare::{Preparation, prepare};
use nix::sched::{CloneFlags, setns, unshare};
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

/// A mount namespace whose mounts don't show outside, and a network namespace with nothing but a loopback
/// interface (127.0.0.1 and ::1, up). They end with the value and the programs inside.
///
/// Root makes them as they are; another user gets a user namespace around them, in which that user is root
/// and there is no other user.
#[derive(Debug)]
pub struct Namespace {
    /// Keeps the namespaces open; reads from a pipe of ours, so that it ends when we do.
    holder: Child,
    spaces: Spaces,
    files: Directory,
}

/// Handles of the namespaces, for starting processes there.
#[derive(Clone, Debug)]
pub(super) struct Spaces {
    pid: i32,
    user: bool,
    descriptors: Arc<Vec<OwnedFd>>,
}

impl Namespace {
    #[track_caller]
    pub fn new() -> Self {
        super::requires_command("unshare");
        super::requires_command("ip");
        let user = !nix::unistd::geteuid().is_root();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net", "--propagation", "private"]);
        if user {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sh", "-c", "ip link set lo up && echo ready && exec cat"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        prepare(&mut command, Preparation::default());
        let mut holder = command.spawn().expect("unshare(1)");
        let mut line = String::new();
        let output = holder.stdout.take().expect("a pipe");
        BufReader::new(output)
            .read_line(&mut line)
            .expect("reading a line");
        if line != "ready\n" {
            drop(holder.stdin.take());
            let status = holder.wait();
            panic!("namespaces can't be made here: unshare ended with {status:?}");
        }
        let pid = i32::try_from(holder.id()).expect("a process id");
        let kinds: &[&str] = if user {
            &["user", "mnt", "net"]
        } else {
            &["mnt", "net"]
        };
        let open = |kind: &&str| {
            let path = format!("/proc/{pid}/ns/{kind}");
            OwnedFd::from(File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}")))
        };
        let descriptors = Arc::new(kinds.iter().map(open).collect());
        let spaces = Spaces {
            pid,
            user,
            descriptors,
        };
        Self {
            holder,
            spaces,
            files: Directory::public(),
        }
    }

    pub(super) fn spaces(&self) -> Spaces {
        self.spaces.clone()
    }

    /// The command prefix that runs another command inside. Its working directory is kept.
    pub fn prefix(&self) -> Vec<String> {
        let pid = self.spaces.pid.to_string();
        let mut words = vec!["nsenter", "--target", &pid, "--mount", "--net", "--wd=."];
        if self.spaces.user {
            words.extend(["--user", "--preserve-credentials"]);
        }
        words.push("--");
        words.into_iter().map(str::to_owned).collect()
    }

    /// A command that will run inside, in the working directory of the tests.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let directory = std::env::current_dir().expect("a working directory");
        let preparation = Preparation {
            namespaces: Some(self.spaces.descriptors()),
            directory: Some(CString::new(directory.as_os_str().as_bytes()).expect("no NUL")),
            ..Preparation::default()
        };
        prepare(&mut command, preparation);
        command
    }

    /// Runs a command inside and returns its stdout; panics unless it ends with 0.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> String {
        let words: Vec<OsString> = words.into_iter().map(|it| it.as_ref().to_owned()).collect();
        let (program, args) = words.split_first().expect("a command");
        let output = self
            .command(program)
            .args(args)
            .stdin(Stdio::null())
            .output();
        let output = output.unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let status = output.status;
        assert!(
            status.success(),
            "{words:?}: {status}: {}",
            text(&output.stderr)
        );
        text(&output.stdout)
    }

    /// The same for a line of shell.
    #[track_caller]
    pub fn shell(&self, line: &str) -> String {
        self.run(["sh", "-ec", line])
    }

    /// Runs `body` in a thread inside, with all that it starts and binds. Root only: no thread of a process with
    /// several can enter another user namespace. Numbers and files of the test's own directory are the same.
    #[track_caller]
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.spaces.enter(true, body)
    }

    /// The path of an inside file from outside: for reading files, and for binding sockets there.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.spaces.path(inside.as_ref())
    }

    /// Mounts an empty tmpfs on a directory that exists.
    #[track_caller]
    pub fn tmpfs(&self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        self.run(
            ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs"]
                .map(OsStr::new)
                .into_iter()
                .chain([path.as_os_str()]),
        );
    }

    /// Replaces /dev by one with null, zero, full, random, urandom, tty, ptmx, pts, shm, fd and the standard streams,
    /// and without a log: room for a [`super::Syslog`] at `path("/dev/log")`.
    #[track_caller]
    pub fn private_dev(&self) {
        // Bound rather than made: in a user namespace, device nodes can't be.
        let line = r#"
            mkdir -p "$1"
            mount -t tmpfs -o mode=755 tmpfs "$1"
            for node in null zero full random urandom tty; do
                : > "$1/$node"
                mount --bind "/dev/$node" "$1/$node"
            done
            for directory in pts shm; do
                mkdir "$1/$directory"
                if [ -d "/dev/$directory" ]; then mount --rbind "/dev/$directory" "$1/$directory"; fi
            done
            ln -s pts/ptmx "$1/ptmx"
            ln -s /proc/self/fd "$1/fd"
            ln -s /proc/self/fd/0 "$1/stdin"
            ln -s /proc/self/fd/1 "$1/stdout"
            ln -s /proc/self/fd/2 "$1/stderr"
            mount --rbind "$1" /dev
        "#;
        let target = self.files.name("dev");
        self.run(["sh", "-ec", line, "sh", &target]);
    }

    /// Gives a file other contents inside (/etc/hosts, /etc/services, /etc/passwd). It has to exist.
    #[track_caller]
    pub fn replace_file(&self, path: &str, contents: &str) {
        let copy = self.files.write(&path.replace('/', "_"), contents);
        let words = [
            "mount".as_ref(),
            "--bind".as_ref(),
            copy.as_os_str(),
            path.as_ref(),
        ];
        self.run(words);
    }

    /// Adds an address to the loopback interface, as in `10.1.2.3/8` or `fd00::1/64`, ready for use.
    #[track_caller]
    pub fn add_address(&self, address: &str) {
        let mut words = vec!["ip", "address", "add", address, "dev", "lo"];
        if address.contains(':') {
            // Otherwise the address can't be bound until duplicate address detection has ended.
            words.push("nodad");
        }
        self.run(words);
        if let Some((ip, _)) = address.split_once('/').filter(|(ip, _)| ip.contains(':')) {
            let route = format!("local {ip} ");
            // The kernel leaves that to another of its threads.
            super::wait_until("there is a route to the address", || {
                let routes = self.run(["ip", "-6", "route", "show", "table", "local"]);
                routes.lines().any(|line| line.starts_with(&route))
            });
        }
    }

    /// Sets a kernel parameter of the network, as in `("net.ipv6.conf.all.disable_ipv6", "1")`.
    #[track_caller]
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.run(["sh", "-ec", "echo \"$1\" > \"$2\"", "sh", value, &path]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Spaces {
    pub fn descriptors(&self) -> Arc<Vec<OwnedFd>> {
        Arc::clone(&self.descriptors)
    }

    pub fn path(&self, inside: &Path) -> PathBuf {
        let inside = inside.strip_prefix("/").expect("an absolute path");
        Path::new(&format!("/proc/{}/root", self.pid)).join(inside)
    }

    /// Only the network: paths keep their meaning.
    #[track_caller]
    pub fn enter_network<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        self.enter(false, body)
    }

    #[track_caller]
    fn enter<T: Send>(&self, mounts: bool, body: impl FnOnce() -> T + Send) -> T {
        assert!(
            !self.user,
            "only root can enter a namespace with a thread; use command or run"
        );
        let here = std::env::current_dir().expect("a working directory");
        let result = thread::scope(|scope| {
            let inside = || {
                // The thread gets a working directory of its own, without which it can't change mounts.
                unshare(CloneFlags::CLONE_FS).expect("unshare(CLONE_FS)");
                let (mount, network) = (&self.descriptors[0], &self.descriptors[1]);
                if mounts {
                    setns(mount, CloneFlags::CLONE_NEWNS).expect("setns to a mount namespace");
                    nix::unistd::chdir(&here).expect("the working directory, inside");
                }
                setns(network, CloneFlags::CLONE_NEWNET).expect("setns to a network namespace");
                body()
            };
            // Named as the test, so that a panic says where it belongs.
            let name = thread::current().name().unwrap_or("test").to_owned();
            let thread = thread::Builder::new()
                .name(name)
                .spawn_scoped(scope, inside);
            thread.expect("a thread").join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
