//! The consoles of the machine: displays are painted, serial lines are written as a log.

use std::fs::{self, File, OpenOptions};
use std::io::{PipeWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::screen::{Event, State};

/// A display is painted at most this often.
const PAINT_EVERY: Duration = Duration::from_millis(250);

/// Who paints the display: the worker all the time, the first process only what it has to say itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Painting {
    Continuous,
    OnDemand,
}

/// A handle on all consoles, to be cloned freely.
#[derive(Clone)]
pub struct Terminal {
    shared: Arc<Shared>,
}

struct Shared {
    inner: Mutex<Inner>,
    keys: Mutex<u64>,
    /// The console on which a key was pressed last.
    last_console: Mutex<Option<PathBuf>>,
    /// The program that gets what is typed.
    program: Mutex<Option<PipeWriter>>,
    typed: Mutex<Option<String>>,
    key_pressed: Condvar,
    consoles: Vec<PathBuf>,
    readers: Once,
    started: Instant,
}

struct Inner {
    state: State,
    serial: Vec<File>,
    changed: bool,
}

impl Terminal {
    /// Opens what the kernel takes for a console (`/sys/class/tty/console/active`), the first serial port if there is one,
    /// and the display if there is one. A console that cannot be opened is none.
    pub fn open(sys: &Path, dev: &Path, painting: Painting) -> Terminal {
        let serial = serial_names(sys).iter().filter_map(|name| open_tty(&dev.join(name))).collect();
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner { state: State::default(), serial, changed: painting == Painting::Continuous }),
            keys: Mutex::new(0),
            last_console: Mutex::default(),
            program: Mutex::default(),
            typed: Mutex::new(None),
            key_pressed: Condvar::new(),
            consoles: serial_names(sys).into_iter().chain(["tty0".to_owned()]).map(|name| dev.join(name)).collect(),
            readers: Once::new(),
            started: Instant::now(),
        });
        let terminal = Terminal { shared };
        if let Some(display) = open_tty(&dev.join("tty0")) {
            terminal.start_painter(display);
        }
        terminal
    }

    pub fn show(&self, event: Event) {
        let mut inner = self.lock();
        let lines = inner.state.handle(self.shared.started.elapsed(), event);
        inner.changed = true;
        for line in lines {
            for serial in &mut inner.serial {
                let _ = write!(serial, "remint: {line}\r\n");
            }
        }
    }

    pub fn activity(&self, text: impl Into<String>) {
        self.show(Event::Activity(text.into()));
    }

    pub fn trouble(&self, text: impl Into<String>, hint: Option<String>) {
        self.show(Event::Trouble { text: text.into(), hint });
    }

    pub fn log(&self, line: impl Into<String>) {
        self.show(Event::Log(line.into()));
    }

    /// Waits until somebody presses Enter on any console, at most `patience`; whether somebody did. The consoles are
    /// read from the first call on: a reader that nobody waits for would take the keys from another process.
    pub fn wait_for_enter(&self, patience: Duration) -> bool {
        self.start_readers();
        let keys = self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *keys;
        let waited = self.shared.key_pressed.wait_timeout_while(keys, patience, |now| *now == before);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    fn start_readers(&self) {
        self.shared.readers.call_once(|| self.shared.consoles.iter().for_each(|path| self.start_reader(path)));
    }

    /// How often somebody has pressed Enter by now, on any console.
    pub fn keys(&self) -> u64 {
        self.start_readers();
        *self.shared.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn last_console(&self) -> Option<PathBuf> {
        self.shared.last_console.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is typed from now on goes to a program; with `None` it counts as keys again.
    pub fn give_keys_to(&self, program: Option<PipeWriter>) {
        *self.shared.program.lock().unwrap_or_else(PoisonError::into_inner) = program;
    }

    /// The last line that somebody has typed on any console, once.
    pub fn typed(&self) -> Option<String> {
        self.shared.typed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends when the process does. Painting takes the state's lock only for as long as it copies it.
    fn start_painter(&self, mut display: File) {
        let terminal = self.clone();
        thread::spawn(move || {
            loop {
                let changed = {
                    let mut inner = terminal.lock();
                    std::mem::take(&mut inner.changed).then(|| inner.state.clone())
                };
                if let Some(state) = changed {
                    let (columns, rows) = size_of(&display);
                    let _ = display.write_all(frame(&state.paint(columns, rows)).as_bytes());
                }
                thread::sleep(PAINT_EVERY);
            }
        });
    }

    fn start_reader(&self, path: &Path) {
        let Ok(mut console) = OpenOptions::new().read(true).open(path) else { return };
        let (shared, path) = (self.shared.clone(), path.to_owned());
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok(count) = console.read(&mut buffer) {
                if count == 0 {
                    return;
                }
                if let Some(program) = &mut *shared.program.lock().unwrap_or_else(PoisonError::into_inner) {
                    // A program that has ended reads nothing any more.
                    let _ = program.write_all(&buffer[..count]);
                    continue;
                }
                *shared.last_console.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.clone());
                let line = String::from_utf8_lossy(&buffer[..count]).trim().to_owned();
                if !line.is_empty() {
                    *shared.typed.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
                }
                *shared.keys.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                shared.key_pressed.notify_all();
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The serial consoles the kernel writes to, and `ttyS0` where a port is really there (type 0 is PORT_UNKNOWN).
fn serial_names(sys: &Path) -> Vec<String> {
    let active = fs::read_to_string(sys.join("class/tty/console/active")).unwrap_or_default();
    let is_serial = |name: &&str| !name.trim_start_matches("tty").starts_with(|c: char| c.is_ascii_digit());
    let mut names: Vec<String> = active.split_ascii_whitespace().filter(is_serial).map(str::to_owned).collect();
    let port = fs::read_to_string(sys.join("class/tty/ttyS0/type")).unwrap_or_default();
    if !names.iter().any(|name| name == "ttyS0") && !matches!(port.trim(), "" | "0") {
        names.push("ttyS0".into());
    }
    names
}

fn open_tty(path: &Path) -> Option<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(path).ok()
}

/// Columns and rows, 80 by 25 where the console does not know (TIOCGWINSZ, ioctl_tty(2)).
fn size_of(display: &File) -> (usize, usize) {
    let (columns, rows) = crate::stdx::tty::window_size(display).unwrap_or((80, 25));
    if columns == 0 || rows == 0 { (80, 25) } else { (usize::from(columns), usize::from(rows)) }
}

/// Home, each line cleared to its end, the rest of the display cleared: no flicker, nothing left over.
fn frame(lines: &[String]) -> String {
    let mut text = String::from("\x1b[?25l\x1b[H");
    for (number, line) in lines.iter().enumerate() {
        let end = if number + 1 == lines.len() { "" } else { "\r\n" };
        text.push_str(&format!("{line}\x1b[K{end}"));
    }
    text.push_str("\x1b[J");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consoles_are_the_kernels_and_a_serial_port_that_is_really_there() {
        let sys = tempfile::tempdir().unwrap();
        for folder in ["class/tty/console", "class/tty/ttyS0"] {
            fs::create_dir_all(sys.path().join(folder)).unwrap();
        }
        let check = |active: &str, port: &str, expected: &[&str]| {
            fs::write(sys.path().join("class/tty/console/active"), active).unwrap();
            fs::write(sys.path().join("class/tty/ttyS0/type"), port).unwrap();
            assert_eq!(serial_names(sys.path()), expected, "{active:?} {port:?}");
        };
        check("tty0\n", "0\n", &[]);
        check("tty0\n", "4\n", &["ttyS0"]);
        check("tty0 ttyS0\n", "4\n", &["ttyS0"]);
        check("ttyAMA0\n", "0\n", &["ttyAMA0"]);
        check("tty1 hvc0\n", "4\n", &["hvc0", "ttyS0"]);
    }

    #[test]
    fn events_reach_every_serial_console_as_lines() {
        let folder = tempfile::tempdir().unwrap();
        let (sys, dev) = (folder.path().join("sys"), folder.path().join("dev"));
        fs::create_dir_all(sys.join("class/tty/console")).unwrap();
        fs::create_dir_all(&dev).unwrap();
        fs::write(sys.join("class/tty/console/active"), "hvc0 ttyS1").unwrap();
        for name in ["hvc0", "ttyS1"] {
            fs::write(dev.join(name), "").unwrap();
        }
        let terminal = Terminal::open(&sys, &dev, Painting::Continuous);
        terminal.activity("Looking for a network");
        for name in ["hvc0", "ttyS1"] {
            assert_eq!(fs::read_to_string(dev.join(name)).unwrap(), "remint: Looking for a network\r\n");
        }
    }
}
