//! File systems: which one it is, which of its bytes are in use, and how a mounted one grows.
//!
//! `probe` looks at the signatures. `used_ranges` answers for a whole disk (or a bare file system) which byte ranges an
//! image must hold; a file system that is dirty, damaged or not known is taken whole and that is said, so that a wrong
//! answer is always too many bytes and never too few. Nothing here writes to a source. `grow` enlarges a mounted file
//! system by one request to the kernel.
//!
//! Each format is one file that turns a [`ReadAt`] window into its used ranges. Their input is hostile: sizes are checked
//! against the window before they are used, and every loop and list has a named limit.

use crate::stdx::io::ReadAt;
use std::io;
use std::ops::Range;

pub mod btrfs;
pub mod disk;
pub mod exfat;
pub mod ext4;
pub mod fat;
pub mod files;
pub mod grow;
pub mod lvm;
pub mod ntfs;
pub mod probe;
pub mod ranges;
pub mod xfs;

pub use disk::{Treatment, Used, Volume, used_ranges};
pub use grow::{grow, grow_unmounted};
pub use probe::{Kind, Probed, probe, sector_bytes};

/// The bytes of one file system that are in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// Sorted, from the start of the file system.
    pub used: Vec<Range<u64>>,
    /// Bytes of data blocks that are free.
    pub free_bytes: u64,
    /// What a person should know.
    pub remarks: Vec<String>,
}

impl Map {
    fn new(used: Vec<Range<u64>>, free_bytes: u64) -> Map {
        Map { used, free_bytes, remarks: Vec::new() }
    }
}

/// Why a file system's own bookkeeping cannot be relied on; it is then taken whole.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("its {0} cannot be read: {1}")]
    Unreadable(&'static str, io::Error),
    #[error("{0}")]
    Damaged(String),
    #[error("it was not cleanly unmounted")]
    Dirty,
    #[error("{0}")]
    Closed(&'static str),
    #[error("{0} is not known here")]
    Unsupported(String),
}

impl Fault {
    fn unreadable(what: &'static str) -> impl FnOnce(io::Error) -> Fault {
        move |error| Fault::Unreadable(what, error)
    }

    fn damaged(what: impl Into<String>) -> Fault {
        Fault::Damaged(what.into())
    }
}

/// The used ranges of the file system that `probe` found in `source`.
pub fn map(source: &dyn ReadAt, kind: Kind) -> Result<Map, Fault> {
    match kind {
        Kind::Ext2 | Kind::Ext3 | Kind::Ext4 => ext4::map(source),
        Kind::Fat12 | Kind::Fat16 | Kind::Fat32 => fat::map(source),
        Kind::Xfs => xfs::map(source),
        Kind::Btrfs => btrfs::map(source),
        Kind::Ntfs => ntfs::map(source),
        Kind::Exfat => exfat::map(source),
        Kind::Luks | Kind::Bitlocker => Err(Fault::Closed("it is encrypted")),
        Kind::Raid => Err(Fault::Closed("it is a member of a RAID")),
        Kind::Lvm => lvm::map(source),
        Kind::Swap | Kind::Unknown => Err(Fault::Closed("it holds no file system that is known here")),
    }
}
