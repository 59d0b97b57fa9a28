//! The paths that change state. Each passes a command on and says how it went.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tracing::level_filters::LevelFilter;

use super::paths::{App, AppState, Refusal, text};
use super::{Command, Done};

/// How long a command may take before the client is told that it still goes on.
const PATIENCE: Duration = Duration::from_secs(10);

const LEVELS: &str = "trace, debug, info, warning, error, off";

pub(super) type Parameters = Query<HashMap<String, String>>;

pub(super) async fn drain_listeners(
    State(app): AppState,
    Query(query): Parameters,
) -> Result<Response, Refusal> {
    let graceful = query.contains_key("graceful");
    tracing::warn!(graceful, "the admin interface asks to drain listeners");
    carry_out(&app, |done| Command::DrainListeners { graceful, done }).await
}

pub(super) async fn healthcheck_fail(State(app): AppState) -> Result<Response, Refusal> {
    healthcheck(&app, true)
}

pub(super) async fn healthcheck_ok(State(app): AppState) -> Result<Response, Refusal> {
    healthcheck(&app, false)
}

pub(super) async fn reset_counters(State(app): AppState) -> Result<Response, Refusal> {
    tracing::warn!("the admin interface asks to reset counters");
    carry_out(&app, |done| Command::ResetCounters { done }).await
}

pub(super) async fn quit(State(app): AppState) -> Result<Response, Refusal> {
    tracing::warn!("the admin interface asks to quit");
    send(&app, Command::Quit)?;
    Ok(text("OK\n"))
}

pub(super) async fn show_logging() -> Response {
    text(level_in_effect())
}

pub(super) async fn set_logging(State(app): AppState, Query(query): Parameters) -> Result<Response, Refusal> {
    let bad = |reason| Refusal::new(StatusCode::BAD_REQUEST, reason);
    let Some(name) = query.get("level") else { return Err(bad(format!("Say ?level=, one of {LEVELS}."))) };
    let level = level(name).ok_or_else(|| bad(format!("There is no level {name:?}; there are {LEVELS}.")))?;
    carry_out(&app, |done| Command::SetLogLevel { level, done }).await?;
    Ok(text(level_in_effect()))
}

fn healthcheck(app: &App, fail: bool) -> Result<Response, Refusal> {
    send(app, if fail { Command::HealthcheckFail } else { Command::HealthcheckOk })?;
    app.admin.status.set_healthcheck_failed(fail);
    tracing::warn!(fail, "the admin interface has changed the answer to health checks");
    Ok(text("OK\n"))
}

/// Passes a command on and waits for its end.
async fn carry_out(app: &App, command: impl FnOnce(Done) -> Command) -> Result<Response, Refusal> {
    let (done, answer) = oneshot::channel();
    send(app, command(done))?;
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(Ok(()))) => Ok(text("OK\n")),
        Ok(Ok(Err(reason))) => Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, reason)),
        Ok(Err(_)) => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "The process is ending.")),
        Err(_) => {
            Err(Refusal::new(StatusCode::GATEWAY_TIMEOUT, "This was begun, and takes longer than expected."))
        }
    }
}

fn send(app: &App, command: Command) -> Result<(), Refusal> {
    app.admin.commands.try_send(command).map_err(|error| {
        let reason = match error {
            TrySendError::Full(_) => "Too many commands wait to be carried out; try again.",
            TrySendError::Closed(_) => "The process is ending.",
        };
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, reason)
    })
}

/// Envoy's names of levels are understood too.
fn level(name: &str) -> Option<Option<tracing::Level>> {
    Some(match name.to_ascii_lowercase().as_str() {
        "trace" => Some(tracing::Level::TRACE),
        "debug" => Some(tracing::Level::DEBUG),
        "info" => Some(tracing::Level::INFO),
        "warn" | "warning" => Some(tracing::Level::WARN),
        "error" | "critical" => Some(tracing::Level::ERROR),
        "off" => None,
        _ => return None,
    })
}

fn level_in_effect() -> String {
    let name = match LevelFilter::current() {
        LevelFilter::WARN => "warning".to_owned(),
        other => other.to_string(),
    };
    format!("active loggers:\n  ouro: {name}\n")
}
