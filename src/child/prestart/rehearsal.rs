//! `--check`: a program is started once, as for the pool, and ended where it is parked.

use super::failure::Failure;
use super::kinds::Kinds;
use super::park::Start;
use crate::child::plan::Plan;
use crate::child::spawn::Spawner;
use crate::config::{Prestart, ServiceId};
use crate::report::Trouble;

/// Starts the program and returns where it is parked, or why it can't be, in words.
///
/// It does what the pool does at each start of skd, and nothing more. What the program would do
/// after that isn't tried out, since that could have an effect: so how much of its start is saved is
/// known only if it gets as far as its client.
pub fn rehearse(
    service: ServiceId,
    prestart: Prestart,
    plan: &Plan,
    spawner: &mut Spawner,
) -> String {
    let steps = plan.steps_if_traced();
    let mut without = Kinds::NONE;
    let why = loop {
        let start = Start {
            plan,
            jail: None,
            cgroups: None,
            steps: &steps,
            successor: prestart.into(),
            without,
        };
        match start.park(spawner, &mut plan.environment(), || true) {
            Ok((parked, end)) => {
                parked.end();
                return end.describe(plan.name()).to_string();
            }
            // Each time there are more.
            Err(Failure::Careless(kinds)) => without = without.and(kinds),
            Err(Failure::Short(why) | Failure::Unfit(why)) => break why,
            Err(Failure::Unwanted) => break "it isn't wanted".into(),
        }
    };
    let program = plan.name();
    Trouble::NotPrestartable {
        service,
        program,
        why: &why,
    }
    .to_string()
}
