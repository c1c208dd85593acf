//! The service of the installed system: one loop that goes on with the run, then keeps the machine as it should be.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::reboot::{RebootMode, reboot};

use super::baseline::{self, Watch};
use super::enrol::{self, Answer, Applicant, KeyError, MachineKey, Waiting};
use super::policy::{Schedule, Task};
use super::renewal::{self, Renewal, RenewalError};
use super::report::Reports;
use super::spool::Spool;
use super::state::{Folder, Identity, StateError};
use super::surroundings::Around;
use crate::inventory::link::ReportInventory;
use crate::inventory::{hardware, software};
use crate::link;
use crate::link::client::Client;
use crate::software::converge::Hours;
use crate::software::link::ReportCompliance;
use crate::stdx::hint::chain;
use crate::stdx::time::{Clock, SystemClock};
use crate::tasksequence::host::real::Real;
use crate::tasksequence::host::{Host, Place};
use crate::tasksequence::journal::{FileJournal, JournalError};
use crate::tasksequence::link::{FetchRun, RunOrder};
use crate::tasksequence::run::{Outcome, Then, drive};

/// How often the loop looks whether something is due or it is told to stop.
const TICK: Duration = Duration::from_secs(1);
/// systemd ends every process well before this; a system that hangs is restarted without it then.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(120);
/// How long the end of a run is told before the agent goes on with other work; the journal is kept until it is known.
const FAREWELL: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("start: this machine is not enrolled; there is no {0}")]
    NotEnrolled(String),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl From<RenewalError> for ServiceError {
    fn from(error: RenewalError) -> ServiceError {
        match error {
            RenewalError::Key(error) => ServiceError::Key(error),
            RenewalError::Link(error) => ServiceError::Link(error),
        }
    }
}

/// Runs until `stop` is set. `say` gets what the system's log should hold.
pub fn main(path: &Path, stop: &AtomicBool, say: &(dyn Fn(&str) + Sync)) -> Result<(), ServiceError> {
    let folder = Folder::open(path)?;
    let identity = folder.identity()?.ok_or_else(|| not_enrolled(path))?;
    let mut agent = Agent { client: client(&identity)?, identity, spool: Spool::open(&folder)?, folder, stop, say };
    say(&format!("remint-agent {} of {}", env!("CARGO_PKG_VERSION"), agent.identity.name));
    agent.refresh_certificate()?;
    agent.go_on()?;
    let mut schedule = agent.schedule();
    while !stop.load(Relaxed) {
        match schedule.due(SystemClock.now()) {
            None => thread::sleep(TICK),
            Some(task) => {
                let done = agent.perform(task);
                if let Err(error) = &done {
                    say(&format!("failed to {}: {}", task.words(), chain(error)));
                    // A refusal within TLS may look like a connection that broke.
                    let may_have_ended = task == Task::Certificate || error.is_refused_certificate();
                    if may_have_ended && agent.enrol_again()? {
                        agent.go_on()?;
                        schedule = agent.schedule();
                        continue;
                    }
                }
                let again = done.as_ref().ok().copied().flatten();
                schedule.finished(task, SystemClock.now(), done.is_ok(), again);
            }
        }
    }
    Ok(())
}

/// Tells in a few lines who this machine is and what it is doing.
pub fn status(path: &Path, say: &mut dyn FnMut(&str)) -> Result<(), ServiceError> {
    let folder = Folder::open(path)?;
    let identity = folder.identity()?.ok_or_else(|| not_enrolled(path))?;
    say(&format!("machine   {} ({})", identity.name, identity.machine));
    say(&format!("appliance {}", identity.server));
    match folder.order()? {
        Some(order) => say(&format!("run       {}, {}", order.run, order.sequence.name)),
        None => say("run       none"),
    }
    let spool = Spool::open(&folder)?;
    for wanted in spool.policy().unwrap_or_default().packages {
        say(&format!("baseline  {} {} ({})", wanted.package.name, wanted.package.version, wanted.baseline));
    }
    if spool.compliance().is_some() {
        say("waiting   a report that the appliance has not taken yet");
    }
    Ok(())
}

fn not_enrolled(path: &Path) -> ServiceError {
    ServiceError::NotEnrolled(path.join("agent.json").display().to_string())
}

fn client(identity: &Identity) -> Result<Client, link::Error> {
    Client::new(&identity.server, &identity.authority_pem, identity.credentials().as_ref())
}

struct Agent<'a> {
    client: Client,
    identity: Identity,
    folder: Folder,
    spool: Spool,
    stop: &'a AtomicBool,
    say: &'a (dyn Fn(&str) + Sync),
}

impl ServiceError {
    /// The appliance does not take the machine's certificate: it has ended or was revoked.
    fn is_refused_certificate(&self) -> bool {
        matches!(self, ServiceError::Link(error) if error.is_refused_certificate())
    }
}

