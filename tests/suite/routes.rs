//! Every route, walked from the table that serves them.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use remint::access::secret::Secret;
use remint::access::{Capability, Limits, Principal, Role, db as access_db};
use remint::api::{Access, PeerCertificate, RouteInfo};
use remint::fleet::collection::Definition;
use remint::fleet::db::Fleet;
use remint::server::assemble::assemble;
use remint::server::site::Site;
use remint::server::support;
use tower::ServiceExt;

#[path = "../shared/secrets.rs"]
mod secrets;

use secrets::{holds, private_keys};

/// Those that anybody may call over TLS; whoever adds one writes it here, and why into the route's row.
const PUBLIC: [&str; 10] = [
    "GET /assets/{name}",
    "GET /health/live",
    "GET /health/ready",
    "GET /login",
    "GET /welcome",
    "POST /api/v1/invitations/accept",
    "POST /api/v1/session",
    "POST /link/v1/check-in",
    "POST /login",
    "POST /welcome",
];
/// The same for ends of sessions, which ask for nothing because they give nothing.
const HARMLESS: [&str; 1] = ["POST /logout"];
/// Plain HTTP too.
const BOOT: [&str; 3] = ["GET /boot/authority.pem", "GET /boot/files/{*name}", "GET /boot/ipxe"];

struct Walk {
    _folder: tempfile::TempDir,
    site: Site,
    fleet: Arc<Fleet>,
    rows: Vec<RouteInfo>,
    router: axum::Router,
    runtime: tokio::runtime::Runtime,
}

impl Walk {
    fn new() -> Walk {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::create(&folder.path().join("site"), "test").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let assembly = assemble(&site).unwrap();
        let rows = assembly.table.rows().cloned().collect();
        let (router, _) = assembly.table.routers(&assembly.gate);
        Walk { _folder: folder, site, fleet: assembly.fleet, rows, router, runtime }
    }

    fn rows(&self) -> Vec<RouteInfo> {
        self.rows.clone()
    }

    /// The status of a call with this token.
    fn status(&self, route: &RouteInfo, token: Option<&str>) -> u16 {
        self.call(route, token, None).0
    }

    /// The status of a call by whoever holds this certificate, as TLS hands it on.
    fn status_for(&self, route: &RouteInfo, certificate: &Arc<[u8]>) -> u16 {
        self.call(route, None, Some(certificate)).0
    }

    /// Status and body; a stream without end is cut.
    fn call(&self, route: &RouteInfo, token: Option<&str>, certificate: Option<&Arc<[u8]>>) -> (u16, Vec<u8>) {
        let path = route
            .path
            .replace("{*", "{")
            .split('/')
            .map(|part| if part.starts_with('{') { "x" } else { part })
            .collect::<Vec<_>>()
            .join("/");
        let mut request =
            Request::builder().method(route.method.clone()).uri(path).header("content-type", "application/json");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut request = request.body(Body::from("{}")).unwrap();
        if let Some(certificate) = certificate {
            request.extensions_mut().insert(PeerCertificate(Some(certificate.clone())));
        }
        self.runtime.block_on(async {
            let answer = self.router.clone().oneshot(request).await.unwrap();
            let status = answer.status().as_u16();
            let body = axum::body::to_bytes(answer.into_body(), 16 << 20);
            let body = tokio::time::timeout(Duration::from_millis(500), body).await;
            (status, body.ok().and_then(Result::ok).map(|bytes| bytes.to_vec()).unwrap_or_default())
        })
    }

    /// A machine that is let in, with the certificate that it has got.
    fn machine(&self, serial: &str) -> (String, Arc<[u8]>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let check_in = || {
            let body = serde_json::json!({
                "stage": "installed-system", "identity": { "system_serial": serial }, "request_pem": request,
                "hardware": null, "agent": "test",
            });
            let request = Request::post("/link/v1/check-in").header("content-type", "application/json");
            let request = request.body(Body::from(body.to_string())).unwrap();
            self.runtime.block_on(async {
                let answer = self.router.clone().oneshot(request).await.unwrap();
                let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
                serde_json::from_slice::<serde_json::Value>(&body).unwrap()
            })
        };
        let waiting = check_in();
        assert_eq!(waiting["verdict"], "waiting", "{waiting}");
        let name = waiting["name"].as_str().unwrap().to_owned();
        self.fleet.approve(&name, &Principal::local()).unwrap();
        let approved = check_in();
        let pem = approved["certificate_pem"].as_str().unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        (name, Arc::from(pem.contents))
    }

    fn token(&self, role: Role) -> String {
        self.limited_token(role, Limits::default())
    }

    fn limited_token(&self, role: Role, limits: Limits) -> String {
        let by = Principal::local();
        let secret =
            access_db::create_token(&self.site.db, &by, role.name(), (role, &limits), None, self.site.clock.now());
        secret.unwrap().reveal().to_owned()
    }
}

