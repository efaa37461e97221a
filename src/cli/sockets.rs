//! The options that set socket options: their values, and whether a listener has them.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use super::args::{Args, with_value};
use super::values::{Why, amount, duration, parsed, positive};
use crate::config::{Probes, Scope, SocketOption, Style, decimal, is_interface};

/// The kinds of listeners on the command line, with valid addresses or not.
pub(super) struct Kinds {
    pub(super) tcp: bool,
    pub(super) udp: bool,
    pub(super) unix: bool,
    pub(super) unix_datagram: bool,
    /// Inherited ones, whose kind is known only when they are taken over.
    pub(super) inherited: bool,
}

impl Kinds {
    fn have(&self, scope: Scope) -> bool {
        let has = |inet, style| scope.has(inet, style);
        self.tcp && has(true, Style::Stream)
            || self.udp && has(true, Style::Datagram)
            || self.unix && scope == Scope::Unix
            || self.unix_datagram && has(false, Style::Datagram)
            || self.inherited && scope != Scope::Unbound
    }
}

/// Reads the socket options, in the order in which they will be set.
pub(super) fn options(args: &Args<'_>, kinds: &Kinds) -> Vec<SocketOption> {
    let flag = |option: SocketOption| Some(option).filter(|it| args.flag(it.name()));
    let keepalive = match args.read("keepalive", probes) {
        // It has no value, or an invalid one.
        None => args.has("keepalive").then_some(None),
        probes => Some(probes),
    };
    if let (None, Some(word)) = (args.one("keepalive"), args.word_after_options()) {
        let is_value = probes(word).is_ok() || duration(word).is_ok();
        if args.has("keepalive") && is_value {
            let word = Path::new(word).display();
            args.refuse(format!(
                "--keepalive takes its value after an equals sign: --keepalive={word}"
            ));
        }
    }
    let options = [
        flag(SocketOption::NoDelay),
        keepalive.map(SocketOption::KeepAlive),
        args.read("user-timeout", user_timeout)
            .map(SocketOption::UserTimeout),
        args.read("defer-accept", defer_accept)
            .map(SocketOption::DeferAccept),
        args.read("fast-open", positive).map(SocketOption::FastOpen),
        flag(SocketOption::ReusePort),
        flag(SocketOption::FreeBind),
        args.read("device", interface).map(SocketOption::Device),
        args.read("tos", type_of_service)
            .map(SocketOption::TypeOfService),
        args.read("mark", mark).map(SocketOption::Mark),
        args.read("send-buffer", size).map(SocketOption::SendBuffer),
        args.read("receive-buffer", size)
            .map(SocketOption::ReceiveBuffer),
        flag(SocketOption::AcceptDescriptors),
    ];
    let mut groups = Vec::new();
    for (_, value) in args.each("multicast") {
        let group = args.value("multicast", value, parsed);
        if group.is_some() && groups.contains(&group) {
            args.refuse(format!("{} is given twice", with_value("multicast", value)));
        }
        groups.push(group);
    }
    let groups = groups.into_iter().flatten().map(SocketOption::Multicast);
    let used = |option: &SocketOption| {
        // skd 1.2 accepted it without a listener.
        if *option == SocketOption::NoDelay || kinds.have(option.scope()) {
            return true;
        }
        args.refuse(format!(
            "--{} has no use without {}",
            option.name(),
            match option.scope() {
                Scope::Tcp => "a TCP listener",
                Scope::Udp => "a UDP listener",
                Scope::Inet => "a TCP or UDP listener",
                Scope::Unbound => {
                    "a TCP or UDP listener that skd binds itself: an inherited socket is bound already"
                }
                Scope::Sending => {
                    "a TCP, UDP or unix datagram listener: connections of unix sockets don't \
                     inherit it"
                }
                Scope::Unix => "a unix listener",
            }
        ));
        false
    };
    let options = options.into_iter().flatten().chain(groups);
    options.filter(used).collect()
}

/// Parses a decimal number, or a hexadecimal one after 0x.
fn number(text: &OsStr) -> Option<u32> {
    let hex = |text: &str| {
        let digits = text
            .strip_prefix("0x")
            .or_else(|| text.strip_prefix("0X"))?;
        let fits = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        u32::from_str_radix(digits, 16).ok().filter(|_| fits)
    };
    decimal(text).or_else(|| text.to_str().and_then(hex))
}

/// Parses a duration of whole seconds up to `most`.
fn seconds(text: &OsStr, most: u64) -> Option<i32> {
    let span = Duration::from(duration(text).ok()?);
    let whole = span.subsec_nanos() == 0 && (1..=most).contains(&span.as_secs());
    i32::try_from(span.as_secs()).ok().filter(|_| whole)
}

