//! Starting another kernel without the firmware.

#![expect(unsafe_code, reason = "kexec_file_load(2) has no safe wrapper")]

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;

/// Has the kernel take in another one with its initramfs and command line; the next restart by kexec starts it.
pub fn load(kernel: &File, initramfs: &File, command_line: &str) -> io::Result<()> {
    let text = CString::new(command_line)?;
    let bytes = text.as_bytes_with_nul().len();
    // SAFETY: both descriptors are open for the whole call, and the pointer is to a string of `bytes` bytes with its NUL.
    let done = unsafe {
        libc::syscall(libc::SYS_kexec_file_load, kernel.as_raw_fd(), initramfs.as_raw_fd(), bytes, text.as_ptr(), 0)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether one was taken in.
pub fn is_loaded() -> bool {
    fs::read_to_string("/sys/kernel/kexec_loaded").is_ok_and(|text| text.trim() == "1")
}
