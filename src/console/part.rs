//! Pieces that pages are made of.

use maud::{Markup, PreEscaped, html};

use crate::stdx::time::Timestamp;

/// How a thing stands, in a word and a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Busy,
    Attention,
    Bad,
    Quiet,
}

/// A state as a coloured word; the word carries the meaning, the colour repeats it.
pub fn badge(tone: Tone, word: &str) -> Markup {
    html! { span class={ "badge " (tone.class()) } { (word) } }
}

impl Tone {
    pub fn class(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Busy => "busy",
            Tone::Attention => "attention",
            Tone::Bad => "bad",
            Tone::Quiet => "quiet",
        }
    }
}

/// A progress bar with its figure, `fraction` from 0 to 1.
pub fn bar(fraction: f64, label: &str) -> Markup {
    let percent = (fraction.clamp(0.0, 1.0) * 100.0).round();
    html! { div.progress { progress value=(percent) max="100" aria-label=(label) {} span { (percent) " %" } } }
}

/// The progress of a run, which the script moves as reports come in. `done` of `total`; nothing is shown while `total` is 0.
pub fn run_progress(run: &str, done: u64, total: u64, note: &str) -> Markup {
    let percent = (done.min(total) * 100).checked_div(total).unwrap_or(0);
    html! {
        div.progress data-progress=(run) hidden[total == 0] {
            progress value=(percent) max="100" aria-label="progress of the step" {}
            span { (percent) " %" @if !note.is_empty() { " · " (note) } }
        }
    }
}

/// The same where there is room for the figure only; what else is told of it shows under the pointer.
pub fn run_progress_brief(run: &str, done: u64, total: u64, note: &str) -> Markup {
    let percent = (done.min(total) * 100).checked_div(total).unwrap_or(0);
    html! {
        div.progress data-progress=(run) data-brief="yes" title=(note) hidden[total == 0] {
            progress value=(percent) max="100" aria-label="progress of the step" {}
            span { (percent) " %" }
        }
    }
}

/// A share of a whole in its colour, and what is said of it: `3 running`.
pub struct Share {
    pub tone: Tone,
    pub count: u64,
    pub told: String,
}

impl Share {
    /// So many of these.
    pub fn counted(tone: Tone, count: u64, name: &str) -> Share {
        Share { tone, count, told: format!("{count} {name}") }
    }

    /// So many bytes of these.
    pub fn measured(tone: Tone, bytes: u64, name: &str) -> Share {
        Share { tone, count: bytes, told: format!("{} {name}", size(bytes)) }
    }
}

/// Shares side by side in one line, with the figures below it.
pub fn shares(shares: &[Share]) -> Markup {
    let shown: Vec<&Share> = shares.iter().filter(|share| share.count > 0).collect();
    let told: Vec<&str> = shown.iter().map(|share| share.told.as_str()).collect();
    let places = stacked(shown.iter().map(|share| share.count), 100.0);
    html! {
        div.shares {
            svg.stack width="100%" height="10" role="img" aria-label=(told.join(", ")) {
                rect.fill-none x="0" y="0" width="100%" height="10" rx="5" {}
                @for (share, (left, width)) in shown.iter().zip(&places) {
                    rect class={ "fill-" (share.tone.class()) } x={ (format!("{left:.2}")) "%" } y="0" width={ (format!("{width:.2}")) "%" } height="10" {}
                }
            }
            ul.legend { @for share in &shown { li { span class={ "dot fill-" (share.tone.class()) } {} (share.told) } } }
        }
    }
}

/// Where each of `counts` begins and how long it is when all of them together are `length` long.
pub fn stacked(counts: impl Iterator<Item = u64> + Clone, length: f64) -> Vec<(f64, f64)> {
    let total = counts.clone().sum::<u64>().max(1) as f64;
    let lengths = counts.map(|count| count as f64 * length / total);
    lengths.scan(0.0, |at, long| Some((std::mem::replace(at, *at + long), long))).collect()
}

/// Name and value pairs; those without a value are left out.
pub fn facts(pairs: &[(&str, Option<String>)]) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in pairs {
                @if let Some(value) = value { div class=[room(value)] { dt { (name) } dd { (value) } } }
            }
        }
    }
}

/// Identifiers take the room of two, hashes a line, so that they can be read in one piece.
fn room(value: &str) -> Option<&'static str> {
    match value.chars().count() {
        0..32 => None,
        32..56 => Some("long"),
        _ => Some("whole"),
    }
}

/// A titled block of a page.
pub fn section(title: &str, body: &Markup) -> Markup {
    let id = anchor(title);
    html! { section id=(id) { h2 { (title) } (body) } }
}

/// The same, which the reader opens; for what is long and seldom wanted.
pub fn folded(title: &str, body: &Markup) -> Markup {
    html! { details.block { summary { (title) } div { (body) } } }
}

/// `Latest run` as `latest-run`.
pub fn anchor(title: &str) -> String {
    let letters = title.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' });
    letters.collect::<String>().trim_matches('-').to_owned()
}

/// Tables with more columns are rows of named values on a phone.
const COLUMNS_BESIDE_MAX: usize = 3;

