//! Documents of trees, and WIM files on their way into a store.

use remint::imaging::tree::format::{Content, Document};
use remint::imaging::wim::format::Sha1;
use remint::imaging::wim::metadata::empty_root;
use remint::imaging::wim::reparse;
use remint::imaging::wim::tree::{ATTRIBUTE_DIRECTORY, Entry, Tree, UnixData};

use super::{Seeds, behind, wims};

pub fn seeds() -> Seeds {
    [behind(0, documents()), behind(1, wims::seeds("wim"))].concat()
}

fn documents() -> Seeds {
    let content = |n: u8| Content { hash: Sha1([n; 20]), bytes: u64::from(n) * 1000 };
    let entry = |name: &str, attributes: u32, parent: usize, n: u8| Entry {
        name: name.encode_utf16().collect(),
        attributes,
        parent,
        content: if n == 0 { Sha1::ZERO } else { Sha1([n; 20]) },
        unix: Some(UnixData { uid: 1, gid: 2, mode: 0o100_644, device: 0 }),
        ..Entry::default()
    };
    let entries = vec![
        empty_root(),
        entry("folder", ATTRIBUTE_DIRECTORY, 0, 0),
        entry("a", 0x20, 0, 1),
        entry("b", 0x20, 1, 2),
        entry("empty", 0x20, 1, 0),
    ];
    let links = reparse::link_data(b"../a").map(|data| (Sha1([9; 20]), data)).into_iter().collect();
    let whole = Document {
        contents: vec![content(1), content(2)],
        links,
        tree: Tree { entries, descriptors: vec![vec![1; 8]] },
    };
    let empty = Document { tree: Tree { entries: vec![empty_root()], descriptors: Vec::new() }, ..Document::default() };
    vec![("document".to_owned(), whole.emit()), ("document-empty".to_owned(), empty.emit())]
}
