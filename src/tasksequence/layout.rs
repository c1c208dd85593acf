//! How a disk is divided: as a document asks for it, as it is placed, and as it is read back from the disk.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::imaging::disk::guid::Guid;
use crate::imaging::disk::table;

use super::journal::DiskIdentity;
use super::quantity::{Bytes, bytes_for_people};

/// Partitions begin and end on this grid, which suits every sector and erase block.
pub const GRID_BYTES: u64 = 1 << 20;
/// A GPT has room for this many (UEFI 2.10, 5.3.2), an MBR for four.
pub const PARTITIONS_MAX: usize = 128;
const MBR_PARTITIONS_MAX: usize = 4;
/// An MBR counts sectors of 512 bytes in 32 bits.
const MBR_BYTES_MAX: u64 = (u32::MAX as u64) * 512;
/// Characters of a partition's name (UEFI 2.10, table 5.6: 36 of UTF-16).
const NAME_MAX: usize = 36;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scheme {
    #[default]
    Gpt,
    Mbr,
}

impl Scheme {
    pub fn name(self) -> &'static str {
        match self {
            Scheme::Gpt => "gpt",
            Scheme::Mbr => "mbr",
        }
    }
}

/// What a partition is for, by the name that documents use.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    pub name: &'static str,
    pub gpt: Guid,
    /// `None`: an MBR does not know it.
    pub mbr: Option<u8>,
}

const fn purpose(name: &'static str, gpt: Guid, mbr: Option<u8>) -> Purpose {
    Purpose { name, gpt, mbr }
}

/// Types of the Discoverable Partitions Specification and of Windows.
pub const PURPOSES: [Purpose; 12] = [
    purpose("linux", table::LINUX_DATA, Some(0x83)),
    purpose("linux-root", table::LINUX_ROOT_X64, Some(0x83)),
    purpose("linux-home", Guid::from_fields(0x933A_C7E1, 0x2EB4, 0x4F13, 0xB844, 0x0E14_E2AE_F915), Some(0x83)),
    purpose("esp", table::ESP, Some(0xEF)),
    purpose("bios-boot", table::BIOS_BOOT, None),
    purpose("boot", Guid::from_fields(0xBC13_C2FF, 0x59E6, 0x4262, 0xA352, 0xB275_FD6F_7172), Some(0xEA)),
    purpose("swap", Guid::from_fields(0x0657_FD6D, 0xA4AB, 0x43C4, 0x84E5, 0x0933_C84B_4F4F), Some(0x82)),
    purpose("lvm", Guid::from_fields(0xE6D6_D379, 0xF507, 0x44C2, 0xA23C, 0x238F_2A3D_F928), Some(0x8E)),
    purpose("raid", Guid::from_fields(0xA19D_880F, 0x05FC, 0x4D3B, 0xA006, 0x743F_0F84_911E), Some(0xFD)),
    purpose("windows", Guid::from_fields(0xEBD0_A0A2, 0xB9E5, 0x4433, 0x87C0, 0x68B6_B726_99C7), Some(0x07)),
    purpose("microsoft-reserved", Guid::from_fields(0xE3C9_E316, 0x0B5C, 0x4DB8, 0x817D, 0xF92D_F002_15AE), None),
    purpose("windows-recovery", Guid::from_fields(0xDE94_BBA4, 0x06D1, 0x4D40, 0xA16A, 0xBFD5_0179_D6AC), Some(0x27)),
];

/// The names of `PURPOSES`, for documents.
pub const PURPOSE_NAMES: [&str; PURPOSES.len()] = {
    let mut names = [""; PURPOSES.len()];
    let mut index = 0;
    while index < names.len() {
        names[index] = PURPOSES[index].name;
        index += 1;
    }
    names
};

pub fn purpose_named(name: &str) -> Option<&'static Purpose> {
    PURPOSES.iter().find(|purpose| purpose.name == name)
}

/// How large a partition is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    Bytes(u64),
    /// Hundredths of a per cent of the disk.
    Percent(u32),
    /// What the others leave.
    Rest,
}

impl Share {
    pub const EXAMPLES: &'static str = "512MiB, 25% or rest";

