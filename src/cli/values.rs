//! The values of options, each read in full or refused: nothing is guessed, cut or taken
//! modulo anything.

use std::ffi::{CString, OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::config::{Account, Identity, Limit, MOST_THREADS, RESOURCES, Refused, Span};

/// Why a value is refused: a clause that goes on after "invalid value … for …".
pub(super) type Why = String;

/// A decimal number and nothing else: no sign, no blank, no prefix.
pub(super) fn decimal<T: FromStr>(text: &OsStr) -> Option<T> {
    let text = text.to_str()?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// 1 or more, up to what an int of the kernel holds.
pub(super) fn positive(text: &OsStr) -> Result<i32, Why> {
    decimal(text)
        .filter(|number| *number >= 1)
        .ok_or_else(|| format!("it takes a decimal number from 1 to {}", i32::MAX))
}

/// The number of a descriptor that can have been handed over: 1 and 2 are for what is said.
pub(super) fn descriptor(text: &OsStr) -> Result<i32, Why> {
    decimal(text)
        .filter(|number: &i32| !matches!(number, 1 | 2))
        .ok_or_else(|| "it takes 0, or a decimal number from 3".into())
}

pub(super) fn threads(text: &OsStr) -> Result<NonZeroUsize, Why> {
    decimal(text)
        .and_then(NonZeroUsize::new)
        .filter(|number| number.get() <= MOST_THREADS)
        .ok_or_else(|| format!("it takes a decimal number from 1 to {MOST_THREADS}"))
}

/// A descriptor that can be given away: standard output, or none of the three.
pub(super) fn ready_fd(text: &OsStr) -> Result<i32, Why> {
    decimal(text)
        .filter(|number| *number == 1 || *number >= 3)
        .ok_or_else(|| {
            "it takes the number of a descriptor, 1 or from 3 up; 0 and 2 are standard input and \
             standard error, which go on to be used"
                .into()
        })
}

pub(super) fn path(text: &OsStr) -> Result<PathBuf, Why> {
    if text.is_empty() {
        return Err("the path is empty".into());
    }
    Ok(PathBuf::from(text))
}

pub(super) fn duration(text: &OsStr) -> Result<Span, Why> {
    // What isn't text is no duration either.
    let text = text.to_str().unwrap_or_default();
    text.parse().map_err(|why: Refused| why.to_string())
}

/// A file mode or a mask of such.
pub(super) fn mode(text: &OsStr) -> Result<u32, Why> {
    text.to_str()
        .filter(|text| text.bytes().all(|byte| matches!(byte, b'0'..=b'7')))
        .and_then(|text| u32::from_str_radix(text, 8).ok())
        .filter(|number| *number <= 0o777)
        .ok_or_else(|| "it takes an octal number from 0 to 777".into())
}

pub(super) fn nice(text: &OsStr) -> Result<i32, Why> {
    let (digits, sign) = match text.as_bytes().strip_prefix(b"-") {
        Some(digits) => (OsStr::from_bytes(digits), -1),
        None => (text, 1),
    };
    decimal::<i32>(digits)
        .filter(|number| !digits.is_empty() && *number <= 20)
        .map(|number| sign * number)
        .filter(|number| *number <= 19)
        .ok_or_else(|| "it takes a decimal number from -20 to 19".into())
}

pub(super) fn uid(text: &OsStr) -> Result<Uid, Why> {
    // setresuid(2) takes 4294967295 for "leave it", and becoming root is no drop.
    decimal::<u32>(text)
        .filter(|number| (1..u32::MAX).contains(number))
        .map(Uid::from_raw)
        .ok_or_else(|| "it takes a decimal number from 1 to 4294967294".into())
}

pub(super) fn gid(text: &OsStr) -> Result<Gid, Why> {
    decimal::<u32>(text)
        .filter(|number| *number != u32::MAX)
        .map(Gid::from_raw)
        .ok_or_else(|| "it takes a decimal number from 0 to 4294967294".into())
}

/// `USER[:GROUP]` as text, either part by name or number.
fn user_and_group(text: &OsStr) -> Result<(&OsStr, Option<&OsStr>), Why> {
    let bytes = text.as_bytes();
    let (user, group) = match bytes.iter().position(|&byte| byte == b':') {
        None => (bytes, None),
        Some(colon) => (&bytes[..colon], Some(&bytes[colon + 1..])),
    };
    if user.is_empty() || group.is_some_and(<[u8]>::is_empty) {
        return Err("it takes USER or USER:GROUP, each a name or a decimal number".into());
    }
    Ok((OsStr::from_bytes(user), group.map(OsStr::from_bytes)))
}

/// A number, or the entry of passwd(5) of that name. A number wins, as with chown(1) where
/// no such name exists; names of digits alone are not portable (useradd(8)).
fn find_user(text: &OsStr) -> Result<(Uid, Option<User>), Why> {
    if let Some(number) = decimal::<u32>(text) {
        if number == u32::MAX {
            return Err("4294967295 is no user id".into());
        }
        let uid = Uid::from_raw(number);
        let entry = entry(User::from_uid(uid)).map_err(|errno| looked_up("user", text, errno))?;
        return Ok((uid, entry));
    }
    match text.to_str().map(|name| entry(User::from_name(name))) {
        Some(Ok(Some(entry))) => Ok((entry.uid, Some(entry))),
        Some(Err(errno)) => Err(looked_up("user", text, errno)),
        _ => Err(format!("there is no user '{}'", text.display())),
    }
}

fn find_group(text: &OsStr) -> Result<Gid, Why> {
    if let Some(number) = decimal::<u32>(text) {
        return match number {
            u32::MAX => Err("4294967295 is no group id".into()),
            number => Ok(Gid::from_raw(number)),
        };
    }
    match text.to_str().map(|name| entry(Group::from_name(name))) {
        Some(Ok(Some(entry))) => Ok(entry.gid),
        Some(Err(errno)) => Err(looked_up("group", text, errno)),
        _ => Err(format!("there is no group '{}'", text.display())),
    }
}

/// Where there is no passwd(5) or group(5) at all, as in a container of one program, nobody is
/// in it; and for want of an entry some libraries give an error (getpwnam(3)).
fn entry<T>(found: nix::Result<Option<T>>) -> nix::Result<Option<T>> {
    match found {
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH) => Ok(None),
        found => found,
    }
}

fn looked_up(what: &str, text: &OsStr, errno: Errno) -> Why {
    format!(
        "the {what} '{}' can't be looked up: {}",
        text.display(),
        errno.desc()
    )
}

pub(super) fn owner(text: &OsStr) -> Result<(Uid, Option<Gid>), Why> {
    let (user, group) = user_and_group(text)?;
    let (uid, _) = find_user(user)?;
    Ok((uid, group.map(find_group).transpose()?))
}

pub(super) fn identity(text: &OsStr) -> Result<Identity, Why> {
    let (user, group) = user_and_group(text)?;
    let (uid, entry) = find_user(user)?;
    if uid.is_root() {
        return Err("becoming root is no drop; leave the option out".into());
    }
    let group = group.map(find_group).transpose()?;
    let gid = match (group, &entry) {
        (Some(gid), _) => gid,
        (None, Some(entry)) => entry.gid,
        (None, None) => {
            return Err(format!(
                "user id {uid} has no entry in passwd(5), so the group must be given: {uid}:GROUP"
            ));
        }
    };
    let mut groups = match &entry {
        None => vec![gid],
        Some(entry) => groups_of(&entry.name, gid)?,
    };
    groups.sort_unstable_by_key(|group| group.as_raw());
    groups.dedup();
    let account = entry.map_or(Account::Unknown, |entry| Account::Known {
        name: entry.name.into(),
        home: entry.dir.into_os_string(),
        shell: entry.shell.into_os_string(),
    });
    Ok(Identity {
        uid,
        gid,
        groups,
        account,
    })
}

fn groups_of(name: &str, gid: Gid) -> Result<Vec<Gid>, Why> {
    let name = CString::new(name).map_err(|_| "the name has a NUL byte inside")?;
    getgrouplist(&name, gid)
        .map_err(|errno| format!("the user's groups can't be looked up: {}", errno.desc()))
}

pub(super) fn limit(text: &OsStr) -> Result<Limit, Why> {
    let form = "it takes NAME=SOFT or NAME=SOFT:HARD, as nofile=256 or core=0:unlimited";
    let (name, values) = text
        .to_str()
        .and_then(|text| text.split_once('='))
        .ok_or(form)?;
    let Some((name, resource)) = RESOURCES.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = RESOURCES.iter().map(|(known, _)| *known).collect();
        return Err(format!(
            "there is no limit '{name}', but {}",
            names.join(", ")
        ));
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (Some(soft), Some(hard)) = (amount(soft), amount(hard)) else {
        return Err(format!(
            "{form}; each is a decimal number, with K, M, G or T if wished, or 'unlimited'"
        ));
    };
    if soft > hard {
        return Err("the soft limit is above the hard one".into());
    }
    Ok(Limit {
        name,
        resource: *resource,
        soft,
        hard,
    })
}

pub(super) fn amount(text: &str) -> Option<u64> {
    if text == "unlimited" {
        return Some(u64::MAX);
    }
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    decimal::<u64>(OsStr::new(digits))
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|number| *number != u64::MAX)
}

