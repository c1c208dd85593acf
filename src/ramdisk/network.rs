//! Gets the machine onto the network: all cards up, the ones with a link asked for an address, until one has it.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{SockaddrIn, setsockopt, sockopt};
use ring::rand::SecureRandom;

use super::lease::{Client, Lease, Outcome};
use super::screen::Event;
use super::terminal::Terminal;
use crate::stdx::interface;
use crate::stdx::mac::MacAddr;

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// How long one card is asked before the next: a server that checks its address first (ping) takes a second.
const PATIENCE_PER_CARD: Duration = Duration::from_secs(6);
/// A message is repeated after this long.
const REPEAT: Duration = Duration::from_secs(1);
/// How long the first link is awaited: autonegotiation takes up to four seconds.
const LINK_PATIENCE: Duration = Duration::from_secs(5);

/// A network card, as `/sys/class/net` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Card {
    pub name: String,
    pub mac: MacAddr,
    pub link: bool,
}

/// Tries until a card has an address. `boot_mac` is the card the firmware came from; it is asked first. `replug` is called
/// before each round: a driver may have shown up late.
pub fn connect(terminal: &Terminal, boot_mac: Option<MacAddr>, mut replug: impl FnMut()) -> (Card, Lease) {
    loop {
        terminal.activity("Looking for a network");
        replug();
        let cards = ordered(cards(Path::new("/sys")), boot_mac);
        let cards = bring_up(cards, boot_mac);
        for card in cards.iter().filter(|card| card.link) {
            terminal.activity(format!("Asking for an address on {} ({})", card.name, card.mac));
            match acquire(card).and_then(|lease| use_lease(card, &lease).map(|()| lease)) {
                Ok(lease) => {
                    terminal.show(Event::Recovered);
                    terminal
                        .show(Event::Network { address: format!("{} on {} ({})", lease.address, card.name, card.mac) });
                    keep(card.clone(), lease.clone(), terminal.clone());
                    return (card.clone(), lease);
                }
                Err(error) => terminal.log(format!("{}: {error}", card.name)),
            }
        }
        let (text, hint) = explain(&cards);
        terminal.trouble(text, Some(hint));
        terminal.wait_for_enter(Duration::from_secs(3));
    }
}

/// What is wrong when no card got an address, and what to do.
fn explain(cards: &[Card]) -> (String, String) {
    let linked: Vec<&str> = cards.iter().filter(|card| card.link).map(|card| card.name.as_str()).collect();
    if cards.is_empty() {
        let hint =
            "no driver in the boot environment fits this machine's card: rebuild it from the full kernel package";
        return ("find a network card".into(), hint.into());
    }
    if linked.is_empty() {
        let names: Vec<String> = cards.iter().map(|card| format!("{} ({})", card.name, card.mac)).collect();
        let hint = "plug in the cable, or switch on the port; this goes on by itself";
        return (format!("find a link: no cable answers on {}", names.join(", ")), hint.into());
    }
    let text = format!("get an address: no DHCP server answered on {}", linked.join(", "));
    (text, "is the cable in the right network, and is its DHCP server running? Trying again".into())
}

/// The Ethernet cards under `sys`: those with a device behind them (no loopback, no bridge).
pub fn cards(sys: &Path) -> Vec<Card> {
    const ARPHRD_ETHER: &str = "1";
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let mut cards = Vec::new();
    for entry in fs::read_dir(sys.join("class/net")).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(mac) = read(&path.join("address")).parse() else { continue };
        if path.join("device").exists() && read(&path.join("type")) == ARPHRD_ETHER {
            let name = entry.file_name().to_string_lossy().into_owned();
            cards.push(Card { name, mac, link: read(&path.join("carrier")) == "1" });
        }
    }
    cards
}

/// The card that was booted from first, then by name.
fn ordered(mut cards: Vec<Card>, first: Option<MacAddr>) -> Vec<Card> {
    cards.sort_by_key(|card| (Some(card.mac) != first, card.name.clone()));
    cards
}

/// Sets all cards up and waits a moment for the link of the preferred one, or of any.
fn bring_up(cards: Vec<Card>, preferred: Option<MacAddr>) -> Vec<Card> {
    for card in &cards {
        // A card that cannot be set up shows no link, which is then said.
        let _ = interface::set_up(&card.name);
    }
    let deadline = Instant::now() + LINK_PATIENCE;
    loop {
        let now = ordered(self::cards(Path::new("/sys")), preferred);
        let preferred_known = now.iter().any(|card| Some(card.mac) == preferred);
        let ready = now.iter().any(|card| card.link && (!preferred_known || Some(card.mac) == preferred));
        if ready || now.is_empty() || Instant::now() >= deadline {
            return now;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// A whole exchange on one card.
fn acquire(card: &Card) -> io::Result<Lease> {
    let socket = socket(&card.name, true)?;
    let everybody = SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT);
    exchange(&socket, Client::selecting(card.mac, random()?), everybody, PATIENCE_PER_CARD)
}

fn exchange(socket: &UdpSocket, mut client: Client, to: SocketAddrV4, patience: Duration) -> io::Result<Lease> {
    let started = Instant::now();
    let mut send_at = started;
    let mut buffer = [0; 1500];
    while started.elapsed() < patience {
        if Instant::now() >= send_at {
            socket.send_to(&client.message(started.elapsed().as_secs()), to)?;
            send_at = Instant::now() + REPEAT;
        }
        let wait = send_at.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        socket.set_read_timeout(Some(wait))?;
        let received = match socket.recv(&mut buffer) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
            Err(error) => return Err(error),
        };
        match client.handle(&buffer[..received]) {
            Outcome::Ignored => {}
            Outcome::Send => send_at = Instant::now(),
            Outcome::Bound(lease) => return Ok(lease),
            Outcome::Refused(why) => return Err(io::Error::other(format!("the DHCP server refused: {why}"))),
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "no DHCP server answered"))
}

/// A socket that sends and receives on this card alone, with or without an address.
fn socket(name: &str, broadcast: bool) -> io::Result<UdpSocket> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, bind, socket};
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    setsockopt(&socket, sockopt::Broadcast, &broadcast)?;
    setsockopt(&socket, sockopt::BindToDevice, &name.into())?;
    use std::os::fd::AsRawFd;
    bind(socket.as_fd().as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT)))?;
    Ok(UdpSocket::from(socket))
}

