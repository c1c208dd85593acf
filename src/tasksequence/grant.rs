//! What an image's name means on this site, for the orders of runs.

use crate::access::signing::PublicKey;
use crate::imaging::error::Error;
use crate::imaging::manifest::Kind;
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::versions::Reference;

use super::link::ImageGrant;

/// The version that `reference` means now; `None` when the site has no such image or version.
pub fn find(store: &LocalStore, key: &PublicKey, reference: &str) -> Result<Option<ImageGrant>, Error> {
    let version = match Reference::parse(reference).and_then(|parsed| store.resolve(&parsed)) {
        Err(Error::NoVersion { .. } | Error::NoImage { .. }) => return Ok(None),
        other => other?,
    };
    let signed = store.manifest(&version)?;
    let manifest = signed.verify(key)?;
    Ok(Some(ImageGrant {
        reference: reference.to_owned(),
        name: version.name,
        version: signed.version().to_string(),
        disk_bytes: manifest.needed_bytes(),
        used_bytes: manifest.content_bytes(),
        tree: manifest.header.kind == Kind::Tree,
    }))
}
