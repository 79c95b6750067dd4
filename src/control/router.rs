//! Owns which request is answered by what, and the limits on a request.
//! Must never know how the connection was made.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::body::{
    DoneBody, ErrorBody, Failure, Parameters, SCHEMA_VERSION, StatusBody, VersionBody,
};
use super::gateway::Gateway;
use super::{command, events};

/// Largest request body: parameters of a command are a hundred bytes.
const BODY_BYTES_MAX: usize = 16 << 10;

/// Longest time a request body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);

/// Streams of events at once: each holds a task and some lines.
const STREAMS_MAX: usize = 16;

/// How long a command may take if its sender does not say.
const COMMAND_TIME: Duration = Duration::from_secs(30);

/// Longest time a sender may ask for.
const COMMAND_TIME_MAX: Duration = Duration::from_secs(3600);

/// What every request has at hand.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) gateway: Arc<Gateway>,
    stop: watch::Receiver<bool>,
    streams: Arc<Semaphore>,
}

impl Shared {
    pub(super) fn new(gateway: Arc<Gateway>, stop: watch::Receiver<bool>) -> Self {
        Self { gateway, stop, streams: Arc::new(Semaphore::new(STREAMS_MAX)) }
    }
}

/// The routes for whoever may use them.
pub(super) fn routes(shared: Shared) -> Router {
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status_of_all))
        .route("/v1/status/{resource}", get(status))
        .route("/v1/resource/{resource}/{command}", post(run))
        .route("/v1/events", get(follow))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .with_state(shared)
}

/// The one answer for everybody else.
pub(super) fn refusal(uid: u32) -> Router {
    Router::new().fallback(move || async move {
        let message = format!(
            "user {uid} may not talk to this daemon: only root and the user it runs as. Use sudo"
        );
        Failure::new("forbidden", message)
    })
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(mut text) => {
            text.push(b'\n');
            (status, [(header::CONTENT_TYPE, "application/json")], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.kind.as_str() {
            "no_such_resource" | "not_found" => StatusCode::NOT_FOUND,
            "refused" => StatusCode::CONFLICT,
            "timed_out" => StatusCode::GATEWAY_TIMEOUT,
            "busy" | "stopping" => StatusCode::SERVICE_UNAVAILABLE,
            "forbidden" => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        };
        json(status, &ErrorBody { schema_version: SCHEMA_VERSION, error: self })
    }
}

async fn not_found() -> Failure {
    Failure::new("not_found", "no such path; there are /v1/version, status, resource and events")
}

async fn wrong_method() -> Response {
    let error = Failure::new("bad_request", "this path takes another method");
    let body = ErrorBody { schema_version: SCHEMA_VERSION, error };
    json(StatusCode::METHOD_NOT_ALLOWED, &body)
}

async fn version(State(shared): State<Shared>) -> Response {
    let body = VersionBody {
        schema_version: SCHEMA_VERSION,
        program: "twinblk".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: shared.gateway.here(),
    };
    json(StatusCode::OK, &body)
}

async fn status_of_all(State(shared): State<Shared>) -> Result<Response, Failure> {
    let resources = shared.gateway.status_of_all().await?;
    let node = shared.gateway.here();
    Ok(json(StatusCode::OK, &StatusBody { schema_version: SCHEMA_VERSION, node, resources }))
}

/// What an address names: it may be escaped to what is no text.
fn named<T>(path: Result<Path<T>, PathRejection>) -> Result<T, Failure> {
    let bad = |why: PathRejection| {
        Failure::new("bad_request", format!("the path cannot be read: {}", why.body_text()))
    };
    path.map(|Path(names)| names).map_err(bad)
}

async fn status(
    State(shared): State<Shared>,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    let resource = named(path)?;
    let resources = vec![shared.gateway.status(&resource).await?];
    let node = shared.gateway.here();
    Ok(json(StatusCode::OK, &StatusBody { schema_version: SCHEMA_VERSION, node, resources }))
}

async fn run(
    State(shared): State<Shared>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Body,
) -> Result<Response, Failure> {
    let (resource, name) = named(path)?;
    let bad = |message: String| Failure::new("bad_request", message);
    let body = timeout(BODY_TIME, to_bytes(body, BODY_BYTES_MAX)).await;
    let body = body.map_err(|_| bad("the body did not arrive in time".to_owned()))?;
    let body = body.map_err(|why| {
        bad(format!("the body cannot be read (it has at most {BODY_BYTES_MAX} bytes): {why}"))
    })?;
    let parameters = match body.trim_ascii() {
        [] => Parameters::default(),
        text => serde_json::from_slice(text)
            .map_err(|why| bad(format!("the body is no set of parameters: {why}")))?,
    };
    let command = command::parse(&name, parameters).map_err(bad)?;
    let limit = parameters.timeout_ms.map_or(COMMAND_TIME, Duration::from_millis);
    let limit = limit.min(COMMAND_TIME_MAX);
    let result = shared.gateway.command(&resource, command, limit).await?;
    let body = DoneBody { schema_version: SCHEMA_VERSION, resource, result };
    Ok(json(StatusCode::OK, &body))
}

async fn follow(State(shared): State<Shared>) -> Result<Response, Failure> {
    let permit = Arc::clone(&shared.streams).try_acquire_owned();
    let permit = permit.map_err(|_| {
        Failure::new("busy", format!("{STREAMS_MAX} readers follow events already: end one"))
    })?;
    let lines = events::stream(shared.gateway, shared.stop, permit);
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(lines)).into_response())
}
