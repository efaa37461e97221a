//! Messages of netlink(7): written, and read.

// linux/netlink.h
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
pub(super) const NLM_F_MULTI: u16 = 2;
/// The length of struct nlmsghdr.
pub(super) const HEADER: usize = 16;

/// A message that is being written, of `N` bytes at most.
pub(super) struct Written<const N: usize> {
    pub(super) bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Written<N> {
    pub(super) fn new() -> Self {
        let (bytes, length) = ([0; N], 0);
        Self { bytes, length }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// One message of the kernel's answer.
pub(super) struct Answer<'a> {
    /// The distance to the next one.
    pub(super) length: usize,
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) question: u32,
    pub(super) payload: &'a [u8],
}

impl<'a> Answer<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let length = word(bytes, 0)? as usize;
        Some(Self {
            length: length.next_multiple_of(4),
            kind: half(bytes, 4)?,
            flags: half(bytes, 6)?,
            question: word(bytes, 8)?,
            payload: bytes.get(HEADER..length)?,
        })
    }
}

/// The payload of an attribute (struct nlattr) after a message of this length.
pub(super) fn attribute(answer: &[u8], message: usize, wanted: u16) -> Option<&[u8]> {
    let mut at = message;
    loop {
        let (length, kind) = (usize::from(half(answer, at)?), half(answer, at + 2)?);
        if kind == wanted {
            return answer.get(at + 4..at + length);
        }
        at += length.max(4).next_multiple_of(4);
    }
}
