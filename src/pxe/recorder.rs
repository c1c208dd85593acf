//! The flight recorder: what each boot asked, was told and loaded, and in words what became of it.
//!
//! In memory, since the appliance started, and bounded whatever floods in: the machines heard of last, their last boots, the
//! first events of each. [`explain`] is pure; its tests are the ways in which boots fail in practice.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::fleet::link::Trial;
use crate::pxe::boot::{Boot, Past};
use crate::pxe::client::{Client, Stage, Transport};
use crate::pxe::quirks;
use crate::stdx::mac::MacAddr;
use crate::stdx::time::{Clock, Timestamp};

const MACHINES_MAX: usize = 1024;
const BOOTS_MAX: usize = 8;
const EVENTS_MAX: usize = 64;
/// Of a hardware test: its memory and processors, and each disk.
const PARTS_MAX: usize = 32;
const PART_CHARACTERS_MAX: usize = 400;
/// Addresses that are known to be a machine's: two for each on average, as firmware and iPXE may take different ones.
const ADDRESSES_MAX: usize = 2 * MACHINES_MAX;
/// Firmware that repeats its request within this time is still at the same boot.
const SAME_BOOT_SECONDS: i64 = 90;
/// Silence after which a boot that has not come to its end is taken to be stuck.
const STUCK_SECONDS: i64 = 20;

#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A request for something to boot, and what was decided.
    Asked {
        stage: Stage,
        told: String,
        /// The rule that chose it.
        because: String,
    },
    /// A request that was not answered, and why.
    Refused {
        why: String,
    },
    /// What the DHCP server met on the way: no address left, an address in use.
    Noticed {
        what: String,
    },
    /// The hardware test of its boot menu.
    Tested {
        is_sound: bool,
        parts: Vec<String>,
    },
    /// The boot environment has spoken to the appliance.
    CheckedIn,
    /// It took an address, as everybody on its network hears.
    Address {
        server: Ipv4Addr,
        address: Ipv4Addr,
    },
    Script {
        told: String,
    },
    File {
        name: String,
        transport: Transport,
        #[serde(flatten)]
        ended: Ended,
    },
}

/// What became of a file that was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "ended", rename_all = "kebab-case")]
pub enum Ended {
    /// Handed to HTTP, or still under way.
    Asked,
    Missing,
    Complete {
        bytes: u64,
        milliseconds: u64,
        repeats: u32,
    },
    /// The client broke it off; firmware that only wants the size does that on purpose.
    Stopped {
        done: u64,
        bytes: u64,
        message: String,
    },
    /// No packet of the client came after its request.
    Unanswered,
    /// It answered at first.
    Silent {
        done: u64,
        bytes: u64,
    },
}

impl Ended {
    /// As it is serialised.
    pub fn word(&self) -> &'static str {
        match self {
            Ended::Asked => "asked",
            Ended::Missing => "missing",
            Ended::Complete { .. } => "complete",
            Ended::Stopped { .. } => "stopped",
            Ended::Unanswered => "unanswered",
            Ended::Silent { .. } => "silent",
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub at: Timestamp,
    #[serde(flatten)]
    pub event: Event,
}

/// One boot of one machine.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    pub mac: MacAddr,
    pub uuid: Option<String>,
    pub firmware: String,
    pub transport: Transport,
    pub events: Vec<Entry>,
}

/// A record with its sentence, as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    #[serde(flatten)]
    pub record: Record,
    pub sentence: String,
}

pub struct Recorder {
    clock: Arc<dyn Clock>,
    machines: Mutex<Machines>,
}

#[derive(Default)]
struct Machines {
    boots: HashMap<MacAddr, VecDeque<Record>>,
    /// In order of first appearance.
    order: VecDeque<MacAddr>,
    by_address: HashMap<Ipv4Addr, MacAddr>,
}

impl Recorder {
    pub fn new(clock: Arc<dyn Clock>) -> Recorder {
        Recorder { clock, machines: Mutex::default() }
    }

    /// A request over DHCP and the decision on it.
    pub fn asked(&self, client: &Client, boot: &Boot, because: &str) {
        let Some(mac) = client.mac else { return };
        let event = match boot {
            Boot::Nothing(why) => Event::Refused { why: (*why).to_owned() },
            boot => Event::Asked { stage: client.stage, told: in_words(boot), because: because.to_owned() },
        };
        let now = self.clock.now();
        let mut machines = self.machines();
        if begins_boot(machines.last(mac), client, now) {
            machines.begin(mac, client);
        }
        machines.push(mac, now, event);
    }

    /// Something that the DHCP server met while it answered this client.
    pub fn noticed(&self, client: &Client, what: String) {
        let Some(mac) = client.mac else { return };
        let now = self.clock.now();
        let mut machines = self.machines();
        if begins_boot(machines.last(mac), client, now) {
            machines.begin(mac, client);
        }
        machines.push(mac, now, Event::Noticed { what });
    }

