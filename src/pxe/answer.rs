//! The decision as DHCP fields: this is the closure that the DHCP server asks.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::dhcp::packet::code;
use crate::dhcp::reply::{BootAnswer, BootPart, Booting, Interface, Role};
use crate::dhcp::request::Request;
use crate::dhcp::server::Notice;
use crate::dhcp::survey::is_survey;
use crate::pxe::boot::{Boot, Config, because, decide};
use crate::pxe::client::{Client, Stage, Transport};
use crate::pxe::names::Netboot;
use crate::pxe::quirks;
use crate::pxe::script;
use crate::stdx::mac::MacAddr;

/// What the DHCP sockets ask for each client: reads the directory, never the database.
pub fn answer(netboot: Netboot) -> Arc<BootAnswer> {
    Arc::new(Answer(netboot))
}

struct Answer(Netboot);

impl Booting for Answer {
    fn boot(&self, interface: &Interface, role: Role, request: &Request) -> Option<BootPart> {
        let Netboot { directory, config, recorder, .. } = &self.0;
        let mut client = Client::from_dhcp(request)?;
        client.past = recorder.past(client.mac);
        client.model = directory.model(client.mac, client.uuid.as_deref());
        let assignment = directory.assignment(client.mac, client.uuid.as_deref());
        let boot = decide(&client, &assignment, config);
        if !is_survey(request.mac) {
            recorder.asked(&client, &boot, because(&client, config));
        }
        tracing::info!(
            mac = %request.mac, firmware = %client.firmware, stage = ?client.stage, transport = ?client.transport,
            ?role, wish = ?request.wish, "boot: {boot:?}"
        );
        boot_part(&client, role, request, &boot, config, interface.address)
    }

    fn took(&self, mac: MacAddr, server: Ipv4Addr, address: Ipv4Addr) {
        self.0.recorder.took(mac, server, address);
    }

    fn noticed(&self, request: &Request, notice: &Notice) {
        // Only what concerns a boot, and not what `took` says already.
        if let (Some(client), false) = (Client::from_dhcp(request), matches!(notice, Notice::OtherServer(_))) {
            self.0.recorder.noticed(&client, notice.to_string());
        }
    }
}

fn boot_part(
    client: &Client,
    role: Role,
    request: &Request,
    boot: &Boot,
    config: &Config,
    server: Ipv4Addr,
) -> Option<BootPart> {
    let file = match boot {
        Boot::Program(name) if client.transport == Transport::Http => {
            format!("{}/boot/files/{name}", config.http_base(server))
        }
        Boot::Program(name) => (*name).to_owned(),
        Boot::Script => script::url(config, server, client.mac),
        _ => return None,
    };
    let mut part = BootPart { next_server: Some(server), file, options: Vec::new() };
    match client.transport {
        // UEFI 2.10 section 24.7.2.2: the offer counts as one for HTTP Boot only with this class.
        Transport::Http => part.options.push((code::VENDOR_CLASS, b"HTTPClient".to_vec())),
        Transport::Tftp if quirks::edk2_goes_to_port_4011(role) => pxe_options(client, request, &mut part),
        Transport::Tftp => server_options(client, request, &mut part, server),
    }
    Some(part)
}

/// A proxy is recognised by its class. A BIOS is told to load the file at once; UEFI comes to port 4011 and loads what that
/// answers.
fn pxe_options(client: &Client, request: &Request, part: &mut BootPart) {
    part.options.push((code::VENDOR_CLASS, b"PXEClient".to_vec()));
    if client.stage == Stage::Firmware && !quirks::edk2_stumbles_over_discovery_control(client.firmware) {
        part.options.push((code::VENDOR_SPECIFIC, quirks::BIOS_LOADS_AT_ONCE.to_vec()));
    }
    if let Some(machine) = request.options().value(code::CLIENT_MACHINE) {
        part.options.push((code::CLIENT_MACHINE, machine.to_vec())); // PXE 2.1 table 2-3: returned as it came
    }
}

