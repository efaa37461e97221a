//! The processes whose signals are obeyed. A handler may be hijacked, and mustn't stop skd or have
//! it execute another program.

use nix::unistd::getuid;
use serde::{Deserialize, Serialize};

use crate::config::Identity;
use crate::sys::signals::Sender;
use crate::sys::users;

/// The user that has started skd. It is saved for the next binary: after a change of user it can't
/// be found out any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Starter {
    /// Its real user id.
    uid: u32,
    /// The user id that stands for all users that aren't mapped here, if this is a user namespace
    /// with such (user_namespaces(7)).
    unmapped: Option<u32>,
}

impl Starter {
    /// Finds it out, before the user or the root directory is changed.
    pub fn find() -> Self {
        Self {
            uid: getuid().as_raw(),
            unmapped: users::unmapped_user(),
        }
    }
}

/// The processes whose signals are obeyed: by user, and never by a user that handlers run as
/// where there is a choice.
#[derive(Clone, Debug)]
pub struct Senders {
    starter: Starter,
    /// The user of skd itself.
    own: u32,
    /// The users of its handlers.
    handlers: Vec<u32>,
}

impl Senders {
    /// The senders for this process, whose handlers have these identities; without one, that of
    /// the process itself.
    pub fn new<'a>(
        starter: Starter,
        handlers: impl IntoIterator<Item = Option<&'a Identity>>,
    ) -> Self {
        let own = getuid().as_raw();
        let users = handlers.into_iter();
        let users = users.map(|identity| identity.map_or(own, |identity| identity.uid.as_raw()));
        let mut users: Vec<u32> = users.collect();
        users.sort_unstable();
        users.dedup();
        Self::of(starter, own, users)
    }

    fn of(starter: Starter, own: u32, handlers: Vec<u32>) -> Self {
        Self {
            starter,
            own,
            handlers,
        }
    }

    /// Whether a signal of this sender is obeyed.
    ///
    /// The starter is obeyed even if handlers are the same user: its signals can't be told from
    /// theirs, and it must be able to stop what it has started. The same holds for root.
    pub fn accept(&self, sender: Sender) -> bool {
        match sender {
            Sender::Kernel | Sender::Outside => true,
            // Refused even where it claims to be root: nothing has checked that.
            Sender::Unverified { .. } => false,
            Sender::Process { uid, .. } if uid == 0 || uid == self.starter.uid => true,
            Sender::Process { uid, .. } if self.handlers.contains(&uid) => false,
            // The kernel lets a user that isn't mapped signal skd only with rights over its whole
            // namespace: the user that has made the namespace, or root outside.
            Sender::Process { uid, .. } => uid == self.own || Some(uid) == self.starter.unmapped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(senders: &Senders, uid: u32) -> bool {
        senders.accept(Sender::Process { pid: 7, uid })
    }

    fn starter(uid: u32, unmapped: Option<u32>) -> Starter {
        Starter { uid, unmapped }
    }

    #[test]
    fn the_user_of_handlers_is_refused_whether_or_not_skd_has_become_it() {
        for own in [0, 33] {
            let senders = Senders::of(starter(0, None), own, vec![33, 34]);
            assert!(accepts(&senders, 0));
            for stranger in [33, 34, 35, 65534] {
                assert!(!accepts(&senders, stranger), "{stranger}");
            }
        }
    }

    #[test]
    fn the_user_of_skd_is_accepted_if_no_handler_has_it() {
        let senders = Senders::of(starter(0, None), 20, vec![33]);
        assert!(accepts(&senders, 20));
    }

    #[test]
    fn a_starter_without_a_choice_is_accepted() {
        let senders = Senders::of(starter(1000, None), 1000, vec![1000]);
        assert!(accepts(&senders, 1000));
        assert!(accepts(&senders, 0));
        assert!(!accepts(&senders, 1001));
        // With capabilities, but not as root.
        let senders = Senders::of(starter(1000, None), 1001, vec![1001]);
        assert!(accepts(&senders, 1000));
        assert!(!accepts(&senders, 1001));
    }

    #[test]
    fn users_that_are_not_mapped_are_accepted_unless_handlers_have_their_id() {
        let senders = Senders::of(starter(0, Some(65534)), 0, vec![33]);
        assert!(accepts(&senders, 65534));
        let senders = Senders::of(starter(0, Some(65534)), 0, vec![65534]);
        assert!(!accepts(&senders, 65534));
    }

    #[test]
    fn what_is_not_a_user_here_is_accepted_and_what_is_not_known_is_not() {
        let senders = Senders::of(starter(0, None), 33, vec![33]);
        assert!(senders.accept(Sender::Kernel));
        assert!(senders.accept(Sender::Outside));
        for uid in [0, 33] {
            assert!(!senders.accept(Sender::Unverified { pid: 1, uid }));
        }
    }
}
