//! Tokens: the numbers that a poller knows its descriptors by.

use crate::config::ServiceId;

/// What a ready descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Token {
    /// Signals have arrived.
    Signals,
    /// Another thread has woken this one.
    Waker,
    /// The relay to syslog has ended.
    Relay,
    /// The preflight of an upgrade is over.
    Preflight,
    /// A process of skd-tls has said something, or has ended.
    Tls,
    /// A client has arrived at a listener of the service.
    Listener { service: ServiceId, listener: usize },
    /// Something has arrived at the wait-mode socket with this index.
    WaitMode { service: ServiceId, index: usize },
    /// A handler has ended: the part of the table that it is in, and its index there.
    Handler { thread: usize, index: usize },
    /// Something has happened in the epoll set of this worker.
    Worker(usize),
    /// The client of a pending connection has sent something, or closed it.
    PendingConnection { service: ServiceId, id: u32 },
    /// Something has arrived on a lingering connection: its index in the thread's part of the
    /// table.
    Lingering(usize),
    /// A handler has written to, or closed, the exchange with this index.
    Exchange { service: ServiceId, index: usize },
}

/// A kind of 8 bits, then two numbers of 24 and 32 bits. A service takes 16 of the first.
impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        let (kind, first, second) = match token {
            Token::Signals => (0, 0, 0),
            Token::Waker => (1, 0, 0),
            Token::Relay => (2, 0, 0),
            Token::Listener { service, listener } => (3, service.index(), listener),
            Token::WaitMode { service, index } => (4, service.index(), index),
            Token::Handler { thread, index } => (5, thread, index),
            Token::Preflight => (6, 0, 0),
            Token::Worker(thread) => (7, thread, 0),
            Token::Lingering(index) => (8, 0, index),
            Token::PendingConnection { service, id } => (9, service.index(), id as usize),
            Token::Exchange { service, index } => (10, service.index(), index),
            Token::Tls => (11, 0, 0),
        };
        kind << 56 | (first as Self) << 32 | second as Self
    }
}

impl From<u64> for Token {
    fn from(number: u64) -> Self {
        let first = (number >> 32 & 0xff_ffff) as usize;
        let service = ServiceId::new(first & 0xffff);
        let index = (number & 0xffff_ffff) as usize;
        match number >> 56 {
            0 => Self::Signals,
            1 => Self::Waker,
            2 => Self::Relay,
            3 => Self::Listener {
                service,
                listener: index,
            },
            4 => Self::WaitMode { service, index },
            6 => Self::Preflight,
            7 => Self::Worker(first),
            8 => Self::Lingering(index),
            9 => Self::PendingConnection {
                service,
                id: index as u32,
            },
            10 => Self::Exchange { service, index },
            11 => Self::Tls,
            _ => Self::Handler {
                thread: first,
                index,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_token_comes_back_as_it_was() {
        let service = ServiceId::new(usize::from(u16::MAX));
        for token in [
            Token::Signals,
            Token::Waker,
            Token::Relay,
            Token::Listener {
                service: ServiceId::new(3),
                listener: 7,
            },
            Token::WaitMode { service, index: 5 },
            Token::Preflight,
            Token::Tls,
            Token::Handler {
                thread: 16,
                index: 4_000_000,
            },
            Token::Worker(15),
            Token::PendingConnection {
                service,
                id: u32::MAX,
            },
            Token::Lingering(1_023),
            Token::Exchange {
                service,
                index: 100_000,
            },
        ] {
            assert_eq!(Token::from(u64::from(token)), token);
        }
    }

    proptest! {
        #[test]
        fn any_token_comes_back_as_it_was(first in 0_usize..1 << 24, index in 0_usize..1 << 32) {
            let service = ServiceId::new(first & 0xffff);
            for token in [
                Token::Listener { service, listener: index },
                Token::WaitMode { service, index },
                Token::Exchange { service, index },
                Token::Handler { thread: first, index },
            ] {
                prop_assert_eq!(Token::from(u64::from(token)), token);
            }
        }

        #[test]
        fn any_number_is_a_token(number in any::<u64>()) {
            let token = Token::from(number);
            prop_assert_eq!(Token::from(u64::from(token)), token);
        }
    }
}
