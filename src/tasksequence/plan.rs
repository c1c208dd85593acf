//! What a run would do to a machine, step by step, before anything is touched. Shown by `remint sequence plan`, and before a
//! deployment starts.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::condition::{self, Scope};
use super::engine::Engine;
use super::facts::Facts;
use super::host::Place;
use super::journal::DiskIdentity;
use super::link::{RunId, RunOrder};
use super::model::{Block, Given, Item, ItemId, Sequence, Step, Values, Work};
use super::run;
use super::steps::{self, Gives, Kind, View};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub machine: String,
    pub sequence: String,
    pub version: String,
    pub items: Vec<PlannedItem>,
    /// Disks of which everything is lost.
    pub erases: Vec<DiskIdentity>,
    /// Bytes of images that are written at most.
    pub bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedItem {
    pub id: ItemId,
    pub name: String,
    /// The step's kind; empty for a group.
    pub kind: String,
    pub place: Place,
    /// Whether it belongs to `on-failure` or `always` of some block.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub section: String,
    #[serde(flatten)]
    pub fate: Fate,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fate", rename_all = "kebab-case")]
pub enum Fate {
    /// It runs, and this is what it does.
    Runs {
        what: String,
    },
    Skipped {
        why: String,
    },
    /// It hangs on what steps before it find out.
    Open {
        why: String,
    },
    /// It would fail.
    Fails {
        error: String,
        hint: Option<String>,
    },
}

impl Plan {
    /// Steps that would fail as things stand.
    pub fn failures(&self) -> impl Iterator<Item = (&PlannedItem, &str)> {
        self.items.iter().filter_map(|item| match &item.fate {
            Fate::Fails { error, .. } => Some((item, error.as_str())),
            _ => None,
        })
    }
}

/// The plan of a run that has not begun.
pub fn plan(order: &RunOrder) -> Plan {
    let mut planner = Planner {
        order,
        sets: Vec::new(),
        scope: run::scope(order, std::iter::empty(), None).map_err(|error| error.to_string()),
        place: Place::BootEnvironment,
        open: Vec::new(),
        plan: Plan {
            machine: order.machine.name.clone(),
            sequence: order.sequence.name.clone(),
            version: order.version.clone(),
            ..Plan::default()
        },
    };
    planner.block(&order.sequence.body, "");
    planner.plan
}

/// What is known around an included document.
struct Around {
    scope: Result<Scope, String>,
    sets: usize,
    /// Where its own variables that are known later stand among the open ones, and how many they are.
    open: usize,
    late: usize,
}

struct Planner<'a> {
    order: &'a RunOrder,
    /// What steps have set, in their order.
    sets: Vec<(String, Value)>,
    scope: Result<Scope, String>,
    place: Place,
    /// Variables that steps will set.
    open: Vec<String>,
    plan: Plan,
}

