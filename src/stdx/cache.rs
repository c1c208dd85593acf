//! Whether bytes of a file can be had without asking the disk.
#![expect(unsafe_code, reason = "preadv2 with flags has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Whether the byte at `offset` lies in the page cache; `true` too where the file system does not say.
pub fn is_cached(file: &File, offset: u64) -> bool {
    let mut byte = 0u8;
    let part = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let Ok(offset) = libc::off_t::try_from(offset) else { return false };
    // SAFETY: the descriptor is open, the one part points to a live byte, and the call writes at most that one.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, offset, libc::RWF_NOWAIT) };
    read == 1 || (read < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    #[test]
    fn what_was_just_written_is_cached_and_what_is_behind_the_end_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 100_000]).unwrap();
        assert!(super::is_cached(&file, 50_000));
        assert!(!super::is_cached(&file, 200_000));
        assert!(!super::is_cached(&file, u64::MAX));
    }
}
