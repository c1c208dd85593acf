//! The boot files: one folder, read into memory, found by name in a table.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::SystemTime;

use crate::pxe::quirks;

/// A folder deeper than this holds no boot files (`grub/x86_64-efi/command.lst` is the deepest there is).
const DEPTH_MAX: usize = 3;
/// More than any boot environment with all its firmware files needs; a larger folder is a mistake.
const BYTES_MAX: u64 = 2 << 30;

/// The content of a boot file, shared by all transfers.
pub type Content = Arc<[u8]>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read the boot file {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{folder} holds more than 2 GiB: that is no folder of boot files")]
    TooLarge { folder: PathBuf },
}

/// The table. It follows the folder: when the folder is replaced (a new boot environment was built) the next look-up
/// reads it anew, and transfers under way keep what they have.
pub struct BootFiles {
    folder: PathBuf,
    /// Files that an administrator has added, named `added/...`.
    added: Option<PathBuf>,
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    files: BTreeMap<String, Content>,
    stamp: (Option<Stamp>, Option<Stamp>),
}

/// What changes when the folder is replaced: the time and the file it is.
type Stamp = (SystemTime, u64);

impl BootFiles {
    /// A folder that does not exist yet is an empty table.
    pub fn open(folder: &Path) -> Result<BootFiles, Error> {
        BootFiles::of(folder, None)
    }

    /// The same with the files of another folder below `added/`. They are read anew when something is put into that folder
    /// itself, or taken out of it.
    pub fn open_with(folder: &Path, added: &Path) -> Result<BootFiles, Error> {
        BootFiles::of(folder, Some(added.to_owned()))
    }

    fn of(folder: &Path, added: Option<PathBuf>) -> Result<BootFiles, Error> {
        let files = BootFiles { folder: folder.to_owned(), added, table: RwLock::default() };
        files.refresh()?;
        Ok(files)
    }

    /// The file of this name, with slashes or backslashes; any other name than those in the table is unknown.
    pub fn content(&self, name: &str) -> Option<Content> {
        if let Err(error) = self.refresh() {
            tracing::error!("{}", crate::stdx::hint::chain(&error));
        }
        let name = quirks::without_slashes_before(name).replace('\\', "/");
        self.table.read().unwrap_or_else(PoisonError::into_inner).files.get(&name).cloned()
    }

    /// (name, bytes) of each file.
    pub fn list(&self) -> Vec<(String, u64)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.files.iter().map(|(name, content)| (name.clone(), content.len() as u64)).collect()
    }

    fn refresh(&self) -> Result<(), Error> {
        let stamp = (stamp(&self.folder), self.added.as_deref().and_then(stamp));
        if stamp == self.table.read().unwrap_or_else(PoisonError::into_inner).stamp {
            return Ok(());
        }
        let mut files = BTreeMap::new();
        let mut left = BYTES_MAX;
        if stamp.0.is_some() {
            read_folder(&self.folder, "", DEPTH_MAX, &mut left, &mut files)?;
        }
        if let (Some(_), Some(added)) = (stamp.1, &self.added) {
            read_folder(added, "added/", DEPTH_MAX, &mut left, &mut files)?;
        }
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Table { files, stamp };
        Ok(())
    }
}

fn stamp(folder: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(folder).ok()?;
    Some((metadata.modified().ok()?, metadata.ino()))
}

fn read_folder(
    folder: &Path,
    prefix: &str,
    depth: usize,
    left: &mut u64,
    files: &mut BTreeMap<String, Content>,
) -> Result<(), Error> {
    let fault = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Read { path, source }
    };
    for entry in fs::read_dir(folder).map_err(fault(folder))? {
        let entry = entry.map_err(fault(folder))?;
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let metadata = fs::metadata(&path).map_err(fault(&path))?;
        let name = format!("{prefix}{name}");
        if metadata.is_dir() && depth > 1 {
            read_folder(&path, &format!("{name}/"), depth - 1, left, files)?;
        } else if metadata.is_file() {
            let too_large = || Error::TooLarge { folder: folder.to_owned() };
            *left = left.checked_sub(metadata.len()).ok_or_else(too_large)?;
            files.insert(name, fs::read(&path).map_err(fault(&path))?.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up_and_never_made_into_paths() {
        let folder = tempfile::tempdir().unwrap();
        let current = folder.path().join("current");
        fs::create_dir_all(current.join("grub")).unwrap();
        fs::write(folder.path().join("secret"), "secret").unwrap();
        fs::write(current.join("vmlinuz"), "kernel").unwrap();
        fs::write(current.join("grub/grub.cfg"), "menu").unwrap();
        let files = BootFiles::open(&current).unwrap();
        for name in ["vmlinuz", "/vmlinuz", "//vmlinuz", "\\vmlinuz"] {
            assert_eq!(files.content(name).as_deref(), Some(&b"kernel"[..]), "{name}");
        }
        assert_eq!(files.content("grub\\grub.cfg").as_deref(), Some(&b"menu"[..]));
        for name in ["../secret", "grub/../vmlinuz", "grub", "", "/", "vmlinuz/", "./vmlinuz", "VMLINUZ", "vmlinuz\0"] {
            assert!(files.content(name).is_none(), "{name:?}");
        }
    }

    #[test]
    fn files_that_were_added_are_found_when_they_are_there() {
        let folder = tempfile::tempdir().unwrap();
        let (current, added) = (folder.path().join("current"), folder.path().join("added"));
        let files = BootFiles::open_with(&current, &added).unwrap();
        fs::create_dir_all(added.join("debian")).unwrap();
        fs::write(added.join("debian/linux"), "kernel").unwrap();
        assert_eq!(files.content("added/debian/linux").as_deref(), Some(&b"kernel"[..]));
        assert!(files.content("debian/linux").is_none() && files.content("added/../current").is_none());
    }

    #[test]
    fn a_folder_that_is_replaced_is_read_anew() {
        let folder = tempfile::tempdir().unwrap();
        let current = folder.path().join("current");
        let files = BootFiles::open(&current).unwrap();
        assert!(files.content("vmlinuz").is_none());
        for content in ["one", "two"] {
            let next = folder.path().join(content);
            fs::create_dir(&next).unwrap();
            fs::write(next.join("vmlinuz"), content).unwrap();
            let _ = fs::remove_file(&current);
            std::os::unix::fs::symlink(&next, &current).unwrap();
            assert_eq!(files.content("vmlinuz").as_deref(), Some(content.as_bytes()));
        }
    }
}