impl Agent<'_> {
    fn schedule(&self) -> Schedule {
        Schedule::start(SystemClock.now(), u64::from(std::process::id()), self.identity.renew_at)
    }

    /// A run must not begin with a certificate that is about to end, or has.
    fn refresh_certificate(&mut self) -> Result<(), ServiceError> {
        if SystemClock.now() < self.identity.renew_at || self.identity.certificate_pem.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.renew_certificate() {
            (self.say)(&format!("failed to renew the certificate: {}", chain(&error)));
            self.enrol_again()?;
        }
        Ok(())
    }

    /// Goes on with the run that was under way. First the appliance sees what this machine is made of, when it can be
    /// reached: a run that was cloned along with a disk is not carried out.
    fn go_on(&mut self) -> Result<(), ServiceError> {
        let Some(order) = self.folder.order()? else { return Ok(()) };
        match self.report_inventory() {
            Err(error) if error.is_refused_certificate() => {
                (self.say)(&format!("the run waits: {}", chain(&error)));
                Ok(())
            }
            _ => self.carry_out(order),
        }
    }

    /// Checks in as an unknown machine does, with the key at hand. Whether it was let in; when not, it is tried again with the
    /// next task that fails.
    fn enrol_again(&mut self) -> Result<bool, ServiceError> {
        let stranger = Client::new(&self.identity.server, &self.identity.authority_pem, None)?;
        let applicant = Applicant::installed_system(hardware::collect(Path::new("/")));
        loop {
            let key = MachineKey::from_pem(&self.identity.key_pem)?;
            match enrol::ask(&stranger, &key, &applicant, None)? {
                Ok(Answer::Enrolled(enrolled)) => {
                    self.become_machine(&enrolled)?;
                    return Ok(true);
                }
                Ok(Answer::KeyStopped) => {
                    (self.say)("this machine's key was used from another machine too: making a new one");
                    self.identity.key_pem = MachineKey::make()?.to_pem();
                    self.identity.certificate_pem.clear();
                    self.folder.save_identity(&self.identity)?;
                    self.client = client(&self.identity)?;
                }
                Ok(Answer::Wait(Waiting::Approval { name, code }, _)) => {
                    (self.say)(&format!("waiting for approval as {name}, code {code}"));
                    return Ok(false);
                }
                Ok(Answer::Wait(why, _)) => {
                    (self.say)(&format!("not let in: {why:?}"));
                    return Ok(false);
                }
                Err(error) => {
                    (self.say)(&format!("failed to check in: {}", chain(&error)));
                    return Ok(false);
                }
            }
        }
    }

    fn become_machine(&mut self, enrolled: &enrol::Enrolled) -> Result<(), ServiceError> {
        if enrolled.machine != self.identity.machine {
            self.folder.forget_record()?;
        }
        let (server, authority) = (self.identity.server.clone(), self.identity.authority_pem.clone());
        self.identity = Identity::new(&server, &authority, enrolled, SystemClock.now());
        self.folder.save_identity(&self.identity)?;
        self.client = client(&self.identity)?;
        self.spool = Spool::open(&self.folder)?;
        (self.say)(&format!("let in as {}", self.identity.name));
        Ok(())
    }

    /// Does one task; the answer is when to do it again, in seconds, where the appliance says so.
    fn perform(&mut self, task: Task) -> Result<Option<u32>, ServiceError> {
        match task {
            Task::Run => self.ask_for_run(),
            Task::Inventory => self.report_inventory(),
            Task::Baseline => self.converge(),
            Task::Spool => self.send_spool(),
            Task::Certificate => self.renew_certificate(),
        }
    }

    fn ask_for_run(&mut self) -> Result<Option<u32>, ServiceError> {
        let reply = self.client.call(&FetchRun { place: Place::InstalledSystem })?;
        if let Some(order) = reply.order {
            self.folder.save_order(&order)?;
            self.carry_out(*order)?;
        } else if let Some(place) = reply.restart {
            (self.say)(&format!("a run is due that begins in the {}: restarting", place.words()));
            self.end("reboot", RebootMode::RB_AUTOBOOT);
        }
        Ok(None)
    }

    /// Goes on with the run from where the journal in the folder ends, to its end or to a restart.
    fn carry_out(&mut self, order: RunOrder) -> Result<(), ServiceError> {
        let folder = self.folder.clone();
        // A certificate that could not be kept is asked for again.
        let keep = move |identity: &Identity| drop(folder.save_identity(identity));
        let renewal = Renewal::start(self.client.clone(), self.identity.clone(), keep);
        let done = self.drive_run(order);
        drop(renewal);
        if let Some(identity) = self.folder.identity()? {
            self.identity = identity;
        }
        done
    }

    fn drive_run(&mut self, mut order: RunOrder) -> Result<(), ServiceError> {
        let (mut journal, entries) = FileJournal::open(&self.folder.journal())?;
        if entries.len() >= order.journal.len() {
            order.journal = entries;
        } else {
            journal = self.take_over(&order)?;
        }
        (self.say)(&format!("carrying out {} ({})", order.sequence.name, order.run));
        let around =
            Around { client: self.client.clone(), identity: self.identity.clone(), folder: Some(self.folder.clone()) };
        let mut host = Real::new(Place::InstalledSystem, around);
        let client = self.client.clone();
        let mut reports = Reports::start(
            order.run.clone(),
            &host.boot(),
            order.journal.clone(),
            0,
            Box::new(move |events| client.call(events)),
            Box::new(|_| {}),
        );
        match drive(&order, &mut journal, &mut host, &mut reports) {
            Outcome::Finished(result, then) => {
                (self.say)(&format!("{}: {result:?}", order.run));
                while !reports.finish(None, FAREWELL) {
                    (self.say)("the appliance does not know yet how the run ended; telling it again");
                }
                self.folder.remove_run()?;
                if then == Then::PowerOff {
                    (self.say)("switching the machine off");
                    self.end("poweroff", RebootMode::RB_POWER_OFF);
                }
            }
            Outcome::Restart(place) => {
                reports.finish(Some(place), FAREWELL);
                (self.say)("restarting");
                self.end("reboot", RebootMode::RB_AUTOBOOT);
            }
            Outcome::Lost(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// The appliance knows more of the run than the file here: the file is made anew from what it knows.
    fn take_over(&self, order: &RunOrder) -> Result<FileJournal, ServiceError> {
        use crate::tasksequence::journal::JournalStore;
        let path = self.folder.journal();
        let _ = std::fs::remove_file(&path);
        let (mut journal, _) = FileJournal::open(&path)?;
        for entry in &order.journal {
            journal.append(entry)?;
        }
        Ok(journal)
    }

    fn report_inventory(&mut self) -> Result<Option<u32>, ServiceError> {
        let found = ReportInventory {
            at: SystemClock.now(),
            hardware: Some(hardware::collect(Path::new("/"))),
            software: Some(software::collect(Path::new("/"))),
        };
        if let Some(news) = self.spool.what_is_new(found) {
            self.client.call(&news)?;
            self.spool.inventory_taken(&news)?;
        }
        Ok(None)
    }

    fn converge(&mut self) -> Result<Option<u32>, ServiceError> {
        let say = self.say;
        let mut told = |text: &str| say(text);
        let known = self.spool.policy();
        let round = baseline::round(&self.client, &self.identity, &self.folder, Hours::Windows, &mut told);
        let (policy, findings) = match round {
            Ok(round) => (round.policy, round.findings),
            Err(baseline::Failure::Link(error)) if error.is_transient() && known.is_some() => {
                let policy = known.unwrap_or_default();
                let watch = Watch { hours: Hours::Windows, ahead: 0 };
                let findings = baseline::work(&policy, &self.client, &self.identity, &self.folder, watch, &mut told)?;
                (policy, findings)
            }
            Err(baseline::Failure::Link(error)) => return Err(error.into()),
            Err(baseline::Failure::State(error)) => return Err(error.into()),
        };
        self.spool.keep_policy(&policy)?;
        self.spool.keep_compliance(&ReportCompliance { at: SystemClock.now(), findings })?;
        self.send_spool()?;
        Ok(Some(policy.again_seconds).filter(|seconds| *seconds > 0))
    }

    /// Sends what was kept, if anything was.
    fn send_spool(&mut self) -> Result<Option<u32>, ServiceError> {
        if let Some(report) = self.spool.compliance() {
            self.client.call(&report)?;
            self.spool.compliance_taken()?;
        }
        Ok(None)
    }

    /// Asks for a certificate for the same key; the schedule does so long before the present one ends.
    fn renew_certificate(&mut self) -> Result<Option<u32>, ServiceError> {
        let again_seconds = renewal::renew(&self.client, &mut self.identity)?;
        self.folder.save_identity(&self.identity)?;
        (self.say)("the certificate was renewed");
        Ok(Some(again_seconds).filter(|seconds| *seconds > 0))
    }
    /// Asks systemd to end the system in order, and returns when that ends this process; where there is no systemd, syncs
    /// and does it.
    fn end(&self, word: &str, mode: RebootMode) {
        let command = ["systemctl".to_owned(), word.to_owned()];
        let ordered = crate::software::host::run(&command, Path::new("/"), Duration::from_secs(30));
        if ordered.is_ok_and(|ended| ended.code == 0) {
            let begun = Instant::now();
            while begun.elapsed() < SHUTDOWN_LIMIT {
                if self.stop.load(Relaxed) {
                    return;
                }
                thread::sleep(TICK);
            }
        }
        nix::unistd::sync();
        let _ = reboot(mode);
        loop {
            thread::park();
        }
    }
}