    pub fn parse(text: &str) -> Option<Share> {
        if text == "rest" {
            return Some(Share::Rest);
        }
        let Some(number) = text.strip_suffix('%') else { return Bytes::parse(text).map(|bytes| Share::Bytes(bytes.0)) };
        let percent: f64 = number.trim().parse().ok()?;
        (percent > 0.0 && percent <= 100.0).then_some(Share::Percent((percent * 100.0) as u32))
    }

    fn bytes(self, usable: u64) -> Option<u64> {
        let bytes = match self {
            Share::Bytes(bytes) => bytes,
            Share::Percent(hundredths) => (u128::from(usable) * u128::from(hundredths) / 10_000) as u64,
            Share::Rest => return None,
        };
        Some((bytes / GRID_BYTES * GRID_BYTES).max(GRID_BYTES))
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Share, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let parsed = match &value {
            Value::Number(number) => number.as_u64().map(Share::Bytes),
            Value::String(text) => Share::parse(text),
            _ => None,
        };
        let wrong = || serde::de::Error::custom(format!("{value} is not a size, write {}", Share::EXAMPLES));
        parsed.ok_or_else(wrong)
    }
}

/// A partition as a document asks for it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    pub name: String,
    #[serde(rename = "type", default = "linux")]
    pub purpose: String,
    pub size: Share,
    #[serde(default)]
    pub bootable: bool,
}

fn linux() -> String {
    "linux".to_owned()
}

/// A partition that has its place on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// As Linux numbers it.
    pub number: u32,
    pub name: String,
    pub purpose: String,
    pub start: u64,
    pub bytes: u64,
    pub bootable: bool,
}

/// A table to be written, with the identifiers that it gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTable {
    pub scheme: Scheme,
    pub partitions: Vec<Placed>,
    /// Identifiers are drawn from it: the same seed gives the same bytes.
    pub seed: [u8; 32],
}

/// What is on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub scheme: Scheme,
    /// The unit in which its table counts.
    pub sector_bytes: u64,
    pub partitions: Vec<Found>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub number: u32,
    /// `/dev/vda2`
    pub path: String,
    pub name: String,
    /// A name of `PURPOSES`, or the type as the table has it.
    pub purpose: String,
    pub start: u64,
    pub bytes: u64,
    /// The partition's own identifier; an MBR has none.
    pub guid: Option<Guid>,
    pub content: Content,
}

/// What a partition holds, by its own superblock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// As `blkid` names it; empty when nothing is known there.
    pub kind: String,
    pub label: String,
    pub uuid: String,
    pub bytes: u64,
}

impl Layout {
    /// The partition of that name, or, by its digits, of that number.
    pub fn find(&self, reference: &str) -> Option<&Found> {
        let named = self.partitions.iter().find(|partition| partition.name == reference && !reference.is_empty());
        let number = reference.parse::<u32>().ok();
        named.or_else(|| self.partitions.iter().find(|partition| Some(partition.number) == number))
    }

    /// Whether this is the division that `placed` asks for. An MBR keeps no names.
    pub fn is(&self, scheme: Scheme, placed: &[Placed]) -> bool {
        let same = |(found, wanted): (&Found, &Placed)| {
            let named = scheme == Scheme::Mbr || (found.name == wanted.name && found.purpose == wanted.purpose);
            named && (found.number, found.start, found.bytes) == (wanted.number, wanted.start, wanted.bytes)
        };
        self.scheme == scheme && self.partitions.len() == placed.len() && self.partitions.iter().zip(placed).all(same)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("the partitions need {needed}, and the disk has room for {room}", needed = bytes_for_people(*.needed_bytes), room = bytes_for_people(*.room_bytes))]
    TooLarge { needed_bytes: u64, room_bytes: u64 },
    #[error("two partitions want the rest of the disk: `{first}` and `{second}`")]
    TwoRests { first: String, second: String },
    #[error("nothing is left for the partition `{name}`")]
    NoRest { name: String },
    #[error("{count} partitions are too many: {scheme} takes {most}", scheme = .scheme.name())]
    TooMany { count: usize, most: usize, scheme: Scheme },
    #[error("two partitions have the name `{name}`")]
    SameName { name: String },
    #[error("`{name}` is no name of a partition: it may have 1 to {NAME_MAX} characters")]
    BadName { name: String },
    #[error("an MBR has no partitions of type `{purpose}`")]
    NotInMbr { purpose: String },
    #[error("`{purpose}` is not a type of partition")]
    UnknownPurpose { purpose: String },
    #[error("a disk of {bytes} is too large for an MBR", bytes = bytes_for_people(*.disk_bytes))]
    DiskTooLarge { disk_bytes: u64 },
}

