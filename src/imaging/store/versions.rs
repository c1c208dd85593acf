//! Versions and tags: names that people type for manifests. A name appears, moves and goes in one step.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::PathBuf;

use crate::access::signing::PublicKey;
use crate::imaging::chunk::ChunkId;
use crate::imaging::error::Error;
use crate::imaging::manifest::{Manifest, Signed, VersionId};
use crate::imaging::store::files::{Existing, write_whole};
use crate::imaging::store::format::PackId;
use crate::imaging::store::local::{LocalStore, names};
use crate::imaging::store::upload::Upload;
use crate::imaging::store::{ChunkSource, Location};

/// Names are folders: this is what they may consist of.
const NAME_BYTES_MAX: usize = 64;
/// Versions that are tried as seeds.
const SEEDS_MAX: usize = 4;
/// What the file of a removed version ends in.
pub(super) const GONE: &str = "gone";

/// A published version of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    pub name: String,
    /// 1, 2, 3 ... in the order of publication; a number is never given twice.
    pub number: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.number)
    }
}

/// `NAME`, `NAME@7`, `NAME@prod` or `NAME@` and at least eight digits of the version's SHA-256, as people type them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    pub name: String,
    /// What stands after the `@`.
    pub version: Option<String>,
}

impl Reference {
    pub fn parse(text: &str) -> Result<Reference, Error> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version.to_owned())),
            None => (text, None),
        };
        check_name(name)?;
        if let Some(version) = &version {
            check_name(version)?;
        }
        Ok(Reference { name: name.to_owned(), version })
    }
}

/// Refuses what would be no plain file name.
pub fn check_name(name: &str) -> Result<(), Error> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let begins = name.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
    match begins && name.len() <= NAME_BYTES_MAX && name.bytes().all(plain) {
        true => Ok(()),
        false => Err(Error::BadName { name: name.chars().take(80).collect() }),
    }
}

impl Upload<'_> {
    /// Publishes a version of `name`, once every chunk that it lists is durable.
    pub fn publish(mut self, name: &str, manifest: &Signed, chunks: &[ChunkId]) -> Result<Version, Error> {
        check_name(name)?;
        self.close_pack()?;
        let store = self.owner();
        let found = store.locate(chunks)?;
        if let Some((chunk, _)) = chunks.iter().zip(&found).find(|(_, place)| place.is_none()) {
            return Err(Error::MissingChunk { chunk: *chunk });
        }
        store.secure(&found.iter().flatten().map(|place| place.pack).collect())?;
        let mut least = 1;
        loop {
            let number = store.numbers_given(name)?.last().map_or(1, |last| last + 1).max(least);
            let version = Version { name: name.to_owned(), number };
            if !store.publish_far(&version, manifest)? {
                least = number + 1;
                continue;
            }
            let path = store.version_path(&version);
            match write_whole(&*store.files, store.temporary()?, &path, manifest.as_bytes(), Existing::Keep) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    let _ = store.remove_version_far(&version);
                    return Err(Error::write(path.display())(error));
                }
                Ok(()) => return Ok(version),
            }
        }
    }
}

/// One image of a store, as a source that knows what a target may hold from before.
pub struct ImageSource<'a> {
    pub store: &'a LocalStore,
    pub version: &'a Version,
    pub key: PublicKey,
}

impl ChunkSource for ImageSource<'_> {
    fn name(&self) -> String {
        self.store.name()
    }

    fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>, Error> {
        self.store.locate(ids)
    }

    fn read_range(&self, pack: PackId, offset: u64, len: usize) -> Result<Vec<u8>, Error> {
        self.store.read_range(pack, offset, len)
    }

    fn read_into(&self, pack: PackId, offset: u64, buffer: &mut [u8]) -> Result<(), Error> {
        self.store.read_into(pack, offset, buffer)
    }

    fn seeds(&self) -> Result<Vec<Manifest>, Error> {
        let others = self.store.other_versions(&self.version.name, Some(self.version.number))?;
        others.iter().map(|version| Ok(self.store.manifest(version)?.verify(&self.key)?)).collect()
    }
}

impl LocalStore {
    /// The newest versions of an image but `number`, newest first: what a machine most likely holds.
    pub fn other_versions(&self, name: &str, number: Option<u32>) -> Result<Vec<Version>, Error> {
        let mut versions = self.versions(name)?;
        versions.retain(|version| Some(version.number) != number);
        versions.reverse();
        versions.truncate(SEEDS_MAX);
        Ok(versions)
    }

    /// The names of the images that have a version.
    pub fn images(&self) -> Result<Vec<String>, Error> {
        let mut images = names(&self.root.join("versions"))?;
        images.retain(|name| self.versions(name).is_ok_and(|versions| !versions.is_empty()));
        Ok(images)
    }

