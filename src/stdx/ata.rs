//! Commands of ATA drives (ACS-4), through SCSI's pass-through (SAT-4, 12.2.3).
#![expect(unsafe_code, reason = "SG_IO has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::bytes::Fields;

/// `struct sg_io_hdr` of <scsi/sg.h>.
#[repr(C)]
pub struct Request {
    interface: i32,
    direction: i32,
    command_bytes: u8,
    sense_bytes_max: u8,
    scattered: u16,
    data_bytes: u32,
    data: *mut u8,
    command: *const u8,
    sense: *mut u8,
    timeout_milliseconds: u32,
    flags: u32,
    identifier: i32,
    pointer: *mut u8,
    status: u8,
    masked_status: u8,
    message_status: u8,
    sense_bytes: u8,
    host_status: u16,
    driver_status: u16,
    residual: i32,
    duration: u32,
    info: u32,
}

mod raw {
    nix::ioctl_readwrite_bad!(sg_io, 0x2285, super::Request);
}

const IDENTIFY: u8 = 0xEC;
const SMART: u8 = 0xB0;
const SET_PASSWORD: u8 = 0xF1;
const ERASE_PREPARE: u8 = 0xF3;
const ERASE_UNIT: u8 = 0xF4;
const DISABLE_PASSWORD: u8 = 0xF6;
const SECTOR: usize = 512;
const USUAL_MILLISECONDS: u32 = 30_000;
/// Drives that say nothing about how long they take.
const ERASE_MINUTES: u32 = 12 * 60;
/// Needed by the drive while it erases; afterwards it has none.
const PASSWORD: &[u8] = b"remint-erases-this";

enum Transfer<'a> {
    None,
    In(&'a mut [u8; SECTOR]),
    Out(&'a mut [u8; SECTOR]),
}

/// What a drive says of its security feature set (IDENTIFY DEVICE, words 89 and 128).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Security {
    pub supported: bool,
    pub enabled: bool,
    pub locked: bool,
    /// The firmware has frozen it: nothing can be changed before the drive loses power.
    pub frozen: bool,
    pub erase_minutes: Option<u32>,
}

pub fn security(drive: &File) -> io::Result<Security> {
    let mut data = [0; SECTOR];
    submit(drive, IDENTIFY, 0, [0; 3], Transfer::In(&mut data), USUAL_MILLISECONDS)?;
    Ok(parse_security(&data))
}

/// Words that the drive did not send count as zero.
pub fn parse_security(data: &[u8]) -> Security {
    let (time, state) = (Fields(data).le16(89 * 2), Fields(data).le16(128 * 2));
    Security {
        supported: state & 1 != 0,
        enabled: state & 2 != 0,
        locked: state & 4 != 0,
        frozen: state & 8 != 0,
        erase_minutes: erase_minutes(time),
    }
}

/// In units of two minutes; the largest is more than can be said. Bit 15 says that the field has fifteen bits and not eight
/// (ACS-3, A.11.6.4).
fn erase_minutes(word: u16) -> Option<u32> {
    let (time, largest) = if word & 0x8000 == 0 { (word & 0xFF, 0xFF) } else { (word & 0x7FFF, 0x7FFF) };
    (1..largest).contains(&time).then(|| u32::from(time) * 2)
}

/// Has the drive erase itself. A drive that fails is left without a password.
pub fn secure_erase(drive: &File) -> io::Result<()> {
    let security = security(drive)?;
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::Unsupported, why.to_owned()));
    match security {
        Security { supported: false, .. } => return refused("the drive cannot erase itself"),
        Security { frozen: true, .. } => return refused("the firmware has frozen the drive's security"),
        Security { locked: true, .. } => return refused("the drive is locked by a password"),
        _ => {}
    }
    let minutes = security.erase_minutes.map_or(ERASE_MINUTES, |minutes| minutes * 2 + 30);
    let mut data = password();
    submit(drive, SET_PASSWORD, 0, [0; 3], Transfer::Out(&mut data), USUAL_MILLISECONDS)?;
    let erased = submit(drive, ERASE_PREPARE, 0, [0; 3], Transfer::None, USUAL_MILLISECONDS)
        .and_then(|()| submit(drive, ERASE_UNIT, 0, [0; 3], Transfer::Out(&mut data), minutes.saturating_mul(60_000)));
    if erased.is_err() {
        let _ = submit(drive, DISABLE_PASSWORD, 0, [0; 3], Transfer::Out(&mut data), USUAL_MILLISECONDS);
    }
    erased
}

/// Word 0 chooses the user's password, the next sixteen hold it.
fn password() -> [u8; SECTOR] {
    let mut data = [0; SECTOR];
    data[2..2 + PASSWORD.len()].copy_from_slice(PASSWORD);
    data
}

/// An attribute as the drive itself keeps it; 5 counts reallocated sectors, 197 those that wait for it, 198 those lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute {
    pub id: u8,
    pub value: u8,
    pub raw: u64,
}

/// The attributes of SMART READ DATA: thirty of twelve bytes from byte 2.
pub fn attributes(drive: &File) -> io::Result<Vec<Attribute>> {
    let mut data = [0; SECTOR];
    submit(drive, SMART, 0xD0, [0, 0x4F, 0xC2], Transfer::In(&mut data), USUAL_MILLISECONDS)?;
    Ok(parse_attributes(&data))
}

