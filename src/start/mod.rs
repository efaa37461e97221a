//! The whole start-up, in the one order that works, with the reason for each place.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use nix::errno::Errno;

use crate::check;
use crate::child::environment::Variables;
use crate::child::plan::{Role, raise_file_limit};
use crate::child::{Method, Plan};
use crate::cli::{self, Request};
use crate::config::{Config, Daemon, KILL_AFTER, MOST_THREADS, Service, Surroundings};
use crate::error::Error;
use crate::net::{self, Listener};
use crate::report;
use crate::serve::supervise::sockets::Sockets;
use crate::serve::upgrade::{Arrival, Origin, Saved, State};
use crate::serve::{self, DrainTimeouts, Resources, Rules, TimeLimits, supervise};
use crate::setup::executable::Executable;
use crate::setup::{Log, Manager, PidFile, Ready, ReadyFd, RuleFiles, Side, privileges};
use crate::sys::child::{self, Stage};
use crate::sys::descriptors::{Low, Reserved};
use crate::sys::signals::{self, Inherited, Signal};
use crate::sys::{memory, process};

/// The program: from the command line to the exit status.
pub fn main() -> ExitCode {
    let arrival = Arrival::find();
    // Before anything else: an ignored CHLD would reap children unseen.
    let inherited = Inherited::sanitise(!matches!(arrival, Ok(Arrival::Fresh)));
    memory::use_one_arena();
    let result = arrival.and_then(|arrival| begin(arrival, &inherited));
    let status = result.unwrap_or_else(|error| {
        match error {
            Error::Told(_) => {}
            // All has been removed; whoever waits sees what it was.
            Error::Ended(signal) => signals::end_by(signal),
            _ => report::failure(&error),
        }
        error.status()
    });
    ExitCode::from(status)
}

fn begin(arrival: Arrival, inherited: &Inherited) -> Result<u8, Error> {
    match arrival {
        Arrival::Fresh => answer_or_run(inherited),
        Arrival::Preflight(mut state) => {
            let originals = originals(&state)?;
            let _running = take_over(&mut state, &originals, false)?;
            let accepted = state.accept();
            accepted.map_err(|reason| Error::start("the running skd can't be told", reason))?;
            // At once: threads run, and what it has is the running skd's.
            process::exit_now(0)
        }
        Arrival::Upgrade(state) => resume(state, false),
        Arrival::Return(state) => resume(state, true),
    }
}

fn answer_or_run(inherited: &Inherited) -> Result<u8, Error> {
    match cli::parse(std::env::args_os(), None)? {
        Request::Print(text) => match report::answer(&text) {
            // Whoever asked has read enough: skd --help | head.
            Err(reason) if reason.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::start("standard output can't be written", reason))
            }
            _ => Ok(0),
        },
        Request::Check(config, faults) => check::run(&config, faults),
        Request::Explain(config, client) => check::explain(&config, &client),
        Request::Run(config) => run(*config, inherited),
    }
}

fn run(mut config: Config, inherited: &Inherited) -> Result<u8, Error> {
    report::set_verbosity(config.daemon.verbosity);
    if process::is_first() {
        if config.daemon.background {
            return Err(Error::Usage(
                "--background can't be used by process 1: all of a container ends when that \
                 returns; leave it out"
                    .into(),
            ));
        }
        // What isn't blocked is lost on process 1, so a stop during the start would be.
        signals::block();
    }
    // A command line yields one service.
    let Some(service) = config.services.pop() else {
        return Ok(0);
    };
    if service.listeners.is_empty() {
        run_program(&config, &service, inherited)
    } else {
        serve(&config, service, inherited)
    }
}

