//! What a browser shows when something did not work: the same words as a problem document, as a page that leads back.

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use maud::{Markup, html};

use super::page::{bare, page};
use crate::api::{Caller, Problem};

/// Turns problem documents into pages for whoever asked for a page.
pub async fn pages(request: Request, next: Next) -> Response {
    let wanted = wants_page(request.headers()) && !request.uri().path().starts_with("/api/");
    let back = back(request.headers());
    let response = next.run(request).await;
    if !wanted {
        return response;
    }
    let extensions = response.extensions();
    let Some(problem) = extensions.get::<Problem>() else { return response };
    let body = explained(problem, &back);
    let mut shown = match extensions.get::<Caller>() {
        Some(caller) => page(caller, "", "That did not work", &body),
        None => bare("That did not work", &body),
    };
    *shown.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    shown
}

fn wants_page(headers: &HeaderMap) -> bool {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accepts.contains("text/html")
}

/// The path of the page that the request came from; the start page without one.
fn back(headers: &HeaderMap) -> String {
    let referer = headers.get(header::REFERER).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let path = referer.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map(|(_, path)| path);
    path.map_or_else(|| "/".to_owned(), |path| format!("/{}", path.trim_start_matches('/')))
}

fn explained(problem: &Problem, back: &str) -> Markup {
    html! {
        section {
            p.problem role="alert" { (sentence(&problem.detail)) }
            @if let Some(hint) = &problem.hint { p { b { "What to do: " } (super::part::words(hint)) } }
            p.actions { a.button href=(back) { "Go back" } }
            p.hint { (problem.status) " " (problem.title) }
        }
    }
}

/// A fragment as a sentence.
pub fn sentence(fragment: &str) -> String {
    let mut characters = fragment.chars();
    let first = characters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let end = if fragment.ends_with(['.', '!', '?']) { "" } else { "." };
    format!("{first}{}{end}", characters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn back_leads_to_a_page_of_this_host_whatever_the_header_says() {
        for (referer, expect) in [
            ("https://appliance/machines/a?b", "/machines/a?b"),
            ("https://appliance", "/"),
            ("https://appliance//evil.example/x", "/evil.example/x"),
            ("javascript:alert(1)", "/"),
            ("", "/"),
        ] {
            let headers = HeaderMap::from_iter([(header::REFERER, referer.parse().unwrap())]);
            assert_eq!(back(&headers), expect, "{referer}");
        }
    }
}
