//! What iPXE and GRUB are told, as text.
//!
//! A technician reads these on a screen, so each failure says what failed and what is tried next. Nothing secret is in
//! them: anybody on the network can ask for any script.

use std::net::Ipv4Addr;

use crate::pxe::boot::{Boot, Config};
use crate::pxe::client::{Client, Firmware};
use crate::pxe::quirks;
use crate::stdx::mac::MacAddr;

pub mod menu;

/// The card that iPXE opened last, for scripts that are the same for all machines.
const ANY_MAC: &str = "${netX/mac}";

/// Where iPXE finds the script of its machine. iPXE fills in the settings in braces when it opens the URL. Never longer
/// than the 127 bytes of the DHCP header's `file`.
pub fn url(config: &Config, server: Ipv4Addr, mac: Option<MacAddr>) -> String {
    let mac = mac.map_or(ANY_MAC.to_owned(), |mac| mac.to_string());
    let base = config.http_base(server);
    format!("{base}/boot/ipxe?mac={mac}&uuid=${{uuid}}&arch=${{buildarch}}&platform=${{platform}}")
}

/// What iPXE runs before anything else ([`quirks::IPXE_AUTOEXEC`]), at the root of TFTP.
pub fn autoexec(config: &Config, server: Ipv4Addr) -> String {
    let url = url(config, server, None);
    format!(
        "#!ipxe
:retry
ifconf --configurator dhcp || ifconf || goto failed
chain {url} && exit ||
:failed
echo Remint: no address, or no answer from {server}. Is the cable in, is TCP port {port} open?
echo Trying again in 5 seconds; Ctrl-B gives a command line.
prompt --key 0x02 --timeout 5000 && shell ||
goto retry
",
        port = config.http_port
    )
}

/// The script that carries out `boot`, for iPXE.
pub fn ipxe(boot: &Boot, client: &Client, config: &Config, server: Ipv4Addr) -> String {
    let base = format!("{}/boot/files", config.http_base(server));
    match boot {
        Boot::BootEnvironment { kernel, initrd } => {
            let arguments = kernel_arguments(client, config, server);
            retried(
                "load the boot environment",
                &format!(
                    "echo Remint: loading the boot environment from {server}
imgfree
kernel {base}/{kernel} initrd={initrd} {arguments} || goto failed
initrd --name {initrd} {base}/{initrd} || goto failed
boot || goto failed"
                ),
            )
        }
        Boot::LocalDisk => {
            let (what, step) = match quirks::uefi_needs_local_loader(client.firmware) {
                None => ("start from the first disk", "sanboot --no-describe --drive 0x80".to_owned()),
                Some(loader) => ("find a boot loader on a disk", format!("chain --autofree {base}/{loader}")),
            };
            retried(what, &format!("echo Remint: nothing to do, starting from the local disk\n{step} || goto failed"))
        }
        Boot::Nothing(why) => format!("#!ipxe\necho Remint: {why}\nsleep 5\nexit 1\n"),
        Boot::Program(_) | Boot::Script => format!("#!ipxe\nchain {}\n", url(config, server, client.mac)),
    }
}

/// A script that has no boot files to offer says so to the technician who stands before the machine, and asks again.
pub fn ipxe_without_files(client: &Client, config: &Config, server: Ipv4Addr) -> String {
    let option = if client.firmware == Firmware::UefiArm64 { " --arm64" } else { "" };
    format!(
        "#!ipxe
echo Remint: this appliance has no boot environment for {firmware} yet.
echo On the appliance, run:  remint boot build{option}
echo Asking again in 10 seconds.
sleep 10
chain --replace {url}
",
        firmware = client.firmware,
        url = url(config, server, None)
    )
}

/// What GRUB reads first, the same for all: it names its machine and its processor.
pub const GRUB_START: &str = "configfile /grub/machine/$grub_cpu/$net_default_mac.cfg\n";

/// The configuration that carries out `boot`, for GRUB behind shim. Only commands that are built into Debian's signed
/// GRUB: under Secure Boot it loads no modules. Its `initrd` must be tested: when it fails, `boot` would start a kernel
/// without one.
pub fn grub(boot: &Boot, client: &Client, config: &Config, server: Ipv4Addr) -> String {
    let steps = match boot {
        Boot::BootEnvironment { kernel, initrd } => format!(
            "  echo \"Remint: loading the boot environment from {server}\"
{load}  echo \"Remint: failed to load the boot environment; the reason is above.\"
",
            load = grub_kernel(kernel, Some(initrd), &kernel_arguments(client, config, server))
        ),
        Boot::LocalDisk => grub_local_disk(client.firmware),
        Boot::Nothing(why) => format!("  echo \"Remint: {why}\"\n"),
        Boot::Program(_) | Boot::Script => String::new(),
    };
    format!("while true; do\n{steps}  echo \"Trying again in 10 seconds.\"\n  sleep 10\ndone\n")
}

