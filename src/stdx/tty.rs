//! Terminals.

#![expect(unsafe_code, reason = "TIOCGWINSZ fills a struct that the caller points to")]

use std::fs::File;
use std::os::fd::AsRawFd;

nix::ioctl_read_bad!(tiocgwinsz, libc::TIOCGWINSZ, libc::winsize);

/// (columns, rows) of a terminal; `None` for what is not one.
pub fn window_size(terminal: &File) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and TIOCGWINSZ writes one `winsize` (ioctl_tty(2)), which outlives the call.
    unsafe { tiocgwinsz(terminal.as_raw_fd(), &raw mut size) }.ok()?;
    Some((size.ws_col, size.ws_row))
}
