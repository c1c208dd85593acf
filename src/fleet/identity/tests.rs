use super::*;

/// `uuid=a serial=s board=b tpm=t disk=d,e mac=1,2`: a word a field; what is left out the firmware does not say.
fn machine(text: &str) -> Identity {
    let mut identity = Identity::default();
    for word in text.split_ascii_whitespace() {
        let (field, value) = word.split_once('=').unwrap();
        let some = Some(value.replace('_', " "));
        match field {
            "uuid" => identity.uuid = some.map(uuid),
            "serial" => identity.system_serial = some,
            "board" => identity.board_serial = some,
            "tpm" => identity.tpm_key = some,
            "disk" => identity.disk_serials = value.split(',').map(str::to_owned).collect(),
            "mac" => identity.macs = value.split(',').map(|n| MacAddr([2, 0, 0, 0, 0, n.parse().unwrap()])).collect(),
            other => panic!("{other}"),
        }
    }
    identity
}

/// A letter is a UUID of its own; everything else is taken as it is.
fn uuid(text: String) -> String {
    match text.len() {
        1 => format!("11111111-2222-3333-4444-55555555555{text}"),
        _ => text,
    }
}

/// What the firmware of a good machine says.
const GOOD: &str = "uuid=a serial=S1 board=B1 disk=D1 mac=1";
const WITH_TPM: &str = "uuid=a serial=S1 board=B1 tpm=T1 disk=D1 mac=1";
const JUNK_UUID: &str = "uuid=03000200-0400-0500-0006-000700080009";

/// (what, evidence, records `one`, `two`, ... separated by `|`, expected: the record's name, `new`, or `?` and the names)
const CASES: [(&str, &str, &str, &str); 44] = [
    ("nothing known", GOOD, "", "new"),
    ("the very same", GOOD, GOOD, "one"),
    ("letters in another case", "uuid=A serial=s1 board=b1 disk=d1 mac=1", GOOD, "one"),
    ("another machine", "uuid=b serial=S2 board=B2 disk=D2 mac=2", GOOD, "new"),
    ("a new disk", "uuid=a serial=S1 board=B1 disk=D9 mac=1", GOOD, "one"),
    ("a new adapter", "uuid=a serial=S1 board=B1 disk=D1 mac=9", GOOD, "one"),
    ("a new disk and a new adapter", "uuid=a serial=S1 board=B1 disk=D9 mac=9", GOOD, "one"),
    ("no disk any more", "uuid=a serial=S1 board=B1 mac=1", GOOD, "one"),
    ("a board with a new serial number in the firmware", "uuid=a serial=S9 board=B1 disk=D1 mac=1", GOOD, "one"),
    ("a TPM that was switched on", WITH_TPM, GOOD, "one"),
    ("a TPM that was switched off", GOOD, WITH_TPM, "one"),
    ("a TPM that was exchanged", "uuid=a serial=S1 board=B1 tpm=T9 disk=D1 mac=1", WITH_TPM, "one"),
    ("a fake of everything that can be faked but few", "uuid=a serial=S1 tpm=T9", WITH_TPM, "? one"),
    ("the TPM alone", "tpm=T1", WITH_TPM, "one"),
    ("the TPM in a board with other numbers", "uuid=b serial=S2 tpm=T1", WITH_TPM, "? one"),
    ("a board swap that keeps disk and serial number", "uuid=b serial=S1 board=B2 disk=D1 mac=2", GOOD, "? one"),
    ("a board swap that keeps the disk", "uuid=b serial=S2 board=B2 disk=D1 mac=2", GOOD, "? one"),
    ("a board swap that keeps disk and adapter", "uuid=b serial=S2 board=B2 disk=D1 mac=1", GOOD, "? one"),
    ("a board swap to a board without numbers", "disk=D1 mac=2", GOOD, "? one"),
    (
        "a disk that moved to a known machine",
        "uuid=b serial=S2 board=B2 disk=D1 mac=2",
        "uuid=a serial=S1 board=B1 disk=D1 mac=1|uuid=b serial=S2 board=B2 disk=D2 mac=2",
        "two",
    ),
    ("one lent adapter, another machine", "uuid=b serial=S2 board=B2 disk=D2 mac=1", GOOD, "new"),
    ("two lent adapters, another machine", "uuid=b serial=S2 mac=1,2", "uuid=a serial=S1 mac=1,2", "new"),
    (
        "a lent adapter between two known machines",
        "uuid=b serial=S2 mac=1",
        "uuid=a serial=S1 mac=1|uuid=b serial=S2 mac=2",
        "two",
    ),
    (
        "junk UUID, good serial number",
        "uuid=00000000-0000-0000-0000-000000000000 serial=S1 mac=1",
        "uuid=00000000-0000-0000-0000-000000000000 serial=S1 mac=1",
        "one",
    ),
    (
        "junk UUID, other serial number",
        "uuid=03000200-0400-0500-0006-000700080009 serial=S2 mac=2",
        "uuid=03000200-0400-0500-0006-000700080009 serial=S1 mac=1",
        "new",
    ),
    (
        "junk UUID and serial number, other adapter",
        "uuid=03000200-0400-0500-0006-000700080009 serial=Default_string mac=2",
        "uuid=03000200-0400-0500-0006-000700080009 serial=Default_string mac=1",
        "new",
    ),
    (
        "junk UUID and serial number, same adapter",
        "uuid=03000200-0400-0500-0006-000700080009 serial=Default_string mac=1",
        "uuid=03000200-0400-0500-0006-000700080009 serial=Default_string mac=1",
        "one",
    ),
    ("no numbers at all, same disk", "disk=D1", "disk=D1", "one"),
    ("no numbers at all, same adapter and disk", "disk=D1 mac=1", "disk=D1 mac=1", "one"),
    ("no numbers at all, same adapter, other disk", "disk=D2 mac=1", "disk=D1 mac=1", "? one"),
    ("no numbers at all, other adapter, same disk", "disk=D1 mac=2", "disk=D1 mac=1", "one"),
    ("no numbers at all, nothing in common", "disk=D2 mac=2", "disk=D1 mac=1", "new"),
    ("nothing said at all", "", GOOD, "new"),
    ("a serial number of one letter repeated", "serial=0000000 mac=2", "serial=0000000 mac=1", "new"),
    ("only the serial number is left", "serial=S1", GOOD, "one"),
    ("only the board's number is left", "board=B1", GOOD, "? one"),
    ("only the adapter is left", "mac=1", GOOD, "? one"),
    ("a vendor who gives every board the same UUID", "uuid=a serial=S2 board=B2 disk=D2 mac=2", GOOD, "? one"),
    (
        "a vendor who gives every system the same serial number",
        "uuid=b serial=S1 board=B2 disk=D2 mac=2",
        GOOD,
        "? one",
    ),
    (
        "two records of the same machine",
        GOOD,
        "uuid=a serial=S1 board=B1 disk=D1 mac=1|uuid=a serial=S1 board=B1 disk=D1 mac=1",
        "? one two",
    ),
    ("two records of which one fits far better", GOOD, "uuid=a serial=S1 board=B1 disk=D1 mac=1|uuid=a mac=9", "one"),
    (
        "two disks of two machines in a third",
        "uuid=c serial=S3 disk=D1,D2",
        "uuid=a serial=S1 disk=D1|uuid=b serial=S2 disk=D2",
        "? one two",
    ),
    ("a record that knows nothing", GOOD, "", "new"),
    ("a UUID of the wrong length", "uuid=11111111 serial=S1", "uuid=11111111 serial=S2", "new"),
];

