//! `remint deploy ...`

use std::io::{self, BufRead, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::context::Context;
use super::sequence::{self, Variables};
use super::{Failure, output};
use crate::fleet::deployment::RunState;
use crate::stdx::time::{Clock, SystemClock, Timestamp};
use crate::tasksequence::db::RunRecord;
use crate::tasksequence::deployment::{DeploymentDetail, DeploymentRecord, Preview};
use crate::tasksequence::event::Line;
use crate::tasksequence::quantity::Seconds;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Start a sequence on machines
    Start(Box<Start>),
    /// List deployments
    List,
    /// Show a deployment (deployment-...) or a run (run-...)
    Show { id: String },
    /// Follow a deployment until it is over
    Watch {
        /// Which [default: the newest]
        id: Option<String>,
    },
    /// Print the log of a run
    Log { run: String },
    /// Cancel a deployment or a run
    Cancel { id: String },
    /// Start no further step of a run until it is continued
    Pause { run: String },
    /// Let a paused run go on
    Continue { run: String },
    /// Answer the question that a run's step asks; `yes` or `no` to one that waits for approval
    Answer { run: String, value: String },
    /// Send a run that is over back to a step: the one that failed, or the one given
    Retry {
        run: String,
        #[arg(long, value_name = "STEP")]
        from: Option<String>,
    },
    /// Let a deployment go on that stopped because too many runs failed
    Resume {
        id: String,
        /// Share of failures allowed in each ring from now on
        #[arg(long, value_name = "PERCENT", default_value_t = 100)]
        failures: u32,
    },
}

#[derive(Args)]
pub(super) struct Start {
    /// A published sequence (NAME or NAME@VERSION), or a file, which is published first
    sequence: String,
    /// Name of a machine; may be repeated
    #[arg(long)]
    machine: Vec<String>,
    #[arg(long)]
    collection: Option<String>,
    #[command(flatten)]
    variables: Variables,
    /// How many machines' disks are erased: the confirmation
    #[arg(long, value_name = "COUNT")]
    yes: Option<u32>,
    /// Machines under way at the same time
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    at_once: u32,
    /// Sizes of the first rings, for instance 5,50; all other machines come after them
    #[arg(long, value_delimiter = ',', value_name = "SIZES")]
    rings: Vec<u32>,
    /// Share of failed runs in a ring above which nothing more is begun
    #[arg(long, value_name = "PERCENT", default_value_t = 100)]
    failures: u32,
    /// Begin after this time, for instance 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    after: Option<Seconds>,
    /// Cancel what has not begun after this time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    deadline: Option<Seconds>,
    /// Wake the machines by Wake-on-LAN
    #[arg(long)]
    wake: bool,
    /// Stop before each step; `remint deploy continue RUN` lets the next one begin
    #[arg(long)]
    debug: bool,
    /// Follow it until it is over
    #[arg(long)]
    watch: bool,
}

fn duration(text: &str) -> Result<Seconds, String> {
    Seconds::parse(text).ok_or_else(|| format!("`{text}` is not a duration, such as {}", Seconds::EXAMPLES))
}

pub(super) fn run(command: Command, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Start(arguments) => start(*arguments, context),
        Command::List => list(context),
        Command::Show { id } => show(&id, context),
        Command::Watch { id: Some(id) } => watch(&id, context),
        Command::Watch { id: None } => watch(&newest(context)?, context),
        Command::Log { run } => log(&run, context),
        Command::Cancel { id } if id.starts_with("run-") => direct(&id, "cancel", context),
        Command::Cancel { id } => {
            let detail: DeploymentDetail = context.api()?.post(&deployment(&id, "/cancel"), &json!({}))?;
            show_deployment(&detail, context)
        }
        Command::Pause { run } => direct(&run, "pause", context),
        Command::Continue { run } => direct(&run, "go", context),
        Command::Answer { run, value } => {
            let record: RunRecord = context.api()?.post(&run_path(&run, "/answer"), &json!({ "value": value }))?;
            report(&record, context)
        }
        Command::Retry { run, from } => {
            let record: RunRecord = context.api()?.post(&run_path(&run, "/retry"), &json!({ "from": from }))?;
            report(&record, context)
        }
        Command::Resume { id, failures } => {
            let body = json!({ "failures_percent_max": failures });
            let record: DeploymentRecord = context.api()?.post(&deployment(&id, "/resume"), &body)?;
            report_deployment(&record, context)
        }
    }
}

