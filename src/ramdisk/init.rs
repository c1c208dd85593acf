//! The first process: mounts, starts the worker, reaps, and restarts the machine when the worker is done or dead.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout};

use super::terminal::Terminal;
use crate::stdx::kexec;

/// Where the worker's standard error goes: a panic's message, the runtime's last words.
const LAST_WORDS: &str = "/run/worker.stderr";
/// How long the reason of a failure stays on the screen before the machine restarts by itself.
const RESTART_AFTER: Duration = Duration::from_secs(120);

/// Runs as process 1 and never returns: whatever fails is shown, and then the machine restarts.
pub fn main() -> ! {
    let mounted = mount_all();
    let consoles = open_standard_streams();
    let terminal = Terminal::open(Path::new("/sys"), Path::new("/dev"), super::terminal::Painting::OnDemand);
    match mounted.and(consoles).and_then(|()| supervise()) {
        Ok(Ending::Restart) => restart(),
        Ok(Ending::PowerOff) => end(RebootMode::RB_POWER_OFF),
        Err(reason) => {
            terminal.trouble(format!("go on: {reason}"), Some(hint()));
            terminal.wait_for_enter(RESTART_AFTER);
            restart()
        }
    }
}

/// What the worker wants of the machine in the end; its exit code says which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Restart,
    PowerOff,
}

impl Ending {
    const POWER_OFF_CODE: u8 = 10;

    pub fn exit_code(self) -> u8 {
        if self == Ending::PowerOff { Ending::POWER_OFF_CODE } else { 0 }
    }

    fn of(code: i32) -> Option<Ending> {
        match code {
            0 => Some(Ending::Restart),
            code if code == i32::from(Ending::POWER_OFF_CODE) => Some(Ending::PowerOff),
            _ => None,
        }
    }
}

fn hint() -> String {
    format!("press Enter to restart this machine; it restarts by itself in {} seconds", RESTART_AFTER.as_secs())
}

/// Starts the worker and waits for it.
fn supervise() -> io::Result<Ending> {
    let last_words = File::create(LAST_WORDS)?;
    let worker = Command::new("/proc/self/exe").arg("ramdisk").stdin(Stdio::null()).stderr(last_words).spawn()?;
    let worker = Pid::from_raw(worker.id().cast_signed());
    let why = loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, code)) if pid == worker => match Ending::of(code) {
                Some(ending) => return Ok(ending),
                None => break format!("ended with code {code}"),
            },
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == worker => break format!("was ended by {signal}"),
            Err(Errno::ECHILD) => break "is gone".to_owned(),
            Ok(_) | Err(_) => {}
        }
    };
    let words = fs::read(LAST_WORDS).unwrap_or_default();
    let words = String::from_utf8_lossy(&words[words.len().saturating_sub(600)..]).trim().replace('\n', " ");
    Err(io::Error::other(format!("the boot environment's worker {why}. {words}")))
}

/// Flushes what was written and restarts, into another kernel when a step has loaded one.
pub fn restart() -> ! {
    if kexec::is_loaded() {
        nix::unistd::sync();
        let _ = reboot(RebootMode::RB_KEXEC);
    }
    end(RebootMode::RB_AUTOBOOT)
}

/// Where the kernel refuses (a container), waits for ever: the first process must not end.
fn end(mode: RebootMode) -> ! {
    nix::unistd::sync();
    let _ = reboot(mode);
    loop {
        std::thread::park();
    }
}

/// Mounts what programs expect. What the kernel mounted already (`CONFIG_DEVTMPFS_MOUNT`) is fine.
fn mount_all() -> io::Result<()> {
    let nothing = MsFlags::empty();
    let no_programs = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for (kind, target, flags) in [
        ("devtmpfs", "/dev", MsFlags::MS_NOSUID),
        ("proc", "/proc", no_programs),
        ("sysfs", "/sys", no_programs),
        ("tmpfs", "/run", MsFlags::MS_NOSUID | MsFlags::MS_NODEV),
        ("tmpfs", "/tmp", MsFlags::MS_NOSUID | MsFlags::MS_NODEV),
        ("devpts", "/dev/pts", nothing),
    ] {
        fs::create_dir_all(target)?;
        match mount(Some(kind), target, Some(kind), flags, None::<&str>) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => return Err(io::Error::other(format!("mount {target}: {error}"))),
        }
    }
    link_modprobe()
}

/// The kernel asks `/sbin/modprobe` for file systems and protocols; that is this program too.
fn link_modprobe() -> io::Result<()> {
    fs::create_dir_all("/sbin")?;
    match std::os::unix::fs::symlink("/init", "/sbin/modprobe") {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// EFI variables, where the firmware has them. Called after the drivers, one of which may be efivarfs.
pub fn mount_efivars() {
    const FOLDER: &str = "/sys/firmware/efi/efivars";
    if Path::new(FOLDER).exists() {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        // Without them a step that needs them says so itself.
        let _ = mount(Some("efivarfs"), FOLDER, Some("efivarfs"), flags, None::<&str>);
    }
}

/// An initramfs without `/dev/console` starts its first process with no open files at all.
fn open_standard_streams() -> io::Result<()> {
    let open = |path: &str| OpenOptions::new().read(true).write(true).open(path);
    let console = open("/dev/console").or_else(|_| open("/dev/null"))?;
    dup2_stdin(&console)?;
    dup2_stdout(&console)?;
    dup2_stderr(&console)?;
    Ok(())
}
