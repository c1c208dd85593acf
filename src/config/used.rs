//! The configuration as used: nothing left open.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::written::{Boot, DhcpMode, Reservation, Written};
use crate::fleet::enrolment::Policy;
use crate::fleet::rule::Rule;
use crate::stdx::hint::Hint;

/// A network interface with an IPv4 address, as the system has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub address: Ipv4Addr,
    pub netmask: Ipv4Addr,
    pub up: bool,
    pub loopback: bool,
}

#[derive(Clone, Debug)]
pub struct Used {
    pub interface: Interface,
    /// Address that machines are sent to.
    pub address: Ipv4Addr,
    pub names: Vec<String>,
    pub http_port: u16,
    pub https_port: u16,
    pub tftp_port: u16,
    pub tftp_single_port: bool,
    pub dhcp: Dhcp,
    pub boot: Boot,
    pub policy: Policy,
    pub rules: Vec<Rule>,
    pub certificate_seconds: u32,
}

#[derive(Clone, Debug)]
pub struct Dhcp {
    pub mode: DhcpMode,
    pub range: (Ipv4Addr, Ipv4Addr),
    pub lease_seconds: u32,
    pub gateway: Option<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub reservations: Vec<Reservation>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no interface is up and has an IPv4 address")]
    NoInterface,
    #[error("several interfaces could be meant: {}", .0.join(", "))]
    ManyInterfaces(Vec<String>),
    #[error("there is no interface `{wanted}` with an IPv4 address; there is {}", .found.join(", "))]
    UnknownInterface { wanted: String, found: Vec<String> },
    #[error("the interface {interface} does not have the address {address}")]
    ForeignAddress { interface: String, address: Ipv4Addr },
    #[error("the DHCP range {first} to {last} does not lie in the network of {interface}")]
    Range { first: Ipv4Addr, last: Ipv4Addr, interface: String },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::NoInterface => {
                "plug a cable in or give the interface an address (`ip address add 10.77.0.1/24 dev eth0`)".into()
            }
            Error::ManyInterfaces(_) => {
                "say which one in remint.toml: `[network]` and `interface = \"...\"`, or `remint serve --interface ...`"
                    .into()
            }
            Error::UnknownInterface { .. } | Error::ForeignAddress { .. } => {
                "correct `[network]` in remint.toml".into()
            }
            Error::Range { .. } => "correct `range` under `[dhcp]` in remint.toml".into(),
        })
    }
}

impl Used {
    pub fn https_url(&self) -> String {
        url("https", self.address, self.https_port, 443)
    }

    pub fn http_url(&self) -> String {
        url("http", self.address, self.http_port, 80)
    }

    pub fn tftp(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, self.tftp_port)
    }
}

fn url(scheme: &str, address: Ipv4Addr, port: u16, usual: u16) -> String {
    if port == usual { format!("{scheme}://{address}") } else { format!("{scheme}://{address}:{port}") }
}

/// Fills in what the file leaves open from the interfaces that there are.
pub fn resolve(written: Written, interfaces: &[Interface]) -> Result<Used, Error> {
    let interface = choose(&written, interfaces)?;
    let address = written.network.address.unwrap_or(interface.address);
    if !interfaces.iter().any(|other| other.name == interface.name && other.address == address) {
        return Err(Error::ForeignAddress { interface: interface.name, address });
    }
    let network = Network::of(&interface);
    let range = written.dhcp.range.map_or_else(|| network.upper_half(address), |[first, last]| (first, last));
    if written.dhcp.mode == DhcpMode::Server
        && !(network.contains(range.0) && network.contains(range.1) && range.0 <= range.1)
    {
        return Err(Error::Range { first: range.0, last: range.1, interface: interface.name });
    }
    Ok(Used {
        address,
        interface,
        names: written.network.names,
        http_port: written.network.http_port,
        https_port: written.network.https_port,
        tftp_port: written.network.tftp_port,
        tftp_single_port: written.network.tftp_single_port,
        dhcp: Dhcp {
            mode: written.dhcp.mode,
            range,
            lease_seconds: written.dhcp.lease_seconds,
            gateway: written.dhcp.gateway,
            dns: written.dhcp.dns,
            domain: written.dhcp.domain,
            reservations: written.dhcp.reservation,
        },
        boot: written.boot,
        policy: Policy { continue_runs: written.enrolment.continue_runs },
        certificate_seconds: written.enrolment.certificate_seconds(),
        rules: written.enrolment.rule,
    })
}

