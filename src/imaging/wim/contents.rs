//! Contents on their way into a WIM: read, hashed and compressed on all cores, written in order.
//!
//! Work is cut into jobs of about a mebibyte: some small contents, or a run of a large one. Workers take jobs in order and
//! may be a few ahead of the writer, which bounds the memory; buffers go round. A content that the file has, or that an
//! earlier job brings, is not compressed.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use sha1::Digest;

use super::codec::Compressor;
use super::error::Error;
use super::extract::Buffers;
use super::format::Sha1;
use super::reader::{Blob, Wim};
use super::resource::{ChunkTable, Layout, Resource};
use super::tree::Tree;
use super::writer::{Open, Writer, pack};
use crate::stdx::io::ReadAt;
use crate::stdx::monitor::Progress;

/// Plain bytes of a job; a whole number of chunks.
const JOB_BYTES: u64 = 1 << 20;

/// A content and the entries that have it.
pub struct Source<'a> {
    pub places: Vec<usize>,
    pub kind: Kind<'a>,
    /// What it must hash to, where that is known.
    pub hash: Option<Sha1>,
}

pub enum Kind<'a> {
    File {
        path: PathBuf,
        bytes: u64,
    },
    Memory(Vec<u8>),
    /// A run of something else.
    At {
        source: &'a dyn ReadAt,
        offset: u64,
        bytes: u64,
    },
    /// A content of another WIM, in no solid resource.
    Blob(Stored<'a>),
}

/// A content of another WIM. Where its chunks are compressed as ours, they are taken as they are.
pub struct Stored<'a> {
    wim: &'a Wim,
    blob: &'a Blob,
    table: OnceLock<ChunkTable>,
}

impl<'a> Stored<'a> {
    pub fn new(wim: &'a Wim, blob: &'a Blob) -> Stored<'a> {
        Stored { wim, blob, table: OnceLock::new() }
    }

    fn resource(&self) -> &'a Resource {
        &self.wim.resources[self.blob.resource]
    }

    fn is_packed_as(&self, writer: &Writer) -> bool {
        let resource = self.resource();
        resource.layout == Layout::Chunked
            && resource.compression == writer.compression()
            && resource.chunk_bytes == writer.chunk_bytes()
    }

    fn table(&self) -> Result<&ChunkTable, Error> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let resource = self.resource();
        let read = resource.chunks(&self.wim.parts[resource.part].source)?;
        Ok(self.table.get_or_init(|| read))
    }

    /// Reads `len` plain bytes from `offset`, a whole number of chunks but for the end. What was stored of them is left in
    /// `buffers`; the lengths of the chunks are returned.
    fn read(&self, offset: u64, len: usize, buffers: &mut Buffers, plain: &mut Vec<u8>) -> Result<Vec<u32>, Error> {
        let (resource, chunk_bytes) = (self.resource(), u64::from(self.resource().chunk_bytes));
        let chunks = &self.table()?.chunks()[(offset / chunk_bytes) as usize..];
        let chunks = &chunks[..chunks.len().min((offset % chunk_bytes + len as u64).div_ceil(chunk_bytes) as usize)];
        buffers.read_chunks(&self.wim.parts[resource.part].source, resource, chunks)?;
        let start = (offset % chunk_bytes) as usize;
        plain.extend(&buffers.plain_of(resource)[start..start + len]);
        Ok(chunks.iter().map(|chunk| chunk.stored_bytes).collect())
    }
}

impl Source<'_> {
    pub fn bytes(&self) -> u64 {
        match &self.kind {
            Kind::File { bytes, .. } | Kind::At { bytes, .. } => *bytes,
            Kind::Memory(data) => data.len() as u64,
            Kind::Blob(stored) => stored.blob.plain_bytes,
        }
    }

    /// What it will take in the file, as far as it is known.
    fn stored_bytes(&self, writer: &Writer) -> u64 {
        match &self.kind {
            Kind::Blob(stored) if stored.is_packed_as(writer) => stored.resource().stored_bytes,
            _ => self.bytes(),
        }
    }

    /// The error of a file whose content is not what it was a moment ago.
    pub(super) fn changed(&self) -> Error {
        let path = match &self.kind {
            Kind::File { path, .. } => path.clone(),
            _ => PathBuf::from(self.hash.unwrap_or_default().to_string()),
        };
        Error::Capture { path, what: "it changed while it was read" }
    }

    /// Enters the hash of the content where it belongs.
    pub fn name_in(&self, tree: &mut Tree, hash: Sha1) {
        for place in &self.places {
            let entry = &mut tree.entries[*place];
            match &mut entry.reparse {
                Some(reparse) => reparse.data = hash,
                None => entry.content = hash,
            }
        }
    }

    /// Appends `len` bytes from `offset` on.
    fn read(&self, offset: u64, len: usize, buffers: &mut Buffers, plain: &mut Vec<u8>) -> Result<(), Error> {
        let start = plain.len();
        match &self.kind {
            Kind::Memory(data) => plain.extend(&data[offset as usize..offset as usize + len]),
            Kind::At { source, offset: from, .. } => {
                let at = from + offset;
                plain.resize(start + len, 0);
                let path = || PathBuf::from(format!("the source of the image at byte {at}"));
                let read = source.read_exact_at(&mut plain[start..], at);
                read.map_err(|source| Error::Source { path: path(), source })?;
            }
            Kind::File { path, .. } => {
                plain.resize(start + len, 0);
                let read = read_file(path, &mut plain[start..], offset);
                read.map_err(|source| Error::Source { path: path.clone(), source })?;
            }
            Kind::Blob(stored) => drop(stored.read(offset, len, buffers, plain)?),
        }
        Ok(())
    }
}

