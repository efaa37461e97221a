//! Clients. All of them time out after [`DEADLINE`], so that a test fails instead of
//! hanging.

use super::{DEADLINE, requires_command, slowness};
use socket2::{Domain, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// The timeout of a client, on a slow machine a multiple of the usual one.
fn limit() -> Duration {
    DEADLINE * slowness()
}

/// A TCP connection with time limits on reading and writing.
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, limit())
        .unwrap_or_else(|error| panic!("connecting to {address}: {error}"));
    stream.set_read_timeout(Some(limit())).unwrap();
    stream.set_write_timeout(Some(limit())).unwrap();
    stream
}

/// The same from this address of the machine.
#[track_caller]
pub fn connect_from(own: IpAddr, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    let bound = socket.bind(&SocketAddr::new(own, 0).into());
    bound.unwrap_or_else(|error| panic!("binding {own}: {error}"));
    let connected = socket.connect_timeout(&address.into(), limit());
    connected.unwrap_or_else(|error| panic!("connecting to {address} from {own}: {error}"));
    socket.set_read_timeout(Some(limit())).unwrap();
    socket.set_write_timeout(Some(limit())).unwrap();
    socket.into()
}

/// A connection to a unix stream socket, with time limits; `@NAME` is an abstract one.
#[track_caller]
pub fn connect_unix(path: impl AsRef<Path>) -> UnixStream {
    let path = path.as_ref();
    let stream = UnixStream::connect_addr(&unix_address(path))
        .unwrap_or_else(|error| panic!("connecting to {}: {error}", path.display()));
    stream.set_read_timeout(Some(limit())).unwrap();
    stream.set_write_timeout(Some(limit())).unwrap();
    stream
}

/// Sends `bytes`, closes the sending side, and returns all that comes until the other side closes.
#[track_caller]
pub fn talk(stream: impl Conversation, bytes: &[u8]) -> Vec<u8> {
    try_talk(stream, bytes).unwrap_or_else(|error| panic!("talking: {error}"))
}

/// The same, for connections that may be reset.
pub fn try_talk(mut stream: impl Conversation, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut sending = stream.another()?;
    thread::scope(|scope| {
        // Beside the reading: a program that answers while it reads would otherwise stop, and we with it,
        // once the buffers both ways are full.
        let sender = scope.spawn(move || {
            sending.write_all(bytes)?;
            sending.finish()
        });
        let mut answer = Vec::new();
        let received = stream.read_to_end(&mut answer);
        let sent = sender.join().expect("the sending thread");
        match (sent, received) {
            // A program that doesn't read all may close before we have sent all: no failure.
            (Err(error), _) if error.kind() == io::ErrorKind::TimedOut => Err(error),
            (_, Err(error)) => Err(error),
            _ => Ok(answer),
        }
    })
}

/// Sends `bytes` to a handler that is `cat` and returns when they have come back: then it has been exec'd,
/// and goes on living as long as the stream.
#[track_caller]
pub fn echo(stream: &mut impl Conversation, bytes: &[u8]) {
    if let Err(error) = stream.write_all(bytes) {
        panic!("sending: {error}");
    }
    assert_eq!(receive(stream, bytes.len()), bytes);
}

/// Reads exactly `length` bytes, for conversations that go back and forth.
#[track_caller]
pub fn receive(stream: &mut impl Read, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    match stream.read_exact(&mut bytes) {
        Ok(()) => bytes,
        Err(error) => panic!("receiving {length} bytes: {error}"),
    }
}

/// A stream whose two directions end separately.
pub trait Conversation: Read + Write + Send + Sized {
    fn another(&self) -> io::Result<Self>;
    fn finish(&self) -> io::Result<()>;
}

impl Conversation for TcpStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Conversation for UnixStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn finish(&self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

/// A UDP socket of a free port that sends to, and receives from, `address` alone.
#[track_caller]
pub fn udp_client(address: SocketAddr) -> UdpSocket {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).expect("a UDP socket");
    socket.set_read_timeout(Some(limit())).unwrap();
    socket.connect(address).expect("an address for UDP");
    socket
}

/// Sends one datagram and returns the answer.
#[track_caller]
pub fn ask(socket: &UdpSocket, request: &[u8]) -> Vec<u8> {
    socket.send(request).expect("sending a datagram");
    let mut answer = vec![0; 65536];
    let length = match socket.recv(&mut answer) {
        Ok(length) => length,
        Err(error) => panic!("no answer to a datagram: {error}"),
    };
    answer.truncate(length);
    answer
}

/// [`ask`] with a socket for this once.
#[track_caller]
pub fn ask_udp(address: SocketAddr, request: &[u8]) -> Vec<u8> {
    ask(&udp_client(address), request)
}

/// A unix datagram socket bound at `own`, so that it can be answered, and connected to `to`.
#[track_caller]
pub fn unix_datagram_client(own: impl AsRef<Path>, to: impl AsRef<Path>) -> UnixDatagram {
    let socket = UnixDatagram::bind_addr(&unix_address(own.as_ref())).expect("a path of our own");
    socket.set_read_timeout(Some(limit())).unwrap();
    socket.set_write_timeout(Some(limit())).unwrap();
    socket
        .connect_addr(&unix_address(to.as_ref()))
        .unwrap_or_else(|error| panic!("connecting to {}: {error}", to.as_ref().display()));
    socket
}

/// Sends one datagram from a socket bound at `own` and returns the answer.
#[track_caller]
pub fn ask_unix_datagram(own: impl AsRef<Path>, to: impl AsRef<Path>, request: &[u8]) -> Vec<u8> {
    let socket = unix_datagram_client(own, to);
    socket.send(request).expect("sending a datagram");
    let mut answer = vec![0; 65536];
    let length = match socket.recv(&mut answer) {
        Ok(length) => length,
        Err(error) => panic!("no answer to a datagram: {error}"),
    };
    answer.truncate(length);
    answer
}

/// Sends one datagram from a nameless socket, which can't be answered.
#[track_caller]
pub fn send_unix_datagram(to: impl AsRef<Path>, request: &[u8]) {
    let socket = UnixDatagram::unbound().expect("a unix datagram socket");
    socket.set_write_timeout(Some(limit())).unwrap();
    socket
        .send_to_addr(request, &unix_address(to.as_ref()))
        .unwrap_or_else(|error| panic!("sending to {}: {error}", to.as_ref().display()));
}

/// PROG and its ARGS of a datagram handler that takes one datagram, sends it back to its sender,
/// and then ends. `cat` can't: the socket is not connected.
#[track_caller]
pub fn datagram_echo() -> (&'static str, [&'static str; 2]) {
    requires_command("perl");
    const ECHO: &str = "defined(my $from = recv(STDIN, my $bytes, 65536, 0)) or die $!; \
                        defined(send(STDOUT, $bytes, 0, $from)) or die $!;";
    ("perl", ["-e", ECHO])
}

pub(super) fn unix_address(path: &Path) -> UnixAddress {
    let address = match path.as_os_str().as_bytes() {
        [b'@', name @ ..] => UnixAddress::from_abstract_name(name),
        _ => UnixAddress::from_pathname(path),
    };
    address.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
