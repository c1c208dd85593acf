//! A site with machines in memory: deployments from the confirmation to the last report.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Counts, Request};
use crate::access::vault::Vault;
use crate::access::{self, Principal, Role, audit};
use crate::api::Live;
use crate::db::Db;
use crate::fleet::db::Fleet;
use crate::fleet::deployment::{Rollout, RunState};
use crate::fleet::machine::{MachineId, MachineState, NextBoot};
use crate::stdx::time::{ManualClock, Timestamp};
use crate::tasksequence::db::{Error, Lookup, Sequences};
use crate::tasksequence::event::{Directive, Line, Reporter, StepProgress};
use crate::tasksequence::facts::Facts;
use crate::tasksequence::host::Place;
use crate::tasksequence::journal::{Entry, JournalError, JournalStore, RunResult};
use crate::tasksequence::link::{AskSecrets, PostEvents, RunOrder};
use crate::tasksequence::model::{Item, ItemId};
use crate::tasksequence::parser::Files;
use crate::tasksequence::plan::Fate;
use crate::tasksequence::run::Outcome;
use crate::tasksequence::scripted::{self, World};
use crate::tasksequence::variable::Scope;

mod outage;

const DOCUMENT: &str = "
name: Lab
variables:
  hostname: { type: text }
steps:
  - apply-image: { image: debian-lab }
  - set-hostname: { hostname: \"{{ vars.hostname }}\" }
  - install-agent:
  - restart:
  - install-baseline:
";

fn by() -> Principal {
    Principal::Person { name: "ann".into(), role: Role::Administrator, limits: Default::default() }
}

fn site(folder: &Path) -> Sequences {
    let migrations = [access::db::MIGRATIONS, crate::fleet::db::MIGRATIONS, crate::tasksequence::db::MIGRATIONS];
    let db = Db::open(&folder.join("remint.sqlite"), &migrations, Timestamp::default()).unwrap();
    let clock = Arc::new(ManualClock::at(Timestamp::from_milliseconds(1_790_000_000_000)));
    let fleet = Fleet::open(Arc::new(db), clock, Live::default(), Vec::new(), Default::default()).unwrap();
    let grants = scripted::order(&crate::tasksequence::parser::parse(DOCUMENT).unwrap()).images;
    let image = move |reference: &str| Ok(grants.iter().find(|grant| grant.reference == reference).cloned());
    let lookup = Lookup {
        image: Box::new(image),
        images: Box::new(|| vec!["debian-lab".into()]),
        facts: Box::new(|machine| Facts { id: machine.id.0.clone(), name: machine.name.clone(), ..scripted::facts() }),
        wake: Box::new(|_| ()),
    };
    let vault = Arc::new(Vault::open(&folder.join("vault.key")).unwrap());
    Sequences { fleet: Arc::new(fleet), lookup, vault }
}

fn publish(sequences: &Sequences, document: &str) {
    sequences.publish(document, &Files::new(), &by()).unwrap();
}

/// Approved machines `m-0`, `m-1`, ...
fn machines(sequences: &Sequences, count: usize) -> Vec<MachineId> {
    let ids: Vec<MachineId> = (0..count).map(|index| MachineId(format!("machine-{index:04}"))).collect();
    let added: Result<(), Error> = sequences.fleet.db.write(|tx| {
        for (index, id) in ids.iter().enumerate() {
            tx.execute(
                "INSERT INTO machine (id, name, state, next_boot, identity, stage, created_at, seen_at)
                 VALUES (?1, ?2, 'approved', 'local-disk', '{}', 'boot-environment', 0, 0)",
                (id.as_str(), format!("m-{index}")),
            )?;
        }
        Ok(())
    });
    added.unwrap();
    ids
}

fn request(machines: &[&str], confirm: Option<u32>) -> Request {
    Request {
        sequence: "Lab".into(),
        machines: machines.iter().map(|name| (*name).to_owned()).collect(),
        variables: [("hostname".to_owned(), json!("ws-1"))].into(),
        confirm,
        ..Request::default()
    }
}

/// A machine's end of the conversation, over a line on which one message is lost.
struct Linked<'a> {
    sequences: &'a Sequences,
    machine: &'a MachineId,
    order: &'a RunOrder,
    boot: String,
    entries: Vec<Entry>,
    lines: Vec<Line>,
    line_count: u64,
    messages: &'a mut u32,
    /// The message that is lost, on its way there or its reply on the way back.
    lost: Option<(u32, Lost)>,
    directive: Directive,
    answers: BTreeMap<ItemId, Value>,
    /// What a person answers to whatever is asked.
    person: Option<Value>,
}

