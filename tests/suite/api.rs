//! The API as its document describes it: every route is there, what the routes answer fits the shapes, and what all
//! answers have in common.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use remint::access::{Limits, Principal, Role};
use remint::api::{Access, RouteInfo};
use remint::fleet::identity::Identity;
use remint::fleet::link::{CheckIn, Stage};
use remint::server::assemble::assemble;
use remint::server::site::Site;
use serde_json::{Value, json};
use tower::ServiceExt;

struct Api {
    _folder: tempfile::TempDir,
    _site: Site,
    router: axum::Router,
    runtime: tokio::runtime::Runtime,
    rows: Vec<RouteInfo>,
    token: String,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Api {
    /// A site with a machine that runs a sequence.
    fn new() -> Api {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::create(&folder.path().join("site"), "test").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let assembly = assemble(&site).unwrap();
        let rows = assembly.table.rows().cloned().collect();
        let by = Principal::local();
        let token = remint::access::db::create_token(
            &site.db,
            &by,
            "t",
            (Role::Administrator, &Limits::default()),
            None,
            site.clock.now(),
        )
        .unwrap();
        let serial = Some("S1".to_owned());
        let check_in = CheckIn {
            stage: Stage::BootEnvironment,
            identity: Identity { system_serial: serial.clone(), board_serial: serial, ..Identity::default() },
            arrived_by: None,
            request_pem: String::new(),
            hardware: Value::Null,
            agent: String::new(),
            code: None,
            trial: None,
        };
        assembly.fleet.check_in(&check_in, b"key", None).unwrap();
        let machine = assembly.fleet.machines().unwrap().remove(0);
        assembly.fleet.approve(machine.id.as_str(), &by).unwrap();
        let (router, _) = assembly.table.routers(&assembly.gate);
        Api { _folder: folder, _site: site, router, runtime, rows, token: token.reveal().to_owned() }
    }

    fn call(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await.unwrap();
            let (status, headers) = (answer.status(), answer.headers().clone());
            let bytes = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) }
        })
    }

    fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], "")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, &[], &body.to_string())
    }

    fn document(&self) -> Value {
        self.get("/api/v1/openapi.json").body
    }
}

const SEQUENCE: &str = "name: greet\nsteps:\n  - run-command:\n      command: [/bin/echo, hello]\n";

#[test]
fn the_document_is_of_the_routes_that_are_served() {
    let api = Api::new();
    let document = api.document();
    assert_eq!(document["openapi"], "3.1.0");
    let operations: usize =
        document["paths"].as_object().unwrap().values().map(|verbs| verbs.as_object().unwrap().len()).sum();
    assert_eq!(operations, api.rows.len() + 1, "each route once, and the document itself");
    let mut identifiers = std::collections::BTreeSet::new();
    for row in &api.rows {
        let path = row.path.replace("{*", "{");
        let operation = &document["paths"][&path][row.method.as_str().to_ascii_lowercase()];
        let name = format!("{} {path}", row.method);
        assert_eq!(operation["summary"], row.summary, "{name}");
        let open = matches!(row.access, Access::Public(_) | Access::Boot(_));
        assert_eq!(operation["security"].as_array().unwrap().is_empty(), open, "{name}");
        let refused = &operation["responses"]["401"]["$ref"];
        assert_eq!(refused == "#/components/responses/Problem", !open, "{name}");
        assert!(identifiers.insert(operation["operationId"].as_str().unwrap().to_owned()), "{name}: twice");
    }
}

