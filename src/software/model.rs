//! Packages, baselines, and what machines say about them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::setting::Setting;
use super::window::Window;
use crate::stdx::time::Timestamp;

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
    /// Packages that this one takes the place of: they are removed once it is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<String>,
    /// What a machine must be like for this package; on others it is not applicable.
    #[serde(default, skip_serializing_if = "Needs::is_nothing")]
    pub needs: Needs,
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
    Archive {
        run: Vec<String>,
        /// Run instead, where this agent has installed another version before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upgrade: Option<Vec<String>>,
    },
    /// The payload is a program or a script with its interpreter in the first line: it is run with these arguments.
    Script {
        #[serde(default)]
        arguments: Vec<String>,
    },
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

/// Requirements on the machine; what is left out is not asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Needs {
    /// As `uname -m` says: `x86_64`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// `ID` of os-release: one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub os: Vec<String>,
    /// `VERSION_ID` of os-release, or later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os_at_least: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Free on the file system of the payloads, besides the payload itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_disk_mib: Option<u64>,
}

/// What a machine is like, as far as packages ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    pub architecture: String,
    pub os: String,
    pub os_version: String,
    pub memory_bytes: u64,
    pub free_disk_bytes: u64,
}

impl Needs {
    fn is_nothing(&self) -> bool {
        *self == Needs::default()
    }

    /// What the machine lacks, in words; `None` when it has all.
    pub fn lacking(&self, facts: &Facts) -> Option<String> {
        let enough = |needed: Option<u64>, has: u64| needed.is_none_or(|mib| has >> 20 >= mib);
        let old = |wanted: &String| super::version::compare(&facts.os_version, wanted).is_lt();
        if self.architecture.as_ref().is_some_and(|wanted| *wanted != facts.architecture) {
            return Some(format!("it needs {}", self.architecture.as_deref().unwrap_or_default()));
        }
        if !self.os.is_empty() && !self.os.contains(&facts.os) {
            return Some(format!("it needs {}", self.os.join(" or ")));
        }
        if let Some(wanted) = self.os_at_least.as_ref().filter(|wanted| old(wanted)) {
            return Some(format!("it needs version {wanted} of the system, this is {}", facts.os_version));
        }
        if !enough(self.memory_mib, facts.memory_bytes) {
            return Some(format!("it needs {} MiB of memory", self.memory_mib.unwrap_or_default()));
        }
        let free = !enough(self.free_disk_mib, facts.free_disk_bytes);
        free.then(|| format!("it needs {} MiB of free disk", self.free_disk_mib.unwrap_or_default()))
    }
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
    #[serde(default)]
    pub packages: Vec<String>,
    /// Packages that must not be there: `NAME`, with the rules of its latest version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
    #[serde(default)]
    pub mode: Mode,
    /// When machines may be changed; at any time without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// From this day on (UTC, `2026-12-24` or `2026-12-24T18:00Z`) no window is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// Payloads are fetched no faster than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kibibytes_per_second: Option<u32>,
    /// How often machines look after it; a quarter of an hour without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_minutes: Option<u32>,
}

impl Baseline {
    /// Everything that is wrong with it, but for packages and collections that do not exist.
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.settings.iter().flat_map(Setting::faults).collect();
        faults.extend(self.windows.iter().filter_map(Window::fault));
        if self.deadline.is_some() && self.deadline_at().is_none() {
            faults.push("`deadline` is a day, 2026-12-24, or a time in UTC, 2026-12-24T18:00Z".to_owned());
        }
        let mut names: Vec<String> = self.settings.iter().map(Setting::name).collect();
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].clone());
        faults.extend(twice.map(|name| format!("{name} stands in it twice")));
        faults
    }

    pub fn deadline_at(&self) -> Option<Timestamp> {
        parse_day(self.deadline.as_deref()?)
    }
}

