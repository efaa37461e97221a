//! The options that change user and root directory.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::args::Args;
use super::values;
use crate::config::{Account, Identity};

/// Reads the user to become.
pub(super) fn identity(args: &Args<'_>) -> Option<Identity> {
    let by_name = args.read("user", values::identity);
    if !args.flag("drop-privileges") {
        return by_name;
    }
    if args.has("user") {
        args.refuse(
            "--user can't be used with --drop-privileges (-U): each sets the user to become",
        );
        return by_name;
    }
    let uid = from_environment(args, "UID", values::uid);
    let gid = from_environment(args, "GID", values::gid)?;
    Some(Identity {
        uid: uid?,
        gid,
        groups: vec![gid],
        account: Account::Inherited,
    })
}

/// Parses the value of an environment variable that -U uses.
fn from_environment<T, E: std::fmt::Display>(
    args: &Args<'_>,
    name: &str,
    reader: impl Fn(&OsStr) -> Result<T, E>,
) -> Option<T> {
    let Some(value) = env::var_os(name) else {
        args.refuse(format!(
            "--drop-privileges (-U) takes the id from ${name}, which isn't set"
        ));
        return None;
    };
    let refuse = |why| {
        let value = Path::new(&value).display();
        args.refuse(format!(
            "invalid value '{value}' of ${name} for --drop-privileges (-U): {why}"
        ));
    };
    reader(&value).map_err(refuse).ok()
}

/// Reads the root directory to enter.
pub(super) fn root(args: &Args<'_>) -> Option<PathBuf> {
    let drops = args.flag("drop-privileges");
    if args.has("chroot") {
        let root = args.read("chroot", values::path);
        if !drops && !args.has("user") {
            args.refuse(
                "--chroot needs --user or --drop-privileges: the root user can leave any root directory",
            );
        }
        return root;
    }
    let root = env::var_os("ROOT").filter(|_| drops)?;
    if root.is_empty() {
        args.refuse("$ROOT for --drop-privileges (-U) is empty; unset it, or name a directory");
        return None;
    }
    Some(PathBuf::from(root))
}
