//! JSON: in Envoy's shape for programs that read Envoy's, and in one of our own for the dashboard.

use ouro_shm::{Entity, HistogramValue, Kind, ProcessState, Snapshot, Unit, Value};

use super::text::{QUANTILES_PERCENT, shown_quantile};
use super::{Options, push_number, push_prefix};

/// Quantiles of the dashboard: name and share.
const LIVE_QUANTILES: &[(&str, f64)] = &[("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)];

/// As Envoy answers `/stats?format=json`: counters and gauges, then one element with all histograms.
///
/// Quantiles are of all time (`cumulative`), durations in milliseconds; `interval` is always null.
#[must_use]
pub fn envoy(snapshot: &Snapshot, options: &Options) -> String {
    let mut out = String::from("{\"stats\":[");
    let mut histograms = String::new();
    let (mut prefix, mut scratch, mut name) = (String::new(), String::new(), String::new());
    for entity in &snapshot.entities {
        prefix.clear();
        push_prefix(&mut prefix, entity);
        for (metric, value) in entity.scope.metrics.iter().zip(&entity.values) {
            if !options.shows(&prefix, &metric.name, value, &mut scratch) {
                continue;
            }
            name.clear();
            name.push_str(&prefix);
            name.push('.');
            name.push_str(&metric.name);
            let part = if metric.kind == Kind::Histogram { &mut histograms } else { &mut out };
            comma(part);
            part.push_str("{\"name\":");
            push_string(part, &name);
            match value {
                Value::Counter(number) | Value::Gauge(number) => {
                    part.push_str(",\"value\":");
                    push_number(part, *number);
                }
                Value::Histogram(histogram) => push_envoy_quantiles(part, histogram, metric.unit),
            }
            part.push('}');
        }
    }
    if !histograms.is_empty() {
        comma(&mut out);
        out.push_str("{\"histograms\":{\"supported_quantiles\":[");
        for percent in QUANTILES_PERCENT {
            comma(&mut out);
            push_float(&mut out, Some(*percent));
        }
        out.push_str("],\"computed_quantiles\":[");
        out.push_str(&histograms);
        out.push_str("]}}");
    }
    out.push_str("]}");
    out
}

/// For the dashboard: values by scope, labels and kind; histograms with their buckets, from which a reader can compute
/// the quantiles of any interval. Values of a histogram are in its `unit`.
#[must_use]
pub fn live(snapshot: &Snapshot, options: &Options) -> String {
    let mut out = String::from("{");
    for (name, number) in [
        ("read_at_ms", snapshot.read_at_ms),
        ("first_started_ms", snapshot.first_started_ms),
        ("hot_restart_version", u64::from(snapshot.hot_restart_version)),
        ("layout_version", u64::from(snapshot.layout_version)),
        ("generations", snapshot.generations),
        ("overflows", snapshot.overflows),
    ] {
        push_member(&mut out, name, number);
    }
    out.push_str(if snapshot.is_alive() { ",\"alive\":true" } else { ",\"alive\":false" });
    out.push_str(",\"memory\":{");
    push_member(&mut out, "used", snapshot.memory.0);
    push_member(&mut out, "limit", snapshot.memory.1);
    out.push_str("},\"processes\":[");
    push_processes(&mut out, snapshot);
    out.push_str("],\"entities\":[");
    let (mut prefix, mut scratch) = (String::new(), String::new());
    let mut parts = Parts::default();
    for entity in &snapshot.entities {
        prefix.clear();
        push_prefix(&mut prefix, entity);
        parts.fill(entity, |metric, value| options.shows(&prefix, metric, value, &mut scratch));
        if !parts.is_empty() {
            push_entity(&mut out, entity, &parts);
        }
    }
    out.push_str("]}");
    out
}

/// The name of a state in JSON and on screens.
#[must_use]
pub const fn state_name(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Starting => "starting",
        ProcessState::Serving => "serving",
        ProcessState::Draining => "draining",
        ProcessState::Gone => "gone",
    }
}

/// The members of an entity by kind, used again for each.
#[derive(Default)]
struct Parts {
    counters: String,
    gauges: String,
    histograms: String,
}

impl Parts {
    fn fill(&mut self, entity: &Entity, mut shows: impl FnMut(&str, &Value) -> bool) {
        for part in [&mut self.counters, &mut self.gauges, &mut self.histograms] {
            part.clear();
        }
        for (metric, value) in entity.scope.metrics.iter().zip(&entity.values) {
            if !shows(&metric.name, value) {
                continue;
            }
            match value {
                Value::Counter(number) => push_member(&mut self.counters, &metric.name, *number),
                Value::Gauge(number) => push_member(&mut self.gauges, &metric.name, *number),
                Value::Histogram(histogram) => {
                    push_key(&mut self.histograms, &metric.name);
                    push_live_histogram(&mut self.histograms, histogram, metric.unit);
                }
            }
        }
    }

    const fn is_empty(&self) -> bool {
        self.counters.is_empty() && self.gauges.is_empty() && self.histograms.is_empty()
    }
}

fn push_entity(out: &mut String, entity: &Entity, parts: &Parts) {
    comma(out);
    out.push_str("{\"scope\":");
    push_string(out, &entity.scope.name);
    out.push_str(",\"labels\":{");
    for (name, label) in entity.scope.labels.iter().zip(&entity.labels) {
        push_key(out, name);
        push_string(out, label);
    }
    for (name, part) in
        [("counters", &parts.counters), ("gauges", &parts.gauges), ("histograms", &parts.histograms)]
    {
        out.push_str("},\"");
        out.push_str(name);
        out.push_str("\":{");
        out.push_str(part);
    }
    out.push_str("}}");
}

fn push_processes(out: &mut String, snapshot: &Snapshot) {
    for process in &snapshot.processes {
        comma(out);
        out.push('{');
        push_member(out, "pid", u64::from(process.pid));
        push_member(out, "epoch", u64::from(process.epoch));
        push_member(out, "started_ms", process.started_ms);
        push_member(out, "workers", u64::from(process.workers));
        push_key(out, "state");
        push_string(out, state_name(process.state));
        push_key(out, "version");
        push_string(out, &process.version);
        out.push_str(if process.alive { ",\"alive\":true}" } else { ",\"alive\":false}" });
    }
}

fn push_live_histogram(out: &mut String, histogram: &HistogramValue, unit: Unit) {
    let unit = match unit {
        Unit::Count => "count",
        Unit::Bytes => "bytes",
        Unit::Microseconds => "microseconds",
        Unit::Seconds => "seconds",
    };
    out.push_str("{\"unit\":\"");
    out.push_str(unit);
    out.push('"');
    push_member(out, "count", histogram.count);
    push_member(out, "sum", histogram.sum);
    for (name, share) in LIVE_QUANTILES {
        push_key(out, name);
        push_float(out, histogram.quantile(*share));
    }
    out.push_str(",\"buckets\":[");
    for (bucket, number) in &histogram.buckets {
        comma(out);
        out.push('[');
        push_number(out, u64::from(*bucket));
        out.push(',');
        push_number(out, *number);
        out.push(']');
    }
    out.push_str("]}");
}

fn push_envoy_quantiles(out: &mut String, histogram: &HistogramValue, unit: Unit) {
    out.push_str(",\"values\":[");
    for percent in QUANTILES_PERCENT {
        comma(out);
        out.push_str("{\"interval\":null,\"cumulative\":");
        push_float(out, shown_quantile(histogram, *percent, unit));
        out.push('}');
    }
    out.push(']');
}

/// Separates from what is before, unless that is the beginning of a list or object.
fn comma(out: &mut String) {
    if !out.is_empty() && !out.ends_with(['[', '{', ':']) {
        out.push(',');
    }
}

fn push_member(out: &mut String, name: &str, number: u64) {
    push_key(out, name);
    push_number(out, number);
}

fn push_key(out: &mut String, name: &str) {
    comma(out);
    push_string(out, name);
    out.push(':');
}

fn push_float(out: &mut String, number: Option<f64>) {
    use std::fmt::Write as _;
    match number {
        // Writing into a string cannot fail.
        Some(number) if number.is_finite() => drop(write!(out, "{number}")),
        _ => out.push_str("null"),
    }
}

fn push_string(out: &mut String, text: &str) {
    if text.bytes().all(|byte| (b' '..0x7f).contains(&byte) && byte != b'"' && byte != b'\\') {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // Rare enough to allocate. A string always serialises.
        out.push_str(&serde_json::to_string(text).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::fixtures;
    use super::*;

    fn parse(text: &str) -> serde_json::Value {
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn envoys_shape() {
        let value = parse(&envoy(&fixtures::small(), &Options::default()));
        let stats = value["stats"].as_array().unwrap();
        assert!(stats.contains(&json!({"name": "cluster.api.upstream_rq_total", "value": 1200})));
        let (last, rest) = stats.split_last().unwrap();
        assert!(rest.iter().all(|stat| stat["name"].is_string() && stat["value"].is_u64()));
        let histograms = &last["histograms"];
        assert_eq!(histograms["supported_quantiles"], json!([0, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 100]));
        let computed = histograms["computed_quantiles"].as_array().unwrap();
        let values = |name: &str| {
            computed.iter().find(|histogram| histogram["name"] == name).unwrap()["values"].clone()
        };
        assert_eq!(values("cluster.api.upstream_rq_time")[2], json!({"interval": null, "cumulative": 0.296}));
        let empty = values("cluster.api.upstream_cx_connect_ms");
        assert_eq!(empty.as_array().unwrap().len(), 10);
        assert_eq!(empty[0]["cumulative"], json!(null));
    }

    #[test]
    fn nothing_is_still_json() {
        assert_eq!(envoy(&Snapshot::default(), &Options::default()), "{\"stats\":[]}");
        let value = parse(&live(&Snapshot::default(), &Options::default()));
        assert_eq!(value["entities"], json!([]));
        assert_eq!(value["alive"], json!(false));
    }

    #[test]
    fn the_dashboard_gets_everything() {
        let value = parse(&live(&fixtures::small(), &Options::default()));
        assert_eq!(value["read_at_ms"], json!(1_070_500));
        assert_eq!(value["memory"], json!({"used": 65_536, "limit": 1 << 30}));
        assert_eq!(
            value["processes"][0],
            json!({"pid": 100, "epoch": 1, "started_ms": 1_010_000, "workers": 2, "state": "serving",
                "version": "0.1.0", "alive": true})
        );
        let endpoint = &value["entities"][1];
        assert_eq!(
            *endpoint,
            json!({"scope": "cluster_endpoint", "labels": {"cluster": "api", "endpoint": "127.0.0.1:9000"},
                "counters": {"rq_total": 1200}, "gauges": {"rq_active": 3}, "histograms": {}})
        );
        let time = &value["entities"][2]["histograms"]["downstream_rq_time"];
        assert_eq!((&time["unit"], &time["count"]), (&json!("microseconds"), &json!(3)));
        assert_eq!((&time["sum"], &time["p50"]), (&json!(2610), &json!(592)));
        assert_eq!(time["buckets"], json!([[10, 1], [98, 1], [127, 1]]));
    }

    #[test]
    fn strings_are_escaped() {
        let scope = fixtures::scope("s\n", "s.{}", &["a\"b"], vec![fixtures::counter("n\\")]);
        let entities = vec![fixtures::entity(&scope, &["\"\u{1}ü"], vec![Value::Counter(u64::MAX)])];
        let snapshot = Snapshot { entities, ..Snapshot::default() };
        let value = parse(&live(&snapshot, &Options::default()));
        assert_eq!(value["entities"][0]["labels"]["a\"b"], json!("\"\u{1}ü"));
        assert_eq!(value["entities"][0]["counters"]["n\\"], json!(u64::MAX));
        assert_eq!(parse(&envoy(&snapshot, &Options::default()))["stats"][0]["name"], json!("s.\"_ü.n\\"));
    }

    #[test]
    fn entities_without_anything_to_show_are_left_out() {
        let filter = Some(regex::Regex::new("rq_active").unwrap());
        let value = parse(&live(&fixtures::small(), &Options { filter, used_only: true }));
        assert_eq!(value["entities"].as_array().unwrap().len(), 1);
    }
}
