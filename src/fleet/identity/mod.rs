//! Which machine is this? Scored evidence instead of one address.
//!
//! Each piece of evidence that agrees with a record adds its weight, each that contradicts takes from it. A network
//! adapter moves between machines and firmware vendors ship one UUID a thousand times, so neither decides alone. What
//! fits neither well enough nor badly enough is a question to a person; what the answer shows to be lent or copied
//! (an adapter, a vendor's serial number) is learnt as shared and says nothing from then on.

#[cfg(feature = "server")]
pub mod db;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::MachineId;
use crate::stdx::mac::MacAddr;

/// What a machine says of itself. Strings are as the firmware gives them, trimmed; junk is kept here and ignored below.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Identity {
    /// SMBIOS type 1 UUID, lower case, in the order that SMBIOS 2.6 prints it.
    pub uuid: Option<String>,
    pub system_serial: Option<String>,
    pub board_serial: Option<String>,
    /// SHA-256 of the TPM's endorsement public key (its SubjectPublicKeyInfo), lower-case hexadecimal.
    pub tpm_key: Option<String>,
    pub disk_serials: Vec<String>,
    /// Permanent addresses of built-in adapters.
    pub macs: Vec<MacAddr>,
    pub manufacturer: Option<String>,
    pub model: Option<String>,
}

/// The kinds of evidence, most telling first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    TpmKey,
    Uuid,
    SystemSerial,
    BoardSerial,
    Disk,
    Mac,
}

impl Kind {
    pub const ALL: [Kind; 6] = [Kind::TpmKey, Kind::Uuid, Kind::SystemSerial, Kind::BoardSerial, Kind::Disk, Kind::Mac];

    pub fn name(self) -> &'static str {
        match self {
            Kind::TpmKey => "tpm-key",
            Kind::Uuid => "uuid",
            Kind::SystemSerial => "system-serial",
            Kind::BoardSerial => "board-serial",
            Kind::Disk => "disk",
            Kind::Mac => "mac",
        }
    }

    /// As in "the same ...".
    pub fn words(self) -> &'static str {
        match self {
            Kind::TpmKey => "TPM",
            Kind::Uuid => "UUID",
            Kind::SystemSerial => "serial number",
            Kind::BoardSerial => "board",
            Kind::Disk => "disk",
            Kind::Mac => "network adapter",
        }
    }

    fn weight(self) -> i32 {
        match self {
            Kind::TpmKey => 100,
            Kind::Uuid => 60,
            Kind::SystemSerial => 50,
            Kind::BoardSerial => 30,
            Kind::Disk | Kind::Mac => 20,
        }
    }

    /// Firmware and TPM say what the machine is; disks and adapters are parts that are exchanged every day.
    fn is_of_the_board(self) -> bool {
        !matches!(self, Kind::Disk | Kind::Mac)
    }
}

/// One usable piece of evidence, in the form in which pieces are compared.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Piece {
    pub kind: Kind,
    pub value: String,
}

/// Pieces that more than one machine has shown and that therefore say nothing.
pub type Shared = BTreeSet<Piece>;

/// What the evidence says against the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same(MachineId),
    New,
    /// It may be one of these, or none: a person must say.
    Question(Vec<MachineId>),
}

/// Evidence of this weight makes a machine the same one.
const SAME: i32 = 60;
/// So does this, where nothing contradicts.
const SAME_UNOPPOSED: i32 = 40;
/// Two records closer than this to each other are a question.
const MARGIN: i32 = 25;
/// Adapters beyond the second add nothing: a switch chassis would outvote its own board.
const MACS_COUNTED_MAX: usize = 2;

/// Values that vendors leave in the field (compared in lower case).
const JUNK: [&str; 24] = [
    "",
    "0",
    "none",
    "null",
    "n/a",
    "na",
    "default",
    "default string",
    "to be filled by o.e.m.",
    "to be filled by o.e.m",
    "system serial number",
    "base board serial number",
    "board serial number",
    "chassis serial number",
    "not specified",
    "not applicable",
    "not available",
    "serial number",
    "oem",
    "o.e.m.",
    "invalid",
    "123456789",
    "0123456789",
    "unknown",
];

