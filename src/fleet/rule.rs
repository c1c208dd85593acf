//! Rules that approve machines without a person.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::identity::Identity;

/// A rule of the site's configuration. Every condition that is given must hold; the first rule that holds decides.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Shown as who approved the machine.
    pub name: String,
    /// System serial numbers, exactly as the firmware says them.
    pub serials: Vec<String>,
    /// SHA-256 of TPM endorsement public keys, hexadecimal.
    pub tpm_keys: Vec<String>,
    /// `10.77.0.0/24`: the address that the check-in came from.
    pub subnet: Option<Subnet>,
    /// The model's name contains this text, in any case.
    pub model: Option<String>,
    /// Name for a new machine, for instance `lab-{{ serial }}`. Without it: `machine-` and the end of its identifier.
    pub machine_name: Option<String>,
    /// Task sequence that a new machine gets at once.
    pub deploy: Option<String>,
    /// Collections that a new machine joins.
    pub collections: Vec<String>,
}

impl Rule {
    pub fn matches(&self, identity: &Identity, address: Option<IpAddr>) -> bool {
        let serial = self.serials.is_empty()
            || identity.usable_serial().is_some_and(|s| self.serials.iter().any(|serial| serial == s));
        let subnet = self.subnet.is_none_or(|subnet| address.is_some_and(|address| subnet.contains(address)));
        let model = self.model.as_ref().is_none_or(|model| {
            identity.model.as_ref().is_some_and(|found| found.to_lowercase().contains(&model.to_lowercase()))
        });
        let tpm = self.tpm_keys.is_empty()
            || identity
                .tpm_key
                .as_ref()
                .is_some_and(|found| self.tpm_keys.iter().any(|key| key.eq_ignore_ascii_case(found)));
        serial && tpm && subnet && model
    }
}

/// An address and the number of its leading bits that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: IpAddr,
    prefix_bits: u8,
}

impl Subnet {
    pub fn contains(self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
            IpAddr::V6(address) => (address.to_bits(), 128),
        };
        let address = match address {
            IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
            IpAddr::V4(_) => address,
        };
        let ((ours, width), (theirs, other)) = (bits(self.address), bits(address));
        let shift = 128 - u32::from(self.prefix_bits);
        width == other && (self.prefix_bits == 0 || ours >> shift == theirs >> shift)
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> Result<Subnet, String> {
        let parse = || {
            let (address, bits) = text.split_once('/')?;
            let (address, prefix_bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
            (prefix_bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Subnet { address, prefix_bits })
        };
        parse().ok_or_else(|| format!("`{text}` is not a subnet; write it as 10.77.0.0/24"))
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        format!("{}/{}", subnet.address, subnet.prefix_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_holds_its_addresses_and_no_others() {
        let subnet: Subnet = "10.77.0.0/23".to_owned().try_into().unwrap();
        for (address, expect) in
            [("10.77.1.255", true), ("10.77.2.0", false), ("::ffff:10.77.0.9", true), ("fe80::1", false)]
        {
            assert_eq!(subnet.contains(address.parse().unwrap()), expect, "{address}");
        }
        for bad in ["10.77.0.0", "10.77.0.0/33", "x/8"] {
            assert!(Subnet::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_rule_holds_when_all_its_conditions_do() {
        let rule = Rule { serials: vec!["S1".into()], model: Some("labbox".into()), ..Rule::default() };
        let fits = Identity { system_serial: Some("S1".into()), model: Some("LabBox 3".into()), ..Identity::default() };
        assert!(rule.matches(&fits, None));
        assert!(!rule.matches(&Identity { model: None, ..fits.clone() }, None));
        let tpm = Rule { tpm_keys: vec!["AB".into()], ..Rule::default() };
        assert!(!tpm.matches(&fits, None));
        assert!(tpm.matches(&Identity { tpm_key: Some("ab".into()), ..fits.clone() }, None));
        let near = Rule { subnet: Some("10.0.0.0/8".to_owned().try_into().unwrap()), ..rule };
        assert!(!near.matches(&fits, None) && near.matches(&fits, Some("10.1.2.3".parse().unwrap())));
    }
}
