//! The janitor: a process that ends what is left in the control groups of handlers when skd has ended,
//! however that was, and removes the groups.
//!
//! It is forked twice, as the relay is, so that its parent is init. It watches the process of skd, which
//! stays the same when another binary is executed by it.

use std::os::fd::AsFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, getpid, setsid};

use super::cgroups::Base;
use super::confine::{Process, confine};
use crate::error::Error;
use crate::sys::capabilities::{self, Capabilities, Capability};
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};
use crate::sys::signals;
use crate::sys::{descriptors, events};

/// How often it looks whether what it has killed is gone.
const PAUSE: Duration = Duration::from_millis(10);

/// How long it tries that. A process that hangs in a dead file server takes for ever.
const LIMIT: Duration = Duration::from_secs(600);

/// Starts the janitor of a base group, while there is one thread.
pub fn start(base: &mut Base) -> Result<(), Error> {
    let failed = |errno| Error::start("no process to clean up control groups", errno);
    let skd = process::open_pidfd(getpid()).map_err(failed)?;
    let null = descriptors::null()
        .map_err(|reason| Error::start("no process to clean up control groups", reason))?;
    match process::fork().map_err(failed)? {
        Fork::Parent(child) => match process::wait(Target::Process(child), Wait::UNTIL_END) {
            Ok(Some((_, Change::Ended(Ended::Exited(0))))) => {
                base.leave();
                Ok(())
            }
            _ => Err(failed(nix::errno::Errno::EAGAIN)),
        },
        Fork::Child => match process::fork() {
            Ok(Fork::Child) => {
                base.leave();
                let _ = dup2_stdin(&null);
                let _ = dup2_stdout(&null);
                let _ = dup2_stderr(&null);
                run(&skd, base);
                process::exit_now(0)
            }
            Ok(Fork::Parent(_)) => process::exit_now(0),
            Err(_) => process::exit_now(1),
        },
    }
}

fn run(skd: &impl AsFd, base: &Base) {
    let _ = setsid();
    // A command that kills every process named skd, as pkill(1) does, isn't meant for this one.
    let _ = prctl::set_name(c"cgroup-janitor");
    signals::ignore(&signals::ENDING);
    let (input, output, error) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    descriptors::keep_only(&[
        input.as_fd(),
        output.as_fd(),
        error.as_fd(),
        skd.as_fd(),
        base.parent.as_fd(),
        base.directory.as_fd(),
    ]);
    // The group may be another user's, whom skd has become.
    let _ = capabilities::limit(Capabilities::NONE.with(Capability::Access));
    confine(Process::Janitor(base.parent.as_fd()));
    while events::wait_readable([skd.as_fd()], None) != [true] {}
    let begin = Instant::now();
    while !base.remove() && begin.elapsed() < LIMIT {
        sleep(PAUSE);
    }
}
