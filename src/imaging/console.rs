//! Pages: the images with their versions, one version with what lies where, what changed between two.

use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use maud::{Markup, html};

use super::api::{ImageDetail, ImageRow, Images, problem};
use super::diff::{Diff, diff};
use super::manifest::Partition;
use super::store::stats::Stats;
use super::store::versions::{Reference, Version};
use crate::access::Capability;
use crate::api::{Access, Caller, Problem, Routes, Table, blocking};
use crate::console::chart::{self, Stretch};
use crate::console::form::{Fields, escaped};
use crate::console::page::page;
use crate::console::part::{
    Share, Tone, badge, counted, facts, guarded, instant, nothing, section, shares, size, table,
};

pub fn routes(images: Images) -> Table {
    let read = Access::Person(Capability::Read);
    let edit = Access::Person(Capability::EditImage);
    Routes::new()
        .get("/images", read, "Page: the images of the site", list)
        .get("/images/{image}", read, "Page: a version of an image: NAME, NAME@7, NAME@prod", show)
        .post("/images/{image}/tag", edit, "Set a tag from the page of a version", tag)
        .post("/images/{image}/untag", edit, "Remove a tag from the page of a version", untag)
        .post("/images/{image}/remove", edit, "Remove a version from its page", remove)
        .with_state(images)
}

async fn list(State(images): State<Images>, caller: Caller) -> Result<Response, Problem> {
    blocking(move || {
        let rows = images.list().map_err(problem)?;
        let stats = images.stats().map_err(problem)?;
        let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        names.dedup();
        let body = html! {
            @if rows.is_empty() {
                section { (nothing("No image yet.")) p { "Take one in where the appliance runs: " code { "remint image import FILE --name NAME" } } }
            } @else {
                section { h2 { "The store" } (store(&stats)) }
            }
            @for name in names {
                (section(name, &versions(&rows.iter().filter(|row| row.name == name).collect::<Vec<_>>(), &stats)))
            }
        };
        Ok(page(&caller, "/images", "Images", &body))
    })
    .await
}

fn store(stats: &Stats) -> Markup {
    html! {
        (facts(&[
            ("Content of all versions", Some(size(stats.image_bytes))),
            ("Takes on the disk", Some(size(stats.stored_bytes))),
            ("That is", Some(format!("{:.1} bytes of images for each byte stored", stats.ratio()))),
            ("Needed by no version", (stats.garbage_bytes > 0).then(|| format!("{}: `remint store gc` frees it", size(stats.garbage_bytes)))),
        ]))
    }
}

/// (bytes that only this version needs, bytes that others need too)
fn own_and_shared(stats: &Stats, row: &ImageRow) -> (u64, u64) {
    let name = format!("{}@{}", row.name, row.version);
    let found = stats.images.iter().find(|image| image.version == name);
    found.map_or((0, 0), |image| (image.unique_bytes, image.shared_bytes))
}

fn versions(rows: &[&ImageRow], stats: &Stats) -> Markup {
    table(
        &["Version", "Tags", "Disk", "Content", "In the store: its own, shared", "Published", "SHA-256"],
        &html! {
            @for row in rows {
                @let (unique, shared) = own_and_shared(stats, row);
                tr {
                    td { a href={ "/images/" (row.name) "@" (row.version) } { (row.name) "@" (row.version) } }
                    td { @for tag in &row.tags { (badge(Tone::Quiet, tag)) " " } }
                    td { (size(row.size)) }
                    td { (size(row.content_bytes)) }
                    td { (size(unique)) ", " (size(shared)) }
                    td { (instant(row.created)) }
                    td { code { (row.id.to_string().get(..12).unwrap_or_default()) "…" } }
                }
            }
        },
    )
}

async fn show(
    State(images): State<Images>,
    caller: Caller,
    Path(name): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    blocking(move || {
        let version = find(&images, &name)?;
        let detail = images.detail(&version).map_err(problem)?;
        let others = images.versions(&version.name).map_err(problem)?;
        let stats = images.stats().map_err(problem)?;
        let compared = match fields.given("with") {
            Some(other) => Some(compare(&images, &find(&images, other)?, &version)?),
            None => None,
        };
        let title = version.to_string();
        let body = html! {
            (section("Version", &about(&detail, own_and_shared(&stats, &detail.row))))
            @if !detail.header.partitions.is_empty() { (section("Layout", &layout(&detail))) }
            @if !detail.header.remarks.is_empty() { (section("Remarks", &html! { ul { @for remark in &detail.header.remarks { li { (remark) } } } })) }
            @if others.len() > 1 { (section("What changed", &comparison(&title, &others, fields.text("with"), compared.as_ref()))) }
            @if caller.principal.may(Capability::EditImage) { (section("Tags and removal", &upkeep(&detail, &title))) }
        };
        Ok(page(&caller, "/images", &title, &body))
    })
    .await
}

fn find(images: &Images, name: &str) -> Result<Version, Problem> {
    Reference::parse(name).and_then(|reference| images.resolve(&reference)).map_err(problem)
}

