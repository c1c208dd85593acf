//! The machine's end: blocking calls over connections that are kept open.

use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::{Agent, Body, http};

pub use super::trust::Credentials;
use super::{Error, Message, PATIENCE, REPLY_BYTES_MAX, trust};
use crate::stdx::backoff::Backoff;
use crate::stdx::hex;

/// Largest certificate that is taken for an authority's.
const AUTHORITY_BYTES_MAX: u64 = 64 << 10;
/// Connections kept open to the appliance: one for messages and a few for ranges.
const IDLE_CONNECTIONS_MAX: usize = 6;

/// A connection pool to one appliance. Cloning shares it.
#[derive(Clone)]
pub struct Client {
    base: Arc<str>,
    agent: Arc<RwLock<Agent>>,
    bearer: Option<Arc<str>>,
}

impl Client {
    /// `base` is `https://address:port`. Only certificates issued by `authority_pem` are accepted.
    pub fn new(base: &str, authority_pem: &str, credentials: Option<&Credentials>) -> Result<Client, Error> {
        let agent = Arc::new(RwLock::new(trusting(authority_pem, credentials)?));
        Ok(Client { base: base.trim_end_matches('/').into(), agent, bearer: None })
    }

    /// Speaks with another certificate from now on, and so do all clones; calls under way end with the old one.
    pub fn change_credentials(&self, authority_pem: &str, credentials: &Credentials) -> Result<(), Error> {
        let agent = trusting(authority_pem, Some(credentials))?;
        *self.agent.write().unwrap_or_else(PoisonError::into_inner) = agent;
        Ok(())
    }

    /// The same connection with an API token: how the command line speaks for a person.
    pub fn with_token(mut self, token: &str) -> Client {
        self.bearer = Some(token.into());
        self
    }

    /// The same machine, speaking to another appliance under the same authority.
    pub fn at(&self, base: &str) -> Client {
        Client { base: base.trim_end_matches('/').into(), agent: Arc::clone(&self.agent), bearer: None }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Posts a message and waits for its reply.
    pub fn call<M: Message>(&self, message: &M) -> Result<M::Reply, Error> {
        let url = self.url(M::PATH);
        let body = serde_json::to_vec(message).map_err(|error| Error::Setup(error.to_string()))?;
        let mut answer = self.send("POST", M::PATH, Some(&body), None)?;
        let bytes = read(&mut answer, REPLY_BYTES_MAX, &url)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::Answer { url, detail: error.to_string() })
    }

    /// The `len` bytes at `start` of the resource at `path`. Shorter answers are an error.
    pub fn get_range(&self, path: &str, start: u64, len: u64) -> Result<Vec<u8>, Error> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let url = self.url(path);
        let mut answer = self.send("GET", path, None, Some((start, len)))?;
        let bytes = read(&mut answer, len, &url)?;
        let found = bytes.len() as u64;
        if answer.status() != http::StatusCode::PARTIAL_CONTENT || found != len {
            let status = answer.status().as_u16();
            let detail = format!("asked for bytes {start}+{len}, got {found} with status {status}");
            return Err(Error::Answer { url, detail });
        }
        Ok(bytes)
    }

    /// The whole resource at `path`, at most `bytes_max`.
    pub fn get(&self, path: &str, bytes_max: u64) -> Result<Vec<u8>, Error> {
        let mut answer = self.send("GET", path, None, None)?;
        read(&mut answer, bytes_max, &self.url(path))
    }

    /// Posts bytes as they are; what is answered, at most `REPLY_BYTES_MAX`.
    pub fn post(&self, path: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut answer = self.send("POST", path, Some(bytes), None)?;
        read(&mut answer, REPLY_BYTES_MAX, &self.url(path))
    }

    /// A request of the people's API: any method, JSON in, JSON out (`null` for an empty answer).
    pub fn json(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Error> {
        let bytes = body.map(|value| value.to_string().into_bytes());
        let mut answer = self.send(method, path, bytes.as_deref(), None)?;
        let bytes = read(&mut answer, REPLY_BYTES_MAX, &self.url(path))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| Error::Answer { url: self.url(path), detail: error.to_string() })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<&[u8]>,
        range: Option<(u64, u64)>,
    ) -> Result<http::Response<Body>, Error> {
        let url = self.url(path);
        let agent = self.agent.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut request = http::Request::builder().method(method).uri(&url);
        if let Some(token) = &self.bearer {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if let Some((start, len)) = range {
            request = request.header("range", format!("bytes={start}-{}", start + len - 1));
        }
        let answer = match body {
            Some(bytes) => request
                .header("content-type", "application/json")
                .body(bytes)
                .map_err(|error| Error::Setup(error.to_string()))
                .and_then(|request| agent.run(request).map_err(|source| reach(&url, source))),
            None => request
                .body(())
                .map_err(|error| Error::Setup(error.to_string()))
                .and_then(|request| agent.run(request).map_err(|source| reach(&url, source))),
        }?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(url, answer)) }
    }
}

