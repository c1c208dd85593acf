//! Packets as firmware, iPXE and DHCP servers send them.

use std::net::Ipv4Addr;

use remint::dhcp::packet::{MessageType, Operation, Packet, REPLY_BYTES_MAX, code};
use remint::stdx::arp::{self, Arp};
use remint::stdx::mac::MacAddr;

use super::Seeds;

pub fn seeds(target: &str) -> Seeds {
    match target {
        "dhcp" => [requests(), replies()].concat(),
        "devices" => answers_of_devices(),
        _ => transfers(),
    }
}

/// An ARP probe and its answer, a page of an ATA drive, one of an NVMe drive.
fn answers_of_devices() -> Seeds {
    let (own, other) = (MacAddr(MAC), MacAddr([2, 0, 0, 0, 0, 1]));
    let address = Ipv4Addr::new(10, 0, 0, 9);
    let probe = Arp::probe(own, address);
    let answer =
        Arp { operation: arp::Operation::Reply, sender_mac: other, sender: address, target_mac: own, target: probe.sender };
    let mut ata = vec![0; 512];
    ata[2..14].copy_from_slice(&[5, 0x33, 0, 100, 100, 7, 0, 0, 0, 0, 0, 0]);
    (ata[89 * 2], ata[128 * 2]) = (60, 0x29);
    let mut nvme = vec![0; 512];
    nvme[..6].copy_from_slice(&[0, 0x3B, 1, 100, 10, 7]);
    [("probe", 0, probe.emit().to_vec()), ("answer", 0, answer.emit().to_vec()), ("ata", 1, ata), ("nvme", 2, nvme)]
        .into_iter()
        .flat_map(|(name, which, bytes)| super::behind(which, vec![(name.to_owned(), bytes)]))
        .collect()
}

const MAC: [u8; 6] = [0x52, 0x54, 0, 0xAA, 0, 1];
const XID: u32 = 0x5245_4D49;

/// Vendor class, architecture, user class of firmware that is met.
const FIRMWARE: [(&str, &[u8], &[u8]); 6] = [
    ("PXEClient:Arch:00000:UNDI:002001", &[0, 0], b""),
    ("PXEClient:Arch:00007:UNDI:003016", &[0, 7], b""),
    ("HTTPClient:Arch:00016:UNDI:003001", &[0, 16], b""),
    ("PXEClient:Arch:00011:UNDI:003000", &[0, 11, 0, 7], b""),
    ("PXEClient:Arch:00000:UNDI:002001", &[0, 0], b"iPXE"),
    ("MSFT 5.0", b"", b""),
];