fn use_lease(card: &Card, lease: &Lease) -> io::Result<()> {
    interface::set_address(&card.name, lease.address, lease.netmask)?;
    match lease.gateway {
        Some(gateway) => interface::add_default_route(&card.name, gateway),
        None => Ok(()),
    }
}

/// Renews in the background for as long as the boot environment lives (RFC 2131 section 4.4.5): half of the time over,
/// the server is asked; seven eighths over, anybody. A machine that is being installed keeps its address even when
/// nobody answers: the alternative would be to stop.
fn keep(card: Card, mut lease: Lease, terminal: Terminal) {
    const PATIENCE: Duration = Duration::from_secs(4);
    const PAUSE: Duration = Duration::from_secs(30);
    thread::spawn(move || {
        let mut since = Instant::now();
        thread::sleep(lease.duration / 2);
        loop {
            let late = since.elapsed() >= lease.duration * 7 / 8;
            let to = SocketAddrV4::new(if late { Ipv4Addr::BROADCAST } else { lease.server }, SERVER_PORT);
            let renewed = random().and_then(|xid| {
                exchange(&socket(&card.name, late)?, Client::renewing(card.mac, xid, &lease), to, PATIENCE)
            });
            match renewed {
                Ok(fresh) => {
                    (lease, since) = (fresh, Instant::now());
                    thread::sleep(lease.duration / 2);
                }
                Err(error) => {
                    if late {
                        terminal.log(format!("renewing {} on {}: {error}", lease.address, card.name));
                    }
                    thread::sleep(PAUSE.min(lease.duration / 8));
                }
            }
        }
    });
}

fn random() -> io::Result<u32> {
    let mut bytes = [0; 4];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    filled.map(|()| u32::from_ne_bytes(bytes)).map_err(|_| io::Error::other("no random numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(name: &str, last: u8, link: bool) -> Card {
        Card { name: name.into(), mac: MacAddr([0x52, 0x54, 0, 0, 0, last]), link }
    }

    #[test]
    fn the_card_that_was_booted_from_is_asked_first() {
        let cards = vec![card("eth0", 1, true), card("eth2", 3, true), card("eth1", 2, true)];
        let names = |first| ordered(cards.clone(), first).into_iter().map(|card| card.name).collect::<Vec<_>>();
        assert_eq!(names(Some(MacAddr([0x52, 0x54, 0, 0, 0, 3]))), ["eth2", "eth0", "eth1"]);
        assert_eq!(names(None), ["eth0", "eth1", "eth2"]);
    }

    #[test]
    fn the_screen_tells_no_card_no_link_and_no_answer_apart() {
        let check =
            |cards: &[Card], expected: &str| assert!(explain(cards).0.contains(expected), "{:?}", explain(cards));
        check(&[], "find a network card");
        check(&[card("eth0", 1, false)], "no cable answers on eth0 (52:54:00:00:00:01)");
        check(&[card("eth0", 1, false), card("eth1", 2, true)], "no DHCP server answered on eth1");
    }

    #[test]
    fn cards_are_ethernet_devices_and_nothing_virtual() {
        let sys = tempfile::tempdir().unwrap();
        let make = |name: &str, kind: &str, device: bool, carrier: &str| {
            let folder = sys.path().join("class/net").join(name);
            fs::create_dir_all(if device { folder.join("device") } else { folder.clone() }).unwrap();
            fs::write(folder.join("type"), kind).unwrap();
            fs::write(folder.join("address"), "52:54:00:00:00:01\n").unwrap();
            fs::write(folder.join("carrier"), carrier).unwrap();
        };
        make("lo", "772\n", false, "1\n");
        make("br0", "1\n", false, "1\n");
        make("eth0", "1\n", true, "1\n");
        make("ib0", "32\n", true, "1\n");
        assert_eq!(cards(sys.path()), [card("eth0", 1, true)]);
    }

    #[test]
    fn an_exchange_over_a_real_socket_ends_with_a_lease() {
        use crate::dhcp::packet::{MessageType, Operation, Packet, REPLY_BYTES_MAX, code};
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(to) = server.local_addr().unwrap() else { panic!("asked for IPv4") };
        let responder = thread::spawn(move || {
            for kind in [MessageType::Offer, MessageType::Ack] {
                let mut buffer = [0; 1500];
                let (received, from) = server.recv_from(&mut buffer).unwrap();
                let mut packet = Packet::parse(&buffer[..received]).unwrap();
                packet.op = Operation::Reply;
                packet.yiaddr = Ipv4Addr::new(10, 0, 0, 5);
                packet.options.set(code::MESSAGE_TYPE, [kind as u8]);
                packet.options.set_address(code::SERVER_IDENTIFIER, Ipv4Addr::LOCALHOST);
                server.send_to(&packet.emit(REPLY_BYTES_MAX), from).unwrap();
            }
        });
        let lease = exchange(&client, Client::selecting(mac, 5), to, Duration::from_secs(30)).unwrap();
        responder.join().unwrap();
        assert_eq!((lease.address, lease.netmask), (Ipv4Addr::new(10, 0, 0, 5), Ipv4Addr::new(255, 0, 0, 0)));
    }
}
