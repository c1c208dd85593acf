//! One QEMU machine: switched on, cut from its power, switched on again with the same disk.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::accelerator::Accelerator;
use super::console::Console;
use super::error::Error;
use super::network::Network;
use super::qmp::Qmp;
use super::scenario::{DiskBus, Firmware, MachineSpec, NetworkCard};
use super::timeline::Timeline;
use super::tpm::Tpm;

/// UEFI firmware and its variables, as Debian's `ovmf` and `qemu-efi-aarch64` lay them: empty, or with Microsoft's keys and
/// Secure Boot on (which this firmware enforces without system management mode too).
const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
const OVMF_VARS_SECURE: &str = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd";
/// Debian builds it with its variables guarded by system management mode only.
const OVMF32_CODE: &str = "/usr/share/OVMF/OVMF32_CODE_4M.secboot.fd";
const OVMF32_VARS: &str = "/usr/share/OVMF/OVMF32_VARS_4M.fd";
const ARM64_CODE: &str = "/usr/share/AAVMF/AAVMF_CODE.fd";
const ARM64_VARS: &str = "/usr/share/AAVMF/AAVMF_VARS.fd";

/// The key as a terminal sends it (ECMA-48 CUD); SeaBIOS and UEFI both know it.
pub const ARROW_DOWN: &str = "\x1b[B";

pub struct Machine {
    pub spec: MachineSpec,
    /// Its place in the lab, from 0: what its address, tap and identity are counted by.
    place: usize,
    folder: PathBuf,
    accelerator: Accelerator,
    console: Console,
    timeline: Timeline,
    process: Option<Child>,
    /// Ends when QEMU has closed the serial port.
    reader: Option<JoinHandle<()>>,
    /// What is typed on its serial port goes here.
    keyboard: Option<ChildStdin>,
    tpm: Option<Tpm>,
}

impl Machine {
    /// A machine with an empty disk, switched off. Its files are in `folder/NAME`.
    pub fn create(
        spec: MachineSpec,
        place: usize,
        folder: &Path,
        network: &Network,
        accelerator: Accelerator,
        timeline: &Timeline,
    ) -> Result<Machine, Error> {
        let folder = folder.join(&spec.name);
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        let disk = folder.join("disk.raw");
        let made = File::create(&disk).and_then(|file| file.set_len(u64::from(spec.disk_mib) << 20));
        made.map_err(Error::file(disk))?;
        if let Some((_, variables)) = firmware_files(spec.firmware) {
            fs::copy(variables, folder.join("vars.fd")).map_err(Error::file(variables))?;
        }
        if spec.tpm {
            Tpm::make(&folder)?;
        }
        network.add_tap(&tap(place))?;
        let console = Console::new(&folder.join("serial.log"), Some((spec.name.clone(), timeline.clone())))?;
        Ok(Machine {
            spec,
            place,
            folder,
            accelerator,
            console,
            timeline: timeline.clone(),
            process: None,
            reader: None,
            keyboard: None,
            tpm: None,
        })
    }

    pub fn power_on(&mut self, network: &Network) -> Result<(), Error> {
        self.cut();
        let program = match self.spec.firmware {
            Firmware::UefiArm64 => "qemu-system-aarch64",
            _ => "qemu-system-x86_64",
        };
        let mut command = network.command(program);
        command.args(arguments(&self.spec, self.place, self.accelerator)).current_dir(&self.folder);
        let log = self.folder.join("qemu.log");
        let log = File::options().create(true).append(true).open(&log).map_err(Error::file(log))?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let _ = fs::remove_file(self.folder.join("qmp"));
        self.tpm = self.spec.tpm.then(|| Tpm::start(&self.folder)).transpose()?;
        let mut process = command.spawn().map_err(Error::missing(program))?;
        self.console.close(false);
        self.reader = process.stdout.take().map(|serial| {
            let console = self.console.clone();
            std::thread::spawn(move || {
                console.read_from(serial);
                console.close(true);
            })
        });
        self.keyboard = process.stdin.take();
        self.process = Some(process);
        self.timeline.add(&self.spec.name, "power on");
        Ok(())
    }

    /// Types a line on the serial port, and Enter.
    pub fn type_line(&mut self, line: &str) -> Result<(), Error> {
        self.type_text(&format!("{line}\r"))
    }

    /// Types text on the serial port, which may hold [`ARROW_DOWN`].
    pub fn type_text(&mut self, text: &str) -> Result<(), Error> {
        let Some(keyboard) = &mut self.keyboard else {
            return Err(Error::Ended { what: self.spec.name.clone(), last: "it is off".to_owned() });
        };
        let typed = keyboard.write_all(text.as_bytes()).and_then(|()| keyboard.flush());
        typed.map_err(Error::file(self.folder.join("serial port")))
    }

