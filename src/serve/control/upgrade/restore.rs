//! Reading the state: how this process came to run, and what it goes on with. Handlers are restored
//! in `handlers::saved`, connections in `worker::saved`.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use nix::errno::Errno;

use super::findings::Findings;
use super::saved_identity::SavedIdentity;
use super::state::{SavedService, Settings, State};
use super::words::{self, Purpose, Word};
use crate::config::seccomp::FilterFile;
use crate::config::{self, EnvironmentFile, FileTexts, Identity, ServiceText};
use crate::error::Error;
use crate::net::{SavedFile, SavedListener, SocketFile};
use crate::serve::admission::Rules;
use crate::serve::control::origin::Origin;
use crate::serve::control::prepared::{RemovedService, Restored, RestoredService};
use crate::serve::control::socket::bound::BoundControl;
use crate::serve::control::tls::{SavedTls, TlsKeeper};
use crate::setup::cgroups::Base;
use crate::setup::executable::Executable;
use crate::setup::pidfile::PidFile;
use crate::setup::{Log, Manager, RuleFiles};
use crate::sys::descriptors;
use crate::sys::process;
use crate::sys::reexec;
use crate::sys::users;

/// How this process came to run.
#[derive(Debug)]
pub enum Arrival {
    /// By a command.
    Fresh,
    /// By another process, to say whether this binary could go on with its state.
    Preflight(Box<State>),
    /// As the next binary of this process.
    Upgrade(Box<State>),
    /// As the old binary again, since the next one can't go on.
    Return(Box<State>),
}

impl Arrival {
    /// Finds out. A variable that was meant for another process says nothing.
    pub fn find() -> Result<Self, Error> {
        let Some((memory, word)) = words::read()? else {
            return Ok(Self::Fresh);
        };
        let not_understood =
            |reason| Error::start("the state of the running skd can't be understood", reason);
        let mut state = State::read(memory).map_err(not_understood)?;
        if let (Word::Upgrade, Some(memory)) = (word, state.open.findings) {
            state.findings = Findings::read(memory).map_err(not_understood)?;
        }
        if let (Word::Return, Some(memory)) = (word, state.open.findings) {
            state.faults = Findings::faults_in(memory);
        }
        users::restore_unknown_ids(state.process.unknown_ids);
        let state = Box::new(state);
        Ok(match word {
            Word::Preflight => Self::Preflight(state),
            Word::Upgrade => Self::Upgrade(state),
            Word::Return => Self::Return(state),
        })
    }
}

impl State {
    /// The user that the process has become, if it has.
    pub fn identity(&self) -> Option<Identity> {
        self.identity.as_ref().map(SavedIdentity::restore)
    }

    /// All users that were looked up.
    pub fn identities(&self) -> Vec<Identity> {
        let all = self.identity.iter().chain(&self.users);
        all.map(SavedIdentity::restore).collect()
    }

    /// What the files said that the services come from, if they do.
    pub fn texts(&self) -> Option<&FileTexts> {
        self.texts.as_ref()
    }

    /// What was asked for that only a start can do, if the skd that wrote this says so.
    pub fn settings(&self) -> Option<&Settings> {
        self.settings.as_ref()
    }

    /// Whether the process has another root directory than when it was started, where files and names
    /// are others.
    pub fn is_in_root(&self) -> bool {
        self.executable.is_in_root()
    }

    /// Takes out what the preflight has read and looked up, in a process that goes on after it.
    pub fn take_findings(&mut self) -> Option<Findings> {
        self.findings.take()
    }

    /// The files of variables that were read.
    pub fn environment_files(&self) -> Vec<EnvironmentFile> {
        self.environment_files.clone()
    }

    /// The files of system calls that were read.
    pub fn filter_files(&self) -> Vec<FilterFile> {
        self.filter_files.clone()
    }

    /// How many threads accept connections.
    pub fn stream_workers(&self) -> usize {
        self.process.stream_workers
    }

