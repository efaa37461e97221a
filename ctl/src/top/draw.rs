//! The state as a picture.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Cell, Clear, Paragraph, Row, Table};
use skd_control::{HandlerStatus, ServiceState, ServiceStatus, Status};

use super::rates::{accepted, sparkline};
use super::state::{Cursor, Focus, Mode, State};
use crate::show::{known, rejected, slots, state as state_name};
use crate::text::{age, bytes, escaped, percent, seconds};

/// How many rates are shown in a wide terminal.
const WIDE_BARS: u16 = 24;

/// The smallest terminal in which something is shown.
const SMALLEST: (u16, u16) = (60, 12);

/// From this width on, tables have all their columns.
const WIDE: u16 = 130;

/// Colours, or none. Those that are used can be read on dark and on light.
#[derive(Debug)]
pub(super) struct Palette {
    coloured: bool,
}

impl Palette {
    pub(super) fn new(coloured: bool) -> Self {
        Self { coloured }
    }

    fn colour(&self, colour: Color) -> Style {
        if self.coloured {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    fn bad(&self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    fn good(&self) -> Style {
        self.colour(Color::Green)
    }

    fn changing(&self) -> Style {
        self.colour(Color::Magenta)
    }

    fn bars(&self) -> Style {
        self.colour(Color::Cyan)
    }

    fn state(&self, state: ServiceState) -> Style {
        match state {
            ServiceState::Serving => self.good(),
            ServiceState::Refusing => self.bad(),
            _ => self.changing(),
        }
    }
}

/// Where everything is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    head: Rect,
    services: Rect,
    handlers: Rect,
    foot: Rect,
}

/// The lines of a table that aren't rows: its title, and the names of its columns.
const FRAME: u16 = 2;

/// Divides a terminal of these columns and rows: services get what they need, half of it at most.
pub(super) fn layout((columns, rows): (u16, u16), services: usize) -> Layout {
    let area = |y: u16, height: u16| {
        Rect::new(0, y.min(rows), columns, height.min(rows.saturating_sub(y)))
    };
    let head = 2;
    let body = rows.saturating_sub(head + 1);
    let wanted = u16::try_from(services.max(1))
        .unwrap_or(u16::MAX)
        .saturating_add(FRAME + 1);
    let upper = wanted.min(body / 2);
    Layout {
        head: area(0, head),
        services: area(head, upper),
        handlers: area(head + upper, body - upper),
        foot: area(rows.saturating_sub(1), 1),
    }
}

impl Layout {
    /// How many services are shown.
    pub(super) fn service_rows(self) -> usize {
        usize::from(self.services.height.saturating_sub(FRAME))
    }

    /// How many handlers are shown.
    pub(super) fn handler_rows(self) -> usize {
        usize::from(self.handlers.height.saturating_sub(FRAME))
    }
}

/// Draws the state.
pub(super) fn draw(state: &State, palette: &Palette, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!(
            "The terminal has {}x{}; top needs {}x{}.",
            area.width, area.height, SMALLEST.0, SMALLEST.1
        );
        frame.render_widget(
            Paragraph::new(text).wrap(ratatui::widgets::Wrap { trim: true }),
            area,
        );
        return;
    }
    let services = state.services();
    let layout = layout((area.width, area.height), services.len());
    frame.render_widget(head(state, palette), layout.head);
    draw_services(state, &services, palette, frame, layout.services);
    draw_handlers(state, frame, layout.handlers);
    frame.render_widget(foot(state, palette), layout.foot);
    if state.mode == Mode::Help {
        draw_help(frame, area);
    }
}

fn head<'a>(state: &State, palette: &Palette) -> Paragraph<'a> {
    let lines = match &state.status {
        Some(status) => vec![
            about_process(status, state),
            about_services(status, state, palette),
        ],
        None if state.trouble.is_none() => vec![Line::raw("asking skd …")],
        None => vec![Line::raw("")],
    };
    Paragraph::new(lines)
}

fn about_process<'a>(status: &Status, state: &State) -> Line<'a> {
    let process = &status.process;
    let cpu = state.rates.cpu.map_or_else(|| "-".into(), percent);
    Line::from(vec![
        Span::styled(format!("skd {}", escaped(&status.skd)), Modifier::BOLD),
        Span::raw(format!(
            "  pid {}  up {}  CPU {cpu}  mem {}  fds {}/{}",
            status.pid,
            age(status.uptime_seconds),
            bytes(process.resident_bytes),
            process.open_descriptors,
            process.max_descriptors
        )),
    ])
}

fn about_services<'a>(status: &Status, state: &State, palette: &Palette) -> Line<'a> {
    let running: u64 = status.services.iter().map(|service| service.running).sum();
    let pending: u64 = status.services.iter().map(|service| service.pending).sum();
    let rates = state.rates.total();
    let rate = |value: Option<f64>| value.map_or_else(|| "-".into(), per_second);
    let mut spans = vec![Span::raw(format!(
        "running {running}  pending {pending}  lingering {}  accept/s {}  reject/s {}",
        status.process.lingering,
        rate(rates.map(|rates| rates.0)),
        rate(rates.map(|rates| rates.1)),
    ))];
    if status.draining {
        spans.push(Span::styled(
            "  skd ends when these have ended",
            palette.changing(),
        ));
    }
    let lost = status.process.lost_lines;
    if lost > 0 {
        spans.push(Span::styled(format!("  lost lines {lost}"), palette.bad()));
    }
    Line::from(spans)
}

/// A rate in five columns at most, up to a million.
fn per_second(rate: f64) -> String {
    match rate {
        rate if rate < 0.05 => "0".into(),
        rate if rate < 99.95 => format!("{rate:.1}"),
        rate if rate < 99_999.5 => format!("{rate:.0}"),
        rate => format!("{:.0}k", rate / 1000.0),
    }
}

/// A column of a table: its name, its width (zero takes what is left), and where its text stands.
type Column = (&'static str, u16, Alignment);

/// Takes from a text what doesn't fit, and shows that there was more.
fn shorten(span: Span<'_>, width: u16) -> Span<'_> {
    let width = usize::from(width);
    if span.width() <= width {
        return span;
    }
    let mut text = span.content.into_owned();
    while Span::raw(&*text).width() >= width.max(1) {
        text.pop();
    }
    text.push('…');
    Span::styled(text, span.style)
}

fn draw_table<'a>(
    frame: &mut Frame<'_>,
    area: Rect,
    title: Line<'a>,
    columns: &[Column],
    rows: Vec<Vec<Span<'a>>>,
    selected: Option<(usize, Style)>,
) {
    let line = |span: Span<'a>, column: &Column| Cell::from(Line::from(span).alignment(column.2));
    let fixed: u16 = columns.iter().map(|column| column.1).sum();
    let spaces = u16::try_from(columns.len().saturating_sub(1)).unwrap_or(u16::MAX);
    let rest = area.width.saturating_sub(fixed.saturating_add(spaces));
    let width = |column: &Column| if column.1 == 0 { rest } else { column.1 };
    let names = columns
        .iter()
        .map(|column| line(Span::raw(column.0), column));
    let header = Row::new(names).style(Modifier::BOLD | Modifier::UNDERLINED);
    let rows = rows.into_iter().enumerate().map(|(at, cells)| {
        let cells = cells
            .into_iter()
            .zip(columns)
            .map(|(cell, column)| line(shorten(cell, width(column)), column));
        let row = Row::new(cells);
        match selected {
            Some((selected, style)) if selected == at => row.style(style),
            _ => row,
        }
    });
    let widths = columns
        .iter()
        .map(|column| Constraint::Length(width(column)));
    let table = Table::new(rows, widths)
        .header(header)
        .column_spacing(1)
        .block(Block::new().borders(Borders::TOP).title(title));
    frame.render_widget(table, area);
}

/// How many columns of the terminal a text takes.
fn columns_of(text: &str) -> u16 {
    u16::try_from(Span::raw(text).width()).unwrap_or(u16::MAX)
}

/// The title of a table.
fn title<'a>(name: &str, details: &[String], focused: bool) -> Line<'a> {
    let style = if focused {
        Style::new().add_modifier(Modifier::BOLD | Modifier::REVERSED)
    } else {
        Style::new()
    };
    let mut spans = vec![Span::styled(format!(" {name} "), style)];
    if !details.is_empty() {
        spans.push(Span::raw(format!(" {} ", details.join(", "))));
    }
    Line::from(spans)
}

/// The rows that are in sight, and which of them is selected.
fn in_sight<T>(all: &[T], cursor: Cursor, rows: usize) -> (&[T], Option<usize>) {
    let top = cursor.top.min(all.len());
    let end = (top + rows).min(all.len());
    (&all[top..end], cursor.at.checked_sub(top))
}

fn draw_services(
    state: &State,
    services: &[&ServiceStatus],
    palette: &Palette,
    frame: &mut Frame<'_>,
    area: Rect,
) {
    use Alignment::{Left, Right};
    let wide = area.width >= WIDE;
    let mut columns = vec![
        ("SERVICE", if wide { 24 } else { 16 }, Left),
        ("STATE", 8, Left),
        ("SLOTS", 11, Right),
        ("PENDING", 7, Right),
        ("ACCEPT/S", 8, Right),
        ("REJECT/S", 8, Right),
        ("ACCEPT/S LATELY", if wide { WIDE_BARS } else { 0 }, Left),
    ];
    if wide {
        columns.extend([
            ("REJECT/S LATELY", WIDE_BARS, Left),
            ("ACCEPTED", 10, Right),
            ("REJECTED", 10, Right),
            ("POOL", 7, Right),
            ("LISTENERS", 0, Left),
        ]);
    }
    let used: u16 = columns.iter().map(|column| column.1 + 1).sum();
    let bars = if wide {
        WIDE_BARS
    } else {
        area.width.saturating_sub(used)
    };
    let rows = usize::from(area.height.saturating_sub(FRAME));
    let (shown, selected) = in_sight(services, state.service_cursor, rows);
    let lines = shown.iter().map(|service| {
        let mut cells = service_cells(service, state, palette, usize::from(bars));
        cells.truncate(columns.len());
        cells
    });
    let mut details = vec![format!("{} {}", services.len(), state.service_order.name())];
    if !state.service_filter.is_empty() {
        details.push(format!("with \"{}\"", escaped(&state.service_filter)));
    }
    let title = title("Services", &details, state.focus == Focus::Services);
    let style = match state.focus {
        Focus::Services => Modifier::REVERSED,
        Focus::Handlers => Modifier::BOLD,
    };
    let selected = selected.map(|at| (at, style.into()));
    draw_table(frame, area, title, &columns, lines.collect(), selected);
}

fn service_cells<'a>(
    service: &ServiceStatus,
    state: &State,
    palette: &Palette,
    bars: usize,
) -> Vec<Span<'a>> {
    let rates = state.rates.of(&service.name);
    let last = |rates: Option<f64>| Span::raw(rates.map_or_else(|| "-".into(), per_second));
    let rejects = rates.and_then(|rates| rates.rejected.back().copied());
    let line = |rates: Option<&VecDeque<f64>>| {
        Span::raw(
            rates
                .map(|rates| sparkline(rates, bars))
                .unwrap_or_default(),
        )
    };
    let pool = service
        .pool
        .as_ref()
        .map(|pool| format!("{}/{}", pool.idle, pool.limit));
    let tls = service.tls.is_some().then(|| "TLS".to_owned());
    let listeners = service
        .listeners
        .iter()
        .map(|listener| escaped(&listener.address));
    let listeners = tls.into_iter().chain(listeners);
    vec![
        Span::raw(escaped(&service.name)),
        Span::styled(state_name(service.state), palette.state(service.state)),
        Span::raw(slots(service)),
        Span::raw(service.pending.to_string()),
        last(rates.and_then(|rates| rates.accepted.back().copied())),
        last(rejects).style(if rejects > Some(0.0) {
            palette.bad()
        } else {
            Style::new()
        }),
        line(rates.map(|rates| &rates.accepted)).style(palette.bars()),
        line(rates.map(|rates| &rates.rejected)).style(palette.bad()),
        Span::raw(accepted(service).to_string()),
        Span::raw(rejected(service).to_string()),
        Span::raw(pool.unwrap_or_default()),
        Span::raw(listeners.collect::<Vec<_>>().join(" ")),
    ]
}

