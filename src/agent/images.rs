//! Versions of images, fetched from the appliance and checked against the site's key.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::access::signing::PublicKey;
use crate::imaging::apply::{Options, Receipt, make_match};
use crate::imaging::chunk::ChunkId;
use crate::imaging::error::Error;
use crate::imaging::link::RemoteStore;
use crate::imaging::manifest::{Manifest, VersionId};
use crate::imaging::store::failover::Failover;
use crate::imaging::store::format::PackId;
use crate::imaging::store::{ChunkSource, Location};
use crate::imaging::target::Target;
use crate::link::client::Client;
use crate::stdx::monitor::Progress;

/// The manifest of a version and where its chunks are: on the appliance's mirrors, if it names some, and on itself. `site_key` and `version` are the texts that the appliance gave.
pub fn open(client: &Client, site_key: &str, version: &str) -> Result<(Manifest, Box<dyn ChunkSource>), Error> {
    let bad = |what: &str, reason: String| Error::Refused {
        from: client.base().to_owned(),
        reason: format!("{what}: {reason}"),
    };
    let key = PublicKey::parse(site_key).ok_or_else(|| bad("the site's key", site_key.to_owned()))?;
    let version: VersionId = version.parse().map_err(|_| bad("the version", version.to_owned()))?;
    let (store, manifest) = RemoteStore::open(client.clone(), version, &key)?;
    let mut sources: Vec<Box<dyn ChunkSource>> = Vec::new();
    for mirror in store.mirrors()? {
        sources.push(Box::new(mirror));
    }
    sources.push(Box::new(store));
    Ok((manifest, Box::new(Failover::new(sources))))
}

/// Makes the file at `path` the one that the version holds. What the file holds already is not fetched; the rest comes at
/// most at `bytes_per_second`.
pub fn apply_file(
    client: &Client,
    site_key: &str,
    version: &str,
    path: &Path,
    bytes_per_second: Option<u64>,
) -> Result<Receipt, Error> {
    let (manifest, source) = open(client, site_key, version)?;
    let source: Box<dyn ChunkSource> = match bytes_per_second {
        Some(bytes_per_second) => Box::new(Paced::new(source, bytes_per_second)),
        None => source,
    };
    let target = Target::file(path)?;
    make_match(&manifest, &*source, &target, &Options::default(), &Progress::default(), &mut |_| {})
}

/// A source that gives no more than so much in the mean since it was opened.
struct Paced {
    source: Box<dyn ChunkSource>,
    bytes_per_second: u64,
    opened: Instant,
    given: AtomicU64,
}

impl Paced {
    fn new(source: Box<dyn ChunkSource>, bytes_per_second: u64) -> Paced {
        Paced { source, bytes_per_second: bytes_per_second.max(1), opened: Instant::now(), given: AtomicU64::new(0) }
    }
}

impl ChunkSource for Paced {
    fn name(&self) -> String {
        self.source.name()
    }

    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
        self.source.locate(ids)
    }

    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        let bytes = self.source.read_range(pack, offset, len)?;
        let given = self.given.fetch_add(bytes.len() as u64, Relaxed) + bytes.len() as u64;
        let due = Duration::from_secs_f64(given as f64 / self.bytes_per_second as f64);
        thread::sleep(due.saturating_sub(self.opened.elapsed()));
        Ok(bytes)
    }

    fn seeds(&self) -> Result<Vec<Manifest>, Error> {
        self.source.seeds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Zeros;

    impl ChunkSource for Zeros {
        fn name(&self) -> String {
            "zeros".into()
        }

        fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
            Ok(vec![None; ids.len()])
        }

        fn read_range(&self, _: PackId, _: u64, len: usize) -> Result<Vec<u8>, Error> {
            Ok(vec![0; len])
        }
    }

    #[test]
    fn a_paced_source_gives_no_more_than_it_may() {
        let paced = Paced::new(Box::new(Zeros), 100_000);
        for _ in 0..5 {
            paced.read_range(PackId([0; 32]), 0, 4000).unwrap();
        }
        assert!(paced.opened.elapsed() >= Duration::from_millis(199), "{:?}", paced.opened.elapsed());
    }
}
