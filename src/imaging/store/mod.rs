//! The content store: chunks in packs, versions of images as signed manifests.
//!
//! - A pack is written once and never edited; its index lies in it, so the store's index is rebuilt from the packs.
//! - A version is published by one rename after everything it needs is durable: it is whole or absent.
//! - What reads chunks is [`ChunkSource`], nothing more: the store of a folder ([`local`]), of the appliance far away
//!   (`imaging::link`), and what is put around them are the same to the loop that applies an image.
//! - Packs and manifests may be kept far away ([`objects`]): in a bucket, in a folder of another disk, or in several of them.
//!   What is in use is copied here ([`near`]), so everything else works on files of this folder.
//! - Uploads hold the store's lock shared and collecting garbage holds it alone, so what an upload counts on stays.
//!
//! Packs and manifests as bytes: [`format`] and `imaging::manifest`; the folder's layout: `docs/formats/store.md`.

#[cfg(feature = "object-store")]
pub mod bucket;
pub mod failover;
pub mod files;
pub mod format;
pub mod gc;
pub mod index;
pub mod local;
pub mod locations;
pub mod near;
pub mod objects;
pub mod salvage;
pub mod scrub;
pub mod stats;
pub mod upload;
pub mod verify;
pub mod versions;

use crate::imaging::chunk::ChunkId;
use crate::imaging::error::Error;
use crate::imaging::manifest::Manifest;
use crate::imaging::store::format::{Entry, PackId};

/// Where a chunk lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Location {
    pub pack: PackId,
    pub entry: Entry,
}

/// Something that holds packs and knows where in them chunks lie.
pub trait ChunkSource: Send + Sync {
    /// What people call it, in errors.
    fn name(&self) -> String;

    /// Where each of `ids` lies; `None` for one that is not here.
    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error>;

    /// `len` bytes of a pack from `offset`, as they lie. The caller has bounded `len`.
    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, Error>;

    /// Fills `buffer` with the bytes of a pack from `offset`, as they lie: [`read_range`](ChunkSource::read_range) into
    /// memory that is used again.
    fn read_into(&self, pack: PackId, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        let bytes = self.read_range(pack, offset, buffer.len())?;
        if bytes.len() != buffer.len() {
            return Err(Error::PackRange { pack, offset, len: buffer.len() as u64 });
        }
        buffer.copy_from_slice(&bytes);
        Ok(())
    }

    /// A chunk that came damaged, once more: from another copy where there is one, the next with every `attempt`.
    fn fetch_again(&self, id: ChunkId, attempt: u32) -> Result<(Location, Vec<u8>), Error> {
        let _ = attempt;
        let place = self.locate(&[id])?.pop().flatten().ok_or(Error::MissingChunk { chunk: id })?;
        let bytes = self.read_range(place.pack, place.entry.offset.into(), place.entry.stored_bytes as usize)?;
        Ok((place, bytes))
    }

    /// Versions that a target may hold from before, likeliest first: they tell where on it chunks lie.
    fn seeds(&self) -> Result<Vec<Manifest>, Error> {
        Ok(Vec::new())
    }
}

impl<T: ChunkSource + ?Sized> ChunkSource for &T {
    fn name(&self) -> String {
        (**self).name()
    }

    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
        (**self).locate(ids)
    }

    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        (**self).read_range(pack, offset, len)
    }

    fn read_into(&self, pack: PackId, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        (**self).read_into(pack, offset, buffer)
    }

    fn fetch_again(&self, id: ChunkId, attempt: u32) -> Result<(Location, Vec<u8>), Error> {
        (**self).fetch_again(id, attempt)
    }

    fn seeds(&self) -> Result<Vec<Manifest>, Error> {
        (**self).seeds()
    }
}

impl<T: ChunkSource + ?Sized> ChunkSource for std::sync::Arc<T> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
        (**self).locate(ids)
    }

    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        (**self).read_range(pack, offset, len)
    }

    fn read_into(&self, pack: PackId, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        (**self).read_into(pack, offset, buffer)
    }

    fn fetch_again(&self, id: ChunkId, attempt: u32) -> Result<(Location, Vec<u8>), Error> {
        (**self).fetch_again(id, attempt)
    }

    fn seeds(&self) -> Result<Vec<Manifest>, Error> {
        (**self).seeds()
    }
}

#[cfg(test)]
mod tests;
