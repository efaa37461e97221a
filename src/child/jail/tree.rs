//! What handlers in a sandbox see: their root directory, made of mounts once for a service, and the
//! mounts that each handler has of its own.
//!
//! The root is a small file system in memory with directories, links and copies of files, on which
//! what is shown of the host is mounted. So few mounts: the kernel copies each of them for each handler.

use std::ffi::{CStr, OsStr};
use std::fmt::{self, Display};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, umask};

use super::etc;
use super::files::{Files, is_replaced};
use super::own::{self, Own};
use super::refusal;
use crate::config::{MEMORY_SIZE, Mount, MountKind, Part, Sandbox};
use crate::error::{At, Error};
use crate::sys::child::Step;
use crate::sys::mounts::{self, Attributes, Detached, FileSystem};
use crate::sys::namespaces;

/// What follows from a sandbox that was entered.
#[derive(Debug, Default)]
pub(super) struct Entered {
    /// What each handler does first, in a mount namespace of its own.
    pub(super) steps: Vec<Step>,
}

/// Enters the namespaces of a sandbox, but for the user namespace, in which this process is
/// already, and the PID namespace, which each handler has of its own. Its root directory is then
/// the sandbox's, where that has one, and no process in it can make a user namespace.
///
/// `program` is the path of PROG outside. `user` is the user and group id of handlers inside.
pub(super) fn enter(sandbox: &Sandbox, program: &CStr, user: (u32, u32)) -> Result<Entered, Error> {
    let parts = sandbox.parts;
    let kinds = [
        (
            parts.has(Part::Mount) || parts.has(Part::Pid),
            libc::CLONE_NEWNS,
        ),
        (parts.has(Part::Net), libc::CLONE_NEWNET),
        (parts.has(Part::Ipc), libc::CLONE_NEWIPC),
        (parts.has(Part::Uts), libc::CLONE_NEWUTS),
        (parts.has(Part::Cgroup), libc::CLONE_NEWCGROUP),
    ];
    let kinds = kinds.into_iter().filter(|(is_asked, _)| *is_asked);
    let kinds = kinds.fold(0, |all, (_, kind)| all | kind);
    namespaces::enter(kinds).map_err(|errno| refusal::of_namespaces(parts, kinds, errno))?;
    if parts.has(Part::Uts) {
        let named = namespaces::set_host_name(&sandbox.host_name);
        named.map_err(|errno| Error::start("can't set the host name of the sandbox", errno))?;
    }
    // Of the host's own it would be the limit of all.
    if parts.has(Part::User) {
        namespaces::forbid_users().map_err(refusal::of_limit)?;
    }
    let mut steps = Vec::new();
    // Before the tree has a /proc that is read-only.
    let proc = parts.has(Part::Pid).then(own_proc).transpose()?;
    if parts.has(Part::Mount) {
        steps = build(sandbox, program, user)?;
    } else if parts.has(Part::Pid) {
        mounts::separate(true).map_err(failed)?;
    }
    if let Some(proc) = proc {
        steps.insert(0, Step::Mount(proc));
    }
    Ok(Entered { steps })
}

/// The /proc of each handler.
fn own_proc() -> Result<FileSystem, Error> {
    let locked = mounts::locked_flags(c"/proc").map_err(failed)?;
    Ok(FileSystem {
        kind: c"proc",
        at: c"/proc".into(),
        flags: libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC | locked,
        // The number is known for longer than the word `invisible`.
        parameters: c"hidepid=2".into(),
    })
}

fn failed(errno: Errno) -> Error {
    Error::start("can't build the root directory of the sandbox", errno)
}

/// Of what is shown of the host.
const SHOWN: Attributes = Attributes::NO_SUID.and(Attributes::NO_DEVICES);
const FIXED: Attributes = SHOWN.and(Attributes::READ_ONLY);
/// Of a device.
const DEVICE: Attributes = Attributes::NO_SUID
    .and(Attributes::NO_EXEC)
    .and(Attributes::READ_ONLY);

