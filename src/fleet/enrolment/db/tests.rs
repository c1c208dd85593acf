use std::sync::Arc;

use super::*;
use crate::db::Db;
use crate::fleet::enrolment::Policy;
use crate::fleet::identity::Kind;
use crate::fleet::machine::MachineState;
use crate::stdx::mac::MacAddr;
use crate::stdx::time::ManualClock;

struct Bench {
    fleet: Fleet,
    clock: Arc<ManualClock>,
    _folder: tempfile::TempDir,
}

fn bench(rules: Vec<Rule>) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let tables = &[crate::access::db::MIGRATIONS, crate::fleet::db::MIGRATIONS];
    let db = Arc::new(Db::open(&folder.path().join("db"), tables, Timestamp::default()).unwrap());
    let clock = Arc::new(ManualClock::at(Timestamp::from_milliseconds(1_790_000_000_000)));
    let fleet = Fleet::open(db, clock.clone(), crate::api::Live::default(), rules, Policy::default()).unwrap();
    Bench { fleet, clock, _folder: folder }
}

/// A machine whose numbers all end in `number`, with the adapters `macs`.
fn machine(number: u32, macs: &[u8]) -> Identity {
    Identity {
        uuid: Some(format!("11111111-2222-3333-4444-{number:012}")),
        system_serial: Some(format!("S{number}")),
        board_serial: Some(format!("B{number}")),
        disk_serials: vec![format!("D{number}")],
        macs: macs.iter().map(|last| MacAddr([2, 0, 0, 0, 0, *last])).collect(),
        model: Some("LabBox".into()),
        ..Identity::default()
    }
}

impl Bench {
    fn check_in_with(&self, identity: &Identity, key: &str, code: Option<&str>) -> Admission {
        let message = CheckIn {
            stage: Stage::BootEnvironment,
            identity: identity.clone(),
            arrived_by: None,
            request_pem: String::new(),
            hardware: serde_json::Value::Null,
            agent: "test".into(),
            code: code.map(str::to_owned),
            trial: None,
        };
        self.clock.advance_seconds(1);
        self.fleet.check_in(&message, key.as_bytes(), Some("10.0.0.7".parse().unwrap())).unwrap()
    }

    fn check_in(&self, identity: &Identity, key: &str) -> Admission {
        self.check_in_with(identity, key, None)
    }

    fn waiting(&self, identity: &Identity, key: &str) -> Machine {
        match self.check_in(identity, key) {
            Admission::Waiting { machine, pairing_code } => {
                assert_eq!(pairing_code, pairing::code(key.as_bytes()));
                machine
            }
            other => panic!("{other:?}"),
        }
    }

    fn admitted(&self, identity: &Identity, key: &str) -> Machine {
        match self.check_in(identity, key) {
            Admission::Admitted { machine, .. } => machine,
            other => panic!("{other:?}"),
        }
    }

    fn enrolled(&self, identity: &Identity, key: &str) -> Machine {
        let machine = self.waiting(identity, key);
        self.approve(&machine.name);
        self.admitted(identity, key)
    }

    fn approve(&self, name: &str) -> Machine {
        self.fleet.approve(name, &Principal::local()).unwrap()
    }

    fn count(&self) -> usize {
        self.fleet.machines().unwrap().len()
    }
}

#[test]
fn ten_machines_through_one_adapter_are_ten_records_and_the_adapter_is_learnt() {
    let bench = bench(Vec::new());
    for number in 0..10 {
        bench.enrolled(&machine(number, &[99]), &format!("key {number}"));
    }
    assert_eq!(bench.count(), 10);
    let shared = bench.fleet.shared_evidence().unwrap();
    assert_eq!(shared.len(), 1);
    assert_eq!((shared[0].piece.kind, shared[0].piece.value.as_str()), (Kind::Mac, "02:00:00:00:00:63"));
    let by_mac = bench.fleet.directory.assignment(Some(MacAddr([2, 0, 0, 0, 0, 99])), None);
    assert_eq!(by_mac, crate::fleet::directory::Assignment::Unknown, "the adapter names no machine any more");
    for number in 0..10 {
        assert_eq!(bench.admitted(&machine(number, &[99]), &format!("key {number}")).identity, machine(number, &[99]));
    }
    assert_eq!(bench.count(), 10);
}