fn read_file(path: &std::path::Path, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    std::fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?.read_exact_at(buffer, offset)
}

/// What one worker does next.
enum Job {
    /// Small contents, whole.
    Small(Range<usize>),
    /// A run of a large one.
    Run { source: usize, offset: u64, len: usize },
}

fn jobs(sources: &[Source<'_>], job_bytes: u64) -> Vec<Job> {
    let mut jobs = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for (number, source) in sources.iter().enumerate() {
        let own = source.bytes();
        if bytes + own > job_bytes && first < number {
            jobs.push(Job::Small(first..number));
            (first, bytes) = (number, 0);
        }
        if own > job_bytes {
            let runs = (0..own.div_ceil(job_bytes)).map(|run| run * job_bytes);
            jobs.extend(runs.map(|offset| {
                let len = (own - offset).min(job_bytes) as usize;
                Job::Run { source: number, offset, len }
            }));
            first = number + 1;
        } else {
            bytes += own;
        }
    }
    if first < sources.len() {
        jobs.push(Job::Small(first..sources.len()));
    }
    jobs
}

/// What became of a job. `pieces` tell its contents (or the run) apart.
#[derive(Default)]
struct Done {
    plain: Vec<u8>,
    packed: Vec<u8>,
    chunk_bytes: Vec<u32>,
    pieces: Vec<Piece>,
}

struct Piece {
    /// Not for runs, which are hashed in order by the writer.
    hash: Option<Sha1>,
    plain: Range<usize>,
    packed: Range<usize>,
    chunks: Range<usize>,
}

impl Done {
    fn clear(&mut self) {
        self.plain.clear();
        self.packed.clear();
        self.chunk_bytes.clear();
        self.pieces.clear();
    }
}

/// Writes the contents and returns their hashes, in the order of `sources`. Each name but the first of a source is
/// still to be counted with [`Writer::refer`].
pub fn write(
    writer: &mut Writer,
    sources: &[Source<'_>],
    workers: usize,
    progress: &Progress,
) -> Result<Vec<Sha1>, Error> {
    let jobs = jobs(sources, JOB_BYTES.max(u64::from(writer.chunk_bytes())));
    let claims = Mutex::new(writer.hashes().map(|hash| (hash, (0, 0))).collect());
    let packer = Packer { sources, is_packed: is_packed(writer, sources), chunk_bytes: writer.chunk_bytes(), claims };
    let tools = Tools::for_each(workers, writer, writer.chunk_bytes())?;
    let mut hashes = Vec::with_capacity(sources.len());
    let mut open = None;
    let work = |number: usize, tools: &mut Tools, done: &mut Done| packer.work(number, &jobs[number], tools, done);
    in_order(jobs.len(), tools, work, |number, done| {
        Progress::add(&progress.done_bytes, done.plain.len() as u64);
        match &jobs[number] {
            Job::Small(_) => done.pieces.iter().try_for_each(|piece| small(writer, done, piece, &mut hashes)),
            Job::Run { source, offset, len } => {
                let source = &sources[*source];
                let is_last = *offset + *len as u64 == source.bytes();
                run(writer, done, source, &mut open)?;
                let Some((content, hasher)) = open.take_if(|_| is_last) else { return Ok(()) };
                let hash = Sha1(hasher.finalize().into());
                writer.end(content, hash)?;
                hashes.push(hash);
                Ok(())
            }
        }
    })?;
    Ok(hashes)
}

/// What a worker keeps.
struct Tools {
    compressor: Compressor,
    buffers: Buffers,
}

impl Tools {
    fn for_each(workers: usize, writer: &Writer, chunk_bytes: u32) -> Result<Vec<Tools>, Error> {
        let tools = || Ok(Tools { compressor: writer.compressor(chunk_bytes)?, buffers: Buffers::default() });
        (0..workers.max(1)).map(|_| tools()).collect()
    }
}

/// Which sources are compressed as the file's own chunks.
fn is_packed(writer: &Writer, sources: &[Source<'_>]) -> Vec<bool> {
    let packed = |source: &Source<'_>| matches!(&source.kind, Kind::Blob(stored) if stored.is_packed_as(writer));
    sources.iter().map(packed).collect()
}

fn small(writer: &mut Writer, done: &Done, piece: &Piece, hashes: &mut Vec<Sha1>) -> Result<(), Error> {
    let hash = piece.hash.unwrap_or_default();
    hashes.push(hash);
    if writer.has(&hash) {
        writer.refer(&hash);
        return Ok(());
    }
    let (plain, packed) = (&done.plain[piece.plain.clone()], &done.packed[piece.packed.clone()]);
    writer.whole(plain, packed, &done.chunk_bytes[piece.chunks.clone()], hash)
}

fn run(
    writer: &mut Writer,
    done: &Done,
    source: &Source<'_>,
    open: &mut Option<(Open, sha1::Sha1)>,
) -> Result<(), Error> {
    if open.is_none() {
        *open = Some((writer.begin(source.bytes(), source.stored_bytes(writer))?, sha1::Sha1::new()));
    }
    let Some((content, hasher)) = open else { return Ok(()) };
    hasher.update(&done.plain);
    match done.chunk_bytes.is_empty() {
        true => writer.append(content, &done.plain, &[]),
        false => writer.append(content, &done.packed, &done.chunk_bytes),
    }
}

struct Packer<'a> {
    sources: &'a [Source<'a>],
    is_packed: Vec<bool>,
    chunk_bytes: u32,
    /// Which job brings a content, and where in it: the earliest that is known, so that the result does not depend on
    /// who was faster.
    claims: Mutex<HashMap<Sha1, (usize, usize)>>,
}

impl Packer<'_> {
    fn work(&self, number: usize, job: &Job, tools: &mut Tools, done: &mut Done) -> Result<(), Error> {
        match job {
            Job::Run { source, offset, len } => {
                self.read_and_pack(*source, *offset, *len, None, tools, done)?;
                let (plain, packed, chunks) = (0..done.plain.len(), 0..done.packed.len(), 0..done.chunk_bytes.len());
                done.pieces.push(Piece { hash: None, plain, packed, chunks });
            }
            Job::Small(sources) => {
                for (place, source) in sources.clone().enumerate() {
                    let (plain, packed, chunks) = (done.plain.len(), done.packed.len(), done.chunk_bytes.len());
                    let len = self.sources[source].bytes() as usize;
                    let hash = self.read_and_pack(source, 0, len, Some((number + 1, place)), tools, done)?;
                    done.pieces.push(Piece {
                        hash,
                        plain: plain..done.plain.len(),
                        packed: packed..done.packed.len(),
                        chunks: chunks..done.chunk_bytes.len(),
                    });
                }
            }
        }
        Ok(())
    }

    /// Appends a run of a source to `done`. With a `claim` it is a whole content: hashed, and packed if nobody else does.
    fn read_and_pack(
        &self,
        source: usize,
        offset: u64,
        len: usize,
        claim: Option<(usize, usize)>,
        tools: &mut Tools,
        done: &mut Done,
    ) -> Result<Option<Sha1>, Error> {
        let start = done.plain.len();
        let stored = match &self.sources[source].kind {
            Kind::Blob(stored) if self.is_packed[source] => {
                Some(stored.read(offset, len, &mut tools.buffers, &mut done.plain)?)
            }
            _ => {
                self.sources[source].read(offset, len, &mut tools.buffers, &mut done.plain)?;
                None
            }
        };
        let plain = &done.plain[start..];
        let hash = claim.map(|_| Sha1(sha1::Sha1::digest(plain).into()));
        if let (Some(hash), Some(claim)) = (hash, claim)
            && !self.claim(hash, claim)
        {
            return Ok(Some(hash));
        }
        match stored {
            Some(chunk_bytes) => {
                let bytes: usize = chunk_bytes.iter().map(|bytes| *bytes as usize).sum();
                done.packed.extend(&tools.buffers.stored()[..bytes]);
                done.chunk_bytes.extend(chunk_bytes);
            }
            None if matches!(tools.compressor, Compressor::None) => {}
            None => pack(plain, self.chunk_bytes, &mut tools.compressor, &mut done.packed, &mut done.chunk_bytes),
        }
        Ok(hash)
    }

    /// Whether no earlier one has claimed the content.
    fn claim(&self, hash: Sha1, claim: (usize, usize)) -> bool {
        let mut claims = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let first = claims.entry(hash).or_insert(claim);
        *first = claim.min(*first);
        *first == claim
    }
}

