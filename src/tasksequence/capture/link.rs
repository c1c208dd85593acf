//! The appliance as the place where a capture's chunks go.
//!
//! `POST /link/v1/captures/missing` which chunks the site lacks · `POST /link/v1/captures/RUN/chunks` the chunks, as
//! `imaging::intake` frames them · `POST /link/v1/captures/RUN/images/NAME` the manifest, unsigned.

use std::ops::ControlFlow;

use serde::{Deserialize, Serialize};

use crate::imaging::chunk::ChunkId;
use crate::imaging::error::Error;
use crate::imaging::intake::{Finished, Receiver};
use crate::imaging::manifest::{Manifest, VersionId};
use crate::imaging::store::versions::Version;
use crate::link::client::{Client, patiently};
use crate::link::{self, Message};
use crate::stdx::backoff::Backoff;
use crate::stdx::hint::chain;
use crate::tasksequence::link::RunId;

pub const CHUNKS_PATH: &str = "/link/v1/captures/{run}/chunks";
pub const IMAGE_PATH: &str = "/link/v1/captures/{run}/images/{name}";
/// A few minutes of an appliance that restarts; what was sent stays.
const ATTEMPTS_MAX: u32 = 12;

/// Which of these chunks does the site lack?
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AskMissing {
    pub run: RunId,
    pub chunks: Vec<ChunkId>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Missing {
    /// Places in `AskMissing::chunks`.
    pub missing: Vec<usize>,
}

/// What became of a manifest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Published {
    /// Chunks that the site does not have; then nothing was published.
    #[serde(default)]
    pub missing: u64,
    #[serde(default)]
    pub version: u32,
    #[serde(default)]
    pub id: String,
}

impl Message for AskMissing {
    const PATH: &'static str = "/link/v1/captures/missing";
    type Reply = Missing;
}

/// The appliance, for one run and the image that it captures.
pub struct Appliance {
    pub client: Client,
    pub run: RunId,
    pub image: String,
    pub tag: Option<String>,
}

impl Appliance {
    fn call<T>(&self, what: impl FnMut() -> Result<T, link::Error>) -> Result<T, Error> {
        let decide = |attempt, _: &link::Error| {
            if attempt < ATTEMPTS_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        patiently(Backoff::PATIENT, decide, what).map_err(|error| {
            let (from, reason) = (self.client.base().to_owned(), chain(&error));
            if error.is_transient() { Error::Unreachable { from, reason } } else { Error::Refused { from, reason } }
        })
    }

    fn understood<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, Error> {
        let refused = |error: serde_json::Error| Error::Refused {
            from: self.client.base().to_owned(),
            reason: format!("its answer is not understood: {error}"),
        };
        serde_json::from_slice(bytes).map_err(refused)
    }
}

impl Receiver for Appliance {
    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<usize>, Error> {
        let question = AskMissing { run: self.run.clone(), chunks: ids.to_vec() };
        self.call(|| self.client.call(&question)).map(|reply| reply.missing)
    }

    fn send(&self, frames: Vec<u8>) -> Result<(), Error> {
        let path = CHUNKS_PATH.replace("{run}", &self.run.0);
        self.call(|| self.client.post(&path, &frames)).map(drop)
    }

    fn finish(&self, manifest: &Manifest) -> Result<Finished, Error> {
        let tag = self.tag.as_ref().map(|tag| format!("?tag={tag}")).unwrap_or_default();
        let path = IMAGE_PATH.replace("{run}", &self.run.0).replace("{name}", &self.image) + &tag;
        let bytes = manifest.emit();
        let published: Published = self.understood(&self.call(|| self.client.post(&path, &bytes))?)?;
        if published.missing > 0 {
            return Ok(Finished::Incomplete { chunks: published.missing });
        }
        let id: VersionId = published.id.parse().map_err(|_| Error::Refused {
            from: self.client.base().to_owned(),
            reason: format!("`{}` is no version", published.id),
        })?;
        Ok(Finished::Published { version: Version { name: self.image.clone(), number: published.version }, id })
    }
}
