//! Packages, baselines and compliance as they are stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::link::{Payload, Policy, ReportCompliance, Wanted, WantedSetting, When};
use super::model::{Baseline, Compliance, EVERYBODY, Finding, Mode, Package, faults, in_order, is_name, reference};
use super::setting::{Setting, is_setting_name};
use super::version;
use crate::access::{Principal, audit};
use crate::db::{self, Db, Migration};
use crate::fleet::MachineId;
use crate::stdx::hint::Hint;
use crate::stdx::time::{Clock, Timestamp};

pub const MIGRATIONS: &[Migration] = &[Migration {
    name: "software-1",
    sql: "
        CREATE TABLE package (
            name TEXT NOT NULL, version TEXT NOT NULL, document TEXT NOT NULL, payload TEXT NOT NULL,
            added_by TEXT NOT NULL, added_at INTEGER NOT NULL, PRIMARY KEY (name, version));
        CREATE TABLE baseline (
            name TEXT PRIMARY KEY, collection TEXT NOT NULL, document TEXT NOT NULL, changed_at INTEGER NOT NULL);
        CREATE TABLE compliance (
            machine TEXT NOT NULL REFERENCES machine(id) ON DELETE CASCADE, package TEXT NOT NULL, version TEXT NOT NULL,
            state TEXT NOT NULL, reason TEXT NOT NULL, output TEXT NOT NULL, at INTEGER NOT NULL,
            PRIMARY KEY (machine, package));",
}];

/// What a machine's finding may take of the database.
const REASON_CHARACTERS_MAX: usize = 1000;
const OUTPUT_CHARACTERS_MAX: usize = 16_000;
const FINDINGS_MAX: usize = 1000;
/// How often machines ask for their policy.
const AGAIN_SECONDS: u32 = 15 * 60;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error("the package's description is not sound: {}", .0.join("; "))]
    Unsound(Vec<String>),
    #[error("there is no package `{0}`")]
    NoPackage(String),
    #[error("there is no baseline `{0}`")]
    NoBaseline(String),
    #[error("there is no collection `{0}`")]
    NoCollection(String),
    #[error("package {name} {version} is there already, with another content")]
    Immutable { name: String, version: String },
    #[error("package {package} is in the baseline `{baseline}`")]
    InUse { package: String, baseline: String },
    #[error("`{0}` is no name: use a-z, 0-9, `-`, `.`, `+`, at most 64 characters")]
    BadName(String),
    #[error("the baseline is not sound: {}", .0.join("; "))]
    UnsoundBaseline(Vec<String>),
    #[error("these packages require each other: {}", .0.join(", "))]
    Circle(Vec<String>),
    #[error("read the record of {0}")]
    Record(String),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Error {
        Error::Db(error.into())
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Db(error) => error.hint(),
            Error::NoPackage(_) => Some("`remint package list` shows them all; `remint package add` adds one".into()),
            Error::NoBaseline(_) => Some("`remint baseline list` shows them all".into()),
            Error::NoCollection(_) => Some("`remint collection list` shows them all; `all` is every machine".into()),
            Error::Immutable { .. } => Some("give the changed package a new version".into()),
            Error::InUse { .. } => Some("take it out of the baseline first: `remint baseline apply FILE`".into()),
            Error::Circle(_) => Some("take one of them out of the other's `requires`".into()),
            _ => None,
        }
    }
}

/// A package version with its payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stored {
    #[serde(flatten)]
    pub package: Package,
    pub content: Payload,
    pub added_by: String,
    pub added_at: Timestamp,
}

/// How a machine stands with one package of its baseline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub machine: String,
    #[serde(flatten)]
    pub finding: Finding,
    pub at: Timestamp,
}

/// All that is done to packages and baselines.
pub struct SoftwareStore {
    pub db: Arc<Db>,
    pub clock: Arc<dyn Clock>,
}

