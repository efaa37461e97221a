//! Files by path, so that only trusted users choose which files these are.
//!
//! A path is walked one component at a time. A component is trusted if only root or the user of this
//! process could have put it there. Symbolic links of trusted users are followed. Where other users
//! can write, only a regular file with one name is opened, whose user could as well have passed
//! its content: no file is opened there that another user couldn't have opened.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{AccessFlags, Uid, faccessat, getegid};
use serde::{Deserialize, Serialize};

use super::descriptors;

/// The users that choose what a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// Root, or the user of this process.
    Trusted,
    /// Another user besides.
    User(u32),
    /// Several users, or any.
    Many,
}

impl Control {
    /// The control of what two choices lead to.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Trusted, control) | (control, Self::Trusted) => control,
            (Self::User(a), Self::User(b)) if a == b => self,
            _ => Self::Many,
        }
    }
}

/// What a file is opened for.
#[derive(Debug)]
pub struct Purpose {
    flags: OFlag,
    /// The permissions of a file that is made if there is none.
    create: Option<u32>,
    access: AccessFlags,
    /// Whether a symbolic link at the end of the path is followed.
    follows: bool,
    files: Files,
}

/// The files that serve a purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    /// Where only trusted users write: anything but directories and sockets.
    Any,
    /// Regular files.
    Regular,
    /// Regular files with one name, of trusted users.
    Own,
    /// The same, and no other user can open them.
    Private,
    /// Programs. They may have several names, but not be writable by everyone.
    Programs,
}

impl Files {
    fn are_own(self) -> bool {
        matches!(self, Self::Own | Self::Private)
    }
}

impl Purpose {
    /// A log, to append to. It may be a FIFO, a terminal or another device where only trusted users
    /// write.
    pub const LOG: Self = Self {
        // Nonblocking, since opening a FIFO without a reader would block.
        flags: OFlag::O_WRONLY
            .union(OFlag::O_APPEND)
            .union(OFlag::O_NONBLOCK),
        create: Some(0o666),
        access: AccessFlags::W_OK,
        follows: true,
        files: Files::Any,
    };
    /// The pid file, that others read.
    pub const PIDFILE: Self = Self {
        flags: OFlag::O_RDWR.union(OFlag::O_NONBLOCK),
        create: Some(0o644),
        access: AccessFlags::R_OK.union(AccessFlags::W_OK),
        follows: false,
        files: Files::Own,
    };
    /// The pid file of another process, to be read.
    pub const FOREIGN_PIDFILE: Self = Self {
        flags: OFlag::O_RDONLY.union(OFlag::O_NONBLOCK),
        create: None,
        access: AccessFlags::R_OK,
        ..Self::PIDFILE
    };
    /// A file that is locked, and that no other user can open.
    pub const LOCK: Self = Self {
        create: Some(0o600),
        files: Files::Private,
        ..Self::PIDFILE
    };
    /// Secrets, to append to. No other user can open the file.
    pub const SECRETS: Self = Self {
        flags: Self::LOG.flags,
        create: Some(0o600),
        access: AccessFlags::W_OK,
        follows: false,
        files: Files::Private,
    };
    /// Rules, to be read more than once.
    pub const RULES: Self = Self {
        flags: OFlag::O_RDONLY.union(OFlag::O_NONBLOCK),
        create: None,
        access: AccessFlags::R_OK,
        follows: true,
        files: Files::Regular,
    };
    /// A program, only to be executed.
    pub const PROGRAM: Self = Self {
        flags: OFlag::O_PATH,
        create: None,
        access: AccessFlags::X_OK,
        follows: true,
        files: Files::Programs,
    };
}

/// Why a file isn't opened.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A system call failed.
    Failed(Errno),
    /// Another user may have chosen it. The text is the end of a sentence.
    Untrusted(String),
}

impl Refusal {
    /// The error of a system call that comes closest.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Failed(errno) => *errno,
            Self::Untrusted(_) => Errno::EPERM,
        }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Failed(errno)
    }
}

impl From<Refusal> for io::Error {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Failed(errno) => errno.into(),
            Refusal::Untrusted(why) => Self::new(io::ErrorKind::PermissionDenied, why),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(errno) => f.write_str(errno.desc()),
            Self::Untrusted(why) => f.write_str(why),
        }
    }
}

