//! What happened when: one list for the whole lab, kept in `timeline.txt`.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::Error;

/// One entry: seconds since the lab began, who, what.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: Duration,
    pub who: String,
    pub what: String,
}

/// Shared by all threads of a lab.
#[derive(Clone)]
pub struct Timeline(Arc<Inner>);

struct Inner {
    start: Instant,
    entries: Mutex<(File, Vec<Event>)>,
    show: Box<dyn Fn(&Event) + Send + Sync>,
}

impl Timeline {
    /// Each event is written to `folder/timeline.txt` and handed to `show`.
    pub fn new(folder: &Path, show: impl Fn(&Event) + Send + Sync + 'static) -> Result<Timeline, Error> {
        let path = folder.join("timeline.txt");
        let file = File::create(&path).map_err(Error::file(path))?;
        let entries = Mutex::new((file, Vec::new()));
        Ok(Timeline(Arc::new(Inner { start: Instant::now(), entries, show: Box::new(show) })))
    }

    pub fn add(&self, who: &str, what: &str) {
        let event = Event { at: self.elapsed(), who: who.to_owned(), what: what.to_owned() };
        (self.0.show)(&event);
        let mut entries = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // The list in memory is what counts; a full disk must not end the lab.
        let _ = writeln!(entries.0, "{event}");
        entries.1.push(event);
    }

    pub fn elapsed(&self) -> Duration {
        self.0.start.elapsed()
    }

    pub fn events(&self) -> Vec<Event> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

impl std::fmt::Display for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:7.1} s  {:<12} {}", self.at.as_secs_f64(), self.who, self.what)
    }
}
