//! `/stats` and its kin.

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use regex::{Regex, RegexBuilder};
use std::collections::HashMap;

use super::commands::Parameters;
use super::info;
use super::paths::{App, AppState, Refusal, page};
use crate::stats::render::{self, Options};

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
            Self::Prometheus => render::prometheus::CONTENT_TYPE,
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
        // What is zero is left out: with thousands of clusters most counters are, and this is read every second.
        let live = render::json::live(snapshot, &Options { filter: None, used_only: true });
        format!("{{\"server\":{},\"live\":{live}}}", info::brief(admin))
    });
    Ok(([(CONTENT_TYPE, "application/json")], body.await?).into_response())
}

async fn respond(app: &App, format: Format, query: &HashMap<String, String>) -> Result<Response, Refusal> {
    let filter = query.get("filter").filter(|text| !text.is_empty()).map(|text| compile(text)).transpose()?;
    let options = Options { filter, used_only: query.contains_key("usedonly") };
    let body = page(app, move |_, snapshot| match format {
        Format::Text => render::text::render(snapshot, &options),
        Format::Json => render::json::envoy(snapshot, &options),
        Format::Prometheus => render::prometheus::render(snapshot, &options),
    });
    Ok(([(CONTENT_TYPE, format.content_type())], body.await?).into_response())
}

fn compile(text: &str) -> Result<Regex, Refusal> {
    RegexBuilder::new(text).size_limit(MAX_FILTER_BYTES).build().map_err(|error| {
        Refusal(StatusCode::BAD_REQUEST, format!("filter={text} is not a regular expression: {error}"))
    })
}
