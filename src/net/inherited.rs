//! Sockets that somebody else has made and handed to this process: a service manager, a
//! super-server, a shell. What they are is asked of the sockets themselves.

use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::listener::Listener;
use crate::config::{
    BoundAddress, Endpoint, Listen, SocketSource, Style, UnixAddress, decimal, plain,
};
use crate::error::{Error, Reason};
use crate::sys::descriptors::{self, claim};

/// A listener that was handed over, and how.
#[derive(Debug)]
pub struct Handed {
    pub(super) by: SocketSource,
    pub(super) listener: Listener,
}

impl Handed {
    /// Returns whether it was handed over for one of these.
    pub fn is_of(&self, wanted: &[Listen]) -> bool {
        let by = |listen: &Listen| listen.endpoint == Endpoint::Inherited { by: self.by };
        wanted.iter().any(by)
    }
}

impl AsFd for Handed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// The first descriptor that a service manager hands over (sd_listen_fds(3)).
const FIRST: i32 = 3;

/// Takes over all sockets that were handed to this process and asked for, before anything
/// else is opened or closed. Nothing about them is changed yet.
pub fn take_over<'a>(wanted: impl IntoIterator<Item = &'a Listen>) -> Result<Vec<Handed>, Error> {
    let mut saved = Vec::new();
    // Which numbers were taken, and for which option.
    let mut taken: Vec<(i32, &str)> = Vec::new();
    for listen in wanted {
        let Endpoint::Inherited { by } = listen.endpoint else {
            continue;
        };
        let announced = match by {
            SocketSource::Number(number) => vec![(number, None)],
            SocketSource::Systemd => (FIRST..).zip(announced()?).collect(),
        };
        for (number, name) in announced {
            let what = match (by, &name) {
                (SocketSource::Number(_), _) => listen.option.clone(),
                (SocketSource::Systemd, None) => format!("{}, descriptor {number}", listen.option),
                (SocketSource::Systemd, Some(name)) => {
                    format!("{}, descriptor {number} ({name})", listen.option)
                }
            };
            if let Some((_, option)) = taken.iter().find(|(earlier, _)| *earlier == number) {
                return Err(Error::Usage(format!(
                    "{what}: it is taken by {option} already; leave out one or the other"
                )));
            }
            taken.push((number, &listen.option));
            let (socket, nature) =
                examine(number).map_err(|why| Error::Start(format!("{what}: {why}")))?;
            let listener = Listener::inherited(listen, socket, nature, name);
            saved.push(Handed { by, listener });
        }
    }
    // Otherwise it would stay open under that number as well.
    if taken.iter().any(|(number, _)| *number == 0) {
        descriptors::null()
            .and_then(|null| Ok(nix::unistd::dup2_stdin(null)?))
            .map_err(|reason| Error::start("standard input can't become /dev/null", reason))?;
    }
    Ok(saved)
}

/// Refuses those on which no PROXY header can be.
pub fn refuse_seqpacket(saved: &[Handed]) -> Result<(), Error> {
    let mut listeners = saved.iter().map(|saved| &saved.listener);
    match listeners.find(|listener| listener.style() == Style::Seqpacket) {
        None => Ok(()),
        Some(listener) => Err(Error::Start(format!(
            "--proxy-protocol can't be used with {listener}: a header is the beginning of a \
             stream"
        ))),
    }
}

/// Refuses those on which there are no connections, for the sake of an option.
pub fn refuse_datagrams(saved: &[Handed], option: &str) -> Result<(), Error> {
    let mut listeners = saved.iter().map(|saved| &saved.listener);
    match listeners.find(|listener| !listener.style().has_connections()) {
        None => Ok(()),
        Some(listener) => Err(Error::Usage(format!(
            "{option} can't be used with {listener}: handlers wait for connections; serve datagrams \
             by another skd"
        ))),
    }
}

