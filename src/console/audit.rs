//! Page: the audit log, a stretch at a time, and whether its chain of hashes holds.

use std::sync::Arc;

use axum::Form;
use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::form::{Fields, escaped};
use super::page::page;
use super::part::{instant, nothing, table};
use crate::access::Capability;
use crate::access::audit::{self, Entry, Error};
use crate::access::db::Gate;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};

const ENTRIES_AT_ONCE: u32 = 100;

pub fn routes(gate: Arc<Gate>) -> Table {
    let read = Access::Person(Capability::Audit);
    Routes::new()
        .get("/audit", read, "Page: the audit log", log)
        .post("/audit/verify", read, "Follow the audit log's chain of hashes from its page", verify)
        .with_state(gate)
}

fn failed(error: &Error) -> Problem {
    Problem::internal(error.to_string())
}

async fn log(State(gate): State<Arc<Gate>>, caller: Caller, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    blocking(move || {
        let search = fields.text("search");
        let entries = audit::find(&gate.db, search, fields.number("before"), ENTRIES_AT_ONCE + 1);
        let mut entries = entries.map_err(|error| failed(&error))?;
        let more = entries.len() > ENTRIES_AT_ONCE as usize;
        entries.truncate(ENTRIES_AT_ONCE as usize);
        let body = html! {
            form.search method="get" action="/audit" role="search" {
                input type="search" name="search" value=(search) placeholder="Who, what, on what" aria-label="Search the audit log";
                button.quiet type="submit" { "Search" }
            }
            section {
                @if entries.is_empty() { (nothing("No entry is here.")) } @else { (entry_table(&entries)) }
                nav.pager aria-label="Pages" {
                    @if fields.has("before") { a href={ "/audit?search=" (escaped(search)) } { "Newest" } }
                    @if let (true, Some(last)) = (more, entries.last()) { a href={ "/audit?search=" (escaped(search)) "&before=" (last.number) } rel="next" { "Older" } }
                }
            }
            section {
                p { "Each entry is bound to the one before by a hash: an entry that is changed or taken out breaks the chain." }
                form method="post" action="/audit/verify" { button.quiet type="submit" { "Follow the whole chain" } }
            }
        };
        Ok(page(&caller, "/audit", "Audit", &body))
    })
    .await
}

fn entry_table(entries: &[Entry]) -> Markup {
    table(
        &["Number", "When", "Who", "What", "On what", "Detail"],
        &html! {
            @for entry in entries {
                tr { td { (entry.number) } td { (instant(entry.at)) } td { (entry.who) } td { (entry.what) } td { (entry.on_what) } td.words { (entry.detail) } }
            }
        },
    )
}

async fn verify(State(gate): State<Arc<Gate>>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let verdict = match audit::verify(&gate.db) {
            Ok(entries) => html! { p.success { "The chain holds: " (entries) " entries, none changed, none missing." } },
            Err(Error::Broken { number }) => {
                html! { p.problem role="alert" { "The chain is broken at entry " (number) ": it or one before it was changed or removed. Compare with a backup." } }
            }
            Err(error) => return Err(failed(&error)),
        };
        let body = html! { section { (verdict) p.actions { a.button.quiet href="/audit" { "Back to the log" } } } };
        Ok(page(&caller, "/audit", "The chain of the audit log", &body))
    })
    .await
}
