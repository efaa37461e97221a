//! Options: which clients are admitted, and how fast.

use clap::ValueHint;

use super::option::Kind::{Flag, Value, Values};
use super::option::Opt;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        long: "allow",
        shorts: &[],
        kind: Values("SOURCE", ValueHint::Other),
        common: true,
        help: "Admit these clients; repeatable",
        manual: "\
The first rule that fits decides; with any --allow all other clients are refused. SOURCE is \
all, an address, a prefix like 192.0.2.0/24, unix, uid=USER, gid=GROUP or file=PATH. See \
RULES.",
    },
    Opt {
        long: "deny",
        shorts: &[],
        kind: Values("SOURCE", ValueHint::Other),
        common: true,
        help: "Refuse these clients; repeatable",
        manual: "",
    },
    Opt {
        long: "rules",
        shorts: &[],
        kind: Value("FILE", ValueHint::FilePath),
        common: true,
        help: "Read more rules from FILE, again at SIGHUP",
        manual: "",
    },
    Opt {
        long: "explain",
        shorts: &[],
        kind: Value("SOURCE", ValueHint::Other),
        common: false,
        help: "Print which rule applies to SOURCE, and exit",
        manual: "SOURCE is an address, unix, uid=USER or gid=GROUP.",
    },
    Opt {
        long: "max-per-source",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: true,
        help: "Run at most N handlers for each source",
        manual: "1 or more. A source is an address or prefix.",
    },
    Opt {
        long: "source-prefix",
        shorts: &[],
        kind: Value("V4,V6", ValueHint::Other),
        common: false,
        help: "Set the bits that make a source [32,64]",
        manual: "0 to 32 for IPv4 and 0 to 128 for IPv6.",
    },
    Opt {
        long: "nat64",
        shorts: &[],
        kind: Values("PREFIX", ValueHint::Other),
        common: false,
        help: "Name a prefix of IPv4 clients; repeatable",
        manual: "\
The prefix of a translator: `64:ff9b::/96`, or what your network uses, of 32, 40, 48, 56, 64 or 96 \
bits. For rules and sources, its clients have the IPv4 addresses that are embedded there. \
Log and variables keep the address of the connection. Name only prefixes that your \
routers let in from the translator alone: any other host there can claim any IPv4 address.",
    },
    Opt {
        long: "rate",
        shorts: &[],
        kind: Value("R[:BURST]", ValueHint::Other),
        common: true,
        help: "Admit R connections, like 10/s or 300/m",
        manual: "\
Units are s, m, h and d. BURST is how many at once: `10/s:50`.",
    },
    Opt {
        long: "rate-per-source",
        shorts: &[],
        kind: Value("R[:BURST]", ValueHint::Other),
        common: false,
        help: "Admit R connections of each source",
        manual: "",
    },
    Opt {
        long: "at-max",
        shorts: &[],
        kind: Value("WHAT", ValueHint::Other),
        common: false,
        help: "Set the action at --max-clients [queue]",
        manual: "\
The reject action: queue[:DURATION], close, reset or message:TEXT.",
    },
    Opt {
        long: "at-source-max",
        shorts: &[],
        kind: Value("WHAT", ValueHint::Other),
        common: false,
        help: "Set the action at --max-per-source [close]",
        manual: "Not queue without a DURATION.",
    },
    Opt {
        long: "at-rate",
        shorts: &[],
        kind: Value("WHAT", ValueHint::Other),
        common: false,
        help: "Set the action at --rate, --rate-per-source",
        manual: "\
The default is queue for --rate and close for --rate-per-source.",
    },
    Opt {
        long: "proxy-protocol",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Take the client's address from a PROXY header",
        manual: "Version 1 or 2. Needs --proxy-from. See PROXIES.",
    },
    Opt {
        long: "proxy-from",
        shorts: &[],
        kind: Values("SOURCE", ValueHint::Other),
        common: false,
        help: "Trust the PROXY headers of SOURCE; repeatable",
        manual: "\
An address, a prefix or unix. All other clients are refused.",
    },
    Opt {
        long: "proxy-timeout",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: false,
        help: "Wait so long for a PROXY header [3s]",
        manual: "",
    },
];
