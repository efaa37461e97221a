//! Listeners: sockets that are bound, and all of them or none.

use std::ffi::{CString, OsString};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::peer::{Peer, scoped};
use super::resolve::resolve;
use super::unix::{self, SocketFile};
use crate::config::{Endpoint, Listen, Style, UnixAddress};
use crate::error::{Error, Reason};
use crate::report::{self, Event};
use crate::sys::descriptors::{self, HandOver};
use crate::sys::sockets::set_receive_time;

/// A bound socket.
#[derive(Debug)]
pub struct Listener {
    /// Removed before the socket is closed: while that is open, the file's inode can't be
    /// another's.
    file: Option<SocketFile>,
    socket: Socket,
    style: Style,
    place: Place,
    backlog: Option<i32>,
    /// Whether its port was left to the kernel, and is to be printed. Of several sockets of
    /// one option, the first says so.
    announce: bool,
    variables: Vec<CString>,
}

/// Where a listener is.
#[derive(Clone, Debug)]
enum Place {
    Inet(SocketAddr),
    Unix(UnixAddress),
}

/// A listener for another image of this process.
#[derive(Debug, Serialize, Deserialize)]
pub struct HandedListener {
    socket: i32,
    style: Style,
    place: HandedPlace,
}

/// A path, or an abstract name, as bytes: they needn't be text.
#[derive(Debug, Serialize, Deserialize)]
enum HandedPlace {
    Inet(SocketAddr),
    Path(OsString),
    Abstract(Vec<u8>),
}

/// A listener of the command line with the addresses that its name stands for.
#[derive(Debug)]
pub struct Resolved<'a> {
    listen: &'a Listen,
    addresses: Vec<SocketAddr>,
}

/// Looks up every name, before anything is bound.
pub fn resolve_all(wanted: &[Listen]) -> Result<Vec<Resolved<'_>>, Error> {
    let resolved = wanted.iter().map(|listen| {
        let addresses = match &listen.endpoint {
            Endpoint::Inet { host, port, .. } => resolve(&listen.option, host, *port)?,
            Endpoint::Unix { .. } => Vec::new(),
        };
        Ok(Resolved { listen, addresses })
    });
    resolved.collect()
}

