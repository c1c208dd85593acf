//! NTFS: boot sector, master file table, `$Bitmap`, and whether `$LogFile` and `$Volume` say that it is clean.

pub mod files;

use super::ext4::add_marked;
use super::ranges::Ranges;
use super::{Fault, Map};
use crate::stdx::bytes::Fields;
use crate::stdx::io::ReadAt;
use std::ops::Range;

/// Records are 1 KiB, on 4K sectors 4 KiB; anything above is an attack.
const RECORD_BYTES_MAX: u64 = 64 << 10;
/// Windows makes clusters of at most 2 MiB.
const CLUSTER_BYTES_MAX: u64 = 2 << 20;
/// Bytes of `$Bitmap` read at once.
const PIECE_BYTES: u64 = 1 << 20;
const RECORD_LOG: u64 = 2;
const RECORD_VOLUME: u64 = 3;
const RECORD_BITMAP: u64 = 6;
const ATTRIBUTE_LIST: u32 = 0x20;
const ATTRIBUTE_VOLUME: u32 = 0x70;
const ATTRIBUTE_DATA: u32 = 0x80;
const ATTRIBUTES_END: u32 = 0xFFFF_FFFF;
const VOLUME_DIRTY: u16 = 1;
const RESTART_CLEAN: u16 = 2;
const NO_CLIENT: u16 = 0xFFFF;

struct Volume<'a> {
    source: &'a dyn ReadAt,
    size: u64,
    cluster_bytes: u64,
    clusters: u64,
    record_bytes: u64,
    /// The part of the master file table that its own first record tells, as bytes of the volume.
    table: Vec<Range<u64>>,
}

/// The used ranges: the clusters that `$Bitmap` marks, and the last sectors that make no whole cluster.
pub fn map(source: &dyn ReadAt) -> Result<Map, Fault> {
    let volume = Volume::open(source)?;
    volume.check_clean()?;
    let record = volume.record(RECORD_BITMAP)?;
    if attribute(&record, ATTRIBUTE_LIST).is_some() {
        return Err(Fault::Unsupported("a bitmap in more pieces than one record holds".to_owned()));
    }
    let runs = volume.runs_of(&record, "bitmap")?;
    let mut used = Ranges::new(volume.size);
    let whole = volume.clusters * volume.cluster_bytes;
    used.add(whole, volume.size - whole);
    let (mut done, mut marked) = (0, 0);
    for run in runs {
        let mut at = run.start;
        while at < run.end && done < volume.clusters {
            let len = (run.end - at).min(PIECE_BYTES).min((volume.clusters - done).div_ceil(8));
            let piece = source.read_vec_at(at, len as usize).map_err(Fault::unreadable("bitmap"))?;
            let bits = (len * 8).min(volume.clusters - done);
            marked += add_marked(&piece, bits, done * volume.cluster_bytes, volume.cluster_bytes, &mut used);
            done += bits;
            at += len;
        }
    }
    if done < volume.clusters {
        return Err(Fault::damaged("its bitmap is too short for its clusters"));
    }
    Ok(Map::new(used.finish(), (volume.clusters - marked) * volume.cluster_bytes))
}