#[test]
fn what_routes_answer_is_what_the_document_says() {
    let api = Api::new();
    let machine = api.get("/api/v1/machines").body[0]["name"].as_str().unwrap().to_owned();
    assert_eq!(api.post("/api/v1/sequences", &json!({ "document": SEQUENCE })).status, StatusCode::OK);
    assert_eq!(api.call(Method::PUT, "/api/v1/rooms/Lab", &[], "").status, StatusCode::NO_CONTENT);
    let started = api.post("/api/v1/deployments", &json!({ "sequence": "greet", "machines": [machine] }));
    assert_eq!(started.status, StatusCode::OK, "{}", started.body);
    let run = api.get("/api/v1/runs").body[0]["id"].as_str().unwrap().to_owned();
    let deployment = started.body["id"].as_str().unwrap().to_owned();
    let document = api.document();
    let mut compared = 0;
    for (path, route) in [
        ("/api/v1/machines".to_owned(), "/api/v1/machines"),
        (format!("/api/v1/machines/{machine}"), "/api/v1/machines/{machine}"),
        ("/api/v1/collections".to_owned(), "/api/v1/collections"),
        ("/api/v1/rooms".to_owned(), "/api/v1/rooms"),
        ("/api/v1/sequences".to_owned(), "/api/v1/sequences"),
        ("/api/v1/sequences/greet".to_owned(), "/api/v1/sequences/{name}"),
        ("/api/v1/deployments".to_owned(), "/api/v1/deployments"),
        (format!("/api/v1/deployments/{deployment}"), "/api/v1/deployments/{id}"),
        ("/api/v1/runs".to_owned(), "/api/v1/runs"),
        (format!("/api/v1/runs/{run}"), "/api/v1/runs/{run}"),
        (format!("/api/v1/runs/{run}/log"), "/api/v1/runs/{run}/log"),
        ("/api/v1/images".to_owned(), "/api/v1/images"),
        ("/api/v1/people".to_owned(), "/api/v1/people"),
        ("/api/v1/tokens".to_owned(), "/api/v1/tokens"),
        ("/api/v1/audit".to_owned(), "/api/v1/audit"),
    ] {
        let answer = api.get(&path);
        assert_eq!(answer.status, StatusCode::OK, "{path}: {}", answer.body);
        let schema = &document["paths"][route]["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        assert!(schema.is_object(), "{route} has no schema");
        fits(&document, schema, &answer.body, route);
        compared += usize::from(answer.body.as_array().is_none_or(|list| !list.is_empty()));
    }
    assert!(compared >= 10, "only {compared} answers had something in them");
    let schema = json!({ "$ref": "#/components/schemas/Plan" });
    let plan = api.post("/api/v1/sequences/plan", &json!({ "document": SEQUENCE, "machine": machine }));
    fits(&document, &schema, &plan.body, "plan");
}

/// Whether the value has what the schema requires, in the types that it says.
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap();
        return fits(document, &document["components"]["schemas"][name], value, at);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return if value.is_null() {
            assert!(choices.len() > 1, "{at}")
        } else {
            fits(document, &choices[0], value, at)
        };
    }
    match schema["type"].as_str() {
        Some("object") => {
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                assert!(value.get(name).is_some(), "{at}: `{name}` is missing in {value}");
            }
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(found) = value.get(name) {
                    fits(document, inner, found, &format!("{at}.{name}"));
                }
            }
        }
        Some("array") => {
            for item in value.as_array().unwrap_or_else(|| panic!("{at}: {value} is no list")) {
                fits(document, &schema["items"], item, at);
            }
        }
        Some("string") => assert!(value.is_string(), "{at}: {value}"),
        Some("integer") => assert!(value.is_i64() || value.is_u64(), "{at}: {value}"),
        Some("boolean") => assert!(value.is_boolean(), "{at}: {value}"),
        _ => {}
    }
}

#[test]
fn refusals_are_problem_documents_whoever_refuses() {
    let api = Api::new();
    for (method, path, body, status) in [
        (Method::POST, "/api/v1/sequences", "no json", 400),
        (Method::POST, "/api/v1/sequences", "{\"documents\": 1}", 422),
        (Method::GET, "/api/v1/machines/nobody", "", 404),
        (Method::PUT, "/api/v1/machines", "{}", 405),
        (Method::GET, "/api/v1/machines?limit=many", "", 400),
        (Method::GET, "/api/v1/nothing", "", 404),
    ] {
        let answer = api.call(method, path, &[], body);
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{path}");
        assert_eq!(answer.body["status"], status, "{path}: {}", answer.body);
        assert!(answer.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{path}");
    }
}

#[test]
fn what_is_read_again_unchanged_is_not_sent_again() {
    let api = Api::new();
    let first = api.get("/api/v1/machines");
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    let again = api.call(Method::GET, "/api/v1/machines", &[("if-none-match", &tag)], "");
    assert_eq!((again.status, again.body), (StatusCode::NOT_MODIFIED, Value::Null));
    let machine = first.body[0]["name"].as_str().unwrap();
    api.call(Method::PATCH, &format!("/api/v1/machines/{machine}"), &[], "{\"protected\": true}");
    let changed = api.call(Method::GET, "/api/v1/machines", &[("if-none-match", &tag)], "");
    assert_eq!(changed.status, StatusCode::OK);
    assert_ne!(changed.headers["etag"].to_str().unwrap(), tag);
}

#[test]
fn a_request_with_a_key_is_carried_out_once() {
    let api = Api::new();
    let machine = api.get("/api/v1/machines").body[0]["name"].as_str().unwrap().to_owned();
    api.post("/api/v1/sequences", &json!({ "document": SEQUENCE }));
    let key = [("idempotency-key", "order-66")];
    let body = json!({ "sequence": "greet", "machines": [machine] }).to_string();
    let first = api.call(Method::POST, "/api/v1/deployments", &key, &body);
    let second = api.call(Method::POST, "/api/v1/deployments", &key, &body);
    assert_eq!(first.status, StatusCode::OK, "{}", first.body);
    assert_eq!(first.body, second.body, "the same deployment, not a refusal of another");
    assert_eq!(second.headers["idempotent-replay"], "true");
    let other = api.call(Method::POST, "/api/v1/deployments", &key, "{\"sequence\": \"other\"}");
    assert_eq!(other.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(api.get("/api/v1/deployments").body.as_array().unwrap().len(), 1);
    let invite = json!({ "role": "technician" }).to_string();
    let secrets = [(); 2].map(|()| api.call(Method::POST, "/api/v1/invitations", &key, &invite).body);
    assert_ne!(secrets[0], secrets[1], "what holds a secret is not kept");
}
