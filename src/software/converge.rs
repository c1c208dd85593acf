//! Makes a machine have its software: detect, fetch, install, detect again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::link::{Payload, Policy, Wanted, WantedSetting, When};
use super::memory::{Memory, Turn};
use super::model::{Compliance, Detection, Facts, Finding, Install, Mode, Remove, in_order};
use super::setting::{Setting, apply};
use super::version;
use crate::stdx::time::Timestamp;

/// What a program's output is cut to in a finding.
const OUTPUT_CHARACTERS_MAX: usize = 4000;
/// A detection command that takes longer does not hold.
const DETECTION_PATIENCE: Duration = Duration::from_secs(60);

/// Everything that packages and settings may do to a machine.
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
    /// Copies a payload into a new folder, as a program; `discard` removes the folder.
    fn stage_program(&mut self, payload: &Path) -> Result<PathBuf, String>;
    fn discard(&mut self, folder: &Path);
    /// Content and permission bits; `None` when it is not there or not a regular file.
    fn read_file(&mut self, path: &str) -> Option<(Vec<u8>, u32)>;
    /// Whole or not at all; folders that lack are made.
    fn write_file(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<(), String>;
    fn remove_file(&mut self, path: &str) -> Result<(), String>;
    /// Files of the kernel are written in place.
    fn write_kernel_parameter(&mut self, path: &str, value: &str) -> Result<(), String>;
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

/// Whether maintenance windows count: a run that installs the machine does not wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hours {
    Windows,
    Anytime,
}

/// What a round works with.
pub struct Round<'a> {
    pub machine: &'a mut dyn Machine,
    pub fetch: &'a mut Fetch<'a>,
    pub told: &'a mut dyn FnMut(&str),
    pub memory: &'a mut Memory,
    /// Writes the memory down. It is called before and after each installer: one that ends the agent is found out.
    pub keep: &'a mut dyn FnMut(&Memory),
    pub now: Timestamp,
    pub hours: Hours,
    pub facts: Facts,
}

/// Works through the whole policy: settings, packages, what must not be there, and services last, because packages bring
/// them. What fails does not stop the rest, but for packages that require it.
pub fn converge(policy: &Policy, round: &mut Round) -> Vec<Finding> {
    let is_service = |wanted: &&WantedSetting| matches!(wanted.setting, Setting::Service(_));
    let mut findings = Vec::new();
    for wanted in policy.settings.iter().filter(|wanted| !is_service(wanted)) {
        findings.push(told(hold(wanted, round), round));
    }
    findings.extend(packages(policy, round));
    for wanted in &policy.absent {
        findings.push(told(expel(wanted, round), round));
    }
    for wanted in policy.settings.iter().filter(is_service) {
        findings.push(told(hold(wanted, round), round));
    }
    findings
}

fn told(finding: Finding, round: &mut Round) -> Finding {
    (round.told)(&sentence(&finding));
    finding
}

