//! Hostile and damaged files beyond flipped bytes: each with the error that it must get.

use std::fs;
use std::os::unix::fs::FileExt;

use remint::imaging::wim::format::{self, BlobEntry, Header};

use super::*;

/// A captured tree of two noisy files, as bytes; made with `options`.
fn captured(folder: &Path, options: &capture::Options<'_>) -> Vec<u8> {
    let (tree, file) = (folder.join("tree"), folder.join("x.wim"));
    fs::create_dir_all(&tree).unwrap();
    let mut random = Random(3);
    for name in ["a", "b"] {
        let text: Vec<u8> = (0..90_000).map(|_| b'a' + random.below(20) as u8).collect();
        fs::write(tree.join(name), text).unwrap();
    }
    capture::capture(&tree, &file, options, &Default::default()).unwrap();
    fs::read(file).unwrap()
}

/// Changes the rows of the blob table.
fn with_rows(bytes: &[u8], change: impl Fn(&mut Vec<BlobEntry>)) -> Vec<u8> {
    let table = Header::parse(bytes, 0).unwrap().blob_table;
    let range = table.offset as usize..(table.offset + table.plain_bytes) as usize;
    let mut rows = format::blob_table(&bytes[range.clone()]);
    change(&mut rows);
    let mut emitted = Vec::new();
    rows.iter().for_each(|row| row.emit(&mut emitted));
    let mut changed = bytes.to_vec();
    changed[range].copy_from_slice(&emitted);
    changed
}

fn refusal(folder: &Path, bytes: &[u8]) -> String {
    let file = folder.join("hostile.wim");
    fs::write(&file, bytes).unwrap();
    let opened = Wim::open(&file, OnDamage::Stop);
    let verified = opened.and_then(|wim| verify::verify(&wim, 2, &Default::default()));
    match verified {
        Err(error) => error.to_string(),
        Ok(report) => report.faults.first().map_or_else(|| "sound".to_owned(), ToString::to_string),
    }
}

#[test]
fn lying_lengths_and_overlaps_are_refused_with_their_offset() {
    let temporary = tempfile::tempdir().unwrap();
    let xpress = captured(temporary.path(), &capture_options(Compression::Xpress));
    let solid = captured(temporary.path(), &capture::Options { solid: true, ..capture_options(Compression::Lzx) });
    // In both files the first row is the metadata.
    type Change = fn(&mut Vec<BlobEntry>);
    let rows: [(&str, &[u8], Change, &str); 8] = [
        ("beyond the end", &xpress, |rows| rows[1].resource.offset = 1 << 40, "goes beyond the end of the file"),
        ("a sum that overflows", &xpress, |rows| rows[1].resource.offset = u64::MAX - 5, "goes beyond the end"),
        ("a bomb", &xpress, |rows| rows[1].resource.plain_bytes = 1 << 50, "shorter than its chunk table"),
        ("shorter than it is", &xpress, |rows| rows[1].resource.plain_bytes -= 40_000, "the WIM"),
        ("overlapping", &xpress, |rows| rows[2].resource.offset -= 100, "two resources overlap"),
        ("beyond the solid resource", &solid, |rows| rows[2].resource.stored_bytes = 1 << 40, "beyond the end of its"),
        ("in no solid resource", &solid, |rows| rows[2].resource.offset = 1 << 40, "lies in no solid resource"),
        ("overlapping contents", &solid, |rows| rows[3].resource.offset -= 1, "overlap"),
    ];
    for (crime, bytes, change, expected) in rows {
        let said = refusal(temporary.path(), &with_rows(bytes, change));
        assert!(said.contains(expected) && said.contains("offset"), "{crime}: {said}");
    }
    let solid_at = Header::parse(&solid, 0).unwrap().blob_table.offset as usize;
    let row = &format::blob_table(&solid[solid_at..solid_at + 200])[1];
    let mut bomb = solid.clone();
    bomb[row.resource.offset as usize..][..8].copy_from_slice(&(1u64 << 60).to_le_bytes());
    assert!(refusal(temporary.path(), &bomb).contains("shorter than its chunk table"));
    assert_eq!(refusal(temporary.path(), &xpress), "sound");
    assert_eq!(refusal(temporary.path(), &solid), "sound");
}

