//! Stylesheet, scripts and icon, out of the binary.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::api::{Access, Problem, Routes, Table};
use crate::stdx::hex;

const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const FILES: [(&str, &str, &str); 6] = [
    ("style.css", STYLE, concat!(include_str!("style.css"), include_str!("pages.css"))),
    ("live.js", SCRIPT, include_str!("live.js")),
    ("forms.js", SCRIPT, include_str!("forms.js")),
    ("editor.js", SCRIPT, include_str!("editor.js")),
    ("room.js", SCRIPT, include_str!("room.js")),
    ("icon.svg", "image/svg+xml", include_str!("icon.svg")),
];

/// Changes with any of the files, so that a browser fetches them anew after an upgrade and keeps them until then.
static EDITION: LazyLock<String> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    FILES.iter().for_each(|(_, _, content)| digest.update(content));
    hex::emit(&digest.finalize()[..4])
});

/// Where a page finds a file of the console.
pub fn address(name: &str) -> String {
    format!("/assets/{name}?{}", *EDITION)
}

pub fn routes() -> Table {
    let public = Access::Public("the looks of the console; the login page needs them");
    Routes::new().get("/assets/{name}", public, "Stylesheet, scripts and icon of the console", asset).with_state(())
}

async fn asset(Path(name): Path<String>) -> Response {
    let Some((_, kind, content)) = FILES.iter().find(|(known, _, _)| *known == name) else {
        return Problem::new(StatusCode::NOT_FOUND, "there is no such file").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, *kind),
        (header::CACHE_CONTROL, "max-age=31536000"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, *content).into_response()
}
