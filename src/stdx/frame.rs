//! IPv4 datagrams put on a wire for a hardware address, past ARP and routing: the way to reach somebody who has no
//! address yet.

#![expect(unsafe_code, reason = "neither std nor nix can make a link-layer socket address")]

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, recvfrom, socket};

use crate::stdx::arp::Arp;
use crate::stdx::mac::MacAddr;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const EVERYBODY: MacAddr = MacAddr([0xff; 6]);
const IP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;

/// A sender of link-layer datagrams (packet(7), SOCK_DGRAM: the kernel writes the Ethernet header, VLAN tags included).
/// It receives nothing. Needs CAP_NET_RAW.
pub struct FrameSocket {
    socket: OwnedFd,
}

impl FrameSocket {
    pub fn open() -> io::Result<FrameSocket> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        Ok(FrameSocket { socket: socket(AddressFamily::Packet, SockType::Datagram, flags, None)? })
    }

    /// Sends `packet`, an IPv4 datagram with its header, to `mac` out of the interface.
    pub fn send(&self, packet: &[u8], mac: MacAddr, interface_index: u32) -> io::Result<()> {
        send_to(self.socket.as_fd(), packet, link_address(ETHERTYPE_IPV4, mac, interface_index))
    }
}

/// Sends and receives ARP on one interface. Needs CAP_NET_RAW.
pub struct ArpSocket {
    socket: OwnedFd,
    interface_index: u32,
}

impl ArpSocket {
    pub fn open(interface_index: u32) -> io::Result<ArpSocket> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Without a protocol it hears nothing until it is bound: nothing of other interfaces slips in.
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, None::<SockProtocol>)?;
        let address = link_address(ETHERTYPE_ARP, EVERYBODY, interface_index);
        bind(&socket, &address)?;
        Ok(ArpSocket { socket, interface_index })
    }

    /// Asks everybody on the interface who has `address`, without claiming anything.
    pub fn probe(&self, address: Ipv4Addr) -> io::Result<()> {
        self.broadcast(&Arp::probe(self.hardware_address()?, address))
    }

    /// The interface's address as it is now: a bridge's changes with its ports, a bond's with its links, and an answer to a
    /// former one never arrives.
    fn hardware_address(&self) -> io::Result<MacAddr> {
        let mut own = link_address(ETHERTYPE_ARP, MacAddr([0; 6]), self.interface_index);
        let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: both pointers are to live values, and the kernel writes no more than the length that it is told.
        let told = unsafe { libc::getsockname(self.socket.as_raw_fd(), (&raw mut own).cast(), &raw mut len) };
        match (told, own.sll_halen) {
            (0, 6) => Ok(MacAddr(std::array::from_fn(|byte| own.sll_addr[byte]))),
            (0, _) => Err(io::ErrorKind::AddrNotAvailable.into()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Sends to everybody on the interface.
    pub fn broadcast(&self, packet: &Arp) -> io::Result<()> {
        let address = link_address(ETHERTYPE_ARP, EVERYBODY, self.interface_index);
        send_to(self.socket.as_fd(), &packet.emit(), address)
    }

    /// The next packet that is ARP for IPv4; `WouldBlock` when none has come in.
    pub fn receive(&self) -> io::Result<Arp> {
        let mut buffer = [0; 64];
        loop {
            let len = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if let Some(packet) = Arp::parse(&buffer[..len]) {
                return Ok(packet);
            }
        }
    }
}

impl AsFd for ArpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Hears frames of one kind on the interfaces that it has joined, and on those that deliver them anyway. Needs CAP_NET_RAW.
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    pub fn open(ethertype: u16) -> io::Result<Listener> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Datagram, flags, None::<SockProtocol>)?;
        bind(&socket, &link_address(ethertype, EVERYBODY, 0))?;
        Ok(Listener { socket })
    }

    /// Has the interface hand up what is sent to `group`, a multicast address (packet(7), PACKET_ADD_MEMBERSHIP).
    pub fn join(&self, interface_index: u32, group: MacAddr) -> io::Result<()> {
        let mut address = [0; 8];
        address[..6].copy_from_slice(&group.0);
        let membership = libc::packet_mreq {
            mr_ifindex: i32::try_from(interface_index).unwrap_or(0),
            mr_type: libc::PACKET_MR_MULTICAST as u16,
            mr_alen: 6,
            mr_address: address,
        };
        // SAFETY: the pointer is to a live `packet_mreq` and the length is its exact size; the kernel only reads it.
        let joined = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const membership).cast(),
                size_of::<libc::packet_mreq>() as libc::socklen_t,
            )
        };
        if joined < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// The next frame without its Ethernet header: how long it is and which interface it came by; `WouldBlock` when there is
    /// none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, u32)> {
        let (len, from) = recvfrom::<LinkAddr>(self.socket.as_raw_fd(), buffer)?;
        let interface = from.map_or(0, |from| from.ifindex());
        Ok((len, u32::try_from(interface).unwrap_or(0)))
    }
}

fn bind(socket: &OwnedFd, address: &libc::sockaddr_ll) -> io::Result<()> {
    // SAFETY: the pointer is to a live `sockaddr_ll` and the length is its exact size; the kernel only reads it.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn link_address(protocol: u16, mac: MacAddr, interface_index: u32) -> libc::sockaddr_ll {
    let mut hardware = [0; 8];
    hardware[..6].copy_from_slice(&mac.0);
    libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(interface_index).unwrap_or(0),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: hardware,
    }
}

fn send_to(socket: BorrowedFd<'_>, bytes: &[u8], address: libc::sockaddr_ll) -> io::Result<()> {
    // SAFETY: both pointers are to live values and carry their exact lengths; the kernel only reads through them.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An IPv4 datagram with UDP (RFC 791, RFC 768), its checksums filled in. `payload` has at most 65507 bytes.
pub fn udp_datagram(source: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let udp_len = (UDP_HEADER_BYTES + payload.len()) as u16;
    let mut packet = Vec::with_capacity(IP_HEADER_BYTES + usize::from(udp_len));
    packet.extend([0x45, 0]); // version 4, 5 words of header
    packet.extend((IP_HEADER_BYTES as u16 + udp_len).to_be_bytes());
    packet.extend([0, 0, 0x40, 0]); // don't fragment
    packet.extend([64, 17, 0, 0]); // hops, UDP, checksum to come
    packet.extend(source.ip().octets());
    packet.extend(to.ip().octets());
    let checksum = internet_checksum(&[&packet]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(source.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend(udp_len.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    let checksum = match udp_checksum(*source.ip(), *to.ip(), &packet[IP_HEADER_BYTES..]) {
        0 => 0xffff, // RFC 768: zero means "no checksum"
        checksum => checksum,
    };
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn udp_checksum(source: Ipv4Addr, to: Ipv4Addr, segment: &[u8]) -> u16 {
    let [high, low] = (segment.len() as u16).to_be_bytes();
    internet_checksum(&[&source.octets(), &to.octets(), &[0, 17, high, low], segment])
}

/// RFC 1071 over parts of even length (the last may be odd). A valid datagram sums to 0.
fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_a_datagram_are_those_that_a_receiver_computes() {
        let (source, to) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 9));
        for payload in [&b"odd"[..], b"even"] {
            let packet = udp_datagram(SocketAddrV4::new(source, 67), SocketAddrV4::new(to, 68), payload);
            assert_eq!(internet_checksum(&[&packet[..20]]), 0);
            assert_eq!(udp_checksum(source, to, &packet[20..]), 0);
            assert_eq!(packet.len(), 28 + payload.len());
        }
    }
}
