//! Options: how far handlers are kept from everything else.

use clap::ValueHint;

use super::option::Kind::{Flag, Optional, Value, Values};
use super::option::Opt;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        long: "contain",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "End all that a handler has started with it",
        manual: "\
Whatever it did to escape. Its slot is free when all of it has ended: see CONTAINMENT. --sandbox implies this.",
    },
    Opt {
        long: "sandbox",
        shorts: &[],
        kind: Optional("PARTS", ValueHint::Other),
        common: true,
        help: "Isolate each handler [strict: by all PARTS]",
        manual: "\
PARTS is strict, which is all but landlock, or some of user, pid, mount, net, ipc, uts, cgroup, caps, seccomp \
and landlock with commas between them. All of them, or skd doesn't start: see SANDBOX.",
    },
    Opt {
        long: "share-net",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Let handlers in a sandbox use the network",
        manual: "Without it they have their connection and no other.",
    },
    Opt {
        long: "ro",
        shorts: &[],
        kind: Values("PATH[:TO]", ValueHint::AnyPath),
        common: false,
        help: "Show PATH in the sandbox, read-only; repeatable",
        manual: "\
A file or directory of the host, as TO inside, or under its own path. PROG itself, /usr and what is needed of /etc and /dev are shown \
always.",
    },
    Opt {
        long: "rw",
        shorts: &[],
        kind: Values("PATH[:TO]", ValueHint::AnyPath),
        common: false,
        help: "The same, but handlers may change it; repeatable",
        manual: "All handlers share it. Permissions of files hold as outside.",
    },
    Opt {
        long: "tmpfs",
        shorts: &[],
        kind: Values("PATH[:SIZE]", ValueHint::Other),
        common: false,
        help: "Give each handler an empty PATH in memory; repeatable",
        manual: "\
SIZE is a number of bytes with K, M, G or T for powers of 1024, 64M without. /tmp is one always: `--tmpfs \
/tmp:1M` makes it smaller.",
    },
    Opt {
        long: "sandbox-user",
        shorts: &[],
        kind: Value("UID[:GID]", ValueHint::Other),
        common: false,
        help: "Show handlers their user as UID [that outside]",
        manual: "Numbers; without GID it is UID. Rights over files are those of the user outside.",
    },
    Opt {
        long: "sandbox-hostname",
        shorts: &[],
        kind: Value("NAME", ValueHint::Other),
        common: false,
        help: "Set the host name inside [sandbox]",
        manual: "",
    },
    Opt {
        long: "seccomp",
        shorts: &[],
        kind: Value("FILTER", ValueHint::FilePath),
        common: false,
        help: "Filter system calls by default, log, none or a file",
        manual: "\
default refuses what a network handler never needs, with EPERM; log lets it happen and logs it; none filters \
nothing, in a sandbox too; a FILE, with a '/' in its path, is a list by name, read like those of --env-file: see \
System calls in SANDBOX. A filter implies --no-new-privs. A strict sandbox has default.",
    },
    Opt {
        long: "memory-max",
        shorts: &[],
        kind: Value("SIZE", ValueHint::Other),
        common: true,
        help: "Limit the memory of each handler",
        manual: "\
A number of bytes with K, M, G or T for powers of 1024. This and the next five need control groups (cgroups(7), \
version 2) that skd may make: see Limits in CONTAINMENT.",
    },
    Opt {
        long: "pids-max",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: false,
        help: "The same for the number of processes and threads",
        manual: "1 or more.",
    },
    Opt {
        long: "cpu-max",
        shorts: &[],
        kind: Value("N%", ValueHint::Other),
        common: false,
        help: "The same for CPU time, in percent of one CPU",
        manual: "Example: `--cpu-max 50%`.",
    },
    Opt {
        long: "service-memory-max",
        shorts: &[],
        kind: Value("SIZE", ValueHint::Other),
        common: false,
        help: "Limit the memory of all handlers together",
        manual: "",
    },
    Opt {
        long: "service-pids-max",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: false,
        help: "The same for the number of processes and threads",
        manual: "",
    },
    Opt {
        long: "service-cpu-max",
        shorts: &[],
        kind: Value("N%", ValueHint::Other),
        common: false,
        help: "The same for CPU time, in percent of one CPU",
        manual: "",
    },
    Opt {
        long: "gate",
        shorts: &[],
        kind: Value("COMMAND", ValueHint::CommandString),
        common: false,
        help: "Start PROG only if COMMAND, with the client, ends with 0",
        manual: "\
COMMAND is a program and its arguments, with blanks between them; quotes and backslashes are as in a shell, \
without expansion. It has the connection first, outside of the sandbox, and takes no slot: see GATES.",
    },
    Opt {
        long: "gate-timeout",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: false,
        help: "End a gate that takes DURATION [60s]",
        manual: "",
    },
    Opt {
        long: "gate-max",
        shorts: &[],
        kind: Value("N", ValueHint::Other),
        common: false,
        help: "Let at most N clients be in the gate [256]",
        manual: "1 or more. Others are refused.",
    },
];
