//! `power-off`: the machine is switched off when the run is over.

use serde::Deserialize;

use super::{ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional};

pub(super) const ROW: Row = Row {
    name: "power-off",
    summary: "switches the machine off once the run is over",
    text: "The steps after it, `always` and the last report still come: it is when the appliance knows how the run has ended \
           that the machine goes off. `remint deploy start` wakes machines again over the network.",
    parameters: &[optional("reason", Kind::Text, "", "kept with the run, for people")],
    places: ANYWHERE,
    needs: Needs::Nothing,
    gives: Gives::Nothing,
    erases: false,
    example: "- power-off:\n    reason: ready for the shelf\n",
    load: load::<PowerOff>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PowerOff {
    #[serde(default)]
    reason: String,
}

impl Work for PowerOff {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        Ok(Planned::new("switch the machine off once the run is over"))
    }

    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        Ok(Check::Needed)
    }

    fn apply(&self, _: &mut On) -> Result<Done, StepError> {
        let mut done = Done { power_off: true, ..Done::default() };
        if !self.reason.is_empty() {
            done.evidence("reason", self.reason.as_str());
        }
        Ok(done)
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        done.evidence("asked_in", on.host.place().name());
        Ok(())
    }
}
