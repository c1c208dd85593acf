//! Programs of steps: started without a shell, heard line by line, ended when their time is over.

use std::io::{self, BufRead, BufReader, PipeReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::stdx::process::change_root;
use crate::stdx::time::{Clock, SystemClock};

use super::{Command, Exit, OUTPUT_BYTES_MAX, Watch};

/// Longer lines are cut; what a program prints without line ends must not fill the memory.
const LINE_BYTES_MAX: usize = 4096;
/// Lines read ahead of whoever listens.
const LINES_AHEAD: usize = 256;
/// How often a silent program is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long the rest of the output is waited for once the program has ended: what it left running may hold the pipe.
const REST: Duration = Duration::from_secs(1);
/// Time between the polite request to end and the end.
const GRACE: Duration = Duration::from_secs(5);

/// Runs the program with `root` as its `/`; `None` is the running system.
pub fn run(command: &Command, root: Option<&Path>, watch: &mut dyn Watch) -> io::Result<Exit> {
    let (mut child, output) = start(command, root)?;
    feed(&mut child, command.input.clone());
    let lines = listen(output);
    let started = Instant::now();
    let mut exit = Exit { status: -1, output: String::new(), timed_out: false, stopped: false };
    let status = loop {
        match lines.recv_timeout(LOOK) {
            Ok(line) => keep(&mut exit.output, &line, watch),
            Err(RecvTimeoutError::Timeout) => {}
            // The program closed its output; it may go on.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(LOOK),
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        exit.timed_out = command.timeout.is_some_and(|timeout| started.elapsed() >= timeout);
        exit.stopped = !exit.timed_out && watch.must_stop(SystemClock.now()).is_some();
        if exit.timed_out || exit.stopped {
            break end(&mut child)?;
        }
    };
    let ended = Instant::now();
    while let Ok(line) = lines.recv_timeout(REST.saturating_sub(ended.elapsed())) {
        keep(&mut exit.output, &line, watch);
    }
    // A program that a signal ended has the status that shells give it.
    exit.status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(exit)
}

fn start(command: &Command, root: Option<&Path>) -> io::Result<(Child, PipeReader)> {
    let mut arguments = command.arguments.iter();
    let program = arguments.next().ok_or_else(|| io::Error::other("the command is empty"))?;
    let (output, writer) = io::pipe()?;
    let mut process = std::process::Command::new(program);
    process
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .envs(&command.environment)
        .current_dir("/")
        .stdin(if command.input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    if let Some(root) = root {
        change_root(&mut process, root)?;
    }
    let child = process.spawn()?;
    Ok((child, output))
}

fn feed(child: &mut Child, input: Vec<u8>) {
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input ends the thread by ending.
        thread::spawn(move || stdin.write_all(&input));
    }
}

fn listen(output: PipeReader) -> Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(LINES_AHEAD);
    thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line);
            let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
            if read.is_err() || line.is_empty() || sender.send(text).is_err() {
                return;
            }
        }
    });
    receiver
}

fn keep(output: &mut String, line: &str, watch: &mut dyn Watch) {
    watch.line(SystemClock.now(), line);
    output.push_str(line);
    output.push('\n');
    if output.len() > OUTPUT_BYTES_MAX {
        let from = output.len() - OUTPUT_BYTES_MAX;
        let from = (from..output.len()).find(|at| output.is_char_boundary(*at)).unwrap_or(output.len());
        output.drain(..from);
    }
}

/// Ends the program and all that it started.
fn end(child: &mut Child) -> io::Result<std::process::ExitStatus> {
    let group = Pid::from_raw(child.id().cast_signed());
    let _ = killpg(group, Signal::SIGTERM);
    let asked = Instant::now();
    while asked.elapsed() < GRACE {
        if let Some(status) = child.try_wait()? {
            let _ = killpg(group, Signal::SIGKILL);
            return Ok(status);
        }
        thread::sleep(LOOK);
    }
    let _ = killpg(group, Signal::SIGKILL);
    child.wait()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::time::Timestamp;
    use crate::tasksequence::host::Root;

    #[derive(Default)]
    struct Lines(Vec<String>, bool);

    impl Watch for Lines {
        fn line(&mut self, _: Timestamp, text: &str) {
            self.0.push(text.to_owned());
        }

        fn progress(&mut self, _: u64, _: u64, _: &str, _: &str) {}

        fn answer(&mut self) -> Option<serde_json::Value> {
            None
        }

        fn must_stop(&mut self, _: Timestamp) -> Option<&'static str> {
            self.1.then_some("the run was cancelled")
        }
    }

    fn command(arguments: &[&str]) -> Command {
        Command {
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            environment: [("WHO".to_owned(), "me; rm".to_owned())].into(),
            root: Root::Here,
            input: b"in\n".to_vec(),
            timeout: Some(Duration::from_secs(30)),
        }
    }

    #[test]
    fn a_program_gets_its_arguments_as_they_are_and_its_lines_are_heard() {
        let mut lines = Lines::default();
        let script = "cat; echo \"$WHO\" \"$1\"; echo err >&2; exit 7";
        let exit = run(&command(&["sh", "-c", script, "sh", "$(x) 'y'"]), None, &mut lines).unwrap();
        assert_eq!((exit.status, exit.timed_out, exit.stopped), (7, false, false));
        assert_eq!(lines.0, ["in", "me; rm $(x) 'y'", "err"]);
        assert_eq!(exit.output, "in\nme; rm $(x) 'y'\nerr\n");
    }

    #[test]
    fn a_program_that_takes_too_long_is_ended_with_all_that_it_started() {
        let mut slow = command(&["sh", "-c", "sleep 600 & wait"]);
        slow.timeout = Some(Duration::from_millis(300));
        let exit = run(&slow, None, &mut Lines::default()).unwrap();
        assert!(exit.timed_out);
        let stopped = run(&command(&["sleep", "600"]), None, &mut Lines(Vec::new(), true)).unwrap();
        assert!(stopped.stopped && !stopped.timed_out);
    }

    #[test]
    fn a_daemon_that_keeps_the_output_open_does_not_hold_the_step() {
        let begun = Instant::now();
        let exit = run(&command(&["sh", "-c", "sleep 20 & echo done"]), None, &mut Lines::default()).unwrap();
        assert_eq!(exit.output, "done\n");
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn endless_output_is_kept_only_at_its_end_and_a_missing_program_is_an_error() {
        let exit = run(&command(&["head", "-c", "100000", "/dev/zero"]), None, &mut Lines::default()).unwrap();
        assert!(exit.output.len() <= OUTPUT_BYTES_MAX);
        assert!(run(&command(&["/no/such/program"]), None, &mut Lines::default()).is_err());
        assert!(run(&command(&[]), None, &mut Lines::default()).is_err());
    }
}
