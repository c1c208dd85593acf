//! Who makes a request, as handlers see it.

use std::net::SocketAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};

use super::Problem;
use crate::access::Principal;

/// DER of the client certificate of the connection; the accept loop puts it into each request.
#[derive(Clone, Debug)]
pub struct PeerCertificate(pub Option<std::sync::Arc<[u8]>>);

/// Put into a request by the local entrances only (the control socket of the site folder, a command without an appliance):
/// whoever can open the site's files is its administrator.
#[derive(Clone, Copy, Debug)]
pub struct LocalCaller;

/// The authenticated caller; the gate puts it into each request before the handler runs.
#[derive(Clone, Debug)]
pub struct Caller {
    pub principal: Principal,
    pub address: Option<SocketAddr>,
}

impl Caller {
    /// The machine that calls; for routes with [`super::Access::Machine`].
    pub fn machine(&self) -> Result<&str, Problem> {
        match &self.principal {
            Principal::Machine { machine } => Ok(machine),
            _ => Err(Problem::forbidden("only a machine with its certificate may do this")),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        parts.extensions.get().cloned().ok_or_else(|| Problem::internal("this route was served without its gate"))
    }
}

/// The cookie of a person's session. `__Host-`: only over TLS, only to this host.
const SESSION_COOKIE: &str = "__Host-remint";

/// The value of `Set-Cookie` that opens a session, or ends it when `session` is empty. RFC 6265: `__Host-` wants Secure,
/// Path=/ and no Domain; Strict keeps other sites from using the session.
pub fn session_cookie(session: &str) -> String {
    let age = if session.is_empty() { "; Max-Age=0" } else { "" };
    format!("{SESSION_COOKIE}={session}; Path=/; Secure; HttpOnly; SameSite=Strict{age}")
}

/// The session that a request brings along.
pub fn session_of(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get(header::COOKIE)?.to_str().ok()?;
    cookies
        .split(';')
        .find_map(|cookie| cookie.trim().strip_prefix(SESSION_COOKIE)?.strip_prefix('=').map(str::to_owned))
}
