//! Pages with many machines: they are whole, and what they cost is printed.

use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use remint::access::{Limits, Principal, Role};
use remint::fleet::identity::Identity;
use remint::fleet::link::{CheckIn, Stage};
use remint::server::assemble::assemble;
use remint::server::site::Site;
use remint::tasksequence::deployment::Request as Deployment;
use serde_json::Value;
use tower::ServiceExt;

const MACHINES: usize = 500;
const SEQUENCE: &str = "name: greet\nsteps:\n  - run-command:\n      command: [/bin/echo, hello]\n";

#[test]
fn five_hundred_machines_are_on_a_page_and_it_is_told_what_that_takes() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::create(&folder.path().join("site"), "test").unwrap();
    let assembly = assemble(&site).unwrap();
    let by = Principal::local();
    for number in 0..MACHINES {
        let serial = Some(format!("S-{number:04}"));
        let identity = Identity { system_serial: serial.clone(), board_serial: serial, ..Identity::default() };
        let check_in = CheckIn {
            stage: Stage::BootEnvironment,
            identity,
            arrived_by: None,
            request_pem: String::new(),
            hardware: Value::Null,
            agent: String::new(),
            code: None,
            trial: None,
        };
        assembly.fleet.check_in(&check_in, format!("key {number}").as_bytes(), None).unwrap();
    }
    for machine in assembly.fleet.machines().unwrap() {
        assembly.fleet.approve(machine.id.as_str(), &by).unwrap();
    }
    assembly.sequences.publish(SEQUENCE, &Default::default(), &by).unwrap();
    let all = Deployment { sequence: "greet".into(), collection: Some("all".into()), ..Deployment::default() };
    let deployment = assembly.sequences.start(&all, &by).unwrap();
    let token = remint::access::db::create_token(
        &site.db,
        &by,
        "t",
        (Role::Administrator, &Limits::default()),
        None,
        site.clock.now(),
    );
    let token = format!("Bearer {}", token.unwrap().reveal());
    let (router, _) = assembly.table.routers(&assembly.gate);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let of_deployment = format!("/deployments/{}", deployment.id);
    for (path, rows) in
        [("/", 0), ("/machines", MACHINES), ("/rooms", MACHINES), ("/runs", 100), (&of_deployment, MACHINES)]
    {
        let get = || {
            let request = Request::builder().uri(path).header("authorization", &token).body(Body::empty()).unwrap();
            runtime.block_on(async {
                let answer = router.clone().oneshot(request).await.unwrap();
                assert!(answer.status().is_success(), "{path}: {}", answer.status());
                to_bytes(answer.into_body(), usize::MAX).await.unwrap()
            })
        };
        get();
        let begun = Instant::now();
        let page = get();
        let took = begun.elapsed();
        let page = String::from_utf8(page.to_vec()).unwrap();
        assert!(page.matches("data-key=").count() >= rows, "{path} has {} rows", page.matches("data-key=").count());
        println!("{path} with {MACHINES} machines: {} ms, {} kB", took.as_millis(), page.len() / 1000);
    }
}
