//! A site that is copied while machines report and check in and images are published; what goes on elsewhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::appliance::{Appliance, Machine, remint};
use crate::images::{noise, publish_two_versions};

const MACHINES: usize = 8;
const SEQUENCE: &str = "name: wipe\nsteps:\n  - wipe-disk:\n      disk: first\n";
/// Everything that the site has records of: where, and by what a record is known.
const RECORDS: [(&str, &str); 7] = [
    ("machines", "id"),
    ("runs", "id"),
    ("deployments", "id"),
    ("sequences", "name"),
    ("images", "id"),
    ("collections", "name"),
    ("audit?limit=1000", "number"),
];
/// Fields that each report and each check-in changes; a collection lists its machines, of which there are ever more.
const PASSING: [(&str, &str); 4] =
    [("machines", "seen_at"), ("runs", "progress"), ("runs", "seen_at"), ("collections", "machines")];

#[test]
fn a_backup_under_load_goes_on_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let appliance = Appliance::start(folder.path());
    let token = appliance.administrators_token();
    publish_two_versions(&appliance.site, folder.path());
    let mut machines = enrol(&appliance);
    begin_runs(&appliance, &mut machines, folder.path());
    let backups = folder.path().join("backups");

    let before = records(&appliance, &token);
    let made = under_load(&appliance, &mut machines, folder.path(), || {
        remint(&appliance.site, &["backup", backups.to_str().unwrap()])
    });
    let after = records(&appliance, &token);
    assert!(made["damaged"].as_array().unwrap().is_empty(), "{made}");
    let restored = restore(&backups, folder.path(), "restored");
    assert_between(&before, &records(&restored, &token), &after);
    verify_images(&restored);
    machines[0].move_to(&restored);
    go_on(&mut machines[0], &restored, &token);
    drop(restored);

    // Nothing happens meanwhile: every word is the same. Of the packs only what is new is copied.
    let second = remint(&appliance.site, &["backup", backups.to_str().unwrap()]);
    println!("  a second backup copied {} of {} packs", second["copied_packs"], second["packs"]);
    let quiet = records(&appliance, &token);
    assert_eq!(records(&restore(&backups, folder.path(), "again"), &token), quiet);
}

fn enrol(appliance: &Appliance) -> Vec<Machine> {
    let mut machines: Vec<Machine> =
        (0..MACHINES).map(|number| Machine::new(appliance, &format!("B-{number}"))).collect();
    for machine in &mut machines {
        machine.check_in(appliance);
    }
    for machine in remint(&appliance.site, &["machine", "list"]).as_array().unwrap() {
        remint(&appliance.site, &["machine", "approve", machine["name"].as_str().unwrap()]);
    }
    for machine in &mut machines {
        assert!(machine.check_in(appliance), "it was approved");
    }
    machines
}

fn begin_runs(appliance: &Appliance, machines: &mut [Machine], folder: &Path) {
    let document = folder.join("wipe.yaml");
    std::fs::write(&document, SEQUENCE).unwrap();
    remint(&appliance.site, &["sequence", "publish", document.to_str().unwrap()]);
    let confirm = MACHINES.to_string();
    remint(&appliance.site, &["deploy", "start", "wipe", "--collection", "all", "--yes", &confirm]);
    for machine in machines {
        machine.fetch();
        machine.begin("1");
    }
}

