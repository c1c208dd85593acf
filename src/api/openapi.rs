//! The document that describes the API (OpenAPI 3.1), made from the table of routes and from nothing else.

use std::collections::BTreeMap;

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::answer::takes_key;
use super::schema::{self, Shape};
use super::{Access, RouteInfo};

/// Where the document is served.
pub const PATH: &str = "/api/v1/openapi.json";

/// Every route with what the caller must be, what it takes and gives, and how it refuses.
pub fn document<'a>(rows: impl Iterator<Item = &'a RouteInfo>) -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for row in rows {
        let verb = row.method.as_str().to_ascii_lowercase();
        paths.entry(template(row.path)).or_default().insert(verb, operation(row));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Remint",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The API of an appliance. Errors are problem documents (RFC 9457) with a hint. A GET of JSON carries \
                            an ETag; If-None-Match with it is answered with 304. A POST with an Idempotency-Key is done once: \
                            the same key again gets the same answer.",
            "license": { "name": "AGPL-3.0-only", "identifier": "AGPL-3.0-only" },
        },
        "servers": [{ "url": "/" }],
        "tags": [
            { "name": "api", "description": "For programs and the command line" },
            { "name": "console", "description": "Pages and the forms on them" },
            { "name": "machines", "description": "What machines say; with the certificate that they got at their check-in" },
            { "name": "watching", "description": "What watches over the appliance" },
            { "name": "boot", "description": "What firmware and boot programs fetch, over plain HTTP too" },
        ],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "`remint token create` makes one" },
                "session": { "type": "apiKey", "in": "cookie", "name": "__Host-remint", "description": "POST /api/v1/session opens one" },
                "machine": { "type": "mutualTLS", "description": "A certificate of the site's authority" },
            },
            "schemas": schema::components(),
            "responses": { "Problem": problem() },
        },
    })
}

fn problem() -> Value {
    json!({
        "description": "What went wrong, and what to do",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    })
}

/// `/boot/files/{*name}` as OpenAPI writes it.
fn template(path: &str) -> String {
    path.replace("{*", "{")
}

fn tag(path: &str) -> &'static str {
    match path {
        path if path.starts_with("/api/") => "api",
        path if path.starts_with("/link/") => "machines",
        path if path.starts_with("/health/") || path == "/metrics" => "watching",
        path if path.starts_with("/boot/") || path.starts_with("/grub/") => "boot",
        _ => "console",
    }
}

fn operation(row: &RouteInfo) -> Value {
    let tag = tag(row.path);
    let mut operation = json!({
        "operationId": identifier(row),
        "summary": row.summary,
        "tags": [tag],
        "security": security(row.access),
        "responses": responses(row, tag),
    });
    let parameters = parameters(row);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    match row.access {
        Access::Public(why) | Access::Boot(why) => operation["x-why-open"] = why.into(),
        Access::Person(capability) => operation["x-capability"] = json!(capability),
        Access::Machine => {}
    }
    if matches!(row.method, Method::POST | Method::PUT | Method::PATCH) {
        operation["requestBody"] = body(row, tag);
    }
    operation
}

/// `post-api-v1-machines-machine-approve`
fn identifier(row: &RouteInfo) -> String {
    let parts = row.path.split('/').map(|part| part.trim_matches(['{', '}', '*'])).filter(|part| !part.is_empty());
    let name: Vec<String> = [row.method.as_str().to_ascii_lowercase()]
        .into_iter()
        .chain(parts.map(|part| part.replace(['.', '_'], "-")))
        .collect();
    name.join("-")
}

fn security(access: Access) -> Value {
    match access {
        Access::Boot(_) | Access::Public(_) => json!([]),
        Access::Machine => json!([{ "machine": [] }]),
        Access::Person(_) => json!([{ "token": [] }, { "session": [] }]),
    }
}

fn parameters(row: &RouteInfo) -> Vec<Value> {
    let names = row.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path = names.map(|name| {
        json!({ "name": name.trim_start_matches('*'), "in": "path", "required": true, "schema": { "type": "string" } })
    });
    let in_query = row.asks.iter().map(|(name, about)| {
        json!({ "name": name, "in": "query", "required": false, "description": about, "schema": { "type": "string" } })
    });
    let key = takes_key(&row.method, row.path);
    let header = key.then(|| {
        json!({
            "name": "Idempotency-Key", "in": "header", "required": false, "schema": { "type": "string", "maxLength": 128 },
            "description": "The same key again within a day gets the answer that the first request got",
        })
    });
    in_path.chain(in_query).chain(header).collect()
}