impl<'a> Volume<'a> {
    /// Boot sector: bytes a sector 11, sectors a cluster 13, sectors 40, first cluster of the table 48, size of a record 64
    /// (in clusters, or as a negative power of two in bytes).
    fn open(source: &'a dyn ReadAt) -> Result<Volume<'a>, Fault> {
        let bytes = source.read_vec_at(0, 512).map_err(Fault::unreadable("boot sector"))?;
        let boot = Fields(&bytes);
        let nonsense = || Fault::damaged("the sizes in its boot sector make no sense");
        let sector = u64::from(boot.le16(11));
        let cluster_bytes = power(boot.u8(13), sector * u64::from(boot.u8(13)), sector)
            .filter(|bytes| *bytes <= CLUSTER_BYTES_MAX)
            .ok_or_else(nonsense)?;
        let record_bytes = power(boot.u8(64), cluster_bytes * u64::from(boot.u8(64)), 1).ok_or_else(nonsense)?;
        let sizes = sector.is_power_of_two()
            && (256..=4096).contains(&sector)
            && cluster_bytes.is_power_of_two()
            && cluster_bytes >= sector
            && record_bytes.is_power_of_two()
            && (512..=RECORD_BYTES_MAX).contains(&record_bytes);
        if !sizes {
            return Err(nonsense());
        }
        let size = boot.le64(40).checked_mul(sector).filter(|size| *size <= source.size());
        let size = size.ok_or_else(|| Fault::damaged("it claims to be larger than its partition"))?;
        let mut volume =
            Volume { source, size, cluster_bytes, clusters: size / cluster_bytes, record_bytes, table: Vec::new() };
        let start = boot.le64(48).checked_mul(cluster_bytes).filter(|start| *start < size).ok_or_else(nonsense)?;
        volume.table.push(start..start + record_bytes);
        let first = volume.record(0)?;
        volume.table = volume.runs_of(&first, "master file table")?;
        Ok(volume)
    }

    /// Refused when Windows has it open, crashed, or only hibernated ("fast startup"): the bitmap then lags behind.
    fn check_clean(&self) -> Result<(), Fault> {
        let record = self.record(RECORD_VOLUME)?;
        let information = attribute(&record, ATTRIBUTE_VOLUME).map(resident);
        let information = information.ok_or_else(|| Fault::damaged("its $Volume says nothing"))?;
        if information.le16(10) & VOLUME_DIRTY != 0 || !self.is_log_clean()? {
            return Err(Fault::Dirty);
        }
        Ok(())
    }

    /// A log that was reset is all ones; else the newer of its two restart areas tells.
    fn is_log_clean(&self) -> Result<bool, Fault> {
        let record = self.record(RECORD_LOG)?;
        let runs = self.runs_of(&record, "log")?;
        let Some(run) = runs.first().filter(|run| run.end - run.start >= 8192) else { return Ok(false) };
        let pages = self.source.read_vec_at(run.start, 8192).map_err(Fault::unreadable("log"))?;
        if pages.iter().all(|byte| *byte == 0xFF) {
            return Ok(true);
        }
        let areas = pages.chunks(4096).map(Fields).filter(|page| page.slice(0, 4) == b"RSTR");
        let areas = areas.map(|page| Fields(page.slice(usize::from(page.le16(24)), 512)));
        let newest = areas.max_by_key(|area| area.le64(0));
        Ok(newest.is_some_and(|area| area.le16(12) == NO_CLIENT || area.le16(14) & RESTART_CLEAN != 0))
    }

    /// Record `number` of the master file table, with the last bytes of each sector put back (the update sequence).
    fn record(&self, number: u64) -> Result<Vec<u8>, Fault> {
        let mut skip = number * self.record_bytes;
        let mut found = None;
        for run in &self.table {
            let len = run.end - run.start;
            if skip + self.record_bytes <= len {
                found = Some(run.start + skip);
                break;
            }
            skip = skip.saturating_sub(len);
        }
        let damaged = || Fault::damaged(format!("record {number} of its file table is damaged"));
        let at = found.ok_or_else(damaged)?;
        let bytes = self.source.read_vec_at(at, self.record_bytes as usize);
        put_sequence_back(bytes.map_err(Fault::unreadable("file table"))?).ok_or_else(damaged)
    }

    /// The byte ranges of a record's unnamed data.
    fn runs_of(&self, record: &[u8], what: &'static str) -> Result<Vec<Range<u64>>, Fault> {
        let data = attribute(record, ATTRIBUTE_DATA).filter(|data| data.u8(8) == 1);
        let runs = data.and_then(|data| self.runs(Fields(data.slice(usize::from(data.le16(32)), data.0.len()))));
        runs.filter(|runs| !runs.is_empty())
            .ok_or_else(|| Fault::damaged(format!("the runs of its {what} are damaged")))
    }

    /// Mapping pairs: a byte whose halves tell how many bytes the length and the signed step from the last start take.
    /// `None` for a run outside the volume or a hole.
    fn runs(&self, pairs: Fields<'_>) -> Option<Vec<Range<u64>>> {
        let (mut at, mut cluster, mut runs) = (0, 0i64, Vec::new());
        while pairs.u8(at) != 0 {
            let (len_bytes, step_bytes) = (usize::from(pairs.u8(at) & 0xF), usize::from(pairs.u8(at) >> 4));
            if !(1..=8).contains(&len_bytes) || !(1..=8).contains(&step_bytes) {
                return None;
            }
            let len = signed(pairs.slice(at + 1, len_bytes));
            cluster = cluster.checked_add(signed(pairs.slice(at + 1 + len_bytes, step_bytes)))?;
            let (start, len) = (u64::try_from(cluster).ok()?, u64::try_from(len).ok()?);
            if len == 0 || start.checked_add(len)? > self.clusters {
                return None;
            }
            runs.push(start * self.cluster_bytes..(start + len) * self.cluster_bytes);
            at += 1 + len_bytes + step_bytes;
        }
        Some(runs)
    }
}

/// A size that is `plain`, or where its byte is above 128 two to the negated power, times `unit`.
fn power(byte: u8, plain: u64, unit: u64) -> Option<u64> {
    if byte <= 128 { Some(plain) } else { 1u64.checked_shl(u32::from(byte.wrapping_neg()))?.checked_mul(unit) }
}

fn signed(bytes: &[u8]) -> i64 {
    let fill = if bytes.last().is_some_and(|last| last & 0x80 != 0) { 0xFF } else { 0 };
    let mut wide = [fill; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    i64::from_le_bytes(wide)
}

/// Checks and removes the update sequence: at 4 its offset, at 6 its length; the last two bytes of each 512 hold a
/// number, and what belongs there is in the sequence.
fn put_sequence_back(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let record = Fields(&bytes);
    let (at, count) = (usize::from(record.le16(4)), usize::from(record.le16(6)));
    let sequence = record.slice(at, count * 2).to_vec();
    if record.slice(0, 4) != b"FILE" || count == 0 || sequence.len() != count * 2 || (count - 1) * 512 > bytes.len() {
        return None;
    }
    for (index, replaced) in sequence.chunks_exact(2).skip(1).enumerate() {
        let end = &mut bytes[index * 512 + 510..index * 512 + 512];
        if *end != sequence[..2] {
            return None;
        }
        end.copy_from_slice(replaced);
    }
    Some(bytes)
}

/// The first unnamed attribute of `kind` in a record: type 0, length 4, non-resident 8, name length 9.
fn attribute(record: &[u8], kind: u32) -> Option<Fields<'_>> {
    let mut at = usize::from(Fields(record).le16(20));
    loop {
        let header = Fields(record.get(at..)?);
        let len = header.le32(4) as usize;
        if header.le32(0) == ATTRIBUTES_END || len < 24 || len > header.0.len() {
            return None;
        }
        if header.le32(0) == kind && header.u8(9) == 0 {
            return Some(Fields(&header.0[..len]));
        }
        at += len;
    }
}

/// The value of a resident attribute: length 16, offset 20.
fn resident(attribute: Fields<'_>) -> Fields<'_> {
    Fields(attribute.slice(usize::from(attribute.le16(20)), attribute.le32(16) as usize))
}