/// With addresses from us there is nothing to negotiate.
fn server_options(client: &Client, request: &Request, part: &mut BootPart, server: Ipv4Addr) {
    if client.stage == Stage::Ipxe {
        part.options.push((code::IPXE, quirks::IPXE_NO_PROXY.to_vec()));
        return;
    }
    let asked = request.options().value(code::PARAMETER_LIST).unwrap_or_default();
    if quirks::lists(asked, code::TFTP_SERVER_NAME) {
        part.options.push((code::TFTP_SERVER_NAME, server.to_string().into_bytes()));
    }
    if quirks::lists(asked, code::BOOT_FILE_NAME) {
        part.options.push((code::BOOT_FILE_NAME, part.file.clone().into_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::packet::{MessageType, Packet};

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn part(role: Role, options: &[(u8, &[u8])]) -> Option<BootPart> {
        let mut packet = Packet::request(1, [2, 0, 0, 0, 0, 1]);
        packet.options.set(code::MESSAGE_TYPE, [MessageType::Discover as u8]);
        for (code, value) in options {
            packet.options.set(*code, *value);
        }
        let interface = Interface { name: "lan0".into(), address: SERVER, prefix: 24 };
        answer(Netboot::for_tests()).boot(&interface, role, &Request::try_from(packet).unwrap())
    }

    fn option(part: &BootPart, code: u8) -> Option<&[u8]> {
        part.options.iter().find(|(known, _)| *known == code).map(|(_, value)| value.as_slice())
    }

    #[test]
    fn a_bios_beside_another_server_loads_the_file_of_the_offer_at_once() {
        let part = part(Role::Proxy, &[(60, b"PXEClient:Arch:00000:UNDI:002001"), (97, &[0; 17])]).unwrap();
        assert_eq!((part.file.as_str(), part.next_server), ("undionly.kpxe", Some(SERVER)));
        assert_eq!(option(&part, 43), Some(&quirks::BIOS_LOADS_AT_ONCE[..]));
        assert_eq!(option(&part, 60), Some(&b"PXEClient"[..]));
        assert_eq!(option(&part, 97), Some(&[0; 17][..]));
    }

    #[test]
    fn uefi_beside_another_server_gets_no_option_43() {
        let part = part(Role::Proxy, &[(60, b"PXEClient"), (93, &[0, 7])]).unwrap();
        assert_eq!((part.file.as_str(), option(&part, 43)), ("snponly.efi", None));
    }

    #[test]
    fn from_the_full_server_a_pxe_client_gets_no_class_and_an_http_client_its_own() {
        let pxe = part(Role::Server, &[(60, b"PXEClient"), (93, &[0, 7]), (55, &[1, 66, 67])]).unwrap();
        assert_eq!(option(&pxe, 60), None);
        assert_eq!(option(&pxe, 66), Some(&b"10.0.0.1"[..]));
        assert_eq!(option(&pxe, 67), Some(&b"snponly.efi"[..]));
        let http = part(Role::Server, &[(60, b"HTTPClient:Arch:00016"), (93, &[0, 16])]).unwrap();
        assert_eq!(option(&http, 60), Some(&b"HTTPClient"[..]));
        assert_eq!(http.file, "http://10.0.0.1/boot/files/shimx64.efi");
    }

    #[test]
    fn ipxe_is_sent_to_its_script_and_spared_the_wait_for_a_proxy() {
        let from_server = part(Role::Server, &[(60, b"PXEClient"), (77, b"iPXE"), (175, &[])]).unwrap();
        assert!(from_server.file.starts_with("http://10.0.0.1/boot/ipxe?"), "{}", from_server.file);
        assert_eq!(option(&from_server, 175), Some(&quirks::IPXE_NO_PROXY[..]));
        let from_proxy = part(Role::Proxy, &[(60, b"PXEClient"), (77, b"iPXE"), (175, &[])]).unwrap();
        assert_eq!((&from_proxy.file, option(&from_proxy, 175)), (&from_server.file, None));
    }

    #[test]
    fn who_does_not_boot_hears_nothing_of_booting() {
        for role in [Role::Server, Role::Proxy, Role::BootServer] {
            assert_eq!(part(role, &[(60, b"MSFT 5.0")]), None);
        }
    }
}
