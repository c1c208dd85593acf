//! Boot entries of UEFI firmware: the variables `BootOrder` and `Boot####` (UEFI 2.10, chapter 3).
//!
//! A load option (3.1.3): attributes (4 bytes), length of the paths (2), a description in UTF-16 that ends in NUL, device
//! paths (10.3: type 1, subtype 1, length 2, content).

use crate::imaging::disk::guid::Guid;
use crate::stdx::bytes::Fields;

/// Firmware keeps options in a variable store of some tens of KiB.
const OPTION_BYTES_MAX: usize = 64 << 10;
const ACTIVE: u32 = 1;

/// What an entry starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Disk,
    Network,
    Other,
}

impl Device {
    pub fn name(self) -> &'static str {
        match self {
            Device::Disk => "disk",
            Device::Network => "network",
            Device::Other => "other",
        }
    }
}

/// A boot entry, as far as it is of interest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOption {
    pub description: String,
    pub device: Device,
}

/// A partition, as a device path names it (10.3.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardDrive {
    pub number: u32,
    pub first_sector: u64,
    pub sectors: u64,
    pub guid: Guid,
}

/// `None` when the bytes are no load option.
pub fn parse(bytes: &[u8]) -> Option<LoadOption> {
    if bytes.len() > OPTION_BYTES_MAX || bytes.len() < 6 {
        return None;
    }
    let paths_bytes = usize::from(Fields(bytes).le16(4));
    let units: Vec<u16> = bytes[6..].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let end = units.iter().position(|unit| *unit == 0)?;
    let description = String::from_utf16_lossy(&units[..end]);
    let paths = bytes.get(6 + 2 * (end + 1)..)?;
    Some(LoadOption { description, device: device(paths.get(..paths_bytes).unwrap_or(paths)) })
}

/// What the first node that says so is: firmware's own entries often name a disk without a partition.
fn device(mut paths: &[u8]) -> Device {
    while let Some(node) = paths.get(..4).map(Fields) {
        let found = match (node.u8(0), node.u8(1)) {
            // A hard drive; a BIOS entry for one; the messaging nodes of SCSI, ATA, USB, SATA, NVMe, SD, eMMC.
            (4, 1) | (3, 1 | 2 | 5 | 18 | 23 | 26 | 29) => Some(Device::Disk),
            // A card's address, IPv4, IPv6, a URI.
            (3, 11 | 12 | 13 | 24) => Some(Device::Network),
            (0x7F, _) => return Device::Other,
            _ => None,
        };
        if let Some(found) = found {
            return found;
        }
        let bytes = usize::from(node.le16(2));
        match paths.get(bytes..) {
            Some(rest) if bytes >= 4 => paths = rest,
            _ => return Device::Other,
        }
    }
    Device::Other
}

/// A load option that starts `file` (`\EFI\BOOT\BOOTX64.EFI`) from a partition of a GPT.
pub fn emit(description: &str, partition: &HardDrive, file: &str) -> Vec<u8> {
    let mut paths = vec![4, 1, 42, 0];
    paths.extend(partition.number.to_le_bytes());
    paths.extend(partition.first_sector.to_le_bytes());
    paths.extend(partition.sectors.to_le_bytes());
    paths.extend(partition.guid.0);
    // The format is GPT, the signature a GUID.
    paths.extend([2, 2]);
    let name = utf16(file);
    paths.extend([4, 4]);
    paths.extend(((4 + name.len()) as u16).to_le_bytes());
    paths.extend(name);
    paths.extend([0x7F, 0xFF, 4, 0]);
    let mut bytes = ACTIVE.to_le_bytes().to_vec();
    bytes.extend((paths.len() as u16).to_le_bytes());
    bytes.extend(utf16(description));
    bytes.extend(paths);
    bytes
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// The numbers of a `BootOrder`.
pub fn parse_order(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect()
}

pub fn emit_order(order: &[u16]) -> Vec<u8> {
    order.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// `Boot000A`
pub fn variable(number: u16) -> String {
    format!("Boot{number:04X}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_says_what_it_starts_from() {
        let partition = HardDrive { number: 2, first_sector: 4096, sectors: 69632, guid: Guid([7; 16]) };
        let bytes = emit("Debian", &partition, "\\EFI\\BOOT\\BOOTX64.EFI");
        assert_eq!(parse(&bytes), Some(LoadOption { description: "Debian".into(), device: Device::Disk }));
        let mut network = 1u32.to_le_bytes().to_vec();
        let paths: Vec<u8> =
            [vec![2, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0], vec![3, 11, 37, 0], vec![0; 33], vec![0x7F, 0xFF, 4, 0]]
                .concat();
        network.extend((paths.len() as u16).to_le_bytes());
        network.extend(utf16("UEFI PXEv4"));
        network.extend(&paths);
        assert_eq!(parse(&network).unwrap().device, Device::Network);
        assert_eq!(parse_order(&emit_order(&[3, 0, 10])), [3, 0, 10]);
        assert_eq!(variable(10), "Boot000A");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(0u8.., 0..300)) {
            parse(&bytes);
        }
    }
}
