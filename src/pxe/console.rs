//! Pages: the boots that the flight recorder saw, each with what became of it in words; those of a machine on its page.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::client::Transport;
use super::recorder::{Ended, Entry, Event, Explained, Recorder};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table};
use crate::console::page::page;
use crate::console::part::{counted, duration, instant, nothing, section, size, table, words};
use crate::fleet::machine::Machine;

/// Boots on the page of all.
const BOOTS_SHOWN: usize = 200;
/// Boots on the page of a machine.
const MACHINE_BOOTS: usize = 4;

pub fn routes(recorder: Arc<Recorder>) -> Table {
    let read = Access::Person(Capability::Read);
    Routes::new().get("/boots", read, "Page: what became of each boot", boots).with_state(recorder)
}

async fn boots(State(recorder): State<Arc<Recorder>>, caller: Caller) -> Result<Response, Problem> {
    let boots = recorder.list(None);
    let body = html! {
        section {
            @if boots.is_empty() { (nothing("No machine has asked for something to boot since the appliance started. If one should have: is it in the network of the interface that the appliance listens on?")) }
            @else {
                p.hint { (counted(boots.len(), "boot", "boots")) " since the appliance started, the newest first." }
                @for boot in boots.iter().take(BOOTS_SHOWN) { (story(boot)) }
            }
        }
    };
    Ok(page(&caller, "/boots", "Boots", &body))
}

/// The last boots of a machine, known by the addresses of its adapters.
pub fn machine_section(recorder: &Recorder, machine: &Machine) -> Markup {
    let boots: Vec<Explained> = machine.identity.macs.iter().flat_map(|mac| recorder.list(Some(*mac))).collect();
    html! {
        @if !boots.is_empty() {
            (section("Boots", &html! { @for boot in boots.iter().take(MACHINE_BOOTS) { (story(boot)) } }))
        }
    }
}

fn story(boot: &Explained) -> Markup {
    let record = &boot.record;
    html! {
        details.boot {
            summary {
                b { (record.mac) } " " @if let Some(last) = record.events.last() { (instant(last.at)) }
                p { (words(&boot.sentence)) }
            }
            p.hint { (record.firmware) ", by " (way(record.transport)) @if let Some(uuid) = &record.uuid { ", UUID " (uuid) } }
            (table(&["When", "What happened"], &html! { @for entry in &record.events { (event_row(entry)) } }))
        }
    }
}

fn way(transport: Transport) -> &'static str {
    match transport {
        Transport::Tftp => "TFTP",
        Transport::Http => "HTTP",
    }
}

fn event_row(entry: &Entry) -> Markup {
    html! { tr { td { (instant(entry.at)) } td { (in_words(&entry.event)) } } }
}

fn in_words(event: &Event) -> String {
    match event {
        Event::Noticed { what } => what.clone(),
        Event::Tested { parts, .. } => format!("the hardware test: {}", parts.join("; ")),
        Event::CheckedIn => "the boot environment has checked in".to_owned(),
        Event::Asked { stage, told, because } => {
            let stage = serde_json::to_value(stage).unwrap_or_default();
            format!("{} asked, and was told: {told} ({because})", stage.as_str().unwrap_or("it"))
        }
        Event::Refused { why } => format!("not answered: {why}"),
        Event::Address { server, address } => format!("took the address {address} of {server}"),
        Event::Script { told } => format!("its script: {told}"),
        Event::File { name, transport, ended } => format!("{name} by {}: {}", way(*transport), became(ended)),
    }
}

fn became(ended: &Ended) -> String {
    match ended {
        Ended::Asked => "asked for".to_owned(),
        Ended::Missing => "there is no such file".to_owned(),
        Ended::Complete { bytes, milliseconds, repeats } => {
            let repeated = if *repeats == 0 { String::new() } else { format!(", {repeats} packets repeated") };
            format!("{} in {}{repeated}", size(*bytes), duration(*milliseconds))
        }
        Ended::Stopped { done, bytes, message } => {
            format!("the firmware stopped after {} of {}: {message}", size(*done), size(*bytes))
        }
        Ended::Unanswered => "no answer of ours reached it".to_owned(),
        Ended::Silent { done, bytes } => format!("silent after {} of {}", size(*done), size(*bytes)),
    }
}
