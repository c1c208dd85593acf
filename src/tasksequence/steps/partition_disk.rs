//! `partition-disk`: gives a disk a new partition table.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::tasksequence::host::Disk;
use crate::tasksequence::layout::{LayoutError, NewTable, PURPOSE_NAMES, Placed, Scheme, Wanted, place};
use crate::tasksequence::quantity::bytes_for_people;

use super::selection::{self, DiskRule};
use super::{
    BOOT_ENVIRONMENT, Check, Done, Gives, Kind, Needs, On, Parameter, Planned, Row, StepError, View, Work, load,
    optional, required,
};

pub(super) const ROW: Row = Row {
    name: "partition-disk",
    summary: "divides a disk into partitions",
    text: "Partitions lie in the order of the list, on a grid of 1 MiB. A disk that is divided so already is left alone; \
           otherwise everything on it is lost, older tables and signatures of file systems too. What is read back is the \
           evidence. A machine that starts by BIOS needs a partition of type `bios-boot` (1 MiB) in a GPT, one that starts \
           by UEFI one of type `esp`.",
    parameters: &[
        optional("disk", Kind::DiskRule, "first", "the disk to divide"),
        optional(
            "table",
            Kind::Choice(&["gpt", "mbr"]),
            "gpt",
            "the kind of partition table; an MBR takes four partitions",
        ),
        required("partitions", Kind::Records(PARTITION), "the partitions"),
    ],
    places: BOOT_ENVIRONMENT,
    needs: Needs::Nothing,
    gives: Gives::Partitions,
    erases: true,
    example: "- partition-disk:\n    disk: largest\n    partitions:\n      - { name: bios, type: bios-boot, size: 1MiB }\n      \
              - { name: esp, type: esp, size: 256MiB }\n      - { name: swap, type: swap, size: 5% }\n      \
              - { name: root, type: linux-root, size: rest }\n",
    load: load::<PartitionDisk>,
};

const PARTITION: &[Parameter] = &[
    required("name", Kind::Text, "what `format` finds it by; a GPT keeps it"),
    optional("type", Kind::Choice(&PURPOSE_NAMES), "linux", "what it is for"),
    required("size", Kind::Share, "bytes, a share of the disk, or `rest`: what the others leave"),
    optional("bootable", Kind::Boolean, "false", "the active partition of an MBR"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PartitionDisk {
    #[serde(default)]
    disk: DiskRule,
    #[serde(default)]
    table: Scheme,
    partitions: Vec<Wanted>,
}

impl PartitionDisk {
    fn placed(&self, disk: &Disk) -> Result<Vec<Placed>, StepError> {
        place(self.table, &self.partitions, disk.bytes).map_err(refused)
    }

    fn disk(&self, on: &mut On) -> Result<Disk, StepError> {
        let disks = on.host.disks()?;
        Ok(selection::choose(&self.disk, &disks)?.clone())
    }
}

fn refused(error: LayoutError) -> StepError {
    StepError { message: error.to_string(), hint: error.hint() }
}

impl Work for PartitionDisk {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        if view.facts.disks.is_empty() {
            place(self.table, &self.partitions, u64::MAX / 2).map(drop).or_else(|error| match error {
                LayoutError::DiskTooLarge { .. } => Ok(()),
                error => Err(refused(error)),
            })?;
            let what = "divide a disk; inventory does not know the machine's disks yet".to_owned();
            return Ok(Planned { what, erases: Some(super::unknown_disk()), ..Planned::default() });
        }
        let disk = selection::choose(&self.disk, &view.facts.disks)?;
        let placed = self.placed(disk)?;
        let parts: Vec<String> =
            placed.iter().map(|one| format!("{} {}", one.name, bytes_for_people(one.bytes))).collect();
        let (bytes, scheme) = (bytes_for_people(disk.bytes), self.table.name());
        let what = format!("divide {} ({bytes}, {scheme}): {}", disk.path, parts.join(", "));
        Ok(Planned { what, erases: Some(disk.identity()), ..Planned::default() })
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        let disk = self.disk(on)?;
        let placed = self.placed(&disk)?;
        let there = on.host.layout(&disk)?;
        Ok(if there.is_some_and(|layout| layout.is(self.table, &placed)) { Check::Holds } else { Check::Needed })
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let disk = self.disk(on)?;
        let partitions = self.placed(&disk)?;
        on.line(&format!("dividing {} ({}) into {}", disk.path, bytes_for_people(disk.bytes), partitions.len()));
        let seed = *blake3::hash(format!("{} {}", on.order.run, disk.path).as_bytes()).as_bytes();
        on.host.partition(&disk, &NewTable { scheme: self.table, partitions, seed })?;
        Ok(Done::default())
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        let disk = self.disk(on)?;
        let wanted = self.placed(&disk)?;
        let layout = on.host.layout(&disk)?;
        let Some(layout) = layout.filter(|layout| layout.is(self.table, &wanted)) else {
            return Err(StepError::new(format!("{} does not read back as it was divided", disk.path))
                .hint("the disk does not keep what is written to it: look at its own error log"));
        };
        let read: Vec<Value> = layout
            .partitions
            .iter()
            .map(|one| {
                json!({ "number": one.number, "name": one.name, "type": one.purpose, "start": one.start, "bytes": one.bytes })
            })
            .collect();
        done.evidence("disk", disk.path.as_str());
        done.evidence("table", layout.scheme.name());
        done.evidence("partitions", read);
        done.blank = true;
        Ok(())
    }
}
