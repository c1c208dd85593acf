use proptest::prelude::*;

use super::*;

fn folder(parent: usize, name: &str) -> Entry {
    Entry { parent, name: name.encode_utf16().collect(), ..empty_root() }
}

prop_compose! {
    fn any_entry()(
        name in proptest::collection::vec(0x30u16..0xffff, 1..12),
        short_name in proptest::collection::vec(0x30u16..0x5a, 0..8),
        times: [u64; 3], hash: [u8; 20], link_group: u64,
        reparse in proptest::option::of((any::<u32>(), any::<u16>(), any::<u16>(), any::<[u8; 20]>())),
        streams in proptest::collection::vec((proptest::collection::vec(0x30u16..0x5a, 1..8), any::<[u8; 20]>()), 0..3),
        unix in proptest::option::of(any::<[u32; 4]>()),
        xattrs in proptest::collection::vec((proptest::collection::vec(1u8.., 1..20), any::<Vec<u8>>(), any::<u8>()), 0..3),
        object_id in prop_oneof![Just(0usize), Just(16), Just(64)],
        other in proptest::collection::vec((100u32..200, any::<Vec<u8>>()), 0..2),
        is_folder: bool,
    ) -> Entry {
        let reparse = reparse.map(|(tag, reserved, flags, data)| Reparse { tag, reserved, flags, data: Sha1(data) });
        let is_folder = is_folder && reparse.is_none();
        let mut attributes = if is_folder { ATTRIBUTE_DIRECTORY } else { 0x20 };
        if reparse.is_some() {
            attributes |= ATTRIBUTE_REPARSE_POINT;
        }
        Entry {
            parent: 0,
            name,
            short_name,
            attributes,
            descriptor: None,
            created: times[0],
            accessed: times[1],
            written: times[2],
            link_group: if reparse.is_some() { 0 } else { link_group },
            content: if is_folder { Sha1::ZERO } else { Sha1(hash) },
            named_streams: streams.into_iter().map(|(name, hash)| NamedStream { name, content: Sha1(hash) }).collect(),
            unix: unix.map(|[uid, gid, mode, device]| UnixData { uid, gid, mode, device }),
            xattrs: xattrs.into_iter().map(|(name, value, flags)| Xattr { name, value, flags }).collect(),
            object_id: vec![7; object_id],
            other_items: other,
            unknown_0x54: 0,
            reparse,
        }
    }
}

prop_compose! {
    /// Entries in the order in which the parser finds them: all of a folder, then the folders from the last to the first.
    fn any_tree()(
        entries in proptest::collection::vec((any_entry(), any::<proptest::sample::Index>()), 0..12),
        descriptors in proptest::collection::vec(any::<Vec<u8>>(), 0..3),
    ) -> Tree {
        let mut tree = Tree { entries: vec![empty_root()], descriptors };
        for (mut entry, pick) in entries {
            let folders: Vec<usize> = (0..tree.entries.len())
                .filter(|index| tree.entries[*index].is_folder() && tree.entries[*index].reparse.is_none())
                .collect();
            entry.parent = folders[pick.index(folders.len())];
            entry.descriptor = (!tree.descriptors.is_empty()).then_some(pick.index(tree.descriptors.len().max(1)));
            tree.entries.push(entry);
        }
        tree
    }
}

/// Path and entry of each, without the places that depend on the order.
fn by_path(tree: &Tree) -> Vec<(Vec<u8>, Entry)> {
    let entries = tree.entries.iter().enumerate();
    let mut all: Vec<_> =
        entries.map(|(index, entry)| (tree.path(index), Entry { parent: 0, ..entry.clone() })).collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

proptest! {
    #[test]
    fn a_tree_parses_back(tree in any_tree()) {
        let (parsed, faults) = parse(&emit(&tree));
        prop_assert_eq!(faults, Vec::new());
        prop_assert_eq!(&parsed.descriptors, &tree.descriptors);
        let names: std::collections::HashSet<_> = (1..tree.entries.len()).map(|index| tree.path(index)).collect();
        prop_assume!(names.len() + 1 == tree.entries.len());
        prop_assert_eq!(by_path(&parsed), by_path(&tree));
    }

    #[test]
    fn flipped_bits_and_cuts_never_panic(tree in any_tree(), flips in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..8), cut in any::<proptest::sample::Index>()) {
        let mut bytes = emit(&tree);
        for (place, mask) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= mask;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let (parsed, _) = parse(&bytes);
        for index in 0..parsed.entries.len() {
            prop_assert!(index == 0 || parsed.entries[index].parent < index);
        }
    }

    #[test]
    fn garbage_never_panics(bytes: Vec<u8>) {
        parse(&bytes);
    }
}

#[test]
fn a_folder_that_contains_itself_is_a_fault_and_the_rest_is_read() {
    let tree =
        Tree { entries: vec![empty_root(), folder(0, "a"), folder(1, "b"), folder(0, "z")], descriptors: vec![] };
    let mut bytes = emit(&tree);
    // Root: descriptors (8), entry (104), end (8); its folder's offset is at 8 + 16. `a` points back to the root's run.
    let run = u64::from_le_bytes(bytes[24..32].try_into().unwrap());
    let a = run as usize;
    bytes[a + 16..a + 24].copy_from_slice(&run.to_le_bytes());
    let (parsed, faults) = parse(&bytes);
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].what, "a folder contains itself or is in two places");
    assert_eq!(parsed.entries.len(), 3);
}

#[test]
fn names_that_would_leave_the_folder_are_faults() {
    for name in ["..", ".", "a/b", "/etc", "a\0b", ""] {
        let tree = Tree { entries: vec![empty_root(), folder(0, name), folder(0, "sound")], descriptors: vec![] };
        let (parsed, faults) = parse(&emit(&tree));
        assert_eq!(faults.len(), 1, "{name:?}");
        assert_eq!(parsed.entries.len(), 2, "{name:?}");
    }
}
