//! The console as people use it: Chromium against a running appliance, with machines that speak its protocol.
//! REMINT_PICTURES=FOLDER keeps a picture of every page, in both themes and three sizes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at the first surprise and says what it skips"
)]

mod appliance;
mod backup;
mod boots;
mod browser;
mod contract;
mod images;
mod pages;
mod software;

use std::path::{Path, PathBuf};

use appliance::{Appliance, Machine, first_due};
use boots::{can_serve_dhcp, fail_to_boot};
use browser::{Browser, program};
use images::publish_two_versions;
use pages::{Pictures, every_page};
use serde_json::{Value, json};
use software::{report_software, want_a_package};

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
    let boots = can_serve_dhcp();
    let appliance = Appliance::start_with(folder.path(), if boots { "proxy" } else { "off" });
    publish_two_versions(&appliance.site, folder.path());
    want_a_package(&appliance.site, folder.path());
    let mut browser = Browser::start(&program, folder.path(), &appliance.base);
    let mut pictures = Pictures::open();
    browser.look(1366, 768, "light");
    become_administrator(&mut browser, &appliance);
    let mut machines = approve(&mut browser, &appliance, &mut pictures);
    report_software(&machines);
    write_a_sequence(&mut browser, &mut pictures);
    arrange(&mut browser);
    deploy(&mut browser, &mut pictures);
    watch_one(&mut browser, &mut machines);
    watch_the_rest(&mut browser, &mut machines[1..]);
    match boots {
        true => read_why_it_did_not_boot(&mut browser, &appliance, &machines[0]),
        false => println!("skipped: a boot that fails and its explanation: port 67 cannot be taken here"),
    }
    ask_and_download(&mut browser);
    every_page(&mut browser, &machines[0].name(), &mut pictures);
    cancel_the_rest(&mut browser, &mut machines[3..]);
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

/// As many as stand in the room.
const MACHINES: usize = 6;

/// Machines check in while the page is open; their codes are compared, and they are approved at once.
fn approve(browser: &mut Browser, appliance: &Appliance, pictures: &mut Pictures) -> Vec<Machine> {
    browser.go("/approvals");
    browser.wait_text("No machine waits");
    let mut machines: Vec<Machine> =
        (1..=MACHINES).map(|number| Machine::new(appliance, &format!("S-100{number}"))).collect();
    for machine in &mut machines {
        assert!(!machine.check_in(appliance), "nobody has approved it");
    }
    browser.wait(&format!("document.querySelectorAll('input[name=machine]').length === {MACHINES}"));
    browser.wait_text("Example CPU 3.2 GHz");
    browser.click("input[name=machine]");
    browser.wait("document.querySelector('[data-count]').textContent === '1'");
    browser.click("input[data-all=machine]");
    pictures.take(browser, "approvals-waiting");
    browser.wait(&format!("document.querySelector('[data-count]').textContent === '{MACHINES}'"));
    browser.follow("button[value=approve]");
    browser.wait_text("No machine waits");
    for machine in &mut machines {
        assert!(machine.check_in(appliance), "it was approved");
    }
    name_them(browser);
    machines
}

/// After their serial numbers, on the page of each.
fn name_them(browser: &mut Browser) {
    let known = browser.eval("fetch('/api/v1/machines').then((answer) => answer.json())");
    for machine in known.as_array().unwrap() {
        let serial = machine["identity"]["system_serial"].as_str().unwrap();
        let name = serial.replace("S-100", "lab1-0");
        browser.go(&format!("/machines/{}", machine["name"].as_str().unwrap()));
        browser.fill("form[action$='/rename'] [name=name]", &name);
        browser.follow("form[action$='/rename'] button");
        browser.wait(&format!("location.pathname === '/machines/{name}'"));
    }
}

const SEQUENCE: &str = "name: wipe-and-greet\ndescription: Erases the disk and says so\nsteps:\n  - wipe-disk:\n      disk: first\n  - run-command:\n      command: [/bin/echo, done]\n";

/// A step is misspelt; the page says which is meant, in its line.
fn write_a_sequence(browser: &mut Browser, pictures: &mut Pictures) {
    browser.go("/editor");
    browser.fill("#document", &SEQUENCE.replace("wipe-disk", "wipe-dsk"));
    browser.wait_text("wipe-disk");
    browser.wait("document.querySelector('#findings').innerText.includes('line 4')");
    browser.wait("document.querySelector('.gutter .wrong').textContent === '4'");
    browser.follow("#publish");
    browser.wait("document.querySelector('#findings').innerText.includes('line 4')");
    pictures.take(browser, "editor-mistake");
    browser.fill("#document", SEQUENCE);
    browser.wait_text("Nothing is wrong.");
    browser.follow("#publish");
    browser.wait("location.pathname === '/sequences/wipe-and-greet'");
}

/// From the room, through the guard: a wrong number starts nothing, the right one does.
fn deploy(browser: &mut Browser, pictures: &mut Pictures) {
    for (typed, rings) in [("2", "1"), ("6", "1")] {
        browser.go("/rooms");
        browser.follow("form[action='/deployments/new'] button");
        browser.wait(&format!("document.querySelectorAll('input[name=machine]:checked').length === {MACHINES}"));
        browser.follow("main button[type=submit]");
        browser.fill("[name=rings]", rings);
        browser.fill("[name=failures_percent_max]", "100");
        browser.follow("main button[type=submit]");
        browser.wait_text("This erases the disks of 6 machines");
        browser.wait_text("nvme0n1");
        pictures.take(browser, "guard");
        browser.fill("[name=confirm]", typed);
        browser.follow(".confirm button");
        if typed == "2" {
            browser.wait_text("That did not work");
            browser.go("/deployments");
            browser.wait_text("Nothing was deployed yet");
        }
    }
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
    browser.wait("document.querySelector('.ring').innerText.includes('1 succeeded')");
}

