//! The files of a version, and what changed in them, against the tools that made them.

use super::{Bench, MIB, have, noise, run};
use remint::access::signing::SigningKey;
use remint::imaging::file_diff::{FileDiff, file_diff};
use remint::imaging::fs::Kind;
use remint::imaging::fs::files::{Content, EntryKind, list};
use remint::imaging::import::{Importer, Source};
use remint::imaging::store::local::LocalStore;
use remint::imaging::view::View;
use remint::stdx::io::{FileAt, ReadAt};
use remint::stdx::monitor::Progress;
use remint::stdx::time::Timestamp;
use std::fs::File;
use std::path::Path;

/// Every file under `folder` is listed under `prefix` with its content, and nothing else is but what `own` names.
fn check_listed(image: &str, kind: Kind, folder: &str, prefix: &str, own: &[&str]) {
    let source = FileAt::new(File::open(image).unwrap()).unwrap();
    let files = list(&source, kind).unwrap();
    let found = run("find", &[folder, "-printf", "%y %P\\n"]);
    let mut count = 0;
    for line in found.lines() {
        let (letter, name) = line.split_once(' ').unwrap();
        if name.is_empty() {
            continue;
        }
        count += 1;
        let entry = files.get(&format!("{prefix}/{name}")).unwrap_or_else(|| panic!("{name} is not listed"));
        let expected = if letter == "d" { EntryKind::Folder } else { EntryKind::File };
        assert_eq!(entry.kind, expected, "{name}");
        if expected == EntryKind::File {
            assert!(
                content(&source, &entry.content, entry.bytes) == std::fs::read(format!("{folder}/{name}")).unwrap(),
                "{name}"
            );
        }
    }
    let others: Vec<&String> = files.keys().filter(|path| own.contains(&path.as_str())).collect();
    assert_eq!(files.len(), count + others.len(), "{:?}", files.keys().collect::<Vec<_>>());
}

fn content(source: &dyn ReadAt, content: &Content, bytes: u64) -> Vec<u8> {
    let mut found = vec![0; bytes as usize];
    match content {
        Content::Inline(inline) => found.copy_from_slice(inline),
        Content::Unknown => panic!("the content is not known"),
        Content::Pieces(pieces) => {
            for piece in pieces {
                let at = piece.in_file as usize;
                source.read_exact_at(&mut found[at..at + piece.len as usize], piece.at).unwrap();
            }
        }
    }
    found
}

fn ext_files(kind: Kind, options: &[&str]) {
    if !have(&["mke2fs"]) {
        return;
    }
    let bench = Bench::new();
    let (content, image) = (bench.content(), bench.blank("image", 64 * MIB));
    run("mke2fs", &[&["-q", "-F", "-d", content.as_str()], options, &[image.as_str()]].concat());
    check_listed(&image, kind, &content, "", &["/lost+found"]);
}

#[test]
fn the_files_of_ext4_are_listed_with_their_content() {
    ext_files(Kind::Ext4, &["-t", "ext4"]);
}

#[test]
fn the_files_of_ext2_with_small_blocks_are_listed_with_their_content() {
    ext_files(Kind::Ext2, &["-t", "ext2", "-b", "1024"]);
}

#[test]
fn the_files_of_fat_are_listed_with_their_content() {
    if !have(&["mkfs.vfat", "mcopy"]) {
        return;
    }
    for (kind, bytes, bits) in
        [(Kind::Fat12, 14 * MIB, "12"), (Kind::Fat16, 64 * MIB, "16"), (Kind::Fat32, 300 * MIB, "32")]
    {
        let bench = Bench::new();
        let (content, image) = (bench.content(), bench.blank("image", bytes));
        run(
            "mkfs.vfat",
            &[
                "-F",
                bits,
                "-s",
                match bits {
                    "12" => "8",
                    "16" => "4",
                    _ => "1",
                },
                &image,
            ],
        );
        run("mcopy", &["-s", "-i", &image, &content, "::/"]);
        check_listed(&image, kind, &content, "/content", &["/content"]);
    }
}

#[test]
fn the_files_of_ntfs_are_listed_with_their_content() {
    if !have(&["mkntfs", "ntfscp"]) {
        return;
    }
    let bench = Bench::new();
    let image = bench.blank("image", 64 * MIB);
    run("mkntfs", &["-F", "-q", "-Q", &image]);
    let folder = bench.path("files");
    std::fs::create_dir(&folder).unwrap();
    for (name, bytes) in [("small.txt", 100), ("middle.bin", 70_000), ("a name that DOS cannot write.bin", 3_000_000)] {
        std::fs::write(folder.join(name), noise(bytes as u64, bytes)).unwrap();
        run("ntfscp", &[&image, folder.join(name).to_str().unwrap(), name]);
    }
    check_listed(&image, Kind::Ntfs, folder.to_str().unwrap(), "", &[]);
}

/// Two versions of a disk whose files are `old` and `new`, compared.
fn compared(bench: &Bench, folders: [&str; 2]) -> FileDiff {
    let store = LocalStore::create(&bench.path("store")).unwrap();
    let key = SigningKey::create(&bench.path("key")).unwrap();
    let (now, progress) = (Timestamp::from_milliseconds(0), Progress::default());
    let importer = Importer { store: &store, key: &key, now, progress: &progress };
    let manifests = folders.map(|folder| {
        let image = bench.blank(&format!("{folder}.img"), 64 * MIB);
        run("mke2fs", &["-q", "-F", "-t", "ext4", "-d", &bench.name(folder), &image]);
        importer.disk("disk", Source::raw(Path::new(&image)).unwrap()).unwrap().manifest
    });
    let views = [0, 1].map(|number| View::open(&manifests[number], &store).unwrap());
    let part = |number: usize| (&views[number], manifests[number].header.partitions.as_slice());
    file_diff(part(0), part(1)).unwrap().remove(0)
}

#[test]
fn two_versions_are_compared_in_files() {
    if !have(&["mke2fs", "cp"]) {
        return;
    }
    let bench = Bench::new();
    let content = bench.content();
    for folder in ["old", "new"] {
        run("cp", &["-a", &content, &bench.name(folder)]);
    }
    let new = bench.path("new");
    // In front of the others, so that all of them lie elsewhere in the new version.
    std::fs::write(new.join("added.bin"), noise(99, 1_000_000)).unwrap();
    std::fs::remove_file(new.join("file-7.bin")).unwrap();
    let mut changed = std::fs::read(new.join("deep/er/large.bin")).unwrap();
    changed[2_000_000] ^= 1;
    std::fs::write(new.join("deep/er/large.bin"), changed).unwrap();
    run("chmod", &["0600", &bench.name("new/file-9.bin")]);
    let diff = compared(&bench, ["old", "new"]);
    let names = |names: &[remint::imaging::file_diff::Name]| -> Vec<String> {
        names.iter().filter(|name| name.kind == EntryKind::File).map(|name| name.path.clone()).collect()
    };
    assert_eq!(diff.not_listed, None);
    assert_eq!(names(&diff.added), ["/added.bin"]);
    assert_eq!(names(&diff.removed), ["/file-7.bin"]);
    assert_eq!(names(&diff.changed), ["/deep/er/large.bin", "/file-9.bin"]);
    assert!(diff.same > 110, "{}", diff.same);
}
