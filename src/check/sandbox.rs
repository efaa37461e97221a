//! Whether a sandbox can be made, and whether PROG can be run in it: a process makes it, and ends.

use crate::child::environment::Variables;
use crate::child::plan::{Plan, Preparation, Role};
use crate::child::{Filters, Jail, Wanted, sandbox_below_chroot};
use crate::config::{Daemon, Sandbox, Service};
use crate::error::Error;
use crate::setup::privileges;

/// Makes the sandbox of a service with the rights that skd keeps, as a start does.
pub(super) fn rehearse(
    daemon: &Daemon,
    service: &Service,
    sandbox: &Sandbox,
    variables: &Variables,
) -> Result<(), Error> {
    if daemon.root.is_some() {
        return Err(sandbox_below_chroot());
    }
    let filter = Filters::default().of(&service.isolation, true)?;
    let user = privileges::user_of_handlers(service);
    let preparation = Preparation {
        surroundings: &service.surroundings,
        role: Role::Handler { terminal: true },
        files: None,
        user: user.clone(),
        as_peer: false,
        root: None,
        is_elsewhere: true,
        filter: None,
    };
    let wanted = Wanted {
        sandbox,
        command: &service.command,
        variables,
        surroundings: &service.surroundings,
        files: None,
        user,
        filter,
        filter_socket: None,
        is_traced: service.prestart.is_some(),
    };
    let mut plan = Plan::new(&service.command, variables, preparation)?;
    // It ends with its socket.
    Jail::start(&wanted, &mut plan).map(drop)
}
