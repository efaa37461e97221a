//! Prestarted handlers, and how a test recognises them: they wait for a connection in recvmsg(2), on a descriptor that
//! no handler starts with, and serve without another exec.

use super::process::{children, exists, stat_field};
use super::{DEADLINE, Instance, poll_for, requires_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;

/// A way of starting handlers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// When a client comes.
    Exec,
    /// With so many prestarted handlers.
    Warm(usize),
    /// With a fork server: a prestarted template, of which each handler is a copy. It gets as far as is known to be
    /// harmless.
    Fork,
    /// The same; the template gets to the entry of its program.
    Start,
    /// The same; the template gets as far as isn't known to be harmful.
    Shared,
}

/// Whether handlers can be prestarted on this architecture. Elsewhere tests of all ways are tests of one.
const CAN_PRESTART: bool = cfg!(target_arch = "x86_64");

impl Way {
    pub const ALL: &[Self] = match CAN_PRESTART {
        true => &[
            Self::Exec,
            Self::Warm(4),
            Self::Fork,
            Self::Start,
            Self::Shared,
        ],
        false => &[Self::Exec],
    };

    /// The ways that prestart something.
    pub const PRESTARTED: &[Self] = Self::ALL.split_at(1).1;

    /// One of each kind, for long tests of what doesn't depend on how far a program gets before its client comes.
    pub const KINDS: &[Self] = match CAN_PRESTART {
        true => &[Self::Exec, Self::Warm(4), Self::Fork],
        false => &[Self::Exec],
    };

    /// Those of the kinds that prestart something.
    pub const PRESTARTED_KINDS: &[Self] = Self::KINDS.split_at(1).1;

    /// The options for this way.
    pub fn options(self) -> Vec<String> {
        match self {
            Self::Exec => Vec::new(),
            Self::Warm(count) => vec![format!("--warm={count}")],
            Self::Fork => vec!["--fork-server".to_owned()],
            Self::Start => vec!["--fork-server=start".to_owned()],
            Self::Shared => vec!["--fork-server=shared".to_owned()],
        }
    }

    /// Whether handlers are copies of a template.
    pub fn copies(self) -> bool {
        matches!(self, Self::Fork | Self::Start | Self::Shared)
    }

    /// The way of a skd, by its command line.
    pub fn of(skd: &Instance) -> Self {
        let mut words = skd.command.iter().filter_map(|word| word.to_str());
        let way = words.find_map(|word| match word {
            "--fork-server" => Some(Self::Fork),
            "--fork-server=start" => Some(Self::Start),
            "--fork-server=shared" => Some(Self::Shared),
            word => word.strip_prefix("--warm=")?.parse().ok().map(Self::Warm),
        });
        way.unwrap_or(Self::Exec)
    }

    /// The number of prestarted handlers while no client comes.
    pub fn pool_size(self) -> usize {
        match self {
            Self::Exec => 0,
            Self::Warm(count) => count,
            Self::Fork | Self::Start | Self::Shared => 1,
        }
    }

    /// Waits until the whole pool waits for clients, and returns it. Only root may inspect it.
    #[track_caller]
    pub fn ready(self, skd: &Instance) -> Vec<i32> {
        if self != Self::Exec {
            requires_root();
        }
        let mut found = Vec::new();
        skd.wait_until("the pool waits for clients", || {
            found = parked(skd.pid());
            found.len() == self.pool_size()
        });
        found
    }

