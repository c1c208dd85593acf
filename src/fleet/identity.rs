//! Which machine is this? Scored evidence instead of one address.
//!
//! Each piece of evidence that agrees with a record adds its weight, each that contradicts takes from it. A network
//! adapter moves between machines and firmware vendors ship one UUID a thousand times, so neither decides alone.

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
    /// SHA-256 of the TPM's endorsement public key.
    pub tpm_key: Option<String>,
    pub disk_serials: Vec<String>,
    /// Permanent addresses of built-in adapters.
    pub macs: Vec<MacAddr>,
    pub manufacturer: Option<String>,
    pub model: Option<String>,
}

/// What the evidence says against the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same(MachineId),
    New,
    /// Several records fit about as well: a person must say which.
    Clash(Vec<MachineId>),
}

/// Evidence of this weight makes a machine the same one.
const SAME: i32 = 60;
/// Two records closer than this to each other are a clash.
const MARGIN: i32 = 25;

const TPM_KEY: i32 = 100;
const UUID: i32 = 60;
const SYSTEM_SERIAL: i32 = 50;
const BOARD_SERIAL: i32 = 30;
const DISK_SERIAL: i32 = 20;
const MAC: i32 = 20;

/// Values that vendors leave in the field (compared in lower case).
const JUNK: [&str; 14] = [
    "",
    "0",
    "none",
    "n/a",
    "na",
    "default string",
    "to be filled by o.e.m.",
    "system serial number",
    "not specified",
    "not applicable",
    "serial number",
    "123456789",
    "0123456789",
    "unknown",
];

/// SMBIOS UUIDs that whole production runs share.
const JUNK_UUIDS: [&str; 4] = [
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "03000200-0400-0500-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
];

impl Identity {
    pub fn usable_uuid(&self) -> Option<String> {
        let uuid = self.uuid.as_deref()?.trim().to_ascii_lowercase();
        (uuid.len() == 36 && !JUNK_UUIDS.contains(&uuid.as_str())).then_some(uuid)
    }

    pub fn usable_serial(&self) -> Option<&str> {
        usable(self.system_serial.as_deref())
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
pub fn resolve<'a>(evidence: &Identity, records: impl IntoIterator<Item = (&'a MachineId, &'a Identity)>) -> Verdict {
    let mut fits: Vec<(i32, &MachineId)> = records
        .into_iter()
        .map(|(id, record)| (score(evidence, record), id))
        .filter(|(score, _)| *score >= SAME)
        .collect();
    fits.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    match fits.as_slice() {
        [] => Verdict::New,
        [(_, only)] => Verdict::Same((*only).clone()),
        [(first, id), (second, _), ..] if first - second >= MARGIN => Verdict::Same((*id).clone()),
        [(first, _), ..] => {
            let near = fits.iter().take_while(|(score, _)| first - score < MARGIN);
            Verdict::Clash(near.map(|(_, id)| (*id).clone()).collect())
        }
    }
}

/// Weight for `record` being the machine that shows `evidence`.
pub fn score(evidence: &Identity, record: &Identity) -> i32 {
    let mut score = one(evidence.tpm_key.as_deref(), record.tpm_key.as_deref(), TPM_KEY);
    score += one(evidence.usable_uuid().as_deref(), record.usable_uuid().as_deref(), UUID);
    score += one(evidence.usable_serial(), record.usable_serial(), SYSTEM_SERIAL);
    score += one(usable(evidence.board_serial.as_deref()), usable(record.board_serial.as_deref()), BOARD_SERIAL);
    let shared = |ours: &[String], theirs: &[String]| {
        ours.iter().filter(|s| usable(Some(s)).is_some() && theirs.contains(s)).count()
    };
    score += DISK_SERIAL * i32::from(shared(&evidence.disk_serials, &record.disk_serials) > 0);
    score + MAC * evidence.macs.iter().filter(|mac| record.macs.contains(mac)).count().min(2) as i32
}

/// Agreement adds the weight, contradiction takes it, absence on either side says nothing.
fn one(ours: Option<&str>, theirs: Option<&str>, weight: i32) -> i32 {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if ours.eq_ignore_ascii_case(theirs) => weight,
        (Some(_), Some(_)) => -weight,
        _ => 0,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(uuid: &str, serial: &str, mac: u8) -> Identity {
        Identity {
            uuid: Some(uuid.into()),
            system_serial: Some(serial.into()),
            macs: vec![MacAddr([2, 0, 0, 0, 0, mac])],
            ..Identity::default()
        }
    }

    const A: &str = "11111111-2222-3333-4444-55555555aaaa";
    const B: &str = "11111111-2222-3333-4444-55555555bbbb";
    const JUNK_UUID: &str = "03000200-0400-0500-0006-000700080009";

    fn check(evidence: &Identity, records: &[(&str, Identity)], expect: &Verdict) {
        let records: Vec<(MachineId, Identity)> =
            records.iter().map(|(id, r)| (MachineId::from(*id), r.clone())).collect();
        assert_eq!(resolve(evidence, records.iter().map(|(id, r)| (id, r))), *expect, "{evidence:?}");
    }

    #[test]
    fn machines_are_told_apart_by_what_is_really_theirs() {
        let same = |id: &str| Verdict::Same(id.into());
        let one = [("one", machine(A, "S1", 1))];
        check(&machine(A, "S1", 1), &one, &same("one"));
        check(&machine(A, "S1", 9), &one, &same("one"));
        check(&machine(&A.to_uppercase(), "S1", 9), &one, &same("one"));
        // Ten machines through one USB adapter are ten machines.
        check(&machine(B, "S2", 1), &one, &Verdict::New);
        // A vendor's junk UUID and an empty serial number say nothing.
        check(
            &machine(JUNK_UUID, "Default string", 7),
            &[("one", machine(JUNK_UUID, "Default string", 8))],
            &Verdict::New,
        );
        let twice = [("one", machine(A, "S1", 1)), ("two", machine(A, "S1", 1))];
        check(&machine(A, "S1", 1), &twice, &Verdict::Clash(vec!["one".into(), "two".into()]));
    }

    #[test]
    fn hostile_text_is_cut() {
        let evil = Identity { system_serial: Some(format!("a\0\n{}", "x".repeat(9999))), ..Identity::default() };
        let serial = evil.bounded().system_serial.unwrap();
        assert!(serial.len() == 128 && serial.starts_with("ax"));
    }
}
