//! The machine as steps see it. One implementation is real (`real`), one is a model in memory for tests.

#[cfg(feature = "agent")]
mod mounts;
#[cfg(feature = "agent")]
pub mod partition;
#[cfg(feature = "agent")]
pub mod process;
#[cfg(feature = "agent")]
pub mod real;
pub mod root;
#[cfg(feature = "agent")]
pub mod trial;
#[cfg(feature = "agent")]
pub mod wipe;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::inventory;
use crate::stdx::time::Timestamp;

use super::journal::{DiskIdentity, Entry};
use super::layout::{Layout, NewTable, Target};
use super::link::{ImageGrant, RunId, RunOrder};
use super::model::{ItemId, Values};

/// Where the machine is: which system runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    BootEnvironment,
    InstalledSystem,
}

impl Place {
    pub fn name(self) -> &'static str {
        match self {
            Place::BootEnvironment => "boot-environment",
            Place::InstalledSystem => "installed-system",
        }
    }

    /// As in "in the ...".
    pub fn words(self) -> &'static str {
        match self {
            Place::BootEnvironment => "boot environment",
            Place::InstalledSystem => "installed system",
        }
    }
}

/// Whose files: those of the running system, or those of the system that is being installed. In the installed system
/// both are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Root {
    Here,
    Target,
}

/// A whole disk of the machine; what it was booted from over the network is not among them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// `/dev/vda`
    pub path: String,
    pub bytes: u64,
    #[serde(default)]
    pub serial: Option<String>,
    #[serde(default)]
    pub model: Option<String>,
    #[serde(default)]
    pub rotational: bool,
    #[serde(default)]
    pub removable: bool,
}

impl From<inventory::model::Disk> for Disk {
    fn from(found: inventory::model::Disk) -> Disk {
        Disk {
            path: format!("/dev/{}", found.name),
            bytes: found.bytes,
            serial: found.serial,
            model: found.model,
            rotational: found.rotational,
            removable: found.removable,
        }
    }
}

impl Disk {
    pub fn identity(&self) -> DiskIdentity {
        DiskIdentity { path: self.path.clone(), serial: self.serial.clone(), bytes: self.bytes }
    }

    /// A serial number decides when there is one; without it the path and the size must agree.
    pub fn is(&self, identity: &DiskIdentity) -> bool {
        match (&self.serial, &identity.serial) {
            (Some(a), Some(b)) => a == b,
            _ => self.path == identity.path && self.bytes == identity.bytes,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    pub memory_bytes: u64,
    pub processors: u32,
    /// `uefi` or `bios`.
    pub firmware: String,
    /// `x86_64`
    pub architecture: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileContent {
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// A file as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundFile {
    pub bytes: Vec<u8>,
    /// Permission bits. `None`: its file system keeps none, as FAT does.
    pub mode: Option<u32>,
}

impl FoundFile {
    /// Whether this is what was, or is to be, written, as far as its file system can hold that.
    pub fn is(&self, wanted: &FileContent) -> bool {
        self.bytes == wanted.bytes && self.mode.is_none_or(|mode| mode == wanted.mode)
    }
}

/// An entry of a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub name: String,
    pub is_folder: bool,
}

/// A program with its arguments. Never a string for a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub arguments: Vec<String>,
    pub environment: BTreeMap<String, String>,
    pub root: Root,
    pub input: Vec<u8>,
    pub timeout: Option<Duration>,
}

impl Command {
    /// A program with nothing but its arguments, for at most an hour.
    pub fn new(root: Root, arguments: Vec<String>) -> Command {
        let timeout = Some(Duration::from_hours(1));
        Command { arguments, environment: BTreeMap::new(), root, input: Vec::new(), timeout }
    }
}

/// How a program ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    pub status: i32,
    /// The last of standard output, at most `OUTPUT_BYTES_MAX`.
    pub output: String,
    pub timed_out: bool,
    pub stopped: bool,
}

/// What is kept of a program's output; every line of it is in the log as well.
pub const OUTPUT_BYTES_MAX: usize = 16 << 10;

