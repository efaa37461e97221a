//! The options of a client.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use skd::config::{Host, Span, Target, TlsCertificate};
use skd_tls_protocol::Version;

/// How long connecting may take, the handshake included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest name of a protocol in bytes (RFC 7301).
const LONGEST_PROTOCOL: usize = 255;

/// What a client does.
#[derive(Debug)]
pub(crate) struct Options {
    /// The addresses of the server, in the order in which they are tried.
    pub(crate) targets: Vec<Target>,
    /// Where it listens for connections, instead of standard input and output.
    pub(crate) listen: Vec<OsString>,
    /// The name that the server's certificate has to be for.
    pub(crate) name: ServerName<'static>,
    /// What is trusted, and what the client has.
    pub(crate) trust: Trust,
    /// The certificate of the client.
    pub(crate) certificate: Option<TlsCertificate>,
    /// The protocols that are offered, the preferred one first.
    pub(crate) alpn: Vec<String>,
    /// The lowest version.
    pub(crate) min: Version,
    /// How long connecting may take, the handshake included.
    pub(crate) timeout: Duration,
}

/// Which certificates are accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Trust {
    /// Those of the authorities that this system knows.
    System,
    /// Those of the authorities in these files.
    Files(Vec<PathBuf>),
    /// All.
    Anything,
}

/// What was given, before it is looked at as a whole.
#[derive(Default)]
struct Words {
    connect: Vec<Target>,
    listen: Vec<OsString>,
    to: Vec<Target>,
    name: Option<ServerName<'static>>,
    ca: Vec<PathBuf>,
    insecure: bool,
    certificate: Option<TlsCertificate>,
    alpn: Vec<String>,
    min: Version,
    timeout: Option<Duration>,
}

/// Reads the words after the program's name. An error is a sentence.
pub(crate) fn read(mut words: impl Iterator<Item = OsString>) -> Result<Options, String> {
    let mut read = Words::default();
    while let Some(word) = words.next() {
        let text = word.to_string_lossy();
        let (name, attached) = match text.split_once('=') {
            // The value as it was given: a path needn't be UTF-8.
            Some((name, _)) if name.starts_with("--") => (name, Some(after_equals(&word))),
            _ => (&*text, None),
        };
        if name == "--insecure" && attached.is_none() {
            read.insecure = true;
            continue;
        }
        let Some((_, form)) = FORMS.iter().find(|(known, _)| *known == name) else {
            return Err(unknown(&text));
        };
        let value = attached.or_else(|| words.next());
        let value = value.ok_or_else(|| format!("{name} needs a value: {form}"))?;
        read.take(name, &value)?;
    }
    read.finish()
}

/// The options with a value, and what that is.
const FORMS: [(&str, &str); 9] = [
    ("--connect", "HOST:PORT"),
    ("--listen", "ADDRESS"),
    ("--to", "HOST:PORT"),
    ("--name", "NAME"),
    ("--ca", "FILE"),
    ("--cert", "CERT[:KEY]"),
    ("--alpn", "NAME[,NAME]..."),
    ("--min", "1.2 or 1.3"),
    ("--timeout", "DURATION"),
];

