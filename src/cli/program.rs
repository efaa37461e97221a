//! The program to run, and its process attributes.

use std::ffi::{CString, OsStr, OsString};

use super::args::Args;
use super::{options, values};
use crate::config::{Limit, Mode, Supervise, Surroundings};

/// Reads PROG and its arguments.
pub(super) fn command(args: &Args<'_>) -> Vec<CString> {
    let Some(command) = args.matches.get_many::<OsString>(options::COMMAND) else {
        args.refuse("no PROG to run: skd [OPTIONS] [--] PROG [ARGS]... (see skd --help)");
        return Vec::new();
    };
    let command: Vec<CString> = command
        .filter_map(|word| args.c_string(word.clone()))
        .collect();
    if command.first().is_some_and(|name| name.is_empty()) {
        args.refuse("PROG is empty");
        return Vec::new();
    }
    command
}

/// Returns the name of the service of a command line: the last part of its program's path.
pub(super) fn service_name(command: &[CString]) -> String {
    let program = command
        .first()
        .map_or_else(Vec::new, |name| name.as_bytes().to_vec());
    let name = program.rsplit(|byte| *byte == b'/').next();
    String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
}

/// Returns how PROG gets its clients.
pub(super) fn mode(args: &Args<'_>) -> Mode {
    let idle_exit = args.read("idle-exit", values::duration);
    if args.flag("supervise") {
        Mode::Supervise(Supervise {
            on_demand: args.flag("on-demand"),
            idle_exit,
        })
    } else if args.flag("wait") {
        Mode::Wait
    } else {
        Mode::PerConnection
    }
}

/// Reads the process attributes of handlers.
pub(super) fn surroundings(args: &Args<'_>) -> Surroundings {
    let mut limits: Vec<Limit> = Vec::new();
    for (_, value) in args.each("limit") {
        if let Some(limit) = args.value("limit", value, values::limit) {
            limits.retain(|earlier| earlier.name != limit.name);
            limits.push(limit);
        }
    }
    let serves = args.listens();
    let variable = |value: &OsStr| values::variable(value, serves);
    Surroundings {
        limits,
        environment: args
            .each("env")
            .filter_map(|(_, value)| args.value("env", value, variable))
            .collect(),
        directory: args
            .read("chdir", values::path)
            .and_then(|path| args.c_string(path.into_os_string())),
        umask: args.read("umask", values::mode),
        nice: args.read("nice", values::nice),
        no_new_privileges: args.flag("no-new-privs"),
    }
}