fn requests() -> Seeds {
    let mut seeds = Seeds::new();
    for (index, (class, architecture, user)) in FIRMWARE.iter().enumerate() {
        let mut input = Vec::new();
        for kind in [MessageType::Discover, MessageType::Request, MessageType::Inform, MessageType::Release] {
            let mut packet = Packet::request(XID, MAC);
            packet.options.set(code::MESSAGE_TYPE, [kind as u8]);
            packet.options.set(code::PARAMETER_LIST, [1, 3, 6, 12, 15, 43, 60, 66, 67, 97, 175]);
            packet.options.set(code::MESSAGE_BYTES_MAX, 1260u16.to_be_bytes());
            packet.options.set(code::VENDOR_CLASS, class.as_bytes());
            packet.options.set(code::CLIENT_MACHINE, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
            packet.options.set(code::CLIENT_INTERFACE, [1, 3, 16]);
            packet.options.set(code::HOST_NAME, &b"lab-1"[..]);
            if !architecture.is_empty() {
                packet.options.set(code::CLIENT_ARCHITECTURE, *architecture);
            }
            if !user.is_empty() {
                packet.options.set(code::USER_CLASS, *user);
                packet.options.set(code::IPXE, [177, 5, 1, 0x80, 0x86, 0x10, 0x0E, 235, 3, 1, 0, 0]);
            }
            if kind == MessageType::Request {
                packet.options.set_address(code::REQUESTED_ADDRESS, [10, 77, 0, 128].into());
                packet.options.set_address(code::SERVER_IDENTIFIER, [10, 77, 0, 1].into());
            }
            if kind == MessageType::Inform || kind == MessageType::Release {
                packet.ciaddr = [10, 77, 0, 128].into();
            }
            if index == 3 {
                packet.giaddr = [10, 77, 0, 9].into();
                packet.options.set(code::RELAY_AGENT, [1, 4, 0, 0, 0, 7, 5, 4, 10, 77, 0, 0]);
            }
            push_framed(&mut input, &packet.emit(REPLY_BYTES_MAX));
        }
        seeds.push((format!("firmware-{index}"), input));
    }
    seeds
}

fn replies() -> Seeds {
    let reply = |kind: MessageType| {
        let mut packet = Packet::request(XID, MAC);
        packet.op = Operation::Reply;
        packet.yiaddr = [10, 77, 0, 128].into();
        packet.options.set(code::MESSAGE_TYPE, [kind as u8]);
        packet.options.set_address(code::SERVER_IDENTIFIER, [10, 77, 0, 1].into());
        packet.options.set_address(code::SUBNET_MASK, [255, 255, 255, 0].into());
        packet.options.set_address(code::ROUTER, [10, 77, 0, 1].into());
        packet.options.set_seconds(code::LEASE_SECONDS, 3600);
        packet.emit(REPLY_BYTES_MAX)
    };
    let all = |kinds: &[MessageType]| {
        let mut input = Vec::new();
        kinds.iter().for_each(|kind| push_framed(&mut input, &reply(*kind)));
        input
    };
    use MessageType::{Ack, Nak, Offer};
    vec![("bound".to_owned(), all(&[Offer, Ack, Ack])), ("refused".to_owned(), all(&[Offer, Nak, Offer, Ack]))]
}

/// Names that are asked for, after whole transfers.
fn transfers() -> Seeds {
    let acks = |last: u8| (0..=last).map(|block| vec![0, 4, 0, block]).collect::<Vec<_>>();
    let transfer = |request: &[u8], rest: Vec<Vec<u8>>| {
        let mut input = Vec::new();
        push_framed(&mut input, request);
        rest.iter().for_each(|packet| push_framed(&mut input, packet));
        input
    };
    let options = b"\0\x01boot/x\0octet\0tsize\x000\0blksize\x001428\0windowsize\x004\0timeout\x002\0";
    let names = NAMES.iter().enumerate().map(|(index, name)| {
        (format!("name-{index}"), transfer(format!("\0\x01{name}\0octet\0").as_bytes(), Vec::new()))
    });
    let mut seeds: Seeds = names.collect();
    seeds.extend([
        ("plain".to_owned(), transfer(b"\0\x01undionly.kpxe\0octet\0", acks(10))),
        ("options".to_owned(), transfer(options, acks(5))),
        ("netascii".to_owned(), transfer(b"\0\x01x\0netascii\0", acks(3))),
        ("silence".to_owned(), transfer(options, vec![vec![0, 5, 0, 8, b'n', b'o', 0], vec![0, 2], vec![9, 9]])),
    ]);
    seeds
}

fn push_framed(input: &mut Vec<u8>, packet: &[u8]) {
    input.extend((packet.len() as u16).to_le_bytes());
    input.extend(packet);
}

const NAMES: [&str; 6] = [
    "autoexec.ipxe",
    "/grub/grub.cfg-01-52-54-00-aa-00-01",
    "/grub/machine/x86_64/52:54:00:aa:00:01.cfg",
    "/boot/files/vmlinuz",
    "../../etc/passwd",
    "52:54:00:aa:00:01&00000000-0000-0000-0000-000000000001&x86_64&efi",
];
