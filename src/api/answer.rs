//! What every answer of the API has in common: refusals are problem documents whoever refused, JSON that is read carries
//! an ETag, and a request with a key is carried out once.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::routes::BODY_BYTES_MAX;
use super::{Caller, Problem, blocking};
use crate::access::Principal;
use crate::access::db::Gate;
use crate::access::replay::db::{self as replay, KEY_BYTES_MAX, Known};
use crate::stdx::hex;

/// A refusal of the framework is a line of text.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Answers that are longer have no ETag and cannot be answered again.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const KEY: &str = "idempotency-key";

/// Answers that hold a secret are not kept, so their requests are carried out as often as they are sent.
const SECRET: [&str; 4] = ["/api/v1/session", "/api/v1/invitations", "/api/v1/tokens", "/api/v1/people"];

/// Whether a POST to this route takes an Idempotency-Key.
pub(super) fn takes_key(method: &Method, path: &str) -> bool {
    method == Method::POST && path.starts_with("/api/v1/") && !SECRET.iter().any(|secret| path.starts_with(secret))
}

/// Runs the handler and gives its answer the common form.
pub(super) async fn answer(gate: std::sync::Arc<Gate>, caller: &Caller, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !path.starts_with("/api/") && !path.starts_with("/link/") {
        return next.run(request).await;
    }
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let key = headers.get(KEY).filter(|_| takes_key(&method, path)).cloned();
    let response = match key {
        Some(key) if matches!(caller.principal, Principal::Person { .. }) => {
            once(gate, &caller.principal, &key, request, next).await
        }
        _ => next.run(request).await,
    };
    if method == Method::GET { tagged(&headers, refused(response).await).await } else { refused(response).await }
}

/// A refusal without a problem document (a body that does not parse, a method that is not there) becomes one.
async fn refused(response: Response) -> Response {
    let status = response.status();
    let kind = kind(&response);
    if !(status.is_client_error() || status.is_server_error()) || kind == "application/problem+json" {
        return response;
    }
    let text = to_bytes(response.into_body(), REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let detail = if text.is_empty() { status.canonical_reason().unwrap_or("refused").to_lowercase() } else { text };
    Problem::new(status, detail).into_response()
}

fn kind(response: &Response) -> String {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.unwrap_or_default().to_owned()
}

/// RFC 9110, 8.8.3 and 13.1.2.
async fn tagged(asked: &HeaderMap, response: Response) -> Response {
    if response.status() != StatusCode::OK || kind(&response) != "application/json" {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, ANSWER_BYTES_MAX).await else {
        return Problem::internal("the answer is too long").into_response();
    };
    let tag = format!("\"{}\"", hex::emit(&Sha256::digest(&bytes)[..12]));
    let known = asked.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let same = known == "*" || known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag);
    if let Ok(value) = HeaderValue::from_str(&tag) {
        parts.headers.insert(header::ETAG, value);
    }
    if same {
        parts.status = StatusCode::NOT_MODIFIED;
        parts.headers.remove(header::CONTENT_TYPE);
        parts.headers.remove(header::CONTENT_LENGTH);
        return Response::from_parts(parts, Body::empty());
    }
    Response::from_parts(parts, Body::from(bytes))
}

async fn once(
    gate: std::sync::Arc<Gate>,
    who: &Principal,
    key: &HeaderValue,
    request: Request,
    next: Next,
) -> Response {
    let Some(key) = key.to_str().ok().filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX).map(str::to_owned)
    else {
        return Problem::bad_request(format!("Idempotency-Key must have 1 to {KEY_BYTES_MAX} plain characters"))
            .into_response();
    };
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long").into_response();
    };
    match begun(&gate, who, &key, parts.uri.path(), &body).await {
        Err(problem) => problem.into_response(),
        Ok(Known::Other) => {
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "this Idempotency-Key was used for another request")
                .with_hint("make a new key for each request")
                .into_response()
        }
        Ok(Known::UnderWay) => Problem::conflict("the request with this Idempotency-Key is under way")
            .with_hint("ask for what it makes before sending it again")
            .into_response(),
        Ok(Known::Answered { status, answer }) => again(status, answer),
        Ok(Known::New) => {
            let response = next.run(Request::from_parts(parts, Body::from(body))).await;
            kept(gate, who.clone(), key, response).await
        }
    }
}

async fn begun(
    gate: &std::sync::Arc<Gate>,
    who: &Principal,
    key: &str,
    path: &str,
    body: &Bytes,
) -> Result<Known, Problem> {
    let (gate, who, key, path, body) = (gate.clone(), who.clone(), key.to_owned(), path.to_owned(), body.clone());
    blocking(move || {
        replay::begin(&gate.db, &who, &key, &[path.as_bytes(), &body], gate.clock.now())
            .map_err(|error| Problem::internal(error.to_string()))
    })
    .await
}

fn again(status: u16, answer: String) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let kind =
        [(header::CONTENT_TYPE, "application/json"), (header::HeaderName::from_static("idempotent-replay"), "true")];
    if answer.is_empty() { (status, [kind[1].clone()]).into_response() } else { (status, kind, answer).into_response() }
}

async fn kept(gate: std::sync::Arc<Gate>, who: Principal, key: String, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, ANSWER_BYTES_MAX).await else {
        return Problem::internal("the answer is too long").into_response();
    };
    let (status, text) = (parts.status.as_u16(), String::from_utf8_lossy(&bytes).into_owned());
    let done = blocking(move || {
        replay::finish(&gate.db, &who, &key, status, &text).map_err(|error| Problem::internal(error.to_string()))
    });
    match done.await {
        Ok(()) => Response::from_parts(parts, Body::from(bytes)),
        Err(problem) => problem.into_response(),
    }
}
