//! The API as its own document has it: schemathesis calls what the document allows, and what it does not, and compares.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::appliance::Appliance;
use crate::oracle;

/// Every answer must be one that the document knows, and none may be a fault of ours.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance";
/// Events have no end; the bundle looks at the network for seconds; and whoever removes tokens soon removes its own.
const LEFT_OUT: &str = "^/api/v1/(events|support-bundle|tokens/)";

#[test]
fn every_answer_is_one_that_the_document_knows() {
    let Some(program) = oracle("schemathesis/bin/st") else {
        println!(
            "skipped: the API against its document: schemathesis is not there (scripts/test fetches it from PyPI)"
        );
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let appliance = Appliance::start(folder.path());
    let token = appliance.administrators_token();
    let document = folder.path().join("openapi.json");
    std::fs::write(&document, appliance.get("/api/v1/openapi.json", &token)).unwrap();
    for bearer in [Some(token.as_str()), None] {
        call_everything(&program, &appliance, &document, bearer, folder.path());
    }
}

fn call_everything(program: &PathBuf, appliance: &Appliance, document: &Path, bearer: Option<&str>, folder: &Path) {
    let mut command = Command::new(program);
    command.current_dir(folder).arg("run").arg(document).args(["--url", &appliance.base, "--tls-verify"]);
    command.arg(folder.join("site/keys/authority.pem"));
    command.args(["--include-path-regex", "^/(api|link|health|metrics)", "--exclude-path-regex", LEFT_OUT]);
    command.args(["--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", "10", "--seed", "1"]);
    command.args(["--continue-on-failure", "--no-color"]);
    if let Some(token) = bearer {
        command.args(["-H", &format!("authorization: Bearer {token}")]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let who = if bearer.is_some() { "an administrator" } else { "nobody" };
    assert!(output.status.success(), "as {who}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let calls = text.lines().find(|line| line.contains(" generated, ")).unwrap_or_default().trim();
    println!("  schemathesis as {who}: {calls}");
    assert!(!calls.is_empty(), "{text}");
}

/// A client may send its body a moment after the head, and on to the next request: also to a route that looks at none.
#[test]
fn an_answer_waits_for_the_body_of_its_request() {
    let folder = tempfile::tempdir().unwrap();
    let appliance = Appliance::start(folder.path());
    let mut stream = appliance.connect();
    for _ in 0..2 {
        let head = "POST /api/v1/machines/nobody/is-new HTTP/1.1\r\nhost: a\r\ncontent-length: 12\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        stream.write_all(b"{\"a\": \"body\"").unwrap();
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer).unwrap();
        let text = String::from_utf8_lossy(&answer[..read]);
        assert!(text.starts_with("HTTP/1.1 401 "), "{text}");
    }
}
