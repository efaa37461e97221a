//! The process that skd starts: it does what the control channel says, and reports there.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use skd::sys::signals::{self, Signal};
use skd_tls_protocol::{Command, Report, Settings};

use crate::confine;
use crate::control::{Channel, Incoming, both};
use crate::engine::Engine;
use crate::load::{self, Services, Tickets, Watch};
use crate::truncated::{self, Reporter, Truncations};

/// How long the first command is waited for. skd sends it at once.
const FIRST: Duration = Duration::from_secs(30);

/// How often figures are reported, if they have changed.
const FIGURES: Duration = Duration::from_secs(1);

/// How often it is looked whether the last connection has ended, if that is waited for.
const ENDING: Duration = Duration::from_millis(20);

/// How often certificates are looked at again.
const CERTIFICATES: Duration = Duration::from_secs(24 * 60 * 60);

/// How long connections may go on when skd is gone.
const WITHOUT_SKD: Duration = Duration::from_secs(10);

/// What is left of a stop when the time is up.
const AFTER_STOP: Duration = Duration::from_secs(1);

/// How long skd is waited for to read the last reports.
const LAST_REPORTS: Duration = Duration::from_secs(1);

/// The size of settings, and how many files belong to them. Both are far more than any skd has.
const MOST_SETTINGS: usize = 64 << 20;
const MOST_FILES: usize = 1 << 18;

/// How many threads skd may ask for.
const MOST_THREADS: usize = 1024;

/// Signals that don't end this process: skd does. A terminal and a service manager send them to all processes
/// of a service, skd among them, and skd may have handlers to wait for. Two more aren't meant for this
/// program, and would end it.
const IGNORED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGPIPE,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// What the process is started for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To serve connections.
    Serve,
    /// To try settings, and to end.
    Check,
}

/// Serves until skd says that it is over. The error is a sentence, unless skd was told.
pub(crate) fn run(purpose: Purpose) -> Result<(), Option<String>> {
    signals::ignore(&IGNORED);
    let mut channel = Channel::take().map_err(Some)?;
    let started = start(&mut channel, purpose);
    let mut server = match started {
        Ok(Some(server)) => server,
        Ok(None) => return Ok(()),
        Err(why) => {
            channel.report(&Report::Refused { why });
            channel.flush_within(LAST_REPORTS);
            return Err(None);
        }
    };
    server.run(&mut channel);
    server.report_last(&mut channel);
    Ok(())
}

/// Receives the first command, gives up all rights, and gets ready. Returns `None` if skd is gone.
fn start(channel: &mut Channel, purpose: Purpose) -> Result<Option<Server>, String> {
    confine::prepare()?;
    if !channel.wait(FIRST) {
        return Err("skd has sent nothing".to_owned());
    }
    let (user, threads, received) = match channel.receive() {
        Incoming::Command(Command::Start { user, threads, .. }, received) => {
            (user, threads, received)
        }
        Incoming::End => return Ok(None),
        Incoming::Unknown(why) => return Err(why),
        Incoming::Command(..) | Incoming::Nothing => {
            return Err("the first command of skd isn't the one to start".to_owned());
        }
    };
    let (requests, tickets) = both(received)
        .ok_or("skd has sent no request channel, or no memory for the keys of session tickets")?;
    if !(1..=MOST_THREADS).contains(&threads) {
        return Err(format!("it can't have {threads} threads"));
    }
    // Whatever it reads once, it has read.
    load::prepare();
    let lacks = confine::confine(user)?;
    let tickets = Tickets::new(tickets);
    let (truncations, reporter) =
        truncated::queue().map_err(|errno| format!("can't make an event: {}", errno.desc()))?;
    channel.report(&Report::Started { lacks });
    Ok(Some(Server {
        serving: match purpose {
            Purpose::Serve => Serving::NotYet {
                requests,
                threads,
                reporter,
            },
            Purpose::Check => Serving::Never,
        },
        tickets: Arc::new(tickets),
        files: Vec::new(),
        watch: Watch::default(),
        truncations,
        until: Until::Told,
    }))
}

