//! Drawing a frame. Made for 80 columns and 24 rows; what does not fit is cut off.

mod format;

use ratatui::Frame as Area;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Table as Grid};

use self::format::{bytes, duration, milliseconds, rate, whole};
use super::model::{Frame, Latency, Percentiles};
use super::view::{Table, View};
use crate::stats::render::json::state_name;
use crate::stats::render::push_printable;

/// Processes that are shown, the newest.
const MAX_PROCESSES: usize = 4;

const HELP: &[&str] = &[
    "q  Esc  Ctrl-C     quit",
    "1 2 3  Tab         listeners, clusters, workers",
    "Up Down  PgUp PgDn scroll; Home, End",
    "s                  sort by load, or by name again",
    "p                  pause, and go on",
    "?                  this help",
    "",
    "Rates are per second over the last interval.",
    "fail: failed connects; retry: repeated requests.",
    "enter: calls into the kernel; noBuf: receives",
    "that had to wait for a buffer.",
];

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const HEAD: Style = Style::new().add_modifier(Modifier::REVERSED);
const ALARM: Style = Style::new().fg(Color::Red).add_modifier(Modifier::BOLD);

/// Draws everything. Scroll positions beyond the end are brought back.
pub(super) fn draw(area: &mut Area<'_>, frame: &Frame, view: &mut View) {
    let processes = u16::try_from(frame.processes.len().clamp(1, MAX_PROCESSES)).unwrap_or(1);
    let rows = [1, processes, 1, 2, 1, 5, 1].map(Constraint::Length);
    let [title, who, status, totals, _, latency, tabs, table, foot] =
        Layout::vertical([&rows[..], &[Constraint::Fill(1), Constraint::Length(1)]].concat())
            .areas(area.area());
    area.render_widget(Paragraph::new(title_line(frame, view)), title);
    area.render_widget(Paragraph::new(process_lines(frame)), who);
    area.render_widget(Paragraph::new(status_line(frame)), status);
    area.render_widget(Paragraph::new(total_lines(frame)), totals);
    draw_latency(area, latency, frame, view);
    area.render_widget(Paragraph::new(tab_line(view)), tabs);
    draw_table(area, table, frame, view);
    area.render_widget(Paragraph::new(Line::styled(FOOT, DIM)), foot);
    if view.is_helping {
        draw_help(area);
    }
}

const FOOT: &str = "q quit  Tab/1-3 table  arrows scroll  s sort  p pause  ? help";

fn title_line<'a>(frame: &Frame, view: &View) -> Line<'a> {
    let up = duration(frame.read_at_ms.saturating_sub(frame.first_started_ms));
    let mut spans = vec![
        Span::styled(format!("ouro, base id {}", view.base_id), BOLD),
        Span::raw(format!("   up {up}   generation {}", frame.generations)),
    ];
    if frame.overflows > 0 {
        spans.push(Span::styled(format!("   {} found no room in the segment", frame.overflows), ALARM));
    }
    if view.is_paused {
        spans.push(Span::styled("   PAUSED", ALARM));
    }
    Line::from(spans)
}

fn process_lines<'a>(frame: &Frame) -> Vec<Line<'a>> {
    let hidden = frame.processes.len().saturating_sub(MAX_PROCESSES);
    let line = |process: &ouro_shm::Process| {
        let state = if process.alive { state_name(process.state) } else { "dead" };
        let age = duration(frame.read_at_ms.saturating_sub(process.started_ms));
        // Nobody knows when a dead one died.
        let up = if process.alive { format!("up {age}") } else { String::new() };
        let mut version = String::new();
        push_printable(&mut version, &process.version);
        let text = format!(
            "{} pid {:<8} epoch {:<4} {state:<9} version {version:<8} workers {:<3} {up}",
            if frame.current == Some(process.pid) { '>' } else { ' ' },
            process.pid,
            process.epoch,
            process.workers,
        );
        Line::styled(text, if process.alive { Style::new() } else { DIM })
    };
    if frame.processes.is_empty() {
        return vec![Line::styled("  no processes", DIM)];
    }
    frame.processes[hidden..].iter().map(line).collect()
}