/// What programs are found in besides /usr, where these aren't links to directories there.
pub(super) const OF_USR: [&str; 6] = ["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// The devices that are shown.
pub(super) const DEVICES: [&str; 5] = ["null", "zero", "full", "urandom", "tty"];

/// Links in the root directory.
const LINKS: [(&str, &str); 8] = [
    ("dev/fd", "/proc/self/fd"),
    ("dev/stdin", "/proc/self/fd/0"),
    ("dev/stdout", "/proc/self/fd/1"),
    ("dev/stderr", "/proc/self/fd/2"),
    ("dev/random", "urandom"),
    ("dev/shm", "/tmp"),
    ("var/tmp", "/tmp"),
    ("var/run", "/run"),
];

/// Builds the root directory and enters it. Returns the steps of handlers there.
fn build(sandbox: &Sandbox, program: &CStr, user: (u32, u32)) -> Result<Vec<Step>, Error> {
    if !mounts::attributes_are_known() {
        return Err(Error::Start(
            "can't build the root directory of the sandbox: the part mount needs Linux 5.12 or \
             later"
                .into(),
        ));
    }
    mounts::separate(false).map_err(failed)?;
    let outside = std::env::current_dir().unwrap_or_default();
    let program = outside.join(OsStr::from_bytes(program.to_bytes()));
    let former = umask(Mode::empty());
    let built = Tree::of(sandbox, &program, user);
    umask(former);
    let tree = built?;
    mounts::restrict(tree.files.root(), FIXED).map_err(failed)?;
    mounts::become_root(tree.files.root()).map_err(refusal::of_pivot)?;
    Ok(tree.own.steps)
}

/// A root directory that is being built.
#[derive(Debug)]
struct Tree<'a> {
    sandbox: &'a Sandbox,
    files: Files,
    /// How many things are mounted aside.
    aside: u32,
    own: Own<'a>,
}

impl<'a> Tree<'a> {
    fn of(sandbox: &'a Sandbox, program: &Path, user: (u32, u32)) -> Result<Self, Error> {
        // Before anything hides them.
        let binds: Vec<_> = sandbox
            .mounts
            .iter()
            .map(|mount| copy(sandbox, mount))
            .collect::<Result<_, _>>()?;
        let own_file = source(sandbox, program).ok();
        let proc = Detached::copy_of(Path::new("/proc")).map_err(refusal::of_proc)?;
        let usr = copies(sandbox, ["usr"].into_iter().chain(OF_USR))?;
        let devices = DEVICES.map(|name| (name, Detached::copy_of(&Path::new("/dev").join(name))));
        let etc = etc::Copies::read(sandbox, user);

        let parameters = [
            (c"mode", c"0755"),
            (c"size", c"32m"),
            (c"nr_inodes", c"16k"),
        ];
        let root = Detached::in_memory(&parameters, SHOWN);
        let root = root.map_err(refusal::of_memory)?;
        let top = fs::File::open("/").map_err(|error| Error::start("can't open /", error))?;
        let files = Files::at(root.attach(top.as_fd()).map_err(failed)?).map_err(failed)?;
        let mut tree = Self {
            sandbox,
            files,
            aside: 0,
            own: Own::new(sandbox, user),
        };
        for name in ["dev", "etc", "home", "proc", "run", "tmp", "usr", "var"] {
            tree.files.make(Path::new(name), true).map_err(failed)?;
        }
        for (name, shown) in usr {
            match shown {
                Shown::Link(to) => tree.files.link(&to, Path::new(name)).map_err(failed)?,
                Shown::Mounts(mounts) => tree.mount(mounts, FIXED, Path::new(name), true)?,
            }
        }
        etc.write(&tree.files, sandbox)
            .map_err(|errno| Error::start("can't copy files of /etc for the sandbox", errno))?;
        for (name, device) in devices {
            let at = Path::new("dev").join(name);
            match device {
                _ if is_replaced(sandbox, &at) => {}
                Ok(device) => tree.mount(device, DEVICE, &at, false)?,
                // A container may have fewer.
                Err(Errno::ENOENT) => {}
                Err(errno) => {
                    let what = format!("can't show /{} in the sandbox", at.display());
                    return Err(Error::start(what, errno));
                }
            }
        }
        for (name, to) in LINKS {
            if !is_replaced(sandbox, Path::new(name)) {
                tree.files
                    .link(Path::new(to), Path::new(name))
                    .map_err(failed)?;
            }
        }
        proc.restrict(FIXED.and(Attributes::NO_EXEC))
            .map_err(failed)?;
        tree.mount(proc, FIXED, Path::new("proc"), true)?;
        tree.show_all(binds)?;
        if let Some(file) = own_file {
            // What isn't shown is looked for inside later, and missed.
            let _ = tree.show_program(file, program);
        }
        Ok(tree)
    }

