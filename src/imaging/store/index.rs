//! Chunk -> place, in memory, filled from the packs' own indexes.

use std::collections::{HashMap, HashSet};

use crate::imaging::chunk::ChunkId;
use crate::imaging::store::Location;
use crate::imaging::store::format::{Entry, PackId};

/// Some 100 bytes for each chunk: 1 TB of content takes 1.2 GB.
#[derive(Default)]
pub struct Index {
    /// Each with its chunks in the order in which they lie.
    packs: Vec<(PackId, Vec<Entry>)>,
    known: HashSet<PackId>,
    /// Place in `packs`, and among that pack's entries.
    chunks: HashMap<ChunkId, (u32, u32)>,
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
        let pack_number = self.packs.len() as u32;
        for (number, entry) in (0..).zip(entries) {
            self.chunks.entry(entry.id).or_insert((pack_number, number));
        }
        self.packs.push((pack, entries.to_vec()));
    }

    pub fn find(&self, id: &ChunkId) -> Option<Location> {
        let (pack, number) = self.chunks.get(id)?;
        let (pack, entries) = &self.packs[*pack as usize];
        Some(Location { pack: *pack, entry: entries[*number as usize] })
    }

    pub fn contains(&self, id: &ChunkId) -> bool {
        self.chunks.contains_key(id)
    }

    /// The chunk that lies behind `id` in its pack: what followed it when it was stored.
    pub fn behind(&self, id: &ChunkId) -> Option<Entry> {
        let (pack, number) = self.chunks.get(id)?;
        self.packs[*pack as usize].1.get(*number as usize + 1).copied()
    }
}
