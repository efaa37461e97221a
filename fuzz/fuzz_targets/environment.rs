//! A handler's environment: inherited variables, the administrator's changes, and those about the client. Each
//! variable has its last value, those of skd come from skd alone, and the block has the form of execve(2).

#![no_main]

use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, OsString};
use std::fmt::Arguments;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use skd::child::environment::Variables;
use skd::cli::values;
use skd::config::{Account, is_reserved_variable};
use skd::net::Peer;
use skd::net::proxy::Header;
use skd::sys::environment::Environment;
use skd::sys::sockets::Credentials;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// The environment block that skd was started with.
    block: &'a [u8],
    /// Values of --env.
    changes: Vec<&'a [u8]>,
    account: Option<[&'a [u8]; 3]>,
    peer: Caller,
}

#[derive(Arbitrary, Debug)]
enum Caller {
    Tcp(Address, Option<Address>),
    Udp(Address),
    Unix(Option<(i32, Option<u32>, Option<u32>)>),
    Datagram,
    /// The proxy, if it has an address, and client and destination, if they have.
    Proxied(Option<Address>, Option<(Address, Address)>),
}

#[derive(Arbitrary, Debug)]
enum Address {
    V4([u8; 4], u16),
    V6([u8; 16], u16, u32),
}

impl From<Address> for SocketAddr {
    fn from(address: Address) -> Self {
        match address {
            Address::V4(ip, port) => SocketAddrV4::new(ip.into(), port).into(),
            Address::V6(ip, port, scope) => SocketAddrV6::new(ip.into(), port, 0, scope).into(),
        }
    }
}

fuzz_target!(|input: Input<'_>| {
    let Input {
        block,
        changes,
        account,
        peer,
    } = input;
    let inherited: Vec<(OsString, OsString)> =
        block.split(|&byte| byte == 0).filter_map(pair).collect();
    let changes: Vec<_> = changes
        .iter()
        .filter_map(|text| values::variable(OsStr::from_bytes(text), true).ok())
        .collect();
    // Fields of passwd(5) are C strings.
    let field =
        |bytes: &[u8]| OsStr::from_bytes(bytes.split(|&byte| byte == 0).next().unwrap()).to_owned();
    let account = match account {
        None => Account::Unknown,
        Some([name, home, shell]) => Account::Known {
            name: field(name),
            home: field(home),
            shell: field(shell),
        },
    };
    let variables = Variables::of(inherited.clone(), Some(&account), &changes).without_reserved();

    // The expected variables, computed in another way.
    let mut expected: BTreeMap<OsString, OsString> = BTreeMap::new();
    for (name, value) in &inherited {
        expected
            .entry(name.clone())
            .or_insert_with(|| value.clone());
    }
    for name in ["HOME", "USER", "LOGNAME", "SHELL"] {
        expected.remove(OsStr::new(name));
    }
    if let Account::Known { name, home, shell } = account {
        let values = [
            ("HOME", home),
            ("USER", name.clone()),
            ("LOGNAME", name),
            ("SHELL", shell),
        ];
        expected.extend(values.map(|(name, value)| (name.into(), value)));
    }
    for (name, value) in changes {
        match value {
            Some(value) => expected.insert(name, value),
            None => expected.remove(&name),
        };
    }
    expected.retain(|name, _| !is_reserved_variable(name));

    let lines = variables.lines();
    let mut environment = Environment::new(lines, None);
    // An earlier connection must not show.
    environment.line(c"PROTO=UNIX-STREAM");
    environment.set("PEERUID", format_args!("{}", "0".repeat(2000)));
    let _ = environment.finish();
    environment.clear();

    let peer = caller(peer);
    let mut own: Vec<String> = Vec::new();
    // A proxied peer sets PROTO itself.
    if !matches!(peer, Peer::Proxied(_)) {
        own.push("PROTO=TCP".into());
        environment.line(c"PROTO=TCP");
    }
    peer.variables(|name, value: Arguments<'_>| {
        assert!(
            is_reserved_variable(OsStr::new(name)),
            "{name} could be inherited"
        );
        let line = format!("{name}={value}");
        assert!(!line.contains(char::is_control), "{line:?}");
        own.push(line);
        environment.set(name, value);
    });
    written_as_it_is(&peer, &own);

    let found: Vec<&CStr> = environment.finish().lines().collect();
    let (first, rest) = found.split_at(own.len());
    assert!(
        first
            .iter()
            .map(|line| line.to_bytes())
            .eq(own.iter().map(String::as_bytes))
    );
    let mut seen = BTreeMap::new();
    for line in rest {
        let (name, value) = pair(line.to_bytes()).expect("a line is NAME=VALUE");
        // Of two variables with one name, getenv(3) returns the first.
        seen.entry(name).or_insert(value);
    }
    assert_eq!(seen, expected);
});

