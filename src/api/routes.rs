//! The table of routes and the gate in front of each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, HttpBody, to_bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::handler::Handler;
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{MethodFilter, MethodRouter, on};
use axum::{Json, Router};
use metrics::{counter, histogram};
use serde_json::Value;

use super::{Caller, LocalCaller, PeerCertificate, Problem, Shape, answer, blocking, openapi, session_of};
use crate::access::db::{Credentials, Gate};
use crate::access::{Capability, Principal};

/// Largest body of a request that does not say otherwise.
pub(super) const BODY_BYTES_MAX: usize = 16 << 20;

/// Bodies up to this size are taken in before anything looks at the request.
const BODY_FIRST_BYTES_MAX: u64 = 64 << 10;

/// What a caller must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Served to anybody over plain HTTP too, because firmware asks; the text says why that is safe.
    Boot(&'static str),
    /// Served to anybody over TLS; the text says why that is safe.
    Public(&'static str),
    /// A machine with its certificate.
    Machine,
    /// A person or a token with this capability.
    Person(Capability),
}

/// A row of the table, as tests and the documentation of the API see it.
#[derive(Clone, Debug)]
pub struct RouteInfo {
    pub method: Method,
    pub path: &'static str,
    pub access: Access,
    pub summary: &'static str,
    /// Parameters of the query: name, what it is.
    pub asks: &'static [(&'static str, &'static str)],
    /// The body that it takes.
    pub takes: Option<Shape>,
    /// The body of the answer.
    pub gives: Option<Shape>,
}

/// The routes of one subject over its state `S`.
pub struct Routes<S> {
    rows: Vec<(RouteInfo, MethodRouter<S>)>,
}

impl<S: Clone + Send + Sync + 'static> Default for Routes<S> {
    fn default() -> Self {
        Routes { rows: Vec::new() }
    }
}

