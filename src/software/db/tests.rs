use super::*;
use crate::software::model::{Detection, Install, Needs, Remove};
use crate::software::setting::{Setting, SysctlSetting};
use crate::stdx::time::ManualClock;

fn store(folder: &tempfile::TempDir) -> SoftwareStore {
    let tables = &[crate::access::db::MIGRATIONS, crate::fleet::db::MIGRATIONS, MIGRATIONS];
    let db = Arc::new(Db::open(&folder.path().join("db"), tables, Timestamp::default()).unwrap());
    db.write::<_, Error>(|tx| {
        tx.execute(
            "INSERT INTO machine (id, name, state, next_boot, identity, stage, created_at, seen_at)
             VALUES ('m', 'one', 'managed', 'local-disk', '{}', 'installed-system', 0, 0)",
            [],
        )?;
        tx.execute("INSERT INTO collection (name, created_at) VALUES ('lab', 0)", [])?;
        Ok(())
    })
    .unwrap();
    SoftwareStore { db, clock: Arc::new(ManualClock::at(Timestamp::from_milliseconds(5))) }
}

fn package(name: &str, version: &str) -> Package {
    Package {
        name: name.into(),
        version: version.into(),
        title: String::new(),
        payload: format!("{name}.deb"),
        install: Install::Deb,
        remove: None,
        detect: vec![Detection::Dpkg { name: name.into(), at_least: None }],
        requires: Vec::new(),
        supersedes: Vec::new(),
        needs: Needs::default(),
        timeout_seconds: 600,
    }
}

fn payload(digest: &str) -> Payload {
    Payload { image: "package-x".into(), version: "v".into(), bytes: 1, sha256: digest.into() }
}

fn add(store: &SoftwareStore, name: &str, version: &str) {
    store.add_package(&package(name, version), &payload("d"), &Principal::local()).unwrap();
}

fn baseline(name: &str, collection: &str, mode: Mode, packages: &[&str]) -> Baseline {
    let packages = packages.iter().map(|name| (*name).to_owned()).collect();
    Baseline {
        name: name.into(),
        collection: collection.into(),
        packages,
        absent: Vec::new(),
        settings: Vec::new(),
        mode,
        windows: Vec::new(),
        deadline: None,
        kibibytes_per_second: None,
        every_minutes: None,
    }
}

#[test]
fn what_is_superseded_is_not_wanted_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let old = Package { remove: Some(Remove::Deb("old".into())), ..package("old", "1") };
    store.add_package(&old, &payload("o"), &Principal::local()).unwrap();
    let new = Package { supersedes: vec!["old".into(), "never-here".into()], ..package("new", "1") };
    store.add_package(&new, &payload("n"), &Principal::local()).unwrap();
    store.put_baseline(&baseline("a", "all", Mode::Enforce, &["old", "new"]), &Principal::local()).unwrap();
    let policy = store.policy(&["all".to_owned()]).unwrap();
    let names = |wanted: &[Wanted]| wanted.iter().map(|w| w.package.name.clone()).collect::<Vec<_>>();
    assert_eq!((names(&policy.packages), names(&policy.absent)), (vec!["new".to_owned()], vec!["old".to_owned()]));
}

#[test]
fn settings_of_several_baselines_are_joined_and_the_enforcing_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let sysctl = |value: &str| Setting::Sysctl(SysctlSetting { key: "a.b".into(), value: value.into() });
    let with = |name: &str, mode, value: &str| Baseline {
        settings: vec![sysctl(value)],
        every_minutes: Some(5),
        ..baseline(name, "all", mode, &[])
    };
    store.put_baseline(&with("a", Mode::Audit, "1"), &Principal::local()).unwrap();
    store.put_baseline(&with("b", Mode::Enforce, "2"), &Principal::local()).unwrap();
    let policy = store.policy(&["all".to_owned()]).unwrap();
    assert_eq!((policy.settings.len(), policy.again_seconds), (1, 300));
    assert_eq!((policy.settings[0].baseline.as_str(), &policy.settings[0].setting), ("b", &sysctl("2")));
    let twice = Baseline { settings: vec![sysctl("1"), sysctl("2")], ..baseline("c", "all", Mode::Enforce, &[]) };
    assert!(matches!(store.put_baseline(&twice, &Principal::local()), Err(Error::UnsoundBaseline(_))));
}

#[test]
fn a_package_version_never_changes() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let add = |digest| store.add_package(&package("a", "1"), &payload(digest), &Principal::local());
    add("d").unwrap();
    add("d").unwrap();
    assert!(matches!(add("e"), Err(Error::Immutable { .. })));
    let unsound = Package { detect: Vec::new(), ..package("b", "1") };
    assert!(matches!(store.add_package(&unsound, &payload("d"), &Principal::local()), Err(Error::Unsound(_))));
}

#[test]
fn the_policy_of_a_machine_joins_its_baselines_and_the_stronger_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    for (name, version) in [("a", "1.9"), ("a", "1.10"), ("b", "1")] {
        add(&store, name, version);
    }
    let put = |baseline: &Baseline| store.put_baseline(baseline, &Principal::local());
    put(&baseline("everywhere", "all", Mode::Enforce, &["a@1.9"])).unwrap();
    put(&baseline("lab", "lab", Mode::Audit, &["a", "b"])).unwrap();
    let shown = |collections: &[&str]| -> Vec<String> {
        let collections: Vec<String> = collections.iter().map(|name| (*name).to_owned()).collect();
        let policy = store.policy(&collections).unwrap();
        policy.packages.iter().map(|w| format!("{} {} {:?}", w.package.name, w.package.version, w.mode)).collect()
    };
    assert_eq!(shown(&["all"]), ["a 1.9 Enforce"]);
    assert_eq!(shown(&["all", "lab"]), ["a 1.10 Enforce", "b 1 Audit"]);
    assert!(shown(&["elsewhere"]).is_empty());
    assert!(matches!(put(&baseline("x", "all", Mode::Enforce, &["no"])), Err(Error::NoPackage(_))));
    assert!(matches!(put(&baseline("x", "no", Mode::Enforce, &["a"])), Err(Error::NoCollection(_))));
    assert!(matches!(store.remove_package("b", &Principal::local()), Err(Error::InUse { .. })));
    store.remove_baseline("lab", &Principal::local()).unwrap();
    store.remove_package("b", &Principal::local()).unwrap();
    assert!(matches!(store.package("b"), Err(Error::NoPackage(_))));
}

#[test]
fn what_a_machine_reports_is_bounded_and_replaces_what_it_said_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(&folder);
    let machine = MachineId::from("m");
    let finding = |package: &str, output: String| Finding {
        package: package.into(),
        version: "1".into(),
        state: Compliance::Failed,
        reason: "because\u{1b}[2J".into(),
        output,
    };
    let report = |findings| ReportCompliance { at: Timestamp::default(), findings };
    let hostile = vec![finding("a", "x".repeat(1_000_000)), finding("<script>", String::new())];
    store.record(&machine, &report(hostile)).unwrap();
    let standing = store.compliance(Some(&machine)).unwrap();
    assert_eq!(standing.len(), 1);
    assert_eq!(standing[0].finding.output.len(), OUTPUT_CHARACTERS_MAX);
    assert_eq!(standing[0].finding.reason, "because[2J");
    store.record(&machine, &report(vec![finding("b", String::new())])).unwrap();
    let names: Vec<String> = store.compliance(None).unwrap().into_iter().map(|s| s.finding.package).collect();
    assert_eq!(names, ["b"]);
}
