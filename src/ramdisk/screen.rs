//! What a technician in front of the machine sees: the state, how it is painted on a display, and what it says as plain
//! lines on a serial console. Pure: the terminal decides when and where.

use std::collections::VecDeque;
use std::time::Duration;

/// Lines of the log that a display shows at most; older ones are forgotten.
const LOG_LINES_MAX: usize = 12;
/// Longest line that is kept: what an agent far away could send must not flood a console.
const LINE_CHARACTERS_MAX: usize = 300;
/// The rate is the mean over this long: shorter jumps, longer lies after a stall.
const RATE_WINDOW: Duration = Duration::from_secs(10);
/// A serial console hears of progress no more often than this.
const PROGRESS_LINE_EVERY: Duration = Duration::from_secs(5);

/// Everything that is shown. `now` is the time since the boot environment started.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Such as `LabCo LabBox, serial S1`.
    pub machine: String,
    pub address: String,
    pub server: String,
    /// What is going on, as `Waiting for approval`.
    pub activity: String,
    /// What to do, when a person is needed.
    pub advice: Option<String>,
    pub pairing_code: Option<String>,
    pub step: Option<Step>,
    pub progress: Option<Progress>,
    /// The last failure and its way out, until something succeeds.
    pub trouble: Option<(String, Option<String>)>,
    pub log: VecDeque<String>,
    progress_line_at: Option<Duration>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Counted from 1.
    pub number: u32,
    pub total: u32,
    pub name: String,
}

/// Bytes done of a total, with the samples that the rate is made of.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    done: u64,
    total: u64,
    samples: VecDeque<(Duration, u64)>,
}

/// What happened. Each is one change of the state and at most one line on a serial console.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    Machine(String),
    Network {
        address: String,
    },
    Server(String),
    Activity(String),
    /// A person has to do this before anything goes on.
    Advice(String),
    PairingCode(String),
    Approved,
    Step(Step),
    Progress {
        done: u64,
        total: u64,
    },
    Trouble {
        text: String,
        hint: Option<String>,
    },
    Recovered,
    Log(String),
}

