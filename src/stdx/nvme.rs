//! Administration commands of NVMe drives (NVM Express Base Specification 2.0), through the kernel's pass-through.
#![expect(unsafe_code, reason = "ioctls of NVMe drives have no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::bytes::Fields;

/// `struct nvme_passthru_cmd` of <linux/nvme_ioctl.h>.
#[repr(C)]
#[derive(Default)]
pub struct Command {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    words_2_3: [u32; 2],
    metadata: u64,
    address: u64,
    metadata_bytes: u32,
    data_bytes: u32,
    words_10_15: [u32; 6],
    timeout_milliseconds: u32,
    result: u32,
}

mod raw {
    nix::ioctl_none_bad!(id, nix::request_code_none!(b'N', 0x40));
    nix::ioctl_readwrite!(admin, b'N', 0x41, super::Command);
}

const GET_LOG_PAGE: u8 = 0x02;
const IDENTIFY: u8 = 0x06;
const FORMAT: u8 = 0x80;
const SANITIZE: u8 = 0x84;
const ALL_NAMESPACES: u32 = 0xFFFF_FFFF;
/// Large drives take minutes to format.
const FORMAT_MILLISECONDS: u32 = 3_600_000;
const USUAL_MILLISECONDS: u32 = 30_000;

/// How far a sanitize operation is (Sanitize Status log page, 5.16.1.25).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sanitized {
    /// Of 65,536.
    Under(u16),
    Done,
    Failed,
}

/// Health as the drive itself counts it (SMART log page, 5.16.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Bits: spare is low, temperature, reliability degraded, read-only, backup of volatile memory failed.
    pub warning: u8,
    pub celsius: i32,
    pub percent_used: u8,
    pub hours: u64,
    pub media_errors: u64,
}

/// Erases all user data of the drive's namespace by Format NVM, in the sector size that it has.
pub fn format(drive: &File) -> io::Result<()> {
    let namespace = namespace(drive)?;
    let data = read(drive, IDENTIFY, namespace, 0, 4096)?;
    // The format in use is in the low four bits of FLBAS (5.17.2.1); Secure Erase Settings 1 erases user data.
    let word = u32::from(Fields(&data).u8(26) & 0x0F) | 1 << 9;
    let mut command =
        Command { opcode: FORMAT, namespace, timeout_milliseconds: FORMAT_MILLISECONDS, ..Command::default() };
    command.words_10_15[0] = word;
    submit(drive, &mut command)
}

/// Begins a sanitize operation: by erasing blocks where the drive can, else by overwriting. It goes on through power cuts.
pub fn sanitize(drive: &File) -> io::Result<()> {
    let data = read(drive, IDENTIFY, 0, 1, 4096)?;
    let action = match Fields(&data).le32(328) {
        can if can & 2 != 0 => 2,
        can if can & 4 != 0 => 3 | 1 << 4,
        _ => {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the drive can neither erase blocks nor overwrite"));
        }
    };
    let mut command = Command { opcode: SANITIZE, timeout_milliseconds: USUAL_MILLISECONDS, ..Command::default() };
    command.words_10_15[0] = action;
    submit(drive, &mut command)
}

pub fn sanitized(drive: &File) -> io::Result<Sanitized> {
    read(drive, GET_LOG_PAGE, ALL_NAMESPACES, log_page(0x81, 512), 512).map(|page| parse_sanitized(&page))
}

pub fn health(drive: &File) -> io::Result<Health> {
    read(drive, GET_LOG_PAGE, ALL_NAMESPACES, log_page(0x02, 512), 512).map(|page| parse_health(&page))
}

pub fn parse_sanitized(page: &[u8]) -> Sanitized {
    let page = Fields(page);
    match page.le16(2) & 7 {
        2 => Sanitized::Under(page.le16(0)),
        3 => Sanitized::Failed,
        _ => Sanitized::Done,
    }
}

pub fn parse_health(page: &[u8]) -> Health {
    let page = Fields(page);
    Health {
        warning: page.u8(0),
        celsius: i32::from(page.le16(1)) - 273,
        percent_used: page.u8(5),
        hours: page.le64(128),
        media_errors: page.le64(160),
    }
}

