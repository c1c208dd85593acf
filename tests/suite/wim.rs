//! WIM files that wimlib-imagex made from trees, read and applied by us, and the other way round; damaged files.

#![expect(clippy::print_stdout, reason = "a test that cannot run says so")]

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use remint::imaging::wim::codec::Compression;
use remint::imaging::wim::reader::{OnDamage, Wim};
use remint::imaging::wim::{apply, capture, verify};
use remint::stdx::xattr;

mod commands;
mod damage;
mod write;

/// Everything of a tree that a Linux folder holds, by path.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut seen = BTreeMap::new();
    let mut todo = vec![folder.to_owned()];
    let mut inodes = BTreeMap::new();
    while let Some(path) = todo.pop() {
        let stat = path.symlink_metadata().unwrap();
        let relative = path.strip_prefix(folder).unwrap().to_owned();
        let content = if stat.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if stat.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else if stat.is_file() {
            blake3::hash(&fs::read(&path).unwrap()).to_hex().to_string()
        } else {
            format!("device {}", stat.rdev())
        };
        inodes.entry(stat.ino()).or_insert_with(Vec::new).push(relative.clone());
        let links = if stat.is_dir() { 0 } else { stat.nlink() };
        let time = (stat.mtime(), stat.mtime_nsec() / 100);
        let xattrs = xattrs(&path);
        let facts = format!("{:o} {} {} {links} {time:?} {content} {xattrs:?}", stat.mode(), stat.uid(), stat.gid());
        seen.insert(relative, facts);
    }
    for names in inodes.values_mut().filter(|names| names.len() > 1) {
        names.sort();
        for name in names.iter() {
            seen.entry(name.clone()).and_modify(|facts| facts.push_str(&format!(" linked {names:?}")));
        }
    }
    seen
}

fn xattrs(path: &Path) -> BTreeMap<CString, Vec<u8>> {
    let names = xattr::names_at(path).unwrap_or_default();
    names.into_iter().map(|name| (name.clone(), xattr::value_at(path, &name).unwrap())).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// Text, noise, a mixture with x86 calls, or a run: what the codecs tell apart.
    fn content(&mut self) -> Vec<u8> {
        let len = match self.below(30) {
            0 => 0,
            1 => 1 + self.below(40),
            2 => 1_200_000 + self.below(900_000),
            3..10 => self.below(100_000),
            _ => self.below(9_000),
        };
        let kind = self.below(4);
        let words: Vec<u64> = (0..64).map(|_| self.below(u64::MAX >> 33)).collect();
        let mut bytes = Vec::new();
        while (bytes.len() as u64) < len {
            match kind {
                0 => bytes.push(self.below(256) as u8),
                1 => bytes.extend(format!("word {} ", words[self.below(64) as usize]).bytes()),
                2 => bytes.extend([
                    0xe8,
                    words[self.below(64) as usize] as u8,
                    self.below(2) as u8,
                    0,
                    0,
                    0x48,
                    0x8b,
                    0x05,
                ]),
                _ => bytes.extend([self.below(2) as u8; 300]),
            }
        }
        bytes.truncate(len as usize);
        bytes
    }
}

