//! Machines that are expected: a list with their serial numbers or TPM keys, as the vendor of a delivery sends it.

use serde::{Deserialize, Serialize};

use crate::fleet::identity::Identity;
use crate::fleet::rule::Rule;

/// Rows of one list at most: the largest deliveries have some thousands.
const ROWS_MAX: usize = 100_000;
const FIELD_CHARACTERS_MAX: usize = 128;

/// A machine that is let in when it comes. At least one of `serial` and `tpm_key` is there; what is there must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expected {
    /// The system's serial number, in any case.
    pub serial: Option<String>,
    /// SHA-256 of the TPM's endorsement public key, hexadecimal.
    pub tpm_key: Option<String>,
    pub name: Option<String>,
    pub collections: Vec<String>,
    pub deploy: Option<String>,
}

impl Expected {
    pub fn matches(&self, identity: &Identity) -> bool {
        let agrees = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_ref().is_none_or(|wanted| found.is_some_and(|found| found.eq_ignore_ascii_case(wanted)))
        };
        (self.serial.is_some() || self.tpm_key.is_some())
            && agrees(&self.serial, identity.usable_serial())
            && agrees(&self.tpm_key, identity.tpm_key.as_deref())
    }

    /// What a new machine gets, in the form of the site's rules.
    pub fn as_rule(&self) -> Rule {
        Rule {
            machine_name: self.name.clone(),
            deploy: self.deploy.clone(),
            collections: self.collections.clone(),
            ..Rule::default()
        }
    }
}

