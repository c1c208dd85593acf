//! The hardware test that a boot menu offers (`remint.test=hardware`): memory, processors and every disk, before the machine
//! checks in. It needs no appliance and no approval, because it writes to nothing; what it finds is on the screen.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use super::terminal::Terminal;
use crate::inventory::hardware;
use crate::stdx::time::Timestamp;
use crate::tasksequence::host::{Disk, HardwareTest, HostError, Watch, trial};

/// The system itself needs the rest.
const MEMORY_SHARE: u64 = 2;
const PROCESSOR: Duration = Duration::from_secs(60);
/// Places of each disk that are read, a MiB each.
const SAMPLES: u32 = 500;
/// How long the figures stay on the screen, unless somebody presses Enter.
const READING_TIME: Duration = Duration::from_secs(120);

/// Tests, shows what was found, and waits until it was read.
pub(super) fn run(terminal: &Terminal) {
    terminal.activity("Testing the hardware");
    let memory_bytes = hardware::collect(Path::new("/")).memory.total_bytes / MEMORY_SHARE;
    let machine = HardwareTest { memory_bytes, processor: PROCESSOR, disk: None, network: Duration::ZERO };
    let mut sound = show(terminal, "memory and processors", trial::run(&machine, &mut OnScreen(terminal)));
    for disk in hardware::disks(Path::new("/sys")) {
        let disk = Disk::from(disk);
        let found = trial::disk(&disk, SAMPLES, &mut OnScreen(terminal));
        sound &= show(terminal, &disk.path, found);
    }
    terminal.activity(if sound {
        "The hardware test has found nothing wrong"
    } else {
        "The hardware test has found faults"
    });
    terminal.wait_for_enter(READING_TIME);
}

fn show(terminal: &Terminal, what: &str, found: Result<Map<String, Value>, HostError>) -> bool {
    match found {
        Ok(figures) => terminal.log(format!("{what}: sound, {}", Value::Object(figures))),
        Err(HostError { message, hint, .. }) => {
            terminal.trouble(format!("{what}: {message}"), hint);
            return false;
        }
    }
    true
}

struct OnScreen<'a>(&'a Terminal);

impl Watch for OnScreen<'_> {
    fn line(&mut self, _now: Timestamp, text: &str) {
        self.0.log(text);
    }

    fn progress(&mut self, done: u64, total: u64, _unit: &str, note: &str) {
        let percent = done.saturating_mul(100) / total.max(1);
        self.0.activity(format!("Testing {note}: {percent} %"));
    }

    fn answer(&mut self) -> Option<Value> {
        None
    }

    fn must_stop(&mut self, _now: Timestamp) -> Option<&'static str> {
        None
    }
}