/// How long the process lives.
#[derive(Clone, Copy, Debug)]
enum Until {
    /// Until skd says something.
    Told,
    /// Until its last connection has ended.
    Done,
    /// The same, but no longer than this.
    DoneBy(Instant),
    /// No longer.
    Now,
}

/// Whether connections are served.
enum Serving {
    /// Not before the first settings hold: until then they wait in the request channel, or for another process.
    NotYet {
        requests: OwnedFd,
        threads: usize,
        reporter: Reporter,
    },
    Yes(Arc<Engine>),
    /// In check mode.
    Never,
}

struct Server {
    serving: Serving,
    tickets: Arc<Tickets>,
    /// Those of the next settings.
    files: Vec<OwnedFd>,
    /// What ends of the settings that hold.
    watch: Watch,
    truncations: Truncations,
    until: Until,
}

impl Server {
    fn engine(&self) -> Option<&Arc<Engine>> {
        match &self.serving {
            Serving::Yes(engine) => Some(engine),
            Serving::NotYet { .. } | Serving::Never => None,
        }
    }

    fn run(&mut self, channel: &mut Channel) {
        let mut next_figures = Instant::now() + FIGURES;
        let mut next_look = Instant::now() + CERTIFICATES;
        while !self.is_over() {
            self.wait(channel, next_figures);
            channel.flush();
            self.obey(channel);
            self.report_truncations(channel);
            let now = Instant::now();
            if now >= next_figures {
                next_figures = now + FIGURES;
                self.report_figures(channel);
                // Old keys are forgotten even if no client comes.
                self.tickets.renew();
            }
            if now >= next_look {
                next_look = now + CERTIFICATES;
                for certificate in self.watch.look() {
                    channel.report(&Report::Certificate(certificate));
                }
            }
        }
    }

    fn is_over(&self) -> bool {
        let is_done = || self.engine().is_none_or(|engine| engine.is_done());
        match self.until {
            Until::Told => false,
            Until::Done => is_done(),
            Until::DoneBy(deadline) => is_done() || Instant::now() >= deadline,
            Until::Now => true,
        }
    }

