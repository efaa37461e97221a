//! Continuing as the successor of another process, with what that has left: after an upgrade, or after
//! files were read again.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;

use crate::child::{Jail, Method, Plan, watch_births};
use crate::cli::{Known, LookedUp};
use crate::config::{
    self, Config, Endpoint, FileTexts, Host, Identity, Listen, Mode, Service, ServiceText, Style,
};
use crate::error::Error;
use crate::net::{self, Binding, KeptListeners, Listener, ListenerAddress, Resolved};
use crate::report::{self, Difference, Event, TlsTrouble, Trouble};
use crate::serve::upgrade::{Findings, SavedService, Settings, State};
use crate::serve::{BoundControl, Daemon, Origin, Prepared, Resources, Rules, TlsKeeper};
use crate::setup::cgroups::{self, Base};
use crate::setup::{RuleFiles, TlsFiles, privileges};
use crate::sys::capabilities::Capabilities;
use crate::sys::{memory, process};

use super::contain;
use super::prepare::{
    Confinements, Ground, Threads, confinements, environment_files, filter_files, filter_socket,
    reserve,
};
use super::process::{refuse, user_and_root};
use super::tls;

/// What continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A child that only says whether it could.
    Preflight,
    /// The process itself, after a preflight.
    Successor,
    /// The old binary again, since the successor failed.
    Return,
}

/// Says whether this binary could go on with the state, and ends. If it can't, the skd that wants to
/// know is told why.
pub(super) fn try_out(
    mut state: Box<State>,
    configure: impl FnMut(Known) -> Result<Config, Error>,
) -> Result<u8, Error> {
    let mut originals = originals(&state)?;
    let count = originals.len();
    let Err(error) = try_to_go_on(&mut state, &mut originals, configure);
    // If descriptors are short, that is to be told, too.
    originals.truncate(count);
    if !matches!(error, Error::Told(_)) {
        report::failure(&error);
    }
    state.write_faults(report::failures());
    Err(Error::Told(error.status()))
}

fn try_to_go_on(
    state: &mut State,
    originals: &mut Vec<OwnedFd>,
    mut configure: impl FnMut(Known) -> Result<Config, Error>,
) -> Result<Infallible, Error> {
    originals.extend(state.take_spare().map_err(|errno| {
        Error::start(
            "there are too few descriptors for the open connections",
            errno,
        )
    })?);
    // In another root directory files and names are others: what is known has to do.
    let reads = state.texts().is_some() && !state.is_in_root();
    let names = reads.then(Rc::default);
    let known = match reads {
        true => Known {
            names: names.clone(),
            ..Known::default()
        },
        false => known_before(state),
    };
    let config = configure(known)?;
    let mut findings = reads.then(Findings::default);
    let mut taking = TakingOver {
        state,
        originals,
        configure: &mut configure,
        stage: Stage::Preflight,
        findings: findings.as_mut(),
        names,
    };
    let (mut running, _) = taking.take_over(config)?;
    let accepted = state.accept(findings.as_ref());
    accepted.map_err(|reason| Error::start("the running skd can't be told", reason))?;
    // What a new service has bound is bound again by the next process.
    running.remove_files();
    // At once: threads run, and what it has is the running skd's.
    process::exit_now(0)
}

/// Goes on with the state of another binary of this process, or becomes that again.
pub(super) fn go_on(
    mut state: Box<State>,
    mut configure: impl FnMut(Known) -> Result<Config, Error>,
    returned: bool,
) -> Result<u8, Error> {
    let originals = originals(&state)?;
    let mut findings = state.take_findings();
    let names = findings
        .as_mut()
        .map(|findings| std::mem::take(&mut findings.names));
    let names = names.map(RefCell::new).map(Rc::new);
    let known = match &mut findings {
        Some(findings) => Known {
            names: names.clone(),
            identities: findings.identities.clone(),
            texts: Some(std::mem::take(&mut findings.texts)),
            environment_files: std::mem::take(&mut findings.environment_files),
            filter_files: std::mem::take(&mut findings.filter_files),
        },
        None => known_before(&state),
    };
    let config = configure(known);
    let mut taking = TakingOver {
        state: &mut state,
        originals: &originals,
        configure: &mut configure,
        stage: match returned {
            true => Stage::Return,
            false => Stage::Successor,
        },
        findings: findings.as_mut(),
        names,
    };
    let running = config.and_then(|config| taking.take_over(config));
    let (mut running, difference) = match running {
        Ok(running) => running,
        Err(error) if returned => return Err(error),
        Err(error) => {
            if !matches!(error, Error::Told(_)) {
                report::failure(&error);
            }
            state.write_faults(report::failures());
            let errno = state.go_back(&originals);
            return Err(Error::start("the old skd can't go on", errno));
        }
    };
    memory::return_freed();
    // There is no further way back.
    running.keep_descriptors(originals);
    // A reader of the line finds things as it says.
    running.take_possession();
    running.conclude(&state, difference, returned);
    drop(state);
    drop(findings);
    Ok(running.run())
}

