//! What changed from one version to another.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::imaging::chunk::ChunkId;
use crate::imaging::manifest::{Extent, Manifest, Partition};

/// Bytes of content. What is moved lies elsewhere in the old version.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Diff {
    pub same_bytes: u64,
    pub moved_bytes: u64,
    pub new_bytes: u64,
    /// In the old version and nowhere in the new one.
    pub gone_bytes: u64,
    pub partitions: Vec<PartitionDiff>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct PartitionDiff {
    pub number: u32,
    pub filesystem: String,
    pub same_bytes: u64,
    pub moved_bytes: u64,
    pub new_bytes: u64,
}

enum Change {
    Same,
    Moved,
    New,
}

pub fn diff(old: &Manifest, new: &Manifest) -> Diff {
    let at: HashMap<u64, ChunkId> = old.extents.iter().map(|extent| (extent.offset, extent.chunk)).collect();
    let before: HashSet<ChunkId> = old.extents.iter().map(|extent| extent.chunk).collect();
    let after: HashSet<ChunkId> = new.extents.iter().map(|extent| extent.chunk).collect();
    let change = |extent: &Extent| match () {
        () if at.get(&extent.offset) == Some(&extent.chunk) => Change::Same,
        () if before.contains(&extent.chunk) => Change::Moved,
        () => Change::New,
    };
    let mut diff = Diff { partitions: new.header.partitions.iter().map(row).collect(), ..Diff::default() };
    for extent in &new.extents {
        let bytes = u64::from(extent.len);
        let inside = |partition: &Partition| {
            partition.start <= extent.offset && extent.offset - partition.start < partition.size
        };
        let row = new.header.partitions.iter().position(inside);
        let row = row.and_then(|row| diff.partitions.get_mut(row));
        let mut ignored = PartitionDiff::default();
        let row = row.unwrap_or(&mut ignored);
        match change(extent) {
            Change::Same => (diff.same_bytes += bytes, row.same_bytes += bytes),
            Change::Moved => (diff.moved_bytes += bytes, row.moved_bytes += bytes),
            Change::New => (diff.new_bytes += bytes, row.new_bytes += bytes),
        };
    }
    let gone = old.extents.iter().filter(|extent| !after.contains(&extent.chunk));
    diff.gone_bytes = gone.map(|extent| u64::from(extent.len)).sum();
    diff
}

fn row(partition: &Partition) -> PartitionDiff {
    PartitionDiff { number: partition.number, filesystem: partition.filesystem.clone(), ..PartitionDiff::default() }
}