/// Loads and starts a kernel; goes on with the next line where that fails.
fn grub_kernel(kernel: &str, initrd: Option<&str>, arguments: &str) -> String {
    let start = match initrd {
        Some(initrd) => format!("    if initrd /boot/files/{initrd}; then\n      boot\n    fi\n"),
        None => "    boot\n".to_owned(),
    };
    let words = format!("{kernel} {arguments}");
    format!("  if linux /boot/files/{}; then\n{start}  fi\n", words.trim_end())
}

/// The loaders of a disk, the removable-media path first because every installer of ours writes it.
fn grub_local_disk(firmware: Firmware) -> String {
    let (default, shim) = match firmware {
        Firmware::UefiIa32 => ("BOOTIA32.EFI", "shimia32.efi"),
        Firmware::UefiArm64 => ("BOOTAA64.EFI", "shimaa64.efi"),
        _ => ("BOOTX64.EFI", "shimx64.efi"),
    };
    let mut text = String::from("  echo \"Remint: nothing to do, starting from the local disk\"\n");
    for path in [format!("BOOT/{default}"), "Microsoft/Boot/bootmgfw.efi".into(), format!("debian/{shim}")] {
        text.push_str(&format!(
            "  if search --no-floppy --file --set=root /EFI/{path}; then
    if chainloader /EFI/{path}; then
      boot
    fi
  fi
"
        ));
    }
    text.push_str("  echo \"Remint: no disk of this machine holds a system that UEFI firmware can start.\"\n");
    text
}

/// Steps that are tried again for ever, with a way out for whoever stands there.
fn retried(what: &str, steps: &str) -> String {
    format!(
        "#!ipxe
:retry
{steps}
:failed
echo Remint: failed to {what}; the reason is above.
echo Trying again in 10 seconds; Ctrl-B gives a command line.
prompt --key 0x02 --timeout 10000 && shell ||
goto retry
"
    )
}

/// What the boot environment must know before it can speak: where the appliance is, what to pin, which card it came by.
fn kernel_arguments(client: &Client, config: &Config, server: Ipv4Addr) -> String {
    let mut arguments =
        format!("remint.server={} remint.authority={}", config.https_base(server), config.authority_sha256,);
    if let Some(mac) = client.mac {
        arguments.push_str(&format!(" remint.mac={mac}"));
    }
    arguments.push_str(&format!(" remint.http={}", config.http_base(server)));
    if !config.kernel_arguments.is_empty() {
        arguments.push(' ');
        arguments.push_str(&config.kernel_arguments);
    }
    if client.firmware == Firmware::UefiArm64 {
        arguments.push_str(" console=ttyAMA0,115200"); // the serial port of most arm64 machines and of QEMU's
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::directory::Assignment;
    use crate::pxe::boot::decide;

    const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn script(architecture: &str, platform: &str, assignment: &Assignment) -> String {
        let client = Client::from_ipxe(Some(MacAddr([2; 6])), None, architecture, platform);
        let config = Config { http_port: 8080, authority_sha256: "abcd".into(), ..Config::default() };
        ipxe(&decide(&client, assignment, &config), &client, &config, SERVER)
    }

    #[test]
    fn the_url_of_a_script_fits_into_the_dhcp_header() {
        let config = Config { http_port: 65535, ..Config::default() };
        let longest = url(&config, Ipv4Addr::BROADCAST, Some(MacAddr([255; 6])));
        assert!(longest.len() < 128, "{} bytes: {longest}", longest.len());
    }

    #[test]
    fn the_boot_environment_is_told_where_the_appliance_is_and_what_to_pin() {
        let script = script("x86_64", "efi", &Assignment::Unknown);
        let kernel = script.lines().find(|line| line.starts_with("kernel ")).unwrap();
        for part in [
            "http://10.0.0.1:8080/boot/files/vmlinuz initrd=initrd.img ",
            " remint.server=https://10.0.0.1:443 ",
            " remint.authority=abcd ",
            " remint.mac=02:02:02:02:02:02 ",
            " console=ttyS0,115200 ",
        ] {
            assert!(kernel.contains(part), "{part:?} is not in {kernel:?}");
        }
    }

    #[test]
    fn a_machine_with_nothing_to_do_starts_from_its_disk_in_the_way_of_its_firmware() {
        let disk = Assignment::LocalDisk { machine: "m".into() };
        assert!(script("i386", "pcbios", &disk).contains("sanboot --no-describe --drive 0x80"));
        assert!(script("x86_64", "efi", &disk).contains("chain --autofree http://10.0.0.1:8080/boot/files/local.efi"));
    }

    #[test]
    fn every_script_tries_again_and_says_so() {
        for (architecture, platform) in [("i386", "pcbios"), ("x86_64", "efi"), ("arm64", "efi")] {
            for assignment in [Assignment::Unknown, Assignment::LocalDisk { machine: "m".into() }] {
                let script = script(architecture, platform, &assignment);
                assert!(script.starts_with("#!ipxe\n") && script.ends_with("goto retry\n"), "{script}");
                assert!(script.contains("Trying again"), "{script}");
            }
        }
    }
}
