//! Page: who may do what here, API tokens, and what this site is.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::form::{Fields, escaped};
use super::page::page;
use super::part::{Tone, badge, facts, guarded, instant, nothing, section, table};
use crate::access::db::{self, Error, Gate, Person, Token};
use crate::access::secret::Secret;
use crate::access::{Capability, Limits, Principal, Role};
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::stdx::time::Timestamp;

const INVITATION_HOURS: i64 = 24;

#[derive(Clone)]
pub struct SettingsPages {
    pub gate: Arc<Gate>,
    /// What the site is, in words; the wiring knows.
    pub about: Arc<Vec<(&'static str, String)>>,
}

pub fn routes(pages: SettingsPages) -> Table {
    let administer = Access::Person(Capability::Administer);
    Routes::new()
        .get("/settings", administer, "Page: people, tokens, the site", settings)
        .post("/settings/invitations", administer, "Invite a person from the page of settings", invite)
        .post("/settings/people/{name}/remove", administer, "Remove a person from the page of settings", remove_person)
        .post("/settings/tokens", administer, "Make an API token from the page of settings", add_token)
        .post(
            "/settings/tokens/{name}/remove",
            administer,
            "Remove an API token from the page of settings",
            remove_token,
        )
        .with_state(pages)
}

fn problem(error: &Error) -> Problem {
    let status = match error {
        Error::Absent { .. } => StatusCode::NOT_FOUND,
        Error::Exists { .. } | Error::LastAdministrator { .. } => StatusCode::CONFLICT,
        Error::Db(_) => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    Problem::from_error(status, error)
}

async fn settings(State(pages): State<SettingsPages>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let people = db::people(&pages.gate.db).map_err(|error| problem(&error))?;
        let tokens = db::tokens(&pages.gate.db).map_err(|error| problem(&error))?;
        let about: Vec<(&str, Option<String>)> =
            pages.about.iter().map(|(name, value)| (*name, Some(value.clone()))).collect();
        let body = html! {
            (section("People", &html! { (person_table(&people, &caller.principal)) (invite_form()) }))
            (section("API tokens", &html! { (token_table(&tokens, pages.gate.clock.now())) (token_form()) }))
            (section("Roles", &roles()))
            (section("This site", &html! {
                (facts(&about))
                p { a href="/api/v1/support-bundle" download { "Download a support bundle" } ": state, log and findings, without secrets." }
            }))
        };
        Ok(page(&caller, "/settings", "Settings", &body))
    })
    .await
}

fn person_table(people: &[Person], who: &Principal) -> Markup {
    let administrators = people.iter().filter(|person| person.role == Role::Administrator).count();
    let own = |person: &Person| matches!(who, Principal::Person { name, .. } if *name == person.name);
    table(
        &["Name", "Role", "Since", ""],
        &html! {
            @for person in people {
                @let last = person.role == Role::Administrator && administrators == 1;
                tr {
                    td { (person.name) @if own(person) { " " (badge(Tone::Quiet, "you")) } }
                    td { (person.role.name()) }
                    td { (instant(person.created_at)) }
                    td {
                        @if last { span.hint { "the last administrator stays" } }
                        @else { (guarded("Remove…", "The account and its sessions end at once. What the person did stays in the audit log.", &format!("/settings/people/{}/remove", escaped(&person.name)), &format!("Remove {}", person.name))) }
                    }
                }
            }
        },
    )
}

fn role_choice() -> Markup {
    html! { select name="role" aria-label="Role" { @for role in Role::ALL { option value=(role.name()) selected[role == Role::Technician] { (role.name()) } } } }
}

fn invite_form() -> Markup {
    html! {
        h3 { "Invite a person" }
        form.search method="post" action="/settings/invitations" { (role_choice()) button.quiet type="submit" { "Make an invitation" } }
        p.hint { "An invitation is a link that makes one account, once, within " (INVITATION_HOURS) " hours." }
    }
}

fn token_table(tokens: &[Token], now: Timestamp) -> Markup {
    html! {
        @if tokens.is_empty() { (nothing("No token yet. A program sends one as `Authorization: Bearer …`.")) }
        @else {
            (table(&["Name", "Role", "Made", "Ends", ""], &html! {
                @for token in tokens {
                    tr {
                        td { (token.name) }
                        td { (token.role.name()) }
                        td { (instant(token.created_at)) }
                        td { @match token.expires_at { Some(at) => { (instant(at)) @if at <= now { " " (badge(Tone::Quiet, "over")) } }, None => { "never" } } }
                        td { (guarded("Remove…", "Whatever uses it is refused from now on.", &format!("/settings/tokens/{}/remove", escaped(&token.name)), "Remove the token")) }
                    }
                }
            }))
        }
    }
}

