//! Whole objects under names, kept somewhere else than the store's own folder: in a bucket, or in a folder of another disk.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::imaging::error::Error;
use crate::imaging::store::files::{Disk, Existing, write_whole};
use crate::stdx::hint::chain;

/// Says what is wrong with bytes that came from far away.
pub type Check<'a> = &'a dyn Fn(&[u8]) -> Result<(), String>;

/// A place for objects. Names are `packs/ID` and `versions/NAME/NUMBER`; an object is whole or absent.
pub trait Objects: Send + Sync {
    /// What people call it, in errors.
    fn name(&self) -> String;

    /// The names that begin with `prefix` (which ends in `/`), sorted.
    fn list(&self, prefix: &str) -> Result<Vec<String>, Error>;

    /// The object, if it has at most `bytes_max` bytes and `check` finds nothing wrong with it; `None` when there is none.
    fn get(&self, name: &str, bytes_max: u64, check: Check<'_>) -> Result<Option<Vec<u8>>, Error>;

    /// The last `len` bytes of an object, or all of a shorter one.
    fn get_end(&self, name: &str, len: u64) -> Result<Option<Vec<u8>>, Error>;

    /// Writes the object; with [`Existing::Keep`], `false` when something has the name already.
    fn put(&self, name: &str, bytes: Vec<u8>, existing: Existing) -> Result<bool, Error>;

    /// Removes the object, if it is there.
    fn remove(&self, name: &str) -> Result<(), Error>;
}

/// Objects as files below a folder: a mounted share, another disk.
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    pub fn new(root: &Path) -> Folder {
        Folder { root: root.to_owned() }
    }

    /// A share that is not mounted is no empty place, and what is written to its mount point would be lost.
    fn check_there(&self) -> Result<(), Error> {
        fs::read_dir(&self.root).map(drop).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::Unreachable { from: self.name(), reason: error.to_string() }
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        match fs::read(self.root.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.check_there().map(|()| None),
            other => other.map(Some).map_err(|error| self.failed(&error)),
        }
    }
}

impl Objects for Folder {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        self.check_there()?;
        let mut found = Vec::new();
        let mut folders = vec![prefix.trim_end_matches('/').to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(self.root.join(&folder)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(|error| self.failed(&error))?,
            };
            for entry in entries {
                let entry = entry.map_err(|error| self.failed(&error))?;
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder { folders.push(name) } else { found.push(name) }
            }
        }
        // What is being written ends so.
        found.retain(|name| !name.ends_with(".new"));
        found.sort_unstable();
        Ok(found)
    }

    fn get(&self, name: &str, bytes_max: u64, check: Check<'_>) -> Result<Option<Vec<u8>>, Error> {
        self.read(name)?.map(|bytes| checked(self, name, bytes, bytes_max, check)).transpose()
    }

    fn get_end(&self, name: &str, len: u64) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.read(name)?.map(|mut bytes| bytes.split_off(bytes.len().saturating_sub(len as usize))))
    }

    fn put(&self, name: &str, bytes: Vec<u8>, existing: Existing) -> Result<bool, Error> {
        self.check_there()?;
        let path = self.root.join(name);
        let temporary = path.with_extension(format!("{}.new", std::process::id()));
        match write_whole(&Disk, temporary, &path, &bytes, existing) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            other => other.map(|()| true).map_err(|error| self.failed(&error)),
        }
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        match fs::remove_file(self.root.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.check_there(),
            other => other.map_err(|error| self.failed(&error)),
        }
    }
}

/// Bytes that came as `name` from `place`, if they are what was asked for.
pub(super) fn checked(
    place: &dyn Objects,
    name: &str,
    bytes: Vec<u8>,
    bytes_max: u64,
    check: Check<'_>,
) -> Result<Vec<u8>, Error> {
    let refused = |reason| Error::Refused { from: place.name(), reason: format!("what it gave as {name} {reason}") };
    if bytes.len() as u64 > bytes_max {
        return Err(refused(format!("has {} bytes, at most {bytes_max} are taken", bytes.len())));
    }
    check(&bytes).map_err(refused)?;
    Ok(bytes)
}

/// Several places that each hold everything: what is written goes to all of them, what is read comes from the first that has
/// it sound.
pub struct Several(pub Vec<Arc<dyn Objects>>);

impl Several {
    /// The first answer that is something. An error counts only when nobody has better.
    fn first<T>(&self, ask: impl Fn(&dyn Objects) -> Result<Option<T>, Error>) -> Result<Option<T>, Error> {
        let mut failed = None;
        for place in &self.0 {
            match ask(&**place) {
                Ok(Some(answer)) => return Ok(Some(answer)),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(place = place.name(), "{}", chain(&error));
                    failed.get_or_insert(error);
                }
            }
        }
        failed.map_or(Ok(None), Err)
    }
}

impl Objects for Several {
    fn name(&self) -> String {
        self.0.iter().map(|place| place.name()).collect::<Vec<_>>().join(", ")
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let mut names = BTreeSet::new();
        for place in &self.0 {
            names.extend(place.list(prefix)?);
        }
        Ok(names.into_iter().collect())
    }

    fn get(&self, name: &str, bytes_max: u64, check: Check<'_>) -> Result<Option<Vec<u8>>, Error> {
        self.first(|place| place.get(name, bytes_max, check))
    }

    fn get_end(&self, name: &str, len: u64) -> Result<Option<Vec<u8>>, Error> {
        self.first(|place| place.get_end(name, len))
    }

    /// The first place decides whether a name is taken.
    fn put(&self, name: &str, bytes: Vec<u8>, existing: Existing) -> Result<bool, Error> {
        for (index, place) in self.0.iter().enumerate() {
            let existing = if index == 0 { existing } else { Existing::Replace };
            if !place.put(name, bytes.clone(), existing)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.0.iter().try_for_each(|place| place.remove(name))
    }
}
