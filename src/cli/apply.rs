//! `remint image apply`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::context::Context;
use super::image::Chosen;
use super::progress::{limit, shown};
use super::store::others;
use super::{Failure, output, tree};
use crate::access::secret::random;
use crate::imaging::apply::{Options, Receipt, Seed, look_and_plan, make_match};
use crate::imaging::disk::fit::{Grow, Renewed, Wish};
use crate::imaging::disk::{host, target::Kernel};
use crate::imaging::manifest::Kind;
use crate::imaging::plan::Summary;
use crate::imaging::store::ChunkSource;
use crate::imaging::store::failover::Failover;
use crate::imaging::target::Target;
use crate::stdx::monitor::{Limit, Progress};

#[derive(Args)]
pub(super) struct Apply {
    /// NAME, NAME@7, NAME@prod
    image: String,
    /// File or block device; folder for a tree
    target: PathBuf,
    /// Read nothing back: fetch everything
    #[arg(long)]
    no_seed: bool,
    /// Print what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Fit the partition table to the disk; grow `root` or the partition of this number, and its file system; `none`
    /// grows nothing
    #[arg(long, value_name = "PARTITION", value_parser = parse_grow)]
    fit: Option<Grow>,
    /// Give the disk and its partitions new identifiers, so that it can lie beside others of the same image; what the
    /// system refers to by PARTUUID must then be told
    #[arg(long)]
    new_ids: bool,
    /// Folder of another store that is asked for what this one lacks or holds damaged; may be repeated
    #[arg(long, value_name = "DIR")]
    from: Vec<PathBuf>,
    /// Overwrite a target that is in use: repeat its path
    #[arg(long, value_name = "TARGET")]
    force: Option<PathBuf>,
}

fn parse_grow(text: &str) -> Result<Grow, String> {
    match text {
        "root" => Ok(Grow::Root),
        "none" => Ok(Grow::Nothing),
        number => number.parse().map(Grow::Number).map_err(|_| "write root, none or a partition's number".to_owned()),
    }
}

/// What an apply was going to do, and did.
pub(super) struct Made {
    plan: Summary,
    pub(super) receipt: Receipt,
    limit: Option<Limit>,
}

/// What became of the partition table and what lies behind it.
#[derive(Default, Serialize)]
struct Fitted {
    grown_partition: Option<u32>,
    partition_bytes: Option<u64>,
    file_system: Option<String>,
    file_system_bytes: Option<u64>,
    /// Why the file system is as large as it was.
    not_grown: Option<String>,
    /// What helps against that.
    hint: Option<String>,
    new_identifiers: Vec<Renewed>,
    remarks: Vec<String>,
}

pub(super) fn apply(arguments: &Apply, context: &Context) -> Result<(), Failure> {
    let chosen = Chosen::open(&arguments.image, context)?;
    if chosen.manifest.header.kind == Kind::Tree {
        let options = Options { seed: seed(arguments), ..Options::default() };
        return match arguments.dry_run {
            true => tree::plan(&chosen, &arguments.target, &options, context),
            false => tree::apply(&chosen, &arguments.target, &options, context),
        };
    }
    if arguments.force.as_ref() != Some(&arguments.target) {
        Kernel::host().check_unused(&arguments.target)?;
    }
    if arguments.dry_run {
        return show_plan(&chosen, arguments, context);
    }
    let target = Target::open(&arguments.target)?;
    let made = make(&chosen, others(&arguments.from)?, &target, seed(arguments), context)?;
    drop(target);
    let fitted = fit(arguments)?;
    if context.json() {
        return output::json(&json!({
            "target": arguments.target, "version": chosen.version.to_string(), "plan": made.plan, "receipt": made.receipt,
            "limit": made.limit.map(|limit| limit.to_string()), "fitted": fitted,
        }));
    }
    report(&chosen, arguments, &made);
    if let Some(fitted) = &fitted {
        report_fit(fitted);
    }
    Ok(())
}

fn seed(arguments: &Apply) -> Seed {
    if arguments.no_seed { Seed::Nothing } else { Seed::Target }
}

