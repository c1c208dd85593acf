//! Which file system it is, by its signatures.

use super::{ext4, fat};
use crate::imaging::disk::guid::Guid;
use crate::stdx::bytes::Fields;
use crate::stdx::hex;
use crate::stdx::io::ReadAt;
use std::fmt;
use std::io;

/// What a partition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Ext2,
    Ext3,
    Ext4,
    Xfs,
    Btrfs,
    Ntfs,
    Fat12,
    Fat16,
    Fat32,
    Exfat,
    Swap,
    /// LVM physical volume.
    Lvm,
    Luks,
    Bitlocker,
    /// Member of a Linux software RAID.
    Raid,
    /// Nothing that is known, or several signatures at once.
    Unknown,
}

impl Kind {
    /// The name that `blkid` uses, where it has one.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Ext2 => "ext2",
            Kind::Ext3 => "ext3",
            Kind::Ext4 => "ext4",
            Kind::Xfs => "xfs",
            Kind::Btrfs => "btrfs",
            Kind::Ntfs => "ntfs",
            Kind::Fat12 => "fat12",
            Kind::Fat16 => "fat16",
            Kind::Fat32 => "fat32",
            Kind::Exfat => "exfat",
            Kind::Swap => "swap",
            Kind::Lvm => "lvm",
            Kind::Luks => "luks",
            Kind::Bitlocker => "bitlocker",
            Kind::Raid => "raid",
            Kind::Unknown => "unknown",
        }
    }

    pub fn is_ext(self) -> bool {
        matches!(self, Kind::Ext2 | Kind::Ext3 | Kind::Ext4)
    }

    pub fn is_fat(self) -> bool {
        matches!(self, Kind::Fat12 | Kind::Fat16 | Kind::Fat32)
    }

    /// Whether [`super::grow`] enlarges it while it is mounted.
    pub fn grows_mounted(self) -> bool {
        matches!(self, Kind::Ext2 | Kind::Ext3 | Kind::Ext4 | Kind::Xfs | Kind::Btrfs)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a file system says of itself. Empty texts where it has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    pub kind: Kind,
    pub label: String,
    /// As `blkid` writes it.
    pub uuid: String,
    /// What the file system itself counts; 0 when it does not say.
    pub size_bytes: u64,
    /// Free space as the superblock counts it.
    pub free_bytes: Option<u64>,
}

impl Probed {
    pub(super) fn new(kind: Kind) -> Probed {
        Probed { kind, label: String::new(), uuid: String::new(), size_bytes: 0, free_bytes: None }
    }
}

/// Bytes from the start in which all signatures but btrfs's and RAID's own lie.
const HEAD_BYTES: u64 = 68 * 1024;
const BTRFS_AT: usize = 64 * 1024;