/// The names of the sockets that the environment announces, as far as they have some: one
/// for each.
fn announced() -> Result<Vec<Option<String>>, Error> {
    let wrong = |why: String| Error::Usage(format!("--systemd: {why}"));
    let number = |name: &str| {
        let value = env::var_os(name).ok_or_else(|| {
            wrong(format!(
                "${name} isn't set: no sockets were handed over; start skd from a socket unit, \
                 or with systemd-socket-activate(1)"
            ))
        })?;
        decimal::<u32>(&value).ok_or_else(|| {
            let value = value.display();
            wrong(format!("${name} is '{value}', which is no number"))
        })
    };
    let (pid, count) = (number("LISTEN_PID")?, number("LISTEN_FDS")?);
    let own = std::process::id();
    if pid != own {
        return Err(wrong(format!(
            "$LISTEN_PID is {pid}, and this process is {own}: the sockets were handed to another \
             program; if that is a shell script, it has to exec skd"
        )));
    }
    if count == 0 {
        return Err(wrong(
            "$LISTEN_FDS is 0: no sockets were handed over".into(),
        ));
    }
    // So many at most can be open, and a name is kept for each.
    if count > i32::MAX as u32 / 2 || claim(FIRST + count as i32 - 1).is_err() {
        return Err(wrong(format!(
            "$LISTEN_FDS is {count}, and not so many descriptors are open, from {FIRST} up"
        )));
    }
    let Some(names) = env::var_os("LISTEN_FDNAMES") else {
        return Ok(vec![None; count as usize]);
    };
    let names: Vec<_> = names
        .to_string_lossy()
        .split(':')
        .map(str::to_owned)
        .collect();
    if names.len() != count as usize {
        let found = names.len();
        return Err(wrong(format!(
            "the number of names in $LISTEN_FDNAMES is {found}, and $LISTEN_FDS is {count}"
        )));
    }
    let name = |name: String| Some(name).filter(|name| !name.is_empty());
    Ok(names.into_iter().map(name).collect())
}

/// What a socket is, and whether it listens already.
#[derive(Debug)]
pub(super) struct Nature {
    pub(super) style: Style,
    pub(super) bound_address: BoundAddress,
    pub(super) listens: bool,
}

/// Takes over one descriptor and asks what it is; the error is a clause.
fn examine(number: i32) -> Result<(Socket, Nature), String> {
    let socket: Socket = match claim(number) {
        Ok(descriptor) => descriptor.into(),
        Err(Errno::EBADF) => return Err("no such descriptor is open".into()),
        Err(errno) => return Err(errno.desc().into()),
    };
    let kind = match socket.r#type() {
        Err(reason) if reason.raw_os_error() == Some(libc::ENOTSOCK) => {
            return Err("it isn't a socket".into());
        }
        kind => kind.map_err(said)?,
    };
    let domain = socket.domain().map_err(said)?;
    if ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain) {
        return Err("it is neither an internet nor a unix-domain socket".into());
    }
    let style = match kind {
        Type::STREAM => Style::Stream,
        Type::DGRAM => Style::Datagram,
        Type::SEQPACKET if domain == Domain::UNIX => Style::Seqpacket,
        Type::RAW => return Err(unserved("a raw")),
        _ => return Err(unserved("another")),
    };
    if domain != Domain::UNIX {
        let protocol = socket.protocol().map_err(said)?;
        let served = match style.has_connections() {
            true => [Protocol::TCP, Protocol::MPTCP].map(Some),
            false => [Protocol::UDP, Protocol::UDPLITE].map(Some),
        };
        if !served.contains(&protocol) {
            return Err("it is neither a TCP nor a UDP socket".into());
        }
    }
    if socket.peer_addr().is_ok() {
        return Err(match style.has_connections() {
            true => "it is a connection, and skd accepts connections itself; in a socket unit, \
                     write Accept=no"
                .into(),
            false => "it is connected to one peer, and would hear nobody else".into(),
        });
    }
    let bound_address = bound_address(&socket)?;
    let listens = style.has_connections() && socket.is_listener().map_err(said)?;
    let nature = Nature {
        style,
        bound_address,
        listens,
    };
    Ok((socket, nature))
}

fn unserved(kind: &str) -> String {
    format!("it is {kind} socket; skd serves streams, datagrams and unix sequential packets")
}

fn said(reason: io::Error) -> String {
    reason.reason()
}

/// Where a socket is bound (getsockname(2)).
fn bound_address(socket: &Socket) -> Result<BoundAddress, String> {
    let address = socket.local_addr().map_err(said)?;
    let found = if let Some(address) = address.as_socket() {
        (address.port() != 0).then(|| BoundAddress::Inet(plain(address)))
    } else if let Some(name) = address.as_abstract_namespace() {
        Some(BoundAddress::Unix(UnixAddress::Abstract(name.to_vec())))
    } else {
        let path = address.as_pathname().map(Path::to_owned);
        path.map(|path| BoundAddress::Unix(UnixAddress::Path(path)))
    };
    found.ok_or_else(|| "it has no address; whoever made it has to bind it".into())
}