/// How many symbolic links a path may have, as in path_resolution(7).
const LINKS: u32 = 40;
/// How often to try while other processes replace a file.
const TRIES: u32 = 100;
/// The permission of all users to search a directory.
const SEARCHABLE: libc::mode_t = 0o001;
/// A descriptor that only names a file.
const NAMED: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// A directory in which paths begin, and who has chosen it.
#[derive(Debug)]
pub struct Base {
    descriptor: OwnedFd,
    chosen: Chosen,
}

/// How a directory was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chosen {
    /// The users that chose it. The users that choose the files in it may be others: see
    /// [`Base::is_trusted`].
    control: Control,
    /// Whether by a path that another user has written: a symbolic link, or a line of a file.
    by_user: bool,
    /// Whether all users can reach it by its path.
    public: bool,
}

impl Chosen {
    /// By root or the user of this process.
    pub const TRUSTED: Self = Self {
        control: Control::Trusted,
        by_user: false,
        public: false,
    };
}

impl Base {
    /// Opens a directory, only to reach names in it.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        let mut walk = Walk::new(Self::here()?);
        walk.enter(path.as_os_str().as_bytes())?;
        Ok(walk.at)
    }

    /// The working directory.
    fn here() -> Result<Self, Errno> {
        Self::trusted(Path::new("."))
    }

    fn trusted(path: &Path) -> Result<Self, Errno> {
        let flags = NAMED | OFlag::O_DIRECTORY;
        Ok(Self {
            descriptor: open(path, flags, Mode::empty())?,
            chosen: Chosen::TRUSTED,
        })
    }

    /// A directory that was reached before.
    pub fn of(descriptor: OwnedFd, chosen: Chosen) -> Self {
        Self { descriptor, chosen }
    }

    /// The same directory under another descriptor.
    pub fn copy(&self) -> Result<Self, Errno> {
        Ok(Self {
            descriptor: descriptors::copy_above(&self.descriptor, 0)?,
            chosen: self.chosen,
        })
    }

    /// The same directory for paths that are written in a file with these writers.
    pub fn for_paths_by(&self, writers: Control) -> Result<Self, Errno> {
        let mut copy = self.copy()?;
        copy.chosen.control = copy.chosen.control.and(writers);
        copy.chosen.by_user |= writers != Control::Trusted;
        Ok(copy)
    }

    /// How the directory was chosen.
    pub fn chosen(&self) -> Chosen {
        self.chosen
    }

    /// Whether only trusted users choose what is in the directory.
    pub fn is_trusted(&self) -> Result<bool, Errno> {
        Ok(self
            .chosen
            .control
            .and(Inside::of(&self.descriptor)?.control)
            == Control::Trusted)
    }

    /// Whether only trusted users choose which file has a name in it.
    pub(super) fn is_entry_trusted(&self, stat: &FileStat) -> Result<bool, Errno> {
        let inside = Inside::of(&self.descriptor)?;
        Ok(self.chosen.control.and(inside.of_entry(stat)) == Control::Trusted)
    }

    /// Opens a file, or makes it if that is part of the purpose. Returns whether it was made.
    ///
    /// The descriptor is close-on-exec, and a terminal doesn't become the controlling one.
    pub fn open_file(&self, path: &Path, purpose: &Purpose) -> Result<(OwnedFd, bool), Refusal> {
        let flags = purpose.flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        for _ in 0..TRIES {
            match self.find(path, purpose)? {
                Found::Missing(at, name) => {
                    let mode = purpose.create.ok_or(Errno::ENOENT)?;
                    let flags = flags | OFlag::O_CREAT | OFlag::O_EXCL;
                    let mode = Mode::from_bits_truncate(mode);
                    match openat(&at, name.as_os_str(), flags, mode) {
                        // Made by another process in between.
                        Err(Errno::EEXIST) => {}
                        made => return Ok((made?, true)),
                    }
                }
                Found::Held(at, name) => {
                    let opened = openat(&at, name.as_os_str(), flags, Mode::empty())?;
                    if purpose.files == Files::Regular {
                        match kind(&fstat(&opened)?) {
                            SFlag::S_IFREG => {}
                            SFlag::S_IFDIR => return Err(Errno::EISDIR.into()),
                            _ => return Err(Errno::ESPIPE.into()),
                        }
                    }
                    return Ok((opened, false));
                }
                Found::File(file) => match file.open(flags, purpose) {
                    // Replaced in between.
                    Err(Refusal::Failed(Errno::ENOENT | Errno::ELOOP | Errno::ESTALE)) => {}
                    opened => return Ok((opened?, false)),
                },
            }
        }
        Err(Refusal::Untrusted(
            "another program replaces the file again and again".into(),
        ))
    }

    /// Returns the error of [`Self::open_file`], as far as it can be predicted without opening or
    /// making the file.
    pub fn check_file(&self, path: &Path, purpose: &Purpose) -> Result<(), Refusal> {
        let allowed = match self.find(path, purpose)? {
            Found::Missing(at, _) if purpose.create.is_some() => {
                let access = AccessFlags::W_OK | AccessFlags::X_OK;
                faccessat(&at, ".", access, AtFlags::AT_EACCESS)
            }
            Found::Missing(..) => Err(Errno::ENOENT),
            Found::Held(at, name) => {
                faccessat(&at, name.as_os_str(), purpose.access, AtFlags::AT_EACCESS)
            }
            Found::File(file) => faccessat(
                &file.at,
                file.name.as_os_str(),
                purpose.access,
                AtFlags::AT_EACCESS,
            ),
        };
        Ok(allowed?)
    }

    /// Finds out what is at a path.
    fn find(&self, path: &Path, purpose: &Purpose) -> Result<Found, Refusal> {
        let mut walk = Walk::new(self.copy()?);
        let mut path = path.as_os_str().as_bytes().to_owned();
        for _ in 0..TRIES {
            let (parent, name) = split(&path)?;
            walk.enter(parent)?;
            let name = OsStr::from_bytes(name).to_owned();
            let inside = Inside::of(&walk.at.descriptor)?;
            let named = match openat(&walk.at.descriptor, name.as_os_str(), NAMED, Mode::empty()) {
                Ok(named) => named,
                Err(Errno::ENOENT) if walk.at.chosen.by_user => {
                    let directory = shown(&walk.at.descriptor);
                    return Err(Refusal::Untrusted(format!(
                        "another user has chosen {}, which isn't there",
                        directory.join(&name).display()
                    )));
                }
                Err(Errno::ENOENT) => {
                    return Ok(Found::Missing(walk.at.descriptor, name));
                }
                Err(errno) => return Err(errno.into()),
            };
            let stat = fstat(&named)?;
            let control = walk.at.chosen.control.and(inside.of_entry(&stat));
            if kind(&stat) != SFlag::S_IFLNK {
                let file = File {
                    at: walk.at.descriptor,
                    name,
                    stat,
                    inside,
                    control,
                    chosen: walk.at.chosen,
                };
                file.judge(&file.stat, purpose)?;
                return Ok(Found::File(file));
            }
            if !purpose.follows {
                return Err(Errno::ELOOP.into());
            }
            if control == Control::Trusted && is_proc(&walk.at.descriptor) {
                return Ok(Found::Held(walk.at.descriptor, name));
            }
            path = walk.follow(&inside, control, &name, &named, &stat)?;
        }
        Err(Errno::ELOOP.into())
    }
}

