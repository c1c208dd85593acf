//! IEEE 802 MAC addresses (48 bits).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Six octets, in the order of transmission. Written `52:54:00:aa:00:01`; parsed with `:` or `-` or no separator.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// Bit 0 of the first octet: a group address, never that of a machine.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// Bit 1 of the first octet: made up by software (virtual machines, privacy), not by the card's maker.
    pub fn is_locally_administered(self) -> bool {
        self.0[0] & 2 == 2
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a MAC address; write it as 52:54:00:aa:00:01")]
pub struct ParseMacError(String);

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let error = || ParseMacError(text.chars().take(40).collect());
        let separator = if text.contains(':') { ":" } else { "-" };
        let digits = match text.len() {
            12 => text.to_owned(),
            17 if text.split(separator).all(|part| part.len() == 2) => text.replace(separator, ""),
            _ => return Err(error()),
        };
        crate::stdx::hex::parse_array(&digits).map(MacAddr).ok_or_else(error)
    }
}

impl TryFrom<String> for MacAddr {
    type Error = ParseMacError;

    fn try_from(text: String) -> Result<Self, ParseMacError> {
        text.parse()
    }
}

impl From<MacAddr> for String {
    fn from(mac: MacAddr) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses_are_read_in_the_ways_people_write_them() {
        let mac = MacAddr([0x52, 0x54, 0, 0xaa, 0, 1]);
        for text in ["52:54:00:aa:00:01", "52-54-00-AA-00-01", "525400aa0001"] {
            assert_eq!(text.parse::<MacAddr>().unwrap(), mac, "{text}");
        }
        assert_eq!(mac.to_string(), "52:54:00:aa:00:01");
        for bad in ["", "52:54:00:aa:00", "52:54:00:aa:00:0g", "5:254:00:aa:00:01", "52:54-00:aa:00:01"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }
}
