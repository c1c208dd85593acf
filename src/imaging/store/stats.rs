//! What lies in a store, and how much of it is shared.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::access::signing::PublicKey;
use crate::imaging::chunk::ChunkId;
use crate::imaging::error::Error;
use crate::imaging::store::local::LocalStore;

#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Stats {
    pub packs: u64,
    pub chunks: u64,
    /// Bytes of sealed chunks.
    pub stored_bytes: u64,
    /// Of them, those that no version needs.
    pub garbage_bytes: u64,
    /// Content of all versions together, as they would lie without the store.
    pub image_bytes: u64,
    pub images: Vec<ImageStats>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ImageStats {
    /// `NAME@7`.
    pub version: String,
    pub content_bytes: u64,
    /// Sealed bytes that only this version needs: what removing it frees.
    pub unique_bytes: u64,
    /// Sealed bytes that other versions need too.
    pub shared_bytes: u64,
}

impl Stats {
    /// Bytes of images for each byte stored.
    pub fn ratio(&self) -> f64 {
        self.image_bytes as f64 / self.stored_bytes.max(1) as f64
    }
}

pub fn stats(store: &LocalStore, key: &PublicKey) -> Result<Stats, Error> {
    let mut stats = Stats::default();
    let mut sizes: HashMap<ChunkId, u64> = HashMap::new();
    for pack in store.packs()? {
        let Ok(entries) = store.pack_entries(pack) else { continue };
        stats.packs += 1;
        for entry in entries {
            stats.stored_bytes += u64::from(entry.stored_bytes);
            sizes.insert(entry.id, entry.stored_bytes.into());
        }
    }
    stats.chunks = sizes.len() as u64;
    let mut versions = Vec::new();
    let mut users: HashMap<ChunkId, u32> = HashMap::new();
    for name in store.images()? {
        for version in store.versions(&name)? {
            let manifest = store.manifest(&version)?.verify(key)?;
            let chunks: HashSet<ChunkId> = manifest.extents.iter().map(|extent| extent.chunk).collect();
            chunks.iter().for_each(|chunk| *users.entry(*chunk).or_default() += 1);
            stats.image_bytes += manifest.content_bytes();
            versions.push((version.to_string(), manifest.content_bytes(), chunks));
        }
    }
    let needed: u64 = users.keys().filter_map(|chunk| sizes.get(chunk)).sum();
    stats.garbage_bytes = stats.stored_bytes.saturating_sub(needed);
    for (version, content_bytes, chunks) in versions {
        let (mut unique_bytes, mut shared_bytes) = (0, 0);
        for chunk in chunks {
            let bytes = sizes.get(&chunk).copied().unwrap_or(0);
            let share = if users.get(&chunk) == Some(&1) { &mut unique_bytes } else { &mut shared_bytes };
            *share += bytes;
        }
        stats.images.push(ImageStats { version, content_bytes, unique_bytes, shared_bytes });
    }
    Ok(stats)
}
