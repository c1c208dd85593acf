//! Who boots: firmware and stage, read out of DHCP options or out of a script's URL.

use std::fmt;

use serde::Serialize;

use crate::dhcp::packet::{Options, code};
use crate::dhcp::request::Request;
use crate::pxe::boot::Past;
use crate::pxe::quirks;
use crate::stdx::hex;
use crate::stdx::mac::MacAddr;

/// The firmware's architecture.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Firmware {
    Bios,
    UefiIa32,
    UefiX64,
    UefiArm64,
    /// A code of the IANA registry "Processor Architecture Types" that nothing here boots.
    Other(u16),
}

/// How the firmware itself loads its first file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// `PXEClient`.
    Tftp,
    /// `HTTPClient` (UEFI HTTP Boot).
    Http,
}

/// How far the machine has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The firmware asks for a boot program.
    Firmware,
    /// iPXE asks, over DHCP, where its script is.
    Ipxe,
    /// iPXE asks for its script.
    Script,
    /// GRUB asks for its configuration.
    Grub,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Client {
    pub mac: Option<MacAddr>,
    /// SMBIOS UUID, lower case, as SMBIOS 2.6 prints it.
    pub uuid: Option<String>,
    pub firmware: Firmware,
    pub transport: Transport,
    pub stage: Stage,
    /// What earlier boots teach; filled in by whoever remembers them.
    pub past: Past,
    /// Its model, where the machine is known; filled in by whoever knows.
    pub model: Option<String>,
}

impl Client {
    /// `None` for a client that did not ask to boot: its vendor class is neither `PXEClient` nor `HTTPClient` and it is
    /// not iPXE.
    pub fn from_dhcp(request: &Request) -> Option<Client> {
        let options = request.options();
        let vendor_class = options.text(code::VENDOR_CLASS).unwrap_or_default();
        let ipxe = quirks::is_ipxe(options);
        let transport = match () {
            () if vendor_class.starts_with("HTTPClient") => Transport::Http,
            () if vendor_class.starts_with("PXEClient") || ipxe => Transport::Tftp,
            () => return None,
        };
        let firmware = firmware(options, &vendor_class);
        let stage = if ipxe { Stage::Ipxe } else { Stage::Firmware };
        let uuid = options.value(code::CLIENT_MACHINE).and_then(|value| uuid(value, stage));
        Some(Client { mac: Some(request.mac), uuid, firmware, transport, stage, past: Past::Nothing, model: None })
    }

    /// What iPXE puts into the URL of its script: `${buildarch}` and `${platform}`.
    pub fn from_ipxe(mac: Option<MacAddr>, uuid: Option<&str>, architecture: &str, platform: &str) -> Client {
        let firmware = match (architecture, platform) {
            (_, "pcbios") => Firmware::Bios,
            ("i386", _) => Firmware::UefiIa32,
            ("arm64", _) => Firmware::UefiArm64,
            _ => Firmware::UefiX64,
        };
        let uuid = uuid.map(str::to_ascii_lowercase).filter(|uuid| uuid.len() == 36);
        Client {
            mac,
            uuid,
            firmware,
            transport: Transport::Tftp,
            stage: Stage::Script,
            past: Past::Nothing,
            model: None,
        }
    }

    /// What GRUB tells in the name or URL of its configuration: `$net_default_mac` and `$grub_cpu`.
    pub fn from_grub(mac: Option<MacAddr>, cpu: &str) -> Client {
        let firmware = match cpu {
            "i386" => Firmware::UefiIa32,
            "arm64" => Firmware::UefiArm64,
            _ => Firmware::UefiX64,
        };
        Client {
            mac,
            uuid: None,
            firmware,
            transport: Transport::Tftp,
            stage: Stage::Grub,
            past: Past::Nothing,
            model: None,
        }
    }
}

impl Firmware {
    /// RFC 4578 section 2.1 and the IANA registry that continues it.
    fn from_code(code: u16) -> Firmware {
        match code {
            0 | 20 => Firmware::Bios,
            6 | 15 => Firmware::UefiIa32,
            7 | quirks::X64_BEFORE_THE_ERRATUM | 16 | 17 => Firmware::UefiX64,
            11 | 19 => Firmware::UefiArm64,
            other => Firmware::Other(other),
        }
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Firmware::Bios => f.write_str("BIOS"),
            Firmware::UefiIa32 => f.write_str("UEFI IA32"),
            Firmware::UefiX64 => f.write_str("UEFI x64"),
            Firmware::UefiArm64 => f.write_str("UEFI arm64"),
            Firmware::Other(code) => write!(f, "architecture {code}"),
        }
    }
}

