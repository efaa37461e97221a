//! Starts, without faults and with a call that fails.

use super::on_each;
use super::table::Phase::{
    Ending, Newborn, Receiving, Relaying, Relighting, Reopening, Serving, Start, Supervising,
};
use super::table::Then::{Refused, Serves};
use super::table::{NEEDLESS, Phase, Row, TABLE, Then, rows};
use crate::harness::{
    Directory, EPOLL_WAIT, Namespace, POLL, Running, Skd, Syslog, capabilities, children, command,
    connect_unix, exists, ids, is_in_call, is_zombie, machine, polls_without_limit, relays,
    requires_command, requires_root, send_unix_datagram, talk, threads, wait_for, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::panic::resume_unwind;
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::Duration;

/// The directories, network and system log that all settings share.
pub(super) struct Stage {
    /// A root directory with cat and sleep.
    root: Directory,
    namespace: Namespace,
    pub(super) syslog: Syslog,
    /// A certificate, and a program in the place of skd-tls.
    tls: Directory,
}

/// A program in the place of skd-tls: it makes no call that skd makes, but for `recvmsg`, and tries that again. It sends
/// a byte to each client.
const TLS_SERVER: &str = r#"
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

static int first = -1;

static ssize_t receive(int socket, char *text, size_t length) {
    char control[CMSG_SPACE(2 * sizeof(int))];
    struct iovec part = {text, length - 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = recvmsg(socket, &message, MSG_DONTWAIT);
    struct cmsghdr *rights = got > 0 ? CMSG_FIRSTHDR(&message) : 0;
    text[got > 0 ? got : 0] = 0;
    if (rights)
        memcpy(&first, CMSG_DATA(rights), sizeof first);
    return got;
}

static void say(int socket, const char *text) {
    for (int tries = 0; tries < 3 && send(socket, text, strlen(text), MSG_NOSIGNAL) < 0; tries++)
        ;
}

int main(void) {
    static char text[4096];
    int requests = -1;
    for (;;) {
        struct timespec pause = {0, 1000000};
        nanosleep(&pause, 0);
        ssize_t got = receive(0, text, sizeof text);
        if (got == 0 || strstr(text, "\"stop\""))
            return 0;
        if (strstr(text, "\"start\"")) {
            requests = first;
            say(0, "{\"is\":\"started\",\"lacks\":[]}");
        }
        if (strstr(text, "\"load\""))
            say(0, "{\"is\":\"loaded\"}");
        if (requests >= 0 && receive(requests, text, sizeof text) > 0)
            say(first, "k");
    }
}
"#;

impl Stage {
    pub(super) fn new() -> Self {
        requires_root();
        requires_command("strace");
        requires_command("busybox");
        let root = Directory::public();
        root.install(&["/bin/busybox"]);
        for name in ["cat", "sleep"] {
            symlink("busybox", root.join(format!("bin/{name}"))).unwrap();
        }
        let (namespace, syslog) = machine();
        let tls = Directory::new();
        tls.compile("server", TLS_SERVER);
        // That program doesn't look into it.
        tls.write("certificate", "");
        tls.chmod("certificate", 0o600);
        Self {
            root,
            namespace,
            syslog,
            tls,
        }
    }

    /// Logs to the system log of this namespace.
    pub(super) fn logging(&self, skd: Skd, directory: &Directory) -> Skd {
        skd.args(["-L", &tag(directory)]).inside(&self.namespace)
    }
}

/// The tag of the lines of a run in the system log.
pub(super) fn tag(directory: &Directory) -> String {
    let name = directory.path().file_name().unwrap();
    name.to_str().unwrap().to_owned()
}

pub(super) const NOBODY: u32 = 65_534;

/// A command line whose start is tested.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Setting {
    /// Just a port.
    Plain,
    /// All options that make further calls.
    Foreground,
    /// The same, with root dropped.
    Dropping,
    /// The same in the background.
    Background,
    /// The same in another root directory.
    Rooted,
    /// Datagrams, with root dropped, here and in all settings below.
    Datagrams,
    /// The log is the system log.
    Syslog,
    /// A program that is supervised.
    Supervised,
    /// A program that skd executes in its own process.
    InPlace,
    /// The same in the background.
    InPlaceBackground,
    /// A port with TLS.
    Tls,
}

use Setting::{Datagrams, InPlace, InPlaceBackground, Plain, Supervised};

const SETTINGS: [Setting; 11] = [
    Plain,
    Setting::Foreground,
    Setting::Dropping,
    Setting::Background,
    Setting::Rooted,
    Datagrams,
    Setting::Syslog,
    Supervised,
    InPlace,
    InPlaceBackground,
    Setting::Tls,
];

impl Setting {
    fn start(self, stage: &Stage, directory: &Directory, wrapper: Vec<String>) -> Running {
        let skd = match self {
            Plain => Skd::new(["-t", "127.0.0.1:0"]),
            Self::Tls => {
                let (certificate, server) =
                    (stage.tls.name("certificate"), stage.tls.name("server"));
                let words = ["--threads", "1", "-t", "127.0.0.1:0", "--tls", &certificate];
                Skd::new(words).args(["--tls-program", &server])
            }
            Self::Foreground => Skd::new(streams(directory)),
            Self::Dropping => Skd::new(streams(directory)).arg("-U"),
            Self::Background => Skd::new(streams(directory)).args(["-U", "-B"]),
            Self::Rooted => {
                let root = stage.root.path();
                Skd::new(streams(directory))
                    .args(["-U", "--chroot"])
                    .arg(root)
            }
            Datagrams => Skd::new(datagrams(directory)).arg("-U"),
            Self::Syslog => {
                let socket = directory.name("socket");
                let skd = Skd::new([
                    "-vvU",
                    "--threads",
                    "1",
                    "--unix-mode",
                    "666",
                    "-l",
                    &socket,
                ]);
                stage.logging(skd, directory)
            }
            Supervised => Skd::new(program(directory)).arg("-US"),
            InPlace => Skd::new(program(directory)).arg("-U"),
            InPlaceBackground => Skd::new(program(directory)).args(["-U", "-B"]),
        };
        let skd = match self {
            Plain => skd,
            _ => skd.args(["-P", &directory.name("pid")]),
        };
        let skd = skd
            .env("UID", NOBODY.to_string())
            .env("GID", NOBODY.to_string())
            .env_remove("ROOT")
            // PATH of the tests may name directories that are closed to others.
            .env("PATH", "/bin:/usr/bin")
            .wrapper(wrapper);
        match self.mode() {
            Mode::Streams => skd.start("cat"),
            _ => skd.start_with(SLEEPER[0], &SLEEPER[1..]),
        }
    }

    fn mode(self) -> Mode {
        match self {
            Datagrams => Mode::Datagrams,
            Supervised => Mode::Supervised,
            InPlace | InPlaceBackground => Mode::InPlace,
            _ => Mode::Streams,
        }
    }

    fn drops(self) -> bool {
        !matches!(self, Plain | Self::Foreground | Self::Tls)
    }

    /// Ends what has been started, and asserts an orderly end.
    fn end(self, skd: &Running, directory: &Directory) {
        let service = service(skd, directory);
        kill(Pid::from_raw(service), Signal::SIGTERM).unwrap();
        let status = skd.wait();
        match self {
            // The status of its program.
            Supervised => assert_eq!(status.code(), Some(128 + Signal::SIGTERM as i32)),
            InPlace => assert_eq!(status.signal(), Some(Signal::SIGTERM as i32)),
            _ => assert_eq!(status.code(), Some(0)),
        }
        // A program in place knows nothing of these files.
        let left = if self.mode() == Mode::InPlace {
            format!("{service}\n")
        } else {
            String::new()
        };
        assert_eq!(directory.read("pid"), left);
    }
}

/// A way of running.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Mode {
    Streams,
    Datagrams,
    Supervised,
    InPlace,
}

