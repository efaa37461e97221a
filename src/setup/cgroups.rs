//! The control groups of this skd (cgroups(7), version 2): a group below its own, with a group for
//! each service that needs some.
//!
//! ```text
//! own group, delegated to skd or root's
//! └─ skd-PID           the base group
//!    ├─ daemon         skd itself, where it can't stay in its own group
//!    └─ service-NAME   what handlers of a service may use together
//!       ├─ 1           a handler
//!       └─ 2           another one
//! ```

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, fchownat, getpid};
use serde::{Deserialize, Serialize};

use crate::config::{Daemon, Identity, ResourceMax, Service};
use crate::error::{At, Error};
use crate::sys::cgroup::{self, OwnGroup};
use crate::sys::descriptors::{self, SavedDescriptors};

/// The group of skd itself, and of those of its processes that are no handlers.
pub(super) const OWN: &str = "daemon";

/// The base group.
#[derive(Debug)]
pub struct Base {
    /// The group that skd was started in.
    pub(super) parent: OwnedFd,
    pub(super) parent_path: PathBuf,
    /// The name of the base group in that.
    pub(super) name: String,
    pub(super) directory: OwnedFd,
    /// Whether skd has moved to a group of its own in the base group.
    pub(super) is_moved: bool,
    /// The controllers that skd has enabled in the group that it was started in.
    pub(super) enabled: Vec<String>,
    /// The process that removes it when a start fails, unless another does.
    maker: Option<Pid>,
}

/// The base group as it is saved for the next binary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedBase {
    parent: i32,
    parent_path: PathBuf,
    name: String,
    directory: i32,
    is_moved: bool,
    enabled: Vec<String>,
}

/// The controllers that limits need.
fn controllers<'a>(limits: impl IntoIterator<Item = &'a ResourceMax>) -> Vec<&'static str> {
    let (mut memory, mut pids, mut cpu) = (false, false, false);
    for limit in limits {
        memory |= limit.memory.is_some();
        pids |= limit.pids.is_some();
        cpu |= limit.cpu.is_some();
    }
    let all = [("memory", memory), ("pids", pids), ("cpu", cpu)];
    let needed = all.into_iter().filter(|(_, is_needed)| *is_needed);
    needed.map(|(name, _)| name).collect()
}

/// The controllers that a service needs.
fn of_service(service: &Service) -> Vec<&'static str> {
    let isolation = &service.isolation;
    controllers([&isolation.handler_max, &isolation.service_max])
}

/// The files of a group that have limits.
const LIMITS: [&str; 4] = ["memory.max", "memory.swap.max", "pids.max", "cpu.max"];

/// What is written to the files of a group with these limits.
fn settings(limit: &ResourceMax) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    if let Some(memory) = limit.memory {
        all.push(("memory.max", memory.to_string()));
        // Else the limit would be one of main memory alone.
        all.push(("memory.swap.max", "0".into()));
    }
    if let Some(pids) = limit.pids {
        all.push(("pids.max", pids.to_string()));
    }
    if let Some(percent) = limit.cpu {
        // Of each 100 ms.
        all.push(("cpu.max", format!("{} 100000", u64::from(percent) * 1000)));
    }
    all
}

/// What is written to the files of each handler's group of a service.
pub fn of_handlers(service: &Service) -> Vec<(&'static str, String)> {
    let isolation = &service.isolation;
    let mut all = settings(&isolation.handler_max);
    if of_service(service).contains(&"memory") {
        // A handler is killed as a whole: what would be left of it is in an unknown state.
        all.push(("memory.oom.group", "1".into()));
    }
    all
}

/// Returns the base group, if it can be made and a service needs it. If it can't, that is an error
/// only where there are limits, which nothing else can keep: containment has other ways. Changes the
/// process's own group where that is needed.
pub fn prepare(daemon: &Daemon, services: &[Service]) -> Result<Result<Base, Error>, Error> {
    let needed = needed(services);
    let limited = services.iter().any(|it| it.isolation.needs_cgroup());
    match make(daemon.identity.as_ref(), &needed) {
        Err(error) if limited => Err(about_limits(services, error)),
        made => Ok(made),
    }
}

