//! Wake-on-LAN: a machine that is switched off but listens.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};

use crate::stdx::mac::MacAddr;

/// The discard port, as everybody uses; cards look at the bytes and not at the port.
const PORT: u16 = 9;

/// AMD's "magic packet": six bytes of ones, then the address sixteen times.
pub fn packet(mac: MacAddr) -> [u8; 102] {
    let mut packet = [0xff; 102];
    packet[6..].chunks_exact_mut(6).for_each(|place| place.copy_from_slice(&mac.0));
    packet
}

/// Sends the packet to each of the networks' broadcast addresses; an error only when none of them took it.
pub fn send(mac: MacAddr, broadcasts: &[Ipv4Addr]) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_broadcast(true)?;
    let mut last = Err(io::Error::other("no network has a broadcast address"));
    let mut sent = false;
    for broadcast in broadcasts {
        last = socket.send_to(&packet(mac), (*broadcast, PORT)).map(|_| ());
        sent |= last.is_ok();
    }
    if sent { Ok(()) } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_six_ones_and_the_address_sixteen_times() {
        let packet = packet(MacAddr([1, 2, 3, 4, 5, 6]));
        assert_eq!(packet[..6], [0xff; 6]);
        assert!(packet[6..].chunks(6).all(|part| part == [1, 2, 3, 4, 5, 6]));
    }
}
