//! What this process is: readiness, identity, listeners, and the page that a browser shows.

use std::fmt::Write;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use ouro_shm::{HOT_RESTART_VERSION, LAYOUT_VERSION, Snapshot};
use serde_json::{Map, Value, json};

use super::commands::Parameters;
use super::paths::{AppState, Refusal, json, page, text};
use super::{AdminState, Stage};
use crate::config::model::Address;

/// The dashboard. [`NONCE`] stands where the nonce of a response goes.
const DASHBOARD: &str = include_str!("dashboard.html");

const NONCE: &str = "{{nonce}}";

pub(super) async fn dashboard() -> Response {
    let nonce = nonce();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [(CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (CONTENT_SECURITY_POLICY, policy)];
    (headers, DASHBOARD.replace(NONCE, &nonce)).into_response()
}

pub(super) async fn ready(State(app): AppState) -> Response {
    let status = &app.admin.status;
    let stage = status.shown();
    if stage == Stage::Live {
        return text("LIVE\n");
    }
    let why = if status.is_healthcheck_failed() { "healthcheck/fail is in effect\n" } else { "" };
    (StatusCode::SERVICE_UNAVAILABLE, text(format!("{}\n{why}", stage.name()))).into_response()
}

pub(super) async fn hot_restart_version() -> Response {
    text(version() + "\n")
}

pub(super) async fn server_info(State(app): AppState) -> Result<Response, Refusal> {
    Ok(json(&page(&app, describe).await?))
}

pub(super) async fn listeners(State(app): AppState, Query(query): Parameters) -> Result<Response, Refusal> {
    let listeners = &app.admin.listeners;
    if wants_json(&query)? {
        let list: Vec<Value> = listeners
            .iter()
            .map(|listener| {
                json!({
                    "name": listener.name,
                    "local_address": address_json(&listener.address),
                    "protocol": listener.protocol,
                    "workers": listener.workers,
                })
            })
            .collect();
        return Ok(json(&json!({ "listener_statuses": list })));
    }
    let mut lines = String::new();
    for listener in listeners {
        let _ = writeln!(lines, "{}::{}", listener.name, address_text(&listener.address));
    }
    Ok(text(lines))
}

/// Whether `?format=` asks for JSON; text otherwise.
pub(super) fn wants_json(query: &std::collections::HashMap<String, String>) -> Result<bool, Refusal> {
    match query.get("format").map(String::as_str) {
        None | Some("text") => Ok(false),
        Some("json") => Ok(true),
        Some(other) => Err(Refusal(
            StatusCode::BAD_REQUEST,
            format!("There is no format {other:?}; there are text and json."),
        )),
    }
}

/// The state of this process as the dashboard needs it, beside the statistics.
pub(super) fn brief(admin: &AdminState) -> Value {
    json!({
        "state": admin.status.shown().name(),
        "healthcheck_failed": admin.status.is_healthcheck_failed(),
        "pid": admin.process.pid,
        "epoch": admin.process.epoch,
        "version": admin.process.version,
        "workers": admin.process.workers,
        "started_ms": unix_ms(admin.process.started.1),
        "uptime_ms": ms(admin.process.started.0.elapsed()),
    })
}

/// An address as users write it.
pub(super) fn address_text(address: &Address) -> String {
    match address {
        Address::Ip(address) => address.to_string(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// An address in Envoy's form.
pub(super) fn address_json(address: &Address) -> Value {
    match address {
        Address::Ip(address) => {
            json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
        }
        Address::Unix(path) => json!({ "pipe": { "path": path.display().to_string() } }),
    }
}

fn describe(admin: &AdminState, snapshot: &Snapshot) -> Value {
    let process = &admin.process;
    let own = process.started.0.elapsed();
    // A clock that was set back must not make the instance younger than this process.
    let all = match snapshot.first_started_ms {
        0 => own,
        first => own.max(Duration::from_millis(unix_ms(SystemTime::now()).saturating_sub(first))),
    };
    let options: Map<_, _> =
        process.options.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let capabilities: Map<_, _> =
        process.capabilities.iter().map(|(name, has)| ((*name).to_owned(), (*has).into())).collect();
    json!({
        "version": process.version,
        "state": admin.status.shown().name(),
        "healthcheck_failed": admin.status.is_healthcheck_failed(),
        "uptime_current_epoch": format!("{}s", own.as_secs()),
        "uptime_all_epochs": format!("{}s", all.as_secs()),
        "hot_restart_version": version(),
        "pid": process.pid,
        "epoch": process.epoch,
        "generations": snapshot.generations,
        "workers": process.workers,
        "engine": process.engine,
        "kernel": process.kernel,
        "capabilities": capabilities,
        "command_line": process.command_line,
        "command_line_options": options,
    })
}

/// Both must agree for one process to restart into another.
fn version() -> String {
    format!("{HOT_RESTART_VERSION}.{LAYOUT_VERSION}")
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, ms)
}

/// Text that nobody can guess: the hash of a counter under keys that the system's random source has filled.
fn nonce() -> String {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    KEYS.iter().fold(String::new(), |mut nonce, keys| {
        let mut hasher = keys.build_hasher();
        hasher.write_u64(count);
        let _ = write!(nonce, "{:016x}", hasher.finish());
        nonce
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_comes_once_and_stands_where_the_page_wants_it() {
        assert_ne!(nonce(), nonce());
        assert_eq!(DASHBOARD.matches(NONCE).count(), 2, "one for the style, one for the script");
    }
}