    /// The versions of an image, oldest first.
    pub fn versions(&self, name: &str) -> Result<Vec<Version>, Error> {
        let mut numbers: Vec<u32> = self.version_names(name)?.iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers.into_iter().map(|number| Version { name: name.to_owned(), number }).collect())
    }

    /// What people typed -> the version that it means now: the newest, a number, a tag or the start of a SHA-256.
    pub fn resolve(&self, reference: &Reference) -> Result<Version, Error> {
        let versions = self.versions(&reference.name)?;
        let Some(newest) = versions.last() else { return Err(Error::NoImage { name: reference.name.clone() }) };
        let Some(wanted) = &reference.version else { return Ok(newest.clone()) };
        let numbered = |number: u32| versions.iter().find(|version| version.number == number).cloned();
        let by_tag = || self.tags(&reference.name).ok()?.get(wanted).copied().and_then(numbered);
        let found = match wanted.parse().ok().and_then(numbered).or_else(by_tag) {
            None if wanted.len() >= 8 => self.find_by_id(&versions, wanted)?,
            found => found,
        };
        found.ok_or_else(|| Error::NoVersion { name: reference.name.clone(), version: wanted.clone() })
    }

    /// The manifest of a version, as it was published.
    pub fn manifest(&self, version: &Version) -> Result<Signed, Error> {
        let path = self.version_path(version);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NoVersion { name: version.name.clone(), version: version.number.to_string() })
            }
            other => Ok(Signed::from_bytes(other.map_err(Error::read(path.display()))?)?),
        }
    }

    /// The file of the manifest with this SHA-256, of a version that is published or was removed a short while ago.
    pub fn manifest_file(&self, id: VersionId) -> Result<Option<PathBuf>, Error> {
        let found = self.manifest_files()?.into_iter().find(|path| {
            let signed = fs::read(path).ok().and_then(|bytes| Signed::from_bytes(bytes).ok());
            signed.is_some_and(|signed| signed.version() == id)
        });
        Ok(found)
    }

    /// Every manifest that something may still need: those of all versions, and of those removed but not yet collected.
    pub(super) fn manifest_files(&self) -> Result<Vec<PathBuf>, Error> {
        let folder = self.root.join("versions");
        let mut files = Vec::new();
        for name in names(&folder)? {
            let folder = folder.join(name);
            files.extend(names(&folder)?.into_iter().map(|name| folder.join(name)));
        }
        files.retain(|path| fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0));
        Ok(files)
    }

    /// Removes a version; its chunks go when garbage is collected. A version that carries a tag stays.
    pub fn remove_version(&self, version: &Version) -> Result<(), Error> {
        let _lock = self.lock_shared()?;
        if let Some((tag, _)) = self.tags(&version.name)?.iter().find(|(_, number)| **number == version.number) {
            return Err(Error::Tagged { name: version.name.clone(), version: version.number, tag: tag.clone() });
        }
        let path = self.version_path(version);
        let removed = self.files.rename(&path, &path.with_extension(GONE));
        removed
            .and_then(|()| self.files.sync_folder(path.parent().unwrap_or(&path)))
            .map_err(Error::write(path.display()))?;
        self.remove_version_far(version)
    }

    /// Tag -> number, of an image.
    pub fn tags(&self, name: &str) -> Result<BTreeMap<String, u32>, Error> {
        check_name(name)?;
        let folder = self.root.join("tags").join(name);
        let number = |tag: String| {
            let text = fs::read_to_string(folder.join(&tag)).ok()?;
            Some((tag, text.trim().parse().ok()?))
        };
        Ok(names(&folder)?.into_iter().filter_map(number).collect())
    }

    /// Makes `tag` mean `version`, whatever it meant before.
    pub fn tag(&self, version: &Version, tag: &str) -> Result<(), Error> {
        check_name(tag)?;
        if tag.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Error::BadName { name: tag.to_owned() });
        }
        let _lock = self.lock_shared()?;
        self.manifest(version)?;
        let path = self.root.join("tags").join(&version.name).join(tag);
        let text = format!("{}\n", version.number);
        write_whole(&*self.files, self.temporary()?, &path, text.as_bytes(), Existing::Replace)
            .map_err(Error::write(path.display()))
    }

    pub fn remove_tag(&self, name: &str, tag: &str) -> Result<(), Error> {
        check_name(name)?;
        check_name(tag)?;
        let folder = self.root.join("tags").join(name);
        match self.files.remove(&folder.join(tag)).and_then(|()| self.files.sync_folder(&folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NoVersion { name: name.to_owned(), version: tag.to_owned() })
            }
            other => other.map_err(Error::write(folder.display())),
        }
    }

    fn find_by_id(&self, versions: &[Version], digits: &str) -> Result<Option<Version>, Error> {
        for version in versions.iter().rev() {
            if self.manifest(version)?.version().to_string().starts_with(digits) {
                return Ok(Some(version.clone()));
            }
        }
        Ok(None)
    }

    pub(super) fn version_path(&self, version: &Version) -> PathBuf {
        self.root.join("versions").join(&version.name).join(version.number.to_string())
    }

    fn version_names(&self, name: &str) -> Result<Vec<String>, Error> {
        check_name(name)?;
        names(&self.root.join("versions").join(name))
    }

    /// Every number that was ever given, removed ones included, sorted.
    fn numbers_given(&self, name: &str) -> Result<Vec<u32>, Error> {
        let names = self.version_names(name)?;
        let mut numbers: Vec<u32> =
            names.iter().filter_map(|name| name.trim_end_matches(".gone").parse().ok()).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}
