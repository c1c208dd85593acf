//! Writes a qcow2 of version 3 in one pass: header, first table, then data clusters as they come with their second
//! tables, and the reference counts at the end. Clusters of zeros are not stored.

use crate::stdx::io::{FileAt, ReadAt};
use crate::stdx::sparse::data_ranges;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of 8 bytes in a second table, and of 2 bytes in a block of reference counts.
const L2_ENTRIES: u64 = CLUSTER / 8;
const REFCOUNTS: u64 = CLUSTER / 2;
/// Reference count one: the entry alone names the cluster.
const COPIED: u64 = 1 << 63;
const HEADER_BYTES: u32 = 112;

/// Writes the disk `source` to a file that is empty, of which only `ranges` (sorted) hold anything; returns the file's
/// size. `write` gets the bytes and their offset.
pub fn write(
    source: &dyn ReadAt,
    ranges: &[Range<u64>],
    mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<u64> {
    let size = source.size();
    let l1_entries = size.div_ceil(CLUSTER * L2_ENTRIES).max(1);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
    let mut next = 1 + l1_clusters;
    let mut l1 = Vec::with_capacity((l1_entries * 8) as usize);
    for table in 0..l1_entries {
        let l2 = write_clusters(source, ranges, table * L2_ENTRIES, &mut next, &mut write)?;
        let entry = match l2 {
            None => 0,
            Some(l2) => {
                write(&l2, next * CLUSTER)?;
                next += 1;
                ((next - 1) * CLUSTER) | COPIED
            }
        };
        l1.extend(u64::to_be_bytes(entry));
    }
    write(&l1, CLUSTER)?;
    let (table, table_clusters, end) = write_refcounts(next, &mut write)?;
    write(&header(size, l1_entries as u32, table * CLUSTER, table_clusters as u32), 0)?;
    Ok(end * CLUSTER)
}

/// Writes the raw disk in the file `raw` to the new file `target`, and syncs it.
pub fn write_file(raw: &Path, target: &Path) -> io::Result<()> {
    let source = FileAt::new(File::open(raw)?)?;
    let ranges = data_ranges(source.file(), source.size())?;
    let file = File::create_new(target)?;
    write(&source, &ranges, |bytes, at| file.write_all_at(bytes, at))?;
    file.sync_all()
}

/// Writes the clusters of one second table from cluster `first` on; returns the table, or nothing when it is empty.
fn write_clusters(
    source: &dyn ReadAt,
    ranges: &[Range<u64>],
    first: u64,
    next: &mut u64,
    write: &mut impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<Option<Vec<u8>>> {
    let mut l2 = vec![0; CLUSTER as usize];
    let mut cluster = vec![0; CLUSTER as usize];
    let mut used = false;
    let mut range = ranges.partition_point(|range| range.end <= first * CLUSTER);
    for index in 0..L2_ENTRIES {
        let start = (first + index) * CLUSTER;
        let end = (start + CLUSTER).min(source.size());
        while ranges.get(range).is_some_and(|range| range.end <= start) {
            range += 1;
        }
        if start >= end || ranges.get(range).is_none_or(|range| range.start >= end) {
            continue;
        }
        cluster.fill(0);
        source.read_exact_at(&mut cluster[..(end - start) as usize], start)?;
        if cluster.iter().all(|byte| *byte == 0) {
            continue;
        }
        write(&cluster, *next * CLUSTER)?;
        let place = index as usize * 8;
        l2[place..place + 8].copy_from_slice(&((*next * CLUSTER) | COPIED).to_be_bytes());
        *next += 1;
        used = true;
    }
    Ok(used.then_some(l2))
}

/// Counts one reference for each of the clusters so far and for the counts' own; returns the table's cluster, its length in
/// clusters and the end of the file, in clusters.
fn write_refcounts(clusters: u64, write: &mut impl FnMut(&[u8], u64) -> io::Result<()>) -> io::Result<(u64, u64, u64)> {
    let (mut blocks, mut table_clusters) = (0u64, 1u64);
    loop {
        let end = clusters + blocks + table_clusters;
        let (needed, needed_table) = (end.div_ceil(REFCOUNTS), (blocks * 8).div_ceil(CLUSTER).max(1));
        if (needed, needed_table) == (blocks, table_clusters) {
            break;
        }
        (blocks, table_clusters) = (needed, needed_table);
    }
    let end = clusters + blocks + table_clusters;
    for block in 0..blocks {
        let counted = (end - block * REFCOUNTS).min(REFCOUNTS) as usize;
        let mut counts = vec![0; CLUSTER as usize];
        counts[..counted * 2].as_chunks_mut::<2>().0.fill([0, 1]);
        write(&counts, (clusters + block) * CLUSTER)?;
    }
    let mut table = vec![0; (table_clusters * CLUSTER) as usize];
    for (entry, block) in table.chunks_exact_mut(8).zip(0..blocks) {
        entry.copy_from_slice(&((clusters + block) * CLUSTER).to_be_bytes());
    }
    write(&table, (clusters + blocks) * CLUSTER)?;
    Ok((clusters + blocks, table_clusters, end))
}

fn header(size: u64, l1_entries: u32, refcount_table_at: u64, refcount_table_clusters: u32) -> Vec<u8> {
    let mut bytes = vec![0; CLUSTER as usize];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, b"QFI\xFB");
    put(4, &3u32.to_be_bytes());
    put(20, &CLUSTER_BITS.to_be_bytes());
    put(24, &size.to_be_bytes());
    put(36, &l1_entries.to_be_bytes());
    put(40, &CLUSTER.to_be_bytes());
    put(48, &refcount_table_at.to_be_bytes());
    put(56, &refcount_table_clusters.to_be_bytes());
    // Counts of 2^4 bits.
    put(96, &4u32.to_be_bytes());
    put(100, &HEADER_BYTES.to_be_bytes());
    bytes
}