/// A tree with files of all kinds of content, hard and symbolic links, pipes and sockets, permissions, times, attributes,
/// and as root owners and devices.
fn make_tree(folder: &Path, seed: u64) {
    let mut random = Random(seed);
    let mut folders = vec![folder.to_owned()];
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..8 + random.below(25) {
        let parent = folders[random.below(folders.len() as u64) as usize].clone();
        let path = parent.join(
            ["a", "Ä ö", "x:y", "back\\slash", "日本", "𝄞"][random.below(6) as usize].to_owned() + &number.to_string(),
        );
        match random.below(9) {
            0 | 1 => {
                fs::create_dir(&path).unwrap();
                make_attributes(&path, &mut random);
                folders.push(path);
                continue;
            }
            8 => {
                make_node(&path, &mut random);
                continue;
            }
            2 => {
                symlink(["../up", "/etc/passwd", "a\\b", "nowhere/ä", "."][random.below(5) as usize], &path).unwrap();
                continue;
            }
            3 if !files.is_empty() => fs::hard_link(&files[random.below(files.len() as u64) as usize], &path).unwrap(),
            _ => fs::write(&path, random.content()).unwrap(),
        }
        make_attributes(&path, &mut random);
        let mode = [0o644, 0o755, 0o400, 0o4755][random.below(4) as usize];
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let time = std::time::UNIX_EPOCH
            + std::time::Duration::new(random.below(1 << 32), random.below(10_000_000) as u32 * 100);
        fs::File::open(&path).and_then(|file| file.set_modified(time)).unwrap();
        files.push(path);
    }
}

/// Attributes where the file system has them, and an owner where that may be given.
fn make_attributes(path: &Path, random: &mut Random) {
    for number in 0..random.below(6).saturating_sub(3) {
        let value: Vec<u8> = (0..random.below(300)).map(|_| random.below(256) as u8).collect();
        let _ = xattr::set_at(path, &CString::new(format!("user.remint.{number}")).unwrap(), &value);
    }
    if random.below(3) == 0 && nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(path, Some(random.below(70_000) as u32), Some(random.below(70_000) as u32)).unwrap();
    }
}

/// A pipe, a socket, or as root a device.
fn make_node(path: &Path, random: &mut Random) {
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    let mode = Mode::from_bits_truncate(0o640);
    let (kind, device) = match random.below(4) {
        0 => (SFlag::S_IFIFO, 0),
        1 => (SFlag::S_IFSOCK, 0),
        _ if !nix::unistd::geteuid().is_root() => (SFlag::S_IFIFO, 0),
        2 => (SFlag::S_IFCHR, makedev(random.below(200), random.below(100_000))),
        _ => (SFlag::S_IFBLK, makedev(random.below(200), random.below(256))),
    };
    mknod(path, kind, mode, device).unwrap();
}

/// Runs wimlib-imagex; `None` when it is not installed.
fn wimlib(arguments: &[&str]) -> Option<bool> {
    let run = Command::new("wimlib-imagex").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match run {
        Ok(status) => Some(status.success()),
        Err(error) => {
            println!("skipped: wimlib-imagex does not run: {error}");
            None
        }
    }
}

fn apply_to(wim: &Path, folder: &Path) -> apply::Report {
    let wim = Wim::open(wim, OnDamage::Stop).unwrap();
    apply::apply(&wim, 1, folder, OnDamage::Stop, 2, &Default::default()).unwrap()
}

/// Captures `trees` random trees with wimlib's `options` each and expects to apply the same.
fn check_trees(options: &[&str], seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let temporary = tempfile::tempdir().unwrap();
        let (tree, file) = (temporary.path().join("tree"), temporary.path().join("x.wim"));
        fs::create_dir(&tree).unwrap();
        make_tree(&tree, seed);
        let mut arguments = vec!["capture", tree.to_str().unwrap(), file.to_str().unwrap(), "--unix-data"];
        arguments.extend(options);
        match wimlib(&arguments) {
            None => return,
            Some(done) => assert!(done, "wimlib captures the tree of seed {seed}"),
        }
        let wim = Wim::open(&file, OnDamage::Stop).unwrap();
        let report = verify::verify(&wim, 2, &Default::default()).unwrap();
        assert!(report.faults.is_empty(), "seed {seed}: {:?}", report.faults);
        let applied = temporary.path().join("applied");
        let report = apply_to(&file, &applied);
        assert_eq!((report.not_held.len(), report.faults.len()), (0, 0), "seed {seed}: {report:?}");
        assert_eq!(snapshot(&applied), snapshot(&tree), "seed {seed} {options:?}");
    }
}

