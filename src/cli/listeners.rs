//! The options of listeners, and whether skd or PROG accepts connections.

use std::collections::HashSet;
use std::ffi::OsStr;

use nix::unistd::{Gid, Uid};

use super::args::{Args, with_value};
use super::{sockets, values};
use crate::config::{
    Endpoint, Host, InetAddress, Listen, Port, SocketSource, Style, UnixAddress, in_order,
};
use crate::sys::names;

/// Returns the style of sockets whose option doesn't tell it.
pub(super) fn style(args: &Args<'_>) -> Style {
    if args.flag("datagram") {
        Style::Datagram
    } else if args.flag("seqpacket") {
        Style::Seqpacket
    } else {
        Style::Stream
    }
}

/// Reads the listeners, in the order of the command line.
pub(super) fn listeners(args: &Args<'_>) -> Vec<Listen> {
    let style = style(args);
    let backlog = args.read("backlog", values::positive);
    let mode = args.read("unix-mode", values::mode);
    let owner = args.read("unix-owner", |text| {
        args.look_up("owner", text, || {
            let (user, group) = values::owner(text)?;
            Ok::<_, values::Why>((user.as_raw(), group.map(Gid::as_raw)))
        })
    });
    let owner = owner.flatten();
    let owner = owner.map(|(user, group)| (Uid::from_raw(user), group.map(Gid::from_raw)));

    let mut found = Vec::new();
    for (option, style) in [
        ("tcp", Style::Stream),
        ("udp", Style::Datagram),
        ("inet", style),
    ] {
        for (position, value) in args.each(option) {
            let endpoint = args.value(option, value, |value| inet(args, value, style));
            found.extend(endpoint.map(|endpoint| (position, with_value(option, value), endpoint)));
        }
    }
    for (position, value) in args.each("unix") {
        let Some(address) = args.value("unix", value, UnixAddress::parse) else {
            continue;
        };
        if let UnixAddress::Abstract(_) = address {
            for option in ["unix-mode", "unix-owner"] {
                if args.has(option) {
                    args.refuse(format!(
                        "--{option} can't be used with {address}: an abstract socket has no file"
                    ));
                }
            }
        }
        let endpoint = Endpoint::Unix {
            style,
            address,
            mode,
            owner,
        };
        found.push((position, with_value("unix", value), endpoint));
    }

    let unix = args.has("unix");
    let styled = args.has("inet") || unix;
    if style == Style::Datagram && !styled {
        args.refuse(
            "--datagram sets the style of -i, -l and -x, but none is given; for UDP use -u",
        );
    }
    if style == Style::Seqpacket {
        seqpacket(args);
    }
    for (position, value) in args.each("listen-fd") {
        let number = args.value("listen-fd", value, values::descriptor);
        found.extend(number.map(|number| {
            let source = SocketSource::Number(number);
            (
                position,
                with_value("listen-fd", value),
                Endpoint::Inherited { source },
            )
        }));
    }
    if args.flag("systemd") {
        let source = SocketSource::Systemd;
        let position = args.matches.index_of("systemd").unwrap_or_default();
        found.push((position, "--systemd".into(), Endpoint::Inherited { source }));
    }

    // Options that skd 1.2 had are accepted without a listener, as they were there.
    let inherited = args.has("listen-fd") || args.flag("systemd");
    let stream = args.has("tcp") || styled && style.has_connections() || inherited;
    for (option, used, by) in [
        ("unix-mode", unix, "--unix"),
        ("unix-owner", unix, "--unix"),
        (
            "threads",
            stream || args.has("datagram-mode"),
            "a stream listener",
        ),
    ] {
        if !used && args.has(option) {
            args.refuse(format!("--{option} has no use without {by}"));
        }
    }
    let kinds = sockets::Kinds {
        tcp: args.has("tcp") || args.has("inet") && style == Style::Stream,
        udp: args.has("udp") || args.has("inet") && style == Style::Datagram,
        unix,
        unix_datagram: unix && style == Style::Datagram,
        inherited,
    };
    let options = sockets::options(args, &kinds);
    let found = in_order(found, |(position, ..)| *position);
    let mut earlier = HashSet::new();
    for (_, option, endpoint) in &found {
        if !endpoint.may_be_repeated() && !earlier.insert(endpoint) {
            args.refuse(format!("{option} is given twice"));
        }
    }
    found
        .into_iter()
        .map(|(_, option, endpoint)| Listen {
            option,
            endpoint,
            backlog,
            options: options.clone(),
        })
        .collect()
}

