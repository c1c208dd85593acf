//! Whether KVM can be used. A device file that opens proves nothing: in some cloud machines `/dev/kvm` is there and real
//! mode takes minutes. So a boot sector of ten bytes is run and must say its letter in time.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::error::Error;

/// QEMU's `-accel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    /// Emulation, all processors of a machine by one host thread. With a thread for each, QEMU (9.2 to 11.1) may use entries of
    /// its TLB that another thread has flushed or freed when the host is busy, and ends with a failed assertion or a signal:
    /// espressif/qemu issues 174 and 175 have the diagnosis; `msix_table_mmio_write` of 10.0.2 was seen here.
    Tcg,
}

/// With a processor that helps, SeaBIOS and the boot sector take less than a second.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

impl Accelerator {
    /// The fastest that works; `folder` takes the probe's disk for a moment.
    pub fn find(folder: &Path) -> Result<Accelerator, Error> {
        let open = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let helps = processor.split_ascii_whitespace().any(|flag| flag == "vmx" || flag == "svm");
        if open && helps && probe(Accelerator::Kvm, folder, PROBE_LIMIT)? {
            return Ok(Accelerator::Kvm);
        }
        Ok(Accelerator::Tcg)
    }

    pub fn argument(self) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Tcg => "tcg,thread=single",
        }
    }
}

/// `mov dx, 0x3f8; mov al, 'K'; out dx, al; cli; hlt; jmp back`, for the first serial port.
const PROBE_CODE: [u8; 10] = [0xBA, 0xF8, 0x03, 0xB0, b'K', 0xEE, 0xFA, 0xF4, 0xEB, 0xFD];

fn probe(accelerator: Accelerator, folder: &Path, limit: Duration) -> Result<bool, Error> {
    let (disk, output) = (folder.join("probe.img"), folder.join("probe.txt"));
    let mut sector = [0; 512];
    sector[..PROBE_CODE.len()].copy_from_slice(&PROBE_CODE);
    sector[510..].copy_from_slice(&[0x55, 0xAA]);
    fs::write(&disk, sector).map_err(Error::file(&disk))?;
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-m", "64", "-accel", accelerator.argument()]);
    command.arg("-drive").arg(format!("file={},format=raw", disk.display()));
    command.arg("-serial").arg(format!("file:{}", output.display()));
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child = child.map_err(Error::missing("qemu-system-x86_64"))?;
    let said = wait_for_letter(&mut child, &output, limit);
    let _ = child.kill();
    let _ = child.wait();
    let _ = fs::remove_file(&disk);
    let _ = fs::remove_file(&output);
    Ok(said)
}

fn wait_for_letter(child: &mut Child, output: &Path, limit: Duration) -> bool {
    let start = Instant::now();
    while start.elapsed() < limit {
        if fs::read(output).is_ok_and(|text| text.contains(&b'K')) {
            return true;
        }
        if !matches!(child.try_wait(), Ok(None)) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_speaks_where_the_processor_is_emulated() {
        let folder = tempfile::tempdir().unwrap();
        match probe(Accelerator::Tcg, folder.path(), Duration::from_secs(60)) {
            Ok(said) => assert!(said),
            Err(error) => println!("skipped: {error}"),
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
