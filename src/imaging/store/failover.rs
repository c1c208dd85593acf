//! Several sources of the same chunks: the one that answered last is asked, and the others when it does not have what is
//! asked for, does not answer, or gave something damaged.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::imaging::chunk::ChunkId;
use crate::imaging::error::Error;
use crate::imaging::manifest::Manifest;
use crate::imaging::store::format::PackId;
use crate::imaging::store::{ChunkSource, Location};

/// Sources in the order of preference. A pack is named by its index, so the same pack is the same wherever it lies; a chunk
/// may lie in different packs.
pub struct Failover<'a> {
    sources: Vec<Box<dyn ChunkSource + 'a>>,
    /// The one that answered last.
    current: AtomicUsize,
}

impl<'a> Failover<'a> {
    pub fn new(sources: Vec<Box<dyn ChunkSource + 'a>>) -> Failover<'a> {
        Failover { sources, current: AtomicUsize::new(0) }
    }

    /// Asks one source after the other, beginning `skip` behind the current one, until one answers. When none does, the
    /// error is one that waiting may mend, where there is such a one.
    fn ask<T>(&self, skip: usize, mut ask: impl FnMut(&dyn ChunkSource) -> Result<T, Error>) -> Result<T, Error> {
        let (count, first) = (self.sources.len(), self.current.load(Relaxed));
        let mut kept: Option<Error> = None;
        for number in (0..count).map(|step| (first + skip + step) % count) {
            match ask(&*self.sources[number]) {
                Ok(answer) => {
                    if skip == 0 {
                        self.current.store(number, Relaxed);
                    }
                    return Ok(answer);
                }
                Err(error) if kept.as_ref().is_none_or(|kept| error.is_transient() && !kept.is_transient()) => {
                    kept = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(kept.unwrap_or_else(|| Error::Refused { from: "nobody".into(), reason: "there is no source".into() }))
    }
}

impl ChunkSource for Failover<'_> {
    fn name(&self) -> String {
        let names: Vec<String> = self.sources.iter().map(|source| source.name()).collect();
        names.join(", ")
    }

    /// What the first that answers does not have is looked for in the others.
    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
        let mut found = self.ask(0, |source| source.locate(ids))?;
        for source in &self.sources {
            let missing: Vec<usize> = (0..ids.len()).filter(|at| found[*at].is_none()).collect();
            if missing.is_empty() {
                break;
            }
            let wanted: Vec<ChunkId> = missing.iter().map(|at| ids[*at]).collect();
            // One that does not answer now may not be needed.
            let Ok(places) = source.locate(&wanted) else { continue };
            missing.into_iter().zip(places).for_each(|(at, place)| found[at] = place);
        }
        Ok(found)
    }

    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        self.ask(0, |source| source.read_range(pack, offset, len))
    }

    fn read_into(&self, pack: PackId, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.ask(0, |source| source.read_into(pack, offset, buffer))
    }

    fn fetch_again(&self, id: ChunkId, attempt: u32) -> Result<(Location, Vec<u8>), Error> {
        self.ask(attempt as usize, |source| source.fetch_again(id, attempt))
    }

    fn seeds(&self) -> Result<Vec<Manifest>, Error> {
        self.ask(0, |source| source.seeds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::chunk::Sealer;
    use crate::imaging::store::local::LocalStore;

    struct Away;

    impl ChunkSource for Away {
        fn name(&self) -> String {
            "away".into()
        }
        fn locate(&self, _: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
            Err(Error::Unreachable { from: "away".into(), reason: "it is away".into() })
        }
        fn read_range(&self, _: PackId, _: u64, _: usize) -> Result<Vec<u8>, Error> {
            Err(Error::Unreachable { from: "away".into(), reason: "it is away".into() })
        }
    }

    fn store(plains: &[&[u8]]) -> (tempfile::TempDir, LocalStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::create(folder.path()).unwrap();
        let mut upload = store.upload().unwrap();
        for plain in plains {
            upload.put(Sealer::new().unwrap().seal(ChunkId::of(plain), plain)).unwrap();
        }
        upload.close_pack().unwrap();
        drop(upload);
        (folder, store)
    }

    fn read(source: &dyn ChunkSource, plain: &[u8]) -> Result<Vec<u8>, Error> {
        let place =
            source.locate(&[ChunkId::of(plain)])?[0].ok_or(Error::MissingChunk { chunk: ChunkId::of(plain) })?;
        source.read_range(place.pack, place.entry.offset.into(), place.entry.stored_bytes as usize)
    }

    #[test]
    fn what_one_source_lacks_or_does_not_answer_comes_from_another() {
        let ((_one, first), (_two, second)) = (store(&[b"both", b"first"]), store(&[b"both", b"second"]));
        let failover = Failover::new(vec![Box::new(Away), Box::new(&first), Box::new(&second)]);
        for plain in [b"both".as_slice(), b"first", b"second", b"both"] {
            assert_eq!(read(&failover, plain).unwrap(), plain);
        }
        assert!(matches!(read(&failover, b"nowhere"), Err(Error::MissingChunk { .. })));
    }

    #[test]
    fn when_nobody_answers_the_error_is_one_that_waiting_may_mend() {
        let (_folder, empty) = store(&[b"other"]);
        let failover = Failover::new(vec![Box::new(&empty), Box::new(Away)]);
        assert!(failover.read_range(PackId([1; 32]), 0, 1).unwrap_err().is_transient());
        assert!(matches!(Failover::new(vec![]).seeds(), Err(Error::Refused { .. })));
    }

    #[test]
    fn a_chunk_that_came_damaged_comes_from_the_next_source() {
        let ((_one, first), (_two, second)) = (store(&[b"chunk", b"x"]), store(&[b"chunk"]));
        let failover = Failover::new(vec![Box::new(&first), Box::new(&second)]);
        let id = ChunkId::of(b"chunk");
        let own = |store: &LocalStore| store.locate(&[id]).unwrap()[0].unwrap().pack;
        assert_eq!(failover.fetch_again(id, 1).unwrap().0.pack, own(&second));
        assert_eq!(failover.fetch_again(id, 2).unwrap().0.pack, own(&first));
    }
}
