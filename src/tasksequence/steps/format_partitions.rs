//! `format`: makes file systems, and says where the installed system has them.

use std::fmt;

use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::imaging::disk::guid::Guid;
use crate::tasksequence::host::{Command, Disk, Root};
use crate::tasksequence::layout::{Found, Mount, Target};
use crate::tasksequence::quantity::bytes_for_people;

use super::selection::{self, DiskRule};
use super::{
    BOOT_ENVIRONMENT, Check, Done, Gives, Kind, Needs, On, Parameter, Planned, Row, StepError, View, Work, load,
    optional, required,
};

pub(super) const ROW: Row = Row {
    name: "format",
    summary: "makes file systems in partitions",
    text: "Each is made by its own program (mke2fs, mkfs.xfs, mkfs.btrfs, mkfs.fat, mkntfs, mkswap), which the boot \
           environment has, and read back afterwards. Those with `at` are the system that later steps work on: they are \
           mounted there, and written into its /etc/fstab by UUID by `install-bootloader`. A file system with `keep` that is \
           there already, of that type and label, is left alone with all that is in it. Without a file system at `/`, those \
           here are added to the system that an image has brought.",
    parameters: &[
        optional("disk", Kind::DiskRule, "first", "the disk with the partitions"),
        required("file-systems", Kind::Records(FILE_SYSTEM), "the file systems"),
    ],
    places: BOOT_ENVIRONMENT,
    needs: Needs::Nothing,
    gives: Gives::FileSystems,
    erases: true,
    example: "- format:\n    disk: largest\n    file-systems:\n      - { partition: esp, type: fat, label: ESP, at: /boot/efi }\n      \
              - { partition: swap, type: swap }\n      - { partition: root, type: ext4, label: root, at: / }\n      \
              - { partition: 5, type: xfs, label: home, at: /home, keep: true }\n",
    load: load::<Format>,
};

const FILE_SYSTEM: &[Parameter] = &[
    required("partition", Kind::Partition, "the partition by its name, or its number"),
    required("type", Kind::Choice(&FileSystem::NAMES), "the file system"),
    optional("label", Kind::Text, "", "its name; at most 16 characters, FAT 11, XFS 12"),
    optional("at", Kind::Path, "", "where the installed system mounts it"),
    optional("options", Kind::Texts, "", "mount options, for /etc/fstab"),
    optional("keep", Kind::Boolean, "false", "leave one alone that is there already with this type and label"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Format {
    #[serde(default)]
    disk: DiskRule,
    file_systems: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    partition: Reference,
    #[serde(rename = "type")]
    kind: FileSystem,
    #[serde(default)]
    label: String,
    #[serde(default)]
    at: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default)]
    keep: bool,
}

/// A partition by name or number.
struct Reference(String);

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Reference, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(name) => Ok(Reference(name)),
            Value::Number(number) => Ok(Reference(number.to_string())),
            other => Err(serde::de::Error::custom(format!("{other} is no name or number of a partition"))),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FileSystem {
    Ext4,
    Xfs,
    Btrfs,
    Fat,
    Ntfs,
    Swap,
}

/// FAT32 needs at least 65,525 clusters; below this a small partition gets FAT16, which firmware reads as well.
const FAT32_BYTES_MIN: u64 = 40 << 20;

impl FileSystem {
    const NAMES: [&'static str; 6] = ["ext4", "xfs", "btrfs", "fat", "ntfs", "swap"];

    fn name(self) -> &'static str {
        match self {
            FileSystem::Ext4 => "ext4",
            FileSystem::Xfs => "xfs",
            FileSystem::Btrfs => "btrfs",
            FileSystem::Fat => "fat",
            FileSystem::Ntfs => "ntfs",
            FileSystem::Swap => "swap",
        }
    }

    fn label_max(self) -> usize {
        match self {
            FileSystem::Fat => 11,
            FileSystem::Xfs => 12,
            FileSystem::Ext4 | FileSystem::Swap => 16,
            FileSystem::Ntfs => 32,
            FileSystem::Btrfs => 255,
        }
    }

