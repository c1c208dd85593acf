//! Makes a machine have its software: detect, fetch, install, detect again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::link::{Payload, Policy, Wanted};
use super::model::{Compliance, Detection, Finding, Install, Mode, in_order};
use super::version;

/// What a program's output is cut to in a finding.
const OUTPUT_CHARACTERS_MAX: usize = 4000;
/// A detection command that takes longer does not hold.
const DETECTION_PATIENCE: Duration = Duration::from_secs(60);

/// Everything that packages may do to a machine.
pub trait Machine {
    /// The version that dpkg has as `install ok installed`.
    fn dpkg_version(&mut self, name: &str) -> Option<String>;
    /// SHA-256 of the file, lower-case hexadecimal; `None` when there is no such file.
    fn file_sha256(&mut self, path: &str) -> Option<String>;
    fn file_exists(&mut self, path: &str) -> bool;
    /// Runs a program in `folder` and waits for it.
    fn run(&mut self, arguments: &[String], folder: &Path, patience: Duration) -> Result<Ended, String>;
    /// Unpacks an archive into a new folder, which `discard` removes.
    fn unpack(&mut self, archive: &Path) -> Result<PathBuf, String>;
    fn discard(&mut self, folder: &Path);
}

/// How a program ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ended {
    /// The exit code; signals are 128 and the signal's number, as shells count.
    pub code: i32,
    /// The last of both outputs.
    pub output: String,
}

/// Brings a payload into a local file whose content is verified.
pub type Fetch<'a> = dyn FnMut(&Wanted, &Payload) -> Result<PathBuf, String> + 'a;

/// Works through the whole policy. One package that fails does not stop the others, but for those that require it.
pub fn converge(
    policy: &Policy,
    machine: &mut dyn Machine,
    fetch: &mut Fetch,
    told: &mut dyn FnMut(&str),
) -> Vec<Finding> {
    let ordered = match in_order(policy.packages.iter().collect(), |wanted: &&Wanted| &wanted.package) {
        Ok(ordered) => ordered,
        Err(circle) => return circle_findings(policy, &circle),
    };
    let mut failed: BTreeSet<String> = BTreeSet::new();
    let mut findings = Vec::new();
    for wanted in ordered {
        let blocked = wanted.package.requires.iter().find(|name| failed.contains(*name));
        let finding = match blocked {
            Some(name) => finding(wanted, Compliance::Failed, format!("it requires {name}, which failed")),
            None => ensure(wanted, machine, fetch, told),
        };
        if !finding.state.is_compliant() {
            failed.insert(finding.package.clone());
        }
        told(&sentence(&finding));
        findings.push(finding);
    }
    findings
}

fn sentence(finding: &Finding) -> String {
    let what = format!("{} {}: {}", finding.package, finding.version, finding.state.name());
    if finding.reason.is_empty() { what } else { format!("{what}: {}", finding.reason) }
}

fn circle_findings(policy: &Policy, circle: &[String]) -> Vec<Finding> {
    let reason = format!("these packages require each other: {}", circle.join(", "));
    policy.packages.iter().map(|wanted| finding(wanted, Compliance::Failed, reason.clone())).collect()
}

fn ensure(wanted: &Wanted, machine: &mut dyn Machine, fetch: &mut Fetch, told: &mut dyn FnMut(&str)) -> Finding {
    let missing = match undetected(wanted, machine) {
        None => return finding(wanted, Compliance::Held, String::new()),
        Some(missing) => missing,
    };
    if wanted.mode != Mode::Enforce {
        return finding(wanted, Compliance::Missing, format!("not so: {missing}"));
    }
    told(&format!("installing {} {}", wanted.package.name, wanted.package.version));
    match install(wanted, machine, fetch) {
        Err((reason, output)) => Finding { output, ..finding(wanted, Compliance::Failed, reason) },
        Ok(output) => match undetected(wanted, machine) {
            None => Finding { output, ..finding(wanted, Compliance::Installed, String::new()) },
            Some(missing) => {
                let reason = format!("the installation ended well, but it is still not so: {missing}");
                Finding { output, ..finding(wanted, Compliance::Failed, reason) }
            }
        },
    }
}

fn finding(wanted: &Wanted, state: Compliance, reason: String) -> Finding {
    let (package, version) = (wanted.package.name.clone(), wanted.package.version.clone());
    Finding { package, version, state, reason, output: String::new() }
}

/// The first rule that does not hold, in words; `None` when the package is there.
fn undetected(wanted: &Wanted, machine: &mut dyn Machine) -> Option<String> {
    wanted.package.detect.iter().find(|detection| !holds(detection, machine)).map(Detection::words)
}

fn holds(detection: &Detection, machine: &mut dyn Machine) -> bool {
    match detection {
        Detection::Dpkg { name, at_least } => machine.dpkg_version(name).is_some_and(|installed| {
            at_least.as_ref().is_none_or(|wanted| version::compare(&installed, wanted).is_ge())
        }),
        Detection::File { path, sha256: None } => machine.file_exists(path),
        Detection::File { path, sha256: Some(digest) } => {
            machine.file_sha256(path).is_some_and(|found| found.eq_ignore_ascii_case(digest))
        }
        Detection::Command { run, exit } => {
            machine.run(run, Path::new("/"), DETECTION_PATIENCE).is_ok_and(|ended| ended.code == *exit)
        }
        Detection::Unknown(_) => false,
    }
}

/// The output of the installer, or why it failed and its output.
fn install(wanted: &Wanted, machine: &mut dyn Machine, fetch: &mut Fetch) -> Result<String, (String, String)> {
    let silent = |reason: String| (reason, String::new());
    let payload = fetch(wanted, &wanted.payload).map_err(|error| silent(format!("fetch its payload: {error}")))?;
    let patience = Duration::from_secs(u64::from(wanted.package.timeout_seconds));
    match &wanted.package.install {
        Install::Deb => {
            let path = payload.to_string_lossy().into_owned();
            let arguments = ["dpkg", "--install", "--force-confold", &path].map(str::to_owned);
            ended_well(machine.run(&arguments, Path::new("/"), patience))
        }
        Install::Archive { run } => {
            let folder = machine.unpack(&payload).map_err(|error| silent(format!("unpack its archive: {error}")))?;
            let result = ended_well(machine.run(&within(run, &folder), &folder, patience));
            machine.discard(&folder);
            result
        }
        Install::Unknown(_) => Err(silent("this agent does not know how to install it: update the agent".into())),
    }
}

fn ended_well(ended: Result<Ended, String>) -> Result<String, (String, String)> {
    let ended = ended.map_err(|error| (error, String::new()))?;
    let skip = ended.output.chars().count().saturating_sub(OUTPUT_CHARACTERS_MAX);
    let output: String = ended.output.chars().skip(skip).collect();
    match ended.code {
        0 => Ok(output),
        code => Err((format!("its installer ended with {code}"), output)),
    }
}

/// `./install.sh` and `bin/setup` are files of the archive; `dpkg` and `/usr/bin/env` are the machine's.
fn within(run: &[String], folder: &Path) -> Vec<String> {
    let mut arguments = run.to_vec();
    if let Some(program) = arguments.first_mut().filter(|program| program.contains('/') && !program.starts_with('/')) {
        *program = folder.join(&*program).to_string_lossy().into_owned();
    }
    arguments
}

#[cfg(test)]
mod tests;
