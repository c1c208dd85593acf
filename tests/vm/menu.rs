//! The boot menu as somebody meets it who stands before a machine: its keys are pressed and its screen is read, both over the
//! serial port.

use std::io::Write;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::Command;
use std::thread;

use remint::lab::appliance::Appliance;
use remint::lab::console::Mark;
use remint::lab::machine::{ARROW_DOWN, Machine};
use remint::lab::network::Network;
use remint::lab::scenario::{Dhcp, Firmware, MachineSpec};

use crate::Test;
use crate::bench::{Bench, STEP_LIMIT};
use crate::matrix::SESAME;

pub(super) const TESTS: &[Test] = &[("a_person_at_the_menu_starts_what_was_chosen", menu)];

/// In the menu's order; its first is the default.
const ENTRIES: [&str; 4] = ["continue", "local-disk", "memory-test", "hardware-test"];
const LAST_TITLE: &str = "Test the hardware, then check in";
/// What the local disks say when they are started.
const DISK_SAYS: &str = "The local disk of the lab has started";

/// Two machines are on at once.
fn menu(bench: &Bench) {
    let machines = [("bios", Firmware::Bios), ("secure", Firmware::UefiSecureBoot), ("uefi", Firmware::Uefi)];
    let spec =
        |(name, firmware)| MachineSpec { cpus: 1, disk_mib: 64, memory_mib: 512, ..MachineSpec::new(name, firmware) };
    let machines: Vec<MachineSpec> = machines.map(spec).into();
    let secure = machines[1].mac_at(1);
    let mut lab = bench.lab_of(Dhcp::Proxy, machines, |site| {
        let menu = format!("[[boot.menu]]\nseconds = 0\nentries = {ENTRIES:?}\npassword = \"{SESAME}\"\n");
        let program = format!("[[boot.machine]]\nmac = \"{secure}\"\nprogram = \"shim\"\n");
        std::fs::write(site.join("remint.toml"), program + &menu).unwrap();
    });
    write_boot_sector(&lab.machines[0].disk());
    write_signed_loader(&lab.machines[1].disk(), &lab.appliance.site().join("boot/current"));
    let (network, appliance) = (&lab.network, &lab.appliance);
    let [bios, secure, uefi] = &mut lab.machines[..] else { panic!("three machines were made") };
    thread::scope(|scope| {
        let first = scope.spawn(|| at_ipxe(bios, network, appliance));
        let second = scope.spawn(|| {
            at_grub(secure, network, appliance);
            memory_test(uefi, network);
        });
        for person in [first, second] {
            person.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
    });
    // The sentence of a boot changes with the time that has passed since; what was told does not.
    let said = said_of_boots(appliance);
    assert_eq!(said.matches(r#""told":"from its menu: memory-test""#).count(), 2, "{said}");
}

/// BIOS: a wrong password is refused in words, and leads back to the menu.
fn at_ipxe(machine: &mut Machine, network: &Network, appliance: &Appliance) {
    memory_test(machine, network);

    let shown = shown_menu(machine, network);
    choose(machine, "local-disk");
    let asked = hear(machine, shown, "Password");
    machine.type_text("\rwrong\r").unwrap();
    let refused = hear(machine, asked, "that is not the password of this menu");
    let said = said_of_boots(appliance);
    assert!(said.contains("a wrong password was typed at its menu"), "{said}");
    hear(machine, refused, LAST_TITLE);
    choose(machine, "local-disk");
    let asked = hear(machine, refused, "Password");
    machine.type_text("\rsesame\r").unwrap();
    hear(machine, asked, DISK_SAYS);

    let shown = shown_menu(machine, network);
    choose(machine, "hardware-test");
    let asked = hear(machine, shown, "Password");
    machine.type_text("\rsesame\r").unwrap();
    hardware_test(machine, appliance, asked);
}

/// UEFI with Secure Boot on: GRUB asks and compares by itself.
fn at_grub(machine: &mut Machine, network: &Network, appliance: &Appliance) {
    let shown = shown_menu(machine, network);
    choose(machine, "local-disk");
    let asked = log_in(machine, shown, "wrong");
    let refused = hear(machine, asked, "access denied");
    hear(machine, refused, LAST_TITLE);
    choose(machine, "local-disk");
    let asked = log_in(machine, refused, "sesame");
    hear(machine, asked, DISK_SAYS);

    let shown = shown_menu(machine, network);
    choose(machine, "hardware-test");
    let asked = log_in(machine, shown, "sesame");
    hardware_test(machine, appliance, asked);
}

fn log_in(machine: &mut Machine, shown: Mark, password: &str) -> Mark {
    let asked = hear(machine, shown, "Enter username:");
    machine.type_line("remint").unwrap();
    let asked = hear(machine, asked, "Enter password:");
    machine.type_line(password).unwrap();
    asked
}

/// Memtest86+ speaks on the serial port that is configured for consoles.
fn memory_test(machine: &mut Machine, network: &Network) {
    let shown = shown_menu(machine, network);
    choose(machine, "memory-test");
    let asked = hear(machine, shown, "Password");
    machine.type_text("\rsesame\r").unwrap();
    let started = hear(machine, asked, "Memtest86+ v");
    hear(machine, started, "Address test");
    machine.cut();
}

/// It finds the machine sound, its figures go to the appliance, and the machine checks in.
fn hardware_test(machine: &mut Machine, appliance: &Appliance, chosen: Mark) {
    let started = hear(machine, chosen, "Testing the hardware");
    let done = hear(machine, started, "The hardware test has found nothing wrong");
    let said = machine.console().since(started);
    assert!(said.contains("memory and processors: sound") && said.contains("/dev/vda: sound"), "{said}");
    machine.type_line("").unwrap();
    hear(machine, done, "pairing code");
    let boots = said_of_boots(appliance);
    assert!(boots.contains("its hardware test has found nothing wrong"), "{boots}");
    let record = appliance.wait_for_machine(&machine.serial(), "a check-in", STEP_LIMIT, |_| true).unwrap();
    assert_eq!(record["state"], "waiting", "{record}");
    machine.cut();
}

/// Switches the machine on and waits until its menu is complete.
fn shown_menu(machine: &mut Machine, network: &Network) -> Mark {
    let before = machine.console().mark();
    machine.power_on(network).unwrap();
    hear(machine, before, LAST_TITLE)
}

fn choose(machine: &mut Machine, entry: &str) {
    let steps = ENTRIES.iter().position(|known| *known == entry).unwrap();
    machine.type_text(&(ARROW_DOWN.repeat(steps) + "\r")).unwrap();
}

fn hear(machine: &Machine, mark: Mark, words: &str) -> Mark {
    let heard = machine.console().wait_for(mark, words, STEP_LIMIT);
    heard.unwrap_or_else(|error| panic!("{}: {error}", machine.spec.name))
}

/// All that the flight recorder says.
fn said_of_boots(appliance: &Appliance) -> String {
    appliance.ask(&["machine", "boots"]).unwrap().to_string()
}

/// A disk whose first sector speaks through the BIOS and halts.
fn write_boot_sector(disk: &Path) {
    let code: [u8; 24] = [
        0x31, 0xc0, 0x8e, 0xd8, // xor ax, ax; mov ds, ax
        0xbe, 0x18, 0x7c, // mov si, the text
        0xac, 0x84, 0xc0, 0x74, 0x09, // next: lodsb; test al, al; jz end
        0xb4, 0x0e, 0xbb, 0x07, 0x00, 0xcd, 0x10, // mov ah, 14; mov bx, 7; int 16
        0xeb, 0xf2, // jmp next
        0xf4, 0xeb, 0xfd, // end: hlt; jmp end
    ];
    let mut sector = [code.as_slice(), DISK_SAYS.as_bytes()].concat();
    sector.resize(510, 0);
    sector.extend([0x55, 0xaa]);
    std::fs::File::options().write(true).open(disk).unwrap().write_all(&sector).unwrap();
}

/// A disk with a file system for UEFI on which a signed shim and a signed GRUB stand, as Debian's installer leaves it.
fn write_signed_loader(disk: &Path, boot_files: &Path) {
    let configuration = disk.with_extension("cfg");
    std::fs::write(&configuration, format!("echo \"{DISK_SAYS}\"\nsleep 600\n")).unwrap();
    run(Command::new("mkfs.vfat").arg(disk));
    run(Command::new("mmd").arg("-i").arg(disk).args(["::EFI", "::EFI/BOOT", "::grub"]));
    for (file, place) in [
        (boot_files.join("shimx64.efi"), "::EFI/BOOT/BOOTX64.EFI"),
        (boot_files.join("grubx64.efi"), "::EFI/BOOT/grubx64.efi"),
        (configuration, "::grub/grub.cfg"),
    ] {
        run(Command::new("mcopy").arg("-i").arg(disk).arg(file).arg(place));
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