#[derive(Clone, Copy, PartialEq)]
enum Lost {
    Request,
    Reply,
}

impl Linked<'_> {
    /// As the agent does before it restarts or ends: what is left is sent until it has arrived.
    fn finish(&mut self, restart: Option<Place>) {
        while self.post(restart).is_none() {}
    }

    fn post(&mut self, restart: Option<Place>) -> Option<u64> {
        *self.messages += 1;
        let lost = self.lost.filter(|(number, _)| number == self.messages).map(|(_, lost)| lost);
        let from = self.entries.len().saturating_sub(3);
        let message = PostEvents {
            run: self.order.run.clone(),
            journal_from: from as u64,
            journal: self.entries[from..].to_vec(),
            boot: self.boot.clone(),
            lines_from: self.line_count,
            lines: self.lines.clone(),
            progress: None,
            restart,
            sent_at: Timestamp::default(),
        };
        if lost == Some(Lost::Request) {
            return None;
        }
        let reply = self.sequences.post(self.machine, &message).unwrap();
        if lost == Some(Lost::Reply) {
            return None;
        }
        self.line_count = reply.lines;
        self.lines.clear();
        self.directive = reply.directive;
        self.answers = reply.answers;
        Some(reply.journal)
    }
}

/// Both faces of the conversation share one `Linked`.
struct Face<'a, 'b>(&'a std::cell::RefCell<Linked<'b>>);

impl JournalStore for Face<'_, '_> {
    fn append(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let mut linked = self.0.borrow_mut();
        linked.entries.push(entry.clone());
        for _ in 0..3 {
            if linked.post(None).is_some_and(|kept| kept == linked.entries.len() as u64) {
                return Ok(());
            }
        }
        Err(JournalError::Appliance("no answer".into()))
    }
}

impl Reporter for Face<'_, '_> {
    fn entry(&mut self, _: &Entry, _: Option<&Item>) {}

    fn line(&mut self, line: Line) {
        self.0.borrow_mut().lines.push(line);
    }

    fn progress(&mut self, _: StepProgress) {}

    fn directive(&mut self) -> Directive {
        self.0.borrow().directive
    }

    fn answer(&mut self, item: &ItemId) -> Option<Value> {
        let mut linked = self.0.borrow_mut();
        if let Some(value) = linked.person.clone().filter(|_| !linked.answers.contains_key(item)) {
            linked.sequences.answer(linked.order.run.as_str(), &value, &by()).unwrap();
            linked.post(None);
        }
        linked.answers.get(item).cloned()
    }
}

/// Boots the machine until its run is over, losing one message.
fn live(sequences: &Sequences, machine: &MachineId, world: &mut World, lost: Option<(u32, Lost)>) -> (RunResult, u32) {
    let mut messages = 0;
    for boot in 0..10 {
        let place = world.place.unwrap_or(Place::BootEnvironment);
        let reply = sequences.fetch(machine, place).unwrap();
        let order = *reply.order.expect("a run is due");
        let linked = std::cell::RefCell::new(Linked {
            sequences,
            machine,
            boot: format!("boot-{boot}"),
            entries: order.journal.clone(),
            order: &order,
            lines: Vec::new(),
            line_count: 0,
            messages: &mut messages,
            lost,
            directive: Directive::Go,
            answers: BTreeMap::new(),
            person: world.answer.as_ref().map(|(_, answer)| answer.clone()),
        });
        let outcome = scripted::boot(world, &order, &mut Face(&linked), &mut Face(&linked));
        match outcome {
            Outcome::Restart(place) => linked.borrow_mut().finish(Some(place)),
            Outcome::Finished(result, _) => {
                linked.borrow_mut().finish(None);
                return (result, messages);
            }
            Outcome::Lost(error) => panic!("{error}"),
        }
    }
    panic!("the run does not come to an end");
}

