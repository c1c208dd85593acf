//! DHCPv4 messages: bytes <-> [`Packet`]. RFC 2131 section 2 for the header, RFC 2132 for the options.
//!
//! The header has a fixed part of 236 bytes, the magic cookie, then options as code, length, value. Three things that
//! real packets do are undone here, so that nobody else meets them: a value in several parts is joined (RFC 3396),
//! options that overflowed into `file` and `sname` are read there (RFC 2132 section 9.3), a missing END is forgiven.
//! An option that makes no sense is its reader's business and hides no other.

use std::net::Ipv4Addr;

use nom::Parser;
use nom::bytes::complete::take;
use nom::number::complete::{be_u8, be_u16, be_u32};

/// Fixed header and magic cookie; nothing shorter is DHCP.
pub const PACKET_BYTES_MIN: usize = 240;
/// The least that is sent: BOOTP clients drop shorter messages (RFC 1542 section 2.1).
pub const REPLY_BYTES_MIN: usize = 300;
/// The most that is read: one jumbo frame. No DHCP client sends more, and nothing is reassembled.
pub const PACKET_BYTES_MAX: usize = 9000;
/// What every client accepts (RFC 2131 section 2): 576 bytes of IP less its header and UDP's.
pub const REPLY_BYTES_MAX: usize = 548;

const MAGIC_COOKIE: u32 = 0x6382_5363;
const FLAG_BROADCAST: u16 = 0x8000;

/// Option codes that this product speaks (RFC 2132, else as noted).
pub mod code {
    pub const PAD: u8 = 0;
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DOMAIN_NAME_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const BROADCAST_ADDRESS: u8 = 28;
    pub const NTP_SERVER: u8 = 42;
    pub const VENDOR_SPECIFIC: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_SECONDS: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_IDENTIFIER: u8 = 54;
    pub const PARAMETER_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MESSAGE_BYTES_MAX: u8 = 57;
    pub const RENEWAL_SECONDS: u8 = 58;
    pub const REBINDING_SECONDS: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_IDENTIFIER: u8 = 61;
    pub const TFTP_SERVER_NAME: u8 = 66;
    pub const BOOT_FILE_NAME: u8 = 67;
    pub const USER_CLASS: u8 = 77;
    /// RFC 3046.
    pub const RELAY_AGENT: u8 = 82;
    /// RFC 4578 section 2.1.
    pub const CLIENT_ARCHITECTURE: u8 = 93;
    /// RFC 4578 section 2.2.
    pub const CLIENT_INTERFACE: u8 = 94;
    /// RFC 4578 section 2.3.
    pub const CLIENT_MACHINE: u8 = 97;
    /// iPXE's encapsulated options (unassigned by IANA, used by iPXE and gPXE since 2005).
    pub const IPXE: u8 = 175;
    pub const END: u8 = 255;
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    Request = 1,
    Reply = 2,
}

/// Option 53.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageType {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
    Inform = 8,
}

impl MessageType {
    fn from_byte(byte: u8) -> Option<MessageType> {
        use MessageType::*;
        [Discover, Offer, Request, Decline, Ack, Nak, Release, Inform].into_iter().find(|kind| *kind as u8 == byte)
    }

    /// In small letters: `offer`.
    pub fn name(self) -> &'static str {
        match self {
            MessageType::Discover => "discover",
            MessageType::Offer => "offer",
            MessageType::Request => "request",
            MessageType::Decline => "decline",
            MessageType::Ack => "ack",
            MessageType::Nak => "nak",
            MessageType::Release => "release",
            MessageType::Inform => "inform",
        }
    }
}

/// A message, with the names that RFC 2131 gives its fields.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    pub op: Operation,
    /// `htype`, 1 for Ethernet.
    pub hardware_type: u8,
    /// `hlen`: bytes of `chaddr` that count, at most 16.
    pub hardware_len: u8,
    pub hops: u8,
    pub xid: u32,
    /// Seconds since the client began to ask.
    pub secs: u16,
    pub flags: u16,
    /// The address the client has and answers ARP for.
    pub ciaddr: Ipv4Addr,
    /// "Your" address: what the client gets.
    pub yiaddr: Ipv4Addr,
    /// The next server: where the boot file is.
    pub siaddr: Ipv4Addr,
    /// The relay agent.
    pub giaddr: Ipv4Addr,
    pub chaddr: [u8; 16],
    /// Server host name, at most 64 bytes, without its NUL.
    pub sname: Vec<u8>,
    /// Boot file name, at most 128 bytes, without its NUL.
    pub file: Vec<u8>,
    pub options: Options,
}