fn draw_handlers(state: &State, frame: &mut Frame<'_>, area: Rect) {
    use Alignment::{Left, Right};
    let wide = area.width >= WIDE;
    let rows = usize::from(area.height.saturating_sub(FRAME));
    let (shown, selected) = in_sight(&state.handlers.handlers, state.handler_cursor, rows);
    let names = shown
        .iter()
        .map(|handler| columns_of(&escaped(&handler.service)));
    let mut columns = vec![
        ("PID", 7, Right),
        (
            "SERVICE",
            names
                .max()
                .unwrap_or(0)
                .clamp(7, if wide { 24 } else { 10 }),
            Left,
        ),
        ("CLIENT", if wide { 48 } else { 0 }, Left),
        ("AGE", 6, Right),
        ("CPU", 7, Right),
        ("MEMORY", 8, Right),
        ("RECEIVED", 8, Right),
        ("SENT", 8, Right),
    ];
    if wide {
        columns.push(("LISTENER", 0, Left));
    }
    let lines = shown.iter().map(|handler| {
        let mut cells = handler_cells(handler);
        cells.truncate(columns.len());
        cells
    });
    let mut details = vec![format!(
        "{} by {}",
        state.handlers.total,
        state.handler_order_name()
    )];
    if let Some(service) = &state.only {
        details.push(format!("of {}", escaped(service)));
    }
    if !state.source_filter.is_empty() {
        details.push(format!("from {}", escaped(&state.source_filter)));
    }
    let title = title("Handlers", &details, state.focus == Focus::Handlers);
    let selected = selected.filter(|_| state.focus == Focus::Handlers);
    let selected = selected.map(|at| (at, Modifier::REVERSED.into()));
    draw_table(frame, area, title, &columns, lines.collect(), selected);
}

