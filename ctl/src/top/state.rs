//! What is shown, and what keys and news of skd change about it.

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use skd_control::{
    HandlerOrder, HandlerQuery, HandlerStatus, Handlers, Request, ServiceStatus, Status,
};

use super::draw::layout;
use super::rates::{Rates, accepted};
use crate::show::rejected;

/// What the user does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Input {
    /// A key.
    Key(KeyEvent),
    /// The terminal has this many columns and rows.
    Resize(u16, u16),
}

/// What is heard of skd.
#[derive(Debug)]
pub(super) enum News {
    /// How it is.
    Status(Box<Status>),
    /// The handlers of the last query.
    Handlers(Handlers),
    /// It does not answer, or doesn't want to.
    Unreachable(String),
    /// What was asked for was done, or not.
    Acted(Result<String, String>),
}

/// What a key asks for beyond the state.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    Quit,
    Suspend,
    Act(Request),
}

/// Which table the keys are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Focus {
    Services,
    Handlers,
}

/// What the keys mean.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    /// They are commands.
    Normal,
    /// They are the text of a filter.
    Filter(String),
    /// The next one ends the help.
    Help,
    /// The next one decides whether this is asked for.
    Confirm(String, Request),
}

/// Which services are first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ServiceOrder {
    Configured,
    Name,
    Running,
    Accepted,
    Rejected,
}

impl ServiceOrder {
    const ALL: [Self; 5] = [
        Self::Configured,
        Self::Name,
        Self::Running,
        Self::Accepted,
        Self::Rejected,
    ];

    /// Its name in the title of the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Configured => "in configured order",
            Self::Name => "by name",
            Self::Running => "by running",
            Self::Accepted => "by accepted/s",
            Self::Rejected => "by rejected/s",
        }
    }
}

const HANDLER_ORDERS: [(HandlerOrder, &str); 6] = [
    (HandlerOrder::Oldest, "oldest"),
    (HandlerOrder::Newest, "newest"),
    (HandlerOrder::Pid, "pid"),
    (HandlerOrder::Cpu, "CPU"),
    (HandlerOrder::Memory, "memory"),
    (HandlerOrder::Bytes, "bytes"),
];

/// How many handlers can be scrolled to. skd looks at each that is shown above: an order in which the
/// sought one is near costs it less.
const REACHABLE: usize = 500;

/// A line of a list that is selected, and the first line that is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) at: usize,
    pub(super) top: usize,
}

impl Cursor {
    /// Moves it into a list of this length of which so many lines are shown.
    fn keep(&mut self, length: usize, shown: usize) {
        self.at = self.at.min(length.saturating_sub(1));
        let lowest = (self.at + 1).saturating_sub(shown.max(1));
        self.top = self.top.clamp(lowest, self.at.max(lowest));
        self.top = self.top.min(length.saturating_sub(shown).max(lowest));
    }
}

/// What is shown.
#[derive(Debug)]
pub(super) struct State {
    /// Columns and rows of the terminal.
    pub(super) size: (u16, u16),
    pub(super) status: Option<Box<Status>>,
    pub(super) handlers: Handlers,
    pub(super) rates: Rates,
    pub(super) focus: Focus,
    pub(super) mode: Mode,
    pub(super) service_order: ServiceOrder,
    handler_order: usize,
    /// Only services whose names contain it.
    pub(super) service_filter: String,
    /// Only handlers of clients in this prefix, or of this user.
    pub(super) source_filter: String,
    /// Only handlers of this service.
    pub(super) only: Option<String>,
    pub(super) service_cursor: Cursor,
    pub(super) handler_cursor: Cursor,
    /// What the last command has led to.
    pub(super) notice: Option<Result<String, String>>,
    /// Why skd isn't heard.
    pub(super) trouble: Option<String>,
}

