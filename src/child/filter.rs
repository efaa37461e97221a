//! The filters of system calls that handlers start with.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::config::seccomp::{Purpose, default_list};
use crate::config::{Isolation, Part, Seccomp};
use crate::error::Error;
use crate::sys::sandbox;
use crate::sys::seccomp::{Filter, Rules, can_listen};

/// The filters of services. Those with the same share it.
#[derive(Debug, Default)]
pub struct Filters {
    made: Vec<(Kind, Filter)>,
}

/// What a filter is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    list: Seccomp,
    purpose: Purpose,
    listens: bool,
}

impl Filters {
    /// The filter of the handlers of a service, if they have one.
    ///
    /// It is the last step but for the signal mask: it refuses some of the steps before it. New
    /// privileges must be forbidden by then.
    ///
    /// With `listens`, a thread will listen to it: see [`FilterSocket`].
    pub fn of(&mut self, isolation: &Isolation, listens: bool) -> Result<Option<Filter>, Error> {
        let sandbox = isolation.sandbox.as_ref();
        let has = |part| sandbox.is_some_and(|sandbox| sandbox.parts.has(part));
        let list = match &isolation.seccomp {
            Seccomp::Unset if has(Part::Seccomp) => Seccomp::Default,
            Seccomp::Unset | Seccomp::None => return Ok(None),
            list => list.clone(),
        };
        // Handlers share a network namespace, so abstract addresses lead from one to another.
        let purpose = Purpose {
            sandbox: sandbox.is_some(),
            own_network: has(Part::Net),
            no_unix_sockets: has(Part::Net) && !sandbox::scopes_abstract_sockets(),
        };
        let kind = Kind {
            list,
            purpose,
            listens,
        };
        if let Some((_, filter)) = self.made.iter().find(|(made, _)| *made == kind) {
            return Ok(Some(filter.clone()));
        }
        let rules = match &kind.list {
            Seccomp::Default => default_list(purpose),
            Seccomp::Log => Rules {
                only_log: true,
                ..default_list(purpose)
            },
            Seccomp::File(file) => file.rules(purpose).map_err(|_| {
                let path = Path::new(&file.option).display();
                Error::Start(format!("--seccomp {path} is no list of system calls"))
            })?,
            Seccomp::Unset | Seccomp::None => return Ok(None),
        };
        let asks = rules.logs() || rules.kills();
        let listens = listens && asks && can_listen();
        if rules.logs() && !listens {
            return Err(Error::Start(
                "--seccomp: logging of system calls is for handlers of clients, on Linux 5.9 or newer"
                    .into(),
            ));
        }
        let filter = Filter::new(rules, listens)
            .map_err(|errno| Error::start("system calls can't be filtered", errno))?;
        self.made.push((kind, filter.clone()));
        Ok(Some(filter))
    }
}

/// The socket by which children send the listeners of their filters, before they execute their programs,
/// to the thread that listens. All services share it, since low descriptors are few.
#[derive(Debug)]
pub struct FilterSocket {
    /// The end of the children, with a number that they have.
    pub theirs: Arc<OwnedFd>,
    /// The end of the thread.
    pub own: OwnedFd,
}

impl FilterSocket {
    /// Makes it if a service needs it. `own` moves the end of the children to a reserved number.
    pub fn for_services<'a>(
        mut services: impl Iterator<Item = &'a Isolation>,
        own: impl FnOnce(OwnedFd) -> Result<OwnedFd, Error>,
    ) -> Result<Option<Self>, Error> {
        if !services.any(Self::is_needed) {
            return Ok(None);
        }
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (theirs, ours) =
            pair.map_err(|errno| Error::start("no socket for --seccomp", errno))?;
        Ok(Some(Self {
            theirs: own(theirs)?.into(),
            own: ours,
        }))
    }

    /// Whether handlers may have a filter with a listener.
    pub fn is_needed(isolation: &Isolation) -> bool {
        match &isolation.seccomp {
            Seccomp::Log => true,
            // Perhaps only in a comment.
            Seccomp::File(file) => file.text.contains("kill") || file.text.contains("log"),
            _ => false,
        }
    }
}
