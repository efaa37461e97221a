//! One control group.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::sys::signals::Signal;
use crate::sys::{cgroup, process};

/// What is written to the files of each handler's group.
pub type Settings = Vec<(&'static str, String)>;

/// How many processes get a signal at most.
const MOST_TOLD: usize = 1_000;

/// How many of them at a time.
const TOLD_AT_ONCE: usize = 100;

/// One control group.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) number: u32,
    directory: OwnedFd,
    /// Says whether a process is in it (`cgroup.events`).
    events: File,
    /// Say how much memory is used (`memory.events`, `memory.current`), where that is limited.
    memory: Option<(File, File)>,
    /// Whether all in it were killed. A kernel that has the mend of a race between fork and that takes
    /// each process that starts in it from another group (`CLONE_INTO_CGROUP`) for a group that was just being
    /// made then, and kills it, so it isn't used again.
    was_killed: AtomicBool,
    /// How many processes had been killed for want of memory at the last look.
    killed: u64,
}

impl Group {
    /// Makes a group.
    pub(super) fn make(parent: &OwnedFd, number: u32, settings: &Settings) -> Result<Self, Errno> {
        let name = Name::of(number);
        cgroup::make(parent, name.as_str())?;
        let made = Self::open(parent, number).and_then(|group| {
            let mut settings = settings.iter();
            let set = settings.try_for_each(|(file, value)| {
                match cgroup::write(&group.directory, file, value) {
                    // Swap isn't accounted for on each machine.
                    Err(Errno::ENOENT) if *file == "memory.swap.max" => Ok(()),
                    result => result,
                }
            });
            set.map(|()| group)
        });
        if made.is_err() {
            let _ = cgroup::remove(parent, name.as_str());
        }
        made
    }

    /// Opens a group.
    pub(super) fn open(parent: &OwnedFd, number: u32) -> Result<Self, Errno> {
        let directory = cgroup::open(parent, Name::of(number).as_str())?;
        let events = cgroup::open_file(&directory, "cgroup.events")?;
        let memory = |file| cgroup::open_file(&directory, file).ok();
        let memory = memory("memory.events").zip(memory("memory.current"));
        let mut group = Self {
            number,
            directory,
            events,
            memory,
            was_killed: AtomicBool::new(false),
            killed: 0,
        };
        group.was_out_of_memory();
        Ok(group)
    }

    pub(super) fn is_empty(&self) -> bool {
        // It begins with "populated 0" or "populated 1". A group that is gone says nothing.
        let mut text = [0; 11];
        let read = self.events.read_at(&mut text, 0);
        !(matches!(read, Ok(11)) && text == *b"populated 1")
    }

    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// The memory that is charged to it.
    pub(super) fn memory(&self) -> Option<u64> {
        let mut text = [0; 24];
        let (_, current) = self.memory.as_ref()?;
        let length = current.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..length])
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Whether processes in it have been killed for want of memory since the last call. If one is, all
    /// are (`memory.oom.group`), so each handler that this has ended is asked about.
    pub(super) fn was_out_of_memory(&mut self) -> bool {
        let killed = self.killed();
        std::mem::replace(&mut self.killed, killed) < killed
    }

    /// How many processes have been killed in it for want of memory.
    fn killed(&self) -> u64 {
        let count = || {
            let mut text = [0; 256];
            let (events, _) = self.memory.as_ref()?;
            let length = events.read_at(&mut text, 0).ok()?;
            let text = std::str::from_utf8(&text[..length]).ok()?;
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
        };
        count().unwrap_or_default()
    }

    /// Ends all processes in it and in groups below, those too that are just being made
    /// (`cgroup.kill`, Linux 5.14).
    pub(super) fn kill(&self) {
        self.was_killed.store(true, Ordering::Relaxed);
        if cgroup::write(&self.directory, "cgroup.kill", "1") == Err(Errno::ENOENT) {
            // Frozen processes make no others.
            let _ = cgroup::write(&self.directory, "cgroup.freeze", "1");
            self.signal(Signal::SIGKILL);
            let _ = cgroup::write(&self.directory, "cgroup.freeze", "0");
        }
    }

    /// Whether all in it were killed.
    pub(super) fn was_killed(&self) -> bool {
        self.was_killed.load(Ordering::Relaxed)
    }

    /// Sends a signal to all processes in it, but not to more than a thread that serves others has the
    /// time for: what a fork bomb has made is killed.
    pub(super) fn signal(&self, signal: Signal) -> usize {
        let all = self.processes();
        // Few descriptors are open at a time.
        let some = all.chunks(TOLD_AT_ONCE);
        some.map(|pids| self.signal_some(pids, signal)).sum()
    }

    fn signal_some(&self, pids: &[Pid], signal: Signal) -> usize {
        // A process that is in the list before its pidfd is opened, and after it, is that process:
        // else its id would have become another's twice meanwhile.
        let open = |pid: &Pid| Some((*pid, process::open_pidfd(*pid).ok()?));
        let before: Vec<_> = pids.iter().filter_map(open).collect();
        let after = self.processes();
        let is_same = |(pid, _): &&(Pid, OwnedFd)| after.contains(pid);
        let all = before.iter().filter(is_same);
        all.filter(|(_, pidfd)| {
            let sent = process::signal_by_pidfd(pidfd, signal).is_ok();
            if sent && signal == Signal::SIGTERM {
                // A stopped process would never get it.
                let _ = process::signal_by_pidfd(pidfd, Signal::SIGCONT);
            }
            sent
        })
        .count()
    }

    fn processes(&self) -> Vec<Pid> {
        let text = cgroup::read(&self.directory, "cgroup.procs").unwrap_or_default();
        let ids = text.lines().filter_map(|line| line.parse().ok());
        // 0 is a process of a namespace that isn't in sight.
        let ids = ids.filter(|id| *id > 0).map(Pid::from_raw);
        ids.take(MOST_TOLD).collect()
    }
}

impl AsFd for Group {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

/// The name of a group: its number. Nothing is allocated.
pub(super) struct Name {
    text: [u8; 10],
    start: usize,
}

impl Name {
    pub(super) fn of(mut number: u32) -> Self {
        let mut text = [b'0'; 10];
        let mut start = text.len();
        loop {
            start -= 1;
            text[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Self { text, start };
            }
        }
    }

    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[self.start..]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_number() {
        for number in [0, 1, 9, 10, 4_000_000_000, u32::MAX] {
            assert_eq!(Name::of(number).as_str(), number.to_string());
        }
    }
}
