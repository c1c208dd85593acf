//! The steps: one file and one row of `TABLE` each.
//!
//! A row says what a step is called, what parameters it takes, where it can run and what it needs; parser, schema, plan and
//! the reference in docs/ are made from it. Its work is `check -> apply -> verify`, done through `Host` alone.

mod add_drivers;
mod apply_image;
mod capture_image;
mod check_hardware;
mod cloud_init;
mod create_user;
mod format_partitions;
mod grow_filesystem;
mod hardware_test;
mod install_agent;
mod install_baseline;
mod install_bootloader;
mod install_packages;
mod partition_disk;
mod power_off;
mod prompt;
mod restart;
mod run_command;
mod run_script;
pub mod selection;
mod set_boot_order;
mod set_hostname;
mod set_network;
mod set_variable;
mod windows_boot;
mod wipe_disk;
mod write_file;
mod write_unattend;

use std::fmt;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::condition::{self, ConditionError, Scope};
use super::facts::Facts;
use super::host::{Host, HostError, Place, Watch};
use super::journal::{DiskIdentity, Entry};
use super::layout::Target;
use super::link::{ImageGrant, RunOrder};
use crate::stdx::time::Timestamp;

/// Every step there is, in the order of the reference.
pub const TABLE: &[Row] = &[
    check_hardware::ROW,
    hardware_test::ROW,
    wipe_disk::ROW,
    partition_disk::ROW,
    format_partitions::ROW,
    apply_image::ROW,
    grow_filesystem::ROW,
    set_hostname::ROW,
    set_network::ROW,
    create_user::ROW,
    write_file::ROW,
    cloud_init::ROW,
    write_unattend::ROW,
    add_drivers::ROW,
    install_bootloader::ROW,
    set_boot_order::ROW,
    install_agent::ROW,
    restart::ROW,
    power_off::ROW,
    capture_image::ROW,
    install_packages::ROW,
    install_baseline::ROW,
    run_command::ROW,
    run_script::ROW,
    set_variable::ROW,
    prompt::PROMPT,
    prompt::APPROVAL,
];

/// The row of a step, by its name.
pub fn row(name: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.name == name)
}

pub struct Row {
    pub name: &'static str,
    /// One sentence in the third person, without a full stop.
    pub summary: &'static str,
    /// The rest of what a reader of the reference wants to know.
    pub text: &'static str,
    pub parameters: &'static [Parameter],
    pub places: &'static [Place],
    pub needs: Needs,
    pub gives: Gives,
    pub erases: bool,
    /// A step as it stands in a document.
    pub example: &'static str,
    pub load: Load,
}

/// Makes the step from its parameters, templates already replaced.
pub type Load = fn(Value) -> Result<Box<dyn Work>, serde_json::Error>;

#[derive(Debug, PartialEq)]
pub struct Parameter {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
    /// For the reference; empty when there is none.
    pub default: &'static str,
    pub summary: &'static str,
}

/// What a parameter's value may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Text,
    /// An absolute path.
    Path,
    Integer {
        min: i64,
        max: i64,
    },
    Bytes,
    Duration,
    Boolean,
    Choice(&'static [&'static str]),
    Texts,
    Integers,
    TextMap,
    /// The name of an image of the site, `NAME`, `NAME@VERSION` or `NAME@TAG`.
    Image,
    /// `first`, `largest`, ..., or a map that describes the disk.
    DiskRule,
    /// Permission bits such as "0644".
    FileMode,
    /// The path of a script beside the document.
    Script,
    /// A document of XML; what templates put into it is escaped.
    Xml,
    /// A size, a share of a disk in per cent, or `rest`.
    Share,
    /// The name of a partition, or its number.
    Partition,
    /// A list of maps, each with these fields.
    Records(&'static [Parameter]),
    Anything,
}

/// What must have happened before a step can do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// A root file system is there, be it empty.
    Root,
    /// A system is on the disk.
    System,
}

/// What is true after a step, for those that come later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gives {
    Nothing,
    /// A system is on the disk.
    System,
    /// The agent is in that system, so a run can go on there.
    Agent,
    /// The machine is in the place that the parameter `into` names.
    Place,
    /// The system on the disk has no agent any more.
    Captured,
    /// No system is on the disk.
    Blank,
    /// No system is on the disk; the partitions have the names that the parameter `partitions` gives.
    Partitions,
    /// An empty root file system is there, when the parameter `file-systems` has one at `/`.
    FileSystems,
    /// The variable that the parameter `variable` names has a value.
    Variable,
}

/// A step with its parameters.
pub trait Work {
    /// What it would do, in words.
    fn plan(&self, view: &View) -> Result<Planned, StepError>;
    /// Whether the step's result holds already.
    fn check(&self, on: &mut On) -> Result<Check, StepError>;
    fn apply(&self, on: &mut On) -> Result<Done, StepError>;
    /// Reads back what the step is for, and adds it to the evidence. An error here fails the step.
    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError>;
    /// Doing it again after an interruption is harmless.
    fn repeatable(&self) -> bool {
        true
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    Holds,
    Needed,
    /// There is no way to see whether it was done.
    CannotTell,
}

/// What a plan is made from.
pub struct View<'a> {
    pub facts: &'a Facts,
    pub images: &'a [ImageGrant],
    pub place: Place,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// `write debian-lab (1.2 GiB) to /dev/vda`
    pub what: String,
    pub erases: Option<DiskIdentity>,
    pub bytes: u64,
    /// Variables whose values are known already.
    pub sets: Map<String, Value>,
    /// The variable that the run itself will learn.
    pub opens: Option<String>,
}

