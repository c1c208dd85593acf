//! What our own store writes.

use remint::imaging::chunk::{ChunkId, Encoding, Sealer};
use remint::imaging::manifest::{Extent, Header, Manifest};
use remint::imaging::store::Location;
use remint::imaging::store::format::{Entry, MAGIC, PackId, emit_tail};
use remint::imaging::store::locations;

use super::{Seeds, behind};

pub fn seeds() -> Seeds {
    let packs = vec![("pack".to_owned(), pack())];
    let all_places = vec![("places".to_owned(), places())];
    [behind(0, manifests()), behind(1, packs), behind(2, all_places), behind(3, chunks())].concat()
}

fn manifests() -> Seeds {
    let header = r#"{"kind":"disk","size":1048576,"created":1800000000000,"source":"sda","partitions":[]}"#;
    let Ok(header) = serde_json::from_str::<Header>(header) else {
        println!("left out: a manifest, whose header has changed");
        return Seeds::new();
    };
    let extent = |offset: u64, n: u8| Extent { offset, len: 4096, chunk: ChunkId::of(&[n]) };
    let extents = vec![extent(0, 1), extent(4096, 2), extent(65536, 1)];
    let sound = Manifest { header, extents, zeros: vec![8192..12288, 131_072..1 << 20] };
    let empty = Manifest { extents: Vec::new(), zeros: Vec::new(), ..sound.clone() };
    vec![("manifest".to_owned(), sound.emit()), ("manifest-empty".to_owned(), empty.emit())]
}

fn pack() -> Vec<u8> {
    let mut sealer = Sealer::new().expect("memory for a compressor");
    let (mut bytes, mut entries) = (MAGIC.to_vec(), Vec::new());
    for plain in [b"words ".repeat(100), vec![1, 2, 3]] {
        let sealed = sealer.seal(ChunkId::of(&plain), &plain);
        entries.push(Entry {
            id: sealed.id,
            offset: bytes.len() as u32,
            stored_bytes: sealed.bytes.len() as u32,
            plain_bytes: sealed.plain_bytes,
            encoding: sealed.encoding,
        });
        bytes.extend_from_slice(sealed.bytes);
    }
    bytes.extend(emit_tail(&entries).0);
    bytes
}

fn places() -> Vec<u8> {
    let place = |n: u8| {
        let id = ChunkId::of(&[n]);
        let entry = Entry { id, offset: 8, stored_bytes: 500, plain_bytes: 1 << 16, encoding: Encoding::Zstd };
        (n != 1).then_some(Location { pack: PackId([n % 2; 32]), entry })
    };
    [&[3], &locations::emit(&[place(0), place(1), place(2)])[..]].concat()
}

fn chunks() -> Seeds {
    let plain = b"words ".repeat(100);
    let mut sealer = Sealer::new().expect("memory for a compressor");
    let sealed = sealer.seal(ChunkId::of(&plain), &plain);
    let with = |encoding: u8, bytes: &[u8]| [&[encoding], &600u32.to_le_bytes()[..], bytes].concat();
    vec![("zstd".to_owned(), with(1, sealed.bytes)), ("stored".to_owned(), with(0, &plain))]
}
