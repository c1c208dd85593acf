//! The frame around every page.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use crate::access::Principal;
use crate::api::Caller;

/// Nothing but our own files: no inline script, no other host, no frame around us.
const CONTENT_POLICY: &str =
    "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const PLACES: [(&str, &str); 6] = [
    ("/", "Overview"),
    ("/machines", "Machines"),
    ("/runs", "Runs"),
    ("/images", "Images"),
    ("/software", "Software"),
    ("/audit", "Audit"),
];

/// A page of the console for somebody who is logged in. `place` is the entry of the menu that it belongs to.
pub fn page(caller: &Caller, place: &str, title: &str, body: &Markup) -> Response {
    let who = match &caller.principal {
        Principal::Person { name, role, .. } => format!("{name}, {}", role.name()),
        _ => String::new(),
    };
    send(&html! {
        (head(title))
        body {
            a.skip href="#content" { "Skip to content" }
            header.top {
                a.brand href="/" { img src="/assets/icon.svg" alt="" width="28" height="28"; "Remint" }
                nav aria-label="Main" {
                    @for (path, name) in PLACES {
                        a href=(path) aria-current=[(path == place).then_some("page")] { (name) }
                    }
                }
                span.who { (who) }
                form method="post" action="/logout" { button.quiet type="submit" { "Log out" } }
            }
            p #connection role="status" hidden { "The connection to the appliance is lost. Trying again…" }
            main #content data-live="1" { h1 { (title) } (body) }
        }
    })
}

/// A page without the menu: login, welcome.
pub fn bare(title: &str, body: &Markup) -> Response {
    send(&html! {
        (head(title))
        body.bare { main #content { p.brand { img src="/assets/icon.svg" alt="" width="40" height="40"; "Remint" } h1 { (title) } (body) } }
    })
}

fn head(title: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) " · Remint" }
                link rel="icon" href="/assets/icon.svg";
                link rel="stylesheet" href="/assets/style.css";
                script src="/assets/live.js" defer {}
            }
        }
    }
}

fn send(markup: &Markup) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, markup.0.clone()).into_response()
}
