//! Names as Prometheus wants them: what its linter (`promtool check metrics`) complains about does not come out.

use ouro_shm::{Kind, MetricInfo, Unit};

/// Ends of a metric's name that stand for a unit; the base unit takes their place.
const UNIT_ENDS: &[&str] = &["_milliseconds", "_microseconds", "_seconds", "_ms", "_us", "_s"];

/// Ends that mean something else on a metric that is not of the right type.
const RESERVED_ENDS: &[&str] = &["_total", "_count", "_sum", "_bucket"];

/// What a metric becomes.
pub(super) struct Naming<'a> {
    /// Name of the family.
    pub(super) name: String,
    /// A label for what was in the metric's name, or nothing: `response_code="503"`.
    pub(super) label: String,
    pub(super) help: &'a str,
}

/// The family that a metric belongs to.
pub(super) fn family<'a>(scope: &str, metric: &'a MetricInfo) -> Naming<'a> {
    let mut name = String::from("ouro_");
    push_name(&mut name, scope);
    name.push('_');
    let start = name.len();
    let (mut label, mut help) = (String::new(), metric.help.as_str());
    if metric.kind == Kind::Counter
        && let Some((stem, code)) = response_code(&metric.name)
    {
        push_name(&mut name, stem);
        let (end, key, value) = match code.strip_suffix("xx") {
            Some(class) => ("_xx_total", "response_code_class", class),
            None => ("_code_total", "response_code", code),
        };
        name.push_str(end);
        label = format!("{key}=\"{value}\"");
        help =
            if end == "_xx_total" { "Responses by class of their status." } else { "Responses by status." };
    } else {
        push_name(&mut name, &metric.name);
        finish(&mut name, start, metric.kind, metric.unit);
    }
    Naming { name, label, help: if help.is_empty() { "Not described." } else { help } }
}

/// Makes another name of one that is taken.
pub(super) fn make_other(name: &mut String, kind: Kind) {
    let end = if kind == Kind::Counter && name.ends_with("_total") { "_total" } else { "" };
    name.truncate(name.len() - end.len());
    name.push_str("_other");
    name.push_str(end);
}

/// Appends labels as they stand between the braces.
pub(super) fn push_labels(out: &mut String, names: &[String], values: &[String]) {
    for (n, (name, value)) in names.iter().zip(values).enumerate() {
        if n > 0 {
            out.push(',');
        }
        push_name(out, name);
        out.push_str("=\"");
        for letter in value.chars() {
            match letter {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                letter => out.push(letter),
            }
        }
        out.push('"');
    }
}

/// Appends a help text.
pub(super) fn push_help(out: &mut String, help: &str) {
    for letter in help.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            letter => out.push(letter),
        }
    }
}

/// `upstream_rq_503` and `upstream_rq_5xx`, taken apart.
fn response_code(metric: &str) -> Option<(&str, &str)> {
    let (stem, code) = metric.rsplit_once('_')?;
    let [class, rest @ ..] = code.as_bytes() else { return None };
    let is_code = rest == b"xx" || (rest.len() == 2 && rest.iter().all(u8::is_ascii_digit));
    let is_rq = stem.ends_with("_rq") || stem == "rq";
    (is_rq && is_code && (b'1'..=b'5').contains(class)).then_some((stem, code))
}

/// Puts unit and type at the end of a name whose own part begins at `start`.
fn finish(name: &mut String, start: usize, kind: Kind, unit: Unit) {
    if kind == Kind::Counter {
        cut(name, start, &["_total"]);
    } else {
        while cut(name, start, RESERVED_ENDS) {}
    }
    match unit {
        Unit::Count => {}
        Unit::Bytes => {
            if !name.ends_with("bytes") {
                name.push_str("_bytes");
            }
        }
        Unit::Microseconds | Unit::Seconds => {
            cut(name, start, UNIT_ENDS);
            name.push_str("_seconds");
        }
    }
    if kind == Kind::Counter {
        name.push_str("_total");
    }
}

