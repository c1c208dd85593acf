//! Fits what was applied to the disk it now lies on: the partition table is moved to the disk's real end and real sector
//! size, one partition takes the space behind it, identifiers are renewed. All is planned before a byte is written.

use super::gpt::Gpt;
use super::guid::Guid;
use super::mbr::{self, Mbr};
use super::table::{self, Error, Partition, Patch, Table};
use crate::imaging::fs;
use crate::stdx::io::{ReadAt, Section};
use serde::Serialize;

/// A grown partition ends on this grid.
const ALIGN_BYTES: u64 = 1 << 20;

/// Which partition takes the free space behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grow {
    /// The root, as [`root`] finds it.
    Root,
    Number(u32),
    Nothing,
}

/// What is asked of the disk.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub grow: Grow,
    /// Renews the identifiers of the disk and its partitions, drawn from this seed. What the installed system refers to
    /// by PARTUUID must then be told.
    pub renew: Option<[u8; 32]>,
}

/// The geometry of the target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub bytes: u64,
    /// The logical sector; `None` for a file, whose sectors are the table's.
    pub sector_bytes: Option<u32>,
}

/// All that will be written, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub patches: Vec<Patch>,
    pub grown: Option<Grown>,
    pub renewed: Vec<Renewed>,
    /// What a person should know: a file system that this disk cannot carry.
    pub remarks: Vec<String>,
}

/// An identifier and what it became, as PARTUUID, `blkid` and `sfdisk` write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Renewed {
    /// 0 is the disk.
    pub partition: u32,
    pub old: String,
    pub new: String,
}

/// A partition and its sizes in bytes before and after.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Grown {
    pub number: u32,
    pub start: u64,
    pub old_bytes: u64,
    pub new_bytes: u64,
}

/// Plans the fitting of `disk`, which must already read as the applied image, to `target`.
pub fn plan(disk: &dyn ReadAt, target: Target, wish: Wish) -> Result<Plan, Error> {
    let table = table::read(disk, target.sector_bytes)?.ok_or(Error::NoTable)?;
    let remarks = target.sector_bytes.map(|sector| cannot_carry(disk, &table.partitions(), sector)).unwrap_or_default();
    let plan = match table {
        Table::Gpt(gpt) => plan_gpt(disk, gpt, target, wish)?,
        Table::Mbr(mbr) => plan_mbr(disk, &mbr, target, wish)?,
    };
    Ok(Plan { remarks, ..plan })
}

/// File systems whose own sectors are smaller than the disk's: the kernel and the firmware refuse them there.
fn cannot_carry(disk: &dyn ReadAt, partitions: &[Partition], disk_sector: u32) -> Vec<String> {
    let remark = |partition: &Partition| {
        let bytes = partition.bytes.min(disk.size().saturating_sub(partition.start));
        let section = Section::new(disk, partition.start, bytes)?;
        let kind = fs::probe(&section).ok()?.kind;
        let own = fs::sector_bytes(&section, kind).ok()??;
        (own < disk_sector).then(|| {
            format!(
                "partition {} ({kind}) was made with sectors of {own} bytes and cannot be used on this disk, whose sectors \
                 have {disk_sector}: make the image on such a disk, or format that partition anew",
                partition.number
            )
        })
    };
    partitions.iter().filter_map(remark).collect()
}

fn plan_gpt(disk: &dyn ReadAt, mut gpt: Gpt, target: Target, wish: Wish) -> Result<Plan, Error> {
    let mut patches = Vec::new();
    if let Some(sector_bytes) = target.sector_bytes.map(u64::from).filter(|bytes| *bytes != gpt.sector_bytes) {
        let old = gpt.sector_bytes;
        gpt.recount(sector_bytes)?;
        patches.extend(stale_header(old, sector_bytes));
    }
    gpt.relocate(target.bytes)?;
    let partitions = gpt.partitions();
    let grown = chosen(disk, &partitions, wish.grow)?.and_then(|partition| {
        let next = partitions.iter().map(|other| other.start).filter(|start| *start > partition.start).min();
        grow_to(partition, next.unwrap_or(u64::MAX).min(gpt.usable_end()))
    });
    if let Some(grown) = grown {
        gpt.resize(grown.number, grown.new_bytes);
    }
    let renewed = wish.renew.map(|seed| renew_gpt(&mut gpt, seed)).unwrap_or_default();
    patches.extend(gpt.emit(target.bytes));
    let first = disk.read_vec_at(0, 512).map_err(Error::read("the master boot record"))?;
    let protective = mbr::protective(&first, target.bytes / gpt.sector_bytes);
    patches.extend(protective.map(|bytes| Patch { offset: 0, bytes }));
    Ok(Plan { patches, grown, renewed, remarks: Vec::new() })
}

