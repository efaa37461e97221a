//! What a sandbox is made for.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::unistd::{Gid, Uid};

use super::refusal;
use crate::child::environment::Variables;
use crate::config::{Part, Sandbox, Surroundings};
use crate::error::Error;
use crate::sys::capabilities::{self, Capability};
use crate::sys::credentials::Credentials;
use crate::sys::namespaces::UserMap;
use crate::sys::seccomp::Filter;
use crate::sys::users::overflow_ids;

/// How many jailers a service has at most: threads that start handlers are told apart by the low
/// number of their descriptor.
pub(super) const MOST_JAILERS: usize = 64;

/// What a sandbox is made for.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// What it consists of.
    pub sandbox: &'a Sandbox,
    /// The program and its arguments.
    pub command: &'a [CString],
    /// What all handlers have in their environment.
    pub variables: &'a Variables,
    /// What else is asked for in the configuration.
    pub surroundings: &'a Surroundings,
    /// The limit of open files to restore.
    pub files: Option<libc::rlimit>,
    /// The user that handlers become, if they do.
    pub user: Option<Credentials>,
    /// The filter of their system calls, if there is one.
    pub filter: Option<Filter>,
    /// The socket for the filter's listener, if there is one, and the number of the service.
    pub filter_socket: Option<(Arc<OwnedFd>, u32)>,
    /// Whether skd traces some, which it prestarts.
    pub is_traced: bool,
}

impl Wanted<'_> {
    /// Refuses a sandbox that would hold less than it says: one for root itself, or one whose handlers
    /// would be skd's user instead of their own.
    pub(super) fn check(&self) -> Result<(), Error> {
        const HOLDS: [Part; 5] = [Part::Mount, Part::Net, Part::Ipc, Part::Uts, Part::Cgroup];
        let parts = self.sandbox.parts;
        let (own, has_users) = (Uid::effective(), parts.has(Part::User));
        match &self.user {
            // A PID namespace alone is for containment, and holds root too.
            None if own.is_root() && !has_users => {
                let holds = HOLDS.into_iter().any(|part| parts.has(part));
                (!holds).then_some(()).ok_or_else(refusal::of_root)
            }
            // After --daemon-user there is no right to that any more.
            Some(user) if !own.is_root() && has_users && user.uid != own => {
                let changes = capabilities::has_capability(Capability::SetUser);
                (!changes).then_some(()).ok_or_else(refusal::of_user)
            }
            _ => Ok(()),
        }
    }

    /// The id of the handlers' user, as skd has it.
    pub(super) fn user_outside(&self) -> u32 {
        match (self.map(), &self.user) {
            (Some(map), _) => map.outside.0,
            (None, Some(user)) => user.uid.as_raw(),
            (None, None) => Uid::effective().as_raw(),
        }
    }

    /// The users of the sandbox, if it has some of its own.
    pub(super) fn map(&self) -> Option<UserMap> {
        let parts = self.sandbox.parts;
        let is_root = Uid::effective().is_root();
        parts.has(Part::User).then(|| {
            let outside = match (&self.user, is_root) {
                (Some(user), true) => (user.uid, user.gid),
                _ => (Uid::effective(), Gid::effective()),
            };
            let outside = (outside.0.as_raw(), outside.1.as_raw());
            UserMap {
                inside: self.sandbox.user.unwrap_or(outside),
                outside,
                root: is_root,
                spare: parts.has(Part::Caps).then(|| overflow_ids().0),
            }
        })
    }
}