fn about(detail: &ImageDetail, (unique, shared): (u64, u64)) -> Markup {
    let row = &detail.row;
    html! {
        p { @for tag in &row.tags { (badge(Tone::Quiet, tag)) " " } }
        (facts(&[
            ("Disk", Some(size(row.size))),
            ("Smallest disk that takes it", (detail.header.needed_bytes > 0).then(|| size(detail.header.needed_bytes))),
            ("Content", Some(size(row.content_bytes))),
            ("Must read as zero", (detail.zero_bytes > 0).then(|| size(detail.zero_bytes))),
            ("Only this version needs", Some(size(unique))),
            ("Other versions need too", Some(size(shared))),
            ("Chunks", Some(detail.chunks.to_string())),
            ("Made from", Some(detail.header.source.clone()).filter(|source| !source.is_empty())),
            ("SHA-256", Some(row.id.to_string())),
        ]))
        p.hint { "Published " (instant(row.created)) }
    }
}

fn layout(detail: &ImageDetail) -> Markup {
    let stretch = |partition: &Partition| Stretch {
        number: partition.number,
        name: partition.name.clone(),
        filesystem: partition.filesystem.clone(),
        label: partition.label.clone(),
        start: partition.start,
        size: partition.size,
        used: Some(partition.used_bytes).filter(|used| *used > 0),
        ..Stretch::default()
    };
    let stretches: Vec<Stretch> = detail.header.partitions.iter().map(stretch).collect();
    chart::disk("The disk of the image", detail.row.size, &stretches)
}

fn comparison(title: &str, others: &[Version], with: &str, diff: Option<&Diff>) -> Markup {
    html! {
        form.search method="get" action={ "/images/" (escaped(title)) } {
            label { "Compared with " select name="with" data-submits="1" aria-label="Version to compare with" {
                @for other in others.iter().rev().map(Version::to_string).filter(|other| other != title) { option value=(other) selected[other == with] { (other) } }
            } }
            button.quiet type="submit" { "Compare" }
        }
        @if let Some(diff) = diff { (difference(diff)) }
    }
}

fn compare(images: &Images, old: &Version, new: &Version) -> Result<Diff, Problem> {
    let old = images.whole(old).map_err(problem)?;
    let new = images.whole(new).map_err(problem)?;
    Ok(diff(&old, &new))
}

fn difference(diff: &Diff) -> Markup {
    let share = Share::measured;
    html! {
        (facts(&[
            ("The same, in the same place", Some(size(diff.same_bytes))),
            ("The same, elsewhere", Some(size(diff.moved_bytes))),
            ("New: this is fetched", Some(size(diff.new_bytes))),
            ("Gone", Some(size(diff.gone_bytes))),
        ]))
        (shares(&[share(Tone::Good, diff.same_bytes, "the same"), share(Tone::Busy, diff.moved_bytes, "moved"), share(Tone::Attention, diff.new_bytes, "new")]))
        @if diff.partitions.len() > 1 {
            (table(&["Partition", "File system", "The same", "Moved", "New"], &html! {
                @for partition in &diff.partitions {
                    tr { td { (partition.number) } td { (partition.filesystem) } td { (size(partition.same_bytes)) } td { (size(partition.moved_bytes)) } td { (size(partition.new_bytes)) } }
                }
            }))
        }
    }
}

fn upkeep(detail: &ImageDetail, title: &str) -> Markup {
    let path = |verb: &str| format!("/images/{}/{verb}", escaped(title));
    html! {
        @for tag in &detail.row.tags {
            form.search method="post" action=(path("untag")) {
                input type="hidden" name="tag" value=(tag);
                (badge(Tone::Quiet, tag)) button.quiet type="submit" { "Remove this tag" }
            }
        }
        form.search method="post" action=(path("tag")) {
            input name="tag" aria-label="Tag" placeholder="prod" required pattern="[A-Za-z0-9][A-Za-z0-9._\\-]*" title="letters, digits, dots, hyphens";
            button.quiet type="submit" { "Make the tag mean this version" }
        }
        @if detail.row.tags.is_empty() {
            (guarded("Remove this version…", "Runs can no longer apply it. Its chunks are freed by `remint store gc`, those that other versions need stay.", &path("remove"), "Remove the version"))
        } @else {
            p.hint { (counted(detail.row.tags.len(), "tag holds", "tags hold")) " this version: it cannot be removed." }
        }
    }
}

async fn tag(
    State(images): State<Images>,
    Path(name): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    change(images, name, move |images, version| images.tag(version, fields.text("tag"))).await
}

async fn untag(
    State(images): State<Images>,
    Path(name): Path<String>,
    Form(fields): Form<Fields>,
) -> Result<Response, Problem> {
    change(images, name, move |images, version| images.untag(&version.name, fields.text("tag"))).await
}

async fn change(
    images: Images,
    name: String,
    work: impl FnOnce(&Images, &Version) -> Result<(), super::error::Error> + Send + 'static,
) -> Result<Response, Problem> {
    blocking(move || {
        let version = find(&images, &name)?;
        work(&images, &version).map_err(problem)?;
        Ok(Redirect::to(&format!("/images/{version}")).into_response())
    })
    .await
}

async fn remove(State(images): State<Images>, Path(name): Path<String>) -> Result<Response, Problem> {
    blocking(move || {
        let version = find(&images, &name)?;
        images.remove(&version).map_err(problem)?;
        Ok(Redirect::to("/images").into_response())
    })
    .await
}