impl LayoutError {
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            LayoutError::TooLarge { .. } | LayoutError::NoRest { .. } => {
                "give sizes in per cent, or choose a larger disk".to_owned()
            }
            LayoutError::TwoRests { .. } => "only one partition can have `size: rest`".to_owned(),
            LayoutError::TooMany { .. } | LayoutError::DiskTooLarge { .. } => "use `table: gpt`".to_owned(),
            LayoutError::SameName { .. } => "`format` finds partitions by their names: make them differ".to_owned(),
            LayoutError::NotInMbr { .. } => "leave the partition out, or use `table: gpt`".to_owned(),
            LayoutError::UnknownPurpose { .. } => format!("there is {}", PURPOSE_NAMES.join(", ")),
            LayoutError::BadName { .. } => return None,
        })
    }
}

/// Gives each partition its place on a disk of `disk_bytes`, in the order of the document.
pub fn place(scheme: Scheme, wanted: &[Wanted], disk_bytes: u64) -> Result<Vec<Placed>, LayoutError> {
    check(scheme, wanted, disk_bytes)?;
    // The first MiB holds the table, the last one the copy of a GPT.
    let room = (disk_bytes / GRID_BYTES * GRID_BYTES).saturating_sub(2 * GRID_BYTES);
    let fixed: u64 = wanted.iter().filter_map(|one| one.size.bytes(room)).sum();
    if fixed > room {
        return Err(LayoutError::TooLarge { needed_bytes: fixed, room_bytes: room });
    }
    let mut placed = Vec::new();
    let mut start = GRID_BYTES;
    for (one, number) in wanted.iter().zip(1u32..) {
        let bytes = one.size.bytes(room).unwrap_or(room - fixed);
        if bytes == 0 {
            return Err(LayoutError::NoRest { name: one.name.clone() });
        }
        let (name, purpose) = (one.name.clone(), one.purpose.clone());
        placed.push(Placed { number, name, purpose, start, bytes, bootable: one.bootable });
        start += bytes;
    }
    Ok(placed)
}

fn check(scheme: Scheme, wanted: &[Wanted], disk_bytes: u64) -> Result<(), LayoutError> {
    let most = if scheme == Scheme::Mbr { MBR_PARTITIONS_MAX } else { PARTITIONS_MAX };
    if wanted.len() > most {
        return Err(LayoutError::TooMany { count: wanted.len(), most, scheme });
    }
    if scheme == Scheme::Mbr && disk_bytes > MBR_BYTES_MAX {
        return Err(LayoutError::DiskTooLarge { disk_bytes });
    }
    for (index, one) in wanted.iter().enumerate() {
        let purpose = purpose_named(&one.purpose);
        let purpose = purpose.ok_or_else(|| LayoutError::UnknownPurpose { purpose: one.purpose.clone() })?;
        if scheme == Scheme::Mbr && purpose.mbr.is_none() {
            return Err(LayoutError::NotInMbr { purpose: one.purpose.clone() });
        }
        let name = one.name.clone();
        if name.is_empty() || name.encode_utf16().count() > NAME_MAX {
            return Err(LayoutError::BadName { name });
        }
        if wanted[..index].iter().any(|other| other.name == name) {
            return Err(LayoutError::SameName { name });
        }
    }
    let mut rests = wanted.iter().filter(|one| one.size == Share::Rest);
    match (rests.next(), rests.next()) {
        (Some(first), Some(second)) => {
            Err(LayoutError::TwoRests { first: first.name.clone(), second: second.name.clone() })
        }
        _ => Ok(()),
    }
}

/// The system that is being installed: the disk with its root, and the file systems that belong to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    #[serde(flatten)]
    pub disk: DiskIdentity,
    /// Without one at `/` the root file system is looked for on the disk, as an image brought it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
}