    /// The program that makes it; `uuid` is what it gets where it can be told.
    fn command(self, partition: &Found, label: &str, uuid: &str) -> Vec<String> {
        let fat = if partition.bytes < FAT32_BYTES_MIN { "16" } else { "32" };
        let serial = uuid[..8].to_uppercase();
        let (program, label_flag): (&[&str], &str) = match self {
            FileSystem::Ext4 => (&["mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid], "-L"),
            FileSystem::Xfs => (&["mkfs.xfs", "-q", "-f", "-m", &format!("uuid={uuid}")], "-L"),
            FileSystem::Btrfs => (&["mkfs.btrfs", "-q", "-f", "-U", uuid], "-L"),
            FileSystem::Fat => (&["mkfs.fat", "-F", fat, "-i", &serial], "-n"),
            FileSystem::Ntfs => (&["mkntfs", "-q", "-F", "-f"], "-L"),
            FileSystem::Swap => (&["mkswap", "-f", "-U", uuid], "-L"),
        };
        let mut command: Vec<String> = program.iter().map(|word| (*word).to_owned()).collect();
        if !label.is_empty() {
            command.extend([label_flag.to_owned(), label.to_owned()]);
        }
        command.push(partition.path.clone());
        command
    }
}

impl Entry {
    fn valid(&self) -> Result<(), StepError> {
        let (kind, label) = (self.kind.name(), &self.label);
        if label.chars().count() > self.kind.label_max() || label.contains(char::is_control) {
            let most = self.kind.label_max();
            return Err(StepError::new(format!("`{label}` is no label for {kind}: it may have {most} characters")));
        }
        if self.kind == FileSystem::Swap && !self.at.is_empty() {
            return Err(StepError::new(format!(
                "swap in partition {} cannot be mounted at {}",
                self.partition, self.at
            ))
            .hint("leave `at` out: it is written into /etc/fstab all the same"));
        }
        Ok(())
    }

    fn is_there(&self, found: &Found) -> bool {
        // NTFS keeps its label in a file of its own, which a look at the superblock does not read.
        let labelled = self.kind == FileSystem::Ntfs || found.content.label == self.label_on_disk();
        found.content.kind == self.kind.name() && labelled
    }

    fn label_on_disk(&self) -> String {
        if self.kind == FileSystem::Fat { self.label.to_uppercase() } else { self.label.clone() }
    }

    fn mount(&self, disk: &Disk, found: &Found) -> Mount {
        Mount {
            disk: disk.identity(),
            partition: found.number,
            kind: self.kind.name().to_owned(),
            uuid: found.content.uuid.clone(),
            at: self.at.clone(),
            options: self.options.clone(),
        }
    }
}

impl Format {
    fn valid(&self) -> Result<(), StepError> {
        for (index, entry) in self.file_systems.iter().enumerate() {
            entry.valid()?;
            for other in &self.file_systems[..index] {
                if other.partition.0 == entry.partition.0 {
                    return Err(StepError::new(format!("the partition {} is formatted twice", entry.partition)));
                }
                if !entry.at.is_empty() && other.at == entry.at {
                    return Err(StepError::new(format!("two file systems are mounted at {}", entry.at)));
                }
            }
        }
        Ok(())
    }

    fn find<'a>(entry: &Entry, disk: &Disk, found: &'a [Found]) -> Result<&'a Found, StepError> {
        let named = found.iter().find(|one| one.name == entry.partition.0);
        let numbered = || found.iter().find(|one| one.number.to_string() == entry.partition.0);
        named.or_else(numbered).ok_or_else(|| {
            let names: Vec<String> = found.iter().map(|one| format!("{} `{}`", one.number, one.name)).collect();
            StepError::new(format!("{} has no partition {}; it has {}", disk.path, entry.partition, names.join(", ")))
                .hint("`partition-disk` before this step gives partitions their names; an MBR has numbers only")
        })
    }

    fn disk(&self, on: &mut On) -> Result<(Disk, Vec<Found>), StepError> {
        let disks = on.host.disks()?;
        let disk = selection::choose(&self.disk, &disks)?.clone();
        let layout = on.host.layout(&disk)?.ok_or_else(|| {
            StepError::new(format!("{} has no partition table", disk.path))
                .hint("put `- partition-disk:` before this step")
        })?;
        Ok((disk, layout.partitions))
    }
}

