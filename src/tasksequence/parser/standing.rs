//! Whether a step can do its work where it stands in the document.

use serde_json::{Map, Value};

use super::super::host::Place;
use super::super::spelling::instead;
use super::super::steps::{Gives, Needs, Row};
use super::super::yaml::{At, Key};
use super::{Parser, Standing};

impl Parser {
    /// Whether the step can do its work where it stands, and what holds after it.
    pub(super) fn stands(&mut self, row: &Row, at: At, with: &Map<String, Value>, conditional: bool) {
        let standing = &mut self.standing;
        let fault = if !row.places.contains(&standing.place) {
            let (place, wanted) = (standing.place.words(), row.places[0]);
            Some((
                format!("`{}` cannot run here, in the {place}", row.name),
                format!("it runs in the {}: put `- restart: {{ into: {} }}` before it", wanted.words(), wanted.name()),
            ))
        } else if row.needs == Needs::System && !standing.system {
            Some((
                format!("`{}` needs a system on the disk, and nothing has put one there yet", row.name),
                "put `- apply-image:` before it".to_owned(),
            ))
        } else if row.needs == Needs::Root && !standing.root {
            Some((
                format!("`{}` needs a system on the disk, and nothing has put one there yet", row.name),
                "put `- apply-image:` before it, or `- format:` with a file system at `/`".to_owned(),
            ))
        } else {
            None
        };
        match row.gives {
            Gives::Blank => *standing = Standing { place: standing.place, ..Standing::default() },
            Gives::Partitions => {
                *standing = Standing { place: standing.place, ..Standing::default() };
                self.partitions = Some(names_of(with));
            }
            Gives::FileSystems => {
                self.partitions_exist(at, with);
                if has_root(with) {
                    self.standing = Standing { place: self.standing.place, root: true, ..Standing::default() };
                }
            }
            Gives::Variable => self.learn(at, with),
            Gives::System => (standing.root, standing.system, standing.agent) = (true, true, false),
            Gives::Agent => standing.agent = true,
            Gives::Captured => standing.agent = with.get("prepare") == Some(&Value::Bool(false)) && standing.agent,
            Gives::Place => {
                let into = with.get("into").and_then(Value::as_str).unwrap_or(Place::InstalledSystem.name());
                let installed = into == Place::InstalledSystem.name();
                if installed && !(standing.system && standing.agent) && fault.is_none() {
                    self.add(
                        at,
                        "the run cannot go on in the installed system: its agent is not there",
                        "put `- install-agent:` before it",
                    );
                }
                if !conditional {
                    self.standing.place = if installed { Place::InstalledSystem } else { Place::BootEnvironment };
                    for known in [&mut self.standing.root, &mut self.standing.system, &mut self.standing.agent] {
                        *known |= installed;
                    }
                }
            }
            Gives::Nothing => {}
        }
        if let Some((message, hint)) = fault {
            self.add(at, message, hint);
        }
    }

    /// A step gives a variable its value: from here on there is one.
    fn learn(&mut self, at: At, with: &Map<String, Value>) {
        if let Some(name) = with.get("variable").and_then(Value::as_str) {
            self.name_of_variable(&Key { at, text: name.to_owned() });
            self.variables.insert(name.to_owned());
        }
    }

    /// `format` names partitions that `partition-disk` has made.
    fn partitions_exist(&mut self, at: At, with: &Map<String, Value>) {
        let Some(known) = self.partitions.clone() else { return };
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        for entry in with.get("file-systems").and_then(Value::as_array).into_iter().flatten() {
            let Some(name) = entry["partition"].as_str().filter(|name| !name.contains("{{")) else { continue };
            let is_number = name.parse::<usize>().is_ok_and(|number| (1..=known.len()).contains(&number));
            if !is_number && !known.contains(&name) {
                self.add(at, format!("no partition has the name `{name}`"), instead(name, &known));
            }
        }
    }
}

fn names_of(with: &Map<String, Value>) -> Vec<String> {
    let partitions = with.get("partitions").and_then(Value::as_array).into_iter().flatten();
    partitions.filter_map(|partition| partition["name"].as_str()).map(str::to_owned).collect()
}

fn has_root(with: &Map<String, Value>) -> bool {
    let mut file_systems = with.get("file-systems").and_then(Value::as_array).into_iter().flatten();
    file_systems.any(|file_system| file_system["at"].as_str() == Some("/"))
}
