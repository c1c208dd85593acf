//! Task sequences as people write them: faults with their messages, examples, schema, reference.
//!
//! `REMINT_BLESS=1 cargo test --test suite sequence` writes the golden files and the reference anew.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::PathBuf;

use remint::tasksequence::parser::{self, Files, Known};
use remint::tasksequence::{reference, schema};
use serde_json::Value;

/// What the examples name.
const IMAGES: [&str; 5] = ["debian-lab", "debian-tree", "windows-11", "drivers-latitude-5440", "drivers-optiplex-7010"];

const FAULTS: &str = "tests/golden/sequence/faults.txt";

/// One entry of the table: a title, a document, and what is said about it.
struct Case {
    title: String,
    document: String,
    expect: String,
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(at(FAULTS)).unwrap();
    let entries = text.split("=== ").skip(1);
    let case = |entry: &str| {
        let (title, rest) = entry.split_once('\n').unwrap();
        let (document, expect) = rest.split_once("---\n").unwrap_or((rest, ""));
        Case { title: title.to_owned(), document: document.to_owned(), expect: expect.to_owned() }
    };
    entries.map(case).collect()
}

/// What lies beside every document of the table.
fn files() -> Files {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    [
        file("motd.yaml", "name: Message of the day\nvariables: { text: { type: text }, path: /etc/motd }\nsteps:\n- write-file: { path: \"{{ vars.path }}\", content: \"{{ vars.text }}\" }\n"),
        file("broken.yaml", "name: Broken\nsteps:\n- aply-image: { image: debian-lab }\n"),
        file("loop.yaml", "name: Loop\nsteps:\n- include: loop.yaml\n"),
        file("setup", "#!/bin/sh\necho {{ not a template }}\n"),
        file("plain", "echo\n"),
    ]
    .into()
}

fn said(document: &str) -> String {
    let known = Known { images: vec!["debian-lab".into(), "fedora-lab".into()] };
    match parser::parse_for(document, &files(), known) {
        Ok(_) => "nothing is wrong\n".to_owned(),
        Err(problems) => problems.iter().map(|problem| format!("{problem}\n")).collect(),
    }
}

#[test]
fn every_fault_is_named_with_its_place_and_what_to_write_instead() {
    let cases = cases();
    assert!(cases.len() >= 80, "{} faults", cases.len());
    if blessing() {
        let text: String = cases
            .iter()
            .map(|case| format!("=== {}\n{}---\n{}", case.title, case.document, said(&case.document)))
            .collect();
        fs::write(at(FAULTS), text).unwrap();
        return;
    }
    for case in cases {
        let said = said(&case.document);
        assert_eq!(said, case.expect, "{}\n{}", case.title, case.document);
        let first = said.lines().next().unwrap();
        // A problem within an included document has that one's path in front.
        let first = first.split_once(".yaml:").map_or(first, |(_, rest)| rest);
        let mut numbers = first.split(':').take(2).map(|number| number.parse::<u32>().unwrap_or(0));
        assert!(numbers.all(|number| number > 0), "{}: no line and column: {first}", case.title);
    }
}

