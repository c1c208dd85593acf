//! The full DHCP server, as a decision: `handle(now, interface, request, boot)` gives the reply and the lease that must
//! be on disk before it leaves. RFC 2131 section 4.3.

use std::net::Ipv4Addr;

use crate::dhcp::lease::{Lease, Leases, State};
use crate::dhcp::packet::{MessageType, Packet, code};
use crate::dhcp::reply::{self, BootAnswer, Interface, Reply, Role};
use crate::dhcp::request::{Identity, Request, Wish};
use crate::dhcp::scope::Scope;
use crate::stdx::time::Timestamp;

/// How long an offered address waits for its client: longer than the 64 seconds over which firmware retries.
const OFFER_SECONDS: i64 = 75;

#[derive(Debug)]
pub struct Server {
    scopes: Vec<(Scope, Leases)>,
}

/// What a request leads to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub reply: Option<Reply>,
    /// To be on disk before the reply leaves.
    pub store: Option<Lease>,
    /// What somebody who runs the network should know.
    pub notice: Option<Notice>,
    /// The address that the reply offers for the first time: somebody may sit on it without asking anybody, so it is
    /// probed before the offer leaves. Only where the client is on our own link; a relayed client probes for itself and
    /// declines (RFC 2131 section 3.1 step 5).
    pub probe: Option<Ipv4Addr>,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Notice {
    #[error("machine {mac} took the address {address} of another DHCP server, {server}, not ours", mac = .0.mac, server = .0.server, address = .0.address)]
    OtherServer(OtherServer),
    #[error("no address is left in {0} for machine {1}")]
    PoolEmpty(String, crate::stdx::mac::MacAddr),
    #[error("machine {mac} found {address} in use by somebody else; it rests for {seconds} s")]
    Declined { mac: crate::stdx::mac::MacAddr, address: Ipv4Addr, seconds: u32 },
    #[error("{address} is in use by {intruder}, which no server gave it to: it rests for {seconds} s")]
    InUse { address: Ipv4Addr, intruder: crate::stdx::mac::MacAddr, seconds: u32 },
    #[error("the relay {0} is in none of the subnets that this server serves")]
    UnknownLink(Ipv4Addr),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OtherServer {
    pub mac: crate::stdx::mac::MacAddr,
    pub server: Ipv4Addr,
    pub address: Ipv4Addr,
}

impl Server {
    /// A server of `scopes` that remembers `leases`. Leases of subnets that are no longer served are ignored.
    pub fn new(scopes: Vec<Scope>, leases: Vec<Lease>) -> Server {
        let mut server = Server { scopes: scopes.into_iter().map(|scope| (scope, Leases::default())).collect() };
        for lease in leases {
            if let Some((_, known)) = server.scopes.iter_mut().find(|(scope, _)| scope.subnet.contains(lease.address)) {
                known.put(lease);
            }
        }
        server
    }

    pub fn handle(&mut self, now: Timestamp, interface: &Interface, request: &Request, boot: &BootAnswer) -> Outcome {
        let link = request.remote_link().unwrap_or(interface.address);
        let Some((scope, leases)) = self.scopes.iter_mut().find(|(scope, _)| scope.subnet.contains(link)) else {
            let notice = request.relay.map(Notice::UnknownLink);
            return Outcome { notice, ..Outcome::default() };
        };
        let mut exchange = Exchange { now, interface, request, boot, scope, leases };
        match request.wish {
            Wish::Discover => exchange.discover(),
            Wish::Select { server, address } if server == interface.address => exchange.select(address),
            Wish::Select { server, address } => exchange.taken_elsewhere(server, address),
            Wish::Reboot { address } => exchange.reboot(address),
            Wish::Extend { address } => exchange.extend(address),
            Wish::Decline { server, address } => exchange.decline(server, address),
            Wish::Release { address } => exchange.release(address),
            Wish::Inform { address } => exchange.inform(address),
            Wish::BootServer => Outcome::default(),
        }
    }

    /// A probe was answered: somebody else sits on the address that was to be offered. It rests; the lease is to be
    /// stored, and the client's request is to be handled again.
    pub fn in_use(
        &mut self,
        now: Timestamp,
        address: Ipv4Addr,
        intruder: crate::stdx::mac::MacAddr,
    ) -> Option<(Lease, Notice)> {
        let (scope, leases) = self.scopes.iter_mut().find(|(scope, _)| scope.subnet.contains(address))?;
        let offered = leases.at(address).filter(|lease| lease.state == State::Offered)?;
        let seconds = scope.probation_seconds;
        let expires = now.plus_seconds(i64::from(seconds));
        let lease = Lease { state: State::Declined, stored: now, expires, ..offered.clone() };
        leases.put(lease.clone());
        Some((lease, Notice::InUse { address, intruder, seconds }))
    }

    pub fn lease(&self, address: Ipv4Addr) -> Option<&Lease> {
        self.scopes.iter().find_map(|(_, leases)| leases.at(address))
    }

    pub fn lease_of(&self, identity: &Identity) -> Option<&Lease> {
        self.scopes.iter().find_map(|(_, leases)| leases.of(identity))
    }
}

struct Exchange<'a> {
    now: Timestamp,
    interface: &'a Interface,
    request: &'a Request,
    boot: &'a BootAnswer,
    scope: &'a Scope,
    leases: &'a mut Leases,
}

