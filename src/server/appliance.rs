//! The running appliance: binds every port first, says what it will do, then serves until it is told to stop.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::assemble::{self, Assembly, assemble};
use super::sequences;
use super::site::Site;
use super::{audit_head, collections, interface, listen, metrics, netboot};
use crate::access::authority;
use crate::config::written::DhcpMode;
use crate::config::{self, Used};
use crate::console::fault;
use crate::dhcp;
use crate::link;
use crate::link::client::authority_fingerprint;
use crate::pxe::{self, tftp};
use crate::stdx::hint::Hint;
use crate::stdx::owner::become_owner_of;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("listen for {what} on {address}")]
    Bind { what: &'static str, address: String, source: io::Error },
    #[error("the appliance of this site is running already ({0} answers)")]
    Running(PathBuf),
    #[error("set up TLS: {0}")]
    Tls(String),
    #[error(transparent)]
    Configuration(#[from] config::used::Error),
    #[error(transparent)]
    Assemble(#[from] assemble::Error),
    #[error(transparent)]
    Authority(#[from] authority::Error),
    #[error(transparent)]
    Dhcp(#[from] dhcp::socket::Error),
    #[error(transparent)]
    Tftp(#[from] tftp::socket::Error),
    #[error(transparent)]
    BootFiles(#[from] pxe::local::Error),
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error("become the user to whom the site belongs")]
    Privileges(#[source] io::Error),
    #[error("wait for signals")]
    Signal(#[source] io::Error),
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        match self {
            Error::Bind { source, address, .. } => Some(match source.kind() {
                io::ErrorKind::AddrInUse => format!(
                    "another program holds this port: `ss -lnptu | grep {}` names it; stop it, or give another port under `[network]` in remint.toml",
                    address.rsplit(':').next().unwrap_or(address)
                ),
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE".into()
                }
                io::ErrorKind::InvalidInput => {
                    "the path of the site's folder is too long for a socket (at most some 95 characters): move the site"
                        .into()
                }
                _ => "does the interface have this address?".into(),
            }),
            Error::Running(_) => Some("stop it first, or use its commands as they are".into()),
            Error::Configuration(error) => error.hint(),
            Error::Assemble(error) => error.hint(),
            Error::Dhcp(error) => error.hint(),
            Error::Tftp(error) => error.hint(),
            _ => None,
        }
    }
}

/// Runs until SIGTERM or SIGINT. `say` gets lines for the person who started it.
pub async fn run(site: Site, say: impl Fn(&str)) -> Result<(), Error> {
    let used = config::resolve(site.written.clone(), &interface::interfaces())?;
    let assembly = assemble(&site)?;
    let (stop, stopped) = watch::channel(false);
    let tasks = start(&site, &used, assembly, &stopped).await?;
    let user = become_owner_of(&site.folder).map_err(Error::Privileges)?;
    introduce(&site, &used, &say)?;
    if let Some(user) = user {
        say(&format!("  runs as    user {user}, to whom the site belongs: root was only needed for the ports"));
    }
    let reason = wait_for_signal().await?;
    tracing::info!("{reason}: stopping");
    let _ = stop.send(true);
    let finished = tokio::time::timeout(std::time::Duration::from_secs(10), tasks.join_all()).await;
    if finished.is_err() {
        tracing::warn!("some connections did not end in time and were cut");
    }
    Ok(())
}

async fn start(
    site: &Site,
    used: &Used,
    assembly: Assembly,
    stopped: &watch::Receiver<bool>,
) -> Result<JoinSet<()>, Error> {
    let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let boot_sockets = netboot::bind(used, &site.db)?;
    let control = listen::bind_control(&site.control_socket())?;
    let https = listen::bind_tcp(any(used.https_port), "HTTPS")?;
    let http = listen::bind_tcp(any(used.http_port), "HTTP")?;
    let own = used.served.iter().map(|interface| IpAddr::V4(interface.address));
    let addresses: Vec<IpAddr> = own.chain([IpAddr::V4(Ipv4Addr::LOCALHOST)]).collect();
    let names: Vec<String> = used.names.iter().cloned().chain(["localhost".to_owned()]).collect();
    let (key, certificate) = site.authority.issue_server(&addresses, &names, site.clock.now())?;
    let acceptor = listen::tls(site.authority.certificate_pem(), &key, &certificate)?;
    let sequences = assembly.sequences.clone();
    let authority_sha256 = authority_fingerprint(site.authority.certificate_pem())?;
    let boot =
        netboot::open(site, used, assembly.fleet.directory.clone(), assembly.recorder.clone(), authority_sha256)?;
    let (secure, plain) = assembly.table.merge(pxe::api::routes(boot.clone())).routers(&assembly.gate);
    let secure = secure.layer(axum::middleware::from_fn(fault::pages));
    let mut tasks = JoinSet::new();
    netboot::serve(boot_sockets, site, used, &boot, stopped, &mut tasks);
    tasks.spawn(listen::serve_https(https, acceptor, secure.clone(), stopped.clone()));
    tasks.spawn(listen::serve_http(http, plain, stopped.clone()));
    tasks.spawn(listen::serve_control(control, site.control_socket(), secure, stopped.clone()));
    tasks.spawn(collections::keep_current(assembly.fleet.clone(), stopped.clone()));
    tasks.spawn(audit_head::keep(audit_head::HeadFile::of(site), stopped.clone()));
    tasks.spawn(metrics::keep_small(stopped.clone()));
    tasks.spawn(sequences::keep_moving(sequences, stopped.clone()));
    Ok(tasks)
}

/// What it listens on and what it will answer, in plain words.
fn introduce(site: &Site, used: &Used, say: &impl Fn(&str)) -> Result<(), Error> {
    let fingerprint = authority_fingerprint(site.authority.certificate_pem())?;
    say(&format!("Remint serves {} ({}), site {}", used.interface.name, used.address, site.folder.display()));
    for other in used.served.iter().skip(1) {
        say(&format!("  and {} ({})", other.name, other.address));
    }
    say(&format!("  console    {}", used.https_url()));
    say(&format!("  authority  SHA-256 {fingerprint}"));
    say(&format!("  HTTP       port {}: boot files and scripts only", used.http_port));
    say(&format!("  TFTP       port {}: boot programs", used.tftp_port));
    say(&match used.dhcp.mode {
        DhcpMode::Proxy => "  DHCP       beside the network's own server: tells machines that boot from the network where from, gives no addresses".to_owned(),
        DhcpMode::Server => {
            let ranges: Vec<String> =
                used.dhcp.scopes.iter().map(|scope| format!("{} to {}", scope.range.0, scope.range.1)).collect();
            format!("  DHCP       the network's server: gives addresses {}, and where to boot from", ranges.join(", "))
        }
        DhcpMode::Off => "  DHCP       off: another server must point machines here".to_owned(),
    });
    if !site.boot_folder().join("current").exists() {
        say("  no boot environment yet: machines are told to wait until `remint boot build` has made one");
    }
    Ok(())
}

async fn wait_for_signal() -> Result<&'static str, Error> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Signal)?;
    Ok(tokio::select! {
        _ = terminate.recv() => "told to end",
        _ = interrupt.recv() => "interrupted",
    })
}
