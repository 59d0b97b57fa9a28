//! What is on a screen of a terminal that is not there.

use std::time::Duration;

use ouro_shm::{ProcessState, Share, Snapshot, Value};
use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::model::Tracker;
use super::*;
use crate::stats::render::fixtures;

fn view() -> View {
    View::new(3, Duration::from_secs(1))
}

fn frame() -> Frame {
    let mut tracker = Tracker::default();
    let mut now = fixtures::small();
    let mut before = now.clone();
    for entity in &mut before.entities {
        for value in &mut entity.values {
            match value {
                Value::Counter(number) => *number = 0,
                Value::Histogram(histogram) => *histogram = ouro_shm::HistogramValue::default(),
                Value::Gauge(_) => {}
            }
        }
    }
    now.processes.insert(0, fixtures::process(99, 0, ProcessState::Draining, true));
    now.shares = vec![Share { pid: 100, worker: 1, entities: now.entities.clone() }];
    tracker.observe(Duration::ZERO, before);
    tracker.observe(Duration::from_secs(1), now)
}

fn screen(frame: &Frame, view: &mut View, (width, height): (u16, u16)) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|area| draw(area, frame, view)).unwrap();
    terminal.backend().to_string()
}

#[track_caller]
fn assert_shows(screen: &str, texts: &[&str]) {
    for text in texts {
        assert!(screen.contains(text), "{text:?} is not on\n{screen}");
    }
}

#[test]
fn everything_fits_on_80_columns_and_24_rows() {
    let frame = frame();
    let mut view = view();
    let shown = screen(&frame, &mut view, (80, 24));
    eprintln!("{shown}");
    assert_shows(
        &shown,
        &[
            "ouro, base id 3   up 1m 10s   generation 2",
            "  pid 99       epoch 0    draining  version 0.1.0    workers 2   up 1m 10s",
            "> pid 100      epoch 1    serving   version 0.1.0    workers 2   up 1m 00s",
            "requests         1200/s",
            "5xx      10/s",
            "connections        42/s        5 active   in    96.5K/s   out       0/s",
            "requests      1s           0.592      2.02      2.02      2.02",
            "at origins    1s           0.296       999       999       999",
            " 1 Listeners ",
            "web ",
            "q quit",
        ],
    );
    view.table = Table::Clusters;
    let shown = screen(&frame, &mut view, (80, 24));
    eprintln!("{shown}");
    assert_shows(&shown, &["cluster", "retry", "api ", "1190"]);
    view.table = Table::Workers;
    let shown = screen(&frame, &mut view, (80, 24));
    eprintln!("{shown}");
    assert_shows(&shown, &["100 / 1", "enter/s"]);
}

#[test]
fn it_is_said_that_nobody_is_alive() {
    let mut frame = frame();
    frame.is_alive = false;
    assert_shows(&screen(&frame, &mut view(), (80, 24)), &["Nobody is alive: these are the last values."]);
    frame.problem = Some("the segment is gone".to_owned());
    assert_shows(&screen(&frame, &mut view(), (80, 24)), &["the segment is gone; these are the last values"]);
}

#[test]
fn long_tables_scroll_to_their_end_and_no_further() {
    let scope = fixtures::scope("listener", "listener.{}", &["listener"], vec![]);
    let entities =
        (0..100).map(|n| fixtures::entity(&scope, &[&format!("listener-{n:02}")], vec![])).collect();
    let frame = Tracker::default().observe(Duration::ZERO, Snapshot { entities, ..Snapshot::default() });
    let mut view = view();
    assert_shows(&screen(&frame, &mut view, (80, 24)), &["listener 1/100", "listener-00"]);
    *view.offset() = usize::MAX;
    assert_shows(&screen(&frame, &mut view, (80, 24)), &["listener-99"]);
    assert!((80..100).contains(view.offset()), "{}", view.offset());
}

#[test]
fn the_busiest_can_come_first() {
    let scope =
        fixtures::scope("cluster", "cluster.{}", &["cluster"], vec![fixtures::counter("upstream_rq_total")]);
    let snapshot = |quiet, busy| {
        let entity = |name: &str, number| fixtures::entity(&scope, &[name], vec![Value::Counter(number)]);
        Snapshot { entities: vec![entity("a-quiet", quiet), entity("b-busy", busy)], ..Snapshot::default() }
    };
    let mut tracker = Tracker::default();
    tracker.observe(Duration::ZERO, snapshot(0, 0));
    let frame = tracker.observe(Duration::from_secs(1), snapshot(1, 1000));
    let mut view = View { table: Table::Clusters, ..view() };
    let is_busy_first = |shown: &str| shown.find("b-busy") < shown.find("a-quiet");
    assert!(!is_busy_first(&screen(&frame, &mut view, (80, 24))));
    view.by_load = true;
    assert!(is_busy_first(&screen(&frame, &mut view, (80, 24))));
}

#[test]
fn help_and_pause_are_seen() {
    let mut view = View { is_helping: true, is_paused: true, ..view() };
    assert_shows(&screen(&frame(), &mut view, (80, 24)), &["PAUSED", " help ", "Ctrl-C"]);
}

#[test]
fn no_size_is_too_small() {
    let frame = frame();
    for size in [(1, 1), (2, 3), (10, 5), (40, 12), (79, 23), (300, 100)] {
        for table in Table::ALL {
            for is_helping in [false, true] {
                screen(&frame, &mut View { table, is_helping, ..view() }, size);
            }
        }
    }
}

#[test]
fn names_cannot_talk_to_the_terminal() {
    let scope = fixtures::scope("listener", "listener.{}", &["listener"], vec![]);
    let entities = vec![fixtures::entity(&scope, &["a\u{1b}[2Jb"], vec![])];
    let frame = Tracker::default().observe(Duration::ZERO, Snapshot { entities, ..Snapshot::default() });
    assert_shows(&screen(&frame, &mut view(), (120, 24)), &["a_[2Jb"]);
}
