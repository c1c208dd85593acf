//! Packages, baselines, and what machines say about them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest program argument list and longest argument.
const ARGUMENTS_MAX: usize = 64;
const ARGUMENT_BYTES_MAX: usize = 4096;
const NAME_BYTES_MAX: usize = 64;

/// A version of a package: what a technician writes, checked. Immutable once it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Package {
    pub name: String,
    pub version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// The payload's file, beside the description.
    pub payload: String,
    pub install: Install,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove: Option<Remove>,
    /// The package is there when all of them hold. At least one.
    pub detect: Vec<Detection>,
    /// Packages that must be there before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// An installation that takes longer is stopped and has failed.
    #[serde(default = "timeout_seconds_default")]
    pub timeout_seconds: u32,
}

fn timeout_seconds_default() -> u32 {
    600
}

/// How the payload gets onto the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Install {
    /// The payload is a Debian package, for `dpkg --install`.
    Deb,
    /// The payload is an archive (.tar, .tar.gz, .tar.zst, .tar.xz): it is unpacked and this is run in its folder. The
    /// program's path is relative to that folder when it holds a `/` and does not begin with one.
    Archive { run: Vec<String> },
    /// From a newer appliance, or misspelt: refused by both ends.
    #[serde(untagged)]
    Unknown(Value),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remove {
    /// The name of the Debian package, for `dpkg --remove`.
    Deb(String),
    Run(Vec<String>),
    #[serde(untagged)]
    Unknown(Value),
}

/// One sign that the package is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detection {
    /// dpkg says `install ok installed`, in this version or a later one.
    Dpkg {
        name: String,
        #[serde(default, rename = "at-least", skip_serializing_if = "Option::is_none")]
        at_least: Option<String>,
    },
    /// The file exists, with this content when a digest is given.
    File {
        path: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
    },
    /// The program ends with this code.
    Command {
        run: Vec<String>,
        #[serde(default)]
        exit: i32,
    },
    /// From a newer appliance, or misspelt: never holds.
    #[serde(untagged)]
    Unknown(Value),
}

impl Detection {
    /// As in "... is missing".
    pub fn words(&self) -> String {
        match self {
            Detection::Dpkg { name, at_least: None } => format!("dpkg has {name}"),
            Detection::Dpkg { name, at_least: Some(version) } => format!("dpkg has {name} {version} or later"),
            Detection::File { path, sha256: None } => format!("{path} exists"),
            Detection::File { path, sha256: Some(_) } => format!("{path} has its content"),
            Detection::Command { run, exit } => format!("`{}` ends with {exit}", run.join(" ")),
            Detection::Unknown(_) => "a rule that this agent does not know".to_owned(),
        }
    }
}

/// The packages that all machines, or those of a collection, must have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Baseline {
    pub name: String,
    /// `all`, or the name of a collection.
    #[serde(default = "everybody")]
    pub collection: String,
    /// `NAME`, or `NAME@VERSION` to hold a version; without it the latest.
    pub packages: Vec<String>,
    #[serde(default)]
    pub mode: Mode,
}

pub const EVERYBODY: &str = "all";

fn everybody() -> String {
    EVERYBODY.to_owned()
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// What is missing is installed.
    #[default]
    Enforce,
    /// What is missing is reported.
    Audit,
    /// From a newer appliance: nothing is changed.
    #[serde(other)]
    Unknown,
}

/// What a machine found out about one package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub package: String,
    pub version: String,
    pub state: Compliance,
    /// Why, where it is not compliant: the rule that does not hold, or the error.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The last of what the installer wrote.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compliance {
    /// It was there already.
    Held,
    /// It was installed and is detected now.
    Installed,
    /// It is missing, and the baseline only audits.
    Missing,
    Failed,
    #[serde(other)]
    Unknown,
}

impl Compliance {
    pub fn name(self) -> &'static str {
        match self {
            Compliance::Held => "held",
            Compliance::Installed => "installed",
            Compliance::Missing => "missing",
            Compliance::Failed => "failed",
            Compliance::Unknown => "unknown",
        }
    }

    pub fn is_compliant(self) -> bool {
        matches!(self, Compliance::Held | Compliance::Installed)
    }
}

