//! `run-command`: a program with its arguments, for what no typed step covers.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::tasksequence::host::{Command, Root};
use crate::tasksequence::quantity::Seconds;

use super::{
    ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional, required,
};

pub(super) const ROW: Row = Row {
    name: "run-command",
    summary: "runs a program with a list of arguments",
    text: "No shell is involved: an argument is one argument, whatever is in it. Each line of output is in the log, the last of \
           it is evidence. When the machine is interrupted while the program runs, `creates` tells whether it had done its \
           work; without it the step fails, unless it is `repeatable`.",
    parameters: &[
        required("command", Kind::Texts, "the program and its arguments, a list"),
        optional(
            "in",
            Kind::Choice(&["target", "here"]),
            "target",
            "`target`: within the system on the disk; `here`: in the system that runs, which before the restart is the boot environment",
        ),
        optional("environment", Kind::TextMap, "", "further environment variables"),
        optional("input", Kind::Text, "", "what the program reads on standard input"),
        optional(
            "creates",
            Kind::Path,
            "",
            "a file that is there once the program has done its work: then it does not run again",
        ),
        optional("repeatable", Kind::Boolean, "false", "running it again after an interruption is harmless"),
        optional("success-codes", Kind::Integers, "[0]", "exit codes that mean success"),
        optional("restart-codes", Kind::Integers, "[]", "exit codes that mean success once the machine has restarted"),
        optional("limit", Kind::Duration, "1h", "longest time for the program"),
    ],
    places: ANYWHERE,
    needs: Needs::Nothing,
    gives: Gives::Nothing,
    erases: false,
    example: "- run-command:\n    command: [ssh-keygen, -A]\n    creates: /etc/ssh/ssh_host_ed25519_key\n",
    load: load::<RunCommand>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct RunCommand {
    pub(super) command: Vec<String>,
    #[serde(default)]
    pub(super) r#in: In,
    #[serde(default)]
    pub(super) environment: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) input: String,
    pub(super) creates: Option<String>,
    #[serde(default)]
    pub(super) repeatable: bool,
    #[serde(default = "zero")]
    pub(super) success_codes: Vec<i32>,
    #[serde(default)]
    pub(super) restart_codes: Vec<i32>,
    #[serde(default = "hour")]
    pub(super) limit: Seconds,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum In {
    #[default]
    Target,
    Here,
}

pub(super) fn zero() -> Vec<i32> {
    vec![0]
}

pub(super) fn hour() -> Seconds {
    Seconds(3600)
}

impl RunCommand {
    fn root(&self) -> Root {
        match self.r#in {
            In::Target => Root::Target,
            In::Here => Root::Here,
        }
    }

    fn succeeded(&self, status: i32) -> bool {
        self.success_codes.contains(&status) || self.restart_codes.contains(&status)
    }
}

impl Work for RunCommand {
    fn plan(&self, view: &View) -> Result<Planned, StepError> {
        let whose = match (self.r#in, view.place) {
            (In::Here, place) => format!("in the {}", place.words()),
            (In::Target, _) => "in the system on the disk".to_owned(),
        };
        Ok(Planned::new(format!("run {} {whose}", quoted(&self.command))))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        match &self.creates {
            Some(path) if on.host.read(self.root(), path)?.is_some() => Ok(Check::Holds),
            Some(_) => Ok(Check::Needed),
            None => Ok(Check::CannotTell),
        }
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let command = Command {
            arguments: self.command.clone(),
            environment: self.environment.clone(),
            root: self.root(),
            input: self.input.clone().into_bytes(),
            timeout: Some(self.limit.duration()),
        };
        let exit = on.host.command(&command, on.watch)?;
        let name = self.command.first().map_or("", String::as_str);
        if exit.timed_out {
            return Err(StepError::new(format!("`{name}` took longer than {} seconds", self.limit.0))
                .hint("give it a longer `limit:`"));
        }
        if exit.stopped {
            return Err(StepError::new(format!("`{name}` was stopped")));
        }
        if !self.succeeded(exit.status) {
            let last = exit.output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
            return Err(StepError::new(format!("`{name}` ended with status {}: {last}", exit.status))
                .hint("the log of the run has all of its output"));
        }
        let mut done = Done::default();
        if self.restart_codes.contains(&exit.status) {
            done.restart_after = Some(on.host.place());
        }
        done.evidence("status", exit.status);
        done.evidence("output", exit.output.trim_end());
        Ok(done)
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        let Some(path) = &self.creates else { return Ok(()) };
        if on.host.read(self.root(), path)?.is_none() {
            return Err(StepError::new(format!("the program ended well, and {path} is not there"))
                .hint("`creates:` must name a file that the program makes"));
        }
        done.evidence("created", path.as_str());
        Ok(())
    }

    fn repeatable(&self) -> bool {
        self.repeatable || self.creates.is_some()
    }
}

/// The command as a person would type it; for reading, not for a shell.
fn quoted(arguments: &[String]) -> String {
    let plain = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_alphanumeric() || "-_./=:,@%+".contains(c));
    arguments
        .iter()
        .map(|text| if plain(text) { text.clone() } else { format!("'{}'", text.replace('\'', "'\\''")) })
        .collect::<Vec<_>>()
        .join(" ")
}
