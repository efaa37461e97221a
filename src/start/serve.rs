//! Binding sockets and serving them, in the one order that works.

use std::os::fd::AsFd;
use std::sync::Arc;

use crate::child::Method;
use crate::child::plan::raise_file_limit;
use crate::config::{Config, Service};
use crate::error::Error;
use crate::net::{self, InheritedListener};
use crate::serve::supervise::Obeyed;
use crate::serve::upgrade::Settings;
use crate::serve::{BoundControl, Daemon, Origin, Prepared, Resources, Restored, Rules, TlsKeeper};
use crate::setup::executable::Executable;
use crate::setup::{Detach, Log, Manager, ReadyFd, RuleFiles, Senders, Starter, TlsFiles};
use crate::sys::process;
use crate::sys::signals::{self, Inherited, Signal};
use crate::sys::{memory, users};

use super::contain;
use super::prepare::{
    Ground, Threads, confinements, environment_files, filter_files, filter_socket, reserve,
};
use super::process::{
    announce, give_up_rights, keep_from_reading_terminal, lock_pidfile, publish, service_side,
    split,
};
use super::program::{self, Bound};
use super::tls;

/// Binds the sockets of all services and serves them, or hands them to a supervised program.
pub(super) fn serve(config: Config, inherited: &Inherited) -> Result<u8, Error> {
    let Config {
        daemon,
        services,
        texts,
    } = config;
    // Before the user or the root directory is changed.
    let starter = Starter::find();
    // A descriptor for each live handler; handlers get the old limit back.
    let files = raise_file_limit();
    net::check::files(services.iter().map(|service| &service.listeners[..]))?;
    // What skd was given on purpose.
    let ready_fd = daemon.ready_fd.map(ReadyFd::claim).transpose()?;
    let inherited_listeners = take_over(&services)?;
    // Before any descriptor of ours is opened, so that all are above the reserved ones; and
    // a handler gets its connection and nothing that skd was given by accident.
    let kept = ready_fd.iter().flat_map(ReadyFd::kept).map(AsFd::as_fd);
    let kept: Vec<_> = kept
        .chain(inherited_listeners.iter().flatten().map(AsFd::as_fd))
        .collect();
    let reserved = reserve(&services, 0, &kept, None)?;
    // The resolver may take long: nothing is held or changed yet, and INT still ends skd.
    let wanted = services
        .iter()
        .map(|service| {
            let resolved = net::resolve_all(&service.listeners);
            resolved.map_err(|error| error.about(&service.label()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    // While files and users are in sight; a fault in them leaves no trace.
    let mut rules = services
        .iter()
        .map(|service| {
            let read = RuleFiles::open_and_read(service);
            read.map_err(|error| error.about(&service.label()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    // As those of rules, and before skd becomes a user who may not read keys.
    let tls_files = TlsFiles::open(&services, &daemon)?;
    // While its socket can be reached, and before it could be told of a start that fails.
    let mut manager = Manager::connect()?;
    // From here on there may be something to remove: signals wait until that can be done.
    signals::block();
    // Before anything is changed: of two daemons the second leaves no trace.
    let pidfile = lock_pidfile(&daemon)?;
    // With the rights to low ports, and while the old root directory is there. All, or none.
    let listeners = wanted
        .iter()
        .zip(inherited_listeners)
        .zip(&services)
        .map(|((wanted, inherited), service)| {
            net::bind_all(wanted, inherited, service.datagrams, net::LOCK_TIMEOUT)
                .map_err(|error| error.about(&service.label()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let control = daemon.control.as_ref().map(BoundControl::bind);
    let control = control.transpose()?;
    // Nothing else that could be in the way is in skd's own control group yet.
    let mut base = contain::make_groups(&daemon, &services)?;
    let detach = match daemon.background {
        true => Detach::Connections,
        false => Detach::Nothing,
    };
    // With a relay, which keeps the root directory and the rights to files that it has now.
    let log = Log::open(&daemon, &services, detach)?;

    // While /proc and its path are in sight.
    let mut executable = Executable::find();
    users::unknown_ids();
    // As for skd's own path.
    let tls = tls_files.map(|files| tls::keeper(files.into(), &daemon, executable.as_ref()));
    let mut tls = tls.transpose()?;

    let Some(ready) = split(&daemon, &services, manager.as_mut(), ready_fd)? else {
        process::exit_now(0);
    };
    // While the cgroup that limits them can be seen.
    let threads = Threads::new(&daemon, &services, &listeners);
    service_side(ready, |ready| {
        let mut services = services;
        let mut reserved = reserved;
        let mut pidfile = pidfile;
        let supervised = match &services[..] {
            [service] => service.mode.supervised().map(|it| (&daemon, service, it)),
            _ => None,
        };
        keep_from_reading_terminal(&daemon, supervised.is_some());
        let confinements = confinements(&services, &mut reserved)?;
        let filter_socket = filter_socket(&services, &mut reserved)?;
        let mut groups = contain::service_groups(&mut base, &daemon, &services)?;
        // With the right to become its user. It gets ready while skd does.
        if let Some(tls) = &mut tls {
            tls.start(log.error())?;
        }
        give_up_rights(&daemon, &services)?;
        if let Some(service) = supervised {
            let bound = Bound {
                confinement: confinements.into_iter().next().unwrap_or_default(),
                listeners: listeners.into_iter().flatten().collect(),
                manager,
                log,
                pidfile,
            };
            let senders = Senders::new(starter, [service.1.identity.as_ref()]);
            let obeys = Obeyed::new(senders, inherited);
            return program::hand_off(service, files, bound, obeys, ready);
        }
        if daemon.root.is_some() {
            executable.iter_mut().for_each(Executable::entered_root);
            let files = rules.iter_mut().flatten().map(|(files, _)| files);
            files.for_each(RuleFiles::entered_root);
        }
        let ground = Ground {
            daemon: &daemon,
            files,
            low: threads.low(&services, &reserved)?,
            probe: Method::probe,
            filter_socket: filter_socket.as_ref().map(|it| Arc::clone(&it.theirs)),
        };
        contain::choose(&ground, &mut services, &mut groups, &confinements, true)?;
        let (plans, jails, method) = ground.plans(&services, confinements.clone())?;
        let gates = ground.gates(&services, &confinements).into_iter();
        let gates = gates.collect::<Result<Vec<_>, _>>()?;
        let ports = publish(&mut pidfile, listeners.iter().flatten())?;
        control.as_ref().map_or(Ok(()), BoundControl::listen)?;
        let origin = Origin {
            settings: Settings::of(&daemon),
            texts,
            executable,
            // Under a service manager there is no terminal that it could be about.
            hangup_ends: !daemon.background
                && manager.is_none()
                && !inherited.ignored(Signal::SIGHUP),
            starter,
            files,
            users: services
                .iter()
                .filter_map(|service| service.identity.clone())
                .collect(),
            environment_files: environment_files(&services),
            filter_files: filter_files(&services),
            identity: daemon.identity,
            groups: base,
            sessions: contain::sessions(),
            pidfile,
        };
        let plans = plans.into_iter().zip(gates);
        let parts = plans.zip(jails).zip(groups);
        let parts = parts.zip(listeners).zip(rules);
        let prepared = services
            .into_iter()
            .zip(parts)
            .zip(threads.datagram_workers)
            .map(
                |(
                    (config, (((((plan, gate), jail), cgroups), listeners), rules)),
                    datagram_workers,
                )| {
                    Prepared {
                        rules: rules.map(|(files, list)| {
                            (Rules::new(&list, plan.variables()), Some(files))
                        }),
                        config,
                        plan,
                        jail,
                        cgroups,
                        gate,
                        listeners,
                        datagram_workers,
                        restored: None,
                        retiring: None,
                    }
                },
            );
        let prepared = prepared.collect();
        // A certificate that can't be used is found here; and clients don't wait for it.
        tls.as_mut().map_or(Ok(()), TlsKeeper::wait)?;
        // The last that is likely to fail. Threads are made here, and not before: the steps
        // above change the process as a whole.
        let resources = Resources {
            method,
            stream_workers: threads.stream_workers,
            reserved,
            filter_socket,
            log,
            manager,
            origin,
            control,
            tls,
            restored: Restored::default(),
        };
        let mut running = Daemon::new(prepared, resources)?;
        // Not before: a reader may connect at once.
        announce(&ports)?;
        // All that the caller should see has been said.
        running.take_log()?;
        memory::return_freed();
        if let Some(ready) = ready {
            ready.serving()?;
        }
        *ready = None;
        Ok(running.run())
    })
}

/// Takes over the sockets that this process has inherited, for each service its own.
fn take_over(services: &[Service]) -> Result<Vec<Vec<InheritedListener>>, Error> {
    let listeners = services.iter().flat_map(|service| &service.listeners);
    let mut inherited = net::inherit_all(listeners)?;
    let mut all = Vec::new();
    for service in services {
        let its: Vec<_>;
        (its, inherited) = inherited
            .into_iter()
            .partition(|it| it.is_of(&service.listeners));
        if service.admission.proxies.is_some() {
            net::refuse_seqpacket(&its)?;
        }
        if service.tls.is_some() {
            net::refuse_packets(&its)?;
        }
        if let Some(prestart) = service.prestart {
            net::refuse_datagrams(&its, prestart.option())?;
        }
        all.push(its);
    }
    Ok(all)
}