impl SoftwareStore {
    /// Adds a package version. The same once more is no error; the same name and version with other content is.
    pub fn add_package(&self, package: &Package, content: &Payload, by: &Principal) -> Result<Stored, Error> {
        let faults = faults(package);
        if !faults.is_empty() {
            return Err(Error::Unsound(faults));
        }
        let now = self.clock.now();
        self.db.write(|tx| {
            if let Some(known) = package_version(tx, &package.name, &package.version)? {
                let same = known.package == *package && known.content.sha256 == content.sha256;
                let (name, version) = (package.name.clone(), package.version.clone());
                return if same { Ok(known) } else { Err(Error::Immutable { name, version }) };
            }
            tx.execute(
                "INSERT INTO package (name, version, document, payload, added_by, added_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (
                    &package.name,
                    &package.version,
                    json!(package).to_string(),
                    json!(content).to_string(),
                    by.label(),
                    now.milliseconds(),
                ),
            )?;
            let what = format!("{}@{}", package.name, package.version);
            audit::append(tx, now, &by.label(), "package-add", &what, &content.sha256)?;
            package_version(tx, &package.name, &package.version)?.ok_or_else(|| Error::NoPackage(what))
        })
    }

    /// All versions of all packages, the newest version of each first.
    pub fn packages(&self) -> Result<Vec<Stored>, Error> {
        self.db.read(all_packages)
    }

    /// `NAME@VERSION`, or the newest of `NAME`.
    pub fn package(&self, text: &str) -> Result<Stored, Error> {
        self.db.read(|c| find_package(c, text))
    }

    /// Removes `NAME@VERSION`; its payload is freed when the store is swept.
    pub fn remove_package(&self, text: &str, by: &Principal) -> Result<Stored, Error> {
        let now = self.clock.now();
        self.db.write(|tx| {
            let stored = find_package(tx, text)?;
            let (name, version) = (&stored.package.name, &stored.package.version);
            for baseline in all_baselines(tx)? {
                let users = baseline.packages.iter().filter_map(|text| find_package(tx, text).ok());
                if users.into_iter().any(|used| used.package.name == *name && used.package.version == *version) {
                    return Err(Error::InUse { package: format!("{name}@{version}"), baseline: baseline.name });
                }
            }
            tx.execute("DELETE FROM package WHERE name = ?1 AND version = ?2", (name, version))?;
            audit::append(tx, now, &by.label(), "package-remove", &format!("{name}@{version}"), "")?;
            Ok(stored)
        })
    }

    /// Makes the baseline what the document says. Every package and the collection must exist.
    pub fn put_baseline(&self, baseline: &Baseline, by: &Principal) -> Result<(), Error> {
        if !is_name(&baseline.name) {
            return Err(Error::BadName(baseline.name.clone()));
        }
        let faults = baseline.faults();
        if !faults.is_empty() {
            return Err(Error::UnsoundBaseline(faults));
        }
        let now = self.clock.now();
        self.db.write(|tx| {
            if baseline.collection != EVERYBODY && !collection_exists(tx, &baseline.collection)? {
                return Err(Error::NoCollection(baseline.collection.clone()));
            }
            let packages: Result<Vec<Stored>, Error> =
                baseline.packages.iter().map(|text| find_package(tx, text)).collect();
            in_order(packages?, |stored| &stored.package).map_err(Error::Circle)?;
            baseline.absent.iter().try_for_each(|name| find_package(tx, name).map(drop))?;
            tx.execute(
                "INSERT INTO baseline (name, collection, document, changed_at) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (name) DO UPDATE SET collection = excluded.collection, document = excluded.document,
                    changed_at = excluded.changed_at",
                (&baseline.name, &baseline.collection, json!(baseline).to_string(), now.milliseconds()),
            )?;
            Ok(audit::append(tx, now, &by.label(), "baseline-put", &baseline.name, &baseline.packages.join(" "))?)
        })
    }

    pub fn remove_baseline(&self, name: &str, by: &Principal) -> Result<(), Error> {
        let now = self.clock.now();
        self.db.write(|tx| {
            if tx.execute("DELETE FROM baseline WHERE name = ?1", [name])? == 0 {
                return Err(Error::NoBaseline(name.to_owned()));
            }
            Ok(audit::append(tx, now, &by.label(), "baseline-remove", name, "")?)
        })
    }

    pub fn baselines(&self) -> Result<Vec<Baseline>, Error> {
        self.db.read(all_baselines)
    }

    pub fn baseline(&self, name: &str) -> Result<Baseline, Error> {
        let all = self.baselines()?;
        all.into_iter().find(|baseline| baseline.name == name).ok_or_else(|| Error::NoBaseline(name.to_owned()))
    }

    /// What a machine in `collections` must have. Where several baselines name a package, the higher version counts, and
    /// it is enforced if one of them enforces it.
    pub fn policy(&self, collections: &[String]) -> Result<Policy, Error> {
        self.db.read(|c| {
            let mut wanted: BTreeMap<String, Wanted> = BTreeMap::new();
            let mut absent: BTreeMap<String, Wanted> = BTreeMap::new();
            let mut settings: BTreeMap<String, WantedSetting> = BTreeMap::new();
            let all = all_baselines(c)?;
            let own: Vec<&Baseline> =
                all.iter().filter(|baseline| collections.contains(&baseline.collection)).collect();
            for baseline in &own {
                for text in &baseline.packages {
                    merge(&mut wanted, baseline, find_package(c, text)?);
                }
                for name in &baseline.absent {
                    merge(&mut absent, baseline, find_package(c, name)?);
                }
                baseline.settings.iter().for_each(|setting| merge_setting(&mut settings, baseline, setting));
            }
            supersede(c, &mut wanted, &mut absent)?;
            let minutes = own.iter().filter_map(|baseline| baseline.every_minutes).min();
            let kibibytes = own.iter().filter_map(|baseline| baseline.kibibytes_per_second).min();
            Ok(Policy {
                packages: wanted.into_values().collect(),
                absent: absent.into_values().collect(),
                settings: settings.into_values().collect(),
                bytes_per_second: kibibytes.map(|kibibytes| u64::from(kibibytes) << 10),
                now: self.clock.now(),
                again_seconds: minutes.map_or(AGAIN_SECONDS, |minutes| minutes.saturating_mul(60)),
            })
        })
    }

    /// Takes a machine's findings in; what it no longer has to have is forgotten.
    pub fn record(&self, machine: &MachineId, report: &ReportCompliance) -> Result<(), Error> {
        let now = self.clock.now();
        self.db.write(|tx| {
            tx.execute("DELETE FROM compliance WHERE machine = ?1", [machine.as_str()])?;
            let mut add = tx.prepare_cached(
                "INSERT INTO compliance (machine, package, version, state, reason, output, at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING",
            )?;
            for finding in report.findings.iter().take(FINDINGS_MAX).filter(|finding| is_finding_name(&finding.package))
            {
                add.execute((
                    machine.as_str(),
                    &finding.package,
                    cut(&finding.version, 64),
                    finding.state.name(),
                    cut(&finding.reason, REASON_CHARACTERS_MAX),
                    cut(&finding.output, OUTPUT_CHARACTERS_MAX),
                    now.milliseconds(),
                ))?;
            }
            Ok(())
        })
    }

    /// How one machine stands, or all of them.
    pub fn compliance(&self, machine: Option<&MachineId>) -> Result<Vec<Standing>, Error> {
        self.db.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT m.name, f.package, f.version, f.state, f.reason, f.output, f.at
                 FROM compliance f JOIN machine m ON m.id = f.machine WHERE ?1 IS NULL OR f.machine = ?1
                 ORDER BY m.name, f.package",
            )?;
            let rows = statement.query_map([machine.map(MachineId::as_str)], read_standing)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}

