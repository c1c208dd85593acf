//! Exponential back-off with jitter, as a pure function of the attempt and a seed.

use std::time::Duration;

/// How long to wait before attempt `attempt` (0 is the first retry): `first * 2^attempt`, at most `max`, and then
/// between half of that and all of it, chosen by `seed`, so that a room of machines does not retry in step.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    pub first: Duration,
    pub max: Duration,
}

impl Backoff {
    /// One second at first, fifteen at most: what a technician in front of a screen still takes for "it is trying".
    pub const PATIENT: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(15) };

    pub fn delay(&self, attempt: u32, seed: u64) -> Duration {
        let whole = self.first.saturating_mul(1u32.checked_shl(attempt.min(20)).unwrap_or(u32::MAX)).min(self.max);
        let mixed = seed.wrapping_add(u64::from(attempt)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
        whole / 2 + whole.mul_f64(mixed as f64 / (1u64 << 24) as f64 / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_and_stay_within_half_of_it() {
        let backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(8) };
        for seed in [0, 7, u64::MAX] {
            for (attempt, whole) in [(0, 1), (1, 2), (2, 4), (3, 8), (4, 8), (400, 8)] {
                let delay = backoff.delay(attempt, seed);
                let whole = Duration::from_secs(whole);
                assert!(delay >= whole / 2 && delay <= whole, "attempt {attempt} seed {seed}: {delay:?}");
            }
        }
    }
}
