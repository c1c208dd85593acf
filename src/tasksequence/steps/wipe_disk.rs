//! `wipe-disk`: nothing of what was on a disk can be read any more.

use serde::Deserialize;

use crate::tasksequence::host::WipeMethod;
use crate::tasksequence::quantity::bytes_for_people;

use super::selection::{self, DiskRule};
use super::{
    BOOT_ENVIRONMENT, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional,
};

pub(super) const ROW: Row = Row {
    name: "wipe-disk",
    summary: "erases a disk and reads back that it is empty",
    text: "`overwrite` writes zeros over every sector. `discard` tells a solid-state disk that it holds nothing, which takes \
           seconds. `nvme-format` and `nvme-sanitize` have an NVMe drive erase itself, `ata-secure-erase` an ATA drive, also \
           what it has put aside; a drive that cannot or will not fails the step. Whichever it is, every sector is read back \
           afterwards, past the cache; anything but zeros (of a drive that erased itself: zeros or ones) fails the step and \
           says where. What was read is kept as the record of the wipe.",
    parameters: &[
        optional("disk", Kind::DiskRule, "first", "the disk to erase"),
        optional("method", Kind::Choice(&WipeMethod::NAMES), "overwrite", "how"),
    ],
    places: BOOT_ENVIRONMENT,
    needs: Needs::Nothing,
    gives: Gives::Blank,
    erases: true,
    example: "- wipe-disk:\n    disk: largest\n    method: overwrite\n",
    load: load::<WipeDisk>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WipeDisk {
    #[serde(default)]
    disk: DiskRule,
    #[serde(default)]
    method: WipeMethod,
}

impl Work for WipeDisk {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        if view.facts.disks.is_empty() {
            return Ok(Planned {
                what: "erase a disk; inventory does not know the machine's disks yet".into(),
                erases: Some(super::unknown_disk()),
                ..Planned::default()
            });
        }
        let disk = selection::choose(&self.disk, &view.facts.disks)?;
        let what = format!("erase {} ({}) by {}", disk.path, bytes_for_people(disk.bytes), self.method.name());
        Ok(Planned { what, erases: Some(disk.identity()), ..Planned::default() })
    }

    /// Only reading all of it would tell, which is what the step does at its end.
    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let disks = on.host.disks()?;
        let disk = selection::choose(&self.disk, &disks)?;
        on.line(&format!("erasing {} ({})", disk.path, bytes_for_people(disk.bytes)));
        let wiped = on.host.wipe(disk, self.method, on.watch)?;
        let mut done = Done { blank: true, ..Done::default() };
        done.evidence("disk", disk.path.as_str());
        done.evidence("serial", disk.serial.clone());
        done.evidence("model", disk.model.clone());
        done.evidence("method", self.method.name());
        done.evidence("bytes", wiped.bytes);
        done.evidence("read_back_bytes", wiped.read_back_bytes);
        if wiped.read_back_bytes != disk.bytes {
            let (read, has) = (wiped.read_back_bytes, disk.bytes);
            return Err(StepError::new(format!("{read} of {has} bytes of {} were read back", disk.path)));
        }
        Ok(done)
    }

    fn verify(&self, _: &mut On, _: &mut Done) -> Result<(), StepError> {
        Ok(())
    }
}
