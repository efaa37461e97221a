//! Writing down the state: each module saves its part, handlers in `handlers::saved`, connections
//! in `worker::saved`.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::state::{
    FORMAT, OpenDescriptors, SavedIdentity, SavedProcess, SavedService, State, Written,
};
use crate::config::ServiceId;
use crate::net::{Listener, SocketFile};
use crate::serve::control::build::ServiceControl;
use crate::serve::control::daemon::Daemon;
use crate::serve::control::saved_rules::SavedServiceRules;
use crate::serve::service::Service;
use crate::serve::wait_mode::WaitSocket;
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::{process, users};

/// Writes down what the next binary needs to know. It gets open connections only if it is to go
/// on with them.
pub(in crate::serve) fn write_state(
    daemon: &Daemon,
    next: &OwnedFd,
    connections: bool,
) -> io::Result<Written> {
    let mut file = descriptors::memory_file()?;
    let mut to = SavedDescriptors::default();
    let memory = to.pass(&file)?;
    let Some(executable) = &daemon.origin.executable else {
        return Err(Errno::ENOENT.into());
    };
    let pidfile = daemon.origin.pidfile.as_ref();
    let services = save_services(daemon, connections, &mut to)?;
    let lingering = if connections {
        daemon.shared.handlers.save_lingering(&mut to)
    } else {
        Vec::new()
    };
    let left_out = if connections {
        0
    } else {
        let exchanges = daemon.shared.exchanges.load(Ordering::SeqCst);
        daemon.shared.handlers.count_connections() + exchanges
    };
    let files = daemon.origin.files;
    let mut state = State {
        format: FORMAT,
        version: env!("SKD_VERSION").into(),
        process: SavedProcess {
            hangup_ends: daemon.origin.hangup_ends,
            starter: daemon.origin.starter,
            reloads: daemon.reload.is_under_way(),
            stream_workers: daemon.stream_workers,
            files: files.map(|limit| (limit.rlim_cur, limit.rlim_max)),
            dumpable: process::is_dumpable(),
            unknown_ids: users::unknown_ids(),
        },
        identity: daemon.origin.identity.as_ref().map(SavedIdentity::save),
        users: daemon
            .origin
            .users
            .iter()
            .map(SavedIdentity::save)
            .collect(),
        executable: executable.save(&mut to)?,
        pidfile: pidfile.map(|pidfile| pidfile.save(&mut to)).transpose()?,
        log: daemon.log.save(&mut to)?,
        manager: daemon.status.save(&mut to)?,
        services,
        lingering,
        left_out,
        served: daemon.shared.handlers.table.counts().1,
        open: OpenDescriptors {
            memory,
            old: to.pass(executable.running())?,
            // An interpreter couldn't open a script that is closed at its exec: so no script gets
            // far.
            new: to.pass_copy(next)?,
            null: to.pass(daemon.spawner.null())?,
            all: Vec::new(),
        },
    };
    state.open.all = to.numbers().to_vec();
    let text = serde_json::to_vec(&state)?;
    file.write_all(&text)?;
    Ok(Written {
        memory,
        carried: to,
        file,
        length: text.len() as u64,
    })
}

fn save_services(
    daemon: &Daemon,
    connections: bool,
    to: &mut SavedDescriptors,
) -> io::Result<Vec<SavedService>> {
    let mut saved = Vec::new();
    for (index, control) in daemon.services.iter().enumerate() {
        let id = ServiceId::new(index);
        let configured = daemon.shared.services.get(index);
        let service = save_service(daemon, (id, control), configured, connections, to)?;
        // A service that isn't configured any more lasts as long as its handlers.
        if configured.is_some() || !service.handlers.is_empty() {
            saved.push(service);
        }
    }
    Ok(saved)
}

fn save_service(
    daemon: &Daemon,
    (id, control): (ServiceId, &ServiceControl),
    configured: Option<&Service>,
    connections: bool,
    to: &mut SavedDescriptors,
) -> io::Result<SavedService> {
    let wait_sockets = daemon.wait_sockets.iter();
    let wait_sockets = wait_sockets.filter(|socket| socket.service() == id);
    let listeners = configured
        .iter()
        .flat_map(|service| service.listeners.iter().chain(&service.datagrams))
        .chain(wait_sockets.map(WaitSocket::listener))
        .map(|listener| listener.save(to))
        .collect::<Result<_, _>>()?;
    let save_file = |file: &SocketFile| file.save(to);
    let files = control.files.iter().map(save_file);
    let files = files.collect::<Result<_, _>>()?;
    let rules = configured.map(|service| {
        let files = control.rule_files.as_deref();
        SavedServiceRules::save(service, files, to)
    });
    let wait_address = |index: usize| {
        let socket = daemon.wait_sockets.get(index);
        socket.map(WaitSocket::listener).map(Listener::address)
    };
    let handlers = &daemon.shared.handlers;
    let mut service = SavedService {
        name: control.name.clone(),
        limits: control.limits,
        drain: control.drain,
        datagram_workers: control.datagram_workers,
        listeners,
        files,
        rules: rules.transpose()?.flatten(),
        handlers: handlers.save(id, connections, wait_address, to),
        pending: Vec::new(),
        exchanges: Vec::new(),
    };
    if connections {
        service.pending = daemon.shared.save_pending(id, to);
        service.exchanges = daemon.shared.save_exchanges(id, to);
    }
    Ok(service)
}