/// A program that leaves datagrams unread, and stays.
pub(super) const SLEEPER: [&str; 2] = ["sleep", "1000"];

/// Options with which skd makes more calls, at the start and for a connection.
pub(super) fn streams(directory: &Directory) -> Vec<String> {
    let socket = directory.name("socket");
    let words = ["--threads", "1", "-t", "0.0.0.0:0", "-l", &socket];
    listening(&words, directory)
}

/// The same for datagrams.
pub(super) fn datagrams(directory: &Directory) -> Vec<String> {
    let socket = directory.name("socket");
    listening(&["-u", "127.0.0.1:0", "-d", "-l", &socket], directory)
}

fn listening(words: &[&str], directory: &Directory) -> Vec<String> {
    let words = words.iter().chain(&["--unix-mode", "666"]);
    let words = words.map(|word| (*word).to_owned());
    words.chain(program(directory)).collect()
}

/// The same without a listener.
pub(super) fn program(directory: &Directory) -> Vec<String> {
    let log = format!(">{}", directory.name("log"));
    let words = ["-vv", "-L", &log, "--chdir", "/", "--umask", "22"];
    let rest = ["--nice", "19", "--limit", "core=0:0", "--no-new-privs"];
    let all = words.into_iter().chain(rest);
    all.map(str::to_owned).collect()
}

