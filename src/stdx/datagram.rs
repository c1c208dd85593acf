//! UDP datagrams from a chosen address out of a chosen interface, and many in one call.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

/// Sends one datagram with `source` as its address, whatever the routing table would choose (IP_PKTINFO, ip(7)).
/// An unspecified `source` and interface 0 leave the choice to the kernel. Returns `WouldBlock` as it comes.
pub fn send_from(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: SocketAddrV4,
    source: Ipv4Addr,
    interface_index: u32,
) -> io::Result<usize> {
    let info = libc::in_pktinfo {
        ipi_ifindex: i32::try_from(interface_index).unwrap_or(0),
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    };
    let to = SockaddrIn::from(to);
    let parts = [IoSlice::new(bytes)];
    let control = [ControlMessage::Ipv4PacketInfo(&info)];
    Ok(sendmsg(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), Some(&to))?)
}

/// Sends `bytes` as datagrams of `segment_bytes` each, the last one shorter, in one call (UDP_SEGMENT, udp(7): the
/// kernel cuts them, at most 64 and 65507 bytes a call). The socket is connected. `None` where the kernel or the card
/// cannot, which is for the caller to send one by one.
pub fn send_segments(socket: BorrowedFd<'_>, bytes: &[u8], segment_bytes: u16) -> io::Result<Option<usize>> {
    let parts = [IoSlice::new(bytes)];
    let control = [ControlMessage::UdpGsoSegments(&segment_bytes)];
    match sendmsg::<SockaddrIn>(socket.as_raw_fd(), &parts, &control, MsgFlags::empty(), None) {
        Ok(sent) => Ok(Some(sent)),
        Err(nix::Error::EIO | nix::Error::EINVAL | nix::Error::EOPNOTSUPP | nix::Error::EMSGSIZE) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
