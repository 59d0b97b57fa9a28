//! `ouro stats --watch`: what changes.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime};

use ouro_shm::{Kind, Snapshot, Unit, Value};

use super::print;
use crate::cli::rates::{Index, growth, histogram_growth, per_second};
use crate::cli::reader::Reader;
use crate::cli::signals::Signals;
use crate::stats::render::text::shown_quantile;
use crate::stats::render::{Options, push_prefix, push_printable, server};

/// Watches until a signal comes or nobody reads the output; returns the exit code.
pub(super) fn run(reader: &Reader, options: &Options, interval: Duration) -> u8 {
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => return super::super::fail(&format!("cannot wait for signals: {error}")),
    };
    // The first reading must succeed: nobody wants to watch an instance that there never was.
    let mut before = match read(reader) {
        Ok(snapshot) => snapshot,
        Err(error) => return super::super::fail(&error),
    };
    let mut said_nobody = false;
    let mut read_at = Instant::now();
    while signals.wait(interval, &std::io::stdout()) {
        let mut block = String::new();
        match read(reader) {
            Ok(now) => {
                let elapsed = read_at.elapsed();
                read_at = Instant::now();
                if !now.is_alive() && !said_nobody {
                    eprintln!("ouro: {}", reader.nobody());
                }
                said_nobody = !now.is_alive();
                block = head(SystemTime::now(), elapsed, now.is_alive());
                changes(&mut block, &before, &now, elapsed, options);
                before = now;
            }
            // It may come back: a new process makes a new segment.
            Err(error) => _ = writeln!(block, "# {error}"),
        }
        match print(&block) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return super::super::fail(&format!("cannot write: {error}")),
        }
    }
    super::super::DONE
}

fn read(reader: &Reader) -> Result<Snapshot, String> {
    let mut snapshot = reader.read()?;
    server::add(&mut snapshot);
    Ok(snapshot)
}

fn head(time: SystemTime, elapsed: Duration, is_alive: bool) -> String {
    let time = humantime::format_rfc3339_seconds(time);
    let nobody = if is_alive { "" } else { ", nobody is alive" };
    format!("# {time}, {:.1} s{nobody}\n", elapsed.as_secs_f64())
}

/// Appends a line for each metric that has changed, sorted by name.
fn changes(out: &mut String, before: &Snapshot, now: &Snapshot, elapsed: Duration, options: &Options) {
    let index = Index::new(&before.entities);
    let (mut lines, mut prefix, mut scratch) = (Vec::new(), String::new(), String::new());
    for entity in &now.entities {
        prefix.clear();
        push_prefix(&mut prefix, entity);
        let old = index.find(entity);
        for (metric, value) in entity.scope.metrics.iter().zip(&entity.values) {
            // A gauge of seconds is a clock: that it goes on is no news.
            let is_clock = metric.kind == Kind::Gauge && metric.unit == Unit::Seconds;
            let old = old.and_then(|old| old.value(&metric.name));
            let Some(change) = change(old, value, metric.unit, elapsed) else { continue };
            if is_clock || !options.shows(&prefix, &metric.name, value, &mut scratch) {
                continue;
            }
            let mut line = format!("{prefix}.");
            push_printable(&mut line, &metric.name);
            line.push_str(": ");
            line.push_str(&change);
            line.push('\n');
            lines.push(line);
        }
    }
    lines.sort_unstable();
    out.extend(lines);
}

/// What a value has become, and by how much it changed; `None` if it did not.
fn change(before: Option<&Value>, now: &Value, unit: Unit, elapsed: Duration) -> Option<String> {
    match now {
        Value::Counter(now) => {
            let before = if let Some(Value::Counter(before)) = before { *before } else { 0 };
            let grown = growth(before, *now);
            (*now != before).then(|| format!("{now} (+{grown}, {:.1}/s)", per_second(grown, elapsed)))
        }
        Value::Gauge(now) => {
            let before = if let Some(Value::Gauge(before)) = before { *before } else { 0 };
            let change = i128::from(*now) - i128::from(before);
            (change != 0).then(|| format!("{now} ({change:+})"))
        }
        Value::Histogram(now) => {
            let grown = match before {
                Some(Value::Histogram(before)) => histogram_growth(before, now),
                _ => now.clone(),
            };
            let quantile = |percent| shown_quantile(&grown, percent, unit).unwrap_or(0.0);
            (grown.count > 0).then(|| {
                let rate = per_second(grown.count, elapsed);
                let (p50, p99) = (quantile(50.0), quantile(99.0));
                format!("{} values (+{}, {rate:.1}/s) P50({p50}) P99({p99})", now.count, grown.count)
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::render::fixtures;

    fn set(snapshot: &mut Snapshot, scope: &str, metric: &str, value: Value) {
        let entity = snapshot.entities.iter_mut().find(|entity| entity.scope.name == scope).unwrap();
        let position = entity.scope.metrics.iter().position(|info| info.name == metric).unwrap();
        entity.values[position] = value;
    }

    fn changed(edit: impl Fn(&mut Snapshot), options: &Options) -> String {
        let before = fixtures::small();
        let mut now = before.clone();
        edit(&mut now);
        let mut out = String::new();
        changes(&mut out, &before, &now, Duration::from_secs(2), options);
        out
    }

    #[test]
    fn only_what_changed_is_said() {
        let edit = |now: &mut Snapshot| {
            set(now, "cluster", "upstream_rq_total", Value::Counter(1300));
            set(now, "cluster", "upstream_cx_active", Value::Gauge(2));
            set(now, "cluster", "upstream_cx_connect_ms", fixtures::distribution(&[1, 2, 3]));
            set(now, "http", "downstream_rq_2xx", Value::Counter(4));
        };
        assert_eq!(
            changed(edit, &Options::default()),
            "cluster.api.upstream_cx_active: 2 (-5)\n\
             cluster.api.upstream_cx_connect_ms: 3 values (+3, 1.5/s) P50(0.002) P99(0.003)\n\
             cluster.api.upstream_rq_total: 1300 (+100, 50.0/s)\n\
             http.web.downstream_rq_2xx: 4 (+4, 2.0/s)\n"
        );
        let filter = Some(regex::Regex::new("_active").unwrap());
        assert_eq!(changed(edit, &Options { filter, used_only: false }).lines().count(), 1);
        assert_eq!(changed(|_| (), &Options::default()), "");
    }

    #[test]
    fn a_counter_set_to_0_is_a_change() {
        let edit = |now: &mut Snapshot| set(now, "cluster", "upstream_rq_total", Value::Counter(0));
        assert_eq!(changed(edit, &Options::default()), "cluster.api.upstream_rq_total: 0 (+0, 0.0/s)\n");
    }

    #[test]
    fn the_clock_is_no_news() {
        let mut before = fixtures::small();
        let mut now = before.clone();
        now.read_at_ms += 1000;
        server::add(&mut before);
        server::add(&mut now);
        let mut out = String::new();
        changes(&mut out, &before, &now, Duration::from_secs(1), &Options::default());
        assert_eq!(out, "");
    }

    #[test]
    fn the_head_says_when_nobody_is_alive() {
        let text = head(SystemTime::UNIX_EPOCH, Duration::from_millis(1040), false);
        assert_eq!(text, "# 1970-01-01T00:00:00Z, 1.0 s, nobody is alive\n");
    }
}
