//! From sockets to services that can be served: threads, low descriptors, plans.

use std::collections::{HashMap, HashSet};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use crate::child::plan::{Preparation, Role, Root};
use crate::child::{self, FilterSocket, Filters, Jail, Method, Plan, watch_births};
use crate::config::seccomp::FilterFile;
use crate::config::{
    Count, Daemon, DatagramMode, EnvironmentFile, MOST_THREADS, Mode, Service, Style, Surroundings,
};
use crate::error::Error;
use crate::net::Listener;
use crate::serve;
use crate::setup::privileges;
use crate::sys::credentials::Credentials;
use crate::sys::descriptors::{Low, Reserved};
use crate::sys::{process, terminal};

use super::process::{inherited_variables, user_and_root};

/// How many threads accept connections, of all services; and how many receive datagrams, of each.
#[derive(Debug)]
pub(super) struct Threads {
    pub(super) stream_workers: usize,
    pub(super) datagram_workers: Vec<usize>,
}

/// Occupies the low descriptors, and closes what was inherited but for what is `kept`. Where few
/// may be open, that is no more than so many services can need: one for each thread that starts
/// handlers, for the main thread, and for the thread that keeps a service's prestarted handlers; and
/// one for each root directory of handlers. There may be so many services besides that are `retiring`.
pub(super) fn reserve(
    services: &[Service],
    retiring: usize,
    kept: &[BorrowedFd<'_>],
    null: Option<&OwnedFd>,
) -> Result<Reserved, Error> {
    // A service has prestarted handlers or at least one thread for datagrams, not both.
    let roots = services.iter().filter_map(|service| service.root.as_ref());
    let roots: HashSet<_> = roots.collect();
    let isolations = services.iter().map(|service| &service.isolation);
    let asks = usize::from({ isolations }.any(FilterSocket::is_needed));
    Reserved::take(
        MOST_THREADS + 1 + services.len() + roots.len() + asks + 2 * retiring,
        kept,
        null,
    )
    .map_err(|reason| Error::start("the low descriptors can't be reserved", reason))
}

impl Threads {
    /// Those that the services need, with the listeners of each. Threads for datagrams share what
    /// stream workers leave, and each service that receives some has at least one.
    pub(super) fn new(daemon: &Daemon, services: &[Service], listeners: &[Vec<Listener>]) -> Self {
        let services = || services.iter().zip(listeners);
        let accepts = |(service, listeners): (&Service, &Vec<Listener>)| {
            let mut listeners = listeners.iter();
            service.mode == Mode::PerConnection
                && listeners.any(|listener| listener.style().has_connections())
        };
        let stream_workers = if services().any(accepts) {
            serve::stream_workers(daemon.threads)
        } else {
            0
        };
        let receives = |(service, listeners): (&Service, &Vec<Listener>)| {
            let mut listeners = listeners.iter();
            service.datagrams != DatagramMode::Wait
                && listeners.any(|listener| listener.style() == Style::Datagram)
        };
        let mut receivers = services().filter(|it| receives(*it)).count();
        let mut left = MOST_THREADS.saturating_sub(stream_workers);
        let datagram_workers = services().map(|it| {
            if !receives(it) {
                return 0;
            }
            let share = (left / receivers).max(1);
            let workers = serve::datagram_workers(it.0.datagrams, daemon.threads).min(share);
            receivers -= 1;
            left = left.saturating_sub(workers);
            workers
        });
        Self {
            datagram_workers: datagram_workers.collect(),
            stream_workers,
        }
    }

    /// The low descriptors that these threads need.
    pub(super) fn low(&self, services: &[Service], reserved: &Reserved) -> Result<Low, Error> {
        let keepers = services.iter().filter(|it| it.prestart.is_some()).count();
        let workers = self.stream_workers + self.datagram_workers.iter().sum::<usize>();
        let threads = workers + keepers + 1;
        reserved.low(threads).ok_or_else(|| {
            Error::Start(format!(
                "{} {threads} threads that start handlers, and there are not so many descriptors \
                 below 64; use fewer --threads, or run some services by another skd",
                Count(services.len(), "service needs", "services need")
            ))
        })
    }
}

/// The user and the root directory of the handlers of each service.
pub(super) type Confinements = Vec<(Option<Credentials>, Option<Root>)>;

/// Opens the root directories of handlers, while skd has the rights to. Before anything else takes
/// low descriptors.
pub(super) fn confinements(
    services: &[Service],
    reserved: &mut Reserved,
) -> Result<Confinements, Error> {
    let mut all: Confinements = Vec::with_capacity(services.len());
    // Services with the same share it, since low descriptors are few.
    let mut roots: HashMap<&Path, Root> = HashMap::new();
    for service in services {
        let path = service.root.as_deref();
        let confinement = match path.and_then(|path| roots.get(path)) {
            Some(root) => (privileges::user_of_handlers(service), Some(root.clone())),
            None => user_and_root(service, |directory| reserved.own(directory))?,
        };
        if let (Some(path), Some(root)) = (path, &confinement.1) {
            roots.entry(path).or_insert_with(|| root.clone());
        }
        all.push(confinement);
    }
    Ok(all)
}

/// Makes the socket for the listeners of handlers' filters, if a service needs it. Before anything else
/// takes low descriptors.
pub(super) fn filter_socket(
    services: &[Service],
    reserved: &mut Reserved,
) -> Result<Option<FilterSocket>, Error> {
    let isolations = services.iter().map(|service| &service.isolation);
    FilterSocket::for_services(isolations, |socket| {
        let owned = reserved.own(socket);
        owned.map_err(|errno| Error::start("no low descriptor for --seccomp", errno))
    })
}

/// The sandbox of each service.
pub(super) type Jails = Vec<Option<Arc<Jail>>>;

/// What handlers are made from.
pub(super) struct Ground<'a> {
    pub(super) daemon: &'a Daemon,
    /// The limit of open files that handlers get back.
    pub(super) files: Option<libc::rlimit>,
    pub(super) low: Low,
    pub(super) probe: fn(&Plan, Low) -> Result<Method, Error>,
    /// The socket for the listeners of handlers' filters, if a service needs it.
    pub(super) filter_socket: Option<Arc<OwnedFd>>,
}

