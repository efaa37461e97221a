//! Kinds of what a program makes, and what its copies would share.

/// A kind of thing that a program makes before it has a client. Copies of the program would share
/// it; a program that is started for each client makes its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// A pipe.
    Pipe = 1,
    /// A socket or a pair of sockets.
    Socket = 1 << 1,
    /// An epoll set, eventfd, timerfd, signalfd, and the like (`anon_inode:` in /proc).
    Anonymous = 1 << 2,
    /// A file in memory (memfd_create(2)).
    Memory = 1 << 3,
    /// A file that has no name, or has lost it.
    Unnamed = 1 << 4,
    /// A device, or a file of /proc.
    Special = 1 << 5,
    /// A lock that knows its owner.
    Lock = 1 << 6,
    /// Calls in a row that weren't looked at one by one, one of which closed the client.
    Run = 1 << 7,
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    /// None of them.
    pub(super) const NONE: Self = Self(0);

    /// The set as a number.
    pub(super) fn bits(self) -> u8 {
        self.0
    }

    /// The set with this number.
    pub(super) fn of_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// These and another one.
    pub(super) fn with(self, kind: Kind) -> Self {
        Self(self.0 | kind as u8)
    }

    /// All that are in one of the two.
    pub(super) fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether all of the others are among these.
    pub(super) fn has(self, others: Self) -> bool {
        self.0 | others.0 == self.0
    }

    /// Whether a kind is in both.
    pub(super) fn meet(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

impl From<Kind> for Kinds {
    fn from(kind: Kind) -> Self {
        Self(kind as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let set = Kinds::from(Kind::Pipe).with(Kind::Special);
        assert!(set.meet(Kind::Pipe.into()) && set.meet(Kind::Special.into()));
        assert!(!set.meet(Kind::Socket.into()) && !set.meet(Kinds::NONE));
        assert!(set.has(set) && !set.has(set.with(Kind::Socket)));
        assert!(set.and(Kind::Socket.into()).meet(Kind::Socket.into()));
    }
}
