//! The variables of handlers: `--env`, `--env-file`, `--pass-env`.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;

use super::args::Args;
use super::values;
use crate::config::environment_file::{EnvironmentFile, parse, path_of};
use crate::error::{At, Reason};
use crate::sys::directory::Directory;
use crate::sys::trusted::Refusal;

/// The maximum size of a file in bytes. All variables of a program together can't have as much by
/// default (execve(2), a quarter of the limit of the stack).
const LARGEST: u64 = 1 << 20;

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
    let text = match read(&path) {
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

/// Reads a file, even if another process writes to it meanwhile. Returns `None` if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, String> {
    let Some(name) = path.file_name() else {
        return Err("it isn't a regular file".into());
    };
    // Variables such as LD_PRELOAD decide what is run, so only trusted users choose the file.
    let opened = Directory::of(path).and_then(|directory| directory.open_file(Path::new(name)));
    let file = match opened {
        Ok(file) => file,
        Err(Refusal::Failed(Errno::ENOENT | Errno::ENOTDIR)) => return Ok(None),
        Err(Refusal::Failed(Errno::ESPIPE | Errno::ENXIO | Errno::EISDIR)) => {
            return Err("it isn't a regular file".into());
        }
        Err(Refusal::Failed(errno)) => {
            return Err(format!("it can't be opened: {}", At(errno, path).reason()));
        }
        Err(why) => return Err(format!("it can't be opened: {why}")),
    };
    let failed = |reason: std::io::Error| format!("it can't be read: {}", reason.reason());
    if file.metadata().map_err(failed)?.mode() & 0o002 != 0 {
        return Err("every user can write to it, and so choose what PROG loads".into());
    }
    let mut text = Vec::new();
    let length = file.take(LARGEST + 1).read_to_end(&mut text);
    if length.map_err(failed)? as u64 > LARGEST {
        return Err("it is larger than 1 MiB; is it the right file?".into());
    }
    Ok(Some(text))
}