impl Planner<'_> {
    fn block(&mut self, block: &Block, section: &str) {
        for (inner, items) in block.sections() {
            let before = self.place;
            for item in items {
                self.item(item, if inner.is_empty() { section } else { inner });
            }
            if inner == "on-failure" {
                self.place = before;
            }
        }
    }

    fn item(&mut self, item: &Item, section: &str) {
        let fate = match item.when.as_deref().map(|when| self.condition(when)) {
            Some(Err(fate)) => Some(fate),
            _ => None,
        };
        let runs = !matches!(fate, Some(Fate::Skipped { .. } | Fate::Fails { .. }));
        match &item.work {
            Work::Group(block) => {
                self.push(item, "", section, fate.unwrap_or_else(|| Fate::Runs { what: String::new() }));
                if runs {
                    let around = self.enter(block);
                    self.block(block, section);
                    self.leave(around);
                }
            }
            Work::Step(step) => {
                let planned = if runs { self.step(step) } else { Fate::Runs { what: String::new() } };
                self.push(item, &step.kind, section, fate.unwrap_or(planned));
                if runs {
                    self.after(step);
                }
            }
        }
    }

    /// The variables of an included document come in front; what was around is given back.
    fn enter(&mut self, block: &Block) -> Option<Around> {
        if block.given.is_empty() {
            return None;
        }
        let (late, known): (Vec<Given>, Vec<Given>) =
            block.given.iter().cloned().partition(|given| self.is_late(&given.value));
        let (sets, open) = (self.sets.len(), self.open.len());
        let around = Around { scope: self.scope.clone(), sets, open, late: late.len() };
        let block = Block { given: known, ..Block::default() };
        if let Ok(scope) = &mut self.scope
            && let Err(error) = run::give(scope, &block)
        {
            self.scope = Err(error.to_string());
        }
        self.open.extend(late.into_iter().map(|given| given.name));
        Some(around)
    }

    fn is_late(&self, value: &Value) -> bool {
        self.later(&condition::names_in_all(value)).is_some()
    }

    fn leave(&mut self, around: Option<Around>) {
        let Some(around) = around else { return };
        self.scope = around.scope;
        // Its own variables end here; what its steps register is known behind it too.
        let own = around.open..around.open + around.late;
        self.open.drain(own);
        if let Ok(scope) = &mut self.scope {
            scope.vars.extend(self.sets[around.sets..].iter().cloned());
        }
    }

    fn push(&mut self, item: &Item, kind: &str, section: &str, fate: Fate) {
        let (kind, section) = (kind.to_owned(), section.to_owned());
        let planned =
            PlannedItem { id: item.id.clone(), name: item.name.clone(), kind, place: self.place, section, fate };
        self.plan.items.push(planned);
    }

    /// `Err`: what becomes of the item instead of running for certain.
    fn condition(&self, when: &str) -> Result<(), Fate> {
        let scope = self.scope.as_ref().map_err(|error| Fate::Fails { error: error.clone(), hint: None })?;
        if let Some(name) = condition::names_in_expression(when).ok().and_then(|names| self.later(&names)) {
            return Err(Fate::Open { why: format!("`{when}` is decided once `{name}` is known") });
        }
        match condition::holds(when, scope) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Fate::Skipped { why: format!("`{when}` is false") }),
            Err(error) => Err(Fate::Fails { error: error.to_string(), hint: None }),
        }
    }

    /// The first of `names` that only the run itself will know.
    fn later(&self, names: &[String]) -> Option<String> {
        let later = |name: &&String| {
            let variable = name.strip_prefix("vars.").and_then(|rest| rest.split('.').next());
            variable.is_some_and(|variable| self.open.iter().any(|open| open == variable))
                || matches!(name.as_str(), "run.error" | "run.failed_step")
        };
        names.iter().find(later).cloned()
    }

    fn step(&mut self, step: &Step) -> Fate {
        match self.work(step) {
            Ok(fate) => fate,
            Err(error) => Fate::Fails { error: error.message, hint: error.hint },
        }
    }

    fn work(&mut self, step: &Step) -> Result<Fate, steps::StepError> {
        let row = steps::row(&step.kind).ok_or_else(|| steps::StepError::unknown_kind(&step.kind))?;
        let scope = self.scope.as_ref().map_err(|error| steps::StepError::new(error.clone()))?;
        if let Some(name) = self.later(&condition::names_in_all(&Value::Object(step.with.clone()))) {
            return Ok(Fate::Open { why: format!("its parameters are known once `{name}` is") });
        }
        let with = row.render(&step.with, scope)?;
        let view = View { facts: &self.order.machine, images: &self.order.images, place: self.place };
        let planned = row.load(with)?.plan(&view)?;
        if let Some(disk) = planned.erases.filter(|disk| !self.plan.erases.contains(disk)) {
            self.plan.erases.push(disk);
        }
        self.plan.bytes += planned.bytes;
        self.open.extend(planned.opens);
        self.sets.extend(planned.sets.clone());
        if let Ok(scope) = &mut self.scope {
            scope.vars.extend(planned.sets);
        }
        Ok(Fate::Runs { what: run::Hidden::of(self.order).text(&planned.what) })
    }

    fn after(&mut self, step: &Step) {
        self.open.extend(step.register.clone());
        if steps::row(&step.kind).is_some_and(|row| row.gives == Gives::Place) {
            self.place = into_of(step);
        }
    }
}

/// Where the machine is when the item's turn comes, conditions aside.
pub fn place_of(sequence: &Sequence, item: &ItemId) -> Place {
    let mut place = Place::BootEnvironment;
    for known in sequence.items() {
        if known.id == *item {
            break;
        }
        if let Work::Step(step) = &known.work
            && steps::row(&step.kind).is_some_and(|row| row.gives == Gives::Place)
        {
            place = into_of(step);
        }
    }
    place
}

fn into_of(step: &Step) -> Place {
    match step.with.get("into").and_then(Value::as_str) {
        Some(into) if into == Place::BootEnvironment.name() => Place::BootEnvironment,
        _ => Place::InstalledSystem,
    }
}

/// References of all images that steps name, with what is known before the run.
pub fn images(sequence: &Sequence, facts: &Facts, variables: &Values) -> Vec<String> {
    let order = RunOrder {
        run: RunId(String::new()),
        sequence: sequence.clone(),
        version: String::new(),
        variables: variables.clone(),
        images: Vec::new(),
        machine: facts.clone(),
        debug: false,
        journal: Vec::new(),
    };
    let engine = Engine::resume(sequence, "", &[]);
    let mut references = Vec::new();
    for (item, step) in sequence.steps() {
        let Ok(scope) = run::scope_at(&order, &engine, &item.id) else { continue };
        let names = steps::row(&step.kind).into_iter().flat_map(|row| row.parameters);
        for parameter in names.filter(|parameter| parameter.kind == Kind::Image) {
            let text = step.with.get(parameter.name).and_then(Value::as_str);
            let rendered = text.and_then(|text| condition::render(text, &scope).ok());
            if let Some(Value::String(reference)) = rendered.filter(|value| !references.contains(value)) {
                references.push(Value::String(reference));
            }
        }
    }
    references.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Names of the images that steps of a run may capture, with what it knows by now.
pub fn captures(order: &RunOrder) -> Vec<String> {
    let engine = Engine::resume(&order.sequence, "", &order.journal);
    let captures = order.sequence.steps().filter(|(_, step)| step.kind == "capture-image");
    let names = captures.filter_map(|(item, step)| {
        let scope = run::scope_at(order, &engine, &item.id).ok()?;
        condition::render(step.with.get("image")?.as_str()?, &scope).ok()
    });
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}
