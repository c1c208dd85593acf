//! qcow2 versions 2 and 3 (QEMU, docs/interop/qcow2.txt): header, two levels of tables, clusters. Big-endian.

use super::mapped::{Codec, Extent, Extents, Mapped, Place};
use super::{Error, Format, Opened};
use crate::stdx::bytes::Fields;
use crate::stdx::io::ReadAt;
use std::collections::HashSet;

/// QEMU's own limit of the first table.
const L1_BYTES_MAX: u64 = 32 << 20;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_SUBCLUSTERS: u64 = 1 << 4;
const INCOMPATIBLE_KNOWN: u64 = 0x1F;
/// Bits 9 to 55 of an entry: an offset in the file.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;

struct Header {
    cluster_bits: u32,
    size: u64,
    l1_at: u64,
    l1_entries: u64,
    /// Entries of a second table are 16 bytes with a bit for each 32nd of the cluster, not 8.
    subclusters: bool,
    codec: Codec,
    snapshots: u32,
}

/// Opens an image that refers to nothing outside of it.
pub fn open(file: impl ReadAt + 'static) -> Result<Opened, Error> {
    let header = Header::read(&file)?;
    let extents = header.extents(&file)?;
    let mapped = Mapped::new(vec![Box::new(file)], header.size, extents);
    let stored = Some(mapped.stored());
    let left = (header.snapshots > 0).then(|| format!("{} snapshots inside of it are not taken", header.snapshots));
    Ok(Opened { format: Format::Qcow2, content: Box::new(mapped), stored, warnings: left.into_iter().collect() })
}

impl Header {
    fn read(file: &dyn ReadAt) -> Result<Header, Error> {
        let damaged = Error::damaged(Format::Qcow2);
        let bytes = file.read_vec_at(0, file.size().min(512) as usize).map_err(Error::unreadable(Format::Qcow2))?;
        let header = Fields(&bytes);
        let version = header.be32(4);
        if header.slice(0, 4) != b"QFI\xFB" || !(2..=3).contains(&version) {
            return Err(damaged("it is no qcow2 of version 2 or 3"));
        }
        let incompatible = if version == 3 { header.be64(72) } else { 0 };
        refuse(header, incompatible)?;
        let cluster_bits = header.be32(20);
        let l1_entries = u64::from(header.be32(36));
        let found = Header {
            cluster_bits,
            size: header.be64(24),
            l1_at: header.be64(40),
            l1_entries,
            subclusters: incompatible & INCOMPATIBLE_SUBCLUSTERS != 0,
            codec: match incompatible & INCOMPATIBLE_COMPRESSION != 0 && header.u8(104) == 1 {
                true => Codec::Zstd,
                false => Codec::Deflate,
            },
            snapshots: header.be32(60),
        };
        if !(9..=21).contains(&cluster_bits) || l1_entries * 8 > L1_BYTES_MAX {
            return Err(damaged("its sizes are none that qcow2 can have"));
        }
        let covered = (u128::from(l1_entries) * u128::from(found.l2_entries())) << cluster_bits;
        if covered < u128::from(found.size) {
            return Err(damaged("its first table is too short for its size"));
        }
        Ok(found)
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn l2_entry_bytes(&self) -> usize {
        if self.subclusters { 16 } else { 8 }
    }

    fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / self.l2_entry_bytes() as u64
    }

