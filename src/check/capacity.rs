//! Whether the limits of this process and of the system allow the configured number of handlers.
//! The limits may never be reached, so these are notes.

use std::fmt::Display;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Uid;

use crate::config::{Daemon, DatagramMode, Prestart, Service, SocketOption, Span, Style};
use crate::net;
use crate::report;
use crate::serve;
use crate::sys::capabilities::{Capability, has_capability};
use crate::sys::names::kernel_parameter;

pub(super) fn notes(daemon: &Daemon, service: &Service) {
    backlog(service);
    sockets(service);
    let stream = service
        .listeners
        .iter()
        .any(|listen| listen.endpoint.style().is_none_or(Style::has_connections));
    let receives = service.datagrams != DatagramMode::Wait;
    let limited = service.max_clients.filter(|_| stream || receives);
    let warm = match service.prestart {
        Some(Prestart::Warm(number)) => Some(number),
        Some(Prestart::ForkServer { .. }) | None => None,
    };
    let threads = serve::stream_workers(daemon.threads) as u64;
    // The start raises the soft limit.
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    let own = own_files(service.listeners.len() as u64, threads);
    // Each handler has a pidfd. A handler of datagrams has the other end of its socket too, and with
    // --linger, a handler has its connection. Lingering connections are extra.
    let (each, lingering) = match service.admission.linger {
        Some(Span::ZERO) => (1, 0),
        Some(_) => (2, serve::most_lingering(threads as usize, files) as u64),
        None if receives => (2, 0),
        None => (1, 0),
    };
    // A prestarted handler has a pidfd and a socket.
    let wanted = [("--max-clients", limited, each), ("--warm", warm, 2)];
    let wanted = wanted
        .into_iter()
        .filter_map(|(option, number, files)| Some((option, number?.get() as u64, files)));
    for (option, number, each) in wanted {
        note_limits(
            (daemon, service),
            option,
            number,
            (files, own + lingering, each),
            threads,
        );
    }
}

fn note(service: &Service, text: impl Display) {
    report::note(format_args!("{}{text}", service.label()));
}

/// Notes the limits that are too low for this number of processes. `files` is the limit of open
/// files, those used otherwise, and those for each process.
fn note_limits(
    (daemon, service): (&Daemon, &Service),
    option: &str,
    number: u64,
    (files, own_files, files_each): (u64, u64, u64),
    threads: u64,
) {
    for (limit, own, each, what) in [
        (files, own_files, files_each, "open files (ulimit -Hn)"),
        (
            processes(daemon, service),
            1 + threads,
            1,
            "processes of that user (ulimit -u)",
        ),
        (
            kernel_parameter("kernel/pid_max").unwrap_or(u64::MAX),
            1 + threads,
            1,
            "process ids (kernel.pid_max)",
        ),
        (
            kernel_parameter("kernel/threads-max").unwrap_or(u64::MAX),
            1 + threads,
            1,
            "processes of the system (kernel.threads-max)",
        ),
    ] {
        let possible = limit.saturating_sub(own) / each;
        if number > possible {
            note(
                service,
                format_args!(
                    "{option} {number}: there is room for {possible} or so in {limit} {what}"
                ),
            );
        }
    }
}

fn backlog(service: &Service) {
    let most = kernel_parameter("net/core/somaxconn").unwrap_or(u64::MAX);
    let wanted = service.listeners.iter().filter_map(|listen| listen.backlog);
    // All listeners have the same options.
    if let Some(backlog) = wanted.max().filter(|backlog| *backlog as u64 > most) {
        note(
            service,
            format_args!("--backlog {backlog}: the kernel makes it {most} (net.core.somaxconn)"),
        );
    }
}

fn sockets(service: &Service) {
    // All listeners have the same options.
    let Some(listen) = service.listeners.first() else {
        return;
    };
    for text in net::check::changed_buffers(&listen.options) {
        note(service, text);
    }
    /// The bit of net.ipv4.tcp_fastopen for listeners.
    const SERVER: u64 = 2;
    let is_fast = |option: &SocketOption| matches!(option, SocketOption::FastOpen(_));
    let allowed = kernel_parameter("net/ipv4/tcp_fastopen");
    if !listen.options.iter().any(is_fast) {
        return;
    }
    if let Some(allowed) = allowed.filter(|allowed| allowed & SERVER == 0) {
        note(
            service,
            format_args!(
                "--fast-open has no effect while net.ipv4.tcp_fastopen is {allowed}; set it to {}",
                allowed | SERVER
            ),
        );
    }
}

/// Returns the number of descriptors that don't belong to handlers, about: those of the main
/// thread, the log and the pid file; for each listener, its sockets or directory; for each thread,
/// its epoll and event descriptors, its reserve, and a connection.
fn own_files(listeners: u64, threads: u64) -> u64 {
    20 + 2 * listeners + 4 * threads
}

/// Returns the maximum number of processes of the user that starts handlers (getrlimit(2)).
fn processes(daemon: &Daemon, service: &Service) -> u64 {
    let identity = service.identity.as_ref().or(daemon.identity.as_ref());
    let user = match identity {
        Some(identity) => identity.uid,
        None => Uid::effective(),
    };
    let exempt = user.is_root()
        || identity.is_none()
            && (has_capability(Capability::Resource) || has_capability(Capability::Administrator));
    if exempt {
        return u64::MAX;
    }
    getrlimit(Resource::RLIMIT_NPROC).map_or(u64::MAX, |(soft, _)| soft)
}
