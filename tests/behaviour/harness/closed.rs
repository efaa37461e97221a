//! Sockets that are closed for good. Tests are threads of one process: a child of another test has copies of all
//! descriptors between its fork and its exec. Until then a socket that its test has closed takes clients, keeps its
//! port, and isn't stale.

use super::client::unix_address;
use super::wait_until;
use socket2::{Domain, Socket, Type};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::time::Duration;

/// Closes a unix socket of any style, and waits until no process has it open.
#[track_caller]
pub fn close_unix(socket: impl Into<OwnedFd>, path: impl AsRef<Path>) {
    drop(socket.into());
    let address = unix_address(path.as_ref());
    wait_until("no process has the unix socket open", || {
        // To a socket of another type, a connection is no client.
        let probe = UnixDatagram::unbound().expect("a unix socket");
        let refused = probe.connect_addr(&address).err();
        refused.is_some_and(|why| why.kind() == ErrorKind::ConnectionRefused)
    });
}

/// Leaves the file of a stream socket that no process has open.
#[track_caller]
pub fn leave_stale(path: impl AsRef<Path>) {
    let path = path.as_ref();
    close_unix(UnixListener::bind(path).expect("a listener"), path);
}

/// Closes a listener, and waits until no process has it open: its port is free. Returns its address.
#[track_caller]
pub fn close_tcp(listener: TcpListener) -> SocketAddr {
    let address = listener.local_addr().expect("its address");
    drop(listener);
    wait_until("no process has the listener open", || {
        TcpStream::connect(address).is_err_and(|why| why.kind() == ErrorKind::ConnectionRefused)
    });
    address
}

/// Closes a UDP socket, and waits until no process has it open. Returns its address.
#[track_caller]
pub fn close_udp(socket: UdpSocket) -> SocketAddr {
    let address = socket.local_addr().expect("its address");
    drop(socket);
    let probe = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a UDP socket");
    probe.connect(address).expect("its address");
    probe
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("a time limit");
    wait_until("no process has the UDP socket open", || {
        let sent = probe.send(b"").and_then(|_| probe.recv(&mut [0]));
        sent.is_err_and(|why| why.kind() == ErrorKind::ConnectionRefused)
    });
    address
}

/// A TCP port of 127.0.0.1 that refuses clients as long as this lives: its socket is bound and doesn't listen.
#[derive(Debug)]
pub struct ClosedPort(Socket);

impl ClosedPort {
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a TCP socket");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        socket.bind(&any.into()).expect("a free port");
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        let address = self.0.local_addr().expect("its address");
        address.as_socket().expect("an address of TCP")
    }
}
