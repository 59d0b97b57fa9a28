//! The dashboard in a real browser, headless: values appear, nothing is run that was data, and no error is logged.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ouro_shm::Snapshot;

use super::admin_fake::{EVIL, Fake, traffic};

/// Names under which a browser is found that understands these options.
const BROWSERS: &[&str] = &["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// What the page is after some seconds of its own time, and what the browser said.
struct Shown {
    dom: String,
    console: Vec<String>,
}

/// Lets a browser look at the page; `None`, with a message, where there is no browser.
fn look(fake: &Fake, seconds: u32) -> Option<Shown> {
    let Some(browser) = browser() else {
        eprintln!("skipped: there is none of {BROWSERS:?} in PATH");
        return None;
    };
    let profile = Profile::new();
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-sync",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"])
        .args(["--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--virtual-time-budget={}", seconds * 1000))
        .arg(format!("--user-data-dir={}", profile.0.display()))
        .arg(format!("http://{}/", fake.addr()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let console = said.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
    let dom = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(dom.contains("</html>"), "no page: {dom}\n{said}");
    Some(Shown { dom, console })
}

fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let places =
        std::env::split_paths(&path).flat_map(|place| BROWSERS.iter().map(move |name| place.join(name)));
    places.into_iter().find(|place| place.is_file())
}

/// A folder for the browser, removed afterwards.
struct Profile(PathBuf);

impl Profile {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("ouro-browser-{}-{number}", std::process::id())))
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Path::new(&self.0));
    }
}

/// The text of the page, tags taken out, entities as they are.
fn text(dom: &str) -> String {
    let body = dom.split("<body>").nth(1).unwrap().split("<script").next().unwrap();
    let mut text = String::new();
    for part in body.split('<') {
        text.push_str(part.split_once('>').map_or(part, |(_, text)| text));
        text.push(' ');
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn assert_shows(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not shown:\n{text}");
    }
}

#[test]
fn values_appear_and_names_are_only_text() {
    let fake = Fake::start(traffic);
    let Some(shown) = look(&fake, 6) else { return };
    assert_eq!(shown.console, Vec::<String>::new());
    let text = text(&shown.dom);
    assert_shows(
        &text,
        &[
            "Ouro Live version 0.1.0 · epoch 3 · process 4711",
            "Requests 100/s", // the value in the card
            "2xx 90/s",
            "4xx 7.0/s",
            "5xx 3.0/s",
            "p50 296 µs",
            "p90 2.0 ms",
            "p99 9.0 ms",
            "from clients 42",
            "to endpoints 12",
            "sent 1.0 MiB/s",
            "received 20 KiB/s",
            "connect failures 3.0/s",
            "web 100/s 3.0/s",
            "demo 97/s 3.0/s",
            "4711 (this) serving 3 2 0.1.0",
            "4700 draining 2 2 0.1.0",
            "Statistics hold 1.0 MiB of 1.0 GiB; 4 processes so far.",
        ],
    );
    assert!(shown.dom.contains("&lt;img src=x"), "{EVIL} is shown as it is written");
    assert!(!shown.dom.contains("<img"), "{EVIL} became an element");
}

#[test]
fn counters_that_were_set_back_are_passed_over() {
    let fake = Fake::start(|reading| {
        let second = if reading < 4 { 1000 + reading } else { reading };
        Snapshot { read_at_ms: 3_000_000 + reading * 1000, ..traffic(second) }
    });
    let Some(shown) = look(&fake, 8) else { return };
    assert_eq!(shown.console, Vec::<String>::new());
    let text = text(&shown.dom);
    assert_shows(&text, &["Requests 100/s", "web 100/s"]);
    assert!(!text.contains(" -"), "nothing is negative: {text}");
}

#[test]
fn a_lost_connection_is_said() {
    let fake = Fake::start(|reading| {
        assert!(reading < 3, "no more readings: this fails on purpose");
        traffic(reading)
    });
    let Some(shown) = look(&fake, 8) else { return };
    assert_shows(&text(&shown.dom), &["Unreachable", "There has been no answer for", "the answer was 500"]);
}

#[test]
fn what_the_operator_should_know_is_said() {
    let fake = Fake::start(|reading| Snapshot { overflows: 7, ..traffic(reading) });
    fake.status().set_healthcheck_failed(true);
    let Some(shown) = look(&fake, 3) else { return };
    assert_eq!(shown.console, Vec::<String>::new());
    assert_shows(
        &text(&shown.dom),
        &["Draining", "Health checks are answered with 503 on request", "The segment is full: 7 counters"],
    );
}