impl State {
    /// Takes the event in and returns the lines that a serial console prints for it.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<String> {
        match event {
            Event::Machine(text) => said(&mut self.machine, "machine", text),
            Event::Network { address } => said(&mut self.address, "address", address),
            Event::Server(text) => said(&mut self.server, "appliance", text),
            Event::Activity(text) => {
                let text = cleaned(&text);
                if self.activity == text { Vec::new() } else { self.begin(text) }
            }
            Event::Advice(text) => {
                let text = cleaned(&text);
                let known = self.advice.replace(text.clone()).is_some_and(|old| old == text);
                if known { Vec::new() } else { vec![text] }
            }
            Event::PairingCode(code) => {
                let code = cleaned(&code);
                let line = format!("pairing code: {code}");
                let known = self.pairing_code.replace(code.clone()).is_some_and(|old| old == code);
                if known { Vec::new() } else { vec![line] }
            }
            Event::Approved => {
                self.advice = None;
                self.pairing_code.take().map(|_| "approved".to_owned()).into_iter().collect()
            }
            Event::Step(step) => {
                let step = Step { name: cleaned(&step.name), ..step };
                let line = format!("step {}/{}: {}", step.number, step.total, step.name);
                self.progress = None;
                self.step = Some(step);
                vec![line]
            }
            Event::Progress { done, total } => self.advance(now, done, total),
            Event::Trouble { text, hint } => self.fail(cleaned(&text), hint.map(|hint| cleaned(&hint))),
            Event::Recovered => {
                self.trouble = None;
                Vec::new()
            }
            Event::Log(line) => self.write_log(&line),
        }
    }

    fn begin(&mut self, activity: String) -> Vec<String> {
        self.progress = None;
        self.advice = None;
        self.activity.clone_from(&activity);
        vec![activity]
    }

    fn advance(&mut self, now: Duration, done: u64, total: u64) -> Vec<String> {
        let progress = self.progress.get_or_insert_default();
        progress.push(now, done, total);
        let finished = total > 0 && done >= total;
        let due = self.progress_line_at.is_none_or(|last| now.saturating_sub(last) >= PROGRESS_LINE_EVERY);
        if !due && !finished {
            return Vec::new();
        }
        self.progress_line_at = if finished { None } else { Some(now) };
        vec![progress.line()]
    }

    fn fail(&mut self, text: String, hint: Option<String>) -> Vec<String> {
        let trouble = Some((text, hint));
        if self.trouble == trouble {
            return Vec::new();
        }
        self.trouble = trouble;
        let (text, hint) = self.trouble.as_ref().map_or(("", None), |(text, hint)| (text.as_str(), hint.as_ref()));
        let mut lines = vec![format!("failed to {text}")];
        lines.extend(hint.map(|hint| format!("hint: {hint}")));
        lines
    }

    fn write_log(&mut self, text: &str) -> Vec<String> {
        let lines: Vec<String> = text.lines().map(cleaned).filter(|line| !line.is_empty()).collect();
        self.log.extend(lines.iter().cloned());
        while self.log.len() > LOG_LINES_MAX {
            self.log.pop_front();
        }
        lines
    }

    /// The display's whole content: `rows` lines of at most `columns` characters.
    pub fn paint(&self, columns: usize, rows: usize) -> Vec<String> {
        let mut lines = vec![format!("Remint {}", env!("CARGO_PKG_VERSION")), String::new()];
        for (label, value) in [("Machine", &self.machine), ("Address", &self.address), ("Appliance", &self.server)] {
            lines.push(format!("  {label:<10}{value}"));
        }
        lines.extend([String::new(), format!("  {}", self.activity)]);
        if let Some(step) = &self.step {
            lines.push(format!("  Step {} of {}: {}", step.number, step.total, step.name));
        }
        if let Some(code) = &self.pairing_code {
            lines.extend([String::new(), format!("  Pairing code:  {code}"), String::new()]);
        }
        lines.extend(self.advice.iter().map(|advice| format!("  {advice}")));
        if let Some(progress) = &self.progress {
            lines.extend([String::new(), format!("  {}", progress.bar(columns.saturating_sub(6).min(60)))]);
            lines.push(format!("  {}", progress.line()));
        }
        if let Some((text, hint)) = &self.trouble {
            lines.extend([String::new(), format!("  Failed to {text}")]);
            lines.extend(hint.iter().map(|hint| format!("  Hint: {hint}")));
        }
        let mut wrapped: Vec<String> = lines.iter().flat_map(|line| wrap(line, columns)).collect();
        let room = rows.saturating_sub(wrapped.len() + 1).min(self.log.len());
        if room > 0 {
            wrapped.push(String::new());
            let recent = self.log.iter().skip(self.log.len() - room);
            wrapped.extend(recent.map(|line| line.chars().take(columns).collect::<String>()));
        }
        wrapped.truncate(rows);
        wrapped
    }
}

impl Progress {
    fn push(&mut self, now: Duration, done: u64, total: u64) {
        (self.done, self.total) = (done.min(total), total);
        self.samples.push_back((now, done));
        while self.samples.len() > 2 && now.saturating_sub(self.samples[1].0) >= RATE_WINDOW {
            self.samples.pop_front();
        }
    }

    /// Bytes per second over the window; `None` until there is something to measure.
    fn rate(&self) -> Option<u64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let seconds = last.0.saturating_sub(first.0).as_secs_f64();
        (seconds >= 0.5).then(|| (last.1.saturating_sub(first.1) as f64 / seconds) as u64)
    }

    /// `512.0 of 734.0 MB, 70 %, 113.0 MB/s, 2 s left`
    fn line(&self) -> String {
        let percent = self.done.saturating_mul(100).checked_div(self.total).unwrap_or(0);
        let mut line = format!("{} of {}, {percent} %", bytes(self.done), bytes(self.total));
        if let Some(rate) = self.rate().filter(|rate| *rate > 0) {
            line.push_str(&format!(", {}/s", bytes(rate)));
            line.push_str(&format!(", {} left", duration((self.total - self.done) / rate)));
        }
        line
    }

    fn bar(&self, width: usize) -> String {
        let full = (self.done as u128 * width as u128).checked_div(u128::from(self.total)).unwrap_or(0) as usize;
        format!("[{}{}]", "#".repeat(full), ".".repeat(width - full.min(width)))
    }
}

fn said(field: &mut String, label: &str, text: String) -> Vec<String> {
    let text = cleaned(&text);
    let line = format!("{label}: {text}");
    if std::mem::replace(field, text.clone()) == text { Vec::new() } else { vec![line] }
}