/// The authority's certificate as PEM, fetched from `url` without trust and accepted only if the SHA-256 of its DER is
/// `fingerprint` (lower-case hexadecimal).
pub fn fetch_authority(url: &str, fingerprint: &str) -> Result<String, Error> {
    let mut answer = Agent::new_with_config(settings().build()).get(url).call().map_err(|source| reach(url, source))?;
    if !answer.status().is_success() {
        return Err(refusal(url.to_owned(), answer));
    }
    let bytes = read(&mut answer, AUTHORITY_BYTES_MAX, url)?;
    let pem = String::from_utf8(bytes).map_err(|_| Error::Answer { url: url.to_owned(), detail: "not text".into() })?;
    let found = authority_fingerprint(&pem)?;
    if found == fingerprint.to_ascii_lowercase() {
        Ok(pem)
    } else {
        Err(Error::Authority { url: url.to_owned(), expected: fingerprint.to_owned(), found })
    }
}

/// What the server at `url` says the date is (RFC 9110 6.6.1). Nothing vouches for it.
pub fn server_date(url: &str) -> Result<Option<String>, Error> {
    let answer = Agent::new_with_config(settings().build()).get(url).call().map_err(|source| reach(url, source))?;
    Ok(answer.headers().get("date").and_then(|date| date.to_str().ok()).map(str::to_owned))
}

/// SHA-256 of the DER of a PEM certificate, lower-case hexadecimal.
pub fn authority_fingerprint(pem: &str) -> Result<String, Error> {
    Ok(hex::emit(&Sha256::digest(certificate_der(pem)?)))
}

/// Calls until it succeeds or fails for good. After each passing failure `decide(attempt, error)` says whether to go on;
/// it is where the waiting is shown to a person.
pub fn patiently<T>(
    backoff: Backoff,
    mut decide: impl FnMut(u32, &Error) -> ControlFlow<()>,
    mut call: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    let seed = u64::from(std::process::id());
    for attempt in 0.. {
        match call() {
            Err(error) if error.is_transient() && decide(attempt, &error).is_continue() => {
                thread::sleep(backoff.delay(attempt, seed));
            }
            done => return done,
        }
    }
    unreachable!("the loop above has no end but its return")
}

fn trusting(authority_pem: &str, credentials: Option<&Credentials>) -> Result<Agent, Error> {
    let tls = trust::configuration(&certificate_der(authority_pem)?, credentials)?;
    Ok(Agent::new_with_config(settings().tls_config(tls).build()))
}

fn settings() -> ureq::config::ConfigBuilder<ureq::typestate::AgentScope> {
    Agent::config_builder()
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_recv_body(Some(PATIENCE * 6))
        .max_idle_connections(IDLE_CONNECTIONS_MAX)
        .max_idle_connections_per_host(IDLE_CONNECTIONS_MAX)
        .user_agent(concat!("remint/", env!("CARGO_PKG_VERSION")))
}

fn certificate_der(pem: &str) -> Result<Vec<u8>, Error> {
    use rustls::pki_types::pem::PemObject;
    let parsed = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes());
    parsed.map(|der| der.to_vec()).map_err(|_| Error::Setup("the authority's certificate is not PEM".into()))
}

fn reach(url: &str, source: ureq::Error) -> Error {
    Error::Reach { url: url.to_owned(), source: Box::new(source) }
}

/// Turns problem+json (RFC 9457) into an error with its detail and hint.
fn refusal(url: String, mut answer: http::Response<Body>) -> Error {
    let status = answer.status().as_u16();
    let text = answer.body_mut().with_config().limit(64 << 10).read_to_string().unwrap_or_default();
    let problem: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
    let field = |name: &str| problem[name].as_str().map(str::to_owned);
    let detail = field("detail").or_else(|| field("title")).unwrap_or_else(|| text.chars().take(200).collect());
    Error::Refused { url, status, detail, hint: field("hint") }
}

fn read(answer: &mut http::Response<Body>, bytes_max: u64, url: &str) -> Result<Vec<u8>, Error> {
    // ureq takes a body that is as long as its limit for one that is too long.
    answer.body_mut().with_config().limit(bytes_max.saturating_add(1)).read_to_vec().map_err(|source| match source {
        ureq::Error::BodyExceedsLimit(_) => {
            Error::Answer { url: url.to_owned(), detail: format!("longer than {bytes_max} bytes") }
        }
        source => reach(url, source),
    })
}
