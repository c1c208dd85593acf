//! What machines are made of, as firmware, TPMs, switches and lists say it.

#[cfg(feature = "agent")]
use std::io;

use remint::fleet::enrolment::expected;
use remint::inventory::names::Names;

pub(crate) fn any(input: &[u8]) {
    super::one_of(&[firmware, tpm, switch, expected_machines, names, packages], input);
}

fn firmware(table: &[u8]) {
    #[cfg(feature = "agent")]
    for module in remint::inventory::smbios::memory_modules(table) {
        assert!(module.bytes > 0, "an empty slot is listed");
    }
    let _ = table;
}

/// Answers of a TPM, each after its length (2); after the last one it is silent.
fn tpm(input: &[u8]) {
    #[cfg(feature = "agent")]
    {
        let mut rest = input;
        let key = remint::inventory::tpm::key_of(&mut |_| {
            let (head, after) = rest.split_first_chunk::<2>().ok_or(io::ErrorKind::UnexpectedEof)?;
            let (answer, after) = after.split_at(usize::from(u16::from_be_bytes(*head)).min(after.len()));
            rest = after;
            Ok(answer.to_vec())
        });
        assert!(key.is_none_or(|key| key.len() == 64));
    }
    let _ = input;
}

fn switch(frame: &[u8]) {
    #[cfg(feature = "agent")]
    if let Some(Some(neighbour)) = remint::inventory::lldp::parse(frame) {
        assert!(!neighbour.chassis.is_empty() && !neighbour.port.is_empty());
    }
    let _ = frame;
}

/// A list is taken whole or refused with reasons.
fn expected_machines(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match expected::parse(text) {
        Ok(machines) => {
            assert!(machines.iter().all(|machine| machine.serial.is_some() || machine.tpm_key.is_some()));
        }
        Err(faults) => assert!(!faults.is_empty(), "refused without a reason"),
    }
}

/// `pci.ids` and `usb.ids`, separated by NUL.
fn names(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (pci, usb) = text.split_once('\0').unwrap_or((&text, ""));
    let _ = Names::parse(pci.to_owned(), usb.to_owned());
}

fn packages(input: &[u8]) {
    #[cfg(feature = "agent")]
    for package in remint::inventory::software::dpkg_packages(&String::from_utf8_lossy(input)) {
        assert_eq!(package.manager, "deb");
    }
    let _ = input;
}
