//! A store whose packs and manifests lie far away, with copies here of what is in use.
//!
//! | here, in the site's folder | far away |
//! |---|---|
//! | tags, lock, what is being written | |
//! | `versions/NAME/7`: every manifest | `versions/NAME/7` |
//! | `packs/`: those in use, up to a limit | `packs/ID`: all |
//! | `far/ID`: index and footer of each pack that is far away | |
//!
//! `far/ID` is written after the pack is safe far away, so a pack with it may go from here at any time, and one without it
//! never goes. A version is published here after all its packs and then its manifest are far away. What comes back is checked
//! chunk by chunk before it gets its name here.

use std::collections::{HashSet, VecDeque};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde::Serialize;

use crate::access::signing::PublicKey;
use crate::imaging::chunk::{CHUNK_BYTES_MAX, Verified};
use crate::imaging::error::Error;
use crate::imaging::manifest::{MANIFEST_BYTES_MAX, Signed};
use crate::imaging::store::files::{Existing, write_whole};
use crate::imaging::store::format::{
    ENTRY_BYTES, Entry, FOOTER_BYTES, Footer, PACK_BYTES_MAX, PackDamage, PackId, parse_index, parse_tail,
};
use crate::imaging::store::local::{LocalStore, names};
use crate::imaging::store::objects::Objects;
use crate::imaging::store::versions::{GONE, Version, check_name};

/// Packs that are sent at a time: one waits for the server's disk while another is on the wire.
const SENDERS: usize = 3;
/// What is asked for of a pack to learn its index: more than most need, so that one request does.
const TAIL_BYTES_USUAL: u64 = 256 << 10;

/// Where a store keeps its packs, and how much of them it has at hand.
pub struct Far {
    objects: Arc<dyn Objects>,
    near_bytes_max: u64,
    /// Packs that are here as well, by last use, latest last.
    used: Mutex<VecDeque<PackId>>,
    fetching: Mutex<HashSet<PackId>>,
    fetched: Condvar,
}

impl Far {
    /// At most some `near_bytes_max` of packs stay in the store's folder.
    pub fn new(objects: Arc<dyn Objects>, near_bytes_max: u64) -> Far {
        Far { objects, near_bytes_max, used: Mutex::default(), fetching: Mutex::default(), fetched: Condvar::new() }
    }

    pub(super) fn touch(&self, pack: PackId) {
        let mut used = guard(&self.used);
        used.retain(|other| *other != pack);
        used.push_back(pack);
    }
}

/// What a comparison of both places moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Synced {
    pub sent_packs: u64,
    pub found_packs: u64,
    pub sent_versions: u64,
    pub found_versions: u64,
}

impl LocalStore {
    /// The same store with its packs far away.
    pub fn with_far(mut self, far: Far) -> LocalStore {
        self.far = Some(far);
        self
    }