#[test]
fn a_deployment_that_erases_begins_only_when_the_count_was_said() {
    let folder = tempfile::tempdir().unwrap();
    let sequences = site(folder.path());
    publish(&sequences, DOCUMENT);
    let ids = machines(&sequences, 3);
    for (machines, confirm, expect) in [
        (vec!["m-0", "m-1"], None, "this erases the disks of 2 machines"),
        (vec!["m-0", "m-1"], Some(3), "this erases the disks of 2 machines, not of 3"),
        (vec!["m-0", "nobody"], Some(1), "there is no machine `nobody`"),
        (vec![], Some(0), "no machine is named"),
    ] {
        let refused = sequences.start(&request(&machines, confirm), &by()).unwrap_err();
        assert_eq!(refused.to_string(), expect);
    }
    let wrong = Request { variables: Default::default(), ..request(&["m-0"], Some(1)) };
    let refused = sequences.start(&wrong, &by()).unwrap_err().to_string();
    assert!(refused.starts_with("the variable `hostname` has no value"), "{refused}");
    sequences.fleet.protect("m-1", true, &by()).unwrap();
    let refused = sequences.start(&request(&["m-0", "m-1"], Some(2)), &by()).unwrap_err().to_string();
    assert!(refused.starts_with("m-1 is protected"), "{refused}");
    assert_eq!(sequences.deployments().unwrap().len(), 0, "nothing was started");

    sequences.start(&request(&["m-0"], Some(1)), &by()).unwrap();
    let machine = sequences.fleet.machine(ids[0].as_str()).unwrap();
    assert_eq!(machine.next_boot, NextBoot::BootEnvironment);
    let refused = sequences.start(&request(&["m-0"], Some(1)), &by()).unwrap_err().to_string();
    assert!(refused.starts_with("m-0 has the run run-"), "{refused}");
}

#[test]
fn a_run_is_followed_from_the_order_to_a_managed_machine() {
    let folder = tempfile::tempdir().unwrap();
    let sequences = site(folder.path());
    publish(&sequences, DOCUMENT);
    let ids = machines(&sequences, 1);
    let deployment = sequences.start(&request(&["m-0"], Some(1)), &by()).unwrap();
    let elsewhere = sequences.fetch(&ids[0], Place::InstalledSystem).unwrap();
    assert_eq!(elsewhere.restart, Some(Place::BootEnvironment), "a managed machine is sent into the boot environment");

    let mut world = World::default();
    let (result, _) = live(&sequences, &ids[0], &mut world, None);
    assert_eq!(result, RunResult::Succeeded);
    assert_eq!(world.disk.files["/etc/hostname"].0, b"ws-1\n");
    let detail = sequences.deployment(&deployment.id).unwrap();
    assert_eq!(detail.deployment.counts, Counts { succeeded: 1, ..Counts::default() });
    let run = &detail.runs[0];
    assert_eq!((run.state, run.steps_over, run.steps), (RunState::Succeeded, 5, 5));
    let machine = sequences.fleet.machine("m-0").unwrap();
    assert_eq!((machine.state, machine.next_boot), (MachineState::Managed, NextBoot::LocalDisk));
    let lines = sequences.lines(run.id.as_str(), 0, 100).unwrap();
    assert!(lines.iter().any(|line| line.text.starts_with("writing debian-lab")), "{lines:?}");
}

