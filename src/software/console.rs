//! Pages: packages, baselines and how the machines stand with them.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::db::{SoftwareStore, Standing};
use super::model::Compliance;
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::page::page;
use crate::console::part::{Tone, badge, instant, nothing, section, size};
use crate::fleet::db::Fleet;
use crate::fleet::machine::Machine;

#[derive(Clone)]
pub struct SoftwarePages {
    pub software: Arc<SoftwareStore>,
    pub fleet: Arc<Fleet>,
}

pub fn routes(pages: SoftwarePages) -> Table {
    let read = Access::Person(Capability::Read);
    Routes::new().get("/software", read, "Packages, baselines and compliance", software_page).with_state(pages)
}

async fn software_page(State(pages): State<SoftwarePages>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let failed = |error: super::db::Error| Problem::internal(error.to_string());
        let standings = pages.software.compliance(None).map_err(failed)?;
        let body = html! {
            (section("How machines stand", &standing_table(&standings, |id| name_of(&pages.fleet, id))))
            (section("Baselines", &baselines(&pages.software).map_err(failed)?))
            (section("Packages", &packages(&pages.software).map_err(failed)?))
        };
        Ok(page(&caller, "/software", "Software", &body))
    })
    .await
}

fn name_of(fleet: &Fleet, id: &str) -> String {
    fleet.machine(id).map_or_else(|_| id.to_owned(), |machine| machine.name)
}

/// What a machine's page shows of its baselines.
pub fn machine_section(software: &SoftwareStore, machine: &Machine) -> Markup {
    let standings = software.compliance(Some(&machine.id)).unwrap_or_default();
    html! {
        @if !standings.is_empty() { (section("Baseline", &standing_table(&standings, |_| machine.name.clone()))) }
    }
}

fn standing_table(standings: &[Standing], name: impl Fn(&str) -> String) -> Markup {
    html! {
        @if standings.is_empty() { (nothing("No machine has reported yet.")) }
        @else {
            table {
                thead { tr { th { "Machine" } th { "Package" } th { "Version" } th { "State" } th { "Why" } th { "Checked" } } }
                tbody {
                    @for standing in standings {
                        tr {
                            td { a href={ "/machines/" (standing.machine) } { (name(&standing.machine)) } }
                            td { (standing.finding.package) }
                            td { (standing.finding.version) }
                            td { (badge(tone(standing.finding.state), standing.finding.state.name())) }
                            td {
                                (standing.finding.reason)
                                @if !standing.finding.output.is_empty() { details { summary { "Output" } pre.log { (standing.finding.output) } } }
                            }
                            td { (instant(standing.at)) }
                        }
                    }
                }
            }
        }
    }
}

fn tone(state: Compliance) -> Tone {
    match state {
        Compliance::Held | Compliance::Installed | Compliance::Removed => Tone::Good,
        Compliance::Missing => Tone::Attention,
        Compliance::Pending => Tone::Busy,
        Compliance::Failed => Tone::Bad,
        Compliance::NotApplicable | Compliance::Unknown => Tone::Quiet,
    }
}

fn baselines(software: &SoftwareStore) -> Result<Markup, super::db::Error> {
    let baselines = software.baselines()?;
    Ok(html! {
        @if baselines.is_empty() { (nothing("No baseline yet: `remint baseline apply FILE` makes one.")) }
        @else {
            table {
                thead { tr { th { "Baseline" } th { "Collection" } th { "Packages" } } }
                tbody { @for baseline in &baselines { tr { td { (baseline.name) } td { (baseline.collection) } td { (baseline.packages.join(", ")) } } } }
            }
        }
    })
}

fn packages(software: &SoftwareStore) -> Result<Markup, super::db::Error> {
    let packages = software.packages()?;
    Ok(html! {
        @if packages.is_empty() { (nothing("No package yet: `remint package add DIR` adds one.")) }
        @else {
            table {
                thead { tr { th { "Package" } th { "Version" } th { "Payload" } th { "SHA-256" } th { "Added" } } }
                tbody {
                    @for stored in &packages {
                        tr {
                            td { (stored.package.name) }
                            td { (stored.package.version) }
                            td { (size(stored.content.bytes)) }
                            td { code { (stored.content.sha256.get(..16).unwrap_or_default()) "…" } }
                            td { (instant(stored.added_at)) " by " (stored.added_by) }
                        }
                    }
                }
            }
        }
    })
}
