//! HTTP routes of the content store: what machines fetch, what people look at and change.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use metrics::counter;
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::ReceiverStream;

use crate::access::Capability;
use crate::access::signing::PublicKey;
use crate::api::{Access, Problem, Routes, Shape, Table, blocking};
use crate::imaging::chunk::ChunkId;
use crate::imaging::error::Error;
use crate::imaging::link::MIRRORS_PATH;
use crate::imaging::manifest::{Header, Kind, Manifest, Signed, VersionId};
use crate::imaging::store::format::PackId;
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::stats::{Stats, stats};
use crate::imaging::store::versions::{Reference, Version};
use crate::imaging::store::{ChunkSource, locations};
use crate::stdx::hint::{Hint, chain};

/// A pack is read and sent in pieces of this size, two of them under way for each request.
const PIECE_BYTES: u64 = 256 << 10;
const PIECES_AHEAD: usize = 2;

/// Versions, and what was counted of them.
type Counted = (Vec<String>, Arc<Stats>);

/// What the routes work on.
#[derive(Clone)]
pub struct Images {
    store: Arc<LocalStore>,
    key: PublicKey,
    /// Other appliances that have the same images.
    mirrors: Arc<[String]>,
    /// SHA-256 -> the manifest's file. Filled as they are asked for.
    known: Arc<Mutex<HashMap<VersionId, PathBuf>>>,
    /// The sizes as they were counted last, and for which versions.
    counted: Arc<Mutex<Option<Counted>>>,
}

impl Images {
    pub fn new(store: Arc<LocalStore>, key: PublicKey, mirrors: Vec<String>) -> Images {
        Images { store, key, mirrors: mirrors.into(), known: Arc::default(), counted: Arc::default() }
    }

    /// The manifest of any version, as it was published.
    fn signed(&self, id: VersionId) -> Result<Signed, Error> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        let read = |path: &PathBuf| std::fs::read(path).map_err(Error::read(path.display()));
        if let Some(bytes) = known.and_then(|path| read(&path).ok()) {
            return Ok(Signed::from_bytes(bytes)?);
        }
        let found = self.store.manifest_file(id)?;
        let path = found.ok_or_else(|| Error::NoVersion { name: "?".to_owned(), version: id.to_string() })?;
        let signed = Signed::from_bytes(read(&path)?)?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id, path);
        Ok(signed)
    }

    /// The newest other versions of the image that `id` is of.
    fn seeds(&self, id: VersionId) -> Result<Vec<VersionId>, Error> {
        let Some(path) = self.store.manifest_file(id)? else { return Ok(Vec::new()) };
        let name =
            path.parent().and_then(|folder| folder.file_name()).unwrap_or_default().to_string_lossy().into_owned();
        let number = path.file_stem().and_then(|number| number.to_string_lossy().parse().ok());
        let others = self.store.other_versions(&name, number)?;
        others.iter().map(|version| Ok(self.store.manifest(version)?.version())).collect()
    }

    pub(super) fn resolve(&self, reference: &Reference) -> Result<Version, Error> {
        self.store.resolve(reference)
    }

    /// The versions of an image, oldest first.
    pub(super) fn versions(&self, name: &str) -> Result<Vec<Version>, Error> {
        self.store.versions(name)
    }

    pub(super) fn whole(&self, version: &Version) -> Result<Manifest, Error> {
        Ok(self.manifest(version)?.1)
    }

    pub(super) fn tag(&self, version: &Version, tag: &str) -> Result<(), Error> {
        self.store.tag(version, tag)
    }

    pub(super) fn untag(&self, name: &str, tag: &str) -> Result<(), Error> {
        self.store.remove_tag(name, tag)
    }

    pub(super) fn remove(&self, version: &Version) -> Result<(), Error> {
        self.store.remove_version(version)
    }

    /// What versions share. It takes a look at every chunk, so it is kept until a version comes or goes.
    pub(super) fn stats(&self) -> Result<Arc<Stats>, Error> {
        let mut versions = Vec::new();
        for name in self.store.images()? {
            versions.extend(self.store.versions(&name)?.iter().map(Version::to_string));
        }
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, stats)) = counted.as_ref().filter(|(of, _)| *of == versions) {
            return Ok(stats.clone());
        }
        let stats = Arc::new(stats(&self.store, &self.key)?);
        *counted = Some((versions, stats.clone()));
        Ok(stats)
    }

    fn manifest(&self, version: &Version) -> Result<(VersionId, Manifest), Error> {
        let signed = self.store.manifest(version)?;
        Ok((signed.version(), signed.verify(&self.key)?))
    }
}

