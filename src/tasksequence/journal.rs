//! The journal of a run: the only memory that the engine has.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::stdx::file::sync_folder;
use crate::stdx::time::Timestamp;

use super::host::Place;
use super::layout::Target;
use super::model::ItemId;

/// One line of the journal. Its number is its place: the first entry is 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub at: Timestamp,
    /// The item it is about; empty for the run as a whole.
    pub item: ItemId,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum What {
    /// The item's condition held, or it has none.
    Entered,
    Skipped {
        why: String,
    },
    /// Written before the step runs. `boot` tells boots apart, so a step sees that the machine was restarted.
    Started {
        attempt: u32,
        boot: String,
    },
    /// Written before anybody is told.
    Finished(Finished),
    /// The run was cancelled: nothing more is started but the `always` sections.
    Cancelled,
    /// The run goes back to this item, as if it and what follows had never run.
    Rewound,
    Ended {
        result: RunResult,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    pub result: StepResult,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// What the step read back.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub evidence: Map<String, Value>,
    /// Variables that have this value from now on.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub sets: Map<String, Value>,
    /// The machine restarts into this before anything else happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart: Option<Place>,
    /// Where the system is from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Box<Target>>,
    /// The machine is switched off once the run is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub power_off: bool,
    /// There is no system any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blank: bool,
}

/// A disk by what stays the same when the kernel names disks in another order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskIdentity {
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepResult {
    /// The step changed something, and verified it.
    Done,
    /// Its result held already.
    Held,
    #[default]
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunResult {
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("write the journal {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("read the journal {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("the journal {path} is damaged in line {line}")]
    Damaged { path: PathBuf, line: usize, source: serde_json::Error },
    #[error("hand the journal to the appliance: {0}")]
    Appliance(String),
}

/// Where entries are kept. When `append` returns, a power cut no longer loses the entry.
pub trait JournalStore {
    fn append(&mut self, entry: &Entry) -> Result<(), JournalError>;
}

/// A journal in a file of the installed system, one JSON object a line.
pub struct FileJournal {
    path: PathBuf,
    file: File,
}

impl FileJournal {
    /// Opens or creates it and returns what it holds. A last line without its end was being written when the power went:
    /// nobody acted on it, so it is cut off.
    pub fn open(path: &Path) -> Result<(FileJournal, Vec<Entry>), JournalError> {
        let read = |source| JournalError::Read { path: path.to_owned(), source };
        let text = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(read(error)),
        };
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let entries = parse(path, &text[..whole])?;
        let write = |source| JournalError::Write { path: path.to_owned(), source };
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(write)?;
        file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(write)?;
        sync_folder(path.parent().unwrap_or(Path::new("/"))).map_err(write)?;
        Ok((FileJournal { path: path.to_owned(), file }, entries))
    }
}

impl JournalStore for FileJournal {
    fn append(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let line = emit(std::slice::from_ref(entry));
        self.file
            .write_all(&line)
            .and_then(|()| self.file.sync_data())
            .map_err(|source| JournalError::Write { path: self.path.clone(), source })
    }
}

/// The entries as the bytes of a journal file.
pub fn emit(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        serde_json::to_writer(&mut bytes, entry).expect("an entry is plain data, it always has a JSON form");
        bytes.push(b'\n');
    }
    bytes
}

fn parse(path: &Path, text: &[u8]) -> Result<Vec<Entry>, JournalError> {
    let lines = text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(index, line)| {
            serde_json::from_slice(line).map_err(|source| JournalError::Damaged {
                path: path.to_owned(),
                line: index + 1,
                source,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_cut_at_any_byte_still_holds_every_entry_that_was_appended_whole() {
        let entries: Vec<Entry> = (0..4)
            .map(|n| Entry {
                at: Timestamp::from_milliseconds(n),
                item: ItemId(n.to_string()),
                what: What::Started { attempt: 1, boot: "ä\nb".into() },
            })
            .collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let bytes = emit(&entries);
        for cut in 0..=bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            let whole = bytes[..cut].iter().filter(|byte| **byte == b'\n').count();
            let (mut journal, read) = FileJournal::open(&path).unwrap();
            assert_eq!(read, entries[..whole], "cut at {cut}");
            journal.append(&entries[3]).unwrap();
            assert_eq!(FileJournal::open(&path).unwrap().1.len(), whole + 1);
        }
    }
}
