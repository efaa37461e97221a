//! How a service's program gets its clients.

use super::duration::Span;

/// Which process accepts a service's connections, and how long the program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// skd accepts, and runs the program for each connection. A service without listeners becomes
    /// its program.
    #[default]
    PerConnection,
    /// The program gets a listening stream socket when a client comes, and skd waits until it ends.
    Wait,
    /// The program is run again whenever it exits, with all sockets if there are some.
    Supervise(Supervise),
}

/// When a supervised program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Supervise {
    /// Whether it is started when a client comes, each time.
    pub on_demand: bool,
    /// How long it may be without clients before it is told to end.
    pub idle_exit: Option<Span>,
}

impl Mode {
    /// When the program runs, if it is supervised.
    pub fn supervised(self) -> Option<Supervise> {
        match self {
            Self::Supervise(supervise) => Some(supervise),
            Self::PerConnection | Self::Wait => None,
        }
    }
}
