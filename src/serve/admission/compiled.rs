//! Compiled rules: bytes in which the rule of a client is found, and which the next binary uses as
//! they are.
//!
//! Of millions of rules they are a sealed memory file. An upgrade passes its descriptor on, and
//! copies, parses and builds nothing while clients wait. What isn't in order is never trusted to
//! allow a client: it may come from another binary.
//!
//! ```text
//! 8 numbers: how long each part is; the parts
//! v6 starts │ v6 rules │ v4 starts │ v4 rules │ local rules │ heads │ texts
//! ```

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::ranges::{NONE, Number, Table};
use crate::config::{Rule, RuleLocation, Who};
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::objects::Objects;
use crate::sys::sealed::SealedFile;

/// How many bytes are kept in a memory file of their own: fewer are no work for an upgrade.
const LARGE: usize = 64 * 1024;

/// The numbers at the beginning.
const HEADER: usize = 8 * 8;

/// A rule for clients of unix sockets: its kind, an id, its index.
const LOCAL: usize = 3 * 4;

/// The head of a rule: its line and flags, and the end of its text.
const HEAD: usize = 2 * 4;

/// The flag of a rule that allows, below its line number. No file has as many lines as that takes.
const ALLOWS: u32 = 1;

/// Compiled rules.
#[derive(Debug)]
pub(super) struct Compiled {
    bytes: Bytes,
    v6: Stretches,
    v4: Stretches,
    local: Range<usize>,
    heads: Range<usize>,
    texts: Range<usize>,
    /// Whether clients are allowed that no rule matches.
    pub(super) allows_others: bool,
}

#[derive(Debug)]
enum Bytes {
    Own(Vec<u8>),
    File(SealedFile),
}

/// Where the first number of each stretch is, and its rule. Apart, since a search reads the first
/// ones alone.
#[derive(Debug)]
struct Stretches {
    starts: Range<usize>,
    rules: Range<usize>,
}

/// The clients of unix sockets that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    /// Any client.
    All,
    /// Any client of a unix socket.
    Unix,
    /// Clients that run as this user.
    Uid(u32),
    /// Clients that run with this primary group.
    Gid(u32),
}

/// What a rule sets besides whether it allows, as JSON. Most rules have nothing but a line number, which is
/// in their head.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Terms {
    /// The option, or else the rule has a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    option: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max: Option<NonZeroUsize>,
    /// As text, since any text that parses is a rate that could be set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rate: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) environment: Vec<(OsString, OsString)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<Vec<u8>>,
}