/// Everything that is wrong with a package's description, in words that say what to write.
pub fn faults(package: &Package) -> Vec<String> {
    let mut faults = Vec::new();
    if !is_name(&package.name) {
        faults.push(format!("`name: {}`: use a-z, 0-9, `-`, `.`, `+`; begin with a letter or digit", package.name));
    }
    if package.version.is_empty()
        || package.version.len() > NAME_BYTES_MAX
        || package.version.contains(char::is_whitespace)
    {
        faults.push("`version` must be 1 to 64 characters without spaces".to_owned());
    }
    if package.detect.is_empty() {
        faults.push("`detect` is empty: without a rule nobody can tell whether the package is installed".to_owned());
    }
    let mut programs: Vec<&Vec<String>> = Vec::new();
    match &package.install {
        Install::Archive { run } => programs.push(run),
        Install::Deb => {}
        Install::Unknown(_) => faults.push("`install` must be `deb` or `archive: {run: [PROGRAM, ...]}`".to_owned()),
    }
    if let Some(Remove::Run(run)) = &package.remove {
        programs.push(run);
    }
    for detection in &package.detect {
        match detection {
            Detection::Command { run, .. } => programs.push(run),
            Detection::File { path, sha256 } => faults.extend(file_faults(path, sha256.as_deref())),
            Detection::Dpkg { name, .. } if !is_name(name) => faults.push(format!("`dpkg: {name}` is no package name")),
            Detection::Dpkg { .. } => {}
            Detection::Unknown(_) => faults.push(
                "`detect` knows `dpkg: {name, at-least}`, `file: {path, sha256}` and `command: {run, exit}`".to_owned(),
            ),
        }
    }
    faults.extend(programs.into_iter().filter_map(|run| program_fault(run)));
    if let Some(bad) = package.requires.iter().find(|name| !is_name(name)) {
        faults.push(format!("`requires: {bad}` is no package name"));
    }
    faults
}

fn file_faults(path: &str, sha256: Option<&str>) -> Vec<String> {
    let mut faults = Vec::new();
    if !path.starts_with('/') || path.contains('\0') {
        faults.push(format!("`path: {path}` must begin with `/`"));
    }
    if sha256.is_some_and(|digest| crate::stdx::hex::parse_array::<32>(digest).is_none()) {
        faults.push("`sha256` must be 64 hexadecimal digits".to_owned());
    }
    faults
}

fn program_fault(run: &[String]) -> Option<String> {
    match run {
        [] => Some("`run` is empty: write the program and its arguments as a list".to_owned()),
        run if run.len() > ARGUMENTS_MAX => Some(format!("`run` has more than {ARGUMENTS_MAX} arguments")),
        run if run.iter().any(|word| word.len() > ARGUMENT_BYTES_MAX || word.contains('\0')) => {
            Some(format!("an argument of `run` is longer than {ARGUMENT_BYTES_MAX} bytes or holds a NUL"))
        }
        _ => None,
    }
}

/// Names are part of paths and URLs: Debian's package names (Policy 5.6.1), at most 64 bytes.
pub fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.+".contains(c);
    name.len() <= NAME_BYTES_MAX
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(allowed)
}

/// `NAME@VERSION` or `NAME`.
pub fn reference(text: &str) -> (&str, Option<&str>) {
    text.split_once('@').map_or((text, None), |(name, version)| (name, Some(version)))
}

/// Packages in an order in which each comes after those it requires. `Err` names those that wait for each other.
pub fn in_order<T>(items: Vec<T>, package: impl Fn(&T) -> &Package) -> Result<Vec<T>, Vec<String>> {
    let mut waiting: BTreeMap<String, T> = items.into_iter().map(|item| (package(&item).name.clone(), item)).collect();
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let free = |item: &T| package(item).requires.iter().all(|name| !waiting.contains_key(name));
        let Some(next) = waiting.iter().find(|(_, item)| free(item)).map(|(name, _)| name.clone()) else {
            return Err(waiting.into_keys().collect());
        };
        ordered.extend(waiting.remove(&next));
    }
    Ok(ordered)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, requires: &[&str]) -> Package {
        Package {
            name: name.into(),
            version: "1".into(),
            title: String::new(),
            payload: "p.deb".into(),
            install: Install::Deb,
            remove: None,
            detect: vec![Detection::Dpkg { name: name.into(), at_least: None }],
            requires: requires.iter().map(|name| (*name).to_owned()).collect(),
            timeout_seconds: 600,
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        assert!(faults(&package("hello", &[])).is_empty());
        let bad = Package {
            name: "Hello World".into(),
            version: String::new(),
            install: Install::Archive { run: Vec::new() },
            detect: vec![Detection::File { path: "etc/x".into(), sha256: Some("1".into()) }],
            ..package("x", &["../y"])
        };
        assert_eq!(faults(&bad).len(), 6, "{:#?}", faults(&bad));
    }

    #[test]
    fn packages_come_after_what_they_require_and_a_circle_is_named() {
        let names = |packages: Vec<Package>| packages.into_iter().map(|p| p.name).collect::<Vec<_>>();
        let list = vec![package("a", &["c"]), package("b", &[]), package("c", &["b", "elsewhere"])];
        assert_eq!(names(in_order(list, |p| p).unwrap()), ["b", "c", "a"]);
        assert_eq!(in_order(vec![package("a", &["b"]), package("b", &["a"])], |p| p).unwrap_err(), ["a", "b"]);
    }
}
