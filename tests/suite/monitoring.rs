//! What watches over an appliance: metrics, and the page that explains them.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::Request;
use remint::access::{Limits, Principal, Role, db as access_db};
use remint::server::assemble::assemble;
use remint::server::metrics::{Kind, METRICS};
use remint::server::site::Site;
use tower::ServiceExt;

const PAGE: &str = include_str!("../../docs/guide/monitoring.md");

#[test]
fn the_page_has_each_metric_with_its_labels() {
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let row = format!("| `{}` | {kind} | {} | {} |", metric.name, labels.join(", "), metric.help);
        assert!(PAGE.contains(&row), "docs/guide/monitoring.md lacks\n{row}");
    }
}

#[test]
fn prometheus_reads_counts_of_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site::create(&folder.path().join("site"), "test").unwrap();
    let by = Principal::local();
    let viewer = (Role::ReadOnly, &Limits::default());
    let token = access_db::create_token(&site.db, &by, "prometheus", viewer, None, site.clock.now()).unwrap();
    let assembly = assemble(&site).unwrap();
    let (router, _) = assembly.table.routers(&assembly.gate);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let get = |path: &str| {
        let request = Request::get(path).header("authorization", format!("Bearer {}", token.reveal()));
        let router = router.clone();
        runtime.block_on(async move {
            let answer = router.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            let status = answer.status().as_u16();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        })
    };
    assert_eq!(get("/api/v1/machines/nobody").0, 404);
    let (status, text) = get("/metrics");
    assert_eq!(status, 200, "{text}");
    for line in [
        r#"remint_http_requests_total{method="GET",route="/api/v1/machines/{machine}",status="404"} "#,
        r#"remint_http_response_seconds_bucket{route="/api/v1/machines/{machine}",le="+Inf"} "#,
        r#"remint_machines{state="waiting"} 0"#,
        r#"remint_runs{state="failed"} 0"#,
        "remint_store_packs 0",
        "process_resident_memory_bytes ",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let described: BTreeSet<&str> = METRICS.iter().map(|metric| metric.name).collect();
    let found =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE remint_")).filter_map(|rest| rest.split(' ').next());
    for name in found.map(|rest| format!("remint_{rest}")) {
        assert!(described.contains(name.as_str()), "{name} is not among the described metrics");
    }
}