fn start(arguments: Start, context: &Context) -> Result<(), Failure> {
    let name = match sequence::local(&arguments.sequence)? {
        Some((file, _)) => {
            let record = sequence::publish_file(&file, context)?;
            format!("{}@{}", record.name, record.version)
        }
        None => arguments.sequence.clone(),
    };
    let now = SystemClock.now();
    let later = |seconds: Seconds| now.plus_seconds(seconds.0.cast_signed());
    let mut body = json!({
        "sequence": name, "machines": arguments.machine, "collection": arguments.collection,
        "variables": arguments.variables.json(), "debug": arguments.debug,
        "rollout": {
            "start_at": arguments.after.map(later), "deadline": arguments.deadline.map(later),
            "at_once": arguments.at_once, "rings": arguments.rings,
            "failures_percent_max": arguments.failures, "wake": arguments.wake,
        },
    });
    body["confirm"] = match arguments.yes {
        Some(count) => json!(count),
        None => json!(confirmed(&body, context)?),
    };
    let record: DeploymentRecord = context.api()?.post("/api/v1/deployments", &body)?;
    if arguments.watch {
        return watch(&record.id, context);
    }
    report_deployment(&record, context)
}

/// Shows what will be erased and has the person type the count. `None` when nothing is erased.
fn confirmed(body: &Value, context: &Context) -> Result<Option<u32>, Failure> {
    let preview: Preview = context.api()?.post("/api/v1/deployments/preview", body)?;
    if let Some(first) = preview.refusals.first() {
        let all = preview.refusals.join("\n  ");
        let text = if preview.refusals.len() == 1 { first.clone() } else { format!("it cannot start:\n  {all}") };
        return Err(Failure::new(text).with_hint("nothing was started"));
    }
    if preview.erases == 0 {
        return Ok(None);
    }
    if !io::stdin().is_terminal() {
        let count = preview.erases;
        let erases =
            format!("{} erases the disks of {count} machine{}", preview.sequence, if count == 1 { "" } else { "s" });
        return Err(Failure::new(erases).with_hint(format!("confirm with `--yes {count}`")));
    }
    for plan in &preview.plans {
        sequence::show_plan(plan);
    }
    output::line(format!("This erases the disks of {} machines. Type their number to go on:", preview.erases));
    let _ = io::stdout().flush();
    let mut typed = String::new();
    io::stdin()
        .lock()
        .read_line(&mut typed)
        .map_err(|error| Failure::new(format!("read the confirmation: {error}")))?;
    match typed.trim().parse::<u32>() {
        Ok(count) if count == preview.erases => Ok(Some(count)),
        _ => Err(Failure::new("not confirmed").with_hint("nothing was started")),
    }
}

fn list(context: &Context) -> Result<(), Failure> {
    let records: Vec<DeploymentRecord> = context.api()?.get("/api/v1/deployments")?;
    if context.json() {
        return output::json(&records);
    }
    let row = |record: &DeploymentRecord| {
        let counts = &record.counts;
        vec![
            record.id.clone(),
            record.sequence.clone(),
            record.target.chars().take(40).collect(),
            counts.word(record.stopped.is_some()).to_owned(),
            format!("{}/{}", counts.succeeded, counts.total()),
            counts.failed.to_string(),
            output::time(record.created_at),
        ]
    };
    let headings = ["DEPLOYMENT", "SEQUENCE", "TARGET", "STATE", "DONE", "FAILED", "STARTED"];
    let nothing = "Nothing was deployed yet. `remint deploy start SEQUENCE --machine NAME` does it.";
    output::table(&headings, records.iter().map(row).collect(), nothing);
    Ok(())
}