    /// The boot environment of the machine with one of these cards has checked in.
    pub fn checked_in(&self, macs: &[MacAddr]) {
        let now = self.clock.now();
        let mut machines = self.machines();
        for mac in macs {
            machines.push(*mac, now, Event::CheckedIn);
        }
    }

    /// What the hardware test found that the machine with one of these cards was asked for at its menu.
    pub fn tested(&self, macs: &[MacAddr], trial: &Trial) {
        let plain = |part: &String| part.chars().filter(|c| !c.is_control()).take(PART_CHARACTERS_MAX).collect();
        let parts = trial.parts.iter().take(PARTS_MAX).map(plain).collect();
        let event = Event::Tested { is_sound: trial.is_sound, parts };
        macs.iter().for_each(|mac| self.add(Some(*mac), event.clone()));
    }

    /// A client took `address` from `server`.
    pub fn took(&self, mac: MacAddr, server: Ipv4Addr, address: Ipv4Addr) {
        let now = self.clock.now();
        let mut machines = self.machines();
        if machines.last(mac).is_some() {
            machines.has_address(mac, address);
            machines.push(mac, now, Event::Address { server, address });
        }
    }

    pub fn script(&self, mac: Option<MacAddr>, boot: &Boot) {
        self.told(mac, in_words(boot));
    }

    /// A person has chosen the boot environment from its menu.
    pub fn boot_environment(&self, mac: Option<MacAddr>) {
        self.told(mac, BOOT_ENVIRONMENT.to_owned());
    }

    /// It is shown its menu.
    pub fn menu(&self, mac: Option<MacAddr>) {
        self.told(mac, MENU.to_owned());
    }

    /// A person has chosen another system from its menu.
    pub fn chose(&self, mac: Option<MacAddr>, name: &str) {
        self.told(mac, format!("{FROM_MENU}{name}"));
    }

    /// Somebody has chosen what the menu's password guards, without the password.
    pub fn refused_choice(&self, mac: Option<MacAddr>) {
        self.add(mac, Event::Noticed { what: WRONG_PASSWORD.to_owned() });
    }

    fn told(&self, mac: Option<MacAddr>, told: String) {
        self.add(mac, Event::Script { told });
    }

    fn add(&self, mac: Option<MacAddr>, event: Event) {
        if let Some(mac) = mac {
            let now = self.clock.now();
            self.machines().push(mac, now, event);
        }
    }

    /// A file that `peer` asked for; a later call for the same file replaces `Asked` by what became of it.
    pub fn file(&self, peer: Ipv4Addr, name: &str, transport: Transport, ended: Ended) {
        let now = self.clock.now();
        let mut machines = self.machines();
        let Some(mac) = machines.by_address.get(&peer).copied() else { return };
        let under_way = machines.boots.get_mut(&mac).and_then(VecDeque::back_mut).and_then(|record| {
            let mut entries = record.events.iter_mut().rev();
            entries.find(
                |entry| matches!(&entry.event, Event::File { name: known, ended: Ended::Asked, .. } if known == name),
            )
        });
        let name: String = name.chars().take(80).collect();
        let event = Event::File { name, transport, ended };
        match under_way {
            Some(entry) => entry.event = event,
            None => machines.push(mac, now, event),
        }
    }

    /// What the last boot of this machine teaches about its firmware.
    pub fn past(&self, mac: Option<MacAddr>) -> Past {
        let machines = self.machines();
        let Some(boots) = mac.and_then(|mac| machines.boots.get(&mac)) else { return Past::Nothing };
        let refused = boots.iter().rev().any(|record| unsigned_did_not_start(record, self.clock.now()));
        if refused { Past::UnsignedDidNotStart } else { Past::Nothing }
    }

    /// The newest boots first; of one machine or of all.
    pub fn list(&self, mac: Option<MacAddr>) -> Vec<Explained> {
        let now = self.clock.now();
        let machines = self.machines();
        let records = machines.boots.iter().filter(|(known, _)| mac.is_none_or(|mac| mac == **known));
        let explained = |record: &Record| Explained { record: record.clone(), sentence: explain(record, now) };
        let mut all: Vec<Explained> = records.flat_map(|(_, boots)| boots.iter().map(explained)).collect();
        all.sort_by_key(|one| std::cmp::Reverse(one.record.events.last().map(|entry| entry.at)));
        all
    }

    fn machines(&self) -> MutexGuard<'_, Machines> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Machines {
    fn last(&self, mac: MacAddr) -> Option<&Record> {
        self.boots.get(&mac).and_then(VecDeque::back)
    }

