//! The configuration as used: nothing left open.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::menus::menus;
use super::scopes::scopes;
use super::written::{Boot, DhcpMode, Written};
use crate::dhcp::scope::{Scope, SubnetError};
use crate::fleet::enrolment::Policy;
use crate::fleet::rule::Rule;
use crate::pxe::menu::Menu;
use crate::pxe::password::NotAHash;
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
    /// Every interface that is served, the first one included, with the address that its machines are sent to.
    pub served: Vec<Interface>,
    pub names: Vec<String>,
    pub http_port: u16,
    pub https_port: u16,
    pub tftp_port: u16,
    pub tftp_single_port: bool,
    pub dhcp: Dhcp,
    pub boot: Boot,
    pub menus: Vec<Menu>,
    pub policy: Policy,
    pub rules: Vec<Rule>,
    pub certificate_seconds: u32,
}

#[derive(Clone, Debug)]
pub struct Dhcp {
    pub mode: DhcpMode,
    /// What mode `server` gives addresses of: the interfaces' subnets in their order, then those of relays.
    pub scopes: Vec<Scope>,
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
    #[error("the DHCP range {first} to {last} does not lie in the network {network}")]
    Range { first: Ipv4Addr, last: Ipv4Addr, network: String },
    #[error("read a `[[dhcp.subnet]]`")]
    Subnet(#[source] SubnetError),
    #[error("a `[[boot.machine]]` has neither `mac` nor `model`, or both")]
    BootMachine,
    #[error("read the boot menu: `{name}`: {why}")]
    Menu { name: String, why: &'static str },
    #[error("read the `password` of a `[[boot.menu]]`")]
    MenuPassword(#[source] NotAHash),
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
            Error::Range { .. } => "correct `range` under `[dhcp]` or `[[dhcp.subnet]]` in remint.toml".into(),
            Error::Subnet(_) => "correct `network` under `[[dhcp.subnet]]` in remint.toml".into(),
            Error::Menu { .. } => "correct `[[boot.menu]]` or `[[boot.entry]]` in remint.toml".into(),
            Error::MenuPassword(_) => "run `grub-mkpasswd-pbkdf2` and write down what it prints".into(),
            Error::BootMachine => "say which machines it is for, in one of the two ways".into(),
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
    let served = served(&written, Interface { address, ..interface.clone() }, interfaces)?;
    let scopes = scopes(&written.dhcp, &served)?;
    if written.boot.machine.iter().any(|one| one.mac.is_some() == one.model.is_some()) {
        return Err(Error::BootMachine);
    }
    let menus = menus(&written.boot)?;
    Ok(Used {
        address,
        interface,
        names: written.network.names,
        http_port: written.network.http_port,
        https_port: written.network.https_port,
        tftp_port: written.network.tftp_port,
        tftp_single_port: written.network.tftp_single_port,
        served,
        dhcp: Dhcp { mode: written.dhcp.mode, scopes },
        boot: written.boot,
        menus,
        policy: Policy { continue_runs: written.enrolment.continue_runs },
        certificate_seconds: written.enrolment.certificate_seconds(),
        rules: written.enrolment.rule,
    })
}

/// The first interface and those of `more_interfaces`.
fn served(written: &Written, first: Interface, interfaces: &[Interface]) -> Result<Vec<Interface>, Error> {
    let mut served = vec![first];
    for wanted in &written.network.more_interfaces {
        let found = interfaces.iter().find(|interface| interface.name == *wanted);
        let unknown = || Error::UnknownInterface { wanted: wanted.clone(), found: names(interfaces) };
        let interface = found.ok_or_else(unknown)?;
        if served.iter().all(|known| known.name != interface.name) {
            served.push(interface.clone());
        }
    }
    Ok(served)
}

fn names<'a>(interfaces: impl IntoIterator<Item = &'a Interface>) -> Vec<String> {
    let mut names: Vec<String> = interfaces.into_iter().map(|interface| interface.name.clone()).collect();
    names.dedup();
    names
}

fn choose(written: &Written, interfaces: &[Interface]) -> Result<Interface, Error> {
    if let Some(wanted) = &written.network.interface {
        let found = interfaces.iter().find(|interface| interface.name == *wanted);
        let unknown = || Error::UnknownInterface { wanted: wanted.clone(), found: names(interfaces) };
        return found.cloned().ok_or_else(unknown);
    }
    let fits = |interface: &&Interface| interface.up && !interface.loopback;
    let with_address =
        |interface: &&Interface| written.network.address.is_none_or(|address| interface.address == address);
    let candidates: Vec<&Interface> = interfaces.iter().filter(fits).filter(with_address).collect();
    match names(candidates.iter().copied()).as_slice() {
        [] => Err(Error::NoInterface),
        [_] => Ok(candidates[0].clone()),
        many => Err(Error::ManyInterfaces(many.to_vec())),
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
        assert_eq!(used.dhcp.scopes[0].range, ([10, 77, 0, 128].into(), [10, 77, 0, 254].into()));
        assert_eq!(used.https_url(), "https://10.77.0.1");
        assert!(matches!(resolve(Written::default(), &[lo]), Err(Error::NoInterface)));
        let more = toml::from_str("[network]\ninterface = 'eth0'\nmore_interfaces = ['eth1']").unwrap();
        let two = [one, interface("eth1", [10, 78, 0, 1])];
        assert!(matches!(resolve(Written::default(), &two), Err(Error::ManyInterfaces(names)) if names.len() == 2));
        let used = resolve(more, &two).unwrap();
        assert_eq!(used.served.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["eth0", "eth1"]);
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
        assert!(matches!(parse("[network]\nmore_interfaces=['eth9']"), Err(Error::UnknownInterface { .. })));
        assert!(matches!(parse("[[boot.machine]]\nprogram = 'shim'"), Err(Error::BootMachine)));
        assert!(matches!(parse("[dhcp]\nmode='server'\nrange = ['10.0.0.1', '10.0.0.9']"), Err(Error::Range { .. })));
        assert!(toml::from_str::<Written>("[dhcp]\nmoed = 'server'").is_err(), "unknown keys are refused");
    }
}
