//! Who has which address until when: in memory, indexed by address, by client and by expiry.
//!
//! ```text
//!  free ──offer──▶ Offered ──commit──▶ Bound ──expiry, release──▶ Bound, expired (kept for its client)
//!                     │ taken elsewhere, expiry                      │ recycled when the pool has no fresh address
//!                     ▼                                              ▼
//!                   free                                           Offered to another
//!  any ──decline──▶ Declined ──probation over──▶ recycled
//! ```
//!
//! Memory is bounded by the size of the pools: there is at most one lease an address, whatever floods in.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use crate::dhcp::request::Identity;
use crate::stdx::mac::MacAddr;
use crate::stdx::time::Timestamp;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Reserved for a client that has not answered yet. Never stored.
    Offered,
    /// Acknowledged. Past its expiry the address is free, and remembered for its client.
    Bound,
    /// A client found somebody else on it.
    Declined,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    pub address: Ipv4Addr,
    pub identity: Identity,
    pub mac: MacAddr,
    pub state: State,
    /// When it was last written down; renewals soon after are answered without writing again.
    pub stored: Timestamp,
    pub expires: Timestamp,
    pub host_name: Option<String>,
}

impl Lease {
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires > now
    }

    pub fn seconds_left(&self, now: Timestamp) -> u32 {
        u32::try_from(self.expires.since(now) / 1000).unwrap_or(u32::MAX)
    }
}

/// All leases of one scope.
#[derive(Debug, Default)]
pub struct Leases {
    by_address: HashMap<Ipv4Addr, Lease>,
    by_identity: HashMap<Identity, Ipv4Addr>,
    by_expiry: BTreeSet<(Timestamp, Ipv4Addr)>,
    /// Addresses of the range that were handed out or passed over at least once: `range.0 + fresh` is the next.
    fresh: u32,
}

impl Leases {
    pub fn at(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.by_address.get(&address)
    }

    pub fn of(&self, identity: &Identity) -> Option<&Lease> {
        self.by_identity.get(identity).and_then(|address| self.by_address.get(address))
    }

    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// Whether nobody but `identity` has a claim on `address` now.
    pub fn is_free_for(&self, identity: &Identity, address: Ipv4Addr, now: Timestamp) -> bool {
        self.at(address)
            .is_none_or(|lease| !lease.is_live(now) || (lease.identity == *identity && lease.state != State::Declined))
    }

    /// Puts a lease in place of what its address and its client had before.
    pub fn put(&mut self, lease: Lease) {
        if let Some(old) = self.by_identity.get(&lease.identity).copied().filter(|old| *old != lease.address) {
            self.remove(old);
        }
        self.remove(lease.address);
        self.by_expiry.insert((lease.expires, lease.address));
        if lease.state != State::Declined {
            self.by_identity.insert(lease.identity.clone(), lease.address);
        }
        self.by_address.insert(lease.address, lease);
    }

    pub fn remove(&mut self, address: Ipv4Addr) {
        let Some(old) = self.by_address.remove(&address) else { return };
        self.by_expiry.remove(&(old.expires, address));
        if self.by_identity.get(&old.identity) == Some(&address) {
            self.by_identity.remove(&old.identity);
        }
    }

    /// An address of `first..=last` that was never leased, else the one that has been free for longest.
    /// `usable` says what may be given out at all.
    pub fn choose(
        &mut self,
        (first, last): (Ipv4Addr, Ipv4Addr),
        now: Timestamp,
        usable: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        while let Some(address) = first.to_bits().checked_add(self.fresh).map(Ipv4Addr::from_bits) {
            if address > last {
                break;
            }
            self.fresh += 1;
            if usable(address) && !self.by_address.contains_key(&address) {
                return Some(address);
            }
        }
        let expired = self.by_expiry.iter().take_while(|(expires, _)| *expires <= now);
        expired.map(|(_, address)| *address).find(|address| usable(*address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(address: u8, identity: u8, expires: i64) -> Lease {
        Lease {
            address: Ipv4Addr::new(10, 0, 0, address),
            identity: Identity(vec![identity]),
            mac: MacAddr([2, 0, 0, 0, 0, identity]),
            state: State::Bound,
            stored: Timestamp::default(),
            expires: Timestamp::from_milliseconds(expires),
            host_name: None,
        }
    }

    #[test]
    fn a_client_has_one_address_and_an_address_one_client() {
        let mut leases = Leases::default();
        leases.put(lease(1, 1, 100));
        leases.put(lease(2, 1, 100));
        assert!(leases.at(Ipv4Addr::new(10, 0, 0, 1)).is_none());
        leases.put(lease(2, 7, 100));
        assert!(leases.of(&Identity(vec![1])).is_none());
        assert_eq!((leases.len(), leases.by_expiry.len(), leases.by_identity.len()), (1, 1, 1));
    }

    #[test]
    fn fresh_addresses_come_first_then_the_one_that_is_free_for_longest() {
        let mut leases = Leases::default();
        let range = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 3));
        leases.put(lease(1, 1, 200));
        leases.put(lease(3, 3, 100));
        let now = Timestamp::from_milliseconds(300);
        let choose = |leases: &mut Leases| leases.choose(range, now, |_| true).map(|a| a.octets()[3]);
        assert_eq!(choose(&mut leases), Some(2));
        leases.put(lease(2, 2, 900));
        assert_eq!(choose(&mut leases), Some(3));
        leases.put(lease(3, 4, 900));
        assert_eq!(choose(&mut leases), Some(1));
        leases.put(lease(1, 5, 900));
        assert_eq!(choose(&mut leases), None);
    }
}
