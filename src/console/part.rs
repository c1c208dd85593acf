//! Pieces that pages are made of.

use maud::{Markup, html};

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
    let class = match tone {
        Tone::Good => "good",
        Tone::Busy => "busy",
        Tone::Attention => "attention",
        Tone::Bad => "bad",
        Tone::Quiet => "quiet",
    };
    html! { span class={ "badge " (class) } { (word) } }
}

/// A progress bar with its figure, `fraction` from 0 to 1.
pub fn bar(fraction: f64, label: &str) -> Markup {
    let percent = (fraction.clamp(0.0, 1.0) * 100.0).round();
    html! { div.progress { progress value=(percent) max="100" aria-label=(label) {} span { (percent) " %" } } }
}

/// Name and value pairs; those without a value are left out.
pub fn facts(pairs: &[(&str, Option<String>)]) -> Markup {
    html! {
        dl.facts {
            @for (name, value) in pairs {
                @if let Some(value) = value { div { dt { (name) } dd { (value) } } }
            }
        }
    }
}

/// A titled block of a page.
pub fn section(title: &str, body: &Markup) -> Markup {
    html! { section { h2 { (title) } (body) } }
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
    html! { p.nothing { (text) } }
}
