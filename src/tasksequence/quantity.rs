//! Sizes and durations as people write them.

use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

const BYTE_UNITS: [(&str, u64); 11] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1000),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("B", 1),
    ("", 1),
];

const TIME_UNITS: [(&str, u64); 5] = [("s", 1), ("m", 60), ("min", 60), ("h", 3600), ("d", 86400)];

/// A number of bytes: `512MiB`, `4 GB`, `1.5TiB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A number of seconds: `90s`, `10m`, `2h`, `1d`, `90`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub u64);

impl Bytes {
    pub const EXAMPLES: &'static str = "512MiB, 4GiB or 4096";

    pub fn parse(text: &str) -> Option<Bytes> {
        let (number, unit) = split(text);
        let (_, factor) = BYTE_UNITS.iter().find(|(name, _)| *name == unit)?;
        scaled(number, *factor).map(Bytes)
    }
}

impl Seconds {
    pub const EXAMPLES: &'static str = "90s, 10m or 2h";

    pub fn parse(text: &str) -> Option<Seconds> {
        let (number, unit) = split(text);
        let (_, factor) = TIME_UNITS.iter().find(|(name, _)| *name == unit)?;
        scaled(number, *factor).map(Seconds)
    }

    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        quantity(deserializer, Bytes, Bytes::parse, "a size", Bytes::EXAMPLES)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Seconds, D::Error> {
        quantity(deserializer, Seconds, Seconds::parse, "a duration", Seconds::EXAMPLES)
    }
}

/// Bytes for people: `1.5 GiB`.
pub fn bytes_for_people(bytes: u64) -> String {
    for (name, factor) in [("TiB", 1u64 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor {
            let text = format!("{:.1}", bytes as f64 / factor as f64);
            return format!("{} {name}", text.strip_suffix(".0").unwrap_or(&text));
        }
    }
    format!("{bytes} B")
}

fn quantity<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    whole: fn(u64) -> T,
    parse: fn(&str) -> Option<T>,
    what: &str,
    examples: &str,
) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    let parsed = match &value {
        Value::Number(number) => number.as_u64().map(whole),
        Value::String(text) => parse(text),
        _ => None,
    };
    parsed.ok_or_else(|| serde::de::Error::custom(format!("{value} is not {what}, write {examples}")))
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

fn scaled(number: &str, factor: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let fraction: f64 = number.parse().ok()?;
    let value = fraction * factor as f64;
    (value.is_finite() && value < 9e15 && factor > 1).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_durations_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("4096", Some(4096)),
            ("512MiB", Some(512 << 20)),
            ("1.5 GiB", Some(3 << 29)),
            ("4GB", Some(4_000_000_000)),
            ("4G", None),
            ("-1", None),
            ("1.5", None),
            ("99999999999TiB", None),
            ("", None),
        ] {
            assert_eq!(Bytes::parse(text).map(|b| b.0), bytes, "{text}");
        }
        for (text, seconds) in
            [("90s", Some(90)), ("10m", Some(600)), ("1.5h", Some(5400)), ("90", None), ("5 weeks", None)]
        {
            assert_eq!(Seconds::parse(text).map(|s| s.0), seconds, "{text}");
        }
        assert_eq!(bytes_for_people(3 << 29), "1.5 GiB");
        assert_eq!(bytes_for_people(1 << 30), "1 GiB");
    }
}
