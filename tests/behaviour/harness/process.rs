//! What /proc reports of a process; see proc(5). Processes start and end at any time, so an ended process
//! has no entries rather than being an error.

use super::{is_asleep, wait_until};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The open descriptors of `pid`, each with what it is (`socket:[123]`, a path, …). Panics if they can't be
/// seen, as an empty list would pass for none.
#[track_caller]
pub fn descriptors(pid: i32) -> BTreeMap<i32, String> {
    try_descriptors(pid).unwrap_or_else(|| panic!("the descriptors of {pid} can't be read"))
}

/// How many descriptors a daemon has while it is asleep without handlers. Its start has something to close after it
/// has printed its ports, and a handler is reaped a moment before its pidfd is closed.
#[track_caller]
pub fn idle_descriptors(pid: i32) -> usize {
    let mut count = 0;
    wait_until("all handlers are reaped and let go of", || {
        let open = descriptors(pid);
        count = open.len();
        let live = open.values().any(|target| target == "anon_inode:[pidfd]");
        let waits = !live && children(pid).is_empty() && is_in_call(pid, EPOLL_WAIT);
        waits && is_asleep(pid) && descriptors(pid).len() == count
    });
    count
}

/// The open descriptors of a daemon that is asleep. A handler may answer before skd has closed its connection, and a
/// start may print its port before it has closed all that only it needs.
#[track_caller]
pub fn settled_descriptors(pid: i32) -> BTreeMap<i32, String> {
    let mut open = BTreeMap::new();
    wait_until("the daemon is asleep", || {
        open = descriptors(pid);
        is_asleep(pid) && descriptors(pid) == open
    });
    open
}

pub(super) fn try_descriptors(pid: i32) -> Option<BTreeMap<i32, String>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    let found = entries.filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        Some((number, target.to_string_lossy().into_owned()))
    });
    Some(found.collect())
}

/// The threads of `pid`: number and name.
pub fn threads(pid: i32) -> Vec<(i32, String)> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let found = entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        let name = fs::read_to_string(entry.path().join("comm")).ok()?;
        Some((number, name.trim_end().to_owned()))
    });
    let mut found: Vec<_> = found.collect();
    found.sort();
    found
}

/// Lets the user of `pid`, which has no other process, have `more` processes besides its threads (`RLIMIT_NPROC`).
///
/// Call it when a client has been served: some threads are made when they are needed.
#[track_caller]
pub fn limit_processes(pid: i32, more: usize) {
    // A thread that closes descriptors is there for a moment only.
    super::wait_asleep(pid);
    let most = threads(pid).len() + more;
    let limit = format!("--nproc={most}:{most}");
    let (uids, gids, _) = ids(pid);
    super::requires_command("prlimit");
    // As that user: root may not have the capability for another user's limits.
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &limit])
        .uid(uids[0])
        .gid(gids[0])
        .status();
    assert!(status.unwrap().success(), "{limit}");
}

/// The children of `pid`, zombies included.
pub fn children(pid: i32) -> Vec<i32> {
    let mut children = all();
    children.retain(|&other| parent(other) == Some(pid));
    children
}

/// The children of `pid` that have ended and wait to be reaped.
pub fn zombies(pid: i32) -> Vec<i32> {
    let mut zombies = children(pid);
    zombies.retain(|&child| is_zombie(child));
    zombies
}

/// The children of `pid`, theirs, and so on.
pub fn descendants(pid: i32) -> Vec<i32> {
    let parents: Vec<_> = all().into_iter().map(|pid| (pid, parent(pid))).collect();
    let mut found = vec![pid];
    let mut looked_at = 0;
    while let Some(&parent) = found.get(looked_at) {
        looked_at += 1;
        let of_this = parents.iter().filter(|(_, its)| *its == Some(parent));
        found.extend(of_this.map(|(pid, _)| *pid));
    }
    found.split_off(1)
}

/// Whether `pid` is a process that hasn't ended. A zombie has.
pub fn exists(pid: i32) -> bool {
    stat_field(pid, 3).is_some_and(|state| state != "Z" && state != "X")
}

pub fn is_zombie(pid: i32) -> bool {
    stat_field(pid, 3).is_some_and(|state| state == "Z")
}

pub fn parent(pid: i32) -> Option<i32> {
    stat_field(pid, 4)?.parse().ok()
}

pub fn process_group(pid: i32) -> Option<i32> {
    stat_field(pid, 5)?.parse().ok()
}

pub fn session(pid: i32) -> Option<i32> {
    stat_field(pid, 6)?.parse().ok()
}

/// Processor time used so far, user and system, in clock ticks (hundredths of a second nearly everywhere).
#[track_caller]
pub fn cpu_ticks(pid: i32) -> u64 {
    let ticks = |field| stat_field(pid, field)?.parse::<u64>().ok();
    ticks(14)
        .zip(ticks(15))
        .map(|(user, system)| user + system)
        .unwrap_or_else(|| panic!("the processor time of {pid} can't be read"))
}

/// Memory of its own that `pid` has in use, in KiB.
#[track_caller]
pub fn rss_anon(pid: i32) -> u64 {
    let value = status_field(pid, "RssAnon").unwrap_or_default();
    let number = value
        .split_whitespace()
        .next()
        .and_then(|text| text.parse().ok());
    number.unwrap_or_else(|| panic!("the memory of {pid} can't be read"))
}