#[test]
fn a_run_is_cancelled_before_it_begins_and_a_failed_one_is_sent_back() {
    let folder = tempfile::tempdir().unwrap();
    let sequences = site(folder.path());
    publish(&sequences, DOCUMENT);
    let ids = machines(&sequences, 1);
    let deployment = sequences.start(&request(&["m-0"], Some(1)), &by()).unwrap();
    let run = sequences.deployment(&deployment.id).unwrap().runs.remove(0);
    let cancelled = sequences.direct(run.id.as_str(), Directive::Cancel, &by()).unwrap();
    assert_eq!(cancelled.state, RunState::Cancelled);
    assert!(sequences.fetch(&ids[0], Place::BootEnvironment).unwrap().order.is_none());
    assert!(sequences.direct(run.id.as_str(), Directive::Pause, &by()).is_err());

    let bad = DOCUMENT.replace("- install-agent:", "- run-command: { command: [flaky] }\n  - install-agent:");
    publish(&sequences, &bad.replace("name: Lab", "name: Flaky"));
    let flaky = Request { sequence: "Flaky".into(), ..request(&["m-0"], Some(1)) };
    let deployment = sequences.start(&flaky, &by()).unwrap();
    let mut world = World::default();
    world.exits.insert("flaky".into(), vec![3]);
    assert_eq!(live(&sequences, &ids[0], &mut world, None).0, RunResult::Failed);
    let run = sequences.deployment(&deployment.id).unwrap().runs.remove(0);
    assert_eq!(run.error.as_deref(), Some("`flaky` ended with status 3: out"));
    assert_eq!(sequences.fleet.machine("m-0").unwrap().state, MachineState::Failed);
    assert!(sequences.retry(run.id.as_str(), Some("9"), &by()).is_err());
    sequences.retry(run.id.as_str(), None, &by()).unwrap();
    assert_eq!(live(&sequences, &ids[0], &mut world, None).0, RunResult::Succeeded);
    assert_eq!(world.commands["flaky"], 2);
    let run = sequences.run(run.id.as_str()).unwrap();
    assert_eq!((run.state, run.error), (RunState::Succeeded, None));
}

#[test]
fn a_run_that_failed_in_the_installed_system_goes_on_there() {
    let folder = tempfile::tempdir().unwrap();
    let sequences = site(folder.path());
    let text = DOCUMENT.replace("- install-baseline:", "- run-command: { command: [flaky] }");
    publish(&sequences, &text);
    let ids = machines(&sequences, 1);
    sequences.start(&request(&["m-0"], Some(1)), &by()).unwrap();
    let mut world = World::default();
    world.exits.insert("flaky".into(), vec![3]);
    assert_eq!(live(&sequences, &ids[0], &mut world, None).0, RunResult::Failed);
    let run = sequences.runs(Some("m-0"), None).unwrap().remove(0);
    sequences.retry(run.id.as_str(), None, &by()).unwrap();
    assert_eq!(sequences.fleet.machine("m-0").unwrap().next_boot, NextBoot::LocalDisk);
    let elsewhere = sequences.fetch(&ids[0], Place::BootEnvironment).unwrap();
    assert_eq!((elsewhere.order.is_none(), elsewhere.restart), (true, Some(Place::InstalledSystem)));
    assert_eq!(live(&sequences, &ids[0], &mut world, None).0, RunResult::Succeeded);
    assert_eq!(world.commands["flaky"], 2);
}

#[test]
fn a_machine_that_does_not_start_from_the_network_is_not_restarted_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let sequences = site(folder.path());
    publish(&sequences, DOCUMENT);
    let ids = machines(&sequences, 1);
    sequences.start(&request(&["m-0"], Some(1)), &by()).unwrap();
    let fetch = || sequences.fetch(&ids[0], Place::InstalledSystem).unwrap().restart;
    let restarts: Vec<bool> = (0..5).map(|_| fetch().is_some()).collect();
    assert_eq!(restarts, [true, true, true, false, false]);
    let run = sequences.runs(None, None).unwrap().remove(0);
    assert_eq!(run.error.unwrap(), "the machine was restarted 3 times and did not come up in the boot environment");
}

