//! XFS: the free space of each allocation group (XFS Algorithms and Data Structures, chapters 13 and 14). Big-endian.

use super::ranges::Ranges;
use super::{Fault, Map};
use crate::stdx::bytes::Fields;
use crate::stdx::io::ReadAt;

/// A petabyte in groups of one gigabyte; XFS makes them larger.
const GROUPS_MAX: u64 = 1 << 20;
/// Height of a B+tree; the kernel's own limit is 9.
const LEVELS_MAX: u32 = 9;
/// ftype, spinodes, meta_uuid, bigtime, nrext64, exchrange, parent.
const INCOMPAT_KNOWN: u32 = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80;
const INCOMPAT_NEEDS_REPAIR: u32 = 0x10;
/// The log is counted in blocks of 512 bytes, whatever the disk's sectors are.
const LOG_BLOCK_BYTES: u64 = 512;
const LOG_RECORD_MAGIC: u32 = 0xFEED_BABE;
/// The largest record (256 KiB) with its headers, in log blocks.
const LOG_RECORD_BLOCKS_MAX: u64 = 512 + 8;
/// Each header of a record covers this many bytes of it.
const LOG_HEADER_COVERS: u64 = 32 * 1024;
const LOG_UNMOUNT: u8 = 0x20;

struct Superblock {
    block_bytes: u64,
    blocks: u64,
    group_blocks: u64,
    group_block_bits: u8,
    groups: u64,
    sector_bytes: u64,
    log_start: u64,
    log_blocks: u64,
    /// Version 5: blocks carry checksums and longer headers.
    checksums: bool,
}

impl Superblock {
    /// `xfs_dsb`, whose offsets the calls name.
    fn read(source: &dyn ReadAt) -> Result<Superblock, Fault> {
        let bytes = source.read_vec_at(0, 512).map_err(Fault::unreadable("superblock"))?;
        let sb = Fields(&bytes);
        let checksums = sb.be16(100) & 0xF == 5;
        let incompat = if checksums { sb.be32(216) } else { 0 };
        if sb.u8(126) != 0 || incompat & INCOMPAT_NEEDS_REPAIR != 0 {
            return Err(Fault::damaged("its superblock asks for a repair"));
        }
        if incompat & !INCOMPAT_KNOWN != 0 {
            return Err(Fault::Unsupported(format!("XFS feature {:#x}", incompat & !INCOMPAT_KNOWN)));
        }
        let found = Superblock {
            block_bytes: u64::from(sb.be32(4)),
            blocks: sb.be64(8),
            group_blocks: u64::from(sb.be32(84)),
            group_block_bits: sb.u8(124),
            groups: u64::from(sb.be32(88)),
            sector_bytes: u64::from(sb.be16(102)),
            log_start: sb.be64(48),
            log_blocks: u64::from(sb.be32(96)),
            checksums,
        };
        if sb.be64(16) != 0 || found.log_start == 0 {
            return Err(Fault::Unsupported("XFS with a log or real-time section elsewhere".to_owned()));
        }
        found.check(source.size())?;
        Ok(found)
    }

    fn check(&self, size: u64) -> Result<(), Fault> {
        let sizes = self.block_bytes.is_power_of_two()
            && (512..=65536).contains(&self.block_bytes)
            && self.sector_bytes.is_power_of_two()
            && (512..=self.block_bytes).contains(&self.sector_bytes);
        if !sizes
            || self.groups == 0
            || self.groups > GROUPS_MAX
            || self.group_blocks < 64
            || self.group_block_bits > 31
        {
            return Err(Fault::damaged("the sizes in its superblock make no sense"));
        }
        let full = (self.groups - 1) * self.group_blocks;
        let counted = self.blocks > full && self.blocks - full <= self.group_blocks;
        if !counted || self.blocks.checked_mul(self.block_bytes).is_none_or(|bytes| bytes > size) {
            return Err(Fault::damaged("it claims to be larger than its partition"));
        }
        Ok(())
    }

    /// Blocks of group `number`; the last one may be shorter.
    fn blocks_of(&self, number: u64) -> u64 {
        (self.blocks - number * self.group_blocks).min(self.group_blocks)
    }

    fn byte_of(&self, group: u64, block: u64) -> u64 {
        (group * self.group_blocks + block) * self.block_bytes
    }
}

