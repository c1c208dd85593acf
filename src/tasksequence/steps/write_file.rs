//! `write-file`: a file with a content, templates replaced.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::stdx::hex;
use crate::tasksequence::host::{FileContent, Root};

use super::{
    ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional, required,
};

pub(super) const ROW: Row = Row {
    name: "write-file",
    summary: "writes a file into the system on the disk",
    text: "The content is a template. The file is written whole or not at all, folders above it are made, and symbolic links \
           never lead out of the system. Its SHA-256 is the evidence.",
    parameters: &[
        required("path", Kind::Path, "where, as the system itself sees it"),
        required("content", Kind::Text, "what is in it"),
        optional("mode", Kind::FileMode, "\"0644\"", "permission bits, in quotes"),
    ],
    places: ANYWHERE,
    needs: Needs::Root,
    gives: Gives::Nothing,
    erases: false,
    example: "- write-file:\n    path: /etc/motd\n    content: |\n      {{ machine.name }}, installed by {{ run.id }}\n",
    load: load::<WriteFile>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteFile {
    path: String,
    content: String,
    #[serde(default = "usual")]
    mode: String,
}

fn usual() -> String {
    "0644".into()
}

impl WriteFile {
    fn wanted(&self) -> Result<FileContent, StepError> {
        let mode = u32::from_str_radix(&self.mode, 8).ok().filter(|mode| *mode <= 0o7777);
        let mode =
            mode.ok_or_else(|| StepError::new(format!("`{}` are no permission bits, write \"0644\"", self.mode)))?;
        Ok(FileContent { bytes: self.content.clone().into_bytes(), mode })
    }
}

impl Work for WriteFile {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        self.wanted()?;
        Ok(Planned::new(format!("write {} ({} bytes, mode {})", self.path, self.content.len(), self.mode)))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        is_there(on, &self.path, &self.wanted()?)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        on.host.write(Root::Target, &self.path, &self.wanted()?)?;
        Ok(Done::default())
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        read_back(on, &self.path, &self.wanted()?, done)
    }
}

/// Whether the file is on the target as it should be.
pub(super) fn is_there(on: &mut On, path: &str, wanted: &FileContent) -> Result<Check, StepError> {
    let there = on.host.read(Root::Target, path)?;
    Ok(if there.is_some_and(|there| there.is(wanted)) { Check::Holds } else { Check::Needed })
}

/// Reads a file that was written, and puts what it is into the evidence.
pub(super) fn read_back(on: &mut On, path: &str, wanted: &FileContent, done: &mut Done) -> Result<(), StepError> {
    let read = on.host.read(Root::Target, path)?;
    let read = read.ok_or_else(|| StepError::new(format!("{path} is not there after it was written")))?;
    if !read.is(wanted) {
        return Err(StepError::new(format!("{path} reads back otherwise than it was written")));
    }
    done.evidence("path", path);
    done.evidence("bytes", read.bytes.len() as u64);
    done.evidence("sha256", hex::emit(&Sha256::digest(&read.bytes)));
    Ok(())
}
