//! A channel for one value at a time, between two threads.
//!
//! The channels of the standard library have nine kilobytes of code for each type of values. What
//! is sent here is a few words at the start, and when a log file is opened again.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Returns the two ends of a channel.
pub fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            value: None,
            is_closed: false,
        }),
        changed: Condvar::new(),
    });
    (Sender(End(Arc::clone(&shared))), Receiver(End(shared)))
}

/// The end for sending.
#[derive(Debug)]
pub struct Sender<T>(End<T>);

/// The end for receiving.
#[derive(Debug)]
pub struct Receiver<T>(End<T>);

/// An end, which closes the channel when it is dropped.
#[derive(Debug)]
struct End<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    is_closed: bool,
}

impl<T> End<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        let locked = self.0.state.lock();
        locked.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the channel is closed, or has a value or none.
    fn wait(&self, for_value: bool) -> MutexGuard<'_, State<T>> {
        let mut state = self.lock();
        while !state.is_closed && state.value.is_some() != for_value {
            let waited = self.0.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        state
    }
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        self.lock().is_closed = true;
        self.0.changed.notify_all();
    }
}

impl<T> Sender<T> {
    /// Sends a value, after the last one was received. Returns whether there is a receiver.
    pub fn send(&self, value: T) -> bool {
        let mut state = self.0.wait(false);
        let is_open = !state.is_closed;
        if is_open {
            state.value = Some(value);
            self.0.0.changed.notify_all();
        }
        is_open
    }
}

impl<T> Receiver<T> {
    /// Waits for a value. Returns `None` if none is there and the sender is gone.
    pub fn receive(&self) -> Option<T> {
        let value = self.0.wait(true).value.take();
        self.0.0.changed.notify_all();
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn values_come_in_order_and_then_the_end() {
        let (sender, receiver) = channel();
        let sending = thread::spawn(move || (0..100).all(|number| sender.send(number)));
        for number in 0..100 {
            assert_eq!(receiver.receive(), Some(number));
        }
        assert_eq!(receiver.receive(), None);
        assert!(sending.join().unwrap());
    }

    #[test]
    fn the_last_value_is_received_though_its_sender_is_gone() {
        let (sender, receiver) = channel();
        assert!(sender.send(7));
        drop(sender);
        assert_eq!(receiver.receive(), Some(7));
        assert_eq!(receiver.receive(), None);
    }

    #[test]
    fn a_sender_without_a_receiver_is_told() {
        let (sender, receiver) = channel();
        assert!(sender.send(1));
        let waiting = thread::spawn(move || sender.send(2));
        drop(receiver);
        assert!(!waiting.join().unwrap());
    }
}