impl AsFd for Base {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// What is at a path.
enum Found {
    /// Nothing; the name would be in this directory.
    Missing(OwnedFd, OsString),
    /// A link in /proc to a file that is open already.
    Held(OwnedFd, OsString),
    /// A file, and no symbolic link.
    File(File),
}

struct File {
    at: OwnedFd,
    name: OsString,
    stat: FileStat,
    inside: Inside,
    control: Control,
    chosen: Chosen,
}

impl File {
    fn open(&self, flags: OFlag, purpose: &Purpose) -> Result<OwnedFd, Refusal> {
        let flags = flags | OFlag::O_NOFOLLOW;
        let opened = openat(&self.at, self.name.as_os_str(), flags, Mode::empty())?;
        let stat = fstat(&opened)?;
        if (stat.st_dev, stat.st_ino) != (self.stat.st_dev, self.stat.st_ino) {
            return Err(Errno::ESTALE.into());
        }
        // Owner, permissions and names may have changed.
        self.judge(&stat, purpose)?;
        Ok(opened)
    }

    /// Refuses a file that doesn't serve the purpose.
    fn judge(&self, stat: &FileStat, purpose: &Purpose) -> Result<(), Refusal> {
        let (kind, owner) = (kind(stat), stat.st_uid);
        match kind {
            SFlag::S_IFDIR => return Err(Errno::EISDIR.into()),
            SFlag::S_IFSOCK => return Err(Errno::ENXIO.into()),
            SFlag::S_IFREG => {}
            // A pipe or a device can't be read twice.
            _ if purpose.files == Files::Regular => return Err(Errno::ESPIPE.into()),
            _ if purpose.files == Files::Programs => return Err(Errno::EACCES.into()),
            _ if purpose.files.are_own() => return Err(Errno::ENODEV.into()),
            _ if self.control == Control::Trusted => return Ok(()),
            _ => {}
        }
        if purpose.files == Files::Programs && stat.st_mode & 0o002 != 0 {
            return Err(Refusal::Untrusted("every user can write to it".into()));
        }
        if purpose.files.are_own() {
            if !is_trusted(owner) {
                return Err(Refusal::Untrusted(format!(
                    "it belongs to another user ({owner}), so it is left alone; remove it, or choose \
                     another path"
                )));
            }
            if stat.st_nlink > 1 {
                return Err(Refusal::Untrusted(format!(
                    "it has {} names (hard links), so it is left alone; remove it, or choose another \
                     path",
                    stat.st_nlink
                )));
            }
        }
        if purpose.files == Files::Private && stat.st_mode & 0o077 != 0 {
            return Err(Refusal::Untrusted(
                "other users can open it; remove it, or set its mode to 0600".into(),
            ));
        }
        if self.control == Control::Trusted {
            return Ok(());
        }
        if self.chosen.by_user {
            let is_public = purpose.files == Files::Regular
                && self.chosen.public
                && is_trusted(owner)
                && stat.st_mode & 0o004 != 0;
            if kind == SFlag::S_IFREG && is_public {
                return Ok(());
            }
            if kind != SFlag::S_IFREG || self.control != Control::User(owner) {
                return Err(Refusal::Untrusted(format!(
                    "another user has chosen {}, which isn't a regular file of the same user; {HINT}",
                    shown(&self.at).join(&self.name).display()
                )));
            }
        }
        if kind != SFlag::S_IFREG {
            return Err(self.refuse("so only a regular file is opened there", "isn't one"));
        }
        match stat.st_nlink {
            // Removed in between.
            0 => return Err(Errno::ENOENT.into()),
            1 => {}
            // A build tool may have linked it. Another user can link only to others' programs.
            _ if purpose.files == Files::Programs && !is_trusted(owner) => {}
            _ => {
                return Err(self.refuse(
                    "so only a file with one name is opened there",
                    "has several (hard links)",
                ));
            }
        }
        if self.inside.by_all && !is_trusted(owner) && owner != self.inside.owner {
            return Err(self.refuse(
                "so only files of root and of skd's user are opened there",
                "belongs to another",
            ));
        }
        Ok(())
    }

