//! `run-script`: a script of the document's folder, kept with the sequence and named by its content.

use std::collections::BTreeMap;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::stdx::hex;
use crate::tasksequence::host::{FileContent, Root};
use crate::tasksequence::quantity::Seconds;

use super::run_command::{In, RunCommand, hour, zero};
use super::{
    ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional, required,
};

pub(super) const ROW: Row = Row {
    name: "run-script",
    summary: "runs a script that lies beside the document",
    text: "The script becomes a part of the published sequence: a run carries out what it was started with, whatever happens to \
           the file. It is written into the system on the disk under the SHA-256 of its content, checked, started by its own \
           first line (`#!`), and removed afterwards. Templates in it are not replaced: what it needs comes as arguments or \
           environment. Interruptions are as with `run-command`.",
    parameters: &[
        required("script", Kind::Script, "path of the script, from the folder of the document; at most 64 KiB"),
        optional("arguments", Kind::Texts, "", "its arguments"),
        optional("environment", Kind::TextMap, "", "further environment variables"),
        optional(
            "creates",
            Kind::Path,
            "",
            "a file that is there once the script has done its work: then it does not run again",
        ),
        optional("repeatable", Kind::Boolean, "false", "running it again after an interruption is harmless"),
        optional("success-codes", Kind::Integers, "[0]", "exit codes that mean success"),
        optional("restart-codes", Kind::Integers, "[]", "exit codes that mean success once the machine has restarted"),
        optional("limit", Kind::Duration, "1h", "longest time for the script"),
    ],
    places: ANYWHERE,
    needs: Needs::System,
    gives: Gives::Nothing,
    erases: false,
    example: "- run-script:\n    script: scripts/join-domain\n    arguments: [\"{{ vars.domain }}\"]\n    creates: /var/lib/joined\n",
    load: load::<RunScript>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RunScript {
    script: String,
    /// Put here when the document was parsed: the script in hexadecimal, so that no template in it is replaced.
    content: String,
    sha256: String,
    #[serde(default)]
    arguments: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    creates: Option<String>,
    #[serde(default)]
    repeatable: bool,
    #[serde(default = "zero")]
    success_codes: Vec<i32>,
    #[serde(default)]
    restart_codes: Vec<i32>,
    #[serde(default = "hour")]
    limit: Seconds,
}

const FOLDER: &str = "/var/lib/remint/scripts";

impl RunScript {
    fn path(&self) -> String {
        format!("{FOLDER}/{}", self.sha256)
    }

    fn content(&self) -> Result<Vec<u8>, StepError> {
        let bytes = hex::parse(&self.content).filter(|bytes| hex::emit(&Sha256::digest(bytes)) == self.sha256);
        bytes.ok_or_else(|| StepError::new(format!("the script {} is not what its name says", self.script)))
    }

    fn command(&self) -> RunCommand {
        RunCommand {
            command: std::iter::once(self.path()).chain(self.arguments.iter().cloned()).collect(),
            r#in: In::Target,
            environment: self.environment.clone(),
            input: String::new(),
            creates: self.creates.clone(),
            repeatable: self.repeatable,
            success_codes: self.success_codes.clone(),
            restart_codes: self.restart_codes.clone(),
            limit: self.limit,
        }
    }
}

impl Work for RunScript {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        let bytes = self.content()?.len();
        let name = &self.sha256[..12];
        Ok(Planned::new(format!("run the script {} ({bytes} bytes, {name}) in the system on the disk", self.script)))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        self.command().check(on)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let bytes = self.content()?;
        on.host.write(Root::Target, &self.path(), &FileContent { bytes, mode: 0o700 })?;
        let ran = self.command().apply(on);
        on.host.remove(Root::Target, &self.path())?;
        let mut done = ran?;
        done.evidence("script", self.script.as_str());
        done.evidence("sha256", self.sha256.as_str());
        Ok(done)
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        self.command().verify(on, done)
    }

    fn repeatable(&self) -> bool {
        self.repeatable || self.creates.is_some()
    }
}