fn status_line<'a>(frame: &Frame) -> Line<'a> {
    if let Some(problem) = &frame.problem {
        return Line::styled(format!("{problem}; these are the last values"), ALARM);
    }
    if !frame.is_alive {
        return Line::styled("Nobody is alive: these are the last values.", ALARM);
    }
    Line::raw("")
}

fn total_lines<'a>(frame: &Frame) -> Vec<Line<'a>> {
    let totals = &frame.totals;
    let shown = |number| known(frame, rate(number));
    let alarm = |number: f64| if number > 0.0 { ALARM } else { Style::new() };
    vec![
        Line::from(vec![
            Span::raw("requests     "),
            Span::styled(format!("{:>8}/s", shown(totals.requests)), BOLD),
            Span::raw(format!(
                "  {:>7} active   4xx {:>7}/s   ",
                whole(totals.requests_active),
                shown(totals.errors_4xx)
            )),
            Span::styled(format!("5xx {:>7}/s", shown(totals.errors_5xx)), alarm(totals.errors_5xx)),
        ]),
        Line::from(vec![
            Span::raw("connections  "),
            Span::styled(format!("{:>8}/s", shown(totals.cx_new)), BOLD),
            Span::raw(format!(
                "  {:>7} active   in {:>8}/s   out {:>7}/s",
                whole(totals.cx_active),
                known(frame, bytes(totals.received_bytes)),
                known(frame, bytes(totals.sent_bytes)),
            )),
        ]),
    ]
}

fn draw_latency(area: &mut Area<'_>, place: Rect, frame: &Frame, view: &View) {
    let interval = humantime::format_duration(view.interval).to_string();
    let row = |what: &'static str, window: String, percentiles: &Percentiles| {
        let Percentiles { p50, p90, p99, p999 } = *percentiles;
        let numbers = [p50, p90, p99, p999].map(|value| right(milliseconds(value)));
        Row::new([Cell::from(what), Cell::from(window)].into_iter().chain(numbers))
    };
    let rows = |what: &'static str, latency: &Latency| {
        [row(what, interval.clone(), &latency.interval), row("", "1m".to_owned(), &latency.minute)]
    };
    let both = rows("requests", &frame.downstream).into_iter().chain(rows("at origins", &frame.upstream));
    let titles = ["p50", "p90", "p99", "p99.9"].map(|title| right(title.to_owned()));
    let head = [Cell::from("latency (ms)"), Cell::from("over")].into_iter().chain(titles);
    let widths = [13, 8, 9, 9, 9, 9].map(Constraint::Length);
    area.render_widget(Grid::new(both, widths).header(Row::new(head).style(DIM)), place);
}

fn tab_line<'a>(view: &View) -> Line<'a> {
    let mut spans = Vec::new();
    for (n, table) in Table::ALL.into_iter().enumerate() {
        let style = if table == view.table { HEAD } else { Style::new() };
        spans.push(Span::styled(format!(" {} {} ", n + 1, table.title()), style));
        spans.push(Span::raw(" "));
    }
    spans.push(Span::styled(if view.by_load { " busiest first" } else { " by name" }, DIM));
    Line::from(spans)
}

