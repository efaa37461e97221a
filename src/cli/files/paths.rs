//! Paths in files, which are relative to the directory of the file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use clap::ValueHint;

use crate::cli::options::{GROUPS, Kind};
use crate::config::{Location, OptionText, ServiceText, TlsCertificate};

/// Makes the relative paths of a service absolute. In another root directory, which the service has
/// or skd itself enters, its program and working directory stay as they are.
pub(in crate::cli) fn resolve(text: &mut ServiceText, in_root: bool) {
    let in_root = in_root || text.options.iter().any(|it| it.name == "chroot");
    for option in &mut text.options {
        if !(in_root && option.name == "chdir") {
            resolve_option(option);
        }
    }
    if in_root {
        return;
    }
    if let Some(program) = text.command.first_mut() {
        if program.as_bytes().contains(&b'/') && Path::new(program).is_relative() {
            // As on the command line, it is looked for where it is started.
            let directory = text.options.iter().rfind(|it| it.name == "chdir");
            let directory = directory.and_then(|it| it.value.clone()).map(PathBuf::from);
            let directory = directory.unwrap_or_else(|| directory_of(&text.command_location));
            *program = below(directory, program);
        }
    }
}

/// Makes the relative path of an option absolute, if it has one.
pub(in crate::cli) fn resolve_option(option: &mut OptionText) {
    let Some(value) = &option.value else { return };
    let all = GROUPS.iter().flat_map(|(_, options)| *options);
    let kind = all
        .into_iter()
        .find(|it| it.long == option.name)
        .map(|it| it.kind);
    let (Some(Kind::Value(_, hint)) | Some(Kind::Values(_, hint))) = kind else {
        return;
    };
    let bytes = value.as_bytes();
    if option.name == "tls" {
        // What can't be read is refused later.
        if let Ok(files) = TlsCertificate::parse(value) {
            option.value = Some(certificate(files, &option.location).text());
        }
        return;
    }
    let at = match option.name.as_str() {
        // An abstract name.
        "unix" if bytes.starts_with(b"@") => return,
        "log" if !bytes.starts_with(b">") => return,
        "log" => bytes.iter().take_while(|it| b"> ".contains(it)).count(),
        // It may be missing.
        "env-file" if bytes.starts_with(b"-") => 1,
        "seccomp" if !bytes.contains(&b'/') => return,
        "ro" | "rw" => 0,
        "allow" | "deny" if bytes.starts_with(b"file=") => b"file=".len(),
        _ if matches!(
            hint,
            ValueHint::FilePath | ValueHint::DirPath | ValueHint::ExecutablePath
        ) =>
        {
            0
        }
        _ => return,
    };
    let (before, path) = bytes.split_at(at);
    // An empty path is refused.
    if path.is_empty() || path.starts_with(b"/") {
        return;
    }
    let path = below(directory_of(&option.location), OsStr::from_bytes(path));
    option.value = Some(OsString::from_vec([before, path.as_bytes()].concat()));
}

/// Makes the relative paths of a certificate absolute.
fn certificate(files: TlsCertificate, location: &Location) -> TlsCertificate {
    let absolute = |path: PathBuf| match path.is_absolute() {
        true => path,
        false => below(directory_of(location), path.as_os_str()).into(),
    };
    TlsCertificate {
        chain: absolute(files.chain),
        key: files.key.map(absolute),
    }
}

/// Returns the path of a file in a directory, without `.` components.
fn below(directory: PathBuf, path: &OsStr) -> OsString {
    let path: PathBuf = directory.join(path).components().collect();
    path.into_os_string()
}

/// Returns the directory in which the relative paths of a file begin.
fn directory_of(location: &Location) -> PathBuf {
    let file = std::path::absolute(&location.file);
    let file = file.unwrap_or_else(|_| location.file.to_path_buf());
    file.parent().map(Path::to_owned).unwrap_or_default()
}
