//! Runs of close(2): a program that closes all numbers that a descriptor may have isn't held at
//! each.
//!
//! Closing anything but the client is harmless. What a run has closed is looked at when it is over:
//! if it was the client, the program is started once more, and held at each call.

use std::fs;
use std::path::PathBuf;

use super::arguments::ClientDescriptors;
use super::failure::Failure;
use super::files::as_owner;
use super::inheritance::leaves_default;
use super::kinds::{Kind, Kinds};
use crate::sys::trace::{Call, Fault, Tracee};

/// How many calls in a row are looked at one by one.
const LEAST: u32 = 32;

/// The calls of a program, as far as they are a run.
#[derive(Debug)]
pub(super) struct Runs {
    client: ClientDescriptors,
    /// Whether there may be a run.
    allowed: bool,
    /// How many calls in a row the same instruction has made, and the address after it.
    count: u32,
    next: u64,
    /// What the client's descriptors referred to before the present run.
    before: Option<Vec<PathBuf>>,
}

impl Runs {
    /// `without` has the kinds that the program was found to keep.
    pub(super) fn new(client: ClientDescriptors, without: Kinds) -> Self {
        Self {
            client,
            allowed: !without.meet(Kind::Run.into()),
            count: 0,
            next: 0,
            before: None,
        }
    }

    /// Counts a call, whose entry the program is held at.
    pub(super) fn count(&mut self, tracee: &Tracee, call: &Call) {
        let same = call.number == libc::SYS_close && tracee.after_call() == self.next;
        self.count = if same {
            self.count.saturating_add(1)
        } else {
            0
        };
        self.next = tracee.after_call();
    }

    /// Lets a program run that is held at the exit of a call, if that was one of many. Otherwise it
    /// stays held.
    pub(super) fn begin(&mut self, tracee: &Tracee) -> Result<bool, Fault> {
        if self.count < LEAST || !self.allowed {
            return Ok(false);
        }
        self.count = 0;
        self.allowed = leaves_default(tracee.pid(), libc::SIGSYS);
        self.before = self.client_files(tracee).filter(|_| self.allowed);
        if self.before.is_none() {
            return Ok(false);
        }
        self.allowed = tracee.begin_run(libc::SYS_close)?;
        if !self.allowed {
            self.before = None;
        }
        Ok(self.allowed)
    }

    /// Ends a run where the program is held, if there is one. `signal` is about to arrive. Returns
    /// whether that is because it makes another call, which it will be held at the entry of.
    pub(super) fn end(&mut self, tracee: &Tracee, signal: Option<i32>) -> Result<bool, Failure> {
        let Some(before) = self.before.take() else {
            return Ok(false);
        };
        let at_other = signal == Some(libc::SIGSYS) && tracee.ends_run()?;
        tracee.end_run(at_other)?;
        match self.client_files(tracee) {
            Some(after) if after == before => Ok(at_other),
            _ => Err(Failure::Careless(Kind::Run.into())),
        }
    }

    fn client_files(&self, tracee: &Tracee) -> Option<Vec<PathBuf>> {
        let pid = tracee.pid();
        let _owner = as_owner(pid).ok()?;
        let numbers = self.client.numbers();
        let all = numbers.map(|number| fs::read_link(format!("/proc/{pid}/fd/{number}")).ok());
        all.collect()
    }
}
