//! btrfs on one device: chunks translate logical addresses, the extent tree lists what is allocated (btrfs developer
//! documentation, "On-disk Format"). Little-endian; keys are (object, kind, offset) in 17 bytes.

use super::ranges::Ranges;
use super::{Fault, Map};
use crate::stdx::bytes::Fields;
use crate::stdx::crc32;
use crate::stdx::io::ReadAt;
use std::ops::Range;

const SUPERBLOCK_AT: u64 = 64 << 10;
const SUPERBLOCK_BYTES: u64 = 4096;
/// Copies of the superblock, where the device is large enough.
const MIRRORS_AT: [u64; 2] = [64 << 20, 256 << 30];
/// btrfs never allocates the first MiB: boot loaders live there.
const BOOT_BYTES: u64 = 1 << 20;
const LEVELS_MAX: u8 = 8;
const NODE_BYTES_MAX: u64 = 64 << 10;
const NODE_HEADER_BYTES: usize = 101;
/// One gigabyte each, at least: a petabyte.
const CHUNKS_MAX: usize = 1 << 20;
/// mixed_backref, default_subvol, mixed_groups, lzo, zstd, big_metadata, extended_iref, raid56, skinny_metadata, no_holes,
/// metadata_uuid, raid1c34, simple_quota. Zones, the second extent tree and the stripe tree lay it out otherwise.
const INCOMPAT_KNOWN: u64 = 0xFFF | 0x10000;
const CSUM_CRC32C: u16 = 0;
const KIND_ROOT: u8 = 132;
const KIND_EXTENT: u8 = 168;
const KIND_METADATA: u8 = 169;
const KIND_CHUNK: u8 = 228;
const EXTENT_TREE: u64 = 2;
/// Every profile but single and DUP, which need more than one device.
const PROFILES_SPREAD: u64 = 0x8 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400;

/// A run of logical addresses and where each copy of it lies.
struct Chunk {
    logical: Range<u64>,
    copies: Vec<u64>,
}

struct Volume<'a> {
    source: &'a dyn ReadAt,
    size: u64,
    node_bytes: u64,
    checksums: bool,
    /// Sorted by logical address.
    chunks: Vec<Chunk>,
    /// Nodes that may still be read: no tree has more than fit on the device.
    nodes_left: u64,
}

/// The used ranges: the first MiB, the superblocks, and all copies of each allocated extent.
pub fn map(source: &dyn ReadAt) -> Result<Map, Fault> {
    let bytes =
        source.read_vec_at(SUPERBLOCK_AT, SUPERBLOCK_BYTES as usize).map_err(Fault::unreadable("superblock"))?;
    let sb = Fields(&bytes);
    let mut volume = Volume::open(source, sb)?;
    volume.read_chunks(sb)?;
    let mut used = Ranges::new(volume.size);
    used.add(0, BOOT_BYTES);
    MIRRORS_AT.iter().for_each(|at| used.add(*at, SUPERBLOCK_BYTES));
    let extents = volume.extent_tree(sb)?;
    let counted = volume.add_extents(extents, &mut used)?;
    if counted != sb.le64(0x78) {
        return Err(Fault::damaged("its extents disagree with its count of used bytes"));
    }
    let used = used.finish();
    let free_bytes = volume.size - super::ranges::total(&used);
    Ok(Map::new(used, free_bytes))
}