/// Writes the contents that the file does not have into one solid resource; returns the hashes of all. They are read
/// twice: what is to be stored must be known before it is laid out.
pub fn write_solid(
    writer: &mut Writer,
    sources: &[Source<'_>],
    workers: usize,
    progress: &Progress,
) -> Result<Vec<Sha1>, Error> {
    writer.check_solid()?;
    let hashes = hash_all(sources, workers)?;
    let mut new = Vec::new();
    let mut seen: std::collections::HashSet<Sha1> = writer.hashes().collect();
    for (source, hash) in sources.iter().zip(&hashes) {
        match seen.insert(*hash) {
            true => new.push((source, *hash)),
            false => Progress::add(&progress.done_bytes, source.bytes()),
        }
    }
    if !new.is_empty() {
        solid_resource(writer, &new, workers, progress)?;
    }
    hashes.iter().for_each(|hash| writer.refer(hash));
    Ok(hashes)
}

pub(super) fn hash_all(sources: &[Source<'_>], workers: usize) -> Result<Vec<Sha1>, Error> {
    let jobs = jobs(sources, JOB_BYTES);
    let mut hashes = Vec::with_capacity(sources.len());
    let mut hasher = sha1::Sha1::new();
    let work = |number: usize, buffers: &mut Buffers, done: &mut Done| match &jobs[number] {
        Job::Run { source, offset, len } => sources[*source].read(*offset, *len, buffers, &mut done.plain),
        Job::Small(small) => sources[small.clone()].iter().try_for_each(|source| {
            let start = done.plain.len();
            source.read(0, source.bytes() as usize, buffers, &mut done.plain)?;
            let hash = Some(Sha1(sha1::Sha1::digest(&done.plain[start..]).into()));
            done.pieces.push(Piece { hash, plain: 0..0, packed: 0..0, chunks: 0..0 });
            Ok(())
        }),
    };
    let buffers = (0..workers.max(1)).map(|_| Buffers::default()).collect();
    in_order(jobs.len(), buffers, work, |number, done| {
        hashes.extend(done.pieces.iter().filter_map(|piece| piece.hash));
        if let Job::Run { source, offset, len } = &jobs[number] {
            hasher.update(&done.plain);
            if offset + *len as u64 == sources[*source].bytes() {
                hashes.push(Sha1(std::mem::take(&mut hasher).finalize().into()));
            }
        }
        Ok(())
    })?;
    Ok(hashes)
}

fn solid_resource(
    writer: &mut Writer,
    contents: &[(&Source<'_>, Sha1)],
    workers: usize,
    progress: &Progress,
) -> Result<(), Error> {
    let chunk_bytes = u64::from(writer.solid_chunk_bytes());
    let mut ends = Vec::with_capacity(contents.len());
    let mut total = 0;
    for (source, _) in contents {
        total += source.bytes();
        ends.push(total);
    }
    let tools = Tools::for_each(workers, writer, writer.solid_chunk_bytes())?;
    let mut open = writer.begin_solid(total);
    let work = |number: usize, tools: &mut Tools, done: &mut Done| {
        let range = number as u64 * chunk_bytes..((number as u64 + 1) * chunk_bytes).min(total);
        read_range(contents, &ends, range, &mut tools.buffers, &mut done.plain)?;
        pack(&done.plain, chunk_bytes as u32, &mut tools.compressor, &mut done.packed, &mut done.chunk_bytes);
        Ok(())
    };
    let mut check = Check { contents, ends: &ends, next: 0, at: 0, hasher: sha1::Sha1::new() };
    in_order(total.div_ceil(chunk_bytes) as usize, tools, work, |_, done| {
        Progress::add(&progress.done_bytes, done.plain.len() as u64);
        check.take(&done.plain)?;
        writer.append(&mut open, &done.packed, &done.chunk_bytes)
    })?;
    let rows: Vec<(Sha1, u64)> = contents.iter().map(|(source, hash)| (*hash, source.bytes())).collect();
    writer.end_solid(&open, &rows)
}

/// Reads a range of all contents joined.
fn read_range(
    contents: &[(&Source<'_>, Sha1)],
    ends: &[u64],
    range: Range<u64>,
    buffers: &mut Buffers,
    plain: &mut Vec<u8>,
) -> Result<(), Error> {
    let mut at = range.start;
    let mut number = ends.partition_point(|end| *end <= at);
    while at < range.end {
        let (source, _) = &contents[number];
        let (start, end) = (ends[number] - source.bytes(), ends[number].min(range.end));
        source.read(at - start, (end - at) as usize, buffers, plain)?;
        at = end;
        number += 1;
    }
    Ok(())
}

/// Sees to it that what is stored is what was hashed before.
struct Check<'a> {
    contents: &'a [(&'a Source<'a>, Sha1)],
    ends: &'a [u64],
    next: usize,
    at: u64,
    hasher: sha1::Sha1,
}

impl Check<'_> {
    fn take(&mut self, mut plain: &[u8]) -> Result<(), Error> {
        while !plain.is_empty() {
            let len = (self.ends[self.next] - self.at).min(plain.len() as u64) as usize;
            self.hasher.update(&plain[..len]);
            plain = &plain[len..];
            self.at += len as u64;
            if self.at == self.ends[self.next] {
                let found = Sha1(std::mem::take(&mut self.hasher).finalize().into());
                let (source, expected) = &self.contents[self.next];
                if found != *expected {
                    return Err(source.changed());
                }
                self.next += 1;
            }
        }
        Ok(())
    }
}

/// Jobs that are done side by side and taken in order.
struct Line {
    state: Mutex<LineState>,
    changed: Condvar,
}

#[derive(Default)]
struct LineState {
    next: usize,
    taken: usize,
    done: BTreeMap<usize, Result<Done, Error>>,
    spare: Vec<Done>,
    stopped: bool,
}

impl Line {
    fn state(&self) -> MutexGuard<'_, LineState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job and buffers for it, when there is room ahead of the writer.
    fn claim(&self, jobs: usize, ahead: usize) -> Option<(usize, Done)> {
        let waits = |state: &mut LineState| !state.stopped && state.next < jobs && state.next >= state.taken + ahead;
        let mut state = self.changed.wait_while(self.state(), waits).unwrap_or_else(PoisonError::into_inner);
        if state.stopped || state.next >= jobs {
            return None;
        }
        state.next += 1;
        let done = state.spare.pop().unwrap_or_default();
        Some((state.next - 1, done))
    }

    fn hand_over(&self, number: usize, done: Result<Done, Error>) {
        self.state().done.insert(number, done);
        self.changed.notify_all();
    }

    fn take(&self, number: usize) -> Result<Done, Error> {
        let waits = |state: &mut LineState| !state.done.contains_key(&number);
        let mut state = self.changed.wait_while(self.state(), waits).unwrap_or_else(PoisonError::into_inner);
        state.done.remove(&number).unwrap_or_else(|| Ok(Done::default()))
    }

    fn taken(&self, done: Done) {
        let mut state = self.state();
        state.taken += 1;
        state.spare.push(done);
        drop(state);
        self.changed.notify_all();
    }

    fn stop(&self) {
        self.state().stopped = true;
        self.changed.notify_all();
    }
}

/// Does `jobs` with one worker for each of `tools`, and gives what they made to `take` in order.
fn in_order<T: Send>(
    jobs: usize,
    tools: Vec<T>,
    work: impl Fn(usize, &mut T, &mut Done) -> Result<(), Error> + Sync,
    mut take: impl FnMut(usize, &Done) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = Line { state: Mutex::default(), changed: Condvar::new() };
    let ahead = 2 * tools.len() + 2;
    let (line, work) = (&line, &work);
    std::thread::scope(|scope| {
        for mut tool in tools {
            scope.spawn(move || {
                // Whatever happens, the writer must not wait for this one.
                let mut guard = Abandoned { line, number: None };
                while let Some((number, mut done)) = line.claim(jobs, ahead) {
                    guard.number = Some(number);
                    done.clear();
                    let worked = work(number, &mut tool, &mut done);
                    line.hand_over(number, worked.map(|()| done));
                    guard.number = None;
                }
            });
        }
        let result = (0..jobs).try_for_each(|number| {
            let done = line.take(number)?;
            take(number, &done)?;
            line.taken(done);
            Ok(())
        });
        line.stop();
        result
    })
}

/// Hands an error over for a job whose worker panicked; the panic itself comes up when the threads are joined.
struct Abandoned<'a> {
    line: &'a Line,
    number: Option<usize>,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            let source = std::io::ErrorKind::Other.into();
            self.line.hand_over(number, Err(Error::Read { offset: 0, source }));
        }
    }
}
