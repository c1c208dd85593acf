//! What the agent does when: a decision of (schedule so far, now).

use crate::stdx::time::Timestamp;

/// One thing that the agent does from time to time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// Send reports that were kept while the appliance was away.
    Spool,
    /// Ask whether there is a run for this machine.
    Run,
    Inventory,
    Baseline,
    Certificate,
}

impl Task {
    /// In the order in which they are done when several are due. The inventory comes before the run: a system that was
    /// cloned to another machine is found out before it is given anything.
    pub const ALL: [Task; 5] = [Task::Certificate, Task::Inventory, Task::Spool, Task::Run, Task::Baseline];

    /// As in "failed to ...".
    pub fn words(self) -> &'static str {
        match self {
            Task::Spool => "send what was kept",
            Task::Run => "ask for a run",
            Task::Inventory => "report the inventory",
            Task::Baseline => "work on the baseline",
            Task::Certificate => "renew the certificate",
        }
    }

    /// Seconds from one time to the next when all goes well.
    fn every_seconds(self) -> i64 {
        match self {
            Task::Spool => 60,
            Task::Run => 60,
            Task::Inventory => 15 * 60,
            Task::Baseline => 15 * 60,
            Task::Certificate => 24 * 3600,
        }
    }
}

/// After a failure a task is tried again after this many seconds, doubled each time up to its usual interval.
const RETRY_SECONDS: i64 = 10;
/// What an appliance may ask for, so that a wrong number neither floods it nor silences a machine.
const AGAIN_SECONDS: std::ops::RangeInclusive<u32> = 30..=86_400;

/// When each task is due next.
#[derive(Clone, Debug)]
pub struct Schedule {
    rows: Vec<Row>,
    seed: u64,
}

#[derive(Clone, Debug)]
struct Row {
    task: Task,
    due: Timestamp,
    failures: u32,
}

impl Schedule {
    /// `seed` spreads machines that were started together; `renew_at` is when the certificate wants to be renewed.
    pub fn start(now: Timestamp, seed: u64, renew_at: Timestamp) -> Schedule {
        let due = |task: Task| if task == Task::Certificate { renew_at.max(now) } else { now };
        let row = |task: Task| Row { task, due: due(task), failures: 0 };
        Schedule { rows: Task::ALL.into_iter().map(row).collect(), seed }
    }

    /// The first task that is due. A clock that was set back does not delay a task by more than its interval.
    pub fn due(&mut self, now: Timestamp) -> Option<Task> {
        for row in &mut self.rows {
            row.due = row.due.min(now.plus_seconds(AGAIN_SECONDS.end().cast_signed().into()));
        }
        self.rows.iter().find(|row| row.due <= now).map(|row| row.task)
    }

    /// Plans the next time. `again` is what the appliance asked for.
    pub fn finished(&mut self, task: Task, now: Timestamp, well: bool, again: Option<u32>) {
        let spread = self.seed;
        let Some(row) = self.rows.iter_mut().find(|row| row.task == task) else { return };
        let usual = again.map_or(task.every_seconds(), |seconds| {
            i64::from(seconds.clamp(*AGAIN_SECONDS.start(), *AGAIN_SECONDS.end()))
        });
        row.failures = if well { 0 } else { row.failures + 1 };
        let seconds = match row.failures {
            0 => usual,
            failures => (RETRY_SECONDS << (failures - 1).min(20)).min(usual.max(RETRY_SECONDS)),
        };
        // Up to a tenth earlier, so that machines that were started together drift apart.
        let share = (spread.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 57) as i64;
        row.due = now.plus_seconds(seconds - seconds * share / 1280);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_milliseconds(seconds * 1000)
    }

    fn done(schedule: &mut Schedule, now: i64) -> Vec<Task> {
        let mut tasks = Vec::new();
        while let Some(task) = schedule.due(at(now)) {
            tasks.push(task);
            schedule.finished(task, at(now), true, None);
        }
        tasks
    }

    #[test]
    fn everything_is_done_at_the_start_and_then_at_its_own_pace() {
        let mut schedule = Schedule::start(at(0), 0, at(3600));
        assert_eq!(done(&mut schedule, 0), [Task::Inventory, Task::Spool, Task::Run, Task::Baseline]);
        assert_eq!(done(&mut schedule, 1), []);
        assert_eq!(done(&mut schedule, 61), [Task::Spool, Task::Run]);
        assert_eq!(done(&mut schedule, 3601), Task::ALL);
    }

    #[test]
    fn failures_back_off_to_the_usual_interval_and_success_forgets_them() {
        let mut schedule = Schedule::start(at(0), 0, at(0));
        let mut waits = Vec::new();
        for _ in 0..9 {
            schedule.finished(Task::Inventory, at(0), false, None);
            waits.push(schedule.rows[1].due.since(at(0)) / 1000);
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 900, 900]);
        schedule.finished(Task::Inventory, at(0), true, Some(120));
        assert_eq!(schedule.rows[1].due, at(120));
        schedule.finished(Task::Inventory, at(0), true, Some(u32::MAX));
        assert_eq!(schedule.rows[1].due, at(86_400));
    }

    #[test]
    fn a_clock_that_was_years_ahead_does_not_silence_the_agent() {
        let mut schedule = Schedule::start(at(0), 7, at(0));
        schedule.finished(Task::Baseline, at(3_000_000_000), true, None);
        schedule.due(at(1000));
        assert!(schedule.rows[4].due <= at(1000 + 86_400));
    }
}
