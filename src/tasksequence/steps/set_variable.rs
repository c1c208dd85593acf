//! `set-variable`: a value that later steps and conditions use.

use serde::Deserialize;
use serde_json::Value;

use super::{ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, required};

pub(super) const ROW: Row = Row {
    name: "set-variable",
    summary: "gives a variable a value",
    text: "The value may be a template over facts, other variables and what steps have registered. From here on the variable \
           has it, whatever it was before; after an interruption it still has.",
    parameters: &[
        required("variable", Kind::Text, "its name: a-z, 0-9 and `_`"),
        required("value", Kind::Anything, "its value"),
    ],
    places: ANYWHERE,
    needs: Needs::Nothing,
    gives: Gives::Variable,
    erases: false,
    example: "- set-variable:\n    variable: room\n    value: \"{{ machine.name | replace('ws-', '') }}\"\n",
    load: load::<SetVariable>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetVariable {
    variable: String,
    value: Value,
}

impl Work for SetVariable {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        let mut planned = Planned::new(format!("set {} to {}", self.variable, self.value));
        planned.sets.insert(self.variable.clone(), self.value.clone());
        Ok(planned)
    }

    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        Ok(Check::Needed)
    }

    fn apply(&self, _: &mut On) -> Result<Done, StepError> {
        let mut done = Done::default();
        done.sets.insert(self.variable.clone(), self.value.clone());
        Ok(done)
    }

    fn verify(&self, _: &mut On, _: &mut Done) -> Result<(), StepError> {
        Ok(())
    }
}
