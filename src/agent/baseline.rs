//! One round of the baseline: ask what this machine must have, make it so, say what was found.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::images;
use super::spool::Spool;
use super::state::{Folder, Identity, StateError};
use crate::inventory::{hardware, software};
use crate::link;
use crate::link::client::Client;
use crate::software::converge::{self, Hours, converge};
use crate::software::host::System;
use crate::software::link::{FetchPolicy, Payload, Policy, ReportCompliance, Wanted};
use crate::software::model::{Facts, Finding};
use crate::stdx::digest::sha256_of_file;
use crate::stdx::hint::{Hint, chain};
use crate::stdx::time::{Clock, SystemClock, Timestamp};
use crate::tasksequence::host::HostError;

/// What the round came to.
pub struct Round {
    pub policy: Policy,
    pub findings: Vec<Finding>,
}

/// Asks for the policy and works through it. The report is left to the caller, who may have to keep it for later.
pub fn round(
    client: &Client,
    identity: &Identity,
    folder: &Folder,
    hours: Hours,
    told: &mut dyn FnMut(&str),
) -> Result<Round, Failure> {
    let policy = client.call(&FetchPolicy {})?;
    let ahead = SystemClock.now().milliseconds() - policy.now.milliseconds();
    let ahead = if policy.now == Timestamp::default() { 0 } else { ahead };
    let findings = work(&policy, client, identity, folder, Watch { hours, ahead }, told)?;
    Ok(Round { policy, findings })
}

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error(transparent)]
    State(#[from] StateError),
}

/// By what windows are kept.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    pub hours: Hours,
    /// Milliseconds by which this machine's clock is ahead of the appliance's.
    pub ahead: i64,
}

/// Works through a policy that is known already: the appliance may be away.
pub fn work(
    policy: &Policy,
    client: &Client,
    identity: &Identity,
    folder: &Folder,
    watch: Watch,
    told: &mut dyn FnMut(&str),
) -> Result<Vec<Finding>, StateError> {
    let packages = folder.packages();
    let scratch = packages.join("scratch");
    // What a killed agent left behind.
    let _ = fs::remove_dir_all(&scratch);
    let spool = Spool::open(folder)?;
    let mut memory = spool.memory();
    let limit = policy.bytes_per_second;
    let findings = converge(
        policy,
        &mut converge::Round {
            machine: &mut System::new(&scratch),
            fetch: &mut |wanted, payload| fetch(client, identity, &packages, limit, wanted, payload),
            told,
            memory: &mut memory,
            // A disk that is full is no reason to stop: the package's own failure says so.
            keep: &mut |memory| drop(spool.keep_memory(memory)),
            now: Timestamp::from_milliseconds(SystemClock.now().milliseconds() - watch.ahead),
            hours: watch.hours,
            facts: facts(&packages),
        },
    );
    Ok(findings)
}

fn facts(packages: &Path) -> Facts {
    let hardware = hardware::collect(Path::new("/"));
    let os = software::os(Path::new("/"));
    let free = nix::sys::statvfs::statvfs(packages).map(|fs| fs.blocks_available().saturating_mul(fs.fragment_size()));
    Facts {
        architecture: hardware.architecture,
        os: os.id,
        os_version: os.version,
        memory_bytes: hardware.memory.total_bytes,
        free_disk_bytes: free.unwrap_or(u64::MAX),
    }
}

/// The payload in a local file, which is made to match: what an earlier version has in common is not fetched again.
fn fetch(
    client: &Client,
    identity: &Identity,
    packages: &Path,
    limit: Option<u64>,
    wanted: &Wanted,
    payload: &Payload,
) -> Result<PathBuf, String> {
    let extension = extension(&wanted.package.payload);
    let path = packages.join(format!("{}{extension}", wanted.package.name));
    images::apply_file(client, &identity.site_public_key, &payload.version, &path, limit)
        .map_err(|error| chain(&error))?;
    let found = sha256_of_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    if found != payload.sha256 {
        return Err(format!("the payload has the digest {found}, expected {}", payload.sha256));
    }
    Ok(path)
}

/// `.deb`, `.tar.gz`: what tells dpkg and tar what it is.
fn extension(payload: &str) -> &'static str {
    const KNOWN: [&str; 6] = [".deb", ".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar"];
    KNOWN.into_iter().find(|known| payload.ends_with(known)).unwrap_or(".payload")
}

/// The step `install-baseline`: the round, reported at once; a package that failed fails the step.
pub fn converge_now(
    client: &Client,
    identity: &Identity,
    folder: &Folder,
    told: &mut dyn FnMut(&str),
) -> Result<Map<String, Value>, HostError> {
    let round = match round(client, identity, folder, Hours::Anytime, told) {
        Err(Failure::Link(error)) => return Err(unreachable(&error)),
        Err(Failure::State(error)) => return Err(HostError::new(chain(&error))),
        Ok(round) => round,
    };
    let report = ReportCompliance { at: SystemClock.now(), findings: round.findings.clone() };
    client.call(&report).map_err(|error| unreachable(&error))?;
    if let Some(failed) = round.findings.iter().find(|finding| !finding.state.is_compliant()) {
        let output = failed.output.lines().next_back().unwrap_or_default();
        let message = format!("{} {}: {} {output}", failed.package, failed.version, failed.reason);
        return Err(HostError::new(message.trim()).hint("the run's log holds the installer's output").transient());
    }
    let listed = round
        .findings
        .iter()
        .map(|finding| (finding.package.clone(), json!({ "version": finding.version, "state": finding.state.name() })));
    Ok(listed.collect())
}

fn unreachable(error: &link::Error) -> HostError {
    HostError { message: chain(error), hint: error.hint(), transient: error.is_transient() }
}
