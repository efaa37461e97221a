//! The terminal, its keys, and signals.

use std::io::{self, IsTerminal, Stdout, Write};
use std::sync::mpsc::Sender;
use std::{panic, thread};

use crossterm::event::{self, Event, KeyEventKind};
use crossterm::terminal::{self, EnterAlternateScreen, LeaveAlternateScreen};
use crossterm::{cursor, execute};
use ratatui::Frame;
use ratatui::backend::CrosstermBackend;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use super::Message;
use super::state::Input;
use crate::error::Error;

/// What signals ask for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signal {
    /// The end.
    End,
    /// To stop for a while.
    Stop,
}

/// The terminal in raw mode, until it is dropped.
pub(super) struct Terminal {
    inner: ratatui::Terminal<CrosstermBackend<Stdout>>,
}

impl Terminal {
    /// Takes over the terminal, and starts to send its keys, and signals.
    pub(super) fn enter(messages: &Sender<Message>) -> Result<Self, Error> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            return Err(Error::Usage(
                "top needs a terminal as standard input and output; status, list and handlers don't".into(),
            ));
        }
        let signals = Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP]).map_err(failed)?;
        let inner = ratatui::Terminal::new(CrosstermBackend::new(io::stdout())).map_err(failed)?;
        let shown = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            shown(info);
        }));
        // From here on, whatever fails restores it.
        let terminal = Self { inner };
        take_over().map_err(failed)?;
        forward_signals(signals, messages.clone())?;
        forward_keys(messages.clone())?;
        Ok(terminal)
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> Result<(u16, u16), Error> {
        let size = self.inner.size().map_err(failed)?;
        Ok((size.width, size.height))
    }

    /// Shows a picture.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>)) -> Result<(), Error> {
        self.inner.draw(draw).map(drop).map_err(failed)
    }

    /// Gives the terminal back, stops the process, and takes the terminal over when it goes on.
    pub(super) fn suspend(&mut self) -> Result<(), Error> {
        restore();
        emulate_default_handler(SIGTSTP).map_err(failed)?;
        take_over().map_err(failed)?;
        self.inner.clear().map_err(failed)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore();
    }
}

fn take_over() -> io::Result<()> {
    terminal::enable_raw_mode()?;
    execute!(io::stdout(), EnterAlternateScreen, cursor::Hide)
}

/// Gives the terminal back as it was. It may be gone: no error matters.
fn restore() {
    let _ = execute!(io::stdout(), LeaveAlternateScreen, cursor::Show);
    let _ = terminal::disable_raw_mode();
    let _ = io::stdout().flush();
}

fn forward_signals(mut signals: Signals, messages: Sender<Message>) -> Result<(), Error> {
    spawn("signals", move || {
        for signal in signals.forever() {
            let meaning = if signal == SIGTSTP {
                Signal::Stop
            } else {
                Signal::End
            };
            if messages.send(Message::Signal(meaning)).is_err() {
                return;
            }
        }
    })
}

fn forward_keys(messages: Sender<Message>) -> Result<(), Error> {
    spawn("keys", move || {
        loop {
            let message = match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                    Message::Input(Input::Key(key))
                }
                Ok(Event::Resize(columns, rows)) => Message::Input(Input::Resize(columns, rows)),
                Ok(_) => continue,
                // The terminal is gone.
                Err(_) => Message::Signal(Signal::End),
            };
            let last = matches!(message, Message::Signal(_));
            if messages.send(message).is_err() || last {
                return;
            }
        }
    })
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let thread = thread::Builder::new().name(name.into()).spawn(run);
    thread.map(drop).map_err(failed)
}

fn failed(error: io::Error) -> Error {
    Error::Local(format!("the terminal: {error}"))
}
