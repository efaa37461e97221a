//! Listeners of an earlier process. Those that are still wanted keep their sockets: they are found by
//! their style and address, whichever service they belong to.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;

use super::bind::{self, check_groups};
use super::listener::{Listener, ListenerAddress, SavedListener};
use super::resolve::Resolved;
use super::unix::{SavedFile, SocketFile};
use crate::config::{BoundAddress, DatagramMode, Endpoint, Listen, Style};
use crate::error::Error;

/// The listeners of an earlier process.
#[derive(Debug, Default)]
pub struct KeptListeners {
    listeners: Vec<Option<KeptListener>>,
    by_address: HashMap<ListenerAddress, Vec<usize>>,
    /// The listeners of each owner.
    by_owner: HashMap<usize, Vec<usize>>,
}

#[derive(Debug)]
struct KeptListener {
    /// The service that has it, by a number of the caller's.
    owner: usize,
    saved: SavedListener,
    file: Option<SavedFile>,
}

/// How listeners are bound that no earlier process had.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// The mode of their service.
    pub datagrams: DatagramMode,
    /// How long to wait for another start that replaces the same stale socket.
    pub lock_timeout: Duration,
    /// Whether all is only tried: nothing listens, and what is kept isn't changed.
    pub only_check: bool,
}

fn not_left(errno: Errno) -> Error {
    Error::start("what the running skd left can't be had", errno)
}

impl KeptListeners {
    /// Adds the listeners of a service, and their files. Returns the files of unknown sockets, which an
    /// older skd has saved.
    pub fn add(
        &mut self,
        owner: usize,
        listeners: Vec<SavedListener>,
        mut files: Vec<SavedFile>,
    ) -> Vec<SavedFile> {
        for saved in listeners {
            let path = saved.address().path();
            let file = path.and_then(|path| {
                let index = files.iter().position(|file| file.path() == Some(path))?;
                Some(files.swap_remove(index))
            });
            let index = self.listeners.len();
            let same = self.by_address.entry(saved.address().clone()).or_default();
            same.push(index);
            self.by_owner.entry(owner).or_default().push(index);
            self.listeners
                .push(Some(KeptListener { owner, saved, file }));
        }
        files
    }

    /// Takes all listeners of a service as they are. `owns` says whether their files are this process's
    /// already: no other is left to remove them.
    pub fn take_all_of(&mut self, owner: usize, owns: bool) -> Result<Vec<Listener>, Error> {
        let all = self.by_owner.remove(&owner).unwrap_or_default();
        let all = all.into_iter();
        let all = all.filter_map(|index| self.listeners[index].take());
        all.map(|kept| {
            let mut listener = restore(kept)?;
            if let (true, Some(file)) = (owns, listener.file_mut()) {
                file.own();
            }
            Ok(listener)
        })
        .collect()
    }