    /// What only the start knew. The binary that runs is the new one, or the old one again if
    /// `returned`.
    pub fn origin(&mut self, daemon: &config::Daemon, returned: bool) -> Result<Origin, Errno> {
        if !self.process.dumpable {
            process::forbid_dumping()?;
        }
        let mut pidfile = self.pidfile.take().map(PidFile::restore).transpose()?;
        if returned {
            // No other binary is left to remove it, should even this fail.
            pidfile.iter_mut().for_each(PidFile::own);
        }
        let running = if returned {
            self.open.old
        } else {
            self.open.new
        };
        let executable = Executable::restore(self.executable.clone(), running)?;
        reexec::set_name(executable.path().as_os_str());
        let files = self.process.files;
        let settings = self.settings.clone();
        Ok(Origin {
            settings: settings.unwrap_or_else(|| Settings::of(daemon)),
            texts: None,
            executable: Some(executable),
            hangup_ends: self.process.hangup_ends,
            starter: self.process.starter,
            files: files.map(|(rlim_cur, rlim_max)| libc::rlimit { rlim_cur, rlim_max }),
            identity: self.identity(),
            users: Vec::new(),
            environment_files: Vec::new(),
            groups: self.groups.take().map(Base::restore).transpose()?,
            sessions: std::mem::take(&mut self.sessions),
            filter_files: Vec::new(),
            pidfile,
        })
    }

    /// The log, which is to be where the configuration says.
    pub fn log(&self, daemon: &config::Daemon) -> Result<Log, Errno> {
        Log::restore(daemon, &self.log)
    }

    /// The service manager, if there is one.
    pub fn manager(&mut self) -> Result<Option<Manager>, Errno> {
        self.manager.take().map(Manager::restore).transpose()
    }

    /// Takes out the control socket, if there is one. The binary that runs owns its file if it has
    /// `returned`.
    pub fn control(&mut self, returned: bool) -> Result<Option<BoundControl>, Error> {
        let saved = self.control.take();
        let restored = saved.map(|saved| BoundControl::restore(saved, returned));
        restored.transpose()
    }

    /// Takes out what serves TLS, if a service had that. It is this binary's once the daemon runs.
    pub fn tls(&mut self) -> Result<Option<TlsKeeper>, Errno> {
        self.tls.take().map(SavedTls::restore).transpose()
    }

    /// Takes out all services.
    pub fn take_services(&mut self) -> Vec<SavedService> {
        std::mem::take(&mut self.services)
    }

    /// What belongs to no configured service: these, and all else.
    pub fn rest(
        &mut self,
        removed: impl Iterator<Item = SavedService>,
        returned: bool,
    ) -> Result<Restored, Errno> {
        let removed = removed.map(|mut service| {
            Ok(RemovedService {
                name: std::mem::take(&mut service.name),
                limits: service.limits,
                drain: service.drain,
                restored: service.restore(returned)?,
            })
        });
        Ok(Restored {
            removed: removed.collect::<Result<_, Errno>>()?,
            acts: std::mem::take(&mut self.acts),
            lingering: std::mem::take(&mut self.lingering),
            served: self.served,
            began: self.process.began,
            figures: self.figures.take(),
            reloads: self.process.reloads,
            closed: Vec::new(),
        })
    }

    /// The descriptors themselves, which are to stay open until there is no way back. What
    /// continues works on copies.
    pub fn originals(&self) -> Result<Vec<OwnedFd>, Errno> {
        let numbers = self.open.all.iter().copied();
        numbers.map(descriptors::adopt).collect()
    }

