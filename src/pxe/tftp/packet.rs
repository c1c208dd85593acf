//! TFTP packets: bytes <-> [`Packet`]. RFC 1350 section 5, RFC 2347 for the options.

use nom::Parser;
use nom::bytes::complete::{tag, take_till};
use nom::number::complete::be_u16;
use nom::sequence::terminated;

/// Longest request that is read: RFC 2347 section 3.
pub const REQUEST_BYTES_MAX: usize = 512;

const READ: u16 = 1;
const WRITE: u16 = 2;
const DATA: u16 = 3;
const ACK: u16 = 4;
const ERROR: u16 = 5;
const OPTION_ACK: u16 = 6;

/// What a client sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Packet {
    Read(ReadRequest),
    Write,
    Ack(u16),
    Error { code: u16, message: String },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    #[default]
    Octet,
    Netascii,
}

/// A read request with its options. Unknown options are ignored, as RFC 2347 wants it; values that are no numbers or out
/// of their range are treated as not asked for, because firmware exists that sends them and reads plain blocks as well.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ReadRequest {
    pub name: String,
    pub mode: Mode,
    /// 8 to 65464 (RFC 2348).
    pub block_bytes: Option<u16>,
    /// 1 to 255 seconds (RFC 2349).
    pub timeout_seconds: Option<u8>,
    /// Whether the size of the file is wanted (RFC 2349).
    pub size: bool,
    /// 1 to 65535 blocks (RFC 7440).
    pub window_blocks: Option<u16>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorCode {
    NotDefined = 0,
    FileNotFound = 1,
    AccessViolation = 2,
    IllegalOperation = 4,
    UnknownTransfer = 5,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    #[error("the packet is cut short")]
    Short,
    #[error("operation {0} is none that a client sends")]
    Operation(u16),
    #[error("the file name is not text")]
    Name,
    #[error("the mode is neither octet nor netascii")]
    Mode,
}

impl Packet {
    pub fn parse(bytes: &[u8]) -> Result<Packet, ParseError> {
        let (rest, operation) = be_u16::<_, nom::error::Error<&[u8]>>(bytes).map_err(|_| ParseError::Short)?;
        match operation {
            READ => read_request(&rest[..rest.len().min(REQUEST_BYTES_MAX)]).map(Packet::Read),
            WRITE => Ok(Packet::Write),
            ACK => Ok(Packet::Ack(number(rest)?.1)),
            ERROR => {
                let (text, code) = number(rest)?;
                let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
                let message = String::from_utf8_lossy(&text[..text.len().min(200)]).into_owned();
                Ok(Packet::Error { code, message })
            }
            other => Err(ParseError::Operation(other)),
        }
    }
}

fn number(input: &[u8]) -> Result<(&[u8], u16), ParseError> {
    be_u16::<_, nom::error::Error<&[u8]>>(input).map_err(|_| ParseError::Short)
}

/// Bytes up to a NUL.
fn string(input: &[u8]) -> Result<(&[u8], &[u8]), ParseError> {
    let mut text = terminated(take_till(|byte| byte == 0), tag(&[0u8][..]));
    text.parse(input).map_err(|_: nom::Err<nom::error::Error<&[u8]>>| ParseError::Short)
}

fn read_request(input: &[u8]) -> Result<ReadRequest, ParseError> {
    let (input, name) = string(input)?;
    let (mut input, mode) = string(input)?;
    let name = std::str::from_utf8(name).map_err(|_| ParseError::Name)?.to_owned();
    let mode = match mode {
        mode if mode.eq_ignore_ascii_case(b"octet") => Mode::Octet,
        mode if mode.eq_ignore_ascii_case(b"netascii") => Mode::Netascii,
        _ => return Err(ParseError::Mode),
    };
    let mut request = ReadRequest { name, mode, ..ReadRequest::default() };
    while let Ok((rest, option)) = string(input) {
        let Ok((rest, value)) = string(rest) else { break };
        request.take_option(option, value);
        input = rest;
    }
    Ok(request)
}

impl ReadRequest {
    fn take_option(&mut self, name: &[u8], value: &[u8]) {
        let value: Option<u32> = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok());
        match name.to_ascii_lowercase().as_slice() {
            b"blksize" => self.block_bytes = value.filter(|v| *v >= 8).map(|v| v.min(65464) as u16),
            b"timeout" => self.timeout_seconds = value.filter(|v| (1..=255).contains(v)).map(|v| v as u8),
            b"tsize" => self.size = true,
            b"windowsize" => self.window_blocks = value.filter(|v| (1..=65535).contains(v)).map(|v| v as u16),
            _ => {}
        }
    }

    pub fn has_options(&self) -> bool {
        self.block_bytes.is_some() || self.timeout_seconds.is_some() || self.size || self.window_blocks.is_some()
    }
}

/// `blksize` and its like as an option acknowledgement.
pub fn emit_option_ack(options: &[(&str, u64)]) -> Vec<u8> {
    let mut bytes = OPTION_ACK.to_be_bytes().to_vec();
    for (name, value) in options {
        bytes.extend(name.as_bytes());
        bytes.push(0);
        bytes.extend(value.to_string().as_bytes());
        bytes.push(0);
    }
    bytes
}

/// Appends a data packet to `out`.
pub fn emit_data(block: u16, data: &[u8], out: &mut Vec<u8>) {
    out.extend(DATA.to_be_bytes());
    out.extend(block.to_be_bytes());
    out.extend(data);
}

pub fn emit_error(code: ErrorCode, message: &str) -> Vec<u8> {
    let mut bytes = ERROR.to_be_bytes().to_vec();
    bytes.extend((code as u16).to_be_bytes());
    bytes.extend(message.as_bytes());
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_of_real_clients_are_read() {
        let check = |bytes: &[u8], expect: ReadRequest| assert_eq!(Packet::parse(bytes), Ok(Packet::Read(expect)));
        let plain = ReadRequest { name: "pxelinux.0".into(), ..ReadRequest::default() };
        check(b"\0\x01pxelinux.0\0octet\0", plain.clone());
        check(b"\0\x01pxelinux.0\0OCTET\0tsize\0\x30\0", ReadRequest { size: true, ..plain.clone() });
        let edk2 = ReadRequest { size: true, block_bytes: Some(1468), window_blocks: Some(4), ..plain.clone() };
        check(b"\0\x01pxelinux.0\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0", edk2);
        check(b"\0\x01pxelinux.0\0octet\0blksize\x007\0timeout\x000\0BLKSIZE\0x\0multicast\0\0cut", plain.clone());
        check(b"\0\x01pxelinux.0\0octet\0blksize\x0070000\0", ReadRequest { block_bytes: Some(65464), ..plain });
    }

    #[test]
    fn what_no_client_sends_is_refused() {
        assert_eq!(Packet::parse(b"\0"), Err(ParseError::Short));
        assert_eq!(Packet::parse(b"\0\x01name\0octet"), Err(ParseError::Short));
        assert_eq!(Packet::parse(b"\0\x01name\0mail\0"), Err(ParseError::Mode));
        assert_eq!(Packet::parse(b"\0\x01\xff\xfe\0octet\0"), Err(ParseError::Name));
        assert_eq!(Packet::parse(b"\0\x03\0\x01data"), Err(ParseError::Operation(3)));
        assert_eq!(Packet::parse(b"\0\x04\0"), Err(ParseError::Short));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Packet::parse(&bytes);
        }
    }
}
