//! Chunks that travel from a machine to a store: what a capture far away sends, and how it is taken in.
//!
//! A body is a row of frames: name of the chunk (32 bytes), encoding (1), plain bytes (4, little-endian), sealed bytes
//! (4), and the sealed bytes themselves. Nothing of it is believed: each chunk is opened and hashed before it is stored.

use crate::access::signing::SigningKey;
use crate::imaging::chunk::{CHUNK_BYTES_MAX, ChunkId, Encoding, Sealed, Sealer, Verified};
use crate::imaging::cutter::Cutter;
use crate::imaging::error::Error;
use crate::imaging::import::{Importer, Source, disk_content};
use crate::imaging::manifest::{Extent, Manifest, Signed, VersionId};
use crate::imaging::ranges::{merged, total};
use crate::imaging::store::local::LocalStore;
use crate::imaging::store::versions::{Version, check_name};
use crate::stdx::bytes::Fields;
use crate::stdx::io::ReadAt;
use crate::stdx::monitor::Progress;
use crate::stdx::time::Timestamp;

const FRAME_BYTES: usize = 41;
/// What is read at once, and asked about in one question.
const BATCH_BYTES: usize = 4 << 20;
/// A body is sent once it has so much; one more chunk may lie on top.
const BODY_BYTES: usize = 6 << 20;

/// Where the chunks of a capture go.
pub trait Receiver: Send + Sync {
    /// Those of `ids` that are not there yet, by their places in it.
    fn missing(&self, ids: &[ChunkId]) -> Result<Vec<usize>, Error>;
    fn send(&self, frames: Vec<u8>) -> Result<(), Error>;
    /// Publishes what was sent.
    fn finish(&self, manifest: &Manifest) -> Result<Finished, Error>;
}

/// What a finished capture came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finished {
    Published {
        version: Version,
        id: VersionId,
    },
    /// So many chunks are gone again, and what is there must be asked anew.
    Incomplete {
        chunks: u64,
    },
}

/// How much of a disk travelled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub read_bytes: u64,
    pub chunks: u64,
    pub sent_chunks: u64,
    pub sent_bytes: u64,
}

/// Reads what the file systems of `source` use, and sends the chunks that the receiver lacks.
pub fn send_disk(
    source: &Source,
    now: Timestamp,
    receiver: &dyn Receiver,
    progress: &Progress,
) -> Result<(Manifest, Sent), Error> {
    let (header, content) = disk_content(source, now)?;
    Progress::add(&progress.total_bytes, total(&content.used));
    let sealer = Sealer::new().map_err(|source| Error::Read { what: "a compressor".to_owned(), source })?;
    let mut sender = Sender {
        receiver,
        progress,
        sealer,
        body: Vec::new(),
        sent: Sent::default(),
        extents: Vec::new(),
        zeros: content.zeros,
    };
    for range in &content.used {
        let (mut at, mut bytes) = (range.start, Vec::new());
        while at < range.end || !bytes.is_empty() {
            let known = bytes.len();
            let len = (range.end - at).min((BATCH_BYTES - known) as u64) as usize;
            bytes.resize(known + len, 0);
            source.content.read_exact_at(&mut bytes[known..], at).map_err(Error::read(&source.description))?;
            at += len as u64;
            let offset = at - bytes.len() as u64;
            let rest = sender.batch(&bytes, offset, at == range.end)?;
            bytes.drain(..rest);
        }
    }
    sender.flush()?;
    let manifest = Manifest { header, extents: sender.extents, zeros: merged(sender.zeros) };
    Ok((manifest, sender.sent))
}

struct Sender<'a> {
    receiver: &'a dyn Receiver,
    progress: &'a Progress,
    sealer: Sealer,
    body: Vec<u8>,
    sent: Sent,
    extents: Vec<Extent>,
    zeros: Vec<std::ops::Range<u64>>,
}