#[test]
fn the_plan_names_what_then_happens() {
    let folder = tempfile::tempdir().unwrap();
    let sequences = site(folder.path());
    publish(&sequences, DOCUMENT);
    let ids = machines(&sequences, 1);
    let preview = sequences.preview(&request(&["m-0"], None)).unwrap();
    assert_eq!((preview.erases, preview.refusals.len()), (1, 0));
    let planned: Vec<String> = preview.plans[0]
        .items
        .iter()
        .filter(|item| matches!(item.fate, Fate::Runs { .. }))
        .map(|item| item.id.0.clone())
        .collect();
    let deployment = sequences.start(&request(&["m-0"], Some(1)), &by()).unwrap();
    live(&sequences, &ids[0], &mut World::default(), None);
    let run = sequences.deployment(&deployment.id).unwrap().runs.remove(0);
    let ran: Vec<String> = sequences
        .entries(run.id.as_str())
        .unwrap()
        .into_iter()
        .filter(|entry| matches!(entry.what, crate::tasksequence::journal::What::Finished(_)))
        .map(|entry| entry.item.0)
        .collect();
    assert_eq!(planned, ran);
}

/// Reports the end of a run as its machine would, without carrying it out.
fn finish(sequences: &Sequences, machine: &MachineId, result: RunResult) {
    let order = *sequences.fetch(machine, Place::BootEnvironment).unwrap().order.unwrap();
    let ended = Entry {
        at: Timestamp::default(),
        item: ItemId(String::new()),
        what: crate::tasksequence::journal::What::Ended { result },
    };
    let message = PostEvents {
        run: order.run,
        journal_from: 0,
        journal: vec![ended],
        boot: "b".into(),
        lines_from: 0,
        lines: Vec::new(),
        progress: None,
        restart: None,
        sent_at: Timestamp::default(),
    };
    sequences.post(machine, &message).unwrap();
}

#[test]
fn rings_stop_where_they_must_and_go_on_after_the_appliance_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let mut sequences = site(folder.path());
    publish(&sequences, "name: Noop\nsteps:\n- check-hardware:\n");
    let ids = machines(&sequences, 1000);
    let names: Vec<String> = (0..1000).map(|index| format!("m-{index}")).collect();
    let rollout = Rollout { rings: vec![5, 50], failures_percent_max: 8, at_once: 10, ..Rollout::default() };
    let request = Request { sequence: "Noop".into(), machines: names, rollout, ..Request::default() };
    let id = sequences.start(&request, &by()).unwrap().id;
    let mut over = 0;
    loop {
        if over % 20 == 7 {
            // Nothing but the file survives.
            sequences = site(folder.path());
            sequences.tick().unwrap();
        }
        let runs = sequences.deployment(&id).unwrap().runs;
        let under_way = runs.iter().filter(|run| matches!(run.state, RunState::Waiting | RunState::Running)).count();
        assert!(under_way <= 10);
        let Some(index) = runs.iter().position(|run| run.state == RunState::Waiting) else { break };
        let result = if index % 10 == 9 { RunResult::Failed } else { RunResult::Succeeded };
        finish(&sequences, &ids[index], result);
        over += 1;
    }
    let record = sequences.deployment(&id).unwrap().deployment;
    assert_eq!(record.stopped.as_deref(), Some("5 of 50 runs in ring 2 failed, at most 8 % may"));
    assert_eq!(record.counts.queued, 945);
    assert_eq!(record.counts.word(true), "stopped");
    sequences.resume(&id, 20, &by()).unwrap();
    assert_eq!(sequences.deployment(&id).unwrap().deployment.counts.waiting, 10);
    while finish_next(&sequences, &id, &ids).is_some() {}
    let counts = sequences.deployment(&id).unwrap().deployment.counts;
    assert_eq!(counts, Counts { succeeded: 900, failed: 100, ..Counts::default() });
}

/// Ends the run that is next in turn, which the machine may have begun before the appliance was killed; every tenth fails.
/// Which one it was.
fn finish_next(sequences: &Sequences, deployment: &str, ids: &[MachineId]) -> Option<usize> {
    let next = "SELECT COALESCE(min(position), -1) FROM run WHERE deployment = ?1 AND state IN ('waiting', 'running')";
    let found: Result<i64, Error> = sequences.fleet.db.read(|c| Ok(c.query_row(next, [deployment], |row| row.get(0))?));
    let index = usize::try_from(found.unwrap()).ok()?;
    let result = if index % 10 == 9 { RunResult::Failed } else { RunResult::Succeeded };
    finish(sequences, &ids[index], result);
    Some(index)
}

