//! `grow-filesystem`: the root file system takes the free space behind it.

use serde::Deserialize;

use crate::tasksequence::quantity::bytes_for_people;

use super::selection::{self, DiskRule};
use super::{ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional};

pub(super) const ROW: Row = Row {
    name: "grow-filesystem",
    summary: "grows the root file system to the end of its disk",
    text: "The partition table is fitted to the disk, the partition with the root takes the space behind it, and its file \
           system (ext4, XFS, btrfs; NTFS where there is none of these) grows into it. `apply-image` does this by itself; this step is for an image that was \
           applied with `grow: none`, and for a disk that has become larger since. The size afterwards is read from the \
           file system.",
    parameters: &[optional("disk", Kind::DiskRule, "first", "the disk with the system")],
    places: ANYWHERE,
    needs: Needs::System,
    gives: Gives::Nothing,
    erases: false,
    example: "- grow-filesystem:\n    disk: largest\n",
    load: load::<GrowFilesystem>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrowFilesystem {
    #[serde(default)]
    disk: DiskRule,
}

impl Work for GrowFilesystem {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        if view.facts.disks.is_empty() {
            return Ok(Planned::new("grow the root file system to its disk"));
        }
        let disk = selection::choose(&self.disk, &view.facts.disks)?;
        Ok(Planned::new(format!("grow the root file system to {} ({})", disk.path, bytes_for_people(disk.bytes))))
    }

    /// Growing what is grown changes nothing.
    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let disks = on.host.disks()?;
        let disk = selection::choose(&self.disk, &disks)?;
        let grown = on.host.grow(disk, on.watch)?.ok_or_else(|| {
            StepError::new(format!("no file system that can grow was found on {}", disk.path))
                .hint("ext4, XFS, btrfs and NTFS can grow")
        })?;
        if grown.after_bytes < grown.before_bytes {
            return Err(StepError::new(format!("{} became smaller", grown.partition)));
        }
        let mut done = Done::default();
        done.evidence("partition", grown.partition);
        done.evidence("file_system", grown.file_system);
        done.evidence("before_bytes", grown.before_bytes);
        done.evidence("after_bytes", grown.after_bytes);
        Ok(done)
    }

    fn verify(&self, _: &mut On, _: &mut Done) -> Result<(), StepError> {
        Ok(())
    }
}
