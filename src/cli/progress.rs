//! Shows a long piece of work: a bar with rate and time left, or plain lines when stderr is no terminal.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::output::size;
use crate::stdx::monitor::{Limit, Progress, Spent};

const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(5);
const TEMPLATE: &str = "{prefix:>10} [{bar:30}] {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} {msg}";

/// Does `work` and shows how far it is.
pub(super) fn shown<T>(what: &'static str, progress: &Progress, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let shower = scope.spawn(|| match std::io::stderr().is_terminal() {
            true => bar(what, progress, &done),
            false => lines(what, progress, &done),
        });
        let outcome = work();
        done.store(true, Relaxed);
        shower.thread().unpark();
        outcome
    })
}

fn bar(what: &'static str, progress: &Progress, done: &AtomicBool) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(TEMPLATE) {
        bar.set_style(style.progress_chars("=> "));
    }
    let mut window = Window::default();
    while !done.load(Relaxed) {
        let (phase, at, total) = phase(what, progress);
        if bar.prefix() != phase {
            bar.set_prefix(phase);
            bar.reset();
        }
        bar.set_length(total);
        bar.set_position(at);
        bar.set_message(details(progress) + &window.limit(progress));
        thread::park_timeout(BAR_EVERY);
    }
    bar.finish_and_clear();
}

fn lines(what: &'static str, progress: &Progress, done: &AtomicBool) {
    let (mut since, mut before) = (Instant::now(), 0);
    let mut window = Window::default();
    while !done.load(Relaxed) {
        thread::park_timeout(LINE_EVERY.saturating_sub(since.elapsed()));
        if since.elapsed() < LINE_EVERY {
            continue;
        }
        let (phase, at, total) = phase(what, progress);
        let rate = (at.saturating_sub(before)) as f64 / since.elapsed().as_secs_f64();
        let left = if rate > 0.0 { (total - at) as f64 / rate } else { 0.0 };
        let (done, total, rate) = (size(at), size(total), size(rate as u64));
        let details = details(progress) + &window.limit(progress);
        eprintln!("{phase}: {done} of {total}, {rate}/s, {left:.0} s left{details}");
        (since, before) = (Instant::now(), at);
    }
}

/// What is going on, how far it is and how much it is, in bytes.
fn phase(what: &'static str, progress: &Progress) -> (&'static str, u64, u64) {
    let total = Progress::get(&progress.total_bytes);
    let looking = (Progress::get(&progress.surveyed_bytes), Progress::get(&progress.survey_total_bytes));
    match total {
        0 if looking.1 > 0 => ("looking", looking.0.min(looking.1), looking.1),
        total => (what, Progress::get(&progress.done_bytes).min(total), total),
    }
}

/// What the time was spent on since it was last shown.
#[derive(Default)]
struct Window {
    before: Spent,
}

impl Window {
    fn limit(&mut self, progress: &Progress) -> String {
        let spent = progress.spent();
        let found = spent.since(self.before).limit().map(|found| format!(", {}", limit(found)));
        self.before = spent;
        found.unwrap_or_default()
    }
}

/// `limited by the disk`
pub(super) fn limit(found: Limit) -> String {
    format!("limited by the {found}")
}

fn details(progress: &Progress) -> String {
    let counters = [
        ("wire", &progress.wire_bytes),
        ("moved", &progress.moved_bytes),
        ("stored", &progress.stored_bytes),
        ("skipped", &progress.skipped_bytes),
    ];
    let mut text = String::new();
    for (name, counter) in counters {
        let bytes = Progress::get(counter);
        if bytes > 0 {
            text.push_str(&format!(", {name} {}", size(bytes)));
        }
    }
    match Progress::get(&progress.retries) {
        0 => text,
        retries => format!("{text}, {retries} retries"),
    }
}
