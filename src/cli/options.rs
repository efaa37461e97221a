//! Every option, once: this table makes the parser, `--help`, the manual page and the
//! shell completions.

mod admission;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command, ValueHint};

/// One option.
#[derive(Debug)]
pub struct Opt {
    /// Its long name, by which the rest of the program knows it.
    pub long: &'static str,
    /// Its short names, the first one shown first.
    pub shorts: &'static [char],
    /// What it takes and how it adds up.
    pub kind: Kind,
    /// One line of `--help`.
    pub help: &'static str,
    /// Its paragraphs in the manual, after the line of `--help`.
    pub manual: &'static str,
}

/// What an option takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Nothing; given or not.
    Flag,
    /// Nothing; how often it is given counts.
    Count,
    /// A value; the last one counts.
    Value(&'static str, ValueHint),
    /// A value or none, after an equals sign; the last one counts.
    Optional(&'static str, ValueHint),
    /// A value each time.
    Values(&'static str, ValueHint),
    /// Ends the program with a text.
    Help,
    /// Ends the program with a text.
    Version,
}

use Kind::{Count, Flag, Optional, Value, Values};

/// The options by heading, in the order of `--help`.
pub const GROUPS: &[(&str, &[Opt])] = &[
    (
        "Listeners (each may be repeated)",
        &[
            Opt {
                long: "tcp",
                shorts: &['t'],
                kind: Values("[HOST:]PORT", ValueHint::Other),
                help: "Listen on TCP",
                manual: "\
PORT is a decimal number from 0 to 65535 or a name of services(5). HOST is a name, an IPv4 \
address, or an IPv6 or IPv4 address in brackets, as in [::1]:80 or [fe80::1%eth0]:80.

PORT alone is two sockets, one for IPv4 and one for IPv6, so that an IPv4 client has an IPv4 \
address for its handler too; where the kernel has no IPv6, the first alone. [::]:PORT is IPv6 \
alone. A name is bound at every address that it resolves to; those that this machine lacks are \
passed over if at least one is bound.

Port 0 takes a free port, the same for all addresses of the option. Its number is printed on \
standard output, on a line of its own, once the socket is listening.",
            },
            Opt {
                long: "udp",
                shorts: &['u'],
                kind: Values("[HOST:]PORT", ValueHint::Other),
                help: "Receive on UDP",
                manual: "The address is written as for --tcp.",
            },
            Opt {
                long: "inet",
                shorts: &['i'],
                kind: Values("[HOST:]PORT", ValueHint::Other),
                help: "TCP, or UDP with -d",
                manual: "The address is written as for --tcp.",
            },
            Opt {
                long: "unix",
                shorts: &['l', 'x'],
                kind: Values("PATH", ValueHint::FilePath),
                help: "Listen on a unix socket, or an abstract @NAME",
                manual: "\
With -d it is a datagram socket, with --seqpacket a sequential-packet one. A socket that nobody holds any more is replaced; one that is in \
use, and anything that isn't a socket, is left alone and skd doesn't start. PATH has at most 107 \
bytes.",
            },
            Opt {
                long: "systemd",
                shorts: &[],
                kind: Flag,
                help: "Take the sockets that systemd hands over (LISTEN_FDS)",
                manual: "See SOCKETS FROM OTHERS.",
            },
            Opt {
                long: "listen-fd",
                shorts: &[],
                kind: Values("N", ValueHint::Other),
                help: "Take the socket that is open as descriptor N",
                manual: "0, or 3 and more. See SOCKETS FROM OTHERS.",
            },
            Opt {
                long: "stream",
                shorts: &['s'],
                kind: Flag,
                help: "Make every -i, -l and -x a stream socket (the default)",
                manual: "\
Of -s, -d and --seqpacket the last counts, wherever it stands on the command line.",
            },
            Opt {
                long: "datagram",
                shorts: &['d'],
                kind: Flag,
                help: "Make every -i, -l and -x a datagram socket",
                manual: "An error where there is no -i, -l or -x.",
            },
            Opt {
                long: "seqpacket",
                shorts: &[],
                kind: Flag,
                help: "Make every -l and -x a sequential-packet socket",
                manual: "See SEQUENTIAL PACKETS. An error where there is no -l or -x, and with -i.",
            },
            Opt {
                long: "backlog",
                shorts: &['b'],
                kind: Value("N", ValueHint::Other),
                help: "Let N connections wait to be accepted [the kernel's limit]",
                manual: "1 or more. The kernel's limit is net.core.somaxconn; see listen(2).",
            },
            Opt {
                long: "max-clients",
                shorts: &['c'],
                kind: Value("N", ValueHint::Other),
                help: "Run at most N handlers at once [no limit]",
                manual: "\
1 or more, on all stream sockets together, and those of datagrams that skd receives. When N \
handlers run, skd accepts no connection; further clients wait in the backlog and are served as \
places come free. For datagrams see DATAGRAMS.",
            },
            Opt {
                long: "wait",
                shorts: &[],
                kind: Flag,
                help: "Let PROG accept connections itself, on the listening socket",
                manual: "See SOCKETS FOR ONE PROGRAM.",
            },
            Opt {
                long: "datagram-mode",
                shorts: &[],
                kind: Value("MODE", ValueHint::Other),
                help: "Run PROG to wait [default], per-peer or per-packet",
                manual: "See DATAGRAMS.",
            },
            Opt {
                long: "min-source-port",
                shorts: &[],
                kind: Value("N", ValueHint::Other),
                help: "Drop UDP datagrams from lower ports [1024 with per-packet]",
                manual: "0 to 65535; 0 drops none. See DATAGRAMS.",
            },
            Opt {
                long: "unix-mode",
                shorts: &[],
                kind: Value("OCTAL", ValueHint::Other),
                help: "Mode of unix socket files [0777 less the umask]",
                manual: "\
The file has it from the moment it exists. A client needs write permission to connect. An error \
with an abstract name, which has no mode.",
            },
            Opt {
                long: "unix-owner",
                shorts: &[],
                kind: Value("USER[:GROUP]", ValueHint::Username),
                help: "Owner of unix socket files",
                manual: "\
Names or numbers; without GROUP the group stays. Set before anybody can connect. An error with \
an abstract name.",
            },
            Opt {
                long: "threads",
                shorts: &[],
                kind: Value("N", ValueHint::Other),
                help: "Accept in N threads, 1 to 16 [three for two cores]",
                manual: "\
Starting a program stops the thread that does it until the program has been executed; the other \
threads go on, which is why a few more of them than cores serve faster.",
            },
            Opt {
                long: "warm",
                shorts: &[],
                kind: Value("N", ValueHint::Other),
                help: "Keep N processes of PROG ready, each for one connection",
                manual: "1 to 4096. See HANDLERS STARTED AHEAD.",
            },
            Opt {
                long: "fork-server",
                shorts: &[],
                kind: Flag,
                help: "Keep one process of PROG ready, copied for each connection",
                manual: "See HANDLERS STARTED AHEAD.",
            },
            Opt {
                long: "fork-server-max-age",
                shorts: &[],
                kind: Value("DURATION", ValueHint::Other),
                help: "With it: how old that process may become [1h]",
                manual: "See HANDLERS STARTED AHEAD.",
            },
        ],
    ),
    ("Who may come in, and for how long", admission::OPTIONS),
    (
        "Options of sockets, and of their connections",
        &[
            Opt {
                long: "nodelay",
                shorts: &['n'],
                kind: Flag,
                help: "Set TCP_NODELAY on every TCP connection",
                manual: "See tcp(7).",
            },
            Opt {
                long: "keepalive",
                shorts: &[],
                kind: Optional("TIME:INTERVAL:PROBES", ValueHint::Other),
                help: "End TCP connections whose peer is gone",
                manual: "\
After TIME without a word from the peer it is asked for one, again after each INTERVAL, and \
given up when PROBES such probes are without an answer: reading then fails. \
--keepalive=10m:30s:4 gives it up after 12 minutes. TIME and INTERVAL are whole seconds up to \
32767s, PROBES is 1 to 127. Without a value they are the kernel's, net.ipv4.tcp_keepalive_time \
and its like: two hours and some minutes in all. See SO_KEEPALIVE in socket(7).",
            },
            Opt {
                long: "user-timeout",
                shorts: &[],
                kind: Value("DURATION", ValueHint::Other),
                help: "Let TCP data be unacknowledged for so long",
                manual: "\
1ms to 24d; then the connection ends. It also decides for --keepalive when a peer is given up, in \
the place of PROBES. See tcp(7).",
            },
            Opt {
                long: "defer-accept",
                shorts: &[],
                kind: Value("DURATION", ValueHint::Other),
                help: "Accept TCP clients when they have sent data",
                manual: "\
For protocols in which the client speaks first: until then nothing runs for it. Whole seconds, 1s \
to 8h; the kernel makes it 1, 3, 7, 15 and so on, the times of its retransmissions. Who says \
nothing for so long is accepted too, when it next acknowledges. See TCP_DEFER_ACCEPT in tcp(7).",
            },
            Opt {
                long: "fast-open",
                shorts: &[],
                kind: Value("N", ValueHint::Other),
                help: "Let N TCP clients send data with the SYN",
                manual: "\
1 or more, up to net.core.somaxconn. net.ipv4.tcp_fastopen must have the 2 that is for servers. A \
packet that the network duplicates may run PROG twice with the same data, so this is for requests \
that bear it. See TCP_FASTOPEN in tcp(7).",
            },
            Opt {
                long: "reuse-port",
                shorts: &[],
                kind: Flag,
                help: "Share ports with programs that do so too",
                manual: "\
For TCP and UDP. All must be of one user; the kernel distributes the clients among them. A second \
skd on the same port is then no error. See SO_REUSEPORT in socket(7).",
            },
            Opt {
                long: "freebind",
                shorts: &[],
                kind: Flag,
                help: "Bind addresses that may not be there yet",
                manual: "\
For TCP and UDP. They are served when this machine has them. See IP_FREEBIND in ip(7).",
            },
            Opt {
                long: "device",
                shorts: &[],
                kind: Value("IF", ValueHint::Other),
                help: "Hear only what comes by the interface IF",
                manual: "\
For TCP and UDP; what is sent leaves by it too. The interface must exist. See SO_BINDTODEVICE in \
socket(7).",
            },
            Opt {
                long: "tos",
                shorts: &[],
                kind: Value("VALUE", ValueHint::Other),
                help: "DSCP name or TOS byte of what is sent",
                manual: "\
For TCP and UDP. VALUE is cs0 to cs7, af11 to af43, ef or le; or a number from 0 to 255, decimal \
or like 0xb8, for the whole byte: ef is 0xb8. The two low bits belong to congestion notification, \
and on TCP the kernel leaves them out. See IP_TOS in ip(7) and IPV6_TCLASS in ipv6(7).",
            },
            Opt {
                long: "mark",
                shorts: &[],
                kind: Value("N", ValueHint::Other),
                help: "Firewall mark of what is sent",
                manual: "\
For TCP and UDP: 0 to 4294967295, decimal or like 0x1f. Needs CAP_NET_ADMIN. See SO_MARK in \
socket(7).",
            },
            Opt {
                long: "send-buffer",
                shorts: &[],
                kind: Value("SIZE", ValueHint::Other),
                help: "Send buffer's size [the kernel's choice]",
                manual: "\
1 to 1G bytes, with K, M or G for powers of 1024 if wished. For TCP, UDP and unix datagram \
sockets. Above net.core.wmem_max it needs CAP_NET_ADMIN, in the initial user namespace; without, \
the kernel makes it that limit, and --check says so. It shows doubled, as in ss(8), for the \
kernel's own bookkeeping; and the kernel then no longer tunes it by itself. See SO_SNDBUF in \
socket(7).",
            },
            Opt {
                long: "receive-buffer",
                shorts: &[],
                kind: Value("SIZE", ValueHint::Other),
                help: "Receive buffer's size [the kernel's choice]",
                manual: "\
For TCP and UDP, up to net.core.rmem_max, and otherwise as for --send-buffer. See SO_RCVBUF in \
socket(7).",
            },
            Opt {
                long: "multicast",
                shorts: &[],
                kind: Values("GROUP[%IF]", ValueHint::Other),
                help: "Join a multicast group, by IF; may be repeated",
                manual: "\
GROUP is an address from 224.0.0.0 to 239.255.255.255 or one that begins with ff. Without IF the \
kernel takes the interface to which a route leads. It is joined on each UDP listener that hears it: \
one on all addresses of its IP version, as with -u 5353, or on the group's own address, as with -u \
239.1.2.3:5353; an error if there is none. Such a listener hears no other group, whichever other \
programs have joined; an upgrade keeps it. See IP_ADD_MEMBERSHIP and IP_MULTICAST_ALL in ip(7).",
            },
        ],
    ),
    (
        "Daemon",
        &[
            Opt {
                long: "verbose",
                shorts: &['v'],
                kind: Count,
                help: "Report connections; -vv reports more",
                manual: "Reports go to standard error or to the log: see REPORTS.",
            },
            Opt {
                long: "background",
                shorts: &['B'],
                kind: Flag,
                help: "Run as a daemon in the background",
                manual: "\
skd returns when the daemon serves, with status 0; if it can't, the reason is on the caller's \
standard error and the status says so. Without a listener it returns when PROG has been executed.

The daemon has a session of its own. Working directory and umask stay. With a listener, standard \
input and output are /dev/null; without one, where they were a terminal. Standard error, without \
--log, is /dev/null where it was a terminal.",
            },
            Opt {
                long: "log",
                shorts: &['L'],
                kind: Value("SPEC", ValueHint::FilePath),
                help: "Send stderr to TAG, TAG:FACILITY.PRIORITY, >FILE or >>FILE",
                manual: "\
TAG is a tag of the system log, with FACILITY and PRIORITY as in syslog.conf(5) or as numbers of \
RFC 5424, daemon.notice if not given. >FILE empties the file at the start, >>FILE doesn't; both \
append from then on, and both are opened again at SIGHUP. The standard error of skd and of every \
handler goes there once skd has started.",
            },
            Opt {
                long: "pidfile",
                shorts: &['P'],
                kind: Value("FILE", ValueHint::FilePath),
                help: "Write the process id to FILE, and lock it",
                manual: "\
A second skd with the same FILE doesn't start. The file is removed at the end. Without a listener \
and without --supervise, PROG inherits the locked descriptor and the file stays.",
            },
            Opt {
                long: "supervise",
                shorts: &['S'],
                kind: Flag,
                help: "Run PROG, with the sockets if any, again whenever it exits",
                manual: "See SUPERVISING, and SOCKETS FOR ONE PROGRAM.",
            },
            Opt {
                long: "on-demand",
                shorts: &[],
                kind: Flag,
                help: "With -S: run PROG when a client comes, each time it has exited",
                manual: "See SOCKETS FOR ONE PROGRAM.",
            },
            Opt {
                long: "idle-exit",
                shorts: &[],
                kind: Value("DURATION", ValueHint::Other),
                help: "With --on-demand: end PROG when it had no client for so long",
                manual: "See SOCKETS FOR ONE PROGRAM.",
            },
            Opt {
                long: "ready-fd",
                shorts: &[],
                kind: Value("N", ValueHint::Other),
                help: "Write a newline to descriptor N when ready, and close it",
                manual: "\
N is 1 or more than 2, and open for writing. With --supervise, more than 2. See READINESS.",
            },
            Opt {
                long: "drain",
                shorts: &[],
                kind: Value("DURATION", ValueHint::Other),
                help: "At SIGTERM, wait so long for handlers to end",
                manual: "\
See DRAINING. A duration is written like 30s, 5m, 1h30m or 250ms. An error without a listener.",
            },
            Opt {
                long: "kill-after",
                shorts: &[],
                kind: Value("DURATION", ValueHint::Other),
                help: "Kill what still runs so long after it was told to end [5s]",
                manual: "\
See DRAINING, TIME LIMITS and SUPERVISING. An error where nothing is ever told to end; with \
--supervise, PROG isn't killed unless the option is given.",
            },
            Opt {
                long: "drop-privileges",
                shorts: &['U'],
                kind: Flag,
                help: "After binding, chroot to $ROOT and become $UID and $GID",
                manual: "\
Both are decimal numbers, $UID not 0; $ROOT may be unset. $GID is then the only group. Not with \
--user.",
            },
            Opt {
                long: "user",
                shorts: &[],
                kind: Value("USER[:GROUP]", ValueHint::Username),
                help: "After binding, become this user, with all its groups",
                manual: "\
Names or numbers; a number without an entry in passwd(5) needs GROUP. GROUP replaces the user's \
primary group. Sets $HOME, $USER, $LOGNAME and $SHELL, or unsets them for a user without an \
entry. Not root, and not with --drop-privileges.",
            },
            Opt {
                long: "chroot",
                shorts: &[],
                kind: Value("DIR", ValueHint::DirPath),
                help: "The root directory for -U or --user",
                manual: "An error without either. Takes precedence over $ROOT.",
            },
            Opt {
                long: "check",
                shorts: &[],
                kind: Flag,
                help: "Say all that is wrong with this command line, and don't start",
                manual: "See CHECKING.",
            },
            Opt {
                long: "version",
                shorts: &['V'],
                kind: Kind::Version,
                help: "Print the version",
                manual: "",
            },
            Opt {
                long: "help",
                shorts: &['h'],
                kind: Kind::Help,
                help: "Print this help",
                manual: "",
            },
        ],
    ),
    (
        "Surroundings of the handler",
        &[
            Opt {
                long: "chdir",
                shorts: &[],
                kind: Value("DIR", ValueHint::DirPath),
                help: "Start it in DIR",
                manual: "A relative PROG is then looked for there.",
            },
            Opt {
                long: "umask",
                shorts: &[],
                kind: Value("OCTAL", ValueHint::Other),
                help: "Set its umask",
                manual: "0 to 777.",
            },
            Opt {
                long: "nice",
                shorts: &[],
                kind: Value("N", ValueHint::Other),
                help: "Set its nice value, -20 to 19",
                manual: "\
An absolute value. One below what it was needs root's rights, which are gone after --user or \
--drop-privileges.",
            },
            Opt {
                long: "limit",
                shorts: &[],
                kind: Values("NAME=SOFT[:HARD]", ValueHint::Other),
                help: "Set a resource limit; may be repeated",
                manual: "\
NAME is one of as, core, cpu, data, fsize, locks, memlock, msgqueue, nice, nofile, nproc, rss, \
rtprio, rttime, sigpending, stack: see setrlimit(2), which also says in what unit each is. SOFT \
and HARD are decimal numbers, with K, M, G or T for powers of 1024 if wished, or 'unlimited'. \
Without HARD both are SOFT. Of the same NAME given twice the last counts.",
            },
            Opt {
                long: "env",
                shorts: &[],
                kind: Values("NAME[=VALUE]", ValueHint::Other),
                help: "Set a variable, or unset it; may be repeated",
                manual: "Without = the variable is unset. Not for what skd sets itself.",
            },
            Opt {
                long: "no-new-privs",
                shorts: &[],
                kind: Flag,
                help: "Let it gain no privileges by set-user-id programs",
                manual: "See PR_SET_NO_NEW_PRIVS in prctl(2).",
            },
        ],
    ),
];

/// The name of the arguments that are PROG and its own.
pub(super) const COMMAND: &str = "command";

/// The command line as clap knows it.
///
/// Values stay as they were typed; [`super::parse`] reads them, so that every message is of
/// one style.
pub fn command() -> Command {
    let mut command = Command::new("skd")
        .version(env!("CARGO_PKG_VERSION"))
        .about(
            "Runs PROG for each connection, with stdin and stdout on it; without a listener, at once. \
             See skd(8).",
        )
        // Lines are scarce: as clap would have it, but for a blank one after the first.
        .help_template("{about}\n{usage-heading} {usage}\n\n{all-args}")
        .override_usage("skd [OPTIONS] [--] PROG [ARGS]...")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(
            // allow_hyphen_values must stay off: with it, clap swallows bundled options.
            Arg::new(COMMAND)
                .value_name("PROG")
                .value_parser(ValueParser::os_string())
                .value_hint(ValueHint::CommandWithArguments)
                .num_args(1..)
                .trailing_var_arg(true)
                .hide(true),
        );
    for (heading, options) in GROUPS {
        for option in *options {
            command = command.arg(argument(option).help_heading(*heading));
        }
    }
    command
}

fn argument(option: &Opt) -> Arg {
    let mut arg = Arg::new(option.long).long(option.long).help(option.help);
    if let Some((first, more)) = option.shorts.split_first() {
        arg = arg.short(*first).visible_short_aliases(more.to_vec());
    }
    match option.kind {
        Flag => arg
            .action(ArgAction::SetTrue)
            .overrides_with_all(match option.long {
                "stream" | "datagram" | "seqpacket" => vec!["stream", "datagram", "seqpacket"],
                other => vec![other],
            }),
        Count => arg.action(ArgAction::Count),
        Value(name, hint) => {
            with_value(arg.action(ArgAction::Set), name, hint).overrides_with(option.long)
        }
        Optional(name, hint) => with_value(arg.action(ArgAction::Set), name, hint)
            .num_args(0..=1)
            // The next word is PROG, perhaps.
            .require_equals(true)
            .overrides_with(option.long),
        Values(name, hint) => with_value(arg.action(ArgAction::Append), name, hint),
        Kind::Help => arg.action(ArgAction::Help),
        Kind::Version => arg.action(ArgAction::Version),
    }
}

fn with_value(arg: Arg, name: &'static str, hint: ValueHint) -> Arg {
    // A value may begin with a hyphen: --nice -5, --env -x, a file of that name.
    arg.value_name(name)
        .value_hint(hint)
        .value_parser(ValueParser::os_string())
        .allow_hyphen_values(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn help_fits_on_two_screens() {
        let help = command().render_help().to_string();
        let widest = help.lines().map(str::len).max();
        // Of 43 lines each.
        assert!(help.lines().count() <= 85, "{} lines", help.lines().count());
        assert!(widest <= Some(100), "{widest:?} columns");
    }
}
