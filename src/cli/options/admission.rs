//! The options about who may come in, and for how long.

use clap::ValueHint;

use super::Kind::{Flag, Value, Values};
use super::Opt;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        long: "allow",
        shorts: &[],
        kind: Values("SOURCE", ValueHint::Other),
        help: "Let these clients in, and no others but for further rules",
        manual: "\
May be repeated, and mixed with --deny; the first that fits a client decides. SOURCE is all, an \
address, a prefix like 192.0.2.0/24, unix, uid=USER, gid=GROUP, or file=PATH. See RULES.",
    },
    Opt {
        long: "deny",
        shorts: &[],
        kind: Values("SOURCE", ValueHint::Other),
        help: "Refuse these clients",
        manual: "As for --allow.",
    },
    Opt {
        long: "rules",
        shorts: &[],
        kind: Value("FILE", ValueHint::FilePath),
        help: "Read more rules from FILE, again at SIGHUP",
        manual: "They follow those of --allow and --deny. See RULES.",
    },
    Opt {
        long: "explain",
        shorts: &[],
        kind: Value("SOURCE", ValueHint::Other),
        help: "Print what the rules make of an address, and don't start",
        manual: "An address, unix, uid=USER or gid=GROUP. See RULES.",
    },
    Opt {
        long: "max-per-source",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        help: "Run at most N handlers at once for each source",
        manual: "1 or more. See LIMITS.",
    },
    Opt {
        long: "source-prefix",
        shorts: &[],
        kind: Value("V4,V6", ValueHint::Other),
        help: "Bits of an address that make a source [32,64]",
        manual: "\
0 to 32 and 0 to 128. On unix sockets each user is a source. See LIMITS.",
    },
    Opt {
        long: "rate",
        shorts: &[],
        kind: Value("R[:BURST]", ValueHint::Other),
        help: "Let in R connections, like 10/s or 300/m",
        manual: "\
A number and s, m, h or d. Up to BURST, R's number if not given, may come at once. See LIMITS.",
    },
    Opt {
        long: "rate-per-source",
        shorts: &[],
        kind: Value("R[:BURST]", ValueHint::Other),
        help: "The same for each source",
        manual: "See LIMITS.",
    },
    Opt {
        long: "at-max",
        shorts: &[],
        kind: Value("WHAT", ValueHint::Other),
        help: "With -c: queue[:DURATION], close, reset or message:TEXT",
        manual: "\
What happens to a client when all handlers run that may. See LIMITS.",
    },
    Opt {
        long: "at-source-max",
        shorts: &[],
        kind: Value("WHAT", ValueHint::Other),
        help: "With --max-per-source: the same, but for queue",
        manual: "See LIMITS.",
    },
    Opt {
        long: "at-rate",
        shorts: &[],
        kind: Value("WHAT", ValueHint::Other),
        help: "With --rate and --rate-per-source: the same",
        manual: "See LIMITS.",
    },
    Opt {
        long: "first-byte",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        help: "Run nothing for a client before it has sent something",
        manual: "See TIME LIMITS.",
    },
    Opt {
        long: "timeout",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        help: "End a handler that has run for so long",
        manual: "See TIME LIMITS.",
    },
    Opt {
        long: "idle-timeout",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        help: "End a handler whose TCP connection was idle for so long",
        manual: "See TIME LIMITS.",
    },
    Opt {
        long: "linger",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        help: "Have a handler's last words arrive, for so long after its end",
        manual: "See LINGERING.",
    },
    Opt {
        long: "proxy-protocol",
        shorts: &[],
        kind: Flag,
        help: "Learn the client's address from a PROXY header, v1 or v2",
        manual: "Needs --proxy-from. See PROXIES.",
    },
    Opt {
        long: "proxy-from",
        shorts: &[],
        kind: Values("SOURCE", ValueHint::Other),
        help: "With it: who sends such; nobody else may come",
        manual: "An address, a prefix like 192.0.2.0/24, or unix. See PROXIES.",
    },
    Opt {
        long: "proxy-timeout",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        help: "With it: how long the header may take [3s]",
        manual: "See PROXIES.",
    },
];