fn renew_gpt(gpt: &mut Gpt, seed: [u8; 32]) -> Vec<Renewed> {
    let identifiers = |gpt: &Gpt| -> Vec<(u32, Guid)> {
        let own = gpt.partitions().into_iter().filter_map(|partition| Some((partition.number, partition.guid?)));
        std::iter::once((0, gpt.disk)).chain(own).collect()
    };
    let old = identifiers(gpt);
    gpt.renew(|number| draw(seed, number));
    let pairs = old.into_iter().zip(identifiers(gpt));
    pairs
        .map(|((partition, old), (_, new))| Renewed { partition, old: old.to_string(), new: new.to_string() })
        .collect()
}

/// What wipes a header that stands where sectors of the old size put it and would be found there again.
fn stale_header(old_sector_bytes: u64, new_sector_bytes: u64) -> Option<Patch> {
    let offset = old_sector_bytes;
    (offset < new_sector_bytes).then(|| Patch { offset, bytes: vec![0; (new_sector_bytes - offset) as usize] })
}

fn plan_mbr(disk: &dyn ReadAt, mbr: &Mbr, target: Target, wish: Wish) -> Result<Plan, Error> {
    let partitions = mbr.partitions();
    let needed_bytes = partitions.iter().map(Partition::end).max().unwrap_or(0);
    if needed_bytes > target.bytes {
        return Err(Error::TooSmall { disk_bytes: target.bytes, needed_bytes });
    }
    let grown = chosen(disk, &partitions, wish.grow)?
        .and_then(|partition| grow_to(partition, mbr.limit_of(partition.number, target.bytes)));
    let mut patches = grown.map(|grown| mbr.resize(grown.number, grown.new_bytes)).unwrap_or_default();
    let mut renewed = Vec::new();
    if let Some(seed) = wish.renew {
        let random = draw(seed, 0).0;
        let signature = u32::from_le_bytes([random[0], random[1], random[2], random[3]]);
        patches.push(mbr.renew(signature));
        renewed = renewed_mbr(mbr, signature);
    }
    Ok(Plan { patches, grown, renewed, remarks: Vec::new() })
}

/// An MBR names its partitions by its own signature: `1234abcd-02`.
fn renewed_mbr(mbr: &Mbr, signature: u32) -> Vec<Renewed> {
    let written = |signature: u32, number: u32| match number {
        0 => format!("{signature:08x}"),
        number => format!("{signature:08x}-{number:02x}"),
    };
    let numbers = std::iter::once(0).chain(mbr.partitions().into_iter().map(|partition| partition.number));
    let renewed =
        |partition| Renewed { partition, old: written(mbr.signature, partition), new: written(signature, partition) };
    numbers.map(renewed).collect()
}

/// The partition that shall grow; `None` when the wish is nothing, or no partition is a root.
fn chosen<'a>(disk: &dyn ReadAt, partitions: &'a [Partition], grow: Grow) -> Result<Option<&'a Partition>, Error> {
    match grow {
        Grow::Nothing => Ok(None),
        Grow::Number(number) => {
            let found = partitions.iter().find(|partition| partition.number == number);
            found.map(Some).ok_or(Error::NoSuchPartition { number })
        }
        Grow::Root => Ok(root(disk, partitions)),
    }
}

/// The root partition: the one typed so, else the last one on the disk that holds ext, XFS or btrfs, else the last that holds
/// NTFS and is not there for a recovery.
pub fn root<'a>(disk: &dyn ReadAt, partitions: &'a [Partition]) -> Option<&'a Partition> {
    let last = |holds: &dyn Fn(&Partition) -> bool| {
        partitions.iter().filter(|partition| holds(partition)).max_by_key(|partition| partition.start)
    };
    let typed = partitions.iter().find(|partition| partition.kind.is_linux_root());
    let windows =
        |partition: &Partition| !partition.kind.is_recovery() && holds(disk, partition) == Some(fs::Kind::Ntfs);
    typed
        .or_else(|| last(&|partition| holds(disk, partition).is_some_and(fs::Kind::grows_mounted)))
        .or_else(|| last(&windows))
}

fn holds(disk: &dyn ReadAt, partition: &Partition) -> Option<fs::Kind> {
    let bytes = partition.bytes.min(disk.size().saturating_sub(partition.start));
    let section = Section::new(disk, partition.start, bytes)?;
    fs::probe(&section).ok().map(|probed| probed.kind)
}

/// The growth up to `end`; `None` when there is less than one step of the grid to gain.
fn grow_to(partition: &Partition, end: u64) -> Option<Grown> {
    let new_bytes = (end / ALIGN_BYTES * ALIGN_BYTES).saturating_sub(partition.start);
    (new_bytes > partition.bytes).then_some(Grown {
        number: partition.number,
        start: partition.start,
        old_bytes: partition.bytes,
        new_bytes,
    })
}

/// Identifier `number` of a seed: the same seed gives the same disk.
fn draw(seed: [u8; 32], number: u32) -> Guid {
    let digest = blake3::keyed_hash(&seed, &number.to_le_bytes());
    let mut random = [0; 16];
    random.copy_from_slice(&digest.as_bytes()[..16]);
    Guid::from_random(random)
}
