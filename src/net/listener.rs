//! A listener: a bound socket, with its file if it has one.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::open::cannot_listen;
use super::settings::{Changes, Settings};
use super::unix::SocketFile;
use super::{options, peer, variables};
use crate::config::{
    BoundAddress, Listen, ListenerId, ListenerName, Peer, SocketOption, SocketSource, Style,
    UnixAddress,
};
use crate::error::Error;
use crate::sys::aside::Aside;
use crate::sys::backlog::Backlog;
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::sockets;

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    /// Dropped before the socket: while the socket is open, the inode number of its file can't be
    /// reused.
    file: Option<SocketFile>,
    socket: Socket,
    style: Style,
    bound_address: BoundAddress,
    /// Its number among those of the daemon, once it has one.
    id: ListenerId,
    backlog: Option<i32>,
    /// What else was asked for, unless an older skd has saved it.
    settings: Option<Settings>,
    /// Shared with its pending clients, if it is closed as soon as those that have come are served.
    retiring: Option<LastClient>,
    /// Whether they are.
    drained: AtomicBool,
    /// Whether it is closed, though others refer to it.
    closed: AtomicBool,
    /// The state of an inherited socket.
    inherited: Option<Inherited>,
    /// Whether the kernel chose the port and skd prints it. Of several sockets of one option, this
    /// is set for the first.
    announce: bool,
    /// Whether its clients may pass descriptors to handlers.
    accepts_descriptors: bool,
    /// Whether its socket and its connections may hold descriptors that clients have passed along.
    holds_descriptors: bool,
    /// Its last descriptor then: when it is closed, there may be no number for another.
    last: Mutex<Option<OwnedFd>>,
    variables: Box<[CString]>,
}

/// A pending client of a listener that is closed as soon as its clients are served; and the listener.
#[derive(Clone, Debug, Default)]
pub struct LastClient(Arc<()>);

impl LastClient {
    fn are_several(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// What is done with a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// skd accepts connections.
    Accept,
    /// skd receives datagrams.
    Receive,
    /// A handler gets the listener itself.
    WaitMode,
}

#[derive(Debug)]
struct Inherited {
    /// The name that the other program has for it.
    name: Option<String>,
    is_listening: bool,
    /// The options to set on it.
    options: Vec<SocketOption>,
    /// The number of connections in the backlog that came before the options were set. They
    /// haven't inherited them.
    early: AtomicU32,
    /// Whether they have a linger time that another program had set.
    early_linger: bool,
}

/// A socket that another program has made, as it was found.
#[derive(Debug)]
pub(super) struct FoundSocket {
    pub(super) socket: Socket,
    pub(super) style: Style,
    pub(super) bound_address: BoundAddress,
    pub(super) is_listening: bool,
}

/// A listener as it is saved for the next binary.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedListener {
    socket: i32,
    address: ListenerAddress,
    /// Whether another program has made it.
    inherited: bool,
    /// Whether its clients may pass descriptors.
    accepts_descriptors: bool,
    /// What else was asked for.
    #[serde(default)]
    settings: Option<Settings>,
    /// Whether it is closed as soon as the clients that have come are served.
    #[serde(default)]
    retiring: bool,
}

/// The style and the bound address of a listener, by which another process knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ListenerAddress {
    style: Style,
    bound_address: SavedAddress,
}

/// A bound address, with paths and names as bytes, since they may not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum SavedAddress {
    Inet(SocketAddr),
    Path(OsString),
    Abstract(Vec<u8>),
}

impl Listener {
    /// Returns the listener of a socket that was bound to this address.
    pub(super) fn new(
        listen: &Listen,
        socket: Socket,
        style: Style,
        bound_address: BoundAddress,
        file: Option<SocketFile>,
    ) -> Self {
        let settings = Settings::of(listen, &ListenerName(style, &bound_address));
        Self {
            variables: variables::of_listener(style, &bound_address),
            file,
            socket,
            style,
            bound_address,
            id: ListenerId::NONE,
            backlog: listen.backlog,
            settings: Some(settings),
            retiring: None,
            drained: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            inherited: None,
            announce: false,
            accepts_descriptors: listen.options.contains(&SocketOption::AcceptDescriptors),
            holds_descriptors: false,
            last: Mutex::default(),
        }
    }

