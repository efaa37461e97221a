//! The processes of skd-tls, and what becomes of them: one ends and the next is started, one loads its
//! settings again, one replaces another.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, Uid};
use skd_tls_protocol::{Certificate, Report, ServiceFigures};

use super::channel::{Channel, TlsUser};
use super::child::{Child, Found, Role};
use super::program::OpenProgram;
use crate::error::{Error, Reason};
use crate::report::{self, Event, TlsTrouble, Trouble};
use crate::serve::handlers::token::Token;
use crate::serve::tls::TlsLink;
use crate::setup::{TlsFiles, TlsProgram};
use crate::sys::aside::Aside;
use crate::sys::events::{self, Poller};
use crate::sys::process::Ended;

/// How long a process may take to load its settings.
const LIMIT: Duration = Duration::from_secs(10);

/// How much longer for each file.
const LIMIT_PER_FILE: Duration = Duration::from_millis(20);

/// A process that has lived for less is started again after a pause.
const SHORT: Duration = Duration::from_secs(10);

/// The first of these pauses, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How many packets are received before other things are looked at again.
const BATCH: usize = 64;

/// The length of the longest packet.
const LONGEST: usize = 64 * 1024;

/// How much that was said is kept until it is looked at.
const MOST_NEWS: usize = 10_000;

/// How many lines one message of skd-tls becomes, and how long each is: what skd-tls says isn't trusted.
const MOST_LINES: usize = 8;
const LONGEST_LINE: usize = 500;

/// What came of settings that were to be loaded: why they weren't, if they weren't.
pub(in crate::serve) type Outcome = Result<(), String>;

/// What processes have said, and what has become of them, as far as it concerns services.
#[derive(Debug)]
pub(in crate::serve) enum TlsNews {
    /// These are the certificates now.
    Certificates(Vec<Certificate>),
    /// A later look at one of them.
    Certificate(Certificate),
    /// What the process with this id has done.
    Figures(i32, ServiceFigures),
    /// The connection with this token of this service has ended without `close_notify`.
    Truncated(String, String),
    /// The process with this id has ended.
    Ended(i32),
}

/// The processes of skd-tls.
#[derive(Debug)]
pub struct TlsKeeper {
    parts: Parts,
    children: Vec<Child>,
    /// When the next process is started, if none is there.
    restart_at: Option<Instant>,
    /// When to look at all of it, should nothing tell of anything before.
    look_at: Option<Instant>,
    /// How long the last pause before a start was.
    pause: Duration,
    /// Whether what is loading is that of a process that skd has started again by itself.
    restarts: bool,
    outcome: Option<Outcome>,
    looks: Looks,
    news: Vec<TlsNews>,
    /// Whether no service has TLS any more.
    is_over: bool,
    /// Whether skd ends, and nothing is started again.
    ends: bool,
    /// Whether the processes are this binary's for good.
    is_possessed: bool,
    buffer: Box<[u8]>,
}

/// What lasts from one process to the next.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) channel: Channel,
    pub(super) program: OpenProgram,
    pub(super) user: Option<TlsUser>,
    pub(super) threads: usize,
    /// The settings that hold, with open files: the next process may have to do with these.
    pub(super) files: Arc<TlsFiles>,
}

/// What processes are started with.
#[derive(Debug)]
pub struct TlsStart {
    /// The program.
    pub program: TlsProgram,
    /// The user that it becomes.
    pub user: Option<TlsUser>,
    /// How many threads serve connections.
    pub threads: usize,
}

impl TlsKeeper {
    /// Makes the channels. No process is started yet.
    pub fn new(start: TlsStart, files: Arc<TlsFiles>) -> Result<Self, Error> {
        let TlsStart {
            program,
            user,
            threads,
        } = start;
        Ok(Self::of(Parts {
            channel: new_channel()?,
            program: OpenProgram::open(program)?,
            user,
            threads,
            files,
        }))
    }

