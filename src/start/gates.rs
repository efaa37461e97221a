//! The plans of gates.

use crate::child::Plan;
use crate::child::plan::{Preparation, Role, Root};
use crate::config::{Service, StandardError, Surroundings};
use crate::error::Error;
use crate::sys::credentials::Credentials;
use crate::sys::{process, terminal};

use super::prepare::{Confinements, Ground};
use super::process::inherited_variables;

/// Returns the surroundings of a service's gates: those of its handlers, but for what is about PROG, for
/// standard error, which is the log, and for a directory that is one of the sandbox.
fn surroundings(service: &Service) -> Surroundings {
    let directory = service.surroundings.directory.clone();
    Surroundings {
        directory: directory.filter(|_| !service.isolation.has_own_root()),
        argv0: None,
        error: StandardError::default(),
        ..service.surroundings.clone()
    }
}

impl Ground<'_> {
    /// Makes the plan of the gate of each service that has one, and proves it as those of handlers.
    pub(super) fn gates(
        &self,
        services: &[Service],
        confinements: &Confinements,
    ) -> Vec<Result<Option<Plan>, Error>> {
        let services = services.iter().zip(confinements);
        services
            .map(|(service, confinement)| self.gate(service, confinement))
            .collect()
    }

    fn gate(
        &self,
        service: &Service,
        (user, root): &(Option<Credentials>, Option<Root>),
    ) -> Result<Option<Plan>, Error> {
        let Some(gate) = &service.gate else {
            return Ok(None);
        };
        let surroundings = surroundings(service);
        let preparation = Preparation {
            surroundings: &surroundings,
            role: Role::Handler {
                terminal: terminal::may_be_reached() || process::is_subreaper(),
            },
            files: self.files,
            user: user.clone(),
            as_peer: service.as_peer,
            root: root.clone(),
            // Outside of the sandbox, whatever that forbids.
            is_elsewhere: false,
            filter: None,
        };
        let variables = inherited_variables(self.daemon, service).without_reserved();
        let about = |error: Error| {
            let root = self.daemon.root.as_deref().or(service.root.as_deref());
            error
                .inside(root)
                .about(&format!("{}--gate: ", service.label()))
        };
        let plan = Plan::new(&gate.command, &variables, preparation).map_err(about)?;
        (self.probe)(&plan, self.low).map_err(about)?;
        Ok(Some(plan))
    }
}
