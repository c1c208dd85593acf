//! The ways in which boots fail in practice: each is made to fail, and the flight recorder must name the cause.

use remint::dhcp::scope::Scope;
use remint::pxe::boot::{Config, Unknown};
use remint::stdx::mac::MacAddr;
use std::net::Ipv4Addr;

use crate::appliance::{self, ADDRESS, Appliance, Setup};
use crate::lan::{Background, Lan, start};
use crate::machine::{BIOS, IPXE, Load, Machine, RISCV, UEFI};

/// Of a size that takes some blocks.
static PROGRAM: [u8; 20_000] = [7; 20_000];
const FILES: &[(&str, &[u8])] = &[
    ("snponly.efi", &PROGRAM),
    ("undionly.kpxe", &PROGRAM),
    ("shimx64.efi", &PROGRAM),
    ("vmlinuz", &PROGRAM),
    ("initrd.img", &PROGRAM),
];

/// Lets `boot` happen with one machine, a minute pass, and gives the recorder's sentence.
fn sentence_of(lan: &Lan, setup: Setup, files: &[(&str, &[u8])], boot: impl FnOnce(&Machine, &Appliance)) -> String {
    let appliance = Appliance::start(lan, setup, files);
    let machine = Machine::new(lan.host(), 1);
    boot(&machine, &appliance);
    appliance.clock.advance_seconds(60);
    let mut records = appliance.recorder.list(Some(MacAddr(machine.mac)));
    assert!(!records.is_empty(), "the boot was not recorded");
    let sentence = records.remove(0).sentence;
    drop(appliance.stop());
    sentence
}

fn assert_names(sentence: &str, words: &[&str]) {
    for word in words {
        assert!(sentence.contains(word), "{word:?} is not in {sentence:?}");
    }
    println!("  {sentence}");
}

/// The network's own server, at 10.77.0.2, with more to say.
fn other_server(lan: &Lan, more: &str) -> Background {
    let other = lan.host_at("10.77.0.2/24");
    let server = start(
        &other.space,
        &format!(
            "dnsmasq -d -C /dev/null --port=0 --interface=lan0 --bind-interfaces --no-ping --leasefile-ro \
             --dhcp-range=10.77.0.150,10.77.0.160,1h{more}"
        ),
    );
    let asks = Machine::new(lan.host(), 99);
    for _ in 0..10 {
        let offers = asks.discover(&[]);
        if offers.iter().any(|offer| !offer.yiaddr.is_unspecified()) {
            return server;
        }
    }
    panic!("dnsmasq does not answer");
}

fn boots_whole(machine: &Machine, program: &str) {
    assert_eq!(machine.tftp(program, Load::Whole), PROGRAM);
}

#[test]
fn no_server_gives_an_address() {
    let Some(lan) = Lan::with(&[]) else { return };
    let sentence = sentence_of(&lan, appliance::proxy(), FILES, |machine, _| {
        assert_eq!(machine.discover(UEFI).len(), 1);
    });
    assert_names(&sentence, &["told to boot snponly.efi", "took no address", "no DHCP server gave it one"]);
}

#[test]
fn another_server_offers_a_boot_file_too() {
    let Some(lan) = Lan::with(&["dnsmasq"]) else { return };
    let _other = other_server(&lan, " --dhcp-boot=pxelinux.0,other,10.77.0.2");
    let sentence = sentence_of(&lan, appliance::proxy(), FILES, |machine, _| {
        machine.boot(BIOS);
    });
    assert_names(
        &sentence,
        &["of 10.77.0.2", "never asked us for undionly.kpxe", "that server offered a boot file too"],
    );
}

#[test]
fn nobody_built_the_boot_files() {
    let Some(lan) = Lan::with(&[]) else { return };
    let sentence = sentence_of(&lan, appliance::server(), &[], |machine, _| {
        machine.boot(UEFI);
        assert!(machine.tftp("snponly.efi", Load::Whole).is_empty());
    });
    assert_names(&sentence, &["asked for snponly.efi", "not among the boot files", "remint boot build"]);
}

#[test]
fn a_firewall_lets_nothing_through_but_port_69() {
    let Some(lan) = Lan::with(&[]) else { return };
    let sentence = sentence_of(&lan, appliance::server(), FILES, |machine, _| {
        machine.boot(UEFI);
        machine.tftp("snponly.efi", Load::PortsBlocked);
    });
    assert_names(&sentence, &["asked for snponly.efi on port 69", "UDP above port 1024", "tftp_single_port"]);
}

#[test]
fn the_machine_loses_power_while_it_loads() {
    let Some(lan) = Lan::with(&[]) else { return };
    let sentence = sentence_of(&lan, appliance::server(), FILES, |machine, appliance| {
        machine.boot(UEFI);
        machine.tftp("snponly.efi", Load::PowerLost(3));
        // Its port is closed now; the next packet there finds that out.
        wait_for(appliance, "silent");
    });
    assert_names(&sentence, &["loading snponly.efi broke off", "of 20000 bytes", "switched off"]);
}

