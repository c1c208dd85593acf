//! What a machine's page shows of its hardware and of what changed; the page of questions; what reports show of hardware.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Form;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};
use serde_json::Value;

use super::db::Inventory;
use super::difference::Change;
use super::model::{Adapter, Disk, Hardware, Partition};
use super::query::{self, Answer, VIEWS};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::chart::{self, Stretch};
use crate::console::form::{Fields, escaped};
use crate::console::page::page;
use crate::console::part::{Tone, badge, counted, facts, folded, instant, nothing, section, size, table, words};
use crate::fleet::MachineId;
use crate::fleet::machine::Machine;
use crate::stdx::hint::{Hint, chain};
use crate::stdx::time::Timestamp;

/// Changes that the page lists.
const CHANGES_MAX: u32 = 12;
/// Rows of an answer that the page shows; the downloads have all.
const ROWS_SHOWN: usize = 1000;
/// Bars of a chart; the rest are added up.
const BARS_MAX: usize = 10;

const EXAMPLES: [(&str, &str); 5] = [
    ("Small disks", "SELECT machine, disk, bytes / 1000000000 AS gb FROM disks WHERE bytes < 300e9 ORDER BY bytes"),
    ("Models", "SELECT manufacturer, model, count(*) AS machines FROM machines GROUP BY 1, 2 ORDER BY 3 DESC"),
    ("Old kernels", "SELECT name, os, os_version, kernel FROM machines WHERE kernel IS NOT NULL ORDER BY kernel"),
    ("A package", "SELECT machine, version FROM packages WHERE package = 'openssl' ORDER BY machine"),
    (
        "Not compliant",
        "SELECT machine, package, version, state, reason FROM compliance WHERE state NOT IN ('held', 'installed')",
    ),
];

type Shared = State<Arc<Inventory>>;

pub fn routes(inventory: Arc<Inventory>) -> Table {
    let read = Access::Person(Capability::Read);
    Routes::new()
        .get("/inventory", read, "Page: ask the inventory", ask)
        .get("/inventory/answer.csv", read, "The answer to a question as CSV", csv)
        .get("/inventory/answer.json", read, "The answer to a question as JSON", json)
        .with_state(inventory)
}

async fn ask(State(inventory): Shared, caller: Caller, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    blocking(move || {
        let sql = fields.document("sql");
        let answered = (!sql.trim().is_empty()).then(|| query::run(&inventory.db, &sql));
        let body = html! {
            section {
                form method="get" action="/inventory" {
                    label.field { "A question in SQL, read-only, over the views below" textarea name="sql" rows="4" spellcheck="false" placeholder="SELECT name, model, memory_bytes FROM machines" { "\n" (sql) } }
                    p.actions { button type="submit" { "Ask" } }
                }
                p.hint { "For instance: " @for (at, (name, example)) in EXAMPLES.iter().enumerate() { @if at > 0 { ", " } a href={ "/inventory?sql=" (escaped(example)) } { (name.to_lowercase()) } } "." }
            }
            @match &answered {
                Some(Ok(answer)) => { (section("Answer", &shown(answer, &sql))) }
                Some(Err(error)) => { section { h2 { "Answer" } p.problem role="alert" { (chain(error)) } @if let Some(hint) = error.hint() { p { b { "What to do: " } (words(&hint)) } } } }
                None => {}
            }
            (section("What can be asked", &views()))
        };
        Ok(page(&caller, "/inventory", "Inventory", &body))
    })
    .await
}

fn views() -> Markup {
    table(
        &["View", "What it holds"],
        &html! {
            @for view in VIEWS { tr { td { a href={ "/inventory?sql=" (escaped(&format!("SELECT * FROM {} LIMIT 100", view.name))) } { code { (view.name) } } } td { (view.about) } } }
        },
    )
}

fn shown(answer: &Answer, sql: &str) -> Markup {
    let heads: Vec<&str> = answer.columns.iter().map(String::as_str).collect();
    html! {
        p {
            (counted(answer.rows.len(), "row", "rows")) @if answer.truncated { ", and more: the answer was cut" }
            @if answer.rows.len() > ROWS_SHOWN { "; the first " (ROWS_SHOWN) " are shown" } ". "
            a href={ "/inventory/answer.csv?sql=" (escaped(sql)) } { "Download as CSV" } ", " a href={ "/inventory/answer.json?sql=" (escaped(sql)) } { "as JSON" }
        }
        @if answer.rows.is_empty() { (nothing("No row fits.")) }
        @else {
            (table(&heads, &html! {
                @for row in answer.rows.iter().take(ROWS_SHOWN) { tr { @for (cell, head) in row.iter().zip(&heads) { td { (cell_shown(cell, head)) } } } }
            }))
        }
    }
}

