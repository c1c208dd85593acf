//! Loads drivers for the devices that are there now, and again for those that come with them.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::drivers::{self, Catalog};
use super::terminal::Terminal;

/// A bus behind a bus behind a bus; deeper is a loop.
const PASSES_MAX: usize = 8;
/// Drivers probe in the background; what they find shows up a little later.
const SETTLE: Duration = Duration::from_millis(60);

pub struct Plug {
    catalog: Catalog,
    tried: BTreeSet<String>,
    terminal: Terminal,
}

impl Plug {
    pub fn new(terminal: Terminal) -> Plug {
        Plug { catalog: Catalog::open(&drivers::modules_folder()), tried: BTreeSet::new(), terminal }
    }

    /// To be called again whenever something is missing: a disk shelf or an adapter may have shown up since.
    pub fn plug(&mut self) {
        let folder = drivers::modules_folder();
        for _ in 0..PASSES_MAX {
            let mut load = |file: &str| drivers::load_module(&folder.join(file));
            let loaded = drivers::coldplug(Path::new("/sys"), &self.catalog, &mut self.tried, &mut load);
            for (module, error) in &loaded.refused {
                self.terminal.log(format!("driver {module}: {error}"));
            }
            if loaded.modules.is_empty() {
                return;
            }
            self.terminal.log(format!("drivers: {}", loaded.modules.join(" ")));
            thread::sleep(SETTLE);
        }
    }
}
