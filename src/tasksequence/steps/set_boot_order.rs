//! `set-boot-order`: what UEFI firmware starts first.

use serde::Deserialize;

use crate::tasksequence::firmware::{self, Device, HardDrive};
use crate::tasksequence::layout::{Found, Scheme};

use super::{ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional};

pub(super) const ROW: Row = Row {
    name: "set-boot-order",
    summary: "sets what UEFI firmware starts first",
    text: "Entries for disks or for the network come first, each kind in the order that it has; nothing is removed. With \
           `entry` the installed system gets an entry of that name in front of other disks, for the boot loader on its EFI system \
           partition; one of the same name is replaced. The variables are read back. A machine that was started by BIOS has \
           no such order, and the step fails: guard it with `when: machine.firmware == 'uefi'`.",
    parameters: &[
        optional("first", Kind::Choice(&["disk", "network"]), "network", "what comes first"),
        optional("entry", Kind::Text, "", "the name of an entry for the installed system"),
    ],
    places: ANYWHERE,
    needs: Needs::Nothing,
    gives: Gives::Nothing,
    erases: false,
    example: "- set-boot-order:\n    first: network\n  when: machine.firmware == 'uefi'\n",
    load: load::<SetBootOrder>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBootOrder {
    #[serde(default)]
    first: First,
    #[serde(default)]
    entry: String,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum First {
    #[default]
    Network,
    Disk,
}

const ORDER: &str = "BootOrder";
const LOADER: &str = "\\EFI\\BOOT\\BOOTX64.EFI";

/// An entry of the firmware with its number.
struct Entry {
    number: u16,
    description: String,
    device: Device,
}

impl SetBootOrder {
    fn wanted(&self) -> Device {
        if self.first == First::Network { Device::Network } else { Device::Disk }
    }

    /// The entries in the order that is asked for.
    fn sorted(&self, mut entries: Vec<Entry>) -> Vec<Entry> {
        let wanted = self.wanted();
        // The entry of the system is one for a disk: the first of them, and behind the network when that comes first.
        entries.sort_by_key(|entry| match entry.device == wanted {
            _ if !self.entry.is_empty() && entry.description == self.entry => 1,
            true if wanted == Device::Network => 0,
            true => 2,
            false => 3,
        });
        entries
    }
}

fn entries(on: &mut On) -> Result<Vec<Entry>, StepError> {
    let order = on.host.variable(ORDER)?.ok_or_else(|| StepError::new("the firmware has no boot order"))?;
    let mut entries = Vec::new();
    for number in firmware::parse_order(&order) {
        let bytes = on.host.variable(&firmware::variable(number))?.unwrap_or_default();
        let option = firmware::parse(&bytes);
        let (description, device) =
            option.map_or((String::new(), Device::Other), |option| (option.description, option.device));
        entries.push(Entry { number, description, device });
    }
    Ok(entries)
}

/// The EFI system partition of the disk with the system.
fn esp(on: &mut On) -> Result<HardDrive, StepError> {
    let missing = || {
        StepError::new("there is no EFI system partition that an entry could start from")
            .hint("put a system with a partition of type `esp` on the disk before this step, or leave `entry` out")
    };
    let disks = on.host.disks()?;
    let target = on.target.map(|target| target.disk.clone());
    for disk in disks.iter().filter(|disk| target.as_ref().is_none_or(|target| disk.is(target))) {
        let Some(layout) = on.host.layout(disk)?.filter(|layout| layout.scheme == Scheme::Gpt) else { continue };
        let sector_bytes = layout.sector_bytes;
        let found = |one: &&Found| one.purpose == "esp";
        if let Some((one, guid)) = layout.partitions.iter().find(found).and_then(|one| Some((one, one.guid?))) {
            let (first_sector, sectors) = (one.start / sector_bytes, one.bytes / sector_bytes);
            return Ok(HardDrive { number: one.number, first_sector, sectors, guid });
        }
    }
    Err(missing())
}

impl Work for SetBootOrder {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        if view.facts.firmware == "bios" {
            return Err(StepError::new("a machine that starts by BIOS has no boot order that can be set")
                .hint("guard the step: `when: machine.firmware == 'uefi'`"));
        }
        let entry = if self.entry.is_empty() { String::new() } else { format!(", with an entry `{}`", self.entry) };
        Ok(Planned::new(format!("have the firmware start from {} first{entry}", self.wanted().name())))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        let there: Vec<u16> = entries(on)?.iter().map(|entry| entry.number).collect();
        let wanted: Vec<u16> = self.sorted(entries(on)?).iter().map(|entry| entry.number).collect();
        Ok(if self.entry.is_empty() && there == wanted { Check::Holds } else { Check::Needed })
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let mut all = entries(on)?;
        if !self.entry.is_empty() {
            let option = firmware::emit(&self.entry, &esp(on)?, LOADER);
            let known = all.iter().find(|entry| entry.description == self.entry).map(|entry| entry.number);
            let free = || (0..=u16::MAX).find(|number| !all.iter().any(|entry| entry.number == *number));
            let number = known.or_else(free).unwrap_or_default();
            on.host.set_variable(&firmware::variable(number), &option)?;
            all.retain(|entry| entry.number != number);
            all.insert(0, Entry { number, description: self.entry.clone(), device: Device::Disk });
        }
        let order: Vec<u16> = self.sorted(all).iter().map(|entry| entry.number).collect();
        on.host.set_variable(ORDER, &firmware::emit_order(&order))?;
        Ok(Done::default())
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        let there = entries(on)?;
        let numbers: Vec<u16> = there.iter().map(|entry| entry.number).collect();
        let named = self.entry.is_empty() || there.iter().any(|entry| entry.description == self.entry);
        let wanted: Vec<u16> = self.sorted(entries(on)?).iter().map(|entry| entry.number).collect();
        if numbers != wanted || !named {
            return Err(StepError::new("the firmware does not keep the boot order that was set")
                .hint("some firmware puts its own entries in front again: look at its setup"));
        }
        let words = |entry: &Entry| format!("{:04X} {} ({})", entry.number, entry.description, entry.device.name());
        done.evidence("order", there.iter().map(words).collect::<Vec<String>>());
        Ok(())
    }
}
