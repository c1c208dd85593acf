//! Scripts and boot files over HTTP, for firmware, iPXE and GRUB.

use std::net::{IpAddr, Ipv4Addr};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use serde::Deserialize;

use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::pxe::boot::Boot;
use crate::pxe::client::{Client, Transport};
use crate::pxe::local::Content;
use crate::pxe::menu::Start;
use crate::pxe::names::{Netboot, shown};
use crate::pxe::recorder::{Ended, Explained, Recorder};
use crate::pxe::script;
use crate::stdx::mac::MacAddr;

const FIRMWARE_CANNOT: &str = "firmware has no credentials; what it gets is the same for everybody and holds no secret";

pub fn routes(netboot: Netboot) -> Table {
    Routes::new()
        .get("/boot/ipxe", Access::Boot(FIRMWARE_CANNOT), "The iPXE script of the machine that asks", ipxe)
        .get("/boot/files/{*name}", Access::Boot(FIRMWARE_CANNOT), "A boot file", file)
        .get("/grub/{*name}", Access::Boot(FIRMWARE_CANNOT), "GRUB's configuration for the machine that asks", grub)
        .get("/api/v1/boots", Access::Person(Capability::Read), "What became of each boot, in words", boots)
        .with_state(netboot)
}

/// What iPXE puts into the URL of its script.
#[derive(Deserialize)]
pub struct IpxeQuery {
    #[serde(default)]
    mac: String,
    #[serde(default)]
    uuid: String,
    #[serde(default)]
    arch: String,
    #[serde(default)]
    platform: String,
    /// What was chosen from the menu.
    pub entry: Option<String>,
    #[serde(default)]
    pub password: String,
}

impl IpxeQuery {
    /// The words after the question mark.
    pub fn parse(query: &str) -> Option<IpxeQuery> {
        let uri = Uri::try_from(format!("/?{query}")).ok()?;
        Query::try_from_uri(&uri).ok().map(|Query(query)| query)
    }

    pub fn client(&self) -> Client {
        Client::from_ipxe(self.mac.parse().ok(), Some(&self.uuid), &self.arch, &self.platform)
    }
}

async fn ipxe(
    State(netboot): State<Netboot>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let query = IpxeQuery::parse(&query.unwrap_or_default())
        .ok_or_else(|| Problem::bad_request("a boot script is asked for by mac, uuid, arch and platform".to_owned()))?;
    let server = asked_address(&headers).unwrap_or(netboot.address);
    // A password is compared slowly on purpose.
    let text = match query.entry {
        Some(_) => blocking(move || Ok(ipxe_script(&netboot, &query, server))).await?,
        None => ipxe_script(&netboot, &query, server),
    };
    Ok(answer(Bytes::from(text), "text/plain; charset=utf-8"))
}

/// What this iPXE is to do.
pub fn ipxe_script(netboot: &Netboot, query: &IpxeQuery, server: Ipv4Addr) -> String {
    let Netboot { config, recorder, .. } = netboot;
    let client = query.client();
    let mac = client.mac;
    let (boot, menu) = netboot.next(&client);
    let shown_mac = query.mac.escape_debug().to_string();
    tracing::info!(mac = shown_mac, firmware = %client.firmware, menu = menu.is_some(), "script: {boot:?}");
    let start = match (menu, &query.entry) {
        (None, _) => Start::Boot(boot),
        (Some(menu), None) => {
            recorder.menu(mac);
            return script::menu::ipxe_menu(menu, &client, &boot, config, server);
        }
        (Some(menu), Some(name)) => match menu.chosen(name, &query.password, &client, &boot) {
            Some(start) => start,
            None => {
                tracing::warn!(mac = shown_mac, "boot menu: a wrong password, or no entry of its menu");
                recorder.refused_choice(mac);
                return script::menu::ipxe_refused(&client, config, server);
            }
        },
    };
    note(recorder, mac, &start, query.entry.as_deref().unwrap_or_default());
    match &start {
        Start::Boot(Boot::BootEnvironment { kernel, .. }) if netboot.files.content(kernel).is_none() => {
            script::ipxe_without_files(&client, config, server)
        }
        start => script::menu::ipxe_start(start, &client, config, server),
    }
}

