//! Real firmware, up to the point where it has loaded the boot environment's kernel file.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use remint::pxe::boot::{Config, Program};

use crate::appliance::{self, Appliance, Setup};
use crate::lan::{Background, Lan, command, start};

const OVMF: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
const SECURE_VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";
/// Five times what it takes on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

const CACHE: &str = ".cache/remint/packages";

/// (name, package that `remint boot build` has downloaded, place in it).
const PROGRAMS: [(&str, &str, &str); 4] = [
    ("undionly.kpxe", "ipxe_", "usr/lib/ipxe/undionly.kpxe"),
    ("snponly.efi", "ipxe_", "usr/lib/ipxe/snponly.efi"),
    ("shimx64.efi", "shim-signed_", "usr/lib/shim/shimx64.efi.signed"),
    ("grubx64.efi", "grub-efi-amd64-signed_", "usr/lib/grub/x86_64-efi-signed/grubnetx64.efi.signed"),
];
const KERNEL: (&str, &str, &str) = ("vmlinuz", "linux-image-", "boot/");

/// A file out of a downloaded package.
fn unpacked(scratch: &Path, (name, package, place): (&str, &str, &str)) -> Option<Vec<u8>> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cached = std::fs::read_dir(home.join(CACHE)).into_iter().flatten().flatten();
    let package = cached.map(|e| e.path()).find(|p| {
        let name = p.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(package) && ["_amd64.deb", "_all.deb"].iter().any(|ending| name.ends_with(ending))
    })?;
    assert!(Command::new("dpkg-deb").arg("-x").arg(package).arg(scratch).status().unwrap().success());
    let path = scratch.join(place);
    if path.is_dir() {
        let mut files = std::fs::read_dir(path).unwrap().flatten().map(|entry| entry.path());
        return std::fs::read(files.find(|p| p.file_name().unwrap().to_string_lossy().starts_with(name))?).ok();
    }
    std::fs::read(path).ok()
}

fn qemu(firmware: &Firmware, folder: &Path, tap: &str, mac: &str) -> String {
    let machine =
        "qemu-system-x86_64 -accel tcg -M q35 -cpu max -m 512 -nodefaults -nographic -serial stdio -no-reboot";
    let card = format!(
        "-netdev tap,id=n0,ifname={tap},script=no,downscript=no -device virtio-net-pci,netdev=n0,mac={mac},bootindex=1"
    );
    match firmware {
        Firmware::Bios => format!("{machine} {card} -boot strict=on"),
        _ => {
            let variables = folder.join("vars.fd");
            let secure = *firmware != Firmware::Uefi;
            std::fs::copy(if secure { SECURE_VARIABLES } else { VARIABLES }, &variables).unwrap();
            // The firmware's own switches: no PXE leaves HTTP Boot.
            let http = match firmware {
                Firmware::UefiSecureHttp => {
                    " -fw_cfg name=opt/org.tianocore/IPv4PXESupport,string=n \
                     -fw_cfg name=opt/org.tianocore/IPv6PXESupport,string=n"
                }
                _ => "",
            };
            format!(
                "{machine} -drive if=pflash,format=raw,unit=0,readonly=on,file={OVMF} \
                 -drive if=pflash,format=raw,unit=1,file={} {card},romfile= -device virtio-rng-pci{http}",
                variables.display()
            )
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Firmware {
    Bios,
    Uefi,
    /// Secure Boot on, with Microsoft's keys.
    UefiSecure,
    /// The same, by HTTP Boot.
    UefiSecureHttp,
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

fn check(name: &str, firmware: Firmware, setup: Setup, beside: bool) {
    let Some(lan) = Lan::with(&["qemu-system-x86_64", "dnsmasq", "dpkg-deb"]) else { return };
    let scratch = tempfile::tempdir().unwrap();
    let secure = matches!(firmware, Firmware::UefiSecure | Firmware::UefiSecureHttp);
    let mut files = Vec::new();
    for program in PROGRAMS.into_iter().chain(secure.then_some(KERNEL)) {
        let Some(content) = unpacked(scratch.path(), program) else {
            println!("skipped: the package of {} was not downloaded (`remint boot build` does)", program.0);
            return;
        };
        files.push((program.0, content));
    }
    if !secure {
        files.push(("vmlinuz", b"no kernel".to_vec()));
    }
    files.push(("initrd.img", b"none".to_vec()));
    let files: Vec<(&str, &[u8])> = files.iter().map(|(name, content)| (*name, content.as_slice())).collect();
    let appliance = Appliance::start(&lan, setup, &files);
    let other = lan.host_at("10.77.0.2/24");
    let _dnsmasq = beside.then(|| {
        start(
            &other.space,
            "dnsmasq -d -C /dev/null --port=0 --interface=lan0 --bind-interfaces --no-ping --leasefile-ro \
             --dhcp-range=10.77.0.150,10.77.0.160,1h",
        )
    });
    // The kernel is none: under UEFI iPXE says so, in our words; under BIOS it would run it, once all is loaded. With
    // Secure Boot it is a real one, and says whether the firmware holds it to its signature.
    let marker = match firmware {
        Firmware::Bios => "boot/files/initrd.img... ok",
        Firmware::Uefi => "Remint: failed to load the boot environment",
        _ => "secureboot: Secure boot enabled",
    };
    match boots(&lan, &firmware, marker) {
        Ok(time) => println!("{name}: {:.1} s from power on to the boot environment's kernel", time.as_secs_f64()),
        Err(console) => panic!("{name}: the script was not reached within {PATIENCE:?}:\n{console}"),
    }
    drop(appliance.stop());
}

fn with_shim(setup: Setup) -> Setup {
    Setup { config: Config { program: Program::Shim, ..Config::default() }, ..setup }
}

#[test]
fn bios_boots_beside_another_server() {
    check("BIOS, proxy", Firmware::Bios, appliance::proxy(), true);
}

#[test]
fn bios_boots_from_the_full_server() {
    check("BIOS, full server", Firmware::Bios, appliance::server(), false);
}

#[test]
fn uefi_boots_beside_another_server() {
    check("UEFI, proxy", Firmware::Uefi, appliance::proxy(), true);
}

#[test]
fn uefi_boots_from_the_full_server() {
    check("UEFI, full server", Firmware::Uefi, appliance::server(), false);
}

#[test]
fn uefi_with_secure_boot_boots_over_tftp_beside_another_server() {
    check("UEFI Secure Boot, TFTP, proxy", Firmware::UefiSecure, with_shim(appliance::proxy()), true);
}

#[test]
fn uefi_with_secure_boot_boots_over_tftp_from_the_full_server() {
    check("UEFI Secure Boot, TFTP, full server", Firmware::UefiSecure, with_shim(appliance::server()), false);
}

#[test]
fn uefi_with_secure_boot_boots_over_http_beside_another_server() {
    check("UEFI Secure Boot, HTTP, proxy", Firmware::UefiSecureHttp, with_shim(appliance::proxy()), true);
}

#[test]
fn uefi_with_secure_boot_boots_over_http_from_the_full_server() {
    check("UEFI Secure Boot, HTTP, full server", Firmware::UefiSecureHttp, with_shim(appliance::server()), false);
}
