//! A machine's TPM 2.0: swtpm, set up once as a maker does, started and stopped with the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::error::Error;
use super::scenario::Firmware;

/// Its state, its endorsement key's certificate and its control socket are in this folder of the machine's.
const FOLDER: &str = "tpm";
/// It takes a tenth of a second; a busy computer is given more.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running TPM. Dropping ends it.
pub(super) struct Tpm(Child);

impl Tpm {
    /// Makes the TPM of a machine: an endorsement key where makers leave it, and their certificate for it.
    pub(super) fn make(machine: &Path) -> Result<(), Error> {
        let folder = machine.join(FOLDER);
        fs::create_dir_all(&folder).map_err(Error::file(&folder))?;
        let mut command = Command::new("swtpm_setup");
        command.args(["--tpm2", "--create-ek-cert", "--overwrite", "--tpmstate"]).arg(&folder);
        command.arg("--write-ek-cert-files").arg(&folder).env("XDG_CONFIG_HOME", folder.join("config"));
        let output = command.stdin(Stdio::null()).output().map_err(Error::missing("swtpm_setup"))?;
        if output.status.success() {
            return Ok(());
        }
        let message = String::from_utf8_lossy(&output.stdout).trim().replace('\n', "; ");
        Err(Error::Command { command: "swtpm_setup".to_owned(), message })
    }

    /// Starts it for a machine that is switched on. It ends by itself when the machine lets go of it.
    pub(super) fn start(machine: &Path) -> Result<Tpm, Error> {
        let socket = machine.join(FOLDER).join("socket");
        let _ = fs::remove_file(&socket);
        let mut command = Command::new("swtpm");
        // The path of a socket may have 107 bytes, so it is relative.
        command.args(["socket", "--tpm2", "--terminate", "--tpmstate", "dir=tpm", "--ctrl"]);
        command.arg("type=unixio,path=tpm/socket").current_dir(machine);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut tpm = Tpm(command.spawn().map_err(Error::missing("swtpm"))?);
        let start = Instant::now();
        while !socket.exists() {
            let ended = !matches!(tpm.0.try_wait(), Ok(None));
            if ended || start.elapsed() > START_LIMIT {
                let last = "its control socket never came to be".to_owned();
                return Err(Error::Ended { what: "the software TPM".to_owned(), last });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(tpm)
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn certificate(machine: &Path) -> PathBuf {
    machine.join(FOLDER).join("ek-rsa2048.crt")
}

/// QEMU's arguments for it.
pub(super) fn arguments(firmware: Firmware) -> [&'static str; 6] {
    let device = if firmware == Firmware::UefiArm64 { "tpm-tis-device,tpmdev=tpm" } else { "tpm-tis,tpmdev=tpm" };
    ["-chardev", "socket,id=tpm,path=tpm/socket", "-tpmdev", "emulator,id=tpm,chardev=tpm", "-device", device]
}