impl Planned {
    pub fn new(what: impl Into<String>) -> Planned {
        Planned { what: what.into(), ..Planned::default() }
    }
}

/// What a step works on.
pub struct On<'a> {
    pub order: &'a RunOrder,
    pub journal: &'a [Entry],
    pub host: &'a mut dyn Host,
    pub watch: &'a mut dyn Watch,
    /// Where the system is that is being installed.
    pub target: Option<&'a Target>,
    /// The boot in which this attempt was started first: another one than the present when the machine restarted since.
    pub started_in: Option<String>,
    /// When this attempt was started first.
    pub started_at: Option<Timestamp>,
}

impl On<'_> {
    pub fn line(&mut self, text: &str) {
        self.watch.line(self.host.now(), text);
    }
}

/// What a step leaves behind.
#[derive(Debug, Default)]
pub struct Done {
    pub evidence: Map<String, Value>,
    pub sets: Map<String, Value>,
    pub target: Option<Target>,
    /// Switch the machine off once the run is over.
    pub power_off: bool,
    /// There is no system any more.
    pub blank: bool,
    /// Restart before the step is over; it looks afterwards where it came out.
    pub restart_now: Option<Place>,
    /// Restart once the step is over.
    pub restart_after: Option<Place>,
}

impl Done {
    pub fn evidence(&mut self, name: &str, value: impl Into<Value>) {
        self.evidence.insert(name.to_owned(), value.into());
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    pub message: String,
    pub hint: Option<String>,
}

impl StepError {
    pub fn new(message: impl Into<String>) -> StepError {
        StepError { message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> StepError {
        self.hint = Some(hint.into());
        self
    }

    pub fn unknown_kind(kind: &str) -> StepError {
        StepError::new(format!("this machine's agent does not know the step `{kind}`"))
            .hint("the appliance is newer than the boot environment: run `remint boot build`, then restart the machine")
    }

    pub fn misplaced(row: &Row, place: Place) -> StepError {
        let where_to: Vec<&str> = row.places.iter().map(|place| place.words()).collect();
        StepError::new(format!(
            "`{}` runs in the {}, and this is the {}",
            row.name,
            where_to.join(" or the "),
            place.words()
        ))
        .hint("restart the machine into the other place first: `restart: { into: ... }`")
    }

    pub fn interrupted() -> StepError {
        StepError::new("the step was interrupted, and there is no way to see whether it had done its work")
            .hint("look at the machine, then restart the run from this step or the next; `creates:` lets a command be looked for, `repeatable: true` lets it run again")
    }
}

impl From<HostError> for StepError {
    fn from(error: HostError) -> StepError {
        StepError { message: error.message, hint: error.hint }
    }
}

impl From<ConditionError> for StepError {
    fn from(error: ConditionError) -> StepError {
        StepError::new(error.to_string())
    }
}

impl Row {
    /// The step with these parameters.
    pub fn load(&self, with: Value) -> Result<Box<dyn Work>, StepError> {
        (self.load)(with)
            .map_err(|error| StepError::new(format!("the parameters of `{}` do not fit: {error}", self.name)))
    }

    /// The parameters with their templates replaced.
    pub fn render(&self, with: &Map<String, Value>, scope: &Scope) -> Result<Value, ConditionError> {
        let render = |(name, value): (&String, &Value)| {
            let is_xml = self.parameter(name).is_some_and(|parameter| parameter.kind == Kind::Xml);
            let rendered = match value {
                Value::String(text) if is_xml => condition::render_xml(text, scope)?,
                value => condition::render_all(value, scope)?,
            };
            Ok((name.clone(), rendered))
        };
        Ok(Value::Object(with.iter().map(render).collect::<Result<_, ConditionError>>()?))
    }

    pub fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.parameters.iter().find(|parameter| parameter.name == name)
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The `Load` of a step type.
fn load<T: Work + DeserializeOwned + 'static>(with: Value) -> Result<Box<dyn Work>, serde_json::Error> {
    Ok(Box::new(serde_json::from_value::<T>(with)?))
}

const fn required(name: &'static str, kind: Kind, summary: &'static str) -> Parameter {
    Parameter { name, kind, required: true, default: "", summary }
}

const fn optional(name: &'static str, kind: Kind, default: &'static str, summary: &'static str) -> Parameter {
    Parameter { name, kind, required: false, default, summary }
}

/// Stands for a disk that inventory does not know yet, so that the guard counts its machine.
fn unknown_disk() -> DiskIdentity {
    DiskIdentity { path: "a disk".into(), serial: None, bytes: 0 }
}

const ANYWHERE: &[Place] = &[Place::BootEnvironment, Place::InstalledSystem];
const BOOT_ENVIRONMENT: &[Place] = &[Place::BootEnvironment];
const INSTALLED_SYSTEM: &[Place] = &[Place::InstalledSystem];