/// Empty for a page that is cut short.
pub fn parse_attributes(data: &[u8]) -> Vec<Attribute> {
    let entries = data.get(2..362).unwrap_or_default().chunks_exact(12).filter(|entry| entry[0] != 0);
    // Identifier, flags (2), value, worst value, raw value (6, little-endian), reserved.
    let attribute = |entry: &[u8]| {
        let raw = entry[5..11].iter().rev().fold(0, |raw, byte| raw << 8 | u64::from(*byte));
        Attribute { id: entry[0], value: entry[3], raw }
    };
    entries.map(attribute).collect()
}

fn submit(
    drive: &File,
    command: u8,
    features: u8,
    address: [u8; 3],
    transfer: Transfer<'_>,
    timeout_milliseconds: u32,
) -> io::Result<()> {
    // SG_DXFER_NONE, _FROM_DEV, _TO_DEV; the protocols of SAT: no data, PIO in, PIO out.
    let (direction, protocol, flags, data): (i32, u8, u8, &mut [u8]) = match transfer {
        Transfer::None => (-1, 3, 0, &mut []),
        Transfer::In(data) => (-3, 4, 0x0E, data),
        Transfer::Out(data) => (-2, 5, 0x06, data),
    };
    let sectors = u8::from(!data.is_empty());
    let [low, middle, high] = address;
    let bytes = [0x85, protocol << 1, flags, 0, features, 0, sectors, 0, low, 0, middle, 0, high, 0, command, 0];
    let mut sense = [0u8; 32];
    let mut request = Request {
        interface: i32::from(b'S'),
        direction,
        command_bytes: bytes.len() as u8,
        sense_bytes_max: sense.len() as u8,
        scattered: 0,
        data_bytes: data.len() as u32,
        data: data.as_mut_ptr(),
        command: bytes.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_milliseconds,
        flags: 0,
        identifier: 0,
        pointer: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        message_status: 0,
        sense_bytes: 0,
        host_status: 0,
        driver_status: 0,
        residual: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the descriptor is open; the request and the three buffers that it points to, with their lengths, live until
    // the call is over.
    unsafe { raw::sg_io(drive.as_raw_fd(), &mut request) }?;
    match (request.status, request.host_status, request.driver_status & 0x0F) {
        (0, 0, 0 | 8) => Ok(()),
        (status, host, _) => Err(io::Error::other(format!("the drive refused (status {status:#x}, host {host:#x})"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A page of SMART data, as a drive sends it.
    fn emit(attributes: &[Attribute]) -> Vec<u8> {
        let mut page = vec![0; SECTOR];
        for (entry, attribute) in page[2..].chunks_exact_mut(12).zip(attributes) {
            (entry[0], entry[3]) = (attribute.id, attribute.value);
            entry[5..11].copy_from_slice(&attribute.raw.to_le_bytes()[..6]);
        }
        page
    }

    proptest! {
        #[test]
        fn attributes_are_read_as_the_drive_keeps_them(
            kept in proptest::collection::vec((1u8.., any::<u8>(), 0u64..1 << 48), 0..=30),
        ) {
            let kept: Vec<_> = kept.into_iter().map(|(id, value, raw)| Attribute { id, value, raw }).collect();
            prop_assert_eq!(parse_attributes(&emit(&kept)), kept);
        }

        #[test]
        fn pages_of_any_content_and_length_are_read(page in proptest::collection::vec(any::<u8>(), 0..600)) {
            let attributes = parse_attributes(&page);
            prop_assert!(attributes.len() <= 30 && (page.len() >= 362 || attributes.is_empty()));
            let security = parse_security(&page);
            let byte = |at: usize| page.get(at).copied().unwrap_or(0);
            let word = |number: usize| u16::from_le_bytes([byte(number * 2), byte(number * 2 + 1)]);
            prop_assert_eq!(security.erase_minutes, erase_minutes(word(89)));
            let bits = [security.supported, security.enabled, security.locked, security.frozen];
            prop_assert_eq!(bits, [1, 2, 4, 8].map(|bit| word(128) & bit != 0));
        }

        #[test]
        fn the_time_of_an_erasure_is_read_in_both_its_formats(units in any::<u16>()) {
            let short = u32::from(units & 0xFF);
            prop_assert_eq!(erase_minutes(units & 0x7FFF), (1..255).contains(&short).then_some(short * 2));
            let long = u32::from(units & 0x7FFF);
            prop_assert_eq!(erase_minutes(units | 0x8000), (1..32_767).contains(&long).then_some(long * 2));
        }
    }

    #[test]
    fn what_a_drive_says_is_read_and_what_is_no_drive_refuses() {
        assert_eq!(size_of::<Request>(), 88);
        let mut data = [0; SECTOR];
        data[89 * 2] = 60;
        data[128 * 2] = 0x29;
        let expect =
            Security { supported: true, enabled: false, locked: false, frozen: true, erase_minutes: Some(120) };
        assert_eq!(parse_security(&data), expect);
        data[2..14].copy_from_slice(&[5, 0x33, 0, 100, 100, 7, 0, 0, 0, 0, 0, 0]);
        data[14..26].copy_from_slice(&[194, 0, 0, 60, 60, 40, 0, 0, 0, 0, 0, 0]);
        let found = parse_attributes(&data);
        assert_eq!(
            found.iter().map(|one| (one.id, one.value, one.raw)).collect::<Vec<_>>(),
            [(5, 100, 7), (194, 60, 40)]
        );
        let file = tempfile::tempfile().unwrap();
        assert!(secure_erase(&file).is_err() && attributes(&file).is_err());
    }
}
