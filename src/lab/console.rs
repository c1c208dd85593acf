//! A machine's serial console: all that it ever said, and waiting for something to be said.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::Error;
use super::timeline::Timeline;

/// Text of a serial console without escape sequences, kept in memory and in a file with the time of each line.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    more: Condvar,
    start: Instant,
    /// Whose console it is, and where its milestones go.
    told: Option<(String, Timeline)>,
}

/// What a machine says at the turning points of its way, and what that means.
const MILESTONES: &[(&str, &str)] = &[
    ("SeaBIOS (version", "BIOS starts"),
    ("BdsDxe: starting", "UEFI starts a boot entry"),
    ("iPXE initialising", "iPXE starts"),
    ("Linux version ", "the boot environment's kernel starts"),
    ("reboot: Restarting system", "restarts"),
    (" login: ", "shows the login prompt"),
];

#[derive(Default)]
struct State {
    text: String,
    /// The end of the output that may be the beginning of an escape sequence.
    pending: Vec<u8>,
    line: String,
    /// The line under way held a milestone already.
    line_told: bool,
    log: Option<File>,
    closed: bool,
}

/// A place in a console's text: what comes after it has not been looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

impl Console {
    /// `log` gets each line with the seconds since the timeline began; it is continued when it is there already. `told`
    /// says whose console it is: the machine's turning points go to the timeline.
    pub fn new(log: &Path, told: Option<(String, Timeline)>) -> Result<Console, Error> {
        let file = File::options().create(true).append(true).open(log).map_err(Error::file(log))?;
        let state = Mutex::new(State { log: Some(file), ..State::default() });
        let start = Instant::now() - told.as_ref().map(|(_, timeline)| timeline.elapsed()).unwrap_or_default();
        Ok(Console(Arc::new(Inner { state, more: Condvar::new(), start, told })))
    }

    /// Reads `source` to its end; runs in a thread of its own.
    pub(super) fn read_from(&self, mut source: impl Read) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = source.read(&mut buffer) {
            self.hear(&buffer[..count]);
        }
    }

    /// The machine is off: whoever waits need not wait any longer.
    pub(super) fn close(&self, closed: bool) {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).closed = closed;
        self.0.more.notify_all();
    }

    fn hear(&self, bytes: &[u8]) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.pending.extend_from_slice(bytes);
        let pending = std::mem::take(&mut state.pending);
        let (plain, rest) = strip_escapes(&pending);
        state.pending = rest.to_vec();
        state.text.push_str(&plain);
        let seconds = self.0.start.elapsed().as_secs_f64();
        let mut milestones = Vec::new();
        for part in plain.split_inclusive('\n') {
            state.line.push_str(part.trim_end_matches('\n'));
            if let Some((_, meaning)) =
                MILESTONES.iter().find(|(words, _)| !state.line_told && state.line.contains(words))
            {
                milestones.push(*meaning);
                state.line_told = true;
            }
            if part.ends_with('\n') {
                state.end_line(seconds);
            }
        }
        drop(state);
        self.0.more.notify_all();
        if let Some((machine, timeline)) = &self.0.told {
            milestones.iter().for_each(|meaning| timeline.add(machine, meaning));
        }
    }

    /// The end of what has been said so far.
    pub fn mark(&self) -> Mark {
        Mark(self.0.state.lock().unwrap_or_else(PoisonError::into_inner).text.len())
    }

    /// What was said after `mark`.
    pub fn since(&self, mark: Mark) -> String {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).text[mark.0..].to_owned()
    }

    pub fn contains(&self, words: &str) -> bool {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).text.contains(words)
    }

    /// Waits until one of `words` is said after `mark`; gives which, and the place after it.
    pub fn wait_for_any(&self, mark: Mark, words: &[&str], limit: Duration) -> Result<(usize, Mark), Error> {
        let deadline = Instant::now() + limit;
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let new = &state.text[mark.0..];
            let first = words.iter().enumerate().filter_map(|(which, w)| new.find(w).map(|at| (at + w.len(), which)));
            if let Some((end, which)) = first.min() {
                return Ok((which, Mark(mark.0 + end)));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let what = format!("`{}` on the serial console", words.join("` or `"));
            if state.closed {
                return Err(Error::Ended { what: "the machine".to_owned(), last: last_lines(&state.text) });
            }
            if left.is_zero() {
                return Err(Error::Late { what, limit, last: last_lines(&state.text) });
            }
            state = self.0.more.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub fn wait_for(&self, mark: Mark, words: &str, limit: Duration) -> Result<Mark, Error> {
        self.wait_for_any(mark, &[words], limit).map(|(_, mark)| mark)
    }
}

impl State {
    fn end_line(&mut self, seconds: f64) {
        let line = std::mem::take(&mut self.line);
        self.line_told = false;
        if let Some(log) = &mut self.log {
            let _ = writeln!(log, "{seconds:9.3} {line}");
        }
    }
}

/// The last five lines that say something.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(5)..].join(" / ")
}

