//! `install-baseline`: the packages that this machine's collections ask for.

use serde::Deserialize;

use super::{Check, Done, Gives, INSTALLED_SYSTEM, Needs, On, Planned, Row, StepError, View, Work, load};

pub(super) const ROW: Row = Row {
    name: "install-baseline",
    summary: "installs the packages of the machine's baseline",
    text: "Each package is detected first, installed when it is missing, and detected again: the evidence lists what was found.",
    parameters: &[],
    places: INSTALLED_SYSTEM,
    needs: Needs::System,
    gives: Gives::Nothing,
    erases: false,
    example: "- install-baseline:\n  retry: 2\n",
    load: load::<InstallBaseline>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallBaseline {}

impl Work for InstallBaseline {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        Ok(Planned::new("install the packages of the baseline"))
    }

    /// Detection is part of the installation.
    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        Ok(Done { evidence: on.host.install_baseline(on.watch)?, ..Done::default() })
    }

    fn verify(&self, _: &mut On, _: &mut Done) -> Result<(), StepError> {
        Ok(())
    }
}
