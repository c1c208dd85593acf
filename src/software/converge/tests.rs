use super::*;
use crate::software::model::Package;
use std::collections::BTreeMap;

/// A machine on which installing a payload makes dpkg list it, unless it is told to fail.
#[derive(Default)]
struct Model {
    dpkg: BTreeMap<String, String>,
    files: BTreeMap<String, String>,
    failing: Vec<String>,
    /// Installers that end well and install nothing.
    lying: Vec<String>,
    ran: Vec<Vec<String>>,
    unpacked: usize,
}

impl Machine for Model {
    fn dpkg_version(&mut self, name: &str) -> Option<String> {
        self.dpkg.get(name).cloned()
    }

    fn file_sha256(&mut self, path: &str) -> Option<String> {
        self.files.get(path).cloned()
    }

    fn file_exists(&mut self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    fn run(&mut self, arguments: &[String], _: &Path, _: Duration) -> Result<Ended, String> {
        self.ran.push(arguments.to_vec());
        let last = arguments.last().cloned().unwrap_or_default();
        let (name, version) = last.trim_start_matches("/payload/").split_once('_').unwrap_or((&last, "1"));
        if self.failing.iter().any(|failing| failing == name) {
            return Ok(Ended { code: 1, output: format!("{}no space left on device", "x".repeat(9000)) });
        }
        if !self.lying.iter().any(|lying| lying == name) {
            self.dpkg.insert(name.to_owned(), version.to_owned());
            self.files.insert(format!("/opt/{name}"), "ab".repeat(32));
        }
        Ok(Ended { code: 0, output: "done".into() })
    }

    fn unpack(&mut self, _: &Path) -> Result<PathBuf, String> {
        self.unpacked += 1;
        Ok(PathBuf::from("/unpacked"))
    }

    fn discard(&mut self, _: &Path) {
        self.unpacked -= 1;
    }
}

fn wanted(name: &str, version: &str, requires: &[&str]) -> Wanted {
    let package = Package {
        name: name.into(),
        version: version.into(),
        title: String::new(),
        payload: String::new(),
        install: Install::Deb,
        remove: None,
        detect: vec![Detection::Dpkg { name: name.into(), at_least: Some(version.into()) }],
        requires: requires.iter().map(|name| (*name).to_owned()).collect(),
        timeout_seconds: 1,
    };
    let payload = Payload { image: "p".into(), version: "v".into(), bytes: 1, sha256: String::new() };
    Wanted { baseline: "base".into(), mode: Mode::Enforce, package, payload }
}

fn states(model: &mut Model, packages: Vec<Wanted>) -> Vec<(String, Compliance)> {
    let policy = Policy { packages, again_seconds: 0 };
    let mut fetch = |wanted: &Wanted, _: &Payload| {
        Ok(PathBuf::from(format!("/payload/{}_{}", wanted.package.name, wanted.package.version)))
    };
    let findings = converge(&policy, model, &mut fetch, &mut |_| {});
    findings.into_iter().map(|finding| (finding.package, finding.state)).collect()
}

fn expect(names: &[(&str, Compliance)]) -> Vec<(String, Compliance)> {
    names.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect()
}

#[test]
fn what_is_missing_is_installed_once_and_what_is_old_is_upgraded() {
    let mut model = Model::default();
    let both = || vec![wanted("a", "1.0", &[]), wanted("b", "2.0", &["a"])];
    let installed = expect(&[("a", Compliance::Installed), ("b", Compliance::Installed)]);
    assert_eq!(states(&mut model, both()), installed);
    let held = expect(&[("a", Compliance::Held), ("b", Compliance::Held)]);
    assert_eq!(states(&mut model, both()), held);
    assert_eq!(states(&mut model, vec![wanted("a", "1.1", &[])]), expect(&[("a", Compliance::Installed)]));
    assert_eq!(model.dpkg["a"], "1.1");
}

#[test]
fn a_failure_is_reported_with_its_output_and_holds_up_only_what_needs_it() {
    let mut model = Model { failing: vec!["a".into()], ..Model::default() };
    let policy = Policy {
        packages: vec![wanted("a", "1", &[]), wanted("b", "1", &["a"]), wanted("c", "1", &[])],
        again_seconds: 0,
    };
    let mut fetch = |wanted: &Wanted, _: &Payload| Ok(PathBuf::from(format!("/payload/{}_1", wanted.package.name)));
    let findings = converge(&policy, &mut model, &mut fetch, &mut |_| {});
    let states: Vec<Compliance> = findings.iter().map(|finding| finding.state).collect();
    assert_eq!(states, [Compliance::Failed, Compliance::Failed, Compliance::Installed]);
    assert_eq!(findings[0].reason, "its installer ended with 1");
    assert!(findings[0].output.ends_with("no space left on device") && findings[0].output.len() <= 4000);
    assert!(findings[1].reason.contains("requires a"));
}

#[test]
fn an_installer_that_says_yes_and_does_nothing_has_failed() {
    let mut model = Model { lying: vec!["a".into()], ..Model::default() };
    assert_eq!(states(&mut model, vec![wanted("a", "1", &[])]), expect(&[("a", Compliance::Failed)]));
}

#[test]
fn audit_changes_nothing() {
    let mut model = Model::default();
    let audited = Wanted { mode: Mode::Audit, ..wanted("a", "1", &[]) };
    assert_eq!(states(&mut model, vec![audited]), expect(&[("a", Compliance::Missing)]));
    assert!(model.ran.is_empty());
}

#[test]
fn an_archives_script_is_run_from_its_own_folder_which_is_removed() {
    let mut model = Model { failing: vec!["never".into()], ..Model::default() };
    let mut archive = wanted("tool", "1", &[]);
    archive.package.install = Install::Archive { run: vec!["./install.sh".into(), "tool".into()] };
    archive.package.detect = vec![Detection::File { path: "/opt/tool".into(), sha256: Some("AB".repeat(32)) }];
    assert_eq!(states(&mut model, vec![archive]), expect(&[("tool", Compliance::Installed)]));
    assert_eq!(model.ran, [["/unpacked/./install.sh", "tool"]]);
    assert_eq!(model.unpacked, 0);
}

#[test]
fn packages_that_require_each_other_all_fail_with_the_circle() {
    let found = states(&mut Model::default(), vec![wanted("a", "1", &["b"]), wanted("b", "1", &["a"])]);
    assert_eq!(found, expect(&[("a", Compliance::Failed), ("b", Compliance::Failed)]));
}