/// Makes `target` match, and shows the plan before anything is written.
pub(super) fn make(
    chosen: &Chosen,
    others: Option<Failover<'static>>,
    target: &Target,
    seed: Seed,
    context: &Context,
) -> Result<Made, Failure> {
    let progress = Progress::default();
    let options = Options { seed, ..Options::default() };
    let mut plan = Summary::default();
    let mut planned = |summary: &Summary| {
        plan = *summary;
        if !context.json() {
            output::line(format!("plan: {summary}"));
        }
    };
    let own = chosen.source();
    let source: Box<dyn ChunkSource + '_> = match others {
        None => Box::new(own),
        Some(others) => Box::new(Failover::new(vec![Box::new(own), Box::new(others)])),
    };
    let work = || make_match(&chosen.manifest, &*source, target, &options, &progress, &mut planned);
    let receipt = shown("applying", &progress, work)?;
    Ok(Made { plan, receipt, limit: progress.spent().limit() })
}

fn show_plan(chosen: &Chosen, arguments: &Apply, context: &Context) -> Result<(), Failure> {
    let target = Target::look(&arguments.target)?;
    let progress = Progress::default();
    let options = Options { seed: seed(arguments), ..Options::default() };
    let source = chosen.source();
    let look = || look_and_plan(&chosen.manifest, &source, &target, &options, &progress);
    let plan = shown("looking", &progress, look)?;
    if context.json() {
        return output::json(&json!({
            "target": arguments.target, "version": chosen.version.to_string(), "plan": plan.summary,
        }));
    }
    output::line(format!("plan: {}", plan.summary));
    Ok(())
}

fn report(chosen: &Chosen, arguments: &Apply, made: &Made) {
    let receipt = &made.receipt;
    output::line(format!(
        "{} matches {}: {} kept, {} moved, {} fetched ({} read from packs), {} zeroed, {} chunks read back{}",
        arguments.target.display(),
        chosen.version,
        output::size(receipt.kept_bytes),
        output::size(receipt.moved_bytes),
        output::size(receipt.fetched_bytes),
        output::size(receipt.wire_bytes),
        output::size(receipt.zeroed_bytes),
        receipt.read_back_chunks,
        made.limit.map(|found| format!("; {}", limit(found))).unwrap_or_default()
    ));
}

/// Fits the table and grows what was asked for. A file system that does not grow is no failure: the system boots.
fn fit(arguments: &Apply) -> Result<Option<Fitted>, Failure> {
    if arguments.fit.is_none() && !arguments.new_ids {
        return Ok(None);
    }
    let renew = arguments.new_ids.then(random);
    let wish = Wish { grow: arguments.fit.unwrap_or(Grow::Nothing), renew };
    let done = host::fit(&arguments.target, wish)?;
    let mut fitted = Fitted { new_identifiers: done.renewed, remarks: done.remarks, ..Fitted::default() };
    let Some((partition, _)) = done.grown else { return Ok(Some(fitted)) };
    fitted.grown_partition = Some(partition.number);
    fitted.partition_bytes = Some(partition.new_bytes);
    let mount_point = std::env::temp_dir().join(format!("remint-grow-{}", std::process::id()));
    match host::grow_file_system(&arguments.target, &partition, &mount_point) {
        Ok(grown) => {
            fitted.file_system = Some(grown.kind.name().to_owned());
            fitted.file_system_bytes = Some(grown.new_bytes);
        }
        Err(error) => {
            let failure = Failure::from(error);
            (fitted.not_grown, fitted.hint) = (Some(failure.message), failure.hint);
        }
    }
    Ok(Some(fitted))
}

fn report_fit(fitted: &Fitted) {
    if let (Some(number), Some(bytes)) = (fitted.grown_partition, fitted.partition_bytes) {
        output::line(format!("partition {number} has {} now", output::size(bytes)));
    }
    if let (Some(kind), Some(bytes)) = (&fitted.file_system, fitted.file_system_bytes) {
        output::line(format!("its {kind} has {} now", output::size(bytes)));
    }
    if let Some(why) = &fitted.not_grown {
        output::line(format!("note: its file system is as it was: {why}"));
        fitted.hint.iter().for_each(|hint| output::line(format!("hint: {hint}")));
    }
    for renewed in &fitted.new_identifiers {
        let what = if renewed.partition == 0 { "disk".to_owned() } else { format!("partition {}", renewed.partition) };
        output::line(format!("{what}: {} is {} now", renewed.old, renewed.new));
    }
    fitted.remarks.iter().for_each(|remark| output::line(format!("note: {remark}")));
}