    /// Takes the listeners that a service wants from those that are kept, and binds the others. `owner`
    /// is the service's own number, if it had one: only its own listeners are kept whose port the
    /// kernel chose.
    pub fn take(
        &mut self,
        wanted: &[Resolved<'_>],
        owner: Option<usize>,
        binding: Binding,
    ) -> Result<Vec<Listener>, Error> {
        let mut taken = Vec::new();
        for wanted in wanted {
            self.take_one(wanted, owner, binding, &mut taken)?;
        }
        check_groups(wanted, &taken)?;
        Ok(taken)
    }

    /// Takes those that nothing wants any more, each with its owner.
    pub fn take_rest(&mut self) -> Result<Vec<(usize, Listener)>, Error> {
        let rest = std::mem::take(&mut self.listeners).into_iter().flatten();
        rest.map(|kept| Ok((kept.owner, restore(kept)?))).collect()
    }

    fn take_one(
        &mut self,
        Resolved { listen, addresses }: &Resolved<'_>,
        owner: Option<usize>,
        binding: Binding,
        taken: &mut Vec<Listener>,
    ) -> Result<(), Error> {
        let before = taken.len();
        let mut missing = Vec::new();
        match &listen.endpoint {
            Endpoint::Inherited { source } => {
                let indices = (0..self.listeners.len()).filter(|index| {
                    let kept = self.listeners[*index].as_ref();
                    kept.is_some_and(|kept| kept.saved.is_from(*source))
                });
                for index in indices.collect::<Vec<_>>() {
                    taken.extend(self.claim(index, listen, binding)?);
                }
                return match taken.len() > before {
                    true => Ok(()),
                    false => Err(Error::Start(format!(
                        "{}: sockets can be inherited by a start alone; restart skd",
                        listen.option
                    ))),
                };
            }
            Endpoint::Unix { style, address, .. } => {
                let address = BoundAddress::Unix(address.clone());
                if let Some(index) = self.find(&ListenerAddress::new(*style, &address)) {
                    taken.extend(self.claim(index, listen, binding)?);
                    return Ok(());
                }
            }
            Endpoint::Inet { style, .. } => {
                for address in addresses {
                    match self.find_inet(*address, *style, owner) {
                        Some(index) => taken.extend(self.claim(index, listen, binding)?),
                        None => missing.push(*address),
                    }
                }
                if missing.is_empty() {
                    return Ok(());
                }
            }
        }
        // All addresses of an option have the port that the kernel chose for the first.
        let inet = |listener: &Listener| match listener.bound_address() {
            BoundAddress::Inet(address) => Some(address.port()),
            BoundAddress::Unix(_) => None,
        };
        if let Some(port) = taken.get(before).and_then(inet) {
            missing
                .iter_mut()
                .for_each(|address| address.set_port(port));
        }
        let others = taken.len() > before;
        let by = (binding.lock_timeout, others);
        for mut listener in bind::bind(listen, &missing, binding.datagrams, by)? {
            match binding.only_check {
                // Not at the end, before which this process may be killed.
                true => drop(listener.take_file()),
                false => listener.listen()?,
            }
            taken.push(listener);
        }
        Ok(())
    }

    fn find(&self, address: &ListenerAddress) -> Option<usize> {
        let same = self.by_address.get(address)?;
        same.iter().copied().find(|index| {
            // A unix socket that refuses clients does so for good.
            let kept = self.listeners[*index].as_ref();
            kept.is_some_and(|kept| address.inet().is_some() || !kept.saved.is_retiring())
        })
    }

    fn find_inet(&self, address: SocketAddr, style: Style, owner: Option<usize>) -> Option<usize> {
        if address.port() != 0 {
            return self.find(&ListenerAddress::new(style, &BoundAddress::Inet(address)));
        }
        let own = self.by_owner.get(&owner?)?;
        own.iter().copied().find(|index| {
            let is_it = |kept: &KeptListener| {
                let bound = kept.saved.address();
                let same = |bound: SocketAddr| bound.ip() == address.ip();
                bound.style() == style
                    && bound.inet().is_some_and(same)
                    && kept.saved.may_have_any_port()
                    && !kept.saved.is_retiring()
            };
            self.listeners[*index].as_ref().is_some_and(is_it)
        })
    }

    /// Takes one out, with the settings of this option.
    fn claim(
        &mut self,
        index: usize,
        listen: &Listen,
        binding: Binding,
    ) -> Result<Option<Listener>, Error> {
        let Some(kept) = self.listeners[index].take() else {
            return Ok(None);
        };
        let mut listener = restore(kept)?;
        if let Some(changes) = listener.resettle(listen)? {
            listener.change(&changes, &listen.option, binding.only_check)?;
        }
        Ok(Some(listener))
    }
}

fn restore(kept: KeptListener) -> Result<Listener, Error> {
    let file = kept.file.map(SocketFile::restore).transpose();
    let mut listener = Listener::restore(kept.saved).map_err(not_left)?;
    listener.give_file(file.map_err(not_left)?);
    Ok(listener)
}
