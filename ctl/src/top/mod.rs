//! The live view.
//!
//! | module | what it does |
//! | --- | --- |
//! | `state` | what is shown, and what a key or news of skd change about it: pure |
//! | `rates` | rates from counters: pure |
//! | `draw` | the state as a picture: pure |
//! | `fetch` | asks skd, on threads of its own |
//! | `terminal` | the terminal, keys and signals |

mod draw;
mod fetch;
mod rates;
mod state;
mod terminal;

use std::env;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use crate::error::Error;
use draw::Palette;
use fetch::Fetcher;
use state::{Effect, Input, News, State};
use terminal::{Signal, Terminal};

/// What the main thread waits for.
#[derive(Debug)]
enum Message {
    Input(Input),
    News(News),
    Signal(Signal),
}

/// Shows skd until the user has seen enough.
pub(crate) fn run(socket: &Path, interval: Duration) -> Result<(), Error> {
    let (sender, messages) = mpsc::channel();
    let mut terminal = Terminal::enter(&sender)?;
    let palette = Palette::new(env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()));
    let mut state = State::new(terminal.size()?);
    let fetcher = Fetcher::start(socket, interval, state.query(), sender)?;
    loop {
        terminal.draw(|frame| draw::draw(&state, &palette, frame))?;
        // All senders live as long as their threads, and those end with the process.
        let Ok(first) = messages.recv() else {
            return Ok(());
        };
        // What waits already is shown at once.
        for message in std::iter::once(first).chain(messages.try_iter()) {
            let effect = match message {
                Message::Input(input) => state.input(input),
                Message::News(news) => {
                    state.news(news);
                    None
                }
                Message::Signal(Signal::End) => Some(Effect::Quit),
                Message::Signal(Signal::Stop) => Some(Effect::Suspend),
            };
            match effect {
                None => {}
                Some(Effect::Quit) => return Ok(()),
                Some(Effect::Suspend) => {
                    terminal.suspend()?;
                    let (columns, rows) = terminal.size()?;
                    state.input(Input::Resize(columns, rows));
                }
                Some(Effect::Act(request)) => fetcher.act(request),
            }
        }
        fetcher.query(state.query());
    }
}