/// Bytes of an image apply.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// What the manifest covers.
    pub total_bytes: u64,
    /// Left alone since it matched already.
    pub kept_bytes: u64,
    pub written_bytes: u64,
    pub zeroed_bytes: u64,
    pub fetched_bytes: u64,
    /// Chunks whose hash was checked on the way to the disk or on it.
    pub verified_chunks: u64,
}

/// What applying a tree of files came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedTree {
    pub bytes: Applied,
    pub files: u64,
    pub folders: u64,
    pub links: u64,
    /// What the file systems have no place for, and how often.
    pub not_held: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grown {
    pub partition: String,
    pub file_system: String,
    pub before_bytes: u64,
    pub after_bytes: u64,
}

/// What a capture is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    pub run: RunId,
    pub image: String,
    pub tag: Option<String>,
}

/// What a capture came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// The version's number and its SHA-256.
    pub number: u32,
    pub version: String,
    pub read_bytes: u64,
    pub chunks: u64,
    pub sent_chunks: u64,
    pub sent_bytes: u64,
}

/// How a disk is erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WipeMethod {
    #[default]
    Overwrite,
    Discard,
    NvmeFormat,
    NvmeSanitize,
    AtaSecureErase,
}

impl WipeMethod {
    pub const NAMES: [&'static str; 5] = ["overwrite", "discard", "nvme-format", "nvme-sanitize", "ata-secure-erase"];

    pub fn name(self) -> &'static str {
        match self {
            WipeMethod::Overwrite => "overwrite",
            WipeMethod::Discard => "discard",
            WipeMethod::NvmeFormat => "nvme-format",
            WipeMethod::NvmeSanitize => "nvme-sanitize",
            WipeMethod::AtaSecureErase => "ata-secure-erase",
        }
    }
}

/// Bytes of a disk that were erased, and those that were then read and were zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wiped {
    pub bytes: u64,
    pub read_back_bytes: u64,
}

/// What a hardware test covers.
#[derive(Clone, Debug)]
pub struct HardwareTest {
    pub memory_bytes: u64,
    pub processor: Duration,
    /// A disk and how many places of it are read.
    pub disk: Option<(Disk, u32)>,
    /// How long data is fetched from the appliance.
    pub network: Duration,
}

/// Told while something long goes on; answers whether to go on.
pub trait Watch {
    fn line(&mut self, now: Timestamp, text: &str);
    fn progress(&mut self, done: u64, total: u64, unit: &str, note: &str);
    /// What a person has answered to the question of this step.
    fn answer(&mut self) -> Option<Value>;
    /// Why to stop as soon as it is safe, if so.
    fn must_stop(&mut self, now: Timestamp) -> Option<&'static str>;
}

#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    pub message: String,
    pub hint: Option<String>,
    /// Trying again may help.
    pub transient: bool,
}

impl HostError {
    pub fn new(message: impl Into<String>) -> HostError {
        HostError { message: message.into(), hint: None, transient: false }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> HostError {
        self.hint = Some(hint.into());
        self
    }

    pub fn transient(mut self) -> HostError {
        self.transient = true;
        self
    }
}

/// Everything a step may do to a machine.
pub trait Host {
    fn place(&self) -> Place;
    /// Differs from boot to boot, and only then.
    fn boot(&self) -> String;
    fn now(&self) -> Timestamp;
    fn sleep(&mut self, duration: Duration);

    fn hardware(&mut self) -> Result<Hardware, HostError>;
    fn disks(&mut self) -> Result<Vec<Disk>, HostError>;

