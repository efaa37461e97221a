//! Listeners: sockets that are bound, and all of them or none.

use std::ffi::{CString, OsString};
use std::fmt;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::inherited::{Handed, Nature};
use super::multicast;
use super::options;
use super::peer;
use super::resolve::resolve;
use super::unix::{self, SocketFile};
use crate::config::{
    BoundAddress, Endpoint, Listen, ListenerName, Peer, SocketOption, Style, UnixAddress, scoped,
};
use crate::error::{Error, Reason};
use crate::report::{self, Event};
use crate::sys::backlog::Backlog;
use crate::sys::datagrams;
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::sockets;

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    /// Removed before the socket is closed: while that is open, the file's inode can't be
    /// another's.
    file: Option<SocketFile>,
    socket: Socket,
    style: Style,
    bound_address: BoundAddress,
    backlog: Option<i32>,
    /// What was found of a socket that somebody else has made.
    inherited: Option<Inherited>,
    /// Whether its port was left to the kernel, and is to be printed. Of several sockets of
    /// one option, the first says so.
    announce: bool,
    variables: Vec<CString>,
}

#[derive(Debug)]
struct Inherited {
    /// What the giver calls it.
    name: Option<String>,
    listens: bool,
    /// What it is to have.
    options: Vec<SocketOption>,
    /// How many of the next connections came before it had that, and inherited nothing.
    early: AtomicU32,
}

/// A listener for another image of this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedListener {
    socket: i32,
    address: ListenerAddress,
    /// Whether somebody else has made it.
    inherited: bool,
}

/// The style and the bound address of a listener, by which another process knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerAddress {
    style: Style,
    bound_address: SavedAddress,
}

/// A path, or an abstract name, as bytes: they needn't be text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum SavedAddress {
    Inet(SocketAddr),
    Path(OsString),
    Abstract(Vec<u8>),
}

/// A listener of the command line with the addresses that its name stands for.
#[derive(Debug)]
pub struct Resolved<'a> {
    pub(super) listen: &'a Listen,
    pub(super) addresses: Vec<SocketAddr>,
}

impl<'a> Resolved<'a> {
    /// Looks up its name, if it has one.
    pub fn of(listen: &'a Listen) -> Result<Self, Error> {
        let addresses = match &listen.endpoint {
            Endpoint::Inet { host, port, .. } => resolve(&listen.option, host, *port)?,
            Endpoint::Unix { .. } | Endpoint::Inherited { .. } => Vec::new(),
        };
        Ok(Self { listen, addresses })
    }
}

/// Looks up every name, before anything is bound.
pub fn resolve_all(wanted: &[Listen]) -> Result<Vec<Resolved<'_>>, Error> {
    wanted.iter().map(Resolved::of).collect()
}

