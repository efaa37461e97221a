//! Runs what the threads of skd share under many schedules (see CONTRIBUTING.md).
//!
//! The files are skd's own, built with shuttle's primitives in place of the standard library's, and
//! with a few processes in place of the kernel's (`kernel.rs`). A wake-up that is lost is a
//! deadlock, which shuttle reports with the schedule. A thread that should sleep and doesn't takes
//! too many steps.

#![allow(dead_code)]

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, MaxSteps, Runner};

mod kernel;

mod config {
    pub use skd::config::{Prestart, Rate, ServiceId, Sharing, Source};
}

mod error {
    pub use skd::error::Error;
}

mod report {
    pub use skd::report::{Event, Extent, ParkedAt, Trouble, Watched, Way};

    /// Instead of a line of the log: clients of a model wait for what is ready.
    pub fn event(event: Event<'_>) {
        if let Event::Ready(..) = event {
            crate::kernel::with(|kernel| kernel.ready += 1);
        }
    }
}

mod sys {
    pub mod child {
        #[path = "../../../../src/sys/child/newborn.rs"]
        mod newborn;

        pub mod models;
    }
    pub mod descriptors {
        pub use skd::sys::descriptors::memory_file;
    }
    pub mod environment {
        /// In the place of a handler's environment.
        pub struct Environment;

        impl Environment {
            pub fn rebase(&mut self, _: &[std::ffi::CString]) {}
        }
    }
    pub mod events;
    pub mod memory {
        /// In the place of a newborn child's stack.
        #[derive(Debug)]
        pub struct Stack;

        impl Stack {
            pub fn new() -> Result<Self, nix::errno::Errno> {
                Ok(Self)
            }
        }
    }
    pub mod passing;
    pub mod process;
    pub mod signals {
        pub use super::process::kill;
    }
    pub mod sockets;
    pub mod sync;
    pub mod thread;
}

mod serve {
    pub mod admission {
        #[path = "../../../../src/serve/admission/rules_handle.rs"]
        mod rules_handle;
        #[path = "../../../../src/serve/admission/slots.rs"]
        mod slots;
        #[path = "../../../../src/serve/admission/sources.rs"]
        mod sources;
        #[path = "../../../../src/serve/admission/token_bucket.rs"]
        mod token_bucket;

        /// In the place of the rules: whether they allow clients.
        mod rules {
            #[derive(Debug)]
            pub struct Rules(pub bool);
        }

        pub mod models;
    }
}

mod child {
    pub mod cgroups {
        /// In the place of control groups, of which the models have none.
        #[derive(Debug)]
        pub enum Cgroup {}

        #[derive(Debug)]
        pub enum Cgroups {}
    }
    pub mod jail {
        /// In the place of sandboxes, of which the models have none.
        #[derive(Debug)]
        pub enum Jail {}

        impl Jail {
            pub fn is_init(&self) -> bool {
                match *self {}
            }
        }
    }
    pub mod plan;
    pub mod spawn {
        use std::os::fd::OwnedFd;

        #[derive(Debug)]
        pub struct Spawned {
            pub pid: nix::unistd::Pid,
            pub pidfd: Option<OwnedFd>,
            pub way: crate::report::Way,
            pub cgroup: Option<super::cgroups::Cgroup>,
            pub is_init: bool,
        }

        /// In the place of what starts handlers.
        pub struct Spawner;
    }

    pub mod prestart {
        #[path = "../../../../src/child/prestart/hand_off.rs"]
        mod hand_off;
        #[path = "../../../../src/child/prestart/keeper.rs"]
        mod keeper;
        #[path = "../../../../src/child/prestart/kinds.rs"]
        mod kinds;
        #[path = "../../../../src/child/prestart/parked.rs"]
        mod parked;
        #[path = "../../../../src/child/prestart/pool.rs"]
        mod pool;
        #[path = "../../../../src/child/prestart/state.rs"]
        mod state;
        #[path = "../../../../src/child/prestart/verdict.rs"]
        mod verdict;

        mod failure {
            use super::kinds::Kinds;

            pub enum Failure {
                Unfit(String),
                Short(String),
                Careless(Kinds),
                Unwanted,
            }
        }
        mod park;
        mod program_files;

        pub mod models;
    }
}

/// A model: what it shows, its threads, and how many schedules of each kind are tried.
type Model = (&'static str, fn(), usize);

fn main() {
    let mut config = Config::new();
    config.stack_size = 256 * 1024;
    config.max_steps = MaxSteps::FailAfter(20_000);
    config.silence_warnings = true;
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let all = [
        serve::admission::models::ALL,
        sys::child::models::ALL,
        child::prestart::models::ALL,
    ];
    for (name, model, schedules) in all.into_iter().flatten().copied() {
        if !name.contains(&wanted) {
            continue;
        }
        println!("{name}");
        // All schedules would take hours: those with three switches at the worst moments, and
        // others at random.
        Runner::new(PctScheduler::new(3, schedules), config.clone()).run(model);
        Runner::new(RandomScheduler::new(schedules), config.clone()).run(model);
    }
}
