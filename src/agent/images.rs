//! Versions of images, fetched from the appliance and checked against the site's key.

use std::path::Path;

use crate::access::signing::PublicKey;
use crate::imaging::apply::{Options, Receipt, make_match};
use crate::imaging::error::Error;
use crate::imaging::link::RemoteStore;
use crate::imaging::manifest::{Manifest, VersionId};
use crate::imaging::store::ChunkSource;
use crate::imaging::target::Target;
use crate::link::client::Client;
use crate::stdx::monitor::Progress;

/// The manifest of a version and where its chunks are. `site_key` and `version` are the texts that the appliance gave.
pub fn open(client: &Client, site_key: &str, version: &str) -> Result<(Manifest, Box<dyn ChunkSource>), Error> {
    let bad = |what: &str, reason: String| Error::Refused {
        from: client.base().to_owned(),
        reason: format!("{what}: {reason}"),
    };
    let key = PublicKey::parse(site_key).ok_or_else(|| bad("the site's key", site_key.to_owned()))?;
    let version: VersionId = version.parse().map_err(|_| bad("the version", version.to_owned()))?;
    let (store, manifest) = RemoteStore::open(client.clone(), version, &key)?;
    Ok((manifest, Box::new(store)))
}

/// Makes the file at `path` the one that the version holds. What the file holds already is not fetched.
pub fn apply_file(client: &Client, site_key: &str, version: &str, path: &Path) -> Result<Receipt, Error> {
    let (manifest, source) = open(client, site_key, version)?;
    let target = Target::file(path)?;
    make_match(&manifest, &*source, &target, &Options::default(), &Progress::default(), &mut |_| {})
}