    /// Returns the listener of an inherited socket. skd doesn't remove the file of such a socket.
    pub(super) fn inherited(listen: &Listen, found: FoundSocket, name: Option<String>) -> Self {
        let FoundSocket {
            socket,
            style,
            bound_address,
            is_listening,
        } = found;
        let inet = matches!(bound_address, BoundAddress::Inet(_));
        let inherited = Inherited {
            name,
            is_listening,
            options: options::for_bound(&listen.options, style, inet),
            early: AtomicU32::new(0),
            early_linger: false,
        };
        let mut listener = Self::new(listen, socket, style, bound_address, None);
        listener.inherited = Some(inherited);
        listener
    }

    /// Returns its number among the listeners of the daemon.
    pub fn id(&self) -> ListenerId {
        self.id
    }

    /// Gives it this number.
    pub fn set_id(&mut self, id: ListenerId) {
        self.id = id;
    }

    /// Has the port printed, which the kernel chose.
    pub(super) fn announce_port(&mut self) {
        self.announce = true;
    }

    /// Saves the listener for the next binary. Its file is saved separately.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedListener, Errno> {
        Ok(SavedListener {
            socket: to.pass(&self.socket)?,
            address: self.address(),
            inherited: self.inherited.is_some(),
            accepts_descriptors: self.accepts_descriptors,
            settings: self.settings.clone(),
            retiring: self.is_retiring(),
        })
    }

    /// Returns what another process knows it by.
    pub fn address(&self) -> ListenerAddress {
        ListenerAddress::new(self.style, &self.bound_address)
    }

    /// Restores a listener of the previous binary, which listens already.
    pub fn restore(saved: SavedListener) -> Result<Self, Errno> {
        let ListenerAddress {
            style,
            bound_address,
        } = saved.address;
        let bound_address = match bound_address {
            SavedAddress::Inet(address) => BoundAddress::Inet(address),
            SavedAddress::Path(path) => BoundAddress::Unix(UnixAddress::Path(path.into())),
            SavedAddress::Abstract(name) => BoundAddress::Unix(UnixAddress::Abstract(name)),
        };
        Ok(Self {
            file: None,
            socket: descriptors::claim(saved.socket)?.into(),
            style,
            variables: variables::of_listener(style, &bound_address),
            bound_address,
            id: ListenerId::NONE,
            backlog: None,
            settings: saved.settings,
            retiring: saved.retiring.then(LastClient::default),
            drained: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            inherited: saved.inherited.then_some(Inherited {
                name: None,
                is_listening: true,
                options: Vec::new(),
                early: AtomicU32::new(0),
                early_linger: false,
            }),
            announce: false,
            accepts_descriptors: saved.accepts_descriptors,
            holds_descriptors: false,
            last: Mutex::default(),
        })
    }

    /// Gives it the settings of this option instead of those that it was restored with. Returns what
    /// has to change about its socket, or the reason why that can't be done.
    pub(super) fn resettle(&mut self, listen: &Listen) -> Result<Option<Changes>, Error> {
        let name = ListenerName(self.style, &self.bound_address);
        let new = Settings::of(listen, &name);
        let mut changes = match &self.settings {
            Some(old) if *old != new => Some(new.changes(old, &listen.option, &name)?),
            _ => None,
        };
        if self.retiring.take().is_some() {
            changes.get_or_insert_default().revive = true;
        }
        self.settings = Some(new);
        self.accepts_descriptors = listen.options.contains(&SocketOption::AcceptDescriptors);
        Ok(changes)
    }

    /// Makes these changes, or with `only_check` predicts whether that would fail.
    pub(super) fn change(
        &self,
        changes: &Changes,
        option: &str,
        only_check: bool,
    ) -> Result<(), Error> {
        let (name, file) = (self.listener_name(), self.file.as_ref());
        match only_check {
            true => changes.check(option, &name, file),
            false => changes.make(option, &name, (&self.socket, file)),
        }
    }

    pub(super) fn file_mut(&mut self) -> Option<&mut SocketFile> {
        self.file.as_mut()
    }

    /// Gives it the file that was saved separately.
    pub(super) fn give_file(&mut self, file: Option<SocketFile>) {
        self.file = file;
    }

    /// Has it closed as soon as the clients that have come are served: it isn't configured any more.
    pub fn retire(&mut self) {
        self.retiring.get_or_insert_default();
    }

    /// Whether it is closed as soon as the clients that have come are served.
    pub fn is_retiring(&self) -> bool {
        self.retiring.is_some()
    }

    /// What a client has while it is pending. Until it has a handler the listener stays open: with it,
    /// the client is saved for the next process.
    pub fn last_client(&self) -> Option<LastClient> {
        self.retiring.clone()
    }

    /// Whether its last clients have all been accepted, and none is pending.
    pub fn may_be_closed(&self) -> bool {
        let pending = self.retiring.as_ref().is_some_and(LastClient::are_several);
        self.is_drained() && !self.is_closed() && !pending
    }

    /// Notes that no client waits, of a listener that refuses new ones. Returns whether that is news.
    pub fn note_drained(&self) -> bool {
        !self.drained.swap(true, Ordering::SeqCst)
    }

    /// Whether no client waits, of a listener that refuses new ones: then its socket may be closed.
    pub fn is_drained(&self) -> bool {
        // Read for each wake-up; nothing else is ordered by it.
        self.drained.load(Ordering::Relaxed)
    }

    /// Whether it is closed, though others refer to it.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether another program has made its socket.
    pub fn is_inherited(&self) -> bool {
        self.inherited.is_some()
    }

    /// Has the kernel refuse descriptors that clients pass along, unless they may. For a listener
    /// that is served from now on. Fails for want of a descriptor.
    pub fn refuse_descriptors(&mut self, serving: Serving) -> Result<(), Errno> {
        if self.is_unix() {
            let wanted = self.accepts_descriptors && serving != Serving::Receive;
            let refused = !wanted && sockets::refuse_descriptors(&self.socket).is_ok();
            // The backlog of another program may have older connections, and a handler that gets
            // the listener can change it.
            let others = self.inherited.is_some() || serving == Serving::WaitMode;
            self.holds_descriptors = !refused || others;
        }
        if self.holds_descriptors {
            self.last = Mutex::new(Some(descriptors::copy_above(&self.socket, 3)?));
        }
        Ok(())
    }

    /// Clears the linger time of a TCP socket that another program has set on it (socket(7),
    /// `SO_LINGER`). Connections inherit it, and skd's last close of one would wait. For a listener
    /// from which skd accepts.
    pub fn clear_linger(&mut self) -> Result<(), Errno> {
        if let Some(inherited) = &mut self.inherited {
            let inet = matches!(self.bound_address, BoundAddress::Inet(_));
            if inet && sockets::lingers_at_close(&self.socket) {
                sockets::clear_linger(&self.socket)?;
                inherited.early_linger = true;
                inherited.count_early(&self.socket);
            }
        }
        Ok(())
    }

    /// Whether it is a unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self.bound_address, BoundAddress::Unix(_))
    }

    /// Whether its socket and its connections may hold descriptors that clients have passed along,
    /// before a handler has a connection. Then to close or to receive may be the last close of any
    /// file, and take any time.
    pub fn holds_descriptors(&self) -> bool {
        self.holds_descriptors
    }

    /// Returns the style of the socket.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Starts to listen, if the style has connections (listen(2)).
    pub fn listen(&self) -> Result<(), Error> {
        let mut is_listening = false;
        if let Some(inherited) = &self.inherited {
            is_listening = inherited.is_listening;
            options::set(&self.socket, &inherited.options, &self.listener_name())?;
            if is_listening && !inherited.options.is_empty() {
                inherited.count_early(&self.socket);
            }
        }
        if !self.style.has_connections() {
            return Ok(());
        }
        // A second listen(2) would change the backlog that the other program has set.
        if !is_listening || self.backlog.is_some() {
            // The kernel reduces it to its limit.
            self.socket
                .listen(self.backlog.unwrap_or(i32::MAX))
                .map_err(|reason| {
                    let address = match self.bound_address {
                        BoundAddress::Inet(address) => Some(address),
                        BoundAddress::Unix(_) => None,
                    };
                    cannot_listen(self, address, &reason)
                })?;
        }
        Ok(())
    }

    /// Returns the port to print, if the kernel chose it.
    pub fn announced_port(&self) -> Option<u16> {
        match self.bound_address {
            BoundAddress::Inet(address) if self.announce => Some(address.port()),
            _ => None,
        }
    }

    /// Returns the bound address.
    pub fn bound_address(&self) -> &BoundAddress {
        &self.bound_address
    }

    /// Returns its name in messages.
    pub fn listener_name(&self) -> ListenerName<'_> {
        ListenerName(self.style, &self.bound_address)
    }

    /// Returns its name in LISTEN_FDNAMES: the inherited name, or else its protocol.
    pub fn name(&self) -> &str {
        let inherited = self
            .inherited
            .as_ref()
            .and_then(|inherited| inherited.name.as_deref());
        inherited.unwrap_or(match (self.style, &self.bound_address) {
            (Style::Datagram, BoundAddress::Inet(_)) => "udp",
            (_, BoundAddress::Inet(_)) => "tcp",
            (Style::Stream, BoundAddress::Unix(_)) => "unix-stream",
            (Style::Seqpacket, BoundAddress::Unix(_)) => "unix-seqpacket",
            (Style::Datagram, BoundAddress::Unix(_)) => "unix-dgram",
        })
    }

    /// Returns the environment variables of a handler that depend on the listener, as
    /// `NAME=VALUE`. There are none for a proxied client, which called an address of the proxy.
    pub fn variables(&self, peer: &Peer) -> &[CString] {
        match peer {
            Peer::Proxied(_) => &[],
            _ => &self.variables,
        }
    }

    /// Returns the variables that all these listeners have in common.
    pub fn common_variables(listeners: &[Self]) -> Vec<CString> {
        let Some((first, others)) = listeners.split_first() else {
            return Vec::new();
        };
        let common = |line: &&CString| others.iter().all(|other| other.variables.contains(line));
        first.variables.iter().filter(common).cloned().collect()
    }

    /// Accepts a connection (accept4(2)) and returns its peer too. The error is the kernel's.
    pub fn accept(&self) -> io::Result<(Socket, Peer)> {
        let (connection, address) = self.socket.accept().map_err(|reason| {
            if self.is_useless(&reason) {
                return Errno::EINVAL.into();
            }
            reason
        })?;
        match &self.inherited {
            Some(inherited) if inherited.takes_early() => {
                options::set_on_connection(&connection, &inherited.options);
                if inherited.early_linger {
                    let _ = sockets::clear_linger(&connection);
                }
            }
            _ => {}
        }
        let peer = match (&self.bound_address, address.as_socket()) {
            (BoundAddress::Inet(local), Some(remote)) => peer::tcp(&connection, *local, remote),
            _ => peer::unix_stream(&connection),
        };
        Ok((connection, peer))
    }

    /// Whether there was no connection because the socket was shut down (shutdown(2)).
    ///
    /// accept(2) returns EINVAL for such a TCP socket. For a unix socket it returns EAGAIN, and
    /// the socket stays readable. The extra system call is made only if there is no connection,
    /// and only for inherited sockets, which other processes can shut down.
    fn is_useless(&self, reason: &io::Error) -> bool {
        self.inherited.is_some()
            && reason.kind() == io::ErrorKind::WouldBlock
            && matches!(self.bound_address, BoundAddress::Unix(_))
            && sockets::is_shut_down(&self.socket)
    }

    /// Has the kernel report the destination of each datagram that skd receives. `per_peer` says
    /// whether each client has a handler, for which clients need addresses.
    ///
    /// [`bind_all`](super::bind_all) has done so before it bound a socket. It is repeated here for
    /// sockets that another process has bound.
    pub fn prepare_to_receive(&self, per_peer: bool) -> Result<(), Error> {
        match &self.bound_address {
            BoundAddress::Unix(_) if per_peer => Err(Error::Start(format!(
                "--datagram-mode per-peer can't be used with {self}: clients of unix sockets \
                 mostly have no address; use per-packet"
            ))),
            _ => options::report_destinations(self, &self.listener_name()),
        }
    }

    /// Returns the sender of a datagram with this source address.
    pub fn sender(&self, address: Option<SocketAddr>) -> Peer {
        match (&self.bound_address, address) {
            (BoundAddress::Inet(_), Some(remote)) => Peer::udp(remote),
            _ => Peer::LocalDatagram,
        }
    }

    /// Stops new connections as far as possible, while connections in the backlog can still be
    /// accepted. So closing the socket afterwards resets none of them.
    ///
    /// An inherited socket is left alone, since another process may still use it.
    pub fn refuse(&self) {
        if self.inherited.is_some() {
            return;
        }
        let _ = match self.bound_address {
            BoundAddress::Inet(_) => sockets::ignore_new(&self.socket),
            BoundAddress::Unix(_) => self.socket.shutdown(Shutdown::Read),
        };
    }

    /// Closes the socket while others still refer to the listener. Its descriptor becomes a copy
    /// of `by` until the listener is dropped. Connections that were never accepted end with it: if
    /// that could wait, the last close is another thread's.
    pub fn close(&self, by: impl AsFd) {
        self.closed.store(true, Ordering::SeqCst);
        // This fails only if a descriptor isn't open.
        let _ = descriptors::replace(&self.socket, by);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        drop(last.take().map(Aside::from));
    }

    /// Returns the socket's file, which has to be dropped before the socket is closed.
    pub fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }
}

