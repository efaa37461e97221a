//! The environment variables that skd sets itself.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// Whether skd sets or removes this variable for each handler. So handlers can rely on it: an
/// inherited value can't pass for one of skd.
pub fn is_reserved_variable(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let connection = |protocol: &[u8]| {
        let rest = |side: &[u8]| name.strip_prefix(protocol)?.strip_prefix(side);
        let what = rest(b"LOCAL").or_else(|| rest(b"REMOTE"));
        what.is_some_and(|what| matches!(what, b"IP" | b"PORT" | b"HOST" | b"INFO"))
    };
    connection(b"TCP")
        || connection(b"UDP")
        || name.starts_with(b"SKD_")
        || RESERVED.iter().any(|reserved| reserved.as_bytes() == name)
}

const RESERVED: [&str; 22] = [
    "PROTO",
    "TCPCONNNUM",
    "TCPCONCURRENCY",
    "PEERPID",
    "PEERUID",
    "PEERGID",
    "UNIXLOCALPATH",
    "UNIXREMOTEPATH",
    "UNIXREMOTEPID",
    "UNIXREMOTEEUID",
    "UNIXREMOTEEGID",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "REMOTE_HOST",
    "REMOTE_USER",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];
