//! Extended attributes, of open files and of paths whose last component is not followed.
#![expect(unsafe_code, reason = "no safe wrapper of these five calls is among the dependencies")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The kernel's limit for a value and for the list of names.
const BYTES_MAX: usize = 65536;

pub fn set(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the descriptor is open while it is borrowed, the name ends in NUL, and the value's length goes with it.
    let done = unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub fn set_at(path: &Path, name: &CStr, value: &[u8]) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: path and name end in NUL, and the value's length goes with it.
    let done = unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub fn remove_at(path: &Path, name: &CStr) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: path and name end in NUL.
    let done = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The value, at most 64 KiB.
pub fn value_at(path: &Path, name: &CStr) -> io::Result<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut value = vec![0; BYTES_MAX];
    // SAFETY: path and name end in NUL, and the buffer is as long as it is said to be.
    let len = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    value.truncate(len);
    Ok(value)
}

/// The names, without those that only some callers see (the kernel leaves them out).
pub fn names_at(path: &Path) -> io::Result<Vec<CString>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut list = vec![0u8; BYTES_MAX];
    // SAFETY: the path ends in NUL, and the buffer is as long as it is said to be.
    let len = unsafe { libc::llistxattr(path.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let names = list[..len].split_inclusive(|byte| *byte == 0);
    Ok(names.filter_map(|name| CStr::from_bytes_with_nul(name).ok()).map(CStr::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn an_attribute_comes_back_where_the_file_system_holds_any() {
        let file = tempfile::NamedTempFile::new().unwrap();
        match set(file.as_file().as_fd(), c"user.remint", b"a\0b") {
            Err(error) => println!("skipped: the temporary folder holds no attributes: {error}"),
            Ok(()) => {
                set_at(file.path(), c"user.other", b"").unwrap();
                assert_eq!(value_at(file.path(), c"user.remint").unwrap(), b"a\0b");
                let names = names_at(file.path()).unwrap();
                assert!([c"user.remint", c"user.other"].iter().all(|name| names.iter().any(|n| n.as_c_str() == *name)));
            }
        }
    }
}
