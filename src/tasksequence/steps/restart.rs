//! `restart`: into the installed system or the boot environment, and on from there.

use serde::Deserialize;

use crate::tasksequence::host::Place;
use crate::tasksequence::journal::What;

use super::{ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional};

pub(super) const ROW: Row = Row {
    name: "restart",
    summary: "restarts the machine, and the run goes on there",
    text: "The appliance is told first what the machine is to boot. The step is over once the machine has come up where it was \
           sent; a machine that keeps coming up elsewhere fails it.",
    parameters: &[optional(
        "into",
        Kind::Choice(&["installed-system", "boot-environment"]),
        "installed-system",
        "what to start",
    )],
    places: ANYWHERE,
    needs: Needs::Nothing,
    gives: Gives::Place,
    erases: false,
    example: "- restart:\n    into: installed-system\n",
    load: load::<Restart>,
};

/// How often a machine may come up in the wrong place.
const TRIES_MAX: usize = 3;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restart {
    #[serde(default = "usual")]
    into: Place,
}

fn usual() -> Place {
    Place::InstalledSystem
}

impl Work for Restart {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        Ok(Planned::new(format!("restart into the {}", self.into.words())))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        let restarted = on.started_in.as_ref().is_some_and(|boot| *boot != on.host.boot());
        if restarted && on.host.place() == self.into {
            return Ok(Check::Holds);
        }
        if restarted && starts(on) > TRIES_MAX {
            let (wanted, came) = (self.into.words(), on.host.place().words());
            return Err(StepError::new(format!(
                "the machine was sent into the {wanted} {TRIES_MAX} times and came up in the {came}"
            ))
            .hint("look at its boot order, and whether the image boots with this firmware"));
        }
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        on.line(&format!("restarting into the {}", self.into.words()));
        Ok(Done { restart_now: Some(self.into), ..Done::default() })
    }

    fn verify(&self, on: &mut On, done: &mut Done) -> Result<(), StepError> {
        done.evidence("place", on.host.place().name());
        done.evidence("boot", on.host.boot());
        Ok(())
    }
}

/// How often this step has been started since anything else happened.
fn starts(on: &On) -> usize {
    on.journal.iter().rev().take_while(|entry| matches!(entry.what, What::Started { .. })).count()
}