fn handler_cells<'a>(handler: &HandlerStatus) -> Vec<Span<'a>> {
    [
        handler.pid.to_string(),
        escaped(&handler.service),
        escaped(&handler.client),
        age(handler.age_seconds),
        known(handler.cpu_seconds, seconds),
        known(handler.resident_bytes, bytes),
        known(handler.received_bytes, bytes),
        known(handler.sent_bytes, bytes),
        escaped(&handler.listener),
    ]
    .map(Span::raw)
    .into()
}

/// The last line: a question, a filter, what went wrong, what was done, or the keys.
fn foot<'a>(state: &State, palette: &Palette) -> Line<'a> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    match (&state.mode, &state.trouble, &state.notice) {
        (Mode::Confirm(question, _), ..) => Line::styled(
            format!("{} y/n", escaped(question)),
            bold.add_modifier(Modifier::REVERSED),
        ),
        (Mode::Filter(text), ..) => {
            let what = match state.focus {
                Focus::Services => "services with",
                Focus::Handlers => "handlers from PREFIX or uid:N",
            };
            Line::styled(format!("{what}: {}_", escaped(text)), bold)
        }
        (_, Some(trouble), _) => {
            Line::styled(format!("Asking again: {}", escaped(trouble)), palette.bad())
        }
        (_, None, Some(Ok(done))) => Line::styled(escaped(done), bold),
        (_, None, Some(Err(why))) => Line::styled(escaped(why), palette.bad()),
        (_, None, None) => Line::raw(KEYS),
    }
}