    /// Cuts the power: nothing is written or said any more.
    pub fn cut(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let _ = process.kill();
        let _ = process.wait();
        // Or its last words would be taken for those of the next time.
        let _ = self.reader.take().map(JoinHandle::join);
        (self.keyboard, self.tpm) = (None, None);
        self.timeline.add(&self.spec.name, "power off");
    }

    /// Presses the power button and waits until the system has shut down; cuts the power when it has not in time.
    pub fn shut_down(&mut self, limit: Duration) -> Result<(), Error> {
        self.command("system_powerdown", json!({}))?;
        let start = Instant::now();
        while start.elapsed() < limit && self.is_on() {
            std::thread::sleep(Duration::from_millis(50));
        }
        let late = self.is_on();
        self.cut();
        let what = || format!("machine {} off", self.spec.name);
        if late { Err(Error::Late { what: what(), limit, last: "it is still on".to_owned() }) } else { Ok(()) }
    }

    pub fn is_on(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)))
    }

    /// Presses the reset button.
    pub fn reset(&self) -> Result<(), Error> {
        self.timeline.add(&self.spec.name, "reset");
        self.command("system_reset", json!({}))
    }

    /// A picture of the screen as PNG.
    pub fn photograph(&self, path: &Path) -> Result<(), Error> {
        self.command("screendump", json!({ "filename": path, "format": "png" }))
    }

    fn command(&self, command: &str, arguments: serde_json::Value) -> Result<(), Error> {
        let done = Qmp::open(&self.folder).and_then(|mut qmp| qmp.execute(command, arguments));
        let failed = |error: std::io::Error| Error::Qmp { machine: self.spec.name.clone(), message: error.to_string() };
        done.map(drop).map_err(failed)
    }

    pub fn console(&self) -> &Console {
        &self.console
    }

    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.raw")
    }

    /// The certificate that the maker of its TPM has issued for the endorsement key (X.509, DER).
    pub fn tpm_certificate(&self) -> PathBuf {
        super::tpm::certificate(&self.folder)
    }

    /// The serial number in its SMBIOS, by which the appliance's record is found.
    pub fn serial(&self) -> String {
        self.spec.serial_at(self.place)
    }

    /// The name of its cable's end on the bridge.
    pub fn tap(&self) -> String {
        tap(self.place)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.cut();
    }
}

fn tap(place: usize) -> String {
    format!("tap{place}")
}

/// Code and variables; none for BIOS, which QEMU brings.
fn firmware_files(firmware: Firmware) -> Option<(&'static str, &'static str)> {
    match firmware {
        Firmware::Bios => None,
        Firmware::UefiArm64 => Some((ARM64_CODE, ARM64_VARS)),
        Firmware::UefiIa32 => Some((OVMF32_CODE, OVMF32_VARS)),
        firmware if firmware.has_secure_boot() => Some((OVMF_CODE, OVMF_VARS_SECURE)),
        _ => Some((OVMF_CODE, OVMF_VARS)),
    }
}

