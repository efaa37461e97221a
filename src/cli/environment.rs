//! The variables of handlers: `--env`, `--env-file`, `--pass-env`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::args::Args;
use super::{text_file, values};
use crate::config::environment_file::{EnvironmentFile, parse, path_of};

/// The maximum number of faults reported for one file. If it is the wrong file, each line has one.
const MOST_FAULTS: usize = 10;

/// Reads the files of `--env-file`, but those that an earlier binary has read.
pub(super) fn files(args: &Args<'_>, known: &[EnvironmentFile]) -> Vec<EnvironmentFile> {
    let options = args.each("env-file").map(|(_, option)| option);
    options
        .filter_map(|option| {
            let earlier = known.iter().find(|file| file.option == option);
            earlier.cloned().or_else(|| file(args, option))
        })
        .collect()
}

/// Returns what changes the environment, in order: options come after files.
pub(super) fn changes(
    args: &Args<'_>,
    files: &[EnvironmentFile],
) -> Vec<(OsString, Option<OsString>)> {
    let serves = args.listens();
    let variable = |value: &OsStr| values::variable(value, serves);
    let of_files = files.iter().flat_map(|file| &file.variables);
    let of_files = of_files.map(|(name, value)| (name.clone(), Some(value.clone())));
    let options = args.each("env");
    let options = options.filter_map(|(_, value)| args.value("env", value, variable));
    of_files.chain(options).collect()
}

/// Returns the variables that are inherited all the same.
pub(super) fn passed(args: &Args<'_>) -> Vec<OsString> {
    if args.has("pass-env") && !args.flag("clear-env") {
        args.refuse("--pass-env has no use without --clear-env: all variables are inherited");
    }
    let serves = args.listens();
    let name = |value: &OsStr| values::variable_name(value, serves);
    let all = args.each("pass-env");
    all.filter_map(|(_, value)| args.value("pass-env", value, name))
        .collect()
}

fn file(args: &Args<'_>, option: &OsStr) -> Option<EnvironmentFile> {
    let (path, optional) = path_of(option);
    let path = args.value("env-file", option, |_| values::path(path))?;
    let text = match text_file::read(&path, "choose what PROG loads") {
        Ok(Some(text)) => text,
        Ok(None) if optional => Vec::new(),
        Ok(None) => {
            args.refuse(format!(
                "--env-file {}: there is no such file; write --env-file -{0} if it may be missing",
                path.display()
            ));
            return None;
        }
        Err(why) => {
            args.refuse(format!("--env-file {}: {why}", path.display()));
            return None;
        }
    };
    let serves = args.listens();
    let mut faults = 0;
    let mut variables = Vec::new();
    for assignment in parse(&text) {
        let line = assignment.line;
        let checked = assignment.checked();
        match checked.and_then(|it| values::settable(&it.0, it.1.as_bytes(), serves).map(|()| it)) {
            Ok(variable) => variables.push(variable),
            Err(why) => {
                faults += 1;
                if faults <= MOST_FAULTS {
                    args.refuse(format!("--env-file {}:{line}: {why}", path.display()));
                }
            }
        }
    }
    (faults == 0).then(|| EnvironmentFile {
        option: option.to_owned(),
        variables,
    })
}