const KEYS: &str = "q quit  Tab table  s sort  / filter  K kill  D drain  E enable  ? more";

const HELP: &str = "\
q  ^C        quit
Tab          go to the other table
↑ ↓  k j     select a line
PgUp PgDn    a page up or down
g  G         first or last line
s            sort by the next column
/            services: those whose names have a text
             handlers: those of clients in a prefix
Enter        handlers of the selected service alone
Esc          show all again
K            kill the selected handler (TERM, then KILL)
D            drain the selected service
d            disable the selected service
E            enable it again
^Z           stop for a while";

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    let width = 58.min(area.width);
    let height = 17.min(area.height);
    let area = Rect::new(
        (area.width - width) / 2,
        (area.height - height) / 2,
        width,
        height,
    );
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(" Keys; any key closes this ");
    frame.render_widget(Paragraph::new(HELP).block(block), area);
}

#[cfg(test)]
mod tests {
    use super::super::state::{Input, News};
    use super::*;
    use crate::show::example;
    use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::buffer::Buffer;

    /// A state after three refreshes.
    fn state(size: (u16, u16)) -> State {
        let mut state = State::new(size);
        for (seconds, accepted) in [(0.0, 0), (1.0, 40), (2.0, 60)] {
            let mut status = example::status();
            status.uptime_seconds += seconds;
            status.process.user_cpu_seconds += seconds / 100.0;
            status.services[0].listeners[0].accepted += accepted;
            state.news(News::Status(Box::new(status)));
            state.news(News::Handlers(example::handlers()));
        }
        state
    }