    /// Connects a client that sends nothing, and returns it with its handler, a prestarted one or a copy of
    /// the template. The program may not end before it reads.
    #[track_caller]
    pub fn connect(self, skd: &Instance) -> (TcpStream, i32) {
        let ready = self.ready(skd);
        let exec_ids: Vec<u64> = ready.iter().copied().filter_map(exec_id).collect();
        let programs: Vec<_> = ready.iter().copied().map(program).collect();
        assert_eq!(exec_ids.len(), self.pool_size());
        let (before, its_own) = (self.serving(skd), exec_id(skd.pid()));
        let (client, mut handler) = (skd.connect(), None);
        skd.wait_until("a prestarted handler serves", || {
            let mut serving = self.serving(skd);
            serving.retain(|pid| !before.contains(pid));
            handler = serving.into_iter().find(|&pid| {
                let same = exec_id(pid).is_some_and(|exec_id| exec_ids.contains(&exec_id));
                // It may have executed another program since.
                let same = || same || !programs.contains(&program(pid));
                match self {
                    Self::Exec => exec_id(pid).is_some_and(|exec_id| Some(exec_id) != its_own),
                    Self::Warm(_) => ready.contains(&pid) && same(),
                    Self::Fork | Self::Start | Self::Shared => !ready.contains(&pid) && same(),
                }
            });
            handler.is_some()
        });
        (client, handler.expect("a handler"))
    }

    /// Waits until nothing but the pool is left of skd's children.
    #[track_caller]
    pub fn wait_idle(self, skd: &Instance) {
        skd.wait_until("nothing but the pool is left", || {
            let found = parked(skd.pid());
            found.len() == self.pool_size() && children(skd.pid()).len() == found.len()
        });
    }

    /// Waits until all prestarted handlers wait and `count` others serve, and returns these. A prestarted handler
    /// that wakes for a moment looks like a serving one.
    #[track_caller]
    pub fn wait_serving(self, skd: &Instance, count: usize) -> Vec<i32> {
        let mut found = Vec::new();
        skd.wait_until(&format!("{count} handlers serve"), || {
            let ready = parked(skd.pid()).len();
            found = self.serving(skd);
            ready == self.pool_size() && found.len() == count
        });
        found
    }

    /// The children of skd that serve, or ended and aren't reaped, or start. With a complete pool, those
    /// that serve.
    pub fn serving(self, skd: &Instance) -> Vec<i32> {
        let mut found = skd.children();
        found.retain(|&pid| exists(pid) && !is_parked(pid));
        found
    }
}

/// Whether tracing takes CAP_SYS_PTRACE here: under Yama with a `ptrace_scope` of 2. Then nothing is prestarted by a skd
/// without it, which all of skd is that runs as another user.
pub fn tracing_takes_a_right() -> bool {
    let scope = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    scope.is_ok_and(|scope| scope.trim() == "2")
}

/// The children of `skd` that wait for a connection.
pub fn parked(skd: i32) -> Vec<i32> {
    let mut found = children(skd);
    found.retain(|&pid| is_parked(pid));
    found
}

/// Whether `pid` waits for a connection to serve. False for a handler that waits for a message of its client.
pub fn is_parked(pid: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let mut words = text.split(' ');
    let call = words.next() == Some(&libc::SYS_recvmsg.to_string());
    let descriptor = words.next().and_then(|word| word.strip_prefix("0x"));
    let descriptor = descriptor.and_then(|figures| i32::from_str_radix(figures, 16).ok());
    call && descriptor.is_some_and(|descriptor| descriptor > 2)
}

/// Kills a child of skd if it is a waiting prestarted handler, and returns whether it was. A handler with a client
/// is not killed: the process is stopped first, so that it can't begin to serve.
pub fn slay_if_parked(pid: i32) -> bool {
    if !is_parked(pid) {
        return false;
    }
    let (process, state) = (Pid::from_raw(pid), || stat_field(pid, 3));
    if kill(process, Signal::SIGSTOP).is_err() {
        return false;
    }
    let stopped = || (state().is_none_or(|state| "TtZX".contains(&state))).then_some(());
    let stopped = poll_for(DEADLINE, stopped).is_some();
    let slain = stopped && is_parked(pid);
    let signal = if slain {
        Signal::SIGKILL
    } else {
        Signal::SIGCONT
    };
    let _ = kill(process, signal);
    slain
}

/// The executable of a process; `None` if the process has ended.
fn program(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Identifies an exec: the random address of the stack, which forks of the process share. `None` if the process
/// has ended.
pub fn exec_id(pid: i32) -> Option<u64> {
    stat_field(pid, 28)?
        .parse()
        .ok()
        .filter(|&start| start != 0)
}