/// Options in the order of arrival, each code once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options(Vec<(u8, Vec<u8>)>);

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("the message has {0} bytes, less than the fixed part of 240 or more than 9000")]
    Size(usize),
    #[error("operation {0} is neither request nor reply")]
    Operation(u8),
    #[error("the hardware address is {0} bytes long, more than 16")]
    HardwareLength(u8),
    #[error("the magic cookie 63.82.53.63 is missing: this is BOOTP or not DHCP at all")]
    Cookie,
}

impl Packet {
    /// A request of a client whose hardware address is `mac`, with every other field empty.
    pub fn request(xid: u32, mac: [u8; 6]) -> Packet {
        let mut chaddr = [0; 16];
        chaddr[..6].copy_from_slice(&mac);
        Packet {
            op: Operation::Request,
            hardware_type: 1,
            hardware_len: 6,
            hops: 0,
            xid,
            secs: 0,
            flags: 0,
            ciaddr: Ipv4Addr::UNSPECIFIED,
            yiaddr: Ipv4Addr::UNSPECIFIED,
            siaddr: Ipv4Addr::UNSPECIFIED,
            giaddr: Ipv4Addr::UNSPECIFIED,
            chaddr,
            sname: Vec::new(),
            file: Vec::new(),
            options: Options::default(),
        }
    }

    pub fn message_type(&self) -> Option<MessageType> {
        self.options.byte(code::MESSAGE_TYPE).and_then(MessageType::from_byte)
    }

    /// The client cannot be reached by unicast before it has its address (RFC 2131 section 4.1).
    pub fn wants_broadcast(&self) -> bool {
        self.flags & FLAG_BROADCAST != 0
    }

    pub fn set_broadcast(&mut self) {
        self.flags |= FLAG_BROADCAST;
    }

    pub fn parse(bytes: &[u8]) -> Result<Packet, ParseError> {
        if !(PACKET_BYTES_MIN..=PACKET_BYTES_MAX).contains(&bytes.len()) {
            return Err(ParseError::Size(bytes.len()));
        }
        let (options, (mut packet, sname, file)) = header(bytes).map_err(|_| ParseError::Size(bytes.len()))?;
        packet.op = match bytes[0] {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => return Err(ParseError::Operation(other)),
        };
        if packet.hardware_len > 16 {
            return Err(ParseError::HardwareLength(packet.hardware_len));
        }
        let options = options.strip_prefix(&MAGIC_COOKIE.to_be_bytes()).ok_or(ParseError::Cookie)?;
        packet.options.read(options);
        packet.read_overloaded(sname, file);
        Ok(packet)
    }

    /// Option 52: bit 0 says that `file` holds options, bit 1 that `sname` does. `file` is read first
    /// (RFC 2131 section 4.1).
    fn read_overloaded(&mut self, sname: &[u8], file: &[u8]) {
        let overload = self.options.byte(code::OVERLOAD).unwrap_or(0);
        self.options.remove(code::OVERLOAD);
        match overload & 1 {
            1 => self.options.read(file),
            _ => self.file = until_nul(file).to_vec(),
        }
        match overload & 2 {
            2 => self.options.read(sname),
            _ => self.sname = until_nul(sname).to_vec(),
        }
    }

    /// The message in bytes, at least [`REPLY_BYTES_MIN`] long. Where the options exceed `bytes_max`, those that do not
    /// fit go to `file` and `sname` when these are empty (option 52); what fits nowhere is left out, so the caller
    /// adds options in the order of their worth.
    pub fn emit(&self, bytes_max: usize) -> Vec<u8> {
        let mut main = Field::new(bytes_max.max(REPLY_BYTES_MIN) - PACKET_BYTES_MIN);
        let mut file = Field::new(if self.file.is_empty() { 128 } else { 0 });
        let mut sname = Field::new(if self.sname.is_empty() { 64 } else { 0 });
        let fits = self.options.0.iter().map(|(_, value)| encoded_len(value)).sum::<usize>() < main.capacity;
        if !fits {
            main.capacity -= 3; // room for option 52 itself
        }
        for (code, value) in &self.options.0 {
            let _placed = main.push(*code, value) || file.push(*code, value) || sname.push(*code, value);
        }
        let overload = u8::from(!file.bytes.is_empty()) | u8::from(!sname.bytes.is_empty()) << 1;
        if overload != 0 {
            main.capacity += 3;
            main.push(code::OVERLOAD, &[overload]);
        }
        self.assemble(main, file, sname)
    }