    fn press(state: &mut State, code: KeyCode) {
        state.input(Input::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }

    fn drawn(state: &State, coloured: bool) -> Buffer {
        let backend = TestBackend::new(state.size.0, state.size.1);
        let mut terminal = Terminal::new(backend).unwrap();
        let palette = Palette::new(coloured);
        terminal.draw(|frame| draw(state, &palette, frame)).unwrap();
        terminal.backend().buffer().clone()
    }

    /// The characters of a picture.
    fn text(buffer: &Buffer) -> String {
        let rows = buffer.content.chunks(usize::from(buffer.area.width));
        let lines = rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>());
        lines.fold(String::new(), |all, line| all + line.trim_end() + "\n")
    }

    fn last_line(state: &State) -> String {
        text(&drawn(state, true)).lines().last().unwrap().to_owned()
    }

    /// Compares a picture with the one in a file.
    fn expect(picture: &str, name: &str) {
        let path = format!("{}/src/top/pictures/{name}.txt", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("SKDCTL_NEW_PICTURES").is_some() {
            std::fs::write(&path, picture).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(
            picture, committed,
            "if that is better: SKDCTL_NEW_PICTURES=1 cargo test --package skdctl"
        );
    }

    #[test]
    fn the_pictures_are_as_they_were() {
        expect(&text(&drawn(&state((80, 24)), true)), "80x24");
        expect(&text(&drawn(&state((200, 50)), true)), "200x50");
        let mut help = state((80, 24));
        press(&mut help, KeyCode::Char('?'));
        expect(&text(&drawn(&help, true)), "help");
    }

    #[test]
    fn a_terminal_of_60_by_12_is_enough() {
        let picture = text(&drawn(&state((60, 12)), true));
        assert!(picture.contains("4711 web"), "{picture}");
        for size in [(59, 12), (60, 11), (1, 1)] {
            let picture = text(&drawn(&state(size), true));
            assert!(!picture.contains("SERVICE"), "{picture}");
        }
        assert!(
            text(&drawn(&state((59, 20)), true))
                .starts_with("The terminal has 59x20; top needs 60x12.")
        );
    }

    #[test]
    fn the_last_line_says_what_matters_most() {
        let mut state = state((80, 24));
        assert_eq!(last_line(&state), KEYS);
        assert!(Span::raw(KEYS).width() <= 80);
        press(&mut state, KeyCode::Char('E'));
        assert_eq!(
            last_line(&state),
            "Enable web (new clients are served)? y/n"
        );
        press(&mut state, KeyCode::Char('y'));
        state.news(News::Acted(Ok("web is enabled\x1b".into())));
        assert_eq!(last_line(&state), "web is enabled\\u{1b}");
        state.news(News::Unreachable("no skd answers at /run/skd.sock".into()));
        assert_eq!(
            last_line(&state),
            "Asking again: no skd answers at /run/skd.sock"
        );
        press(&mut state, KeyCode::Char('/'));
        press(&mut state, KeyCode::Char('w'));
        assert_eq!(last_line(&state), "services with: w_");
    }

    #[test]
    fn colours_can_be_switched_off() {
        let coloured = |colours| {
            let picture = drawn(&state((80, 24)), colours);
            picture
                .content
                .iter()
                .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
        };
        assert!(coloured(true));
        assert!(!coloured(false));
    }

    #[test]
    fn the_selected_line_is_reversed_where_the_keys_go() {
        let reversed = |state: &State| {
            let picture = drawn(state, false);
            let rows = picture.content.chunks(80).enumerate();
            let rows = rows.filter(|(_, row)| row[40].modifier.contains(Modifier::REVERSED));
            rows.map(|(at, _)| at).collect::<Vec<_>>()
        };
        let mut state = state((80, 24));
        assert_eq!(reversed(&state), [4]);
        press(&mut state, KeyCode::Down);
        assert_eq!(reversed(&state), [5]);
        press(&mut state, KeyCode::Tab);
        assert_eq!(reversed(&state), [10]);
    }
}