/// Whether a service has a use for groups.
pub fn are_wanted(services: &[Service]) -> bool {
    let mut isolations = services.iter().map(|service| &service.isolation);
    isolations.any(|isolation| isolation.is_contained() || isolation.needs_cgroup())
}

fn needed(services: &[Service]) -> Vec<&'static str> {
    let limits = services.iter().map(|service| &service.isolation);
    controllers(limits.flat_map(|isolation| [&isolation.handler_max, &isolation.service_max]))
}

/// The error of the first service that has limits.
fn about_limits(services: &[Service], error: Error) -> Error {
    let error = error.about("limits of memory, processes or CPU time can't be set: ");
    let limited = services.iter().find(|it| it.isolation.needs_cgroup());
    match limited {
        Some(service) => error.about(&format!("{}{}: ", service.label(), option(service))),
        None => error,
    }
}

/// The first option of a service that limits something.
fn option(service: &Service) -> &'static str {
    let isolation = &service.isolation;
    let of_handlers = controllers([&isolation.handler_max]);
    let of_service = controllers([&isolation.service_max]);
    match (of_handlers.first().copied(), of_service.first().copied()) {
        (Some("memory"), _) => "--memory-max",
        (Some("pids"), _) => "--pids-max",
        (Some(_), _) => "--cpu-max",
        (None, Some("memory")) => "--service-memory-max",
        (None, Some("pids")) => "--service-pids-max",
        (None, _) => "--service-cpu-max",
    }
}

/// Returns the error of [`prepare`], as far as it can be predicted without changing anything.
pub fn check(services: &[Service]) -> Result<(), Error> {
    let probe = || {
        let own = find()?;
        let parent = open_parent(&own)?;
        let name = format!("skd-check-{}", getpid());
        cgroup::make(&parent, &name).map_err(|errno| not_made(&own, errno))?;
        let _ = cgroup::remove(&parent, &name);
        has_controllers(&own, &parent, &needed(services))
    };
    let limited = services.iter().any(|it| it.isolation.needs_cgroup());
    probe().map_err(|error| match limited {
        true => about_limits(services, error),
        false => error,
    })
}

fn find() -> Result<OwnGroup, Error> {
    OwnGroup::find().ok_or_else(|| {
        let text = "no control group of version 2 is in sight for this process: mount the file \
                    system (cgroup2) where it can see it, or start it in a group that is shown";
        Error::Start(text.into())
    })
}

fn open_parent(own: &OwnGroup) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let opened = open(&own.directory, flags, Mode::empty());
    opened.map_err(|errno| {
        let path = &own.directory;
        let what = format!("the control group {} can't be opened", path.display());
        Error::start(what, At(errno, path))
    })
}

fn not_made(own: &OwnGroup, errno: Errno) -> Error {
    let what = format!(
        "no control group can be made in {}",
        own.directory.display()
    );
    match errno {
        Errno::EACCES | Errno::EPERM => Error::Start(format!(
            "{what}: it isn't delegated to this user; under systemd say Delegate=yes in the unit"
        )),
        Errno::EROFS => Error::Start(format!(
            "{what}: it is mounted read-only, as in most containers; mount it writable"
        )),
        errno => Error::start(what, errno),
    }
}

/// Fails where a controller can't be had.
fn has_controllers(own: &OwnGroup, parent: &OwnedFd, needed: &[&str]) -> Result<(), Error> {
    let known = cgroup::read(parent, "cgroup.controllers").unwrap_or_default();
    let known: Vec<_> = known.split_whitespace().collect();
    let Some(missing) = needed.iter().find(|needed| !known.contains(*needed)) else {
        return Ok(());
    };
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mut of_version_1 = groups.lines().filter_map(|line| line.split(':').nth(1));
    let is_taken = of_version_1.any(|names| names.split(',').any(|name| name == *missing));
    let file = own.directory.join("cgroup.controllers");
    let file = file.display();
    Err(Error::Start(match is_taken {
        true => format!(
            "the controller {missing} isn't in {file}, since a hierarchy of version 1 has it; start \
             the machine with cgroup_no_v1=all, or systemd.unified_cgroup_hierarchy=1"
        ),
        false => format!(
            "the controller {missing} isn't in {file}: the group above doesn't have it enabled; \
             under systemd say Delegate=yes in the unit"
        ),
    }))
}

