//! The options of the control socket.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::unistd::Gid;

use super::args::Args;
use super::values;
use crate::config::{Control, Id};

/// The options that say how the control socket is.
const OTHERS: [&str; 3] = ["control-mode", "control-owner", "control-read"];

/// Reads what was asked for of the control socket.
pub(super) fn control(args: &Args<'_>) -> Option<Control> {
    let mode = args.read("control-mode", values::mode);
    let owner = args.read("control-owner", |text| {
        args.look_up("owner", text, || {
            let (user, group) = values::owner(text)?;
            Ok::<_, values::Why>((user.as_raw(), group.map(Gid::as_raw)))
        })
    });
    let readers = args.read("control-read", |text| args.look_up_id(Id::Group, text));
    if !args.has("control") {
        for option in OTHERS.into_iter().filter(|option| args.has(option)) {
            args.refuse(format!("--{option} has no use without --control"));
        }
        return None;
    }
    Some(Control {
        path: args.read("control", path)?,
        mode,
        owner: owner.flatten(),
        readers,
    })
}

/// Refuses a control socket where skd serves nothing that it could tell of.
pub(super) fn check_served(args: &Args<'_>) {
    if !args.has("control") {
        return;
    }
    if args.flag("supervise") {
        args.refuse(
            "--control can't be used with --supervise: skd serves no client then, and has nothing \
             to count",
        );
    } else if !args.listens() {
        args.refuse(
            "--control has no use without a listener: skd becomes PROG, and nothing is left to \
             answer",
        );
    }
}

/// Parses the path of the socket. Elsewhere an at sign begins an abstract name, which any program
/// could take.
fn path(text: &OsStr) -> Result<PathBuf, values::Why> {
    match text.as_bytes().first() {
        Some(b'@') => Err("it takes a path; for a file of this name, write ./ before it".into()),
        _ => values::path(text),
    }
}
