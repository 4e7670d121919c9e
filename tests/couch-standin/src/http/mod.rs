//! The HTTP side: routes, and the path every request takes (counted, spoilt by a fault, authorised, answered).

mod bulk;
mod changes;
mod control;
mod databases;
mod documents;
mod listing;
mod query;
mod reply;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use self::reply::ApiError;
use crate::Credentials;
use crate::database::{Database, Databases};
use crate::faults::{Action, FaultHandle};
use crate::requests::{Call, RequestLog, Served};

/// Where the server's own test interface lives.
const CONTROL: &str = "/_standin/";

/// What all requests share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) databases: Databases,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) faults: FaultHandle,
    pub(crate) requests: RequestLog,
}

type Shared = State<Arc<App>>;

impl App {
    fn database(&self, name: &str) -> Result<Arc<Database>, ApiError> {
        self.databases
            .get(name)
            .ok_or_else(|| ApiError::not_found("Database does not exist."))
    }
}

/// Cuts the connection that a request came by.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionCut(pub(crate) CancellationToken);

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(databases::welcome))
        .route("/_up", get(databases::up))
        .route("/_all_dbs", get(databases::all))
        .route(
            "/{db}",
            get(databases::info)
                .put(databases::create)
                .delete(databases::remove)
                .post(documents::post),
        )
        .route(
            "/{db}/",
            get(databases::info)
                .put(databases::create)
                .delete(databases::remove)
                .post(documents::post),
        )
        .route("/{db}/_all_docs", get(listing::all_docs).post(listing::all_docs))
        .route("/{db}/_bulk_docs", post(bulk::bulk_docs))
        .route("/{db}/_bulk_get", post(bulk::bulk_get))
        .route("/{db}/_changes", get(changes::changes).post(changes::changes))
        .route(
            "/{db}/_design/{design}",
            get(documents::get_design)
                .put(documents::put_design)
                .delete(documents::delete_design),
        )
        .route(
            "/{db}/_design/{design}/_view/{view}",
            get(listing::view).post(listing::view),
        )
        .route(
            "/{db}/{id}",
            get(documents::get).put(documents::put).delete(documents::delete),
        )
        .route(
            "/{db}/{id}/{*name}",
            get(documents::get_attachment)
                .put(documents::put_attachment)
                .delete(documents::delete_attachment),
        )
        .route(
            "/_standin/requests",
            get(control::requests).delete(control::reset_requests),
        )
        .route(
            "/_standin/faults",
            get(control::faults)
                .post(control::add_fault)
                .delete(control::clear_faults),
        )
        .route("/_standin/faults/{rule}", delete(control::remove_fault))
        .route("/_standin/faults/{rule}/release", post(control::release_fault))
        .fallback(|| async { ApiError::not_found("missing") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "This method is not allowed here",
            )
        })
        .layer(from_fn_with_state(Arc::clone(&app), observe))
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

async fn observe(State(app): Shared, request: Request, next: Next) -> Response {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    if target.starts_with(CONTROL) {
        return answer(&app, request, next).await;
    }
    let mut call = Call::new(request.method().as_str(), target);
    let request = if app.faults.wants_bodies() {
        let (parts, body) = request.into_parts();
        let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
            return ApiError::new(StatusCode::BAD_REQUEST, "bad_request", "the body was cut off").into_response();
        };
        call.body = Some(body.clone());
        Request::from_parts(parts, Body::from(body))
    } else {
        request
    };
    let fault = app.faults.meet(&call);
    app.requests.arrived(call.op, fault.is_some());
    let Some(fault) = fault else {
        return counted(&app, &call, answer(&app, request, next).await);
    };
    match fault.action {
        Action::Reject { status, retry_after } => reject(status, retry_after),
        Action::FailAfterWrite => {
            let _lost = answer(&app, request, next).await;
            ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal_server_error",
                "the answer was lost",
            )
            .into_response()
        }
        Action::Hold => {
            fault.wait_for_release().await;
            counted(&app, &call, answer(&app, request, next).await)
        }
        Action::HoldAnswer => {
            let response = in_memory(answer(&app, request, next).await).await;
            fault.keep_answer().await;
            counted(&app, &call, response)
        }
        Action::Slow(delay) => {
            tokio::time::sleep(delay).await;
            counted(&app, &call, answer(&app, request, next).await)
        }
        Action::CutBody(length) => cut(counted(&app, &call, answer(&app, request, next).await), length),
        Action::Refuse => {
            if let Some(ConnectionCut(token)) = request.extensions().get() {
                token.cancel();
            }
            // The connection is dropped, and this with it.
            std::future::pending().await
        }
        Action::Junk => {
            let junk = "<html><body>Sign in to continue</body></html>";
            ([(header::CONTENT_TYPE, "application/json")], junk).into_response()
        }
    }
}

async fn answer(app: &App, request: Request, next: Next) -> Response {
    let permitted = authorise(app, request.uri().path(), request.headers());
    match permitted.and_then(|()| require_json(request.method(), request.uri().path(), request.headers())) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// CouchDB reads the body of a POST only as JSON that says so.
fn require_json(method: &Method, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let is_json = content_type
        .split(';')
        .next()
        .is_some_and(|essence| essence.trim() == "application/json");
    if is_json || method != Method::POST || path.starts_with(CONTROL) || path.ends_with("/_changes") {
        return Ok(());
    }
    let reason = "Content-Type must be application/json";
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "bad_content_type",
        reason,
    ))
}

fn counted(app: &App, call: &Call, response: Response) -> Response {
    if let Some(served) = response.extensions().get::<Served>() {
        app.requests.answered(call.op, *served);
    }
    response
}

/// As CouchDB with `require_valid_user_except_for_up`, except that the welcome is open too.
fn authorise(app: &App, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(credentials) = &app.credentials else {
        return Ok(());
    };
    let unauthorized = |reason| Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", reason));
    let Some(given) = headers.get(header::AUTHORIZATION) else {
        let is_open = matches!(path, "/" | "/_up");
        return if is_open {
            Ok(())
        } else {
            unauthorized("You are not authorized to access this db.")
        };
    };
    let expected = format!(
        "Basic {}",
        STANDARD.encode(format!("{}:{}", credentials.user, credentials.password))
    );
    if given.as_bytes() == expected.as_bytes() {
        Ok(())
    } else {
        unauthorized("Name or password is incorrect.")
    }
}

fn reject(status: u16, retry_after: Option<u32>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let name = match status.as_u16() {
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not_found",
        429 => "too_many_requests",
        503 => "service_unavailable",
        _ => "injected_fault",
    };
    let mut response = ApiError::new(status, name, "this request was rejected on purpose").into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// An answer that nothing changes any more.
async fn in_memory(response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    Response::from_parts(parts, Body::from(body))
}

/// The first bytes of a body, then the end of the connection.
fn cut(response: Response, length: usize) -> Response {
    let (parts, body) = response.into_parts();
    let mut left = length;
    let kept = body
        .into_data_stream()
        .filter_map(|chunk| async { chunk.ok() })
        .map(move |mut chunk: Bytes| {
            chunk.truncate(left);
            left -= chunk.len();
            chunk
        });
    let kept = kept.take_while(|chunk| std::future::ready(!chunk.is_empty())).map(Ok);
    let broken = futures::stream::once(async {
        // Lets the server send what it has before it learns of the error.
        tokio::task::yield_now().await;
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset))
    });
    Response::from_parts(parts, Body::from_stream(kept.chain(broken)))
}

/// A stream of ready chunks as a body.
fn body_of(chunks: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
    Body::from_stream(futures::stream::iter(chunks.map(Ok::<_, Infallible>)))
}
