//! The client's side of DHCP (RFC 2131 section 4.4) as a pure machine: packets in, packets and an address out.
//!
//! | state | sends | on OFFER | on ACK | on NAK |
//! |---|---|---|---|---|
//! | selecting | DISCOVER | take it, become requesting | - | - |
//! | requesting | REQUEST with the offer | - | bound | selecting |
//! | renewing | REQUEST with its own address | - | bound | selecting |

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::dhcp::packet::{MessageType, Operation, Packet, REPLY_BYTES_MAX, code};
use crate::stdx::mac::MacAddr;

/// What a lease is taken to last when the server does not say (it must, RFC 2131 table 3).
const LEASE_SECONDS_DEFAULT: u32 = 3600;
/// A server cannot make us ask more often than this.
const LEASE_SECONDS_MIN: u32 = 60;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    pub address: Ipv4Addr,
    pub netmask: Ipv4Addr,
    pub gateway: Option<Ipv4Addr>,
    pub server: Ipv4Addr,
    pub duration: Duration,
}

/// One attempt to get or keep an address for one card.
pub struct Client {
    mac: MacAddr,
    xid: u32,
    state: State,
}

enum State {
    Selecting,
    Requesting { address: Ipv4Addr, server: Ipv4Addr },
    Renewing { address: Ipv4Addr },
}

#[derive(PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Not for this client, or not now.
    Ignored,
    /// Send what `message` gives now.
    Send,
    Bound(Lease),
    /// The server takes its offer back.
    Refused(String),
}

impl Client {
    /// A client without an address. `xid` is a random number.
    pub fn selecting(mac: MacAddr, xid: u32) -> Client {
        Client { mac, xid, state: State::Selecting }
    }

    /// A client that has an address and wants to keep it.
    pub fn renewing(mac: MacAddr, xid: u32, lease: &Lease) -> Client {
        Client { mac, xid, state: State::Renewing { address: lease.address } }
    }

    /// What to send in this state, `seconds` after the first attempt. All but a renewal ask for the answer by broadcast:
    /// without an address the kernel would drop a unicast one.
    pub fn message(&self, seconds: u64) -> Vec<u8> {
        let mut packet = Packet::request(self.xid, self.mac.0);
        packet.secs = u16::try_from(seconds).unwrap_or(u16::MAX);
        let kind = match self.state {
            State::Selecting => MessageType::Discover,
            _ => MessageType::Request,
        };
        packet.options.set(code::MESSAGE_TYPE, [kind as u8]);
        match self.state {
            State::Selecting => packet.set_broadcast(),
            State::Requesting { address, server } => {
                packet.set_broadcast();
                packet.options.set_address(code::REQUESTED_ADDRESS, address);
                packet.options.set_address(code::SERVER_IDENTIFIER, server);
            }
            State::Renewing { address } => packet.ciaddr = address,
        }
        packet.options.set(code::MESSAGE_BYTES_MAX, 1472u16.to_be_bytes());
        packet.options.set(code::PARAMETER_LIST, [code::SUBNET_MASK, code::ROUTER, code::LEASE_SECONDS]);
        packet.emit(REPLY_BYTES_MAX)
    }

    pub fn handle(&mut self, bytes: &[u8]) -> Outcome {
        let Some(packet) = Packet::parse(bytes).ok().filter(|packet| self.is_for_us(packet)) else {
            return Outcome::Ignored;
        };
        let server = packet.options.address(code::SERVER_IDENTIFIER).unwrap_or(packet.siaddr);
        match (&self.state, packet.message_type()) {
            (State::Selecting, Some(MessageType::Offer)) if usable(packet.yiaddr) => {
                self.state = State::Requesting { address: packet.yiaddr, server };
                Outcome::Send
            }
            (State::Requesting { server: expected, .. }, Some(MessageType::Ack | MessageType::Nak))
                if expected != &server =>
            {
                Outcome::Ignored
            }
            (State::Requesting { .. } | State::Renewing { .. }, Some(MessageType::Ack)) if usable(packet.yiaddr) => {
                Outcome::Bound(lease(&packet, server))
            }
            (State::Requesting { .. } | State::Renewing { .. }, Some(MessageType::Nak)) => {
                self.state = State::Selecting;
                Outcome::Refused(packet.options.text(code::MESSAGE).unwrap_or_default())
            }
            _ => Outcome::Ignored,
        }
    }

    fn is_for_us(&self, packet: &Packet) -> bool {
        packet.op == Operation::Reply && packet.xid == self.xid && packet.chaddr[..6] == self.mac.0
    }
}

