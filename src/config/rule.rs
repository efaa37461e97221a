//! Rules about who may come in.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::escapes::quoted;
use super::{Prefix, Rate, Refused, accounts, decimal};

/// One rule. The first that fits a client decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Whether those whom it fits may come in.
    pub allow: bool,
    /// Whom it fits.
    pub who: Who,
    /// In the place of `--max-per-source`, for each source among them.
    pub max: Option<NonZeroUsize>,
    /// In the place of `--rate-per-source`, for each source among them.
    pub rate: Option<Rate>,
    /// What their handlers have in their environment besides, in order.
    pub environment: Vec<(OsString, OsString)>,
    /// What those who are refused by it, or by its limits, are told.
    pub message: Option<Vec<u8>>,
    /// Where it was read.
    pub location: RuleLocation,
}

/// Where a rule was read, for messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleLocation {
    /// An option as it was given: `--deny 192.0.2.0/24`.
    Option(String),
    /// A line of the file, the first being 1.
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

/// The clients that a rule fits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    /// Every one.
    All,
    /// Those of these addresses.
    Net(Prefix),
    /// Those of the prefixes in a file, one a line.
    File(PathBuf),
    /// Those of unix sockets.
    Unix,
    /// Those of unix sockets that run as this user.
    Uid(u32),
    /// Those of unix sockets that run with this primary group.
    Gid(u32),
}

/// A proxy whose word about its clients is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// One with such an address.
    Net(Prefix),
    /// Every peer of a unix socket.
    Unix,
}

/// Whose number is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Id {
    /// A user's.
    User,
    /// A group's.
    Group,
}

/// Finds the number of somebody with a name. Not everybody who reads a rule can ask the system.
pub type Names<'a> = &'a dyn Fn(Id, &OsStr) -> Result<u32, Refused>;

/// Asks passwd(5) or group(5).
pub fn look_up(id: Id, name: &OsStr) -> Result<u32, Refused> {
    match id {
        Id::User => accounts::find_user(name).map(|(uid, _)| uid.as_raw()),
        Id::Group => accounts::find_group(name).map(|gid| gid.as_raw()),
    }
}

impl Rule {
    /// The rule of `--allow` or `--deny`, which has a source and nothing else.
    pub fn option(allow: bool, source: &OsStr, names: Names<'_>) -> Result<Self, Refused> {
        let option = if allow { "--allow" } else { "--deny" };
        let location = RuleLocation::Option(format!("{option} {}", source.display()));
        Ok(Self::new(allow, Who::parse(source, names)?, location))
    }

    /// A rule with neither limits nor changes.
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

    /// The file of prefixes that it needs.
    pub fn file(&self) -> Option<&Path> {
        match &self.who {
            Who::File(path) => Some(path),
            _ => None,
        }
    }
}

/// As a line of a file, on which it reads the same.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allow { "allow " } else { "deny " })?;
        match &self.who {
            // With its name, which may be any.
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
    /// Reads the source of a rule.
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
                [] => Err(Refused("after file= comes the path of a file".into())),
                path if path.contains(&0) => Err(Refused("the path has a NUL byte inside".into())),
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
        let why = format!("after {key}= comes the name or number of a {what}");
        return Err(Refused(why));
    }
    match decimal::<u32>(text) {
        // Which stands for none (setresuid(2)).
        Some(u32::MAX) => Err(Refused("4294967295 is no id".into())),
        Some(number) => Ok(number),
        None => names(id, text),
    }
}

/// As it is read.
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