/// Binds everything, or nothing: what was bound before a failure is let go and removed. What
/// was handed over takes its place in the order of the command line.
pub fn bind_all(wanted: &[Resolved<'_>], mut saved: Vec<Handed>) -> Result<Vec<Listener>, Error> {
    let mut listeners = Vec::new();
    for Resolved { listen, addresses } in wanted {
        match &listen.endpoint {
            Endpoint::Inherited { by } => {
                let these = saved.extract_if(.., |saved| saved.by == *by);
                listeners.extend(these.map(|saved| saved.listener));
            }
            Endpoint::Inet { style, .. } => {
                listeners.extend(bind_inet(listen, addresses, *style)?);
            }
            Endpoint::Unix {
                style,
                address,
                mode,
                owner,
            } => {
                let socket = Socket::new(Domain::UNIX, kind(*style), None)
                    .map_err(|reason| unusable(listen, &reason))?;
                let bound_address = BoundAddress::Unix(address.clone());
                options::set(
                    &socket,
                    &listen.options,
                    &ListenerName(*style, &bound_address),
                )?;
                let file = match address {
                    UnixAddress::Path(path) => {
                        Some(unix::bind(&listen.option, &socket, path, *mode, *owner)?)
                    }
                    UnixAddress::Abstract(name) => {
                        bind_abstract(&socket, name)
                            .map_err(|reason| cannot_bind(listen, None, &reason))?;
                        None
                    }
                };
                listeners.push(Listener::new(
                    listen,
                    socket,
                    *style,
                    bound_address,
                    file,
                    false,
                ));
            }
        }
    }
    let udp = |listener: &Listener| match listener.bound_address {
        BoundAddress::Inet(address) if listener.style == Style::Datagram => Some(address),
        _ => None,
    };
    let udp: Vec<_> = listeners.iter().filter_map(udp).collect();
    // The same for all.
    let options = wanted.first().map_or(&[][..], |it| &it.listen.options);
    match multicast::groups(options).find_map(|group| multicast::unheard(group, &udp)) {
        Some(error) => Err(error),
        None => Ok(listeners),
    }
}

/// How often a free port is sought that all addresses of an option have free.
const PORT_TRIES: u32 = 64;

fn bind_inet(
    listen: &Listen,
    addresses: &[SocketAddr],
    style: Style,
) -> Result<Vec<Listener>, Error> {
    let any_port = addresses.iter().all(|address| address.port() == 0);
    let mut tries = if any_port { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_addresses(listen, addresses, style) {
            Err((Errno::EADDRINUSE, _)) if tries > 0 => {}
            result => return result.map_err(|(_, error)| error),
        }
    }
}

fn bind_addresses(
    listen: &Listen,
    addresses: &[SocketAddr],
    style: Style,
) -> Result<Vec<Listener>, (Errno, Error)> {
    let mut bound: Vec<Listener> = Vec::new();
    let mut passed_over = Vec::new();
    let mut chosen_port = None;
    // Of UDP ports, the kernel counts those as free which others share.
    let any_port = addresses.iter().any(|address| address.port() == 0);
    let (later, first): (Vec<_>, Vec<_>) = listen.options.iter().cloned().partition(|option| {
        any_port && style == Style::Datagram && *option == SocketOption::ReusePort
    });
    for address in addresses {
        let mut address = *address;
        if let Some(port) = chosen_port {
            address.set_port(port);
        }
        let failed = |reason: io::Error| {
            let errno = reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            (errno, cannot_bind(listen, Some(address), &reason))
        };
        let opened = open(address, style).map_err(failed).and_then(|socket| {
            let bound_address = BoundAddress::Inet(address);
            let set = |options: &[SocketOption]| {
                options::set(&socket, options, &ListenerName(style, &bound_address))
                    // Nothing that another address or port would mend.
                    .map_err(|error| (Errno::UnknownErrno, error))
            };
            set(&first)?;
            socket.bind(&address.into()).map_err(failed)?;
            set(&later)?;
            let local = socket.local_addr().map_err(failed)?.as_socket();
            Ok((socket, local.unwrap_or(address)))
        });
        let (socket, address) = match opened {
            Ok(opened) => opened,
            Err((errno @ (Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT), error)) => {
                passed_over.push((address, errno, error));
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let announce = addresses[0].port() == 0 && chosen_port.is_none();
        chosen_port = Some(address.port());
        let bound_address = BoundAddress::Inet(address);
        bound.push(Listener::new(
            listen,
            socket,
            style,
            bound_address,
            None,
            announce,
        ));
    }
    if bound.is_empty() {
        return match passed_over.into_iter().next() {
            Some((_, errno, error)) => Err((errno, error)),
            None => Err((
                Errno::EADDRNOTAVAIL,
                Error::Start(format!("{}: there is no address to bind", listen.option)),
            )),
        };
    }
    for (address, errno, _) in passed_over {
        let bound_address = BoundAddress::Inet(address);
        let listener = ListenerName(style, &bound_address);
        report::event(Event::PassedOver(listener, errno));
    }
    Ok(bound)
}

/// A socket for an address, to be bound.
pub(super) fn open(address: SocketAddr, style: Style) -> io::Result<Socket> {
    let protocol = match style.has_connections() {
        true => Protocol::TCP,
        false => Protocol::UDP,
    };
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, kind(style), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if style.has_connections() {
        // Not for UDP, where two daemons would then share the port.
        socket.set_reuse_address(true)?;
    }
    Ok(socket)
}

/// Listeners with connections don't block: of several threads that are woken, one gets the
/// connection. Datagram ones do, since their handler uses the socket itself.
fn kind(style: Style) -> Type {
    match style {
        Style::Stream => Type::STREAM.cloexec().nonblocking(),
        Style::Seqpacket => Type::SEQPACKET.cloexec().nonblocking(),
        Style::Datagram => Type::DGRAM.cloexec(),
    }
}

fn bind_abstract(socket: &Socket, name: &[u8]) -> io::Result<()> {
    // socket2 takes a path that begins with NUL for an abstract name.
    let mut path = vec![0];
    path.extend_from_slice(name);
    socket.bind(&SockAddr::unix(std::ffi::OsStr::from_bytes(&path))?)
}

fn unusable(listen: &Listen, reason: &io::Error) -> Error {
    Error::start(
        format!("{}: no socket can be made", listen.option),
        Errno::from_raw(reason.raw_os_error().unwrap_or(0)),
    )
}

pub(super) fn cannot_bind(
    listen: &Listen,
    address: Option<SocketAddr>,
    reason: &io::Error,
) -> Error {
    let option = &listen.option;
    let bound_address = address
        .map(|address| format!(" {}", BoundAddress::Inet(address)))
        .unwrap_or_default();
    let hint = match reason.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) if address.is_some() => {
            "; another program has the port, or a handler of an earlier daemon still holds it"
        }
        Some(Errno::EACCES) if address.is_some_and(|address| address.port() < 1024) => {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE"
        }
        _ => "",
    };
    Error::Start(format!(
        "{option}: can't bind{bound_address}: {}{hint}",
        reason.reason()
    ))
}

/// `what` is a listener.
pub(super) fn cannot_listen(what: impl fmt::Display, reason: &io::Error) -> Error {
    let hint = match reason.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => {
            "; another program listens there, or another listener of this command line"
        }
        _ => "",
    };
    let why = reason.reason();
    Error::Start(format!("can't listen on {what}: {why}{hint}"))
}