/// A proxy offers 0.0.0.0: boot information, no address.
fn usable(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_broadcast() && !address.is_multicast() && !address.is_loopback()
}

fn lease(packet: &Packet, server: Ipv4Addr) -> Lease {
    let seconds = packet.options.seconds(code::LEASE_SECONDS).unwrap_or(LEASE_SECONDS_DEFAULT);
    Lease {
        address: packet.yiaddr,
        netmask: packet.options.address(code::SUBNET_MASK).unwrap_or_else(|| classful_mask(packet.yiaddr)),
        gateway: packet.options.addresses(code::ROUTER).into_iter().find(|address| usable(*address)),
        server,
        duration: Duration::from_secs(u64::from(seconds.max(LEASE_SECONDS_MIN))),
    }
}

/// What a network without option 1 must mean (RFC 950).
fn classful_mask(address: Ipv4Addr) -> Ipv4Addr {
    match address.octets()[0] {
        0..=127 => Ipv4Addr::new(255, 0, 0, 0),
        128..=191 => Ipv4Addr::new(255, 255, 0, 0),
        _ => Ipv4Addr::new(255, 255, 255, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0xaa, 0, 1]);
    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

    fn reply(kind: MessageType, server: Ipv4Addr, address: Ipv4Addr) -> Packet {
        let mut packet = Packet::request(7, MAC.0);
        packet.op = Operation::Reply;
        packet.yiaddr = address;
        packet.options.set(code::MESSAGE_TYPE, [kind as u8]);
        packet.options.set_address(code::SERVER_IDENTIFIER, server);
        packet.options.set_address(code::SUBNET_MASK, Ipv4Addr::new(255, 255, 255, 0));
        packet.options.set_addresses(code::ROUTER, &[SERVER]);
        packet.options.set_seconds(code::LEASE_SECONDS, 600);
        packet
    }

    fn handle(client: &mut Client, packet: &Packet) -> Outcome {
        client.handle(&packet.emit(REPLY_BYTES_MAX))
    }

    #[test]
    fn an_address_is_asked_for_taken_and_kept() {
        let address = Ipv4Addr::new(10, 77, 0, 100);
        let mut client = Client::selecting(MAC, 7);
        assert_eq!(Packet::parse(&client.message(0)).unwrap().message_type(), Some(MessageType::Discover));
        assert_eq!(handle(&mut client, &reply(MessageType::Offer, SERVER, address)), Outcome::Send);
        let request = Packet::parse(&client.message(1)).unwrap();
        assert_eq!(request.options.address(code::REQUESTED_ADDRESS), Some(address));
        let expected = Lease {
            address,
            netmask: Ipv4Addr::new(255, 255, 255, 0),
            gateway: Some(SERVER),
            server: SERVER,
            duration: Duration::from_secs(600),
        };
        let outcome = handle(&mut client, &reply(MessageType::Ack, SERVER, address));
        assert_eq!(outcome, Outcome::Bound(expected.clone()));
        let mut client = Client::renewing(MAC, 7, &expected);
        assert_eq!(Packet::parse(&client.message(0)).unwrap().ciaddr, address);
        assert_eq!(handle(&mut client, &reply(MessageType::Ack, SERVER, address)), Outcome::Bound(expected));
    }

    #[test]
    fn what_is_not_an_offer_to_this_client_is_ignored() {
        let address = Ipv4Addr::new(10, 77, 0, 100);
        let mut client = Client::selecting(MAC, 7);
        let good = reply(MessageType::Offer, SERVER, address);
        let proxy = reply(MessageType::Offer, SERVER, Ipv4Addr::UNSPECIFIED);
        let other_client = Packet { chaddr: [9; 16], ..good.clone() };
        let other_exchange = Packet { xid: 8, ..good.clone() };
        let request = Packet { op: Operation::Request, ..good.clone() };
        for packet in [&proxy, &other_client, &other_exchange, &request, &reply(MessageType::Ack, SERVER, address)] {
            assert_eq!(handle(&mut client, packet), Outcome::Ignored);
        }
        assert_eq!(client.handle(b"noise"), Outcome::Ignored);
        assert_eq!(handle(&mut client, &good), Outcome::Send);
        let stranger = Ipv4Addr::new(10, 77, 0, 2);
        assert_eq!(handle(&mut client, &reply(MessageType::Ack, stranger, address)), Outcome::Ignored);
        assert!(matches!(handle(&mut client, &reply(MessageType::Nak, SERVER, address)), Outcome::Refused(_)));
        assert_eq!(Packet::parse(&client.message(0)).unwrap().message_type(), Some(MessageType::Discover));
    }
}
