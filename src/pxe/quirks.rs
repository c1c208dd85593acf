//! Where firmware and boot loaders leave the standards or have a will of their own: an item for each, with the name of who
//! needs it and the source by which that can be checked. The code that copes with a quirk uses its item; docs/boot.md lists
//! them. (What DHCP forgives any client, such as texts that end in NUL, is in [`crate::dhcp::packet`].)

use crate::dhcp::packet::{Options, code};
use crate::dhcp::reply::Role;
use crate::pxe::client::Firmware;

/// **PXE ROMs of BIOS**: PXE_DISCOVERY_CONTROL (sub-option 6) with bit 3, "load the file of this offer", then END. Without it
/// they wait for a prompt to time out and look for boot servers by multicast.
/// PXE 2.1, table 2-3 (tags 6 and 10).
pub const BIOS_LOADS_AT_ONCE: [u8; 4] = [6, 1, 8, 255];

/// **EDK2 and what vendors made of it** ignore some offers with option 43: `PxeBcCacheDhcp4Offer` of years of it throws the
/// first proxy offer with discovery control away. An offer without it is a "BINL" one, which they take to port 4011.
/// EDK2, NetworkPkg/UefiPxeBcDxe/PxeBcDhcp4.c.
pub fn edk2_stumbles_over_discovery_control(firmware: Firmware) -> bool {
    firmware != Firmware::Bios
}

/// **EDK2** takes an offer of an address with class `PXEClient` for a "BINL" one too, and goes to port 4011 instead of loading
/// the file: who gives addresses sends no class.
/// EDK2, PxeBcDhcp4.c, `PxeBcParseDhcp4Packet` and `PxeBcRetryBinlOffer`.
pub fn edk2_goes_to_port_4011(role: Role) -> bool {
    role != Role::Server
}

/// **EDK2** prefers option 67 to the header and writes a NUL behind its last byte, other firmware is confused by both: options
/// 66 and 67 are for who lists them in option 55.
/// EDK2, PxeBcDhcp4.c, `PxeBcParseDhcp4Packet`.
pub fn lists(asked: &[u8], option: u8) -> bool {
    asked.contains(&option)
}

/// **UEFI x64 of Apple, Dell and others**: type 9 is x64 by RFC 4578 and EBC since its erratum 4624, which made 7 the type of
/// x64. Firmware exists for both; nobody ships EBC.
pub const X64_BEFORE_THE_ERRATUM: u16 = 9;

/// **Firmware** copies option 97 out of SMBIOS, where the first three fields are little-endian (SMBIOS 3.7 section 7.2.1); iPXE sends
/// them in network order (src/interface/smbios/smbios_settings.c).
pub fn firmware_sends_uuid_as_smbios_has_it(uuid: &mut [u8; 16]) {
    uuid[..4].reverse();
    uuid[4..6].reverse();
    uuid[6..8].reverse();
}

/// **iPXE** says `iPXE` in option 77 as plain text, where RFC 3004 wants a length before it, and always sends option 175.
pub fn is_ipxe(options: &Options) -> bool {
    let user_class = options.value(code::USER_CLASS).unwrap_or_default();
    options.value(code::IPXE).is_some() || user_class.windows(4).any(|window| window == b"iPXE")
}

/// **iPXE** waits for a proxy for three seconds, unless sub-option 176 (`no-pxedhcp`) of option 175 says that there is none.
/// src/include/ipxe/dhcp.h, `DHCP_EB_NO_PXEDHCP`.
pub const IPXE_NO_PROXY: [u8; 4] = [176, 1, 1, 255];

/// **iPXE** that UEFI has loaded by TFTP runs this script from beside itself before anything else, and spares its banner and a
/// second round of DHCP. src/interface/efi/efi_autoexec.c.
pub const IPXE_AUTOEXEC: &str = "autoexec.ipxe";

/// **UEFI** shows its setup menu after iPXE's `exit`, which returns success, instead of going on to the next boot option, as
/// UEFI 2.10 section 3.1.1 has it for an interactive boot: a program of ours finds the disk's loader.
pub fn uefi_needs_local_loader(firmware: Firmware) -> Option<&'static str> {
    match firmware {
        Firmware::Bios => None,
        Firmware::UefiArm64 => Some("local-arm64.efi"),
        _ => Some("local.efi"),
    }
}

/// **UEFI with Secure Boot** loads an unsigned program whole, refuses it without a word to us, and asks anew. These are ours
/// that nobody has signed.
pub fn uefi_may_refuse(file: &str) -> bool {
    file == "snponly.efi" || file == "ipxe-arm64.efi"
}

/// **shim, GRUB and some firmware** put one slash, two or backslashes before a name (`//grubx64.efi`: rhboot/shim issue 436).
pub fn without_slashes_before(name: &str) -> &str {
    name.trim_start_matches(['/', '\\'])
}

/// **shim and GRUB** ask for files that need not exist, and so does iPXE; shim of 15.8 on some machines of Dell and Lenovo even
/// for a name made of its load options. All go on after a quick "no". rhboot/shim issues 649, 662, 696 and pull request 686;
/// GRUB's lists of modules.
pub fn is_probe(name: &str) -> bool {
    let of_shim = name.starts_with("revocations") || name.starts_with("shim_certificate");
    of_shim || name.ends_with(".lst") || name == IPXE_AUTOEXEC
}

/// **GRUB 2.12** asks for `grub.cfg-01-MAC`, then by eight parts of its address, then for `grub.cfg`: the first is answered.
/// grub-core/net/net.c, `grub_net_search_config_file`.
pub fn is_grub_start(name: &str) -> bool {
    name == "grub/grub.cfg" || name.starts_with("grub/grub.cfg-")
}

/// **GRUB 2.12** compares the names of headers by case, against RFC 9110 section 5.1: without `Content-Length` in this spelling
/// each file is empty to it. grub-core/net/http.c; rhboot/grub2 pull request 216.
pub const GRUB_NEEDS_TITLE_CASE: bool = true;

#[cfg(test)]
mod tests {
    #[test]
    fn each_quirk_is_in_the_story_of_network_boot() {
        let story = include_str!("../../docs/boot.md");
        let items = include_str!("quirks.rs").lines().filter_map(|line| {
            let item = line.strip_prefix("pub fn ").or_else(|| line.strip_prefix("pub const "))?;
            item.split(['(', ':']).next()
        });
        let missing: Vec<&str> = items.filter(|item| !story.contains(&format!("`{item}`"))).collect();
        assert!(missing.is_empty(), "docs/boot.md does not tell of {missing:?}");
    }
}
