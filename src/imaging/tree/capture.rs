//! A folder of this machine becomes a tree image, a file at a time on each core.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use sha1::Digest;

use crate::imaging::error::Error;
use crate::imaging::import::{Imported, Importer};
use crate::imaging::manifest::TreeHeader;
use crate::imaging::store::versions::check_name;
use crate::imaging::tree::builder::{Builder, Piece, Runs, Stored};
use crate::imaging::tree::format::Content;
use crate::imaging::tree::import::tree_header;
use crate::imaging::wim::capture::{Kind, Scanned, Source, scan};
use crate::imaging::wim::error::Error as WimError;
use crate::imaging::wim::format::Sha1;
use crate::stdx::monitor::Progress;

/// What is read of a file at once.
const RUN_BYTES: u64 = 4 << 20;

impl Importer<'_> {
    /// The files of `folder`, but for what the patterns `exclude` (`/proc/*`, `*.tmp`).
    pub fn folder(&self, name: &str, folder: &Path, exclude: &[String]) -> Result<Imported, Error> {
        check_name(name)?;
        let Scanned { mut tree, sources, report } = scan(folder, exclude)?;
        // When a file was last read is no property of an image, and reading changes it.
        tree.entries.iter_mut().for_each(|entry| entry.accessed = entry.written);
        Progress::add(&self.progress.total_bytes, sources.iter().map(Source::bytes).sum());
        let builder = Builder::new(self.store, self.progress)?;
        let mut stored: Vec<Stored> = Vec::new();
        let mut known: HashMap<Sha1, usize> = HashMap::new();
        let mut links = HashMap::new();
        let mut hard_link_bytes = 0;
        for (source, taken) in sources.iter().zip(take_all(&sources, &builder, self.progress)?) {
            hard_link_bytes += source.bytes() * (source.places.len() as u64 - 1);
            source.name_in(&mut tree, taken.hash);
            if let Kind::Memory(data) = &source.kind {
                links.insert(taken.hash, data.clone());
                continue;
            }
            match known.get(&taken.hash) {
                Some(place) if stored[*place].pieces != taken.pieces => {
                    return Err(one_name_for_two(source));
                }
                Some(_) => {}
                None => {
                    known.insert(taken.hash, stored.len());
                    let content = Content { hash: taken.hash, bytes: source.bytes() };
                    stored.push(Stored { content, pieces: taken.pieces });
                }
            }
        }
        let folder_name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let header = TreeHeader {
            folders: report.folders,
            files: report.files,
            files_bytes: report.bytes,
            hard_link_bytes,
            name: folder_name.clone(),
            ..TreeHeader::default()
        };
        let (manifest, upload) = builder.finish(stored, links, tree, tree_header(folder_name, header, self.now))?;
        self.publish(name, manifest, upload)
    }
}

/// Files that were made to have one SHA-1: no WIM could hold them, and none is mistaken for the other here.
fn one_name_for_two(source: &Source<'_>) -> Error {
    let path = match &source.kind {
        Kind::File { path, .. } => path.clone(),
        Kind::Memory(_) | Kind::At { .. } | Kind::Blob(_) => "a link".into(),
    };
    WimError::Capture { path, what: "another file has the same SHA-1 and not the same content" }.into()
}

/// A content in the store.
struct Taken {
    hash: Sha1,
    pieces: Vec<Piece>,
}

/// Takes all of `sources`, in their order.
fn take_all(sources: &[Source<'_>], builder: &Builder<'_>, progress: &Progress) -> Result<Vec<Taken>, Error> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Taken)>, Error> {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Relaxed);
            let Some(source) = sources.get(number) else { return Ok(done) };
            // After an error nobody takes anything more.
            let taken = take(source, builder, progress).inspect_err(|_| next.store(sources.len(), Relaxed))?;
            done.push((number, taken));
        }
    };
    let workers = std::thread::available_parallelism().map_or(2, NonZeroUsize::get);
    let mut taken: Vec<(usize, Taken)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let joined: Result<Vec<Vec<_>>, Error> =
            threads.into_iter().map(|thread| thread.join().expect("taking files does not panic")).collect();
        joined.map(|done| done.into_iter().flatten().collect())
    })?;
    taken.sort_unstable_by_key(|(number, _)| *number);
    Ok(taken.into_iter().map(|(_, taken)| taken).collect())
}

fn take(source: &Source<'_>, builder: &Builder<'_>, progress: &Progress) -> Result<Taken, Error> {
    match &source.kind {
        Kind::Memory(data) => {
            Progress::add(&progress.done_bytes, data.len() as u64);
            Ok(Taken { hash: Sha1(sha1::Sha1::digest(data).into()), pieces: Vec::new() })
        }
        Kind::File { path, bytes } => {
            let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
            let failed = |source: io::Error| WimError::Source { path: path.clone(), source };
            let file = opened.map_err(failed)?;
            let read = |buffer: &mut [u8], at: u64| {
                file.read_exact_at(buffer, at).map_err(|error| Error::Files(failed(error)))
            };
            take_runs(*bytes, read, builder, progress)
        }
        Kind::At { source, offset, bytes } => {
            let read = |buffer: &mut [u8], at: u64| {
                source.read_exact_at(buffer, offset + at).map_err(Error::read(format!("byte {at} of a content")))
            };
            take_runs(*bytes, read, builder, progress)
        }
        Kind::Blob(_) => {
            let what = "it is a content of a WIM file: import that file instead";
            Err(WimError::Capture { path: "a content".into(), what }.into())
        }
    }
}

fn take_runs(
    bytes: u64,
    read: impl Fn(&mut [u8], u64) -> Result<(), Error>,
    builder: &Builder<'_>,
    progress: &Progress,
) -> Result<Taken, Error> {
    let (mut runs, mut hasher, mut pieces) = (Runs::default(), sha1::Sha1::new(), Vec::new());
    let mut at = 0;
    while at < bytes {
        let mut buffer = vec![0; (bytes - at).min(RUN_BYTES) as usize];
        read(&mut buffer, at)?;
        at += buffer.len() as u64;
        hasher.update(&buffer);
        let (certain, cuts) = runs.take(&buffer, at == bytes);
        pieces.extend(builder.run(&certain, &cuts)?);
        Progress::add(&progress.done_bytes, buffer.len() as u64);
    }
    Ok(Taken { hash: Sha1(hasher.finalize().into()), pieces })
}
