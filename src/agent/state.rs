//! The agent's folder in the installed system: who this machine is, and the run that is under way.
//!
//! ```text
//! /var/lib/remint/          0700
//!   agent.json              server, authority, machine, key and certificate; 0600, whole or absent
//!   run/order.json          the run as it was handed over
//!   run/journal             its journal, see `tasksequence::journal`
//!   packages/               payloads of packages, kept as seeds for the next version
//!   spool/                  reports that the appliance has not taken yet
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::enrol::Enrolled;
use crate::fleet::MachineId;
use crate::link::client::Credentials;
use crate::stdx::file::{sync_folder, write_whole_private};
use crate::stdx::time::Timestamp;
use crate::tasksequence::link::RunOrder;

/// Where the folder is in an installed system.
pub const FOLDER: &str = "/var/lib/remint";
/// The program and its service, as `install-agent` puts them there.
pub const PROGRAM: &str = "/usr/bin/remint-agent";
pub const UNIT_PATH: &str = "/etc/systemd/system/remint-agent.service";
pub const UNIT: &str = include_str!("remint-agent.service");

/// What travels from the boot environment into the installed system. Version 1 of the file `agent.json`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub format: u32,
    /// `https://ADDRESS:PORT`
    pub server: String,
    /// The site's authority, PEM; nothing else is trusted.
    pub authority_pem: String,
    pub machine: MachineId,
    pub name: String,
    /// The site's key for manifests, as text.
    pub site_public_key: String,
    /// Empty while the machine waits to be let in again with a new key.
    pub certificate_pem: String,
    pub key_pem: String,
    /// When to ask for the next certificate, by this machine's clock.
    #[serde(default)]
    pub renew_at: Timestamp,
}

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("understand {path}")]
    Format { path: PathBuf, source: serde_json::Error },
}

impl Identity {
    pub fn new(server: &str, authority_pem: &str, enrolled: &Enrolled, now: Timestamp) -> Identity {
        Identity {
            format: 1,
            server: server.to_owned(),
            authority_pem: authority_pem.to_owned(),
            machine: enrolled.machine.clone(),
            name: enrolled.name.clone(),
            site_public_key: enrolled.site_public_key.clone(),
            certificate_pem: enrolled.credentials.certificate_pem.clone(),
            key_pem: enrolled.credentials.key_pem.clone(),
            renew_at: now.plus_seconds(enrolled.renew_in_seconds.into()),
        }
    }

    /// `None` while there is no certificate for the key.
    pub fn credentials(&self) -> Option<Credentials> {
        let credentials = Credentials { certificate_pem: self.certificate_pem.clone(), key_pem: self.key_pem.clone() };
        (!self.certificate_pem.is_empty()).then_some(credentials)
    }

    /// The content of `agent.json`.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("strings and numbers always have a JSON form")
    }
}

/// The folder, opened. All files are replaced whole.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    pub fn open(path: &Path) -> Result<Folder, StateError> {
        for folder in [path.to_owned(), path.join("run"), path.join("packages"), path.join("spool")] {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
            made.map_err(|source| StateError::Write { path: folder, source })?;
        }
        Ok(Folder { path: path.to_owned() })
    }

    pub fn packages(&self) -> PathBuf {
        self.path.join("packages")
    }

    pub fn spool(&self) -> PathBuf {
        self.path.join("spool")
    }

    pub fn journal(&self) -> PathBuf {
        self.path.join("run/journal")
    }

    /// `None` before the machine was enrolled.
    pub fn identity(&self) -> Result<Option<Identity>, StateError> {
        self.read("agent.json")
    }

    pub fn save_identity(&self, identity: &Identity) -> Result<(), StateError> {
        self.write("agent.json", &identity.to_json())
    }

    /// The run that was handed over and is not over yet.
    pub fn order(&self) -> Result<Option<RunOrder>, StateError> {
        self.read("run/order.json")
    }

    pub fn save_order(&self, order: &RunOrder) -> Result<(), StateError> {
        self.write("run/order.json", &serde_json::to_vec(order).expect("an order is plain data"))
    }

    /// Forgets the run once the appliance knows how it ended. The order goes first: a journal alone is no run.
    pub fn remove_run(&self) -> Result<(), StateError> {
        for name in ["run/order.json", "run/journal"] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StateError::Write { path, source });
                }
                _ => {}
            }
        }
        let path = self.path.join("run");
        sync_folder(&path).map_err(|source| StateError::Write { path, source })
    }

    /// Forgets what belongs to the record that this machine was: it is another one now.
    pub fn forget_record(&self) -> Result<(), StateError> {
        self.remove_run()?;
        for name in ["inventory-taken.json", "policy.json", "compliance.json"] {
            let path = self.spool().join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StateError::Write { path, source });
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.path.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Read { path, source }),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| StateError::Format { path, source })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(name);
        write_whole_private(&path, bytes).map_err(|source| StateError::Write { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_identity_is_read_back_and_nobody_else_may_read_it() {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::open(&root.path().join("remint")).unwrap();
        assert!(folder.identity().unwrap().is_none());
        let identity = Identity {
            format: 1,
            server: "https://10.0.0.1:443".into(),
            authority_pem: "A".into(),
            machine: "machine-1".into(),
            name: "one".into(),
            site_public_key: "K".into(),
            certificate_pem: "C".into(),
            key_pem: "P".into(),
            renew_at: Timestamp::default(),
        };
        folder.save_identity(&identity).unwrap();
        assert!(folder.identity().unwrap().unwrap() == identity);
        let file = root.path().join("remint/agent.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&file, "{\"format\":").unwrap();
        assert!(matches!(folder.identity(), Err(StateError::Format { .. })));
        folder.remove_run().unwrap();
    }

    #[test]
    fn the_service_starts_the_program_where_it_is_installed() {
        assert!(UNIT.contains(&format!("ExecStart={PROGRAM} service\n")));
        assert!(UNIT.contains("WantedBy=multi-user.target"));
    }
}