/// The used ranges: all blocks but those in the trees of free extents.
pub fn map(source: &dyn ReadAt) -> Result<Map, Fault> {
    let sb = Superblock::read(source)?;
    if !is_log_clean(source, &sb)? {
        return Err(Fault::Dirty);
    }
    let mut used = Ranges::new(sb.blocks * sb.block_bytes);
    let mut free_blocks = 0;
    for number in 0..sb.groups {
        free_blocks += map_group(source, &sb, number, &mut used)?;
    }
    Ok(Map::new(used.finish(), free_blocks * sb.block_bytes))
}

/// Adds what lies between the free extents of a group; returns its free blocks. The `xfs_agf` is the group's second
/// sector: number 8, length 12, root of the tree by block 16, its height 28, free blocks 52.
fn map_group(source: &dyn ReadAt, sb: &Superblock, number: u64, used: &mut Ranges) -> Result<u64, Fault> {
    let at = sb.byte_of(number, 0) + sb.sector_bytes;
    let bytes = source.read_vec_at(at, 512).map_err(Fault::unreadable("allocation groups"))?;
    let agf = Fields(&bytes);
    let blocks = sb.blocks_of(number);
    if agf.slice(0, 4) != b"XAGF" || u64::from(agf.be32(8)) != number || u64::from(agf.be32(12)) != blocks {
        return Err(Fault::damaged(format!("the header of allocation group {number} is damaged")));
    }
    let (mut next, mut free) = (0, 0);
    let mut leaf = first_leaf(source, sb, number, agf.be32(16), agf.be32(28))?;
    loop {
        for record in leaf.records() {
            let (start, count) = (u64::from(record.be32(0)), u64::from(record.be32(4)));
            if start < next || count == 0 || start + count > blocks {
                return Err(Fault::damaged(format!("the free space of allocation group {number} is out of order")));
            }
            used.add(sb.byte_of(number, next), (start - next) * sb.block_bytes);
            next = start + count;
            free += count;
        }
        // Records ascend and every leaf but an only one has some, so a chain that comes back is found out above.
        match leaf.right() {
            None => break,
            Some(_) if leaf.records().len() == 0 => return Err(Fault::damaged("a leaf of free space is empty")),
            Some(right) => leaf = Node::read(source, sb, number, right, 0)?,
        }
    }
    used.add(sb.byte_of(number, next), (blocks - next) * sb.block_bytes);
    if free != u64::from(agf.be32(52)) {
        return Err(Fault::damaged(format!("allocation group {number} disagrees with its count of free blocks")));
    }
    Ok(free)
}

/// The leftmost leaf of a tree of `levels` levels.
fn first_leaf(source: &dyn ReadAt, sb: &Superblock, group: u64, root: u32, levels: u32) -> Result<Node, Fault> {
    if levels == 0 || levels > LEVELS_MAX {
        return Err(Fault::damaged(format!("the tree of allocation group {group} has no sound height")));
    }
    let mut block = root;
    for level in (1..levels).rev() {
        block = Node::read(source, sb, group, block, level)?.first_child();
    }
    Node::read(source, sb, group, block, 0)
}

/// A block of the tree: magic, level 4, records 6, left sibling 8, right sibling 12; with checksums a header of 56
/// bytes, else 16.
struct Node {
    bytes: Vec<u8>,
    header_bytes: usize,
    count: usize,
}

impl Node {
    fn read(source: &dyn ReadAt, sb: &Superblock, group: u64, block: u32, level: u32) -> Result<Node, Fault> {
        let damaged = || Fault::damaged(format!("block {block} of allocation group {group} is no part of its tree"));
        if u64::from(block) >= sb.blocks_of(group) {
            return Err(damaged());
        }
        let at = sb.byte_of(group, u64::from(block));
        let bytes =
            source.read_vec_at(at, sb.block_bytes as usize).map_err(Fault::unreadable("trees of free space"))?;
        let (magic, header_bytes) = if sb.checksums { (b"AB3B", 56) } else { (b"ABTB", 16) };
        let count = usize::from(Fields(&bytes).be16(6));
        let most = (bytes.len() - header_bytes) / if level == 0 { 8 } else { 12 };
        if &bytes[..4] != magic || u32::from(Fields(&bytes).be16(4)) != level || count > most {
            return Err(damaged());
        }
        Ok(Node { bytes, header_bytes, count })
    }

