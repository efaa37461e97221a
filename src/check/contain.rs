//! How handlers would be contained.

use nix::unistd::Uid;

use crate::config::Service;
use crate::error::Error;
use crate::setup::cgroups;
use crate::sys::namespaces;
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};

/// Returns in which way the handlers of services that are contained would be, if there are some, or why
/// their limits can't be kept.
pub(super) fn containment(services: &[Service]) -> Result<Option<String>, Error> {
    if !services.iter().any(|it| it.isolation.is_contained()) {
        return Ok(None);
    }
    let limited = services.iter().any(|it| it.isolation.needs_cgroup());
    Ok(Some(match cgroups::check(services) {
        Ok(()) => "handlers are contained by control groups".into(),
        Err(error) if limited => return Err(error),
        Err(error) => {
            let way = match has_namespaces() {
                true => "PID namespaces",
                false => "skd as a subreaper",
            };
            format!("handlers are contained by {way}: {error}")
        }
    }))
}

/// Whether PID namespaces can be had, as root or with those of users. Tried by a child.
fn has_namespaces() -> bool {
    let user = match Uid::effective().is_root() {
        true => 0,
        false => libc::CLONE_NEWUSER,
    };
    match process::fork() {
        Ok(Fork::Child) => {
            let made = namespaces::enter(user | libc::CLONE_NEWPID | libc::CLONE_NEWNS);
            process::exit_now(u8::from(made.is_err()))
        }
        Ok(Fork::Parent(child)) => {
            let end = process::wait(Target::Process(child), Wait::UNTIL_END);
            matches!(end, Ok(Some((_, Change::Ended(Ended::Exited(0))))))
        }
        Err(_) => false,
    }
}
