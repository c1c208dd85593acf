//! Every route, walked from the table that serves them.

use axum::body::Body;
use axum::http::Request;
use remint::access::{Capability, Role};
use remint::api::{Access, RouteInfo};
use remint::server::assemble::assemble;
use remint::server::site::Site;
use tower::ServiceExt;

/// Those that anybody may call over TLS; whoever adds one writes it here, and why into the route's row.
const PUBLIC: [&str; 8] = [
    "GET /assets/{name}",
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
    runtime: tokio::runtime::Runtime,
}

impl Walk {
    fn new() -> Walk {
        let folder = tempfile::tempdir().unwrap();
        let site = Site::create(&folder.path().join("site"), "test").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Walk { _folder: folder, site, runtime }
    }

    fn rows(&self) -> Vec<RouteInfo> {
        assemble(&self.site).unwrap().table.rows().cloned().collect()
    }

    /// The status of a call with these credentials.
    fn status(&self, route: &RouteInfo, token: Option<&str>) -> u16 {
        let assembly = assemble(&self.site).unwrap();
        let (router, _) = assembly.table.routers(&assembly.gate);
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
        let request = request.body(Body::from("{}")).unwrap();
        self.runtime.block_on(async { router.oneshot(request).await.unwrap().status().as_u16() })
    }

    fn token(&self, role: Role) -> String {
        let by = remint::access::Principal::local();
        let secret =
            remint::access::db::create_token(&self.site.db, &by, role.name(), role, None, self.site.clock.now());
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

#[test]
fn only_administrators_administer() {
    for role in Role::ALL {
        assert_eq!(role.has(Capability::Administer), role == Role::Administrator, "{}", role.name());
    }
}
