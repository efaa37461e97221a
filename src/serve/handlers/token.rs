//! What a poller knows a descriptor by: a number that says whose it is.

/// Whose descriptor is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Token {
    /// Signals have arrived.
    Signals,
    /// Another thread has something to say.
    Waker,
    /// The relay to syslog has ended.
    Relay,
    /// The trial of a new image is over.
    Preflight,
    /// A client has come to a stream listener.
    Listener { service: usize, listener: usize },
    /// Something has come to the lent listener with this index.
    WaitMode(usize),
    /// A handler has ended: the part of the table that it is in, and its index there.
    Handler { thread: usize, index: usize },
    /// Something has happened that this acceptor would have seen.
    StreamWorker(usize),
    /// Somebody who waits for a service has sent something, or left.
    PendingConnection { service: usize, id: u32 },
    /// Something has come on a connection that is leaving: its index in the thread's part of the
    /// table.
    Lingering(usize),
    /// A handler of datagrams that skd receives has written, or ended: the index of what skd keeps
    /// for it.
    Exchange(usize),
}

/// Kind, then two numbers of 24 and 32 bits, far more than there can be of each.
impl From<Token> for u64 {
    fn from(key: Token) -> Self {
        let (kind, first, second) = match key {
            Token::Signals => (0, 0, 0),
            Token::Waker => (1, 0, 0),
            Token::Relay => (2, 0, 0),
            Token::Listener { service, listener } => (3, service, listener),
            Token::WaitMode(index) => (4, 0, index),
            Token::Handler { thread, index } => (5, thread, index),
            Token::Preflight => (6, 0, 0),
            Token::StreamWorker(thread) => (7, thread, 0),
            Token::PendingConnection { service, id } => (9, service, id as usize),
            Token::Lingering(index) => (8, 0, index),
            Token::Exchange(index) => (10, 0, index),
        };
        kind << 56 | (first as Self) << 32 | second as Self
    }
}

impl From<u64> for Token {
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
            4 => Self::WaitMode(second),
            6 => Self::Preflight,
            7 => Self::StreamWorker(first),
            9 => Self::PendingConnection {
                service: first,
                id: second as u32,
            },
            8 => Self::Lingering(second),
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
            Token::Signals,
            Token::Waker,
            Token::Relay,
            Token::Listener {
                service: 3,
                listener: 7,
            },
            Token::WaitMode(5),
            Token::Preflight,
            Token::Handler {
                thread: 16,
                index: 4_000_000,
            },
            Token::StreamWorker(15),
            Token::PendingConnection {
                service: 2,
                id: u32::MAX,
            },
            Token::Lingering(1_023),
            Token::Exchange(100_000),
        ] {
            assert_eq!(Token::from(u64::from(key)), key);
        }
    }

    proptest! {
        #[test]
        fn any_key_comes_back_as_it_was(first in 0_usize..1 << 24, second in 0_usize..1 << 32) {
            for key in [
                Token::Listener { service: first, listener: second },
                Token::WaitMode(second),
                Token::Handler { thread: first, index: second },
            ] {
                prop_assert_eq!(Token::from(u64::from(key)), key);
            }
        }

        #[test]
        fn any_number_is_a_key(number in any::<u64>()) {
            let key = Token::from(number);
            prop_assert_eq!(Token::from(u64::from(key)), key);
        }
    }
}
