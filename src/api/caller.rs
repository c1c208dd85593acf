//! Who makes a request, as handlers see it.

use std::net::SocketAddr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

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
