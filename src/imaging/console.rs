//! Page: the images with their versions.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};

use super::api::{ImageRow, Images, problem};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::page::page;
use crate::console::part::{Tone, badge, instant, nothing, section, size};

pub fn routes(images: Images) -> Table {
    Routes::new().get("/images", Access::Person(Capability::Read), "The images of the site", list).with_state(images)
}

async fn list(State(images): State<Images>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let rows = images.list().map_err(problem)?;
        let body = match rows.is_empty() {
            true => nothing("No image yet: `remint image import FILE --name NAME` takes a disk image in."),
            false => section(&format!("{} versions", rows.len()), &table(&rows)),
        };
        Ok(page(&caller, "/images", "Images", &body))
    })
    .await
}

fn table(rows: &[ImageRow]) -> Markup {
    html! {
        table {
            thead { tr { th { "Image" } th { "Version" } th { "Tags" } th { "Disk" } th { "Content" } th { "Published" } th { "SHA-256" } } }
            tbody {
                @for row in rows {
                    tr {
                        td { (row.name) }
                        td { (row.version) }
                        td { @for tag in &row.tags { (badge(Tone::Quiet, tag)) " " } }
                        td { (size(row.size)) }
                        td { (size(row.content_bytes)) }
                        td { (instant(row.created)) }
                        td { code { (row.id.to_string().get(..16).unwrap_or_default()) "…" } }
                    }
                }
            }
        }
    }
}
