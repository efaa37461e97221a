//! Where requests go: asks are answered here, from what all threads share; acts are the main thread's.

use std::sync::Arc;

use skd_control::{Answer, EventLine, Failure, Request};

use super::request::bad;
use crate::report::stream;
use crate::serve::control::commands::{Commands, ReplyTo};
use crate::serve::control::view::View;
use crate::serve::control::{asks, figures};
use crate::sys::events::Waker;

/// What answers requests.
#[derive(Debug)]
pub(super) struct Backend {
    view: Arc<View>,
    commands: Arc<Commands>,
    /// Wakes the control thread.
    waker: Arc<Waker>,
    /// Has events queued, while a client watches them.
    watch: Option<stream::Watch>,
}

impl Backend {
    pub(super) fn new(view: Arc<View>, commands: Arc<Commands>, waker: Arc<Waker>) -> Self {
        Self {
            view,
            commands,
            waker,
            watch: None,
        }
    }

    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    /// Sends a command to the main thread.
    pub(super) fn command(&self, request: Request, to: ReplyTo) {
        self.commands
            .send(request, to, &self.view.shared.handlers.main);
    }

    /// Takes the answers of the main thread.
    pub(super) fn take_replies(&self) -> Vec<(ReplyTo, Answer)> {
        self.commands.take_replies()
    }

    /// Returns the commands that the main thread has not seen.
    pub(super) fn unsent(&self) -> Vec<(ReplyTo, Request)> {
        self.commands.waiting()
    }

    /// Has events queued, or not.
    pub(super) fn watch(&mut self, on: bool) {
        match on {
            true if self.watch.is_none() => {
                self.watch = Some(stream::watch(Arc::clone(&self.waker)));
            }
            true => {}
            false => self.watch = None,
        }
    }

    /// Takes the events that have been queued. Also returns how many were lost after them.
    pub(super) fn take_events(&self) -> (Vec<EventLine<'static>>, u64) {
        let mut events = Vec::new();
        let watch = self.watch.as_ref();
        let lost = watch.map_or(0, |_| stream::take(&mut events));
        (events, lost)
    }

    /// Fails unless there are services with these names.
    pub(super) fn check_services(&self, names: &[String]) -> Result<(), Failure> {
        asks::check_services(&self.view, names)
    }

    /// Answers a request that changes nothing.
    pub(super) fn ask(&self, request: &Request) -> Result<Answer, Failure> {
        let view = &self.view;
        Ok(match request {
            Request::Status { services } => {
                self.check_services(services)?;
                Answer::Status(Box::new(figures::status(view, services)))
            }
            Request::Handlers(query) => Answer::Handlers(asks::handlers(view, query)?),
            Request::Sources(query) => Answer::Sources(asks::sources(view, query)?),
            Request::Explain { client, service } => {
                Answer::Explanation(asks::explain(view, client, service.as_deref())?)
            }
            // Others are no asks that are answered once.
            _ => return Err(bad("this is answered elsewhere")),
        })
    }
}
