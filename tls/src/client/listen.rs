//! Connections that are accepted here, and connected to a server each (`--listen`).

use std::ffi::{OsStr, OsString};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConfig;
use skd::config::{DatagramMode, Endpoint, InetAddress, Listen, Port, Style, UnixAddress};
use skd::net::{LOCK_TIMEOUT, Listener, bind_all, resolve_all};
use skd::sys::names::service_port;

use super::connectors::{Connectors, Queued};
use super::log::Log;
use super::options::Options;
use super::{End, config, connect, failure};
use crate::engine::{Ended, Engine, Outgoing};

/// How long connections may go on after the first signal to end.
const AFTER_SIGNAL: Duration = Duration::from_secs(10);

/// How often it is looked whether the last one has ended.
const ENDING: Duration = Duration::from_millis(20);

/// How long it waits when descriptors or memory are short, or too many connections wait for the server.
const SHORTAGE: Duration = Duration::from_millis(100);

/// What all connections of a listener share.
struct Shared {
    options: Options,
    /// Replaced at SIGHUP.
    config: Mutex<Arc<ClientConfig>>,
    engine: Arc<Engine>,
    log: Arc<Log>,
}

/// Accepts connections until a signal ends it.
pub(super) fn run(options: Options, config: Arc<ClientConfig>) -> Result<(), End> {
    let signals = signals()?;
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With fewer it has fewer connections.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let mut listeners = bind(&options.listen).map_err(End::NotConnected)?;
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    let engine = Engine::client(threads)
        .map_err(|error| End::NotConnected(format!("can't start its threads: {error}")))?;
    let shared = Arc::new(Shared {
        options,
        config: Mutex::new(config),
        engine,
        log: Arc::default(),
    });
    let connectors = Connectors::new({
        let shared = Arc::clone(&shared);
        move |queued| shared.connect(queued)
    });
    while !accept_until_signal(&listeners, &signals, &connectors, &shared)? {
        shared.reload();
    }
    listeners.clear();
    shared.engine.stop(AFTER_SIGNAL);
    let deadline = Instant::now() + AFTER_SIGNAL + Duration::from_secs(1);
    while !shared.engine.is_done() && Instant::now() < deadline {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        // Another one ends it at once.
        if wait(&mut fds, Some(ENDING))? && taken(&signals).is_some_and(ends) {
            break;
        }
    }
    Ok(())
}

/// Accepts connections. Returns at a signal: whether it is one to end.
fn accept_until_signal(
    listeners: &[Listener],
    signals: &SignalFd,
    connectors: &Connectors,
    shared: &Shared,
) -> Result<bool, End> {
    let mut pause = None;
    loop {
        let watched = match pause {
            None => listeners,
            Some(_) => &[],
        };
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            watched
                .iter()
                .map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)),
        );
        wait(&mut fds, pause)?;
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let signal = (ready.first() == Some(&true)).then(|| taken(signals));
        if let Some(signal) = signal.flatten() {
            return Ok(ends(signal));
        }
        pause = None;
        let ready = watched.iter().zip(ready.into_iter().skip(1));
        for (listener, _) in ready.filter(|(_, is_ready)| *is_ready) {
            if !accept(listener, connectors, &shared.log) {
                pause = Some(SHORTAGE);
            }
        }
    }
}

/// Accepts what waits at a listener. Returns false if nothing more can be taken now.
fn accept(listener: &Listener, connectors: &Connectors, log: &Log) -> bool {
    loop {
        if connectors.are_full() {
            return false;
        }
        match listener.accept() {
            Ok((socket, peer)) => {
                let queued = Queued {
                    connection: socket.into(),
                    peer: peer.to_string(),
                };
                if let Err(error) = connectors.add(queued) {
                    log.line(&format!("can't start a thread: {error}"));
                    return false;
                }
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EAGAIN) => return true,
                // That client is gone already.
                Some(Errno::EINTR | Errno::ECONNABORTED) => {}
                _ => {
                    log.line(&format!("can't accept connections: {error}"));
                    return false;
                }
            },
        }
    }
}

