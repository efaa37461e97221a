//! System calls that fail, or take long.

use super::requires_command;

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
