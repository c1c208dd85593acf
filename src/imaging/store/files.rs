//! The few things that a store does to a folder, each of which a power cut may fall behind.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::stdx::owner::adopt;

/// Changes of files under one folder. [`Disk`] carries them out; tests count them, fail them and forget them.
pub trait Files: Send + Sync {
    /// A new, empty file.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>>;
    /// Gives the file at `from` the name `to`, replacing what had it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives the file at `from` the name `to` as well; `AlreadyExists` when something has it.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the folder and those above it, each name durable in its parent.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in the folder durable.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
}

/// A file that is written from its beginning to its end.
pub trait Output: Send {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&mut self) -> io::Result<()>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Files for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Output>> {
        let file = File::options().write(true).create_new(true).open(path)?;
        adopt(path)?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.make_folder(parent)?;
        }
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other.and_then(|()| adopt(path)),
        }?;
        path.parent().map_or(Ok(()), |parent| self.sync_folder(parent))
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path)?.sync_all()
    }
}

impl Output for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Whether an existing name is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    Replace,
    Keep,
}

/// Writes `bytes` under `temporary` and gives them the name `path` when they are durable: `path` is whole or absent, or
/// still what it was. With [`Existing::Keep`] a name that is taken is `AlreadyExists`.
pub fn write_whole(
    files: &dyn Files,
    temporary: PathBuf,
    path: &Path,
    bytes: &[u8],
    existing: Existing,
) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    files.make_folder(folder)?;
    let written = files.create(&temporary).and_then(|mut file| {
        file.write(bytes)?;
        file.sync()?;
        match existing {
            Existing::Replace => files.rename(&temporary, path),
            Existing::Keep => files.link(&temporary, path),
        }
    });
    if written.is_err() || existing == Existing::Keep {
        let _ = files.remove(&temporary);
    }
    written?;
    files.sync_folder(folder)
}