#[test]
fn every_structure_cut_short_is_said_with_its_offset() {
    let temporary = tempfile::tempdir().unwrap();
    let options = capture::Options { integrity: true, ..capture_options(Compression::Lzx) };
    let bytes = captured(temporary.path(), &options);
    let header = Header::parse(&bytes, 0).unwrap();
    for (what, end) in [
        ("header", 100),
        ("contents", 5_000),
        ("blob table", header.blob_table.offset + 60),
        ("XML", header.xml.offset + 10),
        ("integrity table", header.integrity.offset + 15),
    ] {
        let said = refusal(temporary.path(), &bytes[..end as usize]);
        assert!(said.contains("offset"), "{what}: {said}");
    }
    // The header counts: a file that was cut in its last structure can still be listed and applied.
    fs::write(temporary.path().join("cut.wim"), &bytes[..header.integrity.offset as usize]).unwrap();
    let wim = Wim::open(&temporary.path().join("cut.wim"), OnDamage::KeepGoing).unwrap();
    let applied = temporary.path().join("applied");
    apply::apply(&wim, 1, &applied, OnDamage::KeepGoing, 2, &Default::default()).unwrap();
    assert_eq!(fs::read(applied.join("a")).unwrap(), fs::read(temporary.path().join("tree/a")).unwrap());
}

#[test]
fn an_integrity_table_finds_what_no_content_covers() {
    let temporary = tempfile::tempdir().unwrap();
    let options = capture::Options { integrity: true, ..capture_options(Compression::Xpress) };
    let bytes = captured(temporary.path(), &options);
    // References of a content: no hash but the integrity table's covers them.
    let changed = with_rows(&bytes, |rows| rows[1].references = 77);
    let said = refusal(temporary.path(), &changed);
    assert!(said.contains("piece 0 of its integrity table does not match"), "{said}");
}

#[test]
fn a_file_that_grows_or_shrinks_while_it_is_read_is_what_it_was_or_an_error() {
    let temporary = tempfile::tempdir().unwrap();
    captured(temporary.path(), &capture_options(Compression::Xpress));
    let file = temporary.path().join("x.wim");
    let wim = Wim::open(&file, OnDamage::Stop).unwrap();
    let handle = fs::File::options().write(true).open(&file).unwrap();
    handle.write_all_at(&[7; 5000], handle.metadata().unwrap().len()).unwrap();
    let report = verify::verify(&wim, 2, &Default::default()).unwrap();
    assert!(report.faults.is_empty(), "{:?}", report.faults);
    handle.set_len(50_000).unwrap();
    let report = verify::verify(&wim, 2, &Default::default()).unwrap();
    assert!(report.faults.iter().any(|fault| fault.to_string().starts_with("read the WIM at offset")));
}

#[test]
fn what_a_set_with_a_missing_part_still_has_is_applied() {
    use remint::imaging::wim::export::{self, Shape};
    let temporary = tempfile::tempdir().unwrap();
    let path = |name: &str| temporary.path().join(name);
    captured(temporary.path(), &capture_options(Compression::None));
    let shape = Shape { part_bytes_max: 100_000, ..Shape::new(Compression::None, [9; 16]) };
    let options = export::Options { shape, solid: false, append: false, name: None, description: None, workers: 2 };
    let wim = Wim::open(&path("x.wim"), OnDamage::Stop).unwrap();
    assert_eq!(export::export(&wim, &[1], &path("out.swm"), &options, &Default::default()).unwrap().parts, 2);
    fs::remove_file(path("out2.swm")).unwrap();
    assert!(Wim::open(&path("out.swm"), OnDamage::Stop).is_err());
    let wim = Wim::open(&path("out.swm"), OnDamage::KeepGoing).unwrap();
    assert!(wim.faults[0].to_string().contains("part 2 of 2 is missing"), "{}", wim.faults[0]);
    let report = apply::apply(&wim, 1, &path("kept"), OnDamage::KeepGoing, 2, &Default::default()).unwrap();
    assert_eq!((report.files, report.faults.len()), (1, 1), "{report:?}");
    assert_eq!(fs::read(path("kept/a")).unwrap(), fs::read(path("tree/a")).unwrap());
}
