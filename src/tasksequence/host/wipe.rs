//! Erasing a disk, and the proof.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::stdx::io::{FileAt, ReadAt};
use crate::stdx::nvme::{self, Sanitized};
use crate::stdx::time::{Clock, SystemClock};
use crate::stdx::{ata, blockdev};

use super::{HostError, Watch, WipeMethod, Wiped};

/// How often a drive that erases itself is asked how far it is.
const SANITIZE_LOOK: Duration = Duration::from_secs(2);
const PIECE: usize = 4 << 20;
/// Devices refuse discards that are too large; a gigabyte is accepted by all that Linux drives.
const DISCARD_BYTES: u64 = 1 << 30;

/// Erases all of `path`, syncs it, and reads every byte back past the cache.
pub fn wipe(path: &Path, method: WipeMethod, watch: &mut dyn Watch) -> Result<Wiped, HostError> {
    let wrong = |what: &'static str| failed(path, what);
    let file = File::options().read(true).write(true).custom_flags(libc::O_EXCL).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => HostError::new(format!("{} is in use", path.display()))
            .hint("something on it is mounted or part of an array"),
        _ => wrong("open")(error),
    })?;
    let disk = FileAt::new(file).map_err(wrong("ask the size of"))?;
    match method {
        WipeMethod::Overwrite => overwrite(&disk, watch).map_err(|error| stopped_or(error, wrong("overwrite")))?,
        WipeMethod::Discard => discard(&disk, watch).map_err(|error| {
            stopped_or(error, wrong("discard")).hint("the disk does not take discards: use `method: overwrite`")
        })?,
        WipeMethod::NvmeFormat => nvme::format(disk.file()).map_err(itself(&wrong))?,
        WipeMethod::NvmeSanitize => sanitize(&disk, watch).map_err(itself(&wrong))?,
        WipeMethod::AtaSecureErase => ata::secure_erase(disk.file()).map_err(itself(&wrong))?,
    }
    disk.file().sync_all().map_err(wrong("sync"))?;
    let read_back_bytes = read_back(&disk, method, watch).map_err(|error| stopped_or(error, wrong("read back")))?;
    Ok(Wiped { bytes: disk.size(), read_back_bytes })
}

