//! How far handlers are kept from everything else: containment, sandbox, filter and limits.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use super::seccomp::FilterFile;

/// What is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Isolation {
    /// Whether all that a handler has started ends with it. A sandbox with processes of its own
    /// implies that.
    pub contains: bool,
    /// The sandbox that handlers start in, if they do.
    pub sandbox: Option<Sandbox>,
    /// Which system calls handlers may make.
    pub seccomp: Seccomp,
    /// What one handler may use.
    pub handler_max: ResourceMax,
    /// What all handlers of the service may use together.
    pub service_max: ResourceMax,
}

impl Isolation {
    /// Whether all that a handler has started ends with it. Limits imply that: what outlives its handler
    /// would take from another's.
    pub fn is_contained(&self) -> bool {
        self.contains
            || self.needs_cgroup()
            || self
                .sandbox
                .as_ref()
                .is_some_and(|it| it.parts.has(Part::Pid))
    }

    /// Whether paths of handlers are those of a root directory of their own.
    pub fn has_own_root(&self) -> bool {
        let sandbox = self.sandbox.as_ref();
        sandbox.is_some_and(|it| it.parts.has(Part::Mount))
    }

    /// The file that says which system calls may be made, if there is one.
    pub fn filter_file(&self) -> Option<&FilterFile> {
        match &self.seccomp {
            Seccomp::File(file) => Some(file),
            _ => None,
        }
    }

    /// Whether anything is asked for that only control groups can do.
    pub fn needs_cgroup(&self) -> bool {
        !self.handler_max.is_empty() || !self.service_max.is_empty()
    }
}

/// A part of a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Part {
    /// A user namespace: no user of the host, and no rights over it.
    User = 1,
    /// A PID namespace for each handler, which is process 1 there.
    Pid = 1 << 1,
    /// A root directory of its own, read-only, with a /tmp and a /proc for each handler.
    Mount = 1 << 2,
    /// A network namespace without any interface: the connection is all there is.
    Net = 1 << 3,
    /// An IPC namespace (System V IPC, POSIX message queues).
    Ipc = 1 << 4,
    /// A UTS namespace: a host name of its own.
    Uts = 1 << 5,
    /// A cgroup namespace.
    Cgroup = 1 << 6,
    /// No capability, and none to be had (`PR_SET_NO_NEW_PRIVS`).
    Caps = 1 << 7,
    /// The default filter of system calls.
    Seccomp = 1 << 8,
    /// Paths, TCP ports, and sockets and processes of others by landlock(7).
    Landlock = 1 << 9,
}

/// All parts, with their names in `--sandbox`.
pub const PARTS: [(&str, Part); 10] = [
    ("user", Part::User),
    ("pid", Part::Pid),
    ("mount", Part::Mount),
    ("net", Part::Net),
    ("ipc", Part::Ipc),
    ("uts", Part::Uts),
    ("cgroup", Part::Cgroup),
    ("caps", Part::Caps),
    ("seccomp", Part::Seccomp),
    ("landlock", Part::Landlock),
];

/// A set of parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Parts(u16);

impl Parts {
    /// No part.
    pub const NONE: Self = Self(0);
    /// All but Landlock, for which the mount namespace stands in.
    pub const STRICT: Self = Self((1 << 9) - 1);

    /// These and another one.
    #[must_use]
    pub fn with(self, part: Part) -> Self {
        Self(self.0 | part as u16)
    }

    /// These without one.
    #[must_use]
    pub fn without(self, part: Part) -> Self {
        Self(self.0 & !(part as u16))
    }

    /// Whether a part is among these.
    pub fn has(self, part: Part) -> bool {
        self.0 & part as u16 != 0
    }

    /// Whether each handler has a mount namespace of its own.
    pub fn has_mounts(self) -> bool {
        self.has(Part::Pid) || self.has(Part::Mount)
    }

    /// The names of these, in the order of [`PARTS`].
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = PARTS.into_iter();
        all.filter(move |(_, part)| self.has(*part))
            .map(|(name, _)| name)
    }
}

/// The sandbox of a service's handlers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// What it consists of.
    pub parts: Parts,
    /// Whether handlers may use the network.
    pub shares_net: bool,
    /// The user and group id inside, if they aren't those outside.
    pub user: Option<(u32, u32)>,
    /// The host name inside.
    pub host_name: OsString,
    /// What is mounted besides, in this order.
    pub mounts: Vec<Mount>,
}

/// The host name inside a sandbox, where it isn't said.
pub const HOST_NAME: &str = "sandbox";

/// Something that is mounted in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What it is.
    pub kind: MountKind,
    /// Where it is inside: an absolute path without `..`.
    pub at: PathBuf,
}

/// What is mounted in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// A file or directory of the host, read-only: an absolute path.
    ReadOnly(PathBuf),
    /// A file or directory of the host, which handlers may change: an absolute path.
    ReadWrite(PathBuf),
    /// A file system in memory for each handler, of at most so many bytes.
    Memory(u64),
}

/// The size of a file system in memory, where it isn't said.
pub const MEMORY_SIZE: u64 = 64 << 20;

/// Which system calls handlers may make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// As the sandbox has it: the default list if that is among its parts, or all.
    #[default]
    Unset,
    /// All of them.
    None,
    /// Not those of the default list.
    Default,
    /// All, but the log says which the default list would have refused.
    Log,
    /// As a file says.
    File(Arc<FilterFile>),
}

/// What handlers may use, where that is limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceMax {
    /// Memory, in bytes (`memory.max`).
    pub memory: Option<u64>,
    /// The number of processes and threads (`pids.max`).
    pub pids: Option<u32>,
    /// CPU time, in percent of one CPU (`cpu.max`).
    pub cpu: Option<u32>,
}

impl ResourceMax {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
