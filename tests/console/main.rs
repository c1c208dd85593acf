//! The console as people use it: Chromium against a running appliance, with machines that speak its protocol.
//! REMINT_PICTURES=FOLDER keeps a picture of every page, in both themes and three sizes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it skips"
)]

mod appliance;
mod browser;
mod contract;

use std::fs;
use std::path::{Path, PathBuf};

use appliance::{Appliance, Machine, first_due};
use browser::{Browser, program};
use serde_json::json;

/// Something that scripts/test fetched for these tests.
fn oracle(name: &str) -> Option<PathBuf> {
    let built = Path::new(env!("CARGO_BIN_EXE_remint")).parent().and_then(Path::parent);
    built.map(|target| target.join(name)).filter(|path| path.exists())
}

/// What a technician does on a first day, from the invitation to a machine that is deployed, through pages alone.
#[test]
fn a_first_day_with_the_console() {
    let Some(program) = program() else {
        println!("skipped: the console in a browser: chromium is not installed (scripts/setup installs it)");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let appliance = Appliance::start(folder.path());
    let mut browser = Browser::start(&program, folder.path(), &appliance.base);
    browser.look(1366, 768, "light");
    become_administrator(&mut browser, &appliance);
    let mut machines = approve(&mut browser, &appliance);
    write_a_sequence(&mut browser);
    deploy(&mut browser);
    watch_one(&mut browser, &mut machines);
    watch_the_rest(&mut browser, &mut machines[1..]);
    ask_and_download(&mut browser);
    arrange(&mut browser);
    every_page(&mut browser);
    assert!(browser.faults.is_empty(), "{:#?}", browser.faults);
}

fn become_administrator(browser: &mut Browser, appliance: &Appliance) {
    browser.go("/machines");
    browser.wait("location.pathname === '/login'");
    browser.go(&format!("/welcome#{}", appliance.invitation));
    browser.wait("document.querySelector('[name=invitation]').value !== '' && location.hash === ''");
    browser.fill("[name=name]", "ada");
    browser.fill("[name=password]", "a long enough password");
    browser.follow("button[type=submit]");
    browser.wait_text("No machine yet");
}

/// Three machines check in while the page is open; two codes are compared and approved at once, one later.
fn approve(browser: &mut Browser, appliance: &Appliance) -> Vec<Machine> {
    browser.go("/approvals");
    browser.wait_text("No machine waits");
    let mut machines: Vec<Machine> =
        ["S-1001", "S-1002", "S-1003"].iter().map(|serial| Machine::new(appliance, serial)).collect();
    for machine in &mut machines {
        assert!(!machine.check_in(appliance), "nobody has approved it");
    }
    browser.wait("document.querySelectorAll('input[name=machine]').length === 3");
    browser.wait_text("Example CPU 3.2 GHz");
    browser.click("input[name=machine]");
    browser.wait("document.querySelector('[data-count]').textContent === '1'");
    browser.click("input[data-all=machine]");
    browser.wait("document.querySelector('[data-count]').textContent === '3'");
    browser.follow("button[value=approve]");
    browser.wait_text("No machine waits");
    for machine in &mut machines {
        assert!(machine.check_in(appliance), "it was approved");
    }
    machines
}

const SEQUENCE: &str = "name: wipe-and-greet\ndescription: Erases the disk and says so\nsteps:\n  - wipe-disk:\n      disk: first\n  - run-command:\n      command: [/bin/echo, done]\n";

/// A step is misspelt; the page says which is meant, in its line.
fn write_a_sequence(browser: &mut Browser) {
    browser.go("/editor");
    browser.fill("#document", &SEQUENCE.replace("wipe-disk", "wipe-dsk"));
    browser.wait_text("wipe-disk");
    browser.wait("document.querySelector('#findings').innerText.includes('line 4')");
    browser.wait("document.querySelector('.gutter .wrong').textContent === '4'");
    browser.follow("#publish");
    browser.wait("document.querySelector('#findings').innerText.includes('line 4')");
    browser.fill("#document", SEQUENCE);
    browser.wait_text("Nothing is wrong.");
    browser.follow("#publish");
    browser.wait("location.pathname === '/sequences/wipe-and-greet'");
}

/// Through the guard: a wrong number starts nothing, the right one does.
fn deploy(browser: &mut Browser) {
    browser.go("/deployments/new?collection=all");
    browser.follow("main button[type=submit]");
    browser.fill("[name=rings]", "1");
    browser.fill("[name=failures_percent_max]", "100");
    browser.follow("main button[type=submit]");
    browser.wait_text("This erases the disks of 3 machines");
    browser.wait_text("nvme0n1");
    browser.fill("[name=confirm]", "2");
    browser.follow(".confirm button");
    browser.wait_text("That did not work");
    browser.go("/deployments");
    browser.wait_text("Nothing was deployed yet");
    browser.go("/deployments/new?collection=all");
    browser.follow("main button[type=submit]");
    browser.fill("[name=rings]", "1");
    browser.follow("main button[type=submit]");
    browser.fill("[name=confirm]", "3");
    browser.follow(".confirm button");
    browser.wait_text("Ring 2");
}

/// The first ring is one machine: its progress moves on the page that is open. It is first of the machines from then on.
fn watch_one(browser: &mut Browser, machines: &mut [Machine]) {
    let (at, order) = first_due(machines);
    machines.swap(0, at);
    let machine = &mut machines[0];
    assert_eq!(order["sequence"]["name"], "wipe-and-greet");
    machine.begin("1");
    browser.wait("document.querySelector('[data-progress]')");
    for percent in [10, 55] {
        machine.report("1", percent, 100);
        let begun = std::time::Instant::now();
        browser.wait(&format!("[...document.querySelectorAll('[data-progress] span')].some((s) => s.textContent.startsWith('{percent} %'))"));
        println!("a report of {percent} % was on the page after {} ms", begun.elapsed().as_millis());
    }
    machine.finish("1", None);
    machine.begin("2");
    machine.finish("2", None);
    machine.end("succeeded");
    browser.wait_text("1 succeeded");
}

/// In the second ring one fails, and its page says why; the other is cancelled on its page and is told so.
fn watch_the_rest(browser: &mut Browser, machines: &mut [Machine]) {
    for machine in &mut *machines {
        machine.fetch();
        machine.begin("1");
    }
    machines[0].finish("1", Some("the disk does not answer"));
    machines[0].end("failed");
    browser.wait_text("the disk does not answer");
    browser.go("/");
    browser.wait_text("the disk does not answer");
    browser.wait_text("is the cable in?");
    browser.go("/runs?state=running");
    browser.follow("tbody a");
    browser.click("details.guard summary");
    browser.click("details.guard input[type=checkbox]");
    browser.follow("button[value=cancel]");
    browser.wait_text("being cancelled");
    assert_eq!(machines[1].directive(), "cancel");
    machines[1].end("cancelled");
    browser.wait("document.querySelector('.badge').textContent === 'cancelled'");
}

fn ask_and_download(browser: &mut Browser) {
    browser.go("/inventory");
    browser.fill("[name=sql]", "SELECT machine, bytes FROM disks ORDER BY machine");
    browser.follow("main button[type=submit]");
    browser.wait_text("3 rows");
    let csv = browser.eval("fetch(document.querySelector('a[href*=csv]').href).then((answer) => answer.text())");
    assert_eq!(csv.as_str().unwrap().lines().count(), 4, "{csv}");
    browser.go("/inventory?sql=SELECT+password+FROM+person");
    browser.wait_text("only these views may be asked");
}

/// A tile is moved with the keys and stands there still when the page is opened again.
fn arrange(browser: &mut Browser) {
    browser.go("/rooms");
    browser.fill("[name=room]", "Lab 1");
    browser.follow("form[action='/rooms'] button");
    browser.wait("document.querySelectorAll('.unplaced .seat').length === 3");
    for key in ["ArrowRight", "ArrowRight", "ArrowDown"] {
        browser.eval(&format!(
            "(() => {{ const s = document.activeElement.closest('.seat') || document.querySelector('.unplaced .seat'); s.focus();
              s.dispatchEvent(new KeyboardEvent('keydown', {{ key: '{key}', bubbles: true }})); }})()"
        ));
    }
    browser.wait_text("column 2, row 2");
    browser.go("/rooms");
    browser.wait("document.querySelectorAll('.room .seat.x2.y2').length === 1");
}

