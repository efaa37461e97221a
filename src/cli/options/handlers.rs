//! Options: how handlers are run, and how many.

use clap::ValueHint;

use super::option::Kind::{Flag, Optional, Value, Values};
use super::option::Opt;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        long: "max-clients",
        shorts: &['c'],
        kind: Value("N", ValueHint::Other),
        common: true,
        help: "Run at most N handlers at once [no limit]",
        manual: "\
1 or more. Counts all handlers but those in wait mode. Over the limit clients wait in the \
backlog: see --at-max and DATAGRAMS.",
    },
    Opt {
        long: "max-total",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: false,
        help: "End after N handlers",
        manual: "\
1 or more. Exactly N handlers start, those in wait mode too. The listeners close with the last one, and skd \
ends when all have ended. See After a number of clients in DRAINING.",
    },
    Opt {
        long: "once",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Serve one client, and end: --max-total 1",
        manual: "See there.",
    },
    Opt {
        long: "wait",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Run PROG on the listening socket, like inetd",
        manual: "See Wait mode in STREAM SOCKETS.",
    },
    Opt {
        long: "datagram-mode",
        shorts: &[],
        kind: Value("MODE", ValueHint::Other),
        common: true,
        help: "Serve by wait, per-peer or per-packet [wait]",
        manual: "",
    },
    Opt {
        long: "min-source-port",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: false,
        help: "Drop datagrams from ports below N [0 or 1024]",
        manual: "\
For UDP, 0 to 65535; 1024 for per-packet. An error in wait mode.",
    },
    Opt {
        long: "warm",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: true,
        help: "Keep up to N prestarted handlers",
        manual: "\
1 to 4096, each for one connection, and each a process and two descriptors of skd. See \
PRESTARTED HANDLERS.",
    },
    Opt {
        long: "fork-server",
        shorts: &[],
        kind: Optional("MODE", ValueHint::Other),
        common: false,
        help: "Copy a template for each connection [strict]",
        manual: "\
MODE is strict, start or shared: how far a template gets, see PRESTARTED HANDLERS.",
    },
    Opt {
        long: "fork-server-max-age",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: false,
        help: "Replace a template when it is this old [1h]",
        manual: "",
    },
    Opt {
        long: "chdir",
        shorts: &[],
        kind: Value("DIR", ValueHint::DirPath),
        common: false,
        help: "Start PROG in DIR",
        manual: "A relative PROG is looked for there.",
    },
    Opt {
        long: "umask",
        shorts: &[],
        kind: Value("OCTAL", ValueHint::Other),
        common: false,
        help: "Set the umask of PROG, 0 to 777",
        manual: "",
    },
    Opt {
        long: "nice",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: false,
        help: "Set the nice value of PROG, -20 to 19",
        manual: "\
Lowering it needs root's rights, which -U and --daemon-user drop.",
    },
    Opt {
        long: "limit",
        shorts: &[],
        kind: Values("NAME=SOFT[:HARD]", ValueHint::Other),
        common: false,
        help: "Set a resource limit; repeatable",
        manual: "\
NAME is as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, \
rtprio, rttime, sigpending or stack: see setrlimit(2) for units. SOFT and HARD are numbers, \
with K, M, G or T for powers of 1024, or `unlimited`; without HARD both are SOFT. The last \
limit of a NAME counts. Examples: `cpu=10`, `nofile=256:1K`.",
    },
    Opt {
        long: "env",
        shorts: &[],
        kind: Values("NAME[=VALUE]", ValueHint::Other),
        common: false,
        help: "Set or unset a variable; repeatable",
        manual: "\
Without =, it is unset. Not for variables that skd sets itself.",
    },
    Opt {
        long: "env-file",
        shorts: &[],
        kind: Values("FILE", ValueHint::FilePath),
        common: false,
        help: "Set the variables in FILE; repeatable",
        manual: "\
As EnvironmentFile of systemd; with - in front, FILE may be missing: `--env-file -/etc/default/echo`. \
Options --env come after all files. See Files of variables in ENVIRONMENT.",
    },
    Opt {
        long: "clear-env",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Let PROG inherit no variable, not even PATH",
        manual: "\
As with env -i: PROG has only what --env, --env-file, --user and skd set. Without PATH, PROG is looked for in \
/bin and /usr/bin. Example: `--clear-env --env PATH=/usr/local/bin:/usr/bin:/bin`.",
    },
    Opt {
        long: "pass-env",
        shorts: &[],
        kind: Values("NAME", ValueHint::Other),
        common: false,
        help: "With --clear-env, inherit NAME; repeatable",
        manual: "NAME is a variable of skd; without one of that name, nothing happens. --env and --env-file can \
change it.",
    },
    Opt {
        long: "argv0",
        shorts: &[],
        kind: Value("NAME", ValueHint::Other),
        common: false,
        help: "Run PROG under the name NAME",
        manual: "\
NAME is argument 0. Which file is PROG doesn't depend on it. Example: `--argv0 -sh sh` for a login shell. A \
script gets its own path instead, as execve(2) says.",
    },
    Opt {
        long: "name",
        shorts: &[],
        kind: Value("NAME", ValueHint::Other),
        common: false,
        help: "Name the service NAME [the name of PROG]",
        manual: "\
At most 64 bytes, without blanks and control characters. An upgrade knows the service by it: see \
UPGRADING.",
    },
    Opt {
        long: "stderr",
        shorts: &[],
        kind: Value("TARGET", ValueHint::Other),
        common: false,
        help: "Send handlers' stderr to client or log [log]",
        manual: "\
With client, descriptor 2 of a handler is what descriptor 1 is, as with inetd. With log it is that of \
skd. Not with -S.",
    },
    Opt {
        long: "no-new-privs",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Gain no privileges by set-user-id files",
        manual: "See PR_SET_NO_NEW_PRIVS in prctl(2).",
    },
];
