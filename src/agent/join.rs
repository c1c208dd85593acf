//! `remint-agent enrol`: a system that Remint did not install joins a site.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::enrol::{self, Applicant, KeyError, MachineKey, Waiting};
use super::state::{Folder, Identity, StateError};
use super::surroundings;
use crate::inventory::hardware;
use crate::link;
use crate::link::client::{Client, fetch_authority};
use crate::stdx::hint::Hint;
use crate::stdx::time::{Clock, SystemClock};
use crate::tasksequence::host::HostError;

/// Whom to join.
pub struct Site<'a> {
    /// `https://ADDRESS[:PORT]`
    pub server: &'a str,
    /// SHA-256 of the site's authority, as `remint serve` prints it; nothing else is believed.
    pub authority: &'a str,
    /// Where the authority's certificate is fetched from. Default: the server's address over HTTP.
    pub http: Option<&'a str>,
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("enrol: this machine is {name} of {server} already")]
    Enrolled { name: String, server: String, folder: String },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("install the service: {0}")]
    Service(String),
}

impl Hint for JoinError {
    fn hint(&self) -> Option<String> {
        match self {
            JoinError::Enrolled { folder, .. } => {
                Some(format!("to join another site, remove {folder}/agent.json first"))
            }
            JoinError::Link(error) => error.hint(),
            _ => None,
        }
    }
}

/// Makes a key, checks in until the machine is let in, and writes down who it is. `typed` brings the lines that a person
/// types, one of which may be an enrolment code.
pub fn enrol(
    site: &Site<'_>,
    path: &Path,
    typed: &Receiver<String>,
    say: &mut dyn FnMut(&str),
) -> Result<Identity, JoinError> {
    let folder = Folder::open(path)?;
    if let Some(Identity { name, server, .. }) = folder.identity()? {
        return Err(JoinError::Enrolled { name, server, folder: path.display().to_string() });
    }
    let plain = site.http.map_or_else(|| plain_url(site.server), str::to_owned);
    let authority = fetch_authority(&format!("{}/boot/authority.pem", plain.trim_end_matches('/')), site.authority)?;
    let client = Client::new(site.server, &authority, None)?;
    let applicant = Applicant::installed_system(hardware::collect(Path::new("/")));
    let mut last = None;
    let enrolled = enrol::enrol(&client, MachineKey::make()?, &applicant, &mut |why, pause| {
        if last.as_ref() != Some(&why) {
            say(&words(&why));
            last = Some(why);
        }
        line_within(typed, pause)
    })?;
    let identity = Identity::new(site.server, &authority, &enrolled, SystemClock.now());
    folder.save_identity(&identity)?;
    Ok(identity)
}

/// Puts this program and its service into the running system, and starts it where there is systemd.
pub fn install_service(identity: &Identity) -> Result<(), JoinError> {
    let failed = |error: HostError| JoinError::Service(error.message);
    surroundings::put_agent(Path::new("/"), identity).map_err(failed)?;
    if Path::new("/run/systemd/system").exists() {
        for arguments in [&["daemon-reload"][..], &["restart", "remint-agent.service"]] {
            let ended = std::process::Command::new("systemctl").args(arguments).status();
            if !ended.as_ref().is_ok_and(std::process::ExitStatus::success) {
                return Err(JoinError::Service(format!("systemctl {}: {ended:?}", arguments.join(" "))));
            }
        }
    }
    Ok(())
}

/// `https://10.0.0.1:8443` is `http://10.0.0.1` without its own port.
fn plain_url(server: &str) -> String {
    let host = server.trim_start_matches("https://").trim_end_matches('/');
    let end = host.rfind(':').filter(|at| !host[*at..].contains(']')).unwrap_or(host.len());
    format!("http://{}", &host[..end])
}

fn words(why: &Waiting) -> String {
    match why {
        Waiting::Approval { name, code } => {
            format!(
                "waiting for approval as {name}, pairing code {code}: approve it there, or type an enrolment code here"
            )
        }
        Waiting::Rejected { reason } => format!("not let in: {reason}"),
        Waiting::Unreachable { text, hint } => {
            [Some(text), hint.as_ref()].into_iter().flatten().cloned().collect::<Vec<_>>().join("; ")
        }
    }
}

/// A line that was typed, at most `pause` from now. Where nobody types any more, the pause is kept all the same.
fn line_within(typed: &Receiver<String>, pause: Duration) -> Option<String> {
    match typed.recv_timeout(pause) {
        Ok(line) => Some(line.trim().to_owned()).filter(|line| !line.is_empty()),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => {
            std::thread::sleep(pause);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::plain_url;

    #[test]
    fn the_authority_is_fetched_from_the_servers_own_address() {
        for (server, expect) in [
            ("https://10.0.0.1", "http://10.0.0.1"),
            ("https://10.0.0.1:8443/", "http://10.0.0.1"),
            ("https://[fd00::1]", "http://[fd00::1]"),
            ("https://[fd00::1]:443", "http://[fd00::1]"),
        ] {
            assert_eq!(plain_url(server), expect);
        }
    }
}
