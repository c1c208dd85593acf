//! A shell on the machine's own console: for a run in debug mode that waits before a step, and only where the boot
//! environment was built with one (`remint boot build --debug-shell`). Nothing that came over the network reaches it.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus};

use super::terminal::Terminal;

const PROGRAM: &str = "/usr/sbin/busybox";

pub fn is_there() -> bool {
    Path::new(PROGRAM).exists()
}

/// Gives the console on which a key was pressed last to a shell, until that ends.
pub fn open(terminal: &Terminal) -> io::Result<ExitStatus> {
    let console = terminal.last_console().ok_or_else(|| io::Error::other("no key was pressed on any console"))?;
    let output = OpenOptions::new().write(true).open(console)?;
    let (keys, typed) = io::pipe()?;
    let mut command = Command::new(PROGRAM);
    command.args(["sh", "-i"]).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("PS1", "remint debug # ");
    command.current_dir("/").stdin(keys).stdout(output.try_clone()?).stderr(output);
    let mut shell = command.spawn()?;
    // The command holds the other end of what is typed.
    drop(command);
    terminal.give_keys_to(Some(typed));
    let ended = shell.wait();
    terminal.give_keys_to(None);
    ended
}
