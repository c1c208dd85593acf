//! UDP datagrams from a chosen address out of a chosen interface, and many in one call.

#![expect(unsafe_code, reason = "nix does not say how many datagrams sendmmsg has taken")]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce};
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmsg, setsockopt};

/// Gives a socket a receive buffer of so many bytes. Without the privilege (`CAP_NET_ADMIN`) the kernel gives what
/// `net.core.rmem_max` allows, 208 KiB on most systems: some hundreds of small datagrams.
pub fn set_receive_buffer(socket: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    setsockopt(&socket, RcvBufForce, &bytes).or_else(|_| setsockopt(&socket, RcvBuf, &bytes)).map_err(io::Error::from)
}

/// Datagrams that came in together, in memory that is used again.
pub struct Batch {
    memory: Box<[u8]>,
    datagram_bytes_max: usize,
    received: Vec<(usize, SocketAddrV4)>,
}

impl Batch {
    /// Room for so many datagrams; what is longer is cut.
    pub fn new(datagrams_max: usize, datagram_bytes_max: usize) -> Batch {
        let memory = vec![0; datagrams_max * datagram_bytes_max].into_boxed_slice();
        Batch { memory, datagram_bytes_max, received: Vec::new() }
    }

    /// Takes what has come in, in one call (recvmmsg(2)), in place of what was there before. The socket does not block:
    /// `WouldBlock` as it comes.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.received.clear();
        let memory = self.memory.chunks_mut(self.datagram_bytes_max);
        let mut parts: Vec<[IoSliceMut<'_>; 1]> = memory.map(|datagram| [IoSliceMut::new(datagram)]).collect();
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(parts.len(), None);
        let found = recvmmsg(socket.as_raw_fd(), &mut headers, parts.iter_mut(), MsgFlags::empty(), None)?;
        // Without the address of who sent it there is nobody to answer; a kernel that leaves it out is not known.
        let unknown = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        self.received.extend(found.map(|one| (one.bytes, one.address.map_or(unknown, SocketAddrV4::from))));
        Ok(())
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], SocketAddrV4)> {
        let memory = self.memory.chunks(self.datagram_bytes_max);
        memory.zip(&self.received).map(|(datagram, (len, from))| (&datagram[..*len], *from))
    }
}

/// IP_PKTINFO as a control message; the padding at the end makes it CMSG_SPACE long.
#[repr(C)]
struct PacketInfo {
    header: libc::cmsghdr,
    info: libc::in_pktinfo,
}

/// Sends datagrams as [`send_from`] sends one, in one call (sendmmsg(2)). Gives how many the kernel took: fewer than there are
/// when its buffer is full or the next one fails. The error is that of the first.
pub fn send_many(
    socket: BorrowedFd<'_>,
    datagrams: &[(Vec<u8>, SocketAddrV4)],
    source: Ipv4Addr,
    interface_index: u32,
) -> io::Result<usize> {
    // SAFETY: all-zero is a valid `cmsghdr`, which has integers only.
    let mut header: libc::cmsghdr = unsafe { mem::zeroed() };
    // SAFETY: only arithmetic.
    header.cmsg_len = unsafe { libc::CMSG_LEN(size_of::<libc::in_pktinfo>() as u32) } as _;
    (header.cmsg_level, header.cmsg_type) = (libc::IPPROTO_IP, libc::IP_PKTINFO);
    let mut control = PacketInfo { header, info: packet_info(source, interface_index) };
    let mut addresses: Vec<libc::sockaddr_in> =
        datagrams.iter().map(|(_, to)| *SockaddrIn::from(*to).as_ref()).collect();
    let part = |bytes: &[u8]| libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut parts: Vec<libc::iovec> = datagrams.iter().map(|(bytes, _)| part(bytes)).collect();
    let message = |(address, part): (&mut libc::sockaddr_in, &mut libc::iovec)| {
        // SAFETY: all-zero is a valid `mmsghdr`: integers, and pointers that may be null.
        let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
        message.msg_hdr.msg_name = (&raw mut *address).cast();
        message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (&raw mut *part, 1);
        message.msg_hdr.msg_control = (&raw mut control).cast();
        message.msg_hdr.msg_controllen = size_of::<PacketInfo>() as _;
        message
    };
    let mut messages: Vec<libc::mmsghdr> = addresses.iter_mut().zip(&mut parts).map(message).collect();
    // SAFETY: every pointer in the messages is to a value of this function or to a datagram of the caller, all of them live
    // and of the lengths given; the kernel writes only the lengths that it sent, into the messages themselves.
    let taken = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), messages.len() as _, 0) };
    usize::try_from(taken).map_err(|_| io::Error::last_os_error())
}

fn packet_info(source: Ipv4Addr, interface_index: u32) -> libc::in_pktinfo {
    libc::in_pktinfo {
        ipi_ifindex: i32::try_from(interface_index).unwrap_or(0),
        ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
        ipi_addr: libc::in_addr { s_addr: 0 },
    }
}

/// Sends one datagram with `source` as its address, whatever the routing table would choose (IP_PKTINFO, ip(7)).
/// An unspecified `source` and interface 0 leave the choice to the kernel. Returns `WouldBlock` as it comes.
pub fn send_from(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    to: SocketAddrV4,
    source: Ipv4Addr,
    interface_index: u32,
) -> io::Result<usize> {
    let info = packet_info(source, interface_index);
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn many_leave_in_one_call_from_the_address_that_was_chosen_and_come_in_in_one() {
        let bound = || {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let (sender, first, second) = (UdpSocket::bind("0.0.0.0:0").unwrap(), bound(), bound());
        let to = |socket: &UdpSocket| match socket.local_addr().unwrap() {
            std::net::SocketAddr::V4(address) => address,
            std::net::SocketAddr::V6(_) => unreachable!(),
        };
        let datagrams = [(vec![1; 300], to(&first)), (vec![2; 9], to(&second)), (vec![3; 30], to(&first))];
        let source = Ipv4Addr::new(127, 0, 0, 7);
        assert_eq!(send_many(sender.as_fd(), &datagrams, source, 0).unwrap(), 3);
        let mut batch = Batch::new(4, 100);
        batch.receive(first.as_fd()).unwrap();
        let from = SocketAddrV4::new(source, to(&sender).port());
        assert_eq!(batch.iter().collect::<Vec<_>>(), [(&[1; 100][..], from), (&[3; 30], from)]);
        assert_eq!(batch.receive(first.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(batch.iter().count(), 0);
        batch.receive(second.as_fd()).unwrap();
        assert_eq!(batch.iter().next(), Some((&[2; 9][..], from)));
    }
}
