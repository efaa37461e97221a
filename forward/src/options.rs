//! The command line. It is read by hand: with clap a static program that does nothing else takes 260 µs from
//! fork to exit, and 180 µs so.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use skd::config::{Span, Target};

/// The whole help.
const HELP: &str = "\
Forwards standard input and output to another address. A handler for skd.

Usage: skd-forward [OPTIONS] ADDRESS...

The addresses are tried in turn until one can be connected to:
  HOST:PORT, [IPV6]:PORT        TCP
  udp:HOST:PORT                 UDP
  /PATH, unix:PATH, unix:@NAME  a unix socket: stream, seqpacket or datagram

Options:
      --connect-timeout DURATION  Give up if no address answers in this time [5s]
      --send-proxy v1|v2          Tell the target about the client in a PROXY header
  -h, --help                      Print help
  -V, --version                   Print the version

Example: skd -t 8080 skd-forward example.org:80
";

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Command {
    /// To forward.
    Forward(Options),
    /// To print this.
    Print(&'static str),
}

/// The options of a run that forwards.
#[derive(Debug)]
pub(crate) struct Options {
    /// The addresses, in the order in which they are tried.
    pub(crate) targets: Vec<Target>,
    /// The time for connecting, all addresses together.
    pub(crate) connect_timeout: Duration,
    /// The version of the PROXY header that is sent.
    pub(crate) send_proxy: Option<Version>,
}

/// The version of a PROXY header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Reads the words after the program's name. An error is a sentence.
pub(crate) fn read(mut words: impl Iterator<Item = OsString>) -> Result<Command, String> {
    let mut options = Options {
        targets: Vec::new(),
        connect_timeout: Duration::from_secs(5),
        send_proxy: None,
    };
    let mut only_addresses = false;
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        if only_addresses || !text.starts_with('-') {
            options.targets.push(target(&word)?);
            continue;
        }
        let (name, attached) = match text.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (&*text, None),
        };
        let mut value = |form: &str| {
            let value = attached.clone().or_else(|| words.next());
            value.ok_or_else(|| format!("{name} needs a value: {form}"))
        };
        match name {
            "--connect-timeout" => options.connect_timeout = timeout(&value("DURATION")?)?,
            "--send-proxy" => options.send_proxy = Some(version(&value("v1 or v2")?)?),
            "--help" | "-h" if attached.is_none() => return Ok(Command::Print(HELP)),
            "--version" | "-V" if attached.is_none() => {
                let version = concat!("skd-forward ", env!("CARGO_PKG_VERSION"), "\n");
                return Ok(Command::Print(version));
            }
            "--" if attached.is_none() => only_addresses = true,
            _ => return Err(format!("unknown option '{text}'")),
        }
    }
    if options.targets.is_empty() {
        return Err("an address is missing, as in: skd-forward example.org:80".to_owned());
    }
    Ok(Command::Forward(options))
}

fn target(word: &OsStr) -> Result<Target, String> {
    Target::parse(word)
        .map_err(|why| format!("invalid address '{}': {why}", word.to_string_lossy()))
}

fn timeout(word: &OsStr) -> Result<Duration, String> {
    let text = word.to_string_lossy();
    match text.parse::<Span>() {
        Ok(Span::ZERO) => Err("--connect-timeout must be longer than 0s".to_owned()),
        Ok(span) => Ok(span.into()),
        Err(why) => Err(format!(
            "invalid value '{text}' of --connect-timeout: {why}"
        )),
    }
}

fn version(word: &OsStr) -> Result<Version, String> {
    match word.to_str() {
        Some("v1") => Ok(Version::V1),
        Some("v2") => Ok(Version::V2),
        _ => Err(format!(
            "invalid value '{}' of --send-proxy: it takes v1 or v2",
            word.to_string_lossy()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Command, String> {
        read(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn options_stand_before_between_and_after_addresses() {
        for line in [
            "--send-proxy=v2 --connect-timeout=2s a:1 /b",
            "a:1 --send-proxy v1 --send-proxy v2 --connect-timeout 2s /b",
            "--connect-timeout 2s --send-proxy v2 -- a:1 /b",
        ] {
            let Ok(Command::Forward(options)) = words(line) else {
                panic!("{line}");
            };
            assert_eq!(options.targets.len(), 2);
            assert_eq!(options.connect_timeout, Duration::from_secs(2));
            assert_eq!(options.send_proxy, Some(Version::V2));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, part) in [
            ("", "an address is missing"),
            ("--send-proxy v3 a:1", "'v3'"),
            ("--send-proxy", "needs a value"),
            ("--connect-timeout 5 a:1", "'5'"),
            ("--connect-timeout 0s a:1", "longer than"),
            ("--what a:1", "'--what'"),
            ("--help=x", "'--help=x'"),
            ("-- --help", "'--help'"),
            ("a:1 80", "'80'"),
        ] {
            let said = words(line).unwrap_err();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