/// Binds everything, or nothing: what was bound before a failure is let go and removed.
pub fn bind_all(wanted: &[Resolved<'_>]) -> Result<Vec<Listener>, Error> {
    let mut listeners = Vec::new();
    for Resolved { listen, addresses } in wanted {
        match &listen.endpoint {
            Endpoint::Inet { nodelay, .. } => {
                listeners.extend(bind_inet(listen, addresses, *nodelay)?);
            }
            Endpoint::Unix {
                address,
                mode,
                owner,
            } => {
                let socket = Socket::new(Domain::UNIX, kind(listen.style), None)
                    .map_err(|reason| unusable(listen, &reason))?;
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
                let place = Place::Unix(address.clone());
                listeners.push(Listener::new(listen, socket, place, file, false)?);
            }
        }
    }
    Ok(listeners)
}

/// How often a free port is sought that all addresses of an option have free.
const PORT_TRIES: u32 = 64;

fn bind_inet(
    listen: &Listen,
    addresses: &[SocketAddr],
    nodelay: bool,
) -> Result<Vec<Listener>, Error> {
    let any_port = addresses.iter().all(|address| address.port() == 0);
    let mut tries = if any_port { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_addresses(listen, addresses, nodelay) {
            Err((Errno::EADDRINUSE, _)) if tries > 0 => {}
            result => return result.map_err(|(_, error)| error),
        }
    }
}

fn bind_addresses(
    listen: &Listen,
    addresses: &[SocketAddr],
    nodelay: bool,
) -> Result<Vec<Listener>, (Errno, Error)> {
    let mut bound: Vec<Listener> = Vec::new();
    let mut passed_over = Vec::new();
    let mut chosen_port = None;
    for address in addresses {
        let mut address = *address;
        if let Some(port) = chosen_port {
            address.set_port(port);
        }
        let opened = open(listen, address, nodelay).and_then(|socket| {
            let local = socket.local_addr()?.as_socket();
            Ok((socket, local.unwrap_or(address)))
        });
        let (socket, address) = match opened {
            Ok(opened) => opened,
            Err(reason) => {
                let errno = reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
                let error = cannot_bind(listen, Some(address), &reason);
                match errno {
                    Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT => {
                        passed_over.push((address, errno, error));
                        continue;
                    }
                    _ => return Err((errno, error)),
                }
            }
        };
        let announce = addresses[0].port() == 0 && chosen_port.is_none();
        chosen_port = Some(address.port());
        let place = Place::Inet(address);
        let listener = Listener::new(listen, socket, place, None, announce)
            .map_err(|error| (Errno::EIO, error))?;
        bound.push(listener);
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
        let socket = Named(listen.style, &Place::Inet(address));
        report::event(Event::PassedOver(&socket, &errno.desc()));
    }
    Ok(bound)
}

fn open(listen: &Listen, address: SocketAddr, nodelay: bool) -> io::Result<Socket> {
    let protocol = match listen.style {
        Style::Stream => Protocol::TCP,
        Style::Datagram => Protocol::UDP,
    };
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, kind(listen.style), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if listen.style == Style::Stream {
        // Not for UDP, where two daemons would then share the port.
        socket.set_reuse_address(true)?;
        if nodelay {
            // On Linux every accepted connection inherits it.
            socket.set_tcp_nodelay(true)?;
        }
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Stream listeners don't block: of several threads that are woken, one gets the
/// connection. Datagram ones do, since their handler uses the socket itself.
fn kind(style: Style) -> Type {
    match style {
        Style::Stream => Type::STREAM.cloexec().nonblocking(),
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

fn cannot_bind(listen: &Listen, address: Option<SocketAddr>, reason: &io::Error) -> Error {
    let option = &listen.option;
    let place = address
        .map(|address| format!(" {}", Place::Inet(address)))
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
        "{option}: can't bind{place}: {}{hint}",
        reason.reason()
    ))
}

impl Listener {
    fn new(
        listen: &Listen,
        socket: Socket,
        place: Place,
        file: Option<SocketFile>,
        announce: bool,
    ) -> Result<Self, Error> {
        Ok(Self {
            variables: variables(listen.style, &place),
            file,
            socket,
            style: listen.style,
            place,
            backlog: listen.backlog,
            announce,
        })
    }

    /// Lets the next image of this process have it; its file is handed over by itself.
    pub fn hand_over(&self, to: &mut HandOver) -> Result<HandedListener, Errno> {
        Ok(HandedListener {
            socket: to.pass(&self.socket)?,
            style: self.style,
            place: match &self.place {
                Place::Inet(address) => HandedPlace::Inet(*address),
                Place::Unix(UnixAddress::Path(path)) => HandedPlace::Path(path.into()),
                Place::Unix(UnixAddress::Abstract(name)) => HandedPlace::Abstract(name.clone()),
            },
        })
    }

    /// What an earlier image had, which listens already.
    pub fn resume(handed: HandedListener) -> Result<Self, Errno> {
        let place = match handed.place {
            HandedPlace::Inet(address) => Place::Inet(address),
            HandedPlace::Path(path) => Place::Unix(UnixAddress::Path(path.into())),
            HandedPlace::Abstract(name) => Place::Unix(UnixAddress::Abstract(name)),
        };
        Ok(Self {
            file: None,
            socket: descriptors::claim(handed.socket)?.into(),
            style: handed.style,
            variables: variables(handed.style, &place),
            place,
            backlog: None,
            announce: false,
        })
    }

    /// Streams or datagrams.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Starts to listen, where the style has that (listen(2)); has datagrams come with the time.
    pub fn listen(&self) -> Result<(), Error> {
        if self.style == Style::Datagram {
            set_receive_time(&self.socket, true)
                .map_err(|errno| Error::start(format!("no times of receipt on {self}"), errno))?;
        } else {
            // The kernel takes no more than its limit.
            self.socket
                .listen(self.backlog.unwrap_or(i32::MAX))
                .map_err(|reason| {
                    let hint = match reason.raw_os_error().map(Errno::from_raw) {
                        Some(Errno::EADDRINUSE) => "; another program listens there, or another listener of this command line",
                        _ => "",
                    };
                    let why = reason.reason();
                    Error::Start(format!("can't listen on {self}: {why}{hint}"))
                })?;
        }
        Ok(())
    }

    /// The port to be printed, if the kernel chose it.
    pub fn announced_port(&self) -> Option<u16> {
        match self.place {
            Place::Inet(address) if self.announce => Some(address.port()),
            _ => None,
        }
    }

    /// What a handler's environment says whoever the client is, as `NAME=VALUE`.
    pub fn variables(&self) -> &[CString] {
        &self.variables
    }

    /// Accepts a connection (accept4(2)) and says whose it is; the error is the kernel's.
    pub fn accept(&self) -> io::Result<(Socket, Peer)> {
        let (connection, address) = self.socket.accept()?;
        let peer = match (&self.place, address.as_socket()) {
            (Place::Inet(local), Some(remote)) => Peer::tcp(&connection, *local, remote),
            _ => Peer::unix_stream(&connection),
        };
        Ok((connection, peer))
    }

    /// Who a datagram's sender is.
    pub fn sender(&self, address: Option<SocketAddr>) -> Peer {
        match (&self.place, address) {
            (Place::Inet(_), Some(remote)) => Peer::udp(remote),
            _ => Peer::LocalDatagram,
        }
    }

    /// The socket's file, to be dropped before the socket is closed.
    pub fn take_file(&mut self) -> Option<SocketFile> {
        self.file.take()
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Named(self.style, &self.place).fmt(f)
    }
}

struct Named<'a>(Style, &'a Place);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match (self.0, self.1) {
            (Style::Stream, Place::Inet(_)) => "TCP",
            (Style::Datagram, Place::Inet(_)) => "UDP",
            (Style::Stream, Place::Unix(_)) => "unix stream",
            (Style::Datagram, Place::Unix(_)) => "unix datagram",
        };
        write!(f, "{protocol} {}", self.1)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => write!(f, "[{}]:{}", scoped(*address), address.port()),
            Self::Unix(address) => address.fmt(f),
        }
    }
}

/// The part of a handler's environment that is the same for all clients, written once.
fn variables(style: Style, place: &Place) -> Vec<CString> {
    let mut lines = Vec::new();
    match (style, place) {
        (Style::Stream, Place::Inet(address)) => {
            lines.push(b"PROTO=TCP".to_vec());
            if !address.ip().is_unspecified() {
                lines.push(format!("TCPLOCALIP={}", scoped(*address)).into_bytes());
            }
            lines.push(format!("TCPLOCALPORT={}", address.port()).into_bytes());
        }
        (Style::Datagram, Place::Inet(address)) => {
            lines.push(b"PROTO=UDP".to_vec());
            lines.push(format!("UDPLOCALPORT={}", address.port()).into_bytes());
        }
        (style, Place::Unix(address)) => {
            lines.push(match style {
                Style::Stream => b"PROTO=UNIX-STREAM".to_vec(),
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
