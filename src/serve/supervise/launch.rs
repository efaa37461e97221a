//! Making a child that becomes the supervised program.

use crate::child::{Plan, watch_births};
use crate::error::Error;
use crate::report::SpawnTrouble;
use crate::sys::child::{self, Born, ChildStack, CloneCall, Descriptors, ExecTarget, Launch};
use crate::sys::process::{self, Target, Wait};
use std::path::Path;

/// Makes a child that takes all steps of the program's but the exec: what must fail for every run
/// fails here.
pub fn rehearse(plan: &Plan) -> Result<(), Error> {
    watch_births()?;
    let born = launch(plan, CloneCall::find(), &mut stack()?, None)?;
    let Born { pid, failure, .. } = born;
    let _ = process::wait(Target::Process(pid), Wait::UNTIL_END);
    match failure {
        None => Ok(()),
        Some((stage, errno)) => Err(Error::Start(plan.explain(stage, errno).to_string())),
    }
}

/// A stack for the children.
pub(in crate::serve) fn stack() -> Result<ChildStack, Error> {
    ChildStack::new()
        .map_err(|errno| Error::start("no memory for the stack of a newborn child", errno))
}

/// Makes a child by the plan, which becomes the program if there is a `target`.
pub(in crate::serve) fn launch(
    plan: &Plan,
    call: CloneCall,
    stack: &mut ChildStack,
    target: Option<&ExecTarget>,
) -> Result<Born, Error> {
    let mut environment = plan.environment();
    let launch = Launch {
        call,
        descriptors: Descriptors::Inherit,
        connection: None,
        steps: plan.steps(),
        target,
        environment: environment.finish(),
        // One child: CHLD tells of its end as well, and of its stops besides.
        want_pidfd: false,
        namespaces: 0,
        cgroup: None,
        pid_to: None,
        traced: false,
    };
    let born = child::spawn(stack, launch).map_err(|errno| {
        Error::start(
            format!("no process for '{}'", Path::new(plan.name()).display()),
            errno,
        )
    })?;
    if born.killed {
        let _ = process::wait(Target::Process(born.pid), Wait::UNTIL_END);
        let program = plan.name();
        return Err(Error::Start(SpawnTrouble::Killed { program }.to_string()));
    }
    Ok(born)
}