impl Work for Format {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        self.valid()?;
        let one = |entry: &Entry| {
            let at = if entry.at.is_empty() { String::new() } else { format!(" at {}", entry.at) };
            let keep = if entry.keep { " unless it is there" } else { "" };
            format!("{} in {}{at}{keep}", entry.kind.name(), entry.partition)
        };
        let all: Vec<String> = self.file_systems.iter().map(one).collect();
        let kept = self.file_systems.iter().all(|entry| entry.keep);
        if view.facts.disks.is_empty() {
            let what = format!("make {}", all.join(", "));
            return Ok(Planned { what, erases: (!kept).then(super::unknown_disk), ..Planned::default() });
        }
        let disk = selection::choose(&self.disk, &view.facts.disks)?;
        let what = format!("make on {}: {}", disk.path, all.join(", "));
        Ok(Planned { what, erases: (!kept).then(|| disk.identity()), ..Planned::default() })
    }

    /// An empty file system is the result, and whether one is empty is not for us to guess.
    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        self.valid()?;
        let (disk, found) = self.disk(on)?;
        for entry in &self.file_systems {
            Format::find(entry, &disk, &found)?;
        }
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        on.host.release_target()?;
        let (disk, found) = self.disk(on)?;
        let mut done = Done::default();
        let mut kept = Vec::new();
        for entry in &self.file_systems {
            let partition = Format::find(entry, &disk, &found)?;
            if entry.keep && entry.is_there(partition) {
                on.line(&format!("{} keeps its {}", partition.path, entry.kind.name()));
                kept.push(Value::from(partition.number));
                continue;
            }
            let (size, kind) = (bytes_for_people(partition.bytes), entry.kind.name());
            on.line(&format!("making {kind} in {} ({size})", partition.path));
            let uuid = uuid(&format!("{} {} {}", on.order.run, disk.path, partition.number));
            make(on, &entry.kind.command(partition, &entry.label_on_disk(), &uuid))?;
        }
        done.evidence("kept", kept);
        Ok(done)
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        let (disk, found) = self.disk(on)?;
        let (mut read, mut mounts) = (Vec::new(), Vec::new());
        for entry in &self.file_systems {
            let partition = Format::find(entry, &disk, &found)?;
            let content = &partition.content;
            if !entry.is_there(partition) || content.uuid.is_empty() {
                let (kind, label) = (entry.kind.name(), &entry.label);
                return Err(StepError::new(format!(
                    "{} holds `{}` with the label `{}` instead of {kind} with the label `{label}`",
                    partition.path, content.kind, content.label
                )));
            }
            read.push(json!({
                "partition": partition.number, "path": partition.path, "type": content.kind, "label": content.label,
                "uuid": content.uuid, "bytes": content.bytes, "at": entry.at,
            }));
            mounts.push(entry.mount(&disk, partition));
        }
        done.evidence("disk", disk.path.as_str());
        done.evidence("file_systems", read);
        done.target = joined(on.target, &disk, mounts);
        match &done.target {
            Some(target) => Ok(on.host.use_target(target)?),
            None => Ok(()),
        }
    }
}

/// The system with these file systems; without a root among them they join the one that is there.
fn joined(before: Option<&Target>, disk: &Disk, mounts: Vec<Mount>) -> Option<Target> {
    let added = Target { disk: disk.identity(), mounts };
    if added.root().is_some() {
        return Some(added);
    }
    let mut target = before?.clone();
    let replaced =
        |mount: &Mount| added.mounts.iter().any(|new| new.disk == mount.disk && new.partition == mount.partition);
    target.mounts.retain(|mount| !replaced(mount));
    target.mounts.extend(added.mounts);
    Some(target)
}

fn make(on: &mut On, arguments: &[String]) -> Result<(), StepError> {
    let exit = on.host.command(&Command::new(Root::Here, arguments.to_vec()), on.watch)?;
    if exit.stopped {
        return Err(StepError::new(format!("`{}` was stopped", arguments[0])));
    }
    if exit.status == 0 {
        return Ok(());
    }
    let last = exit.output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    Err(StepError::new(format!("`{}` ended with status {}: {last}", arguments[0], exit.status))
        .hint("is the partition large enough for this file system? the log of the run has all that the program said"))
}

/// The same for the same run and partition, so that a format that was interrupted gives what it would have given.
fn uuid(of: &str) -> String {
    let mut random = [0; 16];
    random.copy_from_slice(&blake3::hash(of.as_bytes()).as_bytes()[..16]);
    Guid::from_random(random).to_string()
}
