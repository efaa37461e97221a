//! Users and groups by name or number.

use std::ffi::OsStr;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User};

use super::{Refused, decimal};

/// Looks up a user by number, or by name in passwd(5). Digits are always a number: names of digits
/// alone are not portable (useradd(8)).
pub(crate) fn find_user(text: &OsStr) -> Result<(Uid, Option<User>), Refused> {
    if let Some(number) = decimal::<u32>(text) {
        if number == u32::MAX {
            return Err(Refused("4294967295 is not a user id".into()));
        }
        let uid = Uid::from_raw(number);
        let entry =
            entry(User::from_uid(uid)).map_err(|errno| cannot_look_up("user", text, errno))?;
        return Ok((uid, entry));
    }
    match text.to_str().map(|name| entry(User::from_name(name))) {
        Some(Ok(Some(entry))) => Ok((entry.uid, Some(entry))),
        Some(Err(errno)) => Err(cannot_look_up("user", text, errno)),
        _ => Err(Refused(format!(
            "there is no user '{}'",
            Path::new(text).display()
        ))),
    }
}

/// Looks up a group by number, or by name in group(5).
pub(crate) fn find_group(text: &OsStr) -> Result<Gid, Refused> {
    if let Some(number) = decimal::<u32>(text) {
        return match number {
            u32::MAX => Err(Refused("4294967295 is not a group id".into())),
            number => Ok(Gid::from_raw(number)),
        };
    }
    match text.to_str().map(|name| entry(Group::from_name(name))) {
        Some(Ok(Some(entry))) => Ok(entry.gid),
        Some(Err(errno)) => Err(cannot_look_up("group", text, errno)),
        _ => Err(Refused(format!(
            "there is no group '{}'",
            Path::new(text).display()
        ))),
    }
}

/// Treats a missing passwd(5) or group(5), as in a minimal container, as an empty one. Some C
/// libraries return an error for a missing entry too (getpwnam(3)).
fn entry<T>(found: nix::Result<Option<T>>) -> nix::Result<Option<T>> {
    match found {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH) => Ok(None),
        found => found,
    }
}

fn cannot_look_up(what: &str, text: &OsStr, errno: Errno) -> Refused {
    Refused(format!(
        "the {what} '{}' can't be looked up: {}",
        Path::new(text).display(),
        errno.desc()
    ))
}
