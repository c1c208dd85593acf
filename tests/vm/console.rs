//! A real machine on its way, as somebody with the console open sees it.

use remint::lab::run::Lab;

use crate::bench::{STEP_LIMIT, WHOLE_PATH_LIMIT};
use crate::browser::{Browser, program};

/// A browser on the page of the rooms, logged in.
pub(crate) struct Watcher {
    browser: Browser,
}

impl Watcher {
    /// `None` where there is no browser, which is said.
    pub(crate) fn open(lab: &Lab) -> Option<Watcher> {
        let Some(program) = program() else {
            println!("skipped: a real machine on the console: chromium is not installed (scripts/setup installs it)");
            return None;
        };
        let address = lab.forward_console(0).unwrap_or_else(|error| panic!("{error}"));
        let invited = lab.appliance.ask(&["user", "invite"]).unwrap_or_else(|error| panic!("{error}"));
        let folder = lab.folder.join("browser");
        std::fs::create_dir(&folder).unwrap();
        let mut browser = Browser::start(&program, &folder, &format!("https://{address}"));
        browser.look(1366, 768, "light");
        browser.go(&format!("/welcome#{}", invited["invitation"].as_str().unwrap()));
        browser.wait("document.querySelector('[name=invitation]').value !== ''");
        browser.fill("[name=name]", "watcher");
        browser.fill("[name=password]", "a long enough password");
        browser.follow("button[type=submit]");
        browser.go("/rooms");
        Some(Watcher { browser })
    }

    /// Its tile appears by itself; while the image is written its progress moves, at least from one figure to another.
    pub(crate) fn sees_progress(&mut self) {
        self.browser.wait_within(STEP_LIMIT, "document.querySelector('.seat.busy [data-progress]:not([hidden])')");
        let first = self.percent();
        self.browser.wait_within(STEP_LIMIT, &format!("{PERCENT} > {first}"));
        println!("  the tile of the machine moved from {first} to {} %", self.percent());
        self.keep("machine-on-its-way");
    }

    /// The same page, never loaded again, says in the end that it is managed.
    pub(crate) fn sees_that_it_is_managed(mut self) {
        self.browser
            .wait_within(WHOLE_PATH_LIMIT, "document.querySelector('.seat.good')?.innerText.includes('managed')");
        assert_eq!(self.browser.eval("performance.getEntriesByType('navigation')[0].type"), "navigate");
        self.keep("machine-managed");
        assert!(self.browser.faults.is_empty(), "{:#?}", self.browser.faults);
    }

    fn percent(&mut self) -> i64 {
        self.browser.eval(PERCENT).as_i64().unwrap()
    }

    fn keep(&mut self, name: &str) {
        if let Some(folder) = std::env::var_os("REMINT_PICTURES") {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.png")), self.browser.screen()).unwrap();
        }
    }
}

/// What the tile says, -1 where it says nothing.
const PERCENT: &str =
    "(parseInt(document.querySelector('.seat.busy [data-progress]:not([hidden]) span')?.textContent ?? '-1', 10))";
