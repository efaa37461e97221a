//! Paths that begin in a root directory that this process may have left since (chroot(2)).

use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::Mode;

/// As many symbolic links as the kernel follows in a path.
const MOST_LINKS: u32 = 40;

/// A root directory.
#[derive(Debug)]
pub struct Root(OwnedFd);

impl Root {
    /// Opens the present one, only to reach what is in it.
    pub fn open() -> Result<Self, Errno> {
        open("/", DIRECTORY, Mode::empty()).map(Self)
    }

    /// Takes a descriptor of an earlier one, which was saved.
    pub fn restore(root: OwnedFd) -> Self {
        Self(root)
    }

    /// Returns the directory and the name there of the file that a path leads to. All symbolic
    /// links lead to files below this directory too. The file needn't exist.
    pub fn find(&self, path: &Path) -> Result<(OwnedFd, OsString), Errno> {
        let mut path = path.to_owned();
        for _ in 0..MOST_LINKS {
            let parent = path.parent().ok_or(Errno::EISDIR)?.to_owned();
            let name = path.file_name().ok_or(Errno::EISDIR)?.to_owned();
            let directory = self.directory(&parent)?;
            match readlinkat(&directory, name.as_os_str()) {
                Ok(target) => path = parent.join(PathBuf::from(target)),
                // No link, or nothing.
                Err(Errno::EINVAL | Errno::ENOENT) => return Ok((directory, name)),
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::ELOOP)
    }

    fn directory(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(DIRECTORY)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT);
        match openat2(&self.0, path, how) {
            // Before Linux 5.6, or refused by a filter: right as long as no directory of the path
            // is an absolute link.
            Err(Errno::ENOSYS | Errno::EPERM) => {
                let bytes = path.as_os_str().as_bytes();
                let below = bytes.iter().position(|&byte| byte != b'/');
                let below = below.map_or(b".".as_slice(), |at| &bytes[at..]);
                openat(&self.0, below, DIRECTORY, Mode::empty())
            }
            found => found,
        }
    }
}

const DIRECTORY: OFlag = OFlag::O_PATH
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::fstat;
    use std::os::unix::fs::symlink;

    #[test]
    #[cfg_attr(miri, ignore = "system calls that Miri doesn't know")]
    fn absolute_links_begin_in_the_root() {
        let top = tempfile::tempdir().unwrap();
        for name in ["dev", "run", "run/journal"] {
            std::fs::create_dir(top.path().join(name)).unwrap();
        }
        symlink("/run/journal/dev-log", top.path().join("dev/log")).unwrap();
        symlink("../dev/log", top.path().join("run/log")).unwrap();
        symlink("/var/log", top.path().join("dev/lost")).unwrap();
        symlink("loop", top.path().join("loop")).unwrap();
        let root = Root(open(top.path(), DIRECTORY, Mode::empty()).unwrap());
        let journal = std::fs::metadata(top.path().join("run/journal")).unwrap();
        for path in ["/dev/log", "/run/log"] {
            let (directory, name) = root.find(Path::new(path)).unwrap();
            assert_eq!(name, "dev-log");
            let inode = fstat(&directory).unwrap().st_ino;
            assert_eq!(inode, std::os::unix::fs::MetadataExt::ino(&journal));
        }
        let errno = |path| root.find(Path::new(path)).unwrap_err();
        assert_eq!(errno("/dev/lost"), Errno::ENOENT);
        assert_eq!(errno("/loop"), Errno::ELOOP);
        assert_eq!(errno("/"), Errno::EISDIR);
    }
}