impl ListenerAddress {
    /// What another process knows such a listener by.
    pub fn new(style: Style, bound_address: &BoundAddress) -> Self {
        let bound_address = match bound_address {
            BoundAddress::Inet(address) => SavedAddress::Inet(*address),
            BoundAddress::Unix(UnixAddress::Path(path)) => SavedAddress::Path(path.into()),
            BoundAddress::Unix(UnixAddress::Abstract(name)) => SavedAddress::Abstract(name.clone()),
        };
        Self {
            style,
            bound_address,
        }
    }

    /// The path of its file.
    pub(super) fn path(&self) -> Option<&OsStr> {
        match &self.bound_address {
            SavedAddress::Path(path) => Some(path),
            SavedAddress::Inet(_) | SavedAddress::Abstract(_) => None,
        }
    }

    pub(super) fn inet(&self) -> Option<SocketAddr> {
        match &self.bound_address {
            SavedAddress::Inet(address) => Some(*address),
            SavedAddress::Path(_) | SavedAddress::Abstract(_) => None,
        }
    }

    /// The style of the socket.
    pub fn style(&self) -> Style {
        self.style
    }
}

impl SavedListener {
    /// Returns its style and bound address.
    pub fn address(&self) -> &ListenerAddress {
        &self.address
    }

    /// Whether it is closed as soon as the clients that have come are served.
    pub fn is_retiring(&self) -> bool {
        self.retiring
    }

    /// Whether the kernel chose its port, as far as is known.
    pub(super) fn may_have_any_port(&self) -> bool {
        self.settings.as_ref().is_none_or(|it| it.any_port)
    }

    /// Whether it was inherited from this source, as far as is known.
    pub(super) fn is_from(&self, source: SocketSource) -> bool {
        let settings = self.settings.as_ref();
        self.inherited && settings.is_none_or(|it| it.source == Some(source))
    }
}

impl Inherited {
    /// Counts the connections in the backlog, which are early from now on.
    fn count_early(&self, socket: &Socket) {
        // All connections count as early if the kernel doesn't tell the length.
        let early = Backlog::default().length(socket).unwrap_or(u32::MAX);
        self.early.store(early, Ordering::Relaxed);
    }

    /// Whether the connection just accepted is an early one, and counts it.
    fn takes_early(&self) -> bool {
        let one_less = |early: u32| early.checked_sub(1);
        // Loaded first, since few of many connections are early.
        self.early.load(Ordering::Relaxed) > 0
            && self
                .early
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.holds_descriptors {
            self.close(io::stdin());
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listener_name().fmt(f)
    }
}