/// In the second ring one fails, and its page says why; one is cancelled on its page and is told so; the others go on.
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
    let second = machines[1].name();
    browser.go("/runs?state=running");
    browser.eval(&format!("[...document.querySelectorAll('tbody tr')].find((row) => row.innerText.includes('{second}')).querySelector('a[href^=\"/runs/\"]').id = 'chosen'"));
    browser.follow("#chosen");
    browser.click("details.guard summary");
    browser.click("details.guard input[type=checkbox]");
    browser.follow("button[value=cancel]");
    browser.wait_text("being cancelled");
    assert_eq!(machines[1].directive(), "cancel");
    machines[1].end("cancelled");
    browser.wait("document.querySelector('.badge').textContent === 'cancelled'");
    // On the tiles of the room their progress moves.
    browser.go("/rooms");
    for (machine, percent) in machines[2..].iter_mut().zip([23, 48, 71]) {
        machine.report("1", percent, 100);
    }
    for percent in [23, 48, 71] {
        browser.wait(&format!("[...document.querySelectorAll('.seat [data-progress] span')].some((s) => s.textContent.startsWith('{percent} %'))"));
    }
}

/// The whole deployment is cancelled on its page: machines that run are told at their next report.
fn cancel_the_rest(browser: &mut Browser, machines: &mut [Machine]) {
    browser.look(1366, 768, "light");
    browser.go("/deployments");
    browser.follow("tbody a");
    browser.click("details.guard summary");
    browser.click("details.guard input[type=checkbox]");
    browser.follow("form[action$='/cancel'] button");
    for machine in machines {
        assert_eq!(machine.directive(), "cancel");
        machine.end("cancelled");
    }
    browser.wait_text("4 cancelled");
    browser.wait("!document.querySelector('form[action$=\"/cancel\"]')");
}

/// On its page, and on the page of all boots.
fn read_why_it_did_not_boot(browser: &mut Browser, appliance: &Appliance, machine: &Machine) {
    const WHY: &str =
        "it asked for snponly.efi, which is not among the boot files: run remint boot build on the appliance";
    fail_to_boot(appliance, machine.mac());
    browser.go(&format!("/machines/{}", machine.name()));
    browser.wait_text(WHY);
    browser.go("/boots");
    browser.wait_text(WHY);
    browser.click("details.boot summary");
    browser.wait_text("took the address 127.0.0.1 of 127.0.0.9");
    browser.wait_text("snponly.efi by TFTP: there is no such file");
}

fn ask_and_download(browser: &mut Browser) {
    browser.go("/inventory");
    browser.fill("[name=sql]", "SELECT machine, bytes FROM disks ORDER BY machine");
    browser.follow("main button[type=submit]");
    browser.wait_text("6 rows");
    let csv = download(browser, "csv", "text/csv; charset=utf-8");
    let rows: Vec<String> = (1..=MACHINES).map(|number| format!("lab1-0{number},512110190592\r\n")).collect();
    assert_eq!(csv, format!("machine,bytes\r\n{}", rows.concat()));
    let answer: Value = serde_json::from_str(&download(browser, "json", "application/json")).unwrap();
    let rows: Vec<Value> = (1..=MACHINES)
        .map(|number| json!({ "machine": format!("lab1-0{number}"), "bytes": 512_110_190_592u64 }))
        .collect();
    assert_eq!(answer, Value::Array(rows));
    browser.go("/inventory?sql=SELECT+password+FROM+person");
    browser.wait_text("only these views may be asked");
}

/// What the link on the page gives as a file.
fn download(browser: &mut Browser, kind: &str, content_type: &str) -> String {
    let answer = browser.eval(&format!(
        "fetch(document.querySelector('a[href*=\"answer.{kind}\"]').href).then(async (answer) => ({{
          text: await answer.text(), type: answer.headers.get('content-type'), name: answer.headers.get('content-disposition') }}))"
    ));
    assert_eq!(
        (answer["type"].as_str(), answer["name"].as_str()),
        (Some(content_type), Some(format!("attachment; filename=\"inventory.{kind}\"").as_str()))
    );
    answer["text"].as_str().unwrap().to_owned()
}

/// Tiles are moved with the keys and stand there still when the page is opened again.
fn arrange(browser: &mut Browser) {
    browser.go("/rooms");
    browser.fill("[name=room]", "Lab 1");
    browser.follow("form[action='/rooms'] button");
    browser.wait(&format!("document.querySelectorAll('.unplaced .seat').length === {MACHINES}"));
    for key in ["ArrowRight", "ArrowRight", "ArrowDown"] {
        press(browser, key);
    }
    browser.wait_text("column 2, row 2");
    for _ in 1..MACHINES {
        browser.eval("document.activeElement.blur()");
        press(browser, "ArrowRight");
    }
    browser.wait("document.querySelectorAll('.unplaced .seat').length === 0");
    browser
        .wait("document.getElementById('content').dataset.begun === document.getElementById('content').dataset.ended");
    browser.go("/rooms");
    browser.wait("document.querySelectorAll('.room .seat.x2.y2').length === 1");
    browser.wait(&format!("document.querySelectorAll('.room .seat').length === {MACHINES}"));
}

/// On the tile that has the focus, else on the first that has no place.
fn press(browser: &mut Browser, key: &str) {
    browser.eval(&format!(
        "(() => {{ const s = document.activeElement.closest('.seat') || document.querySelector('.unplaced .seat'); s.focus();
          s.dispatchEvent(new KeyboardEvent('keydown', {{ key: '{key}', bubbles: true }})); }})()"
    ));
}