/// Cuts one of the ends off, unless nothing would be left.
fn cut(name: &mut String, start: usize, ends: &[&str]) -> bool {
    let Some(end) = ends.iter().find(|end| name.ends_with(**end)) else { return false };
    let fits = name.len() - end.len() > start;
    if fits {
        name.truncate(name.len() - end.len());
    }
    fits
}

/// Appends what a name may consist of; the rest becomes `_`.
fn push_name(out: &mut String, name: &str) {
    for (n, letter) in name.chars().enumerate() {
        match letter.to_ascii_lowercase() {
            // Only a label can begin with a digit; a name has something before it.
            '0'..='9' if n == 0 && out.ends_with(['{', ',']) => out.push('_'),
            letter @ ('a'..='z' | '0'..='9' | '_') => out.push(letter),
            _ => out.push('_'),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::fixtures::metric;
    use super::*;

    fn named(name: &str, kind: Kind, unit: Unit) -> String {
        let metric = metric(name, kind, unit);
        let naming = family("cluster", &metric);
        let name = naming.name.strip_prefix("ouro_cluster_").unwrap();
        if naming.label.is_empty() { name.to_owned() } else { format!("{name}{{{}}}", naming.label) }
    }

    #[test]
    fn names_end_in_unit_and_type() {
        for (metric, kind, unit, name) in [
            ("upstream_rq_total", Kind::Counter, Unit::Count, "upstream_rq_total"),
            ("upstream_rq_retry", Kind::Counter, Unit::Count, "upstream_rq_retry_total"),
            ("upstream_cx_rx_bytes_total", Kind::Counter, Unit::Bytes, "upstream_cx_rx_bytes_total"),
            ("memory", Kind::Gauge, Unit::Bytes, "memory_bytes"),
            ("membership_total", Kind::Gauge, Unit::Count, "membership"),
            ("total", Kind::Gauge, Unit::Count, "total"),
            ("upstream_cx_connect_ms", Kind::Histogram, Unit::Microseconds, "upstream_cx_connect_seconds"),
            ("upstream_rq_time", Kind::Histogram, Unit::Microseconds, "upstream_rq_time_seconds"),
            ("initialization_time_ms", Kind::Histogram, Unit::Microseconds, "initialization_time_seconds"),
            ("uptime", Kind::Gauge, Unit::Seconds, "uptime_seconds"),
            ("waited_ms_total", Kind::Counter, Unit::Microseconds, "waited_seconds_total"),
            ("protocol_error.head", Kind::Counter, Unit::Count, "protocol_error_head_total"),
            ("Ünder-Score", Kind::Gauge, Unit::Count, "_nder_score"),
        ] {
            assert_eq!(named(metric, kind, unit), name, "{metric}");
        }
    }

    #[test]
    fn codes_become_labels() {
        for (metric, name) in [
            ("upstream_rq_2xx", "upstream_rq_xx_total{response_code_class=\"2\"}"),
            ("rq_5xx", "rq_xx_total{response_code_class=\"5\"}"),
            ("upstream_rq_503", "upstream_rq_code_total{response_code=\"503\"}"),
            ("upstream_rq_6xx", "upstream_rq_6xx_total"),
            ("upstream_rq_50", "upstream_rq_50_total"),
            ("port_503", "port_503_total"),
        ] {
            assert_eq!(named(metric, Kind::Counter, Unit::Count), name);
        }
    }

    #[test]
    fn labels_and_help_are_escaped() {
        let mut out = String::new();
        push_labels(&mut out, &["a-b".to_owned(), "c".to_owned()], &["x\"\\\n".to_owned(), "ü".to_owned()]);
        assert_eq!(out, "a_b=\"x\\\"\\\\\\n\",c=\"ü\"");
        let mut out = String::new();
        push_help(&mut out, "a\\b\n\"c\"");
        assert_eq!(out, "a\\\\b\\n\"c\"");
    }

    #[test]
    fn a_taken_name_gets_an_addition() {
        let mut name = "ouro_a_total".to_owned();
        make_other(&mut name, Kind::Counter);
        assert_eq!(name, "ouro_a_other_total");
    }
}