    /// The packs that are known to be far away.
    pub(super) fn far_packs(&self) -> Result<Vec<PackId>, Error> {
        Ok(names(&self.root.join("far"))?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The index of a pack that is far away. Where its copy here is damaged, it is learnt anew.
    pub(super) fn far_entries(&self, pack: PackId) -> Result<Option<Vec<Entry>>, Error> {
        let read = || {
            let tail = self.far_tail(pack)?;
            let parse = |(footer, index): (Footer, Vec<u8>)| parse_index(&index, footer, pack);
            tail.map(parse).transpose().map_err(|damage| Error::DamagedPack { pack, damage })
        };
        match (read(), &self.far) {
            (Err(Error::DamagedPack { .. }), Some(far)) => self.learn_far(far, pack).and_then(|()| read()),
            (other, _) => other,
        }
    }

    /// Bytes of a pack, wherever it lies.
    pub(super) fn pack_bytes(&self, pack: PackId) -> Result<u64, Error> {
        match fs::metadata(self.pack_path(pack)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (footer, index) = self.far_tail(pack)?.ok_or(Error::MissingPack { pack })?;
                Ok(footer.index_offset + (index.len() + FOOTER_BYTES) as u64)
            }
            other => Ok(other.map_err(Error::read(format!("pack {pack}")))?.len()),
        }
    }

    fn far_path(&self, pack: PackId) -> PathBuf {
        self.root.join("far").join(pack.to_string())
    }

    fn far_tail(&self, pack: PackId) -> Result<Option<(Footer, Vec<u8>)>, Error> {
        let path = self.far_path(pack);
        let mut tail = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::read(path.display()))?,
        };
        let footer = footer_of(&tail).ok_or(Error::DamagedPack { pack, damage: PackDamage::Footer })?;
        tail.truncate(tail.len() - FOOTER_BYTES);
        Ok(Some((footer, tail)))
    }

    /// Brings a pack here, if it is far away; says whether it is here now. Whoever else wants it waits for the same copy.
    pub(super) fn bring(&self, pack: PackId) -> Result<bool, Error> {
        let Some(far) = self.far.as_ref().filter(|_| self.far_path(pack).exists()) else { return Ok(false) };
        let mut fetching = guard(&far.fetching);
        while !fetching.insert(pack) {
            fetching = far.fetched.wait(fetching).unwrap_or_else(PoisonError::into_inner);
        }
        drop(fetching);
        let brought = if self.pack_path(pack).exists() { Ok(true) } else { self.fetch(far, pack) };
        guard(&far.fetching).remove(&pack);
        far.fetched.notify_all();
        brought
    }

    fn fetch(&self, far: &Far, pack: PackId) -> Result<bool, Error> {
        let check = |bytes: &[u8]| is_sound(pack, bytes);
        let Some(bytes) = far.objects.get(&far_name(pack), PACK_BYTES_MAX, &check)? else { return Ok(false) };
        let path = self.pack_path(pack);
        write_whole(&*self.files, self.temporary()?, &path, &bytes, Existing::Replace)
            .map_err(Error::write(path.display()))?;
        far.touch(pack);
        self.make_room(far, pack)?;
        Ok(true)
    }

    /// All bytes of a pack as they lie, here or else far away, sound or not.
    pub(super) fn whole_pack(&self, pack: PackId) -> Result<Option<Vec<u8>>, Error> {
        let path = self.pack_path(pack);
        match (fs::read(&path), &self.far) {
            (Err(error), Some(far)) if error.kind() == io::ErrorKind::NotFound => {
                far.objects.get(&far_name(pack), PACK_BYTES_MAX, &|_| Ok(()))
            }
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            (read, _) => read.map(Some).map_err(Error::read(path.display())),
        }
    }

    /// Replaces a damaged copy here by the one far away; says whether there was a sound one.
    pub(super) fn bring_again(&self, pack: PackId) -> Result<bool, Error> {
        let Some(far) = self.far.as_ref().filter(|_| self.far_path(pack).exists()) else { return Ok(false) };
        match self.fetch(far, pack) {
            Err(Error::Refused { .. }) => Ok(false),
            other => other,
        }
    }

    /// Removes packs from here that are far away and were not used for longest, but never `kept`.
    fn make_room(&self, far: &Far, kept: PackId) -> Result<(), Error> {
        let near: Vec<PackId> = self.near_packs()?;
        let mut bytes = near.iter().map(|pack| self.pack_bytes(*pack)).sum::<Result<u64, Error>>()?;
        let used: Vec<PackId> = guard(&far.used).iter().copied().collect();
        let never_used = near.iter().filter(|pack| !used.contains(pack));
        for pack in never_used.chain(&used).filter(|pack| **pack != kept && near.contains(pack)) {
            if bytes <= far.near_bytes_max {
                break;
            }
            if self.far_path(*pack).exists() {
                bytes = bytes.saturating_sub(self.pack_bytes(*pack)?);
                let path = self.pack_path(*pack);
                self.close_file(*pack);
                self.files.remove(&path).map_err(Error::write(path.display()))?;
                guard(&far.used).retain(|other| other != pack);
            }
        }
        Ok(())
    }

    /// Makes sure that `packs` are far away, if that is where this store keeps them.
    pub(super) fn secure(&self, packs: &HashSet<PackId>) -> Result<u64, Error> {
        let Some(far) = &self.far else { return Ok(0) };
        let wanted: Vec<PackId> = packs.iter().copied().filter(|pack| !self.far_path(*pack).exists()).collect();
        let next = Mutex::new(wanted.iter());
        let send = || {
            while let Some(pack) = { guard(&next).next() } {
                self.send(far, *pack)?;
            }
            Ok::<(), Error>(())
        };
        thread::scope(|scope| {
            let senders: Vec<_> = (0..SENDERS.min(wanted.len())).map(|_| scope.spawn(send)).collect();
            senders.into_iter().try_for_each(|sender| sender.join().expect("sending does not panic"))
        })?;
        if let Some(last) = wanted.last() {
            self.make_room(far, *last)?;
        }
        Ok(wanted.len() as u64)
    }

    fn send(&self, far: &Far, pack: PackId) -> Result<(), Error> {
        let path = self.pack_path(pack);
        let bytes = fs::read(&path).map_err(Error::read(path.display()))?;
        // What is damaged here must not replace what is sound there.
        parse_tail(&bytes, pack).map_err(|damage| Error::DamagedPack { pack, damage })?;
        let tail = tail_of(&bytes).unwrap_or_default().to_vec();
        far.objects.put(&far_name(pack), bytes, Existing::Replace)?;
        far.touch(pack);
        self.mark(pack, &tail)
    }

    fn mark(&self, pack: PackId, tail: &[u8]) -> Result<(), Error> {
        let path = self.far_path(pack);
        write_whole(&*self.files, self.temporary()?, &path, tail, Existing::Replace)
            .map_err(Error::write(path.display()))
    }

    /// Removes a pack far away, and with it the knowledge that it is there.
    pub(super) fn remove_far(&self, pack: PackId) -> Result<(), Error> {
        let Some(far) = &self.far else { return Ok(()) };
        far.objects.remove(&far_name(pack))?;
        let path = self.far_path(pack);
        match self.files.remove(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::write(path.display())),
        }
    }

    /// Puts a manifest far away; `false` when that number was given already, by another appliance of the same bucket.
    pub(super) fn publish_far(&self, version: &Version, manifest: &Signed) -> Result<bool, Error> {
        let Some(far) = &self.far else { return Ok(true) };
        far.objects.put(&version_name(version), manifest.as_bytes().to_vec(), Existing::Keep)
    }

    pub(super) fn remove_version_far(&self, version: &Version) -> Result<(), Error> {
        self.far.as_ref().map_or(Ok(()), |far| far.objects.remove(&version_name(version)))
    }

    /// Compares both places: packs and versions that are only here are sent, those that are only there become known here.
    /// With it a site whose folder was lost has its images again, and another appliance's images are found.
    pub fn sync(&self, key: &PublicKey) -> Result<Synced, Error> {
        let Some(far) = &self.far else { return Ok(Synced::default()) };
        let _lock = self.lock_shared()?;
        let mut synced = Synced::default();
        let there: HashSet<PackId> = far.objects.list("packs/")?.iter().filter_map(|name| pack_of(name)).collect();
        for pack in self.far_packs()?.into_iter().filter(|pack| !there.contains(pack)) {
            // It was removed by somebody else, or lost.
            let path = self.far_path(pack);
            self.files.remove(&path).map_err(Error::write(path.display()))?;
        }
        for pack in &there {
            if !self.far_path(*pack).exists() {
                self.learn_far(far, *pack)?;
                synced.found_packs += 1;
            }
        }
        let here: HashSet<PackId> = self.near_packs()?.into_iter().collect();
        synced.sent_packs = self.secure(&here)?;
        self.sync_versions(far, key, &mut synced)?;
        self.refresh()?;
        Ok(synced)
    }

    /// Reads the index of a pack that somebody else has put there.
    fn learn_far(&self, far: &Far, pack: PackId) -> Result<(), Error> {
        let end = |len| {
            let tail = far.objects.get_end(&far_name(pack), len)?;
            tail.ok_or(Error::MissingPack { pack })
        };
        let damaged = |damage| Error::DamagedPack { pack, damage };
        let mut bytes = end(TAIL_BYTES_USUAL)?;
        let footer = footer_of(&bytes).ok_or(damaged(PackDamage::Footer))?;
        let len = footer.index_bytes() + FOOTER_BYTES;
        if len > bytes.len() {
            bytes = end(len as u64)?;
        }
        let tail = bytes.len().checked_sub(len).map(|at| &bytes[at..]).ok_or(damaged(PackDamage::Footer))?;
        parse_index(&tail[..footer.index_bytes()], footer, pack).map_err(damaged)?;
        self.mark(pack, tail)
    }

    fn sync_versions(&self, far: &Far, key: &PublicKey, synced: &mut Synced) -> Result<(), Error> {
        let there = far.objects.list("versions/")?;
        for version in there.iter().filter_map(|name| version_of(name)) {
            let path = self.version_path(&version);
            if path.exists() || path.with_extension(GONE).exists() {
                continue;
            }
            let check = |bytes: &[u8]| {
                let signed = Signed::from_bytes(bytes.to_vec()).and_then(|signed| signed.verify(key));
                signed.map(drop).map_err(|fault| format!("cannot be relied on: {fault}"))
            };
            let Some(bytes) = far.objects.get(&version_name(&version), MANIFEST_BYTES_MAX as u64, &check)? else {
                continue;
            };
            write_whole(&*self.files, self.temporary()?, &path, &bytes, Existing::Replace)
                .map_err(Error::write(path.display()))?;
            synced.found_versions += 1;
        }
        let there: HashSet<String> = there.into_iter().collect();
        for name in self.images()? {
            for version in self.versions(&name)?.iter().filter(|version| !there.contains(&version_name(version))) {
                synced.sent_versions += u64::from(self.publish_far(version, &self.manifest(version)?)?);
            }
        }
        Ok(())
    }
}