impl State {
    pub(super) fn new(size: (u16, u16)) -> Self {
        Self {
            size,
            status: None,
            handlers: Handlers::default(),
            rates: Rates::default(),
            focus: Focus::Services,
            mode: Mode::Normal,
            service_order: ServiceOrder::Configured,
            handler_order: 0,
            service_filter: String::new(),
            source_filter: String::new(),
            only: None,
            service_cursor: Cursor::default(),
            handler_cursor: Cursor::default(),
            notice: None,
            trouble: None,
        }
    }

    /// The handlers that are to be asked for: what is shown, and no more.
    pub(super) fn query(&self) -> HandlerQuery {
        HandlerQuery {
            service: self.only.clone(),
            source: (!self.source_filter.is_empty()).then(|| self.source_filter.clone()),
            order: HANDLER_ORDERS[self.handler_order].0,
            // The next line is there when the cursor comes to it.
            limit: Some(self.handler_cursor.top + self.handler_rows() + 1),
        }
    }

    /// The name of the order of handlers.
    pub(super) fn handler_order_name(&self) -> &'static str {
        HANDLER_ORDERS[self.handler_order].1
    }

    /// The services that are shown, in their order.
    pub(super) fn services(&self) -> Vec<&ServiceStatus> {
        let all = self.status.iter().flat_map(|status| &status.services);
        let mut services: Vec<_> = all
            .filter(|service| service.name.contains(&self.service_filter))
            .collect();
        let last = |service: &ServiceStatus, rejects: bool| {
            let rates = self.rates.of(&service.name);
            let rates = rates.map(|rates| {
                if rejects {
                    &rates.rejected
                } else {
                    &rates.accepted
                }
            });
            rates.and_then(|rates| rates.back().copied()).unwrap_or(0.0)
        };
        match self.service_order {
            ServiceOrder::Configured => {}
            ServiceOrder::Name => services.sort_by(|a, b| a.name.cmp(&b.name)),
            ServiceOrder::Running => {
                services.sort_by_key(|service| std::cmp::Reverse(service.running))
            }
            ServiceOrder::Accepted => services.sort_by(|a, b| {
                let by_rate = last(b, false).total_cmp(&last(a, false));
                by_rate.then(accepted(b).cmp(&accepted(a)))
            }),
            ServiceOrder::Rejected => services.sort_by(|a, b| {
                let by_rate = last(b, true).total_cmp(&last(a, true));
                by_rate.then(rejected(b).cmp(&rejected(a)))
            }),
        }
        services
    }

    /// The service that commands are about.
    pub(super) fn selected_service(&self) -> Option<&ServiceStatus> {
        self.services().get(self.service_cursor.at).copied()
    }

    /// The handler that commands are about.
    pub(super) fn selected_handler(&self) -> Option<&HandlerStatus> {
        self.handlers.handlers.get(self.handler_cursor.at)
    }

    fn service_rows(&self) -> usize {
        layout(self.size, self.services().len()).service_rows()
    }

    fn handler_rows(&self) -> usize {
        layout(self.size, self.services().len()).handler_rows()
    }

    /// Moves the cursors to lines that are there.
    fn settle(&mut self) {
        let (services, rows) = (self.services().len(), self.service_rows());
        self.service_cursor.keep(services, rows);
        let rows = self.handler_rows();
        let total = usize::try_from(self.handlers.total).unwrap_or(REACHABLE);
        self.handler_cursor.keep(total.min(REACHABLE), rows);
    }

    /// Takes note of what is heard of skd.
    pub(super) fn news(&mut self, news: News) {
        match news {
            News::Status(status) => {
                self.rates.sample(&status);
                let selected = self.selected_service().map(|service| service.name.clone());
                self.status = Some(status);
                self.trouble = None;
                self.select_service(selected.as_deref());
            }
            News::Handlers(handlers) => {
                let selected = self.selected_handler().map(|handler| handler.pid);
                self.handlers = handlers;
                let found = self
                    .handlers
                    .handlers
                    .iter()
                    .position(|handler| Some(handler.pid) == selected);
                // A handler that has moved out of sight isn't followed.
                let rows = self.handler_rows();
                if let Some(at) = found.filter(|at| {
                    (self.handler_cursor.top..self.handler_cursor.top + rows).contains(at)
                }) {
                    self.handler_cursor.at = at;
                }
            }
            News::Unreachable(why) => self.trouble = Some(why),
            News::Acted(result) => self.notice = Some(result),
        }
        self.settle();
    }

    fn select_service(&mut self, name: Option<&str>) {
        let at = self
            .services()
            .iter()
            .position(|service| Some(service.name.as_str()) == name);
        if let Some(at) = at {
            self.service_cursor.at = at;
        }
    }

    /// Does what a key says, or follows the terminal.
    pub(super) fn input(&mut self, input: Input) -> Option<Effect> {
        let effect = match input {
            Input::Resize(columns, rows) => {
                self.size = (columns, rows);
                None
            }
            Input::Key(key) if key.modifiers.contains(KeyModifiers::CONTROL) => match key.code {
                KeyCode::Char('c') => Some(Effect::Quit),
                KeyCode::Char('z') => Some(Effect::Suspend),
                _ => None,
            },
            Input::Key(key) => match self.mode.clone() {
                Mode::Normal => self.command(key.code),
                Mode::Filter(text) => self.edit(text, key.code),
                Mode::Help => {
                    self.mode = Mode::Normal;
                    None
                }
                Mode::Confirm(_, request) => self.decide(request, key.code),
            },
        };
        self.settle();
        effect
    }

    fn command(&mut self, key: KeyCode) -> Option<Effect> {
        self.notice = None;
        match key {
            KeyCode::Char('q') => return Some(Effect::Quit),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Tab | KeyCode::BackTab => {
                self.focus = match self.focus {
                    Focus::Services => Focus::Handlers,
                    Focus::Handlers => Focus::Services,
                }
            }
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-self.page()),
            KeyCode::PageDown => self.step(self.page()),
            KeyCode::Home | KeyCode::Char('g') => self.step(isize::MIN),
            KeyCode::End | KeyCode::Char('G') => self.step(isize::MAX),
            KeyCode::Char('s') => self.sort(),
            KeyCode::Char('/') => self.mode = Mode::Filter(self.filter().clone()),
            KeyCode::Enter => self.only_selected(),
            KeyCode::Esc => {
                self.filter().clear();
                self.only = None;
            }
            KeyCode::Char('K') => self.confirm_kill(),
            KeyCode::Char('D') => self.confirm_service(
                "Drain",
                "its clients are served to the end, new ones wait",
                |service| Request::Drain {
                    services: vec![service],
                    timeout_seconds: None,
                    announce_seconds: None,
                },
            ),
            KeyCode::Char('E') => {
                self.confirm_service("Enable", "new clients are served", |service| {
                    Request::Enable {
                        services: vec![service],
                    }
                })
            }
            KeyCode::Char('d') => {
                self.confirm_service("Disable", "new clients wait", |service| Request::Disable {
                    service,
                    refuse: false,
                })
            }
            _ => {}
        }
        None
    }

    /// The filter of the table that the keys are for.
    fn filter(&mut self) -> &mut String {
        match self.focus {
            Focus::Services => &mut self.service_filter,
            Focus::Handlers => &mut self.source_filter,
        }
    }

    fn page(&self) -> isize {
        let rows = match self.focus {
            Focus::Services => self.service_rows(),
            Focus::Handlers => self.handler_rows(),
        };
        isize::try_from(rows).unwrap_or(1).max(1)
    }

    fn step(&mut self, lines: isize) {
        let cursor = match self.focus {
            Focus::Services => &mut self.service_cursor,
            Focus::Handlers => &mut self.handler_cursor,
        };
        cursor.at = cursor.at.saturating_add_signed(lines);
    }

    fn sort(&mut self) {
        match self.focus {
            Focus::Services => {
                let selected = self.selected_service().map(|service| service.name.clone());
                let at = ServiceOrder::ALL
                    .iter()
                    .position(|order| *order == self.service_order);
                self.service_order =
                    ServiceOrder::ALL[(at.unwrap_or(0) + 1) % ServiceOrder::ALL.len()];
                self.select_service(selected.as_deref());
            }
            Focus::Handlers => {
                self.handler_order = (self.handler_order + 1) % HANDLER_ORDERS.len();
                self.handler_cursor = Cursor::default();
            }
        }
    }

    /// Shows the handlers of the selected service alone, or of all again.
    fn only_selected(&mut self) {
        let selected = self.selected_service().map(|service| service.name.clone());
        self.only = if self.only == selected {
            None
        } else {
            selected
        };
        self.handler_cursor = Cursor::default();
    }

    fn edit(&mut self, mut text: String, key: KeyCode) -> Option<Effect> {
        self.mode = match key {
            KeyCode::Enter => {
                *self.filter() = text;
                self.handler_cursor = Cursor::default();
                Mode::Normal
            }
            KeyCode::Esc => Mode::Normal,
            KeyCode::Backspace => {
                text.pop();
                Mode::Filter(text)
            }
            KeyCode::Char(c) if text.len() < 64 => {
                text.push(c);
                Mode::Filter(text)
            }
            _ => Mode::Filter(text),
        };
        None
    }

    fn confirm_kill(&mut self) {
        match (self.focus, self.selected_handler()) {
            (Focus::Handlers, Some(handler)) => {
                let question = format!(
                    "Kill handler {} of {} ({})?",
                    handler.pid, handler.service, handler.client
                );
                let request = Request::Kill {
                    pid: Some(handler.pid),
                    source: None,
                    service: None,
                };
                self.mode = Mode::Confirm(question, request);
            }
            (Focus::Handlers, None) => self.notice = Some(Err("there is no handler".into())),
            (Focus::Services, _) => {
                self.notice = Some(Err(
                    "K ends a handler: select it first, with Tab and the arrows".into(),
                ));
            }
        }
    }

    fn confirm_service(&mut self, verb: &str, effect: &str, request: impl Fn(String) -> Request) {
        match self.selected_service() {
            Some(service) => {
                let question = format!("{verb} {} ({effect})?", service.name);
                self.mode = Mode::Confirm(question, request(service.name.clone()));
            }
            None => self.notice = Some(Err("there is no service".into())),
        }
    }

    fn decide(&mut self, request: Request, key: KeyCode) -> Option<Effect> {
        match key {
            KeyCode::Char('y' | 'Y') => {
                self.mode = Mode::Normal;
                self.notice = Some(Ok("asked skd …".into()));
                Some(Effect::Act(request))
            }
            KeyCode::Char('n' | 'N' | 'q') | KeyCode::Esc => {
                self.mode = Mode::Normal;
                self.notice = Some(Ok("nothing was done".into()));
                None
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::example;

    fn shown() -> State {
        let mut state = State::new((80, 24));
        state.news(News::Status(Box::new(example::status())));
        state.news(News::Handlers(example::handlers()));
        state
    }

    fn press(state: &mut State, keys: &str) -> Option<Effect> {
        let mut effect = None;
        for key in keys.chars() {
            let code = match key {
                '\t' => KeyCode::Tab,
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '↓' => KeyCode::Down,
                '⇟' => KeyCode::PageDown,
                '⇞' => KeyCode::PageUp,
                key => KeyCode::Char(key),
            };
            effect = state.input(Input::Key(KeyEvent::new(code, KeyModifiers::NONE)));
        }
        effect
    }

    #[test]
    fn acts_are_confirmed() {
        let mut state = shown();
        assert_eq!(press(&mut state, "↓D"), None);
        assert!(
            matches!(&state.mode, Mode::Confirm(question, _) if question.starts_with("Drain dns "))
        );
        assert_eq!(press(&mut state, "n"), None);
        assert_eq!(state.mode, Mode::Normal);
        assert_eq!(
            press(&mut state, "Dy"),
            Some(Effect::Act(Request::Drain {
                services: vec!["dns".into()],
                timeout_seconds: None,
                announce_seconds: None
            }))
        );
        assert_eq!(
            press(&mut state, "\t↓Ky"),
            Some(Effect::Act(Request::Kill {
                pid: Some(4712),
                source: None,
                service: None
            }))
        );
        assert_eq!(
            press(&mut state, "Ey"),
            Some(Effect::Act(Request::Enable {
                services: vec!["dns".into()]
            }))
        );
        assert_eq!(
            press(&mut state, "dy"),
            Some(Effect::Act(Request::Disable {
                service: "dns".into(),
                refuse: false
            }))
        );
    }

    #[test]
    fn a_kill_is_about_a_handler_that_is_in_sight() {
        let mut state = shown();
        press(&mut state, "K");
        assert_eq!(state.mode, Mode::Normal);
        assert!(matches!(state.notice, Some(Err(_))));
    }

    #[test]
    fn the_selection_follows_its_service_and_handler() {
        let mut state = shown();
        press(&mut state, "↓\t↓");
        let mut status = example::status();
        status.services.swap(0, 1);
        state.news(News::Status(Box::new(status)));
        assert_eq!(state.selected_service().unwrap().name, "dns");
        let mut handlers = example::handlers();
        handlers.handlers.swap(0, 1);
        state.news(News::Handlers(handlers));
        assert_eq!(state.selected_handler().unwrap().pid, 4712);
        state.news(News::Handlers(Handlers::default()));
        assert_eq!(state.selected_handler(), None);
        assert_eq!(state.handler_cursor, Cursor::default());
    }

    #[test]
    fn filters_are_for_their_table() {
        let mut state = shown();
        press(&mut state, "/we\n");
        assert_eq!(state.services().len(), 1);
        press(&mut state, "\t/192.0.2.0/24\n");
        assert_eq!(state.query().source.as_deref(), Some("192.0.2.0/24"));
        press(&mut state, "\x1b");
        assert_eq!(state.query().source, None);
        press(&mut state, "\n");
        assert_eq!(state.query().service.as_deref(), Some("web"));
        press(&mut state, "\n");
        assert_eq!(state.query().service, None);
    }

    #[test]
    fn orders_take_turns() {
        let mut state = shown();
        press(&mut state, "ss");
        assert_eq!(state.service_order, ServiceOrder::Running);
        assert_eq!(state.selected_service().unwrap().name, "web");
        press(&mut state, "\tsss");
        assert_eq!(state.query().order, HandlerOrder::Cpu);
        press(&mut state, "sss");
        assert_eq!(state.query().order, HandlerOrder::Oldest);
    }

    #[test]
    fn only_what_is_shown_is_asked_for() {
        let mut state = shown();
        let rows = state.handler_rows();
        assert_eq!(state.query().limit, Some(rows + 1));
        state.handlers.total = 9_000;
        press(&mut state, "\t⇟⇟");
        assert_eq!(state.handler_cursor.at, 2 * rows);
        assert_eq!(state.query().limit, Some(2 * rows + 2));
        press(&mut state, "G");
        assert_eq!(state.handler_cursor.at, REACHABLE - 1);
        press(&mut state, "g");
        assert_eq!(state.handler_cursor, Cursor::default());
    }

    #[test]
    fn any_key_in_any_size_is_survived() {
        for size in [(0, 0), (1, 1), (40, 8), (80, 24), (500, 200)] {
            let mut state = State::new(size);
            for keys in ["\t↓⇟⇞GgK", "?x", "/\n", "sEn", "Dn", "\n\x1b"] {
                press(&mut state, keys);
                state.news(News::Status(Box::new(example::status())));
                state.news(News::Handlers(example::handlers()));
            }
        }
    }
}
