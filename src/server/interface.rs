//! The interfaces of this host.

use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::config::Interface;

/// All interfaces that have an IPv4 address, one entry an address.
pub(super) fn interfaces() -> Vec<Interface> {
    let Ok(all) = getifaddrs() else { return Vec::new() };
    let with_address = all.filter_map(|entry| {
        let address: Ipv4Addr = entry.address?.as_sockaddr_in()?.ip();
        let netmask = entry.netmask.and_then(|mask| mask.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip));
        Some(Interface {
            name: entry.interface_name,
            address,
            netmask: netmask.unwrap_or(Ipv4Addr::BROADCAST),
            up: entry.flags.contains(InterfaceFlags::IFF_UP),
            loopback: entry.flags.contains(InterfaceFlags::IFF_LOOPBACK),
        })
    });
    with_address.collect()
}

/// Bytes of the longest packet that the interface sends.
pub(super) fn mtu(name: &str) -> Option<u16> {
    std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok()?.trim().parse().ok()
}
