use super::*;
use crate::dhcp::reply::{BootPart, Destination};
use crate::stdx::mac::MacAddr;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fn interface() -> Interface {
    Interface { name: "lan0".into(), address: SERVER, prefix: 24 }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_milliseconds(1_000_000).plus_seconds(seconds)
}

fn server() -> Server {
    let mut scope = Scope::around(SERVER, 24);
    scope.range = (host(100), host(102));
    scope.reservations.insert(mac(9), host(50));
    Server::new(vec![scope], vec![])
}

fn host(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn mac(last: u8) -> MacAddr {
    MacAddr([0x52, 0x54, 0, 0, 0, last])
}

fn packet(kind: MessageType, client: u8) -> Packet {
    let mut packet = Packet::request(77, mac(client).0);
    packet.options.set(code::MESSAGE_TYPE, [kind as u8]);
    packet
}

fn select(client: u8, server: Ipv4Addr, address: Ipv4Addr) -> Packet {
    let mut packet = packet(MessageType::Request, client);
    packet.options.set_address(code::SERVER_IDENTIFIER, server);
    packet.options.set_address(code::REQUESTED_ADDRESS, address);
    packet
}

fn extend(client: u8, address: Ipv4Addr) -> Packet {
    Packet { ciaddr: address, ..packet(MessageType::Request, client) }
}

fn nothing_to_boot(_: &Interface, _: Role, _: &Request) -> Option<BootPart> {
    None
}

fn ask(server: &mut Server, now: Timestamp, packet: Packet) -> Outcome {
    server.handle(now, &interface(), &Request::try_from(packet).unwrap(), &nothing_to_boot)
}

fn offer(server: &mut Server, now: Timestamp, client: u8) -> Option<Ipv4Addr> {
    let reply = ask(server, now, packet(MessageType::Discover, client)).reply?.packet;
    assert_eq!(reply.message_type(), Some(MessageType::Offer));
    Some(reply.yiaddr)
}

/// Offer and acknowledgement; the lease that was to be stored.
fn lease(server: &mut Server, now: Timestamp, client: u8) -> Lease {
    let address = offer(server, now, client).unwrap();
    let outcome = ask(server, now, select(client, SERVER, address));
    assert_eq!(kind(&outcome), Some(MessageType::Ack));
    outcome.store.unwrap()
}

fn kind(outcome: &Outcome) -> Option<MessageType> {
    outcome.reply.as_ref().and_then(|reply| reply.packet.message_type())
}

#[test]
fn clients_with_the_same_xid_are_offered_different_addresses() {
    let mut server = server();
    let offered: Vec<_> = (1..=3).map(|client| offer(&mut server, at(0), client).unwrap()).collect();
    assert_eq!(offered, [host(100), host(101), host(102)]);
    assert_eq!(offer(&mut server, at(1), 2), Some(host(101)), "the same client keeps its offer");
}

#[test]
fn an_empty_pool_is_said_and_heals_when_offers_run_out() {
    let mut server = server();
    for client in 1..=3 {
        offer(&mut server, at(0), client);
    }
    let refused = ask(&mut server, at(1), packet(MessageType::Discover, 4));
    assert!(matches!(refused.notice, Some(Notice::PoolEmpty(..))) && refused.reply.is_none());
    assert_eq!(offer(&mut server, at(OFFER_SECONDS + 1), 4), Some(host(100)));
}

#[test]
fn an_acknowledged_lease_is_handed_over_to_be_stored() {
    let mut server = server();
    let lease = lease(&mut server, at(0), 1);
    assert_eq!((lease.address, lease.mac, lease.state), (host(100), mac(1), State::Bound));
    assert_eq!(lease.expires, at(3600));
}

#[test]
fn leases_survive_a_restart_of_the_server() {
    let stored = lease(&mut server(), at(0), 1);
    let scope = server().scopes.remove(0).0;
    let mut restarted = Server::new(vec![scope], vec![stored]);
    assert_eq!(offer(&mut restarted, at(1), 2), Some(host(101)));
    assert_eq!(offer(&mut restarted, at(1), 1), Some(host(100)));
    assert_eq!(kind(&ask(&mut restarted, at(2), extend(1, host(100)))), Some(MessageType::Ack));
}

#[test]
fn a_reservation_is_kept_for_its_machine() {
    let mut server = server();
    assert_eq!(offer(&mut server, at(0), 9), Some(host(50)));
    let mut greedy = packet(MessageType::Discover, 1);
    greedy.options.set_address(code::REQUESTED_ADDRESS, host(50));
    assert_eq!(ask(&mut server, at(0), greedy).reply.unwrap().packet.yiaddr, host(100));
}

#[test]
fn a_client_that_took_another_server_frees_our_offer_and_is_reported() {
    let mut server = server();
    offer(&mut server, at(0), 1);
    let outcome = ask(&mut server, at(0), select(1, host(7), host(200)));
    assert!(outcome.reply.is_none());
    let text = outcome.notice.unwrap().to_string();
    assert!(text.contains("10.0.0.7") && text.contains("52:54:00:00:00:01"), "{text}");
    assert!(server.lease(host(100)).is_none());
}

#[test]
fn an_address_that_was_not_offered_is_refused_to_everybody_around() {
    let mut server = server();
    let outcome = ask(&mut server, at(0), select(1, SERVER, host(101)));
    assert_eq!(kind(&outcome), Some(MessageType::Nak));
    assert_eq!(outcome.reply.unwrap().to, Destination::Broadcast);
}

#[test]
fn a_renewal_storm_is_answered_without_writing() {
    let mut server = server();
    lease(&mut server, at(0), 1);
    for second in [1, 100, 899] {
        let outcome = ask(&mut server, at(second), extend(1, host(100)));
        assert_eq!(outcome.store, None, "at {second}");
        let left = outcome.reply.unwrap().packet.options.seconds(code::LEASE_SECONDS);
        assert_eq!(left, Some(3600 - second as u32));
    }
    let renewed = ask(&mut server, at(901), extend(1, host(100)));
    assert_eq!(renewed.store.unwrap().expires, at(901 + 3600));
    assert_eq!(renewed.reply.unwrap().to, Destination::Client(host(100)));
}

#[test]
fn an_unknown_client_keeps_a_free_address_and_loses_a_taken_one() {
    let mut server = server();
    assert_eq!(kind(&ask(&mut server, at(0), extend(1, host(101)))), Some(MessageType::Ack));
    assert_eq!(kind(&ask(&mut server, at(0), extend(2, host(101)))), Some(MessageType::Nak));
    assert_eq!(kind(&ask(&mut server, at(0), extend(2, Ipv4Addr::new(192, 168, 0, 5)))), Some(MessageType::Nak));
}

#[test]
fn a_rebooting_client_gets_its_address_or_a_refusal_or_silence() {
    let mut server = server();
    lease(&mut server, at(0), 1);
    let reboot = |client, address| {
        let mut packet = packet(MessageType::Request, client);
        packet.options.set_address(code::REQUESTED_ADDRESS, address);
        packet
    };
    assert_eq!(kind(&ask(&mut server, at(9), reboot(1, host(100)))), Some(MessageType::Ack));
    assert_eq!(kind(&ask(&mut server, at(9), reboot(1, host(101)))), Some(MessageType::Nak));
    assert_eq!(kind(&ask(&mut server, at(9), reboot(2, host(101)))), None);
    assert_eq!(kind(&ask(&mut server, at(9), reboot(2, Ipv4Addr::new(192, 168, 0, 5)))), Some(MessageType::Nak));
}

#[test]
fn a_declined_address_rests_and_then_comes_back() {
    let mut server = server();
    lease(&mut server, at(0), 1);
    let mut decline = packet(MessageType::Decline, 1);
    decline.options.set_address(code::REQUESTED_ADDRESS, host(100));
    let outcome = ask(&mut server, at(0), decline);
    assert_eq!(outcome.store.unwrap().state, State::Declined);
    assert_eq!(offer(&mut server, at(1), 1), Some(host(101)), "not the declined one again");
    assert_eq!(offer(&mut server, at(1), 2), Some(host(102)));
    assert_eq!(offer(&mut server, at(1), 3), None);
    assert_eq!(offer(&mut server, at(3601), 3), Some(host(101)), "the offer that ran out first");
}

#[test]
fn nobody_can_decline_or_release_for_another() {
    let mut server = server();
    lease(&mut server, at(0), 1);
    let mut decline = packet(MessageType::Decline, 2);
    decline.options.set_address(code::REQUESTED_ADDRESS, host(100));
    assert_eq!(ask(&mut server, at(0), decline), Outcome::default());
    let release = Packet { ciaddr: host(100), ..packet(MessageType::Release, 2) };
    assert_eq!(ask(&mut server, at(0), release), Outcome::default());
}

#[test]
fn a_released_address_is_free_and_remembered() {
    let mut server = server();
    lease(&mut server, at(0), 1);
    let release = Packet { ciaddr: host(100), ..packet(MessageType::Release, 1) };
    assert_eq!(ask(&mut server, at(5), release).store.unwrap().expires, at(5));
    assert_eq!(offer(&mut server, at(6), 2), Some(host(101)), "fresh ones first");
    assert_eq!(offer(&mut server, at(6), 1), Some(host(100)));
}

#[test]
fn an_inform_gets_the_network_and_no_address() {
    let mut server = server();
    let reply = ask(&mut server, at(0), Packet { ciaddr: host(180), ..packet(MessageType::Inform, 1) }).reply.unwrap();
    assert_eq!(reply.to, Destination::Client(host(180)));
    assert_eq!(reply.packet.yiaddr, Ipv4Addr::UNSPECIFIED);
    assert_eq!(reply.packet.options.value(code::LEASE_SECONDS), None);
    assert_eq!(reply.packet.options.address(code::SUBNET_MASK), Some(Ipv4Addr::new(255, 255, 255, 0)));
}

#[test]
fn a_relayed_client_is_served_from_its_own_subnet_with_its_option_82_verbatim_and_last() {
    let mut second = Scope::around(Ipv4Addr::new(10, 5, 0, 1), 24);
    second.range.0 = Ipv4Addr::new(10, 5, 0, 60);
    let mut server = Server::new(vec![Scope::around(SERVER, 24), second], vec![]);
    let mut relayed = packet(MessageType::Discover, 1);
    relayed.giaddr = Ipv4Addr::new(10, 5, 0, 1);
    relayed.options.set(code::RELAY_AGENT, [2, 1, 9, 1, 1, 8]);
    let reply = ask(&mut server, at(0), relayed.clone()).reply.unwrap();
    assert_eq!(reply.packet.yiaddr, Ipv4Addr::new(10, 5, 0, 60));
    assert_eq!(reply.to, Destination::Relay(relayed.giaddr));
    assert_eq!(reply.packet.options.value(code::RELAY_AGENT), Some(&[2, 1, 9, 1, 1, 8][..]));
    assert_eq!(reply.packet.options.codes().last(), Some(code::RELAY_AGENT));
    relayed.giaddr = Ipv4Addr::new(10, 6, 0, 1);
    assert_eq!(ask(&mut server, at(0), relayed).notice, Some(Notice::UnknownLink(Ipv4Addr::new(10, 6, 0, 1))));
}

#[test]
fn clients_without_address_are_answered_by_frame_or_by_broadcast_when_they_say_so() {
    let mut server = server();
    let direct = ask(&mut server, at(0), packet(MessageType::Discover, 1)).reply.unwrap();
    assert_eq!(direct.to, Destination::Frame { mac: mac(1), address: host(100) });
    let mut deaf = packet(MessageType::Discover, 1);
    deaf.set_broadcast();
    assert_eq!(ask(&mut server, at(0), deaf).reply.unwrap().to, Destination::Broadcast);
}

#[test]
fn a_flood_of_clients_leaves_no_more_than_one_lease_an_address() {
    let mut server = server();
    for client in 0..10_000u32 {
        let mut packet = packet(MessageType::Discover, 0);
        packet.options.set(code::CLIENT_IDENTIFIER, client.to_be_bytes());
        ask(&mut server, at(i64::from(client / 100)), packet);
    }
    assert_eq!(server.scopes[0].1.len(), 3);
}

#[test]
fn an_address_that_is_in_use_rests_and_another_is_offered() {
    let mut server = server();
    let outcome = ask(&mut server, at(0), packet(MessageType::Discover, 1));
    assert_eq!(outcome.probe, Some(host(100)), "an address is probed before it is offered for the first time");
    let (resting, notice) = server.in_use(at(0), host(100), mac(77)).unwrap();
    assert_eq!((resting.address, resting.state), (host(100), State::Declined));
    assert!(notice.to_string().contains("10.0.0.100 is in use by 52:54:00:00:00:4d"), "{notice}");
    assert_eq!(offer(&mut server, at(0), 1), Some(host(101)));
    let again = ask(&mut server, at(1), packet(MessageType::Discover, 1));
    assert_eq!((again.probe, again.reply.unwrap().packet.yiaddr), (None, host(101)), "it is not probed twice");
    assert!(server.in_use(at(1), host(102), mac(77)).is_none(), "an answer about an address that nobody is offered");
    let mut relayed = packet(MessageType::Discover, 3);
    relayed.giaddr = Ipv4Addr::new(10, 0, 0, 9);
    assert_eq!(ask(&mut server, at(2), relayed).probe, None, "relayed clients probe for themselves");
}