    fn refuse(&self, rule: &str, fault: &str) -> Refusal {
        Refusal::Untrusted(format!(
            "{} {rule}, and {} {fault}; {HINT}",
            written_by(&self.at, self.control),
            Path::new(&self.name).display()
        ))
    }
}

/// What an administrator does about an untrusted file.
const HINT: &str = "use a directory where only root or skd's user can write";

/// The path of an open directory, for messages.
fn shown(directory: &OwnedFd) -> PathBuf {
    let link = format!("/proc/self/fd/{}", directory.as_raw_fd());
    std::fs::read_link(link).unwrap_or_else(|_| "the directory".into())
}

/// Says who chooses what is in a directory: by its permissions, or because they have chosen it.
fn written_by(directory: &OwnedFd, control: Control) -> String {
    let path = shown(directory);
    let path = path.display();
    let inside = Inside::of(directory).ok();
    match (control, inside) {
        (Control::User(uid), _) => format!("user {uid} chooses what is in {path},"),
        (_, Some(inside)) if inside.control == Control::Many => {
            let Inside { mode, group, .. } = inside;
            let users = match inside.by_all {
                true => "all users".into(),
                false => format!("users of group {group}"),
            };
            format!("{users} can write to {path} (mode {mode:04o}),")
        }
        _ => format!("other users choose what is in {path},"),
    }
}

/// The way along a path.
struct Walk {
    at: Base,
    /// How many more symbolic links are followed.
    links: u32,
}

impl Walk {
    fn new(at: Base) -> Self {
        Self { at, links: LINKS }
    }

