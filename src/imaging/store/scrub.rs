//! Looking for damage, saying what it touches, mending what another copy allows.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use crate::access::signing::PublicKey;
use crate::imaging::chunk::{CHUNK_BYTES_MAX, ChunkId, Verified};
use crate::imaging::error::Error;
use crate::imaging::manifest::Manifest;
use crate::imaging::store::format::{Entry, PackId};
use crate::imaging::store::gc::remove_pack;
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::salvage::{salvage, wanted};
use crate::imaging::store::upload::PackWriter;
use crate::imaging::store::verify::{check, places, slice_of};
use crate::imaging::store::{ChunkSource, Location};
use crate::stdx::hint::chain;
use crate::stdx::monitor::Progress;

/// What a scrub found and did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Report {
    pub packs: u64,
    pub sound_chunks: u64,
    /// Taken from another pack or another store.
    pub repaired_chunks: u64,
    /// Packs whose index was damaged, which are removed: what of them is still there is in new packs.
    pub removed_packs: Vec<String>,
    /// Chunks that were found in those packs, told by what they are.
    pub recovered_chunks: u64,
    pub lost: Vec<Lost>,
}

/// Something that no copy could replace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Lost {
    /// A chunk or a manifest.
    pub what: String,
    pub reason: String,
    /// Versions that cannot be deployed without it.
    pub images: Vec<String>,
}

/// Reads everything in the store. What is damaged, and what versions need and no pack has, is taken from another pack, or from
/// `other`; what is lost is removed from its pack, so that importing the image again brings it back.
pub fn scrub(
    store: &LocalStore,
    key: &PublicKey,
    other: Option<&dyn ChunkSource>,
    progress: &Progress,
) -> Result<Report, Error> {
    let lock = store.lock_file()?;
    lock.try_lock().map_err(|_| Error::Busy("the store".to_owned()))?;
    let mut report = Report::default();
    let mut packs: HashMap<PackId, Vec<Entry>> = HashMap::new();
    let mut without_index = Vec::new();
    for pack in store.packs()? {
        report.packs += 1;
        match store.pack_entries(pack) {
            Ok(entries) => drop(packs.insert(pack, entries)),
            Err(Error::DamagedPack { damage, .. }) => {
                report.removed_packs.push(format!("{pack}: {damage}"));
                without_index.push(pack);
            }
            Err(error) => return Err(error),
        }
    }
    for pack in recover(store, key, &without_index, &mut report)? {
        packs.insert(pack, store.pack_entries(pack)?);
    }
    let all = packs.iter().flat_map(|(pack, entries)| places(*pack, entries)).collect();
    let mut bad: HashMap<PackId, HashMap<ChunkId, String>> = HashMap::new();
    for error in check(store, all, progress) {
        match &error {
            Error::DamagedChunk { chunk, pack, damage, .. } => {
                bad.entry(*pack).or_default().insert(*chunk, damage.to_string());
            }
            // Its copy here is cut short, and its index is known.
            Error::PackRange { pack, .. } if store.far.is_some() => drop(bad.entry(*pack).or_default()),
            _ => return Err(error),
        }
    }
    for pack in bad.keys().copied().collect::<Vec<_>>() {
        if store.bring_again(pack)? {
            report.repaired_chunks += bad.remove(&pack).map_or(0, |damaged| damaged.len() as u64);
        }
    }
    let chunks: usize = packs.values().map(Vec::len).sum();
    report.sound_chunks = (chunks - bad.values().map(HashMap::len).sum::<usize>()) as u64;
    let lost = mend(store, &packs, &bad, other, &mut report)?;
    let mut missing = missing(store, key, &mut report)?;
    if let Some(other) = other {
        bring_back(store, other, &mut missing, &mut report)?;
    }
    for chunk in lost.keys() {
        missing.entry(*chunk).or_default();
    }
    report.lost.extend(missing.into_iter().map(|(chunk, images)| Lost {
        what: format!("chunk {chunk}"),
        reason: lost.get(&chunk).cloned().unwrap_or_else(|| "it is in no pack".to_owned()),
        images,
    }));
    Ok(report)
}

/// Puts what is still there of packs whose index is damaged into new ones, which are returned, and removes them.
fn recover(
    store: &LocalStore,
    key: &PublicKey,
    without_index: &[PackId],
    report: &mut Report,
) -> Result<Vec<PackId>, Error> {
    if without_index.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = wanted(store, key)?;
    let (mut writer, mut kept) = (PackWriter::new(store), HashSet::new());
    for pack in without_index {
        let Some(bytes) = store.whole_pack(*pack)? else { continue };
        for entry in salvage(&bytes, &wanted) {
            if kept.insert(entry.id) {
                writer.append(entry.sealed(slice_of(&bytes, 0, &entry)))?;
            }
        }
    }
    report.recovered_chunks = kept.len() as u64;
    let written = writer.finish()?;
    // What is far away under this name is damaged, and would not be replaced.
    without_index.iter().try_for_each(|pack| store.remove_far(*pack))?;
    store.secure(&written.iter().copied().collect())?;
    // A pack is named by its index: one of which all was there has replaced the damaged one already.
    for pack in without_index.iter().filter(|pack| !written.contains(pack)) {
        remove_pack(store, *pack)?;
    }
    store.forget();
    Ok(written)
}