/// Why a drive did not erase itself.
fn itself<F: Fn(io::Error) -> HostError>(wrong: &impl Fn(&'static str) -> F) -> impl Fn(io::Error) -> HostError {
    let refused = wrong("have the drive erase itself, which is");
    move |error| {
        let hint = "use `method: overwrite`; a drive whose security is frozen takes it after it was without power";
        stopped_or(error, &refused).hint(hint)
    }
}

/// The drive goes on by itself; this waits for its end.
fn sanitize(disk: &FileAt, watch: &mut dyn Watch) -> io::Result<()> {
    nvme::sanitize(disk.file())?;
    loop {
        match nvme::sanitized(disk.file())? {
            Sanitized::Done => return Ok(()),
            Sanitized::Failed => return Err(io::Error::other("the drive says that it failed")),
            Sanitized::Under(share) => {
                let done = disk.size() / 65_536 * u64::from(share);
                watch.progress(done, disk.size() * 2, "bytes", "the drive erases itself");
                go_on(watch)?;
                thread::sleep(SANITIZE_LOOK);
            }
        }
    }
}

fn failed(path: &Path, what: &'static str) -> impl Fn(io::Error) -> HostError {
    let name = path.display().to_string();
    move |error| HostError::new(format!("{what} {name}: {error}"))
}

fn stopped_or(error: io::Error, otherwise: impl Fn(io::Error) -> HostError) -> HostError {
    if error.kind() == ErrorKind::Interrupted { HostError::new(error.to_string()) } else { otherwise(error) }
}

fn overwrite(disk: &FileAt, watch: &mut dyn Watch) -> io::Result<()> {
    let zeros = vec![0u8; PIECE];
    for (offset, len) in pieces(disk.size(), PIECE as u64) {
        go_on(watch)?;
        disk.file().write_all_at(&zeros[..len as usize], offset)?;
        watch.progress(offset + len, disk.size() * 2, "bytes", "writing");
    }
    Ok(())
}

fn discard(disk: &FileAt, watch: &mut dyn Watch) -> io::Result<()> {
    for (offset, len) in pieces(disk.size(), DISCARD_BYTES) {
        go_on(watch)?;
        blockdev::discard(disk.file(), offset, len)?;
    }
    Ok(())
}

/// Reads everything; the first byte that says something is an error that says where. A drive that erased itself may
/// read as ones.
fn read_back(disk: &FileAt, method: WipeMethod, watch: &mut dyn Watch) -> io::Result<u64> {
    // What was written must come from the disk and not from memory.
    posix_fadvise(disk.file(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let mut buffer = vec![0u8; PIECE];
    let mut read = 0;
    for (offset, len) in pieces(disk.size(), PIECE as u64) {
        go_on(watch)?;
        let piece = &mut buffer[..len as usize];
        disk.read_exact_at(piece, offset)?;
        let ones = !matches!(method, WipeMethod::Overwrite | WipeMethod::Discard);
        let says = |byte: &u8| *byte != 0 && !(ones && *byte == 0xFF);
        if let Some(at) = piece.iter().position(says) {
            let text = format!("byte {} still reads {:#04x}", offset + at as u64, piece[at]);
            return Err(io::Error::other(text));
        }
        read += len;
        watch.progress(disk.size() + read, disk.size() * 2, "bytes", "reading back");
    }
    Ok(read)
}

fn go_on(watch: &mut dyn Watch) -> io::Result<()> {
    match watch.must_stop(SystemClock.now()) {
        Some(why) => Err(io::Error::new(ErrorKind::Interrupted, why)),
        None => Ok(()),
    }
}

fn pieces(size: u64, most: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..size.div_ceil(most)).map(move |index| (index * most, most.min(size - index * most)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::time::Timestamp;
    use serde_json::Value;

    #[derive(Default)]
    struct Silent(bool);

    impl Watch for Silent {
        fn line(&mut self, _: Timestamp, _: &str) {}
        fn progress(&mut self, _: u64, _: u64, _: &str, _: &str) {}
        fn answer(&mut self) -> Option<Value> {
            None
        }
        fn must_stop(&mut self, _: Timestamp) -> Option<&'static str> {
            self.0.then_some("the run was cancelled")
        }
    }

    fn marked(bytes: usize) -> tempfile::NamedTempFile {
        let disk = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(disk.path(), b"MARKER".repeat(bytes / 6 + 1)).unwrap();
        disk.as_file().set_len(bytes as u64).unwrap();
        disk
    }

    #[test]
    fn nothing_of_a_marker_is_found_after_an_overwrite_and_all_of_it_was_read_back() {
        let disk = marked(PIECE + 12_345);
        let wiped = wipe(disk.path(), WipeMethod::Overwrite, &mut Silent::default()).unwrap();
        assert_eq!(wiped, Wiped { bytes: (PIECE + 12_345) as u64, read_back_bytes: (PIECE + 12_345) as u64 });
        assert!(std::fs::read(disk.path()).unwrap().iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_disk_that_refuses_fails_and_what_is_left_is_found() {
        let disk = marked(10_000);
        let refused = wipe(disk.path(), WipeMethod::Discard, &mut Silent::default()).unwrap_err();
        assert!(refused.hint.unwrap().contains("overwrite"), "a file takes no discard");
        let left =
            read_back(&FileAt::new(disk.reopen().unwrap()).unwrap(), WipeMethod::Overwrite, &mut Silent::default())
                .unwrap_err();
        assert_eq!(left.to_string(), "byte 0 still reads 0x4d");
        for method in [WipeMethod::NvmeFormat, WipeMethod::NvmeSanitize, WipeMethod::AtaSecureErase] {
            let refused = wipe(disk.path(), method, &mut Silent::default()).unwrap_err();
            assert!(refused.message.starts_with("have the drive erase itself"), "{refused}");
        }
        let stopped = wipe(disk.path(), WipeMethod::Overwrite, &mut Silent(true)).unwrap_err();
        assert_eq!(stopped.message, "the run was cancelled");
    }
}
