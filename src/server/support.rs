//! The support bundle: what somebody elsewhere needs to understand a fault, in one archive without secrets.
//!
//! Each file is made by itself; one that cannot be made holds the reason, so that a site in trouble still gives a bundle.
//! Secrets are kept out twice: nothing is put in that holds any (no keys, no people, no variables), and the values of
//! settings whose names speak of secrets are blanked.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Serialize;

use super::backup::stamp;
use super::site::Site;
use super::{doctor, metrics};
use crate::access::Capability;
use crate::api::{Access, Problem, Routes, Shape, Table, blocking};
use crate::fleet::db::Fleet;
use crate::fleet::deployment::RunState;
use crate::imaging::api::Images;
use crate::pxe::recorder::Recorder;
use crate::stdx::hint::chain;
use crate::stdx::time::Clock;
use crate::tasksequence::board::Filter;
use crate::tasksequence::db::Sequences;

pub const PATH: &str = "/api/v1/support-bundle";
/// Runs that are listed, the newest ones.
const RUNS_MAX: u64 = 200;
/// Of each of the newest failed runs, so many lines of its log.
const FAILED_RUNS_MAX: usize = 10;
const LINES_MAX: u64 = 500;
/// The end of the log that is kept in memory for the bundle.
const LOG_BYTES_MAX: usize = 1 << 20;
/// What a setting's name has in it when its value is a secret.
const SECRET_WORDS: [&str; 4] = ["password", "secret", "token", "access_key"];
const BLANK: &str = "(left out)";
/// What the host says of itself: file in the bundle, program, arguments.
const HOST: [(&str, &str, &[&str]); 5] = [
    ("host/kernel.txt", "uname", &["-a"]),
    ("host/addresses.txt", "ip", &["address"]),
    ("host/routes.txt", "ip", &["route"]),
    ("host/ports.txt", "ss", &["-lntu"]),
    ("host/disks.txt", "df", &["-hT"]),
];

/// What a bundle is made from.
pub(super) struct Sources {
    pub(super) folder: PathBuf,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) sequences: Arc<Sequences>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) images: Images,
    pub(super) observed: Arc<metrics::Observed>,
}

pub(super) fn routes(sources: Sources) -> Table {
    let what = "The support bundle (tar.gz): state, log and findings, without secrets";
    Routes::new()
        .get(PATH, Access::Person(Capability::Administer), what, bundle)
        .gives(Shape::Bytes)
        .with_state(Arc::new(sources))
}

async fn bundle(State(sources): State<Arc<Sources>>) -> Result<Response, Problem> {
    let name = format!("attachment; filename=\"remint-support-{}.tar.gz\"", stamp(sources.clock.now()));
    let made = blocking(move || make(&sources).map_err(|error| Problem::internal(error.to_string()))).await?;
    Ok(([(header::CONTENT_TYPE, "application/gzip"), (header::CONTENT_DISPOSITION, name.as_str())], made)
        .into_response())
}

fn make(sources: &Sources) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (name, content) in files(sources) {
        let text = content.unwrap_or_else(|reason| format!("could not be made: {reason}\n"));
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(sources.clock.now().milliseconds().unsigned_abs() / 1000);
        archive.append_data(&mut header, format!("remint-support/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()
}

/// Name and content of each file, or why there is none.
fn files(sources: &Sources) -> Vec<(String, Result<String, String>)> {
    let Sources { fleet, sequences, recorder, images, observed, .. } = sources;
    let runs = sequences.run_page(&Filter::default(), 0, RUNS_MAX).and_then(|(runs, _)| sequences.with_names(runs));
    let runs = runs.map_err(|error| chain(&error));
    let mut files: Vec<(String, Result<String, String>)> = vec![
        ("about.txt".into(), Ok(about(sources))),
        ("remint.toml".into(), settings(sources)),
        ("doctor.json".into(), findings(sources)),
        ("metrics.txt".into(), metrics::text(observed).map_err(|problem| problem.detail)),
        ("machines.json".into(), fleet.machines().map_err(|error| chain(&error)).and_then(|list| json(&list))),
        ("boots.json".into(), json(&recorder.list(None))),
        ("images.json".into(), images.list().map_err(|error| chain(&error)).and_then(|list| json(&list))),
        (
            "deployments.json".into(),
            sequences.deployments().map_err(|error| chain(&error)).and_then(|list| json(&list)),
        ),
        ("runs.json".into(), runs.as_ref().map_err(String::clone).and_then(json)),
        ("log.txt".into(), Ok(recent().text())),
    ];
    let failed = runs.unwrap_or_default().into_iter().filter(|run| run.state == RunState::Failed);
    for run in failed.take(FAILED_RUNS_MAX) {
        let lines = sequences
            .lines(run.id.as_str(), 0, LINES_MAX)
            .map_err(|error| chain(&error))
            .and_then(|lines| json(&lines));
        files.push((format!("failed-runs/{}.json", run.id.as_str()), lines));
    }
    files.extend(HOST.iter().map(|(name, program, arguments)| ((*name).to_owned(), said(program, arguments))));
    files
}

fn json(value: &impl Serialize) -> Result<String, String> {
    serde_json::to_string_pretty(value).map_err(|error| error.to_string())
}

fn about(sources: &Sources) -> String {
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let system =
        system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("unknown").trim_matches('"');
    format!(
        "remint {}\nmade at {}\nsite {}\nsystem {system}\n\nNo keys, passwords, tokens, people or values of variables are in \
         here. Names, addresses and serial numbers of machines are.\n",
        env!("CARGO_PKG_VERSION"),
        stamp(sources.clock.now()),
        sources.folder.display(),
    )
}

fn findings(sources: &Sources) -> Result<String, String> {
    let site = Site::open(&sources.folder, None).map_err(|error| chain(&error))?;
    json(&doctor::examine(&site))
}

/// The site's configuration with the values of secrets blanked.
fn settings(sources: &Sources) -> Result<String, String> {
    let path = sources.folder.join("remint.toml");
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok("# there is none: all is as by default\n".into());
        }
        read => read.map_err(|error| error.to_string())?,
    };
    let mut table: toml::Table = toml::from_str(&text).map_err(|error| error.message().to_owned())?;
    table.iter_mut().for_each(|(name, value)| blank(name, value));
    toml::to_string(&table).map_err(|error| error.to_string())
}