impl Listener {
    fn new(
        listen: &Listen,
        socket: Socket,
        style: Style,
        bound_address: BoundAddress,
        file: Option<SocketFile>,
        announce: bool,
    ) -> Self {
        Self {
            variables: variables(style, &bound_address),
            file,
            socket,
            style,
            bound_address,
            backlog: listen.backlog,
            inherited: None,
            announce,
        }
    }

    /// A socket that somebody else has made. If it has a file, that isn't ours to remove.
    pub(super) fn inherited(
        listen: &Listen,
        socket: Socket,
        nature: Nature,
        name: Option<String>,
    ) -> Self {
        let Nature {
            style,
            bound_address,
            listens,
        } = nature;
        let inherited = Inherited {
            name,
            listens,
            options: options::for_bound(
                &listen.options,
                style,
                matches!(bound_address, BoundAddress::Inet(_)),
            ),
            early: AtomicU32::new(0),
        };
        Self {
            inherited: Some(inherited),
            ..Self::new(listen, socket, style, bound_address, None, false)
        }
    }

    /// Lets the next image of this process have it; its file is handed over by itself.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedListener, Errno> {
        Ok(SavedListener {
            socket: to.pass(&self.socket)?,
            address: self.address(),
            inherited: self.inherited.is_some(),
        })
    }

    /// What another process knows it by.
    pub fn address(&self) -> ListenerAddress {
        ListenerAddress {
            style: self.style,
            bound_address: match &self.bound_address {
                BoundAddress::Inet(address) => SavedAddress::Inet(*address),
                BoundAddress::Unix(UnixAddress::Path(path)) => SavedAddress::Path(path.into()),
                BoundAddress::Unix(UnixAddress::Abstract(name)) => {
                    SavedAddress::Abstract(name.clone())
                }
            },
        }
    }

    /// What an earlier image had, which listens already.
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
            variables: variables(style, &bound_address),
            bound_address,
            backlog: None,
            inherited: saved.inherited.then_some(Inherited {
                name: None,
                listens: true,
                options: Vec::new(),
                early: AtomicU32::new(0),
            }),
            announce: false,
        })
    }

    /// Of what style it is.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Starts to listen, where the style has that (listen(2)).
    pub fn listen(&self) -> Result<(), Error> {
        let mut listens = false;
        if let Some(inherited) = &self.inherited {
            listens = inherited.listens;
            options::set(
                &self.socket,
                &inherited.options,
                &ListenerName(self.style, &self.bound_address),
            )?;
            if listens && !inherited.options.is_empty() {
                // All, where the kernel doesn't say how many.
                let early = Backlog::default().length(&self.socket);
                inherited
                    .early
                    .store(early.unwrap_or(u32::MAX), Ordering::Relaxed);
            }
        }
        if !self.style.has_connections() {
            return Ok(());
        }
        // Once more, it would change the backlog of a socket that another has made listen.
        if !listens || self.backlog.is_some() {
            // The kernel takes no more than its limit.
            self.socket
                .listen(self.backlog.unwrap_or(i32::MAX))
                .map_err(|reason| cannot_listen(self, &reason))?;
        }
        Ok(())
    }

    /// The port to be printed, if the kernel chose it.
    pub fn announced_port(&self) -> Option<u16> {
        match self.bound_address {
            BoundAddress::Inet(address) if self.announce => Some(address.port()),
            _ => None,
        }
    }

    /// Where it is bound.
    pub fn bound_address(&self) -> &BoundAddress {
        &self.bound_address
    }

    /// Returns its name in messages.
    pub fn listener_name(&self) -> ListenerName<'_> {
        ListenerName(self.style, &self.bound_address)
    }

    /// A name for it where sockets are handed on: the one that it was given, or its kind.
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

    /// What a handler's environment says whoever the client is, as `NAME=VALUE`; nothing, if a
    /// proxy has said what the client called.
    pub fn variables(&self, peer: &Peer) -> &[CString] {
        match peer {
            Peer::Proxied(_) => &[],
            _ => &self.variables,
        }
    }

    /// What the environments of the handlers of all these say alike, whoever the client is.
    pub fn common_variables(listeners: &[Self]) -> Vec<CString> {
        let Some((first, others)) = listeners.split_first() else {
            return Vec::new();
        };
        let common = |line: &&CString| others.iter().all(|other| other.variables.contains(line));
        first.variables.iter().filter(common).cloned().collect()
    }

    /// Accepts a connection (accept4(2)) and says whose it is; the error is the kernel's.
    pub fn accept(&self) -> io::Result<(Socket, Peer)> {
        let (connection, address) = self.socket.accept().map_err(|reason| {
            if self.is_useless(&reason) {
                return Errno::EINVAL.into();
            }
            reason
        })?;
        if let Some(inherited) = &self.inherited
            && inherited.takes_early()
        {
            options::set_on_connection(&connection, &inherited.options);
        }
        let peer = match (&self.bound_address, address.as_socket()) {
            (BoundAddress::Inet(local), Some(remote)) => peer::tcp(&connection, *local, remote),
            _ => peer::unix_stream(&connection),
        };
        Ok((connection, peer))
    }

    /// Whether an accept found nobody because the socket was shut down (shutdown(2)). A unix
    /// socket says no more than that nobody waits, and looks readable for ever; TCP says EINVAL.
    /// One more system call where nobody waits, but only for a socket that others have too.
    fn is_useless(&self, reason: &io::Error) -> bool {
        self.inherited.is_some()
            && reason.kind() == io::ErrorKind::WouldBlock
            && matches!(self.bound_address, BoundAddress::Unix(_))
            && sockets::is_shut_down(&self.socket)
    }

    /// Has the socket say of datagrams that skd receives where they were sent to; each client may
    /// have its own handler, if the socket has clients with addresses of their own.
    pub fn prepare_to_receive(&self, per_peer: bool) -> Result<(), Error> {
        match &self.bound_address {
            BoundAddress::Inet(address) => datagrams::tell_destination(self, address.is_ipv6())
                .map_err(|errno| {
                    Error::start(
                        format!("{self} can't say where datagrams are sent to"),
                        errno,
                    )
                }),
            BoundAddress::Unix(_) if per_peer => Err(Error::Start(format!(
                "--datagram-mode per-peer can't serve {self}: its clients mostly have no address to \
                 know them by; per-packet can"
            ))),
            BoundAddress::Unix(_) => Ok(()),
        }
    }

    /// Who a datagram's sender is.
    pub fn sender(&self, address: Option<SocketAddr>) -> Peer {
        match (&self.bound_address, address) {
            (BoundAddress::Inet(_), Some(remote)) => Peer::udp(remote),
            _ => Peer::LocalDatagram,
        }
    }

    /// Has whoever comes from now on refused, sooner or later, while those who have come can
    /// still be accepted: so none of them is reset when the socket is closed. As far as that
    /// can be had; and not for a socket that another process listens on as well.
    pub fn refuse(&self) {
        // Whoever gave it may want it again.
        if self.inherited.is_some() {
            return;
        }
        let _ = match self.bound_address {
            BoundAddress::Inet(_) => sockets::ignore_new(&self.socket),
            BoundAddress::Unix(_) => self.socket.shutdown(Shutdown::Read),
        };
    }

    /// Closes the socket, though others refer to this: its number, which stays taken until
    /// this is dropped, is `by`'s from now on.
    pub fn close(&self, by: impl AsFd) {
        // Fails only for what isn't open.
        let _ = descriptors::replace(&self.socket, by);
    }

    /// The socket's file, to be dropped before the socket is closed.
    pub fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }
}

