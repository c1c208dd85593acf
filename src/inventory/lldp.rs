//! What the switch says of itself on the cable (IEEE 802.1AB-2016): which switch, which port.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::model::Neighbour;
use crate::stdx::frame::Listener;
use crate::stdx::hex;
use crate::stdx::mac::MacAddr;

/// 802.1AB 7.3
const ETHERTYPE: u16 = 0x88CC;
/// "Nearest bridge", 7.1: what no bridge passes on.
const NEAREST_BRIDGE: MacAddr = MacAddr([0x01, 0x80, 0xC2, 0, 0, 0x0E]);
/// Frames that are read at one time: some switches send one each second, and a report comes each quarter of an hour.
const FRAMES_MAX: usize = 4096;

/// The neighbour that was heard last on the interface with this number. The first call begins to listen, so it answers
/// nothing; switches speak every 30 seconds (9.2.5.7).
pub fn neighbour(interface_index: u32) -> Option<Neighbour> {
    static HEARD: OnceLock<Option<Mutex<Heard>>> = OnceLock::new();
    let heard = HEARD.get_or_init(|| Listener::open(ETHERTYPE).ok().map(|listener| Mutex::new(Heard::new(listener))));
    heard.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner).neighbour(interface_index)
}

struct Heard {
    listener: Listener,
    /// By interface. `None`: it is listened to, and nothing was said yet.
    neighbours: BTreeMap<u32, Option<Neighbour>>,
}

impl Heard {
    fn new(listener: Listener) -> Heard {
        Heard { listener, neighbours: BTreeMap::new() }
    }

    fn neighbour(&mut self, interface_index: u32) -> Option<Neighbour> {
        if !self.neighbours.contains_key(&interface_index) {
            self.listener.join(interface_index, NEAREST_BRIDGE).ok()?;
            self.neighbours.insert(interface_index, None);
        }
        let mut buffer = [0; 2048];
        for _ in 0..FRAMES_MAX {
            let Ok((len, from)) = self.listener.receive(&mut buffer) else { break };
            if let Some(said) = parse(&buffer[..len]) {
                self.neighbours.insert(from, said);
            }
        }
        self.neighbours.get(&interface_index).cloned().flatten()
    }
}

/// Type and length of a TLV are 7 and 9 bits (8.4.1); the first three are identifier, port, and how long it holds (8.5.1).
/// `Some(None)`: the neighbour says goodbye, with a time of 0 (9.1.2.2).
pub fn parse(frame: &[u8]) -> Option<Option<Neighbour>> {
    const CHASSIS: u8 = 1;
    const PORT: u8 = 2;
    const TIME_TO_LIVE: u8 = 3;
    const PORT_DESCRIPTION: u8 = 4;
    const SYSTEM_NAME: u8 = 5;
    let mut rest = frame;
    let mut neighbour = Neighbour::default();
    let mut lives = None;
    while let [high, low, after @ ..] = rest {
        let (kind, len) = (high >> 1, usize::from(high & 1) << 8 | usize::from(*low));
        let (value, next) = after.split_at_checked(len)?;
        rest = next;
        match kind {
            0 => break,
            CHASSIS => neighbour.chassis = identifier(value, 4)?,
            PORT => neighbour.port = identifier(value, 3)?,
            TIME_TO_LIVE => lives = Some(u16::from_be_bytes(value.get(..2)?.try_into().ok()?)),
            PORT_DESCRIPTION => neighbour.port_description = text(value),
            SYSTEM_NAME => neighbour.system = text(value),
            _ => {}
        }
    }
    let is_whole = !neighbour.chassis.is_empty() && !neighbour.port.is_empty();
    Some((lives? > 0 && is_whole).then_some(neighbour))
}

/// An identifier with its subtype: one of them is a hardware address (8.5.2.2, 8.5.3.2), 5 of a chassis and 4 of a port a
/// network address with its family; the others are text.
fn identifier(value: &[u8], mac_subtype: u8) -> Option<String> {
    let (subtype, value) = value.split_first()?;
    if *subtype == mac_subtype
        && let Ok(mac) = <[u8; 6]>::try_from(value)
    {
        return Some(MacAddr(mac).to_string());
    }
    match value {
        [1, a, b, c, d] if *subtype == mac_subtype + 1 => Some(format!("{a}.{b}.{c}.{d}")),
        _ => text(value).or_else(|| (!value.is_empty()).then(|| hex::emit(value))),
    }
}

fn text(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?.trim_matches(['\0', ' ']);
    (!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
        [&[kind << 1 | (value.len() >> 8) as u8, value.len() as u8][..], value].concat()
    }

    fn frame(seconds: u16) -> Vec<u8> {
        [
            tlv(1, &[4, 2, 0, 0, 0, 0, 9]),
            tlv(2, b"\x05ge-0/0/7"),
            tlv(3, &seconds.to_be_bytes()),
            tlv(127, &[0; 300]),
            tlv(4, b"desk 4"),
            tlv(5, b"switch-2\0"),
            tlv(0, &[]),
        ]
        .concat()
    }

    #[test]
    fn switch_and_port_are_read_and_a_goodbye_is_one() {
        let expect = Neighbour {
            chassis: "02:00:00:00:00:09".into(),
            system: Some("switch-2".into()),
            port: "ge-0/0/7".into(),
            port_description: Some("desk 4".into()),
        };
        assert_eq!(parse(&frame(120)), Some(Some(expect)));
        assert_eq!(parse(&frame(0)), Some(None));
        let by_address = [tlv(1, &[5, 1, 10, 0, 0, 1]), tlv(2, &[3, 2, 0, 0, 0, 0, 1]), tlv(3, &[0, 9])].concat();
        let parsed = parse(&by_address).unwrap().unwrap();
        assert_eq!((parsed.chassis.as_str(), parsed.port.as_str()), ("10.0.0.1", "02:00:00:00:00:01"));
    }

    proptest! {
        #[test]
        fn no_frame_is_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0..340_usize) {
            let _ = parse(&bytes);
            let whole = frame(9);
            let _ = parse(&whole[..cut.min(whole.len())]);
        }
    }
}
