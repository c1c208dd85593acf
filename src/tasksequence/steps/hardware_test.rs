//! `hardware-test`: memory, processors, disk and network under load, with the figures kept as the record.

use serde::Deserialize;

use crate::tasksequence::host::HardwareTest as Test;
use crate::tasksequence::quantity::{Bytes, Seconds, bytes_for_people};

use super::selection::{self, DiskRule};
use super::{ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional};

pub(super) const ROW: Row = Row {
    name: "hardware-test",
    summary: "tests memory, processors, a disk and the network, and keeps the results",
    text: "Memory is filled with patterns and read back; all processors compute the same thing over and over and must agree; \
           samples all over the disk are read, and what the disk says of itself (SMART: of NVMe and ATA drives) is kept. Data \
           is fetched from the appliance for the time of `network`. The first wrong bit, disagreement or read error fails the \
           step, and so does a disk that warns, or that has sectors it cannot read. Nothing is written to the disk.",
    parameters: &[
        optional("memory", Kind::Bytes, "256MiB", "how much memory is tested"),
        optional("processor", Kind::Duration, "10s", "how long the processors compute"),
        optional("disk", Kind::DiskRule, "first", "the disk to read"),
        optional(
            "samples",
            Kind::Integer { min: 0, max: 1_000_000 },
            "200",
            "how many places of the disk are read, 1 MiB each",
        ),
        optional("network", Kind::Duration, "5s", "how long data is fetched from the appliance; 0 for not at all"),
    ],
    places: ANYWHERE,
    needs: Needs::Nothing,
    gives: Gives::Nothing,
    erases: false,
    example: "- hardware-test:\n    memory: 1GiB\n    processor: 1m\n    samples: 1000\n",
    load: load::<HardwareTest>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HardwareTest {
    #[serde(default = "quarter")]
    memory: Bytes,
    #[serde(default = "ten")]
    processor: Seconds,
    #[serde(default)]
    disk: DiskRule,
    #[serde(default = "two_hundred")]
    samples: u32,
    #[serde(default = "five")]
    network: Seconds,
}

fn quarter() -> Bytes {
    Bytes(256 << 20)
}

fn ten() -> Seconds {
    Seconds(10)
}

fn five() -> Seconds {
    Seconds(5)
}

fn two_hundred() -> u32 {
    200
}

impl Work for HardwareTest {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        let (memory, seconds, samples) = (bytes_for_people(self.memory.0), self.processor.0, self.samples);
        Ok(Planned::new(format!(
            "test {memory} of memory, the processors for {seconds} s, {samples} places of the disk, the network for {} s",
            self.network.0
        )))
    }

    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let disks = on.host.disks()?;
        let disk = if self.samples > 0 { Some(selection::choose(&self.disk, &disks)?.clone()) } else { None };
        let test = Test {
            memory_bytes: self.memory.0,
            processor: self.processor.duration(),
            disk: disk.map(|disk| (disk, self.samples)),
            network: self.network.duration(),
        };
        Ok(Done { evidence: on.host.test_hardware(&test, on.watch)?, ..Done::default() })
    }

    fn verify(&self, _: &mut On, _: &mut Done) -> Result<(), StepError> {
        Ok(())
    }
}
