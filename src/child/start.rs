//! A handler for the connection that a thread holds: from the pool, or by spawning.

use super::plan::Plan;
use super::prestart::Pool;
use super::spawn::{SpawnError, Spawned, Spawner};
use crate::sys::environment::Environment;

impl Spawner {
    /// Hands what is held to a prestarted handler, or starts a handler on it if there is none.
    pub fn spawn(
        &mut self,
        plan: &Plan,
        pool: Option<&Pool>,
        environment: &mut Environment,
    ) -> Result<Spawned, SpawnError> {
        if let Some(spawned) = pool.and_then(|pool| pool.hand_off(self.held())) {
            return Ok(spawned);
        }
        self.launch(plan, environment)
    }
}

#[cfg(test)]
mod tests;
