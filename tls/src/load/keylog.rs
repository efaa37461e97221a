//! The secrets of sessions in a file, for debugging: Wireshark reads them (`SSLKEYLOGFILE`).

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;

use rustls::KeyLog;
use zeroize::Zeroizing;

/// A file that is appended to.
#[derive(Debug)]
pub(super) struct Log(pub(super) File);

impl KeyLog for Log {
    fn log(&self, label: &str, random: &[u8], secret: &[u8]) {
        // As long as it gets, so that it doesn't grow, which would leave a copy.
        let length = label.len() + 2 * (random.len() + secret.len()) + 3;
        let mut line = Zeroizing::new(String::with_capacity(length));
        line.push_str(label);
        for bytes in [random, secret] {
            line.push(' ');
            for byte in bytes {
                let _ = write!(line, "{byte:02x}");
            }
        }
        line.push('\n');
        // One call for a line: threads and processes append to the same file. What can't be written is lost;
        // no connection depends on that.
        let _ = (&self.0).write(line.as_bytes());
    }
}
