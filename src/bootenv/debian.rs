//! Debian packages: downloaded by name from any suite, and unpacked, without installing anything.
//!
//! The suite need not be the one that this machine runs: apt is given a view of its own (sources, lists, status) in the
//! cache folder and checks signatures against Debian's archive keys as always.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use super::error::Error;
use crate::stdx::time::Timestamp;

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How long a suite's package lists are taken for fresh.
const LISTS_AGE_MAX: Duration = Duration::from_hours(24);

/// A package file at hand.
#[derive(Clone, Debug)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub file: PathBuf,
}

impl Package {
    /// Reads name and version out of a `.deb`.
    pub fn open(file: &Path) -> Result<Package, Error> {
        fs::metadata(file).map_err(Error::file(file))?;
        let field =
            |name| run(Command::new("dpkg-deb").arg("-f").arg(file).arg(name)).map(|text| text.trim().to_owned());
        Ok(Package { name: field("Package")?, version: field("Version")?, file: file.to_owned() })
    }

    /// Names of the packages that it depends on; of alternatives the first.
    pub fn depends(&self) -> Result<Vec<String>, Error> {
        let mut names = Vec::new();
        for field in ["Pre-Depends", "Depends"] {
            let text = run(Command::new("dpkg-deb").arg("-f").arg(&self.file).arg(field))?;
            let first = |one: &str| one.split(['(', '|', ':']).next().map(|name| name.trim().to_owned());
            names.extend(text.split(',').filter_map(first).filter(|name| !name.is_empty()));
        }
        Ok(names)
    }

    /// Unpacks the package's files below `folder`.
    pub fn unpack(&self, folder: &Path) -> Result<(), Error> {
        run(Command::new("dpkg-deb").arg("-x").arg(&self.file).arg(folder)).map(drop)
    }
}

/// One suite of Debian's archive, seen through apt, and the packages of it that were downloaded before.
pub struct Suite {
    name: String,
    architecture: &'static str,
    cache: PathBuf,
    view: PathBuf,
}

impl Suite {
    /// `cache` keeps package lists and packages from one build to the next. Lists older than a day are renewed; when that
    /// fails, the old ones serve.
    pub fn open(name: &str, architecture: &'static str, cache: &Path, now: Timestamp) -> Result<Suite, Error> {
        let view = match architecture {
            "amd64" => cache.join("apt").join(name),
            other => cache.join("apt").join(format!("{name}-{other}")),
        };
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(view.join(folder)).map_err(Error::file(&view))?;
        }
        let suite = Suite { name: name.to_owned(), architecture, cache: cache.join("packages"), view };
        fs::create_dir_all(&suite.cache).map_err(Error::file(&suite.cache))?;
        if !suite.lists_are_fresh(now) {
            let renewed = suite.write_sources().and_then(|()| suite.update());
            renewed.or_else(|error| if suite.has_lists() { Ok(()) } else { Err(error) })?;
        }
        Ok(suite)
    }

    /// The package file of `package`, from the cache or downloaded. A meta package such as `linux-image-amd64` gives the
    /// image package it depends on.
    pub fn download(&self, package: &str) -> Result<Package, Error> {
        // Asking apt takes seconds; what it said holds as long as its lists do.
        let answer = self.view.join("resolved").join(package);
        if let Ok(name) = fs::read_to_string(&answer)
            && self.cache.join(&name).exists()
        {
            return Package::open(&self.cache.join(name));
        }
        // Lists that are kept may be older than the package, or of a component more than they were fetched for.
        let anew = |_| self.write_sources().and_then(|()| self.update()).and_then(|()| self.resolve_meta(package));
        let resolved = self.resolve_meta(package).or_else(anew)?;
        let name = self.file_name(&resolved)?;
        if !self.cache.join(&name).exists() {
            let fetch = || run(self.apt("apt-get").args(["-qq", "download", &resolved]).current_dir(&self.cache));
            fetch().or_else(|_| self.update().and_then(|()| fetch()))?;
        }
        fs::create_dir_all(self.view.join("resolved")).map_err(Error::file(&answer))?;
        fs::write(&answer, &name).map_err(Error::file(&answer))?;
        Package::open(&self.cache.join(name))
    }

    fn resolve_meta(&self, package: &str) -> Result<String, Error> {
        let shown = run(self.apt("apt-cache").args(["show", "--no-all-versions", package])).unwrap_or_default();
        if shown.is_empty() {
            return Err(Error::NoPackage { package: package.to_owned(), suite: self.name.clone() });
        }
        let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        let names = depends.split(',').filter_map(|one| one.split_ascii_whitespace().next());
        Ok(names.into_iter().find(|name| name.starts_with("linux-image-")).unwrap_or(package).to_owned())
    }

    /// `'URI' FILE SIZE SHA256:...` is what apt prints.
    fn file_name(&self, package: &str) -> Result<String, Error> {
        let line = run(self.apt("apt-get").args(["--print-uris", "download", package]))?;
        let name = line.split_ascii_whitespace().nth(1).map(str::to_owned);
        name.ok_or_else(|| Error::NoPackage { package: package.to_owned(), suite: self.name.clone() })
    }

    fn write_sources(&self) -> Result<(), Error> {
        let mirror = mirror("Debian").ok_or(Error::NoMirror)?;
        let security = mirror_of_security(&mirror);
        let suite = &self.name;
        let line =
            |site: &str, suite: &str| format!("deb [signed-by={KEYRING}] {site} {suite} main non-free-firmware\n");
        let text = line(&mirror, suite)
            + &line(&mirror, &format!("{suite}-updates"))
            + &line(&security, &format!("{suite}-security"));
        let path = self.view.join("sources.list");
        fs::write(&path, text).map_err(Error::file(path))
    }

    fn update(&self) -> Result<(), Error> {
        run(self.apt("apt-get").args(["-qq", "update"]))?;
        let _ = fs::remove_dir_all(self.view.join("resolved"));
        let stamp = self.view.join("updated");
        fs::write(&stamp, "").map_err(Error::file(stamp))
    }

    fn lists_are_fresh(&self, now: Timestamp) -> bool {
        let written = fs::metadata(self.view.join("updated")).and_then(|stamp| stamp.modified());
        let Some(then) = written.ok().and_then(|then| then.duration_since(UNIX_EPOCH).ok()) else { return false };
        let now = Duration::from_millis(u64::try_from(now.milliseconds()).unwrap_or(0));
        now.checked_sub(then).is_some_and(|age| age < LISTS_AGE_MAX)
    }

    fn has_lists(&self) -> bool {
        self.view.join("updated").exists()
    }

    /// An apt program that sees this suite only and writes only into the cache folder.
    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let set = |name: &str, path: &Path| format!("{name}={}", path.display());
        for option in [
            set("Dir::Etc::sourcelist", &self.view.join("sources.list")),
            set("Dir::Etc::sourceparts", Path::new("/dev/null")),
            set("Dir::State", &self.view),
            set("Dir::State::lists", &self.view.join("lists")),
            set("Dir::State::status", Path::new("/dev/null")),
            set("Dir::Cache", &self.view.join("cache")),
            format!("APT::Architecture={}", self.architecture),
            format!("APT::Architectures={}", self.architecture),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }
}

