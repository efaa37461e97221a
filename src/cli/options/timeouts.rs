//! Options: how long clients and handlers may take.

use clap::ValueHint;

use super::option::Kind::Value;
use super::option::Opt;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        long: "first-byte",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: false,
        help: "Start PROG when the client has sent data",
        manual: "A connection that sends nothing for DURATION is closed.",
    },
    Opt {
        long: "timeout",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: true,
        help: "End a handler that has run for DURATION",
        manual: "",
    },
    Opt {
        long: "idle-timeout",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: true,
        help: "End a handler that is idle for DURATION",
        manual: "\
For TCP connections, and in per-peer mode, where the default is 1m.",
    },
    Opt {
        long: "linger",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: false,
        help: "Let the answer arrive before closing",
        manual: "\
By default 2s where handlers leave input unread; `0s` turns it off. Costs a descriptor for \
each handler. See LINGERING CLOSE.",
    },
    Opt {
        long: "drain",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: true,
        help: "At SIGTERM, give handlers DURATION to end",
        manual: "An error without a listener. See DRAINING.",
    },
    Opt {
        long: "kill-after",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: false,
        help: "Send KILL so long after TERM [5s]",
        manual: "\
For --drain, --timeout and --idle-timeout. With --supervise there is no KILL by default. An \
error without any of these.",
    },
];