fn token_form() -> Markup {
    html! {
        h3 { "Make a token" }
        form.search method="post" action="/settings/tokens" {
            input name="name" aria-label="Name of the token" placeholder="What it is for" required maxlength="60" autocomplete="off";
            (role_choice())
            label { "for " input type="number" name="days" min="1" max="3650" value="365" required; " days" }
            button.quiet type="submit" { "Make the token" }
        }
    }
}

fn roles() -> Markup {
    use Capability::*;
    const ALL: [(Capability, &str); 10] = [
        (Read, "see"),
        (ApproveMachine, "approve machines"),
        (EditMachine, "change machines, rooms"),
        (Deploy, "deploy"),
        (EditImage, "images"),
        (EditSequence, "sequences"),
        (EditSoftware, "software"),
        (EditCollection, "collections"),
        (Audit, "audit log"),
        (Administer, "people, tokens"),
    ];
    let heads: Vec<&str> = ["Role"].into_iter().chain(ALL.iter().map(|(_, name)| *name)).collect();
    table(
        &heads,
        &html! {
            @for role in Role::ALL {
                tr { td { (role.name()) } @for (capability, _) in ALL { td { @if role.has(capability) { span aria-label="yes" { "✓" } } } } }
            }
        },
    )
}

fn role(fields: &Fields) -> Result<Role, Problem> {
    Role::parse(fields.text("role")).ok_or_else(|| Problem::bad_request("there is no such role"))
}

async fn invite(
    State(pages): State<SettingsPages>,
    caller: Caller,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    let role = role(&fields)?;
    blocking(move || {
        let gate = &pages.gate;
        let made = db::invite(&gate.db, &caller.principal, role, INVITATION_HOURS * 3600, gate.clock.now());
        let secret = made.map_err(|error| problem(&error))?;
        let link = format!("/welcome#{}", secret.reveal());
        let body = once(
            &format!(
                "Give this link to whoever is to be {}. It works once, within {INVITATION_HOURS} hours.",
                article(role)
            ),
            &link,
            Some("It begins with the address of this appliance: the button copies all of it."),
        );
        Ok(page(&caller, "/settings", "The invitation", &body))
    })
    .await
}

fn article(role: Role) -> String {
    match role {
        Role::Auditor | Role::Administrator => format!("an {}", role.name()),
        Role::ReadOnly => "a reader".to_owned(),
        _ => format!("a {}", role.name()),
    }
}

/// A secret that is shown now and never again.
fn once(what: &str, secret: &str, more: Option<&str>) -> Markup {
    html! {
        section {
            p { (what) " It is shown this once." }
            p.secret #secret data-address[more.is_some()] { (secret) }
            @if let Some(more) = more { p.hint { (more) } }
            p.actions { button type="button" data-copies="secret" hidden { "Copy" } a.button.quiet href="/settings" { "Done" } }
        }
    }
}

async fn add_token(
    State(pages): State<SettingsPages>,
    caller: Caller,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    let role = role(&fields)?;
    let name = fields.given("name").ok_or_else(|| Problem::bad_request("the token has no name"))?.to_owned();
    let days: Option<i64> = fields.number("days").filter(|days| (1..=3650).contains(days));
    blocking(move || {
        let gate = &pages.gate;
        let made =
            db::create_token(&gate.db, &caller.principal, &name, (role, &Limits::default()), days, gate.clock.now());
        let secret: Secret = made.map_err(|error| problem(&error))?;
        let body =
            once(&format!("The token {name}, for `Authorization: Bearer …` and REMINT_TOKEN."), secret.reveal(), None);
        Ok(page(&caller, "/settings", "The token", &body))
    })
    .await
}

async fn remove_person(
    State(pages): State<SettingsPages>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    blocking(move || {
        let gate = &pages.gate;
        db::remove_person(&gate.db, &caller.principal, &name, gate.clock.now()).map_err(|error| problem(&error))?;
        Ok(Redirect::to("/settings").into_response())
    })
    .await
}

async fn remove_token(
    State(pages): State<SettingsPages>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    blocking(move || {
        let gate = &pages.gate;
        db::remove_token(&gate.db, &caller.principal, &name, gate.clock.now()).map_err(|error| problem(&error))?;
        Ok(Redirect::to("/settings").into_response())
    })
    .await
}
