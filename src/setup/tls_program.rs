//! The program of skd-tls, and the user that it becomes.

use std::collections::HashSet;
use std::env;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{self, Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use super::privileges;
use crate::config::{Config, Daemon, Part, Service, accounts};
use crate::error::{At, Error, Reason};
use crate::sys::descriptors::SavedDescriptors;
use crate::sys::directory::{Entry, SavedEntry};
use crate::sys::trusted::{Purpose, Refusal};

/// The name of the program.
const NAME: &str = "skd-tls";

/// The users that skd-tls becomes if none is named, the preferred one first.
const USERS: [&str; 2] = ["skd-tls", "nobody"];

/// The program of skd-tls. It is looked for once, while its path is in sight; its directory stays open, so
/// that a newer version at the same path is found later.
#[derive(Debug)]
pub struct TlsProgram {
    path: PathBuf,
    entry: Entry,
}

/// The program as it is saved for the next binary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedTlsProgram {
    path: OsString,
    entry: SavedEntry,
}

impl TlsProgram {
    /// Finds the program: the one of `--tls-program`, the one beside skd's own binary, or the first in
    /// PATH. `own` is the path of skd's own binary, if it is known.
    pub fn find(daemon: &Daemon, own: Option<&Path>) -> Result<Self, Error> {
        if let Some(named) = &daemon.tls.program {
            let about = format!("--tls-program {}", named.display());
            let found = path::absolute(named).map_err(|reason| Error::start(&about, reason))?;
            return Self::at(found).map_err(|why| Error::Start(format!("{about}: {why}")));
        }
        let mut tried = HashSet::new();
        for path in candidates(own).filter(|path| tried.insert(path.clone())) {
            if path.is_file() {
                let about = path.display().to_string();
                let found = Self::at(path);
                return found
                    .map_err(|why| Error::Start(format!("--tls needs {NAME}: {about}: {why}")));
            }
        }
        let beside = own.and_then(Path::parent).map(|directory| {
            format!(
                "in {}, beside skd, nor in a directory of PATH",
                directory.display()
            )
        });
        let beside = beside.unwrap_or_else(|| "beside skd nor in a directory of PATH".into());
        Err(Error::Start(format!(
            "--tls needs {NAME}, which is neither {beside}; install it, as `make install` does with skd \
             itself, or name it with --tls-program"
        )))
    }

    /// Looks at a path. The error is a clause.
    fn at(path: PathBuf) -> Result<Self, String> {
        let refused = |why: Refusal| match why {
            Refusal::Failed(errno) => At(errno, &path).reason(),
            why => why.to_string(),
        };
        let entry = Entry::of(&path).map_err(refused)?;
        entry.check(&Purpose::PROGRAM).map_err(refused)?;
        Ok(Self { path, entry })
    }

    /// Returns its path, for messages and as the name that it is executed under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what is at the path now, only to execute it.
    pub fn open(&self) -> Result<OwnedFd, Error> {
        let (program, _) = self.entry.open(&Purpose::PROGRAM).map_err(|why| {
            let path = self.path.display();
            let why = match why {
                Refusal::Failed(errno) => errno.reason(),
                why => why.to_string(),
            };
            Error::Start(format!("{NAME} can't be started: {path}: {why}"))
        })?;
        Ok(program.into())
    }

    /// Saves it for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedTlsProgram, Errno> {
        Ok(SavedTlsProgram {
            path: self.path.clone().into(),
            entry: self.entry.save(to)?,
        })
    }

    /// Restores it from the previous binary.
    pub fn restore(saved: SavedTlsProgram) -> Result<Self, Errno> {
        Ok(Self {
            path: saved.path.into(),
            entry: Entry::restore(saved.entry)?,
        })
    }
}

/// Returns where the program may be: beside skd as it was called, beside the file that this is, if it is a
/// symbolic link, and in the directories of PATH.
fn candidates(own: Option<&Path>) -> impl Iterator<Item = PathBuf> {
    let own = own.map(Path::to_owned);
    let called = own.clone();
    let real = own.and_then(|path| path.canonicalize().ok());
    let beside = called.into_iter().chain(real);
    let beside = beside.filter_map(|path| Some(path.parent()?.join(NAME)));
    let directories = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = env::split_paths(&directories).collect();
    let directories = directories.into_iter().filter(|it| it.is_absolute());
    beside.chain(directories.map(|directory| directory.join(NAME)))
}

/// Returns what is to be said about the user that skd-tls becomes: whether handlers have the same one, and could
/// end it.
pub fn note(config: &Config) -> Option<String> {
    let Config {
        daemon, services, ..
    } = config;
    if services.iter().all(|service| service.tls.is_none()) {
        return None;
    }
    let (own, _) = user(daemon).ok()??;
    let sees_others = |service: &&Service| {
        let sandbox = service.isolation.sandbox.as_ref();
        sandbox.is_none_or(|it| !it.parts.has(Part::Pid))
    };
    let has_it = |service: &&Service| {
        let user = privileges::user_of_handlers(service).map(|user| user.uid);
        let user = user.or(daemon.identity.as_ref().map(|user| user.uid));
        !service.as_peer && user.is_some_and(|user| user.as_raw() == own)
    };
    let service = services.iter().filter(sees_others).find(has_it)?;
    let [first, _] = USERS;
    Some(format!(
        "skd-tls has the user of the handlers of {}, who can end it and all connections with TLS; make a user \
         {first} (useradd --system {first}), or name another one with --tls-user",
        service.name
    ))
}

/// Returns the user and group that skd-tls becomes, if it becomes another: as root only.
pub fn user(daemon: &Daemon) -> Result<Option<(u32, u32)>, Error> {
    if let Some(identity) = &daemon.tls.user {
        let ids = (identity.uid.as_raw(), identity.gid.as_raw());
        return Ok((identity.uid != Uid::effective()).then_some(ids));
    }
    if !Uid::effective().is_root() {
        return Ok(None);
    }
    for name in USERS {
        // A lookup that fails is like a missing entry: the next one is as good.
        if let Ok((uid, Some(entry))) = accounts::find_user(OsStr::new(name)) {
            return Ok(Some((uid.as_raw(), entry.gid.as_raw())));
        }
    }
    let [first, second] = USERS;
    Err(Error::Start(format!(
        "--tls: there is neither a user {first} nor a user {second} that skd-tls could become; make one \
         (useradd --system {first}), or name one with --tls-user"
    )))
}
