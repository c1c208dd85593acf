//! Holes of sparse files: what was never written reads as zero without being read.

use std::fs::File;
use std::io;
use std::ops::Range;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

/// The ranges of `file` that hold data, sorted; all of it where the file system keeps no holes, or for a device.
pub fn data_ranges(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, at, Whence::SeekData) {
            Ok(start) => start,
            Err(Errno::ENXIO) => break,
            Err(Errno::EINVAL) if at == 0 => return Ok(std::iter::once(0..size).collect()),
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, start, Whence::SeekHole)?.min(size);
        if start >= end {
            break;
        }
        ranges.push(start..end);
        at = end;
    }
    Ok(ranges)
}

/// Makes `range` of a regular file a hole. `false` when its file system has none.
pub fn punch(file: &File, range: &Range<u64>) -> io::Result<bool> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, offset(range.start)?, offset(range.end - range.start)?) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(false),
        other => other.map(|()| true).map_err(io::Error::from),
    }
}

fn seek(file: &File, at: u64, whence: Whence) -> Result<u64, Errno> {
    let found = lseek(file, i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?, whence)?;
    u64::try_from(found).map_err(|_| Errno::EOVERFLOW)
}

fn offset(bytes: u64) -> io::Result<i64> {
    i64::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_found_and_made() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 << 20).unwrap();
        assert!(data_ranges(&file, 4 << 20).unwrap().is_empty());
        file.write_all_at(&[1; 65536], 1 << 20).unwrap();
        file.write_all_at(&[1; 65536], 3 << 20).unwrap();
        let expected = [1 << 20..(1 << 20) + 65536, 3 << 20..(3 << 20) + 65536];
        assert_eq!(data_ranges(&file, 4 << 20).unwrap(), expected);
        assert!(punch(&file, &expected[0]).unwrap());
        assert_eq!(data_ranges(&file, 4 << 20).unwrap(), expected[1..]);
    }
}
