//! The DHCP subnets of the configuration: one for each interface, and those behind relays.

use std::net::Ipv4Addr;

use super::used::{Error, Interface};
use super::written::{Dhcp, Subnet as Written};
use crate::dhcp::scope::{Scope, Subnet};

/// The scopes of mode `server`. `served` are the interfaces, the first one is that of `[dhcp]`.
pub(super) fn scopes(dhcp: &Dhcp, served: &[Interface]) -> Result<Vec<Scope>, Error> {
    let mut left = Vec::new();
    for subnet in &dhcp.subnet {
        let network: Subnet = subnet.network.parse().map_err(Error::Subnet)?;
        left.push((network, subnet));
    }
    let mut scopes = Vec::new();
    for (place, interface) in served.iter().enumerate() {
        let prefix = interface.netmask.to_bits().leading_ones() as u8;
        let mut scope = Scope::around(interface.address, prefix);
        if scopes.iter().any(|known: &Scope| known.subnet == scope.subnet) {
            continue;
        }
        let first = of_first(dhcp, &scope);
        if let Some(given) = left.iter().position(|(network, _)| *network == scope.subnet) {
            apply(&mut scope, left.remove(given).1, dhcp)?;
        } else if place == 0 {
            apply(&mut scope, &first, dhcp)?;
        } else {
            apply(&mut scope, &Written { gateway: None, range: None, ..first }, dhcp)?;
        }
        scopes.push(scope);
    }
    for (network, subnet) in left {
        let first = Ipv4Addr::from_bits(network.address.to_bits().saturating_add(1));
        let mut scope = Scope::around(first, network.prefix);
        scope.excluded.clear();
        apply(&mut scope, subnet, dhcp)?;
        scopes.push(scope);
    }
    Ok(scopes)
}

/// What `[dhcp]` says, as a subnet.
fn of_first(dhcp: &Dhcp, scope: &Scope) -> Written {
    Written {
        network: scope.subnet.to_string(),
        range: dhcp.range,
        lease_seconds: None,
        gateway: dhcp.gateway,
        dns: None,
        domain: None,
    }
}

fn apply(scope: &mut Scope, subnet: &Written, dhcp: &Dhcp) -> Result<(), Error> {
    if let Some([first, last]) = subnet.range {
        if !(scope.subnet.contains(first) && scope.subnet.contains(last) && first <= last) {
            return Err(Error::Range { first, last, network: scope.subnet.to_string() });
        }
        scope.range = (first, last);
    }
    scope.lease_seconds = subnet.lease_seconds.unwrap_or(dhcp.lease_seconds);
    scope.gateway = subnet.gateway;
    scope.dns = subnet.dns.clone().unwrap_or_else(|| dhcp.dns.clone());
    scope.domain = subnet.domain.clone().or_else(|| dhcp.domain.clone());
    let own = dhcp.reservation.iter().filter(|reservation| scope.subnet.contains(reservation.address));
    scope.reservations = own.map(|reservation| (reservation.mac, reservation.address)).collect();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, address: [u8; 4]) -> Interface {
        let netmask = Ipv4Addr::new(255, 255, 255, 0);
        Interface { name: name.into(), address: address.into(), netmask, up: true, loopback: false }
    }

    #[test]
    fn each_interface_and_each_relay_has_a_subnet_of_its_own() {
        let text = "lease_seconds = 60\ndns = ['10.0.0.53']\nrange = ['10.0.0.10', '10.0.0.20']\ngateway = '10.0.0.254'\n\
                    [[reservation]]\nmac = '02:00:00:00:00:01'\naddress = '10.2.0.9'\n\
                    [[subnet]]\nnetwork = '10.1.0.0/24'\nrange = ['10.1.0.5', '10.1.0.6']\nlease_seconds = 600\n\
                    [[subnet]]\nnetwork = '10.2.0.0/24'\ngateway = '10.2.0.1'\ndns = []\n";
        let dhcp: Dhcp = toml::from_str(text).unwrap();
        let served =
            [interface("eth0", [10, 0, 0, 1]), interface("vlan1", [10, 1, 0, 1]), interface("x", [10, 9, 0, 1])];
        let scopes = scopes(&dhcp, &served).unwrap();
        let shown: Vec<_> = scopes
            .iter()
            .map(|s| {
                format!("{} {}-{} {} {:?} {}", s.subnet, s.range.0, s.range.1, s.lease_seconds, s.gateway, s.dns.len())
            })
            .collect();
        assert_eq!(
            shown,
            [
                "10.0.0.0/24 10.0.0.10-10.0.0.20 60 Some(10.0.0.254) 1",
                "10.1.0.0/24 10.1.0.5-10.1.0.6 600 None 1",
                "10.9.0.0/24 10.9.0.128-10.9.0.254 60 None 1",
                "10.2.0.0/24 10.2.0.128-10.2.0.254 60 Some(10.2.0.1) 0",
            ]
        );
        assert_eq!(scopes.iter().map(|scope| scope.reservations.len()).collect::<Vec<_>>(), [0, 0, 0, 1]);
    }

    #[test]
    fn what_is_no_network_or_does_not_lie_in_it_is_refused() {
        let check = |text: &str| {
            let dhcp: Dhcp = toml::from_str(text).unwrap();
            crate::stdx::hint::chain(&scopes(&dhcp, &[interface("eth0", [10, 0, 0, 1])]).unwrap_err())
        };
        assert!(check("[[subnet]]\nnetwork = '10.1.0.1/24'").contains("10.1.0.1/24"));
        let outside = check("[[subnet]]\nnetwork = '10.1.0.0/24'\nrange = ['10.0.0.1', '10.1.0.9']");
        assert!(outside.contains("10.1.0.0/24"), "{outside}");
    }
}
