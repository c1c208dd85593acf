//! The engine under simulation: whatever happens to the machine, the same disk and the same result.

use super::event::Directive;
use super::host::Place;
use super::journal::{Entry, RunResult, StepResult, What};
use super::model::{ItemId, Sequence};
use super::parser;
use super::plan;
use super::scripted;
use super::scripted::World;

const WORKSTATION: &str = "
name: Lab workstation
variables:
  hostname: \"lab-{{ machine.serial | lower }}\"
steps:
  - check-hardware: { memory: 1GiB, disk: 10GB }
  - apply-image: { image: debian-lab, disk: largest }
  - group: Settings
    steps:
      - set-hostname: { hostname: \"{{ vars.hostname }}\" }
      - write-file:
          path: /etc/motd
          content: |
            {{ machine.name }}
      - run-command: { command: [make, /etc/keys], creates: /etc/keys }
        when: machine.firmware == 'uefi'
      - run-command: { command: [bios-only] }
        when: machine.firmware == 'bios'
  - install-agent:
  - restart: { into: installed-system }
  - install-baseline:
    retry: 2
always:
  - run-command: { command: [notice], repeatable: true }
";

fn sequence(text: &str) -> Sequence {
    parser::parse(text).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// Items with the way they ended, in the order of the journal.
fn course(journal: &[Entry]) -> Vec<String> {
    let ended = |entry: &Entry| match &entry.what {
        What::Finished(finished) => Some(format!("{} {:?}", entry.item, finished.result)),
        What::Skipped { .. } => Some(format!("{} Skipped", entry.item)),
        What::Cancelled => Some("Cancelled".into()),
        _ => None,
    };
    journal.iter().filter_map(ended).collect()
}

fn started(journal: &[Entry], item: &str) -> usize {
    journal.iter().filter(|entry| entry.item.0 == item && matches!(entry.what, What::Started { .. })).count()
}

#[test]
fn a_run_goes_through_the_restart_to_its_end() {
    let mut world = World::default();
    assert_eq!(world.live(&sequence(WORKSTATION)), RunResult::Succeeded);
    let expect = [
        "1 Held",
        "2 Done",
        "3.1 Done",
        "3.2 Done",
        "3.3 Done",
        "3.4 Skipped",
        "4 Done",
        "5 Held",
        "6 Done",
        "always.1 Done",
    ];
    assert_eq!(course(&world.journal), expect);
    assert_eq!(world.boots, 2);
    assert_eq!(world.place, Some(Place::InstalledSystem));
    assert_eq!(world.disk.files["/etc/hostname"].0, b"lab-s1\n");
    assert!(world.disk.grown && world.disk.baseline);
    assert_eq!(world.reported, world.journal);
}

#[test]
fn a_power_cut_after_any_action_leads_to_the_same_disk_and_the_same_result() {
    let sequence = sequence(WORKSTATION);
    let mut undisturbed = World::default();
    undisturbed.live(&sequence);
    assert!(undisturbed.actions > 40, "{}", undisturbed.actions);
    for cut in 0..undisturbed.actions {
        let mut world = World { cut_at: Some(cut), ..World::default() };
        assert_eq!(world.live(&sequence), RunResult::Succeeded, "cut at {cut}");
        assert_eq!(world.disk, undisturbed.disk, "cut at {cut}");
        let names =
            |world: &World| course(&world.journal).iter().map(|line| line.replace("Held", "Done")).collect::<Vec<_>>();
        assert_eq!(names(&world), names(&undisturbed), "cut at {cut}");
        assert_eq!(world.commands["make /etc/keys"], 1, "cut at {cut}");
    }
}

#[test]
fn a_step_that_cannot_be_repeated_is_never_run_twice() {
    let sequence = sequence(
        "name: x\nsteps:\n- run-command: { command: [pay], in: here }\n- run-command: { command: [after], in: here }\n",
    );
    let mut undisturbed = World::default();
    undisturbed.live(&sequence);
    let mut interrupted = 0;
    for cut in 0..undisturbed.actions {
        let mut world = World { cut_at: Some(cut), ..World::default() };
        let result = world.live(&sequence);
        assert!(world.commands.values().all(|runs| *runs == 1), "cut at {cut}: {:?}", world.commands);
        if result == RunResult::Failed {
            interrupted += 1;
            let error = world.journal.iter().find_map(|entry| match &entry.what {
                What::Finished(finished) => finished.error.clone(),
                _ => None,
            });
            assert!(error.unwrap().contains("interrupted"), "cut at {cut}");
        }
    }
    assert_eq!(interrupted, 6, "three instants between start and end of each of two commands");
}

#[test]
fn a_failing_step_is_tried_again_after_a_pause_that_grows() {
    let sequence = sequence(
        "name: x\nsteps:\n- run-command: { command: [flaky], in: here }\n  retry: { attempts: 4, first: 10s, longest: 1m }\n",
    );
    for (failures, result) in [(3, RunResult::Succeeded), (4, RunResult::Failed)] {
        let mut world = World::default();
        world.exits.insert("flaky".into(), vec![1; failures]);
        assert_eq!(world.live(&sequence), result);
        assert_eq!(world.commands["flaky"], 4);
        let starts: Vec<i64> = world
            .journal
            .iter()
            .filter(|entry| matches!(entry.what, What::Started { .. }))
            .map(|entry| entry.at.milliseconds())
            .collect();
        let waits: Vec<i64> = starts.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).collect();
        assert!(waits[0] >= 5 && waits[1] >= 10 && waits[2] >= 20 && waits[2] <= 41, "{waits:?}");
    }
}

#[test]
fn failure_leads_through_on_failure_and_always() {
    let text = "
name: x
steps:
  - group: Try
    continue-on-error: true
    steps:
      - run-command: { command: [bad], in: here }
      - run-command: { command: [never], in: here }
    on-failure:
      - run-command: { command: [tell, '{{ run.error }}'], in: here }
    always:
      - run-command: { command: [clean], in: here }
  - run-command: { command: [bad2], in: here }
    continue-on-error: true
  - run-command: { command: [bad3], in: here }
  - run-command: { command: [never], in: here }
on-failure:
  - run-command: { command: [failed, '{{ run.failed_step }}'], in: here }
always:
  - run-command: { command: [last], in: here }
";
    let mut world = World::default();
    for bad in ["bad", "bad2", "bad3"] {
        world.exits.insert(bad.into(), vec![9]);
    }
    assert_eq!(world.live(&sequence(text)), RunResult::Failed);
    let ran: Vec<&str> = world.commands.keys().map(String::as_str).collect();
    assert_eq!(ran, ["bad", "bad2", "bad3", "clean", "failed 1.1", "last", "tell `bad` ended with status 9: out"]);
    assert_eq!(course(&world.journal).len(), 7);
}

#[test]
fn cancelling_leaves_out_all_but_always() {
    let text = "name: x\nsteps:\n- run-command: { command: [one], in: here }\n- run-command: { command: [two], in: here }\non-failure:\n- run-command: { command: [failed], in: here }\nalways:\n- run-command: { command: [clean], in: here }\n";
    let sequence = sequence(text);
    let mut world = World { directives: vec![(4, Directive::Cancel)], ..World::default() };
    assert_eq!(world.live(&sequence), RunResult::Cancelled);
    assert_eq!(course(&world.journal), ["1 Done", "Cancelled", "always.1 Done"]);

    let mut paused = World { directives: vec![(4, Directive::Pause), (90, Directive::Go)], ..World::default() };
    assert_eq!(paused.live(&sequence), RunResult::Succeeded);
    assert!(paused.now > 150_000, "it waited while it was paused: {}", paused.now);
}

#[test]
fn a_run_restarted_from_a_step_does_that_step_and_what_follows_again() {
    let sequence = sequence(WORKSTATION);
    let mut world = World::default();
    world.exits.insert("notice".into(), vec![1]);
    assert_eq!(world.live(&sequence), RunResult::Failed);
    world.journal.push(Entry { at: Default::default(), item: ItemId::from("6"), what: What::Rewound });
    assert_eq!(world.live(&sequence), RunResult::Succeeded);
    assert_eq!(
        (started(&world.journal, "2"), started(&world.journal, "6"), started(&world.journal, "always.1")),
        (1, 2, 2)
    );
}

#[test]
fn a_command_that_asks_for_a_restart_gets_one_before_the_next_step() {
    let text = "name: x\nsteps:\n- run-command: { command: [update], in: here, restart-codes: [3010] }\n- run-command: { command: [next], in: here }\n";
    let mut world = World::default();
    world.exits.insert("update".into(), vec![3010]);
    assert_eq!(world.live(&sequence(text)), RunResult::Succeeded);
    assert_eq!((world.boots, world.commands["update"], world.commands["next"]), (2, 1, 1));
}

#[test]
fn a_machine_that_keeps_coming_up_elsewhere_fails_its_restart() {
    let mut world = World { never_starts: true, ..World::default() };
    assert_eq!(world.live(&sequence(WORKSTATION)), RunResult::Failed);
    let restart = world.journal.iter().find_map(|entry| match &entry.what {
        What::Finished(finished) if finished.result == StepResult::Failed => finished.error.clone(),
        _ => None,
    });
    assert_eq!(
        restart.unwrap(),
        "the machine was sent into the installed system 3 times and came up in the boot environment"
    );
    assert_eq!(world.boots, 4);
}

#[test]
fn a_condition_that_cannot_be_computed_fails_its_item_and_not_the_appliance() {
    let text = "name: x\nsteps:\n- run-command: { command: [a], in: here }\n  when: machine.serial + 1 > 2\n";
    let mut world = World::default();
    assert_eq!(world.live(&sequence(text)), RunResult::Failed);
    assert_eq!(course(&world.journal), ["1 Failed"]);
}

#[test]
fn the_json_form_parses_back_and_keeps_its_version() {
    let sequence = sequence(WORKSTATION);
    let json = serde_json::to_string(&sequence).unwrap();
    let back: Sequence = serde_json::from_str(&json).unwrap();
    assert_eq!(back.version(), sequence.version());
    let commented = parser::parse(&format!("# a comment\n{WORKSTATION}")).unwrap();
    assert_eq!(commented.version(), sequence.version());
    assert_ne!(parser::parse(&WORKSTATION.replace("1GiB", "2GiB")).unwrap().version(), sequence.version());
}

pub(super) const EXAMPLES: [(&str, &str); 5] = [
    ("build-and-capture", include_str!("../../docs/guide/sequences/build-and-capture.yaml")),
    ("lab-workstation", include_str!("../../docs/guide/sequences/lab-workstation.yaml")),
    ("server", include_str!("../../docs/guide/sequences/server.yaml")),
    ("windows", include_str!("../../docs/guide/sequences/windows.yaml")),
    ("wipe-and-test", include_str!("../../docs/guide/sequences/wipe-and-test.yaml")),
];

/// What lies beside the examples.
pub(super) fn beside() -> parser::Files {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    parser::Files::from([
        file("scripts/clean-up", include_str!("../../docs/guide/sequences/scripts/clean-up")),
        file("parts/administrator.yaml", include_str!("../../docs/guide/sequences/parts/administrator.yaml")),
    ])
}

fn example(text: &str) -> Sequence {
    parser::parse_with(text, &beside()).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

pub(super) fn attended(cut_at: Option<u64>, only_the_agent: bool) -> World {
    World {
        cut_at,
        only_the_agent,
        answer: Some((2, "2".into())),
        variables: [("admin_key".to_owned(), "ssh-ed25519 AAAA ann".into())].into(),
        ..World::default()
    }
}

/// The question of the wipe wants a yes.
pub(super) fn answered(name: &str, world: World) -> World {
    if name == "wipe-and-test" { World { answer: Some((2, "yes".into())), ..world } } else { world }
}

#[test]
fn every_example_survives_a_power_cut_and_a_killed_agent_after_any_action() {
    for (name, text) in EXAMPLES {
        let sequence = example(text);
        let mut undisturbed = answered(name, attended(None, false));
        assert_eq!(undisturbed.live(&sequence), RunResult::Succeeded, "{name}: {:#?}", undisturbed.journal);
        let ended =
            |world: &World| course(&world.journal).iter().map(|line| line.replace("Held", "Done")).collect::<Vec<_>>();
        for cut in 0..undisturbed.actions {
            for only_the_agent in [false, true] {
                let mut world = answered(name, attended(Some(cut), only_the_agent));
                assert_eq!(world.live(&sequence), RunResult::Succeeded, "{name} cut at {cut} ({only_the_agent})");
                assert_eq!(world.disk, undisturbed.disk, "{name} cut at {cut} ({only_the_agent})");
                assert_eq!(ended(&world), ended(&undisturbed), "{name} cut at {cut} ({only_the_agent})");
            }
        }
    }
}

#[test]
fn the_plan_of_every_example_is_what_then_happens() {
    for (name, text) in EXAMPLES {
        let sequence = example(text);
        let mut world = answered(name, attended(None, false));
        let mut order = scripted::order(&sequence);
        order.variables.clone_from(&world.variables);
        let plan = plan::plan(&order);
        assert_eq!(plan.failures().count(), 0, "{name}: {plan:#?}");
        assert_eq!(plan.erases.len(), 1, "{name} erases one disk");
        world.live(&sequence);
        let is_step = |item: &&plan::PlannedItem| !item.kind.is_empty() && item.section != "on-failure";
        let planned: Vec<String> = plan
            .items
            .iter()
            .filter(is_step)
            .map(|item| match &item.fate {
                plan::Fate::Runs { .. } | plan::Fate::Open { .. } => format!("{} Done", item.id),
                plan::Fate::Skipped { .. } => format!("{} Skipped", item.id),
                plan::Fate::Fails { error, .. } => format!("{} {error}", item.id),
            })
            .collect();
        let happened: Vec<String> = course(&world.journal).iter().map(|line| line.replace("Held", "Done")).collect();
        assert_eq!(planned, happened, "{name}");
    }
}

const LAYOUT: &str = "
name: Layout
steps:
  - partition-disk:
      partitions:
        - { name: bios, type: bios-boot, size: 1MiB }
        - { name: esp, type: esp, size: 256MiB }
        - { name: swap, type: swap, size: 5% }
        - { name: root, type: linux-root, size: rest }
  - format:
      file-systems:
        - { partition: esp, type: fat, label: esp, at: /boot/efi }
        - { partition: swap, type: swap }
        - { partition: root, type: xfs, label: root, at: / }
  - write-file: { path: /etc/motd, content: hello }
";

#[test]
fn a_disk_is_divided_and_formatted_alike_whenever_the_power_is_cut() {
    let sequence = sequence(LAYOUT);
    let mut undisturbed = World::default();
    assert_eq!(undisturbed.live(&sequence), RunResult::Succeeded, "{:#?}", undisturbed.journal);
    let layout = undisturbed.disk.layout.clone().unwrap();
    let held: Vec<(&str, &str)> =
        layout.partitions.iter().map(|one| (one.content.kind.as_str(), one.content.label.as_str())).collect();
    assert_eq!(held, [("", ""), ("fat", "ESP"), ("swap", ""), ("xfs", "root")]);
    let target = undisturbed.journal.iter().find_map(|entry| match &entry.what {
        What::Finished(finished) => finished.target.clone(),
        _ => None,
    });
    let places: Vec<String> = target.unwrap().in_order().iter().map(|mount| mount.at.clone()).collect();
    assert_eq!(places, ["/", "/boot/efi"]);
    for cut in 0..undisturbed.actions {
        let mut world = World { cut_at: Some(cut), ..World::default() };
        assert_eq!(world.live(&sequence), RunResult::Succeeded, "cut at {cut}");
        assert_eq!(world.disk, undisturbed.disk, "cut at {cut}");
    }
    let mut again = World { disk: undisturbed.disk.clone(), ..World::default() };
    assert_eq!(again.live(&sequence), RunResult::Succeeded);
    assert_eq!(
        course(&again.journal),
        ["1 Held", "2 Done", "3 Done"],
        "a disk that is divided so already is left alone"
    );
}

#[test]
fn a_file_system_that_is_to_be_kept_is_left_alone_with_what_is_in_it() {
    let text = "name: x\nsteps:\n- partition-disk: { partitions: [{ name: home, size: rest }] }\n- format: { file-systems: [{ partition: home, type: ext4, label: home, keep: true }] }\n";
    let sequence = sequence(text);
    let mut world = World::default();
    assert_eq!(world.live(&sequence), RunResult::Succeeded, "{:#?}", world.journal);
    let made = world.commands.len();
    world.disk.files.insert("/home/ann".into(), (b"letter".to_vec(), 0o600));
    let mut again = World { disk: world.disk.clone(), ..World::default() };
    assert_eq!(again.live(&sequence), RunResult::Succeeded);
    assert_eq!((made, again.commands.len()), (1, 0));
    assert_eq!(again.disk, world.disk);
}

#[test]
fn a_question_waits_for_its_answer_over_restarts_and_has_an_end() {
    let text = "name: x\nsteps:\n- prompt: { variable: room, question: Which?, choices: [A, B], within: 1h }\n- run-command: { command: [put, '{{ vars.room }}'], in: here }\n";
    let sequence = sequence(text);
    let mut world = World { answer: Some((5, "B".into())), cut_at: Some(4), ..World::default() };
    assert_eq!(world.live(&sequence), RunResult::Succeeded);
    assert_eq!(world.commands.keys().collect::<Vec<_>>(), ["put B"]);
    let mut nobody = World::default();
    assert_eq!(nobody.live(&sequence), RunResult::Failed);
    assert!((3_600_000..3_700_000).contains(&nobody.now), "it waited an hour: {}", nobody.now);
    let mut wrong = World { answer: Some((0, "C".into())), ..World::default() };
    assert_eq!(wrong.live(&sequence), RunResult::Failed);
}

#[test]
fn a_wipe_that_did_not_read_everything_back_fails() {
    let mut world = World { unreadable_bytes: 1, ..World::default() };
    assert_eq!(world.live(&sequence("name: x\nsteps:\n- wipe-disk:\n")), RunResult::Failed);
}

#[test]
fn a_secret_reaches_the_program_and_nothing_else() {
    let text = "name: x\nvariables: { token: { secret: true } }\nsteps:\n- run-command: { command: [join, '{{ vars.token }}'], in: here }\n  register: joined\n- run-command: { command: ['{{ vars.token }}'], in: here }\n";
    let sequence = sequence(text);
    let variables: super::model::Values = [("token".to_owned(), "hunter2".into())].into();
    let mut world = World { variables: variables.clone(), ..World::default() };
    world.exits.insert("hunter2".into(), vec![1]);
    assert_eq!(world.live(&sequence), RunResult::Failed);
    assert!(world.commands.contains_key("join hunter2"));
    let mut order = scripted::order(&sequence);
    order.variables = variables;
    let shown = serde_json::to_string(&(&world.journal, plan::plan(&order))).unwrap();
    assert!(shown.contains("******") && !shown.contains("hunter2"), "{shown}");
}

#[test]
fn a_secret_that_is_released_reaches_the_program_and_nothing_else() {
    let text = "name: x\nvariables: { token: { secret: true } }\nsteps:\n- check-hardware:\n- run-command: { command: [join, '{{ vars.token }}'], in: here }\n- run-command: { command: ['{{ vars.token }}'], in: here }\n  retry: 2\n";
    let sequence = sequence(text);
    let secrets: super::model::Values = [("token".to_owned(), "hunter2".into())].into();
    let mut world = World { secrets, ..World::default() };
    world.exits.insert("hunter2".into(), vec![1]);
    assert_eq!(world.live(&sequence), RunResult::Succeeded);
    assert_eq!(world.released, ["2", "3", "3"], "asked for by each attempt of the steps that need it");
    assert!(world.commands.contains_key("join hunter2"));
    assert!(!serde_json::to_string(&world.journal).unwrap().contains("hunter2"));
    let mut none = World::default();
    assert_eq!(none.live(&sequence), RunResult::Failed);
    assert_eq!(none.commands.len(), 0);
}

#[test]
fn an_included_document_has_variables_of_its_own() {
    let files = parser::Files::from([(
        "user.yaml".to_owned(),
        "name: User\nvariables: { name: { type: text }, shell: \"/bin/{{ vars.name }}sh\" }\nsteps:\n- run-command: { command: [add, '{{ vars.name }}', '{{ vars.shell }}'], in: here }\n- set-variable: { variable: last, value: '{{ vars.name }}' }\n".to_owned(),
    )]);
    let text = "name: x\nvariables: { name: outer }\nsteps:\n- include: user.yaml\n  with: { name: a }\n- include: user.yaml\n  with: { name: '{{ vars.name }}', shell: sh }\n- run-command: { command: [end, '{{ vars.name }}', '{{ vars.last }}'], in: here }\n";
    let sequence = parser::parse_with(text, &files).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let mut world = World::default();
    assert_eq!(world.live(&sequence), RunResult::Succeeded, "{:#?}", world.journal);
    let ran: Vec<&str> = world.commands.keys().map(String::as_str).collect();
    assert_eq!(ran, ["add a /bin/ash", "add outer sh", "end outer outer"]);
    let plan = plan::plan(&scripted::order(&sequence));
    assert_eq!(plan.failures().count(), 0, "{plan:#?}");
    let whats: Vec<&str> = plan
        .items
        .iter()
        .filter_map(|item| match &item.fate {
            plan::Fate::Runs { what } if what.starts_with("run ") => Some(what.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(whats[0], "run add a /bin/ash in the boot environment");
    assert_eq!(whats[2], "run end outer outer in the boot environment");
    let json = serde_json::to_string(&sequence).unwrap();
    assert_eq!(serde_json::from_str::<Sequence>(&json).unwrap().version(), sequence.version());
}

#[test]
fn a_script_becomes_a_part_of_the_sequence_and_leaves_nothing_behind() {
    let file = |text: &str| parser::Files::from([("setup".to_owned(), text.to_owned())]);
    let text = "name: x\nsteps:\n- apply-image: { image: debian-lab }\n- run-script: { script: setup, arguments: [a], repeatable: true }\n";
    let parse = |script: &str| parser::parse_with(text, &file(script)).unwrap();
    let sequence = parse("#!/bin/sh\necho {{ x }}\n");
    assert_ne!(sequence.version(), parse("#!/bin/sh\necho\n").version(), "another script is another version");
    let mut world = World::default();
    assert_eq!(world.live(&sequence), RunResult::Succeeded, "{:#?}", world.journal);
    let ran = world.commands.keys().next().unwrap();
    assert!(ran.starts_with("/var/lib/remint/scripts/") && ran.ends_with(" a"), "{ran}");
    assert!(!world.disk.files.keys().any(|path| path.contains("scripts")));
}

#[test]
fn a_machine_is_switched_off_when_its_run_is_over_and_not_before() {
    let text = "name: x\nsteps:\n- power-off:\n- run-command: { command: [after], in: here }\n";
    let mut world = World::default();
    assert_eq!(world.live(&sequence(text)), RunResult::Succeeded);
    assert!(world.off && world.commands.contains_key("after"));
    let mut on = World::default();
    on.live(&sequence("name: x\nsteps:\n- check-hardware:\n"));
    assert!(!on.off);
}

#[test]
fn a_capture_takes_out_what_belongs_to_the_machine_and_is_done_again_after_a_cut() {
    let text = "name: x\nsteps:\n- apply-image: { image: debian-lab }\n- install-agent:\n- write-file: { path: /etc/machine-id, content: abc }\n- write-file: { path: /etc/motd, content: x }\n- capture-image: { image: golden }\n";
    let sequence = sequence(text);
    let mut undisturbed = World::default();
    assert_eq!(undisturbed.live(&sequence), RunResult::Succeeded, "{:#?}", undisturbed.journal);
    let captured = &undisturbed.captured["golden"];
    assert!(captured.files.contains_key("/etc/motd"));
    assert!(!captured.files.keys().any(|path| path.starts_with("/var/lib/remint")), "{:?}", captured.files.keys());
    assert!(captured.files["/etc/machine-id"].0.is_empty());
    for cut in 0..undisturbed.actions {
        let mut world = World { cut_at: Some(cut), ..World::default() };
        assert_eq!(world.live(&sequence), RunResult::Succeeded, "cut at {cut}");
        assert_eq!((&world.captured, &world.disk), (&undisturbed.captured, &undisturbed.disk), "cut at {cut}");
    }
}

#[test]
fn windows_boot_files_an_answer_file_and_drivers_lie_where_windows_looks() {
    let text = include_str!("../../docs/guide/sequences/windows.yaml");
    let mut world = World::default();
    assert_eq!(world.live(&sequence(text)), RunResult::Succeeded, "{:#?}", world.journal);
    let files = &world.disk.files;
    let boot = "/boot/efi/EFI/Microsoft/Boot";
    for (path, from) in [
        (format!("{boot}/bootmgfw.efi"), "/Windows/Boot/EFI/bootmgfw.efi"),
        (format!("{boot}/de-DE/bootmgfw.efi.mui"), "/Windows/Boot/EFI/de-DE/bootmgfw.efi.mui"),
        (format!("{boot}/Fonts/segoe_slboot.ttf"), "/Windows/Boot/Fonts/segoe_slboot.ttf"),
        (format!("{boot}/BCD"), "/Windows/Boot/BCD"),
        ("/boot/efi/EFI/Boot/bootx64.efi".to_owned(), "/Windows/Boot/EFI/bootmgfw.efi"),
    ] {
        assert_eq!(files[&path].0, files[from].0, "{path}");
    }
    let answers = String::from_utf8(files["/Windows/Panther/unattend.xml"].0.clone()).unwrap();
    assert!(answers.contains("<RegisteredOwner>Example &amp; Sons</RegisteredOwner>"), "{answers}");
    assert!(files.contains_key("/Drivers/net/e1d.INF") && !files.contains_key("/etc/fstab"));
    let evidence = |kind: &str| {
        let item = world.journal.iter().rev().find_map(|entry| match &entry.what {
            What::Finished(finished) if finished.evidence.contains_key(kind) => Some(finished.evidence.clone()),
            _ => None,
        });
        item.unwrap_or_else(|| panic!("no step says {kind}"))
    };
    assert_eq!(evidence("inf_files")["inf_files"], 1);
    assert_eq!((&evidence("bcd")["bcd"], &evidence("bcd")["files"]), (&"/Windows/Boot/BCD".into(), &3.into()));

    let without = text.replace("      bcd: /Windows/Boot/BCD\n", "");
    let mut world = World::default();
    assert_eq!(world.live(&sequence(&without)), RunResult::Succeeded, "{:#?}", world.journal);
    assert!(serde_json::to_string(&world.journal).unwrap().contains("missing: without EFI/Microsoft/Boot/BCD"));

    let error = |text: &str| {
        let mut world = World::default();
        assert_eq!(world.live(&sequence(text)), RunResult::Failed);
        world.journal.iter().find_map(|entry| match &entry.what {
            What::Finished(finished) => finished.error.clone(),
            _ => None,
        })
    };
    for (from, to, expect) in [
        ("image: windows-11", "image: debian-tree", "the system on the disk has no /Windows/Boot/EFI"),
        (
            "bcd: /Windows/Boot/BCD",
            "bcd: /Windows/Boot/EFI/bootmgfw.efi",
            "/Windows/Boot/EFI/bootmgfw.efi is no store of boot entries: it is not a registry hive",
        ),
        ("bcd: /Windows/Boot/BCD", "bcd: /Windows/nothing", "/Windows/nothing is not there"),
        ("type: ntfs", "type: ext4", "the root of the system is not NTFS, so it is not Windows"),
        (
            "install-bootloader:\n      loader: windows\n      bcd: /Windows/Boot/BCD",
            "install-agent:",
            "the agent runs on Linux",
        ),
        ("bcd: /Windows/Boot/BCD", "wait: 3", "`arguments` and `wait` are for Linux"),
        ("{{ vars.owner }}", "{{ vars.owner | safe }}", "the answer file is no document of XML: line 7: "),
        (
            "image: drivers-latitude-5440",
            "image: windows-11",
            "no .inf file is in /Drivers: Windows would find no driver there",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let said = error(&text.replace(from, to)).unwrap();
        assert!(said.starts_with(expect), "{said}");
    }
}

#[test]
fn the_boot_order_is_set_and_read_back() {
    use super::firmware;
    let partition =
        firmware::HardDrive { number: 1, first_sector: 1, sectors: 1, guid: crate::imaging::disk::guid::Guid::ZERO };
    let disk = firmware::emit("Disk", &partition, "\\x");
    let mut network = vec![1, 0, 0, 0, 41, 0, b'N', 0, 0, 0, 3, 11, 37, 0];
    network.extend([0; 33]);
    network.extend([0x7F, 0xFF, 4, 0]);
    let world = || World {
        variables_of_firmware: [
            ("BootOrder".to_owned(), firmware::emit_order(&[0, 1])),
            ("Boot0000".to_owned(), disk.clone()),
            ("Boot0001".to_owned(), network.clone()),
        ]
        .into(),
        ..World::default()
    };
    let sequence = sequence("name: x\nsteps:\n- set-boot-order: { first: network }\n");
    let mut first = world();
    assert_eq!(first.live(&sequence), RunResult::Succeeded, "{:#?}", first.journal);
    assert_eq!(first.variables_of_firmware["BootOrder"], firmware::emit_order(&[1, 0]));
    let mut again = World { variables_of_firmware: first.variables_of_firmware.clone(), ..World::default() };
    assert_eq!(again.live(&sequence), RunResult::Succeeded);
    assert_eq!(course(&again.journal), ["1 Held"]);
    let mut bios = World::default();
    assert_eq!(bios.live(&sequence), RunResult::Failed);
}