/// Does `work` while every machine reports as fast as it is answered, new ones check in, and images are published.
fn under_load(appliance: &Appliance, machines: &mut [Machine], folder: &Path, work: impl FnOnce() -> Value) -> Value {
    let (stop, reports, newcomers, images) =
        (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let going = |count: &AtomicUsize| {
        count.fetch_add(1, Ordering::Relaxed);
        !stop.load(Ordering::Relaxed)
    };
    let begun = Instant::now();
    let (made, seconds) = std::thread::scope(|scope| {
        for machine in machines {
            let (going, reports) = (&going, &reports);
            scope.spawn(move || {
                let mut percent = 0;
                while going(reports) {
                    percent = (percent + 1) % 100;
                    machine.report("1", percent, 100);
                }
            });
        }
        scope.spawn(|| {
            while going(&newcomers) {
                let serial = format!("N-{}", newcomers.load(Ordering::Relaxed));
                Machine::new(appliance, &serial).check_in(appliance);
            }
        });
        scope.spawn(|| {
            while going(&images) {
                let number = images.load(Ordering::Relaxed);
                let file = folder.join("load.raw");
                std::fs::write(&file, noise(1000 + number as u64, 8 << 20)).unwrap();
                remint(&appliance.site, &["image", "import", file.to_str().unwrap(), "--name", "load"]);
            }
        });
        // The backup begins in the middle of all of it.
        while reports.load(Ordering::Relaxed) < 4 * MACHINES || images.load(Ordering::Relaxed) < 2 {
            std::thread::yield_now();
        }
        let begun = Instant::now();
        let made = work();
        let seconds = begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        (made, seconds)
    });
    println!(
        "  a backup of {} packs ({} bytes) took {seconds:.2} s, while in {:.1} s {} reports, {} check-ins of new machines and {} imports were made",
        made["packs"],
        made["copied_bytes"],
        begun.elapsed().as_secs_f64(),
        reports.into_inner(),
        newcomers.into_inner(),
        images.into_inner(),
    );
    made
}

fn restore(backups: &Path, folder: &Path, name: &str) -> Appliance {
    let site = folder.join(name);
    remint(&site, &["restore", backups.to_str().unwrap()]);
    Appliance::serve(site, "off")
}

type Records = BTreeMap<(String, String), Value>;

fn records(appliance: &Appliance, token: &str) -> Records {
    let mut records = Records::new();
    for (kind, key) in RECORDS {
        let all = appliance.ask(&format!("/api/v1/{kind}"), token);
        for record in all.as_array().unwrap_or_else(|| panic!("{kind}: {all}")) {
            assert!(!record[key].is_null(), "{kind} have no {key}: {record}");
            records.insert((kind.to_owned(), record[key].to_string()), record.clone());
        }
    }
    records
}

/// What was there before is there as it was, but for what reports change; nothing is there that was never.
fn assert_between(before: &Records, restored: &Records, after: &Records) {
    for (key, record) in before {
        let found = restored.get(key).unwrap_or_else(|| panic!("{key:?} is not in the backup"));
        assert_eq!(without_passing(&key.0, found), without_passing(&key.0, record), "{key:?}");
        let seen = |record: &Value| record["seen_at"].as_i64();
        let end = after.get(key).and_then(seen);
        assert!(seen(record) <= seen(found) && seen(found) <= end, "{key:?}: {record} {found} {end:?}");
    }
    for key in restored.keys().filter(|key| !key.0.starts_with("audit")) {
        assert!(after.contains_key(key), "{key:?} was never there");
    }
    println!(
        "  {} records were there before, {} are in the backup, {} were there after",
        before.len(),
        restored.len(),
        after.len()
    );
}

fn without_passing(kind: &str, record: &Value) -> Value {
    let mut record = record.clone();
    PASSING.iter().filter(|(of, _)| *of == kind).for_each(|(_, name)| record[name] = Value::Null);
    record
}

fn verify_images(restored: &Appliance) {
    let images = remint(&restored.site, &["image", "list"]);
    let names: Vec<String> = images
        .as_array()
        .unwrap()
        .iter()
        .map(|image| format!("{}@{}", image["name"].as_str().unwrap(), image["version"]))
        .collect();
    assert!(names.len() >= 3, "{names:?}");
    for name in names {
        remint(&restored.site, &["image", "verify", &name]);
    }
}

/// With its key and certificate, in the middle of its run.
fn go_on(machine: &mut Machine, restored: &Appliance, token: &str) {
    assert_eq!(machine.directive(), "go");
    machine.report("1", 99, 100);
    machine.finish("1", None);
    machine.end("succeeded");
    let runs = restored.ask("/api/v1/runs", token);
    let succeeded = runs.as_array().unwrap().iter().filter(|run| run["state"] == "succeeded").count();
    assert_eq!(succeeded, 1, "{}", json!(runs));
    assert!(!Machine::new(restored, "R-1").check_in(restored), "a new one waits for approval there");
}
