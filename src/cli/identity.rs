//! The options that change user and root directory.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::args::Args;
use super::options::COMMAND;
use super::values;
use crate::config::{Account, Endpoint, Identity, Listen};

/// Reads the user that handlers become.
pub(super) fn handlers(args: &Args<'_>, known: &[Identity]) -> Option<Identity> {
    let other = [
        (args.has("daemon-user"), "--daemon-user"),
        (args.flag("drop-privileges"), "--drop-privileges (-U)"),
    ];
    let other = other.into_iter().find(|(is_set, _)| *is_set);
    if let Some((_, option)) = other.filter(|_| args.has("user")) {
        args.refuse(format!(
            "--user can't be used with {option}: after that, skd itself is a user who can't become \
             another; leave out one of them"
        ));
    }
    args.read("user", |text| identity(text, known))
}

/// Reads the user that skd itself becomes.
pub(super) fn daemon(args: &Args<'_>, known: &[Identity]) -> Option<Identity> {
    let by_name = args.read("daemon-user", |text| identity(text, known));
    if !args.flag("drop-privileges") {
        return by_name;
    }
    if args.has("daemon-user") {
        args.refuse(
            "--daemon-user can't be used with --drop-privileges (-U): each sets the user to become",
        );
        return by_name;
    }
    let uid = from_environment(args, "UID", values::uid);
    let gid = from_environment(args, "GID", values::gid)?;
    Some(Identity {
        name: "$UID".into(),
        uid: uid?,
        gid,
        groups: vec![gid],
        account: Account::Inherited,
    })
}

/// Reads whether handlers become their clients' users.
pub(super) fn as_peer(args: &Args<'_>, listeners: &[Listen]) -> bool {
    if !args.flag("as-peer") {
        return false;
    }
    for other in ["user", "daemon-user", "chroot", "warm", "fork-server"] {
        if args.has(other) {
            args.refuse(format!("--as-peer can't be used with --{other}"));
        }
    }
    let flags = ["drop-privileges", "proxy-protocol", "supervise", "wait"];
    for other in flags {
        if args.flag(other) {
            args.refuse(format!("--as-peer can't be used with --{other}"));
        }
    }
    let is_unix = |listen: &&Listen| match listen.endpoint {
        Endpoint::Unix { style, .. } => style.has_connections(),
        _ => false,
    };
    match listeners.iter().find(|listen| !is_unix(listen)) {
        Some(Listen { option, .. }) => args.refuse(format!(
            "--as-peer can't be used with {option}: only clients of unix stream sockets have a user"
        )),
        None if !args.listens() => args.refuse("--as-peer has no use without --unix (-l)"),
        None => {}
    }
    true
}

/// Looks up a user, unless an earlier binary of this process has.
pub(super) fn identity(text: &OsStr, known: &[Identity]) -> Result<Identity, String> {
    match known.iter().find(|identity| identity.name == text) {
        Some(identity) => Ok(identity.clone()),
        None => values::identity(text),
    }
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

/// Reads the root directory to enter: that of handlers, and that of skd itself.
pub(super) fn roots(args: &Args<'_>) -> (Option<PathBuf>, Option<PathBuf>) {
    let drops = args.flag("drop-privileges");
    if args.has("chroot") {
        let root = args.read("chroot", values::path);
        if args.has("user") {
            return (root, None);
        }
        if !drops && !args.has("daemon-user") {
            let needs = match args.written {
                // Others are the daemon's there.
                Some(_) if args.has(COMMAND) => "--user",
                _ => "--user, --daemon-user or --drop-privileges",
            };
            args.refuse(format!(
                "--chroot needs {needs}: the root user can leave any root directory"
            ));
        }
        return (None, root);
    }
    let Some(root) = env::var_os("ROOT").filter(|_| drops) else {
        return (None, None);
    };
    if root.is_empty() {
        args.refuse("$ROOT for --drop-privileges (-U) is empty; unset it, or name a directory");
        return (None, None);
    }
    (None, Some(PathBuf::from(root)))
}
