//! Real firmware, up to the point where it has loaded the boot environment's kernel file.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::appliance::{self, Appliance, Setup};
use crate::lan::{Background, Lan, command, start};

const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// Five times what it takes on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// iPXE out of the package that `remint boot build` has downloaded, else of the installed one.
fn boot_programs(scratch: &Path) -> Option<[Vec<u8>; 2]> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cached = std::fs::read_dir(home.join(".cache/remint/packages")).into_iter().flatten().flatten();
    let package = cached.map(|e| e.path()).find(|p| p.file_name().unwrap().to_string_lossy().starts_with("ipxe_"));
    let folder = match package {
        Some(package) => {
            let unpacked = Command::new("dpkg-deb").arg("-x").arg(package).arg(scratch).status();
            assert!(unpacked.unwrap().success());
            scratch.join("usr/lib/ipxe")
        }
        None => PathBuf::from("/usr/lib/ipxe"),
    };
    let read = |name: &str| std::fs::read(folder.join(name)).ok();
    Some([read("undionly.kpxe")?, read("snponly.efi")?])
}

fn qemu(firmware: &Firmware, folder: &Path, tap: &str, mac: &str) -> String {
    let machine =
        "qemu-system-x86_64 -accel tcg -M q35 -cpu max -m 512 -nodefaults -nographic -serial stdio -no-reboot";
    let card = format!(
        "-netdev tap,id=n0,ifname={tap},script=no,downscript=no -device virtio-net-pci,netdev=n0,mac={mac},bootindex=1"
    );
    match firmware {
        Firmware::Bios => format!("{machine} {card} -boot strict=on"),
        Firmware::Uefi => {
            let variables = folder.join("vars.fd");
            std::fs::copy(VARIABLES, &variables).unwrap();
            format!(
                "{machine} -drive if=pflash,format=raw,unit=0,readonly=on,file={OVMF} \
                 -drive if=pflash,format=raw,unit=1,file={} {card},romfile= -device virtio-rng-pci",
                variables.display()
            )
        }
    }
}

enum Firmware {
    Bios,
    Uefi,
}

/// Starts the machine and reads its console until `marker` is on it.
fn boots(lan: &Lan, firmware: &Firmware, marker: &str) -> Result<Duration, String> {
    let folder = tempfile::tempdir().unwrap();
    lan.tap("t0");
    let line = qemu(firmware, folder.path(), "t0", "52:54:00:aa:00:01");
    let mut child = command(lan.space(), &line).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut console = child.stdout.take().unwrap();
    let _machine = Background(child);
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = console.read(&mut buffer) {
            if sender.send(buffer[..len].to_vec()).is_err() {
                break;
            }
        }
    });
    let started = Instant::now();
    let mut text = String::new();
    while started.elapsed() < PATIENCE {
        if let Ok(more) = receiver.recv_timeout(Duration::from_secs(1)) {
            text.push_str(&String::from_utf8_lossy(&more));
        }
        if text.contains(marker) {
            return Ok(started.elapsed());
        }
    }
    Err(text)
}

fn check(name: &str, firmware: &Firmware, setup: Setup, beside: bool) {
    let Some(lan) = Lan::with(&["qemu-system-x86_64", "dnsmasq"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let Some([bios, uefi]) = boot_programs(scratch.path()) else {
        println!("skipped: the package `ipxe` is neither installed nor downloaded");
        return;
    };
    let files: &[(&str, &[u8])] =
        &[("undionly.kpxe", &bios), ("snponly.efi", &uefi), ("vmlinuz", b"no kernel"), ("initrd.img", b"none")];
    let appliance = Appliance::start(&lan, setup, files);
    let other = lan.host_at("10.77.0.2/24");
    let _dnsmasq = beside.then(|| {
        start(
            &other.space,
            "dnsmasq -d -C /dev/null --port=0 --interface=lan0 --bind-interfaces --no-ping --leasefile-ro \
             --dhcp-range=10.77.0.150,10.77.0.160,1h",
        )
    });
    // The kernel is none: under UEFI iPXE says so, in our words; under BIOS it would run it, once all is loaded.
    let marker = match firmware {
        Firmware::Bios => "boot/files/initrd.img... ok",
        Firmware::Uefi => "Remint: failed to load the boot environment",
    };
    match boots(&lan, firmware, marker) {
        Ok(time) => println!("{name}: {:.1} s from power on to the boot environment's kernel", time.as_secs_f64()),
        Err(console) => panic!("{name}: the script was not reached within {PATIENCE:?}:\n{console}"),
    }
    drop(appliance.stop());
}

#[test]
fn bios_boots_beside_another_server() {
    check("BIOS, proxy", &Firmware::Bios, appliance::proxy(), true);
}

#[test]
fn bios_boots_from_the_full_server() {
    check("BIOS, full server", &Firmware::Bios, appliance::server(), false);
}

#[test]
fn uefi_boots_beside_another_server() {
    check("UEFI, proxy", &Firmware::Uefi, appliance::proxy(), true);
}

#[test]
fn uefi_boots_from_the_full_server() {
    check("UEFI, full server", &Firmware::Uefi, appliance::server(), false);
}
