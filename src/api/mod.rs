//! The kernel that owns HTTP routing: the one table from which every route is served.
//!
//! A subject's `api.rs` returns [`Routes`]: method, path, what the caller must be allowed, one sentence on what it does,
//! handler. [`Table`] merges them and is the only way to an axum router, so that no route can be served without its
//! [`Access`]; a test walks the same table. The routes of `access` (login, people, tokens, audit) are here in [`people`],
//! because `access` lies below this kernel. Errors leave as problem+json (RFC 9457) with a `hint`.

mod answer;
mod caller;
pub mod live;
pub mod openapi;
pub mod paging;
pub mod people;
mod problem;
mod routes;
pub mod schema;

pub use caller::{Caller, LocalCaller, PeerCertificate, session_cookie, session_of};
pub use live::{Event, Live};
pub use paging::Paging;
pub use problem::Problem;
pub use routes::{Access, RouteInfo, Routes, Table};
pub use schema::Shape;

/// Runs work that blocks (the database, files) away from the threads that serve sockets.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Problem::internal("the work for this request ended unexpectedly")),
    }
}
