//! The way in and out: login, the one-time welcome, logout.

use std::sync::Arc;

use axum::Form;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};
use serde::Deserialize;

use super::page::bare;
use crate::access::db::{Error, Gate, PASSWORD_CHARACTERS_MIN, accept_invitation, login, logout};
use crate::access::secret::Secret;
use crate::api::{Access, Problem, Routes, Table, blocking, session_cookie, session_of};
use crate::stdx::hint::Hint;

pub fn routes(gate: Arc<Gate>) -> Table {
    let public = Access::Public("the way in: it takes a password or a one-time secret");
    Routes::new()
        .get("/login", public, "Login page", login_page)
        .post("/login", public, "Log in", log_in)
        .get("/welcome", public, "Page on which an invitation is used", welcome_page)
        .post("/welcome", public, "Use an invitation", welcome)
        .post("/logout", Access::Public("ends the session of whoever calls"), "Log out", log_out)
        .with_state(gate)
}

async fn login_page() -> Response {
    bare("Log in", &login_form("", None))
}

fn login_form(name: &str, problem: Option<&str>) -> Markup {
    html! {
        @if let Some(problem) = problem { p.problem role="alert" { (problem) } }
        form method="post" action="/login" {
            label { "Name" input name="name" value=(name) autocomplete="username" required autofocus; }
            label { "Password" input name="password" type="password" autocomplete="current-password" required; }
            button type="submit" { "Log in" }
        }
        p.hint { "No account yet? An administrator makes an invitation: " code { "remint user invite" } }
    }
}

#[derive(Deserialize)]
struct Login {
    name: String,
    password: String,
}

async fn log_in(State(gate): State<Arc<Gate>>, Form(given): Form<Login>) -> Result<Response, Problem> {
    blocking(move || {
        let session = login(&gate.db, &given.name, &Secret::new(given.password), gate.clock.now());
        Ok(match session {
            Ok(session) => entered(&session),
            Err(error) => refused("Log in", &login_form(&given.name, Some(&sentence(&error)))),
        })
    })
    .await
}

async fn welcome_page() -> Response {
    bare("Welcome", &welcome_form("", "", None))
}

fn welcome_form(invitation: &str, name: &str, problem: Option<&str>) -> Markup {
    html! {
        @if let Some(problem) = problem { p.problem role="alert" { (problem) } }
        p { "Make your account. The invitation works once." }
        form method="post" action="/welcome" data-invitation="1" {
            label { "Invitation" input name="invitation" value=(invitation) autocomplete="off" required; }
            label { "Name" input name="name" value=(name) autocomplete="username" required; }
            label { "Password, at least " (PASSWORD_CHARACTERS_MIN) " characters"
                input name="password" type="password" autocomplete="new-password" minlength=(PASSWORD_CHARACTERS_MIN) required; }
            button type="submit" { "Make the account" }
        }
    }
}

#[derive(Deserialize)]
struct Welcome {
    invitation: String,
    name: String,
    password: String,
}

async fn welcome(State(gate): State<Arc<Gate>>, Form(given): Form<Welcome>) -> Result<Response, Problem> {
    blocking(move || {
        let session =
            accept_invitation(&gate.db, &given.invitation, &given.name, &Secret::new(given.password), gate.clock.now());
        Ok(match session {
            Ok(session) => entered(&session),
            Err(error) => refused("Welcome", &welcome_form(&given.invitation, &given.name, Some(&sentence(&error)))),
        })
    })
    .await
}

fn entered(session: &Secret) -> Response {
    ([(header::SET_COOKIE, session_cookie(session.reveal()))], Redirect::to("/")).into_response()
}

fn refused(title: &str, form: &Markup) -> Response {
    let mut response = bare(title, form);
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

/// The error and its way out as sentences.
fn sentence(error: &Error) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get(..1).map(str::to_uppercase) {
        text.replace_range(..1, &first);
    }
    match error.hint() {
        Some(hint) => format!("{text}: {hint}."),
        None => format!("{text}."),
    }
}

async fn log_out(State(gate): State<Arc<Gate>>, headers: HeaderMap) -> Result<Response, Problem> {
    if let Some(session) = session_of(&headers) {
        blocking(move || logout(&gate.db, &session).map_err(|error| Problem::internal(error.to_string()))).await?;
    }
    Ok(([(header::SET_COOKIE, session_cookie(""))], Redirect::to("/login")).into_response())
}