impl Words {
    fn take(&mut self, name: &str, value: &OsStr) -> Result<(), String> {
        let text = value.to_string_lossy();
        let invalid =
            |why: &dyn std::fmt::Display| format!("invalid value '{text}' of {name}: {why}");
        match name {
            "--connect" => self
                .connect
                .push(target(value).map_err(|why| invalid(&why))?),
            "--to" => self.to.push(target(value).map_err(|why| invalid(&why))?),
            "--listen" => self.listen.push(value.to_owned()),
            "--name" => self.name = Some(server_name(&text).map_err(|why| invalid(&why))?),
            "--ca" => self.ca.push(value.into()),
            "--cert" => {
                let parsed = TlsCertificate::parse(value);
                self.certificate = Some(parsed.map_err(|why| invalid(&why))?);
            }
            "--alpn" => {
                let names: Vec<String> = text.split(',').map(str::to_owned).collect();
                if names
                    .iter()
                    .any(|it| it.is_empty() || it.len() > LONGEST_PROTOCOL)
                {
                    return Err(invalid(&"a protocol's name has 1 to 255 bytes"));
                }
                self.alpn.extend(names);
            }
            "--min" => {
                self.min = match &*text {
                    "1.2" => Version::Tls12,
                    "1.3" => Version::Tls13,
                    _ => return Err(invalid(&"it takes 1.2 or 1.3")),
                }
            }
            _ => {
                let span: Span = text.parse().map_err(|why| invalid(&why))?;
                if span == Span::ZERO {
                    return Err(invalid(&"it must be longer than 0s"));
                }
                self.timeout = Some(span.into());
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Options, String> {
        let targets = match (
            self.connect.is_empty(),
            self.listen.is_empty(),
            self.to.is_empty(),
        ) {
            (false, true, true) => self.connect,
            (true, false, false) => self.to,
            (true, false, true) => {
                return Err("--listen needs --to, with the address of the server".to_owned());
            }
            (true, true, false) => {
                return Err("--to has no use without --listen: is --connect meant?".to_owned());
            }
            (false, ..) => {
                return Err(
                    "--connect is for standard input and output: give either that, or --listen and --to"
                        .to_owned(),
                );
            }
            (true, true, true) => {
                return Err(
                    "an address is missing, as in: skd-tls --connect example.org:443".to_owned(),
                );
            }
        };
        let name = match self.name {
            Some(name) => name,
            None => name_of(&targets)?,
        };
        let trust = match (self.insecure, self.ca.is_empty()) {
            (true, true) => Trust::Anything,
            (true, false) => return Err("--ca has no use with --insecure".to_owned()),
            (false, true) => Trust::System,
            (false, false) => Trust::Files(self.ca),
        };
        Ok(Options {
            targets,
            listen: self.listen,
            name,
            trust,
            certificate: self.certificate,
            alpn: self.alpn,
            min: self.min,
            timeout: self.timeout.unwrap_or(TIMEOUT),
        })
    }
}

fn after_equals(word: &OsStr) -> OsString {
    use std::os::unix::ffi::OsStrExt;
    let bytes = word.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=');
    OsStr::from_bytes(at.map_or(b"", |at| &bytes[at + 1..])).to_owned()
}

fn target(word: &OsStr) -> Result<Target, String> {
    match Target::parse(word) {
        Ok(Target::Udp(_)) => Err("TLS is for streams of bytes, and not for datagrams".to_owned()),
        Ok(target) => Ok(target),
        Err(why) => Err(why.to_string()),
    }
}

fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    // A name in DNS may end in a dot; the one in a certificate doesn't.
    let name = text.strip_suffix('.').unwrap_or(text);
    ServerName::try_from(name.to_owned())
        .map_err(|_| "it takes the name of a host, or an address, without a port".to_owned())
}

/// The name that the certificate has to be for, where none is given: that of the host.
fn name_of(targets: &[Target]) -> Result<ServerName<'static>, String> {
    let hosts: Vec<&Host> = targets
        .iter()
        .filter_map(|target| match target {
            Target::Tcp(address) => Some(&address.host),
            _ => None,
        })
        .collect();
    let (Some(first), true) = (hosts.first(), hosts.len() == targets.len()) else {
        return Err(
            "for a unix socket, --name has to say which name the server's certificate is for"
                .to_owned(),
        );
    };
    if hosts.iter().any(|host| host != first) {
        return Err(
            "for several hosts, --name has to say which name their certificate is for".to_owned(),
        );
    }
    match first {
        Host::Name(name) => {
            server_name(name).map_err(|_| format!("'{name}' can't be the name of a certificate"))
        }
        Host::Address(address, _) => Ok(ServerName::from(*address)),
        // The parser has refused it.
        Host::Any => Err("the host is missing".to_owned()),
    }
}

/// Says that there is no such option, and which one may be meant.
fn unknown(text: &str) -> String {
    if !text.starts_with('-') {
        return format!("'{text}' stands alone: is --connect {text} meant?");
    }
    format!("unknown option '{text}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Result<Options, String> {
        read(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn the_name_is_that_of_the_host_if_none_is_given() {
        let name = |line: &str| words(line).unwrap().name.to_str().into_owned();
        assert_eq!(name("--connect example.org:443"), "example.org");
        assert_eq!(name("--connect example.org.:443"), "example.org");
        assert_eq!(name("--connect [::1]:443"), "::1");
        assert_eq!(name("--connect a:1 --connect a:2"), "a");
        assert_eq!(name("--connect a:1 --connect b:1 --name c"), "c");
        assert_eq!(name("--connect /run/x --name c."), "c");
    }

    #[test]
    fn all_options_are_read() {
        let line = "--listen 80 --listen /run/x --to=a:443 --ca A --ca=B --cert C:D --alpn h2,http/1.1 \
                    --alpn x --min 1.3 --timeout 2s";
        let options = words(line).unwrap();
        assert_eq!(options.listen, ["80", "/run/x"]);
        assert_eq!(options.targets.len(), 1);
        assert_eq!(options.trust, Trust::Files(vec!["A".into(), "B".into()]));
        assert_eq!(options.alpn, ["h2", "http/1.1", "x"]);
        assert_eq!(options.min, Version::Tls13);
        assert_eq!(options.timeout, Duration::from_secs(2));
        let options = words("--connect a:1 --insecure").unwrap();
        assert_eq!(options.trust, Trust::Anything);
        assert_eq!(options.timeout, TIMEOUT);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, part) in [
            ("", "an address is missing"),
            ("--connect", "needs a value: HOST:PORT"),
            ("--connect a", "'a'"),
            ("--connect udp:a:1", "not for datagrams"),
            ("a:1", "is --connect a:1 meant?"),
            ("--connect a:1 --to b:1", "either"),
            ("--to b:1", "without --listen"),
            ("--listen 80", "needs --to"),
            ("--connect a:1 --connect b:1", "--name"),
            ("--connect /run/x", "--name"),
            ("--connect a:1 --insecure --ca x", "--insecure"),
            ("--connect a:1 --insecure=yes", "--insecure=yes"),
            ("--connect a:1 --min 1.1", "1.2 or 1.3"),
            ("--connect a:1 --timeout 5", "'5'"),
            ("--connect a:1 --timeout 0s", "longer than"),
            ("--connect a:1 --alpn a,,b", "1 to 255"),
            ("--connect a:1 --name a:443", "without a port"),
            ("--connect a:1 --what", "'--what'"),
        ] {
            let said = words(line).unwrap_err();
            assert!(said.contains(part), "{line}: {said}");
        }
    }
}
