//! Who answers DHCP on a network: asks as machines do that boot, and takes nothing of what is offered.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::dhcp::packet::{MessageType, Operation, PACKET_BYTES_MAX, Packet, code};
use crate::stdx::mac::MacAddr;

/// EDK2 collects offers for four seconds; who has not answered by then does not count for a machine either.
pub const WAIT: Duration = Duration::from_secs(4);

/// As whom it was asked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// Somebody who only wants an address.
    Plain,
    Bios,
    UefiX64,
    UefiHttp,
}

const ALL: [Asked; 4] = [Asked::Plain, Asked::Bios, Asked::UefiX64, Asked::UefiHttp];

/// One offer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Answer {
    pub asked: Asked,
    pub server: Ipv4Addr,
    /// The address that it would give.
    pub address: Option<Ipv4Addr>,
    /// What it would have the machine boot, and from where.
    pub file: Option<String>,
    pub next_server: Option<Ipv4Addr>,
}

/// Hardware addresses that only surveys use: what they ask is no boot of a machine.
pub fn is_survey(mac: MacAddr) -> bool {
    mac.0[..3] == PREFIX
}

/// Locally administered.
const PREFIX: [u8; 3] = [0x02, 0x52, 0x4d];

/// Asks on one interface and waits for `wait`. `seed` tells surveys apart. Needs root, and port 68 when no other program
/// of this host holds it for itself alone.
pub fn ask(interface: &str, seed: u32, wait: Duration) -> io::Result<Vec<Answer>> {
    let socket = client_socket(interface)?;
    let requests = ALL.map(|asked| (asked, request(asked, seed)));
    for (_, packet) in &requests {
        socket.send_to(&packet.emit(548), SocketAddrV4::new(Ipv4Addr::BROADCAST, 67))?;
    }
    let (end, mut answers, mut buffer) = (Instant::now() + wait, Vec::new(), [0; PACKET_BYTES_MAX]);
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left))?;
        let len = match socket.recv_from(&mut buffer) {
            Ok((len, _)) => len,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break,
            Err(error) => return Err(error),
        };
        let found = Packet::parse(&buffer[..len]).ok().and_then(|packet| {
            let (asked, _) = requests.iter().find(|(_, own)| own.xid == packet.xid && own.chaddr == packet.chaddr)?;
            answer(*asked, &packet)
        });
        answers.extend(found.filter(|answer| !answers.contains(answer)));
    }
    answers.sort_by_key(|answer| (answer.server, answer.asked));
    Ok(answers)
}

fn client_socket(interface: &str) -> io::Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_broadcast(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 68)).into())?;
    Ok(socket.into())
}

fn request(asked: Asked, seed: u32) -> Packet {
    let [_, a, b, c] = seed.to_be_bytes();
    let [x, y, z] = PREFIX;
    let mut packet = Packet::request(seed.wrapping_add(asked as u32), [x, y, z, a, b, c ^ asked as u8]);
    packet.set_broadcast();
    packet.options.set(code::MESSAGE_TYPE, [MessageType::Discover as u8]);
    packet.options.set(code::PARAMETER_LIST, [1, 3, 6, 43, 54, 60, 66, 67]);
    let (class, architecture): (&[u8], u16) = match asked {
        Asked::Plain => return packet,
        Asked::Bios => (b"PXEClient:Arch:00000:UNDI:002001", 0),
        Asked::UefiX64 => (b"PXEClient:Arch:00007:UNDI:003016", 7),
        Asked::UefiHttp => (b"HTTPClient:Arch:00016:UNDI:003016", 16),
    };
    packet.options.set(code::VENDOR_CLASS, class);
    packet.options.set(code::CLIENT_ARCHITECTURE, architecture.to_be_bytes());
    packet.options.set(code::CLIENT_INTERFACE, [1, 3, 16]);
    packet
}

fn answer(asked: Asked, packet: &Packet) -> Option<Answer> {
    if packet.op != Operation::Reply || packet.message_type() != Some(MessageType::Offer) {
        return None;
    }
    let specified = |address: Ipv4Addr| (!address.is_unspecified()).then_some(address);
    let in_header = String::from_utf8_lossy(&packet.file).into_owned();
    let file = packet.options.text(code::BOOT_FILE_NAME).unwrap_or(in_header);
    Some(Answer {
        asked,
        server: packet.options.address(code::SERVER_IDENTIFIER)?,
        address: specified(packet.yiaddr),
        file: (!file.is_empty()).then_some(file),
        next_server: specified(packet.siaddr),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_is_told_apart_and_known_as_a_survey() {
        let requests = ALL.map(|asked| request(asked, 0x1234_5678));
        for (at, one) in requests.iter().enumerate() {
            assert!(is_survey(MacAddr(one.chaddr[..6].try_into().unwrap())));
            assert!(requests[..at].iter().all(|other| other.xid != one.xid && other.chaddr != one.chaddr));
        }
        assert!(!is_survey(MacAddr([0x52, 0x54, 0, 0, 0, 1])));
    }

    #[test]
    fn an_offer_says_who_gives_what() {
        let mut offer = request(Asked::Bios, 1);
        offer.op = Operation::Reply;
        offer.options.set(code::MESSAGE_TYPE, [MessageType::Offer as u8]);
        assert_eq!(answer(Asked::Bios, &offer), None, "nobody's offer");
        offer.options.set_address(code::SERVER_IDENTIFIER, Ipv4Addr::new(10, 0, 0, 7));
        offer.file = b"pxelinux.0".to_vec();
        let found = answer(Asked::Bios, &offer).unwrap();
        assert_eq!((found.address, found.file.as_deref()), (None, Some("pxelinux.0")));
        offer.op = Operation::Request;
        assert_eq!(answer(Asked::Bios, &offer), None);
    }
}
