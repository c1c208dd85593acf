//! What neighbours and drives answer: ARP, pages of ATA and NVMe drives.

use remint::stdx::arp::{ARP_BYTES, Arp};
use remint::stdx::{ata, nvme};

/// Which parser (1), then its bytes.
pub(crate) fn devices(input: &[u8]) {
    super::one_of(&[arp, ata_pages, nvme_pages], input);
}

fn arp(bytes: &[u8]) {
    if let Some(packet) = Arp::parse(bytes) {
        assert_eq!(packet.emit()[..], bytes[..ARP_BYTES], "what is emitted is what was parsed");
    }
}

fn ata_pages(page: &[u8]) {
    let security = ata::parse_security(page);
    assert!(security.erase_minutes.is_none_or(|minutes| (2..=65_532).contains(&minutes)), "{security:?}");
    let attributes = ata::parse_attributes(page);
    assert!(attributes.len() <= 30 && attributes.iter().all(|one| one.id != 0 && one.raw < 1 << 48), "{attributes:?}");
}

fn nvme_pages(page: &[u8]) {
    let health = nvme::parse_health(page);
    assert!((-273..=65_262).contains(&health.celsius), "{health:?}");
    let _ = nvme::parse_sanitized(page);
}
