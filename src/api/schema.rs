//! The shapes of what travels, for the API's document. Written by hand in a few words a field: a derive on some seventy
//! types, most of which the agent compiles too, would cost every build more than this table; a test calls the routes and
//! compares.

use serde_json::{Map, Value, json};

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    One(&'static str),
    List(&'static str),
    /// Server-sent events.
    Events,
    /// A file to be kept.
    Bytes,
    /// No body.
    Nothing,
}

impl Shape {
    pub fn schema(self) -> Value {
        let reference = |name: &str| json!({ "$ref": format!("#/components/schemas/{name}") });
        match self {
            Shape::One(name) => reference(name),
            Shape::List(name) => json!({ "type": "array", "items": reference(name) }),
            Shape::Events | Shape::Bytes | Shape::Nothing => json!({}),
        }
    }
}

/// A name and its fields: `field: type`, `?` after the type where it may be null or absent. Types: `text`, `integer`,
/// `number`, `boolean`, `time` (milliseconds since 1970), `any`, the name of another shape, `[...]` for a list, `{...}` for
/// a map from text.
const SHAPES: &[(&str, &str)] = &[
    ("Health", "works: [text]"),
    ("Problem", "status: integer, title: text, detail: text, hint: text?"),
    (
        "Identity",
        "uuid: text?, system_serial: text?, board_serial: text?, tpm_key: text?, disk_serials: [text], macs: [text], manufacturer: text?, model: text?",
    ),
    (
        "Machine",
        "id: text, name: text, state: text, next_boot: text, identity: Identity, protected: boolean, pairing_code: text?, approved_by: text?, address: text?, stage: text, created_at: time, seen_at: time, notice: text?",
    ),
    ("Certificate", "serial: text, issued_at: time, expires_at: time, revoked_at: time?"),
    ("EditMachine", "name: text?, protected: boolean?"),
    ("Member", "id: text, name: text"),
    (
        "Collection",
        "name: text, note: text, query: text?, include: [Member], exclude: [Member], machines: [Member], error: text?",
    ),
    ("PutCollection", "note: text?, query: text?, machines: [text]?, exclude: [text]?"),
    ("Seat", "machine: text, column: integer, row: integer"),
    ("Room", "name: text, seats: [Seat]"),
    ("Place", "room: text, column: integer, row: integer"),
    ("SequenceRecord", "name: text, version: text, document: text, created_at: time, created_by: text"),
    ("Document", "document: text, files: {text}?"),
    ("DocumentProblem", "file: text?, line: integer, column: integer, message: text, hint: text?"),
    ("Checked", "version: text?, problems: [DocumentProblem]"),
    ("PlanRequest", "document: text?, files: {text}?, sequence: text?, machine: text, variables: {any}?"),
    ("DiskIdentity", "path: text, serial: text?, bytes: integer"),
    (
        "PlannedItem",
        "id: text, name: text, kind: text, place: text, section: text?, fate: text, what: text?, why: text?, error: text?, hint: text?",
    ),
    (
        "Plan",
        "machine: text, sequence: text, version: text, items: [PlannedItem], erases: [DiskIdentity], bytes: integer",
    ),
    (
        "Rollout",
        "start_at: time?, deadline: time?, at_once: integer?, rings: [integer]?, failures_percent_max: integer?, wake: boolean?",
    ),
    (
        "DeploymentRequest",
        "sequence: text, machines: [text]?, collection: text?, variables: {any}?, rollout: Rollout?, debug: boolean?, confirm: integer?",
    ),
    (
        "Counts",
        "queued: integer, waiting: integer, running: integer, succeeded: integer, failed: integer, cancelled: integer",
    ),
    (
        "Deployment",
        "id: text, sequence: text, version: text, target: text, rollout: Rollout, stopped: text?, created_at: time, created_by: text, counts: Counts",
    ),
    ("Preview", "sequence: text, version: text, plans: [Plan], erases: integer, refusals: [text]"),
    ("Resume", "failures_percent_max: integer"),
    ("Progress", "item: text, done: integer, total: integer, unit: text, note: text?"),
    (
        "Run",
        "id: text, deployment: text, machine: text, machine_name: text, sequence: text, version: text, state: text, directive: text, step: text, step_name: text, steps_over: integer, steps: integer, progress: Progress?, error: text?, hint: text?, question: text?, created_at: time, started_at: time?, finished_at: time?",
    ),
    (
        "RunDetail",
        "id: text, deployment: text, machine: text, machine_name: text, sequence: text, state: text, steps: [any], images: [any], journal: [any]",
    ),
    ("Line", "at: time, item: text, text: text"),
    ("Direct", "directive: text"),
    ("Answer", "value: any"),
    ("Retry", "from: text?"),
    (
        "Image",
        "name: text, version: integer, id: text, tags: [text], kind: text, size: integer, content_bytes: integer, created: time",
    ),
    ("TagRequest", "version: text"),
    ("Query", "sql: text"),
    ("QueryAnswer", "columns: [text], rows: [[any]], truncated: boolean"),
    ("Person", "name: text, role: text, created_at: time"),
    ("AddPerson", "name: text, role: text, password: text"),
    ("Token", "name: text, role: text, created_at: time, expires_at: time?"),
    ("AddToken", "name: text, role: text, days: integer?"),
    ("Login", "name: text, password: text"),
    ("Accept", "invitation: text, name: text, password: text"),
    ("Invite", "role: text, hours: integer?"),
    ("AuditEntry", "number: integer, at: time, who: text, what: text, on_what: text, detail: text"),
];

/// All shapes as JSON Schema.
pub fn components() -> Value {
    SHAPES.iter().map(|(name, fields)| ((*name).to_owned(), object(fields))).collect::<Map<_, _>>().into()
}

fn object(fields: &str) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in fields.split(", ") {
        let (name, kind) = field.split_once(": ").unwrap_or((field, "any"));
        match kind.strip_suffix('?') {
            Some(kind) => properties.insert(name.into(), json!({ "anyOf": [value(kind), { "type": "null" }] })),
            None => {
                required.push(name);
                properties.insert(name.into(), value(kind))
            }
        };
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

fn value(kind: &str) -> Value {
    let inner = |open: char, close: char| kind.strip_prefix(open)?.strip_suffix(close);
    if let Some(items) = inner('[', ']') {
        return json!({ "type": "array", "items": value(items) });
    }
    if let Some(values) = inner('{', '}') {
        return json!({ "type": "object", "additionalProperties": value(values) });
    }
    match kind {
        "text" => json!({ "type": "string" }),
        "integer" | "number" | "boolean" => json!({ "type": kind }),
        "time" => json!({ "type": "integer", "description": "milliseconds since 1970" }),
        "any" => json!({}),
        shape => json!({ "$ref": format!("#/components/schemas/{shape}") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_that_is_named_is_there() {
        let components = components();
        let text = components.to_string();
        for (at, _) in text.match_indices("#/components/schemas/") {
            let name: String = text[at + 21..].chars().take_while(char::is_ascii_alphanumeric).collect();
            assert!(components.get(&name).is_some(), "{name}");
        }
        assert_eq!(
            components["Retry"],
            json!({
                "type": "object", "properties": { "from": { "anyOf": [{ "type": "string" }, { "type": "null" }] } }, "required": [],
            })
        );
        assert_eq!(value("[[any]]"), json!({ "type": "array", "items": { "type": "array", "items": {} } }));
    }
}