impl Sender<'_> {
    /// Takes the pieces of a batch as far as their cuts are certain; says how many bytes that are.
    fn batch(&mut self, bytes: &[u8], offset: u64, is_last: bool) -> Result<usize, Error> {
        let (pieces, rest) = Cutter::default().cut(bytes, is_last);
        let mut chunks: Vec<(ChunkId, &[u8])> = Vec::new();
        for piece in &pieces {
            let plain = &bytes[piece.range.clone()];
            let start = offset + piece.range.start as u64;
            let Some(id) = piece.chunk else {
                self.zeros.push(start..start + plain.len() as u64);
                continue;
            };
            self.extents.push(Extent { offset: start, len: plain.len() as u32, chunk: id });
            if !chunks.iter().any(|(known, _)| *known == id) {
                chunks.push((id, plain));
            }
        }
        let ids: Vec<ChunkId> = chunks.iter().map(|(id, _)| *id).collect();
        let missing = if ids.is_empty() { Vec::new() } else { self.receiver.missing(&ids)? };
        for (id, plain) in missing.into_iter().filter_map(|place| chunks.get(place)) {
            let sealed = self.sealer.seal(*id, plain);
            emit(&mut self.body, sealed);
            self.sent.sent_chunks += 1;
            if self.body.len() >= BODY_BYTES {
                self.flush()?;
            }
        }
        self.sent.chunks = self.extents.len() as u64;
        self.sent.read_bytes += rest as u64;
        Progress::add(&self.progress.done_bytes, rest as u64);
        Ok(rest)
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.body.is_empty() {
            return Ok(());
        }
        self.sent.sent_bytes += self.body.len() as u64;
        self.receiver.send(std::mem::take(&mut self.body))
    }
}

fn emit(body: &mut Vec<u8>, sealed: Sealed<'_>) {
    body.extend_from_slice(&sealed.id.0);
    body.push(sealed.encoding as u8);
    body.extend_from_slice(&sealed.plain_bytes.to_le_bytes());
    body.extend_from_slice(&(sealed.bytes.len() as u32).to_le_bytes());
    body.extend_from_slice(sealed.bytes);
}

/// The frames of a body; `None` when it is none. Nothing is proven about the bytes of a chunk yet.
pub fn parse(body: &[u8]) -> Option<Vec<Sealed<'_>>> {
    let mut frames = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let fields = Fields(rest.get(..FRAME_BYTES)?);
        let (id, encoding) = (ChunkId(fields.array(0)), Encoding::from_byte(fields.u8(32))?);
        let (plain_bytes, sealed_bytes) = (fields.le32(33), fields.le32(37) as usize);
        if plain_bytes as usize > CHUNK_BYTES_MAX {
            return None;
        }
        let bytes = rest[FRAME_BYTES..].get(..sealed_bytes)?;
        frames.push(Sealed { id, plain_bytes, encoding, bytes });
        rest = &rest[FRAME_BYTES + sealed_bytes..];
    }
    Some(frames)
}

/// Stores the chunks of a body; each is hashed first. Bytes by which the store grew.
pub fn receive(store: &LocalStore, body: &[u8], from: &str) -> Result<u64, Error> {
    let refused = |reason: String| Error::Refused { from: from.to_owned(), reason };
    let frames = parse(body).ok_or_else(|| refused("the body is no row of chunks".to_owned()))?;
    let verified = Verified::with_capacity(CHUNK_BYTES_MAX);
    let mut verified = verified.map_err(|source| Error::Read { what: "a decompressor".to_owned(), source })?;
    let mut upload = store.upload()?;
    for sealed in frames {
        verified.begin(0);
        verified.open(sealed).map_err(|damage| refused(format!("chunk {}: {damage}", sealed.id)))?;
        upload.put(sealed)?;
    }
    upload.close_pack()?;
    Ok(upload.stored_bytes())
}

