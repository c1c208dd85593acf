//! What commands print: tables for people, JSON for programs, and the ways people write time and size.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::Failure;
use crate::stdx::time::Timestamp;

/// Prints a line; a reader that has gone away (`| head`) ends the command quietly.
pub fn line(text: impl AsRef<str>) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{}", text.as_ref()).is_err() {
        // The rest has no reader either; exit as other tools do when the pipe breaks.
    }
}

/// Prints `value` as indented JSON.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(format!("write JSON: {error}")))?;
    line(text);
    Ok(())
}

/// Prints rows under their headings, fitted to the terminal; `nothing` when there are none.
pub fn table(headings: &[&str], rows: Vec<Vec<String>>, nothing: &str) {
    if rows.is_empty() {
        return line(nothing);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(headings);
    for row in rows {
        table.add_row(row);
    }
    for text in table.to_string().lines() {
        line(text.trim_end());
    }
}

/// `2026-03-01 12:34:56 UTC`, or `-`.
pub fn time(at: Timestamp) -> String {
    const FORMAT: &[time::format_description::FormatItem<'static>] =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    let instant = time::OffsetDateTime::from_unix_timestamp(at.milliseconds() / 1000).ok();
    instant.and_then(|instant| instant.format(FORMAT).ok()).unwrap_or_else(|| "-".into())
}

/// `1.5 GB`: powers of ten, as disks are sold.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_as_people_write_them() {
        for (bytes, expect) in
            [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (999_960, "1.0 MB"), (5_400_000_000, "5.4 GB")]
        {
            assert_eq!(size(bytes), expect);
        }
        assert_eq!(time(Timestamp::from_milliseconds(1_790_000_000_000)), "2026-09-21 14:13:20 UTC");
    }
}
