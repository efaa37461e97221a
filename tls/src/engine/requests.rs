//! Connections that skd passes.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use skd_tls_protocol::{Failure, FailureKind, MAX_REQUEST, Request, RequestFault};

use super::connection::{Connection, Role, refuse};
use super::link::Link;
use super::services::Table;
use super::socket::{Kind, Socket};
use super::tls::Tls;
use crate::sys;

/// What was found in the request channel.
pub(super) enum Found {
    /// A connection.
    Connection(Box<Connection>),
    /// Something that can't be served. It was closed, and skd was told why, if that was possible.
    Refused,
    /// A connection that is lost, since the process has too many open files.
    NoNumbers,
    /// Nothing.
    Nothing,
    /// The end: nothing will ever come.
    End,
}

/// Receives a connection, if one is there.
pub(super) fn receive(requests: BorrowedFd<'_>, services: &Table, now: Instant) -> Found {
    let mut buffer = [0; MAX_REQUEST];
    let packet = match sys::receive(requests, &mut buffer) {
        Ok(packet) => packet,
        Err(Errno::EAGAIN) => return Found::Nothing,
        Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS) => {
            return Found::NoNumbers;
        }
        Err(_) => return Found::End,
    };
    let (tcp, plain) = match packet.descriptors {
        [Some(tcp), Some(plain)] => (tcp, plain),
        // An empty packet can't be told from the end, and skd sends none.
        [None, None] if packet.length == 0 => return Found::End,
        _ if packet.lacks_descriptors => return Found::NoNumbers,
        _ => return Found::Refused,
    };
    let (tcp, mut plain) = (peer(tcp), Socket::new(plain, Kind::Plain, false));
    let read = match buffer.get(..packet.length) {
        Some(bytes) if !packet.is_cut && !packet.lacks_descriptors => Request::read(bytes),
        _ => Err(RequestFault::Length),
    };
    let request = match read {
        Ok(request) => request,
        Err(fault) => return refused(&mut plain, wrong(fault)),
    };
    let Some(served) = services.get(request.service) else {
        let why = format!("skd-tls has no service {}", request.service);
        return refused(&mut plain, why);
    };
    let tls = match Tls::server(served.config.clone()) {
        Ok(tls) => tls,
        Err(error) => return refused(&mut plain, format!("TLS can't be begun: {error}")),
    };
    let idle = served.service.idle;
    let role = Role::Server {
        service: served.service.clone(),
        counters: served.counters.clone(),
        token: request.token.into(),
    };
    let link = Link::new(tcp, plain, tls);
    Found::Connection(Box::new(Connection::new(link, role, idle, now)))
}

/// The connection with a peer that speaks TLS. Small records aren't held back until the peer has acknowledged what was
/// sent before (Nagle): a handler can't ask for that, since it has another socket, and what it writes at once is
/// sent at once here.
pub(super) fn peer(tcp: OwnedFd) -> Socket {
    // A unix socket doesn't have it, and doesn't need it.
    let is_tcp = setsockopt(&tcp, sockopt::TcpNoDelay, &true).is_ok();
    Socket::new(tcp, Kind::Tls, is_tcp)
}

fn refused(plain: &mut Socket, why: String) -> Found {
    let failure = Failure {
        kind: FailureKind::Other,
        why: why.into(),
    };
    refuse(plain, failure);
    Found::Refused
}

fn wrong(fault: RequestFault) -> String {
    match fault {
        RequestFault::Version(version) => format!(
            "skd speaks version {version} of the protocol with skd-tls, which speaks {}; install both from one release",
            skd_tls_protocol::VERSION
        ),
        RequestFault::Length | RequestFault::Name => "skd has sent a malformed request".into(),
    }
}
