//! What the boot environment reads: answers of DHCP servers, lists of drivers.

use remint::ramdisk::drivers::Catalog;
use remint::ramdisk::lease;
use remint::stdx::mac::MacAddr;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0xAA, 0, 1]);
const XID: u32 = 0x5245_4D49;

/// Answers to a client, each after its length (2).
pub(crate) fn dhcp_client(mut input: &[u8]) {
    let mut client = lease::Client::selecting(MAC, XID);
    while let Some((head, rest)) = input.split_first_chunk::<2>() {
        let (bytes, rest) = rest.split_at(usize::from(u16::from_le_bytes(*head)).min(rest.len()));
        input = rest;
        if let lease::Outcome::Bound(lease) = client.handle(bytes) {
            assert!(!lease.address.is_unspecified() && lease.duration.as_secs() >= 60);
            client = lease::Client::renewing(MAC, XID, &lease);
        }
        let _ = client.message(1);
    }
}

/// `modules.alias`, `modules.dep`, `modules.softdep` and a device's alias, separated by NUL.
pub(crate) fn drivers(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let mut parts = text.splitn(4, '\0');
    let mut part = || parts.next().unwrap_or_default();
    let (alias, dep, softdep, modalias) = (part(), part(), part(), part());
    let catalog = Catalog::parse(alias, dep, softdep);
    for name in catalog.matching(modalias) {
        let _ = catalog.load_order(&name);
    }
}