/// The routes of this subject.
pub fn routes(images: Images) -> Table {
    let edit = Access::Person(Capability::EditImage);
    let read = Access::Person(Capability::Read);
    Routes::new()
        .get("/link/v1/versions/{version}/manifest", Access::Machine, "The signed manifest of a version", get_manifest)
        .get("/link/v1/versions/{version}/places", Access::Machine, "Where the chunks of a version lie", get_places)
        .get(
            "/link/v1/versions/{version}/seeds",
            Access::Machine,
            "Other versions that the machine may hold",
            get_seeds,
        )
        .get(MIRRORS_PATH, Access::Machine, "Other appliances to fetch from first", get_mirrors)
        .get("/link/v1/packs/{pack}", Access::Machine, "Bytes of a pack, as they lie; one range", get_pack)
        .get("/api/v1/images", read, "All images with their versions and tags", list)
        .gives(Shape::List("Image"))
        .get("/api/v1/images/{name}", read, "One version of an image: NAME, NAME@7, NAME@prod", show)
        .gives(Shape::One("Image"))
        .put("/api/v1/images/{name}/tags/{tag}", edit, "Makes a tag mean a version", put_tag)
        .takes("TagRequest")
        .gives(Shape::Nothing)
        .delete("/api/v1/images/{name}/tags/{tag}", edit, "Removes a tag", delete_tag)
        .gives(Shape::Nothing)
        .delete(
            "/api/v1/images/{name}",
            edit,
            "Removes a version (NAME@7); its chunks go at the next gc",
            delete_version,
        )
        .with_state(images)
}

async fn get_manifest(State(images): State<Images>, Path(version): Path<VersionId>) -> Result<Response, Problem> {
    let signed = blocking(move || images.signed(version).map_err(problem)).await?;
    Ok(octets(signed.as_bytes().to_vec()))
}

async fn get_places(State(images): State<Images>, Path(version): Path<VersionId>) -> Result<Response, Problem> {
    let places = blocking(move || {
        let signed = images.signed(version).map_err(problem)?;
        let manifest = signed.verify(&images.key).map_err(|fault| problem(fault.into()))?;
        let chunks: Vec<ChunkId> = manifest.extents.iter().map(|extent| extent.chunk).collect();
        Ok(locations::emit(&images.store.locate(&chunks).map_err(problem)?))
    })
    .await?;
    Ok(octets(places))
}

async fn get_seeds(
    State(images): State<Images>,
    Path(version): Path<VersionId>,
) -> Result<Json<Vec<VersionId>>, Problem> {
    blocking(move || images.seeds(version).map_err(problem)).await.map(Json)
}

async fn get_mirrors(State(images): State<Images>) -> Json<Vec<String>> {
    Json(images.mirrors.to_vec())
}

fn octets(bytes: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response()
}

/// Sends bytes of a pack as they lie in the file: no decompression, no check, next to no work.
async fn get_pack(
    State(images): State<Images>,
    Path(pack): Path<PackId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let (file, size) = blocking(move || {
        let file = images.store.pack_file(pack).map_err(problem)?;
        let size = file.metadata().map_err(|error| problem(Error::read(format!("pack {pack}"))(error)))?.len();
        Ok((file, size))
    })
    .await?;
    let wanted = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let (status, range) = match wanted.map(|text| parse_range(text, size)) {
        None => (StatusCode::OK, 0..size),
        Some(Some(range)) => (StatusCode::PARTIAL_CONTENT, range),
        Some(None) => {
            let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, format!("pack {pack} has {size} bytes"));
            return Ok(([(header::CONTENT_RANGE, format!("bytes */{size}"))], problem).into_response());
        }
    };
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_LENGTH, range.end - range.start)
        .header(header::CACHE_CONTROL, "private, max-age=31536000, immutable");
    if status == StatusCode::PARTIAL_CONTENT {
        response = response.header(header::CONTENT_RANGE, format!("bytes {}-{}/{size}", range.start, range.end - 1));
    }
    response.body(stream(file, range)).map_err(|error| Problem::internal(error.to_string()))
}

/// One range of a `Range` header (RFC 9110, 14.1.2); `None` when it cannot be satisfied.
fn parse_range(text: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    let range = match (first, last) {
        ("", suffix) => size.saturating_sub(suffix.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.saturating_add(1).min(size),
    };
    (range.start < range.end).then_some(range)
}

fn stream(file: Arc<File>, range: Range<u64>) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(PIECES_AHEAD);
    tokio::task::spawn_blocking(move || {
        for at in range.clone().step_by(PIECE_BYTES as usize) {
            let mut bytes = vec![0; (range.end - at).min(PIECE_BYTES) as usize];
            let read = file.read_exact_at(&mut bytes, at).map(|()| Bytes::from(bytes));
            let (failed, sent) = (read.is_err(), read.as_ref().map_or(0, Bytes::len));
            // The receiver is gone when the machine hung up.
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
            counter!("remint_delivered_bytes_total").increment(sent as u64);
        }
    });
    Body::from_stream(ReceiverStream::new(receiver))
}

