//! Starting programs in another root.

#![expect(unsafe_code, reason = "a closure between fork and exec, kept to two system calls")]

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Has `command` see `root` as `/` and start there. The program is looked up in `root`.
pub fn change_root(command: &mut Command, root: &Path) -> io::Result<()> {
    let root = CString::new(root.as_os_str().as_bytes())?;
    let change = move || {
        // SAFETY: both calls take a pointer to a string that ends in NUL and lives as long as the closure that owns it.
        let done = unsafe { libc::chroot(root.as_ptr()) == 0 && libc::chdir(c"/".as_ptr()) == 0 };
        if done { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // SAFETY: between fork and exec the closure makes two system calls and reads errno: no allocation, no lock.
    unsafe { command.pre_exec(change) };
    Ok(())
}
