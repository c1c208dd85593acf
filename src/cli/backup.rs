//! `remint backup` and `remint restore`

use std::path::PathBuf;

use clap::Args;

use super::context::Context;
use super::progress::shown;
use super::{Failure, output};
use crate::server::backup;
use crate::stdx::monitor::Progress;

#[derive(Args)]
pub(super) struct Backup {
    /// Folder of the backups, on another disk; a second backup into it copies only what is new
    folder: PathBuf,
    /// Snapshots to keep, the newest ones; 0 keeps all
    #[arg(long, default_value_t = 0)]
    keep: usize,
}

#[derive(Args)]
pub(super) struct Restore {
    /// Folder of the backups (its newest snapshot is taken), or one snapshot in it
    backup: PathBuf,
}

pub(super) fn back_up(arguments: &Backup, context: &Context) -> Result<(), Failure> {
    let site = context.site()?;
    let progress = Progress::default();
    let made = shown("copying", &progress, || backup::backup(&site, &arguments.folder, arguments.keep, &progress))?;
    if context.json() {
        output::json(&made)?;
    } else {
        output::line(format!(
            "{}: {} packs, of which {} ({}) were new",
            made.snapshot.display(),
            made.packs,
            made.copied_packs,
            output::size(made.copied_bytes)
        ));
        output::line("It holds the site's keys and the records of people: keep it where only administrators look.");
    }
    match made.damaged.as_slice() {
        [] => Ok(()),
        damaged => Err(Failure::new(format!("the site's store is damaged: {}", damaged.join("; ")))
            .with_hint("all else is in the backup; `remint store scrub` repairs the store or names what is lost")),
    }
}

pub(super) fn restore(arguments: &Restore, context: &Context) -> Result<(), Failure> {
    let progress = Progress::default();
    let restored = shown("copying", &progress, || backup::restore(&arguments.backup, context.data(), &progress))?;
    if context.json() {
        return output::json(&restored);
    }
    output::line(format!(
        "{} is the site as it was on {}, with {} packs",
        context.data().display(),
        output::time(restored.made_at),
        restored.packs.len()
    ));
    output::line("Next: `remint serve`. Machines that knew the old appliance go on when this one has its address.");
    Ok(())
}