fn make(identity: Option<&Identity>, needed: &[&str]) -> Result<Base, Error> {
    let own = find()?;
    let parent = open_parent(&own)?;
    has_controllers(&own, &parent, needed)?;
    let name = make_base(&parent).map_err(|errno| not_made(&own, errno))?;
    let failed = |what: &'static str| {
        let path = own.directory.join(&name);
        move |errno| Error::start(format!("{what} {}", path.display()), errno)
    };
    let directory = cgroup::open(&parent, &name).map_err(failed("can't open the control group"))?;
    let mut base = Base {
        parent,
        parent_path: own.directory.clone(),
        directory,
        is_moved: false,
        enabled: Vec::new(),
        maker: Some(getpid()),
        name: name.clone(),
    };
    let enabled = cgroup::read(&base.parent, "cgroup.subtree_control").unwrap_or_default();
    let enabled: Vec<_> = enabled.split_whitespace().collect();
    let missing = needed.iter().filter(|needed| !enabled.contains(*needed));
    let missing: Vec<_> = missing.map(|name| (*name).to_owned()).collect();
    // Controllers are for groups without processes of their own, unless it is the topmost. And a process
    // that isn't root may move others only below a group that it owns.
    if identity.is_some() || (!missing.is_empty() && !own.is_root) {
        base.move_in().map_err(failed("can't move to a group in"))?;
    }
    for name in missing {
        let value = format!("+{name}");
        let set = cgroup::write(&base.parent, "cgroup.subtree_control", &value);
        set.map_err(|errno| not_enabled(&own, &name, errno))?;
        base.enabled.push(name);
    }
    base.enable(&base.directory, needed)?;
    if let Some(user) = identity {
        let given = give(&base.directory, user);
        given.map_err(failed(
            "can't give the user of --daemon-user the control group",
        ))?;
    }
    Ok(base)
}

fn not_enabled(own: &OwnGroup, name: &str, errno: Errno) -> Error {
    let file = own.directory.join("cgroup.subtree_control");
    let what = format!(
        "the controller {name} can't be enabled in {}",
        file.display()
    );
    match errno {
        Errno::EBUSY => Error::Start(format!(
            "{what}: other processes are in that group; start skd in a group of its own, as a unit of \
             systemd with Delegate=yes is"
        )),
        Errno::EACCES | Errno::EPERM => Error::Start(format!(
            "{what}: it isn't delegated to this user; under systemd say Delegate=yes in the unit"
        )),
        errno => Error::start(what, errno),
    }
}

/// Makes the base group, and returns its name.
fn make_base(parent: &OwnedFd) -> Result<String, Errno> {
    // One of this name may be left of another process, or be that of one in another namespace.
    for number in 1..100 {
        let name = match number {
            1 => format!("skd-{}", getpid()),
            number => format!("skd-{}-{number}", getpid()),
        };
        match cgroup::make(parent, &name) {
            Err(Errno::EEXIST) => {}
            made => return made.map(|()| name),
        }
    }
    Err(Errno::EEXIST)
}

/// Gives a user what it needs to make groups, and to move processes between them.
fn give(group: &OwnedFd, user: &Identity) -> Result<(), Errno> {
    let files = [
        ".",
        "cgroup.procs",
        "cgroup.subtree_control",
        "cgroup.threads",
    ];
    files.into_iter().try_for_each(|file| {
        let (uid, gid) = (Some(user.uid), Some(user.gid));
        fchownat(group, file, uid, gid, AtFlags::empty())
    })
}

