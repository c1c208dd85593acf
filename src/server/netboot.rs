//! DHCP, TFTP and the boot routes of the appliance, from its configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::appliance::Error;
use super::listen::Stop;
use super::site::Site;
use crate::config::Used;
use crate::config::written::{DhcpMode, UnknownMachine};
use crate::dhcp;
use crate::dhcp::scope::Scope;
use crate::fleet::directory::Directory;
use crate::pxe::boot::{Config, Unknown};
use crate::pxe::local::BootFiles;
use crate::pxe::names::{Netboot, tftp_lookup};
use crate::pxe::recorder::Recorder;
use crate::pxe::{answer, tftp};

/// The ports of network boot, taken but not served yet.
pub(super) struct Sockets {
    dhcp: Option<dhcp::socket::Sockets>,
    tftp: tftp::socket::Listener,
}

/// What the boot routes and the sockets share.
pub(super) fn open(
    site: &Site,
    used: &Used,
    directory: Arc<Directory>,
    recorder: Arc<Recorder>,
    authority_sha256: String,
) -> Result<Netboot, Error> {
    let mut config =
        Config { http_port: used.http_port, https_port: used.https_port, authority_sha256, ..Config::default() };
    config.unknown = match used.boot.unknown {
        UnknownMachine::BootEnvironment => Unknown::BootEnvironment,
        UnknownMachine::LocalDisk => Unknown::LocalDisk,
    };
    if !used.boot.kernel_arguments.is_empty() {
        config.kernel_arguments = format!("{} {}", config.kernel_arguments, used.boot.kernel_arguments);
    }
    let files = BootFiles::open(&site.boot_folder().join("current"))?;
    Ok(Netboot { directory, config: Arc::new(config), files: Arc::new(files), recorder, address: used.address })
}

pub(super) fn bind(used: &Used) -> Result<Sockets, Error> {
    let mode = match used.dhcp.mode {
        DhcpMode::Off => None,
        DhcpMode::Proxy => Some(dhcp::socket::Mode::Proxy),
        DhcpMode::Server => Some(dhcp::socket::Mode::Server(vec![scope(used)])),
    };
    let dhcp = mode.map(|mode| {
        dhcp::socket::bind(dhcp::socket::Settings {
            interface: used.interface.name.clone(),
            address: used.address,
            prefix: prefix(used),
            mode,
            ports: dhcp::socket::Ports::default(),
        })
    });
    let mut settings = tftp::socket::Settings::at(used.address);
    settings.port = used.tftp_port;
    if used.tftp_single_port {
        settings.transfer_ports = tftp::socket::TransferPorts::Single;
    }
    Ok(Sockets { dhcp: dhcp.transpose()?, tftp: tftp::socket::bind(settings)? })
}

/// Serves until the appliance stops. A socket that fails for good ends alone; the rest goes on.
pub(super) fn serve(sockets: Sockets, site: &Site, netboot: &Netboot, stop: &Stop, tasks: &mut JoinSet<()>) {
    let until = |stop: &Stop| {
        let mut stop = stop.clone();
        async move {
            let _ = stop.changed().await;
        }
    };
    if let Some(dhcp) = sockets.dhcp {
        let answer = answer::answer(netboot.clone());
        let (db, clock, until) = (site.db.clone(), site.clock.clone(), until(stop));
        tasks.spawn(async move { report("DHCP", dhcp.serve(db, clock, answer, until).await) });
    }
    let (lookup, clock, until) = (tftp_lookup(netboot.clone()), site.clock.clone(), until(stop));
    tasks.spawn(async move { report("TFTP", sockets.tftp.serve(lookup, clock, until).await) });
}

fn report<E: std::error::Error + 'static>(service: &str, ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::error!("{service} has ended: {}", crate::stdx::hint::chain(&error));
    }
}

fn scope(used: &Used) -> Scope {
    let mut scope = Scope::around(used.address, prefix(used));
    scope.range = used.dhcp.range;
    scope.lease_seconds = used.dhcp.lease_seconds;
    scope.gateway = used.dhcp.gateway;
    scope.dns.clone_from(&used.dhcp.dns);
    scope.domain.clone_from(&used.dhcp.domain);
    scope.reservations = used.dhcp.reservations.iter().map(|r| (r.mac, r.address)).collect::<BTreeMap<_, _>>();
    scope
}

fn prefix(used: &Used) -> u8 {
    used.interface.netmask.to_bits().leading_ones() as u8
}