fn note(recorder: &Recorder, mac: Option<MacAddr>, start: &Start, name: &str) {
    match start {
        Start::Boot(boot) => recorder.script(mac, boot),
        Start::Kernel { is_boot_environment: true, .. } => recorder.boot_environment(mac),
        Start::Kernel { .. } | Start::Efi(_) | Start::MemoryTest(_) => recorder.chose(mac, name),
    }
}

/// The address that the client used to reach us: right on each of several interfaces.
fn asked_address(headers: &HeaderMap) -> Option<Ipv4Addr> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    host.split(':').next()?.parse().ok()
}

async fn file(
    State(netboot): State<Netboot>,
    caller: Caller,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let content = netboot.files.content(&name);
    record(&netboot, &caller, &name, content.is_some());
    let content = content.ok_or_else(|| {
        Problem::not_found(format!("there is no boot file `{}`", name.escape_debug()))
            .with_hint("`remint boot build` makes them")
    })?;
    Ok(match range(&headers, content.len() as u64) {
        Some((start, end)) => partial(content, start, end),
        None => answer(Bytes::from_owner(content), "application/octet-stream"),
    })
}

fn record(netboot: &Netboot, caller: &Caller, name: &str, found: bool) {
    if let Some(IpAddr::V4(peer)) = caller.address.map(|address| address.ip()) {
        let ended = if found { Ended::Asked } else { Ended::Missing };
        netboot.recorder.file(peer, shown(name), Transport::Http, ended);
    }
}

#[derive(Deserialize)]
struct BootsQuery {
    mac: Option<MacAddr>,
}

async fn boots(State(netboot): State<Netboot>, Query(query): Query<BootsQuery>) -> Json<Vec<Explained>> {
    Json(netboot.recorder.list(query.mac))
}

/// GRUB that was loaded over HTTP looks below `/grub`, which is built into it.
async fn grub(
    State(netboot): State<Netboot>,
    caller: Caller,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<Response, Problem> {
    let server = asked_address(&headers).unwrap_or(netboot.address);
    let name = format!("grub/{name}");
    let content = netboot.content(&name, server);
    record(&netboot, &caller, &name, content.is_some());
    let content = content.ok_or_else(|| Problem::not_found("GRUB has what it needs built in"))?;
    Ok(answer(Bytes::from_owner(content), "text/plain; charset=utf-8"))
}

fn answer(body: Bytes, kind: &'static str) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    response
}

fn partial(content: Content, start: u64, end: u64) -> Response {
    let total = content.len();
    let body = Bytes::from_owner(content).slice(start as usize..=end as usize);
    let mut response = answer(body, "application/octet-stream");
    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    if let Ok(value) = HeaderValue::from_str(&format!("bytes {start}-{end}/{total}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// First and last byte of a `Range` with one range that the file can satisfy (RFC 9110 section 14.1.2); anything else is
/// answered with the whole file, as that RFC allows.
fn range(headers: &HeaderMap, size: u64) -> Option<(u64, u64)> {
    let (first, last) = headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    let last_byte = size.checked_sub(1)?;
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(end)) => (start, end.min(last_byte)),
        (Ok(start), Err(_)) if last.is_empty() => (start, last_byte),
        (Err(_), Ok(suffix)) if first.is_empty() && suffix > 0 => (size.saturating_sub(suffix), last_byte),
        _ => return None,
    };
    (start <= end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_served_where_they_can_be_and_ignored_elsewhere() {
        let check = |value: &'static str, expect| {
            let headers = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static(value))]);
            assert_eq!(range(&headers, 100), expect, "{value}");
        };
        check("bytes=0-9", Some((0, 9)));
        check("bytes=90-", Some((90, 99)));
        check("bytes=-10", Some((90, 99)));
        check("bytes=90-900", Some((90, 99)));
        check("bytes=-900", Some((0, 99)));
        for refused in ["bytes=100-", "bytes=9-3", "bytes=-0", "bytes=-", "lines=0-9", "bytes=0-1,5-6", "bytes=a-b"] {
            check(refused, None);
        }
        assert_eq!(range(&HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static("bytes=0-"))]), 0), None);
    }

    #[test]
    fn the_address_is_the_one_that_the_client_used() {
        let asked = |host| asked_address(&HeaderMap::from_iter([(header::HOST, HeaderValue::from_static(host))]));
        assert_eq!(asked("10.0.0.1:8080"), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(asked("10.0.0.1"), Some(Ipv4Addr::new(10, 0, 0, 1)));
        assert_eq!(asked("remint.example"), None);
    }
}
