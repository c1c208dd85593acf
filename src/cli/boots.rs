//! `remint machine boots`: the flight recorder.

use serde_json::Value;

use super::context::Context;
use super::{Failure, output};
use crate::fleet::machine::Machine;
use crate::stdx::mac::MacAddr;
use crate::stdx::time::Timestamp;

pub(super) fn run(machine: Option<String>, context: &Context) -> Result<(), Failure> {
    let mut boots: Vec<Value> = context.api()?.get("/api/v1/boots")?;
    if let Some(machine) = machine {
        let macs = match machine.parse::<MacAddr>() {
            Ok(mac) => vec![mac],
            Err(_) => context.api()?.get::<Machine>(&format!("/api/v1/machines/{machine}"))?.identity.macs,
        };
        let macs: Vec<String> = macs.iter().map(MacAddr::to_string).collect();
        boots.retain(|boot| boot["mac"].as_str().is_some_and(|mac| macs.iter().any(|known| known == mac)));
    }
    if context.json() {
        return output::json(&boots);
    }
    if boots.is_empty() {
        output::line(
            "No boot was seen since the appliance started: nothing asked on the interface that it listens on.",
        );
    }
    for boot in &boots {
        show(boot);
    }
    Ok(())
}

fn show(boot: &Value) {
    let text = |field: &str| boot[field].as_str().unwrap_or("-");
    output::line(format!("{}  {} ({})  {}", text("mac"), text("firmware"), text("transport"), text("sentence")));
    for event in boot["events"].as_array().into_iter().flatten() {
        let at = Timestamp::from_milliseconds(event["at"].as_i64().unwrap_or(0));
        output::line(format!("    {}  {}", output::time(at), in_words(event)));
    }
}

fn in_words(event: &Value) -> String {
    let text = |field: &str| event[field].as_str().unwrap_or("-");
    match text("event") {
        "asked" => format!("{} asked, told: {} ({})", text("stage"), text("told"), text("because")),
        "noticed" => text("what").to_owned(),
        "tested" => {
            let parts = event["parts"].as_array().into_iter().flatten().filter_map(Value::as_str);
            format!("the hardware test: {}", parts.collect::<Vec<_>>().join("; "))
        }
        "checked-in" => "the boot environment has checked in".to_owned(),
        "refused" => format!("not answered: {}", text("why")),
        "address" => format!("took {} of {}", text("address"), text("server")),
        "script" => format!("script: {}", text("told")),
        _ => file(event),
    }
}

fn file(event: &Value) -> String {
    let number = |field: &str| event[field].as_u64().unwrap_or(0);
    let (name, way) = (event["name"].as_str().unwrap_or("-"), event["transport"].as_str().unwrap_or("-"));
    let became = match event["ended"].as_str().unwrap_or("-") {
        "complete" => {
            let rate = number("bytes") * 1000 / number("milliseconds").max(1);
            let (size, rate) = (output::size(number("bytes")), output::size(rate));
            format!("{size} at {rate}/s, {} packets repeated", number("repeats"))
        }
        "stopped" => format!("the firmware stopped: {}", event["message"].as_str().unwrap_or("-")),
        "silent" => format!("silent after {} of {} bytes", number("done"), number("bytes")),
        "unanswered" => "no answer of ours reached it".to_owned(),
        "missing" => "there is no such file".to_owned(),
        other => other.to_owned(),
    };
    format!("{name} by {way}: {became}")
}
