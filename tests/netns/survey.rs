//! What the appliance finds out about its neighbours.

use std::time::Duration;

use remint::dhcp::survey::{Asked, ask};

use crate::appliance::{self, ADDRESS, Appliance};
use crate::lan::{Lan, start, within};

/// A second is long for servers of the same computer.
const WAIT: Duration = Duration::from_secs(2);

#[test]
fn a_survey_hears_our_own_answers_and_those_of_a_second_pxe_server() {
    let Some(lan) = Lan::with(&["dnsmasq"]) else { return };
    let appliance = Appliance::start(&lan, appliance::proxy(), &[]);
    let other = lan.host_at("10.77.0.2/24");
    let _dnsmasq = start(
        &other.space,
        "dnsmasq -d -C /dev/null --port=0 --interface=lan0 --bind-interfaces --no-ping --leasefile-ro \
         --dhcp-range=10.77.0.150,10.77.0.160,1h --dhcp-boot=pxelinux.0,other,10.77.0.2",
    );
    let mut answers = Vec::new();
    // dnsmasq needs a moment to start.
    for seed in 1..10 {
        answers = within(lan.space(), move || ask("br0", seed, WAIT).unwrap()).join().unwrap();
        if answers.iter().any(|answer| answer.server != ADDRESS) {
            break;
        }
    }
    let of = |own: bool, asked| answers.iter().find(|a| (a.server == ADDRESS) == own && a.asked == asked);
    assert_eq!(of(true, Asked::UefiX64).unwrap().file.as_deref(), Some("snponly.efi"), "{answers:?}");
    assert_eq!(of(true, Asked::Plain), None, "the proxy speaks only to who boots: {answers:?}");
    let theirs = of(false, Asked::Bios).unwrap();
    assert_eq!((theirs.file.as_deref(), theirs.address.is_some()), (Some("pxelinux.0"), true), "{answers:?}");
    assert!(appliance.recorder.list(None).is_empty(), "a survey is no boot of a machine");
    drop(appliance.stop());
}
