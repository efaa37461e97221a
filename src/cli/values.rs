//! Parsing the values of options. A value is parsed completely or refused, never truncated or
//! guessed.

use std::ffi::{CString, OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::unistd::{Gid, Uid, User, getgrouplist};

use crate::config::{
    Account, Identity, Limit, MOST_THREADS, RESOURCES, Refused, Span, StandardError, accounts,
    decimal,
};
use crate::sys::credentials;

/// Why a value is refused: a clause that follows "invalid value … for …".
pub type Why = String;

/// The kernel would truncate the value there.
const NUL: &str = "it contains a NUL byte";

/// Parses a number from 1 to the maximum of a C int.
pub fn positive(text: &OsStr) -> Result<i32, Why> {
    decimal(text)
        .filter(|number| *number >= 1)
        .ok_or_else(|| format!("it takes a decimal number from 1 to {}", i32::MAX))
}

/// Parses the target of handlers' standard error.
pub fn standard_error(text: &OsStr) -> Result<StandardError, Why> {
    match text.as_bytes() {
        b"log" => Ok(StandardError::Log),
        b"client" => Ok(StandardError::Client),
        _ => Err("it takes client or log".into()),
    }
}

/// Parses yes or no.
pub fn yes_or_no(text: &OsStr) -> Result<bool, Why> {
    match text.as_bytes() {
        b"yes" => Ok(true),
        b"no" => Ok(false),
        _ => Err("it takes yes or no".into()),
    }
}

/// Parses the number of an inherited descriptor. 1 and 2 are standard output and standard error.
pub fn descriptor(text: &OsStr) -> Result<i32, Why> {
    decimal(text)
        .filter(|number: &i32| !matches!(number, 1 | 2))
        .ok_or_else(|| "it takes 0, or a decimal number from 3".into())
}

/// Parses a number from 1 to [`MOST_THREADS`].
pub fn threads(text: &OsStr) -> Result<NonZeroUsize, Why> {
    decimal(text)
        .and_then(NonZeroUsize::new)
        .filter(|number| number.get() <= MOST_THREADS)
        .ok_or_else(|| format!("it takes a decimal number from 1 to {MOST_THREADS}"))
}

/// Parses the descriptor of `--ready-fd`: standard output, or one from 3 up.
pub fn ready_fd(text: &OsStr) -> Result<i32, Why> {
    decimal(text)
        .filter(|number| *number == 1 || *number >= 3)
        .ok_or_else(|| {
            "it takes the number of a descriptor, 1 or from 3 up; 0 and 2 are standard input and \
             standard error, which skd needs"
                .into()
        })
}

/// Parses a path, which may not exist.
pub fn path(text: &OsStr) -> Result<PathBuf, Why> {
    if text.is_empty() {
        return Err("the path is empty".into());
    }
    if text.as_bytes().contains(&0) {
        return Err(NUL.into());
    }
    Ok(PathBuf::from(text))
}

/// Parses a value of a type that implements `FromStr`.
pub fn parsed<T: FromStr<Err = Refused>>(text: &OsStr) -> Result<T, Why> {
    let text = text.to_str().ok_or("it isn't text in UTF-8")?;
    text.parse().map_err(|why: Refused| why.to_string())
}

/// Parses a duration.
pub fn duration(text: &OsStr) -> Result<Span, Why> {
    // A value that isn't UTF-8 is no duration either.
    let text = text.to_str().unwrap_or_default();
    text.parse().map_err(|why: Refused| why.to_string())
}

/// Parses a duration that isn't zero.
pub fn nonzero_duration(text: &OsStr) -> Result<Span, Why> {
    let span = duration(text)?;
    if span == Span::ZERO {
        return Err("it takes a duration that isn't zero".into());
    }
    Ok(span)
}

/// Parses a file mode, or a mask for file modes.
pub fn mode(text: &OsStr) -> Result<u32, Why> {
    text.to_str()
        .filter(|text| text.bytes().all(|byte| matches!(byte, b'0'..=b'7')))
        .and_then(|text| u32::from_str_radix(text, 8).ok())
        .filter(|number| *number <= 0o777)
        .ok_or_else(|| "it takes an octal number from 0 to 777".into())
}

/// Parses a nice value from -20 to 19 (setpriority(2)).
pub fn nice(text: &OsStr) -> Result<i32, Why> {
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

/// Parses a user id to become.
pub fn uid(text: &OsStr) -> Result<Uid, Why> {
    // setresuid(2) takes 4294967295 for no change, and becoming root drops no privileges.
    decimal::<u32>(text)
        .filter(|number| (1..u32::MAX).contains(number))
        .map(Uid::from_raw)
        .ok_or_else(|| "it takes a decimal number from 1 to 4294967294".into())
}

/// Parses a group id to become.
pub fn gid(text: &OsStr) -> Result<Gid, Why> {
    decimal::<u32>(text)
        .filter(|number| *number != u32::MAX)
        .map(Gid::from_raw)
        .ok_or_else(|| "it takes a decimal number from 0 to 4294967294".into())
}

/// Splits `USER[:GROUP]` into its parts, each a name or number.
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

fn find_user(text: &OsStr) -> Result<(Uid, Option<User>), Why> {
    accounts::find_user(text).map_err(|why| why.to_string())
}

fn find_group(text: &OsStr) -> Result<Gid, Why> {
    accounts::find_group(text).map_err(|why| why.to_string())
}

/// Parses `USER[:GROUP]`, the owner of a file.
pub fn owner(text: &OsStr) -> Result<(Uid, Option<Gid>), Why> {
    let (user, group) = user_and_group(text)?;
    let (uid, _) = find_user(user)?;
    Ok((uid, group.map(find_group).transpose()?))
}

/// Parses `USER[:GROUP]`, the user to become, and looks up all groups of that user.
pub fn identity(text: &OsStr) -> Result<Identity, Why> {
    let (user, group) = user_and_group(text)?;
    let (uid, entry) = find_user(user)?;
    if uid.is_root() {
        return Err("this must not be root; leave the option out to stay root".into());
    }
    let group = group.map(find_group).transpose()?;
    let gid = match (group, &entry) {
        (Some(gid), _) => gid,
        (None, Some(entry)) => entry.gid,
        (None, None) => {
            return Err(format!(
                "user id {uid} has no entry in passwd(5), so set the group too: {uid}:GROUP"
            ));
        }
    };
    let mut groups = match &entry {
        None => vec![gid],
        Some(entry) => groups_of(&entry.name, gid)?,
    };
    credentials::in_order(&mut groups);
    let account = entry.map_or(Account::Unknown, |entry| Account::Known {
        name: entry.name.into(),
        home: entry.dir.into_os_string(),
        shell: entry.shell.into_os_string(),
    });
    Ok(Identity {
        name: text.to_owned(),
        uid,
        gid,
        groups,
        account,
    })
}

fn groups_of(name: &str, gid: Gid) -> Result<Vec<Gid>, Why> {
    let name = CString::new(name).map_err(|_| "the name contains a NUL byte")?;
    getgrouplist(&name, gid)
        .map_err(|errno| format!("the user's groups can't be looked up: {}", errno.desc()))
}

/// Parses a resource limit, `NAME=SOFT[:HARD]` (setrlimit(2)).
pub fn limit(text: &OsStr) -> Result<Limit, Why> {
    let form = "it takes NAME=SOFT or NAME=SOFT:HARD, as nofile=256 or core=0:unlimited";
    let (name, values) = text
        .to_str()
        .and_then(|text| text.split_once('='))
        .ok_or(form)?;
    let Some((name, resource)) = RESOURCES.iter().find(|(known, _)| *known == name) else {
        let names: Vec<&str> = RESOURCES.iter().map(|(known, _)| *known).collect();
        return Err(format!(
            "there is no limit '{name}'; the limits are {}",
            names.join(", ")
        ));
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let (Some(soft), Some(hard)) = (amount(soft), amount(hard)) else {
        return Err(format!(
            "{form}; each is a decimal number, optionally with K, M, G or T, or 'unlimited'"
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

/// Parses a number with an optional unit, or `unlimited`.
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

/// Parses `NAME=VALUE`, or `NAME` to unset. If skd serves, it refuses values for the variables that
/// skd sets itself.
pub fn variable(text: &OsStr, serves: bool) -> Result<(OsString, Option<OsString>), Why> {
    let bytes = text.as_bytes();
    let (name, value) = match bytes.iter().position(|&byte| byte == b'=') {
        None => (bytes, None),
        Some(at) => (&bytes[..at], Some(&bytes[at + 1..])),
    };
    if name.is_empty() {
        return Err("it takes NAME=VALUE, or NAME to unset".into());
    }
    if bytes.contains(&0) {
        return Err(NUL.into());
    }
    let name = OsString::from_vec(name.to_vec());
    if let Some(value) = value {
        settable(&name, value, serves)?;
    }
    Ok((name, value.map(|value| OsString::from_vec(value.to_vec()))))
}

/// Parses the name of a variable. If skd serves, it refuses those that skd sets itself.
pub fn variable_name(text: &OsStr, serves: bool) -> Result<OsString, Why> {
    if text.is_empty() || text.as_bytes().contains(&b'=') {
        return Err("it takes the NAME of a variable".into());
    }
    let (name, _) = variable(text, serves)?;
    settable(&name, b"", serves).map(|()| name)
}

/// Refuses a variable that no program can have, and if skd serves, those that skd sets itself.
pub fn settable(name: &OsStr, value: &[u8], serves: bool) -> Result<(), Why> {
    // execve(2), MAX_ARG_STRLEN: with `=` and the byte at the end. Larger pages allow for more.
    const LONGEST: usize = 128 << 10;
    if name.len() + value.len() + 2 > LONGEST {
        return Err(format!(
            "{} and its value are longer than the 128 KiB that a program can have",
            Path::new(name).display()
        ));
    }
    if serves && crate::config::is_reserved_variable(name) {
        return Err(format!(
            "{} is one of the variables that skd sets or removes for each handler",
            Path::new(name).display()
        ));
    }
    Ok(())
}

/// Parses the name of a service, a word in messages: no blanks, no control characters.
pub fn service_name(text: &OsStr) -> Result<String, Why> {
    const LONGEST: usize = 64;
    let fits = |name: &&str| {
        let odd = |letter: char| letter.is_whitespace() || letter.is_control();
        !name.is_empty() && name.len() <= LONGEST && !name.contains(odd)
    };
    let name = text.to_str().filter(fits);
    name.map(str::to_owned).ok_or_else(|| {
        format!("it takes 1 to {LONGEST} bytes of UTF-8, without blanks and control characters")
    })
}

/// Parses what a program gets as its name.
pub fn argv0(text: &OsStr) -> Result<CString, Why> {
    if text.is_empty() {
        // Many programs look at its first letter.
        return Err("it is empty".into());
    }
    CString::new(text.as_bytes()).map_err(|_| NUL.into())
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
    #[cfg_attr(miri, ignore = "getpwnam(3)")]
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
        fn what_is_read_reads_the_same_when_written_out(text in "-?[0-9]{0,10}|.{0,4}(:.{0,4})?") {
            let text = os(&text);
            if let Ok(number) = positive(text) {
                prop_assert_eq!(positive(os(&number.to_string())), Ok(number));
            }
            if let Ok(number) = nice(text) {
                prop_assert_eq!(nice(os(&number.to_string())), Ok(number));
            }
            if let Ok(bits) = mode(text) {
                prop_assert_eq!(mode(os(&format!("{bits:o}"))), Ok(bits));
            }
            if let Ok(id) = uid(text) {
                prop_assert_eq!(uid(os(&id.to_string())), Ok(id));
            }
            if let Ok((user, group)) = user_and_group(text) {
                let group = group.map(|group| format!(":{}", group.display()));
                let again = format!("{}{}", user.display(), group.unwrap_or_default());
                prop_assert_eq!(os(&again), text);
            }
        }

        #[test]
        fn a_limit_that_is_read_reads_the_same_when_written_out(
            text in "(nofile|core|as)=([0-9]{1,12}[KMGT]?|unlimited)(:([0-9]{1,12}[KMGT]?|unlimited))?",
        ) {
            let parts = |text: &str| {
                let limit = limit(os(text)).ok()?;
                Some((limit.name, limit.soft, limit.hard))
            };
            if let Some((name, soft, hard)) = parts(&text) {
                let amount = |value: u64| match value {
                    u64::MAX => "unlimited".to_owned(),
                    value => value.to_string(),
                };
                let again = format!("{name}={}:{}", amount(soft), amount(hard));
                prop_assert_eq!(parts(&again), Some((name, soft, hard)));
            }
        }

        #[test]
        fn numbers_are_read_as_they_are_written_and_no_others(number in -50_i64..5_000_000_000) {
            let text = number.to_string();
            let text = os(&text);
            prop_assert_eq!(positive(text).ok(), i32::try_from(number).ok().filter(|n| *n >= 1));
            prop_assert_eq!(nice(text).is_ok(), (-20..20).contains(&number));
            let id = u32::try_from(number).ok().filter(|id| *id != u32::MAX);
            prop_assert_eq!(gid(text).ok(), id.map(Gid::from_raw));
            prop_assert_eq!(uid(text).ok(), id.filter(|id| *id != 0).map(Uid::from_raw));
            prop_assert_eq!(threads(text).is_ok(), (1..=MOST_THREADS as i64).contains(&number));
        }

        #[test]
        fn modes_and_nice_values_are_read_as_they_are_written(number in 0_u32..0o2000, value in -20_i32..20) {
            let text = format!("{number:o}");
            prop_assert_eq!(mode(os(&text)).ok(), Some(number).filter(|mode| *mode <= 0o777));
            prop_assert_eq!(nice(os(&value.to_string())), Ok(value));
        }

        #[test]
        fn a_limit_is_read_as_it_is_written(
            which in 0..RESOURCES.len(),
            soft in any::<u64>(),
            hard in any::<u64>(),
        ) {
            let name = RESOURCES[which].0;
            let amount = |value| match value {
                u64::MAX => "unlimited".to_owned(),
                value => value.to_string(),
            };
            let text = format!("{name}={}:{}", amount(soft), amount(hard));
            let read = limit(os(&text)).ok().map(|limit| (limit.name, limit.soft, limit.hard));
            prop_assert_eq!(read, (soft <= hard).then_some((name, soft, hard)));
        }

        #[test]
        fn a_variable_is_taken_apart_at_its_first_equals_sign(text in "[A-Z_\0]{0,3}=?.{0,9}") {
            if let Ok((name, value)) = variable(os(&text), false) {
                let value = value.map(|value| format!("={}", Path::new(&value).display())).unwrap_or_default();
                prop_assert!(!name.is_empty() && !text.contains('\0'));
                prop_assert!(!name.as_bytes().contains(&b'='));
                prop_assert_eq!(format!("{}{value}", Path::new(&name).display()), text);
            }
        }

        #[test]
        fn a_path_stays_as_it_is(bytes in proptest::collection::vec(any::<u8>(), 0..9)) {
            let text = OsStr::from_bytes(&bytes);
            let fits = !bytes.is_empty() && !bytes.contains(&0);
            prop_assert_eq!(path(text).ok(), fits.then(|| PathBuf::from(text)));
        }
    }
}
