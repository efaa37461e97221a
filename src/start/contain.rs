//! Containment: control groups and their janitor, and the way in which the handlers of each service are
//! contained.

use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{Pid, Uid, getsid};

use crate::child::plan::Root;
use crate::child::{Cgroups, try_cgroup};
use crate::config::{Count, Daemon, HOST_NAME, Part, Parts, Sandbox, Service};
use crate::error::Error;
use crate::report;
use crate::setup::cgroups::{self, Base};
use crate::setup::janitor;
use crate::sys::credentials::Credentials;
use crate::sys::process;

use super::prepare::{Confinements, Ground};

/// The control groups of each service that has some.
pub(super) type ServiceGroups = Vec<Option<Arc<Cgroups>>>;

/// Makes the base group, where a service has a use for groups and they can be had. Before other
/// processes of skd are forked, which are to be in the same group as skd.
pub(super) fn make_groups(daemon: &Daemon, services: &[Service]) -> Result<Option<Base>, Error> {
    if !cgroups::are_wanted(services) {
        return Ok(None);
    }
    Ok(cgroups::prepare(daemon, services)?.ok())
}

/// Starts the janitor, and makes the groups of services. With the rights of the start, and by the
/// process that serves.
pub(super) fn service_groups(
    base: &mut Option<Base>,
    daemon: &Daemon,
    services: &[Service],
) -> Result<ServiceGroups, Error> {
    let Some(base) = base else {
        return Ok(services.iter().map(|_| None).collect());
    };
    let identity = daemon.identity.as_ref();
    let each = services.iter().map(|service| {
        if !service.isolation.is_contained() {
            return Ok(None);
        }
        let (directory, name) = base.service(service, identity)?;
        let memory = service.isolation.handler_max.memory;
        let settings = cgroups::of_handlers(service);
        Ok(Some(Cgroups::new((directory, &name), settings, memory)))
    });
    let groups = each.collect::<Result<_, Error>>()?;
    if base.is_made_here() {
        janitor::start(base)?;
    }
    Ok(groups)
}

/// Chooses for each service that is contained how it is: by control groups, if handlers can start in
/// them; else by a PID namespace for each; else by this process as a subreaper. A service that is
/// contained by namespaces has a sandbox of nothing else then. `is_told` is whether it is logged. While there is one thread.
pub(super) fn choose(
    ground: &Ground<'_>,
    services: &mut [Service],
    groups: &mut ServiceGroups,
    confinements: &Confinements,
    is_told: bool,
) -> Result<(), Error> {
    let mut ways = [0; 3];
    for ((groups, service), confinement) in groups.iter_mut().zip(&mut *services).zip(confinements)
    {
        if !service.isolation.is_contained() {
            continue;
        }
        let tried = groups
            .as_ref()
            .map(|it| it.take().and_then(|it| try_cgroup(&it)));
        let may_enter = may_enter_groups(service);
        let tried = tried.map(|it| it.and(may_enter.then_some(()).ok_or(Errno::EACCES)));
        let failed = match tried {
            Some(Ok(())) => {
                ways[0] += 1;
                continue;
            }
            Some(Err(errno)) => Some(errno),
            None => None,
        };
        if let Some(errno) = failed.filter(|_| service.isolation.needs_cgroup()) {
            return Err(not_started(errno).about(&service.label()));
        }
        *groups = None;
        let is_in_namespace = match &service.isolation.sandbox {
            Some(sandbox) => sandbox.parts.has(Part::Pid),
            None => namespace(ground, service, confinement),
        };
        ways[if is_in_namespace { 1 } else { 2 }] += 1;
    }
    if ways[2] > 0 {
        if services.iter().any(|it| !it.isolation.is_contained()) {
            return Err(Error::Start(MIXED.into()));
        }
        // Without that none would be found.
        process::children_of_main_thread().map_err(|reason| {
            let file = "/proc/self/task/ID/children, by which orphans are found";
            Error::start(format!("--contain: skd can't read {file}"), reason)
        })?;
        process::adopt_orphans()
            .map_err(|errno| Error::start("--contain: skd can't become a subreaper", errno))?;
    }
    if is_told && report::verbosity() > 0 {
        for (count, way) in ways.into_iter().zip(WAYS) {
            if count > 0 {
                let services = Count(count, "service", "services");
                report::note(format_args!("{services} contained by {way}"));
            }
        }
    }
    Ok(())
}

/// The sessions of the children of this process, none of which is a handler yet.
pub(super) fn sessions() -> Vec<i32> {
    if !process::adopts_orphans() {
        return Vec::new();
    }
    let children = process::children_of_main_thread().unwrap_or_default();
    let sessions = children
        .into_iter()
        .filter_map(|pid| getsid(Some(pid)).ok());
    sessions.map(Pid::as_raw).collect()
}

const MIXED: &str = "--contain: there are neither control groups nor PID namespaces here, and as a \
                     subreaper skd can't tell of which service a process is: contain the handlers of \
                     all services, or run those that are by another skd";

/// Gives the handlers of a service PID namespaces, if that can be had and changes nothing else for
/// them. Returns whether it does.
fn namespace(
    ground: &Ground<'_>,
    service: &mut Service,
    (user, root): &(Option<Credentials>, Option<Root>),
) -> bool {
    let mut parts = Parts::NONE.with(Part::Pid);
    if user.is_some() || !Uid::effective().is_root() {
        // The rights to make other namespaces are had in one of users alone, where groups are lost.
        parts = parts.with(Part::User);
    }
    let has_groups = |user: &Credentials| user.groups.iter().any(|group| *group != user.gid);
    let is_other = service.as_peer
        || service.prestart.is_some()
        || root.is_some()
        || user.as_ref().is_some_and(has_groups);
    if is_other {
        return false;
    }
    service.isolation.sandbox = Some(Sandbox {
        parts,
        shares_net: false,
        user: None,
        host_name: HOST_NAME.into(),
        mounts: Vec::new(),
    });
    let confinement = (user.clone(), None);
    let plan = ground.make(std::slice::from_ref(service), vec![confinement]);
    let plan = plan.ok().and_then(|mut plans| plans.pop());
    let works = plan.is_some_and(|mut plan| {
        ground
            .jail((service, None), user.clone(), &mut plan)
            .is_ok()
    });
    if !works {
        service.isolation.sandbox = None;
    }
    works
}

/// Whether a jailer may start handlers in control groups that root has made: not where it has become
/// the user of the handlers, who is 0 inside, and may have capabilities.
fn may_enter_groups(service: &Service) -> bool {
    let sandbox = service.isolation.sandbox.as_ref();
    let is_other = |it: &Sandbox| {
        let is_root_inside = it.user.is_some_and(|(uid, _)| uid == 0);
        is_root_inside && it.parts.has(Part::User) && !it.parts.has(Part::Caps)
    };
    !Uid::effective().is_root() || !sandbox.is_some_and(is_other)
}

fn not_started(errno: Errno) -> Error {
    let what = "handlers can't be started in control groups of their own";
    match errno {
        Errno::EACCES => Error::Start(format!(
            "{what}: with --sandbox-user 0 that needs the part caps of --sandbox"
        )),
        Errno::ENOSYS => Error::Start(format!(
            "{what}: that needs clone3(2) of Linux 5.7, and no filter that refuses it"
        )),
        errno => Error::start(what, errno),
    }
}

/// The ways in which handlers are contained, in words.
pub(super) const WAYS: [&str; 3] = [
    "control groups",
    "PID namespaces",
    "skd as a subreaper: what leaves the session of its handler is ended at once",
];