/// What another package takes the place of is not wanted any more, and goes once the other is there.
fn supersede(
    c: &Connection,
    wanted: &mut BTreeMap<String, Wanted>,
    absent: &mut BTreeMap<String, Wanted>,
) -> Result<(), Error> {
    let superseders: Vec<Wanted> = wanted.values().filter(|w| !w.package.supersedes.is_empty()).cloned().collect();
    for superseder in superseders {
        for name in &superseder.package.supersedes {
            wanted.remove(name);
            // A package that this site never had needs no removal.
            let Ok(stored) = find_package(c, name) else { continue };
            let gone = Wanted { package: stored.package, payload: stored.content, ..superseder.clone() };
            absent.entry(name.clone()).or_insert(gone);
        }
    }
    absent.retain(|name, _| !wanted.contains_key(name));
    Ok(())
}

/// The baseline that enforces wins over one that audits; among equals the first by name.
fn merge_setting(settings: &mut BTreeMap<String, WantedSetting>, baseline: &Baseline, setting: &Setting) {
    let new = WantedSetting {
        baseline: baseline.name.clone(),
        mode: baseline.mode,
        setting: setting.clone(),
        when: when(baseline),
    };
    let stronger = |old: &WantedSetting| old.mode != Mode::Enforce && new.mode == Mode::Enforce;
    if settings.get(&setting.name()).is_none_or(stronger) {
        settings.insert(setting.name(), new);
    }
}

