//! Inodes, extents, block lists and folders of ext2, ext3 and ext4.

use std::collections::HashSet;

use super::{Group, SUPERBLOCK_AT, SUPERBLOCK_BYTES, Superblock};
use crate::imaging::fs::Fault;
use crate::imaging::fs::files::{Content, Entry, EntryKind, FILES_MAX, Files, PIECES_MAX, Piece, push, read_pieces};
use crate::stdx::bytes::Fields;
use crate::stdx::io::ReadAt;

const ROOT: u32 = 2;
const FLAG_ENCRYPTED: u32 = 0x800;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_INLINE: u32 = 0x1000_0000;
const EXTENT_MAGIC: u16 = 0xF30A;
/// The kernel's limit.
const EXTENT_DEPTH_MAX: u16 = 5;
/// An extent longer than this is one that was reserved and never written.
const EXTENT_BLOCKS_MAX: u16 = 32768;
/// The block pointers, extents or short link target in an inode.
const BLOCK_AREA: (usize, usize) = (40, 60);

pub fn list(source: &dyn ReadAt) -> Result<Files, Fault> {
    let tree = Tree::open(source)?;
    let mut files = Files::new();
    let mut pieces = 0;
    let (mut folders, mut seen) = (vec![(String::new(), ROOT)], HashSet::from([ROOT]));
    while let Some((path, number)) = folders.pop() {
        let folder = tree.inode(number)?;
        for (name, child) in tree.names(&folder)? {
            let (path, inode) = (format!("{path}/{name}"), tree.inode(child)?);
            let entry = tree.entry(&inode)?;
            if let Content::Pieces(more) = &entry.content {
                pieces += more.len();
            }
            if files.len() >= FILES_MAX || pieces > PIECES_MAX {
                return Err(Fault::damaged("it claims to hold too many files"));
            }
            if entry.kind == EntryKind::Folder && seen.insert(child) {
                folders.push((path.clone(), child));
            }
            files.insert(path, entry);
        }
    }
    Ok(files)
}

struct Tree<'a> {
    source: &'a dyn ReadAt,
    sb: Superblock,
    inode_bytes: u64,
    inodes_per_group: u64,
    /// First block of each group's inode table.
    tables: Vec<u64>,
}

/// The fields of `struct ext4_inode` that say what a file is and where it lies.
struct Inode {
    mode: u16,
    owner: u32,
    group: u32,
    bytes: u64,
    flags: u32,
    blocks: u64,
    area: [u8; BLOCK_AREA.1],
}