impl<'a> Volume<'a> {
    /// `btrfs_super_block`: log root 0x60, total bytes 0x70, devices 0x88, node size 0x94, incompatible features 0xBC, kind
    /// of checksum 0xC4.
    fn open(source: &'a dyn ReadAt, sb: Fields<'_>) -> Result<Volume<'a>, Fault> {
        let unknown = sb.le64(0xBC) & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(Fault::Unsupported(format!("btrfs feature {unknown:#x}")));
        }
        if sb.le64(0x88) != 1 {
            return Err(Fault::Unsupported("btrfs on several devices".to_owned()));
        }
        // The blocks of a log that waits to be replayed stand in no tree.
        if sb.le64(0x60) != 0 {
            return Err(Fault::Dirty);
        }
        let checksums = sb.le16(0xC4) == CSUM_CRC32C;
        if checksums && crc32::castagnoli(&sb.0[32..]) != sb.le32(0) {
            return Err(Fault::damaged("its superblock does not match its checksum"));
        }
        let (size, node_bytes) = (sb.le64(0x70), u64::from(sb.le32(0x94)));
        if size > source.size() || !node_bytes.is_power_of_two() || !(4096..=NODE_BYTES_MAX).contains(&node_bytes) {
            return Err(Fault::damaged("the sizes in its superblock make no sense"));
        }
        Ok(Volume { source, size, node_bytes, checksums, chunks: Vec::new(), nodes_left: size / node_bytes })
    }

    /// The superblock carries the chunks that the chunk tree itself lies in (length 0xA0, array 0x32B: key, then chunk);
    /// that tree (root 0x58, level 0xC7) carries all.
    fn read_chunks(&mut self, sb: Fields<'_>) -> Result<(), Fault> {
        let array = Fields(sb.slice(0x32B, (sb.le32(0xA0) as usize).min(2048)));
        let (mut at, mut first) = (0, Vec::new());
        while at + 17 < array.0.len() {
            let chunk = Fields(array.slice(at + 17, array.0.len()));
            first.push(self.chunk(array.le64(at + 9), chunk)?);
            at += 17 + 48 + 32 * usize::from(chunk.le16(44));
        }
        self.set_chunks(first)?;
        let mut all = Vec::new();
        self.walk(sb.le64(0x58), sb.u8(0xC7), &mut |volume, key, item| {
            if key.kind == KIND_CHUNK && all.len() < CHUNKS_MAX {
                all.push(volume.chunk(key.offset, item)?);
            }
            Ok(())
        })?;
        self.set_chunks(all)
    }

    /// `btrfs_chunk`: length 0, profile 24, stripes 44; from 48 on a stripe each: device, offset, identifier.
    fn chunk(&self, logical: u64, chunk: Fields<'_>) -> Result<Chunk, Fault> {
        let (len, profile, stripes) = (chunk.le64(0), chunk.le64(24), usize::from(chunk.le16(44)));
        if profile & PROFILES_SPREAD != 0 || !(1..=2).contains(&stripes) {
            return Err(Fault::Unsupported("a btrfs chunk that is spread over devices".to_owned()));
        }
        let copies: Vec<u64> = (0..stripes).map(|stripe| chunk.le64(48 + 32 * stripe + 8)).collect();
        let end = logical.checked_add(len);
        let fits = copies.iter().all(|copy| copy.checked_add(len).is_some_and(|end| end <= self.size));
        match end.filter(|_| fits && len > 0) {
            Some(end) => Ok(Chunk { logical: logical..end, copies }),
            None => Err(Fault::damaged("one of its chunks lies outside of it")),
        }
    }

    fn set_chunks(&mut self, mut chunks: Vec<Chunk>) -> Result<(), Fault> {
        chunks.sort_by_key(|chunk| chunk.logical.start);
        if chunks.windows(2).any(|pair| pair[0].logical.end > pair[1].logical.start) {
            return Err(Fault::damaged("its chunks overlap"));
        }
        self.chunks = chunks;
        Ok(())
    }

    /// Root and level of the extent tree, from the root tree (root 0x50, level 0xC6). `btrfs_root_item`: block 176, level 238.
    fn extent_tree(&mut self, sb: Fields<'_>) -> Result<(u64, u8), Fault> {
        let mut found = None;
        self.walk(sb.le64(0x50), sb.u8(0xC6), &mut |_, key, item| {
            if key.object == EXTENT_TREE && key.kind == KIND_ROOT {
                found = Some((item.le64(176), item.u8(238)));
            }
            Ok(())
        })?;
        found.ok_or_else(|| Fault::damaged("it has no extent tree"))
    }

    /// Adds every copy of each extent; returns the bytes of all copies, as the superblock counts them.
    fn add_extents(&mut self, (root, level): (u64, u8), used: &mut Ranges) -> Result<u64, Fault> {
        let mut counted = 0u64;
        self.walk(root, level, &mut |volume, key, _| {
            let len = match key.kind {
                KIND_EXTENT => key.offset,
                KIND_METADATA => volume.node_bytes,
                _ => return Ok(()),
            };
            let (chunk, within) = volume.chunk_of(key.object, len)?;
            chunk.copies.iter().for_each(|copy| used.add(copy + within, len));
            counted = counted.saturating_add(len);
            Ok(())
        })?;
        Ok(counted)
    }

    /// The chunk that holds `len` bytes from `logical`, and their offset in it.
    fn chunk_of(&self, logical: u64, len: u64) -> Result<(&Chunk, u64), Fault> {
        let index = self.chunks.partition_point(|chunk| chunk.logical.end <= logical);
        let chunk = self.chunks.get(index).filter(|chunk| {
            chunk.logical.start <= logical && logical.checked_add(len).is_some_and(|end| end <= chunk.logical.end)
        });
        let chunk = chunk.ok_or_else(|| Fault::damaged("an address lies in none of its chunks"))?;
        Ok((chunk, logical - chunk.logical.start))
    }

    /// Calls `each` for the items of a tree, depth first.
    fn walk(&mut self, root: u64, level: u8, each: &mut Each<'_>) -> Result<(), Fault> {
        if level >= LEVELS_MAX {
            return Err(Fault::damaged("one of its trees is too high"));
        }
        let mut path = vec![(self.node(root, level)?, 0)];
        while let Some((node, next)) = path.last_mut() {
            let node_fields = Fields(node);
            let (count, level) = (node_fields.le32(96) as usize, node_fields.u8(100));
            if level == 0 {
                leaf_items(node_fields, count).try_for_each(|(key, item)| each(self, key, item))?;
                path.pop();
            } else if *next < count {
                let child = node_fields.le64(NODE_HEADER_BYTES + *next * 33 + 17);
                *next += 1;
                path.push((self.node(child, level - 1)?, 0));
            } else {
                path.pop();
            }
        }
        Ok(())
    }

    /// The first copy of a node that is sound: address 48, items 96, level 100.
    fn node(&mut self, logical: u64, level: u8) -> Result<Vec<u8>, Fault> {
        self.nodes_left =
            self.nodes_left.checked_sub(1).ok_or_else(|| Fault::damaged("its trees come back to themselves"))?;
        let (chunk, within) = self.chunk_of(logical, self.node_bytes)?;
        let mut fault = Fault::damaged(format!("the tree block at {logical} is damaged"));
        for copy in &chunk.copies {
            let bytes = match self.source.read_vec_at(copy + within, self.node_bytes as usize) {
                Ok(bytes) => bytes,
                Err(error) => {
                    fault = Fault::Unreadable("trees", error);
                    continue;
                }
            };
            let node = Fields(&bytes);
            let item_bytes = if level == 0 { 25 } else { 33 };
            let fits = node.le32(96) as usize <= (bytes.len() - NODE_HEADER_BYTES) / item_bytes;
            let summed = !self.checksums || crc32::castagnoli(&bytes[32..]) == node.le32(0);
            if node.le64(48) == logical && node.u8(100) == level && fits && summed {
                return Ok(bytes);
            }
        }
        Err(fault)
    }
}

type Each<'f> = dyn FnMut(&Volume<'_>, Key, Fields<'_>) -> Result<(), Fault> + 'f;

struct Key {
    object: u64,
    kind: u8,
    offset: u64,
}

/// Key, offset and size of an item in 25 bytes; its content is counted from the end of the header.
fn leaf_items(node: Fields<'_>, count: usize) -> impl Iterator<Item = (Key, Fields<'_>)> {
    (0..count).map(move |index| {
        let item = Fields(node.slice(NODE_HEADER_BYTES + index * 25, 25));
        let key = Key { object: item.le64(0), kind: item.u8(8), offset: item.le64(9) };
        (key, Fields(node.slice(NODE_HEADER_BYTES.saturating_add(item.le32(17) as usize), item.le32(21) as usize)))
    })
}