    /// Goes on to a directory.
    fn enter(&mut self, path: &[u8]) -> Result<(), Refusal> {
        let mut rest = Vec::new();
        self.begin(path, &mut rest)?;
        while let Some(name) = rest.pop() {
            if let Some(target) = self.step(OsStr::from_bytes(&name))? {
                self.begin(&target, &mut rest)?;
            }
        }
        Ok(())
    }

    /// Puts the components of a path before the rest, and returns to the root directory if the path
    /// begins there.
    fn begin(&mut self, path: &[u8], rest: &mut Vec<Vec<u8>>) -> Result<(), Errno> {
        if path.first() == Some(&b'/') {
            self.at.descriptor = Base::trusted(Path::new("/"))?.descriptor;
            // After a link of another user it stays that user's choice. A base doesn't matter.
            if !self.at.chosen.by_user {
                self.at.chosen.control = Control::Trusted;
            }
            self.at.chosen.public = fstat(&self.at.descriptor)?.st_mode & SEARCHABLE != 0;
        }
        let components = path.split(|&byte| byte == b'/').rev();
        rest.extend(
            components
                .filter(|name| !name.is_empty())
                .map(<[u8]>::to_vec),
        );
        Ok(())
    }

    /// Enters a directory by its name, or returns the path in a symbolic link.
    fn step(&mut self, name: &OsStr) -> Result<Option<Vec<u8>>, Refusal> {
        let at = &self.at.descriptor;
        let flags = NAMED | OFlag::O_DIRECTORY;
        match name.as_bytes() {
            b"." => return Ok(None),
            b".." => {
                let parent = openat(at, "..", flags, Mode::empty())?;
                // A user that can move this directory chooses its parent.
                let inside = Inside::of(&parent)?;
                let control = inside.of_entry(&fstat(at)?);
                self.at.chosen.control = self.at.chosen.control.and(control);
                self.at.descriptor = parent;
                return Ok(None);
            }
            _ => {}
        }
        let inside = Inside::of(at)?;
        // As a directory first, which mounts it if it is to be mounted at its first use.
        let named = match openat(at, name, flags, Mode::empty()) {
            Err(Errno::ENOTDIR | Errno::ELOOP) => openat(at, name, NAMED, Mode::empty()),
            opened => opened,
        }?;
        let stat = fstat(&named)?;
        let control = self.at.chosen.control.and(inside.of_entry(&stat));
        match kind(&stat) {
            SFlag::S_IFDIR => {
                self.at.descriptor = named;
                self.at.chosen.control = control;
                self.at.chosen.public &= stat.st_mode & SEARCHABLE != 0;
                Ok(None)
            }
            SFlag::S_IFLNK if control == Control::Trusted && is_proc(at) => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                self.at.descriptor = openat(at, name, flags, Mode::empty())?;
                self.at.chosen.public = false;
                Ok(None)
            }
            SFlag::S_IFLNK => self.follow(&inside, control, name, &named, &stat).map(Some),
            _ => Err(Errno::ENOTDIR.into()),
        }
    }

    /// Returns the path in a symbolic link, if it may be followed. A link of another user may lead
    /// to what is that user's own; [`File::judge`] sees to that.
    fn follow(
        &mut self,
        inside: &Inside,
        control: Control,
        name: &OsStr,
        link: &OwnedFd,
        stat: &FileStat,
    ) -> Result<Vec<u8>, Refusal> {
        let allowed = match control {
            Control::Trusted => is_trusted(stat.st_uid),
            Control::User(uid) => stat.st_uid == uid && !inside.by_all,
            Control::Many => false,
        };
        if !allowed {
            let directory = &self.at.descriptor;
            let link = Path::new(name).display();
            return Err(Refusal::Untrusted(match control {
                Control::Trusted => format!(
                    "the symbolic link {} belongs to another user ({}), so it isn't followed; \
                     change its owner with chown -h",
                    shown(directory).join(name).display(),
                    stat.st_uid
                ),
                _ => format!(
                    "{} so the symbolic link {link} there isn't followed; {HINT}",
                    written_by(directory, control)
                ),
            }));
        }
        self.links = self.links.checked_sub(1).ok_or(Errno::ELOOP)?;
        self.at.chosen.by_user |= control != Control::Trusted;
        self.at.chosen.control = control;
        // By its descriptor: another link may be at its name by now.
        Ok(readlinkat(link, "")?.into_vec())
    }
}

