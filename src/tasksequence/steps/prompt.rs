//! `prompt` and `wait-for-approval`: a person is asked, and the run waits.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::tasksequence::quantity::Seconds;

use super::{
    ANYWHERE, Check, Done, Gives, Kind, Needs, On, Planned, Row, StepError, View, Work, load, optional, required,
};

pub(super) const PROMPT: Row = Row {
    name: "prompt",
    summary: "asks a person for a value",
    text: "The question is in the console and in `remint deploy show RUN`; `remint deploy answer RUN VALUE` answers it. The run \
           waits, across restarts of the appliance, until it is answered or its time is over.",
    parameters: &[
        required("variable", Kind::Text, "the variable that takes the answer"),
        required("question", Kind::Text, "what the person reads"),
        optional("choices", Kind::Texts, "", "the only answers allowed"),
        optional("default", Kind::Text, "", "the answer when the time is over; without it the step fails then"),
        optional("within", Kind::Duration, "7d", "how long it waits"),
    ],
    places: ANYWHERE,
    needs: Needs::Nothing,
    gives: Gives::Variable,
    erases: false,
    example: "- prompt:\n    variable: room\n    question: In which room does this machine stand?\n    choices: [A1, A2]\n    default: A1\n    within: 10m\n",
    load: load::<Prompt>,
};

pub(super) const APPROVAL: Row = Row {
    name: "wait-for-approval",
    summary: "waits until a person lets the run go on",
    text: "`remint deploy answer RUN yes` lets it go on, `no` fails the step.",
    parameters: &[
        required("question", Kind::Text, "what the person reads"),
        optional("within", Kind::Duration, "7d", "how long it waits"),
    ],
    places: ANYWHERE,
    needs: Needs::Nothing,
    gives: Gives::Nothing,
    erases: false,
    example: "- wait-for-approval:\n    question: The data of this machine is lost from here on. Go on?\n",
    load: load::<Approval>,
};

/// How often the answer is looked for.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    variable: String,
    question: String,
    #[serde(default)]
    choices: Vec<String>,
    default: Option<String>,
    #[serde(default = "week")]
    within: Seconds,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approval {
    question: String,
    #[serde(default = "week")]
    within: Seconds,
}

fn week() -> Seconds {
    Seconds(7 * 86_400)
}

/// The answer, `None` when the time was over first. The time counts from the first start of the step, so that a restart
/// of the machine does not begin it anew.
fn ask(on: &mut On, question: &str, within: Seconds) -> Result<Option<Value>, StepError> {
    on.line(&format!("asking: {question}"));
    let begun = on.started_at.unwrap_or_else(|| on.host.now());
    let due = begun.plus_seconds(within.0.cast_signed());
    loop {
        let now = on.host.now();
        if let Some(answer) = on.watch.answer() {
            return Ok(Some(answer));
        }
        if let Some(why) = on.watch.must_stop(now) {
            return Err(StepError::new(why));
        }
        if now >= due {
            return Ok(None);
        }
        on.host.sleep(LOOK);
    }
}

impl Work for Prompt {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        let mut planned = Planned::new(format!("ask: {}", self.question));
        planned.opens = Some(self.variable.clone());
        Ok(planned)
    }

    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let asked = ask(on, &self.question, self.within)?.or_else(|| self.default.clone().map(Value::from));
        let Some(answer) = asked else {
            return Err(StepError::new(format!(
                "nobody answered `{}` within {} seconds",
                self.question, self.within.0
            ))
            .hint("`remint deploy answer RUN VALUE` answers it once the run is sent back to this step"));
        };
        let text = answer.as_str().map_or_else(|| answer.to_string(), str::to_owned);
        if !self.choices.is_empty() && !self.choices.contains(&text) {
            return Err(StepError::new(format!(
                "`{text}` is not among the answers allowed: {}",
                self.choices.join(", ")
            )));
        }
        let mut done = Done::default();
        done.evidence("answer", answer.clone());
        done.sets.insert(self.variable.clone(), answer);
        Ok(done)
    }

    fn verify(&self, _: &mut On, _: &mut Done) -> Result<(), StepError> {
        Ok(())
    }
}

impl Work for Approval {
    fn plan(&self, _: &View) -> Result<Planned, StepError> {
        Ok(Planned::new(format!("wait for approval: {}", self.question)))
    }

    fn check(&self, _: &mut On) -> Result<Check, StepError> {
        Ok(Check::Needed)
    }

    fn apply(&self, on: &mut On) -> Result<Done, StepError> {
        let answer = ask(on, &self.question, self.within)?;
        let yes = |answer: &Value| {
            *answer == Value::Bool(true) || answer.as_str().is_some_and(|text| matches!(text, "yes" | "y" | "go"))
        };
        match answer {
            Some(answer) if yes(&answer) => {
                let mut done = Done::default();
                done.evidence("answer", answer);
                Ok(done)
            }
            Some(_) => Err(StepError::new(format!("not approved: {}", self.question))),
            None => Err(StepError::new(format!("nobody approved within {} seconds: {}", self.within.0, self.question))),
        }
    }

    fn verify(&self, _: &mut On, _: &mut Done) -> Result<(), StepError> {
        Ok(())
    }
}
