//! Solid files, split sets, several images, exports: written by us, read by wimlib and by us.

use std::fs;

use remint::imaging::wim::export::{self, Shape};
use remint::stdx::file::unnamed;

use super::*;

#[test]
fn what_we_capture_solid_wimlib_verifies_and_applies_identically() {
    let solid = |compression| capture::Options { solid: true, integrity: true, ..capture_options(compression) };
    check_captures(&solid(Compression::Xpress), 1300..1315);
    check_captures(&solid(Compression::Lzx), 1320..1330);
    let temporary = tempfile::tempdir().unwrap();
    fs::create_dir(temporary.path().join("tree")).unwrap();
    fs::write(temporary.path().join("tree/a"), "a").unwrap();
    let (tree, file) = (temporary.path().join("tree"), temporary.path().join("x.wim"));
    let refused = capture::capture(&tree, &file, &solid(Compression::None), &Default::default()).unwrap_err();
    assert!(refused.to_string().contains("only where they are compressed"), "{refused}");
}

fn export_options(compression: Compression) -> export::Options {
    export::Options {
        shape: Shape::new(compression, [9; 16]),
        solid: false,
        append: false,
        name: None,
        description: None,
        workers: 2,
    }
}

/// Exports random trees that wimlib captured with its `capture` options to a file of this extension.
fn check_exports(capture: &[&str], options: &export::Options, extension: &str, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().join(name);
        fs::create_dir(path("tree")).unwrap();
        make_tree(&path("tree"), seed);
        let (tree, source) = (path("tree"), path("x.wim"));
        let made = [&["capture", tree.to_str().unwrap(), source.to_str().unwrap(), "--unix-data"], capture].concat();
        match wimlib(&made) {
            None => return,
            Some(done) => assert!(done, "wimlib captures the tree of seed {seed}"),
        }
        let target = path(&format!("out.{extension}"));
        let wim = Wim::open(&source, OnDamage::Stop).unwrap();
        export::export(&wim, &[1], &target, options, &Default::default()).unwrap();
        check_file(&target, &tree, temporary.path(), &format!("seed {seed} {capture:?}"));
    }
}

#[test]
fn images_are_exported_to_other_compressions() {
    check_exports(&["--solid"], &export_options(Compression::Xpress), "wim", 1400..1410);
    check_exports(&["--compress=lzx"], &export_options(Compression::Lzx), "wim", 1420..1430);
    check_exports(&["--compress=xpress", "--pipable"], &export_options(Compression::Xpress), "wim", 1440..1445);
    check_exports(&["--compress=lzx", "--chunk-size=256K"], &export_options(Compression::None), "wim", 1450..1455);
    let solid = export::Options { solid: true, ..export_options(Compression::Lzx) };
    check_exports(&["--compress=none"], &solid, "wim", 1460..1465);
}

#[test]
fn sets_are_written_in_parts_that_keep_their_limit() {
    let shape = Shape { part_bytes_max: 300_000, integrity: true, ..Shape::new(Compression::Xpress, [9; 16]) };
    let options = export::Options { shape, ..export_options(Compression::Xpress) };
    check_exports(&["--compress=xpress"], &options, "swm", 1500..1515);
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    fs::create_dir(path("tree")).unwrap();
    let mut random = Random(5);
    for number in 0..20 {
        let noise: Vec<u8> = (0..100_000).map(|_| random.below(256) as u8).collect();
        fs::write(path(&format!("tree/{number}")), noise).unwrap();
    }
    let xpress = capture_options(Compression::Xpress);
    capture::capture(&path("tree"), &path("x.wim"), &xpress, &Default::default()).unwrap();
    let wim = Wim::open(&path("x.wim"), OnDamage::Stop).unwrap();
    let report = export::export(&wim, &[1], &path("out.swm"), &options, &Default::default()).unwrap();
    assert!((8..=10).contains(&report.parts), "{report:?}");
    for part in 2..=report.parts {
        // Blob table, XML and integrity table come on top.
        assert!(fs::metadata(path(&format!("out{part}.swm"))).unwrap().len() < 310_000);
    }
    check_file(&path("out.swm"), &path("tree"), temporary.path(), "noise");
}

