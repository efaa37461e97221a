//! `SKD_UPGRADE`, by which a process knows that it continues another: `FD:PID:WORD`.
//!
//! FD is the memory file with the state, and PID the process that has executed, or will execute,
//! the binary.

use std::env;
use std::ffi::CString;

use nix::unistd::{Pid, getppid};

use crate::child::environment::Variables;
use crate::error::Error;
use crate::report::{Attempt, NoUpgrade, Trouble};
use crate::setup::executable;
use crate::sys::reexec::ExecArguments;

const VARIABLE: &str = "SKD_UPGRADE";

/// What a binary is executed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Word {
    /// To say whether it could go on with the state.
    Preflight,
    /// To go on with the state.
    Upgrade,
    /// The same, since the new binary can't.
    Return,
}

impl Word {
    const ALL: [Self; 3] = [Self::Preflight, Self::Upgrade, Self::Return];

    fn name(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Upgrade => "upgrade",
            Self::Return => "return",
        }
    }
}

/// Reads the variable: what this process is to do, and the descriptor of the memory file. `None`
/// if it isn't set, or was meant for another process.
pub(in crate::serve) fn read() -> Result<Option<(i32, Word)>, Error> {
    let Some(value) = env::var_os(VARIABLE) else {
        return Ok(None);
    };
    let parsed = value.to_str().and_then(parse);
    let Some((memory, pid, word)) = parsed else {
        return Err(Error::Start(format!(
            "${VARIABLE} is '{}', which this skd doesn't understand: only a running skd sets it, \
             to upgrade itself; unset it to start another",
            value.to_string_lossy()
        )));
    };
    match word {
        // It must not become a daemon of its own, with the same listeners.
        Word::Preflight if pid != getppid() => Err(Error::Start(
            "it was to be tried by a skd that has ended meanwhile".into(),
        )),
        Word::Upgrade | Word::Return if pid != Pid::this() => Ok(None),
        _ => Ok(Some((memory, word))),
    }
}

fn parse(value: &str) -> Option<(i32, Pid, Word)> {
    let mut parts = value.split(':');
    let memory = parts.next()?.parse().ok().filter(|number| *number >= 0)?;
    let pid = parts.next()?.parse().ok()?;
    let name = parts.next()?;
    let word = Word::ALL.into_iter().find(|word| word.name() == name)?;
    match parts.next() {
        None => Some((memory, Pid::from_raw(pid), word)),
        Some(_) => None,
    }
}

/// The command line and the environment for a binary that is executed with the state in `memory`,
/// with `more` options before all others.
pub(in crate::serve) fn arguments(memory: i32, word: Word, more: &[&str]) -> ExecArguments {
    let mut arguments = executable::arguments();
    let more = more.iter().filter_map(|option| CString::new(*option).ok());
    let at = arguments.len().min(1);
    arguments.splice(at..at, more);
    let value = format!("{memory}:{}:{}", Pid::this(), word.name());
    let changes = [(VARIABLE.into(), Some(value.into()))];
    let environment = Variables::inherited(None, &changes).lines();
    ExecArguments::new(arguments, environment.to_vec())
}

/// What a process goes on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Purpose {
    /// The program that is at its path by now.
    Upgrade,
    /// What files say by now.
    Reload,
}

impl Purpose {
    /// Returns what is reported if there is no upgrade or reload.
    pub(in crate::serve) fn trouble(self, why: NoUpgrade<'_>) -> Trouble<'_> {
        match self {
            Self::Upgrade => Trouble::NoUpgrade(why),
            Self::Reload => Trouble::NoReload(why),
        }
    }
}

impl From<Purpose> for Attempt {
    fn from(purpose: Purpose) -> Self {
        match purpose {
            Purpose::Upgrade => Self::Upgrade,
            Purpose::Reload => Self::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_read_and_nothing_else() {
        for word in Word::ALL {
            let value = format!("70:42:{}", word.name());
            assert_eq!(parse(&value), Some((70, Pid::from_raw(42), word)));
        }
        for value in [
            "",
            "x",
            "70:42",
            "70:42:rehearsal",
            "-1:42:upgrade",
            "70:42:upgrade:1",
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
    }
}