/// The process that serves.
fn service(skd: &Running, directory: &Directory) -> i32 {
    directory.read("pid").trim().parse().unwrap_or(skd.pid())
}

/// Whether a process has become the program.
pub(super) fn sleeps(pid: i32) -> bool {
    command(pid) == SLEEPER
}

/// Waits until a start serves its first client, and returns that client, or runs its program; `None` if skd has
/// ended before.
fn first_client(setting: Setting, skd: &Running, directory: &Directory) -> Option<Client> {
    let mut waiting = None;
    wait_for("the end of the start, or a served client", || {
        if skd.try_wait(Duration::ZERO).is_some() {
            return Some(None);
        }
        if waiting.is_none() {
            waiting = Client::of(setting, skd, directory);
        }
        match waiting.as_mut()?.is_served(setting, skd, directory) {
            Ok(true) => Some(waiting.take()),
            Ok(false) => None,
            // The start has failed with this client in the backlog.
            Err(_) => {
                waiting = None;
                None
            }
        }
    })
}

enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
    Other,
}

impl Client {
    fn of(setting: Setting, skd: &Running, directory: &Directory) -> Option<Self> {
        if matches!(setting.mode(), Mode::Supervised | Mode::InPlace) {
            return Some(Self::Other);
        }
        if setting == Setting::Syslog {
            let mut stream = UnixStream::connect(directory.join("socket")).ok()?;
            stream.set_nonblocking(true).unwrap();
            stream.write_all(b"k").ok()?;
            return Some(Self::Unix(stream));
        }
        let port: u16 = skd.stdout_lines().first()?.parse().expect("a port");
        assert_ne!(port, 0, "no port was left to the kernel");
        let address = (Ipv4Addr::LOCALHOST, port);
        if setting == Datagrams {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.send_to(b"k", address).ok()?;
            return Some(Self::Other);
        }
        let mut stream = TcpStream::connect(address).ok()?;
        stream.set_nonblocking(true).unwrap();
        stream.write_all(b"k").ok()?;
        Some(Self::Tcp(stream))
    }