fn check((what, evidence, records, expect): (&str, &str, &str, &str), shared: &Shared) {
    const NAMES: [&str; 3] = ["one", "two", "three"];
    let records: Vec<(MachineId, Identity)> = records
        .split('|')
        .filter(|text| !text.is_empty())
        .zip(NAMES)
        .map(|(text, name)| (MachineId::from(name), machine(text)))
        .collect();
    let verdict = resolve(&machine(evidence), records.iter().map(|(id, record)| (id, record)), shared);
    let shown = match verdict {
        Verdict::New => "new".to_owned(),
        Verdict::Same(id) => id.to_string(),
        Verdict::Question(ids) => {
            let mut names: Vec<&str> = ids.iter().map(MachineId::as_str).collect();
            names.sort_unstable();
            format!("? {}", names.join(" "))
        }
    };
    assert_eq!(shown, expect, "{what}");
}

#[test]
fn machines_are_told_apart_by_what_is_really_theirs() {
    assert!(CASES.len() >= 40);
    for case in CASES {
        check(case, &Shared::new());
    }
}

#[test]
fn what_is_known_to_be_shared_says_nothing_any_more() {
    let shared = |kind, value: &str| Shared::from([Piece { kind, value: value.into() }]);
    let adapter = shared(Kind::Mac, "02:00:00:00:00:01");
    check(("a dock, nothing else known", "mac=1", "mac=1", "new"), &adapter);
    check(("a dock, the machine's own numbers", GOOD, GOOD, "one"), &adapter);
    let serial = shared(Kind::SystemSerial, "s1");
    check(("a vendor's serial number", "uuid=b serial=S1 mac=2", "uuid=a serial=S1 mac=1", "new"), &serial);
    let disk = shared(Kind::Disk, "d1");
    check(("a lent disk", "uuid=b serial=S2 disk=D1", "uuid=a serial=S1 disk=D1", "new"), &disk);
}

#[test]
fn a_comparison_is_said_in_words() {
    let words = |a: &str, b: &str| Comparison::of(&machine(a), &machine(b), &Shared::new()).words();
    assert_eq!(words("uuid=b board=B2 disk=D1", GOOD), "the same disk, another UUID and board");
    assert_eq!(words(GOOD, GOOD), "the same UUID, serial number, board, disk and network adapter");
    assert_eq!(words("uuid=b", GOOD), "another UUID");
}

#[test]
fn only_another_board_contradicts() {
    let contradicts = |a: &str, b: &str| Comparison::of(&machine(a), &machine(b), &Shared::new()).is_contradiction();
    assert!(contradicts("uuid=b serial=S2 board=B2 disk=D2 mac=2", GOOD));
    assert!(contradicts("uuid=b serial=S1 board=B2 disk=D1", GOOD));
    assert!(!contradicts("uuid=a serial=S1 board=B1 disk=D9 mac=9", GOOD), "a new disk is no other machine");
    assert!(!contradicts("disk=D9 mac=9", GOOD), "what firmware does not say contradicts nothing");
    assert!(!contradicts(&format!("{JUNK_UUID} serial=S1"), GOOD));
}

#[test]
fn hostile_text_is_cut() {
    let evil = Identity { system_serial: Some(format!("a\0\n{}", "x".repeat(9999))), ..Identity::default() };
    let serial = evil.bounded().system_serial.unwrap();
    assert!(serial.len() == 128 && serial.starts_with("ax"));
}