/// Finds out what `source` holds. More than one signature makes it `Unknown`: taking it whole is never wrong.
pub fn probe(source: &dyn ReadAt) -> io::Result<Probed> {
    let head = source.read_vec_at(0, source.size().min(HEAD_BYTES) as usize)?;
    let head = Fields(&head);
    if is_raid(source, head)? {
        return Ok(Probed::new(Kind::Raid));
    }
    let probes: [fn(Fields<'_>) -> Option<Probed>; 9] =
        [ext4::probe, xfs, btrfs, bitlocker, ntfs, exfat, swap, lvm, luks];
    let mut found: Vec<Probed> = probes.iter().filter_map(|probe| probe(head)).collect();
    if found.is_empty() {
        found.extend(fat::probe(head));
    }
    let only = found.pop().filter(|_| found.is_empty());
    Ok(only.unwrap_or_else(|| Probed::new(Kind::Unknown)))
}

/// The smallest unit in which the file system of `kind` is read and written: a disk with larger sectors cannot carry it.
/// `None` where any disk can.
pub fn sector_bytes(source: &dyn ReadAt, kind: Kind) -> io::Result<Option<u32>> {
    let head = source.read_vec_at(0, source.size().min(4096) as usize)?;
    let head = Fields(&head);
    let bytes = match kind {
        Kind::Ntfs | Kind::Fat12 | Kind::Fat16 | Kind::Fat32 => u32::from(head.le16(11)),
        Kind::Exfat => 1u32.checked_shl(u32::from(head.u8(108))).unwrap_or(0),
        Kind::Xfs => u32::from(head.be16(102)),
        Kind::Ext2 | Kind::Ext3 | Kind::Ext4 => 1024u32.checked_shl(head.le32(1024 + 24)).unwrap_or(0),
        _ => 0,
    };
    Ok((bytes > 0).then_some(bytes))
}

/// `xfs_dsb`: big-endian, magic at 0, block size 4, blocks 8, UUID 32, name 108, free blocks 144.
fn xfs(head: Fields<'_>) -> Option<Probed> {
    let block_bytes = u64::from(head.be32(4));
    (head.slice(0, 4) == b"XFSB").then(|| Probed {
        label: head.text(108, 12),
        uuid: uuid(head.array(32)),
        size_bytes: head.be64(8).saturating_mul(block_bytes),
        free_bytes: Some(head.be64(144).saturating_mul(block_bytes)),
        ..Probed::new(Kind::Xfs)
    })
}

/// `btrfs_super_block` at 64 KiB: fsid 0x20, magic 0x40, total bytes 0x70, bytes used 0x78, label 0x12B.
fn btrfs(head: Fields<'_>) -> Option<Probed> {
    let superblock = Fields(head.slice(BTRFS_AT, 4096));
    let size_bytes = superblock.le64(0x70);
    (superblock.slice(0x40, 8) == b"_BHRfS_M").then(|| Probed {
        label: superblock.text(0x12B, 256),
        uuid: uuid(superblock.array(0x20)),
        size_bytes,
        free_bytes: Some(size_bytes.saturating_sub(superblock.le64(0x78))),
        ..Probed::new(Kind::Btrfs)
    })
}

/// BitLocker's own signature, where NTFS has its name.
fn bitlocker(head: Fields<'_>) -> Option<Probed> {
    (head.slice(3, 8) == b"-FVE-FS-").then(|| Probed::new(Kind::Bitlocker))
}

/// NTFS boot sector: bytes a sector 11, sectors 40, serial number 72.
fn ntfs(head: Fields<'_>) -> Option<Probed> {
    (head.slice(3, 8) == b"NTFS    ").then(|| Probed {
        uuid: format!("{:016X}", head.le64(72)),
        size_bytes: head.le64(40).saturating_mul(u64::from(head.le16(11))),
        ..Probed::new(Kind::Ntfs)
    })
}

/// exFAT boot sector: sectors 72, serial number 100, sector shift 108.
fn exfat(head: Fields<'_>) -> Option<Probed> {
    (head.slice(3, 8) == b"EXFAT   ").then(|| Probed {
        uuid: serial(head.le32(100)),
        size_bytes: head.le64(72).checked_shl(u32::from(head.u8(108))).unwrap_or(0),
        ..Probed::new(Kind::Exfat)
    })
}

/// Swap: its signature ends the first page, whose size only its place tells.
fn swap(head: Fields<'_>) -> Option<Probed> {
    let page = swap_page_bytes(head)?;
    Some(Probed {
        label: head.text(1024 + 28, 16),
        uuid: uuid(head.array(1024 + 12)),
        size_bytes: (u64::from(head.le32(1024 + 4)) + 1).saturating_mul(page),
        ..Probed::new(Kind::Swap)
    })
}

/// The page size of the machine that made the swap area.
fn swap_page_bytes(head: Fields<'_>) -> Option<u64> {
    let pages = [4096usize, 8192, 16384, 65536];
    let found = pages.into_iter().find(|page| head.slice(page - 10, 10) == b"SWAPSPACE2")?;
    Some(found as u64)
}

/// The bytes of a swap area that say what it is; the rest is nobody's.
pub fn swap_header_bytes(source: &dyn ReadAt) -> u64 {
    let head = source.read_vec_at(0, source.size().min(HEAD_BYTES) as usize).unwrap_or_default();
    swap_page_bytes(Fields(&head)).unwrap_or(HEAD_BYTES)
}

/// LVM2 label in one of the first four sectors; the volume's identifier follows its header.
fn lvm(head: Fields<'_>) -> Option<Probed> {
    let label = (0..4).map(|sector| sector * 512).find(|at| head.slice(*at, 8) == b"LABELONE")?;
    let fits = head.slice(label + 24, 8) == b"LVM2 001";
    fits.then(|| Probed {
        uuid: String::from_utf8_lossy(head.slice(label + 32, 32)).into_owned(),
        size_bytes: head.le64(label + 64),
        ..Probed::new(Kind::Lvm)
    })
}

/// LUKS 1 and 2: magic and, at 168, the identifier as text.
fn luks(head: Fields<'_>) -> Option<Probed> {
    (head.slice(0, 6) == b"LUKS\xBA\xBE").then(|| Probed { uuid: head.text(168, 40), ..Probed::new(Kind::Luks) })
}

/// Linux software RAID: version 1.1 and 1.2 at the start, 1.0 and 0.90 near the end, where the data looks like a plain
/// file system to everybody else.
fn is_raid(source: &dyn ReadAt, head: Fields<'_>) -> io::Result<bool> {
    const MAGIC: u32 = 0xA92B_4EFC;
    if head.le32(0) == MAGIC || head.le32(4096) == MAGIC {
        return Ok(true);
    }
    let size = source.size();
    let old = (size & !0xFFFF).checked_sub(0x1_0000);
    let version_1_0 = size.checked_sub(8192).map(|at| at & !0xFFF);
    for at in [old, version_1_0].into_iter().flatten() {
        let mut magic = [0; 4];
        // A last sector that cannot be read belongs to no array that still works.
        if source.read_exact_at(&mut magic, at).is_ok() && u32::from_le_bytes(magic) == MAGIC {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A UUID of 16 bytes in the order they are stored.
pub(super) fn uuid(bytes: [u8; 16]) -> String {
    let mut in_guid_order = bytes;
    in_guid_order[..4].reverse();
    in_guid_order[4..6].reverse();
    in_guid_order[6..8].reverse();
    Guid(in_guid_order).to_string()
}

/// A FAT serial number as everybody writes it.
pub(super) fn serial(number: u32) -> String {
    let text = hex::emit(&number.to_be_bytes()).to_uppercase();
    format!("{}-{}", &text[..4], &text[4..])
}
