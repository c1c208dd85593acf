//! Whether a step can do its work where it stands in the document.

use serde_json::{Map, Value};

use super::super::host::Place;
use super::super::steps::{Gives, Needs, Row};
use super::super::yaml::{At, Key};
use super::Parser;

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
        } else {
            None
        };
        match row.gives {
            Gives::Blank => (standing.system, standing.agent) = (false, false),
            Gives::Variable => self.learn(at, with),
            Gives::System => (standing.system, standing.agent) = (true, false),
            Gives::Agent => standing.agent = true,
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
                    (self.standing.system, self.standing.agent) =
                        (self.standing.system || installed, self.standing.agent || installed);
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
}
