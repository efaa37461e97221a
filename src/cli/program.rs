//! The program to run, and its process attributes.

use std::ffi::{CString, OsStr, OsString};
use std::num::NonZeroUsize;
use std::path::Path;

use super::args::Args;
use super::options::Kind;
use super::{environment, options, values};
use crate::config::{EnvironmentFile, Limit, Mode, StandardError, Supervise, Surroundings};

/// Reads PROG and its arguments.
pub(super) fn command(args: &Args<'_>) -> Vec<CString> {
    let Some(command) = args.matches.get_many::<OsString>(options::COMMAND) else {
        // Whatever reads a file refuses a service without a command.
        if args.written.is_some() {
            return Vec::new();
        }
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
    let all = all.filter(|option| args.is_given(option.long));
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

/// Returns the name of the service of a command line: that of `--name`, or the last part of its
/// program's path.
pub(super) fn service_name(args: &Args<'_>, command: &[CString]) -> String {
    if let Some(name) = args.read("name", values::service_name) {
        return name;
    }
    let program = command
        .first()
        .map_or_else(Vec::new, |name| name.as_bytes().to_vec());
    let name = program.rsplit(|byte| *byte == b'/').next();
    String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
}

/// Returns how many handlers there may be in all, if that is limited.
pub(super) fn max_total(args: &Args<'_>) -> Option<NonZeroUsize> {
    let (once, total) = (args.flag("once"), args.has("max-total"));
    if once && total {
        args.refuse("--once can't be used with --max-total: it is --max-total 1");
    }
    for (option, given) in [("once", once), ("max-total", total)] {
        if !given {
            continue;
        }
        if args.flag("supervise") {
            args.refuse(format!(
                "--{option} can't be used with --supervise: PROG accepts its clients itself"
            ));
        } else if !args.listens() {
            args.refuse(format!(
                "--{option} has no use without a listener: PROG runs once"
            ));
        }
    }
    if once {
        return NonZeroUsize::new(1);
    }
    let number = args.read("max-total", values::positive);
    number.and_then(|number| NonZeroUsize::new(usize::try_from(number).ok()?))
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
    if args.flag("supervise") {
        args.refuse(
            "--stderr client can't be used with --supervise: PROG accepts its clients itself",
        );
    }
    error
}

/// Reads the process attributes of handlers. Files that are `known` aren't read again.
pub(super) fn surroundings(args: &Args<'_>, known: &[EnvironmentFile]) -> Surroundings {
    let mut limits: Vec<Limit> = Vec::new();
    for (_, value) in args.each("limit") {
        if let Some(limit) = args.value("limit", value, values::limit) {
            limits.retain(|earlier| earlier.name != limit.name);
            limits.push(limit);
        }
    }
    let environment_files = environment::files(args, known);
    Surroundings {
        limits,
        argv0: args.read("argv0", values::argv0),
        clears_environment: args.flag("clear-env"),
        passed: environment::passed(args),
        environment: environment::changes(args, &environment_files),
        environment_files,
        directory: args
            .read("chdir", values::path)
            .and_then(|path| args.c_string(path.into_os_string())),
        umask: args.read("umask", values::mode),
        nice: args.read("nice", values::nice),
        no_new_privileges: args.flag("no-new-privs"),
        error: standard_error(args),
    }
}