fn choose(written: &Written, interfaces: &[Interface]) -> Result<Interface, Error> {
    let names = |interfaces: &[&Interface]| {
        let mut names: Vec<String> = interfaces.iter().map(|interface| interface.name.clone()).collect();
        names.dedup();
        names
    };
    if let Some(wanted) = &written.network.interface {
        let found = interfaces.iter().find(|interface| interface.name == *wanted);
        let unknown =
            || Error::UnknownInterface { wanted: wanted.clone(), found: names(&interfaces.iter().collect::<Vec<_>>()) };
        return found.cloned().ok_or_else(unknown);
    }
    let fits = |interface: &&Interface| interface.up && !interface.loopback;
    let with_address =
        |interface: &&Interface| written.network.address.is_none_or(|address| interface.address == address);
    let candidates: Vec<&Interface> = interfaces.iter().filter(fits).filter(with_address).collect();
    match names(&candidates).as_slice() {
        [] => Err(Error::NoInterface),
        [_] => Ok(candidates[0].clone()),
        many => Err(Error::ManyInterfaces(many.to_vec())),
    }
}

/// An IPv4 network as first and last address.
struct Network {
    first: u32,
    last: u32,
}

impl Network {
    fn of(interface: &Interface) -> Network {
        let (address, mask) = (interface.address.to_bits(), interface.netmask.to_bits());
        Network { first: address & mask, last: address | !mask }
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address.to_bits())
    }

    /// The second half without the broadcast address, and without `own` where that is its last usable address.
    fn upper_half(&self, own: Ipv4Addr) -> (Ipv4Addr, Ipv4Addr) {
        let middle = self.first + (self.last - self.first) / 2 + 1;
        let mut last = self.last.saturating_sub(1);
        if last == own.to_bits() {
            last = last.saturating_sub(1);
        }
        (Ipv4Addr::from_bits(middle), Ipv4Addr::from_bits(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, address: [u8; 4]) -> Interface {
        let netmask = Ipv4Addr::new(255, 255, 255, 0);
        Interface { name: name.into(), address: address.into(), netmask, up: true, loopback: name == "lo" }
    }

    #[test]
    fn the_only_usable_interface_is_taken_and_several_are_asked_about() {
        let lo = interface("lo", [127, 0, 0, 1]);
        let one = interface("eth0", [10, 77, 0, 1]);
        let used = resolve(Written::default(), &[lo.clone(), one.clone()]).unwrap();
        assert_eq!((used.interface.name.as_str(), used.dhcp.mode), ("eth0", DhcpMode::Proxy));
        assert_eq!(used.dhcp.range, ([10, 77, 0, 128].into(), [10, 77, 0, 254].into()));
        assert_eq!(used.https_url(), "https://10.77.0.1");
        assert!(matches!(resolve(Written::default(), &[lo]), Err(Error::NoInterface)));
        let two = [one, interface("eth1", [10, 78, 0, 1])];
        assert!(matches!(resolve(Written::default(), &two), Err(Error::ManyInterfaces(names)) if names.len() == 2));
    }

    #[test]
    fn what_does_not_fit_the_interface_is_refused() {
        let interfaces = [interface("eth0", [10, 77, 0, 1])];
        let parse = |text: &str| resolve(toml::from_str(text).unwrap(), &interfaces);
        assert!(matches!(parse("[network]\ninterface = 'eth9'"), Err(Error::UnknownInterface { .. })));
        assert!(matches!(
            parse("[network]\ninterface='eth0'\naddress = '10.0.0.1'"),
            Err(Error::ForeignAddress { .. })
        ));
        assert!(matches!(parse("[dhcp]\nmode='server'\nrange = ['10.0.0.1', '10.0.0.9']"), Err(Error::Range { .. })));
        assert!(toml::from_str::<Written>("[dhcp]\nmoed = 'server'").is_err(), "unknown keys are refused");
    }
}
