//! Targets that must not be written: too small, mounted.

use super::grow::Loop;
use super::{Bench, MIB, have, noise, run};
use remint::access::signing::SigningKey;
use remint::imaging::apply::{Options, make_match};
use remint::imaging::disk::target::Kernel;
use remint::imaging::error::Error;
use remint::imaging::import::{Importer, Source};
use remint::imaging::store::local::LocalStore;
use remint::imaging::target::Target;
use remint::stdx::monitor::Progress;
use remint::stdx::time::Timestamp;
use std::path::Path;

#[test]
fn a_device_that_is_too_small_is_refused_before_anything_is_written() {
    if !have(&["sgdisk", "losetup"]) {
        return;
    }
    let bench = Bench::new();
    let disk = bench.blank("disk.img", 64 * MIB);
    run("sgdisk", &["-n1:2048:+40M", "-t1:8300", &disk]);
    let small = bench.name("small.img");
    std::fs::write(&small, noise(1, 32 * MIB as usize)).unwrap();
    let store = LocalStore::create(&bench.path("store")).unwrap();
    let key = SigningKey::create(&bench.path("key")).unwrap();
    let (now, progress) = (Timestamp::from_milliseconds(0), Progress::default());
    let importer = Importer { store: &store, key: &key, now, progress: &progress };
    let manifest = importer.disk("disk", Source::raw(Path::new(&disk)).unwrap()).unwrap().manifest;
    // Everything but the second copy of the table fits on 42 MiB.
    assert!(manifest.needed_bytes() > 41 * MIB && manifest.needed_bytes() < 43 * MIB, "{}", manifest.needed_bytes());
    let Some(device) = Loop::attach(&small, &[]) else { return };
    let target = Target::open(Path::new(&device.device)).unwrap();
    match make_match(&manifest, &store, &target, &Options::default(), &progress, &mut |_| {}) {
        Err(Error::TargetTooSmall { needed, have }) => assert_eq!((needed, have), (manifest.needed_bytes(), 32 * MIB)),
        other => panic!("{other:?}"),
    }
    drop((target, device));
    assert!(std::fs::read(&small).unwrap() == noise(1, 32 * MIB as usize), "something was written");
}

#[test]
fn a_device_that_is_mounted_is_refused() {
    if !have(&["mke2fs", "losetup"]) {
        return;
    }
    let bench = Bench::new();
    let image = bench.blank("image", 16 * MIB);
    run("mke2fs", &["-q", "-F", "-t", "ext4", &image]);
    let Some(mut device) = Loop::attach(&image, &[]) else { return };
    if !device.mount(bench.path("mounted")) {
        return;
    }
    let path = Path::new(&device.device);
    assert!(matches!(Target::open(path), Err(Error::TargetInUse { .. })));
    let refused = Kernel::host().check_unused(path).unwrap_err().to_string();
    assert!(refused.contains("is mounted at"), "{refused}");
    // The file below it is in use as well.
    let refused = Kernel::host().check_unused(Path::new(&image)).unwrap_err().to_string();
    assert!(refused.contains(&format!("is held by {}", device.device)), "{refused}");
}