    /// Start block and count, in 8 bytes.
    fn records(&self) -> impl ExactSizeIterator<Item = Fields<'_>> {
        self.bytes[self.header_bytes..].chunks_exact(8).take(self.count).map(Fields)
    }

    /// The first pointer behind the room for all keys.
    fn first_child(&self) -> u32 {
        let most = (self.bytes.len() - self.header_bytes) / 12;
        Fields(&self.bytes).be32(self.header_bytes + most * 8)
    }

    fn right(&self) -> Option<u32> {
        Some(Fields(&self.bytes).be32(12)).filter(|block| *block != u32::MAX)
    }
}

/// Whether the last record of the log says that the file system was unmounted. Every log block starts with the number of
/// the round in which it was written; the head is where that number drops.
fn is_log_clean(source: &dyn ReadAt, sb: &Superblock) -> Result<bool, Fault> {
    let (group, block) = (sb.log_start >> sb.group_block_bits, sb.log_start & ((1 << sb.group_block_bits) - 1));
    let at = group.checked_mul(sb.group_blocks).and_then(|blocks| blocks.checked_add(block));
    let end = at.and_then(|at| at.checked_add(sb.log_blocks)).filter(|end| *end <= sb.blocks);
    let (Some(at), Some(_)) = (at, end) else { return Err(Fault::damaged("its log lies outside of it")) };
    let log = Log { source, at: at * sb.block_bytes, blocks: sb.log_blocks * sb.block_bytes / LOG_BLOCK_BYTES };
    log.is_clean().map_err(Fault::unreadable("log"))
}

struct Log<'a> {
    source: &'a dyn ReadAt,
    at: u64,
    blocks: u64,
}

impl Log<'_> {
    fn is_clean(&self) -> std::io::Result<bool> {
        if self.blocks < 2 {
            return Ok(false);
        }
        let head = self.head()?;
        for back in 1..=LOG_RECORD_BLOCKS_MAX.min(self.blocks) {
            let at = (head + self.blocks - back) % self.blocks;
            let block = self.block(at)?;
            if Fields(&block).be32(0) == LOG_RECORD_MAGIC {
                return self.is_unmount(Fields(&block), at, head);
            }
        }
        Ok(false)
    }

    /// The block behind the last one written.
    fn head(&self) -> std::io::Result<u64> {
        let round = self.round(0)?;
        if self.round(self.blocks - 1)? == round {
            return Ok(0);
        }
        let (mut same, mut other) = (0, self.blocks - 1);
        while other - same > 1 {
            let middle = same + (other - same) / 2;
            if self.round(middle)? == round { same = middle } else { other = middle }
        }
        Ok(other)
    }

    /// A record of one operation, which is the unmount, and which ends at the head. `xlog_rec_header`: version 8,
    /// length 12, operations 40, size 320.
    fn is_unmount(&self, header: Fields<'_>, at: u64, head: u64) -> std::io::Result<bool> {
        let (len, size) = (u64::from(header.be32(12)), u64::from(header.be32(320)));
        let long = header.be32(8) & 2 != 0 && size > LOG_HEADER_COVERS;
        let headers = if long { size.div_ceil(LOG_HEADER_COVERS) } else { 1 };
        let end = at.saturating_add(headers).saturating_add(len.div_ceil(LOG_BLOCK_BYTES)) % self.blocks;
        let operation = self.block((at + headers) % self.blocks)?;
        Ok(end == head && header.be32(40) == 1 && Fields(&operation).u8(9) & LOG_UNMOUNT != 0)
    }

    /// The round of a block: its first number, or the second where a record starts.
    fn round(&self, number: u64) -> std::io::Result<u32> {
        let block = self.block(number)?;
        let first = Fields(&block).be32(0);
        Ok(if first == LOG_RECORD_MAGIC { Fields(&block).be32(4) } else { first })
    }

    fn block(&self, number: u64) -> std::io::Result<[u8; LOG_BLOCK_BYTES as usize]> {
        let mut block = [0; LOG_BLOCK_BYTES as usize];
        self.source.read_exact_at(&mut block, self.at + number * LOG_BLOCK_BYTES)?;
        Ok(block)
    }
}
