use std::collections::BTreeMap;

use super::*;
use crate::software::model::{Needs, Package};
use crate::software::setting::{FileSetting, ServiceSetting, SysctlSetting, UserSetting};
use crate::software::window::Window;

/// A machine on which installing a payload makes dpkg list it, unless it is told to fail.
#[derive(Clone, Default)]
struct Model {
    dpkg: BTreeMap<String, String>,
    files: BTreeMap<String, (Vec<u8>, u32)>,
    services: BTreeMap<String, (bool, bool)>,
    failing: Vec<String>,
    /// Installers that end well and install nothing.
    lying: Vec<String>,
    ran: Vec<Vec<String>>,
    unpacked: usize,
    /// Acts until the power is cut: from then on nothing is changed any more.
    acts_left: Option<usize>,
}

impl Model {
    /// Whether an act still happens.
    fn acts(&mut self) -> bool {
        match &mut self.acts_left {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    fn service(&mut self, verb: &str, name: &str) -> i32 {
        let (enabled, running) = self.services.entry(name.to_owned()).or_default();
        match verb {
            "is-enabled" => return i32::from(!*enabled),
            "is-active" => return i32::from(!*running),
            "enable" | "disable" => *enabled = verb == "enable",
            "start" | "stop" => *running = verb == "start",
            other => panic!("{other}"),
        }
        0
    }

    fn install(&mut self, payload: &str) -> Ended {
        let (name, version) = payload.trim_start_matches("/payload/").split_once('_').unwrap_or((payload, "1"));
        if self.failing.iter().any(|failing| failing == name) {
            return Ended { code: 1, output: format!("{}no space left on device", "x".repeat(9000)) };
        }
        if !self.lying.iter().any(|lying| lying == name) {
            self.dpkg.insert(name.to_owned(), version.to_owned());
            self.files.insert(format!("/opt/{name}"), (Vec::new(), 0o644));
        }
        Ended { code: 0, output: "done".into() }
    }

    fn change_account(&mut self, arguments: &[String]) {
        let name = arguments.last().unwrap().clone();
        let after = |flag: &str| arguments.iter().position(|word| word == flag).map(|at| arguments[at + 1].clone());
        let shell = after("--shell").unwrap_or_else(|| "/bin/sh".into());
        self.files.insert("/etc/passwd".into(), (format!("{name}:x:1:1::/home:{shell}\n").into_bytes(), 0o644));
        let groups = after("--groups").unwrap_or_default();
        let lines = groups.split(',').map(|group| format!("{group}:x:1:other,{name}\n"));
        self.files.insert("/etc/group".into(), (lines.collect::<String>().into_bytes(), 0o644));
    }
}

impl Machine for Model {
    fn dpkg_version(&mut self, name: &str) -> Option<String> {
        self.dpkg.get(name).cloned()
    }

    fn file_sha256(&mut self, path: &str) -> Option<String> {
        self.files.get(path).map(|_| "ab".repeat(32))
    }

    fn file_exists(&mut self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    fn run(&mut self, arguments: &[String], _: &Path, _: Duration) -> Result<Ended, String> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if let ["systemctl", "--quiet", verb, "--", name] = words[..] {
            return Ok(Ended { code: self.service(verb, name), output: String::new() });
        }
        if !self.acts() {
            return Err("the power is off".into());
        }
        self.ran.push(arguments.to_vec());
        let done = |code| Ok(Ended { code, output: "done".into() });
        match words[..] {
            ["systemctl", verb, "--", name] => done(self.service(verb, name)),
            ["useradd" | "usermod", ..] => {
                self.change_account(arguments);
                done(0)
            }
            ["dpkg", "--remove", name] => {
                self.dpkg.remove(name);
                done(0)
            }
            _ => Ok(self.install(words[words.len() - 1])),
        }
    }

    fn unpack(&mut self, _: &Path) -> Result<PathBuf, String> {
        self.unpacked += 1;
        Ok(PathBuf::from("/unpacked"))
    }

    fn stage_program(&mut self, _: &Path) -> Result<PathBuf, String> {
        self.unpacked += 1;
        Ok(PathBuf::from("/staged/program"))
    }

    fn discard(&mut self, _: &Path) {
        self.unpacked -= 1;
    }

    fn read_file(&mut self, path: &str) -> Option<(Vec<u8>, u32)> {
        self.files.get(path).cloned()
    }

    fn write_file(&mut self, path: &str, bytes: &[u8], mode: u32) -> Result<(), String> {
        if !self.acts() {
            return Err("the power is off".into());
        }
        self.files.insert(path.to_owned(), (bytes.to_vec(), mode));
        Ok(())
    }

    fn remove_file(&mut self, path: &str) -> Result<(), String> {
        if !self.acts() {
            return Err("the power is off".into());
        }
        self.files.remove(path);
        Ok(())
    }

    fn write_kernel_parameter(&mut self, path: &str, value: &str) -> Result<(), String> {
        self.write_file(path, format!("{value}\n").as_bytes(), 0o644)
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
        supersedes: Vec::new(),
        needs: Needs::default(),
        timeout_seconds: 1,
    };
    let payload = Payload { image: "p".into(), version: "v".into(), bytes: 1, sha256: String::new() };
    Wanted { baseline: "base".into(), mode: Mode::Enforce, package, payload, when: When::default() }
}

fn setting(setting: Setting) -> WantedSetting {
    WantedSetting { baseline: "base".into(), mode: Mode::Enforce, setting, when: When::default() }
}

fn of(packages: Vec<Wanted>) -> Policy {
    Policy { packages, ..Policy::default() }
}

/// A Friday noon.
const NOW: Timestamp = Timestamp::from_milliseconds(1_795_780_800_000);

fn converge_at(policy: &Policy, model: &mut Model, memory: &mut Memory, now: Timestamp) -> Vec<Finding> {
    let mut round = Round {
        machine: model,
        fetch: &mut |wanted: &Wanted, _: &Payload| {
            Ok(PathBuf::from(format!("/payload/{}_{}", wanted.package.name, wanted.package.version)))
        },
        told: &mut |_| {},
        memory,
        keep: &mut |_| {},
        now,
        hours: Hours::Windows,
        facts: Facts { os: "debian".into(), free_disk_bytes: 1 << 30, ..Facts::default() },
    };
    converge(policy, &mut round)
}

fn findings(model: &mut Model, policy: &Policy) -> Vec<Finding> {
    converge_at(policy, model, &mut Memory::default(), NOW)
}

fn shown(findings: Vec<Finding>) -> Vec<(String, Compliance)> {
    findings.into_iter().map(|finding| (finding.package, finding.state)).collect()
}

fn states(model: &mut Model, packages: Vec<Wanted>) -> Vec<(String, Compliance)> {
    shown(findings(model, &of(packages)))
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
    let policy = of(vec![wanted("a", "1", &[]), wanted("b", "1", &["a"]), wanted("c", "1", &[])]);
    let findings = findings(&mut model, &policy);
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
    archive.package.install = Install::Archive { run: vec!["./install.sh".into(), "tool".into()], upgrade: None };
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

#[test]
fn a_script_is_run_with_its_arguments_and_removed() {
    let mut model = Model::default();
    let mut script = wanted("tool", "1", &[]);
    script.package.install = Install::Script { arguments: vec!["tool".into()] };
    assert_eq!(states(&mut model, vec![script]), expect(&[("tool", Compliance::Installed)]));
    assert_eq!(model.ran, [["/staged/program", "tool"]]);
    assert_eq!(model.unpacked, 0);
}

#[test]
fn an_upgrade_is_told_from_a_first_installation() {
    let (mut model, mut memory) = (Model::default(), Memory::default());
    let archive = |version: &str| {
        let mut archive = wanted("tool", version, &[]);
        let words = |program: &str| vec![program.to_owned(), format!("/payload/tool_{version}")];
        archive.package.install = Install::Archive { run: words("/first"), upgrade: Some(words("/again")) };
        of(vec![archive])
    };
    for version in ["1", "2"] {
        let found = converge_at(&archive(version), &mut model, &mut memory, NOW);
        assert_eq!(found[0].state, Compliance::Installed, "{found:?}");
    }
    let programs: Vec<&str> = model.ran.iter().map(|words| words[0].as_str()).collect();
    assert_eq!(programs, ["/first", "/again"]);
}

#[test]
fn what_must_not_be_there_is_removed_and_what_has_no_rule_for_it_is_said() {
    let mut model = Model::default();
    model.dpkg.insert("old".into(), "1".into());
    model.dpkg.insert("stuck".into(), "1".into());
    let mut old = wanted("old", "1", &[]);
    old.package.remove = Some(Remove::Deb("old".into()));
    let absent = vec![old, wanted("stuck", "1", &[]), wanted("never", "1", &[])];
    let found = findings(&mut model, &Policy { absent, ..Policy::default() });
    let expected = [("old", Compliance::Removed), ("stuck", Compliance::Failed), ("never", Compliance::Held)];
    assert_eq!(shown(found), expect(&expected));
    assert!(!model.dpkg.contains_key("old"));
}

#[test]
fn a_package_that_the_machine_is_not_made_for_is_no_failure() {
    let mut model = Model::default();
    let mut other = wanted("a", "1", &[]);
    other.package.needs.os = vec!["fedora".into()];
    let found = states(&mut model, vec![other, wanted("b", "1", &["a"])]);
    assert_eq!(found, expect(&[("a", Compliance::NotApplicable), ("b", Compliance::Failed)]));
    let mut large = wanted("c", "1", &[]);
    large.payload.bytes = 2 << 30;
    let found = findings(&mut model, &of(vec![large]));
    assert!(found[0].reason.contains("does not fit"), "{found:?}");
    assert!(model.ran.is_empty());
}

#[test]
fn nothing_is_changed_outside_the_window_until_the_deadline() {
    let (mut model, mut memory) = (Model::default(), Memory::default());
    let night = Window { days: Vec::new(), from: "22:00".into(), to: "05:00".into() };
    let deadline = Some(NOW.plus_seconds(86_400));
    let mut late = wanted("a", "1", &[]);
    late.when = When { windows: vec![night], deadline };
    let mut motd =
        setting(Setting::File(FileSetting { path: "/m".into(), content: Some("x".into()), ..FileSetting::default() }));
    motd.when = late.when.clone();
    let policy = Policy { packages: vec![late], settings: vec![motd], ..Policy::default() };
    let at = |now: Timestamp| shown(converge_at(&policy, &mut model.clone(), &mut memory.clone(), now));
    let pending = expect(&[("file:/m", Compliance::Pending), ("a", Compliance::Pending)]);
    let installed = expect(&[("file:/m", Compliance::Installed), ("a", Compliance::Installed)]);
    assert_eq!(at(NOW), pending);
    assert_eq!(at(NOW.plus_seconds(11 * 3600)), installed, "23:00 is in the window");
    assert_eq!(at(NOW.plus_seconds(86_400)), installed, "the deadline is over");
    let found = converge_at(&policy, &mut model, &mut memory, NOW);
    assert!(found[1].reason.contains("waits for 22:00-05:00 UTC"), "{found:?}");
}

#[test]
fn a_failure_is_not_tried_again_at_once_and_one_that_ends_the_agent_is_found_out() {
    let (mut model, mut memory) = (Model { failing: vec!["a".into()], ..Model::default() }, Memory::default());
    let policy = of(vec![wanted("a", "1", &[])]);
    for minutes in [0, 1, 14] {
        let found = converge_at(&policy, &mut model, &mut memory, NOW.plus_seconds(minutes * 60));
        assert_eq!((found[0].state, model.ran.len()), (Compliance::Failed, 1), "{minutes}");
    }
    let found = converge_at(&policy, &mut model, &mut memory, NOW.plus_seconds(15 * 60));
    assert_eq!((found[0].reason.as_str(), model.ran.len()), ("its installer ended with 1 (tried 2 times)", 2));
    (0..3).for_each(|_| memory.begin("a", "1"));
    let found = converge_at(&policy, &mut Model::default(), &mut memory, NOW.plus_seconds(3600));
    assert!(found[0].reason.starts_with("its installer ended the agent"), "{found:?}");
}

/// Five packages and five settings, one of each kind.
fn whole_baseline() -> Policy {
    let file =
        FileSetting { path: "/etc/motd".into(), content: Some("hi".into()), mode: Some("0600".into()), absent: false };
    let gone = FileSetting { path: "/etc/old".into(), absent: true, ..FileSetting::default() };
    let user = UserSetting {
        name: "ops".into(),
        shell: Some("/bin/bash".into()),
        groups: vec!["adm".into()],
        ..UserSetting::default()
    };
    let service = ServiceSetting { name: "ssh".into(), enabled: Some(true), running: Some(true) };
    let settings = [
        Setting::File(file),
        Setting::File(gone),
        Setting::User(user),
        Setting::Sysctl(SysctlSetting { key: "net.a".into(), value: "1 2".into() }),
        Setting::Service(service),
    ];
    let packages =
        ["a", "b", "c", "d"].map(|name| wanted(name, "1", &[])).into_iter().chain([wanted("e", "2", &["a"])]);
    Policy { packages: packages.collect(), settings: settings.map(setting).to_vec(), ..Policy::default() }
}

fn bare_machine() -> Model {
    let mut model = Model::default();
    model.files.insert("/etc/old".into(), (Vec::new(), 0o644));
    model.files.insert("/proc/sys/net/a".into(), (b"0\t0\n".to_vec(), 0o644));
    model
}

#[test]
fn a_whole_baseline_converges_and_drift_is_mended() {
    let mut model = bare_machine();
    let policy = whole_baseline();
    let first = findings(&mut model, &policy);
    assert_eq!(first.len(), 10);
    assert!(first.iter().all(|finding| finding.state == Compliance::Installed), "{first:#?}");
    assert!(findings(&mut model, &policy).iter().all(|finding| finding.state == Compliance::Held));
    model.files.insert("/etc/motd".into(), (b"changed".to_vec(), 0o644));
    model.services.insert("ssh".into(), (true, false));
    model.dpkg.remove("c");
    let drifted = findings(&mut model, &policy);
    let mended: Vec<&str> =
        drifted.iter().filter(|f| f.state == Compliance::Installed).map(|f| f.package.as_str()).collect();
    assert_eq!(mended, ["file:/etc/motd", "c", "service:ssh"]);
    assert_eq!(drifted[0].reason, "mended: it has another content");
}

#[test]
fn audit_says_what_is_not_so_and_mends_nothing() {
    let mut model = bare_machine();
    let mut policy = whole_baseline();
    policy.settings.iter_mut().for_each(|wanted| wanted.mode = Mode::Audit);
    policy.packages.iter_mut().for_each(|wanted| wanted.mode = Mode::Audit);
    let before = model.files.clone();
    assert!(findings(&mut model, &policy).iter().all(|finding| finding.state == Compliance::Missing));
    assert_eq!((model.files, model.ran.len()), (before, 0));
}

/// The power is cut after each single act; whatever was done by then, the next round ends where an undisturbed one ends.
#[test]
fn a_cut_after_every_act_loses_nothing() {
    let policy = whole_baseline();
    let mut undisturbed = bare_machine();
    findings(&mut undisturbed, &policy);
    for acts in 0..30 {
        let (mut model, mut memory) = (Model { acts_left: Some(acts), ..bare_machine() }, Memory::default());
        converge_at(&policy, &mut model, &mut memory, NOW);
        model.acts_left = None;
        let after = converge_at(&policy, &mut model, &mut memory, NOW.plus_seconds(86_400));
        assert!(after.iter().all(|finding| finding.state.is_compliant()), "cut after {acts}: {after:#?}");
        let state = |model: &Model| (model.dpkg.clone(), model.files.clone(), model.services.clone());
        assert_eq!(state(&model), state(&undisturbed), "cut after {acts}");
    }
}