    fn begin(&mut self, mac: MacAddr, client: &Client) {
        if !self.boots.contains_key(&mac) {
            if self.order.len() >= MACHINES_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.boots.remove(&oldest);
                self.by_address.retain(|_, known| *known != oldest);
            }
            self.order.push_back(mac);
        }
        let boots = self.boots.entry(mac).or_default();
        if boots.len() >= BOOTS_MAX {
            boots.pop_front();
        }
        let (uuid, firmware) = (client.uuid.clone(), client.firmware.to_string());
        boots.push_back(Record { mac, uuid, firmware, transport: client.transport, events: Vec::new() });
    }

    /// A machine that claims ever new addresses makes nobody else forgotten.
    fn has_address(&mut self, mac: MacAddr, address: Ipv4Addr) {
        if self.by_address.len() >= ADDRESSES_MAX {
            self.by_address.retain(|_, known| *known != mac);
        }
        if self.by_address.len() < ADDRESSES_MAX {
            self.by_address.insert(address, mac);
        }
    }

    /// Repetitions of the last event are not written down again.
    fn push(&mut self, mac: MacAddr, at: Timestamp, event: Event) {
        let Some(record) = self.boots.get_mut(&mac).and_then(VecDeque::back_mut) else { return };
        let repeated = match event {
            Event::CheckedIn | Event::Tested { .. } => record.events.iter().any(|known| known.event == event),
            _ => record.events.last().is_some_and(|last| last.event == event),
        };
        if !repeated && record.events.len() < EVENTS_MAX {
            record.events.push(Entry { at, event });
        }
    }
}

/// Whether this request is the first of a new boot: none is known, the firmware starts anew after its boot program was
/// asked for, an iPXE that is the card's own firmware starts anew after its script, or the last one is long ago.
fn begins_boot(last: Option<&Record>, client: &Client, now: Timestamp) -> bool {
    let Some(entry) = last.and_then(|record| record.events.last()) else { return true };
    let old = now.since(entry.at) > SAME_BOOT_SECONDS as u64 * 1000;
    let past_firmware =
        matches!(&entry.event, Event::Script { .. } | Event::File { .. } | Event::Tested { .. } | Event::CheckedIn)
            || matches!(&entry.event, Event::Asked { stage, .. } if *stage != Stage::Firmware);
    let other_way = last.is_some_and(|record| record.transport != client.transport) && client.stage == Stage::Firmware;
    let has_script = |record: &Record| record.events.iter().any(|entry| matches!(entry.event, Event::Script { .. }));
    let ipxe_anew = client.stage == Stage::Ipxe && last.is_some_and(has_script);
    old || other_way || ipxe_anew || (client.stage == Stage::Firmware && past_firmware)
}

const OWN_DISK: &str = "its own disk";
const BOOT_ENVIRONMENT: &str = "the boot environment";
const MENU: &str = "its menu";
const FROM_MENU: &str = "from its menu: ";
const WRONG_PASSWORD: &str = "a wrong password was typed at its menu";

fn in_words(boot: &Boot) -> String {
    match boot {
        Boot::Program(name) => (*name).to_owned(),
        Boot::Script => "its script".to_owned(),
        Boot::BootEnvironment { .. } => BOOT_ENVIRONMENT.to_owned(),
        Boot::LocalDisk => OWN_DISK.to_owned(),
        Boot::Nothing(why) => (*why).to_owned(),
    }
}

/// It loaded iPXE whole, was silent long enough to have started it, and iPXE never spoke.
fn unsigned_did_not_start(record: &Record, now: Timestamp) -> bool {
    let story = Story::of(record);
    match story.last_file {
        Some((name, Ended::Complete { .. })) if quirks::uefi_may_refuse(name) => {
            !story.beyond_firmware && record.events.last().is_some_and(|entry| now.since(entry.at) > 2000)
        }
        _ => false,
    }
}

/// What matters of a record's events.
struct Story<'a> {
    told: Option<&'a str>,
    refused: Option<&'a str>,
    took: Option<(Ipv4Addr, Ipv4Addr)>,
    last_file: Option<(&'a str, &'a Ended)>,
    script: Option<&'a str>,
    /// What the DHCP server met last, when nothing came after it.
    noticed: Option<&'a str>,
    checked_in: bool,
    is_sound: Option<bool>,
    /// iPXE or GRUB was heard of.
    beyond_firmware: bool,
    ipxe: bool,
}