/// Reads a list: comma-separated values (RFC 4180) with a heading that names the columns `serial`, `tpm_key`, `name`,
/// `collections` (separated by spaces) and `deploy`, in any order; other columns are left alone. Everything that is wrong
/// is said, each with its line.
pub fn parse(text: &str) -> Result<Vec<Expected>, Vec<String>> {
    let mut rows = records(text).into_iter();
    let Some((_, heading)) = rows.next() else { return Err(vec!["the list is empty".to_owned()]) };
    let column = |name: &str| heading.iter().position(|field| field.trim().eq_ignore_ascii_case(name));
    let columns = ["serial", "tpm_key", "name", "collections", "deploy"].map(column);
    if columns[0].is_none() && columns[1].is_none() {
        return Err(vec!["line 1: the heading names neither a column `serial` nor a column `tpm_key`".to_owned()]);
    }
    let (mut expected, mut faults): (Vec<Expected>, Vec<String>) = (Vec::new(), Vec::new());
    for (line, fields) in rows.take(ROWS_MAX) {
        let field = |at: Option<usize>| {
            let text = fields.get(at?)?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let [serial, tpm_key, name, collections, deploy] = columns.map(field);
        let collections = collections.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect();
        let row = Expected { serial, tpm_key, name, collections, deploy };
        match fault(&row, &expected) {
            Some(fault) => faults.push(format!("line {line}: {fault}")),
            None => expected.push(row),
        }
    }
    if faults.is_empty() { Ok(expected) } else { Err(faults) }
}

fn fault(row: &Expected, before: &[Expected]) -> Option<String> {
    let texts = [&row.serial, &row.tpm_key, &row.name, &row.deploy];
    let same = |a: &Option<String>, b: &Option<String>| {
        a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
    };
    let twice = || before.iter().any(|other| same(&row.serial, &other.serial) || same(&row.tpm_key, &other.tpm_key));
    if texts.into_iter().flatten().any(|text| text.len() > FIELD_CHARACTERS_MAX || text.contains(char::is_control)) {
        return Some(format!("a field is longer than {FIELD_CHARACTERS_MAX} characters or holds control characters"));
    }
    if row.serial.is_none() && row.tpm_key.is_none() {
        return Some("there is neither a serial number nor a TPM key".to_owned());
    }
    let unsound = Identity { system_serial: row.serial.clone(), ..Identity::default() };
    if row.serial.is_some() && unsound.usable_serial().is_none() {
        return Some(format!(
            "`{}` is what vendors leave in an empty field",
            row.serial.as_deref().unwrap_or_default()
        ));
    }
    if row.tpm_key.as_ref().is_some_and(|key| crate::stdx::hex::parse_array::<32>(key).is_none()) {
        return Some("`tpm_key` must be 64 hexadecimal digits".to_owned());
    }
    if row.name.as_ref().is_some_and(|name| name.contains("{{") || name.contains("{%")) {
        return Some("`name` is a plain name here".to_owned());
    }
    twice().then(|| "this machine stands in the list before".to_owned())
}

/// The records with the lines they begin on; empty lines are none. Quotes as in RFC 4180: `"a ""b"", c"`.
fn records(text: &str) -> Vec<(usize, Vec<String>)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let separator =
        if text.lines().next().is_some_and(|line| line.contains(';') && !line.contains(',')) { ';' } else { ',' };
    let (mut records, mut fields, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut line, mut began, mut quoted) = (1, 1, false);
    let mut characters = text.chars().peekable();
    loop {
        match characters.next() {
            Some('"') if quoted && characters.peek() == Some(&'"') => field.extend(characters.next()),
            Some('"') => quoted = !quoted,
            Some(c) if c == separator && !quoted => fields.push(std::mem::take(&mut field)),
            end @ (Some('\n') | None) if !quoted || end.is_none() => {
                fields.push(std::mem::take(&mut field));
                let record: Vec<String> = std::mem::take(&mut fields);
                if record.iter().any(|field| !field.trim().is_empty()) {
                    records.push((began, record));
                }
                line += 1;
                began = line;
                if end.is_none() {
                    return records;
                }
            }
            Some('\r') if !quoted => {}
            Some(c) => {
                line += usize::from(c == '\n');
                field.push(c);
            }
            None => unreachable!("the end of the text ends the last record"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vendors_list_is_read_whatever_its_columns_are_called_besides() {
        let text = "\u{feff}Model,Serial,Name,Collections,Invoice\r\n\
            LabBox,S1,desk-1,lab \"front\",\"1,234\"\r\n\r\nLabBox,\"S 2\",,,\"two\nlines\"\r\nLabBox,S3,,a b,";
        let list = parse(text).unwrap();
        assert_eq!(list.len(), 3);
        assert_eq!(list[0].serial.as_deref(), Some("S1"));
        assert_eq!(list[0].name.as_deref(), Some("desk-1"));
        assert_eq!(list[0].collections, ["lab", "front"]);
        assert_eq!(list[1].serial.as_deref(), Some("S 2"));
        assert_eq!(list[2].collections, ["a", "b"]);
        assert_eq!(parse("serial;name\nS1;x\n").unwrap()[0].name.as_deref(), Some("x"));
    }

    #[test]
    fn everything_that_is_wrong_is_said_with_its_line() {
        let text = format!("serial,tpm_key\nS1,\ns1,\n,\nNone,\nS2,abc\nS3,{}\n", "ab".repeat(32));
        let faults = parse(&text).unwrap_err();
        let lines: Vec<&str> = faults.iter().map(|fault| fault.split(':').next().unwrap()).collect();
        assert_eq!(lines, ["line 3", "line 5", "line 6"], "{faults:?}");
        assert!(parse("").is_err() && parse("name\nx\n").is_err());
    }

    #[test]
    fn all_that_a_row_says_must_agree() {
        let machine = Identity { system_serial: Some("S1".into()), tpm_key: Some("ab".into()), ..Identity::default() };
        let expected = |serial: Option<&str>, tpm_key: Option<&str>| Expected {
            serial: serial.map(str::to_owned),
            tpm_key: tpm_key.map(str::to_owned),
            ..Expected::default()
        };
        assert!(expected(Some("s1"), None).matches(&machine));
        assert!(expected(None, Some("AB")).matches(&machine));
        assert!(expected(Some("S1"), Some("ab")).matches(&machine));
        assert!(!expected(Some("S1"), Some("cd")).matches(&machine));
        assert!(!expected(None, None).matches(&machine), "an empty row lets nobody in");
    }
}
