//! `set-network`: the addresses of the installed system, in the form its network manager reads.

use serde::Deserialize;
use std::net::IpAddr;

use crate::stdx::mac::MacAddr;
use crate::tasksequence::host::{FileContent, Root};

use super::{ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional};

pub(super) const ROW: Row = Row {
    name: "set-network",
    summary: "configures a network card of the system on the disk",
    text: "The card is named by its address, because the kernel's names differ between machines. The file is written for \
           systemd-networkd, NetworkManager or ifupdown, whichever `manager` says.",
    parameters: &[
        optional(
            "mac",
            Kind::Text,
            "the card that the machine booted from",
            "the card's address, as `52:54:00:aa:00:01`",
        ),
        optional("address", Kind::Text, "dhcp", "`dhcp`, or an address with its prefix such as `10.0.0.7/24`"),
        optional("gateway", Kind::Text, "", "the router, for a fixed address"),
        optional("dns", Kind::Texts, "", "name servers, for a fixed address"),
        optional(
            "manager",
            Kind::Choice(&["systemd-networkd", "network-manager"]),
            "systemd-networkd",
            "who configures the network there",
        ),
    ],
    places: ANYWHERE,
    needs: Needs::System,
    gives: Gives::Nothing,
    erases: false,
    example: "- set-network:\n    address: 10.0.0.7/24\n    gateway: 10.0.0.1\n    dns: [10.0.0.1]\n",
    load: load::<SetNetwork>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetNetwork {
    mac: Option<String>,
    #[serde(default = "dhcp")]
    address: String,
    gateway: Option<String>,
    #[serde(default)]
    dns: Vec<String>,
    #[serde(default)]
    manager: Manager,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Manager {
    #[default]
    SystemdNetworkd,
    NetworkManager,
}

fn dhcp() -> String {
    "dhcp".into()
}

/// What is wanted, read.
struct Network {
    mac: MacAddr,
    /// `None` is DHCP.
    fixed: Option<Fixed>,
}

struct Fixed {
    address: String,
    gateway: Option<IpAddr>,
    dns: Vec<IpAddr>,
}

impl SetNetwork {
    fn network(&self, booted_from: Option<&str>) -> Result<Network, StepError> {
        let mac = self.mac.as_deref().or(booted_from).ok_or_else(|| {
            StepError::new("the card that the machine booted from is not known").hint("name it with `mac:`")
        })?;
        let mac = mac.parse().map_err(|error| StepError::new(format!("{error}")))?;
        let address = |text: &str| {
            text.parse::<IpAddr>()
                .map_err(|_| StepError::new(format!("`{text}` is not an address, write it as 10.0.0.1")))
        };
        if self.address == "dhcp" {
            return Ok(Network { mac, fixed: None });
        }
        let (host, prefix) = self.address.split_once('/').unwrap_or((&self.address, ""));
        let longest = if address(host)?.is_ipv4() { 32 } else { 128 };
        if !prefix.parse::<u32>().is_ok_and(|prefix| (1..=longest).contains(&prefix)) {
            return Err(StepError::new(format!("`{}` has no length of its prefix", self.address))
                .hint("write 10.0.0.7/24, or `dhcp`"));
        }
        let gateway = self.gateway.as_deref().map(address).transpose()?;
        let dns = self.dns.iter().map(|text| address(text)).collect::<Result<_, _>>()?;
        Ok(Network { mac, fixed: Some(Fixed { address: self.address.clone(), gateway, dns }) })
    }

    fn file(&self, booted_from: Option<&str>) -> Result<(String, FileContent), StepError> {
        let network = self.network(booted_from)?;
        let name = network.mac.to_string().replace(':', "");
        Ok(match self.manager {
            Manager::SystemdNetworkd => {
                let content = FileContent { bytes: networkd(&network).into_bytes(), mode: 0o644 };
                (format!("/etc/systemd/network/10-remint-{name}.network"), content)
            }
            Manager::NetworkManager => {
                // NetworkManager refuses keyfiles that others may read.
                let content = FileContent { bytes: keyfile(&network).into_bytes(), mode: 0o600 };
                (format!("/etc/NetworkManager/system-connections/remint-{name}.nmconnection"), content)
            }
        })
    }
}

/// systemd.network(5)
fn networkd(network: &Network) -> String {
    let mut text = format!("[Match]\nMACAddress={}\n\n[Network]\n", network.mac);
    match &network.fixed {
        None => text.push_str("DHCP=yes\n"),
        Some(fixed) => {
            text.push_str(&format!("Address={}\n", fixed.address));
            fixed.gateway.iter().for_each(|gateway| text.push_str(&format!("Gateway={gateway}\n")));
            fixed.dns.iter().for_each(|dns| text.push_str(&format!("DNS={dns}\n")));
        }
    }
    text
}

/// nm-settings-keyfile(5)
fn keyfile(network: &Network) -> String {
    let id = format!("remint-{}", network.mac.to_string().replace(':', ""));
    let mut text = format!(
        "[connection]\nid={id}\ntype=ethernet\nautoconnect=true\n\n[ethernet]\nmac-address={}\n\n",
        network.mac
    );
    let Some(fixed) = &network.fixed else {
        text.push_str("[ipv4]\nmethod=auto\n\n[ipv6]\nmethod=auto\n");
        return text;
    };
    let six = fixed.address.contains(':');
    let (own, other) = if six { ("ipv6", "ipv4") } else { ("ipv4", "ipv6") };
    text.push_str(&format!("[{own}]\nmethod=manual\naddress1={}\n", fixed.address));
    fixed.gateway.iter().for_each(|gateway| text.push_str(&format!("gateway={gateway}\n")));
    let dns: String = fixed.dns.iter().filter(|dns| dns.is_ipv6() == six).map(|dns| format!("{dns};")).collect();
    if !dns.is_empty() {
        text.push_str(&format!("dns={dns}\n"));
    }
    text.push_str(&format!("\n[{other}]\nmethod={}\n", if six { "disabled" } else { "auto" }));
    text
}

impl Work for SetNetwork {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        if self.mac.is_none() && view.facts.mac.is_none() {
            return Ok(Planned::new(format!("configure the network ({})", self.address)));
        }
        let (path, _) = self.file(view.facts.mac.as_deref())?;
        Ok(Planned::new(format!("configure the network ({}) in {path}", self.address)))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        let (path, wanted) = self.file(on.order.machine.mac.as_deref())?;
        let there = on.host.read(Root::Target, &path)?;
        Ok(if there.is_some_and(|there| there.is(&wanted)) { Check::Holds } else { Check::Needed })
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let (path, wanted) = self.file(on.order.machine.mac.as_deref())?;
        on.host.write(Root::Target, &path, &wanted)?;
        Ok(Done::default())
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        let (path, wanted) = self.file(on.order.machine.mac.as_deref())?;
        if on.host.read(Root::Target, &path)?.is_none_or(|there| !there.is(&wanted)) {
            return Err(StepError::new(format!("{path} reads back otherwise than it was written")));
        }
        done.evidence("file", path);
        done.evidence("address", self.address.as_str());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_fixed_address_is_written_for_either_manager_and_a_bad_one_is_refused() {
        let step = |value| serde_json::from_value::<SetNetwork>(value).unwrap();
        let fixed = step(json!({"address": "10.0.0.7/24", "gateway": "10.0.0.1", "dns": ["10.0.0.1", "fd00::1"]}));
        let network = fixed.network(Some("52:54:00:aa:00:01")).unwrap();
        assert_eq!(
            networkd(&network),
            "[Match]\nMACAddress=52:54:00:aa:00:01\n\n[Network]\nAddress=10.0.0.7/24\nGateway=10.0.0.1\nDNS=10.0.0.1\nDNS=fd00::1\n"
        );
        assert!(
            keyfile(&network)
                .contains("[ipv4]\nmethod=manual\naddress1=10.0.0.7/24\ngateway=10.0.0.1\ndns=10.0.0.1;\n")
        );
        for bad in [
            json!({"address": "10.0.0.7"}),
            json!({"address": "10.0.0.7/33"}),
            json!({"address": "x/24"}),
            json!({"mac": "1"}),
        ] {
            assert!(step(bad.clone()).network(Some("52:54:00:aa:00:01")).is_err(), "{bad}");
        }
        assert!(step(json!({})).network(None).is_err());
    }
}
