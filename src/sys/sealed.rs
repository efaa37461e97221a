//! Memory files that can't change any more, and their bytes: memfd_create(2), `F_ADD_SEALS`,
//! mmap(2).

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// A memory file whose size and content are sealed, mapped into this process. Another process, or
/// the next program of this one, maps the same memory: nothing is copied.
#[derive(Debug)]
pub struct SealedFile {
    file: OwnedFd,
    base: NonNull<u8>,
    length: usize,
}

/// What keeps the bytes as they are.
fn seals() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

impl SealedFile {
    /// Makes a file with these bytes, of which there has to be one.
    pub fn new(bytes: &[u8]) -> io::Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let mut file = File::from(memfd_create(c"skd", flags)?);
        file.write_all(bytes)?;
        fcntl(
            &file,
            FcntlArg::F_ADD_SEALS(seals() | SealFlag::F_SEAL_SEAL),
        )?;
        Ok(Self::map(file.into())?)
    }

    /// Maps such a file. Refuses a file that isn't sealed: an access beyond the end of a file that was
    /// truncated would end the process.
    pub fn map(file: OwnedFd) -> Result<Self, Errno> {
        let found = SealFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GET_SEALS)?);
        if !found.contains(seals()) {
            return Err(Errno::EINVAL);
        }
        let file = File::from(file);
        let length = file.metadata().map_err(|_| Errno::EIO)?.len();
        let length = usize::try_from(length).map_err(|_| Errno::EFBIG)?;
        // Private, and yet no copy, since nothing is written: before Linux 6.7 a file that is sealed
        // against writes can't be mapped as shared.
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing that exists.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        Ok(Self {
            file: file.into(),
            base: NonNull::new(base.cast()).ok_or(Errno::ENOMEM)?,
            length,
        })
    }

    /// Returns the bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is as long, and lives as long as this value. Its file can neither
        // shrink nor be written, so the bytes are there and never change.
        unsafe { slice::from_raw_parts(self.base.as_ptr(), self.length) }
    }
}

impl AsFd for SealedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SealedFile {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no borrow of its bytes outlives the value.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}

// SAFETY: the memory is only read, and belongs to the value, not to a thread.
unsafe impl Send for SealedFile {}
// SAFETY: as above.
unsafe impl Sync for SealedFile {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::descriptors::memory_file;

    #[test]
    #[cfg_attr(miri, ignore = "memfd_create(2)")]
    fn the_bytes_are_those_of_the_file_for_ever() {
        let sealed = SealedFile::new(b"some bytes").unwrap();
        assert_eq!(sealed.bytes(), b"some bytes");
        let copy = sealed.as_fd().try_clone_to_owned().unwrap();
        let mut writer = File::from(copy.try_clone().unwrap());
        assert!(writer.write_all(b"x").is_err());
        assert!(writer.set_len(1).is_err() && writer.set_len(99).is_err());
        let again = SealedFile::map(copy).unwrap();
        drop(sealed);
        assert_eq!(again.bytes(), b"some bytes");
    }

    #[test]
    #[cfg_attr(miri, ignore = "memfd_create(2)")]
    fn a_file_that_may_change_is_refused() {
        let mut file = memory_file().unwrap();
        file.write_all(b"bytes").unwrap();
        assert!(SealedFile::map(file.into()).is_err());
        assert!(SealedFile::map(File::open("/dev/null").unwrap().into()).is_err());
        assert!(SealedFile::new(b"").is_err());
    }
}