/// Splits a variable as the standard library does: a name may begin with `=`.
fn pair(line: &[u8]) -> Option<(OsString, OsString)> {
    let at = line.iter().skip(1).position(|&byte| byte == b'=')? + 1;
    Some((
        OsString::from_vec(line[..at].to_vec()),
        OsString::from_vec(line[at + 1..].to_vec()),
    ))
}

fn caller(caller: Caller) -> Peer {
    match caller {
        Caller::Tcp(remote, local) => Peer::Tcp {
            remote: remote.into(),
            local: local.map(SocketAddr::from),
        },
        Caller::Udp(remote) => Peer::Udp(remote.into()),
        Caller::Unix(ids) => {
            Peer::UnixStream(ids.map(|(pid, uid, gid)| Credentials { pid, uid, gid }))
        }
        Caller::Datagram => Peer::LocalDatagram,
        Caller::Proxied(proxy, client) => {
            let proxy = match proxy {
                Some(remote) => Peer::Tcp {
                    remote: remote.into(),
                    local: None,
                },
                None => Peer::UnixStream(None),
            };
            proxy.brings(match client {
                Some((source, destination)) => Header::Inet {
                    source: source.into(),
                    destination: destination.into(),
                },
                None => Header::Unix,
            })
        }
    }
}

/// Asserts that variables and log name the peer itself.
fn written_as_it_is(peer: &Peer, lines: &[String]) {
    let get = |name: &str| {
        let value = |line: &String| {
            line.strip_prefix(name)?
                .strip_prefix('=')
                .map(str::to_owned)
        };
        lines.iter().find_map(value)
    };
    let shown = peer.to_string();
    let same = |remote: &SocketAddr, protocol: &str| {
        let ip = get(&format!("{protocol}REMOTEIP")).unwrap();
        let port = get(&format!("{protocol}REMOTEPORT")).unwrap();
        assert_eq!(
            ip.split('%').next().unwrap().parse::<IpAddr>(),
            Ok(remote.ip())
        );
        assert_eq!(port.parse(), Ok(remote.port()));
        assert_eq!(get("REMOTE_ADDR"), Some(ip.clone()));
        assert_eq!(get("REMOTE_PORT"), Some(port.clone()));
        assert!(shown.ends_with(&format!(" from [{ip}]:{port}")), "{shown}");
    };
    match peer {
        Peer::Tcp { remote, .. } => same(remote, "TCP"),
        Peer::Udp(remote) => same(remote, "UDP"),
        Peer::Datagram(_) => same(&peer.address().unwrap(), "UDP"),
        Peer::UnixStream(Some(Credentials { pid, uid, gid })) => {
            assert_eq!(get("PEERUID").map(|id| id.parse().unwrap()), *uid);
            assert_eq!(get("PEERGID").map(|id| id.parse().unwrap()), *gid);
            assert_eq!(
                get("PEERPID").map(|pid| pid.parse()),
                (*pid > 0).then_some(Ok(*pid))
            );
        }
        Peer::Proxied(_) => match peer.address() {
            Some(source) => same(&source, "TCP"),
            None => assert_eq!(get("PROTO").as_deref(), Some("UNIX-STREAM")),
        },
        Peer::UnixStream(None) | Peer::LocalDatagram | Peer::Unaccepted(_) => {
            assert_eq!(lines.len(), 1)
        }
    }
}