/// Number of words less one in the upper half, the page in the lower (5.16).
fn log_page(page: u32, bytes: u32) -> u32 {
    (bytes / 4 - 1) << 16 | page
}

fn namespace(drive: &File) -> io::Result<u32> {
    // SAFETY: the request takes no argument and the descriptor is open.
    let id = unsafe { raw::id(drive.as_raw_fd()) }?;
    u32::try_from(id).map_err(|_| io::Error::other("the drive has no number of a namespace"))
}

fn read(drive: &File, opcode: u8, namespace: u32, word: u32, bytes: u32) -> io::Result<Vec<u8>> {
    let mut data = vec![0u8; bytes as usize];
    let address = data.as_mut_ptr() as u64;
    let timeout_milliseconds = USUAL_MILLISECONDS;
    let mut command =
        Command { opcode, namespace, address, data_bytes: bytes, timeout_milliseconds, ..Command::default() };
    command.words_10_15[0] = word;
    submit(drive, &mut command)?;
    Ok(data)
}

fn submit(drive: &File, command: &mut Command) -> io::Result<()> {
    // SAFETY: the descriptor is open, the pointer is to a live struct of the type that the request reads and writes, and
    // its address, where there is one, is that of a buffer of `data_bytes` bytes that outlives the call.
    let status = unsafe { raw::admin(drive.as_raw_fd(), command) }?;
    // A positive value is the status of the drive (3.3.3.2).
    if status == 0 { Ok(()) } else { Err(io::Error::other(format!("the drive refused with status {status:#x}"))) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn health_is_read_as_the_drive_counts_it(
            warning in any::<u8>(), kelvin in any::<u16>(), percent_used in any::<u8>(), counters in any::<[u64; 2]>(),
        ) {
            let mut page = [0; 512];
            (page[0], page[5]) = (warning, percent_used);
            page[1..3].copy_from_slice(&kelvin.to_le_bytes());
            // Both counters have sixteen bytes, of which nobody needs more than eight.
            page[128..136].copy_from_slice(&counters[0].to_le_bytes());
            page[160..168].copy_from_slice(&counters[1].to_le_bytes());
            let celsius = i32::from(kelvin) - 273;
            let [hours, media_errors] = counters;
            prop_assert_eq!(parse_health(&page), Health { warning, celsius, percent_used, hours, media_errors });
        }

        #[test]
        fn pages_of_any_content_and_length_are_read(page in proptest::collection::vec(any::<u8>(), 0..600)) {
            prop_assert!((-273..=65_262).contains(&parse_health(&page).celsius));
            let status = page.get(2).map_or(0, |byte| byte & 7);
            let is = parse_sanitized(&page);
            // A page that ends within a field says nothing by it.
            if page.len() >= 4 {
                prop_assert_eq!(matches!(is, Sanitized::Under(_)), status == 2);
                prop_assert_eq!(is == Sanitized::Failed, status == 3);
            }
        }
    }

    #[test]
    fn pages_are_read_and_what_is_no_drive_refuses() {
        assert_eq!(size_of::<Command>(), 72);
        let mut page = vec![0u8; 512];
        page[..6].copy_from_slice(&[0, 0x3B, 1, 100, 10, 7]);
        page[128] = 42;
        page[160] = 1;
        let expect = Health { warning: 0, celsius: 42, percent_used: 7, hours: 42, media_errors: 1 };
        assert_eq!(parse_health(&page), expect);
        assert_eq!(parse_sanitized(&[0, 0x80, 2, 0]), Sanitized::Under(0x8000));
        assert_eq!(parse_sanitized(&[0xFF, 0xFF, 1, 1]), Sanitized::Done);
        assert_eq!(parse_sanitized(&[0, 0, 3, 0]), Sanitized::Failed);
        let file = tempfile::tempfile().unwrap();
        assert!(format(&file).is_err() && sanitize(&file).is_err() && health(&file).is_err());
    }
}
