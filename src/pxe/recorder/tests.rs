use super::*;
use crate::pxe::client::Firmware;
use crate::stdx::time::ManualClock;

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 50);

fn client(stage: Stage) -> Client {
    let (firmware, transport) = (Firmware::UefiX64, Transport::Tftp);
    Client { mac: Some(MAC), uuid: None, firmware, transport, stage, past: Past::Nothing, model: None }
}

struct Bench {
    clock: Arc<ManualClock>,
    recorder: Recorder,
}

impl Bench {
    /// A machine that was told to boot `program`.
    fn told(program: &'static str) -> Bench {
        let clock = Arc::new(ManualClock::at(Timestamp::from_milliseconds(1_000_000)));
        let bench = Bench { recorder: Recorder::new(clock.clone()), clock };
        bench.recorder.asked(&client(Stage::Firmware), &Boot::Program(program), "");
        bench
    }

    fn took(self, server: Ipv4Addr) -> Bench {
        self.recorder.took(MAC, server, ADDRESS);
        self
    }

    fn file(self, name: &str, ended: Ended) -> Bench {
        self.recorder.file(ADDRESS, name, Transport::Tftp, ended);
        self
    }

    fn script(self, boot: &Boot) -> Bench {
        self.recorder.script(Some(MAC), boot);
        self
    }

    fn check(self, words: &[&str]) {
        self.clock.advance_seconds(STUCK_SECONDS + 1);
        let sentence = self.recorder.list(Some(MAC)).remove(0).sentence;
        for word in words {
            assert!(sentence.contains(word), "{word:?} is not in {sentence:?}");
        }
    }
}

fn complete() -> Ended {
    Ended::Complete { bytes: 9, milliseconds: 1, repeats: 0 }
}

const ENVIRONMENT: Boot = Boot::BootEnvironment { kernel: "vmlinuz", initrd: "initrd.img" };

#[test]
fn the_ways_in_which_boots_fail_are_named() {
    let ipxe = || Bench::told("snponly.efi").took(OURS).file("snponly.efi", complete());
    Bench::told("snponly.efi").check(&["took no address", "no DHCP server"]);
    Bench::told("snponly.efi").took(OTHER).check(&["10.0.0.7", "offered a boot file too", "port 69"]);
    Bench::told("snponly.efi").took(OURS).file("snponly.efi", Ended::Missing).check(&["snponly.efi", "boot build"]);
    Bench::told("snponly.efi").took(OURS).file("snponly.efi", Ended::Unanswered).check(&["no answer", "UDP above"]);
    let silent = Ended::Silent { done: 512, bytes: 9000 };
    Bench::told("snponly.efi").took(OURS).file("snponly.efi", silent).check(&["512 of 9000", "lost"]);
    let stopped = Ended::Stopped { done: 0, bytes: 9, message: "out of memory".into() };
    Bench::told("snponly.efi").took(OURS).file("snponly.efi", stopped).check(&["broke off", "out of memory"]);
    ipxe().check(&["did not start", "Secure Boot"]);
    Bench::told("shimx64.efi").took(OURS).file("shimx64.efi", complete()).check(&["shimx64.efi", "GRUB"]);
    ipxe().file("autoexec.ipxe", complete()).check(&["iPXE has started", "TCP port"]);
    ipxe().script(&ENVIRONMENT).check(&["did not load the kernel", "TCP"]);
    ipxe().script(&ENVIRONMENT).file("vmlinuz", Ended::Asked).check(&["not the initramfs", "memory"]);
}

#[test]
fn a_client_that_is_not_answered_learns_why() {
    let bench = Bench::told("snponly.efi");
    bench.recorder.asked(&client(Stage::Firmware), &Boot::Nothing("no boot program exists for this architecture"), "");
    bench.check(&["not answered", "architecture"]);
}

#[test]
fn what_the_dhcp_server_met_is_the_reason_until_the_machine_gets_further() {
    let bench = Bench::told("snponly.efi");
    bench.recorder.noticed(&client(Stage::Firmware), "no address is left in 10.0.0.0/24".into());
    bench.check(&["no address is left"]);
    let bench = Bench::told("snponly.efi");
    bench.recorder.noticed(&client(Stage::Firmware), "10.0.0.50 is in use".into());
    bench.took(OURS).file("snponly.efi", complete()).check(&["Secure Boot"]);
}

