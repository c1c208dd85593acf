//! Tree images: their document as it comes out of a store, and whole WIM files on their way into one.

use remint::access::signing::SigningKey;
use remint::imaging::apply::Options;
use remint::imaging::import::Importer;
use remint::imaging::store::local::LocalStore;
use remint::imaging::tree::format::{Document, Layout};
use remint::imaging::tree::reader;
use remint::imaging::wim::reader::{OnDamage, Wim};
use remint::stdx::monitor::Progress;
use remint::stdx::time::Timestamp;

const HEADER_BYTES: usize = 32;
const CONTENT_BYTES: usize = 28;
/// A WIM may be small and unpack to much; the store would take it, a fuzzer has no use for it.
const PLAIN_BYTES_MAX: u64 = 4 << 20;

pub(crate) fn any(input: &[u8]) {
    super::one_of(&[document, import], input);
}

/// A document of an image that is as long as its contents say, as that of a hostile store would be.
fn document(input: &[u8]) {
    let counted = input.get(8..16).and_then(|count| count.first_chunk()).map_or(0, |count| u64::from_le_bytes(*count));
    let contents = input.get(HEADER_BYTES..).unwrap_or_default().chunks_exact(CONTENT_BYTES);
    let lengths = contents.take(usize::try_from(counted).unwrap_or(usize::MAX));
    let total = lengths.filter_map(|content| content.first_chunk()).map(|length| u64::from_le_bytes(*length));
    let total = total.fold(0, u64::wrapping_add);
    let Ok(document) = Document::parse(input, total) else { return };
    let layout = Layout::new(&document.contents);
    for (number, content) in document.contents.iter().enumerate() {
        let range = layout.range(number);
        assert_eq!(range.end - range.start, content.bytes);
        assert_eq!(layout.content_at(range.end - 1), Some(number));
    }
    if !document.tree.entries.is_empty() {
        let again = Document::parse(&document.emit(), total).expect("what is emitted parses");
        assert_eq!((again.contents, again.links), (document.contents, document.links));
        assert_eq!(again.tree.entries.len(), document.tree.entries.len());
    }
}

/// A WIM into a store of its own: what is taken in can be read back.
fn import(input: &[u8]) {
    let folder = super::containers::scratch();
    let path = folder.path().join("image.wim");
    std::fs::write(&path, input).expect("a scratch file is written");
    let Ok(wim) = Wim::open(&path, OnDamage::Stop) else { return };
    if wim.image_count() == 0 || wim.blobs.iter().any(|blob| blob.plain_bytes > PLAIN_BYTES_MAX) {
        return;
    }
    let store = LocalStore::create(&folder.path().join("store")).expect("a store is made");
    let key = SigningKey::create(&folder.path().join("key")).expect("a key is made");
    let (now, progress) = (Timestamp::from_milliseconds(1), Progress::default());
    let importer = Importer { store: &store, key: &key, now, progress: &progress };
    let Ok(imported) = importer.wim_image("image", &wim, 1, "image.wim") else { return };
    let (tree, _) = wim.tree(1, OnDamage::Stop).expect("it was imported");
    let document = reader::document(&imported.manifest, &store, &Options::default(), &Progress::default());
    let document = document.expect("what was imported can be read");
    assert_eq!(document.tree.entries.len(), tree.entries.len());
    let contents: u64 = document.contents.iter().map(|content| content.bytes).sum();
    assert!(contents <= imported.manifest.header.size);
}