/// What the process before this one knew.
fn known_before(state: &State) -> Known {
    Known {
        identities: state.identities(),
        texts: state.texts().cloned(),
        environment_files: state.environment_files(),
        filter_files: state.filter_files(),
        names: None,
    }
}

/// The descriptors that another binary has left. What goes on works on copies.
fn originals(state: &State) -> Result<Vec<OwnedFd>, Error> {
    state.originals().map_err(not_left)
}

fn not_left(errno: Errno) -> Error {
    let what = "what the running skd left can't be had";
    match errno {
        Errno::EMFILE => Error::Start(format!(
            "{what}: {}; an upgrade has two descriptors for each listener and each connection: raise \
             the limits of open files of the running skd (prlimit --nofile), or start it again with \
             more",
            errno.desc()
        )),
        errno => Error::start(what, errno),
    }
}

/// What is taken over, and how.
struct TakingOver<'a> {
    state: &'a mut State,
    originals: &'a [OwnedFd],
    configure: &'a mut dyn FnMut(Known) -> Result<Config, Error>,
    stage: Stage,
    /// Where services come from files: what a preflight notes, and a successor uses.
    findings: Option<&'a mut Findings>,
    /// What names stand for, where they are looked up.
    names: Option<Rc<RefCell<LookedUp>>>,
}

/// What the process before has left, by its services.
struct Left {
    services: Vec<Option<SavedService>>,
    /// Those that have listeners, and were configured.
    by_name: HashMap<String, usize>,
    listeners: KeptListeners,
    /// The addresses of each service.
    addresses: Vec<HashSet<ListenerAddress>>,
}

/// A service that isn't configured any more, or not on these listeners, and serves its last clients.
struct Retiring {
    /// Its index among the services that are left.
    left: usize,
    text: Arc<ServiceText>,
    /// Whether it was configured until now.
    is_new: bool,
    listeners: Vec<Listener>,
}