    /// Fails for a client that will never be served.
    fn is_served(
        &mut self,
        setting: Setting,
        skd: &Running,
        directory: &Directory,
    ) -> io::Result<bool> {
        let read = match self {
            Self::Tcp(stream) => stream.read(&mut [0]),
            Self::Unix(stream) => stream.read(&mut [0]),
            Self::Other => {
                let service = service(skd, directory);
                return Ok(match setting.mode() {
                    Mode::InPlace => sleeps(service),
                    // The program runs before the end of the start is told. If that fails, it may still run while
                    // skd waits for the relay to write the last lines: with a time limit.
                    Mode::Supervised => {
                        children(service).into_iter().any(sleeps) && polls_without_limit(service)
                    }
                    _ => children(service).into_iter().any(sleeps),
                });
            }
        };
        match read {
            Ok(1) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Ok(_) => Err(ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(error),
        }
    }
}

/// Asserts that skd, its live handlers or its program, and its relay run as user nobody.
fn expect_all_nobody(setting: Setting, skd: &Running, directory: &Directory) {
    let service = service(skd, directory);
    expect_nobody(service);
    if setting == Supervised {
        // The launcher of the start may still be there, and the program may not be there yet.
        skd.wait_until("the program is the only live child", || {
            let children = children(service);
            let ended = |&pid: &i32| is_zombie(pid) || sleeps(pid);
            children.iter().all(ended) && children.into_iter().any(sleeps)
        });
    }
    if setting.mode() != Mode::InPlace {
        expect_children_nobody(service);
    }
    if setting == Setting::Syslog {
        // The relay may only just have been started.
        skd.wait_until("its relay is root without capabilities", || {
            relays(skd)
                .into_iter()
                .all(|pid| ids(pid).0 == [0; 4] && capabilities(pid, "CapPrm") == 0)
        });
    }
}

/// Waits until there is a live handler, and asserts that each of them runs as user nobody.
pub(super) fn expect_children_nobody(service: i32) {
    let mut handlers = Vec::new();
    wait_until("there is a live handler", || {
        handlers = children(service);
        handlers.retain(|&pid| exists(pid));
        !handlers.is_empty()
    });
    handlers.into_iter().for_each(expect_nobody);
}

/// The ids of user nobody, in the form of [`ids`].
fn nobody() -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    (vec![NOBODY; 4], vec![NOBODY; 4], vec![NOBODY])
}

fn expect_nobody(pid: i32) {
    assert_eq!(ids(pid), nobody(), "{pid}");
    assert_eq!(capabilities(pid, "CapEff"), 0, "{pid}");
    assert_eq!(capabilities(pid, "CapPrm"), 0, "{pid}");
}

/// A call in the output of strace.
#[derive(Debug)]
struct Call {
    thread: i32,
    name: String,
    text: String,
}

impl Call {
    /// Whether it can't fail: it is an assertion about a descriptor before its close.
    fn is_safe(&self) -> bool {
        self.text.contains("F_GETFD")
    }

    /// Its arguments without what differs from run to run: numbers, addresses, names of temporary directories.
    fn likeness(&self) -> String {
        let mut like = String::new();
        let arguments = self.text.split(" = ").next().unwrap_or_default();
        for part in arguments.replace("0x", "skd-").split("skd-") {
            let part = part.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric());
            for letter in part.chars() {
                let letter = if letter.is_ascii_digit() { '#' } else { letter };
                if letter != '#' || !like.ends_with('#') {
                    like.push(letter);
                }
            }
        }
        like
    }
}

/// The calls of skd and of its children up to their exec, as they begin.
fn calls(trace: &str) -> Vec<Call> {
    let mut found: Vec<Call> = Vec::new();
    let mut others = HashSet::new();
    for line in trace.lines() {
        let (thread, text) = line.split_once(' ').expect("a thread and a call");
        let (thread, text) = (thread.parse().expect("a number"), text.trim_start());
        if others.contains(&thread) {
            continue;
        }
        let resumed = text.strip_prefix("<... ");
        let name: String = resumed
            .unwrap_or(text)
            .chars()
            .take_while(|&letter| letter.is_ascii_alphanumeric() || letter == '_')
            .collect();
        // The first of all is that of skd itself.
        if name.starts_with("execve") && text.ends_with("= 0") && !found.is_empty() {
            others.insert(thread);
        }
        if resumed.is_none() && !name.is_empty() {
            let text = text.to_owned();
            found.push(Call { thread, name, text });
        }
    }
    found
}

/// A run without faults: all calls, and the positions at which skd's own calls, serving and ending begin.
#[derive(Debug)]
struct Record {
    setting: Setting,
    calls: Vec<Call>,
    begin: usize,
    serving: usize,
    ending: usize,
    /// The thread that serves.
    service: i32,
    /// The relays to syslog.
    relays: BTreeSet<i32>,
}

