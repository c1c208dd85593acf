//! The kernel command line: where the appliance is, and by what it is recognised.

use crate::stdx::hex;
use crate::stdx::hint::Hint;
use crate::stdx::mac::MacAddr;

/// What the boot script told this machine. Nothing in it is secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arguments {
    /// `https://ADDRESS:PORT` of the appliance.
    pub server: String,
    /// `http://ADDRESS[:PORT]` of the same, for the one thing that is fetched without trust: the authority's certificate.
    pub http: String,
    /// SHA-256 of the site's authority certificate (DER).
    pub authority: [u8; 32],
    /// The card that the firmware booted from.
    pub mac: Option<MacAddr>,
    /// Whether the hardware is to be tested before anything else (`remint.test=hardware`).
    pub test_hardware: bool,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("read the kernel command line: `{0}` is missing")]
    Missing(&'static str),
    #[error("read the kernel command line: `{key}={value}` is not {expected}")]
    Invalid { key: &'static str, value: String, expected: &'static str },
}

impl Hint for Error {
    fn hint(&self) -> Option<String> {
        Some("start this machine from the network with the appliance's own boot script".into())
    }
}

/// Reads `remint.server=`, `remint.http=`, `remint.authority=`, `remint.mac=` and `remint.test=` out of `/proc/cmdline`. Where a key stands twice the
/// last one counts, as with the kernel's own arguments.
pub fn parse(line: &str) -> Result<Arguments, Error> {
    let value = |key: &str| {
        line.split_ascii_whitespace().filter_map(|word| word.strip_prefix(key)?.strip_prefix('=')).next_back()
    };
    let server = value("remint.server").ok_or(Error::Missing("remint.server"))?;
    if !server.starts_with("https://") || server.len() > 300 {
        return Err(invalid("remint.server", server, "an address that starts with https://"));
    }
    let http = value("remint.http").ok_or(Error::Missing("remint.http"))?;
    if !http.starts_with("http://") || http.len() > 300 {
        return Err(invalid("remint.http", http, "an address that starts with http://"));
    }
    let digest = value("remint.authority").ok_or(Error::Missing("remint.authority"))?;
    let authority = hex::parse_array(digest)
        .ok_or_else(|| invalid("remint.authority", digest, "a SHA-256 digest of 64 hexadecimal digits"))?;
    let mac = value("remint.mac").and_then(|text| text.parse().ok());
    let base = |url: &str| url.trim_end_matches('/').to_owned();
    let test_hardware = value("remint.test") == Some("hardware");
    Ok(Arguments { server: base(server), http: base(http), authority, mac, test_hardware })
}

fn invalid(key: &'static str, value: &str, expected: &'static str) -> Error {
    Error::Invalid { key, value: value.chars().take(80).collect(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_scripts_arguments_are_found_among_the_kernels() {
        let digest = "ab".repeat(32);
        let line = format!(
            "BOOT_IMAGE=vmlinuz console=ttyS0 remint.server=https://10.0.0.1:8443/ \
             remint.http=http://10.0.0.1 remint.authority={digest} remint.mac=52:54:00:aa:00:01 quiet\n"
        );
        let expected = Arguments {
            server: "https://10.0.0.1:8443".into(),
            http: "http://10.0.0.1".into(),
            authority: [0xab; 32],
            mac: Some(MacAddr([0x52, 0x54, 0, 0xaa, 0, 1])),
            test_hardware: false,
        };
        assert!(parse(&format!("{line} remint.test=hardware")).unwrap().test_hardware);
        assert_eq!(parse(&line), Ok(expected));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let digest = "ab".repeat(32);
        assert_eq!(parse("quiet"), Err(Error::Missing("remint.server")));
        assert_eq!(parse("remint.server=https://a"), Err(Error::Missing("remint.http")));
        assert_eq!(parse("remint.server=https://a remint.http=http://a"), Err(Error::Missing("remint.authority")));
        assert!(matches!(
            parse(&format!("remint.server=http://a remint.authority={digest}")),
            Err(Error::Invalid { key: "remint.server", .. })
        ));
        assert!(matches!(
            parse("remint.server=https://a remint.http=http://a remint.authority=12"),
            Err(Error::Invalid { key: "remint.authority", .. })
        ));
    }
}