/// Names the folder of the site to the process that is killed.
const KILLED: &str = "REMINT_TEST_ROLLOUT";

/// Not a test of its own: the process that the next test kills. It says which runs are over.
#[test]
fn process_that_is_killed() {
    let Some(folder) = std::env::var_os(KILLED) else { return };
    let sequences = site(Path::new(&folder));
    let ids: Vec<MachineId> = (0..1000).map(|index| MachineId(format!("machine-{index:04}"))).collect();
    let id = sequences.deployments().unwrap().remove(0).id;
    while let Some(index) = finish_next(&sequences, &id, &ids) {
        println!("over {index}");
    }
}

#[test]
fn a_killed_appliance_has_kept_all_that_it_acknowledged_and_the_rollout_goes_on() {
    use std::io::BufRead;
    let folder = tempfile::tempdir().unwrap();
    let sequences = site(folder.path());
    publish(&sequences, "name: Noop\nsteps:\n- check-hardware:\n");
    let ids = machines(&sequences, 1000);
    let names: Vec<String> = (0..1000).map(|index| format!("m-{index}")).collect();
    let rollout = Rollout { rings: vec![5, 50], failures_percent_max: 20, at_once: 10, ..Rollout::default() };
    let request = Request { sequence: "Noop".into(), machines: names, rollout, ..Request::default() };
    let id = sequences.start(&request, &by()).unwrap().id;
    drop(sequences);
    let (mut acknowledged, mut kills) = (0, 0);
    for lines in [1, 3, 7, 20, 41] {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let name = "tasksequence::deployment::tests::process_that_is_killed";
        command.args(["--exact", name, "--nocapture"]).env(KILLED, folder.path()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let heard = said.filter(|line| line.contains("over ")).take(lines).count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(heard, lines);
        (acknowledged, kills) = (acknowledged + heard, kills + 1);
        let sequences = site(folder.path());
        let record = sequences.deployment(&id).unwrap().deployment;
        let over = (record.counts.succeeded + record.counts.failed) as usize;
        assert!(over >= acknowledged, "{over} runs are over, {acknowledged} were acknowledged");
        assert!(record.counts.waiting + record.counts.running <= 10, "{:?}", record.counts);
        acknowledged = over;
    }
    assert_eq!(kills, 5);
    let sequences = site(folder.path());
    sequences.tick().unwrap();
    while finish_next(&sequences, &id, &ids).is_some() {}
    let counts = sequences.deployment(&id).unwrap().deployment.counts;
    assert_eq!(counts, Counts { succeeded: 900, failed: 100, ..Counts::default() });
}

#[test]
fn a_secret_is_sealed_at_rest_and_released_to_the_step_that_needs_it_alone() {
    let folder = tempfile::tempdir().unwrap();
    let sequences = site(folder.path());
    let text = "name: Join\nvariables: { token: { secret: true } }\nsteps:\n- run-command: { command: [join, '{{ vars.token }}'], in: here }\n- check-hardware:\n";
    publish(&sequences, text);
    let ids = machines(&sequences, 2);
    let request = Request { sequence: "Join".into(), machines: vec!["m-0".into()], ..Request::default() };
    let missing = sequences.start(&request, &by()).unwrap_err().to_string();
    assert!(missing.starts_with("the variable `token` has no value"), "{missing}");
    sequences.set_variable(&Scope::Site, "token", &json!("hunter2"), true, &by()).unwrap();
    assert_eq!(sequences.variables().unwrap()[0].value, Value::Null, "a listing shows no secret");
    sequences.start(&request, &by()).unwrap();
    let order = *sequences.fetch(&ids[0], Place::BootEnvironment).unwrap().order.unwrap();
    assert!(order.variables.is_empty(), "no secret is in the order");

    let ask = |machine: &MachineId, item: &str| {
        sequences.release(machine, &AskSecrets { run: order.run.clone(), item: ItemId::from(item) })
    };
    assert_eq!(ask(&ids[0], "1").unwrap().values["token"], "hunter2");
    assert!(ask(&ids[0], "2").unwrap().values.is_empty(), "this step needs none");
    assert!(ask(&ids[1], "1").is_err(), "it is not this machine's run");
    let log = audit::list(&sequences.fleet.db, None, 100).unwrap();
    let releases: Vec<&str> =
        log.iter().filter(|entry| entry.what == "secret-release").map(|entry| entry.who.as_str()).collect();
    assert_eq!(releases, [format!("m-0 {} step 1", order.run)]);

    let mut world = World { secrets: [("token".to_owned(), json!("hunter2"))].into(), ..World::default() };
    assert_eq!(live(&sequences, &ids[0], &mut world, None).0, RunResult::Succeeded);
    assert!(world.commands.contains_key("join hunter2"));
    assert!(ask(&ids[0], "1").is_err(), "the run is over");
    drop(sequences);
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"), "the secret lies in the open");
    }
}

