//! The options of datagrams that skd receives.

use std::ffi::OsStr;

use super::args::Args;
use super::values::Why;
use crate::config::{DatagramMode, Endpoint, Listen, Style, decimal};

/// The lowest port of ordinary clients. Ports below belong to services, some of which answer every
/// datagram: two of them would answer each other endlessly.
const FIRST_CLIENT_PORT: u16 = 1024;

/// Reads what a handler of datagrams gets.
pub(super) fn mode(args: &Args<'_>, listeners: &[Listen]) -> DatagramMode {
    let mode = args.read("datagram-mode", read).unwrap_or_default();
    if !args.has("datagram-mode") {
        return mode;
    }
    let datagrams = |listen: &Listen| !listen.endpoint.style().is_some_and(Style::has_connections);
    if !listeners.iter().any(datagrams) {
        args.refuse("--datagram-mode has no use without a datagram listener");
        return DatagramMode::Wait;
    }
    if mode == DatagramMode::Wait {
        return mode;
    }
    if args.flag("supervise") {
        args.refuse(
            "--datagram-mode can't be used with --supervise (-S): PROG receives datagrams itself",
        );
        return DatagramMode::Wait;
    }
    let unix = |listen: &&Listen| {
        matches!(
            listen.endpoint,
            Endpoint::Unix {
                style: Style::Datagram,
                ..
            }
        )
    };
    let mut without_addresses = listeners
        .iter()
        .filter(|listen| mode == DatagramMode::PerPeer && unix(listen));
    if let Some(Listen { option, .. }) = without_addresses.next() {
        args.refuse(format!(
            "--datagram-mode per-peer can't be used with {option}: clients of unix sockets mostly \
             have no address; use per-packet"
        ));
    }
    mode
}

fn read(text: &OsStr) -> Result<DatagramMode, Why> {
    match text.to_str() {
        Some("wait") => Ok(DatagramMode::Wait),
        Some("per-peer") => Ok(DatagramMode::PerPeer),
        Some("per-packet") => Ok(DatagramMode::PerPacket),
        _ => Err("it takes wait, per-peer or per-packet".into()),
    }
}

/// Reads the lowest source port of UDP datagrams that are served.
pub(super) fn min_source_port(args: &Args<'_>, mode: DatagramMode, listeners: &[Listen]) -> u16 {
    let udp = |listen: &Listen| match listen.endpoint {
        Endpoint::Inet { style, .. } => style == Style::Datagram,
        Endpoint::Unix { .. } => false,
        Endpoint::Inherited { .. } => true,
    };
    if args.has("min-source-port") {
        if mode == DatagramMode::Wait {
            args.refuse(
                "--min-source-port has no use without --datagram-mode per-peer or per-packet: \
                 PROG receives datagrams itself",
            );
        } else if !listeners.iter().any(udp) {
            args.refuse("--min-source-port has no use without a UDP listener");
        }
    }
    let read = |text: &OsStr| {
        decimal(text).ok_or_else(|| Why::from("it takes a decimal number from 0 to 65535"))
    };
    args.read("min-source-port", read).unwrap_or(match mode {
        DatagramMode::PerPacket => FIRST_CLIENT_PORT,
        DatagramMode::PerPeer | DatagramMode::Wait => 0,
    })
}
