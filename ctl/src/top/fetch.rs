//! Asks skd, on threads of its own: the screen waits for no answer.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use skd_control::{Answer, HandlerQuery, Handlers, Request};

use super::Message;
use super::state::News;
use crate::client::{Client, unexpected};
use crate::error::Error;

/// The side of the threads that ask.
#[derive(Debug)]
pub(super) struct Fetcher {
    socket: PathBuf,
    queries: Sender<HandlerQuery>,
    news: Sender<Message>,
}

impl Fetcher {
    /// Starts to ask in this interval how skd and the handlers of the query are.
    pub(super) fn start(
        socket: &Path,
        interval: Duration,
        query: HandlerQuery,
        news: Sender<Message>,
    ) -> Result<Self, Error> {
        let (queries, receiver) = mpsc::channel();
        let refresher = Refresher {
            socket: socket.to_owned(),
            interval,
            query,
            client: None,
            news: news.clone(),
        };
        spawn("refresh", move || refresher.run(&receiver))?;
        Ok(Self {
            socket: socket.to_owned(),
            queries,
            news,
        })
    }

    /// Asks for these handlers from now on.
    pub(super) fn query(&self, query: HandlerQuery) {
        // The thread lives as long as this.
        let _ = self.queries.send(query);
    }

    /// Asks for something on a connection of its own: a drain may take long.
    pub(super) fn act(&self, request: Request) {
        let (socket, news) = (self.socket.clone(), self.news.clone());
        let started = spawn("act", move || {
            let result = match Client::connect(&socket).and_then(|mut client| client.ask(request)) {
                Ok(Answer::Done(done)) => Ok(done.message),
                Ok(answer) => Err(unexpected(&answer).to_string()),
                Err(error) => Err(error.to_string()),
            };
            let _ = news.send(Message::News(News::Acted(result)));
        });
        if let Err(error) = started {
            let _ = self
                .news
                .send(Message::News(News::Acted(Err(error.to_string()))));
        }
    }
}

/// The thread that asks again and again.
struct Refresher {
    socket: PathBuf,
    interval: Duration,
    query: HandlerQuery,
    /// None if it has to connect anew.
    client: Option<Client>,
    news: Sender<Message>,
}

impl Refresher {
    fn run(mut self, queries: &Receiver<HandlerQuery>) {
        loop {
            let next = Instant::now() + self.interval;
            if self.refresh().is_err() || self.wait(queries, next).is_err() {
                // The main thread has ended.
                return;
            }
        }
    }

    /// Waits until the next refresh. A new query is asked at once.
    fn wait(&mut self, queries: &Receiver<HandlerQuery>, next: Instant) -> Result<(), Gone> {
        loop {
            match queries.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(Gone),
                Ok(query) => {
                    let query = queries.try_iter().last().unwrap_or(query);
                    if query != self.query {
                        self.query = query;
                        self.tell(Self::handlers)?;
                    }
                }
            }
        }
    }

    fn refresh(&mut self) -> Result<(), Gone> {
        self.tell(Self::status)?;
        // A skd that isn't there needn't be sought twice.
        if self.client.is_some() {
            self.tell(Self::handlers)?;
        }
        Ok(())
    }

    /// Sends what is heard, or that nothing is.
    fn tell(&mut self, ask: impl Fn(&mut Self) -> Result<News, Error>) -> Result<(), Gone> {
        let news = ask(self).unwrap_or_else(|error| {
            self.client = None;
            News::Unreachable(error.to_string())
        });
        self.news.send(Message::News(news)).map_err(|_| Gone)
    }

    fn status(&mut self) -> Result<News, Error> {
        match self.ask(Request::Status {
            services: Vec::new(),
        })? {
            Answer::Status(status) => Ok(News::Status(status)),
            answer => Err(unexpected(&answer)),
        }
    }

    fn handlers(&mut self) -> Result<News, Error> {
        match self.ask(Request::Handlers(self.query.clone())) {
            Ok(Answer::Handlers(handlers)) => Ok(News::Handlers(handlers)),
            Ok(answer) => Err(unexpected(&answer)),
            // The query has a source that is none, or a service that is gone.
            Err(Error::Failure(failure)) => {
                let _ = self
                    .news
                    .send(Message::News(News::Handlers(Handlers::default())));
                Ok(News::Acted(Err(failure.message)))
            }
            Err(error) => Err(error),
        }
    }

    fn ask(&mut self, request: Request) -> Result<Answer, Error> {
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::connect(&self.socket)?),
        };
        client.ask(request)
    }
}

/// The main thread has ended.
struct Gone;

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let thread = thread::Builder::new().name(name.into()).spawn(run);
    thread
        .map(drop)
        .map_err(|error| Error::Local(format!("can't start a thread: {error}")))
}
