//! The program skd-tls, open: a process that is started again is of the same file, whatever is at its path by
//! then, and even if the path can't be seen any more.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::setup::{SavedTlsProgram, TlsProgram};
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::reexec::ExecArguments;

/// The program, open only to be executed.
#[derive(Debug)]
pub(super) struct OpenProgram {
    program: Arc<TlsProgram>,
    file: OwnedFd,
}

/// The program in the state of an upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedOpenProgram {
    program: SavedTlsProgram,
    file: i32,
}

impl OpenProgram {
    pub(super) fn open(program: TlsProgram) -> Result<Self, Error> {
        let file = program.open()?;
        let program = Arc::new(program);
        Ok(Self { program, file })
    }

    pub(super) fn copy(&self) -> Result<Self, Error> {
        let failed = |reason| Error::start("no descriptor of skd-tls", reason);
        Ok(Self {
            program: Arc::clone(&self.program),
            file: self.file.try_clone().map_err(failed)?,
        })
    }

    /// Opens what is at its path now.
    pub(super) fn renew(&mut self) -> Result<(), Error> {
        self.file = self.program.open()?;
        Ok(())
    }

    /// Returns the command line, and an environment with nothing in it.
    pub(super) fn arguments(&self) -> ExecArguments {
        // A path never contains a NUL byte.
        let path = CString::new(self.program.path().as_os_str().as_bytes()).unwrap_or_default();
        ExecArguments::new(vec![path, c"--serve".to_owned()], Vec::new())
    }

    /// Says why it can't be executed.
    pub(super) fn explain(&self, errno: Errno) -> String {
        let path = self.program.path().display();
        match errno {
            // A script's interpreter would have to open what is closed at the exec.
            Errno::ENOENT => format!(
                "{path} can't be executed: its dynamic linker isn't there, or it is a script; after \
                 --chroot the linker would have to be in that directory, but a static skd-tls needs none"
            ),
            errno => format!("{path} can't be executed: {}", errno.desc()),
        }
    }

    pub(super) fn save(&self, to: &mut SavedDescriptors) -> Result<SavedOpenProgram, Errno> {
        Ok(SavedOpenProgram {
            program: self.program.save(to)?,
            file: to.pass(&self.file)?,
        })
    }

    pub(super) fn restore(saved: SavedOpenProgram) -> Result<Self, Errno> {
        Ok(Self {
            program: TlsProgram::restore(saved.program)?.into(),
            file: descriptors::claim(saved.file)?,
        })
    }
}

impl AsFd for OpenProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
