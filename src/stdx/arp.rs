//! ARP for IPv4 on Ethernet: bytes <-> [`Arp`]. RFC 826; RFC 5227 for probes.

use std::net::Ipv4Addr;

use crate::stdx::mac::MacAddr;

/// What one packet has; a received frame may be padded.
pub const ARP_BYTES: usize = 28;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Request = 1,
    Reply = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arp {
    pub operation: Operation,
    pub sender_mac: MacAddr,
    pub sender: Ipv4Addr,
    pub target_mac: MacAddr,
    pub target: Ipv4Addr,
}

impl Arp {
    /// Asks who has `address` without claiming anything: the sender's address is zero, so that nobody's table changes
    /// (RFC 5227 section 2.1.1).
    pub fn probe(own: MacAddr, address: Ipv4Addr) -> Arp {
        let (sender, target_mac) = (Ipv4Addr::UNSPECIFIED, MacAddr([0; 6]));
        Arp { operation: Operation::Request, sender_mac: own, sender, target_mac, target: address }
    }

    pub fn emit(&self) -> [u8; ARP_BYTES] {
        let mut bytes = [0; ARP_BYTES];
        bytes[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, self.operation as u8]); // Ethernet, IPv4, lengths 6 and 4
        bytes[8..14].copy_from_slice(&self.sender_mac.0);
        bytes[14..18].copy_from_slice(&self.sender.octets());
        bytes[18..24].copy_from_slice(&self.target_mac.0);
        bytes[24..].copy_from_slice(&self.target.octets());
        bytes
    }

    /// `None` for what is not ARP for IPv4 on Ethernet.
    pub fn parse(bytes: &[u8]) -> Option<Arp> {
        let bytes: &[u8; ARP_BYTES] = bytes.get(..ARP_BYTES)?.try_into().ok()?;
        let operation = match bytes[..8] {
            [0, 1, 8, 0, 6, 4, 0, 1] => Operation::Request,
            [0, 1, 8, 0, 6, 4, 0, 2] => Operation::Reply,
            _ => return None,
        };
        let mac = |at: usize| MacAddr(std::array::from_fn(|byte| bytes[at + byte]));
        let address = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
        Some(Arp { operation, sender_mac: mac(8), sender: address(14), target_mac: mac(18), target: address(24) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_probe_claims_nothing_and_parses_back() {
        let probe = Arp::probe(MacAddr([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 0, 0, 9));
        let bytes = probe.emit();
        assert_eq!(bytes[14..18], [0; 4]);
        assert_eq!(Arp::parse(&bytes), Some(probe));
        assert_eq!(Arp::parse(&[&bytes[..], &[0; 18]].concat()), Some(probe), "padding is ignored");
        assert_eq!(Arp::parse(&bytes[..27]), None);
        assert_eq!(Arp::parse(&[0; ARP_BYTES]), None);
    }

    proptest! {
        #[test]
        fn what_parses_is_emitted_as_it_was(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(arp) = Arp::parse(&bytes) {
                prop_assert_eq!(&arp.emit()[..], &bytes[..ARP_BYTES]);
            }
        }
    }
}