fn record(setting: Setting, stage: &Stage) -> Record {
    let (own, directory) = (Directory::new(), Directory::public());
    let strace = ["strace", "-f", "-qq", "-o", &own.name("trace")].map(str::to_owned);
    let skd = setting.start(stage, &directory, strace.to_vec());
    let client = first_client(setting, &skd, &directory);
    drop(client.expect("a served client"));
    exercise(setting, stage, &skd, &directory);
    setting.end(&skd, &directory);
    Record::new(setting, &own.read("trace"))
}

/// Makes everything happen that may happen while skd serves.
fn exercise(setting: Setting, stage: &Stage, skd: &Running, directory: &Directory) {
    let service = service(skd, directory);
    let send = |pid: i32, signal: Signal| {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid), signal);
    };
    match setting.mode() {
        Mode::InPlace => return,
        Mode::Streams => {
            if ![Setting::Syslog, Setting::Tls].contains(&setting) {
                assert_eq!(talk(skd.connect(), b"tcp"), b"tcp");
            }
            if ![Plain, Setting::Tls].contains(&setting) {
                let stream = connect_unix(directory.join("socket"));
                assert_eq!(talk(stream, b"unix"), b"unix");
            }
        }
        Mode::Datagrams => {
            // No process reads it, nor the one before.
            send_unix_datagram(directory.join("socket"), b"unix");
            skd.wait_until("both are read away", || {
                let handlers = children(service).into_iter().filter(|&pid| sleeps(pid));
                handlers.for_each(|pid| send(pid, Signal::SIGTERM));
                directory.read("log").matches("read away").count() == 2
            });
            // This one has a handler until the end.
            send_unix_datagram(directory.join("socket"), b"another");
        }
        Mode::Supervised => {
            send(service, Signal::SIGWINCH);
            let before = children(service);
            before.iter().for_each(|&pid| send(pid, Signal::SIGKILL));
            skd.wait_until("it is restarted", || {
                let now = children(service);
                now.iter().any(|&pid| sleeps(pid) && !before.contains(&pid))
            });
        }
    }
    if setting == Setting::Syslog {
        let began = |count| {
            let lines = stage.syslog.logged(&format!("{}: ", tag(directory)));
            lines
                .iter()
                .filter(|line| line.contains("started again"))
                .count()
                == count
        };
        assert!(began(0));
        relays(skd)
            .into_iter()
            .for_each(|pid| send(pid, Signal::SIGKILL));
        skd.wait_until("there is another relay", || began(1));
    } else if ![Plain, Setting::Tls].contains(&setting) {
        fs::rename(directory.join("log"), directory.join("old")).unwrap();
        let before = children(service);
        send(service, Signal::SIGHUP);
        skd.wait_until("there is a new log, or skd may not create one", || {
            directory.join("log").exists() || directory.read("old").contains("opened again")
        });
        if setting == Supervised {
            // It is passed on, and ends the program.
            skd.wait_until("it is run once more", || {
                let now = children(service);
                now.iter().any(|&pid| sleeps(pid) && !before.contains(&pid))
            });
        }
    }
    let waits = |(thread, _): (i32, String)| {
        // The closer, and the thread that watches births, wait for a futex.
        [EPOLL_WAIT, POLL, libc::SYS_futex]
            .into_iter()
            .any(|call| is_in_call(thread, call))
    };
    let stays = matches!(setting.mode(), Mode::Datagrams | Mode::Supervised);
    skd.wait_until("all are reaped, and all threads wait", || {
        let mut children = children(service);
        // skd-tls stays as long as skd.
        children.retain(|pid| command(*pid).get(1).is_none_or(|word| word != "--serve"));
        let settled = match children[..] {
            [] => !stays,
            [program] => stays && sleeps(program),
            _ => false,
        };
        settled && threads(service).into_iter().all(waits)
    });
}