/// One line without control characters: what is shown came over the network or out of a firmware table.
fn cleaned(text: &str) -> String {
    let line = text.trim_end().chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(LINE_CHARACTERS_MAX).collect()
}

fn wrap(line: &str, columns: usize) -> Vec<String> {
    if line.chars().count() <= columns || columns < 10 {
        return vec![line.to_owned()];
    }
    let mut lines = Vec::new();
    let mut current = String::new();
    for word in line.trim_end().split(' ') {
        if current.chars().count() + 1 + word.chars().count() > columns && !current.trim().is_empty() {
            lines.push(std::mem::replace(&mut current, "   ".to_owned()));
        }
        if !current.is_empty() || word.is_empty() {
            current.push(' ');
        }
        current.push_str(word);
    }
    lines.push(current);
    lines
}

/// Decimal units, as disks and networks are sold: `734.0 MB`.
pub fn bytes(count: u64) -> String {
    for (unit, size) in [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)] {
        if count as f64 >= size {
            return format!("{:.1} {unit}", count as f64 / size);
        }
    }
    format!("{count} B")
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..=99 => format!("{seconds} s"),
        100..=5999 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_serial_console_hears_each_thing_once() {
        let mut state = State::default();
        let trouble = || Event::Trouble { text: "get an address".into(), hint: Some("is a cable in?".into()) };
        assert_eq!(state.handle(at(0), Event::Activity("Looking for a network".into())), ["Looking for a network"]);
        assert!(state.handle(at(1), Event::Activity("Looking for a network".into())).is_empty());
        for seconds in [1, 2] {
            state.handle(at(seconds), Event::Activity("Nothing to install".into()));
            let lines = state.handle(at(seconds), Event::Advice("Start a deployment".into()));
            assert_eq!(lines.len(), usize::from(seconds == 1), "advice is given once");
        }
        assert_eq!(state.handle(at(1), trouble()), ["failed to get an address", "hint: is a cable in?"]);
        assert!(state.handle(at(2), trouble()).is_empty());
        state.handle(at(3), Event::Recovered);
        assert_eq!(state.handle(at(4), trouble()).len(), 2);
        assert_eq!(state.handle(at(5), Event::PairingCode("7 2 9".into())), ["pairing code: 7 2 9"]);
        assert!(state.handle(at(6), Event::PairingCode("7 2 9".into())).is_empty());
    }

    #[test]
    fn progress_lines_are_rare_and_tell_rate_and_time_left() {
        let mut state = State::default();
        let mut lines = Vec::new();
        for second in 0..=20 {
            lines.extend(state.handle(at(second), Event::Progress { done: second * 10_000_000, total: 200_000_000 }));
        }
        assert_eq!(lines.len(), 5, "{lines:?}");
        assert_eq!(lines[1], "50.0 MB of 200.0 MB, 25 %, 10.0 MB/s, 15 s left");
        assert_eq!(lines[4], "200.0 MB of 200.0 MB, 100 %, 10.0 MB/s, 0 s left");
    }

    #[test]
    fn the_display_shows_everything_a_technician_needs_and_nothing_that_moves_the_cursor() {
        let mut state = State::default();
        for event in [
            Event::Machine("LabCo\u{1b}[2J LabBox, serial S1\n\0".into()),
            Event::Network { address: "10.77.0.100 (eth0)".into() },
            Event::Activity("Waiting for approval".into()),
            Event::PairingCode("412 908".into()),
            Event::Advice("Compare this code with the console and approve the machine there.".into()),
            Event::Step(Step { number: 2, total: 7, name: "apply image".into() }),
            Event::Progress { done: 1, total: 2 },
            Event::Trouble { text: "reach the appliance ".repeat(20), hint: Some("check the cable".into()) },
        ] {
            state.handle(at(1), event);
        }
        for line in 0..100 {
            state.handle(at(2), Event::Log(format!("line {line}")));
        }
        let painted = state.paint(80, 25);
        let text = painted.join("\n");
        assert!(painted.len() <= 25 && painted.iter().all(|line| line.chars().count() <= 80), "{text}");
        for expected in
            ["serial S1", "10.77.0.100", "412 908", "approve", "Step 2 of 7", "[###", "check the cable", "line 99"]
        {
            assert!(text.contains(expected), "{expected} is missing in\n{text}");
        }
        assert!(!text.contains('\u{1b}') && !text.contains('\0'));
    }
}
