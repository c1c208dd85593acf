//! Chunk -> place, in memory, filled from the packs' own indexes.

use std::collections::{HashMap, HashSet};

use crate::imaging::chunk::ChunkId;
use crate::imaging::store::Location;
use crate::imaging::store::format::{Entry, PackId};

/// Some 80 bytes for each chunk: 1 TB of content takes 1 GB.
#[derive(Default)]
pub struct Index {
    packs: Vec<PackId>,
    known: HashSet<PackId>,
    /// The number is the pack's place in `packs`.
    chunks: HashMap<ChunkId, (u32, Entry)>,
}

impl Index {
    pub fn knows(&self, pack: PackId) -> bool {
        self.known.contains(&pack)
    }

    /// Whether `packs` (sorted) names every pack that is known here.
    pub fn are_all_among(&self, packs: &[PackId]) -> bool {
        self.known.iter().all(|pack| packs.binary_search(pack).is_ok())
    }

    /// Adds a pack. A chunk that another pack holds already stays where it was found first.
    pub fn add(&mut self, pack: PackId, entries: &[Entry]) {
        if !self.known.insert(pack) {
            return;
        }
        let number = self.packs.len() as u32;
        self.packs.push(pack);
        for entry in entries {
            self.chunks.entry(entry.id).or_insert((number, *entry));
        }
    }

    pub fn find(&self, id: &ChunkId) -> Option<Location> {
        let (pack, entry) = self.chunks.get(id)?;
        Some(Location { pack: self.packs[*pack as usize], entry: *entry })
    }

    pub fn contains(&self, id: &ChunkId) -> bool {
        self.chunks.contains_key(id)
    }
}
