//! What can go wrong while skd serves, as data and in words.

use std::collections::TryReserveError;
use std::ffi::OsStr;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;

use super::mask;
use super::spawn_failure::SpawnTrouble;
use super::tls::TlsTrouble;
use crate::config::{ListenerName, Peer, ServiceId};
use crate::error::Error;
use crate::sys::signals::{Sender, Signal};

/// The causes of troubles. For a service, or for the process, one line a second of each cause is
/// written at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Cause {
    /// accept(2) failed.
    Accept,
    /// No process, memory or descriptor for a handler.
    Spawn,
    /// A handler couldn't do its preparation or exec.
    Exec,
    /// A datagram couldn't be received.
    Receive,
    /// A datagram couldn't be sent.
    Send,
    /// A descriptor couldn't be watched, or the kernel couldn't be asked about one.
    Watch,
    /// The log couldn't be opened again, or its relay had to be started again.
    Log,
    /// A new binary can't take over.
    Upgrade,
    /// The service manager, or another reader, couldn't be told of readiness.
    Manager,
    /// Rules couldn't be reloaded.
    Rules,
    /// A handler couldn't be prestarted.
    Prestart,
    /// A signal wasn't obeyed.
    Signal,
    /// A process was stopped before its exec.
    Birth,
    /// Files couldn't be reloaded.
    Reload,
    /// skd-tls has ended, or couldn't do what it was told.
    Tls,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Accept,
        Self::Spawn,
        Self::Exec,
        Self::Receive,
        Self::Send,
        Self::Watch,
        Self::Log,
        Self::Upgrade,
        Self::Manager,
        Self::Rules,
        Self::Prestart,
        Self::Signal,
        Self::Birth,
        Self::Reload,
        Self::Tls,
    ];

    /// The number of causes.
    pub const COUNT: usize = Self::Tls as usize + 1;

    /// Returns its label in counters and JSON lines. Labels stay.
    pub fn label(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Spawn => "spawn",
            Self::Exec => "exec",
            Self::Receive => "receive",
            Self::Send => "send",
            Self::Watch => "watch",
            Self::Log => "log",
            Self::Upgrade => "upgrade",
            Self::Manager => "manager",
            Self::Rules => "rules",
            Self::Prestart => "prestart",
            Self::Signal => "signal",
            Self::Birth => "birth",
            Self::Reload => "reload",
            Self::Tls => "tls",
        }
    }
}

