//! DHCP clients, relays and other servers.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use remint::dhcp::lease::State;
use remint::dhcp::packet::{MessageType, Packet, code};
use socket2::{Domain, Socket, Type};

use crate::appliance::{self, ADDRESS, Appliance};
use crate::lan::{Host, Lan, command, run, start, within};

/// Asks from the client port as a host without an address would. Replies that come within a second.
fn ask(host: &Host, packet: Packet, to: SocketAddrV4) -> Vec<Packet> {
    within(&host.space, move || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.bind_device(Some(b"lan0")).unwrap();
        socket.set_broadcast(true).unwrap();
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68).into()).unwrap();
        let socket = UdpSocket::from(socket);
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket.send_to(&packet.emit(1400), to).unwrap();
        let (mut replies, mut buffer) = (Vec::new(), [0; 2000]);
        while let Ok(len) = socket.recv(&mut buffer) {
            replies.push(Packet::parse(&buffer[..len]).unwrap());
        }
        replies
    })
    .join()
    .unwrap()
}

fn discover(mac: u8, options: &[(u8, &[u8])]) -> Packet {
    let mut packet = Packet::request(7, [2, 0, 0, 0, 0, mac]);
    packet.options.set(code::MESSAGE_TYPE, [MessageType::Discover as u8]);
    for (code, value) in options {
        packet.options.set(*code, *value);
    }
    packet
}

const EVERYBODY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
const BIOS: &[(u8, &[u8])] = &[(60, b"PXEClient:Arch:00000:UNDI:002001"), (93, &[0, 0])];

/// What a daemon writes to a file some time after the command that started it has returned.
fn written(path: &std::path::Path) -> String {
    let limit = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match std::fs::read_to_string(path) {
            Ok(text) if text.ends_with('\n') => return text,
            last => assert!(std::time::Instant::now() < limit, "{}: {last:?}", path.display()),
        }
        std::thread::yield_now();
    }
}

#[test]
fn udhcpc_and_dhclient_get_leases_that_outlive_the_server() {
    let Some(lan) = Lan::with(&["udhcpc", "dhclient"]) else { return };
    let appliance = Appliance::start(&lan, appliance::server(), &[]);
    let (busybox, isc) = (lan.host(), lan.host());
    let (ok, text) = run(&busybox.space, "udhcpc -f -n -q -t 5 -i lan0 -s /bin/true");
    assert!(ok && text.contains("lease of 10.77.0.100 obtained"), "{text}");
    let files = tempfile::tempdir().unwrap();
    let dhclient = format!("dhclient -1 -v -sf /bin/true -lf {0}/leases -pf {0}/pid lan0", files.path().display());
    let (ok, text) = run(&isc.space, &dhclient);
    assert!(ok && text.contains("bound to 10.77.0.101"), "{text}");
    let pid = written(&files.path().join("pid"));
    let _ = command(&isc.space, &format!("kill {}", pid.trim())).status();
    assert_eq!(appliance.leases().len(), 2);
    let appliance = Appliance::in_folder(&lan, appliance::server(), appliance.stop());
    let third = lan.host();
    let (ok, text) = run(&third.space, "udhcpc -f -n -q -t 5 -i lan0 -s /bin/true");
    assert!(ok && text.contains("lease of 10.77.0.102 obtained"), "{text}");
    let (ok, text) = run(&busybox.space, "udhcpc -f -n -q -t 5 -i lan0 -s /bin/true");
    assert!(ok && text.contains("lease of 10.77.0.100 obtained"), "{text}");
    drop(appliance.stop());
}

