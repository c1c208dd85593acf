//! What a client asks, as a type in which nothing required is optional.

use std::net::Ipv4Addr;

use crate::dhcp::packet::{MessageType, Operation, Options, Packet, REPLY_BYTES_MAX, code};
use crate::stdx::mac::MacAddr;

/// What the client wants (RFC 2131 section 4.3). The four meanings of DHCPREQUEST (section 4.3.2, table 4) are told
/// apart here, once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    Discover,
    /// SELECTING: it took the offer of `server`.
    Select {
        server: Ipv4Addr,
        address: Ipv4Addr,
    },
    /// INIT-REBOOT: it remembers an address and asks whether it still may.
    Reboot {
        address: Ipv4Addr,
    },
    /// RENEWING or REBINDING: it uses `address` now.
    Extend {
        address: Ipv4Addr,
    },
    Decline {
        server: Option<Ipv4Addr>,
        address: Ipv4Addr,
    },
    Release {
        address: Ipv4Addr,
    },
    /// It has an address from elsewhere and wants the rest.
    Inform {
        address: Ipv4Addr,
    },
    /// DHCPREQUEST without any address: what firmware sends to a boot server on port 4011 (PXE 2.1 section 2.2.5).
    BootServer,
}

/// Who is asking, across transactions: the client identifier (option 61), else hardware type and address, which is
/// what option 61 holds in most clients that send it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identity(pub Vec<u8>);

/// A request of a client on Ethernet (hardware addresses of 6 bytes).
#[derive(Clone, Debug)]
pub struct Request {
    pub wish: Wish,
    pub mac: MacAddr,
    pub identity: Identity,
    /// The address the client has and answers ARP for.
    pub client_address: Option<Ipv4Addr>,
    pub relay: Option<Ipv4Addr>,
    /// What the client can receive, in bytes of DHCP (option 57, at least 548).
    pub reply_bytes_max: usize,
    pub packet: Packet,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("it is a reply, not a request")]
    Reply,
    #[error("it has no message type (option 53): plain BOOTP is not answered")]
    MessageType,
    #[error("message type {0:?} is one that only servers send")]
    FromServer(MessageType),
    #[error("hardware type {hardware_type} with addresses of {len} bytes is not Ethernet")]
    Hardware { hardware_type: u8, len: u8 },
    #[error("the hardware address {0} is that of a group")]
    Multicast(MacAddr),
    #[error("{0:?} lacks the address that it is about")]
    Address(MessageType),
}

impl TryFrom<Packet> for Request {
    type Error = RequestError;

    fn try_from(packet: Packet) -> Result<Request, RequestError> {
        if packet.op == Operation::Reply {
            return Err(RequestError::Reply);
        }
        let mac = mac(&packet)?;
        let wish = wish(&packet)?;
        Ok(Request {
            wish,
            mac,
            identity: identity(&packet.options, mac),
            client_address: specified(packet.ciaddr),
            relay: specified(packet.giaddr),
            reply_bytes_max: reply_bytes_max(&packet.options),
            packet,
        })
    }
}

impl Request {
    pub fn options(&self) -> &Options {
        &self.packet.options
    }

    /// Whether the client asked for an option, or gave no list of what it wants.
    pub fn asks_for(&self, code: u8) -> bool {
        self.options().value(code::PARAMETER_LIST).is_none_or(|list| list.contains(&code))
    }

    /// The subnet the client is on, when it is not that of the interface: link selection (RFC 3527, sub-option 5 of
    /// option 82), else the relay's address.
    pub fn remote_link(&self) -> Option<Ipv4Addr> {
        let relay = self.relay?;
        let sub_options = self.options().value(code::RELAY_AGENT).unwrap_or_default();
        Some(sub_option(sub_options, 5).and_then(|v| <[u8; 4]>::try_from(v).ok()).map_or(relay, Ipv4Addr::from))
    }

    pub fn host_name(&self) -> Option<String> {
        self.options().text(code::HOST_NAME).filter(|name| !name.is_empty())
    }
}

fn mac(packet: &Packet) -> Result<MacAddr, RequestError> {
    if packet.hardware_type != 1 || packet.hardware_len != 6 {
        let (hardware_type, len) = (packet.hardware_type, packet.hardware_len);
        return Err(RequestError::Hardware { hardware_type, len });
    }
    let [a, b, c, d, e, f, ..] = packet.chaddr;
    let mac = MacAddr([a, b, c, d, e, f]);
    if mac.is_multicast() { Err(RequestError::Multicast(mac)) } else { Ok(mac) }
}

fn wish(packet: &Packet) -> Result<Wish, RequestError> {
    let kind = packet.message_type().ok_or(RequestError::MessageType)?;
    let requested = packet.options.address(code::REQUESTED_ADDRESS);
    let server = packet.options.address(code::SERVER_IDENTIFIER);
    let missing = RequestError::Address(kind);
    Ok(match kind {
        MessageType::Discover => Wish::Discover,
        MessageType::Request => match (server, requested, specified(packet.ciaddr)) {
            (Some(server), Some(address), _) => Wish::Select { server, address },
            (_, None, Some(address)) => Wish::Extend { address },
            (None, Some(address), _) => Wish::Reboot { address },
            (_, None, None) => Wish::BootServer,
        },
        MessageType::Decline => Wish::Decline { server, address: requested.ok_or(missing)? },
        MessageType::Release => Wish::Release { address: specified(packet.ciaddr).ok_or(missing)? },
        MessageType::Inform => Wish::Inform { address: specified(packet.ciaddr).ok_or(missing)? },
        kind => return Err(RequestError::FromServer(kind)),
    })
}

