//! `remint support`

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::context::Context;
use super::{Failure, output};
use crate::server::support::PATH;

#[derive(Args)]
pub(super) struct Arguments {
    /// Where the bundle is written
    #[arg(default_value = "remint-support.tar.gz")]
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<(), Failure> {
    let path = &arguments.file;
    let failed = |error: std::io::Error| Failure::new(format!("write {}: {error}", path.display()));
    // Before the work: a bundle takes seconds, since other DHCP servers are asked for.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        let hint = (error.kind() == std::io::ErrorKind::AlreadyExists)
            .then(|| "name another file, or remove that one".to_owned());
        Failure { hint, ..failed(error) }
    })?;
    let bundle = context.api().and_then(|api| api.bytes(PATH)).inspect_err(|_| drop(std::fs::remove_file(path)))?;
    file.write_all(&bundle).and_then(|()| file.sync_all()).map_err(failed)?;
    if context.json() {
        return output::json(&json!({ "file": path, "bytes": bundle.len() }));
    }
    output::line(format!("{}: {}", path.display(), output::size(bundle.len() as u64)));
    output::line(
        "It holds no keys, passwords, tokens or values of variables, but names, addresses and serial numbers of machines.",
    );
    Ok(())
}