    /// Mounts what was asked for, in that order.
    fn show_all(&mut self, binds: Vec<Option<Detached>>) -> Result<(), Error> {
        if !is_replaced(self.sandbox, Path::new("tmp")) {
            self.own
                .memory(Path::new("/tmp"), MEMORY_SIZE)
                .map_err(failed)?;
        }
        for (mount, bind) in self.sandbox.mounts.iter().zip(binds) {
            if mount.at.starts_with("/proc") {
                return Err(refused(
                    mount,
                    "/proc is the kernel's, and nothing is mounted there",
                ));
            }
            match (&mount.kind, bind) {
                (MountKind::Memory(size), _) => self.give(mount, *size)?,
                (MountKind::ReadOnly(_), Some(bind)) => self.show(mount, bind, FIXED)?,
                (MountKind::ReadWrite(_), Some(bind)) => self.show(mount, bind, SHOWN)?,
                (_, None) => {}
            }
        }
        Ok(())
    }

    /// Gives each handler a file system in memory.
    fn give(&mut self, mount: &Mount, size: u64) -> Result<(), Error> {
        if self.own.point(&mount.at).is_none() {
            self.make_point(mount, true)?;
        }
        self.own
            .memory(&mount.at, size)
            .map_err(|errno| match errno {
                Errno::EEXIST => refused(mount, COVERED),
                errno => failed(errno),
            })
    }

    fn show(&mut self, mount: &Mount, bind: Detached, attributes: Attributes) -> Result<(), Error> {
        let failed =
            |errno: Errno| Error::start(format!("{} can't be mounted", Named(mount)), errno);
        let is_directory = is_directory(&fstat(&bind).map_err(failed)?);
        if let Some(point) = self.own.point(&mount.at) {
            return match point.is_covered {
                true => Err(refused(mount, COVERED)),
                false => self
                    .show_in(&point, bind, is_directory, attributes)
                    .map_err(failed),
            };
        }
        bind.restrict(attributes).map_err(failed)?;
        let point = self.make_point(mount, is_directory)?;
        bind.attach(point.as_fd()).map(drop).map_err(failed)
    }