#[test]
fn a_stranger_cannot_spoil_the_evidence_of_a_machine() {
    let bench = bench(Vec::new());
    bench.enrolled(&machine(1, &[1]), "key");
    bench.waiting(&machine(2, &[1]), "stranger");
    bench.enrolled(&machine(3, &[3]), "third");
    assert!(bench.fleet.shared_evidence().unwrap().is_empty(), "the stranger was not let in");
}

#[test]
fn a_board_swap_asks_and_the_answer_keeps_the_record() {
    let bench = bench(vec![Rule { name: "all".into(), model: Some("LabBox".into()), ..Rule::default() }]);
    let one = bench.admitted(&machine(1, &[1]), "key");
    let swapped = Identity { disk_serials: vec!["D1".into()], ..machine(2, &[2]) };
    let waiting = bench.waiting(&swapped, "new key");
    let question = waiting.question.clone().unwrap();
    assert_eq!(question.candidates, std::slice::from_ref(&one.id));
    assert_eq!(question.words, "the same disk, another UUID, serial number and board");
    assert!(waiting.notice.unwrap().contains(&one.name));
    let refused = bench.fleet.approve(&waiting.name, &Principal::local()).unwrap_err();
    assert!(matches!(&refused, Error::Question { candidates, .. } if candidates[0] == one.name), "{refused}");
    assert_eq!(bench.waiting(&swapped, "key after a restart").id, waiting.id, "one question, however often it asks");
    let merged = bench.fleet.merge(&waiting.name, &one.name, &Principal::local()).unwrap();
    assert_eq!((&merged.id, &merged.identity), (&one.id, &swapped));
    assert_eq!(bench.count(), 1);
    assert_eq!(merged.pairing_code, Some(pairing::code(b"key after a restart")));
    bench.approve(&one.name);
    assert_eq!(bench.admitted(&swapped, "key after a restart").id, one.id);
}

#[test]
fn a_machine_that_is_sent_to_be_imaged_again_keeps_its_enrolment() {
    let bench = bench(Vec::new());
    let one = bench.enrolled(&machine(1, &[1]), "key");
    bench.fleet.set_state(&one.id, MachineState::Managed).unwrap();
    bench.fleet.expect_back(&one.id).unwrap();
    assert!(bench.waiting(&machine(2, &[2]), "other").id != one.id, "nobody else is let in by it");
    let back = bench.admitted(&machine(1, &[1]), "boot environment");
    assert_eq!((&back.id, back.approved_by.as_deref()), (&one.id, Some("run that begins")));
    assert_eq!(bench.waiting(&machine(1, &[1]), "a third key").id, one.id, "it is expected once");
    bench.fleet.expect_back(&one.id).unwrap();
    bench.clock.advance_seconds(1801);
    assert_eq!(bench.waiting(&machine(1, &[1]), "too late").id, one.id);
}

#[test]
fn a_machine_known_with_a_tpm_is_expected_back_with_it_alone() {
    let bench = bench(Vec::new());
    let with_tpm = Identity { tpm_key: Some("ab".repeat(32)), ..machine(1, &[1]) };
    let one = bench.enrolled(&with_tpm, "key");
    bench.fleet.expect_back(&one.id).unwrap();
    bench.waiting(&machine(1, &[1]), "without");
    assert_eq!(bench.admitted(&with_tpm, "with").id, one.id);
}

#[test]
fn a_code_typed_on_a_machine_that_waits_gives_it_what_the_code_gives() {
    let bench = bench(Vec::new());
    let terms = Terms {
        label: "desk".into(),
        uses: 2,
        hours: 1,
        collections: vec!["front".into()],
        deploy: Some("debian".into()),
    };
    let code = bench.fleet.make_code(&terms, &Principal::local()).unwrap();
    let waiting = bench.waiting(&machine(1, &[1]), "key");
    let admitted = bench.check_in_with(&machine(1, &[1]), "key", Some(code.reveal()));
    let Admission::Admitted { machine: one, newly: Some(newly) } = admitted else { panic!("{admitted:?}") };
    assert_eq!((&one.id, newly.deploy.as_deref()), (&waiting.id, Some("debian")));
    assert_eq!(bench.fleet.collection("front").unwrap().machines.len(), 1);
    let again = bench.check_in_with(&machine(1, &[1]), "other key", Some(code.reveal()));
    assert!(matches!(again, Admission::Admitted { newly: None, .. }), "what it gives, it gives once: {again:?}");
}

