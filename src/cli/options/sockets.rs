//! Options: connections and sockets.

use clap::ValueHint;

use super::option::Kind::{Flag, Optional, Value, Values};
use super::option::Opt;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        long: "nodelay",
        shorts: &['n'],
        kind: Flag,
        common: false,
        help: "Set TCP_NODELAY on connections",
        manual: "See tcp(7).",
    },
    Opt {
        long: "keepalive",
        shorts: &[],
        kind: Optional("TIME:INTERVAL:PROBES", ValueHint::Other),
        common: false,
        help: "End TCP connections whose peer is gone",
        manual: "\
A probe is sent when nothing has come for TIME, then each INTERVAL. After PROBES unanswered \
probes reading fails. TIME and INTERVAL are whole seconds up to 32767s, PROBES is 1 to 127: \
`10m:30s:4` takes 12 minutes. Without a value the kernel's apply \
(net.ipv4.tcp_keepalive_time ...), over two hours. See SO_KEEPALIVE in socket(7).",
    },
    Opt {
        long: "user-timeout",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: false,
        help: "Limit how long TCP data may be unacknowledged",
        manual: "\
1ms to 24d; then the connection ends. It replaces PROBES of --keepalive. See tcp(7).",
    },
    Opt {
        long: "defer-accept",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: false,
        help: "Accept TCP clients when they have sent data",
        manual: "\
Whole seconds, 1s to 8h; the kernel rounds to 1, 3, 7, 15 and so on. A client silent for so \
long is accepted when it next acknowledges. See TCP_DEFER_ACCEPT in tcp(7).",
    },
    Opt {
        long: "fast-open",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: false,
        help: "Let N TCP clients send data with the SYN",
        manual: "\
1 or more, up to net.core.somaxconn; net.ipv4.tcp_fastopen must include 2, for servers. A \
duplicated packet can run PROG twice with the same data. See TCP_FASTOPEN in tcp(7).",
    },
    Opt {
        long: "reuse-port",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Share TCP and UDP ports with other programs",
        manual: "\
These must set SO_REUSEPORT, see socket(7), and have the same user. The kernel distributes \
clients. A second skd is no error then.",
    },
    Opt {
        long: "freebind",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Bind addresses that do not exist yet",
        manual: "\
For TCP and UDP; served once they exist. See IP_FREEBIND in ip(7).",
    },
    Opt {
        long: "device",
        shorts: &[],
        kind: Value("IF", ValueHint::Other),
        common: false,
        help: "Use only the network interface IF",
        manual: "\
For TCP and UDP. It must exist. See SO_BINDTODEVICE in socket(7).",
    },
    Opt {
        long: "tos",
        shorts: &[],
        kind: Value("VALUE", ValueHint::Other),
        common: false,
        help: "Set the DSCP name or TOS byte of what is sent",
        manual: "\
For TCP and UDP: cs0 to cs7, af11 to af43, ef, le, or 0 to 255 for the byte (`0xb8` is ef). \
On TCP the two low bits (ECN) are ignored. See IP_TOS in ip(7), IPV6_TCLASS in ipv6(7).",
    },
    Opt {
        long: "mark",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: false,
        help: "Set the firewall mark of what is sent",
        manual: "\
For TCP and UDP: 0 to 4294967295, or like `0x1f`. Needs CAP_NET_ADMIN. See SO_MARK in \
socket(7).",
    },
    Opt {
        long: "send-buffer",
        shorts: &[],
        kind: Value("SIZE", ValueHint::Other),
        common: false,
        help: "Set the send buffer size [kernel's choice]",
        manual: "\
For TCP, UDP and unix datagram sockets: 1 to 1G. The kernel no longer tunes it, and ss(8) \
shows it doubled. Over net.core.wmem_max it needs CAP_NET_ADMIN in the initial user \
namespace, or is cut; --check notes that. See SO_SNDBUF in socket(7).",
    },
    Opt {
        long: "receive-buffer",
        shorts: &[],
        kind: Value("SIZE", ValueHint::Other),
        common: false,
        help: "Set the receive buffer size [kernel's choice]",
        manual: "The same for TCP and UDP: net.core.rmem_max, SO_RCVBUF.",
    },
    Opt {
        long: "multicast",
        shorts: &[],
        kind: Values("GROUP[%IF]", ValueHint::Other),
        common: false,
        help: "Join a multicast group on IF; repeatable",
        manual: "\
GROUP is 224.0.0.0 to 239.255.255.255 or begins with ff. By default IF is that of the route. \
Each UDP listener joins it that is on all addresses (-u 5353) or on the group's (-u \
239.1.2.3:5353); none is an error. It receives no other groups (IP_MULTICAST_ALL). An \
upgrade keeps it. See IP_ADD_MEMBERSHIP in ip(7).",
    },
    Opt {
        long: "accept-descriptors",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Let clients of unix sockets pass descriptors",
        manual: "\
For handlers that receive open files (SCM_RIGHTS in unix(7)). By default the kernel refuses \
them: a client that passes one gets EPERM. Before Linux 6.16 clients always can. Handlers of \
single datagrams never get any.",
    },
];
