//! WIM files, what is in them, and the codecs.

use remint::imaging::wim::codec::{Compression, Compressor, Decompressor};
use remint::imaging::wim::reader::{OnDamage, Wim};
use remint::imaging::wim::tree::{REPARSE_TAG_JUNCTION, REPARSE_TAG_SYMLINK};
use remint::imaging::wim::{metadata as trees, reparse as links, verify, xml as documents};
use remint::stdx::monitor::Progress;

/// Content that a codec is asked for; real chunks are 32 KiB to 64 MiB.
const PLAIN_BYTES_MAX: usize = 1 << 17;

/// A whole file: opened in both ways, every tree and every content of it read.
pub(crate) fn file(input: &[u8]) {
    let folder = super::containers::scratch();
    let path = folder.path().join("image.wim");
    std::fs::write(&path, input).expect("a scratch file is written");
    let strict = Wim::open(&path, OnDamage::Stop).is_ok();
    let Ok(wim) = Wim::open(&path, OnDamage::KeepGoing) else {
        assert!(!strict, "strict opening passes what lenient opening refuses");
        return;
    };
    for index in 1..=wim.image_count().min(4) {
        if let Ok((tree, _)) = wim.tree(index, OnDamage::KeepGoing) {
            (0..tree.entries.len()).for_each(|entry| drop(tree.path(entry)));
        }
    }
    (0..wim.parts.len()).for_each(|part| drop(wim.integrity(part)));
    let _ = verify::verify(&wim, 1, &Progress::default());
}

pub(crate) fn parts(input: &[u8]) {
    super::one_of(&[metadata, xml, reparse], input);
}

/// The tree of an image. What is emitted again is read back the same.
fn metadata(input: &[u8]) {
    let (tree, faults) = trees::parse(input);
    (0..tree.entries.len()).for_each(|entry| drop(tree.path(entry)));
    if !faults.is_empty() || tree.entries.is_empty() {
        return;
    }
    let (again, faults) = trees::parse(&trees::emit(&tree));
    assert!(faults.is_empty(), "{:?}", faults[0].what);
    assert_eq!(again.entries.len(), tree.entries.len());
}

fn xml(input: &[u8]) {
    let Ok(images) = documents::parse(input) else { return };
    let again = documents::parse(&documents::emit(&images, Some(input.len() as u64))).expect("what is emitted parses");
    assert_eq!(again.len(), images.len());
}

fn reparse(input: &[u8]) {
    for tag in [REPARSE_TAG_SYMLINK, REPARSE_TAG_JUNCTION] {
        if let Some(target) = links::link_target(tag, input) {
            assert!(!target.is_empty() && !target.contains(&0));
            let _ = links::link_data(&target);
        }
    }
}

pub(crate) fn xpress(input: &[u8]) {
    decompress(input, Compression::Xpress);
    compress(input, Compression::Xpress);
}

pub(crate) fn lzx(input: &[u8]) {
    decompress(input, Compression::Lzx);
    compress(input, Compression::Lzx);
}

pub(crate) fn lzms(input: &[u8]) {
    decompress(input, Compression::Lzms);
}

/// Logarithm of the chunk length (1), plain length (3), compressed bytes. What a codec remembers from the last chunk must
/// not show in the next.
fn decompress(input: &[u8], compression: Compression) {
    let Some((head, bytes)) = input.split_first_chunk::<4>() else { return };
    let chunk_bytes = 1 << (head[0] % 7 + 11);
    let plain_bytes =
        u32::from_le_bytes([head[1], head[2], head[3], 0]) as usize % (PLAIN_BYTES_MAX.min(chunk_bytes) + 1);
    let Ok(mut decompressor) = Decompressor::new(compression, chunk_bytes) else { return };
    let (mut first, mut second) = (vec![0; plain_bytes], vec![0xA5; plain_bytes]);
    let outcomes = [decompressor.decompress(bytes, &mut first), decompressor.decompress(bytes, &mut second)];
    assert_eq!(outcomes[0], outcomes[1]);
    if outcomes[0].is_ok() {
        assert_eq!(first, second, "the same chunk came out differently the second time");
    }
}

/// What is compressed comes back.
fn compress(input: &[u8], compression: Compression) {
    const CHUNK_BYTES: usize = 1 << 15;
    let plain = &input[..input.len().min(CHUNK_BYTES)];
    let mut packed = Vec::new();
    let mut compressor = Compressor::new(compression, CHUNK_BYTES).expect("32 KiB is a size of chunks");
    if compressor.compress(plain, &mut packed) {
        assert!(packed.len() < plain.len());
        let mut decompressor = Decompressor::new(compression, CHUNK_BYTES).expect("32 KiB is a size of chunks");
        let mut again = vec![0; plain.len()];
        decompressor.decompress(&packed, &mut again).expect("what was compressed decompresses");
        assert_eq!(again, plain);
    }
}
