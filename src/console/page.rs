//! The frame around every page.

use axum::http::header;
use axum::response::{IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};

use super::assets;
use crate::access::{Capability, Principal};
use crate::api::Caller;

/// Nothing but our own files: no inline script or style, no other host, no frame around us.
const CONTENT_POLICY: &str = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

struct Entry {
    path: &'static str,
    name: &'static str,
    /// Shown to whoever may open it.
    needs: Capability,
}

const fn entry(path: &'static str, name: &'static str) -> Entry {
    Entry { path, name, needs: Capability::Read }
}

/// The menu: a heading and its pages.
const MENU: [(&str, &[Entry]); 4] = [
    (
        "Watch",
        &[
            entry("/", "Overview"),
            entry("/rooms", "Rooms"),
            entry("/machines", "Machines"),
            entry("/approvals", "Approvals"),
            entry("/boots", "Boots"),
        ],
    ),
    (
        "Deploy",
        &[
            entry("/deployments", "Deployments"),
            entry("/runs", "Runs"),
            entry("/sequences", "Sequences"),
            entry("/images", "Images"),
        ],
    ),
    (
        "Manage",
        &[
            entry("/collections", "Collections"),
            entry("/software", "Software"),
            entry("/inventory", "Inventory"),
            entry("/reports", "Reports"),
        ],
    ),
    (
        "Site",
        &[
            Entry { path: "/audit", name: "Audit", needs: Capability::Audit },
            Entry { path: "/settings", name: "Settings", needs: Capability::Administer },
        ],
    ),
];

/// A page of the console for somebody who is logged in. `place` is the entry of the menu that it belongs to.
pub fn page(caller: &Caller, place: &str, title: &str, body: &Markup) -> Response {
    framed(caller, place, title, None, body)
}

/// A page that follows what happens. `events` is the query of the event stream: `kinds=machine,run`.
pub fn live_page(caller: &Caller, place: &str, title: &str, events: &str, body: &Markup) -> Response {
    framed(caller, place, title, Some(events), body)
}

fn framed(caller: &Caller, place: &str, title: &str, events: Option<&str>, body: &Markup) -> Response {
    send(&html! {
        (head(title))
        body {
            a.skip href="#content" { "Skip to content" }
            header.side {
                a.brand href="/" { img src="/assets/icon.svg" alt="" width="28" height="28"; "Remint" }
                button.menu type="button" aria-expanded="false" aria-controls="menu" { "Menu" }
                div #menu { (menu(caller, place)) (whoami(caller)) }
            }
            div.page {
                p #connection role="status" hidden { "The connection to the appliance is lost. Trying again…" }
                main #content tabindex="-1" data-events=[events] {
                    @if let Some(above) = above(place, title) { p.crumb { a href=(above.path) { (above.name) } } }
                    h1 { (title) }
                    (body)
                }
            }
        }
    })
}

fn menu(caller: &Caller, place: &str) -> Markup {
    html! {
        nav aria-label="Main" {
            @for (heading, entries) in &MENU {
                @let open: Vec<&Entry> = entries.iter().filter(|entry| caller.principal.may(entry.needs)).collect();
                @if !open.is_empty() {
                    p { (heading) }
                    ul {
                        @for entry in open {
                            li { a href=(entry.path) aria-current=[(entry.path == place).then_some("page")] { (entry.name) } }
                        }
                    }
                }
            }
        }
    }
}

fn whoami(caller: &Caller) -> Markup {
    let Principal::Person { name, role, .. } = &caller.principal else { return html! {} };
    html! {
        div.who {
            p { b { (name) } " " (role.name()) }
            form method="post" action="/logout" { button.quiet type="submit" { "Log out" } }
        }
    }
}

/// The page of the menu above this one.
fn above(place: &str, title: &str) -> Option<&'static Entry> {
    let entry = MENU.iter().flat_map(|(_, entries)| *entries).find(|entry| entry.path == place)?;
    (entry.name != title && entry.path != "/").then_some(entry)
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
                meta name="color-scheme" content="light dark";
                title { (title) " · Remint" }
                link rel="icon" href="/assets/icon.svg";
                link rel="stylesheet" href=(assets::address("style.css"));
                (script("live.js"))
                (script("forms.js"))
            }
        }
    }
}

/// A script of the console, for the pages that need more than those of every page.
pub fn script(name: &str) -> Markup {
    html! { script src=(assets::address(name)) defer {} }
}

fn send(markup: &Markup) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // Pages of this host learn where a request came from (a page of an error leads back), no others.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, markup.0.clone()).into_response()
}
