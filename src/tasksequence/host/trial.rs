//! Memory, processors and disk under load.

use std::fs::File;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::stdx::io::{FileAt, ReadAt};
use crate::stdx::time::{Clock, SystemClock};
use crate::stdx::{ata, nvme};

use super::{Disk, HardwareTest, HostError, Watch};

/// Memory is taken in pieces, so that a machine with little of it says so instead of failing to allocate.
const MEMORY_PIECE: usize = 16 << 20;
const SAMPLE_BYTES: u64 = 1 << 20;
/// Each bit is seen as 0 and as 1, and beside a neighbour that differs.
const PATTERNS: [u64; 4] = [0, u64::MAX, 0xAAAA_AAAA_AAAA_AAAA, 0x5555_5555_5555_5555];

/// Runs the test; the evidence has the figures of each part.
pub fn run(test: &HardwareTest, watch: &mut dyn Watch) -> Result<Map<String, Value>, HostError> {
    let mut evidence = Map::new();
    evidence.insert("memory".into(), memory(test.memory_bytes, watch)?);
    evidence.insert("processor".into(), processor(test.processor, watch)?);
    if let Some((tested, samples)) = &test.disk {
        evidence.extend(disk(tested, *samples, watch)?);
    }
    Ok(evidence)
}

/// Reads samples all over the disk, and what it says of itself.
pub fn disk(disk: &Disk, samples: u32, watch: &mut dyn Watch) -> Result<Map<String, Value>, HostError> {
    let path = Path::new(&disk.path);
    Ok(Map::from_iter([("disk".into(), surface(path, samples, watch)?), ("smart".into(), smart(path)?)]))
}

fn memory(bytes: u64, watch: &mut dyn Watch) -> Result<Value, HostError> {
    let pieces = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(MEMORY_PIECE);
    let mut memory: Vec<Vec<u64>> = Vec::new();
    for _ in 0..pieces {
        let mut piece = Vec::new();
        piece.try_reserve_exact(MEMORY_PIECE / 8).map_err(|_| {
            HostError::new(format!("only {} of {bytes} bytes of memory could be had", memory.len() * MEMORY_PIECE))
                .hint("test less memory: some is in use by the system itself")
        })?;
        piece.resize(MEMORY_PIECE / 8, 0);
        memory.push(piece);
    }
    let begun = Instant::now();
    let steps = (PATTERNS.len() * pieces) as u64;
    for (round, pattern) in PATTERNS.into_iter().enumerate() {
        for piece in &mut memory {
            // The address goes into the pattern, so that lines of the address bus that stick are seen.
            piece.iter_mut().zip(0u64..).for_each(|(word, index)| *word = pattern ^ index);
        }
        for (number, piece) in memory.iter().enumerate() {
            go_on(watch)?;
            if let Some(index) = piece.iter().zip(0u64..).position(|(word, index)| *word != pattern ^ index) {
                let at = number * MEMORY_PIECE + index * 8;
                return Err(HostError::new(format!(
                    "memory is faulty: byte {at} of the tested range reads otherwise than it was written"
                ))
                .hint("exchange the memory modules one by one"));
            }
            watch.progress((round * pieces + number + 1) as u64, steps, "pieces", "memory");
        }
    }
    let tested = pieces * MEMORY_PIECE;
    Ok(json!({ "bytes": tested, "patterns": PATTERNS.len(), "seconds": begun.elapsed().as_secs_f64() }))
}

/// All processors hash the same data; one that disagrees computes wrongly.
fn processor(duration: Duration, watch: &mut dyn Watch) -> Result<Value, HostError> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let data: Vec<u8> = (0..SAMPLE_BYTES).map(|index| (index * 31 % 251) as u8).collect();
    let expected = blake3::hash(&data);
    let begun = Instant::now();
    let rounds = Mutex::new(Vec::new());
    let wrong = thread::scope(|scope| {
        let compute = || {
            let mut count = 0u64;
            while begun.elapsed() < duration {
                if blake3::hash(&data) != expected {
                    return true;
                }
                count += 1;
            }
            rounds.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(count);
            false
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(compute)).collect();
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::sleep(Duration::from_millis(100).min(duration));
            let done = begun.elapsed().min(duration).as_millis() as u64;
            watch.progress(done, duration.as_millis() as u64, "ms", "processors");
        }
        workers.into_iter().any(|worker| worker.join().unwrap_or(true))
    });
    if wrong {
        return Err(HostError::new("a processor computes wrongly: the same data gave another hash")
            .hint("look at its cooling and voltage; a machine that computes wrongly must not be used"));
    }
    let rounds = rounds.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let total: u64 = rounds.iter().sum();
    let rate = total * SAMPLE_BYTES / 1_000_000 / (begun.elapsed().as_secs().max(1));
    Ok(json!({ "threads": threads, "rounds": total, "megabytes_per_second": rate }))
}

