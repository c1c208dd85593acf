//! What both kinds of partition tables have in common.

use super::gpt::{self, Gpt};
use super::guid::Guid;
use super::mbr::{self, Mbr};
use crate::stdx::hint::Hint;
use crate::stdx::io::ReadAt;
use std::io;

/// EFI system partition.
pub const ESP: Guid = Guid::from_fields(0xC12A_7328, 0xF81F, 0x11D2, 0xBA4B, 0x00A0_C93E_C93B);
/// BIOS boot partition, where GRUB keeps its core.
pub const BIOS_BOOT: Guid = Guid::from_fields(0x2168_6148, 0x6449, 0x6E6F, 0x744E, 0x6565_6445_4649);
/// Linux file system data.
pub const LINUX_DATA: Guid = Guid::from_fields(0x0FC6_3DAF, 0x8483, 0x4772, 0x8E79, 0x3D69_D847_7DE4);
/// Linux root of x86-64 and of 64-bit ARM (Discoverable Partitions Specification).
pub const LINUX_ROOT_X64: Guid = Guid::from_fields(0x4F68_BCE3, 0xE8CD, 0x4DB1, 0x96E7, 0xFBCA_F984_B709);
pub const LINUX_ROOT_ARM64: Guid = Guid::from_fields(0xB921_B045, 0x1DF0, 0x41C3, 0xAF44, 0x4C6F_280D_3FAE);
/// PowerPC PReP boot, which holds a boot loader as plain bytes.
pub const PREP: Guid = Guid::from_fields(0x9E1A_2D38, 0xC612, 0x4316, 0xAA26, 0x8B49_521E_5A8B);

/// Where Windows keeps what repairs it.
pub const WINDOWS_RECOVERY: Guid = Guid::from_fields(0xDE94_BBA4, 0x06D1, 0x4D40, 0xA16A, 0xBFD5_0179_D6AC);

/// The partition table of a disk.
#[derive(Clone, Debug)]
pub enum Table {
    Gpt(Gpt),
    Mbr(Mbr),
}

/// One partition, in bytes from the start of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// As Linux numbers it: `/dev/sda2` is 2.
    pub number: u32,
    pub start: u64,
    pub bytes: u64,
    pub kind: Kind,
    /// The partition's own identifier; an MBR has none.
    pub guid: Option<Guid>,
    pub name: String,
}

impl Partition {
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.bytes)
    }
}

/// What the table says the partition is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gpt(Guid),
    Mbr(u8),
}

impl Kind {
    /// Holds a boot loader as plain bytes, without a file system.
    pub fn is_raw_boot(self) -> bool {
        matches!(self, Kind::Gpt(BIOS_BOOT | PREP) | Kind::Mbr(0x41))
    }

    /// Holds what repairs Windows, which leaves it as it is.
    pub fn is_recovery(self) -> bool {
        matches!(self, Kind::Gpt(WINDOWS_RECOVERY) | Kind::Mbr(0x27))
    }

    /// The root file system of Linux, said so by its own type.
    pub fn is_linux_root(self) -> bool {
        matches!(self, Kind::Gpt(LINUX_ROOT_X64 | LINUX_ROOT_ARM64))
    }
}

/// Bytes to write at an offset: the unit of every change to a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    pub offset: u64,
    pub bytes: Vec<u8>,
}

/// Reads the partition table of a disk; `None` when it has none (a bare file system, or nothing). `sector_bytes` is the
/// device's logical sector where it is known, as for a block device; a GPT that was made for other sectors is found too.
pub fn read(disk: &dyn ReadAt, sector_bytes: Option<u32>) -> Result<Option<Table>, Error> {
    for sector_bytes in [sector_bytes, None] {
        if let Some(gpt) = gpt::read(disk, sector_bytes)? {
            return Ok(Some(Table::Gpt(gpt)));
        }
    }
    Ok(mbr::read(disk, sector_bytes)?.map(Table::Mbr))
}

impl Table {
    pub fn partitions(&self) -> Vec<Partition> {
        match self {
            Table::Gpt(gpt) => gpt.partitions(),
            Table::Mbr(mbr) => mbr.partitions(),
        }
    }

    /// What a person should know about the state of the table.
    pub fn warnings(&self) -> Vec<String> {
        match self {
            Table::Gpt(gpt) if gpt.copy == gpt::Copy::Backup => {
                vec!["the primary GPT is damaged, its backup was read".to_owned()]
            }
            Table::Gpt(_) => Vec::new(),
            Table::Mbr(mbr) => mbr.warnings.clone(),
        }
    }

    pub fn scheme(&self) -> &'static str {
        match self {
            Table::Gpt(_) => "gpt",
            Table::Mbr(_) => "mbr",
        }
    }
}

/// What went wrong with a partition table or with the disk that carries it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read {what}")]
    Read { what: &'static str, source: io::Error },
    #[error("{what} {path}")]
    Device { what: &'static str, path: String, source: io::Error },
    #[error("use a disk of {disk_bytes} bytes: the partitions need {needed_bytes}")]
    TooSmall { disk_bytes: u64, needed_bytes: u64 },
    #[error("fit partition {number}: it does not lie on sectors of {sector_bytes} bytes")]
    Unaligned { number: u32, sector_bytes: u64 },
    #[error("find partition {number} in the table")]
    NoSuchPartition { number: u32 },
    #[error("find a partition table")]
    NoTable,
}

impl Error {
    pub(super) fn read(what: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Read { what, source }
    }
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Read { .. } => {
                "look at the disk's own error log (smartctl, dmesg): the first sectors must be readable".to_owned()
            }
            Error::Device { .. } => "check that the path is the whole disk and that nothing has it mounted".to_owned(),
            Error::TooSmall { needed_bytes, .. } => {
                format!(
                    "use a disk of at least {} MiB, or capture the image from a smaller one",
                    needed_bytes.div_ceil(1 << 20)
                )
            }
            Error::Unaligned { .. } => "capture the image from a disk with sectors of the same size".to_owned(),
            Error::NoSuchPartition { .. } => "list the partitions and choose one of their numbers".to_owned(),
            Error::NoTable => {
                "only a disk with a GPT or an MBR can be fitted; apply a bare file system to a partition".to_owned()
            }
        })
    }
}
