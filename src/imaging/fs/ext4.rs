//! ext2, ext3 and ext4: superblock, group descriptors, block bitmaps (Linux, Documentation/filesystems/ext4).

pub mod files;

use super::probe::{Kind, Probed, uuid};
use super::ranges::Ranges;
use super::{Fault, Map};
use crate::stdx::bytes::Fields;
use crate::stdx::io::ReadAt;

const SUPERBLOCK_AT: u64 = 1024;
const SUPERBLOCK_BYTES: usize = 1024;
const MAGIC: u16 = 0xEF53;
/// 512 TiB at the usual 128 MiB a group: more is a lie that would keep us reading.
const GROUPS_MAX: u64 = 1 << 22;
/// mke2fs makes none smaller.
const BLOCKS_PER_GROUP_MIN: u64 = 256;

const COMPAT_HAS_JOURNAL: u32 = 0x4;
const COMPAT_SPARSE_SUPER2: u32 = 0x200;
const INCOMPAT_RECOVER: u32 = 0x4;
const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
const INCOMPAT_META_BG: u32 = 0x10;
const INCOMPAT_64BIT: u32 = 0x80;
/// filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode, dirdata, csum_seed, largedir, inline_data, encrypt,
/// casefold. None of them moves the block bitmaps other than as this file does.
const INCOMPAT_KNOWN: u32 = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x3C000;
const INCOMPAT_EXT4: u32 = 0x40 | 0x80 | 0x200 | 0x400 | 0x1000 | 0x2000 | 0x3C000;
const RO_COMPAT_SPARSE_SUPER: u32 = 0x1;
const RO_COMPAT_GDT_CSUM: u32 = 0x10;
const RO_COMPAT_BIGALLOC: u32 = 0x200;
const RO_COMPAT_METADATA_CSUM: u32 = 0x400;
const STATE_CLEAN: u16 = 1;
const STATE_ERRORS: u16 = 2;
const GROUP_BLOCK_UNINIT: u16 = 2;

/// ext2 has no journal, ext3 has one, ext4 has any of the features that came later.
pub fn probe(head: Fields<'_>) -> Option<Probed> {
    let superblock = Superblock::read(Fields(head.slice(SUPERBLOCK_AT as usize, SUPERBLOCK_BYTES)))?;
    let late = superblock.incompat & INCOMPAT_EXT4 != 0 || superblock.ro_compat & 0x7F8 != 0;
    let kind = match superblock.compat & COMPAT_HAS_JOURNAL != 0 {
        _ if superblock.incompat & INCOMPAT_JOURNAL_DEVICE != 0 => Kind::Unknown,
        _ if late => Kind::Ext4,
        true => Kind::Ext3,
        false => Kind::Ext2,
    };
    Some(Probed {
        label: superblock.label,
        uuid: uuid(superblock.uuid),
        size_bytes: superblock.blocks.saturating_mul(superblock.block_bytes),
        free_bytes: Some(superblock.free_blocks.saturating_mul(superblock.block_bytes)),
        ..Probed::new(kind)
    })
}

/// The superblock's fields that say where things are.
struct Superblock {
    blocks: u64,
    free_blocks: u64,
    first_data_block: u64,
    block_bytes: u64,
    /// Blocks that one bit of a bitmap stands for: 1 without bigalloc.
    cluster_blocks: u64,
    blocks_per_group: u64,
    inode_table_blocks: u64,
    reserved_gdt_blocks: u64,
    descriptor_bytes: u64,
    first_meta_bg: u64,
    backup_groups: [u64; 2],
    compat: u32,
    incompat: u32,
    ro_compat: u32,
    state: u16,
    uuid: [u8; 16],
    label: String,
}