fn name(route: &RouteInfo) -> String {
    format!("{} {}", route.method, route.path)
}

#[test]
fn only_the_listed_routes_are_public_and_each_says_why() {
    let walk = Walk::new();
    let mut public = Vec::new();
    let mut boot = Vec::new();
    for route in walk.rows() {
        match route.access {
            Access::Public(why) => public.push((name(&route), why)),
            Access::Boot(why) => boot.push((name(&route), why)),
            Access::Machine | Access::Person(_) => {}
        }
    }
    public.retain(|(name, _)| !HARMLESS.contains(&name.as_str()));
    public.sort();
    boot.sort();
    assert!(public.iter().chain(&boot).all(|(_, why)| why.len() > 10), "{public:?} {boot:?}");
    assert_eq!(public.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), PUBLIC);
    // The boot routes are added by the running appliance; in the assembly there is the authority alone.
    assert!(boot.iter().all(|(name, _)| BOOT.contains(&name.as_str())), "{boot:?}");
}

#[test]
fn without_credentials_everything_else_is_refused() {
    let walk = Walk::new();
    let rows = walk.rows();
    assert!(rows.len() > 30, "only {} routes were found", rows.len());
    for route in rows {
        let status = walk.status(&route, None);
        match route.access {
            Access::Machine | Access::Person(_) => assert_eq!(status, 401, "{}", name(&route)),
            Access::Public(_) | Access::Boot(_) => {
                assert!(status != 401 && status < 500, "{} answered {status}", name(&route))
            }
        }
        assert_eq!(
            walk.status(&route, Some("remint_wrong")) == 401,
            matches!(route.access, Access::Machine | Access::Person(_)),
            "{}",
            name(&route)
        );
    }
}

#[test]
fn each_role_passes_where_its_capabilities_allow_and_nowhere_else() {
    let walk = Walk::new();
    for role in Role::ALL {
        let token = walk.token(role);
        // The event stream never ends; who may open it is decided before it starts, as for the rest.
        for route in walk.rows() {
            let allowed = match route.access {
                Access::Person(capability) => role.has(capability),
                Access::Machine => false,
                Access::Public(_) | Access::Boot(_) => continue,
            };
            let status = walk.status(&route, Some(&token));
            assert_eq!(status != 403, allowed, "{} as {} answered {status}", name(&route), role.name());
            assert!(status < 500, "{} as {} answered {status}", name(&route), role.name());
        }
    }
}

/// A technician of one collection reads everything and acts on that collection's machines alone.
#[test]
fn rights_over_a_collection_end_at_its_machines() {
    let walk = Walk::new();
    let fleet = walk.fleet.clone();
    let (inside, _) = walk.machine("S1");
    let (outside, _) = walk.machine("S2");
    let lab = Definition { machines: vec![inside.clone()], ..Definition::default() };
    fleet.put_collection("lab", &lab, &Principal::local()).unwrap();
    let limits = Limits { collections: Some(vec!["lab".into()]), ..Limits::default() };
    let token = walk.limited_token(Role::Administrator, limits);
    // What changes the collection itself comes last.
    let mut rows = walk.rows();
    rows.sort_by_key(|route| route.path.contains("{collection}"));
    for route in rows {
        let Access::Person(capability) = route.access else { continue };
        let on = |machine: &str, collection: &str| {
            let path = route.path.replace("{machine}", machine).replace("{collection}", collection);
            walk.call(&RouteInfo { path: path.leak(), ..route.clone() }, Some(&token), None).0
        };
        let names_a_place = route.path.contains("{machine}") || route.path.contains("{collection}");
        let path = route.path.strip_prefix("/api/v1").unwrap_or(route.path);
        let looks_itself = path == "/approvals" || path.starts_with("/deployments") && !path.contains('{');
        let is_reading = matches!(capability, Capability::Read | Capability::Audit);
        assert_eq!(on(&outside, "other") != 403, is_reading || looks_itself, "outside: {}", name(&route));
        assert_eq!(on(&inside, "lab") != 403, is_reading || looks_itself || names_a_place, "inside: {}", name(&route));
    }
}

#[test]
fn only_administrators_administer() {
    for role in Role::ALL {
        assert_eq!(role.has(Capability::Administer), role == Role::Administrator, "{}", role.name());
    }
}

#[test]
fn a_machine_speaks_for_itself_and_has_no_persons_rights() {
    let walk = Walk::new();
    let (_, certificate) = walk.machine("S1");
    for route in walk.rows() {
        let status = walk.status_for(&route, &certificate);
        match route.access {
            Access::Person(_) => assert_eq!(status, 403, "{}", name(&route)),
            Access::Machine => assert!(status != 401 && status != 403 && status < 500, "{} {status}", name(&route)),
            Access::Public(_) | Access::Boot(_) => assert!(status != 401 && status < 500, "{} {status}", name(&route)),
        }
    }
}

