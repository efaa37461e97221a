//! Rules about who may come in, and the text that they are written in.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::{Prefix, Rate};

/// One rule. The first that fits a client decides.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub place: RulePlace,
}

/// Where a rule was read, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RulePlace {
    /// An option as it was given: `--deny 192.0.2.0/24`.
    Option(String),
    /// A line of the file, the first being 1.
    Line(usize),
}

/// The clients that a rule fits.
#[derive(Clone, Debug, PartialEq, Eq)]
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
