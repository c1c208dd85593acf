//! Packets of strangers: DHCP at both ends, TFTP, the names that firmware asks for, the messages of machines.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use remint::dhcp::packet::{PACKET_BYTES_MAX, Packet, REPLY_BYTES_MIN};
use remint::dhcp::reply::{Interface, Reply};
use remint::dhcp::request::Request;
use remint::dhcp::scope::Scope;
use remint::dhcp::{proxy, server::Server};
use remint::fleet::link::{CheckIn, CheckInReply, RenewCertificate, RenewedCertificate};
use remint::inventory::link::ReportInventory;
use remint::link::Message;
use remint::pxe::answer::answer;
use remint::pxe::client::Client;
use remint::pxe::local::BootFiles;
use remint::pxe::names::Netboot;
use remint::pxe::recorder::Recorder;
use remint::pxe::tftp::packet as tftp_packet;
use remint::pxe::tftp::session::{Session, Step};
use remint::software::link::{FetchPolicy, ReportCompliance};
use remint::stdx::time::{ManualClock, Timestamp};
use remint::tasksequence::link::{FetchRun, PostEvents};
use serde::Serialize;
use serde::de::DeserializeOwned;

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Bytes of the file that a TFTP session is about: some blocks of the usual size and a short one.
const FILE_BYTES: usize = 5000;

pub(super) static NETBOOT: LazyLock<Netboot> = LazyLock::new(|| Netboot {
    directory: Arc::default(),
    config: Arc::default(),
    files: Arc::new(BootFiles::open(Path::new("/nonexistent")).expect("a folder that is not there has no files")),
    recorder: Arc::new(Recorder::new(Arc::new(ManualClock::at(Timestamp::default())))),
    address: SERVER,
});

/// Packets, each after its length (2): to a full server, to the proxy, to the boot server, to our own client.
pub(crate) fn dhcp(input: &[u8]) {
    dhcp_server(input);
    #[cfg(feature = "agent")]
    super::machine::dhcp_client(input);
}

fn dhcp_server(mut input: &[u8]) {
    let interface = Interface { name: "lan0".into(), address: SERVER, prefix: 24 };
    let mut server = Server::new(vec![Scope::around(SERVER, 24)], Vec::new());
    let boot = answer(NETBOOT.clone());
    let mut now = Timestamp::from_milliseconds(1_800_000_000_000);
    while let Some((head, rest)) = input.split_first_chunk::<2>() {
        let (bytes, rest) = rest.split_at(usize::from(u16::from_le_bytes(*head)).min(rest.len()));
        (input, now) = (rest, now.plus_seconds(7));
        let Ok(packet) = Packet::parse(bytes) else { continue };
        let emitted = packet.emit(PACKET_BYTES_MAX);
        Packet::parse(&emitted).expect("what is emitted parses");
        let Ok(request) = Request::try_from(packet) else { continue };
        let _ = (request.host_name(), request.remote_link(), Client::from_dhcp(&request));
        let outcome = server.handle(now, &interface, &request, &*boot);
        if let Some(lease) = &outcome.store {
            assert_ne!(lease.address, SERVER, "our own address was given away");
        }
        let replies = [
            outcome.reply,
            proxy::handle(&interface, &request, &*boot),
            proxy::handle_boot_server(&interface, &request, &*boot),
        ];
        replies.iter().flatten().for_each(check_reply);
    }
}

fn check_reply(reply: &Reply) {
    let bytes = reply.packet.emit(reply.bytes_max);
    assert!((REPLY_BYTES_MIN..=reply.bytes_max).contains(&bytes.len()), "{} of {}", bytes.len(), reply.bytes_max);
    Packet::parse(&bytes).expect("a reply parses");
}

/// A client's packets, each after its length (2); those after a read request go to the session that it began.
pub(crate) fn tftp(mut input: &[u8]) {
    let content: Arc<[u8]> = (0..FILE_BYTES).map(|at| at as u8).collect::<Vec<u8>>().into();
    let mut session: Option<Session> = None;
    let mut now = Timestamp::default();
    while let Some((head, rest)) = input.split_first_chunk::<2>() {
        let (bytes, rest) = rest.split_at(usize::from(u16::from_le_bytes(*head)).min(rest.len()));
        input = rest;
        let step = match (tftp_packet::Packet::parse(bytes), &mut session) {
            (Ok(tftp_packet::Packet::Read(request)), _) => {
                boot_name(&request.name);
                let (opened, step) = Session::open(now, &request, content.clone(), 1428);
                session = Some(opened);
                Some(step)
            }
            (Ok(tftp_packet::Packet::Ack(block)), Some(session)) => Some(session.on_ack(now, block)),
            (_, Some(session)) => {
                now = session.deadline();
                Some(session.on_silence(now))
            }
            _ => None,
        };
        if let (Some(Step::SendBlocks(blocks)), Some(session)) = (step, &session) {
            assert!(blocks.start >= 1 && blocks.end - blocks.start <= 64, "{blocks:?}");
            let mut out = Vec::new();
            session.emit_blocks(blocks, &mut out);
        }
    }
}

/// A file name as firmware, iPXE or GRUB asks for it. iPXE's own words are those between `&`.
fn boot_name(name: &str) {
    let made = NETBOOT.content(name, SERVER);
    let known = name.trim_start_matches(['/', '\\']);
    assert!(made.is_none() || known.starts_with("autoexec.ipxe") || known.starts_with("grub/"), "{name}");
    let mut words = name.split('&');
    let mut word = || words.next().unwrap_or_default();
    let (mac, uuid, architecture, platform) = (word().parse().ok(), word(), word(), word());
    let client = Client::from_ipxe(mac, Some(uuid), architecture, platform);
    let boot = remint::pxe::boot::decide(&client, &NETBOOT.directory.assignment(mac, Some(uuid)), &NETBOOT.config);
    let _ = remint::pxe::script::ipxe(&boot, &client, &NETBOOT.config, SERVER);
}

/// Which message (1), then its JSON: as a message to the appliance and as an answer to a machine; and packages as people upload them.
pub(crate) fn link(input: &[u8]) {
    let Some((which, json)) = input.split_first() else { return };
    match which % 8 {
        0 => both::<CheckIn, CheckInReply>(json),
        1 => both::<RenewCertificate, RenewedCertificate>(json),
        2 => message::<ReportInventory>(json),
        3 => message::<FetchRun>(json),
        4 => message::<PostEvents>(json),
        5 => message::<FetchPolicy>(json),
        6 => message::<ReportCompliance>(json),
        _ => super::documents::package(json),
    }
}

fn message<M: Message>(json: &[u8]) {
    both::<M, M::Reply>(json);
}

fn both<A: Serialize + DeserializeOwned, B: Serialize + DeserializeOwned>(json: &[u8]) {
    round_trip::<A>(json);
    round_trip::<B>(json);
}

/// What is understood is said again in words that are understood.
fn round_trip<T: Serialize + DeserializeOwned>(json: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(json) else { return };
    let Ok(said) = serde_json::to_vec(&value) else { return };
    let again: T = serde_json::from_slice(&said).expect("what is said is understood");
    let again = serde_json::to_vec(&again).expect("it was said once");
    assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&said));
}