#[test]
fn the_proxy_speaks_to_who_boots_and_leaves_addresses_to_the_other_server() {
    let Some(lan) = Lan::with(&["udhcpc", "dnsmasq"]) else { return };
    let appliance = Appliance::start(&lan, appliance::proxy(), &[]);
    let (other, client) = (lan.host_at("10.77.0.2/24"), lan.host());
    let _dnsmasq = start(
        &other.space,
        "dnsmasq -d -C /dev/null --port=0 --interface=lan0 --bind-interfaces --no-ping --leasefile-ro \
         --dhcp-range=10.77.0.150,10.77.0.160,1h",
    );
    let (ok, text) = run(&client.space, "udhcpc -f -n -q -t 9 -i lan0 -s /bin/true");
    assert!(ok && text.contains("obtained from 10.77.0.2"), "{text}");

    let mut broadcast = discover(1, BIOS);
    broadcast.set_broadcast();
    let replies = ask(&client, broadcast, EVERYBODY);
    let ours: Vec<_> = replies.iter().filter(|r| r.options.address(code::SERVER_IDENTIFIER) == Some(ADDRESS)).collect();
    assert_eq!((replies.len(), ours.len()), (2, 1), "{replies:?}");
    assert_eq!(ours[0].yiaddr, Ipv4Addr::UNSPECIFIED);
    assert_eq!(ours[0].file, b"undionly.kpxe");
    assert_eq!(ours[0].options.text(code::VENDOR_CLASS).unwrap(), "PXEClient");

    let silent = ask(&client, discover(2, &[(60, b"MSFT 5.0")]), EVERYBODY);
    assert!(silent.iter().all(|r| r.options.address(code::SERVER_IDENTIFIER) != Some(ADDRESS)), "{silent:?}");
    drop(appliance.stop());
}

#[test]
fn the_boot_server_answers_on_its_port_to_clients_that_have_an_address() {
    let Some(lan) = Lan::with(&[]) else { return };
    let appliance = Appliance::start(&lan, appliance::proxy(), &[]);
    let client = lan.host_at("10.77.0.9/24");
    let mut packet = discover(1, &[(60, b"PXEClient:Arch:00007:UNDI:003016"), (93, &[0, 7])]);
    packet.options.set(code::MESSAGE_TYPE, [MessageType::Request as u8]);
    packet.ciaddr = Ipv4Addr::new(10, 77, 0, 9);
    let replies = ask(&client, packet, SocketAddrV4::new(ADDRESS, 4011));
    assert_eq!(replies.len(), 1);
    assert_eq!(replies[0].message_type(), Some(MessageType::Ack));
    assert_eq!((replies[0].file.as_slice(), replies[0].siaddr), (&b"snponly.efi"[..], ADDRESS));
    drop(appliance.stop());
}

#[test]
fn a_relayed_client_gets_an_address_of_its_own_network() {
    relayed(
        "dnsmasq",
        "dnsmasq -d -C /dev/null --port=0 --interface=far0 --interface=lan0 --bind-interfaces \
         --dhcp-relay=10.78.0.1,10.77.0.1",
    );
}

#[test]
fn a_client_behind_dhcrelay_with_option_82_gets_an_address_of_its_own_network() {
    relayed("dhcrelay", "dhcrelay -d -4 -a -id far0 -iu lan0 10.77.0.1");
}

/// A client behind a relay of this command.
fn relayed(program: &str, relay_command: &str) {
    let Some(lan) = Lan::with(&["udhcpc", program]) else { return };
    let appliance = Appliance::start(&lan, appliance::server(), &[]);
    let (relay, client) = (lan.host_at("10.77.0.3/24"), lan.host());
    // The client moves to a wire of its own behind the relay.
    for (space, line) in [
        (&client.space, "ip link del lan0".to_owned()),
        (&relay.space, format!("ip link add far0 type veth peer name lan0 netns {}", client.space)),
        (&relay.space, "ip addr add 10.78.0.1/24 dev far0".to_owned()),
        (&relay.space, "ip link set far0 up".to_owned()),
        (&client.space, "ip link set lan0 up".to_owned()),
    ] {
        let (ok, text) = run(space, &line);
        assert!(ok, "{line}: {text}");
    }
    let (ok, text) = run(lan.space(), "ip route add 10.78.0.0/24 via 10.77.0.3");
    assert!(ok, "{text}");
    let _relay = start(&relay.space, relay_command);
    let (ok, text) = run(&client.space, "udhcpc -f -n -q -t 9 -i lan0 -s /bin/true");
    assert!(ok && text.contains("lease of 10.78.0.50 obtained"), "{text}");
    drop(appliance.stop());
}

