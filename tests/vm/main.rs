//! Real firmware in QEMU: from power on to a managed machine.
//!
//! Two tests run at once: while one waits for a firmware or a disk, the other has its processor. They need what `scripts/test`
//! prepares (QEMU, the static agent, a reference image, a site made by scripts/first-site); without it each is skipped and
//! says so. A word on the command line chooses the tests whose name contains it.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it did"
)]

mod bench;
#[path = "../console/browser.rs"]
#[expect(dead_code, reason = "the tests of the console use all of it")]
mod browser;
mod console;
mod enrolment;
mod failures;
mod inventory;
mod matrix;
mod menu;
#[path = "../suite/trees/ntfs.rs"]
mod ntfs;
mod secrets;
mod sequences;
mod trees;
mod whole_path;
mod windows;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bench::Bench;

pub(crate) type Test = (&'static str, fn(&Bench));

const TESTS: &[&[Test]] = &[
    whole_path::TESTS,
    matrix::TESTS,
    menu::TESTS,
    failures::TESTS,
    sequences::TESTS,
    trees::TESTS,
    windows::TESTS,
    enrolment::TESTS,
];

/// An emulated machine has one processor of ours busy for some three quarters of its time.
const AT_ONCE: usize = 2;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let mut chosen: Vec<Test> = TESTS.concat();
    chosen.retain(|(name, _)| words.is_empty() || words.iter().any(|word| name.contains(word)));
    if std::env::args().any(|word| word == "--list") {
        return chosen.iter().for_each(|(name, _)| println!("{name}: test"));
    }
    println!("\nrunning {} tests", chosen.len());
    let (mut passed, mut failed) = (0, Vec::new());
    match Bench::open() {
        Err(reason) => chosen.iter().for_each(|(name, _)| println!("test {name} ... ignored, skipped: {reason}")),
        Ok(bench) => {
            for (name, report) in run_all(&bench, &chosen) {
                match report {
                    None => passed += 1,
                    Some(report) => failed.push((name, report)),
                }
            }
        }
    }
    let ignored = chosen.len() - passed - failed.len();
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!("\ntest result: {word}. {passed} passed; {} failed; {ignored} ignored\n", failed.len());
    if !failed.is_empty() {
        println!("failures:");
        failed.iter().for_each(|(name, report)| println!("{name}: {report}"));
        std::process::exit(101);
    }
}

/// Names of the tests, as they end, and the reports of those that failed.
fn run_all(bench: &Bench, tests: &[Test]) -> Vec<(&'static str, Option<String>)> {
    let (next, ended) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(test) = tests.get(place) else { return };
                    let report = run(&bench.numbered(place + 1), place + 1, test);
                    ended.lock().unwrap().push((test.0, report));
                }
            });
        }
    });
    ended.into_inner().unwrap()
}

/// Runs a test; gives the report of its failure.
fn run(bench: &Bench, number: usize, (name, test): &Test) -> Option<String> {
    let start = Instant::now();
    println!("  {number:>2}  begins: {name}");
    let outcome = catch_unwind(AssertUnwindSafe(|| test(bench)));
    let seconds = start.elapsed().as_secs_f64();
    println!("test {name} ... {} ({seconds:.0} s)", if outcome.is_ok() { "ok" } else { "FAILED" });
    Some(report(bench, &*outcome.err()?))
}

/// Why a test failed, with the last words of the appliance and of each machine: what is needed to understand a failure on
/// a computer that nobody can look at afterwards.
fn report(bench: &Bench, panic: &(dyn Any + Send)) -> String {
    const LINES: usize = 20;
    let message = panic.downcast_ref::<String>().cloned();
    let mut report =
        message.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
    for path in bench.logs() {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LINES)..].join("\n    ");
        report += &format!("\n  the end of {}:\n    {last}", path.display());
    }
    report
}