fn show(id: &str, context: &Context) -> Result<(), Failure> {
    if id.starts_with("run-") {
        let run: Value = context.api()?.get(&run_path(id, ""))?;
        return if context.json() { output::json(&run) } else { show_run(&run) };
    }
    show_deployment(&context.api()?.get(&deployment(id, ""))?, context)
}

fn show_deployment(detail: &DeploymentDetail, context: &Context) -> Result<(), Failure> {
    if context.json() {
        return output::json(detail);
    }
    let record = &detail.deployment;
    output::line(format!("{}  {} on {}", record.id, record.sequence, record.target));
    if let Some(why) = &record.stopped {
        output::line(format!("STOPPED: {why}"));
    }
    let row = |run: &RunRecord| {
        vec![run.machine_name.clone(), run.id.0.clone(), run.state.name().to_owned(), whereabouts(run)]
    };
    output::table(&["MACHINE", "RUN", "STATE", "WHERE"], detail.runs.iter().map(row).collect(), "");
    Ok(())
}

fn show_run(run: &Value) -> Result<(), Failure> {
    let text = |name: &str| run[name].as_str().unwrap_or("-").to_owned();
    output::line(format!("{}  {} on {}: {}", text("id"), text("sequence"), text("machine_name"), text("state")));
    let begun = |item: &str| {
        let entries = run["journal"].as_array().into_iter().flatten();
        let mut started = None;
        let mut row = ("-".to_owned(), String::new());
        for entry in entries.filter(|entry| entry["item"] == item) {
            let at = entry["at"].as_i64().unwrap_or(0);
            match entry["what"].as_str() {
                Some("started") => {
                    started = started.or(Some(at));
                    row.0 = "running".into();
                }
                Some("skipped") => row = ("skipped".into(), entry["why"].as_str().unwrap_or_default().into()),
                Some("finished") => {
                    let seconds = (at - started.unwrap_or(at)) as f64 / 1000.0;
                    let error = entry["error"].as_str().map(|error| format!(": {error}")).unwrap_or_default();
                    row = (entry["result"].as_str().unwrap_or("-").into(), format!("{seconds:.1} s{error}"));
                }
                _ => {}
            }
        }
        row
    };
    let row = |step: &Value| {
        let id = step["id"].as_str().unwrap_or_default();
        let (result, detail) = begun(id);
        vec![id.to_owned(), step["name"].as_str().unwrap_or_default().to_owned(), result, detail]
    };
    let rows = run["steps"].as_array().into_iter().flatten().map(row).collect();
    output::table(&["STEP", "NAME", "RESULT", ""], rows, "");
    if let Some(hint) = run["hint"].as_str() {
        output::line(format!("hint: {hint}"));
    }
    Ok(())
}

/// Prints what changes, until no run of the deployment is left. A failed run fails the command.
fn newest(context: &Context) -> Result<String, Failure> {
    let records: Vec<DeploymentRecord> = context.api()?.get("/api/v1/deployments")?;
    let newest = records.into_iter().next().map(|record| record.id);
    newest.ok_or_else(|| {
        Failure::new("nothing was deployed yet").with_hint("`remint deploy start SEQUENCE --machine NAME` does it")
    })
}

