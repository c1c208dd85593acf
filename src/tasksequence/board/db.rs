//! The questions.

use std::collections::HashMap;

use super::{Cause, Day, Filter};
use crate::fleet::deployment::RunState;
use crate::fleet::machine::MachineId;
use crate::stdx::time::Timestamp;
use crate::tasksequence::db::{Error, RUN_COLUMNS, RunRecord, SequenceRecord, Sequences, read_run, read_sequence};

const DAY_MILLISECONDS: i64 = 86_400_000;
/// Steps that a report of failures names.
const CAUSES_MAX: u32 = 12;

impl Sequences {
    /// The newest run of each machine that ever had one.
    pub fn latest_runs(&self) -> Result<HashMap<MachineId, RunRecord>, Error> {
        let records: Vec<RunRecord> = self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached(&format!(
                "SELECT {RUN_COLUMNS} WHERE NOT EXISTS (
                    SELECT 1 FROM run later WHERE later.machine = run.machine
                    AND (later.created_at > run.created_at OR later.created_at = run.created_at AND later.id > run.id))"
            ))?;
            let rows = statement.query_map([], read_run)?;
            Ok::<_, Error>(rows.collect::<Result<_, _>>()?)
        })?;
        Ok(records.into_iter().map(|record| (record.machine.clone(), record)).collect())
    }

    /// A stretch of the list of runs, newest first, and how many there are in all.
    pub fn run_page(&self, filter: &Filter, skip: u64, most: u64) -> Result<(Vec<RunRecord>, u64), Error> {
        const WHERE: &str = "(?1 IS NULL OR run.state = ?1) AND (?2 IS NULL OR instr(deployment.sequence, ?2) > 0)";
        let (state, sequence) = (filter.state.map(RunState::name), filter.sequence.as_deref());
        let (records, all) = self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached(&format!(
                "SELECT {RUN_COLUMNS} WHERE {WHERE} ORDER BY run.created_at DESC, run.position LIMIT ?4 OFFSET ?3"
            ))?;
            let rows = statement.query_map((state, sequence, skip, most), read_run)?;
            let records: Vec<RunRecord> = rows.collect::<Result<_, _>>()?;
            let all: u64 = c
                .prepare_cached(&format!(
                    "SELECT count(*) FROM run JOIN deployment ON deployment.id = run.deployment WHERE {WHERE}"
                ))?
                .query_row((state, sequence), |row| row.get(0))?;
            Ok::<_, Error>((records, all))
        })?;
        Ok((self.with_names(records)?, all))
    }

    /// The same records with the machines' present names.
    pub fn with_names(&self, mut records: Vec<RunRecord>) -> Result<Vec<RunRecord>, Error> {
        let names: HashMap<MachineId, String> =
            self.fleet.machines()?.into_iter().map(|machine| (machine.id, machine.name)).collect();
        for record in &mut records {
            if let Some(name) = names.get(&record.machine) {
                record.machine_name.clone_from(name);
            }
        }
        Ok(records)
    }

    /// How many runs are in each state.
    pub fn run_counts(&self) -> Result<Vec<(RunState, u64)>, Error> {
        let counts: HashMap<String, u64> = self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached("SELECT state, count(*) FROM run GROUP BY state")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok::<_, Error>(rows.collect::<Result<_, _>>()?)
        })?;
        let count = |state: RunState| (state, counts.get(state.name()).copied().unwrap_or(0));
        Ok(RunState::ALL.into_iter().map(count).collect())
    }

    /// Runs that ended since then, by day, oldest day first; days without any are left out.
    pub fn days(&self, since: Timestamp) -> Result<Vec<Day>, Error> {
        self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT finished_at / ?2, sum(state = 'succeeded'), sum(state = 'failed'), sum(state = 'cancelled')
                 FROM run WHERE finished_at >= ?1 GROUP BY finished_at / ?2 ORDER BY 1",
            )?;
            let rows = statement.query_map((since.milliseconds(), DAY_MILLISECONDS), |row| {
                Ok(Day { day: row.get(0)?, succeeded: row.get(1)?, failed: row.get(2)?, cancelled: row.get(3)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Where runs failed since then, the most frequent step first.
    pub fn causes(&self, since: Timestamp) -> Result<Vec<Cause>, Error> {
        self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT step_name, max(COALESCE(error, '')), count(*) FROM run
                 WHERE state = 'failed' AND finished_at >= ?1 GROUP BY step_name ORDER BY 3 DESC, 1 LIMIT ?2",
            )?;
            let rows = statement.query_map((since.milliseconds(), CAUSES_MAX), |row| {
                Ok(Cause { step: row.get(0)?, error: row.get(1)?, runs: row.get(2)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// All versions of a sequence, newest first.
    pub fn versions(&self, name: &str) -> Result<Vec<SequenceRecord>, Error> {
        self.fleet.db.read(|c| {
            let mut statement = c.prepare_cached(
                "SELECT name, version, document, created_at, created_by, files FROM sequence WHERE name = ?1
                 ORDER BY created_at DESC LIMIT 100",
            )?;
            let rows = statement.query_map([name], read_sequence)?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }
}