#[test]
fn what_wimlib_captures_uncompressed_is_applied_identically() {
    check_trees(&["--compress=none"], 0..25);
}

#[test]
fn what_wimlib_captures_with_xpress_is_applied_identically() {
    check_trees(&["--compress=xpress"], 100..140);
}

#[test]
fn what_wimlib_captures_with_lzx_is_applied_identically() {
    check_trees(&["--compress=lzx"], 200..235);
    check_trees(&["--compress=lzx", "--chunk-size=256K", "--check"], 250..265);
}

#[test]
fn what_wimlib_captures_with_lzms_is_applied_identically() {
    check_trees(&["--compress=lzms"], 300..325);
}

#[test]
fn what_wimlib_captures_solid_is_applied_identically() {
    check_trees(&["--solid"], 400..425);
    check_trees(&["--solid", "--solid-compress=lzx", "--solid-chunk-size=64K"], 430..445);
}

#[test]
fn what_wimlib_captures_pipable_is_applied_identically() {
    check_trees(&["--pipable"], 500..520);
}

#[test]
fn a_split_set_is_applied_and_a_missing_part_is_named() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    fs::create_dir(path("tree")).unwrap();
    make_tree(&path("tree"), 7);
    for number in 0..4 {
        let noise: Vec<u8> = std::iter::repeat_with(|| number)
            .scan(Random(number), |random, _| Some(random.below(256) as u8))
            .take(600_000)
            .collect();
        fs::write(path(&format!("tree/noise{number}")), noise).unwrap();
    }
    let text = |name: &str| path(name).to_str().unwrap().to_owned();
    if wimlib(&["capture", &text("tree"), &text("x.wim"), "--unix-data", "--compress=none"]).is_none() {
        return;
    }
    assert_eq!(wimlib(&["split", &text("x.wim"), &text("x.swm"), "1"]), Some(true));
    assert!(path("x2.swm").exists(), "the set has several parts");
    apply_to(&path("x.swm"), &path("applied"));
    assert_eq!(snapshot(&path("applied")), snapshot(&path("tree")));
    fs::remove_file(path("x2.swm")).unwrap();
    let missing = Wim::open(&path("x.swm"), OnDamage::Stop).err().unwrap();
    assert!(missing.to_string().contains("part 2 of"), "{missing}");
}

#[test]
fn every_flipped_byte_is_an_error_or_changes_nothing_and_never_a_panic() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    fs::create_dir(path("tree")).unwrap();
    fs::write(path("tree/text"), "some text that repeats itself ".repeat(200)).unwrap();
    fs::write(path("tree/calls"), [0xe8, 1, 2, 0, 0].repeat(100)).unwrap();
    for compress in ["--compress=none", "--compress=xpress", "--compress=lzx", "--compress=lzms", "--solid"] {
        let file = path("x.wim");
        let made = wimlib(&["capture", path("tree").to_str().unwrap(), file.to_str().unwrap(), compress]);
        if made.is_none() {
            return;
        }
        let sound = fs::read(&file).unwrap();
        let mut found = 0;
        for place in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[place] ^= 1 << (place % 8);
            found += u32::from(damage_is_found(&path("damaged.wim"), &bytes));
            if place % 16 == 0 {
                assert!(damage_is_found(&path("damaged.wim"), &sound[..place]), "cut at {place} of {compress}");
            }
        }
        assert!(f64::from(found) > 0.5 * sound.len() as f64, "{compress}: {found} of {} found", sound.len());
    }
}

fn damage_is_found(file: &Path, bytes: &[u8]) -> bool {
    fs::write(file, bytes).unwrap();
    match Wim::open(file, OnDamage::KeepGoing) {
        Err(_) => true,
        Ok(wim) => {
            let report = verify::verify(&wim, 1, &Default::default()).unwrap();
            !wim.faults.is_empty() || !report.faults.is_empty() || wim.image_count() == 0
        }
    }
}