#[test]
fn boots_that_went_well_are_told_as_such() {
    let ipxe = || Bench::told("snponly.efi").took(OURS).file("snponly.efi", complete());
    let loaded = ipxe().script(&ENVIRONMENT).file("vmlinuz", Ended::Asked).file("initrd.img", Ended::Asked);
    loaded.check(&["it loaded all of the boot environment and did not check in", "HTTPS"]);
    let arrived = ipxe().script(&ENVIRONMENT).file("initrd.img", Ended::Asked);
    arrived.recorder.checked_in(&[MAC]);
    arrived.recorder.checked_in(&[MAC]);
    arrived.check(&["the boot environment and has checked in"]);
    let trial = |is_sound| Trial { is_sound, parts: vec!["memory: \u{1b}sound".into(), "x".repeat(9999)] };
    for (is_sound, words) in [(true, "has found nothing wrong"), (false, "has found faults")] {
        let tested = ipxe().script(&ENVIRONMENT).file("initrd.img", Ended::Asked);
        for _ in 0..2 {
            tested.recorder.tested(&[MAC], &trial(is_sound));
            tested.recorder.checked_in(&[MAC]);
        }
        let events = &tested.recorder.list(Some(MAC))[0].record.events;
        let noted: Vec<_> = events.iter().filter(|entry| matches!(entry.event, Event::Tested { .. })).collect();
        assert!(
            matches!(&noted[..], [Entry { event: Event::Tested { parts, .. }, .. }]
                if parts[0] == "memory: sound" && parts[1].len() == PART_CHARACTERS_MAX),
            "{noted:?}"
        );
        tested.check(&[words]);
    }
    ipxe().script(&Boot::LocalDisk).check(&["sent to its own disk"]);
}

#[test]
fn a_wrong_password_at_the_menu_is_told_until_something_else_happens() {
    let bench = Bench::told("snponly.efi").took(OURS).file("snponly.efi", complete());
    bench.recorder.menu(Some(MAC));
    bench.recorder.refused_choice(Some(MAC));
    let said = |bench: &Bench| format!("{:?}", bench.recorder.list(Some(MAC))[0].record.events);
    assert!(said(&bench).contains("a wrong password was typed at its menu"), "{}", said(&bench));
    bench.recorder.chose(Some(MAC), "memory-test");
    bench.check(&["somebody chose from its menu: memory-test"]);
}

#[test]
fn a_card_whose_own_firmware_is_ipxe_begins_a_boot_when_it_asks_again_after_its_script() {
    let bench = Bench::told("undionly.kpxe");
    for boots in 1..=2 {
        for _ in 0..2 {
            bench.recorder.asked(&client(Stage::Ipxe), &Boot::Script, "");
        }
        bench.recorder.script(Some(MAC), &Boot::LocalDisk);
        assert_eq!(bench.recorder.list(Some(MAC)).len(), boots);
    }
}

#[test]
fn firmware_that_refused_an_unsigned_program_is_known_the_next_time() {
    let bench = Bench::told("snponly.efi").took(OURS).file("snponly.efi", complete());
    bench.clock.advance_seconds(5);
    assert_eq!(bench.recorder.past(Some(MAC)), Past::UnsignedDidNotStart);
    let started = Bench::told("snponly.efi").took(OURS).file("snponly.efi", complete());
    started.recorder.asked(&client(Stage::Ipxe), &Boot::Script, "");
    started.clock.advance_seconds(5);
    assert_eq!(started.recorder.past(Some(MAC)), Past::Nothing);
    assert_eq!(started.recorder.past(None), Past::Nothing);
}

#[test]
fn a_transfer_replaces_what_was_asked_and_a_new_start_is_a_new_record() {
    let bench = Bench::told("snponly.efi").took(OURS).file("snponly.efi", Ended::Asked).file("snponly.efi", complete());
    let records = bench.recorder.list(None);
    assert_eq!((records.len(), records[0].record.events.len()), (1, 3));
    bench.recorder.asked(&client(Stage::Firmware), &Boot::Program("snponly.efi"), "");
    assert_eq!(bench.recorder.list(Some(MAC)).len(), 2);
}

#[test]
fn a_flood_of_addresses_leaves_a_bounded_memory() {
    let bench = Bench::told("snponly.efi");
    for n in 0..10_000u32 {
        let [a, b, c, d] = n.to_be_bytes();
        let flood = Client { mac: Some(MacAddr([2, 9, a, b, c, d])), ..client(Stage::Firmware) };
        bench.recorder.asked(&flood, &Boot::Program("snponly.efi"), "");
    }
    assert_eq!(bench.recorder.list(None).len(), MACHINES_MAX);
}

#[test]
fn addresses_are_bounded_whatever_a_machine_claims() {
    let bench = Bench::told("snponly.efi");
    for number in 0..3 * ADDRESSES_MAX as u32 {
        bench.recorder.took(MAC, OURS, Ipv4Addr::from_bits(0x0b00_0000 + number));
    }
    assert!(bench.recorder.machines().by_address.len() <= ADDRESSES_MAX);
    bench.recorder.took(MAC, OURS, ADDRESS);
    bench.file("snponly.efi", Ended::Unanswered).check(&["snponly.efi"]);
}