fn when(baseline: &Baseline) -> When {
    When { windows: baseline.windows.clone(), deadline: baseline.deadline_at() }
}

fn merge(wanted: &mut BTreeMap<String, Wanted>, baseline: &Baseline, stored: Stored) {
    let new = Wanted {
        baseline: baseline.name.clone(),
        mode: baseline.mode,
        package: stored.package,
        payload: stored.content,
        when: when(baseline),
    };
    let name = new.package.name.clone();
    let Some(old) = wanted.remove(&name) else {
        wanted.insert(name, new);
        return;
    };
    let mode = if old.mode == Mode::Enforce || new.mode == Mode::Enforce { Mode::Enforce } else { new.mode };
    let higher = version::compare(&new.package.version, &old.package.version).is_gt();
    wanted.insert(name, Wanted { mode, ..if higher { new } else { old } });
}

fn is_finding_name(name: &str) -> bool {
    is_name(name) || is_setting_name(name)
}

/// Text without what could disturb a terminal, at most so long; line ends and tabs stay.
fn cut(text: &str, characters_max: usize) -> String {
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).take(characters_max).collect()
}

fn read_standing(row: &Row<'_>) -> Result<Standing, rusqlite::Error> {
    let state: String = row.get(3)?;
    let state = serde_json::from_value(json!(state)).unwrap_or(Compliance::Unknown);
    let finding =
        Finding { package: row.get(1)?, version: row.get(2)?, state, reason: row.get(4)?, output: row.get(5)? };
    Ok(Standing { machine: row.get(0)?, finding, at: Timestamp::from_milliseconds(row.get(6)?) })
}

type Raw = (String, String, String, i64);

fn read_raw(row: &Row<'_>) -> Result<Raw, rusqlite::Error> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn stored((document, payload, added_by, added_at): Raw) -> Result<Stored, Error> {
    let damaged = |_| Error::Record("a package".to_owned());
    Ok(Stored {
        package: serde_json::from_str(&document).map_err(damaged)?,
        content: serde_json::from_str(&payload).map_err(damaged)?,
        added_by,
        added_at: Timestamp::from_milliseconds(added_at),
    })
}

fn versions_of(c: &Connection, name: &str) -> Result<Vec<Stored>, Error> {
    let mut statement =
        c.prepare_cached("SELECT document, payload, added_by, added_at FROM package WHERE name = ?1")?;
    let raw: Vec<Raw> = statement.query_map([name], read_raw)?.collect::<Result<_, _>>()?;
    let mut versions: Vec<Stored> = raw.into_iter().map(stored).collect::<Result<_, _>>()?;
    versions.sort_by(|a, b| version::compare(&b.package.version, &a.package.version));
    Ok(versions)
}

fn package_version(c: &Connection, name: &str, version: &str) -> Result<Option<Stored>, Error> {
    Ok(versions_of(c, name)?.into_iter().find(|stored| stored.package.version == version))
}

fn find_package(c: &Connection, text: &str) -> Result<Stored, Error> {
    let (name, version) = reference(text);
    let wanted = |stored: &Stored| version.is_none_or(|version| stored.package.version == version);
    versions_of(c, name)?.into_iter().find(wanted).ok_or_else(|| Error::NoPackage(text.to_owned()))
}

fn all_packages(c: &Connection) -> Result<Vec<Stored>, Error> {
    let mut statement = c.prepare_cached("SELECT DISTINCT name FROM package ORDER BY name")?;
    let names: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut packages = Vec::new();
    for name in names {
        packages.extend(versions_of(c, &name)?);
    }
    Ok(packages)
}

fn all_baselines(c: &Connection) -> Result<Vec<Baseline>, Error> {
    let mut statement = c.prepare_cached("SELECT name, document FROM baseline ORDER BY name")?;
    let rows: Vec<(String, String)> =
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let parse = |(name, text): (String, String)| {
        serde_json::from_str(&text).map_err(|_| Error::Record(format!("the baseline `{name}`")))
    };
    rows.into_iter().map(parse).collect()
}

fn collection_exists(c: &Connection, name: &str) -> Result<bool, Error> {
    let found = c.query_row("SELECT 1 FROM collection WHERE name = ?1", [name], |_| Ok(())).optional()?;
    Ok(found.is_some())
}

#[cfg(test)]
mod tests;
