//! libFuzzer's program: `REMINT_FUZZ=TARGET remint-fuzz CORPUS... [-OPTION=...]`. With `REMINT_FUZZ_SEEDS=FOLDER` it makes the
//! target's seeds instead. Started by `scripts/fuzz`.

#![no_main]

mod memory;
mod seeds;
mod targets;

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use targets::sectors::{HEADER_BYTES, RECORD_BYTES};
use targets::{Shape, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("REMINT_FUZZ").unwrap_or_default();
    let names: Vec<&str> = targets::TARGETS.iter().map(|target| target.name).collect();
    targets::find(&name).unwrap_or_else(|| panic!("REMINT_FUZZ is `{name}`, none of {}", names.join(" ")))
});

fuzz_target!(
    init: {
        if let Some(folder) = std::env::var_os("REMINT_FUZZ_SEEDS") {
            seeds::make(&TARGET, Path::new(&folder));
            std::process::exit(0);
        }
    },
    |input: &[u8]| memory::limited(|| (TARGET.run)(input))
);

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match TARGET.shape {
        Shape::Sectors if size > HEADER_BYTES => mutate_sectors(data, size, max_size, seed),
        _ => fuzzer_mutate(data, size, max_size),
    }
});

/// One record is mutated in its own bounds, so that all others stay at their places. Now and then a sector goes to another
/// place, comes a second time or goes away, and the size of the disk changes.
fn mutate_sectors(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let records = (size - HEADER_BYTES) / RECORD_BYTES;
    let (choice, at) = (seed % 64, (seed / 64) as usize % records.max(1));
    let record = HEADER_BYTES + at * RECORD_BYTES;
    let end = HEADER_BYTES + records * RECORD_BYTES;
    match choice {
        0 | 1 => {
            fuzzer_mutate(&mut data[..HEADER_BYTES], HEADER_BYTES, HEADER_BYTES);
            end
        }
        2 if records > 1 => {
            data.copy_within(record + RECORD_BYTES..end, record);
            end - RECORD_BYTES
        }
        3 if end + RECORD_BYTES <= max_size => {
            data.copy_within(record..record + RECORD_BYTES, end);
            fuzzer_mutate(&mut data[end..end + 4], 4, 4);
            end + RECORD_BYTES
        }
        4 if records > 0 => {
            fuzzer_mutate(&mut data[record..record + 4], 4, 4);
            end
        }
        _ if records > 0 => {
            let content = &mut data[record + 4..record + RECORD_BYTES];
            let len = content.len();
            fuzzer_mutate(content, len, len);
            end
        }
        _ => end.max(HEADER_BYTES),
    }
}
