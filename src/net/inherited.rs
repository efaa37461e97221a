//! Listeners that another program has bound and left open for this process: a service manager, a
//! super-server, a shell. The sockets themselves tell their type and address.

use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::listener::{FoundSocket, Listener};
use crate::config::{
    BoundAddress, Endpoint, Listen, SocketSource, Style, UnixAddress, decimal, plain,
};
use crate::error::{Error, Reason};
use crate::sys::descriptors::{self, claim};

/// An inherited listener and its source.
#[derive(Debug)]
pub struct InheritedListener {
    pub(super) source: SocketSource,
    pub(super) listener: Listener,
}

impl InheritedListener {
    /// Returns whether it was inherited for one of these.
    pub fn is_of(&self, wanted: &[Listen]) -> bool {
        let source = self.source;
        let same = |listen: &Listen| listen.endpoint == Endpoint::Inherited { source };
        wanted.iter().any(same)
    }
}

impl AsFd for InheritedListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// The first descriptor that a service manager passes (sd_listen_fds(3)).
const FIRST: i32 = 3;

/// Takes over all inherited sockets that the command line names. Call this before anything else is
/// opened or closed. It changes nothing about the sockets.
pub fn inherit_all<'a>(
    wanted: impl IntoIterator<Item = &'a Listen>,
) -> Result<Vec<InheritedListener>, Error> {
    let mut found = Vec::new();
    // The descriptors taken so far, each with its option.
    let mut taken: Vec<(i32, &str)> = Vec::new();
    for listen in wanted {
        let Endpoint::Inherited { source } = listen.endpoint else {
            continue;
        };
        let announced = match source {
            SocketSource::Number(number) => vec![(number, None)],
            SocketSource::Systemd => (FIRST..).zip(announced()?).collect(),
        };
        for (number, name) in announced {
            let what = match (source, &name) {
                (SocketSource::Number(_), _) => listen.option.clone(),
                (SocketSource::Systemd, None) => format!("{}, descriptor {number}", listen.option),
                (SocketSource::Systemd, Some(name)) => {
                    format!("{}, descriptor {number} ({name})", listen.option)
                }
            };
            if let Some((_, option)) = taken.iter().find(|(earlier, _)| *earlier == number) {
                return Err(Error::Usage(format!(
                    "{what}: {option} takes it already; leave out one of them"
                )));
            }
            taken.push((number, &listen.option));
            let socket = examine(number).map_err(|why| Error::Start(format!("{what}: {why}")))?;
            let listener = Listener::inherited(listen, socket, name);
            found.push(InheritedListener { source, listener });
        }
    }
    // Otherwise the socket would stay open as standard input too.
    if taken.iter().any(|(number, _)| *number == 0) {
        descriptors::null()
            .and_then(|null| Ok(nix::unistd::dup2_stdin(null)?))
            .map_err(|reason| Error::start("can't open /dev/null as standard input", reason))?;
    }
    Ok(found)
}

/// Refuses sockets that can't have a PROXY header.
pub fn refuse_seqpacket(inherited: &[InheritedListener]) -> Result<(), Error> {
    let mut listeners = inherited.iter().map(|it| &it.listener);
    match listeners.find(|listener| listener.style() == Style::Seqpacket) {
        None => Ok(()),
        Some(listener) => Err(Error::Start(format!(
            "--proxy-protocol can't be used with {listener}: a header is the beginning of a \
             stream"
        ))),
    }
}

/// Refuses sockets that aren't streams of bytes, which TLS needs.
pub fn refuse_packets(inherited: &[InheritedListener]) -> Result<(), Error> {
    let mut listeners = inherited.iter().map(|it| &it.listener);
    match listeners.find(|listener| listener.style() != Style::Stream) {
        None => Ok(()),
        Some(listener) => Err(Error::Usage(format!(
            "--tls can't be used with {listener}: TLS is for streams of bytes, and not for packets; serve \
             these with another service"
        ))),
    }
}

/// Refuses datagram sockets, for which `option` can't be used.
pub fn refuse_datagrams(inherited: &[InheritedListener], option: &str) -> Result<(), Error> {
    let mut listeners = inherited.iter().map(|it| &it.listener);
    match listeners.find(|listener| !listener.style().has_connections()) {
        None => Ok(()),
        Some(listener) => Err(Error::Usage(format!(
            "{option} can't be used with {listener}: handlers wait for connections; serve datagrams \
             with another skd"
        ))),
    }
}

