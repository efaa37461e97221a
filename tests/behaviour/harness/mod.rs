//! What all tests are built on.
//!
//! ```ignore
//! let skd = Skd::new(["-vt", "127.0.0.1:0"]).run("cat");      // returns when it listens
//! assert_eq!(talk(skd.connect(), b"hello"), b"hello");
//! skd.wait_for_log("Accepted connection from");
//! assert_eq!(skd.stop().code(), Some(0));
//! ```
//!
//! | in | is |
//! | --- | --- |
//! | `skd` | [`Skd`], the builder of a command line and the circumstances of its start |
//! | `running` | what that becomes: [`Running`], [`Daemon`], [`Output`] |
//! | `instance` | [`Instance`]: what can be asked of either of the first two |
//! | `program` | [`Program`]: skd as it is here, or the original; [`each_program`] |
//! | `capture` | [`Capture`]: what was written to stdout and stderr, line by line |
//! | `client` | connecting and talking |
//! | `closed` | sockets that are closed for good |
//! | `control` | [`Control`]: a client of the control socket |
//! | `process` | what /proc says of a process |
//! | `idle` | [`assert_idle`]: whether processes wait without spinning or polling |
//! | `prestart` | [`Way`]: how handlers are started, and which are prestarted |
//! | `sockets` | what the kernel says of a process's sockets |
//! | `namespace` | [`Namespace`]: private mounts and network |
//! | `cgroup` | [`Cgroup`]: a limit of memory for all of a run |
//! | `syslog` | [`Syslog`]: a stand-in for the daemon behind /dev/log |
//! | `manager` | [`ServiceManager`]: a stand-in for the one behind NOTIFY_SOCKET |
//! | `terminal` | [`Terminal`]: a pseudo-terminal |
//! | `figures` | [`Figures`]: what becomes of the connections of a load |
//! | `directory` | [`Directory`]: a private directory |
//! | `pki` | [`Pki`]: an authority, and certificates |
//! | `tls_client` | [`TlsClient`]: connections with TLS |
//! | `stranger` | [`Stranger`]: a process of another user |
//! | `prepare` | the only unsafe lines: what happens between fork and exec, and pidfds |
//!
//! Two rules. Nothing sleeps for what can be watched: [`wait_until`] and [`wait_for`] look at a condition
//! until it holds, and after [`DEADLINE`] fail with a reason. Nothing is left behind: everything that a
//! run has started carries a [`MARK`] in its environment, and dropping the run kills exactly that.

// No topic uses everything.
#![allow(dead_code, unused_imports)]

mod capture;
mod cgroup;
mod client;
mod closed;
mod control;
mod directory;
mod figures;
mod held_start;
mod holdings;
mod idle;
mod instance;
mod manager;
mod namespace;
mod options;
mod own_machine;
mod pki;
mod prepare;
mod prestart;
mod process;
mod program;
mod running;
mod skd;
mod sockets;
mod storm;
mod stranger;
mod syslog;
mod tampering;
mod terminal;
mod tls_client;

pub use self::capture::{Capture, Line, Source};
pub use self::cgroup::Cgroup;
pub use self::client::{
    Conversation, ask, ask_udp, ask_unix_datagram, connect, connect_from, connect_unix,
    datagram_echo, echo, receive, send_unix_datagram, talk, try_talk, udp_client,
    unix_datagram_client,
};
pub use self::closed::{ClosedPort, close_tcp, close_udp, close_unix, leave_stale};
pub use self::control::{Control, controlled};
pub use self::directory::Directory;
pub use self::figures::Figures;
pub use self::held_start::HeldStart;
pub use self::holdings::Holdings;
pub use self::idle::{assert_idle, is_asleep, switches, wait_asleep, watch};
pub use self::instance::Instance;
pub use self::manager::{Notice, ServiceManager};
pub use self::namespace::Namespace;
pub use self::own_machine::{HOSTS, Machine};
pub use self::pki::{Leaf, Pki};
pub use self::prepare::{has_close_range, queue_signal};
pub use self::prestart::{Way, exec_id, is_parked, parked, slay_if_parked, tracing_takes_a_right};
pub use self::process::{
    EPOLL_WAIT, POLL, SignalMasks, capabilities, children, command, cpu_ticks, descendants,
    descriptors, environment, exists, idle_descriptors, ids, is_in_call, is_zombie, limit,
    limit_processes, mark_of, parent, polls_without_limit, process_group, rss_anon, session,
    settled_descriptors, signal_masks, stat_field, status_field, threads, zombies,
};
pub use self::program::{Program, built, each_program, original, skd_tls};
pub use self::running::{Daemon, Output, Running};
pub use self::skd::{MARK, Skd, Stream, run_to_end, wait_out_throttle};
pub use self::sockets::{Kind, Socket, sockets};
pub use self::storm::{Over, in_a_storm};
pub use self::stranger::Stranger;
pub use self::syslog::{Message, Syslog, machine, relays};
pub use self::tampering::{Tampering, tampering};
pub use self::terminal::Terminal;
pub use self::tls_client::TlsClient;

use std::path::Path;
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

/// The timeout of all waits. Generous, since a loaded machine is no failure; a test that passes never
/// waits that long.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The interval between two looks at a condition: too short to delay tests, too long to be a load. Longer on a slow
/// machine, where a look at all processes takes milliseconds.
const INTERVAL: Duration = Duration::from_millis(2);