#[test]
fn the_nearest_value_wins_and_a_number_may_be_a_text() {
    let folder = tempfile::tempdir().unwrap();
    let sequences = site(folder.path());
    publish(&sequences, "name: V\nvariables: { room: { type: text }, desk: none }\nsteps:\n- check-hardware:\n");
    machines(&sequences, 2);
    let value = |machine: &str, given: Value| {
        let (_, sequence) = sequences.sequence("V").unwrap();
        let machine = sequences.fleet.machine(machine).unwrap();
        let given = serde_json::from_value(given).unwrap();
        sequences.values_for(&sequence, &machine, &given).unwrap().get("room").cloned()
    };
    assert_eq!(value("m-0", json!({})), None);
    sequences.set_variable(&Scope::Site, "room", &json!(7), false, &by()).unwrap();
    assert_eq!(value("m-0", json!({})), Some(json!("7")));
    sequences.set_variable(&Scope::Machine("m-0".into()), "room", &json!("attic"), false, &by()).unwrap();
    assert_eq!((value("m-0", json!({})), value("m-1", json!({}))), (Some(json!("attic")), Some(json!("7"))));
    assert_eq!(value("m-0", json!({"room": "cellar"})), Some(json!("cellar")));
    sequences.remove_variable(&Scope::Machine("m-0".into()), "room", &by()).unwrap();
    assert!(sequences.remove_variable(&Scope::Machine("m-0".into()), "room", &by()).is_err());
    assert!(sequences.set_variable(&Scope::Collection("nobody".into()), "room", &json!(1), false, &by()).is_err());
    assert!(sequences.set_variable(&Scope::Site, "Room", &json!(1), false, &by()).is_err());
}

#[test]
fn a_run_in_debug_mode_stops_before_each_step_until_it_is_let_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let sequences = site(folder.path());
    publish(&sequences, "name: D\nsteps:\n- check-hardware:\n- check-hardware:\n");
    let ids = machines(&sequences, 1);
    let machines = vec!["m-0".to_owned()];
    let request = Request { sequence: "D".into(), machines, debug: true, ..Request::default() };
    sequences.start(&request, &by()).unwrap();
    let order = *sequences.fetch(&ids[0], Place::BootEnvironment).unwrap().order.unwrap();
    assert!(order.debug);
    let run = order.run.as_str();
    assert_eq!(sequences.run(run).unwrap().directive, Directive::Pause);
    let mut number = 0;
    let mut post = |item: &str, what| {
        let entry = Entry { at: Timestamp::default(), item: ItemId::from(item), what };
        let message = PostEvents {
            run: order.run.clone(),
            journal_from: number,
            journal: vec![entry],
            boot: "b".into(),
            lines_from: 0,
            lines: Vec::new(),
            progress: None,
            restart: None,
            sent_at: Timestamp::default(),
        };
        number += 1;
        sequences.post(&ids[0], &message).unwrap().directive
    };
    let started = || crate::tasksequence::journal::What::Started { attempt: 1, boot: "b".into() };
    for item in ["1", "2"] {
        assert_eq!(post(item, crate::tasksequence::journal::What::Entered), Directive::Pause);
        sequences.direct(run, Directive::Go, &by()).unwrap();
        assert_eq!(post(item, started()), Directive::Pause, "one step was let go on, not two");
    }
}
