//! The JSON Schema of the document, for editors, made from the table of steps.

use serde_json::{Map, Value, json};

use super::host::Place;
use super::steps::{self, Kind, Parameter, Row, selection};

/// JSON Schema, draft 2020-12. It knows the structure; what needs more than one place at a time (variables, the order of
/// steps, what the site has) is the parser's.
pub fn schema() -> Value {
    let steps: Vec<Value> = steps::TABLE.iter().map(|row| json!({ "$ref": format!("#/$defs/{}", row.name) })).collect();
    let mut definitions = Map::new();
    let items = steps
        .into_iter()
        .chain([json!({ "$ref": "#/$defs/group" }), json!({ "$ref": "#/$defs/include" })])
        .collect::<Vec<_>>();
    definitions.insert("items".into(), json!({ "type": "array", "items": { "oneOf": items } }));
    definitions.insert("template".into(), json!({ "type": "string", "pattern": "\\{\\{|\\{%" }));
    definitions.insert("variable".into(), variable());
    definitions.insert("retry".into(), retry());
    definitions.insert("group".into(), group());
    definitions.insert("include".into(), include());
    for row in steps::TABLE {
        definitions.insert(row.name.into(), step(row));
    }
    let list = json!({ "$ref": "#/$defs/items" });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Remint task sequence",
        "type": "object",
        "properties": {
            "name": { "type": "string", "minLength": 1 },
            "description": { "type": "string", "minLength": 1 },
            "variables": { "type": "object", "additionalProperties": { "$ref": "#/$defs/variable" } },
            "steps": { "$ref": "#/$defs/items", "minItems": 1 },
            "on-failure": list, "always": list,
        },
        "required": ["name", "steps"],
        "additionalProperties": false,
        "$defs": definitions,
    })
}

fn variable() -> Value {
    let scalar = json!({ "type": ["string", "integer", "boolean", "array"] });
    json!({
        "anyOf": [scalar, {
            "type": "object",
            "properties": {
                "type": { "enum": ["text", "integer", "boolean", "list"] },
                "description": { "type": "string" },
                "default": {},
                "choices": { "type": "array" },
                "secret": { "type": "boolean" },
            },
            "additionalProperties": false,
        }],
    })
}

fn retry() -> Value {
    let attempts = json!({ "type": "integer", "minimum": 1, "maximum": 100 });
    json!({
        "anyOf": [attempts, {
            "type": "object",
            "properties": { "attempts": attempts, "first": duration(), "longest": duration() },
            "additionalProperties": false,
        }],
    })
}

fn group() -> Value {
    let list = json!({ "$ref": "#/$defs/items" });
    json!({
        "type": "object",
        "description": "Steps that belong together",
        "properties": {
            "group": { "type": "string", "minLength": 1 },
            "when": condition(),
            "continue-on-error": { "type": "boolean" },
            "steps": { "$ref": "#/$defs/items", "minItems": 1 },
            "on-failure": list, "always": list,
        },
        "required": ["group", "steps"],
        "additionalProperties": false,
    })
}

fn include() -> Value {
    json!({
        "type": "object",
        "description": "The steps of another document",
        "properties": {
            "include": { "type": "string", "minLength": 1, "description": "Its path, from the folder of this document" },
            "with": { "type": "object", "description": "Values for its variables" },
            "name": { "type": "string", "minLength": 1 },
            "when": condition(),
            "continue-on-error": { "type": "boolean" },
        },
        "required": ["include"],
        "additionalProperties": false,
    })
}

fn step(row: &Row) -> Value {
    let optional = row.parameters.iter().all(|parameter| !parameter.required);
    let mut work = map_of(row.parameters, if optional { json!(["object", "null"]) } else { json!("object") });
    work["description"] = format!("{} {}", sentence(row.summary), row.text).into();
    json!({
        "type": "object",
        "properties": {
            row.name: work,
            "name": { "type": "string", "minLength": 1 },
            "when": condition(),
            "continue-on-error": { "type": "boolean" },
            "retry": { "$ref": "#/$defs/retry" },
            "timeout": duration(),
            "register": { "type": "string", "pattern": "^[a-z_][a-z0-9_]*$" },
        },
        "required": [row.name],
        "additionalProperties": false,
    })
}

