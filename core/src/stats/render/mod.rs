//! From a snapshot of the segment to what people and programs read: text, JSON, Prometheus exposition.
//!
//! The admin interface and the reader outside (`ouro stats`) call the same functions on the same kind of snapshot, so
//! they agree. A snapshot describes its scopes itself: nothing here knows which metrics there are, with the exception
//! of [`server`].
//!
//! Knows nothing of segments, processes or sockets.

pub mod json;
pub mod prometheus;
pub mod server;
pub mod text;

#[cfg(test)]
pub(crate) mod fixtures;

use ouro_shm::{Entity, Value};
use regex::Regex;

/// What is shown of a snapshot.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only metrics whose full name in plain text (`cluster.api.upstream_rq_total`) matches.
    pub filter: Option<Regex>,
    /// Leave out counters that are 0 and histograms without values.
    pub used_only: bool,
}

impl Options {
    /// Whether a metric is shown. `prefix` is what [`push_prefix`] made of the entity; `name` is scratch space.
    #[must_use]
    pub fn shows(&self, prefix: &str, metric: &str, value: &Value, name: &mut String) -> bool {
        if self.used_only && !is_used(value) {
            return false;
        }
        let Some(filter) = &self.filter else { return true };
        name.clear();
        name.push_str(prefix);
        name.push('.');
        push_printable(name, metric);
        filter.is_match(name)
    }
}

/// Appends the name that an entity has in plain text: the template of its scope with the labels filled in.
///
/// Control characters become `_`: a name must not be able to add a line to the output, nor to talk to a terminal.
pub fn push_prefix(out: &mut String, entity: &Entity) {
    let mut parts = entity.scope.text.split("{}");
    push_printable(out, parts.next().unwrap_or_default());
    let mut labels = entity.labels.iter();
    for part in parts {
        push_printable(out, labels.next().map_or("", String::as_str));
        push_printable(out, part);
    }
}

/// Appends text with its control characters replaced by `_`.
pub fn push_printable(out: &mut String, text: &str) {
    if text.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
        out.push_str(text);
    } else {
        out.extend(text.chars().map(|letter| if letter.is_control() { '_' } else { letter }));
    }
}

fn is_used(value: &Value) -> bool {
    match value {
        Value::Counter(value) => *value > 0,
        Value::Gauge(_) => true,
        Value::Histogram(histogram) => histogram.count > 0 || !histogram.buckets.is_empty(),
    }
}

/// Appends a whole number.
fn push_number(out: &mut String, number: u64) {
    out.push_str(itoa::Buffer::new().format(number));
}

#[cfg(test)]
mod tests {
    use super::fixtures::{counter, entity, scope};
    use super::*;

    fn prefix(text: &str, labels: &[&str]) -> String {
        let scope = scope("s", text, &vec!["l"; labels.len()], vec![counter("n")]);
        let mut out = String::new();
        push_prefix(&mut out, &entity(&scope, labels, vec![Value::Counter(1)]));
        out
    }

    #[test]
    fn labels_fill_the_template_in_their_order() {
        assert_eq!(prefix("server", &[]), "server");
        assert_eq!(prefix("cluster.{}", &["api"]), "cluster.api");
        assert_eq!(prefix("cluster.{}.endpoint.{}", &["api", "[::1]:80"]), "cluster.api.endpoint.[::1]:80");
        assert_eq!(prefix("a.{}.{}", &["only"]), "a.only.");
        assert_eq!(prefix("a.{}", &["{}"]), "a.{}");
    }

    #[test]
    fn a_label_cannot_add_lines_or_talk_to_the_terminal() {
        assert_eq!(prefix("cluster.{}", &["a\nb\u{1b}[2Jü"]), "cluster.a_b_[2Jü");
    }

    #[test]
    fn options_leave_out_what_nobody_asked_for() {
        let options = Options { filter: Some(Regex::new("^a\\.n$").unwrap()), used_only: true };
        let shows = |metric: &str, value| options.shows("a", metric, &value, &mut String::new());
        assert!(shows("n", Value::Counter(1)));
        assert!(!shows("n", Value::Counter(0)));
        assert!(shows("n", Value::Gauge(0)));
        assert!(!shows("n", Value::Histogram(ouro_shm::HistogramValue::default())));
        assert!(!shows("m", Value::Counter(1)));
    }
}