/// Something that went wrong.
#[derive(Clone, Copy, Debug)]
pub enum Trouble<'a> {
    /// accept(2) failed.
    NotAccepted {
        /// The service of the listener.
        service: ServiceId,
        /// The listener.
        listener: ListenerName<'a>,
        /// The reason.
        errno: Errno,
        /// What becomes of it.
        outlook: Outlook,
    },
    /// The table of handlers can't grow.
    NoMemory(ServiceId, &'a TryReserveError),
    /// A connection can't be put on the reserved descriptor.
    ConnectionNotHeld(ServiceId, Errno),
    /// A datagram's socket can't be put on the reserved descriptor.
    DatagramNotHeld(ServiceId, Errno),
    /// There is no socketpair(2) for a datagram handler.
    NoSocketpair {
        /// The service.
        service: ServiceId,
        /// The reason.
        errno: Errno,
        /// Whether it is tried again.
        again: bool,
    },
    /// A datagram doesn't fit into the socket of its handler.
    DatagramTooBig(ServiceId),
    /// A handler could not be started.
    Spawn(ServiceId, SpawnTrouble<'a>),
    /// A process with this id was stopped before its exec, and was sent this signal.
    NewbornStopped(i32, Signal),
    /// A client's user is none that a handler becomes.
    NotAsPeer {
        /// The service.
        service: ServiceId,
        /// The client.
        peer: &'a Peer,
        /// The reason.
        why: &'a str,
    },
    /// A supervised program could not be started.
    NotStarted(&'a Error),
    /// Receiving from a listener failed.
    NotReceived {
        /// The service of the listener.
        service: ServiceId,
        /// The listener.
        listener: ListenerName<'a>,
        /// The reason.
        fault: ReceiveFault,
    },
    /// An answer could not be sent.
    AnswerNotSent {
        /// The service.
        service: ServiceId,
        /// The peer that it is for.
        peer: &'a Peer,
        /// The listener that it is sent from.
        listener: ListenerName<'a>,
        /// The reason.
        errno: Errno,
    },
    /// The only answer to a datagram is longer than a datagram can be.
    AnswerTooLong {
        /// The service.
        service: ServiceId,
        /// The peer that it is for.
        peer: &'a Peer,
        /// The most bytes that a datagram can have.
        longest: usize,
    },
    /// One of several answers to a peer is longer than a datagram can be.
    OneAnswerTooLong {
        /// The service.
        service: ServiceId,
        /// The peer that it is for.
        peer: &'a Peer,
        /// The most bytes that a datagram can have.
        longest: usize,
    },
    /// A descriptor can't be watched.
    NotWatched {
        /// The service, if it belongs to one.
        service: Option<ServiceId>,
        /// What it is.
        what: Watched,
        /// The reason.
        errno: Errno,
    },
    /// A listener in wait mode can't be watched.
    ListenerNotWatched {
        /// The service of the listener.
        service: ServiceId,
        /// The listener.
        listener: ListenerName<'a>,
        /// The reason.
        errno: Errno,
    },
    /// The kernel does not tell since when a connection is idle.
    IdleTimeout(ServiceId, Errno),
    /// The kernel does not tell whether a supervised program has connections.
    IdleExit(Errno),
    /// The relay to syslog or to the log file had ended, and runs again.
    RelayRestarted {
        /// Whether it is to syslog.
        syslog: bool,
    },
    /// The relay to syslog or to the log file has ended.
    NoRelay {
        /// Whether it is to syslog.
        syslog: bool,
    },
    /// There is no upgrade, for this reason.
    NoUpgrade(NoUpgrade<'a>),
    /// A reload of files failed, and nothing has changed.
    NoReload(NoUpgrade<'a>),
    /// A signal of this sender was not obeyed.
    SignalRefused(Signal, Sender),
    /// `--ready-fd` can't be written to.
    ReadyFd {
        /// The descriptor.
        number: i32,
        /// The reason.
        errno: Errno,
    },
    /// The service manager can't be told.
    Manager {
        /// Its socket.
        address: &'a OsStr,
        /// The reason.
        errno: Errno,
    },
    /// Rules could not be reloaded.
    RulesNotRead(ServiceId, &'a Error),
    /// A prestarted handler has ended without a client.
    PrestartedEnded {
        /// The service.
        service: ServiceId,
        /// The program as it was given.
        program: &'a OsStr,
        /// The process id of the handler.
        pid: i32,
        /// When the next is started.
        pause: Duration,
    },
    /// A prestarted handler hasn't answered in time, and was ended.
    PrestartedSilent {
        /// The service.
        service: ServiceId,
        /// The program as it was given.
        program: &'a OsStr,
        /// The process id of the handler.
        pid: i32,
        /// When the next is started.
        pause: Duration,
    },
    /// A program can't be prestarted.
    NotPrestartable {
        /// The service.
        service: ServiceId,
        /// The program as it was given.
        program: &'a OsStr,
        /// The reason.
        why: &'a str,
    },
    /// A program could not be prestarted this time.
    NotPrestarted {
        /// The service.
        service: ServiceId,
        /// The program as it was given.
        program: &'a OsStr,
        /// The reason.
        why: &'a str,
        /// When the next try is.
        pause: Duration,
    },
    /// Something is wrong with skd-tls.
    Tls(TlsTrouble<'a>),
}

/// What becomes of a connection that was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// Its client is gone.
    Gone,
    /// None can be accepted any more.
    ShutDown,
    /// It is tried again.
    Again,
}

/// Why nothing was received from a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiveFault {
    /// The kernel's reason.
    Errno(Errno),
    /// Another process has shut the socket down.
    ShutDown,
    /// A handler in wait mode has shut the socket down.
    ShutDownByHandler,
}

/// What can't be watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// A listener.
    Listener,
    /// The end of a handler.
    Handler,
    /// The ends of the handlers of a thread.
    Handlers,
    /// The output of a handler of many datagrams.
    Output,
    /// The output of a handler of one datagram.
    Answer,
    /// The input of a client in lingering close.
    Lingering,
    /// A process that is prestarted.
    Process,
    /// All that the main thread watches.
    Main,
    /// The control socket.
    Control,
}

/// Why there is no upgrade.
#[derive(Clone, Copy, Debug)]
pub enum NoUpgrade<'a> {
    /// A preflight is running already.
    Running,
    /// skd ends.
    Ending,
    /// This system call or lookup failed.
    Failed(&'a str),
    /// The preflight has not ended within this time.
    Late(Duration),
    /// The new binary has ended without having read the state.
    NoAnswer,
    /// The new binary has ended with this status.
    Status(u8),
    /// This signal has ended the new binary.
    Signal(i32),
    /// The interpreter of the new binary does not exist.
    Interpreter(&'a Path),
    /// The new binary is a script.
    Script,
    /// The new binary can't be executed.
    NotExecutable(Errno),
    /// The new binary has given up after its exec.
    GivenBack,
    /// The files can't be seen in the root directory of the process.
    OutOfSight,
}

impl Trouble<'_> {
    /// Returns its cause.
    pub fn cause(&self) -> Cause {
        match self {
            Self::NotAccepted { .. } => Cause::Accept,
            Self::NoMemory(..)
            | Self::ConnectionNotHeld(..)
            | Self::DatagramNotHeld(..)
            | Self::NoSocketpair { .. }
            | Self::DatagramTooBig(_)
            | Self::Spawn(_, SpawnTrouble::Shortage { .. }) => Cause::Spawn,
            Self::Spawn(
                _,
                SpawnTrouble::Failed(_)
                | SpawnTrouble::Killed { .. }
                | SpawnTrouble::NoJailer { .. },
            )
            | Self::NotAsPeer { .. }
            | Self::NotStarted(_) => Cause::Exec,
            Self::NewbornStopped(..) => Cause::Birth,
            Self::NotReceived { .. } => Cause::Receive,
            Self::AnswerNotSent { .. }
            | Self::AnswerTooLong { .. }
            | Self::OneAnswerTooLong { .. } => Cause::Send,
            Self::NotWatched { .. }
            | Self::ListenerNotWatched { .. }
            | Self::IdleTimeout(..)
            | Self::IdleExit(_) => Cause::Watch,
            Self::RelayRestarted { .. } | Self::NoRelay { .. } => Cause::Log,
            Self::NoUpgrade(_) => Cause::Upgrade,
            Self::NoReload(_) => Cause::Reload,
            Self::SignalRefused(..) => Cause::Signal,
            Self::ReadyFd { .. } | Self::Manager { .. } => Cause::Manager,
            Self::RulesNotRead(..) => Cause::Rules,
            Self::PrestartedEnded { .. }
            | Self::PrestartedSilent { .. }
            | Self::NotPrestartable { .. }
            | Self::NotPrestarted { .. } => Cause::Prestart,
            Self::Tls(_) => Cause::Tls,
        }
    }

    /// Returns the service that it concerns; none if it concerns the process.
    pub fn service(&self) -> Option<ServiceId> {
        match self {
            Self::NotAccepted { service, .. }
            | Self::NoMemory(service, _)
            | Self::ConnectionNotHeld(service, _)
            | Self::DatagramNotHeld(service, _)
            | Self::NoSocketpair { service, .. }
            | Self::DatagramTooBig(service)
            | Self::Spawn(service, _)
            | Self::NotAsPeer { service, .. }
            | Self::NotReceived { service, .. }
            | Self::AnswerNotSent { service, .. }
            | Self::AnswerTooLong { service, .. }
            | Self::OneAnswerTooLong { service, .. }
            | Self::ListenerNotWatched { service, .. }
            | Self::IdleTimeout(service, _)
            | Self::RulesNotRead(service, _)
            | Self::PrestartedEnded { service, .. }
            | Self::PrestartedSilent { service, .. }
            | Self::NotPrestartable { service, .. }
            | Self::NotPrestarted { service, .. } => Some(*service),
            Self::NotWatched { service, .. } => *service,
            Self::NotStarted(_)
            | Self::IdleExit(_)
            | Self::RelayRestarted { .. }
            | Self::NoRelay { .. }
            | Self::NoUpgrade(_)
            | Self::NoReload(_)
            | Self::SignalRefused(..)
            | Self::NewbornStopped(..)
            | Self::ReadyFd { .. }
            | Self::Manager { .. }
            | Self::Tls(_) => None,
        }
    }
}

impl fmt::Display for Trouble<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAccepted {
                listener,
                errno,
                outlook,
                ..
            } => {
                let why = errno.desc();
                write!(
                    f,
                    "a connection on {listener} wasn't accepted: {why}; {outlook}"
                )
            }
            Self::NoMemory(_, error) => error.fmt(f),
            Self::ConnectionNotHeld(_, errno) => {
                let why = errno.desc();
                write!(f, "a connection can't be passed on: {why}; trying again")
            }
            Self::DatagramNotHeld(_, errno) => {
                write!(f, "a datagram can't be passed on: {}", errno.desc())
            }
            Self::NoSocketpair { errno, again, .. } => {
                write!(f, "no sockets for a handler: {}", errno.desc())?;
                f.write_str(if *again { "; trying again" } else { "" })
            }
            Self::DatagramTooBig(_) => {
                f.write_str("a datagram doesn't fit into a socket: raise net.core.wmem_default")
            }
            Self::Spawn(_, trouble) => trouble.fmt(f),
            Self::NotAsPeer { peer, why, .. } => {
                write!(f, "--as-peer: no handler for {}: {why}", mask::peer(peer))
            }
            Self::NotStarted(error) => error.fmt(f),
            Self::NotReceived {
                listener, fault, ..
            } => write!(f, "receiving on {listener}: {fault}"),
            Self::AnswerNotSent {
                peer,
                listener,
                errno,
                ..
            } => {
                let (peer, why) = (mask::peer(peer), errno.desc());
                write!(
                    f,
                    "the answer to the {peer} on {listener} wasn't sent: {why}"
                )
            }
            Self::AnswerTooLong { peer, longest, .. } => write!(
                f,
                "the answer to the {} is longer than {longest} bytes: nothing is sent",
                mask::peer(peer)
            ),
            Self::OneAnswerTooLong { peer, longest, .. } => write!(
                f,
                "an answer to the {} is longer than {longest} bytes: it is not sent",
                mask::peer(peer)
            ),
            Self::NotWatched { what, errno, .. } => write!(f, "{what}: {}", errno.desc()),
            Self::ListenerNotWatched {
                listener, errno, ..
            } => write!(f, "receiving on {listener}: {}", errno.desc()),
            Self::IdleTimeout(_, errno) => write!(
                f,
                "--idle-timeout: the kernel doesn't say since when a connection is idle: {}; it \
                 will be asked again",
                errno.desc()
            ),
            Self::IdleExit(errno) => write!(
                f,
                "--idle-exit: the kernel doesn't tell of connections: {}",
                errno.desc()
            ),
            Self::RelayRestarted { syslog } => {
                let log = log_name(*syslog);
                write!(f, "the relay to {log} had ended and was started again")
            }
            Self::NoRelay { syslog } => {
                let log = log_name(*syslog);
                write!(
                    f,
                    "the relay to {log} has ended and can't be started; trying again"
                )
            }
            Self::NoUpgrade(why) => write!(f, "no upgrade: {why}; this skd goes on"),
            Self::NoReload(why) => {
                f.write_str("no reload: ")?;
                match why {
                    NoUpgrade::Late(time) => {
                        let time = time.as_secs();
                        write!(f, "the files weren't read and tried within {time} s")
                    }
                    NoUpgrade::Status(_) => f.write_str("what the files say can't be served"),
                    NoUpgrade::Signal(signal) => write!(f, "signal {signal} ended the attempt"),
                    NoUpgrade::GivenBack => {
                        f.write_str("what the files say couldn't be served after all")
                    }
                    why => why.fmt(f),
                }?;
                f.write_str("; nothing has changed")
            }
            Self::NewbornStopped(pid, signal) => {
                let what = match signal {
                    Signal::SIGCONT => "continued",
                    _ => "killed, and is started again",
                };
                write!(
                    f,
                    "pid {pid} was stopped before its exec, by another process of its user; it \
                     is {what}"
                )
            }
            Self::SignalRefused(signal, sender) => {
                let name = signal.as_str().trim_start_matches("SIG");
                match sender {
                    Sender::Unverified { pid, uid } => write!(
                        f,
                        "{name} was ignored: it was sent with data, as pid {pid} of uid {uid}, \
                         which the kernel doesn't verify; use kill(1)"
                    ),
                    Sender::Process { pid, uid } => write!(
                        f,
                        "{name} from pid {pid} of uid {uid} was ignored: handlers and other users \
                         don't control skd"
                    ),
                    Sender::Kernel | Sender::Outside => write!(f, "{name} was ignored"),
                }
            }
            Self::ReadyFd { number, errno } => {
                let why = match errno {
                    Errno::EAGAIN => "its reader is stuck",
                    errno => errno.desc(),
                };
                write!(
                    f,
                    "--ready-fd {number}: the newline can't be written: {why}"
                )
            }
            Self::Manager { address, errno } => {
                let address = Path::new(address).display();
                let why = match errno {
                    Errno::EAGAIN | Errno::ENOBUFS | Errno::EINTR => "it reads nothing",
                    errno => errno.desc(),
                };
                write!(
                    f,
                    "the service manager on NOTIFY_SOCKET={address} can't be told: {why}"
                )
            }
            Self::RulesNotRead(_, fault) => write!(f, "{fault}; the old rules stay"),
            Self::PrestartedEnded {
                program,
                pid,
                pause,
                ..
            } => write!(
                f,
                "prestarted pid {pid} of '{}' ended without a client; the next is started in {:.1}s",
                Path::new(program).display(),
                pause.as_secs_f64()
            ),
            Self::PrestartedSilent {
                program,
                pid,
                pause,
                ..
            } => write!(
                f,
                "prestarted pid {pid} of '{}' didn't answer within 0.5s and was ended; the next is started in {:.1}s",
                Path::new(program).display(),
                pause.as_secs_f64()
            ),
            Self::NotPrestartable { program, why, .. } => write!(
                f,
                "'{}' can't be prestarted: {why}; it is started for each client",
                Path::new(program).display()
            ),
            Self::NotPrestarted {
                program,
                why,
                pause,
                ..
            } => write!(
                f,
                "no prestarted '{}': {why}; next try in {:.1}s",
                Path::new(program).display(),
                pause.as_secs_f64()
            ),
            Self::Tls(trouble) => trouble.fmt(f),
        }
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "the client is gone",
            Self::ShutDown => "another process has shut the socket down; restart skd",
            Self::Again => "trying again",
        })
    }
}

