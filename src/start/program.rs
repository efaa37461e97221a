//! Running a program that isn't a handler: without sockets, or with all that were bound.

use std::os::fd::AsFd;

use crate::child::plan::{Preparation, Role, Root, prove};
use crate::child::{Filters, Plan};
use crate::config::{Daemon, Service, Supervise};
use crate::error::Error;
use crate::net::Listener;
use crate::serve::supervise::sockets::Sockets;
use crate::serve::supervise::{self, Obeyed};
use crate::setup::{Detach, Log, Manager, PidFile, Ready, ReadyFd, Senders, Starter};
use crate::sys::child::{self, Stage};
use crate::sys::credentials::Credentials;
use crate::sys::signals::{self, Inherited};
use crate::sys::{memory, process};

use super::process::{
    announce, give_up_rights, inherited_variables, keep_from_reading_terminal, lock_pidfile,
    publish, service_side, split, user_and_root, write_pidfile,
};

/// Runs a program without a listener: becomes it, or supervises it.
pub(super) fn run(daemon: &Daemon, service: &Service, inherited: &Inherited) -> Result<u8, Error> {
    let supervised = service.mode.supervised().is_some();
    // Before the user or the root directory is changed.
    let starter = Starter::find();
    let alone = std::slice::from_ref(service);
    let ready_fd = daemon.ready_fd.map(ReadyFd::claim).transpose()?;
    // The program says itself that it is ready; but which process is the main one, is for the old
    // one to say.
    let mut manager = match daemon.background {
        true => Manager::connect()?,
        false => None,
    };
    let started = std::process::id();
    // As for sockets; a program that replaces skd gets what has arrived meanwhile.
    signals::block();
    let pidfile = lock_pidfile(daemon)?;
    let detach = match daemon.background {
        true => Detach::Terminal,
        false => Detach::Nothing,
    };
    let log = Log::open(daemon, alone, detach)?;
    let Some(ready) = split(daemon, alone, manager.as_mut(), ready_fd)? else {
        process::exit_now(0);
    };
    drop(manager);
    service_side(ready, |ready| {
        let mut log = log;
        let mut pidfile = pidfile;
        let (user, root) = user_and_root(service, Ok)?;
        let terminal = supervised && supervise::has_terminal();
        if supervised && !terminal {
            // Another user may not open it, nor have /proc in its root directory.
            keep_from_reading_terminal(daemon, true);
        }
        give_up_rights(daemon, alone)?;
        let program = (!supervised).then(std::process::id);
        let variables = inherited_variables(daemon, service).with_watchdog_for(program, started);
        let role = if supervised {
            Role::Supervised { terminal }
        } else {
            Role::InPlace
        };
        let preparation = Preparation {
            surroundings: &service.surroundings,
            role,
            files: None,
            user: user.clone(),
            as_peer: false,
            root,
            is_elsewhere: false,
            filter: Filters::default().of(&service.isolation, false)?,
        };
        let plan = Plan::new(&service.command, &variables, preparation);
        let inside = daemon.root.as_deref().or(service.root.as_deref());
        let plan = plan.map_err(|error| error.inside(inside))?;
        if supervised {
            supervise::rehearse(&plan)?;
        }
        write_pidfile(&mut pidfile)?;
        log.leave_terminal(false)?;
        log.take_over()?;
        if supervised {
            let kill_after = service.kill_after.map(Into::into);
            let obeyed = Obeyed::new(
                Senders::new(starter, [service.identity.as_ref()]),
                inherited,
            );
            return supervise::run(&plan, None, kill_after, terminal, obeyed, log, ready);
        }
        if let Some(pidfile) = &pidfile {
            pidfile
                .bequeath()
                .map_err(|reason| Error::start("--pidfile can't be handed on", reason))?;
        }
        become_program((&plan, user.as_ref()), log, ready, inherited)
    })
}

/// What a program that accepts connections itself is run with.
pub(super) struct Bound {
    pub(super) confinement: (Option<Credentials>, Option<Root>),
    pub(super) listeners: Vec<Listener>,
    pub(super) manager: Option<Manager>,
    pub(super) log: Log,
    /// The last to go.
    pub(super) pidfile: Option<PidFile>,
}

/// Hands the sockets to the program, and keeps it running.
pub(super) fn hand_off(
    (daemon, service, supervise): (&Daemon, &Service, Supervise),
    files: Option<libc::rlimit>,
    mut bound: Bound,
    obeyed: Obeyed,
    ready: &mut Option<Ready>,
) -> Result<u8, Error> {
    let variables = inherited_variables(daemon, service).without_reserved();
    let (user, root) = bound.confinement;
    let preparation = Preparation {
        surroundings: &service.surroundings,
        role: Role::Supervised { terminal: false },
        files,
        user,
        as_peer: false,
        root,
        is_elsewhere: false,
        filter: Filters::default().of(&service.isolation, false)?,
    };
    let inside = daemon.root.as_deref().or(service.root.as_deref());
    let plan = Plan::new(&service.command, &variables, preparation);
    let mut plan = plan.map_err(|error| error.inside(inside))?;
    let listeners = &bound.listeners;
    let sockets = listeners.iter();
    plan.pass_sockets(sockets.map(|listener| (listener.as_fd(), listener.name())))?;
    supervise::rehearse(&plan)?;
    let ports = publish(&mut bound.pidfile, listeners.iter())?;
    let sockets = Sockets::new(listeners, supervise, bound.manager)?;
    announce(&ports)?;
    // A reader of the ports isn't kept waiting for the program to close the pipe.
    bound.log.leave_terminal(true)?;
    bound.log.take_over()?;
    memory::return_freed();
    let kill_after = service.kill_after.map(Into::into);
    let log = bound.log;
    let end = supervise::run(&plan, Some(sockets), kill_after, false, obeyed, log, ready);
    end.map_err(|error| error.inside(inside))
}

/// Becomes the program. Returns only with the reason why not.
fn become_program(
    (plan, user): (&Plan, Option<&Credentials>),
    log: Log,
    ready: &mut Option<Ready>,
    inherited: &Inherited,
) -> Result<u8, Error> {
    let explain = |stage, errno| plan.explain(stage, errno).to_string();
    child::prepare(plan.steps()).map_err(|(stage, errno)| Error::Start(explain(stage, errno)))?;
    user.map_or(Ok(()), prove)?;
    if let Some(signal) = inherited.awaits_end() {
        return Err(Error::Ended(signal));
    }
    // All has been done that is likely to fail. Afterwards no process may have the right to remove
    // what was made.
    log.empty()?;
    if let Some(ready) = ready {
        ready.becoming()?;
    }
    inherited.restore();
    let mut environment = plan.environment();
    let errno = plan.target().exec(environment.finish());
    Err(Error::NotRunnable(explain(Stage::Exec, errno)))
}
