//! skd-tls at a start, and when another binary of skd goes on.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;

use crate::child::program::missing_interpreter_of;
use crate::config::{Daemon, MOST_THREADS};
use crate::error::Error;
use crate::report;
use crate::serve::{TlsKeeper, TlsStart};
use crate::setup::executable::Executable;
use crate::setup::{TlsFiles, TlsProgram, tls_program};

/// Finds the program, and makes the channels to it. No process is started yet.
pub(super) fn keeper(
    files: Arc<TlsFiles>,
    daemon: &Daemon,
    executable: Option<&Executable>,
) -> Result<TlsKeeper, Error> {
    let program = TlsProgram::find(daemon, executable.map(Executable::path))?;
    if let Some(root) = &daemon.root {
        note_out_of_sight(&program, root);
    }
    let start = TlsStart {
        program,
        user: tls_program::user(daemon)?,
        threads: threads(daemon),
    };
    TlsKeeper::new(start, files)
}

/// Says that a process that has ended can't be started again in another root directory, if that is so.
fn note_out_of_sight(program: &TlsProgram, root: &Path) {
    let file = File::open(program.path()).ok();
    let missing = file.and_then(|file| missing_interpreter_of(Some(root), file));
    if let Some(linker) = missing {
        report::note(format_args!(
            "--chroot: if skd-tls should end, there is no TLS until skd is restarted: in {} there is no {}, \
             which it needs; put that there with its libraries, or use a static skd-tls",
            root.display(),
            linker.display()
        ));
    }
}

/// Has the next process be of the program that is found by now. In another root directory it is what has the
/// path of the earlier one.
pub(super) fn renew(
    keeper: &mut TlsKeeper,
    daemon: &Daemon,
    executable: Option<&Executable>,
) -> Result<(), Error> {
    if executable.is_some_and(Executable::is_in_root) {
        return keeper.renew_program();
    }
    let program = TlsProgram::find(daemon, executable.map(Executable::path))?;
    keeper.replace_program(program, tls_program::user(daemon)?)
}

/// How many threads serve connections: as many as can run at once, or as are asked for. A handshake takes a
/// thread much longer than an accept.
fn threads(daemon: &Daemon) -> usize {
    let processors = available_parallelism().ok();
    let threads = daemon.threads.or(processors);
    threads.map_or(1, |it| it.get().min(MOST_THREADS))
}