#[test]
fn what_is_sound_of_a_damaged_file_is_applied_and_the_rest_is_said() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    fs::create_dir(path("tree")).unwrap();
    fs::write(path("tree/marked"), "MARK".repeat(500)).unwrap();
    fs::write(path("tree/other"), "sound".repeat(500)).unwrap();
    if wimlib(&["capture", path("tree").to_str().unwrap(), path("x.wim").to_str().unwrap(), "--compress=none"])
        .is_none()
    {
        return;
    }
    let mut bytes = fs::read(path("x.wim")).unwrap();
    let place = bytes.windows(8).position(|window| window == b"MARKMARK").unwrap();
    bytes[place] = b'X';
    fs::write(path("x.wim"), bytes).unwrap();
    let wim = Wim::open(&path("x.wim"), OnDamage::KeepGoing).unwrap();
    assert!(apply::apply(&wim, 1, &path("strict"), OnDamage::Stop, 2, &Default::default()).is_err());
    let report = apply::apply(&wim, 1, &path("kept"), OnDamage::KeepGoing, 2, &Default::default()).unwrap();
    assert_eq!((report.faults.len(), report.files), (1, 1));
    assert!(!path("kept/marked").exists());
    assert_eq!(fs::read(path("kept/other")).unwrap(), fs::read(path("tree/other")).unwrap());
}

fn capture_options(compression: Compression) -> capture::Options<'static> {
    capture::Options {
        compression,
        solid: false,
        pipable: false,
        integrity: false,
        append: false,
        exclude: &[],
        name: "tree".to_owned(),
        description: String::new(),
        now: 1,
        guid: [7; 16],
        workers: 2,
    }
}

/// Captures random trees; wimlib and we give them back identically.
fn check_captures(options: &capture::Options<'_>, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().join(name);
        fs::create_dir(path("tree")).unwrap();
        make_tree(&path("tree"), seed);
        let file = path("x.wim");
        capture::capture(&path("tree"), &file, options, &Default::default()).unwrap();
        check_file(&file, &path("tree"), temporary.path(), &format!("seed {seed}"));
    }
}

/// The first image of `file` is `tree`, for wimlib and for us.
fn check_file(file: &Path, tree: &Path, work: &Path, what: &str) {
    let expected = snapshot(tree);
    let report = verify::verify(&Wim::open(file, OnDamage::Stop).unwrap(), 2, &Default::default()).unwrap();
    assert!(report.faults.is_empty(), "{what}: {:?}", report.faults);
    let (ours, theirs) = (work.join("ours"), work.join("theirs"));
    apply_to(file, &ours);
    assert_eq!(snapshot(&ours), expected, "{what}, applied by us");
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let references = format!("--ref={}", text(&work.join("*.swm")));
    let references: &[&str] = if file.extension().is_some_and(|e| e == "swm") { &[&references] } else { &[] };
    let Some(verified) = wimlib(&[&["verify", &text(file)], references].concat()) else { return };
    assert!(verified, "wimlib verifies {what}");
    let (from, to) = (text(file), text(&theirs));
    let applied = wimlib(&[&["apply", &from, "1", &to, "--unix-data"], references].concat());
    assert_eq!(applied, Some(true), "{what}");
    assert_eq!(snapshot(&theirs), expected, "{what}, applied by wimlib");
    fs::remove_dir_all(ours).unwrap();
    fs::remove_dir_all(theirs).unwrap();
}

#[test]
fn what_we_capture_uncompressed_wimlib_verifies_and_applies_identically() {
    check_captures(&capture_options(Compression::None), 1000..1030);
}

#[test]
fn what_we_capture_with_xpress_wimlib_verifies_and_applies_identically() {
    check_captures(&capture_options(Compression::Xpress), 1100..1140);
}

#[test]
fn what_we_capture_with_lzx_wimlib_verifies_and_applies_identically() {
    check_captures(&capture_options(Compression::Lzx), 1200..1240);
}
