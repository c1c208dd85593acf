//! What a machine's page shows of its hardware and of what changed.

use maud::{Markup, html};

use super::db::Inventory;
use super::difference::Change;
use super::model::{Adapter, Disk, Hardware};
use crate::console::part::{Tone, badge, facts, instant, section, size};
use crate::fleet::machine::Machine;
use crate::stdx::time::Timestamp;

/// Changes that the page lists.
const CHANGES_MAX: u32 = 12;

pub fn machine_section(inventory: &Inventory, machine: &Machine) -> Markup {
    let hardware = inventory.hardware(&machine.id).ok().flatten();
    let software = inventory.software(&machine.id).ok().flatten();
    html! {
        @if let Some(hardware) = &hardware {
            (section("Hardware", &html! { (summary(&hardware.what)) (disks(&hardware.what.disks)) (adapters(&hardware.what.adapters)) p.hint { "Reported " (instant(hardware.at)) } }))
        }
        @if let Some(software) = &software {
            (section("Installed software", &html! {
                (facts(&[
                    ("System", Some(software.what.os.name.clone())),
                    ("Kernel", Some(software.what.os.kernel.clone())),
                    ("Packages", Some(software.what.packages.len().to_string())),
                ]))
                details {
                    summary { "All packages" }
                    table {
                        thead { tr { th { "Package" } th { "Version" } } }
                        tbody { @for package in &software.what.packages { tr { td { (package.name) } td { (package.version) } } } }
                    }
                }
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
        table {
            thead { tr { th { "Disk" } th { "Size" } th { "Model" } th { "Serial" } th { "Connected by" } } }
            tbody {
                @for disk in disks {
                    tr {
                        td { (disk.name) }
                        td { (size(disk.bytes)) }
                        td { (disk.model.as_deref().unwrap_or("-")) }
                        td { (disk.serial.as_deref().unwrap_or("-")) }
                        td { (disk.transport.as_deref().unwrap_or("-")) @if disk.rotational { ", rotating" } }
                    }
                }
            }
        }
    }
}

fn adapters(adapters: &[Adapter]) -> Markup {
    html! {
        table {
            thead { tr { th { "Adapter" } th { "Hardware address" } th { "Link" } th { "Driver" } } }
            tbody {
                @for adapter in adapters {
                    tr {
                        td { (adapter.name) }
                        td { @if let Some(mac) = adapter.permanent_mac.or(adapter.mac) { (mac) } @else { "-" } }
                        td {
                            @if adapter.link { (badge(Tone::Good, "up")) @if let Some(rate) = adapter.megabits { " " (rate) " Mbit/s" } }
                            @else { (badge(Tone::Quiet, "down")) }
                        }
                        td { (adapter.driver.as_deref().unwrap_or("-")) }
                    }
                }
            }
        }
    }
}

fn changes(inventory: &Inventory, machine: &Machine) -> Markup {
    let changes = inventory.changes(&machine.id, Timestamp::default(), CHANGES_MAX).unwrap_or_default();
    html! {
        @if !changes.is_empty() {
            (section("What changed", &html! {
                table { tbody { @for change in &changes { tr { td { (instant(change.at)) } td { (change.change.subject) " " (change.change.name) } td { (told(&change.change)) } } } } }
            }))
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
