//! The page on remint.toml says what the program takes.

use std::collections::BTreeSet;

use remint::config::Written;

const PAGE: &str = include_str!("../../docs/reference/configuration.md");

/// (table, key) of every row of the page.
fn documented() -> Vec<(String, String)> {
    let mut table = String::new();
    let mut keys = Vec::new();
    for line in PAGE.lines() {
        if line.starts_with('#') {
            let name = line.split('`').nth(1).unwrap_or_default();
            table = name.trim_matches(['[', ']']).to_owned();
        } else if let Some(key) = line.strip_prefix("| `") {
            keys.push((table.clone(), key.split('`').next().unwrap().to_owned()));
        }
    }
    keys
}

/// What serde says when a table gets a key that it does not know: the list of those it does.
fn accepted(table: &str, array: bool) -> BTreeSet<String> {
    let head = if array { format!("[[{table}]]") } else { format!("[{table}]") };
    let error = toml::from_str::<Written>(&format!("{head}\nno-such-key = 1")).unwrap_err().to_string();
    let list = error
        .split("expected one of ")
        .nth(1)
        .or_else(|| error.split("expected ").nth(1))
        .unwrap_or_else(|| panic!("{error}"));
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_page_lists_exactly_the_keys_that_are_accepted() {
    let documented = documented();
    let tables = [
        ("network", false),
        ("dhcp", false),
        ("dhcp.reservation", true),
        ("dhcp.subnet", true),
        ("boot", false),
        ("boot.machine", true),
        ("boot.menu", true),
        ("boot.entry", true),
        ("enrolment", false),
        ("enrolment.rule", true),
        ("store", false),
        ("store.far", true),
        ("delivery", false),
    ];
    let accepted_arrays: Vec<&str> = tables.iter().filter(|(_, array)| *array).map(|(table, _)| *table).collect();
    for (table, array) in tables {
        let mut expect = accepted(table, array);
        // Arrays of tables have a heading of their own.
        expect.retain(|key| accepted_arrays.iter().all(|array| *array != format!("{table}.{key}")));
        let found: BTreeSet<String> =
            documented.iter().filter(|(t, _)| t == table).map(|(_, key)| key.clone()).collect();
        assert_eq!(found, expect, "[{table}]");
    }
}

#[test]
fn a_mirror_is_an_appliance_and_nothing_else() {
    let mirrors = |text: &str| toml::from_str::<Written>(&format!("[delivery]\nmirrors = ['{text}']"));
    for good in ["https://10.77.0.2", "https://mirror.lab:8443", "https://[fd00::2]:443"] {
        assert_eq!(mirrors(good).unwrap().delivery.mirrors[0].0, good);
    }
    for bad in ["http://10.77.0.2", "10.77.0.2", "https://", "https://mirror.lab/path", "https://user@mirror.lab"] {
        assert!(mirrors(bad).unwrap_err().to_string().contains("https://HOST"), "{bad}");
    }
}

#[test]
fn the_example_of_the_page_is_accepted() {
    let example = PAGE.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let written: Written = toml::from_str(example).unwrap();
    assert_eq!(written.enrolment.rule.len(), 1);
}