impl<'a> Story<'a> {
    fn of(record: &'a Record) -> Story<'a> {
        let mut story = Story {
            told: None,
            refused: None,
            took: None,
            last_file: None,
            script: None,
            noticed: None,
            checked_in: false,
            is_sound: None,
            beyond_firmware: false,
            ipxe: false,
        };
        for entry in &record.events {
            if !matches!(entry.event, Event::Asked { .. }) {
                story.noticed = None;
            }
            match &entry.event {
                Event::Noticed { what } => story.noticed = Some(what),
                Event::CheckedIn => story.checked_in = true,
                Event::Tested { is_sound, .. } => story.is_sound = Some(*is_sound),
                Event::Asked { stage, told, .. } => {
                    story.ipxe |= *stage == Stage::Ipxe;
                    story.told = Some(told);
                }
                Event::Refused { why } => story.refused = Some(why),
                Event::Address { server, address } => story.took = Some((*server, *address)),
                Event::Script { told } => story.script = Some(told),
                Event::File { name, ended: Ended::Missing, .. } if quirks::is_probe(name) => {}
                Event::File { name, ended, .. } => {
                    story.ipxe |= name == quirks::IPXE_AUTOEXEC;
                    story.last_file = Some((name, ended));
                }
            }
        }
        let grub = story.last_file.is_some_and(|(name, _)| name.starts_with("grub"));
        story.beyond_firmware = story.ipxe || story.script.is_some() || grub;
        story
    }
}

/// What became of a boot, in a sentence for whoever stands before the machine.
pub fn explain(record: &Record, now: Timestamp) -> String {
    let story = Story::of(record);
    let last = record.events.last().map_or(now, |entry| entry.at);
    if let Some(why) = story.refused {
        return format!("not answered: {why}");
    }
    if story.checked_in {
        let tested = match story.is_sound {
            None => "",
            Some(true) => "; its hardware test has found nothing wrong",
            Some(false) => "; its hardware test has found faults",
        };
        return format!(
            "it loaded all of {} and has checked in{tested}",
            story.script.unwrap_or("the boot environment")
        );
    }
    let fault = match story.noticed {
        Some(what) => what.to_owned(),
        None => fault(&story),
    };
    if now.since(last) < STUCK_SECONDS as u64 * 1000 && !matches!(story.last_file, Some((_, Ended::Missing))) {
        return match story.told {
            Some(told) => format!("under way; told to boot {}", story.script.unwrap_or(told)),
            None => "under way".to_owned(),
        };
    }
    fault
}

/// The furthest point it came to says what was wrong.
fn fault(story: &Story<'_>) -> String {
    match (story.script, story.last_file) {
        (_, Some((name, Ended::Missing))) => {
            format!("it asked for {name}, which is not among the boot files: run `remint boot build` on the appliance")
        }
        (_, Some((name, Ended::Unanswered))) => format!(
            "it asked for {name} on port 69 and no answer of ours reached it: is UDP above port 1024 blocked between us? \
             (`tftp_single_port = true` under `[network]` in remint.toml answers from port 69)"
        ),
        (_, Some((name, Ended::Silent { done, bytes }))) => format!(
            "loading {name} broke off after {done} of {bytes} bytes: packets are lost, or the machine was switched off"
        ),
        (Some(MENU), _) => "it shows its boot menu and waits for somebody to choose".to_owned(),
        (Some(told), _) if told.starts_with(FROM_MENU) => {
            format!("it was given what somebody chose {told}; what became of it is on its own screen")
        }
        (Some(OWN_DISK), _) => "it was sent to its own disk".to_owned(),
        (Some(told), Some((name, _))) if name.starts_with("initrd") => format!(
            "it loaded all of {told} and did not check in: has the boot environment a driver for its network card, and is the TCP \
             port of HTTPS open all the way?"
        ),
        (Some(told), Some((name, _))) if name.starts_with("vmlinuz") => {
            format!("it has the kernel and not the initramfs of {told}: has the machine enough memory?")
        }
        (Some(told), _) => {
            format!(
                "it has its script for {told} and did not load the kernel: is the TCP port of HTTP open all the way?"
            )
        }
        (None, Some((name, Ended::Stopped { message, .. }))) => {
            format!("the firmware broke off loading {name} and says: {message}")
        }
        (None, _) if story.ipxe => {
            "iPXE has started and did not ask for its script: is the TCP port of HTTP open all the way?".to_owned()
        }
        (None, Some((name, Ended::Complete { .. } | Ended::Asked))) if name.starts_with("shim") => {
            format!("{name} was loaded but did not ask for GRUB: no answer reached it, or the firmware refused it")
        }
        (None, Some((name, Ended::Complete { .. }))) => format!(
            "{name} was loaded and did not start: Secure Boot is on and the firmware accepts only signed programs; at the next \
             boot it is given shim, which is signed"
        ),
        (None, _) => no_file(story),
    }
}

fn no_file(story: &Story<'_>) -> String {
    let told = story.told.unwrap_or("nothing");
    match story.took {
        Some((server, address)) => format!(
            "it took the address {address} of {server} and never asked us for {told}: that server offered a boot file too, or \
             UDP port 69 of this appliance is not reached from there"
        ),
        None => format!(
            "it was told to boot {told} and took no address: no DHCP server gave it one, or our answers do not reach it"
        ),
    }
}

#[cfg(test)]
mod tests;
