//! What becomes of the connections of a load.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The results of the connections of a load.
#[derive(Debug, Default)]
pub struct Figures {
    pub right: AtomicUsize,
    pub wrong: AtomicUsize,
    pub refused: AtomicUsize,
    pub reset: AtomicUsize,
}

impl Figures {
    pub fn count(&self, result: std::io::Result<Vec<u8>>, expected: &[u8]) {
        let which = match result {
            Ok(answer) if answer == expected => &self.right,
            Ok(_) => &self.wrong,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => &self.refused,
            Err(_) => &self.reset,
        };
        which.fetch_add(1, Ordering::Relaxed);
    }
}