#[test]
fn a_disk_that_moved_to_a_new_machine_is_learnt_as_lent() {
    let bench = bench(Vec::new());
    let one = bench.enrolled(&machine(1, &[1]), "key");
    let other = Identity { disk_serials: vec!["D1".into()], ..machine(2, &[2]) };
    let waiting = bench.waiting(&other, "other");
    bench.fleet.is_new(&waiting.name, &Principal::local()).unwrap();
    bench.approve(&waiting.name);
    assert_eq!(bench.admitted(&other, "other").id, waiting.id);
    assert_eq!(bench.admitted(&machine(1, &[1]), "key").id, one.id);
    let third = Identity { disk_serials: vec!["D1".into()], ..machine(3, &[3]) };
    assert!(bench.waiting(&third, "third").question.is_none(), "the disk says nothing any more");
    let no_question = bench.fleet.is_new(&waiting.name, &Principal::local());
    assert!(matches!(no_question, Err(Error::NoQuestion(_))));
}

#[test]
fn two_machines_with_one_key_are_both_stopped_and_shown() {
    let bench = bench(Vec::new());
    let (original, clone) = (machine(1, &[1]), machine(2, &[2]));
    let one = bench.enrolled(&original, "key");
    assert!(matches!(bench.check_in(&clone, "key"), Admission::KeyStopped { machine: Some(_) }));
    assert!(matches!(bench.check_in(&original, "key"), Admission::KeyStopped { machine: None }), "both are stopped");
    let shown = bench.fleet.machine(&one.name).unwrap();
    assert!(shown.notice.unwrap().contains("another UUID, serial number, board and disk"), "it is shown");
    assert_eq!(bench.fleet.sightings(&one.id).unwrap().len(), 2, "and what both said is kept");
    assert_eq!(bench.waiting(&original, "fresh 1").id, one.id);
    let other = bench.waiting(&clone, "fresh 2");
    assert_ne!(other.id, one.id);
    for (name, identity, key) in [(&one.name, &original, "fresh 1"), (&other.name, &clone, "fresh 2")] {
        bench.approve(name);
        assert_eq!(&bench.admitted(identity, key).name, name);
    }
    assert!(bench.fleet.machine(&one.name).unwrap().notice.is_none());
}

#[test]
fn a_certificate_in_another_machine_is_stopped_when_that_machine_reports() {
    let bench = bench(Vec::new());
    let one = bench.enrolled(&machine(1, &[1]), "key");
    bench
        .fleet
        .note_identity(&one.id, &Identity { disk_serials: vec!["D9".into()], ..machine(1, &[7]) }, None)
        .unwrap();
    let stopped = bench.fleet.note_identity(&one.id, &machine(2, &[2]), None);
    assert!(matches!(stopped, Err(Error::Stopped(name)) if name == one.name));
    assert!(matches!(bench.check_in(&machine(1, &[7]), "key"), Admission::KeyStopped { .. }));
}

#[test]
fn a_liar_without_an_approved_key_stops_nobody() {
    let bench = bench(Vec::new());
    let one = bench.enrolled(&machine(1, &[1]), "key");
    bench.waiting(&machine(1, &[1]), "liar");
    bench.waiting(&machine(2, &[2]), "liar");
    assert_eq!(bench.admitted(&machine(1, &[1]), "key").id, one.id);
}

#[test]
fn a_record_of_two_machines_is_split_by_hand() {
    let bench = bench(Vec::new());
    let poor = |disk: &str, mac: u8| Identity {
        disk_serials: vec![disk.into()],
        macs: vec![MacAddr([2, 0, 0, 0, 0, mac]), MacAddr([2, 0, 0, 0, 0, 9])],
        ..Identity::default()
    };
    let (a, b) = (poor("D1", 1), Identity { disk_serials: Vec::new(), ..poor("", 2) });
    let one = bench.enrolled(&a, "a");
    assert_eq!(bench.waiting(&b, "b").id, one.id, "only the dock's adapter tells, and it lies");
    let sightings = bench.fleet.sightings(&one.id).unwrap();
    assert_eq!(sightings[0].identity, b);
    let new = bench.fleet.split(&one.name, sightings[0].number, &Principal::local()).unwrap();
    assert_ne!(new.id, one.id);
    assert_eq!(bench.fleet.shared_evidence().unwrap().len(), 1, "the dock is learnt");
    assert!(matches!(bench.check_in(&a, "a"), Admission::KeyStopped { .. }));
    assert_eq!(bench.waiting(&a, "a2").id, one.id);
    assert_eq!(bench.waiting(&b, "b2").id, new.id);
    assert!(matches!(bench.fleet.split(&one.name, 999, &Principal::local()), Err(Error::NoSighting { .. })));
}

