//! Prometheus exposition, text format 0.0.4.
//!
//! `ouro_cluster_upstream_rq_total{cluster="api"}`: the scope becomes part of the name, its labels become labels. Codes
//! and classes of responses become labels too, durations become seconds. The output is well-formed whatever the metrics are called, and
//! `promtool check metrics` has nothing to say against names of Envoy's kind.
//!
//! The format wants all samples of a family together, and the snapshot has all metrics of an entity together, so this
//! walks the entities once per family. Nothing is allocated per line.

mod histograms;
mod names;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use ouro_shm::{Entity, Kind, ScopeInfo, Snapshot, Unit, Value};

use self::histograms::Bounds;
use self::names::Naming;
use super::{Options, push_number, push_prefix};

/// Media type of what [`render`] makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a line has on average; a guess that saves the buffer from growing often.
const LINE_BYTES: usize = 88;

/// Renders what the options let through.
#[must_use]
pub fn render(snapshot: &Snapshot, options: &Options) -> String {
    let groups = Groups::new(&snapshot.entities);
    let families = families(&groups);
    let lines: usize = families.iter().map(|family| family.lines(&groups)).sum();
    let mut out = String::with_capacity(lines * LINE_BYTES);
    let (mut head, mut scratch) = (String::new(), String::new());
    for family in &families {
        let mut is_announced = false;
        for source in &family.sources {
            let group = &groups.list[source.group];
            for row in &group.rows {
                let Some(value) = row.entity.values.get(source.position) else { continue };
                let prefix = &groups.text[row.prefix.clone()];
                if !options.shows(prefix, &group.scope.metrics[source.position].name, value, &mut scratch) {
                    continue;
                }
                if !is_announced {
                    family.announce(&mut out);
                    is_announced = true;
                }
                let labels = &groups.text[row.labels.clone()];
                match (value, &family.bounds) {
                    (Value::Histogram(histogram), Some(bounds)) => {
                        bounds.push(&mut out, &mut head, &family.name, labels, histogram);
                    }
                    (Value::Counter(number) | Value::Gauge(number), None) => {
                        out.push_str(&family.name);
                        push_labels(&mut out, labels, &source.label);
                        out.push(' ');
                        push_scaled(&mut out, *number, family.unit);
                        out.push('\n');
                    }
                    // A value that is not of the kind that its scope declares.
                    _ => {}
                }
            }
        }
    }
    out
}

/// Entities by scope, with their labels and names as text.
struct Groups<'a> {
    list: Vec<Group<'a>>,
    /// All labels and prefixes, one behind the other.
    text: String,
}

/// Entities of one scope in one version: processes of different versions may declare it differently.
struct Group<'a> {
    scope: &'a Arc<ScopeInfo>,
    rows: Vec<Row<'a>>,
}

struct Row<'a> {
    entity: &'a Entity,
    /// Where in [`Groups::text`] its labels are: `cluster="api"`.
    labels: Range<usize>,
    /// Where in [`Groups::text`] its name in plain text is.
    prefix: Range<usize>,
}

impl<'a> Groups<'a> {
    fn new(entities: &'a [Entity]) -> Self {
        let mut groups = Self { list: Vec::new(), text: String::new() };
        let mut places: HashMap<*const ScopeInfo, usize> = HashMap::new();
        for entity in entities {
            let place = *places.entry(Arc::as_ptr(&entity.scope)).or_insert_with(|| {
                groups.list.push(Group { scope: &entity.scope, rows: Vec::new() });
                groups.list.len() - 1
            });
            let start = groups.text.len();
            names::push_labels(&mut groups.text, &entity.scope.labels, &entity.labels);
            let middle = groups.text.len();
            push_prefix(&mut groups.text, entity);
            let row = Row { entity, labels: start..middle, prefix: middle..groups.text.len() };
            groups.list[place].rows.push(row);
        }
        groups
    }
}

/// What has a name, a type and a help text in the output.
struct Family<'a> {
    name: String,
    kind: Kind,
    unit: Unit,
    help: &'a str,
    bounds: Option<Bounds>,
    sources: Vec<Source>,
}

/// Where samples of a family come from.
struct Source {
    group: usize,
    position: usize,
    /// A label that the metric's name became, or nothing.
    label: String,
}

impl Family<'_> {
    fn announce(&self, out: &mut String) {
        let kind = match self.kind {
            Kind::Counter => " counter\n",
            Kind::Gauge => " gauge\n",
            Kind::Histogram => " histogram\n",
        };
        out.push_str("# HELP ");
        out.push_str(&self.name);
        out.push(' ');
        names::push_help(out, self.help);
        out.push_str("\n# TYPE ");
        out.push_str(&self.name);
        out.push_str(kind);
    }

    fn lines(&self, groups: &Groups<'_>) -> usize {
        let rows: usize = self.sources.iter().map(|source| groups.list[source.group].rows.len()).sum();
        2 + rows * self.bounds.as_ref().map_or(1, Bounds::lines)
    }
}

/// The families in the order in which the scopes declare them.
fn families<'a>(groups: &Groups<'a>) -> Vec<Family<'a>> {
    let mut families: Vec<Family<'a>> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (number, group) in groups.list.iter().enumerate() {
        for (position, metric) in group.scope.metrics.iter().enumerate() {
            let Naming { mut name, label, help } = names::family(&group.scope.name, metric);
            // Two metrics whose names differ only in what the format does not allow, or in their kind.
            while let Some(place) = places.get(&name) {
                let family = &families[*place];
                let same_place = |source: &Source| source.group == number && source.label == label;
                let is_same = family.kind == metric.kind
                    && family.unit == metric.unit
                    && !family.sources.iter().any(same_place);
                if is_same {
                    break;
                }
                names::make_other(&mut name, metric.kind);
            }
            let place = *places.entry(name).or_insert_with_key(|name| {
                let bounds = (metric.kind == Kind::Histogram).then(|| Bounds::new(metric.unit));
                let (name, kind, unit) = (name.clone(), metric.kind, metric.unit);
                families.push(Family { name, kind, unit, help, bounds, sources: Vec::new() });
                families.len() - 1
            });
            families[place].sources.push(Source { group: number, position, label });
        }
    }
    families
}

fn push_labels(out: &mut String, labels: &str, more: &str) {
    if labels.is_empty() && more.is_empty() {
        return;
    }
    out.push('{');
    out.push_str(labels);
    if !labels.is_empty() && !more.is_empty() {
        out.push(',');
    }
    out.push_str(more);
    out.push('}');
}

/// Appends a value in the base unit, exactly.
fn push_scaled(out: &mut String, number: u64, unit: Unit) {
    if unit != Unit::Microseconds {
        return push_number(out, number);
    }
    push_number(out, number / 1_000_000);
    let fraction = number % 1_000_000;
    if fraction > 0 {
        out.push('.');
        // A one in front keeps the zeros.
        out.push_str(&itoa::Buffer::new().format(1_000_000 + fraction)[1..]);
    }
}

#[cfg(test)]
mod tests;
