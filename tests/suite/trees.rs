//! NTFS: what wimlib captures of one volume, Remint applies to another, and wimlib captures the same again.

#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

use std::path::{Path, PathBuf};

use remint::access::signing::SigningKey;
use remint::imaging::apply::Options;
use remint::imaging::import::Importer;
use remint::imaging::store::local::LocalStore;
use remint::imaging::tree;
use remint::imaging::wim::apply;
use remint::imaging::wim::reader::{OnDamage, Wim};
use remint::stdx::monitor::Progress;
use remint::stdx::time::Timestamp;
use remint::tasksequence::host::{FileContent, Listed, root};

mod ntfs;

use ntfs::{Volume, capture, fill, run, seen};

/// Two volumes, the first of them filled and captured; `None` where this machine cannot.
fn volumes(folder: &Path) -> Option<(PathBuf, PathBuf, PathBuf)> {
    let (first, second, wim) = (folder.join("first.img"), folder.join("second.img"), folder.join("first.wim"));
    let made = Volume::make(&first)
        .and_then(|()| Volume::make(&second))
        .and_then(|()| run("wimlib-imagex", &["--version"]))
        .and_then(|()| Volume::mount(&first, &folder.join("mounted")));
    match made {
        Err(reason) => {
            println!("skipped: no NTFS volume can be made and mounted here: {reason}");
            None
        }
        Ok(volume) => {
            fill(&volume.folder);
            volume.unmount();
            capture(&first, &wim);
            Some((first, second, wim))
        }
    }
}

fn assert_same(expected: &Path, found: &Path) {
    let (expected, found) = (seen(expected), seen(found));
    assert_eq!(ntfs::differences(&expected, &found), [""; 0]);
    assert!(expected.len() > 30);
}

#[test]
fn an_ntfs_tree_from_a_wim_is_the_same_on_another_volume() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_, second, wim)) = volumes(folder.path()) else { return };
    let volume = Volume::mount(&second, &folder.path().join("mounted")).unwrap();
    let opened = Wim::open(&wim, OnDamage::Stop).unwrap();
    let report = apply::apply(&opened, 1, &volume.folder, OnDamage::Stop, 2, &Progress::default()).unwrap();
    assert!(report.not_held.is_empty(), "{:?}", report.not_held);
    volume.unmount();
    let again = folder.path().join("second.wim");
    capture(&second, &again);
    assert_same(&wim, &again);
}

#[test]
fn an_ntfs_tree_goes_through_the_store_to_another_volume() {
    let folder = tempfile::tempdir().unwrap();
    let Some((_, second, wim)) = volumes(folder.path()) else { return };
    let store = LocalStore::create(&folder.path().join("store")).unwrap();
    let key = SigningKey::create(&folder.path().join("key")).unwrap();
    let (now, progress) = (Timestamp::from_milliseconds(1), Progress::default());
    let importer = Importer { store: &store, key: &key, now, progress: &progress };
    let opened = Wim::open(&wim, OnDamage::Stop).unwrap();
    let imported = importer.wim_image("windows", &opened, 1, "first.wim").unwrap();
    let volume = Volume::mount(&second, &folder.path().join("mounted")).unwrap();
    let options = Options::default();
    // Twice: the second time everything is there already.
    for _ in 0..2 {
        let apply = tree::apply::make_match;
        let receipt =
            apply(&imported.manifest, &store, &volume.folder, &options, &Progress::default(), &mut |_| {}).unwrap();
        assert!(receipt.not_held.is_empty(), "{:?}", receipt.not_held);
    }
    volume.unmount();
    let again = folder.path().join("second.wim");
    capture(&second, &again);
    assert_same(&wim, &again);
}

#[test]
fn a_file_of_a_step_lies_on_an_ntfs_volume_where_windows_finds_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some((first, ..)) = volumes(folder.path()) else { return };
    let volume = Volume::mount(&first, &folder.path().join("mounted")).unwrap();
    let content = FileContent { bytes: b"x".to_vec(), mode: 0o640 };
    root::write(&volume.folder, "/program FILES/app/new/settings.ini", &content).unwrap();
    let read = root::read(&volume.folder, "/PROGRAM files/App/NEW/Settings.ini").unwrap().unwrap();
    assert!(read.is(&content) && read.mode.is_none(), "{read:?}");
    let listed = root::list(&volume.folder, "/program files").unwrap().unwrap();
    assert_eq!(listed, [Listed { name: "App".into(), is_folder: true }]);
    volume.unmount();
}
