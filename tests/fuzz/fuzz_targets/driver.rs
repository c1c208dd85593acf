//! Runs a target for a time, a hundred rounds at once.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

/// The name of a seed and the seconds to run.
pub fn arguments() -> (String, u64) {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().expect("usage: TARGET SEED SECONDS");
    (name, arguments.next().and_then(|word| word.parse().ok()).unwrap_or(60))
}

/// Runs a command of words without blanks.
pub fn run(command: &str) {
    let mut words = command.split(' ');
    let status = Command::new(words.next().unwrap_or_default()).args(words).status();
    assert!(status.is_ok_and(|status| status.success()), "{command}");
}

pub fn rounds(name: &str, seconds: u64, target: impl Fn(Range<u64>)) {
    let end = Instant::now() + Duration::from_secs(seconds);
    // Another place for every run, so that runs add up; printed, so that one can be made again.
    let first =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs()) << 24;
    let mut round = first;
    while Instant::now() < end {
        let rounds = round..round + 100;
        if catch_unwind(AssertUnwindSafe(|| target(rounds.clone()))).is_err() {
            println!("{name}: finding in rounds {rounds:?}");
            std::process::exit(1);
        }
        round = rounds.end;
    }
    println!("{name}: {} rounds in {seconds} s, no finding", round - first);
}
