//! What a listener has besides its address, and how that changes while its socket stays bound.

use nix::errno::Errno;
use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::open;
use super::options;
use super::unix::{self, SocketFile};
use crate::config::{BoundAddress, Endpoint, Listen, ListenerName, SocketOption, SocketSource};
use crate::error::Error;
use crate::sys::sockets;

/// What a listener has besides its address, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    backlog: Option<i32>,
    options: Vec<SocketOption>,
    /// The mode of its file.
    mode: Option<u32>,
    /// The owner of its file, and its group.
    owner: Option<(u32, Option<u32>)>,
    /// Whether the kernel chose the port.
    pub(super) any_port: bool,
    /// The source of an inherited socket.
    pub(super) source: Option<SocketSource>,
}

/// What changes about a listener that stays bound.
#[derive(Debug, Default)]
pub(super) struct Changes {
    set: Vec<SocketOption>,
    unset: Vec<SocketOption>,
    backlog: Option<i32>,
    mode: Option<Option<u32>>,
    owner: Option<(Uid, Option<Gid>)>,
    /// Whether it serves new clients again, which it refused.
    pub(super) revive: bool,
}

impl Settings {
    /// The settings of a socket with this name.
    pub(super) fn of(listen: &Listen, name: &ListenerName<'_>) -> Self {
        let (mut mode, mut owner, mut any_port, mut source) = (None, None, false, None);
        match &listen.endpoint {
            Endpoint::Inet { port, .. } => any_port = *port == 0,
            Endpoint::Inherited { source: of } => source = Some(*of),
            Endpoint::Unix {
                mode: bits,
                owner: user,
                ..
            } => {
                mode = *bits;
                owner = user.map(|(uid, gid)| (uid.as_raw(), gid.map(Gid::as_raw)));
            }
        }
        Self {
            backlog: listen.backlog,
            options: options::of(&listen.options, name),
            mode,
            owner,
            any_port,
            source,
        }
    }

    /// Returns what has to be done about a bound socket so that it has these settings instead of
    /// `old` ones; an error if it can't be done without binding it anew.
    pub(super) fn changes(
        &self,
        old: &Self,
        option: &str,
        name: &ListenerName<'_>,
    ) -> Result<Changes, Error> {
        let mut changes = Changes::default();
        let added = self.options.iter().filter(|it| !old.options.contains(it));
        changes.set = added.cloned().collect();
        let same_kind = |one: &SocketOption, other: &SocketOption| match (one, other) {
            // There may be several.
            (SocketOption::Multicast(_), _) => one == other,
            // Its times stay.
            (SocketOption::KeepAlive(Some(_)), SocketOption::KeepAlive(None)) => false,
            _ => one.name() == other.name(),
        };
        let gone = |it: &&SocketOption| !self.options.iter().any(|new| same_kind(it, new));
        changes.unset = old.options.iter().filter(gone).cloned().collect();
        let fixed = |it: &&SocketOption| match it {
            SocketOption::ReusePort
            | SocketOption::FreeBind
            | SocketOption::Device(_)
            | SocketOption::AcceptDescriptors => true,
            SocketOption::KeepAlive(None) => old
                .options
                .iter()
                .any(|old| matches!(old, SocketOption::KeepAlive(Some(_)))),
            _ => false,
        };
        let mut fixed = changes.set.iter().filter(fixed);
        let stays = |it: &&SocketOption| !options::can_be_unset(it);
        if let Some(found) = fixed.next().or_else(|| changes.unset.iter().find(stays)) {
            return Err(Error::Start(format!(
                "{option}: --{} of {name} has changed, which takes a new socket, and skd keeps \
                 this one for its clients; restart skd, or leave the listener out for one reload",
                found.name()
            )));
        }
        if self.backlog != old.backlog {
            changes.backlog = Some(self.backlog.unwrap_or(i32::MAX));
        }
        if self.mode != old.mode {
            changes.mode = Some(self.mode);
        }
        if self.owner != old.owner {
            let (uid, gid) = self.owner.unwrap_or_else(|| {
                let (uid, gid) = (Uid::effective(), Gid::effective());
                (uid.as_raw(), Some(gid.as_raw()))
            });
            changes.owner = Some((Uid::from_raw(uid), gid.map(Gid::from_raw)));
        }
        Ok(changes)
    }
}

impl Changes {
    /// Returns the error of [`Self::make`], as far as it can be predicted without a change.
    pub(super) fn check(
        &self,
        option: &str,
        name: &ListenerName<'_>,
        file: Option<&SocketFile>,
    ) -> Result<(), Error> {
        let ListenerName(style, bound_address) = *name;
        if let (BoundAddress::Inet(address), false) = (bound_address, self.set.is_empty()) {
            // To join a group, even for a moment, sends packets to the network.
            let tried = self.set.iter();
            let tried = tried.filter(|it| !matches!(it, SocketOption::Multicast(_)));
            let tried: Vec<_> = tried.cloned().collect();
            let socket = open::inet(*address, style);
            let socket = socket
                .map_err(|why| Error::start(format!("{option}: can't open a socket"), why))?;
            options::set(&socket, &tried, name)?;
        }
        match file {
            Some(file) if self.mode.is_some() || self.owner.is_some() => {
                file.check_change(option, self.owner)
            }
            None if self.mode.is_some() || self.owner.is_some() => Err(Error::Start(format!(
                "{option}: the file of the socket isn't known any more, so its mode and owner \
                 can't be changed; restart skd"
            ))),
            _ => Ok(()),
        }
    }

    /// Changes the socket and its file.
    pub(super) fn make(
        &self,
        option: &str,
        name: &ListenerName<'_>,
        (socket, file): (&Socket, Option<&SocketFile>),
    ) -> Result<(), Error> {
        for gone in &self.unset {
            options::unset(socket, gone).map_err(|why| {
                let what = format!("{option}: --{} can't be unset on {name}", gone.name());
                Error::start(what, why)
            })?;
        }
        options::set(socket, &self.set, name)?;
        let ListenerName(style, _) = *name;
        if let (Some(backlog), true) = (self.backlog, style.has_connections()) {
            socket.listen(backlog).map_err(|why| {
                Error::start(format!("{option}: the backlog can't be changed"), why)
            })?;
        }
        if self.revive {
            sockets::serve_new(socket)
                .map_err(|why| Error::start(format!("{option}: {name} can't be reopened"), why))?;
        }
        if let Some(file) = file {
            // The owner first, which clears bits of the mode.
            if let Some(owner) = self.owner {
                file.change_owner(owner)
                    .map_err(|errno| unix::cannot_change_owner(option, errno))?;
            }
            if let Some(mode) = self.mode {
                file.change_mode(mode).map_err(|errno: Errno| {
                    Error::start(
                        format!("{option}: can't change the mode of the socket"),
                        errno,
                    )
                })?;
            }
        }
        Ok(())
    }
}