#[test]
fn images_are_appended_and_share_their_contents() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    for (name, seed) in [("one", 21), ("two", 22)] {
        fs::create_dir(path(name)).unwrap();
        make_tree(&path(name), seed);
    }
    let mut random = Random(5);
    let shared: Vec<u8> = (0..900_000).map(|_| random.below(256) as u8).collect();
    fs::write(path("one/shared"), &shared).unwrap();
    fs::write(path("two/shared too"), &shared).unwrap();
    let first = capture::Options { name: "one".to_owned(), ..capture_options(Compression::Lzx) };
    capture::capture(&path("one"), &path("x.wim"), &first, &Default::default()).unwrap();
    let before = fs::metadata(path("x.wim")).unwrap().len();
    let second = capture::Options {
        name: "two".to_owned(),
        append: true,
        integrity: true,
        solid: true,
        description: "the second".to_owned(),
        ..capture_options(Compression::None)
    };
    let report = capture::capture(&path("two"), &path("x.wim"), &second, &Default::default()).unwrap();
    assert_eq!(report.image, 2);
    let content: u64 = report.bytes - shared.len() as u64;
    assert!(report.stored_bytes - before < content + 20_000, "{report:?}, {before} before");
    let wim = Wim::open(&path("x.wim"), OnDamage::Stop).unwrap();
    assert_eq!(wim.compression, Compression::Lzx);
    let named: Vec<_> = wim.images.iter().map(|image| (image.name.as_str(), image.description.as_str())).collect();
    assert_eq!(named, [("one", ""), ("two", "the second")]);
    assert!(wim.integrity(0).unwrap().is_some());
    check_file(&path("x.wim"), &path("one"), temporary.path(), "the first image");
    let options = export::Options { name: Some("alone".to_owned()), ..export_options(Compression::Lzx) };
    export::export(&wim, &[2], &path("two.wim"), &options, &Default::default()).unwrap();
    check_file(&path("two.wim"), &path("two"), temporary.path(), "the second image, exported");
    let again = export::Options { append: true, ..export_options(Compression::Lzx) };
    export::export(&wim, &[1], &path("two.wim"), &again, &Default::default()).unwrap();
    let both = Wim::open(&path("two.wim"), OnDamage::Stop).unwrap();
    assert_eq!(both.images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>(), ["alone", "one"]);
    assert_ne!(wimlib(&["verify", path("two.wim").to_str().unwrap()]), Some(false));
}

#[test]
fn an_append_that_fails_leaves_the_file_as_it_was() {
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    fs::create_dir(path("tree")).unwrap();
    fs::write(path("tree/a"), "a".repeat(100_000)).unwrap();
    let options = capture_options(Compression::Xpress);
    capture::capture(&path("tree"), &path("x.wim"), &options, &Default::default()).unwrap();
    let before = fs::read(path("x.wim")).unwrap();
    let append = |name: &str| {
        let options = capture::Options { append: true, name: name.to_owned(), ..capture_options(Compression::Xpress) };
        capture::capture(&path("tree"), &path("x.wim"), &options, &Default::default()).unwrap_err().to_string()
    };
    assert!(append("tree").contains("an image of this name already"));
    use std::os::unix::ffi::OsStrExt;
    fs::write(path("tree").join(std::ffi::OsStr::from_bytes(b"no \xff text")), "x").unwrap();
    assert!(append("other").contains("not UTF-8"));
    assert!(fs::read(path("x.wim")).unwrap() == before);
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 2, "nothing else is left behind");
}

/// The command's output goes straight into wimlib.
fn check_streamed(tree: &Path, work: &Path, seed: u64) {
    let piped = work.join("streamed");
    let mut capture = Command::new(env!("CARGO_BIN_EXE_remint"));
    capture.args(["wim", "capture"]).arg(tree).args([
        "-",
        "--pipable",
        "--compress",
        ["none", "xpress", "lzx"][seed as usize % 3],
    ]);
    let mut capture = capture.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let output = capture.stdout.take().unwrap();
    let mut apply = Command::new("wimlib-imagex");
    apply.arg("apply").arg("-").arg("1").arg(&piped).arg("--unix-data").stdin(output);
    let applied = apply.stdout(Stdio::null()).stderr(Stdio::null()).status();
    let captured = capture.wait().unwrap();
    let Ok(applied) = applied else { return };
    assert!(captured.success() && applied.success(), "seed {seed}");
    assert_eq!(snapshot(&piped), snapshot(tree), "applied by wimlib from what was streamed, seed {seed}");
    fs::remove_dir_all(piped).unwrap();
}