/// Parses keepalive probes, with the limits of the kernel (include/net/tcp.h: MAX_TCP_KEEPIDLE
/// etc.).
fn probes(text: &OsStr) -> Result<Probes, Why> {
    const MOST_SECONDS: u64 = 32_767;
    const MOST_PROBES: i32 = 127;
    let read = || {
        let mut parts = text.to_str()?.split(':').map(OsStr::new);
        let probes = Probes {
            time: seconds(parts.next()?, MOST_SECONDS)?,
            interval: seconds(parts.next()?, MOST_SECONDS)?,
            count: decimal(parts.next()?).filter(|count| (1..=MOST_PROBES).contains(count))?,
        };
        parts.next().is_none().then_some(probes)
    };
    read().ok_or_else(|| {
        format!(
            "it takes TIME:INTERVAL:PROBES like 10m:30s:4, durations of whole seconds from 1s to \
             {MOST_SECONDS}s and 1 to {MOST_PROBES} probes"
        )
    })
}

fn user_timeout(text: &OsStr) -> Result<i32, Why> {
    // An int of the kernel holds the milliseconds of 24 whole days.
    const MOST: u128 = 24 * 86_400_000;
    let span = Duration::from(duration(text)?);
    i32::try_from(span.as_millis())
        .ok()
        .filter(|_| (1..=MOST).contains(&span.as_millis()))
        .ok_or_else(|| "it takes a duration from 1ms to 24d".into())
}

fn defer_accept(text: &OsStr) -> Result<i32, Why> {
    // The kernel converts this to a number of retransmissions of eight bits, which ends a little
    // later.
    seconds(text, 8 * 3600)
        .ok_or_else(|| "it takes a duration of whole seconds, from 1s to 8h".into())
}

fn interface(text: &OsStr) -> Result<String, Why> {
    text.to_str()
        .filter(|name| is_interface(name))
        .map(str::to_owned)
        .ok_or_else(|| "it takes the name of a network interface, of 1 to 15 bytes".into())
}

fn type_of_service(text: &OsStr) -> Result<u8, Why> {
    let named = || {
        let name = text.to_str()?.to_ascii_lowercase();
        dscp(&name).map(|dscp| dscp << 2)
    };
    number(text)
        .and_then(|number| u8::try_from(number).ok())
        .or_else(named)
        .ok_or_else(|| {
            "it takes a number from 0 to 255, decimal or like 0xb8, or one of cs0 to cs7, af11 \
             to af43, ef and le"
                .into()
        })
}

/// Returns the upper six bits of the byte by their name in RFC 2474, 2597, 3246 and 8622.
fn dscp(name: &str) -> Option<u8> {
    let digit = |byte: u8, range: std::ops::RangeInclusive<u8>| {
        Some(byte.wrapping_sub(b'0')).filter(|digit| range.contains(digit))
    };
    match *name.as_bytes() {
        [b'e', b'f'] => Some(46),
        [b'l', b'e'] => Some(1),
        [b'c', b's', class] => Some(digit(class, 0..=7)? << 3),
        [b'a', b'f', class, drop] => Some(digit(class, 1..=4)? << 3 | digit(drop, 1..=3)? << 1),
        _ => None,
    }
}

fn mark(text: &OsStr) -> Result<u32, Why> {
    number(text)
        .ok_or_else(|| "it takes a number from 0 to 4294967295, decimal or like 0x1f".into())
}

