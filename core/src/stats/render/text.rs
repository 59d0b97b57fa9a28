//! Plain text, as Envoy prints `/stats`.
//!
//! One `name: value` to a line; counters and gauges by name, then histograms by name. Envoy shows two values for each
//! quantile, of the last interval and of all time; here there is no interval, so there is only the second.

use std::fmt::Write as _;
use std::ops::Range;

use ouro_shm::{HistogramValue, Kind, Snapshot, Unit, Value};

use super::{Options, push_number, push_prefix, push_printable};

/// The quantiles of a histogram that are shown, in percent.
pub const QUANTILES_PERCENT: &[f64] = &[0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 100.0];

/// What a line has on average; a guess that saves the buffer from growing often.
const LINE_BYTES: usize = 64;

/// Renders what the options let through.
#[must_use]
pub fn render(snapshot: &Snapshot, options: &Options) -> String {
    let metrics: usize = snapshot.entities.iter().map(|entity| entity.values.len()).sum();
    // All lines in one buffer, sorted by reference: no allocation per line.
    let mut lines = String::with_capacity(metrics * LINE_BYTES);
    let mut order = Vec::with_capacity(metrics);
    let (mut prefix, mut scratch) = (String::new(), String::new());
    for entity in &snapshot.entities {
        prefix.clear();
        push_prefix(&mut prefix, entity);
        for (metric, value) in entity.scope.metrics.iter().zip(&entity.values) {
            if !options.shows(&prefix, &metric.name, value, &mut scratch) {
                continue;
            }
            let start = lines.len();
            lines.push_str(&prefix);
            lines.push('.');
            push_printable(&mut lines, &metric.name);
            let name = start..lines.len();
            lines.push_str(": ");
            push_value(&mut lines, value, metric.unit);
            lines.push('\n');
            order.push(Line { is_histogram: metric.kind == Kind::Histogram, name, end: lines.len() });
        }
    }
    order.sort_unstable_by(|a, b| {
        (a.is_histogram, &lines[a.name.clone()]).cmp(&(b.is_histogram, &lines[b.name.clone()]))
    });
    let mut out = String::with_capacity(lines.len());
    for line in &order {
        out.push_str(&lines[line.name.start..line.end]);
    }
    out
}

/// Appends a value as it stands behind the name.
pub fn push_value(out: &mut String, value: &Value, unit: Unit) {
    match value {
        Value::Counter(number) | Value::Gauge(number) => push_number(out, *number),
        Value::Histogram(histogram) => push_histogram(out, histogram, unit),
    }
}

/// A quantile in the unit in which people read it: milliseconds for durations.
#[must_use]
pub fn shown_quantile(histogram: &HistogramValue, percent: f64, unit: Unit) -> Option<f64> {
    let value = histogram.quantile(percent / 100.0)?;
    Some(if unit == Unit::Microseconds { value / 1000.0 } else { value })
}

struct Line {
    is_histogram: bool,
    name: Range<usize>,
    end: usize,
}

fn push_histogram(out: &mut String, histogram: &HistogramValue, unit: Unit) {
    if histogram.buckets.is_empty() {
        out.push_str("No recorded values");
        return;
    }
    for (n, percent) in QUANTILES_PERCENT.iter().enumerate() {
        let value = shown_quantile(histogram, *percent, unit).unwrap_or(0.0);
        let space = if n == 0 { "" } else { " " };
        // Writing into a string cannot fail.
        let _ = write!(out, "{space}P{percent}({value})");
    }
}

#[cfg(test)]
mod tests {
    use regex::Regex;

    use super::super::fixtures;
    use super::*;

    #[test]
    fn lines_are_sorted_and_histograms_come_last() {
        let text = render(&fixtures::small(), &Options::default());
        let expected = "\
cluster.api.endpoint.127.0.0.1:9000.rq_active: 3
cluster.api.endpoint.127.0.0.1:9000.rq_total: 1200
cluster.api.membership_total: 1
cluster.api.upstream_cx_active: 7
cluster.api.upstream_cx_connect_fail: 0
cluster.api.upstream_rq_2xx: 1190
cluster.api.upstream_rq_503: 10
cluster.api.upstream_rq_total: 1200
http.web.downstream_cx_rx_bytes_total: 98765
http.web.downstream_rq_2xx: 1190
http.web.downstream_rq_5xx: 10
http.web.downstream_rq_total: 1200
listener.web.downstream_cx_active: 5
listener.web.downstream_cx_total: 42
cluster.api.upstream_cx_connect_ms: No recorded values
cluster.api.upstream_rq_time: P0(0.102) P25(0.204) P50(0.296) P75(1.504) P90(999.424) P95(999.424) P99(999.424) P99.5(999.424) P99.9(999.424) P100(999.424)
http.web.downstream_rq_time: P0(0.01) P25(0.01) P50(0.592) P75(2.016) P90(2.016) P95(2.016) P99(2.016) P99.5(2.016) P99.9(2.016) P100(2.016)
";
        let (shown, last) = text.rsplit_once("listener.web.downstream_cx_length_ms").unwrap();
        assert_eq!(shown, expected);
        assert!(last.starts_with(": P0("), "{last}");
    }

    #[test]
    fn the_filter_sees_the_whole_name() {
        let filter = Some(Regex::new("^cluster\\.api\\.upstream_rq_(2xx|time)$").unwrap());
        let text = render(&fixtures::small(), &Options { filter, used_only: false });
        assert_eq!(text.lines().count(), 2);
        assert!(text.starts_with("cluster.api.upstream_rq_2xx: 1190\n"));
    }

    #[test]
    fn unused_metrics_can_be_left_out() {
        let text = render(&fixtures::small(), &Options { filter: None, used_only: true });
        assert!(!text.contains("connect_fail") && !text.contains("connect_ms"));
        assert!(text.contains("upstream_rq_503"));
    }

    #[test]
    fn values_that_are_not_durations_are_shown_as_they_are() {
        let mut out = String::new();
        push_value(&mut out, &fixtures::distribution(&[7, 7, 7]), Unit::Bytes);
        assert!(out.starts_with("P0(7) P25(7)"), "{out}");
    }
}
