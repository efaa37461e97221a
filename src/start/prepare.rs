//! From sockets to services that can be served: threads, low descriptors, plans.

use std::os::fd::{BorrowedFd, OwnedFd};

use crate::child::plan::{Preparation, Role, Root};
use crate::child::{Method, Plan, watch_births};
use crate::config::{Count, Daemon, DatagramMode, MOST_THREADS, Mode, Service, Style};
use crate::error::Error;
use crate::net::Listener;
use crate::serve;
use crate::sys::credentials::Credentials;
use crate::sys::descriptors::{Low, Reserved};
use crate::sys::terminal;

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
/// one for each root directory of handlers.
pub(super) fn reserve(
    services: &[Service],
    kept: &[BorrowedFd<'_>],
    null: Option<&OwnedFd>,
) -> Result<Reserved, Error> {
    // A service has prestarted handlers or at least one thread for datagrams, not both.
    let roots = services.iter().filter(|service| service.root.is_some());
    Reserved::take(
        MOST_THREADS + 1 + services.len() + roots.count(),
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
    let all = services
        .iter()
        .map(|service| user_and_root(service, |directory| reserved.own(directory)));
    all.collect()
}

/// What handlers are made from.
pub(super) struct Ground<'a> {
    pub(super) daemon: &'a Daemon,
    /// The limit of open files that handlers get back.
    pub(super) files: Option<libc::rlimit>,
    pub(super) low: Low,
    pub(super) probe: fn(&Plan, Low) -> Result<Method, Error>,
}

impl Ground<'_> {
    /// Makes the plan of each service. What must fail for each handler fails here, once.
    pub(super) fn plans(
        &self,
        services: &[Service],
        confinements: Confinements,
    ) -> Result<(Vec<Plan>, Method), Error> {
        watch_births()?;
        let terminal = terminal::may_be_reached();
        let mut method = None;
        let plans = services.iter().zip(confinements);
        let plans = plans.map(|(service, (user, root))| {
            let variables = inherited_variables(self.daemon, service).without_reserved();
            let preparation = Preparation {
                surroundings: &service.surroundings,
                role: Role::Handler { terminal },
                files: self.files,
                user,
                as_peer: service.as_peer,
                root,
            };
            let inside = self.daemon.root.as_deref().or(service.root.as_deref());
            let plan = Plan::new(&service.command, &variables, preparation);
            let plan = plan.map_err(|error| error.inside(inside))?;
            // The kernel's answer, so the same for all.
            method = Some((self.probe)(&plan, self.low)?);
            Ok(plan)
        });
        let plans = plans.collect::<Result<_, Error>>()?;
        let method = method.ok_or_else(|| Error::Start("there is no service to run".into()))?;
        Ok((plans, method))
    }
}