fn draw_table(area: &mut Area<'_>, place: Rect, frame: &Frame, view: &mut View) {
    match view.table {
        Table::Listeners => {
            let columns = [("conn", 5), ("new/s", 5), ("rq/s", 5), ("2xx/s", 5), ("4xx/s", 5), ("5xx/s", 5)];
            let columns = [&columns[..], &[("in/s", 5), ("out/s", 5), ("p50", 5), ("p99", 5)]].concat();
            let order = order(&frame.listeners, view, |row| row.requests + row.cx_new);
            grid(area, place, view, "listener", &columns, order, |row| {
                let cells = vec![
                    whole(row.cx_active),
                    known(frame, rate(row.cx_new)),
                    known(frame, rate(row.requests)),
                    known(frame, rate(row.classes[0])),
                    known(frame, rate(row.classes[1])),
                    known(frame, rate(row.classes[2])),
                    known(frame, bytes(row.received_bytes)),
                    known(frame, bytes(row.sent_bytes)),
                    milliseconds(row.time.p50),
                    milliseconds(row.time.p99),
                ];
                (row.name.clone(), cells)
            });
        }
        Table::Clusters => {
            let columns = [("rq/s", 5), ("act", 5), ("conn", 5), ("2xx/s", 5), ("4xx/s", 5), ("5xx/s", 5)];
            let columns = [&columns[..], &[("p50", 5), ("p99", 5), ("fail", 5), ("retry", 5)]].concat();
            let order = order(&frame.clusters, view, |row| row.requests);
            grid(area, place, view, "cluster", &columns, order, |row| {
                let cells = vec![
                    known(frame, rate(row.requests)),
                    whole(row.requests_active),
                    whole(row.cx_active),
                    known(frame, rate(row.classes[0])),
                    known(frame, rate(row.classes[1])),
                    known(frame, rate(row.classes[2])),
                    milliseconds(row.time.p50),
                    milliseconds(row.time.p99),
                    known(frame, rate(row.connect_failures)),
                    known(frame, rate(row.retries)),
                ];
                (row.name.clone(), cells)
            });
        }
        Table::Workers => {
            let columns =
                [("conn", 8), ("new/s", 8), ("rq/s", 8), ("enter/s", 8), ("compl/s", 8), ("noBuf/s", 8)];
            let order = order(&frame.workers, view, |row| row.requests + row.enters);
            grid(area, place, view, "pid / worker", &columns, order, |row| {
                let rates = [row.cx_new, row.requests, row.enters, row.completions, row.enobufs];
                let rates = rates.map(|number| known(frame, rate(number)));
                let cells = std::iter::once(whole(row.cx_active)).chain(rates).collect();
                (format!("{} / {}", row.pid, row.worker), cells)
            });
        }
    }
}

/// The rows in the order that the user wants.
fn order<'a, T>(rows: &'a [T], view: &View, load: impl Fn(&T) -> f64) -> Vec<&'a T> {
    let mut order: Vec<_> = rows.iter().collect();
    if view.by_load {
        order.sort_by(|a, b| load(b).total_cmp(&load(a)));
    }
    order
}

/// Draws the rows that are in sight; only these are formatted.
fn grid<T>(
    area: &mut Area<'_>,
    place: Rect,
    view: &mut View,
    first: &'static str,
    columns: &[(&'static str, u16)],
    rows: Vec<&T>,
    cells: impl Fn(&T) -> (String, Vec<String>),
) {
    let in_sight = usize::from(place.height.saturating_sub(1));
    let total = rows.len();
    let offset = view.offset();
    *offset = (*offset).min(total.saturating_sub(in_sight));
    let shown = rows.into_iter().skip(*offset).take(in_sight).map(|row| {
        let (name, cells) = cells(row);
        let mut printable = String::new();
        push_printable(&mut printable, &name);
        Row::new(std::iter::once(Cell::from(printable)).chain(cells.into_iter().map(right)))
    });
    let position =
        if total > in_sight { format!("{first} {}/{total}", *offset + 1) } else { first.to_owned() };
    let head = std::iter::once(Cell::from(position))
        .chain(columns.iter().map(|(title, _)| right((*title).to_owned())));
    let widths = std::iter::once(Constraint::Fill(1))
        .chain(columns.iter().map(|(_, width)| Constraint::Length(*width)));
    let table = Grid::new(shown.collect::<Vec<_>>(), widths.collect::<Vec<_>>());
    area.render_widget(table.header(Row::new(head.collect::<Vec<_>>()).style(DIM)), place);
    if total == 0 {
        let line = Rect { y: place.y.saturating_add(1), height: 1, ..place }.intersection(place);
        area.render_widget(Paragraph::new("  none"), line);
    }
}

fn draw_help(area: &mut Area<'_>) {
    let whole = area.area();
    let height = u16::try_from(HELP.len()).unwrap_or(u16::MAX).saturating_add(2);
    let place = whole.centered(Constraint::Length(54), Constraint::Length(height));
    let lines: Vec<_> = HELP.iter().map(|line| Line::raw(*line)).collect();
    area.render_widget(Clear, place);
    area.render_widget(Paragraph::new(lines).block(Block::bordered().title(" help ")), place);
}

/// A rate, or a dash as long as there is none.
fn known(frame: &Frame, text: String) -> String {
    if frame.has_rates { text } else { "-".to_owned() }
}

fn right<'a>(text: String) -> Cell<'a> {
    Cell::from(Line::from(text).right_aligned())
}

#[cfg(test)]
mod tests;