macro_rules! verbs {
    ($($verb:ident $method:ident),*) => {
        $(pub fn $verb<H, T>(self, path: &'static str, access: Access, summary: &'static str, handler: H) -> Self
        where
            H: Handler<T, S>,
            T: 'static,
        {
            self.add(Method::$method, MethodFilter::$method, path, access, summary, handler)
        })*
    };
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    pub fn new() -> Self {
        Self::default()
    }

    verbs!(get GET, post POST, put PUT, delete DELETE, patch PATCH);

    fn add<H, T>(
        mut self,
        method: Method,
        filter: MethodFilter,
        path: &'static str,
        access: Access,
        summary: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, S>,
        T: 'static,
    {
        let info = RouteInfo { method, path, access, summary, asks: &[], takes: None, gives: None };
        self.rows.push((info, on(filter, handler)));
        self
    }

    /// Says, of the route added last, which parameters its query may have.
    pub fn asks(self, parameters: &'static [(&'static str, &'static str)]) -> Self {
        self.told(|info| info.asks = parameters)
    }

    /// Says what body the route added last takes.
    pub fn takes(self, name: &'static str) -> Self {
        self.told(|info| info.takes = Some(Shape::One(name)))
    }

    /// Says what the route added last answers with.
    pub fn gives(self, shape: Shape) -> Self {
        self.told(|info| info.gives = Some(shape))
    }

    fn told(mut self, tell: impl FnOnce(&mut RouteInfo)) -> Self {
        if let Some((info, _)) = self.rows.last_mut() {
            tell(info);
        }
        self
    }

    /// Binds the routes to their state.
    #[must_use]
    pub fn with_state(self, state: S) -> Table {
        let rows = self.rows.into_iter().map(|(info, handler)| (info, handler.with_state(state.clone()))).collect();
        Table { rows }
    }
}

/// Routes that are ready to be served.
#[derive(Default)]
pub struct Table {
    rows: Vec<(RouteInfo, MethodRouter)>,
}

impl Table {
    #[must_use]
    pub fn merge(mut self, other: Table) -> Table {
        self.rows.extend(other.rows);
        self
    }

    pub fn rows(&self) -> impl Iterator<Item = &RouteInfo> {
        self.rows.iter().map(|(info, _)| info)
    }

    /// The router for HTTPS (all routes) and the one for plain HTTP (those with [`Access::Boot`]).
    pub fn routers(self, gate: &Arc<Gate>) -> (Router, Router) {
        let (mut secure, mut plain) = (Router::new(), Router::new());
        for (info, handler) in self.documented().rows {
            let guard = Guard { gate: gate.clone(), access: info.access, path: info.path };
            let guarded = handler.layer(middleware::from_fn_with_state(guard, counted));
            if matches!(info.access, Access::Boot(_)) {
                plain = plain.route(info.path, guarded.clone());
            }
            secure = secure.route(info.path, guarded);
        }
        let finish = |router: Router| {
            router
                .fallback(|| async { Problem::not_found("there is nothing at this address") })
                .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        };
        (finish(secure), finish(plain))
    }
}

impl Table {
    /// The same with one route more: the document that describes all of them.
    fn documented(self) -> Table {
        let row = Routes::<Arc<Value>>::new().get(
            openapi::PATH,
            Access::Person(Capability::Read),
            "This document: every route of the appliance (OpenAPI 3.1)",
            |State(document): State<Arc<Value>>| async move { Json(Arc::unwrap_or_clone(document)) },
        );
        let document = openapi::document(self.rows().chain(row.rows.iter().map(|(info, _)| info)));
        self.merge(row.with_state(Arc::new(document)))
    }
}

#[derive(Clone)]
struct Guard {
    gate: Arc<Gate>,
    access: Access,
    path: &'static str,
}

/// Routes whose handlers look themselves whether all machines of the request are within the caller's reach.
const LOOK_THEMSELVES: [&str; 6] = [
    "/api/v1/deployments",
    "/api/v1/deployments/preview",
    "/approvals",
    "/deployments",
    "/deployments/new",
    "/deployments/review",
];

/// Somebody whose rights end at some collections acts on their machines and on nothing that belongs to the whole site.
/// Reading is not limited.
fn beyond(guard: &Guard, principal: &Principal, path: &str) -> Option<Problem> {
    let Access::Person(capability) = guard.access else { return None };
    let collections = principal.collections().filter(|_| !capability.is_reading())?;
    let parameter = |name: &str| {
        let at = guard.path.split('/').position(|part| part == name)?;
        path.split('/').nth(at)
    };
    let within = match (parameter("{machine}"), parameter("{collection}")) {
        (Some(machine), _) => guard.gate.reaches(machine, collections),
        (_, Some(collection)) => collections.iter().any(|name| name == collection),
        _ => LOOK_THEMSELVES.contains(&guard.path),
    };
    (!within).then(|| Problem::forbidden(format!("your rights end at {}", collections.join(", "))))
}

/// Counts what [`admit`] answers, by route and not by address: addresses have no end.
async fn counted(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let (method, path, begun) = (request.method().clone(), guard.path, Instant::now());
    let response = match whole(request).await {
        Ok(request) => admit(guard, request, next).await,
        Err(problem) => problem.into_response(),
    };
    let status = response.status().as_u16().to_string();
    histogram!("remint_http_response_seconds", "route" => path).record(begun.elapsed());
    counter!("remint_http_requests_total", "method" => method.to_string(), "route" => path, "status" => status)
        .increment(1);
    response
}

/// The request with its body, where that is short, taken in. A route that does not look at it would else answer before it
/// has come; hyper then hangs up, and a client that is still sending hears of that instead of the answer.
async fn whole(request: Request) -> Result<Request, Problem> {
    let length = request.body().size_hint().exact().unwrap_or(u64::MAX);
    if length == 0 || length > BODY_FIRST_BYTES_MAX {
        return Ok(request);
    }
    let (parts, body) = request.into_parts();
    let bytes = to_bytes(body, BODY_FIRST_BYTES_MAX as usize).await;
    let bytes = bytes.map_err(|error| Problem::bad_request(format!("the body did not come whole: {error}")))?;
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

async fn admit(guard: Guard, mut request: Request, next: Next) -> Response {
    let principal = match guard.access {
        Access::Boot(_) => Ok(Principal::Anonymous),
        _ if request.extensions().get::<LocalCaller>().is_some() => Ok(Principal::local()),
        _ => identify(guard.gate.clone(), Brought::from(&request)).await,
    };
    let principal = match principal {
        Ok(principal) => principal,
        Err(problem) => return problem.into_response(),
    };
    let refusal = refusal(guard.access, &principal)
        .or_else(|| foreign_page(&request))
        .or_else(|| beyond(&guard, &principal, request.uri().path()));
    if let Some(problem) = refusal {
        return to_login(wants_page(&request), problem);
    }
    let address = request.extensions().get::<SocketAddr>().copied();
    let caller = Caller { principal, address };
    request.extensions_mut().insert(caller.clone());
    let mut response = answer::answer(guard.gate, &caller, request, next).await;
    response.extensions_mut().insert(caller);
    response
}

/// `None` when the principal may pass.
fn refusal(access: Access, principal: &Principal) -> Option<Problem> {
    let passes = match access {
        Access::Boot(_) | Access::Public(_) => true,
        Access::Machine => matches!(principal, Principal::Machine { .. }),
        Access::Person(capability) => principal.may(capability),
    };
    if passes {
        return None;
    }
    Some(match (access, principal) {
        (Access::Person(_), Principal::Anonymous) => Problem::new(StatusCode::UNAUTHORIZED, "this needs a login")
            .with_hint("log in, or send an API token (Authorization: Bearer ...)"),
        (Access::Machine, Principal::Anonymous) => {
            Problem::new(StatusCode::UNAUTHORIZED, "this needs a machine's certificate, valid and not revoked")
                .with_hint("check in again to get one")
        }
        (Access::Person(capability), _) => Problem::forbidden(format!("your role lacks the capability {capability:?}")),
        _ => Problem::forbidden("not with these credentials"),
    })
}

/// A request that a page of another site caused changes nothing here. Browsers say where it came from in Sec-Fetch-Site;
/// those too old for that (Safari before 16.4) send Origin with every form. Besides, the session's cookie is
/// SameSite=Strict: a request from elsewhere does not bring it along. What sends none of these is no browser.
fn foreign_page(request: &Request) -> Option<Problem> {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    let text = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host = text("host").or_else(|| request.uri().authority().map(Authority::as_str));
    let own = match (text("sec-fetch-site"), text("origin")) {
        (Some(from), _) => matches!(from, "same-origin" | "none"),
        (None, Some(origin)) => origin.split_once("://").map(|(_, origin)| origin) == host,
        (None, None) => true,
    };
    (!safe && !own).then(|| Problem::forbidden("the request was made by a page of another site"))
}

/// What a browser that is not logged in gets in place of a problem document.
fn to_login(request_wants_page: bool, problem: Problem) -> Response {
    if request_wants_page && problem.status == StatusCode::UNAUTHORIZED.as_u16() {
        return Redirect::to("/login").into_response();
    }
    problem.into_response()
}

fn wants_page(request: &Request) -> bool {
    let accepts = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    request.method() == Method::GET && accepts.contains("text/html")
}

/// Credentials as they came, owned, so that the look-up can run elsewhere.
struct Brought {
    certificate: Option<Arc<[u8]>>,
    bearer: Option<String>,
    session: Option<String>,
}

impl Brought {
    fn from(request: &Request) -> Brought {
        let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        Brought {
            certificate: request.extensions().get::<PeerCertificate>().and_then(|peer| peer.0.clone()),
            bearer: text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")).map(str::to_owned),
            session: session_of(request.headers()),
        }
    }
}

async fn identify(gate: Arc<Gate>, brought: Brought) -> Result<Principal, Problem> {
    if brought.certificate.is_none() && brought.bearer.is_none() && brought.session.is_none() {
        return Ok(Principal::Anonymous);
    }
    blocking(move || {
        let credentials = Credentials {
            certificate: brought.certificate.as_deref(),
            bearer: brought.bearer.as_deref(),
            session: brought.session.as_deref(),
        };
        gate.authenticate(credentials).map_err(|error| Problem::from_error(StatusCode::INTERNAL_SERVER_ERROR, &error))
    })
    .await
}
