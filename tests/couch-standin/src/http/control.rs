//! The server's own interface, for tests in other processes.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::Shared;
use super::reply::{ApiError, json_reply};
use crate::faults::{FaultRule, RuleId, RuleState};
use crate::requests::RequestCounts;

pub(crate) async fn requests(State(app): Shared) -> Json<RequestCounts> {
    Json(app.requests.snapshot())
}

pub(crate) async fn reset_requests(State(app): Shared) -> Response {
    app.requests.reset();
    done(true)
}

pub(crate) async fn faults(State(app): Shared) -> Json<Vec<RuleState>> {
    Json(app.faults.list())
}

pub(crate) async fn add_fault(State(app): Shared, body: Bytes) -> Result<Response, ApiError> {
    let rule: FaultRule = serde_json::from_slice(&body).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let id = app.faults.add(rule);
    Ok(json_reply(StatusCode::CREATED, &json!({"id": id})))
}

pub(crate) async fn clear_faults(State(app): Shared) -> Response {
    app.faults.clear();
    done(true)
}

pub(crate) async fn remove_fault(State(app): Shared, Path(rule): Path<u64>) -> Response {
    done(app.faults.remove(RuleId::new(rule)))
}

pub(crate) async fn release_fault(State(app): Shared, Path(rule): Path<u64>) -> Response {
    done(app.faults.release(RuleId::new(rule)))
}

fn done(is_found: bool) -> Response {
    json_reply(
        if is_found {
            StatusCode::OK
        } else {
            StatusCode::NOT_FOUND
        },
        &json!({"ok": is_found}),
    )
}
