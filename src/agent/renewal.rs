//! The certificate that goes on being renewed while a run takes its time.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::enrol::{KeyError, MachineKey};
use super::state::Identity;
use crate::fleet::link::RenewCertificate;
use crate::link;
use crate::link::client::Client;
use crate::stdx::time::{Clock, SystemClock};

/// How soon it is tried again when it did not work.
const RETRY: Duration = Duration::from_secs(5);
/// A clock that was set back must not put it off for ever.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Link(#[from] link::Error),
}

/// Asks for a certificate for the same key. `client` and its clones speak with it from then on.
pub fn renew(client: &Client, identity: &mut Identity) -> Result<u32, RenewalError> {
    let key = MachineKey::from_pem(&identity.key_pem)?;
    let renewed = client.call(&RenewCertificate { request_pem: key.request_pem()? })?;
    identity.certificate_pem = renewed.certificate_pem;
    identity.renew_at = SystemClock.now().plus_seconds(renewed.renew_in_seconds.into());
    if let Some(credentials) = identity.credentials() {
        client.change_credentials(&identity.authority_pem, &credentials)?;
    }
    Ok(renewed.renew_in_seconds)
}

/// Renews in the background until it is dropped.
pub struct Renewal {
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Renewal {
    /// `renewed` gets the identity with each new certificate. An appliance that does not say when is not asked.
    pub fn start(client: Client, identity: Identity, mut renewed: impl FnMut(&Identity) + Send + 'static) -> Renewal {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let told = stop.clone();
        let thread = thread::spawn(move || {
            let mut identity = identity;
            let mut pause = until(&identity);
            while !stopped_within(&told, pause) {
                pause = match SystemClock.now() < identity.renew_at {
                    true => until(&identity),
                    false => match renew(&client, &mut identity) {
                        Ok(seconds) => {
                            renewed(&identity);
                            if seconds == 0 { PAUSE_MAX } else { until(&identity) }
                        }
                        Err(_) => RETRY,
                    },
                };
            }
        });
        Renewal { stop, thread: Some(thread) }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn until(identity: &Identity) -> Duration {
    let milliseconds = identity.renew_at.milliseconds().saturating_sub(SystemClock.now().milliseconds());
    Duration::from_millis(milliseconds.try_into().unwrap_or(0)).min(PAUSE_MAX)
}

fn stopped_within(stop: &(Mutex<bool>, Condvar), pause: Duration) -> bool {
    let stopped = stop.0.lock().unwrap_or_else(PoisonError::into_inner);
    *stop.1.wait_timeout_while(stopped, pause, |stopped| !*stopped).unwrap_or_else(PoisonError::into_inner).0
}
