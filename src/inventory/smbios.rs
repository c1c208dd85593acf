//! The firmware's own table of what is plugged in (DMTF DSP0134, SMBIOS 3.7), as the kernel hands it out in
//! `/sys/firmware/dmi/tables/DMI`. Only memory modules are taken from it; the rest is in sysfs already.

use super::model::MemoryModule;
use crate::stdx::bytes::Fields;

/// Structures of one table at most; large servers have some hundreds.
const STRUCTURES_MAX: usize = 4096;
/// 6.1.2: type, length of the formatted part, handle.
const HEADER_BYTES: usize = 4;
const MEMORY_DEVICE: u8 = 17;
const END_OF_TABLE: u8 = 127;

/// The memory modules of the table; empty slots are left out.
pub fn memory_modules(table: &[u8]) -> Vec<MemoryModule> {
    structures(table)
        .filter(|(kind, _, _)| *kind == MEMORY_DEVICE)
        .filter_map(|(_, body, texts)| module(body, texts))
        .collect()
}

/// Type, formatted part and strings of each structure. A table that is cut short ends there.
fn structures(table: &[u8]) -> impl Iterator<Item = (u8, &[u8], &[u8])> {
    let mut rest = table;
    let next = move || {
        let length = usize::from(*rest.get(1)?);
        if length < HEADER_BYTES || rest[0] == END_OF_TABLE {
            return None;
        }
        let (body, after) = rest.split_at_checked(length)?;
        // 6.1.3: strings end with a NUL each, and their list with one more; no strings are two.
        let end = after.windows(2).position(|pair| pair == [0, 0])?;
        rest = &after[end + 2..];
        Some((body[0], body, &after[..end]))
    };
    std::iter::from_fn(next).take(STRUCTURES_MAX)
}

/// 7.18, table 76: the offsets are those of its first column.
fn module(body: &[u8], texts: &[u8]) -> Option<MemoryModule> {
    const SIZE: usize = 0x0C;
    const DEVICE_LOCATOR: usize = 0x10;
    const MEMORY_TYPE: usize = 0x12;
    const SPEED: usize = 0x15;
    const MANUFACTURER: usize = 0x17;
    const SERIAL: usize = 0x18;
    const PART: usize = 0x1A;
    const EXTENDED_SIZE: usize = 0x1C;
    const EXTENDED_SPEED: usize = 0x54;
    let (fields, has) = (Fields(body), |end: usize| body.len() >= end);
    let bytes = match has(SIZE + 2).then(|| fields.le16(SIZE))? {
        0 | 0xFFFF => return None,
        0x7FFF if has(EXTENDED_SIZE + 4) => u64::from(fields.le32(EXTENDED_SIZE) & 0x7FFF_FFFF) << 20,
        size if size & 0x8000 != 0 => u64::from(size & 0x7FFF) << 10,
        size => u64::from(size) << 20,
    };
    // Of no bytes in words for large or small ones: no module either.
    let bytes = Some(bytes).filter(|bytes| *bytes != 0)?;
    let speed = match has(SPEED + 2).then(|| fields.le16(SPEED)) {
        None | Some(0) => None,
        Some(0xFFFF) => has(EXTENDED_SPEED + 4).then(|| fields.le32(EXTENDED_SPEED) & 0x7FFF_FFFF),
        Some(speed) => Some(u32::from(speed)),
    };
    let text = |at: usize| has(at + 1).then(|| text(texts, fields.u8(at))).flatten();
    Some(MemoryModule {
        slot: text(DEVICE_LOCATOR),
        bytes,
        kind: has(MEMORY_TYPE + 1).then(|| kind(fields.u8(MEMORY_TYPE))).flatten().map(str::to_owned),
        mega_transfers: speed.filter(|speed| *speed != 0),
        manufacturer: text(MANUFACTURER),
        serial: text(SERIAL),
        part: text(PART),
    })
}

/// 7.18.2, table 78, in dmidecode's words. Values that say nothing (other, unknown, reserved) have none.
fn kind(value: u8) -> Option<&'static str> {
    const FIRST: u8 = 0x03;
    #[rustfmt::skip]
    const KINDS: [&str; 34] = [
        "DRAM", "EDRAM", "VRAM", "SRAM", "RAM", "ROM", "Flash", "EEPROM", "FEPROM", "EPROM", "CDRAM", "3DRAM", "SDRAM",
        "SGRAM", "RDRAM", "DDR", "DDR2", "DDR2 FB-DIMM", "", "", "", "DDR3", "FBD2", "DDR4", "LPDDR", "LPDDR2", "LPDDR3",
        "LPDDR4", "Logical non-volatile device", "HBM", "HBM2", "DDR5", "LPDDR5", "HBM3",
    ];
    let name = KINDS.get(usize::from(value.checked_sub(FIRST)?))?;
    (!name.is_empty()).then_some(*name)
}

/// String number `number`, counted from 1; 0 is none.
fn text(texts: &[u8], number: u8) -> Option<String> {
    let at = usize::from(number).checked_sub(1)?;
    let bytes = texts.split(|byte| *byte == 0).nth(at)?;
    let text: String = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect();
    let text = text.trim();
    (!text.is_empty() && text != "Not Specified").then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn structure(kind: u8, body: &[u8], texts: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, (HEADER_BYTES + body.len()) as u8, 0, 0];
        bytes.extend(body);
        texts.iter().for_each(|text| bytes.extend([text.as_bytes(), &[0]].concat()));
        bytes.extend(if texts.is_empty() { &[0, 0][..] } else { &[0] });
        bytes
    }

    fn device(size: u16, extended: u32) -> Vec<u8> {
        let mut body = vec![0; 0x20 - HEADER_BYTES];
        body[0x0C - 4..][..2].copy_from_slice(&size.to_le_bytes());
        body[0x10 - 4] = 1;
        body[0x12 - 4] = 0x1A;
        body[0x15 - 4..][..2].copy_from_slice(&3200u16.to_le_bytes());
        body[0x17 - 4] = 2;
        body[0x18 - 4] = 3;
        body[0x1A - 4] = 9;
        body[0x1C - 4..].copy_from_slice(&extended.to_le_bytes());
        structure(MEMORY_DEVICE, &body, &["DIMM 0", "MakerCo", "  S1 "])
    }

    #[test]
    fn modules_are_told_with_their_slots_and_empty_slots_are_not() {
        let table = [
            structure(0, &[0; 20], &["firmware"]),
            device(16_384, 0),
            device(0, 0),
            device(0x7FFF, 65_536),
            device(0x8000 | 512, 0),
            device(0x7FFF, 0),
            device(0x8000, 0),
            structure(END_OF_TABLE, &[], &[]),
            device(1, 0),
        ]
        .concat();
        let modules = memory_modules(&table);
        assert_eq!(modules.iter().map(|module| module.bytes).collect::<Vec<_>>(), [16 << 30, 64 << 30, 512 << 10]);
        let first = MemoryModule {
            slot: Some("DIMM 0".into()),
            bytes: 16 << 30,
            kind: Some("DDR4".into()),
            mega_transfers: Some(3200),
            manufacturer: Some("MakerCo".into()),
            serial: Some("S1".into()),
            part: None,
        };
        assert_eq!(modules[0], first);
    }

    proptest! {
        #[test]
        fn no_table_is_too_odd(table in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = memory_modules(&table);
        }

        #[test]
        fn a_table_that_is_cut_anywhere_is_survived(at in 0..200_usize) {
            let table = [device(1, 0), device(2, 0)].concat();
            let modules = memory_modules(&table[..at.min(table.len())]);
            prop_assert!(modules.len() <= 2);
        }
    }
}
