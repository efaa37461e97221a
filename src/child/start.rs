//! A handler for the connection that a thread holds: from the pool, from the sandbox's jailer, or by
//! spawning.

use std::ffi::CString;
use std::sync::Arc;

use super::cgroups::{Cgroup, Cgroups};
use super::jail::Jail;
use super::plan::Plan;
use super::prestart::Pool;
use super::spawn::{SpawnError, Spawned, Spawner};
use crate::sys::environment::Environment;

/// What the handlers of a service are made from.
#[derive(Debug)]
pub struct Source {
    /// How they are made.
    pub plan: Arc<Plan>,
    /// Prestarted ones, where there are any.
    pub pool: Option<Arc<Pool>>,
    /// What prestarted handlers have in their environment besides, and so have those that are
    /// started in their place: nothing about a client.
    pub pool_variables: Vec<CString>,
    /// Their sandbox, if they have one.
    pub jail: Option<Arc<Jail>>,
    /// Their control groups, if they have some.
    pub cgroups: Option<Arc<Cgroups>>,
}

impl Spawner {
    /// Hands what is held to a prestarted handler, or starts a handler on it if there is none.
    pub fn spawn(
        &mut self,
        source: &Source,
        environment: &mut Environment,
    ) -> Result<Spawned, SpawnError> {
        let pool = source.pool.as_deref();
        if let Some(mut spawned) = pool.and_then(|pool| pool.hand_off(self.held())) {
            spawned.cgroup.iter_mut().for_each(Cgroup::note_use);
            return Ok(spawned);
        }
        let plan = &source.plan;
        // From a list of empty ones: no system call, unless more handlers live than before.
        let cgroups = source.cgroups.as_ref();
        let cgroup = cgroups.map(Cgroups::take).transpose();
        let cgroup = cgroup.map_err(SpawnError::Shortage)?;
        let mut spawned = match &source.jail {
            Some(jail) => jail.launch(self, plan, cgroup, environment)?,
            None => self.launch(plan, cgroup, environment)?,
        };
        spawned.cgroup.iter_mut().for_each(Cgroup::note_use);
        Ok(spawned)
    }
}

#[cfg(test)]
mod tests;
