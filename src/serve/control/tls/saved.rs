//! What an upgrade saves of skd-tls: its processes go on, and with them all connections.

use std::sync::Arc;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::channel::{Channel, SavedChannel, TlsUser};
use super::child::{Child, Role, SavedChild};
use super::keeper::{Kept, Parts, TlsKeeper};
use super::program::{OpenProgram, SavedOpenProgram};
use crate::serve::handlers::saved::SavedClock;
use crate::setup::{SavedTlsFiles, TlsFiles};
use crate::sys::descriptors::SavedDescriptors;

/// skd-tls in the state of an upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedTls {
    channel: SavedChannel,
    program: SavedOpenProgram,
    user: Option<TlsUser>,
    threads: usize,
    files: SavedTlsFiles,
    /// The process that runs, if one does.
    running: Option<SavedChild>,
    /// A process that was just started, which ends.
    next: Option<SavedChild>,
    /// Those that serve their last connections.
    old: Vec<SavedChild>,
    /// Whether no service has TLS any more.
    is_over: bool,
}

impl TlsKeeper {
    /// Saves it for the next binary. A process that is still loading isn't: the next binary starts another.
    pub(in crate::serve) fn save(&self, to: &mut SavedDescriptors) -> Result<SavedTls, Errno> {
        let Kept {
            parts,
            children,
            is_over,
        } = self.kept();
        let clock = SavedClock::new();
        let (mut running, mut next, mut old) = (None, None, Vec::new());
        for child in children {
            let saved = child.save(&clock, to)?;
            match child.role {
                Role::Running => running = Some(saved),
                Role::Next => next = Some(saved),
                Role::Old | Role::Replaced => old.push(saved),
            }
        }
        Ok(SavedTls {
            channel: parts.channel.save(to)?,
            program: parts.program.save(to)?,
            user: parts.user,
            threads: parts.threads,
            files: parts.files.save(to)?,
            running,
            next,
            old,
            is_over,
        })
    }
}

impl SavedTls {
    /// Restores it. Nothing is told, killed or reaped until this binary takes possession.
    pub(in crate::serve) fn restore(self) -> Result<TlsKeeper, Errno> {
        let clock = SavedClock::new();
        let files = TlsFiles::restore(self.files)?;
        let mut keeper = TlsKeeper::of(Parts {
            channel: Channel::restore(&self.channel)?,
            program: OpenProgram::restore(self.program)?,
            user: self.user,
            threads: self.threads,
            files: Arc::new(files),
        });
        let running = self.running.iter().map(|it| (it, Role::Running));
        let next = self.next.iter().map(|it| (it, Role::Next));
        let old = self.old.iter().map(|it| (it, Role::Old));
        for (saved, role) in old.chain(next).chain(running) {
            keeper.add(Child::restore(saved, role, &clock)?);
        }
        if self.is_over {
            keeper.retire_all();
        }
        Ok(keeper)
    }
}