impl Ground<'_> {
    /// Makes the plan of each service, and proves it: what must fail for each handler fails here, once.
    pub(super) fn plans(
        &self,
        services: &[Service],
        confinements: Confinements,
    ) -> Result<(Vec<Plan>, Jails, Method), Error> {
        let users = confinements.iter().map(|(user, _)| user.clone());
        let users: Vec<_> = users.collect();
        let mut plans = self.make(services, confinements)?;
        // While there is one thread.
        let each = services.iter().zip(0..).zip(users).zip(&mut plans);
        let jails = each.map(|((service, user), plan)| self.jail(service, user, plan));
        let jails = jails.collect::<Result<_, _>>()?;
        watch_births()?;
        let method = self.prove(services, &plans).map_err(|faults| {
            let first = faults.into_iter().next();
            first.unwrap_or_else(|| Error::Start("there is no service to run".into()))
        })?;
        Ok((plans, jails, method))
    }

    /// Makes the plan of each service.
    pub(super) fn make(
        &self,
        services: &[Service],
        confinements: Confinements,
    ) -> Result<Vec<Plan>, Error> {
        // What leaves the session of its handler is found by that.
        let terminal = terminal::may_be_reached() || process::is_subreaper();
        // Most services have the same.
        let mut variables = HashMap::new();
        let which = |service: &Service| {
            let account = service.identity.as_ref().map(|it| &it.account);
            let Surroundings {
                environment,
                clears_environment,
                passed,
                ..
            } = &service.surroundings;
            let as_peer = service.as_peer;
            let tls = service.tls.is_some();
            format!("{as_peer} {tls} {account:?} {clears_environment} {passed:?} {environment:?}")
        };
        for service in services {
            let new = || inherited_variables(self.daemon, service).without_reserved();
            variables.entry(which(service)).or_insert_with(new);
        }
        let mut filters = Filters::default();
        let filters = services.iter().map(|service| {
            let filter = filters.of(&service.isolation, true);
            filter.map_err(|error| error.about(&service.label()))
        });
        let filters = filters.collect::<Result<Vec<_>, _>>()?;
        let wanted = services.iter().zip(confinements).zip(filters);
        let wanted = wanted.filter_map(|((service, (user, root)), filter)| {
            let variables = variables.get(&which(service))?;
            let preparation = Preparation {
                surroundings: &service.surroundings,
                role: Role::Handler { terminal },
                files: self.files,
                user,
                as_peer: service.as_peer,
                root,
                is_elsewhere: service.isolation.sandbox.is_some(),
                filter,
            };
            Some((&service.command[..], variables, preparation))
        });
        let inside = |service: &Service, error: Error| {
            let root = self.daemon.root.as_deref().or(service.root.as_deref());
            error.inside(root).about(&service.label())
        };
        let plans = Plan::several(wanted.collect());
        plans.map_err(|(index, error)| inside(&services[index], error))
    }

    /// Makes the sandbox of a service, if it has one. The number is the service's id, as far as it is known.
    pub(super) fn jail(
        &self,
        (service, id): (&Service, impl Into<Option<u32>>),
        user: Option<Credentials>,
        plan: &mut Plan,
    ) -> Result<Option<Arc<Jail>>, Error> {
        let Some(sandbox) = &service.isolation.sandbox else {
            return Ok(None);
        };
        if self.daemon.root.is_some() {
            return Err(child::sandbox_below_chroot().about(&service.label()));
        }
        let wanted = child::Wanted {
            sandbox,
            command: &service.command,
            variables: &inherited_variables(self.daemon, service).without_reserved(),
            surroundings: &service.surroundings,
            files: self.files,
            user,
            filter: Filters::default().of(&service.isolation, true)?,
            filter_socket: self.filter_socket.clone().zip(id.into()),
            is_traced: service.prestart.is_some(),
        };
        let jail = Jail::start(&wanted, plan);
        jail.map(|jail| Some(Arc::new(jail)))
            .map_err(|error| error.about(&service.label()))
    }

    /// Proves plans, those of these services. Returns how children are made, or all faults.
    pub(super) fn prove(&self, services: &[Service], plans: &[Plan]) -> Result<Method, Vec<Error>> {
        let mut method = None;
        let mut faults = Vec::new();
        // Plans with the same steps share them.
        let mut tried = HashSet::new();
        for (plan, service) in plans.iter().zip(services) {
            if tried.insert(plan.steps().as_ptr()) {
                match (self.probe)(plan, self.low) {
                    // The kernel's answer, so the same for all.
                    Ok(found) => method = Some(found),
                    Err(fault) => faults.push(fault.about(&service.label())),
                }
            }
        }
        match (method, faults.is_empty()) {
            (Some(method), true) => Ok(method),
            _ => Err(faults),
        }
    }
}

/// Returns the files of system calls that were read, for the next binary.
pub(super) fn filter_files(services: &[Service]) -> Vec<FilterFile> {
    let mut all: Vec<FilterFile> = Vec::new();
    for file in services.iter().filter_map(|it| it.isolation.filter_file()) {
        if !all.contains(file) {
            all.push(file.clone());
        }
    }
    all
}

/// Returns the files of variables that were read, for the next binary.
pub(super) fn environment_files(services: &[Service]) -> Vec<EnvironmentFile> {
    let files = services.iter();
    let files = files.flat_map(|service| &service.surroundings.environment_files);
    files.cloned().collect()
}
