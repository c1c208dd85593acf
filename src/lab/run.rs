//! A whole lab: the network, the appliance and the machines of a scenario; and `remint lab run`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::accelerator::Accelerator;
use super::appliance::Appliance;
use super::error::Error;
use super::machine::Machine;
use super::network::{APPLIANCE, Network};
use super::scenario::Scenario;
use super::timeline::{Event, Timeline};

const HTTPS_PORT: u16 = 443;

/// Fields are dropped in this order: machines, appliance, network.
pub struct Lab {
    pub machines: Vec<Machine>,
    pub appliance: Appliance,
    pub network: Network,
    pub timeline: Timeline,
    pub folder: PathBuf,
}

/// A machine that reached the state.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub machine: String,
    /// From its power on.
    pub after: Duration,
    pub record: Value,
}

impl Lab {
    /// Builds everything and starts the appliance; machines are off. `program` is the `remint` to run, `folder` keeps
    /// disks, consoles, logs and the timeline, whose events are handed to `show` as they happen.
    pub fn open(
        scenario: &Scenario,
        program: &Path,
        folder: &Path,
        show: impl Fn(&Event) + Send + Sync + 'static,
    ) -> Result<Lab, Error> {
        fs::create_dir_all(folder).map_err(Error::file(folder))?;
        let folder = folder.canonicalize().map_err(Error::file(folder))?;
        let timeline = Timeline::new(&folder, show)?;
        let accelerator = Accelerator::find(&folder)?;
        timeline.add(
            "lab",
            match accelerator {
                Accelerator::Kvm => "machines run on KVM",
                Accelerator::Tcg => "machines are emulated (KVM is not usable here)",
            },
        );
        let cards: Vec<_> = scenario.machines.iter().enumerate().map(|(place, spec)| spec.mac_at(place)).collect();
        let network = Network::open(scenario.network, &cards, &folder)?;
        let mut appliance = Appliance::create(program, &scenario.site, scenario.network, &folder, &timeline)?;
        appliance.start(&network)?;
        let places = scenario.machines.iter().cloned().enumerate();
        let machines =
            places.map(|(place, spec)| Machine::create(spec, place, &folder, &network, accelerator, &timeline));
        let machines = machines.collect::<Result<Vec<_>, _>>()?;
        Ok(Lab { machines, appliance, network, timeline, folder })
    }

    pub fn power_on(&mut self, place: usize) -> Result<(), Error> {
        self.machines[place].power_on(&self.network)
    }

    pub fn restart_appliance(&mut self) -> Result<(), Error> {
        self.appliance.kill();
        self.appliance.start(&self.network)
    }

    /// Leads a port of this computer's loopback address to the appliance's console.
    pub fn forward_console(&self, port: u16) -> Result<SocketAddr, Error> {
        self.network.forward(port, SocketAddr::from((APPLIANCE, HTTPS_PORT)))
    }

    /// Waits until the machine at `place` is in `state`; each change of its state goes to the timeline. A failed run ends
    /// the wait, unless that is what is waited for.
    pub fn wait_for_state(&mut self, place: usize, state: &str, limit: Duration) -> Result<Value, Error> {
        self.wait_for_states(&[place], state, limit).map(|mut arrivals| arrivals.remove(0).record)
    }

    fn wait_for_states(&mut self, places: &[usize], state: &str, limit: Duration) -> Result<Vec<Arrival>, Error> {
        let start = Instant::now();
        let mut seen = vec![String::new(); places.len()];
        let mut arrivals: Vec<Option<Arrival>> = vec![None; places.len()];
        while arrivals.iter().any(Option::is_none) {
            for (which, place) in
                places.iter().enumerate().filter(|(which, _)| arrivals[*which].is_none()).collect::<Vec<_>>()
            {
                let (name, serial) = (self.machines[*place].spec.name.clone(), self.machines[*place].serial());
                let Some(record) = self.appliance.machine(&serial)? else { continue };
                let now = record["state"].as_str().unwrap_or_default().to_owned();
                if now != seen[which] {
                    self.timeline.add(&name, &format!("is {now}"));
                    seen[which].clone_from(&now);
                }
                if now == state {
                    arrivals[which] = Some(Arrival { machine: name, after: start.elapsed(), record });
                } else if now == "failed" {
                    return Err(Error::Ended { what: format!("the run of {name}"), last: record.to_string() });
                }
            }
            if let Some(ended) = places.iter().find(|place| !self.machines[**place].is_on()) {
                let last = fs::read_to_string(self.folder.join(&self.machines[*ended].spec.name).join("qemu.log"));
                return Err(Error::Ended {
                    what: self.machines[*ended].spec.name.clone(),
                    last: last.unwrap_or_default(),
                });
            }
            if start.elapsed() > limit {
                return Err(Error::Late { what: format!("every machine {state}"), limit, last: seen.join(", ") });
            }
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(arrivals.into_iter().flatten().collect())
    }
}

/// Switches every machine of the scenario on and waits until all are in its `until` state.
pub fn run(lab: &mut Lab, scenario: &Scenario) -> Result<Vec<Arrival>, Error> {
    for place in 0..lab.machines.len() {
        lab.power_on(place)?;
    }
    let places: Vec<usize> = (0..lab.machines.len()).collect();
    lab.wait_for_states(&places, &scenario.until, Duration::from_secs(scenario.time_limit_seconds))
}
