//! System calls that fail, or take long.

use super::{requires_command, stat_field, status_field, wait_until};
use std::process::{Child, Command};

/// A wrapper under which strace(1) does so to `call`, in skd and in all that it starts: `how` is what follows
/// the call in its `-e inject=`.
#[track_caller]
pub fn tampering(call: &str, how: &str) -> [String; 9] {
    requires_command("strace");
    let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{how}"));
    [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        &trace,
        "-e",
        &inject,
    ]
    .map(str::to_owned)
}

/// A strace(1) of one thread, which makes a system call of it fail until it is dropped.
pub struct Tampering(Child);

impl Tampering {
    /// Returns when strace is attached to the thread. `how` is as for [`tampering`].
    #[track_caller]
    pub fn with(thread: i32, call: &str, how: &str) -> Self {
        requires_command("strace");
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:{how}"));
        let strace = Command::new("strace")
            .args(["-q", "-p", &thread.to_string(), "-o", "/dev/null"])
            .args(["-e", &trace, "-e", &inject])
            .spawn();
        let mut tampering = Self(strace.unwrap());
        let strace = i32::try_from(tampering.0.id()).unwrap();
        wait_until("strace has attached to it and waits", || {
            assert_eq!(tampering.0.try_wait().unwrap(), None, "strace can't attach");
            status_field(thread, "TracerPid") == Some(strace.to_string())
                && stat_field(strace, 3).is_some_and(|state| state == "S")
        });
        tampering
    }
}

impl Drop for Tampering {
    fn drop(&mut self) {
        // Its thread is detached with it.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
