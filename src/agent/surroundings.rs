//! What a run's host does not know and the program around it does: hardware, images, the agent's own files, packages.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::baseline;
use super::images;
use super::state::{self, Folder, Identity};
use crate::imaging::intake::Receiver;
use crate::imaging::manifest::Manifest;
use crate::imaging::store::ChunkSource;
use crate::inventory::hardware;
use crate::link;
use crate::link::client::{Client, patiently};
use crate::stdx::backoff::Backoff;
use crate::stdx::digest::sha256_of_file;
use crate::stdx::hint::{Hint, chain};
use crate::stdx::time::{Clock, SystemClock};
use crate::tasksequence::capture::link::Appliance;
use crate::tasksequence::host::real::Surroundings;
use crate::tasksequence::host::{self, Capture, Disk, FileContent, Hardware, HostError, Watch};
use crate::tasksequence::journal::{Entry, emit};
use crate::tasksequence::link::{AskSecrets, ImageGrant, RunId, RunOrder, THROUGHPUT_BYTES, THROUGHPUT_PATH};
use crate::tasksequence::model::{ItemId, Values};

/// A few minutes of an appliance that restarts.
const SECRETS_ATTEMPTS_MAX: u32 = 12;

/// This machine, enrolled with `identity` and talking through `client`.
pub struct Around {
    pub client: Client,
    pub identity: Identity,
    /// The agent's folder in the installed system; in the boot environment nothing is kept.
    pub folder: Option<Folder>,
}

impl Surroundings for Around {
    fn hardware(&mut self) -> Result<Hardware, HostError> {
        let found = hardware::collect(Path::new("/"));
        Ok(Hardware {
            memory_bytes: found.memory.total_bytes,
            processors: found.processor.threads,
            firmware: found.firmware.kind,
            architecture: found.architecture,
        })
    }

    fn disks(&mut self) -> Result<Vec<Disk>, HostError> {
        Ok(hardware::disks(Path::new("/sys")).into_iter().map(Disk::from).collect())
    }

    fn image(&mut self, image: &ImageGrant) -> Result<(Manifest, Box<dyn ChunkSource>), HostError> {
        images::open(&self.client, &self.identity.site_public_key, &image.version)
            .map_err(|error| HostError { transient: error.is_transient(), ..failed(&error) })
    }

    fn secrets(&mut self, run: &RunId, item: &ItemId) -> Result<Values, HostError> {
        let question = AskSecrets { run: run.clone(), item: item.clone() };
        let decide = |attempt, _: &link::Error| match attempt < SECRETS_ATTEMPTS_MAX {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        let released = patiently(Backoff::PATIENT, decide, || self.client.call(&question));
        released.map(|secrets| secrets.values).map_err(|error| failed(&error))
    }

    fn throughput(&mut self, duration: Duration) -> Result<(u64, Duration), HostError> {
        let (begun, mut bytes) = (Instant::now(), 0);
        while begun.elapsed() < duration {
            let fetched = self.client.get(THROUGHPUT_PATH, 2 * THROUGHPUT_BYTES);
            bytes += fetched.map_err(|error| failed(&error))?.len() as u64;
        }
        Ok((bytes, begun.elapsed()))
    }

    fn receiver(&mut self, capture: &Capture) -> Result<Box<dyn Receiver>, HostError> {
        let Capture { run, image, tag } = capture.clone();
        Ok(Box::new(Appliance { client: self.client.clone(), run, image, tag }))
    }

    fn install_agent(&mut self, root: &Path, _: &RunOrder) -> Result<Map<String, Value>, HostError> {
        put_agent(root, &self.identity)?;
        let program =
            sha256_of_file(&within(root, state::PROGRAM)).map_err(|error| HostError::new(error.to_string()))?;
        let mut evidence = Map::new();
        evidence.insert("agent".into(), json!(env!("CARGO_PKG_VERSION")));
        evidence.insert("sha256".into(), json!(program));
        evidence.insert("service".into(), json!(state::UNIT_PATH));
        Ok(evidence)
    }

    fn agent_is_installed(&mut self, root: &Path, _: &RunOrder) -> Result<bool, HostError> {
        for file in agent_files(&self.identity)? {
            let found = host::root::read(root, file.path).ok().flatten();
            if found.is_none_or(|found| found.bytes != file.bytes) {
                return Ok(false);
            }
        }
        Ok(fs::symlink_metadata(within(root, WANTED_BY)).is_ok())
    }

    fn install_baseline(&mut self, watch: &mut dyn Watch) -> Result<Map<String, Value>, HostError> {
        let folder = self.folder.clone().ok_or_else(|| HostError::new("the baseline needs the installed system"))?;
        let mut told = |text: &str| watch.line(SystemClock.now(), text);
        baseline::converge_now(&self.client, &self.identity, &folder, &mut told)
    }

    /// The order carries the journal as it is; the file that the agent goes on with holds the same entries.
    fn hand_over(&mut self, root: &Path, order: &RunOrder, journal: &[Entry]) -> Result<(), HostError> {
        let order = RunOrder { journal: journal.to_vec(), ..order.clone() };
        let order = serde_json::to_vec(&order).map_err(|error| HostError::new(error.to_string()))?;
        let path = |name: &str| format!("{}/{name}", state::FOLDER);
        let private = |bytes: Vec<u8>| FileContent { bytes, mode: 0o600 };
        write(root, &path("run/journal"), &private(emit(journal)))?;
        write(root, &path("run/order.json"), &private(order))
    }
}

/// A file of the agent in an installed system.
struct AgentFile {
    path: &'static str,
    bytes: Vec<u8>,
    mode: u32,
}

fn agent_files(identity: &Identity) -> Result<[AgentFile; 3], HostError> {
    let program = fs::read("/proc/self/exe").map_err(|error| HostError::new(format!("read the agent: {error}")))?;
    Ok([
        AgentFile { path: state::PROGRAM, bytes: program, mode: 0o755 },
        AgentFile { path: state::UNIT_PATH, bytes: state::UNIT.into(), mode: 0o644 },
        AgentFile { path: AGENT_JSON, bytes: identity.to_json(), mode: 0o600 },
    ])
}

/// Puts this program, its identity and its service into the system at `root`; the service starts with the system.
pub(super) fn put_agent(root: &Path, identity: &Identity) -> Result<(), HostError> {
    for file in agent_files(identity)? {
        put(root, &file)?;
    }
    enable_service(root)
}

const AGENT_JSON: &str = "/var/lib/remint/agent.json";
/// What `systemctl enable` makes.
const WANTED_BY: &str = "/etc/systemd/system/multi-user.target.wants/remint-agent.service";

fn put(root: &Path, file: &AgentFile) -> Result<(), HostError> {
    write(root, file.path, &FileContent { bytes: file.bytes.clone(), mode: file.mode })
}

fn write(root: &Path, path: &str, content: &FileContent) -> Result<(), HostError> {
    host::root::write(root, path, content)
        .map_err(|error| HostError::new(format!("write {path}: {error}")).hint("is the file system full, or damaged?"))
}

fn enable_service(root: &Path) -> Result<(), HostError> {
    let link = within(root, WANTED_BY);
    let made = link.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| match fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::os::unix::fs::symlink(state::UNIT_PATH, &link),
    });
    made.map_err(|error| HostError::new(format!("enable the agent's service: {error}")))
}

fn within(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

fn failed<E: std::error::Error + Hint + 'static>(error: &E) -> HostError {
    HostError { message: chain(error), hint: error.hint(), transient: false }
}
