//! Progress that whoever works reports and whoever shows it decides how.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Counters of a long piece of work. The worker adds; a bar, a screen or a test reads. All in bytes of plain content
/// but `wire_bytes`, which counts what was really transferred, and `stored_bytes`, which counts what was newly stored.
#[derive(Debug, Default)]
pub struct Progress {
    pub total_bytes: AtomicU64,
    pub done_bytes: AtomicU64,
    /// What is read to learn what is there already, before the work begins.
    pub survey_total_bytes: AtomicU64,
    pub surveyed_bytes: AtomicU64,
    pub skipped_bytes: AtomicU64,
    pub zeroed_bytes: AtomicU64,
    pub moved_bytes: AtomicU64,
    pub fetched_bytes: AtomicU64,
    pub fetched_chunks: AtomicU64,
    pub wire_bytes: AtomicU64,
    pub stored_bytes: AtomicU64,
    pub retries: AtomicU64,
    /// Nanoseconds that were spent on each of these, added up so that they compare: what most was spent on is the limit.
    pub wire_nanoseconds: AtomicU64,
    pub disk_nanoseconds: AtomicU64,
    pub processor_nanoseconds: AtomicU64,
}

/// What a piece of work spends its time on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spent {
    pub wire: u64,
    pub disk: u64,
    pub processor: u64,
}

/// What makes a piece of work take as long as it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    /// Where chunks come from or go to: the network, or the store's own disk.
    Wire,
    /// What is read or written at this end.
    Disk,
    Processor,
}

impl Spent {
    /// Since `earlier`.
    pub fn since(self, earlier: Spent) -> Spent {
        Spent {
            wire: self.wire.saturating_sub(earlier.wire),
            disk: self.disk.saturating_sub(earlier.disk),
            processor: self.processor.saturating_sub(earlier.processor),
        }
    }

    /// What most of the time was spent on; `None` when it was spent on nothing.
    pub fn limit(self) -> Option<Limit> {
        let most = self.wire.max(self.disk).max(self.processor);
        match most {
            0 => None,
            _ if most == self.wire => Some(Limit::Wire),
            _ if most == self.disk => Some(Limit::Disk),
            _ => Some(Limit::Processor),
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Limit::Wire => "wire",
            Limit::Disk => "disk",
            Limit::Processor => "CPU",
        })
    }
}

impl Progress {
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Relaxed);
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Relaxed)
    }

    /// Does `work` and adds the time it takes to `counter`.
    pub fn timed<T>(counter: &AtomicU64, work: impl FnOnce() -> T) -> T {
        Self::timed_share(counter, 1, work)
    }

    /// The same for one of `threads` that share a stage, so that stages compare.
    pub fn timed_share<T>(counter: &AtomicU64, threads: usize, work: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let done = work();
        Self::add(counter, u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX) / threads.max(1) as u64);
        done
    }

    pub fn spent(&self) -> Spent {
        Spent {
            wire: Self::get(&self.wire_nanoseconds),
            disk: Self::get(&self.disk_nanoseconds),
            processor: Self::get(&self.processor_nanoseconds),
        }
    }

    /// Done as a share of the total, 0 to 1.
    pub fn fraction(&self) -> f64 {
        match Self::get(&self.total_bytes) {
            0 => 0.0,
            total => (Self::get(&self.done_bytes) as f64 / total as f64).min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_limit_is_what_most_of_the_time_since_the_last_look_was_spent_on() {
        let progress = Progress::default();
        assert_eq!(progress.spent().limit(), None);
        let slept = Progress::timed(&progress.disk_nanoseconds, || {
            std::thread::sleep(Duration::from_millis(2));
            7
        });
        assert_eq!((slept, progress.spent().limit()), (7, Some(Limit::Disk)));
        let before = progress.spent();
        Progress::add(&progress.wire_nanoseconds, 5);
        assert_eq!(progress.spent().since(before), Spent { wire: 5, ..Spent::default() });
        assert_eq!(progress.spent().since(before).limit().map(|limit| limit.to_string()), Some("wire".to_owned()));
    }
}
