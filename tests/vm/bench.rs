//! What the tests share: the program, a finished site to copy, and a lab around a copy of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use remint::lab::console::Mark;
use remint::lab::run::Lab;
use remint::lab::scenario::{Dhcp, Firmware, MachineSpec, Scenario};
use serde_json::Value;

/// The whole way takes eighty seconds under emulation on two cores; on a busy computer several times that.
pub(crate) const WHOLE_PATH_LIMIT: Duration = Duration::from_secs(600);
/// One stage of the way under emulation on two cores takes 10 to 40 seconds; on a busy computer several times that.
pub(crate) const STEP_LIMIT: Duration = Duration::from_secs(240);

pub(crate) struct Bench {
    template: PathBuf,
    folder: PathBuf,
    /// Which of the tests it is, to tell their lines apart.
    number: usize,
}

impl Bench {
    /// `REMINT_VM_SITE` names the finished site (scripts/test sets it).
    pub(crate) fn open() -> Result<Bench, String> {
        let template = std::env::var_os("REMINT_VM_SITE").ok_or("REMINT_VM_SITE is not set; run scripts/test")?;
        let template = PathBuf::from(template);
        if !template.join("boot/current/initrd.img").exists() {
            return Err(format!("{} is no finished site", template.display()));
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("vm");
        Ok(Bench { template, folder, number: 0 })
    }

    /// The same with a folder for one test. Its name is short: the path of the control socket may have 107 bytes.
    pub(crate) fn numbered(&self, number: usize) -> Bench {
        Bench { template: self.template.clone(), folder: self.folder.join(format!("test-{number}")), number }
    }

    /// The logs of the lab that ran in this bench: the appliance's, then each machine's serial console.
    pub(crate) fn logs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut serials: Vec<_> =
            entries.map(|entry| entry.path().join("serial.log")).filter(|log| log.exists()).collect();
        serials.sort();
        serials.insert(0, self.folder.join("appliance.log"));
        serials
    }

    /// A lab of one machine called `bench-1` against a copy of the site; `prepare` may change the copy before it is served.
    pub(crate) fn lab(&self, dhcp: Dhcp, machine: MachineSpec, prepare: impl FnOnce(&Path)) -> Lab {
        self.lab_of(dhcp, vec![machine], prepare)
    }

    /// The same with several machines.
    pub(crate) fn lab_of(&self, dhcp: Dhcp, machines: Vec<MachineSpec>, prepare: impl FnOnce(&Path)) -> Lab {
        let _ = std::fs::remove_dir_all(&self.folder);
        std::fs::create_dir_all(&self.folder).unwrap();
        let site = self.folder.join("site");
        let copied = Command::new("cp").args(["--archive", "--reflink=auto"]).arg(&self.template).arg(&site).status();
        assert!(copied.unwrap().success(), "copying the site failed");
        prepare(&site);
        let scenario = Scenario {
            network: dhcp,
            site,
            until: "managed".to_owned(),
            time_limit_seconds: STEP_LIMIT.as_secs(),
            console_port: 0,
            machines,
        };
        let (program, number) = (Path::new(env!("CARGO_BIN_EXE_remint")), self.number);
        Lab::open(&scenario, program, &self.folder, move |event| println!("  {number:>2}  {event}")).unwrap()
    }
}

/// The machine of the tests; its serial number is what the site's rule names it by.
pub(crate) fn machine(firmware: Firmware) -> MachineSpec {
    MachineSpec { serial: Some("BENCH-1".to_owned()), ..MachineSpec::new("bench-1", firmware) }
}

/// Waits for words on the machine's serial console after `mark`.
pub(crate) fn wait_for(lab: &Lab, mark: Mark, words: &str) -> Mark {
    lab.machines[0].console().wait_for(mark, words, STEP_LIMIT).unwrap_or_else(|error| panic!("{error}"))
}

/// The machine's record as `remint machine show NAME --json` gives it.
pub(crate) fn record(lab: &Lab) -> Value {
    lab.appliance.ask(&["machine", "show", "bench-1"]).unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until the run has written `share` (0 to 1) of the image and not all of it; gives the bytes done by then.
pub(crate) fn wait_for_apply(lab: &Lab, share: f64) -> u64 {
    let done = |record: &Value| {
        let progress = &record["run"]["progress"];
        let (done, total) = (progress["done"].as_u64()?, progress["total"].as_u64()?);
        (total > 0 && done as f64 >= share * total as f64 && done < total).then_some(done)
    };
    let what = format!("{:.0} % of the image written", share * 100.0);
    let record = lab.appliance.wait_for_machine("BENCH-1", &what, STEP_LIMIT, |record| done(record).is_some());
    done(&record.unwrap_or_else(|error| panic!("{error}"))).unwrap()
}

/// The step of the machine's run with this name.
pub(crate) fn step(record: &Value, name: &str) -> Value {
    let steps = record["run"]["steps"].as_array().unwrap_or_else(|| panic!("no run in {record}"));
    steps.iter().find(|step| step["kind"] == name).unwrap_or_else(|| panic!("no step {name} in {record}")).clone()
}

/// Runs `remint ARGUMENTS --data SITE` while the site is not served.
pub(crate) fn remint(site: &Path, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remint"));
    assert!(command.args(arguments).arg("--data").arg(site).status().unwrap().success(), "remint {arguments:?}");
}