/// The users that choose what is in a directory.
#[derive(Clone, Copy)]
struct Inside {
    owner: u32,
    group: u32,
    /// Its permissions.
    mode: u32,
    control: Control,
    sticky: bool,
    /// Whether every user can make files in it.
    by_all: bool,
}

impl Inside {
    /// What a directory's permissions say. That it is mounted read-only says nothing: the same files
    /// may be writable by another path, as those of a bind mount are.
    fn of(directory: &OwnedFd) -> Result<Self, Errno> {
        let stat = fstat(directory)?;
        let by_all = stat.st_mode & 0o002 != 0;
        let by_group = stat.st_mode & 0o020 != 0 && !is_group_trusted(directory, stat.st_gid);
        let control = match (by_all || by_group, is_trusted(stat.st_uid)) {
            (false, true) => Control::Trusted,
            (false, false) => Control::User(stat.st_uid),
            (true, _) => Control::Many,
        };
        Ok(Self {
            owner: stat.st_uid,
            group: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            control,
            sticky: stat.st_mode & libc::S_ISVTX != 0,
            by_all,
        })
    }

    /// The users that choose this entry of the directory. In a sticky directory that is its owner,
    /// unless the file has another name.
    fn of_entry(&self, stat: &FileStat) -> Control {
        let single = kind(stat) == SFlag::S_IFDIR || stat.st_nlink == 1;
        match self.control {
            Control::Many if self.sticky && single && is_trusted(self.owner) => {
                match is_trusted(stat.st_uid) {
                    true => Control::Trusted,
                    false => Control::User(stat.st_uid),
                }
            }
            control => control,
        }
    }
}

/// Whether a user is root or the user of this process.
fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == Uid::effective().as_raw()
}

/// Whether a group that may write has trusted members only: that of root, or the user's private
/// one. With an access control list the bits of the group stand for others too.
fn is_group_trusted(directory: &OwnedFd, gid: u32) -> bool {
    let own = Uid::effective().as_raw();
    let private = gid == own && gid == getegid().as_raw();
    if gid != 0 && !private {
        return false;
    }
    // The descriptor that only names it can't be asked.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    openat(directory, ".", flags, Mode::empty()).is_ok_and(|opened| !has_access_list(opened))
}

/// Refuses a program of another user, unless the running program is of the same one.
pub fn judge_successor(next: impl AsFd, running: impl AsFd) -> Result<(), Refusal> {
    let (next, running) = (fstat(next)?.st_uid, fstat(running)?.st_uid);
    match is_trusted(next) || next == running {
        true => Ok(()),
        false => Err(Refusal::Untrusted(format!(
            "it belongs to user {next}, and the running program to user {running}; change its owner"
        ))),
    }
}

/// The users that write a file which is open for reading.
pub fn writers(file: impl AsFd) -> Result<Control, Errno> {
    let stat = fstat(&file)?;
    let by_group = stat.st_mode & 0o020 != 0 && (stat.st_gid != 0 || has_access_list(&file));
    Ok(match is_trusted(stat.st_uid) {
        _ if by_group || stat.st_mode & 0o002 != 0 => Control::Many,
        true => Control::Trusted,
        false => Control::User(stat.st_uid),
    })
}

/// Whether a file or directory has an access control list (acl(5)), or can't be asked.
fn has_access_list(opened: impl AsFd) -> bool {
    let name = c"system.posix_acl_access";
    // SAFETY: the name ends with a NUL byte, and with a size of 0 the kernel writes nothing.
    let size = unsafe {
        libc::fgetxattr(
            opened.as_fd().as_raw_fd(),
            name.as_ptr(),
            std::ptr::null_mut(),
            0,
        )
    };
    !matches!(
        Errno::result(size),
        Ok(0) | Err(Errno::ENODATA | Errno::EOPNOTSUPP | Errno::ENOSYS)
    )
}

/// Whether a directory is one of proc(5). Links there lead to files of processes, and have no path.
fn is_proc(directory: &OwnedFd) -> bool {
    fstatfs(directory).is_ok_and(|status| status.filesystem_type() == PROC_SUPER_MAGIC)
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// The directory of a file, and its name there.
pub(super) fn split(path: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
        None => (b".".as_slice(), path),
        Some(0) => (b"/".as_slice(), &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
    };
    match name {
        b"" | b"." | b".." => Err(Errno::EISDIR),
        _ => Ok((parent, name)),
    }
}
