//! Commands of clients of the control socket: from its thread to the main thread, and the answers
//! back.
//!
//! The control thread sends those requests that [`Request::acts`] and keeps nothing of them but whom
//! to answer. The main thread executes them in the order of their arrival, and answers each once:
//! at once, or much later, perhaps after an exec.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use skd_control::{Answer, Done, Failure, FailureKind, Request};

use crate::sys::events::Waker;

/// Whom an answer is for. It is saved for the next binary if the answer comes from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::serve) struct ReplyTo {
    /// The connection, by a number that is no other's, before or after an upgrade.
    pub(in crate::serve) connection: u64,
    /// The number of the request.
    pub(in crate::serve) id: u64,
}

/// A request that changes something.
#[derive(Debug)]
pub(in crate::serve) struct Command {
    pub(in crate::serve) request: Request,
    pub(in crate::serve) reply_to: ReplyTo,
}

/// Commands that wait for the main thread, and answers that wait for the control thread.
#[derive(Debug)]
pub(in crate::serve) struct Commands {
    /// Bounded by the control thread, which sends the next command of a client after the answer to
    /// the last.
    queue: Mutex<Vec<Command>>,
    replies: Mutex<Vec<(ReplyTo, Answer)>>,
    /// Wakes the control thread, if there is one.
    waker: Option<Arc<Waker>>,
}

impl Commands {
    /// Makes an empty queue. The waker is that of the control thread, which clears it before it takes
    /// answers.
    pub(in crate::serve) fn new(waker: Option<Arc<Waker>>) -> Self {
        Self {
            queue: Mutex::default(),
            replies: Mutex::default(),
            waker,
        }
    }

    /// Sends a command to the main thread, whose waker is `main`.
    pub(in crate::serve) fn send(&self, request: Request, reply_to: ReplyTo, main: &Waker) {
        lock(&self.queue).push(Command { request, reply_to });
        main.wake();
    }

    /// Takes all answers, in the order in which they were given. An answer to a client that has gone
    /// is dropped by the control thread.
    pub(in crate::serve) fn take_replies(&self) -> Vec<(ReplyTo, Answer)> {
        std::mem::take(&mut *lock(&self.replies))
    }

    /// Returns the commands that the main thread has not taken yet.
    pub(in crate::serve) fn waiting(&self) -> Vec<(ReplyTo, Request)> {
        let queue = lock(&self.queue);
        let waiting = queue.iter().map(|it| (it.reply_to, it.request.clone()));
        waiting.collect()
    }

    /// Takes all commands, in the order of their arrival.
    pub(super) fn take(&self) -> Vec<Command> {
        std::mem::take(&mut *lock(&self.queue))
    }

    /// Answers a command.
    pub(super) fn answer(&self, to: ReplyTo, answer: Answer) {
        lock(&self.replies).push((to, answer));
        self.waker.iter().for_each(|waker| waker.wake());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the answer to what was done.
pub(super) fn done(message: impl Into<String>) -> Answer {
    Answer::Done(Done {
        message: message.into(),
        handlers: None,
    })
}

/// Returns the answer to what was done with so many handlers.
pub(super) fn done_with(handlers: u64, message: impl Into<String>) -> Answer {
    Answer::Done(Done {
        message: message.into(),
        handlers: Some(handlers),
    })
}

/// Returns the answer to what was not done.
pub(super) fn failed(kind: FailureKind, message: impl Into<String>) -> Answer {
    Answer::Failed(Failure {
        kind,
        message: message.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::events::is_readable;

    #[test]
    fn commands_and_answers_keep_their_order_and_wake_their_threads() {
        let waker = Arc::new(Waker::new().unwrap());
        let commands = Commands::new(Some(Arc::clone(&waker)));
        let main = Waker::new().unwrap();
        let to = |id| ReplyTo { connection: 1, id };
        assert!(!is_readable(&main) && !is_readable(&*waker));
        commands.send(Request::Reload, to(1), &main);
        commands.send(Request::Upgrade, to(2), &main);
        assert!(is_readable(&main));
        let ids: Vec<u64> = commands.take().iter().map(|it| it.reply_to.id).collect();
        assert_eq!(ids, [1, 2]);
        assert!(commands.take().is_empty());

        commands.answer(to(2), done("second"));
        commands.answer(to(1), failed(FailureKind::Busy, "first"));
        assert!(is_readable(&*waker));
        let ids: Vec<u64> = commands.take_replies().iter().map(|it| it.0.id).collect();
        assert_eq!(ids, [2, 1]);
        assert!(commands.take_replies().is_empty());
    }
}
