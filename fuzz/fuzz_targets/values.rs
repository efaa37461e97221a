//! The values of options, by kind. An accepted value has the properties of its kind, and parses to the same when it
//! is written out.

#![no_main]

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use libfuzzer_sys::fuzz_target;
use skd::cli::values;
use skd::config::{Host, Identity, InetAddress, LogTarget, MOST_THREADS, Port, UnixAddress};

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    let text = OsStr::from_bytes(bytes);
    match kind % 16 {
        0 => number(text, values::positive, |value| {
            (1..=i32::MAX).contains(value)
        }),
        1 => number(text, values::threads, |value| value.get() <= MOST_THREADS),
        2 => number(text, values::nice, |value| (-20..20).contains(value)),
        3 => number(text, values::uid, |value| {
            !matches!(value.as_raw(), 0 | u32::MAX)
        }),
        4 => number(text, values::gid, |value| value.as_raw() != u32::MAX),
        5 => mode(text),
        6 => path(text),
        7 => limit(text),
        8 => variable(text, true),
        9 => variable(text, false),
        10 => inet(text),
        11 => unix(text),
        12 => log(text),
        13 => owner(text),
        14 => identity(text),
        // Addresses again, the most complex kind.
        _ => inet(text),
    }
});

fn os(bytes: impl Into<Vec<u8>>) -> OsString {
    OsString::from_vec(bytes.into())
}

fn text(value: impl Display) -> OsString {
    value.to_string().into()
}

/// Asserts that a reason continues the line "invalid value … for …".
fn refused<T>(result: Result<T, impl Display>) -> Option<T> {
    result
        .map_err(|why| {
            let why = why.to_string();
            assert!(
                !why.is_empty() && !why.starts_with(' ') && !why.ends_with('.'),
                "{why:?}"
            );
        })
        .ok()
}

fn number<T: Display + PartialEq + std::fmt::Debug>(
    given: &OsStr,
    read: impl Fn(&OsStr) -> Result<T, String>,
    fits: impl Fn(&T) -> bool,
) {
    let Some(value) = refused(read(given)) else {
        return;
    };
    assert!(fits(&value), "{value}");
    assert!(
        given
            .as_bytes()
            .iter()
            .all(|byte| byte.is_ascii_digit() || *byte == b'-')
    );
    assert_eq!(read(&text(&value)).as_ref(), Ok(&value));
}

fn mode(given: &OsStr) {
    if let Some(mode) = refused(values::mode(given)) {
        assert!(mode <= 0o777);
        assert_eq!(values::mode(&text(format_args!("{mode:o}"))), Ok(mode));
    }
}

fn path(given: &OsStr) {
    if let Some(path) = refused(values::path(given)) {
        assert_eq!(path.as_os_str(), given);
        assert!(!given.is_empty() && !given.as_bytes().contains(&0));
    }
}

fn limit(given: &OsStr) {
    let Some(limit) = refused(values::limit(given)) else {
        return;
    };
    assert!(limit.soft <= limit.hard);
    let amount = |value| match value {
        u64::MAX => "unlimited".into(),
        value => value.to_string(),
    };
    let again = format!(
        "{}={}:{}",
        limit.name,
        amount(limit.soft),
        amount(limit.hard)
    );
    assert_eq!(values::limit(OsStr::new(&again)), Ok(limit));
}

fn variable(given: &OsStr, serves: bool) {
    let Some((name, value)) = refused(values::variable(given, serves)) else {
        return;
    };
    assert!(!name.is_empty() && !name.as_bytes().contains(&b'='));
    assert!(!serves || value.is_none() || !skd::config::is_reserved_variable(&name));
    let mut again = name.into_vec();
    if let Some(value) = value {
        again.push(b'=');
        again.extend(value.into_vec());
    }
    assert!(!again.contains(&0));
    assert_eq!(os(again), given);
}

fn inet(given: &OsStr) {
    let Some(given) = given.to_str() else {
        return;
    };
    let Some(address) = refused(given.parse::<InetAddress>()) else {
        return;
    };
    assert!(!given.contains('\0'), "for the resolver");
    match &address.host {
        Host::Any => {}
        Host::Address(address, zone) => {
            assert!(
                zone.is_none() || address.is_ipv6(),
                "{address} with {zone:?}"
            );
            assert_ne!(zone.as_deref(), Some(""));
            assert_eq!(address.to_canonical(), *address);
        }
        Host::Name(name) => assert!(!name.is_empty() && name.is_ascii()),
    }
    if let Port::Service(name) = &address.port {
        assert!(name.bytes().any(|byte| byte.is_ascii_alphabetic()));
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic()), "{name:?}");
    }
    assert_eq!(address.to_string().parse(), Ok(address));
}

fn unix(given: &OsStr) {
    let Some(address) = refused(UnixAddress::parse(given)) else {
        return;
    };
    let bytes = match &address {
        UnixAddress::Path(path) => path.as_os_str().as_bytes(),
        UnixAddress::Abstract(name) => name,
    };
    assert!((1..=107).contains(&bytes.len()));
    if let UnixAddress::Path(_) = address {
        assert!(!bytes.contains(&0), "it would be an abstract name");
    }
    if let Some(given) = given.to_str() {
        assert_eq!(address.to_string(), given);
    }
}

fn log(given: &OsStr) {
    let Some(target) = refused(LogTarget::parse(given)) else {
        return;
    };
    let mut again = Vec::new();
    match &target {
        LogTarget::Syslog { tag, level } => {
            let tag = tag.as_bytes();
            assert!(!tag.is_empty() && !tag.iter().any(u8::is_ascii_control));
            assert!(level.facility <= 23 && level.severity <= 7 && level.priority() < 192);
            again.extend_from_slice(tag);
            again.extend_from_slice(format!(":{}.{}", level.facility, level.severity).as_bytes());
        }
        LogTarget::File { path, truncate } => {
            let path = path.as_os_str().as_bytes();
            assert!(!path.is_empty() && !path.contains(&0));
            again.extend_from_slice(if *truncate { b"> " } else { b">> " });
            again.extend_from_slice(path);
        }
    }
    assert_eq!(LogTarget::parse(&os(again)), Ok(target));
}

fn owner(given: &OsStr) {
    let Some((user, group)) = refused(values::owner(given)) else {
        return;
    };
    assert_ne!(user.as_raw(), u32::MAX, "chown(2) would leave it");
    assert_ne!(group.map(|group| group.as_raw()), Some(u32::MAX));
    assert_eq!(given.as_bytes().contains(&b':'), group.is_some());
    let again = match group {
        Some(group) => text(format_args!("{user}:{group}")),
        None => text(user),
    };
    assert_eq!(values::owner(&again), Ok((user, group)));
}

fn identity(given: &OsStr) {
    let Some(identity) = refused(values::identity(given)) else {
        return;
    };
    assert!(!matches!(identity.uid.as_raw(), 0 | u32::MAX));
    assert_ne!(identity.gid.as_raw(), u32::MAX);
    assert!(identity.groups.contains(&identity.gid));
    assert!(
        identity
            .groups
            .is_sorted_by(|one, next| one.as_raw() < next.as_raw())
    );
    let again = text(format_args!("{}:{}", identity.uid, identity.gid));
    let same = values::identity(&again).map(|same| Identity {
        // As it was given.
        name: identity.name.clone(),
        ..same
    });
    assert_eq!(same.as_ref(), Ok(&identity));
}