/// The signals of a process, as sets of bits: bit N-1 is signal N.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SignalMasks {
    pub pending: u64,
    pub blocked: u64,
    pub ignored: u64,
    pub caught: u64,
}

impl SignalMasks {
    /// Whether `signal` is in one of the sets, as in `SignalMasks::has(masks.ignored, Signal::SIGHUP)`.
    pub fn has(set: u64, signal: nix::sys::signal::Signal) -> bool {
        set & (1 << (signal as u32 - 1)) != 0
    }
}

/// SigPnd, SigBlk, SigIgn and SigCgt of `pid` (of its first thread).
#[track_caller]
pub fn signal_masks(pid: i32) -> SignalMasks {
    let set = |name| {
        let text = status_field(pid, name)?;
        u64::from_str_radix(&text, 16).ok()
    };
    let masks = || {
        Some(SignalMasks {
            pending: set("SigPnd")?,
            blocked: set("SigBlk")?,
            ignored: set("SigIgn")?,
            caught: set("SigCgt")?,
        })
    };
    masks().unwrap_or_else(|| panic!("the signals of {pid} can't be read"))
}

/// Who `pid` is: real, effective, saved and filesystem user; the same for the group; supplementary groups.
#[track_caller]
pub fn ids(pid: i32) -> (Vec<u32>, Vec<u32>, Vec<u32>) {
    let list = |name| -> Option<Vec<u32>> {
        let text = status_field(pid, name)?;
        text.split_whitespace()
            .map(|number| number.parse().ok())
            .collect()
    };
    let ids = || Some((list("Uid")?, list("Gid")?, list("Groups")?));
    ids().unwrap_or_else(|| panic!("the user of {pid} can't be read"))
}

/// A set of capabilities of `pid` as bits: `CapInh`, `CapPrm`, `CapEff`, `CapBnd` or `CapAmb`.
#[track_caller]
pub fn capabilities(pid: i32, set: &str) -> u64 {
    let text = status_field(pid, set).unwrap_or_default();
    u64::from_str_radix(&text, 16).unwrap_or_else(|_| panic!("{set} of {pid} can't be read"))
}

/// The environment that `pid` was started with.
pub fn environment(pid: i32) -> BTreeMap<String, String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let pairs = text.split('\0').filter_map(|entry| entry.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The command line of `pid`.
pub fn command(pid: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.split_terminator('\0').map(str::to_owned).collect()
}

/// A resource limit of `pid` by its name in /proc/PID/limits (`Max open files`): soft and hard, as text.
pub fn limit(pid: i32, name: &str) -> Option<(String, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let mut words = line.split_whitespace();
    Some((words.next()?.to_owned(), words.next()?.to_owned()))
}

/// A line of /proc/PID/status without its name.
pub fn status_field(pid: i32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = fields.find(|(field, _)| *field == name)?;
    Some(value.trim().to_owned())
}

/// A field of /proc/PID/stat by its number in proc(5), from 3 on.
pub fn stat_field(pid: i32, number: usize) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses, in which anything may stand, blanks and parentheses too.
    let (_, fields) = text.rsplit_once(") ")?;
    Some(
        fields
            .split_whitespace()
            .nth(number.checked_sub(3)?)?
            .to_owned(),
    )
}

/// The system call of epoll_wait(3), which newer architectures haven't under that name.
#[cfg(target_arch = "x86_64")]
pub const EPOLL_WAIT: libc::c_long = libc::SYS_epoll_wait;
#[cfg(not(target_arch = "x86_64"))]
pub const EPOLL_WAIT: libc::c_long = libc::SYS_epoll_pwait;

/// The same for poll(3).
#[cfg(target_arch = "x86_64")]
pub const POLL: libc::c_long = libc::SYS_poll;
#[cfg(not(target_arch = "x86_64"))]
pub const POLL: libc::c_long = libc::SYS_ppoll;

/// Whether `pid` is in this system call, or waits to enter it.
pub fn is_in_call(pid: i32, call: libc::c_long) -> bool {
    call_of(pid).split(' ').next() == Some(&call.to_string())
}

/// Whether `pid` waits in poll(2) without a time limit.
pub fn polls_without_limit(pid: i32) -> bool {
    // The number of the call and its arguments. The third is the limit: an int, or the address of one.
    let text = call_of(pid);
    let words: Vec<_> = text.split(' ').collect();
    let limit = words.get(3).and_then(|word| word.strip_prefix("0x"));
    let limit = limit.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let none = if POLL == libc::SYS_ppoll { 0 } else { -1 };
    words[0] == POLL.to_string() && limit.is_some_and(|limit| limit as i32 == none)
}

fn call_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default()
}

/// Whether `pid` was started with `name=value` in its environment.
pub fn mark_of(pid: i32, name: &str, value: &OsStr) -> bool {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let wanted = [name.as_bytes(), b"=", value.as_bytes()].concat();
    bytes.split(|&byte| byte == 0).any(|entry| entry == wanted)
}

/// All processes that can be seen.
pub(super) fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<i32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids
}
