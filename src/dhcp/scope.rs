//! The addresses of one subnet and what its clients are told with them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use crate::stdx::mac::MacAddr;

/// A network in CIDR form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subnet {
    pub address: Ipv4Addr,
    /// Bits, 0 to 32.
    pub prefix: u8,
}

impl Subnet {
    /// The network that `address` is in.
    pub fn of(address: Ipv4Addr, prefix: u8) -> Subnet {
        let prefix = prefix.min(32);
        Subnet { address: Ipv4Addr::from_bits(address.to_bits() & mask_bits(prefix)), prefix }
    }

    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask_bits(self.prefix))
    }

    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !mask_bits(self.prefix))
    }

    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask_bits(self.prefix) == self.address.to_bits()
    }
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is no network in the form 10.77.0.0/24")]
pub struct SubnetError(String);

impl std::str::FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Subnet, SubnetError> {
        let wrong = || SubnetError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let (address, prefix) = (address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
        let subnet = Subnet::of(address, prefix);
        if prefix > 32 || subnet.address != address { Err(wrong()) } else { Ok(subnet) }
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn mask_bits(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// One subnet. All of it is plain data, filled from the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scope {
    pub subnet: Subnet,
    /// First and last address that is given out, both included.
    pub range: (Ipv4Addr, Ipv4Addr),
    /// Default 3600: a lab's machines come and go.
    pub lease_seconds: u32,
    /// How long an address rests after a client found somebody else on it. Default 3600.
    pub probation_seconds: u32,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub ntp: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    /// Addresses that belong to one hardware address, inside or outside the range.
    pub reservations: BTreeMap<MacAddr, Ipv4Addr>,
    /// Addresses in the range that are never given out (the server's own, the gateway's).
    pub excluded: BTreeSet<Ipv4Addr>,
}

impl Scope {
    /// The upper half of the server's own subnet, without gateway or name server: enough for an isolated lab.
    pub fn around(server: Ipv4Addr, prefix: u8) -> Scope {
        let subnet = Subnet::of(server, prefix);
        let (first, last) = (subnet.address.to_bits(), subnet.broadcast().to_bits());
        let half = first + (last - first) / 2 + 1;
        Scope {
            subnet,
            range: (Ipv4Addr::from_bits(half.min(last)), Ipv4Addr::from_bits(last.saturating_sub(1).max(first))),
            lease_seconds: 3600,
            probation_seconds: 3600,
            gateway: None,
            dns: Vec::new(),
            ntp: Vec::new(),
            domain: None,
            reservations: BTreeMap::new(),
            excluded: BTreeSet::from([server]),
        }
    }

    /// Whether `address` may be given to anybody who asks.
    pub fn is_pool(&self, address: Ipv4Addr) -> bool {
        (self.range.0..=self.range.1).contains(&address)
            && self.subnet.contains(address)
            && !self.excluded.contains(&address)
            && self.gateway != Some(address)
            && !self.is_reserved(address)
            && (self.subnet.prefix >= 31 || (address != self.subnet.address && address != self.subnet.broadcast()))
    }

    /// Whether `address` may be given to `mac`.
    pub fn allows(&self, address: Ipv4Addr, mac: MacAddr) -> bool {
        match self.reservations.get(&mac) {
            Some(reserved) => *reserved == address,
            None => self.is_pool(address),
        }
    }

    fn is_reserved(&self, address: Ipv4Addr) -> bool {
        // Few by nature (people write them), and looked at only where an address is chosen.
        self.reservations.values().any(|reserved| *reserved == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_range_is_the_upper_half_without_server_and_broadcast() {
        let scope = Scope::around(Ipv4Addr::new(10, 77, 0, 200), 24);
        assert_eq!(scope.range, (Ipv4Addr::new(10, 77, 0, 128), Ipv4Addr::new(10, 77, 0, 254)));
        assert!(scope.is_pool(Ipv4Addr::new(10, 77, 0, 128)));
        assert!(!scope.is_pool(Ipv4Addr::new(10, 77, 0, 200)));
        assert!(!scope.is_pool(Ipv4Addr::new(10, 77, 0, 127)));
        assert!(!scope.is_pool(Ipv4Addr::new(10, 77, 0, 255)));
    }

    #[test]
    fn subnets_of_every_size_have_mask_and_broadcast() {
        let check = |prefix, mask: &str, broadcast: &str| {
            let subnet = Subnet::of(Ipv4Addr::new(172, 16, 5, 9), prefix);
            assert_eq!(subnet.mask().to_string(), mask);
            assert_eq!(subnet.broadcast().to_string(), broadcast);
            assert!(subnet.contains(Ipv4Addr::new(172, 16, 5, 9)));
        };
        check(0, "0.0.0.0", "255.255.255.255");
        check(16, "255.255.0.0", "172.16.255.255");
        check(30, "255.255.255.252", "172.16.5.11");
        check(32, "255.255.255.255", "172.16.5.9");
    }

    #[test]
    fn networks_are_read_and_what_is_none_is_refused() {
        assert_eq!("10.77.0.0/24".parse(), Ok(Subnet::of(Ipv4Addr::new(10, 77, 0, 9), 24)));
        for wrong in ["10.77.0.0", "10.77.0.1/24", "10.77.0.0/33", "a/24", "10.77.0.0/"] {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
        assert_eq!("10.77.0.0/24".parse::<Subnet>().unwrap().to_string(), "10.77.0.0/24");
    }

    #[test]
    fn a_reserved_address_is_only_for_its_machine() {
        let mut scope = Scope::around(Ipv4Addr::new(10, 0, 0, 1), 24);
        let (mac, reserved) = (MacAddr([2; 6]), Ipv4Addr::new(10, 0, 0, 130));
        scope.reservations.insert(mac, reserved);
        assert!(scope.allows(reserved, mac));
        assert!(!scope.allows(reserved, MacAddr([4; 6])));
        assert!(!scope.allows(Ipv4Addr::new(10, 0, 0, 131), mac));
    }
}