/// SMBIOS UUIDs that whole production runs share.
const JUNK_UUIDS: [&str; 8] = [
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
    "fefefefe-fefe-fefe-fefe-fefefefefefe",
    "03020100-0504-0706-0809-0a0b0c0d0e0f",
    "00010203-0405-0607-0809-0a0b0c0d0e0f",
];

impl Identity {
    pub fn usable_uuid(&self) -> Option<String> {
        let uuid = self.uuid.as_deref()?.trim().to_ascii_lowercase();
        (uuid.len() == 36 && !JUNK_UUIDS.contains(&uuid.as_str())).then_some(uuid)
    }

    pub fn usable_serial(&self) -> Option<&str> {
        usable(self.system_serial.as_deref())
    }

    /// Everything of it that can tell machines apart.
    pub fn pieces(&self) -> BTreeSet<Piece> {
        let lower = |text: Option<&str>| usable(text).map(str::to_ascii_lowercase);
        let single = [
            (Kind::TpmKey, lower(self.tpm_key.as_deref())),
            (Kind::Uuid, self.usable_uuid()),
            (Kind::SystemSerial, lower(self.system_serial.as_deref())),
            (Kind::BoardSerial, lower(self.board_serial.as_deref())),
        ];
        let single = single.into_iter().filter_map(|(kind, value)| Some(Piece { kind, value: value? }));
        let disks = self.disk_serials.iter().filter_map(|serial| lower(Some(serial)));
        let disks = disks.map(|value| Piece { kind: Kind::Disk, value });
        let macs = self.macs.iter().map(|mac| Piece { kind: Kind::Mac, value: mac.to_string() });
        single.chain(disks).chain(macs).collect()
    }

    /// Cuts what no firmware says and a hostile caller might: control characters, endless text, endless lists.
    #[must_use]
    pub fn bounded(mut self) -> Identity {
        let fields = [
            &mut self.uuid,
            &mut self.system_serial,
            &mut self.board_serial,
            &mut self.tpm_key,
            &mut self.manufacturer,
            &mut self.model,
        ];
        for field in fields {
            *field = field.take().map(|text| bounded_text(&text)).filter(|text| !text.is_empty());
        }
        self.disk_serials = self.disk_serials.iter().take(64).map(|text| bounded_text(text)).collect();
        self.macs.retain(|mac| !mac.is_multicast() && mac.0 != [0; 6]);
        self.macs.truncate(64);
        self
    }
}

/// The record that `evidence` belongs to.
pub fn resolve<'a>(
    evidence: &Identity,
    records: impl IntoIterator<Item = (&'a MachineId, &'a Identity)>,
    shared: &Shared,
) -> Verdict {
    let (mut same, mut asked) = (Vec::new(), Vec::new());
    for (id, record) in records {
        let comparison = Comparison::of(evidence, record, shared);
        match comparison.standing() {
            Standing::Same => same.push((comparison.score(), id)),
            Standing::Question => asked.push((comparison.score(), id)),
            Standing::Other => {}
        }
    }
    let best_first = |a: &(i32, &MachineId), b: &(i32, &MachineId)| b.0.cmp(&a.0).then(a.1.cmp(b.1));
    same.sort_by(best_first);
    asked.sort_by(best_first);
    let ids = |found: &[(i32, &MachineId)]| found.iter().map(|(_, id)| (*id).clone()).collect();
    match same.as_slice() {
        [] if asked.is_empty() => Verdict::New,
        [] => Verdict::Question(ids(&asked)),
        [(_, only)] => Verdict::Same((*only).clone()),
        [(first, id), (second, _), ..] if first - second >= MARGIN => Verdict::Same((*id).clone()),
        [(first, _), ..] => {
            let near = same.iter().take_while(|(score, _)| first - score < MARGIN).count();
            Verdict::Question(ids(&same[..near]))
        }
    }
}