    /// Waits for a command, for room for reports, for a truncated connection, or until it is time.
    fn wait(&self, channel: &Channel, until: Instant) {
        let mut limit = until.saturating_duration_since(Instant::now());
        if !matches!(self.until, Until::Told) {
            limit = limit.min(ENDING);
        }
        let mut events = PollFlags::POLLIN;
        events.set(PollFlags::POLLOUT, channel.is_behind());
        let mut fds = [
            PollFd::new(self.truncations.as_fd(), PollFlags::POLLIN),
            PollFd::new(channel.as_fd(), events),
        ];
        let watched = if channel.is_closed() { 1 } else { 2 };
        // Up, so that it doesn't wake before the time.
        let milliseconds = limit.as_micros().div_ceil(1000);
        let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds[..watched], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Memory is short. It mustn't spin.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }

    /// Does what skd has said since.
    fn obey(&mut self, channel: &mut Channel) {
        while !channel.is_closed() {
            match channel.receive() {
                Incoming::Nothing => return,
                Incoming::End => self.stop(WITHOUT_SKD),
                Incoming::Unknown(why) => {
                    crate::cli::complain(&format!(
                        "skd has sent a command that isn't known: {why}"
                    ));
                }
                Incoming::Command(command, [first, _]) => match (command, first) {
                    (Command::File, Some(file)) if self.files.len() < MOST_FILES => {
                        self.files.push(file);
                    }
                    (Command::Load, Some(memory)) => self.load(channel, memory),
                    (Command::Retire, _) => self.retire(),
                    (Command::Stop { within }, _) => self.stop(Duration::from_millis(within)),
                    (command, _) => {
                        crate::cli::complain(&format!("skd has sent {command:?} out of turn"));
                    }
                },
            }
        }
    }

    /// Has new settings hold, or says why they don't.
    fn load(&mut self, channel: &mut Channel, memory: OwnedFd) {
        let files = std::mem::take(&mut self.files);
        let loaded = settings(memory).map_err(|why| vec![why]);
        let loaded = loaded
            .and_then(|it| load::load(&it, &files, &self.tickets))
            .and_then(|loaded| {
                self.serve(&loaded.services).map_err(|why| vec![why])?;
                Ok(loaded)
            });
        // Keys are closed before skd hears of it.
        drop(files);
        match loaded {
            Ok(loaded) => {
                for certificate in loaded.certificates {
                    channel.report(&Report::Certificate(certificate));
                }
                self.watch = loaded.watch;
                channel.report(&Report::Loaded);
            }
            Err(why) => channel.report(&Report::Refused {
                why: why.join("\n"),
            }),
        }
        if matches!(self.serving, Serving::Never) {
            self.until = Until::Now;
        }
    }

    /// Has new connections get these services. Starts threads for them at the first time.
    fn serve(&mut self, services: &Services) -> Result<(), String> {
        match std::mem::replace(&mut self.serving, Serving::Never) {
            Serving::NotYet {
                requests,
                threads,
                reporter,
            } => {
                let engine = Engine::start(requests, threads, services, move |it| reporter.add(it));
                // Without them, skd starts another process.
                let engine = engine.map_err(|error| format!("can't start its threads: {error}"))?;
                self.serving = Serving::Yes(engine);
            }
            Serving::Yes(engine) => {
                engine.replace(services);
                self.serving = Serving::Yes(engine);
            }
            Serving::Never => {}
        }
        Ok(())
    }

    fn retire(&mut self) {
        if let Some(engine) = self.engine() {
            engine.retire();
        }
        if matches!(self.until, Until::Told) {
            self.until = Until::Done;
        }
    }

    fn stop(&mut self, within: Duration) {
        if let Some(engine) = self.engine() {
            engine.stop(within);
        }
        let deadline = Instant::now() + within + AFTER_STOP;
        self.until = match self.until {
            Until::DoneBy(earlier) => Until::DoneBy(deadline.min(earlier)),
            Until::Now => Until::Now,
            Until::Told | Until::Done => Until::DoneBy(deadline),
        };
    }

    fn report_figures(&self, channel: &mut Channel) {
        // Those of a second that skd hasn't read come with the next ones.
        if channel.is_behind() {
            return;
        }
        if let Some(engine) = self.engine() {
            for figures in engine.figures() {
                channel.report(&Report::Figures(figures));
            }
        }
    }

    fn report_truncations(&self, channel: &mut Channel) {
        self.truncations.clear();
        while !channel.is_full() {
            let Some(truncated) = self.truncations.next() else {
                break;
            };
            channel.report(&Report::Truncated {
                service: truncated.service.into(),
                token: truncated
                    .token
                    .iter()
                    .map(|byte| format!("{byte:02x}"))
                    .collect(),
            });
        }
        if channel.is_behind() {
            return;
        }
        if let Some(count) = self.truncations.dropped() {
            crate::cli::complain(&format!(
                "skd wasn't told of {count} connections that were cut off: it didn't read what it is told"
            ));
        }
    }

    fn report_last(&self, channel: &mut Channel) {
        channel.flush_within(LAST_REPORTS);
        self.report_truncations(channel);
        self.report_figures(channel);
        channel.flush_within(LAST_REPORTS);
    }
}

/// Reads settings from the beginning of a file, wherever skd's own reading or writing has ended.
fn settings(memory: OwnedFd) -> Result<Settings, String> {
    let file = File::from(memory);
    let mut text = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = file.read_at(&mut buffer, text.len() as u64);
        match read.map_err(|error| format!("the settings can't be read: {error}"))? {
            0 => break,
            count => text.extend_from_slice(&buffer[..count]),
        }
        if text.len() > MOST_SETTINGS {
            return Err("the settings are too long".to_owned());
        }
    }
    serde_json::from_slice(&text).map_err(|error| format!("the settings can't be read: {error}"))
}
