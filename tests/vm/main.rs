//! Real firmware in QEMU: from power on to a managed machine.
//!
//! The tests run one after the other, because two emulated machines fill this computer. They need what `scripts/test`
//! prepares (QEMU, the static agent, a reference image, a site made by scripts/first-site); without it each is skipped and
//! says so. A word on the command line chooses the tests whose name contains it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it did"
)]

mod bench;
mod enrolment;
mod failures;
mod matrix;
mod sequences;
mod trees;
mod whole_path;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bench::Bench;

pub(crate) type Test = (&'static str, fn(&Bench));

const TESTS: &[&[Test]] = &[whole_path::TESTS, matrix::TESTS, failures::TESTS, sequences::TESTS, trees::TESTS];
/// Not proven yet: they run when they are named, and are shown as skipped otherwise.
const BY_NAME: &[&[Test]] = &[enrolment::TESTS];

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let by_name: Vec<Test> = BY_NAME.concat();
    let mut chosen: Vec<Test> = TESTS.concat();
    match words.is_empty() {
        true => by_name.iter().for_each(|(name, _)| println!("skipped: {name} is not proven yet, run it by its name")),
        false => chosen.extend(by_name),
    }
    chosen.retain(|(name, _)| words.is_empty() || words.iter().any(|word| name.contains(word)));
    if std::env::args().any(|word| word == "--list") {
        return chosen.iter().for_each(|(name, _)| println!("{name}: test"));
    }
    println!("\nrunning {} tests", chosen.len());
    let (mut passed, mut failed) = (0, Vec::new());
    match Bench::open() {
        Err(reason) => chosen.iter().for_each(|(name, _)| println!("test {name} ... ignored, skipped: {reason}")),
        Ok(bench) => {
            for (name, test) in &chosen {
                let start = Instant::now();
                let outcome = catch_unwind(AssertUnwindSafe(|| test(&bench.named(name))));
                let seconds = start.elapsed().as_secs_f64();
                println!("test {name} ... {} ({seconds:.0} s)", if outcome.is_ok() { "ok" } else { "FAILED" });
                match outcome {
                    Ok(()) => passed += 1,
                    Err(_) => failed.push(*name),
                }
            }
        }
    }
    let ignored = chosen.len() - passed - failed.len();
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {} failed; {ignored} ignored\n", failed.len());
    if !failed.is_empty() {
        println!("failures: {}", failed.join(", "));
        std::process::exit(101);
    }
}