/// Writes the packs in `bad` anew without what is damaged, replaced where a copy is found; the chunks that are lost.
fn mend(
    store: &LocalStore,
    packs: &HashMap<PackId, Vec<Entry>>,
    bad: &HashMap<PackId, HashMap<ChunkId, String>>,
    other: Option<&dyn ChunkSource>,
    report: &mut Report,
) -> Result<HashMap<ChunkId, String>, Error> {
    let copies = copies(packs, bad);
    let mut writer = PackWriter::new(store);
    let mut lost = HashMap::new();
    for (pack, damaged) in bad {
        for entry in packs.get(pack).into_iter().flatten() {
            let Some(reason) = damaged.get(&entry.id) else {
                let bytes = store.read_range(*pack, entry.offset.into(), entry.stored_bytes as usize)?;
                writer.append(entry.sealed(&bytes))?;
                continue;
            };
            let sound = copies.get(&entry.id).map(|place| (store as &dyn ChunkSource, *place));
            let far = || other.and_then(|other| Some((other, other.locate(&[entry.id]).ok()?.pop()??)));
            match sound.or_else(far).and_then(|(source, place)| fetch(source, place)) {
                Some((entry, bytes)) => {
                    writer.append(entry.sealed(&bytes))?;
                    report.repaired_chunks += 1;
                }
                None => drop(lost.insert(entry.id, format!("in pack {pack}: {reason}"))),
            }
        }
    }
    // A pack is named by its index: one that was repaired in full has replaced the damaged one already.
    let written = writer.finish()?;
    store.secure(&written.iter().copied().collect())?;
    for pack in bad.keys().filter(|pack| !written.contains(pack)) {
        remove_pack(store, *pack)?;
    }
    store.forget();
    Ok(lost)
}

/// Sound copies of damaged chunks in other packs.
fn copies(
    packs: &HashMap<PackId, Vec<Entry>>,
    bad: &HashMap<PackId, HashMap<ChunkId, String>>,
) -> HashMap<ChunkId, Location> {
    let damaged: HashSet<&ChunkId> = bad.values().flat_map(HashMap::keys).collect();
    let all = packs.iter().flat_map(|(pack, entries)| places(*pack, entries));
    let is_sound = |place: &Location| !bad.get(&place.pack).is_some_and(|bad| bad.contains_key(&place.entry.id));
    all.filter(|place| damaged.contains(&place.entry.id) && is_sound(place))
        .map(|place| (place.entry.id, place))
        .collect()
}

/// A chunk from elsewhere, if it is what its name says.
fn fetch(source: &dyn ChunkSource, place: Location) -> Option<(Entry, Vec<u8>)> {
    let bytes = source.read_range(place.pack, place.entry.offset.into(), place.entry.stored_bytes as usize).ok()?;
    let mut verified = Verified::with_capacity(CHUNK_BYTES_MAX).ok()?;
    verified.begin(0);
    verified.open(place.entry.sealed(&bytes)).ok()?;
    Some((place.entry, bytes))
}

/// The chunks that versions need and no pack has, with those versions. Manifests that are damaged themselves are reported.
fn missing(store: &LocalStore, key: &PublicKey, report: &mut Report) -> Result<BTreeMap<ChunkId, Vec<String>>, Error> {
    let mut missing: BTreeMap<ChunkId, Vec<String>> = BTreeMap::new();
    for name in store.images()? {
        for version in store.versions(&name)? {
            let manifest: Result<Manifest, Error> = store.manifest(&version).and_then(|signed| Ok(signed.verify(key)?));
            let manifest = match manifest {
                Ok(manifest) => manifest,
                Err(error) => {
                    let what = format!("manifest of {version}");
                    report.lost.push(Lost { what, reason: chain(&error), images: vec![version.to_string()] });
                    continue;
                }
            };
            let mut chunks: Vec<ChunkId> = manifest.extents.iter().map(|extent| extent.chunk).collect();
            chunks.sort_unstable();
            chunks.dedup();
            for (chunk, _) in chunks.iter().zip(store.locate(&chunks)?).filter(|(_, place)| place.is_none()) {
                missing.entry(*chunk).or_default().push(version.to_string());
            }
        }
    }
    Ok(missing)
}

/// Stores what `other` has of `missing`, and strikes it off.
fn bring_back(
    store: &LocalStore,
    other: &dyn ChunkSource,
    missing: &mut BTreeMap<ChunkId, Vec<String>>,
    report: &mut Report,
) -> Result<(), Error> {
    let chunks: Vec<ChunkId> = missing.keys().copied().collect();
    if chunks.is_empty() {
        return Ok(());
    }
    let mut writer = PackWriter::new(store);
    for place in other.locate(&chunks)?.into_iter().flatten() {
        if let Some((entry, bytes)) = fetch(other, place) {
            writer.append(entry.sealed(&bytes))?;
            missing.remove(&entry.id);
            report.repaired_chunks += 1;
        }
    }
    writer.finish()?;
    Ok(())
}
