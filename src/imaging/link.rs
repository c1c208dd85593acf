//! The appliance's store, as a machine sees it: five resources that are read with GET.
//!
//! `/link/v1/versions/SHA256/manifest` the signed manifest · `/link/v1/versions/SHA256/places` where its chunks lie ·
//! `/link/v1/versions/SHA256/seeds` other versions of the image, as a JSON list of SHA-256 ·
//! `/link/v1/packs/ID` a pack, by ranges · `/link/v1/mirrors` other appliances that are asked first, as a JSON list of addresses.

use std::collections::HashMap;

use crate::access::signing::PublicKey;
use crate::imaging::chunk::ChunkId;
use crate::imaging::error::Error;
use crate::imaging::manifest::{Extent, MANIFEST_BYTES_MAX, Manifest, Signed, VersionId};
use crate::imaging::store::format::PackId;
use crate::imaging::store::locations::{self, LOCATIONS_BYTES_MAX};
use crate::imaging::store::{ChunkSource, Location};
use crate::link;
use crate::link::client::Client;

/// A list of versions is short.
const SEEDS_BYTES_MAX: u64 = 64 << 10;
/// Some hundred addresses.
const MIRRORS_BYTES_MAX: u64 = 8 << 10;
pub const MIRRORS_PATH: &str = "/link/v1/mirrors";
/// Other versions that are looked for on the target.
const SEEDS_MAX: usize = 4;

pub fn manifest_path(version: VersionId) -> String {
    format!("/link/v1/versions/{version}/manifest")
}

pub fn places_path(version: VersionId) -> String {
    format!("/link/v1/versions/{version}/places")
}

pub fn seeds_path(version: VersionId) -> String {
    format!("/link/v1/versions/{version}/seeds")
}

pub fn pack_path(pack: PackId) -> String {
    format!("/link/v1/packs/{pack}")
}

/// The packs that an appliance holds of one version.
pub struct RemoteStore {
    client: Client,
    version: VersionId,
    key: PublicKey,
    extents: Vec<Extent>,
}

impl RemoteStore {
    /// Fetches the manifest of `version`; it must be that one and signed by the site's `key`.
    pub fn open(client: Client, version: VersionId, key: &PublicKey) -> Result<(RemoteStore, Manifest), Error> {
        let manifest = fetch_manifest(&client, version, key)?;
        Ok((RemoteStore { client, version, key: *key, extents: manifest.extents.clone() }, manifest))
    }

    /// The same version on the other appliances that this one names. Nobody has asked yet whether they have it.
    pub fn mirrors(&self) -> Result<Vec<RemoteStore>, Error> {
        let bytes = match self.client.get(MIRRORS_PATH, MIRRORS_BYTES_MAX) {
            // An appliance of an older release has no such list.
            Err(link::Error::Refused { status: 404, .. }) => return Ok(Vec::new()),
            other => other.map_err(|error| error_of(&self.client, error))?,
        };
        let addresses: Vec<String> = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Refused { from: self.name(), reason: error.to_string() })?;
        let mirror =
            |address: String| RemoteStore { client: self.client.at(&address), extents: self.extents.clone(), ..*self };
        Ok(addresses.into_iter().map(mirror).collect())
    }
}

fn fetch_manifest(client: &Client, version: VersionId, key: &PublicKey) -> Result<Manifest, Error> {
    let bytes = client.get(&manifest_path(version), MANIFEST_BYTES_MAX as u64);
    let signed = Signed::from_bytes(bytes.map_err(|error| error_of(client, error))?)?;
    let manifest = signed.verify(key)?;
    if signed.version() != version {
        let reason = format!("asked for version {version}, got {}", signed.version());
        return Err(Error::Refused { from: client.base().to_owned(), reason });
    }
    Ok(manifest)
}

impl ChunkSource for RemoteStore {
    fn name(&self) -> String {
        self.client.base().to_owned()
    }

    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = self.client.get(&places_path(self.version), LOCATIONS_BYTES_MAX as u64);
        let bytes = bytes.map_err(|error| error_of(&self.client, error))?;
        let places = locations::parse(&bytes, &self.extents)
            .map_err(|fault| Error::Refused { from: self.name(), reason: fault.to_string() })?;
        let places: HashMap<ChunkId, Location> =
            places.into_iter().flatten().map(|place| (place.entry.id, place)).collect();
        Ok(ids.iter().map(|id| places.get(id).copied()).collect())
    }

    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        match self.client.get_range(&pack_path(pack), offset, len as u64) {
            Err(link::Error::Refused { status: 404, .. }) => Err(Error::MissingPack { pack }),
            Err(link::Error::Refused { status: 416, .. }) => Err(Error::PackRange { pack, offset, len: len as u64 }),
            other => other.map_err(|error| error_of(&self.client, error)),
        }
    }

    fn seeds(&self) -> Result<Vec<Manifest>, Error> {
        let bytes = match self.client.get(&seeds_path(self.version), SEEDS_BYTES_MAX) {
            // An appliance of an older release has no such list.
            Err(link::Error::Refused { status: 404, .. }) => return Ok(Vec::new()),
            other => other.map_err(|error| error_of(&self.client, error))?,
        };
        let versions: Vec<VersionId> = serde_json::from_slice(&bytes)
            .map_err(|error| Error::Refused { from: self.name(), reason: error.to_string() })?;
        let manifest = |version| fetch_manifest(&self.client, version, &self.key);
        versions.into_iter().take(SEEDS_MAX).map(manifest).collect()
    }
}

fn error_of(client: &Client, error: link::Error) -> Error {
    let (from, reason) = (client.base().to_owned(), crate::stdx::hint::chain(&error));
    match error.is_transient() {
        true => Error::Unreachable { from, reason },
        false => Error::Refused { from, reason },
    }
}
