//! The environment variables that depend on the listener, but not on the client.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use crate::config::{BoundAddress, Style, UnixAddress, scoped};

/// Returns these variables as `NAME=VALUE`.
pub(super) fn of_listener(style: Style, bound_address: &BoundAddress) -> Box<[CString]> {
    let mut lines = Vec::new();
    match (style, bound_address) {
        (Style::Datagram, BoundAddress::Inet(address)) => {
            lines.push(b"PROTO=UDP".to_vec());
            lines.push(format!("UDPLOCALPORT={}", address.port()).into_bytes());
        }
        (_, BoundAddress::Inet(address)) => {
            lines.push(b"PROTO=TCP".to_vec());
            if !address.ip().is_unspecified() {
                lines.push(format!("TCPLOCALIP={}", scoped(*address)).into_bytes());
            }
            lines.push(format!("TCPLOCALPORT={}", address.port()).into_bytes());
        }
        (style, BoundAddress::Unix(address)) => {
            lines.push(match style {
                Style::Stream => b"PROTO=UNIX-STREAM".to_vec(),
                Style::Seqpacket => b"PROTO=UNIX-SEQPACKET".to_vec(),
                Style::Datagram => b"PROTO=UNIX-DGRAM".to_vec(),
            });
            let mut line = b"UNIXLOCALPATH=".to_vec();
            match address {
                UnixAddress::Path(path) => line.extend_from_slice(path.as_os_str().as_bytes()),
                UnixAddress::Abstract(name) => {
                    line.push(b'@');
                    line.extend_from_slice(name);
                }
            }
            lines.push(line);
        }
    }
    // An abstract name can contain a NUL, a variable can't: then it stays unset.
    lines
        .into_iter()
        .filter_map(|line| CString::new(line).ok())
        .collect()
}