/// How evidence and a record compare, piece by piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    pub agree: Vec<Piece>,
    /// The kinds of which both have one and not the same.
    pub differ: Vec<Kind>,
    /// Neither has anything but disks and adapters.
    both_poor: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Same,
    Question,
    Other,
}

impl Comparison {
    pub fn of(evidence: &Identity, record: &Identity, shared: &Shared) -> Comparison {
        let usable = |identity: &Identity| -> BTreeSet<Piece> { &identity.pieces() - shared };
        let (ours, theirs) = (usable(evidence), usable(record));
        let has = |pieces: &BTreeSet<Piece>, kind: Kind| pieces.iter().any(|piece| piece.kind == kind);
        let agree: Vec<Piece> = ours.intersection(&theirs).cloned().collect();
        let is_agreed = |kind: Kind| agree.iter().any(|piece| piece.kind == kind);
        let differ = Kind::ALL
            .into_iter()
            .filter(|kind| *kind != Kind::Mac && has(&ours, *kind) && has(&theirs, *kind) && !is_agreed(*kind))
            .collect();
        let poor = |pieces: &BTreeSet<Piece>| !pieces.iter().any(|piece| piece.kind.is_of_the_board());
        Comparison { both_poor: poor(&ours) && poor(&theirs), agree, differ }
    }

    /// Weight for the record being the machine that shows the evidence. Disks that differ take nothing: they are replaced.
    pub fn score(&self) -> i32 {
        let of = |kind: Kind| self.agree.iter().filter(|piece| piece.kind == kind).count();
        let agree: i32 = Kind::ALL
            .into_iter()
            .map(|kind| kind.weight() * of(kind).min(if kind == Kind::Mac { MACS_COUNTED_MAX } else { 1 }) as i32)
            .sum();
        agree - self.against()
    }

    fn against(&self) -> i32 {
        self.differ.iter().filter(|kind| kind.is_of_the_board()).map(|kind| kind.weight()).sum()
    }

    /// Whether one machine cannot have shown both, whatever else agrees: its board or TPM is another one.
    pub fn is_contradiction(&self) -> bool {
        self.against() >= Kind::Uuid.weight() && self.score() < SAME
    }

    pub fn standing(&self) -> Standing {
        let (score, opposed) = (self.score(), self.against() > 0);
        let adapters_only = self.agree.iter().all(|piece| piece.kind == Kind::Mac);
        let other_disk = self.differ.contains(&Kind::Disk);
        match () {
            () if self.agree.is_empty() => Standing::Other,
            () if score >= SAME => Standing::Same,
            () if !opposed && score >= SAME_UNOPPOSED && !(other_disk && adapters_only) => Standing::Same,
            // Boards without any number of their own: the disk or the built-in adapter is all there is.
            () if !opposed && self.both_poor && !other_disk => Standing::Same,
            // An adapter was lent: it says nothing against what the two boards say.
            () if opposed && adapters_only => Standing::Other,
            () => Standing::Question,
        }
    }

    /// For a person: `the same disk, another UUID and board`.
    pub fn words(&self) -> String {
        let list = |kinds: Vec<&str>| match kinds.as_slice() {
            [] => String::new(),
            [one] => (*one).to_owned(),
            [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
        };
        let mut agreed: Vec<Kind> = self.agree.iter().map(|piece| piece.kind).collect();
        agreed.dedup();
        let same = list(agreed.into_iter().map(Kind::words).collect());
        let other = list(self.differ.iter().map(|kind| kind.words()).collect());
        match (same.as_str(), other.as_str()) {
            ("", other) => format!("another {other}"),
            (same, "") => format!("the same {same}"),
            (same, other) => format!("the same {same}, another {other}"),
        }
    }
}

fn usable(text: Option<&str>) -> Option<&str> {
    let text = text?.trim();
    let lower = text.to_ascii_lowercase();
    let monotone = text.chars().next().is_some_and(|first| text.chars().all(|c| c == first));
    (!JUNK.contains(&lower.as_str()) && !monotone).then_some(text)
}

fn bounded_text(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect::<String>().trim().to_owned()
}
