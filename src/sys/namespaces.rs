//! Namespaces of this process (namespaces(7)), and the users of one.

use std::ffi::{OsStr, c_int};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, setgroups, setresgid, setresuid};

use super::result::check;

/// The ids of a user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserMap {
    /// The user and group id inside.
    pub inside: (u32, u32),
    /// What these are outside.
    pub outside: (u32, u32),
    /// Whether the user and group 0 are inside what they are outside, where these ids leave room for
    /// that. Needs root, `CAP_SETFCAP` and the parent, which writes it.
    pub root: bool,
    /// What user and group 0 are inside otherwise, where handlers are 0 there. They must have no
    /// capabilities: those would be rights over root's files.
    pub spare: Option<u32>,
}

impl UserMap {
    /// The lines of uid_map or gid_map for an id inside, and what it is outside (user_namespaces(7)).
    fn lines(&self, inside: u32, outside: u32) -> String {
        let mut lines = String::new();
        // Writing to a string can't fail.
        if let Some(root) = self.root_inside(inside, outside) {
            let _ = writeln!(lines, "{root} 0 1");
        }
        let _ = writeln!(lines, "{inside} {outside} 1");
        lines
    }

    /// Whether the process that has the rights inside isn't yet the user who has none.
    pub fn has_two_users(&self) -> bool {
        self.root_inside(self.inside.0, self.outside.0).is_some()
    }

    /// What 0 outside is inside, if it is something besides this pair of ids.
    fn root_inside(&self, inside: u32, outside: u32) -> Option<u32> {
        let other = if inside == 0 { self.spare } else { Some(0) };
        other.filter(|_| self.root && outside != 0)
    }
}

/// Enters a new user namespace, with all capabilities there. The process has one thread.
///
/// The parent of a process of root writes the ids afterwards, by [`write_maps`]; all others have them
/// at once.
pub fn enter_user(map: &UserMap) -> Result<(), Errno> {
    unshare(CloneFlags::CLONE_NEWUSER)?;
    if map.root {
        return Ok(());
    }
    // The files belong to root, for a process that has changed its user.
    nix::sys::prctl::set_dumpable(true)?;
    let written = write_own(map);
    nix::sys::prctl::set_dumpable(false)?;
    written
}

fn write_own(map: &UserMap) -> Result<(), Errno> {
    write("/proc/self/setgroups", "deny")?;
    write_to("/proc/self", map)
}

/// Writes the ids of the user namespace that a child has entered.
pub fn write_maps(pid: Pid, map: &UserMap) -> Result<(), Errno> {
    write_to(&format!("/proc/{pid}"), map)
}

fn write_to(directory: &str, map: &UserMap) -> Result<(), Errno> {
    let ((uid, gid), (outer_uid, outer_gid)) = (map.inside, map.outside);
    write(&format!("{directory}/uid_map"), &map.lines(uid, outer_uid))?;
    write(&format!("{directory}/gid_map"), &map.lines(gid, outer_gid))
}

/// Becomes, in a namespace whose ids are written, the user who may do everything there: root, or the
/// only one. Supplementary groups end where they can.
pub fn take_ids(map: &UserMap) -> Result<(), Errno> {
    if !map.root {
        return Ok(());
    }
    let id = |inside, outside| map.root_inside(inside, outside).unwrap_or(inside);
    let uid = id(map.inside.0, map.outside.0).into();
    let gid = id(map.inside.1, map.outside.1).into();
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// Enters new namespaces of these kinds (`CLONE_NEW*`). The process has one thread.
pub fn enter(kinds: c_int) -> Result<(), Errno> {
    // The filters of containers refuse the call whatever is asked for.
    if kinds == 0 {
        return Ok(());
    }
    unshare(CloneFlags::from_bits_retain(kinds))
}

/// Sets the host name of this UTS namespace, and leaves it no domain name.
pub fn set_host_name(name: &OsStr) -> Result<(), Errno> {
    let name = name.as_bytes();
    let domain = b"(none)";
    // SAFETY: the kernel reads so many bytes from memory that has them.
    unsafe {
        check(libc::sethostname(name.as_ptr().cast(), name.len()))?;
        check(libc::setdomainname(domain.as_ptr().cast(), domain.len()))?;
    }
    Ok(())
}

/// Lets no process of this user namespace, which isn't the first one, make another.
pub fn forbid_users() -> Result<(), Errno> {
    // The file is that of the namespace of who opens it.
    let map = std::fs::read_to_string("/proc/self/uid_map").map_err(|error| errno_of(&error))?;
    if map.split_whitespace().eq(["0", "0", "4294967295"]) {
        return Err(Errno::EPERM);
    }
    write("/proc/sys/user/max_user_namespaces", "0")
}

fn write(path: &str, text: &str) -> Result<(), Errno> {
    let file = OpenOptions::new().write(true).open(path);
    // One call: the kernel takes a map as a whole.
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| errno_of(&error))
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Whether the root directory of this process isn't that of a mount (Linux 5.8): it is one by
/// chroot(2), under which the kernel makes no user namespace.
pub fn root_is_no_mount() -> bool {
    const MOUNT_ROOT: u64 = 0x2000;
    // SAFETY: all zeroes are a valid statx.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let path = c"/";
    // SAFETY: the path ends in NUL, and the kernel writes one statx to memory of that type.
    let result = unsafe { libc::statx(libc::AT_FDCWD, path.as_ptr(), 0, 0, &raw mut found) };
    let (known, has) = (found.stx_attributes_mask, found.stx_attributes);
    result == 0 && known & MOUNT_ROOT != 0 && has & MOUNT_ROOT == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_root_inside_where_there_is_room() {
        let map = |root| UserMap {
            inside: (77, 0),
            outside: (65534, 65534),
            root,
            spare: None,
        };
        assert_eq!(map(true).lines(77, 65534), "0 0 1\n77 65534 1\n");
        assert_eq!(map(true).lines(0, 65534), "0 65534 1\n");
        assert_eq!(map(true).lines(77, 0), "77 0 1\n");
        assert_eq!(map(false).lines(77, 1000), "77 1000 1\n");
        let spare = |root| UserMap {
            spare: Some(9),
            ..map(root)
        };
        assert_eq!(spare(true).lines(0, 65534), "9 0 1\n0 65534 1\n");
        assert_eq!(spare(true).lines(77, 65534), "0 0 1\n77 65534 1\n");
        assert_eq!(spare(false).lines(0, 1000), "0 1000 1\n");
    }

    #[test]
    #[cfg_attr(miri, ignore = "system calls that Miri doesn't know")]
    fn the_first_user_namespace_keeps_its_limit() {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
        if map.split_whitespace().eq(["0", "0", "4294967295"]) {
            assert_eq!(forbid_users(), Err(Errno::EPERM));
        }
    }
}
