//! The router without a socket: how commands work on a site whose appliance is not running.

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::Value;
use tower::ServiceExt;

use super::assemble::{self, assemble};
use super::site::Site;
use crate::api::LocalCaller;

/// A site's API in this process.
pub struct LocalApi {
    router: axum::Router,
    runtime: tokio::runtime::Runtime,
}

impl LocalApi {
    pub fn open(site: &Site) -> Result<LocalApi, assemble::Error> {
        let assembly = assemble(site)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime of one thread needs nothing that could be missing");
        let (router, _) = assembly.table.routers(&assembly.gate);
        Ok(LocalApi { router, runtime })
    }

    /// Status and body of a request.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Vec<u8>) {
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, "application/json")
            .extension(LocalCaller)
            .body(Body::from(bytes));
        let Ok(request) = request else { return (400, Vec::new()) };
        self.runtime.block_on(async {
            let Ok(answer) = self.router.clone().oneshot(request).await;
            let status = answer.status().as_u16();
            let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap_or_default();
            (status, bytes.to_vec())
        })
    }
}