    /// Shows something in a directory that each handler has of its own: it mounts it there, from where
    /// it is in this tree.
    fn show_in(
        &mut self,
        point: &own::MountPoint,
        bind: Detached,
        is_directory: bool,
        attributes: Attributes,
    ) -> Result<(), Errno> {
        bind.restrict(attributes)?;
        let from = Path::new(ASIDE).join(self.aside.to_string());
        self.aside += 1;
        bind.attach(self.files.make(&from, is_directory)?.as_fd())?;
        // For this process, which looks for PROG; where there is something else, PROG isn't.
        match self.files.link(&from, point.at()) {
            Ok(()) | Err(Errno::EROFS | Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        self.own.show(&from, point, is_directory)
    }

    /// The mount point that was asked for, which is made if it isn't there.
    fn make_point(&self, mount: &Mount, is_directory: bool) -> Result<OwnedFd, Error> {
        let at = mount.at.display();
        let point = self.files.make(&mount.at, is_directory).map_err(|errno| match errno {
            Errno::EROFS => refused(mount, format!(
                "{at} doesn't exist in what is shown there of the host, and isn't made on the host"
            )),
            errno => refused(mount, format!("there can be no {at} in the sandbox: {}", errno.desc())),
        })?;
        let there = fstat(&point).map_err(failed)?;
        match (self::is_directory(&there), is_directory) {
            (true, false) => Err(refused(
                mount,
                format!("{at} is a directory in the sandbox"),
            )),
            (false, true) => Err(refused(
                mount,
                format!("{at} is no directory in the sandbox"),
            )),
            _ => Ok(point),
        }
    }

    fn mount(
        &self,
        mounts: Detached,
        attributes: Attributes,
        at: &Path,
        is_directory: bool,
    ) -> Result<(), Error> {
        let mounted = mounts.restrict(attributes).and_then(|()| {
            let point = self.files.make(at, is_directory)?;
            mounts.attach(point.as_fd())
        });
        mounted.map(drop).map_err(|errno| {
            let at = at.display();
            Error::start(format!("can't show /{at} in the sandbox"), errno)
        })
    }

    /// Shows PROG's own file, unless there is something at its path.
    fn show_program(&mut self, file: Detached, program: &Path) -> Result<(), Errno> {
        if is_directory(&fstat(&file)?) {
            return Ok(());
        }
        match self.own.point(program) {
            Some(point) if point.is_covered => Ok(()),
            Some(point) => self.show_in(&point, file, false, FIXED),
            None if self.files.open(program).is_ok() => Ok(()),
            None => {
                file.restrict(FIXED)?;
                file.attach(self.files.make(program, false)?.as_fd())
                    .map(drop)
            }
        }
    }
}

/// Where what is shown in directories of handlers is mounted first.
const ASIDE: &str = "/.skd";

const COVERED: &str = "it is below another one, in a directory that each handler has of its own; \
                       choose another path";

fn refused(mount: &Mount, why: impl Display) -> Error {
    Error::Start(format!("{}: {why}", Named(mount)))
}

/// A directory in the root directory of the host.
enum Shown {
    /// A symbolic link.
    Link(PathBuf),
    /// A directory.
    Mounts(Detached),
}

/// Copies of these directories in the root directory of the host, as far as they exist and aren't
/// replaced.
fn copies(
    sandbox: &Sandbox,
    names: impl Iterator<Item = &'static str>,
) -> Result<Vec<(&'static str, Shown)>, Error> {
    let mut all = Vec::new();
    for name in names.filter(|name| !is_replaced(sandbox, Path::new(name))) {
        let path = Path::new("/").join(name);
        if let Ok(to) = fs::read_link(&path) {
            all.push((name, Shown::Link(to)));
        } else if path.is_dir() {
            let copy = Detached::copy_of(&path).map_err(|errno| {
                let path = path.display();
                Error::start(format!("can't show {path} in the sandbox"), errno)
            })?;
            all.push((name, Shown::Mounts(copy)));
        }
    }
    Ok(all)
}

/// A copy of what a mount shows of the host, if it does.
fn copy(sandbox: &Sandbox, mount: &Mount) -> Result<Option<Detached>, Error> {
    let (MountKind::ReadOnly(from) | MountKind::ReadWrite(from)) = &mount.kind else {
        return Ok(None);
    };
    let why = |errno| match errno {
        Errno::ELOOP => refused(
            mount,
            "a symbolic link below a directory of --rw isn't followed, since handlers may have made \
             it; name what it leads to",
        ),
        errno => Error::start(format!("{} can't be shown", Named(mount)), At(errno, from)),
    };
    source(sandbox, from).map(Some).map_err(why)
}

/// A copy of a file or directory of the host. What is below a directory that handlers may change is
/// looked for without following links: a handler could have made a link that leads out of it.
fn source(sandbox: &Sandbox, path: &Path) -> Result<Detached, Errno> {
    let above = sandbox.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::ReadWrite(directory) if path != directory => {
            Some((directory, path.strip_prefix(directory).ok()?))
        }
        _ => None,
    });
    match above.max_by_key(|(_, below)| below.components().count()) {
        Some((directory, below)) => Detached::copy_beneath(directory, below),
        None => Detached::copy_of(path),
    }
}

fn is_directory(file: &FileStat) -> bool {
    SFlag::from_bits_truncate(file.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR
}

/// A mount as the option that asked for it.
pub(super) struct Named<'a>(pub(super) &'a Mount);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mount { kind, at } = self.0;
        let (option, from) = match kind {
            MountKind::ReadOnly(from) => ("ro", from),
            MountKind::ReadWrite(from) => ("rw", from),
            MountKind::Memory(_) => ("tmpfs", at),
        };
        write!(f, "--{option} {}", from.display())?;
        match from == at {
            true => Ok(()),
            false => write!(f, ":{}", at.display()),
        }
    }
}

#[cfg(test)]
mod tests;
