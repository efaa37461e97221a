//! Options: the daemon itself.

use clap::ValueHint;

use super::option::Kind::{Count, Flag, Optional, Value};
use super::option::{Kind, Opt};

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        long: "verbose",
        shorts: &['v'],
        kind: Count,
        common: true,
        help: "Report connections; -vv reports more",
        manual: "To standard error or the log. See REPORTS.",
    },
    Opt {
        long: "background",
        shorts: &['B'],
        kind: Flag,
        common: true,
        help: "Run as a daemon in the background",
        manual: "Returns when the daemon serves. See DAEMON.",
    },
    Opt {
        long: "log",
        shorts: &['L'],
        kind: Value("SPEC", ValueHint::FilePath),
        common: true,
        help: "Send stderr to syslog TAG, >FILE or >>FILE",
        manual: "\
That of skd and handlers. TAG may have :FACILITY.PRIORITY, as in `motd:local0.info`, by \
default daemon.notice. >FILE is emptied.",
    },
    Opt {
        long: "log-format",
        shorts: &[],
        kind: Value("FORMAT", ValueHint::Other),
        common: false,
        help: "Write skd's lines as text or json [text]",
        manual: "\
With `json`, each line is one object. See JSON in REPORTS. Lines of handlers stay as they are.",
    },
    Opt {
        long: "log-time",
        shorts: &[],
        kind: Optional("yes|no", ValueHint::Other),
        common: false,
        help: "Begin lines with the time [files: yes; else no]",
        manual: "\
UTC with microseconds, as in 2026-11-22T08:05:00.042123Z. In a file of --log, lines of handlers \
have it too; elsewhere only those of skd. JSON always has it.",
    },
    Opt {
        long: "log-mask",
        shorts: &[],
        kind: Value("V4,V6", ValueHint::Other),
        common: false,
        help: "Cut clients' addresses to prefixes in reports",
        manual: "\
To so many bits of IPv4 and IPv6 addresses, as in `24,48`, in each line and in all that is told \
of clients on the control socket. Their ports are left out. Handlers get the whole address.",
    },
    Opt {
        long: "pidfile",
        shorts: &['P'],
        kind: Value("FILE", ValueHint::FilePath),
        common: true,
        help: "Write the process id to FILE, and lock it",
        manual: "\
What is locked is FILE.lock. A second skd with this FILE doesn't start. See DAEMON.",
    },
    Opt {
        long: "supervise",
        shorts: &['S'],
        kind: Flag,
        common: true,
        help: "Run PROG again whenever it exits",
        manual: "With all sockets, if there are any. See SUPERVISION.",
    },
    Opt {
        long: "on-demand",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "With -S, run PROG only when a client comes",
        manual: "",
    },
    Opt {
        long: "idle-exit",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: false,
        help: "With --on-demand, end PROG without a client",
        manual: "When it had none for DURATION.",
    },
    Opt {
        long: "ready-fd",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: false,
        help: "Write a newline to descriptor N when ready",
        manual: "\
1 (not with -S) or more than 2, open for writing. See READINESS.",
    },
    Opt {
        long: "user",
        shorts: &[],
        kind: Value("USER[:GROUP]", ValueHint::Username),
        common: true,
        help: "Run PROG as USER, with its groups",
        manual: "\
skd stays root, out of its handlers' reach, with few capabilities. Names or numbers; GROUP \
replaces the primary group, and is needed for a number that isn't in passwd(5). Not root. See \
Privileges in DAEMON.",
    },
    Opt {
        long: "as-peer",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Run PROG as the user of its unix client",
        manual: "\
With that client's groups; not root, and no user that this system doesn't know. HOME, USER, \
LOGNAME and SHELL are unset. See Privileges in DAEMON.",
    },
    Opt {
        long: "daemon-user",
        shorts: &[],
        kind: Value("USER[:GROUP]", ValueHint::Username),
        common: false,
        help: "Become USER after binding, skd and PROG",
        manual: "As --user, but skd itself too. Not with --user.",
    },
    Opt {
        long: "drop-privileges",
        shorts: &['U'],
        kind: Flag,
        common: false,
        help: "Become $UID and $GID after binding, in $ROOT",
        manual: "",
    },
    Opt {
        long: "chroot",
        shorts: &[],
        kind: Value("DIR", ValueHint::DirPath),
        common: false,
        help: "Run PROG in root directory DIR; needs --user",
        manual: "With --daemon-user or -U, skd itself enters DIR.",
    },
    Opt {
        long: "check",
        shorts: &[],
        kind: Flag,
        common: true,
        help: "Check command line and system, and exit",
        manual: "",
    },
    Opt {
        long: "version",
        shorts: &['V'],
        kind: Kind::Version,
        common: true,
        help: "Print the version",
        manual: "",
    },
    Opt {
        long: "help",
        shorts: &['h'],
        kind: Kind::Help,
        common: true,
        help: "Print the common options, or all",
        manual: "",
    },
];