/// Until the record says what became of the file.
fn wait_for(appliance: &Appliance, ended: &str) {
    let limit = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let told = || serde_json::to_string(&appliance.recorder.list(None)).unwrap().contains(&format!("\"{ended}\""));
    while !told() {
        assert!(std::time::Instant::now() < limit, "{:?}", appliance.recorder.list(None));
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn the_firmware_has_too_little_memory() {
    let Some(lan) = Lan::with(&[]) else { return };
    let sentence = sentence_of(&lan, appliance::server(), FILES, |machine, appliance| {
        machine.boot(UEFI);
        machine.tftp("snponly.efi", Load::OutOfMemory);
        wait_for(appliance, "stopped");
    });
    assert_names(&sentence, &["broke off loading snponly.efi", "out of memory"]);
}

#[test]
fn secure_boot_refuses_what_nobody_signed_and_the_next_boot_gets_shim() {
    let Some(lan) = Lan::with(&[]) else { return };
    let sentence = sentence_of(&lan, appliance::server(), FILES, |machine, appliance| {
        machine.boot(UEFI);
        boots_whole(machine, "snponly.efi");
        wait_for(appliance, "complete");
        appliance.clock.advance_seconds(30);
        let offers = machine.discover(UEFI);
        assert_eq!(offers[0].file, b"shimx64.efi", "the next boot gets the signed program");
        boots_whole(machine, "shimx64.efi");
        wait_for(appliance, "complete");
    });
    assert_names(&sentence, &["shimx64.efi was loaded but did not ask for GRUB"]);
    let sentence = sentence_of(&lan, appliance::server(), FILES, |machine, appliance| {
        machine.boot(UEFI);
        boots_whole(machine, "snponly.efi");
        wait_for(appliance, "complete");
    });
    assert_names(&sentence, &["snponly.efi was loaded and did not start", "Secure Boot is on", "shim"]);
}

#[test]
fn the_http_port_is_closed_on_the_way() {
    let Some(lan) = Lan::with(&[]) else { return };
    let sentence = sentence_of(&lan, appliance::server(), FILES, |machine, _| {
        machine.boot(UEFI);
        boots_whole(machine, "snponly.efi");
        machine.discover(IPXE);
    });
    assert_names(&sentence, &["iPXE has started and did not ask for its script", "TCP port of HTTP"]);
}

#[test]
fn the_kernel_is_not_loaded() {
    let Some(lan) = Lan::with(&[]) else { return };
    let sentence = sentence_of(&lan, appliance::server(), FILES, |machine, _| {
        machine.boot(UEFI);
        boots_whole(machine, "snponly.efi");
        machine.discover(IPXE);
        assert!(machine.script().contains("kernel "));
    });
    assert_names(&sentence, &["has its script for the boot environment", "did not load the kernel"]);
}

#[test]
fn the_initramfs_does_not_fit_into_memory() {
    let Some(lan) = Lan::with(&[]) else { return };
    let sentence = sentence_of(&lan, appliance::server(), FILES, |machine, _| {
        machine.boot(UEFI);
        machine.script();
        machine.http("/boot/files/vmlinuz");
    });
    assert_names(&sentence, &["has the kernel and not the initramfs", "memory"]);
}

#[test]
fn the_boot_environment_has_no_driver_for_the_network_card() {
    let Some(lan) = Lan::with(&[]) else { return };
    let loads = |machine: &Machine| {
        machine.boot(UEFI);
        machine.script();
        machine.http("/boot/files/vmlinuz");
        machine.http("/boot/files/initrd.img");
    };
    let sentence = sentence_of(&lan, appliance::server(), FILES, |machine, _| loads(machine));
    assert_names(
        &sentence,
        &["it loaded all of the boot environment and did not check in", "driver for its network card"],
    );
    let sentence = sentence_of(&lan, appliance::server(), FILES, |machine, appliance| {
        loads(machine);
        appliance.recorder.checked_in(&[MacAddr(machine.mac)]);
    });
    assert_names(&sentence, &["has checked in"]);
}

#[test]
fn nothing_boots_this_processor() {
    let Some(lan) = Lan::with(&[]) else { return };
    let sentence = sentence_of(&lan, appliance::server(), FILES, |machine, _| {
        machine.discover(RISCV);
    });
    assert_names(&sentence, &["not answered", "no boot program exists for this architecture"]);
}

#[test]
fn the_pool_of_addresses_is_empty() {
    let Some(lan) = Lan::with(&[]) else { return };
    let mut scope = Scope::around(ADDRESS, 24);
    scope.range = (Ipv4Addr::new(10, 77, 0, 100), Ipv4Addr::new(10, 77, 0, 100));
    let setup = Setup { scopes: Some(vec![scope]), ..appliance::server() };
    let first = Machine::new(lan.host(), 2);
    let sentence = sentence_of(&lan, setup, FILES, |machine, _| {
        first.boot(UEFI);
        assert!(machine.discover(UEFI).is_empty());
    });
    assert_names(&sentence, &["no address is left in 10.77.0.0/24"]);
}

#[test]
fn unknown_machines_are_ignored_here() {
    let Some(lan) = Lan::with(&[]) else { return };
    let config = Config { unknown: Unknown::Ignore, ..Config::default() };
    let sentence = sentence_of(&lan, Setup { config, ..appliance::proxy() }, FILES, |machine, _| {
        assert!(machine.discover(UEFI).is_empty());
    });
    assert_names(&sentence, &["not answered", "unknown machines are ignored"]);
}