impl<'a> Tree<'a> {
    fn open(source: &'a dyn ReadAt) -> Result<Tree<'a>, Fault> {
        let bytes = source.read_vec_at(SUPERBLOCK_AT, SUPERBLOCK_BYTES).map_err(Fault::unreadable("superblock"))?;
        let fields = Fields(&bytes);
        let sb = Superblock::read(fields).ok_or_else(|| Fault::damaged("its superblock makes no sense"))?;
        sb.check(source.size())?;
        let inode_bytes = if fields.le32(76) == 0 { 128 } else { u64::from(fields.le16(88)) };
        let inodes_per_group = u64::from(fields.le32(40));
        if inode_bytes < 128 || inode_bytes > sb.block_bytes || inodes_per_group == 0 {
            return Err(Fault::damaged("the sizes of its inodes make no sense"));
        }
        let mut tables = Vec::new();
        for index in 0..sb.groups().div_ceil(sb.descriptors_per_block()) {
            let at = sb.descriptor_block(index).saturating_mul(sb.block_bytes);
            let block = source.read_vec_at(at, sb.block_bytes as usize);
            let block = block.map_err(Fault::unreadable("group descriptors"))?;
            let descriptors = block.chunks_exact(sb.descriptor_bytes as usize);
            tables.extend(descriptors.map(|bytes| Group::read(Fields(bytes)).inode_table));
        }
        Ok(Tree { source, sb, inode_bytes, inodes_per_group, tables })
    }

    fn inode(&self, number: u32) -> Result<Inode, Fault> {
        let damaged = || Fault::damaged(format!("inode {number} lies nowhere"));
        let index = u64::from(number).checked_sub(1).ok_or_else(damaged)?;
        let table = usize::try_from(index / self.inodes_per_group).ok().and_then(|group| self.tables.get(group));
        let table = table.and_then(|block| block.checked_mul(self.sb.block_bytes)).ok_or_else(damaged)?;
        let at = table.checked_add(index % self.inodes_per_group * self.inode_bytes).ok_or_else(damaged)?;
        let bytes = self.source.read_vec_at(at, 128).map_err(Fault::unreadable("inodes"))?;
        let fields = Fields(&bytes);
        let wide = |low: usize, high: usize| u32::from(fields.le16(low)) | u32::from(fields.le16(high)) << 16;
        Ok(Inode {
            mode: fields.le16(0),
            owner: wide(2, 120),
            group: wide(24, 122),
            bytes: u64::from(fields.le32(4)) | u64::from(fields.le32(108)) << 32,
            flags: fields.le32(32),
            blocks: u64::from(fields.le32(28)),
            area: fields.array(BLOCK_AREA.0),
        })
    }

    fn entry(&self, inode: &Inode) -> Result<Entry, Fault> {
        let kind = inode.kind();
        let content = match kind {
            EntryKind::File | EntryKind::Link => self.content(inode)?,
            EntryKind::Folder => Content::Unknown,
            // The numbers of a device.
            EntryKind::Other => Content::Inline(inode.area[..8].to_vec()),
        };
        let bytes = if matches!(kind, EntryKind::Folder | EntryKind::Other) { 0 } else { inode.bytes };
        let rights = u128::from(inode.mode) | u128::from(inode.owner) << 16 | u128::from(inode.group) << 48;
        Ok(Entry { kind, bytes, rights, content })
    }

    fn content(&self, inode: &Inode) -> Result<Content, Fault> {
        if inode.flags & (FLAG_ENCRYPTED | FLAG_INLINE) != 0 {
            return Ok(Content::Unknown);
        }
        let is_short_link = inode.kind() == EntryKind::Link && inode.bytes < BLOCK_AREA.1 as u64 && inode.blocks == 0;
        if is_short_link {
            return Ok(Content::Inline(inode.area[..inode.bytes as usize].to_vec()));
        }
        self.pieces(inode).map(Content::Pieces)
    }

    fn pieces(&self, inode: &Inode) -> Result<Vec<Piece>, Fault> {
        let mut pieces = Vec::new();
        if inode.flags & FLAG_EXTENTS != 0 {
            self.extents(&inode.area, EXTENT_DEPTH_MAX, &mut pieces)?;
        } else {
            self.block_list(inode, &mut pieces)?;
        }
        pieces.retain_mut(|piece| {
            piece.len = piece.len.min(inode.bytes.saturating_sub(piece.in_file));
            piece.len > 0
        });
        Ok(pieces)
    }

    /// `struct ext4_extent_header`: magic 0, entries 2, depth 6; then entries of 12 bytes.
    fn extents(&self, node: &[u8], depth_max: u16, pieces: &mut Vec<Piece>) -> Result<(), Fault> {
        let header = Fields(node);
        let (count, depth) = (usize::from(header.le16(2)), header.le16(6));
        if header.le16(0) != EXTENT_MAGIC || depth > depth_max || count > node.len() / 12 {
            return Err(Fault::damaged("an extent tree makes no sense"));
        }
        for index in 0..count {
            let entry = Fields(header.slice(12 + index * 12, 12));
            if depth > 0 {
                let block = u64::from(entry.le32(4)) | u64::from(entry.le16(8)) << 32;
                self.extents(&self.block(block)?, depth - 1, pieces)?;
                continue;
            }
            let blocks = entry.le16(4);
            if blocks <= EXTENT_BLOCKS_MAX {
                let start = u64::from(entry.le32(8)) | u64::from(entry.le16(6)) << 32;
                self.add(entry.le32(0).into(), start, blocks.into(), pieces)?;
            }
        }
        Ok(())
    }

    /// Twelve blocks, then blocks of block numbers: of one, two and three levels.
    fn block_list(&self, inode: &Inode, pieces: &mut Vec<Piece>) -> Result<(), Fault> {
        let area = Fields(&inode.area);
        let last = inode.bytes.div_ceil(self.sb.block_bytes);
        let mut next = 0;
        for index in 0..15 {
            let level = (index as u32).saturating_sub(11);
            self.blocks(area.le32(index * 4).into(), level, last, &mut next, pieces)?;
        }
        Ok(())
    }

    fn blocks(&self, block: u64, level: u32, last: u64, next: &mut u64, pieces: &mut Vec<Piece>) -> Result<(), Fault> {
        let per_block = self.sb.block_bytes / 4;
        if *next >= last {
            return Ok(());
        }
        if block == 0 {
            *next = next.saturating_add(per_block.saturating_pow(level));
            return Ok(());
        }
        if level == 0 {
            self.add(*next, block, 1, pieces)?;
            *next += 1;
            return Ok(());
        }
        let numbers = self.block(block)?;
        let (numbers, _) = numbers.as_chunks::<4>();
        numbers
            .iter()
            .try_for_each(|number| self.blocks(u32::from_le_bytes(*number).into(), level - 1, last, next, pieces))
    }

    fn add(&self, in_file: u64, block: u64, count: u64, pieces: &mut Vec<Piece>) -> Result<(), Fault> {
        let inside = block.checked_add(count).is_some_and(|end| end <= self.sb.blocks);
        if !inside || pieces.len() >= PIECES_MAX {
            return Err(Fault::damaged("a file points outside the file system"));
        }
        let unit = self.sb.block_bytes;
        push(pieces, Piece { in_file: in_file * unit, at: block * unit, len: count * unit });
        Ok(())
    }

    fn block(&self, block: u64) -> Result<Vec<u8>, Fault> {
        if block >= self.sb.blocks {
            return Err(Fault::damaged("a file points outside the file system"));
        }
        let at = block * self.sb.block_bytes;
        self.source.read_vec_at(at, self.sb.block_bytes as usize).map_err(Fault::unreadable("files"))
    }

    /// `struct ext4_dir_entry_2`: inode 0, length 4, length of the name 6, name 8. The blocks of an index look like entries
    /// that are not in use.
    fn names(&self, folder: &Inode) -> Result<Vec<(String, u32)>, Fault> {
        if folder.flags & (FLAG_ENCRYPTED | FLAG_INLINE) != 0 {
            return Err(Fault::Unsupported("a folder that is encrypted or lies in its inode".to_owned()));
        }
        let bytes = read_pieces(self.source, &self.pieces(folder)?)?;
        let mut names = Vec::new();
        for block in bytes.chunks(self.sb.block_bytes as usize) {
            let mut at = 0;
            while at + 8 <= block.len() {
                let entry = Fields(&block[at..]);
                // Blocks of 64 KiB write their whole length as 0 or 65535.
                let len = match entry.le16(4) {
                    0 | 65535 => block.len() - at,
                    len => usize::from(len),
                };
                if len < 8 {
                    break;
                }
                let name = entry.slice(8, usize::from(entry.u8(6)));
                if entry.le32(0) != 0 && name != b"." && name != b".." {
                    names.push((String::from_utf8_lossy(name).into_owned(), entry.le32(0)));
                }
                at += len;
            }
        }
        Ok(names)
    }
}

impl Inode {
    fn kind(&self) -> EntryKind {
        match self.mode >> 12 {
            0x8 => EntryKind::File,
            0x4 => EntryKind::Folder,
            0xA => EntryKind::Link,
            _ => EntryKind::Other,
        }
    }
}