/// Binds sockets and serves them.
fn serve(config: &Config, service: Service, inherited: &Inherited) -> Result<u8, Error> {
    let daemon = &config.daemon;
    // A descriptor for each live handler; handlers get the old limit back.
    let files = raise_file_limit();
    // What skd was given on purpose.
    let ready_fd = daemon.ready_fd.map(ReadyFd::claim).transpose()?;
    let sockets = net::inherit_all(&service.listeners)?;
    if service.admission.proxies.is_some() {
        net::refuse_seqpacket(&sockets)?;
    }
    if let Some(prestart) = service.prestart {
        net::refuse_datagrams(&sockets, prestart.option())?;
    }
    // Before any descriptor of ours is opened, so that all are above the reserved ones; and
    // a handler gets its connection and nothing that skd was given by accident.
    let kept = ready_fd.iter().flat_map(ReadyFd::kept).map(AsFd::as_fd);
    let kept: Vec<_> = kept.chain(sockets.iter().map(AsFd::as_fd)).collect();
    let reserved = reserve(&kept, None)?;
    // The resolver may take long: nothing is held or changed yet, and INT still ends skd.
    let wanted = net::resolve_all(&service.listeners)?;
    // While files and users are in sight; a fault in them leaves no trace.
    let mut rules = RuleFiles::open_and_read(&service)?;
    // While its socket can be reached, and before it could be told of a start that fails.
    let mut manager = Manager::connect()?;
    // From here on there may be something to remove: signals wait until that can be done.
    signals::block();
    // Before anything is changed: of two daemons the second leaves no trace.
    let pidfile = lock_pidfile(daemon)?;
    // With the rights to low ports, and while the old root directory is there.
    let listeners = net::bind_all(&wanted, sockets)?;
    let log = Log::open(daemon.log.as_ref(), daemon.background)?;

    // While /proc and its path are in sight.
    let mut executable = Executable::find();

    let Some(ready) = split(daemon, manager.as_mut(), ready_fd)? else {
        process::exit_now(0);
    };
    // While the cgroup that limits them can be seen.
    let threads = threads(daemon, &service, &listeners);
    service_side(ready, |ready| {
        let mut log = log;
        let mut pidfile = pidfile;
        give_up_rights(daemon, &mut log)?;
        if daemon.supervise {
            let bound = Bound {
                listeners,
                manager,
                log,
                pidfile,
            };
            return hand_over(config, &service, files, bound, inherited, ready);
        }
        if daemon.root.is_some() {
            executable.iter_mut().for_each(Executable::entered_root);
            let files = rules.iter_mut().map(|(files, _)| files);
            files.for_each(RuleFiles::entered_root);
        }
        let mut ground = Ground::new(daemon, &service, files, reserved, threads, Method::probe)?;
        ground.rules = rules.map(|(files, list)| {
            let rules = Rules::new(list, ground.plan.variables());
            (rules, files)
        });
        let ports = publish(&mut pidfile, &listeners)?;
        let origin = Origin {
            executable,
            // Under a service manager there is no terminal that it could be about.
            hangup_ends: !daemon.background
                && manager.is_none()
                && !inherited.ignored(Signal::SIGHUP),
            files,
            identity: daemon.identity.clone(),
            pidfile,
        };
        // The last that is likely to fail. Threads are made here, and not before: the steps
        // above change the process as a whole.
        let saved = Saved::default();
        let mut running = ground.build(&service, listeners, log, manager, origin, saved)?;
        // Not before: whoever reads it may connect at once.
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

/// What a program that accepts connections itself is run with.
struct Bound {
    listeners: Vec<Listener>,
    manager: Option<Manager>,
    log: Log,
    /// The last to go.
    pidfile: Option<PidFile>,
}

/// Hands the sockets to the program, and keeps it running.
fn hand_over(
    config: &Config,
    service: &Service,
    files: Option<libc::rlimit>,
    mut bound: Bound,
    inherited: &Inherited,
    ready: &mut Option<Ready>,
) -> Result<u8, Error> {
    let daemon = &config.daemon;
    let surroundings = &service.surroundings;
    let variables = inherited_variables(daemon, surroundings).without_reserved();
    let role = Role::Supervised { terminal: false };
    let mut plan = Plan::new(&service.command, surroundings, &variables, role, files)?;
    let listeners = &bound.listeners;
    let sockets = listeners.iter();
    plan.pass_sockets(sockets.map(|listener| (listener.as_fd(), listener.name())))?;
    supervise::rehearse(&plan)?;
    let ports = publish(&mut bound.pidfile, listeners)?;
    let sockets = Sockets::new(listeners, daemon, bound.manager)?;
    announce(&ports)?;
    // Whoever reads the ports isn't kept waiting for PROG to close the pipe.
    bound.log.leave_terminal(true)?;
    bound.log.take_over()?;
    memory::return_freed();
    let kill_after = daemon.kill_after.map(Into::into);
    let log = bound.log;
    supervise::run(
        &plan,
        Some(sockets),
        kill_after,
        false,
        inherited,
        log,
        ready,
    )
}

/// Writes the pid file, by the process that has the id, and before anybody can connect; then
/// listens. Gives the ports to be announced.
fn publish(pidfile: &mut Option<PidFile>, listeners: &[Listener]) -> Result<Vec<u16>, Error> {
    write_pidfile(pidfile)?;
    for listener in listeners {
        listener.listen()?;
    }
    let ports = listeners.iter().filter_map(Listener::announced_port);
    Ok(ports.collect())
}

/// Takes over from another image of this process and goes on, or becomes that again.
fn resume(mut state: Box<State>, returned: bool) -> Result<u8, Error> {
    let originals = originals(&state)?;
    let mut running = match take_over(&mut state, &originals, returned) {
        Ok(running) => running,
        Err(error) if returned => return Err(error),
        Err(error) => {
            report::failure(&error);
            let errno = state.go_back(&originals);
            return Err(Error::start("the old skd can't go on", errno));
        }
    };
    memory::return_freed();
    // There is no further way back.
    running.keep_connections(originals);
    state.tell(returned);
    drop(state);
    Ok(running.run())
}

/// The descriptors that another image has left. What takes over works on copies.
fn originals(state: &State) -> Result<Vec<OwnedFd>, Error> {
    state.originals().map_err(not_left)
}

fn not_left(errno: Errno) -> Error {
    Error::start("what the running skd left can't be had", errno)
}

/// Makes ready all that another image has left. Whether or not that succeeds, nothing is closed,
/// removed, reaped or changed that the other needs to go on: it may be a trial.
fn take_over(
    state: &mut State,
    originals: &[OwnedFd],
    returned: bool,
) -> Result<serve::Daemon, Error> {
    let kept: Vec<_> = originals.iter().map(AsFd::as_fd).collect();
    let reserved = reserve(&kept, state.null(originals))?;
    let (config, service) = restored_config(state)?;
    let daemon = &config.daemon;
    report::set_verbosity(daemon.verbosity);
    let origin = state.origin(returned).map_err(not_left)?;
    let log = Log::restore(daemon.log.as_ref(), &state.log).map_err(not_left)?;
    let listeners: Vec<Listener> = state
        .listeners
        .drain(..)
        .map(Listener::restore)
        .collect::<Result<_, _>>()
        .map_err(not_left)?;
    // Executing a file can give back what was given up: it may be set-user-id by now, or have
    // capabilities.
    if let Some(identity) = &daemon.identity {
        privileges::drop_to(identity)?;
    }
    // What has come back goes on, if its handlers can't be prepared any more.
    let probe = if returned {
        Method::probe_without_steps
    } else {
        Method::probe
    };
    let (files, threads) = (origin.files, (state.threads, state.datagram_workers));
    let mut ground = Ground::new(daemon, &service, files, reserved, threads, probe)?;
    let common = ground.plan.variables();
    let rules = state.rules(&service, common, daemon.root.is_none());
    ground.rules = rules.map_err(not_left)?;
    let manager = state.manager().map_err(not_left)?;
    let saved = state.saved(returned).map_err(not_left)?;
    ground.build(&service, listeners, log, manager, origin, saved)
}

/// The command line of a running daemon, read again.
fn restored_config(state: &State) -> Result<(Config, Service), Error> {
    let known = cli::Known {
        identity: state.identity(),
    };
    let mut config = match cli::parse(std::env::args_os(), Some(known))? {
        Request::Run(config) => config,
        // A trial.
        Request::Check(config, faults) => match faults.into_iter().next() {
            None => config,
            Some(fault) => return Err(fault),
        },
        Request::Explain(..) | Request::Print(_) => {
            return Err(Error::Start("there is nothing to take over".into()));
        }
    };
    match config.services.pop() {
        Some(service) => Ok((*config, service)),
        None => Err(Error::Start("there is no service to take over".into())),
    }
}

/// What handlers are made from, as the user that they will be, in the root directory where they
/// will be.
struct Ground {
    reserved: Reserved,
    threads: usize,
    datagram_workers: usize,
    plan: Plan,
    method: Method,
    /// How long handlers are waited for at the end, if they are.
    drain_timeouts: Option<DrainTimeouts>,
    /// What handlers of connections are held to.
    limits: Option<TimeLimits>,
    /// Who may come in, if not everybody.
    rules: Option<(Rules, RuleFiles)>,
}

impl Ground {
    /// What must fail for each handler fails here, once.
    fn new(
        daemon: &Daemon,
        service: &Service,
        files: Option<libc::rlimit>,
        reserved: Reserved,
        (threads, datagram_workers): (usize, usize),
        probe: fn(&Plan, Low) -> Result<Method, Error>,
    ) -> Result<Self, Error> {
        // One for each thread that starts handlers, for the main thread, and where some are started
        // ahead for the one that does that.
        let low =
            reserved.low(threads + datagram_workers + 1 + usize::from(service.prestart.is_some()));
        let low = low.ok_or_else(|| Error::Start("too many threads".into()))?;
        let surroundings = &service.surroundings;
        let variables = inherited_variables(daemon, surroundings).without_reserved();
        let plan = Plan::new(
            &service.command,
            surroundings,
            &variables,
            Role::Handler,
            files,
        )?;
        Ok(Self {
            reserved,
            threads,
            datagram_workers,
            method: probe(&plan, low)?,
            plan,
            drain_timeouts: daemon.drain.map(|drain| DrainTimeouts {
                drain,
                kill_after: daemon.kill_after.unwrap_or(KILL_AFTER),
            }),
            limits: TimeLimits::of(daemon, service),
            rules: None,
        })
    }

    fn build(
        self,
        service: &Service,
        listeners: Vec<Listener>,
        log: Log,
        manager: Option<Manager>,
        origin: Origin,
        saved: Saved,
    ) -> Result<serve::Daemon, Error> {
        let service = serve::Prepared {
            name: service.name.clone(),
            plan: self.plan,
            listeners,
            wait: service.wait,
            datagrams: service.datagrams,
            min_source_port: service.min_source_port,
            max_clients: service.max_clients,
            admission: service.admission.clone(),
            prestart: service.prestart,
            limits: self.limits,
            linger: service.admission.linger,
            rules: self.rules,
        };
        let resources = Resources {
            method: self.method,
            threads: self.threads,
            datagram_workers: self.datagram_workers,
            reserved: self.reserved,
            log,
            manager,
            origin,
            saved,
            drain_timeouts: self.drain_timeouts,
        };
        serve::Daemon::new(vec![service], resources)
    }
}

/// Occupies the low descriptors, and closes what was inherited but for what is `kept`.
fn reserve(kept: &[BorrowedFd<'_>], null: Option<&OwnedFd>) -> Result<Reserved, Error> {
    Reserved::take(MOST_THREADS + 2, kept, null)
        .map_err(|reason| Error::start("the low descriptors can't be reserved", reason))
}

/// Runs a program without a listener: becomes it, or supervises it.
fn run_program(config: &Config, service: &Service, inherited: &Inherited) -> Result<u8, Error> {
    let daemon = &config.daemon;
    let ready_fd = daemon.ready_fd.map(ReadyFd::claim).transpose()?;
    // PROG says itself that it is ready; but who the main process is, is for the old one to say.
    let mut manager = match daemon.background {
        true => Manager::connect()?,
        false => None,
    };
    let started = std::process::id();
    // As above; a program that replaces skd gets what has arrived meanwhile.
    signals::block();
    let pidfile = lock_pidfile(daemon)?;
    let log = Log::open(daemon.log.as_ref(), daemon.background)?;
    let Some(ready) = split(daemon, manager.as_mut(), ready_fd)? else {
        process::exit_now(0);
    };
    drop(manager);
    service_side(ready, |ready| {
        let mut log = log;
        let mut pidfile = pidfile;
        give_up_rights(daemon, &mut log)?;
        let surroundings = &service.surroundings;
        let program = (!daemon.supervise).then(std::process::id);
        let variables =
            inherited_variables(daemon, surroundings).with_watchdog_for(program, started);
        let terminal = daemon.supervise && supervise::has_terminal();
        let role = if daemon.supervise {
            Role::Supervised { terminal }
        } else {
            Role::InPlace
        };
        let plan = Plan::new(&service.command, surroundings, &variables, role, None)?;
        if daemon.supervise {
            supervise::rehearse(&plan)?;
        }
        write_pidfile(&mut pidfile)?;
        log.leave_terminal(false)?;
        log.take_over()?;
        if daemon.supervise {
            let kill_after = daemon.kill_after.map(Into::into);
            return supervise::run(&plan, None, kill_after, terminal, inherited, log, ready);
        }
        if let Some(pidfile) = &pidfile {
            pidfile
                .bequeath()
                .map_err(|reason| Error::start("--pidfile can't be handed on", reason))?;
        }
        become_program(&plan, log, ready, inherited)
    })
}

fn lock_pidfile(daemon: &Daemon) -> Result<Option<PidFile>, Error> {
    daemon.pidfile.as_deref().map(PidFile::lock).transpose()
}

fn write_pidfile(pidfile: &mut Option<PidFile>) -> Result<(), Error> {
    match pidfile {
        Some(pidfile) => pidfile.write(std::process::id()),
        None => Ok(()),
    }
}

/// Forks a witness where one is needed, while there is one thread. Gives the service's side
/// its word to the witness, and the witness of a success `None`; that of a failure has an
/// error that was told, and removes what it holds, with rights that the service may have
/// given up.
fn split(
    daemon: &Daemon,
    manager: Option<&mut Manager>,
    ready_fd: Option<ReadyFd>,
) -> Result<Option<Ready>, Error> {
    let drops = daemon.identity.is_some() || daemon.root.is_some();
    let side = match (daemon.background, drops) {
        (true, _) => Ready::in_background(manager),
        (false, true) => Ready::with_launcher(),
        (false, false) => Ready::alone(),
    };
    match side? {
        Side::Service(mut ready) => {
            ready.tell_descriptor(ready_fd);
            Ok(Some(ready))
        }
        Side::Launcher(0) => Ok(None),
        Side::Launcher(status) => Err(Error::Told(status)),
    }
}

/// Runs the rest of the start; if it fails, says so to the caller, when all that it made
/// has been removed as far as that is still allowed.
fn service_side(
    ready: Ready,
    rest: impl FnOnce(&mut Option<Ready>) -> Result<u8, Error>,
) -> Result<u8, Error> {
    let mut ready = Some(ready);
    match (rest(&mut ready), ready) {
        (Err(error), Some(ready)) => {
            ready.failed(&error);
            Err(match error {
                Error::Ended(_) => error,
                _ => Error::Told(error.status()),
            })
        }
        (result, _) => result,
    }
}

/// Starts the relay to syslog, which stays in the old root directory; then leaves that, then
/// root: in this order, for each needs the rights that the next takes away.
fn give_up_rights(daemon: &Daemon, log: &mut Log) -> Result<(), Error> {
    log.start_relay(daemon.identity.as_ref())?;
    if let Some(root) = &daemon.root {
        privileges::enter_root(root)?;
    }
    match &daemon.identity {
        Some(identity) => privileges::drop_to(identity),
        None => Ok(()),
    }
}

fn inherited_variables(daemon: &Daemon, surroundings: &Surroundings) -> Variables {
    let account = daemon.identity.as_ref().map(|identity| &identity.account);
    Variables::inherited(account, &surroundings.environment)
}

/// Prints the ports that the kernel chose.
fn announce(ports: &[u16]) -> Result<(), Error> {
    for port in ports {
        report::answer(&format!("{port}\n"))
            .map_err(|reason| Error::start("the port can't be printed", reason))?;
    }
    Ok(())
}

/// How many threads accept connections, and how many receive datagrams.
fn threads(daemon: &Daemon, service: &Service, listeners: &[Listener]) -> (usize, usize) {
    let stream = |listener: &Listener| listener.style().has_connections();
    let datagram = |listener: &Listener| !listener.style().has_connections();
    let acceptors = match !service.wait && listeners.iter().any(stream) {
        true => serve::acceptors(daemon.threads),
        false => 0,
    };
    let datagram_workers = match listeners.iter().any(datagram) {
        true => serve::datagram_workers(service.datagrams, daemon.threads, acceptors),
        false => 0,
    };
    (acceptors, datagram_workers)
}

/// Becomes the program; comes back only with the reason why not.
fn become_program(
    plan: &Plan,
    log: Log,
    ready: &mut Option<Ready>,
    inherited: &Inherited,
) -> Result<u8, Error> {
    let explain = |stage, errno| plan.explain(stage, errno).to_string();
    child::prepare(plan.steps()).map_err(|(stage, errno)| Error::Start(explain(stage, errno)))?;
    if let Some(signal) = inherited.awaits_end() {
        return Err(Error::Ended(signal));
    }
    // All has been done that is likely to fail. Afterwards nobody may have the right to remove
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
