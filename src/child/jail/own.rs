//! The directories that each handler has of its own: what it does for them first, in a mount
//! namespace of its own.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::files::is_replaced;
use crate::config::Sandbox;
use crate::sys::child::Step;
use crate::sys::mounts::FileSystem;

/// Where it has a file system in memory in any case.
const TMP: &str = "/tmp";
/// Links to that.
const LINKS: [&str; 2] = ["/var/tmp", "/dev/shm"];

/// The steps for them, and what is there then.
#[derive(Debug)]
pub(super) struct Own<'a> {
    sandbox: &'a Sandbox,
    /// The user and group id of handlers.
    user: (u32, u32),
    pub(super) steps: Vec<Step>,
    /// Directories in memory: each as it may be called, and where it is.
    memory: Vec<(PathBuf, PathBuf)>,
    /// What was made in them.
    made: Vec<PathBuf>,
    /// What of the host is shown in them.
    shown: Vec<PathBuf>,
}

/// A mount point below a directory that each handler has of its own.
#[derive(Debug)]
pub(super) struct MountPoint {
    /// The directory.
    over: PathBuf,
    /// Where it is, without links.
    at: PathBuf,
    /// Whether something of the host is shown there already, or above.
    pub(super) is_covered: bool,
}

impl MountPoint {
    /// The path there.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }
}

impl<'a> Own<'a> {
    /// Nothing yet.
    pub(super) fn new(sandbox: &'a Sandbox, user: (u32, u32)) -> Self {
        Self {
            sandbox,
            user,
            steps: Vec::new(),
            memory: Vec::new(),
            made: Vec::new(),
            shown: Vec::new(),
        }
    }

    /// Adds a file system in memory. Files take memory besides what is in them, so their number has a
    /// limit too.
    pub(super) fn memory(&mut self, at: &Path, size: u64) -> Result<(), Errno> {
        let (is_tmp, (uid, gid)) = (at == Path::new(TMP), self.user);
        let mode = if is_tmp { "1777" } else { "700" };
        let files = (size / 4096).clamp(64, 1 << 20);
        let parameters = format!("size={size},nr_inodes={files},mode={mode},uid={uid},gid={gid}");
        let point = self.point(at);
        let real = match &point {
            Some(point) if point.is_covered => return Err(Errno::EEXIST),
            Some(point) => {
                self.make_above(point)?;
                self.make(point, true)?;
                point.at.clone()
            }
            None => at.to_owned(),
        };
        self.steps.push(Step::Mount(FileSystem {
            kind: c"tmpfs",
            at: c_string(real.as_os_str())?,
            flags: libc::MS_NOSUID | libc::MS_NODEV,
            parameters: c_string(parameters.as_ref())?,
        }));
        self.memory.push((at.to_owned(), real.clone()));
        let links = LINKS.into_iter().map(Path::new);
        let links = links.filter(|link| is_tmp && !is_replaced(self.sandbox, link));
        self.memory
            .extend(links.map(|link| (link.to_owned(), real.clone())));
        Ok(())
    }

    /// The mount point of a path, if it is in one of these.
    pub(super) fn point(&self, path: &Path) -> Option<MountPoint> {
        // A later one may be in an earlier one.
        let mut memory = self.memory.iter().rev();
        memory.find_map(|(name, over)| {
            let rest = path.strip_prefix(name).ok()?;
            let at = match rest.as_os_str().is_empty() {
                true => over.clone(),
                false => over.join(rest),
            };
            Some(MountPoint {
                over: over.clone(),
                is_covered: self.shown.iter().any(|shown| at.starts_with(shown)),
                at,
            })
        })
    }

    /// Shows there what is mounted at another path, too.
    pub(super) fn show(
        &mut self,
        from: &Path,
        point: &MountPoint,
        is_directory: bool,
    ) -> Result<(), Errno> {
        self.make_above(point)?;
        self.make(point, is_directory)?;
        let (from, at) = (c_string(from.as_os_str())?, c_string(point.at.as_os_str())?);
        self.steps.push(Step::Bind(from, at));
        self.shown.push(point.at.clone());
        Ok(())
    }

    /// Has the directories above a mount point made.
    fn make_above(&mut self, point: &MountPoint) -> Result<(), Errno> {
        let above = point.at.ancestors().skip(1);
        let above: Vec<_> = above.take_while(|path| *path != point.over).collect();
        // For the directory itself there are none.
        let above = above
            .into_iter()
            .rev()
            .filter(|path| path.starts_with(&point.over));
        for path in above {
            if !self.made.iter().any(|made| made == path) {
                self.steps
                    .push(Step::MakeDirectory(c_string(path.as_os_str())?));
                self.made.push(path.to_owned());
            }
        }
        Ok(())
    }

    fn make(&mut self, point: &MountPoint, is_directory: bool) -> Result<(), Errno> {
        if point.at == point.over || self.made.contains(&point.at) {
            return Ok(());
        }
        let at = c_string(point.at.as_os_str())?;
        self.steps.push(match is_directory {
            true => Step::MakeDirectory(at),
            false => Step::MakeFile(at),
        });
        self.made.push(point.at.clone());
        Ok(())
    }
}

fn c_string(text: &OsStr) -> Result<CString, Errno> {
    CString::new(text.as_bytes()).map_err(|_| Errno::EINVAL)
}