impl Superblock {
    /// `None` when this is no ext superblock at all, or its sizes are none that ext can have.
    fn read(sb: Fields<'_>) -> Option<Superblock> {
        let (block_shift, cluster_shift) = (sb.le32(24), sb.le32(28));
        if sb.le16(56) != MAGIC || block_shift > 6 {
            return None;
        }
        let block_bytes = 1024u64 << block_shift;
        let (compat, incompat, ro_compat) = (sb.le32(92), sb.le32(96), sb.le32(100));
        let wide = incompat & INCOMPAT_64BIT != 0;
        let high = |at: usize| if wide { u64::from(sb.le32(at)) << 32 } else { 0 };
        let bigalloc = ro_compat & RO_COMPAT_BIGALLOC != 0;
        let cluster_shift = if bigalloc { cluster_shift.checked_sub(block_shift).filter(|s| *s < 20)? } else { 0 };
        let inode_bytes = if sb.le32(76) == 0 { 128 } else { u64::from(sb.le16(88)) };
        let descriptor_bytes = if wide { u64::from(sb.le16(254)) } else { 32 };
        let fits = descriptor_bytes >= 32 && descriptor_bytes <= block_bytes && descriptor_bytes.is_power_of_two();
        fits.then(|| Superblock {
            blocks: u64::from(sb.le32(4)) | high(336),
            free_blocks: u64::from(sb.le32(12)) | high(344),
            first_data_block: u64::from(sb.le32(20)),
            block_bytes,
            cluster_blocks: 1 << cluster_shift,
            blocks_per_group: u64::from(sb.le32(32)),
            inode_table_blocks: (u64::from(sb.le32(40)) * inode_bytes).div_ceil(block_bytes),
            reserved_gdt_blocks: u64::from(sb.le16(206)),
            descriptor_bytes,
            first_meta_bg: u64::from(sb.le32(260)),
            backup_groups: [u64::from(sb.le32(588)), u64::from(sb.le32(592))],
            compat,
            incompat,
            ro_compat,
            state: sb.le16(58),
            uuid: sb.array(104),
            label: sb.text(120, 16),
        })
    }

    fn check(&self, size: u64) -> Result<(), Fault> {
        let unknown = self.incompat & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(Fault::Unsupported(format!("ext4 feature {unknown:#x}")));
        }
        if self.incompat & INCOMPAT_RECOVER != 0 || self.state & STATE_CLEAN == 0 {
            return Err(Fault::Dirty);
        }
        if self.state & STATE_ERRORS != 0 {
            return Err(Fault::damaged("its superblock says that it has errors"));
        }
        if self.blocks.checked_mul(self.block_bytes).is_none_or(|bytes| bytes > size) {
            return Err(Fault::damaged("it claims to be larger than its partition"));
        }
        let clusters = self.blocks_per_group / self.cluster_blocks;
        let group_fits = self.blocks_per_group >= BLOCKS_PER_GROUP_MIN
            && self.blocks_per_group.is_multiple_of(self.cluster_blocks * 8)
            && clusters <= 8 * self.block_bytes;
        if !group_fits || self.first_data_block >= self.blocks || self.groups() > GROUPS_MAX {
            return Err(Fault::damaged("the sizes in its superblock contradict each other"));
        }
        Ok(())
    }

    fn groups(&self) -> u64 {
        (self.blocks - self.first_data_block).div_ceil(self.blocks_per_group)
    }

    fn descriptors_per_block(&self) -> u64 {
        self.block_bytes / self.descriptor_bytes
    }

    fn first_block_of(&self, group: u64) -> u64 {
        self.first_data_block + group * self.blocks_per_group
    }

    fn blocks_of(&self, group: u64) -> u64 {
        (self.blocks - self.first_block_of(group)).min(self.blocks_per_group)
    }

    /// Whether a group starts with a copy of the superblock.
    fn has_super(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.compat & COMPAT_SPARSE_SUPER2 != 0 {
            return self.backup_groups.contains(&group);
        }
        if group == 1 || self.ro_compat & RO_COMPAT_SPARSE_SUPER == 0 {
            return true;
        }
        [3, 5, 7].into_iter().any(|base| is_power_of(group, base))
    }

    /// The block that holds descriptor block `index`.
    fn descriptor_block(&self, index: u64) -> u64 {
        let superblock = SUPERBLOCK_AT / self.block_bytes;
        if self.incompat & INCOMPAT_META_BG == 0 || index < self.first_meta_bg {
            return superblock + 1 + index;
        }
        let group = index * self.descriptors_per_block();
        let shifted = u64::from(group == 0 && superblock == 1 && self.first_data_block == 0);
        self.first_block_of(group) + u64::from(self.has_super(group)) + shifted
    }

    /// Blocks at the start of a group that hold the superblock's copy, the descriptors and those reserved for growth.
    fn front_blocks(&self, group: u64) -> u64 {
        let all = self.groups().div_ceil(self.descriptors_per_block());
        let has_super = u64::from(self.has_super(group));
        let meta = self.incompat & INCOMPAT_META_BG != 0;
        if meta && group / self.descriptors_per_block() >= self.first_meta_bg {
            let within = group % self.descriptors_per_block();
            let has_descriptors = within < 2 || within == self.descriptors_per_block() - 1;
            return has_super + u64::from(has_descriptors);
        }
        let descriptors = if meta { all.min(self.first_meta_bg) } else { all };
        has_super * (1 + descriptors + self.reserved_gdt_blocks)
    }

    /// Whether the flags of the groups mean anything.
    fn has_group_flags(&self) -> bool {
        self.ro_compat & (RO_COMPAT_GDT_CSUM | RO_COMPAT_METADATA_CSUM) != 0
    }
}

