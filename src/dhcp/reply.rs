//! A reply and where it goes.

use std::net::Ipv4Addr;

use crate::dhcp::packet::{MessageType, Operation, Packet, code};
use crate::dhcp::request::Request;
use crate::dhcp::server::Notice;
use crate::stdx::mac::MacAddr;

/// The network card that a packet came in on, as the answer needs it.
#[derive(Clone, Debug)]
pub struct Interface {
    pub name: String,
    /// The server's own address there: server identifier and default next server.
    pub address: Ipv4Addr,
    pub prefix: u8,
}

/// Who asks for the boot part of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Full server: addresses and boot part in one reply.
    Server,
    /// Beside somebody else's server, on port 67: the boot part alone.
    Proxy,
    /// The boot server of PXE on port 4011, asked by a client that has its address.
    BootServer,
}

/// The boot part: what `dhcp` copies into a reply and does not understand.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BootPart {
    /// `siaddr`; the interface's address when absent.
    pub next_server: Option<Ipv4Addr>,
    /// `file`, at most 127 bytes; longer names travel in option 67.
    pub file: String,
    /// Options in the order of their worth.
    pub options: Vec<(u8, Vec<u8>)>,
}

/// What `dhcp` asks of whoever knows about booting.
pub trait Booting: Send + Sync {
    /// The boot part for this client, or none when it did not ask to boot.
    fn boot(&self, interface: &Interface, role: Role, request: &Request) -> Option<BootPart>;

    /// A client took the offer of a server, ours or another: whose address it has from now on.
    fn took(&self, _mac: MacAddr, _server: Ipv4Addr, _address: Ipv4Addr) {}

    /// Something about this request that whoever runs the network should know.
    fn noticed(&self, _request: &Request, _notice: &Notice) {}
}

impl<F: Fn(&Interface, Role, &Request) -> Option<BootPart> + Send + Sync> Booting for F {
    fn boot(&self, interface: &Interface, role: Role, request: &Request) -> Option<BootPart> {
        self(interface, role, request)
    }
}

pub type BootAnswer = dyn Booting;

/// RFC 2131 section 4.1 says which of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// The relay agent, at the server port.
    Relay(Ipv4Addr),
    /// A client that has its address, at the client port or at the port it asked from.
    Client(Ipv4Addr),
    /// A client that has no address yet but can take a frame for it.
    Frame {
        mac: MacAddr,
        address: Ipv4Addr,
    },
    Broadcast,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    pub packet: Packet,
    pub to: Destination,
    pub bytes_max: usize,
}

/// An empty reply of `kind` to `request`: the fields of RFC 2131 table 3 that every reply copies.
pub fn to(request: &Request, kind: MessageType, server: Ipv4Addr) -> Packet {
    let asked = &request.packet;
    let mut packet = Packet::request(asked.xid, request.mac.0);
    packet.op = Operation::Reply;
    packet.flags = asked.flags;
    packet.giaddr = asked.giaddr;
    packet.chaddr = asked.chaddr;
    packet.options.set(code::MESSAGE_TYPE, [kind as u8]);
    packet.options.set_address(code::SERVER_IDENTIFIER, server);
    packet
}

/// Copies the boot part into a reply.
pub fn add_boot(packet: &mut Packet, boot: &BootPart, interface: &Interface) {
    packet.siaddr = boot.next_server.unwrap_or(interface.address);
    if boot.file.len() < 128 {
        packet.file = boot.file.as_bytes().to_vec();
    } else {
        packet.options.set(code::BOOT_FILE_NAME, boot.file.as_bytes());
    }
    for (code, value) in &boot.options {
        packet.options.set(*code, value.clone());
    }
}

/// Adds what every reply ends with, and finds its destination.
pub fn finish(mut packet: Packet, request: &Request) -> Reply {
    if let Some(identifier) = request.options().value(code::CLIENT_IDENTIFIER) {
        packet.options.set(code::CLIENT_IDENTIFIER, identifier); // RFC 6842
    }
    if let Some(relay_agent) = request.options().value(code::RELAY_AGENT) {
        packet.options.set(code::RELAY_AGENT, relay_agent); // RFC 3046 section 2.2: verbatim, last
    }
    let is_nak = packet.message_type() == Some(MessageType::Nak);
    let to = match (request.relay, request.client_address) {
        (Some(relay), _) => Destination::Relay(relay),
        (None, _) if is_nak => Destination::Broadcast,
        (None, Some(client)) => Destination::Client(client),
        (None, None) if packet.wants_broadcast() || packet.yiaddr.is_unspecified() => Destination::Broadcast,
        (None, None) => Destination::Frame { mac: request.mac, address: packet.yiaddr },
    };
    if is_nak && request.relay.is_some() {
        packet.set_broadcast(); // RFC 2131 section 4.3.2: the relay shall broadcast it
    }
    Reply { packet, to, bytes_max: request.reply_bytes_max }
}