#[test]
fn a_capture_goes_into_a_pipe_and_nothing_else_does() {
    for seed in 1700..1706 {
        let temporary = tempfile::tempdir().unwrap();
        let path = |name: &str| temporary.path().join(name);
        fs::create_dir(path("tree")).unwrap();
        make_tree(&path("tree"), seed);
        check_streamed(&path("tree"), temporary.path(), seed);
        // What went by is a whole file, and nothing of the capture stays behind.
        let options = capture::Options { pipable: true, ..capture_options(Compression::Xpress) };
        let (to, spool) = (fs::File::create(path("streamed.wim")).unwrap(), unnamed(temporary.path()).unwrap());
        let report = capture::capture_to(&path("tree"), to, spool, &options, &Default::default()).unwrap();
        assert_eq!(fs::metadata(path("streamed.wim")).unwrap().len(), report.stored_bytes);
        check_file(&path("streamed.wim"), &path("tree"), temporary.path(), &format!("seed {seed}, streamed"));
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 2, "something stays behind");
    }
    let temporary = tempfile::tempdir().unwrap();
    let said = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_remint"));
        let output = command.args(["wim", "capture"]).arg(temporary.path()).args(arguments).output().unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said(&["-"]).contains("not pipable"));
    assert!(said(&["-", "--pipable", "--integrity"]).contains("integrity table"));
}

/// The file as a pipe gives it: from its first byte to its last, never back.
fn check_piped(file: &Path, tree: &Path, work: &Path) {
    let piped = work.join("piped");
    let mut command = Command::new("wimlib-imagex");
    command.arg("apply").arg("-").arg("1").arg(&piped).arg("--unix-data").stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = command.stdin(Stdio::piped()).spawn() else { return };
    let mut pipe = child.stdin.take().unwrap();
    std::io::copy(&mut fs::File::open(file).unwrap(), &mut pipe).unwrap();
    drop(pipe);
    assert!(child.wait().unwrap().success(), "wimlib applies from a pipe");
    assert_eq!(snapshot(&piped), snapshot(tree), "applied by wimlib from a pipe");
    fs::remove_dir_all(piped).unwrap();
}

#[test]
fn what_we_capture_pipable_is_applied_from_a_pipe() {
    let pipable = |compression| capture::Options { pipable: true, integrity: true, ..capture_options(compression) };
    for (number, compression) in [Compression::None, Compression::Xpress, Compression::Lzx].into_iter().enumerate() {
        for seed in (0..6).map(|seed| 1600 + 10 * number as u64 + seed) {
            let temporary = tempfile::tempdir().unwrap();
            let path = |name: &str| temporary.path().join(name);
            fs::create_dir(path("tree")).unwrap();
            make_tree(&path("tree"), seed);
            capture::capture(&path("tree"), &path("x.wim"), &pipable(compression), &Default::default()).unwrap();
            check_file(&path("x.wim"), &path("tree"), temporary.path(), &format!("seed {seed}, pipable"));
            check_piped(&path("x.wim"), &path("tree"), temporary.path());
            // Exported, from pipable to pipable and back.
            let wim = Wim::open(&path("x.wim"), OnDamage::Stop).unwrap();
            assert!(wim.header().pipable);
            for (name, is_pipable) in [("piped.wim", true), ("plain.wim", false)] {
                let shape = Shape { pipable: is_pipable, ..Shape::new(Compression::Xpress, [9; 16]) };
                let options = export::Options { shape, ..export_options(Compression::Xpress) };
                export::export(&wim, &[1], &path(name), &options, &Default::default()).unwrap();
                check_file(&path(name), &path("tree"), temporary.path(), name);
            }
            check_piped(&path("piped.wim"), &path("tree"), temporary.path());
        }
    }
    let temporary = tempfile::tempdir().unwrap();
    let (tree, file) = (temporary.path().join("tree"), temporary.path().join("x.wim"));
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a"), "a").unwrap();
    let solid = capture::Options { solid: true, ..pipable(Compression::Lzx) };
    let refused = capture::capture(&tree, &file, &solid, &Default::default()).unwrap_err();
    assert!(refused.to_string().contains("holds no solid resources"), "{refused}");
}