/// Option 93 lists types; the first that we know counts. Without it the vendor class says the same in text
/// (`PXEClient:Arch:00007:UNDI:003016`), and a client that says nothing at all is an old BIOS.
fn firmware(options: &Options, vendor_class: &str) -> Firmware {
    let listed = options.value(code::CLIENT_ARCHITECTURE).unwrap_or_default();
    let listed = listed.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
    let in_text = vendor_class.split_once(":Arch:").and_then(|(_, rest)| rest.get(..5)?.parse().ok());
    let codes: Vec<u16> = listed.chain(in_text).collect();
    let known = codes.iter().map(|code| Firmware::from_code(*code)).find(|f| !matches!(f, Firmware::Other(_)));
    known.unwrap_or(codes.first().map_or(Firmware::Bios, |code| Firmware::Other(*code)))
}

/// Option 97: type 0 and 16 bytes.
fn uuid(value: &[u8], stage: Stage) -> Option<String> {
    let [0, bytes @ ..] = value else { return None };
    let mut bytes = <[u8; 16]>::try_from(bytes).ok()?;
    if stage == Stage::Firmware {
        quirks::firmware_sends_uuid_as_smbios_has_it(&mut bytes);
    }
    let digits = hex::emit(&bytes);
    let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
    Some(parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::packet::{MessageType, Packet};

    fn client(options: &[(u8, &[u8])]) -> Option<Client> {
        let mut packet = Packet::request(1, [2, 0, 0, 0, 0, 1]);
        packet.options.set(code::MESSAGE_TYPE, [MessageType::Discover as u8]);
        for (code, value) in options {
            packet.options.set(*code, *value);
        }
        Client::from_dhcp(&Request::try_from(packet).unwrap())
    }

    #[test]
    fn firmware_stage_and_transport_are_read_from_what_clients_really_send() {
        let check = |options: &[(u8, &[u8])], firmware, transport, stage| {
            let client = client(options).unwrap();
            assert_eq!((client.firmware, client.transport, client.stage), (firmware, transport, stage), "{options:?}");
        };
        let (tftp, http) = (Transport::Tftp, Transport::Http);
        check(&[(60, b"PXEClient:Arch:00000:UNDI:002001"), (93, &[0, 0])], Firmware::Bios, tftp, Stage::Firmware);
        check(&[(60, b"PXEClient")], Firmware::Bios, tftp, Stage::Firmware);
        check(&[(60, b"PXEClient:Arch:00007:UNDI:003016")], Firmware::UefiX64, tftp, Stage::Firmware);
        check(&[(60, b"PXEClient"), (93, &[0, 9])], Firmware::UefiX64, tftp, Stage::Firmware);
        check(&[(60, b"PXEClient"), (93, &[0, 99, 0, 7])], Firmware::UefiX64, tftp, Stage::Firmware);
        check(&[(60, b"PXEClient"), (93, &[0, 6])], Firmware::UefiIa32, tftp, Stage::Firmware);
        check(&[(60, b"PXEClient"), (93, &[0, 11])], Firmware::UefiArm64, tftp, Stage::Firmware);
        check(&[(60, b"PXEClient"), (93, &[0, 27])], Firmware::Other(27), tftp, Stage::Firmware);
        check(&[(60, b"HTTPClient:Arch:00016:UNDI:003001"), (93, &[0, 16])], Firmware::UefiX64, http, Stage::Firmware);
        check(&[(60, b"HTTPClient"), (93, &[0, 19])], Firmware::UefiArm64, http, Stage::Firmware);
        check(&[(60, b"PXEClient"), (77, b"iPXE"), (93, &[0, 0])], Firmware::Bios, tftp, Stage::Ipxe);
        check(&[(77, b"\x04iPXE"), (93, &[0, 7])], Firmware::UefiX64, tftp, Stage::Ipxe);
        check(&[(60, b"PXEClient"), (175, &[0xb1, 1, 1]), (93, &[0, 7])], Firmware::UefiX64, tftp, Stage::Ipxe);
    }

    #[test]
    fn who_does_not_ask_to_boot_is_nobody() {
        assert_eq!(client(&[]), None);
        assert_eq!(client(&[(60, b"MSFT 5.0")]), None);
        assert_eq!(client(&[(60, b"udhcp 1.36.1"), (93, &[0, 7])]), None);
    }

    #[test]
    fn uuids_are_printed_as_smbios_prints_them() {
        let mut wire = vec![0, 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66];
        wire.extend([0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff]);
        let firmware = client(&[(60, b"PXEClient"), (97, &wire)]).unwrap();
        assert_eq!(firmware.uuid.unwrap(), "00112233-4455-6677-8899-aabbccddeeff");
        let ipxe = client(&[(77, b"iPXE"), (97, &wire)]).unwrap();
        assert_eq!(ipxe.uuid.unwrap(), "33221100-5544-7766-8899-aabbccddeeff");
        assert_eq!(client(&[(60, b"PXEClient"), (97, &wire[..9])]).unwrap().uuid, None);
    }
}
