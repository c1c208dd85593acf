//! Stylesheet, script and icon, out of the binary.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::api::{Access, Problem, Routes, Table};

const FILES: [(&str, &str, &str); 3] = [
    ("style.css", "text/css; charset=utf-8", include_str!("style.css")),
    ("live.js", "text/javascript; charset=utf-8", include_str!("live.js")),
    ("icon.svg", "image/svg+xml", include_str!("icon.svg")),
];

pub fn routes() -> Table {
    let public = Access::Public("the looks of the console; the login page needs them");
    Routes::new().get("/assets/{name}", public, "Stylesheet, script and icon of the console", asset).with_state(())
}

async fn asset(Path(name): Path<String>) -> Response {
    let Some((_, kind, content)) = FILES.iter().find(|(known, _, _)| *known == name) else {
        return Problem::new(StatusCode::NOT_FOUND, "there is no such file").into_response();
    };
    ([(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "max-age=3600")], *content).into_response()
}