impl Exchange<'_> {
    fn discover(&mut self) -> Outcome {
        let Some(address) = self.address_to_offer() else {
            let network = format!("{}/{}", self.scope.subnet.address, self.scope.subnet.prefix);
            return Outcome { notice: Some(Notice::PoolEmpty(network, self.request.mac)), ..Outcome::default() };
        };
        let bound =
            self.own_lease().is_some_and(|l| l.address == address && l.state == State::Bound && l.is_live(self.now));
        let held = self.own_lease().is_some_and(|l| l.address == address && l.is_live(self.now));
        if !bound {
            let mut lease = self.lease_until(address, OFFER_SECONDS);
            lease.state = State::Offered;
            self.leases.put(lease);
        }
        let probe = (!held && self.request.relay.is_none()).then_some(address);
        Outcome { probe, ..self.outcome(self.grant(MessageType::Offer, address, self.scope.lease_seconds), None) }
    }

    /// The order of RFC 2131 section 4.3.1: what is reserved for the client, what it has or had, what it asks for, a
    /// fresh one, the one that has been free for longest.
    fn address_to_offer(&mut self) -> Option<Ipv4Addr> {
        let (now, identity) = (self.now, &self.request.identity);
        let reserved = self.scope.reservations.get(&self.request.mac).copied();
        if let Some(address) = reserved {
            return self.leases.is_free_for(identity, address, now).then_some(address);
        }
        let had = self.own_lease().map(|lease| lease.address);
        let asked = self.request.options().address(code::REQUESTED_ADDRESS);
        let wanted = had.into_iter().chain(asked);
        let mut usable = wanted.filter(|a| self.scope.is_pool(*a) && self.leases.is_free_for(identity, *a, now));
        if let Some(address) = usable.next() {
            return Some(address);
        }
        self.leases.choose(self.scope.range, now, |address| self.scope.is_pool(address))
    }

    /// SELECTING: it took our offer.
    fn select(&mut self, address: Ipv4Addr) -> Outcome {
        let held = self.own_lease().is_some_and(|lease| lease.address == address);
        if held && self.usable(address) {
            self.bind(address)
        } else {
            self.refuse("that address was not offered to you")
        }
    }

    /// It took another server's offer: ours is free again, and somebody should know that there are two.
    fn taken_elsewhere(&mut self, server: Ipv4Addr, address: Ipv4Addr) -> Outcome {
        let offered = self.own_lease().filter(|lease| lease.state == State::Offered).map(|lease| lease.address);
        if let Some(offered) = offered {
            self.leases.remove(offered);
        }
        let notice = Notice::OtherServer(OtherServer { mac: self.request.mac, server, address });
        Outcome { notice: Some(notice), ..Outcome::default() }
    }

    /// INIT-REBOOT: NAK for a wrong network or somebody else's address, silence for a client we never saw.
    fn reboot(&mut self, address: Ipv4Addr) -> Outcome {
        if !self.scope.subnet.contains(address) {
            return self.refuse("that address belongs to another network");
        }
        match self.own_lease().map(|lease| lease.address) {
            Some(held) if held == address && self.usable(address) => self.bind(address),
            Some(_) => self.refuse("that address is not yours any more"),
            None => Outcome::default(),
        }
    }

    /// RENEWING and REBINDING. A client that we do not know but whose address is free keeps it: this heals a lost
    /// database without renumbering the network.
    fn extend(&mut self, address: Ipv4Addr) -> Outcome {
        if !self.scope.subnet.contains(address) {
            return self.refuse("that address belongs to another network");
        }
        if !self.usable(address) {
            return self.refuse("that address is not yours any more");
        }
        let quarter = u64::from(self.scope.lease_seconds) * 1000 / 4;
        match self.own_lease().filter(|lease| lease.address == address && lease.is_live(self.now)) {
            // A storm of renewals shall not be a storm of writes: within a quarter of the lease time since it was
            // stored, the client is told what is left of it.
            Some(lease) if lease.state == State::Bound && self.now.since(lease.stored) < quarter => {
                let seconds = lease.seconds_left(self.now);
                self.outcome(self.grant(MessageType::Ack, address, seconds), None)
            }
            _ => self.bind(address),
        }
    }

    fn decline(&mut self, server: Option<Ipv4Addr>, address: Ipv4Addr) -> Outcome {
        let ours = server.is_none_or(|server| server == self.interface.address);
        if !ours || self.own_lease().is_none_or(|lease| lease.address != address) {
            return Outcome::default();
        }
        let seconds = self.scope.probation_seconds;
        let lease = Lease { state: State::Declined, ..self.lease_until(address, i64::from(seconds)) };
        self.leases.put(lease.clone());
        let notice = Notice::Declined { mac: self.request.mac, address, seconds };
        Outcome { store: Some(lease), notice: Some(notice), ..Outcome::default() }
    }

    fn release(&mut self, address: Ipv4Addr) -> Outcome {
        let Some(lease) = self.own_lease().filter(|lease| lease.address == address && lease.is_live(self.now)) else {
            return Outcome::default();
        };
        let released = Lease { expires: self.now, stored: self.now, ..lease.clone() };
        self.leases.put(released.clone());
        Outcome { store: Some(released), ..Outcome::default() }
    }

    /// RFC 2131 section 4.3.5: everything but an address and its times.
    fn inform(&mut self, _address: Ipv4Addr) -> Outcome {
        let mut packet = reply::to(self.request, MessageType::Ack, self.interface.address);
        packet.ciaddr = self.request.packet.ciaddr;
        self.add_network(&mut packet);
        self.add_boot(&mut packet);
        self.outcome(packet, None)
    }

    fn bind(&mut self, address: Ipv4Addr) -> Outcome {
        let lease = self.lease_until(address, i64::from(self.scope.lease_seconds));
        self.leases.put(lease.clone());
        self.outcome(self.grant(MessageType::Ack, address, self.scope.lease_seconds), Some(lease))
    }

    fn refuse(&self, why: &str) -> Outcome {
        let mut packet = reply::to(self.request, MessageType::Nak, self.interface.address);
        packet.options.set(code::MESSAGE, why);
        self.outcome(packet, None)
    }

    fn grant(&self, kind: MessageType, address: Ipv4Addr, lease_seconds: u32) -> Packet {
        let mut packet = reply::to(self.request, kind, self.interface.address);
        packet.yiaddr = address;
        if kind == MessageType::Ack {
            packet.ciaddr = self.request.packet.ciaddr;
        }
        packet.options.set_seconds(code::LEASE_SECONDS, lease_seconds);
        self.add_network(&mut packet);
        self.add_boot(&mut packet);
        packet.options.set_seconds(code::RENEWAL_SECONDS, lease_seconds / 2);
        packet.options.set_seconds(code::REBINDING_SECONDS, (u64::from(lease_seconds) * 7 / 8) as u32);
        packet
    }

    /// What the client asked for and the scope has. The mask always: some firmware forgets to ask.
    fn add_network(&self, packet: &mut Packet) {
        let Scope { subnet, gateway, dns, ntp, domain, .. } = self.scope;
        packet.options.set_address(code::SUBNET_MASK, subnet.mask());
        let lists: [(u8, &[Ipv4Addr]); 4] = [
            (code::ROUTER, gateway.as_slice()),
            (code::DOMAIN_NAME_SERVER, dns),
            (code::NTP_SERVER, ntp),
            (code::BROADCAST_ADDRESS, &[subnet.broadcast()]),
        ];
        for (code, addresses) in lists {
            if !addresses.is_empty() && self.request.asks_for(code) {
                packet.options.set_addresses(code, addresses);
            }
        }
        if let Some(domain) = domain.as_ref().filter(|_| self.request.asks_for(code::DOMAIN_NAME)) {
            packet.options.set(code::DOMAIN_NAME, domain.as_bytes());
        }
    }

    fn add_boot(&self, packet: &mut Packet) {
        if let Some(part) = self.boot.boot(self.interface, Role::Server, self.request) {
            reply::add_boot(packet, &part, self.interface);
        }
    }

    fn usable(&self, address: Ipv4Addr) -> bool {
        self.scope.allows(address, self.request.mac)
            && self.leases.is_free_for(&self.request.identity, address, self.now)
    }

    fn own_lease(&self) -> Option<&Lease> {
        self.leases.of(&self.request.identity)
    }

    fn lease_until(&self, address: Ipv4Addr, seconds: i64) -> Lease {
        Lease {
            address,
            identity: self.request.identity.clone(),
            mac: self.request.mac,
            state: State::Bound,
            stored: self.now,
            expires: self.now.plus_seconds(seconds),
            host_name: self.request.host_name(),
        }
    }

    fn outcome(&self, packet: Packet, store: Option<Lease>) -> Outcome {
        Outcome { reply: Some(reply::finish(packet, self.request)), store, notice: None, probe: None }
    }
}

#[cfg(test)]
mod tests;
