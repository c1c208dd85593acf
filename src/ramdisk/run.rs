//! The worker of the boot environment: drivers, network, check-in, and then the run.

use std::fs;
use std::path::Path;
use std::time::Duration;

use super::carry::{Next, carry_out};
use super::cmdline::{self, Arguments};
use super::init::Ending;
use super::plug::Plug;
use super::screen::Event;
use super::terminal::{Painting, Terminal};
use super::{clock, init, network, trial};
use crate::agent::enrol::{self, Applicant, Enrolled, KeyError, MachineKey, Waiting};
use crate::agent::renewal::Renewal;
use crate::agent::state::Identity;
use crate::fleet::link::{Stage, Trial};
use crate::inventory::hardware;
use crate::link;
use crate::link::client::{Client, fetch_authority, patiently};
use crate::stdx::backoff::Backoff;
use crate::stdx::hex;
use crate::stdx::hint::{Hint, chain};
use crate::stdx::mac::MacAddr;
use crate::stdx::time::{Clock, SystemClock};
use crate::tasksequence::host::Place;
use crate::tasksequence::link::{FetchRun, RunOrder};

/// How often a machine without a run asks for one.
const IDLE: Duration = Duration::from_secs(5);
/// How long a failure that only a restart can mend stays on the screen.
const READING_TIME: Duration = Duration::from_secs(60);

/// Carries out everything between power on and restart. Returns when the machine is to restart or to be switched off.
pub fn main() -> Ending {
    let terminal = Terminal::open(Path::new("/sys"), Path::new("/dev"), Painting::Continuous);
    let mut plug = Plug::new(terminal.clone());
    terminal.activity("Loading drivers");
    plug.plug();
    init::mount_efivars();
    let arguments = arguments(&terminal);
    terminal.show(Event::Server(arguments.server.clone()));
    let hardware = hardware::collect(Path::new("/"));
    terminal.show(Event::Machine(hardware::describe(&hardware)));
    let trial = arguments.test_hardware.then(|| trial::run(&terminal));
    let (card, _) = network::connect(&terminal, arguments.mac, || plug.plug());
    let ending = work(&terminal, &arguments, card.mac, trial).unwrap_or_else(|error| {
        terminal
            .trouble(chain(error.as_ref()), Some("press Enter to restart the machine; it restarts by itself".into()));
        terminal.wait_for_enter(READING_TIME);
        Ending::Restart
    });
    terminal.activity(if ending == Ending::PowerOff { "Switching off" } else { "Restarting" });
    ending
}

type Failure = Box<dyn std::error::Error>;

fn work(terminal: &Terminal, arguments: &Arguments, card: MacAddr, trial: Option<Trial>) -> Result<Ending, Failure> {
    let authority_pem = authority(terminal, arguments)?;
    let enrolled = check_in(terminal, &Client::new(&arguments.server, &authority_pem, None)?, card, trial)?;
    let client = Client::new(&arguments.server, &authority_pem, Some(&enrolled.credentials))?;
    let identity = Identity::new(&arguments.server, &authority_pem, &enrolled, SystemClock.now());
    let _renewal = Renewal::start(client.clone(), identity.clone(), |_| ());
    loop {
        let Some(order) = fetch_order(terminal, &client)? else { return Ok(Ending::Restart) };
        match carry_out(terminal, &client, &identity, &order)? {
            Next::Restart => return Ok(Ending::Restart),
            Next::PowerOff => return Ok(Ending::PowerOff),
            Next::AskAgain => terminal.wait_for_enter(IDLE),
        };
    }
}

/// What the boot script said. Without it nothing can go on, and a restart may bring a better script.
fn arguments(terminal: &Terminal) -> Arguments {
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    match cmdline::parse(&line) {
        Ok(arguments) => arguments,
        Err(error) => {
            terminal.trouble(chain(&error), error.hint());
            terminal.wait_for_enter(READING_TIME);
            init::restart()
        }
    }
}

/// The site's authority, recognised by the digest on the kernel command line.
fn authority(terminal: &Terminal, arguments: &Arguments) -> Result<String, link::Error> {
    terminal.activity("Looking for the appliance");
    let url = format!("{}/boot/authority.pem", arguments.http);
    let digest = hex::emit(&arguments.authority);
    let pem = call(terminal, || fetch_authority(&url, &digest))?;
    clock::correct(terminal, &url);
    Ok(pem)
}

fn check_in(terminal: &Terminal, client: &Client, card: MacAddr, trial: Option<Trial>) -> Result<Enrolled, KeyError> {
    terminal.activity("Checking in");
    let hardware = hardware::collect(Path::new("/"));
    let identity = hardware.identity();
    let applicant = Applicant { stage: Stage::BootEnvironment, identity, arrived_by: Some(card), hardware, trial };
    let enrolled = enrol::enrol(client, MachineKey::make()?, &applicant, &mut |waiting, pause| {
        show_waiting(terminal, waiting);
        terminal.wait_for_enter(pause);
        terminal.typed()
    })?;
    terminal.show(Event::Recovered);
    terminal.show(Event::Approved);
    terminal.activity(format!("Checked in as {}", enrolled.name));
    Ok(enrolled)
}

fn show_waiting(terminal: &Terminal, waiting: Waiting) {
    match waiting {
        Waiting::Approval { name, code } => {
            terminal.show(Event::Recovered);
            terminal.activity(format!("Waiting for approval as {name}"));
            terminal.show(Event::PairingCode(code.clone()));
            let how = format!(
                "Compare the code with the console and approve there, or: remint machine approve {name}. Or type an enrolment code here."
            );
            terminal.show(Event::Advice(how));
        }
        Waiting::Rejected { reason } => {
            let hint = "approve the machine on the appliance, or switch it off".to_owned();
            terminal.trouble(format!("check in: {reason}"), Some(hint));
        }
        Waiting::Unreachable { text, hint } => terminal.trouble(text, hint),
    }
}

/// Waits until there is a run for this machine. `None`: it goes on in the installed system, so restart.
fn fetch_order(terminal: &Terminal, client: &Client) -> Result<Option<Box<RunOrder>>, link::Error> {
    loop {
        let reply = call(terminal, || client.call(&FetchRun { place: Place::BootEnvironment }))?;
        if reply.order.is_some() || reply.restart.is_some() {
            return Ok(reply.order);
        }
        terminal.activity(reply.notice.unwrap_or_else(|| "Nothing to install on this machine".to_owned()));
        terminal.show(Event::Advice("Start a deployment on the appliance; this goes on by itself.".into()));
        terminal.wait_for_enter(IDLE);
    }
}

/// Repeats a call while the appliance is away, and says so.
fn call<T>(terminal: &Terminal, what: impl FnMut() -> Result<T, link::Error>) -> Result<T, link::Error> {
    let told = |_, error: &link::Error| {
        terminal.trouble(chain(error), error.hint());
        std::ops::ControlFlow::Continue(())
    };
    let done = patiently(Backoff::PATIENT, told, what);
    if done.is_ok() {
        terminal.show(Event::Recovered);
    }
    done
}
