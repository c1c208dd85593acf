//! Progress that whoever works reports and whoever shows it decides how.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
}

impl Progress {
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Relaxed);
    }

    pub fn get(counter: &AtomicU64) -> u64 {
        counter.load(Relaxed)
    }

    /// Done as a share of the total, 0 to 1.
    pub fn fraction(&self) -> f64 {
        match Self::get(&self.total_bytes) {
            0 => 0.0,
            total => (Self::get(&self.done_bytes) as f64 / total as f64).min(1.0),
        }
    }
}
