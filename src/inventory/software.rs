//! What is installed, read from the package manager's own files under a root; only rpm's are left to rpm.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::model::{Os, PACKAGES_MAX, Package, Software};
use super::running;

/// The database of a package manager cannot be larger than this: Debian's with 4,000 packages takes 4 MB.
const DATABASE_BYTES_MAX: u64 = 256 << 20;

/// What is installed on the system at `root`.
pub fn collect(root: &Path) -> Software {
    let status = bounded_text(&root.join("var/lib/dpkg/status")).unwrap_or_default();
    Software {
        os: os(root),
        packages: [dpkg_packages(&status), rpm_packages(root)].concat(),
        services: running::services(root),
        ports: running::ports(root),
        accounts: running::accounts(root),
    }
}

/// The packages of a dpkg status file (deb822: stanzas of `Field: value`, continued by indented lines) that dpkg has as
/// `installed`, whatever is wanted of them.
pub fn dpkg_packages(status: &str) -> Vec<Package> {
    let mut packages: Vec<Package> = status.split("\n\n").filter_map(dpkg_package).take(PACKAGES_MAX).collect();
    packages.sort();
    packages
}

/// Its database has another form in each generation (Berkeley DB, ndb, SQLite), so rpm itself is asked, where there is one.
fn rpm_packages(root: &Path) -> Vec<Package> {
    const PROGRAM: &str = "/usr/bin/rpm";
    const FORMAT: &str = "%{NAME}\\t%|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE}\\t%{ARCH}\\n";
    if root != Path::new("/") || !Path::new(PROGRAM).exists() {
        return Vec::new();
    }
    let asked = ["--query", "--all", "--queryformat", FORMAT];
    let output = Command::new(PROGRAM).args(asked).env("LC_ALL", "C").stdin(Stdio::null()).output();
    output.map(|output| rpm_list(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
}

/// Lines of name, version and architecture. The keys that signatures are checked with are listed as packages too.
fn rpm_list(text: &str) -> Vec<Package> {
    let package = |line: &str| {
        let [name, version, architecture] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
        (name != "gpg-pubkey").then(|| Package {
            manager: "rpm".into(),
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: architecture.to_owned(),
        })
    };
    let mut packages: Vec<Package> = text.lines().filter_map(package).take(PACKAGES_MAX).collect();
    packages.sort();
    packages
}

fn dpkg_package(stanza: &str) -> Option<Package> {
    let field = |name: &str| {
        stanza.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    };
    let installed = field("Status")?.split(' ').next_back() == Some("installed");
    installed.then_some(())?;
    Some(Package {
        manager: "deb".into(),
        name: field("Package")?,
        version: field("Version")?,
        architecture: field("Architecture").unwrap_or_default(),
    })
}

/// os-release and the kernel's own words.
pub fn os(root: &Path) -> Os {
    let release = bounded_text(&root.join("etc/os-release"))
        .or_else(|| bounded_text(&root.join("usr/lib/os-release")))
        .unwrap_or_default();
    let line = |path: &str| bounded_text(&root.join(path)).unwrap_or_default().trim().to_owned();
    Os {
        id: release_value(&release, "ID").unwrap_or_default(),
        version: release_value(&release, "VERSION_ID").unwrap_or_default(),
        name: release_value(&release, "PRETTY_NAME").unwrap_or_default(),
        kernel: line("proc/sys/kernel/osrelease"),
        hostname: line("proc/sys/kernel/hostname"),
    }
}

/// os-release(5): shell assignments; values may be in quotes, in which `\` takes the next character as it is.
fn release_value(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''));
    let inner = quote.and_then(|quote| value.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(value);
    let mut plain = String::new();
    let mut characters = inner.chars();
    while let Some(c) = characters.next() {
        plain.extend(if c == '\\' { characters.next() } else { Some(c) });
    }
    Some(plain)
}

fn bounded_text(path: &Path) -> Option<String> {
    let size = fs::metadata(path).ok()?.len();
    let text = || fs::read(path).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (size <= DATABASE_BYTES_MAX).then(text)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_those_that_dpkg_calls_installed() {
        let status = "Package: b\nStatus: install ok installed\nVersion: 1:2.0-1\nArchitecture: amd64\n\
            Description: short\n Status: deinstall\n\n\
            Package: a\nStatus: hold ok installed\nVersion: 1\nArchitecture: all\n\n\
            Package: gone\nStatus: deinstall ok config-files\nVersion: 3\n\n\
            Package: half\nStatus: install ok half-configured\nVersion: 3\n\nnoise\n";
        let found = dpkg_packages(status);
        let shown: Vec<String> = found.iter().map(|p| format!("{} {} {}", p.name, p.version, p.architecture)).collect();
        assert_eq!(shown, ["a 1 all", "b 1:2.0-1 amd64"]);
    }

    #[test]
    fn dpkg_query_lists_the_same_on_this_system() {
        let format = "${db:Status-Status} ${Package} ${Version} ${Architecture}\n";
        let Ok(output) = Command::new("dpkg-query").args(["--show", "--showformat", format]).output() else {
            println!("skipped: there is no dpkg-query here");
            return;
        };
        let text = String::from_utf8(output.stdout).unwrap();
        let mut expected: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("installed ")).collect();
        expected.sort_unstable();
        let software = collect(Path::new("/"));
        let mut found: Vec<String> =
            software.packages.iter().map(|p| format!("{} {} {}", p.name, p.version, p.architecture)).collect();
        found.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn os_release_is_read_with_its_quotes() {
        let text =
            "NAME=Debian\nPRETTY_NAME=\"Debian \\\"12\\\" (bookworm)\"\nVERSION_ID='12'\nID=debian\nVERSION_ID_X=9\n";
        assert_eq!(release_value(text, "PRETTY_NAME").unwrap(), "Debian \"12\" (bookworm)");
        assert_eq!(release_value(text, "VERSION_ID").unwrap(), "12");
        assert_eq!(release_value(text, "ID").unwrap(), "debian");
        assert_eq!(release_value(text, "ABSENT"), None);
    }
}