/// Option 61 has at least a type and one byte (RFC 2132 section 9.14); shorter ones are those of broken clients, which
/// all send the same.
fn identity(options: &Options, mac: MacAddr) -> Identity {
    match options.value(code::CLIENT_IDENTIFIER) {
        Some(value) if value.len() >= 2 => Identity(value.to_vec()),
        _ => Identity([&[1][..], &mac.0].concat()),
    }
}

fn reply_bytes_max(options: &Options) -> usize {
    const IP_AND_UDP: usize = 28;
    const ETHERNET: usize = 1500;
    let asked = options.value(code::MESSAGE_BYTES_MAX).and_then(|value| <[u8; 2]>::try_from(value).ok());
    let asked = asked.map_or(0, |value| usize::from(u16::from_be_bytes(value)));
    asked.min(ETHERNET).saturating_sub(IP_AND_UDP).max(REPLY_BYTES_MAX)
}

fn specified(address: Ipv4Addr) -> Option<Ipv4Addr> {
    (!address.is_unspecified()).then_some(address)
}

fn sub_option(mut field: &[u8], code: u8) -> Option<&[u8]> {
    while let [known, length, rest @ ..] = field {
        let value = rest.get(..usize::from(*length))?;
        if *known == code {
            return Some(value);
        }
        field = &rest[value.len()..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

    fn packet(kind: MessageType) -> Packet {
        let mut packet = Packet::request(1, [2, 0, 0, 0, 0, 9]);
        packet.options.set(code::MESSAGE_TYPE, [kind as u8]);
        packet
    }

    #[test]
    fn the_meanings_of_a_dhcprequest_are_told_apart() {
        let check = |server: Option<Ipv4Addr>, requested: Option<Ipv4Addr>, ciaddr: Ipv4Addr, expect: Wish| {
            let mut packet = packet(MessageType::Request);
            packet.ciaddr = ciaddr;
            if let Some(server) = server {
                packet.options.set_address(code::SERVER_IDENTIFIER, server);
            }
            if let Some(requested) = requested {
                packet.options.set_address(code::REQUESTED_ADDRESS, requested);
            }
            assert_eq!(Request::try_from(packet).unwrap().wish, expect);
        };
        let (server, none) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::UNSPECIFIED);
        check(Some(server), Some(ADDRESS), none, Wish::Select { server, address: ADDRESS });
        check(None, Some(ADDRESS), none, Wish::Reboot { address: ADDRESS });
        check(None, None, ADDRESS, Wish::Extend { address: ADDRESS });
        check(Some(server), None, ADDRESS, Wish::Extend { address: ADDRESS });
        check(None, None, none, Wish::BootServer);
    }

    #[test]
    fn a_client_without_a_usable_identifier_is_known_by_its_hardware_address() {
        let mut with = packet(MessageType::Discover);
        with.options.set(code::CLIENT_IDENTIFIER, [1, 2, 0, 0, 0, 0, 9]);
        let mut broken = packet(MessageType::Discover);
        broken.options.set(code::CLIENT_IDENTIFIER, [0]);
        let without = Request::try_from(packet(MessageType::Discover)).unwrap();
        assert_eq!(Request::try_from(with).unwrap().identity, without.identity);
        assert_eq!(Request::try_from(broken).unwrap().identity, without.identity);
    }

    #[test]
    fn requests_that_lack_what_they_need_are_refused() {
        let check = |change: fn(&mut Packet), kind, expect| {
            let mut packet = packet(kind);
            change(&mut packet);
            assert_eq!(Request::try_from(packet).unwrap_err(), expect);
        };
        check(|_| (), MessageType::Release, RequestError::Address(MessageType::Release));
        check(|_| (), MessageType::Decline, RequestError::Address(MessageType::Decline));
        check(|_| (), MessageType::Offer, RequestError::FromServer(MessageType::Offer));
        check(|p| p.op = Operation::Reply, MessageType::Discover, RequestError::Reply);
        check(|p| p.options.remove(code::MESSAGE_TYPE), MessageType::Discover, RequestError::MessageType);
        let infiniband = RequestError::Hardware { hardware_type: 32, len: 6 };
        check(|p| p.hardware_type = 32, MessageType::Discover, infiniband);
        let group = RequestError::Multicast(MacAddr([3, 0, 0, 0, 0, 9]));
        check(|p| p.chaddr[0] = 3, MessageType::Discover, group);
    }

    #[test]
    fn the_link_of_a_relayed_client_is_the_relays_unless_it_names_another() {
        let mut relayed = packet(MessageType::Discover);
        relayed.giaddr = Ipv4Addr::new(10, 5, 0, 1);
        assert_eq!(Request::try_from(relayed.clone()).unwrap().remote_link(), Some(Ipv4Addr::new(10, 5, 0, 1)));
        relayed.options.set(code::RELAY_AGENT, [1, 2, 7, 7, 5, 4, 10, 6, 0, 1]);
        assert_eq!(Request::try_from(relayed).unwrap().remote_link(), Some(Ipv4Addr::new(10, 6, 0, 1)));
    }
}