impl Inherited {
    /// Whether the connection just accepted is one of the early ones.
    fn takes_early(&self) -> bool {
        let one_less = |early: u32| early.checked_sub(1);
        // Looked at first: of many connections, few are early.
        self.early.load(Ordering::Relaxed) > 0
            && self
                .early
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok()
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

/// The part of a handler's environment that is the same for all clients, written once.
fn variables(style: Style, bound_address: &BoundAddress) -> Vec<CString> {
    let mut lines = Vec::new();
    match (style, bound_address) {
        (Style::Datagram, BoundAddress::Inet(address)) => {
            lines.push(b"PROTO=UDP".to_vec());
            lines.push(format!("UDPLOCALPORT={}", address.port()).into_bytes());
        }
        (_, BoundAddress::Inet(address)) => {
            lines.push(b"PROTO=TCP".to_vec());
            if !address.ip().is_unspecified() {
                lines.push(format!("TCPLOCALIP={}", scoped(*address)).into_bytes());
            }
            lines.push(format!("TCPLOCALPORT={}", address.port()).into_bytes());
        }
        (style, BoundAddress::Unix(address)) => {
            lines.push(match style {
                Style::Stream => b"PROTO=UNIX-STREAM".to_vec(),
                Style::Seqpacket => b"PROTO=UNIX-SEQPACKET".to_vec(),
                Style::Datagram => b"PROTO=UNIX-DGRAM".to_vec(),
            });
            let mut line = b"UNIXLOCALPATH=".to_vec();
            match address {
                UnixAddress::Path(path) => line.extend_from_slice(path.as_os_str().as_bytes()),
                UnixAddress::Abstract(name) => {
                    line.push(b'@');
                    line.extend_from_slice(name);
                }
            }
            lines.push(line);
        }
    }
    // An abstract name may have a NUL inside, which no variable can: then it stays unset.
    lines
        .into_iter()
        .filter_map(|line| CString::new(line).ok())
        .collect()
}
