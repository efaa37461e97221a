//! Reloads and upgrades that a client of the control socket waits for. They go on as at HUP and
//! USR2; here is what becomes of the client.

use skd_control::{Answer, FailureKind};

use super::acts::Awaited;
use super::commands::{ReplyTo, done, failed};
use super::daemon::Daemon;
use super::execute::Outcome;
use super::upgrade::State;
use super::upgrade::words::Purpose;
use crate::report::{self, Difference, Event, NoUpgrade};

impl Daemon {
    /// Begins a reload or an upgrade for a client, which is answered when that is over.
    pub(super) fn begin_awaited(&mut self, purpose: Purpose, reply_to: ReplyTo) -> Outcome {
        if self.is_renewing() {
            let text = "a reload or an upgrade is under way; try again when it is over";
            return Some(failed(FailureKind::Busy, text));
        }
        self.acts.awaited = Some(Awaited { purpose, reply_to });
        match purpose {
            Purpose::Reload => drop(self.reload()),
            Purpose::Upgrade => self.begin_upgrade(),
        }
        None
    }

    fn is_renewing(&self) -> bool {
        self.preflight.is_some()
            || self.reload_again
            || self.reload.is_under_way()
            || self.is_loading_tls()
            || self.reopening > 0
            || self.acts.awaited.is_some()
    }

    /// Says why there is no upgrade or reload, to the log and to the client that waits for it, which
    /// is told all `faults` besides.
    pub(in crate::serve) fn refuse(
        &mut self,
        purpose: Purpose,
        why: NoUpgrade<'_>,
        faults: &[String],
    ) {
        let answer = report_refusal(purpose, why, faults);
        self.answer_awaited(purpose, answer);
    }

    /// Answers the client that waits for this, if there is one.
    fn answer_awaited(&mut self, purpose: Purpose, answer: Answer) {
        if let Some(awaited) = self.acts.awaited.take_if(|it| it.purpose == purpose) {
            self.commands.answer(awaited.reply_to, answer);
        }
    }

    /// Answers the client that waits for a reload or an upgrade, since skd ends.
    pub(super) fn end_awaited(&mut self) {
        if let Some(awaited) = self.acts.awaited.take() {
            let answer = failed(FailureKind::Busy, "skd ends");
            self.commands.answer(awaited.reply_to, answer);
        }
    }

    /// Answers the client that waits for a reload without services from files: rules were read and the
    /// log is open.
    pub(super) fn end_reload(&mut self) {
        let read = self.reload.take_read();
        self.answer_awaited(Purpose::Reload, read.answer());
    }

    /// Says that this process goes on after an earlier binary, or with other files, or that it goes on
    /// as before since `returned`. The client that waits is answered once it is there again.
    pub fn conclude(&mut self, state: &State, difference: Option<Difference>, returned: bool) {
        let purpose = state.purpose();
        let answer = match returned {
            true => report_refusal(purpose, NoUpgrade::GivenBack, &state.faults),
            false => done(report_success(state, difference)),
        };
        self.acts.conclusion = Some(answer);
    }
}

/// Reports why there is no upgrade or reload, and returns the answer.
fn report_refusal(purpose: Purpose, why: NoUpgrade<'_>, faults: &[String]) -> Answer {
    let trouble = purpose.trouble(why);
    report::event(Event::Trouble(trouble));
    let kind = match why {
        NoUpgrade::Ending => FailureKind::Busy,
        _ => FailureKind::Failed,
    };
    let mut text = trouble.to_string();
    for (index, fault) in faults.iter().enumerate() {
        text += if index == 0 { ": " } else { "; " };
        text += fault;
    }
    report::event(Event::Attempted(purpose.into(), Some(&text)));
    failed(kind, text)
}

/// Reports that this process goes on, and returns the same in words.
fn report_success(state: &State, difference: Option<Difference>) -> String {
    let mut events = vec![Event::Attempted(state.purpose().into(), None)];
    if state.purpose() == Purpose::Upgrade {
        events.push(Event::Upgraded(&state.version));
    }
    events.extend(difference.map(Event::Reloaded));
    events.iter().copied().for_each(report::event);
    let texts: Vec<_> = events.iter().skip(1).map(ToString::to_string).collect();
    match &texts[..] {
        [] => "Reloaded".into(),
        texts => texts.join("; "),
    }
}
