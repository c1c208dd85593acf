//! What one core can do of each thing that an image costs: `cargo bench --bench limits -- FILE`, or `scripts/bench limits`.
//!
//! The file is cut into chunks as the store cuts it; each row is then done to all of them, and its CPU seconds are taken.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use remint::imaging::chunk::ChunkId;
use remint::imaging::chunker::cut;
use remint::stdx::buffer::is_zero;
use sha2::{Digest, Sha256};

/// Enough for a stable figure, little enough to be read from memory.
const BYTES_MAX: u64 = 512 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with("--")) else {
        println!("skipped: name a file of some hundred MB to measure with");
        return Ok(());
    };
    let mut bytes = Vec::new();
    File::open(&path)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
    bytes = bytes.chunks(64 << 10).filter(|piece| !is_zero(piece)).flatten().copied().collect();
    let chunks = chunks(&bytes);
    let mean = bytes.len() / chunks.len().max(1);
    println!(
        "{path}: {} MB without zeros, {} chunks of {mean} bytes on average",
        bytes.len() / 1_000_000,
        chunks.len()
    );
    row("cut (FastCDC)", &bytes, || chunks_len(&bytes));
    row("name: BLAKE3", &bytes, || chunks.iter().map(|chunk| usize::from(ChunkId::of(chunk).0[0])).sum());
    row("name: SHA-256 (sha2)", &bytes, || chunks.iter().map(|chunk| usize::from(Sha256::digest(chunk)[0])).sum());
    let ring = |chunk: &&[u8]| usize::from(ring::digest::digest(&ring::digest::SHA256, chunk).as_ref()[0]);
    row("name: SHA-256 (ring)", &bytes, || chunks.iter().map(ring).sum());
    for level in [1, 2, 3, 4] {
        let (sealed, stored) = compress(&chunks, level)?;
        let share = 100.0 * stored as f64 / bytes.len() as f64;
        row(&format!("zstd -{level} ({share:.1} %)"), &bytes, || {
            compress(&chunks, level).map_or(0, |(_, bytes)| bytes)
        });
        row(&format!("unzstd -{level}"), &bytes, || decompress(&sealed, &chunks));
    }
    Ok(())
}

fn chunks(bytes: &[u8]) -> Vec<&[u8]> {
    let mut chunks = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (chunk, more) = rest.split_at(cut(rest));
        chunks.push(chunk);
        rest = more;
    }
    chunks
}

fn chunks_len(bytes: &[u8]) -> usize {
    chunks(bytes).len()
}

fn compress(chunks: &[&[u8]], level: i32) -> std::io::Result<(Vec<Vec<u8>>, usize)> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    let sealed = chunks.iter().map(|chunk| compressor.compress(chunk)).collect::<std::io::Result<Vec<_>>>()?;
    let bytes = sealed.iter().zip(chunks).map(|(sealed, chunk)| sealed.len().min(chunk.len())).sum();
    Ok((sealed, bytes))
}

fn decompress(sealed: &[Vec<u8>], chunks: &[&[u8]]) -> usize {
    let Ok(mut decompressor) = zstd::bulk::Decompressor::new() else { return 0 };
    let mut room = vec![0; 1 << 20];
    let open = |(sealed, chunk): (&Vec<u8>, &&[u8])| {
        decompressor.decompress_to_buffer(sealed, &mut room[..chunk.len()]).unwrap_or_default()
    };
    sealed.iter().zip(chunks).map(open).sum()
}

fn row(name: &str, bytes: &[u8], work: impl FnOnce() -> usize) {
    let begun = processor_time();
    std::hint::black_box(work());
    let spent = (processor_time() - begun).as_secs_f64();
    println!("  {name:<24} {:8.0} MB for each CPU second", bytes.len() as f64 / 1e6 / spent.max(1e-9));
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
