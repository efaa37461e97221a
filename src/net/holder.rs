//! The process that has a port, for the message about a port in use.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::{Style, in_order};
use crate::sys::diagnosis::{BoundSocket, Diagnosis};

/// How long processes are searched. A machine may have very many.
const SEARCH: Duration = Duration::from_millis(500);

/// What to write about a port that another listener of the same command line has.
pub(super) const OWN: &str = "; another listener of this command line has the port";

/// Returns what is known of the process that has an address of this style, as the end of a message.
pub(super) fn of(address: SocketAddr, style: Style) -> Option<String> {
    let mut found: Vec<BoundSocket> = Vec::new();
    let each = |socket: BoundSocket| {
        if conflict(socket.local, address) {
            found.push(socket);
        }
    };
    let mut diagnosis = Diagnosis::new().ok()?;
    diagnosis
        .bound_sockets(style.has_connections(), each)
        .ok()?;
    // An IPv6 socket may have the port of IPv4 too.
    let found = in_order(found, |socket| {
        usize::from(socket.local.is_ipv4() != address.is_ipv4())
    });
    let first = found.first()?;
    let links: Vec<_> = found
        .iter()
        .map(|socket| format!("socket:[{}]", socket.inode))
        .collect();
    Some(match process(&links) {
        Some(pid) if pid == std::process::id() => OWN.into(),
        Some(pid) => {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("; {} (process {pid}) has the port", name.trim_end())
        }
        None => format!("; a process of user id {} has the port", first.uid),
    })
}

fn conflict(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && (any || one.ip() == other.ip())
}

/// Returns the first process that has one of these descriptors open, as far as this process may
/// see that.
fn process(links: &[String]) -> Option<u32> {
    let end = Instant::now() + SEARCH;
    let own = std::process::id();
    let pid = |entry: fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let others = fs::read_dir("/proc").ok()?.flatten().filter_map(pid);
    let mut pids = std::iter::once(own).chain(others);
    pids.by_ref()
        .take_while(|_| Instant::now() < end)
        .find(|pid| has_open(*pid, links))
}

fn has_open(pid: u32, links: &[String]) -> bool {
    let Ok(mut files) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    files.any(|file| {
        let link = file.and_then(|file| fs::read_link(file.path()));
        link.is_ok_and(|link| links.iter().any(|wanted| link.as_os_str() == &**wanted))
    })
}
