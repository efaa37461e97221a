//! The parts of skd's command line that the harness must understand: what is bound, and where the pid is
//! written. It reads only what stands before PROG.

use super::sockets::{Kind, Socket};
use socket2::{Domain, Socket as RawSocket, Type};
use std::ffi::{OsStr, OsString};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// What one listener option binds.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub kind: Kind,
    /// The requested port, for internet sockets. `None` for a service name or an invalid value.
    pub port: Option<u16>,
    /// The address for clients, for internet sockets. The loopback address for a bare port.
    pub host: Option<IpAddr>,
    /// Whether the option is a bare port, for which skd binds two sockets.
    pub bare: bool,
    /// For unix sockets.
    pub path: Option<String>,
    position: Position,
}

/// The style of sockets, by -s, -d and --seqpacket.
#[derive(Clone, Copy, Debug)]
enum Style {
    Stream,
    Datagram,
    Seqpacket,
}

/// The position of a value in the command line.
#[derive(Clone, Copy, Debug)]
struct Position {
    word: usize,
    byte: usize,
}

#[derive(Debug, Default)]
pub(super) struct Options {
    pub endpoints: Vec<Endpoint>,
    pub pidfile: Option<PathBuf>,
    pub background: bool,
}

impl Endpoint {
    /// Whether the kernel is to choose the port, which skd then prints.
    pub fn is_free_port(&self) -> bool {
        self.port == Some(0)
    }

    /// Whether `socket` is this one, open for clients. `port` is the number that it really has.
    fn is(&self, socket: &Socket, port: Option<u16>, host: Option<IpAddr>) -> bool {
        let internet = || match (socket.address, port) {
            (Some(address), Some(port)) => {
                address.port() == port
                    && host.is_none_or(|host| address.ip() == host || address.ip().is_unspecified())
            }
            (Some(_), None) => true,
            _ => false,
        };
        self.kind == socket.kind
            && socket.is_open()
            && match &self.path {
                Some(path) => socket.path.as_ref() == Some(path),
                None => internet(),
            }
    }

    /// Whether all that this option binds is among `sockets`. `dual` says that a bare port means a
    /// second socket, for IPv6.
    pub fn is_open(&self, sockets: &[Socket], port: Option<u16>, dual: bool) -> bool {
        let open = |host| sockets.iter().any(|socket| self.is(socket, port, host));
        match (self.bare, dual) {
            (true, true) => {
                open(Some(Ipv4Addr::UNSPECIFIED.into())) && open(Some(Ipv6Addr::UNSPECIFIED.into()))
            }
            (true, false) => open(None),
            (false, _) => open(self.host),
        }
    }
}

impl Options {
    pub fn read(words: &[OsString]) -> Self {
        let mut options = Self::default();
        // The kind of -i, -l and -x depends on -s, -d and --seqpacket wherever they stand.
        let mut of_style = Vec::new();
        let mut style = Style::Stream;
        let mut at = 0;
        while let Some(word) = words.get(at) {
            let bytes = word.as_bytes();
            if bytes == b"--" {
                break;
            }
            let mut value_of = |letter: u8, byte: usize| {
                // The value is in this word from `byte` on, or is the next word.
                let position =
                    if byte < bytes.len() || bytes.get(byte.wrapping_sub(1)) == Some(&b'=') {
                        Position { word: at, byte }
                    } else {
                        at += 1;
                        Position { word: at, byte: 0 }
                    };
                let Some(value) = words.get(position.word) else {
                    return;
                };
                let value = OsStr::from_bytes(&value.as_bytes()[position.byte..]);
                match letter {
                    b't' => options.endpoints.push(internet(Kind::Tcp, value, position)),
                    b'u' => options.endpoints.push(internet(Kind::Udp, value, position)),
                    b'i' => {
                        of_style.push(options.endpoints.len());
                        options.endpoints.push(internet(Kind::Tcp, value, position));
                    }
                    b'l' | b'x' => {
                        of_style.push(options.endpoints.len());
                        options.endpoints.push(unix(value, position));
                    }
                    b'P' => options.pidfile = Some(PathBuf::from(value)),
                    _ => {}
                }
            };
            if let Some(long) = bytes.strip_prefix(b"--") {
                let length = long.iter().position(|&byte| byte == b'=');
                let name = &long[..length.unwrap_or(long.len())];
                let start = 2 + length.map_or(name.len(), |length| length + 1);
                match name {
                    b"tcp" => value_of(b't', start),
                    b"udp" => value_of(b'u', start),
                    b"inet" => value_of(b'i', start),
                    b"unix" => value_of(b'l', start),
                    b"pidfile" => value_of(b'P', start),
                    b"log" | b"backlog" | b"max-clients" => value_of(b'L', start),
                    b"stream" => style = Style::Stream,
                    b"datagram" => style = Style::Datagram,
                    b"seqpacket" => style = Style::Seqpacket,
                    b"background" => options.background = true,
                    _ => {}
                }
            } else if bytes.first() == Some(&b'-') {
                for (index, letter) in bytes.iter().enumerate().skip(1) {
                    match letter {
                        b't' | b'u' | b'i' | b'l' | b'x' | b'b' | b'c' | b'L' | b'P' => {
                            value_of(*letter, index + 1);
                            break;
                        }
                        b's' => style = Style::Stream,
                        b'd' => style = Style::Datagram,
                        b'B' => options.background = true,
                        _ => {}
                    }
                }
            }
            at += 1;
        }
        for index in of_style {
            let kind = &mut options.endpoints[index].kind;
            *kind = match (*kind, style) {
                (Kind::Tcp, Style::Datagram) => Kind::Udp,
                (_, Style::Datagram) => Kind::UnixDatagram,
                (Kind::UnixStream, Style::Seqpacket) => Kind::UnixSeqpacket,
                (kind, _) => kind,
            };
        }
        options
    }

