//! Where a command works: the site folder or a far appliance.

use std::cell::OnceCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Failure;
use crate::link::client::{Client, fetch_authority};
use crate::server::local::LocalApi;
use crate::server::site::{Site, control_socket};

/// What a command takes as a file from the appliance.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Options that every command takes.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// Folder of the site
    #[arg(
        long,
        global = true,
        env = "REMINT_DATA",
        value_name = "DIR",
        default_value = "/var/lib/remint-site",
        help_heading = "Place"
    )]
    pub data: PathBuf,
    /// Work on a far appliance, as https://ADDRESS; REMINT_TOKEN holds an API token
    #[arg(long, global = true, env = "REMINT_SERVER", value_name = "URL", help_heading = "Place")]
    pub server: Option<String>,
    /// SHA-256 of that appliance's authority (shown by `remint serve`)
    #[arg(long, global = true, env = "REMINT_AUTHORITY", value_name = "HEX", help_heading = "Place")]
    pub authority: Option<String>,
    #[arg(long, global = true, env = "REMINT_TOKEN", hide = true, hide_env_values = true)]
    pub token: Option<String>,
    /// Print JSON
    #[arg(long, global = true, help_heading = "Output")]
    pub json: bool,
}

pub struct Context {
    pub place: Place,
    api: OnceCell<Api>,
}

impl Context {
    pub fn new(place: Place) -> Context {
        Context { place, api: OnceCell::new() }
    }

    pub fn json(&self) -> bool {
        self.place.json
    }

    pub fn data(&self) -> &Path {
        &self.place.data
    }

    /// The site's own files; refused with `--server`.
    pub fn site(&self) -> Result<Site, Failure> {
        if self.place.server.is_some() {
            return Err(Failure::new("this command works on the site's own files")
                .with_hint("run it where the site is, with --data and without --server"));
        }
        Ok(Site::open(&self.place.data, None)?)
    }

    /// The people's API of the appliance or of the site.
    pub fn api(&self) -> Result<&Api, Failure> {
        if self.api.get().is_none() {
            let api = self.connect()?;
            return Ok(self.api.get_or_init(|| api));
        }
        Ok(self.api.get_or_init(|| unreachable!("it was just looked at")))
    }

    fn connect(&self) -> Result<Api, Failure> {
        if let Some(url) = &self.place.server {
            return self.far(url);
        }
        let socket = control_socket(&self.place.data);
        if UnixStream::connect(&socket).is_ok() {
            return Ok(Api(Way::Socket(socket)));
        }
        Ok(Api(Way::Local(Box::new(LocalApi::open(&Site::open(&self.place.data, None)?)?))))
    }

    fn far(&self, url: &str) -> Result<Api, Failure> {
        let Some(fingerprint) = &self.place.authority else {
            return Err(Failure::new("which authority does that appliance have?")
                .with_hint("give --authority with the fingerprint that `remint serve` shows when it starts"));
        };
        let Some(token) = &self.place.token else {
            return Err(Failure::new("REMINT_TOKEN is not set")
                .with_hint("`remint token create NAME --role ROLE` on the appliance makes one"));
        };
        let pem = fetch_authority_over_tls(url, fingerprint)?;
        Ok(Api(Way::Far(Client::new(url, &pem, None)?.with_token(token))))
    }
}

/// The certificate comes over plain HTTP and is believed because of its fingerprint.
fn fetch_authority_over_tls(url: &str, fingerprint: &str) -> Result<String, Failure> {
    let host = url.trim_start_matches("https://").split(['/', ':']).next().unwrap_or_default();
    Ok(fetch_authority(&format!("http://{host}/boot/authority.pem"), fingerprint)?)
}

/// The people's API, wherever it is.
pub struct Api(Way);

enum Way {
    Far(Client),
    Socket(PathBuf),
    Local(Box<LocalApi>),
}

impl Api {
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call("GET", path, None)
    }

    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.call("POST", path, Some(body))
    }

    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.call("PUT", path, Some(body))
    }

    pub fn patch<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, Failure> {
        self.call("PATCH", path, Some(body))
    }

    pub fn delete(&self, path: &str) -> Result<(), Failure> {
        self.call::<Value>("DELETE", path, None).map(|_| ())
    }

    /// What is no JSON: a file.
    pub fn bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        match &self.0 {
            Way::Far(client) => Ok(client.get(path, FILE_BYTES_MAX)?),
            Way::Socket(socket) => accepted(over_socket(socket, "GET", path, None)?),
            Way::Local(api) => accepted(api.call("GET", path, None)),
        }
    }

    /// One request; what the appliance refuses comes back as its problem, with its hint.
    fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<&Value>) -> Result<T, Failure> {
        let answer = match &self.0 {
            Way::Far(client) => client.json(method, path, body)?,
            Way::Socket(socket) => understood(&accepted(over_socket(socket, method, path, body)?)?),
            Way::Local(api) => understood(&accepted(api.call(method, path, body))?),
        };
        serde_json::from_value(answer)
            .map_err(|error| Failure::new(format!("understand the answer to {method} {path}: {error}")))
    }
}

/// `null` for an empty answer.
fn understood(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or(Value::Null)
}

fn accepted((status, bytes): (u16, Vec<u8>)) -> Result<Vec<u8>, Failure> {
    if (200..300).contains(&status) {
        return Ok(bytes);
    }
    let body = understood(&bytes);
    let text = |field: &str| body[field].as_str().map(str::to_owned);
    Err(Failure {
        message: text("detail").unwrap_or_else(|| format!("the appliance answered {status}")),
        hint: text("hint"),
    })
}

/// HTTP/1.0 over the control socket: one request, the answer up to the end.
fn over_socket(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Vec<u8>), Failure> {
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(socket)?;
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        // In one piece: a route that does not read the body would otherwise answer before it came, and closing a Unix
        // socket with unread bytes in it takes the answer from us (ECONNRESET).
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let mut answer = exchange()
        .map_err(|error| Failure::new(format!("speak to the appliance through {}: {error}", socket.display())))?;
    let malformed = || Failure::new("the appliance's answer was cut off").with_hint("did it just stop? try again");
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(malformed)?;
    let head = String::from_utf8_lossy(&answer[..end]);
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    Ok((status, answer.split_off(end + 4)))
}