/// Returns the name of each socket that the environment announces, or `None` for a socket without
/// a name.
fn announced() -> Result<Vec<Option<String>>, Error> {
    let wrong = |why: String| Error::Usage(format!("--systemd: {why}"));
    let number = |name: &str| {
        let value = env::var_os(name).ok_or_else(|| {
            wrong(format!(
                "${name} isn't set, so there are no sockets; start skd from a socket unit, or with \
                 systemd-socket-activate(1)"
            ))
        })?;
        decimal::<u32>(&value).ok_or_else(|| {
            let value = Path::new(&value).display();
            wrong(format!("${name} is '{value}', which is not a number"))
        })
    };
    let (pid, count) = (number("LISTEN_PID")?, number("LISTEN_FDS")?);
    let own = std::process::id();
    if pid != own {
        return Err(wrong(format!(
            "$LISTEN_PID is {pid}, but this process is {own}: the sockets are for another \
             program; if that is a shell script, it has to exec skd"
        )));
    }
    if count == 0 {
        return Err(wrong("$LISTEN_FDS is 0, so there are no sockets".into()));
    }
    // More than this can't be open, and each one takes memory for its name.
    if count > i32::MAX as u32 / 2 || claim(FIRST + count as i32 - 1).is_err() {
        return Err(wrong(format!(
            "$LISTEN_FDS is {count}, but fewer descriptors are open, from {FIRST} up"
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
            "the number of names in $LISTEN_FDNAMES is {found}, but $LISTEN_FDS is {count}"
        )));
    }
    let name = |name: String| Some(name).filter(|name| !name.is_empty());
    Ok(names.into_iter().map(name).collect())
}

/// Takes over a descriptor and finds out what it is. The error is a clause.
fn examine(number: i32) -> Result<FoundSocket, String> {
    let socket: Socket = match claim(number) {
        Ok(descriptor) => descriptor.into(),
        Err(Errno::EBADF) => return Err("no such descriptor is open".into()),
        Err(errno) => return Err(errno.desc().into()),
    };
    let kind = match socket.r#type() {
        Err(reason) if reason.raw_os_error() == Some(libc::ENOTSOCK) => {
            return Err("it isn't a socket".into());
        }
        kind => kind.map_err(reason)?,
    };
    let domain = socket.domain().map_err(reason)?;
    if ![Domain::IPV4, Domain::IPV6, Domain::UNIX].contains(&domain) {
        return Err("it is neither an internet nor a unix-domain socket".into());
    }
    let style = match kind {
        Type::STREAM => Style::Stream,
        Type::DGRAM => Style::Datagram,
        Type::SEQPACKET if domain == Domain::UNIX => Style::Seqpacket,
        Type::RAW => return Err(unsupported("a raw")),
        _ => return Err(unsupported("another")),
    };
    if domain != Domain::UNIX {
        let protocol = socket.protocol().map_err(reason)?;
        let supported = match style.has_connections() {
            true => [Protocol::TCP, Protocol::MPTCP].map(Some),
            false => [Protocol::UDP, Protocol::UDPLITE].map(Some),
        };
        if !supported.contains(&protocol) {
            return Err("it is neither a TCP nor a UDP socket".into());
        }
    }
    if socket.peer_addr().is_ok() {
        return Err(match style.has_connections() {
            true => "it is a connection, but skd accepts connections itself; in a socket unit, \
                     write Accept=no"
                .into(),
            false => "it is connected to one peer, so it receives from no other".into(),
        });
    }
    Ok(FoundSocket {
        bound_address: bound_address(&socket)?,
        is_listening: style.has_connections() && socket.is_listener().map_err(reason)?,
        socket,
        style,
    })
}

fn unsupported(kind: &str) -> String {
    format!("it is {kind} socket; skd serves streams, datagrams and unix sequential packets")
}

fn reason(error: io::Error) -> String {
    error.reason()
}

/// Returns the bound address of a socket (getsockname(2)).
fn bound_address(socket: &Socket) -> Result<BoundAddress, String> {
    let address = socket.local_addr().map_err(reason)?;
    let found = if let Some(address) = address.as_socket() {
        (address.port() != 0).then(|| BoundAddress::Inet(plain(address)))
    } else if let Some(name) = address.as_abstract_namespace() {
        Some(BoundAddress::Unix(UnixAddress::Abstract(name.to_vec())))
    } else {
        let path = address.as_pathname().map(Path::to_owned);
        path.map(|path| BoundAddress::Unix(UnixAddress::Path(path)))
    };
    found.ok_or_else(|| "it has no address; the program that made it has to bind it".into())
}
