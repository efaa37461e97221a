//! Rules: which clients are admitted or refused.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::escapes::quoted;
use super::{Prefix, Rate, Refused, accounts, decimal};

/// One rule. The first rule that matches a client decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Whether matching clients are admitted.
    pub allow: bool,
    /// The clients that match.
    pub who: Who,
    /// The maximum number of handlers for each matching source, instead of `--max-per-source`.
    pub max: Option<NonZeroUsize>,
    /// The maximum rate of each matching source, instead of `--rate-per-source`.
    pub rate: Option<Rate>,
    /// Additional variables for their handlers, in order.
    pub environment: Vec<(OsString, OsString)>,
    /// The message for clients that it or its limits refuse.
    pub message: Option<Vec<u8>>,
    /// The location that it was read from.
    pub location: RuleLocation,
}

/// The location of a rule, for messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleLocation {
    /// An option of the command line: `--deny 192.0.2.0/24`.
    Option(String),
    /// A line number in the rules file, from 1.
    Line(usize),
}

impl fmt::Display for RuleLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(option) => f.write_str(option),
            Self::Line(line) => write!(f, "line {line} of the rules file"),
        }
    }
}

/// The clients that match a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    /// All clients.
    All,
    /// Clients with these addresses.
    Net(Prefix),
    /// Clients with an address in the prefixes of this file, which has one on each line.
    File(PathBuf),
    /// Clients of unix sockets.
    Unix,
    /// Clients of unix sockets that run as this user.
    Uid(u32),
    /// Clients of unix sockets that run with this primary group.
    Gid(u32),
}

/// A trusted proxy, which may name clients in PROXY headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// Proxies with these addresses.
    Net(Prefix),
    /// All peers of unix sockets.
    Unix,
}

/// The kind of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Id {
    /// A user id.
    User,
    /// A group id.
    Group,
}

/// Looks up the id of a user or group name. In another root directory the system can't be asked.
pub type Names<'a> = &'a dyn Fn(Id, &OsStr) -> Result<u32, Refused>;

/// Looks up an id in passwd(5) or group(5).
pub fn look_up(id: Id, name: &OsStr) -> Result<u32, Refused> {
    match id {
        Id::User => accounts::find_user(name).map(|(uid, _)| uid.as_raw()),
        Id::Group => accounts::find_group(name).map(|gid| gid.as_raw()),
    }
}

impl Rule {
    /// Returns the rule of `--allow` or `--deny`, which has nothing but a source.
    pub fn option(allow: bool, source: &OsStr, names: Names<'_>) -> Result<Self, Refused> {
        let option = if allow { "--allow" } else { "--deny" };
        let location = RuleLocation::Option(format!("{option} {}", Path::new(source).display()));
        Ok(Self::new(allow, Who::parse(source, names)?, location))
    }

    /// Returns a rule without limits, variables and message.
    pub fn new(allow: bool, who: Who, location: RuleLocation) -> Self {
        Self {
            allow,
            who,
            max: None,
            rate: None,
            environment: Vec::new(),
            message: None,
            location,
        }
    }

    /// Returns the file of prefixes that it refers to.
    pub fn file(&self) -> Option<&Path> {
        match &self.who {
            Who::File(path) => Some(path),
            _ => None,
        }
    }
}

/// Formats a rule as a line of a rules file.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allow { "allow " } else { "deny " })?;
        match &self.who {
            // The path may contain any bytes.
            Who::File(path) => write!(f, "file={}", quoted(path.as_os_str().as_bytes()))?,
            who => write!(f, "{who}")?,
        }
        if let Some(max) = self.max {
            write!(f, " max={max}")?;
        }
        if let Some(rate) = self.rate {
            write!(f, " rate={rate}")?;
        }
        for (name, value) in &self.environment {
            f.write_str(" env ")?;
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
            match name
                .to_str()
                .filter(|name| name.bytes().all(|byte| plain(&byte)))
            {
                Some(name) => write!(f, "{name}=")?,
                None => write!(f, "{}=", quoted(name.as_bytes()))?,
            }
            write!(f, "{}", quoted(value.as_bytes()))?;
        }
        if let Some(message) = &self.message {
            write!(f, " message={}", quoted(message))?;
        }
        Ok(())
    }
}

impl Who {
    /// Parses the source of a rule.
    pub fn parse(text: &OsStr, names: Names<'_>) -> Result<Self, Refused> {
        let bytes = text.as_bytes();
        let after = |key: &str| bytes.strip_prefix(key.as_bytes()).map(OsStr::from_bytes);
        match bytes {
            b"all" => return Ok(Self::All),
            b"unix" => return Ok(Self::Unix),
            _ => {}
        }
        if let Some(name) = after("uid=") {
            return number(Id::User, name, names).map(Self::Uid);
        }
        if let Some(name) = after("gid=") {
            return number(Id::Group, name, names).map(Self::Gid);
        }
        if let Some(path) = after("file=") {
            return match path.as_bytes() {
                [] => Err(Refused("file= needs the path of a file".into())),
                path if path.contains(&0) => Err(Refused("a path can't contain a NUL byte".into())),
                _ => Ok(Self::File(PathBuf::from(path))),
            };
        }
        match text.to_str() {
            Some(text) if text.contains(['.', ':', '/']) => text.parse().map(Self::Net),
            _ => Err(Refused(
                "it takes all, an address, a prefix like 192.0.2.0/24 or 2001:db8::/32, unix, \
                 uid=USER, gid=GROUP or file=PATH"
                    .into(),
            )),
        }
    }
}

fn number(id: Id, text: &OsStr, names: Names<'_>) -> Result<u32, Refused> {
    if text.is_empty() {
        let (key, what) = match id {
            Id::User => ("uid", "user"),
            Id::Group => ("gid", "group"),
        };
        let why = format!("{key}= needs the name or number of a {what}");
        return Err(Refused(why));
    }
    match decimal::<u32>(text) {
        // setresuid(2) takes it for no change.
        Some(u32::MAX) => Err(Refused("4294967295 is not an id".into())),
        Some(number) => Ok(number),
        None => names(id, text),
    }
}

/// Formats a source in the form in which it is parsed.
impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Net(prefix) => write!(f, "{prefix}"),
            Self::File(path) => write!(f, "file={}", path.display()),
            Self::Unix => f.write_str("unix"),
            Self::Uid(uid) => write!(f, "uid={uid}"),
            Self::Gid(gid) => write!(f, "gid={gid}"),
        }
    }
}

impl FromStr for Trusted {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        match text {
            "unix" => Ok(Self::Unix),
            text if text.contains(['.', ':', '/']) => text.parse().map(Self::Net),
            _ => Err(Refused(
                "it takes unix, an address, or a prefix like 192.0.2.0/24 or 2001:db8::/32".into(),
            )),
        }
    }
}
