//! The server and its databases as a whole.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::json;

use super::Shared;
use super::reply::{ApiError, json_reply};

pub(crate) async fn welcome() -> Response {
    let vendor = json!({"name": "CouchDB stand-in", "version": env!("CARGO_PKG_VERSION")});
    json_reply(
        StatusCode::OK,
        &json!({"couchdb": "Welcome", "version": "3.4.3", "features": [], "uuid": "standin", "vendor": vendor}),
    )
}

pub(crate) async fn up() -> Response {
    json_reply(StatusCode::OK, &json!({"status": "ok", "seeds": {}}))
}

pub(crate) async fn all(State(app): Shared) -> Response {
    json_reply(StatusCode::OK, &json!(app.databases.names()))
}

pub(crate) async fn info(State(app): Shared, Path(name): Path<String>) -> Result<Response, ApiError> {
    let database = app.database(&name)?;
    let store = database.read();
    let bytes = store.body_bytes();
    let info = json!({
        "db_name": database.name,
        "purge_seq": "0",
        "update_seq": database.sequence_text(store.sequence),
        "sizes": {"file": bytes, "external": bytes, "active": bytes},
        "props": {},
        "doc_count": store.alive.len(),
        "doc_del_count": store.deleted_count(),
        "disk_format_version": 8,
        "compact_running": false,
        "cluster": {"q": 1, "n": 1, "w": 1, "r": 1},
        "instance_start_time": database.incarnation_text(),
    });
    Ok(json_reply(StatusCode::OK, &info))
}

pub(crate) async fn create(State(app): Shared, Path(name): Path<String>) -> Result<Response, ApiError> {
    if !is_legal(&name) {
        let reason = format!(
            "Name: '{name}'. Only lowercase characters (a-z), digits (0-9), and any of the characters _, $, (, ), +, -, and / are allowed. Must begin with a letter."
        );
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "illegal_database_name", reason));
    }
    if !app.databases.create(&name) {
        let reason = "The database could not be created, the file already exists.";
        return Err(ApiError::new(StatusCode::PRECONDITION_FAILED, "file_exists", reason));
    }
    Ok(json_reply(StatusCode::CREATED, &json!({"ok": true})))
}

pub(crate) async fn remove(State(app): Shared, Path(name): Path<String>) -> Result<Response, ApiError> {
    if !app.databases.drop_database(&name) {
        return Err(ApiError::not_found("Database does not exist."));
    }
    Ok(json_reply(StatusCode::OK, &json!({"ok": true})))
}

fn is_legal(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_$()+-/".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_lowercase()) && name.bytes().all(is_allowed)
}
