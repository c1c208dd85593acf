//! What a form of a page sent.

use serde::Deserialize;

use crate::stdx::time::Timestamp;

/// Names and values in the order of the page; a name as often as it has a value.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// The first value of that name without blanks around it; empty when there is none.
    pub fn text(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or_default().trim()
    }

    /// The same, `None` when it is empty.
    pub fn given(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    /// The first value exactly as it was typed, line ends as `\n`.
    pub fn document(&self, name: &str) -> String {
        self.all(name).next().unwrap_or_default().replace("\r\n", "\n")
    }

    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let name = name.to_owned();
        self.0.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// Non-empty values of that name.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.all(name).map(str::trim).filter(|value| !value.is_empty()).map(str::to_owned).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    pub fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.text(name).parse().ok()
    }

    /// Names that begin with `prefix`, without it, and their values.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0.iter().filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value.as_str())))
    }

    /// `2026-03-01T08:00`, taken as UTC. The script of the page has turned the reader's own time into that.
    pub fn instant(&self, name: &str) -> Result<Option<Timestamp>, String> {
        const FORMAT: &[time::format_description::FormatItem<'static>] =
            time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]");
        let Some(text) = self.given(name) else { return Ok(None) };
        let minutes = text.get(..16).unwrap_or(text);
        let instant = time::PrimitiveDateTime::parse(minutes, FORMAT)
            .map_err(|_| format!("`{text}` is not a date and time; write it as 2026-03-01T08:00"))?;
        Ok(Some(Timestamp::from_milliseconds(instant.assume_utc().unix_timestamp() * 1000)))
    }
}

/// A value for the query of an address.
pub fn escaped(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_by_name_however_often_a_name_stands_in_it() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let fields = Fields(vec![pair("m", " a "), pair("m", ""), pair("m", "b"), pair("v.x", "1"), pair("n", "7")]);
        assert_eq!(fields.text("m"), "a");
        assert_eq!(fields.list("m"), ["a", "b"]);
        assert_eq!(fields.number::<u32>("n"), Some(7));
        assert_eq!(fields.with_prefix("v.").collect::<Vec<_>>(), [("x", "1")]);
        assert_eq!(fields.given("absent"), None);
    }

    #[test]
    fn times_are_read_to_the_minute_and_nonsense_is_refused() {
        let fields = |text: &str| Fields(vec![("at".to_owned(), text.to_owned())]);
        let read = |text: &str| fields(text).instant("at").map(|at| at.map(Timestamp::milliseconds));
        assert_eq!(read("1970-01-02T00:01"), Ok(Some(86_460_000)));
        assert_eq!(read("1970-01-02T00:01:30.5Z"), Ok(Some(86_460_000)));
        assert_eq!(read(""), Ok(None));
        assert!(read("tomorrow").is_err() && read("1970-13-02T00:01").is_err());
    }

    #[test]
    fn what_goes_into_an_address_keeps_its_meaning() {
        assert_eq!(escaped("a b&c=ä"), "a%20b%26c%3D%C3%A4");
    }
}
