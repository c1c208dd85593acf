//! Writes an image's files into a folder: folders first, contents as they come out of the WIM, then links, and folders'
//! own times last.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::Error;
use super::extract::{self, Sink};
pub use super::files::Report;
use super::files::{Files, Use};
use super::format::Sha1;
use super::reader::{Blob, OnDamage, Wim};
use crate::stdx::monitor::Progress;

/// Applies image `index` of `wim` to the folder `path`.
pub fn apply(
    wim: &Wim,
    index: u32,
    path: &Path,
    on_damage: OnDamage,
    workers: usize,
    progress: &Progress,
) -> Result<Report, Error> {
    let (tree, faults) = wim.tree(index, on_damage)?;
    let files = Files::open(path, &tree, on_damage)?;
    for fault in faults {
        let error = Error::Metadata { image: index, offset: fault.offset, len: 0, what: fault.what };
        files.report().faults.push(error);
    }
    files.check_room(|hash| wim.blob(hash).map_or(0, |blob| blob.plain_bytes))?;
    files.folders()?;
    // ntfs-3g takes one request at a time, and compressed files only from their beginning to their end.
    let workers = if files.target.is_ntfs { 1 } else { workers };
    contents(wim, &files, workers, progress)?;
    files.links()?;
    files.folder_metadata()?;
    Ok(files.into_report())
}

fn contents(wim: &Wim, files: &Files<'_>, workers: usize, progress: &Progress) -> Result<(), Error> {
    files.without_content()?;
    let uses = files.uses();
    let mut blobs = Vec::with_capacity(uses.len());
    for (hash, users) in &uses {
        match wim.blob_place(hash) {
            Some(place) => blobs.push(place),
            None => files.passed_over(Error::Missing { hash: *hash, path: files.path_of(users) })?,
        }
    }
    let writer = Writer { files, uses, open: Mutex::default() };
    extract::extract(wim, &blobs, workers, &writer, progress)
}

/// Files with what they are.
type OpenFiles = Arc<Vec<(Use, File)>>;

/// Puts contents where they belong.
struct Writer<'a, 'b> {
    files: &'a Files<'b>,
    uses: HashMap<Sha1, Vec<Use>>,
    /// Files of contents that come in pieces.
    open: Mutex<HashMap<Sha1, OpenFiles>>,
}

impl Writer<'_, '_> {
    fn uses(&self, blob: &Blob) -> &[Use] {
        self.uses.get(&blob.hash).map_or(&[], Vec::as_slice)
    }

    /// The files of a content that comes in pieces, made with its first piece.
    fn open(&self, blob: &Blob) -> Result<OpenFiles, Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = open.get(&blob.hash) {
            return Ok(files.clone());
        }
        let mut files = Vec::new();
        for user in self.uses(blob) {
            let made = match user {
                Use::Content(place) => self.files.create_file(*place, blob.plain_bytes)?,
                Use::Stream(place, stream) => self.files.create_stream(*place, *stream)?,
                Use::LinkData => None,
            };
            files.extend(made.map(|file| (*user, file)));
        }
        let files = Arc::new(files);
        open.insert(blob.hash, files.clone());
        Ok(files)
    }
}

impl Sink for Writer<'_, '_> {
    fn whole(&self, blob: &Blob, content: &[u8]) -> Result<(), Error> {
        for user in self.uses(blob) {
            match user {
                Use::Content(place) => {
                    let Some(file) = self.files.create_file(*place, blob.plain_bytes)? else { continue };
                    self.files.write_content(*place, &file, content, 0)?;
                    self.files.finish_file(*place, &file)?;
                    self.files.report().bytes += content.len() as u64;
                }
                Use::Stream(place, stream) => self.files.set_stream(*place, *stream, content)?,
                Use::LinkData => self.files.keep_link_data(blob.hash, content),
            }
        }
        Ok(())
    }

    fn piece(&self, blob: &Blob, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        for (user, file) in self.open(blob)?.iter() {
            match user {
                Use::Content(place) => self.files.write_content(*place, file, bytes, offset)?,
                Use::Stream(..) | Use::LinkData => {
                    self.files.written(user.place(), file.write_all_at(bytes, offset))?
                }
            }
        }
        Ok(())
    }

    fn checked(&self, blob: &Blob) -> Result<(), Error> {
        let files = self.open(blob)?;
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&blob.hash);
        for (user, file) in files.iter() {
            if let Use::Content(place) = user {
                self.files.finish_file(*place, file)?;
            }
            self.files.report().bytes += blob.plain_bytes;
        }
        Ok(())
    }

    fn damaged(&self, blob: &Blob, error: Error) -> Result<(), Error> {
        let files = self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&blob.hash);
        for (user, file) in files.iter().flat_map(|files| files.iter()) {
            // What is not what it should be must not look like a file of the image.
            let removed = match user {
                Use::Content(place) => self.files.target.remove_file(*place),
                Use::Stream(..) | Use::LinkData => file.set_len(0),
            };
            self.files.entry_done(user.place(), "remove the damaged file", removed)?;
        }
        self.files.passed_over(error)
    }
}