/// Parses a size, up to half of the kernel's int, since the kernel doubles it.
fn size(text: &OsStr) -> Result<i32, Why> {
    text.to_str()
        .and_then(amount)
        .filter(|bytes| (1..=1 << 30).contains(bytes))
        .and_then(|bytes| i32::try_from(bytes).ok())
        .ok_or_else(|| {
            "it takes a decimal number of bytes from 1 to 1G, optionally with K, M or G".into()
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Group;
    use proptest::prelude::*;

    fn os(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn probes_have_three_parts() {
        let probes = |text| probes(os(text)).map(|it| (it.time, it.interval, it.count));
        assert_eq!(probes("10m:30s:4"), Ok((600, 30, 4)));
        assert_eq!(probes("1s:32767s:127"), Ok((1, 32_767, 127)));
        for text in [
            "",
            ":",
            "1m",
            "1m:1s",
            "1m:1s:",
            "1m:1s:0",
            "1m:1s:128",
            "0s:1s:1",
            "1s:0s:1",
            "500ms:1s:1",
            "1s500ms:1s:1",
            "60:1s:1",
            "32768s:1s:1",
            "1s:10h:1",
            "1s:1s:1:1",
            "1s:1s:+1",
        ] {
            assert!(probes(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_are_what_the_kernel_can_hold() {
        assert_eq!(user_timeout(os("250ms")), Ok(250));
        assert_eq!(user_timeout(os("24d")), Ok(2_073_600_000));
        assert_eq!(defer_accept(os("8h")), Ok(28_800));
        for text in ["", "0s", "0ms", "24d1ms", "30", "-1s"] {
            assert!(user_timeout(os(text)).is_err(), "{text:?}");
        }
        for text in ["", "0s", "1500ms", "8h1s", "30"] {
            assert!(defer_accept(os(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn types_of_service_have_names_and_numbers() {
        for (text, byte) in [
            ("0", 0),
            ("255", 255),
            ("0xb8", 0xb8),
            ("0XB8", 0xb8),
            ("ef", 0xb8),
            ("EF", 0xb8),
            ("le", 0x04),
            ("cs0", 0),
            ("cs7", 0xe0),
            ("af11", 0x28),
            ("af23", 0x58),
            ("af43", 0x98),
        ] {
            assert_eq!(type_of_service(os(text)), Ok(byte), "{text}");
        }
        for text in [
            "", "256", "0x", "0x100", "0x+1", "x", "-1", "b8", "cs", "cs8", "af", "af10", "af14",
            "af51", "af1", "eff", "be ",
        ] {
            assert!(type_of_service(os(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn marks_sizes_and_interfaces() {
        assert_eq!(mark(os("0xffffffff")), Ok(u32::MAX));
        assert_eq!(mark(os("4294967295")), Ok(u32::MAX));
        assert_eq!(size(os("64K")), Ok(65_536));
        assert_eq!(size(os("1G")), Ok(1 << 30));
        assert_eq!(
            interface(os("wlan0.1234567-8")),
            Ok("wlan0.1234567-8".into())
        );
        for text in ["", "4294967296", "0x100000000", "0x", "-1", "1k"] {
            assert!(mark(os(text)).is_err(), "{text:?}");
        }
        for text in ["", "0", "2G", "1025M", "1T", "64k", "unlimited", "-1", "K"] {
            assert!(size(os(text)).is_err(), "{text:?}");
        }
        for text in ["", "sixteen-letters0", "a/b", "a b", "a:b", "a\n"] {
            assert!(interface(os(text)).is_err(), "{text:?}");
        }
    }

    #[test]
    fn groups_are_multicast_addresses_with_an_interface_perhaps() {
        for text in [
            "224.0.0.1",
            "239.255.255.255",
            "ff02::fb",
            "ff02::fb%eth0",
            "224.0.0.251%lo",
        ] {
            assert_eq!(parsed::<Group>(os(text)).unwrap().to_string(), text);
        }
        for text in [
            "",
            "%",
            "223.255.255.255",
            "240.0.0.1",
            "127.0.0.1",
            "fe80::1%eth0",
            "::ffff:224.0.0.1",
            "224.0.0",
            "224.0.0.1%",
            "224.0.0.1%a b",
            "224.0.0.1%sixteen-letters0",
            "[ff02::fb]",
            "ff02::fb%eth0%x/",
            "all-hosts.mcast.net",
            "224.0.0.1:80",
        ] {
            assert!(parsed::<Group>(os(text)).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_reads_the_same_when_written_out(
            text in prop_oneof![
                "[1-9][0-9]{0,3}[sm]:[1-9][0-9]{0,3}s:[0-9]{1,3}",
                "([0-9]{1,4}[hms])?[0-9]{1,4}(s|ms)",
                "0[xX][0-9a-fA-F]{1,9}|[0-9]{1,11}[KMG]?|[ac][fs][0-9]{1,2}",
                "2[23][0-9](\\.[0-9]{1,2}){3}(%[a-z]{1,4})?|ff02::[0-9a-f]{1,4}(%[a-z]{1,4})?",
                ".*",
            ],
        ) {
            let text = os(&text);
            let parts = |text| probes(text).ok().map(|it| (it.time, it.interval, it.count));
            if let Some((time, interval, count)) = parts(text) {
                let again = format!("{time}s:{interval}s:{count}");
                prop_assert_eq!(parts(os(&again)), Some((time, interval, count)));
            }
            if let Ok(milliseconds) = user_timeout(text) {
                let again = format!("{milliseconds}ms");
                prop_assert_eq!(user_timeout(os(&again)), Ok(milliseconds));
            }
            if let Ok(seconds) = defer_accept(text) {
                prop_assert_eq!(defer_accept(os(&format!("{seconds}s"))), Ok(seconds));
            }
            if let Ok(name) = interface(text) {
                prop_assert_eq!(os(&name), text);
            }
            if let Ok(byte) = type_of_service(text) {
                prop_assert_eq!(type_of_service(os(&format!("{byte:#x}"))), Ok(byte));
            }
            if let Ok(number) = mark(text) {
                prop_assert_eq!(mark(os(&number.to_string())), Ok(number));
                prop_assert_eq!(mark(os(&format!("{number:#x}"))), Ok(number));
            }
            if let Ok(bytes) = size(text) {
                prop_assert_eq!(size(os(&bytes.to_string())), Ok(bytes));
            }
            if let Ok(group) = parsed::<Group>(text) {
                prop_assert_eq!(parsed(os(&group.to_string())), Ok(group));
            }
        }
    }
}