/// In the order of [`SETTINGS`].
fn records() -> &'static [Record] {
    static RECORDS: OnceLock<Vec<Record>> = OnceLock::new();
    RECORDS.get_or_init(|| {
        let stage = Stage::new();
        thread::scope(|scope| {
            let stage = &stage;
            let all = SETTINGS.map(|setting| scope.spawn(move || record(setting, stage)));
            let all = all.map(|thread| thread.join());
            all.map(|record| record.unwrap_or_else(|panic| resume_unwind(panic)))
                .into()
        })
    })
}

impl Record {
    fn new(setting: Setting, trace: &str) -> Self {
        let calls = calls(trace);
        let find = |what: &str, wanted: &dyn Fn(&Call) -> bool| {
            let found = calls.iter().position(wanted);
            found.unwrap_or_else(|| panic!("no {what} in {trace}"))
        };
        let begin = find("beginning", &|call| call.name == "rt_sigprocmask");
        let writer = calls.iter().find(|call| call.name == "pwrite64");
        // It has written its pid file.
        let writer = calls[begin..]
            .iter()
            .find(|call| call.name == "pwrite64")
            .or(writer);
        let service = match setting {
            Plain => calls[0].thread,
            _ => writer.expect("a pid file").thread,
        };
        let relays = match setting {
            Setting::Syslog => {
                // skd itself sends requests to it.
                let is_message = |text: &str| text.contains(", \"<");
                let sends = calls
                    .iter()
                    .filter(|call| call.name == "sendto" && is_message(&call.text));
                sends.map(|call| call.thread).collect()
            }
            _ => BTreeSet::new(),
        };
        let mut record = Self {
            setting,
            begin,
            serving: calls.len(),
            ending: calls.len(),
            service,
            relays,
            calls,
        };
        let own = |index: &usize| record.calls[*index].thread == service;
        if setting.mode() != Mode::InPlace {
            let mut all = begin..record.calls.len();
            let settled = |index: &usize| own(index) && record.is_settled(*index);
            let first = all.clone().find(settled).expect("serving");
            // When it comes back from its last wait.
            let waits = |index: &usize| {
                let name = record.calls[*index].name.as_str();
                own(index) && ["epoll_wait", "poll"].contains(&name)
            };
            let last = all.clone().rev().find(waits).expect("waiting for the end");
            let ending = all
                .find(|index| *index > last && own(index))
                .expect("an ending");
            (record.serving, record.ending) = (first, ending);
        }
        record
    }

    /// Whether the start of a thread ends there: it waits for work, or does it.
    fn is_settled(&self, index: usize) -> bool {
        let call = &self.calls[index];
        index >= self.begin
            && if self.relays.contains(&call.thread) {
                call.name == "sendto"
            } else if self.setting == Supervised {
                call.name == "write" && call.text.contains(", \"Started")
            } else {
                call.name == "epoll_wait"
            }
    }

    /// The calls of each phase. Calls of the main thread for a HUP, or for another relay, count as
    /// serving.
    fn phases(&self) -> BTreeSet<(Phase, &str)> {
        let all = self.calls.iter().enumerate().skip(self.begin);
        all.map(|(index, call)| {
            let phase = match index {
                _ if self.is_newborn(call.thread) => Newborn,
                _ if self.is_of_start(index) => Start,
                _ if self.relays.contains(&call.thread) => Relaying,
                _ if index >= self.ending => Ending,
                _ => match self.setting.mode() {
                    Mode::Datagrams => Receiving,
                    Mode::Supervised => Supervising,
                    Mode::Streams | Mode::InPlace => Serving,
                },
            };
            (phase, call.name.as_str())
        })
        .collect()
    }

    fn is_newborn(&self, thread: i32) -> bool {
        let execs = |call: &Call| call.thread == thread && call.name == "execve";
        ![self.calls[0].thread, self.service].contains(&thread) && self.calls.iter().any(execs)
    }

    /// The start of a thread ends when it waits, which may be when others serve already.
    fn is_of_start(&self, index: usize) -> bool {
        let thread = self.calls[index].thread;
        let mut all = 0..self.calls.len();
        match all.find(|&other| self.calls[other].thread == thread && self.is_settled(other)) {
            Some(wait) => index <= wait,
            // A thread that only helps to start does nothing else, however late.
            None => !self.is_newborn(thread) && (index < self.serving || thread != self.service),
        }
    }

