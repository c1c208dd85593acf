//! One round of the baseline: ask what this machine must have, make it so, say what was found.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::images;
use super::state::{Folder, Identity};
use crate::link;
use crate::link::client::Client;
use crate::software::converge::converge;
use crate::software::host::System;
use crate::software::link::{FetchPolicy, Payload, Policy, ReportCompliance, Wanted};
use crate::software::model::Finding;
use crate::stdx::digest::sha256_of_file;
use crate::stdx::hint::{Hint, chain};
use crate::stdx::time::{Clock, SystemClock};
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
    told: &mut dyn FnMut(&str),
) -> Result<Round, link::Error> {
    let policy = client.call(&FetchPolicy {})?;
    let findings = work(&policy, client, identity, folder, told);
    Ok(Round { policy, findings })
}

/// Works through a policy that is known already: the appliance may be away.
pub fn work(
    policy: &Policy,
    client: &Client,
    identity: &Identity,
    folder: &Folder,
    told: &mut dyn FnMut(&str),
) -> Vec<Finding> {
    let packages = folder.packages();
    let scratch = packages.join("scratch");
    // What a killed agent left behind.
    let _ = fs::remove_dir_all(&scratch);
    let mut system = System::new(&scratch);
    let mut fetch = |wanted: &Wanted, payload: &Payload| fetch(client, identity, &packages, wanted, payload);
    converge(policy, &mut system, &mut fetch, told)
}

/// The payload in a local file, which is made to match: what an earlier version has in common is not fetched again.
fn fetch(
    client: &Client,
    identity: &Identity,
    packages: &Path,
    wanted: &Wanted,
    payload: &Payload,
) -> Result<PathBuf, String> {
    let extension = extension(&wanted.package.payload);
    let path = packages.join(format!("{}{extension}", wanted.package.name));
    images::apply_file(client, &identity.site_public_key, &payload.version, &path).map_err(|error| chain(&error))?;
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
    let round = round(client, identity, folder, told).map_err(|error| unreachable(&error))?;
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
