//! Options: listeners and the sockets on which they listen.

use clap::ValueHint;

use super::option::Kind::{Flag, Value, Values};
use super::option::Opt;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        long: "tcp",
        shorts: &['t'],
        kind: Values("[HOST:]PORT", ValueHint::Other),
        common: true,
        help: "Listen on TCP",
        manual: "\
HOST is a name, an IPv4 address, or an address in brackets: `[::1]:80`. PORT is a decimal \
number from 0 to 65535 or a name of services(5). See ADDRESSES for more.",
    },
    Opt {
        long: "udp",
        shorts: &['u'],
        kind: Values("[HOST:]PORT", ValueHint::Other),
        common: true,
        help: "Receive on UDP",
        manual: "See DATAGRAMS.",
    },
    Opt {
        long: "inet",
        shorts: &['i'],
        kind: Values("[HOST:]PORT", ValueHint::Other),
        common: false,
        help: "Listen on TCP, or receive on UDP with -d",
        manual: "",
    },
    Opt {
        long: "unix",
        shorts: &['l', 'x'],
        kind: Values("PATH", ValueHint::FilePath),
        common: true,
        help: "Listen on a unix socket, or on abstract @NAME",
        manual: "\
At most 107 bytes. A datagram socket with -d, a sequential-packet one with --seqpacket. An \
unused socket file is replaced.",
    },
    Opt {
        long: "systemd",
        shorts: &[],
        kind: Flag,
        common: true,
        help: "Take the sockets of systemd socket activation",
        manual: "",
    },
    Opt {
        long: "listen-fd",
        shorts: &[],
        kind: Values("N", ValueHint::Other),
        common: false,
        help: "Take the socket that is open as descriptor N",
        manual: "N is 0, or 3 and up. See SOCKET ACTIVATION.",
    },
    Opt {
        long: "stream",
        shorts: &['s'],
        kind: Flag,
        common: false,
        help: "Make every -i, -l and -x a stream socket",
        manual: "\
The default. The last of -s, -d and --seqpacket counts for all.",
    },
    Opt {
        long: "datagram",
        shorts: &['d'],
        kind: Flag,
        common: false,
        help: "Make every -i, -l and -x a datagram socket",
        manual: "An error without -i, -l or -x.",
    },
    Opt {
        long: "seqpacket",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Make every -l and -x a seqpacket socket",
        manual: "\
See SEQUENTIAL PACKETS. An error with -i, and without -l or -x.",
    },
    Opt {
        long: "backlog",
        shorts: &['b'],
        kind: Value("N", ValueHint::Other),
        common: false,
        help: "Limit the backlog to N [the kernel's limit]",
        manual: "\
1 or more connections that wait to be accepted. The limit is net.core.somaxconn: see \
listen(2).",
    },
    Opt {
        long: "unix-mode",
        shorts: &[],
        kind: Value("OCTAL", ValueHint::Other),
        common: false,
        help: "Set the mode of socket files [0777 & ~umask]",
        manual: "The file is created with it. Clients need write permission.",
    },
    Opt {
        long: "unix-owner",
        shorts: &[],
        kind: Value("USER[:GROUP]", ValueHint::Username),
        common: false,
        help: "Set the owner of unix socket files",
        manual: "\
Names or numbers; without GROUP the group stays. Set before clients can connect. Both are \
errors with an abstract name.",
    },
    Opt {
        long: "threads",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: false,
        help: "Accept in N threads, 1 to 16 [3 for 2 cores]",
        manual: "\
A thread that starts PROG is blocked until PROG has been executed, so a few more threads \
than cores serve faster.",
    },
];