    /// The calls of the start, each as a name and its number among those of that name in its thread. A call in the
    /// middle of a run of the same calls is left out. So are the loader's calls, and those before the point where
    /// the run differs from another.
    fn positions(&self, others: &[Self]) -> BTreeMap<(&str, usize), String> {
        let like = |other: &Self| {
            let pairs = self.calls.iter().zip(&other.calls);
            pairs.take_while(|(own, its)| own.name == its.name).count()
        };
        let known_to = others
            .iter()
            .map(like)
            .chain([self.begin])
            .max()
            .unwrap_or(0);
        let mut threads: BTreeMap<i32, Vec<&Call>> = BTreeMap::new();
        // The first of all, the exec of skd itself, is under way when strace begins to count.
        for (index, call) in self.calls.iter().enumerate().skip(1) {
            if self.is_of_start(index) {
                threads.entry(call.thread).or_default().push(call);
            }
        }
        // strace counts in each thread, so those would fail as well.
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        for call in &self.calls[1..known_to] {
            *known.entry(&call.name).or_default() += 1;
        }
        let mut positions: BTreeMap<_, String> = BTreeMap::new();
        for calls in threads.values() {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for (at, call) in calls.iter().enumerate() {
                let name = call.name.as_str();
                let count = counts.entry(name).or_default();
                *count += 1;
                let like = |other: usize| calls.get(other).is_some_and(|it| it.name == name);
                let midst = at > 0 && like(at - 1) && like(at + 1);
                if !midst && !call.is_safe() && *count > known.get(name).copied().unwrap_or(0) {
                    *positions.entry((name, *count)).or_default() += &call.likeness();
                }
            }
        }
        positions
    }
}

/// Whether a record reports one phase as another.
fn at_a_time(phase: Phase, told: Phase) -> bool {
    match phase {
        Reopening => matches!(told, Serving | Receiving | Supervising),
        Relighting => told == Serving,
        _ => false,
    }
}