impl Compiled {
    /// Compiles rules, with the stretches of addresses in which they are the first that match.
    pub(super) fn new<'a>(
        rules: impl Iterator<Item = &'a Rule>,
        v4: &Table<u32>,
        v6: &Table<u128>,
    ) -> Self {
        let mut local = Vec::new();
        let mut heads = Vec::new();
        let mut texts = Vec::new();
        let mut allows_others = true;
        for (rule, index) in rules.zip(0_u32..) {
            allows_others &= !rule.allow;
            let (kind, id) = match rule.who {
                Who::Net(_) | Who::File(_) => (None, 0),
                Who::All => (Some(0_u32), 0),
                Who::Unix => (Some(1), 0),
                Who::Uid(uid) => (Some(2), uid),
                Who::Gid(gid) => (Some(3), gid),
            };
            if let Some(kind) = kind {
                for number in [kind, id, index] {
                    number.write(&mut local);
                }
            }
            let (option, line) = match &rule.location {
                RuleLocation::Option(option) => (Some(option.clone()), 0),
                RuleLocation::Line(line) => (None, *line),
            };
            let terms = Terms {
                option,
                max: rule.max,
                rate: rule.rate.map(|rate| rate.to_string()),
                environment: rule.environment.clone(),
                message: rule.message.clone(),
            };
            if !terms.is_plain() {
                // Fails for no value of this type.
                texts.extend(serde_json::to_vec(&terms).unwrap_or_default());
            }
            let line = u32::try_from(line).unwrap_or_default();
            (line << 1 | u32::from(rule.allow)).write(&mut heads);
            // A text beyond 4 GiB can't be read, and its rule allows none.
            u32::try_from(texts.len())
                .unwrap_or(u32::MAX)
                .write(&mut heads);
        }
        let lengths = [
            v6.starts.len(),
            v4.starts.len(),
            local.len() / LOCAL,
            heads.len() / HEAD,
            texts.len(),
            usize::from(allows_others),
            0,
            0,
        ];
        let size = v6.starts.len() * 20 + v4.starts.len() * 8;
        let size = HEADER + size + local.len() + heads.len() + texts.len();
        let mut bytes = Vec::with_capacity(size);
        for length in lengths {
            bytes.extend_from_slice(&(length as u64).to_ne_bytes());
        }
        v6.starts.iter().for_each(|start| start.write(&mut bytes));
        v6.rules.iter().for_each(|rule| rule.write(&mut bytes));
        v4.starts.iter().for_each(|start| start.write(&mut bytes));
        v4.rules.iter().for_each(|rule| rule.write(&mut bytes));
        for part in [local, heads, texts] {
            bytes.extend_from_slice(&part);
        }
        let bytes = match bytes.len() > LARGE {
            // Where no file can be had, an upgrade will have to try again.
            true => SealedFile::new(&bytes).map_or(Bytes::Own(bytes), Bytes::File),
            false => Bytes::Own(bytes),
        };
        // Nothing is missing in what was just written.
        Self::lay_out(bytes).unwrap_or_else(|_| Self::nothing())
    }

    /// What allows no client.
    fn nothing() -> Self {
        let none = || Stretches {
            starts: 0..0,
            rules: 0..0,
        };
        Self {
            bytes: Bytes::Own(Vec::new()),
            v6: none(),
            v4: none(),
            local: 0..0,
            heads: 0..0,
            texts: 0..0,
            allows_others: false,
        }
    }

    /// Finds the parts in the bytes. Refuses bytes that aren't as long as their parts.
    fn lay_out(bytes: Bytes) -> Result<Self, Errno> {
        let slice = bytes.get();
        let length = |index: usize| {
            let number = slice.get(index * 8..)?.first_chunk().copied()?;
            usize::try_from(u64::from_ne_bytes(number)).ok()
        };
        let mut at = HEADER;
        let mut part = |count: Option<usize>, size: usize| {
            let start = at;
            at = at.checked_add(count?.checked_mul(size)?)?;
            Some(start..at)
        };
        let mut parts = || {
            let (v6, v4) = (length(0), length(1));
            Some((
                Stretches {
                    starts: part(v6, u128::SIZE)?,
                    rules: part(v6, u32::SIZE)?,
                },
                Stretches {
                    starts: part(v4, u32::SIZE)?,
                    rules: part(v4, u32::SIZE)?,
                },
                [
                    part(length(2), LOCAL)?,
                    part(length(3), HEAD)?,
                    part(length(4), 1)?,
                ],
            ))
        };
        let (v6, v4, [local, heads, texts]) = parts().ok_or(Errno::EINVAL)?;
        if texts.end != slice.len() {
            return Err(Errno::EINVAL);
        }
        Ok(Self {
            allows_others: length(5) == Some(1),
            bytes,
            v6,
            v4,
            local,
            heads,
            texts,
        })
    }

    /// Reads compiled rules from their bytes.
    pub(super) fn read(bytes: Vec<u8>) -> Result<Self, Errno> {
        // As if they were new, so that an upgrade passes them on without a copy.
        if bytes.len() > LARGE {
            if let Ok(file) = SealedFile::new(&bytes) {
                return Self::lay_out(Bytes::File(file));
            }
        }
        Self::lay_out(Bytes::Own(bytes))
    }

    /// Returns their bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get()
    }

    /// Passes the rules on to the next binary.
    pub(super) fn save(&self, to: &mut SavedDescriptors) -> io::Result<i32> {
        Ok(match &self.bytes {
            Bytes::File(file) => to.pass(file)?,
            Bytes::Own(bytes) => {
                let mut file = descriptors::memory_file()?;
                file.write_all(bytes)?;
                to.pass_copy(&file)?
            }
        })
    }

    /// Takes over what the previous binary has passed on.
    pub(super) fn restore(saved: i32) -> Result<Self, Errno> {
        let file = File::from(descriptors::claim(saved)?);
        let found = file.metadata().map_err(|_| Errno::EIO)?;
        if found.len() > LARGE as u64 {
            return Self::lay_out(Bytes::File(SealedFile::map(file.into())?));
        }
        let mut bytes = vec![0; found.len() as usize];
        // Not from where the writer has left off.
        file.read_exact_at(&mut bytes, 0).map_err(|_| Errno::EIO)?;
        Self::read(bytes)
    }

    /// The number of rules.
    pub(super) fn len(&self) -> usize {
        self.heads.len() / HEAD
    }

    /// In how many stretches the addresses fall.
    pub(super) fn stretches(&self) -> usize {
        (self.v4.rules.len() + self.v6.rules.len()) / u32::SIZE
    }

    /// Returns the rule for an IPv4 address.
    pub(super) fn find_v4(&self, address: u32) -> Option<usize> {
        self.find(&self.v4, address)
    }

    /// Returns the rule for an IPv6 address.
    pub(super) fn find_v6(&self, address: u128) -> Option<usize> {
        self.find(&self.v6, address)
    }

    /// Finds the rule of the stretch that a number is in, with a binary search.
    fn find<N: Number>(&self, stretches: &Stretches, number: N) -> Option<usize> {
        let starts = self.bytes.part(&stretches.starts);
        let (mut low, mut high) = (0, starts.len() / N::SIZE);
        while low < high {
            let middle = low + (high - low) / 2;
            match entry::<N>(starts, middle)? <= number {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        let rules = self.bytes.part(&stretches.rules);
        let rule: u32 = entry(rules, low.checked_sub(1)?)?;
        (rule != NONE).then_some(rule as usize)
    }

    /// Returns the first rule for clients of unix sockets that fits; it is called with whether the
    /// rule allows, too.
    pub(super) fn find_local(&self, fits: impl Fn(Local, bool) -> bool) -> Option<usize> {
        let local = self.bytes.part(&self.local).chunks_exact(LOCAL);
        local
            .filter_map(|bytes| {
                let id = entry(bytes, 1)?;
                let kind = match entry(bytes, 0)? {
                    0_u32 => Local::All,
                    1 => Local::Unix,
                    2 => Local::Uid(id),
                    _ => Local::Gid(id),
                };
                Some((kind, entry::<u32>(bytes, 2)? as usize))
            })
            .find(|(kind, index)| fits(*kind, self.allows(*index)))
            .map(|(_, index)| index)
    }

    /// Whether the rule with this index allows the clients that match it.
    pub(super) fn allows(&self, index: usize) -> bool {
        self.head(index).is_some_and(|(head, _)| head & ALLOWS != 0)
    }

    fn head(&self, index: usize) -> Option<(u32, u32)> {
        let heads = self.bytes.part(&self.heads);
        let at = index.checked_mul(2)?;
        Some((entry(heads, at)?, entry(heads, at + 1)?))
    }

    /// Reads what the rule with this index sets, and its location.
    pub(super) fn terms(&self, index: usize) -> Option<(RuleLocation, Terms)> {
        let (head, end) = self.head(index)?;
        let start = match index.checked_sub(1) {
            Some(before) => self.head(before)?.1,
            None => 0,
        };
        let text = self.bytes.part(&self.texts);
        let text = text.get(start as usize..end as usize)?;
        let Objects(mut terms) = match text {
            [] => Objects(Terms::default()),
            text => serde_json::from_slice(text).ok()?,
        };
        let location = match terms.option.take() {
            Some(option) => RuleLocation::Option(option),
            None => RuleLocation::Line((head >> 1) as usize),
        };
        Some((location, terms))
    }
}

impl Terms {
    /// Whether there is nothing but a line.
    fn is_plain(&self) -> bool {
        let Self {
            option,
            max,
            rate,
            environment,
            message,
        } = self;
        option.is_none()
            && max.is_none()
            && rate.is_none()
            && environment.is_empty()
            && message.is_none()
    }
}

impl Bytes {
    fn get(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::File(file) => file.bytes(),
        }
    }

    fn part(&self, part: &Range<usize>) -> &[u8] {
        self.get().get(part.clone()).unwrap_or_default()
    }
}

/// Reads one of the numbers that bytes consist of.
fn entry<N: Number>(bytes: &[u8], index: usize) -> Option<N> {
    let at = index.checked_mul(N::SIZE)?;
    N::read(bytes.get(at..at.checked_add(N::SIZE)?)?)
}

#[cfg(test)]
impl Compiled {
    pub(super) fn v4(&self) -> Vec<(u32, u32)> {
        self.all(&self.v4)
    }

    pub(super) fn v6(&self) -> Vec<(u128, u32)> {
        self.all(&self.v6)
    }

    fn all<N: Number>(&self, stretches: &Stretches) -> Vec<(N, u32)> {
        let starts = self.bytes.part(&stretches.starts);
        let rules = self.bytes.part(&stretches.rules);
        let one = |index| Some((entry(starts, index)?, entry(rules, index)?));
        (0..).map_while(one).collect()
    }
}