fn far_name(pack: PackId) -> String {
    format!("packs/{pack}")
}

fn pack_of(name: &str) -> Option<PackId> {
    name.strip_prefix("packs/")?.parse().ok()
}

fn version_name(version: &Version) -> String {
    format!("versions/{}/{}", version.name, version.number)
}

fn version_of(name: &str) -> Option<Version> {
    let (name, number) = name.strip_prefix("versions/")?.split_once('/')?;
    check_name(name).ok()?;
    Some(Version { name: name.to_owned(), number: number.parse().ok()? })
}

/// The footer at the end of `tail`, of whose pack nothing else is known: where it begins follows from the footer.
fn footer_of(tail: &[u8]) -> Option<Footer> {
    let footer = tail.get(tail.len().checked_sub(FOOTER_BYTES)?..)?;
    let index_offset = u64::from_le_bytes(*footer.first_chunk()?);
    let chunks = u32::from_le_bytes(*footer.get(8..12)?.first_chunk()?);
    let after = u64::from(chunks) * ENTRY_BYTES as u64 + FOOTER_BYTES as u64;
    Footer::parse(footer, index_offset.checked_add(after)?).ok()
}

fn tail_of(pack: &[u8]) -> Option<&[u8]> {
    let footer = footer_of(pack)?;
    pack.get(usize::try_from(footer.index_offset).ok()?..)
}

/// Opens every chunk: a copy here is as good as one that was written here.
fn is_sound(pack: PackId, bytes: &[u8]) -> Result<(), String> {
    let entries = parse_tail(bytes, pack).map_err(|damage| format!("is not that pack: {damage}"))?;
    let mut verified = Verified::with_capacity(CHUNK_BYTES_MAX).map_err(|error| error.to_string())?;
    for entry in entries {
        let at = entry.offset as usize;
        verified.begin(0);
        let sealed = entry.sealed(bytes.get(at..at + entry.stored_bytes as usize).unwrap_or_default());
        verified.open(sealed).map_err(|damage| format!("holds chunk {} damaged: {damage}", entry.id))?;
    }
    Ok(())
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