    /// Makes `disk` match the image. Idempotent: what matches is left alone.
    fn apply_image(&mut self, image: &ImageGrant, disk: &Disk, watch: &mut dyn Watch) -> Result<Applied, HostError>;
    /// Publishes what the file systems of `disk` use as a version of an image, and checks what was published.
    fn capture_image(&mut self, capture: &Capture, disk: &Disk, watch: &mut dyn Watch) -> Result<Captured, HostError>;
    /// Makes the folder `at` of the file systems of `target`, whose root `format` made, hold the files of the image. Idempotent:
    /// what matches is left alone. Nothing of them is mounted afterwards.
    fn apply_tree(
        &mut self,
        image: &ImageGrant,
        target: &Target,
        at: &str,
        watch: &mut dyn Watch,
    ) -> Result<AppliedTree, HostError>;
    /// Grows the last partition of `disk` and its file system to the end of the disk. `None`: nothing there can grow.
    fn grow(&mut self, disk: &Disk, watch: &mut dyn Watch) -> Result<Option<Grown>, HostError>;
    /// Erases all of `disk` and reads all of it back; anything but zero is an error.
    fn wipe(&mut self, disk: &Disk, method: WipeMethod, watch: &mut dyn Watch) -> Result<Wiped, HostError>;
    /// The evidence holds the figures; the first fault is an error.
    fn test_hardware(&mut self, test: &HardwareTest, watch: &mut dyn Watch) -> Result<Map<String, Value>, HostError>;
    /// What the partition table of `disk` says and its partitions hold. `None`: it has no table.
    fn layout(&mut self, disk: &Disk) -> Result<Option<Layout>, HostError>;
    /// Gives `disk` a new partition table; nothing that it held is found again.
    fn partition(&mut self, disk: &Disk, table: &NewTable) -> Result<(), HostError>;
    /// The first sector of `disk`, where boot code of the old kind is.
    fn first_sector(&mut self, disk: &Disk) -> Result<Vec<u8>, HostError>;
    /// The system that is `Root::Target` from now on.
    fn use_target(&mut self, target: &Target) -> Result<(), HostError>;
    /// Nothing of the disks is mounted any more.
    fn release_target(&mut self) -> Result<(), HostError>;

    /// `None`: there is no such file. Symbolic links never lead out of the root.
    fn read(&mut self, root: Root, path: &str) -> Result<Option<FoundFile>, HostError>;
    /// What is in a folder, by name. `None`: there is no such folder.
    fn list(&mut self, root: Root, path: &str) -> Result<Option<Vec<Listed>>, HostError>;
    /// Writes a whole file, durably, making the folders above it.
    fn write(&mut self, root: Root, path: &str, content: &FileContent) -> Result<(), HostError>;
    /// Removes a file, or a folder with all that is in it. False: it was not there.
    fn remove(&mut self, root: Root, path: &str) -> Result<bool, HostError>;
    fn command(&mut self, command: &Command, watch: &mut dyn Watch) -> Result<Exit, HostError>;

    /// A variable of the UEFI firmware, one of those that the specification itself names. `None`: there is none.
    fn variable(&mut self, name: &str) -> Result<Option<Vec<u8>>, HostError>;
    fn set_variable(&mut self, name: &str, value: &[u8]) -> Result<(), HostError>;
    /// The next restart starts this kernel of `Root::Target` without the firmware.
    fn load_kernel(&mut self, kernel: &str, initramfs: &str, command_line: &str) -> Result<(), HostError>;

    /// The secrets that this step of the run needs, from the appliance, for this once.
    fn secrets(&mut self, run: &RunId, item: &ItemId) -> Result<Values, HostError>;
    /// Puts the running agent, its service and its identity into `Root::Target`; the evidence says what is there now.
    fn install_agent(&mut self, order: &RunOrder) -> Result<Map<String, Value>, HostError>;
    /// Whether all that `install_agent` writes is there and equal.
    fn agent_is_installed(&mut self, order: &RunOrder) -> Result<bool, HostError>;
    /// Installs what this machine's baseline asks for; the evidence lists each package and what was detected.
    fn install_baseline(&mut self, watch: &mut dyn Watch) -> Result<Map<String, Value>, HostError>;
    /// Puts the run, as it stands, where the agent of the system on the disk finds it, and closes that system's file
    /// systems. The restart follows.
    fn hand_over(&mut self, order: &RunOrder, journal: &[Entry]) -> Result<(), HostError>;
}
