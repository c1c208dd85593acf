//! Every example of the guide, with the appliance away at every message.

use super::*;
use crate::tasksequence::journal::{StepResult, What};
use crate::tasksequence::model::Values;
use crate::tasksequence::tests::{EXAMPLES, answered, attended, beside};

/// How each item of the run ended, in the order of its journal.
fn course(entries: &[Entry]) -> Vec<String> {
    let ended = |entry: &Entry| match &entry.what {
        What::Finished(finished) if finished.result == StepResult::Failed => Some(format!("{} failed", entry.item)),
        What::Finished(_) => Some(format!("{} done", entry.item)),
        What::Skipped { .. } => Some(format!("{} skipped", entry.item)),
        _ => None,
    };
    entries.iter().filter_map(ended).collect()
}

struct Outcome {
    world: World,
    course: Vec<String>,
    lines: usize,
    messages: u32,
}

/// Deploys the example to a machine of its own and carries it out.
fn carry_out(
    sequences: &Sequences,
    example: &str,
    machine: &MachineId,
    name: &str,
    lost: Option<(u32, Lost)>,
) -> Outcome {
    let mut world = answered(example, attended(None, false));
    let reference =
        sequences.sequences().unwrap().into_iter().find(|record| record.name == example_name(example)).unwrap();
    let (_, sequence) = sequences.sequence(&reference.name).unwrap();
    let declared = |name: &String| sequence.variables.iter().any(|variable| variable.name == *name);
    let variables: Values = world.variables.clone().into_iter().filter(|(name, _)| declared(name)).collect();
    let request = Request {
        sequence: reference.name,
        machines: vec![name.to_owned()],
        variables,
        confirm: Some(1),
        ..Request::default()
    };
    sequences.start(&request, &by()).unwrap();
    let (result, messages) = live(sequences, machine, &mut world, lost);
    assert_eq!(result, RunResult::Succeeded, "{example} {}", lost.map_or(0, |(number, _)| number));
    let run = sequences.runs(Some(name), None).unwrap().remove(0);
    assert_eq!(run.state, RunState::Succeeded);
    let course = course(&sequences.entries(run.id.as_str()).unwrap());
    let lines = sequences.lines(run.id.as_str(), 0, 1000).unwrap().len();
    without_names_of_the_run(&mut world, run.id.as_str(), name);
    Outcome { world, course, lines, messages }
}

/// Each run has an identifier of its own, from which those of its file systems are made, and a machine with a name of its own;
/// files and commands hold them.
fn without_names_of_the_run(world: &mut World, run: &str, machine: &str) {
    let mut names = vec![(run.to_owned(), "RUN".to_owned()), (machine.to_owned(), "MACHINE".to_owned())];
    for partition in world.disk.layout.iter_mut().flat_map(|layout| &mut layout.partitions) {
        let name = format!("UUID of {}", partition.number);
        let own = std::mem::replace(&mut partition.content.uuid, name.clone());
        names.extend((!own.is_empty()).then_some((own, name)));
    }
    let without = |text: String| names.iter().fold(text, |text, (from, to)| text.replace(from, to));
    for (bytes, _) in world.disk.files.values_mut() {
        *bytes = without(String::from_utf8_lossy(bytes).into_owned()).into_bytes();
    }
    let commands = std::mem::take(&mut world.commands);
    world.commands = commands.into_iter().map(|(command, count)| (without(command), count)).collect();
}

/// The name within the document, which is what a sequence is published by.
fn example_name(example: &str) -> String {
    let (_, text) = EXAMPLES.iter().find(|(name, _)| *name == example).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("name: ")).unwrap();
    line.to_owned()
}

#[test]
fn the_appliance_away_at_any_message_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let sequences = site(folder.path());
    let ids = machines(&sequences, 1000);
    let mut next = 0..1000;
    for (example, text) in EXAMPLES {
        sequences.publish(text, &beside(), &by()).unwrap();
        let mut deploy = |lost| {
            let index = next.next().unwrap();
            carry_out(&sequences, example, &ids[index], &format!("m-{index}"), lost)
        };
        let undisturbed = deploy(None);
        assert!(undisturbed.messages > 10, "{example}: {} messages", undisturbed.messages);
        for number in 1..=undisturbed.messages {
            // The message is lost on its way there, or its reply on the way back.
            let lost = if number % 2 == 0 { Lost::Request } else { Lost::Reply };
            let disturbed = deploy(Some((number, lost)));
            assert_eq!(disturbed.world.disk, undisturbed.world.disk, "{example}, message {number}");
            assert_eq!(disturbed.course, undisturbed.course, "{example}, message {number}");
            assert_eq!(disturbed.lines, undisturbed.lines, "{example}, message {number}: each line once");
            assert_eq!(disturbed.world.commands.len(), undisturbed.world.commands.len(), "{example}, message {number}");
            let twice =
                disturbed.world.commands.iter().filter(|(name, count)| undisturbed.world.commands[*name] != **count);
            assert_eq!(twice.count(), 0, "{example}, message {number}: a command ran twice");
        }
    }
}