/// QEMU's arguments. File names are relative to the machine's folder.
fn arguments(spec: &MachineSpec, place: usize, accelerator: Accelerator) -> Vec<String> {
    let mut list: Vec<String> = Vec::new();
    let mut add = |parts: &[&str]| list.extend(parts.iter().map(|part| (*part).to_owned()));
    add(&["-name", &spec.name, "-nodefaults", "-no-user-config", "-display", "none"]);
    match spec.firmware {
        Firmware::UefiArm64 => {
            add(&["-accel", Accelerator::Tcg.argument(), "-M", "virt", "-cpu", "cortex-a57"]);
        }
        // graphics=off makes SeaBIOS speak on the serial port as well; the screen is still there for photographs.
        _ => add(&["-accel", accelerator.argument(), "-M", "q35,graphics=off", "-vga", "std", "-cpu", "max"]),
    }
    add(&["-smp", &spec.cpus.to_string(), "-m", &spec.memory_mib.to_string()]);
    add(&["-serial", "stdio", "-qmp", "unix:qmp,server=on,wait=off"]);
    let identity = format!("serial={},uuid={}", spec.serial_at(place), spec.uuid_at(place));
    add(&["-smbios", &format!("type=1,manufacturer=Remint,product=Lab,version=1,sku=LAB-1,family=Labs,{identity}")]);
    let number = place + 1;
    let of_part = |part: &str| format!("manufacturer=Remint,serial=LAB-{part}-{number},asset=Inv-{part}-{number}");
    add(&["-smbios", &format!("type=2,product=Board,version=A,{}", of_part("BOARD"))]);
    add(&["-smbios", &format!("type=3,version=B,{}", of_part("CASE"))]);
    add(&["-smbios", &format!("type=17,part=DIMM-L,speed=3200,{}", of_part("DIMM"))]);
    if let Some((code, _)) = firmware_files(spec.firmware) {
        add(&["-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={code}")]);
        add(&["-drive", "if=pflash,format=raw,unit=1,file=vars.fd"]);
        // Where IPv4 fails, IPv6 would be tried for a minute.
        add(&["-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]);
    }
    if spec.firmware.is_http() {
        add(&["-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n"]);
    }
    if spec.tpm {
        add(&super::tpm::arguments(spec.firmware));
    }
    add(&["-netdev", &format!("tap,id=net,ifname={},script=no,downscript=no", tap(place))]);
    add(&["-device", &network_card(spec, place)]);
    add(&["-drive", "if=none,id=disk,file=disk.raw,format=raw,cache.no-flush=on,discard=unmap"]);
    add(&["-device", &disk(spec.disk, place)]);
    list
}

/// The network is always asked first. UEFI has its own driver and PXE for virtio (no ROM); it has none for e1000, which
/// brings its ROM along.
fn network_card(spec: &MachineSpec, place: usize) -> String {
    let mac = spec.mac_at(place);
    match spec.network_card {
        NetworkCard::Virtio if spec.firmware.is_uefi() => {
            format!("virtio-net-pci,netdev=net,mac={mac},bootindex=1,romfile=")
        }
        NetworkCard::Virtio => format!("virtio-net-pci,netdev=net,mac={mac},bootindex=1"),
        NetworkCard::E1000 => format!("e1000,netdev=net,mac={mac},bootindex=1"),
    }
}

/// Each machine's disk has a serial number of its own: two that share one would be taken for one machine.
fn disk(bus: DiskBus, place: usize) -> String {
    let device = match bus {
        DiskBus::Virtio => "virtio-blk-pci",
        DiskBus::Nvme => "nvme",
        DiskBus::Ahci => "ide-hd,bus=ide.0",
    };
    format!("{device},drive=disk,bootindex=2,serial=LABDISK{}", place + 1)
}

/// Starts a machine without network directly from a kernel and waits for `words`: the quickest proof that they fit together.
pub fn try_kernel(boot: &Path, words: &str, accelerator: Accelerator, limit: Duration) -> Result<Duration, Error> {
    let folder = boot.to_owned();
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-M", "q35", "-cpu", "max", "-m", "512"]);
    command.args(["-accel", accelerator.argument(), "-serial", "stdio", "-append", "console=ttyS0"]);
    command.arg("-kernel").arg(folder.join("vmlinuz")).arg("-initrd").arg(folder.join("initrd.img"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let start = Instant::now();
    let mut process = command.spawn().map_err(Error::missing("qemu-system-x86_64"))?;
    let console = Console::new(Path::new("/dev/null"), None)?;
    let reader = process.stdout.take().map(|serial| {
        let console = console.clone();
        std::thread::spawn(move || console.read_from(serial))
    });
    let seen = console.wait_for(super::console::Mark::default(), words, limit);
    let _ = process.kill();
    let _ = process.wait();
    let _ = reader.map(JoinHandle::join);
    seen.map(|_| start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_firmware_has_its_processor_its_variables_and_its_way() {
        let of = |firmware| arguments(&MachineSpec::new("a", firmware), 0, Accelerator::Kvm).join(" ");
        assert!(of(Firmware::UefiHttp).contains("IPv4PXESupport,string=n"));
        assert!(!of(Firmware::UefiSecureBoot).contains("IPv4PXESupport"));
        assert!(of(Firmware::UefiArm64).contains("-accel tcg") && of(Firmware::UefiArm64).contains("AAVMF"));
        assert_eq!(firmware_files(Firmware::UefiHttpSecureBoot), Some((OVMF_CODE, OVMF_VARS_SECURE)));
    }

    #[test]
    fn machines_of_one_lab_differ_in_address_tap_and_identity() {
        let spec = MachineSpec::new("a", Firmware::Bios);
        let (first, second) = (arguments(&spec, 0, Accelerator::Tcg), arguments(&spec, 1, Accelerator::Tcg));
        let differing: Vec<_> = first.iter().zip(&second).filter(|(a, b)| a != b).map(|(a, _)| a.as_str()).collect();
        // The system, its board, chassis and memory module; cable, card and disk.
        assert_eq!(differing.len(), 7, "{differing:?}");
        assert!(!first.iter().any(|argument| argument.contains("pflash")));
        let uefi = arguments(&MachineSpec::new("a", Firmware::Uefi), 0, Accelerator::Kvm);
        assert!(
            uefi.iter().any(|argument| argument.contains("pflash")) && uefi.iter().any(|a| a.ends_with("romfile="))
        );
    }
}
