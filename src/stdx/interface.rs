//! Network interfaces through the kernel's ioctls (netdevice(7), ethtool): up, address, route, the card's own address.

#![expect(unsafe_code, reason = "ioctl takes a pointer to a struct whose layout depends on the request")]

use std::io;
use std::mem;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::stdx::mac::MacAddr;

/// Sets the interface administratively up, so that the card looks for a link.
pub fn set_up(name: &str) -> io::Result<()> {
    let socket = control_socket()?;
    let mut request = request_for(name)?;
    call(&socket, libc::SIOCGIFFLAGS, &mut request)?;
    // SAFETY: SIOCGIFFLAGS has just filled `ifru_flags`, and every bit pattern of a `c_short` is one.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    call(&socket, libc::SIOCSIFFLAGS, &mut request)
}

/// Gives the interface its address and netmask; the kernel adds the route to that network.
pub fn set_address(name: &str, address: Ipv4Addr, netmask: Ipv4Addr) -> io::Result<()> {
    let socket = control_socket()?;
    for (operation, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, netmask)] {
        let mut request = request_for(name)?;
        request.ifr_ifru.ifru_addr = generic(value);
        call(&socket, operation, &mut request)?;
    }
    Ok(())
}

/// Sends what has no other route to `gateway` by way of the interface. That the route is there already is no error.
pub fn add_default_route(name: &str, gateway: Ipv4Addr) -> io::Result<()> {
    let socket = control_socket()?;
    let request = request_for(name)?;
    // SAFETY: all-zero is a valid `rtentry`: integers, and pointers that may be null.
    let mut route: libc::rtentry = unsafe { mem::zeroed() };
    route.rt_gateway = generic(gateway);
    route.rt_dst = generic(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = generic(Ipv4Addr::UNSPECIFIED);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    route.rt_dev = request.ifr_name.as_ptr().cast_mut();
    match call(&socket, libc::SIOCADDRT, &mut route) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        done => done,
    }
}

/// The address that the maker gave the card, whatever it has been told since. `None` where the driver does not say
/// (virtual cards) or says zero.
pub fn permanent_address(name: &str) -> Option<MacAddr> {
    /// `struct ethtool_perm_addr` (linux/ethtool.h) with room for the longest hardware address, MAX_ADDR_LEN.
    #[repr(C)]
    struct PermanentAddress {
        command: u32,
        size: u32,
        data: [u8; 32],
    }
    const ETHTOOL_GPERMADDR: u32 = 0x20;
    let socket = control_socket().ok()?;
    let mut answer = PermanentAddress { command: ETHTOOL_GPERMADDR, size: 32, data: [0; 32] };
    let mut request = request_for(name).ok()?;
    request.ifr_ifru.ifru_data = (&raw mut answer).cast();
    call(&socket, libc::SIOCETHTOOL, &mut request).ok()?;
    let octets: [u8; 6] = answer.data[..6].try_into().ok()?;
    (answer.size == 6 && octets != [0; 6] && octets != [0xff; 6]).then_some(MacAddr(octets))
}

fn control_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

/// A zeroed request with the interface's name, at most 15 bytes.
fn request_for(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero is a valid `ifreq`: integers, and pointers that may be null.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

/// The address as the first 16 bytes of a `sockaddr_in` (ip(7)): family, port, address in network order.
fn generic(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..6].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn call<T>(socket: &OwnedFd, operation: libc::Ioctl, argument: &mut T) -> io::Result<()> {
    // SAFETY: the callers pass the struct that `operation` is documented to take (`ifreq`, or `rtentry` for SIOCADDRT),
    // fully initialised, and what it points to outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), operation, std::ptr::from_mut(argument)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_no_maker_and_bad_names_are_refused() {
        assert_eq!(permanent_address("lo"), None);
        assert!(set_up("").is_err());
        assert!(set_up("a-name-that-is-too-long").is_err());
    }
}