fn is_power_of(number: u64, base: u64) -> bool {
    let mut power = base;
    while power < number {
        power *= base;
    }
    power == number
}

/// One group's descriptor.
struct Group {
    block_bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
    free_clusters: u64,
    flags: u16,
}

impl Group {
    /// 32 bytes, or 64 with the high halves behind.
    fn read(bytes: Fields<'_>) -> Group {
        let wide = |low: usize, high: usize| u64::from(bytes.le32(low)) | u64::from(bytes.le32(high)) << 32;
        Group {
            block_bitmap: wide(0, 32),
            inode_bitmap: wide(4, 36),
            inode_table: wide(8, 40),
            free_clusters: u64::from(bytes.le16(12)) | u64::from(bytes.le16(44)) << 16,
            flags: bytes.le16(18),
        }
    }
}

/// The used ranges: everything in front of the first group, each group's own structures, and what the block bitmaps
/// mark. A group whose bitmap was never written (BLOCK_UNINIT) has no data, only its structures.
pub fn map(source: &dyn ReadAt) -> Result<Map, Fault> {
    let bytes = source.read_vec_at(SUPERBLOCK_AT, SUPERBLOCK_BYTES).map_err(Fault::unreadable("superblock"))?;
    let sb = Superblock::read(Fields(&bytes)).ok_or_else(|| Fault::damaged("its superblock makes no sense"))?;
    sb.check(source.size())?;
    let mut used = Ranges::new(sb.blocks * sb.block_bytes);
    used.add(0, (SUPERBLOCK_AT / sb.block_bytes + 1) * sb.block_bytes);
    let mut free_clusters = 0;
    for index in 0..sb.groups().div_ceil(sb.descriptors_per_block()) {
        let at = sb.descriptor_block(index).saturating_mul(sb.block_bytes);
        let block = source.read_vec_at(at, sb.block_bytes as usize).map_err(Fault::unreadable("group descriptors"))?;
        used.add(at, sb.block_bytes);
        let first = index * sb.descriptors_per_block();
        for (bytes, number) in block.chunks_exact(sb.descriptor_bytes as usize).zip(first..sb.groups()) {
            free_clusters += map_group(source, &sb, number, &Group::read(Fields(bytes)), &mut used)?;
        }
    }
    Ok(Map::new(used.finish(), free_clusters * sb.cluster_blocks * sb.block_bytes))
}

/// Adds what group `number` uses, and returns its free clusters.
fn map_group(
    source: &dyn ReadAt,
    sb: &Superblock,
    number: u64,
    group: &Group,
    used: &mut Ranges,
) -> Result<u64, Fault> {
    let first = sb.first_block_of(number);
    let structures = [
        (first, sb.front_blocks(number)),
        (group.block_bitmap, 1),
        (group.inode_bitmap, 1),
        (group.inode_table, sb.inode_table_blocks),
    ];
    for (block, count) in structures {
        if block.checked_add(count).is_none_or(|end| end > sb.blocks) {
            return Err(Fault::damaged(format!("group {number} points outside the file system")));
        }
        used.add(block * sb.block_bytes, count * sb.block_bytes);
    }
    let clusters = sb.blocks_of(number).div_ceil(sb.cluster_blocks);
    if sb.has_group_flags() && group.flags & GROUP_BLOCK_UNINIT != 0 {
        return Ok(group.free_clusters.min(clusters));
    }
    let at = group.block_bitmap * sb.block_bytes;
    let bitmap = source.read_vec_at(at, sb.block_bytes as usize).map_err(Fault::unreadable("block bitmaps"))?;
    let cluster_bytes = sb.cluster_blocks * sb.block_bytes;
    let marked = add_marked(&bitmap, clusters, first * sb.block_bytes, cluster_bytes, used);
    if clusters - marked != group.free_clusters {
        return Err(Fault::damaged(format!("the bitmap of group {number} disagrees with its count of free blocks")));
    }
    Ok(group.free_clusters)
}

/// Adds a range of `unit` bytes for each of the first `count` bits of `bitmap` that is set, counted from byte `base`, and
/// returns how many those were. Bits count from the least significant one.
pub(super) fn add_marked(bitmap: &[u8], count: u64, base: u64, unit: u64, used: &mut Ranges) -> u64 {
    let mut marked = 0;
    let mut add = |first: u64, bits: u64| {
        marked += bits;
        used.add(base.saturating_add(first.saturating_mul(unit)), bits.saturating_mul(unit));
    };
    for (byte, first) in bitmap.iter().zip((0..count).step_by(8)) {
        let here = (count - first).min(8);
        match byte {
            0 => {}
            0xFF => add(first, here),
            _ => (0..here).filter(|bit| byte >> bit & 1 == 1).for_each(|bit| add(first + bit, 1)),
        }
    }
    marked
}