    fn assemble(&self, main: Field, file: Field, sname: Field) -> Vec<u8> {
        let mut out = Vec::with_capacity(REPLY_BYTES_MAX);
        out.extend([self.op as u8, self.hardware_type, self.hardware_len, self.hops]);
        out.extend(self.xid.to_be_bytes());
        out.extend(self.secs.to_be_bytes());
        out.extend(self.flags.to_be_bytes());
        for address in [self.ciaddr, self.yiaddr, self.siaddr, self.giaddr] {
            out.extend(address.octets());
        }
        out.extend(self.chaddr);
        extend_padded(&mut out, if sname.bytes.is_empty() { self.sname.clone() } else { sname.finish() }, 64);
        extend_padded(&mut out, if file.bytes.is_empty() { self.file.clone() } else { file.finish() }, 128);
        out.extend(MAGIC_COOKIE.to_be_bytes());
        out.extend(main.finish());
        out.resize(out.len().max(REPLY_BYTES_MIN), code::PAD);
        out
    }
}

type Header<'a> = (Packet, &'a [u8], &'a [u8]);

fn header(input: &[u8]) -> nom::IResult<&[u8], Header<'_>> {
    let address = || be_u32.map(Ipv4Addr::from_bits);
    let (input, (_op, hardware_type, hardware_len, hops)) = (be_u8, be_u8, be_u8, be_u8).parse(input)?;
    let (input, (xid, secs, flags)) = (be_u32, be_u16, be_u16).parse(input)?;
    let (input, (ciaddr, yiaddr, siaddr, giaddr)) = (address(), address(), address(), address()).parse(input)?;
    let (input, (hardware, sname, file)) = (take(16usize), take(64usize), take(128usize)).parse(input)?;
    let mut packet = Packet::request(xid, [0; 6]);
    packet.chaddr.copy_from_slice(hardware);
    let fixed = Packet { hardware_type, hardware_len, hops, secs, flags, ciaddr, yiaddr, siaddr, giaddr, ..packet };
    Ok((input, (fixed, sname, file)))
}

impl Options {
    pub fn value(&self, code: u8) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == code).map(|(_, value)| value.as_slice())
    }

    /// The value of an option of one byte.
    pub fn byte(&self, code: u8) -> Option<u8> {
        self.value(code).and_then(|value| value.first().copied())
    }

    /// The value of an option of four bytes, when it has exactly four.
    pub fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.value(code).and_then(|value| <[u8; 4]>::try_from(value).ok()).map(Ipv4Addr::from)
    }

    pub fn seconds(&self, code: u8) -> Option<u32> {
        self.address(code).map(Ipv4Addr::to_bits)
    }

    /// The addresses of an option that lists them (3, 6, 42).
    pub fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let value = self.value(code).unwrap_or_default();
        value.chunks_exact(4).map(|a| Ipv4Addr::new(a[0], a[1], a[2], a[3])).collect()
    }

    /// As text, with what is not UTF-8 replaced and trailing NULs gone (some firmware counts them in).
    pub fn text(&self, code: u8) -> Option<String> {
        self.value(code).map(|value| String::from_utf8_lossy(until_nul(value)).into_owned())
    }

    pub fn codes(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.iter().map(|(code, _)| *code)
    }

    /// Adds an option at the end, or replaces its value where it stands.
    pub fn set(&mut self, code: u8, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.0.iter_mut().find(|(known, _)| *known == code) {
            Some((_, old)) => *old = value,
            None => self.0.push((code, value)),
        }
    }

    pub fn set_address(&mut self, code: u8, address: Ipv4Addr) {
        self.set(code, address.octets());
    }

    pub fn set_addresses(&mut self, code: u8, addresses: &[Ipv4Addr]) {
        self.set(code, addresses.iter().flat_map(|address| address.octets()).collect::<Vec<u8>>());
    }

    pub fn set_seconds(&mut self, code: u8, seconds: u32) {
        self.set(code, seconds.to_be_bytes());
    }

    pub fn remove(&mut self, code: u8) {
        self.0.retain(|(known, _)| *known != code);
    }

    /// Reads one field of options. A length that runs past the end stops the reading and keeps what came before.
    fn read(&mut self, mut field: &[u8]) {
        while let [code, rest @ ..] = field {
            field = match (*code, rest) {
                (code::PAD, _) => rest,
                (code::END, _) => return,
                (code, [length, rest @ ..]) if rest.len() >= usize::from(*length) => {
                    let (value, rest) = rest.split_at(usize::from(*length));
                    self.append(code, value);
                    rest
                }
                _ => return,
            };
        }
    }

    /// A code that comes again continues the value (RFC 3396 section 5).
    fn append(&mut self, code: u8, part: &[u8]) {
        match self.0.iter_mut().find(|(known, _)| *known == code) {
            Some((_, value)) => value.extend(part),
            None => self.0.push((code, part.to_vec())),
        }
    }
}

