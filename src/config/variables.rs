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

/// Whether a handler would take this variable for one about its client's TLS session. If its service has
/// TLS, skd sets or removes it.
pub fn is_tls_variable(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let own = |own: &str| own.as_bytes() == name;
    TLS.iter().any(|it| own(it)) || OF_CLIENTS.iter().any(|it| name.starts_with(it.as_bytes()))
}

const TLS: [&str; 7] = [
    "HTTPS",
    "SSL_PROTOCOL",
    "SSL_CIPHER",
    "SSL_TLS_SNI",
    "SSL_TLS_SNI_SERVERNAME",
    "SSL_ALPN",
    "SSL_SESSION_RESUMED",
];

/// Also what other servers say of a client's certificate, and programs look for.
const OF_CLIENTS: [&str; 2] = ["SSL_CLIENT_", "SSL_PEER_"];

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