fn blank(name: &str, value: &mut toml::Value) {
    match value {
        toml::Value::Table(table) => table.iter_mut().for_each(|(name, value)| blank(name, value)),
        toml::Value::Array(list) => list.iter_mut().for_each(|value| blank(name, value)),
        value if SECRET_WORDS.iter().any(|word| name.contains(word)) => *value = BLANK.into(),
        // A kernel command line may carry one.
        toml::Value::String(text) if name.ends_with("arguments") => *text = blanked_words(text),
        _ => {}
    }
}

fn blanked_words(arguments: &str) -> String {
    let blanked = arguments.split(' ').map(|word| match word.split_once('=') {
        Some((key, _)) if SECRET_WORDS.iter().any(|secret| key.to_lowercase().contains(secret)) => {
            format!("{key}={BLANK}")
        }
        _ => word.to_owned(),
    });
    blanked.collect::<Vec<_>>().join(" ")
}

fn said(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// The last lines that were logged, for the bundle: the journal may be kept elsewhere, or not be ours to read.
#[derive(Default)]
pub struct Recent(Mutex<VecDeque<u8>>);

/// The one log of the process.
pub fn recent() -> &'static Recent {
    static RECENT: OnceLock<Recent> = OnceLock::new();
    RECENT.get_or_init(Recent::default)
}

impl Recent {
    /// What is kept, from the first whole line on.
    pub fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        let first = if bytes.len() < LOG_BYTES_MAX {
            0
        } else {
            bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1)
        };
        String::from_utf8_lossy(&bytes[first..]).into_owned()
    }
}

impl Write for &Recent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(LOG_BYTES_MAX);
        kept.drain(..excess);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_speak_of_secrets_are_blanked_wherever_they_stand() {
        let mut table: toml::Table = toml::from_str(
            "[boot]\nkernel_arguments = 'quiet site_password=hunter2'\n[[boot.menu]]\npassword = 'grub.pbkdf2'\nseconds = 3\n\
             [[store.far]]\naccess_key = 'AKIA'\nsecret_key_file = 'keys/s3'\nbucket = 'b'\n",
        )
        .unwrap();
        table.iter_mut().for_each(|(name, value)| blank(name, value));
        let text = toml::to_string(&table).unwrap();
        for secret in ["hunter2", "pbkdf2", "AKIA", "keys/s3"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert!(text.contains("quiet") && text.contains("seconds = 3") && text.contains("bucket = \"b\""), "{text}");
    }

    #[test]
    fn the_log_in_memory_is_bounded_and_begins_with_a_whole_line() {
        let recent = Recent::default();
        let line = format!("{}\n", "x".repeat(99));
        for _ in 0..2 * LOG_BYTES_MAX / 100 {
            (&recent).write_all(line.as_bytes()).unwrap();
        }
        (&recent).write_all(b"the last\n").unwrap();
        let text = recent.text();
        assert!(text.len() <= LOG_BYTES_MAX && text.len() > LOG_BYTES_MAX - 200);
        assert!(text.starts_with(&line) && text.ends_with("the last\n"));
    }
}
