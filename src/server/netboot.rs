//! DHCP, TFTP and the boot routes of the appliance, from its configuration.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::task::JoinSet;

use super::appliance::Error;
use super::interface;
use super::listen::Stop;
use super::neighbours;
use super::site::Site;
use crate::config::Used;
use crate::config::written::DhcpMode;
use crate::db::Db;
use crate::dhcp;
use crate::fleet::directory::Directory;
use crate::pxe::boot::Config;
use crate::pxe::local::BootFiles;
use crate::pxe::names::{Netboot, tftp_lookup};
use crate::pxe::recorder::Recorder;
use crate::pxe::{answer, tftp};

/// The ports of network boot, taken but not served yet.
pub(super) struct Sockets {
    dhcp: Vec<dhcp::socket::Sockets>,
    /// With the address that each listens on.
    tftp: Vec<(Ipv4Addr, tftp::socket::Listener)>,
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
    config.unknown = used.boot.unknown;
    config.menus.clone_from(&used.menus);
    config.program = used.boot.program;
    for own in &used.boot.machine {
        config.program_of.extend(own.mac.map(|mac| (mac, own.program)));
        config.program_of_model.extend(own.model.as_ref().map(|model| (model.to_lowercase(), own.program)));
    }
    if !used.boot.kernel_arguments.is_empty() {
        config.kernel_arguments = format!("{} {}", config.kernel_arguments, used.boot.kernel_arguments);
    }
    let files = BootFiles::open_with(&site.boot_folder().join("current"), &site.boot_folder().join("added"))?;
    Ok(Netboot { directory, config: Arc::new(config), files: Arc::new(files), recorder, address: used.address })
}

/// Takes the ports of every interface. `db` remembers who has which address.
pub(super) fn bind(used: &Used, db: &Arc<Db>) -> Result<Sockets, Error> {
    let mode = match used.dhcp.mode {
        DhcpMode::Off => None,
        DhcpMode::Proxy => Some(dhcp::socket::Mode::Proxy),
        DhcpMode::Server => Some(dhcp::socket::Mode::Server(dhcp::socket::share(used.dhcp.scopes.clone(), db)?)),
    };
    let mut sockets = Sockets { dhcp: Vec::new(), tftp: Vec::new() };
    for interface in &used.served {
        if let Some(mode) = &mode {
            sockets.dhcp.push(dhcp::socket::bind(dhcp::socket::Settings {
                interface: interface.name.clone(),
                address: interface.address,
                prefix: interface.netmask.to_bits().leading_ones() as u8,
                mode: mode.clone(),
                ports: dhcp::socket::Ports::default(),
            })?);
        }
        let mut settings = tftp::socket::Settings::at(interface.address);
        settings.port = used.tftp_port;
        settings.transfers_max = settings.transfers_max.min(open_files_max() / 2);
        settings.block_bytes_max = block_bytes_max(interface::mtu(&interface.name));
        if used.tftp_single_port {
            settings.transfer_ports = tftp::socket::TransferPorts::Single;
        }
        sockets.tftp.push((interface.address, tftp::socket::bind(settings)?));
    }
    Ok(sockets)
}

/// How many files and sockets this process may have open: each transfer takes one.
fn open_files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(1024)
}

/// The largest TFTP block that fits a frame: less the headers of IP, UDP and TFTP. Larger frames than Ethernet's are not
/// trusted to reach firmware.
fn block_bytes_max(mtu: Option<u16>) -> u16 {
    const ETHERNET: u16 = 1500;
    const HEADERS: u16 = 20 + 8 + 4;
    const BLOCK_MIN: u16 = 512; // RFC 1350: what every client must take
    (mtu.unwrap_or(ETHERNET).min(ETHERNET) - HEADERS.min(mtu.unwrap_or(ETHERNET))).max(BLOCK_MIN)
}

/// Serves until the appliance stops. A socket that fails for good ends alone; the rest goes on.
pub(super) fn serve(
    sockets: Sockets,
    site: &Site,
    used: &Used,
    netboot: &Netboot,
    stop: &Stop,
    tasks: &mut JoinSet<()>,
) {
    let until = |stop: &Stop| {
        let mut stop = stop.clone();
        async move {
            let _ = stop.changed().await;
        }
    };
    for dhcp in sockets.dhcp {
        let answer = answer::answer(netboot.clone());
        let (db, clock, until) = (site.db.clone(), site.clock.clone(), until(stop));
        tasks.spawn(async move { report("DHCP", dhcp.serve(db, clock, answer, until).await) });
    }
    for (address, tftp) in sockets.tftp {
        let lookup = tftp_lookup(Netboot { address, ..netboot.clone() });
        let (clock, until) = (site.clock.clone(), until(stop));
        tasks.spawn(async move { report("TFTP", tftp.serve(lookup, clock, until).await) });
    }
    tasks.spawn(neighbours::watch(used.clone(), std::process::id(), stop.clone()));
}

fn report<E: std::error::Error + 'static>(service: &str, ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::error!("{service} has ended: {}", crate::stdx::hint::chain(&error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_the_frames_of_the_interface() {
        for (mtu, block) in [(None, 1468), (Some(1500), 1468), (Some(9000), 1468), (Some(576), 544), (Some(68), 512)] {
            assert_eq!(block_bytes_max(mtu), block, "{mtu:?}");
        }
    }
}
