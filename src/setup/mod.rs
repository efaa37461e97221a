//! Setting up the process: log, pid file, privileges, readiness, and reading rules files.

pub mod cgroups;
pub mod confine;
pub mod executable;
pub mod janitor;
pub mod lines;
pub mod log;
mod log_file;
pub mod notify;
pub mod pidfile;
pub mod privileges;
pub mod ready;
mod relay;
pub mod rights;
pub mod rules;
pub mod senders;
mod syslog;
pub mod tls_files;
pub mod tls_program;

pub use log::{Detach, Log};
pub use notify::Manager;
pub use pidfile::PidFile;
pub use ready::{Ready, ReadyFd, Side};
pub use relay::Said;
pub use rules::RuleFiles;
pub use senders::{Senders, Starter};
pub use tls_files::{SavedTlsFiles, TlsFiles};
pub use tls_program::{SavedTlsProgram, TlsProgram};
