//! What can go wrong with skd-tls.

use std::fmt;
use std::time::Duration;

use crate::sys::process::Ended;

/// What has gone wrong with skd-tls.
#[derive(Clone, Copy, Debug)]
pub enum TlsTrouble<'a> {
    /// The process has ended like this, and with it all its connections. The next is started after so long.
    Ended(Ended, Duration),
    /// The next can't be made ready, for this reason, and is started again after so long.
    NotStarted(&'a str, Duration),
    /// After an upgrade the next can't be made ready, for this reason, and the earlier one goes on.
    NotReplaced(&'a str),
    /// It has not loaded its files again, for this reason.
    NotLoaded(&'a str),
    /// It can't keep itself from this.
    Unconfined(&'a str),
    /// It says what this skd doesn't understand.
    NotUnderstood,
}

impl fmt::Display for TlsTrouble<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(ended, pause) => {
                match ended {
                    Ended::Exited(status) => write!(f, "skd-tls has ended with status {status}")?,
                    Ended::Killed(signal) => write!(f, "signal {signal} has ended skd-tls")?,
                }
                write!(
                    f,
                    ", and with it all connections with TLS; it is started again"
                )?;
                write_pause(f, *pause)
            }
            Self::NotStarted(why, pause) => {
                write!(f, "no TLS: {why}; skd-tls is started again")?;
                write_pause(f, *pause)
            }
            Self::NotReplaced(why) => write!(
                f,
                "skd-tls isn't replaced: {why}; that of the earlier skd goes on"
            ),
            Self::NotLoaded(why) => write!(f, "{why}; certificates and keys stay as they were"),
            Self::Unconfined(what) => write!(f, "skd-tls isn't confined in full: {what}"),
            Self::NotUnderstood => f.write_str(
                "skd-tls says what this skd doesn't understand; both have to be of one version",
            ),
        }
    }
}

fn write_pause(f: &mut fmt::Formatter<'_>, pause: Duration) -> fmt::Result {
    match pause.as_secs() {
        0 => Ok(()),
        seconds => write!(f, " in {seconds} s"),
    }
}