/// What the disk says of itself; null where it says nothing (virtual disks, most USB sticks).
fn smart(path: &Path) -> Result<Value, HostError> {
    let Ok(disk) = File::open(path) else { return Ok(Value::Null) };
    let failing =
        |what: String| HostError::new(format!("{} {what}", path.display())).hint("the disk is failing: exchange it");
    if let Ok(health) = nvme::health(&disk) {
        if health.warning != 0 {
            return Err(failing(format!("warns of itself ({:#04x})", health.warning)));
        }
        return Ok(json!({
            "celsius": health.celsius, "percent_used": health.percent_used, "hours": health.hours,
            "media_errors": health.media_errors,
        }));
    }
    let Ok(attributes) = ata::attributes(&disk) else { return Ok(Value::Null) };
    let raw = |id: u8| attributes.iter().find(|attribute| attribute.id == id).map(|attribute| attribute.raw);
    for (id, what) in [(197, "sectors wait to be given up"), (198, "sectors cannot be read")] {
        if let Some(count) = raw(id).filter(|count| *count > 0) {
            return Err(failing(format!("says that {count} of its {what}")));
        }
    }
    Ok(
        json!({ "reallocated": raw(5), "hours": raw(9).map(|hours| hours & 0xFFFF_FFFF), "celsius": raw(194).map(|c| c & 0xFF) }),
    )
}

/// Reads samples spread over the disk, the first and the last megabyte among them.
fn surface(path: &Path, samples: u32, watch: &mut dyn Watch) -> Result<Value, HostError> {
    let wrong = |error: std::io::Error| HostError::new(format!("read {}: {error}", path.display()));
    let disk = File::open(path).and_then(FileAt::new).map_err(wrong)?;
    let mut buffer = vec![0u8; SAMPLE_BYTES as usize];
    let last = disk.size().saturating_sub(SAMPLE_BYTES);
    let (mut slowest, begun) = (Duration::ZERO, Instant::now());
    for number in 0..u64::from(samples) {
        go_on(watch)?;
        let offset = last / u64::from(samples).saturating_sub(1).max(1) * number / 4096 * 4096;
        let piece = &mut buffer[..SAMPLE_BYTES.min(disk.size()) as usize];
        let one = Instant::now();
        disk.read_exact_at(piece, offset.min(last)).map_err(|error| {
            HostError::new(format!("{} cannot be read at byte {offset}: {error}", path.display()))
                .hint("the disk is failing: exchange it")
        })?;
        slowest = slowest.max(one.elapsed());
        watch.progress(number + 1, u64::from(samples), "samples", "disk");
    }
    Ok(json!({
        "disk": path, "samples": samples, "bytes": u64::from(samples) * SAMPLE_BYTES.min(disk.size()),
        "slowest_milliseconds": slowest.as_millis() as u64, "seconds": begun.elapsed().as_secs_f64(),
    }))
}

fn go_on(watch: &mut dyn Watch) -> Result<(), HostError> {
    watch.must_stop(SystemClock.now()).map_or(Ok(()), |why| Err(HostError::new(why)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::time::Timestamp;
    use crate::tasksequence::host::Disk;

    struct Silent;

    impl Watch for Silent {
        fn line(&mut self, _: Timestamp, _: &str) {}
        fn progress(&mut self, _: u64, _: u64, _: &str, _: &str) {}
        fn answer(&mut self) -> Option<Value> {
            None
        }
        fn must_stop(&mut self, _: Timestamp) -> Option<&'static str> {
            None
        }
    }

    #[test]
    fn a_sound_machine_passes_and_leaves_figures() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(5 << 20).unwrap();
        let path = file.path().display().to_string();
        let disk = Disk { path, bytes: 5 << 20, serial: None, model: None, rotational: false, removable: false };
        let test = HardwareTest {
            memory_bytes: 1,
            processor: Duration::from_millis(20),
            disk: Some((disk, 9)),
            network: Duration::ZERO,
        };
        let evidence = run(&test, &mut Silent).unwrap();
        assert_eq!(evidence["memory"]["bytes"], MEMORY_PIECE);
        assert_eq!(evidence["disk"]["bytes"], 9 << 20);
        assert_eq!(evidence["smart"], Value::Null, "a file says nothing of itself");
        assert!(evidence["processor"]["rounds"].as_u64().unwrap() > 0);
    }

    #[test]
    fn a_disk_that_cannot_be_read_fails() {
        let error = surface(Path::new("/no/such/disk"), 3, &mut Silent).unwrap_err();
        assert!(error.message.contains("/no/such/disk"));
    }
}