    fn extents(&self, file: &dyn ReadAt) -> Result<Extents, Error> {
        let (damaged, unreadable) = (Error::damaged(Format::Qcow2), Error::unreadable(Format::Qcow2));
        let covered = self.l2_entries() << self.cluster_bits;
        let wanted = self.size.div_ceil(covered).min(self.l1_entries);
        let l1 = file.read_vec_at(self.l1_at, (wanted * 8) as usize).map_err(&unreadable)?;
        let (mut extents, mut seen) = (Extents::default(), HashSet::new());
        for (index, entry) in l1.chunks_exact(8).map(|entry| Fields(entry).be64(0) & OFFSET).enumerate() {
            if entry == 0 {
                continue;
            }
            // Tables that are shared would let a small file name any number of clusters.
            if !entry.is_multiple_of(self.cluster_bytes()) || !seen.insert(entry) {
                return Err(damaged("one of its tables is used twice or not aligned"));
            }
            let l2 = file.read_vec_at(entry, self.cluster_bytes() as usize).map_err(&unreadable)?;
            let first = index as u64 * covered;
            for (entry, start) in
                l2.chunks_exact(self.l2_entry_bytes()).zip((first..).step_by(self.cluster_bytes() as usize))
            {
                let added = if start < self.size {
                    self.add(Fields(entry), start, file.size(), &mut extents)
                } else {
                    Some(())
                };
                added.ok_or_else(|| damaged("a cluster lies outside of the file, or there are too many of them"))?;
            }
        }
        Ok(extents)
    }

    /// Adds the cluster that an entry of a second table names; `None` when it cannot be.
    fn add(&self, entry: Fields<'_>, start: u64, file_bytes: u64, extents: &mut Extents) -> Option<()> {
        let word = entry.be64(0);
        if word & COMPRESSED != 0 {
            return extents.push(Extent { start, len: self.cluster_bytes(), place: self.packed(word, file_bytes)? });
        }
        let at = word & OFFSET;
        if at != 0 && (!at.is_multiple_of(self.cluster_bytes()) || at >= file_bytes) {
            return None;
        }
        if self.subclusters {
            return self.add_subclusters(at, entry.be64(8), start, extents);
        }
        if at == 0 || word & ZERO != 0 {
            return Some(());
        }
        extents.push(Extent { start, len: self.cluster_bytes(), place: Place::Plain { file: 0, at } })
    }

    /// The lower 32 bits of `bitmap` say which parts are stored; the others read as zero.
    fn add_subclusters(&self, at: u64, bitmap: u64, start: u64, extents: &mut Extents) -> Option<()> {
        let len = self.cluster_bytes() / 32;
        for part in (0..32u64).filter(|part| bitmap >> part & 1 == 1) {
            if at == 0 {
                return None;
            }
            let place = Place::Plain { file: 0, at: at + part * len };
            extents.push(Extent { start: start + part * len, len, place })?;
        }
        Some(())
    }

    /// Below bit x = 62 - (cluster bits - 8) the offset, above it the number of further sectors of 512 bytes.
    fn packed(&self, word: u64, file_bytes: u64) -> Option<Place> {
        let x = 62 - (self.cluster_bits - 8);
        let at = word & ((1 << x) - 1);
        let sectors = (word & (COMPRESSED - 1)) >> x;
        let bytes = u32::try_from((sectors + 1) * 512 - at % 512).ok()?;
        (at < file_bytes && u64::from(bytes) <= 2 * self.cluster_bytes() + 512).then_some(Place::Packed {
            at,
            bytes,
            codec: self.codec,
        })
    }
}

/// What an image may have that reaches outside of it, or that nobody could read.
fn refuse(header: Fields<'_>, incompatible: u64) -> Result<(), Error> {
    let refused = |what: &str, way_out| Err(Error::Refused { format: "qcow2", what: what.to_owned(), way_out });
    const FLATTEN: &str = "make it stand alone first: qemu-img convert -O qcow2 IMAGE NEW";
    match () {
        () if header.be64(8) != 0 => refused("it needs a backing file, which is never followed", FLATTEN),
        () if incompatible & INCOMPATIBLE_DATA_FILE != 0 => {
            refused("its data lies in another file, which is never followed", FLATTEN)
        }
        () if header.be32(32) != 0 => {
            refused("it is encrypted", "decrypt it first: qemu-img convert with --object secret")
        }
        () if incompatible & INCOMPATIBLE_CORRUPT != 0 => {
            refused("it is marked as corrupt", "repair it first: qemu-img check -r all IMAGE")
        }
        () if incompatible & !INCOMPATIBLE_KNOWN != 0 => refused("it has features that are not known here", FLATTEN),
        () => Ok(()),
    }
}