/// A place for options, with room for END.
struct Field {
    bytes: Vec<u8>,
    capacity: usize,
}

impl Field {
    fn new(capacity: usize) -> Field {
        Field { bytes: Vec::new(), capacity }
    }

    fn push(&mut self, code: u8, value: &[u8]) -> bool {
        if self.bytes.len() + encoded_len(value) >= self.capacity {
            return false;
        }
        if value.is_empty() {
            self.bytes.extend([code, 0]);
        }
        for part in value.chunks(255) {
            self.bytes.extend([code, part.len() as u8]);
            self.bytes.extend(part);
        }
        true
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.push(code::END);
        self.bytes
    }
}

fn encoded_len(value: &[u8]) -> usize {
    value.len() + 2 * value.len().div_ceil(255).max(1)
}

fn extend_padded(out: &mut Vec<u8>, mut value: Vec<u8>, len: usize) {
    value.resize(len, 0);
    out.extend(value);
}

fn until_nul(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn discover() -> Packet {
        let mut packet = Packet::request(0x1234_5678, [0x52, 0x54, 0, 0xaa, 0, 1]);
        packet.options.set(code::MESSAGE_TYPE, [MessageType::Discover as u8]);
        packet
    }

    #[test]
    fn an_undecodable_option_hides_none_behind_it() {
        let mut packet = discover();
        packet.options.set(code::HOST_NAME, *b"caf\xe9");
        packet.options.set(code::CLIENT_INTERFACE, [1]);
        packet.options.set(code::VENDOR_CLASS, *b"PXEClient");
        let read = Packet::parse(&packet.emit(REPLY_BYTES_MAX)).unwrap();
        assert_eq!(read.options.text(code::VENDOR_CLASS).unwrap(), "PXEClient");
        assert_eq!(read.options.text(code::HOST_NAME).unwrap(), "caf\u{fffd}");
    }

    #[test]
    fn options_that_do_not_fit_go_to_file_and_sname_and_are_read_back() {
        let mut packet = discover();
        for code in 200..210 {
            packet.options.set(code, vec![code; 40]);
        }
        let bytes = packet.emit(REPLY_BYTES_MAX);
        assert!(bytes.len() <= REPLY_BYTES_MAX);
        assert_eq!(Packet::parse(&bytes).unwrap(), packet);
    }

    #[test]
    fn an_option_longer_than_255_bytes_travels_in_parts() {
        let mut packet = discover();
        packet.options.set(43, vec![7; 600]);
        assert_eq!(Packet::parse(&packet.emit(1400)).unwrap(), packet);
    }

    #[test]
    fn a_missing_end_and_a_cut_option_are_forgiven() {
        let mut bytes = discover().emit(REPLY_BYTES_MAX);
        bytes.truncate(240 + 3);
        assert_eq!(Packet::parse(&bytes).unwrap().message_type(), Some(MessageType::Discover));
        bytes.extend([60, 200, b'P']);
        assert_eq!(Packet::parse(&bytes).unwrap().message_type(), Some(MessageType::Discover));
    }

    #[test]
    fn what_is_not_dhcp_is_refused_with_its_reason() {
        let good = discover().emit(REPLY_BYTES_MAX);
        assert_eq!(Packet::parse(&good[..239]), Err(ParseError::Size(239)));
        let damaged = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Packet::parse(&bytes)
        };
        assert_eq!(damaged(0, 9), Err(ParseError::Operation(9)));
        assert_eq!(damaged(2, 17), Err(ParseError::HardwareLength(17)));
        assert_eq!(damaged(236, 0), Err(ParseError::Cookie));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = Packet::parse(&bytes);
        }

        #[test]
        fn what_is_emitted_parses_back(
            fixed in any::<(u8, u32, u16, u16, [u8; 16])>(),
            addresses in any::<[u32; 4]>(),
            file in "[!-~]{0,128}",
            options in proptest::collection::btree_map(
                1u8..255, proptest::collection::vec(any::<u8>(), 0..400), 0..12),
        ) {
            let mut packet = discover();
            (packet.hops, packet.xid, packet.secs, packet.flags, packet.chaddr) = fixed;
            [packet.ciaddr, packet.yiaddr, packet.siaddr, packet.giaddr] = addresses.map(Ipv4Addr::from_bits);
            packet.file = file.into_bytes();
            for (code, value) in options.into_iter().filter(|(code, _)| *code != code::OVERLOAD) {
                packet.options.set(code, value);
            }
            prop_assert_eq!(Packet::parse(&packet.emit(8000)).unwrap(), packet);
        }
    }
}