pub(super) fn variable(text: &OsStr, serves: bool) -> Result<(OsString, Option<OsString>), Why> {
    let bytes = text.as_bytes();
    let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
        None => (bytes, None),
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
    };
    if name.is_empty() {
        return Err("it takes NAME=VALUE, or NAME to unset".into());
    }
    let name = OsString::from_vec(name.to_vec());
    if serves && value.is_some() && crate::config::is_reserved_variable(&name) {
        return Err(format!(
            "{} is one of the variables that skd sets or removes for each handler",
            name.display()
        ));
    }
    Ok((name, value.map(|value| OsString::from_vec(value.to_vec()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn os(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn numbers_are_decimal_and_whole() {
        assert_eq!(positive(os("1")), Ok(1));
        assert_eq!(positive(os("2147483647")), Ok(i32::MAX));
        for text in [
            "",
            "0",
            "-1",
            "+1",
            " 1",
            "1 ",
            "0x10",
            "1k",
            "2147483648",
            "1.5",
        ] {
            assert!(positive(os(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn nice_values_go_from_minus_20_to_19() {
        assert_eq!(nice(os("-20")), Ok(-20));
        assert_eq!(nice(os("19")), Ok(19));
        for text in ["", "-", "--5", "-21", "20", "+5", "5.0"] {
            assert!(nice(os(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode(os("660")), Ok(0o660));
        assert_eq!(mode(os("0027")), Ok(0o27));
        for text in ["", "0o17", "8", "1777", "rw", "-1"] {
            assert!(mode(os(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn ids_leave_out_those_that_mean_something_else() {
        assert_eq!(uid(os("4294967294")), Ok(Uid::from_raw(4_294_967_294)));
        assert_eq!(gid(os("0")), Ok(Gid::from_raw(0)));
        for text in ["", "0", "4294967295", "4294967296", "-1", "0x10", "1x"] {
            assert!(uid(os(text)).is_err(), "{text:?}");
        }
        assert!(gid(os("4294967295")).is_err());
        assert!(identity(os("0")).is_err());
        assert!(identity(os("root")).is_err());
    }

    #[test]
    fn limits_have_a_soft_and_a_hard_part() {
        let parts = |text| limit(os(text)).map(|limit| (limit.name, limit.soft, limit.hard));
        assert_eq!(parts("nofile=64"), Ok(("nofile", 64, 64)));
        assert_eq!(parts("as=1M:2G"), Ok(("as", 1 << 20, 2 << 30)));
        assert_eq!(parts("core=0:unlimited"), Ok(("core", 0, u64::MAX)));
        for text in [
            "",
            "nofile",
            "nofile=",
            "files=1",
            "nofile=1:",
            "nofile=2:1",
            "nofile=0x1",
            "nofile=1k",
            "nofile=18446744073709551615",
            "as=99999999999T",
            "nofile=1:2:3",
        ] {
            assert!(parts(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in ".*") {
            let _ = (positive(os(&text)), nice(os(&text)), mode(os(&text)), limit(os(&text)));
            let _ = (uid(os(&text)), variable(os(&text), true), user_and_group(os(&text)));
        }
    }
}
