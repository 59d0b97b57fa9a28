//! `/stats` and its kin.

use std::collections::HashMap;
use std::fmt::Write;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use ouro_shm::{Snapshot, Value as Counted};
use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use super::commands::Parameters;
use super::info;
use super::paths::{App, AppState, Refusal, page};

/// Memory of a compiled filter, bytes; one that needs more is a mistake or an attack.
const MAX_FILTER_BYTES: usize = 1024 * 1024;

/// How statistics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Json,
    Prometheus,
}

impl Format {
    const fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/json",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

pub(super) async fn stats(State(app): AppState, Query(query): Parameters) -> Result<Response, Refusal> {
    let format = match query.get("format").map(String::as_str) {
        None | Some("text") => Format::Text,
        Some("json") => Format::Json,
        Some("prometheus") => Format::Prometheus,
        Some(other) => {
            let reason = format!("There is no format {other:?}; there are text, json and prometheus.");
            return Err(Refusal(StatusCode::BAD_REQUEST, reason));
        }
    };
    respond(&app, format, &query).await
}

pub(super) async fn prometheus(State(app): AppState, Query(query): Parameters) -> Result<Response, Refusal> {
    respond(&app, Format::Prometheus, &query).await
}

pub(super) async fn live(State(app): AppState) -> Result<Response, Refusal> {
    let body = page(&app, |admin, snapshot| {
        format!("{{\"server\":{},\"live\":{}}}", info::brief(admin), live_json(snapshot))
    });
    Ok(([(CONTENT_TYPE, "application/json")], body.await?).into_response())
}

async fn respond(app: &App, format: Format, query: &HashMap<String, String>) -> Result<Response, Refusal> {
    let filter = query.get("filter").filter(|text| !text.is_empty()).map(|text| compile(text)).transpose()?;
    let used_only = query.contains_key("usedonly");
    let body =
        page(app, move |_, snapshot| render_stats(snapshot, format, filter.as_ref(), used_only)).await?;
    Ok(([(CONTENT_TYPE, format.content_type())], body).into_response())
}

fn compile(text: &str) -> Result<Regex, Refusal> {
    // Bytes rather than characters: names are ASCII.
    RegexBuilder::new(text).unicode(false).size_limit(MAX_FILTER_BYTES).build().map_err(|error| {
        Refusal(StatusCode::BAD_REQUEST, format!("filter={text} is not a regular expression: {error}"))
    })
}

fn render_stats(snapshot: &Snapshot, format: Format, filter: Option<&Regex>, used_only: bool) -> String {
    let mut lines = String::new();
    for entity in &snapshot.entities {
        let base =
            entity.labels.iter().fold(entity.scope.text.clone(), |text, label| text.replacen("{}", label, 1));
        for (metric, value) in entity.scope.metrics.iter().zip(&entity.values) {
            let (Counted::Counter(n) | Counted::Gauge(n)) = value else { continue };
            let name = format!("{base}.{}", metric.name);
            if (used_only && *n == 0) || filter.is_some_and(|filter| !filter.is_match(name.as_bytes())) {
                continue;
            }
            let _ = writeln!(lines, "{name}: {n}");
        }
    }
    if format == Format::Json { json!({ "stats": lines }).to_string() } else { lines }
}

fn live_json(snapshot: &Snapshot) -> String {
    let processes: Vec<Value> = snapshot
        .processes
        .iter()
        .map(|p| json!({"pid": p.pid, "epoch": p.epoch, "started_ms": p.started_ms, "state": format!("{:?}", p.state),
            "workers": p.workers, "alive": p.alive, "version": p.version}))
        .collect();
    let entities: Vec<Value> = snapshot
        .entities
        .iter()
        .map(|entity| {
            let values: Map<String, Value> = entity
                .scope
                .metrics
                .iter()
                .zip(&entity.values)
                .filter_map(|(metric, value)| {
                    let value = match value {
                        Counted::Counter(0) | Counted::Gauge(0) => return None,
                        Counted::Counter(n) | Counted::Gauge(n) => json!(n),
                        Counted::Histogram(h) => {
                            json!({"count": h.count, "sum": h.sum, "buckets": h.buckets})
                        }
                    };
                    Some((metric.name.clone(), value))
                })
                .collect();
            json!({"scope": entity.scope.name, "labels": entity.labels, "values": values})
        })
        .collect();
    json!({"read_at_ms": snapshot.read_at_ms, "first_started_ms": snapshot.first_started_ms,
        "generations": snapshot.generations, "overflows": snapshot.overflows, "memory": [snapshot.memory.0, snapshot.memory.1],
        "processes": processes, "entities": entities})
    .to_string()
}