fn described(parameter: &Parameter) -> Value {
    let default =
        if parameter.default.is_empty() { String::new() } else { format!(" (default: {})", parameter.default) };
    let mut schema = kind(parameter.kind);
    schema["description"] = format!("{}{default}", sentence(parameter.summary)).into();
    schema
}

/// The values of a kind; where a value stands, a template may stand.
fn kind(kind: Kind) -> Value {
    let or_template = |value: Value| json!({ "anyOf": [value, { "$ref": "#/$defs/template" }] });
    match kind {
        Kind::Text | Kind::Image | Kind::Script | Kind::Xml => json!({ "type": "string" }),
        Kind::Path => or_template(json!({ "type": "string", "pattern": "^/" })),
        Kind::Integer { min, max } => or_template(json!({ "type": "integer", "minimum": min, "maximum": max })),
        Kind::Bytes => or_template(bytes()),
        Kind::Duration => or_template(duration()),
        Kind::Boolean => or_template(json!({ "type": "boolean" })),
        Kind::Choice(choices) => or_template(json!({ "enum": choices })),
        Kind::Texts => or_template(json!({ "type": "array", "minItems": 1, "items": { "type": "string" } })),
        Kind::Integers => or_template(json!({ "type": "array", "items": { "type": "integer" } })),
        Kind::TextMap => or_template(json!({ "type": "object", "additionalProperties": { "type": "string" } })),
        Kind::DiskRule => or_template(disk_rule()),
        Kind::FileMode => or_template(json!({ "type": "string", "pattern": "^[0-7]{3,4}$" })),
        Kind::Share => {
            let text = json!({ "type": ["integer", "string"], "minimum": 1, "pattern": SHARE });
            or_template(text)
        }
        Kind::Partition => json!({ "type": ["string", "integer"], "minimum": 1, "maximum": 128, "minLength": 1 }),
        Kind::Records(fields) => or_template(records(fields)),
        Kind::Anything => json!({}),
    }
}

/// As `layout::Share` parses it.
const SHARE: &str = "^(rest|[0-9.]+ ?([KMGT]iB|[kKMGT]?B|%)?)$";

fn records(fields: &[Parameter]) -> Value {
    json!({ "type": "array", "minItems": 1, "items": map_of(fields, json!("object")) })
}

/// A map whose keys are `parameters`.
fn map_of(parameters: &[Parameter], kind: Value) -> Value {
    let properties: Map<String, Value> =
        parameters.iter().map(|parameter| (parameter.name.to_owned(), described(parameter))).collect();
    let required: Vec<&str> = parameters.iter().filter(|parameter| parameter.required).map(|p| p.name).collect();
    json!({ "type": kind, "properties": properties, "required": required, "additionalProperties": false })
}

fn disk_rule() -> Value {
    let mut properties = Map::new();
    for name in selection::DESCRIBED {
        let value = if name.starts_with("at-") { kind(Kind::Bytes) } else { json!({ "type": "string" }) };
        properties.insert(name.into(), value);
    }
    json!({
        "anyOf": [
            { "enum": selection::NAMED },
            { "type": "object", "properties": properties, "additionalProperties": false },
        ],
    })
}

fn bytes() -> Value {
    json!({ "type": ["integer", "string"], "minimum": 0, "pattern": "^[0-9.]+ ?([KMGT]iB|[kKMGT]?B)?$" })
}

fn duration() -> Value {
    json!({ "type": ["integer", "string"], "minimum": 0, "pattern": "^[0-9.]+ ?(s|m|min|h|d)$" })
}

fn condition() -> Value {
    json!({ "type": ["string", "boolean"], "description": "An expression over machine, vars and run" })
}

/// As it stands in the reference.
pub(super) fn sentence(fragment: &str) -> String {
    let mut characters = fragment.chars();
    let first = characters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}

/// The places as words.
pub(super) fn places(row: &Row) -> String {
    row.places.iter().map(|place: &Place| place.words()).collect::<Vec<_>>().join(", ")
}
