//! What is to be escaped from: a skd with a sandbox, beside things of others.

use crate::harness::{
    Directory, Running, Skd, requires_commands, requires_root, try_talk, wait_for, wait_until,
};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const SOURCE: &str = concat!(
    include_str!("attempt.h"),
    include_str!("victim.c"),
    include_str!("network.c"),
    include_str!("neighbours.c"),
    include_str!("processes.c"),
    include_str!("files.c"),
    include_str!("kernel.c"),
    include_str!("main.c"),
);

/// The last line of each attempt.
const END: &str = "end: end";

/// How skd is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// By root, with --user.
    RootForUser,
    /// By root, without.
    Root,
    /// By another user.
    User,
    /// By root and without a sandbox: to see that the attempts work where nothing is in their way.
    Plain,
}

impl Start {
    /// The user of handlers, outside.
    pub fn handler(self) -> u32 {
        match self {
            Self::RootForUser => 61246,
            Self::Root => 65534,
            Self::User => 61247,
            Self::Plain => 0,
        }
    }

    pub fn has_sandbox(self) -> bool {
        self != Self::Plain
    }
}

/// A skd, a process of the host, and a handler of another connection.
pub struct Scene {
    pub start: Start,
    pub skd: Running,
    _directory: Directory,
    pub mark: String,
    context: String,
    _host: Victim,
    _neighbour: Option<TcpStream>,
}

/// A process that has something of each kind.
struct Victim(Child, Option<ChildStdin>);

impl Drop for Victim {
    fn drop(&mut self) {
        // It removes what would outlive it.
        drop(self.1.take());
        let _ = self.0.wait();
    }
}

/// Names of things of a victim are the machine's: those of each are its own.
fn new_id() -> (String, u32) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    (format!("v{pid:x}-{count}"), 0x5e00_0000 + pid * 16 + count)
}

/// The directory with the programs of attempts in `shown`.
pub fn programs(owner: u32) -> Directory {
    requires_root();
    requires_commands(&["cc", "python3", "setpriv", "perl"]);
    let directory = Directory::public();
    for (name, mode) in [("shown", 0o755), ("shared", 0o777), ("place", 0o777)] {
        fs::create_dir(directory.join(name)).unwrap();
        directory.chmod(name, mode);
    }
    // Once for all scenes of a run.
    static PROGRAM: LazyLock<Vec<u8>> =
        LazyLock::new(|| fs::read(Directory::new().compile("attempts", SOURCE)).unwrap());
    let program = directory.write("attempts", &*PROGRAM);
    for (name, mode) in [
        ("attempts", "755"),
        ("set-user-id", "4755"),
        ("capable", "755"),
    ] {
        // Not by this process: a child of another test would keep the file open for writing.
        let install = Command::new("install")
            .args(["-m", mode, "--"])
            .arg(&program)
            .arg(directory.join("shown").join(name))
            .status();
        assert!(install.unwrap().success(), "install {name}");
    }
    directory.write("shown/attempts.sh", include_str!("attempts.sh"));
    directory.write("shown/attempts.py", include_str!("attempts.py"));
    directory.write("shown/target", "the user outside owns this\n");
    directory.write("host-file", "a file of the host\n");
    // What the user owns is kept from it by the mount alone.
    for name in ["shown/target", "shown"] {
        chown(directory.join(name), Some(owner), Some(owner)).unwrap();
    }
    // CAP_SYS_ADMIN and CAP_SETUID, effective at once: `struct vfs_cap_data` of version 2.
    let set = "import os, struct, sys; \
               os.setxattr(sys.argv[1], 'security.capability', struct.pack('<IIIII', 0x2000001, 0x200080, 0, 0, 0))";
    let status = Command::new("/usr/bin/python3")
        .args(["-SEc", set])
        .arg(directory.join("shown/capable"))
        .status();
    assert!(status.unwrap().success(), "setting file capabilities");
    directory
}

