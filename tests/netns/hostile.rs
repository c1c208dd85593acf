//! Bad wires and floods.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use remint::dhcp::packet::{MessageType, Packet, code};
use remint::stdx::datagram::send_from;

use crate::appliance::{self, ADDRESS, Appliance};
use crate::lan::{Background, Lan, command, run, within};
use crate::machine::{Load, Machine, UEFI};
use crate::wire::{Faults, Wire};

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + at / 509) as u8).collect()
}

#[test]
fn with_a_fifth_of_all_frames_lost_and_others_late_every_transfer_is_identical() {
    let Some(lan) = Lan::with(&["socat", "tftp", "atftp", "curl", "udhcpc"]) else { return };
    let (small, large) = (content(512 * 40), content(300_000));
    let appliance = Appliance::start(&lan, appliance::server(), &[("small", &small), ("large", &large)]);
    let host = lan.host();
    let _wire = Wire::lay(&lan, &host, "10.77.0.9/24", Faults { lost: 20, late: 10, twice: 5 });
    let folder = tempfile::tempdir().unwrap();
    let to = |name: &str| folder.path().join(name).display().to_string();
    let check = |name: &str, expect: &[u8], arguments: &[&str]| {
        let begin = Instant::now();
        // A client may give up where its own first packets are lost, and atftp does when an OACK comes twice, which is
        // every other time here; it is then started again, as firmware does.
        for _ in 0..20 {
            let output = Command::new("ip").args(["netns", "exec", &host.space]).args(arguments).output().unwrap();
            if std::fs::read(to(name)).unwrap_or_default() == expect {
                return println!("  {name}: {} bytes in {:.1} s", expect.len(), begin.elapsed().as_secs_f64());
            }
            println!("  {name}: again, {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        panic!("{name} did not arrive whole");
    };
    check("hpa", &small, &["tftp", "-m", "binary", "10.77.0.1", "-c", "get", "small", &to("hpa")]);
    let window = ["--option", "blksize 1428", "--option", "windowsize 16", "--get", "-r", "large", "-l"];
    check("atftp", &large, &[&["atftp"], &window[..], &[&to("atftp"), "10.77.0.1"]].concat());
    check("curl", &large, &["curl", "-s", "-m", "60", "-o", &to("curl"), "http://10.77.0.1/boot/files/large"]);
    // Three lost answers in a row and udhcpc gives up; it is started again, as init does.
    let lease = |_| run(&host.space, "udhcpc -f -n -q -t 20 -T 1 -i lan0 -s /bin/true");
    let (_, text) = (0..10).map(lease).find(|(ok, _)| *ok).expect("a lease");
    assert!(text.contains("lease of 10.77.0."), "{text}");
    drop(appliance.stop());
}

const HALF: u32 = 250_000;
const GROWTH_KIB_MAX: u64 = 32 * 1024;

/// The program itself, in the LAN: its memory is not that of the test.
fn serve(lan: &Lan, folder: &Path) -> Background {
    let remint = env!("CARGO_BIN_EXE_remint");
    let site = folder.join("site");
    let data = site.display().to_string();
    assert!(Command::new(remint).args(["init", "--data", &data]).stdout(Stdio::null()).status().unwrap().success());
    let reserved = "[network]\ninterface = \"br0\"\n[dhcp]\nmode = \"server\"\nrange = [\"10.77.0.100\", \"10.77.0.199\"]\n\
                    [[dhcp.reservation]]\nmac = \"52:54:00:00:f0:01\"\naddress = \"10.77.0.50\"\n";
    std::fs::write(site.join("remint.toml"), reserved).unwrap();
    std::fs::create_dir(site.join("boot/current")).unwrap();
    std::fs::write(site.join("boot/current/snponly.efi"), content(100_000)).unwrap();
    let log = std::fs::File::create(folder.join("log")).unwrap();
    let mut serve = command(lan.space(), &format!("{remint} serve --data {data}"));
    let serve = serve.env("RUST_LOG", "error").stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let serve = Background(serve);
    let limit = Instant::now() + Duration::from_secs(60);
    while !site.join("control.sock").exists() {
        assert!(Instant::now() < limit, "{}", std::fs::read_to_string(folder.join("log")).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    serve
}

/// Resident memory of a process: its own, and with the pages of its program and libraries, which are the system's.
fn resident_kib(process: &Background) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap();
    let field = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (field("RssAnon:"), field("VmRSS:"))
}

/// DISCOVERs of as many cards as there are packets.
fn flood_of_discovers(from: u32) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let mut packet = Packet::request(0, [2, 9, 0, 0, 0, 0]);
    packet.options.set(code::MESSAGE_TYPE, [MessageType::Discover as u8]);
    for (code, value) in UEFI {
        packet.options.set(*code, *value);
    }
    let mut bytes = packet.emit(548);
    for number in from..from + HALF {
        bytes[4..8].copy_from_slice(&number.to_be_bytes());
        bytes[30..34].copy_from_slice(&number.to_be_bytes());
        let _ = socket.send_to(&bytes, (ADDRESS, 67));
    }
}

/// Read requests from as many addresses as there are packets; all of 11.0.0.0/8 is this host's.
fn flood_of_requests(from: u32) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let request = b"\0\x01snponly.efi\0octet\0blksize\x001428\0windowsize\x0016\0";
    for number in from..from + HALF {
        let source = Ipv4Addr::from_bits(Ipv4Addr::new(11, 0, 0, 1).to_bits() + number);
        let _ = send_from(socket.as_fd(), request, SocketAddrV4::new(ADDRESS, 69), source, 0);
    }
}

#[test]
fn a_million_spoofed_packets_leave_memory_bounded_and_a_machine_boots_in_between() {
    let Some(lan) = Lan::with(&[]) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (attacker, _sink) = (lan.host_at("10.77.0.9/24"), lan.host_at("10.77.0.8/24"));
    for (space, line) in [
        (&attacker.space, "ip route add local 11.0.0.0/8 dev lo"),
        // Answers to made-up addresses lead to somebody who drops them, as on the Internet.
        (&lan.space().to_owned(), "ip route add 11.0.0.0/8 via 10.77.0.8"),
    ] {
        let (ok, text) = run(space, line);
        assert!(ok, "{line}: {text}");
    }
    let process = serve(&lan, folder.path());
    let machine = Machine::new(lan.host(), 1);
    assert_eq!(machine.boot(UEFI), Ipv4Addr::new(10, 77, 0, 50));
    assert_eq!(machine.tftp("snponly.efi", Load::Whole), content(100_000));
    let before = resident_kib(&process);
    let flood = |from| {
        [
            within(&attacker.space, move || flood_of_discovers(from)),
            within(&attacker.space, move || flood_of_requests(from)),
        ]
    };
    let first = flood(0);
    first.into_iter().for_each(|thread| thread.join().unwrap());
    let second = flood(HALF);
    let begin = Instant::now();
    let offers = (0..20).map(|_| machine.discover(UEFI)).find(|offers| !offers.is_empty());
    assert_eq!(offers.expect("an offer in the middle of the flood")[0].yiaddr, Ipv4Addr::new(10, 77, 0, 50));
    let loaded = (0..20).any(|_| machine.tftp("snponly.efi", Load::Whole) == content(100_000));
    assert!(loaded, "the boot program did not arrive in the middle of the flood");
    let took = begin.elapsed().as_secs_f64();
    second.into_iter().for_each(|thread| thread.join().unwrap());
    let after = resident_kib(&process);
    println!(
        "  the machine booted in {took:.1} s; memory (own, all): {before:?} KiB before, {after:?} KiB after {} packets",
        4 * HALF
    );
    assert!(after.1 < before.1 + GROWTH_KIB_MAX, "memory grew from {before:?} to {after:?} KiB");
}