fn cell_shown(cell: &Value, head: &str) -> Markup {
    let text = text_of(cell);
    let machine = matches!(head, "machine" | "name") && cell.is_string();
    match (head, cell.as_i64()) {
        ("at" | "seen_at", Some(at)) => instant(Timestamp::from_milliseconds(at)),
        _ if machine && head == "machine" => html! { a href={ "/machines/" (text) } { (text) } },
        _ => html! { (text) },
    }
}

fn text_of(cell: &Value) -> String {
    match cell {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

async fn answered(inventory: Arc<Inventory>, fields: Fields) -> Result<Answer, Problem> {
    blocking(move || {
        query::run(&inventory.db, &fields.document("sql")).map_err(|error| {
            let problem = Problem::bad_request(chain(&error));
            error.hint().map_or(problem.clone(), |hint| problem.with_hint(hint))
        })
    })
    .await
}

async fn csv(State(inventory): Shared, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    let answer = answered(inventory, fields).await?;
    let mut text = csv_line(answer.columns.iter().map(String::as_str));
    for row in &answer.rows {
        let cells: Vec<String> = row.iter().map(text_of).collect();
        text.push_str(&csv_line(cells.iter().map(String::as_str)));
    }
    Ok(download(text, "text/csv; charset=utf-8", "inventory.csv"))
}

/// RFC 4180. A text that a spreadsheet would take for a formula is led by an apostrophe: what machines say is not trusted.
fn csv_line<'a>(cells: impl Iterator<Item = &'a str>) -> String {
    let cell = |text: &str| {
        let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
        let text = if formula { format!("'{text}") } else { text.to_owned() };
        if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
    };
    cells.map(cell).collect::<Vec<_>>().join(",") + "\r\n"
}

/// An array of objects, a row each.
async fn json(State(inventory): Shared, Form(fields): Form<Fields>) -> Result<Response, Problem> {
    let answer = answered(inventory, fields).await?;
    let row = |cells: &Vec<Value>| -> Value {
        answer.columns.iter().cloned().zip(cells.iter().cloned()).collect::<serde_json::Map<_, _>>().into()
    };
    let rows: Vec<Value> = answer.rows.iter().map(row).collect();
    Ok(download(Value::Array(rows).to_string(), "application/json", "inventory.json"))
}

fn download(text: String, kind: &'static str, name: &str) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, disposition)];
    (headers, text).into_response()
}

pub fn machine_section(inventory: &Inventory, machine: &Machine) -> Markup {
    let hardware = inventory.hardware(&machine.id).ok().flatten();
    let software = inventory.software(&machine.id).ok().flatten();
    html! {
        @if let Some(hardware) = &hardware {
            (section("Hardware", &html! { (summary(&hardware.what)) (disks(&hardware.what.disks)) (adapters(&hardware.what.adapters)) (modules(&hardware.what)) (devices(&hardware.what)) p.hint { "Reported " (instant(hardware.at)) } }))
        }
        @if let Some(software) = &software {
            (section("Installed software", &html! {
                (facts(&[
                    ("System", Some(software.what.os.name.clone())),
                    ("Kernel", Some(software.what.os.kernel.clone())),
                    ("Packages", Some(software.what.packages.len().to_string())),
                ]))
                (folded("All packages", &table(&["Package", "Version", "Architecture"], &html! {
                    @for package in &software.what.packages { tr { td { (package.name) } td { (package.version) } td { (package.architecture) } } }
                })))
                p.hint { "Reported " (instant(software.at)) }
            }))
        }
        (changes(inventory, machine))
    }
}

fn summary(hardware: &Hardware) -> Markup {
    let firmware = &hardware.firmware;
    let named =
        [firmware.vendor.as_deref(), firmware.version.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
    facts(&[
        ("Processor", hardware.processor.model.clone()),
        ("Cores", Some(format!("{} cores, {} threads", hardware.processor.cores, hardware.processor.threads))),
        ("Memory", Some(size(hardware.memory.total_bytes))),
        ("Firmware", Some(format!("{} {named}", firmware.kind.to_uppercase()))),
        ("Secure Boot", firmware.secure_boot.map(|on| if on { "on".to_owned() } else { "off".to_owned() })),
        ("Board", hardware.board.product.clone()),
        ("TPM", Some(if hardware.tpm.is_some() { "present" } else { "none" }.to_owned())),
    ])
}

fn disks(disks: &[Disk]) -> Markup {
    html! {
        (table(&["Disk", "Size", "Model", "Serial", "Connected by", "Health"], &html! {
            @for disk in disks {
                tr {
                    td { (disk.name) }
                    td { (size(disk.bytes)) }
                    td { (disk.model.as_deref().unwrap_or("-")) }
                    td { (disk.serial.as_deref().unwrap_or("-")) }
                    td { (disk.transport.as_deref().unwrap_or("-")) @if disk.rotational { ", rotating" } }
                    td { (health(disk)) }
                }
            }
        }))
        @for disk in disks.iter().filter(|disk| !disk.partitions.is_empty()) {
            h3 { "What lies on " (disk.name) }
            (layout(disk))
        }
    }
}

fn layout(disk: &Disk) -> Markup {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let stretch = |partition: &Partition| Stretch {
        number: partition.number,
        name: text(&partition.name),
        filesystem: text(&partition.filesystem),
        label: text(&partition.label),
        start: partition.start,
        size: partition.bytes,
        used: partition.used_bytes,
        mounted_at: text(&partition.mounted_at),
    };
    let stretches: Vec<Stretch> = disk.partitions.iter().map(stretch).collect();
    chart::disk(&disk.name, disk.bytes, &stretches)
}

fn health(disk: &Disk) -> Markup {
    let Some(health) = &disk.health else { return html! { "not said" } };
    let counts = [
        (health.reallocated_sectors, "reallocated sectors"),
        (health.pending_sectors, "pending sectors"),
        (health.lost_sectors, "lost sectors"),
        (health.media_errors, "media errors"),
    ];
    let counts =
        counts.into_iter().filter_map(|(count, what)| count.filter(|count| *count > 0).map(|count| (count, what)));
    html! {
        @if health.failing { (badge(Tone::Bad, "failing")) } @else { (badge(Tone::Good, "good")) }
        @if let Some(percent) = health.percent_used { ", " (percent) " % used" }
        @for (count, what) in counts { ", " (count) " " (what) }
    }
}

/// What is not a part of the board's own plumbing comes first in nobody's list, so it is folded.
fn devices(hardware: &Hardware) -> Markup {
    let name = |numbers: [&str; 2], names: [&Option<String>; 2]| {
        let named: Vec<&str> = names.into_iter().flatten().map(String::as_str).collect();
        if named.is_empty() { numbers.join(":") } else { named.join(" ") }
    };
    folded(
        "PCI and USB devices",
        &table(
            &["Where", "What", "Name"],
            &html! {
                @for device in &hardware.pci {
                    tr { td { (device.address) } td { (device.kind.as_deref().unwrap_or(&device.class)) } td { (name([&device.vendor, &device.device], [&device.vendor_name, &device.device_name])) } }
                }
                @for device in &hardware.usb {
                    tr { td { "USB " (device.address) } td { (device.product.as_deref().unwrap_or("-")) } td { (name([&device.vendor, &device.device], [&device.vendor_name, &device.device_name])) } }
                }
            },
        ),
    )
}

/// Nothing where the firmware does not say.
fn modules(hardware: &Hardware) -> Markup {
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    html! {
        @if !hardware.memory.modules.is_empty() {
            (table(&["Memory", "Size", "Kind", "Maker", "Part", "Serial"], &html! {
                @for module in &hardware.memory.modules {
                    tr {
                        td { (text(&module.slot)) } td { (size(module.bytes)) } td { (text(&module.kind)) }
                        td { (text(&module.manufacturer)) } td { (text(&module.part)) } td { (text(&module.serial)) }
                    }
                }
            }))
        }
    }
}

fn adapters(adapters: &[Adapter]) -> Markup {
    table(
        &["Adapter", "Hardware address", "Link", "Switch and port", "Driver"],
        &html! {
            @for adapter in adapters {
                tr {
                    td { (adapter.name) }
                    td { @if let Some(mac) = adapter.permanent_mac.or(adapter.mac) { (mac) } @else { "-" } }
                    td {
                        @if adapter.link { (badge(Tone::Good, "up")) @if let Some(rate) = adapter.megabits { " " (rate) " Mbit/s" } }
                        @else { (badge(Tone::Quiet, "down")) }
                    }
                    td { @if let Some(there) = &adapter.neighbour { (there.system.as_ref().unwrap_or(&there.chassis)) ", " (there.port) } @else { "-" } }
                    td { (adapter.driver.as_deref().unwrap_or("-")) }
                }
            }
        },
    )
}

fn changes(inventory: &Inventory, machine: &Machine) -> Markup {
    let changes = inventory.changes(&machine.id, Timestamp::default(), CHANGES_MAX).unwrap_or_default();
    html! {
        @if !changes.is_empty() {
            (section("What changed", &table(&["When", "What", "How"], &html! {
                @for change in &changes { tr { td { (instant(change.at)) } td { (change.change.subject) " " (change.change.name) } td { (told(&change.change)) } } }
            })))
        }
    }
}

fn told(change: &Change) -> String {
    match (&change.before, &change.after) {
        (None, Some(after)) => format!("new: {after}"),
        (Some(before), None) => format!("gone: {before}"),
        (Some(before), Some(after)) => format!("{before} → {after}"),
        (None, None) => String::new(),
    }
}

/// The hardware of every machine in a line, for whoever approves them.
pub fn hardware_lines(inventory: &Inventory) -> HashMap<MachineId, String> {
    const SQL: &str = "SELECT m.id, m.processor, m.threads, m.memory_bytes, m.firmware,
        (SELECT group_concat(d.disk || ' ' || (d.bytes / 1000000000) || ' GB', ', ') FROM disks d WHERE d.machine = m.name) FROM machines m";
    let rows = query::run(&inventory.db, SQL).unwrap_or_default().rows;
    rows.iter().filter_map(|row| Some((MachineId::from(row.first()?.as_str()?), hardware_line(row)?))).collect()
}

fn hardware_line(row: &[Value]) -> Option<String> {
    let [_, processor, threads, memory, firmware, disks] = row else { return None };
    let memory = memory.as_u64()?;
    let parts = [
        processor.as_str().map(str::to_owned),
        threads.as_u64().map(|threads| counted(threads as usize, "thread", "threads")),
        Some(format!("{} memory", size(memory))),
        disks.as_str().map(str::to_owned),
        firmware.as_str().map(str::to_uppercase),
    ];
    Some(parts.into_iter().flatten().collect::<Vec<_>>().join(" · "))
}

/// What the reports show of hardware and systems.
pub fn reports(inventory: &Inventory) -> Markup {
    let bars = |title: &str, label: &str, sql: &str| {
        let counted = most_frequent(&query::run(&inventory.db, sql).unwrap_or_default());
        section(
            title,
            &html! { @if counted.is_empty() { (nothing("Nothing was reported yet.")) } @else { (chart::bars(label, &counted)) } },
        )
    };
    html! {
        (bars("Machines by state", "Machines by state", "SELECT state, count(*) FROM machines GROUP BY 1"))
        (bars("Models", "Machines by model", "SELECT COALESCE(model, 'not reported'), count(*) FROM machines GROUP BY 1"))
        (bars("Operating systems", "Machines by operating system", "SELECT os || ' ' || os_version, count(*) FROM machines WHERE os IS NOT NULL GROUP BY 1"))
        (bars("Memory", "Machines by memory in GB", "SELECT CAST(round(memory_bytes / 1e9) AS INTEGER) || ' GB', count(*) FROM machines WHERE memory_bytes IS NOT NULL GROUP BY 1"))
        (bars("Last seen", "Machines by when they were last seen", AGES))
    }
}

const AGES: &str = "SELECT CASE
        WHEN age < 3600e3 THEN 'within the hour' WHEN age < 86400e3 THEN 'within a day' WHEN age < 7 * 86400e3 THEN 'within a week'
        WHEN age < 30 * 86400e3 THEN 'within a month' ELSE 'longer ago' END, count(*)
    FROM (SELECT strftime('%s', 'now') * 1000 - seen_at AS age FROM machines) GROUP BY 1";

/// The largest groups, the rest added up.
fn most_frequent(answer: &Answer) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for row in &answer.rows {
        if let (Some(name), Some(count)) = (row.first(), row.get(1).and_then(Value::as_u64)) {
            *counts.entry(text_of(name)).or_default() += count;
        }
    }
    let mut sorted: Vec<(String, u64)> = counts.into_iter().collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let rest: u64 = sorted.iter().skip(BARS_MAX).map(|(_, count)| count).sum();
    sorted.truncate(BARS_MAX);
    if rest > 0 {
        sorted.push(("others".to_owned(), rest));
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_keeps_what_is_in_a_cell_in_that_cell() {
        let line = csv_line(["a", "b,c", "say \"x\"", "two\nlines", "", "-5", "=cmd()", "-x"].into_iter());
        assert_eq!(line, "a,\"b,c\",\"say \"\"x\"\"\",\"two\nlines\",,-5,'=cmd(),'-x\r\n");
    }

    #[test]
    fn charts_show_the_largest_groups_and_the_sum_of_the_rest() {
        let rows = (1..=15).map(|n| vec![Value::from(format!("m{n}")), Value::from(n)]).collect();
        let found = most_frequent(&Answer { columns: Vec::new(), rows, truncated: false });
        assert_eq!(found[0], ("m15".to_owned(), 15));
        assert_eq!(found.last(), Some(&("others".to_owned(), 15)), "1 to 5 together");
    }
}