/// Every page once: nothing that can be operated is without a name, nothing asks another host.
fn every_page(browser: &mut Browser) {
    let machine = browser.eval("fetch('/api/v1/machines').then((a) => a.json()).then((all) => all[0].name)");
    let run = browser.eval("fetch('/api/v1/runs').then((a) => a.json()).then((all) => all[0].id)");
    let deployment = browser.eval("fetch('/api/v1/deployments').then((a) => a.json()).then((all) => all[0].id)");
    let named = |path: &str, name: &serde_json::Value| format!("{path}{}", name.as_str().unwrap());
    let pages = [
        ("overview", "/".to_owned()),
        ("rooms", "/rooms".to_owned()),
        ("arrange", "/rooms?arrange=1".to_owned()),
        ("machines", "/machines".to_owned()),
        ("machine", named("/machines/", &machine)),
        ("approvals", "/approvals".to_owned()),
        ("boots", "/boots".to_owned()),
        ("deployments", "/deployments".to_owned()),
        ("deployment", named("/deployments/", &deployment)),
        ("new-deployment", "/deployments/new".to_owned()),
        ("new-deployment-how", "/deployments/new?sequence=wipe-and-greet&collection=all".to_owned()),
        ("runs", "/runs".to_owned()),
        ("run", named("/runs/", &run)),
        ("sequences", "/sequences".to_owned()),
        ("sequence", named("/sequences/wipe-and-greet?machine=", &machine)),
        ("editor", "/editor?sequence=wipe-and-greet".to_owned()),
        ("images", "/images".to_owned()),
        ("collections", "/collections".to_owned()),
        ("collection", "/collections/all".to_owned()),
        ("software", "/software".to_owned()),
        ("inventory", "/inventory?sql=SELECT+machine,disk,bytes,model+FROM+disks".to_owned()),
        ("reports", "/reports".to_owned()),
        ("audit", "/audit".to_owned()),
        ("settings", "/settings".to_owned()),
    ];
    let kept = std::env::var_os("REMINT_PICTURES");
    let axe = oracle("axe.min.js").map(|path| fs::read_to_string(path).unwrap());
    if axe.is_none() {
        println!("skipped: barriers in the console's pages: axe-core is not there (scripts/test fetches it from npm)");
    }
    for (name, path) in &pages {
        browser.go(path);
        let title = browser.eval("document.title").as_str().unwrap_or_default().to_owned();
        assert!(!title.contains("did not work"), "{path}: {title}");
        let nameless = browser.nameless();
        assert!(nameless.is_empty(), "{path}: {nameless:?}");
        let wide = browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert_eq!(wide, json!(0), "{path} is wider than the screen");
        if let Some(axe) = &axe {
            let barriers = browser.barriers(axe);
            assert!(barriers.is_empty(), "{path}: {barriers:#?}");
        }
        if let Some(folder) = &kept {
            pictures(browser, Path::new(folder), name);
        }
    }
    browser.look(390, 844, "dark");
    for (_, path) in &pages {
        browser.go(path);
        let wide = browser.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth");
        assert_eq!(wide, json!(0), "{path} is wider than a phone");
        let barriers = axe.as_ref().map(|axe| browser.barriers(axe)).unwrap_or_default();
        assert!(barriers.is_empty(), "{path} in the dark: {barriers:#?}");
    }
}

fn pictures(browser: &mut Browser, folder: &Path, name: &str) {
    fs::create_dir_all(folder).unwrap();
    for theme in ["light", "dark"] {
        for (size, width, height) in [("laptop", 1366, 768), ("phone", 390, 844), ("wall", 1920, 1080)] {
            browser.look(width, height, theme);
            let picture = browser.picture(width, 2400);
            fs::write(folder.join(format!("{name}-{size}-{theme}.png")), picture).unwrap();
        }
    }
    browser.look(1366, 768, "light");
}
