//! A machine that boots, as far as the network sees it: real sockets in a host's namespace, and firmware that does what a test
//! wants it to do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::Duration;

use remint::dhcp::packet::{MessageType, Packet, code};
use socket2::{Domain, Socket, Type};

use crate::appliance::ADDRESS;
use crate::lan::{Host, within};

pub(crate) const BIOS: &[(u8, &[u8])] = &[(60, b"PXEClient:Arch:00000:UNDI:002001"), (93, &[0, 0])];
pub(crate) const UEFI: &[(u8, &[u8])] = &[(60, b"PXEClient:Arch:00007:UNDI:003016"), (93, &[0, 7])];
pub(crate) const RISCV: &[(u8, &[u8])] = &[(60, b"PXEClient:Arch:00027:UNDI:003016"), (93, &[0, 27])];
pub(crate) const IPXE: &[(u8, &[u8])] =
    &[(60, b"PXEClient:Arch:00007:UNDI:003016"), (77, b"iPXE"), (175, &[177, 1, 1])];

/// Firmware gives up on offers after this.
const PATIENCE: Duration = Duration::from_secs(2);
const BLOCK: usize = 1428;

pub(crate) struct Machine {
    pub(crate) host: Host,
    pub(crate) mac: [u8; 6],
}

/// What firmware does with a file.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Load {
    Whole,
    /// It loses power after this many blocks.
    PowerLost(usize),
    /// It sends an error after the first block.
    OutOfMemory,
    /// Only packets from port 69 reach it.
    PortsBlocked,
}

impl Machine {
    pub(crate) fn new(host: Host, last: u8) -> Machine {
        Machine { host, mac: [0x52, 0x54, 0, 0, 0xf0, last] }
    }

    /// DISCOVER; the offers that came.
    pub(crate) fn discover(&self, options: &[(u8, &[u8])]) -> Vec<Packet> {
        let mut packet = self.packet(MessageType::Discover, options);
        packet.set_broadcast();
        self.exchange(packet, PATIENCE)
    }

    /// REQUEST of the first offer with an address; the address becomes the machine's own.
    pub(crate) fn take(&self, offers: &[Packet], options: &[(u8, &[u8])]) -> Ipv4Addr {
        let offer = offers.iter().find(|offer| !offer.yiaddr.is_unspecified()).expect("an offer with an address");
        let mut packet = self.packet(MessageType::Request, options);
        packet.set_broadcast();
        packet.options.set_address(code::REQUESTED_ADDRESS, offer.yiaddr);
        let server = offer.options.address(code::SERVER_IDENTIFIER).unwrap();
        packet.options.set_address(code::SERVER_IDENTIFIER, server);
        let answers = self.exchange(packet, PATIENCE);
        assert!(answers.iter().any(|a| a.message_type() == Some(MessageType::Ack)), "{answers:?}");
        let line = format!("ip addr add {}/24 dev lan0", offer.yiaddr);
        assert!(crate::lan::run(&self.host.space, &line).0, "{line}");
        offer.yiaddr
    }

    /// Both, as firmware does.
    pub(crate) fn boot(&self, options: &[(u8, &[u8])]) -> Ipv4Addr {
        let offers = self.discover(options);
        self.take(&offers, options)
    }

    fn packet(&self, kind: MessageType, options: &[(u8, &[u8])]) -> Packet {
        let mut packet = Packet::request(u32::from(self.mac[5]), self.mac);
        packet.options.set(code::MESSAGE_TYPE, [kind as u8]);
        for (code, value) in options {
            packet.options.set(*code, *value);
        }
        packet
    }

    fn exchange(&self, packet: Packet, patience: Duration) -> Vec<Packet> {
        within(&self.host.space, move || {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
            socket.bind_device(Some(b"lan0")).unwrap();
            socket.set_broadcast(true).unwrap();
            socket.set_reuse_address(true).unwrap();
            socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into()).unwrap();
            let socket = UdpSocket::from(socket);
            socket.set_read_timeout(Some(patience)).unwrap();
            socket.send_to(&packet.emit(1400), SocketAddrV4::new(Ipv4Addr::BROADCAST, 67)).unwrap();
            let (mut replies, mut buffer) = (Vec::new(), [0; 2000]);
            while let Ok(len) = socket.recv(&mut buffer) {
                let reply = Packet::parse(&buffer[..len]).unwrap();
                if reply.xid == packet.xid {
                    replies.push(reply);
                }
                socket.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
            }
            replies
        })
        .join()
        .unwrap()
    }

    /// A file by TFTP, in the way that `load` says. Gives what it got.
    pub(crate) fn tftp(&self, name: &str, load: Load) -> Vec<u8> {
        let name = name.to_owned();
        within(&self.host.space, move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let patience = if load == Load::PortsBlocked { 8 } else { 5 };
            socket.set_read_timeout(Some(Duration::from_secs(patience))).unwrap();
            let request = format!("\0\u{1}{name}\0octet\0blksize\0{BLOCK}\0tsize\x000\0");
            socket.send_to(request.as_bytes(), (ADDRESS, 69)).unwrap();
            let (mut content, mut buffer) = (Vec::new(), [0; 2000]);
            while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
                let block = u16::from_be_bytes([buffer[2], buffer[3]]);
                match (buffer[1], load) {
                    (_, Load::PortsBlocked) => continue,
                    (5, _) => break,
                    (6, _) => drop(socket.send_to(&[0, 4, 0, 0], peer)),
                    (_, Load::PowerLost(blocks)) if usize::from(block) > blocks => break,
                    (_, Load::OutOfMemory) => {
                        socket.send_to(b"\0\x05\0\x03out of memory\0", peer).unwrap();
                        break;
                    }
                    _ => {
                        if usize::from(block) == content.len() / BLOCK + 1 {
                            content.extend_from_slice(&buffer[4..len]);
                        }
                        socket.send_to(&[&[0, 4][..], &block.to_be_bytes()].concat(), peer).unwrap();
                        if len < BLOCK + 4 {
                            break;
                        }
                    }
                }
            }
            content
        })
        .join()
        .unwrap()
    }

    /// The body of a GET.
    pub(crate) fn http(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.0\r\nHost: {ADDRESS}\r\n\r\n");
        within(&self.host.space, move || {
            let mut stream = TcpStream::connect((ADDRESS, 80)).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            let text = String::from_utf8_lossy(&answer).into_owned();
            text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()
        })
        .join()
        .unwrap()
    }

    /// What iPXE asks for its script by.
    pub(crate) fn script(&self) -> String {
        let mac: Vec<String> = self.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        self.http(&format!("/boot/ipxe?mac={}&arch=x86_64&platform=efi", mac.join(":")))
    }
}
