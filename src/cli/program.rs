//! The program to run, and its process attributes.

use std::ffi::{CString, OsStr, OsString};
use std::path::Path;

use clap::parser::ValueSource;

use super::args::Args;
use super::options::Kind;
use super::{options, values};
use crate::config::{Limit, Mode, StandardError, Supervise, Surroundings};

/// Reads PROG and its arguments.
pub(super) fn command(args: &Args<'_>) -> Vec<CString> {
    let Some(command) = args.matches.get_many::<OsString>(options::COMMAND) else {
        args.refuse(match last_value(args) {
            Some((option, name, value)) => format!(
                "no PROG to run: '{}' was taken as the {name} of --{option}; write --{option} \
                 {name} PROG (see skd --help)",
                Path::new(value).display()
            ),
            None => "no PROG to run: skd [OPTIONS] [--] PROG [ARGS]... (see skd --help)".into(),
        });
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

/// Returns the option whose value is the last word of the command line, the name of that value,
/// and the value, if it could be meant as PROG.
fn last_value<'a>(args: &'a Args<'_>) -> Option<(&'a str, &'a str, &'a OsStr)> {
    let all = options::GROUPS.iter().flat_map(|(_, options)| *options);
    let all = all.filter(|option| {
        let source = args.matches.value_source(option.long);
        source == Some(ValueSource::CommandLine)
    });
    let last = all.max_by_key(|option| args.matches.indices_of(option.long)?.max())?;
    let (Kind::Value(name, _) | Kind::Values(name, _)) = last.kind else {
        return None;
    };
    let (_, value) = args.each(last.long).last()?;
    let is_word = !value
        .as_encoded_bytes()
        .first()
        .is_none_or(u8::is_ascii_digit);
    is_word.then_some((last.long, name, value))
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

/// Reads the target of handlers' standard error.
fn standard_error(args: &Args<'_>) -> StandardError {
    let error = args.read("stderr", values::standard_error);
    let error = error.unwrap_or_default();
    if error == StandardError::Log {
        return error;
    }
    if !args.listens() {
        args.refuse("--stderr client has no use without a listener");
    }
    let early = "a handler that runs already keeps its standard error";
    for (option, is_used, why) in [
        (
            "supervise",
            args.flag("supervise"),
            "PROG accepts its clients itself",
        ),
        ("warm", args.has("warm"), early),
        ("fork-server", args.has("fork-server"), early),
    ] {
        if is_used {
            args.refuse(format!(
                "--stderr client can't be used with --{option}: {why}"
            ));
        }
    }
    error
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
        error: standard_error(args),
    }
}
