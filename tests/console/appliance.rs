//! `remint serve` on the loopback interface, and machines that speak to it as real ones do.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use remint::link::client::{Client, Credentials, authority_fingerprint, fetch_authority};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_remint");

pub(crate) struct Appliance {
    child: Child,
    pub(crate) base: String,
    pub(crate) invitation: String,
    authority: String,
    pub(crate) site: PathBuf,
    pub(crate) tftp_port: u16,
}

impl Appliance {
    pub(crate) fn start(folder: &Path) -> Appliance {
        Appliance::start_with(folder, "off")
    }

    /// `dhcp` is the mode; `proxy` takes port 67.
    pub(crate) fn start_with(folder: &Path, dhcp: &str) -> Appliance {
        let site = folder.join("site");
        let made = remint(&site, &["init", "--name", "lab"]);
        let invitation = made["invitation"].as_str().unwrap().to_owned();
        let mut appliance = Appliance::serve(site, dhcp);
        appliance.invitation = invitation;
        appliance
    }

    /// A site that is there, on ports that are free.
    pub(crate) fn serve(site: PathBuf, dhcp: &str) -> Appliance {
        let [http, https, tftp_port] = ports();
        let configuration = format!(
            "[network]\ninterface = \"lo\"\nhttp_port = {http}\nhttps_port = {https}\ntftp_port = {tftp_port}\n\n[dhcp]\nmode = \"{dhcp}\"\n"
        );
        fs::write(site.join("remint.toml"), configuration).unwrap();
        let log = fs::File::create(site.with_extension("log")).unwrap();
        let child = Command::new(PROGRAM)
            .args(["serve", "--data"])
            .arg(&site)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let base = format!("https://127.0.0.1:{https}");
        let pem = fs::read_to_string(site.join("keys/authority.pem")).unwrap();
        let fingerprint = authority_fingerprint(&pem).unwrap();
        let begun = Instant::now();
        let authority = loop {
            match fetch_authority(&format!("http://127.0.0.1:{http}/boot/authority.pem"), &fingerprint) {
                Ok(authority) => break authority,
                Err(error) => {
                    assert!(begun.elapsed() < Duration::from_secs(30), "the appliance does not answer: {error}")
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        Appliance { child, base, invitation: String::new(), authority, site, tftp_port }
    }

    pub(crate) fn administrators_token(&self) -> String {
        let made = Command::new(PROGRAM)
            .args(["token", "create", "test", "--role", "administrator", "--data"])
            .arg(&self.site)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn get(&self, path: &str, token: &str) -> Vec<u8> {
        self.client(None).with_token(token).get(path, 16 << 20).unwrap()
    }

    /// A connection to the console and the API, with nothing said on it yet.
    pub(crate) fn connect(&self) -> impl Read + Write + use<> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
        let address = self.base.trim_start_matches("https://");
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let session = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        rustls::StreamOwned::new(session, TcpStream::connect(address).unwrap())
    }

    /// The document that the API gives.
    pub(crate) fn ask(&self, path: &str, token: &str) -> Value {
        serde_json::from_slice(&self.get(path, token)).unwrap()
    }

    fn client(&self, credentials: Option<&Credentials>) -> Client {
        Client::new(&self.base, &self.authority, credentials).unwrap()
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a command says of the site, as a document; nothing where it says nothing.
pub(crate) fn remint(site: &Path, arguments: &[&str]) -> Value {
    let output = Command::new(PROGRAM).args(["--json", "--data"]).arg(site).args(arguments).output().unwrap();
    assert!(output.status.success(), "remint {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

/// Free ports; nobody else takes them in the moment until they are bound.
fn ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// A machine that exists in its words only.
pub(crate) struct Machine {
    pub(crate) serial: String,
    key: rcgen::KeyPair,
    client: Client,
    credentials: Option<Credentials>,
    run: Option<String>,
    entries: u64,
    lines: u64,
}

impl Machine {
    pub(crate) fn new(appliance: &Appliance, serial: &str) -> Machine {
        let key = rcgen::KeyPair::generate().unwrap();
        let (serial, client) = (serial.to_owned(), appliance.client(None));
        Machine { serial, key, client, credentials: None, run: None, entries: 0, lines: 0 }
    }

    /// What the test calls it, when it has a name.
    pub(crate) fn name(&self) -> String {
        self.serial.replace("S-100", "lab1-0")
    }

    fn model(&self) -> &'static str {
        if self.serial.ends_with(['2', '5']) { "LabBook 14" } else { "LabBox 3" }
    }

    fn number(&self) -> u32 {
        self.serial.bytes().fold(0u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
    }

    pub(crate) fn mac(&self) -> [u8; 6] {
        let [_, high, middle, low] = self.number().to_be_bytes();
        [0x52, 0x54, 0, high, middle, low]
    }

    /// From now on it speaks to this one, as who it is.
    pub(crate) fn move_to(&mut self, appliance: &Appliance) {
        self.client = appliance.client(self.credentials.as_ref());
    }

    /// Checks in once; whether it was let in.
    pub(crate) fn check_in(&mut self, appliance: &Appliance) -> bool {
        let request = rcgen::CertificateParams::default().serialize_request(&self.key).unwrap().pem().unwrap();
        let number = self.number();
        let mac = self.mac().map(|byte| format!("{byte:02x}")).join(":");
        let answer = self.client.json("POST", "/link/v1/check-in", Some(&json!({
            "stage": "boot-environment",
            "identity": {
                "system_serial": self.serial, "board_serial": self.serial, "manufacturer": "LabCo", "model": self.model(),
                "macs": [mac], "uuid": format!("11111111-2222-4333-8444-{number:012x}"),
            },
            "arrived_by": mac,
            "request_pem": request,
            "hardware": hardware(&self.serial, self.model(), &mac),
            "agent": "test",
        }))).unwrap();
        if let Some(certificate) = answer["certificate_pem"].as_str() {
            let credentials =
                Credentials { certificate_pem: certificate.to_owned(), key_pem: self.key.serialize_pem() };
            self.client = appliance.client(Some(&credentials));
            self.credentials = Some(credentials);
        }
        answer["verdict"] == "approved"
    }

    /// What is answered does not matter, but that it is taken.
    pub(crate) fn tell(&self, path: &str, message: &Value) {
        self.client.json("POST", path, Some(message)).unwrap();
    }

    /// Asks for its run once.
    fn due(&mut self) -> Option<Value> {
        let place = json!({ "place": "boot-environment" });
        let order = self.client.json("POST", "/link/v1/run", Some(&place)).unwrap()["order"].clone();
        let run = order["run"].as_str()?.to_owned();
        (self.run, self.entries, self.lines) = (Some(run), 0, 0);
        Some(order)
    }

    /// Asks for its run until there is one.
    pub(crate) fn fetch(&mut self) -> Value {
        first_due(std::slice::from_mut(self)).1
    }

    fn post(&mut self, entries: &[Value], lines: &[&str], progress: Option<Value>) -> Value {
        let lines: Vec<Value> = lines.iter().map(|text| json!({ "at": now(), "item": "1", "text": text })).collect();
        let reply = self.client.json("POST", "/link/v1/run-events", Some(&json!({
            "run": self.run, "journal_from": self.entries, "journal": entries, "boot": "b", "lines_from": self.lines,
            "lines": lines, "progress": progress, "sent_at": now(),
        })));
        self.entries += entries.len() as u64;
        self.lines += lines.len() as u64;
        reply.unwrap()
    }

    pub(crate) fn begin(&mut self, item: &str) {
        self.post(
            &[json!({ "at": now(), "item": item, "what": "started", "attempt": 1, "boot": "b" })],
            &["begun"],
            None,
        );
    }

    pub(crate) fn report(&mut self, item: &str, done: u64, total: u64) {
        let progress = json!({ "item": item, "done": done, "total": total, "unit": "bytes", "note": "112 MB/s" });
        self.post(&[], &[], Some(progress));
    }

    pub(crate) fn finish(&mut self, item: &str, error: Option<&str>) {
        let result = if error.is_some() { "failed" } else { "done" };
        let hint = error.map(|_| "is the cable in?");
        let entry = json!({
            "at": now(), "item": item, "what": "finished", "result": result, "error": error, "hint": hint,
            "evidence": { "written_bytes": 1_500_000_000u64 },
        });
        self.post(&[entry], &["over"], None);
    }

    pub(crate) fn end(&mut self, result: &str) {
        self.post(&[json!({ "at": now(), "item": "", "what": "ended", "result": result })], &[], None);
    }

    /// What the appliance wants of its run.
    pub(crate) fn directive(&mut self) -> String {
        self.post(&[], &[], None)["directive"].as_str().unwrap().to_owned()
    }
}

/// The first of the machines that has a run, and the order of that run; asks until there is one.
pub(crate) fn first_due(machines: &mut [Machine]) -> (usize, Value) {
    let begun = Instant::now();
    loop {
        let due = machines.iter_mut().enumerate().find_map(|(at, machine)| Some((at, machine.due()?)));
        if let Some(due) = due {
            return due;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "no run is due");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}

fn hardware(serial: &str, model: &str, mac: &str) -> Value {
    json!({
        "architecture": "x86_64",
        "system": { "manufacturer": "LabCo", "product": model, "serial": serial },
        "firmware": { "kind": "uefi", "vendor": "LabCo", "version": "1.4", "secure_boot": true },
        "processor": { "model": "Example CPU 3.2 GHz", "sockets": 1, "cores": 4, "threads": 8 },
        "memory": { "total_bytes": if model == "LabBox 3" { 16_600_000_000u64 } else { 33_300_000_000 } },
        "disks": [{
            "name": "nvme0n1", "bytes": 512_110_190_592u64, "sector_bytes": 512, "model": "Fast Disk 512",
            "serial": format!("D-{serial}"), "transport": "nvme",
            "partitions": [
                { "number": 1, "name": "EFI system", "start": 1u64 << 20, "bytes": 536_870_912u64, "filesystem": "fat32", "label": "EFI" },
                { "number": 2, "name": "root", "start": 537_919_488u64, "bytes": 322_122_547_200u64, "filesystem": "ext4", "label": "system", "used_bytes": 48_318_382_080u64, "mounted_at": "/" },
                { "number": 3, "start": 322_660_466_688u64, "bytes": 17_179_869_184u64, "filesystem": "swap" },
            ],
        }],
        "adapters": [{ "name": "eth0", "mac": mac, "permanent_mac": mac, "driver": "e1000e", "link": true, "megabits": 1000, "bus": "pci" }],
    })
}
