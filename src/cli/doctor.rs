//! `remint doctor`

use super::context::Context;
use super::{Failure, output};
use crate::server::doctor::{self, Finding, State};

pub(super) fn run(context: &Context) -> Result<(), Failure> {
    let findings = doctor::examine(&context.site()?);
    if context.json() {
        output::json(&findings)?;
    } else {
        findings.iter().for_each(show);
    }
    match findings.iter().filter(|finding| finding.state == State::Bad).count() {
        0 => Ok(()),
        1 => Err(Failure::new("one finding keeps machines from booting")),
        many => Err(Failure::new(format!("{many} findings keep machines from booting"))),
    }
}

fn show(finding: &Finding) {
    let mark = match finding.state {
        State::Good => "good   ",
        State::Warning => "warning",
        State::Bad => "bad    ",
    };
    output::line(format!("{mark}  {:<10}  {}", finding.subject, finding.what));
    if let Some(way_out) = &finding.way_out {
        output::line(format!("                     -> {way_out}"));
    }
}
