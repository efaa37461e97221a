//! Control groups (cgroups(7), version 2): one for each handler of a service.
//!
//! A group that its handler has left empty is used again: making and removing one takes the kernel
//! many times as long as a handler's start may.

mod group;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use crate::sys::cgroup;
use crate::sys::signals::Signal;
pub use group::Settings;
use group::{Group, Name};

/// How many empty groups of a service are kept for handlers to come.
const KEPT: usize = 128;

/// The control groups of a service.
#[derive(Debug)]
pub struct Cgroups {
    /// The group in which they are.
    directory: OwnedFd,
    /// The name of that.
    name: Box<str>,
    /// Groups without a process. The lock is held for a push or a pop, so it is hardly ever waited
    /// for; a list for each thread would keep many times as many groups.
    empty: Mutex<Vec<Group>>,
    /// The number of the next that is made.
    next: AtomicU32,
    settings: Settings,
    /// How much memory a group may be charged for and still be used again, if that is limited.
    most_left: Option<u64>,
    /// The group above, if the service isn't configured any more: no group is used again.
    parent: Option<OwnedFd>,
}

impl Cgroups {
    /// Those in an open group of this name. `memory` is the limit of the memory of one handler.
    pub fn new(
        (directory, name): (OwnedFd, &str),
        settings: Settings,
        memory: Option<u64>,
    ) -> Arc<Self> {
        Self::with((directory, name), settings, memory, None)
    }

    /// Those of a service that isn't configured any more, in an open group of this name below a parent:
    /// handlers are left of it, and the group is removed after the last.
    pub fn of_removed(parent: OwnedFd, (directory, name): (OwnedFd, &str)) -> Arc<Self> {
        Self::with((directory, name), Settings::new(), None, Some(parent))
    }

    fn with(
        (directory, name): (OwnedFd, &str),
        settings: Settings,
        memory: Option<u64>,
        parent: Option<OwnedFd>,
    ) -> Arc<Self> {
        let kept = if parent.is_none() { KEPT } else { 0 };
        Arc::new(Self {
            directory,
            name: name.into(),
            // No push allocates.
            empty: Mutex::new(Vec::with_capacity(kept)),
            next: AtomicU32::new(1),
            settings,
            most_left: memory.map(|memory| memory / 8),
            parent,
        })
    }

    /// The name of the group in which they are.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes an empty group for a handler: what another handler has left, without a system call,
    /// or a new one.
    pub fn take(self: &Arc<Self>) -> Result<Cgroup, Errno> {
        let kept = self.empty().pop();
        let group = kept.map_or_else(|| self.make(), Ok)?;
        Ok(Cgroup::of(group, self))
    }

    /// Finds the group of a handler that an earlier binary has started. It isn't used again: that
    /// binary may have had other settings.
    pub fn find(self: &Arc<Self>, number: u32) -> Result<Cgroup, Errno> {
        let group = Group::open(&self.directory, number)?;
        Ok(Cgroup::of(group, self))
    }

    fn make(&self) -> Result<Group, Errno> {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            match Group::make(&self.directory, number, &self.settings) {
                // An earlier binary has made it.
                Err(Errno::EEXIST) => {}
                made => return made,
            }
        }
    }

    /// Takes back a group that has no process, to be used again if it may be.
    fn put(&self, group: Group, is_used: bool) {
        if is_used && self.may_keep(&group) {
            let mut empty = self.empty();
            if empty.len() < KEPT {
                return empty.push(group);
            }
        }
        let name = Name::of(group.number);
        drop(group);
        let _ = cgroup::remove(&self.directory, name.as_str());
    }

    fn may_keep(&self, group: &Group) -> bool {
        // What its handlers have left in memory, such as files of /dev/shm, is charged to the group.
        let is_charged = |most| group.memory().is_none_or(|memory| memory > most);
        self.parent.is_none() && !group.was_killed() && !self.most_left.is_some_and(is_charged)
    }

    fn empty(&self) -> MutexGuard<'_, Vec<Group>> {
        self.empty.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if let Some(parent) = &self.parent {
            let _ = cgroup::remove(parent, &self.name);
        }
    }
}

/// The control group of one handler. Dropped, it is used again, or removed: all in it must have ended.
#[derive(Debug)]
pub struct Cgroup {
    group: Option<Group>,
    of: Arc<Cgroups>,
    /// Whether a handler has started in it. A group in which none can isn't used again.
    is_used: bool,
}

impl Cgroup {
    fn of(group: Group, of: &Arc<Cgroups>) -> Self {
        Self {
            group: Some(group),
            of: Arc::clone(of),
            is_used: false,
        }
    }

    /// Notes that a handler has started in it.
    pub(super) fn note_use(&mut self) {
        self.is_used = true;
    }

    /// Moves a process into it.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn enter(&self, pid: nix::unistd::Pid) -> Result<(), Errno> {
        cgroup::write(self, "cgroup.procs", &pid.to_string())
    }

    /// Whether nothing that runs is in it. One system call.
    pub fn is_empty(&self) -> bool {
        self.group.as_ref().is_none_or(Group::is_empty)
    }

    /// What is to be watched for the end of the last process in it (`EPOLLPRI`), once
    /// [`Self::is_empty`] has said that there is one.
    pub fn events(&self) -> Option<BorrowedFd<'_>> {
        self.group.as_ref().map(Group::events)
    }

    /// Sends a signal to all processes in it, each once. Returns how many there were, but none for KILL,
    /// which the kernel gives them.
    pub fn signal(&self, signal: Signal) -> usize {
        match (&self.group, signal) {
            (Some(group), Signal::SIGKILL) => {
                group.kill();
                0
            }
            (Some(group), signal) => group.signal(signal),
            (None, _) => 0,
        }
    }

    /// Whether the kernel has killed what is in it for want of memory, since the last call.
    pub fn was_out_of_memory(&mut self) -> bool {
        self.group.as_mut().is_some_and(Group::was_out_of_memory)
    }

    /// The number that the next binary finds it by, in the group with this name.
    pub fn id(&self) -> Option<(u32, &str)> {
        let group = self.group.as_ref()?;
        Some((group.number, self.of.name()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Some(group) = self.group.take() {
            self.of.put(group, self.is_used);
        }
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.group {
            Some(group) => group.as_fd(),
            // Never: it is taken by the drop alone.
            None => self.of.directory.as_fd(),
        }
    }
}
