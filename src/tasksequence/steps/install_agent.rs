//! `install-agent`: the run goes on in the installed system, and the machine stays managed.

use serde::Deserialize;

use super::{BOOT_ENVIRONMENT, Check, Done, Gives, Needs, On, Planned, Row, StepError, View, Work, load};

pub(super) const ROW: Row = Row {
    name: "install-agent",
    summary: "puts Remint's agent, its service and the machine's identity into the system on the disk",
    text: "Needed before the machine restarts into the installed system, if the sequence is to go on there.",
    parameters: &[],
    places: BOOT_ENVIRONMENT,
    needs: Needs::System,
    gives: Gives::Agent,
    erases: false,
    example: "- install-agent:\n",
    load: load::<InstallAgent>,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InstallAgent {}

impl Work for InstallAgent {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        Ok(Planned::new("install the agent"))
    }

    fn check(&self, on: &mut On) -> Result<Check, StepError> {
        Ok(if on.host.agent_is_installed(on.order)? { Check::Holds } else { Check::Needed })
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        if on.target.and_then(|target| target.root()).is_some_and(|root| root.kind == "ntfs") {
            return Err(StepError::new("the agent runs on Linux, and the root of this system is NTFS")
                .hint("leave the step out: a machine with Windows restarts into it when the sequence ends"));
        }
        Ok(Done { evidence: on.host.install_agent(on.order)?, ..Done::default() })
    }

    fn verify(&self, on: &mut On, _: &mut Done) -> Result<(), StepError> {
        if on.host.agent_is_installed(on.order)? {
            return Ok(());
        }
        Err(StepError::new("the agent's files read back otherwise than they were written"))
    }
}