/// The name of a service's group.
fn group_name(service: &str) -> String {
    let mut name = String::from("service-");
    for byte in service.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => name.push(byte.into()),
            // Of no other service.
            byte => drop(write!(name, "%{byte:02x}")),
        }
    }
    if name.len() > 128 {
        let mut hasher = DefaultHasher::new();
        service.hash(&mut hasher);
        name.truncate(100);
        let _ = write!(name, "%{:016x}", hasher.finish());
    }
    name
}

impl Base {
    /// Makes the group of a service, or finds it, and sets what its handlers may use together. Returns
    /// it with its name.
    pub fn service(
        &self,
        service: &Service,
        identity: Option<&Identity>,
    ) -> Result<(OwnedFd, String), Error> {
        let name = group_name(&service.name);
        let path = self.path().join(&name);
        let failed = |errno| {
            let what = format!("the control group {} can't be made", path.display());
            Error::start(what, errno)
        };
        match cgroup::make(&self.directory, &name) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let group = cgroup::open(&self.directory, &name).map_err(failed)?;
        self.enable(&group, &of_service(service))?;
        let set = settings(&service.isolation.service_max);
        for file in LIMITS {
            if set.iter().any(|(name, _)| *name == file) {
                continue;
            }
            // Of an earlier configuration. Without the controller there is none.
            let _ = cgroup::write(&group, file, "max");
        }
        for (file, value) in &set {
            match cgroup::write(&group, file, value) {
                // Swap isn't accounted for on each machine.
                Err(Errno::ENOENT) if *file == "memory.swap.max" => {}
                set => set.map_err(|errno| {
                    let what = format!("{} can't be set to {value}", path.join(file).display());
                    Error::start(what, errno)
                })?,
            }
        }
        if let Some(user) = identity.filter(|_| self.maker.is_some()) {
            give(&group, user).map_err(failed)?;
        }
        Ok((group, name))
    }

    /// Returns the error of [`Self::require`], as far as it can be predicted.
    pub fn check(&self, services: &[Service]) -> Result<(), Error> {
        let checked = has_controllers(&self.own(), &self.parent, &needed(services));
        checked.map_err(|error| about_limits(services, error))
    }

    /// Enables the controllers that services need, which aren't those that were there when it was made.
    pub fn require(&mut self, services: &[Service]) -> Result<(), Error> {
        self.check(services)?;
        let known = cgroup::read(&self.directory, "cgroup.controllers").unwrap_or_default();
        let known: Vec<_> = known.split_whitespace().collect();
        let needed = needed(services);
        for name in needed.iter().filter(|name| !known.contains(*name)) {
            let set = cgroup::write(&self.parent, "cgroup.subtree_control", &format!("+{name}"));
            let set = set.map_err(|errno| not_enabled(&self.own(), name, errno));
            set.map_err(|error| {
                about_limits(services, error).about("a reload can't do it; restart skd: ")
            })?;
            self.enabled.push((*name).to_owned());
        }
        self.enable(&self.directory, &needed)
    }

    fn own(&self) -> OwnGroup {
        OwnGroup {
            directory: self.parent_path.clone(),
            is_root: false,
        }
    }

    /// The path of its directory at the start.
    pub fn path(&self) -> PathBuf {
        self.parent_path.join(&self.name)
    }

    /// Opens the group of a service that isn't configured any more.
    pub fn open(&self, name: &str) -> Result<OwnedFd, Errno> {
        cgroup::open(&self.directory, name)
    }

    /// A copy of the descriptor of its directory.
    pub fn copy(&self) -> Result<OwnedFd, Errno> {
        self.directory.try_clone().map_err(|_| Errno::EMFILE)
    }

    /// Removes the groups of handlers that have no process, which an earlier binary has left. (A group
    /// that is in use is refused.) Those of services go too, but for these.
    pub fn remove_empty(&self, services: &[&str]) {
        for name in cgroup::list(&self.directory).unwrap_or_default() {
            let Ok(group) = cgroup::open(&self.directory, &name) else {
                continue;
            };
            for below in cgroup::list(&group).unwrap_or_default() {
                let _ = cgroup::remove(&group, &below);
            }
            if !services.contains(&&name[..]) {
                let _ = cgroup::remove(&self.directory, &name);
            }
        }
    }

