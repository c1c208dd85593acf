use super::*;
use crate::software::model::{Detection, Install};
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
    Baseline { name: name.into(), collection: collection.into(), packages, mode }
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