/// Publishes a manifest that a machine made, unless a chunk of it is missing or the newest version is the same already.
pub fn publish(store: &LocalStore, key: &SigningKey, name: &str, manifest: &Manifest) -> Result<Finished, Error> {
    check_name(name)?;
    let upload = store.upload()?;
    let chunks: Vec<ChunkId> = manifest.extents.iter().map(|extent| extent.chunk).collect();
    let missing = chunks.iter().filter(|chunk| !store.has(chunk)).count();
    if missing > 0 {
        return Ok(Finished::Incomplete { chunks: missing as u64 });
    }
    let progress = Progress::default();
    let importer = Importer { store, key, now: manifest.header.created, progress: &progress };
    if let Some((version, id)) = importer.same(name, manifest)? {
        return Ok(Finished::Published { version, id });
    }
    let signed = Signed::sign(manifest, key);
    let version = upload.publish(name, &signed, &chunks)?;
    Ok(Finished::Published { version, id: signed.version() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::imaging::apply::{Options, make_match};
    use crate::imaging::target::Target;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// A store beside us, with what was sent to it counted.
    struct Beside<'a> {
        store: &'a LocalStore,
        key: &'a SigningKey,
        sends: AtomicUsize,
    }

    impl Receiver for Beside<'_> {
        fn missing(&self, ids: &[ChunkId]) -> Result<Vec<usize>, Error> {
            Ok((0..ids.len()).filter(|place| !self.store.has(&ids[*place])).collect())
        }

        fn send(&self, frames: Vec<u8>) -> Result<(), Error> {
            self.sends.fetch_add(1, Relaxed);
            receive(self.store, &frames, "a test").map(drop)
        }

        fn finish(&self, manifest: &Manifest) -> Result<Finished, Error> {
            publish(self.store, self.key, "captured", manifest)
        }
    }

    #[test]
    fn only_what_is_missing_travels_and_what_arrives_is_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::create(&folder.path().join("store")).unwrap();
        let key = SigningKey::create(&folder.path().join("key")).unwrap();
        let disk = folder.path().join("disk");
        let mut bytes: Vec<u8> = (0..2_500_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        bytes[3_000_000..6_000_000].fill(0);
        std::fs::write(&disk, &bytes).unwrap();
        let receiver = Beside { store: &store, key: &key, sends: AtomicUsize::new(0) };
        let progress = Progress::default();
        let send = || send_disk(&Source::raw(&disk).unwrap(), Timestamp::default(), &receiver, &progress).unwrap();
        let (manifest, sent) = send();
        assert!(sent.sent_bytes > 6_000_000 && receiver.sends.load(Relaxed) >= 1, "{sent:?}");
        let Finished::Published { version, id } = receiver.finish(&manifest).unwrap() else {
            panic!("chunks are missing")
        };
        assert_eq!(version.number, 1);
        let out = folder.path().join("out");
        make_match(&manifest, &store, &Target::open(&out).unwrap(), &Options::default(), &progress, &mut |_| {})
            .unwrap();
        assert!(std::fs::read(&out).unwrap() == bytes);

        let (again, sent) = send();
        assert_eq!((sent.sent_chunks, sent.sent_bytes), (0, 0), "the store has all of it");
        assert_eq!(receiver.finish(&again).unwrap(), Finished::Published { version, id });
    }

    #[test]
    fn a_chunk_that_is_not_what_its_name_says_is_never_stored() {
        let folder = tempfile::tempdir().unwrap();
        let store = LocalStore::create(folder.path()).unwrap();
        let plain = vec![7; 5000];
        let mut body = Vec::new();
        emit(
            &mut body,
            Sealed { id: ChunkId::of(b"other"), plain_bytes: 5000, encoding: Encoding::Stored, bytes: &plain },
        );
        let error = receive(&store, &body, "ws-1").unwrap_err().to_string();
        assert!(error.contains("ws-1") && !store.has(&ChunkId::of(b"other")), "{error}");
        let mut manifest_of_nothing = Manifest::parse(&sample()).unwrap();
        manifest_of_nothing.extents = vec![Extent { offset: 0, len: 5000, chunk: ChunkId::of(&plain) }];
        let key = SigningKey::create(&folder.path().join("key")).unwrap();
        let done = publish(&store, &key, "x", &manifest_of_nothing).unwrap();
        assert_eq!(done, Finished::Incomplete { chunks: 1 });
    }

    fn sample() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("disk");
        std::fs::write(&disk, vec![0; 8192]).unwrap();
        let (header, content) = disk_content(&Source::raw(&disk).unwrap(), Timestamp::default()).unwrap();
        Manifest { header, extents: Vec::new(), zeros: content.zeros }.emit()
    }

    proptest::proptest! {
        #[test]
        fn frames_come_back_as_they_were_and_no_bytes_make_the_parser_fail(
            plain in proptest::collection::vec(0u8.., 1..3000), junk in proptest::collection::vec(0u8.., 0..200)
        ) {
            let id = ChunkId::of(&plain);
            let mut body = Vec::new();
            for _ in 0..2 {
                emit(&mut body, Sealed { id, plain_bytes: plain.len() as u32, encoding: Encoding::Stored, bytes: &plain });
            }
            let frames = parse(&body).unwrap();
            proptest::prop_assert!(frames.len() == 2 && frames[1].id == id && frames[1].bytes == plain);
            body.extend(&junk);
            parse(&body);
            parse(&junk);
        }
    }
}
