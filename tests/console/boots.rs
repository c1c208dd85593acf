//! A network boot that fails, by the packets that firmware sends.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use remint::dhcp::packet::{MessageType, Packet, code};

use crate::appliance::Appliance;

const DHCP: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 67);
const UEFI: &[u8] = b"PXEClient:Arch:00007:UNDI:003016";
/// The network's own DHCP server, which nobody here has to be.
const OTHER_SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// Whether the appliance can take port 67 here.
pub(crate) fn can_serve_dhcp() -> bool {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, DHCP.1)).is_ok()
}

/// The machine asks for something to boot, takes an address of another server, asks for the program that it was told, and
/// is told that there is none: nobody has run `remint boot build`.
pub(crate) fn fail_to_boot(appliance: &Appliance, mac: [u8; 6]) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let packet = |kind: MessageType| {
        let mut packet = Packet::request(7, mac);
        packet.set_broadcast();
        packet.options.set(code::MESSAGE_TYPE, [kind as u8]);
        packet.options.set(60, UEFI);
        packet.options.set(93, [0, 7]);
        packet
    };
    socket.send_to(&packet(MessageType::Discover).emit(1400), DHCP).unwrap();
    let mut request = packet(MessageType::Request);
    request.options.set_address(code::REQUESTED_ADDRESS, Ipv4Addr::LOCALHOST);
    request.options.set_address(code::SERVER_IDENTIFIER, OTHER_SERVER);
    socket.send_to(&request.emit(1400), DHCP).unwrap();
    // Ports are served one beside the other: what was sent first may be read last.
    std::thread::sleep(Duration::from_millis(500));
    socket.send_to(b"\0\x01snponly.efi\0octet\0", (Ipv4Addr::LOCALHOST, appliance.tftp_port)).unwrap();
    let mut answer = [0; 512];
    let len = socket.recv(&mut answer).unwrap();
    assert_eq!(answer[..4], [0, 5, 0, 1], "an error, file not found: {:?}", &answer[..len]);
}