impl fmt::Display for ReceiveFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Errno(errno) => errno.desc(),
            Self::ShutDown => "another process has shut the socket down; restart skd",
            Self::ShutDownByHandler => "a handler has shut the socket down; restart skd",
        })
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener => "a listener can't be watched",
            Self::Handler => "a handler can't be watched",
            Self::Handlers => "handlers can't be watched",
            Self::Output => "a handler can't be heard",
            Self::Answer => "a handler's answer can't be waited for",
            Self::Lingering => "a client's input can't be drained",
            Self::Process => "a process can't be watched",
            Self::Main => "the main thread can't wait",
            Self::Control => "the control socket can't be served",
        })
    }
}

impl fmt::Display for NoUpgrade<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Running => f.write_str("one is being tried already"),
            Self::Ending => f.write_str("it is about to end"),
            Self::Failed(why) => f.write_str(why),
            Self::Late(time) => write!(
                f,
                "the new program hasn't said within {} s whether it can take over",
                time.as_secs()
            ),
            Self::NoAnswer => {
                f.write_str("the new program doesn't know how to take over; is it a skd?")
            }
            Self::Status(status) => write!(f, "the new program refuses (status {status})"),
            Self::Signal(signal) => write!(f, "signal {signal} ended the new program"),
            Self::Interpreter(path) => write!(
                f,
                "the new program's interpreter {} isn't there; after --chroot it would have to be \
                 in that directory, but a static skd needs none",
                Path::new(path).display()
            ),
            Self::Script => f.write_str("the new program is a script, and no skd"),
            Self::NotExecutable(errno) => {
                write!(f, "the new program can't be executed: {}", errno.desc())
            }
            Self::GivenBack => f.write_str("the new program couldn't take over"),
            Self::OutOfSight => f.write_str(
                "skd has entered another root directory, where its files aren't in sight; rules are \
                 read again, and all else takes a restart",
            ),
        }
    }
}
fn log_name(syslog: bool) -> &'static str {
    if syslog { "syslog" } else { "the log file" }
}