/// The first archive of that label that this machine's own apt uses.
fn mirror(label: &str) -> Option<String> {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(SITE)", "Created-By: Packages"]).arg(format!("Label: {label}"));
    run(&mut command).ok()?.lines().next().map(str::to_owned)
}

fn mirror_of_security(mirror: &str) -> String {
    let beside = || format!("{}-security", mirror.trim_end_matches('/'));
    self::mirror("Debian-Security").unwrap_or_else(beside)
}

/// Runs `command` and gives what it wrote; when it fails, the error holds the last line it complained with.
pub(super) fn run(command: &mut Command) -> Result<String, Error> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.env("LC_ALL", "C").output().map_err(|source| Error::Missing { program: program.clone(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    // apt begins with the cause and ends with what follows from it.
    let cause = complaint.lines().find(|line| line.starts_with("E: "));
    let last = || complaint.lines().rfind(|line| !line.trim().is_empty());
    let message = cause.or_else(last).unwrap_or("no message").trim().to_owned();
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    let shown = arguments.iter().filter(|argument| !argument.contains("::") && *argument != "-o");
    let command = shown.fold(program, |text, argument| text + " " + argument);
    Err(Error::Command { command, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_by_its_cause() {
        let told = |script: &str| run(Command::new("sh").args(["-c", script])).unwrap_err();
        let apt = "echo 'W: old'; echo 'E: Mirror sync in progress?'; echo 'E: Some index files failed'";
        let error = told(&format!("({apt}) >&2; exit 100"));
        assert!(
            matches!(&error, Error::Command { message, .. } if message == "E: Mirror sync in progress?"),
            "{error}"
        );
        let error = told("(echo first; echo last; echo) >&2; exit 1");
        assert!(matches!(&error, Error::Command { message, .. } if message == "last"), "{error}");
    }

    /// A package of two files, made with dpkg-deb.
    fn sample(folder: &Path) -> PathBuf {
        let tree = folder.join("tree");
        fs::create_dir_all(tree.join("DEBIAN")).unwrap();
        fs::create_dir_all(tree.join("usr/lib/sample")).unwrap();
        let control =
            "Package: sample\nVersion: 1.2-3\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: s\n";
        fs::write(tree.join("DEBIAN/control"), control).unwrap();
        fs::write(tree.join("usr/lib/sample/file"), "content").unwrap();
        let file = folder.join("sample.deb");
        run(Command::new("dpkg-deb").args(["-b", "--root-owner-group"]).arg(&tree).arg(&file)).unwrap();
        file
    }

    #[test]
    fn a_package_file_tells_its_version_and_is_unpacked() {
        let folder = tempfile::tempdir().unwrap();
        let package = Package::open(&sample(folder.path())).unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("sample", "1.2-3"));
        package.unpack(&folder.path().join("out")).unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("out/usr/lib/sample/file")).unwrap(), "content");
    }

    #[test]
    fn a_failing_command_is_told_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let broken = folder.path().join("broken.deb");
        fs::write(&broken, "no archive").unwrap();
        let error = Package::open(&broken).unwrap_err().to_string();
        assert!(error.contains("dpkg-deb -f") && error.contains("archive"), "{error}");
        assert!(matches!(run(&mut Command::new("no-such-program")), Err(Error::Missing { .. })));
    }
}