fn packages(policy: &Policy, round: &mut Round) -> Vec<Finding> {
    let ordered = match in_order(policy.packages.iter().collect(), |wanted: &&Wanted| &wanted.package) {
        Ok(ordered) => ordered,
        Err(circle) => return circle_findings(policy, &circle),
    };
    let mut failed: BTreeSet<String> = BTreeSet::new();
    let mut findings = Vec::new();
    for wanted in ordered {
        // Looking alone waits for nothing.
        let mut needed = wanted.package.requires.iter().filter(|_| wanted.mode == Mode::Enforce);
        let blocked = needed.find(|name| failed.contains(*name));
        let found = match blocked {
            Some(name) => finding(wanted, Compliance::Failed, format!("it requires {name}, which is not there")),
            None => ensure(wanted, round),
        };
        if !found.state.is_compliant() || found.state == Compliance::NotApplicable {
            failed.insert(found.package.clone());
        }
        findings.push(told(found, round));
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

/// Why nothing may be changed just now; `None` when it may.
fn forbidden(mode: Mode, when: &When, missing: &str, round: &Round) -> Option<(Compliance, String)> {
    if mode != Mode::Enforce {
        return Some((Compliance::Missing, format!("not so: {missing}")));
    }
    let waits = round.hours == Hours::Windows && !when.permits(round.now);
    waits.then(|| (Compliance::Pending, format!("waits for {}; not so: {missing}", when.words())))
}

fn ensure(wanted: &Wanted, round: &mut Round) -> Finding {
    let (name, version) = (wanted.package.name.as_str(), wanted.package.version.as_str());
    if let Some(lacking) = wanted.package.needs.lacking(&round.facts) {
        return finding(wanted, Compliance::NotApplicable, lacking);
    }
    let Some(missing) = undetected(wanted, round.machine) else {
        if round.memory.held(name, version) {
            (round.keep)(round.memory);
        }
        return finding(wanted, Compliance::Held, String::new());
    };
    if let Some((state, reason)) = forbidden(wanted.mode, &wanted.when, &missing, round) {
        return finding(wanted, state, reason);
    }
    match round.memory.turn(name, version, round.now) {
        Turn::Later(last) => return last,
        Turn::KilledTheAgent => {
            return note_failure(finding(wanted, Compliance::Failed, "its installer ended the agent".into()), round);
        }
        Turn::Now => {}
    }
    (round.told)(&format!("installing {name} {version}"));
    round.memory.begin(name, version);
    (round.keep)(round.memory);
    let found = match install(wanted, round) {
        Err((reason, output)) => Finding { output, ..finding(wanted, Compliance::Failed, reason) },
        Ok(output) => match undetected(wanted, round.machine) {
            None => Finding { output, ..finding(wanted, Compliance::Installed, String::new()) },
            Some(missing) => {
                let reason = format!("the installation ended well, but it is still not so: {missing}");
                Finding { output, ..finding(wanted, Compliance::Failed, reason) }
            }
        },
    };
    if found.state == Compliance::Failed {
        return note_failure(found, round);
    }
    round.memory.succeeded(name, version);
    (round.keep)(round.memory);
    found
}

fn note_failure(mut found: Finding, round: &mut Round) -> Finding {
    round.memory.failed(&mut found, round.now);
    (round.keep)(round.memory);
    found
}

/// A package that must not be there.
fn expel(wanted: &Wanted, round: &mut Round) -> Finding {
    const THERE: &str = "it is there and must not be";
    if undetected(wanted, round.machine).is_some() {
        return finding(wanted, Compliance::Held, String::new());
    }
    if let Some((state, reason)) = forbidden(wanted.mode, &wanted.when, THERE, round) {
        return finding(wanted, state, reason);
    }
    let arguments = match &wanted.package.remove {
        Some(Remove::Deb(name)) => ["dpkg", "--remove", name].map(str::to_owned).to_vec(),
        Some(Remove::Run(run)) => run.clone(),
        Some(Remove::Unknown(_)) | None => {
            return finding(wanted, Compliance::Failed, format!("{THERE}, and its package has no rule to remove it"));
        }
    };
    let patience = Duration::from_secs(u64::from(wanted.package.timeout_seconds));
    let ended = ended_well(round.machine.run(&arguments, Path::new("/"), patience));
    match ended {
        Err((reason, output)) => Finding { output, ..finding(wanted, Compliance::Failed, reason) },
        Ok(output) if undetected(wanted, round.machine).is_none() => {
            let reason = "its removal ended well, but it is still there".to_owned();
            Finding { output, ..finding(wanted, Compliance::Failed, reason) }
        }
        Ok(output) => {
            round.memory.removed(&wanted.package.name);
            (round.keep)(round.memory);
            Finding { output, ..finding(wanted, Compliance::Removed, String::new()) }
        }
    }
}

/// A setting: looked at, mended, looked at again.
fn hold(wanted: &WantedSetting, round: &mut Round) -> Finding {
    let finding = |state, reason| Finding {
        package: wanted.setting.name(),
        version: String::new(),
        state,
        reason,
        output: String::new(),
    };
    let Some(deviation) = apply::deviation(&wanted.setting, round.machine) else {
        return finding(Compliance::Held, String::new());
    };
    if let Some((state, reason)) = forbidden(wanted.mode, &wanted.when, &deviation, round) {
        return finding(state, reason);
    }
    match apply::mend(&wanted.setting, round.machine) {
        Err(error) => finding(Compliance::Failed, format!("{deviation}; {error}")),
        Ok(output) => match apply::deviation(&wanted.setting, round.machine) {
            None => Finding { output, ..finding(Compliance::Installed, format!("mended: {deviation}")) },
            Some(still) => Finding { output, ..finding(Compliance::Failed, format!("it was mended, but {still}")) },
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
fn install(wanted: &Wanted, round: &mut Round) -> Result<String, (String, String)> {
    let silent = |reason: String| (reason, String::new());
    if round.facts.free_disk_bytes < wanted.payload.bytes {
        return Err(silent(format!("its payload of {} bytes does not fit on the disk", wanted.payload.bytes)));
    }
    let payload =
        (round.fetch)(wanted, &wanted.payload).map_err(|error| silent(format!("fetch its payload: {error}")))?;
    let patience = Duration::from_secs(u64::from(wanted.package.timeout_seconds));
    let machine = &mut *round.machine;
    match &wanted.package.install {
        Install::Deb => {
            let path = payload.to_string_lossy().into_owned();
            let arguments = ["dpkg", "--install", "--force-confold", &path].map(str::to_owned);
            ended_well(machine.run(&arguments, Path::new("/"), patience))
        }
        Install::Archive { run, upgrade } => {
            let before = round.memory.installed(&wanted.package.name);
            let is_upgrade = before.is_some_and(|before| before != wanted.package.version);
            let run = upgrade.as_ref().filter(|_| is_upgrade).unwrap_or(run);
            let folder = machine.unpack(&payload).map_err(|error| silent(format!("unpack its archive: {error}")))?;
            let result = ended_well(machine.run(&within(run, &folder), &folder, patience));
            machine.discard(&folder);
            result
        }
        Install::Script { arguments } => {
            let program =
                machine.stage_program(&payload).map_err(|error| silent(format!("make it a program: {error}")))?;
            let folder = program.parent().unwrap_or(Path::new("/")).to_owned();
            let words = [vec![program.to_string_lossy().into_owned()], arguments.clone()].concat();
            let result = ended_well(machine.run(&words, &folder, patience));
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