/// A file system by what stays the same when the kernel names disks in another order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub disk: DiskIdentity,
    /// Number of its partition.
    pub partition: u32,
    /// `ext4`, `xfs`, `btrfs`, `fat`, `ntfs` or `swap`.
    pub kind: String,
    pub uuid: String,
    /// Where the installed system mounts it; empty for swap.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub at: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Target {
    /// A disk whose root file system an image brought.
    pub fn of(disk: DiskIdentity) -> Target {
        Target { disk, mounts: Vec::new() }
    }

    /// What is mounted, each after what it is mounted in.
    pub fn in_order(&self) -> Vec<&Mount> {
        let mut mounts: Vec<&Mount> = self.mounts.iter().filter(|mount| !mount.at.is_empty()).collect();
        mounts.sort_by_key(|mount| mount.at.trim_end_matches('/').len());
        mounts
    }

    pub fn root(&self) -> Option<&Mount> {
        self.mounts.iter().find(|mount| mount.at == "/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(list: &[(&str, &str, &str)]) -> Vec<Wanted> {
        let one = |(name, purpose, size): &(&str, &str, &str)| Wanted {
            name: (*name).to_owned(),
            purpose: (*purpose).to_owned(),
            size: Share::parse(size).unwrap(),
            bootable: false,
        };
        list.iter().map(one).collect()
    }

    #[test]
    fn partitions_lie_one_behind_the_other_and_leave_the_tables_alone() {
        let list = wanted(&[
            ("bios", "bios-boot", "1MiB"),
            ("esp", "esp", "128MiB"),
            ("root", "linux-root", "rest"),
            ("swap", "swap", "10%"),
        ]);
        let disk = (10 << 30) + 12_345;
        let placed = place(Scheme::Gpt, &list, disk).unwrap();
        let places: Vec<(u64, u64)> =
            placed.iter().map(|one| (one.start / GRID_BYTES, one.bytes / GRID_BYTES)).collect();
        assert_eq!(places, [(1, 1), (2, 128), (130, 9086), (9216, 1023)]);
        assert!(placed.last().is_some_and(|last| last.start + last.bytes <= disk - GRID_BYTES));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_reason() {
        for (scheme, list, disk, expect) in [
            (
                Scheme::Gpt,
                wanted(&[("a", "linux", "4GiB")]),
                2u64 << 30,
                "the partitions need 4 GiB, and the disk has room for 2 GiB",
            ),
            (
                Scheme::Gpt,
                wanted(&[("a", "linux", "rest"), ("b", "linux", "rest")]),
                2 << 30,
                "two partitions want the rest of the disk: `a` and `b`",
            ),
            (
                Scheme::Gpt,
                wanted(&[("a", "linux", "100%"), ("b", "linux", "rest")]),
                2 << 30,
                "nothing is left for the partition `b`",
            ),
            (
                Scheme::Gpt,
                wanted(&[("a", "linux", "1MiB"), ("a", "linux", "rest")]),
                2 << 30,
                "two partitions have the name `a`",
            ),
            (
                Scheme::Mbr,
                wanted(&[("a", "bios-boot", "1MiB")]),
                2 << 30,
                "an MBR has no partitions of type `bios-boot`",
            ),
            (Scheme::Mbr, wanted(&[("a", "linux", "rest")]), 3 << 40, "a disk of 3 TiB is too large for an MBR"),
            (
                Scheme::Mbr,
                wanted(&[
                    ("a", "linux", "1%"),
                    ("b", "linux", "1%"),
                    ("c", "linux", "1%"),
                    ("d", "linux", "1%"),
                    ("e", "linux", "1%"),
                ]),
                2 << 30,
                "5 partitions are too many: mbr takes 4",
            ),
        ] {
            assert_eq!(place(scheme, &list, disk).unwrap_err().to_string(), expect);
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, expect) in [
            ("rest", Some(Share::Rest)),
            ("12.5%", Some(Share::Percent(1250))),
            ("0%", None),
            ("101%", None),
            ("1GiB", Some(Share::Bytes(1 << 30))),
            ("all", None),
        ] {
            assert_eq!(Share::parse(text), expect, "{text}");
        }
    }
}