    pub(super) fn of(parts: Parts) -> Self {
        Self {
            parts,
            children: Vec::new(),
            restart_at: None,
            look_at: None,
            pause: Duration::ZERO,
            restarts: false,
            outcome: None,
            looks: Looks::default(),
            news: Vec::new(),
            is_over: false,
            ends: false,
            is_possessed: false,
            buffer: vec![0; LONGEST].into(),
        }
    }

    /// Starts a process that loads the settings, and becomes the running one. Its standard error is this, or
    /// else that of skd.
    pub fn start(&mut self, error: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        self.is_over = false;
        self.restarts = false;
        self.outcome = None;
        let files = Arc::clone(&self.parts.files);
        self.begin(&files, error).map_err(not_started)
    }

    /// Waits until what is loading is loaded, or can't be.
    pub fn wait(&mut self) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            self.look(now);
            if let Some(outcome) = self.outcome.take() {
                return outcome.map_err(Error::Start);
            }
            let Some(child) = self.children.iter().find(|it| it.loading.is_some()) else {
                return Err(Error::Start("skd-tls has ended".into()));
            };
            let due = child.due(now).unwrap_or(now + LIMIT);
            let limit = due.saturating_duration_since(now);
            match child.ends() {
                // Its channel tells of its end all the time.
                true => std::thread::sleep(limit),
                false => drop(events::wait_readable([child.control()], Some(limit))),
            }
        }
    }

    /// Returns what workers hand connections over with, if a service has TLS.
    pub(in crate::serve) fn link(&self) -> Result<Option<TlsLink>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let link = self.parts.channel.link();
        link.map(Some)
            .map_err(|errno| Error::start("no descriptor for requests to skd-tls", errno))
    }

    /// Whether this child of skd is a process of skd-tls.
    pub(in crate::serve) fn has(&self, pid: Pid) -> bool {
        self.children.iter().any(|it| it.pid() == pid)
    }

    /// Returns the process ids of all.
    pub(in crate::serve) fn pids(&self) -> Vec<Pid> {
        self.children.iter().map(Child::pid).collect()
    }

    /// Whether settings are being loaded, other than by a process that skd has started again by itself.
    pub(in crate::serve) fn is_loading(&self) -> bool {
        self.outcome.is_some() || !self.restarts && self.loads()
    }

    fn loads(&self) -> bool {
        let mut loading = self.children.iter().filter_map(|it| it.loading.as_ref());
        loading.any(|it| it.due.is_some())
    }

    /// Has the running process load these settings instead of those that it has. If none runs, the next one
    /// loads them.
    pub(in crate::serve) fn load(&mut self, files: Arc<TlsFiles>, now: Instant) {
        self.restarts = false;
        self.outcome = None;
        let due = now + limit(&files);
        let running = self.children.iter_mut();
        let mut running = running.filter(|it| it.role == Role::Running && !it.ends());
        let begun = match running.next() {
            Some(running) => running.load(&files, due),
            None => {
                // What was being loaded is of no use any more.
                let next = self.children.iter_mut().filter(|it| it.role == Role::Next);
                for next in next {
                    next.loading = None;
                    next.role = Role::Old;
                    next.kill(now);
                }
                self.begin(&files, None)
            }
        };
        if let Err(reason) = begun {
            self.outcome = Some(Err(format!("skd-tls can't be told: {}", reason.reason())));
        }
    }

    /// Has the running process load the settings that hold: it may have others.
    pub fn load_again(&mut self) {
        let now = Instant::now();
        let files = Arc::clone(&self.parts.files);
        let running = self.children.iter_mut();
        for running in running.filter(|it| it.role == Role::Running) {
            // If that fails it has them, most likely.
            let _ = running.load(&files, now + limit(&files));
        }
        self.restarts = true;
    }

    /// Has what runs retire, since no service has TLS any more.
    pub fn retire_all(&mut self) {
        self.is_over = true;
    }

    /// Has the next process be of this program, and become this user.
    pub fn replace_program(
        &mut self,
        program: TlsProgram,
        user: Option<TlsUser>,
    ) -> Result<(), Error> {
        self.parts.program = OpenProgram::open(program)?;
        self.parts.user = user;
        Ok(())
    }

    /// Has the next process be of what is at the program's path by now.
    pub fn renew_program(&mut self) -> Result<(), Error> {
        self.parts.program.renew()
    }

    /// Makes another keeper with these files and channels of its own, to try whether that works.
    pub fn preflight(&self, files: Arc<TlsFiles>) -> Result<Self, Error> {
        Ok(Self::of(Parts {
            channel: new_channel()?,
            program: self.parts.program.copy()?,
            user: self.parts.user,
            threads: self.parts.threads,
            files,
        }))
    }

    /// Has the running process load these settings, and waits until it has. If none runs, one is started.
    pub fn load_and_wait(&mut self, files: Arc<TlsFiles>) -> Result<(), Error> {
        self.is_over = false;
        self.load(files, Instant::now());
        self.wait()
    }

    /// Starts a process with these settings that replaces the running one, and waits until it can. If it
    /// can't, or its program couldn't be found, the running one goes on with them.
    pub fn replace_running(
        &mut self,
        files: Arc<TlsFiles>,
        renewed: Result<(), Error>,
    ) -> Result<(), Error> {
        let runs = self.runs();
        let started = renewed.and_then(|()| {
            self.is_over = false;
            self.restarts = false;
            self.outcome = None;
            let begun = self.begin(&files, None);
            begun.map_err(not_started)?;
            self.wait()
        });
        match started {
            Err(error) if runs => {
                trouble(TlsTrouble::NotReplaced(&error.to_string()));
                self.load_and_wait(files)
            }
            result => result,
        }
    }

    fn runs(&self) -> bool {
        let mut children = self.children.iter();
        children.any(|it| it.role == Role::Running && !it.ends())
    }

    /// Returns the files of the settings that hold, to be opened again; none if no service has TLS any more.
    pub fn files(&self) -> Option<Arc<TlsFiles>> {
        (!self.is_over).then(|| Arc::clone(&self.parts.files))
    }

    /// Returns how many files the settings have that hold.
    pub(in crate::serve) fn count_files(&self) -> usize {
        self.parts.files.files.len()
    }

    /// Takes what came of settings that were to be loaded, if that is over.
    pub(in crate::serve) fn take_outcome(&mut self) -> Option<Outcome> {
        self.outcome.take()
    }

    /// Takes what the running process has said.
    pub(in crate::serve) fn take_news(&mut self) -> Vec<TlsNews> {
        std::mem::take(&mut self.news)
    }

    /// Takes the processes from another binary of this process, for good. What is replaced retires now: as
    /// long as there was a way back, the other binary needed it.
    pub(in crate::serve) fn take_possession(&mut self) {
        self.is_possessed = true;
        let now = Instant::now();
        let is_over = self.is_over;
        for child in &mut self.children {
            let is_foreign = !std::mem::replace(&mut child.is_own, true);
            match child.role {
                Role::Replaced => child.retire(),
                Role::Running if is_over => child.retire(),
                // What the other binary had just started.
                Role::Next if is_foreign => {
                    child.role = Role::Old;
                    child.kill(now);
                }
                _ => {}
            }
            // At once, before workers hand connections over by new settings.
            child.send(&self.parts.channel);
        }
        if !is_over && self.count(Role::Running) + self.count(Role::Next) == 0 {
            self.restart_at.get_or_insert(now);
        }
        // There may be something to be sent.
        self.look_at = Some(now);
    }

    fn count(&self, role: Role) -> usize {
        self.children.iter().filter(|it| it.role == role).count()
    }

    /// Has the poller tell of all processes.
    pub(in crate::serve) fn watch(&mut self, poller: &Poller) {
        for child in &mut self.children {
            if let Err(errno) = child.watch(poller, Token::Tls.into()) {
                report::event(Event::Trouble(Trouble::NotWatched {
                    service: None,
                    what: report::Watched::Process,
                    errno,
                }));
            }
        }
    }

    /// When to look again, should nothing tell of anything before.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        self.look_at
    }

    /// Notes when to look again.
    fn schedule(&mut self, now: Instant) {
        let children = self.children.iter().filter_map(|it| it.due(now));
        self.look_at = children.chain(self.restart_at).min();
    }

    /// Looks at all processes: sends, receives, reaps, and starts what is due. With the poller that tells of
    /// them, if there is one yet.
    pub(in crate::serve) fn look_and_watch(&mut self, poller: &Poller, now: Instant) {
        // What is dropped must not be in the set any more.
        for child in self.children.iter_mut().filter(|it| it.ends()) {
            child.unwatch(poller);
        }
        self.look_with(Some(poller), now);
        self.watch(poller);
    }

    fn look(&mut self, now: Instant) {
        self.look_with(None, now);
    }

    fn look_with(&mut self, poller: Option<&Poller>, now: Instant) {
        let mut index = 0;
        while index < self.children.len() {
            self.children[index].send(&self.parts.channel);
            self.hear(index, now);
            let child = &mut self.children[index];
            match child.reap(now) {
                Some(ended) => {
                    if let Some(poller) = poller {
                        child.unwatch(poller);
                    }
                    let child = self.children.remove(index);
                    // What is unread may have descriptors beside it, so that the last close waits. Before the daemon
                    // runs there is to be no thread that closes.
                    let control = poller.and_then(|_| child.control().try_clone_to_owned().ok());
                    self.ended(child, ended, now);
                    drop(control.map(Aside::from));
                }
                None => {
                    self.note_late(index, now);
                    index += 1;
                }
            }
        }
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            self.restart(now);
        }
        self.schedule(now);
    }

    /// Hears what a process has to say.
    fn hear(&mut self, index: usize, now: Instant) {
        for _ in 0..BATCH {
            let child = &mut self.children[index];
            match child.receive(&mut self.buffer) {
                Found::Nothing => return,
                Found::Report(report) => self.note(index, report, now),
                Found::NotExecuted(errno) => child.why = Some(self.parts.program.explain(errno)),
                Found::End => return child.note_end(now),
                Found::Descriptors => {
                    trouble(TlsTrouble::NotUnderstood);
                    return child.kill(now);
                }
                Found::Other => {
                    if !std::mem::replace(&mut child.is_odd, true) {
                        trouble(TlsTrouble::NotUnderstood);
                    }
                }
            }
        }
    }

    fn note(&mut self, index: usize, report: Report, now: Instant) {
        let child = &mut self.children[index];
        match report {
            Report::Started { lacks } => {
                if !std::mem::replace(&mut child.is_started, true) {
                    for lack in lacks.iter().take(MOST_LINES) {
                        trouble(TlsTrouble::Unconfined(short(lack)));
                    }
                }
            }
            Report::Certificate(certificate) => match (&child.loading, child.role) {
                (Some(loading), _) => {
                    if child.certificates.len() < most_certificates(&loading.files) {
                        child.certificates.push(certificate);
                    }
                }
                (None, Role::Running) => {
                    let most = most_certificates(&self.parts.files);
                    if self.looks.pass(most, now) {
                        self.tell(TlsNews::Certificate(certificate));
                    }
                }
                (None, _) => {}
            },
            Report::Loaded | Report::Refused { .. } if !child.answers_last() => {}
            Report::Loaded => self.loaded(index),
            Report::Refused { why } => {
                if let Some(loading) = child.loading.take() {
                    // Each fault has a line. As at any start, the first one is told.
                    let first = why.lines().next().unwrap_or_default();
                    let why = loading.files.labelled(short(first));
                    if child.role == Role::Next {
                        child.role = Role::Old;
                        child.kill(now);
                        self.failed(why, now);
                    } else {
                        self.conclude(Err(why));
                    }
                }
            }
            Report::Truncated { service, token } => self.tell(TlsNews::Truncated(service, token)),
            Report::Figures(figures) => {
                let pid = child.pid().as_raw();
                self.tell(TlsNews::Figures(pid, figures));
            }
        }
    }

    /// Keeps what is to be told, unless a process says more than it has a reason to.
    fn tell(&mut self, news: TlsNews) {
        if self.news.len() < MOST_NEWS {
            self.news.push(news);
        }
    }

    fn loaded(&mut self, index: usize) {
        if self.children[index].role == Role::Next {
            let running = self.children.iter_mut();
            for running in running.filter(|it| it.role == Role::Running) {
                match self.is_possessed {
                    true => running.retire(),
                    false => running.role = Role::Replaced,
                }
            }
        }
        let child = &mut self.children[index];
        let Some(loading) = child.loading.take() else {
            return;
        };
        let certificates = std::mem::take(&mut child.certificates);
        self.news.push(TlsNews::Certificates(certificates));
        self.parts.files = loading.files;
        if child.role == Role::Next {
            child.role = Role::Running;
            if self.restarts {
                report::event(Event::TlsStarted(child.pid().as_raw()));
            }
        }
        self.conclude(Ok(()));
    }

    /// Says what came of settings that were to be loaded.
    fn conclude(&mut self, outcome: Outcome) {
        if !self.restarts {
            self.outcome = Some(outcome);
        }
    }

    /// Acts on the end of a process.
    fn ended(&mut self, child: Child, ended: Ended, now: Instant) {
        // Not more than there are processes.
        self.news.push(TlsNews::Ended(child.pid().as_raw()));
        let lived = now.saturating_duration_since(child.started);
        let loaded = child.loading.is_some();
        match child.role {
            Role::Old | Role::Replaced => {}
            Role::Next => {
                let why = child.why.clone();
                self.failed(why.unwrap_or_else(|| how_it_ended(ended)), now);
            }
            Role::Running => {
                if loaded {
                    let why = child.why.clone();
                    let ended = || "skd-tls has ended while it loaded the files".into();
                    self.conclude(Err(why.unwrap_or_else(ended)));
                }
                if self.ends || self.is_over {
                    return;
                }
                match lived < SHORT {
                    true => self.lengthen_pause(),
                    false => self.pause = Duration::ZERO,
                }
                trouble(TlsTrouble::Ended(ended, self.pause));
                if self.count(Role::Next) + self.count(Role::Running) == 0 {
                    self.restart_at = Some(now + self.pause);
                }
            }
        }
    }

    /// Acts on a process that couldn't be made ready, for this reason.
    fn failed(&mut self, why: String, now: Instant) {
        if !self.restarts {
            self.outcome = Some(Err(why));
        } else {
            self.lengthen_pause();
            trouble(TlsTrouble::NotStarted(&why, self.pause));
        }
        let is_left = self.count(Role::Next) + self.count(Role::Running) > 0;
        if !is_left && !self.ends && !self.is_over {
            self.restart_at = Some(now + self.pause);
        }
    }

    fn lengthen_pause(&mut self) {
        let (first, longest) = PAUSES;
        self.pause = (self.pause * 2).clamp(first, longest);
    }

    /// Acts on a process that hasn't answered in time.
    fn note_late(&mut self, index: usize, now: Instant) {
        let child = &mut self.children[index];
        let is_late = |due: Instant| due <= now;
        let Some(loading) = &mut child.loading else {
            return;
        };
        if child.role == Role::Old || loading.due.take_if(|due| is_late(*due)).is_none() {
            return;
        }
        let time = limit(&loading.files).as_secs();
        let why = format!("skd-tls hasn't loaded the files of TLS within {time} s");
        if child.role == Role::Next {
            child.loading = None;
            child.role = Role::Old;
            child.kill(now);
            self.failed(why, now);
        } else {
            self.conclude(Err(why));
        }
    }

    /// Starts a process in the place of the ended one.
    fn restart(&mut self, now: Instant) {
        if self.ends || self.is_over || self.count(Role::Next) + self.count(Role::Running) > 0 {
            return;
        }
        self.restarts = true;
        let files = Arc::clone(&self.parts.files);
        if let Err(reason) = self.begin(&files, None) {
            self.failed(reason.reason(), now);
        }
    }

    /// Starts a process that loads these settings.
    fn begin(&mut self, files: &Arc<TlsFiles>, error: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let stderr = io::stderr();
        let error = error.unwrap_or_else(|| stderr.as_fd());
        let mut child = Child::start(&self.parts.program, error)?;
        // What isn't root any more can't have it become another.
        let user = self.parts.user.filter(|_| Uid::effective().is_root());
        child.prepare(user, self.parts.threads);
        child.load(files, Instant::now() + limit(files))?;
        child.send(&self.parts.channel);
        self.children.push(child);
        Ok(())
    }

    /// Has all processes end, each with all that its clients are to get yet, and waits for that.
    pub(in crate::serve) fn stop(&mut self, within: Duration) {
        self.ends = true;
        self.restart_at = None;
        let deadline = Instant::now() + within;
        for child in &mut self.children {
            match child.role {
                Role::Next => child.kill(deadline),
                Role::Running | Role::Replaced | Role::Old => child.stop(within),
            }
        }
        // A moment more, in which it ends by itself.
        let deadline = deadline + Duration::from_millis(500);
        loop {
            let now = Instant::now();
            self.look(now);
            self.news.clear();
            if self.children.is_empty() || now >= deadline {
                // What is left is killed.
                return self.children.clear();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn new_channel() -> Result<Channel, Error> {
    Channel::new().map_err(|errno| Error::start("no channel to skd-tls", errno))
}

fn not_started(reason: io::Error) -> Error {
    Error::start("skd-tls can't be started", reason)
}

/// How long a process may take to load these files.
fn limit(files: &TlsFiles) -> Duration {
    let count = u32::try_from(files.files.len()).unwrap_or(u32::MAX);
    LIMIT.saturating_add(LIMIT_PER_FILE.saturating_mul(count))
}

/// How many things skd-tls can have to say about the files of these settings.
fn most_certificates(files: &TlsFiles) -> usize {
    let services = files.settings.services.len();
    files.files.len().saturating_mul(services.max(1))
}

/// How often skd-tls has looked at certificates again, which it does once a day.
#[derive(Debug, Default)]
struct Looks {
    /// Since when they are counted.
    since: Option<Instant>,
    count: usize,
}

impl Looks {
    /// Whether another one is passed on: so many in an hour are.
    fn pass(&mut self, most: usize, now: Instant) -> bool {
        const HOUR: Duration = Duration::from_secs(3600);
        let since = self.since.filter(|since| now < *since + HOUR);
        if since.is_none() {
            self.count = 0;
        }
        self.since = Some(since.unwrap_or(now));
        self.count += 1;
        self.count <= most
    }
}

fn trouble(what: TlsTrouble<'_>) {
    report::event(Event::Trouble(Trouble::Tls(what)));
}

/// Returns the beginning of a text that skd-tls has sent.
fn short(text: &str) -> &str {
    let end = text.char_indices().nth(LONGEST_LINE);
    end.map_or(text, |(end, _)| &text[..end])
}

fn how_it_ended(ended: Ended) -> String {
    match ended {
        Ended::Exited(status) => {
            format!(
                "skd-tls has ended with status {status} before it was ready; the log may say why"
            )
        }
        Ended::Killed(signal) => format!("signal {signal} has ended skd-tls before it was ready"),
    }
}

/// The parts of a keeper that an upgrade saves.
pub(super) struct Kept<'a> {
    pub(super) parts: &'a Parts,
    pub(super) children: &'a [Child],
    pub(super) is_over: bool,
}

impl TlsKeeper {
    pub(super) fn kept(&self) -> Kept<'_> {
        Kept {
            parts: &self.parts,
            children: &self.children,
            is_over: self.is_over,
        }
    }

    pub(super) fn add(&mut self, child: Child) {
        self.children.push(child);
    }
}