impl Shared {
    /// Connects to the server for a connection, and has the engine do the rest.
    fn connect(&self, queued: Queued) {
        let Queued { connection, peer } = queued;
        let begin = Instant::now();
        let tcp = match connect::first(&self.options.targets, self.options.timeout) {
            Ok(tcp) => tcp,
            Err(why) => {
                self.log.line(&format!("{peer}: {why}"));
                reset_at_close(&connection);
                return;
            }
        };
        let log = Arc::clone(&self.log);
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let config = Arc::clone(&config);
        self.engine.connect(Outgoing {
            config,
            name: self.options.name.clone(),
            tcp,
            plain: connection,
            within: self.options.timeout.saturating_sub(begin.elapsed()),
            idle: None,
            ended: Box::new(move |ended| {
                if let Some(why) = sentence(&ended) {
                    log.line(&format!("{peer}: {why}"));
                }
            }),
        });
    }

    /// Reads the files of the options again. If there is something wrong with them, what was read before holds.
    fn reload(&self) {
        match config::config(&self.options) {
            Ok(new) => {
                *self.config.lock().unwrap_or_else(PoisonError::into_inner) = new;
                self.log.line("read the certificates again");
            }
            Err(why) => self
                .log
                .line(&format!("the earlier certificates stay: {why}")),
        }
    }
}

/// What is said about the end of a connection, if anything.
fn sentence(ended: &Ended) -> Option<String> {
    match ended {
        Ended::Complete => None,
        Ended::Truncated => {
            Some("the server has ended the connection without close_notify".to_owned())
        }
        Ended::NoSession(fault) => Some(format!(
            "no session with the server: {}",
            failure::of_fault(fault)
        )),
        Ended::Late => Some("no session with the server: it hasn't answered in time".to_owned()),
        Ended::NotTaken => Some("not connected with the server: this program is ending".to_owned()),
    }
}

/// Has a connection reset when it is closed: nothing that its client has said went anywhere.
fn reset_at_close(connection: &OwnedFd) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(connection, sockopt::Linger, &linger);
}

/// Binds all listeners, or none. The error is a sentence.
fn bind(addresses: &[OsString]) -> Result<Vec<Listener>, String> {
    let wanted: Vec<Listen> = addresses
        .iter()
        .map(|address| listen(address))
        .collect::<Result<_, _>>()?;
    let listeners = resolve_all(&wanted)
        .and_then(|it| bind_all(&it, Vec::new(), DatagramMode::default(), LOCK_TIMEOUT))
        .and_then(|listeners| {
            listeners.iter().try_for_each(Listener::listen)?;
            Ok(listeners)
        });
    listeners.map_err(|error| error.to_string())
}

fn listen(address: &OsStr) -> Result<Listen, String> {
    let option = format!("--listen {}", address.to_string_lossy());
    let endpoint = endpoint(address).map_err(|why| format!("{option}: {why}"))?;
    Ok(Listen {
        option,
        endpoint,
        backlog: None,
        options: Vec::new(),
    })
}

fn endpoint(address: &OsStr) -> Result<Endpoint, String> {
    let bytes = address.as_bytes();
    let path = bytes.strip_prefix(b"unix:");
    if path.is_some() || bytes.contains(&b'/') || bytes.starts_with(b"@") {
        let path = OsStr::from_bytes(path.unwrap_or(bytes));
        return Ok(Endpoint::Unix {
            style: Style::Stream,
            address: UnixAddress::parse(path).map_err(|why| why.to_string())?,
            mode: None,
            owner: None,
        });
    }
    let text = address.to_str().ok_or("it isn't text in UTF-8")?;
    let InetAddress { host, port } = text.parse().map_err(|why| format!("{why}"))?;
    let port = match port {
        Port::Number(number) => number,
        Port::Service(name) => service_port(&name, "tcp")
            .ok_or_else(|| format!("there is no tcp service '{name}' in services(5)"))?,
    };
    Ok(Endpoint::Inet {
        style: Style::Stream,
        host,
        port,
    })
}

/// The signals to end and to read files again, as a descriptor.
fn signals() -> Result<SignalFd, End> {
    let set: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    let made = set
        .thread_block()
        .and_then(|()| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK));
    made.map_err(|errno| End::NotConnected(format!("can't receive signals: {}", errno.desc())))
}

fn taken(signals: &SignalFd) -> Option<Signal> {
    let found = signals.read_signal().ok().flatten()?;
    Signal::try_from(found.ssi_signo as i32).ok()
}

fn ends(signal: Signal) -> bool {
    signal != Signal::SIGHUP
}

/// Waits until a descriptor is ready, or for so long. Returns whether one is.
fn wait(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> Result<bool, End> {
    let timeout = limit.map_or(PollTimeout::NONE, |limit| {
        PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)
    });
    match poll(fds, timeout) {
        Ok(count) => Ok(count > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(End::NotConnected(format!("can't wait: {}", errno.desc()))),
    }
}