fn body(row: &RouteInfo, tag: &str) -> Value {
    match (tag, row.takes) {
        ("console", _) => {
            let schema = json!({ "type": "object", "additionalProperties": { "type": "string" } });
            json!({ "required": false, "content": { "application/x-www-form-urlencoded": { "schema": schema } } })
        }
        (_, Some(shape)) => {
            json!({ "required": true, "content": { "application/json": { "schema": shape.schema() } } })
        }
        (_, None) => json!({ "required": false, "content": { "application/json": { "schema": {} } } }),
    }
}

fn responses(row: &RouteInfo, tag: &str) -> Value {
    let mut responses = Map::new();
    let schema = row.gives.map_or_else(|| json!({}), Shape::schema);
    let (status, success) = match (tag, row.gives) {
        ("console", _) if row.path.starts_with("/assets/") => {
            ("200", content("A file of the console", "*/*", json!({})))
        }
        ("console", _) => ("200", content("A page", "text/html", json!({ "type": "string" }))),
        (_, Some(Shape::Events)) => {
            ("200", content("Events, without end", "text/event-stream", json!({ "type": "string" })))
        }
        (_, Some(Shape::Bytes)) => ("200", content("A file", "application/gzip", json!({}))),
        ("watching", None) => ("200", content("Text", "text/plain", json!({ "type": "string" }))),
        (_, Some(Shape::Nothing)) => ("204", json!({ "description": "Done" })),
        ("boot", _) => ("200", content("A file", "application/octet-stream", json!({}))),
        _ => ("200", content("Done", "application/json", schema)),
    };
    responses.insert(status.into(), success);
    if tag == "console" {
        responses.insert("303".into(), json!({ "description": "Done, and the page that shows it; or the login" }));
    }
    if tag == "api" && row.method == Method::GET && !matches!(row.gives, Some(Shape::Events | Shape::Bytes)) {
        responses
            .insert("304".into(), json!({ "description": "It is as it was: the ETag is the one of If-None-Match" }));
    }
    for (status, may) in refusals(row) {
        if may {
            responses.insert(status.into(), json!({ "$ref": "#/components/responses/Problem" }));
        }
    }
    responses.into()
}

/// The statuses with which a route may refuse.
fn refusals(row: &RouteInfo) -> [(&'static str, bool); 11] {
    let secured = !matches!(row.access, Access::Public(_) | Access::Boot(_));
    let writes = row.method != Method::GET;
    let login = row.path.ends_with("/session")
        || row.path.ends_with("/accept")
        || row.path == "/login"
        || row.path == "/welcome";
    [
        ("400", true),
        ("401", secured),
        ("403", secured || login),
        ("404", row.path.contains('{') || writes || secured),
        ("409", writes),
        ("413", writes),
        ("415", writes),
        ("422", writes || secured),
        ("429", login),
        ("500", true),
        ("503", true),
    ]
}

fn content(description: &str, kind: &str, schema: Value) -> Value {
    json!({ "description": description, "content": { kind: { "schema": schema } } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Capability;

    #[test]
    fn an_operation_says_who_may_call_it_and_how_it_refuses() {
        let row = RouteInfo {
            method: Method::POST,
            path: "/api/v1/machines/{machine}/approve",
            access: Access::Person(Capability::ApproveMachine),
            summary: "Approve",
            asks: &[],
            takes: None,
            gives: Some(Shape::One("Machine")),
        };
        let document = document([&row].into_iter());
        let operation = &document["paths"]["/api/v1/machines/{machine}/approve"]["post"];
        assert_eq!(operation["operationId"], "post-api-v1-machines-machine-approve");
        assert_eq!(operation["security"], json!([{ "token": [] }, { "session": [] }]));
        assert_eq!(operation["x-capability"], "approve-machine");
        assert_eq!(operation["parameters"][0]["name"], "machine");
        for status in ["401", "403", "404"] {
            assert_eq!(operation["responses"][status]["$ref"], "#/components/responses/Problem", "{status}");
        }
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        assert_eq!(schema["$ref"], "#/components/schemas/Machine");
        assert!(document["components"]["schemas"]["Machine"].is_object());
    }
}