/// Refuses options that can't be used with sequential packets.
fn seqpacket(args: &Args<'_>) {
    if args.has("inet") {
        args.refuse(
            "--seqpacket can't be used with --inet (-i), which has no such sockets; write --tcp \
             or --udp",
        );
    } else if !args.has("unix") {
        args.refuse("--seqpacket sets the style of -l and -x, but none is given");
    }
    if args.flag("proxy-protocol") {
        args.refuse(
            "--proxy-protocol can't be used with --seqpacket: a header is the beginning of a \
             stream",
        );
    }
}

/// Refuses options that need skd to accept connections, or PROG to accept them, if the other does.
pub(super) fn check_who_accepts(args: &Args<'_>, listeners: &[Listen]) {
    let supervise = args.flag("supervise");
    let wait = args.flag("wait");
    let stream = |listen: &Listen| listen.endpoint.style().is_none_or(Style::has_connections);
    if wait && !listeners.iter().any(stream) {
        args.refuse("--wait has no use without a stream listener: datagram listeners are in wait mode anyway");
    }
    if args.flag("on-demand") && (!supervise || listeners.is_empty()) {
        args.refuse("--on-demand needs --supervise (-S) and a listener that clients connect to");
    }
    if args.has("idle-exit") {
        if !args.flag("on-demand") {
            args.refuse("--idle-exit needs --on-demand, or PROG would be run again at once");
        }
        let datagram = |listen: &&Listen| listen.endpoint.style() == Some(Style::Datagram);
        if let Some(Listen { option, .. }) = listeners.iter().find(datagram) {
            args.refuse(format!(
                "--idle-exit can't be used with {option}: datagrams have no connections, so skd \
                 can't tell whether clients are being served"
            ));
        }
    }
    let taker = match (supervise && !listeners.is_empty(), wait) {
        (true, true) => {
            args.refuse(
                "--wait can't be used with --supervise (-S): both pass the sockets on, the one to a \
                 program for each client, the other to one program for all",
            );
            return;
        }
        (true, false) => "--supervise (-S) and a listener",
        (false, true) => "--wait",
        (false, false) => return,
    };
    for option in ["max-clients", "threads"] {
        if args.has(option) {
            args.refuse(format!(
                "--{option} has no use with {taker}: PROG accepts the connections itself"
            ));
        }
    }
}

/// Parses the value of an internet option. `names` says whether service names are looked up.
fn inet(args: &Args<'_>, value: &OsStr, style: Style) -> Result<Endpoint, String> {
    let text = value.to_str().ok_or("it isn't text in UTF-8")?;
    let address: InetAddress = text.parse().map_err(|why| format!("{why}"))?;
    let protocol = match style.has_connections() {
        true => "tcp",
        false => "udp",
    };
    let port = match address.port {
        Port::Number(number) => number,
        Port::Service(name) => {
            let ask =
                || service_port(&name, protocol, &address.host).map(|port| (port.into(), None));
            let found = args.look_up(protocol, OsStr::new(&name), ask)?;
            // Else the socket is bound already.
            found.map_or(0, |(port, _)| port as u16)
        }
    };
    Ok(Endpoint::Inet {
        style,
        host: address.host,
        port,
    })
}

fn service_port(name: &str, protocol: &str, host: &Host) -> Result<u16, String> {
    names::service_port(name, protocol).ok_or_else(|| {
        // A name without a port is taken as a port.
        let host = match host {
            Host::Any => format!("; for a host of that name, write {name}:PORT"),
            _ => String::new(),
        };
        format!(
            "there is no {protocol} service '{name}' in services(5); a port is a number from 0 to \
             65535 or a service name{host}"
        )
    })
}