    /// Whether this process has made it, so that it has no janitor yet.
    pub fn is_made_here(&self) -> bool {
        self.maker == Some(getpid())
    }

    /// Leaves it to the janitor.
    pub(super) fn leave(&mut self) {
        self.maker = None;
    }

    fn move_in(&mut self) -> Result<(), Errno> {
        cgroup::make(&self.directory, OWN)?;
        let own = cgroup::open(&self.directory, OWN)?;
        cgroup::write(own, "cgroup.procs", "0")?;
        self.is_moved = true;
        Ok(())
    }

    fn enable(&self, group: &OwnedFd, controllers: &[&str]) -> Result<(), Error> {
        for name in controllers {
            let set = cgroup::write(group, "cgroup.subtree_control", &format!("+{name}"));
            set.map_err(|errno| {
                let path = self.path();
                let what = format!(
                    "the controller {name} can't be enabled in {}",
                    path.display()
                );
                Error::start(what, errno)
            })?;
        }
        Ok(())
    }

    /// Removes it, with all that is in it but this process.
    pub(super) fn remove(&self) -> bool {
        let names = cgroup::list(&self.directory).unwrap_or_default();
        let services = names.iter().filter(|name| *name != OWN);
        // All of them are tried.
        let left = services.filter(|name| !cgroup::clear(&self.directory, name));
        if left.count() > 0 {
            return false;
        }
        if self.is_moved {
            let disable = |group: &OwnedFd, name: &str| {
                let _ = cgroup::write(group, "cgroup.subtree_control", &format!("-{name}"));
            };
            for name in ["memory", "pids", "cpu"] {
                disable(&self.directory, name);
            }
            for name in &self.enabled {
                disable(&self.parent, name);
            }
            let _ = cgroup::write(&self.parent, "cgroup.procs", "0");
            let _ = cgroup::remove(&self.directory, OWN);
        }
        matches!(
            cgroup::remove(&self.parent, &self.name),
            Ok(()) | Err(Errno::ENOENT)
        )
    }

    /// Saves it for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedBase, Errno> {
        Ok(SavedBase {
            parent: to.pass(&self.parent)?,
            parent_path: self.parent_path.clone(),
            name: self.name.clone(),
            directory: to.pass(&self.directory)?,
            is_moved: self.is_moved,
            enabled: self.enabled.clone(),
        })
    }

    /// Restores that of the previous binary.
    pub fn restore(saved: SavedBase) -> Result<Self, Errno> {
        Ok(Self {
            parent: descriptors::claim(saved.parent)?,
            parent_path: saved.parent_path,
            name: saved.name,
            directory: descriptors::claim(saved.directory)?,
            is_moved: saved.is_moved,
            enabled: saved.enabled,
            maker: None,
        })
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if self.is_made_here() {
            self.remove();
        }
    }
}

impl AsFd for Base {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_service_has_a_name_of_its_own() {
        assert_eq!(group_name("echo-1"), "service-echo-1");
        assert_eq!(group_name("a/b"), "service-a%2fb");
        assert_eq!(group_name("a%2fb"), "service-a%252fb");
        let long = group_name(&"é".repeat(100));
        assert!(long.len() <= 128 && long != group_name(&"é".repeat(101)));
    }

    #[test]
    fn limits_are_written_as_the_kernel_reads_them() {
        let limit = ResourceMax {
            memory: Some(1 << 20),
            pids: Some(7),
            cpu: Some(150),
        };
        let expected = [
            ("memory.max", "1048576"),
            ("memory.swap.max", "0"),
            ("pids.max", "7"),
            ("cpu.max", "150000 100000"),
        ];
        let set = settings(&limit);
        let set: Vec<_> = set
            .iter()
            .map(|(file, value)| (*file, &value[..]))
            .collect();
        assert_eq!(set, expected);
        assert_eq!(controllers([&limit]), ["memory", "pids", "cpu"]);
    }
}
