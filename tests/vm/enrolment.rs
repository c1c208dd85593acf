//! How a machine with a TPM is let in, stays in and is put out.

use remint::lab::console::Mark;
use remint::lab::run::Lab;
use remint::lab::scenario::{Dhcp, Firmware, MachineSpec};
use remint::stdx::hex;
use remint::stdx::time::{Clock, SystemClock};
use serde_json::Value;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::Test;
use crate::bench::{Bench, STEP_LIMIT, WHOLE_PATH_LIMIT, machine, wait_for};

pub(super) const TESTS: &[Test] =
    &[("a_machine_with_a_tpm_enrols_by_code_renews_is_imaged_again_and_is_retired", whole_life)];

/// One machine from its first check-in to its end. Nobody but the code lets it in, and its certificates live for a minute.
fn whole_life(bench: &Bench) {
    let spec = MachineSpec { tpm: true, ..machine(Firmware::Bios) };
    let minute = "[enrolment]\ncertificate_minutes = 1\n";
    let mut lab = bench.lab(Dhcp::Proxy, spec, |site| std::fs::write(site.join("remint.toml"), minute).unwrap());
    let first = enrol_by_code(&mut lab);
    assert_eq!(first["identity"]["tpm_key"], key_of_the_makers_certificate(&lab), "{first}");
    assert_renewed(&lab, &first);
    let again = image_again(&lab, &first);
    assert_eq!(
        (&again["id"], &again["identity"]["tpm_key"], &again["approved_by"]),
        (&first["id"], &first["identity"]["tpm_key"], &"run that begins".into()),
        "it is the same machine, and nobody had to say so"
    );
    assert_eq!(lab.appliance.ask(&["machine", "list"]).unwrap().as_array().unwrap().len(), 1);
    assert_cut_off(&lab, &again);
}

/// The screen and the site show the same pairing code; the one-time code, typed on the machine, lets it in and gives it
/// its sequence.
fn enrol_by_code(lab: &mut Lab) -> Value {
    let made = ["enrolment", "code", "--label", "desk 4", "--collection", "front", "--deploy", "debian"];
    let code = lab.appliance.ask(&made).unwrap()["code"].as_str().unwrap().to_owned();
    lab.power_on(0).unwrap();
    let waiting = lab.wait_for_state(0, "waiting", STEP_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    let pairing = waiting["pairing_code"].as_str().unwrap();
    let shown = wait_for(lab, Mark::default(), &format!("pairing code: {pairing}"));
    wait_for(lab, shown, "Or type an enrolment code here");
    lab.machines[0].type_line(&code.to_lowercase().replace('-', "")).unwrap();
    wait_for(lab, shown, "Checked in as");
    let managed = lab.wait_for_state(0, "managed", WHOLE_PATH_LIMIT).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(managed["approved_by"], "code:desk 4", "{managed}");
    let left = lab.appliance.ask(&["enrolment", "codes"]).unwrap();
    assert!(left.as_array().unwrap().is_empty(), "the code is used up: {left}");
    let front = lab.appliance.ask(&["collection", "show", "front"]).unwrap();
    assert_eq!(front["machines"][0]["id"], managed["id"]);
    managed
}

/// SHA-256 of the public key in the certificate that the TPM's maker has issued.
fn key_of_the_makers_certificate(lab: &Lab) -> String {
    let der = std::fs::read(lab.machines[0].tpm_certificate()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    hex::emit(&Sha256::digest(certificate.public_key().raw))
}

fn assert_renewed(lab: &Lab, managed: &Value) {
    let certificates = |record: &Value| record["certificates"].as_array().unwrap().len();
    let before = certificates(managed);
    let renewed = lab
        .appliance
        .wait_for_machine("BENCH-1", "a renewed certificate", STEP_LIMIT, |record| certificates(record) > before);
    let newest = &renewed.unwrap_or_else(|error| panic!("{error}"))["certificates"][0];
    assert!(newest["revoked_at"].is_null(), "{newest}");
    let lives = newest["expires_at"].as_i64().unwrap() - newest["issued_at"].as_i64().unwrap();
    assert!((1..=60_000).contains(&lives), "{newest}");
}

/// Deploys the sequence once more: the installed system's agent fetches the run and restarts into the boot environment, where
/// the machine has another key and no certificate.
fn image_again(lab: &Lab, managed: &Value) -> Value {
    let name = managed["name"].as_str().unwrap();
    let start = ["deploy", "start", "debian", "--machine", name, "--yes", "1"];
    lab.appliance.ask(&start).unwrap_or_else(|error| panic!("{error}"));
    let done = lab.appliance.wait_for_machine("BENCH-1", "managed again", WHOLE_PATH_LIMIT, |record| {
        assert_ne!(record["state"], "waiting", "it waits for approval: {record}");
        assert!(record["pairing_code"].is_null(), "it waits for approval: {record}");
        record["run"]["id"] != managed["run"]["id"]
            && record["state"] == "managed"
            && record["run"]["state"] == "succeeded"
    });
    done.unwrap_or_else(|error| panic!("{error}"))
}

/// Its certificate opens nothing any more, so the agent knocks as a stranger, and is turned away.
fn assert_cut_off(lab: &Lab, managed: &Value) {
    lab.appliance.ask(&["machine", "retire", managed["name"].as_str().unwrap()]).unwrap();
    let since = SystemClock.now().milliseconds();
    let knocked = lab.appliance.wait_for_machine("BENCH-1", "the retired machine knocking", STEP_LIMIT, |record| {
        record["seen_at"].as_i64().unwrap() > since
    });
    let record = knocked.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((&record["state"], &record["stage"]), (&"retired".into(), &"installed-system".into()), "{record}");
    for certificate in record["certificates"].as_array().unwrap() {
        assert!(!certificate["revoked_at"].is_null(), "{certificate}");
    }
}