#[test]
fn records_are_merged_by_hand_and_the_audit_log_says_so() {
    let bench = bench(Vec::new());
    let one = bench.enrolled(&machine(1, &[1]), "key");
    let two = bench.enrolled(&machine(2, &[2]), "other");
    bench.fleet.merge(&two.name, &one.name, &Principal::local()).unwrap();
    let gone = bench.fleet.machine(&two.name).unwrap();
    assert_eq!((gone.state, gone.notice.unwrap()), (MachineState::Retired, format!("merged into {}", one.name)));
    assert_eq!(bench.admitted(&machine(2, &[2]), "other").id, one.id, "its key goes on, as the other record's");
    assert!(matches!(bench.fleet.merge(&one.name, &one.name, &Principal::local()), Err(Error::Itself)));
    let entries = audit::list(&bench.fleet.db, None, 10).unwrap();
    assert!(entries.iter().any(|entry| entry.what == "machine-merge" && entry.detail == two.name));
    audit::verify(&bench.fleet.db).unwrap();
}

#[test]
fn a_code_lets_in_as_many_machines_as_it_says_and_not_for_ever() {
    let bench = bench(Vec::new());
    let terms = Terms { label: "desk 4".into(), uses: 2, hours: 1, collections: vec!["lab".into()], deploy: None };
    let code = bench.fleet.make_code(&terms, &Principal::local()).unwrap();
    let with = |number: u32, code: &str| {
        bench.check_in_with(&machine(number, &[number as u8]), &format!("key {number}"), Some(code))
    };
    assert!(matches!(with(1, "0000-0000-0000"), Admission::Waiting { .. }));
    let Admission::Admitted { machine: one, newly } = with(2, code.reveal()) else { panic!("not let in") };
    assert!(newly.is_some() && one.approved_by.as_deref() == Some("code:desk 4"));
    assert_eq!(bench.fleet.collections_of(&one.id).unwrap(), ["all", "lab"]);
    assert!(matches!(with(2, code.reveal()), Admission::Admitted { .. }), "the same machine again uses nothing up");
    assert_eq!(bench.fleet.codes().unwrap()[0].uses_left, 1);
    assert!(matches!(with(3, &code.reveal().to_lowercase()), Admission::Admitted { .. }));
    assert!(matches!(with(4, code.reveal()), Admission::Waiting { .. }), "it is used up");
    let late = bench.fleet.make_code(&terms, &Principal::local()).unwrap();
    bench.clock.advance_seconds(3601);
    assert!(matches!(with(5, late.reveal()), Admission::Waiting { .. }), "it has ended");
    assert!(bench.fleet.codes().unwrap().is_empty());
    assert!(bench.fleet.make_code(&Terms::default(), &Principal::local()).is_err(), "who made it must be told apart");
}

#[test]
fn expected_machines_and_tpm_keys_are_let_in_without_a_person() {
    let bench = bench(vec![Rule { name: "tpm".into(), tpm_keys: vec!["AA".into()], ..Rule::default() }]);
    let list = crate::fleet::enrolment::expected::parse("serial,name,collections\ns1,desk-1,lab\n").unwrap();
    assert_eq!(bench.fleet.expect(&list, &Principal::local()).unwrap(), 1);
    let one = bench.admitted(&machine(1, &[1]), "key 1");
    assert_eq!((one.name.as_str(), one.approved_by.as_deref()), ("desk-1", Some("serial list")));
    let with_tpm = Identity { tpm_key: Some("aa".into()), ..machine(2, &[2]) };
    assert_eq!(bench.admitted(&with_tpm, "key 2").approved_by.as_deref(), Some("rule:tpm"));
    bench.waiting(&machine(3, &[3]), "key 3");
    assert_eq!(bench.fleet.expect_nobody(&Principal::local()).unwrap(), 1);
    bench.waiting(&machine(1, &[1]), "another key");
}

#[test]
fn a_machine_that_lost_its_tpm_is_not_let_in_by_a_rule() {
    let bench = bench(vec![Rule { name: "all".into(), model: Some("LabBox".into()), ..Rule::default() }]);
    let with_tpm = Identity { tpm_key: Some("aa".into()), ..machine(1, &[1]) };
    let one = bench.admitted(&with_tpm, "key");
    assert_eq!(bench.waiting(&machine(1, &[1]), "fake").id, one.id, "everything but the TPM can be faked");
}