    /// /dev/null among those.
    pub fn null<'fd>(&self, originals: &'fd [OwnedFd]) -> Option<&'fd OwnedFd> {
        find(originals, self.open.null)
    }

    /// Takes as many descriptors as the next binary will get connections, which a preflight doesn't:
    /// where few may be open, it fails before the upgrade would.
    pub fn take_spare(&self) -> Result<Vec<OwnedFd>, Errno> {
        let spare = (0..self.left_out).map(|_| descriptors::claim(self.open.null));
        spare.collect()
    }

    /// Whether it was written to go on with the same binary.
    pub fn is_reload(&self) -> bool {
        self.process.is_reload
    }

    /// What it was written for.
    pub(in crate::serve) fn purpose(&self) -> Purpose {
        match self.process.is_reload {
            true => Purpose::Reload,
            false => Purpose::Upgrade,
        }
    }

    /// Tells the skd that wrote it why this binary can't go on. If that fails, it knows that it can't,
    /// and the log has the reasons.
    pub fn write_faults(&self, faults: Vec<String>) {
        if let Some(memory) = self.open.findings {
            let _ = Findings::write_faults(memory, faults);
        }
    }

    /// Tells the running skd that this binary could go on: any program can end with 0, but this
    /// one has read the state, and adds a blank to it. What it has read besides is written down.
    pub fn accept(&self, findings: Option<&Findings>) -> io::Result<()> {
        if let (Some(findings), Some(memory)) = (findings, self.open.findings) {
            findings.write(memory)?;
        }
        let file = File::from(descriptors::claim(self.open.memory)?);
        file.write_all_at(b"\n", file.metadata()?.len())
    }

    /// Becomes the old binary again, whose descriptors are all there. Returns only with the reason
    /// why not.
    pub fn go_back(&self, originals: &[OwnedFd]) -> Errno {
        match find(originals, self.open.old) {
            Some(old) => {
                let arguments = words::arguments(self.open.memory, Word::Return, &[]);
                reexec::exec_file(old, &arguments)
            }
            None => Errno::EBADF,
        }
    }
}

impl SavedService {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it was written, if it isn't configured any more and still serves clients.
    pub fn retiring(&self) -> Option<&Arc<ServiceText>> {
        self.retiring.as_ref()
    }

    /// Whether it has closed its listeners, since all its handlers have begun.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Whether it stays done with this configuration. If it may have more handlers by now, it listens
    /// again.
    pub fn stays_done(&mut self, wanted: &config::Service) -> bool {
        let is_spent = |total: NonZeroUsize| self.total >= total.get() as u64;
        self.is_done = self.is_done && wanted.max_total.is_some_and(is_spent);
        self.is_done
    }

    /// How many threads receive its datagrams.
    pub fn datagram_workers(&self) -> usize {
        self.datagram_workers
    }

    /// Takes out its listeners, and the files of their sockets.
    pub fn take_listeners(&mut self) -> (Vec<SavedListener>, Vec<SavedFile>) {
        let files = std::mem::take(&mut self.files);
        (std::mem::take(&mut self.listeners), files)
    }

    /// Gives back the files of which it isn't known whose they are.
    pub fn give_files(&mut self, files: Vec<SavedFile>) {
        self.files = files;
    }

    /// Takes out its rules, for handlers that have `common` variables, with files that may be read
    /// again. `asks` says whether names can be looked up.
    pub fn rules(
        &mut self,
        wanted: &config::Service,
        common: &Arc<[CString]>,
        asks: bool,
    ) -> Result<Option<(Rules, Option<RuleFiles>)>, Errno> {
        let restored = self
            .rules
            .take()
            .map(|saved| saved.restore(common, wanted.prestart, asks));
        match restored.transpose()? {
            // Another configuration than that of the earlier binary.
            None if wanted.admission.has_rules() => Err(Errno::EINVAL),
            rules => Ok(rules),
        }
    }

    /// What else is left of it. The files are owned once the daemon runs, or now if `returned`.
    pub fn restore(self, returned: bool) -> Result<RestoredService, Errno> {
        let files = self.files.into_iter().map(SocketFile::restore);
        let mut files: Vec<_> = files.collect::<Result<_, _>>()?;
        if returned {
            // As the pid file.
            files.iter_mut().for_each(SocketFile::own);
        }
        Ok(RestoredService {
            files,
            total: self.total,
            is_done: self.is_done,
            availability: self.availability,
            handlers: self.handlers,
            pending: self.pending,
            exchanges: self.exchanges,
            rates: self.rates,
            pool: self.pool,
            filter_listeners: self.filter_listeners,
        })
    }
}

fn find(originals: &[OwnedFd], number: i32) -> Option<&OwnedFd> {
    originals.iter().find(|fd| fd.as_raw_fd() == number)
}
