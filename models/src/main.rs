//! Runs what the threads of skd share under many schedules (see CONTRIBUTING.md).
//!
//! The files are skd's own, built with shuttle's primitives in place of the standard library's. A
//! wake-up that is lost is a deadlock, which shuttle reports with the schedule.

#![allow(dead_code)]

mod config {
    pub use skd::config::{Rate, Source};
}

mod sys {
    pub mod events;
    pub mod sync {
        pub use shuttle::sync::{Mutex, MutexGuard, PoisonError, atomic};
    }
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

fn main() {
    for (name, model) in serve::admission::models::ALL {
        println!("{name}");
        // All schedules would take hours: those with three switches at the worst moments, and
        // others at random.
        shuttle::check_pct(*model, 10_000, 3);
        shuttle::check_random(*model, 10_000);
    }
}
