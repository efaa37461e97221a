//! From options to a service and the daemon that serves it.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::Path;

use super::admission::{self, Clients};
use super::args::Args;
use super::known::Known;
use super::options::COMMAND;
use super::{
    control, datagrams, gate, identity, isolation, listeners, prestart, program, tls, values,
};
use crate::config::{Config, Daemon, DatagramMode, Identity, LogFormat, LogTarget, Service};

/// Reads all options. Faults are added to `args`. An invalid value counts as unset, so whether one
/// option needs another is decided by what was given, not by the result.
pub(super) fn config(args: &Args<'_>, known: &Known) -> Config {
    let command = program::command(args);
    let listeners = listeners::listeners(args);
    let supervise = args.flag("supervise");
    listeners::check_who_accepts(args, &listeners);
    if !args.listens() && !supervise {
        refuse_log_lines(args);
    }
    let ready_fd = args.read("ready-fd", values::ready_fd);
    match ready_fd {
        Some(number) if !args.listens() && !supervise => args.refuse(format!(
            "--ready-fd {number} has no use without a listener or --supervise: PROG inherits the \
             descriptor and reports itself when it is ready"
        )),
        Some(1) if supervise => {
            args.refuse("--ready-fd 1 can't be used with --supervise: it is PROG's own output");
        }
        _ => {}
    }
    let datagrams = datagrams::mode(args, &listeners);
    let isolation = isolation::isolation(args, &known.filter_files);
    let ending = ["drain", "timeout", "idle-timeout", "gate"];
    for (option, used, by) in [
        ("drain", args.listens() && !supervise, "a listener"),
        (
            "kill-after",
            supervise || isolation.is_contained() || ending.into_iter().any(|it| args.has(it)),
            "--drain, --timeout, --idle-timeout, --contain, --sandbox, --gate or --supervise",
        ),
    ] {
        if !used && args.has(option) {
            args.refuse(format!("--{option} has no use without {by}"));
        }
    }
    let faults = args.faults.borrow().len();
    let identity = identity::handlers(args, &known.identities);
    let daemon_identity = identity::daemon(args, &known.identities);
    let (root, daemon_root) = identity::roots(args);
    let surroundings = program::surroundings(args, &known.environment_files);
    let misplaced = args.faults.borrow().len() > faults;
    let connected = listeners::style(args).has_connections();
    let inet = args.has("inet") && connected;
    let unix = args.has("unix") && connected;
    let tcp = args.has("tcp") || inet || args.has("listen-fd") || args.flag("systemd");
    let accepts = (tcp || unix) && !supervise && !args.flag("wait");
    let clients = Clients {
        accepted: accepts,
        tcp,
        datagrams,
    };
    let admission = admission::admission(args, clients);
    let tls = tls::tls(args, &listeners, accepts);
    let process = process(args, &known.identities);
    control::check_served(args);
    let mode = program::mode(args);
    notes(args, clients, tcp || unix);
    let drain = args.read("drain", values::duration);
    let kill_after = args.read("kill-after", values::duration);
    Config {
        daemon: Daemon {
            ready_fd,
            identity: daemon_identity,
            root: daemon_root,
            ..process
        },
        services: vec![Service {
            name: program::service_name(args, &command),
            notes: args.notes.take(),
            surroundings,
            isolation,
            tls,
            gate: gate::gate(args, accepts),
            admission,
            prestart: prestart::prestart(args, &listeners, accepts),
            mode,
            identity,
            as_peer: identity::as_peer(args, &listeners),
            root,
            drain,
            kill_after,
            min_source_port: datagrams::min_source_port(args, datagrams, &listeners),
            datagrams,
            listeners,
            max_total: program::max_total(args),
            command: if misplaced { Vec::new() } else { command },
            max_clients: args
                .read("max-clients", values::positive)
                .and_then(|number| NonZeroUsize::new(number as usize)),
            text: None,
        }],
        texts: None,
    }
}

/// Reads the options of the daemon, where services are in files.
pub(super) fn daemon(args: &Args<'_>, known: &[Identity]) -> Daemon {
    let ready_fd = args.read("ready-fd", values::ready_fd);
    let identity = identity::daemon(args, known);
    let (_, root) = identity::roots(args);
    Daemon {
        ready_fd,
        identity,
        root,
        ..process(args, known)
    }
}

/// Reads the options of the daemon that no other option needs.
fn process(args: &Args<'_>, known: &[Identity]) -> Daemon {
    let log_format = args.read("log-format", values::parsed);
    let log_time = match args.is_given("log-time") {
        true => args.read("log-time", values::yes_or_no).or(Some(true)),
        false => None,
    };
    if log_format == Some(LogFormat::Json) && log_time == Some(false) {
        args.refuse("--log-time=no can't be used with --log-format json: each object has its time");
    }
    Daemon {
        verbosity: args.matches.get_count("verbose"),
        background: args.flag("background"),
        log: args.read("log", LogTarget::parse),
        log_format: log_format.unwrap_or_default(),
        log_time,
        log_mask: args.read("log-mask", values::parsed),
        pidfile: args.read("pidfile", values::path),
        ready_fd: None,
        identity: None,
        root: None,
        threads: args.read("threads", values::threads),
        control: control::control(args),
        tls: tls::process(args, known),
    }
}

/// Refuses options about lines of skd where it only runs a program.
fn refuse_log_lines(args: &Args<'_>) {
    for (option, used) in [
        ("log-format", false),
        ("log-mask", false),
        // In a log file, lines of the program have a time too.
        ("log-time", args.is_given("log")),
    ] {
        if args.is_given(option) && !used {
            args.refuse(format!(
                "--{option} has no use without a listener or --supervise: skd writes no lines then"
            ));
        }
    }
}

/// The options that make listeners, as they are written most.
const LISTENERS: [&str; 8] = ["-t", "-u", "-i", "-l", "--tcp", "--udp", "--inet", "--unix"];

/// Notes the options that have no effect. skd 1.2 accepted these; all others are refused.
fn notes(args: &Args<'_>, clients: Clients, connects: bool) {
    let without = |option: &str, what: &str| {
        args.note(format!("--{option} has no effect without {what}"));
    };
    if !args.any() && args.written.is_none() {
        let words = args.matches.get_many::<OsString>(COMMAND);
        let listener = |word: &&OsString| LISTENERS.iter().any(|option| word == option);
        if let Some(word) = words.and_then(|mut words| words.find(listener)) {
            args.note(format!(
                "no listener: options come before PROG, and {} is an argument of it",
                Path::new(word).display()
            ));
        }
    }
    // With a program that accepts connections itself, it is refused.
    let taken = args.flag("wait") || args.flag("supervise") && args.listens();
    let limited = clients.accepted || clients.datagrams != DatagramMode::Wait || taken;
    if args.has("max-clients") && !limited {
        match args.listens() {
            false => without("max-clients", "a listener: PROG runs once"),
            true => without(
                "max-clients",
                "a stream listener or --datagram-mode: a datagram listener has one handler",
            ),
        }
    }
    if args.has("backlog") && !connects {
        without("backlog", "a stream listener");
    }
    if args.flag("nodelay") && !clients.tcp {
        without("nodelay", "a TCP listener");
    }
}