#[test]
fn an_address_that_somebody_sits_on_is_not_offered() {
    let Some(lan) = Lan::with(&["udhcpc"]) else { return };
    let appliance = Appliance::start(&lan, appliance::server(), &[]);
    let (_sits, client) = (lan.host_at("10.77.0.100/24"), lan.host());
    let (ok, text) = run(&client.space, "udhcpc -f -n -q -t 5 -i lan0 -s /bin/true");
    assert!(ok && text.contains("lease of 10.77.0.101 obtained"), "{text}");
    let resting: Vec<_> = appliance.leases().into_iter().filter(|lease| lease.state == State::Declined).collect();
    assert_eq!(resting.iter().map(|lease| lease.address).collect::<Vec<_>>(), [Ipv4Addr::new(10, 77, 0, 100)]);
    drop(appliance.stop());
}

#[test]
fn perfdhcp_loses_nothing_and_every_lease_is_on_disk() {
    let Some(lan) = Lan::with(&["perfdhcp"]) else { return };
    let appliance = Appliance::start(&lan, appliance::server(), &[]);
    let host = lan.host_at("10.77.0.2/24");
    // Fifty clients through a relay, which perfdhcp plays.
    let (_, text) = run(&host.space, "perfdhcp -4 -l lan0 -r 50 -n 50 -R 50 -W 2000000 10.77.0.1");
    assert_eq!(text.matches("received packets: 50").count(), 2, "{text}");
    assert_eq!(text.matches("drops: 0").count(), 2, "{text}");
    assert_eq!(appliance.leases().len(), 50);
    drop(appliance.stop());
}

#[test]
fn a_taken_port_is_one_clear_error_with_a_hint() {
    let Some(lan) = Lan::with(&["dnsmasq"]) else { return };
    let _other = start(
        lan.space(),
        "dnsmasq -d -C /dev/null --port=0 --interface=br0 --dhcp-range=10.77.0.150,10.77.0.160,1h --leasefile-ro",
    );
    let error = within(lan.space(), || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let settings = || remint::dhcp::socket::Settings {
            interface: "br0".into(),
            address: ADDRESS,
            prefix: 24,
            mode: remint::dhcp::socket::Mode::Proxy,
            ports: remint::dhcp::socket::Ports::default(),
        };
        runtime.block_on(async move {
            // dnsmasq needs a moment; until then the port is ours to take and to give back.
            loop {
                if let Err(error) = remint::dhcp::socket::bind(settings()) {
                    return error;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    });
    let error = error.join().unwrap();
    let hint = remint::stdx::hint::Hint::hint(&error).unwrap();
    assert!(error.to_string().contains("UDP port 67 of br0") && hint.contains("dnsmasq"), "{error}: {hint}");
}

#[test]
fn tshark_finds_nothing_malformed_in_our_answers() {
    let Some(lan) = Lan::with(&["tshark", "udhcpc"]) else { return };
    let appliance = Appliance::start(&lan, appliance::server(), &[]);
    let folder = tempfile::tempdir().unwrap();
    let capture = folder.path().join("all.pcap");
    let mut tshark = start(lan.space(), &format!("tshark -q -i br0 -w {}", capture.display()));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while std::fs::metadata(&capture).map_or(0, |m| m.len()) == 0 && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let client = lan.host();
    for options in [BIOS, &[(60, b"HTTPClient:Arch:00016"), (93, &[0, 16])], &[(60, b"PXEClient"), (77, b"iPXE")]] {
        let mut packet = discover(1, options);
        packet.set_broadcast();
        assert_eq!(ask(&client, packet, EVERYBODY).len(), 1);
    }
    run(&client.space, "udhcpc -f -n -q -t 5 -i lan0 -s /bin/true");
    let read = |filter: &str| {
        run(lan.space(), &format!("tshark -r {} -Y {filter}", capture.display()))
            .1
            .lines()
            .filter(|l| l.contains("DHCP"))
            .count()
    };
    // What dumpcap has seen reaches the file a moment later.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while read("dhcp.type==2") < 5 && std::time::Instant::now() < deadline {}
    let _ = command(lan.space(), &format!("kill -INT {}", tshark.0.id())).status();
    let _ = tshark.0.wait();
    assert!(read("dhcp.type==2") >= 5, "{}", run(lan.space(), &format!("tshark -r {}", capture.display())).1);
    assert_eq!(read("_ws.malformed||_ws.expert.severity>=6291456"), 0);
    drop(appliance.stop());
}
