//! `remint serve` in the private network: started, killed, started again, and asked through its own command line.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::error::Error;
use super::network::{INTERFACE, Network};
use super::scenario::Dhcp;
use super::timeline::Timeline;

/// An emulated evening on a busy computer; it takes a second otherwise.
const START_LIMIT: Duration = Duration::from_secs(60);
/// What it prints when every port is bound.
const READY: &str = "Remint serves";

pub struct Appliance {
    program: PathBuf,
    site: PathBuf,
    folder: PathBuf,
    timeline: Timeline,
    process: Option<Child>,
}

impl Appliance {
    /// `program` is the `remint` to run. The site's own `remint.toml` holds, but for the interface and the part in DHCP,
    /// which are the lab's.
    pub fn create(
        program: &Path,
        site: &Path,
        dhcp: Dhcp,
        folder: &Path,
        timeline: &Timeline,
    ) -> Result<Appliance, Error> {
        let own = site.join("remint.toml");
        let text = if own.exists() { fs::read_to_string(&own).map_err(Error::file(&own))? } else { String::new() };
        let configuration = configuration(&text, dhcp).map_err(|message| Error::Scenario { path: own, message })?;
        let path = folder.join("remint.toml");
        fs::write(&path, configuration).map_err(Error::file(path))?;
        Ok(Appliance {
            program: program.to_owned(),
            site: site.to_owned(),
            folder: folder.to_owned(),
            timeline: timeline.clone(),
            process: None,
        })
    }

    /// Starts it and waits until it has bound its ports.
    pub fn start(&mut self, network: &Network) -> Result<(), Error> {
        let path = self.log_path();
        let log = File::options().create(true).append(true).open(&path).map_err(Error::file(&path))?;
        let before = log.metadata().map_err(Error::file(&path))?.len();
        let errors = log.try_clone().map_err(Error::file(&path))?;
        let mut command = network.command(&self.program);
        command.args(["serve", "--data"]).arg(&self.site).arg("--config").arg(self.folder.join("remint.toml"));
        let process = command.stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        self.process = Some(process.map_err(Error::missing("remint"))?);
        self.wait_until_ready(before)?;
        self.timeline.add("appliance", "serves");
        Ok(())
    }

    fn wait_until_ready(&mut self, before: u64) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let text = self.log();
            let new = text.get(usize::try_from(before).unwrap_or(0)..).unwrap_or_default();
            if new.contains(READY) {
                return Ok(());
            }
            let last = || last_lines(new);
            if !self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None))) {
                return Err(Error::Ended { what: "the appliance".to_owned(), last: last() });
            }
            if start.elapsed() > START_LIMIT {
                return Err(Error::Late { what: "the appliance ready".to_owned(), limit: START_LIMIT, last: last() });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `kill -9`: it gets no chance to finish anything.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let _ = process.kill();
        let _ = process.wait();
        self.timeline.add("appliance", "killed");
    }

    /// Runs `remint ARGUMENTS --json` on the site and gives what it prints.
    pub fn ask(&self, arguments: &[&str]) -> Result<Value, Error> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--json").arg("--data").arg(&self.site).stdin(Stdio::null());
        let output = command.output().map_err(Error::missing("remint"))?;
        let failed = |message: String| Error::Command { command: format!("remint {}", arguments.join(" ")), message };
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ")));
        }
        if output.stdout.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
    }

    /// The record of the machine with this system serial number, when it has checked in.
    pub fn machine(&self, serial: &str) -> Result<Option<Value>, Error> {
        let Value::Array(all) = self.ask(&["machine", "list"])? else { return Ok(None) };
        let named = all.into_iter().find(|machine| machine["identity"]["system_serial"] == serial);
        let Some(id) = named.as_ref().and_then(|machine| machine["id"].as_str()) else { return Ok(None) };
        self.ask(&["machine", "show", id]).map(Some)
    }

    /// Waits until the machine's record satisfies `condition`; `what` is for the error.
    pub fn wait_for_machine(
        &self,
        serial: &str,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value, Error> {
        let start = Instant::now();
        loop {
            let record = self.machine(serial)?;
            if let Some(record) = record.as_ref().filter(|record| condition(record)) {
                return Ok(record.clone());
            }
            if start.elapsed() > limit {
                let last = record.map_or_else(|| "it never checked in".to_owned(), |record| record.to_string());
                return Err(Error::Late { what: what.to_owned(), limit, last });
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// All that it logged since the lab began.
    pub fn log(&self) -> String {
        fs::read(self.log_path()).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    pub fn site(&self) -> &Path {
        &self.site
    }

    fn log_path(&self) -> PathBuf {
        self.folder.join("appliance.log")
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The reason and its hint are the last two lines of a program that fails.
fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(2)..].join("; ")
}

/// The site's configuration with the lab's interface and part in DHCP.
fn configuration(text: &str, dhcp: Dhcp) -> Result<String, String> {
    let mut table: toml::Table = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut set = |section: &str, key: &str, value: &str| {
        let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
        section.as_table_mut().map(|section| section.insert(key.to_owned(), value.into()))
    };
    set("network", "interface", INTERFACE);
    set(
        "dhcp",
        "mode",
        match dhcp {
            Dhcp::Proxy => "proxy",
            Dhcp::Server => "server",
        },
    );
    toml::to_string(&table).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sites_configuration_holds_but_for_the_network() {
        let own = "[dhcp]\nmode = 'off'\nlease_seconds = 60\n[[enrolment.rule]]\nname = 'lab'\n";
        let table: toml::Table = toml::from_str(&configuration(own, Dhcp::Server).unwrap()).unwrap();
        assert_eq!(table["dhcp"]["mode"].as_str(), Some("server"));
        assert_eq!(table["dhcp"]["lease_seconds"].as_integer(), Some(60));
        assert_eq!(table["network"]["interface"].as_str(), Some("br0"));
        assert_eq!(table["enrolment"]["rule"][0]["name"].as_str(), Some("lab"));
        assert!(configuration("[dhcp", Dhcp::Proxy).is_err());
    }
}