    /// Replaces each port 0 by a port that is free right now, for a program whose printed
    /// port can't be read. Another process may take one in between; that is rare, and shows.
    pub fn reserve_ports(&mut self, words: &mut [OsString]) {
        for endpoint in &mut self.endpoints {
            if !endpoint.is_free_port() {
                continue;
            }
            let host = endpoint.host.unwrap_or_else(|| Ipv4Addr::LOCALHOST.into());
            let port = free_port(endpoint.kind, host).expect("a free port");
            let word = &mut words[endpoint.position.word];
            let mut bytes = std::mem::take(word).into_vec();
            assert_eq!(bytes.pop(), Some(b'0'), "a port 0 that ends in 0");
            bytes.extend_from_slice(port.to_string().as_bytes());
            *word = OsString::from_vec(bytes);
            endpoint.port = Some(port);
        }
    }
}

/// A port that the kernel has just assigned.
fn free_port(kind: Kind, host: IpAddr) -> io::Result<u16> {
    let style = match kind {
        Kind::Udp => Type::DGRAM,
        _ => Type::STREAM,
    };
    let address = SocketAddr::new(host, 0);
    let socket = RawSocket::new(Domain::for_address(address), style, None)?;
    // A fork of another test can keep the socket open until its exec. With this, and not listening, it
    // blocks no other bind.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    let bound = socket.local_addr()?.as_socket();
    bound
        .map(|it| it.port())
        .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

fn internet(kind: Kind, value: &OsStr, position: Position) -> Endpoint {
    let value = value.to_string_lossy();
    let (host, port) = value.rsplit_once(':').unwrap_or(("", &value));
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let resolved = || (name, 0).to_socket_addrs().ok()?.next();
    Endpoint {
        kind,
        port: port.parse().ok(),
        host: match name {
            "" | "0.0.0.0" => Some(Ipv4Addr::LOCALHOST.into()),
            "::" => Some(Ipv6Addr::LOCALHOST.into()),
            _ => resolved().map(|address: SocketAddr| address.ip()),
        },
        bare: name.is_empty(),
        path: None,
        position,
    }
}

fn unix(path: &OsStr, position: Position) -> Endpoint {
    Endpoint {
        kind: Kind::UnixStream,
        port: None,
        host: None,
        bare: false,
        path: Some(path.to_string_lossy().into_owned()),
        position,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_listeners_however_they_are_written() {
        let words = [
            "-vt",
            "0",
            "-nvc5",
            "-t[::1]:80",
            "--udp=:7",
            "--tcp",
            "127.0.0.1:0",
            "-Pfile",
            "-B",
            "-l",
            "/a b",
            "-d",
        ]
        .map(OsString::from);
        let options = Options::read(&words);
        let found: Vec<_> = options
            .endpoints
            .iter()
            .map(|endpoint| (endpoint.kind, endpoint.port, endpoint.bare))
            .collect();
        let expected = [
            (Kind::Tcp, Some(0), true),
            (Kind::Tcp, Some(80), false),
            (Kind::Udp, Some(7), true),
            (Kind::Tcp, Some(0), false),
            (Kind::UnixDatagram, None, false),
        ];
        assert_eq!(found, expected);
        assert_eq!(options.endpoints[4].path.as_deref(), Some("/a b"));
        assert_eq!(options.pidfile, Some(PathBuf::from("file")));
        assert!(options.background);
    }

    #[test]
    fn puts_free_ports_in_place() {
        let mut words = ["-vt0", "-u", "127.0.0.1:0", "--tcp=[::1]:0"].map(OsString::from);
        let mut options = Options::read(&words);
        options.reserve_ports(&mut words);
        let ports: Vec<_> = options
            .endpoints
            .iter()
            .map(|it| it.port.unwrap())
            .collect();
        assert!(!ports.contains(&0));
        let expected = [
            format!("-vt{}", ports[0]),
            "-u".to_owned(),
            format!("127.0.0.1:{}", ports[1]),
            format!("--tcp=[::1]:{}", ports[2]),
        ];
        assert_eq!(words, expected.map(OsString::from));
    }
}