/// An image in the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageRow {
    pub name: String,
    pub version: u32,
    pub id: VersionId,
    pub tags: Vec<String>,
    pub kind: Kind,
    pub size: u64,
    pub content_bytes: u64,
    pub created: crate::stdx::time::Timestamp,
}

/// A version with all that its manifest says of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageDetail {
    #[serde(flatten)]
    pub row: ImageRow,
    pub chunks: u64,
    pub zero_bytes: u64,
    pub header: Header,
}

impl Images {
    /// Every version of every image, newest first within an image.
    pub fn list(&self) -> Result<Vec<ImageRow>, Error> {
        let mut rows = Vec::new();
        for name in self.store.images()? {
            for version in self.store.versions(&name)?.iter().rev() {
                rows.push(self.detail(version)?.row);
            }
        }
        Ok(rows)
    }

    pub fn detail(&self, version: &Version) -> Result<ImageDetail, Error> {
        let (id, manifest) = self.manifest(version)?;
        let tags = self.store.tags(&version.name)?;
        let row = ImageRow {
            name: version.name.clone(),
            version: version.number,
            id,
            tags: tags.into_iter().filter(|(_, number)| *number == version.number).map(|(tag, _)| tag).collect(),
            kind: manifest.header.kind,
            size: manifest.header.size,
            content_bytes: manifest.content_bytes(),
            created: manifest.header.created,
        };
        let (chunks, zero_bytes) = (manifest.extents.len() as u64, manifest.zero_bytes());
        Ok(ImageDetail { row, chunks, zero_bytes, header: manifest.header })
    }
}

async fn list(State(images): State<Images>) -> Result<Json<Vec<ImageRow>>, Problem> {
    blocking(move || images.list().map_err(problem)).await.map(Json)
}

async fn show(State(images): State<Images>, Path(name): Path<String>) -> Result<Json<ImageDetail>, Problem> {
    blocking(move || {
        let version = Reference::parse(&name).and_then(|reference| images.store.resolve(&reference));
        images.detail(&version.map_err(problem)?).map_err(problem)
    })
    .await
    .map(Json)
}

/// `version` as people type it after the `@`.
#[derive(Debug, Serialize, Deserialize)]
pub struct TagRequest {
    pub version: String,
}

async fn put_tag(
    State(images): State<Images>,
    Path((name, tag)): Path<(String, String)>,
    Json(request): Json<TagRequest>,
) -> Result<StatusCode, Problem> {
    blocking(move || {
        let version = Reference::parse(&format!("{name}@{}", request.version))
            .and_then(|reference| images.store.resolve(&reference))
            .map_err(problem)?;
        images.store.tag(&version, &tag).map_err(problem)
    })
    .await
    .map(|()| StatusCode::NO_CONTENT)
}

async fn delete_tag(
    State(images): State<Images>,
    Path((name, tag)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    blocking(move || images.store.remove_tag(&name, &tag).map_err(problem)).await.map(|()| StatusCode::NO_CONTENT)
}

async fn delete_version(State(images): State<Images>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    blocking(move || {
        let reference = Reference::parse(&name).map_err(problem)?;
        if reference.version.is_none() {
            return Err(Problem::bad_request("say which version to remove").with_hint("write NAME@7"));
        }
        let version = images.store.resolve(&reference).map_err(problem)?;
        images.store.remove_version(&version).map_err(problem)
    })
    .await
    .map(|()| StatusCode::NO_CONTENT)
}

pub fn problem(error: Error) -> Problem {
    let status = match &error {
        Error::NoImage { .. } | Error::NoVersion { .. } | Error::MissingPack { .. } => StatusCode::NOT_FOUND,
        Error::BadName { .. } => StatusCode::BAD_REQUEST,
        Error::Tagged { .. } | Error::Busy(_) => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let problem = Problem::new(status, chain(&error));
    match error.hint() {
        Some(hint) => problem.with_hint(hint),
        None => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_understood_and_impossible_ones_refused() {
        for (text, range) in [
            ("bytes=0-9", Some(0..10)),
            ("bytes=5-5", Some(5..6)),
            ("bytes=90-", Some(90..100)),
            ("bytes=-10", Some(90..100)),
            ("bytes=0-1000", Some(0..100)),
            ("bytes=100-", None),
            ("bytes=9-5", None),
            ("bytes=0-1,5-6", None),
            ("lines=0-9", None),
            ("bytes=a-b", None),
        ] {
            assert_eq!(parse_range(text, 100), range, "{text}");
        }
    }
}
