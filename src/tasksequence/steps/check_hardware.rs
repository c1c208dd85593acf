//! `check-hardware`: stops the run before anything is touched when the machine is not what the sequence was made for.

use serde::Deserialize;

use crate::tasksequence::host::Hardware;
use crate::tasksequence::quantity::{Bytes, bytes_for_people};

use super::selection::{self, DiskRule};
use super::{ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional};

pub(super) const ROW: Row = Row {
    name: "check-hardware",
    summary: "fails unless the machine has what the sequence needs",
    text: "All that is missing is reported at once. Nothing is changed.",
    parameters: &[
        optional(
            "memory",
            Kind::Bytes,
            "",
            "least memory; firmware keeps some for itself, so ask for a little less than is built in",
        ),
        optional("processors", Kind::Integer { min: 1, max: 4096 }, "", "least number of logical processors"),
        optional("disk", Kind::Bytes, "", "least size of the disk"),
        optional("on", Kind::DiskRule, "first", "which disk `disk` is about"),
        optional(
            "firmware",
            Kind::Choice(&["uefi", "bios"]),
            "",
            "the firmware that the machine must have booted with",
        ),
    ],
    places: ANYWHERE,
    needs: Needs::Nothing,
    gives: Gives::Nothing,
    erases: false,
    example: "- check-hardware:\n    memory: 3500MiB\n    disk: 20GB\n    on: largest\n",
    load: load::<CheckHardware>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CheckHardware {
    memory: Option<Bytes>,
    processors: Option<u32>,
    disk: Option<Bytes>,
    #[serde(default)]
    on: DiskRule,
    firmware: Option<String>,
}

impl CheckHardware {
    fn missing(&self, hardware: &Hardware, disk: Result<u64, StepError>) -> Vec<String> {
        let mut missing = Vec::new();
        if let Some(Bytes(least)) = self.memory.filter(|least| hardware.memory_bytes < least.0) {
            let has = bytes_for_people(hardware.memory_bytes);
            missing.push(format!("{} of memory (it has {has})", bytes_for_people(least)));
        }
        if let Some(least) = self.processors.filter(|least| hardware.processors < *least) {
            missing.push(format!("{least} processors (it has {})", hardware.processors));
        }
        if let Some(wanted) = self.firmware.as_ref().filter(|wanted| **wanted != hardware.firmware) {
            missing.push(format!("{wanted} firmware (it booted with {})", hardware.firmware));
        }
        match (self.disk, disk) {
            (Some(Bytes(least)), Ok(has)) if has < least => {
                missing.push(format!("a disk of {} (it has {})", bytes_for_people(least), bytes_for_people(has)));
            }
            (Some(_), Err(error)) => missing.push(format!("the disk ({error})")),
            _ => {}
        }
        missing
    }

    fn look(&self, on: &mut On) -> Result<(Hardware, Vec<String>), StepError> {
        let hardware = on.host.hardware()?;
        let disks = on.host.disks()?;
        let disk = selection::choose(&self.on, &disks).map(|disk| disk.bytes);
        let missing = self.missing(&hardware, disk);
        Ok((hardware, missing))
    }
}

impl Work for CheckHardware {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        if view.facts.memory_bytes == 0 {
            return Ok(Planned::new("check the hardware, which inventory does not know yet"));
        }
        let hardware = Hardware {
            memory_bytes: view.facts.memory_bytes,
            processors: view.facts.processors,
            firmware: view.facts.firmware.clone(),
            architecture: view.facts.architecture.clone(),
        };
        let disk = selection::choose(&self.on, &view.facts.disks).map(|disk| disk.bytes);
        match self.missing(&hardware, disk).as_slice() {
            [] => Ok(Planned::new("check the hardware: it has what is needed")),
            missing => Err(lacks(missing)),
        }
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        Ok(if self.look(on)?.1.is_empty() { Check::Holds } else { Check::Needed })
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        Err(lacks(&self.look(on)?.1))
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        let (hardware, _) = self.look(on)?;
        done.evidence("memory_bytes", hardware.memory_bytes);
        done.evidence("processors", hardware.processors);
        done.evidence("firmware", hardware.firmware);
        Ok(())
    }
}

fn lacks(missing: &[String]) -> StepError {
    StepError::new(format!("the machine lacks {}", missing.join(", ")))
        .hint("deploy to another machine, or change what `check-hardware` asks for")
}