impl Scene {
    pub fn new(start: Start, options: &[&str]) -> Self {
        let owner = start.handler();
        let directory = programs(owner);
        let (host_id, host_key) = new_id();
        let host = format!(
            "victim ID={host_id} KEY={host_key} PLACE={}\n",
            directory.name("place")
        );
        let mut child = Command::new(directory.join("shown/attempts"))
            .uid(owner)
            .gid(owner)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process of the host");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(host.as_bytes()).unwrap();
        let stdout = child.stdout.take().unwrap();
        let victim = Victim(child, Some(stdin));
        let mut context = things(stdout, "HOST");
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        let _ = write!(
            context,
            " HOST_ID={host_id} HOST_KEY={host_key} HOST_NAME={} HOST_FILE={}",
            name.trim(),
            directory.name("host-file")
        );

        let (prog, shared) = if start.has_sandbox() {
            ("/ways/attempts".to_owned(), "/shared".to_owned())
        } else {
            (directory.name("shown/attempts"), directory.name("shared"))
        };
        let mut skd = Skd::new(["-v", "-t", "127.0.0.1:0"])
            .args(options)
            .env("PATH", "/usr/bin:/bin")
            .throttle(Duration::ZERO);
        if start.has_sandbox() {
            let shown = format!("{}:/ways", directory.name("shown"));
            let writable = format!("{}:/shared", directory.name("shared"));
            skd = skd.args(["--sandbox", "--ro", &shown, "--rw", &writable]);
        } else {
            skd = skd.wrapper(["unshare", "--mount", "--propagation", "private"]);
        }
        match start {
            Start::RootForUser => {
                skd = skd.args(["--user", &format!("{owner}:{owner}")]);
            }
            Start::User => skd = skd.user(owner, owner, []),
            Start::Root | Start::Plain => (),
        }
        let skd = skd.run(prog);
        let (id, key) = new_id();
        let mut neighbour = skd.connect();
        writeln!(neighbour, "victim ID={id} KEY={key}").unwrap();
        context += &things(neighbour.try_clone().unwrap(), "NEIGHBOUR");
        let outside = wait_for("the neighbour's number outside", || with_name(&id).pop());
        let (mark, _) = new_id();
        let _ = write!(
            context,
            " NEIGHBOUR_ID={id} NEIGHBOUR_KEY={key} NEIGHBOUR_HOST_PID={outside} SKD_PID={} SKD_PORT={} \
             SHARED={shared} ID={mark} MARK={mark} NAMES={}",
            skd.pid(),
            skd.port(),
            if start.has_sandbox() { 70_000 } else { 1_000 }
        );
        Self {
            start,
            skd,
            _directory: directory,
            mark,
            context,
            _host: victim,
            _neighbour: Some(neighbour),
        }
    }

    /// The line that asks for an attempt.
    pub fn request(&self, name: &str) -> String {
        format!("{name}{}\n", self.context)
    }

    /// Makes an attempt, and returns its tries with what each has met.
    pub fn attempt(&self, name: &str) -> Vec<(String, String)> {
        let mut stream = self.skd.connect();
        stream.write_all(self.request(name).as_bytes()).unwrap();
        let mut text = String::new();
        let mut lines = BufReader::new(stream).lines();
        // Some attempts end the connection.
        while let Some(Ok(line)) = lines.next() {
            text = text + &line + "\n";
            if line == END {
                break;
            }
        }
        if self.start.has_sandbox() {
            // A process that has kept the connection has ended, too.
            let more = lines.next();
            assert!(!matches!(more, Some(Ok(_))), "{more:?} after the end");
            let late = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
            assert!(
                !matches!(&more, Some(Err(error)) if late(error)),
                "the connection is kept"
            );
        }
        let prefix = format!("attempt {name}: ");
        if text.is_empty() {
            self.skd.wait_for_log(&format!("{prefix}{END}"));
            for line in self.skd.logged(&prefix) {
                let (_, rest) = line.split_once(&prefix).unwrap();
                text = text + rest + "\n";
            }
        }
        let mut tries: Vec<_> = text
            .lines()
            .map(|line| {
                let (what, met) = line.rsplit_once(": ").unwrap_or((line, ""));
                (what.to_owned(), met.to_owned())
            })
            .collect();
        assert!(
            text.ends_with("end: end\n") && tries.pop().is_some(),
            "{name} ended early: {text:?}\n{}",
            self.skd.log_lines().join("\n")
        );
        tries
    }

    /// An honest client is served, by the same skd, and no other process was harmed.
    #[track_caller]
    pub fn assert_served(&self) {
        wait_until("an honest client is served", || {
            try_talk(self.skd.connect(), b"echo\n")
                .is_ok_and(|answer| answer == b"echo: served\nend: end\n")
        });
    }

    /// The processes that an attempt has left.
    pub fn left(&self) -> Vec<i32> {
        with_name(&self.mark)
    }
}

/// What a victim says of its things, as a part of a context.
fn things(stream: impl Read, prefix: &str) -> String {
    let mut context = String::new();
    for line in BufReader::new(stream).lines() {
        let line = line.expect("the things of a victim");
        if line == "ready" {
            return context;
        }
        let _ = write!(context, " {prefix}_{line}");
    }
    panic!("no victim of {prefix}: {context}");
}

/// The processes of the machine with this name, or with a word in their command lines that is it.
pub fn with_name(name: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let read = |what: &str| fs::read(entry.path().join(what)).unwrap_or_default();
        let is_name = read("comm").trim_ascii_end() == name.as_bytes();
        if is_name
            || read("cmdline")
                .split(|byte| *byte == 0)
                .any(|word| word == name.as_bytes())
        {
            found.push(pid);
        }
    }
    found
}