impl TakingOver<'_> {
    /// Makes ready all that another process has left. Whether or not that succeeds, nothing is closed,
    /// removed, reaped or changed that the other needs to go on: this may be a preflight.
    fn take_over(&mut self, config: Config) -> Result<(Daemon, Option<Difference>), Error> {
        let Config {
            daemon,
            mut services,
            texts,
        } = config;
        let returned = self.stage == Stage::Return;
        net::check::files(services.iter().map(|service| &service.listeners[..]))?;
        self.refuse_fixed(&Settings::of(&daemon), texts.as_ref())?;
        let mut left = self.left();
        let fds: Vec<_> = self.originals.iter().map(AsFd::as_fd).collect();
        let retiring = texts.as_ref().map_or(0, |_| left.services.len());
        let null = self.state.null(self.originals);
        let mut reserved = reserve(&services, retiring, &fds, null)?;
        report::set_verbosity(daemon.verbosity);
        report::set_lines(&daemon);
        let mut origin = self.state.origin(&daemon, returned).map_err(not_left)?;
        let mut confined = confinements(&services, &mut reserved)?;
        let filter_socket = filter_socket(&services, &mut reserved)?;
        self.groups(&mut origin.groups, &daemon, &services)?;
        let log = self.state.log(&daemon).map_err(not_left)?;
        // Executing a file gives back what was given up, if skd is root, or if the file is set-user-id
        // or has capabilities by now. The configuration may be another one, but the user that the
        // process has become can't change.
        if origin.identity.is_none() {
            origin.identity.clone_from(&daemon.identity);
        }
        if let Some(identity) = &origin.identity {
            privileges::drop_to(identity)?;
        }
        // With the rights that binding new sockets takes, as at a start.
        let mut listeners = self.listeners(&services, &mut left)?;
        let same = self.unchanged(&services, &listeners, &left);
        let difference = self.difference(texts.as_ref(), &same);
        let configured = services.len();
        let (retiring, closed) = self.retire(&services, &mut listeners, &mut left)?;
        let mut retired = Vec::new();
        let mut closed = closed;
        // They were configured together. Each by itself takes much longer.
        let new = retiring.iter().filter(|it| it.is_new);
        let new = self.retiring_services(new.map(|it| Arc::clone(&it.text)).collect());
        let mut new: HashMap<_, _> = new
            .unwrap_or_default()
            .into_iter()
            .map(|service| (service.name.clone(), service))
            .collect();
        for mut it in retiring {
            let known = new.remove(&it.text.name).filter(|_| it.is_new);
            let service = match known {
                Some(service) => Ok(service),
                None => self.retiring_service(&it.text),
            };
            let confine = |mut service: Service| {
                service.prestart = None;
                let own = |directory| reserved.own(directory);
                let confinement = user_and_root(&service, own)?;
                Ok((service, confinement))
            };
            match service.and_then(confine) {
                Ok((service, confinement)) => {
                    services.push(service);
                    confined.push(confinement);
                    listeners.push(std::mem::take(&mut it.listeners));
                    retired.push(it);
                }
                // It can't be served any more.
                Err(_) => closed.append(&mut it.listeners),
            }
        }
        let tls = self.found_tls(&services, configured, &daemon)?;
        if origin.identity.is_none() {
            privileges::keep_needed(&services, Capabilities::NONE)?;
        }
        origin.users = users(&services);
        origin.environment_files = environment_files(&services);
        origin.filter_files = filter_files(&services);
        let threads = Threads::new(&daemon, &services, &listeners);
        let threads = (threads, daemon.threads);
        let threads = self.threads(threads, &services[..configured], &same, &left);
        let ground = Ground {
            daemon: &daemon,
            files: origin.files,
            low: threads.low(&services, &reserved)?,
            // What has come back goes on, if its handlers can't be prepared any more.
            probe: match returned {
                true => Method::probe_without_steps,
                false => Method::probe,
            },
            filter_socket: filter_socket.as_ref().map(|it| Arc::clone(&it.theirs)),
        };
        let mut groups = match self.stage {
            Stage::Preflight => services.iter().map(|_| None).collect(),
            Stage::Successor | Stage::Return => {
                contain::service_groups(&mut origin.groups, &daemon, &services)?
            }
        };
        // A preflight makes no groups.
        let has_groups = self.stage == Stage::Preflight
            && (origin.groups.is_some() || cgroups::check(&services).is_ok());
        if !has_groups {
            // A preflight has the same log.
            let is_told = self.stage != Stage::Preflight;
            contain::choose(&ground, &mut services, &mut groups, &confined, is_told)?;
        }
        let (plans, method) = self.plans(&ground, (&services, configured), confined.clone())?;
        let mut gates = ground.gates(&services, &confined).into_iter();
        let asks = daemon.root.is_none();
        // Before a service of the same name takes what is left.
        let gone = services[configured..].iter().zip(&plans[configured..]);
        let gone = gone.zip(&retired).map(|((config, plan), it)| {
            let (plan, _) = plan.as_ref().ok_or_else(|| vec![Error::Told(1)])?;
            saved_rules(config, plan, left.services[it.left].as_mut(), asks)
        });
        let mut rules_of_gone = gone.collect::<Vec<_>>().into_iter();
        let mut prepared = Vec::new();
        let mut faults = Vec::new();
        let parts = plans.into_iter().zip(listeners);
        let parts = parts.zip(threads.datagram_workers);
        let parts = services.into_iter().zip(groups).zip(parts);
        for (index, ((config, cgroups), ((plan, mut listeners), workers))) in parts.enumerate() {
            let (plan, jail) = plan.unzip();
            let retiring = index.checked_sub(configured).map(|index| &retired[index]);
            let owner = match retiring {
                None => left.by_name.get(&config.name).copied(),
                Some(retiring) => Some(retiring.left),
            };
            let saved = owner.and_then(|owner| left.services[owner].as_mut());
            let rules = match (&plan, retiring) {
                (Some(plan), None) => self.rules(&config, plan, saved, asks),
                (_, Some(_)) => rules_of_gone.next().unwrap_or(Ok(None)),
                (None, None) => Err(vec![Error::Told(1)]),
            };
            let gate = gates.next().unwrap_or(Ok(None));
            let (plan, gate, rules) = match (plan, gate, rules) {
                (Some(plan), Ok(gate), Ok(rules)) => (plan, gate, rules),
                _ if retiring.is_some() => {
                    closed.append(&mut listeners);
                    continue;
                }
                (_, Err(fault), _) => {
                    faults.push(fault);
                    continue;
                }
                (_, _, Err(more)) => {
                    let label = config.label();
                    faults.extend(more.into_iter().map(|fault| fault.about(&label)));
                    continue;
                }
                (None, ..) => continue,
            };
            // The handlers of a service that stays are its own, whatever becomes of a listener.
            let is_owner = retiring.is_none() || !left.by_name.contains_key(&config.name);
            let saved = owner.filter(|_| is_owner);
            let saved = saved.and_then(|owner| left.services[owner].take());
            let restored = saved.map(|saved| saved.restore(returned)).transpose();
            prepared.push(Prepared {
                config,
                plan,
                jail: jail.flatten(),
                cgroups,
                gate,
                listeners,
                rules,
                datagram_workers: match retiring {
                    // A worker that finds no datagram knows that none is in another's hands.
                    Some(_) => workers.min(1),
                    None => workers,
                },
                restored: restored.map_err(not_left)?,
                retiring: retiring.map(|it| Arc::clone(&it.text)),
            });
        }
        refuse(faults)?;
        origin.settings = Settings::of(&daemon);
        self.note(texts.as_ref(), &origin);
        origin.texts = texts;
        let removed = left.services.into_iter().flatten();
        let mut restored = self.state.rest(removed, returned).map_err(not_left)?;
        let control = self.control(daemon.control.is_some(), &mut closed)?;
        // The last that is likely to fail, for what it has loaded stays loaded.
        let tls = self.tls(tls, &daemon, &origin)?;
        restored.closed = closed;
        let resources = Resources {
            method,
            stream_workers: threads.stream_workers,
            reserved,
            filter_socket,
            log,
            manager: self.state.manager().map_err(not_left)?,
            origin,
            control,
            tls,
            restored,
        };
        Ok((Daemon::new(prepared, resources)?, difference))
    }

    /// Takes what serves TLS from what is left, and opens its files, those of services too that aren't
    /// configured any more, if that can be.
    fn found_tls(
        &mut self,
        services: &[Service],
        configured: usize,
        daemon: &config::Daemon,
    ) -> Result<FoundTls, Error> {
        let keeper = self.state.tls().map_err(not_left)?;
        let before = keeper.as_ref().and_then(TlsKeeper::files);
        if self.stage == Stage::Return {
            return Ok((keeper, before));
        }
        let in_root = self.state.is_in_root();
        let (configured, gone) = services.split_at(configured);
        let has_tls = |service: &Service| service.tls.is_some();
        let is_new_name = |gone: &Service| configured.iter().all(|it| it.name != gone.name);
        let all = gone.iter().all(is_new_name).then_some(services);
        let all = all.filter(|_| gone.iter().any(has_tls));
        if let Some(Ok(Some(files))) = all.map(|all| TlsFiles::open(all, daemon)) {
            return Ok((keeper, Some(files.into())));
        }
        // These may be found where the root directory of the process is another by now.
        let same = before.filter(|it| it.are_of(configured, daemon, in_root));
        let opened = match same {
            None => TlsFiles::open(configured, daemon)?.map(Arc::new),
            Some(before) => match before.open_again() {
                Ok(files) => Some(files.into()),
                Err(faults) if self.state.is_reload() => {
                    refuse(faults)?;
                    None
                }
                // The user that the process has become may not read keys.
                Err(faults) => {
                    if self.stage == Stage::Successor {
                        let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
                        let faults = faults.join("; ");
                        let trouble = TlsTrouble::NotLoaded(&faults);
                        report::event(Event::Trouble(Trouble::Tls(trouble)));
                    }
                    Some(before)
                }
            },
        };
        Ok((keeper, opened))
    }

    /// Has what serves TLS go on with these files. A preflight tries that with a process of its own.
    fn tls(
        &self,
        (keeper, files): FoundTls,
        daemon: &config::Daemon,
        origin: &Origin,
    ) -> Result<Option<TlsKeeper>, Error> {
        let executable = origin.executable.as_ref();
        let Some(files) = files else {
            return Ok(keeper.map(|mut keeper| {
                keeper.retire_all();
                keeper
            }));
        };
        let new = |files| {
            let mut new = tls::keeper(files, daemon, executable)?;
            new.start(None)?;
            new.wait()?;
            Ok::<_, Error>(new)
        };
        match (keeper, self.stage) {
            (None, Stage::Return) => Ok(None),
            (Some(mut keeper), Stage::Return) => {
                // That which couldn't go on may have had it load others.
                keeper.load_again();
                Ok(Some(keeper))
            }
            (None, Stage::Preflight) => new(files).map(|_| None),
            (Some(keeper), Stage::Preflight) => {
                let mut next = keeper.preflight(Arc::clone(&files))?;
                tls::renew(&mut next, daemon, executable)?;
                next.start(None)?;
                next.wait()?;
                Ok(Some(keeper))
            }
            (None, Stage::Successor) => new(files).map(Some),
            (Some(mut keeper), Stage::Successor) => {
                match self.state.is_reload() {
                    true => keeper.load_and_wait(files)?,
                    false => {
                        let renewed = tls::renew(&mut keeper, daemon, executable);
                        keeper.replace_running(files, renewed)?;
                    }
                }
                Ok(Some(keeper))
            }
        }
    }

    /// Makes the base group if the process before had none and one is needed now, or sees to it that it
    /// is enough.
    fn groups(
        &self,
        base: &mut Option<Base>,
        daemon: &config::Daemon,
        services: &[Service],
    ) -> Result<(), Error> {
        match (base, self.stage) {
            (Some(base), Stage::Preflight) => base.check(services),
            (Some(base), Stage::Successor | Stage::Return) => base.require(services),
            (None, Stage::Preflight) => match services.iter().any(|it| it.isolation.needs_cgroup())
            {
                true => cgroups::check(services),
                false => Ok(()),
            },
            (base, Stage::Successor | Stage::Return) => {
                *base = contain::make_groups(daemon, services)?;
                Ok(())
            }
        }
    }

    /// Takes the control socket from what is left, or has it closed if there is to be none.
    fn control(
        &mut self,
        is_wanted: bool,
        closed: &mut Vec<Listener>,
    ) -> Result<Option<BoundControl>, Error> {
        let control = self.state.control(self.stage == Stage::Return)?;
        match (is_wanted, control) {
            (true, None) => Err(Error::Start(
                "--control: the running skd has no control socket, and one can't be added to it; \
                 restart skd"
                    .into(),
            )),
            (true, control) => Ok(control),
            (false, control) => {
                closed.extend(control.map(BoundControl::into_listener));
                Ok(None)
            }
        }
    }

    /// Sorts what is left.
    fn left(&mut self) -> Left {
        let mut left = Left {
            services: Vec::new(),
            by_name: HashMap::new(),
            listeners: KeptListeners::default(),
            addresses: Vec::new(),
        };
        for (index, mut service) in self.state.take_services().into_iter().enumerate() {
            let (listeners, files) = service.take_listeners();
            // Without listeners, and not done, it was removed by an earlier upgrade, and has left nothing
            // but its handlers: when it is configured again it is a new service.
            let listens = service.is_done() || !listeners.is_empty();
            if service.retiring().is_none() && listens {
                left.by_name.insert(service.name().to_owned(), index);
            }
            let addresses = listeners.iter().filter(|it| !it.is_retiring());
            left.addresses
                .push(addresses.map(|it| it.address().clone()).collect());
            let files = left.listeners.add(index, listeners, files);
            service.give_files(files);
            left.services.push(Some(service));
        }
        left
    }

    /// Refuses changes of what only a start can do.
    fn refuse_fixed(&self, new: &Settings, texts: Option<&FileTexts>) -> Result<(), Error> {
        if self.stage != Stage::Preflight || self.findings.is_none() {
            return Ok(());
        }
        let Some(old) = self.state.settings() else {
            return Ok(());
        };
        let faults = old.fixed(new).map(|(option, what)| {
            let mut written = texts.iter().flat_map(|texts| &texts.daemon);
            let written = written.find(|it| it.name == option);
            let location = written.map(|it| format!("{}: ", it.location));
            Error::Usage(format!(
                "{}[daemon] {} has changed, and a running skd can't have {what}: restart skd, or \
                 change it back",
                location.unwrap_or_default(),
                // As it is called in files.
                option.strip_prefix("daemon-").unwrap_or(option)
            ))
        });
        refuse(faults.collect())
    }

    /// Takes the listeners of all configured services from what is left, by their addresses, and binds
    /// the others.
    fn listeners(
        &mut self,
        services: &[Service],
        left: &mut Left,
    ) -> Result<Vec<Vec<Listener>>, Error> {
        let mut faults = Vec::new();
        let mut all = Vec::new();
        for service in services {
            let owner = left.by_name.get(&service.name).copied();
            let saved = owner.and_then(|owner| left.services[owner].as_mut());
            let was_done = saved.as_ref().is_some_and(|saved| saved.is_done());
            if saved.is_some_and(|saved| saved.stays_done(service)) {
                all.push(Vec::new());
                continue;
            }
            // It has no listeners, so that it may listen again is to bind.
            let owner = owner.filter(|_| !was_done);
            let found = self.listeners_of(service, owner, &mut left.listeners);
            all.push(found.unwrap_or_else(|fault| {
                faults.push(fault.about(&service.label()));
                Vec::new()
            }));
        }
        refuse(faults)?;
        Ok(all)
    }

    fn listeners_of(
        &mut self,
        service: &Service,
        owner: Option<usize>,
        kept: &mut KeptListeners,
    ) -> Result<Vec<Listener>, Error> {
        let has_name = |listen: &Listen| match &listen.endpoint {
            Endpoint::Inet { host, .. } => matches!(host, Host::Name(_)),
            Endpoint::Unix { .. } | Endpoint::Inherited { .. } => false,
        };
        // Without files, nothing is looked up again, and sockets stay as they are.
        let stays = self.findings.is_none() || self.stage == Stage::Return;
        if let Some(owner) = owner.filter(|_| stays) {
            return kept.take_all_of(owner, self.stage == Stage::Return);
        }
        let mut wanted = Vec::new();
        for (index, listen) in service.listeners.iter().enumerate() {
            let key = || (service.name.clone(), index);
            wanted.push(match (&mut self.findings, self.stage) {
                (Some(findings), Stage::Successor) if has_name(listen) => {
                    let addresses = findings.addresses.remove(&key());
                    Resolved::known(listen, addresses.unwrap_or_default())
                }
                (Some(findings), _) => {
                    let resolved = Resolved::of(listen)?;
                    if let Some(addresses) = resolved.looked_up() {
                        findings.addresses.insert(key(), addresses.to_vec());
                    }
                    resolved
                }
                (None, _) => Resolved::of(listen)?,
            });
        }
        let binding = Binding {
            datagrams: service.datagrams,
            // Clients wait for a successor. A moment ago the preflight had the lock.
            lock_timeout: match self.stage {
                Stage::Preflight => net::LOCK_TIMEOUT,
                Stage::Successor | Stage::Return => Duration::ZERO,
            },
            only_check: self.stage == Stage::Preflight,
        };
        kept.take(&wanted, owner, binding)
    }

    /// Returns for each configured service whether nothing about it has changed.
    fn unchanged(
        &self,
        services: &[Service],
        listeners: &[Vec<Listener>],
        left: &Left,
    ) -> Vec<bool> {
        let texts = self.state.texts().map(|texts| &texts.services);
        let texts = texts.into_iter().flatten();
        let old: HashMap<&str, &Arc<ServiceText>> =
            texts.map(|text| (text.name.as_str(), text)).collect();
        let identities = self.state.identities().into_iter();
        let identities: HashMap<_, _> = identities.map(|it| (it.name.clone(), it)).collect();
        let variables = self.state.environment_files();
        let filters = self.state.filter_files();
        let is_same = |(service, listeners): (&Service, &Vec<Listener>)| {
            let Some(owner) = left.by_name.get(&service.name) else {
                return false;
            };
            let text = match (&service.text, old.get(service.name.as_str())) {
                (Some(new), Some(old)) => new.means_the_same_as(old),
                (None, None) => true,
                _ => false,
            };
            let user = service.identity.as_ref();
            let user = user.is_none_or(|user| identities.get(&user.name) == Some(user));
            let read = &service.surroundings.environment_files;
            let user = user && read.iter().all(|file| variables.contains(file));
            let list = service.isolation.filter_file();
            let user = user && list.is_none_or(|file| filters.contains(file));
            let now: HashSet<_> = listeners.iter().map(Listener::address).collect();
            text && user && now == left.addresses[*owner]
        };
        services.iter().zip(listeners).map(is_same).collect()
    }

    /// Counts what is different, where services come from files.
    fn difference(&self, new: Option<&FileTexts>, same: &[bool]) -> Option<Difference> {
        let (new, old) = (new?, self.state.texts()?);
        let names = |texts: &FileTexts| -> HashSet<String> {
            let texts = texts.services.iter();
            texts.map(|text| text.name.clone()).collect()
        };
        let (new, old) = (names(new), names(old));
        let unchanged = same.iter().filter(|same| **same).count();
        Some(Difference {
            added: new.difference(&old).count(),
            removed: old.difference(&new).count(),
            changed: new.intersection(&old).count().saturating_sub(unchanged),
            unchanged,
        })
    }

    /// Decides what becomes of listeners that nothing wants any more. Those of a service that stays are
    /// given back to it, for their last clients. Returns what services that are gone go on with, and
    /// the listeners that are closed at once.
    fn retire(
        &self,
        services: &[Service],
        listeners: &mut [Vec<Listener>],
        left: &mut Left,
    ) -> Result<(Vec<Retiring>, Vec<Listener>), Error> {
        let by_name = services.iter().enumerate();
        let by_name: HashMap<&str, usize> = by_name
            .map(|(index, service)| (service.name.as_str(), index))
            .collect();
        let mut groups: BTreeMap<usize, Vec<Listener>> = BTreeMap::new();
        let mut closed = Vec::new();
        for (owner, mut listener) in left.listeners.take_rest()? {
            let name = left.services[owner].as_ref().map(SavedService::name);
            let name = name.filter(|name| left.by_name.get(*name) == Some(&owner));
            let stays = name.and_then(|name| by_name.get(name).copied());
            // Another program serves its clients.
            if listener.is_inherited() && self.stage != Stage::Return {
                closed.push(listener);
                continue;
            }
            listener.retire();
            match stays.filter(|index| may_serve(&services[*index], &listener)) {
                Some(index) => listeners[index].push(listener),
                None => groups.entry(owner).or_default().push(listener),
            }
        }
        let texts = self.state.texts().map(|texts| &texts.services);
        let texts = texts.into_iter().flatten();
        let texts: HashMap<&str, _> = texts.map(|text| (text.name.as_str(), text)).collect();
        let mut retiring = Vec::new();
        for (owner, mut listeners) in groups {
            let saved = left.services[owner].as_ref();
            let earlier = saved.and_then(SavedService::retiring);
            let text = earlier.or_else(|| texts.get(saved?.name()).copied());
            match text {
                Some(text) => retiring.push(Retiring {
                    left: owner,
                    text: Arc::clone(text),
                    is_new: earlier.is_none(),
                    listeners,
                }),
                // Of a command line, nothing says how they were served.
                None => closed.append(&mut listeners),
            }
        }
        Ok((retiring, closed))
    }

    /// Reads the text of a service that isn't configured any more.
    fn retiring_service(&mut self, text: &Arc<ServiceText>) -> Result<Service, Error> {
        let service = self.retiring_services(vec![Arc::clone(text)])?.pop();
        service.ok_or_else(|| Error::Start("there is no service".into()))
    }

    /// Reads the texts of services that aren't configured any more, and were together.
    fn retiring_services(&mut self, texts: Vec<Arc<ServiceText>>) -> Result<Vec<Service>, Error> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let daemon = self.state.texts().map(|texts| texts.daemon.clone());
        let known = Known {
            identities: self.state.identities(),
            texts: Some(FileTexts {
                daemon: daemon.unwrap_or_default(),
                services: texts,
            }),
            environment_files: self.state.environment_files(),
            filter_files: self.state.filter_files(),
            names: self.names.clone(),
        };
        Ok((self.configure)(known)?.services)
    }

    /// As many threads as there were, and for what is new, as many as it needs.
    fn threads(
        &self,
        (needed, wanted): (Threads, Option<NonZeroUsize>),
        services: &[Service],
        same: &[bool],
        left: &Left,
    ) -> Threads {
        let setting = self.state.settings().map(Settings::threads);
        let stays = setting.is_none_or(|before| before == wanted);
        let stream_workers = match self.state.stream_workers() {
            0 => needed.stream_workers,
            before if stays => before,
            _ => needed.stream_workers,
        };
        let mut datagram_workers = needed.datagram_workers;
        for ((workers, service), same) in datagram_workers.iter_mut().zip(services).zip(same) {
            let owner = left.by_name.get(&service.name).filter(|_| *same);
            let saved = owner.and_then(|owner| left.services[*owner].as_ref());
            *workers = saved.map_or(*workers, SavedService::datagram_workers);
        }
        Threads {
            stream_workers,
            datagram_workers,
        }
    }

    /// Makes the plans of all services, of which so many are configured. Where the preflight has proved
    /// them a moment ago, one is proved again, to find out how children are made. There may be none for
    /// a service that isn't configured any more.
    fn plans(
        &self,
        ground: &Ground<'_>,
        (services, configured): (&[Service], usize),
        mut confinements: Confinements,
    ) -> Result<(Vec<Option<Planned>>, Method), Error> {
        let user = |(user, _): &(_, _)| Option::clone(user);
        let users: Vec<_> = confinements.iter().map(user).collect();
        let (services, gone) = services.split_at(configured);
        let (users, users_of_gone) = users.split_at(configured);
        let of_gone = confinements.split_off(configured);
        let of_each = |service: &Service, confinement| {
            ground.make(std::slice::from_ref(service), vec![confinement])
        };
        let mut plans = match ground.make(services, confinements.clone()) {
            Ok(plans) => plans,
            Err(first) => {
                let each = services.iter().zip(confinements);
                let faults = each.flat_map(|(service, it)| match of_each(service, it) {
                    Ok(plans) => {
                        let proved = ground.prove(std::slice::from_ref(service), &plans);
                        proved.err().unwrap_or_default()
                    }
                    Err(fault) => vec![fault],
                });
                refuse(faults.collect())?;
                return Err(first);
            }
        };
        // While there is one thread.
        let (mut jails, mut faults) = (Vec::new(), Vec::new());
        let each = services.iter().zip(0..).zip(users).zip(&mut plans);
        for ((service, user), plan) in each {
            match ground.jail(service, user.clone(), plan) {
                Ok(jail) => jails.push(jail),
                // What has come back goes on without handlers of this service.
                Err(_) if self.stage == Stage::Return => jails.push(Some(Jail::lost().into())),
                Err(fault) => faults.push(fault),
            }
        }
        refuse(faults)?;
        let gone = gone.iter().zip(users_of_gone).zip(of_gone);
        let gone = gone.map(|((service, user), it)| {
            let mut plan = of_each(service, it).ok()?.pop()?;
            let jail = ground.jail((service, None), user.clone(), &mut plan).ok()?;
            Some((plan, jail))
        });
        let gone: Vec<_> = gone.collect();
        watch_births()?;
        let is_proved = self.stage == Stage::Successor && self.findings.is_some();
        let proved = match is_proved {
            true => ground.prove(&services[..1], &plans[..1]),
            false => ground.prove(services, &plans),
        };
        let method = match proved {
            Ok(method) => method,
            Err(faults) => {
                refuse(faults)?;
                return Err(Error::Start("there is no service to run".into()));
            }
        };
        let plans = plans.into_iter().zip(jails).map(Some);
        Ok((plans.chain(gone).collect(), method))
    }

    /// The rules of a configured service: those that files say, read once by the preflight, or those
    /// that the process before had.
    fn rules(
        &mut self,
        config: &Service,
        plan: &Plan,
        saved: Option<&mut SavedService>,
        asks: bool,
    ) -> Result<FoundRules, Vec<Error>> {
        let stage = self.stage;
        let Some(findings) = &mut self.findings else {
            return saved_rules(config, plan, saved, asks);
        };
        if stage == Stage::Successor {
            let found = findings.rules.remove(&config.name);
            let rules = found.map(|bytes| Rules::read(bytes, plan.variables()));
            return match rules.transpose() {
                Ok(None) if config.admission.has_rules() => Err(vec![not_left(Errno::EINVAL)]),
                Ok(rules) => Ok(rules.map(|rules| (rules, None))),
                Err(errno) => Err(vec![not_left(errno)]),
            };
        }
        let files = RuleFiles::open(config).map_err(|fault| vec![fault])?;
        let Some(files) = files else {
            return Ok(None);
        };
        let rules = Rules::new(&files.read()?, plan.variables());
        findings
            .rules
            .insert(config.name.clone(), rules.bytes().to_vec());
        Ok(Some((rules, Some(files))))
    }

    /// Notes what the successor needs to know.
    fn note(&mut self, texts: Option<&FileTexts>, origin: &Origin) {
        if let (Some(findings), Some(texts), Stage::Preflight) =
            (&mut self.findings, texts, self.stage)
        {
            findings.texts = texts.clone();
            let names = self.names.iter().flat_map(|names| names.borrow().clone());
            findings.names = names.collect();
            findings.identities = origin
                .identity
                .iter()
                .chain(&origin.users)
                .cloned()
                .collect();
            findings
                .environment_files
                .clone_from(&origin.environment_files);
            findings.filter_files.clone_from(&origin.filter_files);
        }
    }
}