/// `2026-12-24` (its first moment) or `2026-12-24T18:00Z`, as milliseconds since 1970 (RFC 3339, proleptic Gregorian).
fn parse_day(text: &str) -> Option<Timestamp> {
    let (day, time) = text.split_once('T').unwrap_or((text, "00:00Z"));
    let mut parts = day.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let (hours, minutes) = time.strip_suffix('Z')?.split_once(':')?;
    let (hours, minutes): (i64, i64) = (hours.parse().ok()?, minutes.parse().ok()?);
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hours)
        && (0..60).contains(&minutes);
    if !valid {
        return None;
    }
    // Days of the civil calendar: March is the first month, so that the leap day is the last.
    let (shifted_year, shifted_month) = (if month <= 2 { year - 1 } else { year }, (month + 9) % 12);
    let era_day = 365 * shifted_year + shifted_year / 4 - shifted_year / 100
        + shifted_year / 400
        + (153 * shifted_month + 2) / 5
        + day
        - 1;
    let seconds = ((era_day - 719_468) * 24 + hours) * 3600 + minutes * 60;
    Some(Timestamp::from_milliseconds(seconds * 1000))
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
    /// It was there and must not be, and is not any more.
    Removed,
    /// It is to be changed and waits for its maintenance window.
    Pending,
    /// The machine is not of the kind that this is for.
    NotApplicable,
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
            Compliance::Removed => "removed",
            Compliance::Pending => "pending",
            Compliance::NotApplicable => "not-applicable",
            Compliance::Unknown => "unknown",
        }
    }

    pub fn is_compliant(self) -> bool {
        matches!(self, Compliance::Held | Compliance::Installed | Compliance::Removed | Compliance::NotApplicable)
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
        Install::Archive { run, upgrade } => programs.extend([Some(run), upgrade.as_ref()].into_iter().flatten()),
        Install::Deb => {}
        Install::Script { arguments } if arguments.len() < ARGUMENTS_MAX => {}
        Install::Script { .. } => faults.push(format!("`arguments` are more than {ARGUMENTS_MAX}")),
        Install::Unknown(_) => faults.push(
            "`install` must be `deb`, `archive: {run: [PROGRAM, ...]}` or `script: {arguments: [...]}`".to_owned(),
        ),
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
    if let Some(bad) = package.requires.iter().chain(&package.supersedes).find(|name| !is_name(name)) {
        faults.push(format!("`{bad}` in `requires` or `supersedes` is no package name"));
    }
    if package.supersedes.contains(&package.name) {
        faults.push("a package cannot supersede itself".to_owned());
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
            supersedes: Vec::new(),
            needs: Needs::default(),
            timeout_seconds: 600,
        }
    }

    #[test]
    fn everything_that_is_wrong_is_said_at_once() {
        assert!(faults(&package("hello", &[])).is_empty());
        let bad = Package {
            name: "Hello World".into(),
            version: String::new(),
            install: Install::Archive { run: Vec::new(), upgrade: None },
            detect: vec![Detection::File { path: "etc/x".into(), sha256: Some("1".into()) }],
            ..package("x", &["../y"])
        };
        assert_eq!(faults(&bad).len(), 6, "{:#?}", faults(&bad));
    }

    #[test]
    fn a_machine_lacks_what_a_package_needs() {
        let facts = Facts {
            architecture: "x86_64".into(),
            os: "debian".into(),
            os_version: "12".into(),
            memory_bytes: 4 << 30,
            free_disk_bytes: 1 << 30,
        };
        let needs = |yaml: &str| serde_saphyr::from_str::<Needs>(yaml).unwrap().lacking(&facts);
        assert_eq!(needs("{os: [debian, ubuntu], os-at-least: '11', memory-mib: 4096, free-disk-mib: 1024}"), None);
        for (yaml, words) in [
            ("{architecture: aarch64}", "aarch64"),
            ("{os: [fedora]}", "fedora"),
            ("{os-at-least: '13'}", "version 13"),
            ("{memory-mib: 4097}", "memory"),
            ("{free-disk-mib: 1025}", "disk"),
        ] {
            assert!(needs(yaml).unwrap().contains(words), "{yaml}");
        }
    }

    #[test]
    fn deadlines_are_days_of_the_calendar() {
        for (text, seconds) in [
            ("1970-01-01", Some(0)),
            ("2000-02-29", Some(951_782_400)),
            ("2026-11-27", Some(1_795_737_600)),
            ("2026-11-27T01:30Z", Some(1_795_743_000)),
            ("2026-13-01", None),
            ("tomorrow", None),
            ("2026-11-27T01:30", None),
        ] {
            assert_eq!(parse_day(text), seconds.map(|s: i64| Timestamp::from_milliseconds(s * 1000)), "{text}");
        }
    }

    #[test]
    fn packages_come_after_what_they_require_and_a_circle_is_named() {
        let names = |packages: Vec<Package>| packages.into_iter().map(|p| p.name).collect::<Vec<_>>();
        let list = vec![package("a", &["c"]), package("b", &[]), package("c", &["b", "elsewhere"])];
        assert_eq!(names(in_order(list, |p| p).unwrap()), ["b", "c", "a"]);
        assert_eq!(in_order(vec![package("a", &["b"]), package("b", &["a"])], |p| p).unwrap_err(), ["a", "b"]);
    }
}
