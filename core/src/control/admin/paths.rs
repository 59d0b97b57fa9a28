//! The paths of the admin interface: one table, from which `/help` and the answers to wrong paths and methods come.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use ouro_shm::Snapshot;
use tokio::sync::Semaphore;

use super::{AdminState, clusters, commands, config_dump, guard, info, stats};
use crate::stats::render;

/// Body of a request, bytes. No path needs one.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long the body of a request may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Pages made at a time. Each may take a core for a while, and the traffic needs the cores.
const PAGES_AT_A_TIME: usize = 2;

/// Every path with the method that it takes and what it does.
const PATHS: &[(Method, &str, &str)] = &[
    (Method::GET, "/", "the dashboard, for a browser"),
    (Method::GET, "/clusters", "clusters with their endpoints (?format=json)"),
    (Method::GET, "/config_dump", "the configuration that runs, defaults filled in"),
    (
        Method::POST,
        "/drain_listeners",
        "stop accepting connections (?graceful: let those that are open finish)",
    ),
    (Method::POST, "/healthcheck/fail", "make /ready answer 503"),
    (Method::POST, "/healthcheck/ok", "take /healthcheck/fail back"),
    (Method::GET, "/help", "this list"),
    (Method::GET, "/hot_restart_version", "the version that must agree for a hot restart"),
    (Method::GET, "/listeners", "listeners with the addresses that they got (?format=json)"),
    (Method::GET, "/logging", "how much is logged; POST with ?level=LEVEL changes it"),
    (Method::POST, "/quitquitquit", "end the process in good order"),
    (Method::GET, "/ready", "200 while the process takes traffic, 503 otherwise"),
    (Method::POST, "/reset_counters", "set all counters to zero"),
    (Method::GET, "/server_info", "version, state, process, uptime, command line"),
    (Method::GET, "/stats", "statistics (?format=text|json|prometheus, ?filter=REGEX, ?usedonly)"),
    (Method::GET, "/stats/live", "what the dashboard reads"),
    (Method::GET, "/stats/prometheus", "statistics for Prometheus (?filter=REGEX, ?usedonly)"),
];

/// What the handlers share.
pub(super) struct App {
    pub(super) admin: Arc<AdminState>,
    pages: Arc<Semaphore>,
}

pub(super) type AppState = State<Arc<App>>;

/// The service behind the admin interface, which needs no socket.
pub fn router(admin: Arc<AdminState>) -> Router {
    let app = Arc::new(App { admin, pages: Arc::new(Semaphore::new(PAGES_AT_A_TIME)) });
    Router::new()
        .route("/", get(info::dashboard))
        .route("/clusters", get(clusters::clusters))
        .route("/config_dump", get(config_dump::config_dump))
        .route("/drain_listeners", post(commands::drain_listeners))
        .route("/healthcheck/fail", post(commands::healthcheck_fail))
        .route("/healthcheck/ok", post(commands::healthcheck_ok))
        .route("/help", get(|| async { text(help()) }))
        .route("/hot_restart_version", get(info::hot_restart_version))
        .route("/listeners", get(info::listeners))
        .route("/logging", get(commands::show_logging).post(commands::set_logging))
        .route("/quitquitquit", post(commands::quit))
        .route("/ready", get(info::ready))
        .route("/reset_counters", post(commands::reset_counters))
        .route("/server_info", get(info::server_info))
        .route("/stats", get(stats::stats))
        .route("/stats/live", get(stats::live))
        .route("/stats/prometheus", get(stats::prometheus))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(without_body))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::guard))
        .with_state(app)
}

/// A request that is not granted, with the reason in a sentence.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) StatusCode, pub(super) String);

impl Refusal {
    pub(super) fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self(status, reason.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, text(self.1 + "\n")).into_response()
    }
}

/// Plain text.
pub(super) fn text(body: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, "text/plain; charset=utf-8")], body.into()).into_response()
}

/// JSON, indented because people read it too.
pub(super) fn json(value: &serde_json::Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], format!("{value:#}\n")).into_response()
}

/// Makes a page from a snapshot on a thread that may take its time.
pub(super) async fn page<T: Send + 'static>(
    app: &App,
    make: impl FnOnce(&AdminState, &Snapshot) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let place = Arc::clone(&app.pages).acquire_owned().await;
    let admin = Arc::clone(&app.admin);
    let made = tokio::task::spawn_blocking(move || {
        let mut snapshot = (admin.snapshot)();
        render::server::add(&mut snapshot);
        let made = make(&admin, &snapshot);
        drop(place);
        made
    });
    made.await.map_err(|_| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "this page could not be made"))
}

/// Reads the body away, so that the connection can go on, and hands the request on without it.
async fn without_body(request: Request, next: Next) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    let too_long =
        || Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "No path takes a body, let alone so long a one.");
    let announced =
        head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BODY_BYTES as u64) {
        return Err(too_long());
    }
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_BYTES)).await {
        Ok(Ok(_)) => Ok(next.run(Request::from_parts(head, Body::empty())).await),
        Ok(Err(_)) => Err(too_long()),
        Err(_) => {
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "The body of the request did not come in time."))
        }
    }
}

async fn unknown_path(uri: Uri) -> Response {
    let text = format!("There is no {}. There are:\n\n{}", uri.path(), help());
    Refusal(StatusCode::NOT_FOUND, text).into_response()
}

async fn wrong_method(method: Method, uri: Uri, headers: HeaderMap) -> Refusal {
    let path = uri.path();
    let known = PATHS.iter().find(|(_, known, _)| *known == path);
    let reason = match known {
        Some((Method::POST, ..)) => {
            let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or("ADDRESS");
            format!("{path} changes state and takes POST, not {method}: curl -X POST 'http://{host}{path}'")
        }
        _ => format!("{path} takes GET, not {method}."),
    };
    Refusal(StatusCode::METHOD_NOT_ALLOWED, reason)
}

fn help() -> String {
    let mut list = String::from("The admin interface has these paths:\n");
    for (method, path, what) in PATHS {
        let _ = writeln!(list, "  {:4} {path:21} {what}", method.as_str());
    }
    list
}