/// A retired machine, one that was rejected, one whose certificate has the right signature and was never issued, one that
/// waits and makes up a certificate: nobody.
#[test]
fn a_machine_that_is_not_let_in_is_nobody() {
    let walk = Walk::new();
    let fleet = walk.fleet.clone();
    let (retired, of_retired) = walk.machine("S1");
    let (rejected, of_rejected) = walk.machine("S2");
    fleet.retire(&retired, &Principal::local()).unwrap();
    fleet.reject(&rejected, &Principal::local()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    let unknown = walk.site.authority.issue_machine(&request, "machine-1", 3600, walk.site.clock.now()).unwrap();
    let (_, unknown) = x509_parser::pem::parse_x509_pem(unknown.certificate_pem.as_bytes()).unwrap();
    let made_up = rcgen::CertificateParams::default().self_signed(&key).unwrap();
    let nobodies: [(&str, Arc<[u8]>); 4] = [
        ("retired", of_retired),
        ("rejected", of_rejected),
        ("never issued", Arc::from(unknown.contents)),
        ("made up", Arc::from(made_up.der().to_vec())),
    ];
    for (what, certificate) in nobodies {
        for route in walk.rows() {
            let status = walk.status_for(&route, &certificate);
            match route.access {
                Access::Machine | Access::Person(_) => assert_eq!(status, 401, "{what}: {}", name(&route)),
                Access::Public(_) | Access::Boot(_) => assert!(status < 500, "{what}: {} {status}", name(&route)),
            }
        }
    }
}

fn unpacked(gzip: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(gzip).read_to_end(&mut bytes).unwrap();
    bytes
}

/// Known secrets of every kind are planted, every route that reads is asked by an administrator, then everything that was
/// said, logged and stored is searched for them.
#[test]
fn no_secret_is_in_an_answer_a_log_line_or_the_database() {
    let log = Log::default();
    let walk = Walk::new();
    let (db, now, by) = (&walk.site.db, walk.site.clock.now(), Principal::local());
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let planted = {
        let password = Secret::new("planted password 1");
        access_db::create_person(db, &by, "ada", Role::Administrator, &password, now).unwrap();
        let token = walk.token(Role::Administrator);
        let session = access_db::login(db, "ada", &password, now).unwrap();
        let invitation = access_db::invite(db, &by, Role::Auditor, 600, now).unwrap();
        let fleet = walk.fleet.clone();
        let terms = remint::fleet::enrolment::code::Terms { label: "desk".into(), ..Default::default() };
        let code = fleet.make_code(&terms, &by).unwrap();
        let sealed = walk.site.vault.seal("test/place", &Secret::new("planted variable 1"));
        db.write::<_, remint::db::Error>(|tx| {
            tx.execute("CREATE TABLE planted (value TEXT)", [])?;
            tx.execute("INSERT INTO planted VALUES (?1)", [&sealed])?;
            access_db::release_secret(tx, &walk.site.vault, "run-1", "test/place", &sealed, now).unwrap();
            Ok(())
        })
        .unwrap();
        walk.machine("S1");
        let mut planted = vec![
            ("a password", b"planted password 1".to_vec()),
            ("a sealed variable", b"planted variable 1".to_vec()),
            ("a token", token.clone().into_bytes()),
            ("a session", session.reveal().as_bytes().to_vec()),
            ("an invitation", invitation.reveal().as_bytes().to_vec()),
            ("an enrolment code", code.reveal().as_bytes().to_vec()),
        ];
        planted.extend(private_keys(&walk.site.folder));
        for route in walk.rows().iter().filter(|route| route.method == axum::http::Method::GET) {
            let (_, mut body) = walk.call(route, Some(&token), None);
            if route.path == support::PATH {
                body = unpacked(&body);
                assert!(holds(&body, b"remint-support/machines.json"), "the bundle was not made");
            }
            for (what, secret) in &planted {
                assert!(!holds(&body, secret), "{} tells {what}", name(route));
            }
        }
        planted
    };
    let logged = log.0.lock().unwrap().clone();
    for (what, secret) in &planted {
        assert!(!holds(&logged, secret), "the log tells {what}");
        for file in ["remint.sqlite", "remint.sqlite-wal"] {
            let bytes = std::fs::read(walk.site.folder.join(file)).unwrap_or_default();
            assert!(!holds(&bytes, secret), "{file} holds {what}");
        }
    }
    let wal = std::fs::read(walk.site.folder.join("remint.sqlite-wal")).unwrap_or_default();
    assert!(holds(&wal, b"secret-release"), "the search finds what is there");
}

#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        self.clone()
    }
}
