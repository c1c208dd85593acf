//! The proxy: tells clients that boot what to boot, and leaves their addresses to the network's own server.
//!
//! PXE 2.1 section 2.2 (ProxyDHCP on port 67, boot server on port 4011), RFC 4578 for the options. A client that does
//! not ask to boot never hears from it.

use crate::dhcp::packet::MessageType;
use crate::dhcp::reply::{self, BootAnswer, Interface, Reply, Role};
use crate::dhcp::request::{Request, Wish};

/// Port 67: a DISCOVER of a booting client gets an OFFER without an address. Everything else there concerns addresses.
pub fn handle(interface: &Interface, request: &Request, boot: &BootAnswer) -> Option<Reply> {
    if request.wish != Wish::Discover {
        return None;
    }
    let part = boot.boot(interface, Role::Proxy, request)?;
    let mut packet = reply::to(request, MessageType::Offer, interface.address);
    reply::add_boot(&mut packet, &part, interface);
    Some(reply::finish(packet, request))
}

/// Port 4011: a REQUEST or INFORM of a client that has its address gets an ACK.
pub fn handle_boot_server(interface: &Interface, request: &Request, boot: &BootAnswer) -> Option<Reply> {
    if matches!(request.wish, Wish::Discover | Wish::Decline { .. } | Wish::Release { .. }) {
        return None;
    }
    let part = boot.boot(interface, Role::BootServer, request)?;
    let mut packet = reply::to(request, MessageType::Ack, interface.address);
    packet.ciaddr = request.packet.ciaddr;
    reply::add_boot(&mut packet, &part, interface);
    Some(reply::finish(packet, request))
}
