//! The corpus of hostile inputs, named by their crime: each goes through the parsers that it was made for. What a fuzzer
//! found lies here as well, so that it stays mended. The folders are the names of the fuzz targets.

use std::time::{Duration, Instant};

#[path = "../fuzz/targets/mod.rs"]
#[expect(dead_code, reason = "the fuzzer's other half makes seeds with it")]
mod targets;

/// A parser takes milliseconds for an input of a corpus, some ten times as long in a debug build on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

const STACK_BYTES: usize = 32 << 20;

/// What would lead outside of the image, or cannot be relied on, is refused with these words.
const REFUSED: [(&str, &str); 12] = [
    ("qcow2/qcow2-with-backing-file", "backing file"),
    ("qcow2/qcow2-with-data-file", "data"),
    ("qcow2/qcow2-that-is-encrypted", "encrypted"),
    ("qcow2/qcow2-that-is-marked-corrupt", "corrupt"),
    ("qcow2/qcow2-with-features-of-tomorrow", "not known here"),
    ("qcow2/qcow2-whose-first-table-is-4-gigabytes", "none that qcow2 can have"),
    ("virtual-disks/vhd-that-differs-from-a-parent", "never followed"),
    ("virtual-disks/vhdx-whose-log-was-not-replayed", "its log was not written back"),
    ("virtual-disks/vhdx-whose-log-contains-itself", "its log was not written back"),
    ("virtual-disks/vmdk-with-a-parent", "never followed"),
    ("virtual-disks/vmdk-that-leads-out-of-its-folder", "folder"),
    ("virtual-disks/vmdk-that-names-a-device", "folder"),
];

#[test]
fn images_that_lead_outside_are_refused_in_words() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    for (name, words) in REFUSED {
        let said = targets::containers::refusal(&std::fs::read(corpus.join(name)).unwrap());
        let said = said.unwrap_or_else(|| panic!("{name} opened"));
        assert!(said.contains(words), "{name}: {said}");
    }
}

#[test]
fn every_input_of_the_corpus_is_survived_in_time() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut inputs = 0;
    for folder in std::fs::read_dir(corpus).unwrap() {
        let folder = folder.unwrap();
        let name = folder.file_name().into_string().unwrap();
        let target = targets::find(&name).unwrap_or_else(|| panic!("tests/corpus/{name} is named like no fuzz target"));
        for input in std::fs::read_dir(folder.path()).unwrap() {
            let path = input.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let started = Instant::now();
            // The frames of a debug build are several times as large as those that parsers have in use.
            let outcome = std::thread::scope(|scope| {
                let run = || (target.run)(&bytes);
                std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, run).unwrap().join()
            });
            assert!(outcome.is_ok(), "{}", path.display());
            assert!(started.elapsed() < PATIENCE, "{} took {:?}", path.display(), started.elapsed());
            inputs += 1;
        }
    }
    assert!(inputs > 150, "only {inputs} inputs are in the corpus");
}
