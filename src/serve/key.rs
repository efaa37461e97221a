//! What a poller knows a descriptor by: a number that says whose it is.

/// Whose descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// Signals have arrived.
    Signals,
    /// Another thread has something to say.
    Waker,
    /// The relay to syslog has ended.
    Relay,
    /// The trial of a new image is over.
    Trial,
    /// A client has come to a stream listener.
    Listener { service: usize, listener: usize },
    /// Something has come to the lent listener with this index.
    Lent(usize),
    /// A handler has ended: the part of the table that it is in, and its index there.
    Handler { thread: usize, index: usize },
    /// Something has happened that this acceptor would have seen.
    Acceptor(usize),
    /// Somebody who waits for a service has sent something, or left.
    Visitor { service: usize, id: u32 },
    /// Something has come on a connection that is leaving: its index in the thread's part of the
    /// table.
    Leaving(usize),
    /// A handler of datagrams that skd receives has written, or ended: the index of what skd keeps
    /// for it.
    Exchange(usize),
}

/// Kind, then two numbers of 24 and 32 bits, far more than there can be of each.
impl From<Key> for u64 {
    fn from(key: Key) -> Self {
        let (kind, first, second) = match key {
            Key::Signals => (0, 0, 0),
            Key::Waker => (1, 0, 0),
            Key::Relay => (2, 0, 0),
            Key::Listener { service, listener } => (3, service, listener),
            Key::Lent(index) => (4, 0, index),
            Key::Handler { thread, index } => (5, thread, index),
            Key::Trial => (6, 0, 0),
            Key::Acceptor(thread) => (7, thread, 0),
            Key::Visitor { service, id } => (9, service, id as usize),
            Key::Leaving(index) => (8, 0, index),
            Key::Exchange(index) => (10, 0, index),
        };
        kind << 56 | (first as Self) << 32 | second as Self
    }
}

impl From<u64> for Key {
    fn from(number: u64) -> Self {
        let first = (number >> 32 & 0xff_ffff) as usize;
        let second = (number & 0xffff_ffff) as usize;
        match number >> 56 {
            0 => Self::Signals,
            1 => Self::Waker,
            2 => Self::Relay,
            3 => Self::Listener {
                service: first,
                listener: second,
            },
            4 => Self::Lent(second),
            6 => Self::Trial,
            7 => Self::Acceptor(first),
            9 => Self::Visitor {
                service: first,
                id: second as u32,
            },
            8 => Self::Leaving(second),
            10 => Self::Exchange(second),
            _ => Self::Handler {
                thread: first,
                index: second,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_comes_back_as_it_was() {
        for key in [
            Key::Signals,
            Key::Waker,
            Key::Relay,
            Key::Listener {
                service: 3,
                listener: 7,
            },
            Key::Lent(5),
            Key::Trial,
            Key::Handler {
                thread: 16,
                index: 4_000_000,
            },
            Key::Acceptor(15),
            Key::Visitor {
                service: 2,
                id: u32::MAX,
            },
            Key::Leaving(1_023),
            Key::Exchange(100_000),
        ] {
            assert_eq!(Key::from(u64::from(key)), key);
        }
    }

    proptest! {
        #[test]
        fn any_key_comes_back_as_it_was(first in 0_usize..1 << 24, second in 0_usize..1 << 32) {
            for key in [
                Key::Listener { service: first, listener: second },
                Key::Lent(second),
                Key::Handler { thread: first, index: second },
            ] {
                prop_assert_eq!(Key::from(u64::from(key)), key);
            }
        }

        #[test]
        fn any_number_is_a_key(number in any::<u64>()) {
            let key = Key::from(number);
            prop_assert_eq!(Key::from(u64::from(key)), key);
        }
    }
}