#[test]
fn the_schema_accepts_what_the_parser_accepts_and_refuses_structural_faults() {
    let schema = schema::schema();
    for (name, text) in examples() {
        let document = parser::to_json(&text).unwrap();
        assert_eq!(fault(&schema, &schema, &document, "$"), None, "{name}");
    }
    let mut wrong = Vec::new();
    for case in cases() {
        let Ok(document) = parser::to_json(&case.document) else { continue };
        let found = fault(&schema, &schema, &document, "$");
        if found.is_some() != case.title.starts_with("[schema]") {
            wrong.push(format!("{}: {found:?}", case.title));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_examples_of_the_guide_and_of_every_step_are_sound() {
    assert_eq!(examples().len(), 5);
    for (name, text) in examples() {
        let known = Known { images: IMAGES.map(str::to_owned).into() };
        let problems = parser::parse_for(&text, &beside(), known).err().unwrap_or_default();
        assert!(problems.is_empty(), "{name}: {problems:#?}");
    }
}

#[test]
fn the_reference_is_not_stale() {
    let schema = serde_json::to_string_pretty(&schema::schema()).unwrap() + "\n";
    for (path, made) in
        [("docs/reference/steps.md", reference::page()), ("docs/reference/sequence.schema.json", schema)]
    {
        if blessing() {
            fs::create_dir_all(at("docs/reference")).unwrap();
            fs::write(at(path), made).unwrap();
        } else {
            let there = fs::read_to_string(at(path)).unwrap_or_default();
            assert!(there == made, "{path} is stale: run `REMINT_BLESS=1 cargo test --test suite sequence`");
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_document_makes_the_parser_fail(at in 0usize..2000, text in "[-:{}\\[\\]'\"&*|>%#a-z0-9 \n\t]{0,12}", cut in 0usize..2000) {
        let (_, example) = examples().remove(at % 5);
        let edge = |at: usize| (0..=at.min(example.len())).rev().find(|at| example.is_char_boundary(*at)).unwrap();
        let (head, tail) = (edge(at), edge(cut.max(at)));
        let document = format!("{}{text}{}", &example[..head], &example[tail..]);
        for problem in parser::parse(&document).err().into_iter().flatten() {
            proptest::prop_assert!(problem.line >= 1 && problem.column >= 1);
            proptest::prop_assert!(problem.line as usize <= document.lines().count() + 1);
        }
    }
}

/// The files that lie beside the examples.
fn beside() -> Files {
    let folder = at("docs/guide/sequences");
    let (mut files, mut todo) = (Files::new(), vec![folder.clone()]);
    while let Some(next) = todo.pop() {
        for path in fs::read_dir(next).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                todo.push(path);
            } else {
                let name = path.strip_prefix(&folder).unwrap().display().to_string();
                files.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    files
}

fn examples() -> Vec<(String, String)> {
    let mut examples: Vec<(String, String)> = fs::read_dir(at("docs/guide/sequences"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| (path.display().to_string(), fs::read_to_string(&path).unwrap()))
        .collect();
    examples.sort();
    examples
}

/// A small part of JSON Schema: what `schema()` uses. `None` when the value fits.
fn fault(root: &Value, schema: &Value, value: &Value, path: &str) -> Option<String> {
    if let Some(target) = schema["$ref"].as_str() {
        let name = target.strip_prefix("#/$defs/").unwrap();
        if let Some(fault) = fault(root, &root["$defs"][name], value, path) {
            return Some(fault);
        }
    }
    for (word, least, most) in [("anyOf", 1, usize::MAX), ("oneOf", 1, 1)] {
        if let Some(branches) = schema[word].as_array() {
            let fitting = branches.iter().filter(|branch| fault(root, branch, value, path).is_none()).count();
            if fitting < least || fitting > most {
                return Some(format!("{path}: {fitting} of {word}"));
            }
        }
    }
    if !type_fits(&schema["type"], value) {
        return Some(format!("{path}: not of type {}", schema["type"]));
    }
    let refused = schema["enum"].as_array().is_some_and(|allowed| !allowed.contains(value));
    scalar_fault(schema, value).filter(|_| !refused).map(|why| format!("{path}: {why}")).or_else(|| {
        if refused {
            Some(format!("{path}: not in {}", schema["enum"]))
        } else {
            children_fault(root, schema, value, path)
        }
    })
}

fn type_fits(types: &Value, value: &Value) -> bool {
    let one = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("type {other}"),
    };
    match types {
        Value::Null => true,
        Value::String(name) => one(name),
        types => types.as_array().unwrap().iter().any(|name| one(name.as_str().unwrap())),
    }
}

fn scalar_fault(schema: &Value, value: &Value) -> Option<String> {
    let short = value.as_str().is_some_and(|text| (text.len() as u64) < schema["minLength"].as_u64().unwrap_or(0));
    let few = value.as_array().is_some_and(|list| (list.len() as u64) < schema["minItems"].as_u64().unwrap_or(0));
    let number = value.as_i64();
    let low = number.zip(schema["minimum"].as_i64()).is_some_and(|(value, least)| value < least);
    let high = number.zip(schema["maximum"].as_i64()).is_some_and(|(value, most)| value > most);
    let pattern = value.as_str().zip(schema["pattern"].as_str());
    let other = pattern.is_some_and(|(text, pattern)| !matches(pattern, text));
    (short || few || low || high || other).then(|| format!("{value} is out of bounds"))
}

/// The patterns that `schema()` uses, by hand: no engine for regular expressions is needed for seven of them.
fn matches(pattern: &str, text: &str) -> bool {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = text.len() > unit.len();
    let unit = unit.trim_start_matches(' ');
    match pattern {
        "\\{\\{|\\{%" => text.contains("{{") || text.contains("{%"),
        "^/" => text.starts_with('/'),
        "^[0-7]{3,4}$" => (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte)),
        "^[0-9.]+ ?([KMGT]iB|[kKMGT]?B)?$" => {
            number && ["", "B", "kB", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"].contains(&unit)
        }
        "^(rest|[0-9.]+ ?([KMGT]iB|[kKMGT]?B|%)?)$" => {
            let units = ["", "%", "B", "kB", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB"];
            text == "rest" || (number && units.contains(&unit))
        }
        "^[0-9.]+ ?(s|m|min|h|d)$" => number && ["s", "m", "min", "h", "d"].contains(&unit),
        "^[a-z_][a-z0-9_]*$" => {
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        }
        other => panic!("pattern {other}"),
    }
}

fn children_fault(root: &Value, schema: &Value, value: &Value, path: &str) -> Option<String> {
    if let Some(map) = value.as_object() {
        let required = schema["required"].as_array().into_iter().flatten();
        for name in required.filter_map(Value::as_str) {
            if !map.contains_key(name) {
                return Some(format!("{path}: lacks {name}"));
            }
        }
        for (name, value) in map {
            let inner = format!("{path}.{name}");
            let found = match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Value::Null, Value::Bool(false)) => Some(format!("{inner}: unknown")),
                (Value::Null, Value::Null) => None,
                (Value::Null, rest) => fault(root, rest, value, &inner),
                (known, _) => fault(root, known, value, &inner),
            };
            if found.is_some() {
                return found;
            }
        }
    }
    let items = value.as_array().filter(|_| !schema["items"].is_null());
    items.into_iter().flatten().find_map(|value| fault(root, &schema["items"], value, &format!("{path}[]")))
}

fn blessing() -> bool {
    std::env::var_os("REMINT_BLESS").is_some()
}

fn at(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}