#[test]
fn every_call_has_a_row_or_a_reason_for_having_none() {
    let needless: HashSet<&str> = NEEDLESS
        .iter()
        .flat_map(|(calls, _)| calls.split(' '))
        .collect();
    let mut missing = BTreeSet::new();
    for record in records() {
        for (phase, call) in record.phases() {
            let told = |row: &Row| {
                (row.phase == phase || at_a_time(row.phase, phase))
                    && row.calls().any(|name| name == call)
            };
            if !needless.contains(call) && !TABLE.iter().any(told) {
                missing.insert((phase, call));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "neither in TABLE nor in NEEDLESS: {missing:?}"
    );
}

/// The options of strace that make these calls fail, and log each exec.
pub(super) fn injection(calls: &str, errno: &str, when: &str) -> [String; 4] {
    // The kernel's brk never gives an errno but the break as it is, and the C library takes any
    // higher value for success: with an errno it would write beyond its heap.
    let how = match calls {
        "brk" => "retval=0".to_owned(),
        _ => format!("error={errno}"),
    };
    [
        "-e".to_owned(),
        format!("trace={calls},execve"),
        "-e".to_owned(),
        format!("inject={calls}:{how}:when={when}"),
    ]
}

/// A start in which one call fails.
#[derive(Debug)]
struct Fault {
    setting: Setting,
    call: &'static str,
    position: usize,
    errno: &'static str,
    then: Then,
}

/// Each row with each position of the call, and with each errno: `fully` with each errno at each position.
/// Otherwise in turn, and a call that is made with the same arguments in another setting, or elsewhere, is the same.
fn faults(fully: bool) -> Vec<Fault> {
    let mut faults = Vec::new();
    for row in rows(Start) {
        let mut positions = Vec::new();
        let mut known = HashSet::new();
        // Each position, or each from a number on.
        let first = row.when.strip_suffix('+');
        let first = first.map_or(1, |number| number.parse().expect("a number"));
        for (index, record) in records().iter().enumerate() {
            for ((name, position), likeness) in record.positions(&records()[..index]) {
                if position < first || !row.calls().any(|call| call == name) {
                    continue;
                }
                if known.insert((record.setting.mode(), likeness)) || fully {
                    positions.push((record.setting, name, position));
                }
            }
        }
        assert!(!positions.is_empty(), "no start makes this call: {row:?}");
        let errnos: Vec<_> = row.errnos().collect();
        let fault = |(setting, call, position), errno| Fault {
            setting,
            call,
            position,
            errno,
            then: row.then,
        };
        if fully {
            for position in positions {
                faults.extend(errnos.iter().map(|errno| fault(position, errno)));
            }
        } else {
            let count = positions.len().max(errnos.len());
            let pairs = positions
                .iter()
                .cycle()
                .zip(errnos.iter().cycle())
                .take(count);
            faults.extend(pairs.map(|(position, errno)| fault(*position, errno)));
        }
    }
    faults
}

#[test]
fn a_start_with_a_failing_call_is_refused_and_leaves_nothing_or_serves() {
    try_starts(false);
}

#[test]
#[ignore = "takes minutes; more of the same"]
fn a_start_with_a_failing_call_at_any_position_in_any_setting_does_likewise() {
    try_starts(true);
}

fn try_starts(fully: bool) {
    let faults = faults(fully);
    println!("{} faults", faults.len());
    let stage = Stage::new();
    // Some positions may not be reached: what a thread allocates depends on the order of the threads.
    let made = Mutex::new(HashSet::new());
    on_each(&faults, |fault| {
        // A thread that closes descriptors may come to its calls only after the end.
        for _ in 0..4 {
            let own = Directory::new();
            if start_with(fault, &stage, &own) {
                made.lock().unwrap().insert(fault.call);
            }
            if made.lock().unwrap().contains(fault.call) {
                break;
            }
        }
    });
    let made = made.into_inner().unwrap();
    let never = faults.iter().find(|fault| !made.contains(fault.call));
    assert!(never.is_none(), "it wasn't made: {never:?}");
}

/// Returns whether the call was made.
fn start_with(fault: &Fault, stage: &Stage, own: &Directory) -> bool {
    let &Fault {
        setting,
        call,
        position,
        errno,
        then,
    } = fault;
    let directory = Directory::public();
    let strace = ["strace", "-f", "-qq", "-o", &own.name("trace")].map(str::to_owned);
    let injection = injection(call, errno, &position.to_string());
    let wrapper = strace.into_iter().chain(injection).collect();
    let skd = setting.start(stage, &directory, wrapper);
    let client = first_client(setting, &skd, &directory);
    let is_served = client.is_some();
    if is_served {
        if setting.drops() {
            expect_all_nobody(setting, &skd, &directory);
        }
        drop(client);
        setting.end(&skd, &directory);
    } else {
        let output = skd.wait_with_output();
        assert!(output.code().is_some_and(|code| code > 0), "{output:#?}");
        let lines: Vec<_> = output.stderr.lines().collect();
        let one = lines.len() == 1 && lines[0].starts_with("skd: ");
        assert!(one, "{output:#?}");
        skd.wait_until("no process is left", || skd.processes().is_empty());
        if call == "execve" && setting == InPlace {
            // By then the launcher, which is a child here, has ended: the program couldn't reap it.
            assert_eq!(directory.names(), ["log", "pid", "pid.lock"]);
            assert_eq!(directory.read("pid"), "");
        } else {
            assert_eq!(directory.names(), [""; 0]);
        }
        // The exec of skd itself. A supervised program may have run before the fault.
        let trace = own.read("trace");
        let succeeds = |line: &&str| line.contains("execve(") && line.ends_with("= 0");
        let execs = trace.lines().filter(succeeds).count();
        let most = if setting == Supervised { 2 } else { 1 };
        assert!((1..=most).contains(&execs), "{execs}");
    }
    let is_made = own.read("trace").contains("(INJECTED)");
    let right = match then {
        Serves => is_served,
        Refused => is_served != is_made,
        _ => true,
    };
    assert!(right, "served: {is_served}");
    is_made
}