fn watch(id: &str, context: &Context) -> Result<(), Failure> {
    const LOOK: Duration = Duration::from_secs(1);
    let mut seen: Vec<String> = Vec::new();
    loop {
        let detail: DeploymentDetail = context.api()?.get(&deployment(id, ""))?;
        for (index, run) in detail.runs.iter().enumerate() {
            let line = format!("{}: {} {}", run.machine_name, run.state.name(), whereabouts(run));
            if seen.get(index) != Some(&line) {
                seen.resize(detail.runs.len().max(seen.len()), String::new());
                seen[index].clone_from(&line);
                output::line(line.trim_end());
            }
        }
        let counts = detail.deployment.counts;
        let stopped = detail.deployment.stopped.as_ref().filter(|_| counts.waiting + counts.running == 0);
        if let Some(why) = stopped {
            return Err(Failure::new(format!("the deployment stopped: {why}"))
                .with_hint(format!("`remint deploy resume {id} --failures PERCENT` lets it go on")));
        }
        if counts.unfinished() == 0 {
            return over(&detail, context);
        }
        thread::sleep(LOOK);
    }
}

fn over(detail: &DeploymentDetail, context: &Context) -> Result<(), Failure> {
    if context.json() {
        output::json(detail)?;
    }
    let bad: Vec<&RunRecord> = detail.runs.iter().filter(|run| run.state != RunState::Succeeded).collect();
    let Some(first) = bad.first() else { return Ok(()) };
    let error = first.error.clone().unwrap_or_else(|| format!("it was {}", first.state.name()));
    let failure = Failure::new(format!(
        "{} of {} runs did not succeed: {}: {error}",
        bad.len(),
        detail.runs.len(),
        first.machine_name
    ));
    Err(match &first.hint {
        Some(hint) => failure.with_hint(hint.clone()),
        None => failure,
    })
}

fn log(run: &str, context: &Context) -> Result<(), Failure> {
    let mut from = 0;
    loop {
        let lines: Vec<Line> = context.api()?.get(&run_path(run, &format!("/log?from={from}")))?;
        if context.json() {
            return output::json(&lines);
        }
        if lines.is_empty() {
            return Ok(());
        }
        from += lines.len();
        for line in lines {
            output::line(format!("{} {:8} {}", clock(line.at), line.item, line.text));
        }
    }
}

fn direct(run: &str, directive: &str, context: &Context) -> Result<(), Failure> {
    let record: RunRecord = context.api()?.post(&run_path(run, "/directive"), &json!({ "directive": directive }))?;
    report(&record, context)
}

fn report(run: &RunRecord, context: &Context) -> Result<(), Failure> {
    if context.json() {
        return output::json(run);
    }
    output::line(format!("{} on {} is {} {}", run.id, run.machine_name, run.state.name(), whereabouts(run)).trim_end());
    Ok(())
}

fn report_deployment(record: &DeploymentRecord, context: &Context) -> Result<(), Failure> {
    if context.json() {
        return output::json(record);
    }
    let count = record.counts.total();
    output::line(format!(
        "{}: {} on {} ({count} machine{})",
        record.id,
        record.sequence,
        record.target,
        if count == 1 { "" } else { "s" }
    ));
    output::line(format!("`remint deploy watch {}` follows it", record.id));
    Ok(())
}

/// `3/7 apply-image 45 %`, or why it failed.
fn whereabouts(run: &RunRecord) -> String {
    if let (RunState::Failed | RunState::Cancelled, Some(error)) = (run.state, &run.error) {
        return format!("{}: {error}", run.step_name);
    }
    if run.state != RunState::Running {
        return String::new();
    }
    if let Some(question) = &run.question {
        return format!("asks: {question} (`remint deploy answer {} VALUE`)", run.id);
    }
    let share = run.progress.as_ref().filter(|progress| progress.total > 0);
    let share = share.map(|progress| format!(" {} %", progress.done * 100 / progress.total)).unwrap_or_default();
    format!("{}/{} {}{share}", run.steps_over, run.steps, run.step_name)
}

fn deployment(id: &str, rest: &str) -> String {
    format!("/api/v1/deployments/{}{rest}", sequence::escaped(id))
}

fn run_path(run: &str, rest: &str) -> String {
    format!("/api/v1/runs/{}{rest}", sequence::escaped(run))
}

/// The time of day.
fn clock(at: Timestamp) -> String {
    output::time(at).split(' ').nth(1).unwrap_or("-").to_owned()
}
