//! A process of another user, which does something beside skd.

use super::{Directory, requires_command, requires_root};
use std::io::Read;
use std::process::{Child, Command, Stdio};

/// A process of another user, which is killed when this is dropped.
pub struct Stranger(Child);

impl Stranger {
    /// Starts a program with its arguments as a user, and as the group with the same number, in `theirs` of the
    /// directory. Returns when it has written something.
    #[track_caller]
    pub fn start<const N: usize>(user: u32, directory: &Directory, words: [&str; N]) -> Self {
        requires_root();
        requires_command("setpriv");
        let id = user.to_string();
        let child = Command::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .args(words)
            .current_dir(directory.join("theirs"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut stranger = Self(child.expect("setpriv"));
        let stdout = stranger.0.stdout.as_mut().unwrap();
        assert!(stdout.read(&mut [0; 8]).unwrap() > 0, "it has begun");
        stranger
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
