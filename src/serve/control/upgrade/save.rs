//! Writing down the state: each module saves its part, handlers in `handlers::saved`, connections
//! in `worker::saved`.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::saved_identity::SavedIdentity;
use super::state::{FORMAT, OpenDescriptors, SavedProcess, SavedService, State, Written};
use super::words::Purpose;
use crate::child::Pool;
use crate::config::{ListenerId, ServiceId};
use crate::net::{Listener, SocketFile};
use crate::serve::availability::Availability;
use crate::serve::control::build::ServiceControl;
use crate::serve::control::daemon::Daemon;
use crate::serve::control::filter_calls::FilterCalls;
use crate::serve::control::saved_counters;
use crate::serve::control::saved_rules::SavedServiceRules;
use crate::serve::control::socket::ControlSocket;
use crate::serve::handlers::saved::SavedClock;
use crate::serve::service::Service;
use crate::serve::wait_mode::WaitSocket;
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::signals::has_group;
use crate::sys::{process, users};

/// Writes down what the next binary needs to know. It gets open connections only if it is to go
/// on with them.
pub(in crate::serve) fn write_state(
    daemon: &Daemon,
    next: &OwnedFd,
    (purpose, findings): (Purpose, &File),
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
        let prestarted = daemon.shared.pools().map(Pool::count_descriptors);
        let control = daemon
            .control
            .as_ref()
            .map_or(0, ControlSocket::count_clients);
        let listeners = daemon.filter_calls.as_ref().map_or(0, FilterCalls::count);
        listeners
            + daemon.shared.handlers.count_connections()
            + exchanges
            + prestarted.sum::<usize>()
            + control
    };
    let control = daemon.control.as_ref();
    let control = control.map(|control| control.save(connections, &mut to));
    let groups = daemon.origin.groups.as_ref();
    let groups = groups.map(|groups| groups.save(&mut to));
    let files = daemon.origin.files;
    let mut state = State {
        format: FORMAT,
        version: env!("SKD_VERSION").into(),
        process: SavedProcess {
            hangup_ends: daemon.origin.hangup_ends,
            starter: daemon.origin.starter,
            reloads: daemon.reload.is_under_way() || daemon.is_loading_tls() || daemon.reload_again,
            is_reload: purpose == Purpose::Reload,
            stream_workers: daemon.stream_workers,
            files: files.map(|limit| (limit.rlim_cur, limit.rlim_max)),
            began: Some(SavedClock::new().save(daemon.view.began)),
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
        environment_files: daemon.origin.environment_files.clone(),
        filter_files: daemon.origin.filter_files.clone(),
        executable: executable.save(&mut to)?,
        pidfile: pidfile.map(|pidfile| pidfile.save(&mut to)).transpose()?,
        log: daemon.log.save(&mut to)?,
        manager: daemon.status.save(&mut to)?,
        groups: groups.transpose()?,
        sessions: sessions(daemon),
        services,
        control: control.transpose()?,
        tls: daemon
            .tls
            .as_ref()
            .map(|tls| tls.save(&mut to))
            .transpose()?,
        lingering,
        figures: connections.then(|| saved_counters::save(&daemon.view)),
        left_out,
        served: daemon.shared.handlers.table.counts().1,
        texts: daemon.origin.texts.clone(),
        settings: Some(daemon.origin.settings.clone()),
        acts: daemon.save_acts(purpose),
        findings: None,
        faults: Vec::new(),
        open: OpenDescriptors {
            memory,
            old: to.pass(executable.running())?,
            // An interpreter couldn't open a script that is closed at its exec: so no script gets
            // far.
            new: to.pass_copy(next)?,
            null: to.pass(daemon.spawner.null())?,
            findings: Some(to.pass(findings)?),
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
        // A service that isn't configured any more lasts as long as its last clients.
        let is_configured = configured.is_some() && control.retiring.is_none();
        if is_configured || !service.is_over() {
            saved.push(service);
        }
    }
    Ok(saved)
}

/// The sessions of processes that aren't handlers', as long as there are some.
fn sessions(daemon: &Daemon) -> Vec<i32> {
    let jails = daemon.shared.jails();
    let jails = jails.map(|jail| jail.session().as_raw());
    let earlier = daemon.origin.sessions.iter().copied();
    let all = earlier.chain(jails).filter(|id| *id > 0);
    // The leader of a session leads a group too.
    let all = all.filter(|id| has_group(Pid::from_raw(*id)));
    all.collect()
}

fn save_service(
    daemon: &Daemon,
    (id, control): (ServiceId, &ServiceControl),
    configured: Option<&Service>,
    connections: bool,
    to: &mut SavedDescriptors,
) -> io::Result<SavedService> {
    let wait_sockets = daemon.wait_sockets.iter();
    let wait_sockets = wait_sockets.filter(|socket| socket.service() == id && !socket.is_closed());
    let open = |service: &&&Service| !service.is_done();
    let streams = configured.iter().filter(open).flat_map(|it| &it.listeners);
    let datagrams = configured.iter().flat_map(|it| &it.datagrams);
    let listeners = streams
        .chain(datagrams)
        .chain(wait_sockets.map(WaitSocket::listener))
        .filter(|listener| !listener.is_closed())
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
        let listener = socket.map(WaitSocket::listener);
        let open = listener.filter(|listener| !listener.is_closed());
        open.map(Listener::address)
    };
    let address = |id: ListenerId| Some(daemon.view.listener(id)?.saved());
    let handlers = &daemon.shared.handlers;
    let mut service = SavedService {
        name: control.name.to_string(),
        limits: control.limits,
        drain: control.drain,
        datagram_workers: control.datagram_workers,
        total: control.slots.total(),
        is_done: configured.is_some_and(Service::is_done),
        availability: configured.map_or_else(Availability::default, |it| it.availability.get()),
        listeners,
        files,
        rules: rules.transpose()?.flatten(),
        handlers: handlers.save(id, connections, address, wait_address, to),
        pending: Vec::new(),
        exchanges: Vec::new(),
        rates: None,
        retiring: control.retiring.clone(),
        pool: None,
        filter_listeners: Vec::new(),
    };
    if connections {
        service.pending = daemon.shared.save_pending(id, to);
        service.exchanges = daemon.shared.save_exchanges(id, to);
        service.rates = daemon.shared.save_rates(id);
        let pool = configured.and_then(|service| service.source.pool.as_deref());
        let calls = daemon.filter_calls.as_ref();
        let listeners = calls.map(|calls| calls.save(id, to)).transpose()?;
        service.filter_listeners = listeners.unwrap_or_default();
        service.pool = pool.map(|pool| pool.save(to)).transpose()?;
    }
    Ok(service)
}
