//! The hardware test that a boot menu offers (`remint.test=hardware`): memory, processors and every disk, before the machine
//! checks in. It needs no appliance and no approval, because it writes to nothing; what it finds is on the screen, and the
//! check-in tells the appliance.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use super::terminal::Terminal;
use crate::fleet::link::Trial;
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
pub(super) fn run(terminal: &Terminal) -> Trial {
    terminal.activity("Testing the hardware");
    let memory_bytes = hardware::collect(Path::new("/")).memory.total_bytes / MEMORY_SHARE;
    let machine = HardwareTest { memory_bytes, processor: PROCESSOR, disk: None, network: Duration::ZERO };
    let mut found = Trial { is_sound: true, parts: Vec::new() };
    note(terminal, &mut found, "memory and processors", trial::run(&machine, &mut OnScreen(terminal)));
    for disk in hardware::disks(Path::new("/sys")) {
        let disk = Disk::from(disk);
        note(terminal, &mut found, &disk.path, trial::disk(&disk, SAMPLES, &mut OnScreen(terminal)));
    }
    terminal.activity(if found.is_sound {
        "The hardware test has found nothing wrong"
    } else {
        "The hardware test has found faults"
    });
    terminal.wait_for_enter(READING_TIME);
    found
}

/// Shows what became of a part, and notes it for the appliance.
fn note(terminal: &Terminal, found: &mut Trial, part: &str, figures: Result<Map<String, Value>, HostError>) {
    found.is_sound &= figures.is_ok();
    found.parts.push(match figures {
        Ok(figures) => {
            let line = format!("{part}: sound, {}", Value::Object(figures));
            terminal.log(line.clone());
            line
        }
        Err(HostError { message, hint, .. }) => {
            let line = format!("{part}: {message}");
            terminal.trouble(line.clone(), hint);
            line
        }
    });
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
