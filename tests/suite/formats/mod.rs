//! Disk and file system formats against the tools that define them.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it skips"
)]

mod containers;
mod files;
mod grow;
mod hostile;
mod lies;
mod tables;
mod targets;
mod volumes;

use remint::access::signing::SigningKey;
use remint::imaging::apply::{Options, make_match};
use remint::imaging::fs;
use remint::imaging::import::{Importer, Source};
use remint::imaging::manifest::Manifest;
use remint::imaging::ranges::gaps;
use remint::imaging::store::local::LocalStore;
use remint::imaging::target::Target;
use remint::stdx::io::{FileAt, ReadAt};
use remint::stdx::monitor::Progress;
use remint::stdx::time::Timestamp;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MIB: u64 = 1 << 20;

/// Whether all `tools` are installed; says what is skipped where one is not.
fn have(tools: &[&str]) -> bool {
    let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    let missing = tools.iter().find(|tool| !folders.iter().any(|folder| Path::new(folder).join(tool).exists()));
    if let Some(tool) = missing {
        println!("skipped: {tool} is not installed");
    }
    missing.is_none()
}

fn run_any(tool: &str, arguments: &[&str]) -> Output {
    let path = "/usr/sbin:/usr/bin:/sbin:/bin";
    let mut command = Command::new(tool);
    command.args(arguments).env("PATH", path).env("LC_ALL", "C").env("MTOOLS_SKIP_CHECK", "1");
    command.output().unwrap_or_else(|error| panic!("{tool}: {error}"))
}

/// Runs a tool that must succeed, and returns what it printed.
fn run(tool: &str, arguments: &[&str]) -> String {
    let output = run_any(tool, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {}\n{text}", output.status);
    text
}

/// A temporary folder with names of files in it.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Bench {
        Bench(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A sparse file of `bytes`.
    fn blank(&self, name: &str, bytes: u64) -> String {
        File::create(self.path(name)).unwrap().set_len(bytes).unwrap();
        self.name(name)
    }

    /// Mounts the file system in `image` through a loop device and works in it. `false` where that is not to be had.
    fn mounted(&self, image: &str, work: impl FnOnce(&str)) -> bool {
        let Some(mut device) = grow::Loop::attach(image, &[]) else { return false };
        let folder = self.path("mounted");
        if !device.mount(folder.clone()) {
            return false;
        }
        work(folder.to_str().unwrap());
        device.unmount();
        true
    }

    /// A folder of files in many sizes, so that extents, fragments and directories of several blocks come about.
    fn content(&self) -> String {
        let folder = self.path("content");
        std::fs::create_dir_all(folder.join("deep/er")).unwrap();
        for index in 0..120u64 {
            let bytes = noise(index, (index * index * 7 % 50_000) as usize);
            std::fs::write(folder.join(format!("file-{index}.bin")), bytes).unwrap();
        }
        std::fs::write(folder.join("deep/er/large.bin"), noise(7, 3 * MIB as usize)).unwrap();
        self.name("content")
    }
}

/// Bytes that do not compress and differ by `seed`.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Imports `from` into a store and applies it to a file of the same size that is full of junk, as a disk is that had
/// another life. What is used is the same there, what is free is still junk; returns what was found to be used.
fn copy_used(from: &str, to: &str) -> fs::Used {
    let source = FileAt::new(File::open(from).unwrap()).unwrap();
    let used = fs::used_ranges(&source).unwrap();
    let target = File::create(to).unwrap();
    let junk = vec![0xA5; MIB as usize];
    let pieces = |range: Range<u64>| {
        let end = range.end;
        range.step_by(MIB as usize).map(move |at| (at, (end - at).min(MIB) as usize))
    };
    for (at, len) in pieces(0..source.size()) {
        target.write_all_at(&junk[..len], at).unwrap();
    }
    through_store(Source::raw(Path::new(from)).unwrap(), to);
    let target = FileAt::new(File::open(to).unwrap()).unwrap();
    for (at, len) in used.ranges.iter().cloned().flat_map(pieces) {
        let same = target.read_vec_at(at, len).unwrap() == source.read_vec_at(at, len).unwrap();
        assert!(same, "used bytes {at}+{len} differ");
    }
    for (at, len) in gaps(&used.ranges, source.size()).into_iter().flat_map(pieces) {
        assert!(target.read_vec_at(at, len).unwrap() == junk[..len], "free bytes {at}+{len} were written");
    }
    used
}

/// Imports `source` into a new store and makes the file at `to` match the version.
fn through_store(source: Source, to: &str) -> Manifest {
    let folder = tempfile::tempdir().unwrap();
    let store = LocalStore::create(&folder.path().join("store")).unwrap();
    let key = SigningKey::create(&folder.path().join("key")).unwrap();
    let (now, progress) = (Timestamp::from_milliseconds(0), Progress::default());
    let importer = Importer { store: &store, key: &key, now, progress: &progress };
    let version = importer.disk("image", source).unwrap().version;
    let manifest = store.manifest(&version).unwrap().verify(&key.public()).unwrap();
    let target = Target::open(Path::new(to)).unwrap();
    make_match(&manifest, &store, &target, &Options::default(), &progress, &mut |_| {}).unwrap();
    manifest
}