/// What serves TLS, if it is left, and the files of its settings, if a service has it.
type FoundTls = (Option<TlsKeeper>, Option<Arc<TlsFiles>>);

/// The plan of a service, and its sandbox if it has one.
type Planned = (Plan, Option<Arc<Jail>>);

/// The rules of a service, and where they are read again.
type FoundRules = Option<(Rules, Option<RuleFiles>)>;

/// The rules that the process before had for a service, or those of a new service.
fn saved_rules(
    config: &Service,
    plan: &Plan,
    saved: Option<&mut SavedService>,
    asks: bool,
) -> Result<FoundRules, Vec<Error>> {
    match saved {
        Some(saved) => {
            let rules = saved.rules(config, plan.variables(), asks);
            rules.map_err(|errno| vec![not_left(errno)])
        }
        None => {
            let read = RuleFiles::open_and_read(config).map_err(|fault| vec![fault])?;
            Ok(read.map(|(files, list)| (Rules::new(&list, plan.variables()), Some(files))))
        }
    }
}

/// Whether a service that stays can serve the last clients of a listener that it had.
fn may_serve(service: &Service, listener: &Listener) -> bool {
    let proxied = service.admission.proxies.is_some() && listener.style() == Style::Seqpacket;
    service.mode == Mode::PerConnection
        && listener.style().has_connections()
        && !proxied
        && (listener.is_unix() || !service.as_peer)
}

/// The users of services, each once.
fn users(services: &[Service]) -> Vec<Identity> {
    let mut names = HashSet::new();
    let users = services.iter().filter_map(|it| it.identity.as_ref());
    users
        .filter(|user| names.insert(user.name.clone()))
        .cloned()
        .collect()
}