/// The text without carriage returns and terminal control sequences (ECMA-48: `ESC [ ... letter`, `ESC ( x`, `ESC x`), and
/// the bytes at the end that are not complete yet.
fn strip_escapes(bytes: &[u8]) -> (String, &[u8]) {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        match rest {
            [0x1b, ..] => match escape_length(rest) {
                Some(length) => at += length,
                None => break,
            },
            [b'\n' | b'\t' | 0x20.., ..] => {
                plain.push(rest[0]);
                at += 1;
            }
            _ => at += 1,
        }
    }
    (String::from_utf8_lossy(&plain).into_owned(), &bytes[at..])
}

fn escape_length(bytes: &[u8]) -> Option<usize> {
    /// A longer one is no control sequence but noise.
    const LENGTH_MAX: usize = 32;
    match bytes {
        [_] => None,
        [_, b'[', rest @ ..] => match rest.iter().position(|byte| (0x40..=0x7e).contains(byte)) {
            Some(end) => Some(end + 3),
            None if rest.len() > LENGTH_MAX => Some(2),
            None => None,
        },
        [_, b'(' | b')', _, ..] => Some(3),
        [_, b'(' | b')'] => None,
        _ => Some(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(folder: &Path) -> Console {
        Console::new(&folder.join("serial.log"), None).unwrap()
    }

    #[test]
    fn words_are_found_across_reads_and_escape_sequences() {
        let folder = tempfile::tempdir().unwrap();
        let console = console(folder.path());
        for part in [&b"\x1b[2J\x1b[0"[..], b"1;1Hlo", b"gin\x1b(B:\r\n", b"debian login:"] {
            console.hear(part);
        }
        let mark = console.wait_for(Mark::default(), "login:", Duration::ZERO).unwrap();
        assert_eq!(console.since(mark), "\ndebian login:");
        assert!(console.wait_for(mark, "login:", Duration::ZERO).is_ok());
        assert!(std::fs::read_to_string(folder.path().join("serial.log")).unwrap().ends_with(" login:\n"));
    }

    #[test]
    fn the_first_of_several_words_wins_and_a_late_one_is_told_with_what_was_seen() {
        let folder = tempfile::tempdir().unwrap();
        let console = console(folder.path());
        console.hear(b"starting\nfailed to do it\nsucceeded\n");
        let words = ["succeeded", "failed"];
        assert_eq!(console.wait_for_any(Mark::default(), &words, Duration::ZERO).unwrap().0, 1);
        let error = console.wait_for(console.mark(), "more", Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("more") && error.contains("failed to do it / succeeded"), "{error}");
        console.close(true);
        assert!(matches!(console.wait_for(console.mark(), "x", Duration::from_secs(60)), Err(Error::Ended { .. })));
    }
}
