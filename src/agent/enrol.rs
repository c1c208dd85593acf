//! Enrolment from the machine's side: a key of its own, a check-in that is repeated until somebody lets it in.

use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PublicKeyData};

use crate::fleet::MachineId;
use crate::fleet::identity::Identity;
use crate::fleet::link::{CheckIn, CheckInReply, Stage, Trial};
use crate::fleet::pairing;
use crate::inventory::model::Hardware;
use crate::link;
use crate::link::client::{Client, Credentials};
use crate::stdx::backoff::Backoff;
use crate::stdx::hint::{Hint, chain};
use crate::stdx::mac::MacAddr;

/// How soon a rejected machine asks again: somebody may have changed their mind.
const REJECTED_PAUSE: Duration = Duration::from_secs(60);
/// The appliance cannot make a machine ask more or less often than this.
const PAUSE_SECONDS: std::ops::RangeInclusive<u32> = 1..=300;

/// A key made on this machine, and nowhere else.
pub struct MachineKey {
    pair: KeyPair,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("make the machine's key")]
    Make(#[source] rcgen::Error),
    #[error("read the machine's key")]
    Read(#[source] rcgen::Error),
}

impl MachineKey {
    pub fn make() -> Result<MachineKey, KeyError> {
        KeyPair::generate().map(|pair| MachineKey { pair }).map_err(KeyError::Make)
    }

    pub fn from_pem(pem: &str) -> Result<MachineKey, KeyError> {
        KeyPair::from_pem(pem).map(|pair| MachineKey { pair }).map_err(KeyError::Read)
    }

    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// What the screen shows for a person to compare; the appliance computes it from the request.
    pub fn pairing_code(&self) -> String {
        pairing::code(self.pair.der_bytes())
    }

    /// PKCS #10 request, PEM. Its subject says nothing: the appliance decides who this is.
    pub fn request_pem(&self) -> Result<String, KeyError> {
        let request = CertificateParams::default().serialize_request(&self.pair).map_err(KeyError::Make)?;
        request.pem().map_err(KeyError::Make)
    }
}

/// What a machine says of itself at its check-in.
pub struct Applicant {
    pub stage: Stage,
    pub identity: Identity,
    pub arrived_by: Option<MacAddr>,
    pub hardware: Hardware,
    pub trial: Option<Trial>,
}

impl Applicant {
    /// The agent of an installed system.
    pub fn installed_system(hardware: Hardware) -> Applicant {
        let identity = hardware.identity();
        Applicant { stage: Stage::InstalledSystem, identity, arrived_by: None, hardware, trial: None }
    }
}

/// A machine that was let in.
pub struct Enrolled {
    pub machine: MachineId,
    pub name: String,
    pub credentials: Credentials,
    /// The site's key for manifests, as text.
    pub site_public_key: String,
    pub renew_in_seconds: u32,
}

/// Why a machine is not in yet; told each time something changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Waiting {
    Approval { name: String, code: String },
    Rejected { reason: String },
    Unreachable { text: String, hint: Option<String> },
}

/// What a check-in came to.
pub enum Answer {
    Enrolled(Box<Enrolled>),
    Wait(Waiting, Duration),
    /// The key must be made anew: it was used from another machine as well.
    KeyStopped,
}

/// One check-in.
pub fn ask(
    client: &Client,
    key: &MachineKey,
    applicant: &Applicant,
    code: Option<&str>,
) -> Result<Result<Answer, link::Error>, KeyError> {
    let message = CheckIn {
        stage: applicant.stage,
        identity: applicant.identity.clone(),
        arrived_by: applicant.arrived_by,
        request_pem: key.request_pem()?,
        hardware: serde_json::to_value(&applicant.hardware).unwrap_or_default(),
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        code: code.map(str::to_owned),
        trial: applicant.trial.clone(),
    };
    Ok(client.call(&message).map(|reply| match reply {
        CheckInReply::Approved { machine, name, certificate_pem, site_public_key, renew_in_seconds } => {
            let credentials = Credentials { certificate_pem, key_pem: key.to_pem() };
            Answer::Enrolled(Box::new(Enrolled { machine, name, credentials, site_public_key, renew_in_seconds }))
        }
        CheckInReply::Waiting { name, retry_seconds, .. } => {
            let pause = retry_seconds.clamp(*PAUSE_SECONDS.start(), *PAUSE_SECONDS.end());
            Answer::Wait(Waiting::Approval { name, code: key.pairing_code() }, Duration::from_secs(u64::from(pause)))
        }
        CheckInReply::Rejected { reason } => Answer::Wait(Waiting::Rejected { reason }, REJECTED_PAUSE),
        CheckInReply::KeyStopped { .. } => Answer::KeyStopped,
        CheckInReply::Unknown => {
            let reason = "the appliance is newer than this agent".to_owned();
            Answer::Wait(Waiting::Rejected { reason }, REJECTED_PAUSE)
        }
    }))
}

/// Checks in again and again until the machine is approved. `wait` shows why it is not and sleeps so long, or shorter
/// when a person presses a key; its answer is what the person has typed, which may be an enrolment code.
pub fn enrol(
    client: &Client,
    mut key: MachineKey,
    applicant: &Applicant,
    wait: &mut dyn FnMut(Waiting, Duration) -> Option<String>,
) -> Result<Enrolled, KeyError> {
    let (mut attempt, mut typed) = (0, None);
    loop {
        let (why, pause) = match ask(client, &key, applicant, typed.as_deref())? {
            Ok(Answer::Enrolled(enrolled)) => return Ok(*enrolled),
            Ok(Answer::KeyStopped) => {
                key = MachineKey::make()?;
                continue;
            }
            Ok(Answer::Wait(why, pause)) => {
                attempt = 0;
                (why, pause)
            }
            Err(error) => {
                attempt += 1;
                (unreachable(&error), Backoff::PATIENT.delay(attempt - 1, u64::from(std::process::id())))
            }
        };
        typed = wait(why, pause);
    }
}

fn unreachable(error: &link::Error) -> Waiting {
    Waiting::Unreachable { text: chain(error), hint: error.hint() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_pem_form_and_shows_the_same_code() {
        let key = MachineKey::make().unwrap();
        let again = MachineKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(key.pairing_code(), again.pairing_code());
        assert_ne!(key.pairing_code(), MachineKey::make().unwrap().pairing_code());
        assert!(key.request_pem().unwrap().starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
    }
}