/// A table. Where the screen is narrow it scrolls by itself, or each row becomes a list of its cells with their heads.
pub fn table(heads: &[&str], rows: &Markup) -> Markup {
    let stacks = heads.len() > COLUMNS_BESIDE_MAX;
    html! {
        div.scroll.stacks[stacks] tabindex="0" role="group" aria-label="table" {
            table {
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody { @if stacks { (with_heads(heads, rows)) } @else { (rows) } }
            }
        }
    }
}

/// The same rows, with the head of its column at each cell, for the stylesheet. A cell may hold another table.
fn with_heads(heads: &[&str], rows: &Markup) -> Markup {
    let mut told = String::with_capacity(rows.0.len() * 2);
    let (mut column, mut depth) = (0, 0u32);
    for (at, piece) in rows.0.split('<').enumerate() {
        if at > 0 {
            told.push('<');
        }
        let name =
            piece.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '/').next().unwrap_or_default();
        match (name, depth) {
            ("table", _) => depth += 1,
            ("/table", _) => depth = depth.saturating_sub(1),
            ("tr", 0) => column = 0,
            ("td", 0) => {
                let head = html! { (heads.get(column).copied().unwrap_or_default()) };
                told.push_str(&format!("td data-head=\"{}\"", head.0));
                told.push_str(&piece[name.len()..]);
                column += 1;
                continue;
            }
            _ => {}
        }
        told.push_str(piece);
    }
    PreEscaped(told)
}

/// A sentence, with what stands between backticks as what is typed.
pub fn words(text: &str) -> Markup {
    html! {
        @for (at, part) in text.split('`').enumerate() {
            @if at % 2 == 1 { code { (part) } } @else { (part) }
        }
    }
}

/// A line of choices of which one holds; `chosen` and the choices are (address, name).
pub fn tabs(label: &str, chosen: &str, choices: &[(String, String)]) -> Markup {
    html! {
        ul.tabs aria-label=(label) {
            @for (path, name) in choices { li { a href=(path) aria-current=[(name == chosen).then_some("true")] { (name) } } }
        }
    }
}

/// What cannot be taken back: it is folded away, says what it does, and wants a tick before the button works.
pub fn guarded(summary: &str, explanation: &str, action: &str, button: &str) -> Markup {
    html! {
        details.guard {
            summary { (summary) }
            form method="post" action=(action) {
                p { (explanation) }
                label.tick { input type="checkbox" name="sure" value="yes" required; " Yes, do it" }
                button.danger type="submit" { (button) }
            }
        }
    }
}

/// A button that posts.
pub fn action(path: &str, name: &str) -> Markup {
    html! { form.inline method="post" action=(path) { button type="submit" { (name) } } }
}

/// The same, for what is done seldom.
pub fn quiet_action(path: &str, name: &str) -> Markup {
    html! { form.inline method="post" action=(path) { button.quiet type="submit" { (name) } } }
}

/// Links to the pages before and after; `path` ends where the number of the page goes.
pub fn pager(path: &str, page: usize, pages: usize) -> Markup {
    html! {
        @if pages > 1 {
            nav.pager aria-label="Pages" {
                @if page > 1 { a href={ (path) (page - 1) } rel="prev" { "Previous" } }
                span { "Page " (page) " of " (pages) }
                @if page < pages { a href={ (path) (page + 1) } rel="next" { "Next" } }
            }
        }
    }
}

/// `1 machine`, `2 machines`.
pub fn counted(count: usize, one: &str, many: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
}

/// An instant for people and for the script, which shows it in the reader's own time zone.
pub fn instant(at: Timestamp) -> Markup {
    let milliseconds = at.milliseconds();
    html! { time data-at=(milliseconds) { (utc(at)) } }
}

fn utc(at: Timestamp) -> String {
    const FORMAT: &[time::format_description::FormatItem<'static>] =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let instant = time::OffsetDateTime::from_unix_timestamp(at.milliseconds() / 1000).ok();
    instant.and_then(|instant| instant.format(FORMAT).ok()).unwrap_or_else(|| "-".into())
}

/// `1.5 GB`.
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 999.5 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// `1 min 12 s` for milliseconds.
pub fn duration(milliseconds: u64) -> String {
    match (milliseconds + 500) / 1000 {
        0 => format!("{milliseconds} ms"),
        seconds @ 1..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// What stands in the place of an empty list: what would be here and how it comes to be.
pub fn nothing(text: &str) -> Markup {
    html! { p.nothing { (words(text)) } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cell_knows_its_head_and_those_of_a_table_within_do_not() {
        let inner = html! { table { tr { td { "i" } } } };
        let rows = html! { @for _ in 0..2 { tr data-key="k" { td.figure { "a < b" } td { (inner) } td { "<td>" } } } };
        let told = with_heads(&["A & B", "C", "D"], &rows).0;
        let row = "<tr data-key=\"k\"><td data-head=\"A &amp; B\" class=\"figure\">a &lt; b</td>\
            <td data-head=\"C\"><table><tr><td>i</td></tr></table></td><td data-head=\"D\">&lt;td&gt;</td></tr>";
        assert_eq!(told, row.repeat(2));
    }

    #[test]
    fn what_is_typed_is_shown_as_code() {
        assert_eq!(words("run `remint <x>` now").0, "run <code>remint &lt;x&gt;</code> now");
    }
}