/// The interval in a long wait. It grows to that with the time waited so far, of which it is a twentieth.
const LONGEST_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds; panics with `what` after [`DEADLINE`].
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()));
}

/// Waits until `find` finds something, and returns it; panics with `what` after [`DEADLINE`].
#[track_caller]
pub fn wait_for<T>(what: &str, find: impl FnMut() -> Option<T>) -> T {
    match poll_for(DEADLINE, find) {
        Some(found) => found,
        None => panic!("waited {DEADLINE:?} in vain: {what}"),
    }
}

/// How many times as long as elsewhere everything may take here (`SKD_TEST_SLOWNESS`): emulated machines are slow.
pub fn slowness() -> u32 {
    static SLOWNESS: LazyLock<u32> = LazyLock::new(|| {
        let set = std::env::var("SKD_TEST_SLOWNESS");
        set.map_or(1, |value| value.parse().expect("SKD_TEST_SLOWNESS"))
    });
    *SLOWNESS
}

/// `seconds` as the value of an option, on a slow machine a multiple: for a time limit within which a handler has to
/// start and to answer.
pub fn time_limit(seconds: u32) -> String {
    format!("{}s", seconds * slowness())
}

/// Polls until `find` finds something or `timeout`, on a slow machine a multiple of it, is over.
pub fn poll_for<T>(timeout: Duration, mut find: impl FnMut() -> Option<T>) -> Option<T> {
    let begin = Instant::now();
    let end = begin + timeout * slowness();
    loop {
        // The time is taken first, so that there is one more look after a long pause.
        let late = Instant::now() >= end;
        if let Some(found) = find() {
            return Some(found);
        }
        if late {
            return None;
        }
        let interval = begin.elapsed() / 20 / slowness();
        thread::sleep(interval.clamp(INTERVAL, LONGEST_INTERVAL) * slowness());
    }
}

/// Waits until the file at `path` contains `text` (a log file, say), and returns all of it.
#[track_caller]
pub fn wait_for_text(path: impl AsRef<Path>, text: &str) -> String {
    let path = path.as_ref();
    let mut seen = String::new();
    poll_for(DEADLINE, || {
        seen = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        seen.contains(text).then(|| seen.clone())
    })
    .unwrap_or_else(|| panic!("no {text:?} in {} but:\n{seen}", path.display()))
}

/// The lines of a log file without their times. Every line must have one, except those that begin with a text of
/// `foreign`, which skd hasn't written.
#[track_caller]
pub fn untimed(log: &str, foreign: &[&str]) -> String {
    let text = |line: &str| {
        if foreign.iter().any(|start| line.starts_with(start)) {
            return format!("{line}\n");
        }
        let (time, text) = line.split_once(' ').unwrap_or_default();
        assert!(is_time(time), "no time: {line:?} in {log}");
        format!("{text}\n")
    };
    log.lines().map(text).collect()
}

/// Whether this is a time as in RFC 3339, in UTC with microseconds.
pub fn is_time(text: &str) -> bool {
    let digit = |character: char| {
        if character.is_ascii_digit() {
            '0'
        } else {
            character
        }
    };
    text.chars()
        .map(digit)
        .eq("0000-00-00T00:00:00.000000Z".chars())
}

/// For tests that only root can run. It fails rather than passes: a test that wasn't run has proved
/// nothing.
#[track_caller]
pub fn requires_root() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test needs root (run the tests as root, or leave it out by name)"
    );
}

/// For tests that hold many descriptors themselves, and make skd hold as many: raises the limit as far as possible.
#[track_caller]
pub fn requires_descriptors(count: usize) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let needed = count as u64 + 500;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("RLIMIT_NOFILE");
    assert!(
        hard >= needed,
        "this test needs {needed} descriptors and may have {hard} (see ulimit -Hn)"
    );
    if soft < needed {
        setrlimit(Resource::RLIMIT_NOFILE, needed, hard).expect("RLIMIT_NOFILE");
    }
}

/// For tests that use a program beyond sh and coreutils; fails with its name where it is missing.
#[track_caller]
pub fn requires_command(name: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    assert!(
        std::env::split_paths(&path).any(|directory| directory.join(name).is_file()),
        "this test needs the program {name:?}, which isn't in PATH"
    );
}

/// The same, of several.
#[track_caller]
pub fn requires_commands(names: &[&str]) {
    names.iter().for_each(|name| requires_command(name));
}

/// The path of Python itself, where `python3` is a script that looks for it.
#[track_caller]
pub fn python() -> String {
    requires_command("python3");
    let line = "import sys; print(sys.executable)";
    let output = std::process::Command::new("python3")
        .args(["-c", line])
        .output();
    let path = String::from_utf8(output.expect("python3").stdout);
    path.expect("a path").trim().to_owned()
}

/// Copies a program by another process: as long as this one has the copy open for writing, so have the
/// children that other tests start, and it can't be executed (ETXTBSY).
#[track_caller]
pub fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let status = std::process::Command::new("cp")
        .arg("--")
        .args([from.as_ref(), to.as_ref()])
        .status();
    assert!(status.is_ok_and(|status| status.success()), "cp");
}
